"""Columns: the EVENT frames of one probe as numpy arrays, one array a field.

The laws: the values are those of `Schema.decoder`, and what it refuses is refused here; no loop over events
runs in Python, except where texts of very different lengths would waste memory as a fixed-width array.
numpy is imported when columns are asked for, never before.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from kwire.wire.fields import (
    MAX_FIELD_BYTES,
    TAIL_CUT,
    TAIL_MAX,
    TIMESTAMP_AT,
    TYPES,
    Field,
    crowded,
    crowds,
    ipv4_text,
    ipv6_text,
    letter,
    mac_text,
    may_be_cut,
)
from kwire.wire.frame import HEADER_SIZE, FrameError, bad_payload
from kwire.wire.frames import Frames
from kwire.wire.gather import event_rows, event_tails, gather_texts
from kwire.wire.schema import Schema

if TYPE_CHECKING:
    import numpy as np

    Array: TypeAlias = np.ndarray[Any, Any]

WIDE = 64  # bytes a text always gets; a wider fixed-width array must be at least a quarter text
_TIME = Field("", "u64", TIMESTAMP_AT, 8)
_ADDRESSES: dict[str, Callable[[bytes], str]] = {"ipv4": ipv4_text, "ipv6": ipv6_text, "mac": mac_text}


def columns(schema: Schema, frames: Frames) -> dict[str, Array]:
    """The EVENT frames of this schema's probe among `frames`: "time" (raw clock, u64) and each field.

    Integers keep their width, in the machine's byte order; bool is bool; addresses are str; text is bytes
    ('S', NULs at its end dropped, or objects where lengths differ much); bytes are objects, raw is void
    ('V'); arrays have two dimensions. A field named "time" hides the raw clock. Raises FrameError
    BAD_PAYLOAD as `decode` does.
    """
    reader = _Reader(schema, frames)
    return {"time": reader.fixed(_TIME)} | {field.name: reader.column(field) for field in schema.fields}


def cut(schema: Schema, frames: Frames, name: str) -> Array:
    """For the same events: whether the tail field `name` was cut at its limit."""
    lengths = _Reader(schema, frames).reference(schema.field(name))[1]
    marked: Array = lengths > TAIL_CUT
    return marked


def unread(schema: Schema, frames: Frames, name: str) -> Array:
    """For the same events: whether the value of the tail field `name` could not be read."""
    lengths = _Reader(schema, frames).reference(schema.field(name))[1]
    marked: Array = lengths == TAIL_CUT
    return marked


def marks(schema: Schema, frames: Frames) -> dict[str, Array]:
    """For the same events: `NAME_cut` and `NAME_unread` for each field of the tail; a field of such a name
    hides it.
    """
    names = {field.name for field in schema.fields}
    tails = [field.name for field in schema.fields if may_be_cut(field)]
    told = {f"{name}_cut": cut for name in tails} | {f"{name}_unread": unread for name in tails}
    found = {}
    for mark, tell in told.items():
        if mark not in names:
            found[mark] = tell(schema, frames, mark.rpartition("_")[0])
    return found


def spans(schema: Schema, frames: Frames, name: str) -> tuple[Array, Array, Array]:
    """For the same events: where the values of the tail field `name` lie: (bytes of the frames, starts,
    lengths). Raises FrameError BAD_PAYLOAD as `decode` does.
    """
    reader = _Reader(schema._replace(fields=()), frames)
    starts, lengths = reader.located(schema.field(name))
    return reader.data, starts.view("i8"), lengths.view("i8")


class _Reader:
    """The fixed parts of all events, gathered once into rows."""

    __slots__ = ("data", "ends", "np", "order", "rows", "size", "starts", "view")

    def __init__(self, schema: Schema, frames: Frames) -> None:
        import numpy as np

        self.np = np
        self.size = schema.size
        self.order = "<" if schema.order == "little" else ">"
        self.data = np.asarray(frames.view)
        self.view = frames.view
        count, stride = len(frames), (schema.size + 7) & ~7
        starts, ends = np.empty(count, np.uint64), np.empty(count, np.uint64)
        rows = np.empty((count, stride), np.uint8)
        found, after = event_rows(
            *(frames.view, frames.offsets, count, schema.id, schema.size, stride, starts, ends, rows)
        )
        if after < count:
            at = frames.offsets[after]
            frame = frames.frame(after)
            end = HEADER_SIZE + len(frame.payload)
            raise bad_payload(
                at + end, f"a record that ends at {end}", f"its fixed part to end at {schema.size}"
            )
        self.starts, self.ends, self.rows = starts[:found], ends[:found], rows[:found]
        tails = [field for field in schema.fields if TYPES[field.type].tail]
        if crowds(tails):
            self.check_room(tails)

    def check_room(self, tails: list[Field]) -> None:
        """FrameError where the values of an event's tail fields are more than there may be."""
        total = self.np.zeros(len(self.rows), self.np.int64)
        for field in tails:
            total += self.reference(field)[1] & TAIL_MAX
        beyond = self.np.flatnonzero(total > MAX_FIELD_BYTES)
        if len(beyond):
            event = int(beyond[0])
            start = int(self.starts[event])
            places = ((start + field.offset, int(self.reference(field)[1][event])) for field in tails)
            raise crowded(places)

    def column(self, field: Field) -> Array:
        rule = TYPES[field.type]
        if rule.tail:
            return self.tail(field)
        if rule.kind in ("int", "bool"):
            values = self.fixed(field)
            return values != 0 if rule.kind == "bool" else values
        width = field.size // field.count
        values = self.bytes_of(field).reshape(-1, width)
        if rule.kind == "text":
            values = values * self.np.minimum.accumulate(values != 0, axis=1)
            result = values.view(f"S{width}")
        elif rule.kind == "raw":
            result = values.view(f"V{width}")
        else:
            result = self.addresses(values.view(f"V{width}").ravel(), _ADDRESSES[rule.kind])
        return result.reshape(-1, field.count) if field.count > 1 else result.ravel()

    def bytes_of(self, field: Field) -> Array:
        return self.np.ascontiguousarray(self.rows[:, field.offset : field.offset + field.size])

    def fixed(self, field: Field) -> Array:
        """An integer field, in the machine's byte order."""
        code = self.np.dtype(self.order + letter(field))
        rows, stride = self.rows, self.rows.shape[1]
        size = field.size // field.count
        shape: tuple[int, ...] = (len(rows), field.count) if field.count > 1 else (len(rows),)
        strides = (stride, size)[: len(shape)]
        there: Array = self.np.ndarray(shape, code, rows if len(rows) else None, field.offset, strides)
        return there.astype(code.newbyteorder("="))

    def addresses(self, values: Array, text: Callable[[bytes], str]) -> Array:
        """Each distinct address becomes text once."""
        np = self.np
        keys: Array = values
        if values.dtype.itemsize <= 8:  # as numbers they sort ten times as fast
            width = values.dtype.itemsize
            keys = np.zeros((len(values), 8), np.uint8)
            keys[:, :width] = values.view(np.uint8).reshape(len(values), width)
            keys = keys.view(np.uint64).ravel()
        _, first, where = np.unique(keys, return_index=True, return_inverse=True)
        names: Array = np.array([text(value.tobytes()) for value in values[first]], dtype="U")
        result: Array = names[where.ravel()]
        return result

    def reference(self, field: Field) -> tuple[Array, Array]:
        """Offsets from the start of the frame and lengths (cut bit included) of a tail field."""
        pairs = self.bytes_of(field).view(self.order + "u2").astype(self.np.int64)
        return pairs[:, 0], pairs[:, 1]

    def located(self, field: Field) -> tuple[Array, Array]:
        """Starts in the data and lengths of a tail field's values (u64); those of no bytes start at 0."""
        np, count = self.np, len(self.rows)
        starts, lengths = np.empty(count, np.uint64), np.empty(count, np.uint64)
        swap = self.order != ("<" if sys.byteorder == "little" else ">")
        sound = event_tails(
            *(self.rows, count, self.rows.shape[1], field.offset, swap, self.size),
            *(self.starts, self.ends, starts, lengths),
        )
        if sound < count:
            raise self.outside(field, sound)
        return starts, lengths

    def tail(self, field: Field) -> Array:
        np = self.np
        starts, lengths = self.located(field)
        longest, total = int(lengths.max(initial=0)), int(lengths.sum())
        if field.type == "str" and (longest <= WIDE or longest * len(lengths) <= 4 * total):
            width = max(longest, 1)
            out = np.empty((len(lengths), width), np.uint8)
            gather_texts(self.view, starts, lengths, len(lengths), width, out)
            texts: Array = out.view(f"S{width}").ravel()
            return texts
        result: Array = np.empty(len(starts), dtype=object)
        spans = zip(starts.tolist(), lengths.tolist(), strict=True)
        result[:] = [bytes(self.view[start : start + length]) for start, length in spans]
        return result

    def outside(self, field: Field, event: int) -> FrameError:
        offsets, lengths = self.reference(field)
        start = int(offsets[event])
        end = start + (int(lengths[event]) & TAIL_MAX)
        return bad_payload(
            int(self.starts[event]) + field.offset,
            f"tail bytes {start} to {end}",
            f"bytes {self.size} to {int(self.ends[event])}",
        )
