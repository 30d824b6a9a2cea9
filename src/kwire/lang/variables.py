"""Type variables: what is known of a probe's locals, and of the fields of its events, while it is checked.

A variable is unified with every value it is given. What it is given as number constants (or None) leaves it
open, and the first other value decides. Two integers meet in the type that holds both; pointers, texts and
structures only with their like; everything else is a mistake at the place where it happens.

Besides, each place in a probe has a `State`: what the locals are there, on all the ways that lead to it. So
what is assigned later does not change what an expression means. Only at the head of a loop meet ways that
have not been looked at; the checker looks at a loop again where that made a local known better than it was
when it was read. Types have few others above them, so that comes to an end by itself.
"""

from kwire.hints import TypeAlias
from kwire.lang import checked as c
from kwire.lang import events, values
from kwire.lang import types as t
from kwire.lang.events import FieldType
from kwire.lang.types import Scalar, Type
from kwire.lang.value_range import Extent
from kwire.lazy import NamedTuple

OPEN = FieldType(None, ())
"""Nothing is known."""


class Variable(NamedTuple):
    """A local in the whole probe. `kind`: of all its values together; `wide`: what is at the address that it
    holds, of a text, array or structure (`fixed` as in `ReadText`); `declared`: by an annotation; `parts`: of
    a tuple, their names ("" where they have none), which are locals of their own; `text`: the limit of the
    text that it has in memory of its own, else 0.
    """

    number: int
    kind: FieldType = OPEN
    wide: Type | None = None
    fixed: int = 0
    declared: bool = False
    parts: tuple[str, ...] | None = None
    text: int = 0

    @property
    def type(self) -> Scalar:
        """Of its register."""
        return scalar(self.kind)

    @property
    def whole(self) -> Scalar | t.Text:
        """Of all that it holds."""
        return t.Text(self.text) if self.text else self.type


class Known(NamedTuple):
    """A local at one place. `kind`: of its values there; `extent`: between which numbers these are; `limit`:
    of the text that it is, 0 where two ways give two.
    """

    kind: FieldType
    extent: Extent | None = None
    limit: int = 0

    @property
    def type(self) -> Scalar:
        """Of its value."""
        return scalar(self.kind)


State: TypeAlias = dict[str, Known]
"""The locals that are set at a place, on all ways there, and what they are."""


def scalar(kind: FieldType) -> Scalar:
    """The type of a local of which this is known: that of its constants where it is open."""
    if kind == OPEN:
        return t.S64
    found = events.settle(kind, False)
    return found if isinstance(found, t.SCALARS) else t.S64


def union(a: FieldType, b: FieldType) -> FieldType | None:
    """What is known of a value that is one of two; None when no type holds both."""
    type_ = a.type if b.type is None else b.type if a.type is None else values.join(a.type, b.type)
    if type_ is None and (a.type or b.type):
        return None
    made = FieldType(type_, (*a.constants, *(one for one in b.constants if one not in a.constants)))
    return made if made == OPEN or events.settle(made, False) is not None else None


def meet(ways: list[State]) -> State:
    """What is known where ways meet: of the locals that are set on all of them."""
    first, *others = ways
    for other in others:
        first = {name: either(known, other[name]) for name, known in first.items() if name in other}
    return first


def either(a: Known, b: Known) -> Known:
    """What is known of a local that is one or the other."""
    if a == b:
        return a
    kind = union(a.kind, b.kind) or b.kind  # where there is none, that is told already
    extent = None
    if a.extent and b.extent:
        extent = min(a.extent[0], b.extent[0]), max(a.extent[1], b.extent[1])
    return Known(kind, extent, a.limit if a.limit == b.limit else 0)


def settled(
    statements: tuple[c.Stmt, ...], locals_: list[Scalar], fields: list[tuple[Type, ...]]
) -> tuple[c.Stmt, ...]:
    """The statements with all values of the types that their locals and fields have in the end."""
    return tuple(_settled(one, locals_, fields) for one in statements)


def _settled(one: c.Stmt, locals_: list[Scalar], fields: list[tuple[Type, ...]]) -> c.Stmt:
    match one:
        case c.LocalSet(local=number, value=value, span=span):
            return c.LocalSet(number, values.convert(value, locals_[number], span), span)
        case c.Emit(values=given, shape=number):
            types = fields[number]
            return one.replace(values=tuple(map(events.as_field, given, types)))
        case c.If(then=then, otherwise=otherwise):
            then, otherwise = settled(then, locals_, fields), settled(otherwise, locals_, fields)
            return one.replace(then=then, otherwise=otherwise)
        case c.Loop(body=body) | c.Block(body=body) | c.Each(body=body):
            return one.replace(body=settled(body, locals_, fields))
    assert isinstance(one, _PLAIN), one
    return one


_PLAIN = (
    c.TextSet,
    c.Store,
    c.Break,
    c.Continue,
    c.Leave,
    c.MapSet,
    c.MapDelete,
    c.Aggregate,
    c.Signal,
    c.Exit,
    c.Return,
)
"""Statements that give nothing to locals or fields."""
