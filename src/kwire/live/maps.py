"""Maps that probes and Python programs share: `counts = kwire.Count(by=str)`.

    starts = kwire.Hash(key="u32", value="u64")
    latency = kwire.Histogram()

    @kwire.rawtracepoint("sys_enter")
    def enter():
        starts[tid] = nsecs

    @kwire.rawtracepoint("sys_exit")
    def leave():
        if tid in starts:
            latency.add(nsecs - starts[tid])
            del starts[tid]

    with kwire.trace(enter, leave, seconds=10):
        ...
    print(latency)

Invariants: an object is what the map of the trace that was made last holds while that runs, and what it held
at the end afterwards; a new trace begins with it empty, but for what Python has set outside of traces.
Reading takes one number after another: what probes add meanwhile is in it or not, and at the end all is.
"""

from collections.abc import Iterator, Mapping

from kwire.arguments import ArgumentError
from kwire.compile.maps import lost_of, name_of, specs, words
from kwire.errors import KwireError
from kwire.hints import TYPE_CHECKING, Any, NoReturn
from kwire.kernel.maps import Map as KernelMap
from kwire.lang import checked, tree
from kwire.lang.declarations import declare
from kwire.lang.types import U64
from kwire.live import contents
from kwire.live.contents import MASK, Bucket, Contents, Distribution, Raw, Total, Value
from kwire.live.plan import UnitMap
from kwire.wire.stacks import Stacks
from kwire.wire.tables import MapTable
from kwire.words import plural

if TYPE_CHECKING:
    from kwire.live.stacks import StackReader

__all__ = [
    "Average",
    "Bucket",
    "Count",
    "Distribution",
    "Hash",
    "Histogram",
    "LinearHistogram",
    "Max",
    "Min",
    "SharedMap",
    "Stats",
    "Sum",
    "Total",
    "Variable",
]

NUMBER = bytes(4)
"""The key of the one entry of an array."""


def create(wanted: tuple[UnitMap, ...], cpus: int) -> dict[str, KernelMap]:
    """Create the maps of a unit, by their names in images. Raises KwireError, nothing being left open
    then."""
    made: dict[str, KernelMap] = {}
    try:
        for spec in dict.fromkeys(spec for one in wanted for spec in specs(one.map, cpus)):
            made[spec.name] = KernelMap.create(spec)
    except BaseException:
        for one in made.values():
            one.close()
        raise
    return made


def bind(
    wanted: tuple[UnitMap, ...], maps: Mapping[str, KernelMap], stacks: "StackReader | None" = None
) -> None:
    """Let the objects of Python programs be these maps, by their names in images. `stacks`: of the trace."""
    for one in wanted:
        if isinstance(one.owner, SharedMap):
            one.owner.bind(one.map, maps, stacks)


def unbind(wanted: tuple[UnitMap, ...], maps: Mapping[str, KernelMap]) -> None:
    """Let the objects keep what these maps hold, which are about to be closed."""
    for one in wanted:
        if isinstance(one.owner, SharedMap):
            one.owner.unbind(maps)


def raw_of(map: checked.Map, maps: Mapping[str, KernelMap]) -> tuple[Raw, int]:
    """What a map holds, and how many updates found no room. `maps`: by their names in images."""
    found = maps[name_of(map)]
    if not map.key:
        values = contents.split(map, found.lookup(NUMBER) or b"")
        return ({b"": values} if values else {}), 0
    lost = int.from_bytes(maps[lost_of(map)].lookup(NUMBER) or b"", "little")
    if found.spec.kind == "percpu_hash":
        keys = list(found.keys())
        each = ((key, found.lookup_cpus(key)) for key in keys)
        return {key: values for key, values in each if values is not None}, lost
    return {key: [value] for key, value in found.items()}, lost


class SharedMap:
    """A map that probes change and Python reads. See the kinds: `Hash`, `Variable`, `Count`, `Sum`, `Min`,
    `Max`, `Average`, `Stats`, `Histogram`, `LinearHistogram`.

    With keys it is read like a mapping: `m[key]`, `key in m`, `len(m)`, `m.items()`, `dict(m)`; a key of
    several parts is a tuple. Without keys `m.value` is what it holds.
    """

    __slots__ = (
        "_before",
        "_lost",
        "_map",
        "_raw",
        "_reader",
        "_simulated",
        "_stacks",
        "_taken",
        "declaration",
    )

    def __init__(self, *given: Any, **named: Any) -> None:
        name = type(self).__name__
        try:
            self.declaration: tree.MapDeclaration = declare(name, given, named, name.lower(), self)
        except ValueError as error:
            raise ArgumentError("make map", name, str(error)) from None
        self._stacks: StackReader | None = None
        self._map: checked.Map | None = None  # as the last trace knew it
        self._reader: Mapping[str, KernelMap] | None = None
        self._raw: Raw = {}
        self._lost = 0
        self._simulated = False
        self._taken: dict[bytes, list[int]] = {}  # what `take` has given away already
        self._before: dict[object, object] = {}  # what Python has set before the trace

    # -- the trace's side

    def bind(
        self, map: checked.Map, maps: Mapping[str, KernelMap], stacks: "StackReader | None" = None
    ) -> None:
        """Be the map of a trace from now on, with what Python has set before."""
        self._stacks = stacks
        self._map, self._reader, self._raw, self._lost, self._taken = map, maps, {}, 0, {}
        self._simulated = False
        for key, value in self._before.items():
            self._store(key, value)

    def unbind(self, maps: Mapping[str, KernelMap]) -> None:
        """Keep what the map holds: its trace is over. Nothing to do where another one has it by now."""
        if self._reader is maps and self._map is not None:
            self._raw, self._lost = raw_of(self._map, maps)
            if self._stacks is not None:
                self._stacks.look()
            self._reader = None

    def preset(self, map: checked.Map) -> Raw:
        """What a simulated run begins with: what the last one has left, and what Python has set."""
        if not self._simulated:
            self._raw, self._lost, self._taken = {}, 0, {}
        self._map, self._simulated = map, True
        for key, value in self._before.items():
            self._raw[contents.bytes_of(map, _parts(key, map))] = [_stored(map, value)]
        return self._raw

    def keep(self, raw: Raw, lost: int) -> None:
        """What a simulated run has left."""
        self._raw, self._lost = raw, self._lost + lost

    # -- Python's side

    @property
    def lost(self) -> int:
        """How many updates of probes found no room: the map had as many keys as it may."""
        return self._snapshot().lost

    @property
    def value(self) -> Any:
        """What a map without keys holds."""
        if self.declaration.key:
            self._refuse("it has keys", "use m[key], or m.items()")
        return self._snapshot().entries.get((), self._nothing())

    @value.setter
    def value(self, value: Any) -> None:
        if self.declaration.key:
            self._refuse("it has keys", "write m[key] = value")
        self[()] = value

    def items(self) -> list[tuple[Any, Any]]:
        """Keys and values, the greatest values first where they have an order."""
        entries = self._snapshot().entries
        return [(key[0] if len(key) == 1 else key, value) for key, value in contents.in_order(entries)]

    def take(self) -> Any:
        """What was added since the last time, or since the beginning: values by key, or of a map without keys
        the value. Nothing that probes add meanwhile is in two of these, or in none.

        The keys stay in the map, so its size bounds those of the whole trace; what was added to a key before
        it was deleted is lost. What is set, and the smallest and greatest numbers, cannot be taken.
        """
        if self.declaration.kind in ("hash", "lru", "min", "max"):
            self._refuse("only what is added up can be taken", "use a Count, a Sum, a Histogram …")
        map, before = self._map, self._taken
        if map is None:
            return {} if self.declaration.key else self._nothing()
        now = {key: contents.together(map, values) for key, values in self._now()[0].items()}
        self._taken = now
        zeros = [0] * words(map)
        growing = {"sum": (), "avg": (1,), "stats": (1,)}.get(map.kind, range(words(map)))
        more: dict[contents.Key, Value] = {}
        for key, numbers in now.items():
            old = before.get(key, zeros)
            if any(numbers[at] < old[at] for at in growing):
                old = zeros  # it was deleted, and is another one
            added = [one - two & MASK for one, two in zip(numbers, old, strict=True)]
            if any(added):
                more[contents.key_of(map, key, self._known())] = contents.meaning(map, added)
        if not map.key:
            return more.get((), self._nothing())
        return {key[0] if len(key) == 1 else key: value for key, value in contents.in_order(more)}

    def keys(self) -> list[Any]:
        """The keys, in the order of `items`."""
        return [key for key, _ in self.items()]

    def values(self) -> list[Any]:
        """The values, in the order of `items`."""
        return [value for _, value in self.items()]

    def get(self, key: Any, default: Any = None) -> Any:
        """The value at a key; the default where there is none."""
        try:
            return self[key]
        except KeyError:
            return default

    def __getitem__(self, key: Any) -> Any:
        entries = self._snapshot().entries
        parts = key if isinstance(key, tuple) else (key,)
        if parts not in entries:
            raise KeyError(key)
        return entries[parts]

    def __setitem__(self, key: Any, value: Any) -> None:
        if self.declaration.kind not in ("hash", "lru"):
            self._refuse("probes add to it, nobody sets it", "use a Hash or a Variable")
        if self._reader is None:
            self._before[key] = value
        else:
            self._store(key, value)

    def __delitem__(self, key: Any) -> None:
        if self.declaration.kind not in ("hash", "lru") and self._reader is None:
            self._refuse("keys are deleted while a trace runs", "use it in the with of a trace")
        if self._reader is None or self._map is None:
            del self._before[key]  # what Python has set for the traces to come
            return
        if not self._map.key:
            self._refuse("it has no keys", "write m.value = 0")
        parts = key if isinstance(key, tuple) else (key,)
        try:
            self._reader[name_of(self._map)].delete(contents.bytes_of(self._map, parts))
        except KeyError:
            raise KeyError(key) from None

    def __contains__(self, key: object) -> bool:
        return (key if isinstance(key, tuple) else (key,)) in self._snapshot().entries

    def __iter__(self) -> Iterator[Any]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self._snapshot().entries)

    def __bool__(self) -> bool:
        return True

    def add(self, *_: Any) -> NoReturn:
        """Refuse: in a probe it adds a value, Python only reads."""
        self._refuse("add is for probes", "call it in a probe")

    def __repr__(self) -> str:
        name = type(self).__name__
        if not self.declaration.key:
            return f"<kwire {name}: {self.value!r}>"
        return f"<kwire {name} of {plural(len(self), 'key')}>"

    def __str__(self) -> str:
        from kwire.compile.layout import map_schema
        from kwire.view.maps import described, lines

        map = self._map or NEVER
        rows = tuple(contents.rows_of(map, self._now()[0]))
        schema = map_schema(map, map.kind, id=1, prints="", machine="")._replace(stacks=self._known())
        return "\n".join(lines(described(schema, MapTable(1, 0, rows))))

    def _snapshot(self) -> Contents:
        if self._map is None:
            return Contents(NEVER, {}, 0)
        return contents.contents(self._map, *self._now(), self._known())

    def _known(self) -> Stacks | None:
        """The stacks that values may be the numbers of, those that the map has by now among them."""
        if self._stacks is None:
            return None
        if self._reader is not None:
            self._stacks.look()
        return self._stacks.known

    def _now(self) -> tuple[Raw, int]:
        """What the map holds, and how many updates found no room."""
        if self._reader is None or self._map is None:
            return self._raw, self._lost
        return raw_of(self._map, self._reader)

    def _nothing(self) -> Value:
        """What it holds before there is anything."""
        return NOTHING.get(self.declaration.kind, 0)

    def _store(self, key: object, value: object) -> None:
        assert self._map is not None
        assert self._reader is not None
        data = contents.bytes_of(self._map, _parts(key, self._map)) if self._map.key else NUMBER
        self._reader[name_of(self._map)].update(data, _stored(self._map, value))

    def _refuse(self, cause: str, cure: str) -> NoReturn:
        raise KwireError("use map", type(self).__name__, cause, cure)


def _parts(key: object, map: checked.Map) -> tuple[object, ...]:
    if not map.key:
        return ()
    return key if isinstance(key, tuple) else (key,)


def _stored(map: checked.Map, value: object) -> bytes:
    """A value as the map has it; of a map without keys that it is set, too."""
    word = contents.word_of(map, value)
    return word if map.key else word + (1).to_bytes(8, "little")


NEVER = checked.Map("", "hash", (), U64, 1)
"""Stands for the map of an object that no trace has had."""

NOTHING: Mapping[str, Value] = {
    "min": None,
    "max": None,
    "avg": 0.0,
    "stats": Total(0, 0),
    "hist": Distribution(),
    "lhist": Distribution(),
}
"""What a map of a kind holds where nothing was added; of the others: 0."""


class Hash(SharedMap):
    """Values by key, set by probes and by Python: `Hash(key="u32", value="u64", size=10240, lru=False)`.

    `key`, `value`: C types as text, or Python's int, bool, str (a text of at most 63 bytes; "char[16]" one of
    15); several keys are a tuple. With `lru` it forgets what was not used for long, where it is full.
    """

    __slots__ = ()


class Variable(SharedMap):
    """One value, set by probes and by Python: `Variable("u64")`; in both it is `.value`."""

    __slots__ = ()


class Count(SharedMap):
    """How many there were, by key: `Count(by=str)`, in a probe `counts.add(comm)`; or altogether:
    `Count()`."""

    __slots__ = ()


class Sum(SharedMap):
    """The sum of numbers, by key or altogether: `Sum(by="u32")`, in a probe `sums[pid].add(n)`."""

    __slots__ = ()


class Min(SharedMap):
    """The smallest number, by key or altogether."""

    __slots__ = ()


class Max(SharedMap):
    """The greatest number, by key or altogether."""

    __slots__ = ()


class Average(SharedMap):
    """The average of numbers, by key or altogether."""

    __slots__ = ()


class Stats(SharedMap):
    """How many numbers there were, their sum and average (`Total`), by key or altogether."""

    __slots__ = ()


class Histogram(SharedMap):
    """How many numbers fell between which powers of two (`Bucket`s), by key or altogether."""

    __slots__ = ()


class LinearHistogram(SharedMap):
    """How many numbers fell into each of equal `Bucket`s: `LinearHistogram(low, high, step)`."""

    __slots__ = ()
