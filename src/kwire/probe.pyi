"""The names of the probe language, typed: `from kwire.probe import comm, emit, pid`."""

# Made by scripts/probe_types.py of the tables of built-ins.
from builtins import bool as _bool
from builtins import bytes as _bytes
from builtins import int as _int
from builtins import str as _str
from typing import Any as _Any

pid: _int
"""Process id (the kernel's tgid), as it is seen in the pid namespace of kwire."""

tid: _int
"""Thread id (the kernel's pid), likewise."""

ppid: _int
"""Process id of the parent, likewise."""

uid: _int
"""User id."""

gid: _int
"""Group id."""

comm: _str
"""Name of the current thread, at most 15 bytes."""

cpu: _int
"""Number of the CPU."""

nsecs: _int
"""Nanoseconds of the monotonic clock: the event's own time."""

cgroup: _int
"""Id of the cgroup (v2) of the current process."""

curtask: _Any
"""The current thread."""

func: _Any
"""The function the probe is on, shown by name."""

boottime: _int
"""Nanoseconds since the machine was started, its sleep among them."""

tai: _int
"""Nanoseconds of International Atomic Time since 1970."""

rand: _int
"""A random number, another one each time."""

jiffies: _int
"""Ticks of the kernel since it started."""

numaid: _int
"""Number of the NUMA node."""

usermode: _int
"""1 where the CPU was in user mode when the probe fired."""

retval: _Any
"""What the function returned, typed by its prototype."""

args: _Any
"""The attach point's own fields or parameters by name: args.filename."""

arg0: _int
"""An argument as a plain number, without its type."""

arg1: _int
"""An argument as a plain number, without its type."""

arg2: _int
"""An argument as a plain number, without its type."""

arg3: _int
"""An argument as a plain number, without its type."""

arg4: _int
"""An argument as a plain number, without its type."""

arg5: _int
"""An argument as a plain number, without its type."""

arg6: _int
"""An argument as a plain number, without its type."""

arg7: _int
"""An argument as a plain number, without its type."""

arg8: _int
"""An argument as a plain number, without its type."""

arg9: _int
"""An argument as a plain number, without its type."""

arg10: _int
"""An argument as a plain number, without its type."""

arg11: _int
"""An argument as a plain number, without its type."""

def str(p: _Any, n: _int = ..., limit: _int = ..., /) -> _str:
    """`str(p[, n[, limit]])`: text at p to its NUL, at most n (or 256) bytes; a varying n is cut at limit (likewise)."""

def bytes(p: _Any, n: _int, limit: _int = ..., /) -> _bytes:
    """`bytes(p, n[, limit])`: n bytes at p; a varying n is cut at limit (or 64)."""

def reg(name: _str, /) -> _int:
    """`reg("ip")`: a register of the machine where the probe is."""

def user(p: _Any, /) -> _Any:
    """`user(p)`: p as an address of the current process."""

def kernel(p: _Any, /) -> _Any:
    """`kernel(p)`: p as an address of the kernel."""

def deref(p: _Any, /) -> _Any:
    """`deref(p)`: what p points to; the same as p[0]."""

def address(x: _Any, /) -> _Any:
    """`address(x)`: where a local, or what is at a key of a map, is in memory."""

def be16(x: _Any, /) -> _int:
    """`be16(x)`: a big-endian (network order) u16 as a number."""

def be32(x: _Any, /) -> _int:
    """`be32(x)`: a big-endian u32 as a number."""

def be64(x: _Any, /) -> _int:
    """`be64(x)`: a big-endian u64 as a number."""

def be(x: _Any, /) -> _int:
    """`be(x)`: a big-endian number of its own width."""

def ip(x: _Any, /) -> _Any:
    """`ip(x)`: an IPv4 or IPv6 address, by its size: 4 or 16 bytes."""

def ipv4(x: _Any, /) -> _Any:
    """`ipv4(x)`: a 4-byte network-order field, array or pointer, shown as 192.0.2.1."""

def ipv6(x: _Any, /) -> _Any:
    """`ipv6(x)`: a 16-byte array, structure or pointer to one, shown as 2001:db8::1."""

def mac(x: _Any, /) -> _Any:
    """`mac(x)`: a 6-byte array or pointer to one, shown as 00:00:5e:00:53:01."""

def ksym(x: _Any, /) -> _Any:
    """`ksym(x)`: a kernel address, shown as the name of what is there."""

def usym(x: _Any, /) -> _Any:
    """`usym(x)`: an address in the current process, shown as the name of what is there."""

def kstack(*how: _int | _str) -> _Any:
    """`kstack([frames][, "mode"][, most])`: the kernel's stack, of at most 127 frames, or so many; shown as bpftrace, perf or raw; of different ones a trace has at most 8192, or so many."""

def ustack(*how: _int | _str) -> _Any:
    """`ustack(…)`: the stack of the process, likewise; also shown as build_id."""

def sizeof(x: _Any, /) -> _int:
    """`sizeof("struct x") or sizeof(x)`: bytes of a type, or of a value."""

def offsetof(x: _Any, member: _str, /) -> _int:
    """`offsetof("struct x", "a.b")`: where a member lies, in bytes."""

def cast(type: _str, p: _Any, /) -> _Any:
    """`cast("struct x *", p)`: p as another type."""

def len(text: _Any, most: _int = ..., /) -> _int:
    """`len(text[, most]), len(kstack())`: bytes of a text, which ends at its NUL; frames of a stack."""

def socket_cookie(socket: _Any, /) -> _int:
    """`socket_cookie(args.sk)`: the cookie of a socket, the same in all of its events; of an argument of an fentry or fexit."""

def glob(x: _Any, pattern: _str, /) -> _bool:
    """`glob(x, "*.so")`: whether a text matches: `*`, `?`, `[a-z]`, `[!a-z]`; or `x ~ "*.so"` in a condition."""

def min(a: _int, b: _int, /) -> _int:
    """`min(a, b)`: the smaller number."""

def max(a: _int, b: _int, /) -> _int:
    """`max(a, b)`: the greater number."""

def u8(x: _Any, /) -> _int:
    """`u8(x)`: the low 8 bits of x, unsigned."""

def u16(x: _Any, /) -> _int:
    """`u16(x)`: the low 16 bits of x, unsigned."""

def u32(x: _Any, /) -> _int:
    """`u32(x)`: the low 32 bits of x, unsigned."""

def u64(x: _Any, /) -> _int:
    """`u64(x)`: the low 64 bits of x, unsigned."""

def s8(x: _Any, /) -> _int:
    """`s8(x)`: the low 8 bits of x, signed."""

def s16(x: _Any, /) -> _int:
    """`s16(x)`: the low 16 bits of x, signed."""

def s32(x: _Any, /) -> _int:
    """`s32(x)`: the low 32 bits of x, signed."""

def s64(x: _Any, /) -> _int:
    """`s64(x)`: the low 64 bits of x, signed."""

def turns(n: _int, /) -> _bool:
    """`turns(n)`: of a `while` and its `and`: true in the first n turns."""

def exit(status: _int = ..., /) -> None:
    """`exit([status])`: the trace ends, and kwire with this status (or 0); a statement."""

def print(*values: _Any, sep: _str = ..., end: _str = ...) -> None:
    """`print(f"{x} of {y}", …)`: one event, shown as this text; sep= and end= are constant; a statement."""

def emit(*fields: _Any, **named: _Any) -> None:
    """`emit(x, name=y, …)`: one event with these fields; a statement."""

AF_ALG: _int
AF_APPLETALK: _int
AF_ASH: _int
AF_ATMPVC: _int
AF_ATMSVC: _int
AF_AX25: _int
AF_BLUETOOTH: _int
AF_BRIDGE: _int
AF_CAIF: _int
AF_CAN: _int
AF_DECnet: _int
AF_ECONET: _int
AF_IB: _int
AF_IEEE802154: _int
AF_INET: _int
AF_INET6: _int
AF_IPX: _int
AF_IRDA: _int
AF_ISDN: _int
AF_IUCV: _int
AF_KCM: _int
AF_KEY: _int
AF_LLC: _int
AF_LOCAL: _int
AF_MCTP: _int
AF_MPLS: _int
AF_NETBEUI: _int
AF_NETLINK: _int
AF_NETROM: _int
AF_NFC: _int
AF_PACKET: _int
AF_PHONET: _int
AF_PPPOX: _int
AF_QIPCRTR: _int
AF_RDS: _int
AF_ROSE: _int
AF_RXRPC: _int
AF_SECURITY: _int
AF_SMC: _int
AF_SNA: _int
AF_TIPC: _int
AF_UNIX: _int
AF_UNSPEC: _int
AF_VSOCK: _int
AF_WANPIPE: _int
AF_X25: _int
AF_XDP: _int
ARCH_GET_FS: _int
ARCH_GET_GS: _int
ARCH_SET_FS: _int
ARCH_SET_GS: _int
AT_EACCESS: _int
AT_EMPTY_PATH: _int
AT_FDCWD: _int
AT_NO_AUTOMOUNT: _int
AT_RECURSIVE: _int
AT_REMOVEDIR: _int
AT_STATX_DONT_SYNC: _int
AT_STATX_FORCE_SYNC: _int
AT_SYMLINK_FOLLOW: _int
AT_SYMLINK_NOFOLLOW: _int
CLOCK_BOOTTIME: _int
CLOCK_BOOTTIME_ALARM: _int
CLOCK_MONOTONIC: _int
CLOCK_MONOTONIC_COARSE: _int
CLOCK_MONOTONIC_RAW: _int
CLOCK_PROCESS_CPUTIME_ID: _int
CLOCK_REALTIME: _int
CLOCK_REALTIME_ALARM: _int
CLOCK_REALTIME_COARSE: _int
CLOCK_TAI: _int
CLOCK_THREAD_CPUTIME_ID: _int
CLONE_CHILD_CLEARTID: _int
CLONE_CHILD_SETTID: _int
CLONE_DETACHED: _int
CLONE_FILES: _int
CLONE_FS: _int
CLONE_IO: _int
CLONE_NEWCGROUP: _int
CLONE_NEWIPC: _int
CLONE_NEWNET: _int
CLONE_NEWNS: _int
CLONE_NEWPID: _int
CLONE_NEWUSER: _int
CLONE_NEWUTS: _int
CLONE_PARENT: _int
CLONE_PARENT_SETTID: _int
CLONE_PIDFD: _int
CLONE_PTRACE: _int
CLONE_SETTLS: _int
CLONE_SIGHAND: _int
CLONE_SYSVSEM: _int
CLONE_THREAD: _int
CLONE_UNTRACED: _int
CLONE_VFORK: _int
CLONE_VM: _int
E2BIG: _int
EACCES: _int
EADDRINUSE: _int
EADDRNOTAVAIL: _int
EADV: _int
EAFNOSUPPORT: _int
EAGAIN: _int
EALREADY: _int
EBADE: _int
EBADF: _int
EBADFD: _int
EBADMSG: _int
EBADR: _int
EBADRQC: _int
EBADSLT: _int
EBFONT: _int
EBUSY: _int
ECANCELED: _int
ECHILD: _int
ECHRNG: _int
ECOMM: _int
ECONNABORTED: _int
ECONNREFUSED: _int
ECONNRESET: _int
EDEADLK: _int
EDEADLOCK: _int
EDESTADDRREQ: _int
EDOM: _int
EDOTDOT: _int
EDQUOT: _int
EEXIST: _int
EFAULT: _int
EFBIG: _int
EFD_CLOEXEC: _int
EFD_NONBLOCK: _int
EFD_SEMAPHORE: _int
EHOSTDOWN: _int
EHOSTUNREACH: _int
EHWPOISON: _int
EIDRM: _int
EILSEQ: _int
EINPROGRESS: _int
EINTR: _int
EINVAL: _int
EIO: _int
EISCONN: _int
EISDIR: _int
EISNAM: _int
EKEYEXPIRED: _int
EKEYREJECTED: _int
EKEYREVOKED: _int
EL2HLT: _int
EL2NSYNC: _int
EL3HLT: _int
EL3RST: _int
ELIBACC: _int
ELIBBAD: _int
ELIBEXEC: _int
ELIBMAX: _int
ELIBSCN: _int
ELNRNG: _int
ELOOP: _int
EMEDIUMTYPE: _int
EMFILE: _int
EMLINK: _int
EMSGSIZE: _int
EMULTIHOP: _int
ENAMETOOLONG: _int
ENAVAIL: _int
ENETDOWN: _int
ENETRESET: _int
ENETUNREACH: _int
ENFILE: _int
ENOANO: _int
ENOBUFS: _int
ENOCSI: _int
ENODATA: _int
ENODEV: _int
ENOENT: _int
ENOEXEC: _int
ENOIOCTLCMD: _int
ENOKEY: _int
ENOLCK: _int
ENOLINK: _int
ENOMEDIUM: _int
ENOMEM: _int
ENOMSG: _int
ENONET: _int
ENOPKG: _int
ENOPROTOOPT: _int
ENOSPC: _int
ENOSR: _int
ENOSTR: _int
ENOSYS: _int
ENOTBLK: _int
ENOTCONN: _int
ENOTDIR: _int
ENOTEMPTY: _int
ENOTNAM: _int
ENOTRECOVERABLE: _int
ENOTSOCK: _int
ENOTSUP: _int
ENOTTY: _int
ENOTUNIQ: _int
ENXIO: _int
EOPNOTSUPP: _int
EOVERFLOW: _int
EOWNERDEAD: _int
EPERM: _int
EPFNOSUPPORT: _int
EPIPE: _int
EPOLL_CLOEXEC: _int
EPOLL_CTL_ADD: _int
EPOLL_CTL_DEL: _int
EPOLL_CTL_MOD: _int
EPROBE_DEFER: _int
EPROTO: _int
EPROTONOSUPPORT: _int
EPROTOTYPE: _int
ERANGE: _int
EREMCHG: _int
EREMOTE: _int
EREMOTEIO: _int
ERESTART: _int
ERESTARTNOHAND: _int
ERESTARTNOINTR: _int
ERESTARTSYS: _int
ERESTART_RESTARTBLOCK: _int
ERFKILL: _int
EROFS: _int
ESHUTDOWN: _int
ESOCKTNOSUPPORT: _int
ESPIPE: _int
ESRCH: _int
ESRMNT: _int
ESTALE: _int
ESTRPIPE: _int
ETIME: _int
ETIMEDOUT: _int
ETOOMANYREFS: _int
ETXTBSY: _int
EUCLEAN: _int
EUNATCH: _int
EUSERS: _int
EWOULDBLOCK: _int
EXDEV: _int
EXFULL: _int
FUTEX_CLOCK_REALTIME: _int
FUTEX_CMP_REQUEUE: _int
FUTEX_CMP_REQUEUE_PI: _int
FUTEX_FD: _int
FUTEX_LOCK_PI: _int
FUTEX_LOCK_PI2: _int
FUTEX_PRIVATE_FLAG: _int
FUTEX_REQUEUE: _int
FUTEX_TRYLOCK_PI: _int
FUTEX_UNLOCK_PI: _int
FUTEX_WAIT: _int
FUTEX_WAIT_BITSET: _int
FUTEX_WAIT_REQUEUE_PI: _int
FUTEX_WAKE: _int
FUTEX_WAKE_BITSET: _int
FUTEX_WAKE_OP: _int
F_ADD_SEALS: _int
F_DUPFD: _int
F_DUPFD_CLOEXEC: _int
F_GETFD: _int
F_GETFL: _int
F_GETLEASE: _int
F_GETLK: _int
F_GETOWN: _int
F_GETOWN_EX: _int
F_GETPIPE_SZ: _int
F_GETSIG: _int
F_GET_SEALS: _int
F_NOTIFY: _int
F_OFD_GETLK: _int
F_OFD_SETLK: _int
F_OFD_SETLKW: _int
F_OK: _int
F_SETFD: _int
F_SETFL: _int
F_SETLEASE: _int
F_SETLK: _int
F_SETLKW: _int
F_SETOWN: _int
F_SETOWN_EX: _int
F_SETPIPE_SZ: _int
F_SETSIG: _int
GRND_INSECURE: _int
GRND_NONBLOCK: _int
GRND_RANDOM: _int
IN_CLOEXEC: _int
IN_NONBLOCK: _int
LOCK_EX: _int
LOCK_NB: _int
LOCK_SH: _int
LOCK_UN: _int
MADV_COLD: _int
MADV_COLLAPSE: _int
MADV_DODUMP: _int
MADV_DOFORK: _int
MADV_DONTDUMP: _int
MADV_DONTFORK: _int
MADV_DONTNEED: _int
MADV_DONTNEED_LOCKED: _int
MADV_FREE: _int
MADV_HUGEPAGE: _int
MADV_HWPOISON: _int
MADV_KEEPONFORK: _int
MADV_MERGEABLE: _int
MADV_NOHUGEPAGE: _int
MADV_NORMAL: _int
MADV_PAGEOUT: _int
MADV_POPULATE_READ: _int
MADV_POPULATE_WRITE: _int
MADV_RANDOM: _int
MADV_REMOVE: _int
MADV_SEQUENTIAL: _int
MADV_UNMERGEABLE: _int
MADV_WILLNEED: _int
MADV_WIPEONFORK: _int
MAP_32BIT: _int
MAP_ABOVE4G: _int
MAP_ANON: _int
MAP_ANONYMOUS: _int
MAP_DENYWRITE: _int
MAP_DROPPABLE: _int
MAP_EXECUTABLE: _int
MAP_FIXED: _int
MAP_FIXED_NOREPLACE: _int
MAP_GROWSDOWN: _int
MAP_HUGETLB: _int
MAP_LOCKED: _int
MAP_NONBLOCK: _int
MAP_NORESERVE: _int
MAP_POPULATE: _int
MAP_PRIVATE: _int
MAP_SHARED: _int
MAP_SHARED_VALIDATE: _int
MAP_STACK: _int
MAP_SYNC: _int
MCL_CURRENT: _int
MCL_FUTURE: _int
MCL_ONFAULT: _int
MFD_ALLOW_SEALING: _int
MFD_CLOEXEC: _int
MFD_EXEC: _int
MFD_HUGETLB: _int
MFD_NOEXEC_SEAL: _int
MNT_DETACH: _int
MNT_EXPIRE: _int
MNT_FORCE: _int
MREMAP_DONTUNMAP: _int
MREMAP_FIXED: _int
MREMAP_MAYMOVE: _int
MSG_BATCH: _int
MSG_CMSG_CLOEXEC: _int
MSG_CONFIRM: _int
MSG_CTRUNC: _int
MSG_DONTROUTE: _int
MSG_DONTWAIT: _int
MSG_EOR: _int
MSG_ERRQUEUE: _int
MSG_FASTOPEN: _int
MSG_FIN: _int
MSG_MORE: _int
MSG_NOSIGNAL: _int
MSG_OOB: _int
MSG_PEEK: _int
MSG_PROBE: _int
MSG_RST: _int
MSG_SYN: _int
MSG_TRUNC: _int
MSG_WAITALL: _int
MSG_WAITFORONE: _int
MSG_ZEROCOPY: _int
MS_ASYNC: _int
MS_BIND: _int
MS_DIRSYNC: _int
MS_INVALIDATE: _int
MS_LAZYTIME: _int
MS_MANDLOCK: _int
MS_MOVE: _int
MS_NOATIME: _int
MS_NODEV: _int
MS_NODIRATIME: _int
MS_NOEXEC: _int
MS_NOSUID: _int
MS_NOSYMFOLLOW: _int
MS_POSIXACL: _int
MS_PRIVATE: _int
MS_RDONLY: _int
MS_REC: _int
MS_RELATIME: _int
MS_REMOUNT: _int
MS_SHARED: _int
MS_SILENT: _int
MS_SLAVE: _int
MS_STRICTATIME: _int
MS_SYNC: _int
MS_SYNCHRONOUS: _int
MS_UNBINDABLE: _int
O_APPEND: _int
O_CLOEXEC: _int
O_CREAT: _int
O_DIRECT: _int
O_DIRECTORY: _int
O_DSYNC: _int
O_EXCL: _int
O_LARGEFILE: _int
O_NOATIME: _int
O_NOCTTY: _int
O_NOFOLLOW: _int
O_NONBLOCK: _int
O_PATH: _int
O_RDONLY: _int
O_RDWR: _int
O_SYNC: _int
O_TMPFILE: _int
O_TRUNC: _int
O_WRONLY: _int
PROT_EXEC: _int
PROT_GROWSDOWN: _int
PROT_GROWSUP: _int
PROT_NONE: _int
PROT_READ: _int
PROT_SEM: _int
PROT_WRITE: _int
RENAME_EXCHANGE: _int
RENAME_NOREPLACE: _int
RENAME_WHITEOUT: _int
RLIMIT_AS: _int
RLIMIT_CORE: _int
RLIMIT_CPU: _int
RLIMIT_DATA: _int
RLIMIT_FSIZE: _int
RLIMIT_LOCKS: _int
RLIMIT_MEMLOCK: _int
RLIMIT_MSGQUEUE: _int
RLIMIT_NICE: _int
RLIMIT_NOFILE: _int
RLIMIT_NPROC: _int
RLIMIT_RSS: _int
RLIMIT_RTPRIO: _int
RLIMIT_RTTIME: _int
RLIMIT_SIGPENDING: _int
RLIMIT_STACK: _int
R_OK: _int
SEEK_CUR: _int
SEEK_DATA: _int
SEEK_END: _int
SEEK_HOLE: _int
SEEK_SET: _int
SFD_CLOEXEC: _int
SFD_NONBLOCK: _int
SHUT_RD: _int
SHUT_RDWR: _int
SHUT_WR: _int
SIGABRT: _int
SIGALRM: _int
SIGBUS: _int
SIGCHLD: _int
SIGCONT: _int
SIGFPE: _int
SIGHUP: _int
SIGILL: _int
SIGINT: _int
SIGIO: _int
SIGIOT: _int
SIGKILL: _int
SIGPIPE: _int
SIGPOLL: _int
SIGPROF: _int
SIGPWR: _int
SIGQUIT: _int
SIGSEGV: _int
SIGSTKFLT: _int
SIGSTOP: _int
SIGSYS: _int
SIGTERM: _int
SIGTRAP: _int
SIGTSTP: _int
SIGTTIN: _int
SIGTTOU: _int
SIGURG: _int
SIGUSR1: _int
SIGUSR2: _int
SIGVTALRM: _int
SIGWINCH: _int
SIGXCPU: _int
SIGXFSZ: _int
SIG_BLOCK: _int
SIG_SETMASK: _int
SIG_UNBLOCK: _int
SOCK_CLOEXEC: _int
SOCK_DCCP: _int
SOCK_DGRAM: _int
SOCK_NONBLOCK: _int
SOCK_PACKET: _int
SOCK_RAW: _int
SOCK_RDM: _int
SOCK_SEQPACKET: _int
SOCK_STREAM: _int
SOL_IP: _int
SOL_IPV6: _int
SOL_NETLINK: _int
SOL_PACKET: _int
SOL_RAW: _int
SOL_SOCKET: _int
SOL_TCP: _int
SOL_UDP: _int
TFD_CLOEXEC: _int
TFD_NONBLOCK: _int
UMOUNT_NOFOLLOW: _int
WCONTINUED: _int
WEXITED: _int
WNOHANG: _int
WNOWAIT: _int
WUNTRACED: _int
W_OK: _int
X_OK: _int
__WALL: _int
__WCLONE: _int
__WNOTHREAD: _int
