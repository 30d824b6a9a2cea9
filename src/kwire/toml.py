"""Files in TOML that people write: configurations, policies, hosts, metrics.

Invariants: a file is read whole, or refused with one line that says where and why, whatever stands in it or
at its place: nothing is waited for that is no file.
"""

import os
import re
import stat

from kwire.errors import KwireError
from kwire.hints import Any, Final

MOST: Final = 1 << 20
"""Bytes of a file."""

_PLACE: Final = r" \(at (?:line (\d+), column \d+|end of document)\)$"


def read(path: str, operation: str, error: type[KwireError] = KwireError) -> tuple[dict[str, Any], str]:
    """What a file says, and its text. Raises `error`, with the line where there is one."""
    import tomllib

    try:
        data = _bytes(path)
    except (OSError, ValueError) as failure:
        cause = (getattr(failure, "strerror", None) or str(failure)).lower()
        raise error(operation, path, cause) from None
    if data is None:
        raise error(operation, path, "it is not a file", "name a file in TOML")
    if len(data) > MOST:
        raise error(operation, path, "it is larger than a megabyte")
    try:
        text = data.decode()
    except UnicodeDecodeError as failure:
        line = data[: failure.start].count(b"\n") + 1
        raise error(operation, f"{path}:{line}", "it is not in UTF-8") from None
    try:
        return tomllib.loads(text), text
    except tomllib.TOMLDecodeError as failure:
        match = re.search(_PLACE, str(failure))
        line = int(match[1]) if match and match[1] else text.count("\n") + (not text.endswith("\n"))
        cause = f"it is no TOML: {re.sub(_PLACE, '', str(failure)).lower()}"
        raise error(operation, f"{path}:{line}", cause) from None
    except (ValueError, RecursionError) as failure:  # numbers of thousands of digits, lists in lists in lists
        raise error(operation, path, f"it is no TOML: {str(failure).partition(';')[0].lower()}") from None


def load(path: str, operation: str, error: type[KwireError] = KwireError) -> dict[str, Any]:
    """What a file says, as `read` reads it."""
    return read(path, operation, error)[0]


def _bytes(path: str) -> bytes | None:
    """What stands in a file, and a byte more than may where it is too large; None where it is no file."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise IsADirectoryError(0, "is a directory")
        return file.read(MOST + 1) if stat.S_ISREG(os.fstat(fd).st_mode) else None
