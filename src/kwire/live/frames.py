"""Columns of values for data frames: of events, and of what maps hold.

Invariant: the columns are numpy arrays; pandas and polars are imported when somebody asks for theirs.
"""

from collections.abc import Mapping

from kwire.arguments import module
from kwire.hints import Any
from kwire.wire.schema import Schema
from kwire.wire.tables import MapTable, records


def columns_of(schema: Schema, held: MapTable) -> dict[str, Any]:
    """One numpy array a field of the rows of a map; stacks are objects."""
    from kwire.wire.columns import columns

    found = columns(schema, records(schema, held))
    return {field.name: meant(schema, field.name, found[field.name]) for field in schema.fields[:-1]}


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
    plain = {name: list(one) if one.ndim > 1 or one.dtype == object else one for name, one in columns.items()}
    return made.DataFrame(plain)
