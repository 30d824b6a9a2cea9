"""Flame graphs of the stacks that maps hold: folded lines, and a drawing of them.

Invariants: the parts of a key stand in their order, a stack with its outermost function first; equal ones are
added up; the order of lines and boxes, and the colours, follow from the names alone, so the same stacks give
the same text. A drawing is one file without scripts; all that a name holds is made safe for it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final
from zlib import crc32

from kwire.errors import KwireError
from kwire.view.printed import Act, Printed, as_text
from kwire.view.render import Values
from kwire.view.text import safe
from kwire.wire.fields import Field
from kwire.wire.schema import Labels, Schema
from kwire.wire.stacks import Frame, Stack
from kwire.wire.tables import BUCKETS, TOTALS, MapTable, cell_reader

WIDTH, ROW, MARGIN, HEAD = 1200, 17, 10, 40
"""Of a drawing, in pixels: its width, the height of a frame, what is left free around it and above it."""

LETTER: Final = 6.6
"""Pixels that a letter takes, about."""

THIN: Final = 0.3
"""Pixels below which a frame is not drawn: nobody would see it."""

Path = tuple[str, ...]


def flame_graph(how: str, schemas: Sequence[Schema], act: Act | None = None) -> "Folded":
    """The format of this name, "folded" or "svg". Raises KwireError where no map of these has stacks."""
    if not any(map(_has_stacks, schemas)):
        raise KwireError(
            "draw", "flame graph", "there are no stacks in maps", "use kstack or ustack as a key of a map"
        )
    return FlameGraph(act=act) if how == "svg" else Folded(act=act)


class Folded(Printed):
    """The maps that are left with stacks in their keys, a line a stack: `outer;inner number`. What else is
    printed is left out.
    """

    __slots__ = ()

    def __init__(self, act: Act | None = None) -> None:
        super().__init__(terminal=False, act=act)

    def event(self, schema: Schema) -> Callable[[int, Values], str]:
        """Nothing is shown of events."""
        return lambda time, values: ""

    def parts(self, schema: Schema) -> None:
        """Nor are lines made of many at once."""

    def bad(self, time: int | None, id: int, schema: Schema | None, why: str) -> str:
        """Nor of those that cannot be decoded."""
        return ""

    def table(self, time: int, schema: Schema, held: MapTable) -> str:
        """Nor of maps while they fill."""
        return ""

    def left(self, held: Sequence[tuple[Schema, MapTable]]) -> str:
        """The lines."""
        return "".join(f"{';'.join(path)} {number}\n" for path, number in sorted(folded(held).items()))


class FlameGraph(Folded):
    """The same as a drawing, SVG."""

    __slots__ = ()

    def left(self, held: Sequence[tuple[Schema, MapTable]]) -> str:
        """The drawing."""
        names = ", ".join(schema.target for schema, _ in held if _has_stacks(schema))
        return svg(folded(held), names)


def folded(held: Sequence[tuple[Schema, MapTable]]) -> dict[Path, int]:
    """The numbers of the maps with stacks in their keys, by what leads to them; of several maps each begins
    with its name.
    """
    maps = [(schema, table) for schema, table in held if _has_stacks(schema)]
    found: dict[Path, int] = {}
    for schema, table in maps:
        assert schema.map is not None
        labels = Labels(schema._replace(symbols=table.symbols))
        parts = [_path(schema, field, labels) for field in schema.fields[: schema.map.keys]]
        for key, value in table.rows:
            path: Path = (schema.target,) if len(maps) > 1 else ()
            for part, one in zip(parts, key, strict=True):
                path += part(one)
            found[path] = found.get(path, 0) + _number(schema.map.kind, value)
    return {path: number for path, number in found.items() if number}


def _has_stacks(schema: Schema) -> bool:
    shape = schema.map
    return shape is not None and any(field.type == "stack" for field in schema.fields[: shape.keys])


def _path(schema: Schema, field: Field, labels: Labels) -> Callable[[Any], Path]:
    """How a part of a key is shown."""
    if field.type == "stack":
        return lambda value: tuple(map(_name, reversed(Stack(labels.stack(value)))))
    show, read = as_text(schema, field, labels), cell_reader(schema, field)
    return lambda value: (_word(show(read(value) if read is not None else value)),)


def _name(frame: Frame) -> str:
    """A frame by its function, else by its file: addresses would tear apart what belongs together."""
    file = frame.file.rpartition("/")[2].strip("[]") or "unknown"
    return _word(frame.symbol or f"[{file}]")


def _word(text: str) -> str:
    return safe(text).replace(";", ":")


def _number(kind: str, value: Any) -> int:
    if kind in BUCKETS:
        return sum(number for _, _, number in value)
    if kind in TOTALS:
        return int(value[1])
    return value if isinstance(value, int) and value > 0 else 0


class _Box:
    """A frame of the drawing: how much went through it, and what it called."""

    __slots__ = ("inner", "number")

    def __init__(self) -> None:
        self.number = 0
        self.inner: dict[str, _Box] = {}


def svg(found: Mapping[Path, int], title: str = "") -> str:
    """The drawing of folded stacks: the outermost function below, each as wide as what went through it."""
    root = _Box()
    for path, number in found.items():
        box = root
        box.number += number
        for name in path:
            box = box.inner.setdefault(name, _Box())
            box.number += number
    rows = 1 + max(map(len, found), default=0)
    height = HEAD + rows * ROW + MARGIN
    return "".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'width="{WIDTH}" height="{height}" font-family="monospace" font-size="11">\n'
            '<rect width="100%" height="100%" fill="#fffdf8"/>\n'
            f'<text x="{WIDTH / 2:g}" y="24" text-anchor="middle" font-size="15">'
            f"{_quoted(title)}: {root.number:,} in all</text>\n",
            *_boxes("all", root, root.number, MARGIN, (WIDTH - 2 * MARGIN) / (root.number or 1), rows - 1),
            "</svg>\n",
        )
    )


def _boxes(name: str, box: _Box, total: int, x: float, unit: float, row: int) -> Iterator[str]:
    """A frame and all above it. `x`: where it begins; `unit`: pixels a number; `row`: from above."""
    waiting = [(name, box, x, row)]
    while waiting:
        name, box, x, row = waiting.pop()
        width, y = box.number * unit, HEAD + row * ROW
        if width < THIN and total:
            continue
        share = 100 * box.number / total if total else 0
        fits = int((width - 6) / LETTER)
        shown = name if len(name) <= fits else f"{name[: fits - 2]}.." if fits > 3 else ""
        text = f'<text x="{x + 3:.1f}" y="{y + 12}">{_quoted(shown)}</text>' if shown else ""
        yield (
            f"<g><title>{_quoted(name)}: {box.number:,}, {share:.1f} %</title>"
            f'<rect x="{x:.1f}" y="{y}" width="{max(width - 0.3, 0.2):.1f}" height="{ROW - 1}" '
            f'fill="{_colour(name)}" rx="1"/>{text}</g>\n'
        )
        for inner in sorted(box.inner):
            waiting.append((inner, box.inner[inner], x, row - 1))
            x += box.inner[inner].number * unit


def _colour(name: str) -> str:
    """A warm colour that follows from the name."""
    mix = crc32(name.encode("utf-8", "surrogatepass"))
    return f"hsl({mix % 45 + 8},{70 + (mix >> 8) % 25}%,{62 + (mix >> 16) % 12}%)"


def _quoted(text: str) -> str:
    for sign, name in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(sign, name)
    return text
