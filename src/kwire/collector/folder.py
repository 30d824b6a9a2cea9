"""The folder of a collector: names of captures, checkpoints of sessions, and one collector at a time.

Invariants: nothing that a peer says becomes a path: of its host name a few harmless characters are kept, its
token is written in hexadecimal; no file that is there is ever overwritten; `.sessions` holds one checkpoint a
session, and the addresses of those who have proven who they are, and is its owner's alone.
"""

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Final

from kwire.errors import KwireError

SESSIONS: Final = ".sessions"
KNOWN: Final = "known"
"""The file with the addresses."""

MERGED: Final = ".merged"  # the end of a checkpoint's name, of a merged capture
KEEP: Final = 30 * 86400.0
"""Seconds after its end that a session is remembered: so long a source that missed the last ACK may ask."""

MOST_KNOWN_BYTES: Final = 1 << 20

NAME: Final = 64
"""Characters kept of a host name."""

_LEDGER = re.compile(r"[0-9a-f]{32}(\.new)?")
_HARMFUL = re.compile(r"[^A-Za-z0-9._-]+")


class FolderError(KwireError):
    """A folder that captures cannot be written to."""


def harmless(host: str) -> str:
    """A host name as part of a file name: `web1.example`, `_etc_passwd`, `unknown`."""
    return _HARMFUL.sub("_", host[: 4 * NAME]).lstrip(".-")[:NAME] or "unknown"


class Folder:
    """An open folder, made where it is not there. FolderError where it cannot be, or is in use."""

    __slots__ = ("_given", "_lock", "path", "sessions")

    def __init__(self, path: str) -> None:
        self.path = path
        self.sessions = os.path.join(path, SESSIONS)
        """Where the checkpoints are."""
        self._given: set[str] = set()  # paths of this second: retention may have taken their first files
        self._lock = self._make()

    def _make(self) -> int:
        """Make what is not there of it, and take its lock."""
        path = self.path
        try:
            os.makedirs(path, exist_ok=True)
            os.makedirs(self.sessions, 0o700, exist_ok=True)
            lock = os.open(self.sessions, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise FolderError("write to", path, error.strerror or "failed") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise FolderError(
                "write to", path, "another collector writes there", "give each collector its own folder"
            ) from None
        for folder in (path, os.path.dirname(os.path.abspath(path))):
            _sync(folder)  # a power cut does not take it away
        return lock

    def mend(self) -> bool:
        """Make it again where somebody has removed it; whether that was so. Raises FolderError."""
        with contextlib.suppress(OSError):
            here, ours = os.stat(self.sessions), os.fstat(self._lock)
            if (here.st_dev, here.st_ino) == (ours.st_dev, ours.st_ino):
                return False
        lock, self._lock = self._lock, self._make()
        os.close(lock)
        return True

    def known(self) -> list[str]:
        """The addresses that `remember` wrote; none where they cannot be read."""
        with contextlib.suppress(OSError):
            # A FIFO that somebody put there is not waited for.
            fd = os.open(os.path.join(self.sessions, KNOWN), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                return os.read(fd, MOST_KNOWN_BYTES).decode("ascii", "replace").split()
            finally:
                os.close(fd)
        return []

    def remember(self, known: Iterable[str]) -> None:
        """Write down the addresses of those who have proven who they are. OSError where that cannot be."""
        path = os.path.join(self.sessions, KNOWN)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(f"{path}.new", flags, 0o600)
        with open(fd, "w") as file:
            file.writelines(f"{host}\n" for host in known)
        os.rename(f"{path}.new", path)

    def close(self) -> None:
        """Let another collector use it."""
        os.close(self._lock)

    def checkpoint(self, token: bytes) -> str:
        """The path of a session's checkpoint."""
        return os.path.join(self.sessions, token.hex())

    def checkpoint_of(self, path: str) -> str:
        """The path of the checkpoint of a merged capture at `path`."""
        return os.path.join(self.sessions, os.path.basename(path) + MERGED)

    def capture(self, host: str, now: float | None = None) -> str:
        """A free path for a capture that begins now: `host-20260131-235959.pcapng`, UTC."""
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now))
        stem = os.path.join(self.path, f"{harmless(host)}-{stamp}")
        self._given = {path for path in self._given if stamp in path}
        number, path = 1, f"{stem}.pcapng"
        while self.taken(path) or path in self._given:
            number += 1
            path = f"{stem}.{number}.pcapng"
        self._given.add(path)
        return path

    def beside(self, path: str) -> str:
        """This path where it is free, or one beside it: `all.2.pcapng`. No file of a rotation has it."""
        root, extension = os.path.splitext(path)
        with contextlib.suppress(OSError):
            names = os.listdir(os.path.dirname(os.path.abspath(path)))
            for number in count(1):
                free = f"{root}.{number}{extension}" if number > 1 else path
                if not any(map(_files_of(free).fullmatch, names)):
                    return free
        return path

    def any_of(self, path: str) -> bool:
        """Whether a capture of that path, or any file of its rotation, is there; also where that cannot be
        known.
        """
        try:
            return any(map(_files_of(path).fullmatch, os.listdir(os.path.dirname(os.path.abspath(path)))))
        except OSError:
            return True

    def checkpoints(self) -> Iterator[str]:
        """The paths of the checkpoints of sessions; those that were not touched for KEEP seconds are
        deleted.
        """  # fmt: skip
        oldest = time.time() - KEEP
        with os.scandir(self.sessions) as entries:
            found = [entry for entry in entries if _LEDGER.fullmatch(entry.name)]
        for entry in found:
            with contextlib.suppress(OSError):  # it has gone meanwhile, or stays until the disk takes changes
                if entry.name.endswith(".new") or entry.stat(follow_symlinks=False).st_mtime < oldest:
                    os.unlink(entry.path)
                    continue
            yield entry.path

    def taken(self, path: str) -> bool:
        """Whether a capture of that path, or the first file of its rotation, is there."""
        root, extension = os.path.splitext(path)
        return any(os.path.lexists(each) for each in (path, f"{root}-0001{extension}"))


def _files_of(path: str) -> re.Pattern[str]:
    """The names of a capture at this path, and of the files of its rotation."""
    root, extension = os.path.splitext(os.path.basename(path))
    return re.compile(re.escape(root) + r"(-\d{4,})?" + re.escape(extension))


def _sync(folder: str) -> None:
    with contextlib.suppress(OSError):  # one that we may not read is none that was made here
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
