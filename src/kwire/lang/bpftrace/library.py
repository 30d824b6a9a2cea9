"""Functions that are made of others: of tasks, of each CPU's variables, of maps and texts.

Invariant: each gives a tree that the checker would take from a script that says it at length.
"""

import os
import socket
from collections.abc import Callable, Mapping

from kwire.hints import TYPE_CHECKING, Final
from kwire.kinds import file_and_name
from kwire.lang import tree
from kwire.lang import types as t
from kwire.lang.bpftrace import syntax as s
from kwire.lang.bpftrace.constants import bytes_constant, constant, text_constant, values_given
from kwire.lang.bpftrace.maps import declaration, with_keys
from kwire.lang.errors import TextError
from kwire.lang.forms import walk
from kwire.lang.tree import Span
from kwire.words import article

if TYPE_CHECKING:
    from kwire.lang.bpftrace.lower import Lowering

ERRORS_MOST: Final = 4095
"""The greatest number of an error of the kernel: the last so many addresses are none, but errors."""

COMPARED_MOST: Final = 256
"""Bytes that are compared with as many."""

CLOCKS: Final = {"monotonic": "nsecs", "boot": "boottime", "tai": "tai", "sw_tai": "tai"}
"""The clocks that `nsecs` takes → the built-ins that tell them."""

NAMESPACES: Final = {"curr_ns": False, "init": True}
"""Where a process has its number: as kwire sees it, or as the kernel does."""


def member(value: tree.Expr, *names: str) -> tree.Expr:
    """A member of a member of a value."""
    for name in names:
        value = tree.Member(value, name, value.span, value.span)
    return value


def of_task(*names: str) -> "Callable[[Lowering, s.Call], tree.Expr]":
    """A function of a task."""
    return lambda low, node: member(low.expression(node.arguments[0]), *names)


def number(low: "Lowering", node: s.Call) -> tree.Expr:
    """The number of the process or thread in a namespace."""
    [where] = node.arguments
    if not isinstance(where, s.Name) or where.id not in NAMESPACES:
        raise TextError(where.span, "this is no namespace", f"write {node.function}(init), or (curr_ns)")
    if not NAMESPACES[where.id]:
        return tree.Name(node.function, node.span)
    return member(tree.Name("curtask", node.span), "tgid" if node.function == "pid" else "pid")


def symbol(low: "Lowering", node: s.Call) -> int:
    """The address of the kernel symbol that a call names first."""
    name = text_constant(low, node.arguments[0])
    if name is None:
        cure = f'write {node.function}("jiffies")'
        raise TextError(node.arguments[0].span, "the name is not a string", cure)
    address = low.surroundings.symbol(name)
    if address is None:
        raise TextError(node.span, f"the kernel has no symbol {name}")
    return address


def kaddr(low: "Lowering", node: s.Call) -> tree.Expr:
    """The address of a kernel symbol."""
    return tree.Number(symbol(low, node), node.span)


def percpu_kaddr(low: "Lowering", node: s.Call) -> tree.Expr:
    """Where a CPU, or this one, has its own of a kernel variable; 0 where there is no such CPU."""
    span, own = node.span, symbol(low, node)
    table = low.surroundings.symbol("__per_cpu_offset")
    if table is None:
        raise TextError(span, "this kernel does not tell where CPUs have their variables")
    if len(node.arguments) == 1:
        cpu: tree.Expr = tree.Name("cpu", span)
    else:
        cpu = low.expression(node.arguments[1])
        known = constant(low, node.arguments[1])
        if known is not None and not 0 <= known < low.surroundings.cpus:
            return tree.Cast("u64 *", tree.Number(0, span), span, span)
    offsets = tree.Cast("u64 *", tree.Number(table, span), span, span)
    place: tree.Expr = tree.Binary("add", tree.Index(offsets, cpu, span), tree.Number(own, span), span)
    if len(node.arguments) == 2:
        there = tree.Compare(tree.Cast("u64", cpu, span, span), (("lt", _cpus(low, span)),), span)
        place = tree.Conditional(there, place, tree.Number(0, span), span)
    return tree.Cast("u64 *", place, span, span)


def nsecs(low: "Lowering", node: s.Call) -> tree.Expr:
    """The time by a clock."""
    [clock] = node.arguments
    if not isinstance(clock, s.Name) or clock.id not in CLOCKS:
        cure = f"there are {', '.join(CLOCKS)}"
        raise TextError(clock.span, "this is no clock", cure)
    return tree.Name(CLOCKS[clock.id], node.span)


def reg(low: "Lowering", node: s.Call) -> tree.Expr:
    """A register of the machine."""
    name = text_constant(low, node.arguments[0])
    if name is None:
        raise TextError(node.arguments[0].span, "the name is not a string", 'write reg("ip")')
    given = (tree.String("ip" if name == "pc" else name, node.arguments[0].span),)
    return tree.Call("reg", given, (), node.span, node.function_span)


def pton(low: "Lowering", node: s.Call) -> tree.Expr:
    """A network address as it is on the wire: of IPv4 a number, of IPv6 16 bytes."""
    [given], span = node.arguments, node.span
    text = text_constant(low, given)
    if text is None:
        raise TextError(given.span, "the address is not a string", 'write pton("127.0.0.1")')
    try:
        wire = socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    except (OSError, ValueError):
        cure = 'write pton("127.0.0.1"), or pton("::1")'
        raise TextError(given.span, f"{text} is no network address", cure) from None
    if len(wire) == 4:
        return tree.Number(int.from_bytes(wire, "little"), span)
    return bytes_constant(wire, span)


def uaddr(low: "Lowering", node: s.Call) -> tree.Expr:
    """The address of a variable of the program: as far from where the probe is as in the program's file."""
    span, site = node.span, low.site
    name = text_constant(low, node.arguments[0])
    file, _, place = file_and_name(site.target)
    if name is None:
        raise TextError(node.arguments[0].span, "the name is not a string", 'write uaddr("name")')
    if site.kind != "uprobe":
        raise TextError(span, f"there is no uaddr at {article(site.kind)}", "use it in a uprobe")
    here, there = (low.surroundings.variable(file, one) for one in (place, name))
    if there is None:
        raise TextError(node.arguments[0].span, f"{file} has no variable {name}", "see what nm shows")
    if here is None:
        message = f"how far {name} is from {place} is not known"
        raise TextError(node.arguments[0].span, message, "name one function, as nm shows it, in the probe")
    words = (tree.String("ip", span),)
    address = tree.Binary(
        "add",
        tree.Call("reg", words, (), span, node.function_span),
        tree.Number(there[0] - here[0], span),
        span,
    )
    size = there[1] if there[1] in (1, 2, 4, 8) else 8
    return tree.Cast(f"u{8 * size} *", address, span, span)


def cgroupid(low: "Lowering", node: s.Call) -> tree.Expr:
    """The id of a control group, which is the number of its folder."""
    [given] = node.arguments
    path = text_constant(low, given)
    if path is None:
        raise TextError(given.span, "the path is not a string", 'write cgroupid("/sys/fs/cgroup/…")')
    try:
        return tree.Number(os.stat(path).st_ino, node.span)
    except (OSError, ValueError) as error:
        why = (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)
        raise TextError(given.span, f"{path}: {why}") from None


def _cpus(low: "Lowering", span: Span) -> tree.Expr:
    return tree.Number(low.surroundings.cpus, span)


def is_err(low: "Lowering", node: s.Call) -> tree.Expr:
    """Whether an address is an error."""
    span = node.span
    number = tree.Cast("s64", low.expression(node.arguments[0]), span, span)
    low_end = tree.Compare(number, (("lt", tree.Number(0, span)),), span)
    high_end = tree.Compare(number, (("ge", tree.Number(-ERRORS_MOST, span)),), span)
    return tree.Logic("and", (low_end, high_end), span)


def strlen(low: "Lowering", node: s.Call) -> tree.Expr:
    """Bytes of a text."""
    [text] = node.arguments
    known = text_constant(low, text)
    if known is not None:
        return tree.Number(len(known.encode("utf-8", "surrogateescape")), node.span)
    most = tree.Number(int(low.settings.get("max_strlen", 1024)), node.span)
    return tree.Call("len", (low.expression(text), most), (), node.span, node.function_span)


def memcmp(low: "Lowering", node: s.Call) -> tree.Expr:
    """0 where as many bytes are the same at two places, else 1."""
    *sides, size = node.arguments
    number, span = constant(low, size), node.span
    if number is None or not 0 < number <= COMPARED_MOST:
        raise TextError(size.span, f"the number of bytes is a constant from 1 to {COMPARED_MOST}")
    left, right = (
        tree.Call("bytes", (low.expression(one), tree.Number(number, span)), (), one.span, span)
        for one in sides
    )
    same = tree.Compare(left, (("eq", right),), span)
    return tree.Conditional(same, tree.Number(0, span), tree.Number(1, span), span)


def len_(low: "Lowering", node: s.Call) -> tree.Expr:
    """How many keys a map has: they are counted; how many frames a stack has."""
    [map] = node.arguments
    stack = (_given_once(low, map) or map) if isinstance(map, s.Var) else map
    if isinstance(stack, s.Name | s.Call) and _word(stack) in ("kstack", "ustack"):
        return tree.Call("len", (low.expression(stack),), (), node.span, node.function_span)
    if not isinstance(map, s.Map) or map.key is not None:
        cure = "write len(@map), len(kstack), or strlen(text)"
        raise TextError(map.span, "len takes a map with keys, or a stack", cure)
    with_keys(low, map, "len()")
    low.hoist(node.span)
    span, count = node.span, low.declare("")
    low.pending.append(tree.Assign(count, tree.Number(0, span), span, span))
    more = tree.Binary("add", tree.Name(count, span), tree.Number(1, span), span)
    body = (tree.Assign(count, more, span, span),)
    low.pending.append(tree.ForMap(low.declare(""), declaration(low, map), body, span, span, map.span))
    return tree.Name(count, span)


def _given_once(low: "Lowering", node: s.Var) -> s.Expr | None:
    """What a variable holds, where it is given one value in the probe, and stacks are the same all over
    that: not in macros, nor where one is given a variable, or a loop over a map has frames of its own.
    """
    given = values_given(low, node)
    if len(given) != 1 or low.expanding:
        return None
    for one in walk(low.probe.body):
        given_to = one.arguments if isinstance(one, s.Call) and one.function in low.macros else ()
        parts = (part for argument in given_to for part in walk(argument))
        if isinstance(one, s.ForMap) or any(isinstance(part, s.Var) for part in parts):
            return None
    return given[0]


def _word(node: s.Name | s.Call) -> str:
    return node.id if isinstance(node, s.Name) else node.function


def username(low: "Lowering", span: Span) -> tree.Expr:
    """The user's id, shown by the user's name."""
    names = tuple((name, number) for number, name in low.surroundings.users().items())
    return tree.Shown(tree.Name("uid", span), t.Enum("user ids", 4, False, names), span)


LIBRARY: Final["Mapping[str, Callable[[Lowering, s.Call], tree.Expr]]"] = {
    "kaddr": kaddr,
    "nsecs": nsecs,
    "reg": reg,
    "pton": pton,
    "uaddr": uaddr,
    "cgroupid": cgroupid,
    "percpu_kaddr": percpu_kaddr,
    "is_err": is_err,
    "strlen": strlen,
    "len": len_,
    "memcmp": memcmp,
    "pid": number,
    "tid": number,
    "ppid": of_task("real_parent", "tgid"),
    "pcomm": of_task("real_parent", "comm"),
    "leader_tid": of_task("group_leader", "pid"),
    "leader_comm": of_task("group_leader", "comm"),
}
"""By the name that a script calls it by."""
