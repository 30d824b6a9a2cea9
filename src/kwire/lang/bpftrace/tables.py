"""What the language has by name: one row each, with what it is and whether it can be used yet.

The code looks names up here, so what docs/language.md says is what holds. A row that is not `ready` is known
and refused where it is used.
"""

from kwire.hints import Final
from kwire.lang.builtins import MAX_LIMIT
from kwire.lang.declarations import SIZE_MOST
from kwire.lazy import NamedTuple


class Provider(NamedTuple):
    """A kind of probe: its name, its other names, how it is written, and what it is. `kind`: as in
    `kwire.kinds`; empty: it is not supported yet.
    """

    name: str
    aliases: tuple[str, ...]
    form: str
    doc: str
    kind: str = ""


PROVIDERS: Final = (
    Provider("begin", (), "BEGIN", "before all other probes", "begin"),
    Provider("end", (), "END", "after all other probes", "end"),
    Provider("tracepoint", ("t",), "tracepoint:category:event", "an event of the kernel", "tracepoint"),
    Provider(
        "kprobe", ("k",), "kprobe:[module:]function[+offset]", "the entry of a kernel function", "kprobe"
    ),
    Provider(
        "kretprobe", ("kr",), "kretprobe:[module:]function", "the return of a kernel function", "kretprobe"
    ),
    Provider(
        "fentry", ("f", "kfunc"), "fentry:[module:]function", "the same as kprobe, through BTF", "fentry"
    ),
    Provider(
        "fexit", ("fr", "kretfunc"), "fexit:[module:]function", "the same as kretprobe, through BTF", "fexit"
    ),
    Provider(
        "rawtracepoint", ("rt",), "rawtracepoint:event", "a tracepoint's own arguments", "rawtracepoint"
    ),
    Provider("interval", ("i",), "interval:s:1", "every so often, on one CPU", "interval"),
    Provider("profile", ("p",), "profile:hz:99", "every so often, on each CPU", "profile"),
    Provider("uprobe", ("u",), "uprobe:file:function", "the entry of a function of a program", "uprobe"),
    Provider(
        "uretprobe", ("ur",), "uretprobe:file:function", "the return of a function of a program", "uretprobe"
    ),
    Provider("usdt", ("U",), "usdt:file:[provider:]name", "a place that a program marks", "usdt"),
    Provider("software", ("s",), "software:event[:count]", "an event of the kernel's counters", "software"),
    Provider("hardware", ("h",), "hardware:event[:count]", "an event of the CPU's counters", "hardware"),
    Provider("watchpoint", ("w",), "watchpoint:address:length:mode", "an access to memory", "watchpoint"),
    Provider("iter", ("it",), "iter:task", "each object of a kind", "iter"),
    Provider("self", (), "self:signal:SIGUSR1", "a signal to the tracer", "self"),
    Provider("test", (), "test:name", "a test of the language"),
    Provider("bench", (), "bench:name", "a measurement of the language"),
)
PROVIDER: Final = {name: one for one in PROVIDERS for name in (one.name, *one.aliases)}
"""Each by its name and its other names, in lower case."""


class Word(NamedTuple):
    """A built-in or a function: how it is written and what it is; `least`, `most`: arguments (a function)."""

    name: str
    form: str
    doc: str
    ready: bool = True
    least: int = 0
    most: int = 0


BUILTINS: Final = (
    Word("pid", "pid", "process id, in the pid namespace of kwire"),
    Word("tid", "tid", "thread id, likewise"),
    Word("ppid", "ppid", "process id of the parent, likewise"),
    Word("uid", "uid", "user id"),
    Word("gid", "gid", "group id"),
    Word("comm", "comm", "name of the current thread"),
    Word("pcomm", "pcomm", "name of the parent"),
    Word("nsecs", "nsecs", "nanoseconds of the monotonic clock"),
    Word("elapsed", "elapsed", "nanoseconds since the script began"),
    Word("cpu", "cpu", "number of the CPU"),
    Word("ncpus", "ncpus", "how many CPUs the machine can have"),
    Word("cgroup", "cgroup", "id of the cgroup of the current process"),
    Word("curtask", "curtask", "the current thread, a struct task_struct *"),
    Word("func", "func", "the function that the probe is on"),
    Word("probe", "probe", "the full name of the probe"),
    Word("probetype", "probetype", "the kind of the probe"),
    Word("args", "args.name", "the fields of a tracepoint, the parameters of a function"),
    Word("arg0", "arg0, arg1, …", "the arguments as numbers"),
    Word("retval", "retval", "what the function returned"),
    Word("cpid", "cpid", "process id of the command of -c"),
    Word("has_cpid", "has_cpid", "whether there is a command"),
    Word(
        "ctx", "ctx, ctx.name", "the address of what the program is given; what an iterator is at: ctx.task"
    ),
    Word("kstack", "kstack", "the kernel's stack"),
    Word("ustack", "ustack", "the program's stack"),
    Word("rand", "rand", "a random number"),
    Word("username", "username", "name of the user"),
    Word("jiffies", "jiffies", "the kernel's ticks"),
    Word("numaid", "numaid", "number of the NUMA node"),
    Word("usermode", "usermode", "whether the CPU was in user mode"),
    Word("compat", "compat", "whether the current system call is made as 32-bit programs make them"),
    Word("leader_tid", "leader_tid", "thread id of the process' first thread"),
    Word("leader_comm", "leader_comm", "name of the process' first thread"),
    Word("config", "config().name", "a setting, as it is here"),
)
BUILTIN: Final = {one.name: one for one in BUILTINS}

STATEMENTS: Final = (
    Word("printf", 'printf("format", …)', "print a line: formats are C's, and %r of a buffer", True, 1, 64),
    Word(
        "time", 'time("format")', "print the time, in a format of strftime and %f, microseconds", True, 0, 1
    ),
    Word("print", "print(@map[, top[, div]]), print(value)", "print a map or a value", True, 1, 3),
    Word("clear", "clear(@map)", "empty a map", True, 1, 1),
    Word("zero", "zero(@map)", "set all values of a map to 0", True, 1, 1),
    Word(
        "delete", "delete(@map, key), delete(@a[1], @b[2])", "remove keys; whether there was one", True, 1, 64
    ),
    Word("exit", "exit(), exit(code)", "end the script", True, 0, 1),
    Word("join", "join(array)", "print an array of strings", True, 1, 2),
    Word("cat", 'cat("file")', "print a file", True, 1, 64),
    Word("system", 'system("command")', "run a command of the shell, with --unsafe", True, 1, 64),
    Word("signal", 'signal("TERM"), signal(15)', "send a signal to the process, with --unsafe", True, 1, 1),
    Word("signal_thread", 'signal_thread("TERM")', "send a signal to the thread, likewise", True, 1, 1),
    Word("override", "override(value)", "return at once", False, 1, 1),
    Word("errorf", 'errorf("format", …)', "print an error", True, 1, 64),
    Word("warnf", 'warnf("format", …)', "print a warning", True, 1, 64),
    Word("assert", 'assert(condition, "text")', "end the script where a condition does not hold", True, 2, 2),
    Word("static_assert", 'static_assert(condition, "text")', "refuse the script likewise", True, 2, 2),
    Word("fail", 'fail("text")', "refuse the script", True, 1, 64),
    Word("unwatch", "unwatch(address)", "end a watchpoint", False, 1, 1),
    Word("skboutput", "skboutput(…)", "write a packet", False, 4, 4),
    Word("write_user", "write_user(address, value)", "write memory", False, 2, 3),
)

FUNCTIONS: Final = (
    Word(
        "str",
        "str(p), str(p, n)",
        "the text at p, of less than n bytes; empty where n is 0 or negative",
        True,
        1,
        2,
    ),
    Word("buf", "buf(p, n)", "n bytes at p", True, 1, 2),
    Word("ntop", "ntop(address), ntop(family, address)", "a network address", True, 1, 2),
    Word("macaddr", "macaddr(address)", "an Ethernet address", True, 1, 1),
    Word("bswap", "bswap(x)", "x with its bytes in the opposite order", True, 1, 1),
    Word("ksym", "ksym(address)", "a kernel address, shown by name", True, 1, 1),
    Word("usym", "usym(address)", "an address in the current process, shown by name", True, 1, 1),
    Word(
        "kstack",
        "kstack, kstack(n), kstack(mode, n)",
        "the kernel's stack, at most n frames, as a mode shows it: bpftrace, perf or raw",
        True,
        0,
        2,
    ),
    Word("ustack", "ustack, ustack(n), ustack(mode, n)", "the program's stack; also build_id", True, 0, 2),
    Word("kptr", "kptr(p)", "p as an address of the kernel", True, 1, 1),
    Word("uptr", "uptr(p)", "p as an address of the current process", True, 1, 1),
    Word("has_key", "has_key(@map, key)", "whether a map has a key", True, 2, 2),
    Word("count", "@map = count()", "how many there were", True, 0, 0),
    Word("sum", "@map = sum(n)", "the sum of numbers", True, 1, 1),
    Word("min", "@map = min(n)", "the smallest number", True, 1, 1),
    Word("max", "@map = max(n)", "the greatest number", True, 1, 1),
    Word("avg", "@map = avg(n)", "the average of numbers", True, 1, 1),
    Word("stats", "@map = stats(n)", "how many numbers there were, their sum and average", True, 1, 1),
    Word("hist", "@map = hist(n)", "a histogram of powers of two", True, 1, 2),
    Word("lhist", "@map = lhist(n, min, max, step)", "a histogram of equal steps", True, 4, 4),
    Word(
        "tseries",
        '@map = tseries(n, interval, count[, "how"])',
        "the last count intervals, each with its last value, or avg, sum, min, max, count",
        True,
        3,
        4,
    ),
    Word("strncmp", "strncmp(a, b, n)", "0 where the first n bytes of two texts are the same", True, 3, 3),
    Word(
        "getopt",
        'getopt("name"[, default[, "text"]])',
        "an option of the script: -- --name=value",
        True,
        1,
        3,
    ),
    Word("strftime", 'strftime("format", ns)', "a time in ns, in a format of strftime and %f", True, 2, 2),
    Word("strerror", "strerror(number)", "what a number of an error means", True, 1, 1),
    Word("signal_name", "signal_name(number)", "what a number of a signal means", True, 1, 1),
    Word(
        "syscall_name",
        "syscall_name(number), syscall_name(number, compat)",
        "the name of a system call; with `compat`, where that is true, of one of a 32-bit program",
        True,
        1,
        2,
    ),
    Word(
        "cgroup_path",
        "cgroup_path(id)",
        "the path of a control group that was there at the start",
        True,
        1,
        2,
    ),
    Word("kaddr", 'kaddr("name")', "the address of a kernel symbol", True, 1, 1),
    Word("strcontains", "strcontains(text, part)", "whether a text contains another", True, 2, 2),
    Word("strstr", "strstr(text, part)", "where a text contains another, -1 where it does not", True, 2, 2),
    Word(
        "find",
        "find(@map, key, $x)",
        "whether a map has a key; $x, declared before (`let $x;`), has the value then",
        True,
        3,
        3,
    ),
    Word("is_literal", "is_literal(x)", "whether x is written as a number or a text", True, 1, 1),
    Word("usdt_arg", "usdt_arg(0)", "an argument of a usdt probe, as an address", True, 1, 1),
    Word("memcmp", "memcmp(a, b, n)", "0 where the first n bytes at two places are the same", True, 3, 3),
    Word("strlen", "strlen(text)", "bytes of a text", True, 1, 1),
    Word("len", "len(@map), len(kstack)", "how many keys a map has, or how many frames a stack", True, 1, 1),
    Word("percpu_kaddr", 'percpu_kaddr("name"[, cpu])', "a kernel variable that each CPU has", True, 1, 2),
    Word("ppid", "ppid(task)", "process id of a task's parent", True, 0, 1),
    Word("pcomm", "pcomm(task)", "name of a task's parent", True, 0, 1),
    Word("leader_tid", "leader_tid(task)", "thread id of the first thread of its process", True, 0, 1),
    Word("leader_comm", "leader_comm(task)", "name of the first thread of its process", True, 0, 1),
    Word("pid", "pid(init), pid(curr_ns)", "process id, as the kernel has it, or as kwire", True, 0, 1),
    Word("tid", "tid(init), tid(curr_ns)", "thread id, likewise", True, 0, 1),
    Word("nsecs", "nsecs(monotonic), nsecs(boot), nsecs(tai)", "the time by a clock", True, 0, 1),
    Word("reg", 'reg("ip")', "a register of the machine", True, 1, 1),
    Word("pton", 'pton("127.0.0.1")', "an address of IPv4 or IPv6, as it is on the wire", True, 1, 1),
    Word(
        "socket_cookie",
        "socket_cookie(args.sk)",
        "the cookie of a socket, of an argument of an fentry or fexit",
        True,
        1,
        1,
    ),
    Word("uaddr", 'uaddr("name")', "the address of a variable of the program, in uprobes", True, 1, 1),
    Word("cgroupid", 'cgroupid("path")', "the id of a control group", True, 1, 1),
    Word("is_err", "is_err(p)", "whether an address is an error of the kernel", True, 1, 1),
    *(
        Word(name, f"{name}(…)", "", False, 0, 64)
        for name in (
            *("path", "dw_ustack", "typeof", "str_concat"),
            *("is_ptr", "is_str", "is_integer", "is_array", "strcap", "kfunc_exist", "kfunc_allowed"),
            "is_unsigned_integer",
        )
    ),
)
FUNCTION: Final = {one.name: one for one in (*STATEMENTS, *FUNCTIONS)}


class Setting(NamedTuple):
    """A setting of the config block: its name, its value at first, and what it does. `values`: the words that
    it can be; empty: a number, from 1 to `most`.
    """

    name: str
    default: int | str | bool
    doc: str
    values: tuple[str, ...] = ()
    ready: bool = True
    most: int = 0


LICENSES: Final = (
    *("GPL", "GPL v2", "GPL and additional rights", "Dual BSD/GPL", "Dual MIT/GPL", "Dual MPL/GPL"),
)

SWITCH: Final = ("true", "false")
SETTINGS: Final = (
    Setting(
        "missing_probes", "error", "what is done where a probe is not there", ("error", "warn", "ignore")
    ),
    Setting("max_strlen", 1024, "bytes of a text that str() reads", most=MAX_LIMIT),
    Setting("max_map_keys", 4096, "keys of a map", most=SIZE_MOST),
    Setting("print_maps_on_exit", True, "whether maps are printed at the end", SWITCH),
    Setting("max_cat_bytes", 10240, "bytes of a file that cat() shows"),
    Setting("str_trunc_trailer", "..", "what stands behind a text that was cut", (), False),
    Setting("stack_mode", "bpftrace", "how stacks are shown", ("bpftrace", "perf", "raw", "build_id")),
    Setting("cpp_demangle", True, "accepted: names of C++ are demangled anyway", SWITCH),
    Setting("license", "GPL", "the licence of the programs, under which all helpers may be called", LICENSES),
    *(
        Setting(name, 0, "accepted; there is nothing here that it changes", ())
        for name in (
            *(
                "cache_user_symbols",
                "lazy_symbolication",
                "log_size",
                "max_bpf_progs",
            ),
            *(
                "max_probes",
                "on_stack_limit",
                "perf_rb_pages",
                "show_debug_info",
                "use_blazesym",
                "debug_output",
            ),
            *("unstable_tseries", "unstable_typeinfo", "unstable_dw_ustack", "unstable_import_statement"),
            *(
                "unstable_import",
                "unstable_map_decl",
                "unstable_macro",
                "max_type_res_iterations",
                "max_ast_nodes",
            ),
        )
    ),
)
SETTING: Final = {one.name: one for one in SETTINGS}
RENAMED: Final = {"strlen": "max_strlen", "map_keys_max": "max_map_keys", "cat_bytes_max": "max_cat_bytes"}
"""Settings by names that they had once."""

CONSTANTS: Final = {
    "TASK_RUNNING": 0,
    "TASK_INTERRUPTIBLE": 1,
    "TASK_UNINTERRUPTIBLE": 2,
    "NULL": 0,
}
"""Numbers that scripts know from headers, and that are neither Linux's interface nor in an enumeration."""


def markdown() -> str:
    """The reference of what the language has by name, as tables in Markdown."""
    yes = {True: "", False: "no"}
    lines = ["| probe | other names | what it is | |", "|---|---|---|---|"]
    for provider in PROVIDERS:
        others = ", ".join(f"`{one}`" for one in provider.aliases)
        lines.append(f"| `{provider.form}` | {others} | {provider.doc} | {yes[bool(provider.kind)]} |")
    for title, words in (("built-in", BUILTINS), ("statement", STATEMENTS), ("function", FUNCTIONS)):
        lines += ["", f"| {title} | what it is | |", "|---|---|---|"]
        lines += [f"| `{one.form}` | {one.doc} | {yes[one.ready]} |" for one in words if one.doc]
    rest = ", ".join(f"`{one.name}`" for one in FUNCTIONS if not one.doc)
    lines += ["", f"Functions that are not here: {rest}.", ""]
    lines += ["| setting | at first | what it is | |", "|---|---|---|---|"]
    for setting in SETTINGS:
        if setting.default != 0:
            first = str(setting.default).lower() if isinstance(setting.default, bool) else setting.default
            lines.append(f"| `{setting.name}` | `{first}` | {setting.doc} | {yes[setting.ready]} |")
    rest = ", ".join(f"`{one.name}`" for one in SETTINGS if one.default == 0)
    lines += ["", f"Settings that are accepted and change nothing here: {rest}."]
    return "\n".join(lines) + "\n"
