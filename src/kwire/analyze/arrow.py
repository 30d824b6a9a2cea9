"""Events as Arrow: one record batch a block, one array a column, without copies where that is possible.

Invariants: values are those of `Schema.decoder` and of `kwire show --json`: text as it decodes there, names
as it shows them; what could not be read is null; integers keep their width and sign; nothing is ever a float.
Integers of the machine's width are not copied. pyarrow is an extra (`kwire[query]`), imported when Arrow is
asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import TYPE_CHECKING, Any, Final

from kwire.analyze.distribution import above
from kwire.analyze.scan import Block
from kwire.analyze.tables import COMMON, Column, Table
from kwire.analyze.zone import local_times
from kwire.errors import KwireError
from kwire.view.text import safe
from kwire.view.values import scalar_name
from kwire.wire.column_rows import pack_texts
from kwire.wire.columns import Columns
from kwire.wire.fields import TYPES, Field, letter, text
from kwire.wire.gather import HIGH, SLASH
from kwire.wire.schema import Labels, Schema

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

TEXTS: Final = 4  # columns of one text that are kept for the next batch
NEAR: Final = 1 << 16  # integers that lie in a range of so many are named through a table


def load() -> Any:
    """The module pyarrow; KwireError where it is not installed."""
    try:
        import pyarrow
    except ImportError:
        raise KwireError(
            "make Arrow data", "", "pyarrow is not installed", "pip install 'kwire[query]'"
        ) from None
    return pyarrow


def array_type(column: Column) -> Any:
    """The Arrow type of a column."""
    pa = load()
    field = column.field
    kinds = {"text": pa.string, "bytes": pa.binary, "bool": pa.bool_}
    if column.kind == "int":
        code = letter(field)
        width = {"b": 8, "h": 16, "i": 32, "q": 64}[code.lower()]
        one = getattr(pa, f"{'int' if code.islower() else 'uint'}{width}")()
    else:
        one = kinds[column.kind]()
    return pa.list_(one) if field.count > 1 else one


def common_types(*, local: bool = False) -> dict[str, Any]:
    """The Arrow types of the columns that every table has; `local`: times are what a local clock shows."""
    pa = load()
    time = pa.timestamp("ns") if local else pa.timestamp("ns", "UTC")
    return dict(zip(COMMON, (time, pa.int64(), pa.string()), strict=True))


def table_schema(table: Table, *, local: bool = False) -> Any:
    """The Arrow schema of a table; fields carry unit and meaning as metadata."""
    pa = load()
    fields = [pa.field(name, kind) for name, kind in common_types(local=local).items()]
    fields += map(field_of, table.columns)
    return pa.schema(fields, metadata={"kwire.probe": table.probe})


def field_of(column: Column) -> Any:
    """A column as a field of an Arrow schema."""
    about = {"unit": column.field.unit, "meaning": column.field.meaning}
    if column.cut:
        about = {"meaning": f"{safe(column.field.name)} was longer: it is cut at its limit"}
    known = {key: value for key, value in about.items() if value}
    return load().field(column.name, array_type(column), metadata=known or None)


class Fill:
    """Columns that are null, or of one text, in all rows: made once, a batch takes as many rows as it has."""

    __slots__ = ("_nulls", "_texts")

    def __init__(self) -> None:
        self._nulls: dict[Any, Any] = {}  # by type
        self._texts: dict[str, Any] = {}

    def nulls(self, kind: Any, count: int) -> Any:
        """So many nulls of this type."""
        known = self._nulls.get(kind)
        if known is None or len(known) < count:
            known = self._nulls[kind] = load().nulls(count, kind)
        return known.slice(0, count)

    def text(self, value: str, count: int) -> Any:
        """The text so many times."""
        known = self._texts.get(value)
        if known is None or len(known) < count:
            if len(self._texts) >= TEXTS:
                self._texts.clear()
            known = self._texts[value] = repeated(value, count)
        return known.slice(0, count)


def batch(table: Table, schema: Any, block: Block, fill: Fill, wanted: Container[str] | None = None) -> Any:
    """The block as a record batch of `schema`; columns not in `wanted` are null (None: all are wanted)."""
    pa = load()
    made = []
    values = Values(block)
    for place, field in enumerate(schema):
        if wanted is not None and field.name not in wanted:
            made.append(fill.nulls(field.type, len(block.times)))
        elif place < len(COMMON):
            made.append(common(field, block, fill))
        else:
            made.append(values.column(table.columns[place - len(COMMON)]))
    return pa.record_batch(made, schema=schema)


def common(field: Any, block: Block, fill: Fill) -> Any:
    """One of the columns that every table has, by its Arrow field."""
    if field.name == "host":
        return fill.text(block.schema.host, len(block.times))
    return clock(field, block.times)


def clock(field: Any, times: Array) -> Any:
    """One of the columns of times, by its Arrow field."""
    pa = load()
    if field.name == "time":
        return pa.array(times if field.type.tz else local_times(times), pa.int64()).view(field.type)
    return pa.array(times, pa.int64())


def repeated(value: str, count: int) -> Any:
    """A text column of one value."""
    import numpy as np

    pa, octets = load(), value.encode()
    if len(octets) * count >= 1 << 31:  # more than offsets of 32 bits tell
        return pa.array([value], pa.string()).take(pa.array(np.zeros(count, np.int32)))
    offsets = np.arange(count + 1, dtype=np.int32) * np.int32(len(octets))
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(octets * count)]
    return pa.Array.from_buffers(pa.string(), count, buffers)


class Values:
    """The columns of one block."""

    __slots__ = ("_block", "_found", "_labels", "_pa", "_raw")

    def __init__(self, block: Block) -> None:
        self._block = block
        self._found: Columns | None = None
        self._labels: Labels | None = None
        self._pa = load()
        self._raw: dict[str, Array] = {}

    @property
    def _columns(self) -> Columns:
        if self._found is None:
            self._found = self._block.columns()
        return self._found

    def column(self, column: Column) -> Any:
        """One column as an Arrow array."""
        pa, field = self._pa, column.field
        if column.cut:
            return pa.array(self._columns.cut(field))
        flat = self._flat(column, field)
        if field.count == 1:
            return flat
        import numpy as np

        count = len(self._block.times)
        offsets = np.arange(0, (count + 1) * field.count, field.count, dtype=np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), flat)

    def _flat(self, column: Column, field: Field) -> Any:
        """All elements, one after the other."""
        import numpy as np

        pa, is_text = self._pa, column.kind == "text"
        if column.named and not column.raw:
            return self._names(field, self._values(field).reshape(-1))
        if field.count == 1 and TYPES[field.type].kind in ("text", "str", "raw", "bytes"):
            none = self._columns.unread(field) if TYPES[field.type].tail else None
            return variable(self._columns.data, *self._columns.located(field), is_text=is_text, none=none)
        values = self._values(field).reshape(-1)
        if values.dtype.kind in "SV":
            width, octets = values.dtype.itemsize, np.ascontiguousarray(values).view("u1")
            starts = np.arange(0, len(octets), width, dtype=np.uint64)
            lengths = np.full(len(starts), width, np.uint64)
            if is_text:  # the zeros all stand at the end
                lengths = (octets.reshape(-1, width) != 0).sum(axis=1).astype(np.uint64)
            return variable(octets, starts, lengths, is_text=is_text)
        if is_text:
            return pa.array(values.astype(object), pa.string())
        return pa.array(values)

    def _values(self, field: Field) -> Array:
        found = self._raw.get(field.name)
        if found is None:
            found = self._raw[field.name] = self._columns.column(field)
        return found

    def _names(self, field: Field, values: Array) -> Any:
        pa, schema = self._pa, self._block.schema
        if self._labels is None:
            self._labels = Labels(schema)
        name = namer(schema, field, self._labels)
        distinct, where = factorize(values)
        names = pa.array([name(value) for value in distinct], pa.string())
        return names.take(pa.array(where))


def namer(schema: Schema, field: Field, labels: Labels) -> Callable[[int], str]:
    """The function that shows an integer of this field as text: its name, or the number itself."""
    name = scalar_name(schema, field, labels)
    assert name is not None  # asked only for columns that have names
    return lambda value: name(value) or str(value)


def factorize(values: Array) -> tuple[Sequence[int], Array]:
    """The distinct integers, and for each value its index among them."""
    import numpy as np

    if not len(values):
        return [], np.zeros(0, np.int64)
    low, high = int(values.min()), int(values.max())
    if high - low >= NEAR:
        distinct, where = np.unique(values, return_inverse=True)
        return distinct.tolist(), where.ravel()
    shifted = above(values, low).astype(np.uint16)
    present = np.flatnonzero(np.bincount(shifted))
    place = np.zeros(high - low + 1, np.int32)
    place[present] = np.arange(len(present))
    return [low + step for step in present.tolist()], place[shifted]


def variable(data: Array, starts: Array, lengths: Array, *, is_text: bool, none: Array | None = None) -> Any:
    """An Arrow array of the bytes, or the texts, data[start : start + length]; null where `none` is true."""
    import numpy as np

    total = int(lengths.sum())
    offsets, packed = np.empty(len(lengths) + 1, np.uint32), np.empty(total, np.uint8)
    done = pack_texts(data, starts, lengths, len(lengths), packed, offsets)
    assert done == len(lengths)  # a block is far less than 31 bits tell
    return packed_values(packed, offsets, HIGH | SLASH, is_text=is_text, none=none)


def packed_values(packed: Array, ends: Array, told: int, *, is_text: bool, none: Array | None = None) -> Any:
    """The same of bytes that lie back to back, of which `ends` tells 0 and then where each ends.

    `told`: what may be in them, as `gather.rows_packed` tells it.
    """
    import numpy as np

    pa, count = load(), len(ends) - 1
    valid = None
    if none is not None and none.any():
        valid = pa.py_buffer(np.packbits(~none, bitorder="little"))
    buffers = [valid, pa.py_buffer(ends), pa.py_buffer(packed)]
    if not is_text:
        return pa.Array.from_buffers(pa.binary(), count, buffers)
    made = pa.Array.from_buffers(pa.string(), count, buffers)
    # what may look like the escape of a byte is told apart from one
    plain = not told & SLASH or b"\\x" not in packed.tobytes()
    if plain and told & HIGH and len(packed) and int(packed.max()) >= 0x80:
        try:
            made.validate(full=True)
        except pa.ArrowInvalid:
            plain = False
    if plain:
        return made
    raw = pa.Array.from_buffers(pa.binary(), count, buffers)
    return pa.array([None if value is None else text(value) for value in raw.to_pylist()], pa.string())
