"""How events are printed: the formats of C's `printf` in a SCHEMA, and what they take.

Invariants: a format has one conversion a field, in the fields' order; what is no conversion is text, and `%%`
a percent sign. A format that does not fit its fields is refused when it is made and when it is read, so
printing never fails.
"""

from __future__ import annotations

from collections.abc import Sequence

from kwire.hints import Final
from kwire.lazy import NamedTuple
from kwire.wire.fields import TYPES, Field

PRINTED: Final = {
    "printf": "the format's text, with each field in the place of its conversion",
    "value": "the same, of one value; as JSON it is that value",
    "join": "the fields, which are texts, up to one that could not be read, the format between; a line",
    "cat": "a file that was read then; its name is as with printf",
    "system": "what a command of the shell printed that was run then; it is as with printf",
    "errorf": "an error, as with printf",
    "warnf": "a warning, as with printf",
    "time": "the event's wall-clock time, local, in the format of strftime; %f: microseconds",
    "print": "what a map held, as the TABLE behind it says: the format is its name, and the print's limits",
    "map": "what a map held is printed as bpftrace prints it",
    "clear": "nothing: a map was emptied then, which the format names",
    "zero": "nothing: all values of a map became 0 then, which the format names",
}
"""The ways to print an event."""

FORMATTED: Final = frozenset({"printf", "value", "cat", "system", "errorf", "warnf"})
"""Those with a conversion a field in their format."""

OF_MAPS: Final = frozenset({"print", "clear", "zero"})
"""Those whose format names a map (`OfMap`)."""

WIDTH_MOST: Final = 4096
"""Characters that a conversion may be made wide, and digits that it may be made precise."""

_FLAGS: Final = "-+ #0"
_LENGTHS: Final = "hlLjzt"
_DIGITS: Final = "0123456789"
CONVERSIONS: Final = ("gr", "rx", "rh", "d", "i", "u", "o", "x", "X", "c", "s", "p", "r")
"""The letters of the conversions, longer ones first."""

INTEGERS: Final = frozenset("diuoxXcp") | {"gr"}
"""Conversions that take an integer."""

BITS: Final = {"hh": 8, "h": 16, "": 32}
"""How many bits of an integer each length takes; every other one takes 64."""


class OfMap(NamedTuple):
    """What the format of "print", "clear" and "zero" says: the map's name; of a print how many entries, those
    with the greatest values (0: all), by what values are divided, and whether the map is emptied with it (1).
    """

    name: str
    top: int = 0
    div: int = 1
    emptied: int = 0

    @classmethod
    def read(cls, format: str) -> OfMap:
        """From a format."""
        name, *limits = format.split(" ")
        return cls(name, *map(int, limits[:3]))


class Conversion(NamedTuple):
    """`%` and what follows. `precision` is -1 where there is none."""

    letters: str
    flags: str = ""
    width: int = 0
    precision: int = -1
    length: str = ""

    @property
    def text(self) -> str:
        """As it is written."""
        width = str(self.width) if self.width else ""
        precision = f".{self.precision}" if self.precision >= 0 else ""
        return f"%{self.flags}{width}{precision}{self.length}{self.letters}"


class FormatError(ValueError):
    """What is wrong with a format, in words."""


def split(format: str) -> tuple[list[str], list[Conversion]]:
    """A format as texts and the conversions between them, of which there is one fewer. FormatError."""
    texts: list[str] = []
    found: list[Conversion] = []
    text, at = "", 0
    while True:
        percent = format.find("%", at)
        if percent < 0:
            texts.append(text + format[at:])
            return texts, found
        text += format[at:percent]
        if format.startswith("%%", percent):
            text, at = text + "%", percent + 2
            continue
        conversion, at = _conversion(format, percent + 1)
        texts.append(text)
        found.append(conversion)
        text = ""


def _conversion(format: str, at: int) -> tuple[Conversion, int]:
    start = at
    while format[at : at + 1] in _FLAGS and at < len(format):
        at += 1
    flags = format[start:at]
    width, at = _number(format, at)
    precision = -1
    if format.startswith(".", at):
        precision, at = _number(format, at + 1)
    first = at
    while format[at : at + 1] in _LENGTHS and at < len(format):
        at += 1
    length = format[first:at]
    for letters in CONVERSIONS:
        if format.startswith(letters, at):
            return Conversion(letters, flags, width, precision, length), at + len(letters)
    written = format[start - 1 : at + 1]
    raise FormatError(f"{written} is no conversion")


def _number(format: str, at: int) -> tuple[int, int]:
    start = at
    while format[at : at + 1] in _DIGITS and at < len(format):
        at += 1
    if at - start > 5 or int(format[start:at] or 0) > WIDTH_MOST:
        raise FormatError(f"a width or precision is at most {WIDTH_MOST}")
    return int(format[start:at] or 0), at


def accepts(conversion: Conversion, field: Field) -> bool:
    """Whether a conversion takes values of a field."""
    if conversion.letters == "s":
        return True
    kind = TYPES[field.type].kind
    if field.type == "stack":
        return False
    if conversion.letters in INTEGERS:
        return field.count == 1 and kind in ("int", "bool")
    return kind in ("bytes", "raw", "str", "text") or field.count > 1


def problem(prints: str, format: str, fields: Sequence[Field]) -> str:
    """What is wrong with how events of these fields are printed; empty where nothing is."""
    if prints in OF_MAPS:
        try:
            OfMap.read(format)
        except ValueError:
            return "format: the limits of a print are no numbers"
    if prints not in FORMATTED:  # of a way that came later events are shown as others are
        return ""
    try:
        conversions = split(format)[1]
    except FormatError as error:
        return f"format: {error}"
    if len(conversions) != len(fields):
        return f"format has {len(conversions)} conversions for {len(fields)} fields"
    for conversion, field in zip(conversions, fields, strict=True):
        if not accepts(conversion, field):
            return f"format: {conversion.text} does not take {field.name}, which is {field.type}"
    return ""
