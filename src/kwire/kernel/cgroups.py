"""The control groups of this machine: what stands behind the ids that programs see."""

import os
from collections.abc import Iterator
from contextlib import suppress

ROOT = "/sys/fs/cgroup"
MOST = 10_000
"""Groups that are looked at."""


def paths() -> dict[int, str]:
    """The path of each control group by its id, with the name of its hierarchy before:
    `unified:/system.slice`. Of hierarchies of version 1 the names are those of their mount points.
    """
    found: dict[int, str] = {}
    for hierarchy, top in _hierarchies():
        for folder, below, _ in os.walk(top):
            if len(found) >= MOST:
                return found
            below.sort()
            with suppress(OSError):
                name = folder[len(top) :] or "/"
                number = os.stat(folder).st_ino  # of a group its id
                path = f"{hierarchy}:{name}"
                found[number] = f"{found[number]};{path}" if number in found else path
    return found


def _hierarchies() -> Iterator[tuple[str, str]]:
    """The name of each hierarchy, and where it is mounted."""
    if os.path.exists(f"{ROOT}/cgroup.controllers"):
        yield "unified", ROOT
        return
    with suppress(OSError):
        for entry in sorted(os.scandir(ROOT), key=lambda one: one.name):
            if entry.is_dir(follow_symlinks=False):
                yield entry.name, entry.path
