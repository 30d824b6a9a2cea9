"""Texts matched with patterns or with each other → IR: a text is laid into memory of its own, its pieces are
looked for there.

A piece is found by one operation (`ir.Find`), which the selector makes into a loop of the machine. Where the
search begins and where a piece was found are numbers that the verifier must not know, or it would follow what
comes after once for each place: they go through memory.
"""

from kwire.compile.expressions import ExpressionLowering
from kwire.compile.ir import At, Block, Find, Operand, Value
from kwire.compile.scratch import Stretch
from kwire.compile.variable_length import Record
from kwire.lang import checked

TEXTS = "texts"
"""The map that holds texts while they are looked at: a stretch for each CPU."""

TEXT = (checked.ReadText, checked.Comm)

SPARE = 16
"""Bytes behind the longest text: what reading it needs, and a word for a number on its way."""


def match(
    lower: ExpressionLowering, texts: Stretch, cpu: Operand, e: checked.TextMatch, yes: Block, no: Block
) -> None:
    """Go to `yes` where the text matches, otherwise to `no`. `texts`: the memory for it."""
    text = e.text
    assert isinstance(text, checked.ReadText | checked.Comm)
    limit = text.type.limit
    texts.room(limit + 2 + SPARE)
    base = texts.here(lower, cpu)
    length, _ = Record(lower, base, 0).text(text, limit)
    word = At(base, limit + 2 + (-(limit + 2) % 8))
    *before, last = e.pieces
    at: Operand = 0
    if len(e.pieces) == 1:
        same = lower.new_block("length")
        lower.branch("eq", length, len(last), same, no)
        lower.start(same)
    for number, piece in enumerate(before):
        if not piece:
            continue
        end = lower.emit("sub", [length, len(piece)])
        if number and at == 0:
            at = _unknown(lower, word, 0)
        info = Find(piece, limit - len(piece), once=number == 0)
        at = _found(lower, lower.call(info, base, at, 0 if number == 0 else end), end, number == 0, no)
        if number + 1 < len(before) or last:
            at = lower.emit("add", [_unknown(lower, word, at), len(piece)])
    if last:
        start = lower.emit("sub", [length, len(last)]) if len(e.pieces) > 1 else 0
        if len(e.pieces) > 1:
            room = lower.new_block("room")
            lower.branch("slt", start, at, no, room)
            lower.start(room)
        place = lower.call(Find(last, limit - len(last), once=True), base, start, start)
        lower.branch("slt", place, 0, no, yes)
    else:
        lower.jump(yes)


def length(lower: ExpressionLowering, texts: Stretch, cpu: Operand, e: checked.TextLength) -> Operand:
    """How many bytes a text has."""
    text = e.text
    assert isinstance(text, checked.ReadText | checked.Comm)
    texts.room(text.type.limit + 2 + SPARE)
    return Record(lower, texts.here(lower, cpu), 0).text(text, text.type.limit)[0]


def compare(
    lower: ExpressionLowering, texts: Stretch, cpu: Operand, e: checked.TextCompare, yes: Block, no: Block
) -> None:
    """Go to `yes` where the texts stand to each other as asked, otherwise to `no`: both are laid down with
    zeros behind them and compared word by word, each word as the number its bytes are from the left.
    """
    limits = [text.type.limit for text in (e.left, e.right) if isinstance(text, TEXT)]
    size = (max(limits) + 2 + 7) & ~7
    texts.room(2 * size + SPARE)
    base = texts.here(lower, cpu)
    texts.taken += 2 * size  # where a text lies may depend on other texts that are compared
    for number, text in enumerate((e.left, e.right)):
        assert isinstance(text, TEXT)
        limit, start = limits[number], number * size
        for at in range(0, size, 8):
            lower.store(base, start + at, 8, 0)
        length, cut = Record(lower, base, start).text(text, limit)
        for at in (limit, limit + 1):  # where it went on
            lower.store(base, start + at, 1, 0)
        if cut != 0:  # with no length: it could not be read
            there, maybe = lower.new_block("there"), lower.new_block("maybe")
            lower.branch("ne", length, 0, there, maybe)
            lower.start(maybe)
            lower.branch("eq", cut, 0, there, yes if e.op == "ne" else no)
            lower.start(there)
    texts.taken -= 2 * size
    words = range(0, (max(limits) + 7) & ~7, 8)
    if e.op in ("eq", "ne"):
        difference: Operand = 0
        for at in words:
            here = lower.emit("xor", [lower.load(base, at, 8), lower.load(base, size + at, 8)])
            difference = here if difference == 0 else lower.emit("or", [difference, here])
        lower.branch(e.op, difference, 0, yes, no)
        return
    less, greater = (yes, no) if e.op in ("lt", "le") else (no, yes)
    for at in words:
        left, right = (lower.emit("be", [lower.load(base, side, 8)], 64, 64) for side in (at, size + at))
        if at == words[-1]:
            lower.branch(e.op, left, right, yes, no)
            return
        same, differs = lower.new_block("same"), lower.new_block("differs")
        lower.branch("eq", left, right, same, differs)
        lower.start(differs)
        lower.branch("lt", left, right, less, greater)
        lower.start(same)


def _unknown(lower: ExpressionLowering, word: At, number: Operand) -> Value:
    """The number as the verifier does not know it: it has gone through memory."""
    lower.do("store", [word, number], 8)
    assert isinstance(word.base, Value)
    return lower.load(word.base, word.offset, 8)


def _found(lower: ExpressionLowering, place: Value, end: Operand, first: bool, no: Block) -> Operand:
    """Go on where a piece was found: the first one must fit the text too."""
    there = lower.new_block("there")
    lower.branch("slt", place, 0, no, there)
    lower.start(there)
    if not first:
        return place
    fits = lower.new_block("fits")
    lower.branch("slt", end, 0, no, fits)
    lower.start(fits)
    return 0
