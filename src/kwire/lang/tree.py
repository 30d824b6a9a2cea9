"""The syntax tree that every front end makes: what was written, nothing about what it means.

Invariants: nodes are values (`forms`); each carries the span of the text it came from; a front end removes
its own sugar (augmented assignment, `elif`, casts spelled as calls), so the checker sees one form of each.
Operators are named by the words in `BINARY`, `COMPARE`, `MATCH`, `UNARY`, so no front end's spelling leaks.
"""

from kwire.hints import TypeAlias
from kwire.kinds import in_file
from kwire.lang.forms import Form, Node
from kwire.lazy import NamedTuple

# "div" and "mod" floor, as in Python; "quo" and "rem" truncate, as in C.
BINARY = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "div": "//",
    "mod": "%",
    "quo": "/",
    "rem": "% of C",
    "and": "&",
    "or": "|",
    "xor": "^",
    "shl": "<<",
    "shr": ">>",
}
COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
MATCH = {"startswith": ".startswith", "endswith": ".endswith", "contains": "in", "glob": "~"}
UNARY = {"neg": "-", "inv": "~", "not": "not ", "pos": "+"}


class Span(NamedTuple):
    """A stretch of source text: lines from 1, columns from 0 in characters, the end exclusive."""

    line: int
    column: int
    end_line: int
    end_column: int


NOWHERE = Span(0, 0, 0, 0)
"""The span of what nobody wrote: default programs of `kwire record`."""


LINES = 1 << 21
"""More than any text has: a span whose line is n * LINES more is in another text, `Source.others[n - 1]`."""


class Source(NamedTuple):
    """A text with a name; `first_line` is the number of its first line (a function inside a file).

    `kept`: what of it a capture keeps: the probe and what it names, not what stands beside it. Empty: all.
    `others`: the texts of the functions that it calls and that stand elsewhere.
    """

    name: str
    text: str
    first_line: int = 1
    kept: str = ""
    others: tuple["Source", ...] = ()

    def at(self, line: int) -> tuple["Source", int]:
        """The text that a span's line is of, and the number of the line in it."""
        other, number = divmod(line, LINES)
        return (self.others[other - 1] if 0 < other <= len(self.others) else self), number

    def lines(self) -> list[str]:
        """The lines without their ends, as Python counts them: a form feed ends none."""
        return self.text.replace("\r\n", "\n").replace("\r", "\n").split("\n")

    def line(self, number: int) -> str:
        """The line with this number, without its end; empty when there is none."""
        lines = self.lines()
        index = number - self.first_line
        return lines[index] if 0 <= index < len(lines) else ""


class Name(Node):
    """A name: a parameter, a local, a built-in or a constant; the checker finds out."""

    id: str
    span: Span


class Number(Node):
    """An integer (a character literal and True/False are integers too; None is a pointer's 0)."""

    value: int
    span: Span
    boolean: bool = False
    none: bool = False


class String(Node):
    """A string literal. `table`: the texts that it is one of, where it is a value to be kept: then it is the
    number of it in the table, from 1, shown by its name.
    """

    value: str
    span: Span
    table: tuple[str, ...] = ()


class Member(Node):
    """`value.name`; pointers are followed by themselves."""

    value: "Expr"
    name: str
    span: Span
    name_span: Span


class Index(Node):
    """`value[subscript]`."""

    value: "Expr"
    subscript: "Expr"
    span: Span


class Unary(Node):
    """`op operand`, op one of `UNARY`."""

    op: str
    operand: "Expr"
    span: Span


class Binary(Node):
    """`left op right`, op one of `BINARY`."""

    op: str
    left: "Expr"
    right: "Expr"
    span: Span


class Compare(Node):
    """`left op1 a op2 b …`: true when each neighbouring pair compares true; every operand is taken once."""

    left: "Expr"
    rest: tuple[tuple[str, "Expr"], ...]
    span: Span


class Match(Node):
    """Whether a text starts with, ends with, contains or matches a constant text; op one of `MATCH`."""

    op: str
    text: "Expr"
    pattern: "Expr"
    span: Span


class Logic(Node):
    """`a and b and …` (op "and") or `a or b or …` (op "or"), from left to right, stopping early."""

    op: str
    operands: tuple["Expr", ...]
    span: Span


class Conditional(Node):
    """`then if test else otherwise`."""

    test: "Expr"
    then: "Expr"
    otherwise: "Expr"
    span: Span


class Cast(Node):
    """`value` seen as the C type `type` ("struct tcp_sock *", "u32")."""

    type: str
    value: "Expr"
    span: Span
    type_span: Span


class Call(Node):
    """`function(arguments…, name=argument…)`. `own`: which of the probe's own functions it is; -1: none."""

    function: str
    arguments: tuple["Expr", ...]
    keywords: tuple[tuple[str, "Expr"], ...]
    span: Span
    function_span: Span
    own: int = -1


class MapDeclaration(Node):
    """A map as it was declared. `kind`, `size`, `bounds`: as in `checked.Map`; `key`, `value`: the C types of
    their parts, a text of n bytes with its NUL being `char[n]`; no key: the map holds one value. `owner`
    tells it from others: the object that shows it, or where it is declared; `title`: its name in the unit.
    """

    title: str
    kind: str
    key: tuple[str, ...]
    value: tuple[str, ...]
    size: int
    bounds: tuple[int, int, int]
    owner: object


class Element(Node):
    """The value of a map at a key, or of a map without keys; as an expression or where a value goes."""

    map: MapDeclaration
    key: tuple["Expr", ...]
    span: Span


class HasKey(Node):
    """Whether a map has a value at a key."""

    element: Element
    span: Span


class Shown(Node):
    """A number of this type, which says how people read it: a `types.Int` with a display, a `types.Enum`."""

    value: "Expr"
    type: Form
    span: Span


class Context(Node):
    """The address of what the kernel gives the program: registers, an event's record, arguments."""

    span: Span


class Tuple(Node):
    """`(a, b, …)`, or with names (as many as items; else none) a record, `(x=a, y=b)`."""

    items: tuple["Expr", ...]
    span: Span
    names: tuple[str, ...] = ()


Expr: TypeAlias = (
    Name
    | Number
    | String
    | Member
    | Index
    | Unary
    | Binary
    | Compare
    | Match
    | Logic
    | Conditional
    | Cast
    | Call
    | Element
    | HasKey
    | Shown
    | Context
    | Tuple
)


class Assign(Node):
    """`name = value`; `type` is the C type written beside it, empty when none is."""

    name: str
    value: Expr
    span: Span
    name_span: Span
    type: str = ""
    type_span: Span = NOWHERE


class Targets(Node):
    """The names that the parts of a tuple are given to, in their order."""

    items: tuple["Name | Targets", ...]
    span: Span


class Unpack(Node):
    """`a, (b, c) = value`."""

    targets: Targets
    value: Expr
    span: Span


class If(Node):
    """`if test: then… else: otherwise…`."""

    test: Expr
    then: tuple["Stmt", ...]
    otherwise: tuple["Stmt", ...]
    span: Span


class For(Node):
    """`for name in range(start, stop, step): body…`."""

    name: str
    start: Expr
    stop: Expr
    step: Expr
    body: tuple["Stmt", ...]
    span: Span
    name_span: Span
    range_span: Span


class ForMap(Node):
    """`for name in map: body…`: the name is a pair of a key and the value there."""

    name: str
    map: MapDeclaration
    body: tuple["Stmt", ...]
    span: Span
    name_span: Span
    map_span: Span


class While(Node):
    """`while test: body…`. How often it runs at most is found, or said by `turns(n)` among what `test` joins
    with `and`.
    """

    test: Expr
    body: tuple["Stmt", ...]
    span: Span


class Break(Node):
    """The end of the innermost loop."""

    span: Span


class Continue(Node):
    """The end of this turn of the innermost loop."""

    span: Span


class Do(Node):
    """A call for its effect: `emit(…)`, or a function of one's own."""

    call: Call
    span: Span


class SetElement(Node):
    """`map[key] = value`."""

    target: Element
    value: Expr
    span: Span


class DeleteElement(Node):
    """`del map[key]`."""

    target: Element
    span: Span


class Signal(Node):
    """A signal is sent to the current process, or to the current thread. No text of Python's gives it."""

    number: "Expr"
    thread: bool
    span: Span


class Aggregate(Node):
    """`map[key].add(value)`, `map[key] += value`: a value is added to what the map keeps. None: there is none
    to give, as for a count.
    """

    target: Element
    value: Expr | None
    span: Span


class Return(Node):
    """The end of the probe or function, and what that gives."""

    span: Span
    value: Expr | None = None


class Broken(Node):
    """A statement that is wrong as it is written, which `Probe.faults` tells. `names`: what it would assign;
    `ends`: whether it would end the function.
    """

    names: tuple[str, ...]
    ends: bool
    span: Span


Stmt: TypeAlias = (
    Assign
    | Unpack
    | If
    | For
    | ForMap
    | While
    | Break
    | Continue
    | Do
    | SetElement
    | DeleteElement
    | Aggregate
    | Signal
    | Return
    | Broken
)


class Parameter(Node):
    """A parameter of a function; `type` is the C type written beside it, empty when none is; `default`: what
    it is where a call does not give it (of probes: none).
    """

    name: str
    type: str
    span: Span
    type_span: Span
    default: Expr | None = None


class Function(Node):
    """A function that probes call. `constants`: the names with known values around it."""

    name: str
    parameters: tuple[Parameter, ...]
    body: tuple[Stmt, ...]
    span: Span
    constants: tuple[tuple[str, int | str], ...] = ()


WILDCARDS = frozenset("*?[")


class AttachPoint(Node):
    """Where a probe is to be, wildcards as written. `kind`: as in `kwire.kinds`. `group`: the tracepoint's
    category, or the function's module (empty: any). `offset`: bytes after the function's start.
    """

    kind: str
    group: str
    name: str
    offset: int
    span: Span

    @property
    def target(self) -> str:
        """The text after the kind: "sched:sched_switch", "tcp_connect+16"."""
        offset = f"+{self.offset}" if self.offset else ""
        return in_file(self.group, f"{self.name}{offset}") if self.group else f"{self.name}{offset}"

    @property
    def wildcard(self) -> bool:
        """Whether it is a pattern that may stand for several places."""
        return not WILDCARDS.isdisjoint(self.target)

    def __str__(self) -> str:
        return f"{self.kind}:{self.target}" if self.target else self.kind


class Print(NamedTuple):
    """A statement that prints: how, in which format, and of each value its name and its place. `python`: the
    format means what Python's would.
    """

    prints: str
    format: str
    span: Span
    arguments: tuple[tuple[str, Span], ...] = ()
    python: bool = False


class Probe(Node):
    """One probe as written: where it attaches, what it takes, what it does."""

    name: str
    attach: tuple[AttachPoint, ...]
    parameters: tuple[Parameter, ...]
    body: tuple[Stmt, ...]
    source: Source
    span: Span
    constants: tuple[tuple[str, int | str], ...] = ()  # names of the surrounding text with known values
    functions: tuple[Function, ...] = ()  # those that are called, by `Call.own`
    faults: tuple[tuple[Span, str, str], ...] = ()  # what is wrong as it is written: where, what, the cure
    prints: tuple[tuple[str, Print], ...] = ()  # those of its events that are printed, by name
