"""The built-in variables that the tree of all front ends does not have by the same name."""

import os
from collections.abc import Callable, Mapping

from kwire.hints import TYPE_CHECKING, Final
from kwire.kinds import KINDS
from kwire.lang import tree
from kwire.lang.bpftrace import syntax as s
from kwire.lang.bpftrace.constants import kind_word
from kwire.lang.bpftrace.functions import stack
from kwire.lang.bpftrace.library import member, username
from kwire.lang.errors import TextError
from kwire.lang.tree import Span

if TYPE_CHECKING:
    from kwire.lang.bpftrace.lower import Lowering


def probe(low: "Lowering", span: Span) -> tree.Expr:
    """The name of the probe."""
    return tree.String(low.full_name, span)


def probetype(low: "Lowering", span: Span) -> tree.Expr:
    """The kind of the probe."""
    return tree.String(kind_word(low.site.kind), span)


def func(low: "Lowering", span: Span) -> tree.Expr:
    """The function that the probe is on; that of a program by its name, which is known."""
    if not KINDS[low.site.kind].user:
        return tree.Name("func", span)
    from kwire.demangle import demangled  # few probes ask

    return tree.String(demangled(low.site.function), span)


def ctx(low: "Lowering", span: Span) -> tree.Expr:
    """The address of what the program is given."""
    return tree.Context(span)


def ncpus(low: "Lowering", span: Span) -> tree.Expr:
    """How many CPUs there can be."""
    return tree.Number(low.surroundings.cpus, span)


def cpid(low: "Lowering", span: Span) -> tree.Expr:
    """The command's process id."""
    if not low.surroundings.command:
        raise TextError(span, "there is no command", "give one: -c COMMAND")
    return tree.Number(low.surroundings.command, span)


def has_cpid(low: "Lowering", span: Span) -> tree.Expr:
    """Whether there is a command."""
    return tree.Number(int(low.surroundings.command > 0), span, True)


def elapsed(low: "Lowering", span: Span) -> tree.Expr:
    """Time since the script began."""
    began = tree.Number(low.surroundings.began, span)
    return tree.Binary("sub", tree.Name("nsecs", span), began, span)


def pcomm(low: "Lowering", span: Span) -> tree.Expr:
    """The name of the parent."""
    return member(tree.Name("curtask", span), "real_parent", "comm")


def compat(low: "Lowering", span: Span) -> tree.Expr:
    """Whether the current system call was made the 32-bit way."""
    if os.uname().machine not in COMPAT_FLAGS:  # we do not know how that is told
        return tree.Number(0, span, True)
    name, bit = COMPAT_FLAGS[os.uname().machine]
    flags = member(tree.Name("curtask", span), "thread_info", name)
    made = tree.Binary("and", flags, tree.Number(bit, span), span)
    return tree.Compare(made, (("ne", tree.Number(0, span)),), span)


COMPAT_FLAGS: Final = {"x86_64": ("status", 1 << 1), "aarch64": ("flags", 1 << 22)}
"""By machine: the member of `thread_info`, and the bit in it (TS_COMPAT, TIF_32BIT)."""


def leader_comm(low: "Lowering", span: Span) -> tree.Expr:
    """The name of the process' first thread."""
    return member(tree.Name("curtask", span), "group_leader", "comm")


def leader_tid(low: "Lowering", span: Span) -> tree.Expr:
    """The id of the process' first thread: the process' own."""
    return tree.Name("pid", span)


def kstack(low: "Lowering", span: Span) -> tree.Expr:
    """The kernel's stack."""
    return stack(low, s.Call("kstack", (), span, span))


def ustack(low: "Lowering", span: Span) -> tree.Expr:
    """The stack of the process."""
    return stack(low, s.Call("ustack", (), span, span))


def config(low: "Lowering", span: Span) -> tree.Expr:
    """Refuse: settings are named by a member."""
    raise TextError(span, "config alone is no value", "name a setting, as in config().max_strlen")


BUILTINS: Final["Mapping[str, Callable[[Lowering, Span], tree.Expr]]"] = {
    one.__name__: one
    for one in (
        probe,
        probetype,
        func,
        ctx,
        ncpus,
        cpid,
        has_cpid,
        elapsed,
        pcomm,
        compat,
        leader_comm,
        leader_tid,
        kstack,
        ustack,
        username,
        config,
    )
}
"""By name; each takes the place where the name is written."""
