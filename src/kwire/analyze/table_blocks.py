"""Blocks of events by table, put apart in one reading of a capture, in one temporary file without a name.

Invariants: each event is written and read once, however many tables there are; memory is that of one block,
and of an entry for each that was put away; what comes out for a table is what came in for it, blocks that
follow each other joined to larger ones, each in order of time.
"""

import tempfile
from array import array
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple

from kwire.analyze.scan import BYTES, EVENTS, Block
from kwire.analyze.tables import Table, Tables
from kwire.wire.frames import Frames
from kwire.wire.schema import Schema
from kwire.wire.walk import frame_gather

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


class _Entry(NamedTuple):
    """A block that was put away: where its frames are in the file, and how many; its times follow them."""

    schema: Schema
    at: int
    size: int
    events: int


TIME: Final = 8  # bytes


class TableBlocks:
    """A context manager; `fill`, then `blocks` of each table."""

    __slots__ = ("_entries", "_file", "_tables")

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._entries: dict[int, list[_Entry]] = {id(table): [] for table in tables}
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed by __exit__

    def fill(self, blocks: Iterable[Block]) -> None:
        """Put blocks away, each with its table."""
        import numpy as np

        for block in blocks:
            table = self._tables.find(block.schema)
            assert table is not None  # the tables are those of the capture
            count = len(block.frames)
            places = np.asarray(block.frames.offsets)[:count]
            view = np.asarray(block.frames.view)
            lengths = view[places + np.uint64(2)].astype(np.int64) << 8 | view[places + np.uint64(3)]
            out = bytearray(int(lengths.sum()))
            frame_gather(block.frames.view, block.frames.offsets, 0, count, out, 0)
            entry = _Entry(block.schema, self._file.tell(), len(out), count)
            self._entries[id(table)].append(entry)
            self._file.write(out)
            self._file.write(np.ascontiguousarray(block.times).tobytes())

    def blocks(self, table: Table) -> Iterator[Block]:
        """The blocks of this table."""
        waiting: list[_Entry] = []
        events = size = 0
        for entry in self._entries[id(table)]:
            if waiting and (
                entry.schema is not waiting[0].schema or events + entry.events > EVENTS or size > BYTES
            ):
                yield self._joined(waiting)
                waiting, events, size = [], 0, 0
            waiting.append(entry)
            events, size = events + entry.events, size + entry.size
        if waiting:
            yield self._joined(waiting)

    def _joined(self, entries: list[_Entry]) -> Block:
        import numpy as np

        data, parts = bytearray(), []
        for entry in entries:
            self._file.seek(entry.at)
            data += self._file.read(entry.size)
            parts.append(np.frombuffer(self._file.read(TIME * entry.events), np.int64))
        frames, times = Frames.walk(bytes(data)), np.concatenate(parts)
        if (times[1:] < times[:-1]).any():
            order = np.argsort(times, kind="stable")
            places = array("Q", np.asarray(frames.offsets)[: len(times)][order].tobytes())
            frames, times = Frames(frames.data, places), times[order]
        return Block(entries[0].schema, frames, times, None)  # of several

    def __enter__(self) -> "TableBlocks":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
