"""The interpreter as users meet it: contexts, memory, maps, rings, helpers, and what it refuses."""

import struct
from typing import Any

import pytest

from kwire.bpf import arch, asm, text, vm, vm_maps
from kwire.bpf.asm import R0, R1, R2, R3, R4, R5, R6, R7, R10, Item, Label
from kwire.bpf.helpers import HELPERS, NAMES
from kwire.bpf.image import Image, Line, MapSpec
from kwire.bpf.insn import FORMS, InsnError
from kwire.bpf.vm import Machine, MachineError, Memory, arguments, registers
from kwire.bpf.vm_helpers import SIMULATED
from kwire.bpf.vm_memory import AddressSpace
from kwire.bpf.vm_run import OPERATIONS
from kwire.errors import KwireError

RING = MapSpec("ring", "ringbuf", 0, 0, 4096)
RINGS = MapSpec("rings", "array_of_maps", 4, 4, 2, inner=RING)
COUNTS = MapSpec("counts", "array", 4, 16, 1)
TASKS = MapSpec("tasks", "hash", 4, 1, 2)
SCRATCH = MapSpec("scratch", "percpu_array", 4, 8, 2)


def helper(name: str) -> Item:
    return asm.call(HELPERS[name].id)


def image(
    *items: Item, maps: tuple[MapSpec, ...] = (), kind: str = "kprobe", lines: tuple[Line, ...] = ()
) -> Image:
    return asm.image("probe", kind, [*items, asm.exit_()], maps, lines)


def run_text(source: str, **environment: Any) -> vm.Result:
    return Machine(text.parse(source), **environment).run()


def test_every_operation_of_the_table_has_its_action() -> None:
    assert {form.op for form in FORMS} == set(OPERATIONS)
    assert set(SIMULATED) <= set(HELPERS)


# ------------------------------------------------------------------ contexts


@pytest.mark.parametrize("machine", ["x86_64", "arm64"])
def test_registers_make_the_context_of_a_kprobe(machine: str) -> None:
    row = arch.named(machine)
    ctx = registers([11, -1], retval=None, ip=0xABC, sp=0xDEF, arch=row)
    for at, value in ((row.args[0], 11), (row.args[1], (1 << 64) - 1), (row.ip, 0xABC), (row.sp, 0xDEF)):
        assert Machine(image(asm.ldx("dw", R0, R1, at))).run(ctx).r0 == value
    assert len(ctx) == row.size


def test_arguments_make_the_context_of_fentry() -> None:
    assert arguments([1, -1], retval=7) == struct.pack("<QqQ", 1, -1, 7)


@pytest.mark.parametrize(("kind", "writable"), [("kprobe", False), ("tracepoint", False), ("", True)])
def test_only_a_bare_program_may_write_its_context(kind: str, writable: bool) -> None:
    code = image(asm.st("b", R1, 7, 0), asm.mov64(R0, 0)).code
    memory = bytearray(2)
    machine = Machine(code, kind=kind)
    if writable:
        machine.run(memory)
        assert memory == b"\7\0"
    else:
        with pytest.raises(MachineError, match=r"writes to ctx\+0, which is read-only"):
            machine.run(memory)


# ------------------------------------------------------------------ probed memory


def read(name: str, size: int, address: int) -> Image:
    """Reads 8 bytes at most to the stack and emits them; r0 is what the helper said."""
    return image(
        asm.st("dw", R10, -1, -8),
        asm.mov64(R1, R10),
        asm.alu64("add", R1, -8),
        asm.mov64(R2, size),
        asm.constant(R3, address),
        helper(name),
        asm.mov64(R6, R0),
        asm.map_fd(R1, "ring"),
        asm.mov64(R2, R10),
        asm.alu64("add", R2, -8),
        asm.mov64(R3, 8),
        asm.mov64(R4, 0),
        helper("ringbuf_output"),
        asm.mov64(R0, R6),
        maps=(RING,),
    )


KERNEL, USER, FF = 0xFFFF_8880_0000_1000, 0x7F00_0000_1000, b"\xff"
EFAULT, ERANGE = -14, -34
PROBES = [
    ("probe_read_kernel", 8, KERNEL, 0, b"abcdefg\0"),
    ("probe_read_kernel", 3, KERNEL + 1, 0, b"bcd" + FF * 5),
    ("probe_read_kernel", 8, KERNEL + 4, EFAULT, bytes(8)),
    ("probe_read_kernel", 3, KERNEL - 1, EFAULT, bytes(3) + FF * 5),
    ("probe_read_kernel", 8, 0, ERANGE, bytes(8)),
    ("probe_read_kernel", 0, 0, ERANGE, FF * 8),
    ("probe_read_kernel", 0, KERNEL, 0, FF * 8),
    ("probe_read_kernel", 8, USER, ERANGE, bytes(8)),
    ("probe_read_user", 8, USER, 0, b"user str"),
    ("probe_read_user", 8, 0, EFAULT, bytes(8)),
    ("probe_read_user", 0, 0, 0, FF * 8),
    ("probe_read_user", 8, KERNEL, EFAULT, bytes(8)),
    ("probe_read", 4, KERNEL, 0, b"abcd" + FF * 4),
    ("probe_read", 4, USER, 0, b"user" + FF * 4),
    ("probe_read_kernel_str", 8, KERNEL + 4, 4, b"efg\0" + FF * 4),
    ("probe_read_kernel_str", 3, KERNEL, 3, b"ab\0" + FF * 5),
    ("probe_read_kernel_str", 1, KERNEL, 1, b"\0" + FF * 7),
    ("probe_read_kernel_str", 0, KERNEL, 0, FF * 8),
    ("probe_read_kernel_str", 8, 0, ERANGE, bytes(8)),
    ("probe_read_user_str", 8, USER, 8, b"user st\0"),
    ("probe_read_user_str", 8, USER + 20, EFAULT, bytes(8)),
    ("probe_read_str", 8, KERNEL + 6, 2, b"g\0" + FF * 6),
]


@pytest.mark.parametrize(("name", "size", "address", "r0", "data"), PROBES)
def test_probing_memory(name: str, size: int, address: int, r0: int, data: bytes) -> None:
    machine = Machine(read(name, size, address), memory={KERNEL: b"abcdefg\0", USER: b"user string, no end"})
    result = machine.run()
    assert result.r0 == r0 & (1 << 64) - 1
    assert result.emitted == [data]
    assert [fault.helper for fault in result.faults] == ([name] if r0 < 0 else [])


def test_memory_gives_addresses_and_takes_changes() -> None:
    memory = Memory()
    one, two = memory.kernel(bytes(16)), memory.kernel(b"x")
    name = memory.user(b"name\0")
    memory.put(one + 8, struct.pack("<Q", name))
    assert memory.read(one + 8, 8) == struct.pack("<Q", name)
    assert memory.read(one, 17) is None
    assert (memory.read(two, 1), memory.read(two - 1, 1), memory.read(two + 1, 1)) == (b"x", None, None)
    memory.put(two + 1, b"yz")
    assert memory.read(two, 3) == b"xyz"
    assert dict(memory.items())[name] == b"name\0"


def test_fentry_follows_kernel_pointers() -> None:
    memory = Memory()
    sock = memory.kernel(struct.pack("<QQ", 5, 6))
    program = image(asm.ldx("dw", R1, R1, 0), asm.ldx("dw", R0, R1, 8), kind="fentry")
    assert Machine(program, memory=memory).run(arguments([sock])).r0 == 6
    result = Machine(program).run(arguments([sock]))
    assert (result.r0, len(result.faults)) == (0, 1)
    with pytest.raises(MachineError, match="is not memory of this program"):
        Machine(program._replace(kind="kprobe"), memory=memory).run(arguments([sock]))


# ------------------------------------------------------------------ helpers

ANSWERS = [
    ("get_current_pid_tgid", {"pid": 7, "tid": 8}, 7 << 32 | 8),
    ("get_current_pid_tgid", {"pid": 7}, 7 << 32 | 7),
    ("get_current_uid_gid", {"uid": 1000, "gid": 100}, 100 << 32 | 1000),
    ("get_smp_processor_id", {"cpu": 3}, 3),
    ("get_numa_node_id", {"numa_node": 1}, 1),
    ("ktime_get_ns", {"monotonic_ns": 5}, 5),
    ("ktime_get_boot_ns", {"boot_ns": 6}, 6),
    ("ktime_get_tai_ns", {"tai_ns": 7}, 7),
    ("jiffies64", {"jiffies": 8}, 8),
    ("get_current_task", {"task": KERNEL}, KERNEL),
    ("get_current_cgroup_id", {"cgroup_id": 9}, 9),
    ("get_attach_cookie", {"cookie": 10}, 10),
    ("get_func_ip", {"func_ip": KERNEL}, KERNEL),
    ("get_func_arg_cnt", {"args": (1, 2)}, 2),
]


@pytest.mark.parametrize(("name", "environment", "answer"), ANSWERS)
def test_helpers_answer_from_the_environment(name: str, environment: dict[str, Any], answer: int) -> None:
    assert Machine(image(helper(name)), **environment).run().r0 == answer


def test_the_environment_may_change_between_runs() -> None:
    machine = Machine(image(helper("get_smp_processor_id")))
    machine.env.cpu = 5
    assert machine.run().r0 == 5


@pytest.mark.parametrize(("level", "answer"), [(0, 1), (1, 11), (2, 22), (3, 0)])
def test_ancestor_cgroups(level: int, answer: int) -> None:
    program = image(asm.mov64(R1, level), helper("get_current_ancestor_cgroup_id"))
    assert Machine(program, cgroup_id=22, cgroup_ancestors=(1, 11)).run().r0 == answer


def to_stack(name: str, size: int) -> list[Item]:
    """Calls a helper that fills memory (r1, r2) and returns its first 8 bytes."""
    return [
        asm.st("dw", R10, -1, -8),
        asm.mov64(R1, R10),
        asm.alu64("add", R1, -8),
        asm.mov64(R2, size),
        helper(name),
        asm.ldx("dw", R0, R10, -8),
    ]


@pytest.mark.parametrize(("size", "data"), [(8, b"curl\0\xff\xff\xff"), (4, b"cur\0\xff\xff\xff\xff")])
def test_comm_is_cut_and_nothing_is_behind_it(size: int, data: bytes) -> None:
    result = Machine(image(*to_stack("get_current_comm", size)), comm="curl").run()
    assert result.r0 == int.from_bytes(data, "little")


def test_function_arguments_and_result() -> None:
    def reader(name: str, index: bool) -> Image:
        where = R3 if index else R2
        return image(
            asm.mov64(where, R10),
            asm.alu64("add", where, -8),
            *([asm.mov64(R2, 1)] if index else []),
            helper(name),
            asm.ldx("dw", R0, R10, -8),
            kind="fexit",
        )

    assert Machine(reader("get_func_arg", True), args=(5, 6)).run().r0 == 6
    assert Machine(reader("get_func_ret", False), retval=9).run().r0 == 9


def test_stacks_are_copied_innermost_first() -> None:
    program = image(
        asm.mov64(R2, R10),
        asm.alu64("add", R2, -24),
        asm.mov64(R3, 24),
        asm.mov64(R4, 1),
        helper("get_stack"),
        asm.mov64(R6, R0),
        asm.ldx("dw", R0, R10, -24),
        asm.alu64("add", R0, R6),
    )
    assert Machine(program, kernel_stack=[10, 20, 30]).run().r0 == 20 + 16


def test_printed_text_and_signals_are_told() -> None:
    program = image(
        asm.constant(R1, int.from_bytes(b"n=%d\0\0\0\0", "little")),
        asm.stx("dw", R10, R1, -8),
        asm.mov64(R1, R10),
        asm.alu64("add", R1, -8),
        asm.mov64(R2, 5),
        asm.mov64(R3, 16),
        asm.mov64(R4, 0),
        asm.mov64(R5, 0),
        helper("trace_printk"),
        asm.mov64(R1, 9),
        helper("send_signal"),
    )
    result = Machine(program).run()
    assert (result.printed, result.signals) == (["n=%d [0x10]"], [9])


def test_random_numbers_repeat() -> None:
    draw = helper("get_prandom_u32")
    program = image(draw, asm.mov64(R6, R0), draw, asm.alu64("xor", R0, R6))
    assert Machine(program).run().r0 == Machine(program).run().r0 != 0


def test_loops_call_back_until_told_to_stop() -> None:
    body, go_on = Label("body"), Label("go on")
    program = [
        asm.st("dw", R10, 0, -8),
        asm.mov64(R1, 10),
        asm.func(R2, body),
        asm.mov64(R3, R10),
        asm.alu64("add", R3, -8),
        asm.mov64(R4, 0),
        helper("loop"),
        asm.alu64("lsh", R0, 32),
        asm.ldx("dw", R1, R10, -8),
        asm.alu64("add", R0, R1),
        asm.exit_(),
        body,  # r1 = index, r2 = context
        asm.ldx("dw", R3, R2, 0),
        asm.alu64("add", R3, R1),
        asm.stx("dw", R2, R3, 0),
        asm.mov64(R0, 0),
        asm.jmp("lt", R1, 6, go_on),
        asm.mov64(R0, 1),
        go_on,
        asm.exit_(),
    ]
    assert Machine(asm.assemble(program)).run().r0 == 7 << 32 | sum(range(7))


def test_helpers_that_are_not_simulated_say_so() -> None:
    with pytest.raises(MachineError, match="the helper skb_store_bytes is not simulated"):
        Machine(image(helper_number("skb_store_bytes"))).run()


def helper_number(name: str) -> Item:
    return asm.call(NAMES.index(name))


# ------------------------------------------------------------------ maps


def lookup(name: str, key: int) -> list[Item]:
    return [
        asm.st("w", R10, key, -4),
        asm.map_fd(R1, name),
        asm.mov64(R2, R10),
        asm.alu64("add", R2, -4),
        helper("map_lookup_elem"),
    ]


def test_values_are_reached_directly_and_last() -> None:
    program = image(
        asm.map_value(R1, "counts", 8), asm.mov64(R0, 1), asm.atomic("add", "dw", R1, R0, 0), maps=(COUNTS,)
    )
    machine = Machine(program)
    machine.run()
    machine.run()
    counts = machine.maps["counts"]
    assert isinstance(counts, vm.ArrayMap)
    assert struct.unpack("<QQ", counts.value()) == (0, 2)
    counts.value()[8] = 40
    machine.run()
    assert counts.value()[8] == 41


def test_per_cpu_values_are_apart() -> None:
    absent = Label()
    program = image(
        *lookup("scratch", 1),
        asm.jmp("eq", R0, 0, absent),
        asm.ldx("dw", R1, R0, 0),
        asm.alu64("add", R1, 1),
        asm.stx("dw", R0, R1, 0),
        absent,
        asm.mov64(R0, 0),
        maps=(SCRATCH,),
    )
    machine = Machine(program)
    machine.run()
    machine.env.cpu = 1
    machine.run()
    machine.run()
    scratch = machine.maps["scratch"]
    assert isinstance(scratch, vm.ArrayMap)
    assert [int.from_bytes(scratch.value(1, cpu), "little") for cpu in (0, 1)] == [1, 2]


@pytest.mark.parametrize(("key", "found"), [(0, True), (1, False)])
def test_lookup_beyond_an_array_gives_null(key: int, found: bool) -> None:
    result = Machine(image(*lookup("counts", key), asm.alu64("rsh", R0, 63), maps=(COUNTS,))).run()
    assert result.r0 == found


def change(name: str, key: int, flags: int, call: str = "map_update_elem") -> list[Item]:
    return [
        asm.st("w", R10, key, -4),
        asm.st("b", R10, 1, -8),
        asm.map_fd(R1, name),
        asm.mov64(R2, R10),
        asm.alu64("add", R2, -4),
        asm.mov64(R3, R10),
        asm.alu64("add", R3, -8),
        asm.mov64(R4, flags),
        helper(call),
    ]


@pytest.mark.parametrize(
    ("key", "flags", "call", "r0"),
    [
        (5, 0, "map_update_elem", 0),
        (5, 1, "map_update_elem", -17),  # it is there
        (6, 1, "map_update_elem", 0),
        (6, 2, "map_update_elem", -2),  # it is not there
        (6, 4, "map_update_elem", -22),
        (5, 0, "map_delete_elem", 0),
        (6, 0, "map_delete_elem", -2),
    ],
)
def test_hash_maps_have_the_kernels_error_codes(key: int, flags: int, call: str, r0: int) -> None:
    machine = Machine(image(*change("tasks", key, flags, call), maps=(TASKS,)))
    tasks = machine.maps["tasks"]
    assert isinstance(tasks, vm.HashMap)
    tasks[(5).to_bytes(4, "little")] = b"\7"
    assert machine.run().r0 == r0 & (1 << 64) - 1
    assert ((5).to_bytes(4, "little") in tasks) == (call != "map_delete_elem" or key != 5)


def test_a_full_hash_map_refuses() -> None:
    machine = Machine(image(*change("tasks", 9, 0), maps=(TASKS,)))
    tasks = machine.maps["tasks"]
    assert isinstance(tasks, vm.HashMap)
    for n in range(2):
        tasks[n.to_bytes(4, "little")] = b"\1"
    assert machine.run().r0 == -7 & (1 << 64) - 1
    assert sorted(tasks) == [n.to_bytes(4, "little") for n in range(2)]


# ------------------------------------------------------------------ rings


def emit(size: int = 8) -> list[Item]:
    """Writes to the ring of this CPU; r0 is what ringbuf_output says."""
    none = Label()
    return [
        helper("get_smp_processor_id"),
        asm.stx("w", R10, R0, -4),
        asm.map_fd(R1, "rings"),
        asm.mov64(R2, R10),
        asm.alu64("add", R2, -4),
        helper("map_lookup_elem"),
        asm.jmp("eq", R0, 0, none),
        *[asm.st("dw", R10, n, -8 * n) for n in range(2, size // 8 + 2)],
        asm.mov64(R1, R0),
        asm.mov64(R2, R10),
        asm.alu64("add", R2, -8 - size),
        asm.mov64(R3, size),
        asm.mov64(R4, 1),
        helper("ringbuf_output"),
        none,
    ]


def test_each_cpu_has_its_ring() -> None:
    machine = Machine(image(*emit(), maps=(RINGS,)), cpu=1)
    result = machine.run()
    assert result.rings == {"rings[0]": [], "rings[1]": [(2).to_bytes(8, "little")]}
    assert result.emitted == [(2).to_bytes(8, "little")]
    assert machine.run().emitted == result.emitted


def test_a_cpu_without_a_ring_gives_null() -> None:
    machine = Machine(image(*emit(), maps=(RINGS,)), cpu=7)
    result = machine.run()
    assert (result.r0, result.emitted) == (0, [])


def test_a_ring_that_nobody_reads_fills_up() -> None:
    machine = Machine(image(*emit(56), maps=(RINGS,)))
    machine.keep_reading = False
    answers = [machine.run().r0 for _ in range(70)]
    room = 4096 // 64 - 1  # the kernel leaves one byte free: an exact fit is refused
    assert answers == [0] * room + [-11 & (1 << 64) - 1] * (70 - room)
    ring = machine.rings()[0]
    assert len(ring.take()) == room
    assert machine.run().r0 == 0


def test_reservations_can_be_made_to_fail() -> None:
    machine = Machine(image(*emit(), maps=(RINGS,)))
    machine.rings()[0].refuse = 1
    assert [machine.run().r0 for _ in range(2)] == [-11 & (1 << 64) - 1, 0]


def reserve(*fill: Item, end: str = "ringbuf_submit", size: int = 8) -> Image:
    none = Label()
    return image(
        asm.map_fd(R1, "ring"),
        asm.mov64(R2, size),
        asm.mov64(R3, 0),
        helper("ringbuf_reserve"),
        asm.jmp("eq", R0, 0, none),
        *fill,
        *([asm.mov64(R1, R0), asm.mov64(R2, 0), helper(end)] if end else []),
        none,
        asm.mov64(R0, 0),
        maps=(RING,),
    )


def test_reserved_records_are_submitted_or_discarded() -> None:
    fill = asm.st("dw", R0, 5, 0)
    assert Machine(reserve(fill)).run().emitted == [b"\5" + bytes(7)]
    assert Machine(reserve(fill, end="ringbuf_discard")).run().emitted == []
    assert Machine(reserve(size=1 << 20)).run().emitted == []


# ------------------------------------------------------------------ packets


PACKET = bytes([1, 2, 3, 4, 5])


@pytest.mark.parametrize(
    ("source", "r0"),
    [
        ("r0 = *(u32 *)skb[1]\nexit", 0x02030405),
        ("r0 = *(u16 *)skb[0]\nexit", 0x0102),
        ("r7 = 3\nr0 = *(u8 *)skb[r7 + 1]\nexit", 5),
        ("r0 = *(u32 *)skb[2]\nr0 += 1\nexit", 0),  # beyond the packet: the program ends with 0
        ("r7 = -1\nr0 = *(u8 *)skb[r7 + 0]\nr0 = 1\nexit", 0),
    ],
)
def test_legacy_packet_loads(source: str, r0: int) -> None:
    assert Machine(text.parse("r6 = r1\n" + source)).run(packet=PACKET).r0 == r0


# ------------------------------------------------------------------ what is refused

BAD = [
    ("r0 = *(u64 *)(r10 -8)", "reads stack byte -8, which was never written"),
    ("*(u32 *)(r10 -8) = 1\nr0 = *(u64 *)(r10 -8)", "reads stack byte -4, which was never written"),
    ("*(u64 *)(r10 +0) = 1", r"8 bytes at stack\+512 are outside of its 512 bytes"),
    ("*(u64 *)(r10 -4) = 1", r"8 bytes at stack\+508 are outside"),
    ("*(u64 *)(r10 -520) = 1", "8 bytes at stack-8 are outside of its 512 bytes"),
    ("r1 = 0\nr0 = *(u8 *)(r1 +8)", "a null pointer"),
    ("r1 = 0x123456789abc\nr0 = *(u8 *)(r1 +0)", "0x123456789abc is not memory of this program"),
    ("r0 = r3", "r3 is used before it has a value"),
    ("r0 = r1\ncall bpf_ktime_get_ns\nr0 = r1", "r1 is used before it has a value"),
    ("r1 = 1", "r0 is used before it has a value"),
    ("r2 = r1\ncall f\nexit\nf: r0 = r6", "r6 is used before it has a value"),
    ("call bpf_map_lookup_elem", "r2 is used before it has a value"),
    ("r1 = 5\nr2 = r10\ncall bpf_map_lookup_elem", "r1 = 0x5 is not a map"),
    ("r0 = 0\nagain: r0 += 1\ngoto again", "did not end within 1000000 instructions"),
    ("call f\nexit\nf: call f\nexit", "more than 8 functions deep"),
    ("*(u64 *)(r10 -8) = 0\nr1 = 1\nlock *(u32 *)(r10 -7) += r1", "not aligned"),
    ("r1 = 1\nr2 = 0\ncall bpf_ringbuf_submit", "r1 = 0x1 is not a reserved record"),
    ("r1 = r10\nr1 += -8\nr2 = 0\ncall bpf_get_current_comm", "get_current_comm with size 0"),
    ("call kernel-function#7", "kernel functions are not simulated"),
]


@pytest.mark.parametrize(("source", "message"), BAD)
def test_what_the_verifier_would_refuse(source: str, message: str) -> None:
    with pytest.raises(MachineError, match=message):
        Machine(text.parse(source + "\nexit")).run()


def test_errors_name_instruction_address_and_source() -> None:
    lines = tuple(Line(slot, "p.py", number, 1, "text") for slot, number in ((0, 3), (1, 4), (3, 5)))
    program = image(
        asm.mov64(R2, 16), asm.alu64("add", R2, 0), asm.ldx("w", R0, R2, 4), asm.mov64(R0, 0), lines=lines
    )
    with pytest.raises(MachineError) as caught:
        Machine(program).run()
    error = caught.value
    assert (error.pc, error.text, error.address) == (2, "r0 = *(u32 *)(r2 +4)", 20)
    assert error.line == lines[1]
    assert str(error) == ("run eBPF program instruction 2 (r0 = *(u32 *)(r2 +4)) from p.py:4: a null pointer")


@pytest.mark.parametrize(
    ("fill", "end", "message"),
    [
        ([asm.st("w", R0, 1, 0)], "ringbuf_submit", r"reads record of ring\+4, which was never written"),
        ([asm.st("dw", R0, 1, 0)], "", "a record of ring is neither submitted nor discarded"),
        ([asm.st("dw", R0, 1, 0), asm.alu64("add", R0, 8)], "ringbuf_submit", "is not a reserved record"),
        ([asm.st("dw", R0, 1, 8)], "ringbuf_submit", r"8 bytes at record of ring\+8 are outside"),
        ([asm.mov64(R7, R0)], "ringbuf_discard", "is not memory of this program"),
    ],
)
def test_records_must_be_whole_and_given_back(fill: list[Item], end: str, message: str) -> None:
    after = [asm.st("b", R7, 1, 0)] if end == "ringbuf_discard" else []
    program = reserve(*fill, end=end)
    if after:
        items: list[Item] = [
            asm.map_fd(R1, "ring"),
            asm.mov64(R2, 8),
            asm.mov64(R3, 0),
            helper("ringbuf_reserve"),
            asm.mov64(R7, R0),
            asm.mov64(R1, R0),
            asm.mov64(R2, 0),
            helper(end),
            *after,
            asm.mov64(R0, 0),
        ]
        program = image(*items, maps=(RING,))
    with pytest.raises(MachineError, match=message):
        Machine(program).run()


def test_unwritten_stack_cannot_be_emitted() -> None:
    program = image(
        asm.st("w", R10, 1, -8),
        asm.map_fd(R1, "ring"),
        asm.mov64(R2, R10),
        asm.alu64("add", R2, -8),
        asm.mov64(R3, 8),
        asm.mov64(R4, 0),
        helper("ringbuf_output"),
        maps=(RING,),
    )
    with pytest.raises(MachineError, match="reads stack byte -4, which was never written"):
        Machine(program).run()


def test_programs_are_checked_before_they_run() -> None:
    with pytest.raises(InsnError, match="field offset is 3, must be 0"):
        Machine(bytes.fromhex("0701030001000000 9500000000000000"))
    with pytest.raises(InsnError, match="known to an Image only"):
        Machine(asm.assemble([asm.lddw(R1, 5, src=1), asm.exit_()]))
    with pytest.raises(KwireError, match="is not known here"):
        Machine(image(asm.mov64(R0, 0), maps=(MapSpec("x", "bloom", 4, 4, 1),)))


def test_a_call_by_register_calls_the_helper_of_that_number() -> None:
    assert run_text("r2 = 5\ncallx r2\nexit", monotonic_ns=77).r0 == 77


def test_maps_of_each_cpu_that_forget_keep_the_newest_keys() -> None:
    space = AddressSpace()
    held = vm_maps.create(MapSpec("m", "lru_percpu_hash", 4, 8, 2), space)
    keys = [number.to_bytes(4, "little") for number in range(3)]
    for number, key in enumerate(keys):
        assert held.update(key, number.to_bytes(8, "little"), 0, number % 2) == 0
    assert [bool(held.lookup(key, 0)) for key in keys] == [False, True, True]
    assert held.lookup(keys[1], 0) != held.lookup(keys[1], 1)
