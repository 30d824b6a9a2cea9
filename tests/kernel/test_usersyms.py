"""Names of addresses in processes: of files, of their debug files, of the vdso, of JIT compilers; held
against what nm says."""

import ctypes
import mmap
import os
import shutil
import subprocess
import sys
from bisect import bisect_right
from pathlib import Path

import pytest

from kwire.kernel.binaries import files
from kwire.kernel.symbols import Symbols
from kwire.kernel.usersyms import PerfMap, Process, Table, UserSymbols, perf_table

needs_cc = pytest.mark.skipif(
    not (shutil.which("cc") and shutil.which("objcopy") and shutil.which("nm")),
    reason="no C compiler and binutils are installed",
)

SOURCE = """
#include <stdio.h>
#include <unistd.h>
__attribute__((noinline)) int first(int n) { asm volatile(""); return n + 1; }
static __attribute__((noinline)) int second(int n) { asm volatile(""); return n + 2; }
int main(void) { printf("%p %p\\n", (void *)first, (void *)second); fflush(stdout); pause();
                 return first(1) + second(2); }
"""


def looked(pid: int) -> Process:
    return UserSymbols().look(pid)


def name(process: Process, address: int) -> tuple[str, int]:
    process.open([address])
    place = process.at(address)
    return place.name, place.offset


# ---- tables


def test_a_table_knows_where_symbols_end() -> None:
    texts = b"\0a\0open\0b\0alias\0in b\0"
    entries = [(100, 10, "a"), (100, 10, "alias"), (120, 5, "b"), (122, 1, "in b"), (200, 0, "open")]
    table = Table([(at, size, texts.index(b"\0%b\0" % one.encode()) + 1) for at, size, one in entries], texts)
    assert [table.at(at) for at in (99, 100, 109, 110)] == [None, ("a", 0), ("a", 9), None]
    assert [table.at(at) for at in (120, 122, 123, 125)] == [("b", 0), ("in b", 0), ("b", 3), None]
    assert table.at(1 << 40) == ("open", (1 << 40) - 200)
    assert Table([], b"").at(5) is None


def test_lines_of_a_perf_map_that_are_none_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    text = b"10 4 f x\n\nzz 4 g\n20 h\n30 0 empty\n-1 5 n\n40 8 py::caf\xc3\xa9:/a@b.py\n50 8 \n60 8 last"
    table = perf_table(text)
    assert [table.at(at) for at in (0x10, 0x43, 0x60)] == [
        ("f x", 0),
        ("py::caf\u00e9:/a@b.py", 3),
        ("last", 0),
    ]
    assert len(table) == 3
    monkeypatch.setattr("kwire.kernel.usersyms.PERF_LINES_MOST", 3)
    assert len(perf_table(text)) == 2  # of the last three one says no name


def test_of_a_perf_map_that_is_too_long_whole_lines_at_its_end_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = Path(f"/tmp/perf-{os.getpid()}.map")
    cut, whole = "7f0010 10 cut\n", "7f0020 10 whole\n"
    path.write_text(cut + whole)
    try:
        monkeypatch.setattr("kwire.kernel.usersyms.PERF_MAP_MOST", len(cut[4:] + whole))
        found = PerfMap(os.getpid())
        assert found.look()
        assert (found.at(0x7F0020), found.at(0x10)) == (("whole", 0), None)
    finally:
        path.unlink()


# ---- processes


def test_a_process_that_is_not_there_has_no_names() -> None:
    process = looked(1 << 30)
    process.open([4096])
    assert process.at(4096) == ("", 0, "")


def test_functions_of_libraries_and_of_the_vdso_are_found() -> None:
    process = looked(os.getpid())
    libc = ctypes.CDLL(None)
    for function in ("getpid", "qsort"):
        address = ctypes.cast(getattr(libc, function), ctypes.c_void_p).value or 0
        assert name(process, address + 3) == (function, 3)
    vdso = [one for one in process._mappings if one.path == "[vdso]"]
    names = {process.at(one.start + at).name for one in vdso for at in range(0, one.end - one.start, 16)}
    assert not vdso or "clock_gettime" in names or "__kernel_clock_gettime" in names


@needs_cc
def test_a_process_that_takes_another_folder_for_its_root_has_names(tmp_path: Path) -> None:
    """Paths are told as its mount namespace has them, which is ours."""
    (tmp_path / "x.c").write_text(SOURCE)
    program = tmp_path / "own"
    subprocess.run(["cc", "-static", "-o", program, tmp_path / "x.c"], check=True)
    inside = ["chroot", str(tmp_path), "/own"]
    with subprocess.Popen(inside, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        first, _ = (int(word, 16) for word in running.stdout.readline().split())
        try:
            assert name(looked(running.pid), first + 1) == ("first", 1)
            assert files("own", [running.pid]) == [str(program)]
        finally:
            running.kill()


@needs_cc
def test_separate_debug_files_are_found_and_only_those_that_fit(tmp_path: Path) -> None:
    (tmp_path / "x.c").write_text(SOURCE)
    program, debug = str(tmp_path / "x"), str(tmp_path / "x.debug")
    subprocess.run(["cc", "-O1", "-o", program, str(tmp_path / "x.c")], check=True)
    told = subprocess.run(["nm", program], check=True, capture_output=True, text=True).stdout
    symbols = {words[2]: int(words[0], 16) for line in told.splitlines() if len(words := line.split()) == 3}
    subprocess.run(["objcopy", "--only-keep-debug", program, debug], check=True)
    subprocess.run(["strip", program], check=True)
    plain = f"{program}.plain"
    shutil.copy(program, plain)  # it names no debug file
    subprocess.run(["objcopy", f"--add-gnu-debuglink={debug}", program], check=True)

    def names(path: str) -> list[str]:
        with subprocess.Popen([path], stdout=subprocess.PIPE, text=True) as running:
            assert running.stdout is not None
            first, second = (int(word, 16) for word in running.stdout.readline().split())
            assert second - first == symbols["second"] - symbols["first"]
            process = looked(running.pid)
            process.open([first])
            running.kill()
            running.wait()  # the file was opened while it lived
            return [process.at(at).name for at in (first, second + 1)]

    assert names(plain) == ["", ""]
    assert names(program) == ["first", "second"]
    with open(debug, "ab") as file:  # another file than the checksum is of
        file.write(b"\0")
    assert names(program) == ["", ""]


@needs_cc
def test_a_program_that_was_deleted_is_read_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "x.c").write_text(SOURCE)
    program = str(tmp_path / "x")
    subprocess.run(["cc", "-O1", "-o", program, str(tmp_path / "x.c")], check=True)
    with subprocess.Popen([program], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        first = int(running.stdout.readline().split()[0], 16)
        os.unlink(program)
        try:
            os.stat(f"/proc/{running.pid}/map_files/0-1000")
        except PermissionError:
            running.kill()
            pytest.skip("this user may not look at files that were deleted")
        except FileNotFoundError:
            pass
        found = name(looked(running.pid), first)
        running.kill()
    assert found == ("first", 0)


JIT = """
import ctypes, mmap, os, sys
memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
path = f"/tmp/perf-{os.getpid()}.map"
with open(path, "w") as file:
    file.write(f"{address:x} 10 early\\n{address + 16:x} 20 late one\\n")
print(address, flush=True)
sys.stdin.readline()
with open(path, "a") as file:
    file.write(f"{address + 64:x} 8 later\\n{address:x} 10 again\\n")
print("more", flush=True)
sys.stdin.readline()
os.unlink(path)
"""


def test_what_a_jit_compiler_tells_is_believed_and_read_again_when_there_is_more() -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", JIT], **pipes) as running:  # type: ignore[call-overload]
        address = int(running.stdout.readline())
        users = UserSymbols()
        process = users.look(running.pid)
        assert name(process, address) == ("early", 0)
        assert name(process, address + 20) == ("late one", 4)
        assert name(process, address + 64) == ("", 0)
        running.stdin.write("\n")
        running.stdin.flush()
        running.stdout.readline()
        process = users.look(running.pid)
        assert name(process, address + 65) == ("later", 1)
        assert name(process, address) == ("again", 0)  # code that took the place of other code
        running.stdin.write("\n")


def test_a_map_of_somebody_else_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid():
        pytest.skip("giving a file to somebody takes root")
    path = Path(f"/tmp/perf-{os.getpid()}.map")
    memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    view = ctypes.c_char.from_buffer(memory)
    address = ctypes.addressof(view)
    try:
        path.write_text(f"{address:x} 10 wrong\n")
        os.chown(path, 65532, 65532)
        assert name(looked(os.getpid()), address) == ("", 0)
        os.chown(path, 0, 0)
        assert name(looked(os.getpid()), address) == ("wrong", 0)
        target = tmp_path / "elsewhere"
        path.rename(target)
        path.symlink_to(target)
        assert name(looked(os.getpid()), address) == ("", 0)
    finally:
        path.unlink(missing_ok=True)
        del view


def test_a_map_is_read_when_its_process_is_gone_and_takes_no_more_than_its_share() -> None:
    with subprocess.Popen(["sleep", "60"]) as running:
        path = Path(f"/tmp/perf-{running.pid}.map")
        told = PerfMap(running.pid)
        running.kill()
        running.wait()
        try:
            assert not told.look()
            path.write_text("10 8 early\n")
            assert told.look()
            assert not told.look()  # it is as it was
            assert told.at(0x11) == ("early", 1)
            with path.open("a") as file:
                file.write("10 8 late\n")
            told._spent = 1e9  # so often it was another one
            assert not told.look()
            assert told.at(0x10) == ("early", 0)
            told._spent = 0.0
            assert told.look()
            assert told.at(0x10) == ("late", 0)
        finally:
            path.unlink(missing_ok=True)


def python_with_perf() -> str:
    """A Python that can write a perf map of its functions; empty where there is none."""
    beside = Path(sys.base_prefix).parent.glob("*/bin/python3.1[2-9]")
    for one in (sys.executable, "python3.13", "python3.12", *map(str, sorted(beside))):
        path = shutil.which(one)
        code = "import sys; sys.exit(not sys._xoptions.get('perf') or not sys.is_stack_trampoline_active())"
        if path and not subprocess.run([path, "-X", "perf", "-c", code], capture_output=True).returncode:
            return path
    return ""


@pytest.mark.native
def test_functions_of_python_are_found_by_its_own_map() -> None:
    python = python_with_perf()
    if not python:
        pytest.skip("no Python that tells perf of its functions (-X perf, from 3.12 on) is installed")
    code = "def spam():\n    print('here', flush=True)\n    input()\nspam()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([python, "-X", "perf", "-c", code], **pipes) as running:  # type: ignore[call-overload]
        path = Path(f"/tmp/perf-{running.pid}.map")
        try:
            running.stdout.readline()
            lines = [line.split(" ", 2) for line in path.read_text().splitlines()]
            [(start, size)] = [(int(a, 16), int(b, 16)) for a, b, text in lines if "::spam:" in text]
            assert name(looked(running.pid), start + size - 1) == ("py::spam:<string>", size - 1)
        finally:
            running.kill()
            path.unlink(missing_ok=True)


# ---- the kernel's


def test_addresses_of_the_kernel_are_found_as_by_looking_at_all_of_its_symbols() -> None:
    core = [(0x1000 + 37 * (n // 2), "tTdA"[n % 4], f"f{n}") for n in range(400)]
    lines = [f"{at:016x} {kind} {text}" for at, kind, text in core]
    modules = [(0x90000 - 100 * n, f"m{n}") for n in range(9)]
    lines += [f"{at:016x} t {text}\t[mod]" for at, text in modules]
    symbols = Symbols("\n".join([*lines, ""]).encode())
    names: dict[int, str] = {}
    for at, kind, text in core:
        if kind not in "A":
            names.setdefault(at, text)
    names |= dict(modules)
    starts = sorted(names)
    for address in range(0x1000, 0x1000 + 37 * 200, 5):
        start = starts[bisect_right(starts, address) - 1]
        found = symbols.at(address)
        assert found is not None
        assert (found.name, found.offset) == (names[start], address - start)
    assert str(symbols.at(0x90001)) == "m0+0x1 [mod]"
    assert symbols.at(0xFFF) is None
