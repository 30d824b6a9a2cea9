"""Control payloads: CBOR maps (RFC 8949), guarded before they are decoded.

Invariants: what is read holds maps, lists, text, byte strings, integers of 64 bits, floats, true, false and
null; map keys are text or integers, each once; there are no tags, and at most 16 levels. So a decoded payload
stays within a small multiple of its bytes, and every other input is a FrameError BAD_PAYLOAD that says where.
"""

from __future__ import annotations

from collections.abc import Mapping

from kwire.hints import Any
from kwire.wire.frame import bad_payload
from kwire.words import plural

MAX_DEPTH = 16

_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _LIST, _MAP, _TAG, _SIMPLE = range(8)
_NAMES = (
    "an unsigned integer",
    "a negative integer",
    "a byte string",
    "text",
    "a list",
    "a map",
    "a tag",
    "",
)
_WIDTH = {24: 1, 25: 2, 26: 4, 27: 8}  # additional information → bytes of the argument after it
_INDEFINITE = 31
_BREAK = 0xFF
_CONSTANTS = (20, 21, 22)  # false, true, null
_FLOATS = (25, 26, 27)


def dumps(value: Mapping[Any, Any]) -> bytes:
    """Encode a map."""
    import cbor2

    return cbor2.dumps(value)


def loads_map(data: bytes, base: int = 0) -> dict[Any, Any]:
    """Decode a payload that is one CBOR map; `base` is its offset, counted into the offset of an error."""
    import cbor2

    end = _Guard(data, base).item(0, 0)
    if data[0] >> 5 != _MAP:
        raise bad_payload(base, _NAMES[data[0] >> 5] or "a simple value", "a CBOR map")
    if end != len(data):
        raise bad_payload(
            base + end, f"{plural(len(data) - end, 'byte')} after the map", "the end of the payload"
        )
    try:
        value: dict[Any, Any] = cbor2.loads(data)
    except (cbor2.CBORDecodeError, ValueError, TypeError, RecursionError) as error:  # pragma: no cover
        raise bad_payload(base, f"{error}", "CBOR") from error  # the guard was wrong, or cbor2 is
    return value


def spans(data: bytes) -> list[tuple[int, int]]:
    """Where each entry of a map that `loads_map` has read begins and ends: its key and its value together."""
    guard = _Guard(data, 0)
    _, _, count, at = guard.head(0)
    found: list[tuple[int, int]] = []
    while len(found) != count and data[at] != _BREAK:
        end = guard.item(guard.item(at, 0), 1)
        found.append((at, end))
        at = end
    return found


class _Guard:
    """One pass over the structure of an item: every count is held against the bytes that are left."""

    __slots__ = ("base", "data")

    def __init__(self, data: bytes, base: int) -> None:
        self.data = data
        self.base = base

    def item(self, at: int, depth: int) -> int:
        """Check the item at `at` and give where it ends."""
        data = self.data
        major, info, argument, after = self.head(at)
        if major in (_UNSIGNED, _NEGATIVE):
            return after
        if major in (_BYTES, _TEXT):
            return self.string(at, major, argument, after)
        if major in (_LIST, _MAP):
            if depth == MAX_DEPTH:
                raise bad_payload(self.base + at, "one more level", f"at most {MAX_DEPTH} levels")
            return self.container(at, major, argument, after, depth + 1)
        if major == _TAG:
            raise bad_payload(self.base + at, f"CBOR tag {argument}", "no tags")
        if info not in _CONSTANTS and info not in _FLOATS:
            raise bad_payload(self.base + at, f"CBOR byte {data[at]:#04x}", "a number, true, false or null")
        return after

    def head(self, at: int) -> tuple[int, int, int | None, int]:
        """Major type, additional information, argument (None where indefinite), and where the head ends."""
        data = self.data
        if at >= len(data):
            raise bad_payload(self.base + at, "the end of the payload", "a CBOR item")
        major, info = data[at] >> 5, data[at] & 31
        if info < 24:
            return major, info, info, at + 1
        if info in _WIDTH:
            after = at + 1 + _WIDTH[info]
            if after > len(data):
                raise bad_payload(
                    self.base + len(data), "the end of the payload", plural(_WIDTH[info], "byte")
                )
            return major, info, int.from_bytes(data[at + 1 : after], "big"), after
        if info == _INDEFINITE and major in (_BYTES, _TEXT, _LIST, _MAP):
            return major, info, None, at + 1
        raise bad_payload(self.base + at, f"CBOR byte {data[at]:#04x}", "a CBOR item")

    def string(self, at: int, major: int, size: int | None, start: int) -> int:
        """Check a byte string or text whose bytes, or chunks, begin at `start`."""
        data = self.data
        if size is None:
            while start < len(data) and data[start] != _BREAK:
                kind, _, size, first = self.head(start)
                if kind != major or size is None:
                    raise bad_payload(self.base + start, f"CBOR byte {data[start]:#04x}", _NAMES[major])
                start = self.string(start, major, size, first)
            return self.closed(start)
        if size > len(data) - start:
            raise bad_payload(
                self.base + at,
                f"{_NAMES[major]} of {plural(size, 'byte')}",
                plural(len(data) - start, "byte"),
            )
        if major == _TEXT:
            try:
                str(data[start : start + size], "utf-8")
            except UnicodeDecodeError as error:
                where = self.base + start + error.start
                raise bad_payload(where, f"byte {data[start + error.start]:#04x}", "UTF-8 text") from None
        return start + size

    def container(self, at: int, major: int, count: int | None, start: int, depth: int) -> int:
        """Check the items of a list or map that begin at `start`."""
        data = self.data
        if count is not None and count * (2 if major == _MAP else 1) > len(data) - start:
            found = f"{_NAMES[major]} of {count} items"
            raise bad_payload(self.base + at, found, f"what {plural(len(data) - start, 'byte')} can hold")
        keys: set[bytes] = set()
        done = 0
        while done != count:
            if count is None and start < len(data) and data[start] == _BREAK:
                break
            if major == _MAP:
                start = self.key(start, keys)
            start = self.item(start, depth)
            done += 1
        return start if count is not None else self.closed(start)

    def key(self, at: int, keys: set[bytes]) -> int:
        """Check a map's key at `at`: text or an integer that was not there before."""
        major, _, _, _ = self.head(at)
        if major not in (_UNSIGNED, _NEGATIVE, _TEXT):
            raise bad_payload(
                self.base + at, f"{_NAMES[major] or 'a simple value'} as a key", "text or integer"
            )
        end = self.item(at, 0)
        key = bytes(self.data[at:end])
        if key in keys:
            raise bad_payload(self.base + at, "the same key again", "each key once")
        keys.add(key)
        return end

    def closed(self, at: int) -> int:
        """The end of an indefinite item, whose break must stand at `at`."""
        if at >= len(self.data):
            raise bad_payload(self.base + at, "the end of the payload", "CBOR break 0xff")
        return at + 1
