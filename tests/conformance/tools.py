"""What becomes of the tools that others wrote in the bpftrace language, and of our own: each is read,
compiled, judged by the kernel's verifier, and with `--run` run beside what triggers it (triggers.py), here or
in a guest.

    python tests/conformance/tools.py /usr/sbin/*.bt
    python tests/conformance/tools.py --run --ours /usr/sbin/opensnoop.bt
    python tests/vm/run.py --kernel 6.1 --timeout 3000 -- .venv/bin/python tests/conformance/tools.py \\
        --run --warm --beside bpftrace --own /usr/sbin/*.bt CHECKOUT/tools

A line a tool:

    equal       it printed what it should, and the program of `--beside`, run at once, printed the same
    prints      it printed what it should (`--run`)
    loads       the verifier takes it
    not here    the kernel lacks a function, an event or a member that the tool names
    differs     the two programs, run at once, do not agree
    fails       none of these, with the reason

A folder stands for the tools in it. `--own` adds `kwire tools`. Exit status: 0 where nothing fails or
differs.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from triggers import MODULES, OWN, TRIGGERS, Trigger, words
from warm import Warm

from kwire.cli.main import main as kwire

KWIRE = (sys.executable, "-m", "kwire.cli.main")
ATTACHED = "__BPFTRACE_NOTIFY_PROBES_ATTACHED"
NOT_HERE = re.compile(
    r"this kernel has no|no (?:function|tracepoint) matches|no module \w+ is loaded|has no member|"
    r"there is no function|it has no such function|no such (?:file|program)|no file|the kernel has no symbol|"
    r"the kernel allows no probe there|not traceable"
)
"""What is said of what a kernel, or this machine, has not."""

WAITING = ("sh", "-c", 'read go; exec "$@"', "sh")
"""What a trigger waits in until the tool is attached: a line, then it is the trigger."""

FILE_SYSTEMS = (("tracefs", "/sys/kernel/tracing"), ("debugfs", "/sys/kernel/debug"))
"""What other programs want to find mounted in a guest."""

SETTLE = 10.0
"""Seconds for what a tool prints from time to time, before it is asked to end."""

GOOD = ("equal", "prints", "loads", "not here")


class Outcome(NamedTuple):
    """What became of a tool: a word of the head of this file, why, and what it printed."""

    word: str
    why: str = ""
    text: str = ""


class Running:
    """A program that runs a tool, and what it has printed, errors too."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._out = tempfile.TemporaryFile("w+b")  # noqa: SIM115  # until the end
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment, ATTACHED: "1"},
            start_new_session=True,
        )

    @property
    def text(self) -> str:
        """What it printed."""
        os.lseek(self._out.fileno(), 0, os.SEEK_SET)
        data = b""
        while chunk := os.read(self._out.fileno(), 1 << 16):
            data += chunk
        return data.decode("utf-8", "backslashreplace")

    @property
    def lives(self) -> bool:
        """Whether it runs still."""
        return self._process.poll() is None

    @property
    def attached(self) -> bool:
        """Whether all its probes are attached."""
        return ATTACHED in self.text

    def end(self, seconds: float) -> str:
        """Ask it to end, for what it holds is printed then; what it printed."""
        if self.lives:
            os.kill(self._process.pid, signal.SIGINT)
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        text = self.text
        self._out.close()
        return text


def loads(path: str) -> Outcome:
    """What the reader, the compiler and the verifier say of a tool."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        status = kwire(["--dry-run", "--unsafe", path])
    return Outcome("loads") if not status else judged(said.getvalue())


def judged(text: str, trigger: Trigger | None = None) -> Outcome:
    """What it means that a tool said this: that the kernel lacks something, or that it fails."""
    lines = text.splitlines()
    if trigger is not None and ATTACHED in lines:
        without = [one for one in lines if "left out" in one and NOT_HERE.search(one)]
        if without:
            return Outcome("not here", "; ".join(without), text)
        return Outcome("fails", f"it does not print {trigger.expected!r}", text)
    found = [re.sub(r"^.*ERROR: ", "", one) for one in lines if "ERROR: " in one]
    found = found or [one for one in lines if one.startswith("kwire: ")] or lines[-1:]
    # What else is wrong then may follow: a map that no probe fills has no type.
    missing = any(NOT_HERE.search(one) for one in found)
    why = "; ".join(dict.fromkeys(found)) or "it says nothing"
    return Outcome("not here" if missing else "fails", why, text)


def run(
    commands: Sequence[Sequence[str]],
    trigger: Trigger,
    seconds: float,
    *,
    settle: float = 0.0,
    ours: bool = False,
    environment: Mapping[str, str] | None = None,
) -> list[str]:
    """What each of these programs prints of one run of the trigger, once all that live are attached.

    `settle`: seconds for what is printed from time to time; `ours`: programs look at their trigger only, -p.
    """
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        [*WAITING, *words(trigger)], stdin=subprocess.PIPE, stdout=quiet, stderr=quiet
    ) as waiting:
        chosen = ["-p", str(waiting.pid)] if ours else []
        tools = [Running([*command, *chosen], environment or {}) for command in commands]
        until = time.monotonic() + seconds
        while not all(one.attached or not one.lives for one in tools) and time.monotonic() < until:
            time.sleep(0.05)
        if any(one.lives for one in tools):
            with contextlib.suppress(subprocess.TimeoutExpired):
                waiting.communicate(b"\n", timeout=seconds)
        waiting.kill()
        done = time.monotonic()
        while time.monotonic() < done + settle:
            if all(re.search(trigger.expected, one.text, re.M) or not one.lives for one in tools):
                break
            time.sleep(0.05)
        return [one.end(seconds) for one in tools]


def compared(trigger: Trigger, text: str, other: str) -> str:
    """In what two programs that ran a tool at once do not agree; empty where they do."""
    if not trigger.same:
        return ""
    found = [
        sorted(
            "".join(one) if isinstance(one, tuple) else one for one in re.findall(trigger.same, said, re.M)
        )
        for said in (text, other)
    ]
    if trigger.sums:
        found = [[str(sum(map(int, one)))] for one in found]
    if found[0] == found[1]:
        return "" if found[0] else f"nothing matches {trigger.same!r}"
    ours, theirs = Counter(found[0]), Counter(found[1])
    return f"only here: {[*(ours - theirs).elements()]}; only there: {[*(theirs - ours).elements()]}"


def judge(trigger: Trigger, texts: Sequence[str], other: str) -> Outcome:
    """What it means that a tool printed the first text, and in the program `other` the second one."""
    printed = [bool(re.search(trigger.expected, text, re.M)) for text in texts]
    outcome = Outcome("prints", "", texts[0]) if printed[0] else judged(texts[0], trigger)
    if not other:
        return outcome
    text = f"{texts[0]}\n--- {other}:\n{texts[1]}"
    if not all(printed):
        does = "prints what it should" if printed[1] else "does not run it, or prints nothing of it"
        worse = "fails" if printed[1] else outcome.word
        return Outcome(worse, f"{outcome.why}{'; ' if outcome.why else ''}{other} {does}", text)
    apart = compared(trigger, *texts)
    if apart:
        return Outcome("differs", apart, text)
    return Outcome("equal" if trigger.same else "prints", "" if trigger.same else f"as {other} does", text)


def files(places: Sequence[Path]) -> Iterator[Path]:
    """The tools in these files and folders."""
    for place in places:
        yield from sorted(place.glob("*.bt")) if place.is_dir() else [place]


def of_others(path: Path, program: Sequence[str], args: argparse.Namespace) -> Outcome:
    """What becomes of a tool of others."""
    trigger = TRIGGERS.get(path.name)
    if trigger is None or not args.run:
        return loads(str(path))
    programs = [program, [args.beside]] if args.beside else [program]
    settle = SETTLE if "interval:" in path.read_text() else 0.0
    commands = [[*one, str(path)] for one in programs]
    texts = run(commands, trigger, args.seconds, settle=settle, ours=args.ours)
    return judge(trigger, texts, args.beside or "")


def of_ours(name: str, program: Sequence[str], seconds: float) -> Outcome:
    """What becomes of `kwire tools NAME`, which starts its trigger itself and ends with it."""
    command = [*program, "tools", *name.split(), "--no-command-status", "--", *words(OWN[name])]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return Outcome("fails", f"it does not end in {seconds:g} s")
    return judge(OWN[name], [done.stdout + done.stderr], "")


def outcomes(program: Sequence[str], args: argparse.Namespace) -> Iterator[tuple[str, Outcome]]:
    """The names of tools, and what becomes of each."""
    for path in files(args.tools):
        if re.search(args.only, path.name):
            yield path.name, of_others(path, program, args)
    for name in OWN if args.own else ():
        if re.search(args.only, f"tools {name}"):
            yield f"tools {name}", of_ours(name, program, args.seconds)


def main() -> int:
    """A line a tool, and the sums."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("tools", nargs="*", type=Path, help="files, and folders of them")
    parser.add_argument("--own", action="store_true", help="`kwire tools` beside what triggers them, too")
    parser.add_argument("--run", action="store_true", help="run those that load beside what triggers them")
    parser.add_argument("--only", metavar="REGEX", default="", help="those in whose name this is found")
    parser.add_argument("--ours", action="store_true", help="with --run: attach to the trigger only, -p")
    parser.add_argument("--beside", metavar="PROGRAM", help="with --run: another program that runs them, too")
    parser.add_argument("--warm", action="store_true", help="fork command lines from one process (warm.py)")
    parser.add_argument("--seconds", type=float, default=120.0, help="how long one may take")
    parser.add_argument("-v", "--verbose", action="store_true", help="show what tools print")
    args = parser.parse_args()
    if "VM_SHARE" in os.environ:
        for module in MODULES:
            subprocess.run(["modprobe", module], check=False)
        for kind, place in FILE_SYSTEMS:
            if not os.path.ismount(place):
                subprocess.run(["mount", "-t", kind, kind, place], check=False)
    sums: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        program: Sequence[str] = KWIRE
        if args.warm:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            program = [str(stack.enter_context(contextlib.closing(Warm(folder))).program)]
        for name, outcome in outcomes(program, args):
            sums[outcome.word] += 1
            print(f"{name}: {outcome.word}{outcome.why and ': '}{outcome.why}", flush=True)
            shown = outcome.text.splitlines()[-60:] if args.verbose else []
            print("".join(f"    {one}\n" for one in shown), end="", flush=True)
    print(", ".join(f"{count} {word}" for word, count in sorted(sums.items())))
    return 0 if all(word in GOOD for word in sums) else 1


if __name__ == "__main__":
    raise SystemExit(main())
