"""What docs/fleet.md says of sizes and failures: the arithmetic, its tables, the tests that its rows name."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from site_of_one import Site, Source

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bench"))

from sizing import Figures, Fleet, main, needs, size  # noqa: E402  # of the folder just added

PAGE = (ROOT / "docs" / "fleet.md").read_text()


def test_the_arithmetic() -> None:
    """Numbers that can be reckoned by hand."""
    of = Figures(1, 1, 2, 1, 2, 1, 1, 50, 1000, 100, 0.5, 10, 20, 1000)
    direct = needs(Fleet(100, 1000, 2, 50, 1, 1, 0, 1, 1, 0.5), of)
    assert direct.events == 100_000
    assert direct.host_cores == pytest.approx(0.008)
    assert direct.collector_cores == pytest.approx(0.4)
    assert (direct.collectors, direct.collector_memory) == (1, 1000 + 100 * 10)
    assert direct.captures == 100 * 100_000 * 86400
    assert direct.lake == 0.5 * 50 * 100_000 * 86400
    assert direct.spool == pytest.approx(50 * 1.008 * 1000 * 3600)
    assert direct.catch_up == pytest.approx(100_000 * 3600 / 900_000)
    assert (direct.broker_cores, direct.broker_disk) == (0, 0)
    through = needs(Fleet(100, 1000, 2, 50, 1, 1, 3, 1, 2, 0.5), of)
    assert through.broker_cores == pytest.approx(200_000 * (3 + 2) / 1e6 / 0.5)
    assert through.broker_disk == pytest.approx(50 * 1.1 * 100_000 * 3600)
    assert through.collectors == 2
    assert through.collector_cores == pytest.approx(1.6)
    assert through.captures == 2 * direct.captures
    assert math.isinf(needs(Fleet(1, 2_000_000, 0.1, load=1.0), of).catch_up)
    assert [size(number) for number in (1, 999, 1000, 48_400_000_000, 4.84e14)] == [
        "1 B", "999 B", "1 kB", "48.4 GB", "484 TB",
    ]  # fmt: skip


def test_a_capture_has_so_many_bytes_an_event(tmp_path: Path) -> None:
    """The figure is the writer's: 24 bytes of an event, and what stands around it."""
    site = Site(tmp_path)
    site.open()
    source = Source("host")
    peer = site.connect(source).peer
    source.give(20_000, peer)
    source.finish(peer)
    site.until(lambda: source.ended is not None and not site.collector.collected_sessions)
    site.close()
    (path,) = site.captures()
    assert os.path.getsize(path) / 20_000 == pytest.approx(24 + Figures().packet, abs=0.5)


@pytest.mark.parametrize("words", [[], ["--broker", "3"]])
def test_the_page_has_what_the_script_says(words: list[str]) -> None:
    begin = f"<!-- {' '.join(['sizing', *words])} -->\n"
    table = PAGE.partition(begin)[2].partition("\n<!-- end")[0]
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench" / "sizing.py"), *words],
        capture_output=True,
        text=True,
        check=True,
    )
    assert table.strip() == done.stdout.strip()


@pytest.mark.parametrize("words", [["--hosts", "0"], ["--load", "2"], ["--rate", "-1"], ["--event", "x"]])
def test_numbers_that_make_no_sense(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(words)
    assert "Traceback" not in capsys.readouterr().err


def test_each_failure_names_a_test_that_is_there() -> None:
    rows = PAGE.partition("### What dies")[2].partition("### Security")[0].splitlines()
    rows = [row for row in rows if row.startswith("|")][2:]
    assert len(rows) > 20
    written = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    there = set(re.findall(r"^\s*def (test_\w+)\(", written, re.MULTILINE))
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row)
        assert named, row
        assert set(named) <= there, row
