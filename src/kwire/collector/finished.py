"""Finished captures of a collector's folder, for who makes something of them: each when it is finished.

Invariants: a file is finished when nothing more is written to it at present and all that is in it is
acknowledged, by the checkpoints and not by its looks; it is `settled` when no session will go on in it. It is
looked for in short turns of the loop.
"""

import contextlib
import os
from collections.abc import Iterator, Set
from typing import NamedTuple

from kwire.capture import identity
from kwire.capture.output import CaptureError
from kwire.collector.retention import NAMES, captures_of
from kwire.collector.storage import Storage


class FinishedCapture(NamedTuple):
    """A capture at `path` that is finished, with so many bytes; `settled`: for good."""

    path: str
    size: int
    settled: bool


class Finished:
    """Looks at the folder of a storage, each time that it is asked."""

    __slots__ = ("_known", "_storage")

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._known: dict[str, tuple[int, identity.Identity]] = {}  # by path: inode, whose file it is

    def look(self) -> Iterator[FinishedCapture | None]:
        """What is finished, in no order; None where somebody else may have a turn. OSError."""
        folder, ours = captures_of(self._storage.place)
        seen: set[str] = set()
        with os.scandir(folder) as entries:
            for number, entry in enumerate(entries, 1):
                if ours.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                    seen.add(entry.path)
                    with contextlib.suppress(CaptureError, OSError):
                        found = self._finished(entry)
                        if found is not None:
                            yield found
                if not number % NAMES:
                    yield None
        for path in self._known.keys() - seen:
            del self._known[path]

    @property
    def there(self) -> Set[str]:
        """The paths of captures that were there when all of the folder was looked at last."""
        return self._known.keys()

    def _finished(self, entry: "os.DirEntry[str]") -> FinishedCapture | None:
        status = entry.stat(follow_symlinks=False)
        inode, which = self._known.get(entry.path, (0, None))
        if which is None or inode != status.st_ino:
            which = identity.of_file(entry.path)
            if which is None:
                return None
            self._known[entry.path] = status.st_ino, which
        if self._storage.in_use(which.id, which.number):
            return None
        settled = not self._storage.may_go_on(which.id, which.number)
        return FinishedCapture(entry.path, status.st_size, settled)
