"""Planning a trace: from what was asked for to programs, attach points and schemas.

Each probe asked for is expanded to its targets; each target becomes a site, is checked and compiled; targets
whose instructions would be the same share one program that tells its firings apart by the attach cookie. The
laws: probes are numbered from 1 in the order asked for; a target named in full that cannot be traced is an
error; of a wildcard's targets those that do not fit the expressions are left out, and said (`Plan.skipped`).
A filter applies to the probes that have its names: one named in full that has not is traced without it, and
that is said (`Plan.unfiltered`); of a wildcard's targets such are left out; where no probe has them, the name
is a mistake. What only some plans need (the parser of expressions, the lists of functions) is imported when
it is needed.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, NoReturn

from kwire.bpf.arch import host
from kwire.bpf.task import TaskFields
from kwire.btf.blob import Btf
from kwire.btf.errors import BtfError, BtfLookupError
from kwire.btf.store import Found, Function, Kernel, load_kernel
from kwire.btf.types import Kind
from kwire.compile.build import compile_probe, layout_key, probe_schema, task_fields
from kwire.errors import KwireError
from kwire.kernel import tracefs
from kwire.kernel.printfmt import hexadecimal, symbolic
from kwire.kernel.sys import possible_cpus
from kwire.kernel.tracefs import Tracefs
from kwire.lang import record, sites, spec, tree
from kwire.lang.check import check, filtered
from kwire.lang.checked import Builtin, Emit, If, Program, Stmt
from kwire.lang.context import Site
from kwire.lang.errors import LanguageError, UnknownNameError
from kwire.lang.kerneltypes import KernelTypes
from kwire.lang.shown import shown
from kwire.lang.spec import ProbeSpec
from kwire.lang.types import Enum, Int
from kwire.live.plan import Group, Plan, Point, Scope
from kwire.live.probes import Probe
from kwire.wire.schema import Schema

INSTEAD = {"kprobe": "fentry", "kretprobe": "fexit"}
"""What takes the place of kprobes on a kernel that has none."""

MAX_PROBES = 50_000
"""More than any kernel has functions worth tracing at once."""

FILTER = "--filter"
"""What errors call the text of a filter."""


class _Wanted(NamedTuple):
    """One probe, checked: its spec for people, its program, and the place it was asked for.

    `program.site` is where it attaches, which may be another place that sees the same events.
    """

    spec: str
    program: Program
    site: Site

    def schema(self, schema: Schema) -> Schema:
        """The schema of its program as that of the place asked for."""
        return schema._replace(kind=self.site.kind, target=self.site.target)


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

    `filter`: what must hold for an event of any of them; `scope`: whose events are wanted.
    """

    def __init__(self, filter: str | None = None, scope: Scope = Scope()) -> None:  # noqa: B008
        self._filter = None if filter is None else _condition(filter)
        self._unfiltered: list[tuple[str, int, UnknownNameError]] = []  # with how many probes it is
        self._scope = scope
        self._wanted: list[_Wanted] = []
        self._skipped: list[tuple[str, str]] = []
        self._events: Tracefs | None = None  # open as long as it is used, for all probes once
        self._kernel: Kernel | None = None
        try:
            self._kernel = load_kernel()
        except BtfError as error:
            self._types = KernelTypes(_NoBtf(error))
        else:
            self._types = KernelTypes(self._kernel)

    def add(self, probe: "str | Probe | tree.Probe") -> None:
        """Add a probe spec, or a probe written as a Python function, for every place it attaches to."""
        if isinstance(probe, str):
            self._add_spec(spec.parse(probe))
            return
        if isinstance(probe, Probe):
            from kwire.lang import python

            probe = python.parse_function(probe.function, probe.attach)
        if not isinstance(probe, tree.Probe):
            cure = "give a probe spec, or a function under @kwire.kprobe and its like"
            raise KwireError("trace", repr(probe)[:80], "it is no probe", cure)
        self._add_function(probe)

    def _add_spec(self, parsed: ProbeSpec) -> None:
        def program(site: Site) -> Program:
            return record.program(site, self._types, parsed.expressions, parsed.source, parsed.condition)

        self._add(parsed, program)

    def _add_function(self, probe: tree.Probe) -> None:
        def program(site: Site) -> Program:
            return check(probe, site, self._types)

        for place in probe.attach:
            self._add(spec.parse(f"{place.kind}:{place.target}"), program)

    def plan(self) -> Plan:
        """Compile what was added. Raises KwireError, with all that is needed to understand it."""
        count = len(self._wanted)
        if not count:
            raise KwireError("plan trace", "", "there is no probe in it", "name at least one")
        if count > MAX_PROBES:
            raise KwireError(
                "plan trace",
                f"of {count} probes",
                f"at most {MAX_PROBES} are possible",
                "narrow the wildcards",
            )
        if sum(number for _, number, _ in self._unfiltered) == count:
            raise self._unfiltered[0][2]
        self._wanted = self._cheaper()
        task = task_fields(self._kernel.vmlinux) if self._kernel else None
        schemas: list[Schema | None] = [None] * count
        groups = [self._group(members, task, schemas) for members in self._grouped()]
        complete = tuple(
            _with_symbols(schema, one.program)
            for schema, one in zip(schemas, self._wanted, strict=True)
            if schema is not None
        )
        unfiltered = tuple((text, error.cause) for text, _, error in self._unfiltered)
        return Plan(tuple(groups), complete, tuple(self._skipped), task, unfiltered)

    # -- collecting

    def _add(self, parsed: ProbeSpec, program: Callable[[Site], Program]) -> None:
        text = f"{parsed.kind}:{parsed.target}"
        if not parsed.wildcard:
            made = program(self._site(parsed.kind, parsed.group, parsed.name, parsed.offset))
            try:
                self._want(text, self._filtered(made))
            except UnknownNameError as error:
                self._want(text, made)
                self._unfiltered.append((text, 1, error))
            return
        from kwire.kernel import catalog

        first: LanguageError | None = None
        without: list[tuple[str, Program, UnknownNameError]] = []
        added = len(self._wanted)
        for target in catalog.expand(parsed.kind, parsed.target):
            try:
                site = self._site(target.kind, target.group, target.name, listed=True)
                made = program(site)
                try:
                    self._want(str(target), self._filtered(made))
                except UnknownNameError as error:
                    without.append((str(target), made, error))
            except (LanguageError, BtfLookupError) as error:
                self._skipped.append((str(target), error.cause))
                first = first or (error if isinstance(error, LanguageError) else None)
        if len(self._wanted) > added:
            self._skipped += [(one, error.cause) for one, _, error in without]
        elif without:  # the filter is about other probes
            for one, made, _ in without:
                self._want(one, made)
            self._unfiltered.append((text, len(without), without[0][2]))
        elif first:
            raise first
        else:
            raise KwireError("trace", str(parsed), f"none of {len(self._skipped)} targets can be", "")

    def _filtered(self, program: Program) -> Program:
        """The program with the filter. Raises UnknownNameError where the site has not its names."""
        if self._filter is None:
            return program
        return filtered(program, *self._filter, self._types)

    def _want(self, text: str, program: Program) -> None:
        self._wanted.append(_Wanted(text, program, program.site))

    def _site(self, kind: str, group: str, name: str, offset: int = 0, listed: bool = False) -> Site:
        """The site of one target; `listed`: the kernel has named it, so it is no misspelling."""
        if kind == "tracepoint":
            events = self._events = self._events or tracefs.shared()
            if not events.has_event(group, name):
                from kwire.kernel import catalog

                raise catalog.missing(kind, f"{group}:{name}")
            format_ = events.format(group, name)
            site = sites.tracepoint(group, name, format_.fields, self._types)
            return shown(
                _named(site, symbolic(format_.print_fmt)),
                dict.fromkeys(hexadecimal(format_.print_fmt), "hex") if group != "syscalls" else {},
            )
        from kwire.kernel import catalog, features

        if kind == "rawtracepoint":
            catalog.expand(kind, name)  # says what is near, should there be none
            return sites.raw_tracepoint(name, self._types)
        if kind in INSTEAD and features.mechanism(kind) == "fentry":
            kind = INSTEAD[kind]
        if offset and kind != "kprobe":
            raise KwireError(
                "trace", f"kprobe:{name}+{offset}", "this kernel has no kprobes", "leave the offset out"
            )
        try:
            return sites.function(kind, name, self._types, group or None, offset, host().machine)
        except BtfLookupError as error:
            raise error if listed or self._kernel is None else catalog.missing(kind, name) from None

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

    def _grouped(self) -> list[list[int]]:
        """Indexes of the wanted probes, those together whose programs would be the same."""
        if len(self._wanted) == 1:
            return [[0]]
        groups: dict[Hashable, list[int]] = {}
        for index, wanted in enumerate(self._wanted):
            groups.setdefault(layout_key(wanted.program), []).append(index)
        from kwire.kernel import features

        if features.probe("cookie").answer == "yes":
            return list(groups.values())
        return [[index] for index in range(len(self._wanted))]

    def _group(self, members: list[int], task: TaskFields | None, schemas: list[Schema | None]) -> Group:
        first = self._wanted[members[0]]
        shared = len(members) > 1
        compiled = compile_probe(
            first.program,
            id=members[0] + 1,
            spec=first.spec,
            probes=len(self._wanted),
            cpus=possible_cpus(),
            tasks=self._scope.follow,
            arch=host(),
            cookie=shared,
            main=self._scope.main,
            without=self._scope.without,
            task=task,
        )
        for index in members:
            wanted = self._wanted[index]
            schemas[index] = wanted.schema(
                compiled.schema
                if index == members[0]
                else probe_schema(wanted.program, id=index + 1, spec=wanted.spec, arch=host())
            )
        if shared:
            others = tuple(self._wanted[index].spec for index in members[1:])
            leader = schemas[members[0]]
            assert leader is not None  # made above
            schemas[members[0]] = leader._replace(shares=others)
        site = first.program.site
        multi = shared and site.kind in INSTEAD and _multi(site.kind, len(members))
        points = [Point(self._wanted[index].program.site.target, index + 1) for index in members]
        if multi and any(":" in str(point.target) for point in points):
            points = [Point(self._address(str(point.target)), point.probe) for point in points]
        btf_id = 0
        if site.kind in INSTEAD.values() and self._kernel:
            name = site.target.rpartition(":")[2]
            btf_id = self._kernel.module(site.module).find(name, Kind.FUNC)
        return Group(compiled.image, site.kind, tuple(points), multi, btf_id, site.module)

    def _address(self, target: str) -> int:
        """The address of a function, for a multi link: names of modules' functions are not taken there."""
        from kwire.kernel.symbols import kernel_symbols

        module, _, name = target.rpartition(":")
        found = kernel_symbols().addresses(name, module or None)
        if not found or not found[0]:
            raise KwireError(
                "find address of", target, "the kernel does not show it", "run as root, or see 'kwire doctor'"
            )
        return found[0]


def _with_symbols(schema: Schema, program: Program) -> Schema:
    """Add the names of kernel addresses where events hold any, so that they can be read anywhere.

    All functions', several megabytes; but where the only addresses are the probe's own (`func`), its own.
    """
    places = [index for index, field in enumerate(schema.fields) if field.type == "ksym"]
    if not places:
        return schema
    from kwire.kernel.symbols import kernel_symbols

    values = [emit.values[index] for emit in _emits(program.body) for index in places]
    if any(not isinstance(value, Builtin) or value.op != "func" for value in values):
        return schema._replace(symbols=kernel_symbols().by_address())
    name = program.site.target.rpartition(":")[2].partition("+")[0]
    found = kernel_symbols().addresses(name, program.site.module)
    return schema._replace(symbols={address: name for address in found if address})


def _emits(body: Sequence[Stmt]) -> Iterator[Emit]:
    """Every place where an event is emitted."""
    for statement in body:
        if isinstance(statement, Emit):
            yield statement
        elif isinstance(statement, If):
            yield from _emits((*statement.then, *statement.otherwise))


def _condition(filter: str) -> tuple[tree.Expr, tree.Source]:
    """A filter's syntax tree and its text."""
    from kwire.lang import python

    return python.parse_expression(filter, FILTER), tree.Source(FILTER, filter)


def _multi(kind: str, count: int) -> bool:
    """Whether so many functions are attached by one kprobe.multi link."""
    from kwire.kernel import features

    return features.mechanism(kind, count) == "kprobe.multi"


def _named(site: Site, tables: Mapping[str, Mapping[int, str]]) -> Site:
    """The site with the names its tracepoint prints for numbers."""
    params = []
    for param in site.params:
        table, type_ = tables.get(param.name), param.type
        if table and isinstance(type_, Int):
            names = tuple((name, value) for value, name in table.items())
            param = param._replace(type=Enum(param.name, type_.size, type_.signed, names))
        params.append(param)
    return site._replace(params=tuple(params))


def make_plan(
    probes: Sequence[str | Probe | tree.Probe],
    filter: str | None = None,
    *,
    scope: Scope = Scope(),  # noqa: B008
) -> Plan:
    """The plan of probe specs and of probes written as Python functions, live ones or parsed from a file."""
    planner = Planner(filter, scope)
    for probe in probes:
        planner.add(probe)
    return planner.plan()
