"""Record batches of several tables out of one reading, for as many as ask: what came before is kept for them.

Invariants: each who asks gets all batches of a table, in their order; the reading goes on only when somebody
wants what has not come yet, and what breaks it off breaks off all. Memory is bounded: ROOM bytes of batches,
others lie in a file without a name, which never fills its disk.
"""

import errno
import os
from collections.abc import Container, Generator, Iterator
from contextlib import suppress
from threading import Lock
from typing import IO, Any, Final, NamedTuple

from kwire.analyze import arrow
from kwire.errors import KwireError
from kwire.packets.spill import LOOKED, has_room, read_again

ROOM: Final = 64 << 20  # bytes of batches in memory, about


class _Spilled(NamedTuple):
    """A batch that lies in the file."""

    at: int
    size: int
    rows: int


class Replays:
    """One reading: it gives (table, batch). `schemas`: of the batches of each table, by its name;
    columns not in `wanted` are null in all of them (None: all are wanted). `folder`: where the file lies.
    """

    __slots__ = (
        "_error",
        "_file",
        "_fill",
        "_folder",
        "_kept",
        "_lock",
        "_looked",
        "_reading",
        "_room",
        "_schemas",
    )

    def __init__(
        self,
        reading: Generator[tuple[str, Any]],
        schemas: dict[str, Any],
        wanted: Container[str] | None,
        folder: str,
    ) -> None:
        self._reading = reading
        self._kept: dict[str, list[Any]] = {table: [] for table in schemas}
        self._schemas = {  # with what is kept of it in the file
            table: (schema, [field for field in schema if wanted is None or field.name in wanted])
            for table, schema in schemas.items()
        }
        self._fill = arrow.Fill()
        self._room, self._folder = ROOM, folder
        self._looked = 0  # bytes of the file up to which there is room
        self._file: IO[bytes] | None = None
        self._error: BaseException | None = None
        self._lock = Lock()  # DuckDB asks from several threads

    def __contains__(self, table: str) -> bool:
        return table in self._kept

    def batches(self, table: str) -> Iterator[Any]:
        """All batches of a table."""
        kept, place = self._kept[table], 0
        while True:
            with self._lock:
                while place == len(kept):
                    if not self._read_on():
                        return
                batch = self._batch(table, kept[place])
            yield batch
            place += 1

    def close(self) -> None:
        """Break off the reading, and let go of what is kept."""
        with self._lock:  # a thread may be reading
            self._reading.close()
            self._error = self._error or KwireError("read", "what was kept", "the reading was broken off")
            if self._file is not None:
                with suppress(OSError):  # what could not be written is told already
                    self._file.close()

    def _read_on(self) -> bool:
        """Take one more batch of the reading; False where it has ended. Raises what has broken it off."""
        if self._error is not None:
            raise self._error
        try:
            found = next(self._reading, None)
            if found is None:
                return False
            table, batch = found
            self._kept[table].append(self._put(table, batch))
        except BaseException as error:
            self._error = error
            raise
        return True

    def _put(self, table: str, batch: Any) -> Any:
        """The batch, or where it lies in the file."""
        _, fields = self._schemas[table]
        some = batch.select([field.name for field in fields])
        self._room -= some.nbytes
        if self._room >= 0:
            return batch
        data = some.serialize() if fields else b""
        try:
            if self._file is None:
                import tempfile

                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115  # until `close`
            at = self._file.tell()
            if at + len(data) > self._looked:
                if not has_room(self._file.fileno(), LOOKED + len(data)):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self._looked = at + len(data) + LOOKED
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            cause, cure = error.strerror or "failed", "set TMPDIR to a folder with more room"
            raise KwireError("keep what was read", self._folder, cause, cure) from None
        return _Spilled(at, len(data), batch.num_rows)

    def _batch(self, table: str, kept: Any) -> Any:
        if not isinstance(kept, _Spilled):
            return kept
        pa, found = arrow.load(), {}
        schema, fields = self._schemas[table]
        if fields:
            assert self._file is not None  # it lies there
            data = read_again(self._file.fileno(), kept.size, kept.at)
            read = pa.ipc.read_record_batch(pa.py_buffer(data), pa.schema(fields))
            found = {field.name: read.column(place) for place, field in enumerate(fields)}
        made = [found.get(field.name) for field in schema]
        whole = [
            self._fill.nulls(field.type, kept.rows) if one is None else one
            for one, field in zip(made, schema, strict=True)
        ]
        return pa.record_batch(whole, schema=schema)
