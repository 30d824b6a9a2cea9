"""Instructions as text, in the syntax the kernel's verifier and `bpftool prog dump xlated` print.

`text` gives one instruction, `listing` a program line by line with slot numbers and opcodes. Where the
kernel would print a map's identity (`map[id:7]`), this prints its name when the map uses are given.
"""

from collections.abc import Iterable, Sequence

from kwire.bpf.helpers import NAMES
from kwire.bpf.image import MapUse
from kwire.bpf.insn import Form, Insn, InsnError, form_of


def text(insn: Insn, form: Form | None = None, map_name: str = "") -> str:
    """One instruction as the kernel prints it; `map_name` names the map that an `lddw` loads.

    An instruction that is not valid is shown by its fields, so this never fails.
    """
    if form is None:
        try:
            form = form_of(insn)
        except InsnError:
            opcode, dst, src, offset, imm = insn
            return f".insn {opcode:#04x} dst={dst} src={src} off={offset} imm={imm}"
    imm = insn.imm
    low, high = imm & 0xFFFFFFFF, imm >> 32 & 0xFFFFFFFF
    return form.text.format(
        dst=int(insn.dst),
        src=int(insn.src),
        offset=insn.offset,
        imm=imm & (1 << 64) - 1 if form.op == "lddw" else imm,
        uimm=low,
        low=low - (1 << 32) if low >> 31 else low,
        high=high,
        map=map_name or f"fd:{low}",
        helper=f"bpf_{NAMES[imm]}" if 0 < imm < len(NAMES) else "unknown",
    )


def listing(insns: Iterable[Insn], uses: Sequence[MapUse] = ()) -> list[str]:
    """A line an instruction: slot number, opcode in brackets, text; as bpftool lays them out."""
    maps = {use.insn: use.map for use in uses}
    lines: list[str] = []
    pc = 0
    for insn in insns:
        lines.append(f"{pc:4}: ({insn.opcode:02x}) {text(insn, map_name=maps.get(pc, ''))}")
        pc += insn.slots
    return lines
