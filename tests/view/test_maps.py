"""What maps of Python programs hold, as text."""

from __future__ import annotations

import pytest

from kwire.compile.layout import map_schema
from kwire.lang import types as t
from kwire.lang.checked import Map
from kwire.view.maps import described, lines
from kwire.wire.tables import MapTable, Row

SOCK = t.Pointer(t.VOID)
ADDRESS = 0xFFFF888000000000


@pytest.mark.parametrize(
    ("map", "rows", "expected"),
    [
        (
            Map("m", "hash", (t.U32,), t.U64, 9),
            [Row((1,), 20000), Row((10,), 3)],
            ["1   20,000", "10       3"],
        ),
        (Map("m", "count", (SOCK,), t.U64, 9), [Row((ADDRESS,), 2000)], ["0xffff888000000000  2,000"]),
        (Map("m", "hash", (t.U32,), SOCK, 9), [Row((1,), ADDRESS)], ["1  0xffff888000000000"]),
        (Map("m", "hash", (t.U32,), t.Text(15), 9), [Row((1,), "a\x1b[1m")], ["1  a\\e[1m"]),
        (Map("m", "min", (t.U32,), t.S64, 9), [Row((1,), None)], ["1  -"]),
        (Map("m", "sum", (SOCK,), t.S64, 9), [Row((ADDRESS,), -1)], ["0xffff888000000000  -1"]),
    ],
)
def test_keys_and_values(map: Map, rows: list[Row], expected: list[str]) -> None:
    schema = map_schema(map, map.kind, id=1, prints="", machine="")
    assert lines(described(schema, MapTable(1, 0, tuple(rows)))) == expected
