"""Names for numbers, as Linux itself calls them: errors, signals, flags of system calls, their numbers.

Everything here is data of the kernel's user-space interface, which never changes; what differs between
machines says so. Invariants: a name stands for one number on one machine; a table says which numbers of a
value it names, and what it does not name stays a number. Tables that are the same on every machine that kwire
runs on (`SHARED`) are known to every reader and stay out of captures; the others travel in the SCHEMA.
"""

from collections.abc import Mapping
from functools import cache

from kwire.hints import Final
from kwire.lazy import NamedTuple


class Table(NamedTuple):
    """Names of a value's parts. `mask`: the bits that are one number with one name; all others are flags.

    A mask of 0 means flags only, `WHOLE` that the whole value is one number.
    """

    names: Mapping[int, str]
    mask: int = 0


WHOLE: Final = (1 << 64) - 1
AT_FDCWD: Final = -100
MAX_ERRNO: Final = 4095  # negative results down to this are errors


def _counted(text: str, first: int = 0) -> dict[int, str]:
    """Names of consecutive numbers; `-` is a number without one."""
    return {number: name for number, name in enumerate(text.split(), first) if name != "-"}


def _valued(text: str, prefix: str = "") -> dict[int, str]:
    """`NAME=VALUE` pairs."""
    pairs = (word.split("=") for word in text.split())
    return {int(value, 0): prefix + name for name, value in pairs}


ERRORS: Final = _counted(
    """
EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT ENOTBLK EBUSY EEXIST
EXDEV ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE EROFS EMLINK EPIPE EDOM
ERANGE EDEADLK ENAMETOOLONG ENOLCK ENOSYS ENOTEMPTY ELOOP - ENOMSG EIDRM ECHRNG EL2NSYNC EL3HLT EL3RST ELNRNG
EUNATCH ENOCSI EL2HLT EBADE EBADR EXFULL ENOANO EBADRQC EBADSLT - EBFONT ENOSTR ENODATA ETIME ENOSR ENONET
ENOPKG EREMOTE ENOLINK EADV ESRMNT ECOMM EPROTO EMULTIHOP EDOTDOT EBADMSG EOVERFLOW ENOTUNIQ EBADFD EREMCHG
ELIBACC ELIBBAD ELIBSCN ELIBMAX ELIBEXEC EILSEQ ERESTART ESTRPIPE EUSERS ENOTSOCK EDESTADDRREQ EMSGSIZE
EPROTOTYPE ENOPROTOOPT EPROTONOSUPPORT ESOCKTNOSUPPORT EOPNOTSUPP EPFNOSUPPORT EAFNOSUPPORT EADDRINUSE
EADDRNOTAVAIL ENETDOWN ENETUNREACH ENETRESET ECONNABORTED ECONNRESET ENOBUFS EISCONN ENOTCONN ESHUTDOWN
ETOOMANYREFS ETIMEDOUT ECONNREFUSED EHOSTDOWN EHOSTUNREACH EALREADY EINPROGRESS ESTALE EUCLEAN ENOTNAM ENAVAIL
EISNAM EREMOTEIO EDQUOT ENOMEDIUM EMEDIUMTYPE ECANCELED ENOKEY EKEYEXPIRED EKEYREVOKED EKEYREJECTED EOWNERDEAD
ENOTRECOVERABLE ERFKILL EHWPOISON
""",
    1,
) | _counted("ERESTARTSYS ERESTARTNOINTR ERESTARTNOHAND ENOIOCTLCMD ERESTART_RESTARTBLOCK EPROBE_DEFER", 512)
"""Errors by number, those that only the kernel sees (512 and more) included."""

SIGNALS: Final = _counted(
    """
SIGHUP SIGINT SIGQUIT SIGILL SIGTRAP SIGABRT SIGBUS SIGFPE SIGKILL SIGUSR1 SIGSEGV SIGUSR2 SIGPIPE SIGALRM
SIGTERM SIGSTKFLT SIGCHLD SIGCONT SIGSTOP SIGTSTP SIGTTIN SIGTTOU SIGURG SIGXCPU SIGXFSZ SIGVTALRM SIGPROF
SIGWINCH SIGIO SIGPWR SIGSYS
""",
    1,
)
FAMILIES: Final = _counted(
    """
AF_UNSPEC AF_UNIX AF_INET AF_AX25 AF_IPX AF_APPLETALK AF_NETROM AF_BRIDGE AF_ATMPVC AF_X25 AF_INET6 AF_ROSE
AF_DECnet AF_NETBEUI AF_SECURITY AF_KEY AF_NETLINK AF_PACKET AF_ASH AF_ECONET AF_ATMSVC AF_RDS AF_SNA AF_IRDA
AF_PPPOX AF_WANPIPE AF_LLC AF_IB AF_MPLS AF_CAN AF_TIPC AF_BLUETOOTH AF_IUCV AF_RXRPC AF_ISDN AF_PHONET
AF_IEEE802154 AF_CAIF AF_ALG AF_NFC AF_VSOCK AF_KCM AF_QIPCRTR AF_SMC AF_XDP AF_MCTP
"""
)

_OPEN = {
    "x86_64": "DIRECT=0x4000 LARGEFILE=0x8000 DIRECTORY=0x10000 NOFOLLOW=0x20000",
    "aarch64": "DIRECTORY=0x4000 NOFOLLOW=0x8000 DIRECT=0x10000 LARGEFILE=0x20000",
}
_OPEN_ALL = """
RDONLY=0 WRONLY=1 RDWR=2 CREAT=0x40 EXCL=0x80 NOCTTY=0x100 TRUNC=0x200 APPEND=0x400 NONBLOCK=0x800
DSYNC=0x1000 NOATIME=0x40000 CLOEXEC=0x80000 SYNC=0x101000 PATH=0x200000
"""
_MMAP = {"x86_64": "32BIT=0x40 ABOVE4G=0x80"}
_CLOEXEC, _NONBLOCK = 0x80000, 0x800


def _open(machine: str) -> dict[int, str]:
    own = _OPEN.get(machine, "")
    names = _valued(f"{_OPEN_ALL} {own}", "O_")
    if own:
        names[0x400000 | next(number for number, name in names.items() if name == "O_DIRECTORY")] = (
            "O_TMPFILE"
        )
    return names


@cache
def tables(machine: str) -> dict[str, Table]:
    """All tables by name, for programs that run on this machine (`uname -m`)."""
    close_on_exec = {_CLOEXEC: "CLOEXEC", _NONBLOCK: "NONBLOCK"}

    def descriptors(prefix: str, more: str = "") -> Table:
        return Table({bit: prefix + name for bit, name in close_on_exec.items()} | _valued(more, prefix))

    made = {
        "open": Table(_open(machine), 3),
        "access": Table(_valued("F_OK=0 X_OK=1 W_OK=2 R_OK=4")),
        "prot": Table(
            _valued("NONE=0 READ=1 WRITE=2 EXEC=4 SEM=8 GROWSDOWN=0x1000000 GROWSUP=0x2000000", "PROT_")
        ),
        "mmap": Table(
            _valued(
                """
SHARED=1 PRIVATE=2 SHARED_VALIDATE=3 DROPPABLE=8 FIXED=0x10 ANONYMOUS=0x20 GROWSDOWN=0x100 DENYWRITE=0x800
EXECUTABLE=0x1000 LOCKED=0x2000 NORESERVE=0x4000 POPULATE=0x8000 NONBLOCK=0x10000 STACK=0x20000
HUGETLB=0x40000 SYNC=0x80000 FIXED_NOREPLACE=0x100000
"""
                + _MMAP.get(machine, ""),
                "MAP_",
            ),
            0xF,
        ),
        "mremap": Table(_valued("MAYMOVE=1 FIXED=2 DONTUNMAP=4", "MREMAP_")),
        "msync": Table(_valued("ASYNC=1 INVALIDATE=2 SYNC=4", "MS_")),
        "mlockall": Table(_valued("CURRENT=1 FUTURE=2 ONFAULT=4", "MCL_")),
        "madvise": Table(
            _valued(
                """
NORMAL=0 RANDOM=1 SEQUENTIAL=2 WILLNEED=3 DONTNEED=4 FREE=8 REMOVE=9 DONTFORK=10 DOFORK=11 MERGEABLE=12
UNMERGEABLE=13 HUGEPAGE=14 NOHUGEPAGE=15 DONTDUMP=16 DODUMP=17 WIPEONFORK=18 KEEPONFORK=19 COLD=20 PAGEOUT=21
POPULATE_READ=22 POPULATE_WRITE=23 DONTNEED_LOCKED=24 COLLAPSE=25 HWPOISON=100
""",
                "MADV_",
            ),
            WHOLE,
        ),
        "at": Table(
            _valued(
                """
SYMLINK_NOFOLLOW=0x100 EACCESS=0x200 SYMLINK_FOLLOW=0x400 NO_AUTOMOUNT=0x800 EMPTY_PATH=0x1000
STATX_FORCE_SYNC=0x2000 STATX_DONT_SYNC=0x4000 RECURSIVE=0x8000
""",
                "AT_",
            )
        ),
        "unlinkat": Table({0x200: "AT_REMOVEDIR"}),
        "rename": Table(_valued("NOREPLACE=1 EXCHANGE=2 WHITEOUT=4", "RENAME_")),
        "seek": Table(_valued("SET=0 CUR=1 END=2 DATA=3 HOLE=4", "SEEK_"), WHOLE),
        "socket": Table(
            descriptors("SOCK_", "STREAM=1 DGRAM=2 RAW=3 RDM=4 SEQPACKET=5 DCCP=6 PACKET=10").names, 0xF
        ),
        "accept4": descriptors("SOCK_"),
        "message": Table(
            _valued(
                """
OOB=1 PEEK=2 DONTROUTE=4 CTRUNC=8 PROBE=0x10 TRUNC=0x20 DONTWAIT=0x40 EOR=0x80 WAITALL=0x100 FIN=0x200
SYN=0x400 CONFIRM=0x800 RST=0x1000 ERRQUEUE=0x2000 NOSIGNAL=0x4000 MORE=0x8000 WAITFORONE=0x10000
BATCH=0x40000 ZEROCOPY=0x4000000 FASTOPEN=0x20000000 CMSG_CLOEXEC=0x40000000
""",
                "MSG_",
            )
        ),
        "shutdown": Table(_valued("RD=0 WR=1 RDWR=2", "SHUT_"), WHOLE),
        "level": Table(
            _valued("IP=0 SOCKET=1 TCP=6 UDP=17 IPV6=41 RAW=255 PACKET=263 NETLINK=270", "SOL_"), WHOLE
        ),
        "pipe2": descriptors("O_"),
        "dup3": Table({_CLOEXEC: "O_CLOEXEC"}),
        "epoll": Table({_CLOEXEC: "EPOLL_CLOEXEC"}),
        "epoll_ctl": Table(_valued("ADD=1 DEL=2 MOD=3", "EPOLL_CTL_"), WHOLE),
        "eventfd": descriptors("EFD_", "SEMAPHORE=1"),
        "signalfd": descriptors("SFD_"),
        "timerfd": descriptors("TFD_"),
        "inotify": descriptors("IN_"),
        "memfd": Table(_valued("CLOEXEC=1 ALLOW_SEALING=2 HUGETLB=4 NOEXEC_SEAL=8 EXEC=0x10", "MFD_")),
        "random": Table(_valued("NONBLOCK=1 RANDOM=2 INSECURE=4", "GRND_")),
        "fcntl": Table(
            _valued(
                """
DUPFD=0 GETFD=1 SETFD=2 GETFL=3 SETFL=4 GETLK=5 SETLK=6 SETLKW=7 SETOWN=8 GETOWN=9 SETSIG=10 GETSIG=11
SETOWN_EX=15 GETOWN_EX=16 OFD_GETLK=36 OFD_SETLK=37 OFD_SETLKW=38 SETLEASE=1024 GETLEASE=1025 NOTIFY=1026
DUPFD_CLOEXEC=1030 SETPIPE_SZ=1031 GETPIPE_SZ=1032 ADD_SEALS=1033 GET_SEALS=1034
""",
                "F_",
            ),
            WHOLE,
        ),
        "flock": Table(_valued("SH=1 EX=2 NB=4 UN=8", "LOCK_")),
        "futex": Table(
            _valued(
                """
WAIT=0 WAKE=1 FD=2 REQUEUE=3 CMP_REQUEUE=4 WAKE_OP=5 LOCK_PI=6 UNLOCK_PI=7 TRYLOCK_PI=8 WAIT_BITSET=9
WAKE_BITSET=10 WAIT_REQUEUE_PI=11 CMP_REQUEUE_PI=12 LOCK_PI2=13 PRIVATE_FLAG=0x80 CLOCK_REALTIME=0x100
""",
                "FUTEX_",
            ),
            0x7F,
        ),
        "clone": Table(
            _valued(
                """
VM=0x100 FS=0x200 FILES=0x400 SIGHAND=0x800 PIDFD=0x1000 PTRACE=0x2000 VFORK=0x4000 PARENT=0x8000
THREAD=0x10000 NEWNS=0x20000 SYSVSEM=0x40000 SETTLS=0x80000 PARENT_SETTID=0x100000 CHILD_CLEARTID=0x200000
DETACHED=0x400000 UNTRACED=0x800000 CHILD_SETTID=0x1000000 NEWCGROUP=0x2000000 NEWUTS=0x4000000
NEWIPC=0x8000000 NEWUSER=0x10000000 NEWPID=0x20000000 NEWNET=0x40000000 IO=0x80000000
""",
                "CLONE_",
            )
            | {17: "SIGCHLD"},
            0xFF,
        ),
        "mount": Table(
            _valued(
                """
RDONLY=1 NOSUID=2 NODEV=4 NOEXEC=8 SYNCHRONOUS=0x10 REMOUNT=0x20 MANDLOCK=0x40 DIRSYNC=0x80 NOSYMFOLLOW=0x100
NOATIME=0x400 NODIRATIME=0x800 BIND=0x1000 MOVE=0x2000 REC=0x4000 SILENT=0x8000 POSIXACL=0x10000
UNBINDABLE=0x20000 PRIVATE=0x40000 SLAVE=0x80000 SHARED=0x100000 RELATIME=0x200000 STRICTATIME=0x1000000
LAZYTIME=0x2000000
""",
                "MS_",
            )
        ),
        "umount": Table({1: "MNT_FORCE", 2: "MNT_DETACH", 4: "MNT_EXPIRE", 8: "UMOUNT_NOFOLLOW"}),
        "wait": Table(
            {1: "WNOHANG", 2: "WUNTRACED", 4: "WEXITED", 8: "WCONTINUED", 0x1000000: "WNOWAIT"}
            | {0x20000000: "__WNOTHREAD", 0x40000000: "__WALL", 0x80000000: "__WCLONE"}
        ),
        "clock": Table(
            _counted(
                """
CLOCK_REALTIME CLOCK_MONOTONIC CLOCK_PROCESS_CPUTIME_ID CLOCK_THREAD_CPUTIME_ID CLOCK_MONOTONIC_RAW
CLOCK_REALTIME_COARSE CLOCK_MONOTONIC_COARSE CLOCK_BOOTTIME CLOCK_REALTIME_ALARM CLOCK_BOOTTIME_ALARM -
CLOCK_TAI
"""
            ),
            WHOLE,
        ),
        "limit": Table(
            _counted(
                """
RLIMIT_CPU RLIMIT_FSIZE RLIMIT_DATA RLIMIT_STACK RLIMIT_CORE RLIMIT_RSS RLIMIT_NPROC RLIMIT_NOFILE
RLIMIT_MEMLOCK RLIMIT_AS RLIMIT_LOCKS RLIMIT_SIGPENDING RLIMIT_MSGQUEUE RLIMIT_NICE RLIMIT_RTPRIO
RLIMIT_RTTIME
"""
            ),
            WHOLE,
        ),
        "sigmask": Table(_valued("BLOCK=0 UNBLOCK=1 SETMASK=2", "SIG_"), WHOLE),
        "arch_prctl": Table(
            _valued("SET_GS=0x1001 SET_FS=0x1002 GET_FS=0x1003 GET_GS=0x1004", "ARCH_"), WHOLE
        ),
    }
    numbers = SYSCALLS.get(machine)
    if numbers:
        made["syscall"] = Table({number: name for name, number in numbers.items()}, WHOLE)
    return made


_SYSCALLS_X86_64_FROM_0 = """
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
_SYSCALLS_FROM_424 = """
pidfd_send_signal io_uring_setup io_uring_enter io_uring_register open_tree move_mount fsopen fsconfig
fsmount fspick pidfd_open clone3 close_range openat2 pidfd_getfd faccessat2 process_madvise epoll_pwait2
mount_setattr quotactl_fd landlock_create_ruleset landlock_add_rule landlock_restrict_self memfd_secret
process_mrelease futex_waitv set_mempolicy_home_node cachestat fchmodat2 map_shadow_stack futex_wake
futex_wait futex_requeue statmount listmount lsm_get_self_attr lsm_set_self_attr lsm_list_modules mseal
setxattrat getxattrat listxattrat removexattrat open_tree_attr file_getattr file_setattr
"""
_SYSCALLS_GENERIC_FROM_0 = """
io_setup io_destroy io_submit io_cancel io_getevents setxattr lsetxattr fsetxattr getxattr lgetxattr
fgetxattr listxattr llistxattr flistxattr removexattr lremovexattr fremovexattr getcwd lookup_dcookie
eventfd2 epoll_create1 epoll_ctl epoll_pwait dup dup3 fcntl inotify_init1 inotify_add_watch
inotify_rm_watch ioctl ioprio_set ioprio_get flock mknodat mkdirat unlinkat symlinkat linkat renameat
umount mount pivot_root - statfs fstatfs truncate ftruncate fallocate faccessat chdir fchdir chroot
fchmod fchmodat fchownat fchown openat close vhangup pipe2 quotactl getdents64 lseek read write readv
writev pread64 pwrite64 preadv pwritev sendfile64 pselect6 ppoll signalfd4 vmsplice splice tee readlinkat
newfstatat newfstat sync fsync fdatasync sync_file_range timerfd_create timerfd_settime timerfd_gettime
utimensat acct capget capset personality exit exit_group waitid set_tid_address unshare futex
set_robust_list get_robust_list nanosleep getitimer setitimer kexec_load init_module delete_module
timer_create timer_gettime timer_getoverrun timer_settime timer_delete clock_settime clock_gettime
clock_getres clock_nanosleep syslog ptrace sched_setparam sched_setscheduler sched_getscheduler
sched_getparam sched_setaffinity sched_getaffinity sched_yield sched_get_priority_max
sched_get_priority_min sched_rr_get_interval restart_syscall kill tkill tgkill sigaltstack rt_sigsuspend
rt_sigaction rt_sigprocmask rt_sigpending rt_sigtimedwait rt_sigqueueinfo rt_sigreturn setpriority
getpriority reboot setregid setgid setreuid setuid setresuid getresuid setresgid getresgid setfsuid
setfsgid times setpgid getpgid getsid setsid getgroups setgroups newuname sethostname setdomainname
getrlimit setrlimit getrusage umask prctl getcpu gettimeofday settimeofday adjtimex getpid getppid getuid
geteuid getgid getegid gettid sysinfo mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify
mq_getsetattr msgget msgctl msgrcv msgsnd semget semctl semtimedop semop shmget shmctl shmat shmdt socket
socketpair bind listen accept connect getsockname getpeername sendto recvfrom setsockopt getsockopt
shutdown sendmsg recvmsg readahead brk munmap mremap add_key request_key keyctl clone execve mmap
fadvise64_64 swapon swapoff mprotect msync mlock munlock mlockall munlockall mincore madvise
remap_file_pages mbind get_mempolicy set_mempolicy migrate_pages move_pages rt_tgsigqueueinfo
perf_event_open accept4 recvmmsg - - - - - - - - - - - - - - - - wait4 prlimit64 fanotify_init
fanotify_mark name_to_handle_at open_by_handle_at clock_adjtime syncfs setns sendmmsg process_vm_readv
process_vm_writev kcmp finit_module sched_setattr sched_getattr renameat2 seccomp getrandom memfd_create
bpf execveat userfaultfd membarrier mlock2 copy_file_range preadv2 pwritev2 pkey_mprotect pkey_alloc
pkey_free statx io_pgetevents rseq kexec_file_load
"""
_SYSCALLS_I386_FROM_0 = """
restart_syscall exit fork read write open close waitpid creat link unlink execve chdir time mknod chmod
lchown break oldstat lseek getpid mount umount setuid getuid stime ptrace alarm oldfstat pause utime stty
gtty access nice ftime sync kill rename mkdir rmdir dup pipe times prof brk setgid getgid signal geteuid
getegid acct umount2 lock ioctl fcntl mpx setpgid ulimit oldolduname umask chroot ustat dup2 getppid getpgrp
setsid sigaction sgetmask ssetmask setreuid setregid sigsuspend sigpending sethostname setrlimit getrlimit
getrusage gettimeofday settimeofday getgroups setgroups select symlink oldlstat readlink uselib swapon
reboot readdir mmap munmap truncate ftruncate fchmod fchown getpriority setpriority profil statfs fstatfs
ioperm socketcall syslog setitimer getitimer stat lstat fstat olduname iopl vhangup idle vm86old wait4
swapoff sysinfo ipc fsync sigreturn clone setdomainname uname modify_ldt adjtimex mprotect sigprocmask
create_module init_module delete_module get_kernel_syms quotactl getpgid fchdir bdflush sysfs personality
afs_syscall setfsuid setfsgid _llseek getdents _newselect flock msync readv writev getsid fdatasync _sysctl
mlock munlock mlockall munlockall sched_setparam sched_getparam sched_setscheduler sched_getscheduler
sched_yield sched_get_priority_max sched_get_priority_min sched_rr_get_interval nanosleep mremap setresuid
getresuid vm86 query_module poll nfsservctl setresgid getresgid prctl rt_sigreturn rt_sigaction
rt_sigprocmask rt_sigpending rt_sigtimedwait rt_sigqueueinfo rt_sigsuspend pread64 pwrite64 chown getcwd
capget capset sigaltstack sendfile getpmsg putpmsg vfork ugetrlimit mmap2 truncate64 ftruncate64 stat64
lstat64 fstat64 lchown32 getuid32 getgid32 geteuid32 getegid32 setreuid32 setregid32 getgroups32 setgroups32
fchown32 setresuid32 getresuid32 setresgid32 getresgid32 chown32 setuid32 setgid32 setfsuid32 setfsgid32
pivot_root mincore madvise getdents64 fcntl64 - - gettid readahead setxattr lsetxattr fsetxattr getxattr
lgetxattr fgetxattr listxattr llistxattr flistxattr removexattr lremovexattr fremovexattr tkill sendfile64
futex sched_setaffinity sched_getaffinity set_thread_area get_thread_area io_setup io_destroy io_getevents
io_submit io_cancel fadvise64 - exit_group lookup_dcookie epoll_create epoll_ctl epoll_wait remap_file_pages
set_tid_address timer_create timer_settime timer_gettime timer_getoverrun timer_delete clock_settime
clock_gettime clock_getres clock_nanosleep statfs64 fstatfs64 tgkill utimes fadvise64_64 vserver mbind
get_mempolicy set_mempolicy mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr
kexec_load waitid - add_key request_key keyctl ioprio_set ioprio_get inotify_init inotify_add_watch
inotify_rm_watch migrate_pages openat mkdirat mknodat fchownat futimesat fstatat64 unlinkat renameat linkat
symlinkat readlinkat fchmodat faccessat pselect6 ppoll unshare set_robust_list get_robust_list splice
sync_file_range tee vmsplice move_pages getcpu epoll_pwait utimensat signalfd timerfd_create eventfd
fallocate timerfd_settime timerfd_gettime signalfd4 eventfd2 epoll_create1 dup3 pipe2 inotify_init1 preadv
pwritev rt_tgsigqueueinfo perf_event_open recvmmsg fanotify_init fanotify_mark prlimit64 name_to_handle_at
open_by_handle_at clock_adjtime syncfs sendmmsg setns process_vm_readv process_vm_writev kcmp finit_module
sched_setattr sched_getattr renameat2 seccomp getrandom memfd_create bpf execveat socket socketpair bind
connect listen accept4 getsockopt setsockopt getsockname getpeername sendto sendmsg recvfrom recvmsg
shutdown userfaultfd membarrier mlock2 copy_file_range preadv2 pwritev2 pkey_mprotect pkey_alloc pkey_free
statx arch_prctl io_pgetevents rseq - - - - - - semget semctl shmget shmctl shmat shmdt msgget msgsnd msgrcv
msgctl clock_gettime64 clock_settime64 clock_adjtime64 clock_getres_time64 clock_nanosleep_time64
timer_gettime64 timer_settime64 timerfd_gettime64 timerfd_settime64 utimensat_time64 pselect6_time64
ppoll_time64 - io_pgetevents_time64 recvmmsg_time64 mq_timedsend_time64 mq_timedreceive_time64
semtimedop_time64 rt_sigtimedwait_time64 futex_time64 sched_rr_get_interval_time64
"""
SYSCALLS: Final = {
    machine: {name: number for number, name in (_counted(text) | _counted(_SYSCALLS_FROM_424, 424)).items()}
    for machine, text in (("x86_64", _SYSCALLS_X86_64_FROM_0), ("aarch64", _SYSCALLS_GENERIC_FROM_0))
}
"""By machine: the names of system calls' tracepoints (without `sys_enter_`) and the numbers of the calls.

New machines take the numbers of `asm-generic/unistd.h`; from 424 on they are the same on all.
"""
COMPAT_SYSCALLS: Final = {"x86_64": _counted(_SYSCALLS_I386_FROM_0) | _counted(_SYSCALLS_FROM_424, 424)}
"""By machine: the numbers of system calls that are made as its 32-bit programs make them, and their names as
`asm/unistd_32.h` has them. A machine that is not here may have such calls all the same.
"""
COMPAT: Final = 1 << 32
"""Added to the number of such a call where both kinds have one table."""

RETURN_ADDRESSES: Final = frozenset(("mmap", "mremap", "brk", "shmat"))
"""System calls that return an address."""


def error(number: int) -> str:
    """The name of an error, such as ENOENT for 2; empty where it has none."""
    return ERRORS.get(number, "")


def constant(name: str, machine: str) -> int | None:
    """The number that a name stands for on this machine; None where it is not known."""
    return _constants(machine).get(name)


def constants(machine: str) -> Mapping[str, int]:
    """All names and their numbers, for programs that run on this machine."""
    return _constants(machine)


@cache
def _constants(machine: str) -> dict[str, int]:
    shared = (ERRORS, SIGNALS, FAMILIES)
    found = {name: number for table in shared for number, name in table.items()}
    for table_name, table in tables(machine).items():
        if table_name != "syscall":  # their names are words that mean many things
            found |= {name: number for number, name in table.names.items()}
    synonyms = {"AT_FDCWD": AT_FDCWD, "EWOULDBLOCK": 11, "EDEADLOCK": 35, "ENOTSUP": 95, "AF_LOCAL": 1}
    return found | synonyms | {"SIGPOLL": 29, "SIGIOT": 6, "MAP_ANON": 0x20}
