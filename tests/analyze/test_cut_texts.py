"""Texts that were cut, and bytes that are no UTF-8: every tool tells both, and none mixes two values."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

import kwire as library
from kwire.wire.frames import Frames

PATHS = (b"/tmp/whole", b"/tmp/cut", b"/tmp/\xff", rb"/tmp/\xff")


def cut_event(kit: Any, schema: Any, time: int, path: bytes, *, cut: bool) -> bytes:
    frame = bytearray(kit.event(schema, time, kit.rich(0, path=path)))
    at = schema.field("path").offset + 3  # the length's high byte
    frame[at] |= 0x80 if cut else 0
    return bytes(frame)


@pytest.fixture
def capture(tmp_path: Path, kit: Any) -> str:
    schema = kit.schema()
    events = [
        cut_event(kit, schema, kit.monotonic + at, path, cut=path.endswith(b"cut"))
        for at, path in enumerate(PATHS)
    ]
    return str(kit.write(tmp_path / "cut.pcapng", [schema], events))


def test_json_and_the_table(capture: str, kwire: Any, shown: Any) -> None:
    found = shown(capture)
    assert [event.get("cut") for event in found] == [None, ["path"], None, None]
    assert list(found[1])[-2:] == ["cut", "fields"]
    lines = kwire("show", capture, "--wide")[1].splitlines()[-4:]
    assert [line.split("path=")[1].split()[0] for line in lines] == [
        "/tmp/whole", "/tmp/cut…", r"/tmp/\xff", r"/tmp/\\xff"
    ]  # fmt: skip


def test_columns_of_sql_parquet_arrow_and_csv(capture: str, kwire: Any, tmp_path: Path) -> None:
    pytest.importorskip("duckdb")
    pq = pytest.importorskip("pyarrow.parquet")
    rows = kwire(
        "query", capture, "--json", "SELECT path, path_cut, count(*) AS n FROM vfs_open GROUP BY ALL"
    )
    found = {row["path"]: (row["path_cut"], row["n"]) for row in map(json.loads, rows[1].splitlines())}
    assert found == {
        "/tmp/whole": (False, 1), "/tmp/cut": (True, 1), r"/tmp/\xff": (False, 1), r"/tmp/\\xff": (False, 1)
    }  # fmt: skip
    for name in ("out.parquet", "out.csv"):
        kwire("export", capture, "-o", str(tmp_path / name))
    assert pq.read_table(tmp_path / "out.parquet")["path_cut"].to_pylist() == [False, True, False, False]
    with (tmp_path / "out.csv").open(newline="") as file:
        assert [row["path_cut"] for row in csv.DictReader(file)] == ["false", "true", "false", "false"]


def test_perfetto(capture: str, kwire: Any, tmp_path: Path) -> None:
    kwire("export", capture, "-o", str(tmp_path / "out.json"))
    entries = json.loads((tmp_path / "out.json").read_text())["traceEvents"]
    told = [entry["args"]["begin"].get("(cut)") for entry in entries if entry["ph"] == "B"]
    assert told == [None, ["path"], None, None]


def test_python_values(capture: str, kit: Any) -> None:
    with library.open(capture) as opened:
        assert [event.cut for event in opened] == [(), ("path",), (), ()]
        columns = opened.columns()
        assert columns["path_cut"].tolist() == [False, True, False, False]
        assert columns["comm_cut"].tolist() == [False] * 4
        named = kit.schema(fields=(("path", "str", 1, ""), ("path_cut", "u32", 1, "")))
        from kwire.wire.columns import marks

        assert list(marks(named, Frames.walk(kit.event(named, 1, (b"x", 7))))) == ["path_unread"]
