"""Fuzz target: control payloads. What the guard lets through is decoded and holds what may be in them."""

from __future__ import annotations

from typing import Any

import fuzzing

from kwire.wire import cbor
from kwire.wire.frame import Code, FrameError

SEEDS = [
    cbor.dumps({}),
    cbor.dumps({"a": [1, -2, 1.5, None, True, {"b": b"x", "c": "é", 7: [[]]}], -5: "minus", "n": 2**64 - 1}),
    bytes.fromhex(
        "bf6161 9f01 ff 6162 7f 6178 6179 ff 6163 5f 4101 ff 6164 f97e00 6165 fb400921fb54442d18 ff"
    ),
    bytes.fromhex("a1 6161" + "81" * 14 + "80"),
    bytes.fromhex("a2 01 02 1801 03"),
    bytes.fromhex("bf 3bffffffffffffffff fa7f800000 20 f7 ff"),
]
FEW = 200_000  # items: what 4 KiB of payload can hold, many times over


def count(value: Any, depth: int) -> int:
    """How many items there are; each of a kind that is allowed."""
    assert depth <= cbor.MAX_DEPTH
    if isinstance(value, dict):
        assert all(type(key) in (int, str) for key in value)
        return 1 + sum(count(item, depth + 1) for item in value.values())
    if isinstance(value, list):
        return 1 + sum(count(item, depth + 1) for item in value)
    assert value is None or type(value) in (int, str, bytes, float, bool), type(value)
    return 1


def one_input(data: bytes) -> None:
    """Decode one payload; FrameError BAD_PAYLOAD, with an offset in it, is the only refusal."""
    try:
        value = cbor.loads_map(data, 8)
    except FrameError as error:
        fuzzing.check(error.problem.code == Code.BAD_PAYLOAD, "another code")
        fuzzing.check(8 <= error.problem.offset <= 8 + len(data), "an offset outside of the payload")
        fuzzing.check(error.__cause__ is None, "the guard let through what cbor2 refuses")
        return
    assert count(value, 0) <= min(FEW, 1 + len(data))
    again = cbor.loads_map(cbor.dumps(value))
    assert repr(again) == repr(value)


if __name__ == "__main__":
    fuzzing.main(one_input, SEEDS)
