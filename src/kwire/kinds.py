"""The kinds of probes: one table, which says of each all that the rooms must know of it.

A new kind is a row here, and what the row names where that is new too: a way to attach (`kernel.attach`), a
way to list (`kernel.catalog`), a context (`lang.sites`, `compile.expressions`).
"""

from kwire.hints import Final
from kwire.lazy import NamedTuple


class ProbeKind(NamedTuple):
    """A kind of probe.

    For people: `name`, `aliases` (other spellings), `form` of the target, `meaning` in one sentence, an
    `example`.

    `place`: what the target is, which decides how it is parsed and listed: "event" (`category:name`), "raw
    event" (`name`), "function" (`[module:]name`), "timer" (`unit:number`), "trace" (a moment of the
    trace: there is no target), "user function" (`file:name`), "user mark" (`file:[provider:]name`),
    "counter" (`event[:number]`), "memory" (`address:length:mode`), "objects" (`kind`) or "signal"
    (`signal:name`); `offset`: whether it may be inside of a function.

    `program`, `attach_type`: of bpf(2), as `kernel.sys` names them; `mechanism`: how the program is attached,
    a key of `kernel.attach`; `feature`: the one of `kernel.features` that says whether that works; `shared`:
    whether one program may serve many probes, which tell themselves apart by the attach cookie.

    `context`: what the program is given: "record" (fields), "registers" (of the machine), "slots" (8 bytes
    each), "typed slots" (the same, with types that the verifier knows) or "objects" (the same, of which the
    second is what an iterator is at); `arguments`, `result`: whether
    there are `arg0`, `arg1` … and `retval`; `exit`: what the program returns.

    `instead`: the kind that takes its place on a kernel that has only that; `by_address`: the one that does
    where several functions have the target's name.

    `own`: whether it is the trace's own, and fires whichever processes are traced; `preempted`: whether a
    program of it may be preempted, so that another one may run on its CPU before it goes on; `single`:
    whether a program of it never runs twice at once, so that one ring and one part of each counter will do.
    """

    name: str
    aliases: tuple[str, ...]
    form: str
    meaning: str
    example: str
    place: str
    program: str
    mechanism: str
    feature: str
    context: str
    attach_type: str = ""
    offset: bool = False
    shared: bool = False
    arguments: bool = False
    result: bool = False
    exit: int = 0
    instead: str = ""
    by_address: str = ""
    own: bool = False
    preempted: bool = False
    single: bool = False

    @property
    def user(self) -> bool:
        """Whether it is in a program, so that numbers are addresses in that program's memory."""
        return self.place in USER_PLACES


USER_PLACES: Final = ("user function", "user mark")

_ROWS: Final = (
    ProbeKind(
        name="tracepoint",
        aliases=("t", "tp"),
        form="category:name",
        meaning="a stable event of the kernel with typed fields",
        example="tracepoint:sched:sched_switch",
        place="event",
        program="tracepoint",
        mechanism="perf tracepoint",
        feature="tracepoint",
        context="record",
        shared=True,
        exit=1,  # the event reaches its other listeners too
    ),
    ProbeKind(
        name="rawtracepoint",
        aliases=("rt", "raw_tracepoint"),
        form="name",
        meaning="a tracepoint's own arguments, before they are formatted",
        example="rawtracepoint:sched_switch",
        place="raw event",
        program="raw_tracepoint",
        mechanism="raw tracepoint",
        feature="rawtracepoint",
        context="slots",
        arguments=True,
    ),
    ProbeKind(
        name="kprobe",
        aliases=("k",),
        form="[module:]function[+offset]",
        meaning="the entry of a kernel function",
        example="kprobe:tcp_connect",
        place="function",
        program="kprobe",
        mechanism="perf kprobe",
        feature="kprobe",
        context="registers",
        offset=True,
        shared=True,
        arguments=True,
        instead="fentry",
    ),
    ProbeKind(
        name="kretprobe",
        aliases=("kr",),
        form="[module:]function",
        meaning="the return of a kernel function",
        example="kretprobe:vfs_read",
        place="function",
        program="kprobe",
        mechanism="perf kprobe",
        feature="kprobe",
        context="registers",
        shared=True,
        result=True,
        instead="fexit",
    ),
    ProbeKind(
        name="fentry",
        aliases=("f", "kfunc"),
        form="[module:]function",
        meaning="the entry of a kernel function, through BTF: cheaper, where the kernel has it",
        example="fentry:tcp_connect",
        place="function",
        program="tracing",
        attach_type="fentry",
        mechanism="trampoline",
        feature="fentry",
        context="typed slots",
        arguments=True,
        by_address="kprobe",
    ),
    ProbeKind(
        name="fexit",
        aliases=("fr", "kretfunc"),
        form="[module:]function",
        meaning="the return of a kernel function, with its arguments",
        example="fexit:vfs_read",
        place="function",
        program="tracing",
        attach_type="fexit",
        mechanism="trampoline",
        feature="fentry",
        context="typed slots",
        arguments=True,
        result=True,
        by_address="kretprobe",
    ),
    ProbeKind(
        name="uprobe",
        aliases=("u",),
        form="file:function[+offset]",
        meaning="the entry of a function of a program or a library, or an address in it",
        example="uprobe:/bin/bash:readline",
        place="user function",
        program="kprobe",
        mechanism="uprobe",
        feature="uprobe",
        context="registers",
        offset=True,
        shared=True,
        arguments=True,
        preempted=True,
    ),
    ProbeKind(
        name="uretprobe",
        aliases=("ur",),
        form="file:function",
        meaning="the return of a function of a program or a library",
        example="uretprobe:/bin/bash:readline",
        place="user function",
        program="kprobe",
        mechanism="uprobe",
        feature="uprobe",
        context="registers",
        shared=True,
        result=True,
        preempted=True,
    ),
    ProbeKind(
        name="usdt",
        aliases=("U",),
        form="file:[provider:]name",
        meaning="a place that a program marks (USDT), with the arguments it says",
        example="usdt:libc:setjmp",
        place="user mark",
        program="kprobe",
        mechanism="uprobe",
        feature="uprobe",
        context="registers",
        shared=True,
        arguments=True,
        preempted=True,
    ),
    ProbeKind(
        name="interval",
        aliases=("i",),
        form="unit:number",
        meaning="again and again, on one CPU; units are s, ms, us, ns and hz",
        example="interval:s:1",
        own=True,
        single=True,
        place="timer",
        program="perf_event",
        mechanism="clock",
        feature="clock",
        context="slots",
    ),
    ProbeKind(
        name="profile",
        aliases=("p",),
        form="unit:number",
        meaning="again and again, on every CPU, whatever runs there: a sample",
        example="profile:hz:99",
        place="timer",
        program="perf_event",
        mechanism="clocks",
        feature="clock",
        context="slots",
    ),
    ProbeKind(
        name="software",
        aliases=("s",),
        form="event[:number]",
        meaning="each so many events that the kernel counts: page faults, context switches and others",
        example="software:page-faults:100",
        place="counter",
        program="perf_event",
        mechanism="counter",
        feature="clock",
        context="registers",
    ),
    ProbeKind(
        name="hardware",
        aliases=("h",),
        form="event[:number]",
        meaning="each so many events that the CPU counts: cycles, cache misses and others",
        example="hardware:cache-misses:1000000",
        place="counter",
        program="perf_event",
        mechanism="counter",
        feature="hardware",
        context="registers",
    ),
    ProbeKind(
        name="watchpoint",
        aliases=("w",),
        form="address:length:mode",
        meaning="an access to 1, 2, 4 or 8 bytes of memory: mode is r, w, rw or x",
        example="watchpoint:0x4000f0:8:w",
        place="memory",
        program="perf_event",
        mechanism="watchpoint",
        feature="watchpoint",
        context="registers",
    ),
    ProbeKind(
        name="iter",
        aliases=("it",),
        form="objects",
        meaning="each object that the kernel has now, once: task, task_file, task_vma, bpf_map, tcp, …",
        example="iter:task",
        own=True,
        single=True,
        place="objects",
        program="tracing",
        attach_type="iter",
        mechanism="iterator",
        feature="iter",
        context="objects",
    ),
    ProbeKind(
        name="self",
        aliases=(),
        form="signal:name",
        meaning="a signal to the process that traces: SIGUSR1 or SIGUSR2",
        example="self:signal:SIGUSR1",
        own=True,
        single=True,
        place="signal",
        program="raw_tracepoint",
        mechanism="signal",
        feature="rawtracepoint",
        context="slots",
    ),
    ProbeKind(
        name="begin",
        aliases=(),
        form="",
        meaning="before any other probe of the trace fires",
        example="begin",
        own=True,
        single=True,
        place="trace",
        program="raw_tracepoint",
        mechanism="run",
        feature="rawtracepoint",
        context="slots",
    ),
    ProbeKind(
        name="end",
        aliases=(),
        form="",
        meaning="after the last of the other probes",
        example="end",
        own=True,
        single=True,
        place="trace",
        program="raw_tracepoint",
        mechanism="run",
        feature="rawtracepoint",
        context="slots",
    ),
)

TRACE: Final = ("begin", "end")
"""Kinds without a target: moments of the trace, at which it runs their programs itself."""

KINDS: Final = {kind.name: kind for kind in _ROWS}
"""The table, by name, in the order in which people are told of them."""

SPELLINGS: Final = {word: kind for kind in _ROWS for word in (kind.name, *kind.aliases)}
"""Each kind by its name and by its other spellings."""

FUNCTIONS: Final = tuple(kind.name for kind in _ROWS if kind.place == "function")
"""Kinds whose target is a function of the kernel."""

LISTED: Final = tuple(
    kind.name
    for kind in _ROWS
    if kind.place in ("event", "raw event", "function", "counter", "objects", "signal")
)
"""Kinds whose targets the kernel can name, all of them."""

USER: Final = tuple(kind.name for kind in _ROWS if kind.user)
"""Kinds whose target is in a file that programs are made of."""

OVER: Final = ("begin", "end", "iter")
"""Kinds that fire so often and no more: a trace of them alone, an `iter` among them, ends by itself."""

SIGNALS: Final = ("SIGUSR1", "SIGUSR2")
"""The signals that mean nothing to us."""

OBJECTS: Final = (
    *("task", "task_file", "task_vma", "cgroup", "css", "bpf_map", "bpf_prog", "bpf_link", "ksym"),
    *("tcp", "udp", "unix", "netlink", "ipv6_route", "kmem_cache", "dmabuf"),
)
"""What iterators are known to walk; a kernel may have more, which are found by name."""

NANOSECONDS: Final = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1000, "ns": 1}
"""Units of timers; the other one is hz."""


def period(target: str) -> tuple[int, bool] | None:
    """What a timer's target means: nanoseconds, or times a second and True. None where it means nothing.

    `s:5` and `5s`, `hz:99` and `99hz`.
    """
    unit, colon, number = target.partition(":")
    if not colon:
        number = unit.rstrip("smunhz")
        unit = unit[len(number) :]
    if not (number.isascii() and number.isdigit()) or not 0 < int(number) < 1 << 32:
        return None
    if unit == "hz":
        return int(number), True
    return (int(number) * NANOSECONDS[unit], False) if unit in NANOSECONDS else None


def in_file(file: str, name: str) -> str:
    """The target that is a name in a file: quotes hold a file together whose own name has a colon."""
    return f'"{file}":{name}' if ":" in file else f"{file}:{name}"


def file_and_name(target: str) -> tuple[str, str, str]:
    """The file of a target, the colon behind it, and what stands behind that; the last two are empty where
    there is none.
    """
    if target[:1] == '"':
        file, closed, name = target[1:].partition('"')
        if closed and name[:1] == ":":
            return file, ":", name[1:]
    return target.partition(":")
