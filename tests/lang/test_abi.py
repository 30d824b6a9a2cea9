"""Where arguments lie: as the C compiler has it on x86-64, by the procedure call standard on AArch64."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from kwire.btf.blob import Btf
from kwire.lang.abi import CONVENTIONS, NOWHERE, ArgumentLocation, Passing, context_places, passing, places

FUNCTIONS = 400
STACK = 64  # words copied from the stack


class Kind(NamedTuple):
    """A C type: how it is declared, and its size in bytes."""

    name: str
    declared: str
    size: int


KINDS = (
    Kind("char", "", 1),
    Kind("short", "", 2),
    Kind("int", "", 4),
    Kind("long", "", 8),
    Kind("pointer", "typedef void *pointer;", 8),
    Kind("int128", "typedef __int128 int128;", 16),
    Kind("float", "", 4),
    Kind("double", "", 8),
    Kind("kuid", "typedef struct { int a; } kuid;", 4),
    Kind("three", "typedef struct { char a[3]; } three;", 3),
    Kind("one", "typedef struct { long a; } one;", 8),
    Kind("two", "typedef struct { pointer a; long b; } two;", 16),
    Kind("sized", "typedef struct { int a; int b; int c; } sized;", 12),
    Kind("large", "typedef struct { long a[3]; } large;", 24),
    Kind("mixed", "typedef struct { double a; long b; } mixed;", 16),
    Kind("floats", "typedef struct { float a; float b; double c; } floats;", 16),
    Kind("both", "typedef struct { float a; int b; long c; } both;", 16),
    Kind("squeezed", "typedef struct { char a; long b; } __attribute__((packed)) squeezed;", 9),
    Kind("wide", "typedef struct { int128 a; } wide;", 16),
    Kind("choice", "typedef union { long a; char b[8]; } choice;", 8),
)
SIZES = {kind.name: kind.size for kind in KINDS}


@pytest.fixture(scope="module")
def how(btf_writer: ModuleType) -> Callable[[str], Passing]:
    """How a value of a kind is passed, by its BTF."""
    w = btf_writer
    b = w.Builder()
    ids = {name: b.integer(name, size, True) for name, size in (("char", 1), ("short", 2), ("int", 4))}
    ids |= {"long": b.integer("long", 8, True), "int128": b.integer("__int128", 16, True)}
    ids |= {name: b.add(w.FLOAT, name, size) for name, size in (("float", 4), ("double", 8))}
    ids["pointer"] = b.ref(w.PTR, 0)
    chars, longs = b.array(ids["char"], 3), b.array(ids["long"], 3)
    members = {
        "kuid": [("int", 0)],
        "three": [(chars, 0)],
        "one": [("long", 0)],
        "two": [("pointer", 0), ("long", 64)],
        "sized": [("int", 0), ("int", 32), ("int", 64)],
        "large": [(longs, 0)],
        "mixed": [("double", 0), ("long", 64)],
        "floats": [("float", 0), ("float", 32), ("double", 64)],
        "both": [("float", 0), ("int", 32), ("long", 64)],
        "squeezed": [("char", 0), ("long", 8)],
        "wide": [("int128", 0)],
        "choice": [("long", 0), (b.array(ids["char"], 8), 0)],
    }
    for name, parts in members.items():
        own = [(f"m{at}", ids[one] if isinstance(one, str) else one, at) for one, at in parts]
        kind = w.UNION if name == "choice" else w.STRUCT
        ids[name] = b.struct(name, SIZES[name], own, kind=kind)
    btf = Btf(bytes(b.blob()))
    return lambda name: passing(btf, 0 if name == "void" else ids[name])


CODE = """
unsigned long registers[6], stack[{stack}];
__asm__(".text\\n.globl grab\\ngrab:\\n"
  "mov %rdi, registers(%rip)\\n mov %rsi, registers+8(%rip)\\n mov %rdx, registers+16(%rip)\\n"
  "mov %rcx, registers+24(%rip)\\n mov %r8, registers+32(%rip)\\n mov %r9, registers+40(%rip)\\n"
  "push %rdi\\n lea 16(%rsp), %rsi\\n lea stack(%rip), %rdi\\n"
  "mov ${stack}, %ecx\\n rep movsq\\n pop %rax\\n ret\\n");
int puts(const char *); int printf(const char *, ...); void *memset(void *, int, unsigned long);
static void fill(void *at, int number, int size) {{
  for (int n = 0; n < size; n++) ((unsigned char *)at)[n] = (number + 1) * 16 + n;
}}
static void show(void) {{
  for (int n = 0; n < 6; n++) printf("%016lx ", registers[n]);
  for (int n = 0; n < {stack}; n++) printf("%016lx ", stack[n]);
  puts("");
}}
"""


def program(signatures: list[tuple[str, list[str]]]) -> str:
    """A C program that calls a function of each signature, and prints the registers and the stack there."""
    code = [kind.declared for kind in KINDS] + [CODE.format(stack=STACK)]
    for number, (result, params) in enumerate(signatures):
        code.append(f'{result} f{number}({", ".join(params) or "void"}) __asm__("grab");')
        values = "".join(f"{one} v{at}; fill(&v{at}, {at}, {SIZES[one]}); " for at, one in enumerate(params))
        call = f"f{number}({', '.join(f'v{at}' for at in range(len(params)))})"
        code.append(f"__attribute__((noinline)) static void c{number}(void) {{ {values} {call}; show(); }}")
    calls = "".join(f"c{number}();" for number in range(len(signatures)))
    return "\n".join([*code, f"int main(void) {{ {calls} return 0; }}\n"])


@pytest.mark.skipif(not shutil.which("gcc"), reason="no gcc")
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the stub is in x86-64 assembly")
def test_arguments_lie_where_the_compiler_puts_them(how: Callable[[str], Passing], tmp_path: Path) -> None:
    source = random.Random(8)
    names = [kind.name for kind in KINDS]
    signatures = [
        (source.choice(["void", *names]), [source.choice(names) for _ in range(source.randrange(10))])
        for _ in range(FUNCTIONS)
    ]
    (tmp_path / "calls.c").write_text(program(signatures))
    command = ["gcc", "-w", "-O1", "-o", str(tmp_path / "calls"), str(tmp_path / "calls.c")]
    subprocess.run(command, check=True, capture_output=True)
    output = subprocess.run([tmp_path / "calls"], check=True, capture_output=True, text=True).stdout
    compared = 0
    for (result, params), line in zip(signatures, output.splitlines(), strict=True):
        slots = b"".join(struct.pack("<Q", int(word, 16)) for word in line.split())
        found = places(CONVENTIONS["x86_64"], [how(one) for one in params], how(result))
        for at, (param, place) in enumerate(zip(params, found, strict=True)):
            size = SIZES[param]
            if not place.slots:
                assert param in ("float", "double", "floats", "mixed"), (result, params)
                continue
            value = bytes((16 * (at + 1) + n) % 256 for n in range(size))
            assert slots[8 * place.first :][:size] == value, (result, params, at, found)
            compared += 1
    assert compared > 2 * FUNCTIONS


INT, LONG, BIG = Passing(4, 4, "i"), Passing(8, 8, "i"), Passing(16, 16, "ii")
PAIR = Passing(16, 8, "ii", whole=False)
LARGE = Passing(24, 8, "iii", whole=False)
REAL = Passing(8, 8, "f")
NOTHING = Passing(0, 1, "")


@pytest.mark.parametrize(
    ("params", "wanted"),
    [
        ([INT, PAIR, INT], [ArgumentLocation(0, 1), ArgumentLocation(1, 2), ArgumentLocation(3, 1)]),
        ([INT, BIG, INT], [ArgumentLocation(0, 1), ArgumentLocation(2, 2), ArgumentLocation(4, 1)]),
        ([LARGE, INT], [ArgumentLocation(0, 1, True), ArgumentLocation(1, 1)]),
        ([REAL, INT], [NOWHERE, ArgumentLocation(0, 1)]),
        (
            [LONG] * 7 + [PAIR, INT],
            [*(ArgumentLocation(n, 1) for n in range(7)), ArgumentLocation(8, 2), ArgumentLocation(10, 1)],
        ),
        ([LONG] * 9, [ArgumentLocation(n, 1) for n in range(9)]),
        ([*[LONG] * 9, BIG], [*(ArgumentLocation(n, 1) for n in range(9)), ArgumentLocation(10, 2)]),
    ],
)
def test_aarch64(params: list[Passing], wanted: list[ArgumentLocation]) -> None:
    assert places(CONVENTIONS["aarch64"], params, NOTHING) == tuple(wanted)
    assert places(CONVENTIONS["aarch64"], params, LARGE) == tuple(wanted)  # x8 says where a large result goes


def test_a_large_result_takes_the_first_register_of_x86_64() -> None:
    assert places(CONVENTIONS["x86_64"], [INT], LARGE) == (ArgumentLocation(1, 1),)
    assert places(CONVENTIONS["x86_64"], [INT], PAIR) == (ArgumentLocation(0, 1),)


def test_the_context_has_all_one_after_another() -> None:
    assert context_places([INT, PAIR, LONG, BIG, NOTHING]) == (
        (
            ArgumentLocation(0, 1),
            ArgumentLocation(1, 2),
            ArgumentLocation(3, 1),
            ArgumentLocation(4, 2),
            ArgumentLocation(6, 0),
        ),
        6,
    )
