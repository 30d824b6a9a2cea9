"""One BTF object: types by id and by name, sizes, and where members lie.

Invariants: lazy — offsets first, a type when it is asked for, no index of all names unless many are asked
for; types decoded are values; whatever the bytes, a call returns or raises BtfError (BtfLookupError for what
is not there), in bounded time and memory. Split BTF (a module's) goes on with the ids and the string offsets
of its base.
"""

import struct
from bisect import bisect_left
from collections.abc import Iterator

from kwire.btf import types as t
from kwire.btf.decode import decode
from kwire.btf.errors import BtfError, BtfLookupError
from kwire.btf.header import KIND_BYTE, KIND_MASK, Data, RecordSize, kind_of, read_header
from kwire.btf.table import Table, build_table

MAX_CHAIN = 128
"""Typedefs and qualifiers in a row, arrays in arrays, structures in structures: more than this is damage."""
MAX_NAME = 1024
"""Bytes of a name (the kernel's own limit is 512)."""
_KEEP = 4096  # decoded types kept
_FIND_BY_INDEX = 64  # searches for one kind after which an index of its names is cheaper than the next ones

_RESOLVED = t.MODIFIERS
_STRUCTS = (t.Kind.STRUCT, t.Kind.UNION)


class Btf:
    """BTF in `data` (bytes, or a read-only mmap that stays open); `base` is what split BTF goes on from.

    `subject` names it in errors. `table` is its offset table when that is known already; else it is made when
    first needed. Ids run from `first_id` up to but not including `end_id`; those below are the base's.
    """

    __slots__ = (
        "_at",
        "_base_strings",
        "_cache",
        "_data",
        "_finds",
        "_header",
        "_indexes",
        "_last",
        "_pointer_size",
        "_repeated",
        "_sizes",
        "_table",
        "base",
        "first_id",
        "order",
        "subject",
    )

    def __init__(
        self, data: Data, base: "Btf | None" = None, *, subject: str = "a blob", table: Table | None = None
    ) -> None:
        self.subject = subject
        self.base = base
        self._header = header = read_header(data, subject)
        if header.strings_end > header.strings:
            if data[header.strings_end - 1]:
                raise BtfError(subject, "the last string does not end", header.strings_end - 1)
            if base is None and data[header.strings]:
                raise BtfError(subject, "the first string is not the empty one", header.strings)
        self.order = "little" if header.order == "<" else "big"
        if base is not None and base.order != self.order:
            raise BtfError(subject, f"{self.order}-endian, its base {base.subject} is not", 0)
        self._data = data
        self._at = struct.Struct(header.order + "II")
        self._sizes = RecordSize(header, data)
        self._table = table
        self._base_strings = 0 if base is None else base.strings_total
        self.first_id = 1 if base is None else base.end_id
        self._cache: dict[int, t.BtfType] = {}
        self._indexes: dict[int, dict[str, int]] = {}
        self._repeated: dict[int, set[str]] = {}
        self._finds: dict[int, int] = {}
        self._pointer_size = 0
        self._last: tuple[bytes, tuple[int, ...]] = (b"", ())

    @property
    def table(self) -> Table:
        """The offset table, made now if it was not there yet."""
        if self._table is None:
            self._table = build_table(self._data, self._header, self._sizes, self.subject)
        return self._table

    @property
    def end_id(self) -> int:
        """One more than the highest type id."""
        return self.first_id + len(self.table.offsets)

    @property
    def strings_total(self) -> int:
        """Bytes of its strings and its base's."""
        return self._base_strings + self._header.strings_end - self._header.strings

    # --- one type ---

    def _record(self, id: int) -> int:
        """The byte in the blob where the record of one of our own types starts."""
        index = id - self.first_id
        if not 0 <= index < len(self.table.offsets):
            raise BtfError(self.subject, f"there is no type {id}")
        at = self._header.types + self.table.offsets[index]
        if at + 12 > self._header.types_end:
            raise BtfError(self.subject, f"type {id} is not where the offset table says", at)
        return at

    def name(self, offset: int) -> str:
        """The string at this offset of the string section (for split BTF, counted from its base's)."""
        if offset < self._base_strings and self.base is not None:
            return self.base.name(offset)
        if offset == 0:
            return ""
        start = self._header.strings + offset - self._base_strings
        if start >= self._header.strings_end:
            raise BtfError(self.subject, f"a name at {offset} of {self.strings_total} bytes of strings")
        end = self._data.find(b"\0", start, start + MAX_NAME)
        if end < 0:
            raise BtfError(self.subject, f"a name longer than {MAX_NAME} bytes", start)
        return self._data[start:end].decode("utf-8", "backslashreplace")

    def kind(self, id: int) -> int:
        """The `Kind` of a type (an unknown number where the blob's layout table skips it)."""
        if id < self.first_id:
            return self.base.kind(id) if self.base is not None and id > 0 else self._void(id)
        return kind_of(self._at.unpack_from(self._data, self._record(id))[1])

    def _void(self, id: int) -> int:
        if id:
            raise BtfError(self.subject, f"there is no type {id}")
        return t.Kind.VOID

    def type(self, id: int) -> t.BtfType:
        """Decode one type. Raises BtfError for an id that does not exist or a damaged record."""
        if id < self.first_id:
            if self.base is not None and id > 0:
                return self.base.type(id)
            self._void(id)
            return t.VOID
        known = self._cache.get(id)
        if known is not None:
            return known
        at = self._record(id)
        info = self._at.unpack_from(self._data, at)[1]
        try:
            size = self._sizes[info]
        except KeyError:
            raise BtfError(self.subject, f"type {id} has the unknown kind {kind_of(info)}", at) from None
        if at + size > self._header.types_end:
            raise BtfError(self.subject, f"type {id} is cut", at)
        found = decode(self._data, at, self._header.order, info, self.name)
        if len(self._cache) >= _KEEP:
            self._cache.clear()
        self._cache[id] = found
        return found

    def resolve(self, id: int) -> int:
        """The id below typedefs, qualifiers and tags; 0 is void. Raises BtfError for an endless chain."""
        for _ in range(MAX_CHAIN):
            if id == 0 or self.kind(id) not in _RESOLVED:
                return id
            found = self.type(id)
            id = found.type if isinstance(found, t.Reference) else 0
        raise BtfError(self.subject, f"typedefs and qualifiers without end at type {id}")

    def sizeof(self, id: int) -> int:
        """Bytes of a value of this type. Raises BtfLookupError for what has none: void, functions, Fwd."""
        count = 1
        for _ in range(MAX_CHAIN):
            found = self.type(self.resolve(id))
            match found:
                case t.Array():
                    count *= found.length
                    id = found.type
                case t.Ptr():
                    return count * self.pointer_size
                case t.Var():
                    id = found.type
                case t.Int() | t.Struct() | t.Enum() | t.Enum64() | t.Float() | t.Datasec():
                    return count * found.size
                case _:
                    title = f"{type(found).__name__.lower()} {found.name}".rstrip()
                    raise BtfLookupError(self.subject, found.name, f"{title} has no size")
        raise BtfError(self.subject, f"arrays in arrays without end at type {id}")

    @property
    def pointer_size(self) -> int:
        """Bytes of a pointer: those of `long`; 8 where the BTF has no `long`."""
        if self.base is not None:
            return self.base.pointer_size
        if not self._pointer_size:
            id = self.find("long unsigned int", t.Kind.INT) or self.find("unsigned long", t.Kind.INT)
            found = self.type(id)
            self._pointer_size = found.size if isinstance(found, t.Int) and found.size in (4, 8) else 8
        return self._pointer_size

    # --- by name ---

    def _name_offsets(self, name: bytes) -> Iterator[int]:
        """The offsets of a whole string, base first."""
        if self.base is not None:
            # Modules are searched one after the other for one name.
            if self.base._last[0] != name:
                self.base._last = (name, tuple(self.base._name_offsets(name)))
            yield from self.base._last[1]
        start, end = self._header.strings, self._header.strings_end
        if self._data[start : min(start + len(name) + 1, end)] == name + b"\0":
            yield self._base_strings
        at = self._data.find(b"\0" + name + b"\0", start, end)
        while at >= 0:
            yield at + 1 - start + self._base_strings
            at = self._data.find(b"\0" + name + b"\0", at + 1, end)

    def _name_offset(self, index: int) -> int:
        at: int = self._at.unpack_from(self._data, self._record(index + self.first_id))[0]
        return at

    def _named(self, name: str) -> Iterator[int]:
        """Our own types with this name, by id; the base's are not among them."""
        text = name.encode("utf-8", "replace")
        if not text or b"\0" in text or len(text) >= MAX_NAME:
            return
        for offset in self._name_offsets(text):
            by_name = self.table.by_name  # not made for a name that is not there
            at = bisect_left(by_name, offset, key=self._name_offset)
            while at < len(by_name) and self._name_offset(by_name[at]) == offset:
                yield by_name[at] + self.first_id
                at += 1

    def find(self, name: str, kind: int | None = None) -> int:
        """The id of the first type of this name and `Kind` (None: any), own before the base's; 0: none."""
        if kind is not None:
            self._finds[kind] = self._finds.get(kind, 0) + 1
            if self._finds[kind] > _FIND_BY_INDEX:
                own = self.names(kind).get(name, 0)
                return own if own or self.base is None else self.base.find(name, kind)
        for id in self._named(name):
            if kind is None or self.kind(id) == kind:
                return id
        return self.base.find(name, kind) if self.base is not None else 0

    def find_all(self, name: str, kind: int | None = None) -> list[int]:
        """All types with this name and kind, the base's first."""
        base = self.base.find_all(name, kind) if self.base is not None else []
        return base + sorted(id for id in self._named(name) if kind is None or self.kind(id) == kind)

    def all_named(self, name: str, kind: int) -> list[int]:
        """Our own types with this name and kind, not the base's; from the index where there is one."""
        index = self._indexes.get(kind)
        if index is not None and name not in self._repeated[kind]:
            return [index[name]] if name in index else []
        return sorted(id for id in self._named(name) if self.kind(id) == kind)

    @property
    def consistent(self) -> bool:
        """Whether functions of one name have one prototype, or else none is told.

        Tags of functions are written (by pahole 1.26 and newer) together with that promise.
        """
        btf = self if self.base is None else self.base
        return next(btf.ids(t.Kind.DECL_TAG), 0) != 0

    def ids(self, kind: int) -> Iterator[int]:
        """The ids of our own types of one kind, in order (not the base's)."""
        for id, _ in self._records_of(kind):
            yield id

    def _records_of(self, kind: int) -> Iterator[tuple[int, int]]:
        """Of each of our own types of one kind, in order: its id, and the byte where its record starts.

        Only the one byte that has the kind is looked at, for there are 150,000 types.
        """
        types, data, offsets = self._header.types, self._data, self.table.offsets
        last = types + max(offsets, default=0)
        if offsets and last + 12 > self._header.types_end:
            raise BtfError(self.subject, "a type is not where the offset table says", last)
        of_kind = types + (KIND_BYTE if self.order == "little" else KIND_BYTE ^ 3)
        for index, offset in enumerate(offsets):
            if data[of_kind + offset] & KIND_MASK == kind:
                yield self.first_id + index, types + offset

    def names(self, kind: int) -> dict[str, int]:
        """name → id of all our own types of one kind that have a name; of several with one name, the first.

        Not the base's. Made once, in 50 ms for a kernel's functions.
        """
        index = self._indexes.get(kind)
        if index is None:
            index, repeated = {}, set()
            for id, at in self._records_of(kind):
                name = self.name(self._at.unpack_from(self._data, at)[0])
                if index.setdefault(name, id) != id:
                    repeated.add(name)
            index.pop("", None)
            self._indexes[kind], self._repeated[kind] = index, repeated
        return index

    def func(self, name: str) -> t.FuncProto:
        """The prototype of a function. Raises BtfLookupError."""
        id = self.find(name, t.Kind.FUNC)
        if not id:
            raise BtfLookupError(self.subject, name, f"there is no function {name}")
        return self.proto(id)

    def proto(self, id: int) -> t.FuncProto:
        """The prototype that a Func, a FuncProto or a pointer to one stands for. Raises BtfLookupError."""
        for _ in range(4):
            found = self.type(self.resolve(id))
            if isinstance(found, t.FuncProto):
                return found
            if not isinstance(found, t.Func | t.Ptr):
                break
            id = found.type
        raise BtfLookupError(self.subject, "", f"type {id} is no function")

    # --- members ---

    def placement(self, member: t.Member) -> tuple[int, int]:
        """(offset in bits, bits of a bit-field or 0) of a member, in whichever of two ways BTF has it."""
        if not member.bits:
            found = self.type(self.resolve(member.type))
            if isinstance(found, t.Int) and found.bits != found.size * 8:
                return member.offset_bits + found.offset_bits, found.bits
        return member.offset_bits, member.bits
