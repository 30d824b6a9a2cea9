"""How the numbers of attach points are shown: which get a display, and that it changes nothing else."""

from __future__ import annotations

import pytest

from kwire.lang import types as t
from kwire.lang.context import CtxField, Param, Result, Site
from kwire.lang.shown import OWN, displayed, shown
from kwire.wire.fields import DISPLAYS
from kwire.wire.names import tables


def display(target: str, name: str, type_: t.Type = t.S32, printed: str = "") -> str:
    site = Site("tracepoint", target, (Param(name, type_, CtxField(8, 8)),))
    made = shown(site, {name: printed} if printed else {}).params[0].type
    return made.display if isinstance(made, t.Int) else ""


@pytest.mark.parametrize(
    ("target", "name", "wanted"),
    [
        ("syscalls:sys_enter_openat", "flags", "open"),
        ("syscalls:sys_enter_openat", "dfd", "fd"),
        ("syscalls:sys_enter_openat", "__syscall_nr", ""),
        ("syscalls:sys_enter_mmap", "flags", "mmap"),
        ("syscalls:sys_enter_mmap", "prot", "prot"),
        ("syscalls:sys_enter_mmap", "addr", "hex"),
        ("syscalls:sys_enter_mmap", "len", ""),
        ("syscalls:sys_enter_kill", "sig", "signal"),
        ("syscalls:sys_enter_socket", "family", "family"),
        ("syscalls:sys_enter_mknod", "dev", "user_dev"),
        ("syscalls:sys_enter_fallocate", "mode", ""),
        ("syscalls:sys_exit_openat", "ret", "errno"),
        ("syscalls:sys_exit_mmap", "ret", "address"),
        ("raw_syscalls:sys_enter", "id", "syscall"),
        ("raw_syscalls:sys_exit", "ret", "errno"),
        ("signal:signal_generate", "sig", "signal"),
        ("sched:sched_switch", "prev_pid", ""),
        ("rpm:rpm_return_int", "ret", "errno"),
    ],
)
def test_fields_of_tracepoints(target: str, name: str, wanted: str) -> None:
    assert display(target, name) == wanted


def test_what_the_kernel_prints_in_its_own_way_and_what_has_a_type_that_says_it() -> None:
    assert display("x:y", "address", t.U64, printed="hex") == "hex"
    assert display("x:y", "ret", t.U32) == "", "an unsigned number is no error"
    device = t.Int(4, False, "dev")
    assert display("x:y", "dev", device, printed="hex") == "dev"


def test_results_of_functions_and_arrays() -> None:
    site = Site("fexit", "f", (), Param("retval", t.S32, Result(1)))
    returned = shown(site).retval
    assert returned is not None
    assert returned.type == t.Int(4, True, "errno")
    unsigned = shown(site.replace(retval=Param("retval", t.U64, Result(1)))).retval
    assert unsigned is not None
    assert unsigned.type == t.U64
    assert displayed(t.Array(t.U64, 6), "hex") == t.Array(t.Int(8, False, "hex"), 6)
    assert displayed(t.CHAR, "hex") == t.CHAR
    assert t.describe(t.Int(4, True, "errno")) == "s32"


def test_every_display_exists() -> None:
    for place, name in OWN.items():
        assert not name or name in DISPLAYS or name in tables("x86_64"), place
