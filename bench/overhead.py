"""One process calls getppid as fast as it can: what tracing every call costs it, and what arrives.

Run as root: `.venv/bin/python bench/overhead.py [CALLS]`. Each tool traces the same load in turn, three
rounds; the best and the median are shown. perf and bpftrace are left out where they are not installed.
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path

from common import KWIRE, bpftrace_environment, build_load, have, mount_tracefs, speed, table, workspace

EVENT = "syscalls:sys_enter_getppid"
ROUNDS = 3


def bare(load: Path, calls: int, folder: Path) -> tuple[float, int, int]:
    """The load alone: (speed in million calls a second, events, bytes)."""
    run = subprocess.run([load, str(calls)], capture_output=True, text=True, check=True)
    return speed(run.stderr), 0, 0


def kwire(load: Path, calls: int, folder: Path) -> tuple[float, int, int]:
    """Every call recorded by kwire."""
    file = folder / "k.pcapng"
    command = [KWIRE, "record", f"tracepoint:{EVENT}", "-c", f"{load} {calls}", "-w", str(file), "--json"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode not in (0, 3):  # 3: events were lost, as the table shows
        raise SystemExit(run.stderr)
    summary = json.loads(run.stdout.strip().splitlines()[-1])
    return speed(run.stderr), summary["events"], file.stat().st_size


def perf(load: Path, calls: int, folder: Path) -> tuple[float, int, int]:
    """Every call recorded by perf, with a generous buffer."""
    file = folder / "p.data"
    command = ["perf", "record", "-q", "-e", EVENT, "-m", "4096", "-o", str(file), str(load), str(calls)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    report = subprocess.run(
        ["perf", "report", "-i", file, "--stats"], capture_output=True, text=True, check=True
    ).stdout
    events = next((int(line.split()[2]) for line in report.splitlines() if "SAMPLE events" in line), 0)
    return speed(run.stderr), events, file.stat().st_size


def bpftrace(load: Path, calls: int, folder: Path) -> tuple[float, int, int]:
    """Every call printed by bpftrace to a file."""
    file = folder / "b.txt"
    program = f'tracepoint:{EVENT} /pid == cpid/ {{ printf("%lld %d %d %s\\n", nsecs, pid, tid, comm); }}'
    with file.open("wb") as out:
        run = subprocess.run(
            ["bpftrace", "-e", program, "-c", f"{load} {calls}"],
            stdout=out,
            stderr=subprocess.PIPE,
            env=bpftrace_environment(folder),
            check=True,
        )
    lines = file.read_bytes().splitlines()
    return speed(run.stderr.decode()), sum(line[:1].isdigit() for line in lines), file.stat().st_size


def main() -> None:
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 3_000_000
    mount_tracefs()
    peers = [bare, kwire] + [peer for peer in (perf, bpftrace) if have(peer.__name__)]
    results: dict[str, list[tuple[float, int, int]]] = {peer.__name__: [] for peer in peers}
    with workspace() as folder:
        load = build_load(folder)
        for _ in range(ROUNDS):
            for peer in peers:
                results[peer.__name__].append(peer(load, calls, folder))
    rows = []
    for name, rounds in results.items():
        fastest, events, size = max(rounds)
        median = statistics.median(round_[0] for round_ in rounds)
        arrived = "" if name == "bare" else f"{events:,} ({100 * events / calls:.1f} %)"
        rows.append(
            [name, f"{fastest:.2f}", f"{median:.2f}", arrived, f"{size / events:.1f}" if events else ""]
        )
    head = ["", "million calls/s (best)", "(median)", "events that arrived", "bytes an event"]
    print(table(head, rows))


if __name__ == "__main__":
    main()
