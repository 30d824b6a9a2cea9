"""Planning a trace: from what was asked for to programs, attach points and schemas.

Each probe asked for is expanded to its targets; each target becomes a site, is checked and compiled;
targets whose instructions would be the same share one program that tells its firings apart by the attach
cookie. Invariants: probes are numbered from 1 in the order asked for, by the shapes of their events; what is
asked for twice is one probe; a target named in full that cannot be traced is an error; of a wildcard's
targets those that do not fit the expressions, or that the kernel refuses, are left out, and said
(`Plan.skipped`). A name that several functions have stands for all of them: those of one module are one
probe, attached to by address, and said (`Plan.notes`). A filter applies to the probes that have its names:
one named in full that has not is traced without it, and that is said (`Plan.unfiltered`); of a wildcard's
targets such are left out; where no probe has them, the name is a mistake. What only some plans need (the
parser of expressions, the lists of functions) is imported when it is needed.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate

from kwire.bpf.arch import host
from kwire.bpf.image import Image
from kwire.bpf.task import PidNamespace, TaskFields
from kwire.btf.blob import Btf
from kwire.btf.errors import BtfError, BtfLookupError
from kwire.btf.store import Found, Function, Kernel, load_kernel
from kwire.btf.types import Kind
from kwire.compile.build import (
    CompileError,
    compile_probe,
    fits_any_ring,
    layout_key,
    pid_fields,
    probe_schemas,
    task_fields,
)
from kwire.compile.loops import ALL, LONG, NONE, any_called, any_walked
from kwire.errors import KwireError
from kwire.hints import TYPE_CHECKING, Any, NoReturn, Protocol
from kwire.kernel import tracefs
from kwire.kernel.printfmt import Names, hexadecimal, tables
from kwire.kernel.sys import in_first_namespace, possible_cpus
from kwire.kernel.task_programs import programs
from kwire.kernel.tracefs import Tracefs
from kwire.kinds import FUNCTIONS, KINDS, USER, in_file
from kwire.lang import attach_points, record, spec, tree
from kwire.lang.checked import Emit, Exit, Map, Program
from kwire.lang.context import AnySite, Site, SiteNeededError
from kwire.lang.errors import Diagnostic, LanguageError, UnknownNameError, never_anywhere, together
from kwire.lang.forms import Node, rewrite, walk
from kwire.lang.kerneltypes import KernelTypes
from kwire.lang.shown import shown
from kwire.lang.spec import ProbeSpec
from kwire.lang.symbols import is_func, with_kernel_symbols
from kwire.lang.tree import AttachPoint
from kwire.lang.types import Enum, Int
from kwire.lang.values import wrap
from kwire.lazy import NamedTuple
from kwire.live.plan import Group, Plan, PlanResult, Point, Scope, UnitMap
from kwire.wire.schema import Schema
from kwire.words import plural

if TYPE_CHECKING:
    from kwire.kernel.attach import FilePlace
    from kwire.kernel.targets import Target
    from kwire.lang.inferred import Inferred
    from kwire.live.probes import Probe

MAX_PROBES = 50_000
"""More than any kernel has functions worth tracing at once."""

FILTER = "filter"
"""What errors call the text of a filter, unless the caller says otherwise."""


class _Wanted(NamedTuple):
    """One probe, checked: its spec for people, its program, and the place it was asked for.

    `program.site` is where it attaches, which may be another place that sees the same events; `addresses`: of
    the functions, where several have the name, or places in a file; `optional`: it is left out where
    the kernel refuses it, as one of many that were asked for together; `asked_by`: which of those asked for
    it is of, where that is wanted.
    """

    spec: str
    program: Program
    site: Site
    addresses: "tuple[int | FilePlace, ...]" = ()
    optional: bool = False
    asked_by: tuple[int, ...] = ()

    def schema(self, schema: Schema) -> Schema:
        """The schema of its program as that of the place asked for."""
        return schema._replace(kind=self.site.kind, target=self.site.target)


class Scripted(Protocol):
    """A probe of a script: where it attaches, and its program at each place."""

    @property
    def attach(self) -> tuple[AttachPoint, ...]:
        """The places, as they were written."""

    @property
    def maps(self) -> "Mapping[str, Inferred]":
        """The maps that the probes of the script share."""

    def program(self, site: Site, types: KernelTypes) -> Program:
        """The program at one place. Raises `LanguageError`."""


class _UnreachableError(KwireError):
    """A target that this kernel has no way to attach to."""


class _NoBtf:
    """Stands for the BTF of a kernel that has none: every question is answered with why not."""

    def __init__(self, error: BtfError) -> None:
        self._error = error

    def _refuse(self, name: str) -> NoReturn:
        raise BtfLookupError("the kernel", name, self._error.cause, self._error.cure)

    def module(self, name: str) -> Btf:
        """Refuse."""
        self._refuse(name or "vmlinux")

    def func(self, name: str, module: str | None = None) -> Function:
        """Refuse."""
        self._refuse(name)

    def find(self, name: str, kinds: Iterable[int], module: str | None = None) -> Found | None:
        """Refuse."""
        self._refuse(name)


class Planner:
    """Collects probes, then makes the plan.

    `filter`: what must hold for an event of any of them, and what errors call it; `scope`: whose events are
    wanted; `anew`: makes the same plan with a planner that has none, which takes no name for that of one
    function without the table of symbols (`Plan.assumed`).
    """

    def __init__(
        self,
        filter: tree.Source | None = None,
        scope: Scope = Scope(),  # noqa: B008
        anew: Callable[[], Plan] | None = None,
    ) -> None:
        self._anew = anew
        self.assumed: set[str] = set()
        """See `Plan`."""
        self._filter = None if filter is None else _condition(filter)
        self._never: list[list[Diagnostic]] = []  # what of the filter is never true, at each place it is for
        self._unfiltered: list[tuple[str, int, UnknownNameError]] = []  # with how many probes it is
        self._scope = scope
        self._asking: tuple[int, ...] = ()  # what is being added, where that is to be known
        self._wanted: list[_Wanted] = []
        self._skipped: list[tuple[str, str]] = []
        self._unread: dict[str, str] = {}  # files among others that cannot be read: why
        self._repeated: dict[str, None] = {}  # in order
        self._copies: list[tuple[str, int]] = []
        self._listed: dict[str, list[Target]] = {}  # what attach points name
        self._places: dict[str, dict[str, list[int]]] = {}  # by name and module
        self._at: dict[tuple[str, str], list[int]] = {}  # what is wanted at a place
        self._events: Tracefs | None = None  # open as long as it is used, for all probes once
        self._titles: dict[str, object] = {}  # of the unit's maps, and whose they are
        self._kernel: Kernel | None = None
        self._read: dict[str, Any] = {}  # the debugging information of programs, by the file
        self._programs: dict[Target, str] = {}  # whose types were read, and the modules that these are
        self._namespace: PidNamespace | None = None
        self._foreign_ids = ""
        try:
            self._kernel = load_kernel()
        except BtfError as error:
            self._types = KernelTypes(_NoBtf(error))
            if in_first_namespace() is False:
                self._foreign_ids = error.cause
        else:
            if not in_first_namespace():
                self._find_namespace(self._kernel.vmlinux)
            self._types = KernelTypes(self._kernel, namespaced=self._namespace is not None)

    def _find_namespace(self, vmlinux: Btf) -> None:
        """Find out in which pid namespace people see process ids; none where that is the kernel's first."""
        from kwire.kernel.identity import own_namespace

        try:
            fields = pid_fields(vmlinux)
            if fields is None or task_fields(vmlinux) is None:
                raise KwireError("find", "pid namespace", "the kernel's types do not tell of its tasks")
            found = own_namespace(fields)
        except KwireError as error:
            self._foreign_ids = error.cause
        else:
            self._namespace = found if found.level else None

    def add(self, probe: "str | Probe | tree.Probe", number: int | None = None) -> None:
        """Add a probe spec, or a probe written as a Python function, for every place it attaches to. With a
        `number` it shares no program with one of another number, so that each can be taken away.
        """
        self._asking = () if number is None else (number,)
        if isinstance(probe, str):
            self._add_spec(spec.parse(probe))
            return
        from kwire.live.probes import Probe

        if isinstance(probe, Probe):
            from kwire.lang import python

            probe = python.parse_function(probe.function, probe.attach)
        if not isinstance(probe, tree.Probe):
            cure = "give a probe spec, or a function under @kwire.kprobe and its like"
            raise KwireError("trace", repr(probe)[:80], "it is no probe", cure)
        self._add_function(probe)

    def add_scripted(self, probe: Scripted, point: AttachPoint, *, optional: bool = False) -> None:
        """Add a probe of a script at one of its places; `optional`: it is left out where the kernel refuses
        it.
        """
        self._titles.update({one.title: one for one in probe.maps.values()})
        self._add(point, lambda site: probe.program(site, self._types), optional=optional)

    def look(self, probe: Scripted, point: AttachPoint) -> None:
        """Check a probe of a script at some targets of one of its places, so that its maps learn their types,
        and forget the program. The targets are the first, and those with the longest text and the longest
        name, which is what `probe` and `func` give. Raises KwireError.
        """
        targets = self._targets(point)
        longest = [max(targets, key=lambda one: len(str(one))), max(targets, key=lambda one: len(one.name))]
        if KINDS[point.kind].user:
            from kwire.demangle import demangled

            longest.append(max(targets, key=lambda one: len(demangled(one.name))))
        for target in dict.fromkeys([*targets[:1], *longest]):
            self._program(lambda site: probe.program(site, self._types), target, point.offset, listed=True)

    def _add_spec(self, parsed: ProbeSpec) -> None:
        def program(site: Site) -> Program:
            return record.program(site, self._types, parsed.expressions, parsed.source, parsed.condition)

        self._add(parsed.point, program)

    def _add_function(self, probe: tree.Probe) -> None:
        from kwire.lang.check import check

        probe = rewrite(probe, self._titled)

        def program(site: Site) -> Program:
            return check(probe, site, self._types)

        for point in probe.attach:
            self._add(point, program)

    def _titled(self, node: Node) -> Node | None:
        """A map's declaration under the name that it has in the unit."""
        if not isinstance(node, tree.MapDeclaration):
            return None
        title, number = node.title, 1
        while self._titles.setdefault(title, node.owner) != node.owner:
            number += 1
            title = f"{node.title}_{number}"
        return node.replace(title=title)

    def plan(self) -> Plan:
        """Compile what was added. Raises KwireError, with all that is needed to understand it."""
        if sum(number for _, number, _ in self._unfiltered) == len(self._wanted) > 0:
            raise self._unfiltered[0][2]
        never = never_anywhere(self._never)
        if never is not None and self._filter is not None:
            raise LanguageError(self._filter[1], [never])
        return self._planned(self._cheaper(), ())

    def _planned(self, wanted: list[_Wanted], refused: tuple[tuple[str, str], ...]) -> Plan:
        """The plan of these; `refused`: what the kernel did not take of more, and why."""
        count = len(wanted)
        if not count:
            raise KwireError("plan trace", "", "there is no probe in it", "name at least one")
        _bounded(count)
        task = task_fields(self._kernel.vmlinux) if self._kernel else None
        first, *firsts = accumulate((len(one.program.shapes) for one in wanted), initial=1)
        numbers = (first, *firsts[:-1])  # of each probe, that is of its first shape
        shapes = firsts[-1] - 1
        grouped = _grouped(wanted)
        ends = any(_ends(wanted[first].program) for first, *_ in grouped)
        # What is at the end may run beside others, when it is taken away before they are.
        room = fits_any_ring(one.program for one in wanted if one.program.site.kind == "begin")
        schemas: dict[int, tuple[Schema, ...]] = {}
        groups = [
            self._group(wanted, members, numbers, shapes, task, schemas, ends=ends, room=room)
            for members in grouped
        ]
        complete = tuple(
            _with_symbols(schema, shape, one)
            for at, one in enumerate(wanted)
            for shape, schema in enumerate(schemas[at])
        )

        def without(causes: Mapping[int, str]) -> Plan:
            numbered = list(zip(numbers, wanted, strict=True))
            left = tuple((one.spec, causes[number]) for number, one in numbered if number in causes)
            rest = [one for number, one in numbered if number not in causes]
            return self._planned(rest, refused + left)

        return Plan(
            tuple(groups),
            complete,
            (*self._skipped, *self._unread.items(), *refused),
            task,
            tuple((text, error.cause) for text, _, error in self._unfiltered),
            tuple(self._notes()),
            frozenset(number for number, one in zip(numbers, wanted, strict=True) if one.optional),
            without,
            {
                number: one.site.module
                for number, one in zip(numbers, wanted, strict=True)
                if one.site.module and one.site.kind not in USER
            },
            self._maps(wanted),
            tuple(programs(task)) if self._scope.follow else (),
            stacks=tuple(dict.fromkeys(table for one in _different(wanted) for table in one.stacks())),
            asked_by={
                number: one.asked_by for number, one in zip(numbers, wanted, strict=True) if one.asked_by
            },
            assumed=frozenset(self.assumed),
            anew=self._anew,
        )

    def _maps(self, wanted: list[_Wanted]) -> tuple[UnitMap, ...]:
        """The maps that programs share."""
        found: dict[str, Map] = {}
        for program in _different(wanted) if self._titles else ():
            found |= program.maps()
        return tuple(UnitMap(map, self._titles[name]) for name, map in found.items())

    def _notes(self) -> Iterator[str]:
        """What people should know of how their probes were understood."""
        if self._repeated:
            number, first = len(self._repeated), next(iter(self._repeated))
            if number == 1:
                yield f"{first} was asked for more than once, and is one probe"
            else:
                yield f"{first} and {number - 1} more were asked for more than once, and are one probe each"
        if self._foreign_ids:
            yield f"process ids in events are not this pid namespace's, but the kernel's: {self._foreign_ids}"
        if self._copies:
            (first, copies), number = self._copies[0], len(self._copies)
            others = f", and {number - 1} more names stand for several functions" if number > 1 else ""
            yield f"{first} is {copies} functions{others}; all are traced"

    # -- collecting

    def _add(self, point: AttachPoint, program: Callable[[Site], Program], *, optional: bool = False) -> None:
        text = str(point)
        targets = self._targets(point)
        if not point.wildcard and len(targets) == 1:
            [target] = targets
            if target.copies > 1:
                self._locate(targets)
            made = self._program(program, target, point.offset)
            addresses = self._addresses(target, point.offset)
            try:
                self._want(text, self._filtered(made), addresses, optional=optional)
            except UnknownNameError as error:
                if self._want(text, made, addresses, optional=optional):
                    self._unfiltered.append((text, 1, error))
            return
        self._locate(targets)
        anywhere = self._anywhere(point, program)
        first: KwireError | None = None
        without: list[tuple[Target, Program, UnknownNameError]] = []
        added = len(self._wanted)
        for target in targets:
            try:
                if anywhere is None:
                    made = self._program(program, target, point.offset, listed=True)
                else:
                    site = Site(target.kind, target.target, (), None, target.group, False)
                    made = anywhere.replace(site=site)
                try:
                    self._want(
                        str(target),
                        self._filtered(made),
                        self._addresses(target, point.offset),
                        optional=True,
                    )
                except UnknownNameError as error:
                    without.append((target, made, error))
            except (LanguageError, BtfLookupError, _UnreachableError) as error:
                self._skipped.append((str(target), error.cause))
                first = first or (None if isinstance(error, BtfLookupError) else error)
        if len(self._wanted) > added:
            self._skipped += [(str(one), error.cause) for one, _, error in without]
        elif without:  # the filter is about other probes
            added = sum(
                self._want(str(one), made, self._addresses(one, point.offset), optional=True)
                for one, made, _ in without
            )
            if added:
                self._unfiltered.append((text, added, without[0][2]))
        elif self._repeated:
            pass  # all are there already
        elif first:
            raise first
        else:
            raise KwireError("trace", text, f"none of {plural(len(self._skipped), 'target')} can be", "")

    def _program(
        self, program: Callable[[Site], Program], target: "Target", offset: int, *, listed: bool = False
    ) -> Program:
        """The program at a target. Where it makes no sense of what the site is known to have, and the site is
        a function of a program, the debugging information of that is read.
        """
        site = self._site(target, offset, listed)
        try:
            return program(site)
        except LanguageError as error:
            if KINDS[target.kind].place != "user function" or self._kernel is None:
                raise
            try:
                typed = self._with_types(site, target, entry=not offset)
            except KwireError as unknown:
                cure = f"{unknown.cause}; {unknown.cure}" if unknown.cure else unknown.cause
                told = (one._replace(cure=cure) if not one.cure else one for one in error.diagnostics)
                raise LanguageError(error.source, list(told)) from None
            return program(typed)

    def _with_types(self, site: Site, target: "Target", *, entry: bool) -> Site:
        """The same site with what the debugging information of its program tells. Raises KwireError."""
        from kwire.live.program_types import types_of

        assert self._kernel is not None
        module = self._programs.get(target)
        if module is None:
            btf = types_of(target, self._kernel, self._scope.debug, self._read)
            module = self._programs[target] = self._kernel.add(btf)
        return attach_points.of_program(site, self._types.function(target.name, module), entry)

    def _anywhere(self, point: AttachPoint, program: Callable[[Site], Program]) -> Program | None:
        """The program at all functions that a wildcard stands for, where it asks for nothing of any of them:
        neither what they are called nor what they are given. None where it does, and where that is not known.
        """
        from kwire.kernel import features

        kind = KINDS[point.kind]
        if kind.place != "function" or kind.context != "registers" or point.offset or self._filter:
            return None
        if kind.instead and features.mechanism(point.kind) == "fentry":
            return None
        try:
            return program(AnySite(point.kind, "", ()))
        except (SiteNeededError, KwireError):
            return None

    def _targets(self, point: AttachPoint) -> "list[Target]":
        """What an attach point names; a name without wildcards may still be several functions'."""
        if str(point) not in self._listed:
            self._listed[str(point)] = self._expanded(point)
        return self._listed[str(point)]

    def _expanded(self, point: AttachPoint) -> "list[Target]":
        from kwire.kernel.targets import Target

        if KINDS[point.kind].place == "user function" and "@" in point.group:
            from kwire.live.program_types import at_line

            found = at_line(point.kind, point.group, point.name, self._scope.pids, self._scope.debug)
            if found is not None:
                return found
        if point.kind in USER:
            from kwire.kernel import catalog

            pattern = in_file(point.group, point.name)
            found = catalog.expand(point.kind, pattern, self._scope.pids, self._unread)
            _bounded(len(found))
            return found
        if self._may_assume(point):
            self.assumed.add(point.name)
        elif point.wildcard or (point.kind in FUNCTIONS and not point.offset):
            from kwire.kernel import catalog

            return catalog.expand(point.kind, point.target)
        return [Target(point.kind, point.group, point.name)]

    def _may_assume(self, point: AttachPoint) -> bool:
        """Whether a name without wildcards is taken for that of one function, which the kernel has."""
        if self._anew is None or self._kernel is None or point.wildcard or point.group or point.offset:
            return False
        if KINDS[point.kind].mechanism != "perf kprobe" or not self._kernel.vmlinux.find(
            point.name, Kind.FUNC
        ):
            return False
        from kwire.kernel import features

        return features.mechanism(point.kind) == "kprobe"

    def _locate(self, targets: "Sequence[Target]") -> None:
        """Find the addresses of functions whose name several have."""
        names = {target.name for target in targets if target.copies > 1 and target.kind not in USER}
        if names:
            from kwire.kernel.symbols import kernel_symbols

            self._places.update(kernel_symbols().functions_named(names))

    def _addresses(self, target: "Target", offset: int) -> "tuple[int | FilePlace, ...]":
        """The addresses of all functions of a name that several have; the places of what is in a file. Raises
        _UnreachableError.
        """
        if target.kind in USER:
            from kwire.kernel import binaries

            places = binaries.places(target, offset)
            if len(places) > 1 and KINDS[target.kind].place == "user function":
                self._copies.append((str(target), len(places)))
            return places
        if target.copies < 2:
            return ()
        found = self._places.get(target.name, {}).get(target.group, ())
        if not found:  # named without its module, in which alone it is
            found = next(iter(self._places.get(target.name, {}).values()), ())
        if not all(found):
            from kwire.kernel.symbols import how_to_see_addresses

            cause = f"{target.copies} functions have this name, and the kernel hides where they are"
            raise _UnreachableError("trace", str(target), cause, how_to_see_addresses())
        self._copies.append((str(target), len(found)))
        return tuple(found)

    def _filtered(self, program: Program) -> Program:
        """The program with the filter. Raises UnknownNameError where the site has not its names."""
        if self._filter is None:
            return program
        from kwire.lang.check import filtered

        never: list[Diagnostic] = []
        made = filtered(program, *self._filter, self._types, never)
        self._never.append(never)
        return made

    def _want(
        self,
        text: str,
        program: Program,
        addresses: "tuple[int | FilePlace, ...]" = (),
        *,
        optional: bool = False,
    ) -> bool:
        """Add a probe, unless it is there already; whether it was added."""
        program, site = with_kernel_symbols(program), program.site
        same = self._at.setdefault((site.kind, site.target), [])
        for index in same:
            known = self._wanted[index]
            if _alike(known.program, program):
                more = tuple(place for place in addresses if place not in known.addresses)
                self._wanted[index] = known._replace(
                    optional=optional and known.optional,
                    addresses=known.addresses + more,
                    asked_by=tuple(dict.fromkeys((*known.asked_by, *self._asking))),
                )
                if not more:
                    self._repeated[text] = None
                return False
        same.append(len(self._wanted))
        self._wanted.append(_Wanted(text, program, site, addresses, optional, self._asking))
        return True

    def _site(self, target: "Target", offset: int = 0, listed: bool = False) -> Site:
        """The site of one target; `listed`: the kernel has named it, so it is no misspelling."""
        kind, group, name, copies, form = target
        if kind in USER:
            from kwire.kernel import binaries

            machine = binaries.binary(group).file.machine or host().machine
            return attach_points.in_file(kind, target.target, offset, form, machine)
        if KINDS[kind].place in ("trace", "timer", "counter", "memory", "signal"):
            return Site(kind, target.target, ())
        if KINDS[kind].place == "event":
            return self._tracepoint(group, name)
        from kwire.kernel import attach, catalog, features

        if KINDS[kind].place == "objects":
            catalog.expand(kind, name)
            return attach_points.iterator(name, self._types)
        if KINDS[kind].place == "raw event":
            if not listed:
                catalog.expand(kind, name)  # says what is near, should there be none
            return attach_points.raw_tracepoint(name, self._types)
        if KINDS[kind].instead and features.mechanism(kind) == "fentry":
            kind = KINDS[kind].instead
        if copies > 1 and KINDS[kind].by_address:
            if attach.kprobe_pmu() is None:
                cause = f"{copies} functions have this name, and fentry attaches to one of them only"
                raise _UnreachableError("trace", str(target), cause, attach.GET_KPROBES)
            kind = KINDS[kind].by_address
        if offset and not KINDS[kind].offset:
            raise KwireError(
                "trace", f"kprobe:{name}+{offset}", "this kernel has no kprobes", "leave the offset out"
            )
        try:
            return attach_points.function(
                kind, name, self._types, group or None, offset, host().machine, copies
            )
        except BtfLookupError as error:
            raise error if listed or self._kernel is None else catalog.missing(kind, target.target) from None

    def _tracepoint(self, category: str, name: str) -> Site:
        if category == "ftrace":
            cause = "that is a record of the function tracer, no tracepoint"
            raise KwireError("trace", f"tracepoint:{category}:{name}", cause, "use kprobe:FUNCTION")
        events = self._events = self._events or tracefs.shared()
        if not events.has_event(category, name):
            from kwire.kernel import catalog

            raise catalog.missing("tracepoint", f"{category}:{name}")
        format_ = events.format(category, name)
        site = attach_points.tracepoint(category, name, format_.fields, self._types)
        return shown(
            _named(site, tables(format_.print_fmt, self._enumerator)),
            dict.fromkeys(hexadecimal(format_.print_fmt), "hex") if category != "syscalls" else {},
        )

    def _enumerator(self, name: str) -> int | None:
        """The number of a constant of the kernel's enumerations."""
        found = self._types.enumerator(name)
        return found[0] if found else None

    # -- compiling

    def _cheaper(self) -> list[_Wanted]:
        """What is wanted, an only system call by its raw tracepoint where that can be."""
        of_syscalls = [
            index for index, one in enumerate(self._wanted) if one.site.target.startswith("syscalls:")
        ]
        if len(of_syscalls) != 1 or self._kernel is None:
            return self._wanted
        from kwire.live import syscalls

        at = of_syscalls[0]
        one = self._wanted[at]
        raw = None
        if syscalls.is_syscall(one.site):
            raw = syscalls.by_raw_tracepoint(one.program, self._kernel.vmlinux, host())
        if raw is None:
            return self._wanted
        return [*self._wanted[:at], one._replace(program=raw), *self._wanted[at + 1 :]]

    def _group(
        self,
        wanted: list[_Wanted],
        members: list[int],
        numbers: Sequence[int],
        shapes: int,
        task: TaskFields | None,
        schemas: dict[int, tuple[Schema, ...]],
        *,
        ends: bool,
        room: bool,
    ) -> Group:
        """The program of these members, whose schemas are added. `numbers`: of all probes; `shapes`: how many
        all have together; `ends`: whether one of them asks for the end of the trace; `room`: whether an
        empty ring has room for what those at its begin and end emit.
        """
        first = wanted[members[0]]
        shared = len(members) > 1
        own = KINDS[first.program.site.kind].own  # whichever processes are traced
        compile_ = partial(
            compile_probe,
            first.program,
            id=numbers[members[0]],
            spec=first.spec,
            probes=shapes,
            cpus=possible_cpus(),
            tasks=self._scope.follow and not own,
            arch=host(),
            cookie=shared,
            main=self._scope.main,
            without=() if own else self._scope.without,
            task=task,
            namespace=self._namespace,
            ends=ends,
            room=room,
        )
        loops = LONG if any_called(first.program) and _loops() else NONE
        compiled = compile_(loops=loops)

        def otherwise() -> Image | None:
            try:
                return compile_(loops=ALL).image if _loops() else None
            except CompileError:  # of two complaints the verifier's is the one about the program as it is
                return None

        for index in members:
            one, made = wanted[index], compiled.schemas
            if index != members[0]:
                made = probe_schemas(one.program, id=numbers[index], spec=one.spec, arch=host())
            schemas[index] = _shared(tuple(map(one.schema, made)))
        schemas[members[0]] = _shared(tuple(schema for index in members for schema in schemas[index]))[
            : len(first.program.shapes)
        ]
        site = first.program.site
        points = [
            Point(place, numbers[index])
            for index in members
            for place in (wanted[index].addresses or (wanted[index].program.site.target,))
        ]
        multi = (
            len(points) > 1
            and KINDS[site.kind].mechanism in ("perf kprobe", "uprobe")
            and _multi(site.kind, len(points))
        )
        if multi and site.kind not in USER:
            points = _by_address(points)
        btf_id = 0
        if KINDS[site.kind].mechanism in ("trampoline", "iterator") and self._kernel:
            name = site.target.rpartition(":")[2]
            if KINDS[site.kind].mechanism == "iterator":
                name = f"bpf_iter_{name}"
            btf_id = self._kernel.module(site.module).find(name, Kind.FUNC)
        each = len(first.program.shapes)
        return Group(
            compiled.image,
            site.kind,
            tuple(points),
            multi,
            btf_id,
            site.module,
            each,
            otherwise if any_walked(first.program) else None,
            lambda: compile_(loops=loops, explain=True).ir,
        )


def _ends(program: Program) -> bool:
    """Whether a program asks for the end of the trace."""
    return any(isinstance(node, Exit) for part in program.body for node in walk(part))


def _bounded(count: int) -> None:
    """Raises KwireError where so many probes are too many."""
    if count > MAX_PROBES:
        cause = f"at most {MAX_PROBES:,} are possible"
        raise KwireError("plan trace", f"of {count:,} probes", cause, "narrow the wildcards")


def _shared(schemas: tuple[Schema, ...]) -> tuple[Schema, ...]:
    """The schemas of events of one program: the first names the others."""
    first, *others = schemas
    return first._replace(shares=tuple(one.probe for one in others)), *others


def _grouped(wanted: list[_Wanted]) -> list[list[int]]:
    """Indexes of the wanted probes, those together whose programs would be the same; a place once in each."""
    if len(wanted) == 1:
        return [[0]]
    groups: dict[Hashable, list[int]] = {}
    times: dict[Hashable, int] = {}
    keys: dict[Hashable, Hashable] = {}  # of programs that only differ in where they attach
    for index, one in enumerate(wanted):
        program, site = one.program, one.program.site
        same: Hashable = index
        if KINDS[site.kind].shared and "+" not in site.target:
            same = site.kind, *map(id, (program.shapes, program.guard, program.filter, program.body))
        key = keys[same] = keys.get(same) or layout_key(program)
        place = key, one.program.site.target
        times[place] = times.get(place, 0) + 1
        groups.setdefault((key, times[place], one.asked_by), []).append(index)
    from kwire.kernel import features

    if features.probe("cookie").answer == "yes":
        return list(groups.values())
    return [[index] for index in range(len(wanted))]


def _different(wanted: list[_Wanted]) -> Iterable[Program]:
    """The programs; of those that are the same at many places one."""
    return {(id(one.program.body), id(one.program.filter)): one.program for one in wanted}.values()


def _alike(one: Program, other: Program) -> bool:
    """Whether two programs at one place give the same events, under the same names."""
    return one.name == other.name and _names(one) == _names(other) and layout_key(one) == layout_key(other)


def _loops() -> bool:
    """Whether the kernel calls the turns of a loop; where that is not known it is tried."""
    from kwire.kernel import features

    return features.probe("loop").answer != "no"


def _names(program: Program) -> list[tuple[str, list[str]]]:
    """What its events and their fields are called."""
    return [(shape.name, [field.name for field in shape.fields]) for shape in program.shapes]


def _by_address(points: list[Point]) -> list[Point]:
    """The points of a multi link, which takes modules' functions by address only."""
    names = {str(point.target) for point in points if ":" in str(point.target)}
    if not names:
        return points
    from kwire.kernel.symbols import how_to_see_addresses, kernel_symbols

    found = kernel_symbols().functions_named({name.rpartition(":")[2] for name in names})

    def place(target: "str | int | FilePlace") -> "str | int | FilePlace":
        module, _, name = str(target).rpartition(":")
        at = found.get(name, {}).get(module) if module else None
        if module and not (at and at[0]):
            cure = how_to_see_addresses()
            raise KwireError("find address of", str(target), "the kernel does not show it", cure)
        return at[0] if at else target

    return [Point(place(point.target), point.probe) for point in points]


def _with_symbols(schema: Schema, shape: int, wanted: _Wanted) -> Schema:
    """Add the name of the probe's own function where events hold its address: it is known beforehand.

    Other addresses are told as they are seen (see `compile.stacks`), but for arrays of them, for which all
    functions' names are added, several megabytes.
    """
    places = [index for index, field in enumerate(schema.fields) if field.type == "ksym"]
    if not places:
        return schema
    from kwire.kernel.symbols import kernel_symbols

    if any(schema.fields[index].count > 1 for index in places):
        return schema._replace(symbols=kernel_symbols().by_address())
    emits = (one for statement in wanted.program.body for one in walk(statement) if isinstance(one, Emit))
    values = [emit.values[index] for emit in emits if emit.shape == shape for index in places]
    if not any(map(is_func, values)):
        return schema
    site = wanted.program.site
    name = site.target.rpartition(":")[2].partition("+")[0]
    own = [address for address in wanted.addresses if isinstance(address, int)]
    found = own or kernel_symbols().addresses(name, site.module)
    return schema._replace(symbols={address: name for address in found if address})


def _condition(filter: tree.Source) -> tuple[tree.Expr, tree.Source]:
    """A filter's syntax tree and its text."""
    from kwire.lang import python

    return python.parse_expression(filter.text, filter.name), filter


def _multi(kind: str, count: int) -> bool:
    """Whether so many functions are attached by one link, kprobe.multi or uprobe.multi."""
    from kwire.kernel import features

    return features.mechanism(kind, count).endswith(".multi")


def _named(site: Site, tables: Mapping[str, Names]) -> Site:
    """The site with the names its tracepoint prints for numbers."""
    params = []
    for param in site.params:
        table, type_ = tables.get(param.name), param.type
        if table and isinstance(type_, Int):
            names = tuple((name, wrap(value, type_)) for value, name in table.names.items())
            param = param.replace(type=Enum(param.name, type_.size, type_.signed, names, table.flags))
        params.append(param)
    return site.replace(params=tuple(params))


def make_plan(
    probes: "Sequence[str | Probe | tree.Probe]",
    filter: str | None = None,
    *,
    scope: Scope = Scope(),  # noqa: B008
    origin: str = FILTER,
    numbers: Sequence[int] | None = None,
    looked_up: bool = False,
) -> Plan:
    """The plan of probe specs and of probes written as Python functions, live ones or parsed from a file.

    `origin`: what errors call the text of the filter; `numbers`: of the probes, where those of each number
    are to be taken away without the others (`Planner.add`); `looked_up`: without assumptions about the names
    of functions (`Plan.assumed`).
    """

    def anew() -> Plan:
        return make_plan(probes, filter, scope=scope, origin=origin, numbers=numbers, looked_up=True)

    planner = Planner(
        None if filter is None else tree.Source(origin, filter), scope, None if looked_up else anew
    )
    wrong: list[LanguageError] = []
    try:
        for at, probe in enumerate(probes):
            try:
                planner.add(probe, None if numbers is None else numbers[at])
            except LanguageError as error:
                wrong.append(error)
        if wrong:
            raise together(wrong)
        return planner.plan()
    except KwireError:
        if planner.assumed:  # of several functions others may be meant
            return anew()
        raise


def plan_probes(
    probes: "Sequence[str | tree.Probe]",
    filter: str | None,
    *,
    scope: Scope,
    origin: str,
    numbers: Sequence[int] | None = None,
) -> PlanResult:
    """`make_plan` for `plan_process`."""
    return PlanResult(make_plan(probes, filter, scope=scope, origin=origin, numbers=numbers))


def ready() -> None:
    """Import what most plans need, and planning does where it needs it."""
    import kwire.live.syscalls  # noqa: F401
