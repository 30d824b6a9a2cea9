"""What a process of ours does with its signals."""

import signal
import subprocess
import sys

import pytest

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
    time.sleep(60)
    return 0

sys.exit(process.run(work))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_python_cleans_up_ends_us_without_a_word(number: signal.Signals) -> None:
    command = [sys.executable, "-c", CLEANING, str(int(number))]
    run = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert run.stderr == ""
    assert run.returncode == (130 if number == signal.SIGINT else -number)
