"""Does things to a lake in processes that die at a given step, as by kill -9: run as a program.

A line of standard input is a JSON list: at which step (a call that opens, names or removes a file) the
process is gone, `add` or `compact`, the lake, and for `add` a capture. The answer is a line: how the process
ended, 9 where it died. Each process is a fork of this one, in which no thread was ever begun.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any

import numpy  # noqa: F401
import pyarrow.parquet  # noqa: F401

from kwire.analyze.capture_summary import CaptureSummary
from kwire.analyze.source import Source
from kwire.lake.add import add
from kwire.lake.compact import compact
from kwire.lake.directory import Lake

STEPS = ("os.", "shutil.", "fcntl.", "ctypes.")


def do(at: int, what: str, lake: str, capture: str = "") -> None:
    """Do it, and die at that step."""
    steps = 0

    def hook(event: str, _: Any) -> None:
        nonlocal steps
        if event.startswith(STEPS) or event == "open":
            steps += 1
            if steps == at:
                os._exit(9)

    sys.addaudithook(hook)
    if what == "compact":
        compact(Lake(lake))
        return
    with Source(capture) as source:
        add(Lake(lake, make=True), source, CaptureSummary(source))


def main() -> None:
    """Answer line by line."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            try:
                do(*json.loads(line))
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
