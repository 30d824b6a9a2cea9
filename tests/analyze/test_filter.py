"""Conditions over whole columns agree with those over single events, whatever is asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kwire.analyze.scan import wall_times
from kwire.errors import KwireError
from kwire.view.filter import Events, probes_named, time_range, vector
from kwire.view.where import Where

NUMBERS = ("pid", "cpu", "state", "mode", "address", "caller", "big", "small", "ok", "time_ns")
TEXTS = ("comm", "source", "peer", "mac", "fixed", "path", "probe", "state", "mode", "caller")
CONSTANTS = (
    "0", "1", "2", "-1", "100", "101", "255", "256", "4097", "0xffff888000000003", str((1 << 64) - 1),
    str(-(1 << 63)), str(1 << 70), str(-(1 << 70)), "1700000000000000005", "True",
)  # fmt: skip
WORDS = (
    "c1", "", "10.0.0.3", "2001:db8::2", "02:00:00:00:00:04", "ab", "/é", "/tmp/\\\\xff", "RUNNING", "READ",
    "start+0x4", "start", "kprobe:vfs_open(path)", "nosuch",
)  # fmt: skip

comparison = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
numeric = st.builds("{} {} {}".format, st.sampled_from(NUMBERS), comparison, st.sampled_from(CONSTANTS))
mirrored = st.builds("{} {} {}".format, st.sampled_from(CONSTANTS), comparison, st.sampled_from(NUMBERS))
chained = st.builds(
    "{} <= {} < {}".format, st.sampled_from(CONSTANTS), st.sampled_from(NUMBERS), st.sampled_from(CONSTANTS)
)
masked = st.builds("{} & {} {} {}".format, st.sampled_from(NUMBERS), st.sampled_from(("1", "6", "0xffff")),
                   st.sampled_from(["==", "!="]), st.sampled_from(("0", "1", "2")))  # fmt: skip
textual = st.builds(
    '{} {} "{}"'.format, st.sampled_from(TEXTS), st.sampled_from(["==", "!=", "<"]), st.sampled_from(WORDS)
)
others = st.sampled_from(
    [
        "pid", "not ok", "numbers[0] > 2", "pid + 1 == cpu + 101", "data == '0001'", "big == small",
        "pid == tid", "path ~ '/*'", "str(path, 1) == '/'", "path.endswith('x')", "'t' in path",
        "comm ~ 'c[1-3]'", "(small - 3) // 2 < -1", "(pid - 120) % 7 == 3", "big * pid > small",
        "-pid < small", "~cpu == -1", "u8(pid) == 102", "big // (pid - 105) == 0", "pid << cpu == 808",
        "small >> 1 < 0", "numbers[cpu] > 3", "ok < 2", "(ok or pid > 120) == ok", "comm", "path < comm",
        "min(pid, 110) > 105", "lump == '01000000'", "(pid if ok else cpu) > 50",
    ]
)  # fmt: skip
leaf = st.one_of(numeric, mirrored, chained, masked, textual, others)
condition = st.recursive(
    leaf,
    lambda inner: st.one_of(
        st.builds("({} and {})".format, inner, inner),
        st.builds("({} or {})".format, inner, inner),
        st.builds("(not {})".format, inner),
    ),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def events(kit: Any) -> dict[str, Events]:
    made = {}
    for order in ("little", "big"):
        schema = kit.schema(order=order)
        frames = kit.frames(
            *(kit.event(schema, kit.monotonic + number, kit.rich(number)) for number in range(40))
        )
        times = np.arange(40, dtype=np.uint64) + np.uint64(kit.monotonic)
        made[order] = Events(schema, frames, wall_times(schema, times))
    return made


@settings(max_examples=600, deadline=None)
@given(text=condition, order=st.sampled_from(["little", "big"]))
@example(text="source == '10.0.0.3'", order="big")
@example(text='path == "/tmp/\\\\xff"', order="little")
def test_columns_and_events_agree(events: dict[str, Events], text: str, order: str) -> None:
    some = events[order]
    where = Where(text)
    try:
        where.check([some.schema])
    except KwireError:
        return  # no condition at all
    test, decode = where.test(some.schema), some.schema.decoder()
    expected = [
        test(time, decode(some.frames.frame_bytes(at))) for at, time in enumerate(some.times.tolist())
    ]
    fast = vector(where, some.schema)
    if fast is not None:
        assert fast(some).tolist() == expected
    low, high = time_range(where)
    named = probes_named(where)
    for time, wanted in zip(some.times.tolist(), expected, strict=True):
        if wanted:
            assert low is None or low <= time
            assert high is None or time <= high
            assert named is None or some.schema.probe in named


@pytest.mark.parametrize(
    "text", ["pid == 101", "comm == 'c1'", "time_ns >= 5", "state == 'RUNNING'", "mode & 2 != 0 and not ok",
             "caller == 'start'", "source != '10.0.0.1' or cpu", "nosuch == 1"]
)  # fmt: skip
def test_the_usual_conditions_need_no_event_by_event(events: dict[str, Events], text: str) -> None:
    assert vector(Where(text), events["little"].schema) is not None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("time_ns > 5 and pid == 1 and time_ns <= 9", (6, 9)),
        ("5 <= time_ns < 9", (5, 8)),
        ("time_ns == 7", (7, 7)),
        ("time_ns > 5 or pid == 1", (None, None)),
        ("not time_ns > 5", (None, None)),
        ("9 > time_ns", (None, 8)),
    ],
)
def test_ranges_of_time_are_found(text: str, expected: tuple[int | None, int | None]) -> None:
    assert time_range(Where(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("probe == 'a' and pid == 1", {"a"}),
        ("probe == 'a' or 'b' == probe", {"a", "b"}),
        ("probe == 'a' and probe == 'b'", set()),
        ("probe == 'a' or pid == 1", None),
        ("probe != 'a'", None),
    ],
)
def test_probes_are_found(text: str, expected: set[str] | None) -> None:
    assert probes_named(Where(text)) == expected


def test_text_that_ends_in_nul_is_another(kit: Any) -> None:
    schema = kit.schema(1, "kprobe:f", (("s", "str", 1, ""), ("n", "u8", 1, "")))
    frames = kit.frames(
        kit.event(schema, 1, (b"a\0", 1)), kit.event(schema, 2, (b"a", 2)), kit.event(schema, 3, (b"", 3))
    )
    events = Events(schema, frames, np.arange(3))
    for text, expected in (("s == 'a'", [False, True, False]), ("s == ''", [False, False, True])):
        fast = vector(Where(text), schema)
        assert fast is not None
        assert fast(events).tolist() == expected
