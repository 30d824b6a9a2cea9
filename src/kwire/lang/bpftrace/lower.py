"""From the tree of a script to the tree that every front end makes, one probe at one place at a time: the
state that this has, the scopes of variables, and what is done before a statement.

Invariants: what cannot be said in that tree is refused at its place, and never left out; a variable of
a block is a local of its own, whatever others have its name; a macro's text is part of the probe at each
place where it is used. Division truncates, as in C. Each concept of the language has a module of functions
that take this state: `statements`, `expressions`, `functions`, `builtins`, `macros`, `maps`, `output`.
"""

from collections.abc import Callable, Mapping, Set
from itertools import zip_longest

from kwire.hints import Final
from kwire.lang import tree
from kwire.lang.bpftrace import output
from kwire.lang.bpftrace import syntax as s
from kwire.lang.bpftrace.expressions import EXPRESSIONS, condition
from kwire.lang.bpftrace.macro_argument import MacroArgument
from kwire.lang.bpftrace.macros import by_name
from kwire.lang.bpftrace.statements import statement
from kwire.lang.context import Site
from kwire.lang.errors import Diagnostic, TextError
from kwire.lang.forms import walk
from kwire.lang.inferred import Inferred
from kwire.lang.tree import Print, Span
from kwire.lazy import NamedTuple


class Surroundings(NamedTuple):
    """What a script is run with: its arguments, the process id of the command (0: none), when it began in ns
    of the monotonic clock, how many CPUs there can be; its options, by name; the address of a kernel symbol
    (None: there is none); the address and the bytes of a symbol of a file (likewise); the control groups by
    their ids; the users by their ids; the names of the flags of allocations (GFP); what the wall clock is
    ahead of the monotonic one, in ns; the environment; whether what can change the system is allowed.
    """

    arguments: tuple[str, ...] = ()
    command: int = 0
    began: int = 0
    cpus: int = 1
    options: Mapping[str, str | None] = {}
    symbol: Callable[[str], int | None] = lambda name: None
    variable: Callable[[str, str], tuple[int, int] | None] = lambda file, name: None
    cgroups: Callable[[], Mapping[int, str]] = dict
    users: Callable[[], Mapping[int, str]] = dict
    allocation: Callable[[], Mapping[int, str]] = dict
    wall: int = 0
    environment: Mapping[str, str] = {}
    unsafe: bool = False


NUMBERS: Final = (tree.Binary, tree.Compare, tree.Logic, tree.Match, tree.Unary, tree.HasKey)
"""Expressions that are numbers, whatever is in them."""


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
        self.file = script.source.name
        self.macros = by_name(script.macros)
        texts = (node for part in (*script.probes, *script.macros) for node in walk(part))
        self.texts = tuple(
            dict.fromkeys(node.value for node in texts if isinstance(node, s.Str) and node.value)
        )
        self.enums = {name: value for one in script.enums for name, value in one.values}
        self.faults: list[Diagnostic] = []
        self.prints: dict[str, Print] = {}
        self.scopes: list[dict[str, str]] = [{}]
        self.names: dict[str, int] = {}
        self.substitutes: list[dict[str, MacroArgument]] = [{}]
        self.pending: list[tree.Stmt] = []  # what is done before the statement that is made
        self.hoisting = True  # whether that is so for all of it
        self.emptying = False  # whether the map that is printed now is emptied with it
        self.loops = 0  # around what is made
        self.expanding: list[str] = []
        self.places: list[Span] = []  # of the macros that are being expanded, where they are used
        self.source = script.source
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
            test = condition(self, self.probe.predicate)
        except TextError as error:
            self.faults.append(error.diagnostic)
            return body
        first, self.pending = self.pending, before
        return (*first, tree.If(test, body, (), self.probe.predicate.span))

    def block(self, block: s.Block) -> tuple[tree.Stmt, ...]:
        """The statements of a block, whose variables are its own."""
        self.scopes.append({})
        found: list[tree.Stmt] = []
        statements: list[s.Stmt] = [*block.body]
        if block.value is not None:
            statements.append(s.Do(block.value, block.value.span))
        done = False
        for one, after in zip_longest(statements, statements[1:]):
            if done:
                done = False
                continue
            done = self.emptying = output.empties(one, after)
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

    def hoist(self, span: Span) -> None:
        """Refuse what has to be done before the statement where it would not always be done."""
        if not self.hoisting:
            raise TextError(span, "this changes something, behind a condition", "do it in a statement before")

    def frozen(self, value: tree.Expr, at: int) -> tree.Expr:
        """A value as it is before what is done (`pending`) from `at` on; `value` as it is where nothing of
        that can change it.
        """
        number = isinstance(value, NUMBERS) or (isinstance(value, tree.Call) and value.function == "len")
        called = any(isinstance(one, tree.Call) and one.function != "deref" for one in walk(value))
        if called and not number:  # it may be bytes, or a stack, which no variable keeps as they are
            return value
        if not any(isinstance(one, tree.Element | tree.Name) for one in walk(value)):
            return value
        kept = self.declare("")
        self.pending.insert(at, tree.Assign(kept, value, value.span, value.span))
        return tree.Name(kept, value.span)

    def statement(self, node: s.Stmt) -> list[tree.Stmt]:
        """A statement, but for what is done before it (`pending`). Raises `TextError`."""
        return statement(self, node)

    def expression(self, node: s.Expr) -> tree.Expr:
        """The value of an expression. Raises `TextError`."""
        return EXPRESSIONS[type(node)](self, node)
