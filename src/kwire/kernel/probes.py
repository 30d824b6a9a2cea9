"""Feature probes that try the kernel: make a map, load a program, attach one, and take it away again.

Programs that are attached do nothing, and hang on things that hardly ever happen: the choice of a process
to kill when memory runs out, and a function that exists for testing fentry.
"""

import errno as errnos
import os
import re
import struct
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from kwire.bpf.asm import (
    R0,
    R1,
    R10,
    REGS,
    Item,
    Label,
    alu64,
    atomic,
    call,
    exit_,
    func,
    gotol,
    image,
    jmp,
    jmp32,
    mov64,
    movsx,
    st,
)
from kwire.bpf.helpers import HELPERS, NAMES
from kwire.bpf.image import Image, MapSpec
from kwire.kernel import cures, tracefs
from kwire.kernel.attach import (
    GET_KPROBES,
    GET_UPROBES,
    NO_KPROBES,
    NO_UPROBES,
    FilePlace,
    Link,
    attach,
    attach_files,
    attach_multi,
    kprobe_pmu,
    pmu,
)
from kwire.kernel.elf import EXECUTE, Elf
from kwire.kernel.maps import PAGE, Map
from kwire.kernel.prog import BTF_KIND_FUNC, KINDS, Prog, function_btf_id, load
from kwire.kernel.sys import ATTACH_TYPES, BPF_F_MMAPABLE, CURES, PROG_TYPES, info, try_bpf
from kwire.kernel.syscall import Fd, KernelError, reason

# ---- The answer of a feature probe, and what an errno means for it


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


NOTHING: Sequence[Item] = (mov64(R0, 0), exit_())
RARE_EVENT = ("oom", "mark_victim")
TEST_FUNCTIONS = ("bpf_fentry_test1", "mark_oom_victim", "oom_badness")

# The helpers that our programs of each kind may call.
_COMMON = """
map_lookup_elem map_update_elem map_delete_elem ktime_get_ns ktime_get_boot_ns get_smp_processor_id
get_current_pid_tgid get_current_uid_gid get_current_comm get_current_task ringbuf_output
probe_read_kernel probe_read_user probe_read_kernel_str probe_read_user_str
"""
HELPERS_OF = {
    "kprobe": (*_COMMON.split(), "get_attach_cookie", "get_func_ip"),
    "tracepoint": (*_COMMON.split(), "get_attach_cookie"),
    "rawtracepoint": tuple(_COMMON.split()),
}
_NO_HELPER = re.compile(r"unknown func|cannot use helper|invalid func")


def bpf_call() -> Answer:
    """Is there the system call?"""
    _, errno, _ = try_bpf("map_create")  # of no type: EINVAL where it is there
    if errno == errnos.ENOSYS:
        return Answer(
            "no", "the kernel or its sandbox has no bpf(2)", "boot a kernel with CONFIG_BPF_SYSCALL"
        )
    return YES if errno == errnos.EINVAL else refused(errno)


def map_kind(kind: str) -> Callable[[], Answer]:
    """A probe that makes a map of this kind."""

    def make() -> None:
        key, value, size, inner = 4, 8, 1, None
        if kind == "ringbuf":
            key, value, size = 0, 0, PAGE
        elif kind == "array_of_maps":
            value, inner = 4, MapSpec("kwire_probe", "array", 4, 8, 1)
        Map.create(MapSpec("kwire_probe", kind, key, value, size, 0, inner)).close()

    return lambda: trying(make)


def mmapable() -> Answer:
    """Make an array and map it."""

    def make() -> None:
        with Map.create(MapSpec("kwire_probe", "array", 4, 8, 1, BPF_F_MMAPABLE)) as array:
            array.mmap().close()

    return trying(make)


def prog_kind(kind: str) -> Callable[[], Answer]:
    """A probe that loads a program of this kind."""
    return lambda: trying(lambda: _load_nothing(kind).close())


def helpers(kind: str) -> Callable[[], Answer]:
    """A probe that asks for each helper our programs of this kind call."""

    def ask() -> Answer:
        with_nothing = trying(lambda: _load_nothing(kind).close())
        if with_nothing.answer != "yes":
            return with_nothing
        lacking = [name for name in HELPERS_OF[kind] if not has_helper(kind, name)]
        if lacking and cures.locked():
            return Answer("no", f"without {', '.join(lacking)}: {cures.LOCKED}", cures.UNLOCK)
        if lacking:
            return Answer("no", f"without {', '.join(lacking)}")
        return Answer("yes", f"all {len(HELPERS_OF[kind])}")

    return ask


def isa_v2() -> Answer:
    """Jumps on less than."""
    out = Label()
    return _code(mov64(R0, 0), jmp("lt", R0, 1, out), mov64(R0, 1), out, exit_())


def isa_v3() -> Answer:
    """32-bit jumps."""
    out = Label()
    return _code(mov64(R0, 0), jmp32("eq", R0, 0, out), mov64(R0, 1), out, exit_())


def isa_v4() -> Answer:
    """Moves with sign extension, long jumps."""
    out = Label()
    return _code(mov64(R1, 200), movsx(R0, R1, 8), gotol(out), out, mov64(R0, 0), exit_())


def atomic_fetch() -> Answer:
    """Fetch and add."""
    add = atomic("add", "dw", R10, R1, -8, fetch=True)
    return _code(st("dw", R10, 0, -8), mov64(R1, 1), add, mov64(R0, 0), exit_())


def bounded_loop() -> Answer:
    """A loop that ends."""
    again = Label()
    return _code(mov64(R0, 0), again, alu64("add", R0, 1), jmp("lt", R0, 10, again), mov64(R0, 0), exit_())


def called_loop() -> Answer:
    """A loop whose turns the kernel calls."""
    turn, again = Label("turn"), call(HELPERS["loop"].id)
    items = [mov64(R1, 1), func(REGS[2], turn), mov64(REGS[3], 0), mov64(REGS[4], 0), again, *NOTHING]
    return _with_types(image("kwire_probe", "tracepoint", [*items, turn, *NOTHING]), 0, 8)


def func_info() -> Answer:
    """A program with type information of its own."""
    return _with_types(image("kwire_probe", "tracepoint", NOTHING), 0)


def _with_types(one: Image, *starts: int) -> Answer:
    """Whether a program loads whose functions begin at these slots, with its types and lines."""
    strings = b"\0int\0f\0probe\0"
    types = struct.pack("=IIII", 1, 1 << 24, 4, 1 << 24 | 32)  # int
    types += struct.pack("=III", 0, 13 << 24, 1)  # int (void)
    types += struct.pack("=III", 5, BTF_KIND_FUNC << 24, 2)  # f
    btf = (
        struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings)) + types + strings
    )
    one = one._replace(
        btf=btf,
        func_info=b"".join(struct.pack("=II", start, 3) for start in starts),
        line_info=b"".join(struct.pack("=IIII", start, 7, 7, 1 << 10) for start in starts),
    )
    fd, errno, _ = try_bpf("btf_load", btf=btf, btf_size=len(btf))
    if errno:
        return refused(errno, "the kernel takes no types of programs")
    with Fd(fd):
        return trying(lambda: load(one, {}).close())


def log_true_size() -> Answer:
    """Does a failed load say how much log there was?"""
    code = image("kwire_probe", "tracepoint", [exit_()]).code  # r0 is not set
    log = bytearray(4096)
    _, errno, left = try_bpf(
        "prog_load",
        prog_type=PROG_TYPES["tracepoint"],
        insn_cnt=1,
        insns=code,
        license=b"GPL",
        log_level=1,
        log_size=len(log),
        log_buf=log,
    )
    if not log[0]:
        return refused(errno)
    return YES if left["log_true_size"] else Answer("no", "the log is asked for again, each time larger")


def tracing_files() -> Answer:
    """Find tracefs, or make it, and read in it."""
    try:
        files = tracefs.shared()
        files.event_id(*RARE_EVENT)
    except KernelError as error:
        if error.errno in (errnos.EPERM, errnos.EACCES):
            return Answer("no", error.cause, error.cure)
        return refused(error.errno, cure=error.cure)
    return Answer("yes", files.place or "not mounted; a mount of our own is used")


def tracepoint() -> Answer:
    """Attach to a tracepoint, of which tracefs tells."""
    files = tracing_files()
    if files.answer != "yes":
        tried = files.answer if cures.may_trace() else "unknown"
        return Answer(tried, f"tracefs: {files.reason}", files.cure)
    return trying(lambda: _attach("tracepoint", ":".join(RARE_EVENT)).close())


def rawtracepoint() -> Answer:
    """Attach to a raw tracepoint."""
    return trying(lambda: _attach("rawtracepoint", RARE_EVENT[1]).close())


def clock() -> Answer:
    """Let a program run again and again."""
    return trying(lambda: _attach("interval", "s:1").close())


def uprobe() -> Answer:
    """Attach a uprobe where this program begins."""
    if not pmu("uprobe"):
        return without_sysfs() or Answer("no", NO_UPROBES, GET_UPROBES)

    def make() -> None:
        with Elf.open("/proc/self/exe") as file, _load_nothing("uprobe") as prog:
            begins = next(one.offset for one in file.segments if one.flags & EXECUTE)
            attach(prog, "uprobe", FilePlace(os.path.realpath("/proc/self/exe"), begins)).close()

    return without_procfs() or trying(make)


def uprobe_multi() -> Answer:
    """Ask for a uprobe.multi link to a file that is not there, which is looked for only where there is such
    a link.
    """
    cure = "each place gets a uprobe of its own; Linux 6.6 has it"
    try:
        with load(image("kwire_probe", "uprobe", NOTHING), {}, multi=True) as prog:
            attach_files(prog, [(FilePlace("/proc/kwire-no-such-file", 1), 1)]).close()
    except KernelError as error:
        return YES if error.errno == errnos.ENOENT else refused(error.errno, cure=cure)
    return YES


def hardware() -> Answer:
    """Let a program run at each so many cycles."""
    return trying(lambda: _attach("hardware", "cpu-cycles:1000000000").close())


def watchpoint() -> Answer:
    """Watch memory that no program has."""
    return trying(lambda: _attach("watchpoint", "0x8:8:w").close())


def iterator() -> Answer:
    """Make ready to walk the tasks, and do not."""

    def make() -> None:
        nothing = image("kwire_probe", "iter", NOTHING)
        with load(nothing, {}, attach_btf_id=function_btf_id("bpf_iter_task")) as prog:
            attach(prog, "iter", "task").close()

    return trying(make)


def kprobe() -> Answer:
    """Attach a kprobe."""
    if not kprobe_pmu():
        return without_sysfs() or Answer("no", NO_KPROBES, GET_KPROBES)
    return _on_a_function(lambda name: _attach("kprobe", name).close())


def kprobe_multi() -> Answer:
    """Ask for a kprobe.multi link to a function that no kernel has: it is looked up only where there is
    such a link.

    Nothing is attached, because a trace with wildcards asks this at its start and detaching takes long.
    """
    cure = "each function gets a kprobe of its own; CONFIG_FPROBE has it"
    try:
        with load(image("kwire_probe", "kprobe", NOTHING), {}, multi=True) as prog:
            attach_multi(prog, [("kwire_no_such_function", 1)]).close()
    except KernelError as error:
        return YES if error.errno == errnos.ESRCH else refused(error.errno, cure=cure)
    return YES


def fentry() -> Answer:
    """Load a program for a function's entry and attach it."""

    def make(name: str) -> None:
        with load(image("kwire_probe", "fentry", NOTHING), {}, attach_btf_id=function_btf_id(name)) as prog:
            attach(prog, "fentry", name).close()

    return _on_a_function(make)


def perf_link() -> Answer:
    """Ask for a link with a cookie on a descriptor that is none: EBADF where there are such links.

    Nothing is attached, because traces ask this at their start and detaching takes long. Links to perf
    events and cookies came together.
    """
    try:
        with _load_nothing("tracepoint") as prog:
            attach_type = ATTACH_TYPES["perf_event"]
            _, errno, _ = try_bpf(
                "link_create_perf", prog_fd=prog.fd, target_fd=-1, attach_type=attach_type, bpf_cookie=1
            )
    except KernelError as error:
        return refused(error.errno)
    return YES if errno == errnos.EBADF else refused(errno)


def counts_missed() -> Answer:
    """Does the kernel count the firings of tracepoints and kprobes at which it ran no program, because one
    ran on that CPU already? It does since the release (6.7) in which it also tells, of a link to a kprobe,
    how many it missed; how much it tells of a link is the same for all kinds.
    """
    with _attach("rawtracepoint", RARE_EVENT[1]) as link:
        told, length = info("link_perf_kprobe", link.fd)
    if told.has("missed", length):
        return YES
    return Answer("no", "what is missed so is not known, and in no account")


def _load_nothing(kind: str) -> Prog:
    function = function_btf_id(TEST_FUNCTIONS[0]) if KINDS[kind][0] == "tracing" else 0
    return load(image("kwire_probe", kind, NOTHING), {}, attach_btf_id=function)


def _attach(kind: str, target: str) -> Link:
    with _load_nothing(kind) as prog:
        return attach(prog, kind, target)


def _code(*items: Item) -> Answer:
    return trying(lambda: load(image("kwire_probe", "tracepoint", items), {}).close())


def has_helper(kind: str, name: str) -> bool:
    """Whether the verifier knows the helper; it looks at the arguments, which are missing here, only after
    that.
    """
    number = HELPERS[name].id if name in HELPERS else NAMES.index(name)
    one: Image = image("kwire_probe", kind, [call(number), mov64(R0, 0), exit_()])
    try:
        load(one, {}).close()
    except KernelError as error:
        return not _NO_HELPER.search(getattr(error, "log", ""))
    return True


def _on_a_function(make: Callable[[str], None]) -> Answer:
    """Try it on functions that are hardly ever called, until one exists."""
    answer = Answer("unknown", "none of the functions to try it on is there")
    for name in TEST_FUNCTIONS:
        try:
            make(name)
        except KernelError as error:
            if error.errno in (errnos.ENOENT, errnos.ESRCH):
                continue
            return refused(error.errno, error.cause.rsplit(":", 1)[0])
        return YES
    return answer
