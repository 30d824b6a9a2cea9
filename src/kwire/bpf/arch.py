"""Where a function's arguments are: `struct pt_regs` as a kprobe program sees it, one row an architecture.

Offsets are bytes from the start of the program's context. On arm64 the context begins with
`struct user_pt_regs`, whose layout is fixed for user space. All architectures here are little-endian, 64
bits. Sources: the System V ABI for x86-64, the procedure call standard for AArch64, and the kernel's ptrace.h
of each.
"""

import os

from kwire.errors import KwireError
from kwire.hints import Final
from kwire.lazy import NamedTuple


class Arch(NamedTuple):
    """Offsets in pt_regs, and what else differs between architectures.

    `args`: of the argument registers of a function, in order; `stack_args`: of the first argument that is
    passed on the stack, from the stack pointer at the function's entry; `syscall_args`: of the arguments of a
    system call; `ret`, `ret_high`: of the return value, and of the high half of one of 16 bytes; `ip`, `sp`,
    `fp`: instruction, stack and frame pointer; `link`: of the register that holds the return address at a
    function's entry, None where that is on the top of the stack; `size`: bytes of the context that may be
    read; `registers`: all by name; `syscall_prefix`: what the functions of system calls are called, before
    the call's name; `machine`: what uname says.
    """

    machine: str
    args: tuple[int, ...]
    stack_args: int
    syscall_args: tuple[int, ...]
    ret: int
    ret_high: int
    ip: int
    sp: int
    fp: int
    link: int | None
    size: int
    registers: dict[str, int]
    syscall_prefix: str


def _arch(
    machine: str,
    names: str,
    args: str,
    syscall_args: str,
    special: tuple[str, str, str, str, str, str | None],
    stack_args: int,
    syscall_prefix: str,
) -> Arch:
    at = {name: 8 * index for index, name in enumerate(names.split())}
    ret, ret_high, ip, sp, fp, link = special
    return Arch(
        machine,
        tuple(at[name] for name in args.split()),
        stack_args,
        tuple(at[name] for name in syscall_args.split()),
        at[ret],
        at[ret_high],
        at[ip],
        at[sp],
        at[fp],
        None if link is None else at[link],
        8 * len(at),
        at,
        syscall_prefix,
    )


ARCHES: Final = {
    "x86_64": _arch(
        "x86_64",
        "r15 r14 r13 r12 bp bx r11 r10 r9 r8 ax cx dx si di orig_ax ip cs flags sp ss",
        args="di si dx cx r8 r9",
        syscall_args="di si dx r10 r8 r9",
        special=("ax", "dx", "ip", "sp", "bp", None),
        stack_args=8,
        syscall_prefix="__x64_sys_",
    ),
    "aarch64": _arch(
        "aarch64",
        " ".join(f"x{n}" for n in range(31)) + " sp pc pstate",
        args="x0 x1 x2 x3 x4 x5 x6 x7",
        syscall_args="x0 x1 x2 x3 x4 x5",
        special=("x0", "x1", "pc", "sp", "x29", "x30"),
        stack_args=0,
        syscall_prefix="__arm64_sys_",
    ),
}
ALIASES: Final = {"arm64": "aarch64", "amd64": "x86_64"}


def named(machine: str) -> Arch:
    """The row of a machine, by any of its usual names. Raises `KwireError` when there is none."""
    arch = ARCHES.get(ALIASES.get(machine, machine))
    if arch is None:
        cure = "supported are " + " and ".join(ARCHES)
        raise KwireError("find registers of", machine, "this architecture is not known", cure)
    return arch


def host() -> Arch:
    """The architecture this runs on."""
    return named(os.uname().machine)
