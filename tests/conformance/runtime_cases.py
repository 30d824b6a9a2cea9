"""Run bpftrace's own runtime test cases with kwire, and list what fails.

    python tests/conformance/runtime_cases.py CHECKOUT [--only begin-end|attaching] [--suite NAME]
    python tests/conformance/runtime_cases.py CHECKOUT --warm --results FILE --seconds 400

CHECKOUT is a working copy of bpftrace's repository; nothing of it is kept here. Cases are driven as by its
runner: the same directives, environment, working directory (`tests/`), order of what runs before and after,
and comparisons. The programs of `tests/testprogs` that cases run have to be built there; a case whose
program is missing is skipped, and counted so.

With `--warm` command lines are run by processes forked from one that has imported all (warm.py), which in an
emulated guest takes a fraction of the time. With `--results` each outcome is a line of JSON in a file as soon
as it is known, and cases that stand in it are not run again: so a long run is done in parts (`--seconds`),
and nothing of it is lost. The last line of a case counts; the sums are those of all in the file.

Exit status: 0 where at least `--least` percent of what ran passed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from warm import OWN_NAME, Warm

COLD = re.compile(r"\b(?:unshare|nsenter|ulimit|prlimit|setpriv|capsh|su|sudo|chroot)\b")
"""What changes what a process inherits: a process forked elsewhere would not have it."""
KWIRE = str(Path(sys.executable).parent / "kwire")
ATTACHED = "__BPFTRACE_NOTIFY_PROBES_ATTACHED"
CONTINUED = ("PROG", "EXPECT", "EXPECT_REGEX")
EXPECTS = ("EXPECT", "EXPECT_NONE", "EXPECT_REGEX", "EXPECT_REGEX_NONE", "EXPECT_FILE", "EXPECT_JSON")
EXACT = ("EXPECT_FILE", "EXPECT_JSON")
NOT_SUITES = ("engine", "scripts", "outputs")
ATTACH_SECONDS = 10.0

FEATURES = {
    "loop": "Loop support: yes",
    "libpath_resolv": "bcc library path resolution: yes",
    "signal": "send_signal: yes",
    "dwarf": "libdw (DWARF support): yes",
    "get_tai_ns": "get_ktime_ns: yes",
    "dwunwind": "dwunwind (DWARF stack unwinding): yes",
    "blazesym": "blazesym (advanced symbolization): yes",
}
"""What `--info` says of features that it does not call by the names of the cases."""

PROGRAM = re.compile(r"\./(testprogs/[\w./-]+)(?![\w./*-])")
"""A program that a case names, without wildcards."""

KINDS = (
    *(
        "kprobe",
        "kretprobe",
        "k",
        "kr",
        "tracepoint",
        "t",
        "uprobe",
        "uretprobe",
        "u",
        "ur",
        "usdt",
        "interval",
    ),
    *(
        "i",
        "profile",
        "p",
        "software",
        "s",
        "hardware",
        "h",
        "watchpoint",
        "w",
        "asyncwatchpoint",
        "aw",
        "iter",
    ),
    *(
        "it",
        "rawtracepoint",
        "rt",
        "fentry",
        "fexit",
        "f",
        "fr",
        "kfunc",
        "kretfunc",
        "self",
        "test",
        "bench",
    ),
)
ATTACHING = re.compile(rf"(?:^|[\s,;}}/])(?:{'|'.join(KINDS)}):[\w*/.{{$\"]", re.I)
BEGIN_END = re.compile(r"\b(?:begin|end)\b", re.I)


class Case(NamedTuple):
    """One case: where it stands, and its directives in their order."""

    suite: str
    directives: tuple[tuple[str, str], ...]

    def all(self, *names: str) -> list[str]:
        """What stands behind directives of these names."""
        return [value for name, value in self.directives if name in names]

    def one(self, name: str, default: str = "") -> str:
        """What stands behind the last directive of a name."""
        return ([default, *self.all(name)])[-1]

    @property
    def name(self) -> str:
        """Suite and name, as messages have it."""
        return f"{self.suite}.{self.one('NAME')}"

    @property
    def exact(self) -> bool:
        """Whether all that is printed after attaching is compared."""
        return bool(self.all(*EXACT))

    @property
    def needs_attaching(self) -> bool:
        """Whether it needs more than programs that run once: other probes, other programs, other files."""
        text = self.one("PROG") or self.one("RUN")
        plain = re.sub(r"(?s)//[^\n]*|/\*.*?\*/", " ", text)
        if not self.one("PROG") and not re.search(r"\s-e\s", text):
            return True
        return (
            bool(ATTACHING.search(plain.replace("'", " ")))
            or not BEGIN_END.search(plain)
            or bool(self.all("BEFORE", "AFTER", "SETUP"))
            or "testprogs" in text
            or bool(re.search(r"\s-l\b|--list", text))
        )


class Outcome(NamedTuple):
    """How a case ended: `passed`, `failed` or `skipped`, and why."""

    word: str
    why: str = ""
    output: str = ""


def cases(tests: Path) -> Iterator[Case]:
    """All cases of a checkout."""
    for path in sorted((tests / "runtime").rglob("*")):
        inner = path.relative_to(tests / "runtime")
        if path.is_file() and inner.parts[0] not in NOT_SUITES and not path.name.startswith("."):
            yield from read(path.name, path.read_text())


def read(suite: str, text: str) -> Iterator[Case]:
    """The cases of a file: blocks of directives, lines that go on where the value above began."""
    block: list[tuple[str, str]] = []
    for line in [*text.split("\n"), ""]:
        if line.startswith("#"):
            continue
        if not line:
            if block:
                yield Case(suite, tuple(block))
            block = []
            continue
        last = block[-1][0] if block else ""
        if last in CONTINUED and line[: len(last) + 1].isspace():
            block[-1] = (last, f"{block[-1][1]}\n{line[len(last) + 1 :]}")
            continue
        name, _, value = line.strip().partition(" ")
        block.append((name, value.strip()))


def for_this_machine(case: Case) -> bool:
    """Whether its ARCH is this one."""
    names = {name.strip() for value in case.all("ARCH") for name in value.split("|")}
    here = {platform.machine().lower(), sys.byteorder[0] + "e"}
    wanted = {name for name in names if not name.startswith("!")}
    return (not wanted or bool(wanted & here)) and not {name[1:] for name in names - wanted} & here


@cache
def info() -> str:
    """What kwire says of this machine."""
    run = subprocess.run([KWIRE, "--info"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return run.stdout


def has(feature: str) -> bool:
    """Whether this machine has what a case calls by this name."""
    return FEATURES.get(feature, f"{feature}: yes") in info()


@cache
def symbols() -> str:
    """The kernel's symbols."""
    return Path("/proc/kallsyms").read_text()


def not_here(case: Case, tests: Path) -> str:
    """Why a case cannot run here; nothing where it can."""
    kernel = _version(os.uname().release)
    low, high = case.one("MIN_KERNEL"), case.one("MAX_KERNEL")
    if (low and _version(low) > kernel) or (high and _version(high) < kernel):
        return f"kernel {os.uname().release}"
    for line in case.all("SKIP_IF_ENV_HAS"):
        name, _, value = line.partition("=")
        if os.environ.get(name, "") == value:
            return line
    for line in case.all("REQUIRES"):
        if subprocess.run(line, shell=True, cwd=tests, capture_output=True).returncode:
            return f"requires: {line}"
    for feature in " ".join(case.all("REQUIRES_FEATURE")).split():
        if has(feature.removeprefix("!")) == feature.startswith("!"):
            return f"feature: {feature}"
    symbol = re.search(r'percpu_kaddr\("(\w+)"', case.one("PROG"))
    if symbol and f" {symbol[1]}\n" not in symbols():
        return f"this kernel does not tell where {symbol[1]} is"
    for program in PROGRAM.findall(" ".join(value for _, value in case.directives)):
        if not (tests / program).exists():
            return f"not built: {program}"
    return ""


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def command(case: Case, warm: str = "") -> str:
    """The command line of a case; `warm`: the program in the place of ours, where the case can do with it."""
    program = warm if warm and not case.all("NEW_PIDNS") and not COLD.search(case.one("RUN")) else KWIRE
    if case.one("RUN"):
        return case.one("RUN").replace("{{BPFTRACE}}", program)
    options = "-q -f json " if case.all(*EXPECTS) and case.all("EXPECT_JSON") else ""
    return f"{program} {options}-e {shlex.quote(case.one('PROG'))}"


def run(case: Case, tests: Path, scale: float, warm: str = "") -> Outcome:
    """Run a case. `scale`: how much longer than on a fast machine things may take; `warm`: see `command`."""
    reason = not_here(case, tests)
    if reason:
        return Outcome("skipped", reason)
    for line in case.all("SETUP"):
        if subprocess.run(line, shell=True, cwd=tests, capture_output=True).returncode:
            return Outcome("failed", "SETUP failed")
    beside: list[subprocess.Popen[bytes]] = []
    try:
        return _run(case, tests, scale, beside, warm)
    finally:
        for process in beside:
            _end(process)
        for line in case.all("CLEANUP"):
            subprocess.run(line, shell=True, cwd=tests, capture_output=True)


def _run(case: Case, tests: Path, scale: float, beside: list[subprocess.Popen[bytes]], warm: str) -> Outcome:
    inside: list[str] = []
    for number, line in enumerate(case.all("BEFORE")):
        words = line.split()
        if case.all("NEW_PIDNS") and number == 0:
            words = ["unshare", "--fork", "--pid", "--mount-proc", "-r", "--kill-child", "--", *words]
        elif inside:
            words = [*inside, *(os.path.abspath(tests / word) for word in words)]
        process = _start(words, tests)
        beside.append(process)
        child = _awaited(process.pid, line, scale, parent=len(words) > len(line.split()))
        if not child:
            return Outcome("failed", f"BEFORE did not start: {line}")
        if case.all("NEW_PIDNS") and number == 0:
            inside = ["nsenter", "-p", "-m", "-t", str(child)]
    text = command(case, warm)
    if beside:
        text = text.replace("{{BEFORE_PID}}", str(beside[0].pid))
    environment = {"test": case.name, ATTACHED: "1", "PATH": os.environ.get("PATH", "")}
    for pair in " ".join(case.all("ENV")).split():
        name, _, value = pair.partition("=")
        environment[name] = value
    process = _start(" ".join([*inside, text]), tests, environment, shell=True)
    output, timely = _watch(case, process, tests, scale, inside, beside)
    return _judged(case, tests, output, process.returncode if timely else None)


SHELL = shutil.which("bash")
"""What runs the command lines of cases: they are written for machines whose /bin/sh is bash."""


def _start(
    words: str | Sequence[str], cwd: Path, environment: dict[str, str] | None = None, *, shell: bool = False
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        words,
        shell=shell,
        executable=SHELL if shell else None,
        cwd=cwd,
        env=environment,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def _awaited(pid: int, line: str, scale: float, *, parent: bool) -> int:
    """The process of a line that was started as `pid`, or is its child, once it is what the line names."""
    comm = os.path.basename(line.split()[-1])[:15]
    until = time.monotonic() + ATTACH_SECONDS * scale
    while time.monotonic() < until:
        found = [pid]
        if parent:
            with suppress(OSError):
                found = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        for one in found:
            with suppress(OSError):
                if Path(f"/proc/{one}/comm").read_text().strip() == comm:
                    return one
        time.sleep(0.02)
    return 0


def _watch(
    case: Case,
    process: subprocess.Popen[bytes],
    tests: Path,
    scale: float,
    inside: list[str],
    beside: list[subprocess.Popen[bytes]],
) -> tuple[str, bool]:
    """What it prints, and whether it ended by itself in time."""
    assert process.stdout
    seconds = float(case.one("TIMEOUT", "5")) * scale
    until = time.monotonic() + ATTACH_SECONDS * scale
    data, attached = b"", False
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while selector.select(max(until - time.monotonic(), 0)):
            chunk = os.read(process.stdout.fileno(), 1 << 16)
            if not chunk:
                process.wait()
                return data.decode("utf-8", "backslashreplace"), True
            data += chunk
            line = f"{ATTACHED}\n".encode()
            if not attached and (b"\n" + data).find(b"\n" + line) >= 0:
                attached = True
                if case.exact:
                    data = data[data.index(line) + len(line) :]
                until = time.monotonic() + seconds
                for after in case.all("AFTER"):
                    text = after
                    if inside:
                        words = [os.path.abspath(tests / word) for word in after.split()]
                        text = shlex.join([*inside, *words])
                    beside.append(_start(text, tests, shell=True))
    _end(process)
    rest = process.stdout.read()
    return (data + rest).decode("utf-8", "backslashreplace"), False


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(2)
            return


def _judged(case: Case, tests: Path, output: str, status: int | None) -> Outcome:
    wanted = int(case.one("RETURN_CODE", "0"))
    for name, value in case.directives:
        if name in EXPECTS and not _met(name, value, case, tests, output):
            late = " (it did not end)" if status is None else ""
            return Outcome("failed", f"{name} {value!r}{late}", output)
    if status is not None:
        if case.all("WILL_FAIL"):
            if status == 0:
                return Outcome("failed", "it has to fail, and does not", output)
        elif status != wanted:
            return Outcome("failed", f"exit status {status}, not {wanted}", output)
    return Outcome("passed")


def _met(name: str, value: str, case: Case, tests: Path, output: str) -> bool:
    """Whether what was printed is what a directive expects."""
    if name in ("EXPECT", "EXPECT_NONE"):
        found = re.search(rf"^\s*{re.escape(value)}\s*$", output, re.M)
    elif name in ("EXPECT_REGEX", "EXPECT_REGEX_NONE"):
        found = re.search(value, output, re.M)
    else:
        expected = (tests / value).read_text().strip()
        if name == "EXPECT_FILE":
            if case.all("LOCALIZE_TIMESTAMPS"):
                expected = time.strftime(expected, time.localtime(int(case.one("LOCALIZE_TIMESTAMPS"))))
            return output.strip() == expected
        lines = expected.splitlines() if value.endswith(".ndjson") else [expected]
        try:
            printed = [json.loads(line) for line in output.strip().splitlines()]
        except ValueError:
            return False
        return printed == [json.loads(line) for line in lines]
    return (found is None) == name.endswith("_NONE")


def kind(outcome: Outcome) -> str:
    """The reason of a failure, without what differs from case to case."""
    for line in outcome.output.splitlines():
        found = re.search(r"ERROR: (.*)", line) or re.search(r"^kwire: (.*)", line)
        if found:
            return re.sub(r"'[^']*'|\d+", "…", found[1])
    return "other output"


class Results:
    """The outcomes of all cases, by name; `path`: where they are kept, and were before."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.all: dict[str, Outcome] = {}
        if path and path.exists():
            for line in path.read_text().splitlines():
                entry = json.loads(line)
                self.all[entry["case"]] = Outcome(entry["word"], entry["why"], entry["output"])

    def add(self, case: Case, outcome: Outcome, seconds: float) -> None:
        """Keep an outcome."""
        self.all[case.name] = outcome
        if self._path:
            entry = {"case": case.name, **outcome._asdict(), "seconds": round(seconds, 1)}
            with self._path.open("a") as file:
                file.write(json.dumps(entry) + "\n")


def main() -> int:
    """Run what was asked for; print a line a failure, and the sums."""
    args = _arguments()
    tests = args.checkout.resolve() / "tests"
    global KWIRE
    until = time.monotonic() + args.seconds
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        named = Path(folder) / OWN_NAME
        named.symlink_to(KWIRE)
        KWIRE = str(named)
        warm = ""
        if args.warm:
            place = Path(folder) / "warm"
            place.mkdir()
            warm = str(stack.enter_context(closing(Warm(place))).program)
        results = Results(args.results)
        for case in cases(tests):
            if not _chosen(case, args):
                continue
            if case.name not in results.all:
                if time.monotonic() > until:
                    print("more is to be run", flush=True)
                    break
                began = time.monotonic()
                results.add(case, run(case, tests, args.scale, warm), time.monotonic() - began)
            _tell(case, results.all[case.name], verbose=args.verbose)
    return 0 if _summed(results) >= args.least else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--only", choices=("all", "begin-end", "attaching"), default="all")
    parser.add_argument("--suite", action="append", help="cases of these files")
    parser.add_argument("--name", help="cases whose name contains this")
    parser.add_argument("--scale", type=float, default=1.0, help="how much slower this machine is")
    parser.add_argument("--least", type=float, default=0.0, help="percent that have to pass")
    parser.add_argument("--warm", action="store_true", help="fork command lines from one process")
    parser.add_argument("--results", type=Path, help="keep outcomes here, and go on behind those it has")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no case after so long")
    parser.add_argument("-v", "--verbose", action="store_true", help="show what failing cases print")
    args = parser.parse_args()
    if not (args.checkout / "tests" / "runtime").is_dir():
        parser.error(f"{args.checkout}: no checkout of bpftrace")
    return args


def _chosen(case: Case, args: argparse.Namespace) -> bool:
    return (
        for_this_machine(case)
        and (not args.suite or case.suite in args.suite)
        and (args.only == "all" or case.needs_attaching == (args.only == "attaching"))
        and (not args.name or args.name in case.name)
    )


def _tell(case: Case, outcome: Outcome, *, verbose: bool) -> None:
    if outcome.word == "passed":
        return
    print(f"{outcome.word}: {case.name}: {outcome.why}", flush=True)
    if verbose and outcome.word == "failed":
        print(f"    {command(case)}", *outcome.output.splitlines(), sep="\n    ")


def _summed(results: Results) -> float:
    """Print the reasons of failures and the sums; gives the percentage that passed."""
    sums = Counter(outcome.word for outcome in results.all.values())
    kinds = Counter(kind(outcome) for outcome in results.all.values() if outcome.word == "failed")
    print("\nreasons of failures:")
    for reason, count in kinds.most_common():
        print(f"{count:5}  {reason}")
    ran = sums["passed"] + sums["failed"]
    percent = 100 * sums["passed"] / ran if ran else 0.0
    print(f"\n{sums['passed']} of {ran} pass ({percent:.1f} %); {sums['skipped']} skipped")
    return percent


if __name__ == "__main__":
    raise SystemExit(main())
