"""What this kernel, this user and this environment allow: a table of features, each with a probe that
tries the thing.

Invariants: nothing is read off a version (versions stand here for wording only); a probe leaves nothing
behind and runs no program that does anything; three answers, yes, no and unknown, and only yes and no are
kept for the process, because what could not be told now may be told later. A user who may not try gets
"unknown", not "no".

The probes themselves are in `probes` (programs, maps, attaching) and `environment` (user, settings,
memory).
"""

from collections.abc import Callable
from typing import NamedTuple

from kwire.errors import KwireError
from kwire.kernel import environment, probes
from kwire.kernel.attach import GET_KPROBES, NO_KPROBES, kprobe_pmu
from kwire.kernel.probes import Answer
from kwire.kernel.sys import MAP_TYPES
from kwire.kernel.syscall import KernelError
from kwire.kinds import USER


class Feature(NamedTuple):
    """`meaning`: what one has with it; `since`: the mainline kernel that brought it, for wording, "" where
    none did.
    """

    name: str
    meaning: str
    since: str
    probe: Callable[[], Answer]


_SINCE_MAP = {"array_of_maps": "4.12", "stack_trace": "4.6", "lru_hash": "4.10", "ringbuf": "5.8"}
_SINCE_PROG = {"kprobe": "4.1", "tracepoint": "4.7", "rawtracepoint": "4.17", "fentry": "5.5", "fexit": "5.5"}

FEATURES: dict[str, Feature] = {
    feature.name: feature
    for feature in (
        Feature("privileges", "this user may trace", "", environment.capabilities),
        Feature("bpf", "the bpf system call is there", "3.18", probes.bpf_call),
        *(
            Feature(
                f"map_{kind}", f"maps of kind {kind}", _SINCE_MAP.get(kind, "3.19"), probes.map_kind(kind)
            )
            for kind in MAP_TYPES
        ),
        Feature("mmapable", "counters read straight from memory", "5.5", probes.mmapable),
        *(
            Feature(f"prog_{kind}", f"programs of kind {kind} load", since, probes.prog_kind(kind))
            for kind, since in _SINCE_PROG.items()
        ),
        *(
            Feature(f"helpers_{kind}", f"the helpers of {kind} programs", "5.8", probes.helpers(kind))
            for kind in probes.HELPERS_OF
        ),
        Feature("isa_v2", "instruction set v2", "4.14", probes.isa_v2),
        Feature("isa_v3", "instruction set v3", "5.1", probes.isa_v3),
        Feature("isa_v4", "instruction set v4", "6.6", probes.isa_v4),
        Feature("atomic_fetch", "atomics that return the old value", "5.12", probes.atomic_fetch),
        Feature("bounded_loops", "loops with a bound", "5.3", probes.bounded_loop),
        Feature("loop", "loops of many turns", "5.17", probes.called_loop),
        Feature("func_info", "programs carry types and source lines", "5.0", probes.func_info),
        Feature("log_true_size", "the verifier says how long its log is", "6.4", probes.log_true_size),
        Feature("tracefs", "the list and layout of events", "4.1", probes.tracing_files),
        Feature("tracepoint", "programs on tracepoints", "4.7", probes.tracepoint),
        Feature("clock", "programs that run again and again", "4.9", probes.clock),
        Feature("rawtracepoint", "programs on raw tracepoints", "4.17", probes.rawtracepoint),
        Feature("uprobe", "programs on functions of programs", "4.17", probes.uprobe),
        Feature(
            "uprobe_multi", "one program on many functions of a file at once", "6.6", probes.uprobe_multi
        ),
        Feature("hardware", "programs on counters of the CPU", "", probes.hardware),
        Feature("watchpoint", "programs on accesses to memory", "4.17", probes.watchpoint),
        Feature("iter", "programs that walk what the kernel has", "5.8", probes.iterator),
        Feature("kprobe", "programs on any kernel function", "4.17", probes.kprobe),
        Feature("kprobe_multi", "one program on thousands of functions at once", "5.18", probes.kprobe_multi),
        Feature("fentry", "programs on functions with typed arguments", "5.5", probes.fentry),
        Feature("perf_link", "probes end with their descriptor, even when shared", "5.15", probes.perf_link),
        Feature("cookie", "one program tells its probes apart", "5.15", probes.perf_link),
        Feature("missed", "firings inside of another program are counted", "6.7", probes.counts_missed),
        Feature("btf", "the kernel describes its types", "5.4", environment.btf),
        Feature("module", "modules describe their types", "5.11", environment.module_btf),
        Feature("kallsyms", "addresses of kernel symbols are shown", "", environment.kallsyms),
        Feature("lockdown", "lockdown does not hide kernel memory", "", environment.lockdown),
        Feature("memlock", "the locked-memory limit does not count", "5.11", environment.memlock),
        Feature(
            "unprivileged_bpf", "unprivileged users are kept from bpf(2)", "", environment.unprivileged_bpf
        ),
        Feature("perf_paranoid", "perf events may be opened", "", environment.perf_paranoid),
        Feature(
            "pid_namespace",
            "process ids in events are those seen here",
            "",
            environment.pid_namespace,
        ),
        Feature("cpus", "the kernel tells how many CPUs it has", "", environment.cpus),
        Feature("memory", "there is memory for the rings", "", environment.memory),
        Feature("open_files", "many probes can be open at once", "", environment.open_files),
        Feature("native", "frames are walked in C", "", environment.walkers),
    )
}

# Tracing works when all of BASE and one of PROBES are there.
BASE = ("bpf", "map_array", "map_hash", "map_array_of_maps", "map_ringbuf", "mmapable", "cpus")
PROBES = ("tracepoint", "rawtracepoint", "kprobe", "fentry", "uprobe")

_known: dict[str, Answer] = {}


def probe(name: str) -> Answer:
    """Whether a feature is there, tried the first time and again while it could not be told."""
    answer = _known.get(name)
    if answer is None:
        feature = FEATURES[name]
        try:
            answer = feature.probe()
        except (KwireError, OSError) as error:  # what every probe needs is not there: the others may answer
            cause = f"{error.subject}: {error.cause}" if isinstance(error, KwireError) else str(error)
            answer = Answer("unknown", cause, getattr(error, "cure", ""))
        if answer.answer == "no" and feature.since and not answer.cure:
            answer = answer._replace(cure=f"Linux {feature.since} brought it")
        if answer.answer != "unknown":
            _known[name] = answer
    return answer


def can_trace() -> bool:
    """Whether anything can be traced at all."""
    return all(probe(name).answer == "yes" for name in BASE) and any(
        probe(name).answer == "yes" for name in PROBES
    )


def mechanism(kind: str, count: int = 1) -> str:
    """The best way this kernel has to probe `count` functions: "kprobe.multi", "kprobe" or "fentry".

    `kind`: kprobe or kretprobe, for which fentry means fexit; or one whose target is in a file, which is
    "uprobe.multi" or "uprobe". Raises KernelError where there is none.
    """
    if kind in USER:
        return "uprobe.multi" if count > 1 and probe("uprobe_multi").answer == "yes" else "uprobe"
    if count > 1 and probe("kprobe_multi").answer == "yes":
        return "kprobe.multi"
    if kprobe_pmu():  # attaching will tell the rest; trying it here would delay every start
        return "kprobe"
    if probe("fentry").answer == "yes":
        return "fentry"
    raise KernelError("attach", kind, f"{NO_KPROBES} and no fentry", GET_KPROBES)
