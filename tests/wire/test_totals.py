"""Totals: what is told is what is read, in frames of any size; what is not sound is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwire.wire import cbor
from kwire.wire.frame import FrameError, Type, build, inspect
from kwire.wire.messages import read_totals, totals_frames

PROBES = st.dictionaries(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), max_size=200)


@given(PROBES, st.integers(100, 65480))
def test_what_is_told_is_read(produced: dict[int, int], limit: int) -> None:
    frames = totals_frames(produced, limit)
    read: dict[int, int] = {}
    for index, data in enumerate(frames):
        assert len(data) <= limit
        frame, problems = inspect(data)
        assert frame is not None
        assert not problems
        assert cbor.loads_map(frame.payload).get("more", False) == (index < len(frames) - 1)
        part = read_totals(frame)
        assert not part.keys() & read.keys()
        read |= part
    assert read == produced


@pytest.mark.parametrize(
    "value", [{"produced": 1}, {"produced": {"a": 1}}, {"produced": {1: -1}}, {"produced": {1: "x"}}]
)
def test_what_is_not_sound_is_refused(value: dict[str, object]) -> None:
    frame, _ = inspect(build(Type.TABLE, 0, cbor.dumps(value)))
    assert frame is not None
    with pytest.raises(FrameError):
        read_totals(frame)
