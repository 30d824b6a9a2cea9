"""`kwire collect --parquet`: what is stored is in the lake, once, whoever is killed when."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from said import Said
from site_of_one import Site
from tests.collector.test_collect_command import Commands, stored
from tests.collector.test_retention import delivered
from waiting import PATIENCE, until

from kwire.cli import parquet
from kwire.cli.parquet import Feeder, LakeProcess
from kwire.errors import KwireError

pytest.importorskip("pyarrow")


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    commands = Commands(tmp_path)
    yield commands
    for process in commands.processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.end()


def in_lake(path: Path) -> Counter[int]:
    """How often each event is there, by its time; not in `.kwire`, whose folders go."""
    from pyarrow import parquet

    found: Counter[int] = Counter()
    for file in path.glob("lake/probe=*/**/*.parquet"):
        found.update(parquet.ParquetFile(file).read(["time_ns"]).column("time_ns").to_pylist())
    return found


def test_killed_each_event_is_in_the_lake_once(commands: Commands) -> None:
    options = ("-w", "in", "--parquet", "lake", "--rotate", "256K")
    collector = commands.collect(*options)
    replay = commands.replay(16_000, "--rate", "12000", "--numbered")
    until(lambda: list(commands.path.glob("lake/probe=*/**/*.parquet")))
    collector.kill()
    collector.communicate()
    assert set(in_lake(commands.path).values()) == {1}
    collector = commands.collect(*options)
    told = commands.sent(replay)
    assert (told["events"], told["lost"]) == (16_000, 0)
    summary = commands.summary(collector)
    assert (summary["status"], summary["problems"], summary["lake"]["trouble"]) == (0, [], "")
    assert stored(*sorted((commands.path / "in").glob("*.pcapng"))) == 16_000
    found = in_lake(commands.path)
    assert len(found) == 16_000
    assert set(found.values()) == {1}
    accounts = list(commands.path.glob("lake/.kwire/captures/*.json"))
    assert len(accounts) == len(list((commands.path / "in").glob("*.pcapng")))


def test_a_session_that_goes_on_with_the_next_collector_is_in_the_lake_before_and_once_after(
    commands: Commands,
) -> None:
    options = ("-w", "in", "--parquet", "lake")
    collector = commands.collect(*options)
    replay = commands.replay(12_000, "--rate", "12000", "--numbered")
    until(lambda: any(path.stat().st_size > 50_000 for path in (commands.path / "in").glob("*.pcapng")))
    first = commands.summary(collector, 15)
    assert first["lake"]["captures"] == 1
    assert sum(in_lake(commands.path).values()) == first["events"] > 0
    collector = commands.collect(*options)
    assert commands.sent(replay)["lost"] == 0
    commands.summary(collector)
    found = in_lake(commands.path)
    assert (len(found), set(found.values())) == (12_000, {1})


def test_what_cannot_be_added_is_said_and_kept(commands: Commands) -> None:
    folder = commands.path / "in"
    folder.mkdir()
    broken = folder / "web1-20260101-000000.pcapng"
    broken.write_bytes(b"no capture" * 100)
    collector = commands.collect("-w", "in", "--parquet", "lake")
    summary = commands.summary(collector)
    assert summary["status"] == 1
    assert summary["lake"]["captures"] == 0
    assert f"{broken.relative_to(commands.path)}" in summary["lake"]["trouble"]
    assert summary["said"].count(summary["lake"]["trouble"]) == 1
    assert broken.exists()


class Played:
    """The process that makes Parquet, played by the test."""

    def __init__(self) -> None:
        self.path = "lake"
        self.socket, self._theirs = socket.socketpair()
        self._asked = self._theirs.makefile("rw")

    def answer(self, answer: dict[str, Any]) -> str:
        """Take what is asked, and answer; which capture it was."""
        path, _ = json.loads(self._asked.readline())
        self._asked.write(json.dumps(answer) + "\n")
        self._asked.flush()
        return str(path)

    def kill(self) -> None:
        self._asked.close()
        self._theirs.close()

    def wait(self) -> None:
        self.socket.close()


def test_one_that_cannot_be_added_is_not_forgotten_for_the_next(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is what is gone remembered, and the end of the process is not the collector's."""
    monkeypatch.setattr(parquet, "LOOK", 0.01)
    site.open()
    for host in ("one", "two"):
        delivered(site, host)
    process, said = Played(), Said()
    feeder = Feeder(site.loop, site.collector.storage, cast("LakeProcess", process), said)
    feeder.begin()
    site.until(lambda: feeder._asked)
    failed = process.answer({"error": "add it: it is damaged"})
    site.until(lambda: said)
    added = process.answer({"events": 100, "new": True, "said": []})
    site.until(lambda: feeder.captures)
    assert (feeder.needs(failed), feeder.needs(added)) == (True, False)
    assert feeder.summary() == {
        "path": "lake",
        "captures": 1,
        "events": 100,
        "trouble": "add it: it is damaged",
    }
    os.unlink(added)
    site.until(lambda: added not in feeder._added)
    process.kill()
    feeder.finish()
    assert "has ended" in feeder.trouble
    assert said.events == ["disk", "failure"]
    site.close()


@pytest.mark.parametrize(
    ("lake", "says"),
    [
        ("in", "the captures lie there"),
        ("full", "it has other files, and is no lake"),
        ("file", "File exists"),
    ],
)
def test_mistakes_are_one_line(commands: Commands, lake: str, says: str) -> None:
    (commands.path / "full").mkdir()
    for name in ("full/x", "file"):
        (commands.path / name).touch()
    arguments = ("-w", "in", "--parquet", lake, "--listen", commands.address)
    process = commands.start(*_collect(), *arguments)
    _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err.count("\n")) == (1, 1), err
    assert says in err


def _collect() -> list[str]:
    from tests.collector.test_collect_command import COMMAND

    return [*COMMAND, "collect"]


def test_without_pyarrow_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find: Callable[..., Any] = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pyarrow" else find(name))
    with pytest.raises(KwireError, match=r"pyarrow is not installed; pip install 'kwire\[query\]'"):
        LakeProcess(str(tmp_path / "lake"), str(tmp_path))
    assert os.listdir(tmp_path) == []
