"""One table for the events of several probes: a column for every field of any of them.

The laws: fields of one name and one type share a column; of one name and different types, they have columns
of their own, named after their probes' tables too; no two names are equal but for case.
"""

from kwire.analyze.tables import COMMON, Column, Table, Tables, unique
from kwire.wire.fields import letter


class Layout:
    """The columns of some tables side by side; `names` in order: what all have, `probe`, then the fields."""

    __slots__ = ("_places", "names", "shown")

    def __init__(self, tables: Tables) -> None:
        self.names = [*COMMON, "probe"]
        self.shown: dict[str, Column] = {}
        """Names here → one of the columns that stand there; all of these have the same type."""
        taken = {name.casefold() for name in self.names}
        self._places: dict[tuple[int, str], Column] = {}  # (table, name here) → its column
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

    def column(self, table: Table, name: str) -> Column | None:
        """What of this table stands in a column; None where it has nothing there."""
        return self._places.get((id(table), name))


def _type(column: Column) -> tuple[object, ...]:
    """What two columns must share to be one."""
    one = letter(column.field) if column.kind == "int" else column.kind
    return one, not column.cut and column.field.count > 1
