"""The way back from text to instructions: assembles what the disassembler prints, plus labels and comments.

The patterns are made from the same `Form.text` the disassembler formats, so each is the other's proof.

    start: r1 = 5
           r0 += r1          ; a comment
           if r0 < 0x20 goto start
           exit

A number is decimal, except where the kernel prints hexadecimal (comparisons, `lddw`); `r0 = 5` is a mov,
`r0 = 0x5` an `lddw`. A jump goes to a label or to `pc+N`. `call bpf_ktime_get_ns` needs no number.
"""

import re
from functools import lru_cache

from kwire.bpf import asm
from kwire.bpf.helpers import NAMES
from kwire.bpf.insn import FORMS, LDDW, Form, Insn

_NUMBER = r"[+-]?(?:0x[0-9a-f]+|\d+)"
_PATTERNS = {
    "{dst}": r"(?P<dst>\d+)",
    "{src}": r"(?P<src>\d+)",
    "{imm}": rf"(?P<imm>{_NUMBER})",
    "{imm:#x}": r"(?P<imm>0x[0-9a-f]+)",
    "{uimm:#x}": rf"(?P<imm>{_NUMBER})",
    "{offset:+d}": rf"(?P<offset>{_NUMBER})",
    "pc{offset:+d}": r"(?:pc(?P<offset>[+-]\d+)|(?P<label>\w+))",
    "pc{imm:+d}": r"(?:pc(?P<imm>[+-]\d+)|(?P<label>\w+))",
    "{helper}#{imm}": r"(?P<helper>bpf_\w+|unknown)(?:\#(?P<imm>\d+))?",
    "{map}": r"fd:(?P<low>\d+)",
    "{uimm}": r"(?P<low>\d+)",
    "{low:+d}": r"(?P<low>[+-]\d+)",
    "{high}": r"(?P<high>\d+)",
}
_FIELD = re.compile("|".join(re.escape(key) for key in sorted(_PATTERNS, key=len, reverse=True)))
_LABEL = re.compile(r"(\w+):\s*")
_COMMENT = re.compile(r"\s*(;|//).*")


@lru_cache(maxsize=1)
def _patterns() -> list[tuple[re.Pattern[str], Form]]:
    wide_first = sorted(FORMS, key=lambda form: form.opcode != LDDW)  # `r0 = 0x5` would pass for a mov
    return [(_pattern(form), form) for form in wide_first]


def _pattern(form: Form) -> re.Pattern[str]:
    parts: list[str] = []
    seen: set[str] = set()
    end = 0
    for match in _FIELD.finditer(form.text):
        parts.append(re.escape(form.text[end : match.start()]))
        key = match[0]
        parts.append(f"(?P={key[1:-1]})" if key in seen else _PATTERNS[key])
        seen.add(key)
        end = match.end()
    parts.append(re.escape(form.text[end:]))
    return re.compile("".join(parts))


def parse(source: str) -> list[Insn]:
    """The instructions of a program's text. Raises `AsmError` for a line that is none or a missing label."""
    labels: dict[str, asm.Label] = {}
    items: list[asm.Item] = []
    for raw in source.splitlines():
        line = _COMMENT.sub("", raw).strip()
        while match := _LABEL.match(line):
            items.append(labels.setdefault(match[1], asm.Label(match[1])))
            line = line[match.end() :]
        if line:
            items.append(_parse_line(line, labels))
    return asm.assemble(items)


def _parse_line(line: str, labels: dict[str, asm.Label]) -> asm.Item:
    for pattern, form in _patterns():
        match = pattern.fullmatch(line)
        if match is not None:
            insn, label = _build(form, match.groupdict(), line)
            if label is None:
                return insn
            field = "offset" if form.offset == "jump" else "imm"
            return asm.Branch(insn, labels.setdefault(label, asm.Label(label)), field)
    raise asm.AsmError(repr(line), "not an instruction")


def _build(form: Form, found: dict[str, str | None], line: str) -> tuple[Insn, str | None]:
    fields = {
        name: int(found.get(name) or "0", 0) if isinstance(use, str) else use
        for name, use in zip(("dst", "src", "offset", "imm"), form[1:5], strict=True)
    }
    helper = found.get("helper")
    if helper is not None and found.get("imm") is None:
        name = helper.removeprefix("bpf_")
        if name not in NAMES:
            raise asm.AsmError(repr(line), f"there is no helper {helper}")
        fields["imm"] = NAMES.index(name)
    if found.get("low") is not None or found.get("high") is not None:
        low = int(found.get("low") or "0", 0)
        fields["imm"] = low & 0xFFFFFFFF | int(found.get("high") or "0", 0) << 32
    elif form.opcode != LDDW and fields["imm"] >= 1 << 31:
        fields["imm"] -= 1 << 32
    return Insn(form.opcode, **fields), found.get("label")
