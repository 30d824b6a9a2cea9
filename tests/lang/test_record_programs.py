"""Sites of every kind, and the programs of `kwire record` that follow from them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import shown_tree

from kwire.btf.errors import BtfLookupError
from kwire.lang import attach_points, record, spec
from kwire.lang.check import filtered
from kwire.lang.context import Argument, CtxField, DataLoc, Result, Site, Slots
from kwire.lang.errors import LanguageError, UnknownNameError
from kwire.lang.kerneltypes import KernelTypes
from kwire.lang.python import parse_expression
from kwire.lang.tree import Source
from kwire.lang.types import describe

SITES = [
    ("kprobe:connect", ["sk: struct sock * arg0", "name: char * arg1", "flags: s32 arg2"], None),
    ("kprobe:read", ["file: struct file * arg0", "buf: char * arg1", "count: u64 arg2"], None),
    ("kretprobe:read", [], "s64 of 0"),
    ("fexit:connect", ["sk: struct sock * arg0", "name: char * arg1", "flags: s32 arg2"], "s32 of 3"),
    ("fentry:nothing", [], None),
    ("kretprobe:nothing", [], None),
    ("fentry:by_value", ["a: s32 arg0", "whole: struct common 5 from arg1", "b: s32 arg6"], None),
    ("kprobe:many", [f"p{n}: u64 arg{n}" for n in range(8)], None),
    ("fentry:many", [f"p{n}: u64 arg{n}" for n in range(8)], None),
    ("rawtracepoint:switch", ["preempt: bool arg0", "prev: struct sock * arg1"], None),
    (
        "tracepoint:syscalls:sys_enter_openat",
        ["__syscall_nr: s32 8/4", "dfd: s32 16/8", "filename: char __user * 24/8", "buf: char __user * 32/8"],
        None,
    ),
    (
        "tracepoint:toy:all",
        [
            "comm: char[16] 8/16",
            "pid: s32 24/4",
            "state: enum state 28/4",
            "saddr: u8[4] 32/4",
            "saddr_v6: u8[16] 36/16",
            "path: char[] at 52",
            "blob: u8[] from 56",
            "odd: void * 64/8",
            "mystery: s16 72/2",
            "ids: s32[2] 80/8",
        ],
        None,
    ),
]


@pytest.mark.parametrize(("where", "params", "retval"), SITES)
def test_a_site_offers(
    site: Callable[[str], Site], where: str, params: list[str], retval: str | None
) -> None:
    found = site(where)
    assert f"{found.kind}:{found.target}" == where
    assert found.typed
    shown = []
    for param in found.params:
        match param.access:
            case Argument(number=number):
                access = f"arg{number}"
            case Slots(first=first, size=size):
                access = f"{size // 8} from arg{first}"
            case CtxField(offset=offset, size=size):
                access = f"{offset}/{size}"
            case DataLoc(offset=offset, relative=relative):
                access = f"{'from' if relative else 'at'} {offset}"
            case _:
                access = "?"
        shown.append(f"{param.name}: {describe(param.type)} {access}")
    assert shown == params
    returned = None
    if found.retval is not None:
        assert isinstance(found.retval.access, Result)
        returned = f"{describe(found.retval.type)} of {found.retval.access.slots}"
    assert returned == retval


def test_a_function_without_prototype(types: KernelTypes) -> None:
    assert not attach_points.function("kprobe", "hidden", types).typed
    returned = attach_points.function("kretprobe", "hidden", types).retval
    assert returned is not None
    assert describe(returned.type) == "u64"
    for kind in ("fentry", "fexit"):
        with pytest.raises(BtfLookupError, match="there is no function connec; did you mean connect"):
            attach_points.function(kind, "connec", types)
    assert attach_points.function("kprobe", "connect", types, offset=4).target == "connect+4"


CONTEXT = "cpu: u16, pid: u32, tid: u32, comm: text up to 15 bytes"
RECORDS = [
    ("k:nothing", "", ""),
    ("k:connect", ", sk: struct sock *, name: char *, flags: s32", ", arg0, arg1, arg2.s32"),
    ("k:connect+8", "", ""),
    ("k:hidden", ", arg0: u64, arg1: u64, arg2: u64", ", arg0, arg1, arg2"),
    ("rt:hidden", ", arg0: u64, arg1: u64, arg2: u64", ", arg0, arg1, arg2"),
    ("kr:hidden", ", retval: u64", ", retval"),
    ("kr:nothing", "", ""),
    ("kr:read", ", retval: s64", ", retval"),
    (
        "fexit:read",
        ", file: struct file *, buf: char *, count: u64, retval: s64",
        ", arg0, arg1, arg2, retval",
    ),
    ("rt:switch", ", preempt: bool, prev: struct sock *", ", arg0.bool, arg1"),
    (
        "t:syscalls:sys_enter_openat",
        ", __syscall_nr: s32, dfd: s32, filename: text up to 256 bytes, buf: char __user *",
        ", s32[ctx+8], s32(s64[ctx+16]), text<=256[user char __user *[ctx+24]], char __user *[ctx+32]",
    ),
    (
        "t:toy:all",
        ", args_comm: char[16], args_pid: s32, state: enum state, saddr: ipv4, saddr_v6: ipv6, "
        "path: text up to 256 bytes, blob: up to 256 bytes, odd: void *, mystery: s16, ids: s32[2]",
        ", block(16)[ctx+8], s32[ctx+24], enum state[ctx+28], ipv4[ctx+32], block(16)[ctx+36], "
        "text<=256[data_loc(52)], bytes((u32[ctx+56] >> 16))<=256[rel_loc(56)], void *[ctx+64], "
        "s16[ctx+72], block(8)[ctx+80]",
    ),
    # expressions
    ("k:connect(sk.prio)", ", prio: s32", ", s32[arg0+40]"),
    (
        "k:connect(sk.prio, str(name), p=sk)",
        ", prio: s32, name: text up to 256 bytes, p: struct sock *",
        None,
    ),
    ("k:connect(pid, comm, flags, cpu, x=uid)", ", flags: s32, x: u32", ", arg2.s32, uid"),
    (
        "t:toy:all(pid, args.pid, args_comm, path)",
        None,
        ", s32[ctx+24], block(16)[ctx+8], text<=256[data_loc(52)]",
    ),
    (
        't:syscalls:sys_enter_openat(filename, raw=cast("char *", filename))',
        ", filename: text up to 256 bytes, raw: char __user *",
        None,
    ),
    ("t:toy:all(args.pid)", ", args_pid: s32", ", s32[ctx+24]"),
    (
        "t:toy:all(str(args.comm), x=1, y=args.pid + 1)",
        ", args_comm: text up to 16 bytes, x: s32, y: s64",
        None,
    ),
    ("t:toy:all(state == OPEN)", None, None),
]


def _record(types: KernelTypes, site: Callable[[str], Site], text: str, filter: str = "") -> str:
    parsed = spec.parse(text)
    where = site(str(parsed.point))
    made = record.program(where, types, parsed.expressions, parsed.source, parsed.condition)
    if filter:
        made = filtered(made, parse_expression(filter, "--filter"), Source("--filter", filter), types)
    return shown_tree.program(made)


@pytest.mark.parametrize(("text", "fields", "values"), RECORDS[:-1])
def test_a_recorded_event_holds(
    types: KernelTypes, site: Callable[[str], Site], text: str, fields: str | None, values: str | None
) -> None:
    first, event, emit = _record(types, site, text).splitlines()
    parsed = spec.parse(text)
    assert first == f"record on {parsed.point}"
    assert event.startswith(f"event {CONTEXT}")
    assert emit.startswith("emit cpu, pid, tid, comm")
    if fields is not None:
        assert event == f"event {CONTEXT}{fields}"
    if values is not None:
        assert emit == f"emit cpu, pid, tid, comm{values}"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("t:toy:all(state == OPEN)", "PROBE:1: this field has no name; write name=…"),
        ("t:toy:all(stat)", "PROBE:1: unknown name stat; did you mean state?"),
        ("k:connect(zzz)", "PROBE:1: unknown name zzz; connect has sk, name, flags"),
        ("k:connect(sk.common, a=sk.prioo)", "PROBE:1: this is a whole struct common; "),
        ("k:connect(a=1, a=2)", "PROBE:1: "),
        ("k:connect(sk.prio, sk.prio)", "PROBE:1: there are two fields prio; write name=… for one of them"),
    ],
)
def test_wrong_expressions_of_a_spec(
    types: KernelTypes, site: Callable[[str], Site], text: str, complaint: str
) -> None:
    with pytest.raises(LanguageError) as caught:
        _record(types, site, text)
    assert str(caught.value).startswith(complaint)


@pytest.mark.parametrize(
    ("text", "filter", "checked"),
    [
        ("t:toy:all", "pid == 42", "(pid == 42)"),
        ("t:toy:all", "args.pid == 42", "(s32[ctx+24] == 42)"),
        ("t:toy:all", "args_pid == 42", "(s32[ctx+24] == 42)"),
        ("t:toy:all", "state == OPEN and path == '/x'", None),
        ("t:toy:all", "ipv4(saddr) != '10.0.0.1'", None),
        ("t:syscalls:sys_enter_openat", "str(filename) == 'x'", None),
        ("k:connect", "sk.prio > 3", "(s32[arg0+40] > 3)"),
        ("k:connect", "not sk or flags", "(not arg0 or arg2.s32)"),
        ("kr:read", "retval < 0", "(retval < 0)"),
        ("k:hidden", "arg0 == 3", "(arg0 == 3)"),
    ],
)
def test_a_filter_is_checked_at_the_site(
    types: KernelTypes, site: Callable[[str], Site], text: str, filter: str, checked: str | None
) -> None:
    line = _record(types, site, text, filter).splitlines()[2]
    assert line.startswith("filter ")
    if checked is not None:
        assert line == f"filter {checked}"


def test_a_wrong_filter_shows_its_own_text(types: KernelTypes, site: Callable[[str], Site]) -> None:
    with pytest.raises(LanguageError) as caught:
        _record(types, site, "k:connect(sk.prio)", "sk.prio > 3 and sk.oops")
    assert caught.value.detail.splitlines()[1:] == [
        "    1 | sk.prio > 3 and sk.oops",
        "      |                    ^~~~",
    ]


def test_the_program_says_whose_text_its_filter_is(types: KernelTypes, site: Callable[[str], Site]) -> None:
    parsed = spec.parse("k:connect(sk.prio)")
    source = Source("--filter", "flags")
    program = record.program(site("kprobe:connect"), types, parsed.expressions, parsed.source)
    program = filtered(program, parse_expression("flags", "x"), source, types)
    assert program.filter_source is source
    assert program.source.text == "k:connect(sk.prio)"


def test_a_condition_of_its_own_is_part_of_the_program(
    types: KernelTypes, site: Callable[[str], Site]
) -> None:
    *_, test, emit = _record(types, site, 't:toy:all(x=1){ path ~ "/tmp/*{" and state != OPEN }').splitlines()
    assert test == "if ((text<=256[data_loc(52)] ~ '/tmp/*{') and (enum state[ctx+28] != 1))"
    assert emit == "  emit cpu, pid, tid, comm, 1"
    with pytest.raises(LanguageError) as caught:
        _record(types, site, "t:toy:all {pid == 1 and pad == 2}")
    assert caught.value.detail.splitlines()[1:] == [
        "    1 | t:toy:all {pid == 1 and pad == 2}",
        "      |                         ^~~",
    ]


def test_a_name_that_is_not_there_is_told_from_other_mistakes(
    types: KernelTypes, site: Callable[[str], Site]
) -> None:
    for text in ("nosuch == 1", "retval == 1", "args.nosuch == 1", "arg0 == 1"):
        with pytest.raises(UnknownNameError):
            _record(types, site, "t:toy:all", text)
    with pytest.raises(LanguageError) as caught:
        _record(types, site, "t:toy:all", 'args.pid == "x"')
    assert not isinstance(caught.value, UnknownNameError)
