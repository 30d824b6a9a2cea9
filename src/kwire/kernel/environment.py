"""Feature probes that look around: the user's privileges, the kernel's settings, namespaces, memory, our
own build.
"""

import errno as errnos
import os
import resource
from collections.abc import Callable

from kwire import native
from kwire.bpf.image import MapSpec
from kwire.kernel import cures, privileges, tracefs
from kwire.kernel.cures import CONFIDENTIALITY, READING, TRACING, lockdown_mode, may_trace
from kwire.kernel.identity import try_iterator
from kwire.kernel.maps import Map
from kwire.kernel.probes import YES, Answer, refused, trying, without_procfs, without_sysfs
from kwire.kernel.symbols import KALLSYMS, how_to_see_addresses
from kwire.kernel.sys import in_first_namespace, possible_cpus
from kwire.kernel.syscall import KernelError, reason
from kwire.words import plural

RING = 8 << 20  # bytes a CPU that a trace takes when nothing else is said
MANY_PROBES = 1024


def capabilities() -> Answer:
    """May this user trace?"""
    held = privileges.effective()
    if may_trace(held):
        wanted = (*TRACING, "CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE", *READING, "CAP_SYSLOG")
        return Answer("yes", " ".join(name for name in wanted if name in held))
    lacking = " and ".join(name for name in TRACING if name not in held)
    try:
        tracefs.shared()
        cure = cures.refused()
    except KernelError as error:  # tracepoints are told of there
        cure = cures.unreadable() if error.errno in (errnos.EPERM, errnos.EACCES) else cures.refused()
    return Answer("no", f"user {os.geteuid()} without {lacking}", cure)


def btf() -> Answer:
    """Is the kernel's type information there?"""
    path = "/sys/kernel/btf/vmlinux"
    if os.access(path, os.R_OK):
        return Answer("yes", f"{os.path.getsize(path) >> 10} KiB")
    cure = "boot a kernel with CONFIG_DEBUG_INFO_BTF; tracepoints work without it"
    return without_sysfs() or Answer("no", f"no {path}", cure)


def module_btf() -> Answer:
    """Have the loaded modules type information?"""
    loaded = _read("/proc/modules")
    if loaded is None:
        return without_procfs() or Answer("no", "this kernel has no modules", "none is needed")
    try:
        modules = [name for name in os.listdir("/sys/kernel/btf") if name != "vmlinux"]
    except OSError:
        none = "the kernel has no type information"
        return without_sysfs() or Answer("no", none, "boot a kernel with CONFIG_DEBUG_INFO_BTF")
    if modules:
        return Answer("yes", plural(len(modules), "module"))
    if not loaded:
        return Answer("unknown", "no module is loaded")
    return Answer("no", "the loaded modules have none", "boot a kernel with CONFIG_DEBUG_INFO_BTF_MODULES")


def kallsyms() -> Answer:
    """Does /proc/kallsyms show addresses?"""
    try:
        with open(KALLSYMS, "rb") as file:
            start = file.read(4096)
    except OSError as error:
        return without_procfs() or Answer("no", f"{KALLSYMS}: {reason(error.errno or 0)}")
    if any(int(line.split()[0], 16) for line in start.split(b"\n")[:-1]):
        return YES
    return Answer("no", "every address is shown as 0", how_to_see_addresses())


def lockdown() -> Answer:
    """Does lockdown keep programs from reading kernel memory?"""
    mode, errno = lockdown_mode()
    if errno in (errnos.EPERM, errnos.EACCES) and "CAP_SYS_ADMIN" not in privileges.effective():
        return Answer("unknown", "this user may not look", "run as root, or with CAP_SYS_ADMIN")
    if errno:
        return refused(errno)
    if mode == CONFIDENTIALITY:
        return Answer(
            "no", f"mode {mode}: programs cannot read kernel memory", "boot with lockdown=integrity"
        )
    return Answer("yes", f"mode {mode}" if mode else "this kernel has no lockdown")


def memlock() -> Answer:
    """Are maps charged to the locked-memory limit? Tried with a limit of 0, which is put back."""
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    spec = MapSpec("kwire_probe", "array", 4, 8, 1)
    try:
        Map.create(spec).close()
    except KernelError:
        return Answer("unknown", "this user may not try it", cures.refused())
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, hard))
        Map.create(spec).close()
    except KernelError:
        return Answer("no", f"maps count against it; it is {soft >> 10} KiB", "ulimit -l unlimited")
    except (ValueError, OSError):
        return Answer("unknown", "the limit cannot be changed for the trial")
    finally:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (soft, hard))
    return YES


def unprivileged_bpf() -> Answer:
    """Only for information: nothing of ours needs it."""
    return _setting(
        "/proc/sys/kernel/unprivileged_bpf_disabled",
        lambda value: value > 0,
        "sysctl kernel.unprivileged_bpf_disabled=2",
    )


def perf_paranoid() -> Answer:
    """Does the setting stand in the way of this user?"""
    text = _read("/proc/sys/kernel/perf_event_paranoid")
    if text is None:
        none = "this kernel has no perf events"
        return without_procfs() or Answer("no", none, "boot a kernel with CONFIG_PERF_EVENTS")
    level, held = int(text), privileges.effective()
    if level < 0 or "CAP_SYS_ADMIN" in held or (may_trace(held) and level <= cures.PARANOID_MOST):
        return Answer("yes", f"perf_event_paranoid is {level}")
    return Answer("no", f"perf_event_paranoid is {level}", cures.perf_refused())


def pid_namespace() -> Answer:
    """Are ids told as they are seen here? In a pid namespace of its own that takes an iterator over tasks."""
    if in_first_namespace():
        return YES
    told = trying(try_iterator)
    if told.answer == "yes":
        return told._replace(reason="in this pid namespace; fields of tracepoints hold the kernel's")
    return told._replace(
        reason=f"a pid namespace of its own, and events show the kernel's ids: {told.reason}",
        cure="start the container with the host's (`--pid=host`)",
    )


def cpus() -> Answer:
    """Can the rings be one a CPU? Raises KernelError where that cannot be told."""
    return Answer("yes", f"{possible_cpus()} possible")


def memory() -> Answer:
    """Is there room for a ring on every CPU?"""
    need = RING * possible_cpus() + (32 << 20)
    limits = [available for available in (_available(), _cgroup_room()) if available is not None]
    if not limits:
        return Answer("unknown", "neither /proc/meminfo nor a control group tells")
    free = min(limits)
    told = f"{free >> 20} MiB free, {need >> 20} MiB wanted"
    return Answer("yes", told) if free >= need else Answer("no", told, "ask for smaller rings (--buffer)")


def open_files() -> Answer:
    """How many probes can be open?"""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= MANY_PROBES:
        return Answer("yes", plural(soft, "descriptor"))
    return Answer("no", plural(soft, "descriptor"), f"ulimit -n {4 * MANY_PROBES}, or use kprobe.multi")


def walkers() -> Answer:
    """Was our C library built?"""
    if native.ring_walk:
        return YES
    return Answer(
        "no", "frames are walked in Python, which is slower", "install again where there is a C compiler"
    )


def _setting(path: str, good: Callable[[int], bool], cure: str) -> Answer:
    text = _read(path)
    if text is None:
        return without_procfs() or Answer("unknown", f"no {path}")
    name = os.path.basename(path)
    return (
        Answer("yes", f"{name} is {text.strip()}")
        if good(int(text))
        else Answer("no", f"{name} is {text.strip()}", cure)
    )


def _available() -> int | None:
    for line in (_read("/proc/meminfo") or "").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return None


def _cgroup_room() -> int | None:
    limit, used = _read("/sys/fs/cgroup/memory.max"), _read("/sys/fs/cgroup/memory.current")
    if limit and used and limit.strip().isdigit():
        return int(limit) - int(used)
    return None


def _read(path: str, directory: int | None = None) -> str | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return None
    try:
        with open(fd) as file:
            return file.read()
    except OSError:
        return None
