"""Offsets of probes in programs, beside what objdump says."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kwire.errors import KwireError
from kwire.kernel import binaries
from kwire.kernel.targets import Target

SOURCE = """
#include <stdio.h>
#include <string.h>
struct pair { double a; long b; char text[24]; };
__attribute__((noinline)) long add(short a, int b) { return a * 3L + b; }
__attribute__((noinline)) double fill(struct pair *p, int n)
{
	for (int at = 0; at < n; at++) {
		p[at].a = at / 3.0 + p[at].b % 0x123456789abL;
		memset(p[at].text, at, sizeof p[at].text);
	}
	return p[n - 1].a;
}
__attribute__((noinline)) int choose(int n)
{
	switch (n) {
	case 0: return puts("a");
	case 1: return puts("bcd");
	case 2: return puts("e");
	case 3: return puts("fgh") * 70000;
	case 4: return puts("ij") << 3;
	default: return -1;
	}
}
int main(int count, char **words)
{
	struct pair p[4] = {0};
	printf("%ld %f\\n", add((short)count, 2), fill(p, 4));
	return choose(count + 8) + 1;
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("gcc") or not shutil.which("objdump"):
        pytest.skip("gcc and objdump are not installed")
    made = tmp_path_factory.mktemp("instructions") / "shop"
    source = made.with_suffix(".c")
    source.write_text(SOURCE)
    subprocess.run(["gcc", "-g", "-O2", "-o", made, source], check=True)
    return made


def _objdump(path: Path, name: str) -> set[int]:
    """Offsets at which objdump shows instructions of a function."""
    words = ["objdump", "-d", "--no-show-raw-insn", f"--disassemble={name}", str(path)]
    text = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    found = [int(one, 16) for one in re.findall(r"^ +([0-9a-f]+):\t", text, re.MULTILINE)]
    return {one - found[0] for one in found}


def _taken(path: Path, name: str, offset: int, by_address: bool) -> bool:
    [symbol] = binaries.binary(str(path)).functions[name]
    given = hex(symbol.address + offset) if by_address else name
    try:
        [place] = binaries.places(Target("uprobe", str(path), given), 0 if by_address else offset)
    except KwireError as error:
        if "inside of an instruction" not in error.cause:
            raise
        return False
    assert place.offset == binaries.binary(str(path)).place(str(path), symbol.address + offset).offset
    return True


@pytest.mark.parametrize("by_address", [False, True])
@pytest.mark.parametrize("name", ["add", "fill", "choose", "main"])
def test_a_probe_is_where_objdump_shows_an_instruction(program: Path, name: str, by_address: bool) -> None:
    [symbol] = binaries.binary(str(program)).functions[name]
    taken = {offset for offset in range(symbol.size) if _taken(program, name, offset, by_address)}
    assert taken == _objdump(program, name)


def test_which_offset_is_right_is_told(program: Path) -> None:
    first = sorted(_objdump(program, "add"))[1]
    with pytest.raises(KwireError, match=rf"add\+{first + 1}: .*the one there begins at \+{first}$"):
        binaries.places(Target("uprobe", str(program), "add"), first + 1)


def test_what_is_missing_is_told(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "capstone", None)
    with pytest.raises(KwireError, match=r"capstone.*not installed.*pip install 'kwire\[symbols\]'"):
        binaries.places(Target("uprobe", str(program), "add"), 4)
    assert binaries.places(Target("uprobe", str(program), "add"))
