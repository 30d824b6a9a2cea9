"""What a process of ours does with its signals."""

import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import PATIENCE

from kwire.packets import samples

CLEANING = """
import os, sys, time
from kwire.cli import process

def generator():
    try:
        yield
    finally:
        os.kill(os.getpid(), int(sys.argv[1]))
        for _ in range(1000):
            pass

def work():
    one = generator()
    next(one)
    del one  # Python closes it, and can raise nothing there
    time.sleep(1000)
    return 0

sys.exit(process.run(work))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_python_cleans_up_ends_us_without_a_word(number: signal.Signals) -> None:
    command = [sys.executable, "-c", CLEANING, str(int(number))]
    run = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert run.stderr == ""
    assert run.returncode == (130 if number == signal.SIGINT else -number)


def test_who_reads_a_capture_is_one_thread(tmp_path: Path) -> None:
    """numpy comes with a library that starts a thread for each CPU, which spins before it sleeps."""
    path = tmp_path / "a.pcapng"
    path.write_bytes(samples.capture(100))
    code = "import os; from kwire.cli.main import main; main(); print(len(os.listdir('/proc/self/task')))"
    environment = {name: value for name, value in os.environ.items() if "NUM_THREADS" not in name}
    words = [sys.executable, "-c", code, "stats", "--json", str(path)]
    run = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert run.stdout.splitlines()[-1] == "1", run.stderr


HUGE = """
import sys
from kwire.cli.main import main
main()
parts = open("/proc/self/smaps").read().split("VmFlags: ")
flags = [after.splitlines()[0].split() for before, after in zip(parts, parts[1:]) if "[heap]" in before]
print(sum("hg" in one for one in flags))
"""


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists() or platform.libc_ver()[0] != "glibc",
    reason="there are no huge pages for a heap, or malloc has no parameters",
)
@pytest.mark.native
def test_the_heap_of_who_reads_a_capture_lies_in_huge_pages(tmp_path: Path) -> None:
    """Its first pages, which Python has filled by then, may lie in others."""
    path = tmp_path / "a.pcapng"
    path.write_bytes(samples.capture(100))
    words = [sys.executable, "-c", HUGE, "verify", "--json", str(path)]
    run = subprocess.run(words, capture_output=True, text=True)
    assert run.stdout.splitlines()[-1] == "1", run.stderr
