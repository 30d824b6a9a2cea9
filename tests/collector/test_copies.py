"""Copies of one source at a collector: a spool that was copied or set back, a machine that was cloned.

The law that is judged: each event is in the captures at most once, and what an agent had and did not deliver
is counted, by it and by the collector.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from said import Said
from site_of_one import Site, events, numbers, schema

from kwire.agent import uplink
from kwire.agent.agent import Recovered
from kwire.agent.spool import Spool, begin, recover
from kwire.agent.uplink import Line
from kwire.transport import connect
from kwire.wire.session import Settings

MB = 1 << 20
EACH = 10


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(connect, "SHORTEST", 0.01)
    monkeypatch.setattr(connect, "LONGEST", 0.05)
    monkeypatch.setattr(uplink, "BETWEEN", 0.01)
    site = Site(tmp_path)
    yield site
    site.listener.close()
    site.loop.close()


def spooled(path: Path, count: int) -> None:
    """The spool of an agent that recorded so many events, reached nobody, and was killed."""
    prefix = list(schema("web1").frames())
    spool = begin(str(path), os.urandom(16), prefix, 8 * MB, 8 * MB)
    spool.run()
    for first in range(0, count, EACH):
        spool.put(spool.next, events(first, EACH))
    assert spool.close() == 0


class Delivery:
    """`kwire agent --spool PATH --adopt` without a process."""

    def __init__(self, site: Site, path: Path, adopt: bool = True) -> None:
        self.site = site
        self.said = Said()
        line = Line(site.loop, site.address, Settings(), {"host": "web1"}, self.said)
        [(spool, self.wrong)] = recover(str(path), 8 * MB, 8 * MB, adopt)
        assert spool is not None
        self.spool: Spool = spool
        spool.run()
        self.recovered = Recovered(line, spool)

    def until_done(self) -> Delivery:
        self.site.until(lambda: self.recovered.uplink.finished)
        return self

    def killed(self) -> None:
        """What kill -9 leaves: nothing more is written, nothing more is said."""
        self.recovered.uplink.leave()
        self.spool.stop()
        self.spool._free()

    @property
    def lost(self) -> int:
        return self.recovered.lost


def everything(site: Site, folder: str = "in") -> list[int]:
    return sorted(
        number for path in sorted((site.path / folder).glob("*.pcapng")) for number in numbers(path)
    )


@pytest.mark.parametrize("restarted", [False, True])
def test_a_spool_that_was_never_sent_is_delivered_from_one_of_its_copies(site: Site, restarted: bool) -> None:
    spooled(site.path / "spool", 100)
    for name in ("copy1", "copy2"):
        shutil.copytree(site.path / "spool", site.path / name)
    site.open()
    lost: list[int] = []
    said: list[str] = []
    for name in ("copy1", "spool", "copy2"):
        delivery = Delivery(site, site.path / name).until_done()
        lost.append(delivery.lost)
        said += delivery.said
        if restarted:
            site.close()
            site.open()
    assert lost == [0, 100, 100]
    assert sum("another copy of its source went on with the session at" in line for line in said) == 2
    site.close()
    assert everything(site) == list(range(100))


@pytest.mark.parametrize("first", ["spool", "copy"])
def test_a_spool_that_was_copied_in_the_middle(site: Site, first: str) -> None:
    """One goes on with the session; what waits in the other is counted, be it in the captures or not."""
    spooled(site.path / "spool", 200)
    site.open(settings=Settings(window=1000))  # so that it takes a while
    before = Delivery(site, site.path / "spool")
    site.until(lambda: before.spool.begun)
    before.killed()
    shutil.copytree(site.path / "spool", site.path / "copy")
    second = "copy" if first == "spool" else "spool"
    assert Delivery(site, site.path / first).until_done().lost == 0
    copy = Delivery(site, site.path / second)
    waits = copy.spool.events
    copy.until_done()
    assert copy.lost == waits > 0
    site.until(lambda: not site.collector.collected_sessions)
    site.close()
    assert everything(site) == list(range(200))
    summary = site.collector.summary()
    assert summary["lost"] == waits
    assert summary["hosts"][0]["causes"] == {"the session expired before it was acknowledged": waits}


def test_a_machine_that_was_set_back(site: Site) -> None:
    """Its spool is as it was before it was delivered: nothing shows that but the collector's memory."""
    spooled(site.path / "spool", 100)
    (own,) = (site.path / "spool").iterdir()
    shutil.copytree(own, site.path / "snapshot")
    site.open()
    delivery = Delivery(site, site.path / "spool", adopt=False)
    site.until(lambda: len(everything(site)) == 100)
    delivery.killed()
    for file in own.iterdir():
        file.unlink()
    for file in (site.path / "snapshot").iterdir():
        shutil.copy(file, own / file.name)
    again = Delivery(site, site.path / "spool", adopt=False).until_done()
    assert again.lost == 100
    site.close()
    assert everything(site) == list(range(100))


def test_copies_that_come_to_a_new_collector(site: Site) -> None:
    """It knows nothing of the session; the one that takes its place is the same for both copies."""
    spooled(site.path / "spool", 100)
    site.open()
    before = Delivery(site, site.path / "spool")
    before.spool._set_sent(5)  # so far it was sent to somebody
    before.killed()
    site.close(kill=True)
    shutil.rmtree(site.path / "in")
    shutil.copytree(site.path / "spool", site.path / "copy")
    site.open()
    first, second = (Delivery(site, site.path / name).until_done().lost for name in ("spool", "copy"))
    site.close()
    stored = everything(site)
    assert len(stored) == len(set(stored))
    assert len(stored) + first == 100
    assert second == 100


def test_a_state_of_an_earlier_life(site: Site) -> None:
    """A copy of one file, from before all was delivered, and a collector that knows nothing: not twice."""
    spooled(site.path / "spool", 100)
    (state,) = (site.path / "spool").glob("*/state")
    older = state.read_bytes()
    site.open()
    before = Delivery(site, site.path / "spool")
    site.until(lambda: len(everything(site)) == 100)
    before.killed()
    site.close()
    state.write_bytes(older)
    (site.path / "in").rename(site.path / "first")
    site.open()
    delivery = Delivery(site, site.path / "spool")
    assert "an older one" in delivery.wrong
    delivery.until_done()
    site.close()
    assert everything(site, "first") == list(range(100))
    assert everything(site) == []
    assert delivery.lost == 100


def test_an_agent_that_is_killed_again_and_again_is_no_copy(site: Site) -> None:
    """Whatever its WELCOMEs and ACKs come to; the collector is killed too."""
    spooled(site.path / "spool", 400)
    for number in range(12):
        site.open()
        delivery = Delivery(site, site.path / "spool")
        for _ in range(number % 5):
            site.loop.turn(0.01)
        delivery.killed()
        site.close(kill=number % 3 != 0)
    site.open()
    delivery = Delivery(site, site.path / "spool").until_done()
    assert delivery.lost == 0
    assert not any("another copy" in line for line in [*site.said, *delivery.said])
    site.close()
    assert everything(site) == list(range(400))
