"""Events as the objects of `kwire show --json`, one a line, in order of time. Needs no library.

Invariant: the lines are those of `view.jsonl.JsonLines`.
"""

from collections.abc import Iterable
from typing import Any

from kwire.analyze.rowlines import JSON, JSON_HEX, Line, Lines, RowPart, style_of
from kwire.analyze.scan import Block
from kwire.view.jsonl import JsonLines, pieces
from kwire.view.values import json_converter
from kwire.wire.schema import Labels, Schema


def write(blocks: Iterable[Block], out: Any) -> None:
    """Write the events to a binary stream."""
    form = JsonLines()

    def line(schema: Schema) -> Line:
        texts, order = pieces(schema)
        labels, parts = Labels(schema), [RowPart(texts[0]), RowPart(texts[1], time=True)]
        for index, behind in zip(order, texts[2:], strict=True):
            field = schema.fields[index]
            convert = json_converter(schema, field, labels)
            style = style_of(field, JSON, JSON_HEX)
            parts.append(RowPart(behind, field=field, style=style, convert=convert))
        parts[-1] = parts[-1]._replace(text=parts[-1].text + "\n")
        return Line(parts, form.event(schema))

    Lines(line).write(blocks, out)
