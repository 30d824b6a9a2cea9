"""What is too long, of another version, or wrongly packed: passed over, refused, given in part, and said."""

from __future__ import annotations

import gzip
import io
import struct
from typing import Any, Literal

import pytest

from kwire.capture import pcapng, reader
from kwire.capture.input import Input
from kwire.capture.output import CaptureError
from kwire.capture.reader import Capture
from kwire.packets.open import open_capture

LARGE = 20 << 20


def read(data: bytes) -> tuple[list[bytes], Capture]:
    capture = open_capture(io.BytesIO(data))
    found = [bytes(frames.frame_bytes(index)) for frames in capture for index in range(len(frames))]
    return found, capture


def block(order: Literal["little", "big"], kind: int, total: int, again: int | None = None) -> bytes:
    sign = "<" if order == "little" else ">"
    body = bytes(total - 12)
    return struct.pack(sign + "II", kind, total) + body + struct.pack(sign + "I", again or total)


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("kind", [0xBAD, 0x7777, 4, 10])
def test_a_block_of_20_megabytes_is_passed_over(kit: Any, order: Literal["little", "big"], kind: int) -> None:
    schema = kit.schema(order=order)
    before, after = kit.event(1, 1, b"a", order), kit.event(1, 2, b"b", order)
    made = kit.builder(order).section().interface()
    for frame in [*schema.frames(), before]:
        made.packet(frame)
    made.blocks += block(order, kind, LARGE)
    found, capture = read(made.packet(after).data)
    assert (found, capture.problem, capture.packets, capture.skipped) == ([before, after], None, 3, 0)


def test_a_packet_of_20_megabytes_is_counted_and_passed_over(kit: Any) -> None:
    made = kit.builder().section().interface()
    for frame in kit.schema().frames():
        made.packet(frame)
    made.blocks += block("little", pcapng.Block.PACKET, LARGE)
    made.packet(kit.event())
    found, capture = read(made.data)
    assert (found, capture.problem, capture.skipped) == ([kit.event()], None, 1)
    assert capture.errors == {"PACKET_TOO_LONG": 1}
    assert f"{LARGE:,} bytes are more than are looked into" in (capture.first_skipped or "")


def test_a_large_block_that_is_cut_or_ends_otherwise_is_damage(kit: Any) -> None:
    start = kit.builder().section().interface().packet(kit.event()).data
    large = block("little", 0xBAD, LARGE)
    found, capture = read(start + large[:-5])
    assert len(found) == 1
    assert f"{LARGE - 5} of the {LARGE} bytes of a custom block are there" in (capture.problem or "")
    found, capture = read(start + block("little", 0xBAD, LARGE, 20))
    assert f"begins with length {LARGE} and ends with 20" in (capture.problem or "")
    for kind in (pcapng.Block.INTERFACE, 0x0A0D0D0A):
        large = block("little", kind, LARGE)
        if kind != pcapng.Block.INTERFACE:
            large = large[:8] + struct.pack("<IHH", pcapng.MAGIC, 1, 0) + large[16:]
        assert "cannot be 20,971,520 bytes long" in (read(start + large)[1].problem or "")
    found, capture = read(start + struct.pack("<II", 0xBAD, 0xFFFFFFFC) + bytes(100))
    assert "cannot be 4,294,967,292 bytes long" in (capture.problem or "")


def test_every_record_of_a_capture_is_told_a_large_one_too(kit: Any) -> None:
    made = kit.builder().section().interface()
    made.blocks += block("little", 0xBAD, LARGE)
    made.packet(kit.event())
    capture = open_capture(io.BytesIO(made.data))
    assert [(one.kind, one.original) for one in capture.records()] == [
        (0x0A0D0D0A, 0), (1, 0), (0xBAD, LARGE), (6, 40)
    ]  # fmt: skip


@pytest.mark.parametrize("order", ["little", "big"])
def test_a_section_of_another_version_is_refused(kit: Any, order: Literal["little", "big"]) -> None:
    one = kit.builder(order).capture(kit.schema(order=order), kit.event(1, 1, b"a", order)).data
    sign = "<" if order == "little" else ">"
    for major, minor in ((2, 0), (0, 1), (0xFFFF, 7)):
        other = one[:12] + struct.pack(sign + "HH", major, minor) + one[16:]
        with pytest.raises(CaptureError, match=rf"it is pcapng {major}\.{minor}"):
            open_capture(io.BytesIO(other))
        found, capture = read(one + other)
        assert len(found) == 1
        assert capture.problem == (
            f"not read from byte {len(one)} on: a section of pcapng {major}.{minor}, of which only version 1 "
            "is known begins there"
        )
    assert len(read(one[:14] + struct.pack(sign + "H", 2) + one[16:])[0]) == 1  # minor versions only add


def test_interfaces_are_counted_without_looking_at_all_before(kit: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(reader, "MAX_INTERFACES", 5)
    data = kit.builder().section().interface().interface().interface().data
    capture = read(data + data)[1]
    assert "more than 5 interfaces" in (capture.problem or "")


# --- compressed


def whole(data: bytes) -> tuple[bytes, str | None]:
    source, out = Input(io.BytesIO(data)), b""
    while part := source.read():
        out += part
    return out, source.problem


RAW = b"".join(b"%d %x;" % (n, n * n * 7919) for n in range(120_000))


def packed(form: str) -> bytes:
    if form == "gzip":
        return gzip.compress(RAW, mtime=0)
    if form == "zstd":
        zstandard = pytest.importorskip("zstandard")
        return bytes(zstandard.ZstdCompressor(write_checksum=True).compress(RAW))
    lz4 = pytest.importorskip("lz4.frame")
    return bytes(lz4.compress(RAW, content_checksum=True))


@pytest.mark.parametrize("form", ["gzip", "zstd", "lz4"])
def test_a_wrong_checksum_gives_what_was_held_and_says_so(form: str) -> None:
    data = packed(form)
    assert whole(data) == (RAW, None)
    at = -5 if form == "gzip" else -1
    bad = bytearray(data)
    bad[at] ^= 0x40
    out, problem = whole(bytes(bad))
    assert out == RAW
    assert problem is not None
    assert problem.startswith(f"damaged: not sound {form} near byte {len(data)}: its checksum")
    out, problem = whole(data + data if form != "gzip" else bytes(bad) + data)
    assert out == (RAW + RAW if form != "gzip" else RAW)


def test_a_gzip_of_another_length_than_it_says() -> None:
    data = bytearray(packed("gzip"))
    data[-1] ^= 1
    out, problem = whole(bytes(data))
    assert out == RAW
    assert problem == f"damaged: not sound gzip near byte {len(data)}: its length is wrong"


def test_a_gzip_damaged_in_the_middle_gives_all_before() -> None:
    """A stored block whose length and its complement disagree: everything before it is given."""
    import zlib

    maker = zlib.compressobj(6, zlib.DEFLATED, 31)
    head = maker.compress(RAW) + maker.flush(zlib.Z_FULL_FLUSH)
    out, problem = whole(head + b"\x00\x05\x00\x05\x00hello" + bytes(40))
    assert out == RAW
    assert problem is not None
    assert "damaged: not sound gzip" in problem
