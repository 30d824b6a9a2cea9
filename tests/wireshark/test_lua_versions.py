"""The dissector in other Luas than the one of the tshark here: Wireshark 4.0 has 5.2, 4.4 has 5.4.

Wireshark's side is a mock that checks every argument; what is wrong with the frames must be the same.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import hostile
import pytest

from kwire.view.values import displayed
from kwire.wire.fields import DISPLAYS, text
from kwire.wire.names import Table, tables
from kwire.wire.schema import Field, Schema
from kwire.wireshark.dissector import dissector, model

pytestmark = pytest.mark.native

VERSIONS = ("lua5.2", "lua5.3", "lua5.4")
HERE = Path(__file__).parent
HELPERS = """
local function n(hex, signed)
  local bytes = hex:gsub("..", function(pair) return string.char(tonumber(pair, 16)) end)
  return Numbers.read(bytes, 1, #bytes, false, signed)
end
"""


def ask(version: str, lua: Path, lines: list[str]) -> list[str]:
    program = shutil.which(version)
    if program is None:
        pytest.skip(f"no {version} here")
    command = [program, str(HERE / "mock.lua"), str(lua)]
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, errors="replace")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.fixture
def lua(tmp_path: Path) -> Path:
    path = tmp_path / "kwire.lua"
    path.write_text(dissector())
    return path


@pytest.mark.parametrize("version", VERSIONS)
def test_errors_are_the_same_in_every_lua(version: str, lua: Path) -> None:
    packets = hostile.packets(3000, 7)
    answers = ask(version, lua, [data.hex() for data in packets])
    oracle = hostile.Oracle()
    for data, answer in zip(packets, answers, strict=True):
        expected = oracle.packet(data)
        said = [(code, int(at)) for code, at in (word.split("@") for word in answer.split("\t")[0].split())]
        assert sorted(said, key=lambda pair: (pair[1], pair[0])) == expected, data.hex()


@pytest.mark.parametrize("version", VERSIONS)
def test_datagrams_and_segments_do_not_break_it(version: str, lua: Path) -> None:
    packets = hostile.packets(300, 8)
    answers = ask(version, lua, [kind + data.hex() for data in packets for kind in "UT"])
    assert len(answers) == 2 * len(packets)


def test_all_luas_say_the_same(lua: Path) -> None:
    lines = [data.hex() for data in hostile.packets(1000, 9)]
    answers = [ask(version, lua, lines) for version in VERSIONS if shutil.which(version)]
    for other in answers[1:]:
        assert other == answers[0]


@pytest.mark.parametrize("version", VERSIONS)
def test_numbers_of_64_bits(version: str, tmp_path: Path) -> None:
    program = shutil.which(version)
    if program is None:
        pytest.skip(f"no {version} here")
    numbers = [
        0,
        1,
        255,
        2**31,
        2**32,
        2**32 + 1,
        2**53 - 1,
        2**53,
        10**18 + 7,
        2**63,
        2**64 - 1,
        999_999_999,
    ]
    signed = [n - 2**64 for n in numbers if n >= 2**63] + [-1, -128, -(2**53), -(2**63), 5]
    script = [model(), HELPERS]
    expected = []

    def say(line: str, answer: str) -> None:
        script.append(f"print(({line}))")
        expected.append(answer)

    for number in numbers:
        value = f"n('{number:016x}')"
        say(f"Numbers.decimal({value})", str(number))
        say(f"Numbers.hexadecimal({value})", f"{number:#x}")
        say(f"string.format('%.0f %.0f', Numbers.seconds({value}))", f"{number // 10**9} {number % 10**9}")
    for number in signed:
        value = f"n('{number % 2**64:016x}', true)"
        say(f"Numbers.decimal({value})", str(number))
        say(f"Numbers.hexadecimal({value})", f"{number:#x}")
    for size in (1, 2, 3, 4, 5, 7):
        for number in (-1, -(2 ** (8 * size - 1)), 2 ** (8 * size - 1) - 1):
            digits = f"{number % 2 ** (8 * size):0{2 * size}x}"
            say(f"Numbers.decimal(n('{digits}', true))", str(number))
    for a, b in ((0b1100, 0b1010), (2**64 - 1, 2**63), (2**40 + 7, 5)):
        pair = f"n('{a:016x}'), n('{b:016x}')"
        say(f"Numbers.hexadecimal(Numbers.both({pair}))", f"{a & b:#x}")
        say(f"Numbers.hexadecimal(Numbers.without({pair}))", f"{a & ~b:#x}")
    path = tmp_path / "numbers.lua"
    path.write_text("\n".join(script))
    done = subprocess.run([program, str(path)], capture_output=True, text=True)
    assert (done.stdout.splitlines(), done.stderr) == (expected, "")


def lua_number(value: int) -> str:
    """A number as the Lua side holds it: a sign, and two halves of its two's complement."""
    halves = value & (1 << 64) - 1
    return f"{{ neg = {str(value < 0).lower()}, hi = {halves >> 32}, lo = {halves & 0xFFFFFFFF} }}"


@pytest.mark.parametrize("version", VERSIONS)
def test_displays_are_those_of_the_table(version: str, tmp_path: Path) -> None:
    program = shutil.which(version)
    if program is None:
        pytest.skip(f"no {version} here")
    values = [0, 1, 2, 9, 0o644, 0x12300845, 3 << 20 | 5, 0x241, 0x80000, 0x80001, 0x8000003, 0xFFFFFF9C, -1,
              -2, -12, -100, -512, -4000, -5000, 1 << 40, -(1 << 62)]  # fmt: skip
    script = [model()]
    expected = []
    for display in (*DISPLAYS, "unheard-of"):
        for name, table in tables("x86_64").items() if display == "flags" else [("", Table({}))]:
            field = Field("x", "s64", 16, 8, display=display, table=name, mask=table.mask)
            schema = Schema(1, "k:f", "k", "f", (field,), 24, enums={name: table.names})
            show = displayed(schema, field) or str
            entries = ", ".join(
                f'{{ number = {lua_number(n)}, name = "{label}" }}' for n, label in table.names.items()
            )
            script.append(f"do local list, by = {{ {entries} }}, {{}}")
            script.append(
                "for _, one in ipairs(list) do by[Numbers.key(one.number)] = one.name end by.list = list"
            )
            script.append(
                f'local field = {{ rule = {{ kind = "int" }}, type = "s64", enum = "", table = "t", '
                f'display = "{display}", mask = {lua_number(table.mask)} }}'
            )
            for value in values:
                script.append(
                    f"do local v, schema = {lua_number(value)}, {{ enums = {{ t = by }} }} "
                    "print(Schema.name(schema, field, v) or Numbers.decimal(v)) end"
                )
                expected.append(show(value))
            script.append("end")
    path = tmp_path / "displays.lua"
    path.write_text("\n".join(script))
    done = subprocess.run([program, str(path)], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.splitlines() == expected


@pytest.mark.parametrize("version", VERSIONS)
def test_texts_are_those_of_the_table(version: str, tmp_path: Path) -> None:
    program = shutil.which(version)
    if program is None:
        pytest.skip(f"no {version} here")
    texts = [b"plain", b"\xff", rb"\xff", b"\\\xff", rb"\\xff", b"\\\\\xff",
             rb"a\xe9\x41", b"\xe2\x82", "é".encode(), rb"C:\dir", b"\\", rb"\x", b"\\\xc3\xa9",
             rb"systemd\x2d"]  # fmt: skip
    lines = ["".join(f"\\{byte:03d}" for byte in one) for one in texts]
    path = tmp_path / "texts.lua"
    path.write_text(model() + "\n" + "\n".join(f'print(Text.safe("{line}"))' for line in lines))
    done = subprocess.run([program, str(path)], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [text(one) for one in texts]
