"""What tests start can be ended by signals, however the run itself was started."""

from __future__ import annotations

import os
import subprocess
import sys

SHOWN = """
import signal
print(*(signal.getsignal(getattr(signal, name)).__name__ if name == "SIGINT" else
        signal.getsignal(getattr(signal, name)).name for name in ("SIGINT", "SIGHUP", "SIGQUIT", "SIGTERM")))
"""


def test_what_is_started_has_the_default_effects() -> None:
    shown = subprocess.run([sys.executable, "-c", SHOWN], capture_output=True, text=True, check=True).stdout
    assert shown.split() == ["default_int_handler", "SIG_DFL", "SIG_DFL", "SIG_DFL"]


def test_a_run_that_ignores_them_gives_them_to_what_it_starts() -> None:
    own = f"{__file__}::test_what_is_started_has_the_default_effects"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", own]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    run = subprocess.run(
        ["sh", "-c", "trap '' INT HUP QUIT TERM; exec \"$@\"", "sh", *command],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert (run.returncode, "1 passed" in run.stdout) == (0, True), run.stdout + run.stderr
