"""The spool: what is put is there until it is released, in memory and on disk, killed or not, full or not."""

import errno
import os
import shutil
import signal
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import until

from kwire.agent import manifest
from kwire.agent import spool as spools
from kwire.agent.agent import Recovered
from kwire.agent.segment import HEAD, HEADER, SpoolError
from kwire.agent.spool import Spool, begin, recover
from kwire.agent.spool_state import SpoolLocation
from kwire.agent.uplink import Line, Uplink
from kwire.transport.address import parse
from kwire.transport.loop import Loop
from kwire.wire import cbor
from kwire.wire.messages import Cause, Lost
from kwire.wire.session import Settings

TOKEN, OTHER = b"t" * 16, b"o" * 16
PREFIX = [b"schema 1", b"schema 2"]
MB = 1 << 20


def written(spool: Spool) -> bool:
    spool._settle()
    return spool._written == spool._end


def settle(spool: Spool) -> None:
    """Wait until everything is on disk."""
    until(lambda: written(spool))


def all_of(spool: Spool) -> list[bytes]:
    """What the session sees, through the interface it uses."""
    count = (spool.next - spool.first) % 2**32
    return [bytes(spool.get((spool.first + step) % 2**32)) for step in range(count)]


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = begin(str(tmp_path), TOKEN, PREFIX, 64 * MB, 8 * MB)
    made.run()
    yield made
    made.remove()
    assert list(tmp_path.iterdir()) == []


def recovered(path: Path) -> tuple[Spool, str]:
    [(spool, cut)] = recover(str(path), 64 * MB, 8 * MB)
    assert spool is not None
    return spool, cut


def test_it_begins_with_its_prefix(spool: Spool) -> None:
    assert (spool.first, spool.next) == (0, 2)
    spool.put(2, b"one")
    assert all_of(spool) == [*PREFIX, b"one"]
    spool.release(0)
    assert all_of(spool) == [b"schema 2", b"one"]
    spool.release(2)
    assert (spool.first, spool.next, spool.count) == (3, 3, 0)


def test_what_leaves_the_memory_comes_back_from_disk(spool: Spool) -> None:
    payloads = [bytes([i % 251]) * 60_000 for i in range(300)]  # 18 MB, of which 2 stay in memory
    for payload in payloads:
        until(lambda: spool.room > 60_000)
        spool.put(spool.next, payload)
    settle(spool)
    assert sum(map(len, spool._memory.values())) <= 2 * MB
    assert all_of(spool)[2:] == payloads
    on_disk = spool.size
    spool.release(250)
    until(lambda: spool.size < on_disk * 0.6)  # one segment of three is gone
    assert all_of(spool) == payloads[249:]
    assert spool._cached + spool._unwritten >= 0


def test_it_takes_no_more_than_its_memory_and_its_disk(tmp_path: Path) -> None:
    spool = begin(str(tmp_path), TOKEN, [], 4 * MB, MB)
    assert spool.room == MB - MB // 4
    while spool.room > 10_000:
        spool.put(spool.next, bytes(10_000))  # not run yet: nothing is written
    spool.run()
    settle(spool)
    while spool.room > 10_000:
        spool.put(spool.next, bytes(10_000))
        settle(spool)
    assert 3.9 * MB < spool.size <= 4 * MB
    files = sum(file.stat().st_size for file in tmp_path.rglob("0*.*"))
    assert files == spool.size
    spool.remove()


def test_a_killed_agent_goes_on_where_it_was(tmp_path: Path) -> None:
    """The writer has handed everything to the operating system; the process dies without a word."""
    child = os.fork()
    if child == 0:
        spool = begin(str(tmp_path), TOKEN, PREFIX, 64 * MB, 8 * MB)
        spool.run()
        for number in range(500):
            spool.put(spool.next, b"%d" % number * 100)
        for sequence in range(100):
            spool.get(sequence)
        spool.release(9)
        settle(spool)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    spool, cut = recovered(tmp_path)
    assert cut == ""
    assert spool.kept.token == TOKEN
    # Acknowledged payloads leave the disk a segment at a time; the sink will say what it has.
    assert spool.first <= 10
    assert spool.next == 502
    everything = [*PREFIX, *(b"%d" % number * 100 for number in range(500))]
    assert all_of(spool) == everything[spool.first :]
    spool.release(99)
    maybe, surely_not = spool.split()
    assert (len(list(maybe)), len(list(surely_not))) == (402, 0)  # all_of has looked at them all
    spool.remove()


def test_a_living_agents_spool_is_left_alone(tmp_path: Path) -> None:
    spool = begin(str(tmp_path), TOKEN, PREFIX, MB, MB)
    assert list(recover(str(tmp_path), MB, MB)) == []
    other = begin(str(tmp_path), OTHER, PREFIX, MB, MB)  # and others have theirs beside it
    other.remove()
    assert spool.close() == 0
    again, _ = recovered(tmp_path)
    assert all_of(again) == PREFIX
    again.remove()
    assert list(recover(str(tmp_path / "none"), MB, MB)) == []


def event(number: int, probe: int = 1) -> bytes:
    """An EVENT frame at time `number` + 1."""
    return struct.pack(">BBHI", 0x11, 0, 40, probe) + struct.pack("<Q", number + 1) + bytes(24)


def events(path: Path, count: int, each: int = 10) -> list[bytes]:
    """A closed spool of so many payloads of events, of the probes 1 and 2 by turns; gives them."""
    spool = begin(str(path), TOKEN, PREFIX, 8 * MB, 8 * MB, 2)
    spool.run()
    payloads = [
        b"".join(event(number * each + step, 1 + number % 2) for step in range(each))
        for number in range(count)
    ]
    for payload in payloads:
        spool.put(spool.next, payload)
    assert spool.close() == 0
    return payloads


def balance(spool: Spool) -> tuple[dict[int, int], dict[int, int]]:
    """Events by probe that it gives, and those that it tells as lost."""
    there: dict[int, int] = {}
    lost: dict[int, int] = {}
    for payload in all_of(spool):
        for row in manifest.of(payload, 2).values():
            counts = there if row.cause == manifest.EVENTS else lost
            counts[row.probe] = counts.get(row.probe, 0) + row.number
    return there, lost


def is_whole(spool: Spool, payloads: list[bytes]) -> None:
    """Each payload is there as it was, or told as lost; the counts say the same."""
    found = all_of(spool)[2:]
    assert len(found) == len(payloads)
    there, lost = balance(spool)
    for probe in (1, 2):
        put = sum(payload.count(struct.pack(">BBHI", 0x11, 0, 40, probe)) for payload in payloads)
        assert there.get(probe, 0) + lost.get(probe, 0) == put
    assert spool.lost == lost
    assert not spool.unknown
    for payload, wanted in zip(found, payloads, strict=True):
        assert payload == wanted or payload[:1] in (b"", b"\x17")


HEAD_SIZE = HEAD.size + manifest.ROW_SIZE


@pytest.mark.parametrize("cut", [1, HEAD_SIZE - 1, HEAD_SIZE, HEAD_SIZE + 1, 1000, 5 * 472, 10**6])
def test_a_torn_end_is_counted(tmp_path: Path, cut: int) -> None:
    payloads = events(tmp_path, 20)
    [file] = tmp_path.rglob("*.seg")
    os.truncate(file, max(0, file.stat().st_size - cut))
    spool, wrong = recovered(tmp_path)
    assert wrong
    is_whole(spool, payloads)
    assert spool.lost
    spool.run()
    spool.put(spool.next, payloads[0])  # and it goes on
    spool.close()
    spool, _ = recovered(tmp_path)
    is_whole(spool, [*payloads, payloads[0]])
    spool.remove()


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 20 * 472 + HEADER.size), st.integers(1, 255), st.sampled_from(["seg", "idx"]))
def test_a_changed_byte_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, at: int, change: int, which: str
) -> None:
    path = tmp_path_factory.mktemp("spool")
    payloads = events(path, 20)
    [file] = path.rglob(f"*.{which}")
    data = bytearray(file.read_bytes())
    data[at % len(data)] ^= change
    file.write_bytes(data)
    spool, _ = recovered(path)
    is_whole(spool, payloads)
    assert sum(spool.lost.values()) <= 10
    spool.remove()


@pytest.mark.parametrize("which", [0, 1, 2, 3, -2, -1])
@pytest.mark.parametrize("pattern", ["{}.seg", "{}.idx", "{}.*"])
def test_a_segment_that_is_gone_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: int, pattern: str
) -> None:
    """Whichever it is. Only of the last one nobody knows what it held, where its index is gone too."""
    monkeypatch.setattr(spools, "SEGMENT", 1 << 16)
    payloads = events(tmp_path, 300, 100)
    files = sorted(tmp_path.rglob("*.seg"))
    assert len(files) > 5
    for name in files[which].parent.glob(pattern.format(files[which].stem)):
        name.unlink()
    spool, wrong = recovered(tmp_path)
    assert "gone" in wrong
    if which == -1 and pattern.endswith("*"):
        all_of(spool)
        assert spool.count == 302
        assert spool.unknown > 1
    else:
        is_whole(spool, payloads)
        assert bool(spool.lost) == (not pattern.endswith("idx"))
    spool.release(spool.next - 1)
    spool.remove()
    assert list(tmp_path.iterdir()) == []


def test_several_segments_that_are_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spools, "SEGMENT", 1 << 16)
    payloads = events(tmp_path, 300, 100)
    for number in (1, 2, 4, 7):
        for file in tmp_path.rglob(f"{number:08d}.*"):
            file.unlink()
    spool, _ = recovered(tmp_path)
    is_whole(spool, payloads)
    spool.remove()


def test_what_was_released_is_not_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spools, "SEGMENT", 1 << 16)
    spool = begin(str(tmp_path), TOKEN, PREFIX, 8 * MB, 8 * MB, 2)
    spool.run()
    for _ in range(300):
        spool.put(spool.next, b"".join(event(step) for step in range(100)))
    settle(spool)
    spool.release(149)
    spool.close()
    assert not list(tmp_path.rglob("00000001.*"))
    spool, wrong = recovered(tmp_path)
    assert wrong == ""
    assert spool.first <= 150
    assert balance(spool)[1] == {}
    first = spool.first
    for file in tmp_path.rglob(f"{sorted(tmp_path.rglob('*.seg'))[0].stem}.*"):
        file.unlink()
    spool.close()
    spool, wrong = recovered(tmp_path)
    assert "gone" in wrong
    assert spool.first == first
    all_of(spool)
    assert spool.unknown  # what was acknowledged of the segment that is gone, nobody knows


def test_a_live_spool_that_is_changed_gives_no_wrong_byte(tmp_path: Path) -> None:
    spool = begin(str(tmp_path), TOKEN, [], 64 * MB, MB, 2)
    spool.run()
    payloads = [b"".join(event(number * 500 + step) for step in range(500)) for number in range(100)]
    for payload in payloads:
        until(lambda: spool.room > 30_000)
        spool.put(spool.next, payload)
    settle(spool)
    [file] = tmp_path.rglob("*.seg")
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size - 50_000)
        opened.write(b"\xff" * 3)
    found = all_of(spool)
    assert found == all_of(spool)
    [changed] = [number for number in range(100) if found[number] != payloads[number]]
    assert spool.lost == {1: 500}
    assert found[changed] == Lost(1, changed * 500 + 1, changed * 500 + 500, 500, cause=Cause.SPOOL).frame()
    assert "lost" in spool.harm()[0]
    spool.remove()


@pytest.mark.parametrize("name", ["session", "state"])
@pytest.mark.parametrize(
    "harm", [Path.unlink, lambda path: os.truncate(path, 0), lambda path: path.rename(f"{path}.old")]
)
def test_a_live_spool_writes_again_what_says_whose_it_is(
    tmp_path: Path, name: str, harm: Callable[[Path], object]
) -> None:
    spool = begin(str(tmp_path), TOKEN, PREFIX, 64 * MB, 8 * MB)
    payloads = [event(number) for number in range(6)]
    for payload in payloads:
        spool.put(spool.next, payload)
    for sequence in range(4):
        spool.get(sequence)
    while not written(spool):
        spool._writer.step(False)
    assert not spool.unwritten
    harm(Path(spool.path, name))
    if name == "session":
        assert spool.unwritten == spool.events == 6
    spool.look()
    assert not spool.unwritten
    assert spool.harm() == [
        f"{name} was removed or {'changed' if name == 'session' else 'cut'} by somebody else"
    ]
    spool.look()
    assert spool.harm() == []
    spool._free()  # killed
    again, wrong = recovered(tmp_path)
    assert not wrong
    maybe, surely_not = again.split()
    assert (list(maybe), list(surely_not)) == ([*PREFIX, *payloads[:2]], payloads[2:])
    again.close()


def test_a_live_spool_ends_as_one_that_is_found(tmp_path: Path) -> None:
    """Nobody looked between the harm and the end."""
    spool = begin(str(tmp_path), TOKEN, PREFIX, 64 * MB, 8 * MB)
    spool.run()
    spool.put(spool.next, event(1))
    for name in ("session", "state"):
        Path(spool.path, name).unlink()
    spool.stop()
    assert not spool.unwritten
    spool.close()
    again, wrong = recovered(tmp_path)
    assert not wrong
    assert all_of(again) == [*PREFIX, event(1)]
    again.remove()


@pytest.mark.parametrize("how", ["removed", "emptied", "cut"])
def test_a_live_spool_that_vanishes_costs_what_was_in_it(tmp_path: Path, how: str) -> None:
    """What comes waits in memory, and what was removed is still readable while it is open."""
    spool = begin(str(tmp_path), TOKEN, [], 64 * MB, 2 * MB, 2)
    spool.run()

    def put(count: int) -> None:
        for _ in range(count):
            until(lambda: spool.room > 30_000)
            spool.put(spool.next, b"".join(event(step) for step in range(500)))

    put(100)
    settle(spool)
    if how == "removed":
        shutil.rmtree(spool.path)
    for file in tmp_path.rglob("*.seg"):
        if how == "emptied":
            file.unlink()
        else:
            os.truncate(file, 50_000)
    put(20)
    if how == "removed":
        until(lambda: bool(spool.trouble))
        assert spool.unwritten == 60_000
    else:
        settle(spool)
        assert "somebody" in spool.harm()[0]
    assert spool.events == 60_000
    there, lost = balance(spool)
    assert there.get(1, 0) + lost.get(1, 0) == 60_000
    assert bool(lost) == (how == "cut")
    spool.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_copy_is_refused_until_it_is_adopted(tmp_path: Path) -> None:
    payloads = events(tmp_path / "one", 20)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    [(spool, wrong)] = recover(str(tmp_path / "two"), MB, MB)
    assert spool is None
    assert "copy" in wrong
    assert "--adopt" in wrong
    [(spool, wrong)] = recover(str(tmp_path / "two"), MB, MB, adopt=True)
    assert spool is not None
    assert wrong == ""
    is_whole(spool, payloads)
    spool.close()
    spool, _ = recovered(tmp_path / "two")  # it is at home here now
    spool.close()
    (tmp_path / "one").rename(tmp_path / "three")  # moved, it is the same
    spool, _ = recovered(tmp_path / "three")
    spool.close()


@pytest.mark.parametrize(
    ("place", "says"),
    [
        (SpoolLocation("other", 1, 2, 3), "machine other"),
        (SpoolLocation("here", 1, 2, 4), "inode 3 and was 4"),
        (SpoolLocation("here", 9, 9, 3), "file system"),
        (SpoolLocation("here", 9, 2, 3), ""),
        (SpoolLocation("here", 1, 9, 3), ""),
    ],
)
def test_what_makes_a_place(place: SpoolLocation, says: str) -> None:
    """The device's number may be another after a boot: the file system's id tells then."""
    assert says in place.differs(SpoolLocation("here", 1, 2, 3))
    assert bool(says) == bool(place.differs(SpoolLocation("here", 1, 2, 3)))


def test_files_of_two_spools_are_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spools, "SEGMENT", 1 << 16)
    payloads = events(tmp_path / "one", 100, 100)
    events(tmp_path / "two", 100, 100)
    for mine in (tmp_path / "one").rglob("00000002.*"):
        [other] = (tmp_path / "two").rglob(mine.name)
        shutil.copy(other, mine)
    spool, wrong = recovered(tmp_path / "one")
    assert "nothing in it can be read" in wrong
    is_whole(spool, payloads)
    spool.close()
    for mine in (tmp_path / "two").rglob("00000002.*"):
        shutil.copy(mine, mine.with_name(mine.name.replace("2", "9")))
    [(refused, wrong)] = recover(str(tmp_path / "two"), MB, MB)
    assert refused is None
    assert "00000009.seg: it does not follow the one before it" in wrong
    for mine in (tmp_path / "two").rglob("00000009.*"):
        mine.write_bytes(b"something else")
    spool, wrong = recovered(tmp_path / "two")
    assert "00000009.seg: nothing in it can be read" in wrong
    is_whole(spool, payloads)
    spool.remove()  # what is not its own stays, and that is said
    assert len(list((tmp_path / "two").rglob("0*.*"))) == 2
    assert "not deleted" in spool.harm()[-1]


def test_a_spool_of_an_older_version_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / ("a" * 32)
    folder.mkdir()
    data = cbor.dumps({"token": TOKEN, "prefix": [], "start": 0, "boot": ""})
    (folder / "session").write_bytes(zlib.crc32(data).to_bytes(4, "little") + data)
    (folder / "00000001.seg").write_bytes(b"kwspool1" + bytes(100))
    [(spool, wrong)] = recover(str(tmp_path), MB, MB)
    assert spool is None
    assert "deliver it with kwire 0.1" in wrong
    assert len(list(folder.iterdir())) == 2


def test_rubbish_is_no_spool(tmp_path: Path) -> None:
    folder = tmp_path / ("a" * 32)
    folder.mkdir()
    (folder / "session.new").write_bytes(b"left behind by one that was being made")
    (tmp_path / "something else").mkdir()
    (tmp_path / ("z" * 32)).mkdir()
    (tmp_path / ("b" * 32)).write_text("a file")
    assert list(recover(str(tmp_path), MB, MB)) == []
    assert not folder.exists()
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"", lambda data: data[:9] + b"x"])
def test_a_spool_without_a_sound_session_file_is_left_alone(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    events(tmp_path, 5)
    [file] = tmp_path.rglob("session")
    file.write_bytes(damage(file.read_bytes()))
    [(spool, why)] = recover(str(tmp_path), MB, MB)
    assert spool is None
    assert "damaged" in why or "it is empty" in why
    assert str(file) in why
    file.unlink()
    [(spool, why)] = recover(str(tmp_path), MB, MB)
    assert spool is None
    assert "gone" in why
    assert len(list(tmp_path.rglob("*.seg"))) == 1


def test_another_session_takes_what_was_never_sent(tmp_path: Path) -> None:
    spool = begin(str(tmp_path), TOKEN, PREFIX, 64 * MB, 8 * MB)
    spool.run()
    for number in range(10):
        spool.put(spool.next, b"%d" % number)
    for sequence in range(7):  # the prefix, and 0 to 4
        spool.get(sequence)
    spool.release(3)
    maybe, surely_not = spool.split()
    assert list(maybe) == [b"2", b"3", b"4"]
    assert list(surely_not) == [b"5", b"6", b"7", b"8", b"9"]
    spool.renew(OTHER, [b"schema", b"lost"])
    assert (spool.first, spool.next) == (0, 7)
    expected = [b"schema", b"lost", b"5", b"6", b"7", b"8", b"9"]
    assert all_of(spool) == expected
    assert len(list(spool.split()[0])) == 7
    spool.put(7, b"10")
    spool.close()
    again, _ = recovered(tmp_path)
    assert again.kept.token == OTHER
    assert all_of(again) == [*expected, b"10"]
    again.release(7)
    assert again.count == 0
    again.remove()


def test_before_anything_was_sent_all_is_carried_over(tmp_path: Path) -> None:
    spool = begin(str(tmp_path), TOKEN, PREFIX, MB, MB)
    spool.put(2, b"one")
    spool.renew(OTHER, [b"new"])
    assert all_of(spool) == [b"new", b"one"]
    spool.remove()


@pytest.mark.parametrize("harm", [os.mkdir, os.mkfifo])
def test_a_spool_that_cannot_be_opened_keeps_no_other_from_being_delivered(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    made = [begin(str(tmp_path), TOKEN, PREFIX, 64 * MB, 8 * MB) for _ in range(3)]
    for spool in made:
        spool.close()
    broken = sorted(spool.path for spool in made)[0]
    os.unlink(f"{broken}/state")
    harm(Path(broken, "state"))
    found = list(recover(str(tmp_path), 64 * MB, 8 * MB))
    assert [one.spool is None for one in found] == [True, False, False]
    assert found[0].wrong.startswith(f"use spool {broken}: ")
    for one in found:
        if one.spool is not None:
            one.spool.close()


def test_a_session_that_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    spool = begin(str(tmp_path), TOKEN, PREFIX, 64 * MB, 8 * MB)
    spool.close()
    session = Path(spool.path, "session")
    session.unlink()
    os.mkfifo(session)
    [found] = recover(str(tmp_path), 64 * MB, 8 * MB)
    assert found.spool is None
    assert found.wrong == f"read spool file {session}: it is no regular file; move the spool away"


def test_a_session_that_could_not_be_written_down_nor_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk lets nothing be opened for writing; the state file is open. What the new session has sent may
    not be sent again for the one before.
    """
    spool = begin(str(tmp_path), TOKEN, [], 64 * MB, 8 * MB)
    payloads = [event(number) for number in range(4)]
    for payload in payloads:
        spool.put(spool.next, payload)
    while not written(spool):
        spool._writer.step(False)
    real = os.open

    def refuse(path: str, flags: int, *more: int, **named: int) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(path, flags, *more, **named)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        spool.renew(OTHER, [])
        assert spool.trouble == "its session could not be written down"
        assert all_of(spool) == payloads
    spool._free()  # killed
    again, wrong = recovered(tmp_path)
    assert "may be counted lost" in wrong
    maybe, surely_not = again.split()
    assert (list(maybe), list(surely_not)) == (payloads, [])
    again.remove()


@pytest.mark.parametrize("harm", ["gone", "cut", "token", "number"])
def test_without_a_sound_state_all_may_have_been_sent(tmp_path: Path, harm: str) -> None:
    spool = begin(str(tmp_path), TOKEN, PREFIX, 64 * MB, 8 * MB)
    spool.run()
    payloads = [event(number) for number in range(6)]
    for payload in payloads:
        spool.put(spool.next, payload)
    for sequence in range(4):
        spool.get(sequence)
    spool.close()
    (state,) = tmp_path.rglob("state")
    data = bytearray(state.read_bytes())
    if harm == "gone":
        state.unlink()
    else:
        data[{"cut": 0, "token": 33, "number": 49}[harm]] ^= 0x10
        state.write_bytes(data[:40] if harm == "cut" else data)
    for turn in range(2):  # the second agent does not know better than the first
        again, wrong = recovered(tmp_path)
        maybe, surely_not = again.split()
        assert (list(maybe), list(surely_not)) == ([*PREFIX, *payloads], [])
        assert turn or "may be counted lost" in wrong
        again.close()
    again, _ = recovered(tmp_path)
    again.remove()


def test_after_another_boot_nothing_is_sure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events(tmp_path, 5)
    monkeypatch.setattr(spools, "boot", lambda: "another")
    spool, _ = recovered(tmp_path)
    maybe, surely_not = spool.split()
    assert (len(list(maybe)), len(list(surely_not))) == (7, 0)
    spool.remove()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "kwire-test", disk]).returncode
    ):
        pytest.skip("cannot mount a small file system")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_full_disk_is_less_room_and_then_room_again(small_disk: Path) -> None:
    spool = begin(str(small_disk), TOKEN, PREFIX, 64 * MB, 4 * MB)
    spool.run()
    payloads: list[bytes] = []
    while spool.room > 50_000:
        payloads.append(bytes([len(payloads)]) * 50_000)
        spool.put(spool.next, payloads[-1])
        if len(payloads) < 30:
            settle(spool)
    until(lambda: "space" in spool.trouble)
    assert 90 < len(payloads) < 110  # 2 MB of disk and 3 of memory
    assert all_of(spool)[2:] == payloads
    for sequence in range(2, 52):  # a sink takes them in order: what is on the disk, and a little more
        spool.release(sequence)
    until(lambda: not spool.trouble)
    assert all_of(spool) == payloads[50:]
    spool.release(2 + len(payloads) - 1)
    until(lambda: written(spool) and spool.room > 2.9 * MB)
    spool.put(spool.next, b"more")
    settle(spool)
    assert all_of(spool) == [b"more"]
    spool.remove()


def test_a_spool_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(SpoolError, match="file"):
        begin(str(file), TOKEN, PREFIX, MB, MB)
    with pytest.raises(SpoolError, match="proc"):
        begin("/proc/nowhere", TOKEN, PREFIX, MB, MB)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(st.integers(1, 70_000 - 5000), st.just(-1), st.just(-2), st.just(-3)), max_size=60))
def test_any_order_of_things(tmp_path_factory: pytest.TempPathFactory, steps: list[int]) -> None:
    """Put (a size), release a few (-1), wait for the writer (-2), close and recover (-3), against a list."""
    path = tmp_path_factory.mktemp("spool")
    spool = begin(str(path), TOKEN, PREFIX, MB, MB)
    spool.run()
    model, first, put = list(PREFIX), 0, 0
    for step in steps:
        if step > 0 and spool.room >= step:
            put += 1
            payload = put.to_bytes(4, "big") * (step // 4 + 1)
            spool.put(spool.next, payload[:65_000])
            model.append(payload[:65_000])
        elif step == -1:
            take = len(model) // 3
            if take:
                spool.release(first + take - 1)
                first, model = first + take, model[take:]
        elif step == -2:
            settle(spool)
        elif step == -3:
            assert spool.close() == 0
            [(found, cut)] = recover(str(path), MB, MB)
            assert found is not None
            assert not cut
            spool = found
            assert spool.first <= first
            if spool.first < first:
                spool.release(first - 1)
            spool.run()
        assert (spool.first, spool.next) == (first, first + len(model))
        assert all_of(spool) == model
    spool.remove()


def test_a_spool_keeps_what_its_agent_was_called(tmp_path: Path) -> None:
    spool = begin(str(tmp_path), TOKEN, PREFIX, 64 * MB, 8 * MB, name="web1")
    spool.run()
    spool.put(spool.next, b"x" * 100)
    spool.close()
    [(found, _)] = recover(str(tmp_path), 64 * MB, 8 * MB)
    assert found is not None
    assert found.kept.name == "web1"
    line = Line(Loop(), parse("unix:/nowhere"), Settings(), {"host": "here", "name": "web2"}, lambda *_: None)
    try:
        uplink = Recovered(line, found).uplink
        assert isinstance(uplink, Uplink)
        assert uplink.peer.session.about == {"host": "here", "name": "web1"}
    finally:
        found.close()
        line.loop.close()


def test_a_spool_of_an_agent_that_did_not_say_what_it_is_called(tmp_path: Path) -> None:
    """Those of the release before have no name."""
    spool = begin(str(tmp_path), TOKEN, PREFIX, 64 * MB, 8 * MB)
    spool.run()
    spool.put(spool.next, b"x" * 100)
    spool.close()
    [file] = tmp_path.glob("*/session")
    kept = cbor.loads_map(file.read_bytes()[4:])
    del kept["name"]
    data = cbor.dumps(kept)
    file.write_bytes(zlib.crc32(data).to_bytes(4, "little") + data)
    [(found, _)] = recover(str(tmp_path), 64 * MB, 8 * MB)
    assert found is not None
    assert (found.kept.name, found.kept.token) == ("", TOKEN)
    found.close()


def test_a_spool_that_cannot_be_begun_leaves_nothing_open(tmp_path: Path) -> None:
    """Its folder was made, and is gone again."""
    before = os.listdir("/proc/self/fd")
    made = spools.make_folder(str(tmp_path))
    os.rmdir(made.path)
    with pytest.raises(SpoolError):
        spools.begin_in(made, TOKEN, PREFIX, MB, MB)
    assert os.listdir("/proc/self/fd") == before
