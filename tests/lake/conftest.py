"""Lakes for the tests: captures of several hosts and days, and what stands in the files of a lake."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.analyze.conftest import MONOTONIC, WALL, Kit, kit, kwire

from kwire.analyze.capture_summary import CaptureSummary
from kwire.analyze.source import Source
from kwire.lake.add import Added, add
from kwire.lake.directory import Lake
from kwire.wire.messages import Cause, Lost

__all__ = ["kit", "kwire"]

DAY = 86_400_000_000_000
FIELDS = (("pid", "u32", 1, ""), ("comm", "str", 1, ""), ("count", "u16", 1, ""))
Make = Callable[..., str]


class Waters:
    """Makes captures, and puts them into a lake at `path`."""

    def __init__(self, folder: Path, kit: Kit) -> None:
        self.folder, self.kit = folder, kit
        self.path = str(folder / "lake")

    def capture(
        self,
        name: str,
        *,
        hosts: Sequence[str] = ("web1",),
        day: int = 0,
        later: int = 0,
        events: int = 20,
        fields: Sequence[tuple[str, str, int, str]] = FIELDS,
        probes: Sequence[str] = ("tracepoint:sched:sched_process_exec", "kprobe:vfs_open(path)"),
        lost: int = 0,
        **options: Any,
    ) -> str:
        """A capture; `day` and `later` (µs) say when; the events of each probe are 1 ms apart."""
        schemas = [
            self.kit.schema(number, probe, fields, host=host, wall=WALL + day * DAY + 1000 * later, **options)
            for number, (host, probe) in enumerate(((host, probe) for host in hosts for probe in probes), 1)
        ]
        values = {"comm": b"sh", "text": b"word", "note": b"note"}
        items: list[bytes | Lost] = [
            self.kit.event(
                schema,
                MONOTONIC + 1_000_000 * number + schema.id,
                [values.get(field.name, 1 + number % 100) for field in schema.fields],
            )
            for number in range(events)
            for schema in schemas
        ]
        if lost:
            items.append(Lost(1, MONOTONIC + 100, MONOTONIC + 4000, lost, 1, Cause.RING_FULL))
        return self.kit.write(self.folder / name, schemas, items)

    def add(self, *captures: str, **options: Any) -> Added:
        """Put captures into the lake; gives what became of the last one."""
        lake = Lake(self.path, make=True)
        for path in captures:
            with Source(path) as source:
                added = add(lake, source, CaptureSummary(source), **options)
        return added

    @property
    def files(self) -> list[str]:
        """The Parquet files that a reader finds who looks everywhere, hidden folders too."""
        found = glob.glob(f"{self.path}/**/*.parquet", recursive=True, include_hidden=True)
        return sorted(os.path.relpath(path, self.path) for path in found)

    def events(self) -> Counter[tuple[str, str, int]]:
        """How often each event is there: by the directory of its probe, host, time."""
        from pyarrow import parquet

        found: Counter[tuple[str, str, int]] = Counter()
        for path in self.files:
            probe, _, host, _ = path.split(os.sep)[-4:]
            table = parquet.ParquetFile(os.path.join(self.path, path)).read(["time_ns"])
            found.update((probe, host, time) for time in table.column("time_ns").to_pylist())
        return found


@pytest.fixture
def waters(tmp_path: Path, kit: Kit) -> Waters:
    pytest.importorskip("pyarrow")
    return Waters(tmp_path, kit)
