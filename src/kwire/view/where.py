"""Conditions on decoded events: `--where EXPR`, the language's expressions evaluated over an event's fields.

Names are the fields of a probe, and `time_ns` (wall clock) and `probe` (its spec). The laws: what is wrong
with an expression is said before the first event, with its place in the text; an event whose probe has not
all the names is not wanted, unless no probe has a name: then the name is a mistake. Numbers are unbounded; as
in the kernel, x / 0 is 0 and x % 0 is x. An enum compares with its names, a symbol with its name, an address
with its usual text.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

from kwire.lang import tree
from kwire.lang.errors import Diagnostic, LanguageError, TextError, nearest
from kwire.view.render import Test, Values
from kwire.view.text import safe
from kwire.view.values import displayed
from kwire.wire.fields import TYPES, Field
from kwire.wire.schema import Labels, Schema

Evaluate: TypeAlias = Callable[[int, Values], Any]

SPECIAL = {"time_ns": "number", "probe": "text"}
NOT_HERE = {
    tree.Call: "functions cannot be called here",
    tree.Cast: "casts cannot be used here",
}


def _divide(left: int, right: int) -> int:
    return left // right if right else 0


def _remainder(left: int, right: int) -> int:
    return left % right if right else left


def _shift(left: int, by: int, right: bool) -> int:
    return left >> (by & 63) if right else (left << (by & 63)) & (1 << 64) - 1


BINARY: dict[str, Callable[[int, int], int]] = {
    "add": lambda left, right: left + right,
    "sub": lambda left, right: left - right,
    "mul": lambda left, right: left * right,
    "div": _divide,
    "mod": _remainder,
    "and": lambda left, right: left & right,
    "or": lambda left, right: left | right,
    "xor": lambda left, right: left ^ right,
    "shl": lambda left, right: _shift(left, right, False),
    "shr": lambda left, right: _shift(left, right, True),
}
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda left, right: bool(left == right),
    "ne": lambda left, right: bool(left != right),
    "lt": lambda left, right: bool(left < right),
    "le": lambda left, right: bool(left <= right),
    "gt": lambda left, right: bool(left > right),
    "ge": lambda left, right: bool(left >= right),
}


class _Operand(NamedTuple):
    """A compiled expression: how to evaluate it and what it gives: number, text, bytes, list.

    `named` gives the name of a number where it has one (enums, symbols), for comparisons with text.
    """

    evaluate: Evaluate
    kind: str
    named: Callable[[int], str] | None = None
    element: str = ""


class _MissingError(Exception):
    """A name that this schema has not got."""


class Where:
    """A condition, parsed once; `test` compiles it for a schema. LanguageError where it cannot be one."""

    __slots__ = ("_expression", "_source")

    def __init__(self, text: str, name: str = "--where") -> None:
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
        """Raise LanguageError where a name is in none of these schemas, or the types do not fit in one."""
        schemas = list(schemas)
        known = set(SPECIAL) | {field.name for schema in schemas for field in schema.fields}
        for name in _names(self._expression):
            if name.id not in known and all(constant(name.id, schema) is None for schema in schemas):
                self._fail(name.span, f"no probe here has a field {name.id!r}", suggest(name.id, known))
        for schema in schemas:
            self.test(schema)

    def test(self, schema: Schema) -> Test:
        """The condition for events of one schema: (wall-clock ns, values) → wanted or not."""
        try:
            operand = _Compiler(schema).compile(resolved(self._expression, schema))
        except _MissingError:
            return lambda time, values: False
        except TextError as error:
            raise LanguageError(self._source, [error.diagnostic]) from None
        evaluate = operand.evaluate

        def test(time: int, values: Values) -> bool:
            return bool(evaluate(time, values))

        return test

    def _fail(self, span: tree.Span, message: str, cure: str) -> None:
        raise LanguageError(self._source, [Diagnostic(span, message, cure)])


def suggest(name: str, known: Iterable[str]) -> str:
    """What to write instead of a name that is not there."""
    names = sorted(map(safe, set(known)))
    near = nearest(name, names)
    if near:
        return "did you mean " + " or ".join(near) + "?"
    return "there are: " + ", ".join(names[:12]) + (" …" if len(names) > 12 else "")


def _names(expression: tree.Expr) -> list[tree.Name]:
    """All names in an expression, dotted ones as one."""
    if isinstance(expression, tree.Name):
        return [expression]
    if isinstance(expression, tree.Member):
        return [dotted(expression) or tree.Name(expression.name, expression.span)]
    found: list[tree.Name] = []
    for part in _children(expression):
        found += _names(part)
    return found


def _children(expression: tree.Expr) -> list[tree.Expr]:
    match expression:
        case tree.Index(value, subscript):
            return [value, subscript]
        case tree.Unary(_, operand):
            return [operand]
        case tree.Binary(_, left, right):
            return [left, right]
        case tree.Compare(left, rest):
            return [left, *(operand for _, operand in rest)]
        case tree.Logic(_, operands):
            return list(operands)
        case tree.Conditional(test, then, otherwise):
            return [test, then, otherwise]
    return []


def constant(name: str, schema: Schema) -> int | None:
    """The number that a name stands for which is no field: of the schema's tables, or of Linux."""
    if not name[:1].isupper():
        return None
    for table in schema.enums.values():
        for value, label in table.items():
            if label == name:
                return value
    from os import uname

    from kwire.wire.names import constant as of_linux

    return of_linux(name, uname().machine)


def resolved(expression: tree.Expr, schema: Schema) -> tree.Expr:
    """The expression with numbers in the place of constants' names, and of what is made of numbers alone."""
    fields = {field.name for field in schema.fields} | set(SPECIAL)

    def number(node: tree.Expr) -> tree.Expr:
        match node:
            case tree.Name(name, span) if name not in fields:
                value = constant(name, schema)
                return node if value is None else tree.Number(value, span)
            case tree.Index(value, subscript):
                return node._replace(value=number(value), subscript=number(subscript))
            case tree.Unary("neg", operand, span):
                operand = number(operand)
                if isinstance(operand, tree.Number):
                    return tree.Number(-operand.value, span)
                return node._replace(operand=operand)
            case tree.Unary(_, operand):
                return node._replace(operand=number(operand))
            case tree.Binary(op, left, right, span):
                left, right = number(left), number(right)
                if isinstance(left, tree.Number) and isinstance(right, tree.Number):
                    return tree.Number(BINARY[op](left.value, right.value), span)
                return node._replace(left=left, right=right)
            case tree.Compare(left, rest):
                return node._replace(left=number(left), rest=tuple((op, number(one)) for op, one in rest))
            case tree.Logic(_, operands):
                return node._replace(operands=tuple(map(number, operands)))
            case tree.Conditional(test, then, otherwise):
                return node._replace(test=number(test), then=number(then), otherwise=number(otherwise))
        return node

    return number(expression)


def dotted(member: tree.Member) -> tree.Name | None:
    """`a.b.c` as one name, the way a field made from it is called; None for anything else."""
    parts, value = [member.name], member.value
    while isinstance(value, tree.Member):
        parts.append(value.name)
        value = value.value
    if not isinstance(value, tree.Name):
        return None
    return tree.Name(".".join([value.id, *reversed(parts)]), member.span)


class _Compiler:
    """From a tree to closures, for one schema."""

    __slots__ = ("_fields", "_labels", "_schema")

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._fields: Mapping[str, tuple[int, Field]] = {
            field.name: (index, field) for index, field in enumerate(schema.fields)
        }
        self._labels = Labels(schema)

    def compile(self, node: tree.Expr) -> _Operand:
        match node:
            case tree.Number(value):
                return _Operand(lambda time, values: value, "number")
            case tree.String(value):
                return _Operand(lambda time, values: value, "text")
            case tree.Name(name):
                return self._name(name)
            case tree.Member():
                name_of = dotted(node)
                if name_of is None:
                    raise TextError(node.span, "members of values cannot be taken here", "name a field")
                return self._name(name_of.id)
            case tree.Index():
                return self._index(node)
            case tree.Unary():
                return self._unary(node)
            case tree.Binary(op, left, right):
                one, two = self._number(left), self._number(right)
                operate = BINARY[op]
                return _Operand(lambda time, values: operate(one(time, values), two(time, values)), "number")
            case tree.Compare():
                return self._compare(node)
            case tree.Logic(op, operands):
                return self._logic(op, [self.compile(operand).evaluate for operand in operands])
            case tree.Conditional(test, then, otherwise):
                chosen = self.compile(test).evaluate
                one_, two_ = self.compile(then), self.compile(otherwise)
                if one_.kind != two_.kind:
                    raise TextError(node.span, f"gives {one_.kind} or {two_.kind}", "give one kind of value")
                yes, no = one_.evaluate, two_.evaluate
                return _Operand(
                    lambda time, values: (yes if chosen(time, values) else no)(time, values), one_.kind
                )
        raise TextError(node.span, NOT_HERE.get(type(node), "this cannot be used here"), "compare fields")

    def _name(self, name: str) -> _Operand:
        if name in self._fields:
            return self._field(*self._fields[name])
        if name == "time_ns":
            return _Operand(lambda time, values: time, "number")
        if name == "probe":
            spec = self._schema.probe
            return _Operand(lambda time, values: spec, "text")
        raise _MissingError(name)

    def _field(self, index: int, field: Field) -> _Operand:
        kind = TYPES[field.type].kind
        gives = "number" if kind in ("int", "bool") else "bytes" if kind in ("bytes", "raw") else "text"
        named: Callable[[int], str] | None = None
        if kind == "int" and (field.enum or field.type in ("ksym", "usym")):
            labels = self._labels
            named = lambda value: labels.name(field, value)  # noqa: E731  # one line, used once
        elif kind == "int":
            named = displayed(self._schema, field)
        if field.count > 1:
            return _Operand(lambda time, values: values[index], "list", named, gives)
        return _Operand(lambda time, values: values[index], gives, named)

    def _index(self, node: tree.Index) -> _Operand:
        whole, at = self.compile(node.value), self._number(node.subscript)
        if whole.kind != "list":
            raise TextError(node.span, f"{whole.kind} has no elements", "only array fields have")
        of, empty = whole.evaluate, 0 if whole.element == "number" else ""

        def element(time: int, values: Values) -> Any:
            items, index = of(time, values), at(time, values)
            return items[index] if 0 <= index < len(items) else empty

        return _Operand(element, whole.element, whole.named)

    def _unary(self, node: tree.Unary) -> _Operand:
        if node.op == "not":
            value = self.compile(node.operand).evaluate
            return _Operand(lambda time, values: not value(time, values), "number")
        number = self._number(node.operand)
        if node.op == "neg":
            return _Operand(lambda time, values: -number(time, values), "number")
        if node.op == "inv":
            return _Operand(lambda time, values: ~number(time, values), "number")
        return _Operand(number, "number")

    def _logic(self, op: str, parts: list[Evaluate]) -> _Operand:
        if op == "and":
            return _Operand(lambda time, values: all(part(time, values) for part in parts), "number")
        return _Operand(lambda time, values: any(part(time, values) for part in parts), "number")

    def _compare(self, node: tree.Compare) -> _Operand:
        operands = [self.compile(node.left), *(self.compile(operand) for _, operand in node.rest)]
        spans = [node.left.span, *(operand.span for _, operand in node.rest)]
        pairs = []
        for place, (op, _) in enumerate(node.rest):
            left, right = self._alike(operands[place], operands[place + 1], spans[place + 1])
            pairs.append((left, COMPARE[op], right))
        if len(pairs) == 1:
            left, compare, right = pairs[0]
            return _Operand(lambda time, values: compare(left(time, values), right(time, values)), "number")
        return _Operand(
            lambda time, values: all(
                compare(one(time, values), two(time, values)) for one, compare, two in pairs
            ),
            "number",
        )

    def _alike(self, left: _Operand, right: _Operand, span: tree.Span) -> tuple[Evaluate, Evaluate]:
        """Both sides in a form that compares; TextError where there is none."""
        if left.kind == right.kind and left.kind != "list":
            return left.evaluate, right.evaluate
        for one, two in ((left, right), (right, left)):
            if one.kind == "number" and one.named is not None and two.kind == "text":
                name = _name(one.evaluate, one.named)
                return (name, right.evaluate) if one is left else (left.evaluate, name)
        if {left.kind, right.kind} == {"bytes", "text"}:
            return _hex(left), _hex(right)
        raise TextError(span, f"{left.kind} does not compare with {right.kind}", "compare like with like")

    def _number(self, node: tree.Expr) -> Evaluate:
        operand = self.compile(node)
        if operand.kind != "number":
            raise TextError(node.span, f"a number is wanted, this is {operand.kind}", "")
        return operand.evaluate


def _name(number: Evaluate, named: Callable[[int], str]) -> Evaluate:
    return lambda time, values: named(number(time, values))


def _hex(operand: _Operand) -> Evaluate:
    if operand.kind == "text":
        return operand.evaluate
    evaluate = operand.evaluate
    return lambda time, values: evaluate(time, values).hex()
