"""The verifier's complaints, as kernels word them and as the running one does, become one sentence each."""

from __future__ import annotations

import pytest

from kwire.bpf.asm import (
    R0,
    R1,
    R2,
    R3,
    R10,
    Item,
    Label,
    alu64,
    call,
    exit_,
    image,
    ja,
    ldx,
    map_fd,
    map_value,
    mov64,
    st,
    stx,
)
from kwire.bpf.helpers import HELPERS
from kwire.bpf.image import MapSpec
from kwire.kernel.maps import Map
from kwire.kernel.prog import VerifierError, load
from kwire.kernel.verifier_log import summarize

TAIL = "processed 9 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0\n"

# (end of a log, words of the sentence, instruction): wordings of 6.1, 6.12 and 6.18
WORDINGS = [
    ("0: (bf) r0 = r3\nR3 !read_ok\n", "register r3 is used before", 0),
    ("3: (85) call bpf_d_path#147\nunknown func bpf_d_path#147\n", "may not call the helper d_path", 3),
    (
        "3: (85) call bpf_d_path#147\nprogram of this type cannot use helper bpf_d_path#147\n",
        "may not call the helper d_path",
        3,
    ),
    ("7: (79) r1 = *(u64 *)(r2 +0)\nR2 invalid mem access 'scalar'\n", "through a plain number", 7),
    ("7: (79) r1 = *(u64 *)(r2 +0)\nR2 invalid mem access 'inv'\n", "through a plain number", 7),
    ("2: (79) r1 = *(u64 *)(r0 +0)\nR0 invalid mem access 'map_value_or_null'\n", "may be null", 2),
    ("5: (79) r1 = *(u64 *)(r1 +168)\ninvalid bpf_context access off=168 size=8\n", "offset 168, 8 bytes", 5),
    (
        "5: (7b) *(u64 *)(r1 +0) = r2\n"
        "invalid access to map value, value_size=8 off=8 size=8\n"
        "R1 min value is outside of the allowed memory range\n",
        "8 bytes at offset 8 of a map value of 8 bytes",
        5,
    ),
    ("BPF program is too large. Processed 1000001 insn\n", "gave up after 1000001 instructions", -1),
    ("9: (b7) r0 = 0\nThe sequence of 8193 jumps is too complex.\n", "more than 8193 branches", 9),
    ("infinite loop detected at insn 4\n", "a loop whose end", 4),
    ("back-edge from insn 6 to 2\n", "a loop whose end", 6),
    ("unreachable insn 12\n", "instruction 12 can never", 12),
    ("12: (95) exit\nUnreleased reference id=2 alloc_insn=5\n", "giving back what it reserved", 12),
    ("12: (95) exit\nBPF_EXIT instruction in main prog would lead to reference leak\n", "giving back", 12),
    ("combined stack size of 2 calls is 640. Too large\n", "need 640 bytes of stack", -1),
    ("4: (85) call bpf_ringbuf_reserve#131\nR2 is not a known constant'\n", "must be a constant", 4),
    (
        "4: (85) call bpf_get_current_comm#16\nR2 invalid zero-sized read: u64=[0,63]\n",
        "a size may be zero",
        4,
    ),
    (
        "4: (85) call x#4\nR2 min value is negative, either use unsigned or 'var &= const'\n",
        "no proven bounds",
        4,
    ),
    ("4: (85) call x#4\nR2 unbounded memory access, use 'var &= const'\n", "no proven bounds", 4),
    (
        "8: (79) r1 = *(u64 *)(r10 -12)\nmisaligned stack access off 0+-12+0 size 8\n",
        "stack access is not aligned",
        8,
    ),
    (
        "8: (85) call bpf_map_lookup_elem#1\ninvalid indirect read from stack R2 off -4+0 size 4\n",
        "stack bytes|uses the stack",
        8,
    ),
    ("call to bpf_loop: missing btf func_info\n", "type information", -1),
    (
        "1: (95) exit\nAt program exit the register R0 has value (0x1; 0x0) should have been in (0x0; 0x0)\n",
        "returns",
        1,
    ),
    (
        "1: (95) exit\nAt program exit the register R0 has smin=1 smax=1 should have been in [0, 0]\n",
        "returns",
        1,
    ),
    ("unknown opcode 8d\n", "does not know the instruction 8d", -1),
]


@pytest.mark.parametrize(("log", "words", "insn"), WORDINGS, ids=lambda value: str(value)[:30])
def test_known_wordings(log: str, words: str, insn: int) -> None:
    found = summarize("0: R1=ctx() R10=fp0\n" + log + TAIL)
    assert found is not None
    assert any(word in found.sentence for word in words.split("|"))
    assert found.insn == (insn if insn >= 0 else found.insn)


def test_an_unknown_complaint_is_passed_on() -> None:
    found = summarize("5: (95) exit\nthe moon is in the wrong phase\n" + TAIL)
    assert found is not None
    assert found.sentence.endswith("the moon is in the wrong phase")
    assert found.insn == 5


@pytest.mark.parametrize("log", ["", "\n\n", TAIL])
def test_no_complaint(log: str) -> None:
    assert summarize(log) is None


again = Label("again")
MAP = MapSpec("m", "hash", 4, 8, 1)
ARRAY = MapSpec("a", "array", 4, 8, 1)
RING = MapSpec("r", "ringbuf", 0, 0, 4096)

# (program, words of the sentence, instruction), whatever kernel runs this
REFUSED: list[tuple[list[Item], str, int]] = [
    ([mov64(R0, R3), exit_()], "register r3 is used before", 0),
    ([ldx("dw", R0, R1, 0), exit_()], "nothing to read at offset 0, 8 bytes", 0),
    ([mov64(R2, 5), ldx("dw", R0, R2, 0), exit_()], "through a plain number", 1),
    ([mov64(R0, 0), again, alu64("add", R0, 0), ja(again)], "loop|never", -1),
    (
        [
            st("w", R10, 0, -4),
            map_fd(R1, "m"),
            mov64(R2, R10),
            alu64("add", R2, -4),
            call(HELPERS["map_lookup_elem"].id),
            ldx("dw", R0, R0, 0),
            exit_(),
        ],
        "may be null",
        6,
    ),
    ([map_value(R1, "a"), ldx("dw", R0, R1, 8), exit_()], "8 bytes at offset 8 of a map value of 8 bytes", 2),
    ([st("dw", R10, 0, -520), mov64(R0, 0), exit_()], "uses the stack at offset -520", 0),
    (
        [
            map_fd(R1, "r"),
            mov64(R2, 16),
            mov64(R3, 0),
            call(HELPERS["ringbuf_reserve"].id),
            mov64(R0, 0),
            exit_(),
        ],
        "without giving back|may be null",
        -1,
    ),
    (
        [stx("dw", R10, R1, -8), ldx("w", R0, R10, -6), exit_()],
        "not aligned|corrupted|uses the stack|invalid size",
        1,
    ),
    ([mov64(R0, R10), alu64("mul", R0, 2), exit_()], "arithmetic", 1),
    ([call(9999), exit_()], "no helper with that number", 0),
]


@pytest.mark.live
@pytest.mark.parametrize(("items", "words", "insn"), REFUSED, ids=[words for _, words, _ in REFUSED])
def test_the_running_kernels_wording(items: list[Item], words: str, insn: int) -> None:
    specs = [MAP, ARRAY, RING]
    maps = {spec.name: Map.create(spec) for spec in specs}
    try:
        with pytest.raises(VerifierError) as caught:
            load(image("refused", "tracepoint", items, maps=specs), maps)
    finally:
        for one in maps.values():
            one.close()
    error = caught.value
    assert any(word in error.reason for word in words.split("|")), error.log
    assert insn in (-1, error.insn)
    assert error.log in error.detail
    assert "\n" not in str(error)
