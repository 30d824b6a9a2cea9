"""Checked programs and trees as text: for tests.

`program` prints one line a statement in a compact form of its own; `expression` writes a tree back as the
Python text that parses to the same tree.
"""

from kwire.lang import checked as c
from kwire.lang import tree
from kwire.lang import types as t
from kwire.lang.context import Argument, CtxField
from kwire.lang.types import describe

SIGNS = tree.BINARY | tree.COMPARE


def program(checked: c.Program) -> str:
    """The program: its event, its locals, its statements.

    `u32[arg0+24]` is a load of a u32 at argument 0 plus 24, `.3:5` after it 5 bits from bit 3, `{i*8<4}` a
    variable index times 8 that must be below 4; `user` marks user memory; `x as T` costs nothing, `T(x)`
    converts.
    """
    lines = [f"{checked.name} on {checked.site.kind}:{checked.site.target}"]
    for shape in checked.shapes:
        fields = ", ".join(f"{one.name}: {describe(one.type)}" for one in shape.fields)
        lines.append(f"event {shape.name + ': ' if shape.name else ''}{fields}")
    lines += [f"local {one.name}: {describe(one.type)}" for one in checked.locals]
    if checked.filter is not None:
        lines.append(f"filter {value(checked.filter, checked)}")
    lines += _statements(checked.body, checked, "")
    return "\n".join(lines)


def _statements(body: tuple[c.Stmt, ...], checked: c.Program, indent: str) -> list[str]:
    lines = []
    for one in body:
        match one:
            case c.LocalSet(local=local, value=given):
                lines.append(f"{indent}{checked.locals[local].name} = {value(given, checked)}")
            case c.Emit(values=given, shape=number):
                name = checked.shapes[number].name
                values = ", ".join(value(each, checked) for each in given)
                lines.append(f"{indent}emit {name + ': ' if name else ''}{values}")
            case c.Loop(start=start, step=step, stop=stop, most=most, body=inner):
                end = "" if stop is None else f", {value(stop, checked)}"
                lines.append(f"{indent}loop {value(start, checked)}{end} by {step}, at most {most}")
                lines += _statements(inner, checked, indent + "  ")
            case c.Each(map=held, body=inner):
                lines.append(f"{indent}each {held.name}")
                lines += _statements(inner, checked, indent + "  ")
            case c.TextSet(local=local, value=given):
                lines.append(f"{indent}{checked.locals[local].name} := {keys((given,), checked)}")
            case c.Store(local=local, value=given):
                lines.append(f"{indent}{checked.locals[local].name} := {value(given, checked)}")
            case c.Break():
                lines.append(f"{indent}break")
            case c.Continue():
                lines.append(f"{indent}continue")
            case c.Return():
                lines.append(f"{indent}return")
            case c.MapSet(map=held, key=key, value=given):
                lines.append(f"{indent}{held.name}[{keys(key, checked)}] = {keys(given, checked)}")
            case c.Exit(status=given):
                lines.append(f"{indent}exit {value(given, checked)}")
            case c.MapDelete(map=held, key=key):
                lines.append(f"{indent}del {held.name}[{keys(key, checked)}]")
            case c.Aggregate(map=held, key=key, value=given):
                lines.append(f"{indent}{held.name}[{keys(key, checked)}].add({value(given, checked)})")
            case c.If(test=test, then=then, otherwise=otherwise):
                lines.append(f"{indent}if {value(test, checked)}")
                lines += _statements(then, checked, indent + "  ")
                if otherwise:
                    lines += [f"{indent}else", *_statements(otherwise, checked, indent + "  ")]
    return lines


def place(where: c.Place, checked: c.Program | None = None) -> str:
    """A place: `[base+offset{index}]`."""
    base = value(where.base, checked)
    offset = f"{where.offset:+d}" if where.offset else ""
    indexes = ""
    for one in where.indexes:
        limit = f"<{one.length}" if one.length else ""
        indexes += f"{{{value(one.value, checked)}*{one.stride}{limit}}}"
    return f"[{'user ' if where.space == t.USER else ''}{base}{offset}{indexes}]"


def value(node: c.Expr | c.Wide, checked: c.Program | None = None) -> str:
    """An expression on one line."""

    def show(inner: c.Expr | c.Wide) -> str:
        return value(inner, checked)

    match node:
        case c.Stack(table=table, type=type_):
            return f"{'u' if table.user else 'k'}stack({table.limit}, {type_.mode})"
        case c.StackDepth(user=user, limit=limit):
            return f"frames({'u' if user else 'k'}stack({limit}))"
        case c.SocketCookie(socket=socket):
            return f"cookie({show(socket)})"
        case c.UserSymbol(address=address):
            return f"usym({show(address)})"
        case c.KernelSymbol(address=address):
            return f"ksym({show(address)})"
        case c.Const(value=number):
            return str(number)
        case c.Builtin(op=op):
            return op
        case c.Param(access=access, type=type_):
            if isinstance(access, Argument):
                return (
                    f"arg{access.number}"
                    if t.size_of(type_) == 8
                    else f"arg{access.number}.{describe(type_)}"
                )
            return f"{describe(type_)}[ctx+{access.offset}]" if isinstance(access, CtxField) else "retval"
        case c.Context():
            return "ctx"
        case c.DataLocAddress(offset=offset, relative=relative):
            return f"{'rel' if relative else 'data'}_loc({offset})"
        case c.Load(place=where, type=type_, bit_offset=bit, bit_size=bits):
            return f"{describe(type_)}{place(where, checked)}" + (f".{bit}:{bits}" if bits else "")
        case c.AddressOf(place=where):
            return f"&{place(where, checked)}"
        case c.Turn():
            return "turn"
        case c.LocalGet(local=local):
            return checked.locals[local].name if checked else f"local{local}"
        case c.Binary(op=op, left=left, right=right, type=type_):
            unsigned = "u" if op in ("div", "mod", "shr") and not t.signed(type_) else ""
            return f"({show(left)} {SIGNS[op]}{unsigned} {show(right)})"
        case c.Compare(op=op, left=left, right=right, signed=signed):
            unsigned = "u" if op not in ("eq", "ne") and not signed else ""
            return f"({show(left)} {SIGNS[op]}{unsigned} {show(right)})"
        case c.Logic(op=op, left=left, right=right):
            return f"({show(left)} {op} {show(right)})"
        case c.Not(operand=inner):
            return f"not {show(inner)}"
        case c.Negate(operand=inner):
            return f"-{show(inner)}"
        case c.Invert(operand=inner):
            return f"~{show(inner)}"
        case c.TextCompare(op=op, left=left, right=right):
            return f"({show(left)} {SIGNS[op]} {show(right)})"
        case c.TextLength(text=text):
            return f"length({show(text)})"
        case c.TextOrder(op=op, text=text, literal=literal):
            return f"({show(text)} {SIGNS[op]} {literal!r})"
        case c.TextEqual(text=text, literal=literal):
            return f"({show(text)} == {literal!r})"
        case c.TextMatch(text=text, pieces=pieces):
            return f"({show(text)} ~ {'*'.join(map(_piece, pieces))!r})"
        case c.BlockEqual(block=block, data=data):
            return f"({show(block)} == {data!r})"
        case c.Select(test=test, then=then, otherwise=otherwise):
            return f"({show(test)} ? {show(then)} : {show(otherwise)})"
        case c.Convert(operand=inner, type=type_):
            return f"{describe(type_)}({show(inner)})"
        case c.Retype(operand=inner, type=type_):
            return f"({show(inner)} as {describe(type_)})"
        case c.Bswap(operand=inner, size=size):
            return f"be{size * 8}({show(inner)})"
        case c.ReadText(place=where, type=type_, fixed=fixed):
            return f"text{f'({fixed})' if fixed else ''}<={type_.limit}{place(where, checked)}"
        case c.ReadBytes(place=where, length=length, type=type_):
            return f"bytes({show(length)})<={type_.limit}{place(where, checked)}"
        case c.ReadBlock(place=where, size=size):
            return f"block({size}){place(where, checked)}"
        case c.Comm():
            return "comm"
        case c.MapGet(map=held, key=key):
            return f"{held.name}[{keys(key, checked)}]"
        case c.MapHas(map=held, key=key):
            return f"({keys(key, checked)} in {held.name})"
        case c.MapPlace(map=held, key=key):
            return f"&{held.name}[{keys(key, checked)}]"
        case c.TextPlace(local=local):
            return f"&{checked.locals[local].name if checked else local}"
        case c.EachKey() | c.EachValue() | c.EachGet():
            return type(node).__name__.lower()


def keys(key: c.Key, checked: c.Program | None = None) -> str:
    """The parts of a key."""
    return ", ".join(repr(one.value) if isinstance(one, c.TextConst) else value(one, checked) for one in key)


def _piece(piece: c.Piece) -> str:
    """A piece of a pattern: ranges of bytes in brackets."""

    def one(choices: c.ByteSet) -> str:
        (low, high), *rest = choices
        if low == high and not rest:
            return chr(low)
        if choices == ((1, 255),):
            return "?"
        return "[" + "".join(f"{chr(a)}-{chr(b)}" for a, b in choices) + "]"

    return "".join(map(one, piece))


def expression(node: tree.Expr) -> str:
    """A tree as Python text, every operation in parentheses."""
    match node:
        case tree.Name(id=name):
            return name
        case tree.Element(map=where, key=parts):
            return f"{where.title}[{', '.join(map(expression, parts))}]"
        case tree.Shown(value=inner):
            return f"shown({expression(inner)})"
        case tree.Context():
            return "context"
        case tree.HasKey(element=inner):
            return f"({', '.join(map(expression, inner.key))} in {inner.map.title})"
        case tree.Number(value=number, boolean=boolean):
            return str(bool(number)) if boolean else f"({number})" if number < 0 else str(number)
        case tree.String(value=text):
            return repr(text)
        case tree.Member(value=inner, name=name):
            head = expression(inner)
            return f"({head}).{name}" if isinstance(inner, tree.Number) else f"{head}.{name}"
        case tree.Index(value=inner, subscript=subscript):
            return f"{expression(inner)}[{expression(subscript)}]"
        case tree.Unary(op=op, operand=operand):
            return f"({tree.UNARY[op]}{expression(operand)})"
        case tree.Binary(op=op, left=left, right=right):
            return f"({expression(left)} {tree.BINARY[op]} {expression(right)})"
        case tree.Compare(left=left, rest=rest):
            tail = "".join(f" {tree.COMPARE[op]} {expression(one)}" for op, one in rest)
            return f"({expression(left)}{tail})"
        case tree.Match(op=op, text=text, pattern=pattern):
            one, two = expression(text), expression(pattern)
            if op in ("startswith", "endswith"):
                return f"({one}).{op}({two})"
            return f"({two} in {one})" if op == "contains" else f"glob({one}, {two})"
        case tree.Logic(op=op, operands=operands):
            return "(" + f" {op} ".join(expression(one) for one in operands) + ")"
        case tree.Conditional(test=test, then=then, otherwise=otherwise):
            return f"({expression(then)} if {expression(test)} else {expression(otherwise)})"
        case tree.Cast(type=type_, value=inner):
            return f"cast({type_!r}, {expression(inner)})"
        case tree.Tuple(items=items, names=()):
            return f"({', '.join(map(expression, items))},)"
        case tree.Tuple(items=items, names=names):
            pairs = zip(names, items, strict=True)
            return "{" + ", ".join(f"{name!r}: {expression(one)}" for name, one in pairs) + "}"
        case tree.Call(function=function, arguments=arguments, keywords=keywords):
            given = [expression(one) for one in arguments]
            given += [f"{name}={expression(one)}" for name, one in keywords]
            return f"{function}({', '.join(given)})"
