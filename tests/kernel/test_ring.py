"""The ring reader: the walker and its C twin on made-up rings, then a real ring, filled, wrapped and
overrun.
"""

from __future__ import annotations

import re
import struct
from array import array
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from traces import open_descriptors

from kwire import native
from kwire.bpf.asm import (
    R0,
    R1,
    R2,
    R3,
    R4,
    R6,
    R10,
    Item,
    Label,
    alu64,
    atomic,
    call,
    exit_,
    image,
    jmp,
    lddw,
    ldx,
    map_fd,
    map_value,
    mov64,
    stx,
)
from kwire.bpf.asm import st as store
from kwire.bpf.helpers import HELPERS
from kwire.bpf.image import MapSpec
from kwire.kernel.maps import PAGE, Map
from kwire.kernel.prog import Prog, load
from kwire.kernel.ring import BUSY, DISCARD, HEADER, WINDOW, Ring, Rings, ring_walk
from kwire.kernel.sys import BPF_F_MMAPABLE, online_cpus, possible_cpus
from kwire.kernel.syscall import KernelError
from kwire.wire.frame import pack_header

SIZE = 4096
WALKERS = [ring_walk, *([native.ring_walk] if native.ring_walk else [])]

records = st.lists(st.tuples(st.integers(0, 300), st.sampled_from([0, 0, 0, DISCARD, BUSY])), max_size=30)


def made_up(start: int, content: list[tuple[int, int]]) -> tuple[bytearray, int, list[int], int]:
    """(doubly mapped data, producer position, payload offsets to find, where the walk must end)."""
    data, at, wanted, end, open_ = bytearray(SIZE), start, [], start, True
    for length, bits in content:
        if at + HEADER + length + 8 - start > SIZE:
            break
        struct.pack_into("=I", data, at % SIZE, length | bits)
        if bits & BUSY:
            open_ = False
        if open_ and not bits:
            wanted.append(at % SIZE + HEADER)
        at += (HEADER + length + 7) // 8 * 8
        end = at if open_ else end
    return data + data, at, wanted, end


@pytest.mark.parametrize("walk", WALKERS)
@given(start=st.integers(0, 10 * SIZE).map(lambda n: n * 8), content=records)
def test_walkers_find_what_was_committed(walk, start: int, content: list[tuple[int, int]]) -> None:  # type: ignore[no-untyped-def]  # a parameter of two kinds
    data, producer, wanted, end = made_up(start, content)
    offsets = array("Q", bytes(8 * 64))
    count, consumer = walk(memoryview(data), SIZE - 1, start, producer, offsets, 64)
    assert list(offsets[:count]) == wanted
    assert consumer == end


@pytest.mark.skipif(not native.ring_walk, reason="the C walkers are not built")
@given(
    st.binary(max_size=200),
    st.integers(0, 2**40),
    st.integers(0, SIZE // 8),
    st.integers(0, 70),
)
def test_the_twins_agree_on_noise(data: bytes, start: int, used: int, limit: int) -> None:
    start *= 8
    data = (data * SIZE)[:SIZE] if data else bytes(SIZE)
    given_ = memoryview(data + data)
    ours, theirs = array("Q", bytes(8 * 70)), array("Q", bytes(8 * 70))
    assert native.ring_walk
    found = ring_walk(given_, SIZE - 1, start, start + 8 * used, ours, limit)
    assert native.ring_walk(given_, SIZE - 1, start, start + 8 * used, theirs, limit) == found
    assert ours[: found[0]] == theirs[: found[0]]


def test_a_limit_splits_a_walk() -> None:
    data, producer, wanted, end = made_up(0, [(16, 0)] * 10)
    offsets = array("Q", bytes(8 * 64))
    for walk in WALKERS:
        at = 0
        found: list[int] = []
        while at < producer:
            count, at = walk(memoryview(data), SIZE - 1, at, producer, offsets, 3)
            assert 0 < count <= 3
            found += offsets[:count]
        assert (found, at) == (wanted, end)


COUNTS = MapSpec("counts", "array", 4, 16, 1, BPF_F_MMAPABLE)  # attempts, refusals
RING = MapSpec("ring", "ringbuf", 0, 0, PAGE)
FRAME = 32


def writer(name: str = "writer") -> list[Item]:
    """Write one frame with the number of the attempt in it; count attempts and refusals."""
    done = Label("done")
    header = struct.unpack("=q", pack_header(1, 1, FRAME))[0]
    return [
        map_value(R6, "counts"),
        ldx("dw", R1, R6, 0),
        stx("dw", R10, R1, -24),
        alu64("add", R1, 1),
        stx("dw", R6, R1, 0),
        lddw(R1, header),
        stx("dw", R10, R1, -32),
        store("dw", R10, 0, -16),
        store("dw", R10, 0, -8),
        map_fd(R1, "ring"),
        mov64(R2, R10),
        alu64("add", R2, -FRAME),
        mov64(R3, FRAME),
        mov64(R4, 1),  # BPF_RB_NO_WAKEUP
        call(HELPERS["ringbuf_output"].id),
        jmp("eq", R0, 0, done),
        mov64(R1, 1),
        atomic("add", "dw", R6, R1, 8),
        done,
        mov64(R0, 0),
        exit_(),
    ]


class Written:
    """A ring and the program that writes to it."""

    def __init__(self, size: int) -> None:
        spec = RING._replace(max_entries=size)
        self.counts, self.ring_map = Map.create(COUNTS), Map.create(spec)
        one = image("writer", "socket_filter", writer(), maps=[COUNTS, spec])
        self.prog: Prog = load(one, {"counts": self.counts, "ring": self.ring_map})
        self.ring = Ring(self.ring_map)

    def write(self, times: int) -> None:
        self.prog.test_run(bytes(60), repeat=times)

    @property
    def attempts_refused(self) -> tuple[int, int]:
        return struct.unpack("=QQ", self.counts.lookup(bytes(4)) or b"")

    def close(self) -> None:
        self.ring.close()
        for one in (self.prog, self.counts, self.ring_map):
            one.close()


@pytest.fixture
def written() -> Iterator[Written]:
    made = Written(16 * PAGE)
    yield made
    made.close()


def numbers(ring: Ring, limit: int = 16384) -> list[int]:
    """The attempts' numbers in what can be read, which is then released."""
    found = []
    while frames := ring.read(limit):
        for index in range(len(frames)):
            one = frames.frame_bytes(index)
            assert len(one) == FRAME
            found.append(struct.unpack_from("=Q", one, 8)[0])
            one.release()
        ring.release()
    ring.release()
    return found


@pytest.mark.live
def test_what_is_written_is_read_in_order(written: Written) -> None:
    assert numbers(written.ring) == []
    written.write(5)
    assert written.ring.waiting == 5 * (FRAME + HEADER)
    assert numbers(written.ring) == [0, 1, 2, 3, 4]
    assert written.ring.waiting == 0
    assert numbers(written.ring) == []


@pytest.mark.live
def test_a_ring_wraps_many_times_and_loses_nothing(written: Written) -> None:
    seen: list[int] = []
    for _ in range(200):
        written.write(313)
        seen += numbers(written.ring)
    assert seen == list(range(200 * 313))
    assert written.attempts_refused == (200 * 313, 0)


@pytest.mark.live
@pytest.mark.parametrize("c", [True, False])
def test_a_record_across_the_end_is_one_frame(
    c: bool, monkeypatch: pytest.MonkeyPatch, written: Written
) -> None:
    if not c:
        monkeypatch.setattr(native, "ring_walk", None)
    room = written.ring.size // (FRAME + HEADER)
    assert written.ring.size % (FRAME + HEADER), "the last record must not end with the ring"
    written.write(room)
    assert len(numbers(written.ring)) == room
    written.write(3)
    assert [len(written.ring.read()) for _ in range(3)] == [1, 2, 0]
    written.ring.release()
    assert numbers(written.ring) == []
    written.write(1)
    assert numbers(written.ring) == [room + 3]


@pytest.mark.live
def test_an_overrun_is_counted_to_the_last_record(written: Written) -> None:
    room = 16 * PAGE // (FRAME + HEADER)
    written.write(room + 500)
    attempts, refused = written.attempts_refused
    found = numbers(written.ring)
    assert attempts == room + 500
    assert len(found) + refused == attempts
    assert refused >= 500
    assert found == list(range(len(found)))
    written.write(3)
    assert numbers(written.ring) == [attempts, attempts + 1, attempts + 2]


@pytest.mark.live
def test_room_is_given_back_only_by_release(written: Written) -> None:
    room = 16 * PAGE // (FRAME + HEADER)
    written.write(room)
    frames = written.ring.read(10)
    assert len(frames) == 10
    assert written.ring.waiting == written.ring.size // (FRAME + HEADER) * (FRAME + HEADER)
    assert len(written.ring.read(10)) == 10  # what comes after
    written.ring.release()
    _, refused = written.attempts_refused
    written.write(20)
    assert written.attempts_refused[1] == refused
    written.write(1)
    assert written.attempts_refused[1] == refused + 1


@pytest.mark.live
def test_frames_end_with_the_ring(written: Written) -> None:
    written.write(1)
    frames = written.ring.read()
    written.ring.close()
    with pytest.raises(ValueError, match="released"):
        frames.frame_bytes(0)
    written.ring.close()


@pytest.mark.live
def test_both_walkers_read_the_same_ring(monkeypatch: pytest.MonkeyPatch, written: Written) -> None:
    written.write(1000)
    frames = written.ring.read()
    fast = list(frames.offsets[: len(frames)])
    offsets = array("Q", bytes(8 * 2000))
    count, _ = ring_walk(frames.view, written.ring.size - 1, 0, 1000 * (FRAME + HEADER), offsets, 2000)
    assert list(offsets[:count]) == fast
    monkeypatch.setattr(native, "ring_walk", None)
    written.ring.release()
    written.write(1000)
    assert numbers(written.ring) == list(range(1000, 2000))


@pytest.mark.live
def test_one_ring_a_cpu() -> None:
    before = open_descriptors()
    with Rings(SIZE) as rings:
        assert len(rings.readers) == len(online_cpus())
        ids = {ring.map.info()["id"] for ring in rings.readers}
        assert len(ids) == len(rings.readers)
        found = [rings.array.lookup(struct.pack("=I", cpu)) for cpu in range(possible_cpus())]
        assert {int.from_bytes(value or b"", "little") for value in found} == ids
    rings.close()
    with pytest.raises(KernelError, match="create map ring"):
        Rings(5)
    assert open_descriptors() == before


def mapped() -> int:
    """Bytes of rings' memory that is mapped here."""
    with open("/proc/self/smaps") as file:
        parts = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", file.read(), flags=re.M)
    sizes = [re.search(r"^Rss: +(\d+) kB", part, re.M) for part in parts if "bpf-map" in part.split("\n")[0]]
    return sum(int(size[1]) << 10 for size in sizes if size)


@pytest.mark.live
def test_memory_is_mapped_where_records_come_to_lie() -> None:
    """Window by window: all of a ring after its first turn, one window of a ring that is hardly used."""
    none = mapped()
    written = Written(4 * WINDOW)
    try:
        positions = 3 * PAGE  # of consumer and producer, and the counters, which nobody has mapped
        assert WINDOW <= mapped() - none <= WINDOW + positions
        room = WINDOW // (FRAME + HEADER)
        written.write(room + 1)  # the last lies in the second window
        assert numbers(written.ring) == list(range(room + 1))
        assert 2 * WINDOW <= mapped() - none <= 2 * WINDOW + positions
        seen = []
        for _ in range(12):  # turns of three quarters: windows are met at the end before those at the start
            written.write(3 * room)
            seen += numbers(written.ring)
        assert seen == list(range(room + 1, room + 1 + 12 * 3 * room))
        assert 4 * WINDOW <= mapped() - none <= 4 * WINDOW + positions
    finally:
        written.close()
    assert mapped() == none
