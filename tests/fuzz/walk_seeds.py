"""Seeds of `walk_fuzz.c`: for each walker parameters and data that it takes.

`python tests/fuzz/walk_seeds.py FOLDER` writes them there as files.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import network

from kwire.wire.frame import Flag, Type, build
from kwire.wire.messages import Lost

WALKERS = 14
EVENTS = network.event() + network.event(80, Flag.CHECKSUM) + Lost(1, 2, 3, 4).frame()
FRAMES = network.SCHEMA.frames()[0] + EVENTS + build(Type.KEEPALIVE, 0)
RING = b"".join(struct.pack("<II", len(one), 0) + one + bytes(-len(one) % 8) for one in [EVENTS[:40]] * 5)
BLOCKS = network.pcapng([network.event(), network.event(80)], link=147)[72:]
PACKETS = network.pcap([network.ethernet(network.udp(one)) for one in network.SESSION])[24:]
SIX = network.pcap([network.udp(network.data(0, network.event()), six=True)], link=101)[24:]


def head(walker: int, **parameters: int) -> bytes:
    """The first sixteen bytes: `p1`, `p2` … are the parameters."""
    made = bytearray(16)
    made[0] = walker
    for name, value in {"p2": 40, "p3": 0, **parameters}.items():
        made[int(name[1:])] = value
    return bytes(made)


SEEDS = [
    *(head(walker, p5=1) + data for walker in range(WALKERS) for data in (FRAMES, BLOCKS)),
    head(0, p2=0, p4=0, p5=200) + RING,
    head(1, p2=0, p4=1, p5=90) + FRAMES,
    head(2, p2=0, p4=1, p5=90) + FRAMES,
    head(11, p2=0, p4=0, p6=3) + PACKETS,
    *(
        head(13, p1=0, p2=step, p11=1, p12=any_port) + made[24:]
        for step in (0, 60)
        for any_port in (0, 1)
        for made in network.CAPTURES[:1] + network.CAPTURES[2:3] + network.CAPTURES[5:6]
    ),
    head(13, p1=0, p2=60, p3=9, p11=1) + network.CAPTURES[4][24:],
    head(13, p1=0, p2=60, p3=6, p11=1, p12=1) + SIX,
]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(SEEDS):
        (folder / f"seed{number}").write_bytes(data)
