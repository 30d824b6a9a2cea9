"""The answer of a feature probe, and what an errno means for it."""

import errno as errnos
from collections.abc import Callable
from typing import Literal, NamedTuple

from kwire.kernel import cures
from kwire.kernel.sys import KernelError, reason


class Answer(NamedTuple):
    """`reason`: why, in words; `cure`: what to do about a "no" or "unknown", "" where nothing helps or is
    needed.
    """

    answer: Literal["yes", "no", "unknown"]
    reason: str = ""
    cure: str = ""


YES = Answer("yes")


def refused(errno: int, note: str = "", cure: str = "") -> Answer:
    """The answer for a call that failed. A refusal for lack of privilege says nothing about the kernel."""
    if errno in (errnos.EPERM, errnos.EACCES):
        why = cures.refused()
        if not cures.may_trace():
            return Answer("unknown", "this user may not try it", why)
        return Answer("no", f"refused even to this user: {reason(errno)}", cure or why)
    if errno in (errnos.ENOMEM, errnos.EMFILE, errnos.ENFILE, errnos.EAGAIN, errnos.EINTR, errnos.EBUSY):
        return Answer("unknown", reason(errno), "try again")
    return Answer("no", f"{note or 'the kernel does not know it'}: {reason(errno)}", cure)


def trying(action: Callable[[], object]) -> Answer:
    """Yes when the action succeeds, else what its KernelError says."""
    try:
        action()
    except KernelError as error:
        return refused(error.errno, error.cause.rsplit(": ", 1)[0] if ": " in error.cause else "", error.cure)
    return YES
