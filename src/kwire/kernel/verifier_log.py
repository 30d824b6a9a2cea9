"""What the verifier complained of, in one sentence.

The verifier's log is a walk through the program that ends with the complaint. `summarize` finds the
complaint, the instruction it is about, and a sentence for it; the sentences are the table `SENTENCES`,
first match wins. Wordings differ between kernels, so a rule matches all that are known and an unknown
complaint is passed on as it is.
"""

import re
from typing import NamedTuple


class VerifierMessage(NamedTuple):
    """`text`: the verifier's own words; `sentence`: ours; `insn`: slot index it is about, -1 when unknown."""

    text: str
    sentence: str
    insn: int


# pattern -> sentence, with the pattern's groups
SENTENCES: tuple[tuple[str, str], ...] = (
    (r"R(\d+) !read_ok", "register r{0} is used before anything was put in it"),
    (
        r"(?:unknown func|program of this type cannot use helper) (?:bpf_)?(\w+)#",
        "a program of this kind may not call the helper {0} on this kernel",
    ),
    (r"cannot call GPL-restricted function", "it calls a helper for which its license must be GPL"),
    (r"invalid func unknown#(\d+)|invalid func (\d+)", "this kernel has no helper with that number"),
    (
        r"R\d+ invalid mem access '(?:scalar|inv)'",
        "it reads memory through a plain number; such an address needs a kernel or user read",
    ),
    (
        r"R\d+ invalid mem access '(\w+_or_null)'",
        "it uses a pointer that may be null without checking it first",
    ),
    (r"invalid mem access '(\w+)'", "it reads memory through a value that is no pointer to memory ({0})"),
    (
        r"invalid bpf_context access off=(-?\d+) size=(\d+)",
        "the probe's context has nothing to read at offset {0}, {1} bytes wide",
    ),
    (
        r"invalid access to map value, value_size=(\d+) off=(-?\d+) size=(\d+)",
        "it reads or writes {2} bytes at offset {1} of a map value of {0} bytes",
    ),
    (r"invalid access to packet", "it reads outside the packet"),
    (
        r"invalid access to memory, mem_size=(\d+) off=(-?\d+) size=(\d+)",
        "it reaches outside its memory of {0} bytes",
    ),
    (r"access beyond struct (\w+) at off (\d+)", "it reads beyond the end of struct {0}, at offset {1}"),
    (r"cannot access ptr member (\w+)", "it reads only a part of the pointer {0}"),
    (
        r"(?:combined stack size|stack size) .*? is (\d+)\. Too large",
        "its functions need {0} bytes of stack together, over 512",
    ),
    (
        r"invalid (?:write|read|stack|indirect)[^\n]*stack[^\n]*off[ =](-?\d+)",
        "it uses the stack at offset {0}, outside its 512 bytes or where nothing was stored yet",
    ),
    (
        r"invalid indirect read from stack|invalid read from stack",
        "it passes on stack bytes that were never written",
    ),
    (r"misaligned (\w+) access", "a {0} access is not aligned to its size"),
    (
        r"BPF program is too large\. Processed (\d+) insn",
        "it is too complex: the verifier gave up after {0} instructions; give its loops fewer turns "
        "or it fewer conditions",
    ),
    (
        r"sequence of (\d+) jumps is too complex",
        "it is too complex: more than {0} branches were waiting to be checked; give its loops fewer "
        "turns or it fewer conditions",
    ),
    (r"infinite loop detected|back-edge from insn", "it has a loop whose end the verifier cannot see"),
    (r"unreachable insn (\d+)", "instruction {0} can never be reached"),
    (r"jump out of range", "a jump leaves the program"),
    (r"Unreleased reference|reference leak", "it leaves without giving back what it reserved"),
    (r"R\d+ is not a known constant", "a size that must be a constant is not one"),
    (
        r"unbounded memory access|unbounded min value|min value is (?:negative|outside)|max value is outside",
        "a size or an index has no proven bounds",
    ),
    (r"invalid zero-sized read", "a size may be zero where it must not be"),
    (
        r"math between .* pointer|pointer arithmetic|pointer .* prohibited",
        "it does arithmetic with a pointer that has none",
    ),
    (
        r"R0 .*(?:should have been|not a known value)|At program exit",
        "it returns a value that this kind of probe may not return",
    ),
    (
        r"the call stack of (\d+) frames is too deep|call stack of (\d+) frames",
        "its calls are nested too deeply",
    ),
    (r"missing btf func_info", "it calls back into itself, which needs its type information"),
    (
        r"func '([^']+)' .*doesn't have|arg\d+ .* type",
        "an argument of {0} cannot be read as the program does",
    ),
    (r"(?:BPF_)?(?:unknown|invalid) opcode ([0-9a-f]+)", "this kernel does not know the instruction {0}"),
    (r"trusted|must be referenced", "it passes a pointer that the kernel does not trust"),
)
_RULES: list[tuple[re.Pattern[str], str]] = []

# lines that come after or around the complaint and say nothing about it
_NOISE = re.compile(
    r"processed \d+ insns|verification time|stack depth|^\s*$|^mark_precise|^peak_states|^-- BEGIN|^-- END|^;"
    r"|^func#\d|^(?:cur|old) state:"
)
_INSN = re.compile(r"(\d+): |from \d+ to (\d+): ")
_INSN_IN_TEXT = re.compile(r"\binsn (\d+)")


def summarize(log: str) -> VerifierMessage | None:
    """The complaint that a verifier log ends with, or None where the log holds none."""
    lines = [line.strip() for line in log.splitlines() if not _NOISE.search(line)]
    complaint: list[str] = []
    insn = -1
    for line in reversed(lines):
        at = _INSN.match(line)
        if at:
            insn = int(at[1] or at[2])
            break
        complaint.insert(0, line)
    if not complaint:
        return None
    named = next((found for line in complaint if (found := _INSN_IN_TEXT.search(line))), None)
    if named:
        insn = int(named[1])
    # where it takes several lines, the first says what is wrong and those after it only how
    for line in complaint:
        sentence = _sentence(line)
        if sentence:
            return VerifierMessage(line, sentence, insn)
    return VerifierMessage(complaint[-1], complaint[-1], insn)


def _sentence(text: str) -> str | None:
    if not _RULES:
        _RULES.extend((re.compile(pattern), sentence) for pattern, sentence in SENTENCES)
    for pattern, sentence in _RULES:
        found = pattern.search(text)
        if found:
            return sentence.format(*(group or "" for group in found.groups()))
    return None
