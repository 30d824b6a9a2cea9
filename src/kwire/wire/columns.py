"""Columns: the EVENT frames of one probe as numpy arrays, one array a field.

Invariants: the values are those of `Schema.decoder`, and what it refuses is refused here; no loop over events
runs in Python, except where texts of very different lengths would waste memory as a fixed-width array.
numpy is imported when columns are asked for, never before.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from kwire.wire.column_rows import event_spans, event_tails, event_texts, event_values, gather_texts
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
    made = Columns(schema, frames)
    return {"time": made.fixed(_TIME)} | {field.name: made.column(field) for field in schema.fields}


def marks(schema: Schema, frames: Frames) -> dict[str, Array]:
    """For the same events: `NAME_cut` and `NAME_unread` for each field of the tail; a field of such a name
    hides it.
    """
    names = {field.name for field in schema.fields}
    made = Columns(schema, frames)
    tails = [field for field in schema.fields if may_be_cut(field)]
    told = [(f"{field.name}_cut", made.cut, field) for field in tails]
    told += [(f"{field.name}_unread", made.unread, field) for field in tails]
    return {mark: tell(field) for mark, tell, field in told if mark not in names}


class Columns:
    """The columns of the EVENT frames of this schema's probe among `frames`, each made when it is asked for.

    What `columns` says of them and of its errors is true here. `data`: the bytes of the frames; `starts` and
    `ends` (u64): where each frame begins, and how many bytes it has without its trailer; `swap`: whether its
    numbers are in another order than the machine's; `fixed_size`: how many of its bytes are no tail.
    """

    __slots__ = ("_np", "_view", "data", "ends", "fixed_size", "starts", "swap")

    def __init__(self, schema: Schema, frames: Frames, ends: Array | None = None) -> None:
        """`ends`: of frames that are known to be EVENTs as the schema says: their bytes without trailer."""
        import numpy as np

        self._np = np
        self.fixed_size = schema.size
        self.swap = schema.order != sys.byteorder
        self.data: Array = np.asarray(frames.view)
        self._view = frames.view
        count = len(frames)
        if ends is not None:
            self.starts, self.ends = np.asarray(frames.offsets)[:count], ends.astype(np.uint64)
            return
        starts, stops = np.empty(count, np.uint64), np.empty(count, np.uint64)
        found, after = event_spans(frames.view, frames.offsets, count, schema.id, schema.size, starts, stops)
        if after < count:
            at = frames.offsets[after]
            frame = frames.frame(after)
            end = HEADER_SIZE + len(frame.payload)
            raise bad_payload(
                at + end, f"a record that ends at {end}", f"its fixed part to end at {schema.size}"
            )
        self.starts, self.ends = starts[:found], stops[:found]
        tails = [field for field in schema.fields if TYPES[field.type].tail]
        if crowds(tails):
            self._check_room(tails)

    def __len__(self) -> int:
        return len(self.starts)

    def column(self, field: Field) -> Array:
        """The values of a field."""
        rule = TYPES[field.type]
        if rule.tail:
            return self._tail(field)
        if rule.kind in ("int", "bool"):
            values = self.fixed(field)
            return values != 0 if rule.kind == "bool" else values
        width = field.size // field.count
        if rule.kind == "text" and field.count == 1:
            return self._gathered(*self.located(field), width)
        values = self._bytes_of(field).reshape(-1, width)
        if rule.kind == "text":
            values = values * self._np.minimum.accumulate(values != 0, axis=1)
            result = values.view(f"S{width}")
        elif rule.kind == "raw":
            result = values.view(f"V{width}")
        else:
            result = self._addresses(values.view(f"V{width}").ravel(), _ADDRESSES[rule.kind])
        return result.reshape(-1, field.count) if field.count > 1 else result.ravel()

    def fixed(self, field: Field) -> Array:
        """An integer field, in the machine's byte order."""
        each = field.size // field.count
        code = self._np.dtype(letter(field)).newbyteorder("=")
        values: Array = self._bytes_of(field, each if self.swap else 0).view(code)
        return values.reshape(-1, field.count) if field.count > 1 else values

    def located(self, field: Field) -> tuple[Array, Array]:
        """Where the values of a field of text or bytes lie in `data`, and their lengths (u64).

        Those of the tail that have no bytes lie at 0; a text in the fixed part ends at its first NUL.
        """
        np, count = self._np, len(self)
        starts, lengths = np.empty(count, np.uint64), np.empty(count, np.uint64)
        rule = TYPES[field.type]
        if rule.tail:
            sound = event_tails(
                *(self._view, self.starts, self.ends, count, field.offset, self.swap, self.fixed_size),
                *(starts, lengths),
            )
            if sound < count:
                raise self._outside(field, sound)
        elif rule.kind == "text":
            event_texts(self._view, self.starts, count, field.offset, field.size, starts, lengths)
        else:
            starts, lengths[:] = self.starts + np.uint64(field.offset), field.size
        return starts, lengths

    def cut(self, field: Field) -> Array:
        """Whether the values of a tail field were cut at their limit."""
        marked: Array = self._reference(field)[1] > TAIL_CUT
        return marked

    def unread(self, field: Field) -> Array:
        """Whether the values of a tail field could not be read."""
        marked: Array = self._reference(field)[1] == TAIL_CUT
        return marked

    def _check_room(self, tails: list[Field]) -> None:
        """FrameError where the values of an event's tail fields are more than there may be."""
        total = self._np.zeros(len(self), self._np.int64)
        for field in tails:
            total += self._reference(field)[1] & TAIL_MAX
        beyond = self._np.flatnonzero(total > MAX_FIELD_BYTES)
        if len(beyond):
            event = int(beyond[0])
            start = int(self.starts[event])
            places = ((start + field.offset, int(self._reference(field)[1][event])) for field in tails)
            raise crowded(places)

    def _bytes_of(self, field: Field, each: int = 0) -> Array:
        """The bytes of a field of the fixed part; of numbers of `each` bytes, turned."""
        out = self._np.empty(len(self) * field.size, self._np.uint8)
        event_values(self._view, self.starts, len(self), field.offset, field.size, each, out)
        return out

    def _addresses(self, values: Array, text: Callable[[bytes], str]) -> Array:
        """Each distinct address becomes text once."""
        np = self._np
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

    def _reference(self, field: Field) -> tuple[Array, Array]:
        """Offsets from the start of the frame and lengths (cut bit included) of a tail field."""
        pairs = self._bytes_of(field, 2 if self.swap else 0).view(self._np.uint16)
        return pairs[::2], pairs[1::2]

    def _tail(self, field: Field) -> Array:
        np = self._np
        starts, lengths = self.located(field)
        longest, total = int(lengths.max(initial=0)), int(lengths.sum())
        if field.type == "str" and (longest <= WIDE or longest * len(lengths) <= 4 * total):
            return self._gathered(starts, lengths, max(longest, 1))
        result: Array = np.empty(len(starts), dtype=object)
        spans = zip(starts.tolist(), lengths.tolist(), strict=True)
        result[:] = [bytes(self._view[start : start + length]) for start, length in spans]
        return result

    def _gathered(self, starts: Array, lengths: Array, width: int) -> Array:
        """Texts as an array of fixed width."""
        out = self._np.empty((len(lengths), width), self._np.uint8)
        gather_texts(self._view, starts, lengths, len(lengths), width, out)
        texts: Array = out.view(f"S{width}").ravel()
        return texts

    def _outside(self, field: Field, event: int) -> FrameError:
        offsets, lengths = self._reference(field)
        start = int(offsets[event])
        end = start + (int(lengths[event]) & TAIL_MAX)
        return bad_payload(
            int(self.starts[event]) + field.offset,
            f"tail bytes {start} to {end}",
            f"bytes {self.fixed_size} to {int(self.ends[event])}",
        )
