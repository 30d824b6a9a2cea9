"""Maps as Python programs declare them: `starts = kwire.Hash(key="u32", value="u64")`.

One table of the names, their arguments and what each makes, for the objects of a running program and for
files that are read and never run. Invariant: what is wrong in a declaration is a ValueError in words.
"""

from collections.abc import Mapping, Sequence

from kwire.hints import Any, Final
from kwire.lang.tree import MapDeclaration
from kwire.lazy import NamedTuple

PYTHON_TYPES: Final = {"int": "s64", "bool": "bool", "str": "char[64]"}
"""C types for the names of Python's; a text has at most 63 bytes there."""

SIZE: Final = 10240
"""Keys of a map at most, when nobody says how many."""

HISTOGRAMS: Final = 1024
"""The same for histograms: each has 66 numbers on each CPU."""

SIZE_MOST: Final = 1 << 24
BUCKETS_MOST: Final = 1000
"""Of a linear histogram."""


class Maker(NamedTuple):
    """One kind of declaration: the kind of map it makes, and its arguments in their order with their defaults
    (`...`: it must be given).
    """

    kind: str
    arguments: Mapping[str, Any]


_AGGREGATE = {"by": (), "of": "s64", "size": SIZE}
MAKERS: Final[dict[str, Maker]] = {
    "Hash": Maker("hash", {"key": ..., "value": "u64", "size": SIZE, "lru": False}),
    "Variable": Maker("hash", {"type": "u64"}),
    "Count": Maker("count", {"by": (), "size": SIZE}),
    "Sum": Maker("sum", _AGGREGATE),
    "Min": Maker("min", _AGGREGATE),
    "Max": Maker("max", _AGGREGATE),
    "Average": Maker("avg", _AGGREGATE),
    "Stats": Maker("stats", _AGGREGATE),
    "Histogram": Maker("hist", {**_AGGREGATE, "size": HISTOGRAMS}),
    "LinearHistogram": Maker(
        "lhist", {"low": ..., "high": ..., "step": ..., **_AGGREGATE, "size": HISTOGRAMS}
    ),
}
"""The public names and what they make. `by`, `key`: the type of the keys, several for keys of several parts;
`of`, `value`, `type`: that of the values, of a Hash or Variable perhaps several, for tuples; `size`: how many
keys at most.
"""


def declare(
    name: str, given: Sequence[object], named: Mapping[str, object], title: str, owner: object
) -> MapDeclaration:
    """The map that a call of a maker declares. Types are C types as text, or Python's int, bool and str.

    Raises ValueError.
    """
    maker = MAKERS[name]
    order = list(maker.arguments)
    if len(given) > len(order):
        raise ValueError(f"{name} takes at most {len(order)} arguments: {', '.join(order)}")
    values = dict(maker.arguments)
    for argument, value in [*zip(order, given, strict=False), *named.items()]:
        if argument not in values:
            raise ValueError(f"{name} has no argument {argument}; it has {', '.join(order)}")
        values[argument] = value
    missing = [argument for argument, value in values.items() if value is ...]
    if missing:
        raise ValueError(f"{name} needs {missing[0]}=…")
    kind = "lru" if values.get("lru") else maker.kind
    key = _types(values.get("key", values.get("by", ())))
    if name == "Hash" and not key:
        raise ValueError("Hash needs the type of its keys; Variable has none")
    value = _types(values.get("value", values.get("of", values.get("type", "u64"))))
    if len(value) != 1 and kind not in ("hash", "lru"):
        raise ValueError(f"the values of {name} have one type")
    if not value:
        raise ValueError(f"the values of {name} have no type")
    size = _number(values.get("size", 1), "size")
    if not 0 < size <= SIZE_MOST:
        raise ValueError(f"size={size}: choose from 1 to {SIZE_MOST}")
    bounds = (0, 0, 0)
    if kind == "lhist":
        low, high, step = (_number(values[one], one) for one in ("low", "high", "step"))
        bounds = low, high, step
        if not (low < high and step > 0):
            raise ValueError(f"{low} to {high} by {step} makes no buckets")
        if (high - low) // step > BUCKETS_MOST:
            raise ValueError(f"{low} to {high} by {step} makes more than {BUCKETS_MOST} buckets")
        if low < -(1 << 31) or high >= 1 << 31:
            raise ValueError("bounds of a linear histogram have 32 bits")
    return MapDeclaration(title, kind, key, value, size, bounds, owner)


def arguments(made: MapDeclaration) -> tuple[str, dict[str, object]]:
    """The name and the arguments of the call that makes a map like this one."""
    if made.kind in ("hash", "lru") and not made.key:
        return "Variable", {"type": list(made.value)}
    if made.kind in ("hash", "lru"):
        lru = made.kind == "lru"
        return "Hash", {"key": list(made.key), "value": list(made.value), "size": made.size, "lru": lru}
    name = next(name for name, maker in MAKERS.items() if maker.kind == made.kind)
    low, high, step = made.bounds
    known = {"by": list(made.key), "of": list(made.value), "size": made.size}
    known |= {"low": low, "high": high, "step": step}
    return name, {argument: known[argument] for argument in MAKERS[name].arguments}


def _number(value: object, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{name}={value!r}: it is no integer")
    return value


def _types(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, type) and value.__name__ in PYTHON_TYPES:
        return (PYTHON_TYPES[value.__name__],)
    if isinstance(value, tuple | list):
        return tuple(one for part in value for one in _types(part))
    raise ValueError(f'{value!r} is no type; give a C type as text ("u32", "char[16]"), int, bool or str')
