"""The spool: what is put is there until it is released, in memory and on disk, killed or not, full or not."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kwire.stream import spool as spools
from kwire.stream.segment import HEADER, RECORD, SpoolError
from kwire.stream.spool import Spool, begin, recover

TOKEN, OTHER = b"t" * 16, b"o" * 16
PREFIX = [b"schema 1", b"schema 2"]
MB = 1 << 20


def wait(done: Callable[[], bool]) -> None:
    """Wait for the writer."""
    deadline = time.monotonic() + 10
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def written(spool: Spool) -> bool:
    return spool._written == spool._end


def settle(spool: Spool) -> None:
    """Wait until everything is on disk."""
    wait(lambda: written(spool))


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
        wait(lambda: spool.room > 60_000)
        spool.put(spool.next, payload)
    settle(spool)
    assert sum(map(len, spool._memory.values())) <= 2 * MB
    assert all_of(spool)[2:] == payloads
    on_disk = spool.size
    spool.release(250)
    wait(lambda: spool.size < on_disk * 0.6)  # one segment of three is gone
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
    files = sum(file.stat().st_size for file in tmp_path.rglob("*.seg"))
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
    assert spool.close() == 0
    again, _ = recovered(tmp_path)
    assert all_of(again) == PREFIX
    again.remove()
    assert list(recover(str(tmp_path / "none"), MB, MB)) == []


def make(path: Path, count: int, size: int = 1000) -> list[bytes]:
    """A closed spool of so many payloads; gives them."""
    spool = begin(str(path), TOKEN, PREFIX, 64 * MB, 8 * MB)
    spool.run()
    payloads = [bytes([number % 256]) * size for number in range(count)]
    for payload in payloads:
        spool.put(spool.next, payload)
    assert spool.close() == 0
    return payloads


@pytest.mark.parametrize("lost", [1, RECORD.size - 1, RECORD.size, RECORD.size + 1, 1000, 5 * 1016, 10**6])
def test_a_torn_end_is_cut_off(tmp_path: Path, lost: int) -> None:
    payloads = make(tmp_path, 20)
    [file] = tmp_path.rglob("*.seg")
    size = file.stat().st_size
    os.truncate(file, max(0, size - lost))
    spool, cut = recovered(tmp_path)
    whole = max(0, (size - HEADER.size - lost) // (1000 + RECORD.size))
    assert all_of(spool)[2:] == payloads[:whole]
    assert bool(cut) == (lost % (1000 + RECORD.size) != 0)
    spool.run()
    spool.put(spool.next, b"more")  # and it goes on
    spool.close()
    spool, cut = recovered(tmp_path)
    assert cut == ""
    assert all_of(spool)[2:] == [*payloads[:whole], b"more"]
    spool.remove()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 20 * 1016 + HEADER.size - 1), st.integers(1, 255))
def test_a_changed_byte_is_noticed(tmp_path_factory: pytest.TempPathFactory, at: int, change: int) -> None:
    path = tmp_path_factory.mktemp("spool")
    payloads = make(path, 20)
    [file] = path.rglob("*.seg")
    data = bytearray(file.read_bytes())
    data[at] ^= change
    file.write_bytes(data)
    spool, cut = recovered(path)
    found = all_of(spool)[2:]
    assert found == payloads[: len(found)]
    if at >= HEADER.size:
        assert len(found) == (at - HEADER.size) // 1016
    assert cut
    spool.remove()


def test_what_comes_after_damage_is_kept_for_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spools, "SEGMENT", 1 << 16)
    payloads = make(tmp_path, 300)
    files = sorted(tmp_path.rglob("*.seg"))
    assert len(files) > 3
    with files[1].open("r+b") as file:
        file.seek(5000)
        file.write(b"\xff" * 100)
    spool, cut = recovered(tmp_path)
    assert "checksum" in cut
    found = all_of(spool)[2:]
    assert 60 < len(found) < 80
    assert found == payloads[: len(found)]
    spool.remove()
    assert len(list(tmp_path.iterdir())) == len(list(tmp_path.glob("*.damaged"))) == len(files) - 2
    assert list(recover(str(tmp_path), MB, MB)) == []


def test_rubbish_is_no_spool(tmp_path: Path) -> None:
    folder = tmp_path / ("a" * 32)
    folder.mkdir()
    (folder / "00000001.seg").write_bytes(b"left behind by one that was being deleted")
    (tmp_path / "something else").mkdir()
    (tmp_path / ("z" * 32)).mkdir()
    (tmp_path / ("b" * 32)).write_text("a file")
    assert list(recover(str(tmp_path), MB, MB)) == []
    assert not folder.exists()
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"", lambda data: data[:9] + b"x"])
def test_a_session_file_that_is_damaged_is_set_aside(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    make(tmp_path, 5)
    [file] = tmp_path.rglob("session")
    file.write_bytes(damage(file.read_bytes()))
    [(spool, why)] = recover(str(tmp_path), MB, MB)
    assert spool is None
    assert "damaged" in why
    assert len(list(tmp_path.rglob("*.damaged/*.seg"))) == 1
    assert list(recover(str(tmp_path), MB, MB)) == []


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


def test_after_another_boot_nothing_is_sure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, 5)
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
    wait(lambda: "space" in spool.trouble)
    assert 90 < len(payloads) < 110  # 2 MB of disk and 3 of memory
    assert all_of(spool)[2:] == payloads
    for sequence in range(2, 52):  # a sink takes them in order: what is on the disk, and a little more
        spool.release(sequence)
    wait(lambda: not spool.trouble)
    assert all_of(spool) == payloads[50:]
    spool.release(2 + len(payloads) - 1)
    wait(lambda: written(spool) and spool.room > 2.9 * MB)
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
