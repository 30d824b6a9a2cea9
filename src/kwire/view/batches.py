"""Many events as lines at once, in C (native/lines.c): what formats of schemas are made of, and the lines.

Invariants: the lines are those that the format writes one by one, which is the specification; the format
itself writes what there is no part for, and events that are not plain (a text that is not ASCII or was cut, a
record that is not sound).
"""

from array import array
from collections.abc import Iterable, Sequence
from itertools import pairwise

from kwire import native
from kwire.hints import TYPE_CHECKING, Final
from kwire.lazy import NamedTuple
from kwire.wire.fields import TYPES, Field, crowds
from kwire.wire.frames import Frames
from kwire.wire.printf import BITS, Conversion

if TYPE_CHECKING:
    from kwire.wire.schema import Schema

TEXT, INTEGER, CHARACTER, TAIL, FIXED = range(5)
"""What a part of a line is."""

FLAGS: Final = {"-": 1, "0": 2, "+": 4, " ": 8, "#": 16}
"""A bit for each flag of a conversion."""

SWAP: Final = 32
"""The flag of a field whose bytes are in another order than the machine's."""

LINES: Final = 16384
"""Lines made at once, at most."""

ROOM: Final = 1 << 20
"""Bytes of lines made at once, at most."""

FEW, MORE = 32, 1024
"""Where fewer events than FEW were made at once before one that is not plain, the next MORE are written one
by one.
"""


class LinePart(NamedTuple):
    """What stands in a line: a text, or a field in the way of a conversion."""

    text: str = ""
    field: Field | None = None
    conversion: Conversion = Conversion("s")
    named: bool = False
    """Whether the field's values have names, which `%s` shows."""


class LineRun(NamedTuple):
    """Lines of events in the order in which they were made: their text, where each line ends, and the
    wall-clock time of each, ns less `wall`; `ordered`: whether the times only grow.
    """

    text: bytes
    ends: memoryview
    times: memoryview
    wall: int
    ordered: bool

    @property
    def last(self) -> int:
        """The last time."""
        return int(self.times[-1]) + self.wall

    def rows(self) -> list[tuple[int, str, bool]]:
        """The same as rows of their own; see `render.Row`."""
        text, wall, ends = self.text.decode("ascii"), self.wall, self.ends.tolist()
        return [
            (time + wall, text[start:end], True)
            for time, start, end in zip(self.times.tolist(), [0, *ends], ends, strict=False)
        ]


def together(runs: Sequence[LineRun]) -> str | None:
    """The text of runs in order of time; None where the times of one do not only grow."""
    if not all(run.ordered and run.wall == runs[0].wall for run in runs):
        return None
    if all(a.times[-1] <= b.times[0] for a, b in pairwise(runs)):
        return b"".join([run.text for run in runs]).decode("ascii")
    assert native.merge_lines is not None, "the lines were made by the same library"
    text = bytearray(sum(len(run.text) for run in runs))
    native.merge_lines([(run.text, run.ends, run.times) for run in runs], text)
    return text.decode("ascii")


class Batches:
    """Makes lines of events of these schemas; `parts`: what the lines of each are made of, None: not here."""

    __slots__ = ("_ends", "_parts", "_room", "_shapes", "_texts", "_times", "_wall")

    def __init__(self, parts: "Iterable[tuple[Schema, Sequence[LinePart] | None]]") -> None:
        shapes, made, texts = array("Q"), array("Q"), bytearray()
        self._wall = 0
        for schema, all_parts in parts:
            words = _words(schema, all_parts, texts) if all_parts is not None else None
            if words is None or (shapes and schema.wall(0) != self._wall):
                continue
            self._wall = schema.wall(0)
            shapes.extend((schema.id, len(made) // native.PART_WORDS, len(words), schema.size))
            for one in words:
                made.extend(one)
        self._shapes, self._parts, self._texts = shapes, made, bytes(texts)
        self._room = bytearray(ROOM if shapes else 0)
        self._ends = array("Q", bytes(8 * LINES if shapes else 0))
        self._times = array("Q", bytes(8 * LINES if shapes else 0))

    def lines(self, frames: Frames, start: int) -> LineRun | None:
        """The lines of the frames from `start` to the first that is left; None where that is the first."""
        if not self._shapes or native.print_lines is None:
            return None
        done, used, ordered = native.print_lines(
            frames.data,
            memoryview(frames.offsets)[start : frames.count],
            frames.count - start,
            self._shapes,
            self._parts,
            self._texts,
            *(self._room, self._ends, self._times),
        )
        if not done:
            return None
        with memoryview(self._ends) as ends, memoryview(self._times) as times:
            return LineRun(
                bytes(self._room[:used]), _copy(ends[:done]), _copy(times[:done]), self._wall, ordered
            )


def _copy(numbers: memoryview) -> memoryview:
    return memoryview(bytes(numbers)).cast("Q")


def _words(schema: "Schema", parts: Sequence[LinePart], texts: bytearray) -> list[tuple[int, ...]] | None:
    """The parts as C takes them; None where one of them is not for it."""
    if schema.order != native.ORDER or crowds(schema.fields):
        return None
    made: list[tuple[int, ...]] = []
    for part in parts:
        words = _of_text(part.text, texts) if part.field is None else _of_field(part, part.field)
        if words is None:
            return None
        made.append(words)
    return made


def _of_text(text: str, texts: bytearray) -> tuple[int, ...] | None:
    if not text.isascii():
        return None
    words = (TEXT, len(texts), len(text), 0, 0, 0, 0, 0, 0)
    texts += text.encode()
    return words


def _of_field(part: LinePart, field: Field) -> tuple[int, ...] | None:
    letters, flags, width, precision, length = part.conversion
    rule = TYPES[field.type]
    if field.count != 1:
        return None
    bits = sum(FLAGS[flag] for flag in set(flags))
    place = (field.offset, field.size)
    if letters == "s" and rule.kind in ("str", "text"):
        kind = TAIL if rule.kind == "str" else FIXED
        return (kind, *place, 0, 0, 0, bits & FLAGS["-"], width, precision + 1)
    if rule.kind != "int":
        return None
    if letters == "s" and not part.named and precision < 0:
        letter = "d" if rule.signed else "u"
        return (INTEGER, *place, rule.signed, ord(letter), 64, bits & FLAGS["-"], width, 0)
    if letters == "c" and "0" not in flags:
        return (CHARACTER, *place, rule.signed, 0, 0, bits, width, 0)
    if letters in ("d", "i", "u", "o", "x", "X"):
        letter = "d" if letters == "i" else letters
        return (INTEGER, *place, rule.signed, ord(letter), BITS.get(length, 64), bits, width, precision + 1)
    return None
