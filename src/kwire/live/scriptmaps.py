"""The maps of a script while it runs and at its end: shown, emptied, set to 0.

What a script asks of whole maps (`print(@x)`, `clear(@x)`, `zero(@x)`) comes as events and is done when they
are shown, in their order; what probes add between a print and a clear is gone with the clear, as in bpftrace.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from kwire.compile.maps import name_of
from kwire.kernel.maps import Map as KernelMap
from kwire.lang import types as t
from kwire.lang.inferred import Inferred
from kwire.live.contents import Contents
from kwire.live.maps import NUMBER, read
from kwire.live.plan import UnitMap
from kwire.view import scriptmaps
from kwire.view.scriptmaps import Show
from kwire.wire.fields import TIMES


class ScriptMaps:
    """The maps of a running script. `maps`: the kernel's, by their names in images."""

    __slots__ = ("_json", "_known", "_maps")

    def __init__(self, units: Sequence[UnitMap], maps: Mapping[str, KernelMap], *, json: bool) -> None:
        self._known = {one.map.name: one for one in units}
        self._maps = maps
        self._json = json

    def act(self, what: str, format: str) -> str:
        """Do what an event says: what is printed of it. `format`: a map's name, and the limits of a print."""
        title, *numbers = format.split(" ")
        unit = self._known.get(title)
        if unit is None or not isinstance(unit.owner, Inferred):  # nothing was ever put into it
            return ""
        if what == "print":
            top, div = int(numbers[0]) if numbers else 0, int(numbers[1]) if len(numbers) > 1 else 1
            held = read(unit.map, self._maps)
            lines = printed(held, unit.owner, json=self._json, top=top, div=div)
            return "".join(f"{line}\n" for line in lines)
        own = self._maps[name_of(unit.map)]
        empty = bytes(own.spec.value_size)
        if not unit.map.key:
            if what == "zero" and unit.map.kind in ("hash", "lru"):
                before = own.lookup(NUMBER) or empty
                empty = empty[:-8] + before[-8:]
            own.update(NUMBER, empty)
            return ""
        for key in list(own.keys()):
            if what == "zero":
                own.update(key, empty)
            else:
                with suppress(KeyError):
                    own.delete(key)
        return ""


def printed(held: Contents, known: Inferred, *, json: bool, top: int = 0, div: int = 1) -> list[str]:
    """The lines of a map as bpftrace prints it; none where it is empty."""
    entries: dict[tuple[Any, ...], Any] = dict(held.entries)
    if not held.map.key and _nothing(known.shows, entries.get(())):
        return []
    if not entries:
        return []
    key = [_shown(one) for one in held.map.key]
    if json:
        return [scriptmaps.as_json(known.title, known.shows, entries, key)]
    step = known.bounds[2] if known.shows == "lhist" else 0
    return scriptmaps.lines(known.title, known.shows, entries, key, _shown(held.map.value), top, div, step)


def _nothing(shows: str, value: Any) -> bool:
    """Whether a map without keys was never given anything."""
    if value is None:
        return True
    if shows in ("avg", "stats"):
        return not value[0]
    return not value if shows in ("count", "sum", "hist", "lhist") else False


def _shown(type_: t.Part | t.Tuple) -> Show:
    """How values of a type are shown."""
    if isinstance(type_, t.Tuple):
        items = [_shown(one) for one in type_.items]  # type: ignore[arg-type]  # a part or a tuple of such
        labels = [f".{name} = " for name in type_.names] or [""] * len(items)
        before, behind = ("{ ", " }") if type_.names else ("(", ")")

        def together(value: Any) -> str:
            pairs = zip(labels, items, value, strict=True)
            return before + ", ".join(name + show(part) for name, show, part in pairs) + behind

        return together
    if isinstance(type_, t.Array):
        return _array(type_)
    if isinstance(type_, t.Text):
        return str
    if isinstance(type_, t.Bool):
        return lambda value: "true" if value else "false"
    if isinstance(type_, t.Enum):
        names = {number: name for name, number in reversed(type_.values)}
        return lambda value: names.get(value, str(value))
    if isinstance(type_, t.Pointer) and not type_.display:
        return lambda value: hex(value)
    display = type_.display
    if display == "ksym":
        return _symbol
    if display.startswith(TIMES):
        from kwire.live.recorder import clock_pair
        from kwire.view.values import moment

        return moment(display, clock_pair())
    if display == "ipv4":
        from kwire.wire.fields import ipv4_text

        return lambda value: ipv4_text(value.to_bytes(4, "little"))
    return str


def _array(type_: t.Array) -> Show:
    """How an array is shown, of its bytes."""
    from kwire.wire.fields import ipv6_text, mac_text

    if type_.display in ("ipv6", "mac"):
        return ipv6_text if type_.display == "ipv6" else mac_text
    size, signed = t.size_of(type_.element), t.signed(type_.element)

    def numbers(data: Any) -> str:
        cells = (data[at : at + size] for at in range(0, len(data), size))
        return f"[{','.join(str(int.from_bytes(one, 'little', signed=signed)) for one in cells)}]"

    return numbers


def _symbol(address: int) -> str:
    """The name of a kernel address."""
    from kwire.kernel.symbols import kernel_symbols
    from kwire.wire.schema import Labels, Schema

    names = kernel_symbols().by_address()
    named = Labels(Schema(0, "", "", "", (), 16, symbols=names)).symbol(address)
    return named or hex(address)


def all_printed(maps: Sequence[Contents], known: Sequence[Inferred], *, json: bool = False) -> list[str]:
    """The lines of all maps that are left at the end, in the order of their names."""
    by_title = {one.title: one for one in known}
    found: list[str] = []
    for held in sorted(maps, key=lambda one: one.map.name):
        one = by_title.get(held.map.name)
        if one is not None:
            found += printed(held, one, json=json)
    return found
