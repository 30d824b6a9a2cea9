"""The functions that give a value, each from its call to the tree of all front ends."""

import os
import signal
from collections.abc import Callable, Mapping

from kwire.hints import TYPE_CHECKING, Final
from kwire.lang import tree
from kwire.lang import types as t
from kwire.lang.bpftrace import syntax as s
from kwire.lang.bpftrace.calls import unready
from kwire.lang.bpftrace.constants import bytes_constant, constant, text_constant, values_given
from kwire.lang.bpftrace.library import LIBRARY
from kwire.lang.bpftrace.macros import expand
from kwire.lang.bpftrace.maps import deleted, has_key, with_keys
from kwire.lang.builtins import STACK_LIMIT, STACKS_MOST
from kwire.lang.errors import TextError
from kwire.lang.forms import walk
from kwire.lang.tree import Span
from kwire.lang.types import STACK_MODES
from kwire.wire.fields import TIMES
from kwire.wire.names import COMPAT, COMPAT_SYSCALLS, ERRORS, SIGNALS, SYSCALLS

if TYPE_CHECKING:
    from kwire.lang.bpftrace.lower import Lowering


def _plain(low: "Lowering", function: str, node: s.Call) -> tree.Expr:
    arguments = tuple(low.expression(one) for one in node.arguments)
    return tree.Call(function, arguments, (), node.span, node.function_span)


def str_(low: "Lowering", node: s.Call) -> tree.Expr:
    """Text at an address."""
    text = text_constant(low, node)
    if text is not None:
        return tree.String(text, node.span)
    most = low.settings.get("max_strlen", 1024)
    limit = most if isinstance(most, int) else 1024
    if len(node.arguments) == 2:
        given = constant(low, node.arguments[1])
        if given is None:
            place, wanted = (low.expression(one) for one in node.arguments)
        elif given < 1:
            raise TextError(node.arguments[1].span, f"a text of {given} bytes is none", "str(p, 64)")
        elif given == 1:  # the NUL
            return tree.String("", node.span)
        else:
            place = low.expression(node.arguments[0])
            wanted = tree.Number(given, node.span)
        three = (place, wanted, tree.Number(limit, node.span))
        return tree.Call("str", three, (), node.span, node.function_span)
    place = low.expression(node.arguments[0])
    return tree.Call("str", (place, tree.Number(limit, node.span)), (), node.span, node.function_span)


def buf(low: "Lowering", node: s.Call) -> tree.Expr:
    """Bytes at an address, or of a text."""
    first = node.arguments[0]
    if isinstance(first, s.Str) and "\0" in first.value:
        data, span = first.value.encode("utf-8", "surrogateescape"), node.span
        count = constant(low, node.arguments[1]) if len(node.arguments) > 1 else len(data)
        if count is not None and 0 < count <= BUFFER_MOST:
            whole = bytes_constant(data[:count].ljust(count, b"\0"), span)
            return tree.Call("bytes", (whole, tree.Number(count, span)), (), span, node.function_span)
    known = text_constant(low, node.arguments[0])
    if len(node.arguments) == 1 and known is not None:
        bytes_ = tree.Number(len(known.encode("utf-8", "surrogateescape")), node.span)
        given = (tree.String(known, node.span), bytes_)
        return tree.Call("bytes", given, (), node.span, node.function_span)
    if len(node.arguments) == 1:
        of = low.expression(node.arguments[0])
        size: tree.Expr = tree.Call("sizeof", (of,), (), node.span, node.span)
        return tree.Call("bytes", (of, size), (), node.span, node.function_span)
    place, length = (low.expression(one) for one in node.arguments)
    most = low.settings.get("max_strlen", 1024)
    arguments: tuple[tree.Expr, ...] = (place, length)
    if not isinstance(length, tree.Number):
        arguments += (tree.Number(int(most), node.span),)
    return tree.Call("bytes", arguments, (), node.span, node.function_span)


def ntop(low: "Lowering", node: s.Call) -> tree.Expr:
    """A network address."""
    address = low.expression(node.arguments[-1])
    return tree.Call("ip", (address,), (), node.span, node.function_span)


def socket_cookie(low: "Lowering", node: s.Call) -> tree.Expr:
    """The cookie of a socket."""
    return _plain(low, "socket_cookie", node)


def macaddr(low: "Lowering", node: s.Call) -> tree.Expr:
    """An Ethernet address."""
    return _plain(low, "mac", node)


def bswap(low: "Lowering", node: s.Call) -> tree.Expr:
    """Bytes in the opposite order."""
    return _plain(low, "be", node)


def ksym(low: "Lowering", node: s.Call) -> tree.Expr:
    """A kernel address."""
    return _plain(low, "ksym", node)


def usym(low: "Lowering", node: s.Call) -> tree.Expr:
    """An address in the current process."""
    return _plain(low, "usym", node)


def stack(low: "Lowering", node: s.Call) -> tree.Expr:
    """The stack of the kernel or of the process: of a mode and a number of frames in any order."""
    mode, limit = str(low.settings.get("stack_mode", "bpftrace")), STACK_LIMIT
    for one in node.arguments:
        if isinstance(one, s.Name) and one.id in STACK_MODES:
            mode = one.id
            continue
        number = constant(low, one)
        if number is None:
            cure = f"it is a number of frames, or one of {', '.join(STACK_MODES)}"
            raise TextError(one.span, f"{node.function} does not take this", cure)
        limit = number
    if mode == "build_id" and node.function == "kstack":
        mode = "bpftrace"  # the kernel has none; so bpftrace shows it
    keys = low.settings.get("max_map_keys", 0)
    room = max(STACKS_MOST, keys if isinstance(keys, int) else 0)
    span = node.span
    given = (tree.Number(limit, span), tree.String(mode, span), tree.Number(room, span))
    return tree.Call(node.function, given, (), span, node.function_span)


def kptr(low: "Lowering", node: s.Call) -> tree.Expr:
    """An address of the kernel."""
    return _plain(low, "kernel", node)


def uptr(low: "Lowering", node: s.Call) -> tree.Expr:
    """An address of the current process."""
    return _plain(low, "user", node)


def strncmp(low: "Lowering", node: s.Call) -> tree.Expr:
    """0 where the beginnings of two texts are the same."""
    left, right, count = node.arguments
    number = constant(low, count)
    if number is None or number < 0:
        raise TextError(count.span, "the number of bytes has to be a constant")
    if isinstance(left, s.Str):
        left, right = right, left
    text = text_constant(low, right)
    if text is None:
        raise unready("strncmp of two texts that are not constant", node.span)
    data = text.encode("utf-8", "surrogateescape")
    value = low.expression(left)
    if isinstance(value, tree.String):
        own = value.value.encode("utf-8", "surrogateescape")
        return tree.Number(int(own[:number] != data[:number]), node.span)
    if number > len(data):
        same: tree.Expr = tree.Compare(value, (("eq", tree.String(text, right.span)),), node.span)
    else:
        pattern = tree.String(data[:number].decode("utf-8", "surrogateescape"), right.span)
        same = tree.Match("startswith", value, pattern, node.span)
    return tree.Conditional(same, tree.Number(0, node.span), tree.Number(1, node.span), node.span)


def strcontains(low: "Lowering", node: s.Call) -> tree.Expr:
    """Whether a text contains another."""
    if text_constant(low, node.arguments[1]) is None and not _given_once(low, node.arguments[1]):
        return of_prelude(low, node)
    text, part = (low.expression(one) for one in node.arguments)
    return tree.Match("contains", text, part, node.span)


def of_prelude(low: "Lowering", node: s.Call) -> tree.Expr:
    """A function that is written in the language."""
    if not low.hoisting:
        message = f"{node.function} is done before its statement, which would not always be right here"
        raise TextError(node.span, message, "do it in a statement before")
    found = expand(low, node, prelude_macro(node.function, node.span), wanted=True)
    assert found is not None
    return found


def find(low: "Lowering", node: s.Call) -> tree.Expr:
    """Whether a map has a key; the value there is given to a variable."""
    target, *rest = node.arguments
    if not isinstance(target, s.Map) or target.key is not None:
        raise TextError(target.span, "this is not a map", "write find(@map, key, $x)")
    with_keys(low, target, "find()")
    if not isinstance(rest[1], s.Var):
        raise TextError(rest[1].span, "this is no variable", "write find(@map, key, $x)")
    low.hoist(node.span)
    macro = prelude_macro("find", node.span, target.id)
    found = expand(low, node.replace(arguments=tuple(rest)), macro, wanted=True)
    assert found is not None
    return found


def prelude_macro(name: str, span: Span, map: str = "") -> s.Macro:
    """A macro of the prelude, which most scripts do without."""
    from kwire.lang.bpftrace import prelude

    return prelude.macro(name, span, map)


def is_literal(low: "Lowering", node: s.Call) -> tree.Expr:
    """Whether an expression is written as a number or a text."""
    [one] = node.arguments
    given = low.substitutes[-1].get(one.id) if isinstance(one, s.Name) else None
    written = given.argument if given is not None else one
    return tree.Number(int(isinstance(written, s.Int | s.Bool | s.Str)), node.span)


def usdt_arg(low: "Lowering", node: s.Call) -> tree.Expr:
    """An argument of a USDT probe as an address of the process."""
    [which] = node.arguments
    number = constant(low, which)
    if number is None or number < 0:
        raise TextError(which.span, "the number of the argument has to be a constant", "usdt_arg(0)")
    name = tree.Name(f"arg{number}", which.span)
    return tree.Call("user", (name,), (), node.span, node.function_span)


def _given_once(low: "Lowering", node: s.Expr) -> bool:
    """Whether this is a variable that is given one text, which is known, and has no place in memory."""
    if not isinstance(node, s.Var) or low.expanding:
        return False
    addresses = (one.operand for one in walk(low.probe.body) if isinstance(one, s.AddressOf))
    if any(one == node.replace(span=one.span) for one in addresses):
        return False
    given = values_given(low, node)
    return len(given) == 1 and isinstance(given[0], s.Str)


def strftime(low: "Lowering", node: s.Call) -> tree.Expr:
    """A time, shown in a format."""
    format, time = node.arguments
    text = text_constant(low, format)
    if text is None:
        raise TextError(format.span, "the format is not a string", 'write strftime("%H:%M:%S", nsecs)')
    return tree.Shown(low.expression(time), t.Int(8, False, f"{TIMES}{text}"), node.span)


def strerror(low: "Lowering", node: s.Call) -> tree.Expr:
    """A number of an error, shown as what it means."""
    return _named(
        low,
        node,
        "error numbers",
        {0: os.strerror(0)} | {number: os.strerror(number) for number in ERRORS if number < KERNEL_ONLY},
    )


def signal_name(low: "Lowering", node: s.Call) -> tree.Expr:
    """A number of a signal, shown as what it means."""
    names = {number: signal.strsignal(number) or "" for number in SIGNALS}
    return _named(low, node, t.SIGNALS, {0: "Unknown signal 0"} | names)


def syscall_name(low: "Lowering", node: s.Call) -> tree.Expr:
    """A number of a system call, shown by its name; of a call of a 32-bit program where one says so."""
    machine, span = os.uname().machine, node.span
    names = {number: name for name, number in SYSCALLS.get(machine, {}).items()}
    if len(node.arguments) == 1:
        return _named(low, node, "system calls", names)
    old = COMPAT_SYSCALLS.get(machine) or {number: f"call {number}" for number in range(COMPAT_MOST)}
    names |= {COMPAT | number: f"{name} (32-bit)" for number, name in old.items()}
    number, compat = (low.expression(one) for one in node.arguments)
    added = tree.Conditional(compat, tree.Number(COMPAT, span), tree.Number(0, span), span)
    # What has no number is -1: it must not reach the bit added.
    number = tree.Binary("and", number, tree.Number(COMPAT - 1, span), span)
    return _shown(tree.Binary("or", number, added, span), "system calls of both kinds", names, 8, span)


def cgroup_path(low: "Lowering", node: s.Call) -> tree.Expr:
    """An id of a control group, shown as its path."""
    return _named(low, node, "control groups", low.surroundings.cgroups(), 8)


def _named(low: "Lowering", node: s.Call, title: str, names: Mapping[int, str], size: int = 4) -> tree.Expr:
    """A number that is shown by its name."""
    return _shown(low.expression(node.arguments[0]), title, names, size, node.span)


def _shown(value: tree.Expr, title: str, names: Mapping[int, str], size: int, span: Span) -> tree.Expr:
    values = tuple((name, number) for number, name in names.items())
    return tree.Shown(value, t.Enum(title, size, size == 4, values), span)


BUFFER_MOST: Final = 256
"""Bytes of a text with a NUL in it that are put into memory."""

COMPAT_MOST: Final = 512
"""More than the numbers of any machine's system calls."""
KERNEL_ONLY: Final = 512
"""Errors from here on are the kernel's own."""

FUNCTIONS: Final["Mapping[str, Callable[[Lowering, s.Call], tree.Expr]]"] = {
    "str": str_,
    "delete": deleted,
    **{
        one.__name__: one
        for one in (
            *(
                buf,
                ntop,
                macaddr,
                bswap,
                ksym,
                usym,
                kptr,
                uptr,
                strncmp,
                strcontains,
                has_key,
                strftime,
                strerror,
            ),
            *(signal_name, syscall_name, cgroup_path, socket_cookie),
        )
    },
    **LIBRARY,
    "strstr": of_prelude,
    "find": find,
    "is_literal": is_literal,
    "usdt_arg": usdt_arg,
    "kstack": stack,
    "ustack": stack,
}
"""By the name that a script calls it by."""
