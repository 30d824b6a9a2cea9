"""Retention: finished captures of a collector's folder are removed, the oldest first, by age and by size.

Invariants: only files are removed that a collector of this folder wrote, by their name and by what stands in
them, never one that an open session writes, that holds what is not acknowledged, or that is `needed`; what a
session that is away would go on in goes only after its checkpoint knows it; the ledger
(`kwire.capture.removed`) names what goes before it goes, so `kwire verify` can tell it from what is missing,
after a crash too. Work is done in short turns of the loop: some names, or one file. What is removed is said.
"""

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from kwire.capture import identity
from kwire.capture.output import CaptureError
from kwire.capture.removed import Removed, read_ledger, write_ledger
from kwire.collector.checkpoint import CheckpointError
from kwire.collector.collected_session import CaptureTarget
from kwire.collector.storage import Storage
from kwire.transport.log_events import Log
from kwire.transport.loop import Loop, Timer
from kwire.words import human_size, plural

LOOK: Final = 10.0
"""Seconds between two looks at the folder."""

NAMES: Final = 500
"""Files looked at in one turn."""

AT_ONCE: Final = 100
"""Files that are chosen in one turn, and written down at once."""

_OURS = re.compile(r"[A-Za-z0-9._-]+-\d{8}-\d{6}(\.\d{1,9})?(-\d{4,9})?\.pcapng")  # see Folder.capture
_NUMBER = re.compile(r"-\d{4,9}(?=\.[^.]*$|$)")

_UNITS: Final = (("days", 86400), ("hours", 3600), ("minutes", 60), ("seconds", 0.001))


class Keep(NamedTuple):
    """How long, and how much, is kept: seconds after a file was written last; bytes of all captures. 0: no
    limit.
    """  # fmt: skip

    seconds: float = 0.0
    bytes: int = 0

    def __str__(self) -> str:
        age = next((f"{self.seconds / long:g} {unit}" for unit, long in _UNITS if self.seconds >= long), "")
        return " and ".join(filter(None, [age, human_size(self.bytes) if self.bytes else ""]))


class _File(NamedTuple):
    """A capture in the folder: when it was written last (ns since 1970), its name, its bytes."""

    written: int
    name: str
    size: int


class Retention:
    """Looks at the folder of a storage now and then. `begin` starts it; `stop` ends it."""

    def __init__(self, loop: Loop, storage: Storage, keep: Keep, say: Log) -> None:
        self.keep = keep
        """May be changed at any time."""
        self.needed: list[Callable[[str], bool]] = []
        """Who is asked whether the file at a path is needed still."""
        self.removed_files = self.removed_bytes = 0
        """What this one removed."""
        self.bytes = 0
        """Bytes of all captures in the folder, when it was looked at last."""
        self.trouble = ""
        """Why something cannot be removed that should go; empty where there is nothing."""
        self._loop, self._storage, self._say = loop, storage, say
        self._folder, self._ours = captures_of(storage.place)
        self._waits = False  # a file that should go is needed
        self._round: Iterator[None] | None = None
        self._timer: Timer | None = None

    def begin(self, after: float = 0.0) -> None:
        """Look at the folder, after so many seconds, and again later."""
        self._round = self._work()
        if after:
            self._timer = self._loop.at(self._loop.now() + after, self._turn)
        else:
            self._turn()

    def stop(self) -> None:
        """Remove nothing more."""
        self._loop.cancel(self._timer)
        self._round = None

    def _turn(self) -> None:
        if self._round is None:
            return
        seconds = 0.0
        try:
            next(self._round)
        except StopIteration:
            self._round, seconds = self._work(), LOOK
        except (OSError, CheckpointError) as error:
            self._troubled(str(error) if isinstance(error, CheckpointError) else _reason(error))
            self._round, seconds = self._work(), LOOK
        except Exception as error:
            self._loop.contain(error)
            self._round, seconds = self._work(), LOOK
        self._timer = self._loop.at(self._loop.now() + seconds, self._turn)

    def _troubled(self, problem: str) -> None:
        """Say what is wrong, once."""
        if problem and problem != self.trouble:
            self._say(f"removing old captures: {problem}", "disk")
        self.trouble = problem

    # ------------------------------------------------------------------ a round

    def _work(self) -> Iterator[None]:
        """Look, and remove; each step is a turn."""
        files: list[_File] = []
        with os.scandir(self._folder) as entries:
            for seen, entry in enumerate(entries, 1):
                with contextlib.suppress(FileNotFoundError):
                    if self._ours.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                        status = entry.stat(follow_symlinks=False)
                        files.append(_File(status.st_mtime_ns, entry.name, status.st_size))
                if not seen % NAMES:
                    yield
        self.bytes = sum(file.size for file in files)
        files.sort()
        stems = {_NUMBER.sub("", file.name) for file in files}
        problem, self._waits = "", False
        while files:
            chosen, files = self._choose(files)
            yield
            if not chosen:
                continue
            self._note(chosen, stems)
            gone: list[_File] = []
            for file, which in chosen:
                yield
                try:
                    if self._remove(file, which):
                        gone.append(file)
                except (OSError, CheckpointError) as error:
                    problem = str(error) if isinstance(error, CheckpointError) else _reason(error)
            self._tell(gone)
        if not problem and self.keep.bytes and self.bytes > self.keep.bytes:
            limit = human_size(self.keep.bytes)  # and not how much is: it would be another trouble each time
            problem = f"what is in use is more than {limit}: --rotate, or smaller files, let it go sooner"
            if self._waits:
                problem = f"what is kept is more than {limit}: some of it is not in the lake yet"
        self._troubled(problem)

    def _choose(self, files: list[_File]) -> tuple[list[tuple[_File, identity.Identity]], list[_File]]:
        """The first of these, the oldest first, that are to go, with whose files they are; and the files that
        are looked at later, none where no more are to go.
        """
        chosen: list[tuple[_File, identity.Identity]] = []
        left, now = self.bytes, time.time_ns()
        for file in files[:AT_ONCE]:
            old = self.keep.seconds and file.written < now - int(self.keep.seconds * 1e9)
            if not old and not (self.keep.bytes and left > self.keep.bytes):
                return chosen, []
            with contextlib.suppress(CaptureError, OSError):
                which = identity.of_file(os.path.join(self._folder, file.name))
                if which is not None and not self._in_use(file, which):
                    chosen.append((file, which))
                    left -= file.size
        return chosen, files[AT_ONCE:]

    def _in_use(self, file: _File, which: identity.Identity) -> bool:
        if self._storage.in_use(which.id, which.number):
            return True
        path = os.path.join(self._folder, file.name)
        needed = any(needs(path) for needs in self.needed)
        self._waits |= needed
        return needed

    def _note(self, chosen: list[tuple[_File, identity.Identity]], stems: set[str]) -> None:
        """Write down what goes; captures of which nothing is there any more are forgotten."""
        before = read_ledger(self._folder)
        ledger = {id: one for id, one in before.items() if one.name in stems}
        for file, which in chosen:
            stem, seconds = _NUMBER.sub("", file.name), file.written // 10**9
            known = ledger.get(which.id) or Removed((), 0, stem)
            ledger[which.id] = known.add(which.number, seconds)
        if ledger != before:
            write_ledger(self._folder, ledger)

    def _remove(self, file: _File, which: identity.Identity) -> bool:
        """Remove a file, unless it is in use by now; whether it went."""
        if self._in_use(file, which):
            return False
        self._storage.release(which.id, which.number)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self._folder, file.name))
        self.removed_files += 1
        self.removed_bytes += file.size
        self.bytes -= file.size
        return True

    def _tell(self, gone: list[_File]) -> None:
        """Say what went."""
        if not gone:
            return
        size = human_size(sum(file.size for file in gone))
        until = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(gone[-1].written // 10**9))
        which = gone[0].name if len(gone) == 1 else f"{plural(len(gone), 'file')}, the last {gone[-1].name}"
        self._say(f"removed {which} ({size}, written until {until}): kept are {self.keep}")


def captures_of(place: CaptureTarget) -> tuple[str, re.Pattern[str]]:
    """The folder in which a collector's captures lie, and what their names are like."""
    if place.merged:
        return os.path.dirname(place.merged), _rotation(os.path.basename(place.merged))
    return place.folder.path, _OURS


def _rotation(name: str) -> re.Pattern[str]:
    """The names of files of a merged capture's rotation, and of those beside it."""
    root, extension = os.path.splitext(name)
    return re.compile(re.escape(root) + r"(\.\d{1,9})?-\d{4,9}" + re.escape(extension))


def _reason(error: OSError) -> str:
    return f"{error.filename or 'a file'}: {error.strerror or 'failed'}"
