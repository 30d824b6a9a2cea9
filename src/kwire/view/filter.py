"""Conditions over many events at once: what `--where` says, evaluated by numpy on whole columns.

The laws: the answer for each event is that of `view.where`, whose closures are the specification; what numpy
cannot answer exactly (numbers beyond 64 bits, elements of arrays, order of texts) is left to it: `vector`
gives None. Only the fields that a condition names are decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from kwire.lang import tree
from kwire.view.where import Where, dotted, resolved
from kwire.wire.columns import columns, spans
from kwire.wire.fields import TYPES, Field
from kwire.wire.frames import Frames
from kwire.wire.schema import Labels, Schema

if TYPE_CHECKING:
    import numpy as np

    Array: TypeAlias = np.ndarray[Any, Any]

MIRRORED = {"eq": "eq", "ne": "ne", "lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}
I64 = range(-(1 << 63), 1 << 63)


class Events(NamedTuple):
    """Events of one probe: their frames and wall-clock times (int64)."""

    schema: Schema
    frames: Frames
    times: Array


Mask: TypeAlias = "Callable[[_Columns], Any]"  # an array of bool, or one bool for all


class _NotVectorError(Exception):
    """This part is left to view.where."""


class _MissingError(Exception):
    """A name that this schema has not got."""


class _Columns:
    """The columns of some events, decoded when they are asked for."""

    __slots__ = ("_known", "events")

    def __init__(self, events: Events) -> None:
        self.events = events
        self._known: dict[str, Array] = {}

    def column(self, field: Field) -> Array:
        found = self._known.get(field.name)
        if found is None:
            only = self.events.schema._replace(fields=(field,))
            found = self._known[field.name] = columns(only, self.events.frames)[field.name]
        return found

    def equal_text(self, field: Field, wanted: bytes) -> Array:
        """Which texts of a tail field are these bytes; lengths first, so most are never looked at."""
        import numpy as np

        data, starts, lengths = spans(self.events.schema, self.events.frames, field.name)
        mask: Array = lengths == len(wanted)
        places = np.flatnonzero(mask)
        if len(places) and wanted:
            found = data[starts[places][:, None] + np.arange(len(wanted))]
            mask[places] = (found == np.frombuffer(wanted, np.uint8)).all(axis=1)
        return mask


def vector(where: Where, schema: Schema) -> Callable[[Events], Array] | None:
    """The condition for many events of one schema; None where only `where.test` can tell."""
    try:
        mask = _Compiler(schema).truth(resolved(where.expression, schema))
    except _MissingError:
        mask = _never
    except _NotVectorError:
        return None

    def evaluate(events: Events) -> Array:
        import numpy as np

        found: Array = np.broadcast_to(np.asarray(mask(_Columns(events)), dtype=bool), len(events.times))
        return found

    return evaluate


def mask(where: Where, schema: Schema) -> Callable[[Events], Array]:
    """The condition for many events of one schema: by columns where that is exact, else event by event."""
    fast = vector(where, schema)
    if fast is not None:
        return fast
    test, decode = where.test(schema), schema.decoder()

    def each(events: Events) -> Any:
        import numpy as np

        frames = events.frames
        times = enumerate(events.times.tolist())
        found = (test(time, decode(frames.frame_bytes(index))) for index, time in times)
        return np.fromiter(found, dtype=bool, count=len(frames))

    return each


def time_range(where: Where) -> tuple[int | None, int | None]:
    """The wall-clock ns, both ends included, outside of which the condition is false for every event."""
    low: int | None = None
    high: int | None = None
    for op, number in _time_terms(where.expression):
        if op in ("ge", "gt", "eq"):
            least = number + (op == "gt")
            low = least if low is None else max(low, least)
        if op in ("le", "lt", "eq"):
            most = number - (op == "lt")
            high = most if high is None else min(high, most)
    return low, high


def probes_named(where: Where) -> set[str] | None:
    """The probe specs outside of which the condition is false for every event; None: any."""
    wanted: set[str] | None = None
    for node in _conjuncts(where.expression):
        names = _probe_names(node)
        if names is not None:
            wanted = names if wanted is None else wanted & names
    return wanted


def _conjuncts(node: tree.Expr) -> list[tree.Expr]:
    """Parts all of which must be true."""
    if isinstance(node, tree.Logic) and node.op == "and":
        return [part for operand in node.operands for part in _conjuncts(operand)]
    return [node]


def _time_terms(expression: tree.Expr) -> list[tuple[str, int]]:
    """The comparisons of time_ns with numbers, all of which must be true: (op, number)."""
    terms = []
    for node in _conjuncts(expression):
        if not isinstance(node, tree.Compare):
            continue
        left = node.left
        for op, right in node.rest:
            if isinstance(left, tree.Name) and left.id == "time_ns" and isinstance(right, tree.Number):
                terms.append((op, right.value))
            elif isinstance(right, tree.Name) and right.id == "time_ns" and isinstance(left, tree.Number):
                terms.append((MIRRORED[op], left.value))
            left = right
    return terms


def _probe_names(node: tree.Expr) -> set[str] | None:
    if isinstance(node, tree.Logic) and node.op == "or":
        sets = [_probe_names(operand) for operand in node.operands]
        return None if None in sets else set().union(*(names for names in sets if names is not None))
    if isinstance(node, tree.Compare) and len(node.rest) == 1 and node.rest[0][0] == "eq":
        for one, two in ((node.left, node.rest[0][1]), (node.rest[0][1], node.left)):
            if isinstance(one, tree.Name) and one.id == "probe" and isinstance(two, tree.String):
                return {two.value}
    return None


def _never(columns: _Columns) -> bool:
    return False


class _Compiler:
    """From a tree to functions on columns, for one schema."""

    __slots__ = ("_fields", "_labels", "_schema")

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._fields: Mapping[str, Field] = {field.name: field for field in schema.fields}
        self._labels = Labels(schema)

    def truth(self, node: tree.Expr) -> Mask:
        """Whether the expression is true."""
        match node:
            case tree.Logic(op, operands):
                return self._logic(op, [self.truth(operand) for operand in operands])
            case tree.Unary("not", operand):
                value = self.truth(operand)
                return lambda columns: ~_bools(value(columns))
            case tree.Compare(left, rest):
                parts, one = [], left
                for op, two in rest:
                    parts.append(self._compare(op, one, two))
                    one = two
                return parts[0] if len(parts) == 1 else self._logic("and", parts)
        number = self._number(node)
        return lambda columns: number(columns) != 0

    def _logic(self, op: str, parts: list[Mask]) -> Mask:
        def all_of(columns: _Columns) -> Any:
            result = _bools(parts[0](columns))
            for part in parts[1:]:
                result = result & _bools(part(columns))
            return result

        def any_of(columns: _Columns) -> Any:
            result = _bools(parts[0](columns))
            for part in parts[1:]:
                result = result | _bools(part(columns))
            return result

        return all_of if op == "and" else any_of

    def _field(self, node: tree.Expr) -> Field | None:
        name = (
            node if isinstance(node, tree.Name) else dotted(node) if isinstance(node, tree.Member) else None
        )
        if name is None:
            return None
        if name.id in self._fields:
            return self._fields[name.id]
        if name.id in ("time_ns", "probe"):
            return None
        raise _MissingError(name.id)

    def _number(self, node: tree.Expr) -> Callable[[_Columns], Any]:
        """A column of integers of at most 64 bits, or a constant; nothing that could overflow."""
        match node:
            case tree.Number(value):
                if value not in I64:
                    raise _NotVectorError
                return lambda columns: value
            case tree.Name("time_ns") if "time_ns" not in self._fields:
                return lambda columns: columns.events.times
            case tree.Binary("and", left, tree.Number(mask)) if 0 <= mask < 1 << 63:
                of = self._number(left)
                return lambda columns: _masked(of(columns), mask)
        field = self._field(node)
        if field is None or field.count != 1 or TYPES[field.type].kind not in ("int", "bool"):
            raise _NotVectorError
        return lambda columns: columns.column(field)

    def _compare(self, op: str, left: tree.Expr, right: tree.Expr) -> Mask:
        if isinstance(left, (tree.String, tree.Number)):
            left, right, op = right, left, MIRRORED[op]
        if isinstance(right, tree.String):
            return self._compare_text(op, left, right.value)
        if not isinstance(right, tree.Number):
            raise _NotVectorError  # two columns: their widths and signs may differ
        number, value = self._number(left), right.value
        if isinstance(left, tree.Number):
            raise _NotVectorError
        return lambda columns: _compared(op, number(columns), value)

    def _compare_text(self, op: str, left: tree.Expr, wanted: str) -> Mask:
        if op not in ("eq", "ne"):
            raise _NotVectorError
        if isinstance(left, tree.Name) and left.id == "probe" and "probe" not in self._fields:
            same = (self._schema.probe == wanted) == (op == "eq")
            return lambda columns: same
        field = self._field(left)
        if field is None or field.count != 1:
            raise _NotVectorError
        equal = self._equal(field, wanted)
        return equal if op == "eq" else lambda columns: ~_bools(equal(columns))

    def _equal(self, field: Field, wanted: str) -> Mask:
        kind = TYPES[field.type].kind
        if kind in ("ipv4", "ipv6", "mac"):
            return lambda columns: columns.column(field) == wanted
        if kind in ("str", "text"):
            try:
                data = wanted.encode()
            except UnicodeEncodeError:
                raise _NotVectorError from None
            if "\\x" in wanted or "\0" in wanted:  # may stand for bytes that are not UTF-8
                raise _NotVectorError
            if kind == "str":
                return lambda columns: columns.equal_text(field, data)
            return lambda columns: columns.column(field) == data
        if kind == "int" and (field.enum or field.type in ("ksym", "usym")):
            labels = self._labels

            def named(columns: _Columns) -> Any:
                import numpy as np

                values, where = np.unique(columns.column(field), return_inverse=True)
                same = np.array(
                    [labels.name(field, value) == wanted for value in values.tolist()], dtype=bool
                )
                return same[where.ravel()] if len(values) else np.zeros(0, bool)

            return named
        raise _NotVectorError


def _bools(value: Any) -> Any:
    import numpy as np

    return np.asarray(value, dtype=bool)


def _masked(values: Any, mask: int) -> Any:
    """values & mask as Python means it: a mask wider than the column is cut to what can be set."""
    import numpy as np

    if isinstance(values, int):
        return values & mask
    wide = values.astype(np.int64 if values.dtype.kind == "i" else np.uint64)
    return wide & wide.dtype.type(mask)


def _compared(op: str, values: Any, number: int) -> Any:
    """values op number; a number outside the column's range is compared as Python does."""
    import numpy as np

    if isinstance(values, int):
        raise _NotVectorError
    if values.dtype.kind == "b":
        values = values.astype(np.uint8)
    limits = np.iinfo(values.dtype)
    if number > limits.max:
        return np.full(len(values), op in ("ne", "lt", "le"))
    if number < limits.min:
        return np.full(len(values), op in ("ne", "gt", "ge"))
    value = values.dtype.type(number)
    return getattr(np, _UFUNCS[op])(values, value)


_UFUNCS = {
    "eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal"
}  # fmt: skip
