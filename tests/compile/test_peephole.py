"""What is spared once instructions stand in their order."""

from __future__ import annotations

from kwire.bpf import asm
from kwire.bpf.asm import Item, Label, Reg, link
from kwire.compile.peephole import spared

R0, R1, R5, R10 = Reg(0), Reg(1), Reg(5), Reg(10)


def text(items: list[Item]) -> list[str]:
    return [repr(one) for one in link(items).insns]


def same(items: list[Item], *wanted: Item) -> None:
    assert text(spared(items)) == text(list(wanted))


def test_a_jump_to_a_jump_goes_where_that_goes() -> None:
    first, second, end = Label(), Label(), Label()
    start: list[Item] = [asm.jmp("eq", R1, 0, first), asm.mov64(R0, 1), asm.ja(end), first, asm.ja(second)]
    rest: list[Item] = [second, asm.mov64(R0, 3), end, asm.exit_()]
    direct: list[Item] = [asm.jmp("eq", R1, 0, second), asm.mov64(R0, 1), asm.ja(end)]
    same([*start, asm.mov64(R0, 2), *rest], *direct, *rest)


def test_a_jump_to_what_follows_and_what_nothing_leads_to_are_left_out() -> None:
    there, nowhere = Label(), Label()
    same(
        [asm.ja(there), there, asm.mov64(R0, 1), asm.exit_(), asm.mov64(R0, 2), nowhere, asm.exit_()],
        *(asm.mov64(R0, 1), asm.exit_()),
    )


def test_jumps_in_a_circle_are_left() -> None:
    first, second = Label(), Label()
    items: list[Item] = [first, asm.ja(second), second, asm.ja(first)]
    assert text(spared(items))


def test_what_a_register_holds_is_not_loaded_again() -> None:
    load = asm.ldx("dw", R5, R10, -16)
    same(
        [load, asm.stx("dw", R5, R0, 8), load, asm.stx("w", R5, R1, 16), asm.exit_()],
        *(load, asm.stx("dw", R5, R0, 8), asm.stx("w", R5, R1, 16), asm.exit_()),
    )
    store = asm.stx("dw", R10, R5, -16)
    same([store, load, asm.exit_()], store, asm.exit_())


def test_what_may_have_changed_is_loaded_again() -> None:
    load, label = asm.ldx("dw", R5, R10, -16), Label()
    ways: list[list[Item]] = [
        [asm.call(5)],
        [asm.mov64(R5, 0)],
        [asm.st("w", R10, 1, -12)],
        [asm.stx("b", R10, R1, -16)],
        [asm.atomic("add", "dw", R1, R5, 0, fetch=True)],
        [asm.jmp("eq", R1, 0, label), label],
    ]
    for between in ways:
        items: list[Item] = [load, *between, load, asm.exit_()]
        assert text(spared(items)) == text(items)
    kept: list[Item] = [load, asm.st("w", R10, 1, -8), asm.st("dw", R10, 1, -24), load, asm.exit_()]
    assert len(text(spared(kept))) == 4, "their neighbours are others"


def test_numbers_are_held_and_what_was_loaded_is_not_stored_where_it_is() -> None:
    one, add = asm.mov64(R5, 1), asm.atomic("add", "dw", R1, R5, 0)
    same([one, add, one, add, asm.exit_()], one, add, add, asm.exit_())
    kept: list[Item] = [one, asm.atomic("add", "dw", R1, R5, 0, fetch=True), one, asm.exit_()]
    assert len(text(spared(kept))) == 4
    load, store = asm.ldx("dw", R5, R10, -16), asm.stx("dw", R10, R5, -16)
    same([load, store, asm.exit_()], load, asm.exit_())
    other: list[Item] = [load, asm.stx("dw", R10, R5, -24), asm.exit_()]
    assert len(text(spared(other))) == 3
