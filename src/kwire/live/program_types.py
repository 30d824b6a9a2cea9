"""What the debugging information of programs tells, beside the kernel's types: the types of their functions,
and where the code of a line begins.

Invariant: a file is read when a probe asks for what only it tells (`args.name`, a structure of the program's,
`FILE@source.c:22`), and closed again.
"""

import os
from collections.abc import Sequence

from kwire.btf.blob import Btf
from kwire.btf.errors import BtfLookupError
from kwire.btf.store import Kernel
from kwire.hints import Any
from kwire.kernel.binaries import binary, files
from kwire.kernel.targets import CatalogError, Target
from kwire.kernel.usersyms import debug_file
from kwire.kinds import KINDS


def types_of(
    target: Target, kernel: Kernel, folders: Sequence[str] = (), kept: dict[str, Any] | None = None
) -> Btf:
    """The types of a function of a program, as BTF behind the kernel's; `folders`: where debugging
    information is looked for, too; `kept`: as in `function_types`. Raises BtfLookupError, ElfError.
    """
    if target.name[:1].isdigit():  # an address
        raise BtfLookupError(target.group, target.name, "only a function by its name has arguments by theirs")
    symbols = binary(target.group).functions.get(target.name)
    if not symbols:
        raise BtfLookupError(target.group, target.name, "no function of this name is there")
    from kwire.btf.dwarf import function_types

    path = debug_file(target.group, folders)
    return function_types(path, target.name, symbols[0].address, kernel.vmlinux, kept)


def at_line(
    kind: str, file: str, line: str, pids: Sequence[int] = (), folders: Sequence[str] = ()
) -> list[Target] | None:
    """The targets of `program@source.c:22`; None for what is no such thing. Raises KwireError."""
    program, _, source = file.rpartition("@")
    if not program or not line.isdecimal() or os.path.exists(file):
        return None
    if KINDS[kind].result:
        raise CatalogError(kind, f"{file}:{line}", "no line returns", cure="name the function")
    from kwire.btf.dwarf import line_addresses

    found: list[Target] = []
    first: BtfLookupError | None = None
    for path in files(program, pids):
        try:
            addresses = line_addresses(debug_file(path, folders), source, int(line))
        except BtfLookupError as error:
            first = first or error
        else:
            found += [Target(kind, path, hex(address)) for address in addresses]
    if first is not None and not found:
        raise CatalogError(kind, f"{file}:{line}", first.cause, cure=first.cure)
    return found
