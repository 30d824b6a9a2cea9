"""Maps of a script as metrics: what the file may say, and a script whose maps are scraped."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kwire.agent import map_metrics
from kwire.agent.map_metrics import KEYS, MapMetrics, MapMetricsError, load
from kwire.compile.layout import map_schema
from kwire.lang import checked
from kwire.lang import types as t
from kwire.metrics import table
from kwire.metrics.exposition import Exposition
from kwire.metrics.gathering import Gathering
from kwire.wire.schema import Schema
from kwire.wire.tables import Row

ROOT = Path(__file__).resolve().parents[2]
METRIC = '[[metric]]\nmap = "@calls"\nname = "calls_total"\nhelp = "Calls"\nlabels = ["comm"]\n'


class Maps:
    """What map metrics ask of a recorder: the schemas of maps, and their rows."""

    def __init__(self, **rows: list[Row]) -> None:
        made = {
            "calls": checked.Map("@calls", "count", (t.Text(15),), t.U64, 10),
            "plain": checked.Map("@plain", "hash", (), t.U64, 1),
            "total": checked.Map("@total", "stats", (t.U32, t.U32), t.U64, 10),
            "sizes": checked.Map("@sizes", "hist", (t.U32,), t.U64, 10),
            "sums": checked.Map("@sums", "sum", (t.U32,), t.U64, 10),
            "steps": checked.Map("@steps", "lhist", (), t.U64, 10, (0, 30, 10)),
            "many": checked.Map("@many", "lhist", (), t.U64, 10, (0, 1000, 1)),
            "texts": checked.Map("@texts", "hash", (), t.Text(15), 1),
            "least": checked.Map("@least", "min", (), t.U64, 1),
        }
        self.map_schemas: tuple[Schema, ...] = tuple(
            map_schema(one, one.kind, id=number, prints="", machine="x86_64")
            for number, one in enumerate(made.values(), 1)
        )
        self.rows = dict(zip(range(1, 20), (rows.get(name, []) for name in made), strict=False))

    def map_rows(self, id: int) -> Iterator[Row | None]:
        for row in self.rows[id]:
            yield row
            yield None


def scraped(tmp_path: Path, text: str, maps: Maps) -> dict[str, dict[tuple[str, ...], float]]:
    (tmp_path / "m.toml").write_text(text)
    told: Any = MapMetrics(load(str(tmp_path / "m.toml")), maps)  # type: ignore[arg-type]  # what is asked of it
    exposition = Exposition(Gathering(table.RECORD, told.samples, lambda: "", "1", told.metrics))
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(b"".join(exposition.render()).decode()):
        for sample in family.samples:
            if not sample.name.startswith("process_"):
                labels = tuple(sample.labels.values())
                assert labels not in found.setdefault(sample.name, {})
                found[sample.name][labels] = sample.value
    return found


def metric(map: str, name: str, *more: str) -> str:
    return "\n".join(["[[metric]]", f'map = "{map}"', f'name = "{name}"', 'help = "It"', *more, ""])


def test_counts_have_their_keys_as_labels(tmp_path: Path) -> None:
    maps = Maps(calls=[Row(("cat",), 3), Row(('a"b\n',), 4)])
    found = scraped(tmp_path, METRIC, maps)
    assert found["calls_total"] == {("cat",): 3, ('a"b\\n',): 4}
    assert found["kwire_map_series_left_out"] == {("calls_total",): 0}


def test_numbers_and_totals(tmp_path: Path) -> None:
    text = metric("@plain", "plain_seconds", "scale = 1e-9") + metric(
        "plain", "plain_total", 'kind = "counter"'
    )
    text += metric("@total", "both", 'labels = ["a", "b"]', "scale = 2") + metric("@least", "least")
    maps = Maps(plain=[Row((), 5_000_000_000)], total=[Row((1, 2), (3, 30))], least=[Row((), None)])
    found = scraped(tmp_path, text, maps)
    assert found["plain_seconds"] == {(): 5}
    assert found["plain_total"] == {(): 5_000_000_000}
    assert (found["both_count"], found["both_sum"]) == ({("1", "2"): 3}, {("1", "2"): 60})
    assert "least" not in found


def test_histograms_are_cumulative(tmp_path: Path) -> None:
    text = metric("@sizes", "sizes", 'labels = ["pid"]', "highest = 16", 'sum = "@sums"')
    text += metric("@steps", "steps")
    sizes = Row((7,), ((None, 0, 1), (0, 1, 2), (4, 8, 3), (16, 32, 4)))
    steps = Row((), ((None, 0, 1), (0, 10, 2), (20, 30, 3), (30, None, 4)))
    found = scraped(tmp_path, text, Maps(sizes=[sizes], sums=[Row((7,), 99)], steps=[steps]))
    assert found["sizes_bucket"] == {
        ("0", "7"): 3, ("1", "7"): 3, ("3", "7"): 3, ("7", "7"): 6, ("15", "7"): 6, ("+Inf", "7"): 10,
    }  # fmt: skip
    assert (found["sizes_sum"], found["sizes_count"]) == ({("7",): 99}, {("7",): 10})
    assert found["steps_bucket"] == {("9",): 3, ("19",): 3, ("29",): 6, ("+Inf",): 10}


def test_series_are_bounded_and_what_is_left_out_is_told(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text(METRIC + "limit = 2\n")
    maps = Maps(calls=[Row((f"c{number}",), number) for number in range(5)])
    told = MapMetrics(load(str(tmp_path / "m.toml")), maps)  # type: ignore[arg-type]  # what is asked of it

    def series() -> tuple[set[str], float]:
        samples = [sample for sample in told.samples() if sample is not None]
        left = next(one.value for one in samples if one.name == "kwire_map_series_left_out")
        assert isinstance(left, int)
        return {one.labels[0] for one in samples if one.name == "calls_total"}, left

    assert series() == ({"c0", "c1"}, 3)
    maps.rows[1].reverse()
    assert series() == ({"c0", "c1"}, 3)  # those seen first stay
    maps.rows[1] = [row for row in maps.rows[1] if row.key != ("c0",)]
    series()
    assert series()[1] == 2  # one that was deleted has made room


WRONG = {
    "it is no list of metrics; write [[metric]]": "x = 1",
    "it is no TOML": "[[metric]",
    "help is missing": '[[metric]]\nmap = "@calls"\nname = "calls_total"\n',
    "there is no key 'lable'": METRIC + "lable = 1\n",
    "name: 'a b'": METRIC.replace("calls_total", "a b"),
    "could be one of kwire's own": METRIC.replace("calls_total", "kwire_calls_total"),
    "le cannot be a label": METRIC.replace("comm", "le"),
    "calls_total is there twice": METRIC + METRIC,
    "there is no map '@cals'; there are @calls, @plain": METRIC.replace("@calls", "@cals"),
    "the keys of @calls have 1 part, and 0 labels are named": METRIC.replace('"comm"', ""),
    "calls is the name of no counter; call it calls_total": METRIC.replace("calls_total", "calls"),
    "plain_total is the name of a counter; call it plain": metric("@plain", "plain_total"),
    "@sizes (hist) is no counter": metric("@sizes", "sizes", 'labels = ["pid"]', 'kind = "counter"'),
    "@texts (hash) holds is no number": metric("@texts", "texts"),
    "there would be 1,000 buckets, not 1 to 100; set `lowest`": metric("@many", "many"),
    "@calls is no sum by the keys of @sizes": metric("@sizes", "sizes", 'labels = ["pid"]', 'sum = "@calls"'),
    "limit: 0, not 1 to 10000": METRIC + "limit = 0\n",
    "scale: nan": METRIC + "scale = nan\n",
    "scale: inf": METRIC + "scale = inf\n",
    "scale: -1": METRIC + "scale = -1\n",
    "scale: 0": METRIC + "scale = 0\n",
    "lowest: nan": metric("@sizes", "sizes", 'labels = ["pid"]', "lowest = nan"),
    "sizes_sum would be a line of two metrics": (
        metric("@plain", "sizes_sum") + metric("@sizes", "sizes", 'labels = ["pid"]')
    ),
    "both_count would be a line of two metrics": (
        metric("@total", "both", 'labels = ["a", "b"]') + metric("@plain", "both_count")
    ),
}


@pytest.mark.parametrize("cause", WRONG)
def test_a_file_that_does_not_fit_is_one_clear_error(cause: str, tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text(WRONG[cause])
    with pytest.raises(MapMetricsError) as error:
        MapMetrics(load(str(tmp_path / "m.toml")), Maps())  # type: ignore[arg-type]  # what is asked of it
    assert cause in str(error.value)
    assert "m.toml" in str(error.value)


def test_each_kind_of_map_has_its_metric() -> None:
    assert set(map_metrics.KINDS) == set(checked.MAPS)
    kinds = {kind for kinds in map_metrics.KINDS.values() for kind in kinds}
    assert kinds == {table.COUNTER, table.GAUGE, table.HISTOGRAM, table.SUMMARY}


def test_the_document_has_every_key() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text()
    assert [key for key in KEYS if f"| `{key}` |" not in text] == []


def test_the_option_goes_with_another(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "kwire.cli.main",
        "record",
        "tracepoint:a:b",
        "-w",
        "a",
        "--metrics-maps",
        "m",
    ]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (run.returncode, run.stderr.count("\n")) == (1, 1)
    assert "--metrics-maps goes with --metrics" in run.stderr
