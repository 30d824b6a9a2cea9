"""Hex as people paste it, turned back into bytes.

The dresses: plain digits with any blanks, colons or commas between; 0x-prefixed numbers and C arrays; \\x
escapes; the dumps of xxd, hexdump -C, tshark -x, tcpdump -x and -X, with their offsets, ASCII columns,
repeated-line stars and summary lines. Invariants: a character that does not belong is named with its place, a
dump whose offsets do not follow each other is refused, and nothing is guessed about byte order.
"""

from __future__ import annotations

import re

from kwire.errors import KwireError

MAX_BYTES = 64 << 20  # what a star in a dump may blow up to

_DIGITS = frozenset("0123456789abcdefABCDEF")
_BETWEEN = frozenset(" \t\r\n\f\v,;:")
# Offsets end with a colon (xxd, tcpdump), or stand before two blanks (hexdump -C, tshark) or one (od -A x).
_COLON = re.compile(r"[ \t]*(?:0[xX])?([0-9a-fA-F]{4,16}):[ \t]+")
_BLANKS = re.compile(r"[ \t]*([0-9a-fA-F]{4,16})[ \t]{2}[ \t]*|[ \t]*([0-9a-fA-F]{6})[ \t]")
_ALONE = re.compile(r"[ \t]*([0-9a-fA-F]{4,16})[ \t]*")
_SWAPPED = re.compile(r"0{7}( [0-9a-f]{4})+[ \t]*\r?\n?", re.ASCII)


class HexError(KwireError):
    """Text that is not hex; `position` counts characters from 1."""

    def __init__(self, text: str, at: int, cause: str, cure: str = "") -> None:
        line = text.count("\n", 0, at) + 1
        self.position = at + 1
        if "\n" in text.strip():
            where = f"line {line}, column {at - (text.rfind(chr(10), 0, at) + 1) + 1}"
        else:
            where = f"position {self.position}"
        super().__init__("read hex", where, cause, cure)


def parse(text: str) -> bytes:
    """The bytes that `text` shows. HexError where it is not hex."""
    first = text.lstrip("\r\n")
    if _SWAPPED.match(first) and not _BLANKS.match(first):
        raise HexError(text, 0, "this is hexdump without -C, which swaps bytes in pairs", "use hexdump -C")
    lines = text.splitlines(keepends=True)
    colon = [_COLON.match(line) is not None for line in lines]
    if any(colon):
        return _dump(text, lines, _COLON, skip_others=True)
    match = next((_BLANKS.match(line) for line in lines if line.strip()), None)
    if match and int(match.group(1) or match.group(2), 16) == 0:
        return _dump(text, lines, _BLANKS, skip_others=False)
    return _plain(text)


def _plain(text: str) -> bytes:
    """Digits, with separators, 0x or \\x before them, in braces or not."""
    start, end = 0, len(text)
    if "{" in text:  # a C array: only what is inside
        start = text.index("{") + 1
        end = text.index("}", start) if "}" in text[start:] else end
    out = bytearray()
    half = -1  # where a digit waits for the second one of its byte
    at = start
    while at < end:
        char = text[at]
        if (char == "0" and text[at + 1 : at + 2] in ("x", "X")) or char == "\\":
            if half >= 0:
                raise _odd(text, half)
            if char == "\\" and text[at + 1 : at + 2] not in ("x", "X"):
                raise _stranger(text, at)
            at = _number(text, at + 2, end, out)
        elif char in _DIGITS:
            if half < 0:
                half = at
            else:
                out.append(int(text[half] + char, 16))
                half = -1
            at += 1
        elif char in _BETWEEN:
            if half >= 0:
                raise _odd(text, half)
            at += 1
        else:
            raise _stranger(text, at)
    if half >= 0:
        raise _odd(text, half)
    if not out:
        raise HexError(text, 0, "there are no hex digits")
    return bytes(out)


def _number(text: str, at: int, end: int, out: bytearray) -> int:
    """The digits after a prefix: one alone is a byte too, as in 0x0; otherwise they come in pairs."""
    first = at
    while at < end and text[at] in _DIGITS:
        at += 1
        if text[at : at + 1] in ("x", "X") and text[at - 1] == "0" and at - first > 2:
            at -= 1  # 0x11000x22: the next number's own 0
            break
    digits = text[first:at]
    if not digits:
        raise (
            _stranger(text, at) if at < len(text) else HexError(text, at - 1, "digits are missing after 'x'")
        )
    if len(digits) > 1 and len(digits) & 1:
        raise _odd(text, at - 1)
    out += bytes.fromhex(digits.zfill(2))
    return at


def _dump(text: str, lines: list[str], offset: re.Pattern[str], skip_others: bool) -> bytes:
    """A dump with an offset on each line. Each packet of tcpdump begins at offset 0 again."""
    packets = [bytearray()]
    row = b""
    starred = False
    summary, fresh = "", True  # the line before a packet, and whether it is this packet's
    doubled: set[int] = set()  # packets that may be the one before, printed again
    begin = 0
    for line in lines:
        place, begin = begin, begin + len(line)
        match = offset.match(line)
        found = match or _ALONE.fullmatch(line.rstrip("\r\n"))
        if line.strip() == "*" and row:
            starred = True
        elif found:
            where = int(next(group for group in found.groups() if group), 16)
            if starred:
                _repeat(text, place, packets[-1], row, where - len(packets[-1]))
                starred = False
            if match and where == 0 and packets[-1]:
                if summary.endswith("UNSUPPORTED") and not fresh:
                    doubled.add(len(packets))
                packets.append(bytearray())
            if where != len(packets[-1]):
                cause = f"offset {where:#x} stands where {len(packets[-1]):#x} should"
                raise HexError(text, place, cause, "lines are missing")
            row = _row(text, place + found.end(), line[found.end() :], offset is _COLON) if match else b""
            packets[-1] += row
            fresh = False
        elif line.strip():
            if not skip_others:
                raise _stranger(text, place + len(line) - len(line.lstrip()))
            summary, fresh = line.strip(), True
    # tcpdump prints a packet of a link type it does not know, such as USER0, twice.
    for number in sorted(doubled, reverse=True):
        if packets[number] == packets[number - 1]:
            del packets[number]
    out = b"".join(packets)
    if not out:
        raise HexError(text, 0, "there are no hex digits")
    return out


def _row(text: str, place: int, line: str, colon: bool) -> bytes:
    """The bytes of one line, up to its ASCII column."""
    line = line.rstrip("\r\n")
    if colon:  # groups of one to four bytes, one blank between, two before the ASCII
        line = line.split("  ", 1)[0]
    else:  # pairs, one or two blanks between, at most sixteen; then three blanks or a mark
        line = re.split(r"[|>]| {3}", line, maxsplit=1)[0]
    out = bytearray()
    at = 0
    while at < len(line):
        if line[at] in " \t":
            at += 1
            continue
        for char in line[at : at + 2].ljust(2):
            if char not in _DIGITS:
                bad = at + line[at : at + 2].ljust(2).index(char)
                if bad >= len(line) or line[bad] in " \t":
                    raise _odd(text, place + at)
                raise _stranger(text, place + bad)
        out.append(int(line[at : at + 2], 16))
        at += 2
    return bytes(out)


def _repeat(text: str, place: int, out: bytearray, row: bytes, missing: int) -> None:
    """What a star stands for: the row before it, up to the next offset."""
    if missing < 0 or missing % len(row) or len(out) + missing > MAX_BYTES:
        raise HexError(text, place, "the offset after '*' does not fit the lines it stands for")
    out += row * (missing // len(row))


def _stranger(text: str, at: int) -> HexError:
    return HexError(text, at, f"{text[at]!r} is not a hex digit")


def _odd(text: str, at: int) -> HexError:
    return HexError(text, at, f"digit {text[at]!r} stands alone: a byte has two")
