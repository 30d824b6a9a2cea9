"""One table of the names a probe knows by itself and one of the functions it can call.

The checker types by these tables, the compiler implements their operations, `markdown` renders the reference
from them: nothing else lists built-ins.
"""

from kwire.kinds import FUNCTIONS as OF_FUNCTIONS
from kwire.kinds import KINDS
from kwire.lang.types import KSYM, U8, U16, U32, U64, Text, Type
from kwire.lazy import NamedTuple

COMM = Text(15)
"""The kernel keeps 16 bytes of a thread's name, one of them the NUL."""

ARGUMENTS = tuple(kind.name for kind in KINDS.values() if kind.arguments)
RESULT = tuple(kind.name for kind in KINDS.values() if kind.result)
MAX_ARGUMENTS = 12  # of a raw tracepoint; registers of the machine set the limit of kprobes


class Builtin(NamedTuple):
    """A name and what it stands for.

    `operation`: a key of `OPERATIONS`, or empty for what the checker itself resolves; `type`: None when it
    depends on the attach point or the kernel's types (`type_name`, a C type); `macro`: an expression it is
    short for, where the kernel's own numbers are the user's (with an operation, that counts elsewhere);
    `kinds`: where it exists; `hint`: what type checkers of Python take it for.
    """

    name: str
    doc: str
    type: Type | None = None
    operation: str = ""
    type_name: str = ""
    macro: str = ""
    kinds: tuple[str, ...] = tuple(KINDS)
    unit: str = ""
    hint: str = "int"


OPERATIONS = {
    "pid": "bpf_get_current_pid_tgid() >> 32",
    "tid": "bpf_get_current_pid_tgid() & 0xffffffff",
    "uid": "bpf_get_current_uid_gid() & 0xffffffff",
    "gid": "bpf_get_current_uid_gid() >> 32",
    "ppid": "as pid, of the parent; only in a pid namespace that is not the first",
    "cpu": "bpf_get_smp_processor_id()",
    "nsecs": "bpf_ktime_get_ns(), the record's own timestamp: one reading serves both",
    "cgroup": "bpf_get_current_cgroup_id()",
    "curtask": "bpf_get_current_task()",
    "func": "the address of the function that the probe is on",
    "boottime": "bpf_ktime_get_boot_ns()",
    "tai": "bpf_ktime_get_tai_ns(), since Linux 6.1",
    "rand": "bpf_get_prandom_u32()",
    "jiffies": "bpf_jiffies64()",
    "numaid": "bpf_get_numa_node_id()",
    "context": "the address of what the program is given, as a number",
    "usermode": "whether the code segment of the registers is one of programs",
}
"""`checked.Builtin.op` → what it computes."""

BUILTINS = (
    Builtin("pid", "process id (the kernel's tgid), as it is seen in the pid namespace of kwire", U32, "pid"),
    Builtin("tid", "thread id (the kernel's pid), likewise", U32, "tid"),
    Builtin("ppid", "process id of the parent, likewise", U32, "ppid", macro="curtask.real_parent.tgid"),
    Builtin("uid", "user id", U32, "uid"),
    Builtin("gid", "group id", U32, "gid"),
    Builtin("comm", "name of the current thread, at most 15 bytes", COMM, hint="str"),
    Builtin("cpu", "number of the CPU", U16, "cpu"),
    Builtin("nsecs", "nanoseconds of the monotonic clock: the event's own time", U64, "nsecs", unit="ns"),
    Builtin("cgroup", "id of the cgroup (v2) of the current process", U64, "cgroup"),
    Builtin("curtask", "the current thread", None, "curtask", "struct task_struct *", hint="Any"),
    Builtin(
        "func", "the function the probe is on, shown by name", KSYM, "func", kinds=OF_FUNCTIONS, hint="Any"
    ),
    Builtin(
        "boottime",
        "nanoseconds since the machine was started, its sleep among them",
        U64,
        "boottime",
        unit="ns",
    ),
    Builtin("tai", "nanoseconds of International Atomic Time since 1970", U64, "tai", unit="ns"),
    Builtin("rand", "a random number, another one each time", U32, "rand"),
    Builtin("jiffies", "ticks of the kernel since it started", U64, "jiffies"),
    Builtin("numaid", "number of the NUMA node", U16, "numaid"),
    Builtin("usermode", "1 where the CPU was in user mode when the probe fired", U8, "usermode"),
    Builtin("retval", "what the function returned, typed by its prototype", kinds=RESULT, hint="Any"),
    Builtin("args", "the attach point's own fields or parameters by name: args.filename", hint="Any"),
    Builtin("arg0, arg1, …", "the arguments as plain numbers, without their type", U64, kinds=ARGUMENTS),
)
BY_NAME = {one.name: one for one in BUILTINS if one.name.isidentifier()}


class Function(NamedTuple):
    """A function: its name, how it is called, how many arguments it takes, and what it gives.

    `hint`: its parameters and its result, as type checkers of Python take it.
    """

    name: str
    form: str
    least: int
    most: int
    doc: str
    hint: str = "(x: Any, /) -> Any"


TEXT_LIMIT = 256
MAX_LIMIT = 16384
BYTES_LIMIT = 64

STACK_LIMIT = 127
"""Frames of a stack where nobody says how many: of more the kernel tells only where its setting
kernel.perf_event_max_stack is higher."""

STACK_MOST = 1024
"""Frames of a stack."""

STACKS_MOST = 8192
"""Different stacks of a kind in a trace."""

FUNCTIONS = (
    Function(
        "str",
        "str(p[, n[, limit]])",
        1,
        3,
        f"text at p to its NUL, at most n (or {TEXT_LIMIT}) bytes; a varying n is cut at limit (likewise)",
        hint="(p: Any, n: int = ..., limit: int = ..., /) -> str",
    ),
    Function(
        "bytes",
        "bytes(p, n[, limit])",
        2,
        3,
        f"n bytes at p; a varying n is cut at limit (or {BYTES_LIMIT})",
        hint="(p: Any, n: int, limit: int = ..., /) -> bytes",
    ),
    Function(
        "reg", 'reg("ip")', 1, 1, "a register of the machine where the probe is", hint="(name: str, /) -> int"
    ),
    Function("user", "user(p)", 1, 1, "p as an address of the current process", hint="(p: Any, /) -> Any"),
    Function("kernel", "kernel(p)", 1, 1, "p as an address of the kernel", hint="(p: Any, /) -> Any"),
    Function("deref", "deref(p)", 1, 1, "what p points to; the same as p[0]", hint="(p: Any, /) -> Any"),
    Function(
        "address",
        "address(x)",
        1,
        1,
        "where a local, or what is at a key of a map, is in memory",
        hint="(x: Any, /) -> Any",
    ),
    Function(
        "be16", "be16(x)", 1, 1, "a big-endian (network order) u16 as a number", hint="(x: Any, /) -> int"
    ),
    Function("be32", "be32(x)", 1, 1, "a big-endian u32 as a number", hint="(x: Any, /) -> int"),
    Function("be64", "be64(x)", 1, 1, "a big-endian u64 as a number", hint="(x: Any, /) -> int"),
    Function("be", "be(x)", 1, 1, "a big-endian number of its own width", hint="(x: Any, /) -> int"),
    Function("ip", "ip(x)", 1, 1, "an IPv4 or IPv6 address, by its size: 4 or 16 bytes"),
    Function("ipv4", "ipv4(x)", 1, 1, "a 4-byte network-order field, array or pointer, shown as 192.0.2.1"),
    Function("ipv6", "ipv6(x)", 1, 1, "a 16-byte array, structure or pointer to one, shown as 2001:db8::1"),
    Function("mac", "mac(x)", 1, 1, "a 6-byte array or pointer to one, shown as 00:00:5e:00:53:01"),
    Function("ksym", "ksym(x)", 1, 1, "a kernel address, shown as the name of what is there"),
    Function(
        "usym", "usym(x)", 1, 1, "an address in the current process, shown as the name of what is there"
    ),
    Function(
        "kstack",
        'kstack([frames][, "mode"][, most])',
        0,
        3,
        f"the kernel's stack, of at most {STACK_LIMIT} frames, or so many; shown as bpftrace, perf or raw; "
        f"of different ones a trace has at most {STACKS_MOST}, or so many",
        hint="(*how: int | str) -> Any",
    ),
    Function(
        "ustack",
        "ustack(…)",
        0,
        3,
        "the stack of the process, likewise; also shown as build_id",
        hint="(*how: int | str) -> Any",
    ),
    Function(
        "sizeof",
        'sizeof("struct x") or sizeof(x)',
        1,
        1,
        "bytes of a type, or of a value",
        hint="(x: Any, /) -> int",
    ),
    Function(
        "offsetof",
        'offsetof("struct x", "a.b")',
        2,
        2,
        "where a member lies, in bytes",
        hint="(x: Any, member: str, /) -> int",
    ),
    Function(
        "cast", 'cast("struct x *", p)', 2, 2, "p as another type", hint="(type: str, p: Any, /) -> Any"
    ),
    Function(
        "len",
        "len(text[, most]), len(kstack())",
        1,
        2,
        "bytes of a text, which ends at its NUL; frames of a stack",
        hint="(text: Any, most: int = ..., /) -> int",
    ),
    Function(
        "socket_cookie",
        "socket_cookie(args.sk)",
        1,
        1,
        "the cookie of a socket, the same in all of its events; of an argument of an fentry or fexit",
        hint="(socket: Any, /) -> int",
    ),
    Function(
        "glob",
        'glob(x, "*.so")',
        2,
        2,
        'whether a text matches: `*`, `?`, `[a-z]`, `[!a-z]`; or `x ~ "*.so"` in a condition',
        hint="(x: Any, pattern: str, /) -> bool",
    ),
    Function("min", "min(a, b)", 2, 2, "the smaller number", hint="(a: int, b: int, /) -> int"),
    Function("max", "max(a, b)", 2, 2, "the greater number", hint="(a: int, b: int, /) -> int"),
    *(
        Function(
            f"{sign}{bits}",
            f"{sign}{bits}(x)",
            1,
            1,
            f"the low {bits} bits of x, {word}",
            hint="(x: Any, /) -> int",
        )
        for sign, word in (("u", "unsigned"), ("s", "signed"))
        for bits in (8, 16, 32, 64)
    ),
    Function(
        "turns",
        "turns(n)",
        1,
        1,
        "of a `while` and its `and`: true in the first n turns",
        hint="(n: int, /) -> bool",
    ),
    Function(
        "exit",
        "exit([status])",
        0,
        1,
        "the trace ends, and kwire with this status (or 0); a statement",
        hint="(status: int = ..., /) -> None",
    ),
    Function(
        "print",
        'print(f"{x} of {y}", …)',
        0,
        64,
        "one event, shown as this text; sep= and end= are constant; a statement",
        hint="(*values: Any, sep: str = ..., end: str = ...) -> None",
    ),
    Function(
        "emit",
        "emit(x, name=y, …)",
        1,
        64,
        "one event with these fields; a statement",
        hint="(*fields: Any, **named: Any) -> None",
    ),
)
FUNCTION = {one.name: one for one in FUNCTIONS}
NUMBERED = {f"arg{number}": number for number in range(MAX_ARGUMENTS)}
"""The names of plain arguments, and which each is."""


def linux_constant(name: str) -> int | None:
    """The number of a name of Linux's interface on this machine (O_CREAT, ENOENT), None where it is none."""
    if not name[:1].isupper():
        return None
    import os

    from kwire.wire.names import constant

    return constant(name, os.uname().machine)


def meaning(name: str) -> str:
    """What the language itself means by a name, in words; empty where it is free for a script to use.

    The names of the running kernel's enumerations are free: which there are depends on the kernel.
    """
    if name in BY_NAME or name in NUMBERED:
        return "a built-in of probes"
    if name in FUNCTION:
        return "a function of probes"
    return "a constant of Linux" if linux_constant(name) is not None else ""


def markdown() -> str:
    """The reference of built-ins and functions, as two tables in Markdown."""
    from kwire.lang.types import describe

    lines = ["| name | type | what it is | where |", "|---|---|---|---|"]
    for one in BUILTINS:
        type_ = "text" if one.type == COMM else describe(one.type) if one.type is not None else one.type_name
        where = "every probe" if one.kinds == tuple(KINDS) else ", ".join(one.kinds)
        doc = f"{one.doc}: `{one.macro}`" if one.macro else one.doc
        lines.append(f"| `{one.name}` | {type_ and f'`{type_}`'} | {doc} | {where} |")
    lines += ["", "| function | what it gives |", "|---|---|"]
    lines += [f"| `{one.form}` | {one.doc} |" for one in FUNCTIONS]
    return "\n".join(lines) + "\n"
