"""A probe run without a kernel: compiled as ever, then run once by kwire's own eBPF machine.

    memory = kwire.Memory()
    sock = memory.kernel(kwire.fake("struct sock", {"__sk_common.skc_dport": 0xBB01}))
    [event] = kwire.simulate(connect, {"sk": sock}, memory=memory, pid=42, comm="curl")
    assert event.dport == 443

Invariant: what runs is the program that the kernel would be given; only its surroundings are made up.
"""

import struct
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from kwire.arguments import ArgumentError, checked, needed
from kwire.bpf.arch import host
from kwire.bpf.counts import ASKED, ASKED_BIT
from kwire.bpf.vm import ArrayMap, Environment, HashMap, Machine, Memory, arguments, registers
from kwire.btf import types as b
from kwire.btf.ctext import parse_type
from kwire.btf.members import locate
from kwire.btf.store import load_kernel
from kwire.compile.build import compile_probe
from kwire.compile.loops import LONG
from kwire.compile.maps import lost_of, name_of
from kwire.errors import KwireError
from kwire.kernel import tracefs
from kwire.kernel.formats import parse_format
from kwire.kinds import KINDS
from kwire.kinds import USER as IN_PROGRAMS
from kwire.lang import attach_points, python, tree
from kwire.lang.check import check
from kwire.lang.checked import Map, Program
from kwire.lang.context import Access, Argument, CtxField, DataLoc, Param, Site, Slots
from kwire.lang.kerneltypes import KernelTypes
from kwire.lang.types import USER, Pointer, Type, size_of
from kwire.live.contents import Raw, split
from kwire.live.events import Event
from kwire.live.lines import batch
from kwire.live.maps import SharedMap
from kwire.live.probes import Probe
from kwire.wire.frames import Frames
from kwire.wire.schema import Schema
from kwire.words import plural

ENVIRONMENT = tuple(name for name in Environment.__slots__ if name not in ("args", "retval"))
"""What the surroundings of a simulated probe can be told to be."""

INSTRUCTIONS = 1 << 26
"""At most: enough for a loop of as many turns as a probe's may have."""

CONTEXT_START = 8
"""Where the fields of a tracepoint begin, behind those that every event has."""


def simulate(
    probe: Probe,
    values: Mapping[str, int | bytes | str] | None = None,
    *,
    memory: Memory | None = None,
    retval: int | None = None,
    format: str | None = None,
    btf: str | None = None,
    **environment: Any,
) -> list[Event]:
    """Run a probe once, at the first place it attaches to; give the events it emitted.

    `values`: its arguments, or the fields of its tracepoint, by name; what is left out is 0. Pointers are
    addresses in `memory`; bytes or text for a pointer are put there. `retval`: what a function returned.
    `format`: text of the tracepoint's format file, instead of the running kernel's; `btf`: a file of kernel
    types, likewise. Everything else is what helpers answer: pid, tid, comm, cpu, uid, monotonic_ns… (see
    `kwire.bpf.vm.Environment`). Raises KwireError where the probe does not compile.
    """
    if not isinstance(probe, Probe):
        cure = "give a function under @kwire.kprobe and its like"
        raise ArgumentError("simulate", repr(probe)[:80], "it is no probe", cure)
    unknown = sorted(environment.keys() - ENVIRONMENT)
    if unknown:
        raise ArgumentError(
            "simulate", unknown[0], "there is no such argument", f"known: {', '.join(ENVIRONMENT)}"
        )
    retval, format, btf = checked("simulate", retval=retval, format=format, btf=btf)
    memory = Memory() if memory is None else memory
    types = KernelTypes(load_kernel(path=btf))
    parsed = python.parse_function(probe.function, probe.attach)
    wanted = parsed.attach[0]
    site = site_at(wanted, types, format)
    program = check(parsed, site, types)
    run = execute(program, str(wanted), _shared(parsed, program), values or {}, memory, retval, environment)
    kept = batch(run.schemas)
    if run.frames is not None:
        kept.write(run.frames)
    return kept.take()


class Held(Protocol):
    """What keeps what a map holds from one run to the next."""

    def preset(self, map: Map) -> Raw:
        """What a run begins with."""

    def keep(self, raw: Raw, lost: int) -> None:
        """What a run has left, and how many of its updates found no room."""


class Run(NamedTuple):
    """What came of a run: its events, the schemas of the program's, and the status of an `exit` (None: none
    was asked for).
    """

    schemas: tuple[Schema, ...]
    frames: Frames | None
    status: int | None


def site_at(wanted: tree.AttachPoint, types: KernelTypes, format: str | None = None) -> Site:
    """The site of a place, which need not be there. `format`: text of a tracepoint's format file, instead of
    the running kernel's. Raises KwireError.
    """
    if wanted.kind == "tracepoint":
        if format is not None:
            layout = parse_format(format, wanted.target)
        else:
            layout = tracefs.shared().format(wanted.group, wanted.name)
        return attach_points.tracepoint(wanted.group, wanted.name, layout.fields, types)
    if KINDS[wanted.kind].place in ("trace", "timer", "counter", "memory", "signal"):
        return Site(wanted.kind, wanted.target, ())
    if wanted.kind == "rawtracepoint":
        return attach_points.raw_tracepoint(wanted.name, types)
    if wanted.kind in IN_PROGRAMS:
        return attach_points.in_file(wanted.kind, wanted.target, wanted.offset, "", host().machine)
    if wanted.kind == "iter":
        return attach_points.iterator(wanted.name, types)
    module = wanted.group or None
    return attach_points.function(wanted.kind, wanted.name, types, module, wanted.offset, host().machine)


def execute(
    program: Program,
    spec: str,
    maps: Sequence[tuple[Map, Held]],
    values: Mapping[str, int | bytes | str],
    memory: Memory,
    retval: int | None,
    environment: Mapping[str, Any],
) -> Run:
    """Compile a program and run it once."""
    site = program.site
    compiled = compile_probe(
        program,
        id=1,
        spec=spec,
        probes=len(program.shapes),
        cpus=1,
        tasks=False,
        arch=host(),
        loops=LONG,
    )
    machine = Machine(compiled.image, memory=memory, **environment)
    machine.budget = INSTRUCTIONS
    context = _context(site, dict(values), machine, retval)
    for map, one in maps:
        _fill(machine, map, one.preset(map))
    emitted = machine.run(context).emitted
    for map, one in maps:
        one.keep(*_left(machine, map))
    asked = machine.maps.get(ASKED)
    word = int.from_bytes(asked.value()[:8], sys.byteorder) if isinstance(asked, ArrayMap) else 0
    status = word & (ASKED_BIT - 1) if word & ASKED_BIT else None
    return Run(compiled.schemas, Frames.walk(b"".join(emitted)) if emitted else None, status)


def _shared(parsed: tree.Probe, program: Program) -> list[tuple[Map, SharedMap]]:
    """The maps of a program that Python sees."""
    from kwire.lang.maps import elements

    found, known = elements(parsed), program.maps()
    owners = {made.title: made.owner for made in found}
    return [(map, owner) for name, map in known.items() if isinstance(owner := owners[name], SharedMap)]


def _fill(machine: Machine, map: Map, raw: Raw) -> None:
    """Put into the machine's map what an earlier run, or Python, has left."""
    held = machine.maps.get(name_of(map))
    if isinstance(held, ArrayMap):
        for [data] in raw.values():  # there is one CPU
            held.value()[: len(data)] = data
    elif isinstance(held, HashMap):
        for key, values in raw.items():
            for cpu, value in enumerate(values):
                held.update(key, value, 0, cpu)


def _left(machine: Machine, map: Map) -> tuple[Raw, int]:
    """What a run has left in a map, and how many updates found no room."""
    held, lost = machine.maps.get(name_of(map)), machine.maps.get(lost_of(map))
    full = int.from_bytes(lost.value(), sys.byteorder) if isinstance(lost, ArrayMap) else 0
    if isinstance(held, ArrayMap):
        values = split(map, bytes(held.value()))
        return ({b"": values} if values else {}), full
    return held.entries() if isinstance(held, HashMap) else {}, full


def fake(type: str, members: Mapping[str, int | bytes] | None = None, *, btf: str | None = None) -> bytes:
    """The bytes of a kernel structure, for `Memory.kernel`: zeros but for `members`.

    `type`: "struct sock"; `members`: paths such as "__sk_common.skc_dport", each a number, stored in the
    machine's byte order and the member's size, or bytes as they are. Raises KwireError for unknown names.
    """
    type, btf = *needed("fake", type=type), *checked("fake", btf=btf)
    kernel = load_kernel(path=btf).vmlinux
    parsed = parse_type(kernel, type)
    if parsed.pointers or parsed.counts:
        raise KwireError("fake", type, "it is not a structure", 'name it without "*" or "[]"')
    memory = bytearray(kernel.sizeof(parsed.id))
    for path, value in (members or {}).items():
        found = locate(kernel, kernel.resolve(parsed.id), path)
        size = kernel.sizeof(found.type_id)
        if found.bitfield_size or found.offset_bits % 8:
            _set_bits(memory, found, value, f"{type}.{path}")
            continue
        if isinstance(value, int) and not -(1 << 8 * size >> 1) <= value < 1 << 8 * size:
            raise KwireError("fake", f"{type}.{path}", f"{value} does not fit its {plural(size, 'byte')}")
        data = value if isinstance(value, bytes) else _number(value, size)
        if len(data) > size:
            raise KwireError("fake", f"{type}.{path}", f"{len(data)} bytes do not fit its {size}")
        at = found.offset_bits // 8
        memory[at : at + len(data)] = data
    return bytes(memory)


def _set_bits(memory: bytearray, found: b.MemberPath, value: int | bytes, name: str) -> None:
    """Store a bit-field, as little-endian machines lay it out."""
    width = found.bitfield_size
    if isinstance(value, bytes):
        raise KwireError("fake", name, "it is a bit-field, and not bytes", "give a number")
    if not -(1 << width >> 1) <= value < 1 << width:
        raise KwireError("fake", name, f"{value} does not fit {plural(width, 'bit')}")
    for bit in range(width):
        at = found.offset_bits + bit
        memory[at // 8] = memory[at // 8] & ~(1 << at % 8) | (value >> bit & 1) << at % 8


def _context(site: Site, values: dict[str, int | bytes | str], machine: Machine, retval: int | None) -> bytes:
    """The context that a program at this site is given, and what the helpers tell of the call."""
    memory = machine.memory
    if site.kind == "tracepoint":
        context = _record(site.params, values, memory)
    else:
        given = [0] * max([site.slots, *(_end(param.access) for param in site.params)])
        for param in site.params:
            if isinstance(param.access, Argument):
                given[param.access.number] = _scalar(values.pop(param.name, 0), param.type, memory)
            elif isinstance(param.access, Slots):
                value, first = values.pop(param.name, 0), param.access.first
                data = _number(value, param.access.size) if isinstance(value, int) else _bytes(value)
                for at in range(0, min(len(data), param.access.size), 8):
                    given[first + at // 8] = int.from_bytes(data[at : at + 8], sys.byteorder)
        machine.env.args, machine.env.retval = given, retval or 0
        if site.kind in ("kprobe", "kretprobe"):
            arch = host()
            beyond = struct.pack(f"={len(given)}Q", *given)[8 * len(arch.args) :]
            stack = memory.kernel(bytes(arch.stack_args) + beyond) if beyond else 0
            context = registers(given, retval=retval, sp=stack)
        else:
            context = arguments(given, retval=retval if site.kind == "fexit" else None)
    if values:
        known = ", ".join(param.name for param in site.params) or "nothing"
        raise KwireError(
            "simulate",
            f"{site.kind}:{site.target}",
            f"it is not given {next(iter(values))!r}",
            f"it has {known}",
        )
    return context


def _end(access: Access) -> int:
    """How many slots there are up to the last of an argument."""
    if isinstance(access, Slots):
        return access.first + -(-access.size // 8) if access.size else 0
    return access.number + 1 if isinstance(access, Argument) else 0


def _record(params: tuple[Param, ...], values: dict[str, int | bytes | str], memory: Memory) -> bytes:
    """A tracepoint's record: fixed fields, then what its variable-length ones hold."""
    end = CONTEXT_START
    for param in params:
        if isinstance(param.access, CtxField):
            end = max(end, param.access.offset + param.access.size)
        elif isinstance(param.access, DataLoc):
            end = max(end, param.access.offset + 4)
    record = bytearray(-(-end // 8) * 8)
    for param in params:
        value, access = values.pop(param.name, 0), param.access
        if isinstance(access, CtxField):
            if isinstance(value, int) or size_of(param.type) == 8:
                data = _number(_scalar(value, param.type, memory), access.size)
            else:
                data = _bytes(value)[: access.size]
            record[access.offset : access.offset + len(data)] = data
        elif isinstance(access, DataLoc):
            data = b"" if isinstance(value, int) else _bytes(value)
            start = len(record) - (access.offset + 4 if access.relative else 0)
            record[access.offset : access.offset + 4] = (len(data) << 16 | start).to_bytes(4, sys.byteorder)
            record += data + bytes(-len(data) % 8)
    return bytes(record)


def _scalar(value: int | bytes | str, type_: Type, memory: Memory) -> int:
    """A number, or the address of what a pointer is to point to."""
    if isinstance(value, int):
        return value
    user = isinstance(type_, Pointer) and type_.space == USER
    return memory.user(_bytes(value)) if user else memory.kernel(_bytes(value))


def _number(value: int, size: int) -> bytes:
    """The low `size` bytes of a number, in the machine's byte order."""
    return (value & (1 << size * 8) - 1).to_bytes(size, sys.byteorder)


def _bytes(value: bytes | str) -> bytes:
    return value.encode() + b"\0" if isinstance(value, str) else value
