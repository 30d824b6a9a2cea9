"""The instruction table: encoding, decoding, validation."""

import struct
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwire.bpf import insn as isa
from kwire.bpf.insn import FORMS, Form, Insn, InsnError, decode, encode, form_of, jump_target, validate

EXIT = Insn(isa.EXIT)
FIELDS = ("dst", "src", "offset", "imm")


def example(form: Form, dst: int = 3, src: int = 4, offset: int = -8, imm: int = 5) -> Insn:
    """An instruction of this form: the given values where the form leaves a choice."""
    given = {"dst": dst, "src": src, "offset": offset, "imm": imm}
    fields = {name: use if isinstance(use := getattr(form, name), int) else given[name] for name in FIELDS}
    return Insn(form.opcode, **fields)


def name(form: Form) -> str:
    return f"{form.op}-{form.opcode:02x}-{form.src}-{form.offset}-{form.imm}"


# Words as RFC 9669 lays them out, written out by hand: bytes, instruction.
VECTORS = [
    ("b7 01 00 00 ff ff ff ff", Insn(0xB7, 1, 0, 0, -1)),
    ("0f 21 00 00 00 00 00 00", Insn(0x0F, 1, 2)),
    ("04 05 00 00 00 00 00 80", Insn(0x04, 5, 0, 0, -0x80000000)),
    ("bf a6 00 00 00 00 00 00", Insn(0xBF, 6, 10)),
    ("bf 12 08 00 00 00 00 00", Insn(0xBF, 2, 1, 8)),
    ("3f 21 01 00 00 00 00 00", Insn(0x3F, 1, 2, 1)),
    ("d7 01 00 00 40 00 00 00", Insn(0xD7, 1, 0, 0, 64)),
    ("dc 01 00 00 10 00 00 00", Insn(0xDC, 1, 0, 0, 16)),
    ("61 13 04 00 00 00 00 00", Insn(0x61, 3, 1, 4)),
    ("91 13 fc ff 00 00 00 00", Insn(0x91, 3, 1, -4)),
    ("7b 1a f8 ff 00 00 00 00", Insn(0x7B, 10, 1, -8)),
    ("62 0a f8 ff 07 00 00 00", Insn(0x62, 10, 0, -8, 7)),
    ("db 21 10 00 01 00 00 00", Insn(0xDB, 1, 2, 16, 1)),
    ("c3 21 10 00 f1 00 00 00", Insn(0xC3, 1, 2, 16, 0xF1)),
    ("db 21 10 00 00 01 00 00", Insn(0xDB, 1, 2, 16, 0x100)),
    ("05 00 ff 7f 00 00 00 00", Insn(0x05, 0, 0, 32767)),
    ("06 00 00 00 00 00 01 00", Insn(0x06, 0, 0, 0, 65536)),
    ("56 02 03 00 09 00 00 00", Insn(0x56, 2, 0, 3, 9)),
    ("85 00 00 00 05 00 00 00", Insn(0x85, 0, 0, 0, 5)),
    ("85 10 00 00 fe ff ff ff", Insn(0x85, 0, 1, 0, -2)),
    ("18 01 00 00 44 33 22 11 00 00 00 00 88 77 66 55", Insn(0x18, 1, 0, 0, 0x5566778811223344)),
    ("18 12 00 00 07 00 00 00 00 00 00 00 00 00 00 00", Insn(0x18, 2, 1, 0, 7)),
    ("95 00 00 00 00 00 00 00", EXIT),
]


@pytest.mark.parametrize(("hex_", "insn"), VECTORS, ids=[v[0] for v in VECTORS])
def test_encodes_and_decodes_as_the_standard_says(hex_: str, insn: Insn) -> None:
    assert encode([insn]).hex(" ") == hex_
    assert decode(bytes.fromhex(hex_)) == [insn]
    form_of(insn)


def test_the_table_covers_the_standard() -> None:
    """Numbers of forms counted from the tables of RFC 9669, plus load-acquire and store-release."""
    count = Counter(form.opcode & 7 for form in FORMS)
    alu = 12 * 2 + 2 * 2 + 1  # operations by operand, signed division, neg
    assert count[isa.ALU] == alu + 2 + 6  # movsx from 8 and 16, le and be
    assert count[isa.ALU64] == alu + 3 + 3  # movsx from 8, 16 and 32, bswap
    assert count[isa.JMP] == 11 * 2 + 1 + 3 + 1 + 1  # ja, calls, callx, exit
    assert count[isa.JMP32] == 11 * 2 + 1
    assert count[isa.LD] == 7 + 6
    assert count[isa.LDX] == 4 + 3
    assert count[isa.ST] == 4
    assert count[isa.STX] == 4 + 2 * (4 * 2 + 2) + 4 * 2
    assert len({(f.opcode, f.src, f.offset, f.imm) for f in FORMS}) == len(FORMS)


@pytest.mark.parametrize("form", FORMS, ids=name)
def test_every_form_is_found_again(form: Form) -> None:
    insn = example(form)
    assert form_of(insn) is form
    assert decode(encode([insn])) == [insn]


@pytest.mark.parametrize("form", FORMS, ids=name)
def test_every_field_that_is_not_used_is_refused_by_name(form: Form) -> None:
    """A fixed field with another value is another form of its opcode, or an error that names the field."""
    forms = isa.FORMS_OF[form.opcode]
    insn = example(form)
    for field in FIELDS:
        if isinstance(getattr(form, field), str):
            continue
        values = {getattr(other, field) for other in forms}
        for bad in (1, 2, 7, 15, 0x102):
            if bad in values or (bad > 15 and field in ("dst", "src")):
                continue
            with pytest.raises(InsnError) as caught:
                form_of(insn._replace(**{field: bad}), 7)
            assert (caught.value.pc, caught.value.field) == (7, field)
            assert f"field {field} is {bad}, must be " in str(caught.value)
            assert forms[0].op in str(caught.value)


@pytest.mark.parametrize("form", FORMS, ids=name)
def test_registers_are_checked(form: Form) -> None:
    for field in ("dst", "src"):
        use = getattr(form, field)
        if use in ("read", "write"):
            with pytest.raises(InsnError, match=f"field {field} is register 11"):
                form_of(example(form)._replace(**{field: 11}))
        if use == "write":
            with pytest.raises(InsnError, match="r10 is read-only"):
                form_of(example(form)._replace(**{field: 10}))
        if use == "read":
            form_of(example(form)._replace(**{field: 10}))


USED = {form.opcode for form in FORMS}


@pytest.mark.parametrize("opcode", [n for n in range(256) if n not in USED])
def test_other_opcodes_are_refused(opcode: int) -> None:
    with pytest.raises(InsnError, match=f"opcode {opcode:#04x} is not an instruction"):
        form_of(Insn(opcode))


@pytest.mark.parametrize(
    ("hex_", "message"),
    [
        ("95 00 00", "3 bytes is not a multiple of 8"),
        ("18 00 00 00 00 00 00 00", "the second half of lddw is missing"),
        ("18 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00", "field opcode of the second half of lddw is 1"),
        (
            "18 00 00 00 00 00 00 00 00 10 00 00 00 00 00 00",
            "field dst and src of the second half of lddw is 16",
        ),
        ("18 00 00 00 00 00 00 00 00 00 02 00 00 00 00 00", "field offset of the second half of lddw is 2"),
    ],
)
def test_bytes_that_are_no_instructions(hex_: str, message: str) -> None:
    with pytest.raises(InsnError, match=message):
        decode(bytes.fromhex(hex_))


@pytest.mark.parametrize(
    ("insn", "field"),
    [
        (Insn(0xB7, 16), "dst"),
        (Insn(0xB7, -1), "dst"),
        (Insn(0xBF, 0, 16), "src"),
        (Insn(0x05, 0, 0, 1 << 15), "offset"),
        (Insn(0x05, 0, 0, -(1 << 15) - 1), "offset"),
        (Insn(0xB7, 0, 0, 0, 1 << 31), "imm"),
        (Insn(0xB7, 0, 0, 0, -(1 << 31) - 1), "imm"),
        (Insn(0x18, 0, 0, 0, 1 << 64), "imm"),
        (Insn(0x18, 0, 0, 1 << 15, 0), "offset"),
        (Insn(256), "opcode"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(insn: Insn, field: str) -> None:
    with pytest.raises(InsnError, match=f"field {field} ") as caught:
        encode([EXIT, insn])
    assert (caught.value.pc, caught.value.field) == (1, field)


def test_lddw_takes_signed_and_unsigned_numbers() -> None:
    assert encode([Insn(0x18, 0, 0, 0, -2)]) == encode([Insn(0x18, 0, 0, 0, (1 << 64) - 2)])


LDDW = Insn(0x18, 1, 0, 0, 7)


@pytest.mark.parametrize(
    ("program", "pc", "message"),
    [
        ([], 0, "the program is empty"),
        ([Insn(0xB7)], 0, "runs off its end"),
        ([EXIT, Insn(0x15, 0, 0, -2)], 1, "runs off its end"),
        ([Insn(0x05, 0, 0, 1), EXIT], 0, "the target 2 is outside of the program"),
        ([Insn(0x05, 0, 0, -2), EXIT], 0, "the target -1 is outside of the program"),
        ([Insn(0x06, 0, 0, 0, 9), EXIT], 0, "the target 10 is outside of the program"),
        ([Insn(0x85, 0, 1, 0, 3), EXIT], 0, "the target 4 is outside of the program"),
        ([Insn(0x15, 0, 0, 1), LDDW, EXIT], 0, "the target 2 is the middle of an lddw"),
        ([LDDW, Insn(0x05, 0, 0, -2), EXIT], 2, "the target 1 is the middle of an lddw"),
        ([Insn(0x18, 1, 1, 0, 1 << 32), EXIT], 0, "upper half of field imm is 0x1, must be 0"),
        ([LDDW, Insn(0x07, 1, 2), EXIT], 2, "field src is 2, must be 0"),
    ],
)
def test_programs_that_cannot_run(program: list[Insn], pc: int, message: str) -> None:
    with pytest.raises(InsnError, match=message) as caught:
        validate(program)
    assert caught.value.pc == pc


def test_targets_count_slots() -> None:
    forms = validate([Insn(0x05, 0, 0, 2), LDDW, EXIT])
    assert [form.op for form in forms] == ["ja", "lddw", "exit"]
    back = Insn(0x18, 1, isa.PSEUDO_FUNC, 0, 0xFFFFFFFF)
    assert jump_target(back, form_of(back), 4) == 4


@given(st.binary(max_size=64))
def test_any_bytes_give_instructions_or_a_typed_error(data: bytes) -> None:
    try:
        insns = decode(data)
    except InsnError:
        return
    assert encode(insns) == data
    try:
        forms = validate(insns)
    except InsnError:
        return
    assert len(forms) == len(insns)


@given(st.integers(0, 255), st.binary(min_size=7, max_size=7))
def test_a_valid_word_has_exactly_one_form(opcode: int, rest: bytes) -> None:
    registers, offset, imm = struct.unpack("<Bhi", rest)
    insn = Insn(opcode, registers & 15, registers >> 4, offset, imm)
    matching = [
        form
        for form in FORMS
        if form.opcode == opcode
        and all(getattr(form, f) == getattr(insn, f) or isinstance(getattr(form, f), str) for f in FIELDS)
    ]
    assert len(matching) <= 1
    if not matching:
        with pytest.raises(InsnError):
            form_of(insn)
