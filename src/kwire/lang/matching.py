"""Tests of a text by its parts: `x.startswith("a")`, `x.endswith("b")`, `"c" in x`, `x ~ "a*[0-9]"`.

All are one pattern: pieces of bytes with any number of bytes between them. Invariants: texts are bytes, so
`?` stands for one byte; a pattern that the whole text can only equal, or only start with, is a comparison
(`checked.TextEqual`), which costs less.
"""

from collections.abc import Callable

from kwire.hints import TYPE_CHECKING
from kwire.lang import checked as c
from kwire.lang import types as t
from kwire.lang.comparisons import reach, text_of
from kwire.lang.errors import TextError
from kwire.lang.tree import Span
from kwire.lang.values import Literal, Value

if TYPE_CHECKING:
    import re

ANY: c.ByteSet = ((1, 255),)
"""`?`: every byte but the NUL."""

LONGEST_PIECE = 256
"""Bytes of a piece: each costs instructions."""


def match(op: str, text: Value, pattern: Value, span: Span) -> c.Expr:
    """`op` (one of `tree.MATCH`) of a text as 0 or 1. Raises `TextError`."""
    if not isinstance(pattern, Literal):
        raise TextError(pattern.span, "a text is searched for a constant text only", 'write "…"')
    wanted = pattern.value.encode("utf-8", "surrogateescape")
    if b"\0" in wanted:
        raise TextError(pattern.span, "a text ends at its first NUL and contains none")
    pieces = PIECES[op](wanted, pattern.span)
    if isinstance(text, Literal):
        return c.Const(
            int(regex(pieces).fullmatch(text.value.encode("utf-8", "surrogateescape")) is not None),
            t.BOOL,
            span,
        )
    found = text_of(text, span)
    longest = max(map(len, pieces))
    if longest > LONGEST_PIECE:
        raise TextError(pattern.span, f"{longest} bytes in a row are too many to search for", "")
    reach(found, sum(map(len, pieces)), pattern.span)
    literal = _literal(pieces[0])
    if len(pieces) == 1 and literal is not None:
        return c.TextEqual(found, literal, t.BOOL, span)
    if len(pieces) == 2 and literal is not None and not pieces[1]:
        if not literal:
            return c.Const(1, t.BOOL, span)
        start = found.replace(type=found.type.replace(limit=len(literal)))
        return c.TextEqual(start, literal, t.BOOL, span)
    return c.TextMatch(found, pieces, t.BOOL, span)


def glob(pattern: bytes, span: Span) -> tuple[c.Piece, ...]:
    """The pieces of a glob: `*` any bytes, `?` one, `[a-z]` and `[!a-z]` one of them or none of them."""
    pieces: list[list[c.ByteSet]] = [[]]
    at = 0
    while at < len(pattern):
        byte = pattern[at : at + 1]
        at += 1
        if byte == b"*":
            if pieces[-1] or len(pieces) == 1:
                pieces.append([])
        elif byte == b"?":
            pieces[-1].append(ANY)
        elif byte == b"[":
            end = pattern.find(b"]", at + 1 + pattern.startswith(b"!", at))
            if end < 0:
                raise TextError(span, "a [ of this pattern has no ]", "write [[] for the sign itself")
            pieces[-1].append(_set(pattern[at:end], span))
            at = end + 1
        else:
            pieces[-1].append(((byte[0], byte[0]),))
    return tuple(map(tuple, pieces))


def _set(inside: bytes, span: Span) -> c.ByteSet:
    """The bytes of `[…]`, as ranges in order."""
    if not inside.isascii():
        raise TextError(span, "[…] stands for one byte, and another script's letters have several", "use *")
    negated = inside.startswith(b"!")
    found: set[int] = set()
    rest = inside[1:] if negated else inside
    while rest:
        if rest[1:2] == b"-" and len(rest) > 2:
            if rest[0] > rest[2]:
                wrong = rest[:3].decode("utf-8", "replace")
                raise TextError(
                    span, f"[{wrong}] in this pattern holds nothing", "write the lesser one first"
                )
            found.update(range(rest[0], rest[2] + 1))
            rest = rest[3:]
        else:
            found.add(rest[0])
            rest = rest[1:]
    if negated:
        found = set(range(1, 256)) - found
    ranges: list[tuple[int, int]] = []
    for byte in sorted(found):
        if ranges and ranges[-1][1] == byte - 1:
            ranges[-1] = (ranges[-1][0], byte)
        else:
            ranges.append((byte, byte))
    return tuple(ranges)


def regex(pieces: tuple[c.Piece, ...]) -> "re.Pattern[bytes]":
    """The pattern as a regular expression that the whole text must match."""
    import re

    def one(choices: c.ByteSet) -> bytes:
        return b"[" + b"".join(b"\\x%02x-\\x%02x" % pair for pair in choices) + b"]"

    return re.compile(b".*".join(b"".join(map(one, piece)) for piece in pieces), re.DOTALL)


def _plain(text: bytes) -> c.Piece:
    return tuple(((byte, byte),) for byte in text)


def _literal(piece: c.Piece) -> bytes | None:
    """The bytes of a piece where each has one choice."""
    if all(len(one) == 1 and one[0][0] == one[0][1] for one in piece):
        return bytes(one[0][0] for one in piece)
    return None


PIECES: dict[str, Callable[[bytes, Span], tuple[c.Piece, ...]]] = {
    "startswith": lambda text, span: (_plain(text), ()),
    "endswith": lambda text, span: ((), _plain(text)),
    "contains": lambda text, span: ((), _plain(text), ()) if text else ((), ()),
    "glob": glob,
}
"""Operator → the pieces of its pattern."""
