"""The checker: a probe's tree and a site become a checked program, or every reason why not.

A function of one's own becomes part of the program at each place where it is called: its parameters and
locals are locals of the program under names of their own, and what it does is done before the statement that
calls it.

The types of locals and fields are variables (`variables`), which the values they are given decide. A body is
looked at once; a loop again where its end tells more of a local than was known when it was read above.
"""

from collections.abc import Callable, Mapping, Sequence

from kwire.hints import TypeAlias
from kwire.kinds import KINDS
from kwire.lang import builtins, events, tree, values
from kwire.lang import checked as c
from kwire.lang import types as t
from kwire.lang.context import Site
from kwire.lang.errors import (
    Diagnostic,
    LanguageError,
    NameTextError,
    TextError,
    UnknownNameError,
    did_you_mean,
)
from kwire.lang.expressions import ExpressionChecker, Types
from kwire.lang.forms import walk
from kwire.lang.printing import Tuples, printed
from kwire.lang.tree import Source, Span
from kwire.lang.types import Scalar, Type
from kwire.lang.value_range import Extent, extent
from kwire.lang.values import Literal, Value
from kwire.lang.values import fixed as kept
from kwire.lang.variables import OPEN, Known, State, Variable, either, meet, settled, union
from kwire.lazy import NamedTuple
from kwire.words import plural

MAX_TURNS = 1 << 20
"""Of loops in each other, multiplied: a few milliseconds of the traced process' time."""

MAX_NESTED = 1 << 10
"""Of a loop in another, where a language has loops without an end that is known."""

MAX_CALLS = 1000
"""Of one's own functions in a probe, those in functions counted at each place."""

TEXT_WORDS = 16
"""Bytes of a text with its NUL that are read as numbers."""

WORD = 8
"""Bytes of a number in memory."""

MEMORY = "&"
"""Behind the name of a local: the memory that always holds its value, for those who have its address."""

TURNS = "turns"
"""The function that says how often a `while` runs at most."""

WHILE_CURE = f"say how often it runs at most: while {TURNS}(100) and …:"

RESULT = "return"
"""The local that holds what a function gives; no name that could be written."""


ShapeKey: TypeAlias = str | frozenset[str]
"""What tells shapes apart while they are found: their name, or without one the names of their fields."""


class Scope(NamedTuple):
    """What names mean in the probe, or in a function while it is part of the probe. `prefix`: of its locals'
    names; `returns`: what is known where it ends; None where it ends nowhere but at its end.
    """

    prefix: str
    assigned: dict[str, None]
    parameters: dict[str, Value]
    constants: Mapping[str, int | str]
    broken: set[str]
    returns: list[State] | None = None


class Mark(NamedTuple):
    """What is to be as it was when a loop is looked at again."""

    variables: dict[str, Variable]
    shapes: dict[ShapeKey, dict[str, events.FieldType]]
    comm: set[str]
    faults: int
    pending: int
    returns: int
    effects: int
    calls: int


class Dialect(NamedTuple):
    """What a front end's language says otherwise than Python.

    `idle`: whether a probe may do nothing that can be seen, an event have no fields, and a loop no end that
    is known (then it runs `MAX_TURNS` times at most); `never`: whether a
    comparison may never be true; `space`: the memory that a number is an address in, where it is used as
    one (empty: that has to be said).
    """

    idle: bool = False
    never: bool = False
    space: str = ""


PYTHON = Dialect()
C = Dialect(idle=True, never=True, space=t.KERNEL)


def check(probe: tree.Probe, site: Site, types: Types, dialect: Dialect = PYTHON) -> c.Program:
    """The program of a probe at one site. Raises `LanguageError` with everything that is wrong in it."""
    texts: dict[str, int] = {}
    while True:
        body = Body(probe, site, types, dialect, texts)
        try:
            statements = body.run()
            break
        except AgainError:  # with more known of `texts`
            continue
    body.faults += [Diagnostic(*fault) for fault in probe.faults]
    if not body.faults and not body.scope.broken and not body.effects and not dialect.idle:
        body.fault(TextError(_head(probe), "this probe emits nothing", "call emit(…)"))
    if body.faults:
        raise LanguageError(probe.source, body.faults)
    held, fields = list(body.variables.values()), body.field_types
    locals_ = [one.type for one in held]
    shapes = tuple(
        c.Shape(tuple(c.Field(field, type_) for field, type_ in shape.items()), name)
        for shape, name in zip(fields, body.shape_names, strict=True)
    )
    program = c.Program(
        probe.name,
        site,
        probe.source,
        shapes or (c.Shape(()),),
        tuple(c.Local(name, one.whole) for name, one in zip(body.variables, held, strict=True)),
        None,
        settled(statements, locals_, [tuple(shape.values()) for shape in fields]),
        probe.span,
    )
    return printed(dict(probe.prints), program, body.tuples) if probe.prints else program


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
    checker = ExpressionChecker(site, types, own_fields=True)
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
    """The statements of a probe, while they are checked."""

    def __init__(
        self, probe: tree.Probe, site: Site, types: Types, dialect: Dialect, texts: dict[str, int]
    ) -> None:
        """`texts`: the locals that have a text in memory of their own, and its limit."""
        super().__init__(site, types)
        self.texts = texts
        self.never = [] if dialect.never else None
        self.space = self.space or dialect.space
        self.idle = dialect.idle
        self.printed = dict(probe.prints)
        self.probe = probe
        self.faults: list[Diagnostic] = []
        self.effects = 0  # statements that emit events or change maps
        self.variables: dict[str, Variable] = {}
        self.shapes: dict[ShapeKey, dict[str, events.FieldType]] = {}
        self.tuples: Tuples = {}
        self.scope = Scope("", _assigned(probe.body), {}, dict(probe.constants), set())
        self.pending: list[c.Stmt] = []  # what is done before the statement that is looked at
        self.calls = 0  # of one's own functions, so far
        self.calling: list[int] = []  # those that are being looked at
        self.alone: tree.Expr | None = None  # the call that is all of a statement
        self.now: State = {}  # what the locals are here
        self.stored: State = {}  # what was given to them in the innermost loop
        self.read: set[str] = set()  # those that were read there
        self.comm: set[str] = set()  # locals that are another name for comm
        self.turns = 1  # of the loops around, multiplied
        self.copies = 0  # of values that are kept for themselves, so far
        self.places: set[int] = set()  # locals that are addresses in maps

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
            start += self._store(name, parameters[name], self.probe.span)
        body, _ = self._block(self.probe.body)
        return (*start, *body)

    @property
    def field_types(self) -> list[dict[str, Type]]:
        """The types of the fields of each shape, in the order in which the shapes are first emitted."""
        return [
            {name: events.settle(kind, True) or t.S64 for name, kind in shape.items()}
            for shape in self.shapes.values()
        ]

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
        shown = name.partition(".")[0] if name.startswith("$") else name  # which of several in a script
        return self._local(self.scope.prefix + name, shown, span)

    def _local(self, name: str, shown: str, span: Span) -> Value:
        """The value of a local."""
        if name not in self.now:
            raise TextError(span, f"{shown} may have no value here", "assign it on every path before")
        self.read.add(name)
        if name in self.comm:
            return c.Comm(t.Text(self._limit(name, shown, span)), span)
        held, known = self.variables.get(name), self.now[name]
        if held is None:
            raise UnknownError(span)
        if held.parts is not None:
            parts = _parts(name, shown, held.parts)
            if any(part not in self.now for part, _ in parts):  # what was to be in it is wrong
                raise UnknownError(span)
            items = (self._local(*one, span) for one in parts)
            return values.Tuple(tuple(items), held.parts, span)
        type_ = known.type if known.kind != OPEN else held.type
        if held.text:
            address = c.TextPlace(held.number, t.Pointer(t.CHAR), span)
            fixed = held.text + 1 if held.text < TEXT_WORDS else 0
            return c.ReadText(c.Place(address, 0, (), t.KERNEL, span), t.Text(held.text), span, fixed)
        value = c.LocalGet(held.number, type_, span)
        if held.wide is None:
            return value
        space = type_.space if isinstance(type_, t.Pointer) else t.KERNEL
        place = c.Place(value, 0, (), space, span)
        if isinstance(held.wide, t.Text):
            limit = self._limit(name, shown, span)
            return c.ReadText(place, held.wide.replace(limit=limit), span, held.fixed)
        return c.ReadBlock(place, t.size_of(held.wide), held.wide, span)

    def _limit(self, name: str, shown: str, span: Span) -> int:
        """The limit of the text that a local is here."""
        limit = self.now[name].limit
        if not limit:
            message = f"{shown} is a text of one limit on one path and of another on the other"
            raise TextError(span, message, "use one limit, or two names")
        return limit

    def extent(self, value: c.Expr) -> Extent:
        """The least and the greatest number that a value can be here."""
        return extent(value, lambda number: self.now[self._names[number]].extent)

    @property
    def _names(self) -> list[str]:
        """The locals by their numbers."""
        return list(self.variables)

    def _bind_parameters(self) -> None:
        for number, parameter in enumerate(self.probe.parameters):
            try:
                self.scope.parameters[parameter.name] = self._parameter(number, parameter)
            except TextError as error:
                self.fault(error)
                self.scope.broken.add(parameter.name)

    def _parameter(self, number: int, parameter: tree.Parameter) -> Value:
        site, span, own = self.site, parameter.span, self.site.params
        by_name = KINDS[site.kind].context in ("record", "objects")
        field = by_name and self._param_named(parameter.name)
        position = next((at for at, param in enumerate(own) if param.name == parameter.name), None)
        if position is None or parameter.name not in builtins.FUNCTION:  # which is called, a field is not
            _own_name(parameter.name, span, f"write args.{parameter.name}" if field else "")
        type_ = self.named_type(parameter.type, parameter.type_span) if parameter.type else None
        if KINDS[site.kind].context == "registers" and KINDS[site.kind].result:
            message = "at the return of a function its arguments are gone"
            raise TextError(span, message, "use retval, or fexit")
        if by_name:
            if position is None:
                known = [param.name for param in own]
                cure = did_you_mean(parameter.name, known) or f"it has {', '.join(known)}"
                raise TextError(span, f"{site.target} has no field {parameter.name}", cure)
            return self.param(own[position], span, type_)
        if not site.typed:
            if "+" in site.target:
                raise TextError(span, "inside a function there are no arguments", "probe its entry")
            if site.kind not in builtins.ARGUMENTS:
                raise TextError(span, f"a {site.kind} has no arguments", "leave the parameters out")
            untyped = values.scalar(self.numbered(number, span))
            if type_ is None:
                return untyped
            from kwire.lang.functions import cast

            return cast(untyped, _register(type_, parameter), span, parameter.type_span, self.space)
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
                for name in _assigned((statement,)):  # one complaint is enough
                    self.now.setdefault(self.scope.prefix + name, Known(OPEN))
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

                    value = cast(
                        value,
                        self.named_type(node.type, node.type_span),
                        node.span,
                        node.type_span,
                        self.space,
                    )
                return self._store(node.name, value, node.span, bool(node.type)), False
            case tree.Unpack():
                return self._unpack(node), False
            case tree.If():
                return self._if(node)
            case tree.For():
                return self._for(node), False
            case tree.ForMap():
                return self._for_map(node), False
            case tree.While():
                return self._while(node)
            case tree.Broken():
                for name in node.names:
                    self.now.setdefault(self.scope.prefix + name, Known(OPEN))
                return [], node.ends
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
            case tree.Signal():
                self.effects += 1
                return [c.Signal(values.integer(self.check(node.number)), node.thread, node.span)], False
            case tree.Do(call=call) if call.own >= 0:
                self.alone = call
                self._own_call(call)
                return [], False
            case tree.Do(call=call) if call.function == "exit":
                self.effects += 1
                return [self._exit(call)], True
            case tree.Do(call=call) if call.function == "emit":
                return [self._emit(call)], False
        self.check(node.call)
        raise TextError(node.span, "the value of this call is not used", "emit(…) it or assign it to a name")

    def _if(self, node: tree.If) -> tuple[list[c.Stmt], bool]:
        arms: list[tuple[list[c.Stmt], c.Expr, tuple[c.Stmt, ...], Span]] = []
        ways: list[State] = []  # what is known where an arm goes on behind the choice
        while True:
            done = len(self.pending) if arms else 0
            test: c.Expr = c.Const(1, t.BOOL, node.span)
            try:
                test = self.condition(node.test)
            except TextError as error:
                self.fault(error)
            first = self.pending[done:] if arms else []  # what the test needs, where it comes to that
            del self.pending[done if arms else len(self.pending) :]
            before = self.now  # with what the test sets, where it calls functions
            self.now = dict(before)
            then, ended = self._block(node.then)
            arms.append((first, test, then, node.span))
            if not ended:
                ways.append(self.now)
            self.now = dict(before)
            if len(node.otherwise) != 1 or not isinstance(node.otherwise[0], tree.If):
                break
            node = node.otherwise[0]
        otherwise, ended = self._block(node.otherwise)
        if not ended:
            ways.append(self.now)
        if ways:
            self.now = meet(ways)
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
        low, high = self.extent(start), self.extent(stop)
        type_ = _turn_type(low, high)
        if type_ is None:
            message = "one end of this range may be negative, the other too large for an s64"
            raise TextError(node.range_span, message, "cast it: s64(n), or bound it")
        distance = high[1] - low[0] if step.value > 0 else low[1] - high[0]
        most = max(-(-distance // abs(step.value)), 0)
        if self.idle:
            most = min(most, self._most_turns())
        else:
            self._bounded(most, node.range_span, "bound the number: range(min(n, 100)), range(n & 63)")
        known = isinstance(start, c.Const) and isinstance(stop, c.Const)
        numbers = (low[0], high[1] - 1) if step.value > 0 else (high[0] + 1, low[1])

        def body() -> tuple[c.Stmt, ...]:
            first = self._store(node.name, c.Turn(type_, node.name_span), node.name_span)
            if most:
                name = self.scope.prefix + node.name
                self.now[name] = self.now[name]._replace(extent=numbers)
            return (*first, *self._block(node.body)[0])

        around, self.turns = self.turns, self.turns * max(most, 1)
        turn = self._looped(body, node.body, node.range_span)
        self.turns = around
        end = None if known else stop
        return [c.Loop(start, step.value, end, most, turn, node.span, type_ == t.U64)]

    def _for_map(self, node: tree.ForMap) -> list[c.Stmt]:
        """A loop over a map."""
        from kwire.lang import maps

        _own_name(node.name, node.name_span)
        map = maps.known(self, node.map, node.map_span)

        def body() -> tuple[c.Stmt, ...]:
            outer, self.pending = self.pending, []
            try:
                pair = maps.turn(self, map, node.map_span)
                stored = self._store(node.name, pair, node.name_span)
                first = [*self.pending, *stored]  # what storing needs, too
            finally:
                self.pending = outer
            return (*first, *self._block(node.body)[0])

        turn = self._looped(body, node.body, node.map_span)
        return [c.Each(map, turn, node.span)]

    def _while(self, node: tree.While) -> tuple[list[c.Stmt], bool]:
        """A loop that runs while a condition holds, as often as can be told before, or is said."""
        tests = (
            node.test.operands
            if isinstance(node.test, tree.Logic) and node.test.op == "and"
            else (node.test,)
        )
        said = [one for one in tests if isinstance(one, tree.Call) and one.function == TURNS and one.own < 0]
        for one in said[1:]:
            raise TextError(one.span, "how often a loop runs at most is said once")
        count = self._said(said[0]) if said else None
        most = None if count is None else max(self.extent(count)[1], 0)
        if most is not None and self.idle:
            most = min(most, self._most_turns())
        elif most is not None:
            self._bounded(most, said[0].span, f"say a smaller number: {TURNS}(100)")
        rest = [one for one in tests if one not in said]
        entry, around = self.now, self.turns
        holds: list[c.Expr] = []
        self.turns *= max(most or 1, 1)

        def body() -> tuple[c.Stmt, ...]:
            outer, self.pending = self.pending, []
            try:
                holds[:] = [self.condition(one) for one in rest]
                first = self.pending
            finally:
                self.pending = outer
            stop = [c.If(one, (), (c.Break(one.span),), one.span) for one in holds if not _true(one)]
            return (*first, *stop, *self._block(node.body)[0])

        turn = self._looped(body, node.body, node.test.span)
        self.turns = around
        if most is None and not self.faults:
            from kwire.lang.trip_count import most_turns

            most = most_turns(holds, turn, lambda local: self._entry(entry, local))
            if most is None:
                raise TextError(node.test.span, "this loop has no end that can be known", WHILE_CURE)
            self._bounded(most, node.test.span, f"say how often at most: while {TURNS}(100) and …:")
        stop = None if count is None or isinstance(count, c.Const) else count
        zero = c.Const(0, t.S64, node.test.span)
        loop = c.Loop(zero, 1, stop, most or 0, turn, node.span)
        if count is None and not _breaks(turn) and all(map(_true, holds)):
            return [loop, c.Return(node.span)], True  # nothing is behind it: it ends by a return
        return [loop], False

    def _most_turns(self) -> int:
        """How often a loop runs that need not have an end that is known."""
        return MAX_NESTED if self.turns > 1 else MAX_TURNS

    def _said(self, call: tree.Call) -> c.Expr:
        """The number in `turns(n)`."""
        if len(call.arguments) != 1 or call.keywords:
            raise TextError(call.span, f"{TURNS} takes one number", f"write {TURNS}(100)")
        return values.integer(self.check(call.arguments[0]))

    def _entry(self, entry: State, local: int) -> Extent:
        """Between which numbers a local lies before a loop that is looked at."""
        known = entry.get(self._names[local])
        return values.POINTER_BITS if known is None else known.extent or values.bounds(known.type)

    def _bounded(self, most: int, span: Span, cure: str) -> None:
        """Refuse a loop that may run too often."""
        if most * self.turns > MAX_TURNS:
            with_others = ", with those around it" if self.turns > 1 else ""
            message = f"this loop may run more than {MAX_TURNS:,} times{with_others}"
            raise TextError(span, message, cure)

    def _looped(
        self, check: Callable[[], tuple[c.Stmt, ...]], body: tuple[tree.Stmt, ...], span: Span
    ) -> tuple[c.Stmt, ...]:
        """The body of a loop, checked with what its locals are in any turn. Behind it nothing is set that was
        not set before: it may not run at all.
        """
        assigned = tuple(self.scope.prefix + name for name in _assigned(body))
        others = tuple(name + sign for name in assigned for sign in "[.")  # parts of these
        before = {
            name: known._replace(extent=None) if name in assigned or name.startswith(others) else known
            for name, known in self.now.items()
        }
        stored, read = self.stored, self.read
        while True:
            mark = self._mark()
            self.now, self.stored, self.read = dict(before), {}, set()
            found = check()
            behind = {
                name: either(known, self.stored[name]) if name in self.stored else known
                for name, known in before.items()
            }
            stale = [name for name in behind if name in self.read and behind[name].type != before[name].type]
            if not stale:
                break
            before |= {name: behind[name] for name in stale}
            self._back_to(mark)
        for name in behind:
            if before[name].limit and not behind[name].limit:
                message = f"{name} is a text of one limit before the loop and of another in it"
                self.fault(TextError(span, message, "use one limit, or two names"))
        self.now = behind
        for name, known in self.stored.items():
            stored[name] = either(stored[name], known) if name in stored else known
        self.stored, self.read = stored, read | self.read
        return found

    def _mark(self) -> Mark:
        shapes = {key: dict(shape) for key, shape in self.shapes.items()}
        returns = self.scope.returns
        return Mark(
            dict(self.variables),
            shapes,
            set(self.comm),
            len(self.faults),
            len(self.pending),
            len(returns) if returns else 0,
            self.effects,
            self.calls,
        )

    def _back_to(self, mark: Mark) -> None:
        self.variables, self.shapes, self.comm = mark.variables, mark.shapes, mark.comm
        self.effects, self.calls = mark.effects, mark.calls
        del self.faults[mark.faults :]
        del self.pending[mark.pending :]
        if self.scope.returns:
            del self.scope.returns[mark.returns :]

    def _store(self, name: str, value: Value, span: Span, declared: bool = False) -> list[c.Stmt]:
        """Assign a value to a local."""
        return self._set(self.scope.prefix + name, name, value, span, declared)

    def _set(self, name: str, shown: str, value: Value, span: Span, declared: bool = False) -> list[c.Stmt]:
        """Assign a value to a local by its full name."""
        old = self.variables.get(name)
        if isinstance(value, values.Tuple) and old is not None and old.parts is not None:
            value = _in_order(value, old.parts)
        parts = value.names if isinstance(value, values.Tuple) else None
        if old is not None and old.parts != parts:
            raise _two_things(shown, value, span)
        value = kept(value)
        if isinstance(value, values.Tuple):
            self.variables.setdefault(name, Variable(len(self.variables), parts=parts))
            self._now(name, Known(OPEN))
            targets = _parts(name, shown, value.names)
            return self._set_all([(*one, item) for one, item in zip(targets, value.items, strict=True)], span)
        if self._is_text(name, old, value):
            return self._set_text(name, shown, value, span)
        if name in self.comm and not isinstance(value, c.Comm):
            raise _two_things(shown, value, span)
        limit = value.type.limit if isinstance(value, c.Comm | c.ReadText) else 0
        if isinstance(value, c.Comm) and old is None:
            self.comm.add(name)
            self._now(name, Known(OPEN, None, limit))
            return []
        wide, fixed, register = _register_of(shown, value, span)
        if old is not None:
            other = (old.wide is None) != (wide is None) or old.fixed != fixed
            if old.wide is not None and wide is not None:
                wide = values.join(old.wide, wide)
                other = other or wide is None
            if other:
                raise _two_things(shown, value, span)
        declared = declared or bool(old and old.declared)
        if old and declared:
            register = values.convert(register, old.type, span)
        own = self._kind(register, declared)
        kind = union(old.kind, own) if old else own
        if kind is None:
            was = t.describe(old.kind.type) if old and old.kind.type is not None else "number"
            message = f"{shown} was a {was} and becomes {t.article(register.type)}"
            raise TextError(span, message, "use two names, or cast one")
        known = Known(
            own, self.extent(register) if own.type is None or t.is_integer(own.type) else None, limit
        )
        number = old.number if old else len(self.variables)
        self.variables[name] = Variable(number, kind, wide, fixed, declared)
        self._now(name, known)
        made: list[c.Stmt] = [c.LocalSet(number, register, span)]
        if name + MEMORY in self.texts:  # whose address is taken somewhere
            copy = c.LocalGet(number, self.variables[name].type, span)
            made.append(c.Store(self._memory(name + MEMORY), copy, span))
        return made

    def _is_text(self, name: str, old: Variable | None, value: Value) -> bool:
        """Whether a local has its text in memory of its own: one that is constant, or may change where it is,
        or comes from places of several kinds. Raises `AgainError` where that was not known.
        """
        if name in self.texts:
            return True
        if isinstance(value, Literal):
            own = True
        elif isinstance(value, c.ReadText):
            base = value.place.base
            own = isinstance(base, c.MapPlace | c.TextPlace) or (
                isinstance(base, c.LocalGet) and base.local in self.places
            )
            own = own or name in self.comm or (old is not None and _other_text(old, value))
        elif isinstance(value, c.Comm):
            own = old is not None and (isinstance(old.wide, t.Text) or t.is_constant_text(old.type))
        else:
            own = values.named_text(value) is not None and (
                name in self.comm or (old is not None and isinstance(old.wide, t.Text))
            )
        if own:
            self.texts[name] = 1
            raise AgainError
        return False

    def _set_text(
        self, name: str, shown: str, value: Value, span: Span, size: c.Expr | None = None
    ) -> list[c.Stmt]:
        """Give a text, or `size` bytes of it, to a local that has memory for it."""
        text = value if isinstance(value, c.ReadText | c.Comm) else values.named_text(value)
        if isinstance(value, Literal):
            text = values.text_constant(value)
        elif isinstance(value, c.ReadBlock):
            text = values.as_text(value, builtins.TEXT_LIMIT, span)
        elif isinstance(value, c.Const) and value.value == 0:
            text = values.text_constant(Literal("", t.Text(1), span))
        if text is None and not isinstance(value, values.WIDE) and t.is_constant_text(value.type):
            return self._set_one_of(name, shown, value, span)
        if text is None:
            raise _two_things(shown, value, span)
        limit = self.texts[name]
        if text.type.limit > limit:
            self.texts[name] = text.type.limit
            raise AgainError
        old = self.variables.setdefault(name, Variable(len(self.variables), text=limit))
        self._now(name, Known(OPEN, None, limit))
        base = text.place.base if isinstance(text, c.ReadText) else None
        if isinstance(base, c.TextPlace) and base.local == old.number:
            return []
        return [c.TextSet(old.number, text, t.Text(limit), span, size)]

    def _set_one_of(self, name: str, shown: str, value: c.Expr, span: Span) -> list[c.Stmt]:
        """Give one of several constant texts, which a number tells, to a local that has memory for it."""
        assert isinstance(value.type, t.Enum)
        number = self.once(value)
        made = self._set_text(name, shown, Literal("", t.Text(1), span), span)
        for text, which in value.type.values:
            size = len(text.encode("utf-8", "surrogateescape"))
            given = self._set_text(name, shown, Literal(text, t.Text(max(size, 1)), span), span)
            test = c.Compare("eq", number, c.Const(which, value.type, span), False, t.BOOL, span)
            made.append(c.If(test, tuple(given), (), span))
        return made

    def text(self, value: Value) -> Value:
        """A value; one of several constant texts as a text. A local that is one has memory then: raises
        `AgainError`; one out of a map is copied to memory of its own.
        """
        found = super().text(value)
        if found is not value or isinstance(value, values.WIDE) or not t.is_constant_text(value.type):
            return found
        if isinstance(value, c.LocalGet):
            self.texts[self._names[value.local]] = 1
            raise AgainError
        return self._copied(value)

    def _copied(self, text: Value) -> Value:
        """A text in memory of its own."""
        self.copies += 1
        name = f"{self.scope.prefix}text#{self.copies}"
        self.texts.setdefault(name, 1)
        self.pending += self._set_text(name, name, text, text.span)
        return self._local(name, name, text.span)

    def sized(self, value: Value) -> Type:
        """The type whose size a value has; of a local of numbers as written that of the greatest of them."""
        if isinstance(value, c.LocalGet):
            known = self.variables[self._names[value.local]]
            plain = [one.value for one in known.kind.constants if not one.typed]
            if self.idle and known.kind.type is None and plain and len(plain) == len(known.kind.constants):
                bools = all(isinstance(one.type, t.Bool) for one in known.kind.constants)
                return t.BOOL if bools else values.smallest(min(plain), max(plain))
        return super().sized(value) if self.idle else value.type

    def _memory(self, name: str, size: int = WORD) -> int:
        """The local that is memory of so many bytes, by its name."""
        self.texts.setdefault(name, size)
        return self.variables.setdefault(name, Variable(len(self.variables), text=size)).number

    def numbers_in_memory(self, numbers: Sequence[c.Expr], span: Span) -> c.Place:
        """Where numbers are in memory of their own, one behind the other."""
        self.copies += 1
        name = f"{self.scope.prefix}once#{self.copies}{MEMORY}"
        local = self._memory(name, WORD * len(numbers))
        for at, one in enumerate(numbers):
            self.pending.append(c.Store(local, one, one.span, WORD * at))
        return c.Place(c.TextPlace(local, t.Pointer(t.U64), span), 0, (), t.KERNEL, span)

    def address(self, value: Value, span: Span) -> c.Expr:
        """The address of what a name stands for: of a local that of memory that always holds its value."""
        if isinstance(value, c.MapGet) and t.is_constant_text(value.type):
            value = self.text(value)
        if isinstance(value, c.MapGet) and value.map.kind in ("hash", "lru"):
            place = c.Place(c.MapPlace(value.map, value.key, t.Pointer(t.VOID), span), 0, (), t.KERNEL, span)
            return c.AddressOf(place, t.Pointer(value.type), span)
        if isinstance(value, c.Comm):
            for name in self.comm:
                self.texts[name] = 1
                raise AgainError
        if isinstance(value, c.LocalGet):
            name = self._names[value.local]
            if t.is_constant_text(value.type):
                self.texts[name] = 1
                raise AgainError
            if name + MEMORY not in self.texts:
                self.texts[name + MEMORY] = WORD
                raise AgainError
            base = c.TextPlace(self._memory(name + MEMORY), t.Pointer(value.type), span)
            return c.AddressOf(c.Place(base, 0, (), t.KERNEL, span), t.Pointer(value.type), span)
        if isinstance(value, c.ReadText) and isinstance(value.place.base, c.TextPlace):
            array = t.Array(t.CHAR, value.type.limit + 1)
            return c.AddressOf(value.place, t.Pointer(array), span)
        return super().address(value, span)

    def in_memory(self, value: Value) -> Value:
        """A value; a constant text in memory of its own."""
        value = self.text(value)
        if not isinstance(value, Literal):
            return super().in_memory(value)
        return self._copied(value)

    def beginning(self, text: Value, size: c.Expr, nul: bool) -> Value:
        """So many bytes of a text, in memory of its own; `nul`: one of them is the NUL, which none has no
        place for.
        """
        if nul:
            size, type_ = self.once(size), t.S64 if t.signed(size.type) else t.U64
            less = c.Binary("sub", size, c.Const(1, type_, size.span), type_, size.span)
            size = c.Select(size, less, c.Const(0, type_, size.span), type_, size.span)
        self.copies += 1
        name = f"{self.scope.prefix}text#{self.copies}"
        self.texts.setdefault(name, 1)
        self.pending += self._set_text(name, name, text, size.span, size)
        return self._local(name, name, size.span)

    def once(self, value: c.Expr) -> c.Expr:
        """A value that is taken here, and used several times."""
        self.copies += 1
        name = f"{self.scope.prefix}once#{self.copies}"
        self.pending += self._set(name, name, value, value.span)
        number = self.variables[name].number
        if isinstance(value, c.MapPlace | c.EachKey | c.EachValue):
            self.places.add(number)
        return c.LocalGet(number, self.variables[name].type, value.span)

    def _select(self, test: c.Expr, then: Value, otherwise: Value, span: Span) -> Value:
        """One of two values; of texts in memory of its own."""
        texts = [_text_of(one) for one in (then, otherwise)]
        if None in texts or (t.is_scalar(then.type) and t.is_scalar(otherwise.type)):
            return super()._select(test, then, otherwise, span)
        self.copies += 1
        name = f"{self.scope.prefix}text#{self.copies}"
        self.texts.setdefault(name, 1)
        one, other = (tuple(self._set_text(name, name, value, span)) for value in (then, otherwise))
        self.pending.append(c.If(test, one, other, span))
        return self._local(name, name, span)

    def _now(self, name: str, known: Known) -> None:
        """Know what a local is from here on."""
        self.now[name] = known
        self.stored[name] = either(self.stored[name], known) if name in self.stored else known

    def _kind(self, value: c.Expr, declared: bool) -> events.FieldType:
        """What is known of a value: of constants that they are such, and of locals that hold only those."""
        if isinstance(value, c.LocalGet):
            name = self._names[value.local]
            if self.now[name].kind.type is None:
                return self.now[name].kind
        cast = self.idle and value.type not in (t.S64, t.U64, t.BOOL)  # it was written with a type
        if isinstance(value, c.Const) and not (
            declared or cast or isinstance(value.type, t.Enum | t.Pointer)
        ):
            return events.FieldType(None, (value,))
        return events.FieldType(value.type, ())

    def _set_all(self, targets: list[tuple[str, str, Value]], span: Span) -> list[c.Stmt]:
        """Assign several values at once: none of them sees what the others become."""
        names = [name for name, _, _ in targets]
        parts = tuple(name + sign for name in names for sign in "[.")
        numbers = [
            one.number for name, one in self.variables.items() if name in names or name.startswith(parts)
        ]
        made: list[c.Stmt] = []
        if any(_uses(value, numbers) for _, _, value in targets[1:]):
            self.copies += 1
            for number, (name, shown, value) in enumerate(targets):
                copy = f"{name}#{self.copies}.{number}"
                made += self._set(copy, shown, value, span)
                targets[number] = name, shown, self._local(copy, shown, span)
        for name, shown, value in targets:
            made += self._set(name, shown, value, span)
        return made

    def _unpack(self, node: tree.Unpack) -> list[c.Stmt]:
        """`a, (b, c) = value`."""
        self.alone = node.value
        found: list[tuple[str, str, Value]] = []
        self._split(node.targets, self.check(node.value), found)
        return self._set_all(found, node.span)

    def _split(self, targets: tree.Targets, value: Value, found: list[tuple[str, str, Value]]) -> None:
        """Which target gets which part of a value."""
        if not isinstance(value, values.Tuple):
            raise TextError(value.span, f"{t.article(value.type)} is no tuple to unpack")
        if len(value.items) != len(targets.items):
            message = f"{plural(len(value.items), 'value')} for {plural(len(targets.items), 'name')}"
            raise TextError(targets.span, message)
        for target, item in zip(targets.items, value.items, strict=True):
            if isinstance(target, tree.Targets):
                self._split(target, item, found)
            else:
                _own_name(target.id, target.span)
                found.append((self.scope.prefix + target.id, target.id, item))

    def _emit(self, call: tree.Call) -> c.Emit:
        self.effects += 1
        event, fields = events.event_name([self._event_name(one) for one in call.arguments])
        arguments = events.named([*(("", one) for one in fields), *call.keywords])
        shown = self.idle or event in self.printed
        if not arguments and not (event and shown):
            raise TextError(call.span, "this emits nothing", "name what shall be seen: emit(pid, comm)")
        given: list[tuple[str, events.Final]] = []
        wrong = False
        for name, node in arguments:
            try:
                value = self.check(node)
                if shown:
                    value = self._printable(value)
                if event and isinstance(value, values.Tuple):
                    self.tuples.setdefault(event, {})[name] = value.type
                parts = values.parts(name, value)
                given += [(part, events.final(value, node.span)) for part, value in parts]
            except TextError as error:
                self.fault(error)
                wrong = True
        names = [name for name, _ in given]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise TextError(call.span, f"there are two fields {twice[0]}", "write name=… for one of them")
        if wrong:
            return c.Emit((), call.span)
        key: ShapeKey = event or frozenset(names)
        shape = self.shapes.setdefault(key, dict.fromkeys(names, OPEN))
        if shape.keys() != set(names):
            missing = sorted(shape.keys() ^ set(names))
            message = f"this emit differs from the first {event} by {', '.join(missing)}"
            raise TextError(call.span, message, "emit the same fields under one name, or use two names")
        for name, value in given:
            kind = events.merge(shape[name], value)
            if kind is None or events.settle(kind, True) is None:
                known = shape[name].type
                was = "number" if known is None else t.describe(known)
                message = f"{name} was a {was} and is {t.article(value.type)} here"
                self.fault(TextError(value.span, message, "give it another name, or cast it"))
                continue
            shape[name] = kind
        found = dict(given)
        return c.Emit(tuple(found[name] for name in shape), call.span, list(self.shapes).index(key))

    def _printable(self, value: Value) -> Value:
        """A value as it can be printed: constant texts in memory, a whole structure as a record."""
        value = self.spread(value)
        if isinstance(value, values.Tuple):
            return value.replace(items=tuple(map(self._printable, value.items)))
        if isinstance(value, Literal):
            return self.in_memory(value)
        return value

    def _event_name(self, node: tree.Expr) -> tree.Expr:
        """An argument of `emit`; a name of a constant text as that text, a parameter that is one too."""
        if isinstance(node, tree.Name) and node.id not in self.scope.assigned:
            given = self.scope.parameters.get(node.id)
            text = given.value if isinstance(given, Literal) else self.constants.get(node.id)
            return tree.String(text, node.span) if isinstance(text, str) else node
        return node

    def _exit(self, call: tree.Call) -> c.Exit:
        if call.keywords or len(call.arguments) > 1:
            raise TextError(call.span, "exit takes a status", "write exit() or exit(1)")
        given = [values.integer(self.check(one)) for one in call.arguments]
        return c.Exit(given[0] if given else c.Const(0, t.S64, call.span), call.span)

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
        if value is None and any(
            isinstance(one, tree.Broken) for one in walk(self.probe.functions[node.own])
        ):
            raise UnknownError(node.span)
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
                self._pass(parameter, self._default(parameter) if value is None else value)
            value_ = self._inside(function, node)
        finally:
            self.scope = outer
            self.calling.pop()
        if self.effects > effects and not alone:
            cure = f"call it in a statement of its own: x = {node.function}(…)"
            raise TextError(node.span, f"{node.function} emits events or changes maps", cure)
        return value_

    def _given(self, function: tree.Function, node: tree.Call) -> list[Value | None]:
        """The values for a function's parameters, in their order; None for those with a default."""
        names = [parameter.name for parameter in function.parameters]
        written = dict(zip(names, node.arguments, strict=False))
        twice = [name for name, _ in node.keywords if name in written or name not in names]
        written |= dict(node.keywords)
        missing = [one for one in function.parameters if one.name not in written and one.default is None]
        if twice or missing or len(node.arguments) > len(names):
            wrong = f"{node.function} does not take these arguments"
            raise TextError(node.span, wrong, f"write {node.function}({', '.join(names)})")
        return [self.check(written[name]) if name in written else None for name in names]

    def _default(self, parameter: tree.Parameter) -> Value:
        """What a parameter is that is not given: a constant, as Python takes it when it sees the function."""
        assert parameter.default is not None
        value = self.check(parameter.default)
        if not isinstance(value, c.Const | Literal):
            raise TextError(value.span, "a default is a number or a text that is known before the probe runs")
        return value

    def _pass(self, parameter: tree.Parameter, value: Value) -> None:
        """Give a parameter its value, which is taken once."""
        _own_name(parameter.name, parameter.span)
        if parameter.type:
            from kwire.lang.functions import cast

            type_ = self.named_type(parameter.type, parameter.type_span)
            value = cast(value, type_, parameter.span, parameter.type_span, self.space)
        assigned = parameter.name in self.scope.assigned
        if not assigned and isinstance(value, c.Const | c.Param | c.ReadBytes | Literal):
            self.scope.parameters[parameter.name] = value
            return
        self.scope.assigned[parameter.name] = None
        self.pending += self._store(parameter.name, value, parameter.span)

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
        returns: list[State] = []
        self.scope = self.scope._replace(returns=returns)
        self.scope.assigned[RESULT] = None
        statements, ended = self._block(function.body)
        self.pending.append(c.Block(statements, node.span))
        name = self.scope.prefix + RESULT
        if not returns and self.faults:  # what it would give is wrong
            raise UnknownError(node.span)
        if name not in self.variables and name not in self.comm:
            return None
        if not ended or any(name not in one for one in returns):
            raise TextError(
                function.span, f"{function.name} may end without a value", "return one at its end"
            )
        self.now = meet(returns)
        return self.binding(RESULT, node.span)

    def _return(self, node: tree.Return) -> list[c.Stmt]:
        """The end of the probe, or of a function that is part of it."""
        returns = self.scope.returns
        if returns is None:
            return [c.Return(node.span)]
        made: list[c.Stmt] = []
        if node.value is not None:
            self.alone = node.value
            made = self._store(RESULT, self.check(node.value), node.span)
        returns.append(dict(self.now))
        return [*made, c.Leave(node.span)]


def _text_of(value: Value) -> Value | None:
    """A value that is a text, as it is; None for others."""
    if isinstance(value, Literal):
        return value
    return (values.named_text(value) and value) or values.as_text(value, builtins.TEXT_LIMIT, value.span)


def _other_text(old: Variable, value: c.ReadText) -> bool:
    """Whether a local that was given texts elsewhere cannot hold this one's address as well."""
    if t.is_constant_text(old.type) and old.wide is None:
        return True
    return isinstance(old.wide, t.Text) and (old.fixed != value.fixed or old.wide.space != value.type.space)


def _in_order(value: values.Tuple, names: tuple[str, ...]) -> values.Tuple:
    """A record with its parts in the order of these names, where it has the same."""
    if value.names == names or sorted(value.names) != sorted(names) or not all(names):
        return value
    items = dict(zip(value.names, value.items, strict=True))
    return value.replace(items=tuple(items[name] for name in names), names=names)


def _parts(name: str, shown: str, names: tuple[str, ...]) -> list[tuple[str, str]]:
    """The locals that hold the parts of a tuple, and what they are called in messages."""
    made = []
    for number, part in enumerate(names):
        at = f".{part}" if part and part != t.ELEMENT else f"[{number}]"
        made.append((name + at, shown + at))
    return made


def _uses(value: Value, numbers: list[int]) -> bool:
    """Whether a value depends on one of these locals."""
    return any(isinstance(one, c.LocalGet) and one.local in numbers for one in walk(value))


def _two_things(shown: str, value: Value, span: Span) -> TextError:
    message = f"{shown} is set to two different things; this is {t.article(value.type)}"
    return TextError(span, message, "use two names")


def _turn_type(start: Extent, stop: Extent) -> t.Int | None:
    """The type of the numbers of a range between these ends: 64 bits, signed where that does."""
    ends = (*start, *stop)
    if min(ends) >= -(1 << 63) and max(ends) < 1 << 63:
        return t.S64
    return t.U64 if min(ends) >= 0 else None


def _breaks(statements: tuple[c.Stmt, ...]) -> bool:
    """Whether any of these statements ends the loop that they are in."""
    for one in statements:
        inside = (
            [one.then, one.otherwise]
            if isinstance(one, c.If)
            else [one.body]
            if isinstance(one, c.Block)
            else []
        )
        if isinstance(one, c.Break) or any(map(_breaks, inside)):
            return True
    return False


def _true(test: c.Expr) -> bool:
    return isinstance(test, c.Const) and test.value != 0


def _returns(statements: tuple[tree.Stmt, ...]) -> bool:
    """Whether any of these statements ends the function."""
    return any(isinstance(one, tree.Return) for statement in statements for one in walk(statement))


class AgainError(Exception):
    """More is known of the texts of a probe: it is looked at once more from its beginning."""


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
    if isinstance(value, c.ReadBytes | values.Tuple | c.Comm | Literal):
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
        elif isinstance(statement, tree.Unpack):
            found |= dict.fromkeys(one.id for one in walk(statement.targets) if isinstance(one, tree.Name))
        elif isinstance(statement, tree.For | tree.ForMap):
            found |= {statement.name: None} | _assigned(statement.body)
        elif isinstance(statement, tree.While):
            found |= _assigned(statement.body)
        elif isinstance(statement, tree.Broken):
            found |= dict.fromkeys(statement.names)
        elif isinstance(statement, tree.If):
            found |= _assigned(statement.then) | _assigned(statement.otherwise)
    return found
