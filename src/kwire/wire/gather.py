"""Columns of rows: events that lie in several pieces of memory, in any order, a column of all at a time.

Invariants, as of all walkers (native/gather.c): no byte outside the pieces is touched, whatever rows and
references claim; a walker stops before the first row that is not sound and says where; no state is kept. The
twins, in numpy, are the specification.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from kwire import native
from kwire.native import FixedColumn, Rows, TextField
from kwire.wire.fields import TAIL_CUT, TAIL_MAX

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

TAIL, FIXED, RAW = range(3)  # how a text lies in an event: see `TextField.kind`
HIGH: Final = 1  # of what packed bytes tell: some are 0x80 or more …
SLASH: Final = 2  # … or a backslash


def _row(rows: Rows, row: int, at: int, width: int) -> memoryview | None:
    """The `width` bytes at byte `at` of a row; None where they are not inside its piece."""
    of, start = int(rows.of[row]), int(rows.at[row])
    if of >= len(rows.pieces):
        return None
    piece = memoryview(rows.pieces[of]).cast("B")
    return None if start + at + width > len(piece) else piece[start + at : start + at + width]


def _count(rows: Rows) -> int:
    return min(rows.many, *map(len, (rows.of, rows.at, rows.ends)))


def rows_fixed_twin(rows: Rows, columns: Sequence[FixedColumn]) -> int:
    """Fill the columns; gives how many rows are there: it ends before one that is not inside its piece.

    Of the last rows that are not, some columns may be filled. IndexError where a column has no room.
    """
    import numpy as np

    done = count = _count(rows)
    if any(len(column.out) < count * column.width for column in columns):
        raise IndexError("rows_fixed: there is no room for a column")
    for column in columns:
        width, each = column.width, column.each
        for row in range(done):
            found = _row(rows, row, column.at, width)
            if found is None:
                done = row
                break
            column.out[row * width : (row + 1) * width] = np.frombuffer(found, np.uint8)
        made = column.out[: done * width].reshape(done, width)
        for head in range(0, width - each + 1, each) if each > 1 else ():
            made[:, head : head + each] = made[:, head : head + each][:, ::-1].copy()
    return done


def rows_located_twin(
    rows: Rows, field: TextField, places: "Array", lengths: "Array", cut: "Array", unread: "Array"
) -> tuple[int, int]:
    """Where in its frame the value of a text or bytes field of each row lies, and its length (u32).

    `cut`, `unread` (u8) get what references to the tail say; of other fields nothing. Gives how many rows are
    sound, and the bytes of their values together: it ends before one whose value is not inside its frame's
    tail, or its piece. IndexError where there is no room.
    """
    count, total = _count(rows), 0
    if min(map(len, (places, lengths, cut, unread))) < count:
        raise IndexError("rows_located: there is no room for all rows")
    for row in range(count):
        found = _row(rows, row, field.at, 4 if field.kind == TAIL else field.width)
        if found is None:
            return row, total
        place, length = field.at, field.width
        if field.kind == TAIL:
            order = native.ORDER if not field.swap else "big" if native.ORDER == "little" else "little"
            place, said = (int.from_bytes(found[at : at + 2], order) for at in (0, 2))
            length = said & TAIL_MAX
            if length and (place < field.fixed or place + length > int(rows.ends[row])):
                return row, total
            if length and _row(rows, row, place, length) is None:
                return row, total
            place = place if length else 0
            cut[row], unread[row] = said > TAIL_CUT, said == TAIL_CUT
        elif field.kind == FIXED:
            length = len(bytes(found).split(b"\0", 1)[0])
        places[row], lengths[row] = place, length
        total += length
    return count, total


def rows_packed_twin(
    rows: Rows, places: "Array", lengths: "Array", out: "Array", ends: "Array"
) -> tuple[int, int]:
    """The values that were located, back to back in `out`; `ends` (u32) gets 0, then where each ends.

    Gives how many there are, and what they tell together (HIGH, SLASH): it ends before one that does not fit,
    or is not inside its piece. IndexError where there is no room for all.
    """
    import numpy as np

    count, used = _count(rows), 0
    if min(len(places), len(lengths), len(ends) - 1) < count:
        raise IndexError("rows_packed: there is no room for all rows")
    ends[0], done = 0, count
    for row in range(count):
        length = int(lengths[row])
        found = _row(rows, row, int(places[row]), length)
        if found is None or length > min(len(out), (1 << 31) - 1) - used:
            done = row
            break
        out[used : used + length] = np.frombuffer(found, np.uint8)
        used += length
        ends[row + 1] = used
    packed = out[:used]
    return done, HIGH * bool((packed >= 0x80).any()) | SLASH * bool((packed == ord("\\")).any())


rows_fixed = native.rows_fixed or rows_fixed_twin
rows_located = native.rows_located or rows_located_twin
rows_packed = native.rows_packed or rows_packed_twin
