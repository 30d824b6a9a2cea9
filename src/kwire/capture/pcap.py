"""The header of a classic pcap file, as tables, and what its records are (draft-ietf-opsawg-pcap).

Invariants: both byte orders, microseconds and nanoseconds; the variants that others have made of the format,
whose records are laid out differently, are known by their first bytes and refused by name.
"""

import struct
from typing import Final, NamedTuple

from kwire.capture.output import CaptureError
from kwire.capture.pcapng import Order

HEADER_SIZE: Final = 24
RECORD_SIZE: Final = 16  # seconds, fraction, captured, original: u32 each
VERSION: Final = (2, 4)  # what is written today
OLDEST: Final = (2, 0)  # before VERSION the two lengths of a record stand the other way round …
EITHER: Final = (2, 3)  # … and in this one either way: the captured length is the one that is not greater
RECORD: Final = {"little": struct.Struct("<4I").unpack_from, "big": struct.Struct(">4I").unpack_from}
MAX_RECORD: Final = 16 << 20  # captured bytes of a packet that is looked into …
MAX_PASSED: Final = 1 << 30  # … or passed over, where snaplen allows it; a record that claims more is damage

#: Magic number → ticks a second.
MAGICS: Final = {0xA1B2C3D4: 1_000_000, 0xA1B23C4D: 1_000_000_000}

#: Magic numbers of variants, whose records have other headers.
VARIANTS: Final = {
    0xA1B2CD34: "pcap as modified by Kuznetsov's libpcap patches (longer records)",
    0xA1E2CB12: "pcap as modified by the NAI sniffer",
    0xA12B3C4D: "pcap as modified by Navtel",
    0x1C0001AC: "pcap as modified by IXIA, hardware",
    0x1C0001AB: "pcap as modified by IXIA, software",
    0xA1B2C3CD: "pcap as modified by FRITZ!Box or AIX",
}


class Header(NamedTuple):
    """What the file's header says; `rate`: ticks a second; `fcs`: bytes of checksum after each packet.

    `version`: by it the captured length of a record is told from the original one (`lengths`).
    """

    order: Order
    rate: int
    snaplen: int
    link_type: int
    fcs: int
    version: tuple[int, int] = VERSION

    def lengths(self, one: int, two: int) -> tuple[int, int]:
        """The (captured, original) lengths of a record that holds these two, in this order."""
        swapped = self.version < EITHER or (self.version == EITHER and one > two)
        return (two, one) if swapped else (one, two)


def magic_order(start: bytes) -> Order | None:
    """The byte order of a pcap file that begins like this, a variant's too; None where it is none."""
    if len(start) < 4:
        return None
    if int.from_bytes(start[:4], "little") in (*MAGICS, *VARIANTS):
        return "little"
    return "big" if int.from_bytes(start[:4], "big") in (*MAGICS, *VARIANTS) else None


def read_header(name: str, start: bytes) -> Header:
    """Read the header of a file that `magic_order` knows; CaptureError where its records cannot be read."""
    order = magic_order(start)
    assert order is not None
    sign = "<" if order == "little" else ">"
    magic = int.from_bytes(start[:4], order)
    if magic in VARIANTS:
        cure = "convert it: editcap -F pcapng"
        raise CaptureError("read capture", name, f"it is {VARIANTS[magic]}", cure)
    if len(start) < HEADER_SIZE:
        raise CaptureError("read capture", name, f"it is cut inside the header, at byte {len(start)}")
    major, minor, _, _, snaplen, link = struct.unpack_from(sign + "HHiIII", start, 4)
    if not OLDEST <= (major, minor) <= VERSION:
        raise CaptureError(
            "read capture", name, f"it is pcap of version {major}.{minor}; 2.0 to 2.4 are read"
        )
    fcs = (link >> 28) * 2 if link & 0x04000000 else 0
    return Header(order, MAGICS[magic], snaplen, link & 0xFFFF, fcs, (major, minor))
