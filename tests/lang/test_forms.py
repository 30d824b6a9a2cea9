"""Values known by their class and fields, and trees of them."""

import copy
import pickle
from typing import Any

import pytest

from kwire.compile.shape import COUNTS, shape
from kwire.lang import checked as c
from kwire.lang import types as t
from kwire.lang.context import Argument, CtxField, Result
from kwire.lang.forms import Form, Node, children, rewrite, walk
from kwire.lang.tree import NOWHERE

ONE, TWO = (c.Const(number, t.S64, NOWHERE) for number in (1, 2))
SUM = c.Binary("add", ONE, c.Negate(TWO, t.S64, NOWHERE), t.S64, NOWHERE)


def test_forms_are_equal_by_class_and_parts() -> None:
    assert Argument(1) == Argument(1)
    assert Argument(1) != Result(1)
    assert hash(Argument(1)) == hash(Argument(1))
    assert CtxField(1, 2) != (1, 2)
    assert {t.BOOL: 1, t.VOID: 2}[t.VOID] == 2
    assert t.Pointer(t.VOID) != t.Pointer(t.BOOL)
    assert t.Int(4, True) == t.Int(size=4, signed=True, char=False)


def test_forms_are_made_copied_and_kept() -> None:
    assert repr(t.Text(4)) == "Text(limit=4, space='kernel', exact=False)"
    assert t.Text(4).replace(space="user") == t.Text(4, "user")
    assert pickle.loads(pickle.dumps(SUM)) == SUM == copy.deepcopy(SUM)
    assert not hasattr(SUM, "__dict__")
    match SUM:
        case c.Binary("add", c.Const(value=1), c.Negate(operand)):
            assert operand is TWO
        case _:
            pytest.fail("the form does not match its parts")


@pytest.mark.parametrize(
    ("given", "named"), [((), {}), ((1, 2, 3, 4), {}), ((1,), {"limit": 2}), ((1,), {"color": 2})]
)
def test_a_form_takes_its_parts_and_no_others(given: tuple[Any, ...], named: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="Text has the fields"):
        t.Text(*given, **named)


def test_trees_are_walked_in_order() -> None:
    assert list(children(SUM)) == [ONE, SUM.right]
    assert [type(one).__name__ for one in walk(SUM)] == ["Binary", "Const", "Negate", "Const"]
    body = c.If(SUM, (c.Return(NOWHERE),), (c.Emit((ONE, TWO), NOWHERE),), NOWHERE)
    assert [type(one).__name__ for one in children(body)] == ["Binary", "Return", "Emit"]


def test_trees_are_rewritten_from_the_top() -> None:
    changed = rewrite(SUM, lambda node: TWO if node == ONE else None)
    assert changed == SUM.replace(left=TWO)
    assert rewrite(SUM, lambda node: ONE if isinstance(node, c.Binary) else None) == ONE
    assert rewrite(SUM, lambda node: None) is SUM


def test_every_class_of_checked_nodes_has_a_shape() -> None:
    known = {one for room in (c, t) for one in vars(room).values() if isinstance(one, type)}
    nodes = {one for one in known if issubclass(one, Form)} - {Form, Node}
    nodes -= {c.Local, c.Field, c.Shape, c.Program}  # `layout_key` takes these apart itself
    assert {one for one in nodes if one.__module__ != "kwire.lang.context"} <= COUNTS.keys()
    for one, parts in COUNTS.items():
        assert set(parts) <= set(one.parts), one


def test_a_shape_tells_what_is_computed_and_nothing_else() -> None:
    elsewhere = rewrite(SUM, lambda node: None).replace(span=NOWHERE._replace(line=7))
    assert shape(SUM) == shape(elsewhere)
    assert shape(SUM) != shape(SUM.replace(op="sub"))
    assert shape(t.Int(4, False, "ipv4")) == shape(t.U32) != shape(t.S32)

    class New(Node):
        """Of which nothing is known."""

        value: int

    with pytest.raises(KeyError):
        shape((New(1),))
