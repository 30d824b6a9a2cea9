"""Maps: those of a script, whose kinds follow from what is assigned to them, and their elements."""

from collections.abc import Mapping, Sequence
from contextlib import suppress

from kwire.hints import TYPE_CHECKING, Final
from kwire.lang import tree
from kwire.lang.bpftrace import syntax as s
from kwire.lang.bpftrace.calls import known
from kwire.lang.bpftrace.constants import kept, number
from kwire.lang.declarations import SIZE_MOST
from kwire.lang.errors import Diagnostic, TextError, did_you_mean
from kwire.lang.forms import Node, rewrite, walk
from kwire.lang.inferred import Inferred

if TYPE_CHECKING:
    from kwire.lang.bpftrace.lower import Lowering

AGGREGATES: Final = {
    "count": "count",
    "sum": "sum",
    "min": "min",
    "max": "max",
    "avg": "stats",
    "stats": "stats",
    "hist": "hist",
    "lhist": "lhist",
    "tseries": "",
}
"""The functions that are assigned to maps → the kinds of maps."""


HIST_BITS_MOST: Final = 5
"""Of a number behind its highest bit, that tell its bucket in a histogram of powers of two."""

SERIES: Final = {"": "lru", "avg": "avg", "sum": "sum", "min": "min", "max": "max", "count": "count"}
"""How values of one interval of a series are put together → the kinds of maps that do so."""

CLOCK_MAP: Final = "BPFTRACE_DUMMY_TS_MAP"
"""The variable of the environment that names a map which is the clock of all series, for tests of scripts."""

INTERVALS_MOST: Final = 1000
"""Of a series of times."""

BUCKETS_MOST: Final = 1000
"""Of a linear histogram."""


KINDS: Final = {"hash": "hash", "lruhash": "lru", "percpuhash": "hash", "percpulruhash": "lru"}
"""The kinds of maps that can be declared. A value is one for all CPUs whatever is declared."""


def declared_maps(
    script: s.Script,
    settings: Mapping[str, int | str | bool],
    faults: list[Diagnostic],
    arguments: Sequence[str] = (),
) -> dict[str, Inferred]:
    """The maps of a script by name: their kinds follow from what is assigned to them. `faults` takes what is
    wrong; `arguments`: of the script.
    """
    most = int(settings.get("max_map_keys", 4096))
    declared: dict[str, s.MapDeclaration] = {}
    for one in script.maps:
        if one.kind not in KINDS:
            cure = f"there are {', '.join(KINDS)}"
            faults.append(Diagnostic(one.kind_span, f"a map of kind {one.kind} is not supported yet", cure))
        if not 0 < one.entries <= SIZE_MOST:
            message = f"a map has 1 to {SIZE_MOST:,} entries"
            faults.append(Diagnostic(one.span, message))
        if one.id in declared:
            faults.append(Diagnostic(one.span, f"@{one.id} is declared twice"))
        declared[one.id] = one
    found: dict[str, Inferred] = {}

    def given(node: Node) -> Node | None:
        """A number for an argument of the script."""
        if isinstance(node, s.Positional) and 0 < node.number <= len(arguments):
            with suppress(ValueError):
                return s.Int(number(arguments[node.number - 1]), node.span)
        return None

    nodes = [node for part in (*script.probes, *script.macros) for node in walk(part)]
    for node in nodes:
        if isinstance(node, s.Assign) and isinstance(node.target, s.Map):
            value = aggregated(node.value)
            if value is not None:
                name = node.target.id
                size = declared[name].entries if name in declared else most
                _aggregate(found, name, rewrite(value, given), size, faults)
    for name, map in found.items():
        map.forgets = map.shows == "tseries" or (name in declared and KINDS.get(declared[name].kind) == "lru")
    filled = {target.id for node in nodes if isinstance(target := _filled(node), s.Map)}
    for node in nodes:
        if isinstance(node, s.Map) and node.id not in found:
            row = declared.get(node.id)
            kind = KINDS.get(row.kind, "hash") if row else "hash"
            size = row.entries if row else most
            found[node.id] = Inferred(f"@{node.id}", kind, size, (0, 0, 0), kind)
            if node.id not in filled:
                cure = did_you_mean(f"@{node.id}", [f"@{one}" for one in filled])
                cure = cure or f"assign to it: @{node.id} = …"
                faults.append(Diagnostic(node.span, f"nothing is ever put into @{node.id}", cure))
    return found


def aggregated(value: s.Expr) -> s.Call | None:
    """The aggregating function that a value is, or the value of a block; None where it is none."""
    while isinstance(value, s.Block) and value.value is not None:
        value = value.value
    return value if isinstance(value, s.Call) and value.function in AGGREGATES else None


def _filled(node: Node) -> Node | None:
    """What a statement puts something into; None where it is no such statement."""
    if isinstance(node, s.Assign):
        return node.target
    return node.operand if isinstance(node, s.Step) else None


def _aggregate(
    found: dict[str, Inferred], name: str, call: s.Call, size: int, faults: list[Diagnostic]
) -> None:
    """A map to which an aggregating function is assigned."""
    bounds, shows = (0, 0, 0), call.function
    if shows == "lhist" and len(call.arguments) == 4:
        numbers = [_literal(one) for one in call.arguments[1:]]
        low, high, step = (0 if one is None else one for one in numbers)
        wrong = cure = ""
        if None in numbers:
            wrong, cure = "min, max and step of a histogram are written as numbers", "lhist(n, 0, 100, 10)"
        elif step <= 0:
            wrong = f"the step of a histogram is at least 1, and this is {step}"
        elif high <= low:
            wrong = f"the max of a histogram is above its min, and {high} is not above {low}"
        elif (high - low) // step > BUCKETS_MOST:
            wrong = f"this histogram has {(high - low) // step:,} buckets"
            cure = f"there are at most {BUCKETS_MOST:,}: take a greater step"
        if wrong:
            faults.append(Diagnostic(call.arguments[1].span if None in numbers else call.span, wrong, cure))
        bounds = low, high, max(step, 1)
    if shows == "hist" and len(call.arguments) == 2:
        bits = _literal(call.arguments[1])
        if bits is None or not 0 <= bits <= HIST_BITS_MOST:
            message = f"the second argument of hist is a number from 0 to {HIST_BITS_MOST}"
            faults.append(Diagnostic(call.arguments[1].span, message))
        else:
            bounds = bits, 0, 0
    kind = AGGREGATES[shows]
    if shows == "tseries":
        kind, bounds = _series(call, faults)
    known = found.get(name)
    if known is None:
        found[name] = Inferred(f"@{name}", kind, size, bounds, shows)
    elif (known.shows, known.bounds) != (shows, bounds):
        other = shows if shows != known.shows else f"{shows} of other bounds"
        message = f"@{name} holds the {known.shows} of values, and here it is assigned a {other}"
        faults.append(Diagnostic(call.span, message, "use another map"))


def _series(call: s.Call, faults: list[Diagnostic]) -> tuple[str, tuple[int, int, int]]:
    """The kind of map that keeps a series of times, the ns of an interval, and how many are shown."""
    numbers = [_literal(one) for one in call.arguments[1:3]]
    interval, most = (one or 0 for one in [*numbers, 0, 0][:2])
    how = call.arguments[3] if len(call.arguments) > 3 else s.Str("", call.span)
    word = how.value if isinstance(how, s.Str) else "?"
    if interval < 1:
        message = "the interval of a series is a duration that is written, as 100ms"
        faults.append(Diagnostic(call.span, message, "tseries(n, 1s, 20)"))
    elif not 0 < most <= INTERVALS_MOST:
        message = f"a series has 1 to {INTERVALS_MOST:,} intervals, written as a number"
        faults.append(Diagnostic(call.span, message, "tseries(n, 1s, 20)"))
    if word not in SERIES or (len(call.arguments) > 3 and not word):
        cure = f"it is one of {', '.join(one for one in SERIES if one)}"
        faults.append(Diagnostic(how.span, "values of an interval are not put together so", cure))
    return SERIES.get(word, "lru"), (max(interval, 1), max(most, 1), 0)


def _literal(node: s.Expr) -> int | None:
    """A number as it is written; None where it is none."""
    if isinstance(node, s.Unary) and node.op == "-":
        value = _literal(node.operand)
        return None if value is None else -value
    return node.value if isinstance(node, s.Int) else None


def assign_map(low: "Lowering", target: s.Map, node: s.Assign) -> list[tree.Stmt]:
    """An assignment to a map, or a value that is added to what it keeps."""
    value, span = node.value, node.span
    if isinstance(value, s.Block) and aggregated(value) is not None:
        return _inside(low, target, value, node)
    place = element(low, target)
    shows = low.maps[target.id].shows
    if not node.op and isinstance(value, s.Call) and value.function in AGGREGATES:
        known(low, value)
        if shows not in AGGREGATES:
            raise TextError(target.span, f"@{target.id} holds values; {value.function} needs another map")
        added = low.expression(value.arguments[0]) if value.arguments else None
        if shows == "tseries":
            return [_in_interval(low, low.maps[target.id], place, added)]
        return [tree.Aggregate(place, added, span)]
    if shows in AGGREGATES:
        cure = f"write @{target.id} = {shows}(…)"
        raise TextError(node.span, f"@{target.id} is a {shows}, to which nothing else is assigned", cure)
    if node.op in ("+", "-"):
        added = low.expression(value)
        if node.op == "-":
            if isinstance(added, tree.Number):
                added = tree.Number(-added.value, span)
            else:
                added = tree.Unary("neg", added, span)
        return [tree.Aggregate(place, added, span)]
    if node.op:
        return [tree.SetElement(place, low.expression(s.Binary(node.op, target, value, span)), span)]
    return [tree.SetElement(place, kept(low, value), span)]


def _in_interval(low: "Lowering", map: Inferred, place: tree.Element, added: tree.Expr | None) -> tree.Stmt:
    """A value is added to the interval of a series in which it is given: one more part of the key."""
    span = place.span
    clock = low.surroundings.environment.get(CLOCK_MAP, "")
    if clock and clock.removeprefix("@") in low.maps:
        wall: tree.Expr = element(low, s.Map(clock.removeprefix("@"), None, span))
    else:  # intervals begin where the wall clock's do
        ahead = tree.Number(low.surroundings.wall, span)
        wall = tree.Binary("add", tree.Name("nsecs", span), ahead, span)
    number = tree.Binary("quo", wall, tree.Number(map.bounds[0], span), span)
    place = place.replace(key=(*place.key, number))
    assert added is not None
    if map.kind == "lru":
        return tree.SetElement(place, added, span)
    return tree.Aggregate(place, None if map.kind == "count" else added, span)


def _inside(low: "Lowering", target: s.Map, block: s.Block, node: s.Assign) -> list[tree.Stmt]:
    """A block whose value is added to a map: what it does is done before."""
    assert block.value is not None
    low.scopes.append({})
    try:
        made: list[tree.Stmt] = []
        for one in (*block.body, node.replace(value=block.value)):
            before, low.pending = low.pending, []
            done = low.statement(one)
            made += low.pending
            made += done
            low.pending = before
        return made
    finally:
        low.scopes.pop()


def element(low: "Lowering", node: s.Map) -> tree.Element:
    """A map at a key."""
    items: tuple[s.Expr, ...] = ()
    if node.key is not None:
        items = node.key.items if isinstance(node.key, s.Tuple) else (node.key,)
    key = tuple(key_part(low, one) for one in items)
    return tree.Element(declaration(low, node), key, node.span)


def declaration(low: "Lowering", node: s.Map) -> tree.MapDeclaration:
    """A map as a whole."""
    row = low.maps[node.id]
    return tree.MapDeclaration(row.title, row.kind, (), (), row.size, row.bounds, row)


def key_part(low: "Lowering", node: s.Expr) -> tree.Expr:
    """A part of a key."""
    return low.expression(node)


def whole_map(low: "Lowering", node: s.Expr) -> str:
    """The name of a map that is meant as a whole."""
    if not isinstance(node, s.Map) or node.key is not None:
        raise TextError(node.span, "this is not a map", "write @name")
    return low.maps[node.id].title


def delete(low: "Lowering", node: s.Call) -> tree.Stmt:
    """A key of a map is taken away; or all that a map without keys holds."""
    target, *rest = node.arguments
    if not isinstance(target, s.Map) or (rest and target.key is not None):
        raise TextError(target.span, "this is not a map", "write delete(@map, key), or delete(@map)")
    if rest:
        target = target.replace(key=rest[0])
    return tree.DeleteElement(element(low, target), node.span)


def deleted(low: "Lowering", node: s.Call) -> tree.Expr:
    """Whether there was a key, which is taken away before the statement."""
    low.hoist(node.span)
    made = delete(low, node)
    assert isinstance(made, tree.DeleteElement)
    there = low.declare("")
    low.pending.append(tree.Assign(there, tree.HasKey(made.target, node.span), node.span, node.span))
    low.pending.append(made)
    return tree.Name(there, node.span)


def with_keys(low: "Lowering", map: s.Map, function: str) -> None:
    """Refuse a map without keys. Raises `TextError`."""
    if low.maps[map.id].key == ():
        message = f"call to {function} expects a map with explicit keys (non-scalar map)"
        raise TextError(map.span, message, f"@{map.id} holds one value")


def has_key(low: "Lowering", node: s.Call) -> tree.Expr:
    """Whether a map has a key."""
    target, key = node.arguments
    if not isinstance(target, s.Map) or target.key is not None:
        raise TextError(target.span, "this is not a map", "write has_key(@map, key)")
    with_keys(low, target, "has_key()")
    return tree.HasKey(element(low, target.replace(key=key)), node.span)
