"""System calls by raw tracepoint: a probe on `syscalls:sys_enter_NAME` or `sys_exit_NAME` made cheaper.

For an ordinary tracepoint the kernel copies the call's arguments into a record before our program runs. The
raw tracepoints `sys_enter` and `sys_exit` skip that and save a fifth of an event's cost, but run at every
system call of the machine: so the rewritten program compares the call's number before anything else, and
only one probe of a trace is carried out so.

Invariants: the events are those of the ordinary tracepoint, byte for byte, and so are the firings that count
as events (calls made the 32-bit way, whose numbers mean other calls, are none); what is not known for certain
(the name's number, the machine, a field of another shape) leaves the probe an ordinary tracepoint.

The numbers are part of the kernel's ABI and never change; a test compares them with what the running kernel
says of itself (`struct syscall_metadata`).
"""

from kwire.bpf.arch import Arch
from kwire.btf.blob import Btf
from kwire.btf.errors import BtfLookupError
from kwire.btf.members import locate
from kwire.btf.types import Kind
from kwire.hints import Final, TypeVar
from kwire.lang import types as t
from kwire.lang.checked import (
    Binary,
    Compare,
    Const,
    Context,
    DataLocAddress,
    Expr,
    Logic,
    Param,
    Program,
    Stack,
)
from kwire.lang.context import Argument, CtxField, Saved, Site, TaskMember
from kwire.lang.forms import Node, rewrite
from kwire.lang.tree import NOWHERE
from kwire.wire.names import SYSCALLS

GROUP = "syscalls:"
ENTER, EXIT = "sys_enter", "sys_exit"

NUMBER_AT = CtxField(8, 4)
"""Where a record of either tracepoint has the call's number."""

ARGUMENTS_AT = 16
"""Where it has the first argument, in 8 bytes as all of them; on exit, what the call returned."""

TS_COMPAT: Final = 2
"""In `thread_info.status` on x86: the current system call was made the 32-bit way."""


_Node = TypeVar("_Node", bound=Node)


class _UnfitError(Exception):
    """The program wants something that the raw tracepoint has not got."""


def is_syscall(site: Site) -> bool:
    """Whether the site is the entry to or the exit from one system call."""
    return site.kind == "tracepoint" and site.target.startswith((f"{GROUP}{ENTER}_", f"{GROUP}{EXIT}_"))


def by_raw_tracepoint(program: Program, btf: Btf, arch: Arch) -> Program | None:
    """The program rewritten for the raw tracepoint; None where it has to stay what it is.

    `btf`: the running kernel's; `arch`: its machine. Fields and their layout are unchanged.
    """
    where, _, name = program.site.target.removeprefix(GROUP + "sys_").partition("_")
    number = SYSCALLS.get(arch.machine, {}).get(name)
    if number is None:
        return None
    try:
        task = btf.find("task_struct", Kind.STRUCT)
        status = locate(btf, task, "thread_info.status").offset_bits // 8
        access = _accesses(f"sys_{where}", arch)
        body = tuple(_rewritten(statement, number, access) for statement in program.body)
        filter = None if program.filter is None else _rewritten(program.filter, number, access)
    except (BtfLookupError, _UnfitError):
        return None
    site = Site("rawtracepoint", f"sys_{where}", ())
    guard = _guard(site.target, number, status, arch)
    return program.replace(site=site, body=body, filter=filter, guard=guard)


def _accesses(where: str, arch: Arch) -> dict[int, Argument | Saved]:
    """Offset in the ordinary tracepoint's record → where the raw one finds the same."""
    if where == EXIT:
        return {ARGUMENTS_AT: Argument(1)}
    return {ARGUMENTS_AT + 8 * index: Saved(register) for index, register in enumerate(arch.syscall_args)}


def _guard(where: str, number: int, status: int, arch: Arch) -> Expr:
    """Whether this is the call meant: its number, then that it was not made the 32-bit way."""
    given = Argument(1) if where == ENTER else Saved(arch.registers["orig_ax"])
    call = Compare("eq", Param("id", given, t.S32, NOWHERE), _const(number), False, t.BOOL, NOWHERE)
    flags = Param("status", TaskMember(status), t.U32, NOWHERE)
    compat = Binary("and", flags, _const(TS_COMPAT), t.S64, NOWHERE)
    return Logic("and", call, Compare("eq", compat, _const(0), False, t.BOOL, NOWHERE), t.BOOL, NOWHERE)


def _const(value: int) -> Const:
    return Const(value, t.S32, NOWHERE)


def _rewritten(node: _Node, number: int, access: dict[int, Argument | Saved]) -> _Node:
    """The same statement or expression with every read of the record replaced. Raises _UnfitError."""

    def change(one: Node) -> Node | None:
        if isinstance(one, Context | DataLocAddress):
            raise _UnfitError
        if isinstance(one, Stack) and not one.table.user:
            raise _UnfitError  # it would begin elsewhere
        if not isinstance(one, Param) or not isinstance(one.access, CtxField):
            return None
        if one.access == NUMBER_AT:
            return Const(number, one.type, one.span)
        if one.access.offset not in access:
            raise _UnfitError
        return one.replace(access=access[one.access.offset])

    return rewrite(node, change)
