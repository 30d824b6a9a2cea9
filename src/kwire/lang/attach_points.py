"""Sites: what each kind of attach point offers, from BTF or from a tracepoint's format.

Invariants: an attach point whose types are not known still gives a site, with plain numbers for arguments,
where the kernel can attach without them; a field's width is what its format says, whatever its C type says.
"""

from collections.abc import Iterable, Sequence

from kwire.btf.errors import BtfLookupError
from kwire.hints import Protocol
from kwire.kinds import KINDS
from kwire.lang import types as t
from kwire.lang.abi import CONVENTIONS, FLOAT, ArgumentLocation, Convention, context_places, in_memory, places
from kwire.lang.context import Argument, CtxField, DataLoc, Param, Result, Site, Slots
from kwire.lang.kerneltypes import KernelTypes, Signature
from kwire.lang.shown import shown
from kwire.lang.types import Type


class Field(Protocol):
    """A field of a tracepoint's format, as `kernel.formats.EventField` has it."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def type(self) -> str:
        """C type of the field, or of one element of an array."""

    @property
    def offset(self) -> int:
        """Bytes from the start of the context."""

    @property
    def size(self) -> int:
        """Bytes as stored."""

    @property
    def signed(self) -> bool:
        """Whether an integer of it is signed."""

    @property
    def length(self) -> int | None:
        """Elements of an array, None for no array, 0 for one whose length is not fixed."""

    @property
    def location(self) -> str:
        """ "inline", "data_loc" or "rel_loc"."""


def tracepoint(category: str, name: str, fields: Iterable[Field], types: KernelTypes) -> Site:
    """The site of a tracepoint with these fields (its own, without the common ones)."""
    # What a system call is given points into the caller's memory.
    user = category == "syscalls" and name.startswith("sys_enter")
    params = [_field(field, user, types) for field in fields]
    return shown(Site("tracepoint", f"{category}:{name}", tuple(params)))


def function(
    kind: str,
    name: str,
    types: KernelTypes,
    module: str | None = None,
    offset: int = 0,
    machine: str = "x86_64",
    copies: int = 1,
) -> Site:
    """The site of a kprobe, kretprobe, fentry or fexit.

    `module`: "" for the kernel proper, None for wherever the function is; `machine`: whose calls it is about;
    `copies`: how many functions have this name there. Raises `BtfLookupError` when fentry or fexit find no
    prototype; kprobes then take untyped arguments.
    """
    target = f"{module}:{name}" if module else name
    if offset:
        return Site(kind, f"{target}+{offset}", (), None, module or "", False)
    try:
        found = types.function(name, module, copies)
    except BtfLookupError:
        if KINDS[kind].context == "typed slots":
            raise
        returned = Param("retval", t.U64, Result(0))
        return Site(kind, target, (), returned if KINDS[kind].result else None, module or "", False)
    convention = CONVENTIONS[machine]
    if KINDS[kind].context == "registers" and not KINDS[kind].result:
        params = _arguments(found, places(convention, found.passing, found.returned))
        return shown(Site(kind, target, params, None, found.module))
    if KINDS[kind].context == "registers":
        return shown(Site(kind, target, (), _returned(found, convention), found.module))
    given, slots = context_places(found.passing)
    retval = Param("retval", found.result, Result(slots)) if KINDS[kind].result else None
    return shown(Site(kind, target, _arguments(found, given), retval, found.module, True, slots))


def in_file(kind: str, target: str, offset: int = 0, form: str = "", machine: str = "x86_64") -> Site:
    """The site of what is in a program's file, whose types are not known: `file:function`, or a static probe
    whose arguments lie where `form` says, in the words of `machine`'s assembler. `machine`: the file's.
    """
    if KINDS[kind].place == "user mark":
        from kwire.lang.usdt import arguments

        return Site(kind, target, arguments(form, machine), None, "", False)
    word = t.U32 if machine == "i386" else t.U64
    retval = Param("retval", word, Result(0)) if KINDS[kind].result else None
    place = f"{target}+{offset}" if offset else target
    return Site(kind, place, (), retval, typed=False, machine=machine)


def of_program(site: Site, found: Signature, entry: bool) -> Site:
    """The site of a function of a program whose prototype is known: its parameters by name at its `entry`,
    its result by type at its return. Raises `BtfLookupError`.
    """
    convention = CONVENTIONS.get(site.machine)
    if convention is None:
        raise BtfLookupError("the program", site.target, f"how {site.machine} passes arguments is not known")
    if KINDS[site.kind].result:
        retval = _returned(found, convention)
        return site.replace(retval=_of_user(retval) if retval else None, module=found.module)
    given = places(convention, found.passing, found.returned)
    params = tuple(map(_of_user, _arguments(found, given))) if entry else ()
    return site.replace(params=params, module=found.module)


def _of_user(param: Param) -> Param:
    """A parameter of a program: what it points to is the program's."""
    if not isinstance(param.type, t.Pointer):
        return param
    return param.replace(type=param.type.replace(space=t.USER))


def iterator(name: str, types: KernelTypes) -> Site:
    """The site of an iterator: what it is at, by the names that the kernel has for it. Raises
    `BtfLookupError`.
    """
    found = types.function(f"bpf_iter_{name}", "")
    given = [ArgumentLocation(number, 1) for number in range(len(found.params))]
    return Site("iter", name, _arguments(found, given), None, "", True, len(given))


def raw_tracepoint(name: str, types: KernelTypes) -> Site:
    """The site of a raw tracepoint; without a prototype its arguments are plain numbers."""
    found = types.raw_tracepoint(name)
    if found is None:
        return Site("rawtracepoint", name, (), None, "", False)
    # The kernel casts every argument to one number of 64 bits.
    given = [ArgumentLocation(number, 1) for number in range(len(found.params))]
    return Site("rawtracepoint", name, _arguments(found, given), None, found.module, True, len(given))


def _arguments(found: Signature, given: Sequence[ArgumentLocation]) -> tuple[Param, ...]:
    """The parameters, those that cannot be read (in floating-point registers, of no size) in no slots."""
    params = []
    variadic = bool(found.params) and found.params[-1][1] == t.VOID
    for number, (name, type_) in enumerate(found.params[:-1] if variadic else found.params):
        place = given[number]
        access: Argument | Slots = Argument(place.first)
        if not place.slots:
            access = Slots(0, 0)
        elif place.reference:
            type_ = t.Pointer(type_)
        elif not t.is_scalar(type_) or t.size_of(type_) > 8:
            access = Slots(place.first, t.size_of(type_))
            type_ = _wide(type_)
        params.append(Param(name or f"arg{number}", type_, access))
    return tuple(params)


def _returned(found: Signature, convention: Convention) -> Param | None:
    """What the return registers hold."""
    type_, returned = found.result, found.returned
    if in_memory(convention, returned):
        # It went where the caller said, and on some machines the register holds that address.
        return Param("retval", t.Pointer(type_), Result(0)) if convention.hidden else None
    if FLOAT in returned.parts:
        return None
    if t.is_scalar(type_) and t.size_of(type_) <= 8:
        return Param("retval", type_, Result(0))
    return Param("retval", _wide(type_), Slots(0, returned.size)) if returned.size else None


def _wide(type_: Type) -> Type:
    """A type that memory can be read as: a number of 128 bits as two of 64, the low one first."""
    return t.Array(t.U64, 2) if isinstance(type_, t.Int) else type_


def _field(field: Field, user: bool, types: KernelTypes) -> Param:
    element = _element(field, user, types)
    if field.location != "inline":
        access = DataLoc(field.offset, field.location == "rel_loc")
        return Param(field.name, t.Array(element, 0), access)
    inline = CtxField(field.offset, field.size)
    if field.length is None:
        return Param(field.name, element, inline)
    size = t.size_of(element)
    if not size or field.size % size:
        element, size = t.U8, 1
    return Param(field.name, t.Array(element, field.size // size), inline)


def _element(field: Field, user: bool, types: KernelTypes) -> Type:
    """The type of a field or of one element of it."""
    try:
        found = types.type(field.type)
    except BtfLookupError:
        found = t.Pointer(t.VOID) if field.type.endswith("*") else t.VOID
    if isinstance(found, t.Pointer):
        return found.replace(space=t.USER) if user else found
    alone = field.length is None and field.location == "inline"
    known = isinstance(found, t.INTEGRAL)
    if alone and known and t.size_of(found) < field.size == 8:
        return found  # an argument of a system call: an int in the place of a long
    if alone and (not known or t.size_of(found) != field.size):
        if field.size in (1, 2, 4, 8):
            return t.Int(field.size, field.signed)
        return found if t.size_of(found) == field.size else t.Array(t.U8, field.size)
    return found if t.size_of(found) else t.U8
