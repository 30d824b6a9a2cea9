"""Where the instructions of a program begin: a breakpoint inside of one changes what it does, and mostly ends
the program.

Read by capstone, of the extra `symbols`; nothing here is imported before a probe has an offset.
"""

from kwire.errors import KwireError
from kwire.hints import Final
from kwire.kernel.elf import Elf, Symbol

WIDE: Final = {"aarch64": 4}
"""Bytes of each instruction, of machines where all are alike; each begins at a multiple of it."""

LONGEST: Final = 15
"""Bytes of an x86 instruction, at most (Intel SDM, volume 2, 2.3.11)."""


def check(file: Elf, path: str, function: Symbol, address: int) -> None:
    """Raises KwireError where no instruction begins at an address of a function, or nobody can tell."""
    what, inside = f"{path}:{function.name}+{address - function.address}", "it is inside of an instruction"
    wide = WIDE.get(file.machine)
    if wide:
        if address % wide:
            raise KwireError("probe", what, inside, f"write +{(address - function.address) // wide * wide}")
        return
    begin, last = _begins(file, path, function, address)
    if begin == address:
        return
    if last < address:
        cause = f"nobody can tell instructions from data behind {function.name}+{last - function.address}"
        raise KwireError("probe", what, cause, "give an offset before that")
    raise KwireError("probe", what, inside, f"the one there begins at +{begin - function.address}")


def _begins(file: Elf, path: str, function: Symbol, address: int) -> tuple[int, int]:
    """Where the last instruction that begins at or before an address does, and where what was read ends."""
    try:
        import capstone
    except ImportError:
        cause = "whether an instruction begins there is not known: capstone, which tells it, is not installed"
        raise KwireError("probe", f"{path}:{function.name}", cause, "pip install 'kwire[symbols]'") from None
    offset = file.file_offset(function.address, code=True)
    if offset is None:
        return function.address, function.address
    try:
        with open(path, "rb") as opened:
            opened.seek(offset)
            code = opened.read(address - function.address + LONGEST)
    except OSError as error:
        raise KwireError("read", path, (error.strerror or str(error)).lower()) from None
    mode = capstone.CS_MODE_64 if file.machine == "x86_64" else capstone.CS_MODE_32
    begin = end = function.address
    for at, size, *_ in capstone.Cs(capstone.CS_ARCH_X86, mode).disasm_lite(code, function.address):
        if at > address:
            break
        begin, end = at, at + size
    return begin, end
