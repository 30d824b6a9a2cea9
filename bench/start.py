"""From the start of the tool to its traced command running with the probe attached, and peak memory.

Run as root: `.venv/bin/python bench/start.py`. Best and median of seven runs each, tools taking turns.
"""

import statistics
import subprocess
import time
from pathlib import Path

from common import KWIRE, bpftrace_environment, have, mount_tracefs, table, workspace

EVENT = "syscalls:sys_enter_getppid"
ROUNDS = 7


def measure(command: list[str], stamp: Path, environment: dict[str, str] | None) -> tuple[float, float]:
    """Run once: (milliseconds until the command ran, peak memory in MB)."""
    start = time.time_ns()
    run = subprocess.run(
        ["/usr/bin/time", "-f", "peak %M", *command],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    peak = next(int(line.split()[1]) for line in run.stderr.splitlines() if line.startswith("peak "))
    return (int(stamp.read_text()) - start) / 1e6, peak / 1024


def main() -> None:
    mount_tracefs()
    with workspace() as folder:
        stamp = folder / "stamp"
        script = folder / "note.sh"
        script.write_text(f"#!/bin/sh\ndate +%s%N >{stamp}\n")
        script.chmod(0o755)
        output = str(folder / "out")
        tools: dict[str, tuple[list[str], dict[str, str] | None]] = {
            "kwire": ([KWIRE, "record", f"tracepoint:{EVENT}", "-c", str(script), "-w", output], None)
        }
        if have("perf"):
            tools["perf"] = (["perf", "record", "-q", "-e", EVENT, "-o", output, str(script)], None)
        if have("bpftrace"):
            program = f"tracepoint:{EVENT} /pid == cpid/ {{ @ = count(); }}"
            environment = bpftrace_environment(folder)
            tools["bpftrace"] = (["bpftrace", "-e", program, "-c", f"/bin/sh {script}"], environment)
        results: dict[str, list[tuple[float, float]]] = {name: [] for name in tools}
        for _ in range(ROUNDS):
            for name, (command, environment_) in tools.items():
                results[name].append(measure(command, stamp, environment_))
    rows = [
        [
            name,
            f"{min(ms for ms, _ in runs):.0f}",
            f"{statistics.median(ms for ms, _ in runs):.0f}",
            f"{max(mb for _, mb in runs):.0f}",
        ]
        for name, runs in results.items()
    ]
    print(table(["", "ms to tracing (best)", "(median)", "peak MB"], rows))


if __name__ == "__main__":
    main()
