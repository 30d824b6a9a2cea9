"""The functions a probe can call: what each takes, and the checked value it becomes.

`HANDLERS` gives one small function for each name in `builtins.FUNCTIONS` (but `emit`, a statement, and
`cast`, a tree form); `call` checks names and numbers of arguments for all of them.
"""

from collections.abc import Callable

from kwire.hints import TYPE_CHECKING, Final
from kwire.kinds import KINDS
from kwire.lang import builtins, tree, values
from kwire.lang import checked as c
from kwire.lang import types as t
from kwire.lang.context import Argument, Located
from kwire.lang.errors import TextError, did_you_mean
from kwire.lang.tree import Span
from kwire.lang.types import Type
from kwire.lang.values import Literal, Value
from kwire.lazy import NamedTuple
from kwire.words import article, plural

if TYPE_CHECKING:
    from kwire.lang.expressions import ExpressionChecker


PYTHON = {
    "abs": "write x if x >= 0 else -x",
    "bool": "write x != 0",
    "chr": "emit the number",
    "divmod": "write x // y and x % y",
    "format": "emit the values; text is made where they are shown",
    "hex": "emit the number",
    "int": "write s64(x)",
    "ord": "write its number, or compare with a text",
    "pow": "multiply, or use 1 << n",
    "range": "write for i in range(10):",
    "repr": "emit the value",
}
"""Functions of Python's own that a probe has not, and what to write instead."""


class Arguments(NamedTuple):
    """One call: its checked arguments, where it stands, and who checks."""

    name: str
    values: tuple[Value, ...]
    span: Span
    checker: "ExpressionChecker"


def call(checker: "ExpressionChecker", node: tree.Call) -> Value:
    """The value of a call. Raises `TextError`."""
    name = node.function
    function = builtins.FUNCTION.get(name)
    if function is None:
        cure = PYTHON.get(name) or did_you_mean(name, builtins.FUNCTION)
        raise TextError(node.function_span, f"unknown function {name}", cure)
    if name in checker.bound_names():
        message = f"{name} is a parameter here, and no function"
        raise TextError(node.function_span, message, f"write args.{name} where the parameter is meant")
    if name in ("emit", "exit", "print"):
        cure = "write it on a line of its own"
        raise TextError(node.span, f"{name} is a statement and gives no value", cure)
    if node.keywords:
        raise TextError(node.span, f"{name} takes no named arguments", f"write {function.form}")
    if not function.least <= len(node.arguments) <= function.most:
        message = f"{name} was called with {plural(len(node.arguments), 'argument')}"
        raise TextError(node.span, message, f"write {function.form}")
    if name == "sizeof" and isinstance(node.arguments[0], tree.String):
        written = node.arguments[0]
        return _size(checker.named_type(written.value, written.span), node.span)
    if name == "offsetof":  # of whose member the name is no value
        return _offsetof(checker, node)
    arguments = tuple(checker.check(one) for one in node.arguments)
    return HANDLERS[name](Arguments(name, arguments, node.span, checker))


def cast(value: Value, type_: Type, span: Span, type_span: Span, space: str = "") -> Value:
    """The value seen as another type. `space`: whose memory a plain number is an address of."""
    if isinstance(type_, t.Struct):
        cure = f'add a star: "{t.describe(type_)} *"'
        raise TextError(type_span, "a value cannot become a structure, a pointer can point to one", cure)
    array = value.type if isinstance(value, c.ReadBlock) else None
    if isinstance(array, t.Array) and isinstance(type_, t.Int) and t.size_of(array) == type_.size:
        assert isinstance(value, c.ReadBlock)  # an array is the number that its bytes are
        return values.load(value.place, type_, span)
    if isinstance(type_, t.Array):
        if isinstance(value, c.ReadBlock) and t.size_of(type_) <= t.size_of(value.type):
            return values.load(value.place, type_, span)
        raise TextError(type_span, f"this cannot become {t.describe(type_)}", "cast a pointer")
    if not isinstance(type_, t.SCALARS):
        raise TextError(type_span, f"a value cannot become {t.describe(type_)}")
    if isinstance(value, c.ReadBlock | c.ReadText) and isinstance(type_, t.Pointer):
        value = values.address(value, span)
    number = values.scalar(value)
    if isinstance(type_, t.Pointer) and isinstance(number.type, t.Pointer) and number.type.space == t.USER:
        type_ = type_.replace(space=t.USER)  # a cast does not move memory
    elif isinstance(type_, t.Pointer) and space == t.USER and not isinstance(number.type, t.Pointer):
        type_ = type_.replace(space=t.USER)
    if isinstance(type_, t.Int) and type_.size not in (1, 2, 4, 8):
        raise TextError(type_span, f"a number of {plural(type_.size, 'byte')} does not fit a register")
    made = values.convert(number, type_, span)
    return made.replace(typed=True) if isinstance(made, c.Const) else made


def limit_of(value: Value, name: str, most: int = builtins.MAX_LIMIT) -> int:
    """A constant limit in bytes, or of something else that has another greatest number."""
    if not isinstance(value, c.Const):
        raise TextError(value.span, f"the limit of {name} must be known when the probe is compiled")
    if not 0 < value.value <= most:
        raise TextError(value.span, f"{value.value} is no limit", f"it is 1 to {builtins.MAX_LIMIT} bytes")
    return value.value


def _pointed(value: Value, span: Span, name: str, space: str = "") -> c.Place:
    """The place an argument points to, or is; a number points into this memory, where there is one."""
    if isinstance(value, c.ReadBlock | c.ReadText):
        return value.place
    if isinstance(value, values.WIDE):
        raise TextError(span, f"{name} needs a pointer", "")
    if space and t.is_integer(value.type):
        value = values.convert(value, t.Pointer(t.VOID, space), span)
    if not isinstance(value.type, t.Pointer):
        cure = f"say whose memory: {name}(user(x)) or {name}(kernel(x))"
        raise TextError(value.span, f"{t.article(value.type)} is not known to be an address", cure)
    return values.place_at(value, span)


def _str(call: Arguments) -> Value:
    """Text at an address, or a text of which less is wanted. With a limit beside the number of bytes that is
    what somebody wants, with the NUL, and no more.
    """
    value, limit, exact = call.values[0], builtins.TEXT_LIMIT, False
    if t.is_constant_text(value.type):
        value = call.checker.in_memory(value)
    if len(call.values) > 2:
        limit = limit_of(call.values[2], "str")
    if len(call.values) > 1:
        wanted = values.scalar(call.values[1])
        if not isinstance(wanted, c.Const):
            if not isinstance(value, Literal):
                value = _str(call._replace(values=(value, c.Const(limit, t.S64, call.span))))
            return call.checker.beginning(value, values.integer(wanted), nul=len(call.values) > 2)
        if len(call.values) > 2:
            wanted = wanted.replace(value=wanted.value - 1)
        exact = len(call.values) > 2 and wanted.value <= limit
        limit = limit_of(wanted, "str") if exact or len(call.values) == 2 else limit
    if isinstance(value, c.Comm):
        return value.replace(type=t.Text(min(limit, value.type.limit), exact=exact), span=call.span)
    if isinstance(value, Literal):
        raise TextError(value.span, "this is a string already")
    if isinstance(value, c.ReadBytes):
        raise TextError(value.span, "these are bytes", "give str the pointer")
    text = values.as_text(value, limit, call.span)
    if isinstance(text, c.ReadText):
        most = min(limit, text.fixed) if text.fixed else limit
        return text.replace(type=t.Text(most, text.type.space, exact), span=call.span)
    if isinstance(value.type, t.Pointer) and not isinstance(value, c.ReadBlock):
        target = value.type.target
        bytes_ = (t.is_integer(target) and t.size_of(target) == 1) or t.is_text_array(target)
        if not bytes_ and not isinstance(target, t.Void):
            message = f"{t.article(value.type)} does not point to text"
            raise TextError(value.span, message, 'cast it: str(cast("char *", p))')
    elif isinstance(value, c.ReadBlock):
        raise TextError(value.span, f"{t.article(value.type)} is no text", "name the member that is")
    place = _pointed(value, call.span, "str", call.checker.space)
    return c.ReadText(place, t.Text(limit, place.space, exact), call.span)


OWN: Final = (c.MapPlace, c.TextPlace, c.EachKey, c.EachValue)
"""Bases of places in the program's own memory: what is behind them is of something else."""


def _bytes(call: Arguments) -> Value:
    value = call.checker.in_memory(call.values[0])
    place = _pointed(value, call.span, "bytes", call.checker.space)
    length = values.integer(call.values[1])
    limit = builtins.BYTES_LIMIT
    if isinstance(length, c.Const):
        limit = limit_of(length, "bytes")
    if len(call.values) > 2:
        limit = limit_of(call.values[2], "bytes")
    if isinstance(value, c.ReadText | c.ReadBlock) and isinstance(place.base, OWN):
        size = (
            (value.fixed or value.type.limit + 1) if isinstance(value, c.ReadText) else t.size_of(value.type)
        )
        room = c.Const(size, t.U64, call.span)
        if isinstance(length, c.Const):
            length = length.replace(value=min(length.value, room.value))
        else:
            length = values.integer(_extreme(call._replace(name="min", values=(length, room))))
    return c.ReadBytes(place, length, t.Bytes(limit, place.space), call.span)


def _space(call: Arguments) -> Value:
    space = t.USER if call.name == "user" else t.KERNEL
    value = call.values[0]
    if isinstance(value, c.ReadBlock):
        if isinstance(value.place.base, c.Context | c.DataLocAddress):
            raise TextError(value.span, "this is in the event itself, not behind a pointer")
        return value.replace(place=value.place.replace(space=space), span=call.span)
    number = values.scalar(value)
    target = number.type.target if isinstance(number.type, t.Pointer) else t.VOID
    return values.convert(number, t.Pointer(target, space), call.span)


def _deref(call: Arguments) -> Value:
    value, space = call.values[0], call.checker.space
    if space and not isinstance(value, values.WIDE) and t.is_integer(value.type):  # 8 bytes at a number
        value = values.convert(values.scalar(value), t.Pointer(t.U64, space), call.span)
    return call.checker.element(value, c.Const(0, t.S64, call.span), call.span)


def _big_endian(call: Arguments) -> Value:
    size = int(call.name[2:]) // 8
    number = values.integer(call.values[0])
    type_ = t.Int(size, False)
    if not isinstance(number, c.Const) and t.size_of(number.type) < size:
        has = f"this {t.describe(number.type)} has {t.size_of(number.type)}"
        message = f"{call.name} needs {plural(size, 'byte')}, {has}"
        raise TextError(number.span, message, f"use be{t.size_of(number.type) * 8}")
    if isinstance(number, c.Load | c.Param) and t.size_of(number.type) > size:
        cure = f"use be{t.size_of(number.type) * 8}"
        raise TextError(number.span, f"{call.name} would cut this {t.describe(number.type)}", cure)
    return c.Bswap(number, size, type_, call.span)


def _own_width(call: Arguments) -> Value:
    """A big-endian number as wide as it is."""
    number = values.integer(call.values[0])
    size = t.size_of(number.type)
    return number if size == 1 else c.Bswap(number, size, t.Int(size, False), call.span)


def _ip(call: Arguments) -> Value:
    """A network address of either kind, by its size."""
    value = call.values[0]
    target = value.type.target if isinstance(value.type, t.Pointer) else value.type
    if t.size_of(target) == 16:
        return _ipv6(call._replace(name="ipv6"))
    if isinstance(value, c.Const):  # retyped, so that it stays an address
        return c.Retype(values.convert(value, t.U32, call.span), t.Int(4, False, "ipv4"), call.span)
    if t.is_integer(value.type) and not isinstance(value, values.WIDE) and t.size_of(value.type) == 8:
        return values.convert(values.integer(value), t.Int(4, False, "ipv4"), call.span)
    return _ipv4(call._replace(name="ipv4"))


def _ipv4(call: Arguments) -> Value:
    value = call.values[0]
    if t.is_integer(value.type) and not isinstance(value, values.WIDE):
        number = values.integer(value)
        if t.size_of(number.type) != 4 and not isinstance(number, c.Const):
            message = (
                f"an IPv4 address has 4 bytes, this {t.describe(number.type)} has {t.size_of(number.type)}"
            )
            raise TextError(number.span, message, "cast it: u32(x)")
        return values.convert(number, t.Int(4, False, "ipv4"), call.span)
    place = _address_place(call, 4)
    return c.Load(place, t.Int(4, False, "ipv4"), call.span)


def _ipv6(call: Arguments) -> Value:
    return _address_block(call, 16)


def _mac(call: Arguments) -> Value:
    return _address_block(call, 6)


def _address_block(call: Arguments, size: int) -> Value:
    place = _address_place(call, size)
    return c.ReadBlock(place, size, t.Array(t.U8, size, call.name), call.span)


def _address_place(call: Arguments, size: int) -> c.Place:
    """The place of a network address: an array or structure of that size, or what a pointer points to."""
    value = call.values[0]
    if isinstance(value, c.ReadBlock):
        have = t.size_of(value.type)
        data_loc = isinstance(value.place.base, c.DataLocAddress)
        if have != size and not data_loc:
            message = f"{call.name} needs {plural(size, 'byte')}, this {t.describe(value.type)} has {have}"
            raise TextError(value.span, message, "name the member that holds the address")
        return value.place
    if isinstance(value.type, t.Pointer) and not isinstance(value, values.WIDE):
        have = t.size_of(value.type.target)
        if have not in (0, 1, size):
            message = f"{call.name} needs {plural(size, 'byte')}, {t.article(value.type)} points to {have}"
            raise TextError(value.span, message, "name the member that holds the address")
        return values.place_at(value, call.span)
    raise TextError(value.span, f"{call.name} needs an array of {plural(size, 'byte')} or a pointer to them")


def _ksym(call: Arguments) -> Value:
    value = values.scalar(call.values[0])
    if isinstance(value, c.Const):  # retyped, so that it stays an address
        return c.Retype(values.convert(value, t.U64, call.span), t.KSYM, call.span)
    return values.convert(value, t.KSYM, call.span)


def _stack(call: Arguments) -> Value:
    """The stack of the kernel or of the process; among the arguments how many frames, and how it is read."""
    limit, room, mode = builtins.STACK_LIMIT, builtins.STACKS_MOST, "bpftrace"
    for value in call.values[:2]:
        if isinstance(value, Literal):
            mode = value.value
            if mode not in t.STACK_MODES:
                raise TextError(value.span, f"a stack is not shown as {mode}", _MODES)
        elif isinstance(value, c.Const):
            limit = value.value
            if not 0 < limit <= builtins.STACK_MOST:
                message = f"a stack of {plural(limit, 'frame')} is not possible"
                raise TextError(value.span, message, f"there are 1 to {builtins.STACK_MOST}")
        else:
            raise TextError(value.span, f"what {call.name} takes must be constant", f'{call.name}(3, "perf")')
    if len(call.values) > 2:
        room = limit_of(call.values[2], call.name, builtins.STACKS_MOST << 8)
    user, ids = call.name == "ustack", mode == "build_id"
    if ids and not user:
        raise TextError(call.span, "the kernel's stack has no build ids", 'use ustack, or "raw"')
    return c.Stack(c.StackTable(user, limit, ids, room), t.Stack(mode), call.span)


_MODES = f"it is one of {', '.join(t.STACK_MODES)}"


def _usym(call: Arguments) -> Value:
    address = values.convert(values.scalar(call.values[0]), t.U64, call.span)
    table = c.StackTable(True, 1, False, builtins.STACKS_MOST)
    return c.UserSymbol(address, table, t.Stack("symbol"), call.span)


def _sizeof(call: Arguments) -> Value:
    return _size(call.checker.sized(call.checker.text(call.values[0])), call.span)


def _len(call: Arguments) -> Value:
    """Bytes of a text; of what a pointer points to, at most so many; frames of a stack."""
    if isinstance(call.values[0], c.Stack):
        table = call.values[0].table
        return c.StackDepth(table.user, table.limit, t.U64, call.span)
    value = call.checker.text(call.values[0])
    if isinstance(value, Literal):
        size = len(value.value.encode("utf-8", "surrogateescape"))
        return c.Const(size, t.S64, call.span)
    limit = limit_of(call.values[1], "len") if len(call.values) > 1 else builtins.TEXT_LIMIT
    text = values.named_text(value) or values.as_text(value, limit, call.span)
    if isinstance(text, c.TextConst):
        return c.Const(len(text.value), t.S64, call.span)
    if text is None:
        if not isinstance(value.type, t.Pointer) or isinstance(value, values.WIDE):
            raise TextError(value.span, f"{t.article(value.type)} is no text, and has no length")
        made = _str(call)
        assert isinstance(made, c.ReadText)
        text = made
    return c.TextLength(text, t.U64, call.span)


def _socket_cookie(call: Arguments) -> Value:
    """The cookie of a socket that the probed function is given."""
    [value] = call.values
    if KINDS[call.checker.site.kind].context != "typed slots":
        message = f"there is no socket_cookie at {article(call.checker.site.kind)}"
        raise TextError(call.span, message, "the kernel lets fentry and fexit ask for it")
    struct = value.type.target if isinstance(value.type, t.Pointer) else None
    types = call.checker.types
    while isinstance(struct, t.Struct) and struct.name != "sock_common":  # each kind of socket begins with it
        first = types.member(struct, next(iter(types.members(struct)), ""))
        struct = first.type if first is not None and not first.offset_bits else None
    if struct is None or not isinstance(value, c.Param) or not isinstance(value.access, Argument):
        cure = "give it an argument of the function: socket_cookie(args.sk)"
        raise TextError(value.span, f"{t.article(value.type)} is no socket that the function was given", cure)
    return c.SocketCookie(value, t.U64, call.span)


def _reg(call: Arguments) -> Value:
    """A register, where the probe is given them."""
    name, site = call.values[0], call.checker.site
    if not isinstance(name, Literal):
        raise TextError(name.span, "the name of a register is a text", 'write reg("ip")')
    if KINDS[site.kind].context != "registers":
        raise TextError(call.span, f"a {site.kind} has no registers", "they are there in kprobes and uprobes")
    return c.Param(name.value, Located(0, name.value), t.U64, call.span)


def _offsetof(checker: "ExpressionChecker", node: tree.Call) -> Value:
    """Where a member lies in its structure, or in that of a value."""
    of, member = node.arguments
    if not isinstance(member, tree.String):
        raise TextError(member.span, "the member is a text", 'write offsetof("struct x", "a.b")')
    if isinstance(of, tree.String):
        struct = checker.named_type(of.value, of.span)
    else:
        struct = checker.check(of).type
        struct = struct.target if isinstance(struct, t.Pointer) else struct
    bits = 0
    for name in member.value.split("."):
        found = checker.types.member(struct, name) if isinstance(struct, t.Struct) else None
        if found is None:
            cure = did_you_mean(name, checker.types.members(struct)) if isinstance(struct, t.Struct) else ""
            raise TextError(member.span, f"{t.article(struct)} has no member {name}", cure)
        bits += found.offset_bits
        struct = found.type
    return c.Const(bits // 8, t.S64, node.span)


def _laid_out(type_: Type) -> int:
    """Bytes of a value: of a tuple as C lays out a structure of its parts, of a text those with its NUL."""
    if isinstance(type_, t.Tuple):
        at, widest = 0, 1
        for one in type_.items:
            step = _alignment(one)
            at, widest = -(-at // step) * step + _laid_out(one), max(widest, step)
        return -(-at // widest) * widest
    if isinstance(type_, t.Text):
        return type_.limit + 1
    return t.size_of(type_)


def _alignment(type_: Type) -> int:
    if isinstance(type_, t.Tuple):
        return max(map(_alignment, type_.items), default=1)
    return min(t.size_of(type_), 8) or 1 if isinstance(type_, t.SCALARS) else 1


def _size(type_: Type, span: Span) -> Value:
    size = _laid_out(type_)
    if not size:
        raise TextError(span, f"{t.describe(type_)} has no fixed size")
    return c.Const(size, t.S64, span)


def _extreme(call: Arguments) -> Value:
    from kwire.lang.comparisons import compare

    a, b = values.integer(call.values[0]), values.integer(call.values[1])
    test = compare("le" if call.name == "min" else "ge", a, b, call.span)
    return values.select(test, a, b, call.span)


def _turns(call: Arguments) -> Value:
    cure = "write while turns(100) and …:"
    raise TextError(call.span, "turns says how often a `while` runs, among what its `and` joins", cure)


def _number(call: Arguments) -> Value:
    return cast(call.values[0], t.INTEGERS[call.name], call.span, call.span)


HANDLERS: dict[str, Callable[[Arguments], Value]] = {
    "str": _str,
    "bytes": _bytes,
    "user": _space,
    "kernel": _space,
    "deref": _deref,
    "reg": _reg,
    "address": lambda call: call.checker.address(call.values[0], call.span),
    "be16": _big_endian,
    "be32": _big_endian,
    "be64": _big_endian,
    "be": _own_width,
    "ip": _ip,
    "ipv4": _ipv4,
    "ipv6": _ipv6,
    "mac": _mac,
    "ksym": _ksym,
    "usym": _usym,
    "kstack": _stack,
    "ustack": _stack,
    "sizeof": _sizeof,
    "len": _len,
    "socket_cookie": _socket_cookie,
    "min": _extreme,
    "max": _extreme,
    "turns": _turns,
    **dict.fromkeys(t.INTEGERS, _number),
}
