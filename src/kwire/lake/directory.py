"""A lake's directory: what lies where, who may change it, and how a change becomes visible.

    DIR/probe=NAME/_common_metadata                 the columns of a probe, with its spec
    DIR/probe=NAME/day=2026-11-30/host=HOST/*.parquet
    DIR/.kwire/captures/KEY.json                    what a capture told: an account (see `accounts`)
    DIR/.kwire/new-*                                what is being made

Invariants: a file `*.parquet` is whole, was synced, and never changes; it comes by rename(2), or in the place
of others by an exchange of its whole directory, so whoever lists a directory sees what was there before or
what is there after. One process changes a lake at a time (`change`, flock(2)); making files takes no lock.
What a killed process left is removed by the next one. A directory that is to be exchanged is made beside the
lake, where no engine looks; inside of `.kwire` only where DIR is a file system of its own. What comes from a
capture becomes part of a path as a few harmless characters.
"""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple
from urllib.parse import quote

from kwire.errors import KwireError

OWN: Final = ".kwire"
CAPTURES: Final = "captures"
MAKING: Final = "new-"
SUFFIX: Final = ".parquet"
COLUMNS: Final = "_common_metadata"
NO_HOST: Final = "__HIVE_DEFAULT_PARTITION__"
"""What stands for an empty value in the name of a partition."""

LONGEST: Final = 120
"""Characters kept of a host's or a probe's name."""

DAY_NS: Final = 86_400_000_000_000

_NO_TEXT = re.compile(r"[-+0-9.eE:_T]+|nan|inf|infinity|true|false|null", re.IGNORECASE)
_EXCHANGE: Final = 2  # RENAME_EXCHANGE of linux/fs.h
_AT_CWD: Final = -100
_UNSUPPORTED: Final = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


class LakeError(KwireError):
    """A directory that is no lake, or that cannot be changed."""


class Partition(NamedTuple):
    """Where some files are: the directory of a probe, days since 1970 (UTC), a host as a path has it."""

    probe: str
    day: int
    host: str

    @property
    def path(self) -> str:
        """Its directory, from that of the lake."""
        return os.path.join(self.probe, f"day={day_text(self.day)}", f"host={self.host}")


def day_text(day: int) -> str:
    """`2026-11-30`, of days since 1970; years have four digits in every moment of 64 bits."""
    import datetime

    return (datetime.date(1970, 1, 1) + datetime.timedelta(days=day)).isoformat()


def day_number(text: str) -> int | None:
    """Days since 1970 of such a text; None where it is none."""
    import datetime

    with contextlib.suppress(ValueError):
        return (datetime.date.fromisoformat(text) - datetime.date(1970, 1, 1)).days
    return None


def segment(host: str) -> str:
    """A host's name as Hive writes it in a path; one that is too long is cut, with a hash of all of it.

    What engines would take for a number or a date has its first character coded, so that it stays text.
    """
    if not host or host == NO_HOST:
        return NO_HOST
    made = ""
    if _NO_TEXT.fullmatch(host) and host.count(".") < 2:
        made, host = f"%{ord(host[0]):02X}", host[1:]
    for char in host:
        coded = quote(char, safe="", errors="replace")
        if len(made) + len(coded) > LONGEST:
            return f"{made}~{hashlib.sha256(host.encode(errors='replace')).hexdigest()[:12]}"
        made += coded
    return made


def identifier(probe: str) -> str:
    """A probe's spec as part of a path."""
    return re.sub(r"[^A-Za-z0-9_]+", "_", probe)[:LONGEST].strip("_") or "probe"


def check_path(path: str) -> None:
    """LakeError where no lake can be at a path, as other files are there; OSError."""
    names = os.listdir(path) if os.path.isdir(path) else []
    if names and OWN not in names:  # by one look: another process may be making it
        cure = "name one that is empty, or not there"
        raise LakeError("write to", path, "it has other files, and is no lake", cure)


class Lake:
    """A lake at `path`. LakeError where it is none; with `make` it is made where nothing, or nothing else, is
    there.
    """  # fmt: skip

    __slots__ = ("own", "path")

    def __init__(self, path: str, *, make: bool = False) -> None:
        self.path = path
        self.own = os.path.join(path, OWN)
        if any("\ud800" <= char <= "\udfff" for char in path):  # libraries of Parquet cannot name it
            raise LakeError("open", ascii(path), "its name is not in UTF-8", "name another directory")
        if make:
            self._make()
        if not os.path.isdir(self.captures):
            there = os.path.isdir(path)
            cause = "it is no lake" if there else "it is not there"
            raise LakeError("open", path, cause, "kwire export CAPTURE --partition DIR makes one")

    @property
    def captures(self) -> str:
        """Where the accounts are."""
        return os.path.join(self.own, CAPTURES)

    def _make(self) -> None:
        try:
            os.makedirs(self.path, 0o700, exist_ok=True)  # what was seen is nobody else's, unless they say so
            check_path(self.path)
            os.makedirs(self.captures, exist_ok=True)
            sync(self.path, self.own)
        except OSError as error:
            raise LakeError("write to", self.path, reason(error)) from None

    # ------------------------------------------------------------------ changing it

    @contextlib.contextmanager
    def change(self) -> Iterator[None]:
        """Alone: others who change the lake wait. LakeError where it cannot be changed."""
        with self._failing(), contextlib.ExitStack() as stack:
            fd = os.open(self.own, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            fcntl.flock(fd, fcntl.LOCK_EX)
            self._sweep_exchanged()
            yield

    @contextlib.contextmanager
    def making(self) -> Iterator[str]:
        """A folder in which files are made, on the lake's file system; it goes at the end. LakeError where
        they cannot be made.
        """  # fmt: skip
        with self._failing(), contextlib.ExitStack() as stack:
            with self.change():
                self._sweep_made()
                folder = tempfile.mkdtemp(prefix=MAKING, dir=self.own)
                fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                stack.callback(os.close, fd)
                fcntl.flock(fd, fcntl.LOCK_EX)
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            yield folder

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """What the file system refuses is said of the lake."""
        try:
            yield
        except OSError as error:
            place = f"{error.filename}: " if isinstance(error.filename, str) else ""
            raise LakeError("write to", self.path, f"{place}{reason(error)}") from None

    def _sweep_made(self) -> None:
        """Remove what killed processes were making: nobody holds its lock."""
        for name in os.listdir(self.own):
            if not name.startswith(MAKING):
                continue
            folder = os.path.join(self.own, name)
            with contextlib.suppress(OSError):
                fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
                finally:
                    os.close(fd)

    def _beside(self) -> tuple[str, str]:
        """The folder in which directories that are to be exchanged are made, and how their names begin."""
        whole = os.path.abspath(self.path)
        parent = os.path.dirname(whole)
        same = os.stat(parent).st_dev == os.stat(whole).st_dev and os.access(parent, os.W_OK)
        return (parent, f".{os.path.basename(whole)}.kwire-exchange-") if same else (self.own, "exchange-")

    def _sweep_exchanged(self) -> None:
        parent, prefix = self._beside()
        for name in os.listdir(parent):
            if name.startswith(prefix):
                shutil.rmtree(os.path.join(parent, name), ignore_errors=True)

    def put(self, partition: str, files: Mapping[str, str]) -> None:
        """Give a partition's directory more files: names → where they were made. In `change` only."""
        directory = os.path.join(self.path, partition)
        os.makedirs(directory, exist_ok=True)
        for name, made in files.items():
            os.rename(made, os.path.join(directory, name))
        parts = partition.split(os.sep)
        sync(*(os.path.join(self.path, *parts[:many]) for many in range(len(parts) + 1)))

    def exchange(self, partition: str, gone: Iterable[str], files: Mapping[str, str]) -> None:
        """Put files in the place of others, at once for everybody who lists the directory. In `change` only.
        LakeError where the file system cannot.
        """
        directory, taken = os.path.join(self.path, partition), {*gone, *files}
        parent, prefix = self._beside()
        beside = tempfile.mkdtemp(prefix=prefix, dir=parent)
        try:
            os.chmod(beside, os.stat(directory).st_mode & 0o7777)
            for name in os.listdir(directory):
                if name not in taken:
                    os.link(os.path.join(directory, name), os.path.join(beside, name))
            for name, made in files.items():
                os.link(made, os.path.join(beside, name))
            sync(beside)
            _exchange(beside, directory)
            sync(os.path.dirname(directory), parent)
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    # ------------------------------------------------------------------ looking at it

    def probes(self) -> list[str]:
        """The directories of probes that have columns, or events, in order of their names."""
        return sorted(
            name
            for name in os.listdir(self.path)
            if name.startswith("probe=")
            and (os.path.isfile(os.path.join(self.path, name, COLUMNS)) or self.partitions(name))
        )

    def partitions(self, probe: str, first: int | None = None, last: int | None = None) -> list[Partition]:
        """The partitions of a probe, of the days from `first` to `last` (None: whatever there is)."""
        found = []
        for name, where in _folders(os.path.join(self.path, probe), "day="):
            day = day_number(name)
            if day is None or (first is not None and day < first) or (last is not None and day > last):
                continue
            found += [Partition(probe, day, host) for host, _ in _folders(where, "host=")]
        return sorted(found)

    def has(self, partition: str, name: str) -> bool:
        """Whether a file is in a partition's directory."""
        return os.path.lexists(os.path.join(self.path, partition, name))

    def files(self, partition: Partition) -> list[str]:
        """The Parquet files of a partition, by name."""
        try:
            names = os.listdir(os.path.join(self.path, partition.path))
        except FileNotFoundError:
            return []
        return sorted(name for name in names if name.endswith(SUFFIX))


def reason(error: Exception) -> str:
    """Why something failed, in a line: pyarrow's errors of files have texts of their own."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error).partition("\n")[0] or type(error).__name__


def sync(*paths: str) -> None:
    """Have files, and the names in directories, on the disk. OSError."""
    for path in paths:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _folders(path: str, prefix: str) -> list[tuple[str, str]]:
    """What follows the prefix in the names of folders, and their paths."""
    with contextlib.suppress(FileNotFoundError), os.scandir(path) as entries:
        return [(one.name[len(prefix) :], one.path) for one in entries if one.name.startswith(prefix)]
    return []


def _exchange(one: str, other: str) -> None:
    """Exchange two directories by renameat2(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_CWD, os.fsencode(one), _AT_CWD, os.fsencode(other), _EXCHANGE) == 0:
        return
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        cause = "this file system cannot exchange two directories"
        raise LakeError("change", other, cause, "use ext4, XFS, Btrfs or tmpfs")
    raise OSError(number, os.strerror(number), other)
