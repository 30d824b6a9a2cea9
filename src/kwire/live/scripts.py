"""The plan of a script in the bpftrace language.

Invariants: what is wrong in any of its probes is told at once, each at its place; a place that the kernel
does not have, or refuses when it is attached to, is an error, a warning, or nothing, as the script's setting
`missing_probes` says; a script that has no place there is an error in any case. A pattern that matches
nothing is no error where its probe has another place.
"""

import os
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise

from kwire.btf.errors import BtfLookupError
from kwire.errors import KwireError
from kwire.hints import Final
from kwire.kernel import cgroups
from kwire.kernel.sys import possible_cpus
from kwire.kernel.targets import CatalogError
from kwire.kinds import KINDS
from kwire.lang.bpftrace import syntax as s
from kwire.lang.bpftrace.lower import Surroundings
from kwire.lang.bpftrace.options import given
from kwire.lang.bpftrace.reader import read
from kwire.lang.bpftrace.script import ScriptProbe, probes
from kwire.lang.bpftrace.settings import settings
from kwire.lang.bpftrace.syntax import Script
from kwire.lang.errors import Diagnostic, LanguageError
from kwire.lang.forms import walk
from kwire.lang.inferred import settle
from kwire.lang.tree import AttachPoint
from kwire.lazy import NamedTuple, pattern
from kwire.live import planner
from kwire.live.plan import About, Plan, PlanResult, Scope
from kwire.live.planner import Planner


class Planned(NamedTuple):
    """A script that is ready to run. `missing`: what people are warned of, such as probes that are left out;
    `cat_most`: bytes of a file that are shown; `absent`: the places that are left out, where that is told.
    """

    plan: Plan
    missing: tuple[Diagnostic, ...] = ()
    cat_most: int = 0
    absent: "tuple[Absent, ...]" = ()


def plan_script(
    script: Script,
    words: Sequence[str] = (),
    *,
    scope: Scope = Scope(),  # noqa: B008
    command: int = 0,
    unsafe: bool = False,
    only: str = "",
    looked_up: bool = False,
) -> Planned:
    """The plan of a script; `words`: its arguments and options; `only`: a regular expression that is found in
    the places that are wanted, beside begin and end; `looked_up`: without assumptions about the names of
    functions (`Plan.assumed`). Raises `LanguageError` with everything that is wrong in it; KwireError.
    """

    def once_more() -> Planned:
        return plan_script(
            script, words, scope=scope, command=command, unsafe=unsafe, only=only, looked_up=True
        )

    def anew() -> Plan:
        made = once_more()
        told = {str(one.point) for one in absent}
        more = tuple((str(one.point), one.error.cause) for one in made.absent if str(one.point) not in told)
        return made.plan._replace(skipped=(*made.plan.skipped, *more))

    began = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    ahead = time.time_ns() - began
    arguments, options = given(words)
    surroundings = Surroundings(
        tuple(arguments),
        command,
        began,
        possible_cpus(),
        options,
        _address,
        _variable,
        cgroups.paths,
        _users,
        _allocation,
        ahead,
        os.environ,
        unsafe,
    )
    made = probes(script, surroundings)
    wanted = _chooser(only)
    if not any(wanted(point) for probe in made for point in probe.attach):
        raise KwireError("choose probes", only, "it finds none of the script's places", "kwire -l lists them")
    chosen = settings(script, os.environ)
    planner = Planner(None, scope, None if looked_up else anew)
    maps = tuple(made[0].maps.values())
    if maps:
        settle(maps, lambda: _look(planner, made))
    unlearned = [name for name, one in made[0].maps.items() if one.value is None]
    faults: list[Diagnostic] = []
    follow: list[Diagnostic] = []  # what may be wrong only as no probe is there that says what a map holds
    missing: list[Absent] = []
    passed_over: list[Absent] = []
    placeless: list[Diagnostic] = []
    added = 0
    for probe in made:
        before = added
        unmatched: list[Absent] = []
        for point in filter(wanted, probe.attach):
            try:
                planner.add_scripted(probe, point, optional=chosen["missing_probes"] != "error")
                added += 1
            except LanguageError as error:
                for one in error.diagnostics:
                    (follow if probe.asks(unlearned, one.span) else faults).append(one)
            except (CatalogError, BtfLookupError) as error:
                (unmatched if point.wildcard else missing).append(Absent(point, error))
        (passed_over if added > before else missing).extend(unmatched)
        if added == before and any(map(wanted, probe.attach)):
            placeless.append(Diagnostic(probe.attach[0].span, PLACELESS))
    if not faults and not (missing and chosen["missing_probes"] == "error"):
        faults = follow
    if faults or (missing and (chosen["missing_probes"] == "error" or not added)):
        if planner.assumed:  # of several functions others may be meant
            return once_more()
        raise LanguageError(script.source, [*faults, *(one.refused() for one in missing)])
    try:
        plan = planner.plan()._replace(prints_maps=bool(chosen["print_maps_on_exit"]))
    except KwireError:
        if planner.assumed:
            return once_more()
        raise
    absent = (*missing, *passed_over) if chosen["missing_probes"] != "ignore" else ()
    told = tuple(one.skipped() for one in absent)
    told += tuple(placeless) if chosen["missing_probes"] != "ignore" else ()
    used = {one.title for one in maps}
    unused = [one for one in script.maps if f"@{one.id}" not in used]
    told += tuple(Diagnostic(one.span, f"Unused map: @{one.id}", "leave it out") for one in unused)
    told += tuple(
        Diagnostic(one.span, "Unreachable statement", "leave it out, or put it before")
        for one in unreachable(script)
    )
    return Planned(plan, told, int(chosen["max_cat_bytes"]), absent)


def plan_text(
    name: str,
    text: str,
    words: Sequence[str],
    *,
    scope: Scope,
    command: int,
    unsafe: bool,
    only: str = "",
) -> PlanResult:
    """`plan_script` for `plan_process`; what else is known is `About`."""
    script = read(name, text)
    made = plan_script(script, words, scope=scope, command=command, unsafe=unsafe, only=only)
    declared = frozenset(f"@{one.id}" for one in script.maps)
    warnings = (line for one in made.missing for line in one.report(script.source, "WARNING"))
    return PlanResult(made.plan, About(tuple(warnings), declared, made.cat_most))


PLACELESS: Final = (
    "Probe has no valid attach points. It is being removed which may cause issues with program behavior."
)


def unreachable(script: Script) -> list[s.Stmt | s.Expr]:
    """The statements that follow in their blocks what leaves these: exit(), return, break, continue."""
    blocks = (node for probe in script.probes for node in walk(probe.body) if isinstance(node, s.Block))
    return [
        behind
        for block in blocks
        for one, behind in pairwise([*block.body, *([block.value] if block.value else [])])
        if isinstance(one, s.Jump)
        or (isinstance(one, s.Do) and isinstance(one.value, s.Call) and one.value.function == "exit")
    ]


class Absent(NamedTuple):
    """A place that is not there, and why."""

    point: AttachPoint
    error: KwireError

    def refused(self) -> Diagnostic:
        """What is said where the script needs it."""
        return Diagnostic(
            self.point.span, f"No matches for {self._place}: {self.error.cause}", self.error.cure
        )

    def skipped(self) -> Diagnostic:
        """What is said where the script goes on without it."""
        why = f"{self.error.cause}; {self.error.cure}" if self.error.cure else self.error.cause
        return Diagnostic(self.point.span, f"No matches for {self._place}. Skipping.", why)

    @property
    def _place(self) -> str:
        return str(self.point).replace(":", " ", 1)


def _chooser(only: str) -> Callable[[AttachPoint], bool]:
    """Which places are wanted. Raises KwireError."""
    if not only:
        return lambda point: True
    try:
        search = re.compile(only).search
    except re.error as error:
        raise KwireError("choose probes", only, f"it is no regular expression: {error}") from None
    return lambda point: KINDS[point.kind].place == "trace" or search(str(point)) is not None


def ready() -> None:
    """Import what most plans need, and planning does where it needs it."""
    import kwire.compile.maps
    import kwire.lang.functions
    import kwire.lang.maps  # noqa: F401

    planner.ready()


def _address(name: str) -> int | None:
    """The address of a kernel symbol. KernelError where those cannot be read."""
    from kwire.kernel.symbols import kernel_symbols

    found = kernel_symbols().addresses(name)
    return found[0] if found else None


_PLACE: Final = pattern(r"(?P<address>0x[0-9a-f]{1,16})|(?P<name>[^+]+)(\+(?P<offset>[0-9]{1,18}))?")


def _variable(path: str, name: str) -> tuple[int, int] | None:
    """The address and the bytes of a symbol of a program, also of `NAME+4` or of an address as a probe has
    it; None where there is none. Raises KwireError where the file cannot be read.
    """
    from kwire.kernel.elf import Elf

    program, at, _ = path.rpartition("@")  # of the place of a line
    path = program if at and not os.path.exists(path) else path
    match = _PLACE.fullmatch(name)
    if match is None:
        return None
    if match["address"]:
        return int(match["address"], 16), 0
    with Elf.open(path) as file:
        found = next((one for one in file.symbols() if one.name == match["name"]), None)
    return None if found is None else (found.address + int(match["offset"] or 0), found.size)


def _users() -> dict[int, str]:
    """The users of this machine by their ids; the first of several with one id."""
    import pwd

    found: dict[int, str] = {}
    for one in pwd.getpwall():
        found.setdefault(one.pw_uid, one.pw_name)
    return found


def _allocation() -> dict[int, str]:
    """The kernel's names of the flags of allocations, as a tracepoint prints them; none where it has none."""
    from kwire.kernel import tracefs
    from kwire.kernel.printfmt import tables

    try:
        format_ = tracefs.shared().format("kmem", "kmalloc")
    except KwireError:
        return {}
    found = tables(format_.print_fmt).get("gfp_flags")
    return {bit: name for bit, name in found.names.items() if bit} if found is not None else {}


def _look(planner: Planner, made: Sequence[ScriptProbe]) -> None:
    """Look at all probes, so that their maps learn; what is wrong is told later."""
    for probe in made:
        for point in probe.attach:
            with suppress(KwireError):
                planner.look(probe, point)
