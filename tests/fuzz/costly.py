"""Captures that are small and meant to cost much: one for each way to grow faster than by one's bytes.

`CASES` are functions from a size in bytes to a capture of about that size.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable, Iterable
from typing import Final

import captures
import network

from kwire.wire import cbor
from kwire.wire.fields import Field
from kwire.wire.frame import Type, build
from kwire.wire.messages import Lost
from kwire.wire.schema import Clock, Schema

CLOCK: Final = Clock("monotonic", 0, 1_700_000_000_000_000_000)
HEAD: Final = captures.section([], [])
SYN: Final = 0x02 << 16  # flags of a segment, and behind them its sequence number
PUSH: Final = 0x18 << 16


def schema(number: int, probe: str, fields: Iterable[Field] = (), size: int = 16) -> Schema:
    kind, _, target = probe.partition(":")
    return Schema(number, probe, kind, target, tuple(fields), size, clock=CLOCK)


def event(number: int, time: int, fields: bytes = b"") -> bytes:
    return build(Type.EVENT, number, struct.pack("<Q", time) + fields)


def filled(size: int, parts: Callable[[int], list[bytes]], head: bytes = HEAD) -> bytes:
    """Packets with the frames of part 0, 1, 2 … up to this size."""
    out, used, number = [head], len(head), 0
    while used < size:
        made = [captures.packet(frame) for frame in parts(number)]
        out += made
        used += sum(map(len, made))
        number += 1
    return b"".join(out)


def repeated(size: int, block: bytes, head: bytes = HEAD) -> bytes:
    return head + block * (max(0, size - len(head)) // len(block) + 1)


# --- blocks


def interfaces(size: int) -> bytes:
    """Interface descriptions, half of them of Ethernet, and a packet now and then."""
    ours, theirs = (captures.block("little", 1, struct.pack("<HHI", link, 0, 0)) for link in (147, 1))
    return repeated(size, (ours + theirs) * 8 + captures.packet(Lost(1, 1, 2, 3).frame()))


def sections(size: int) -> bytes:
    """Sections with a probe of a great number and one event each."""
    one = schema(131_071, "kprobe:f")
    return repeated(size, captures.section([one], [event(131_071, 1)]), b"")


def statistics(size: int) -> bytes:
    """Statistics of one interface, again and again, with comments."""
    one = schema(1, "kprobe:f")
    return repeated(
        size, captures.block("little", 5, struct.pack("<III", 0, 0, 0)), captures.section([one], [])
    )


def comments(size: int) -> bytes:
    """Section headers that are all comments."""
    return repeated(size, captures.section([], [], text="x" * 4000), b"")


def empty_packets(size: int) -> bytes:
    """Packets without a byte, and blocks without a meaning."""
    return repeated(size, captures.packet(b"") + captures.block("little", 0x7777, b""))


# --- schemas


def pending_schemas(size: int) -> bytes:
    """Schemas that are never complete."""
    more = cbor.dumps({"more": True})
    return filled(size, lambda number: [build(Type.SCHEMA, number + 1, more)])


def pending_lists(size: int) -> bytes:
    """One schema that is never complete, of things that are small in the file."""
    more = cbor.dumps({"more": True, "fields": [{}] * 60_000})
    return filled(size, lambda number: [build(Type.SCHEMA, 1, more)])


def probes(size: int) -> bytes:
    """A new probe before each event."""
    return filled(
        size,
        lambda number: [*schema(number + 1, f"kprobe:f{number}").frames(), event(number + 1, number)],
    )


def probes_of_one_name(size: int) -> bytes:
    """The same, all named alike, laid out differently."""

    def parts(number: int) -> list[bytes]:
        one = schema(number + 1, "kprobe:f", [Field(f"n{number}", "u32", 16, 4)], 24)
        return [*one.frames(), event(number + 1, number, bytes(8))]

    return filled(size, parts)


def columns(size: int) -> bytes:
    """Probes of fifty fields of names of their own: together they are as wide as the file is long."""

    def parts(number: int) -> list[bytes]:
        fields = [Field(f"f{number}_{place}", "u32", 16 + 4 * place, 4) for place in range(50)]
        one = schema(number + 1, f"kprobe:f{number}", fields, 216)
        return [*one.frames(), event(number + 1, number, bytes(200))]

    return filled(size, parts)


def columns_of_one_name(size: int) -> bytes:
    """Probes and fields whose names are one, but for case, and whose types are not."""
    kinds = ("u8", "u16", "u32", "u64", "s8", "s16", "s32", "s64", "text", "raw")

    def parts(number: int) -> list[bytes]:
        fields = []
        for place in range(10):
            name = "".join(
                letter.upper() if (number * 10 + place) >> bit & 1 else letter
                for bit, letter in enumerate("abcdefghijklmnop")
            )
            kind = kinds[(number + place) % 10]
            width = int(kind[1:]) // 8 if kind[1:].isdigit() else 1
            fields.append(Field(name, kind, 16, width))
        one = schema(number + 1, "kprobe:f", fields, 24)
        return [*one.frames(), event(number + 1, number, bytes(8))]

    return filled(size, parts)


def durations(size: int) -> bytes:
    """Probes of fifty durations, with an event each."""

    def parts(number: int) -> list[bytes]:
        fields = [Field(f"d{place}", "u8", 16 + place, 1, "ns") for place in range(50)]
        one = schema(number + 1, f"kretprobe:f{number}", fields, 72)
        return [*one.frames(), event(number + 1, number, bytes(56))]

    return filled(size, parts)


def holes(size: int) -> bytes:
    """Many probes, and a LOST frame of each."""

    def parts(number: int) -> list[bytes]:
        one = schema(number + 1, f"kprobe:f{number}")
        return [*one.frames(), Lost(number + 1, number << 30, number << 30, 1, number % 999).frame()]

    return filled(size, parts)


def described_again(size: int) -> bytes:
    """One probe that is described otherwise before each event, of a great number."""
    return filled(
        size,
        lambda number: [*schema(131_071, f"kprobe:f{number % 2}").frames(), event(131_071, number)],
    )


def many_described_again(size: int) -> bytes:
    """Many probes, then each of them described otherwise before an event."""
    half = size // 300

    def parts(number: int) -> list[bytes]:
        probe = f"kprobe:f{number % half}{'x' * (number // half)}"
        return [*schema(number % half + 1, probe).frames(), event(number % half + 1, number)]

    return filled(size, parts)


# --- events


def empty_records(size: int) -> bytes:
    """Events without a field."""
    return _of(size, schema(1, "kprobe:f"), b"")


def _of(size: int, one: Schema, fields: bytes) -> bytes:
    return filled(size, lambda number: [event(1, number * 1000, fields)], captures.section([one], []))


def overlapping_fields(size: int) -> bytes:
    """A thousand arrays over the same bytes."""
    fields = [Field(f"a{number}", "u8", 16, 255, count=255) for number in range(1020)]
    return _of(size, schema(1, "kprobe:f", fields, 272), bytes(256))


def overlapping_durations(size: int) -> bytes:
    """A thousand durations that are one."""
    fields = [Field(f"a{number}", "u64", 16, 8, "ns") for number in range(1020)]
    return _of(size, schema(1, "kretprobe:f", fields, 24), bytes(8))


def overlapping_tails(size: int) -> bytes:
    """Texts over one tail, as many as there may be."""
    count, length = 26, 10_000
    fields = [Field(f"a{number}", "str", 16 + 4 * number, 4) for number in range(count)]
    start = 16 + 4 * count
    record = struct.pack("<HH", start, length) * count + b"x" * length
    return _of(size, schema(1, "kprobe:f", fields, start), record)


def overlapping_escapes(size: int) -> bytes:
    """The same of what is shown otherwise than it is: long runs of backslashes, bytes that are not UTF-8."""
    count, run = 26, b"\\" * 4_500
    fields = [Field(f"a{number}", "str", 16 + 4 * number, 4) for number in range(count)]
    start = 16 + 4 * count
    tail = run + b"a b" + run + b"c" + b"\xff" * 1_000
    record = struct.pack("<HH", start, len(tail)) * count + tail
    return _of(size, schema(1, "kprobe:f", fields, start), record)


def too_many_tails(size: int) -> bytes:
    """The same with more than there may be."""
    fields = [Field(f"a{number}", "str", 16 + 4 * number, 4) for number in range(1000)]
    record = struct.pack("<HH", 4016, 32_767) * 1000 + b"x" * 32_768
    return _of(size, schema(1, "kprobe:f", fields, 4016), record)


def long_names(size: int) -> bytes:
    """A field and an enum's value with names of many bytes, in small events."""
    field = Field("n" * 30_000, "enum", 16, 4, enum="e")
    one = schema(1, "kprobe:f", [field], 24)._replace(enums={"e": {0: "v" * 30_000}})
    return _of(size, one, bytes(8))


def lost(size: int) -> bytes:
    """LOST frames of many probes, CPUs and causes, far from each other."""
    head = captures.section([schema(1, "kprobe:f")], [])
    return filled(
        size,
        lambda number: [Lost(number % 3, number << 30, number << 30, 1, number % 60_000, number % 9).frame()],
        head,
    )


def strangers(size: int) -> bytes:
    """Events that nothing describes, of ever new probes."""
    return filled(
        size, lambda number: [event(number + 2, number)], captures.section([schema(1, "kprobe:f")], [])
    )


def disorder(size: int) -> bytes:
    """Events whose times jump from end to end."""
    one = schema(1, "kprobe:f", [Field("n", "u64", 16, 8)], 24)

    def parts(number: int) -> list[bytes]:
        return [event(1, (number * 0x9E3779B97F4A7C15) & (1 << 63) - 1, bytes(8))]

    return filled(size, parts, captures.section([one], []))


# --- packets


def sessions(size: int) -> bytes:
    """Many sessions over UDP, each with its schema, whose events take turns."""
    flows, out, used, number = 200, [], 24, 0
    one = b"".join(schema(1, "kprobe:f").frames())
    while used < size:
        flow, turn = number % flows, number // flows
        frame = build(Type.DATA, turn, event(1, number) if turn else one)
        udp = struct.pack(">HHHH", 1000 + flow, 17800, 8 + len(frame), 0) + frame
        out.append(network.ip(17, udp, 6))
        used += len(out[-1]) + 16
        number += 1
    return network.pcap(out, link=228)


def _flows(size: int, parts: Callable[[int], list[tuple[int, bytes]]], protocol: int = 17) -> bytes:
    """Packets of ever new flows; of each the parts as (what is special to its transport, payload)."""
    out, used, number = [], 24, 0
    while used < size:
        port = 1000 + number % 60_000
        for special, payload in parts(number):
            if protocol == 17:
                head, at = struct.pack(">HHHH", port, 17800, 8 + len(payload), 0), 6
            else:
                at, flags = special & 0xFFFF, special >> 16
                head, at = struct.pack(">HHIIBBHHH", port, 17800, at, 1, 0x50, flags, 9999, 0, 0), 16
            out.append(network.ip(protocol, head + payload, at))
            used += len(out[-1]) + 16
        number += 1
    return network.pcap(out, link=228)


def sessions_without_schemas(size: int) -> bytes:
    """DATA of ever new flows, with an event that nothing describes."""
    return _flows(size, lambda number: [(0, build(Type.DATA, 7, event(1, number)))])


def sessions_of_nothing(size: int) -> bytes:
    """DATA of ever new flows with nothing in it."""
    return _flows(size, lambda number: [(0, build(Type.DATA, 7, b""))])


def sessions_with_holes(size: int) -> bytes:
    """The same, that waits for DATA that never comes."""
    return _flows(size, lambda number: [(0, build(Type.DATA, 7, b"")), (0, build(Type.DATA, 9, b""))])


def sessions_of_greetings(size: int) -> bytes:
    """A HELLO of ever new sessions."""
    said = {"nonce": 7, "role": "source", "versions": [1]}

    def hello(number: int) -> bytes:
        return build(Type.HELLO, 0, cbor.dumps({"token": number.to_bytes(16, "big"), **said}))

    return _flows(size, lambda number: [(0, hello(number))])


def streams_of_nothing(size: int) -> bytes:
    """SYN, and DATA with nothing in it, of ever new connections."""
    return _flows(size, lambda number: [(SYN, b""), (PUSH + 1, build(Type.DATA, 7, b""))], 6)


def streams_with_holes(size: int) -> bytes:
    """Segments of ever new connections that wait for one before them."""
    return _flows(
        size, lambda number: [(SYN, b""), *((PUSH + at, build(Type.DATA, 7, b"")) for at in (50, 99))], 6
    )


def streams_cut(size: int) -> bytes:
    """Connections that end inside a frame."""
    return _flows(size, lambda number: [(SYN, b""), (PUSH + 1, build(Type.DATA, 7, bytes(40))[:20])], 6)


def empty_records_of_pcap(size: int) -> bytes:
    """Packets without a byte in a pcap file, which compress to nearly nothing."""
    return gzip.compress(network.pcap([b""] * (size // 16)), mtime=0)


def zeros(size: int) -> bytes:
    """A section, and then zeros, compressed."""
    return gzip.compress(HEAD + bytes(size), mtime=0)


CASES: Final[tuple[Callable[[int], bytes], ...]] = (
    *(interfaces, sections, statistics, comments, empty_packets, pending_schemas, pending_lists, probes),
    *(probes_of_one_name, columns, columns_of_one_name, durations, holes),
    *(described_again, many_described_again, empty_records, overlapping_fields),
    *(overlapping_durations, overlapping_tails, overlapping_escapes, too_many_tails, long_names, lost),
    *(strangers, disorder, sessions, sessions_without_schemas, empty_records_of_pcap, zeros),
    *(sessions_of_nothing, sessions_with_holes, sessions_of_greetings),
    *(streams_of_nothing, streams_with_holes, streams_cut),
)

FLOWS: Final[dict[Callable[[int], bytes], int]] = {
    **dict.fromkeys((sessions, sessions_of_nothing, streams_of_nothing, streams_with_holes, streams_cut), 4),
    sessions_with_holes: 2000,
    sessions_of_greetings: 3000,
    sessions_without_schemas: 6000,
}
"""Those of many flows: how many calls of Python a kilobyte may cost; sessions that tell nothing cost none."""

WHOLE: Final = (
    *(sections, statistics, comments, pending_schemas, pending_lists, probes, probes_of_one_name, columns),
    *(columns_of_one_name, durations, described_again, many_described_again, sessions),
    *(sessions_of_nothing, sessions_of_greetings, streams_of_nothing),
)
"""Those in which nothing is lost, damaged or left out: verbs end with 0, for all others with 3."""
