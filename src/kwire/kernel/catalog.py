"""What there is to probe: `expand` turns a pattern into targets, `suggestions` finds what a typo meant.

Functions come from ftrace's own list (available_filter_functions), else from the symbol table; tracepoints
from tracefs; raw tracepoints from the same events and from the names of their stubs in the symbol table.
Invariant: nothing is listed when the pattern has no wildcard; then the name is looked up alone (a tracepoint)
or left for the kernel to judge (a function).
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

from kwire.errors import KwireError
from kwire.kernel import tracefs
from kwire.kernel.symbols import kernel_symbols, loaded_modules
from kwire.kernel.syscall import KernelError
from kwire.kinds import FUNCTIONS, KINDS
from kwire.lazy import NamedTuple, pattern

WILDCARD = pattern(r"[*?\[]")
NO_PROBE = pattern(r"__ftrace_invalid_address|__pfx_|__cfi_|__SC[KT]__|.*\.cold(?:\.\d+)?$")


class Target(NamedTuple):
    """One thing to probe. `group`: category of a tracepoint, module of a function, "" for the kernel
    proper; `copies`: how many functions of that module have this name.
    """

    kind: str
    group: str
    name: str
    copies: int = 1

    @property
    def target(self) -> str:
        """What stands after the kind in a probe spec: `sched:sched_switch`, `tcp_connect`,
        `nf_nat:nf_nat_init`.
        """
        return f"{self.group}:{self.name}" if self.group else self.name

    def __str__(self) -> str:
        return f"{self.kind}:{self.target}" if self.target else self.kind


class CatalogError(KwireError):
    """Nothing matches. `near`: the names that may have been meant."""

    def __init__(self, kind: str, pattern: str, cause: str, near: Sequence[str] = (), cure: str = "") -> None:
        cure = f"did you mean {' or '.join(near)}?" if near else cure
        super().__init__("find", f"{kind}:{pattern}", cause, cure)
        self.near = tuple(near)


def expand(kind: str, pattern: str) -> list[Target]:
    """The targets that a pattern names, sorted; `*`, `?` and `[…]` are wildcards on both sides of the colon.

    Raises CatalogError where there are none, with the nearest names; KernelError where nothing can be listed.
    """
    if kind not in KINDS:
        raise CatalogError(kind, pattern, "there is no such kind of probe", _nearest(kind, KINDS, 1))
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
    if not module or WILDCARD.search(module) or module in loaded_modules():
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
    return _nearest(target, names, limit)


def _raise(kind: str, pattern: str) -> list[Target]:
    raise missing(kind, pattern)


def _noun(kind: str) -> str:
    return "function" if kind in FUNCTIONS else "tracepoint"


def _named(kind: str, name: str) -> list[Target]:
    """What a name without wildcards stands for: of a function, one target for each module that has it."""
    if kind not in FUNCTIONS:
        found = _event(kind, name)
        return [found] if found else []
    group, _, last = name.rpartition(":")
    try:
        modules = kernel_symbols().functions_named([last]).get(last, {})
    except KernelError:
        modules = {}
    copies = {module: len(all_) for module, all_ in modules.items() if not group or module == group}
    if len(copies) < 2:
        return [Target(kind, group, last, max(copies.values(), default=1))]
    return [Target(kind, module, last, number) for module, number in sorted(copies.items())]


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
        return list(kernel_symbols().search(rb"__traceiter_(" + pattern.encode() + rb")"))
    except KernelError:
        return []


def functions() -> list[tuple[str, str]]:
    """(module, name) of each function that can be probed, as far as the kernel tells, names that several have
    once. Raises KernelError.
    """
    return list(dict.fromkeys(_functions_like("*")))


def _functions_like(pattern: str) -> list[tuple[str, str]]:
    module, colon, name = pattern.rpartition(":")
    line = rf"^({_glob(name)})(?: \[({_glob(module) if colon else '.*'})\]){'' if colon and module else '?'}$"
    found = (
        (each[2] or "", each[1])
        for each in re.finditer(line, _function_lines(loaded_modules()), re.MULTILINE)
    )
    return [pair for pair in found if pair[1] and not NO_PROBE.match(pair[1])]


def _events_like(kind: str, pattern: str) -> list[tuple[str, str]]:
    group, colon, name = pattern.rpartition(":")
    matches = re.compile(f"{_glob(group) if colon else '[^:]*'}:{_glob(name)}$").match
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


def _glob(pattern: str) -> str:
    """A shell pattern as a regular expression over one name."""
    parts = re.split(r"(\*|\?|\[[!^]?\]?[^\]]*\])", re.sub(r"\*+", "*", pattern))
    return "".join(
        {"*": r"[^\s:]*", "?": r"[^\s:]"}.get(part)
        or (f"[{'^' if part[1] in '!^' else ''}{_class(part)}]" if index % 2 else re.escape(part))
        for index, part in enumerate(parts)
    )


def _class(part: str) -> str:
    return part[1:-1].lstrip("!^").replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]")


def _nearest(wanted: str, names: Iterable[str], limit: int) -> list[str]:
    """The names nearest to a misspelt one. A cheap look first: of a word with two mistakes, one third is
    whole.
    """
    from difflib import SequenceMatcher

    low = wanted.lower()
    third = max(len(low) // 3, 1)
    first, second, last = low[:third], low[third : 2 * third], low[2 * third :]
    slack = max(4, len(low) // 3)
    size = len(low)
    candidates = [
        name
        for name in names
        if (first in name or second in name or last in name)
        and (abs(len(name) - size) <= slack or low in name)
    ]
    candidates.sort(key=lambda name: abs(len(name) - size))
    scored = []
    matcher = SequenceMatcher(b=low, autojunk=False)
    for name in candidates[:3000]:
        matcher.set_seq1(name.lower())
        bonus = 0.35 if name.endswith(f"_{low}") else 0.3 if low in name else 0.0
        if matcher.real_quick_ratio() + bonus >= 0.7 and matcher.quick_ratio() + bonus >= 0.7:
            scored.append((-(matcher.ratio() + bonus), name))
    scored.sort()
    return [name for score, name in scored[:limit] if score <= min(-0.7, scored[0][0] + 0.15)]
