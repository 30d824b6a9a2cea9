"""A map as a Python program reads it: values by key, columns, data frames, text and pictures.

Invariants: while a trace runs an object shows what the map of that trace holds, and afterwards what it held
at the end; of several traces the one that was made last counts. Reading takes one number after another: what
probes add meanwhile is in it or not, and at the end all is. Of a trace on another machine the map is told
when that has ended, and has nothing before.
"""

from collections.abc import Iterator, Mapping

from kwire.compile.maps import lost_of, name_of, words
from kwire.errors import KwireError
from kwire.hints import TYPE_CHECKING, Any, NoReturn
from kwire.kernel.maps import Map as KernelMap
from kwire.lang import checked
from kwire.lang.types import U64
from kwire.live import contents
from kwire.live.contents import MASK, Contents, Distribution, Raw, Total, Value
from kwire.wire.schema import Schema
from kwire.wire.stacks import Stacks
from kwire.wire.tables import MapTable
from kwire.words import plural

if TYPE_CHECKING:
    from kwire.live.stacks import StackReader

NUMBER = bytes(4)
"""The key of the one entry of an array."""

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


def raw_of(map: checked.Map, maps: Mapping[str, KernelMap]) -> tuple[Raw, int]:
    """What a map holds, and how many updates found no room. `maps`: by their names in images."""
    found = maps[name_of(map)]
    if not map.key:
        values = contents.split(map, found.lookup(NUMBER) or b"")
        return ({b"": values} if values else {}), 0
    lost = int.from_bytes(maps[lost_of(map)].lookup(NUMBER) or b"", "little")
    each = ((key, _values(found, key)) for key in list(found.keys()))
    return {key: values for key, values in each if values is not None}, lost


def take(map: checked.Map, maps: Mapping[str, KernelMap]) -> tuple[Raw, int]:
    """`raw_of`, and the map is empty then: what is added meanwhile stays in it. Of a map without keys, whose
    memory cannot be taken away, as much as is added between two system calls is lost.
    """
    found = maps[name_of(map)]
    if not map.key:
        raw = raw_of(map, maps)
        found.update(NUMBER, bytes(found.spec.value_size))
        return raw
    lost = int.from_bytes(maps[lost_of(map)].lookup(NUMBER) or b"", "little")
    each = ((key, found.take(key)) for key in list(found.keys()))
    several = _by_cpu(found)
    taken = {key: found.by_cpu(value) if several else [value] for key, value in each if value is not None}
    return taken, lost


def slowly(map: checked.Map, maps: Mapping[str, KernelMap]) -> Iterator[Raw]:
    """What a map holds, one key at a time, for who has others to serve in between. What probes add meanwhile
    is in it or not.
    """
    if not map.key:
        yield raw_of(map, maps)[0]
        return
    found, seen = maps[name_of(map)], set[bytes]()
    for turn, key in enumerate(found.keys()):
        if turn > 2 * map.size:  # keys are deleted as fast as they are read: it would begin again for ever
            return
        values = _values(found, key) if key not in seen else None
        seen.add(key)
        yield {key: values} if values is not None else {}


def _values(found: KernelMap, key: bytes) -> list[bytes] | None:
    """The values of a key: one, or one for each CPU; None where it has been deleted."""
    if _by_cpu(found):
        return found.lookup_cpus(key)
    value = found.lookup(key)
    return None if value is None else [value]


def _by_cpu(found: KernelMap) -> bool:
    return found.spec.kind in ("percpu_hash", "lru_percpu_hash")


class MapView:
    """A map to be read. With keys it is like a mapping: `m[key]`, `key in m`, `len(m)`, `m.items()`,
    `dict(m)`; a key of several parts is a tuple. Without keys `m.value` is what it holds.
    """

    __slots__ = ("_lost", "_map", "_raw", "_reader", "_stacks", "_taken", "_told")

    def __init__(self) -> None:
        self._map: checked.Map | None = None  # as the last trace knew it
        self._stacks: StackReader | None = None
        self._reader: Mapping[str, KernelMap] | None = None
        self._raw: Raw = {}
        self._lost = 0
        self._taken: dict[bytes, list[int]] = {}  # what `take` has given away already
        self._told: tuple[Schema, MapTable] | None = None

    # -- the trace's side

    def bind(
        self, map: checked.Map, maps: Mapping[str, KernelMap], stacks: "StackReader | None" = None
    ) -> None:
        """Be the map of a trace from now on."""
        self._stacks = stacks
        self._map, self._reader, self._raw, self._lost, self._taken = map, maps, {}, 0, {}
        self._told = None

    def unbind(self, maps: Mapping[str, KernelMap]) -> None:
        """Keep what the map holds: its trace is over. Nothing to do where another one has it by now."""
        if self._reader is maps and self._map is not None:
            self._raw, self._lost = raw_of(self._map, maps)
            if self._stacks is not None:
                self._stacks.look()
            self._reader = None

    def tell(self, told: tuple[Schema, MapTable] | None) -> None:
        """Be what was told of a map that is elsewhere; None: nothing was yet."""
        self._map = self._reader = self._stacks = None
        self._raw, self._lost, self._taken, self._told = {}, 0, {}, told

    # -- what kind it is

    @property
    def kind(self) -> str:
        """Its kind: hash, lru, count, sum, min, max, avg, stats, hist or lhist."""
        if self._told is not None and self._told[0].map is not None:
            return self._told[0].map.kind
        return (self._map or NEVER).kind

    @property
    def name(self) -> str:
        """What it is called."""
        return self._told[0].target if self._told is not None else (self._map or NEVER).name

    @property
    def keyed(self) -> bool:
        """Whether it has keys."""
        if self._told is not None and self._told[0].map is not None:
            return self._told[0].map.keys > 0
        return bool((self._map or NEVER).key)

    # -- Python's side

    @property
    def lost(self) -> int:
        """How many updates of probes found no room: the map had as many keys as it may."""
        return self._snapshot().lost

    @property
    def value(self) -> Any:
        """What a map without keys holds."""
        if self.keyed:
            self._refuse("it has keys", "use m[key], or m.items()")
        return self._snapshot().entries.get((), self._nothing())

    def items(self) -> list[tuple[Any, Any]]:
        """Keys and values, the greatest values first where they have an order."""
        entries = self._snapshot().entries
        return [(key[0] if len(key) == 1 else key, value) for key, value in contents.in_order(entries)]

    def take(self) -> Any:
        """What was added since the last time, or since the beginning: values by key, or of a map without keys
        the value. Whatever probes add meanwhile is in exactly one of these.

        The keys stay in the map, so its size bounds those of the whole trace; what was added to a key before
        it was deleted is lost. What is set, and the smallest and greatest numbers, cannot be taken.
        """
        if self.kind in ("hash", "lru", "min", "max"):
            self._refuse("only what is added up can be taken", "use a Count, a Sum, a Histogram …")
        map, before = self._map, self._taken
        if map is None:
            return {} if self.keyed else self._nothing()
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
                more[contents.meant_key(map, key, self._known())] = contents.meaning(map, added)
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

    def __contains__(self, key: object) -> bool:
        return (key if isinstance(key, tuple) else (key,)) in self._snapshot().entries

    def __iter__(self) -> Iterator[Any]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self._snapshot().entries)

    def __bool__(self) -> bool:
        return True

    def columns(self) -> dict[str, Any]:
        """One numpy array a part of the key (`key`, or `key1`, …) and of the value: `value`; of histograms
        `low`, `high` and `count` of each bucket; of averages `count`, `total` and `average`.
        """
        from kwire.live.frames import columns_of

        return columns_of(*self._table())

    def pandas(self) -> Any:
        """The columns as a pandas DataFrame."""
        from kwire.live.frames import data_frame

        return data_frame("pandas", self.columns())

    def polars(self) -> Any:
        """The columns as a polars DataFrame."""
        from kwire.live.frames import data_frame

        return data_frame("polars", self.columns())

    def __repr__(self) -> str:
        name = type(self).__name__
        if not self.keyed:
            return f"<kwire {name}: {self.value!r}>"
        return f"<kwire {name} of {plural(len(self), 'key')}>"

    def __str__(self) -> str:
        from kwire.view.maps import described, lines

        return "\n".join(lines(described(*self._table())))

    def _repr_html_(self) -> str:
        """The map in a notebook: a table, or a picture of each histogram."""
        from kwire.view.html import map_shown
        from kwire.view.maps import described

        return map_shown(described(*self._table()))

    # -- within

    def _table(self) -> tuple[Schema, MapTable]:
        """What it holds as the rows of a table."""
        if self._told is not None:
            return self._told
        from kwire.compile.layout import map_schema

        map = self._map or NEVER
        raw, lost = self._now()
        schema = map_schema(map, map.kind, id=1, prints="", machine="")._replace(stacks=self._known())
        return schema, MapTable(1, 0, tuple(contents.rows_of(map, raw)), lost=lost)

    def _snapshot(self) -> Contents:
        if self._told is not None:
            return contents.told(*self._told)
        if self._map is None:
            return Contents({}, 0)
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
        return NOTHING.get(self.kind, 0)

    def _refuse(self, cause: str, cure: str) -> NoReturn:
        raise KwireError("use map", self.name or type(self).__name__, cause, cure)
