"""What the benchmarks share: the traced load, peers made runnable here, and a table in Markdown."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
KWIRE = os.environ.get("KWIRE") or str(Path(sys.executable).parent / "kwire")
_NO_LIMIT = """
#define _GNU_SOURCE
#include <sys/resource.h>
int setrlimit(__rlimit_resource_t r, const struct rlimit *l) { (void)r; (void)l; return 0; }
int setrlimit64(__rlimit_resource_t r, const struct rlimit64 *l) { (void)r; (void)l; return 0; }
"""


@contextlib.contextmanager
def workspace() -> Iterator[Path]:
    """Give an empty folder that is removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="kwire-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def build_load(folder: Path) -> Path:
    """Compile the traced load and give its path."""
    target = folder / "load"
    subprocess.run(["gcc", "-O2", "-o", target, HERE / "load.c"], check=True)
    return target


def bpftrace_environment(folder: Path) -> dict[str, str]:
    """An environment in which bpftrace 0.17 runs where RLIMIT_MEMLOCK may not be raised."""
    library = folder / "nolimit.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-o", library, "-x", "c", "-"], input=_NO_LIMIT.encode(), check=True
    )
    return {**os.environ, "LD_PRELOAD": str(library)}


def have(program: str) -> bool:
    """Whether a peer is installed."""
    return shutil.which(program) is not None


def mount_tracefs() -> None:
    """Mount tracefs for the peers: unlike kwire, perf needs it mounted."""
    if not Path("/sys/kernel/tracing/events").is_dir():
        subprocess.run(["mount", "-t", "tracefs", "tracefs", "/sys/kernel/tracing"], check=False)


def speed(text: str) -> float:
    """Million calls a second as the load printed it, NaN when it printed nothing."""
    found = re.search(r"^load ([0-9.]+)", text, re.M)
    return float(found[1]) if found else float("nan")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
