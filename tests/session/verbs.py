"""A verb of kwire as a process that goes on until it is told to end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from waiting import PATIENCE

KWIRE = [sys.executable, "-m", "kwire.cli.main"]


class Verb:
    """A running `kwire` in the folder `path`, and what it has told on standard error."""

    def __init__(self, path: Path, *arguments: str) -> None:
        number, name = tempfile.mkstemp(dir=path, suffix=".stderr")
        self.said = Path(name)
        with open(number, "w") as stderr:
            command = [*KWIRE, *arguments]
            self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr, cwd=path)

    @property
    def errors(self) -> str:
        return self.said.read_text()

    @property
    def told(self) -> list[dict[str, Any]]:
        """The whole lines so far, of `--log json`."""
        return [json.loads(line) for line in self.errors.splitlines(keepends=True) if "\n" in line]

    @property
    def events(self) -> list[str]:
        return [line["event"] for line in self.told]

    def end(self, number: int = signal.SIGTERM) -> int:
        """Its exit status."""
        self.process.send_signal(number)
        status = self.process.wait(PATIENCE)
        assert "Traceback" not in self.errors, self.errors
        return status


@pytest.fixture
def verbs() -> Iterator[list[Verb]]:
    """Those in it are killed at the test's end, if they still run."""
    verbs: list[Verb] = []
    yield verbs
    for one in verbs:
        one.process.kill()
        one.process.wait()


@pytest.fixture
def start(tmp_path: Path, verbs: list[Verb]) -> Callable[..., Verb]:
    """Start one: `start("collect", …)`."""

    def begin(*arguments: str) -> Verb:
        verbs.append(Verb(tmp_path, *arguments))
        return verbs[-1]

    return begin
