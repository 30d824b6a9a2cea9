"""Fuzz target: captures of networks: pcap, pcapng, compressed, every layer below frames, reassembly."""

from __future__ import annotations

import contextlib
import gzip
import io

import fuzzing
from network import CAPTURES

from kwire.capture.output import CaptureError
from kwire.packets.open import open_capture

SEEDS = [*CAPTURES, gzip.compress(CAPTURES[0], mtime=0), gzip.compress(CAPTURES[-1], mtime=0)[:-9]]
with contextlib.suppress(ImportError):
    import zstandard

    SEEDS.append(zstandard.compress(CAPTURES[1]))
with contextlib.suppress(ImportError):
    import lz4.frame

    SEEDS.append(lz4.frame.compress(CAPTURES[2]))


def one_input(data: bytes) -> None:
    """Read it on kwire's port and on any; only CaptureError may come out, and its parts fit each other."""
    for any_port in (False, True):
        with contextlib.suppress(CaptureError):
            capture = open_capture(io.BytesIO(data), any_port=any_port)
            for frames in capture:
                assert capture.section is not None
                for index in range(len(frames)):
                    header = frames.header(index)
                    assert header.length == len(frames.frame_bytes(index)) >= 8
            assert capture.problem is None or "\n" not in capture.problem
            assert all(first.count > 0 for first in capture.found.values())


if __name__ == "__main__":
    fuzzing.main(one_input, SEEDS)
