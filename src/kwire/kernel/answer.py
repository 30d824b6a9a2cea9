"""The answer of a feature probe, and what an errno means for it."""

import errno as errnos
import os
from collections.abc import Callable
from typing import Literal, NamedTuple

from kwire.kernel import cures
from kwire.kernel.sys import CURES
from kwire.kernel.syscall import KernelError, reason


class Answer(NamedTuple):
    """`reason`: why, in words; `cure`: what to do about a "no" or "unknown", "" where nothing helps or is
    needed.
    """

    answer: Literal["yes", "no", "unknown"]
    reason: str = ""
    cure: str = ""


YES = Answer("yes")


def refused(errno: int, note: str = "", cure: str = "", allowed: str = "") -> Answer:
    """The answer for a call that failed. A refusal for lack of privilege says nothing about the kernel.

    `allowed`: what lets this user do it, where that is more than what lets programs load.
    """
    if errno in (errnos.EPERM, errnos.EACCES):
        why = allowed or cures.refused()
        if not cures.may_trace():
            return Answer("unknown", "this user may not try it", why)
        return Answer("no", f"refused even to this user: {reason(errno)}", cure or why)
    if errno in (errnos.ENOMEM, errnos.EMFILE, errnos.ENFILE, errnos.EAGAIN, errnos.EINTR, errnos.EBUSY):
        return Answer("unknown", reason(errno), cure or CURES.get(errno, "try again"))
    return Answer("no", f"{note or 'the kernel does not know it'}: {reason(errno)}", cure)


def trying(action: Callable[[], object]) -> Answer:
    """Yes when the action succeeds, else what its KernelError says."""
    try:
        action()
    except KernelError as error:
        note = error.cause.rsplit(": ", 1)[0] if ": " in error.cause else ""
        missing = without_sysfs() if error.errno == errnos.ENOENT else None
        return missing or refused(error.errno, note, error.cure, error.cure)
    return YES


def without_procfs() -> Answer | None:
    """What is wrong where /proc is not that of the kernel."""
    return _without("/proc/self/stat", "proc", "/proc")


def without_sysfs() -> Answer | None:
    """What is wrong where /sys is not that of the kernel."""
    return _without("/sys/kernel", "sysfs", "/sys")


def _without(path: str, kind: str, place: str) -> Answer | None:
    if os.path.exists(path):
        return None
    return Answer("unknown", f"nothing is mounted at {place}", f"mount it (`mount -t {kind} {kind} {place}`)")
