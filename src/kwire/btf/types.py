"""The kinds of BTF types, as values.

One NamedTuple per kind; a type refers to another by id only, so decoding one never decodes a second. Id 0 is
`void`. Sizes are bytes, `offset_bits` and `bits` are bits. Source: the kernel's Documentation/bpf/btf.rst and
linux/btf.h.
"""

from kwire.hints import TypeAlias
from kwire.lazy import IntEnum, NamedTuple


class Kind(IntEnum):
    """The kind numbers of BTF, as in the type record's info word."""

    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


MODIFIERS = frozenset((Kind.TYPEDEF, Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG))
"""Kinds that stand for the type they refer to."""


class Sized(NamedTuple):
    """The shape of kinds that have a name and a size."""

    name: str
    size: int


class Reference(NamedTuple):
    """The shape of kinds that refer to one other type by its id."""

    name: str
    type: int


class Linked(NamedTuple):
    """The shape of functions and variables; `linkage` is 0 static, 1 global, 2 extern."""

    name: str
    type: int
    linkage: int


class Enumeration(NamedTuple):
    """The shape of enumerations: (name, value) in the order declared."""

    name: str
    size: int
    signed: bool
    values: tuple[tuple[str, int], ...]


class Void(Sized):
    """Type id 0, of no size."""

    __slots__ = ()


class Int(NamedTuple):
    """An integer: `bits` of value at bit `offset_bits` of `size` bytes."""

    name: str
    size: int
    signed: bool
    char: bool
    boolean: bool
    offset_bits: int
    bits: int


class Float(Sized):
    """A floating-point number."""

    __slots__ = ()


class Ptr(Reference):
    """A pointer to `type`."""

    __slots__ = ()


class Typedef(Reference):
    """Another name for `type`."""

    __slots__ = ()


class Volatile(Reference):
    """`volatile`."""

    __slots__ = ()


class Const(Reference):
    """`const`."""

    __slots__ = ()


class Restrict(Reference):
    """`restrict`."""

    __slots__ = ()


class TypeTag(Reference):
    """A tag on a type, such as `user` or `percpu`."""

    __slots__ = ()


class Array(NamedTuple):
    """`length` elements of type id `type`; `index_type` is the type of the subscript and means nothing."""

    name: str
    type: int
    index_type: int
    length: int


class Member(NamedTuple):
    """A member; `bits` is 0 unless it is a bit-field. `name` is empty for an anonymous struct or union."""

    name: str
    type: int
    offset_bits: int
    bits: int


class Struct(NamedTuple):
    """A structure, or a union where `union` is true."""

    name: str
    size: int
    union: bool
    members: tuple[Member, ...]


class Enum(Enumeration):
    """An enumeration of up to 4 bytes (and wider ones of old compilers, cut to 4 bytes of value)."""

    __slots__ = ()


class Enum64(Enumeration):
    """An enumeration whose values need 8 bytes."""

    __slots__ = ()


class Fwd(NamedTuple):
    """A structure or union that is only declared."""

    name: str
    union: bool


class Func(Linked):
    """A function; `type` is the id of its FuncProto."""

    __slots__ = ()


class Var(Linked):
    """A global variable."""

    __slots__ = ()


class Param(Reference):
    """A function's parameter; `name` may be empty."""

    __slots__ = ()


class FuncProto(NamedTuple):
    """A function's prototype: `ret` is the id of what it returns (0: void)."""

    name: str
    ret: int
    params: tuple[Param, ...]
    variadic: bool


class Section(NamedTuple):
    """One variable of a Datasec: type id, offset in the section and size in bytes."""

    type: int
    offset: int
    size: int


class Datasec(NamedTuple):
    """A section with variables in it."""

    name: str
    size: int
    variables: tuple[Section, ...]


class DeclTag(NamedTuple):
    """A tag on type id `type`, or on its member or parameter number `component` (-1: the whole)."""

    name: str
    type: int
    component: int


class Other(NamedTuple):
    """A kind this version does not know, skipped by the layout table of its BTF."""

    name: str
    kind: int


VOID = Void("void", 0)

BtfType: TypeAlias = (
    Void
    | Int
    | Ptr
    | Array
    | Struct
    | Enum
    | Enum64
    | Fwd
    | Typedef
    | Volatile
    | Const
    | Restrict
    | Func
    | FuncProto
    | Var
    | Datasec
    | Float
    | DeclTag
    | TypeTag
    | Other
)


class MemberPath(NamedTuple):
    """Where a member lies in a structure: `bitfield_size` in bits, 0 unless it is a bit-field.

    `offset_bits` counts from the start of the structure; for a bit-field of a big-endian machine it is the
    offset of the highest bit, as BTF has it.
    """

    offset_bits: int
    type_id: int
    bitfield_size: int


class CType(NamedTuple):
    """A C type name: type `id`, then `pointers` stars, then array `counts`, outermost first: `T *[2][3]`."""

    id: int
    pointers: int = 0
    counts: tuple[int, ...] = ()
