"""Columns of values for data frames: of events, and of what maps hold.

Invariant: the columns are numpy arrays; pandas and polars are imported when somebody asks for theirs.
"""

from collections.abc import Mapping

from kwire.arguments import module
from kwire.hints import Any
from kwire.wire.fields import text
from kwire.wire.schema import Schema
from kwire.wire.tables import MapTable, records


def columns_of(schema: Schema, held: MapTable) -> dict[str, Any]:
    """One numpy array a field of the rows of a map; stacks are objects."""
    from kwire.wire.columns import columns

    found = columns(schema, records(schema, held))
    made = {field.name: meant(schema, field.name, found[field.name]) for field in schema.fields[:-1]}
    if "average" in made:  # which records have truncated
        import numpy as np

        count = made["count"]
        made["average"] = np.divide(made["total"], count, out=np.zeros(len(count)), where=count > 0)
    return made


def meant(schema: Schema, name: str, column: Any) -> Any:
    """A column, the numbers of stacks as the stacks."""
    field = next((one for one in schema.fields if one.name == name), None)
    if field is None or field.type != "stack" or schema.stacks is None:
        return column
    import numpy as np

    made = np.empty(len(column), object)
    made[:] = [schema.stacks.stack(int(number)) for number in column]
    return made


def data_frame(library: str, columns: Mapping[str, Any]) -> Any:
    """The columns as a frame of "pandas" or "polars". Raises KwireError where that is not installed."""
    made = module(library, "make a data frame")
    return made.DataFrame({name: _plain(one) for name, one in columns.items()})


def _plain(column: Any) -> Any:
    """A column as frames take it: texts as such, what is no single number as objects."""
    if column.dtype.kind == "S":
        return [text(one) for one in column.tolist()]
    return list(column) if column.ndim > 1 or column.dtype.kind in "OV" else column
