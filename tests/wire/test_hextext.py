"""Hex in every dress comes back as its bytes; what is no hex is named with its place."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwire.wire.hextext import HexError, parse

FRAME = bytes.fromhex("1100000c00000063") + b"test"
LONG = FRAME + bytes(100) + b"abcdeabcde|  | 0x00: zz" + b"\xff" * 40

STATIC = [
    "1100000c0000006374657374",
    "1100000C0000006374657374\n",
    "1100000c 00000063\n74657374",
    "11 00 00 0c 00 00 00 63 74 65 73 74",
    "11:00:00:0c:00:00:00:63:74:65:73:74",
    "0x1100000c0000006374657374",
    "0X1100000C 0x00000063 0x74657374",
    "0x11, 0x00, 0x0, 0xc, 0x0, 0x0, 0x0, 0x63, 0x74, 0x65, 0x73, 0x74",
    "0x11,0x00,0x00,0x0c,0x00,0x00,0x00,0x63,0x74,0x65,0x73,0x74",
    "{0x11,0x00,0x00,0x0c,0x00,0x00,0x00,0x63,0x74,0x65,0x73,0x74}",
    "unsigned char x[] = {\n  0x11, 0x00, 0x00, 0x0c, 0x00, 0x00, 0x00, 0x63, 0x74,\n  0x65, 0x73, 0x74\n};\n"
    "unsigned int x_len = 12;\n",
    r"\x11\x00\x00\x0c\x00\x00\x00\x63\x74\x65\x73\x74",
    "00000000: 1100 000c 0000 0063 7465 7374            .......ctest\n",
    "00000000  11 00 00 0c 00 00 00 63  74 65 73 74              |.......ctest|\n0000000c\n",
    "\t0x0000:  1100 000c 0000 0063 7465 7374\n",
    "\t0x0000:  1100 000c 0000 0063 7465 7374            .......ctest\n",
    "12:34:56.789012 IP 10.0.0.1.5 > 10.0.0.2.6: UDP, length 12\n\t0x0000:  1100 000c 0000 0063\n"
    "\t0x0008:  7465 7374\n",
    "0000  11 00 00 0c 00 00 00 63 74 65 73 74               .......ctest\n",
    "000000 11 00 00 0c 00 00 00 63 74 65 73 74\n00000c\n",
    "00000000: 11000000 0c\n".replace("11000000 0c", "1100000c 00000063 74657374"),
]


@pytest.mark.parametrize("text", STATIC)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_dress(text: str, end: str) -> None:
    assert parse(text.replace("\n", end)) == FRAME


TOOLS = [
    *("xxd", "xxd -p", "xxd -i", "xxd -u", "xxd -g1", "xxd -g4 -c20", "xxd -c7", "xxd -a"),
    *("hexdump -C", "hexdump -vC", "od -A x -t x1", "od -A x -t x1z", "od -v -A x -t x1"),
]


@pytest.mark.parametrize("command", TOOLS)
def test_what_the_tools_print(command: str, tmp_path: Path) -> None:
    words = command.split()
    if shutil.which(words[0]) is None:
        pytest.skip(f"no {words[0]}")
    source = random.Random(5)
    file = tmp_path / "x"
    for data in (FRAME, LONG, b"\x11", *(source.randbytes(n) for n in (15, 16, 17, 31, 32, 33, 300))):
        file.write_bytes(data)
        text = subprocess.run([*words, file], capture_output=True, text=True, check=True).stdout
        assert parse(text) == data, text


def pcap(packets: list[bytes], link: int) -> bytes:
    records = b"".join(struct.pack("<IIII", 1, 2, len(data), len(data)) + data for data in packets)
    return struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, link) + records


@pytest.mark.parametrize(
    "command", ["tcpdump -x -r", "tcpdump -X -r", "tcpdump -xx -tttt -v -r", "tshark -x -r"]
)
def test_what_the_sniffers_print(command: str, tmp_path: Path) -> None:
    words = command.split()
    if shutil.which(words[0]) is None:
        pytest.skip(f"no {words[0]}")
    packets = [FRAME, LONG, FRAME, FRAME, FRAME + b"xyz"]
    file = tmp_path / "x.pcap"
    file.write_bytes(pcap(packets, 147))
    done = subprocess.run([*words, file], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(done.stderr.strip()[-200:])
    assert parse(done.stdout) == b"".join(packets), done.stdout


@given(st.binary(min_size=1, max_size=80), st.integers(1, 40))
def test_a_row_of_any_length(data: bytes, width: int) -> None:
    """A dump as xxd makes it, made here; its ASCII column holds whatever the bytes spell."""
    lines = []
    for at in range(0, len(data), width):
        row = data[at : at + width]
        letters = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        lines.append(f"{at:08x}: {row.hex(' ', -2).ljust(width * 5 // 2 + 1)} {letters}\n")
    assert parse("".join(lines)) == data
    plain = data.hex()
    assert parse(plain) == parse(" ".join(plain[at : at + 2] for at in range(0, len(plain), 2))) == data
    assert parse(",".join(f"{byte:#x}" for byte in data)) == data


BAD = [
    ("1g", 2, "'g'"),
    ("11 0g", 5, "'g'"),
    ("zz", 1, "'z'"),
    ("110", 3, "'0'"),
    ("11 0 22", 4, "'0'"),
    ("1", 1, "alone"),
    ("0x", 2, "missing"),
    ("0xzz", 3, "'z'"),
    ("0x111", 5, "alone"),
    ("11 ü", 4, "'ü'"),
    ("11\u0661\u0661", 3, "hex digit"),
    (r"\x1100\y", 7, r"'\\'"),
    ("11\n22 3x\n", 8, "'x'"),
    ("00000000: 1100 0z0c\n", 17, "'z'"),
    ("00000000  11 00 0  00\n", 17, "alone"),
    ("00000000  11 0g 00  |...|\n", 15, "'g'"),
    ("", 1, "no hex"),
    (" \n", 1, "no hex"),
    ("00000000: \n", 1, "no hex"),
    ("{}", 1, "no hex"),
    ("00000000: 1100\n00000008: 1100\n", 16, "0x2"),
    ("00000000  11 00 |..|\nhello\n", 22, "'h'"),
    ("00000000  11 00 |..|\n*\n00000005\n", 24, "does not fit"),
    ("00000000  11 00 |..|\n*\nffffffffffff\n", 24, "does not fit"),
    ("0000000 0011 3400\n", 1, "hexdump -C"),
]


@pytest.mark.parametrize(("text", "position", "word"), BAD)
def test_what_is_no_hex(text: str, position: int, word: str) -> None:
    with pytest.raises(HexError) as caught:
        parse(text)
    assert caught.value.position == position
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_place_is_told_by_line_where_there_are_some() -> None:
    with pytest.raises(HexError, match="line 2, column 5: 'x'"):
        parse("11\n22 3x\n")
    with pytest.raises(HexError, match="position 2: 'x'"):
        parse("1x")


@given(st.text(st.sampled_from("0123456789abcxX \n\t:|*{}\\,;.gz"), max_size=60))
def test_no_text_breaks_it(text: str) -> None:
    error = None
    try:
        assert parse(text)
    except HexError as caught:
        error = caught
    if error is not None:
        assert 1 <= error.position <= max(len(text), 1)
        assert "\n" not in str(error)
