"""Text for people: safe characters, wall-clock times, colours, what a terminal can take.

Invariants: no byte of a record can move a cursor, change a colour or end a line; colour only where somebody
looks and NO_COLOR is not set; times are local wall-clock time with nanoseconds.
"""

import os
import sys
import time

from kwire.hints import IO, Any
from kwire.lazy import NamedTuple

SECOND = 1_000_000_000
ELLIPSIS = "…"
UNREAD = "<unread>"
"""What stands for a value that could not be read."""

_LOOKS_LIKE = r"[nrt0e]|x(?:[01][0-9a-f]|7f)|u[0-9a-f]{4}|U[0-9a-f]{8}"
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\0": "\\0", "\x1b": "\\e"}


def _escape(char: str) -> str:
    if char.isprintable():
        return char
    if char in _SHORT:
        return _SHORT[char]
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was no UTF-8 in a word of the command line
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:  # from \\x80 on such an escape is a byte that was no UTF-8: `wire.fields.text`
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def safe(text: str) -> str:
    """The text with every character that is not printable (controls, direction marks …) as an escape.

    Different texts stay different: backslashes right before an escape, or what looks like one, stand twice.
    """
    if "\\" in text:
        text = _doubled(text)
    if text.isprintable():
        return text
    return "".join(map(_escape, text))


def line(text: str) -> str:
    """A message as one line: what is not printable is an escape; what is one already stays as it is."""
    return text if text.isprintable() else "".join(map(_escape, text))


def _doubled(text: str) -> str:
    """The text with its backslashes twice where what follows them is, or looks like, an escape of `safe`.

    A match begins only where a run of backslashes does: else a long run would take its length squared.
    """
    import re

    text = re.sub(rf"(?<!\\)\\++(?={_LOOKS_LIKE})", r"\g<0>\g<0>", text)
    if text.isprintable():
        return text
    pattern = r"(?<!\\)(\\++)([^ -~])"
    return re.sub(pattern, lambda run: run[0] if run[2].isprintable() else run[1] + run[0], text)


def quoted(text: str) -> str:
    """Safe text that is one word: in double quotes where it is empty or has blanks, quotes or `=`, or is
    `UNREAD`.
    """
    text = safe(text)
    special = " " in text or '"' in text or "=" in text or "," in text
    if text and not special and text != UNREAD:
        return text
    if "\\" in text:
        import re

        text = re.sub(r'(?<!\\)\\++(?="|$)', r"\g<0>\g<0>", text)
    return '"' + text.replace('"', '\\"') + '"'


def fit(text: str, width: int) -> str:
    """The text in at most `width` characters, the last one an ellipsis where it was longer."""
    return text if len(text) <= width else text[: max(0, width - 1)] + ELLIPSIS


def utc_offset(second: int) -> int:
    """By how many seconds local time is ahead of UTC at a second since 1970; 0 where no calendar reaches."""
    try:
        return time.localtime(second).tm_gmtoff
    except (OverflowError, ValueError, OSError):
        return 0


def offset_text(seconds: int) -> str:
    """An offset from UTC as ISO 8601 writes it: `+05:30`."""
    minutes = abs(seconds) // 60
    return f"{'-' if seconds < 0 else '+'}{minutes // 60:02d}:{minutes % 60:02d}"


class WallClock:
    """Turns wall-clock nanoseconds into `HH:MM:SS.nnnnnnnnn` and dates; the last second is remembered.

    Times are local time, dates come with its offset from UTC.
    """

    __slots__ = ("_second", "_text", "date", "offset")

    def __init__(self) -> None:
        self._second: int | None = None
        self._text = ""
        self.date = ""  # of the last time given, with the offset from UTC: 2026-03-01 +01:00
        self.offset = ""

    def time(self, ns: int) -> str:
        """The time of day, local time."""
        second, rest = divmod(ns, SECOND)
        if second != self._second:
            self._second = second
            try:
                local = time.localtime(second)
                self._text = time.strftime("%H:%M:%S", local)
                self.offset = offset_text(local.tm_gmtoff)
                self.date = time.strftime("%Y-%m-%d ", local) + self.offset
            except (OverflowError, ValueError, OSError):
                self._text, self.date, self.offset = str(second), "an impossible date", ""
        return f"{self._text}.{rest:09d}"

    def day(self, ns: int) -> range:
        """The nanoseconds of the day that this time is in; of its hour, where clocks are set in that day."""
        self.time(ns)
        hour, minute, second = (
            (int(part) for part in self._text.split(":")) if ":" in self._text else (0, 0, 0)
        )
        length, start = 86400, ns // SECOND - hour * 3600 - minute * 60 - second
        if utc_offset(start) != utc_offset(start + length):
            length, start = 3600, ns // SECOND - minute * 60 - second
        return range(start * SECOND, (start + length) * SECOND)

    def moment(self, ns: int) -> str:
        """Date, time and offset from UTC: `2026-03-01 12:30:00.000000000+01:00`."""
        text = self.time(ns)
        return f"{self.date.split(' ')[0]} {text}{self.offset}"


class Style(NamedTuple):
    """How to write for whoever reads: colours or not, the width to keep to (0: any)."""

    color: bool = False
    width: int = 0

    def paint(self, text: str, code: str) -> str:
        """The text in a colour: an SGR code such as "31"."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.color and text else text


def style(stream: IO[Any] | None = None) -> Style:
    """The style for a stream (standard output): colour and width only for a terminal."""
    stream = sys.stdout if stream is None else stream
    try:
        if not stream.isatty():
            return Style()
        width = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        return Style()
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    return Style(not plain, width)
