"""The answer of a feature probe, and what an errno means for it."""

import errno as errnos
from typing import Literal, NamedTuple

from kwire.kernel import privileges
from kwire.kernel.sys import BE_ROOT, PRIVILEGE, reason


class Answer(NamedTuple):
    """`reason`: why, in words; `cure`: what to do about a "no" or "unknown", "" where nothing helps or is
    needed.
    """

    answer: Literal["yes", "no", "unknown"]
    reason: str = ""
    cure: str = ""


YES = Answer("yes")


def may_trace() -> bool:
    """Whether the calling thread has the capabilities for tracing programs."""
    held = privileges.effective()
    return "CAP_SYS_ADMIN" in held or {"CAP_BPF", "CAP_PERFMON"} <= held


def refused(errno: int, note: str = "", cure: str = "") -> Answer:
    """The answer for a call that failed. A refusal for lack of privilege says nothing about the kernel."""
    if errno in (errnos.EPERM, errnos.EACCES):
        if not may_trace():
            return Answer("unknown", "this user may not try it", BE_ROOT)
        why = "a sandbox, lockdown or the kernel's build forbids it"
        cure = why if cure in ("", PRIVILEGE) else cure
        return Answer("no", f"refused even to this user: {reason(errno)}", cure)
    if errno in (errnos.ENOMEM, errnos.EMFILE, errnos.ENFILE, errnos.EAGAIN, errnos.EINTR, errnos.EBUSY):
        return Answer("unknown", reason(errno), "try again")
    return Answer("no", f"{note or 'the kernel does not know it'}: {reason(errno)}", cure)
