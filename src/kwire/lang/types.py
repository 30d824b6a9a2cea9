"""The types of values in a probe: what the checker assigns and what the compiler stores.

Laws:
- A scalar (`Int`, `Bool`, `Enum`, `Pointer`) lives in a 64-bit register that always holds the mathematical
  value of its type: sign-extended when the type is signed, zero-extended otherwise. Widening is free.
- `Struct` and `Array` are never held in a register; they are reached through a place in memory.
- `Text` and `Bytes` are read from memory where they are used (see `checked`).
- `display` says how a value is shown, never how it is computed: one of `ADDRESSES`, which are types of the
  wire, or for integers one of `wire.fields.DISPLAYS` or of `wire.names.tables`.

Types are values (`forms`): they compare by class and fields, how they are shown included.
"""

from collections.abc import Iterator

from kwire.hints import Final, TypeAlias
from kwire.lang.forms import Form
from kwire.wire.schema import ELEMENT as ELEMENT_NAME

ADDRESSES = ("ipv4", "ipv6", "mac", "ksym", "usym")
"""Displays that make a value an address of the named kind: the wire's type of the same name."""

STACK_MODES = ("bpftrace", "perf", "raw", "build_id")
"""How stacks are read: names with offsets; as `perf script` shows them; addresses; places in files."""

ELEMENT: Final = ELEMENT_NAME
"""What parts of a tuple are called that is an array: of structures, of arrays, or of one number."""

KERNEL = "kernel"
RAW = "raw"
"""How arrays of bytes are shown that are neither numbers nor text."""

USER = "user"


class Void(Form):
    """Nothing, or something unknown behind a pointer."""


class Int(Form):
    """An integer of `size` bytes: 1, 2, 4 or 8 (16 only behind a pointer; it cannot be loaded)."""

    size: int
    signed: bool
    display: str = ""
    char: bool = False  # C's char: an array of it is text


class Bool(Form):
    """One byte, 0 or 1. Comparisons and logic give it."""


class Enum(Form):
    """An integer of `size` bytes whose values have names; with `flags` its bits have, joined by `|`."""

    name: str
    size: int
    signed: bool
    values: tuple[tuple[str, int], ...] = ()
    flags: bool = False


class Pointer(Form):
    """An address, 8 bytes, unsigned. `space` says which helper reads through it: "kernel" or "user"."""

    target: "Type"
    space: str = KERNEL
    display: str = ""  # "ksym" for pointers to functions


class Struct(Form):
    """A structure or union, named by its place in the kernel's BTF; members are looked up there.

    `module` is "vmlinux" or the module whose BTF holds `id`. `name` may be empty (anonymous). `size` is 0
    for a structure that is only declared: such a thing has no members.
    """

    name: str
    size: int
    id: int
    module: str = "vmlinux"
    union: bool = False


class Array(Form):
    """`length` elements one after another; length 0 is a flexible array, whose bounds are not known."""

    element: "Type"
    length: int
    display: str = ""


class Text(Form):
    """A string, without its NUL, of at most `limit` bytes (the record's tail holds its true length). `exact`:
    no more of it is wanted, so what is longer does not count as cut.
    """

    limit: int
    space: str = KERNEL
    exact: bool = False


class Bytes(Form):
    """Bytes from memory, at most `limit`; a variable number goes to the record's tail."""

    limit: int
    space: str = KERNEL


class Stack(Form):
    """The number of a stack, whose frames are in a table beside the programs: 8 bytes, unsigned, 0 where
    there was no room for it. `mode`: how people read it, one of `STACK_MODES`, or "symbol", the name of its
    only frame.
    """

    mode: str = "bpftrace"


class Tuple(Form):
    """Several values together; with names (as many as items; else none) a record; with the name `ELEMENT` for
    each an array. In the checker only: each of them is a value of its own in a program.
    """

    items: tuple["Type", ...]
    names: tuple[str, ...] = ()


Type: TypeAlias = Void | Int | Bool | Enum | Pointer | Struct | Array | Text | Bytes | Stack | Tuple
Scalar: TypeAlias = Int | Bool | Enum | Pointer | Stack

Part: TypeAlias = Int | Bool | Enum | Pointer | Stack | Text | Array
"""What a part of a key or of a value of a map can be."""

SCALARS: Final = (Int, Bool, Enum, Pointer, Stack)
INTEGRAL: Final = (Int, Bool, Enum)
"""For isinstance, which takes a tuple ten times as fast as a union made on the spot."""

S8, S16, S32, S64 = (Int(size, True) for size in (1, 2, 4, 8))
SIGNALS: Final = "signal numbers"
"""The name of the type of signals that are shown by what they mean."""

TEXTS: Final = "constant texts"
"""The name of the enumeration of constant texts: a number of it is no number to people."""

U8, U16, U32, U64 = (Int(size, False) for size in (1, 2, 4, 8))
CHAR = Int(1, True, "", True)
BOOL = Bool()
VOID = Void()
KSYM = Int(8, False, "ksym")

INTEGERS = {"s8": S8, "s16": S16, "s32": S32, "s64": S64, "u8": U8, "u16": U16, "u32": U32, "u64": U64}
"""The integer types by the names people write."""


def is_constant_text(type_: Type) -> bool:
    """Whether a value is one of several constant texts, kept as a number."""
    return isinstance(type_, Enum) and type_.name == TEXTS


def leaves(type_: "Part | Tuple") -> tuple[Part, ...]:
    """The parts of a value: of a tuple those of each of its items."""
    if not isinstance(type_, Tuple):
        return (type_,)
    return tuple(leaf for one in type_.items for leaf in leaves(one))  # type: ignore[arg-type]  # of such


Nest: TypeAlias = "tuple[tuple[str, Nest], ...]"
"""Of each part of a tuple its name, empty where it has none, and its own parts where it is a tuple itself."""


def nest_of(type_: Type) -> Nest:
    """How the parts of a tuple lie in each other; of what is no tuple: nothing."""
    if not isinstance(type_, Tuple):
        return ()
    names = type_.names or ("",) * len(type_.items)
    return tuple((name, nest_of(one)) for name, one in zip(names, type_.items, strict=True))


def nested(nest: Nest, leaves: Iterator[Part]) -> Tuple:
    """The tuple whose parts lie so; `leaves`: those that are no tuples, in their order."""
    items = tuple(nested(inner, leaves) if inner else next(leaves) for _, inner in nest)
    names = tuple(name for name, _ in nest)
    return Tuple(items, names if any(names) else ())


def is_scalar(type_: Type) -> bool:
    """Whether a value of the type fits a register."""
    return isinstance(type_, SCALARS)


def is_integer(type_: Type) -> bool:
    """Whether arithmetic is possible: integers, truth values and enumerations."""
    return isinstance(type_, INTEGRAL)


def signed(type_: Type) -> bool:
    """Whether a scalar's register is sign-extended."""
    return isinstance(type_, Int | Enum) and type_.signed


def size_of(type_: Type) -> int:
    """Bytes of a value in memory; 0 for what has no fixed size (void, text, a flexible array)."""
    if isinstance(type_, Int | Enum | Struct):
        return type_.size
    if isinstance(type_, Pointer | Stack):
        return 8
    if isinstance(type_, Array):
        return type_.length * size_of(type_.element)
    return 1 if isinstance(type_, Bool) else 0


def is_text_array(type_: Type) -> bool:
    """Whether the type is char[n] in C: memory that holds text."""
    return isinstance(type_, Array) and isinstance(type_.element, Int) and type_.element.char


def is_wide_unsigned(type_: Type) -> bool:
    """Whether 64-bit arithmetic with this operand is unsigned: u64, an unsigned 8-byte enum, a pointer."""
    return isinstance(type_, Pointer) or (
        isinstance(type_, Int | Enum) and type_.size == 8 and not type_.signed
    )


def arithmetic(a: Type, b: Type) -> Int:
    """The type of `a op b`: 64 bits, signed unless an operand is an unsigned 64-bit value."""
    return U64 if is_wide_unsigned(a) or is_wide_unsigned(b) else S64


def describe(type_: Type) -> str:
    """The type as a person reads it: "u32", "struct sock *", "char[16]"."""
    if isinstance(type_, Int):
        if type_.char:
            return "char"
        address = type_.display if type_.display in ADDRESSES else ""
        return address or f"{'s' if type_.signed else 'u'}{type_.size * 8}"
    if is_constant_text(type_):
        return "constant text"
    if isinstance(type_, Enum):
        return f"enum {type_.name}" if type_.name else "enum"
    if isinstance(type_, Pointer):
        inner = describe(type_.target)
        if type_.space == USER:
            return f"{inner} __user *"
        return f"{inner}*" if inner.endswith("*") else f"{inner} *"
    if isinstance(type_, Struct):
        return f"{'union' if type_.union else 'struct'} {type_.name or '{…}'}"
    if isinstance(type_, Array):
        element, dimensions = type_.element, f"[{type_.length or ''}]"
        while isinstance(element, Array):
            dimensions += f"[{element.length or ''}]"
            element = element.element
        return type_.display or f"{describe(element)}{dimensions}"
    if isinstance(type_, Text):
        return f"text up to {type_.limit} bytes"
    if isinstance(type_, Bytes):
        return f"up to {type_.limit} bytes"
    if isinstance(type_, Stack):
        return "symbol" if type_.mode == "symbol" else "stack"
    if isinstance(type_, Tuple):
        if type_.names and type_.names[0] != ELEMENT:
            return f"record of {', '.join(type_.names)}"
        return f"{'array' if type_.names else 'tuple'} of {len(type_.items)}"
    return "bool" if isinstance(type_, Bool) else "void"


def article(type_: Type) -> str:
    """The type with its article: "a u32", "an s32"."""
    text = describe(type_)
    if isinstance(type_, Bytes):
        text = f"value of {text}"
    return f"{'an' if text[0] in 'aeis' and not text.startswith('st') else 'a'} {text}"
