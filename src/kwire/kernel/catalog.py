"""What there is to probe: `expand` turns a pattern into targets, `suggestions` finds what a typo meant.

Functions come from ftrace's own list (available_filter_functions), else from the symbol table; tracepoints
from tracefs; raw tracepoints from the same events and from the names of their stubs in the symbol table;
what is in programs from their files (`binaries`).
Invariant: nothing is listed when the pattern has no wildcard; then the name is looked up alone (a tracepoint)
or left for the kernel to judge (a function).
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from errno import ENOENT
from functools import lru_cache

from kwire.kernel import tracefs
from kwire.kernel.symbols import kernel_symbols, loaded_modules
from kwire.kernel.syscall import KernelError
from kwire.kernel.targets import WILDCARD, CatalogError, Target, as_regex, nearest
from kwire.kinds import FUNCTIONS, KINDS, OBJECTS, SIGNALS, USER
from kwire.lazy import pattern

NO_PROBE = pattern(r"__ftrace_invalid_address|__pfx_|__cfi_|__SC[KT]__|.*\.cold(?:\.\d+)?$")


def expand(
    kind: str, pattern: str, pids: Sequence[int] = (), unread: dict[str, str] | None = None
) -> list[Target]:
    """The targets that a pattern names, sorted; `*`, `?` and `[…]` are wildcards on both sides of the colon.
    `pids`: processes that know what names of files mean; `unread`: as in `binaries.expand`.

    Raises CatalogError where there are none, with the nearest names; KernelError where nothing can be listed.
    """
    if kind not in KINDS:
        raise CatalogError(kind, pattern, "there is no such kind of probe", nearest(kind, KINDS, 1))
    if kind in USER:
        from kwire.kernel import binaries

        return binaries.expand(kind, pattern, pids, unread)
    if KINDS[kind].place == "memory":
        cure = f"write {KINDS[kind].example}"
        raise CatalogError(kind, pattern, "it is on memory, of which there is much", cure=cure)
    if KINDS[kind].place == "objects":
        if not WILDCARD.search(pattern) and _iterated(pattern):
            return [Target(kind, "", pattern)]
        known = [name for name in OBJECTS if _iterated(name)]
        return [Target(kind, "", name) for name in _like(kind, pattern, known)]
    if KINDS[kind].place == "signal":
        return [Target(kind, "", name) for name in _like(kind, pattern, [f"signal:{one}" for one in SIGNALS])]
    if KINDS[kind].place == "counter":
        from kwire.perfevents import COUNTERS

        return [Target(kind, "", name) for name in _like(kind, pattern, COUNTERS[kind])]
    if KINDS[kind].place == "timer":
        cure = f"write {KINDS[kind].example}"
        raise CatalogError(kind, pattern, "it is a timer, of which there are any number", cure=cure)
    if KINDS[kind].place == "trace":
        raise CatalogError(
            kind, pattern, "it is a moment of the trace, without a target", cure=f"write {kind}"
        )
    if not WILDCARD.search(pattern):
        return _named(kind, pattern) or _raise(kind, pattern)
    try:
        chosen = _functions_like(pattern) if kind in FUNCTIONS else _events_like(kind, pattern)
    except re.error as error:
        raise CatalogError(kind, pattern, f"the pattern makes no sense ({error.msg})") from None
    if not chosen:
        raise (
            missing(kind, pattern)
            if _unloaded(kind, pattern)
            else CatalogError(kind, pattern, f"no {_noun(kind)} matches")
        )
    return [Target(kind, *pair, copies) for pair, copies in sorted(Counter(chosen).items())]


KERNEL = "vmlinux"
"""What stands for the kernel itself where a module is named."""


def _iterated(name: str) -> bool:
    """Whether the kernel has an iterator of this name."""
    from kwire.kernel.prog import function_btf_id

    try:
        function_btf_id(f"bpf_iter_{name}")
    except KernelError as error:
        if error.errno != ENOENT:
            raise
        return False
    return True


def _like(kind: str, pattern: str, names: Iterable[str]) -> list[str]:
    """Those of some names that a pattern stands for. Raises CatalogError where there are none."""
    matches = re.compile(as_regex(pattern) + "$").match
    found = [name for name in names if matches(name)]
    if not found:
        raise CatalogError(kind, pattern, f"there is no such {_noun(kind)}", nearest(pattern, names, 3))
    return found


def missing(kind: str, target: str) -> CatalogError:
    """The error for a name that is not there, with the nearest names that are."""
    module = _unloaded(kind, target)
    if module:
        cure = f"`modprobe {module}`, or leave the module out"
        return CatalogError(kind, target, f"no module {module} is loaded", cure=cure)
    return CatalogError(kind, target, f"this kernel has no such {_noun(kind)}", suggestions(kind, target))


def _unloaded(kind: str, target: str) -> str:
    """The module that a function is looked for in, where no such module is loaded; else nothing."""
    module = target.rpartition(":")[0] if kind in FUNCTIONS else ""
    if not module or module == KERNEL or WILDCARD.search(module) or module in loaded_modules():
        return ""
    try:
        return "" if any(group == module for group, _ in functions()) else module
    except KernelError:
        return module


def suggestions(kind: str, target: str, limit: int = 3) -> list[str]:
    """The nearest names to one that does not exist, best first; none where nothing can be listed."""
    try:
        names = [f"{group}:{name}" if group else name for group, name in _every(kind)]
    except KernelError:
        return []
    return nearest(target, names, limit)


def _raise(kind: str, pattern: str) -> list[Target]:
    raise missing(kind, pattern)


def _noun(kind: str) -> str:
    return {"function": "function", "counter": "counter", "objects": "iterator", "signal": "signal"}.get(
        KINDS[kind].place, "tracepoint"
    )


def _named(kind: str, name: str) -> list[Target]:
    """What a name without wildcards stands for: of a function, one target for each module that has it."""
    if kind not in FUNCTIONS:
        found = _event(kind, name)
        return [found] if found else []
    group, _, last = name.rpartition(":")
    known = _IDENTIFIER.fullmatch(last) is not None
    try:
        modules = kernel_symbols().functions_named([last]).get(last, {})
    except KernelError:
        modules, known = {}, False
    where = "" if group == KERNEL else group
    copies = {module: len(all_) for module, all_ in modules.items() if not group or module == where}
    if not copies and (_unloaded(kind, name) or (known and not _listed(group, last))):
        return []
    if group == KERNEL:
        return [Target(kind, "", last, copies.get("", 1))]
    if len(copies) < 2:
        return [Target(kind, group, last, max(copies.values(), default=1))]
    return [Target(kind, module, last, number) for module, number in sorted(copies.items())]


def _listed(group: str, name: str) -> bool:
    """Whether the function tracer knows a function."""
    try:
        return any(one == name and group in ("", module or KERNEL) for module, one in functions())
    except KernelError:
        return False


_IDENTIFIER = re.compile(r"[A-Za-z_][\w.$]*")


def _event(kind: str, name: str) -> Target | None:
    group, _, last = name.rpartition(":")
    if KINDS[kind].place == "event":
        there = group and last and tracefs.shared().has_event(group, last)
        return Target(kind, group, last) if there else None
    if group or not tracefs.is_name(name):
        return None
    if name in _stubs(re.escape(name)):  # which needs no privilege
        return Target(kind, "", name)
    events = tracefs.shared()
    listed = any(
        category != "syscalls" and events.has_event(category, name) for category in events.categories()
    )
    return Target(kind, "", name) if listed else None


def _every(kind: str) -> Sequence[tuple[str, str]]:
    """(group, name) of all there is of a kind."""
    if kind in FUNCTIONS:
        return functions()
    events = [tuple(event.split(":", 1)) for event in tracefs.shared().all_events()]
    if KINDS[kind].place == "event":
        return [(group, name) for group, name in events if group != "ftrace"]
    names = {name for group, name in events if group not in ("syscalls", "ftrace")}
    return [("", name) for name in sorted(names.union(_stubs(r"\w+")))]


def _stubs(pattern: str) -> list[str]:
    """Tracepoints by the functions that walk their probes, which the symbol table names."""
    try:
        return list(
            kernel_symbols().search(rb"__traceiter_(" + pattern.encode("utf-8", "surrogateescape") + rb")")
        )
    except KernelError:
        return []


def functions() -> list[tuple[str, str]]:
    """(module, name) of each function that can be probed, as far as the kernel tells, names that several have
    once. Raises KernelError.
    """
    return list(dict.fromkeys(_functions_like("*")))


def _functions_like(pattern: str) -> list[tuple[str, str]]:
    module, colon, name = pattern.rpartition(":")
    where = as_regex(module) if colon else ".*"
    own = not module or re.fullmatch(as_regex(module), KERNEL)  # functions of no module are meant, too
    line = rf"^({as_regex(name)})(?: \[({where})\]){'?' if own else ''}$"
    found = (
        (each[2] or "", each[1])
        for each in re.finditer(line, _function_lines(loaded_modules()), re.MULTILINE)
    )
    return [pair for pair in found if pair[1] and not NO_PROBE.match(pair[1])]


def _events_like(kind: str, pattern: str) -> list[tuple[str, str]]:
    group, colon, name = pattern.rpartition(":")
    matches = re.compile(f"{as_regex(group) if colon else '[^:]*'}:{as_regex(name)}$").match
    return [pair for pair in _every(kind) if matches(":".join(pair))]


@lru_cache(maxsize=1)
def _function_lines(modules: tuple[str, ...]) -> str:
    """Lines of `name` or `name [module]`, read again when `modules` are other ones. Text, because so many
    objects would take ten times the memory.
    """
    listed = tracefs.shared().functions()
    if listed:
        return listed
    return "\n".join(
        f"{name} [{module}]" if module else name for name, module in kernel_symbols().functions()
    )
