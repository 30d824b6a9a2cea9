"""The syntax tree of a script: what was written, in the words of the bpftrace language.

Invariants: every node has the span of its text; nothing is resolved, folded or checked here. `a->b` is
`a.b`, `k` in `@m[k]` stays an expression (of several, a tuple), a macro of the preprocessor is gone.
"""

from kwire.hints import TypeAlias
from kwire.lang.forms import Node
from kwire.lang.tree import Source, Span

UNARY = {"-": "minus", "!": "not", "~": "complement", "*": "what an address points to"}
"""The operators before an operand."""

LEVELS: tuple[tuple[str, ...], ...] = (
    ("||",),
    ("&&",),
    ("|",),
    ("^",),
    ("&",),
    ("==", "!="),
    ("<", "<=", ">", ">="),
    ("<<", ">>"),
    ("+", "-"),
    ("*", "/", "%"),
)
"""The operators between operands, those that bind least first; all from left to right."""

COMPOUND = ("+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "<<=", ">>=")
"""The assignments that compute."""


class Type(Node):
    """The name of a C type: "struct sock *", "uint64", "char[16]"; or `typeof(value)`."""

    name: str
    span: Span
    value: "Expr | None" = None


class Int(Node):
    """An integer; a duration is its nanoseconds."""

    value: int
    span: Span


class Bool(Node):
    """`true` or `false`."""

    value: bool
    span: Span


class Str(Node):
    """A string literal; bytes that are no UTF-8 are surrogates."""

    value: str
    span: Span


class Name(Node):
    """A word: a built-in, a constant of an enumeration, a parameter of a macro."""

    id: str
    span: Span


class Var(Node):
    """`$name`; `id` without the sign."""

    id: str
    span: Span


class Map(Node):
    """`@name`, or `@name[key]`; `id` without the sign, empty for `@` alone."""

    id: str
    key: "Expr | None"
    span: Span


class Positional(Node):
    """`$1`: an argument of the script; number 0 is `$#`, how many there are."""

    number: int
    span: Span


class Call(Node):
    """`function(arguments)`."""

    function: str
    arguments: tuple["Expr", ...]
    span: Span
    function_span: Span


class Sizeof(Node):
    """`sizeof(type)` or `sizeof(value)`."""

    of: "Type | Expr"
    span: Span


class Offsetof(Node):
    """`offsetof(type or value, member.member…)`."""

    of: "Type | Expr"
    members: tuple[str, ...]
    span: Span


class Typeinfo(Node):
    """`typeinfo(type or value)`."""

    of: "Type | Expr"
    span: Span


class Field(Node):
    """`value.name`, `value->name`."""

    value: "Expr"
    name: str
    span: Span
    name_span: Span


class Item(Node):
    """`value.number`: an item of a tuple."""

    value: "Expr"
    number: int
    span: Span


class Index(Node):
    """`value[subscript]`, of what is no map."""

    value: "Expr"
    subscript: "Expr"
    span: Span


class Cast(Node):
    """`(type)value`."""

    type: Type
    value: "Expr"
    span: Span


class Unary(Node):
    """`op operand`, op one of `UNARY`."""

    op: str
    operand: "Expr"
    span: Span


class Step(Node):
    """`++x`, `--x`, `x++`, `x--`: `op` is "++" or "--", `before`: the sign stands before the operand."""

    op: str
    operand: "Expr"
    before: bool
    span: Span


class AddressOf(Node):
    """`&$x`, `&@m`."""

    operand: "Expr"
    span: Span


class Binary(Node):
    """`left op right`, op one of `LEVELS`."""

    op: str
    left: "Expr"
    right: "Expr"
    span: Span


class Ternary(Node):
    """`test ? then : otherwise`; without `then`: `test ?: otherwise`."""

    test: "Expr"
    then: "Expr | None"
    otherwise: "Expr"
    span: Span


class Tuple(Node):
    """`(a, b)`, `(a,)`, `()`; also the key in `@m[a, b]`."""

    items: tuple["Expr", ...]
    span: Span


class Record(Node):
    """`(a=1, b=2)`."""

    names: tuple[str, ...]
    items: tuple["Expr", ...]
    span: Span


class Comptime(Node):
    """`comptime value`."""

    value: "Expr"
    span: Span


class Block(Node):
    """`{ statements… value }`; where it is no value, `value` is None."""

    body: tuple["Stmt", ...]
    value: "Expr | None"
    span: Span


class If(Node):
    """`if test { … } else { … }`, as a statement or a value; `otherwise` is an If again for `else if`."""

    test: "Expr"
    then: Block
    otherwise: "Block | If | None"
    span: Span


Expr: TypeAlias = (
    Int
    | Bool
    | Str
    | Name
    | Var
    | Map
    | Positional
    | Call
    | Sizeof
    | Offsetof
    | Typeinfo
    | Field
    | Item
    | Index
    | Cast
    | Unary
    | Step
    | AddressOf
    | Binary
    | Ternary
    | Tuple
    | Record
    | Comptime
    | Block
    | If
)


class Do(Node):
    """An expression for its effect."""

    value: Expr
    span: Span


class Discard(Node):
    """`_ = value;`."""

    value: Expr
    span: Span


class Assign(Node):
    """`target = value`, or `target += value` with `op` "+"."""

    target: Expr
    op: str
    value: Expr
    span: Span


class Let(Node):
    """`let $x`, `let $x : type = value`."""

    target: Var
    type: Type | None
    value: Expr | None
    span: Span


class While(Node):
    """`while (test) { … }`."""

    test: Expr
    body: Block
    span: Span


class Unroll(Node):
    """`unroll (count) { … }`."""

    count: Expr
    body: Block
    span: Span


class ForRange(Node):
    """`for $i : start..end { … }`."""

    target: Var
    start: Expr
    end: Expr
    body: Block
    span: Span


class ForMap(Node):
    """`for ($kv : @map) { … }`."""

    target: Var
    map: Map
    body: Block
    span: Span


class Jump(Node):
    """`break`, `continue`, `return`, `return value`."""

    word: str
    value: Expr | None
    span: Span


class Import(Node):
    """`import "file";`."""

    path: str
    span: Span


Stmt: TypeAlias = Do | Discard | Assign | Let | While | Unroll | ForRange | ForMap | Jump | Import


class AttachPoint(Node):
    """Where a probe is to be, as written: `text` with its quotes and parameters."""

    text: str
    span: Span


class Probe(Node):
    """Attach points, perhaps a predicate, and a block."""

    points: tuple[AttachPoint, ...]
    predicate: Expr | None
    body: Block
    span: Span


class Macro(Node):
    """`macro name($a, @b, c) { … }`; parameters with their signs."""

    name: str
    parameters: tuple[Var | Map | Name, ...]
    body: Block
    span: Span


class Function(Node):
    """`fn name($a : type) : type { … }`."""

    name: str
    span: Span


class MapDeclaration(Node):
    """`let @name = kind(entries);`."""

    id: str
    kind: str
    entries: int
    span: Span
    kind_span: Span


class Setting(Node):
    """One line of the config block: a name and a value, which is text for words."""

    name: str
    value: int | str | bool
    span: Span


class CMember(Node):
    """A member of a C structure: the name of its type with all stars, the lengths of its arrays; `bits` of a
    bit-field, 0 where it is none. A structure defined on the spot is `inner`, and `type` is empty.
    """

    name: str
    type: str
    lengths: tuple[int, ...]
    bits: int
    span: Span
    inner: "CStruct | CEnum | None" = None


class CStruct(Node):
    """`struct name { … };` or a union."""

    name: str
    union: bool
    packed: bool
    members: tuple[CMember, ...]
    span: Span


class CEnum(Node):
    """`enum name { A, B = 3 };`: the names with their values."""

    name: str
    values: tuple[tuple[str, int], ...]
    span: Span


class Script(Node):
    """A whole script."""

    source: Source
    structs: tuple[CStruct, ...]
    enums: tuple[CEnum, ...]
    settings: tuple[Setting, ...]
    imports: tuple[Import, ...]
    macros: tuple[Macro, ...]
    functions: tuple[Function, ...]
    maps: tuple[MapDeclaration, ...]
    probes: tuple[Probe, ...]
    span: Span
