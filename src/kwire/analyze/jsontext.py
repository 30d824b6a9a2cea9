"""Events as the objects of `kwire show --json`, one a line, in order of time. Needs no library.

Invariant: the lines are those of `view.jsonl.JsonLines`.
"""

from collections.abc import Iterable
from typing import Any

from kwire.analyze.rowlines import Line, Lines, RowPart, style_of
from kwire.analyze.scan import Block
from kwire.view.batches import JSON, JSON_HEX
from kwire.view.jsonl import JsonLines, pieces
from kwire.view.values import json_converter
from kwire.wire.schema import Labels, Schema


def write(blocks: Iterable[Block], out: Any) -> None:
    """Write the events to a binary stream."""
    form = JsonLines()

    def line(schema: Schema) -> Line:
        texts, order = pieces(schema)
        labels, parts = Labels(schema), [RowPart(texts[0]), RowPart(time=True), RowPart(texts[1])]
        for index, behind in zip(order, texts[2:], strict=True):
            field = schema.fields[index]
            convert = json_converter(schema, field, labels)
            parts += [
                RowPart(field=field, style=style_of(field, JSON, JSON_HEX), convert=convert),
                RowPart(behind),
            ]
        parts[-1] = RowPart(parts[-1].text + "\n")
        return Line(parts, form.event(schema))

    Lines(line).write(blocks, out)
