"""Fuzz target: what a collector stores. Payloads of two sessions, commits, and collectors that are killed.

The input is a list of steps: a byte (bit 0: which session, bit 1: commit, bit 2: killed and taken up again),
the payload's size in two bytes, and the payload. Whatever the payloads hold, every packet of the capture is a
sound frame, and a collector that goes on finds what its predecessor had made safe.
"""

from __future__ import annotations

import shutil
import struct

import fuzzing
import network

from kwire.capture.reader import Capture
from kwire.collector.store import Packing, Store
from kwire.wire.frame import Type, build
from kwire.wire.messages import Lost

FOLDER = fuzzing.folder_in_memory("store")
(FOLDER / ".sessions").mkdir()
TOKENS = (bytes(16), b"\1" * 16)
STEPS = 24
PACKING = Packing()


def one_input(data: bytes) -> None:
    """Run the steps, close the capture, and read it."""
    path, checkpoint = str(FOLDER / "it.pcapng"), str(FOLDER / ".sessions" / "checkpoint")
    store = Store(path, checkpoint, PACKING)
    try:
        sequences = [0, 0]
        at = 0
        for _ in range(STEPS):
            if at + 3 > len(data):
                break
            what, size = struct.unpack_from(">BH", data, at)
            which = what & 1
            stored_session = store.join(TOKENS[which], {"host": f"host{which}"})
            store.take(stored_session, sequences[which], data[at + 3 : at + 3 + size])
            sequences[which] += 1
            at += 3 + size
            if what & 2:
                store.commit()
                for number, token in enumerate(TOKENS):
                    assert (
                        token not in store.stored_sessions
                        or store.stored_sessions[token].stored == sequences[number]
                    )
            if what & 4:
                store.commit()
                store.leave()
                store = Store.again(checkpoint, PACKING)
                for number, token in enumerate(TOKENS):
                    assert (
                        token not in store.stored_sessions
                        or store.stored_sessions[token].next == sequences[number]
                    )
        totals = store.close()
        read(path, sum(one.stored for one in totals.values()))
    finally:
        if not store.closed:
            store.leave()
        for file in FOLDER.rglob("*"):
            if file.is_file():
                file.unlink()


def read(path: str, stored: int) -> None:
    """Read the capture: as many events as were counted, as their SCHEMA says or not, and no unsound frame."""
    events = 0
    with Capture(path) as capture:
        for frames in capture:
            events += sum(frames.header(index).type == Type.EVENT for index in range(len(frames)))
        events += capture.undecodable
        assert (capture.problem, capture.skipped, events) == (None, 0, stored), capture.first_skipped


def steps(*pairs: tuple[int, bytes]) -> bytes:
    """An input of these steps."""
    return b"".join(struct.pack(">BH", what, len(payload)) + payload for what, payload in pairs)


DESCRIBED = b"".join(network.SCHEMA.frames())
EVENTS = network.event() + network.event(80)
LOST = Lost(1, 2, 3, 4).frame()
SEEDS = [
    steps((2, DESCRIBED + EVENTS), (0, EVENTS + LOST), (2, EVENTS)),
    steps((0, DESCRIBED), (1, DESCRIBED + EVENTS), (4, EVENTS), (5, EVENTS + LOST), (1, b"")),
    steps((0, EVENTS), (2, build(Type.KEEPALIVE, 0) + LOST), (0, EVENTS[:-3])),
    steps((6, DESCRIBED + EVENTS), (6, network.SCHEMA._replace(probe="kprobe:g").frames()[0] + EVENTS)),
]


if __name__ == "__main__":
    try:
        fuzzing.main(one_input, SEEDS)
    finally:
        shutil.rmtree(FOLDER, ignore_errors=True)
