"""Where the values of a function call lie: the calling conventions of C, for integers and what is wider.

A value's `Passing` says what the conventions ask: its size, its alignment, and what each of its eight-byte
parts holds. A `Convention` is one row a machine; `places` gives each parameter its slots. Slots are eight
bytes each: first the argument registers in order, then the stack from its first argument on. The context of
fentry and fexit is another thing: the kernel stores the parameters there one after another, each in as many
slots as it has eight-byte parts (`context_places`).

Sources: System V ABI for x86-64, 3.2.3; procedure call standard for AArch64, 6.8.2; btf_ctx_access and
btf_distill_func_proto of the kernel.
"""

from collections.abc import Iterable, Sequence

from kwire.btf import types as b
from kwire.btf.blob import Btf
from kwire.hints import Final
from kwire.lazy import NamedTuple

INTEGER, FLOAT = "i", "f"
MAX_DEPTH = 16


class Passing(NamedTuple):
    """How a value is passed. `parts`: of each eight bytes, whether they are passed as an INTEGER or a FLOAT;
    `whole`: it is no structure; `packed`: a member does not lie at its natural alignment.
    """

    size: int
    align: int
    parts: str
    whole: bool = True
    packed: bool = False


class Convention(NamedTuple):
    """One machine's. `registers`: of integer arguments; `floats`: of floating-point ones; `reference`: a
    structure over 16 bytes is passed by its address, else on the stack; `even`: a value aligned to 16 begins
    at an even register; `closed`: after a value that found no room in registers none gets one; `hidden`: the
    address of where a result over 16 bytes is to go takes the first register, and is what is returned.
    """

    registers: int
    floats: int
    reference: bool
    even: bool
    closed: bool
    hidden: bool


CONVENTIONS: Final = {
    "x86_64": Convention(6, 8, reference=False, even=False, closed=False, hidden=True),
    "aarch64": Convention(8, 8, reference=True, even=True, closed=True, hidden=False),
}
IN_REGISTERS: Final = 16  # bytes of the largest value that travels in registers, everywhere


class ArgumentLocation(NamedTuple):
    """Slots `first` to `first + slots`; `reference`: the slot holds the value's address; none for
    what is in a floating-point register or has no size.
    """

    first: int
    slots: int
    reference: bool = False


NOWHERE: Final = ArgumentLocation(0, 0)


def passing(btf: Btf, id: int) -> Passing:
    """How a value of a type is passed."""
    id = btf.resolve(id)
    found = btf.type(id) if id else None
    if isinstance(found, b.Struct):
        kinds: dict[int, str] = {}
        align, packed = _members(btf, id, 0, kinds, 0)
        parts = "".join(kinds.get(part, FLOAT) for part in range(-(-found.size // 8)))
        return Passing(found.size, align, parts, False, packed)
    if isinstance(found, b.Float):
        return Passing(found.size, found.size, FLOAT * -(-found.size // 8))
    if found is None:
        return Passing(0, 1, "")  # void, or the end of a list of variable length
    size = max(btf.sizeof(id), 1) if isinstance(found, b.Int | b.Enum | b.Enum64 | b.Ptr) else 8
    return Passing(size, size, INTEGER * -(-size // 8))


def _members(btf: Btf, id: int, start: int, kinds: dict[int, str], depth: int) -> tuple[int, bool]:
    """Note what the eight-byte parts of a structure at byte `start` hold; its alignment, and whether it is
    packed.
    """
    found = btf.type(btf.resolve(id))
    if depth > MAX_DEPTH:
        return 8, False
    if isinstance(found, b.Struct):
        align, packed = 1, False
        for member in found.members:
            offset, bits = btf.placement(member)
            inner, uneven = _members(btf, member.type, start + offset // 8, kinds, depth + 1)
            align, packed = max(align, inner), packed or uneven or (not bits and offset // 8 % inner != 0)
        return align, packed
    if isinstance(found, b.Array):
        size = btf.sizeof(found.type)
        result = (1, False)
        for index in range(min(found.length, IN_REGISTERS)):
            result = _members(btf, found.type, start + index * size, kinds, depth + 1)
        return result
    size = btf.sizeof(id)
    for part in range(start // 8, (start + max(size, 1) + 7) // 8):
        if not isinstance(found, b.Float) or kinds.get(part) == INTEGER:
            kinds[part] = INTEGER
        else:
            kinds.setdefault(part, FLOAT)
    return max(size, 1), False


def places(
    convention: Convention, params: Sequence[Passing], result: Passing
) -> tuple[ArgumentLocation, ...]:
    """The slots of each parameter at the entry of a function."""
    used = 1 if convention.hidden and in_memory(convention, result) else 0
    floats = 0
    stack = convention.registers
    found = []
    for one in params:
        one, reference = _as_passed(convention, one)
        if not one.size:
            found.append(NOWHERE)
            continue
        wanted, wide = one.parts.count(INTEGER), one.parts.count(FLOAT)
        if convention.even and one.align >= 16 and wanted:
            used += used % 2
        if (
            not in_memory(convention, one)
            and used + wanted <= convention.registers
            and floats + wide <= convention.floats
        ):
            # Half in one kind of register, half in the other: only the integers can be had.
            found.append(ArgumentLocation(used, wanted, reference) if wanted == len(one.parts) else NOWHERE)
            used += wanted
            floats += wide
            continue
        if convention.closed and wanted:
            used = convention.registers
        if one.align >= 16:
            stack += (stack - convention.registers) % 2
        found.append(ArgumentLocation(stack, len(one.parts), reference))
        stack += len(one.parts)
    return tuple(found)


def context_places(params: Iterable[Passing]) -> tuple[tuple[ArgumentLocation, ...], int]:
    """The slots of each parameter in the context of fentry and fexit, and how many all take."""
    at, found = 0, []
    for one in params:
        found.append(ArgumentLocation(at, len(one.parts)))
        at += len(one.parts)
    return tuple(found), at


def in_memory(convention: Convention, value: Passing) -> bool:
    """Whether a value never travels in registers."""
    return value.size > IN_REGISTERS or (value.packed and not convention.reference)


def _as_passed(convention: Convention, value: Passing) -> tuple[Passing, bool]:
    """The value itself, or its address where that is passed instead."""
    if convention.reference and not value.whole and value.size > IN_REGISTERS:
        return Passing(8, 8, INTEGER), True
    return value, False
