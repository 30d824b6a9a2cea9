"""Conditions on decoded events: `--where EXPR`, checked by the language's checker as a filter of a probe is.

Names are the fields of a probe, and `time_ns` (wall clock) and `probe` (its spec). Invariants: an expression
means what it means in `--filter` and in a probe, and what is refused there is refused here, in the same
words. That is said before the first event; an event whose probe has not all the names is not wanted, unless
no probe has a name: then the name is a mistake, as is a comparison that no probe's events can make true. What
is finished text here compares as such, which a program in the kernel cannot do: two texts of an event, a
symbol with its name, an IPv4 address with a pattern, bytes with their hexadecimal digits.
"""

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from kwire.lang import builtins, comparisons, tree
from kwire.lang import checked as c
from kwire.lang import types as t
from kwire.lang.context import CtxField, Site
from kwire.lang.errors import (
    Diagnostic,
    LanguageError,
    NameTextError,
    TextError,
    nearest,
    never_anywhere,
)
from kwire.lang.expressions import PREFIX, ExpressionChecker
from kwire.lang.matching import regex
from kwire.lang.values import Literal, Value, wrap
from kwire.view.render import CONTEXT, Test, Values
from kwire.view.text import safe
from kwire.wire.fields import DISPLAYS, TYPES, UNREAD, Field, text_bytes
from kwire.wire.schema import Labels, Schema

Number: TypeAlias = Callable[[int, Values], int]
Text: TypeAlias = Callable[[int, Values], "bytes | None"]

SPECIAL = ("time_ns", "probe")
FUNCTIONS = frozenset(("str", "min", "max", "sizeof", "emit", "turns", "be16", "be32", "be64", *t.INTEGERS))
"""The functions that need no memory but the event's (and `emit` and `turns`, which are none)."""

TIME = -1
"""In the place of a field's number: the wall-clock time."""

BY_NAME = 1 << 40
"""Added to the offset of a place: the name of the number that is there."""

LONGEST = 1 << 16
ADDRESSES = ("ipv4", "ipv6", "mac")
SYMBOLS = ("ksym", "usym")
TEXTS = ("str", "text")
SHOWN = frozenset(DISPLAYS)
MASK = (1 << 64) - 1


class Where:
    """A condition, parsed once; `test` compiles it for a schema. LanguageError where it cannot be one."""

    __slots__ = ("_expression", "_source")

    def __init__(self, text: str, name: str = "where") -> None:
        from kwire.lang.python import parse_expression

        self._source = tree.Source(name, text)
        self._expression = parse_expression(text, name)

    @property
    def text(self) -> str:
        """The condition as it was written."""
        return self._source.text

    @property
    def expression(self) -> tree.Expr:
        """The syntax tree."""
        return self._expression

    def check(self, schemas: Iterable[Schema]) -> None:
        """Raise LanguageError where a name is in none of these schemas, the types do not fit in one, or a
        comparison is true in none.
        """
        unknown: list[NameTextError] = []
        never: list[list[Diagnostic]] = []
        schemas = list(schemas)
        for schema in schemas:
            here: list[Diagnostic] = []
            try:
                self.checked(schema, here)
            except NameTextError as error:
                unknown.append(error)
            else:
                never.append(here)
        if unknown and len(unknown) == len(schemas):
            first = unknown[0]
            diagnostic = first.diagnostic
            if first.name and not diagnostic.cure:
                known = {*SPECIAL, *(field.name for schema in schemas for field in schema.fields)}
                diagnostic = diagnostic._replace(cure=suggest(first.name, known))
            raise LanguageError(self._source, [diagnostic])
        wrong = never_anywhere(never)
        if wrong is not None:
            raise LanguageError(self._source, [wrong])

    def checked(self, schema: Schema, never: list[Diagnostic] | None = None) -> c.Expr:
        """The condition checked for events of one schema. Raises NameTextError where a name is not there.

        `never` takes the comparisons that none of its events makes true.
        """
        checker = _Checker(schema)
        checker.never = [] if never is None else never
        try:
            return checker.condition(self._expression)
        except NameTextError:
            raise
        except TextError as error:
            raise LanguageError(self._source, [error.diagnostic]) from None

    def test(self, schema: Schema) -> Test:
        """The condition for events of one schema: (wall-clock ns, values) → wanted or not."""
        try:
            number = Evaluator(schema).number(self.checked(schema))
        except NameTextError:
            return lambda time, values: False
        return lambda time, values: number(time, values) != 0


def suggest(name: str, known: Iterable[str]) -> str:
    """What to write instead of a name that is not there."""
    names = sorted(map(safe, set(known)))
    near = nearest(name, names)
    if near:
        return "did you mean " + " or ".join(near) + "?"
    return "there are: " + ", ".join(names[:12]) + (" …" if len(names) > 12 else "")


def dotted(member: tree.Member) -> tree.Name | None:
    """`a.b.c` as one name, the way a field made from it is called; None for anything else."""
    parts, value = [member.name], member.value
    while isinstance(value, tree.Member):
        parts.append(value.name)
        value = value.value
    if not isinstance(value, tree.Name):
        return None
    return tree.Name(".".join([value.id, *reversed(parts)]), member.span)


class _Types:
    """What a capture knows of the kernel's types: the names in its tables."""

    namespaced = False

    def __init__(self, schema: Schema) -> None:
        self._tables = schema.enums

    def type(self, text: str, module: str = "") -> t.Type:
        """The integer types by name; there are no others."""
        return t.INTEGERS[text]

    def member(self, struct: t.Struct, name: str) -> None:
        """There are no structures."""

    def members(self, struct: t.Struct) -> list[str]:
        """There are no structures."""
        return []

    def enumerator(self, name: str) -> tuple[int, t.Type] | None:
        """A name of one of the schema's tables: a signed number, as in the kernel, if it fits."""
        for label, table in self._tables.items():
            for value, one in table.items():
                if one == name:
                    return value, t.Enum(label, 8, value < 1 << 63)
        return None


class _Checker(ExpressionChecker):
    """ExpressionChecker over the fields of one schema; what a field is at stands in its place's base."""

    def __init__(self, schema: Schema) -> None:
        super().__init__(Site("event", schema.target, ()), _Types(schema))
        self._schema = schema
        self._fields: Mapping[str, tuple[int, Field]] = {
            field.name: (index, field) for index, field in enumerate(schema.fields)
        }

    def binding(self, name: str, span: tree.Span) -> Value | None:
        """A field, the time, or the probe."""
        if name in self._fields:
            return _stored(*self._fields[name], self._schema, span)
        if name == "time_ns":
            return c.Param(name, CtxField(TIME, 8), t.S64, span)
        if name == "probe":
            return Literal(self._schema.probe, t.Text(len(self._schema.probe)), span)
        if name in builtins.BY_NAME or name in builtins.NUMBERED:
            raise self._unknown(name, span)
        return None

    def _unknown(self, name: str, span: tree.Span) -> NameTextError:
        if name in builtins.FUNCTION or name == "args":
            return super()._unknown(name, span)
        return NameTextError(span, f"unknown name {name}", "", name)

    def _member(self, node: tree.Member) -> Value:
        name = dotted(node)
        if name is None:
            raise TextError(node.span, "members of values cannot be taken here", "name a field")
        found = self.binding(self._field_of(name.id), node.span)
        if found is None:
            raise self._unknown(name.id, node.span)
        return found

    def _field_of(self, name: str) -> str:
        """The field that a name with dots means: `args.x` is in events as `x`, or as `args_x`."""
        own = name.removeprefix("args.")
        if own == name or name in self._fields:
            return name
        return PREFIX + own if PREFIX + own in self._fields or own in CONTEXT else own

    def named_type(self, text: str, span: tree.Span) -> t.Type:
        """An integer type."""
        if text not in t.INTEGERS:
            raise TextError(span, f"a capture does not hold the type {text}", "cast to u8 … u64, s8 … s64")
        return super().named_type(text, span)

    def _call(self, node: tree.Call) -> Value:
        if node.function in builtins.FUNCTION and node.function not in FUNCTIONS:
            message = f"{node.function} reads memory, of which a capture keeps the fields"
            raise TextError(node.span, message, "name a field")
        return super()._call(node)

    def element(self, value: Value, index: c.Expr, span: tree.Span) -> Value:
        """One element of an array; of a text one of its bytes."""
        if isinstance(value, c.ReadText):
            field = self._schema.fields[_index_of(value)]
            if TYPES[field.type].kind not in TEXTS:
                raise TextError(span, f"{field.name} has no elements", "compare all of it")
        return super().element(value, index, span)

    def compare(self, op: str, left: Value, right: Value, span: tree.Span) -> c.Expr:
        """As everywhere; and what is finished text here with texts."""
        for value, other in ((left, right), (right, left)):
            if not isinstance(other, Literal):
                continue
            if isinstance(value, c.ReadText) and self._is_address(value):
                comparisons.unordered(op, span)
                other = self._canonical(value, other)
            elif isinstance(value, c.Param | c.Load) and self._is_symbol(value):
                comparisons.unordered(op, span)
                value = self._name_of(value)
            left, right = (value, other) if isinstance(right, Literal) else (other, value)
        for value in (left, right):
            if isinstance(value, c.ReadText) and self._is_address(value):
                comparisons.unordered(op, span)
        return super().compare(op, left, right, span)

    def constant(self, name: str) -> int | None:
        """The number of a name: of the schema's tables, before this machine's."""
        found = self.types.enumerator(name)
        return super().constant(name) if found is None else found[0]

    def _is_symbol(self, value: c.Param | c.Load) -> bool:
        """Whether a value is an address that the schema may have a name for."""
        index = _index_of(value)
        return index != TIME and self._schema.fields[index].type in SYMBOLS

    def _name_of(self, value: c.Param | c.Load) -> c.ReadText:
        """The name of an address."""
        at = value.place.offset if isinstance(value, c.Load) else 0
        indexes = value.place.indexes if isinstance(value, c.Load) else ()
        base = c.Const(_index_of(value), t.S64, value.span)
        place = c.Place(base, at | BY_NAME, indexes, t.KERNEL, value.span)
        return c.ReadText(place, t.Text(LONGEST), value.span)

    def _is_address(self, text: c.ReadText) -> bool:
        return self._schema.fields[_index_of(text)].type in ADDRESSES

    def _canonical(self, text: c.ReadText, literal: Literal) -> Literal:
        """The usual way to write an address. Raises TextError for what is none."""
        kind = self._schema.fields[_index_of(text)].type
        if kind == "ipv4":
            comparisons.ipv4(literal)
            return literal
        data = comparisons.address_bytes(kind, literal)
        from kwire.wire.fields import ipv6_text, mac_text

        return literal.replace(value=ipv6_text(data) if kind == "ipv6" else mac_text(data))


def _index_of(value: c.Param | c.Load | c.ReadText) -> int:
    """The number of the field that a value is read from."""
    if isinstance(value, c.Param):
        assert isinstance(value.access, CtxField)
        return value.access.offset
    assert isinstance(value.place.base, c.Const)
    return value.place.base.value


def _stored(index: int, field: Field, schema: Schema, span: tree.Span) -> Value:
    """A field as the checker sees it."""
    kind = TYPES[field.type].kind
    base = c.Const(index, t.S64, span)
    place = c.Place(base, 0, (), t.KERNEL, span)
    if kind not in ("int", "bool"):
        most = field.limit if kind == "str" else field.size if kind == "text" else 0
        text = c.ReadText(place, t.Text(most or LONGEST), span, most)
        if field.count == 1:
            return text
        raise TextError(span, f"{field.name} is an array of {field.count} addresses", "show it, and look")
    size = field.size // field.count
    type_: t.Scalar = (
        t.BOOL
        if kind == "bool"
        else t.Int(size, TYPES[field.type].signed, field.display if field.display in SHOWN else "")
    )
    table = schema.enums.get(field.enum, {}) if field.enum else {}
    if table:
        names = tuple((name, value) for value, name in table.items())
        type_ = t.Enum(field.enum, size, TYPES[field.type].signed, names)
    if field.count == 1:
        return c.Param(field.name, CtxField(index, size), type_, span)
    element = t.U8 if kind == "bool" else type_
    return c.ReadBlock(place, field.size, t.Array(element, field.count), span)


class Evaluator:
    """From the checked form to functions of one event: numbers as their types hold them."""

    __slots__ = ("_schema",)

    def __init__(self, schema: Schema) -> None:
        self._schema = schema

    def number(self, e: Any) -> Number:
        """The mathematical value of a scalar expression."""
        match e:
            case c.Const(value=value):
                return lambda time, values: value
            case c.Param(access=CtxField(offset=index)):
                if index == TIME:
                    return lambda time, values: time
                return lambda time, values: values[index]
            case c.Load():
                return self._element(e)
            case c.Binary():
                return self._binary(e)
            case c.Compare(op=op, left=left, right=right):
                # Both sides are within one of s64 and u64, so their numbers compare as registers would.
                test, a, b = getattr(operator, op), self.number(left), self.number(right)
                view = _registers(e)
                return lambda time, values: test(view(a(time, values)), view(b(time, values)))
            case c.TextEqual(text=text, literal=literal):
                of = self.text(text)
                return lambda time, values: of(time, values) == literal
            case c.TextMatch(text=text, pieces=pieces):
                of, matches = self.text(text), regex(pieces).fullmatch
                return lambda time, values: matches(of(time, values) or b"") is not None
            case c.TextOrder(op=op, text=text, literal=literal):
                test, of = getattr(operator, op), self.text(text)
                return lambda time, values: (found := of(time, values)) is not None and test(found, literal)
            case c.TextCompare(op=op, left=left, right=right):
                test, one, two = getattr(operator, op), self.text(left), self.text(right)

                def compared(time: int, values: Values) -> bool:
                    a, b = one(time, values), two(time, values)
                    return bool(test(a, b)) if a is not None and b is not None else op == "ne"

                return compared
            case c.Logic(op=op, left=left, right=right):
                a, b = self.number(left), self.number(right)
                if op == "and":
                    return lambda time, values: a(time, values) != 0 and b(time, values) != 0
                return lambda time, values: a(time, values) != 0 or b(time, values) != 0
            case c.Not(operand=operand):
                a = self.number(operand)
                return lambda time, values: a(time, values) == 0
            case c.Select(test=test, then=then, otherwise=otherwise):
                chosen, a, b = self.number(test), self.number(then), self.number(otherwise)
                return lambda time, values: (a if chosen(time, values) else b)(time, values)
            case c.Negate() | c.Invert() | c.Convert() | c.Retype():
                return self._changed(e)
            case c.Bswap(operand=operand, size=size):
                a = self.number(operand)
                little, cut = self._schema.order == "little", (1 << 8 * size) - 1
                return lambda time, values: int.from_bytes(
                    (a(time, values) & cut).to_bytes(size, "little" if little else "big"), "big"
                )
        raise TextError(e.span, "this cannot be evaluated here", "compare fields")

    def _changed(self, e: Any) -> Number:
        a, type_ = self.number(e.operand), e.type
        if isinstance(e, c.Negate):
            return lambda time, values: wrap(-a(time, values), type_)
        if isinstance(e, c.Invert):
            return lambda time, values: wrap(~a(time, values), type_)
        return lambda time, values: wrap(a(time, values), type_)

    def _binary(self, e: c.Binary) -> Number:
        operate, a, b, type_ = BINARY[e.op], self.number(e.left), self.number(e.right), e.type
        return lambda time, values: wrap(
            operate(wrap(a(time, values), type_), wrap(b(time, values), type_)), type_
        )

    def _element(self, e: c.Load) -> Number:
        of = self._item(e.place)
        return lambda time, values: int(of(time, values) or 0)

    def _item(self, place: c.Place) -> Callable[[int, Values], Any]:
        """One element of an array field; None outside of it."""
        assert isinstance(place.base, c.Const)
        index = place.base.value
        field = self._schema.fields[index]
        is_text = TYPES[field.type].kind in TEXTS
        size = 1 if is_text else field.size // field.count
        first = (place.offset & ~BY_NAME) // size
        steps = [(self.number(one.value), one.stride // size, one.length) for one in place.indexes]

        def item(time: int, values: Values) -> Any:
            at = first
            for step, stride, length in steps:
                number = step(time, values)
                if length and not 0 <= number < length:
                    return None
                at += number * stride
            if is_text:
                data = text_bytes(values[index])
                return wrap(data[at], t.CHAR) if 0 <= at < len(data) else 0
            return values[index][at] if 0 <= at < field.count else None

        return item

    def text(self, e: Any) -> Text:
        """The bytes of a text; None where it could not be read."""
        if isinstance(e, Literal):
            literal = e.value.encode()
            return lambda time, values: literal
        assert isinstance(e, c.ReadText)
        index, limit = _index_of(e), e.type.limit
        field = self._schema.fields[index]
        kind = TYPES[field.type].kind
        if kind in ("int", "bool") and not e.place.offset & BY_NAME:  # an array of bytes, as text
            return lambda time, values: bytes(map(int, values[index])).partition(b"\0")[0][:limit]
        if kind == "int":
            labels, item = Labels(self._schema), self._item(e.place) if field.count > 1 else None
            if item is not None:
                return lambda time, values: labels.name(field, item(time, values) or 0).encode()
            return lambda time, values: labels.name(field, values[index]).encode()
        if kind in ADDRESSES:
            return lambda time, values: values[index].encode()[:limit]
        of: Callable[[Any], bytes] = _hexadecimal if kind in ("bytes", "raw") else text_bytes
        return lambda time, values: None if isinstance(values[index], UNREAD) else of(values[index])[:limit]


def _hexadecimal(value: bytes) -> bytes:
    return value.hex().encode()


def _registers(e: c.Compare) -> Callable[[int], int]:
    """How a comparison sees its operands."""
    if e.op in ("eq", "ne") or not e.signed:
        return lambda value: value & MASK
    return lambda value: value


def _sign(left: int, right: int) -> int:
    return -1 if (left < 0) != (right < 0) else 1


BINARY: dict[str, Callable[[int, int], int]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": lambda left, right: left // right if right else 0,
    "mod": lambda left, right: left % right if right else left,
    "quo": lambda left, right: abs(left) // abs(right) * _sign(left, right) if right else 0,
    "rem": lambda left, right: abs(left) % abs(right) * _sign(left, 1) if right else left,
    "and": operator.and_,
    "or": operator.or_,
    "xor": operator.xor,
    "shl": lambda left, right: left << (right & 63),
    "shr": lambda left, right: left >> (right & 63),
}
"""Operators on numbers of the operation's type; the result is wrapped to it."""
