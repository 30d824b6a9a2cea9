"""Kernel types for `kwire list`: found by "struct NAME" with wildcards, in the kernel and its modules."""

import fnmatch
from collections.abc import Iterator

from kwire.btf import types as t
from kwire.btf.blob import Btf
from kwire.btf.cformat import declare, spell
from kwire.btf.errors import BtfLookupError, did_you_mean, nearest
from kwire.btf.members import every_member
from kwire.btf.store import Found, Kernel
from kwire.kernel.targets import WILDCARD, CatalogError, Target

KINDS: dict[str, tuple[t.Kind, ...]] = {
    "struct": (t.Kind.STRUCT,),
    "union": (t.Kind.UNION,),
    "enum": (t.Kind.ENUM, t.Kind.ENUM64),
    "typedef": (t.Kind.TYPEDEF,),
}
"""The words that a type is asked for with, and the kinds they stand for."""


def types(
    kernel: Kernel, pattern: str, whole: bool, members: bool
) -> Iterator[tuple[str, dict[str, object]]]:
    """(text, record) of each type that "struct NAME" names.

    A type named outright is written out as C; of several, only the names, unless `whole`. `members`: whether
    records say all there is. Raises BtfLookupError, with the nearest names, where there is none.
    """
    word, _, name = pattern.partition(" ")
    if not name:
        raise BtfLookupError(
            "the kernel", pattern, f"{word} of what name?", f"write {word} NAME or {word} '*'"
        )
    if not WILDCARD.search(name):
        found = kernel.find(name, KINDS[word])
        if found is None:
            raise _missing(kernel, word, name)
        yield declare(found.btf, found.id), describe(found, word, name)
        return
    count = 0
    for found, each in _matching(kernel, word, name):
        count += 1
        text = declare(found.btf, found.id) if whole else f"{word} {each}"
        yield text, describe(found, word, each) if members else {}
    if not count:
        raise BtfLookupError("the kernel", pattern, f"no {word} matches {name}")


def named(kernel: Kernel, name: str) -> list[str]:
    """ "struct NAME" and so on, for all types that have just this name."""
    return [f"{word} {name}" for word, kinds in KINDS.items() if kernel.find(name, kinds)]


def functions(kernel: Kernel, kind: str, pattern: str) -> list[Target]:
    """The functions that BTF knows, as targets: of the kernel, or of the modules that the pattern names.

    Raises CatalogError where there are none.
    """
    module, _, name = pattern.rpartition(":")
    modules = fnmatch.filter(kernel.modules(), module) if module else [""]
    names = [(each, function) for each in modules for function in kernel.functions(each)]
    found = [Target(kind, each, function) for each, function in names if fnmatch.fnmatchcase(function, name)]
    if not found:
        near = nearest(name, (function for _, function in names))
        raise CatalogError(kind, pattern, "this kernel has no such function", near)
    return sorted(found)


def describe(found: Found, word: str, name: str) -> dict[str, object]:
    """A type as plain data: offsets and sizes in bytes, members of anonymous structures among the others."""
    btf, id = found.btf, found.id
    record: dict[str, object] = {"type": f"{word} {name}", "module": found.module}
    type_ = btf.type(id)
    match type_:
        case t.Struct():
            record["size"] = type_.size
            members = [_member(btf, member, start) for member, start in every_member(btf, id)]
            record["members"] = sorted(members, key=lambda each: (each["offset"], each.get("bit", 0)))
        case t.Enum() | t.Enum64():
            record |= {"size": type_.size, "signed": type_.signed, "values": dict(type_.values)}
        case t.Typedef():
            record |= {"target": spell(btf, type_.type), "size": _size(btf, id)}
    return record


def _member(btf: Btf, member: t.Member, start: int) -> dict[str, int | str]:
    offset, bits = btf.placement(member)
    record: dict[str, int | str] = {"name": member.name, "type": spell(btf, member.type)}
    record |= {"offset": (start + offset) // 8, "size": _size(btf, member.type)}
    if bits:
        record |= {"bit": (start + offset) % 8, "bits": bits}
    return record


def _size(btf: Btf, id: int) -> int:
    try:
        return btf.sizeof(id)
    except BtfLookupError:
        return 0


def _matching(kernel: Kernel, word: str, pattern: str) -> list[tuple[Found, str]]:
    """Those of the kernel proper and of the modules, by name."""
    found: dict[str, Found] = {}
    for module in ["", *kernel.modules()]:
        btf = kernel.module(module)
        for kind in KINDS[word]:
            for name, id in btf.names(kind).items():
                if fnmatch.fnmatchcase(name, pattern):
                    found.setdefault(name, Found(module, btf, id))
    return [(found[name], name) for name in sorted(found)]


def _missing(kernel: Kernel, word: str, name: str) -> BtfLookupError:
    """The error for a type that is not there: the right word for this name, or the nearest names."""
    if word in ("struct", "union") and kernel.find(name, (t.Kind.FWD,)):
        return BtfLookupError("the kernel", name, f"{word} {name} is only declared in this kernel's BTF")
    others = named(kernel, name)
    near = others or [
        f"{word} {each}" for kind in KINDS[word] for each in nearest(name, kernel.vmlinux.names(kind))
    ]
    return BtfLookupError("the kernel", name, f"there is no {word} {name}", did_you_mean(near[:3]))
