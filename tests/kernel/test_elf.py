"""ELF files: what is read is what binutils read; a cut or damaged file is an error in one line."""

import os
import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from kwire.kernel.elf import Elf, ElfError, Usdt

PROGRAM = """
#include <stdio.h>
static int counter;
__attribute__((noinline)) int work(int a) { counter += a; return counter; }
int main(void) { return work(1); }
"""

NOTE = """
    .text
    .globl marked
    .type marked, @function
marked:
990: nop
    ret
    .size marked, . - marked
    .pushsection .note.stapsdt,"?","note"
    .balign 4
    .4byte 992f-991f, 994f-993f, 3
991: .asciz "stapsdt"
992: .balign 4
993: .8byte 990b
    .8byte _.stapsdt.base
    .8byte watched
    .asciz "shop"
    .asciz "sold"
    .asciz "-4@%edi 8@%rsi"
994: .balign 4
    .popsection
    .pushsection .stapsdt.base,"aG","progbits",.stapsdt.base,comdat
    .weak _.stapsdt.base
_.stapsdt.base: .space 1
    .size _.stapsdt.base, 1
    .popsection
    .data
watched: .short 0
    .section .note.GNU-stack,"",@progbits
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program with a static probe, and one without symbols that names it."""
    if not shutil.which("gcc"):
        pytest.skip("there is no compiler")
    home = tmp_path_factory.mktemp("elf")
    (home / "one.c").write_text(PROGRAM)
    (home / "note.s").write_text(NOTE)
    made = home / "one"
    subprocess.run(
        ["gcc", "-O1", "-Wl,--build-id=sha1", "-o", made, home / "one.c", home / "note.s"], check=True
    )
    subprocess.run(["objcopy", "--only-keep-debug", made, home / "one.debug"], check=True)
    subprocess.run(
        ["objcopy", "--strip-all", "--add-gnu-debuglink=one.debug", made, "stripped"], cwd=home, check=True
    )
    return made


def _readelf(*arguments: str | Path) -> str:
    return subprocess.run(["readelf", "-W", *arguments], check=True, capture_output=True, text=True).stdout


def test_symbols_are_those_of_readelf(program: Path) -> None:
    listed = set()
    for line in _readelf("-s", program).splitlines():
        words = line.split()
        defined = len(words) == 8 and words[0][:-1].isdigit() and words[6] != "UND"
        if defined and words[3] in ("FUNC", "OBJECT") and int(words[1], 16):
            name, kind = words[7].partition("@")[0], words[3].lower()
            listed.add((name, int(words[1], 16), int(words[2], 0), kind))
    with Elf.open(str(program)) as file:
        found = {tuple(one) for one in file.symbols() if one.kind in ("func", "object")}
    assert found == listed
    assert {"work", "main", "counter"} <= {name for name, *_ in listed}


def test_a_place_in_the_file_and_its_address_are_each_others(program: Path) -> None:
    with Elf.open(str(program)) as file:
        [work] = [one for one in file.symbols() if one.name == "work"]
        offset = file.file_offset(work.address)
        assert offset is not None
        assert file.address_at(offset, code=True) == work.address
        assert file.file_offset(1 << 60) is None
        assert file.machine == os.uname().machine
        assert file.kind == "dyn"
    dump = subprocess.run(
        ["objdump", "-d", "-F", "--disassemble=work", program], check=True, capture_output=True, text=True
    ).stdout
    assert f"<work> (File Offset: {offset:#x})" in dump


def test_what_identifies_a_file(program: Path) -> None:
    with Elf.open(str(program)) as file:
        assert f"Build ID: {file.build_id}\n" in _readelf("-n", program)
        assert file.debug_link is None
    with Elf.open(str(program.parent / "stripped")) as file:
        link = file.debug_link
        assert link is not None
        assert link[0] == "one.debug"
        assert "work" not in {one.name for one in file.symbols()}


def test_static_probes(program: Path) -> None:
    with Elf.open(str(program)) as file:
        at = {one.name: one.address for one in file.symbols()}
        assert file.usdt() == [Usdt("shop", "sold", at["marked"], at["watched"], "-4@%edi 8@%rsi")]


def test_a_note_that_the_linker_did_not_move_is_moved(program: Path) -> None:
    data = bytearray(program.read_bytes())
    with Elf.open(str(program)) as file:
        [note] = [one for one in file.sections if one.name == ".note.stapsdt"]
        [before] = file.usdt()
    body = note.offset + 12 + 8
    for at in (body, body + 8, body + 16):  # as if it was linked 0x1000 further up
        struct.pack_into("<Q", data, at, struct.unpack_from("<Q", data, at)[0] + 0x1000)
    assert Elf(bytes(data), "moved").usdt() == [before]


def test_a_file_in_memory_is_read_as_one_on_disk(program: Path) -> None:
    with Elf.open(str(program)) as file:
        assert Elf(program.read_bytes(), "copy").symbols() == file.symbols()


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", b"\x7fELF", b"\x7fELF" + bytes(60)])
def test_no_elf_file_is_an_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(ElfError, match="ELF"):
        Elf.open(str(path))


def test_a_file_that_is_not_there_or_a_folder_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ElfError, match=str(path)):
            Elf.open(str(path))


def _everything(file: Elf) -> None:
    _ = file.symbols(), file.usdt(), file.build_id, file.debug_link


def test_damage_is_an_error_or_harmless(program: Path) -> None:
    whole = program.read_bytes()
    chance = random.Random(5)
    refused = 0
    for turn in range(300):
        data = bytearray(whole)
        if turn % 3 == 0:
            del data[chance.randrange(len(data)) :]
        else:
            heads = (*range(16, 64), *range(len(data) - 64 * 20, len(data)))
            for _ in range(3):
                data[chance.choice(heads)] = chance.choice((0, 1, 0x7F, 0xFF))
        try:
            _everything(Elf(bytes(data), "damaged"))
        except ElfError:
            refused += 1
    assert refused > 50
