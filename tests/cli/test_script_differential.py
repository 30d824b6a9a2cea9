"""The same scripts in bpftrace, where it is installed: both print the same.

Of the output of its 0.17, which Debian 12 has, differ: the line before and the empty lines behind some maps.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bpftrace_here import BPFTRACE
from waiting import PATIENCE

KWIRE = [sys.executable, "-m", "kwire.cli.main", "-q"]


pytestmark = [
    # Not marked live: two tracers are compared on one kernel, and a guest takes minutes to start bpftrace.
    pytest.mark.skipif(os.geteuid() != 0, reason="tracing takes root"),
    pytest.mark.skipif(not shutil.which("bpftrace"), reason="bpftrace is not installed"),
    pytest.mark.skipif(
        not shutil.which("cc"), reason="there is no C compiler for what lets bpftrace start here"
    ),
]

PATIENT = """
#include <sys/resource.h>
int setrlimit(__rlimit_resource_t r, const struct rlimit *l) { return 0; }
int setrlimit64(__rlimit_resource_t r, const struct rlimit64 *l) { return 0; }
"""
"""bpftrace gives up where it may not raise a limit that it does not need."""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("patient")
    (folder / "patient.c").write_text(PATIENT)
    library = folder / "patient.so"
    build = ["cc", "-D_GNU_SOURCE", "-shared", "-fPIC", "-o", str(library), str(folder / "patient.c")]
    subprocess.run(build, check=True)
    return {**os.environ, "LD_PRELOAD": str(library)}


def lines(output: str) -> list[str]:
    kept = [line.rstrip() for line in output.splitlines() if not line.startswith("Attaching ")]
    return [line for line in kept if line]


SCRIPTS = {
    "numbers": r"""BEGIN {
        printf("%5d|%-5d|%05d|%x|%X|%o|%u\n", 42, 42, 42, 255, 255, 8, 7);
        printf("%lld %llx %hhd %hd %ld %d\n", -1, -1, 300, 70000, 1 << 40, 0x10 + 1e3);
        printf("%d %d %d %d %d %d\n", 1 << 3, 0xff & 0x0f, 6 | 1, 6 ^ 3, ~0, !5);
        printf("%d %d %d %d\n", (uint8)300, (int8)200, 5 > 3 ? 10 : 20, $1 + $2 + $#);
        exit(); }""",
    "texts": r"""BEGIN {
        $s = "abc"; printf("%s|%10s|%-10s|%s\n", $s, "abc", "abc", str($3)); printf("a\tb\x41\101\n");
        printf("%d %d\n", strncmp("abc", "abd", 2), strncmp("abc", "abd", 3));
        printf("%s\n", ntop(0x0100007f));
        print(5); print("abc"); @s["x"] = "one"; printf("%s\n", @s["x"]); clear(@s); exit(); }""",
    "statements": r"""BEGIN {
        $i = 0; unroll(5) { $i++; printf("%d ", $i); } $x = 10; while ($x > 7) { printf("%d ", $x); $x--; }
        if ($x > 3 && $x < 10) { printf("in\n"); } else { printf("out\n"); } $t = (1, 2, (3, 4));
        printf("%d\n", $t.2.1); @x = 5; @x++; @x += 10; $y = @x; printf("%d\n", $y); delete(@x);
        @z[1] = 5; delete(@z[1]); printf("%d\n", @z[1]); exit(); }""",
    "maps": r"""BEGIN {
        @a[1] = 5; @a[2] = 3; @a[3] = 9; @b["x", 1] = count(); @b["y", 2] = count(); @b["y", 2] = count();
        @c[1, 2, 3] = 1; @c[1, 2, 1] = 2; @d = -5; @e[-3] = 1; print(@b, 1); print(@d); clear(@d);
        @f = avg(5); @f = avg(8); @g = min(5); @g = min(2); @h = max(5); @h = max(9);
        @i = sum(5); @i = sum(7); exit(); }""",
    "histograms": r"""BEGIN {
        @h = hist(0); @h = hist(1); @h = hist(3); @h = hist(1000); @h = hist(-5); @h = hist(1048576);
        @k[1] = hist(2); @k[5] = hist(2); @k[5] = hist(2);
        @l = lhist(5, 0, 100, 10); @l = lhist(-1, 0, 100, 10); @l = lhist(100, 0, 100, 10);
        @l = lhist(15, 0, 100, 10); @l = lhist(15, 0, 100, 10); exit(); }""",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_both_print_the_same(name: str, environment: dict[str, str]) -> None:
    words = ["-e", SCRIPTS[name], "12", "30", "word"]
    other = subprocess.run(
        [*BPFTRACE, *words], capture_output=True, text=True, timeout=PATIENCE, env=environment
    )
    own = subprocess.run([*KWIRE, *words], capture_output=True, text=True, timeout=PATIENCE)
    assert own.stderr == ""
    assert lines(own.stdout) == lines(other.stdout), other.stderr
    assert own.returncode == other.returncode == 0


TRACED = """
tracepoint:syscalls:sys_enter_openat /pid == $1/ {
    printf("%-16s %d %s\\n", comm, args->flags & 3, str(args->filename));
    @[comm] = count(); @f[tid] = nsecs; }
tracepoint:syscalls:sys_exit_openat /@f[tid]/ { @r = lhist(args->ret < 0, 0, 4, 2); delete(@f[tid]); }
tracepoint:syscalls:sys_enter_getppid /pid == $1/ { exit(); }
"""

OPENS = """
import os, sys
for name in sys.stdin:
    for path in ("/etc/hostname", "/nowhere"):
        try:
            os.close(os.open(path, os.O_RDONLY))
        except OSError:
            pass
    os.getppid()
"""


def test_both_see_the_same_of_a_process(environment: dict[str, str], tmp_path: Path) -> None:
    """A process that does its work once it is told so: when the tracer says that it is attached."""
    found = {}
    for name, command, marker in (
        ("bpftrace", BPFTRACE, "Attaching"),
        ("kwire", [sys.executable, "-m", "kwire.cli.main"], "Attached"),
    ):
        with subprocess.Popen([sys.executable, "-c", OPENS], stdin=subprocess.PIPE, text=True) as traced:
            assert traced.stdin is not None
            script = 'BEGIN { printf("ready\\n"); }' + TRACED
            with subprocess.Popen(
                [*command, "-e", script, str(traced.pid)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment if name == "bpftrace" else None,
            ) as tracer:
                assert tracer.stdout is not None
                head = [tracer.stdout.readline() for _ in range(2 if marker == "Attaching" else 1)]
                assert head[-1] == "ready\n"
                # What comes before all is attached is seen by none; so it is done until the end comes.
                for _ in range(200):
                    traced.stdin.write("go\n")
                    traced.stdin.flush()
                    try:
                        tracer.wait(0.05)
                        break
                    except subprocess.TimeoutExpired:
                        continue
                out, _ = tracer.communicate(timeout=PATIENCE)
            traced.stdin.close()
            found[name] = [line for line in lines(out) if not line.startswith("@")]
    hostname = next(line for line in found["kwire"] if "hostname" in line)
    assert hostname in found["bpftrace"]
    assert set(found["kwire"]) == set(found["bpftrace"])
