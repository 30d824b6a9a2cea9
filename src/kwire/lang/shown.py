"""How people read the numbers of an attach point: flags of system calls, errors, devices, addresses.

Invariants: only integers that say nothing of themselves get a display, and it changes nothing but how they
are shown; what is not known for certain stays a plain number. Displays are those of `wire.fields.DISPLAYS`
and `wire.names.tables`.
"""

from collections.abc import Mapping

from kwire.lang import types as t
from kwire.lang.context import Param, Site
from kwire.lang.types import Type
from kwire.wire.names import RETURN_ADDRESSES

ENTER, EXIT = "syscalls:sys_enter_", "syscalls:sys_exit_"
RAW = {"raw_syscalls:sys_enter": "hex", "raw_syscalls:sys_exit": "errno"}
"""Tracepoints of every system call → how they show what is not the call's number."""

TYPEDEFS = {"dev_t": "dev", "umode_t": "octal", "sa_family_t": "family"}
"""The kernel's own names of types whose values have a way of being read."""

RESULTS = frozenset(("ret", "err", "error", "retval", "rc"))
"""Names of tracepoints' fields that hold what a function of the kernel returned."""

ANYWHERE = {
    **dict.fromkeys(("fd", "dfd", "newdfd", "olddfd", "from_dfd", "to_dfd"), "fd"),
    **dict.fromkeys(("addr", "new_addr", "start", "brk", "newsp", "tls", "shmaddr"), "hex"),
    **dict.fromkeys(("mode", "umask"), "octal"),
    **dict.fromkeys(("clock_id", "clockid", "which_clock"), "clock"),
    "sig": "signal",
    "signal": "signal",
    "prot": "prot",
    "family": "family",
    "whence": "seek",
    "at_flags": "at",
}
"""Arguments of system calls that mean the same wherever they have this name."""

_OWN = """
open.flags=open openat.flags=open open_by_handle_at.flags=open mq_open.oflag=open
fanotify_init.event_f_flags=open access.mode=access faccessat.mode=access faccessat2.mode=access
faccessat2.flags=at mmap.flags=mmap mmap.off=hex mremap.flags=mremap msync.flags=msync
mlockall.flags=mlockall madvise.behavior=madvise process_madvise.behavior=madvise newfstatat.flag=at
statx.flags=at linkat.flags=at fchownat.flag=at utimensat.flags=at fchmodat2.flags=at execveat.flags=at
name_to_handle_at.flag=at unlinkat.flag=unlinkat renameat2.flags=rename umask.mask=octal socket.type=socket
socketpair.type=socket accept4.flags=accept4 shutdown.how=shutdown setsockopt.level=level
getsockopt.level=level sendto.flags=message recvfrom.flags=message sendmsg.flags=message
recvmsg.flags=message sendmmsg.flags=message recvmmsg.flags=message pipe2.flags=pipe2 dup3.flags=dup3
epoll_create1.flags=epoll epoll_ctl.op=epoll_ctl eventfd2.flags=eventfd signalfd4.flags=signalfd
timerfd_create.flags=timerfd inotify_init1.flags=inotify memfd_create.flags=memfd getrandom.flags=random
fcntl.cmd=fcntl flock.cmd=flock futex.op=futex clone.clone_flags=clone unshare.unshare_flags=clone
setns.flags=clone mount.flags=mount umount.flags=umount wait4.options=wait waitid.options=wait
getrlimit.resource=limit setrlimit.resource=limit prlimit64.resource=limit rt_sigprocmask.how=sigmask
arch_prctl.option=arch_prctl ioctl.cmd=hex ioctl.arg=hex mknod.dev=user_dev mknodat.dev=user_dev
ustat.dev=user_dev fallocate.mode= prctl.arg2=hex fcntl.arg=hex mbind.mode= set_mempolicy.mode=
clone.parent_tidptr=hex
"""
OWN = {place: display for place, _, display in (word.partition("=") for word in _OWN.split())}
"""Arguments by `call.argument`; an empty display: the name means something else here."""


NAMES = frozenset(
    ("filename", "pathname", "path", "name", "oldname", "newname", "old", "new", "dir_name", "dev_name")
)
"""Arguments of type `const char *` that are names of files; others may be data without a NUL."""


def is_name(site: Site, name: str, type_: Type) -> bool:
    """Whether an argument of a system call is the address of a file's name, which is shown as the name."""
    pointed = type_.target if isinstance(type_, t.Pointer) else None
    return (
        isinstance(pointed, t.Int)
        and pointed.char
        and name in NAMES
        and site.target.startswith("syscalls:sys_enter")
    )


def shown(site: Site, printed: Mapping[str, str] | None = None) -> Site:
    """The site with displays for its numbers. `printed`: what the tracepoint itself prints in its own way."""
    returned = site.retval
    if returned is not None and t.signed(returned.type):
        returned = _with(returned, "errno")
    if site.kind != "tracepoint":
        return site.replace(retval=returned)
    return site.replace(
        params=tuple(_with(param, _display(site.target, param, printed or {})) for param in site.params),
        retval=returned,
    )


def _display(target: str, param: Param, printed: Mapping[str, str]) -> str:
    name = param.name
    if target in RAW:
        return "syscall" if name == "id" else RAW[target]
    if name == "__syscall_nr":
        return ""  # the probe's own name says it
    if target.startswith(EXIT):
        return "address" if target.removeprefix(EXIT) in RETURN_ADDRESSES else "errno"
    if target.startswith(ENTER):
        return OWN.get(f"{target.removeprefix(ENTER)}.{name}", ANYWHERE.get(name, ""))
    if target.startswith("signal:") and name == "sig":
        return "signal"
    if name in RESULTS and t.signed(param.type):
        return "errno"
    return printed.get(name, "")


def _with(param: Param, display: str) -> Param:
    return param.replace(type=displayed(param.type, display)) if display else param


def displayed(type_: Type, display: str) -> Type:
    """The type with a display, where it is a plain integer, or an array of such."""
    if isinstance(type_, t.Int) and not type_.display and not type_.char:
        return type_.replace(display=display)
    if isinstance(type_, t.Array) and not type_.display:
        return type_.replace(element=displayed(type_.element, display))
    return type_
