"""Events as the lines that a script printed: each in the format of its schema.

Invariants: the text is the same live and from a capture, anywhere: formats, names and clock are the schema's.
On a terminal no value can move a cursor or change a colour; elsewhere it is written as it is. Numbers, texts
and names are as bpftrace prints them, and formats mean what they mean in C.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile

from kwire.hints import TYPE_CHECKING, Any, Final
from kwire.lazy import pattern
from kwire.view.batches import LinePart
from kwire.view.render import Row, Values
from kwire.view.stacks import text
from kwire.view.text import safe
from kwire.view.values import bare, flags, moment, scalar_name, strftime
from kwire.wire.fields import TIMES, TYPES, CutStr, Field, UnreadBytes, UnreadStr, text_bytes
from kwire.wire.messages import Lost
from kwire.wire.printf import BITS, FORMATTED, PRINTED, Conversion, split
from kwire.wire.schema import Labels, Schema
from kwire.wire.tables import MapTable

if TYPE_CHECKING:
    import re

TEXTS: Final = frozenset({"printf", "time", "join", "cat", "system", "errorf", "warnf"})
"""What is a text in JSON."""

ALLOCATIONS: Final = "names of flags of allocations"
"""The table of the flags that %gr shows."""

OTHERS: Final = {"signal numbers": "N/A"}
"""What stands for numbers that have no name, by the title of those that have; elsewhere the number does."""

TRAILER: Final = ".."
"""What stands behind a text that was cut."""

Shown = Callable[[Any], str]
Act = Callable[[str, str], str]


def are_printed(schemas: Iterable[Schema]) -> bool:
    """Whether these are the schemas of printed events: all of them, and at least one. Those of events that
    only change maps have no fields, and do not count.
    """
    events = [schema for schema in schemas if schema.map is None or schema.prints]
    known = [schema.prints in PRINTED for schema in events if schema.prints or schema.fields]
    return bool(known) and all(known)


class Printed:
    """The format; see `view.render.Format`. `terminal`: whether what is written is for one; `act`: while the
    script runs, what reads files, runs commands and tells errors, given which of these and a text; otherwise
    None.
    """

    END: str = ""
    _JSON: bool = False
    __slots__ = ("_act", "_terminal")

    def __init__(self, *, terminal: bool, act: Act | None = None) -> None:
        self._terminal = terminal
        self._act = act

    def event(self, schema: Schema) -> Callable[[int, Values], str]:
        """The function from (wall-clock ns, values) to the text."""
        prints, format, act = schema.prints, schema.format, self._act
        if prints == "time":
            return lambda time, values: strftime(format, time)
        if prints == "join":
            return lambda time, values: f"{format.join(takewhile(_was_read, values))}\n"
        if prints in FORMATTED:
            made = self._formatted(schema)
            if prints in ("printf", "value"):
                return made
            if act is not None:
                return lambda time, values: act(prints, made(time, values))
            if prints in ("errorf", "warnf"):
                return made
            return lambda time, values: (
                f"<{prints} of {safe(made(time, values))}: it is not kept in captures>\n"
            )
        return lambda time, values: ""  # what is printed of a map is in the TABLE behind it

    def _formatted(self, schema: Schema) -> Callable[[int, Values], str]:
        """The function that puts values into the format."""
        texts, conversions = split(schema.format)
        if not conversions:
            return lambda time, values: texts[0]
        labels = Labels(schema)
        template = "".join(f"{text.replace('%', '%%')}%s" for text in texts[:-1]) + texts[-1].replace(
            "%", "%%"
        )
        shown = [
            self._shown(conversion, schema, field, labels)
            for conversion, field in zip(conversions, schema.fields, strict=True)
        ]
        if len(shown) == 1:
            [one] = shown
            return lambda time, values: template % one(values[0])
        return lambda time, values: (
            template % tuple([show(value) for show, value in zip(shown, values, strict=True)])
        )

    def _shown(self, conversion: Conversion, schema: Schema, field: Field, labels: Labels) -> Shown:
        if conversion.letters == "s":
            show = as_text(schema, field, labels)
        elif conversion.letters in ("r", "rx", "rh"):
            show = _buffer(conversion.letters)
        else:
            return _integer(conversion)
        width, precision = conversion.width, conversion.precision
        if "-" in conversion.flags:
            width = -width
        terminal = self._terminal

        def text(value: Any) -> str:
            made = show(value)
            if terminal:
                made = safe(made)
            if precision >= 0:
                made = made[:precision]
            return made.rjust(width) if width > 0 else made.ljust(-width)

        return text

    def bad(self, time: int | None, id: int, schema: Schema | None, why: str) -> str:
        """A line that says so."""
        return f"<event of probe {id} that cannot be decoded: {safe(why)}>\n"

    def lost(self, time: int | None, schema: Schema | None, loss: Lost) -> None:
        """Nothing: who shows events says at the end what was lost."""

    def table(self, time: int, schema: Schema, held: MapTable) -> str:
        """The lines of a map."""
        from kwire.view.scriptmaps import printed

        json = as_json if self._JSON else None
        return printed(schema, held, as_text, json, clean=safe if self._terminal else str)

    def left(self, held: Sequence[tuple[Schema, MapTable]]) -> str:
        """What stands at the end: of each map that is left, its lines; of a map that is none of a script, as
        elsewhere.
        """
        own = [one for one in held if one[0].prints]
        made = [self.table(0, schema, table) for schema, table in own]
        others = [one for one in held if not one[0].prints]
        if others:
            from kwire.view.maps import described, titled

            made += ("\n".join(["", *titled(described(*one)), ""]) for one in others)
        return "".join(["" if self._JSON or (others and not own) else "\n\n", *made])

    def lines(self, rows: Sequence[Row]) -> list[str]:
        """What was made of each."""
        return [line for _, line, _ in rows]

    def parts(self, schema: Schema) -> Sequence[LinePart] | None:
        """What a line is made of, where it is a format and for no terminal."""
        if self._terminal or schema.prints not in ("printf", "value"):
            return None
        texts, conversions = split(schema.format)
        labels = Labels(schema)
        made = [LinePart(texts[0])]
        for conversion, field, behind in zip(conversions, schema.fields, texts[1:], strict=True):
            plain = as_text(schema, field, labels) is str
            made += [LinePart("", field, conversion, named=not plain), LinePart(behind)]
        return made


class PrintedJson(Printed):
    """The same as JSON: an object with the text a line."""

    _JSON: bool = True
    __slots__ = ()

    def __init__(self, act: Act | None = None) -> None:
        super().__init__(terminal=False, act=act)

    def parts(self, schema: Schema) -> Sequence[LinePart] | None:
        """Objects are made one by one."""
        return None

    def event(self, schema: Schema) -> Callable[[int, Values], str]:
        """The function from (wall-clock ns, values) to the object."""
        from json.encoder import encode_basestring as quote

        kind = schema.prints
        text = self._formatted(schema) if kind in ("errorf", "warnf") else super().event(schema)
        if kind == "value":
            labels, template = Labels(schema), f'{{"type": "value", "data": {in_json(schema.format)}}}\n'
            shown = [as_json(schema, field, labels) for field in schema.fields]
            return lambda time, values: (
                template % tuple([show(value) for show, value in zip(shown, values, strict=True)])
            )
        if kind not in TEXTS:
            return text
        if kind == "join":  # which stands on a line of its own as text
            return lambda time, values: f'{{"type": "join", "data": {quote(text(time, values)[:-1])}}}\n'
        kind = "syscall" if kind == "system" else kind
        return lambda time, values: f'{{"type": "{kind}", "data": {quote(text(time, values))}}}\n'


def as_json(schema: Schema, field: Field, labels: Labels) -> Shown:
    """The function that gives a value as JSON: a number, of an enumeration of C too, a truth value, or its
    text.
    """
    from json.encoder import encode_basestring as quote

    one, kind = _scalar_text(schema, field, labels), TYPES[field.type].kind
    if field.type in ("enum", "senum") and field.enum.partition(" of ")[0].isidentifier():
        one = str
    plain = (one is str and kind == "int") or kind == "bool"
    item: Shown = one if plain else lambda value: quote(one(value))
    if field.count == 1:
        return item
    return lambda values: f"[{','.join(map(item, values))}]"


_JSON: Final = pattern(r"%s|\(|\)|\{ | \}|, |\.(\w+) = |\n")


def in_json(format: str) -> str:
    """The format of a value, of a tuple or record with one for each part, as that of JSON."""
    inside: list[str] = []

    def part(found: "re.Match[str]") -> str:
        word = found[0].strip()
        if found[1]:
            return f'"{found[1]}": '
        if word in ("(", "{"):
            inside.append("[" if word == "(" else "{")
            return inside[-1]
        if word in (")", "}"):
            return "]" if inside.pop() == "[" else "}"
        return word + " " * (word == "," and inside[-1:] == ["{"])

    return _JSON.sub(part, format)


def _was_read(value: Any) -> bool:
    return not isinstance(value, UnreadStr)


def _integer(conversion: Conversion) -> Shown:
    """The function that shows integers as C does."""
    letters, flags, width, precision, length = conversion
    if letters == "p":
        return lambda value: _padded(hex(value & 0xFFFFFFFFFFFFFFFF), width, flags, "")
    if letters == "c":
        return lambda value: _padded(chr(value & 0xFF), width, flags, "")
    bits = BITS.get(length, 64)
    mask, half = (1 << bits) - 1, 1 << (bits - 1)
    if letters in ("d", "i", "u") and precision < 0 and not set(flags) - {"-"}:
        signed = letters != "u"
        pad = -width if "-" in flags else width

        def plain(value: int) -> str:
            value &= mask
            made = str(value - mask - 1 if signed and value >= half else value)
            return made.rjust(pad) if pad > 0 else made.ljust(-pad)

        return plain
    base = {"o": "o", "x": "x", "X": "X", "gr": "x"}.get(letters, "d")

    def shown(value: int) -> str:
        value, sign = value & mask, ""
        if letters in ("d", "i"):
            value -= (value & half) << 1
            sign = "-" if value < 0 else "+" if "+" in flags else " " if " " in flags else ""
        digits = format(abs(value), base)
        if precision >= 0:
            digits = digits.rjust(precision, "0") if value or precision else ""
        if ("#" in flags and value and base in "xX") or letters == "gr":
            sign += f"0{base}"
        elif "#" in flags and base == "o" and digits[:1] != "0":
            digits = f"0{digits}"
        return _padded(digits, width, flags if precision < 0 else flags.replace("0", ""), sign)

    return shown


def _padded(digits: str, width: int, flags: str, sign: str) -> str:
    if "-" in flags:
        return (sign + digits).ljust(width)
    if "0" in flags:
        return sign + digits.rjust(width - len(sign), "0")
    return (sign + digits).rjust(width)


def _buffer(letters: str) -> Shown:
    """The function that shows bytes: printable ones as they are, as \\x07, or as a dump."""

    def shown(value: Any) -> str:
        if isinstance(value, list):
            value = bytes(one & 0xFF for one in value)
        elif isinstance(value, str):
            value = text_bytes(value)
        if letters == "rh":
            return str(value.hex(" "))
        if letters == "rx":
            return "".join(f"\\x{one:02x}" for one in value)
        return "".join(chr(one) if 32 <= one <= 126 else f"\\x{one:02x}" for one in value)

    return shown


def as_text(schema: Schema, field: Field, labels: Labels) -> Shown:
    """The function that shows a value as `%s` and `print` do."""
    one = _scalar_text(schema, field, labels)
    if field.count == 1:
        return one
    return lambda values: f"[{','.join(map(one, values))}]"


def _scalar_text(schema: Schema, field: Field, labels: Labels) -> Shown:
    kind = TYPES[field.type].kind
    if kind == "str":
        return _string
    if kind in ("bytes", "raw"):
        show = _buffer("r")
        return lambda value: "" if isinstance(value, UnreadBytes) else show(value)
    if kind == "bool":
        return lambda value: "true" if value else "false"
    table = schema.enums.get(field.enum, {}) if field.type in ("enum", "senum") else {}
    if table:
        other = OTHERS.get(field.enum)
        return lambda value: table[value] if value in table else other or str(value)
    if field.table == ALLOCATIONS:
        bits = flags(schema.enums.get(field.table, {}))
        return lambda value: bits(value) or hex(value) if value else "0"
    if field.display.startswith(TIMES):
        return moment(field.display, schema.clock)
    if field.type == "stack":
        return lambda value: text(labels.stack(value), field.display)
    name = scalar_name(schema, field, labels)
    if name is not None and field.type in ("ksym", "usym"):
        return lambda value: bare(name(value))
    if name is not None:
        return lambda value: name(value) or str(value)
    return str


def _string(value: str) -> str:
    if value.__class__ is str:
        return value
    if isinstance(value, UnreadStr):
        return ""
    return value + TRAILER if isinstance(value, CutStr) else value
