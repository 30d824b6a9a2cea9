"""What a capture may cost: memory and processor time a byte, however it is made.

Each capture of `costly` is read by a process of its own; its processor time is held against that of a fixed
piece of work on the same machine, its memory against that of reading a capture of a few events. The limits
are far from what is used, and below what something needs that is quadratic, or that believes a file.
What sessions cost is counted too: the calls of Python that more of them take.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import costly
import pytest

pytestmark = pytest.mark.native

SIZE: Final = 250_000
DENSE: Final = {
    "overlapping_fields": 90_000,
    "overlapping_durations": 60_000,
    "overlapping_tails": 60_000,
    "overlapping_escapes": 60_000,
}
MEMORY: Final = 256 << 20  # bytes beyond those of a small capture
WORK: Final = 3_000_000  # turns of a loop, to which processor time is compared …
BYTES: Final = 2_000  # … so many bytes may cost as much: a kilobyte never costs a tenth of a second
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


def used(command: Sequence[str], folder: Path) -> Used:
    """Run a command with its output thrown away, and see what it used."""
    child = os.fork()
    if not child:
        try:
            for number in (1, 2):
                os.dup2(os.open(folder / f"out{number}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            resource.setrlimit(resource.RLIMIT_AS, (CEILING, CEILING))
            os.execv(command[0], list(command))
        finally:
            os._exit(127)
    _, status, usage = os.wait4(child, 0)
    seconds = usage.ru_utime + usage.ru_stime
    return Used(os.waitstatus_to_exitcode(status), seconds, usage.ru_maxrss << 10)


def verb(words: Sequence[str], where: Path) -> Used:
    name = str(where.parent / "made")
    full = [str(where) if word == "IN" else word.replace("OUT", name) for word in words]
    found = used([sys.executable, "-m", "kwire.cli.main", *full], where.parent)
    for path in where.parent.glob("made*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return found


def calls(words: Sequence[str], where: Path) -> int:
    """How many functions Python calls, its own and those in C."""
    code = """if True:
        import sys
        from kwire.cli.main import main
        count = 0
        def called(frame, event, _):
            global count
            count += event in ("call", "c_call")
        sys.setprofile(called)
        try:
            main(sys.argv[2:])
        finally:
            sys.setprofile(None)
            open(sys.argv[1], "w").write(str(count))
    """
    answer = where.parent / "calls"
    full = [str(where) if word == "IN" else word for word in words]
    used([sys.executable, "-c", code, str(answer), *full], where.parent)
    return int(answer.read_text())


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> float:
    """Seconds of processor time of a fixed piece of work here."""
    command = [sys.executable, "-c", f"for i in range({WORK}): i * i"]
    return used(command, tmp_path_factory.mktemp("work")).seconds


@pytest.fixture(scope="module")
def least(tmp_path_factory: pytest.TempPathFactory) -> dict[Sequence[str], Used]:
    """What the verbs use for a capture of a few events."""
    where = tmp_path_factory.mktemp("least") / "in"
    where.write_bytes(costly.empty_records(400))
    return {words: verb(words, where) for words in (*VERBS, *TABLES)}


@pytest.mark.parametrize("case", costly.CASES, ids=lambda case: case.__name__)
def test_a_byte_costs_little(
    case: Callable[[int], bytes], tmp_path: Path, work: float, least: dict[Sequence[str], Used]
) -> None:
    size = DENSE.get(case.__name__, SIZE)
    where = tmp_path / "in"
    where.write_bytes(case(size))
    for words in (*VERBS, *(TABLES if case.__name__ in WIDE else ())):
        found, small = verb(words, where), least[words]
        said = (tmp_path / "out2").read_text()
        assert found.status == (0 if case in costly.WHOLE else 3), (words, said)
        assert "a fault of kwire" not in said
        assert "not enough memory" not in said
        assert found.memory - small.memory < MEMORY, words
        assert found.seconds < 3 * small.seconds + 2 * work + work * size / BYTES, words


@pytest.mark.parametrize("case", costly.FLOWS, ids=lambda case: case.__name__)
def test_more_sessions_take_few_calls(case: Callable[[int], bytes], tmp_path: Path) -> None:
    where, taken = tmp_path / "in", dict[Sequence[str], list[int]]()
    for size in (SIZE, 2 * SIZE):
        where.write_bytes(case(size))
        for words in COUNTED:
            taken.setdefault(words, []).append(calls(words, where))
    for which, (few, many) in taken.items():
        assert many - few <= costly.FLOWS[case] * SIZE // 1000, which
