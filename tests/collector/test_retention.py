"""Retention: what goes, what stays, what a session that comes back finds, what verify says then."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from site_of_one import Site, Source, complete, numbers
from verified import verify_file
from waiting import PATIENCE

from kwire.capture import identity
from kwire.capture.removed import LEDGER, Removed, in_words, read_ledger, without, write_ledger
from kwire.capture.verify import verify_removed, verify_set
from kwire.collector import retention
from kwire.collector.checkpoint import Checkpoint, CheckpointError
from kwire.collector.metrics import CollectorMetrics
from kwire.collector.retention import Keep, Retention
from kwire.wire.session import Settings
from kwire.wire.transitions import State

DAY = 86400
QUICK = Settings(expiry=0.2)
ROTATED = 256 << 10


def looked(site: Site, keep: Keep, **hooks: Callable[[str], bool]) -> Retention:
    """One round."""
    looker = Retention(site.loop, site.collector.storage, keep, site.said)
    looker.needed += hooks.values()
    for _ in looker._work():
        pass
    return looker


def aged(path: Path, days: float) -> None:
    then = time.time() - days * DAY
    os.utime(path, (then, then))


def delivered(site: Site, host: str, count: int = 100, *, finish: bool = True) -> Source:
    """A session, ended or going on, all of it acknowledged."""
    source = Source(host)
    peer = site.connect(source).peer
    source.give(count, peer)
    source.peer = peer
    if finish:
        source.finish(peer)
        site.until(lambda: source.ended is not None and not site.collector.collected_sessions)
    else:
        acknowledged(site, source)
    return source


def acknowledged(site: Site, source: Source) -> None:
    session = source.session
    assert session is not None
    site.until(lambda: session.state is State.ESTABLISHED and session.unacknowledged == 0)


def away(site: Site, source: Source) -> None:
    """The agent is gone for longer than the collector waits for it."""
    site.listener.close()
    for other in list(site.listener.peers.values()):
        other.detach("a cable is cut")
    site.until(lambda: not site.collector.collected_sessions)


def back(site: Site, source: Source, count: int) -> None:
    """It comes back, with more, and ends."""
    assert source.peer is not None
    site.listener.close()
    site.listener = site.listen(site.address)
    source.give(count, source.peer)
    source.finish(source.peer)
    site.until(lambda: source.ended is not None and not site.collector.collected_sessions)


def test_what_is_old_goes_and_what_is_not_stays(site: Site) -> None:
    site.open()
    for host in ("old", "new"):
        delivered(site, host)
    old, new = (next((site.path / "in").glob(f"{host}-*")) for host in ("old", "new"))
    own = old.with_name("mine.pcapng")
    for path in (old, own):
        path.exists() or path.write_bytes(new.read_bytes())
        aged(path, 8)
    aged(new, 6)
    strange = old.with_name("x-20200101-000000.pcapng")  # a name like ours, and nothing of ours in it
    strange.write_bytes(b"no capture")
    aged(strange, 100)
    (old.parent / "y-20200101-000000.pcapng").symlink_to(new)
    looker = looked(site, Keep(seconds=7 * DAY))
    assert not old.exists()
    assert all(path.exists() for path in (new, own, strange))
    assert (looker.removed_files, looker.removed_bytes > 0) == (1, True)
    (said,) = [line for line in site.said if line.startswith("removed")]
    assert old.name in said
    assert said.endswith("kept are 7 days")
    assert looked(site, Keep(seconds=7 * DAY)).removed_files == 0
    site.close()
    assert [host["files"] for host in site.collector.summary()["hosts"]] == [[str(new)], []]


def test_the_oldest_go_until_the_rest_is_small_enough(site: Site) -> None:
    site.open()
    for number in range(4):
        delivered(site, f"host{number}")
    captures = site.captures()
    sizes = [path.stat().st_size for path in captures]
    for path, days in zip(captures, (3, 5, 1, 4), strict=True):
        aged(path, days)
    looker = looked(site, Keep(bytes=sizes[0] + sizes[2]))
    assert [path.exists() for path in captures] == [True, False, True, False]
    assert (looker.removed_files, looker.bytes, looker.trouble) == (2, sizes[0] + sizes[2], "")
    told = {one.name: one.value for one in CollectorMetrics(site.collector, None, looker).samples() if one}
    assert told["kwire_removed_files_total"] == 2
    assert told["kwire_removed_bytes_total"] == sizes[1] + sizes[3]
    assert told["kwire_kept_bytes"] == sizes[0] + sizes[2]
    assert told["kwire_keep_fails"] == 0
    site.close()


def test_what_is_in_use_is_said(site: Site) -> None:
    site.open()
    delivered(site, "going", 10, finish=False)
    assert "what is in use is more than 1 byte" in looked(site, Keep(0.0, 1)).trouble
    site.close()


def test_a_file_in_use_never_goes(site: Site) -> None:
    """Of an open session the current file; what is not in the lake; both limits at once cannot change it."""
    site.open(rotate_bytes=ROTATED)
    source = delivered(site, "going", 12_000, finish=False)
    files = site.captures()
    assert len(files) > 2
    for path in files:
        aged(path, 30)
    looker = looked(site, Keep(DAY, 1), lake=lambda path: path.endswith("-0001.pcapng"))
    assert [path.exists() for path in files] == [True, *[False] * (len(files) - 2), True]
    assert "what is kept is more than 1 byte: some of it is not in the lake yet" in looker.trouble
    assert source.peer is not None
    source.give(5, source.peer)
    acknowledged(site, source)
    before = looker.bytes
    for _ in looker._work():
        pass
    assert looker.bytes > before
    assert len([line for line in site.said if "not in the lake yet" in line]) == 1
    source.finish(source.peer)
    site.until(lambda: source.ended is not None and not site.collector.collected_sessions)
    site.close()
    (host,) = site.collector.summary()["hosts"]
    assert (host["events"], host["lost"], host["unproven"]) == (12_005, 0, 0)
    left = site.captures()
    assert host["files"] == [str(path) for path in left]
    reports = [verify_file(str(path)) for path in left]
    assert all(report.complete for report in reports)
    ledger = read_ledger(str(site.path / "in"))
    assert verify_set(reports, ledger) == []
    gone = f"2 to {len(files) - 1}" if len(files) > 3 else "2"
    assert [line.split(" of")[0] for line in verify_removed(reports, ledger)] == [
        f"file{'s' * (len(files) > 3)} {gone}"
    ]
    assert verify_set(reports) != []  # without the ledger nobody knows


def test_what_is_not_acknowledged_stays(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk refuses checkpoints: files that were finished since are needed to go on."""
    site.open(rotate_bytes=ROTATED)
    source = delivered(site, "host", 100, finish=False)
    (first,) = site.captures()

    def refuse(*_: object) -> None:
        raise CheckpointError("write", "it", "no space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(Checkpoint, "write", refuse)
        assert source.peer is not None
        source.give(12_000, source.peer)
        site.until(lambda: len(site.captures()) > 2)
        for path in site.captures():
            aged(path, 30)
        assert looked(site, Keep(DAY)).removed_files == 0
        assert first.exists()
    acknowledged(site, source)
    before = len(site.captures())
    for path in site.captures():
        aged(path, 30)
    assert looked(site, Keep(DAY)).removed_files == before - 1
    site.close()


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("rotate", [0, ROTATED])
def test_a_session_that_is_away_goes_on_without_its_file(site: Site, rotate: int, restarted: bool) -> None:
    """Nothing is lost, nothing comes twice, and what is there is proven."""
    site.open(settings=QUICK, rotate_bytes=rotate)
    source = delivered(site, "host", 500, finish=False)
    away(site, source)
    for path in site.captures():
        aged(path, 30)
    assert looked(site, Keep(DAY)).removed_files == 1
    assert site.captures() == []
    if restarted:
        site.close()
        site.open(settings=QUICK, rotate_bytes=rotate)
        assert site.captures() == []
        assert [line for line in site.said if "gone" in line] == []
    back(site, source, 20)
    (path,) = site.captures()
    assert complete(path) == 20
    assert numbers(path) == list(range(500, 520))
    site.close()
    (host,) = site.collector.summary()["hosts"]
    assert (host["events"], host["lost"], host["unproven"]) == (520, 0, 0)


@pytest.mark.parametrize("moment", ["ledger", "checkpoint", "file"])
def test_killed_in_the_middle_of_a_round(site: Site, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the ledger was written, after the checkpoint knows it, after the file is gone."""
    site.open(settings=QUICK, rotate_bytes=ROTATED)
    source = delivered(site, "host", 12_000, finish=False)
    away(site, source)
    files = site.captures()
    for path in files:
        aged(path, 30)
    steps = {"ledger": (retention, "write_ledger"), "file": (os, "unlink")}

    class KilledError(Exception):
        pass

    def killed(name: str, then: Callable[..., object]) -> Callable[..., object]:
        def step(*arguments: object, **more: object) -> object:
            outcome = then(*arguments, **more)
            if name != "file" or str(arguments[0]).endswith(files[-1].name):
                raise KilledError
            return outcome

        return step

    with monkeypatch.context() as broken:
        if moment == "checkpoint":
            retire = site.collector.storage.release

            def release(capture: str, number: int) -> None:
                retire(capture, number)
                if number == len(files):
                    raise KilledError

            broken.setattr(site.collector.storage, "release", release)
        else:
            place, name = steps[moment]
            broken.setattr(place, name, killed(moment, getattr(place, name)))
        with pytest.raises(KilledError):
            looked(site, Keep(DAY))
    site.close(kill=True)
    site.open(settings=QUICK, rotate_bytes=ROTATED)
    left = site.captures()
    ledger = read_ledger(str(site.path / "in"))
    assert verify_set([verify_file(str(path)) for path in left], ledger) == []
    looked(site, Keep(0, 1))
    back(site, source, 30)
    site.close()
    found = [number for path in site.captures() for number in numbers(path)]
    assert found[-30:] == list(range(12_000, 12_030))
    assert len(found) == len(set(found))
    (host,) = site.collector.summary()["hosts"]
    assert (host["events"], host["lost"], host["unproven"]) == (12_030, 0, 0)
    reports = [verify_file(str(path)) for path in site.captures()]
    assert verify_set(reports, read_ledger(str(site.path / "in"))) == []
    assert all(report.complete for report in reports)


def test_a_merged_capture_goes_by_files_of_its_rotation(site: Site) -> None:
    merged = str(site.path / "in" / "all.pcapng")
    site.open(merged, rotate_bytes=ROTATED)
    delivered(site, "one", 12_000)
    files = site.captures()
    assert len(files) > 2
    for path in files:
        aged(path, 30)
    assert looked(site, Keep(DAY)).removed_files == len(files) - 1
    site.close()
    site.open(merged, rotate_bytes=ROTATED)  # all sessions have ended: what is there is gone on with
    assert not [line for line in site.said if "begun anew" in line]
    delivered(site, "two", 50)
    site.close()
    assert site.collector.summary()["events"] == 12_050
    reports = [verify_file(str(path)) for path in site.captures()]
    assert all(report.complete for report in reports)
    assert verify_set(reports, read_ledger(str(site.path / "in"))) == []


def test_what_cannot_be_removed_is_said_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.open()
    delivered(site, "host")
    aged(site.captures()[0], 30)

    def refuse(path: str) -> None:
        raise PermissionError(1, "Operation not permitted", path)

    looker = Retention(site.loop, site.collector.storage, Keep(DAY), site.said)
    with monkeypatch.context() as broken:
        broken.setattr(os, "unlink", refuse)
        for _ in range(2):
            for _ in looker._work():
                pass
    assert len([line for line in site.said if "removing old captures" in line]) == 1
    assert site.said.events[-1] == "disk"
    assert "Operation not permitted" in looker.trouble
    for _ in looker._work():
        pass
    assert (looker.trouble, looker.removed_files, site.captures()) == ("", 1, [])
    site.close()


def test_a_folder_that_is_gone_is_no_end(site: Site) -> None:
    """The loop's own rounds: one that fails is said, and the next one comes."""
    site.open()
    delivered(site, "host")
    looker = Retention(site.loop, site.collector.storage, Keep(DAY), site.said)
    looker._folder = str(site.path / "nowhere")
    looker.begin()
    assert "No such file" in looker.trouble
    looker._folder = str(site.path / "in")
    aged(site.captures()[0], 2)
    looker.begin()
    site.until(lambda: looker.removed_files == 1)
    looker.stop()
    site.close()


# ---------------------------------------------------------------------- the ledger


ID = "0123456789abcdef" * 2


def test_the_ledger_is_read_as_it_was_written(tmp_path: Path) -> None:
    removed = Removed((), 0, "a-20200101-000000.pcapng")
    for number in (3, 1, 2, 7):
        removed = removed.add(number, number)
    assert removed == Removed(((1, 3), (7, 7)), 7, "a-20200101-000000.pcapng")
    write_ledger(str(tmp_path), {ID: removed})
    assert read_ledger(str(tmp_path)) == {ID: removed}
    assert [path.name for path in tmp_path.iterdir()] == [LEDGER]
    odd = removed._replace(name=os.fsdecode(b"caf\xe9.pcapng"))  # a name that is not UTF-8
    write_ledger(str(tmp_path), {ID: odd})
    assert read_ledger(str(tmp_path)) == {ID: odd}


def test_a_hostile_ledger_says_nothing(tmp_path: Path) -> None:
    assert read_ledger(str(tmp_path)) == {}
    lines = [ID, f"{ID} 1 1 x", f"{ID} 9-1 1 x", f"{ID} 1-999999999 1 x/y", "\0" * 50, f"{ID[1:]} 1-1 1 x"]
    (tmp_path / LEDGER).write_text("\n".join(lines))
    assert read_ledger(str(tmp_path)) == {}
    (tmp_path / LEDGER).unlink()
    os.mkfifo(tmp_path / LEDGER)
    assert read_ledger(str(tmp_path)) == {}


def test_numbers_in_words() -> None:
    assert in_words([(1, 1)]) == "file 1"
    assert in_words([(1, 2), (3, 4)]) == "files 1 to 4"
    assert in_words([(9, 9), (1, 2), (5, 5)]) == "files 1 to 2, 5 and 9"
    assert without([(1, 10)], [(1, 2), (5, 5), (10, 12)]) == [(3, 4), (6, 9)]
    assert without([(1, 999_999_999)], [(2, 999_999_998)]) == [(1, 1), (999_999_999, 999_999_999)]
    assert without([(1, 3)], [(1, 3)]) == []


# ---------------------------------------------------------------------- as a user has it


def kwire(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kwire.cli.main", *words],
        cwd=cwd,
        text=True,
        capture_output=True,
        timeout=PATIENCE,
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--keep", "7d", "--keep", "8d"], "--keep takes a size and a time, one of each"),
        (["--keep", "7"], "'7' has no unit; write a size, as 7M, or a time, as 7s"),
        (["--keep", "soon"], "'soon' does not begin with a number"),
        (["--keep", "100M", "--rotate", "100M"], "holds no two files of --rotate"),
        (["--keep", "7d", "--merge", "all.pcapng"], "one file is never finished"),
    ],
)
def test_limits_that_make_no_sense(words: list[str], told: str, tmp_path: Path) -> None:
    done = kwire("collect", "--listen", f"unix:{tmp_path}/socket", *words, cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_verify_tells_what_was_removed(site: Site) -> None:
    site.open(rotate_bytes=ROTATED)
    delivered(site, "host", 12_000)
    first, *rest = site.captures()
    aged(first, 30)
    looked(site, Keep(DAY))
    site.close()
    done = kwire("verify", *(str(path) for path in rest), cwd=site.path)
    assert done.returncode == 0, done.stdout
    assert f"file 1 of the rotation that {rest[0]} belongs to: removed by --keep" in done.stdout
    told = json.loads(kwire("verify", "--json", *(path.name for path in rest), cwd=rest[0].parent).stdout)
    assert (told["complete"], len(told["removed"])) == (True, 1)
    which = identity.of_file(str(rest[0]))
    assert which is not None
    rest[0].unlink()  # by somebody else
    done = kwire("verify", *(str(path) for path in rest[1:]), cwd=site.path)
    assert done.returncode == 3
    assert "file 2 of the rotation" in done.stdout
    assert "file 1 of the rotation" in done.stdout
