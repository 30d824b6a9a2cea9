"""Every record of a capture explained: the block, each header of the packet, each frame down to its fields.

Invariants: every byte is accounted for; each field has an offset, its bytes, its value, its meaning and a
verdict; what cannot be decoded says why. Offsets of a block count from its own first byte; those of headers
and frames from the packet's, or where a frame was put together from pieces, from the frame's.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from kwire.capture import pcapng
from kwire.capture.pcapng import Block, Order
from kwire.packets import headers
from kwire.packets.dissect import Finding, Packet
from kwire.packets.headers import Verdict
from kwire.packets.network import Flow, PacketPosition
from kwire.packets.open import NetworkCapture, Record
from kwire.packets.tables import LINKS, LinkType, Protocol, Trouble
from kwire.wire.explain import Explained, Explainer, Row
from kwire.wire.frame import HEADER_SIZE, Problem
from kwire.words import plural

MAX_EXPLAINERS: Final = 256  # sessions whose schemas are remembered


class ExplainedFrame(NamedTuple):
    """A frame in a packet, explained; `note` says where its offsets count from, if not from the packet."""

    flow: str
    explained: Explained
    note: str


class ExplainedRecord(NamedTuple):
    """One record, explained. `layers`: titles and rows; `troubles`: what is wrong; `remarks`: tolerated."""

    title: str
    record: Record
    block: list[Verdict]
    layers: list[tuple[str, list[Verdict]]]
    frames: list[ExplainedFrame]
    troubles: list[str]
    remarks: list[str]


class _Frame(NamedTuple):
    flow: Flow
    data: bytes
    at: int


class Teller:
    """Explains a capture's records; it is the watcher of the network that the capture is opened with."""

    __slots__ = ("_explainers", "_frames", "_troubles")

    def __init__(self) -> None:
        self._explainers: dict[object, Explainer] = {}
        self._frames: list[_Frame] = []
        self._troubles: list[str] = []

    def frame(self, flow: Flow, direction: int, data: bytes, at: int, place: PacketPosition) -> None:
        """Note a frame."""
        self._frames.append(_Frame(flow, data, at))

    def trouble(self, name: str, text: str, place: PacketPosition) -> None:
        """Note what is wrong."""
        self._troubles.append(text)

    def tell(self, capture: NetworkCapture) -> Iterator[ExplainedRecord]:
        """Explain all records of a capture that was opened with this watcher."""
        for record in capture.records():
            yield self._tell(record)
        if self._troubles:
            troubles, self._troubles = self._troubles, []
            end = Record(0, 0, memoryview(b""), pcapng.HOST)
            yield ExplainedRecord("at the end", end, [], [], [], troubles, [])

    def _tell(self, record: Record) -> ExplainedRecord:
        frames, self._frames = self._frames, []
        troubles, self._troubles = self._troubles, []
        packet = record.packet
        if packet is None:
            return ExplainedRecord(_title(record), record, _block(record), [], [], troubles, [])
        layers = [
            (headers.TITLES[layer.kind], headers.explain(layer, packet.found))
            for layer in packet.layers or []
        ]
        base = 0
        if packet.layers:
            last = packet.layers[-1]
            base = last.end if last.kind == "udp" and last.data.obj is record.data.obj else -1
        rest = _rest(record, packet)
        if rest:
            layers.append(("what is left", rest))
        if packet.other:
            layers.append((f"{packet.other}: not taken apart", []))
        remarks = [str(one) for one in packet.found if str(one) not in troubles and not _is_trouble(one)]
        seen = [self._explain(one, base) for one in frames]
        return ExplainedRecord(_title(record), record, _block(record), layers, seen, troubles, remarks)

    def _explain(self, one: _Frame, base: int) -> ExplainedFrame:
        """Explain one frame; `base`: where a datagram's payload begins in its packet, -1 where it is none."""
        if len(self._explainers) > MAX_EXPLAINERS:
            self._explainers.clear()
        explainer = self._explainers.setdefault(one.flow.conversation or one.flow.number, Explainer())
        view = memoryview(one.data)
        length = view[one.at + 2] << 8 | view[one.at + 3] if len(view) - one.at >= HEADER_SIZE else 0
        if base >= 0 and one.flow.protocol != Protocol.TCP:
            explained = next(
                explainer.explain(view[: max(one.at + length, one.at + 1)] if length else view, one.at)
            )
            return ExplainedFrame(one.flow.name, _moved(explained, base), "")
        data = view[one.at : one.at + length] if length else view[one.at :]
        note = "offsets count from the frame's first byte: it was put together from pieces"
        return ExplainedFrame(one.flow.name, next(explainer.explain(data)), note)


def _rest(record: Record, packet: Packet) -> list[Verdict]:
    """The bytes of a packet that are in no header: a payload that is no datagram of frames, a trailer."""
    data = record.data[record.start : record.start + record.captured]
    layers = [layer for layer in packet.layers or [] if layer.data.obj is record.data.obj]
    if record.link == LinkType.USER0 or (not layers and packet.layers):
        return []
    at = layers[-1].end if layers else 0
    rows = []
    segment = packet.segment
    if segment is not None and segment.payload.obj is record.data.obj:
        end = at + len(segment.payload)
        if segment.protocol == Protocol.TCP and end > at:
            rows.append(_plain(data, at, end, "payload", f"of the stream, from {segment.sequence} on"))
        at = end
    if at < len(data):
        what = "trailer" if segment is not None else "payload"
        rows.append(_plain(data, at, len(data), what, "after the packet" if segment else "not looked at"))
    return rows


def _is_trouble(one: Finding) -> bool:
    return isinstance(one.what, Trouble)


def _moved(one: Explained, by: int) -> Explained:
    """The same with other offsets."""
    if not by:
        return one
    return one._replace(
        offset=one.offset + by,
        end=one.end + by,
        rows=[row._replace(offset=row.offset + by) for row in one.rows],
        problems=[_moved_problem(problem, by) for problem in one.problems],
        inner=[_moved(inner, by) for inner in one.inner],
    )


def _moved_problem(problem: Problem, by: int) -> Problem:
    return problem._replace(offset=problem.offset + by)


def _title(record: Record) -> str:
    if record.packet is None:
        what = pcapng.describe(record.kind) if record.kind else "pcap header"
        if record.original:
            return f"{what}, at byte {record.offset}, {plural(record.original, 'byte')}: passed over"
        return f"{what}, at byte {record.offset}, {plural(len(record.data), 'byte')}"
    sizes = plural(record.captured, "byte")
    if record.original != record.captured:
        sizes += f" of {record.original}"
    link = LINKS.get(record.link, f"link type {record.link}")
    return f"packet {record.number}, at byte {record.offset}, {sizes}, {link}"


# ---- blocks


class _Field(NamedTuple):
    name: str
    at: int
    size: int
    meaning: str


_HEAD: Final = (_Field("type", 0, 4, "of the block"), _Field("length", 4, 4, "bytes of the block"))

#: Fixed parts of blocks after their head; offsets from the block's first byte.
FIELDS: Final[dict[int, tuple[_Field, ...]]] = {
    Block.SECTION: (
        _Field("magic", 8, 4, "byte order"),
        _Field("major", 12, 2, "version"),
        _Field("minor", 14, 2, "version"),
        _Field("section", 16, 8, "bytes of the section, or all ones: not known"),
    ),
    Block.INTERFACE: (
        _Field("link type", 8, 2, ""),
        _Field("reserved", 10, 2, "zero"),
        _Field("snaplen", 12, 4, "bytes of a packet at most"),
    ),
    Block.PACKET: (
        _Field("interface", 8, 4, "number"),
        _Field("time", 12, 4, "upper half"),
        _Field("time", 16, 4, "lower half"),
        _Field("captured", 20, 4, "bytes"),
        _Field("original", 24, 4, "bytes"),
    ),
    Block.PACKET_OLD: (
        _Field("interface", 8, 2, "number"),
        _Field("drops", 10, 2, "packets lost before"),
        _Field("time", 12, 4, "upper half"),
        _Field("time", 16, 4, "lower half"),
        _Field("captured", 20, 4, "bytes"),
        _Field("original", 24, 4, "bytes"),
    ),
    Block.PACKET_SIMPLE: (_Field("original", 8, 4, "bytes"),),
    Block.STATISTICS: (
        _Field("interface", 8, 4, "number"),
        _Field("time", 12, 4, "upper half"),
        _Field("time", 16, 4, "lower half"),
    ),
}

_PCAP_HEADER: Final = (
    _Field("magic", 0, 4, "byte order and unit of time"),
    _Field("major", 4, 2, "version"),
    _Field("minor", 6, 2, "version"),
    _Field("zone", 8, 4, "not used"),
    _Field("accuracy", 12, 4, "not used"),
    _Field("snaplen", 16, 4, "bytes of a packet at most"),
    _Field("link type", 20, 4, ""),
)
_PCAP_RECORD: Final = (
    _Field("time", 0, 4, "seconds since 1970"),
    _Field("time", 4, 4, "fraction of a second"),
    _Field("captured", 8, 4, "bytes"),
    _Field("original", 12, 4, "bytes"),
)

#: Names of options by block and code; those of every block under 0.
OPTIONS: Final[dict[int, dict[int, str]]] = {
    0: {1: "comment", 2988: "custom text", 2989: "custom bytes", 19372: "custom text", 19373: "custom bytes"},
    Block.SECTION: {2: "hardware", 3: "os", 4: "application"},
    Block.INTERFACE: {
        2: "name",
        3: "description",
        4: "IPv4 address",
        5: "IPv6 address",
        6: "MAC address",
        8: "speed",
        9: "time resolution",
        11: "filter",
        12: "os",
        13: "checksum length",
        14: "time offset",
        15: "hardware",
    },
    Block.STATISTICS: {
        2: "start",
        3: "end",
        4: "received",
        5: "dropped",
        6: "filtered",
        7: "dropped by os",
        8: "delivered",
    },
    Block.PACKET: {2: "flags", 3: "hash", 4: "drops before", 5: "packet id", 6: "queue", 7: "verdict"},
}
_TEXTS: Final = frozenset({"comment", "hardware", "os", "application", "name", "description", "custom text"})


def _block(record: Record) -> list[Verdict]:
    """The rows of a block without the packet in it."""
    data, order = record.data, record.order
    if len(data) == 0:
        return []
    pcap = record.kind == 0 or (record.kind == Block.PACKET and record.start == 16)
    fields = (
        _PCAP_HEADER if record.kind == 0 else _PCAP_RECORD if pcap else _HEAD + FIELDS.get(record.kind, ())
    )
    rows = [_row(data, order, field) for field in fields]
    if pcap:
        return rows
    at = fields[-1].at + fields[-1].size
    end = len(data) - 4
    if record.kind in pcapng.PACKETS:
        start = record.start or at
        at = min(start + record.captured + (-record.captured % 4), end)
        if start + record.captured < at:
            rows.append(_plain(data, start + record.captured, at, "padding", "to a multiple of 4"))
    if record.kind in FIELDS and record.kind != Block.PACKET_SIMPLE:
        rows += _options(record.kind, data[at:end], at, order)
    elif at < end:
        rows.append(_plain(data, at, end, "contents", "not looked at"))
    rows.append(_row(data, order, _Field("length", end, 4, "again")))
    return rows


def _row(data: memoryview, order: Order, field: _Field) -> Verdict:
    raw = bytes(data[field.at : field.at + field.size])
    value = int.from_bytes(raw, order)
    shown = f"{value:#x}" if field.name in ("magic", "type") else str(value)
    return Verdict(Row(field.at, raw, field.name, shown, field.meaning), "ok")


def _plain(data: memoryview, start: int, end: int, name: str, meaning: str) -> Verdict:
    return Verdict(Row(start, bytes(data[start:end]), name, plural(end - start, "byte"), meaning), "ok")


def _options(kind: int, data: memoryview, base: int, order: Order) -> list[Verdict]:
    rows, at = [], 0
    names = OPTIONS[0] | OPTIONS.get(kind, {})
    for code, value in pcapng.unpack_options(data, order):
        size = 4 + len(value) + (-len(value) % 4)
        name = names.get(code, f"option {code}")
        shown = (
            value.rstrip(b"\0").decode("utf-8", "replace")
            if name in _TEXTS
            else str(int.from_bytes(value, order))
            if len(value) <= 8
            else plural(len(value), "byte")
        )
        rows.append(Verdict(Row(base + at, bytes(data[at : at + size]), name, shown, f"option {code}"), "ok"))
        at += size
    if at < len(data):
        rows.append(_plain(data, at, len(data), "end", "of the options")._replace())
        rows[-1] = Verdict(rows[-1].row._replace(offset=base + at), "ok")
    return rows
