"""The kernel's types as the checker wants them: the one place where this room reads BTF.

Invariants: a type is converted when it is asked for, never what it points to beyond names and sizes; a
structure is known by its module and id, those of the kernel proper by "vmlinux" whoever refers to them; a
type this compiler has no use for (a function, a float) becomes `Void` or bytes, never an error.
"""

from collections.abc import Iterable

from kwire.btf import types as b
from kwire.btf.blob import Btf
from kwire.btf.ctext import parse_type
from kwire.btf.errors import BtfLookupError
from kwire.btf.members import every_member, locate
from kwire.btf.store import Found as FoundType
from kwire.btf.store import Function
from kwire.hints import Protocol
from kwire.lang import types as t
from kwire.lang.abi import Passing, passing
from kwire.lang.shown import TYPEDEFS, displayed
from kwire.lang.types import Type
from kwire.lazy import NamedTuple

MAX_DEPTH = 16  # pointers to pointers to arrays to …: more than people write


class KernelBtf(Protocol):
    """What this room needs of `btf.store.Kernel`."""

    def module(self, name: str) -> Btf:
        """The BTF of a module; "" or "vmlinux": the kernel's own."""

    def func(self, name: str, module: str | None = None) -> Function:
        """A function by name, in one module ("" is the kernel proper) or anywhere."""

    def find(self, name: str, kinds: Iterable[int], module: str | None = None) -> FoundType | None:
        """The first type of this name and one of these kinds, in one module or anywhere."""


class Found(NamedTuple):
    """A member: its type and place; `bit_size` is 0 unless it is a bit-field."""

    type: Type
    offset_bits: int
    bit_size: int


class Signature(NamedTuple):
    """A function's prototype: the module that holds it ("" the kernel), (name, type) parameters, result; how
    the parameters and the result are passed.
    """

    module: str
    params: tuple[tuple[str, Type], ...]
    result: Type
    passing: tuple[Passing, ...]
    returned: Passing


class KernelTypes:
    """Types, members and prototypes by name, converted and kept.

    `namespaced`: whether process ids are told in a pid namespace that is not the kernel's first, so that its
    types do not hold them as they are.
    """

    __slots__ = ("_enumerators", "_kept", "_kernel", "_members", "namespaced")

    def __init__(self, kernel: KernelBtf, *, namespaced: bool = False) -> None:
        self.namespaced = namespaced
        self._kernel = kernel
        self._kept: dict[tuple[str, int], Type] = {}
        self._members: dict[tuple[str, int, str], Found | None] = {}
        self._enumerators: dict[str, tuple[int, Type] | None] = {}

    def type(self, text: str, module: str = "") -> Type:
        """The type a C type name stands for ("struct sock *", "u32", "char[16]").

        `struct` may be left out before a structure's name. Raises `BtfLookupError`.
        """
        if text in t.INTEGERS:
            return t.INTEGERS[text]
        btf = self._kernel.module(module)
        try:
            parsed = parse_type(btf, text)
        except BtfLookupError as error:
            if not error.cure.startswith(("write struct ", "write union ", "write enum ")):
                raise
            parsed = parse_type(btf, f"{error.cure.removeprefix('write ')} {'*' * text.count('*')}")
        # Stars that stand behind `__user` are addresses in user space.
        space = t.USER if "__user" in text.split() else t.KERNEL
        found = self._convert(btf, module, parsed.id, 0)
        for _ in range(parsed.pointers):
            found = t.Pointer(found, space)
        for count in reversed(parsed.counts):
            found = t.Array(found, count)
        return found

    def member(self, struct: t.Struct, name: str) -> Found | None:
        """A member by name, those of anonymous structures inside included; None when there is none."""
        key = (struct.module, struct.id, name)
        if key not in self._members:
            btf = self._kernel.module(struct.module)
            try:
                path = locate(btf, struct.id, name)
            except BtfLookupError:
                self._members[key] = None
            else:
                type_ = self._convert(btf, struct.module, path.type_id, 0)
                self._members[key] = Found(type_, path.offset_bits, path.bitfield_size)
        return self._members[key]

    def members(self, struct: t.Struct) -> list[str]:
        """The names of all members that `member` finds, each once: bases of a class may share one."""
        btf = self._kernel.module(struct.module)
        return list(dict.fromkeys(member.name for member, _ in every_member(btf, struct.id)))

    def function(self, name: str, module: str | None = None, copies: int = 1) -> Signature:
        """A function's prototype, where `copies` functions have its name.

        Raises `BtfLookupError`, with the nearest names, or where BTF does not tell whose prototype it has.
        """
        found = self._kernel.func(name, module)
        signature = self._signature(found)
        ids = found.btf.all_named(name, b.Kind.FUNC)
        others = [self._signature(found._replace(proto=found.btf.proto(id))) for id in ids]
        if any(_types(other) != _types(signature) for other in others):
            cause = f"the kernel's types have {len(ids)} prototypes of {name}, and do not say which is right"
            raise BtfLookupError(found.btf.subject, name, cause)
        if copies > 1 and not found.btf.consistent:
            cause = (
                f"{copies} functions are called {name}, and the kernel's types do not say which they describe"
            )
            raise BtfLookupError(found.btf.subject, name, cause)
        return signature

    def raw_tracepoint(self, name: str) -> Signature | None:
        """The arguments of a tracepoint, from `btf_trace_NAME` of the kernel or of the module that has it,
        without the leading `void *__data`.
        """
        try:
            found = self._kernel.find(f"btf_trace_{name}", (b.Kind.TYPEDEF,))
        except BtfLookupError:
            return None
        if found is None:
            return None
        module, btf, id = found
        try:
            proto = btf.proto(id)
        except BtfLookupError:
            return None
        signature = self._signature(Function(name, module, proto, btf))
        named = self._tracepoint_names(btf, name, signature.params[1:])
        return signature._replace(params=named, passing=signature.passing[1:])

    def enumerator(self, name: str) -> tuple[int, Type] | None:
        """The value and the type of a constant of one of the kernel's enumerations, or None.

        Looks through all of them once a name, 10 to 20 ms: for names that are nothing else.
        """
        if name not in self._enumerators:
            self._enumerators[name] = self._enumerator(name)
        return self._enumerators[name]

    def _enumerator(self, name: str) -> tuple[int, Type] | None:
        btf = self._kernel.module("")
        for kind in (b.Kind.ENUM, b.Kind.ENUM64):
            for id in btf.ids(kind):
                found = btf.type(id)
                if isinstance(found, b.Enum | b.Enum64):
                    for own, value in found.values:
                        if own == name:
                            return value, self._convert(btf, "", id, 0)
        return None

    def _tracepoint_names(
        self, btf: Btf, name: str, params: tuple[tuple[str, Type], ...]
    ) -> tuple[tuple[str, Type], ...]:
        """`btf_trace_*` has no parameter names; the function that calls the tracepoint's probes has them."""
        for function in (f"__bpf_trace_{name}", f"__traceiter_{name}"):
            id = btf.find(function, b.Kind.FUNC)
            named = btf.proto(id).params[1:] if id else ()
            if len(named) == len(params) and all(one.name for one in named):
                return tuple((one.name, type_) for one, (_, type_) in zip(named, params, strict=True))
        return tuple((old or f"arg{at}", type_) for at, (old, type_) in enumerate(params))

    def _signature(self, function: Function) -> Signature:
        def convert(id: int) -> Type:
            return self._convert(function.btf, function.module, id, 0)

        btf, proto = function.btf, function.proto
        params = tuple((one.name, convert(one.type)) for one in proto.params)
        passed = tuple(passing(btf, one.type) for one in proto.params)
        return Signature(function.module, params, convert(proto.ret), passed, passing(btf, proto.ret))

    def _convert(self, btf: Btf, module: str, id: int, depth: int) -> Type:
        named, id = id, btf.resolve(id)
        if btf.base is None or id < btf.first_id:
            module = "vmlinux"
        key = (module, id)
        if key not in self._kept:
            self._kept[key] = self._fresh(btf, module, id, depth)
        found = self._kept[key]
        if named != id and isinstance(found, t.Int):
            return displayed(found, _display(btf, named))
        return found

    def _fresh(self, btf: Btf, module: str, id: int, depth: int) -> Type:
        if id == 0 or depth > MAX_DEPTH:
            return t.VOID
        found = btf.type(id)
        match found:
            case b.Int():
                if found.boolean:
                    return t.BOOL
                text = found.size == 1 and (found.name == "char" or found.char)
                return t.Int(found.size, found.signed, "", text)
            case b.Ptr():
                target = self._convert(btf, module, found.type, depth + 1)
                code = isinstance(btf.type(btf.resolve(found.type)), b.FuncProto)
                return t.Pointer(target, _space(btf, found.type), "ksym" if code else "")
            case b.Struct():
                return t.Struct(found.name, found.size, id, module, found.union)
            case b.Fwd():
                return t.Struct(found.name, 0, id, module, found.union)
            case b.Array():
                return t.Array(self._convert(btf, module, found.type, depth + 1), found.length)
            case b.Enum() | b.Enum64():
                return t.Enum(found.name, found.size, found.signed, found.values)
            case b.Float():
                return t.Array(t.U8, found.size)
        return t.VOID


def _display(btf: Btf, id: int) -> str:
    """How values of a type are shown, by the name that the kernel gives it; empty for most."""
    for _ in range(MAX_DEPTH):
        found = btf.type(id)
        if isinstance(found, b.Typedef) and found.name in TYPEDEFS:
            return TYPEDEFS[found.name]
        if not isinstance(found, b.Typedef | b.Const | b.Volatile):
            break
        id = found.type
    return ""


def _types(signature: Signature) -> tuple[object, ...]:
    """The types of a prototype, without the names of its parameters."""
    return signature.result, signature.passing, *(type_ for _, type_ in signature.params)


def _space(btf: Btf, id: int) -> str:
    """Whether a pointed-to type is tagged as user memory (by compilers that write such tags)."""
    for _ in range(MAX_DEPTH):
        found = btf.type(id)
        if isinstance(found, b.TypeTag) and found.name == "user":
            return t.USER
        if not isinstance(found, b.TypeTag | b.Const | b.Volatile | b.Restrict):
            break
        id = found.type
    return t.KERNEL
