"""Finds a member by its path in a structure.

Invariant: a search looks at each structure once, so that it ends whatever the BTF says.
"""

from collections.abc import Iterator

from kwire.btf import types as t
from kwire.btf.blob import MAX_CHAIN, Btf
from kwire.btf.errors import BtfLookupError, did_you_mean, nearest
from kwire.lazy import ASCII, pattern
from kwire.words import plural

_STEP = pattern(r"\s*(\w+)\s*((?:\[\s*\d+\s*\]\s*)*)", ASCII)
_INDEX = pattern(r"\d+")


def locate(btf: Btf, id: int, path: str) -> t.MemberPath:
    """Where `path` ("a", "a.b[2].c") lies in a structure; pointers are not followed.

    Members of anonymous structs and unions go by their own name. Raises BtfLookupError with the nearest
    names.
    """
    offset, bits = 0, 0
    for step in path.split("."):
        name, indexes = step, ""
        if not (step.isidentifier() and step.isascii()):  # which most are
            match = _STEP.fullmatch(step)
            if match is None:
                cure = "write it as a.b[2].c"
                raise BtfLookupError(btf.subject, path, f"{path!r} is not a member path", cure)
            name, indexes = match[1], match[2]
        found = _find(btf, btf.resolve(id), name)
        offset, bits, id = offset + found.offset_bits, found.bitfield_size, found.type_id
        for index in _INDEX.findall(indexes) if indexes else ():
            array = btf.type(btf.resolve(id))
            if not isinstance(array, t.Array):
                raise BtfLookupError(btf.subject, path, f"{step.strip()!r} in {path!r} is not an array")
            # A count of 0 is a flexible array.
            if len(index) > 9 or int(index) >= array.length > 0:
                cause = f"{name} has {plural(array.length, 'element')}, {index} is not one"
                raise BtfLookupError(btf.subject, path, cause)
            id = array.type
            offset += int(index) * btf.sizeof(id) * 8
    return t.MemberPath(offset, id, bits)


def every_member(btf: Btf, id: int) -> Iterator[tuple[t.Member, int]]:
    """(member, bits before its structure), those of anonymous structs and unions after the direct ones."""
    waiting, seen = [(btf.resolve(id), 0)], set[int]()
    for at, (struct, start) in enumerate(waiting):
        found = btf.type(struct)
        if not isinstance(found, t.Struct) or at > MAX_CHAIN * MAX_CHAIN:
            continue
        for member in found.members:
            if member.name:
                yield member, start
            else:
                inner = btf.resolve(member.type)
                if inner not in seen:
                    seen.add(inner)
                    waiting.append((inner, start + member.offset_bits))


def _find(btf: Btf, id: int, name: str) -> t.MemberPath:
    for member, start in every_member(btf, id):
        if member.name == name:
            offset, bits = btf.placement(member)
            return t.MemberPath(start + offset, member.type, bits)
    raise _missing(btf, id, name)


def _missing(btf: Btf, id: int, name: str) -> BtfLookupError:
    found = btf.type(id)
    if isinstance(found, t.Fwd):
        cause = f"{_title(found)} is only declared, its members are not known"
        return BtfLookupError(btf.subject, name, cause)
    if not isinstance(found, t.Struct):
        kind = "a pointer" if isinstance(found, t.Ptr) else f"{_title(found)}"
        return BtfLookupError(btf.subject, name, f"{kind} has no members, so no {name}")

    def near() -> str:
        return did_you_mean(nearest(name, (member.name for member, _ in every_member(btf, id))))

    return BtfLookupError(btf.subject, name, f"{_title(found)} has no member {name}", near)


def _title(found: t.BtfType) -> str:
    if isinstance(found, t.Struct | t.Fwd):
        return f"{'union' if found.union else 'struct'} {found.name or '(anonymous)'}"
    return f"{type(found).__name__.lower()} {found.name}".rstrip()
