"""From the start of the tool to its traced command running with the probe attached; the whole run; peak
memory; and where each millisecond of it goes.

Run as root: `.venv/bin/python bench/start.py [--rounds N] [--probe SPEC]`. Tools take turns. "To tracing" is
from the start of the tool to the first instruction of its command, "whole" to the tool's own end; "CPU" is
the processor time of both and of what they started. Then kwire's stages, in their order: the least that each
took in any run (`stages.py`); modules that are imported are stages of their own, by room. `--probe`
measures kwire alone, with another probe.
"""

import argparse
import compileall
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from common import HERE, KWIRE, bpftrace_environment, have, mount_tracefs, table, workspace

EVENT = "syscalls:sys_enter_getppid"
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


class Run(NamedTuple):
    """One run of a tool, ms and MB."""

    tracing: float
    whole: float
    cpu: float
    peak: float


def run(command: list[str], stamp: Path, environment: dict[str, str]) -> Run:
    """Run once. `stamp`: the file in which the traced command says when it began."""
    stamp.unlink(missing_ok=True)
    start = time.clock_gettime_ns(time.CLOCK_REALTIME)
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
    ) as child:
        assert child.stderr is not None
        said = child.stderr.read()
        _, status, used = os.wait4(child.pid, 0)
        end = time.clock_gettime_ns(time.CLOCK_REALTIME)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(command)}: exit status {child.returncode}\n{said.decode()}")
    return Run(
        (int(stamp.read_text()) - start) / 1e6,
        (end - start) / 1e6,
        (used.ru_utime + used.ru_stime) * 1e3,
        used.ru_maxrss / 1024,
    )


def row(name: str, runs: list[Run]) -> list[str]:
    """A tool's line: best and median of times, the most of memory."""
    *times, peaks = zip(*runs, strict=True)
    return [name, *(f"{min(ms):.0f} / {statistics.median(ms):.0f}" for ms in times), f"{max(peaks):.0f}"]


def version(rounds: int) -> str:
    """How long `kwire --version` takes, and Python that does nothing."""
    tools = {"python3 -c pass": [sys.executable, "-c", "pass"], "kwire --version": [KWIRE, "--version"]}
    taken: dict[str, list[float]] = {name: [] for name in tools}
    for _ in range(rounds):
        for name, command in tools.items():
            start = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, env=ENVIRONMENT, check=True)
            taken[name].append((time.perf_counter() - start) * 1e3)
    return ", ".join(f"{name} {min(ms):.1f} ms" for name, ms in taken.items())


def stages(arguments: list[str], folder: Path, rounds: int) -> list[list[str]]:
    """The lines of kwire's stages, and of the process that plans for it: the least of each, ms, until the
    command ran and after that.
    """
    account = folder / "account"
    child = folder / "account.child"
    before: dict[str, list[float]] = {}
    after: dict[str, list[float]] = {}
    planning: dict[str, list[float]] = {}
    for _ in range(rounds):
        start = time.monotonic_ns()
        command = [sys.executable, str(HERE / "stages.py"), str(account), str(start), *arguments]
        subprocess.run(command, capture_output=True, env=ENVIRONMENT, check=True)
        gone = time.monotonic_ns()
        *lines, end = [line.split("\t") for line in account.read_text().splitlines()]
        for name, first, whole in [*lines, [end[0], "0", str(gone - int(end[2]))]]:
            before.setdefault(name, []).append(int(first) / 1e6)
            after.setdefault(name, []).append((int(whole) - int(first)) / 1e6)
        if child.exists():
            for line in child.read_text().splitlines()[:-1]:
                planning.setdefault(line.split("\t")[0], []).append(int(line.split("\t")[2]) / 1e6)
    rows = [[name, min(before[name]), min(after[name])] for name in before]
    rows.append(["together", sum(min(ms) for ms in before.values()), sum(min(ms) for ms in after.values())])
    rows += [[f"planning: {name}", min(ms), 0.0] for name, ms in planning.items()]
    rows.append(["planning together", sum(min(ms) for ms in planning.values()), 0.0])
    return [[str(name), f"{first:.2f}", f"{then:.2f}"] for name, first, then in rows]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--probe")
    args = parser.parse_args()
    mount_tracefs()
    compileall.compile_dir(HERE.parent / "src", quiet=2)
    with workspace() as folder:
        stamp = folder / "stamp"
        script = folder / "note.sh"
        script.write_text(f"#!/bin/sh\ndate +%s%N >{stamp}\n")
        script.chmod(0o755)
        output = str(folder / "out")
        arguments = ["record", args.probe or f"tracepoint:{EVENT}", "-c", str(script), "-w", output]
        tools = {"kwire": ([KWIRE, *arguments], ENVIRONMENT)}
        if have("perf") and not args.probe:
            tools["perf"] = (["perf", "record", "-q", "-e", EVENT, "-o", output, str(script)], ENVIRONMENT)
        if have("bpftrace") and not args.probe:
            program = f"tracepoint:{EVENT} /pid == cpid/ {{ @ = count(); }}"
            environment = bpftrace_environment(folder)
            tools["bpftrace"] = (["bpftrace", "-e", program, "-c", f"/bin/sh {script}"], environment)
        results: dict[str, list[Run]] = {name: [] for name in tools}
        for _ in range(args.rounds):
            for name, (command, environment) in tools.items():
                results[name].append(run(command, stamp, environment))
        rows = [row(name, all_runs) for name, all_runs in results.items()]
        print(table(["best / median", "to tracing, ms", "whole, ms", "CPU, ms", "peak MB"], rows))
        print()
        print(table(["stage, ms", "until the command runs", "then"], stages(arguments, folder, args.rounds)))
    if not args.probe:
        print()
        print(version(args.rounds))


if __name__ == "__main__":
    main()
