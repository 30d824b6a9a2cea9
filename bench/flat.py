"""The recorder's memory over a long recording: resident set by events recorded.

Run as root: `.venv/bin/python bench/flat.py [CALLS]` (default 100 million; the file is thrown away as it is
written, through a pipe, so no disk is needed).
"""

import subprocess
import sys
import time
from pathlib import Path

from common import KWIRE, build_load, table, workspace

EVENT = "tracepoint:syscalls:sys_enter_getppid"


def resident(pid: int) -> float:
    """Resident set of a process in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def main() -> None:
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000_000
    rows = []
    with workspace() as folder, (folder / "summary").open("w+") as summary:
        load = build_load(folder)
        command = [KWIRE, "record", EVENT, "-c", f"{load} {calls}", "-w", "/dev/null", "--json"]
        recorder = subprocess.Popen(command, stdout=summary, stderr=subprocess.DEVNULL)
        start = time.monotonic()
        while recorder.poll() is None:
            rows.append([f"{time.monotonic() - start:.0f}", f"{resident(recorder.pid):.1f}"])
            time.sleep(max(1.0, calls / 3e7))
        summary.seek(0)
        print(table(["seconds", "resident MB"], rows))
        print(summary.read().strip())


if __name__ == "__main__":
    main()
