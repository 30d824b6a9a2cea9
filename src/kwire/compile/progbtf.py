"""Type information of our own programs: their functions, and which source line each instruction comes from.

With it the verifier prints source lines between its own (the laws of `struct bpf_func_info` and
`bpf_line_info` are the kernel's): a record for the first instruction, instruction indexes growing, names
valid C identifiers, column at most 1023. All numbers are in the byte order of this machine.
"""

import struct
from collections.abc import Container, Mapping

from kwire.bpf.image import Line
from kwire.lazy import NamedTuple

MAGIC, VERSION, HEADER = 0xEB9F, 1, 24
INT, PTR, FUNC, FUNC_PROTO = 1, 2, 12, 13
GLOBAL = 1  # the linkage of a function
SIGNED_INT = 1 << 24 | 32
COLUMN_MOST = 1023
LINE_MOST = (1 << 22) - 1


class ProgramBtf(NamedTuple):
    """The three pieces that program load takes."""

    btf: bytes
    func_info: bytes
    line_info: bytes


class _Strings:
    """A string section without duplicates."""

    __slots__ = ("data", "known")

    def __init__(self) -> None:
        self.data = bytearray(1)
        self.known = {"": 0}

    def add(self, text: str) -> int:
        offset = self.known.get(text)
        if offset is None:
            offset = self.known[text] = len(self.data)
            self.data += text.encode("utf-8", "backslashreplace").replace(b"\0", b" ") + b"\0"
        return offset


def identifier(name: str) -> str:
    """The name as a C identifier."""
    if name.isidentifier() and name.isascii():
        return name
    import re

    text = re.sub(r"[^A-Za-z0-9_]", "_", name) or "probe"
    return f"_{text}" if text[0].isdigit() else text


def program_btf(
    functions: Mapping[str, int], lines: tuple[Line, ...], whole: Container[str] = ()
) -> ProgramBtf:
    """`int name(void *ctx)` for each function, by the slot at which it begins, and the lines; nothing at all
    for a program nobody wrote. (The kernel takes the types of what is called inside a program from the
    program.) `whole`: those that the verifier looks at by themselves, `u64 name(u64 number)`.
    """
    if not lines:
        return ProgramBtf(b"", b"", b"")
    strings = _Strings()
    types = b"".join(
        (
            struct.pack("=IIII", strings.add("int"), INT << 24, 4, SIGNED_INT),  # type 1
            struct.pack("=III", 0, PTR << 24, 0),  # 2: void *
            struct.pack("=IIIII", 0, FUNC_PROTO << 24 | 1, 1, strings.add("ctx"), 2),  # 3
            struct.pack("=IIII", strings.add("u64"), INT << 24, 8, 64),  # 4
            struct.pack("=IIIII", 0, FUNC_PROTO << 24 | 1, 4, strings.add("number"), 4),  # 5
            *(
                struct.pack(
                    "=III",
                    strings.add(identifier(name)),
                    FUNC << 24 | GLOBAL * (name in whole),
                    5 if name in whole else 3,
                )
                for name in functions
            ),  # 6 …
        )
    )
    func_info = b"".join(struct.pack("=II", slot, 6 + at) for at, slot in enumerate(functions.values()))
    line_info = b"".join(
        struct.pack(
            "=IIII",
            line.insn,
            strings.add(line.file),
            strings.add(line.text),
            min(line.line, LINE_MOST) << 10 | min(line.column, COLUMN_MOST),
        )
        for line in lines
    )
    header = struct.pack("=HBBIIIII", MAGIC, VERSION, 0, HEADER, 0, len(types), len(types), len(strings.data))
    return ProgramBtf(header + types + bytes(strings.data), func_info, line_info)
