"""The tables of built-ins and functions are complete, consistent, and what the reference is made from."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kwire.kinds import KINDS
from kwire.lang import builtins, types
from kwire.lang.checked import Program
from kwire.lang.functions import HANDLERS


def test_every_function_has_a_handler_and_every_handler_a_function() -> None:
    assert HANDLERS.keys() | {"cast", "emit", "exit", "glob", "offsetof", "print"} == builtins.FUNCTION.keys()
    assert len(builtins.FUNCTION) == len(builtins.FUNCTIONS)


def test_every_builtin_is_typed_somehow() -> None:
    for one in builtins.BUILTINS:
        known = one.type is not None or one.type_name or one.macro or one.name in ("retval", "args")
        assert known, one.name
        assert not one.operation or one.operation in builtins.OPERATIONS
        assert set(one.kinds) <= set(KINDS)
    named = {one.operation for one in builtins.BUILTINS if one.operation}
    assert named | {"context"} == builtins.OPERATIONS.keys()  # which scripts alone have a name for


def test_the_reference_names_everything() -> None:
    text = builtins.markdown()
    for one in builtins.BUILTINS:
        assert f"| `{one.name}` |" in text
    for function in builtins.FUNCTIONS:
        assert f"| `{function.form}` | {function.doc} |" in text
    assert all(line.count("|") in (3, 5) for line in text.splitlines() if line)


@pytest.mark.parametrize("name", [name for name in builtins.BY_NAME if name not in ("args", "retval")])
def test_every_builtin_compiles_where_it_exists(compiled: Callable[..., Program], name: str) -> None:
    places = {
        "kprobe": "kprobe:connect",
        "kretprobe": "kretprobe:read",
        "fentry": "fentry:connect",
        "fexit": "fexit:read",
        "tracepoint": "tracepoint:toy:all",
        "rawtracepoint": "rawtracepoint:switch",
        "interval": "interval:s:1",
        "profile": "profile:hz:99",
        "uprobe": "uprobe:/bin/toy:work",
        "uretprobe": "uretprobe:/bin/toy:work",
        "usdt": "usdt:/bin/toy:shop:sold",
        "software": "software:page-faults:1",
        "hardware": "hardware:cycles",
        "watchpoint": "watchpoint:0x1000:8:w",
        "iter": "iter:task",
        "self": "self:signal:SIGUSR1",
        "begin": "begin",
        "end": "end",
    }
    assert places.keys() == set(KINDS)
    for kind in builtins.BY_NAME[name].kinds:
        (field,) = compiled(f"emit({name})", places[kind]).shapes[0].fields
        assert field.name == name


def test_types_of_equal_contents_are_not_the_same() -> None:
    assert types.Text(4) != types.Bytes(4)
    assert types.BOOL
    assert types.BOOL != types.VOID
    assert types.Int(4, False) == types.U32
    assert types.Int(4, False, "ipv4") != types.U32


@pytest.mark.parametrize(
    ("type_", "text"),
    [
        (types.S8, "an s8"),
        (types.U16, "a u16"),
        (types.CHAR, "a char"),
        (types.Pointer(types.CHAR), "a char *"),
        (types.Pointer(types.Pointer(types.VOID, "user"), "user"), "a void __user * __user *"),
        (types.Array(types.Array(types.U8, 3), 2), "a u8[2][3]"),
        (types.Array(types.U8, 0), "a u8[]"),
        (types.Array(types.U8, 16, "ipv6"), "an ipv6"),
        (types.Struct("sock", 8, 1), "a struct sock"),
        (types.Struct("", 8, 1, union=True), "a union {…}"),
        (types.Enum("", 4, True), "an enum"),
        (types.BOOL, "a bool"),
        (types.Text(3), "a text up to 3 bytes"),
    ],
)
def test_types_are_described(type_: types.Type, text: str) -> None:
    assert types.article(type_) == text
