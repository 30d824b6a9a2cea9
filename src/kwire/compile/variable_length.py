"""Values of varying length: texts and bytes in the tail of a record → IR.

Invariants: a value is written straight to where it will lie, its (offset, length) pair into the fixed part;
nothing of an earlier record or of the stack follows it. Short arrays of characters (a thread's name, an
interface's) travel in registers and their length is found without a loop or a helper; everything else is
read by the helper for strings or for bytes. Each length is clamped by an instruction the verifier
understands on 6.1 (`umin`, `within`). What the helper could not read has no bytes and the cut bit, which no
other value has together.

A record on the stack has at most one tail value, at a constant offset, with the bytes behind it zeroed first;
a record in scratch memory is padded once, after the last value (`Record.finish`).
"""

from kwire.compile.builder import Builder
from kwire.compile.expressions import CHANGING, ExpressionLowering, pieces, signed64
from kwire.compile.fold import bits_of
from kwire.compile.ir import At, Exit, Function, Operand, Slot, Value
from kwire.compile.layout import Item
from kwire.lang import checked, types
from kwire.lang.tree import Span
from kwire.wire.fields import TAIL_CUT

ONES = 0x0101010101010101
HIGHS = signed64(ONES << 7)
WORDS_MOST = 16
"""Arrays of characters up to this size travel in registers."""


class Record:
    """A record under construction: where it lies and where its next tail value goes."""

    __slots__ = ("base", "end", "lower", "more")

    def __init__(self, lower: ExpressionLowering, base: Value | Slot, size: int) -> None:
        self.lower = lower
        self.base = base
        self.end = size  # bytes so far, header included, that are known beforehand
        self.more: Operand = 0  # those that are not

    def tail(self, item: Item, value: checked.ReadText | checked.ReadBytes | checked.Comm) -> None:
        """Append one tail value and store the pair that points to it."""
        lower = self.lower
        before, lower.span = lower.span, value.span
        limit = min(item.limit, value.type.limit)
        lower.store(self.base, item.offset, 2, lower.binary("add", self.more, self.end))
        whole = isinstance(value, checked.ReadText) and not value.type.exact
        if isinstance(value, checked.ReadText) and whole and not 0 < value.fixed <= limit + 1:
            length: Operand = self._told(value, limit, At(self.base, item.offset + 2))
        else:
            if isinstance(value, checked.ReadBytes):
                length, cut = self._bytes(value, limit)
            else:
                length, cut = self.text(value, limit)
            told = length if cut == 0 else lower.emit("or", [length, lower.emit("mul", [cut, TAIL_CUT])])
            lower.store(self.base, item.offset + 2, 2, told)
        if isinstance(length, int):
            self.end += length
        else:
            self.more = length if self.more == 0 else lower.emit("add", [self.more, length])
        lower.span = before

    def array(self, item: Item, value: checked.ReadText | checked.ReadBytes | checked.Comm) -> None:
        """Store a text that is an array of characters as it is, into the fixed part."""
        assert not isinstance(value, checked.ReadBytes)
        for number, word in enumerate(self._array(value)):
            self.lower.store(self.base, item.offset + 8 * number, min(8, item.size), word)

    def _array(self, value: checked.ReadText | checked.Comm) -> list[Value]:
        """The words of an array of characters."""
        if isinstance(value, checked.Comm):
            return [*self.lower.comm()]
        sizes = [min(8, value.fixed - at) for at in range(0, value.fixed, 8)]
        return [self.lower.read_int(value.place, size, 8 * n) for n, size in enumerate(sizes)]

    def text(
        self, value: checked.ReadText | checked.Comm, limit: int, size: Operand | None = None
    ) -> tuple[Operand, Operand]:
        """Write a text where the next tail value goes: (length, 1 when it was cut). `size`: no more of one
        that lies anywhere than so many bytes, which are at most the limit.
        """
        if isinstance(value, checked.Comm) or 0 < value.fixed <= min(WORDS_MOST, limit):
            length, cut = self._words(self._array(value), limit)
            return length, 0 if value.type.exact else cut
        return self._string(value, limit, size)

    def finish(self) -> Operand:
        """Zero the padding; the size of the whole record."""
        lower = self.lower
        if self.more == 0:
            size = (self.end + 7) & ~7
            for at, piece in pieces(self.end, size - self.end):
                lower.store(self.base, at, piece, 0)
            return size
        if isinstance(self.base, Value):
            here = self._here()
            lower.store(here.base, here.offset, 8, 0)
        return lower.emit("and", [lower.emit("add", [self.more, self.end + 7]), 0x1FFF8])

    def _here(self) -> At:
        """Where the next tail value goes."""
        if self.more == 0:
            return At(self.base, self.end)
        assert isinstance(self.base, Value)
        return At(self.lower.emit("add", [self.base, self.more]), self.end)

    def _clear(self, size: int) -> None:
        """On the stack: zero the next bytes up to the end of a word, before a helper writes there."""
        if isinstance(self.base, Slot):
            size = ((self.end + size + 7) & ~7) - self.end
            for at, piece in pieces(self.end, size):
                self.lower.store(self.base, at, piece, 0)

    # short texts, in registers

    def _words(self, words: list[Value], limit: int) -> tuple[Operand, Operand]:
        """A text in one or two words: masked behind its NUL, stored, measured."""
        lower = self.lower
        beyond: Operand = 0
        if limit < 8 * len(words) - 1:  # a name of which less is wanted than there is
            part, shift = words[limit // 8], 8 * (limit % 8)
            beyond = lower.emit("and", [lower.binary("rsh", part, shift), 0xFF], None, 8)
            if shift:
                words = [*words[: limit // 8], lower.emit("and", [part, (1 << shift) - 1], None, shift)]
            else:
                words = words[: limit // 8]
        first, length, full = self._measure(words[0])
        kept: list[Operand] = [first]
        if len(words) == 2:
            more, done = lower.new_block("long"), lower.block
            assert done is not None
            after = lower.new_block("short")
            lower.branch("eq", full, -1, more, after)
            lower.start(after)
            short = lower.block
            lower.start(more)
            second, extra, _ = self._measure(words[1])
            total = lower.emit("add", [extra, 8])
            length, second = lower.join_all([(short, [length, 0]), (lower.block, [total, second])])
            kept.append(second)
        self._store_words(kept)
        most = min(limit, 8 * len(words))
        told = lower.emit("umin", [length, most])
        if beyond == 0:
            return told, 0
        full = lower.emit("cmp", [length, most], "eq", 1)
        return told, lower.emit("and", [full, lower.emit("cmp", [beyond, 0], "ne", 1)], None, 1)

    def _measure(self, word: Value) -> tuple[Operand, Operand, Operand]:
        """The word without what follows its first zero byte, the bytes before that, and their mask.

        (word - ONES) & ~word & HIGHS has as its lowest set bit the top bit of the first zero byte; the mask
        of all bits below that byte, its bytes counted by a multiplication, tells the length.
        """
        emit = self.lower.emit
        zeros = emit("and", [emit("sub", [word, ONES]), emit("xor", [word, -1])])
        zeros = emit("and", [zeros, HIGHS])
        lowest = emit("and", [zeros, emit("neg", [zeros])])
        mask = emit("add", [emit("rsh", [lowest, 7]), -1])
        kept = emit("and", [word, mask])
        length = emit("rsh", [emit("mul", [emit("and", [mask, ONES]), ONES]), 56])
        return kept, length, mask

    def _store_words(self, words: list[Operand]) -> None:
        """Store the words; on the stack shifted into aligned words, the last one zero-filled to its end."""
        lower = self.lower
        if isinstance(self.base, Value):
            here = self._here()
            for number, word in enumerate(words):
                lower.store(here.base, here.offset + 8 * number, 8, word)
            return
        before = -self.end % 8  # bytes that still fit the word the tail begins in
        for at, piece in pieces(self.end, before):
            lower.store(self.base, at, piece, lower.binary("rsh", words[0], 8 * (at - self.end)))
        at = self.end + before
        for number, word in enumerate(words):
            part = lower.binary("rsh", word, 8 * before)
            if before and number + 1 < len(words):
                part = lower.emit("or", [part, lower.emit("lsh", [words[number + 1], 64 - 8 * before])])
            lower.store(self.base, at + 8 * number, 8, part)

    # texts and bytes read by a helper

    def _string(
        self, value: checked.ReadText, limit: int, size: Operand | None = None
    ) -> tuple[Operand, Operand]:
        """A text up to its NUL: (length, 1 when it was cut, or could not be read and has no length).

        Two bytes more than the limit are asked for, one for the NUL and one that tells a text of just the
        limit from a longer one. The helper never gives the last byte of what was asked for, so the last
        character of an array that has no NUL is fetched by itself.
        """
        lower = self.lower
        beyond = 1 if value.type.exact and not value.fixed else 2
        most = min(limit + beyond, value.fixed) if value.fixed else limit + beyond
        base, offset = lower.place(value.place)
        result, here = self._read(value, most, base, offset, size)
        length: Operand = lower.emit("add", [result, -1])
        length = lower.emit("within", [length, length, most])
        if 0 < value.fixed <= limit + 1:
            length = self._last_character(value, length, base, offset, here)
        kept = lower.emit("umin", [length, limit])
        own = _own(value)
        unread: Operand = 0 if own else lower.emit("rsh", [result, 63], None, 1)
        if 0 < value.fixed <= limit:
            return kept, unread
        if isinstance(self.base, Slot):
            lower.store(here.base, here.offset + limit, 1, 0)
        if value.type.exact:
            return kept, unread
        cut = lower.emit("sub", [length, kept])
        return kept, cut if own else lower.emit("or", [cut, unread])

    def _read(
        self, value: checked.ReadText, most: int, base: Operand, offset: int, size: Operand | None = None
    ) -> tuple[Value, At]:
        """Call the helper for a text of so many bytes with its NUL: its result, and where it has written."""
        lower = self.lower
        told: Operand = most if size is None else lower.emit("umin", [lower.emit("add", [size, 1]), most])
        source = lower.binary("add", base, offset)
        if isinstance(value.place.base, checked.DataLocAddress) and not (offset or value.place.indexes):
            word = lower.context_int(value.place.base.offset, 4)
            told = lower.emit("umin", [lower.emit("rsh", [word, 16]), told])
        self._clear(most)
        here = self._here()
        result = lower.call(f"probe_read_{value.place.space}_str", here, told, source)
        lower.fault(result)
        return result, here

    def _told(self, value: checked.ReadText, limit: int, place: At) -> Value:
        """The same as `_string`; the length, with the cut bit, is stored at a place."""
        lower = self.lower
        reader = None if isinstance(self.base, Slot) or _own(value) else lower.reader(value, limit)
        if reader is not None:
            source = lower.binary("add", *lower.place(value.place))
            read = lower.emit("invoke", [self._here(), source, place], reader)
            lower.fault(read)
            return lower.emit("and", [read, (1 << limit.bit_length()) - 1], None, limit.bit_length())
        result, here = self._read(value, limit + 2, *lower.place(value.place))
        length = lower.emit(
            "told", [result, place], (limit, 0 if _own(value) else TAIL_CUT), limit.bit_length()
        )
        if isinstance(self.base, Slot):
            lower.store(here.base, here.offset + limit, 1, 0)
        return length

    def _last_character(
        self, value: checked.ReadText, length: Operand, base: Operand, offset: int, here: At
    ) -> Operand:
        """The length of a text in an array that the helper filled to the last byte but one."""
        lower = self.lower
        last = value.fixed - 1
        more, short = lower.new_block("last"), lower.new_block("short")
        lower.branch("eq", length, last, more, short)
        lower.start(short)
        lower.start(more)
        character = lower.hop(base, offset + last, 1, value.place.space)
        lower.store(here.base, here.offset + last, 1, character)
        whole = lower.emit("add", [lower.emit("cmp", [character, 0], "ne", 1), last])
        return lower.join([(short, length), (lower.block, whole)])

    def _bytes(self, value: checked.ReadBytes, limit: int) -> tuple[Operand, Operand]:
        """A number of bytes: (length, 1 when there were more, or they could not be read)."""
        lower = self.lower
        wanted = bytes_wanted(lower, value.length)
        base, offset = lower.place(value.place)
        self._clear(limit)
        size = lower.emit("umin", [wanted, limit])
        source = lower.binary("add", base, offset)
        result = lower.call(f"probe_read_{value.place.space}", self._here(), size, source)
        lower.fault(result)
        length = lower.emit("within", [size, result, 1])
        more = lower.emit("cmp", [wanted, limit], "gt", 1)
        return length, lower.emit("or", [more, lower.emit("rsh", [result, 63], None, 1)])


def bytes_wanted(lower: ExpressionLowering, e: checked.Expr) -> Operand:
    """A number of bytes; a negative one is none."""
    wanted = lower.expr(e)
    if types.signed(e.type) and bits_of(wanted) == 64:
        sign = lower.emit("arsh", [wanted, 63])
        wanted = lower.emit("and", [wanted, lower.emit("xor", [sign, -1])])
    return wanted


def text_reader(limit: int, space: str, span: Span) -> Function:
    """What `_told` does as a function: of where a text goes, where it is read, and where its length goes with
    the cut bit. It gives the length, or what is negative, and 0 in its low bits, where nothing could be read.
    """
    function = Function(f"text{limit}_{space}", 3)
    b = Builder(None, function)
    b.span = span
    here, source, place = function.params
    result = b.call(f"probe_read_{space}_str", At(here, 0), limit + 2, source)
    told = b.emit("told", [result, At(place, 0)], (limit, TAIL_CUT), limit.bit_length())
    unread, read = b.new_block("unread"), b.new_block("read")
    b.branch("slt", result, 0, unread, read)
    b.start(read)  # first, so that the verifier finds the other to be a special case of it
    read.end = Exit(told)
    b.start(unread)
    unread.end = Exit(-1 << 63)
    return function


def _own(value: checked.ReadText) -> bool:
    """Whether a text is in memory that can surely be read."""
    return isinstance(value.place.base, (checked.DataLocAddress, checked.Context, *CHANGING))
