"""What the verbs that read captures share: they give up privileges before they look at untrusted bytes.

The law: nothing in a file can make use of what root may do. All capabilities go; only where a file named on
the command line could not be opened without it, the one to read any file stays.
"""

import argparse
import os
import stat
from typing import Final

from kwire.kernel import privileges

READ_ANY: Final = "CAP_DAC_READ_SEARCH"


def confine(args: argparse.Namespace) -> None:
    """Give up what this process may do beyond reading the files that `args` names. Raises KernelError."""
    named = getattr(args, "files", None) or getattr(args, "input", None) or [getattr(args, "file", "-")]
    held = privileges.effective()
    if held:
        need = READ_ANY in held and any(not _readable(path) for path in named)
        privileges.drop(keep=(READ_ANY,) if need else ())


def _readable(path: str) -> bool:
    """Whether the file's owner, group and others let this user read it, capabilities aside."""
    try:
        status = os.stat(path)
        folder = os.stat(os.path.dirname(os.path.abspath(path)))
    except OSError:
        return True  # it is no file, or not there: opening it will say so
    return _allowed(status, stat.S_IROTH) and _allowed(folder, stat.S_IXOTH)


def _allowed(status: os.stat_result, other: int) -> bool:
    if status.st_uid == os.geteuid():
        return bool(status.st_mode & other << 6)
    if status.st_gid in (os.getegid(), *os.getgroups()):
        return bool(status.st_mode & other << 3)
    return bool(status.st_mode & other)
