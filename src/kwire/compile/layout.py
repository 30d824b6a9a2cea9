"""The record: where each field of an event lies in its frame, and the schema that says so.

Invariants: header at 0, timestamp at 8, fixed fields from 16 on by falling alignment (so there are no holes),
each aligned to the largest power of two, at most 8, that divides its size; then the tail, its values one
after another in the fields' order, unaligned; the whole padded with zeros to a multiple of 8. No record is
longer than `MAX_EVENT`. `Layout.fields` and the schema keep the order in which the probe declares its fields.
"""

from collections.abc import Mapping

from kwire.errors import KwireError
from kwire.lang import checked, types
from kwire.lazy import NamedTuple
from kwire.wire import schema as wire
from kwire.wire.fields import DISPLAYS, FIELDS_AT, TAIL_MAX, TIMES
from kwire.wire.frame import MAX_EVENT

REF_SIZE = 4
"""A tail field's place in the fixed part: offset u16, length u16."""

SLACK = 8
"""Bytes that must be writable after the longest record: strings are read a little further than they are
kept, and the padding is written as one word."""


class CompileError(KwireError):
    """The checked program cannot be made into instructions; nearly always because it is too big."""

    def __init__(self, subject: str, cause: str, cure: str = "") -> None:
        super().__init__("compile", subject, cause, cure)


class Item(NamedTuple):
    """One field's place: `offset` and `size` in the fixed part, `limit` of the tail value (-1: no tail)."""

    field: checked.Field
    offset: int
    size: int
    limit: int


class Layout(NamedTuple):
    """The record of a program. `size`: end of the fixed part; `most`: bytes of the longest record, padded."""

    fields: tuple[Item, ...]
    size: int
    most: int

    @property
    def tails(self) -> int:
        """How many fields live in the tail."""
        return sum(item.limit >= 0 for item in self.fields)


def layout(name: str, fields: tuple[checked.Field, ...]) -> Layout:
    """Places the fields. Raises `CompileError` when the longest record would not fit a frame."""
    sized = [(index, *_size(name, field)) for index, field in enumerate(fields)]
    places: dict[int, int] = {}
    at = FIELDS_AT
    for index, size, _ in sorted(sized, key=lambda entry: -alignment(entry[1])):
        places[index] = at
        at += size
    most = pad(at + sum(limit for _, _, limit in sized if limit > 0))
    if most > MAX_EVENT:
        cure = "emit fewer fields or give the texts a smaller limit"
        raise CompileError(name, f"an event could be {most} bytes long, the most is {MAX_EVENT}", cure)
    items = tuple(Item(fields[index], places[index], size, limit) for index, size, limit in sized)
    return Layout(items, at, most)


def pad(size: int) -> int:
    """The next multiple of 8."""
    return (size + 7) & ~7


def alignment(size: int) -> int:
    """The largest power of two, at most 8, that divides the size."""
    return min(size & -size, 8) if size else 1


def _size(name: str, field: checked.Field) -> tuple[int, int]:
    """Bytes in the fixed part, and the limit of the tail value or -1."""
    type_ = field.type
    if isinstance(type_, types.Text | types.Bytes):
        if not 0 < type_.limit <= TAIL_MAX:
            raise CompileError(f"{name}, field {field.name}", f"limit {type_.limit} is not 1 to {TAIL_MAX}")
        return REF_SIZE, type_.limit
    size = types.size_of(type_)
    if size == 0:
        raise CompileError(f"{name}, field {field.name}", f"{types.describe(type_)} has no size")
    return size, -1


def schema(
    program: checked.Program,
    shape: checked.Shape,
    placed: Layout,
    *,
    id: int,
    spec: str,
    machine: str,
    little: bool = True,
) -> wire.Schema:
    """The schema of records of a shape on a `machine` (`uname -m`), whose flags have its names; `spec`:
    what the events are called. What only the running system knows (clock, host, symbols) is left empty.
    """
    enums: dict[str, Mapping[int, str]] = {}
    fields = tuple(_shown(item, _field(item, enums), enums, machine) for item in placed.fields)
    return wire.Schema(
        id=id,
        probe=spec,
        kind=program.site.kind,
        target=program.site.target,
        fields=fields,
        size=placed.size,
        order="little" if little else "big",
        word=8,
        program=program.source.kept or program.source.text,
        enums=enums,
        prints=shape.prints,
        format=shape.format,
    )


def _field(item: Item, enums: dict[str, Mapping[int, str]]) -> wire.Field:
    field = item.field
    name, count, enum = wire_type(field.type, field.name)
    scalar = _element(field.type)[0]
    if enum and isinstance(scalar, types.Enum):
        table = {value: label for label, value in reversed(scalar.values)}
        if enums.get(enum, table) != table:
            enum = f"{enum} of {field.name}"
        enums[enum] = table
    return wire.Field(
        name=field.name,
        type=name,
        offset=item.offset,
        size=item.size,
        unit=field.unit,
        meaning=field.meaning,
        count=count,
        enum=enum,
        limit=max(item.limit, 0),
    )


def _shown(item: Item, field: wire.Field, enums: dict[str, Mapping[int, str]], machine: str) -> wire.Field:
    """The field with what its type says of how people read it; a table of names goes into `enums`."""
    element = _element(item.field.type)[0]
    if isinstance(element, types.Enum) and element.flags:
        table_name = f"names of {element.name}"
        enums[table_name] = {value: label for label, value in element.values}
        return field._replace(display="flags", table=table_name)
    if isinstance(element, types.Stack):
        return field._replace(display=element.mode)
    display = element.display if isinstance(element, types.Int) else ""
    if not display or display in types.ADDRESSES:
        return field
    if display in DISPLAYS or display.startswith(TIMES):
        return field._replace(display=display)
    from kwire.wire.names import tables

    table = tables(machine).get(display)
    if table is None:
        return field
    name = f"names of {display}"
    enums[name] = dict(sorted(table.names.items()))
    return field._replace(display="flags", table=name, mask=table.mask)


def _element(type_: types.Type) -> tuple[types.Type, int]:
    count = 1
    while isinstance(type_, types.Array):
        count *= type_.length
        type_ = type_.element
    return type_, count


def wire_type(type_: types.Type, name: str) -> tuple[str, int, str]:
    """The wire's type name, how many elements, and the name of the enum table (for an unnamed enum:
    `name`).
    """
    if isinstance(type_, types.Array) and type_.display:
        return type_.display, 1, ""
    if types.is_text_array(type_):
        return "text", 1, ""
    element, count = _element(type_)
    if isinstance(element, types.Int):
        address = element.display if element.display in types.ADDRESSES else ""
        return address or f"{'s' if element.signed else 'u'}{element.size * 8}", count, ""
    if isinstance(element, types.Enum) and element.flags:
        return f"{'s' if element.signed else 'u'}{element.size * 8}", count, ""
    if isinstance(element, types.Enum):
        kind = "senum" if element.signed else "enum"
        return kind, count, (element.name or name) if element.values else ""
    if isinstance(element, types.Pointer):
        return element.display or "ptr", count, ""
    if isinstance(element, types.Stack):
        return "stack", count, ""
    if isinstance(element, types.Text):
        return "str", 1, ""
    if isinstance(element, types.Bytes):
        return "bytes", 1, ""
    if isinstance(element, types.Bool):
        return "bool", count, ""
    return "raw", 1, ""


# ---- maps: what a row of one is as a record


NAME_MOST = 4095
"""Bytes of the names of functions and files."""

_ROWS: Mapping[str, tuple[types.Scalar | types.Text | None, ...]] = {
    "value": (None,),
    "count total average": (types.U64, None, None),
    "low high count": (types.S64, types.S64, types.U64),
    "address symbol offset file": (types.U64, types.Text(NAME_MOST), types.U64, types.Text(NAME_MOST)),
}
"""The fields behind the key, and their types; None: the type of the map's values."""


def map_schema(map: checked.Map, kind: str, *, id: int, prints: str, machine: str) -> wire.Schema:
    """The schema of the rows of a map, which people know as a `kind`; `prints`: as in a schema.

    Byte order and what only the running system knows are left as they are in schemas of events.
    """
    bounds: tuple[int, ...] = map.bounds if kind == "lhist" else ()
    if kind == "tseries":
        kind, bounds = map.kind, map.bounds[:2]
    several = len(map.key) > 1
    named = [
        checked.Field(f"key{number}" if several else "key", type_, "of the map")
        for number, type_ in enumerate(map.key, 1)
    ]
    names = wire.MAP_VALUES[kind]
    rows = zip(names, _ROWS[" ".join(names)], strict=True)
    items = types.nest_of(map.value)
    leaves = tuple(types.leaves(map.value))
    for name, type_ in rows:
        if items:
            named += [checked.Field(f"{name}{number}", leaf) for number, leaf in enumerate(leaves, 1)]
        else:
            named.append(checked.Field(name, type_ or leaves[0]))
    named.append(checked.Field("table", types.U32, "which table of the map it is in"))
    placed = layout(map.name, tuple(named))
    enums: dict[str, Mapping[int, str]] = {}
    shown = tuple(_shown(item, _field(item, enums), enums, machine) for item in placed.fields)
    return wire.Schema(
        id=id,
        probe=f"map:{map.name}",
        kind="map",
        target=map.name,
        fields=shown,
        size=placed.size,
        word=8,
        enums=enums,
        prints=prints,
        map=wire.MapShape(kind, len(map.key), bounds, items, map.nest),
    )
