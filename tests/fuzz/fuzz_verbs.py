"""Fuzz target: every verb that reads captures, over captures that are sound and mean, and over damaged ones.

What a verb does with a capture is one of: an answer; an answer and lines of what is wrong; one line of error.
Nothing that was captured reaches a terminal as it is, and what is JSON is JSON.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import captures
import fuzzing

from kwire.cli.main import main

#: Verbs with their arguments; IN is the capture, OUT what is written (a name in a folder of its own).
VERBS = (
    ("show", "IN"),
    ("show", "IN", "--json"),
    ("show", "IN", "--where", "pid == 1"),
    ("show", "IN", "-V"),
    ("show", "IN", "-V", "--json"),
    ("show", "IN", "--sessions", "--all"),
    ("show", "IN", "--sessions", "--all", "--json"),
    ("stats", "IN"),
    ("stats", "IN", "--json"),
    ("verify", "IN"),
    ("verify", "IN", "--json"),
    ("query", "IN"),
    ("query", "IN", "--json"),
    ("query", "IN", "select * from events"),
    ("query", "IN", "--json", "select * from lost"),
    ("query", "IN", "select * from probes"),
    ("export", "IN", "-o", "OUT.parquet"),
    ("export", "IN", "-o", "OUT.csv"),
    ("export", "IN", "-o", "OUT.ndjson"),
    ("export", "IN", "-o", "OUT.json"),
    ("export", "IN", "-o", "OUT.arrow", "--from", "+1ms"),
    ("export", "IN", "-o", "OUT/", "--format", "arrows"),
    ("merge", "IN", "IN", "-w", "OUT.pcapng"),
    ("split", "IN", "--by", "probe", "-w", "OUT"),
    ("split", "IN", "--by", "host", "-w", "OUT"),
    ("split", "IN", "--by", "time=1s", "-w", "OUT"),
    ("split", "IN", "--by", "events=3", "-w", "OUT"),
    ("cut", "IN", "--from", "+1us", "-w", "OUT.pcapng"),
    ("cut", "IN", "--where", "cpu == 0 or comm == 'a'", "-w", "OUT.pcapng"),
)
STATUS = {0, 1, 3}
INPUTS = 16  # damaged ones, for the tests: one input is thirty verbs
SEEDS = [captures.capture(seed) for seed in range(12)]


class _Screen(io.TextIOWrapper):
    """A standard stream that is no terminal."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True)

    @property
    def text(self) -> str:
        """What was written."""
        buffer = self.buffer
        assert isinstance(buffer, io.BytesIO)
        return buffer.getvalue().decode()


@contextlib.contextmanager
def _screens() -> Iterator[tuple[_Screen, _Screen]]:
    out, err = _Screen(), _Screen()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = out, err
    try:
        yield out, err
    finally:
        sys.stdout, sys.stderr = before


def run(words: Sequence[str]) -> tuple[int, str, str]:
    """Run a verb in this process: its status and what it wrote."""
    with _screens() as (out, err):
        try:
            status = main(words)
        except SystemExit as stop:
            status = int(stop.code or 0)
        return status, out.text, err.text


def check_text(text: str, what: str) -> None:
    """No character but line ends that a terminal would act on."""
    for line in text.split("\n"):
        if not line.isprintable():
            bad = next(char for char in line if not char.isprintable())
            raise AssertionError(f"{what}: {unicodedata.name(bad, hex(ord(bad)))} in {line[:300]!r}")


def check_verb(words: Sequence[str], where: Path) -> None:
    """Run one verb on the capture at `where`, and look at what came of it."""
    name = os.path.join(where.parent, "out")
    full = [str(where) if word == "IN" else word.replace("OUT", name) for word in words]
    try:
        status, out, err = run(full)
        fuzzing.check(status in STATUS, f"{words}: status {status}: {err}")
        fuzzing.check("a fault of kwire itself" not in err, f"{words}: {err}")
        check_text(out, f"{words}: output")
        check_text(err, f"{words}: errors")
        if "--json" in words:
            for line in out.splitlines():
                json.loads(line)
        if status == 1 and words[0] != "verify":
            fuzzing.check(err.startswith("kwire: "), f"{words}: status 1 and nothing said: {err!r}")
    finally:
        for path in where.parent.glob("out*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def one_input(data: bytes) -> None:
    """Run every verb over these bytes as a file."""
    with tempfile.TemporaryDirectory(prefix="fuzz-verbs-") as folder:
        where = Path(folder) / "in"
        where.write_bytes(data)
        for words in VERBS:
            check_verb(words, where)


if __name__ == "__main__":
    fuzzing.main(one_input, SEEDS)
