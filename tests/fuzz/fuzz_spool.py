"""Fuzz target: what an agent finds on its disk after it was killed: segments of a spool, and a checkpoint."""

from __future__ import annotations

import os
import shutil

import fuzzing

from kwire.agent import segment
from kwire.agent.manifest import EVENTS, Row
from kwire.agent.segment import SpoolError
from kwire.collector.checkpoint import Checkpoint, CheckpointError, Contents

ID = bytes(16)
NAME = "00000001.seg"
FOLDER = fuzzing.folder_in_memory("spool")


def _segment(*payloads: bytes) -> bytes:
    folder = os.open(FOLDER, os.O_RDONLY)
    try:
        one = segment.create(folder, 1, ID, 7, 0, {(1, EVENTS): Row(1, EVENTS, 5, 1, 2)})
        for number, payload in enumerate(payloads, 7):
            contents = {(1, EVENTS): Row(1, EVENTS, 1, number, number)}
            segment.append(one, [segment.record(ID, number, one.size, 0, payload, contents)])
        one.close()
        data = (FOLDER / NAME).read_bytes()
        for name in one.names:
            os.unlink(name, dir_fd=folder)
        return data
    finally:
        os.close(folder)


def _checkpoint() -> bytes:
    path = FOLDER / "seed"
    made = Checkpoint(str(path), lambda: Contents({b"one": ID}))
    made.renew()
    made.write(Contents({b"one": bytes(300), b"two": b"second"}))
    made.write(Contents({b"one": bytes(299) + b"!"}, {b"three": b""}))
    made.close()
    return path.read_bytes()


SEEDS = [_segment(b"a", b"bc", bytes(300)), _segment(), _checkpoint()]


def one_input(data: bytes) -> None:
    """Load it as both. What is read of a segment is whole records; what is read of a checkpoint is
    bounded.
    """  # fmt: skip
    path = FOLDER / NAME
    path.write_bytes(data)
    folder = os.open(FOLDER, os.O_RDONLY)
    try:
        one, _ = segment.load(folder, 1, ID)
        if one is not None:
            try:
                assert one.count <= len(data)
                for number in range(one.first, one.end):
                    assert len(one.read(number) or b"") <= segment.MAX_PAYLOAD
                    one.manifest(number, ID)
                assert path.read_bytes() == data, "nothing is cut off"
            finally:
                one.close()
    except SpoolError as error:
        fuzzing.one_line(error)
    finally:
        os.close(folder)
    path.write_bytes(data)
    checkpoint = Checkpoint(str(path), lambda: Contents({}))
    try:
        assert sum(map(len, checkpoint.load().values())) <= len(data)
    except CheckpointError as error:
        fuzzing.one_line(error)
    finally:
        checkpoint.close()


if __name__ == "__main__":
    try:
        fuzzing.main(one_input, SEEDS)
    finally:
        shutil.rmtree(FOLDER, ignore_errors=True)
