"""The checker: a probe's tree and a site become a checked program, or every reason why not.

A function of one's own becomes part of the program at each place where it is called: its parameters and
locals are locals of the program under names of their own, and what it does is done before the statement that
calls it.

A probe is looked at in rounds: the types of locals and fields follow from all the values they are given, so a
round assumes types, gathers what is really given, and is repeated with that until nothing changes. Types
only grow, so two or three rounds do. Diagnostics are those of the last round.
"""

from collections.abc import Mapping
from typing import TypeAlias

from kwire.lang import builtins, events, tree, values
from kwire.lang import checked as c
from kwire.lang import types as t
from kwire.lang.context import Argument, Site
from kwire.lang.errors import (
    Diagnostic,
    LanguageError,
    NameTextError,
    TextError,
    UnknownNameError,
    did_you_mean,
)
from kwire.lang.expressions import ExpressionChecker, Types
from kwire.lang.extent import Extent, extent
from kwire.lang.forms import walk
from kwire.lang.tree import Source, Span
from kwire.lang.types import Scalar, Type
from kwire.lang.values import Value
from kwire.lazy import NamedTuple

MAX_ROUNDS = 8
MAX_TURNS = 1 << 20
"""Of loops in each other, multiplied: a few milliseconds of the traced process' time."""

MAX_CALLS = 1000
"""Of one's own functions in a probe, those in functions counted at each place."""

RESULT = "return"
"""The local that holds what a function gives; no name that could be written."""


ShapeKey: TypeAlias = str | frozenset[str]
"""What tells shapes apart while they are found: their name, or without one the names of their fields."""

Fields: TypeAlias = dict[ShapeKey, dict[str, Type]]
"""The types of the fields of each shape, in the order in which the shapes are first emitted."""


class Scope(NamedTuple):
    """What names mean in the probe, or in a function while it is part of the probe. `prefix`: of its locals'
    names; `limits`: of the texts that it returns; None where nothing is returned.
    """

    prefix: str
    assigned: dict[str, None]
    parameters: dict[str, Value]
    constants: Mapping[str, int | str]
    broken: set[str]
    limits: list[int] | None = None


class Held(NamedTuple):
    """How a local keeps its value: `type` of the register; of a text, array or structure it holds the address
    and `wide` is what is there (`fixed` as in `ReadText`).
    """

    kind: events.FieldType
    wide: Type | None = None
    fixed: int = 0
    declared: bool = False


def check(
    probe: tree.Probe,
    site: Site,
    types: Types,
) -> c.Program:
    """The program of a probe at one site. Raises `LanguageError` with everything that is wrong in it."""
    locals_: Mapping[str, Scalar] = {}
    fields: Fields = {}
    for _ in range(MAX_ROUNDS):
        body = Body(probe, site, types, locals_, fields)
        statements = body.run()
        if body.local_types == locals_ and body.field_types == fields:
            break
        locals_, fields = body.local_types, body.field_types
    else:
        body.fault(TextError(_head(probe), "the types of its names do not settle", "cast what is assigned"))
    if not body.faults and not body.scope.broken and not body.effects:
        body.fault(TextError(_head(probe), "this probe emits nothing", "call emit(…)"))
    if body.faults:
        raise LanguageError(probe.source, body.faults)
    shapes = tuple(
        c.Shape(tuple(c.Field(field, type_) for field, type_ in shape.items()), name)
        for shape, name in zip(fields.values(), body.shape_names, strict=True)
    )
    return c.Program(
        probe.name,
        site,
        probe.source,
        shapes or (c.Shape(()),),
        tuple(c.Local(name, type_) for name, type_ in locals_.items()),
        None,
        statements,
        probe.span,
    )


def filtered(
    program: c.Program, node: tree.Expr, source: Source, types: Types, never: list[Diagnostic] | None = None
) -> c.Program:
    """The program, firings for which a condition is false being no events. As `check_filter`."""
    condition = check_filter(node, source, program.site, types, never)
    return program.replace(filter=condition, filter_source=source)


def check_filter(
    node: tree.Expr, source: Source, site: Site, types: Types, never: list[Diagnostic] | None = None
) -> c.Expr:
    """A condition over the site's own fields and the built-ins.

    `never` takes the comparisons that are never true at this site, of a condition for several. Raises
    `LanguageError`; `UnknownNameError` where the site has not all the names.
    """
    checker = ExpressionChecker(site, types, bare=True)
    checker.never = never
    try:
        return checker.condition(node)
    except NameTextError as error:
        raise UnknownNameError(source, [error.diagnostic]) from None
    except TextError as error:
        raise LanguageError(source, [error.diagnostic]) from None


def _head(probe: tree.Probe) -> Span:
    return Span(probe.span.line, probe.span.column, probe.span.line, len(probe.source.line(probe.span.line)))


class Body(ExpressionChecker):
    """One round over a probe's statements."""

    def __init__(
        self,
        probe: tree.Probe,
        site: Site,
        types: Types,
        locals_: Mapping[str, Scalar],
        fields: Fields,
    ) -> None:
        super().__init__(site, types)
        self.probe = probe
        self.assumed_locals = locals_
        self.assumed_fields = fields
        self.faults: list[Diagnostic] = []
        self.effects = 0  # statements that emit events or change maps
        self.held: dict[str, Held] = {}
        self.shapes: dict[ShapeKey, dict[str, events.FieldType]] = {}
        self.scope = Scope("", _assigned(probe.body), {}, dict(probe.constants), set())
        self.pending: list[c.Stmt] = []  # what is done before the statement that is looked at
        self.calls = 0  # of one's own functions, so far
        self.calling: list[int] = []  # those that are being looked at
        self.alone: tree.Expr | None = None  # the call that is all of a statement
        self.set: set[str] = set()
        self.comm: set[str] = set()  # locals that are another name for comm
        self.limits: dict[str, int] = {}  # of the texts that locals are here; 0 where two paths give two
        self.turns = 1  # of the loops around, multiplied

    def fault(self, error: TextError) -> None:
        """Keep a diagnostic and go on; not the mere consequence of one that is kept already."""
        if not isinstance(error, UnknownError):
            self.faults.append(error.diagnostic)

    def run(self) -> tuple[c.Stmt, ...]:
        """Check everything; the statements of the program."""
        self._bind_parameters()
        start: list[c.Stmt] = []
        parameters = self.scope.parameters
        for name in [name for name in parameters if name in self.scope.assigned]:
            # A parameter that is assigned is a local that begins with the parameter's value.
            value = parameters[name]
            stored = self._store(name, value, self.probe.span)
            assert stored is not None
            start.append(stored)
        body, _ = self._block(self.probe.body)
        return (*start, *body)

    @property
    def local_types(self) -> dict[str, Scalar]:
        """The register types of the locals, as this round found them."""
        found: dict[str, Scalar] = {}
        for name, held in self.held.items():
            type_ = events.settle(held.kind, False)
            found[name] = type_ if isinstance(type_, t.SCALARS) else t.S64
        return found

    def _local_type(self, name: str) -> Scalar:
        return self.assumed_locals[name] if name in self.assumed_locals else self.local_types[name]

    @property
    def field_types(self) -> Fields:
        """The types of the events' fields, as this round found them."""
        return {
            key: {name: events.settle(kind, True) or t.S64 for name, kind in shape.items()}
            for key, shape in self.shapes.items()
        }

    @property
    def shape_names(self) -> list[str]:
        """What the shapes are called, in their order."""
        return events.shape_names([key if isinstance(key, str) else "" for key in self.shapes])

    # -- names

    def bound_names(self) -> list[str]:
        """Locals and parameters."""
        return [*self.scope.assigned, *self.scope.parameters]

    def binding(self, name: str, span: Span) -> Value | None:
        """The value of a local or parameter."""
        if name not in self.scope.assigned:
            if name in self.scope.broken:
                raise UnknownError(span)
            value = self.scope.parameters.get(name)
            return None if value is None else value.replace(span=span)
        shown, name = name, self.scope.prefix + name
        if name not in self.set:
            raise TextError(span, f"{shown} may have no value here", "assign it on every path before")
        if name in self.comm:
            return c.Comm(t.Text(self._limit(name, span)), span)
        held, number = self.held.get(name), list(self.held).index(name) if name in self.held else -1
        if held is None:
            raise UnknownError(span)
        type_ = self._local_type(name)
        value = c.LocalGet(number, type_, span)
        if held.wide is None:
            return value
        space = type_.space if isinstance(type_, t.Pointer) else t.KERNEL
        place = c.Place(value, 0, (), space, span)
        if isinstance(held.wide, t.Text):
            limit = self._limit(name, span)
            return c.ReadText(place, held.wide.replace(limit=limit), span, held.fixed)
        return c.ReadBlock(place, t.size_of(held.wide), held.wide, span)

    def _limit(self, name: str, span: Span) -> int:
        """The limit of the text that a local is here."""
        limit = self.limits[name]
        if not limit:
            message = f"{name} is a text of one limit on one path and of another on the other"
            raise TextError(span, message, "use one limit, or two names")
        return limit

    def _bind_parameters(self) -> None:
        for number, parameter in enumerate(self.probe.parameters):
            try:
                self.scope.parameters[parameter.name] = self._parameter(number, parameter)
            except TextError as error:
                self.fault(error)
                self.scope.broken.add(parameter.name)

    def _parameter(self, number: int, parameter: tree.Parameter) -> Value:
        site, span, own = self.site, parameter.span, self.site.params
        field = site.kind == "tracepoint" and self._param_named(parameter.name)
        _own_name(parameter.name, span, f"write args.{parameter.name}" if field else "")
        type_ = self.named_type(parameter.type, parameter.type_span) if parameter.type else None
        if site.kind == "kretprobe":
            message = "at the return of a function its arguments are gone"
            raise TextError(span, message, "use retval, or fexit")
        position = next((at for at, param in enumerate(own) if param.name == parameter.name), None)
        if site.kind == "tracepoint":
            if position is None:
                known = [param.name for param in own]
                cure = did_you_mean(parameter.name, known) or f"it has {', '.join(known)}"
                raise TextError(span, f"{site.target} has no field {parameter.name}", cure)
            return self.param(own[position], span, type_)
        if not site.typed:
            if "+" in site.target:
                raise TextError(span, "inside a function there are no arguments", "probe its entry")
            untyped = c.Param(parameter.name, Argument(number), t.U64, span)
            return untyped if type_ is None else values.convert(untyped, _register(type_, parameter), span)
        if number >= len(own):
            names = ", ".join(param.name for param in own)
            cure = f"its parameters are {names}" if names else "it takes none"
            raise TextError(span, f"{site.target} has no parameter {number + 1} that can be read", cure)
        if position is not None and position != number:
            message = f"{parameter.name} is parameter {position + 1} of {site.target}, not {number + 1}"
            cure = f"write ({', '.join(param.name for param in own[: position + 1])})"
            raise TextError(span, message, cure)
        return self.param(own[number], span, type_)

    # -- statements

    def _block(self, statements: tuple[tree.Stmt, ...]) -> tuple[tuple[c.Stmt, ...], bool]:
        """The checked statements, and whether the probe always ends in them."""
        found: list[c.Stmt] = []
        for statement in statements:
            before, self.pending = self.pending, []
            try:
                one, ended = self._statement(statement)
            except TextError as error:
                self.fault(error)
                if isinstance(statement, tree.Assign):
                    self.set.add(self.scope.prefix + statement.name)  # one complaint is enough
                if isinstance(statement, tree.Return):
                    return tuple(found), True
                continue
            finally:
                found += self.pending
                self.pending = before
            found.extend(one)
            if ended:
                return tuple(found), True
        return tuple(found), False

    def _statement(self, node: tree.Stmt) -> tuple[list[c.Stmt], bool]:
        match node:
            case tree.Assign():
                _own_name(node.name, node.name_span)
                self.alone = node.value
                value = self.check(node.value)
                if node.type:
                    from kwire.lang.functions import cast

                    value = cast(value, self.named_type(node.type, node.type_span), node.span, node.type_span)
                stored = self._store(node.name, value, node.span, bool(node.type))
                return ([stored] if stored else []), False
            case tree.If():
                return self._if(node)
            case tree.For():
                return self._for(node), False
            case tree.Break():
                return [c.Break(node.span)], True
            case tree.Continue():
                return [c.Continue(node.span)], True
            case tree.Return():
                return self._return(node), True
            case tree.SetElement() | tree.DeleteElement() | tree.Aggregate():
                from kwire.lang import maps

                self.effects += 1
                return [maps.statement(self, node)], False
            case tree.Do(call=call) if call.own >= 0:
                self.alone = call
                self._own_call(call)
                return [], False
            case tree.Do(call=call) if call.function == "emit":
                return [self._emit(call)], False
        self.check(node.call)
        raise TextError(node.span, "the value of this call is not used", "emit(…) it or assign it to a name")

    def _if(self, node: tree.If) -> tuple[list[c.Stmt], bool]:
        arms: list[tuple[list[c.Stmt], c.Expr, tuple[c.Stmt, ...], Span]] = []
        ways: list[
            tuple[set[str], dict[str, int]]
        ] = []  # what is known where an arm goes on behind the choice
        before, limits = self.set, self.limits
        while True:
            done = len(self.pending) if arms else 0
            test: c.Expr = c.Const(1, t.BOOL, node.span)
            try:
                test = self.condition(node.test)
            except TextError as error:
                self.fault(error)
            first = self.pending[done:] if arms else []  # what the test needs, where it comes to that
            del self.pending[done if arms else len(self.pending) :]
            self.set, self.limits = set(before), dict(limits)
            then, ended = self._block(node.then)
            arms.append((first, test, then, node.span))
            if not ended:
                ways.append((self.set, self.limits))
            self.set, self.limits = set(before), dict(limits)
            if len(node.otherwise) != 1 or not isinstance(node.otherwise[0], tree.If):
                break
            node = node.otherwise[0]
        otherwise, ended = self._block(node.otherwise)
        if not ended:
            ways.append((self.set, self.limits))
        if ways:
            self.set, self.limits = ways[0]
            for other, others in ways[1:]:
                self.set = self.set & other
                for name, limit in others.items():
                    self.limits[name] = limit if self.limits.get(name, limit) == limit else 0
        for first, test, then, span in reversed(arms):
            otherwise = (*first, c.If(test, then, otherwise, span))
        return list(otherwise), not ways

    def _for(self, node: tree.For) -> list[c.Stmt]:
        """A loop. Behind it nothing is set that was not set before: it may not run at all."""
        _own_name(node.name, node.name_span)
        start, stop, step = (values.integer(self.check(one)) for one in (node.start, node.stop, node.step))
        if not isinstance(step, c.Const) or not step.value:
            raise TextError(
                step.span, "the step of a range is a number that is not 0", "write it as a number"
            )
        low, high = extent(start), extent(stop)
        type_ = _turn_type(low, high)
        if type_ is None:
            message = "one end of this range may be negative, the other too large for an s64"
            raise TextError(node.range_span, message, "cast it: s64(n), or bound it")
        distance = high[1] - low[0] if step.value > 0 else low[1] - high[0]
        most = max(-(-distance // abs(step.value)), 0)
        if most * self.turns > MAX_TURNS:
            with_others = ", with those around it" if self.turns > 1 else ""
            message = f"this loop may run more than {MAX_TURNS:,} times{with_others}"
            cure = "bound the number: range(min(n, 100)), range(n & 63)"
            raise TextError(node.range_span, message, cure)
        known = isinstance(start, c.Const) and isinstance(stop, c.Const)
        before, limits = set(self.set), dict(self.limits)
        first = self._store(node.name, c.Turn(type_, node.name_span), node.name_span)
        assert first is not None
        around, self.turns = self.turns, self.turns * max(most, 1)
        body, _ = self._block(node.body)
        self.turns = around
        for name in before & self.limits.keys() & limits.keys():
            if self.limits[name] != limits[name]:
                message = f"{name} is a text of one limit before the loop and of another in it"
                self.fault(TextError(node.range_span, message, "use one limit, or two names"))
        self.set, self.limits = before, limits
        end = None if known else stop
        return [c.Loop(start, step.value, end, most, (first, *body), node.span, type_ == t.U64)]

    def _store(self, name: str, value: Value, span: Span, declared: bool = False) -> c.LocalSet | None:
        """Assign a value to a local; None where nothing has to be stored."""
        shown, name = name, self.scope.prefix + name
        if isinstance(value, c.Comm | c.ReadText):
            self.limits[name] = value.type.limit
        if isinstance(value, c.Comm) and (name not in self.held):
            self.comm.add(name)
            self.set.add(name)
            return None
        wide, fixed, register = _register_of(shown, value, span)
        old = self.held.get(name)
        other = old is not None and ((old.wide is None) != (wide is None) or old.fixed != fixed)
        if old and old.wide is not None and wide is not None:
            wide = values.join(old.wide, wide)
            other = other or wide is None
        if other or name in self.comm:
            message = f"{shown} is set to two different things; this is {t.article(value.type)}"
            raise TextError(span, message, "use two names")
        if old and old.declared:
            type_ = old.kind.type
            assert isinstance(type_, t.SCALARS)
            register = values.convert(register, type_, span)
        kind = events.merge(old.kind if old else None, register)
        if declared and isinstance(register, c.Const):
            kind = events.FieldType(register.type, ())
        if kind is None or events.settle(kind, False) is None:
            was = t.describe(old.kind.type) if old and old.kind.type is not None else "number"
            message = f"{shown} was a {was} and becomes {t.article(register.type)}"
            raise TextError(span, message, "use two names, or cast one")
        self.held[name] = Held(kind, wide, fixed, declared or bool(old and old.declared))
        self.set.add(name)
        type_ = self._local_type(name)
        return c.LocalSet(list(self.held).index(name), values.convert(register, type_, span), span)

    def _emit(self, call: tree.Call) -> c.Emit:
        self.effects += 1
        event, fields = events.event_name([self._event_name(one) for one in call.arguments])
        arguments = events.named([*(("", one) for one in fields), *call.keywords])
        if not arguments:
            raise TextError(call.span, "this emits nothing", "name what shall be seen: emit(pid, comm)")
        names = [name for name, _ in arguments]
        key: ShapeKey = event or frozenset(names)
        shape = self.shapes.setdefault(key, dict.fromkeys(names, events.FieldType(None, ())))
        if shape.keys() != set(names):
            missing = sorted(shape.keys() ^ set(names))
            message = f"this emit differs from the first {event} by {', '.join(missing)}"
            raise TextError(call.span, message, "emit the same fields under one name, or use two names")
        assumed = self.assumed_fields.get(key, {})
        given: dict[str, events.Final] = {}
        for name, node in arguments:
            try:
                value = events.final(self.check(node), node.span)
            except TextError as error:
                self.fault(error)
                continue
            kind = events.merge(shape[name], value)
            if kind is None or events.settle(kind, True) is None:
                known = shape[name].type
                was = "number" if known is None else t.describe(known)
                message = f"{name} was a {was} and is {t.article(value.type)} here"
                self.fault(TextError(node.span, message, "give it another name, or cast it"))
                continue
            shape[name] = kind
            # The first round assumes nothing yet; its statements are thrown away.
            given[name] = events.as_field(value, assumed.get(name, value.type))
        values_ = tuple(given[name] for name in shape if name in given)
        return c.Emit(values_, call.span, list(self.shapes).index(key))

    def _event_name(self, node: tree.Expr) -> tree.Expr:
        """An argument of `emit`; a name of a constant text as that text."""
        if isinstance(node, tree.Name) and node.id not in self.scope.assigned:
            text = self.constants.get(node.id)
            return tree.String(text, node.span) if isinstance(text, str) else node
        return node

    # -- maps

    def _element(self, node: tree.Element) -> Value:
        from kwire.lang import maps

        return maps.element(self, node)

    def _haskey(self, node: tree.HasKey) -> Value:
        from kwire.lang import maps

        return maps.has_key(self, node)

    # -- functions of one's own

    @property
    def constants(self) -> Mapping[str, int | str]:
        """Names with known values."""
        return self.scope.constants

    def _call(self, node: tree.Call) -> Value:
        if node.own < 0:
            return super()._call(node)
        value = self._own_call(node)
        if value is None:
            raise TextError(node.span, f"{node.function} gives no value", "let it return one")
        return value

    def _own_call(self, node: tree.Call) -> Value | None:
        """Make a function part of the program here: what it does is pending then. What it gives, if any."""
        function, alone = self.probe.functions[node.own], self.alone is node
        if node.own in self.calling:
            raise TextError(node.span, f"{node.function} calls itself", "use a loop: for i in range(…)")
        self.calls += 1
        if self.calls > MAX_CALLS:
            raise TextError(node.span, f"these are more than {MAX_CALLS} calls of functions in a probe")
        given, effects = self._given(function, node), self.effects
        outer, prefix = self.scope, f"{function.name}#{self.calls}."
        self.scope = Scope(prefix, _assigned(function.body), {}, dict(function.constants), set())
        self.calling.append(node.own)
        try:
            for parameter, value in zip(function.parameters, given, strict=True):
                self._pass(parameter, value)
            value_ = self._inside(function, node)
        finally:
            self.scope = outer
            self.calling.pop()
        if self.effects > effects and not alone:
            cure = f"call it in a statement of its own: x = {node.function}(…)"
            raise TextError(node.span, f"{node.function} emits events or changes maps", cure)
        return value_

    def _given(self, function: tree.Function, node: tree.Call) -> list[Value]:
        """The values for a function's parameters, in their order."""
        names = [parameter.name for parameter in function.parameters]
        written = dict(zip(names, node.arguments, strict=False))
        twice = [name for name, _ in node.keywords if name in written or name not in names]
        written |= dict(node.keywords)
        if twice or len(node.arguments) > len(names) or len(written) < len(names):
            wrong = f"{node.function} does not take these arguments"
            raise TextError(node.span, wrong, f"write {node.function}({', '.join(names)})")
        return [self.check(written[name]) for name in names]

    def _pass(self, parameter: tree.Parameter, value: Value) -> None:
        """Give a parameter its value, which is taken once."""
        _own_name(parameter.name, parameter.span)
        if parameter.type:
            from kwire.lang.functions import cast

            type_ = self.named_type(parameter.type, parameter.type_span)
            value = cast(value, type_, parameter.span, parameter.type_span)
        assigned = parameter.name in self.scope.assigned
        if not assigned and isinstance(value, c.Const | c.Param | c.ReadBytes | values.Literal):
            self.scope.parameters[parameter.name] = value
            return
        self.scope.assigned[parameter.name] = None
        stored = self._store(parameter.name, value, parameter.span)
        self.pending += [stored] if stored else []

    def _inside(self, function: tree.Function, node: tree.Call) -> Value | None:
        """The body of a function; what it gives."""
        *before, last = function.body or (tree.Return(node.span),)
        if isinstance(last, tree.Return) and not _returns(tuple(before)):
            statements, _ = self._block(tuple(before))
            self.pending += statements
            return None if last.value is None else self.check(last.value)
        if not _returns(function.body):
            statements, _ = self._block(function.body)
            self.pending += statements
            return None
        self.scope = self.scope._replace(limits=[])
        self.scope.assigned[RESULT] = None
        statements, ended = self._block(function.body)
        self.pending.append(c.Block(statements, node.span))
        name, limits = self.scope.prefix + RESULT, self.scope.limits
        if name not in self.held and name not in self.comm:
            return None
        if not ended:
            raise TextError(
                function.span, f"{function.name} may end without a value", "return one at its end"
            )
        self.set.add(name)
        if limits and len(set(limits)) > 1:
            self.limits[name] = 0
        return self.binding(RESULT, node.span)

    def _return(self, node: tree.Return) -> list[c.Stmt]:
        """The end of the probe, or of a function that is part of it."""
        limits = self.scope.limits
        if limits is None:
            return [c.Return(node.span)]
        if node.value is None:
            return [c.Leave(node.span)]
        self.alone = node.value
        value = self.check(node.value)
        stored = self._store(RESULT, value, node.span)
        if isinstance(value, c.Comm | c.ReadText):
            limits.append(value.type.limit)
        return [*([stored] if stored else []), c.Leave(node.span)]


def _turn_type(start: Extent, stop: Extent) -> t.Int | None:
    """The type of the numbers of a range between these ends: 64 bits, signed where that does."""
    ends = (*start, *stop)
    if min(ends) >= -(1 << 63) and max(ends) < 1 << 63:
        return t.S64
    return t.U64 if min(ends) >= 0 else None


def _returns(statements: tuple[tree.Stmt, ...]) -> bool:
    """Whether any of these statements ends the function."""
    return any(isinstance(one, tree.Return) for statement in statements for one in walk(statement))


class UnknownError(TextError):
    """A name whose own assignment is wrong already: nothing more to say about it."""

    def __init__(self, span: Span) -> None:
        super().__init__(span, "")


def _own_name(name: str, span: Span, cure: str = "") -> None:
    """Refuse a parameter or local whose name has a meaning already: one name is one thing."""
    meaning = builtins.meaning(name)
    if meaning:
        raise TextError(span, f"{name} is {meaning}", cure or "use another name")


def _register_of(name: str, value: Value, span: Span) -> tuple[Type | None, int, c.Expr]:
    """(what it is when it does not fit a register, its `fixed`, what the register holds)."""
    if isinstance(value, c.ReadText):
        return value.type, value.fixed, values.address(value, span)
    if isinstance(value, c.ReadBlock):
        return value.type, 0, values.address(value, span)
    if isinstance(value, c.ReadBytes | values.Literal | c.Comm):
        raise TextError(span, f"{name} cannot hold this", "use it where it is needed")
    return None, 0, value


def _register(type_: Type, parameter: tree.Parameter) -> Scalar:
    if isinstance(type_, t.SCALARS):
        return type_
    raise TextError(parameter.type_span, f"an argument is no {t.describe(type_)}", "add a star")


def _assigned(statements: tuple[tree.Stmt, ...]) -> dict[str, None]:
    """The names assigned anywhere, in order: as in Python they are local everywhere."""
    found: dict[str, None] = {}
    for statement in statements:
        if isinstance(statement, tree.Assign):
            found[statement.name] = None
        elif isinstance(statement, tree.For):
            found |= {statement.name: None} | _assigned(statement.body)
        elif isinstance(statement, tree.If):
            found |= _assigned(statement.then) | _assigned(statement.otherwise)
    return found
