"""The structures, unions and enumerations that a script defines, beside the kernel's types.

Invariants: members lie as a C compiler of the machine puts them; a name that the script defines is the
script's, wherever the script writes it; what it does not define is the kernel's.
"""

import re
from collections.abc import Container

from kwire.btf.errors import BtfLookupError
from kwire.hints import Final
from kwire.lang import types as t
from kwire.lang.bpftrace import syntax as s
from kwire.lang.bpftrace.types import plain
from kwire.lang.errors import Diagnostic, TextError
from kwire.lang.expressions import Types
from kwire.lang.kerneltypes import Found
from kwire.lang.types import Type

MODULE: Final = "script"
"""The module of structures that the script defines."""

WORD: Final = 8
FLOATS: Final = {"float": 4, "double": 8}
"""Bytes of floating-point numbers, which are no numbers to programs."""
_NAMED: Final = re.compile(r"\s*(?:(struct|union|enum)\s+)?(\w+)\s*((?:\*\s*)*)((?:\[\s*\d+\s*\]\s*)*)")


class OwnTypes:
    """The types of a script. `kernel`: those of the kernel."""

    __slots__ = ("_definitions", "_enumerators", "_enums", "_kernel", "_laid", "_structs")

    def __init__(self, kernel: Types, script: s.Script) -> None:
        self._kernel = kernel
        self._definitions = {one.name: one for one in definitions(script)}
        self._structs: dict[str, t.Struct] = {}
        self._laid: dict[int, list[tuple[str, Found]]] = {}
        self._enums: dict[str, t.Enum] = {}
        self._enumerators: dict[str, tuple[int, Type]] = {}
        for number, one in enumerate(script.enums):
            low, high = min((v for _, v in one.values), default=0), max((v for _, v in one.values), default=0)
            size = 4 if low >= -(1 << 31) and high < 1 << 32 else 8
            made = t.Enum(one.name or f"enum_{number + 1}", size, low < 0, one.values)
            self._enums[made.name] = made
            self._enumerators |= {name: (value, made) for name, value in one.values}

    @property
    def namespaced(self) -> bool:
        """As of the kernel's types."""
        return self._kernel.namespaced

    def type(self, text: str, module: str = "") -> Type:
        """The type of a C type name. Raises BtfLookupError."""
        found = _NAMED.fullmatch(text)
        known: Container[str] = self._enums if found and found[1] == "enum" else self._definitions
        if found is None or (found[2] not in known and (found[1] or found[2] not in t.INTEGERS)):
            return self._kernel.type(text, module)
        made: Type
        if not found[1] and found[2] in t.INTEGERS:
            made = t.INTEGERS[found[2]]
        else:
            made = self._enums[found[2]] if found[1] == "enum" else self._struct(found[2])
        for _ in range(found[3].count("*")):
            made = t.Pointer(made)
        for length in reversed(re.findall(r"\d+", found[4])):
            made = t.Array(made, int(length))
        return made

    def member(self, struct: t.Struct, name: str) -> Found | None:
        """A structure's member, those of structures without a name in it among them."""
        if struct.module != MODULE:
            return self._kernel.member(struct, name)
        for own, found in self._laid[struct.id]:
            if own == name:
                return found
            if not own and isinstance(found.type, t.Struct):
                inner = self.member(found.type, name)
                if inner is not None:
                    return inner._replace(offset_bits=inner.offset_bits + found.offset_bits)
        return None

    def members(self, struct: t.Struct) -> list[str]:
        """The names of a structure's members."""
        if struct.module != MODULE:
            return self._kernel.members(struct)
        names: list[str] = []
        for name, found in self._laid[struct.id]:
            names += [name] if name else self.members(found.type) if isinstance(found.type, t.Struct) else []
        return names

    def enumerator(self, name: str) -> tuple[int, Type] | None:
        """The value and type of an enumeration's constant."""
        return self._enumerators.get(name) or self._kernel.enumerator(name)

    def _struct(self, name: str) -> t.Struct:
        """A structure by its name, laid out when it is first wanted."""
        if name not in self._structs:
            own = self._definitions[name]
            # What points to it may be a member of it.
            self._structs[name] = t.Struct(name, 0, len(self._laid), MODULE, own.union)
            self._laid[len(self._laid)] = []
            self._structs[name] = self._lay_out(own, self._structs[name])
        return self._structs[name]

    def _lay_out(self, own: s.CStruct, made: t.Struct) -> t.Struct:
        """Give the members their places; the structure with its size."""
        at, most, widest, members = 0, 0, 1, self._laid[made.id]
        for one in own.members:
            type_ = self._member_type(one)
            size = 8 * t.size_of(type_)
            step = 1 if own.packed else self.alignment(type_)
            if own.union:
                at = 0
            if one.bits:
                if not own.packed and at // size != (at + one.bits - 1) // size:
                    at = -(-at // size) * size
                end = at + one.bits
            else:
                at = -(-at // (8 * step)) * 8 * step
                end = at + size
            if one.name or isinstance(type_, t.Struct):
                members.append((one.name, Found(type_, at, one.bits)))
            at, most, widest = end, max(most, end), max(widest, step)
        size = -(-most // (8 * widest)) * widest
        return made.replace(size=size)

    def _member_type(self, one: s.CMember) -> Type:
        if isinstance(one.inner, s.CStruct):
            number = len(self._laid)
            self._laid[number] = []
            name = one.inner.name
            made: Type = self._lay_out(one.inner, t.Struct(name, 0, number, MODULE, one.inner.union))
            if name:
                assert isinstance(made, t.Struct)
                self._structs[name] = made
        elif isinstance(one.inner, s.CEnum):
            made = t.Enum(one.inner.name, 4, False, one.inner.values)
        elif one.type in FLOATS:
            made = t.Array(t.U8, FLOATS[one.type], t.RAW)
        else:
            try:
                made = self.type(plain(one.type))
            except BtfLookupError as error:
                raise TextError(one.span, error.cause, error.cure) from None
        if isinstance(made, t.Struct) and not made.size and made.module == MODULE and one.inner is None:
            raise TextError(one.span, f"{t.describe(made)} holds itself", "let it hold a pointer")
        for length in reversed(one.lengths):
            made = t.Array(made, length)
        return made

    def alignment(self, type_: Type) -> int:
        """Of which number of bytes a member's place is a multiple."""
        if isinstance(type_, t.Array):
            floating = type_.display == t.RAW
            return type_.length if floating else self.alignment(type_.element)
        if isinstance(type_, t.Struct) and type_.module == MODULE:
            laid = self._laid[type_.id]
            widest = max((self.alignment(one.type) for _, one in laid), default=1)
            return widest if not type_.size % widest else 1  # a packed one
        if isinstance(type_, t.Struct):
            return min(type_.size & -type_.size, WORD) or 1
        return min(t.size_of(type_), WORD) or 1


def definitions(script: s.Script) -> list[s.CStruct]:
    """The structures that a script defines, those within others too."""
    found: list[s.CStruct] = []

    def take(one: s.CStruct) -> None:
        found.append(one)
        for member in one.members:
            if isinstance(member.inner, s.CStruct) and member.inner.name:
                take(member.inner)

    for one in script.structs:
        take(one)
    return found


def faults(script: s.Script) -> list[Diagnostic]:
    """What is wrong with the definitions whatever the kernel has."""
    seen: set[str] = set()
    wrong = []
    for one in definitions(script):
        if one.name in seen:
            wrong.append(Diagnostic(one.span, f"there are two structures {one.name}"))
        seen.add(one.name)
    return wrong
