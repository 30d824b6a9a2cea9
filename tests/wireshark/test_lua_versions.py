"""The dissector in other Luas than the one of the tshark here: Wireshark 4.0 has 5.2, 4.4 has 5.4.

Wireshark's side is a mock that checks every argument; what is wrong with the frames must be the same.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import hostile
import pytest

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
