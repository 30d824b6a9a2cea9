"""The types of programs: what compilers write of them, read against what C says itself; damaged files."""

from __future__ import annotations

import contextlib
import platform
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kwire.btf.blob import Btf
from kwire.btf.cformat import declare, spell
from kwire.btf.dwarf import function_types, line_addresses
from kwire.btf.errors import BtfError, BtfLookupError
from kwire.btf.members import locate
from kwire.btf.types import Kind
from kwire.kernel.binaries import binary

ROOT = Path(__file__).parents[2]

pytest.importorskip("elftools", reason="pyelftools is not installed")

SOURCE = r"""
typedef unsigned long size;
enum colour { RED = -1, GREEN, BLUE = 7 };
enum large { SMALL, LARGE = 0x100000000 };
union either { int i; float f; double d; char text[12]; };
struct list { struct list *next; const char *name; };
struct unknown;
struct all {
    int a : 3; unsigned b : 7; _Bool yes; short grid[2][3]; enum colour colour; enum large large;
    union either either; struct { long inner; struct list own; }; struct list *list;
    int (*call)(struct all *, size); struct unknown *unknown; volatile const size last; __int128 wide;
    unsigned char bytes[4]; char tail[];
};
__attribute__((noipa)) struct list *work(struct all *all, const char *text, size n, double f, ...)
{
    if (n)
        return all->list;
    return 0;
}
int main(void) { struct all all = {0}; return work(&all, "x", 0, 1.0) != 0; }
"""


@pytest.fixture(scope="module", params=["-gdwarf-2 -gstrict-dwarf", "-gdwarf-4", "-gdwarf-5"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("gcc"):
        pytest.skip("there is no compiler")
    home = tmp_path_factory.mktemp("program")
    (home / "own.c").write_text(SOURCE)
    words = ["gcc", "-O0", *request.param.split(), "-no-pie", "-o", home / "own", home / "own.c"]
    subprocess.run(words, check=True)
    return home / "own"


@pytest.fixture
def base(new_btf: Callable[..., Any]) -> Btf:
    made = new_btf()
    made.name("a string of the kernel's")
    return Btf(made.blob())


def _read(path: Path, base: Btf) -> Btf:
    [symbol] = binary(str(path)).functions["work"]
    return function_types(str(path), "work", symbol.address, base)


def test_a_prototype_and_its_types_are_those_of_the_source(program: Path, base: Btf) -> None:
    btf = _read(program, base)
    proto = btf.proto(btf.find("work", Kind.FUNC))
    given = [spell(btf, one.type, one.name) for one in proto.params]
    assert given == ["struct all *all", "const char *text", "size n", "double f"]
    assert proto.variadic
    assert spell(btf, proto.ret) == "struct list *"
    all_ = btf.find("all", Kind.STRUCT)
    shown = declare(btf, all_)
    for member in (
        "int a:3;",
        "unsigned int b:7;",
        "short int grid[2][3];",
        "enum large large;",
        "struct list *list;",
        "const size last;",
        "__int128 wide;",
        "unsigned char bytes[4];",
        "char tail[];",
        "int (*call)(struct all *, size);",
    ):
        assert member in shown.replace("volatile ", ""), shown
    assert [btf.type(btf.find(one, Kind.INT)).char for one in ("char", "unsigned char")] == [True, False]  # type: ignore[union-attr]
    assert btf.type(btf.find("colour", Kind.ENUM)).values == (("RED", -1), ("GREEN", 0), ("BLUE", 7))  # type: ignore[union-attr]
    assert btf.type(btf.find("large", Kind.ENUM64)).values[1] == ("LARGE", 1 << 32)  # type: ignore[union-attr]


LEFT_OUT = r"""
struct two { long a, b; };
#define ALONE __attribute__((noinline))
#define USED(n) __asm__ volatile("" :: "r"(n))
ALONE static int same(int x, int k, int y) { USED(x); USED(y); return x * k + y; }
ALONE static long part(struct two t, int n) { USED(n); return t.b + n; }
ALONE int given(int x, int unused, int y) { USED(y); return x + y; }
int main(int count, char **words)
{
    struct two two = {count, words[0][0]};
    long sum = 0;
    for (int i = 0; i < 3; i++)
        sum += same(i, 7, i + 100) + part(two, i) + given(i, 5, i + 300);
    return sum == 12345;
}
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="what this compiler takes away here")
def test_what_a_compiler_does_not_pass_is_no_argument(base: Btf, tmp_path: Path) -> None:
    """A constant takes no register, and a member that stands for its structure takes another one's."""
    if not shutil.which("gcc"):
        pytest.skip("there is no compiler")
    (tmp_path / "own.c").write_text(LEFT_OUT)
    subprocess.run(["gcc", "-O2", "-g", "-o", tmp_path / "own", tmp_path / "own.c"], check=True)
    path = str(tmp_path / "own")
    found, kept = {}, dict[str, Any]()
    for name, [symbol, *_] in binary(path).functions.items():
        with contextlib.suppress(BtfLookupError):
            btf = function_types(path, name, symbol.address, base, kept)
            params = btf.proto(btf.find(name, Kind.FUNC)).params
            found[name.partition(".")[0]] = [spell(btf, one.type, one.name) for one in params]
    assert found["same"] == ["int x", "int y"]
    assert found["part"] == []
    assert found["given"] == ["int x", "int unused", "int y"]
    assert found["main"] == ["int count", "char **words"]
    assert list(kept) == [path]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="assembly of x86-64")
def test_an_argument_that_clang_takes_away_is_none(base: Btf, tmp_path: Path) -> None:
    """The function keeps its name; addresses are numbers of a table, as in DWARF 5."""
    if not shutil.which("gcc"):
        pytest.skip("there is no assembler")
    program = tmp_path / "own"
    subprocess.run(["gcc", "-o", program, ROOT / "tests/data/dead_argument.s"], check=True)
    [symbol] = binary(str(program)).functions["work"]
    btf = function_types(str(program), "work", symbol.address, base)
    params = btf.proto(btf.find("work", Kind.FUNC)).params
    assert [spell(btf, one.type, one.name) for one in params] == ["int k", "const char *s"]


def test_members_lie_where_the_compiler_puts_them(program: Path, base: Btf, tmp_path: Path) -> None:
    btf = _read(program, base)
    all_ = btf.find("all", Kind.STRUCT)
    names = (
        "grid",
        "colour",
        "large",
        "either",
        "inner",
        "own",
        "list",
        "call",
        "last",
        "wide",
        "bytes",
        "tail",
    )
    lines = "".join(f'printf("%zu ", __builtin_offsetof(struct all, {one}));' for one in names)
    (tmp_path / "at.c").write_text(
        f"#include <stdio.h>\n{SOURCE.replace('main', 'other')}\nint main(void) {{ {lines} }}"
    )
    subprocess.run(["gcc", "-o", tmp_path / "at", tmp_path / "at.c"], check=True)
    told = subprocess.run([tmp_path / "at"], capture_output=True, text=True, check=True).stdout
    assert [locate(btf, all_, one).offset_bits // 8 for one in names] == [int(one) for one in told.split()]
    bits = [(path.offset_bits, path.bitfield_size) for path in (locate(btf, all_, one) for one in "ab")]
    assert bits == [(0, 3), (3, 7)]


def test_a_base_that_is_elsewhere_in_each_object_is_no_member(base: Btf, tmp_path: Path) -> None:
    if not shutil.which("g++"):
        pytest.skip("there is no compiler of C++")
    (tmp_path / "own.cc").write_text(
        "struct base { int shared; }; struct plain { long first; };"
        "struct derived : plain, virtual base { int own; };"
        'extern "C" __attribute__((noipa)) int work(derived *all) { return all->own; }'
        "int main() { derived all; all.own = 0; return work(&all); }"
    )
    subprocess.run(["g++", "-g", "-no-pie", "-o", tmp_path / "own", tmp_path / "own.cc"], check=True)
    btf = _read(tmp_path / "own", base)
    derived = btf.find("derived", Kind.STRUCT)
    assert [locate(btf, derived, one).offset_bits for one in ("first", "own")] == [64, 128]
    with pytest.raises(BtfLookupError, match="derived has no member shared"):
        locate(btf, derived, "shared")


def test_lines_are_where_functions_begin(program: Path) -> None:
    line = SOURCE.splitlines().index("{") + 1
    [symbol] = binary(str(program)).functions["work"]
    assert line_addresses(str(program), "own.c", line) == [symbol.address]
    with pytest.raises(BtfLookupError, match=r"no code begins at line 1 of own\.c"):
        line_addresses(str(program), "own.c", 1)
    with pytest.raises(BtfLookupError, match=r"no code of it is from other\.c"):
        line_addresses(str(program), "other.c", 1)


def test_what_is_not_told_is_said(program: Path, base: Btf, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    subprocess.run(["objcopy", "--strip-debug", program, bare], check=True)
    with pytest.raises(BtfLookupError, match="no debugging information about this function"):
        _read(bare, base)
    with pytest.raises(BtfLookupError, match="no debugging information about its lines"):
        line_addresses(str(bare), "own.c", 3)
    with pytest.raises(BtfLookupError, match="no debugging information about this function"):
        function_types(str(program), "work", 1, base)


def test_a_damaged_file_is_an_error_or_reads_on(program: Path, base: Btf, tmp_path: Path) -> None:
    whole, draw = program.read_bytes(), random.Random(7)
    [symbol] = binary(str(program)).functions["work"]
    start = whole.index(b"\x7fELF") + 0x2000
    path = str(tmp_path / "damaged")
    for _ in range(40):
        data = bytearray(whole)
        for _ in range(8):
            data[draw.randrange(start, len(data))] = draw.randrange(256)
        Path(path).write_bytes(data)
        for read in (
            lambda: function_types(path, "work", symbol.address, base),
            lambda: line_addresses(path, "own.c", 16),
        ):
            with contextlib.suppress(BtfError):
                read()
