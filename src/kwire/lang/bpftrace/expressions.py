"""Expressions: the value of each kind of node.

Invariant: what an expression changes is done before its statement (`Lowering.pending`), and refused where it
would not always be done.
"""

import os
from collections.abc import Callable, Mapping

from kwire.hints import TYPE_CHECKING, Any, Final
from kwire.lang import tree
from kwire.lang.bpftrace import syntax as s
from kwire.lang.bpftrace import tables
from kwire.lang.bpftrace.builtins import BUILTINS
from kwire.lang.bpftrace.calls import known, unready
from kwire.lang.bpftrace.constants import argument, constant, kept, number, text_constant
from kwire.lang.bpftrace.functions import FUNCTIONS
from kwire.lang.bpftrace.macros import expand, meant
from kwire.lang.bpftrace.maps import AGGREGATES, element
from kwire.lang.bpftrace.output import divided
from kwire.lang.bpftrace.types import is_type, plain
from kwire.lang.errors import TextError, did_you_mean
from kwire.lang.tree import NOWHERE
from kwire.wire.names import SYSCALLS

if TYPE_CHECKING:
    from kwire.lang.bpftrace.lower import Lowering

OPERATORS: Final = {
    "+": "add",
    "-": "sub",
    "*": "mul",
    "/": "quo",
    "%": "rem",
    "&": "and",
    "|": "or",
    "^": "xor",
    "<<": "shl",
    ">>": "shr",
}


OWN: Final = "__builtin_"
"""What a built-in is written with where a macro may have its name."""

COMPARISONS: Final = {"==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}


def condition(low: "Lowering", node: s.Expr) -> tree.Expr:
    """An expression of which matters only whether it is 0."""
    if isinstance(node, s.Binary) and node.op in ("&&", "||"):
        op = "and" if node.op == "&&" else "or"
        operands: list[tree.Expr] = []
        pending: list[s.Expr] = [node]
        while pending:  # a && b && c as one
            one = pending.pop()
            if isinstance(one, s.Binary) and one.op == node.op:
                pending += [one.right, one.left]
            else:
                operands.append(guarded(low, one) if operands else condition(low, one))
        return tree.Logic(op, tuple(operands), node.span)
    if isinstance(node, s.Unary) and node.op == "!":
        return tree.Unary("not", condition(low, node.operand), node.span)
    return low.expression(node)


def guarded(low: "Lowering", node: s.Expr) -> tree.Expr:
    """A condition that is looked at only where the one before it says so."""
    before, low.hoisting = low.hoisting, False
    try:
        return condition(low, node)
    finally:
        low.hoisting = before


def _int(low: "Lowering", node: s.Int) -> tree.Expr:
    return tree.Number(node.value, node.span)


def _bool(low: "Lowering", node: s.Bool) -> tree.Expr:
    return tree.Number(int(node.value), node.span, True)


def _str(low: "Lowering", node: s.Str) -> tree.Expr:
    return tree.String(node.value.partition("\0")[0], node.span)


def _var(low: "Lowering", node: s.Var) -> tree.Expr:
    for scope in reversed(low.scopes):
        if node.id in scope:
            return tree.Name(scope[node.id], node.span)
    if node.id in low.names and not low.expanding:
        low.wide.add(node.id)
    known = {name for scope in low.scopes for name in scope if name}
    cure = did_you_mean(node.id, known) or "assign it before, in this block or around it"
    raise TextError(node.span, f"${node.id} has no value here", cure)


def _map(low: "Lowering", node: s.Map) -> tree.Expr:
    shows = low.maps[node.id].shows
    if shows in ("hist", "lhist", "stats", "tseries"):
        raise unready(f"reading @{node.id}, which is a {shows},", node.span)
    return element(low, node)


def _positional(low: "Lowering", node: s.Positional) -> tree.Expr:
    if not node.number:
        return tree.Number(len(low.surroundings.arguments), node.span)
    text = argument(low, node)
    if not text:
        return tree.Number(0, node.span)
    try:
        return tree.Number(number(text), node.span)
    except ValueError:
        return tree.String(text, node.span)


def _name(low: "Lowering", node: s.Name) -> tree.Expr:
    name, span = node.id, node.span
    substitute = low.substitutes[-1].get(name)
    if substitute is not None:
        return substitute.made(low, lambda there, argument: there.expression(argument))
    if name in low.enums:
        return tree.Name(name, span)
    if name in low.macros:
        call = s.Call(name, (), span, span)
        if meant(low.macros, call) is not None:
            return _call(low, call)
    if name.removeprefix(OWN) in tables.BUILTIN:
        name = name.removeprefix(OWN)
    word = tables.BUILTIN.get(name)
    if word is not None and not word.ready:
        raise unready(name, span)
    if name in BUILTINS:
        return BUILTINS[name](low, span)
    if name in tables.CONSTANTS:
        return tree.Number(tables.CONSTANTS[name], span)
    calls = SYSCALLS.get(os.uname().machine, {})
    if name.startswith("__NR_") and name.removeprefix("__NR_") in calls:
        return tree.Number(calls[name.removeprefix("__NR_")], span)
    if name in tables.FUNCTION and word is None:
        raise TextError(span, f"{name} is a function", f"call it: {tables.FUNCTION[name].form}")
    return tree.Name(name, span)


def _field(low: "Lowering", node: s.Field) -> tree.Expr:
    if _is_config(node.value):
        return _setting(low, node)
    context = low.site.kind == "iter" and isinstance(node.value, s.Name) and node.value.id == "ctx"
    if context or (isinstance(node.value, s.Name) and node.value.id == "args"):
        head: tree.Expr = tree.Name("args", node.value.span)
    else:
        head = low.expression(node.value)
    return tree.Member(head, node.name, node.span, node.name_span)


def _is_config(node: s.Expr) -> bool:
    """Whether this is `config` or `config()`."""
    if isinstance(node, s.Call):
        return node.function.removeprefix(OWN) == "config" and not node.arguments
    return isinstance(node, s.Name) and node.id.removeprefix(OWN) == "config"


def _setting(low: "Lowering", node: s.Field) -> tree.Expr:
    """The value of a setting."""
    value = low.settings.get(node.name)
    if value is None:
        cure = did_you_mean(node.name, low.settings)
        raise TextError(node.name_span, f"there is no setting {node.name}", cure)
    if isinstance(value, str):
        return tree.String(value, node.span)
    return tree.Number(int(value), node.span, isinstance(value, bool))


def _item(low: "Lowering", node: s.Item) -> tree.Expr:
    return tree.Index(low.expression(node.value), tree.Number(node.number, node.span), node.span)


def _index(low: "Lowering", node: s.Index) -> tree.Expr:
    return tree.Index(low.expression(node.value), low.expression(node.subscript), node.span)


def type_name(low: "Lowering", node: s.Type) -> str:
    """A type as the checker knows it."""
    if node.value is not None:
        named = _given_type(low, node.value)
        if named is None:
            raise unready("a cast to typeof a value", node.span, "name the type")
        return plain(named)
    return plain(_with_given(low, node.name))


def _with_given(low: "Lowering", name: str) -> str:
    """The name of a type, in which the parameter of a macro may stand for one."""
    word = name.split(" ")[0].rstrip("*").partition("[")[0]
    if word not in low.substitutes[-1]:
        return name
    given = _given_type(low, s.Name(word, NOWHERE))
    rest = name[len(word) :].strip()
    return name if given is None else f"{given} {rest}" if rest[:1] == "*" else given + rest


def _given_type(low: "Lowering", node: s.Expr) -> str | None:
    """The type that the parameter of a macro stands for; None for what stands for none."""
    if not isinstance(node, s.Name):
        return None
    given = low.substitutes[-1].get(node.id)
    if given is not None:
        return given.made(low, _given_type)
    word = node.id.split(" ")[0].rstrip("*").partition("[")[0]
    return node.id if is_type(word) or word != node.id else None


def _cast(low: "Lowering", node: s.Cast) -> tree.Expr:
    return tree.Cast(type_name(low, node.type), low.expression(node.value), node.span, node.type.span)


def _type_or_value(low: "Lowering", of: s.Type | s.Expr) -> tree.Expr:
    """What stands in `sizeof(…)`: a value, or as a text the name of a type."""
    if isinstance(of, s.Type) and of.value is None:
        return tree.String(type_name(low, of), of.span)
    value = of.value if isinstance(of, s.Type) else of
    assert value is not None
    named = _given_type(low, value)
    if named is not None:
        return tree.String(plain(named), of.span)
    return low.expression(value)


def _sizeof(low: "Lowering", node: s.Sizeof) -> tree.Expr:
    if isinstance(node.of, s.Str):  # a text here is the name of a type in the tree
        return tree.Number(len(node.of.value.encode("utf-8", "surrogateescape")) + 1, node.span)
    return tree.Call("sizeof", (_type_or_value(low, node.of),), (), node.span, node.span)


def _offsetof(low: "Lowering", node: s.Offsetof) -> tree.Expr:
    member = tree.String(".".join(node.members), node.span)
    return tree.Call("offsetof", (_type_or_value(low, node.of), member), (), node.span, node.span)


def _typeinfo(low: "Lowering", node: s.Typeinfo) -> tree.Expr:
    raise unready("typeinfo", node.span)


def comptime(low: "Lowering", node: s.Expr) -> int | None:
    """The value of `comptime value`; None for what is no such thing. Raises `TextError` where it is not known
    before the script runs.
    """
    if not isinstance(node, s.Comptime):
        return None
    inner = node.value
    if isinstance(inner, s.Unary) and inner.op == "!":
        value = comptime(low, s.Comptime(inner.operand, inner.span))
        return int(not value)
    if isinstance(inner, s.Binary) and inner.op in ("==", "!="):
        texts = [text_constant(low, one) for one in (inner.left, inner.right)]
        if None not in texts:
            return int((texts[0] == texts[1]) == (inner.op == "=="))
    known = constant(low, inner)
    if known is None:
        raise TextError(inner.span, "this is not known before the script runs", "leave out comptime")
    return known


def _comptime(low: "Lowering", node: s.Comptime) -> tree.Expr:
    return low.expression(node.value)


def _unary(low: "Lowering", node: s.Unary) -> tree.Expr:
    if node.op == "!":
        return tree.Unary("not", condition(low, node.operand), node.span)
    if node.op == "*" and isinstance(node.operand, s.AddressOf):
        return low.expression(node.operand.operand)
    operand = low.expression(node.operand)
    if node.op == "*":
        return tree.Call("deref", (operand,), (), node.span, node.span)
    if node.op == "-" and isinstance(operand, tree.Number):
        return tree.Number(-operand.value, node.span)
    return tree.Unary("neg" if node.op == "-" else "inv", operand, node.span)


def _step(low: "Lowering", node: s.Step) -> tree.Expr:
    if isinstance(node.operand, s.Map):
        raise unready("++ or -- of a map within an expression", node.span, "do it in a statement before")
    assert isinstance(node.operand, s.Var)
    low.hoist(node.span)
    old = low.expression(node.operand)
    local = old.id if isinstance(old, tree.Name) else ""
    changed = s.Assign(node.operand, node.op[0], s.Int(1, node.span), node.span)
    if node.before:
        low.pending += low.statement(changed)
        return tree.Name(local, node.span)
    kept = low.declare("")
    low.pending.append(tree.Assign(kept, old, node.span, node.span))
    low.pending += low.statement(changed)
    return tree.Name(kept, node.span)


def _addressof(low: "Lowering", node: s.AddressOf) -> tree.Expr:
    if isinstance(node.operand, s.Map) and node.operand.key is None and low.maps[node.operand.id].key:
        cure = f"write &@{node.operand.id}[key]"
        raise TextError(node.span, f"@{node.operand.id} has keys, and one address for each", cure)
    return tree.Call("address", (low.expression(node.operand),), (), node.span, node.span)


def _binary(low: "Lowering", node: s.Binary) -> tree.Expr:
    """Two operands and an operator."""
    if node.op in ("&&", "||"):
        made = condition(low, node)
        assert isinstance(made, tree.Logic)
        operands = tuple(_truth(one) for one in made.operands)
        return made.replace(operands=operands)
    left, done = low.expression(node.left), len(low.pending)
    right = low.expression(node.right)
    if len(low.pending) > done:
        left = low.frozen(left, done)
    if node.op in COMPARISONS:
        return tree.Compare(left, ((COMPARISONS[node.op], right),), node.span)
    if node.op in ("/", "%") and low.hoisting and constant(low, node.right) is None:
        done = len(low.pending)
        right = divided(low, right)
        left = low.frozen(left, done)
    return tree.Binary(OPERATORS[node.op], left, right, node.span)


def _ternary(low: "Lowering", node: s.Ternary) -> tree.Expr:
    test = condition(low, node.test)
    before, low.hoisting = low.hoisting, False
    try:
        then = kept(low, node.test if node.then is None else node.then)
        otherwise = kept(low, node.otherwise)
    finally:
        low.hoisting = before
    return tree.Conditional(test, then, otherwise, node.span)


def _tuple(low: "Lowering", node: s.Tuple) -> tree.Expr:
    return tree.Tuple(tuple(kept(low, one) for one in node.items), node.span)


def _record(low: "Lowering", node: s.Record) -> tree.Expr:
    return tree.Tuple(tuple(kept(low, one) for one in node.items), node.span, node.names)


def _block(low: "Lowering", node: s.Block) -> tree.Expr:
    """A block as a value: what it does is done before."""
    body, value = node.body, node.value
    last = body[-1] if body else None
    if value is None and isinstance(last, s.Do) and isinstance(last.value, s.If):
        body, value = body[:-1], last.value  # a choice ends without ;
    if value is None:
        raise TextError(node.span, "this block has no value", "end it with an expression without ;")
    low.hoist(node.span)
    low.scopes.append({})
    try:
        for one in body:
            before, low.pending = low.pending, []
            made = low.statement(one)
            before += low.pending
            before += made
            low.pending = before
        return kept(low, value)
    finally:
        low.scopes.pop()


def _if(low: "Lowering", node: s.If) -> tree.Expr:
    """A choice as a value."""
    known = comptime(low, node.test)
    if known is not None and (known or node.otherwise is not None):
        taken = node.then if known else node.otherwise
        assert taken is not None
        return low.expression(taken)
    if node.otherwise is None:
        raise TextError(node.span, "this choice has no value where the condition does not hold", "write else")
    low.hoist(node.span)
    test = condition(low, node.test)
    name = low.declare("")
    arms = []
    for arm in (node.then, node.otherwise):
        before, low.pending = low.pending, []
        try:
            value = kept(low, arm)
            low.pending.append(tree.Assign(name, value, arm.span, arm.span))
            arms.append(tuple(low.pending))
        finally:
            low.pending = before
    low.pending.append(tree.If(test, arms[0], arms[1], node.span))
    return tree.Name(name, node.span)


def _call(low: "Lowering", node: s.Call) -> tree.Expr:
    name = node.function
    macro = meant(low.macros, node)
    if macro is not None:
        value = expand(low, node, macro, wanted=True)
        assert value is not None
        return value
    word = known(low, node)
    if word.name in tables.BUILTIN and not node.arguments:
        return _name(low, s.Name(name, node.span))
    if any(one.name == name for one in tables.STATEMENTS) and name not in FUNCTIONS:
        raise TextError(node.span, f"{name} gives no value", "write it as a statement")
    if name in AGGREGATES:
        raise TextError(node.span, f"{name} is for maps", f"write {word.form}")
    return FUNCTIONS[name](low, node)


def _truth(node: tree.Expr) -> tree.Expr:
    """A condition as a number, 0 or 1."""
    if isinstance(node, tree.Compare | tree.Match | tree.Logic) or (
        isinstance(node, tree.Unary) and node.op == "not"
    ):
        return node
    return tree.Unary("not", tree.Unary("not", node, node.span), node.span)


EXPRESSIONS: Final["Mapping[type, Callable[[Lowering, Any], tree.Expr]]"] = {
    s.Int: _int,
    s.Bool: _bool,
    s.Str: _str,
    s.Var: _var,
    s.Map: _map,
    s.Positional: _positional,
    s.Name: _name,
    s.Field: _field,
    s.Item: _item,
    s.Index: _index,
    s.Cast: _cast,
    s.Sizeof: _sizeof,
    s.Offsetof: _offsetof,
    s.Typeinfo: _typeinfo,
    s.Comptime: _comptime,
    s.Unary: _unary,
    s.Step: _step,
    s.AddressOf: _addressof,
    s.Binary: _binary,
    s.Ternary: _ternary,
    s.Tuple: _tuple,
    s.Record: _record,
    s.Block: _block,
    s.If: _if,
    s.Call: _call,
}
"""By the class of the node."""
