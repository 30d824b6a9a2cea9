"""The types of a program's functions: what the debugging information of its file says (DWARF), as BTF.

So whatever reads the kernel's types reads those of programs, too. Invariants: what comes out is split BTF
behind the kernel's, which `Btf` judges like any; a file is read here only, in one go, and closed again; what
cannot be told in BTF (a member that is static, a type of no known size) is left out or void, never wrong. Of
a file the compilation unit of one function is read: its types, and the function's prototype. A parameter that
compilers do not pass, or otherwise than C says, is left out of it.

Read by pyelftools, of the extra `symbols`; nothing here is imported before a program's types are asked for.
Source: the DWARF standard, version 5, chapters 2 to 6; the kernel's Documentation/bpf/btf.rst.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile

from kwire.btf.blob import Btf
from kwire.btf.errors import BtfLookupError
from kwire.btf.types import Kind
from kwire.hints import Any, Final

INSTALL: Final = "install it: pip install 'kwire[symbols]'"
NAMED: Final = {
    "DW_TAG_structure_type": Kind.STRUCT,
    "DW_TAG_class_type": Kind.STRUCT,
    "DW_TAG_union_type": Kind.UNION,
    "DW_TAG_enumeration_type": Kind.ENUM,
    "DW_TAG_typedef": Kind.TYPEDEF,
    "DW_TAG_base_type": Kind.INT,
}
"""Types that are found by their names."""

REFERENCES: Final = {
    "DW_TAG_pointer_type": Kind.PTR,
    "DW_TAG_reference_type": Kind.PTR,
    "DW_TAG_rvalue_reference_type": Kind.PTR,
    "DW_TAG_const_type": Kind.CONST,
    "DW_TAG_volatile_type": Kind.VOLATILE,
    "DW_TAG_restrict_type": Kind.RESTRICT,
    "DW_TAG_atomic_type": Kind.CONST,
}
SIGNED: Final = (5, 6, 13)  # DW_ATE_signed, signed_char, signed_fixed
UTF: Final = 16  # DW_ATE_UTF: char8_t, and larger ones
BOOLEAN, FLOAT = 2, 4  # DW_ATE_
TYPES_MOST: Final = 50_000
"""Of a compilation unit that are taken."""

MEMBERS_MOST: Final = 0xFFFF
"""Of a structure or an enumeration: BTF counts them in 16 bits."""

REGISTERS: Final = {
    "x64": tuple(f"DW_OP_reg{number}" for number in (5, 4, 1, 2, 8, 9)),
    "AArch64": tuple(f"DW_OP_reg{number}" for number in range(8)),
}
"""Those of integer arguments, in order: figure 3.36 of the System V ABI for x86-64, DWARF for AArch64."""

SOMEWHERE: Final = "DW_OP_nop"
CONSTANT: Final = ("DW_OP_lit", "DW_OP_const", "DW_OP_implicit_")
"""What operations begin with that make a value, and read none."""

PLUS_UCONST: Final = b"\x23"  # DW_OP_: so many bytes behind the beginning, as DWARF 2 says it


def function_types(path: str, name: str, address: int, base: Btf, kept: dict[str, Any] | None = None) -> Btf:
    """The types of the compilation unit of a function of a program, and its prototype as a function `name`.
    `path`: of the file that has the debugging information; `address`: the function's in it; `base`: the
    kernel's types; `kept`: holds what was read of each file, for whoever asks for several functions (a large
    unit takes seconds). Raises BtfLookupError where the file tells nothing of it.
    """
    with _opened(path, name, kept) as debug:
        made = None if debug is None else _found(debug, address)
        if made is None:
            raise BtfLookupError(path, name, "it has no debugging information about this function")
        blob = _Writer(base).blob(name, *made)
    return Btf(blob, base, subject=path)


def line_addresses(path: str, source: str, line: int) -> list[int]:
    """The addresses at which code of a line begins, behind that of others; `source`: the end of the path of
    the file that the line is in. Raises BtfLookupError.
    """
    found: set[int] = set()
    known: set[str] = set()
    with _opened(path, source) as debug:
        for unit in debug.iter_CUs() if debug is not None else ():
            program = debug.line_program_for_CU(unit)
            before = False
            for state, name in _states(program) if program is not None else ():
                known.add(name)
                there = state.line == line and f"/{name}".endswith(f"/{source}")
                if there and not before and state.is_stmt:
                    found.add(state.address)
                before = there
    if not known:
        raise BtfLookupError(path, source, "it has no debugging information about its lines")
    if not found:
        there = any(f"/{one}".endswith(f"/{source}") for one in known)
        cause = f"no code begins at line {line} of {source}" if there else f"no code of it is from {source}"
        raise BtfLookupError(path, source, cause)
    return sorted(found)


def ready() -> bool:
    """Whether the library that reads DWARF is installed."""
    from importlib.util import find_spec

    return find_spec("elftools") is not None


@contextmanager
def _opened(path: str, name: str, kept: dict[str, Any] | None = None) -> Iterator[Any]:
    """The DWARF of a file; None where it has none. Raises BtfLookupError, whatever is wrong with it."""
    try:
        from elftools.elf.elffile import ELFFile
    except ImportError:
        cause = "pyelftools, which reads its debugging information, is not installed"
        raise BtfLookupError(path, name, cause, INSTALL) from None
    try:
        kept = {} if kept is None else kept
        if path not in kept:
            with open(path, "rb") as file:  # its sections are in memory then
                elf = ELFFile(file)
                kept[path] = elf.get_dwarf_info() if elf.has_dwarf_info(strict=True) else None
        yield kept[path]
    except BtfLookupError:
        raise
    except Exception as error:  # the library raises whatever comes of reading what is damaged
        cause = f"its debugging information cannot be read: {error or type(error).__name__}"
        raise BtfLookupError(path, name, cause) from None


def _found(debug: Any, address: int) -> tuple[Any, Any] | None:
    """The unit and the entry of the function at an address."""
    ranges = debug.get_aranges()
    offset = ranges.cu_offset_at_addr(address) if ranges is not None else None
    for unit in [debug.get_CU_at(offset)] if offset is not None else debug.iter_CUs():
        for entry in _subprograms(unit.get_top_DIE()):
            low = entry.attributes.get("DW_AT_low_pc")
            if low is not None and _address(unit, low) == address:
                return unit, entry
    return None


def _address(unit: Any, attribute: Any) -> int:
    if attribute.form.startswith("DW_FORM_addrx"):  # since pyelftools 0.32 `value` is the address itself
        return int(unit.dwarfinfo.get_addr(unit, attribute.raw_value))
    return int(attribute.value)


def _subprograms(entry: Any) -> Iterator[Any]:
    for child in entry.iter_children():
        if child.tag == "DW_TAG_subprogram":
            yield child
        elif child.tag in ("DW_TAG_namespace", "DW_TAG_structure_type", "DW_TAG_class_type"):
            yield from _subprograms(child)


def _states(program: Any) -> Iterator[tuple[Any, str]]:
    """The rows of a table of lines, and the path of each one's file."""
    files, folders = program["file_entry"], program["include_directory"]
    first = 0 if program["version"] >= 5 else 1
    names: dict[int, str] = {}
    for entry in program.get_entries():
        state = entry.state
        if state is None or state.end_sequence:
            continue
        if state.file not in names:
            file = files[state.file - first]
            folder = file.dir_index - first
            at = folders[folder] if 0 <= folder < len(folders) else b""
            names[state.file] = "/".join(_text(one) for one in (at, file.name) if one)
        yield state, names[state.file]


def _text(value: Any) -> str:
    return bytes(value).decode("utf-8", "replace")


def _name(entry: Any) -> str:
    found = entry.attributes.get("DW_AT_name")
    return _text(found.value) if found is not None else ""


def _number(entry: Any, attribute: str, default: int = 0) -> int:
    found = entry.attributes.get(attribute)
    return found.value if found is not None and isinstance(found.value, int) else default


def _location(member: Any) -> int | None:
    """The byte at which a member is; None where only an expression over the object tells it."""
    found = member.attributes.get("DW_AT_data_member_location")
    if found is None:
        return 0
    if isinstance(found.value, int):
        return int(found.value)
    place = bytes(found.value)
    if place[:1] != PLUS_UCONST:
        return None
    return sum((byte & 0x7F) << 7 * at for at, byte in enumerate(place[1:]))


class _Writer:
    """BTF in the making, behind `base`: types by the places of their entries, each written once."""

    def __init__(self, base: Btf) -> None:
        self._base = base
        self._first = base.end_id
        self._order = "<" if base.order == "little" else ">"
        self._strings = bytearray(b"\0")  # offsets go on behind the base's, and none of ours is the first
        self._offset = base.strings_total
        self._ids: dict[int, int] = {}
        self._waiting: list[tuple[int, Any]] = []
        self._records: list[bytes] = []
        self._known: dict[str, int] = {}

    def blob(self, name: str, unit: Any, function: Any) -> bytes:
        """The BTF of the types of a unit and of one of its functions."""
        children = _passed(unit, function, "." in name)
        proto = self._add(self._prototype(_origin(function), children))
        self._add(self._record(name, Kind.FUNC, 1, proto))
        for entry in unit.get_top_DIE().iter_children():
            if entry.tag in NAMED and _name(entry) and len(self._ids) < TYPES_MOST:
                self._id(entry)
        self._write()
        types = b"".join(self._records)
        return self._header(len(types)) + types + bytes(self._strings)

    def _header(self, types: int) -> bytes:
        return struct.pack(f"{self._order}HBBIIIII", 0xEB9F, 1, 0, 24, 0, types, types, len(self._strings))

    def _string(self, text: str) -> int:
        if not text:
            return 0
        if text not in self._known:
            self._known[text] = self._offset + len(self._strings)
            self._strings += text.encode("utf-8", "replace") + b"\0"
        return self._known[text]

    def _record(
        self, name: str, kind: int, length: int = 0, size: int = 0, rest: bytes = b"", flag: bool = False
    ) -> bytes:
        info = flag << 31 | kind << 24 | length
        return struct.pack(f"{self._order}III", self._string(name), info, size) + rest

    def _add(self, record: bytes) -> int:
        self._records.append(record)
        return self._first + len(self._records) - 1

    def _write(self) -> None:
        """Write all types that others refer to, and those that these refer to."""
        while self._waiting:
            at, entry = self._waiting.pop()
            self._records[at] = self._made(entry)

    def _id(self, entry: Any) -> int:
        """The id of a type; 0 (void) for what is none in BTF."""
        if entry is None or entry.tag == "DW_TAG_unspecified_type":
            return 0
        if entry.offset not in self._ids:
            self._ids[entry.offset] = self._add(b"")
            self._waiting.append((len(self._records) - 1, entry))
        return self._ids[entry.offset]

    def _type(self, entry: Any) -> int:
        """The id of the type that an entry has."""
        if "DW_AT_type" not in entry.attributes:
            return 0
        return self._id(entry.get_DIE_from_attribute("DW_AT_type"))

    def _prototype(self, function: Any, children: list[Any]) -> bytes:
        parameters = b""
        count = 0
        for child in children:
            if child.tag == "DW_TAG_formal_parameter":
                own = _origin(child)
                parameters += struct.pack(f"{self._order}II", self._string(_name(own)), self._type(own))
            elif child.tag == "DW_TAG_unspecified_parameters":
                parameters += bytes(8)
            else:
                continue
            count += 1
        return self._record("", Kind.FUNC_PROTO, count, self._type(function), parameters)

    def _made(self, entry: Any) -> bytes:
        tag, name = entry.tag, _name(entry)
        size = _number(entry, "DW_AT_byte_size")
        if tag in REFERENCES:
            return self._record("", REFERENCES[tag], 0, self._type(entry))
        if tag == "DW_TAG_typedef":
            return self._record(name, Kind.TYPEDEF, 0, self._type(entry))
        if tag == "DW_TAG_base_type":
            return self._base_type(name, size, _number(entry, "DW_AT_encoding"))
        if tag == "DW_TAG_enumeration_type":
            return self._enumeration(entry, name, size)
        if tag in NAMED:
            return self._structure(entry, name, size)
        if tag == "DW_TAG_array_type":
            return self._array(entry)
        if tag == "DW_TAG_subroutine_type":
            return self._prototype(entry, list(entry.iter_children()))
        return self._record("", Kind.CONST, 0, 0)  # void

    def _base_type(self, name: str, size: int, encoding: int) -> bytes:
        if encoding == FLOAT or size not in (1, 2, 4, 8, 16):
            return self._record(name or "float", Kind.FLOAT, 0, size)
        text = size == 1 and (name == "char" or encoding == UTF)  # numbers are what C calls (un)signed char
        bits = ((encoding in SIGNED) | text << 1 | (encoding == BOOLEAN) << 2) << 24 | size * 8
        return self._record(name, Kind.INT, 0, size, struct.pack(f"{self._order}I", bits))

    def _enumeration(self, entry: Any, name: str, size: int) -> bytes:
        values = [
            (_name(one), _number(one, "DW_AT_const_value"))
            for one in entry.iter_children()
            if one.tag == "DW_TAG_enumerator"
        ][:MEMBERS_MOST]
        signed = any(value < 0 for _, value in values)
        size, wide = size or 4, (size or 4) == 8
        rest = b""
        for label, value in values:
            rest += struct.pack(f"{self._order}II", self._string(label), value & 0xFFFFFFFF)
            if wide:
                rest += struct.pack(f"{self._order}I", value >> 32 & 0xFFFFFFFF)
        return self._record(name, Kind.ENUM64 if wide else Kind.ENUM, len(values), size, rest, signed)

    def _structure(self, entry: Any, name: str, size: int) -> bytes:
        kind = NAMED[entry.tag]
        if "DW_AT_declaration" in entry.attributes:
            return self._record(name, Kind.FWD, 0, 0, flag=kind == Kind.UNION)
        rest, count = b"", 0
        for one in entry.iter_children():
            place = self._place(one) if one.tag in ("DW_TAG_member", "DW_TAG_inheritance") else None
            if place is None or count == MEMBERS_MOST:
                continue
            offset, bits = place
            label = _name(one) if one.tag == "DW_TAG_member" else ""
            if label and not label.isidentifier():  # _vptr.class, made by the compiler: no name for BTF
                continue
            packed = bits << 24 | offset & 0xFFFFFF
            rest += struct.pack(f"{self._order}III", self._string(label), self._type(one), packed)
            count += 1
        return self._record(name, kind, count, size, rest, True)

    def _place(self, member: Any) -> tuple[int, int] | None:
        """The bit at which a member is, and its bits where it is a bit-field; None for what is static, too
        far behind, or in another place in each object (a virtual base).
        """
        attributes = member.attributes
        place = _location(member)
        if place is None or "DW_AT_external" in attributes or "DW_AT_declaration" in attributes:
            return None
        bits = _number(member, "DW_AT_bit_size")
        offset = 8 * place
        if "DW_AT_data_bit_offset" in attributes:
            offset = _number(member, "DW_AT_data_bit_offset")
        elif "DW_AT_bit_offset" in attributes:  # counted from the other end, before DWARF 4
            storage = 8 * _number(member, "DW_AT_byte_size")
            offset += storage - bits - _number(member, "DW_AT_bit_offset")
        return (offset, bits) if offset < 1 << 24 else None

    def _array(self, entry: Any) -> bytes:
        counts = []
        for one in entry.iter_children():
            if one.tag == "DW_TAG_subrange_type":
                count = _number(one, "DW_AT_count", _number(one, "DW_AT_upper_bound", -1) + 1)
                counts.append(count if 0 <= count < 1 << 31 else 0)
        element = self._type(entry)
        index = self._index()
        for count in reversed(counts[1:]):
            rest = struct.pack(f"{self._order}III", element, index, count)
            element = self._add(self._record("", Kind.ARRAY, 0, 0, rest))
        rest = struct.pack(f"{self._order}III", element, index, counts[0] if counts else 0)
        return self._record("", Kind.ARRAY, 0, 0, rest)

    def _index(self) -> int:
        """The type of indexes."""
        if -1 not in self._ids:
            self._ids[-1] = self._add(self._base_type("unsigned int", 4, 7))
        return self._ids[-1]


def _passed(unit: Any, function: Any, copied: bool) -> list[Any]:
    """What is within a function, without the parameters that are not passed as the conventions of C say.

    Of a function that nobody else calls compilers take parameters away that are the same everywhere or not
    used, and pass a member of a structure for all of it. What is away is a constant at the function's
    beginning, or nowhere in a copy (`work.constprop.0`); of what is left the first ones are taken that are
    in the registers of first arguments.
    """
    children = list(function.iter_children())
    parameters = [child for child in children if child.tag == "DW_TAG_formal_parameter"]
    registers = REGISTERS.get(unit.dwarfinfo.config.machine_arch, ())
    places = {one.offset: _parts(unit, function, one, copied) for one in parameters}
    if not copied and _fewer(places.values(), registers):  # as clang does, by the same name
        places = {one.offset: _parts(unit, function, one, True) for one in parameters}
    elif not copied and all(all(parts) for parts in places.values()):
        return children
    left = {offset: parts for offset, parts in places.items() if any(parts)}
    first = takewhile(lambda pair: left[pair[0]] == [pair[1]], zip(left, registers, strict=False))
    kept = {offset for offset, _ in first}
    return [child for child in children if child.offset not in places or child.offset in kept]


def _fewer(places: Iterable[list[str]], registers: Sequence[str]) -> bool:
    """Whether an argument is in a register of an earlier one, as of those before it not all are passed."""
    before = 0
    for first, *_ in places:
        if first in registers and registers.index(first) < before:
            return True
        before += first == SOMEWHERE or first in registers
    return False


def _parts(unit: Any, function: Any, parameter: Any, copied: bool) -> list[str]:
    """Where each part of a parameter's value is at the beginning of the function: the operation that reads
    it, empty for a part that is not passed; one part for most. Where nothing is told, it is somewhere.
    """
    from elftools.dwarf.dwarf_expr import DWARFExprParser
    from elftools.dwarf.locationlists import LocationExpr, LocationParser

    if "DW_AT_const_value" in parameter.attributes:
        return [""]
    where = parameter.attributes.get("DW_AT_location")
    if where is None:
        return ["" if copied else SOMEWHERE]
    lists = unit.dwarfinfo.location_lists()
    told = LocationParser(lists).parse_from_attribute(where, unit["version"], parameter)
    if not isinstance(told, LocationExpr):
        told = _at_entry(unit, function, told)
        if told is None:
            return [SOMEWHERE]
    parts, reads = list[str](), ""
    for one in DWARFExprParser(unit.structs).parse_expr(told.loc_expr):
        if one.op_name == "DW_OP_piece":
            parts.append(reads)
            reads = ""
        elif one.op_name != "DW_OP_stack_value" and not one.op_name.startswith(CONSTANT):
            reads = reads or one.op_name
    return parts or [reads]


def _at_entry(unit: Any, function: Any, told: list[Any]) -> Any:
    """What a list of places says of the beginning of a function; None for nothing."""
    low = _address(unit, function.attributes["DW_AT_low_pc"])
    first = unit.get_top_DIE().attributes.get("DW_AT_low_pc")
    start = _address(unit, first) if first is not None else 0
    for one in told:
        if hasattr(one, "base_address"):
            start = one.base_address
            continue
        start_here = 0 if one.is_absolute else start
        if start_here + one.begin_offset <= low < start_here + one.end_offset:
            return one
    return None


def _origin(entry: Any) -> Any:
    """The entry that has an entry's name and type: where it was declared, or what it is a copy of."""
    for attribute in ("DW_AT_abstract_origin", "DW_AT_specification"):
        if attribute in entry.attributes:
            return _origin(entry.get_DIE_from_attribute(attribute))
    return entry
