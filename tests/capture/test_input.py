"""Where bytes come from: compressed in every way, cut, damaged, hostile, growing; always within bounds."""

from __future__ import annotations

import gzip
import io
import os
import random
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lz4.frame
import pytest
import zstandard

from kwire.capture import input
from kwire.capture.input import Input
from kwire.capture.output import CaptureError
from kwire.capture.reader import Capture

PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
    "lz4": lambda data: bytes(lz4.frame.compress(data, content_checksum=True)),
}


def whole(source: Input) -> bytes:
    return b"".join(iter(source.read, b""))


@pytest.fixture(params=list(PACK))
def format(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_a_fault_of_ours_is_not_called_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the error of a format's library means that the data are damaged."""

    class Broken(input._Gzip):
        def decompress(self, data: bytes, max_length: int, /) -> bytes:
            raise TypeError("a fault of ours")

    monkeypatch.setattr(input, "COMPRESSIONS", [input.COMPRESSIONS[0]._replace(make=Broken)])
    with pytest.raises(TypeError):
        whole(Input(io.BytesIO(gzip.compress(b"x" * 100))))


def test_what_is_compressed_is_unpacked_from_files_and_pipes(format: str, tmp_path: Path) -> None:
    data = random.Random(1).randbytes(3_000_000) + bytes(3_000_000)
    packed = PACK[format](data)
    path = tmp_path / "name.without.hint"
    path.write_bytes(packed)
    source = Input(str(path))
    assert whole(source) == data
    assert (source.compression, source.problem) == (format, None)
    assert whole(Input(io.BytesIO(packed))) == data
    out, target = os.pipe()

    def write() -> None:
        for at in range(0, len(packed), 70_001):
            os.write(target, packed[at : at + 70_001])
        os.close(target)

    thread = threading.Thread(target=write)
    thread.start()
    assert whole(Input(out)) == data
    thread.join()
    os.close(out)


def test_several_streams_in_a_row_are_one(format: str) -> None:
    packed = PACK[format](b"first ") + PACK[format](b"") + PACK[format](b"second")
    source = Input(io.BytesIO(packed))
    assert whole(source) == b"first second"
    assert source.problem is None


def test_zstd_with_skippable_frames_is_read() -> None:
    skip = b"\x5a\x2a\x4d\x18\x04\x00\x00\x00abcd"
    source = Input(io.BytesIO(skip + PACK["zstd"](b"data") + skip))
    assert whole(source) == b"data"
    assert (source.compression, source.problem) == ("zstd", None)


def test_a_cut_stream_gives_what_is_there_and_says_so(format: str, kit: Any) -> None:
    events = [kit.event(1, number, b"%d" % number) for number in range(2000)]
    data = kit.builder().capture(kit.schema(), *events).data
    packed = PACK[format](data)
    last = 0
    for size in range(40, len(packed), max(len(packed) // 20, 1)):
        try:
            capture = Capture(io.BytesIO(packed[:size]))
            count = sum(map(len, capture))
        except CaptureError:  # not even the first block could be unpacked
            assert last == 0
            continue
        assert count >= last
        last = count
        assert capture.problem is not None
        assert f"the {format} data has no end" in capture.problem
    assert last > 0


def test_damage_is_named(format: str) -> None:
    packed = bytearray(PACK[format](random.Random(3).randbytes(100_000)))
    packed[len(packed) // 2 : len(packed) // 2 + 8] = bytes(8)
    source = Input(io.BytesIO(bytes(packed)))
    whole(source)
    assert source.problem is not None
    assert f"not sound {format}" in source.problem
    assert "\n" not in source.problem
    other = Input(io.BytesIO(PACK[format](b"x") + b"something else"))
    assert whole(other) == b"x"
    assert other.problem is not None
    assert "is something else" in other.problem


def test_little_that_unpacks_to_much_takes_little_memory(format: str) -> None:
    bomb = PACK[format](bytes(200 << 20))
    tracemalloc.start()
    try:
        size = sum(map(len, iter(Input(io.BytesIO(bomb)).read, b"")))
        assert size == 200 << 20
        assert tracemalloc.get_traced_memory()[1] < 80 << 20
    finally:
        tracemalloc.stop()


def test_a_missing_extra_says_how_to_get_it() -> None:
    program = """
        import io, sys
        sys.modules["zstandard"] = None
        from kwire.capture.input import Input
        from kwire.capture.output import CaptureError
        try:
            Input(io.BytesIO(b"\\x28\\xb5\\x2f\\xfd" + bytes(20))).read()
        except CaptureError as error:
            assert "pip install 'kwire[compression]'" in str(error), error
        else:
            raise SystemExit("no error")
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)


def test_compressors_are_imported_only_where_they_are_needed() -> None:
    program = """
        import io, sys
        from kwire.packets.open import open_capture
        list(open_capture(io.BytesIO(b"")))
        assert not {"zstandard", "lz4", "gzip", "zlib"} & set(sys.modules), set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)


def test_a_growing_file_is_followed(kit: Any, tmp_path: Path) -> None:
    path = tmp_path / "grows"
    data = kit.builder().capture(kit.schema(), kit.event(1, 1), statistics=False).data
    more = kit.builder().packet(kit.event(1, 2)).packet(kit.event(1, 3)).data
    path.write_bytes(data)
    capture = Capture(str(path), follow=True)
    assert not capture.regular
    chunks = iter(capture)
    assert len(next(chunks)) == 1

    def grow() -> None:
        with path.open("ab") as file:
            for at in range(0, len(more), 50):
                time.sleep(0.01)
                file.write(more[at : at + 50])
                file.flush()
        time.sleep(0.2)
        os.truncate(path, 5)

    thread = threading.Thread(target=grow)
    thread.start()
    assert sum(map(len, chunks)) == 2
    thread.join()
    assert capture.problem is not None
    assert "while followed" in capture.problem
    capture.close()


def test_peeking_takes_nothing() -> None:
    source = Input(io.BytesIO(b"abcdef"))
    assert source.peek(4)[:4] == b"abcd"
    assert source.peek(100) == b"abcdef"
    assert whole(source) == b"abcdef"


def test_buffers_are_used_again_but_never_while_somebody_looks(
    kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(input, "CHUNK", 4096)
    events = [kit.event(1, number, b"%d" % number) for number in range(1500)]
    path = tmp_path / "x"
    path.write_bytes(kit.builder().capture(kit.schema(), *events).data)
    with Capture(str(path)) as capture:
        kept = list(capture)
    assert len(kept) > 10
    assert [bytes(one.frame_bytes(index)) for one in kept for index in range(len(one))] == events
    with Capture(str(path)) as capture:
        places = {id(frames.view.obj) for frames in capture}
    assert len(places) <= input.POOL
