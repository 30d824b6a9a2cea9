"""The interpreter: runs any program without a kernel, for tests of probes and of the compiler.

    memory = Memory()
    sock = memory.kernel(bytes(512))                     # a fake struct at a fake kernel address
    machine = Machine(image, memory=memory, pid=42, comm="curl", boot_ns=1_000)
    result = machine.run(registers(args=[sock]))         # a kprobe: its context is pt_regs
    assert result.r0 == 0
    assert result.emitted == [b"..."]                    # the ring buffer records of this run

`machine.env` holds everything the helpers answer (`machine.env.cpu = 3`), `machine.maps["counts"].value()` a
map's memory; both last from run to run. A probe of unmapped memory is not an error: the program gets -EFAULT
and zeros, as in the kernel, and `result.faults` tells. What the kernel's verifier would not let happen is a
`MachineError` that names the instruction: an access outside known memory, a register or a stack byte used
before it is set, a record neither submitted nor discarded, a program that does not end.

`python -m kwire.bpf.vm [MEMORY_HEX]` speaks the plugin protocol of the bpf_conformance suite: the program's
bytes in hex on standard input (or `--program HEX`), r1 = the memory's address, r2 = its length; prints r0 in
hex.
"""

import struct
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from kwire.bpf import arch as arches
from kwire.bpf import insn as isa
from kwire.bpf.image import Image, Line
from kwire.bpf.insn import Insn
from kwire.bpf.vm_helpers import Fault
from kwire.bpf.vm_maps import ArrayMap, HashMap, Map, MapArray, RingMap, create
from kwire.bpf.vm_memory import AddressSpace, Memory
from kwire.bpf.vm_run import MachineError, Run, Step
from kwire.errors import KwireError

__all__ = [
    "ArrayMap",
    "Environment",
    "Fault",
    "HashMap",
    "Machine",
    "MachineError",
    "MapArray",
    "Memory",
    "Result",
    "RingMap",
    "arguments",
    "registers",
]

BUDGET: Final = 1_000_000


class Environment:
    """What the helpers answer. Times in nanoseconds; `pid` is the process (tgid), `tid` the thread.

    `cookie`: the attach cookie; `task`: address of the current task_struct; `args`, `retval`: what
    get_func_arg and get_func_ret give; `random`: seed of get_prandom_u32; the stacks are return addresses,
    innermost first.
    """

    __slots__ = (
        "args",
        "boot_ns",
        "cgroup_ancestors",
        "cgroup_id",
        "comm",
        "cookie",
        "cpu",
        "func_ip",
        "gid",
        "jiffies",
        "kernel_stack",
        "monotonic_ns",
        "numa_node",
        "pid",
        "random",
        "retval",
        "socket_cookie",
        "tai_ns",
        "task",
        "tid",
        "uid",
        "user_stack",
    )

    def __init__(
        self,
        *,
        pid: int = 1000,
        tid: int | None = None,
        uid: int = 0,
        gid: int = 0,
        comm: str = "test",
        cpu: int = 0,
        numa_node: int = 0,
        boot_ns: int = 2_000_000_000,
        monotonic_ns: int = 1_000_000_000,
        tai_ns: int = 3_000_000_000,
        jiffies: int = 4_294_667_296,
        cgroup_id: int = 1,
        cgroup_ancestors: Sequence[int] = (),
        cookie: int = 0,
        func_ip: int = 0,
        task: int = 0,
        args: Sequence[int] = (),
        retval: int = 0,
        socket_cookie: int = 0,
        random: int = 1,
        kernel_stack: Sequence[int] = (),
        user_stack: Sequence[int] = (),
    ) -> None:
        self.pid = pid
        self.tid = pid if tid is None else tid
        self.uid = uid
        self.gid = gid
        self.comm = comm
        self.cpu = cpu
        self.numa_node = numa_node
        self.boot_ns = boot_ns
        self.monotonic_ns = monotonic_ns
        self.tai_ns = tai_ns
        self.jiffies = jiffies
        self.cgroup_id = cgroup_id
        self.cgroup_ancestors = cgroup_ancestors
        self.cookie = cookie
        self.func_ip = func_ip
        self.task = task
        self.args = args
        self.retval = retval
        self.socket_cookie = socket_cookie
        self.random = random
        self.kernel_stack = kernel_stack
        self.user_stack = user_stack


class Result(NamedTuple):
    """One run. `emitted`: the records of all rings; `rings`: the same by the ring's name ("rings[0]").

    `faults`: probed addresses that could not be read; `printed`: what trace_printk got; `signals`: what
    send_signal got; `steps`: instructions executed.
    """

    r0: int
    emitted: list[bytes]
    rings: dict[str, list[bytes]]
    faults: list[Fault]
    printed: list[str]
    signals: list[int]
    steps: int


class Machine:
    """A program with its maps and surroundings, to be run as often as wanted.

    `program`: an `Image`, code bytes, or instructions; `beside`: another machine, whose maps it has where
    their specs are equal, as programs that are loaded together share them; `memory`: what probe_read finds, a
    `Memory` or {address: bytes}; `kind`: of bare code, "" for none in particular; `budget`: instructions a
    run may take; everything else goes to the `Environment`. Raises `InsnError` for a program that is not
    valid.
    """

    def __init__(
        self,
        program: Image | bytes | Iterable[Insn],
        *,
        memory: Memory | Mapping[int, bytes] | None = None,
        kind: str = "",
        budget: int = BUDGET,
        beside: "Machine | None" = None,
        **environment: Any,
    ) -> None:
        self.memory = memory if isinstance(memory, Memory) else Memory(memory)
        self.env = Environment(**environment)
        self.budget = budget
        self.keep_reading = True  # False: records stay in the rings, which fill up
        self.space: AddressSpace = beside.space if beside else AddressSpace()
        self.shared: dict[str, Map] = dict(beside.shared) if beside else {}
        """The maps of the program, and those of the machines beside it."""
        self.maps: dict[str, Map] = {}
        self.lines: tuple[Line, ...] = ()
        self.kind = kind
        if isinstance(program, Image):
            self.kind = program.kind
            self.lines = program.lines
            for spec in program.maps:
                other = self.shared.get(spec.name)
                known = other is not None and other.spec == spec
                self.maps[spec.name] = other if known and other else create(spec, self.space)
            self.shared |= self.maps
            insns = isa.decode(program.code)
        elif isinstance(program, (bytes, bytearray, memoryview)):
            insns = isa.decode(program)
        else:
            insns = list(program)
        self._by_address = {found.address: found for found in self._all_maps()}
        uses = {use.insn: use for use in program.uses} if isinstance(program, Image) else {}
        self.steps: dict[int, Step] = {}
        pc = 0
        for insn, form in zip(insns, isa.validate(insns), strict=True):
            use = uses.get(pc)
            value = None
            if use is not None:
                value = self._map_address(use.map, use.value_offset)
            self.steps[pc] = Step(pc, insn, form, value)
            pc += insn.slots

    def _map_address(self, name: str, offset: int | None) -> int:
        found = self.maps.get(name)
        if found is None:
            raise KwireError("run eBPF program", name, "the program uses a map that it does not declare")
        if offset is None:
            return found.address
        if not isinstance(found, ArrayMap):
            raise KwireError("run eBPF program", name, "only the value of an array map has an address")
        return found.region(0).base + offset

    def _all_maps(self) -> Iterator[Map]:
        for found in self.maps.values():
            yield found
            if isinstance(found, MapArray):
                yield from (inner for inner in found.inner if inner is not None)

    def map_at(self, address: int) -> Map | None:
        """The map that a program sees at an address."""
        return self._by_address.get(address)

    def rings(self) -> list[RingMap]:
        """All ring buffers, those inside of arrays too."""
        return [found for found in self._by_address.values() if isinstance(found, RingMap)]

    def run(self, ctx: bytes | bytearray = b"", *, r2: int | None = None, packet: bytes = b"") -> Result:
        """Runs the program once, r1 pointing to a copy of `ctx` (a bytearray is used and written itself).

        `r2`: its value at the start, where there is one; `packet`: what legacy packet loads read.
        Raises `MachineError`.
        """
        data = ctx if isinstance(ctx, bytearray) else bytearray(ctx)
        region = self.space.add(data, "ctx", writable=not self.kind)
        run = Run(self, packet)
        try:
            r0 = run.execute(0, (region.base,) if r2 is None else (region.base, r2))
            for ring in self.rings():
                if ring.outstanding:
                    cause = f"a record of {ring.spec.name} is neither submitted nor discarded"
                    raise run.error(cause)
        finally:
            self.space.remove(region)
        rings = {ring.spec.name: ring.take() for ring in self.rings()} if self.keep_reading else {}
        emitted = [record for records in rings.values() for record in records]
        return Result(r0, emitted, rings, run.faults, run.printed, run.signals, run.count)


def registers(
    args: Sequence[int] = (),
    *,
    retval: int | None = None,
    ip: int = 0,
    sp: int = 0,
    arch: arches.Arch | None = None,
) -> bytes:
    """The context of a kprobe or kretprobe: pt_regs with a function's arguments, or its return value."""
    arch = arch or arches.host()
    values = dict.fromkeys(range(0, arch.size, 8), 0)
    values |= {arch.ip: ip, arch.sp: sp} | dict(zip(arch.args, args, strict=False))
    if retval is not None:
        values[arch.ret] = retval
    return arguments([values[at] for at in sorted(values)])


def arguments(args: Sequence[int] = (), *, retval: int | None = None) -> bytes:
    """The context of a raw tracepoint, fentry or fexit program: 64-bit arguments, then the return value."""
    values = [*args] if retval is None else [*args, retval]
    return struct.pack(f"<{len(values)}Q", *(value & (1 << 64) - 1 for value in values))


def main(argv: Sequence[str], program: str | None = None) -> str:
    """The bpf_conformance plugin: `[MEMORY_HEX] [--program HEX]`; gives r0 in hex.

    `program`: its hex where it is not in the arguments. Raises `KwireError`.
    """
    arguments = list(argv)
    if "--program" in arguments:
        at = arguments.index("--program")
        program = "".join(arguments[at + 1 : at + 2])
        del arguments[at : at + 2]
    try:
        code = bytes.fromhex(program or "")
        memory = bytearray.fromhex("".join(arguments))
    except ValueError as error:
        raise KwireError("read arguments of", "kwire.bpf.vm", str(error), "give bytes in hex") from None
    return f"{Machine(code).run(memory, r2=len(memory)).r0:x}"


if __name__ == "__main__":
    try:
        print(main(sys.argv[1:], None if "--program" in sys.argv else sys.stdin.read()))
    except KwireError as failure:
        sys.exit(f"kwire.bpf.vm: {failure}")
