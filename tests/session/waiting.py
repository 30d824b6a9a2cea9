"""Waiting for what happens in other processes, or in turns of a loop, however slow the machine is."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

# Seconds; less than a test may take, so that what did not happen is told by name.
PATIENCE = 800.0 if "VM_SHARE" in os.environ else 200.0


def nap() -> None:
    time.sleep(0.02)


def until(
    condition: Callable[[], object], why: Callable[[], str] = str, turn: Callable[[], object] = nap
) -> None:
    """Wait until something holds, taking a `turn` in between; `why` says what is known where it does not."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"it did not happen in {PATIENCE:g} s: {why()}"
        turn()
