"""Statements: assignments, choices, loops, and calls for their effect."""

from collections.abc import Callable, Mapping

from kwire.hints import TYPE_CHECKING, Final
from kwire.lang import tree
from kwire.lang.bpftrace import maps, output
from kwire.lang.bpftrace import syntax as s
from kwire.lang.bpftrace.calls import known, unready
from kwire.lang.bpftrace.constants import constant, kept, text_constant
from kwire.lang.bpftrace.expressions import comptime, condition, type_name
from kwire.lang.bpftrace.macros import expand, meant
from kwire.lang.check import MAX_TURNS
from kwire.lang.errors import TextError, did_you_mean
from kwire.lang.tree import Span
from kwire.wire.names import SIGNALS
from kwire.wire.printf import split

if TYPE_CHECKING:
    from kwire.lang.bpftrace.lower import Lowering

UNROLLED_MOST: Final = 100


def statement(low: "Lowering", node: s.Stmt) -> list[tree.Stmt]:
    """A statement. Raises `TextError`."""
    match node:
        case s.Do(value=value):
            return perform(low, value, node.span)
        case s.Assign():
            return assign(low, node)
        case s.Let():
            return let(low, node)
        case s.Jump(word="return"):
            if node.value is not None and not isinstance(node.value, s.Int):
                low.expression(node.value)
            return [tree.Return(node.span)]
        case s.Jump(word=word):
            if not low.loops:
                raise TextError(node.span, f"{word} stands outside of a loop", "return ends a probe")
            return [tree.Break(node.span) if word == "break" else tree.Continue(node.span)]
        case s.ForRange():
            return for_range(low, node)
        case s.Unroll():
            return unroll(low, node)
        case s.Discard(value=value):
            return perform(low, value, node.span) if isinstance(value, s.Call | s.Block | s.If) else []
        case s.While():
            return while_(low, node)
        case s.ForMap():
            return for_map(low, node)
    raise unready("import", node.span)


def perform(low: "Lowering", node: s.Expr, span: Span) -> list[tree.Stmt]:
    """An expression for its effect."""
    match node:
        case s.If():
            return choose(low, node)
        case s.Block():
            return list(low.block(node))
        case s.Step(operand=operand, op=op):
            one = s.Int(1, node.span)
            return assign(low, s.Assign(operand, op[0], one, span))
        case s.Call(function="delete", arguments=(s.Map(key=first), _, *_) as several) if first is not None:
            return [maps.delete(low, node.replace(arguments=(one,))) for one in several]
        case s.Call():
            macro = meant(low.macros, node)
            if macro is None:
                return call_statement(low, node)
            value = expand(low, node, macro, wanted=False)
            assert value is None
            return []
        case s.Name(id=id) if id in low.substitutes[-1]:  # what a macro was given, for its effect
            given = low.substitutes[-1][id]
            return given.made(low, lambda there, argument: perform(there, argument, span))
        case s.Ternary(test=test, then=then, otherwise=otherwise) if then is not None:
            chosen = condition(low, test)
            return [tree.If(chosen, alone(low, then), alone(low, otherwise), span)]
    return [tree.Assign(low.declare(""), low.expression(node), span, node.span)]


def alone(low: "Lowering", node: s.Expr) -> tuple[tree.Stmt, ...]:
    """An expression as a block of its own."""
    return low.block(s.Block((s.Do(node, node.span),), None, node.span))


def choose(low: "Lowering", node: s.If) -> list[tree.Stmt]:
    """A choice; one that is made before the script runs leaves nothing of the other branch."""
    known = comptime(low, node.test)
    if known is not None:
        taken = node.then if known else node.otherwise
        return [] if taken is None else perform(low, taken, node.span)
    test = condition(low, node.test)
    then = low.block(node.then)
    otherwise: tuple[tree.Stmt, ...] = ()
    if isinstance(node.otherwise, s.If):
        inner = s.Block((s.Do(node.otherwise, node.otherwise.span),), None, node.otherwise.span)
        otherwise = low.block(inner)
    elif node.otherwise is not None:
        otherwise = low.block(node.otherwise)
    return [tree.If(test, then, otherwise, node.span)]


def assign(low: "Lowering", node: s.Assign) -> list[tree.Stmt]:
    """An assignment to a variable or a map."""
    target = node.target
    if isinstance(target, s.Map):
        return maps.assign_map(low, target, node)
    assert isinstance(target, s.Var)
    if node.op:
        value: tree.Expr = low.expression(s.Binary(node.op, target, node.value, node.span))
    else:
        value = kept(low, node.value)
    return [tree.Assign(low.set(target), value, node.span, target.span)]


def let(low: "Lowering", node: s.Let) -> list[tree.Stmt]:
    """A declaration: without a value it is 0."""
    span = node.target.span
    value = tree.Number(0, span) if node.value is None else kept(low, node.value)
    type_, type_span = "", span
    if node.type is not None and node.type.value is not None:
        low.expression(node.type.value)  # typeof: of the type that it has from what it is given
    elif node.type is not None:
        type_, type_span = type_name(low, node.type), node.type.span
    if node.target.id in low.scopes[-1]:
        raise TextError(span, f"${node.target.id} is declared already in this block", "leave out let")
    whole = type_.endswith("]") or (type_.startswith(("struct ", "union ")) and "*" not in type_)
    if node.value is None and whole:  # which has no value until it is given one
        low.declare(node.target.id)
        return []
    return [tree.Assign(low.declare(node.target.id), value, node.span, span, type_, type_span)]


def for_range(low: "Lowering", node: s.ForRange) -> list[tree.Stmt]:
    """A loop over a range."""
    start, end = low.expression(node.start), low.expression(node.end)
    return loop(low, node.target, start, end, node.body, node.span)


def for_map(low: "Lowering", node: s.ForMap) -> list[tree.Stmt]:
    """A loop over a map."""
    map = maps.declaration(low, node.map)
    low.scopes.append({})
    name = low.declare(node.target.id)
    low.loops += 1
    made = low.block(node.body)
    low.loops -= 1
    low.scopes.pop()
    return [tree.ForMap(name, map, made, node.span, node.target.span, node.map.span)]


def while_(low: "Lowering", node: s.While) -> list[tree.Stmt]:
    """A loop as long as a condition holds, at most so often."""
    span = node.test.span
    most = tree.Number(MAX_TURNS, span)
    said = tree.Call("turns", (most,), (), span, span)
    hoisting, low.hoisting = low.hoisting, True  # what the condition changes is done in each turn, first
    before, low.pending = low.pending, []
    test = condition(low, node.test)
    first, low.pending, low.hoisting = low.pending, before, hoisting
    low.loops += 1
    body = low.block(node.body)
    low.loops -= 1
    if first:
        over = tree.If(tree.Unary("not", test, span), (tree.Break(span),), (), span)
        return [tree.While(said, (*first, over, *body), node.span)]
    tests = test.operands if isinstance(test, tree.Logic) and test.op == "and" else (test,)
    return [tree.While(tree.Logic("and", (said, *tests), span), body, node.span)]


def unroll(low: "Lowering", node: s.Unroll) -> list[tree.Stmt]:
    """A loop of a constant number of turns."""
    count = constant(low, node.count)
    if count is None:
        raise TextError(node.count.span, f"unroll takes a constant number from 1 to {UNROLLED_MOST}")
    if not 0 < count <= UNROLLED_MOST:
        bound = "minimum value is 1" if count < 1 else f"maximum value is {UNROLLED_MOST}"
        raise TextError(node.count.span, f"unroll {bound}")
    span = node.count.span
    start, end = tree.Number(0, span), tree.Number(count, span)
    return loop(low, s.Var("", span), start, end, node.body, node.span)


def loop(
    low: "Lowering", target: s.Var, start: tree.Expr, end: tree.Expr, body: s.Block, span: Span
) -> list[tree.Stmt]:
    """A loop whose variable is its own."""
    low.scopes.append({})
    name = low.declare(target.id)
    low.loops += 1
    made = low.block(body)
    low.loops -= 1
    low.scopes.pop()
    step = tree.Number(1, span)
    return [tree.For(name, start, end, step, made, span, target.span, _over(start.span, end.span))]


def call_statement(low: "Lowering", node: s.Call) -> list[tree.Stmt]:
    """A call for its effect."""
    word = known(low, node)
    if word.name in STATEMENTS:
        return [STATEMENTS[word.name](low, node)]
    return [tree.Assign(low.declare(""), low.expression(node), node.span, node.span)]


def exit_(low: "Lowering", node: s.Call) -> tree.Stmt:
    """The end of the script."""
    arguments = tuple(low.expression(one) for one in node.arguments)
    return tree.Do(tree.Call("exit", arguments, (), node.span, node.function_span), node.span)


def signal(low: "Lowering", node: s.Call) -> tree.Stmt:
    """A signal to the process, or to the thread (signal_thread), by its number or name."""
    if not low.surroundings.unsafe:
        raise TextError(node.span, f"{node.function}() is unsafe", "allow it: --unsafe")
    [given] = node.arguments
    name = text_constant(low, given)
    number = low.expression(given) if name is None else tree.Number(_signal(name, given.span), given.span)
    return tree.Signal(number, node.function == "signal_thread", node.span)


def _signal(name: str, span: Span) -> int:
    """The number of a signal by its name, with or without SIG."""
    full = name if name.startswith("SIG") else f"SIG{name}"
    numbers = {known: number for number, known in SIGNALS.items()}
    if full not in numbers:
        raise TextError(span, f"there is no signal {name}", did_you_mean(full, numbers))
    return numbers[full]


def assert_(low: "Lowering", node: s.Call) -> tree.Stmt:
    """The end of the script where a condition does not hold, and an error that says so."""
    test, text = node.arguments
    span = node.span
    word = s.Name("errorf", node.function_span)
    told = s.Call("errorf", (s.Str("assert failed: %s", text.span), text), span, word.span)
    ended = s.Call("exit", (s.Int(1, span),), span, node.function_span)
    failed = low.block(s.Block((s.Do(told, span), s.Do(ended, span)), None, span))
    return tree.If(condition(low, test), (), failed, span)


def static_assert(low: "Lowering", node: s.Call) -> tree.Stmt:
    """Refuse a script in which a condition does not hold."""
    test, text = node.arguments
    value = constant(low, test)
    if value is None:
        raise TextError(test.span, "whether this holds is not known before the script runs", "use assert")
    if not value:
        raise TextError(node.span, text_constant(low, text) or "a static_assert does not hold")
    return tree.If(tree.Number(1, node.span), (), (), node.span)


def fail(low: "Lowering", node: s.Call) -> tree.Stmt:
    """Refuse a script that has come here."""
    head, *rest = node.arguments
    text = text_constant(low, head)
    if text is None:
        raise TextError(head.span, "the text is not a string", 'write fail("…")')
    known = [(text_constant(low, one), one) for one in rest]
    given = [constant(low, one) if text is None else text for text, one in known]
    texts, conversions = split(text)
    if len(conversions) != len(given) or None in given:
        raise TextError(node.span, "the values of this text are not known before the script runs")
    pairs = zip(given, texts[1:], strict=True)
    raise TextError(node.span, texts[0] + "".join(f"{value}{behind}" for value, behind in pairs))


def _over(left: Span, right: Span) -> Span:
    return Span(left.line, left.column, right.end_line, right.end_column)


STATEMENTS: Final["Mapping[str, Callable[[Lowering, s.Call], tree.Stmt]]"] = {
    "printf": output.printf,
    "print": output.print_,
    "time": output.time_,
    "join": output.join,
    "cat": output.cat,
    "system": output.system,
    "errorf": output.told,
    "warnf": output.told,
    "clear": output.empty,
    "zero": output.empty,
    "delete": maps.delete,
    "exit": exit_,
    "signal": signal,
    "signal_thread": signal,
    "assert": assert_,
    "static_assert": static_assert,
    "fail": fail,
}
"""The functions that are called for their effect, by name."""
