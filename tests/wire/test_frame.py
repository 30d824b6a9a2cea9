"""The frame: the protocol's vectors, every error with its place, building and reading as inverses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwire.errors import KwireError
from kwire.wire.frame import (
    ERRORS,
    MAX_EVENT,
    MAX_FRAME,
    MAX_PAYLOAD,
    TYPES,
    Code,
    Flag,
    FrameError,
    Header,
    Type,
    build,
    build_lenient,
    checksum,
    inspect,
    pack_header,
    read_lenient,
    read_strict,
)

HELLO = (
    "110000340000000148656c6c6f2066726f6d206b70726f62657320616e64207472616365706f696e747320776974682065425046"
)
VECTORS = [  # type, flags, id, payload, bytes, checksum: made by the reference implementation
    (1, 0, 1, b"Hello from kprobes and tracepoints with eBPF", HELLO, 0x145F),
    (1, 0, 99, b"test", "1100000c0000006374657374", 0x06B7),
    (0, 0, 0, b"", "1000000800000000", 0xEFF7),
    (15, 0xFF, 0xDEADBEEF, b"\0\xff\x80", "1fff000bdeadbeef00ff80", 0xC158),
    (0x21, 0, 7, b"x", "110000090000000778", 0x76EF),
]


@pytest.mark.parametrize(("type", "flags", "id", "payload", "text", "sum"), VECTORS)
def test_vectors(type: int, flags: int, id: int, payload: bytes, text: str, sum: int) -> None:
    frame = bytes.fromhex(text)
    assert build_lenient(type, id, payload, flags) == frame
    assert checksum(frame) == sum
    assert read_lenient(frame) == (0, Header(1, type & 15, flags, len(frame), id), payload)
    assert read_lenient(b"##" + frame + b"after", 2) == (
        2,
        Header(1, type & 15, flags, len(frame), id),
        payload,
    )


@pytest.mark.parametrize(
    ("text", "sum"),
    [("0000", 0xFFFF), ("", 0xFFFF), ("ffffffff", 0), ("450000", 0xBAFF), ("ffff0000ff", 0x00FF)],
)
def test_checksums(text: str, sum: int) -> None:
    assert checksum(bytes.fromhex(text)) == sum


@given(st.binary(max_size=300))
def test_checksum_is_the_sum_of_words(data: bytes) -> None:
    total = 0
    for at in range(0, len(data), 2):
        total += int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big")
        total = (total & 0xFFFF) + (total >> 16)
    assert checksum(data) == checksum(memoryview(data)) == checksum(bytearray(data)) == 0xFFFF - total


@given(st.binary(max_size=200).filter(lambda data: len(data) % 2 == 0))
def test_data_with_its_checksum_sums_to_zero(data: bytes) -> None:
    assert checksum(data + checksum(data).to_bytes(2, "big")) == 0


@pytest.mark.parametrize("size", [65534, 65535, 65536, 65537, 131071, 200_003])
def test_checksum_of_much(size: int) -> None:
    data = bytes(at * 7 & 0xFF for at in range(size))
    words = sum(data[0::2]) * 256 + sum(data[1::2])
    assert checksum(data) == 0xFFFF - ((words - 1) % 0xFFFF + 1)


BAD = [  # bytes; for each problem its code, offset, what was found and expected
    ("", [(Code.TRUNCATED_HEADER, 0, 0, 8)]),
    ("1000", [(Code.TRUNCATED_HEADER, 2, 2, 8)]),
    ("1100000c0000006374", [(Code.TRUNCATED_PAYLOAD, 9, 9, 12)]),
    ("1100000400000001", [(Code.LENGTH_BELOW_HEADER, 2, 4, "at least 8")]),
    ("1100000000000001", [(Code.LENGTH_BELOW_HEADER, 2, 0, "at least 8")]),
    ("2100000800000000", [(Code.BAD_VERSION, 0, 2, 1)]),
    ("1f00000800000000", [(Code.BAD_TYPE, 0, 15, "0 to 12")]),
    ("1d00000800000000", [(Code.BAD_TYPE, 0, 13, "0 to 12")]),
    ("1180000800000000", [(Code.BAD_FLAGS, 1, "0x80", "no bit of 0xfc")]),
    ("1104000800000000", [(Code.BAD_FLAGS, 1, "0x04", "no bit of 0xfc")]),
    ("1102000800000000", [(Code.BAD_FLAGS, 1, "PADDED alone", "PADDED with CHECKSUM")]),
    ("1001000a000000000000", [(Code.BAD_CHECKSUM, 8, "0000", "eff4")]),
    ("1101000800000001", [(Code.BAD_CHECKSUM, 8, "0 bytes after the header", "2")]),
    ("1103000a0000000100ee", [(Code.BAD_CHECKSUM, 8, "2 bytes after the header", "3")]),
    ("1000000800000005", [(Code.BAD_ID, 4, 5, 0)]),
    ("1300000800000005", [(Code.BAD_ID, 4, 5, 0)]),
    ("100000090000000078", [(Code.BAD_PAYLOAD, 8, "1 byte", "none")]),
    ("2f80000400000000", [(Code.BAD_VERSION, 0, 2, 1), (Code.BAD_TYPE, 0, 15, "0 to 12"),
        (Code.BAD_FLAGS, 1, "0x80", "no bit of 0xfc"), (Code.LENGTH_BELOW_HEADER, 2, 4, "at least 8")]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "problems"), BAD)
def test_strict_names_everything(text: str, problems: list[tuple[Code, int, str | int, str | int]]) -> None:
    data = bytes.fromhex(text)
    frame, found = inspect(data)
    assert [tuple(problem) for problem in found] == problems
    _, moved = inspect(b"#####" + data, 5)
    assert [problem.offset for problem in moved] == [offset + 5 for _, offset, _, _ in problems]
    with pytest.raises(FrameError) as caught:
        read_strict(data)
    assert caught.value.problem == found[0]
    assert isinstance(caught.value, KwireError)
    assert found[0].code.name in str(caught.value)
    unsound = {Code.TRUNCATED_HEADER, Code.TRUNCATED_PAYLOAD, Code.LENGTH_BELOW_HEADER}
    assert (frame is None) == bool(unsound & {problem.code for problem in found})


@pytest.mark.parametrize(
    "text", ["", "1000", "10000008000000", "1100000c0000006374", "1100000700000001", "11ffffff00000000"]
)
def test_lenient_refuses_what_delimits_nothing(text: str) -> None:
    data = bytes.fromhex(text)
    with pytest.raises(FrameError) as caught:
        read_lenient(data)
    assert caught.value.problem == inspect(data)[1][-1]


def test_padding() -> None:
    frame = bytearray(build(Type.EVENT, 1, b"abc", Flag.CHECKSUM))
    assert frame[1] == Flag.CHECKSUM | Flag.PADDED
    assert checksum(frame) == 0
    assert read_strict(frame).payload == b"abc"
    frame[11] = 5
    assert [problem.code for problem in inspect(frame)[1]] == [Code.BAD_PADDING, Code.BAD_CHECKSUM]
    # An odd checksum is no more than unusual; a padding that makes it odd contradicts itself.
    body = pack_header(Type.EVENT, 1, 13, Flag.CHECKSUM) + b"abc"
    assert inspect(body + checksum(body).to_bytes(2, "big"))[1] == []
    body = pack_header(Type.EVENT, 1, 13, Flag.CHECKSUM | Flag.PADDED) + b"ab\0"
    frame_, problems = inspect(body + checksum(body).to_bytes(2, "big"))
    assert [(problem.code, problem.offset) for problem in problems] == [(Code.BAD_PADDING, 10)]
    assert frame_ is not None
    assert frame_.payload == b"ab"


@given(
    st.sampled_from(sorted(TYPES)),
    st.integers(0, 2**32 - 1),
    st.binary(max_size=100),
    st.sampled_from([0, 1, 3]),
)
def test_what_is_built_reads_back_and_damage_is_found(
    type: Type, id: int, payload: bytes, flags: int
) -> None:
    rule = TYPES[type]
    id = 0 if rule.id_zero else id
    payload = b"" if rule.empty else payload
    frame = build(type, id, payload, flags)
    assert len(frame) % 2 == 0 or not flags
    read = read_strict(frame)
    assert (read.header.type, read.header.id, read.payload) == (type, id, payload)
    assert read.header.length == len(frame)
    for cut in range(len(frame)):
        part, problems = inspect(frame[:cut])
        assert part is None
        assert problems[-1].code == (Code.TRUNCATED_HEADER if cut < 8 else Code.TRUNCATED_PAYLOAD)
        assert problems[-1].offset == cut
    if flags:
        for at in range(len(frame)):
            for bit in range(8):
                wrong = bytearray(frame)
                wrong[at] ^= 1 << bit
                no_checksum_now = (at, bit, wrong[1]) == (1, 0, 0)  # the one change that cannot be seen
                assert inspect(wrong)[1] or no_checksum_now, f"bit {bit} of byte {at}"


@given(st.binary(max_size=64), st.integers(0, 70))
def test_no_bytes_break_a_reader(data: bytes, offset: int) -> None:
    frame, problems = inspect(data, offset)
    assert problems == sorted(problems, key=lambda problem: problem.offset)
    try:
        lenient = read_lenient(data, offset)
    except FrameError:
        assert frame is None
    else:
        assert frame is not None
        assert lenient.header == frame.header
        assert lenient.payload.startswith(frame.payload)


def test_too_long() -> None:
    assert len(build(Type.DATA, 1, bytes(MAX_PAYLOAD))) == MAX_FRAME
    assert len(build(Type.EVENT, 1, bytes(MAX_EVENT - 8))) == MAX_EVENT
    assert inspect(build(Type.EVENT, 1, bytes(MAX_EVENT - 8)))[1] == []
    long = build_lenient(Type.EVENT, 1, bytes(MAX_EVENT - 7))
    assert [problem.code for problem in inspect(long)[1]] == [Code.PAYLOAD_TOO_LONG]
    for type, size, flags in (
        (Type.DATA, MAX_PAYLOAD + 1, 0),
        (Type.DATA, MAX_PAYLOAD - 1, 1),
        (Type.EVENT, MAX_EVENT - 7, 0),
    ):
        with pytest.raises(FrameError) as caught:
            build(type, 1, bytes(size), flags)
        assert caught.value.problem.code == Code.PAYLOAD_TOO_LONG
    with pytest.raises(FrameError):
        build_lenient(Type.DATA, 1, bytes(MAX_PAYLOAD + 1))
    with pytest.raises(FrameError):
        pack_header(Type.DATA, 1, 7)


@pytest.mark.parametrize(
    ("type", "flags", "code"),
    [(13, 0, Code.BAD_TYPE), (1, 2, Code.BAD_FLAGS), (1, 4, Code.BAD_FLAGS), (1, 0x81, Code.BAD_FLAGS)],
)
def test_nothing_illegal_is_built(type: int, flags: int, code: Code) -> None:
    with pytest.raises(FrameError) as caught:
        build(type, 1, b"", flags)
    assert caught.value.problem.code == code


def test_the_error_table_is_whole_and_its_numbers_are_kept() -> None:
    assert set(ERRORS) == set(Code)
    assert set(TYPES) == set(Type)
    numbers = "TRUNCATED_HEADER TRUNCATED_PAYLOAD LENGTH_BELOW_HEADER PAYLOAD_TOO_LONG BAD_VERSION BAD_TYPE"
    numbers += " BAD_FLAGS BAD_CHECKSUM BAD_PAYLOAD UNKNOWN_SCHEMA ILLEGAL_TRANSITION BAD_ID BAD_PADDING"
    numbers += " FAILED"
    assert {code.name: int(code) for code in Code} == {name: n for n, name in enumerate(numbers.split(), 1)}
