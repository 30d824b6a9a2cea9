"""Text of instructions: the kernel's own words, and the way back."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import pytest

from kwire.bpf import asm, disasm, text
from kwire.bpf.asm import R0, R1, R2, R3, R6, R7, R8, R10, Item, Label
from kwire.bpf.image import Image, MapSpec, MapUse
from kwire.bpf.insn import FORMS, SIZES, Form, Insn, decode, encode, form_of
from kwire.bpf.vm import Machine


class Kernel(Protocol):
    def verifier_log(self, code: bytes, kind: str = ...) -> str: ...


def listed(program: Image | bytes) -> list[str]:
    """The listing of an image or of bare code."""
    if isinstance(program, Image):
        return disasm.listing(decode(program.code), program.uses)
    return disasm.listing(decode(program))


def example(form: Form, offset: int, imm: int) -> Insn:
    fields = (
        use if isinstance(use, int) else value
        for use, value in zip(form[1:5], (3, 4, offset, imm), strict=True)
    )
    return Insn(form.opcode, *fields)


def name(form: Form) -> str:
    return f"{form.op}-{form.opcode:02x}-{form.src}-{form.imm}"


@pytest.mark.parametrize("form", FORMS, ids=name)
@pytest.mark.parametrize(
    ("offset", "imm"), [(0, 0), (8, 5), (-8, 0x7FFFFFFF), (32767, -1), (-32768, -(1 << 31))]
)
def test_every_text_is_read_back(form: Form, offset: int, imm: int) -> None:
    if form.op == "call_btf":
        offset = 0  # the kernel does not print which BTF object it is
    if form.op == "lddw":
        narrow = form.imm == "jump" or ("high" not in form.text and form.src != 0)
        imm &= 0xFFFFFFFF if narrow else (1 << 64) - 1
    if form.op == "call" and imm < 0:
        imm = 5
    insn = example(form, offset, imm)
    if form.op == "call" and imm == 0x7FFFFFFF:
        assert disasm.text(insn) == "call unknown#2147483647"
    assert text.parse(disasm.text(insn)) == [insn]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("r0 = 5", Insn(0xB7, 0, 0, 0, 5)),
        ("r0 = 0x5", Insn(0x18, 0, 0, 0, 5)),
        ("r0 = 0xffffffffffffffff", Insn(0x18, 0, 0, 0, (1 << 64) - 1)),
        ("r1 &= 0xff", Insn(0x57, 1, 0, 0, 255)),
        ("w1 ^= 0xffffffff", Insn(0xA4, 1, 0, 0, -1)),
        ("if r1 == 7 goto pc+1", Insn(0x15, 1, 0, 1, 7)),
        ("if r1 s< -7 goto pc-1", Insn(0xC5, 1, 0, -1, -7)),
        ("call bpf_ktime_get_ns", Insn(0x85, 0, 0, 0, 5)),
        ("call bpf_ktime_get_ns#5", Insn(0x85, 0, 0, 0, 5)),
        ("*(u32 *)(r10 -4) = -1", Insn(0x62, 10, 0, -4, -1)),
        ("*(u32 *)(r10 -4) = r1", Insn(0x63, 10, 1, -4)),
        ("  exit   ; done", Insn(0x95)),
    ],
)
def test_text_as_people_write_it(source: str, expected: Insn) -> None:
    assert text.parse(source) == [expected]


def test_labels_in_text() -> None:
    source = """
        r0 = 0
        again: r0 += 1
        if r0 < 0x20 goto again   // below 32
        r1 = r0
        call function
        goto end
        end:
        exit
        function: r0 = r1
        exit
    """
    parsed = text.parse(source)
    assert [insn.offset for insn in parsed] == [0, 0, -2, 0, 0, 0, 0, 0, 0]
    assert parsed[4].imm == 2
    assert Machine(parsed).run().r0 == 32


@pytest.mark.parametrize(
    "source", ["r11 = ", "r1 = -r2", "move r1, 2", "call bpf_no_such_helper", "goto nowhere"]
)
def test_text_that_is_no_instruction(source: str) -> None:
    with pytest.raises(asm.AsmError):
        text.parse(source)


def test_listing_names_maps_and_never_fails() -> None:
    items: list[Item] = [asm.map_value(R1, "hits", 8), asm.map_fd(R2, "rings"), asm.call(1), asm.exit_()]
    maps = [MapSpec("hits", "array", 4, 16, 1), MapSpec("rings", "ringbuf", 0, 0, 4096)]
    assert listed(asm.image("p", "kprobe", items, maps)) == [
        "   0: (18) r1 = map[hits][0]+8",
        "   2: (18) r2 = map[rings]",
        "   4: (85) call bpf_map_lookup_elem#1",
        "   5: (95) exit",
    ]
    assert listed(bytes.fromhex("0701000001000000")) == ["   0: (07) r1 += 1"]
    assert listed(bytes.fromhex("0721000001000000")) == ["   0: (07) .insn 0x07 dst=1 src=2 off=0 imm=1"]
    assert disasm.listing([Insn(0xFF)], [MapUse(0, "m")]) == ["   0: (ff) .insn 0xff dst=0 src=0 off=0 imm=0"]


# ------------------------------------------------------------------ against the kernel and bpftool

# Forms that do not stand alone in a plain program of a socket filter: they are tested apart.
APART = ("lddw", "call", "call_local", "call_btf", "callx", "exit", "ldabs", "ldind", "ja", "gotol")


def runnable(form: Form) -> list[Item]:
    """One instruction of this form where the verifier takes it. r2, r3: numbers;"""
    imm = 3
    if form.op == "st":
        imm = -2
    if form.imm == "value" and form.op.startswith("j"):
        imm = -3
    if form.op in ("ldx", "ldsx", "load_acquire"):
        return [Insn(form.opcode, R2, R10, -16, form.imm if isinstance(form.imm, int) else 0)]
    if form.op in ("st", "stx", "store_release") or form.op.startswith("atomic"):
        fixed = form.imm if isinstance(form.imm, int) else imm
        return [Insn(form.opcode, R10, R2 if form.src != 0 else 0, -8, fixed)]
    insn = Insn(
        form.opcode,
        R2,
        R3 if form.src == "read" else 0,
        form.offset if isinstance(form.offset, int) else 0,
        form.imm if isinstance(form.imm, int) else imm,
    )
    if form.op.startswith("j"):
        after = Label()
        return [asm.Branch(insn, after, "offset"), asm.mov64(R8, 7), after]
    return [insn]


def unknown_numbers() -> list[Item]:
    """r2 and r3 get numbers the verifier does not know, so that no branch is decided; r10-24 … -8 too."""
    items: list[Item] = []
    for offset in (-8, -16, -24):
        items += [asm.call(7), asm.stx("dw", R10, R0, offset)]
    return [*items, asm.ldx("dw", R2, R10, -16), asm.ldx("dw", R3, R10, -24)]


LINE = re.compile(r"^\s*(\d+): \(([0-9a-f]{2})\) (.*?)(?:\s+; .*)?$")


def kernel_lines(log: str) -> dict[int, str]:
    """The instructions in a verifier log, by slot."""
    found: dict[int, str] = {}
    for raw in log.splitlines():
        line = raw.split(": ", 1)[-1] if re.match(r"^\d+: frame", raw) else raw
        match = LINE.match(line)
        if match:
            found[int(match[1])] = f"({match[2]}) {match[3]}"
    return found


def our_lines(program: Image | bytes) -> dict[int, str]:
    lines = (line.split(": ", 1) for line in listed(program))
    return {int(pc): line for pc, line in lines}


@pytest.mark.live
@pytest.mark.native
@pytest.mark.parametrize("form", [form for form in FORMS if form.op not in APART], ids=name)
def test_every_plain_form_reads_as_in_the_verifiers_log(form: Form, kernel: Kernel) -> None:
    code = encode(asm.assemble([*unknown_numbers(), *runnable(form), asm.mov64(R0, 0), asm.exit_()]))
    assert form in [form_of(insn) for insn in decode(code)]
    assert kernel_lines(kernel.verifier_log(code)) == our_lines(code)


def special() -> list[Item]:
    """Jumps, calls, wide numbers and packet loads."""
    near, far, function = Label(), Label(), Label()
    items: list[Item] = [asm.mov64(R6, R1), asm.lddw(R1, 0x1122334455667788), asm.ja(near), near]
    items += [asm.gotol(far), far, asm.call_local(function)]
    for size, _ in [*SIZES.values()][:3]:
        items += [Insn(0x20 | size, 0, 0, 0, 4), asm.mov64(R7, 2), Insn(0x40 | size, 0, R7, 0, 4)]
    return [*items, asm.call(5), asm.mov64(R0, 0), asm.exit_(), function, asm.mov64(R0, 0), asm.exit_()]


@pytest.mark.live
@pytest.mark.native
def test_the_other_forms_read_as_in_the_verifiers_log(kernel: Kernel) -> None:
    code = encode(asm.assemble(special()))
    theirs = kernel_lines(kernel.verifier_log(code))
    assert theirs == our_lines(code)


@contextmanager
def loaded(items: list[Item], maps: list[MapSpec]) -> Iterator[tuple[int, list[int]]]:
    """The id of a loaded socket filter, and the ids of its maps."""
    from kwire.kernel.maps import Map
    from kwire.kernel.prog import load

    made = {spec.name: Map.create(spec) for spec in maps}
    try:
        with load(asm.image("listing", "socket_filter", items, maps), made) as prog:
            yield prog.info().id, [found.info()["id"] for found in made.values()]
    finally:
        for found in made.values():
            found.close()


def bpftool(ident: int) -> list[str]:
    """The instructions of `bpftool prog dump xlated`, as bpftool prints them."""
    command = ["bpftool", "prog", "dump", "xlated", "id", str(ident)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [line for line in out.splitlines() if LINE.match(line)]


def old_bpftool_knows(form: Form) -> bool:
    """bpftool 7.1 prints ISA v4 without its meaning; the verifier's log has been compared for those."""
    return form.isa < 4


# What the kernel rewrites while it verifies, so that the dump is not what was loaded.
REWRITTEN = ("div", "mod", "ldsx", "atomic_cmpxchg")


@pytest.mark.live
@pytest.mark.native
def test_listing_is_what_bpftool_prints() -> None:
    items: list[Item] = [asm.map_value(R1, "box", 0), asm.ldx("dw", R2, R1, 0)]
    items += [asm.stx("dw", R10, R2, offset) for offset in (-8, -16, -24)]
    for form in FORMS:
        if form.op in APART or form.op in REWRITTEN or not old_bpftool_knows(form):
            continue
        items += [asm.ldx("dw", R2, R10, -16), asm.ldx("dw", R3, R10, -24), asm.mov64(R0, 1)]
        items += runnable(form)
    items += [asm.lddw(R2, 0x1122334455667788), asm.mov64(R0, 0), asm.exit_()]
    with loaded(items, [MapSpec("box", "array", 4, 8, 1)]) as (ident, (box,)):
        theirs = bpftool(ident)
    image = asm.image("listing", "socket_filter", items, [MapSpec("box", "array", 4, 8, 1)])
    ours = [line.replace("map[box]", f"map[id:{box}]") for line in listed(image)]
    assert ours == theirs
