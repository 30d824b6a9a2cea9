"""Compiling one probe: from the checked program to an image and its schemas. The room's front door.

Invariants: the same input gives the same bytes; the image names the maps it uses and gives their shapes, the
shared ones (`rings`, `counts`, `tasks`) being the same for every program of a trace; the schemas, one for
each shape of event, describe exactly the records that the image emits. Two programs with equal `layout_key`
compile to the same instructions with `cookie=True`.
"""

from collections.abc import Iterable

from kwire.bpf import insn as isa
from kwire.bpf.arch import Arch
from kwire.bpf.asm import bridged, link
from kwire.bpf.counts import ASKED, counts_size
from kwire.bpf.image import Image, Line, MapSpec
from kwire.bpf.task import TASKS, PidFields, PidNamespace, TaskFields
from kwire.btf.members import locate
from kwire.compile import verify
from kwire.compile.allocate import STACK_SIZE, StackError, allocate, note_in_register
from kwire.compile.builder import OTHER_SOURCE
from kwire.compile.expressions import Options
from kwire.compile.ir import Function, Module, dump
from kwire.compile.layout import CompileError, Layout, layout, schema
from kwire.compile.loops import NONE
from kwire.compile.lower import fits_stack, lower, scratch_stride
from kwire.compile.optimize import optimize
from kwire.compile.progbtf import identifier, program_btf
from kwire.compile.read_coalescing import drop_unread_faults, join_reads
from kwire.compile.scratch import ROOM, move_out
from kwire.compile.select import Selected, select
from kwire.compile.shape import layout_key
from kwire.compile.slots import share_slots
from kwire.hints import TYPE_CHECKING
from kwire.kinds import KINDS
from kwire.lang import checked
from kwire.lang.forms import walk
from kwire.lang.tree import Span
from kwire.lazy import NamedTuple
from kwire.wire.schema import Schema, event_spec

if TYPE_CHECKING:
    from kwire.btf.blob import Btf

__all__ = [
    "CompileError",
    "Compiled",
    "compile_probe",
    "fits_any_ring",
    "layout_key",
    "pid_fields",
    "probe_schemas",
    "task_fields",
]

MMAPABLE = 1 << 10  # BPF_F_MMAPABLE
RING_SIZE = 1 << 20
RING_HEADER = 8  # bytes that the kernel puts before each record
RING_SURE = 2048  # bytes that an empty ring surely has room for: the smallest is a page


class Compiled(NamedTuple):
    """A program ready to load and the schema of each shape of its records. `ir`: the optimised IR as text,
    when asked for.
    """

    image: Image
    schemas: tuple[Schema, ...]
    ir: str = ""


def compile_probe(
    program: checked.Program,
    *,
    id: int,
    spec: str,
    probes: int,
    cpus: int,
    tasks: bool,
    arch: Arch,
    cookie: bool = False,
    main: int = 0,
    without: tuple[int, ...] = (),
    task: TaskFields | None = None,
    namespace: PidNamespace | None = None,
    loops: int = NONE,
    ends: bool = False,
    room: bool = False,
    ring_size: int = RING_SIZE,
    explain: bool = False,
) -> Compiled:
    """Compile a probe.

    `id`: the number of its first shape, from 1, the others' follow (with `cookie` that number comes from
    the attach cookie of each firing, and `id` is only the schema's); `spec`: its text; `probes`, `cpus`:
    how many `counts` has room for (all shapes, possible CPUs); `tasks`: only processes in the map `tasks`
    are traced, `main` being the number of one that is surely in it and keeps its number, so it need not
    be looked up; `without`: processes that are left out; `task`: the offsets from `task_fields`, which
    save a good part of an event's cost (without them pid and comm come from helpers); `namespace`: the
    pid namespace in which `pid`, `tid` and `ppid` are told, not the first one's (takes `task`); `loops`:
    which loops are called by `bpf_loop` (`compile.loops`); `ends`: whether a probe of the unit asks for the
    end of the trace, after which none does anything; `room`: the ring surely has room for all that it emits
    (`fits_any_ring`); `ring_size`: of the rings, in bytes, for whoever
    creates maps from the image; `explain`: fill `Compiled.ir`.

    Raises `CompileError` when the program does not fit: the record, the stack, the jumps; `LanguageError` for
    a loop of more turns than a program can walk, without `loops`.
    """
    placed = _layouts(program)
    kind = KINDS[program.site.kind]
    preempted = kind.preempted
    options = Options(
        arch, id, probes, cpus, tasks, main, without, cookie, task, namespace, loops, preempted, kind.single
    )
    # Those at its begin and end run once, and whole; an iterator comes to all objects.
    if ends and kind.place != "trace" and kind.context != "objects":
        options = options._replace(ends=True)
    if room and program.site.kind == "begin":
        options = options._replace(room=True)
    on_stack, roomy = any(map(fits_stack, placed)), False
    while True:
        try:
            made = _make(program, placed, options, on_stack, roomy)
            outside = any(made.maps.values()) or not (on_stack and all(map(fits_stack, placed)))
            if options.claims or not (preempted and outside):
                break
            options = options._replace(claims=True)
        except StackError:  # a call for less on the stack: first the record goes, then what is read
            if roomy:
                raise
            on_stack, roomy = False, not on_stack
    maps = _maps(program, placed, options, on_stack, made, ring_size)
    image = _image(program, made.module.functions, select(made.module), maps, cookie)
    described = probe_schemas(program, id=id, spec=spec, arch=arch)
    return Compiled(image, described, "".join(map(dump, made.module.functions)) if explain else "")


def fits_any_ring(programs: Iterable[checked.Program]) -> bool:
    """Whether all that these programs emit, which run once and with an empty ring, fits the smallest ring."""
    size = 0
    for program in programs:
        nodes = [node for statement in program.body for node in walk(statement)]
        if any(isinstance(node, checked.Loop | checked.Each) for node in nodes):
            return False
        placed = _layouts(program)
        size += sum(placed[node.shape].most + RING_HEADER for node in nodes if isinstance(node, checked.Emit))
    return size <= RING_SURE


class _AllocatedUnit(NamedTuple):
    """Functions with registers; `maps`: bytes of each CPU's stretch in the maps of the program's own."""

    module: Module
    maps: dict[str, int]


def _layouts(program: checked.Program) -> tuple[Layout, ...]:
    return tuple(layout(program.name, one.fields) for one in program.shapes)


def _make(
    program: checked.Program, placed: tuple[Layout, ...], options: Options, stack: bool, roomy: bool
) -> _AllocatedUnit:
    lowered = lower(program, placed, options, stack)
    maps = lowered.maps
    for function in lowered.module.functions:
        _checked(function, "lower")
        optimize(function)
        _checked(function, "optimize")
        if function in lowered.faults:
            join_reads(function, lowered.faults[function])
            drop_unread_faults(function, lowered.faults[function])
            _checked(function, "join_reads")
            note_in_register(function, lowered.faults[function])
        share_slots(function)
        _checked(function, "share_slots")
    wanted = {lowered.module.functions[0]}
    functions = []
    for function in lowered.module.functions:  # those that are called come after those that call
        if function in wanted:
            functions.append(function)
            wanted.update(function.callees())
    if roomy:
        maps[ROOM] = move_out(functions, options)
        for function in functions:
            _checked(function, "move_out")
    needs: dict[Function, int] = {}
    for function in reversed(functions):
        below = max((needs[other] for other in function.callees()), default=0)
        size = allocate(function, program.name, STACK_SIZE - below)
        needs[function] = below + (max(size + 31, 32) & ~31)  # as the kernel counts a chain of calls
    return _AllocatedUnit(Module(functions), maps)


def _checked(function: Function, after: str) -> None:
    """In tests: verify the IR."""
    if verify.checking:
        verify.verify(function, after)


def _maps(
    program: checked.Program,
    placed: tuple[Layout, ...],
    options: Options,
    stack: bool,
    made: _AllocatedUnit,
    ring_size: int,
) -> tuple[MapSpec, ...]:
    ring = MapSpec("ring", "ringbuf", 0, 0, ring_size)
    maps = [
        ring,
        MapSpec("rings", "array_of_maps", 4, 4, options.cpus, 0, ring),
        MapSpec("counts", "array", 4, counts_size(options.probes, options.cpus), 1, MMAPABLE),
    ]
    maps.append(MapSpec(ASKED, "array", 4, 8, 1, MMAPABLE))
    if options.tasks:
        maps.append(TASKS)
    if in_scratch := [one for one in placed if not (stack and fits_stack(one))]:
        maps.append(MapSpec("scratch", "array", 4, options.cpus * scratch_stride(in_scratch), 1))
    for name, stride in made.maps.items():
        if stride:
            maps.append(MapSpec(name, "array", 4, options.cpus * stride, 1))
    own = program.maps().values()
    if own:
        from kwire.compile.maps import specs  # most programs do without

        maps += dict.fromkeys(spec for one in own for spec in specs(one, options.cpus))
    tables = program.stacks()
    if tables:
        from kwire.compile.stacks import specs as tables_of

        maps += tables_of(tables)
    return tuple(maps)


def _image(
    program: checked.Program,
    functions: list[Function],
    selected: Selected,
    maps: tuple[MapSpec, ...],
    cookie: bool,
) -> Image:
    linked = link(bridged(selected.items))
    at: dict[int, Span] = {}
    for label, span in selected.spans:
        at[linked.labels[label]] = span  # of several at one instruction the last counts
    end = sum(insn.slots for insn in linked.insns)
    lines = tuple(_line(program, slot, span) for slot, span in sorted(at.items()) if slot < end)
    entries = [linked.labels[entry] for entry in selected.functions]
    if lines:  # the first instruction of each function has to have one
        known = {line.insn for line in lines}
        more = (lines[0]._replace(insn=entry) for entry in entries if entry not in known)
        lines = tuple(sorted((*lines, *more)))
    names = [program.name, *(entry.name for entry in selected.functions[1:])]
    whole = {one.name for one in functions if one.whole}
    info = program_btf(dict(zip(names, entries, strict=True)), lines, whole)
    kind = program.site.kind
    target = program.site.target if KINDS[kind].mechanism == "trampoline" else ""
    used = {use.map for use in linked.uses}
    return Image(
        name=identifier(program.name),
        kind=kind,
        code=isa.encode(linked.insns),
        maps=tuple(spec for spec in maps if spec.name in used),
        uses=tuple(linked.uses),
        lines=lines,
        btf=info.btf,
        func_info=info.func_info,
        line_info=info.line_info,
        attach=target,
        cookies=cookie,
    )


def _line(program: checked.Program, slot: int, span: Span) -> Line:
    """The source line that the instructions from a slot on come from."""
    source, number = program.source, span.line
    if number > OTHER_SOURCE and program.filter_source is not None:
        source, number = program.filter_source, number - OTHER_SOURCE
    source, number = source.at(number)
    return Line(slot, source.name, number, span.column + 1, source.line(number))


def probe_schemas(program: checked.Program, *, id: int, spec: str, arch: Arch) -> tuple[Schema, ...]:
    """The schemas alone, where the program was compiled for another probe with the same `layout_key`."""
    return tuple(
        schema(program, shape, placed, id=number, spec=event_spec(spec, shape.name), machine=arch.machine)
        for number, (placed, shape) in enumerate(zip(_layouts(program), program.shapes, strict=True), id)
    )


def task_fields(btf: "Btf") -> TaskFields | None:
    """Offsets of `struct task_struct` in the running kernel's BTF; None where it does not say."""
    from kwire.btf.types import Kind

    found = btf.find("task_struct", Kind.STRUCT)
    if not found:
        return None
    return TaskFields(*(locate(btf, found, name).offset_bits // 8 for name in TaskFields._fields))


def pid_fields(btf: "Btf") -> PidFields | None:
    """Offsets of a task's numbers in the running kernel's BTF; None where it does not say."""
    from kwire.btf.types import Kind

    task, pid, entry = (btf.find(name, Kind.STRUCT) for name in ("task_struct", "pid", "upid"))
    if not (task and pid and entry):
        return None

    def at(structure: int, member: str) -> int:
        return locate(btf, structure, member).offset_bits // 8

    return PidFields(
        at(task, "thread_pid"),
        at(pid, "level"),
        at(pid, "numbers"),
        btf.sizeof(entry),
        at(entry, "nr"),
        at(entry, "ns"),
    )
