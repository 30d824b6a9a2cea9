"""Thousands of random frames, built, summed and judged byte for byte as an independent C program does."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator

from kwire.wire.frame import (
    HEADER_SIZE,
    MAX_FRAME,
    FrameError,
    Header,
    Problem,
    build,
    build_lenient,
    checksum,
    delimit,
    inspect,
    read_lenient,
)

Ask = Callable[[bytes], bytes]
LENGTHS = [*range(20), 255, 256, 1399, 1400, 65470, 65472, 65473, 65480, 65488, 65525, 65526, 65527]


def sized(random: random.Random) -> bytes:
    """Bytes of a length that matters: mostly short, at times at an edge."""
    length = random.choice(LENGTHS) if random.random() < 0.05 else random.randrange(64)
    return random.randbytes(length)


def answer(header: Header | None, payload: bytes | None, problems: list[Problem]) -> bytes:
    """A reading as the C program writes it; problems in order of (offset, code)."""
    out = b"\0"
    if header is not None:
        out = b"\1" + struct.pack(">BBBHI", *header)
    out += b"\0" if payload is None else b"\1" + struct.pack(">I", len(payload)) + payload
    return out + listed([(problem.offset, problem.code) for problem in problems])


def listed(problems: list[tuple[int, int]]) -> bytes:
    return bytes([len(problems)]) + b"".join(
        struct.pack(">BI", code, offset) for offset, code in sorted(problems)
    )


def strict(data: bytes) -> bytes:
    frame, problems = inspect(data)
    return answer(delimit(data)[0], None if frame is None else frame.payload, problems)


def lenient(data: bytes) -> bytes:
    try:
        frame = read_lenient(data)
    except FrameError as error:
        return answer(delimit(data)[0], None, [error.problem])
    return answer(frame.header, frame.payload, [])


def built(
    build: Callable[[int, int, bytes, int], bytes], type: int, flags: int, id: int, payload: bytes
) -> bytes:
    try:
        frame = build(type, id, payload, flags)
    except FrameError as error:
        return struct.pack(">BI", error.problem.code, 0)
    return b"\0" + struct.pack(">I", len(frame)) + frame


def damaged(frame: bytes, random: random.Random) -> bytes:
    """The frame with a change that a reader must judge: a bit, a cut, bytes after it, a header field."""
    data = bytearray(frame)
    for _ in range(random.randrange(3)):
        if not data:
            break
        match random.randrange(6):
            case 0:
                data[random.randrange(len(data))] ^= 1 << random.randrange(8)
            case 1:
                del data[random.randrange(len(data)) :]
            case 2:
                data += random.randbytes(random.randrange(12))
            case 3:
                data[0] = random.randrange(256)
            case 4:
                data[1:2] = bytes([random.choice([0, 1, 2, 3, 4, 0xFF])])
            case 5:
                data[2:4] = struct.pack(
                    ">H", random.choice([0, 7, 8, 9, 10, 11, len(frame) & 0xFFFF, MAX_FRAME])
                )
    return bytes(data)


def frames(random: random.Random, number: int) -> Iterator[bytes]:
    for _ in range(number):
        payload, id = sized(random), random.choice([0, 0, 1, random.getrandbits(32)])
        if random.random() < 0.1:
            yield random.randbytes(random.randrange(24))
            continue
        try:
            frame = build(random.randrange(13), id, payload, random.choice([0, 1, 3]))
        except FrameError:
            continue
        yield damaged(frame, random)


def compare(ask: Ask, requests: list[bytes], expected: list[bytes]) -> None:
    """One run of the program for all; on a difference, one run each to say which."""
    assert len(requests) == len(expected) > 0
    if ask(b"".join(requests)) == b"".join(expected):
        return
    for request, want in zip(requests, expected, strict=True):
        assert ask(request).hex() == want.hex(), request.hex()
    raise AssertionError("the answers differ only together")


def reading(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def test_checksums(reference: Ask) -> None:
    source = random.Random(1)
    data = (
        [sized(source) for _ in range(4000)] + [bytes(n) for n in range(9)] + [b"\xff" * n for n in range(9)]
    )
    data += [source.randbytes(n) for n in (65535, 65536, 65537, 131072, 300001)]
    compare(
        reference,
        [b"C" + reading(item) for item in data],
        [struct.pack(">H", checksum(item)) for item in data],
    )


def test_building(reference: Ask) -> None:
    source = random.Random(2)
    requests, expected = [], []
    for _ in range(6000):
        type, flags = source.randrange(256), source.choice([0, 1, 2, 3, source.randrange(256)])
        id, payload = source.getrandbits(32), sized(source)
        for letter, function in ((b"B", build), (b"b", build_lenient)):
            requests.append(letter + struct.pack(">BBI", type, flags, id) + reading(payload))
            expected.append(built(function, type, flags, id, payload))
    for size in (65527, 65528, 65536, 70000):
        for letter, function in ((b"B", build), (b"b", build_lenient)):
            requests.append(letter + struct.pack(">BBI", 2, 0, 5) + reading(bytes(size)))
            expected.append(built(function, 2, 0, 5, bytes(size)))
    compare(reference, requests, expected)


def ordered(raw: bytes) -> bytes:
    """An answer of the program with its problems in order of (offset, code)."""
    at = 1
    if raw[0]:
        at += 9
    whole = raw[at]
    at += 1
    if whole:
        at += 4 + struct.unpack_from(">I", raw, at)[0]
    problems = [struct.unpack_from(">BI", raw, at + 1 + 5 * number) for number in range(raw[at])]
    assert at + 1 + 5 * raw[at] == len(raw)
    return raw[:at] + listed([(offset, code) for code, offset in problems])


def test_lenient_reading(reference: Ask) -> None:
    data = list(frames(random.Random(3), 8000))
    compare(reference, [b"L" + reading(item) for item in data], [lenient(item) for item in data])


def test_strict_reading(reference: Ask) -> None:
    data = list(frames(random.Random(4), 8000))
    data += [item[:cut] for item in frames(random.Random(5), 40) for cut in range(min(len(item), 60) + 1)]
    sound = 0
    raw = reference(b"".join(b"S" + reading(item) for item in data))
    at = 0
    for item in data:
        want = strict(item)
        mine = ordered(raw[at : at + len(want)])
        assert mine == want, item.hex()
        at += len(want)
        sound += want.endswith(b"\0") and inspect(item)[1] == []
    assert at == len(raw)
    assert 1000 < sound < len(data) - 1000  # both kinds were really tried
    assert HEADER_SIZE == 8
