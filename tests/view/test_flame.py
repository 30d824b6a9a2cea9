"""Flame graphs: what is folded, and how it is drawn."""

from xml.etree import ElementTree

import pytest

from kwire.errors import KwireError
from kwire.view.flame import FlameGraph, Folded, flame_graph, folded, svg
from kwire.view.printed import Printed
from kwire.wire.fields import Field
from kwire.wire.schema import MapShape, Schema
from kwire.wire.stacks import Frame, Stack, Stacks
from kwire.wire.tables import MapTable, Row

STACKS = Stacks()
STACKS.add(1, Stack((Frame(0x10, "in<ner>;x", 3, "/bin/a"), Frame(0x20, "outer", 4, "/bin/a"))))
STACKS.add(2, Stack((Frame(0x30, "", 0, "/lib/libc.so.6"), Frame(0x40), Frame(0x20, "outer", 9, "/bin/a"))))


def schema_of(target: str, kind: str = "count") -> Schema:
    fields = (
        Field("key1", "str", 16, 4, limit=16),
        Field("key2", "stack", 20, 8),
        Field("value", "u64", 28, 8),
        Field("table", "u32", 36, 4),
    )
    return Schema(7, f"map:{target}", "map", target, fields, 40, map=MapShape(kind, 2), stacks=STACKS)


def table_of(*rows: tuple[tuple[str, int], object]) -> MapTable:
    return MapTable(1, 0, tuple(Row(key, value) for key, value in rows), "end")


HELD = [(schema_of("@a"), table_of((("sh\n;", 1), 5), (("sh\n;", 2), 2), (("x", 0), 1), (("none", 1), 0)))]
EXPECTED = {
    ("sh\\n:", "outer", "in<ner>:x"): 5,
    ("sh\\n:", "outer", "[unknown]", "[libc.so.6]"): 2,
    ("x",): 1,
}


def test_stacks_are_folded_with_the_outermost_function_first() -> None:
    assert folded(HELD) == EXPECTED
    assert Folded().left(HELD) == ("sh\\n:;outer;[unknown];[libc.so.6] 2\nsh\\n:;outer;in<ner>:x 5\nx 1\n")


def test_of_several_maps_each_has_its_name_and_totals_count_by_their_sum() -> None:
    other = (schema_of("@b", "stats"), table_of((("x", 1), (3, 70))))
    plain = schema_of("@c")._replace(fields=(*schema_of("@c").fields[:1], *schema_of("@c").fields[2:]))
    plain = plain._replace(map=MapShape("count", 1))
    found = folded([*HELD, other, (plain, table_of())])
    assert found[("@b", "x", "outer", "in<ner>:x")] == 70
    assert found[("@a", "x")] == 1


def test_a_drawing_is_sound_and_each_box_is_as_wide_as_its_number() -> None:
    drawn = FlameGraph().left(HELD)
    root = ElementTree.fromstring(drawn)
    names = {"svg": "http://www.w3.org/2000/svg"}
    boxes = {}
    for group in root.findall("svg:g", names):
        title, box = group.find("svg:title", names), group.find("svg:rect", names)
        assert title is not None
        assert title.text is not None
        assert box is not None
        boxes[title.text] = {name: float(box.get(name, "")) for name in ("x", "y", "width")}
    assert next(iter(boxes)) == "all: 8, 100.0 %"
    assert boxes["all: 8, 100.0 %"]["width"] == pytest.approx(1180, abs=1)
    inner, outer = boxes["in<ner>:x: 5, 62.5 %"], boxes["outer: 7, 87.5 %"]
    assert inner["width"] == pytest.approx(1180 * 5 / 8, abs=1)
    assert outer["width"] == pytest.approx(1180 * 7 / 8, abs=1)
    assert outer["x"] - 0.1 <= inner["x"]
    assert inner["x"] + inner["width"] <= outer["x"] + outer["width"] + 0.2
    assert outer["y"] - inner["y"] == 17
    assert FlameGraph().left(HELD[::-1]) == drawn


def test_nothing_and_much_can_be_drawn() -> None:
    ElementTree.fromstring(svg({}))
    deep = {tuple(f"f{number}" for number in range(3000)): 1}
    assert svg(deep).count("<g>") == 3001
    flat: dict[tuple[str, ...], int] = {(f"f{number}",): 1 for number in range(20_000)}
    assert svg(flat).count("<g>") == 1, "what nobody sees is not drawn"


def test_without_stacks_there_is_no_graph() -> None:
    with pytest.raises(KwireError, match="there are no stacks in maps; use kstack or ustack"):
        flame_graph("svg", [])


def test_nothing_else_that_is_printed_stands_beside_it() -> None:
    """Neither one by one nor many at once: whoever says what becomes of an event says both."""
    made = schema_of("begin")._replace(map=None, prints="printf", format="junk\n", fields=())
    shown: list[Printed] = [Folded(), FlameGraph()]
    for one in shown:
        assert one.event(made)(0, ()) == ""
        assert one.parts(made) is None
    assert Printed(terminal=False).parts(made) is not None
    classes = [Printed]
    for each in classes:
        classes += each.__subclasses__()
        assert ("event" in vars(each)) == ("parts" in vars(each)), each
    assert len(classes) > 3
