"""Numbers of stacks, in the interpreter: the same for the same frames, another for all others, 0 where the
table is full, which is counted.
"""

import struct

import pytest

from kwire.bpf import vm
from kwire.bpf.arch import named
from kwire.bpf.counts import STACKS
from kwire.bpf.vm_maps import ArrayMap, HashMap
from kwire.btf.store import load_kernel
from kwire.compile.build import compile_probe
from kwire.compile.stacks import LOST, table_name
from kwire.errors import KwireError
from kwire.lang import record
from kwire.lang.builtins import STACKS_MOST
from kwire.lang.checked import StackTable
from kwire.lang.context import Site
from kwire.lang.kerneltypes import KernelTypes
from kwire.lang.python import parse_expression
from kwire.lang.tree import Source
from kwire.wire.schema import Schema, decode

KERNEL = [0xFFFFFFFF81000010, 0xFFFFFFFF81000020, 0xFFFFFFFF81000030]
USER = [0x401000, 0x401010]
SITE = Site("rawtracepoint", "sys_enter", ())


def machine(**fields: str) -> tuple[vm.Machine, Schema]:
    """A machine with a program that emits these expressions."""
    wanted = [(name, parse_expression(text, "x")) for name, text in fields.items()]
    program = record.program(SITE, KernelTypes(load_kernel()), wanted, Source("x", ""))
    made = compile_probe(program, id=1, spec="x", probes=1, cpus=1, tasks=False, arch=named("x86_64"))
    return vm.Machine(made.image, pid=100, tid=101), made.schemas[0]


def fire(made: vm.Machine, schema: Schema, kernel: list[int], user: list[int], pid: int = 100) -> list[int]:
    """The numbers of the stacks of an event."""
    made.env.kernel_stack, made.env.user_stack, made.env.pid = kernel, user, pid
    [frame] = made.run(bytes(64)).emitted
    values = decode(schema, frame)
    return [int(values[one.name]) for one in schema.fields if one.type == "stack"]  # type: ignore[arg-type]


def table(made: vm.Machine, which: StackTable) -> dict[bytes, int]:
    held = made.maps[table_name(which)]
    assert isinstance(held, HashMap)
    return {key: int.from_bytes(value, "little") for key, [value] in held.entries().items()}


def lost(made: vm.Machine) -> int:
    numbers = made.maps[STACKS]
    assert isinstance(numbers, ArrayMap)
    return int.from_bytes(numbers.value()[LOST : LOST + 8], "little")


def test_the_same_frames_have_the_same_number_and_no_others() -> None:
    made, schema = machine(k="kstack()", u="ustack()")
    first = fire(made, schema, KERNEL, USER)
    assert sorted(first) == [1, 2]
    assert fire(made, schema, KERNEL, USER) == first
    assert fire(made, schema, KERNEL[:2], USER) == [3, first[1]]
    assert fire(made, schema, KERNEL, USER[::-1])[1] == 4
    assert fire(made, schema, KERNEL, USER, pid=200) == [first[0], 5]  # addresses of another process
    kept = table(made, StackTable(True, 127, False, STACKS_MOST))
    assert kept[struct.pack("<128Q", 200, *USER, *[0] * 125)] == 5
    assert lost(made) == 0


def test_a_stack_without_frames_is_one_too_and_a_limit_cuts() -> None:
    made, schema = machine(k="kstack(2)", p='kstack(2, "perf")')
    [a, b] = fire(made, schema, KERNEL, USER)
    assert a == b == 1  # how it is shown makes no other
    assert fire(made, schema, KERNEL[:2], USER) == [1, 1]
    assert fire(made, schema, [], USER) == [2, 2]
    assert table(made, StackTable(False, 2, False, STACKS_MOST))[struct.pack("<3Q", 0, *KERNEL[:2])] == 1
    assert [field.display for field in schema.fields if field.type == "stack"] == ["bpftrace", "perf"]


def test_the_frames_of_a_stack_are_counted_as_far_as_its_limit_and_kept_nowhere() -> None:
    made, schema = machine(k="len(kstack())", two="len(kstack(2))", u='len(ustack(5, "build_id"))')
    made.env.kernel_stack, made.env.user_stack = KERNEL, USER
    [frame] = made.run(bytes(64)).emitted
    assert [decode(schema, frame)[one.name] for one in schema.fields[-3:]] == [3, 2, 2]
    made.env.kernel_stack = []
    [frame] = made.run(bytes(64)).emitted
    assert [decode(schema, frame)[one.name] for one in schema.fields[-3:]] == [0, 0, 2]
    assert not [name for name in made.maps if name.startswith(STACKS)]


def test_what_finds_no_room_is_told_as_no_stack_and_counted() -> None:
    made, schema = machine(k='kstack(3, "raw", 2)')
    numbers = [fire(made, schema, [n << 12], USER)[0] for n in (1, 2, 3, 4, 1, 2)]
    assert numbers == [1, 2, 0, 0, 1, 2]
    assert lost(made) == 2


def test_an_address_of_the_process_is_a_stack_of_one_frame() -> None:
    made, schema = machine(s="usym(0x401234)")
    assert fire(made, schema, KERNEL, USER) == [1]
    assert table(made, StackTable(True, 1, False, STACKS_MOST)) == {struct.pack("<2Q", 100, 0x401234): 1}


WRONG = {
    "kstack(0)": "a stack of 0 frames is not possible",
    "kstack(pid)": "what kstack takes must be constant",
    'kstack("pretty")': "a stack is not shown as pretty",
    'kstack("build_id")': "the kernel's stack has no build ids",
    "kstack() + 1": "a stack is no number to calculate with",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_with_a_stack_is_told(text: str) -> None:
    with pytest.raises(KwireError, match=WRONG[text].replace("(", "[(]")):
        machine(k=text)
