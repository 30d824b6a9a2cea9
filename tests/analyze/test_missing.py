"""Losses as every tool tells them: of which probes they may be, and when, by the capture's clock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kwire.wire.messages import Cause, Lost

ONE, TWO, THREE = (f"tracepoint:timer:timer_{name}" for name in ("start", "init", "cancel"))


@pytest.fixture
def shared(tmp_path: Path, kit: Any) -> str:
    """Three probes; one and three share a program, nine firings of it missed, two of no known probe."""
    schemas = [kit.schema(number, probe) for number, probe in enumerate((ONE, TWO, THREE), 1)]
    schemas[0] = schemas[0]._replace(shares=(THREE,))
    items = [kit.event(schema, kit.monotonic + 10 * schema.id, kit.rich(schema.id)) for schema in schemas]
    items.append(Lost(1, kit.monotonic + 40, kit.monotonic + 50, 9, cause=Cause.MISSED_SHARED))
    items.append(Lost(0, kit.monotonic + 60, kit.monotonic + 70, 2, cause=Cause.SENDER_FULL))
    return str(kit.write(tmp_path / "shared.pcapng", schemas, items, {1: 10, 2: 1, 3: 1}))


def test_verify_names_the_probes_and_the_time(shared: str, kit: Any, kwire: Any) -> None:
    told = kwire("verify", "--json", shared)
    found = json.loads(told[1])["files"][0]
    assert [(row["probe"], row["number"], row["produced"], row["lost"]) for row in found["probes"]] == [
        (ONE, 1, 1, 0), (ONE, 0, 9, 9), (TWO, 2, 1, 0), (THREE, 3, 1, 0), ("", 0, None, 2),
    ]  # fmt: skip
    assert found["probes"][1]["probes"] == [ONE, THREE]
    assert [(hole["probes"], hole["first"], hole["last"]) for hole in found["holes"]] == [
        ([ONE, THREE], kit.wall + 40, kit.wall + 50),
        ([], kit.wall + 60, kit.wall + 70),
    ]
    assert found["problems"] == []
    text = kwire("verify", shared)[1]
    assert f"9 events of {ONE} or {THREE}: the kernel did not run the program that these probes share" in text
    assert "1970" not in text


def test_show_and_stats_name_them_too(shared: str, kwire: Any) -> None:
    lines = kwire("show", shared, "--wide")[1].splitlines()
    assert f"LOST 9 events of {ONE} or {THREE}" in lines[-2]
    assert lines[-2].startswith("22:13:20.000000050")
    assert "LOST 2 events of an unknown probe" in lines[-1]
    assert lines[-1].startswith("22:13:20.000000070")
    holes = json.loads(kwire("stats", "--json", shared)[1])["holes"]
    assert sorted((hole["probes"], hole["count"]) for hole in holes) == [([], 2), ([ONE, THREE], 9)]
    assert all(hole["first"] for hole in holes)


@pytest.mark.parametrize(("glob", "count"), [("*start", 9), ("*cancel", 9), ("*init", 0)])
def test_a_choice_of_probes_keeps_what_may_be_of_them(
    shared: str, kwire: Any, tmp_path: Path, glob: str, count: int
) -> None:
    shown = kwire("show", shared, "--probe", glob)[1]
    assert ("LOST 9" in shown) == bool(count)
    piece = str(tmp_path / "piece.pcapng")
    kwire("cut", shared, "--probe", glob, "-w", piece)
    told = json.loads(kwire("verify", "--json", piece)[1])
    assert sum(hole["count"] for hole in told["files"][0]["holes"] if hole["probes"]) == count


def test_query_and_perfetto_say_the_same(shared: str, kit: Any, kwire: Any, tmp_path: Path) -> None:
    pytest.importorskip("duckdb")
    rows = kwire("query", "--json", shared, "SELECT probes, count, epoch_ns(first) AS at FROM lost")[1]
    assert sorted(json.loads(line)["at"] for line in rows.splitlines()) == [kit.wall + 40, kit.wall + 60]
    counted = kwire("query", "--json", shared, "SELECT probe, lost, produced FROM probes ORDER BY id")[1]
    assert [json.loads(line)["lost"] for line in counted.splitlines()] == [0, 0, 0]
    kwire("export", shared, "-o", str(tmp_path / "x.json"))
    entries = json.loads((tmp_path / "x.json").read_text())["traceEvents"]
    losses = [entry for entry in entries if entry.get("cat") == "lost"]
    assert [entry["args"]["probes"] for entry in losses] == [[ONE, THREE], []]
    assert [entry["ts"] for entry in losses] == [0.04, 0.06]


def test_merging_keeps_the_balance_and_the_clock(shared: str, kit: Any, kwire: Any, tmp_path: Path) -> None:
    other = kit.schema(1, "kprobe:f", host="other", wall=kit.wall + 10**9)
    path = kit.write(tmp_path / "b.pcapng", [other], [kit.event(other, kit.monotonic, kit.rich())])
    merged = str(tmp_path / "all.pcapng")
    kwire("merge", path, shared, "-w", merged)
    found = json.loads(kwire("verify", "--json", merged)[1])["files"][0]
    assert found["problems"] == []
    assert [(hole["count"], hole["first"]) for hole in found["holes"]] == [
        (9, kit.wall + 40), (2, kit.wall + 60)
    ]  # fmt: skip
