"""Reading captures: both byte orders, sections, cuts at every byte, damage, streams, bounded memory."""

from __future__ import annotations

import io
import os
import random
import struct
import threading
from pathlib import Path
from typing import Any

import pytest

from kwire.capture import input, reader, walk
from kwire.capture.output import CaptureError
from kwire.capture.reader import Capture
from kwire.wire.frame import Type
from kwire.wire.messages import Cause, Lost


@pytest.fixture(params=["native", "twin"], autouse=True)
def walker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "twin":
        monkeypatch.setattr(walk, "pcapng_walk", walk.pcapng_walk_twin)


def read(data: bytes) -> tuple[list[bytes], Capture]:
    capture = Capture(io.BytesIO(data))
    found = []
    for frames in capture:
        found += [bytes(frames.frame_bytes(index)) for index in range(len(frames))]
    return found, capture


@pytest.mark.parametrize("order", ["little", "big"])
def test_a_capture_is_read_in_either_byte_order(kit: Any, order: str) -> None:
    schema = kit.schema(3, order=order)
    frames = [kit.event(3, 1, b"a", order), Lost(3, 1, 2, 9).frame(), kit.event(3, 2, b"bc", order)]
    data = kit.builder(order).capture(schema, *frames).data
    found, capture = read(data)
    assert found == frames
    assert capture.problem is None
    assert capture.skipped == 0
    assert capture.schemas == {3: schema}
    assert capture.ended
    assert capture.section is not None
    assert capture.section.order == order
    interface = capture.section.interfaces[0]
    assert (interface.name, interface.probe, interface.link_type) == (schema.probe, 3, 147)
    assert interface.statistics == {4: 2, 5: 0, 8: 2}


def test_frames_of_a_chunk_are_of_one_section(kit: Any) -> None:
    first, second = kit.schema(1, "kprobe:one"), kit.schema(1, "kprobe:two", "big")
    data = kit.builder().capture(first, kit.event(1, 1, b"x", "little")).data
    data += kit.builder("big").capture(second, *[kit.event(1, 2, b"y", "big")] * 2).data
    capture = Capture(io.BytesIO(data))
    seen = [(len(frames), capture.schemas[1].probe) for frames in capture]
    assert seen == [(1, "kprobe:one"), (2, "kprobe:two")]
    assert [section.schemas[1].probe for section in capture.sections] == ["kprobe:one", "kprobe:two"]


def test_a_new_schema_of_a_probe_holds_for_what_comes_after(kit: Any) -> None:
    old, new = kit.schema(), kit.schema()._replace(symbols={1: "f"})
    builder = kit.builder().capture(old, kit.event(), statistics=False)
    builder.packet(new.frames()[0]).packet(kit.event())
    capture = Capture(io.BytesIO(builder.data))
    assert [(len(frames), capture.schemas[1]) for frames in capture] == [(1, old), (1, new)]


def test_chunks_are_bounded_and_frames_stay_valid(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input, "CHUNK", 1000)
    monkeypatch.setattr(reader, "LIMIT", 7)
    events = [kit.event(1, number, b"%d" % number) for number in range(200)]
    capture = Capture(io.BytesIO(kit.builder().capture(kit.schema(), *events).data))
    chunks = list(capture)
    assert max(map(len, chunks)) == 7
    assert max(len(chunk.data) for chunk in chunks) < 2000
    found = [bytes(chunk.frame_bytes(index)) for chunk in chunks for index in range(len(chunk))]
    assert found == events


def whole_packets(data: bytes, size: int) -> tuple[int, bool]:
    """Frames that are no SCHEMA before `size`, and whether it is the end of a block."""
    at = count = 0
    while at + 12 <= size:
        type, total = struct.unpack_from("<II", data, at)
        if at + total > size:
            break
        count += type == 6 and data[at + 28] & 15 != Type.SCHEMA
        at += total
    return count, at == size


def test_a_capture_cut_at_any_byte_gives_every_whole_packet(kit: Any) -> None:
    frames = [kit.event(1, n, b"x" * n) for n in range(9)] + [Lost(1, 1, 2, 3).frame(), kit.event()]
    data = kit.builder().capture(kit.schema(), *frames).data
    for size in range(len(data) + 1):
        found, capture = read(data[:size])
        count, clean = whole_packets(data, size)
        assert found == frames[:count], size
        if size == 0:
            assert capture.problem == "empty: not even a section header is there"
        elif clean:
            assert capture.problem is None, size
        else:
            assert capture.problem is not None, size
            assert capture.problem.startswith(f"cut at byte {size}: "), size
            assert "\n" not in capture.problem


def test_the_place_and_kind_of_a_cut_are_named(kit: Any) -> None:
    data = kit.builder().capture(kit.schema(), kit.event(), statistics=False).data
    start = len(data) - 72
    assert read(data[:-10])[1].problem == (
        f"cut at byte {len(data) - 10}: 62 of the 72 bytes of a packet block are there, from byte {start}"
    )
    assert read(data[: start + 5])[1].problem == (
        f"cut at byte {start + 5}: 5 bytes of a block are there, from byte {start}"
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda b, at: b[: at + 4] + b"\x1f\0\0\0" + b[at + 8 :], "packet block cannot be 31 bytes long"),
        (lambda b, at: b[: at + 4] + b"\0\0\0\0" + b[at + 8 :], "packet block cannot be 0 bytes long"),
        (lambda b, at: b[: at + 4] + b"\xfc\xff\xff\xff" + b[at + 8 :], "cannot be 4,294,967,292 bytes"),
        (lambda b, at: b[: at + 68] + b"\x4c" + b[at + 69 :], "begins with length 72 and ends with 76"),
        (lambda b, at: b[: at + 20] + b"\xff\xff\0\0" + b[at + 24 :], "65535 captured bytes in 40"),
        (lambda b, at: b[:at] + b"\n\r\r\n" + b[at + 4 :], "without its byte-order magic"),
    ],
)
def test_damage_stops_the_reading_and_is_named(kit: Any, change: Any, says: str) -> None:
    before, after = kit.event(1, 1, b"before"), kit.event(1, 2, b"after")
    builder = kit.builder().capture(kit.schema(), before, statistics=False)
    at = len(builder.data)
    found, capture = read(change(builder.packet(after).data, at))
    assert found == [before]
    assert capture.problem is not None
    assert capture.problem.startswith(f"damaged at byte {at}: ")
    assert says in capture.problem


def test_what_is_no_sound_frame_is_skipped_and_counted(kit: Any) -> None:
    builder = kit.builder().capture(kit.schema(), statistics=False)
    at = len(builder.data)
    bad = [
        b"",
        b"\x11\0\0",
        kit.event()[:-1],
        kit.event() + b"more",
        b"\x21" + kit.event()[1:],
        b"\x1f" + kit.event()[1:],
        b"\x11\x80" + kit.event()[2:],
        struct.pack(">BBHI", 0x11, 0, 12, 1) + bytes(4),
        struct.pack(">BBHI", 0x17, 0, 12, 1) + bytes(4),
        struct.pack(">BBHI", 0x16, 0, 12, 1) + b"\xff\xff\xff\xff",
    ]
    for frame in bad:
        builder.packet(frame).packet(kit.event())
    builder.packet(kit.event(), interface=9).block(3, struct.pack("<I", 4) + b"abcd")
    builder.block(2, struct.pack("<HHIIII", 0, 0, 0, 0, 4, 4) + b"abcd")
    found, capture = read(builder.data)
    assert found == [kit.event()] * len(bad)
    assert capture.skipped == len(bad) + 3
    assert capture.first_skipped is not None
    assert capture.first_skipped.startswith(f"packet at byte {at}: TRUNCATED_HEADER")
    assert capture.problem is None


def test_old_and_simple_packet_blocks_are_read(kit: Any) -> None:
    event = kit.event()
    builder = kit.builder().capture(kit.schema(), statistics=False)
    builder.block(2, struct.pack("<HHIIII", 0, 0, 0, 0, len(event), len(event)) + event)
    builder.block(3, struct.pack("<I", len(event)) + event)
    found, capture = read(builder.data)
    assert found == [event, event]
    assert capture.skipped == 0


def test_events_with_a_checksum_are_read_strictly(kit: Any) -> None:
    from kwire.wire.frame import Flag, build

    sound = build(Type.EVENT, 1, kit.event()[8:], Flag.CHECKSUM)
    data = kit.builder().capture(kit.schema(), sound, sound[:-1] + bytes([sound[-1] ^ 1])).data
    found, capture = read(data)
    assert found == [sound]
    assert capture.first_skipped is not None
    assert "BAD_CHECKSUM" in capture.first_skipped


def test_packets_of_another_link_type_are_no_frames_though_they_look_so(kit: Any) -> None:
    builder = kit.builder().capture(kit.schema(), kit.event(), statistics=False)
    builder.interface(b"eth0", 1).packet(kit.event(1, 66), interface=1).packet(kit.event(1, 77))
    found, capture = read(builder.data)
    assert found == [kit.event(), kit.event(1, 77)]
    assert (capture.skipped, capture.problem) == (1, None)


def test_unknown_blocks_and_options_are_passed_over(kit: Any) -> None:
    builder = kit.builder().section([(1, b"hello"), (9999, b"?")]).block(0xABCD, b"what").interface()
    builder.block(4, bytes(2_000_000)).packet(kit.schema().frames()[0], options=[(77, b"x")])
    builder.packet(kit.event(), options=[(2, bytes(4)), (4, bytes(8))]).block(0x40000BAD, bytes(8))
    found, capture = read(builder.data)
    assert found == [kit.event()]
    assert capture.problem is None
    assert capture.sections[0].comments == ["hello"]


def test_a_schema_in_several_packets_is_put_together(kit: Any) -> None:
    schema = kit.schema()._replace(symbols={number: f"symbol_{number}" for number in range(9000)})
    assert len(schema.frames()) > 2
    found, capture = read(kit.builder().capture(schema, kit.event()).data)
    assert capture.schemas == {1: schema}
    assert found == [kit.event()]


@pytest.mark.parametrize(
    ("start", "says"),
    [
        (b"\xd4\xc3\xb2\xa1\x02\0\x04\0" + bytes(16), "a classic pcap file"),
        (b"PERFILE2" + bytes(90), "a perf.data file"),
        (b"\x1f\x8b\x08" + bytes(40), "not sound gzip"),
        (b"root:x:0:0:root:/root:/bin/bash\n", "it is not a pcapng file"),
        (b"hi", "it is not a pcapng file"),
        (b"\x06\0\0\0\x20\0\0\0" + bytes(20) + b"\x20\0\0\0", "it is not a pcapng file"),
    ],
)
def test_other_files_are_refused_in_a_line(start: bytes, says: str) -> None:
    with pytest.raises(CaptureError, match=says):
        read(start)


def test_a_file_that_cannot_be_opened_says_why(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="No such file"):
        Capture(str(tmp_path / "none"))
    with pytest.raises(CaptureError, match="Is a directory"):
        list(Capture(str(tmp_path)))


def test_a_pipe_is_read_as_it_comes(kit: Any) -> None:
    fd, target = os.pipe()
    data = kit.builder().capture(kit.schema(), kit.event(1, 1), kit.event(1, 2), statistics=False).data
    capture = Capture(fd)
    assert not capture.regular
    chunks = iter(capture)
    os.write(target, data[:-20])
    assert len(next(chunks)) == 1  # the first event, while the second is still on its way

    def rest() -> None:
        for byte in data[-20:]:
            os.write(target, bytes([byte]))
        os.close(target)

    thread = threading.Thread(target=rest)
    thread.start()
    assert [len(frames) for frames in chunks] == [1]
    thread.join()
    os.close(fd)
    assert capture.problem is None


def test_memory_is_bounded_whatever_lengths_say(kit: Any) -> None:
    import tracemalloc

    huge = struct.pack("<II", 6, 0xFFFFFF00)
    data = kit.builder().capture(kit.schema(), kit.event(), statistics=False).data + huge + bytes(100)
    many = kit.builder().capture(kit.schema(), *[kit.event()] * 60_000).data
    tracemalloc.start()
    try:
        read_all = 0
        for source in (data, many):
            tracemalloc.reset_peak()
            start = tracemalloc.get_traced_memory()[0]
            for frames in Capture(io.BytesIO(source)):
                read_all += len(frames)
            assert tracemalloc.get_traced_memory()[1] - start < 4 << 20
    finally:
        tracemalloc.stop()
    assert read_all == 60_001


def test_there_is_an_end_to_sections_and_interfaces(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_SECTIONS", 3)
    monkeypatch.setattr(reader, "MAX_INTERFACES", 5)
    capture = read(kit.builder().section().data * 4)[1]
    assert capture.problem is not None
    assert "over 3 sections" in capture.problem
    builder = kit.builder().section()
    for _ in range(6):
        builder.interface()
    capture = read(builder.data)[1]
    assert capture.problem is not None
    assert "more than 5 interfaces" in capture.problem


def test_random_damage_never_raises_and_the_walkers_agree(kit: Any) -> None:
    source = random.Random(3)
    frames = [kit.event(1, n, b"x" * (n % 5)) for n in range(20)] + [
        Lost(1, 1, 2, 3, 0, Cause.MISSED).frame()
    ]
    good = kit.builder().capture(kit.schema(), *frames).data
    good += kit.builder("big").capture(kit.schema(1, order="big"), kit.event(1, 1, b"b", "big")).data
    for _ in range(1500):
        data = bytearray(good)
        for _ in range(source.randrange(1, 5)):
            at = source.randrange(8, len(data))
            data[at : at + source.choice([1, 4])] = source.choice([b"\0", b"\xff", source.randbytes(4)])
        found, capture = read(bytes(data))
        assert all(len(frame) >= 8 for frame in found)
        assert capture.problem is None or "\n" not in capture.problem
