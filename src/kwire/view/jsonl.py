"""Events as JSON lines: one object an EVENT, for programs.

`time_ns` (wall clock), `probe`, `cpu`, `pid` (numbers), `comm` (text; null where there is none), `fields`:
all others by name, in the schema's order. `cut` names the fields whose values were cut at their limit, where
any was. An event that cannot be decoded has `error` as well. A map that was printed, or left at the end, is
an object with `map`, `kind`, `key`, `lost` and `entries`. LOST frames make no line, so that lines are
events; who shows a capture says at its end what was lost.
"""

import re
from collections.abc import Callable, Sequence
from json.encoder import encode_basestring_ascii as quote
from operator import itemgetter

from kwire.hints import Any, Final
from kwire.view.maps import described
from kwire.view.render import CONTEXT, Row, Values, context
from kwire.view.values import json_converter
from kwire.wire.fields import CUT, TYPES
from kwire.wire.messages import Lost
from kwire.wire.schema import Labels, Schema
from kwire.wire.tables import MapTable

WHOLE: Final = (str, bytes)
"""The classes of values of the tail that are all there; others say that they were cut, or not read."""


class JsonLines:
    """The format; see `view.render.Format`."""

    END: Final = "\n"
    __slots__ = ()

    def event(self, schema: Schema) -> Callable[[int, Values], str]:
        """A function made for the schema: one template, filled with one operation."""
        labels = Labels(schema)
        names = [field.name for field in schema.fields]
        head, tail, order, many = _template(schema)
        template, marked = head + tail, f'{head}"cut":[%s],{tail}'
        at = 1 + many  # of the place for what was cut, in a row of time, values and this
        tails = [index for index, field in enumerate(schema.fields) if TYPES[field.type].tail]
        converters = [json_converter(schema, schema.fields[index], labels) for index in order]
        every = [(place + 1, convert) for place, convert in enumerate(converters) if convert is not None]
        texts = {place + 1 for place, index in enumerate(order) if schema.fields[index].type == "str"}
        special = [(place, quote if place in texts else convert) for place, convert in every]
        pick = _picker(order)

        def line(time: int, values: Values) -> str:
            row = [time, *pick(values)]
            for index in tails:
                if values[index].__class__ not in WHOLE:
                    return told(row, values)
            for place, convert in special:
                row[place] = convert(row[place])
            return template % tuple(row)

        def told(row: list[Any], values: Values) -> str:
            """The same where values of the tail were cut, or not read."""
            for place, convert in every:
                row[place] = convert(row[place])
            cut = [quote(names[index]) for index in tails if isinstance(values[index], CUT)]
            if not cut:
                return template % tuple(row)
            row.insert(at, ",".join(cut))
            return marked % tuple(row)

        return line

    def bad(self, time: int | None, id: int, schema: Schema | None, why: str) -> str:
        """An object without fields, and with the error."""
        moment = "null" if time is None else str(time)
        probe = quote(schema.probe) if schema else "null"
        return (
            f'{{"time_ns":{moment},"probe":{probe},"cpu":null,"pid":null,"comm":null,"fields":{{}},'
            f'"error":{quote(why)},"id":{id}}}'
        )

    def lost(self, time: int | None, schema: Schema | None, loss: Lost) -> None:
        """Nothing: lines are events."""

    def table(self, time: int, schema: Schema, held: MapTable) -> str:
        """An object with what the map held."""
        from json import dumps

        return dumps({"time_ns": time, **described(schema, held)})

    def left(self, held: Sequence[tuple[Schema, MapTable]]) -> str:
        """An object a map."""
        from json import dumps

        return "".join(f"{dumps(described(*one))}\n" for one in held)

    def parts(self, schema: Schema) -> None:
        """Lines are made one by one."""

    def lines(self, rows: Sequence[Row]) -> list[str]:
        """What was made of each."""
        return [line for _, line, _ in rows]


def _template(schema: Schema) -> tuple[str, str, list[int], int]:
    """Both halves of a line, the places of its values behind the time, how many of them the first has."""
    names = [field.name for field in schema.fields]
    known = context(schema)
    first = [known[name] for name in CONTEXT if name in known]
    order = first + [index for index in range(len(names)) if index not in first]
    places = {name: f'"{name}":%s' if name in known else f'"{name}":null' for name in CONTEXT}
    fields = ",".join(f"{_percent(quote(names[index]))}:%s" for index in order[len(first) :])
    head = (
        f'{{"time_ns":%d,"probe":{_percent(quote(schema.probe))},{places["cpu"]},{places["pid"]},'
        f"{places['comm']},"
    )
    return head, f'"fields":{{{fields}}}}}', order, len(first)


def pieces(schema: Schema) -> tuple[list[str], list[int]]:
    """The parts of a line that marks nothing as cut: its texts, and the fields between them, after the time,
    by their places in the schema.
    """
    head, tail, order, _ = _template(schema)
    texts = [""]
    for piece in re.split("(%%|%d|%s)", head + tail):
        if piece in ("%d", "%s"):
            texts.append("")
        else:
            texts[-1] += "%" if piece == "%%" else piece
    return texts, order


def _percent(text: str) -> str:
    return text.replace("%", "%%")


def _picker(order: list[int]) -> Callable[[Values], Any]:
    if order == list(range(len(order))):
        return lambda values: values
    if len(order) == 1:
        return lambda values: (values[order[0]],)
    return itemgetter(*order)
