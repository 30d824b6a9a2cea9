"""Values as people read them: displays, flags, and that they stay numbers for programs."""

from __future__ import annotations

from typing import Any

import pytest

from kwire.view.values import displayed, flags, json_converter, text_converter
from kwire.wire.fields import DISPLAYS
from kwire.wire.names import tables
from kwire.wire.schema import Field, Labels, Schema

OPEN = tables("x86_64")["open"]
MMAP = tables("x86_64")["mmap"]
SOCKET = tables("x86_64")["socket"]


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
    shown = flags(value, table.names, table.mask)
    assert shown == text if text is not None else shown


def test_any_type_may_have_any_display() -> None:
    for type in ("str", "text", "ipv4", "bool", "raw", "mac"):
        one = Field("x", type, 16, {"ipv4": 4, "mac": 6}.get(type, 4), display="errno")
        if type != "bool":
            assert displayed(schema(one), one) is None
