"""Conditions over many events at once: what `--where` says, evaluated by numpy on whole columns.

Invariants: the answer for each event is that of `view.where`, whose functions of one event are the
specification; what is not worth columns (elements of arrays, order of texts) is left to it: `vector` gives
None. Only the fields that a condition names are decoded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from kwire.lang import checked as c
from kwire.lang import tree
from kwire.lang import types as t
from kwire.lang.context import CtxField
from kwire.lang.errors import NameTextError
from kwire.lang.matching import regex
from kwire.view.where import ADDRESSES, TIME, Where
from kwire.wire.columns import Columns
from kwire.wire.fields import TYPES, Field
from kwire.wire.frames import Frames
from kwire.wire.schema import Labels, Schema

if TYPE_CHECKING:
    import re

    import numpy as np

    Array: TypeAlias = np.ndarray[Any, Any]

MIRRORED = {"eq": "eq", "ne": "ne", "lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}


class Events(NamedTuple):
    """Events of one probe: their frames and wall-clock times (int64)."""

    schema: Schema
    frames: Frames
    times: Array


Mask: TypeAlias = "Callable[[_Columns], Any]"  # an array of bool, or one bool for all


class _NotVectorError(Exception):
    """This part is left to view.where."""


class _Columns:
    """The columns of some events, decoded when they are asked for."""

    __slots__ = ("_known", "_made", "events")

    def __init__(self, events: Events) -> None:
        self.events = events
        self._made: Columns | None = None
        self._known: dict[str, Array] = {}

    @property
    def made(self) -> Columns:
        if self._made is None:
            self._made = Columns(self.events.schema, self.events.frames)
        return self._made

    def column(self, field: Field) -> Array:
        found = self._known.get(field.name)
        if found is None:
            found = self._known[field.name] = self.made.column(field)
        return found

    def matched(self, field: Field, pattern: re.Pattern[bytes], limit: int) -> Array:
        """Which texts of a tail field match; no more than `limit` bytes of each are looked at."""
        import numpy as np

        starts, lengths = self.made.located(field)
        ends = starts + np.minimum(lengths, np.uint64(limit))
        whole, matches = self.made.data.data, pattern.fullmatch
        pairs = zip(starts.tolist(), ends.tolist(), strict=True)
        return np.fromiter((matches(whole, a, b) is not None for a, b in pairs), bool, len(starts))

    def equal_text(self, field: Field, wanted: bytes, begins: bool) -> Array:
        """Which texts of a tail field are these bytes, or (`begins`) begin with them.

        Lengths come first, so most are never looked at.
        """
        import numpy as np

        data, (starts, lengths) = self.made.data, self.made.located(field)
        mask: Array = lengths >= len(wanted) if begins else lengths == len(wanted)
        places = np.flatnonzero(mask)
        if len(places) and wanted:
            found = data[starts[places].astype(np.int64)[:, None] + np.arange(len(wanted))]
            mask[places] = (found == np.frombuffer(wanted, np.uint8)).all(axis=1)
        return mask


def vector(where: Where, schema: Schema) -> Callable[[Events], Array] | None:
    """The condition for many events of one schema; None where only `where.test` can tell."""
    try:
        mask = _Compiler(schema).truth(where.checked(schema))
    except NameTextError:
        mask = _never
    except _NotVectorError:
        return None

    def evaluate(events: Events) -> Array:
        import numpy as np

        with np.errstate(all="ignore"):  # numbers wrap, as in registers
            found: Array = np.broadcast_to(_bools(mask(_Columns(events))), len(events.times))
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
    """From the checked form to functions on columns, for one schema.

    Numbers are arrays of int64, of uint64 where the type is unsigned and of 64 bits, so they hold what
    registers hold.
    """

    __slots__ = ("_schema",)

    def __init__(self, schema: Schema) -> None:
        self._schema = schema

    def truth(self, e: Any) -> Mask:
        """Whether the expression is true."""
        match e:
            case c.Const(value=value):
                return lambda columns: value != 0
            case c.Logic(op=op, left=left, right=right):
                a, b = self.truth(left), self.truth(right)
                if op == "and":
                    return lambda columns: _bools(a(columns)) & _bools(b(columns))
                return lambda columns: _bools(a(columns)) | _bools(b(columns))
            case c.Not(operand=operand):
                a = self.truth(operand)
                return lambda columns: ~_bools(a(columns))
            case c.Compare():
                return self._compare(e)
            case c.TextEqual(text=c.ReadText() as text, literal=literal):
                return self._equal(text, literal)
            case c.TextOrder(op="gt", text=c.ReadText() as text, literal=b""):
                return self._there(text)
            case c.TextMatch(text=c.ReadText() as text, pieces=pieces):
                return self._match(text, regex(pieces))
        number = self._number(e)
        return lambda columns: number(columns) != 0

    def _compare(self, e: c.Compare) -> Mask:
        ufunc = _UFUNCS[e.op]
        if isinstance(e.left, c.Param) and isinstance(e.right, c.Const):
            field, value = self._field(e.left), e.right.value
            if field is not None and TYPES[field.type].kind == "int":
                return lambda columns: _narrow(ufunc, columns.column(field), value)
        a, b, signed = self._number(e.left), self._number(e.right), e.signed

        def compare(columns: _Columns) -> Any:
            import numpy as np

            kind = np.int64 if signed else np.uint64
            return getattr(np, ufunc)(_as(a(columns), kind), _as(b(columns), kind))

        return compare

    def _field(self, e: c.Param) -> Field | None:
        """The field that a value is; None for the time."""
        assert isinstance(e.access, CtxField)
        return None if e.access.offset == TIME else self._schema.fields[e.access.offset]

    def _number(self, e: Any) -> Callable[[_Columns], Any]:
        """Integers as arrays, or one number for all."""
        dtype = "uint64" if t.is_wide_unsigned(e.type) else "int64"
        match e:
            case c.Const(value=value):
                return lambda columns: _array(value, dtype)
            case c.Param():
                field = self._field(e)
                if field is None:
                    return lambda columns: columns.events.times
                return lambda columns: _as(columns.column(field), dtype)
            case c.Binary(op=op, left=left, right=right):
                a, b, operate = self._number(left), self._number(right), _BINARY[op]
                return lambda columns: operate(_as(a(columns), dtype), _as(b(columns), dtype))
            case c.Negate(operand=operand):
                a = self._number(operand)
                return lambda columns: _as(-_as(a(columns), "int64"), dtype)
            case c.Invert(operand=operand):
                a = self._number(operand)
                return lambda columns: ~_as(a(columns), dtype)
            case c.Retype(operand=operand):
                a = self._number(operand)
                return lambda columns: _as(a(columns), dtype)
            case c.Convert(operand=operand, type=type_):
                a = self._number(operand)
                if isinstance(type_, t.Bool):
                    return lambda columns: _as(a(columns) != 0, dtype)
                narrow = f"{'' if t.signed(type_) else 'u'}int{8 * t.size_of(type_)}"
                return lambda columns: _as(_as(a(columns), narrow), dtype)
            case c.Select(test=test, then=then, otherwise=otherwise):
                chosen, a, b = self.truth(test), self._number(then), self._number(otherwise)
                return lambda columns: _where(chosen(columns), a(columns), b(columns))
            case c.Logic() | c.Not() | c.Compare() | c.TextEqual() | c.TextMatch():
                mask = self.truth(e)
                return lambda columns: _as(_bools(mask(columns)), dtype)
        raise _NotVectorError

    def _there(self, text: c.ReadText) -> Mask:
        """Whether there is a byte of a text."""
        assert isinstance(text.place.base, c.Const)
        field = self._schema.fields[text.place.base.value]
        if TYPES[field.type].kind != "str":
            raise _NotVectorError
        return lambda columns: columns.made.located(field)[1] > 0

    def _equal(self, text: c.ReadText, wanted: bytes) -> Mask:
        assert isinstance(text.place.base, c.Const)
        field = self._schema.fields[text.place.base.value]
        kind = TYPES[field.type].kind
        begins = text.type.limit == len(wanted)  # the text may go on
        if field.count != 1:
            raise _NotVectorError
        if not wanted:  # what could not be read has no bytes either, and is not empty
            if kind != "str":
                raise _NotVectorError
            return lambda columns: (columns.made.located(field)[1] == 0) & ~columns.made.unread(field)
        if kind == "int":
            labels = Labels(self._schema)
            return lambda columns: _labelled(columns.column(field), lambda at: labels.name(field, at), wanted)
        if begins and kind != "str":
            raise _NotVectorError
        if kind in ADDRESSES:
            shown = wanted.decode("utf-8", "replace")
            return lambda columns: columns.column(field) == shown
        if kind == "str":
            return lambda columns: columns.equal_text(field, wanted, begins)
        if kind == "text":
            return lambda columns: columns.column(field) == wanted
        raise _NotVectorError

    def _match(self, text: c.ReadText, pattern: re.Pattern[bytes]) -> Mask:
        assert isinstance(text.place.base, c.Const)
        field, limit = self._schema.fields[text.place.base.value], text.type.limit
        if TYPES[field.type].kind != "str":
            raise _NotVectorError
        return lambda columns: columns.matched(field, pattern, limit)


def _bools(value: Any) -> Any:
    import numpy as np

    return np.asarray(value, dtype=bool)


def _as(values: Any, dtype: Any) -> Any:
    """The numbers as another type: the low bits, as in registers."""
    import numpy as np

    return np.asarray(values).astype(dtype, copy=False)


def _array(value: int, dtype: str) -> Any:
    import numpy as np

    return np.array([value], dtype=dtype)


def _where(chosen: Any, then: Any, otherwise: Any) -> Any:
    import numpy as np

    return np.where(_bools(chosen), then, otherwise)


def _narrow(ufunc: str, values: Any, number: int) -> Any:
    """A column and a number of its type, compared without widening it."""
    import numpy as np

    limits = np.iinfo(values.dtype)
    if not limits.min <= number <= limits.max:  # between s64 and u64 the bits are what counts
        number = (number - limits.min) % (limits.max - limits.min + 1) + limits.min
    return getattr(np, ufunc)(values, values.dtype.type(number))


def _labelled(values: Any, name: Callable[[int], str], wanted: bytes) -> Any:
    """Which numbers are called so; each different one is looked up once."""
    import numpy as np

    different, where = np.unique(values, return_inverse=True)
    same = np.array([name(value).encode() == wanted for value in different.tolist()], dtype=bool)
    return same[where.ravel()] if len(different) else np.zeros(0, bool)


def _divided(left: Any, right: Any) -> Any:
    import numpy as np

    return np.where(right == 0, 0, left // np.where(right == 0, 1, right)).astype(left.dtype)


def _remainder(left: Any, right: Any) -> Any:
    import numpy as np

    return np.where(right == 0, left, left % np.where(right == 0, 1, right)).astype(left.dtype)


_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda left, right: left + right,
    "sub": lambda left, right: left - right,
    "mul": lambda left, right: left * right,
    "div": _divided,
    "mod": _remainder,
    "and": lambda left, right: left & right,
    "or": lambda left, right: left | right,
    "xor": lambda left, right: left ^ right,
    "shl": lambda left, right: left << (right & 63),
    "shr": lambda left, right: left >> (right & 63),
}
_UFUNCS = {
    "eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal"
}  # fmt: skip
