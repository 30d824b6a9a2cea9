"""`kwire sniff`: what `kwire show` does with captures of networks, live.

Invariants: only interfaces that are named are listened to; privileges end before the first packet is looked
at; what the kernel dropped is counted and said. Packets travel from the ring as the pcapng file that `-w`
keeps, so that live traffic and a capture of it are read by the same code and show the same.
"""

import argparse
import os
import signal
import struct
import time
from types import FrameType
from typing import IO, Final, cast

from kwire.capture import pcapng
from kwire.capture.destination import Destination, OutputError, is_standard_output
from kwire.cli import values
from kwire.cli.choosing import add_choice
from kwire.cli.lines import say
from kwire.cli.process import ending_signals
from kwire.cli.show import add_showing, show
from kwire.cli.status import NOT_WHOLE, OK, worst
from kwire.errors import KwireError
from kwire.kernel import privileges
from kwire.kernel.packetring import PacketRing
from kwire.words import plural

HELP = "show what captures show, live from a network interface"

EXAMPLES = """\
examples:
  kwire sniff -i eth0
  kwire sniff -i eth0 -i lo --sessions
  kwire sniff -i eth0 -V --head 10 --port 9000
  kwire sniff -i eth0 -w packets.pcapng --seconds 60

Ctrl-C ends it in order. -w keeps all packets of the interfaces, whatever is shown of them; then
'kwire show packets.pcapng' shows the same again.
"""

TURN: Final = 0.2  # seconds between two looks at whether to stop


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.epilog = EXAMPLES
    parser.add_argument(
        "-i", dest="interfaces", metavar="IFACE", action="append", required=True, help="interface; repeatable"
    )
    parser.add_argument(
        "-w",
        dest="write",
        metavar="FILE",
        help="keep the packets in a pcapng file; one that is there is replaced",
    )
    values.add_clobber(parser)
    parser.add_argument("--seconds", metavar="N", type=_seconds, help="stop after so long")
    parser.add_argument("--promiscuous", action="store_true", help="listen to packets for others too")
    add_showing(parser)
    add_choice(parser, live=True)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value


def run(args: argparse.Namespace) -> int:
    """Listen and show until the end."""
    if args.write is not None and is_standard_output(args.write):
        cause = "standard output is for what is shown"
        raise KwireError("write packets to", args.write, cause, "name a file")
    if args.where is not None:  # whatever is wrong is found before the file is replaced
        from kwire.view.where import Where

        Where(args.where, "--where")
    rings = [PacketRing(name, promiscuous=args.promiscuous) for name in dict.fromkeys(args.interfaces)]
    try:
        with Sniffed(rings, args.write, args.seconds, clobber=not args.no_clobber) as sniffed:
            sniffed.begin()
            privileges.drop()
            for number in ending_signals():
                signal.signal(number, sniffed.stop)
            status = show(args, cast("IO[bytes]", sniffed))
            say(sniffed.account())
            return worst(status, NOT_WHOLE if sniffed.dropped else OK)
    finally:
        for ring in rings:
            ring.close()


class Sniffed:
    """Packets of rings as a pcapng file that is read while it grows; `keep`: a path where to write it too.

    `clobber`: whether a file there may be replaced, which `begin` does.
    """

    def __init__(
        self, rings: list[PacketRing], keep: str | None, seconds: float | None, *, clobber: bool = True
    ) -> None:
        self.name = ", ".join(ring.interface for ring in rings)
        self._rings = rings
        self._until = time.monotonic() + seconds if seconds else float("inf")
        self._stopped = False
        self._ended = False
        self._counts = [[0, 0] for _ in rings]  # taken, dropped
        self._head = self._beginning()
        self._kept = None if keep is None else Destination(keep, clobber=clobber)

    def begin(self) -> None:
        """Put the file that is kept into its place, where it grows."""
        if self._kept is not None:
            self._keep(self._head)
            self._kept.publish()

    def __enter__(self) -> "Sniffed":
        return self

    def __exit__(self, *_: object) -> None:
        if self._kept is not None:
            try:
                while not self._ended:  # whatever ended the showing: the file is closed in order
                    self._stopped = True
                    self.read(0)
            finally:
                self._kept.close()

    def fileno(self) -> int:
        """A descriptor that tells a reader that this is no file."""
        return self._rings[0].fileno()

    def stop(self, number: int = 0, frame: FrameType | None = None) -> None:
        """End the file in order, soon."""
        self._stopped = True

    def read(self, size: int) -> bytes:
        """The next blocks; waits for them. Nothing at the end."""
        data, self._head = self._head, b""
        if data:
            return data
        while not data and not self._ended:
            data = b"".join(self._packets())
            if data:
                break
            if self._stopped or time.monotonic() >= self._until:
                self._ended = True
                data = self._ending()
            elif len(self._rings) == 1:
                self._rings[0].wait(TURN)
            else:
                time.sleep(0.01)
        self._keep(data)
        return data

    def account(self) -> str:
        """How many packets came, and how many the kernel had no room for."""
        self._count()
        received = sum(count for count, _ in self._counts)
        dropped = f"{self.dropped:,} dropped for want of room in the ring"
        return f"{self.name}: {plural(received, 'packet')}, {dropped}"

    @property
    def dropped(self) -> int:
        """Packets that the kernel had no room for, as far as was counted."""
        return sum(drops for _, drops in self._counts)

    def _beginning(self) -> bytes:
        blocks = [pcapng.section([(pcapng.SectionOption.APPLICATION, b"kwire sniff")])]
        for ring in self._rings:
            head = struct.pack("=HHI", ring.link, 0, 0)
            options: list[tuple[int, bytes]] = [
                (pcapng.InterfaceOption.NAME, ring.interface.encode()),
                (pcapng.InterfaceOption.RESOLUTION, b"\x09"),
            ]
            blocks.append(pcapng.block(pcapng.Block.INTERFACE, head + pcapng.pack_options(options)))
        return b"".join(blocks)

    def _packets(self) -> list[bytes]:
        blocks = []
        for number, ring in enumerate(self._rings):
            for packet in ring.packets():
                head = struct.pack(
                    *("=5I", number, packet.time >> 32, packet.time & 0xFFFFFFFF),
                    *(len(packet.data), packet.original),
                )
                body = head + packet.data + bytes(-len(packet.data) % 4)
                blocks.append(pcapng.block(pcapng.Block.PACKET, body))
                self._counts[number][0] += 1
        return blocks

    def _ending(self) -> bytes:
        self._count()
        blocks = []
        for number, (received, dropped) in enumerate(self._counts):
            options: list[tuple[int, bytes]] = [
                (pcapng.StatisticsOption.RECEIVED, struct.pack("=Q", received)),
                (pcapng.StatisticsOption.DROPPED, struct.pack("=Q", dropped)),
            ]
            blocks.append(pcapng.statistics(number, time.time_ns(), options))
        return b"".join(blocks)

    def _count(self) -> None:
        for counts, ring in zip(self._counts, self._rings, strict=True):
            counts[1] += ring.statistics().drops

    def _keep(self, data: bytes) -> None:
        """Write to the file that is kept, if there is one."""
        if self._kept is None:
            return
        try:
            while data:
                data = data[os.write(self._kept.fd, data) :]
        except OSError as error:
            self._ended = True
            raise OutputError("write", self._kept.name, error.strerror or "failed") from None
