"""Captures of released formats stay readable: what `tests/data` keeps of each, in both byte orders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from verified import verify_file

DATA = Path(__file__).parents[1] / "data"
FILES = sorted([*DATA.glob("*.pcapng"), *DATA.glob("*.pcap")])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
@pytest.mark.parametrize("native", ["", "0"], ids=["native", "twins"])
def test_a_released_capture_says_what_it_said(path: Path, native: str) -> None:
    expected = path.with_name(path.stem.rpartition("-")[0] + ".jsonl").read_text()
    command = [sys.executable, "-m", "kwire.cli.main", "show", "--json", str(path)]
    environment = {**os.environ, **({"KWIRE_NATIVE": native} if native else {})}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 3  # each of them tells of events that were lost
    assert "events are lost" in done.stderr
    shown = list(map(json.loads, done.stdout.splitlines()))
    cut = [event.pop("cut", None) for event in shown]  # JSON lines tell it since 0.2
    assert shown == list(map(json.loads, expected.splitlines()))
    assert any(cut) == ("capture" in path.name)
    assert "damaged" not in done.stderr
    assert "no sound frame" not in done.stderr


@pytest.mark.parametrize("path", sorted(DATA.glob("*-capture-*.pcapng")), ids=lambda path: path.name)
def test_its_accounts_balance(path: Path) -> None:
    report = verify_file(str(path))
    assert report.totals._asdict() | {"produced": 25, "stored": 8, "lost": 17} == report.totals._asdict()
    assert report.problems == []


def test_every_release_is_kept_in_both_byte_orders() -> None:
    names = {path.stem for path in FILES}
    assert {"0.1-capture-little", "0.1-capture-big", "0.1-session-little", "0.1-session-big"} <= names
    for name in names:
        kind, _, order = name.rpartition("-")
        assert {f"{kind}-little", f"{kind}-big"} <= names, order
