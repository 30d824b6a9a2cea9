"""One table for the events of several probes: a column for every field of any of them.

Invariants: fields of one name and one type share a column; of one name and different types, they have columns
of their own, named after their probes' tables too; no two names are equal but for case.
"""

from typing import Final

from kwire.analyze.tables import COMMON, Column, Table, Tables, unique
from kwire.errors import KwireError
from kwire.wire.fields import letter

MOST: Final = 16_384  # columns: each row has all of them


class Layout:
    """The columns of some tables side by side; `names` in order: what all have, `probe`, then the fields."""

    __slots__ = ("_names", "_places", "names", "shown")

    def __init__(self, tables: Tables) -> None:
        """KwireError where they would be more than MOST."""
        self.names = [*COMMON, "probe"]
        self.shown: dict[str, Column] = {}
        """Names here → one of the columns that stand there; all of these have the same type."""
        taken = {name.casefold(): 1 for name in self.names}
        self._places: dict[tuple[int, str], Column] = {}  # (table, name here) → its column
        self._names: dict[int, list[tuple[str, Column]]] = {}  # table → names here, columns
        found: dict[tuple[object, ...], str] = {}  # (name, type) → name here
        for table in tables:
            for column in table.columns:
                key = (column.name, *_type(column))
                if key not in found:
                    known = column.name.casefold() in taken
                    found[key] = unique(f"{column.name}_{table.name}" if known else column.name, taken)
                    self.names.append(found[key])
                    self.shown[found[key]] = column
                self._places[id(table), found[key]] = column
                self._names.setdefault(id(table), []).append((found[key], column))
            self._check()

    def _check(self) -> None:
        if len(self.names) > MOST:
            cause = f"the probes have {len(self.names):,} columns together, and one file has at most {MOST:,}"
            cure = "give -o DIR/ for a file of each probe, or choose with --probe"
            raise KwireError("export", "", cause, cure)

    def of(self, table: Table) -> list[tuple[str, Column]]:
        """What of this table stands here, and under which names."""
        return self._names.get(id(table), [])

    def column(self, table: Table, name: str) -> Column | None:
        """What of this table stands in a column; None where it has nothing there."""
        return self._places.get((id(table), name))


def _type(column: Column) -> tuple[object, ...]:
    """What two columns must share to be one."""
    one = letter(column.field) if column.kind == "int" else column.kind
    return one, not column.cut and column.field.count > 1
