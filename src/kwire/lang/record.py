"""The programs of `kwire record`: nobody writes them, they follow from the attach point.

Invariants: an event begins with the context (cpu, pid, tid, comm); then come the expressions asked for, or
else everything the attach point itself has. A name that the context has already gets the prefix `args_`.
"""

from collections.abc import Sequence

from kwire.kinds import KINDS
from kwire.lang import builtins, events, tree
from kwire.lang import checked as c
from kwire.lang import types as t
from kwire.lang.context import Param, Site
from kwire.lang.errors import Diagnostic, LanguageError, TextError
from kwire.lang.expressions import PREFIX, ExpressionChecker, Types
from kwire.lang.tree import NOWHERE, Source
from kwire.lang.values import Value

CONTEXT = ("cpu", "pid", "tid", "comm")

ADDRESSES = {(4, "saddr"): "ipv4", (4, "daddr"): "ipv4", (16, "saddr_v6"): "ipv6", (16, "daddr_v6"): "ipv6"}
"""Byte arrays that tracepoints hold network addresses in: (bytes, name) → how to show it."""


def program(
    site: Site,
    types: Types,
    expressions: Sequence[tuple[str, tree.Expr]] = (),
    source: Source | None = None,
    condition: tree.Expr | None = None,
) -> c.Program:
    """The program that records this site: `expressions` (of `source`) are (name, tree) pairs, names may be
    empty; without any, all of the site's own fields. `condition` (of `source` too): when. Raises
    `LanguageError`.
    """
    source = source or Source(f"{site.kind}:{site.target}", "")
    checker = ExpressionChecker(site, types, own_fields=True)
    fields: dict[str, events.Final] = {}
    for name in CONTEXT:
        fields[name] = events.final(checker.check(tree.Name(name, NOWHERE)), NOWHERE)
    if expressions:
        faults = _asked(checker, expressions, fields)
        if faults:
            raise LanguageError(source, faults)
    else:
        _own(checker, fields)
    checked = tuple((name, value, _type(value)) for name, value in fields.items())
    emit = c.Emit(tuple(events.as_field(value, type_) for _, value, type_ in checked), NOWHERE)
    body: tuple[c.Stmt, ...] = (emit,)
    if condition is not None:
        from kwire.lang.check import check_filter

        body = (c.If(check_filter(condition, source, site, types), body, (), NOWHERE),)
    return c.Program(
        "record",
        site,
        source,
        (c.Shape(tuple(c.Field(name, type_, _meaning(name)) for name, _, type_ in checked)),),
        (),
        None,
        body,
        NOWHERE,
    )


def _asked(
    checker: ExpressionChecker, expressions: Sequence[tuple[str, tree.Expr]], fields: dict[str, events.Final]
) -> list[Diagnostic]:
    """Add the fields somebody asked for; what is wrong with them."""
    faults = []
    # What is in every event anyway need not be asked for.
    own = [one for one in expressions if not (isinstance(one[1], tree.Name) and one[1].id in CONTEXT)]
    try:
        wanted = events.named(own)
    except TextError as error:
        return [error.diagnostic]
    for name, node in wanted:
        try:
            value = events.final(_plain(checker, node), node.span)
        except TextError as error:
            faults.append(error.diagnostic)
            continue
        fields[_free(name, fields)] = value
    return faults


def _plain(checker: ExpressionChecker, node: tree.Expr) -> Value:
    """The value of an expression; a field of the attach point by its bare name is shown as ever."""
    value = checker.check(node)
    if isinstance(node, tree.Name):
        for param in checker.site.params:
            if param.name == node.id:
                return _shown(value, param)
    return value


def _own(checker: ExpressionChecker, fields: dict[str, events.Final]) -> None:
    """Add everything that the attach point has and an event can hold."""
    site = checker.site
    params = [*site.params, *([site.retval] if site.retval is not None else [])]
    numbered = site.kind in builtins.ARGUMENTS and KINDS[site.kind].place != "user mark"
    if not site.typed and numbered and not site.params and "+" not in site.target:
        params = [site.argument(number) for number in range(3)]
    for param in params:
        try:
            value = events.final(_shown(checker.own(param, NOWHERE), param), NOWHERE)
        except TextError:
            continue  # of a type that no event can hold: whoever wants it names a part of it
        fields[_free(param.name, fields)] = value


def _shown(value: Value, param: Param) -> Value:
    """A value as people want to see it: addresses as addresses."""
    if isinstance(value, c.ReadBlock):
        display = ADDRESSES.get((value.size, param.name), "")
        if display == "ipv4":
            return c.Load(value.place, t.Int(4, False, display), NOWHERE)
        if display and isinstance(value.type, t.Array):
            return value.replace(type=value.type.replace(display=display))
    return value


def _free(name: str, fields: dict[str, events.Final]) -> str:
    if name in CONTEXT or name in events.RESERVED:
        name = PREFIX + name
    while name in fields:
        name += "_"
    return name


def _type(value: events.Final) -> t.Type:
    type_ = events.settle(events.merge(None, value) or events.FieldType(None, ()), True)
    assert type_ is not None
    return type_


def _meaning(name: str) -> str:
    return builtins.BY_NAME[name].doc if name in CONTEXT else ""
