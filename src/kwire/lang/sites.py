"""Sites: what each kind of attach point offers, from BTF or from a tracepoint's format.

Laws: an attach point whose types are not known still gives a site, with plain numbers for arguments, where
the kernel can attach without them; a field's width is what its format says, whatever its C type says.
"""

from collections.abc import Iterable
from typing import Protocol

from kwire.btf.errors import BtfLookupError
from kwire.lang import types as t
from kwire.lang.context import Argument, CtxField, DataLoc, Param, Result, Site
from kwire.lang.kerneltypes import KernelTypes, Signature
from kwire.lang.shown import shown
from kwire.lang.types import Type

REGISTERS = 6
"""Arguments in registers on x86-64, the fewest of the supported machines."""


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
    registers: int = REGISTERS,
) -> Site:
    """The site of a kprobe, kretprobe, fentry or fexit.

    `module`: "" for the kernel proper, None for wherever the function is. Raises `BtfLookupError` when fentry
    or fexit find no prototype; kprobes then take untyped arguments.
    """
    target = f"{module}:{name}" if module else name
    if offset:
        return Site(kind, f"{target}+{offset}", (), None, module or "", False)
    try:
        found = types.function(name, module)
    except BtfLookupError:
        if kind in ("fentry", "fexit"):
            raise
        returned = Param("retval", t.U64, Result(0))
        return Site(kind, target, (), returned if kind == "kretprobe" else None, module or "", False)
    most = registers if kind == "kprobe" else len(found.params)
    params = () if kind == "kretprobe" else _arguments(found, most)
    retval = None
    if kind in ("kretprobe", "fexit"):
        retval = Param("retval", found.result, Result(len(found.params)))
    return shown(Site(kind, target, params, retval, found.module))


def raw_tracepoint(name: str, types: KernelTypes) -> Site:
    """The site of a raw tracepoint; without a prototype its arguments are plain numbers."""
    found = types.raw_tracepoint(name)
    if found is None:
        return Site("rawtracepoint", name, (), None, "", False)
    return Site("rawtracepoint", name, _arguments(found, len(found.params)))


def _arguments(found: Signature, most: int) -> tuple[Param, ...]:
    params = []
    for number, (name, type_) in enumerate(found.params[:most]):
        if not t.is_scalar(type_) or t.size_of(type_) > 8:
            break  # a structure by value may take two places: what follows cannot be told
        params.append(Param(name or f"arg{number}", type_, Argument(number)))
    return tuple(params)


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
        return found._replace(space=t.USER) if user else found
    alone = field.length is None and field.location == "inline"
    known = isinstance(found, t.INTEGRAL)
    if alone and known and t.size_of(found) < field.size == 8:
        return found  # an argument of a system call: an int in the place of a long
    if alone and (not known or t.size_of(found) != field.size):
        if field.size in (1, 2, 4, 8):
            return t.Int(field.size, field.signed)
        return found if t.size_of(found) == field.size else t.Array(t.U8, field.size)
    return found if t.size_of(found) else t.U8
