"""Runs kwire with a clock at the borders of its stages: `stages.py FILE START VERB …`, for `start.py`.

START: the moment at which the process was started, ns of the monotonic clock. FILE is given what each stage
took: a line each of name, ns until the command of `-c` ran, ns in all; then the moment of the end. FILE.child
is given the same of the process that plans beside kwire, from its fork to its answer. A moment belongs to the
innermost stage that has begun and not ended; modules that are imported are stages of their own, by room.
Nothing is imported here that Python has not loaded by itself: kwire's account would miss it.
"""

import os
import sys
import time

del sys.path[0]  # this folder: kwire does not look for modules here
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

STAGES = (
    ("arguments", "kwire.cli.main", "_parse"),
    ("fork of the command", "kwire.live.command", "Command.__init__"),
    ("waiting for the plan", "kwire.live.plan_process", "Planning.plan"),
    ("the other process's end", "kwire.live.plan_process", "Planning.close"),
    ("waiting for the question", "kwire.live.plan_process", "_question"),
    ("types of the kernel", "kwire.live.planner", "load_kernel"),
    ("names and types", "kwire.live.planner", "Planner.add"),
    ("plan", "kwire.live.planner", "Planner.plan"),
    ("code", "kwire.live.planner", "compile_probe"),
    ("maps", "kwire.live.tracer", "Tracer._create_maps"),
    ("programs that follow processes", "kwire.live.tracer", "Follow"),
    ("load and verify", "kwire.live.tracer", "Tracer._load"),
    ("attach", "kwire.live.tracer", "Tracer._attach"),
    ("capture opened", "kwire.cli.tracing", "open_writer"),
    ("start of the command", "kwire.live.command", "Command.go"),
    ("capture takes its place", "kwire.capture.writer", "Writer.publish"),
    ("privileges given up", "kwire.kernel.privileges", "drop"),
    ("recording", "kwire.live.recorder", "Recorder.run"),
    ("detach", "kwire.live.tracer", "Tracer.detach"),
    ("end of the capture", "kwire.capture.writer", "Writer.close"),
    ("kernel's objects closed", "kwire.live.tracer", "Tracer.close"),
)
"""What a stage is called, and the function whose time it is."""

PYTHON, REST, END, GO = "start of Python", "everything else", "end of Python", "start of the command"


class Clock:
    """Where time goes."""

    def __init__(self, start: int) -> None:
        self._last = time.monotonic_ns()
        self.spent = {PYTHON: self._last - start}
        self.until_command: dict[str, int] = {}
        self._open = [REST]

    def begin(self, stage: str) -> None:
        self._mark()
        self._open.append(stage)

    def end(self) -> None:
        self._mark()
        if self._open.pop() == GO:
            self.until_command = dict(self.spent)

    def _mark(self) -> None:
        now = time.monotonic_ns()
        stage = self._open[-1]
        self.spent[stage] = self.spent.get(stage, 0) + now - self._last
        self._last = now

    def watched(self, stage: str, call: "Callable[..., Any]") -> "Callable[..., Any]":
        def timed(*args: "Any", **named: "Any") -> "Any":
            self.begin(stage)
            try:
                return call(*args, **named)
            finally:
                self.end()

        return timed


def watch(clock: Clock, file: str) -> None:
    """Put the clock around imports, and around each stage once its module is there."""
    importer: Any = sys.modules["_frozen_importlib"]
    import_module = importer._find_and_load
    waiting = list(STAGES)

    def load(name: str, import_: "Any") -> "Any":
        room, _, rest = name.partition(".")
        concern = rest.partition(".")[0] if room == "kwire" else "libraries"
        clock.begin(f"import of {concern or room}")
        try:
            module = import_module(name, import_)
        finally:
            clock.end()
        for stage in [stage for stage in waiting if stage[1] == name]:
            waiting.remove(stage)
            holder, _, function = stage[2].rpartition(".")
            owner = getattr(module, holder) if holder else module
            setattr(owner, function, clock.watched(stage[0], getattr(owner, function)))
        if name == "kwire.live.plan_process":
            watch_child(clock, module, file)
        return module

    importer._find_and_load = load


def watch_child(clock: Clock, module: "Any", file: str) -> None:
    """Have the process that plans tell its stages, from the fork to its end, in FILE.child."""
    work = module._work

    def forked(*args: "Any") -> None:
        clock.begin(REST)
        clock.spent.clear()
        leave: Any = os._exit

        def left(status: int) -> None:
            clock.begin(END)
            write(clock, f"{file}.child")
            leave(status)

        os._exit = left  # type: ignore[assignment]  # it comes back, and so the stages are told
        work(*args)

    module._work = forked


def write(clock: Clock, file: str) -> None:
    """Write the account of a process."""
    with open(file, "w") as out:
        for stage, spent in clock.spent.items():
            out.write(f"{stage}\t{clock.until_command.get(stage, 0)}\t{spent}\n")
        out.write(f"{END}\t0\t{time.monotonic_ns()}\n")


def main() -> int:
    """Be kwire with the arguments behind FILE and START."""
    file, start, *arguments = sys.argv[1:]
    clock = Clock(int(start))
    watch(clock, file)
    sys.argv = ["kwire", *arguments]
    from kwire.__main__ import main as kwire

    status = kwire()
    clock.begin(END)
    write(clock, file)
    return status


raise SystemExit(main())
