"""The maps of a script as objects of a Python program."""

from collections.abc import Mapping

from kwire.compile.layout import map_schema
from kwire.hints import TYPE_CHECKING
from kwire.kernel.maps import Map as KernelMap
from kwire.lang import checked
from kwire.lang.inferred import Inferred
from kwire.live import contents
from kwire.live.mapview import MapView
from kwire.live.plan import UnitMap
from kwire.wire.schema import Schema
from kwire.wire.tables import MapTable

if TYPE_CHECKING:
    from kwire.live.stacks import StackReader


class ScriptMap(MapView):
    """A map of a script, to be read; as text it is printed as scripts print it."""

    __slots__ = ("_shows",)

    def __init__(self, unit: UnitMap) -> None:
        super().__init__()
        owner = unit.owner
        self._shows = owner.shows if isinstance(owner, Inferred) else unit.map.kind
        self._map = self._known_as(unit.map)

    def begin(
        self, unit: UnitMap, maps: Mapping[str, KernelMap], stacks: "StackReader | None" = None
    ) -> None:
        """Be the map of a trace from now on."""
        self.bind(self._known_as(unit.map), maps, stacks)

    def _known_as(self, map: checked.Map) -> checked.Map:
        """The map as people know it: an average keeps what stats keep."""
        return map.replace(kind="avg") if self._shows == "avg" else map

    def __str__(self) -> str:
        from kwire.view.printed import Printed

        return Printed(terminal=False).table(0, *self._table()).rstrip("\n")

    def _table(self) -> tuple[Schema, MapTable]:
        assert self._map is not None  # a script's map is known as it is made
        raw, lost = self._now()
        schema = map_schema(self._map, self._shows, id=1, prints="map", machine="")
        schema = schema._replace(stacks=self._known())
        return schema, MapTable(1, 0, tuple(contents.rows_of(self._map, raw)), lost=lost)
