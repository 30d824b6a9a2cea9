"""Fuzz target: what an agent finds on its disk after it was killed: segments of a spool, and a ledger."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import fuzzing

from kwire.stream import segment
from kwire.stream.ledger import Ledger, LedgerError
from kwire.stream.segment import SpoolError

ID = bytes(16)
NAME = "00000001.seg"
FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-spool-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))


def _segment(*payloads: bytes) -> bytes:
    records = [segment.record(7 + number, payload) for number, payload in enumerate(payloads)]
    return segment.HEADER.pack(segment.MAGIC, ID, 7) + b"".join(one.head + one.payload for one in records)


def _ledger() -> bytes:
    path = FOLDER / "seed"
    made = Ledger(str(path))
    made.replace({"token": ID, "files": ["a"]}, b"first")
    made.write(b"second")
    made.close()
    return path.read_bytes()


SEEDS = [_segment(b"a", b"bc", bytes(300)), _segment(), _segment(b""), _ledger()]


def one_input(data: bytes) -> None:
    """Load it as both. What is read of a segment is whole records; what is read of a ledger is bounded."""
    path = FOLDER / NAME
    path.write_bytes(data)
    folder = os.open(FOLDER, os.O_RDONLY)
    try:
        found = segment.load(folder, NAME, ID)
        if found is not None:
            one, _ = found
            try:
                for index in range(one.count):
                    assert len(one.read(index)) <= segment.MAX_PAYLOAD
                assert one.size <= len(data)
                assert path.stat().st_size == one.size, "what is not whole is cut off"
            finally:
                one.close()
    except SpoolError as error:
        fuzzing.one_line(error)
    finally:
        os.close(folder)
    path.write_bytes(data)
    ledger = Ledger(str(path))
    try:
        assert len(ledger.load()) <= len(data)
    except LedgerError as error:
        fuzzing.one_line(error)
    finally:
        ledger.close()


if __name__ == "__main__":
    try:
        fuzzing.main(one_input, SEEDS)
    finally:
        shutil.rmtree(FOLDER, ignore_errors=True)
