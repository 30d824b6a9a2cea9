"""Probes as tables: a readable, unique name for each, and its columns.

Invariants: names of tables and columns are unique without regard to case, printable, never empty, never those
of what kwire itself adds, whatever a capture calls its probes and fields; one table holds the events of one
probe spec with one layout, of all hosts and sections. A column that shows names (enums, symbols, addresses)
is text, and its number is beside it as `NAME_raw`; beside text and bytes of varying length stands `NAME_cut`:
whether they were cut at their limit.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from kwire.view.text import safe
from kwire.view.values import scalar_name
from kwire.wire.fields import TYPES, Field, may_be_cut
from kwire.wire.schema import Labels, Schema

#: Columns that every table has, before the fields: name → what it is.
COMMON: Final = {
    "time": "wall clock",
    "time_ns": "wall clock, nanoseconds since 1970",
    "host": "the machine that the event comes from",
}
#: Columns of `events`, besides those that all tables share: name → the fields that give it.
CONTEXT: Final = ("cpu", "pid", "tid", "comm")
#: Tables that kwire adds.
ADDED: Final = ("events", "lost", "probes")
RAW: Final = "_raw"
CUT: Final = "_cut"


class Column(NamedTuple):
    """A column of a table, made from `field`; `raw`: its number, where `named` says that it shows names.

    `cut`: whether its value was cut.
    """

    name: str
    field: Field
    named: bool = False
    raw: bool = False
    cut: bool = False

    @property
    def beside(self) -> bool:
        """Whether it says something of another column, which shows the field."""
        return self.raw or self.cut

    @property
    def kind(self) -> str:
        """What its values are: int, bool, text, bytes."""
        if self.cut:
            return "bool"
        if self.named and not self.raw:
            return "text"
        kind = TYPES[self.field.type].kind
        return kind if kind in ("int", "bool") else "bytes" if kind in ("bytes", "raw") else "text"


class Table(NamedTuple):
    """The events of one probe spec with one layout. `schemas`: of all hosts and sections."""

    name: str
    probe: str
    columns: tuple[Column, ...]
    schemas: tuple[Schema, ...]

    def column(self, field: str) -> Column | None:
        """The column that shows this field."""
        return next((one for one in self.columns if one.field.name == field and not one.beside), None)


class Tables:
    """The tables for some schemas, in their order. `reserved`: more names that no table may have."""

    __slots__ = ("_by", "_known", "all")

    def __init__(self, schemas: Iterable[Schema], reserved: Iterable[str] = ()) -> None:
        grouped: dict[object, list[Schema]] = {}
        for schema in {id(schema): schema for schema in schemas}.values():  # sessions may share theirs
            grouped.setdefault(layout(schema), []).append(schema)
        names = table_names([group[0].probe for group in grouped.values()], reserved)
        self._by: dict[object, Table] = {}
        self._known: dict[int, tuple[Schema, Table | None]] = {}
        for name, (key, group) in zip(names, grouped.items(), strict=True):
            self._by[key] = Table(name, group[0].probe, columns_of(group[0]), tuple(group))
        self.all: list[Table] = list(self._by.values())

    def find(self, schema: Schema) -> Table | None:
        """The table that the events of this schema are in; it may come from another reading of the file."""
        known = self._known.get(id(schema))
        if known is None:
            known = self._known[id(schema)] = (schema, self._by.get(layout(schema)))
        return known[1]

    def same(self, others: "Tables") -> bool:
        """Whether these are the same tables, whichever schemas they are of."""
        return [one._replace(schemas=()) for one in self] == [one._replace(schemas=()) for one in others]

    def __iter__(self) -> Iterator[Table]:
        return iter(self.all)

    def __len__(self) -> int:
        return len(self.all)


def table_names(probes: Sequence[str], reserved: Iterable[str] = ()) -> list[str]:
    """A name of its own for the table of each spec, in their order."""
    taken = {name.casefold(): 1 for name in (*ADDED, *reserved)}
    short = [_name(probe) for probe in probes]
    several = {name for name, count in Counter(map(str.casefold, short)).items() if count > 1}
    names = []
    for name, probe in zip(short, probes, strict=True):
        if name.casefold() in several or name.casefold() in taken:
            name = _identifier(f"{probe.split(':', 1)[0]}_{name}")
        names.append(unique(name, taken))
    return names


def unique(name: str, taken: dict[str, int]) -> str:
    """The name, with a number where it is taken; it is added to those taken.

    `taken`: names, casefolded → the number that was given to one of them last.
    """
    candidate, key = name, name.casefold()
    number = taken.get(key, 0)
    while candidate.casefold() in taken:
        number += 1
        candidate = f"{name}_{number}"
    taken[key] = number or 1
    taken[candidate.casefold()] = 1
    return candidate


def is_named(schema: Schema, field: Field) -> bool:
    """Whether values of this field have names: enums, flags, symbols, addresses."""
    return TYPES[field.type].kind == "int" and scalar_name(schema, field, Labels(schema)) is not None


def layout(schema: Schema) -> object:
    """What two schemas must share to be one table."""
    fields = tuple(
        (field.name, field.type, field.size, field.count, is_named(schema, field)) for field in schema.fields
    )
    return schema.probe, fields


def columns_of(schema: Schema) -> tuple[Column, ...]:
    """The columns of a table for the events of this schema, and of all with its layout."""
    taken = dict.fromkeys(COMMON, 1)
    named = {field.name: is_named(schema, field) for field in schema.fields}
    shown = [Column(unique(safe(field.name), taken), field, named[field.name]) for field in schema.fields]
    made = []
    for column in shown:
        made.append(column)
        if column.named:
            made.append(column._replace(name=unique(column.name + RAW, taken), raw=True))
        if may_be_cut(column.field):
            made.append(column._replace(name=unique(column.name + CUT, taken), cut=True))
    return tuple(made)


def _name(probe: str) -> str:
    """The last part of a spec's target: `sys_enter_openat` of `tracepoint:syscalls:sys_enter_openat(…)`; the
    kind where there is no letter in it: `map` of `map:@`.
    """
    kind, *parts = probe.split("(", 1)[0].split(":")
    return _identifier(parts[-1] if parts and re.search("[A-Za-z0-9]", parts[-1]) else kind)


def _identifier(text: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_]+", "_", text)[:200].strip("_") or "probe"
    return f"_{name}" if name[0].isdigit() else name
