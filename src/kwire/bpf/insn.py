"""The eBPF instruction set of RFC 9669 (ISA v1 to v4) as one table; encoding, decoding and validation.

Invariants:

* `FORMS` is the only description of the instruction set. Encoding, decoding, validation, the disassembler,
  the text assembler, the interpreter and the tests are driven from it.
* An instruction is 8 bytes, little-endian: opcode u8, dst u4 (low), src u4, offset s16, imm s32. `lddw` is
  two of these slots; here it is one `Insn` whose `imm` is the whole 64-bit number (unsigned after `decode`).
* Every field is either used or has one required value. A field with another value is an error that names the
  instruction and the field; nothing is ignored.

A `Form` is one meaning of an opcode. Opcodes with several meanings (call, lddw, div/sdiv, mov/movsx, byte
swaps, atomics) have several forms, told apart by the fields whose value is fixed.
"""

import struct
from collections.abc import Iterable, Sequence

from kwire.errors import KwireError
from kwire.hints import Final
from kwire.lazy import NamedTuple

# Instruction classes, the low three bits of an opcode.
LD, LDX, ST, STX, ALU, JMP, JMP32, ALU64 = range(8)
K, X = 0x00, 0x08  # second operand: immediate or register
W, H, B, DW = 0x00, 0x08, 0x10, 0x18  # operand sizes of loads and stores
IMM, ABS, IND, MEM, MEMSX, ATOMIC = 0x00, 0x20, 0x40, 0x60, 0x80, 0xC0  # modes of loads and stores

LDDW: Final = LD | IMM | DW
EXIT: Final = JMP | 0x90
CALL: Final = JMP | 0x80

# What the src field of `lddw` says about its number, as in the kernel's BPF_PSEUDO_… constants.
PSEUDO_MAP_FD, PSEUDO_MAP_VALUE, PSEUDO_BTF_ID, PSEUDO_FUNC, PSEUDO_MAP_IDX, PSEUDO_MAP_IDX_VALUE = range(
    1, 7
)
# What the src field of `call` says about its number.
CALL_HELPER, CALL_LOCAL, CALL_BTF = range(3)

SIZES: Final = {"b": (B, 1), "h": (H, 2), "w": (W, 4), "dw": (DW, 8)}


class Insn(NamedTuple):
    """One instruction. `offset` is signed 16 bits, `imm` signed 32 bits (64 bits for `lddw`)."""

    opcode: int
    dst: int = 0
    src: int = 0
    offset: int = 0
    imm: int = 0

    @property
    def slots(self) -> int:
        """How many 8-byte slots it takes: 2 for `lddw`, otherwise 1."""
        return 2 if self.opcode == LDDW else 1


class InsnError(KwireError):
    """A program that is not valid eBPF: the slot index `pc`, the instruction or None, the bad `field`."""

    def __init__(self, pc: int, insn: Insn | None, field: str, cause: str) -> None:
        subject = f"{pc}" if insn is None else f"{pc} ({_raw(insn)})"
        super().__init__("read eBPF instruction", subject, cause)
        self.pc = pc
        self.insn = insn
        self.field = field


def _raw(insn: Insn) -> str:
    name = FORMS_OF[insn.opcode][0].op if insn.opcode in FORMS_OF else "unknown"
    fields = f"dst={insn.dst} src={insn.src} off={insn.offset} imm={insn.imm}"
    return f"opcode {insn.opcode:#04x} {name} {fields}"


class Form(NamedTuple):
    """One meaning of an opcode.

    `dst`, `src`, `offset`, `imm` say how the field is used: an int is the one value it must have; "read" and
    "write" are a register (r10 cannot be written); "jump" is a distance in slots from the next instruction;
    "value" is any number. `op` names the operation, `width` its bits, `isa` the instruction set version that
    brought it. `text` is how the kernel prints it, a format of the fields (`uimm`: imm as unsigned 32 bits).
    """

    opcode: int
    dst: int | str
    src: int | str
    offset: int | str
    imm: int | str
    op: str
    width: int
    isa: int
    text: str


# name: (operation bits, how the kernel writes it)
ALU_OPS: Final = {
    "add": (0x00, "+="),
    "sub": (0x10, "-="),
    "mul": (0x20, "*="),
    "div": (0x30, "/="),
    "or": (0x40, "|="),
    "and": (0x50, "&="),
    "lsh": (0x60, "<<="),
    "rsh": (0x70, ">>="),
    "mod": (0x90, "%="),
    "xor": (0xA0, "^="),
    "mov": (0xB0, "="),
    "arsh": (0xC0, "s>>="),
}
SIGNED_ALU_OPS: Final = {"sdiv": (0x30, "s/="), "smod": (0x90, "s%=")}  # told from div and mod by offset 1
NEG, END = 0x80, 0xD0

# name: (operation bits, how the kernel writes it, ISA version)
JMP_OPS: Final = {
    "eq": (0x10, "==", 1),
    "gt": (0x20, ">", 1),
    "ge": (0x30, ">=", 1),
    "set": (0x40, "&", 1),
    "ne": (0x50, "!=", 1),
    "sgt": (0x60, "s>", 1),
    "sge": (0x70, "s>=", 1),
    "lt": (0xA0, "<", 2),
    "le": (0xB0, "<=", 2),
    "slt": (0xC0, "s<", 2),
    "sle": (0xD0, "s<=", 2),
}

FETCH: Final = 0x01
# name: (imm, how the kernel writes the plain form)
ATOMIC_OPS: Final = {"add": (0x00, "+="), "or": (0x40, "|="), "and": (0x50, "&="), "xor": (0xA0, "^=")}
XCHG, CMPXCHG, LOAD_ACQUIRE, STORE_RELEASE = 0xE1, 0xF1, 0x100, 0x110


def _alu_forms() -> Iterable[Form]:
    for cls, width, r in ((ALU64, 64, "r"), (ALU, 32, "w")):
        for op, (bits, sign) in ALU_OPS.items():
            dst = "write"
            yield Form(cls | bits | K, dst, 0, 0, "value", op, width, 1, f"{r}{{dst}} {sign} {{imm}}")
            yield Form(cls | bits | X, dst, "read", 0, 0, op, width, 1, f"{r}{{dst}} {sign} {r}{{src}}")
        for op, (bits, sign) in SIGNED_ALU_OPS.items():
            yield Form(cls | bits | K, "write", 0, 1, "value", op, width, 4, f"{r}{{dst}} {sign} {{imm}}")
            yield Form(cls | bits | X, "write", "read", 1, 0, op, width, 4, f"{r}{{dst}} {sign} {r}{{src}}")
        for size in (8, 16, 32):
            if size < width:
                text = f"{r}{{dst}} = (s{size}){r}{{src}}"
                yield Form(cls | 0xB0 | X, "write", "read", size, 0, f"movsx{size}", width, 4, text)
        yield Form(cls | NEG, "write", 0, 0, 0, "neg", width, 1, f"{r}{{dst}} = -{r}{{dst}}")
    for size in (16, 32, 64):
        for cls, source, op, isa in ((ALU, K, "le", 1), (ALU, X, "be", 1), (ALU64, K, "bswap", 4)):
            text = f"r{{dst}} = {op}{size} r{{dst}}"
            yield Form(cls | END | source, "write", 0, 0, size, f"{op}{size}", size, isa, text)


def _jump_forms() -> Iterable[Form]:
    yield Form(JMP, 0, 0, "jump", 0, "ja", 64, 1, "goto pc{offset:+d}")
    yield Form(JMP32, 0, 0, 0, "jump", "gotol", 32, 4, "gotol pc{imm:+d}")
    for cls, width, r in ((JMP, 64, "r"), (JMP32, 32, "w")):
        for name, (bits, sign, since) in JMP_OPS.items():
            isa = since if cls == JMP else 3
            op, head, tail = f"j{name}", f"if {r}{{dst}} {sign} ", " goto pc{offset:+d}"
            imm = f"{head}{{uimm:#x}}{tail}"
            yield Form(cls | bits | K, "read", 0, "jump", "value", op, width, isa, imm)
            yield Form(cls | bits | X, "read", "read", "jump", 0, op, width, isa, f"{head}{r}{{src}}{tail}")
    yield Form(CALL, 0, CALL_HELPER, 0, "value", "call", 64, 1, "call {helper}#{imm}")
    yield Form(CALL, 0, CALL_LOCAL, 0, "jump", "call_local", 64, 3, "call pc{imm:+d}")
    yield Form(CALL, 0, CALL_BTF, "value", "value", "call_btf", 64, 3, "call kernel-function#{imm}")
    yield Form(CALL | X, "read", 0, 0, 0, "callx", 64, 1, "callx r{dst}")
    yield Form(EXIT, 0, 0, 0, 0, "exit", 64, 1, "exit")


def _memory_forms() -> Iterable[Form]:
    for size, n in SIZES.values():
        bits, at = n * 8, f"*(u{n * 8} *)"
        load, store = f"r{{dst}} = {at}(r{{src}} {{offset:+d}})", f"{at}(r{{dst}} {{offset:+d}}) = "
        yield Form(LDX | MEM | size, "write", "read", "value", 0, "ldx", bits, 1, load)
        if n < 8:
            text = load.replace("*(u", "*(s")
            yield Form(LDX | MEMSX | size, "write", "read", "value", 0, "ldsx", bits, 4, text)
            yield Form(LD | ABS | size, 0, 0, 0, "value", "ldabs", bits, 1, f"r0 = {at}skb[{{imm}}]")
            text = f"r0 = {at}skb[r{{src}} + {{imm}}]"
            yield Form(LD | IND | size, 0, "read", 0, "value", "ldind", bits, 1, text)
        yield Form(ST | MEM | size, "read", 0, "value", "value", "st", bits, 1, store + "{imm}")
        yield Form(STX | MEM | size, "read", "read", "value", 0, "stx", bits, 1, store + "r{src}")
    for src, text in (
        (0, "{imm:#x}"),
        (PSEUDO_MAP_FD, "map[{map}]"),
        (PSEUDO_MAP_VALUE, "map[{map}][0]+{high}"),
        (PSEUDO_BTF_ID, "btf[{imm:#x}]"),
        (PSEUDO_FUNC, "subprog[{low:+d}]"),
        (PSEUDO_MAP_IDX, "map[idx:{uimm}]"),
        (PSEUDO_MAP_IDX_VALUE, "map[idx:{uimm}]+{high}"),
    ):
        imm = "jump" if src == PSEUDO_FUNC else "value"
        yield Form(LDDW, "write", src, 0, imm, "lddw", 64, 1, f"r{{dst}} = {text}")


def _atomic_forms() -> Iterable[Form]:
    for size, n in SIZES.values():
        bits, opcode = n * 8, STX | ATOMIC | size
        where = f"(u{bits} *)(r{{dst}} {{offset:+d}})"
        if n >= 4:
            suffix = "64" if n == 8 else ""
            for op, (imm, sign) in ATOMIC_OPS.items():
                text = f"lock *{where} {sign} r{{src}}"
                isa = 1 if op == "add" else 3
                yield Form(opcode, "read", "read", "value", imm, f"atomic_{op}", bits, isa, text)
                text = f"r{{src}} = atomic{suffix}_fetch_{op}({where}, r{{src}})"
                name = f"atomic_fetch_{op}"
                yield Form(opcode, "read", "write", "value", imm | FETCH, name, bits, 3, text)
            text = f"r{{src}} = atomic{suffix}_xchg({where}, r{{src}})"
            yield Form(opcode, "read", "write", "value", XCHG, "atomic_xchg", bits, 3, text)
            text = f"r0 = atomic{suffix}_cmpxchg({where}, r0, r{{src}})"
            yield Form(opcode, "read", "read", "value", CMPXCHG, "atomic_cmpxchg", bits, 3, text)
        text = f"r{{dst}} = load_acquire((u{bits} *)(r{{src}} {{offset:+d}}))"
        yield Form(opcode, "write", "read", "value", LOAD_ACQUIRE, "load_acquire", bits, 4, text)
        text = f"store_release({where}, r{{src}})"
        yield Form(opcode, "read", "read", "value", STORE_RELEASE, "store_release", bits, 4, text)


FORMS: Final = (*_alu_forms(), *_jump_forms(), *_memory_forms(), *_atomic_forms())
FORMS_OF: Final[dict[int, list[Form]]] = {}
for _form in FORMS:
    FORMS_OF.setdefault(_form.opcode, []).append(_form)

_FIELDS: Final = ("dst", "src", "offset", "imm")
_SLOT = struct.Struct("<BBhi")


def form_of(insn: Insn, pc: int = 0) -> Form:
    """The meaning of an instruction. Raises `InsnError` for an unknown opcode or a field with a bad value."""
    forms = FORMS_OF.get(insn.opcode)
    if forms is None:
        raise InsnError(pc, insn, "opcode", f"opcode {insn.opcode:#04x} is not an instruction")
    _, dst, src, offset, imm = insn
    for form in forms:
        _, fdst, fsrc, foffset, fimm, *_ = form
        if (
            (fdst == dst or fdst.__class__ is str)
            and (fsrc == src or fsrc.__class__ is str)
            and (foffset == offset or foffset.__class__ is str)
            and (fimm == imm or fimm.__class__ is str)
        ):
            _check_registers(pc, insn, form)
            return form
    raise _bad_field(pc, insn, forms)


def _check_registers(pc: int, insn: Insn, form: Form) -> None:
    for field, use, number in (("dst", form.dst, insn.dst), ("src", form.src, insn.src)):
        if use == "read" and number > 10:
            raise InsnError(pc, insn, field, f"field {field} is register {number}, the last one is 10")
        if use == "write" and number > 9:
            cause = "r10 is read-only" if number == 10 else "the last one is 10"
            raise InsnError(pc, insn, field, f"field {field} is register {number}, {cause}")


def _bad_field(pc: int, insn: Insn, forms: Sequence[Form]) -> InsnError:
    """Blames the field that keeps the nearest form from matching."""

    def wrong(form: Form) -> list[str]:
        return [f for f in _FIELDS if isinstance(use := getattr(form, f), int) and use != getattr(insn, f)]

    nearest = min(len(wrong(form)) for form in forms)
    candidates = [form for form in forms if len(wrong(form)) == nearest]
    field = wrong(candidates[0])[0]
    allowed = sorted({getattr(form, field) for form in candidates if wrong(form)[0] == field})
    values = " or ".join(map(str, allowed))
    return InsnError(pc, insn, field, f"field {field} is {getattr(insn, field)}, must be {values}")


def encode(insns: Iterable[Insn]) -> bytes:
    """The program's bytes. Raises `InsnError` for a number that does not fit its field."""
    out = bytearray()
    pack = _SLOT.pack
    for insn in insns:
        opcode, dst, src, offset, imm = insn
        try:
            if (dst | src) & ~15:
                raise struct.error
            if opcode == LDDW:
                if not -(1 << 63) <= imm < 1 << 64:
                    raise struct.error
                imm &= 0xFFFFFFFFFFFFFFFF
                low, high = _signed32(imm & 0xFFFFFFFF), _signed32(imm >> 32)
                out += pack(opcode, dst | src << 4, offset, low) + pack(0, 0, 0, high)
            else:
                out += pack(opcode, dst | src << 4, offset, imm)
        except struct.error:
            field = next(f for f, bits in _WIDTHS.items() if not _fits(insn, f, bits))
            cause = f"field {field} is {getattr(insn, field)}, which does not fit"
            raise InsnError(len(out) // 8, None, field, cause) from None
    return bytes(out)


_WIDTHS: Final = {"opcode": 8, "dst": 4, "src": 4, "offset": -16, "imm": -32}


def _fits(insn: Insn, field: str, bits: int) -> bool:
    value: int = getattr(insn, field)
    if field == "imm" and insn.opcode == LDDW:
        return -(1 << 63) <= value < 1 << 64
    return 0 <= value < 1 << bits if bits > 0 else -(1 << -bits - 1) <= value < 1 << -bits - 1


def _signed32(value: int) -> int:
    return value - (1 << 32) if value >> 31 else value


def decode(code: bytes | bytearray | memoryview) -> list[Insn]:
    """The instructions of a program's bytes, fields unchecked (see `validate`).

    Raises `InsnError` when the length is not a multiple of 8 or an `lddw` is not followed by its second slot.
    """
    if len(code) % 8:
        raise InsnError(len(code) // 8, None, "length", f"{len(code)} bytes is not a multiple of 8")
    insns: list[Insn] = []
    slots = _SLOT.iter_unpack(code)
    pc = 0
    for opcode, registers, offset, imm in slots:
        insn = Insn(opcode, registers & 15, registers >> 4, offset, imm)
        if opcode == LDDW:
            second = next(slots, None)
            if second is None:
                raise InsnError(pc, insn, "imm", "the second half of lddw is missing")
            for field, value in zip(("opcode", "dst and src", "offset"), second, strict=False):
                if value:
                    cause = f"field {field} of the second half of lddw is {value}, must be 0"
                    raise InsnError(pc, insn, field, cause)
            insn = insn._replace(imm=imm & 0xFFFFFFFF | (second[3] & 0xFFFFFFFF) << 32)
        insns.append(insn)
        pc += insn.slots
    return insns


def validate(insns: Sequence[Insn]) -> list[Form]:
    """The form of every instruction, after checking the whole program's structure.

    Raises `InsnError` for an empty program, a bad instruction, a jump or local call out of the program or
    into the middle of an `lddw`, or a program that runs off its end.
    """
    forms: list[Form] = []
    starts: set[int] = set()
    pc = 0
    for insn in insns:
        form = form_of(insn, pc)
        if (
            form.src in (PSEUDO_MAP_FD, PSEUDO_MAP_IDX, PSEUDO_FUNC)
            and insn.opcode == LDDW
            and insn.imm >> 32
        ):
            cause = f"upper half of field imm is {insn.imm >> 32:#x}, must be 0"
            raise InsnError(pc, insn, "imm", cause)
        forms.append(form)
        starts.add(pc)
        pc += insn.slots
    if not insns:
        raise InsnError(0, None, "length", "the program is empty")
    if forms[-1].op not in ("exit", "ja", "gotol"):
        raise InsnError(pc - insns[-1].slots, insns[-1], "opcode", "the program runs off its end")
    pc, end = 0, pc
    for insn, form in zip(insns, forms, strict=True):
        target = jump_target(insn, form, pc)
        if target is not None and target not in starts:
            where = "the middle of an lddw" if 0 <= target < end else "outside of the program"
            field = "offset" if form.offset == "jump" else "imm"
            raise InsnError(pc, insn, field, f"the target {target} is {where}")
        pc += insn.slots
    return forms


def jump_target(insn: Insn, form: Form, pc: int) -> int | None:
    """The slot a jump, local call or function address at slot `pc` leads to; None for other instructions."""
    if form.offset == "jump":
        return pc + 1 + insn.offset
    if form.imm == "jump":
        return pc + 1 + _signed32(insn.imm & 0xFFFFFFFF)
    return None
