"""A system-call filter for who talks to the network: classic BPF made from a table, installed by seccomp(2).

Invariants: `CALLS` is all that a collector may do, `AGENT_CALLS` an agent, each with its reason; everything
else fails with EPERM, as if it were forbidden to this user, so that what nobody thought of is an error with a
message and not a death in the dark; only a call of another architecture, which no honest code makes, kills
the process. A filter is for good: it stays for all threads and for whatever they start, which is nothing,
because execve(2) is in no table. Libraries must be loaded before: no memory with code in it can be had after.
Numbers are those of asm/unistd_64.h (x86_64) and asm-generic/unistd.h (aarch64); None: it has no such call.

Which files a process may open is not this filter's matter: seccomp cannot look at paths (`landlock` does).
"""

import ctypes
import errno
import os
import struct
from collections.abc import Mapping
from typing import Final, NamedTuple

from kwire.kernel.syscall import address_of, reason, syscall

PR_SET_NO_NEW_PRIVS: Final = 38
SECCOMP_SET_MODE_FILTER: Final = 1
SECCOMP_FILTER_FLAG_TSYNC: Final = 1

ALLOW: Final = 0x7FFF0000
KILL: Final = 0x80000000  # the whole process
ERRNO: Final = 0x00050000  # or'ed with the errno

# struct seccomp_data: int nr; u32 arch; u64 instruction_pointer; u64 args[6]
NUMBER_AT, ARCH_AT, ARGS_AT = 0, 4, 16

ARCHES: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""Machine → AUDIT_ARCH of linux/audit.h. On others there is no filter."""

X32: Final = 0x40000000  # the numbers of x86_64's other ABI begin here

# Classic BPF: linux/bpf_common.h
LOAD, EQUAL, SET, GREATER, RETURN = 0x20, 0x15, 0x45, 0x35, 0x06

_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter: code, jump if true, jump if false, k


class Call(NamedTuple):
    """A system call: its numbers, why it is needed, and what its arguments must be (a name of `LIMITS`)."""

    x86_64: int | None
    aarch64: int | None
    why: str
    limit: str = ""


class Limit(NamedTuple):
    """What an argument must be: one of `values`; or with all bits of `has`, and none of `lacks`; or, where
    `own` is set, the id of the process that is confined.

    It fails with `errno` otherwise. Only the lower 32 bits are looked at: the kernel looks at no others.
    """

    argument: int
    values: tuple[int, ...] = ()
    has: int = 0
    lacks: int = 0
    errno: int = errno.EPERM
    own: bool = False


PROT_EXEC: Final = 4
CLONE_THREAD: Final = 0x10000

O_WRITES: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

LIMITS: Final[dict[str, Limit]] = {
    "no code": Limit(2, lacks=PROT_EXEC),
    "thread": Limit(0, has=CLONE_THREAD),
    "network": Limit(0, values=(1, 2, 10, 16), errno=errno.EAFNOSUPPORT),  # unix, inet, inet6, netlink
    # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIOCLEX
    "harmless": Limit(1, values=(0x5401, 0x5413, 0x541B, 0x5421, 0x5451), errno=errno.ENOTTY),
    # of bpf(2): MAP_LOOKUP_ELEM, _UPDATE_ELEM, _DELETE_ELEM, _GET_NEXT_KEY, PROG_TEST_RUN,
    # OBJ_GET_INFO_BY_FD, MAP_LOOKUP_BATCH
    "own maps": Limit(0, values=(1, 2, 3, 4, 10, 15, 24)),
    "reading": Limit(2, lacks=O_WRITES, errno=errno.EACCES),
    "reading, old": Limit(1, lacks=O_WRITES, errno=errno.EACCES),
    "itself": Limit(0, own=True),
    "never": Limit(0, values=(), errno=errno.ENOSYS),
}
"""`never` says that the kernel has no such call, so that libraries take the older one."""


# The calls of a busy collector come first: the filter goes through them in order.
CALLS: Final[dict[str, Call]] = {
    "epoll_wait": Call(232, None, "the loop"),
    "epoll_pwait": Call(281, 22, "the loop"),
    "recvfrom": Call(45, 207, "receiving"),
    "pwrite64": Call(18, 68, "captures and checkpoints"),
    "sendmsg": Call(46, 211, "sending"),
    "sendto": Call(44, 206, "sending"),
    "recvmsg": Call(47, 212, "receiving; answers of name servers and of the kernel's list of addresses"),
    "clock_gettime": Call(228, 113, "the time, where the vDSO cannot tell"),
    "futex": Call(202, 98, "locks of the interpreter and of the C library"),
    "read": Call(0, 63, "TLS, descriptors that wake the loop, modules that are imported late"),
    "write": Call(1, 64, "TLS, messages, summaries"),
    "readv": Call(19, 65, "TLS"),
    "writev": Call(20, 66, "TLS"),
    "fallocate": Call(285, 47, "room kept for the ending of captures"),
    "ftruncate": Call(77, 46, "captures cut to what is whole"),
    "fdatasync": Call(75, 83, "--sync"),
    "fsync": Call(74, 82, "--sync"),
    "lseek": Call(8, 62, "positions in files"),
    "pread64": Call(17, 67, "checkpoints"),
    "accept4": Call(288, 242, "agents that connect"),
    "accept": Call(43, 202, "agents that connect"),
    "epoll_ctl": Call(233, 21, "the loop"),
    "epoll_create1": Call(291, 20, "the loop"),
    "eventfd2": Call(290, 19, "waking the loop"),
    "socket": Call(41, 198, "connecting to agents and to name servers", "network"),
    "connect": Call(42, 203, "connecting to agents and to name servers"),
    "bind": Call(49, 200, "the kernel's list of addresses, which getaddrinfo asks for"),
    "listen": Call(50, 201, "listening again"),
    "shutdown": Call(48, 210, "the orderly end of a connection"),
    "getsockname": Call(51, 204, "addresses"),
    "getpeername": Call(52, 205, "addresses"),
    "setsockopt": Call(54, 208, "settings of connections"),
    "getsockopt": Call(55, 209, "whether a connection came about; who is at a Unix socket"),
    "recvmmsg": Call(299, 243, "datagrams, many at once"),
    "sendmmsg": Call(307, 269, "datagrams, many at once; questions to name servers"),
    "poll": Call(7, None, "waiting for name servers"),
    "ppoll": Call(271, 73, "waiting for name servers"),
    "select": Call(23, None, "waiting"),
    "pselect6": Call(270, 72, "waiting"),
    "close": Call(3, 57, "descriptors"),
    "openat": Call(257, 56, "captures, checkpoints, modules that are imported late, files of the resolver"),
    "open": Call(2, None, "the same, by old libraries"),
    "newfstatat": Call(262, 79, "which files are there"),
    "fstat": Call(5, 80, "what a descriptor is"),
    "stat": Call(4, None, "which files are there"),
    "lstat": Call(6, None, "which files are there"),
    "statx": Call(332, 291, "which files are there"),
    "access": Call(21, None, "which files are there"),
    "faccessat": Call(269, 48, "which files are there"),
    "faccessat2": Call(439, 439, "which files are there"),
    "readlink": Call(89, None, "paths"),
    "readlinkat": Call(267, 78, "paths"),
    "getcwd": Call(79, 17, "paths"),
    "getdents64": Call(217, 61, "checkpoints there are"),
    "rename": Call(82, None, "a new checkpoint in the place of the old one"),
    "renameat": Call(264, 38, "a new checkpoint in the place of the old one"),
    "renameat2": Call(316, 276, "a new checkpoint in the place of the old one"),
    "unlink": Call(87, None, "captures that found no room, old checkpoints, our Unix socket"),
    "unlinkat": Call(263, 35, "captures that found no room, old checkpoints, our Unix socket"),
    "mkdir": Call(83, None, "folders"),
    "mkdirat": Call(258, 34, "folders"),
    "fchmod": Call(91, 52, "the mode of our Unix socket"),
    "flock": Call(73, 32, "one collector a folder"),
    "fcntl": Call(72, 25, "flags of descriptors"),
    "ioctl": Call(
        16, 29, "whether a descriptor is a terminal, and how wide; sockets that do not wait", "harmless"
    ),
    "mmap": Call(9, 222, "memory; never with code in it", "no code"),
    "mprotect": Call(10, 226, "memory; never with code in it", "no code"),
    "munmap": Call(11, 215, "memory"),
    "mremap": Call(25, 216, "memory"),
    "madvise": Call(28, 233, "memory"),
    "brk": Call(12, 214, "memory"),
    "getrandom": Call(318, 278, "keys, pauses that differ"),
    "getpid": Call(39, 172, "who we are"),
    "gettid": Call(186, 178, "who we are"),
    "getuid": Call(102, 174, "who we are"),
    "geteuid": Call(107, 175, "who we are"),
    "getgid": Call(104, 176, "who we are"),
    "getegid": Call(108, 177, "who we are"),
    "uname": Call(63, 160, "the machine's name, in captures"),
    "sysinfo": Call(99, 179, "memory there is, asked by the C library"),
    "getrusage": Call(98, 165, "what it cost"),
    "getrlimit": Call(97, 163, "how large a file may be"),
    "prlimit64": Call(302, 261, "the same, by newer libraries"),
    "gettimeofday": Call(96, 169, "the time"),
    "time": Call(201, None, "the time"),
    "clock_getres": Call(229, 114, "the time"),
    "clock_nanosleep": Call(230, 115, "waiting"),
    "nanosleep": Call(35, 101, "waiting"),
    "sched_yield": Call(24, 124, "locks"),
    "sched_getaffinity": Call(204, 123, "CPUs there are, asked by libraries"),
    "rt_sigaction": Call(13, 134, "signals given back"),
    "rt_sigprocmask": Call(14, 135, "signals"),
    "rt_sigreturn": Call(15, 139, "signals"),
    "sigaltstack": Call(131, 132, "signals"),
    "kill": Call(62, 129, "the end by a signal that has come twice", "itself"),
    "restart_syscall": Call(219, 128, "waits that a signal or a debugger has interrupted"),
    "clone": Call(56, 220, "a thread that asks a name server", "thread"),
    "clone3": Call(435, 435, "the same, whose arguments a filter cannot see", "never"),
    "set_robust_list": Call(273, 99, "the beginning of a thread"),
    "rseq": Call(334, 293, "the beginning of a thread"),
    "dup": Call(32, 23, "the end of a pipe that nobody reads"),
    "dup2": Call(33, None, "the end of a pipe that nobody reads"),
    "dup3": Call(292, 24, "the end of a pipe that nobody reads"),
    "exit": Call(60, 93, "the end of a thread"),
    "exit_group": Call(231, 94, "the end"),
}


_NOT_FOR_AGENTS: Final = frozenset({"fallocate", "flock", "mkdir", "mkdirat", "fchmod", "listen"})

AGENT_CALLS: Final[dict[str, Call]] = {
    **{name: call for name, call in CALLS.items() if name not in _NOT_FOR_AGENTS},
    "bpf": Call(321, 280, "maps and programs that are open: counters, processes that have ended", "own maps"),
    "pwritev": Call(296, 70, "records of a spool"),
    "pwritev2": Call(328, 287, "records of a spool"),
    "rmdir": Call(84, None, "the folder of a spool that was delivered"),
    "fstatfs": Call(138, 44, "the place of a spool"),
    "socketpair": Call(53, 199, "the way to a tracer"),
    "wait4": Call(61, 260, "the end of what was started"),
    "waitid": Call(247, 95, "the end of what was started"),
}
"""What an agent needs when its probes are attached. Folders and locks are made before."""

_SPOOLING: Final = frozenset(
    {"pwritev", "pwritev2", "rmdir", "ftruncate", "rename", "renameat", "renameat2", "unlink", "unlinkat"}
)


def agent_calls(writes: bool) -> dict[str, Call]:
    """The calls of an agent; one without a spool does not write (`writes`) to any file that is not open."""
    if writes:
        return AGENT_CALLS
    calls = {name: call for name, call in AGENT_CALLS.items() if name not in _SPOOLING}
    return {
        **calls,
        "openat": calls["openat"]._replace(limit="reading"),
        "open": calls["open"]._replace(limit="reading, old"),
    }


def program(machine: str, calls: Mapping[str, Call] = CALLS) -> bytes:
    """The filter for a machine of `ARCHES`: an array of struct sock_filter. KeyError for another machine."""
    code = [
        (LOAD, 0, 0, ARCH_AT),
        (EQUAL, 1, 0, ARCHES[machine]),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER_AT),
    ]
    if machine == "x86_64":
        code += [(GREATER, 0, 1, X32), (RETURN, 0, 0, KILL)]
    for call in calls.values():
        number = call.x86_64 if machine == "x86_64" else call.aarch64
        if number is None:
            continue
        then = _limited(LIMITS[call.limit]) if call.limit else [(RETURN, 0, 0, ALLOW)]
        code += [(EQUAL, 0, len(then), number), *then]
    code.append((RETURN, 0, 0, ERRNO | errno.EPERM))
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in code)


def _limited(limit: Limit) -> list[tuple[int, int, int, int]]:
    """What to do with a call whose argument is limited; it ends in any case."""
    code = [(LOAD, 0, 0, ARGS_AT + 8 * limit.argument)]
    refuse = (RETURN, 0, 0, ERRNO | limit.errno)
    for value in (*limit.values, *([os.getpid()] if limit.own else ())):
        code += [(EQUAL, 0, 1, value), (RETURN, 0, 0, ALLOW)]
    if limit.has:
        code += [(SET, 0, 1, limit.has), (RETURN, 0, 0, ALLOW)]
    if limit.lacks:
        code += [(SET, 1, 0, limit.lacks), (RETURN, 0, 0, ALLOW)]
    return [*code, refuse]


def confine(calls: Mapping[str, Call] = CALLS) -> str:
    """Install the filter for all threads of this process, for good. Gives why it cannot be; "" where it is.

    Sets no_new_privs, without which the kernel takes filters from root only.
    """
    machine = os.uname().machine
    if machine not in ARCHES:
        return f"none is known for {machine}"
    code = program(machine, calls)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), *(ctypes.c_ulong(0),) * 3):
        return reason(ctypes.get_errno())
    header = struct.pack("=HxxxxxxQ", len(code) // _INSTRUCTION.size, address_of(code))  # struct sock_fprog
    _, error = syscall("seccomp", SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, address_of(header))
    return reason(error) if error else ""


def mode() -> int:
    """What the kernel says of the calling thread: 0 none, 1 strict, 2 filtered; -1 where it does not say."""
    try:
        with open("/proc/thread-self/status") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("Seccomp:")), -1)
    except OSError:
        return -1
