"""What `kwire --info` says: what scripts find on this machine, `name: yes` or `name: no` a line.

The names are bpftrace's, so that tools which read those go on working. `kwire doctor` says why, and what to
do.

Invariant: an answer is that of a trial, and "yes" only where kwire makes use of it.
"""

import os
import platform
from collections.abc import Callable, Iterator

from kwire.btf import dwarf
from kwire.hints import Final
from kwire.kernel import features, probes
from kwire.lang.bpftrace import tables

Answer = Callable[[], bool]


def lines() -> Iterator[str]:
    """The lines, each section under its name."""
    system = os.uname()
    yield from (
        "System",
        f"  OS: {system.sysname} {system.release} {system.version}",
        f"  Arch: {system.machine}",
    )
    yield from ("", "Build", f"  version: kwire {_version()}", f"  Python: {platform.python_version()}")
    for section, rows in SECTIONS.items():
        if section != "Build":
            yield from ("", section)
        for name, answer in rows.items():
            yield f"  {name}: {'yes' if answer() else 'no'}"


def _version() -> str:
    from kwire import __version__

    return __version__


def _feature(name: str) -> Answer:
    return lambda: features.probe(name).answer == "yes"


def _helper(name: str) -> Answer:
    loads = _feature("prog_kprobe")
    return lambda: loads() and probes.has_helper("kprobe", name)


def _function(name: str, *needs: str) -> Answer:
    """Whether the language has a function, and the kernel what it needs."""
    return lambda: tables.FUNCTION[name].ready and all(_feature(one)() for one in needs)


def _provider(name: str, *needs: str) -> Answer:
    """The same of a kind of probe."""
    return lambda: bool(tables.PROVIDER[name].kind) and all(_feature(one)() for one in needs)


def _never() -> bool:
    return False


SECTIONS: Final[dict[str, dict[str, Answer]]] = {
    "Build": {
        "libdw (DWARF support)": dwarf.ready,
        "dwunwind (DWARF stack unwinding)": _never,
        "blazesym (advanced symbolization)": _never,
        "bcc library path resolution": _provider("uprobe"),
    },
    "Kernel helpers": {
        name: _helper(helper or name)
        for name, helper in {
            "probe_read_kernel": "",
            "probe_read_kernel_str": "",
            "probe_read_user": "",
            "probe_read_user_str": "",
            "get_current_cgroup_id": "",
            "send_signal": "",
            "get_boot_ns": "ktime_get_boot_ns",
            "get_ktime_ns": "ktime_get_tai_ns",
            "get_func_ip": "",
            "jiffies64": "",
            "lookup_percpu_elem": "map_lookup_percpu_elem",
        }.items()
    }
    | {"dpath": _function("path", "fentry"), "skboutput": _function("skboutput", "fentry")},
    "Kernel features": {
        "Loop support": _feature("bounded_loops"),
        "btf": _feature("btf"),
        "module btf": _feature("module"),
    },
    "Map types": {
        name: _feature(f"map_{kind}")
        for name, kind in {
            "hash": "hash",
            "percpu hash": "percpu_hash",
            "array": "array",
            "percpu array": "percpu_array",
            "stack_trace": "stack_trace",
            "ringbuf": "ringbuf",
        }.items()
    },
    "Probe types": {
        "kprobe": _feature("kprobe"),
        "tracepoint": _feature("tracepoint"),
        "perf_event": _feature("clock"),
        "fentry": _feature("fentry"),
        "kprobe_multi": _feature("kprobe_multi"),
        "kprobe_session": _never,
        "uprobe_multi": _never,
        "iter": _provider("iter", "fentry"),
        "raw_tp_special": _feature("rawtracepoint"),
    },
}
