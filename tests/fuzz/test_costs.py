"""What a capture may cost: memory and processor time a byte, however it is made.

Each capture of `costly` is read by a process of its own, forked from one that has imported all. Its processor
time is held against that of a fixed piece of work on the same machine, its memory against that of reading a
capture of a few events. The limits are far from what is used, and below what something needs that is
quadratic, or that believes a file: half the bytes at half the time a byte find what all of them found.
What sessions cost is counted too: the calls of Python that more of them take.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import costly
import pytest

pytestmark = pytest.mark.native

SIZE: Final = 125_000
DENSE: Final = {
    "overlapping_fields": 52_000,
    "overlapping_durations": 60_000,
    "overlapping_tails": 60_000,
    "overlapping_escapes": 60_000,
}
MEMORY: Final = 160 << 20  # bytes beyond those of a small capture
WORK: Final = 3_000_000  # turns of a loop, to which processor time is compared …
BYTES: Final = 4_000  # … so many bytes may cost as much: a kilobyte costs less than a twentieth of a second
CEILING: Final = 3 << 30  # bytes of addresses: beyond it a verb ends, and says so
VERBS: Final = (("show", "IN", "--json"), ("stats", "IN"), ("merge", "IN", "-w", "OUT.pcapng"))
TABLES: Final = (
    *(("query", "IN"), ("query", "IN", "SELECT count(*), max(cpu) FROM events")),
    *(("export", "IN", "-o", f"OUT.{form}") for form in ("parquet", "arrow", "csv")),
)
COUNTED: Final = (("verify", "IN"), ("stats", "IN"))
WIDE: Final = ("probes", "probes_of_one_name", "columns", "columns_of_one_name", "overlapping_fields")


class Used(NamedTuple):
    """What a process used: its exit status, seconds of processor time, bytes of memory."""

    status: int
    seconds: float
    memory: int


SERVER: Final = """if True:
    import gc, importlib, json, os, pkgutil, resource, sys
    import duckdb, numpy, pyarrow, pyarrow.csv, pyarrow.dataset, pyarrow.parquet
    import kwire.cli.main
    for room in ("analyze", "capture", "cli", "packets", "view", "wire"):
        package = importlib.import_module(f"kwire.{room}")
        for module in pkgutil.iter_modules(package.__path__, f"kwire.{room}."):
            importlib.import_module(module.name)
    gc.collect()
    gc.freeze()

    def run(words, counted):
        count = 0
        def called(frame, event, _):
            nonlocal count
            count += event in ("call", "c_call")
        if counted:
            sys.setprofile(called)
        try:
            return kwire.cli.main.main(words)
        finally:
            sys.setprofile(None)
            sys.stdout.flush()
            if counted:
                open(counted, "w").write(str(count))

    for line in sys.stdin:
        words, errors, counted, ceiling = json.loads(line)
        child = os.fork()
        if not child:
            status = 127
            try:
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
                resource.setrlimit(resource.RLIMIT_AS, (ceiling, ceiling))
                status = run(words, counted)
            finally:
                os._exit(status)
        _, status, usage = os.wait4(child, 0)
        seconds = usage.ru_utime + usage.ru_stime
        print(json.dumps([os.waitstatus_to_exitcode(status), seconds, usage.ru_maxrss << 10]), flush=True)
"""


class Verbs:
    """Verbs, each run by a process of its own, forked from one that has imported all: what importing takes is
    the same for each capture.
    """

    def __init__(self) -> None:
        command = [sys.executable, "-c", SERVER]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def close(self) -> None:
        self._server.communicate()

    def used(self, words: Sequence[str], where: Path, counted: str = "") -> Used:
        """Run one on the capture `where`, with its output thrown away, and see what it used."""
        full = [
            str(where) if word == "IN" else word.replace("OUT", str(where.parent / "made")) for word in words
        ]
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.write(json.dumps([full, str(where.parent / "errors"), counted, CEILING]) + "\n")
        self._server.stdin.flush()
        found = Used(*json.loads(self._server.stdout.readline()))
        for path in where.parent.glob("made*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return found

    def calls(self, words: Sequence[str], where: Path) -> int:
        """How many functions Python calls, its own and those in C."""
        answer = where.parent / "calls"
        self.used(words, where, str(answer))
        return int(answer.read_text())


@pytest.fixture(scope="module")
def verbs() -> Iterator[Verbs]:
    with contextlib.closing(Verbs()) as verbs:
        yield verbs


@pytest.fixture(scope="module")
def work() -> float:
    """Seconds of processor time of a fixed piece of work here."""
    before = time.process_time()
    exec(f"for number in range({WORK}): number * number", {})
    return time.process_time() - before


@pytest.fixture(scope="module")
def least(tmp_path_factory: pytest.TempPathFactory, verbs: Verbs) -> dict[Sequence[str], Used]:
    """What the verbs use for a capture of a few events."""
    where = tmp_path_factory.mktemp("least") / "in"
    where.write_bytes(costly.empty_records(400))
    return {words: verbs.used(words, where) for words in (*VERBS, *TABLES)}


@pytest.mark.parametrize("case", costly.CASES, ids=lambda case: case.__name__)
def test_a_byte_costs_little(
    case: Callable[[int], bytes],
    tmp_path: Path,
    work: float,
    least: dict[Sequence[str], Used],
    verbs: Verbs,
) -> None:
    size = DENSE.get(case.__name__, SIZE)
    where = tmp_path / "in"
    where.write_bytes(case(size))
    for words in (*VERBS, *(TABLES if case.__name__ in WIDE else ())):
        found, small = verbs.used(words, where), least[words]
        said = (tmp_path / "errors").read_text()
        assert found.status == (0 if case in costly.WHOLE else 3), (words, said)
        assert "a fault of kwire" not in said
        assert "not enough memory" not in said
        assert found.memory - small.memory < MEMORY, words
        assert found.seconds < 3 * small.seconds + 2 * work + work * size / BYTES, words


@pytest.mark.parametrize("case", costly.FLOWS, ids=lambda case: case.__name__)
def test_more_sessions_take_few_calls(case: Callable[[int], bytes], tmp_path: Path, verbs: Verbs) -> None:
    where, taken = tmp_path / "in", dict[Sequence[str], list[int]]()
    for size in (SIZE, 2 * SIZE):
        where.write_bytes(case(size))
        for words in COUNTED:
            taken.setdefault(words, []).append(verbs.calls(words, where))
    for which, (few, many) in taken.items():
        assert many - few <= costly.FLOWS[case] * SIZE // 1000, which
