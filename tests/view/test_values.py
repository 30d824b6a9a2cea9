"""Values as people read them: displays, flags, and that they stay numbers for programs."""

from __future__ import annotations

from typing import Any

import pytest

from kwire.view.table import Table
from kwire.view.values import displayed, flags, json_converter, text_converter
from kwire.view.where import Where
from kwire.wire.fields import DISPLAYS
from kwire.wire.frames import Frames
from kwire.wire.names import SYSCALLS, tables
from kwire.wire.schema import Field, Labels, Schema, SchemaReader

OPEN = tables("x86_64")["open"]
MMAP = tables("x86_64")["mmap"]
SOCKET = tables("x86_64")["socket"]


def travelled(one: Schema) -> Schema:
    """The schema as it comes out of its frames."""
    reader = SchemaReader()
    read = [reader.add(frame) for data in one.frames() for frame in Frames.walk(data)]
    assert read[-1] is not None
    return read[-1]


def field(display: str, **changes: Any) -> Field:
    return Field("x", "s64", 16, 8, display=display)._replace(**changes)


def schema(one: Field) -> Schema:
    return Schema(1, "kprobe:f", "kprobe", "f", (one,), 24, enums={"opens": OPEN.names})


@pytest.mark.parametrize(
    ("display", "value", "text"),
    [
        ("hex", 4096, "0x1000"),
        ("octal", 0o644, "0644"),
        ("octal", 0, "0"),
        ("errno", -2, "-ENOENT"),
        ("errno", -512, "-ERESTARTSYS"),
        ("errno", -4000, "-4000"),
        ("errno", -5000, "-5000"),
        ("errno", 2, "2"),
        ("address", -12, "-ENOMEM"),
        ("address", 0x7F0000001000, "0x7f0000001000"),
        ("address", -(1 << 62), "0xc000000000000000"),
        ("fd", -100, "AT_FDCWD"),
        ("fd", 0xFFFFFF9C, "AT_FDCWD"),
        ("fd", 3, "3"),
        ("fd", 0xFFFFFFFF, "-1"),
        ("dev", 8 << 20 | 17, "8:17"),
        ("user_dev", 0x0801, "8:1"),
        ("user_dev", 0x12300845, "8:74565"),
        ("signal", 9, "SIGKILL"),
        ("signal", 99, "99"),
        ("family", 2, "AF_INET"),
        ("flags", 0x80000, "O_RDONLY|O_CLOEXEC"),
        ("what nobody knows", 5, "5"),
        ("", 5, "5"),
    ],
)
def test_what_people_read(display: str, value: int, text: str) -> None:
    one = field(display, table="opens", mask=OPEN.mask) if display == "flags" else field(display)
    made = schema(one)
    assert text_converter(made, one, Labels(made))(value) == text
    assert json_converter(made, one, Labels(made)) is None, "JSON has the number"


def test_every_display_has_its_form() -> None:
    for name in DISPLAYS:
        one = field(name)
        assert displayed(schema(one), one) is not None


@pytest.mark.parametrize(
    ("value", "table", "text"),
    [
        (0, OPEN, "O_RDONLY"),
        (0x241, OPEN, "O_WRONLY|O_CREAT|O_TRUNC"),
        (0x101000, OPEN, "O_RDONLY|O_SYNC"),
        (0x410000, OPEN, "O_RDONLY|O_TMPFILE"),
        (3, OPEN, "3"),
        (0x8000003, OPEN, "0x3|0x8000000"),
        (0x22, MMAP, "MAP_PRIVATE|MAP_ANONYMOUS"),
        (0x20, MMAP, "MAP_ANONYMOUS"),
        (0x80001, SOCKET, "SOCK_STREAM|SOCK_CLOEXEC"),
        (5, SOCKET, "SOCK_SEQPACKET"),
        (-1, OPEN, None),
    ],
)
def test_flags_of_system_calls(value: int, table: Any, text: str | None) -> None:
    shown = flags(table.names, table.mask)(value)
    assert shown == text if text is not None else shown


def test_any_type_may_have_any_display() -> None:
    for type in ("str", "text", "ipv4", "bool", "raw", "mac"):
        one = Field("x", type, 16, {"ipv4": 4, "mac": 6}.get(type, 4), display="errno")
        if type != "bool":
            assert displayed(schema(one), one) is None


def test_flags_stand_in_the_order_of_their_table_and_the_widest_is_taken_first() -> None:
    gfp_table = {0: "none", 0x500: "USER", 0xD00: "KERNEL", 0x100: "ZERO", 0x400: "RECLAIM", 0x800: "KSWAPD"}
    one = Field("x", "u64", 16, 8, display="flags", table="gfp")
    schema_ = travelled(Schema(1, "kprobe:f", "kprobe", "f", (one,), 24, enums={"gfp": gfp_table}))
    gfp = flags(schema_.enums["gfp"])
    assert [gfp(value) for value in (0, 0xD00, 0xD01, 0x900, 0x500)] == [
        "none", "KERNEL", "KERNEL|0x1", "ZERO|KSWAPD", "USER"
    ]  # fmt: skip


@pytest.mark.parametrize("value", [0, 0x100000, 0x11D00001, 0xC000001, 0x140000])
def test_what_is_shown_of_flags_can_be_compared_with(value: int) -> None:
    """Of a field that the kernel prints under a mask (timer_start), with bits that have no name."""
    one = Field("x", "u32", 16, 4, display="flags", table="timer")
    schema_ = Schema(1, "k:f", "k", "f", (one,), 24, enums={"timer": {0x40000: "M", 0x100000: "P"}})
    show = displayed(schema_, one)
    assert show is not None
    assert Where(f"x == '{show(value)}'").test(schema_)(0, (value,))
    assert not Where(f"x == '{show(value)}'").test(schema_)(0, (value + 2,))


@pytest.mark.parametrize(
    ("machine", "call", "result", "shown"),
    [
        ("aarch64", 222, 0x7F0000001000, "id=mmap ret=0x7f0000001000"),
        ("aarch64", 222, -12, "id=mmap ret=-ENOMEM"),
        ("aarch64", 56, 4096, "id=openat ret=4096"),
        ("aarch64", 56, -2, "id=openat ret=-ENOENT"),
        ("aarch64", 435, 0, "id=clone3 ret=0"),
        ("aarch64", 4000, 1, "id=4000 ret=1"),
        ("x86_64", 9, 0x7F0000001000, "id=mmap ret=0x7f0000001000"),
        ("x86_64", 222, 3, "id=timer_create ret=3"),
    ],
)
def test_system_calls_of_a_machine_by_what_its_schema_says(
    machine: str, call: int, result: int, shown: str
) -> None:
    table = tables(machine)["syscall"]
    fields = (
        Field("id", "s64", 16, 8, display="flags", table="names of syscall", mask=table.mask),
        Field("ret", "s64", 24, 8, display="errno"),
    )
    enums = {"names of syscall": table.names}
    made = Schema(1, "p", "tracepoint", "raw_syscalls:sys_exit", fields, 32, enums=enums)
    packed = travelled(made)
    view = Table([packed])
    assert view.event(packed)(0, (call, result))[-1] == shown
    where = Where("id == 'openat' or id == mmap")
    where.check([packed])
    names = {number: name for name, number in SYSCALLS[machine].items()}
    assert where.test(packed)(0, (call, result)) is (names.get(call) in ("openat", "mmap"))
