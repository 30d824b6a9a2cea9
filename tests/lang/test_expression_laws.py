"""Laws that hold for every expression: printed and parsed again it is the same; constants fold exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import shown_tree
from hypothesis import given
from hypothesis import strategies as st

from kwire.lang import checked, python, record, tree, types, values
from kwire.lang.context import Site
from kwire.lang.errors import LanguageError, TextError
from kwire.lang.expressions import ExpressionChecker
from kwire.lang.forms import Form
from kwire.lang.kerneltypes import KernelTypes
from kwire.lang.tree import NOWHERE, Expr

NAMES = st.sampled_from(["pid", "sk", "args", "x_1", "größe"])


def _extend(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    some = st.lists(inner, min_size=2, max_size=3).map(tuple)
    compares = st.lists(st.tuples(st.sampled_from(sorted(tree.COMPARE)), inner), min_size=1, max_size=2).map(
        tuple
    )
    keywords = st.dictionaries(NAMES, inner, max_size=2).map(lambda found: tuple(found.items()))
    calls = st.sampled_from(["str", "user", "emit", "min"])
    return st.one_of(
        st.builds(lambda value, name: tree.Member(value, name, NOWHERE, NOWHERE), inner, NAMES),
        st.builds(lambda value, index: tree.Index(value, index, NOWHERE), inner, inner),
        st.builds(lambda op, value: tree.Unary(op, value, NOWHERE), st.sampled_from(["inv", "not"]), inner),
        st.builds(
            lambda op, a, b: tree.Binary(op, a, b, NOWHERE),
            st.sampled_from(sorted(tree.BINARY.keys() - {"quo", "rem"})),  # not written in Python
            inner,
            inner,
        ),
        st.builds(lambda a, rest: tree.Compare(a, rest, NOWHERE), inner, compares),
        st.builds(
            lambda op, operands: tree.Logic(op, operands, NOWHERE), st.sampled_from(["and", "or"]), some
        ),
        st.builds(lambda a, b, c: tree.Conditional(a, b, c, NOWHERE), inner, inner, inner),
        st.builds(lambda value: tree.Cast("struct sock *", value, NOWHERE, NOWHERE), inner),
        st.builds(lambda *items: tree.Tuple(items, NOWHERE), inner, inner),
        st.builds(lambda *items: tree.Tuple(items, NOWHERE, ("a", "b")), inner, inner),
        st.builds(
            lambda f, given, named: tree.Call(f, given, named, NOWHERE, NOWHERE), calls, some, keywords
        ),
    )


LEAVES: st.SearchStrategy[Expr] = st.one_of(
    st.builds(lambda name: tree.Name(name, NOWHERE), NAMES),
    st.builds(lambda value: tree.Number(value, NOWHERE), st.integers(-(1 << 63), (1 << 64) - 1)),
    st.builds(lambda value: tree.Number(int(value), NOWHERE, True), st.booleans()),
    st.builds(
        lambda value: tree.String(value, NOWHERE),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    ),
)
EXPRESSIONS = st.recursive(LEAVES, _extend, max_leaves=12)


def _without_spans(node: Any) -> Any:
    if isinstance(node, tree.Span):
        return NOWHERE
    if isinstance(node, Form):
        return type(node)(*map(_without_spans, node.contents()))
    if isinstance(node, tuple):
        return tuple(map(_without_spans, node))
    return node


@given(EXPRESSIONS)
def test_what_is_printed_parses_to_the_same(node: Expr) -> None:
    text = shown_tree.expression(node)
    assert _without_spans(python.parse_expression(text, "x")) == _without_spans(node)


@given(EXPRESSIONS)
def test_spans_lie_in_the_text(node: Expr) -> None:
    text = shown_tree.expression(node)
    lines = text.split("\n")

    def walk(part: Any) -> None:
        if isinstance(part, tree.Span):
            assert 1 <= part.line <= part.end_line <= len(lines)
            assert 0 <= part.column < len(lines[part.line - 1])
            assert 0 < part.end_column <= len(lines[part.end_line - 1])
        elif isinstance(part, tuple):
            for one in part:
                walk(one)

    walk(python.parse_expression(text, "x"))


@given(st.text(max_size=60))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        python.parse_expression(text, "x")
    except LanguageError as error:
        assert error.detail  # noqa: PT017 (both ends are right)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_file_or_refused(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    try:
        python.parse_file(text + '\n@kprobe("f")\ndef f():\n  ' + text, "x")
    except LanguageError as error:
        assert error.detail  # noqa: PT017


@pytest.fixture(scope="module")
def checker(types: KernelTypes, site: Callable[[str], Site]) -> ExpressionChecker:
    return ExpressionChecker(site("kprobe:connect"), types, own_fields=True)


@given(EXPRESSIONS)
def test_checking_ends_with_a_typed_value_or_a_complaint(checker: ExpressionChecker, node: Expr) -> None:
    try:
        value = checker.check(node)
    except TextError as error:
        assert error.diagnostic.message  # noqa: PT017
        return
    assert types.describe(value.type)


SOME = st.integers(-(1 << 63), (1 << 64) - 1)


@given(st.sampled_from(sorted(tree.BINARY)), SOME, SOME)
def test_constants_are_calculated_as_registers_would(
    checker: ExpressionChecker, op: str, a: int, b: int
) -> None:
    """Where the mathematical result fits 64 bits, it is what eBPF calculates; elsewhere it is refused."""
    node = tree.Binary(op, tree.Number(a, NOWHERE), tree.Number(b, NOWHERE), NOWHERE)
    try:
        value = checker.check(node)
    except TextError:
        return
    assert isinstance(value, checked.Const)
    low, high = values.bounds(value.type)
    assert low <= value.value <= high
    expected = {
        "add": lambda: a + b,
        "sub": lambda: a - b,
        "mul": lambda: a * b,
        "div": lambda: a // b,
        "mod": lambda: a % b,
        "quo": lambda: abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1),
        "rem": lambda: abs(a) % abs(b) * (-1 if a < 0 else 1),
        "and": lambda: a & b,
        "or": lambda: a | b,
        "xor": lambda: a ^ b,
        "shl": lambda: a << b,
        "shr": lambda: a >> b,
    }
    assert value.value == expected[op]()


SCALARS = [types.BOOL, *types.INTEGERS.values(), types.Pointer(types.VOID)]


@given(SOME, st.sampled_from(SCALARS))
def test_a_wrapped_value_is_the_low_bits(value: int, type_: types.Scalar) -> None:
    wrapped = values.wrap(value, type_)
    low, high = values.bounds(type_)
    assert low <= wrapped <= high
    if isinstance(type_, types.Bool):
        assert wrapped == (value != 0)
    else:
        assert (wrapped - value) % (1 << types.size_of(type_) * 8) == 0


@given(st.sampled_from(SCALARS), st.sampled_from(SCALARS))
def test_a_join_holds_both(a: types.Scalar, b: types.Scalar) -> None:
    joined = values.join(a, b)
    if joined is None:
        assert isinstance(a, types.Pointer) != isinstance(b, types.Pointer)
        return
    assert values.join(b, a) == joined
    if types.size_of(joined) < 8:
        for one in (a, b):
            assert values.bounds(joined)[0] <= values.bounds(one)[0]
            assert values.bounds(one)[1] <= values.bounds(joined)[1]


def test_macros_parse() -> None:
    from kwire.lang import builtins

    for one in builtins.BUILTINS:
        if one.macro:
            assert shown_tree.expression(python.parse_expression(one.macro, one.name)) == one.macro


def test_names_of_the_context_are_builtins() -> None:
    from kwire.lang import builtins

    assert set(record.CONTEXT) <= builtins.BY_NAME.keys()
