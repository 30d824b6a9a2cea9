"""System calls by raw tracepoint: a probe on `syscalls:sys_enter_NAME` or `sys_exit_NAME` made cheaper.

For an ordinary tracepoint the kernel copies the call's arguments into a record before our program runs. The
raw tracepoints `sys_enter` and `sys_exit` skip that and save a fifth of an event's cost, but run at every
system call of the machine: so the rewritten program compares the call's number before anything else, and
only one probe of a trace is carried out so.

The laws: the events are those of the ordinary tracepoint, byte for byte, and so are the firings that count
as events (calls made the 32-bit way, whose numbers mean other calls, are none); what is not known for certain
(the name's number, the machine, a field of another shape) leaves the probe an ordinary tracepoint.

The numbers are part of the kernel's ABI and never change; a test compares them with what the running kernel
says of itself (`struct syscall_metadata`).
"""

from typing import Any, Final

from kwire.bpf.arch import Arch
from kwire.btf.blob import Btf
from kwire.btf.errors import BtfLookupError
from kwire.btf.types import Kind
from kwire.lang import types as t
from kwire.lang.checked import Binary, Compare, Const, Context, DataLocAddress, Expr, Logic, Param, Program
from kwire.lang.context import Argument, CtxField, Saved, Site, TaskMember
from kwire.lang.tree import NOWHERE

GROUP = "syscalls:"
ENTER, EXIT = "sys_enter", "sys_exit"

NUMBER_AT = CtxField(8, 4)
"""Where a record of either tracepoint has the call's number."""

ARGUMENTS_AT = 16
"""Where it has the first argument, in 8 bytes as all of them; on exit, what the call returned."""

TS_COMPAT: Final = 2
"""In `thread_info.status` on x86: the current system call was made the 32-bit way."""

_FROM_0 = """
read write open close newstat newfstat newlstat poll lseek mmap mprotect munmap brk rt_sigaction
rt_sigprocmask rt_sigreturn ioctl pread64 pwrite64 readv writev access pipe select sched_yield mremap msync
mincore madvise shmget shmat shmctl dup dup2 pause nanosleep getitimer alarm setitimer getpid sendfile64
socket connect accept sendto recvfrom sendmsg recvmsg shutdown bind listen getsockname getpeername
socketpair setsockopt getsockopt clone fork vfork execve exit wait4 kill newuname semget semop semctl shmdt
msgget msgsnd msgrcv msgctl fcntl flock fsync fdatasync truncate ftruncate getdents getcwd chdir fchdir
rename mkdir rmdir creat link unlink symlink readlink chmod fchmod chown fchown lchown umask gettimeofday
getrlimit getrusage sysinfo times ptrace getuid syslog getgid setuid setgid geteuid getegid setpgid getppid
getpgrp setsid setreuid setregid getgroups setgroups setresuid getresuid setresgid getresgid getpgid
setfsuid setfsgid getsid capget capset rt_sigpending rt_sigtimedwait rt_sigqueueinfo rt_sigsuspend
sigaltstack utime mknod - personality ustat statfs fstatfs sysfs getpriority setpriority sched_setparam
sched_getparam sched_setscheduler sched_getscheduler sched_get_priority_max sched_get_priority_min
sched_rr_get_interval mlock munlock mlockall munlockall vhangup modify_ldt pivot_root - prctl arch_prctl
adjtimex setrlimit chroot sync acct settimeofday mount umount swapon swapoff reboot sethostname
setdomainname iopl ioperm - init_module delete_module - - quotactl - - - - - - gettid readahead setxattr
lsetxattr fsetxattr getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr removexattr lremovexattr
fremovexattr tkill time futex sched_setaffinity sched_getaffinity - io_setup io_destroy io_getevents
io_submit io_cancel - - epoll_create - - remap_file_pages getdents64 set_tid_address restart_syscall
semtimedop fadvise64 timer_create timer_settime timer_gettime timer_getoverrun timer_delete clock_settime
clock_gettime clock_getres clock_nanosleep exit_group epoll_wait epoll_ctl tgkill utimes - mbind
set_mempolicy get_mempolicy mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr
kexec_load waitid add_key request_key keyctl ioprio_set ioprio_get inotify_init inotify_add_watch
inotify_rm_watch migrate_pages openat mkdirat mknodat fchownat futimesat newfstatat unlinkat renameat linkat
symlinkat readlinkat fchmodat faccessat pselect6 ppoll unshare set_robust_list get_robust_list splice tee
sync_file_range vmsplice move_pages utimensat epoll_pwait signalfd timerfd_create eventfd fallocate
timerfd_settime timerfd_gettime accept4 signalfd4 eventfd2 epoll_create1 dup3 pipe2 inotify_init1 preadv
pwritev rt_tgsigqueueinfo perf_event_open recvmmsg fanotify_init fanotify_mark prlimit64 name_to_handle_at
open_by_handle_at clock_adjtime syncfs sendmmsg setns getcpu process_vm_readv process_vm_writev kcmp
finit_module sched_setattr sched_getattr renameat2 seccomp getrandom memfd_create kexec_file_load bpf
execveat userfaultfd membarrier mlock2 copy_file_range preadv2 pwritev2 pkey_mprotect pkey_alloc pkey_free
statx io_pgetevents rseq uretprobe uprobe
"""
_FROM_424 = """
pidfd_send_signal io_uring_setup io_uring_enter io_uring_register open_tree move_mount fsopen fsconfig
fsmount fspick pidfd_open clone3 close_range openat2 pidfd_getfd faccessat2 process_madvise epoll_pwait2
mount_setattr quotactl_fd landlock_create_ruleset landlock_add_rule landlock_restrict_self memfd_secret
process_mrelease futex_waitv set_mempolicy_home_node cachestat fchmodat2 map_shadow_stack futex_wake
futex_wait futex_requeue statmount listmount lsm_get_self_attr lsm_set_self_attr lsm_list_modules mseal
setxattrat getxattrat listxattrat removexattrat open_tree_attr file_getattr file_setattr
"""
NUMBERS: Final = {
    "x86_64": {
        name: number
        for start, names in ((0, _FROM_0), (424, _FROM_424))
        for number, name in enumerate(names.split(), start)
        if name != "-"
    }
}
"""By machine: the names of tracepoints (without `sys_enter_`) and the numbers of their calls."""


class _UnfitError(Exception):
    """The program wants something that the raw tracepoint has not got."""


def is_syscall(site: Site) -> bool:
    """Whether the site is the entry to or the exit from one system call."""
    return site.kind == "tracepoint" and site.target.startswith((f"{GROUP}{ENTER}_", f"{GROUP}{EXIT}_"))


def by_raw_tracepoint(program: Program, btf: Btf, arch: Arch) -> Program | None:
    """The program rewritten for the raw tracepoint; None where it has to stay what it is.

    `btf`: the running kernel's; `arch`: its machine. Fields and their layout are unchanged.
    """
    where, _, name = program.site.target.removeprefix(GROUP + "sys_").partition("_")
    number = NUMBERS.get(arch.machine, {}).get(name)
    if number is None:
        return None
    try:
        task = btf.find("task_struct", Kind.STRUCT)
        status = btf.member(task, "thread_info.status").offset_bits // 8
        access = _accesses(f"sys_{where}", arch)
        body = tuple(_rewrite(statement, number, access) for statement in program.body)
        filter = None if program.filter is None else _rewrite(program.filter, number, access)
    except (BtfLookupError, _UnfitError):
        return None
    site = Site("rawtracepoint", f"sys_{where}", ())
    guard = _guard(site.target, number, status, arch)
    return program._replace(site=site, body=body, filter=filter, guard=guard)


def _accesses(where: str, arch: Arch) -> dict[int, Argument | Saved]:
    """Offset in the ordinary tracepoint's record → where the raw one finds the same."""
    if where == EXIT:
        return {ARGUMENTS_AT: Argument(1)}
    return {ARGUMENTS_AT + 8 * index: Saved(register) for index, register in enumerate(arch.syscall_args)}


def _guard(where: str, number: int, status: int, arch: Arch) -> Expr:
    """Whether this is the call meant: its number, then that it was not made the 32-bit way."""
    given = Argument(1) if where == ENTER else Saved(arch.registers["orig_ax"])
    call = Compare("eq", Param("id", given, t.S32, NOWHERE), _const(number), False, t.BOOL, NOWHERE)
    flags = Param("status", TaskMember(status), t.U32, NOWHERE)
    compat = Binary("and", flags, _const(TS_COMPAT), t.S64, NOWHERE)
    return Logic("and", call, Compare("eq", compat, _const(0), False, t.BOOL, NOWHERE), t.BOOL, NOWHERE)


def _const(value: int) -> Const:
    return Const(value, t.S32, NOWHERE)


def _rewrite(node: Any, number: int, access: dict[int, Argument | Saved]) -> Any:
    """The same statement or expression with every read of the record replaced. Raises _UnfitError."""
    if isinstance(node, Param) and isinstance(node.access, CtxField):
        if node.access == NUMBER_AT:
            return Const(number, node.type, node.span)
        if node.access.offset not in access:
            raise _UnfitError
        return node._replace(access=access[node.access.offset])
    if isinstance(node, Context | DataLocAddress):
        raise _UnfitError
    if not isinstance(node, tuple):
        return node
    fields = getattr(node, "_fields", None)
    if fields is None:
        return tuple(_rewrite(part, number, access) for part in node)
    changed = {
        name: _rewrite(part, number, access)
        for name, part in zip(fields, node, strict=True)
        if name not in ("type", "span") and isinstance(part, tuple)
    }
    return node._replace(**changed) if changed else node  # type: ignore[attr-defined]
