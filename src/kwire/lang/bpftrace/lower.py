"""From the tree of a script to the tree that every front end makes, one probe at one place at a time.

Invariants: what cannot be said in that tree is refused here, at its place, and never left out; a variable of
a block is a local of its own, whatever others have its name; a macro's text is part of the probe at each
place where it is used. Division truncates, as in C.
"""

from collections.abc import Callable, Mapping, Set
from typing import Final

from kwire.kinds import TRACE
from kwire.lang import attach, check, tree
from kwire.lang import checked as c
from kwire.lang import types as t
from kwire.lang.bpftrace import syntax as s
from kwire.lang.bpftrace import tables
from kwire.lang.bpftrace.types import INTEGERS
from kwire.lang.context import Site
from kwire.lang.errors import Diagnostic, LanguageError, TextError, did_you_mean
from kwire.lang.events import RESERVED
from kwire.lang.expressions import Types
from kwire.lang.forms import walk
from kwire.lang.inferred import Inferred
from kwire.lang.tree import AttachPoint, Source, Span
from kwire.lazy import NamedTuple
from kwire.wire.printf import INTEGERS as INTEGER_CONVERSIONS
from kwire.wire.printf import Conversion, FormatError, split
from kwire.words import plural

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
AGGREGATES: Final = {
    "count": "count",
    "sum": "sum",
    "min": "min",
    "max": "max",
    "avg": "stats",
    "stats": "stats",
    "hist": "hist",
    "lhist": "lhist",
}
"""The functions that are assigned to maps → the kinds of maps."""

BUCKETS_MOST: Final = 1000
"""Of a linear histogram."""

COMPARISONS: Final = {"==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}
UNROLLED_MOST: Final = 100
TURNS: Final = 1 << 20
NESTED_TURNS: Final = 1 << 10
"""How often a `while` runs at most, and one inside of another loop."""

FORMAT_MOST: Final = 16_384
"""Characters of a format."""

EXPANDED_MOST: Final = 10_000
"""Macros expanded in one probe."""


class Surroundings(NamedTuple):
    """What a script is run with: its arguments, the process id of the command (0: none), when it began in ns
    of the monotonic clock, how many CPUs there can be.
    """

    arguments: tuple[str, ...] = ()
    command: int = 0
    began: int = 0
    cpus: int = 1


class ScriptProbe:
    """A probe of a script: where it attaches, and its program at each place."""

    __slots__ = ("_name", "_script", "_settings", "_source", "_surroundings", "attach", "maps", "probe")

    def __init__(
        self,
        script: s.Script,
        number: int,
        attach: tuple[AttachPoint, ...],
        settings: Mapping[str, int | str | bool],
        surroundings: Surroundings,
        maps: Mapping[str, Inferred],
    ) -> None:
        self.probe = script.probes[number]
        self.attach = attach
        self.maps = maps
        self._script = script
        self._settings = settings
        self._surroundings = surroundings
        self._name = f"probe_{number + 1}"
        self._source = script.source._replace(kept=_text(script.source, self.probe))

    def faults(self) -> list[Diagnostic]:
        """What is wrong in it whatever the places have: of the words of the language."""
        site = Site(self.attach[0].kind, self.attach[0].target, ()) if self.attach else Site("begin", "", ())
        try:
            lowering = self._lowered(site)[0]
        except RecursionError:
            return [self._deep()]
        return lowering.faults

    def _lowered(self, site: Site) -> "tuple[Lowering, tuple[tree.Stmt, ...]]":
        """The probe at a place as statements. A variable that is used behind the block it was first assigned
        in is one of the whole probe, as all once were.
        """
        wide: set[str] = set()
        while True:
            lowering = Lowering(
                self._script, self.probe, site, self._settings, self._surroundings, self.maps, wide
            )
            body = lowering.body()
            if lowering.wide <= wide:
                return lowering, body
            wide |= lowering.wide

    def _deep(self) -> Diagnostic:
        return Diagnostic(self.probe.span, "this probe is nested too deeply", "use variables")

    def program(self, site: Site, types: Types) -> c.Program:
        """The program at one place. Raises `LanguageError` with everything that is wrong in it."""
        source = self._source
        try:
            lowering, body = self._lowered(site)
            if lowering.faults:
                raise LanguageError(source, lowering.faults)
            span = self.probe.span
            made = tree.Probe(self._name, (), (), body, source, span)
            program = check.check(made, site, types, dialect=check.C)
            return lowering.printed(program)
        except LanguageError as error:
            raise LanguageError(source, map(_in_own_words, error.diagnostics)) from None
        except RecursionError:
            raise LanguageError(source, [self._deep()]) from None


def _text(source: Source, probe: s.Probe) -> str:
    """The text of a probe."""
    lines = source.lines()[probe.span.line - 1 : probe.body.span.end_line]
    if not lines:
        return ""
    end, first = probe.body.span.end_column, probe.span.column
    lines[-1] = lines[-1][:end]
    lines[0] = lines[0][first:]
    return "\n".join(lines)


# -- the script as a whole


def settings(script: s.Script) -> dict[str, int | str | bool]:
    """The settings of the config block, with those that it does not name. Raises `LanguageError`."""
    found: dict[str, int | str | bool] = {one.name: one.default for one in tables.SETTINGS}
    faults: list[Diagnostic] = []
    for one in script.settings:
        name = tables.RENAMED.get(one.name, one.name)
        known = tables.SETTING.get(name)
        if known is None:
            cure = did_you_mean(one.name, tables.SETTING)
            faults.append(Diagnostic(one.span, f"there is no setting {one.name}", cure))
        elif not known.ready and one.value != known.default:
            faults.append(Diagnostic(one.span, f"the setting {one.name} is not supported yet"))
        elif known.values and str(one.value).lower() not in known.values:
            cure = f"it is one of {', '.join(known.values)}"
            faults.append(Diagnostic(one.span, f"{one.name} cannot be {one.value}", cure))
        elif (
            not known.values
            and isinstance(known.default, int)
            and not isinstance(one.value, int)
            and known.default
        ):
            faults.append(Diagnostic(one.span, f"{one.name} is a number"))
        else:
            value = one.value
            found[name] = str(value).lower() == "true" if known.values == ("true", "false") else value
    if faults:
        raise LanguageError(script.source, faults)
    return found


def probes(script: s.Script, surroundings: Surroundings) -> list[ScriptProbe]:
    """The probes of a script. Raises `LanguageError` with what is wrong in it whatever the kernel has."""
    faults = [
        *(Diagnostic(one.span, "import is not supported yet") for one in script.imports),
        *(
            Diagnostic(one.span, "functions are not supported yet", "write a macro")
            for one in script.functions
        ),
        *_unready_types(script),
    ]
    names: dict[str, s.Macro] = {}
    for macro in script.macros:
        if macro.name in names:
            faults.append(Diagnostic(macro.span, f"there are two macros {macro.name}"))
        names[macro.name] = macro
    try:
        chosen: Mapping[str, int | str | bool] = settings(script)
    except LanguageError as error:
        faults += error.diagnostics
        chosen = {}
    maps = _maps(script, chosen, faults)
    found: list[ScriptProbe] = []
    for number, probe in enumerate(script.probes):
        points: list[AttachPoint] = []
        for point in probe.points:
            try:
                points.append(attach_point(point, surroundings.arguments))
            except TextError as error:
                faults.append(error.diagnostic)
        found.append(ScriptProbe(script, number, tuple(points), chosen, surroundings, maps))
    faults += [fault for probe in found for fault in probe.faults()]
    if faults:
        raise LanguageError(script.source, faults)
    return found


KINDS: Final = {"hash": "hash", "lruhash": "lru"}
"""The kinds of maps that can be declared."""


def _maps(
    script: s.Script, settings: Mapping[str, int | str | bool], faults: list[Diagnostic]
) -> dict[str, Inferred]:
    """The maps of a script by name: their kinds follow from what is assigned to them. `faults` takes what is
    wrong.
    """
    most = settings.get("max_map_keys", 4096)
    declared = {one.id: one for one in script.maps}
    for one in script.maps:
        if one.kind not in KINDS:
            cure = f"there are {', '.join(KINDS)}"
            faults.append(Diagnostic(one.kind_span, f"a map of kind {one.kind} is not supported yet", cure))
    found: dict[str, Inferred] = {}
    nodes = [node for part in (*script.probes, *script.macros) for node in walk(part)]
    for node in nodes:
        if isinstance(node, s.Assign) and isinstance(node.target, s.Map):
            value = node.value
            if isinstance(value, s.Call) and value.function in AGGREGATES:
                _aggregate(found, node.target.id, value, int(most), faults)
    for node in nodes:
        if isinstance(node, s.Map) and node.id not in found:
            row = declared.get(node.id)
            kind = KINDS.get(row.kind, "hash") if row else "hash"
            size = row.entries if row else int(most)
            found[node.id] = Inferred(f"@{node.id}", kind, max(size, 1), (0, 0, 0), kind)
    return found


def _aggregate(
    found: dict[str, Inferred], name: str, call: s.Call, size: int, faults: list[Diagnostic]
) -> None:
    """A map to which an aggregating function is assigned."""
    bounds, shows = (0, 0, 0), call.function
    if shows == "lhist" and len(call.arguments) == 4:
        numbers = [_literal(one) for one in call.arguments[1:]]
        low, high, step = (0 if one is None else one for one in numbers)
        if None in numbers or step <= 0 or high <= low or (high - low) // step > BUCKETS_MOST:
            cure = f"min, max and step are numbers; there are at most {BUCKETS_MOST} buckets"
            faults.append(Diagnostic(call.span, "this histogram has no buckets", cure))
        bounds = low, high, max(step, 1)
    if shows == "hist" and len(call.arguments) == 2 and _literal(call.arguments[1]) != 0:
        faults.append(Diagnostic(call.arguments[1].span, "the second argument of hist is not supported yet"))
    known = found.get(name)
    if known is None:
        found[name] = Inferred(f"@{name}", AGGREGATES[shows], size, bounds, shows)
    elif (known.shows, known.bounds) != (shows, bounds):
        message = f"@{name} is a {known.shows}, and this is another"
        faults.append(Diagnostic(call.span, message, "use another map"))


def _literal(node: s.Expr) -> int | None:
    """A number as it is written; None where it is none."""
    if isinstance(node, s.Unary) and node.op == "-":
        value = _literal(node.operand)
        return None if value is None else -value
    return node.value if isinstance(node, s.Int) else None


def _unready_types(script: s.Script) -> list[Diagnostic]:
    cure = "the kernel's own types need no definition"
    return [Diagnostic(one.span, "types of one's own are not supported yet", cure) for one in script.structs]


def attach_point(point: s.AttachPoint, arguments: tuple[str, ...]) -> AttachPoint:
    """What an attach point means. Raises `TextError`."""
    text = _unquoted(point, arguments)
    word, _, rest = text.partition(":")
    provider = tables.PROVIDER.get(word.lower())
    if provider is None:
        cure = did_you_mean(word.lower(), tables.PROVIDER) or "as in kprobe:tcp_connect { … }"
        raise TextError(point.span, f"there is no kind of probe {word!r}", cure)
    if not provider.kind:
        raise TextError(point.span, f"{provider.name} is not supported yet")
    if provider.kind in TRACE and not rest:
        return AttachPoint(provider.kind, "", "", 0, point.span)
    if not rest:
        raise TextError(point.span, f"{word!r} says no target", f"write {provider.form}")
    try:
        made = attach.parse(Source("", f"{provider.kind}:{rest}"), len(provider.kind) + 1 + len(rest))
    except LanguageError as error:
        raise TextError(point.span, error.cause, error.cure) from None
    return made.replace(span=point.span)


def _unquoted(point: s.AttachPoint, arguments: tuple[str, ...]) -> str:
    """The text of an attach point without quotes, its parameters replaced."""
    text = point.text.replace('"', "")
    at = text.find("$")
    while at >= 0:
        end = at + 1
        while text[end : end + 1].isdecimal() and text[end : end + 1].isascii():
            end += 1
        number = int(text[at + 1 : end] or 0)
        if not 0 < number <= len(arguments):
            message = (
                f"there is no argument {text[at:end]}"
                if number
                else "$ stands before the number of an argument"
            )
            raise TextError(point.span, message, "give it behind the script")
        text = text[:at] + arguments[number - 1] + text[end:]
        at = text.find("$", at + len(arguments[number - 1]))
    return text


# -- one probe


class Print(NamedTuple):
    """A statement that prints: how, in which format, and of each value its conversion and its place."""

    prints: str
    format: str
    span: Span
    arguments: tuple[tuple[Conversion, Span], ...] = ()


class Lowering:
    """One probe at one place, while its tree is made."""

    def __init__(
        self,
        script: s.Script,
        probe: s.Probe,
        site: Site,
        settings: Mapping[str, int | str | bool],
        surroundings: Surroundings,
        maps: Mapping[str, Inferred],
        wide: Set[str],
    ) -> None:
        self.probe = probe
        self.maps = maps
        self.known_wide = wide
        self.wide: set[str] = set()  # variables that are used behind their blocks
        self.site = site
        self.settings = settings
        self.surroundings = surroundings
        self.macros = {one.name: one for one in script.macros}
        texts = (node for part in (*script.probes, *script.macros) for node in walk(part))
        self.texts = tuple(
            dict.fromkeys(node.value for node in texts if isinstance(node, s.Str) and node.value)
        )
        self.enums = {name: value for one in script.enums for name, value in one.values}
        self.faults: list[Diagnostic] = []
        self.prints: dict[str, Print] = {}
        self.scopes: list[dict[str, str]] = [{}]
        self.names: dict[str, int] = {}
        self.substitutes: list[dict[str, tree.Expr]] = [{}]
        self.pending: list[tree.Stmt] = []  # what is done before the statement that is made
        self.hoisting = True  # whether that is so for all of it
        self.loops = 0  # around what is made
        self.expanding: list[str] = []
        self.expanded = 0

    @property
    def full_name(self) -> str:
        """The name of the probe at this place."""
        site = self.site
        return f"{site.kind}:{site.target}" if site.target else site.kind

    def body(self) -> tuple[tree.Stmt, ...]:
        """The statements of the probe."""
        body = self.block(self.probe.body)
        if self.probe.predicate is None:
            return body
        before = self.pending
        self.pending = []
        try:
            test = self.condition(self.probe.predicate)
        except TextError as error:
            self.faults.append(error.diagnostic)
            return body
        first, self.pending = self.pending, before
        return (*first, tree.If(test, body, (), self.probe.predicate.span))

    def printed(self, program: c.Program) -> c.Program:
        """The checked program with how its events are printed. Raises `LanguageError` where formats do not
        fit their values.
        """
        faults: list[Diagnostic] = []
        shapes = []
        for shape in program.shapes:
            known = self.prints.get(shape.name)
            if known is None:
                shapes.append(shape)
                continue
            if len(known.arguments) != len(shape.fields):
                faults.append(
                    Diagnostic(known.span, "a tuple to be printed is not supported yet", "print its items")
                )
                continue
            for (conversion, span), field in zip(known.arguments, shape.fields, strict=True):
                if not _takes(conversion, field.type):
                    message = f"{conversion.text} does not take {t.article(field.type)}"
                    faults.append(Diagnostic(span, message, "use %s" if conversion.letters != "s" else ""))
            shapes.append(shape.replace(prints=known.prints, format=known.format))
        if faults:
            raise LanguageError(program.source, faults)
        return program.replace(shapes=tuple(shapes))

    # -- statements

    def block(self, block: s.Block) -> tuple[tree.Stmt, ...]:
        """The statements of a block, whose variables are its own."""
        self.scopes.append({})
        found: list[tree.Stmt] = []
        statements: list[s.Stmt] = [*block.body]
        if block.value is not None:
            statements.append(s.Do(block.value, block.value.span))
        for one in statements:
            before, self.pending, self.hoisting = self.pending, [], True
            try:
                made = self.statement(one)
            except TextError as error:
                self.faults.append(error.diagnostic)
                made = []
                if isinstance(one, s.Assign | s.Let) and isinstance(one.target, s.Var):
                    self.set(one.target)  # one complaint is enough
            found += self.pending
            found += made
            self.pending = before
        self.scopes.pop()
        return tuple(found)

    def statement(self, node: s.Stmt) -> list[tree.Stmt]:
        """A statement. Raises `TextError`."""
        match node:
            case s.Do(value=value):
                return self.do(value, node.span)
            case s.Assign():
                return self.assign(node)
            case s.Let():
                return self.let(node)
            case s.Jump(word="return"):
                if node.value is not None and not isinstance(node.value, s.Int):
                    self.expression(node.value)
                return [tree.Return(node.span)]
            case s.Jump(word="break"):
                return [tree.Break(node.span)]
            case s.Jump():
                return [tree.Continue(node.span)]
            case s.ForRange():
                return self.for_range(node)
            case s.Unroll():
                return self.unroll(node)
            case s.Discard(value=value):
                return self.do(value, node.span) if isinstance(value, s.Call) else []
            case s.While():
                return self.while_(node)
            case s.ForMap():
                raise _unready("a loop over a map", node.map.span)
        raise _unready("import", node.span)

    def do(self, node: s.Expr, span: Span) -> list[tree.Stmt]:
        """An expression for its effect."""
        match node:
            case s.If():
                return self.if_(node)
            case s.Block():
                return list(self.block(node))
            case s.Step(operand=operand, op=op):
                one = s.Int(1, node.span)
                return self.assign(s.Assign(operand, op[0], one, span))
            case s.Call(function=function) if function not in self.macros:
                return self.call_statement(node)
            case s.Call():
                value = self.macro(node, wanted=False)
                assert value is None
                return []
            case s.Ternary(test=test, then=then, otherwise=otherwise) if then is not None:
                condition = self.condition(test)
                return [tree.If(condition, self.alone(then), self.alone(otherwise), span)]
        return [tree.Assign(self.declare(""), self.expression(node), span, node.span)]

    def alone(self, node: s.Expr) -> tuple[tree.Stmt, ...]:
        """An expression as a block of its own."""
        return self.block(s.Block((s.Do(node, node.span),), None, node.span))

    def if_(self, node: s.If) -> list[tree.Stmt]:
        """A choice."""
        test = self.condition(node.test)
        then = self.block(node.then)
        otherwise: tuple[tree.Stmt, ...] = ()
        if isinstance(node.otherwise, s.If):
            inner = s.Block((s.Do(node.otherwise, node.otherwise.span),), None, node.otherwise.span)
            otherwise = self.block(inner)
        elif node.otherwise is not None:
            otherwise = self.block(node.otherwise)
        return [tree.If(test, then, otherwise, node.span)]

    def assign(self, node: s.Assign) -> list[tree.Stmt]:
        """An assignment to a variable or a map."""
        target = node.target
        if isinstance(target, s.Map):
            return self.assign_map(target, node)
        assert isinstance(target, s.Var)
        if node.op:
            value: tree.Expr = self.binary(s.Binary(node.op, target, node.value, node.span))
        else:
            value = self.kept(node.value)
        return [tree.Assign(self.set(target), value, node.span, target.span)]

    def kept(self, node: s.Expr) -> tree.Expr:
        """A value that is kept, or one of two: a constant text is one of all those of the script."""
        text = self.text_constant(node)
        if not text:
            return self.expression(node) if text is None else tree.Number(0, node.span)
        known = self.texts if text in self.texts else (*self.texts, text)
        return tree.String(text, node.span, known)

    def assign_map(self, target: s.Map, node: s.Assign) -> list[tree.Stmt]:
        """An assignment to a map, or a value that is added to what it keeps."""
        value, element, span = node.value, self.element(target), node.span
        shows = self.maps[target.id].shows
        if not node.op and isinstance(value, s.Call) and value.function in AGGREGATES:
            self.known(value)
            if shows not in AGGREGATES:
                raise TextError(target.span, f"@{target.id} holds values; {value.function} needs another map")
            added = self.expression(value.arguments[0]) if value.arguments else None
            return [tree.Aggregate(element, added, span)]
        if shows in AGGREGATES:
            cure = f"write @{target.id} = {shows}(…)"
            raise TextError(node.span, f"@{target.id} is a {shows}, to which nothing else is assigned", cure)
        if node.op in ("+", "-"):
            added = self.expression(value)
            if node.op == "-":
                if isinstance(added, tree.Number):
                    added = tree.Number(-added.value, span)
                else:
                    added = tree.Unary("neg", added, span)
            return [tree.Aggregate(element, added, span)]
        if node.op:
            return [tree.SetElement(element, self.binary(s.Binary(node.op, target, value, span)), span)]
        return [tree.SetElement(element, self.kept(value), span)]

    def element(self, node: s.Map) -> tree.Element:
        """A map at a key."""
        known = self.maps[node.id]
        items: tuple[s.Expr, ...] = ()
        if node.key is not None:
            items = node.key.items if isinstance(node.key, s.Tuple) else (node.key,)
        key = tuple(self.key_part(one) for one in items)
        made = tree.MapDeclaration(known.title, known.kind, (), "", known.size, known.bounds, known)
        return tree.Element(made, key, node.span)

    def key_part(self, node: s.Expr) -> tree.Expr:
        """A part of a key."""
        return self.expression(node)

    def set(self, target: s.Var) -> str:
        """The local that an assignment to a variable sets, which may be a new one of this block."""
        for scope in reversed(self.scopes):
            if target.id in scope:
                return scope[target.id]
        return self.declare(target.id)

    def declare(self, name: str) -> str:
        """A new local of this block."""
        if name in self.known_wide and not self.expanding:
            self.scopes[0][name] = f"${name}"
            return f"${name}"
        number = self.names[name] = self.names.get(name, 0) + 1
        local = f"${name}" if number == 1 else f"${name}.{number}"
        self.scopes[-1][name] = local
        return local

    def let(self, node: s.Let) -> list[tree.Stmt]:
        """A declaration: without a value it is 0."""
        span = node.target.span
        value = tree.Number(0, span) if node.value is None else self.kept(node.value)
        type_, type_span = "", span
        if node.type is not None:
            type_, type_span = self.type_name(node.type), node.type.span
        if node.target.id in self.scopes[-1]:
            raise TextError(span, f"${node.target.id} is declared already in this block", "leave out let")
        return [tree.Assign(self.declare(node.target.id), value, node.span, span, type_, type_span)]

    def for_range(self, node: s.ForRange) -> list[tree.Stmt]:
        """A loop over a range."""
        start, end = self.expression(node.start), self.expression(node.end)
        return self.loop(node.target, start, end, node.body, node.span)

    def while_(self, node: s.While) -> list[tree.Stmt]:
        """A loop as long as a condition holds, at most so often."""
        span = node.test.span
        most = tree.Number(NESTED_TURNS if self.loops else TURNS, span)
        said = tree.Call("turns", (most,), (), span, span)
        before, self.hoisting = self.hoisting, False
        test = self.condition(node.test)
        self.hoisting = before
        tests = test.operands if isinstance(test, tree.Logic) and test.op == "and" else (test,)
        self.loops += 1
        body = self.block(node.body)
        self.loops -= 1
        return [tree.While(tree.Logic("and", (said, *tests), span), body, node.span)]

    def unroll(self, node: s.Unroll) -> list[tree.Stmt]:
        """A loop of a constant number of turns."""
        count = self.constant(node.count)
        if count is None or not 0 < count <= UNROLLED_MOST:
            raise TextError(node.count.span, f"unroll takes a constant number from 1 to {UNROLLED_MOST}")
        span = node.count.span
        start, end = tree.Number(0, span), tree.Number(count, span)
        return self.loop(s.Var("", span), start, end, node.body, node.span)

    def loop(
        self, target: s.Var, start: tree.Expr, end: tree.Expr, body: s.Block, span: Span
    ) -> list[tree.Stmt]:
        """A loop whose variable is its own."""
        self.scopes.append({})
        name = self.declare(target.id)
        self.loops += 1
        made = self.block(body)
        self.loops -= 1
        self.scopes.pop()
        step = tree.Number(1, span)
        return [tree.For(name, start, end, step, made, span, target.span, _over(start.span, end.span))]

    # -- calls that are statements

    def call_statement(self, node: s.Call) -> list[tree.Stmt]:
        """A call for its effect."""
        word = self.known(node)
        if word.name == "printf":
            return [self.printf(node)]
        if word.name == "time":
            return [self.time(node)]
        if word.name == "delete":
            return [self.delete(node)]
        if word.name == "print":
            return [self.print(node)]
        if word.name in ("clear", "zero"):
            return [self.emit(word.name, self.whole_map(node.arguments[0]), {}, [], node.span)]
        if word.name == "exit":
            return [self.exit(node)]
        return [tree.Assign(self.declare(""), self.expression(node), node.span, node.span)]

    def known(self, node: s.Call) -> tables.Word:
        """The row of a function. Raises `TextError` where there is none, or it cannot be called so."""
        name, span = node.function, node.function_span
        word = tables.FUNCTION.get(name)
        if word is None:
            if name in tables.BUILTIN and not node.arguments:
                return tables.BUILTIN[name]
            names = [*tables.FUNCTION, *self.macros]
            raise TextError(span, f"there is no function {name}", did_you_mean(name, names))
        if not word.ready:
            if name in tables.BUILTIN and not node.arguments:
                return tables.BUILTIN[name]
            raise _unready(f"{name}()", span)
        count = len(node.arguments)
        if not word.least <= count <= word.most:
            raise TextError(
                node.span, f"{name} was called with {plural(count, 'argument')}", f"write {word.form}"
            )
        return word

    def printf(self, node: s.Call) -> tree.Stmt:
        """A line, which is an event of its own shape."""
        head, *arguments = node.arguments
        if not isinstance(head, s.Str):
            raise TextError(head.span, "the format is not a string", 'write printf("…", …)')
        try:
            texts, conversions = split(head.value)
        except FormatError as error:
            raise TextError(head.span, str(error), "write %% for a percent sign") from None
        if len(conversions) != len(arguments):
            wanted = plural(len(conversions), "conversion")
            message = f"the format has {wanted} for {plural(len(arguments), 'value')}"
            raise TextError(node.span, message, "give one value for each %")
        if len(head.value) > FORMAT_MOST:
            raise TextError(
                head.span, f"the format is longer than {FORMAT_MOST} characters", "print it in parts"
            )
        format = texts[0].replace("%", "%%")
        fields: dict[str, tree.Expr] = {}
        places: list[tuple[Conversion, Span]] = []
        for conversion, argument, text in zip(conversions, arguments, texts[1:], strict=True):
            fixed = self.text_constant(argument)
            if fixed is not None:
                format += _folded(conversion, fixed, argument.span).replace("%", "%%")
            else:
                name = _free(_field_name(argument) or f"arg{len(fields) + 1}", fields)
                fields[name] = self.expression(argument)
                places.append((conversion, argument.span))
                format += conversion.text
            format += text.replace("%", "%%")
        return self.emit("printf", format, fields, places, node.span)

    def whole_map(self, node: s.Expr) -> str:
        """The name of a map that is meant as a whole."""
        if not isinstance(node, s.Map) or node.key is not None:
            raise TextError(node.span, "this is no map", "write @name")
        return self.maps[node.id].title

    def print(self, node: s.Call) -> tree.Stmt:
        """A map, an element of one, or a value."""
        target, *limits = node.arguments
        if isinstance(target, s.Map) and target.key is None:
            title = self.whole_map(target)
            numbers = [self.constant(one) for one in limits]
            if any(number is None or number < 0 for number in numbers):
                raise TextError(node.span, "top and div are constant numbers", "write print(@map, 5, 1000)")
            return self.emit("print", " ".join([title, *map(str, numbers)]), {}, [], node.span)
        if limits:
            raise TextError(node.span, "top and div are for maps", "write print(@map, 5)")
        if isinstance(target, s.Map):
            items = target.key.items if isinstance(target.key, s.Tuple) else (target.key,)
            parts = [one for one in items if one is not None]
            format = f"@{target.id}[{', '.join(['%s'] * len(parts))}]: %s\n"
            values = (s.Str(format, node.span), *parts, target)
            return self.printf(s.Call("printf", values, node.span, node.function_span))
        values = (s.Str("%s\n", node.span), target)
        return self.printf(s.Call("printf", values, node.span, node.function_span))

    def exit(self, node: s.Call) -> tree.Stmt:
        """The end of the script."""
        arguments = tuple(self.expression(one) for one in node.arguments)
        return tree.Do(tree.Call("exit", arguments, (), node.span, node.function_span), node.span)

    def delete(self, node: s.Call) -> tree.Stmt:
        """A key of a map is taken away; or all that a map without keys holds."""
        target, *rest = node.arguments
        if not isinstance(target, s.Map) or (rest and target.key is not None):
            raise TextError(target.span, "this is no map", "write delete(@map, key), or delete(@map)")
        if rest:
            target = target.replace(key=rest[0])
        return tree.DeleteElement(self.element(target), node.span)

    def call_has_key(self, node: s.Call) -> tree.Expr:
        """Whether a map has a key."""
        target, key = node.arguments
        if not isinstance(target, s.Map) or target.key is not None:
            raise TextError(target.span, "this is no map", "write has_key(@map, key)")
        return tree.HasKey(self.element(target.replace(key=key)), node.span)

    def time(self, node: s.Call) -> tree.Stmt:
        """The time of the event."""
        format = "%H:%M:%S\n"
        if node.arguments:
            given = node.arguments[0]
            if not isinstance(given, s.Str):
                raise TextError(given.span, "the format is not a string", 'write time("%H:%M:%S\\n")')
            format = given.value
        return self.emit("time", format, {}, [], node.span)

    def emit(
        self,
        prints: str,
        format: str,
        fields: Mapping[str, tree.Expr],
        places: list[tuple[Conversion, Span]],
        span: Span,
    ) -> tree.Stmt:
        """An event that is printed."""
        if any("\ud800" <= char <= "\udfff" for char in format):
            raise TextError(span, "bytes that are no UTF-8 cannot be printed yet")
        if "\0" in format:
            format = format[: format.index("\0")]
        name = f"{prints}{len(self.prints) + 1}"
        self.prints[name] = Print(prints, format, span, tuple(places))
        event = tree.String(name, span)
        return tree.Do(tree.Call("emit", (event,), tuple(fields.items()), span, span), span)

    # -- expressions

    def text_constant(self, node: s.Expr) -> str | None:
        """The text that an expression is, where that is known; None where it is not."""
        if isinstance(node, s.Str):
            return node.value
        if isinstance(node, s.Name) and node.id == "probe":
            return self.full_name
        if isinstance(node, s.Name) and node.id == "probetype":
            return self.site.kind
        if isinstance(node, s.Call) and node.function == "str" and len(node.arguments) == 1:
            argument = node.arguments[0]
            if isinstance(argument, s.Positional) and argument.number:
                return self.argument(argument) or ""
            return self.text_constant(argument)
        return None

    def argument(self, node: s.Positional) -> str:
        """An argument of the script, empty where it was not given."""
        given = self.surroundings.arguments
        return given[node.number - 1] if node.number <= len(given) else ""

    def constant(self, node: s.Expr) -> int | None:
        """The number that an expression is, where that is known."""
        made = self.expression(node)
        return made.value if isinstance(made, tree.Number) else None

    def condition(self, node: s.Expr) -> tree.Expr:
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
                    operands.append(self.guarded(one) if operands else self.condition(one))
            return tree.Logic(op, tuple(operands), node.span)
        if isinstance(node, s.Unary) and node.op == "!":
            return tree.Unary("not", self.condition(node.operand), node.span)
        return self.expression(node)

    def guarded(self, node: s.Expr) -> tree.Expr:
        """A condition that is looked at only where the one before it says so."""
        before, self.hoisting = self.hoisting, False
        try:
            return self.condition(node)
        finally:
            self.hoisting = before

    def expression(self, node: s.Expr) -> tree.Expr:
        """The value of an expression. Raises `TextError`."""
        method: Callable[[s.Expr], tree.Expr] = getattr(self, f"_{type(node).__name__.lower()}")
        return method(node)

    def _int(self, node: s.Int) -> tree.Expr:
        return tree.Number(node.value, node.span)

    def _bool(self, node: s.Bool) -> tree.Expr:
        return tree.Number(int(node.value), node.span, True)

    def _str(self, node: s.Str) -> tree.Expr:
        return tree.String(node.value, node.span)

    def _var(self, node: s.Var) -> tree.Expr:
        for scope in reversed(self.scopes):
            if node.id in scope:
                return tree.Name(scope[node.id], node.span)
        if node.id in self.names and not self.expanding:
            self.wide.add(node.id)
        known = {name for scope in self.scopes for name in scope if name}
        cure = did_you_mean(node.id, known) or "assign it before, in this block or around it"
        raise TextError(node.span, f"${node.id} has no value here", cure)

    def _map(self, node: s.Map) -> tree.Expr:
        shows = self.maps[node.id].shows
        if shows in ("hist", "lhist", "stats"):
            raise _unready(f"reading @{node.id}, which is a {shows},", node.span)
        return self.element(node)

    def _positional(self, node: s.Positional) -> tree.Expr:
        if not node.number:
            return tree.Number(len(self.surroundings.arguments), node.span)
        text = self.argument(node)
        if not text:
            return tree.Number(0, node.span)
        try:
            return tree.Number(_number(text), node.span)
        except ValueError:
            return tree.String(text, node.span)

    def _name(self, node: s.Name) -> tree.Expr:
        name, span = node.id, node.span
        substitute = self.substitutes[-1].get(name)
        if substitute is not None:
            return substitute
        if name in self.enums:
            return tree.Number(self.enums[name], span)
        word = tables.BUILTIN.get(name)
        if word is not None and not word.ready:
            raise _unready(name, span)
        if name in self.macros:
            return self._call(s.Call(name, (), span, span))
        simple = getattr(self, f"builtin_{name}", None) if word is not None else None
        if simple is not None:
            made: tree.Expr = simple(span)
            return made
        if name in tables.CONSTANTS:
            return tree.Number(tables.CONSTANTS[name], span)
        if name in tables.FUNCTION and word is None:
            raise TextError(span, f"{name} is a function", f"call it: {tables.FUNCTION[name].form}")
        return tree.Name(name, span)

    def builtin_probe(self, span: Span) -> tree.Expr:
        """The name of the probe."""
        return tree.String(self.full_name, span)

    def builtin_probetype(self, span: Span) -> tree.Expr:
        """The kind of the probe."""
        return tree.String(self.site.kind, span)

    def builtin_ncpus(self, span: Span) -> tree.Expr:
        """How many CPUs there can be."""
        return tree.Number(self.surroundings.cpus, span)

    def builtin_cpid(self, span: Span) -> tree.Expr:
        """The command's process id."""
        if not self.surroundings.command:
            raise TextError(span, "there is no command", "give one: -c COMMAND")
        return tree.Number(self.surroundings.command, span)

    def builtin_has_cpid(self, span: Span) -> tree.Expr:
        """Whether there is a command."""
        return tree.Number(int(self.surroundings.command > 0), span, True)

    def builtin_elapsed(self, span: Span) -> tree.Expr:
        """Time since the script began."""
        began = tree.Number(self.surroundings.began, span)
        return tree.Binary("sub", tree.Name("nsecs", span), began, span)

    def builtin_pcomm(self, span: Span) -> tree.Expr:
        """The name of the parent."""
        return self._of_task(("real_parent", "comm"), span)

    def builtin_leader_comm(self, span: Span) -> tree.Expr:
        """The name of the process' first thread."""
        return self._of_task(("group_leader", "comm"), span)

    def builtin_leader_tid(self, span: Span) -> tree.Expr:
        """The id of the process' first thread: the process' own."""
        return tree.Name("pid", span)

    def _of_task(self, members: tuple[str, ...], span: Span) -> tree.Expr:
        value: tree.Expr = tree.Name("curtask", span)
        for member in members:
            value = tree.Member(value, member, span, span)
        return value

    def _field(self, node: s.Field) -> tree.Expr:
        if isinstance(node.value, s.Name) and node.value.id == "args":
            head: tree.Expr = tree.Name("args", node.value.span)
        else:
            head = self.expression(node.value)
        return tree.Member(head, node.name, node.span, node.name_span)

    def _item(self, node: s.Item) -> tree.Expr:
        return tree.Index(self.expression(node.value), tree.Number(node.number, node.span), node.span)

    def _index(self, node: s.Index) -> tree.Expr:
        return tree.Index(self.expression(node.value), self.expression(node.subscript), node.span)

    def type_name(self, node: s.Type) -> str:
        """A type as the checker knows it."""
        if node.value is not None:
            raise _unready("typeof", node.span)
        word, blank, rest = node.name.partition(" ")
        base, bracket, length = word.partition("[")
        return INTEGERS.get(base, base) + bracket + length + blank + rest

    def _cast(self, node: s.Cast) -> tree.Expr:
        return tree.Cast(self.type_name(node.type), self.expression(node.value), node.span, node.type.span)

    def _sizeof(self, node: s.Sizeof) -> tree.Expr:
        of: tree.Expr = (
            tree.String(self.type_name(node.of), node.of.span)
            if isinstance(node.of, s.Type)
            else self.expression(node.of)
        )
        return tree.Call("sizeof", (of,), (), node.span, node.span)

    def _offsetof(self, node: s.Offsetof) -> tree.Expr:
        raise _unready("offsetof", node.span)

    def _typeinfo(self, node: s.Typeinfo) -> tree.Expr:
        raise _unready("typeinfo", node.span)

    def _comptime(self, node: s.Comptime) -> tree.Expr:
        return self.expression(node.value)

    def _unary(self, node: s.Unary) -> tree.Expr:
        if node.op == "!":
            return tree.Unary("not", self.condition(node.operand), node.span)
        operand = self.expression(node.operand)
        if node.op == "*":
            return tree.Call("deref", (operand,), (), node.span, node.span)
        if node.op == "-" and isinstance(operand, tree.Number):
            return tree.Number(-operand.value, node.span)
        return tree.Unary("neg" if node.op == "-" else "inv", operand, node.span)

    def _step(self, node: s.Step) -> tree.Expr:
        if isinstance(node.operand, s.Map):
            raise _unready("++ or -- of a map within an expression", node.span, "do it in a statement before")
        assert isinstance(node.operand, s.Var)
        self.hoist(node.span)
        old = self.expression(node.operand)
        local = old.id if isinstance(old, tree.Name) else ""
        changed = s.Assign(node.operand, node.op[0], s.Int(1, node.span), node.span)
        if node.before:
            self.pending += self.assign(changed)
            return tree.Name(local, node.span)
        kept = self.declare("")
        self.pending.append(tree.Assign(kept, old, node.span, node.span))
        self.pending += self.assign(changed)
        return tree.Name(kept, node.span)

    def hoist(self, span: Span) -> None:
        """Refuse what has to be done before the statement where it would not always be done."""
        if not self.hoisting:
            raise TextError(span, "this changes something, behind a condition", "do it in a statement before")

    def _addressof(self, node: s.AddressOf) -> tree.Expr:
        raise _unready("the address of a variable", node.span)

    def _binary(self, node: s.Binary) -> tree.Expr:
        return self.binary(node)

    def binary(self, node: s.Binary) -> tree.Expr:
        """Two operands and an operator."""
        if node.op in ("&&", "||"):
            made = self.condition(node)
            assert isinstance(made, tree.Logic)
            operands = tuple(_truth(one) for one in made.operands)
            return made.replace(operands=operands)
        left, right = self.expression(node.left), self.expression(node.right)
        if node.op in COMPARISONS:
            return tree.Compare(left, ((COMPARISONS[node.op], right),), node.span)
        return tree.Binary(OPERATORS[node.op], left, right, node.span)

    def _ternary(self, node: s.Ternary) -> tree.Expr:
        test = self.condition(node.test)
        before, self.hoisting = self.hoisting, False
        try:
            then = self.kept(node.test if node.then is None else node.then)
            otherwise = self.kept(node.otherwise)
        finally:
            self.hoisting = before
        return tree.Conditional(test, then, otherwise, node.span)

    def _tuple(self, node: s.Tuple) -> tree.Expr:
        return tree.Tuple(tuple(self.kept(one) for one in node.items), node.span)

    def _record(self, node: s.Record) -> tree.Expr:
        raise _unready("a record", node.span)

    def _block(self, node: s.Block) -> tree.Expr:
        """A block as a value: what it does is done before."""
        if node.value is None:
            raise TextError(node.span, "this block has no value", "end it with an expression without ;")
        self.hoist(node.span)
        self.scopes.append({})
        try:
            for one in node.body:
                before, self.pending = self.pending, []
                made = self.statement(one)
                before += self.pending
                before += made
                self.pending = before
            return self.expression(node.value)
        finally:
            self.scopes.pop()

    def _if(self, node: s.If) -> tree.Expr:
        """A choice as a value."""
        then, otherwise = node.then, node.otherwise
        if otherwise is None or then.body or then.value is None:
            raise _unready("a choice with statements as a value", node.span)
        other: s.Expr = otherwise
        if isinstance(otherwise, s.Block):
            if otherwise.body or otherwise.value is None:
                raise _unready("a choice with statements as a value", node.span)
            other = otherwise.value
        return self._ternary(s.Ternary(node.test, then.value, other, node.span))

    # -- functions

    def _call(self, node: s.Call) -> tree.Expr:
        name = node.function
        if name in self.macros:
            value = self.macro(node, wanted=True)
            assert value is not None
            return value
        word = self.known(node)
        if word.name in tables.BUILTIN and not node.arguments:
            return self._name(s.Name(name, node.span))
        if any(one.name == name for one in tables.STATEMENTS):
            raise TextError(node.span, f"{name} gives no value", "write it as a statement")
        if name in AGGREGATES:
            raise TextError(node.span, f"{name} is for maps", f"write {word.form}")
        method: Callable[[s.Call], tree.Expr] = getattr(self, f"call_{name}")
        return method(node)

    def _plain(self, function: str, node: s.Call) -> tree.Expr:
        arguments = tuple(self.expression(one) for one in node.arguments)
        return tree.Call(function, arguments, (), node.span, node.function_span)

    def call_str(self, node: s.Call) -> tree.Expr:
        """Text at an address."""
        text = self.text_constant(node)
        if text is not None:
            return tree.String(text, node.span)
        most = self.settings.get("max_strlen", 1024)
        limit = most if isinstance(most, int) else 1024
        if len(node.arguments) == 2:
            given = self.constant(node.arguments[1])
            if given is None:
                raise _unready("a length that is not constant", node.arguments[1].span)
            limit = min(limit, given)
        place = self.expression(node.arguments[0])
        return tree.Call("str", (place, tree.Number(limit, node.span)), (), node.span, node.function_span)

    def call_buf(self, node: s.Call) -> tree.Expr:
        """Bytes at an address."""
        if len(node.arguments) == 1:
            of = self.expression(node.arguments[0])
            size: tree.Expr = tree.Call("sizeof", (of,), (), node.span, node.span)
            return tree.Call("bytes", (of, size), (), node.span, node.function_span)
        place, length = (self.expression(one) for one in node.arguments)
        most = self.settings.get("max_strlen", 1024)
        arguments: tuple[tree.Expr, ...] = (place, length)
        if not isinstance(length, tree.Number):
            arguments += (tree.Number(int(most), node.span),)
        return tree.Call("bytes", arguments, (), node.span, node.function_span)

    def call_ntop(self, node: s.Call) -> tree.Expr:
        """A network address."""
        address = self.expression(node.arguments[-1])
        return tree.Call("ip", (address,), (), node.span, node.function_span)

    def call_macaddr(self, node: s.Call) -> tree.Expr:
        """An Ethernet address."""
        return self._plain("mac", node)

    def call_bswap(self, node: s.Call) -> tree.Expr:
        """Bytes in the opposite order."""
        return self._plain("be", node)

    def call_ksym(self, node: s.Call) -> tree.Expr:
        """A kernel address."""
        return self._plain("ksym", node)

    def call_kptr(self, node: s.Call) -> tree.Expr:
        """An address of the kernel."""
        return self._plain("kernel", node)

    def call_uptr(self, node: s.Call) -> tree.Expr:
        """An address of the current process."""
        return self._plain("user", node)

    def call_strncmp(self, node: s.Call) -> tree.Expr:
        """0 where the beginnings of two texts are the same."""
        left, right, count = node.arguments
        number = self.constant(count)
        if number is None or number < 0:
            raise TextError(count.span, "the number of bytes has to be a constant")
        if isinstance(left, s.Str):
            left, right = right, left
        text = self.text_constant(right)
        if text is None:
            raise _unready("strncmp of two texts that are not constant", node.span)
        data = text.encode("utf-8", "surrogateescape")
        value = self.expression(left)
        if isinstance(value, tree.String):
            own = value.value.encode("utf-8", "surrogateescape")
            return tree.Number(int(own[:number] != data[:number]), node.span)
        if number > len(data):
            same: tree.Expr = tree.Compare(value, (("eq", tree.String(text, right.span)),), node.span)
        else:
            pattern = tree.String(data[:number].decode("utf-8", "surrogateescape"), right.span)
            same = tree.Match("startswith", value, pattern, node.span)
        return tree.Unary("not", same, node.span)

    def call_strcontains(self, node: s.Call) -> tree.Expr:
        """Whether a text contains another."""
        text, part = (self.expression(one) for one in node.arguments)
        return tree.Match("contains", text, part, node.span)

    # -- macros

    def macro(self, node: s.Call, *, wanted: bool) -> tree.Expr | None:
        """Make a macro's text part of the probe here; its value where one is wanted."""
        macro = self.macros[node.function]
        if node.function in self.expanding:
            raise TextError(node.function_span, f"the macro {node.function} uses itself")
        self.expanded += 1
        if self.expanded > EXPANDED_MOST:
            raise TextError(node.function_span, f"these are more than {EXPANDED_MOST} macros in a probe")
        if len(macro.parameters) != len(node.arguments):
            wanted_number = plural(len(macro.parameters), "argument")
            raise TextError(node.span, f"{node.function} takes {wanted_number}, not {len(node.arguments)}")
        self.hoist(node.span)
        scope: dict[str, str] = {}
        values: dict[str, tree.Expr] = {}
        for parameter, argument in zip(macro.parameters, node.arguments, strict=True):
            if isinstance(parameter, s.Name):
                values[parameter.id] = self.expression(argument)
            elif isinstance(parameter, s.Map):
                raise _unready("a map as an argument of a macro", argument.span)
            elif isinstance(argument, s.Var):
                found = self._var(argument)
                assert isinstance(found, tree.Name)
                scope[parameter.id] = found.id
            else:
                value = self.expression(argument)
                self.scopes.append({})
                scope[parameter.id] = local = self.declare(parameter.id)
                self.scopes.pop()
                self.pending.append(tree.Assign(local, value, argument.span, argument.span))
        outer, self.scopes = self.scopes, [scope]
        self.substitutes.append(values)
        self.expanding.append(node.function)
        try:
            if wanted:
                return self._block(macro.body)
            self.pending += self.block(macro.body)
            return None
        finally:
            self.expanding.pop()
            self.substitutes.pop()
            self.scopes = outer


def _in_own_words(one: Diagnostic) -> Diagnostic:
    """A diagnostic of the checker, whose hints are written in Python, in the words of this language."""
    cure, at = one.cure, one.cure.find('cast("')
    if at >= 0:
        type_, _, rest = cure[at + len('cast("') :].partition('", ')
        value, _, behind = rest.partition(")")
        cure = f"{cure[:at]}(({type_}){value}){behind}"
    elif "emit" in cure or " if " in cure:
        cure = ""
    for name in ("u64", "s64", "u32"):
        cure = cure.replace(f"{name}(x)", f"({_C_NAMES[name]})x")
    return one._replace(cure=cure)


_C_NAMES: Final = {"u64": "uint64", "s64": "int64", "u32": "uint32"}


def _unready(what: str, span: Span, cure: str = "") -> TextError:
    return TextError(span, f"{what} is not supported yet", cure)


def _truth(node: tree.Expr) -> tree.Expr:
    """A condition as a number, 0 or 1."""
    if isinstance(node, tree.Compare | tree.Match | tree.Logic) or (
        isinstance(node, tree.Unary) and node.op == "not"
    ):
        return node
    return tree.Unary("not", tree.Unary("not", node, node.span), node.span)


def _number(text: str) -> int:
    """The number that an argument of the script is. ValueError where it is none."""
    body, sign = (text[1:], -1) if text[:1] == "-" else (text, 1)
    if not body.isascii() or "_" in body or len(body) > 40:
        raise ValueError(text)
    if len(body) > 1 and body[0] == "0" and body.isdecimal():
        return sign * int(body, 8)
    return sign * int(body, 0)


def _over(left: Span, right: Span) -> Span:
    return Span(left.line, left.column, right.end_line, right.end_column)


def _field_name(node: s.Expr) -> str:
    """What a value is called among the fields of its event; empty where it has no name."""
    match node:
        case s.Name(id=name) | s.Var(id=name) | s.Field(name=name):
            return name
        case s.Cast(value=value) | s.Index(value=value):
            return _field_name(value)
        case s.Call(function=function, arguments=(*_, last)) if function in (
            "ntop",
            "ksym",
            "usym",
            "macaddr",
            "bswap",
        ):
            return _field_name(last)
        case s.Call(function="str" | "buf", arguments=(first, *_)):
            return _field_name(first)
    return ""


def _free(name: str, fields: Mapping[str, tree.Expr]) -> str:
    """A name for a field that none has yet."""
    if name in RESERVED:
        name += "_"
    number, free = 1, name
    while free in fields:
        number += 1
        free = f"{name}_{number}"
    return free


def _folded(conversion: Conversion, text: str, span: Span) -> str:
    """A text that is known, as its conversion prints it."""
    if conversion.letters != "s":
        raise TextError(span, f"{conversion.text} does not take a string", "use %s")
    if conversion.precision >= 0:
        text = text[: conversion.precision]
    return text.ljust(conversion.width) if "-" in conversion.flags else text.rjust(conversion.width)


def _takes(conversion: Conversion, type_: t.Type) -> bool:
    """Whether a conversion takes values of a type."""
    if conversion.letters == "s":
        return True
    if conversion.letters in INTEGER_CONVERSIONS:
        shown = isinstance(type_, t.Int) and type_.display in ("ipv4", "ipv6", "mac")
        return isinstance(type_, t.SCALARS) and not shown and not t.is_constant_text(type_)
    return isinstance(type_, t.Bytes | t.Text | t.Array)
