"""What the verbs that read captures share, before they look at untrusted bytes: one thread, memory in huge
pages, no privileges.

Invariant: nothing in a file can make use of what root may do. All capabilities go; only where a file named on
the command line could not be read, or one could not be written, by this user without it, the one capability
that is needed for that stays.
"""

import argparse
import mmap
import os
import stat
from typing import Final

from kwire.kernel import privileges

READ_ANY: Final = "CAP_DAC_READ_SEARCH"
WRITE_ANY: Final = "CAP_DAC_OVERRIDE"
OUTPUTS: Final = ("output", "write", "plot")  # arguments that name what is written
MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # parameters of mallopt(3)
ALONE: Final = 32 << 20  # bytes that malloc asks the kernel for by themselves; older C libraries take no more
KEPT: Final = 256 << 20  # bytes that malloc keeps at the end of its heap, to be used again
HEAP: Final = 48 << 20  # bytes of the heap that lie in huge pages: what a reading takes, about


def one_thread() -> None:
    """Keep numpy's linear algebra from starting a thread for each CPU: nobody here asks it anything."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def huge_pages() -> None:
    """Have the memory of a reading lie in huge pages, and be used again rather than given back at once.

    Frames and columns are blocks of a megabyte, which malloc would take from the kernel each time: a third of
    the time of a short command is page faults. Nothing is done where the C library has no mallopt.
    """
    from ctypes import c_size_t, c_void_p

    from kwire.kernel.syscall import libc

    library = libc()
    if not hasattr(library, "mallopt"):
        return
    library.malloc.restype = c_void_p
    library.mallopt(MMAP_THRESHOLD, ALONE)
    library.mallopt(TRIM_THRESHOLD, KEPT)
    blocks = [library.malloc(c_size_t(HEAP // 2)) for _ in range(2)]  # below ALONE, so on the heap
    for start in filter(None, blocks):
        into = start % mmap.PAGESIZE
        library.madvise(c_void_p(start - into), c_size_t(HEAP // 2 + into), mmap.MADV_HUGEPAGE)
        library.free(c_void_p(start))


def confine(args: argparse.Namespace) -> None:
    """Give up what this process may do beyond what `args` need. Raises KernelError."""
    held = privileges.effective()
    if not held:
        return
    named = getattr(args, "files", None) or getattr(args, "input", None) or [getattr(args, "file", "-")]
    written = [path for path in (getattr(args, name, None) for name in OUTPUTS) if isinstance(path, str)]
    keep = set()
    if any(not _allowed(path, stat.S_IROTH) for path in named):
        keep.add(READ_ANY)
    if any(not _allowed(path, stat.S_IWOTH) for path in written):
        keep.add(WRITE_ANY)
    privileges.drop(keep=keep & held)


def _allowed(path: str, bit: int) -> bool:
    """Whether this user may read, or write, a file like this, capabilities aside.

    What is written is made beside its place, so the folder must be writable too (see Destination).
    """
    path = os.path.realpath(path)
    try:
        folder = os.stat(os.path.dirname(path))
        there = os.stat(path) if os.path.lexists(path) else None
        made = bit == stat.S_IWOTH and (there is None or stat.S_ISREG(there.st_mode))
        return (
            _has(folder, stat.S_IXOTH)
            and (there is None or _has(there, bit))
            and (not made or _has(folder, stat.S_IWOTH))
        )
    except OSError:
        return True  # trying will say what is wrong


def _has(status: os.stat_result, bit: int) -> bool:
    """Whether the mode gives this user the right that `bit` gives to others."""
    if status.st_uid == os.geteuid():
        return bool(status.st_mode & bit << 6)
    if status.st_gid in (os.getegid(), *os.getgroups()):
        return bool(status.st_mode & bit << 3)
    return bool(status.st_mode & bit)
