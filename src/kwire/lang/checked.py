"""The checked program: typed, every name resolved, nothing left to decide but how to compute it.

Laws the compiler may rely on:

- Every expression has `type` and `span`. Expressions of scalar type leave in a 64-bit register the
  mathematical value of their type (sign- or zero-extended, see `types`).
- Arithmetic is done in 64 bits and wraps. `Binary.type` is `S64` or `U64` (or a `Pointer`, computed as u64)
  and decides between signed and unsigned division, remainder and right shift. Division by zero gives 0, the
  remainder of zero the dividend, as eBPF has it. "div" floors and the remainder "mod" has the divisor's sign,
  as in Python; "quo" truncates and the remainder "rem" has the dividend's sign, as in C. Shift counts are
  taken modulo 64.
- Reading memory cannot fault: a read that fails gives 0 (integers, each byte of a block) or no text.
  A failed read in the middle of a chain makes the following address small, so the chain gives 0.
- Operands are evaluated left to right. No expression has an effect, so an implementation may reorder and
  share everything but reads after a condition that guards them: `Logic` and `Select` evaluate an operand
  only when it is needed (reading is safe anyway; it is a matter of cost, not of faults). What is read of a
  map (`MapGet`, `MapHas`) is what the statements before have left there.
- Wide expressions (`ReadText`, `ReadBytes`, `ReadBlock`, `Comm`) have no register value. They occur only as
  a value of `Emit` and as the operand of `TextEqual`, `TextOrder`, `TextMatch` and `BlockEqual`.
- A local has one type in the whole program, that of its register, and is always set before it is read, on
  every path. `LocalGet.type` is what its value is there: a type that the local's holds, or of its 64 bits.
  A local whose type is a `Text` is memory that holds one (`TextSet`, `TextPlace`).
- A program emits events of one or several shapes (`Program.shapes`), each with its fields; every `Emit` gives
  one value for each field of its shape, in that order. One that only changes maps has one shape without
  fields: firings that the kernel does not run are told as missing from it.
- Maps are shared by all programs of a unit; two with one name are one. An update that finds no room is
  counted beside the map, and changes nothing. At `MapPlace`, `EachKey` and `EachValue` the parts of keys and
  values lie as `compile.maps` says (`key_parts`, `value_parts`).
"""

from collections.abc import Iterator

from kwire.hints import TypeAlias
from kwire.lang import types
from kwire.lang.context import Argument, CtxField, Located, Result, Saved, Site, TaskMember
from kwire.lang.forms import Node, walk
from kwire.lang.tree import Source, Span
from kwire.lang.types import Bool, Bytes, Int, Part, Pointer, Scalar, Text, Tuple, Type


class Const(Node):
    """An integer constant, in the range of its type; `typed`: whether that was written (which matters to
    `sizeof` only).
    """

    value: int
    type: Scalar
    span: Span
    typed: bool = False


class Builtin(Node):
    """A scalar the kernel knows; `op` is a key of `builtins.OPERATIONS` ("pid", "cpu", "nsecs", "func"…)."""

    op: str
    type: Scalar
    span: Span


class Param(Node):
    """A scalar of the probe's context, taken at its type's width: an `int` argument is the low 32 bits of its
    register, sign-extended. `CtxField.size` equals the type's size.
    """

    name: str
    access: CtxField | Argument | Result | Saved | TaskMember | Located
    type: Scalar
    span: Span


class Context(Node):
    """The address of the program's context, as the base of a place (a tracepoint's embedded array)."""

    type: Pointer
    span: Span


class DataLocAddress(Node):
    """The address of a tracepoint's variable-length data: context + (u32 at `offset` of it & 0xffff); when
    `relative`, that much from the end of the u32. As the base of a place.
    """

    offset: int
    relative: bool
    type: Pointer
    span: Span


class Index(Node):
    """A variable index: value * stride bytes are added to the place.

    When `length` is not 0 the array's bounds are known: an index outside 0 … length-1 (compare unsigned)
    makes the read give 0, the empty text, or a null address. So does one beyond the data where the base is a
    `DataLocAddress`. Constant indexes are folded into the offset.
    """

    value: "Expr"
    stride: int
    length: int


class Place(Node):
    """A place in memory: base + offset + the indexes. `base` is an address (scalar, usually a `Pointer`).

    A base that is `Context` can be read directly for constant places; everything else goes through the
    helper of `space` ("kernel" or "user").
    """

    base: "Expr"
    offset: int
    indexes: tuple[Index, ...]
    space: str
    span: Span


class Load(Node):
    """The scalar at a place. A chain of members through embedded structures is one place, so one load is one
    memory hop.

    A bit-field has `bit_size` > 0: `place` is the address of the first byte that holds a bit of it,
    `bit_offset` (0…7 little-endian) counts from the least significant bit on little-endian machines and from
    the most significant bit on big-endian ones; `bit_size` bits, at most 64, extended by the type's sign.
    They lie within (bit_offset + bit_size + 7) // 8 bytes from the place, which may be up to 9 for packed
    structures (the checker refuses more than 8).
    """

    place: Place
    type: Scalar
    span: Span
    bit_offset: int = 0
    bit_size: int = 0


class AddressOf(Node):
    """The address of a place: base + offset + indexes; 0 when an index is out of bounds."""

    place: Place
    type: Pointer
    span: Span


class LocalGet(Node):
    """The value of local number `local` (an index of `Program.locals`)."""

    local: int
    type: Scalar
    span: Span


class Turn(Node):
    """`start + turn * step` of the innermost loop: in the first statement of its body. Its type is `S64`, or
    `U64` where the loop is unsigned.
    """

    type: Int
    span: Span


class TextPlace(Node):
    """The address of the text that local number `local` holds, a NUL behind it; as the base of a place."""

    local: int
    type: Pointer
    span: Span


class EachKey(Node):
    """The address of the key that the innermost `Each` is at; in the first statements of its body."""

    type: Pointer
    span: Span


class EachValue(Node):
    """The address of the value there, likewise; not of what each CPU keeps."""

    type: Pointer
    span: Span


class EachGet(Node):
    """The number that the map holds there, as `MapGet`; likewise."""

    map: "Map"
    type: Scalar
    span: Span


class Binary(Node):
    """`left op right`, op one of add sub mul div mod quo rem and or xor shl shr, in 64 bits."""

    op: str
    left: "Expr"
    right: "Expr"
    type: Scalar
    span: Span


class Negate(Node):
    """0 - operand."""

    operand: "Expr"
    type: Int
    span: Span


class Invert(Node):
    """All 64 bits flipped (signed types: s64; unsigned: u64)."""

    operand: "Expr"
    type: Int
    span: Span


class Compare(Node):
    """op one of eq ne lt le gt ge on the 64-bit registers; `signed` says how the ordering ones compare."""

    op: str
    left: "Expr"
    right: "Expr"
    signed: bool
    type: Bool
    span: Span


class TextEqual(Node):
    """Whether the value of a text is the literal: its limit counts, so `str(p, 2) == "ab"` holds for "abc".

    `literal` has no NUL; one longer than the text's limit is never equal. `text` is a `ReadText` or `Comm`.
    "Not equal" is `Not` around it.
    """

    text: "Wide"
    literal: bytes
    type: Bool
    span: Span


class TextCompare(Node):
    """Two texts compared by their bytes, each as far as its limit: op one of eq ne lt le gt ge.

    One that cannot be read stands to nothing and equals nothing.
    """

    op: str
    left: "Wide"
    right: "Wide"
    type: Bool
    span: Span


class TextLength(Node):
    """How many bytes a text has, as far as its limit; 0 for one that cannot be read."""

    text: "Wide"
    type: Int
    span: Span


class TextOrder(Node):
    """How the value of a text stands to the literal by its bytes: op one of lt le gt ge.

    `text` and `literal` as in `TextEqual`, but a longer literal is allowed. A text that cannot be read stands
    to nothing.
    """

    op: str
    text: "Wide"
    literal: bytes
    type: Bool
    span: Span


ByteSet: TypeAlias = tuple[tuple[int, int], ...]
"""Bytes that may stand at one place of a text: ranges, both ends included, never 0."""

Piece: TypeAlias = tuple[ByteSet, ...]
"""Neighbouring bytes of a text."""


class TextMatch(Node):
    """Whether the value of a text is made of the pieces in their order, with any bytes between two of them.

    The first piece is its start and the last its end; both may be empty. One piece is the whole text.
    """

    text: "Wide"
    pieces: tuple[Piece, ...]
    type: Bool
    span: Span


class BlockEqual(Node):
    """Whether the bytes at a place are these; `block.size` bytes."""

    block: "ReadBlock"
    data: bytes
    type: Bool
    span: Span


class Logic(Node):
    """`left and right` / `left or right`: op "and" or "or"; 0 or 1; the right operand only when needed.

    Any scalar may stand as an operand: not 0 is true.
    """

    op: str
    left: "Expr"
    right: "Expr"
    type: Bool
    span: Span


class Not(Node):
    """1 when the operand is 0, otherwise 0."""

    operand: "Expr"
    type: Bool
    span: Span


class Select(Node):
    """`then` when `test` is not 0, otherwise `otherwise`; only the chosen one is needed."""

    test: "Expr"
    then: "Expr"
    otherwise: "Expr"
    type: Scalar
    span: Span


class Convert(Node):
    """The operand's low bytes as `type`: truncated to its size, then sign- or zero-extended. `Bool`: != 0.

    Occurs only where the register changes; to `Bool` it is a test against 0.
    """

    operand: "Expr"
    type: Scalar
    span: Span


class Retype(Node):
    """The same register under another type (a pointer cast, a display): costs nothing."""

    operand: "Expr"
    type: Scalar
    span: Span


class Bswap(Node):
    """The operand's low `size` bytes (2, 4, 8) from big-endian to the host's order, zero-extended.

    On a big-endian host that is the identity (after truncation).
    """

    operand: "Expr"
    size: int
    type: Int
    span: Span


class ReadText(Node):
    """Text at a place up to its NUL, at most `type.limit` bytes without the NUL.

    Unreadable memory is no text: it is told from an empty one (see `wire.fields`), and compares as unequal to
    everything. Only in an array of at most 16 bytes, which is read as a block, is it the empty text.

    `fixed` > 0: the place is an array of that many bytes (char[16], a constant size): nothing beyond it is
    read even when no NUL is in it. `fixed` == 0: NUL-terminated memory of unknown size.
    """

    place: Place
    type: Text
    span: Span
    fixed: int = 0


class ReadBlock(Node):
    """`size` bytes at a place, verbatim, into the fixed part of the record; zeros when unreadable.

    `type` is an `Array` of scalars, possibly with a display: ipv6, mac. (Inside the checker it also stands
    for whole structures and arrays on the way to a member; these never reach a program.)
    """

    place: Place
    size: int
    type: Type
    span: Span


class Comm(Node):
    """The name of the current thread; its 16 bytes hold a NUL, so its limit is 15, or less."""

    type: Text
    span: Span


class ReadBytes(Node):
    """`length` bytes at a place (any scalar; a negative one is none, it is cut at `type.limit`) into the
    record's tail. Unreadable memory is told from no bytes.
    """

    place: Place
    length: "Expr"
    type: Bytes
    span: Span


class Map(Node):
    """A map of the unit, by its name there. `kind`: one of `MAPS`.

    `key`: the types of the parts of its keys, scalars, texts and arrays; without any the map holds one value.
    `value`: the type of the values given to it (of a count: U64); of a "hash" or "lru" perhaps a text, an
    array, or a tuple of such. `size`: keys at most. `bounds` of a "lhist": the first number, the one behind
    the last, and the width of a bucket; of a "hist" first how many bits behind the highest one tell the
    bucket of a number. `nest`: where parts of keys are tuples again; `forgets`: what was not used
    for long where it is full, of what each CPU keeps.
    """

    name: str
    kind: str
    key: tuple[Part, ...]
    value: Part | Tuple
    size: int
    bounds: tuple[int, int, int] = (0, 0, 0)
    nest: types.Nest = ()
    forgets: bool = False

    @property
    def number(self) -> Scalar:
        """The type of its values, which are scalars."""
        assert isinstance(self.value, types.SCALARS)
        return self.value


MAPS = ("hash", "lru", "count", "sum", "min", "max", "avg", "stats", "hist", "lhist")
"""Kinds of maps: "hash" and "lru" (which forgets what was not used for long, where it is full) hold the
values that were set; the others take values and keep, on each CPU by itself, how many there were, their sum,
the smallest, the greatest, sum and number of them ("avg" and "stats"), or how many fell into each bucket.

The buckets of "hist" are the powers of two: negative numbers, 0, 1, 2 to 3, 4 to 7, and so on; those of
"lhist" what lies below `bounds`, each width of it, and what lies above.
"""


class SocketCookie(Node):
    """The cookie of a socket, which is the number by which the kernel knows it; `socket` is an argument of
    the probed function.
    """

    socket: Param
    type: Int
    span: Span


class TextConst(Node):
    """A text that is known, without its NUL, at most `type.limit` bytes."""

    value: bytes
    type: Text
    span: Span


Parts: TypeAlias = "tuple[Expr | Wide | TextConst, ...]"
"""The parts of a key or of a value, each of its part's type: scalars, `ReadText`, `Comm`, `TextConst` and,
for an array, `ReadBlock`. A text is cut at the limit of its part; one that cannot be read is the empty one
there.
"""
Key: TypeAlias = Parts


class MapGet(Node):
    """The value at a key, 0 where there is none; of what each CPU keeps: of all CPUs together. Of "avg" and
    "stats" the average, as division floors; no "hist" or "lhist" is read.
    """

    map: Map
    key: Key
    type: Scalar
    span: Span


class MapPlace(Node):
    """The address of the value at a key, of zeros where there is none, for as long as nothing changes the
    map; as the base of a place, or given to a local. Not of what each CPU keeps.
    """

    map: Map
    key: Key
    type: Pointer
    span: Span


class MapHas(Node):
    """Whether a map has a key; without keys, of a "hash" or "lru": whether it was set."""

    map: Map
    key: Key
    type: Bool
    span: Span


class StackTable(Node):
    """Where programs of a unit keep stacks of one kind: of the kernel or (`user`) of processes, of so many
    frames at most, by addresses or (`ids`) by places in files that are told by their build ids; `room`: how
    many; `single`: they are single addresses, each of which is its own number.
    """

    user: bool
    limit: int
    ids: bool
    room: int
    single: bool = False


class Stack(Node):
    """The number of the stack that the probe fired on: a new one where its innermost frames were never seen
    before (of a process: of this process), 0 where the table has no room for it, which is counted.
    """

    table: StackTable
    type: types.Stack
    span: Span


class StackDepth(Node):
    """How many frames the stack of the kernel, or (`user`) of the process has, as far as the limit."""

    user: bool
    limit: int
    type: Int
    span: Span


class UserSymbol(Node):
    """An address in the current process as the number of a stack of this one frame."""

    address: "Expr"
    table: StackTable
    type: types.Stack
    span: Span


class KernelSymbol(Node):
    """An address in the kernel, as it is; whoever has it finds its name by it, as the stack of this one frame
    with the address for its number.
    """

    address: "Expr"
    table: StackTable
    type: Int | Pointer
    span: Span


Wide: TypeAlias = ReadText | ReadBytes | ReadBlock | Comm
Expr: TypeAlias = (
    Const
    | Builtin
    | Param
    | Context
    | DataLocAddress
    | Load
    | AddressOf
    | LocalGet
    | Turn
    | Binary
    | Negate
    | Invert
    | Compare
    | TextEqual
    | TextCompare
    | TextLength
    | TextOrder
    | TextMatch
    | BlockEqual
    | Logic
    | Not
    | Select
    | Convert
    | Retype
    | Bswap
    | MapGet
    | MapPlace
    | MapHas
    | TextPlace
    | EachKey
    | EachValue
    | EachGet
    | SocketCookie
    | Stack
    | StackDepth
    | UserSymbol
    | KernelSymbol
)


class LocalSet(Node):
    """Local number `local` gets the value, already of the local's type."""

    local: int
    value: Expr
    span: Span


class TextSet(Node):
    """The memory of local number `local`, a `Text`, holds this text, cut at its limit; the empty one where it
    cannot be read. The text is not that of the local itself. `size`: so many bytes of it, and no more is read
    of memory (a negative number is none); a scalar.
    """

    local: int
    value: "Wide | TextConst"
    type: Text
    span: Span
    size: "Expr | None" = None


class Store(Node):
    """The memory of local number `local`, a `Text`, holds the 8 bytes of a number from byte `at` on, which is
    a multiple of 8.
    """

    local: int
    value: Expr
    span: Span
    at: int = 0


class If(Node):
    """`then` when `test` (any scalar) is not 0, otherwise `otherwise`."""

    test: Expr
    then: tuple["Stmt", ...]
    otherwise: tuple["Stmt", ...]
    span: Span


class Loop(Node):
    """Turns 0, 1, … as long as there are fewer than `most`, and (where `stop` is not None) `start + turn *
    step` is below `stop`, or above it where `step` is negative, all as numbers without end. `start` and
    `stop` are of 64 bits, `unsigned` or not, and taken once, before.

    `most` is a bound that holds anyway, or without `stop` the number of turns: the verifier has to see it.
    `LocalSet` in the body, of locals set before, changes what later turns and statements find.
    """

    start: Expr
    step: int
    stop: Expr | None
    most: int
    body: tuple["Stmt", ...]
    span: Span
    unsigned: bool = False


class Each(Node):
    """A turn for each key of a map, which has keys, in an order that is the map's. What the body adds to the
    map or takes away may be met or not.
    """

    map: Map
    body: tuple["Stmt", ...]
    span: Span


class Break(Node):
    """The end of the innermost loop."""

    span: Span


class Continue(Node):
    """The end of this turn of the innermost loop."""

    span: Span


class Block(Node):
    """Statements that `Leave` ends: the body of a function where it is called."""

    body: tuple["Stmt", ...]
    span: Span


class Leave(Node):
    """The end of the innermost block."""

    span: Span


class Emit(Node):
    """One event of shape number `shape` (an index of `Program.shapes`): a value for each of its fields, in
    order, of exactly the field's type; a text that is an array of characters may have such a field.

    Storing truncates nothing: a scalar of the field's type fits its size.
    """

    values: tuple["Expr | Wide", ...]
    span: Span
    shape: int = 0


class MapSet(Node):
    """The value at a key of a "hash" or "lru" is this one from now on, its parts those of `Map.value`."""

    map: Map
    key: Key
    value: Parts
    span: Span


class MapDelete(Node):
    """A key and its value are there no more; without keys, of a "hash" or "lru": it is not set."""

    map: Map
    key: Key
    span: Span


class Aggregate(Node):
    """A value, of exactly `Map.value`, is added to what a map keeps at a key, as the kind of the map says; to
    the number that a "hash" or "lru" holds there. For "count" the value is how much is counted.
    """

    map: Map
    key: Key
    value: Expr
    span: Span


class Signal(Node):
    """A signal is sent to the current process, or (`thread`) to the current thread, if there is one."""

    number: Expr
    thread: bool
    span: Span


class Exit(Node):
    """The end of the program, and of the trace, which is asked to end with a status (its low byte); the last
    status that was given counts.
    """

    status: Expr
    span: Span


class Return(Node):
    """The end of the program."""

    span: Span


Stmt: TypeAlias = (
    LocalSet
    | TextSet
    | Store
    | If
    | Loop
    | Each
    | Break
    | Continue
    | Block
    | Leave
    | Emit
    | MapSet
    | MapDelete
    | Aggregate
    | Signal
    | Exit
    | Return
)


class Local(Node):
    """A local variable: its name (for diagnostics) and its type, a scalar or that of the text it holds."""

    name: str
    type: Scalar | Text


class Field(Node):
    """A field of the event.

    `type`: a scalar (fixed part, `types.size_of` bytes, `display` and enum names as in the type), `Array` of
    scalars of known length (fixed part; of `char`: text, NUL-padded), `Text` or `Bytes` (tail, at most
    `limit` bytes; a value's own limit may be smaller, its space another).
    """

    name: str
    type: Type
    meaning: str = ""
    unit: str = ""


class Shape(Node):
    """A kind of event that a program emits: its fields, and its name among the program's events (empty where
    there is only this one and nobody named it). `prints`, `format`: how it is printed (`wire.printf`), where
    it is.
    """

    fields: tuple[Field, ...]
    name: str = ""
    prints: str = ""
    format: str = ""


class Program(Node):
    """One probe, checked for one site. A firing for which `filter` is false is no event and is not counted;
    None: every firing runs the body. `guard` is the same but checked before all else, the choice of
    processes included: it turns away what only shares the attach point with the probe.
    """

    name: str
    site: Site
    source: Source
    shapes: tuple[Shape, ...]
    locals: tuple[Local, ...]
    filter: Expr | None
    body: tuple[Stmt, ...]
    span: Span
    filter_source: Source | None = None  # the text that the spans in `filter` belong to, when it is another
    guard: Expr | None = None

    def maps(self) -> dict[str, Map]:
        """The maps that it uses, by name."""
        return {node.name: node for node in self._nodes() if isinstance(node, Map)}

    def stacks(self) -> list[StackTable]:
        """The tables of stacks that it uses."""
        nodes = self._nodes()
        return list(dict.fromkeys(node for node in nodes if isinstance(node, StackTable)))

    def _nodes(self) -> Iterator[Node]:
        parts = [one for one in (self.guard, self.filter, *self.body) if one is not None]
        return (node for part in parts for node in walk(part))
