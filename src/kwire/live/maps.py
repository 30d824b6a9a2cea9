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

Invariants: while a trace runs an object shows what the map of that trace holds, and afterwards what it held
at the end; of several traces the one that was made last counts; a new trace begins with it empty, but for
what Python has set outside of traces. Reading takes one number after another: what probes add meanwhile is in
it or not, and at the end all is.
"""

from collections.abc import Mapping

from kwire.arguments import ArgumentError
from kwire.compile.maps import name_of, specs
from kwire.hints import TYPE_CHECKING, Any
from kwire.kernel.maps import Map as KernelMap
from kwire.lang import checked, tree
from kwire.lang.declarations import declare
from kwire.live import contents
from kwire.live.contents import Bucket, Distribution, Raw, Total
from kwire.live.mapview import NUMBER, MapView
from kwire.live.plan import UnitMap

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
        if isinstance(one.owner, MapView):
            one.owner.bind(one.map, maps, stacks)


def unbind(wanted: tuple[UnitMap, ...], maps: Mapping[str, KernelMap]) -> None:
    """Let the objects keep what these maps hold, which are about to be closed."""
    for one in wanted:
        if isinstance(one.owner, MapView):
            one.owner.unbind(maps)


class SharedMap(MapView):
    """A map that probes change and Python reads. See the kinds: `Hash`, `Variable`, `Count`, `Sum`, `Min`,
    `Max`, `Average`, `Stats`, `Histogram`, `LinearHistogram`.

    With keys it is read like a mapping: `m[key]`, `key in m`, `len(m)`, `m.items()`, `dict(m)`; a key of
    several parts is a tuple. Without keys `m.value` is what it holds.
    """

    __slots__ = ("_before", "_simulated", "_types", "declaration")

    def __init__(self, /, *given: Any, **named: Any) -> None:
        super().__init__()
        name = type(self).__name__
        try:
            self.declaration: tree.MapDeclaration = declare(name, given, named, name.lower(), self)
        except ValueError as error:
            raise ArgumentError("make map", name, str(error)) from None
        self._simulated = False
        self._types: checked.Map | None = None
        self._before: dict[object, object] = {}  # what Python has set before the trace

    @property
    def kind(self) -> str:
        """Its kind: hash, lru, count, sum, min, max, avg, stats, hist or lhist."""
        return self.declaration.kind

    @property
    def keyed(self) -> bool:
        """Whether it has keys."""
        return bool(self.declaration.key)

    # -- the trace's side

    def bind(
        self, map: checked.Map, maps: Mapping[str, KernelMap], stacks: "StackReader | None" = None
    ) -> None:
        """Be the map of a trace from now on, with what Python has set before."""
        super().bind(map, maps, stacks)
        self._simulated = False
        for key, value in self._before.items():
            self._store(key, value)

    def preset(self, map: checked.Map) -> Raw:
        """What a simulated run begins with: what the last one has left, and what Python has set."""
        if not self._simulated:
            self._raw, self._lost, self._taken, self._told = {}, 0, {}, None
            self._map, self._simulated = map, True
            for key, value in self._before.items():
                self._raw[contents.bytes_of(map, _parts(key, map))] = [_stored(map, value)]
        self._map = map
        return self._raw

    def keep(self, raw: Raw, lost: int) -> None:
        """What a simulated run has left."""
        self._raw, self._lost = raw, self._lost + lost

    def set_before(self) -> list[tuple[tuple[object, ...], object]]:
        """What Python has set for the traces to come: the parts of each key, and the value."""
        keyed = bool(self.declaration.key)
        return [(_key(key) if keyed else (), value) for key, value in self._before.items()]

    def forget(self) -> None:
        """Let the next simulated run begin with what Python has set, and nothing else."""
        self._simulated, self._raw, self._lost, self._taken = False, {}, 0, {}

    def replace_before(self, contents: Mapping[Any, Any]) -> dict[object, object]:
        """Let these be what Python has set for the traces to come; what was before."""
        before, self._before = self._before, {}
        try:
            for key, value in contents.items():
                self[key] = value
        except BaseException:
            self._before = before
            raise
        return before

    # -- Python's side

    @property
    def value(self) -> Any:
        """What a map without keys holds."""
        return super().value

    @value.setter
    def value(self, value: Any) -> None:
        if self.declaration.key:
            self._refuse("it has keys", "write m[key] = value")
        self[()] = value

    def __setitem__(self, key: Any, value: Any) -> None:
        if self.declaration.kind not in ("hash", "lru"):
            self._refuse("probes add to it, nobody sets it", "use a Hash or a Variable")
        if self._reader is None:
            map = self._checked()
            contents.bytes_of(map, _parts(key, map))
            contents.word_of(map, value)
            self._before[key] = value
            if self._simulated:
                self._raw[contents.bytes_of(map, _parts(key, map))] = [_stored(map, value)]
        else:
            self._store(key, value)

    def __delitem__(self, key: Any) -> None:
        if self.declaration.kind not in ("hash", "lru") and self._reader is None:
            self._refuse("keys are deleted while a trace runs", "use it in the with of a trace")
        if not self.declaration.key:
            self._refuse("it has no keys", "write m.value = 0")
        if self._reader is None or self._map is None:
            map = self._checked()
            data = contents.bytes_of(map, _parts(key, map))
            there = self._simulated and self._raw.pop(data, None) is not None
            if self._before.pop(key, _NONE) is _NONE and not there:  # set for the traces to come
                raise KeyError(key)
            return
        try:
            self._reader[name_of(self._map)].delete(contents.bytes_of(self._map, _key(key)))
        except KeyError:
            raise KeyError(key) from None

    def add(self, *_: Any) -> None:
        """Add a value: in a probe. Python only reads; it gets an error."""
        self._refuse("add is for probes", "call it in a probe")

    def _checked(self) -> checked.Map:
        """The map with its types, as the running kernel has them. Raises KwireError for what is no type."""
        if self._types is None:
            from kwire.live.maptypes import checked_map

            self._types = checked_map(self.declaration)
        return self._types

    def _store(self, key: object, value: object) -> None:
        assert self._map is not None
        assert self._reader is not None
        data = contents.bytes_of(self._map, _parts(key, self._map)) if self._map.key else NUMBER
        self._reader[name_of(self._map)].update(data, _stored(self._map, value))


_NONE = object()


def _key(key: object) -> tuple[object, ...]:
    return key if isinstance(key, tuple) else (key,)


def _parts(key: object, map: checked.Map) -> tuple[object, ...]:
    return _key(key) if map.key else ()


def _stored(map: checked.Map, value: object) -> bytes:
    """A value as the map has it; of a map without keys that it is set, too."""
    word = contents.word_of(map, value)
    return word if map.key else word + (1).to_bytes(8, "little")


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
