"""Scripts beside bpftrace: how soon they begin and end, what printing and counting cost.

Run as root: `.venv/bin/python bench/scripts.py [--rounds N]`. With `--guest` it runs what needs kprobes:
`python tests/vm/run.py --kernel 6.12 -- .venv/bin/python bench/scripts.py --guest`. Tools take turns; times
are the best and the median of the rounds, memory is the most. Counting: what each call of getppid takes more
than without a probe. Printing: a million lines a second to a file; lost ones are those that are not in it.
"""

import argparse
import compileall
import os
import re
import statistics
import subprocess
import time
from pathlib import Path

from common import HERE, KWIRE, bpftrace_environment, build_load, mount_tracefs, speed, table, workspace

GETPPID = "tracepoint:syscalls:sys_enter_getppid /pid == cpid/"
STARTS = {
    "BEGIN { exit(); }": ["-e", "BEGIN { exit(); }"],
    "a tracepoint, -c true": [
        "-e",
        'tracepoint:syscalls:sys_enter_getppid { printf("x\\n"); }',
        "-c",
        "/bin/true",
    ],
}
CONNECT = """kprobe:tcp_connect {
    $sk = (struct sock *)arg0;
    printf("%s %d %d\\n", comm, $sk->__sk_common.skc_dport, $sk->__sk_common.skc_family);
} BEGIN { exit(); }"""
IN_GUEST = {"BEGIN { exit(); }": ["-e", "BEGIN { exit(); }"], "a kprobe with members": ["-e", CONNECT]}
PRINTED = GETPPID + ' { printf("%d %s %d\\n", pid, comm, tid); }'
COUNTED = GETPPID + " { @[pid] = count(); }"
CALLS, RATE = 3_000_000, 1_000_000


def tools(folder: Path) -> dict[str, tuple[str, dict[str, str]]]:
    """What is measured: the program, and its environment."""
    ours = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {"kwire": (KWIRE, ours), "bpftrace": ("bpftrace", bpftrace_environment(folder))}


def run(program: str, words: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """ms, and MB at the most."""
    start = time.perf_counter()
    with subprocess.Popen(
        [program, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
    ) as child:
        assert child.stderr is not None
        said = child.stderr.read().decode()
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{program} {' '.join(words)}: exit status {child.returncode}\n{said}")
    return (time.perf_counter() - start) * 1e3, used.ru_maxrss / 1024


def starts(folder: Path, scripts: dict[str, list[str]], rounds: int) -> list[list[str]]:
    """Lines of how long whole runs take."""
    rows = []
    for name, words in scripts.items():
        runs: dict[str, list[tuple[float, float]]] = {tool: [] for tool in tools(folder)}
        for _ in range(rounds):
            for tool, (program, environment) in tools(folder).items():
                runs[tool].append(run(program, words, environment))
        best = {tool: min(ms for ms, _ in found) for tool, found in runs.items()}
        for tool, found in runs.items():
            times = [ms for ms, _ in found]
            part = f"{best[tool] / best['bpftrace']:.2f}"
            taken = f"{best[tool]:.0f} / {statistics.median(times):.0f}"
            rows.append([name, tool, taken, part, f"{max(mb for _, mb in found):.0f}"])
    return rows


def loaded(folder: Path, tool: str, text: str, *words: str) -> tuple[str, str]:
    """What a script of a tool prints to a file, and what is said beside it, while the load runs."""
    program, environment = tools(folder)[tool]
    out = folder / "out"
    command = [program, "-e", text, "-o", str(out), "-c", " ".join((str(folder / "load"), *words))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return out.read_text(), done.stderr


def counting(folder: Path, rounds: int) -> list[list[str]]:
    """Lines of what an event costs that is counted in a map."""
    best = dict.fromkeys(("nothing", *tools(folder)), 0.0)
    for _ in range(rounds):
        plain = subprocess.run([folder / "load", str(CALLS)], capture_output=True, text=True, check=True)
        best["nothing"] = max(best["nothing"], speed(plain.stderr))
        for tool in tools(folder):
            text, said = loaded(folder, tool, COUNTED, str(CALLS))
            counted = re.search(rf"@\[\d+\]: {CALLS}\b", text)
            assert counted, f"{tool} counted {text.strip()}"
            best[tool] = max(best[tool], speed(said))
    none = 1e3 / best["nothing"]
    return [
        [tool, f"{millions:.2f}", f"{1e3 / millions - none:.0f}"]
        for tool, millions in best.items()
        if tool != "nothing"
    ]


def printing(folder: Path, rounds: int) -> list[list[str]]:
    """Lines of what becomes of lines that are printed, a million a second."""
    rows = []
    for tool in tools(folder):
        lost, rates = [], []
        for _ in range(rounds if tool == "kwire" else 1):
            text, said = loaded(folder, tool, PRINTED, str(CALLS), str(RATE))
            lost.append(CALLS - len(re.findall(r"^\d+ load \d+$", text, re.M)))
            rates.append(speed(said))
        rows.append([tool, f"{max(rates):.2f}", *(f"{n:,}" for n in (min(lost), max(lost)))])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--guest", action="store_true")
    args = parser.parse_args()
    mount_tracefs()
    compileall.compile_dir(HERE.parent / "src", quiet=2)
    with workspace() as folder:
        head = ["script", "tool", "whole run, ms: best / median", "of bpftrace's", "peak MB"]
        print(table(head, starts(folder, IN_GUEST if args.guest else STARTS, args.rounds)))
        if args.guest:
            return
        build_load(folder)
        print()
        print(table(["counting", "million calls/s", "ns an event"], counting(folder, args.rounds)))
        print()
        print(
            table(["printing", "million calls/s", "lost, least", "most"], printing(folder, args.rounds // 2))
        )


if __name__ == "__main__":
    main()
