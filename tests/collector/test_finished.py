"""Which captures of a collector are finished, and for good."""

from __future__ import annotations

import os

from site_of_one import Site, complete
from tests.collector.test_retention import ROTATED, acknowledged, delivered

from kwire.collector.finished import Finished


def found(site: Site) -> dict[str, bool]:
    """The names that are finished, and whether for good."""
    looked = Finished(site.collector.storage).look()
    return {os.path.basename(one.path)[-11:-7]: one.settled for one in looked if one is not None}


def test_files_before_the_one_that_is_written_are_finished(site: Site) -> None:
    site.open(rotate_bytes=ROTATED)
    source = delivered(site, "web1", 12_000, finish=False)
    last = f"{len(site.captures()):04d}"
    assert len(site.captures()) > 2
    assert set(found(site).values()) == {True}
    assert last not in found(site)
    assert len(found(site)) == len(site.captures()) - 1
    assert source.peer is not None
    source.finish(source.peer)
    site.until(lambda: source.ended is not None and not site.collector.collected_sessions)
    assert found(site)[last]


def test_what_a_session_may_come_back_to_is_not_finished_for_good(site: Site) -> None:
    site.open(rotate_bytes=ROTATED)
    delivered(site, "web1", finish=False)
    assert found(site) == {}
    site.close()
    assert found(site) == {"0001": False}
    site.open(rotate_bytes=ROTATED)  # gives it its ending again
    assert found(site) == {"0001": False}


def test_a_merged_capture_may_go_on_in_its_last_file(site: Site) -> None:
    site.open(merged=str(site.path / "in" / "all.pcapng"), rotate_bytes=ROTATED)
    delivered(site, "web1", 12_000)
    names = [f"{number:04d}" for number in range(1, len(site.captures()) + 1)]
    assert found(site) == dict.fromkeys(names[:-1], True)
    site.close()
    assert found(site) == dict.fromkeys(names[:-1], True) | {names[-1]: False}


def test_a_file_whose_time_is_over_is_finished_though_nothing_comes(site: Site) -> None:
    site.open(rotate_seconds=0.05)
    source = delivered(site, "web1", finish=False)

    def looked() -> bool:
        site.collector.look()
        return "0001" in found(site)

    site.until(looked)
    assert found(site)["0001"]
    assert source.peer is not None
    for _ in range(3):  # files with nothing in them do not follow
        site.until(lambda: site.collector.storage._commit is None)
        site.collector.look()
    assert len(site.captures()) == 2
    source.give(50, source.peer)
    acknowledged(site, source)
    source.finish(source.peer)
    site.until(lambda: source.ended is not None and not site.collector.collected_sessions)
    assert sum(map(complete, site.captures()[:1])) == 100
    assert sum(complete(path) for path in site.captures()) == 150
