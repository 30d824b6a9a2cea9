"""Maps of probe functions that travel: what is said of each, and the map that is made of it.

A map is declared again where its probes run, by the name and the arguments of the call that declared it, and
begins with what Python has set. Invariants: nothing that came is trusted: its arguments are checked as those
of a program here are, and its keys and values by their types; maps of one title are one map, which several
functions may use; `Titles` gives each map of a trace a title of its own.
"""

from __future__ import annotations

from collections.abc import Mapping

from kwire.errors import KwireError
from kwire.hints import Any, Final
from kwire.lang.declarations import MAKERS, arguments
from kwire.lang.python import Written as Written
from kwire.lang.tree import MapDeclaration
from kwire.live import maps
from kwire.live.maps import SharedMap

MAPS: Final[Mapping[str, type[SharedMap]]] = {name: getattr(maps, name) for name in MAKERS}


class Titles:
    """The maps of the functions of one request, by titles of their own."""

    __slots__ = ("_owners",)

    def __init__(self) -> None:
        self._owners: dict[str, object] = {}

    @property
    def shared(self) -> dict[str, SharedMap]:
        """The objects of this program among them."""
        return {title: one for title, one in self._owners.items() if isinstance(one, SharedMap)}

    def said(self, made: MapDeclaration) -> dict[str, Any]:
        """What travels of a map."""
        title, number = made.title, 1
        while self._owners.setdefault(title, made.owner) != made.owner:
            number += 1
            title = f"{made.title}_{number}"
        kind, given = arguments(made)
        said: dict[str, Any] = {"title": title, "kind": kind, "arguments": given}
        before = self.shared[title].set_before() if title in self.shared else []
        return {**said, "set": before} if before else said


class ReceivedMaps:
    """The maps of a request that came, each made once."""

    __slots__ = ("_maps",)

    def __init__(self) -> None:
        self._maps: dict[str, tuple[dict[str, Any], SharedMap]] = {}

    def map(self, said: Mapping[str, Any]) -> MapDeclaration:
        """The map that was said, its parts being of the right types. Raises KwireError where it is none."""
        title = said["title"]
        told, one = self._maps.get(title, (None, None))
        if one is None:
            if said["kind"] not in MAPS:
                raise KwireError("make map", title, "there is no such kind", f"known: {', '.join(MAPS)}")
            one = MAPS[said["kind"]](**said["arguments"])
            for key, value in said.get("set", ()):
                one[_tuples(key)] = _tuples(value)
            self._maps[title] = dict(said), one
        elif told != said:
            raise KwireError("make map", title, "it is said in two ways")
        return one.declaration.replace(title=title)


def _tuples(value: Any) -> Any:
    """Lists as the tuples that they were."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
