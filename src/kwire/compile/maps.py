"""Maps of a unit → IR, and how their keys and values lie in memory.

Invariants: a key is built on the stack, its parts one after another as C lays out a structure, zeros in
between and behind a text. A value is made of 8-byte words, a number having one, a text or an array as many as
it needs, and what was never set is all zeros, so a new key begins as a copy of nothing; behind the NUL of a
text may be anything. A map without a key is one stretch of an array that user space maps (`MMAPABLE`):
of a "hash" or "lru" the value and whether it was set, of others what each CPU keeps, in cache lines of its
own. What each CPU keeps is added to by atomic instructions, because programs of a unit may interrupt each
other; only the smallest and the greatest number are compared first, so of two programs of which one
interrupts the other between the comparison and the store one may not be seen. An update that finds no room is
counted in a map beside it (`lost_of`).
"""

from collections.abc import Hashable

from kwire.bpf.image import MapSpec
from kwire.compile.builder import Builder
from kwire.compile.emission import of_cpu
from kwire.compile.ir import At, Exit, Function, Operand, Slot, Value
from kwire.compile.layout import SLACK, pad
from kwire.compile.variable_length import Record
from kwire.hints import TYPE_CHECKING
from kwire.lang import checked, types
from kwire.lang.context import CtxField, DataLoc, Site
from kwire.lang.entries import VALUE_MOST, EntryMember, key_parts, key_size, value_parts, value_size
from kwire.lang.tree import Span

if TYPE_CHECKING:
    from kwire.compile.lower import Lower

MMAPABLE = 1 << 10  # BPF_F_MMAPABLE
LINE = 64
"""Bytes of a cache line: what one CPU keeps shares none with another's."""

ZEROS = "zeros"
"""The map from which new keys get their first value."""

ZEROS_SIZE = 2 * VALUE_MOST

STEADY = frozenset({"pid", "tid", "ppid", "uid", "gid", "cpu", "func", "cgroup", "curtask"})
"""Built-ins that stay as they are while a program runs."""

NAME_SIZE = 16
"""Bytes of a thread's name with its NUL."""

PER_CPU = ("count", "sum", "min", "max", "avg", "stats", "hist", "lhist")
"""Kinds of which each CPU keeps its part by itself."""

STACK_VALUE_MOST = 64
"""Bytes of a value that is built on the stack."""

_WORDS = {"count": 1, "sum": 1, "min": 2, "max": 2, "avg": 2, "stats": 2}


def words(map: checked.Map) -> int:
    """How many 8-byte words a value of the map has (on each CPU)."""
    if map.kind == "hist":  # negative numbers; all below 2^n; 2^n for each of the higher bits
        return 1 + (65 - map.bounds[0] << map.bounds[0])
    if map.kind == "lhist":
        low, high, step = map.bounds
        return (high - low + step - 1) // step + 2
    if map.kind in PER_CPU:
        return _WORDS[map.kind]
    return value_size(map) // 8 + (not map.key)


def stride(map: checked.Map) -> int:
    """Bytes from one CPU's part of a map without a key to the next one's."""
    return (8 * words(map) + LINE - 1) & -LINE


def name_of(map: checked.Map) -> str:
    """The map's name in images; those of the unit are told from our own by the sign."""
    return f"@{map.name}"


def lost_of(map: checked.Map) -> str:
    """The name of the map that holds how many updates found no room, one number."""
    return f"@{map.name} lost"


def specs(map: checked.Map, cpus: int) -> tuple[MapSpec, ...]:
    """The maps to create for one map of the unit."""
    name = name_of(map)
    if not map.key:
        size = cpus * stride(map) if map.kind in PER_CPU else 8 * words(map)
        return (MapSpec(name, "array", 4, size, 1, MMAPABLE),)
    each = "lru_percpu_hash" if map.forgets else "percpu_hash"
    kind = {"hash": "hash", "lru": "lru_hash"}.get(map.kind, each)
    lost = MapSpec(lost_of(map), "array", 4, 8, 1, MMAPABLE)
    zeros = MapSpec(ZEROS, "array", 4, ZEROS_SIZE, 1)
    return MapSpec(name, kind, key_size(map), 8 * words(map), map.size), lost, zeros


class MapLowering:
    """What statements and expressions do with maps, in the current block of a program."""

    __slots__ = ("b",)

    def __init__(self, lower: "Lower") -> None:
        self.b = lower

    def get(self, e: checked.MapGet) -> Operand:
        """The value at a key, or 0."""
        b = self.b
        if e.map.kind in PER_CPU:
            return self._together(e.map, self._key(e.map, e.key) if e.map.key else None)
        if not e.map.key:
            return b.load(self._own(e.map), 0, 8)
        same = self._same(e)
        if same in b.known:
            return b.known[same]
        found = self._lookup(e.map, self._key(e.map, e.key))
        there, absent = b.new_block("there"), b.new_block("absent")
        b.branch("eq", found, 0, absent, there)
        b.start(absent)  # before the other, so that one register can do for all
        b.start(there)
        value = b.load(found, 0, 8)
        read = b.join([(absent, 0), (there, value)])
        if same is not None:
            b.known[same] = read
        return read

    def _same(self, e: checked.MapGet) -> Hashable:
        """What is equal where the same is read from a map, as long as it is not changed; None: nothing is.

        Another program may change it between two readings, and as well before both.
        """
        parts = [self._same_part(part) for part in e.key]
        return None if None in parts else (e.map.name, *parts)

    def _same_part(self, e: checked.Expr | checked.Wide | checked.TextConst) -> Hashable:
        if isinstance(e, checked.Const | checked.TextConst):
            return "constant", e.value
        if isinstance(e, checked.Builtin) and e.op in STEADY:
            return "built-in", e.op
        if isinstance(e, checked.Param):
            return "parameter", e.name, e.type
        if isinstance(e, checked.LocalGet):
            return "local", self.b.locals[e.local]
        if isinstance(e, checked.Convert | checked.Retype):
            operand = self._same_part(e.operand)
            return None if operand is None else (e.__class__, e.type, operand)
        return None

    def place(self, e: checked.MapPlace) -> Value:
        """The address of the value at a key, of zeros where there is none."""
        b = self.b
        if not e.map.key:
            return self._own(e.map)
        found = self._lookup(e.map, self._key(e.map, e.key))
        there, absent = b.new_block("there"), b.new_block("absent")
        b.branch("eq", found, 0, absent, there)
        b.start(there)
        b.start(absent)
        zeros = b.emit("mapval", [], (ZEROS, 0))
        place = b.join([(there, found), (absent, zeros)])
        assert isinstance(place, Value)
        return place

    def has(self, e: checked.MapHas) -> Operand:
        """Whether there is a value at a key."""
        b = self.b
        if not e.map.key:
            return b.load(self._own(e.map), value_size(e.map), 8)
        return b.emit("cmp", [self._lookup(e.map, self._key(e.map, e.key)), 0], "ne", 1)

    def set(self, s: checked.MapSet) -> None:
        """Set the value at a key."""
        b, size = self.b, value_size(s.map)
        if not s.map.key and len(s.value) == 1 and types.is_scalar(s.map.value):
            value = b.expr(_scalar(s.value[0]))
            b.store(self._own(s.map), 0, 8, value)
            b.store(self._own(s.map), 8, 8, 1)
            return
        key = self._key(s.map, s.key) if s.map.key else None
        if size <= STACK_VALUE_MOST:
            wide = not types.is_scalar(s.map.value)
            base: Value | Slot = b.function.slot("value", pad(size + SLACK) if wide else 8)
            start = 0
            if wide:
                for at in range(0, size, 8):
                    b.store(base, at, 8, 0)
        else:
            base, start = b.room(size + SLACK)
        for part, given in zip(value_parts(s.map), s.value, strict=True):
            self._put(part, given, base, start + part.offset, 8)
        if key is None:
            own = self._own(s.map)
            for at in range(0, size, 8):
                b.store(own, at, 8, b.load(base, start + at, 8))
            b.store(own, size, 8, 1)
            return
        result = b.call("map_update_elem", b.map(name_of(s.map)), key, At(base, start), 0)
        full, done = b.new_block("full"), b.new_block("set")
        b.branch("ne", result, 0, full, done)  # before Linux 6.4 an error has 32 bits, and is not negative
        b.start(full)
        self._lost(s.map)
        b.jump(done)
        b.start(done)

    def delete(self, s: checked.MapDelete) -> None:
        """Take a key away."""
        b = self.b
        if not s.map.key and s.map.kind in PER_CPU:
            self._clear(s.map)
            return
        if not s.map.key:
            for at in range(value_size(s.map), -1, -8):
                b.store(self._own(s.map), at, 8, 0)
            return
        b.call("map_delete_elem", b.map(name_of(s.map)), self._key(s.map, s.key))

    def _clear(self, map: checked.Map) -> None:
        """Let all CPUs keep nothing: what the helper cannot read, as at address 0, it makes zeros of, however
        much it is, where a loop over the words of many CPUs is more than the verifier looks at.
        """
        b = self.b
        place = b.emit("mapval", [], (name_of(map), 0))
        b.call("probe_read_kernel", place, b.options.cpus * stride(map), 0)

    def aggregate(self, s: checked.Aggregate) -> None:
        """Add a value to what is kept at a key."""
        b = self.b
        key = self._key(s.map, s.key) if s.map.key else None
        value = b.expr(s.value)
        own = self._own(s.map) if key is None else None
        if s.map.kind in ("hist", "lhist"):
            bucket = self._log2(s.map, value) if s.map.kind == "hist" else self._linear(s.map, value)
            value = b.emit("lsh", [bucket, 3])
        if key is None:
            assert own is not None
            self._add(s.map, own, value)
            if s.map.kind not in PER_CPU:
                b.store(self._own(s.map), 8, 8, 1)
            return
        first = self._lookup(s.map, key)
        hit, miss, end = b.new_block("hit"), b.new_block("miss"), b.new_block("added")
        b.branch("eq", first, 0, miss, hit)
        b.start(hit)
        b.start(miss)
        zeros = b.emit("mapval", [], (ZEROS, 0))
        b.call("map_update_elem", b.map(name_of(s.map)), key, At(zeros, 0), NOEXIST)
        second = self._lookup(s.map, key)  # of whoever was first to make it
        full, made = b.new_block("full"), b.new_block("made")
        for block in (miss, made, full):
            block.seldom = True
        b.branch("eq", second, 0, full, made)
        b.start(made)
        b.start(full)
        self._lost(s.map)
        b.jump(end)
        place = b.join([(hit, first), (made, second)])
        assert isinstance(place, Value)
        self._add(s.map, place, value)
        b.jump(end)
        b.start(end)

    def each(self, e: checked.EachGet, key: Value, value: Value) -> Operand:
        """The number at the key that a loop over the map is at."""
        if e.map.kind in PER_CPU:
            return self._together(e.map, At(key, 0))
        return self.b.load(value, 0, 8)

    def _together(self, map: checked.Map, key: At | None) -> Operand:
        """What all CPUs keep at a key, put together, by a loop over them."""
        b = self.b
        extreme, number = map.kind in ("min", "max"), map.kind in ("avg", "stats")
        head, run, over = b.new_block("cpus"), b.new_block("cpu"), b.new_block("all")
        head.params = [b.function.value() for _ in range(3)]
        at, value, others = head.params
        b.jump(head, [0, 0, 0])
        b.start(head)
        b.branch("lt", at, b.options.cpus, run, over)
        b.start(run)
        if key is None:
            place = b.emit("mapval", [], (name_of(map), 0))
            place = b.emit("add", [place, b.emit("mul", [at, stride(map)])])
        else:
            place = b.call("map_lookup_percpu_elem", b.map(name_of(map)), key, at)
            there, gone = b.new_block("there"), b.new_block("gone")
            b.branch("eq", place, 0, gone, there)
            b.start(gone)
            b.jump(head, [b.emit("add", [at, 1]), value, others])
            b.start(there)
        own = b.load(place, 0, 8)
        second = b.load(place, 8, 8) if extreme or number else 0
        if extreme:
            condition = ("s" if types.signed(map.number) else "") + ("lt" if map.kind == "min" else "gt")
            better = b.emit("cmp", [own, value], condition, 1)
            first = b.emit("cmp", [others, 0], "eq", 1)
            taken = b.emit("neg", [b.emit("and", [b.emit("or", [better, first]), second])])
            kept = b.emit("xor", [value, b.emit("and", [b.emit("xor", [value, own]), taken])])
            b.jump(head, [b.emit("add", [at, 1]), kept, b.emit("or", [others, second])])
        else:
            sums = [b.emit("add", [value, own]), b.binary("add", others, second)]
            b.jump(head, [b.emit("add", [at, 1]), *sums])
        b.start(over)
        return b.quotient(value, others, types.signed(map.number)) if number else value

    # parts of these

    def _key(self, map: checked.Map, given: checked.Key) -> At:
        """The key on the stack."""
        b, parts = self.b, key_parts(map)
        size = key_size(map)
        slot = b.function.slot("key", pad(size + SLACK) if size > 8 else 8)
        if len(parts) > 1 or not types.is_scalar(parts[0].type):
            for at in range(0, pad(size), 8):
                b.store(slot, at, 8, 0)
        for part, value in zip(parts, given, strict=True):
            self._put(part, value, slot, part.offset, part.size)
        return At(slot, 0)

    def _put(
        self,
        part: EntryMember,
        value: checked.Expr | checked.Wide | checked.TextConst,
        base: Value | Slot,
        offset: int,
        width: int,
    ) -> None:
        """Store a part of a key or of a value; `width`: the bytes of a number."""
        b = self.b
        if isinstance(value, checked.TextConst | checked.ReadText | checked.Comm):
            assert isinstance(part.type, types.Text)
            put_text(b, value, part.type.limit, base, offset)
        elif isinstance(value, checked.ReadBlock):
            b.copy(base, offset, value)
        else:
            b.store(base, offset, width, b.expr(_scalar(value)))

    def _lookup(self, map: checked.Map, key: At) -> Value:
        return self.b.call("map_lookup_elem", self.b.map(name_of(map)), key)

    def _own(self, map: checked.Map) -> Value:
        """Where a map without a key lies; of what each CPU keeps: this one's part."""
        b = self.b
        if map.kind not in PER_CPU:
            return b.emit("mapval", [], (name_of(map), 0))
        # Programs on other CPUs have this map too: one that never runs twice at once keeps to its CPU here.
        return of_cpu(b, b.options._replace(single=False), name_of(map), stride(map))

    def _lost(self, map: checked.Map) -> None:
        """Count an update that found no room."""
        self._atomic(self.b.emit("mapval", [], (lost_of(map), 0)), 0, 1)

    def _atomic(self, place: Value, offset: int, value: Operand) -> None:
        self.b.do("atomic", [At(place, offset), value])

    def _add(self, map: checked.Map, place: Value, value: Operand) -> None:
        """Add a value to what a map keeps at a place; of a histogram it says where its bucket is."""
        if map.kind in ("min", "max"):
            self._extreme(map, place, value)
        elif map.kind in ("hist", "lhist"):
            self._atomic(self.b.emit("add", [place, value]), 0, 1)
        else:
            self._atomic(place, 0, value)
            if map.kind in ("avg", "stats"):
                self._atomic(place, 8, 1)

    def _extreme(self, map: checked.Map, place: Value, value: Operand) -> None:
        """Keep the value where it is beyond the one that is kept, or the first."""
        b = self.b
        condition = ("s" if types.signed(map.number) else "") + ("lt" if map.kind == "min" else "gt")
        compare, keep, end = b.new_block("compare"), b.new_block("keep"), b.new_block("kept")
        b.branch("eq", b.load(place, 8, 8), 0, keep, compare)
        b.start(compare)
        b.branch(condition, value, b.load(place, 0, 8), keep, end)
        b.start(keep)
        b.store(place, 0, 8, value)
        b.store(place, 8, 8, 1)
        b.jump(end)
        b.start(end)

    def _log2(self, map: checked.Map, value: Operand) -> Operand:
        """The bucket of a number: 0 for negative ones; where a power of two is one bucket 1 for 0, else 2 and
        the number of its highest bit; where it is 2^n, one for each number below that, above it as many for
        each bit.
        """
        emit, bits, signed = self.b.emit, map.bounds[0], types.signed(map.number)
        known = self.b.unit.known
        title = "bucket" if signed and not bits else "bits"
        if title not in known:
            known[title] = highest_bit(title, negative=title == "bucket", span=self.b.span)
        bucket: Operand = emit("invoke", [value], known[title])
        if bits:
            large = emit("cmp", [value, 1 << bits], "ge", 1)
            shift = emit("mul", [emit("sub", [bucket, bits + 2]), large])
            bucket = emit("add", [emit("rsh", [value, shift]), emit("lsh", [shift, bits])])
            bucket = emit("add", [bucket, 1])
            if signed:
                bucket = emit("and", [bucket, emit("xor", [emit("arsh", [value, 63]), -1])])
        return emit("umin", [bucket, words(map) - 1])

    def _linear(self, map: checked.Map, value: Operand) -> Operand:
        """The bucket of a number: 0 below the first one's start, the last one from the last one's end on."""
        emit, last = self.b.emit, words(map) - 1
        low, high, step = map.bounds
        above = emit("cmp", [value, high], "sge" if types.signed(map.number) else "ge", 1)
        beyond = emit("sub", [value, low])
        inside = emit("add", [emit("div", [beyond, step]), 1])
        bucket = emit("within", [inside, beyond, high - low])
        return emit("umin", [emit("or", [bucket, emit("mul", [above, last])]), last])


def highest_bit(title: str, negative: bool, span: Span) -> Function:
    """A function of a number: 1 for 0, else 2 and the number of its highest bit; 0 for `negative` ones.

    The verifier looks at it by itself: in the program it would follow what comes behind for every bucket.
    Each turn asks whether the number has more bits than a half, and shifts it down by that.
    """
    function = Function(title, whole=True)
    b = Builder(1, function)
    b.span = span
    [number] = function.params
    body, head, more, less, next_, over = map(b.new_block, ("body", "head", "more", "less", "next", "over"))
    if negative:
        below, some = b.new_block("below"), b.new_block("some")
        b.branch("slt", number, 0, below, some)
        b.start(below)
        below.end = Exit(0)
        b.start(some)
    b.branch("eq", number, 0, b.done, body)
    b.start(body)
    b.jump(head, [number, 32, 1])
    head.params = [function.value() for _ in range(3)]
    rest, half, sum_ = head.params
    b.start(head)
    high = b.emit("rsh", [rest, half])
    b.branch("eq", high, 0, less, more)
    b.start(less)
    b.jump(next_, [rest, sum_])
    b.start(more)
    b.jump(next_, [high, b.emit("add", [sum_, half])])
    next_.params = [function.value() for _ in range(2)]
    b.start(next_)
    half = b.emit("rsh", [half, 1])
    again = b.new_block("again")
    b.branch("eq", half, 0, over, again)
    b.start(again)
    b.jump(head, [next_.params[0], half, next_.params[1]])
    b.start(over)
    over.end = Exit(b.emit("add", [next_.params[1], 1]))
    b.block = None
    function.blocks.append(b.done)
    return function


NOEXIST = 1
"""Flag of an update: only where the key is not there yet."""


def put_text(
    b: "Lower",
    value: checked.ReadText | checked.Comm | checked.TextConst,
    most: int,
    base: Value | Slot,
    offset: int,
    size: Operand | None = None,
) -> None:
    """Write a text with its NUL, cut at so many bytes. On the stack there are zeros already. `size`: not more
    of it than this number, which is at most `most`; not on the stack.
    """
    if size is not None:
        assert isinstance(base, Value)
        if isinstance(value, checked.ReadText) and not value.fixed:
            length, _ = Record(b, base, offset).text(value, min(most, value.type.limit), size)
            b.store(b.emit("add", [base, length]), offset, 1, 0)
        else:
            put_text(b, value, most, base, offset)
            b.store(b.emit("add", [base, size]), offset, 1, 0)
        return
    if isinstance(value, checked.TextConst):
        text = value.value[:most] + b"\0"
        for at in range(0, len(text), 8):
            number = int.from_bytes(text[at : at + 8].ljust(8, b"\0"), "little", signed=True)
            b.store(base, offset + at, 8, number)
        return
    limit = min(most, value.type.limit)
    if _is_name(value) and limit == NAME_SIZE - 1:
        # Linux 6.1 writes nothing behind the name's NUL, newer kernels zeros (seen on 6.12).
        b.call("get_current_comm", At(base, offset), NAME_SIZE)
        return
    if isinstance(base, Slot) and isinstance(value, checked.ReadText) and 0 < value.fixed <= limit:
        within = value.place.replace(offset=value.place.offset + value.fixed)
        if _in_record(b.site, within):
            place, at = b.place(value.place)  # of the byte more that is asked for the helper makes the NUL
            b.call("probe_read_kernel_str", At(base, offset), value.fixed + 1, b.binary("add", place, at))
            return
    length, _ = Record(b, base, offset).text(value, limit)
    if isinstance(base, Value):
        b.store(b.emit("add", [base, length]), offset, 1, 0)


def _scalar(value: checked.Expr | checked.Wide | checked.TextConst) -> checked.Expr:
    assert not isinstance(value, checked.ReadText | checked.ReadBytes | checked.ReadBlock)
    assert not isinstance(value, checked.Comm | checked.TextConst)
    return value


def _in_record(site: Site, place: checked.Place) -> bool:
    """Whether a place is in a tracepoint's record, and a field is behind it."""
    fields = (param.access for param in site.params)
    starts = (field.offset for field in fields if isinstance(field, (CtxField, DataLoc)))
    inside = isinstance(place.base, checked.Context) and not place.indexes
    return inside and max(starts, default=0) >= place.offset


def _is_name(value: checked.Expr | checked.Wide | checked.TextConst) -> bool:
    """Whether it is the whole name of the current thread."""
    return isinstance(value, checked.Comm) and value.type.limit >= NAME_SIZE - 1
