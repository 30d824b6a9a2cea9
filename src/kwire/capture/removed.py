"""What retention has removed of the captures in a folder: `kwire verify` tells it from what is missing.

Invariants: the ledger (`.removed`, beside the captures) names a file before the file is removed, so after a
crash it may name one that is still there, and never lacks one that is gone; it is replaced as a whole, and is
on the disk before anything is removed. A line is of one capture: its id, the numbers of files, when the
newest of them was written last (seconds since 1970), the name of its first file. Whoever reads it trusts
nothing in it: a line that is none is passed over.
"""

import contextlib
import os
import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple, TypeAlias

LEDGER: Final = ".removed"
MOST_READ: Final = 16 << 20
"""Bytes of a ledger that are read: a hundred thousand captures."""

_LINE = re.compile(r"([0-9a-f]{32}) (\d{1,9}-\d{1,9}(?:,\d{1,9}-\d{1,9})*) (\d{1,12}) ([^/\n]{1,255})")
_BREAK = re.compile(r"[/\n]")

Range: TypeAlias = tuple[int, int]


class Removed(NamedTuple):
    """Files of one capture: ranges of their numbers, both ends included; when the newest was written last,
    seconds since 1970; the name of the first file of the capture, without its number.
    """

    ranges: tuple[Range, ...]
    until: int
    name: str

    def add(self, number: int, written: int) -> "Removed":
        """With one more file."""
        return self._replace(ranges=_joined([*self.ranges, (number, number)]), until=max(self.until, written))

    def text(self) -> str:
        """Its line."""
        ranges = ",".join(f"{first}-{last}" for first, last in self.ranges)
        return f"{ranges} {self.until} {_BREAK.sub('?', self.name)}"


Ledger: TypeAlias = Mapping[str, Removed]
"""By the id of the capture."""


def read_ledger(folder: str) -> dict[str, Removed]:
    """The ledger of a folder; empty where there is none, or none that can be read."""
    found: dict[str, Removed] = {}
    with contextlib.suppress(OSError):
        # What somebody put there instead is not waited for.
        fd = os.open(os.path.join(folder, LEDGER), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            text = file.read(MOST_READ).decode("utf-8", "surrogateescape")
        for line in text.split("\n"):
            match = _LINE.fullmatch(line)
            numbers = (part.split("-") for part in match[2].split(",")) if match else ()
            ranges = _joined((int(first), int(last)) for first, last in numbers)
            if match and ranges:
                found[match[1]] = Removed(ranges, int(match[3]), match[4])
    return found


def write_ledger(folder: str, ledger: Ledger) -> None:
    """Put a ledger in the place of the one there is; it is on the disk then. OSError where that cannot be."""
    path = os.path.join(folder, LEDGER)
    fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    with open(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.writelines(f"{id} {removed.text()}\n" for id, removed in ledger.items())
        file.flush()
        os.fsync(fd)
    os.rename(f"{path}.new", path)
    folder_fd = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder_fd)
    finally:
        os.close(folder_fd)


def in_words(ranges: Iterable[Range]) -> str:
    """Files by their numbers, of which there are some: `file 1`, `files 1 to 4`, `files 1 to 4 and 7`."""
    ranges = _joined(ranges)
    *parts, last = (f"{first}" if first == last else f"{first} to {last}" for first, last in ranges)
    noun = "file" if len(ranges) == 1 and ranges[0][0] == ranges[0][1] else "files"
    return f"{noun} {' and '.join(filter(None, [', '.join(parts), last]))}"


def without(ranges: Iterable[Range], others: Iterable[Range]) -> list[Range]:
    """The numbers of `ranges` that are in none of the `others`, in order."""
    found: list[Range] = []
    holes = _joined(others)
    for first, last in _joined(ranges):
        for low, high in holes:
            if high < first or last < low:
                continue
            if first < low:
                found.append((first, low - 1))
            first = high + 1
        if first <= last:
            found.append((first, last))
    return found


def _joined(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """The same in order, with what touches as one."""
    joined: list[Range] = []
    for first, last in sorted(ranges):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = joined[-1][0], max(joined[-1][1], last)
        elif first <= last:
            joined.append((first, last))
    return tuple(joined)
