"""A wildcard over many functions: how long a trace takes to attach and to detach, and what the bare system
call (kprobe.multi) takes for the same functions: one call for names, one for the addresses of names that
several functions have.

Run in a guest: `python tests/vm/run.py --kernel 6.12 -- .venv/bin/python bench/attach.py [--count N]`.
The wildcard is the one, of a letter or two and `*`, that has nearly so many functions. Best of the rounds,
in turns; then what a whole run of the command takes that does nothing else.
"""

import argparse
import contextlib
import os
import subprocess
import time
from collections import Counter
from collections.abc import Iterator

from common import KWIRE, mount_tracefs, table

from kwire.kernel import attach
from kwire.kernel.prog import Prog
from kwire.lang.bpftrace.reader import read
from kwire.live.plan import Plan
from kwire.live.processes import Processes
from kwire.live.scripts import plan_script
from kwire.live.tracer import Tracer

FUNCTIONS = "/sys/kernel/tracing/available_filter_functions"


def wildcard(count: int) -> str:
    """The wildcard that has nearly so many functions."""
    with open(FUNCTIONS) as file:
        names = {line.split()[0] for line in file if "[" not in line}
    found = Counter(name[:length] for name in names for length in (1, 2))
    return min(found, key=lambda start: (abs(found[start] - count), start)) + "*"


@contextlib.contextmanager
def timed(into: list[float]) -> Iterator[None]:
    """Add the ms that the body takes."""
    start = time.perf_counter()
    yield
    into.append((time.perf_counter() - start) * 1e3)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    mount_tracefs()
    pattern = wildcard(args.count)
    script = f"kprobe:{pattern} {{ @ = count(); }}"
    spent: dict[str, list[float]] = {
        name: [] for name in ("plan", "load", "attach", "call", "detach", "close of the call", "command")
    }
    points = 0
    for _ in range(args.rounds):
        with timed(spent["plan"]):
            plan: Plan = plan_script(read("x", script)).plan
        points = sum(len(group.points) for group in plan.groups)
        with timed(spent["load"]):
            tracer = Tracer(plan)
        with tracer:
            tracer.follow(Processes((), None))
            with timed(spent["attach"]):
                tracer.attach()
            with timed(spent["detach"]):
                tracer.detach()
            points_of = (point.target for group in plan.groups for point in group.points)
            targets: dict[type, list[tuple[str | int, int]]] = {}
            for one in points_of:
                if isinstance(one, (str, int)):
                    targets.setdefault(type(one), []).append((one, 0))
            program: Prog = tracer.programs()[0][1]
            with timed(spent["call"]):
                links = [attach.attach_multi(program, some) for some in targets.values()]
            with timed(spent["close of the call"]):
                for link in links:
                    link.close()
        command = [KWIRE, "-e", script + " BEGIN { exit(); }", "-q"]
        with timed(spent["command"]):
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env={**os.environ})
    print(f"kprobe:{pattern}, {points} functions, best of {args.rounds}, ms")
    print(table([*spent], [[f"{min(ms):.0f}" for ms in spent.values()]]))
    parts = [min(spent[a]) / min(spent[b]) for a, b in (("attach", "call"), ("detach", "close of the call"))]
    print(f"\nattach takes {parts[0]:.2f} of what the call takes, detach {parts[1]:.2f}")


if __name__ == "__main__":
    main()
