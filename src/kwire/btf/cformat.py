"""Writes types as C: declarations, and whole structures with the offset and size of every member.

Invariant: what is written is bounded, whatever the BTF says: a type nested without end, or of more parts than
any kernel has, is a BtfError.
"""

from typing import NamedTuple

from kwire.btf import types as t
from kwire.btf.blob import MAX_CHAIN, Btf
from kwire.btf.errors import BtfError, BtfLookupError

MAX_PARTS = 1 << 16
"""Members, parameters, values and qualifiers in one declaration."""
MAX_DEPTH = 24
"""Structures or prototypes inside one another."""

_TAGS = {"user": "__user", "rcu": "__rcu", "percpu": "__percpu"}
_QUALIFIERS = {t.Const: "const", t.Volatile: "volatile", t.Restrict: "restrict"}
_COLUMN = 64
"""Comments stand in one column, at most this far right; those of longer lines stand after them."""
_TAB = "    "
_Bodied = t.Struct | t.Enum | t.Enum64


class _Line(NamedTuple):
    text: str
    comment: str = ""


def spell(btf: Btf, id: int, name: str = "") -> str:
    """The declaration of `name` with this type ("struct sock *sk"), or the type's own C name.

    Raises BtfError for damaged BTF.
    """
    return _Writer(btf).spell(id, name, 0)


def prototype(btf: Btf, name: str, proto: t.FuncProto) -> str:
    """A function's declaration, "int tcp_connect(struct sock *sk)"."""
    writer = _Writer(btf)
    return writer.spell(proto.ret, f"{name}({writer.params(proto, 0)})", 0)


def declare(btf: Btf, id: int) -> str:
    """The whole declaration of a type, on several lines where it has parts, ending in ";".

    Members carry a comment `/* offset size */` in bytes from the start of the outermost structure, bit-fields
    `/* byte:bit size */` with the size of their type; holes and padding are pointed out. Raises BtfError, and
    BtfLookupError for `void`.
    """
    writer = _Writer(btf)
    found = btf.type(id)
    match found:
        case t.Struct() | t.Enum() | t.Enum64():
            lines = writer.whole(found)
        case t.Typedef():
            lines = writer.typedef(found.type, found.name)
        case t.Func():
            lines = [_Line(prototype(btf, found.name, btf.proto(id)) + ";")]
        case t.Var():
            lines = [_Line(writer.spell(found.type, found.name, 0) + ";")]
        case t.Void():
            raise BtfLookupError(btf.subject, "void", "void has no declaration")
        case _:
            lines = [_Line(writer.spell(id, "", 0) + ";")]
    return _align(lines)


def _align(lines: list[_Line]) -> str:
    column = max((len(line.text) for line in lines if line.comment and len(line.text) < _COLUMN), default=0)
    return "\n".join(
        f"{line.text:{column}} /* {line.comment} */" if line.comment else line.text for line in lines
    )


class _Writer:
    """Writes one declaration, counting its parts."""

    __slots__ = ("_btf", "_left")

    def __init__(self, btf: Btf) -> None:
        self._btf = btf
        self._left = MAX_PARTS

    def _spend(self, depth: int) -> None:
        self._left -= 1
        if self._left < 0 or depth > MAX_DEPTH:
            raise BtfError(self._btf.subject, "a type nested without end")

    # --- declarations on one line ---

    def spell(self, id: int, name: str, depth: int) -> str:
        """Declarations read inside out: what is nearest to the name is the outermost type."""
        text, pending = name, ""
        for _ in range(MAX_CHAIN):
            self._spend(depth)
            found = self._btf.type(id)
            match found:
                case t.Ptr():
                    text = f"*{pending}{' ' if pending and text else ''}{text}"
                    pending = ""
                case t.Array():
                    text = f"({text})" if text.startswith("*") else text
                    text += f"[{found.length or ''}]"
                case t.FuncProto():
                    text = f"({text})" if text.startswith("*") else text
                    text += f"({self.params(found, depth + 1)})"
                    id = found.ret
                    continue
                case t.Const() | t.Volatile() | t.Restrict():
                    # Said of an array and of its elements, it is still said once.
                    words = {_QUALIFIERS[type(found)]: None, **dict.fromkeys(pending.split())}
                    pending = " ".join(words)
                case t.TypeTag():
                    tag = _TAGS.get(found.name, f'__attribute__((btf_type_tag("{found.name}")))')
                    text = f"{tag} {text}".rstrip()
                case _:
                    return " ".join(part for part in (pending, _base(found), text) if part)
            id = found.type
        raise BtfError(self._btf.subject, "pointers and arrays without end")

    def params(self, proto: t.FuncProto, depth: int) -> str:
        """What stands between a prototype's parentheses."""
        parts = [self.spell(param.type, param.name, depth) for param in proto.params]
        return ", ".join([*parts, "..."] if proto.variadic else parts) or "void"

    # --- declarations on several lines ---

    def whole(self, found: _Bodied, name: str = "", prefix: str = "") -> list[_Line]:
        """A structure or enumeration on its own."""
        size = f"size: {found.size}"
        if isinstance(found, t.Struct):
            size += f", members: {len(found.members)}"
        return [
            _Line(f"{prefix}{_base(found, named=False)} {{"),
            *self._body(found, 0, 1),
            _Line(f"}}{f' {name}' if name else ''};", size),
        ]

    def typedef(self, id: int, name: str) -> list[_Line]:
        """A typedef; what has no name but this one is written out."""
        inner, prefix, stars, counts = self._anonymous(id)
        found = self._btf.type(inner)
        if isinstance(found, _Bodied):
            return self.whole(found, f"{stars}{name}{counts}", f"typedef {prefix}")
        return [_Line(f"typedef {self.spell(id, name, 0)};")]

    def _body(self, found: _Bodied, start: int, depth: int) -> list[_Line]:
        """All parts; `start` is the offset in bits of the structure in the outermost one."""
        if not isinstance(found, t.Struct):
            return [
                _Line(f"{_TAB * depth}{text} = {self._value(value, depth)},") for text, value in found.values
            ]
        lines: list[_Line] = []
        end = start
        for member in found.members:
            offset, bits = self._btf.placement(member)
            offset += start
            size = self._size(member.type)
            if not found.union:
                lines += _hole(offset - end, depth, "hole")
                end = max(end, offset + (bits or 8 * size))
            lines += self._member(member, offset, bits, size, depth)
        if not found.union and found.members:
            lines += _hole(start + 8 * found.size - end, depth, "padding")
        return lines

    def _member(self, member: t.Member, offset: int, bits: int, size: int, depth: int) -> list[_Line]:
        """One member; an anonymous structure is written out in its place."""
        self._spend(depth)
        tabs, place = _TAB * depth, f"{offset // 8:5}{f':{offset % 8}' if bits else '  '} {size:5}"
        inner, prefix, stars, counts = self._anonymous(member.type)
        found = self._btf.type(inner)
        if not isinstance(found, _Bodied):
            width = f":{bits}" if bits else ""
            return [_Line(f"{tabs}{self.spell(member.type, member.name, depth)}{width};", place)]
        name = f"{stars}{member.name}{counts}{f':{bits}' if bits else ''}"
        return [
            _Line(f"{tabs}{prefix}{_base(found, named=False)} {{"),
            *self._body(found, 0 if stars else offset, depth + 1),
            _Line(f"{tabs}}}{f' {name}' if name else ''};", place),
        ]

    def _anonymous(self, id: int) -> tuple[int, str, str, str]:
        """(id, qualifiers, stars, counts) of an anonymous structure, pointers or arrays of one; else id 0."""
        prefix, stars, counts = "", "", ""
        for _ in range(MAX_CHAIN):
            found = self._btf.type(id)
            match found:
                case t.Struct() | t.Enum() | t.Enum64():
                    return (0 if found.name else id), prefix, stars, counts
                case t.Ptr() if not counts and not prefix:
                    stars += "*"
                case t.Array() if not stars:
                    counts += f"[{found.length or ''}]"
                case t.Const() | t.Volatile():
                    word = f"{_QUALIFIERS[type(found)]} "
                    prefix += word if word not in prefix else ""
                case _:
                    break
            id = found.type
        return 0, "", "", ""

    def _value(self, value: int, depth: int) -> str:
        self._spend(depth)
        return str(value) if abs(value) < 1 << 24 else hex(value)

    def _size(self, id: int) -> int:
        try:
            return self._btf.sizeof(id)
        except BtfLookupError:
            return (
                0  # only a declared structure, as some kernels have for a type that another module completes
            )


def _base(found: t.BtfType, named: bool = True) -> str:
    match found:
        case t.Struct() | t.Fwd():
            head, empty = ("union" if found.union else "struct"), " {...}"
        case t.Enum() | t.Enum64():
            head, empty = "enum", " {...}"
        case t.Other():
            return f"(unknown kind {found.kind})"
        case _:
            return found.name or "?"
    return f"{head} {found.name}" if found.name else head + (empty if named else "")


def _hole(bits: int, depth: int, what: str) -> list[_Line]:
    if bits <= 0:
        return []
    parts = zip(divmod(bits, 8), ("byte", "bit"), strict=True)
    size = " ".join(f"{count} {unit}{'s' if count > 1 else ''}" for count, unit in parts if count)
    return [_Line(f"{_TAB * depth}/* {size} {what} */")]
