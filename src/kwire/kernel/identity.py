"""Which process a number means: from a process id of our own pid namespace to the task the kernel knows.

A BPF iterator (Linux 5.8; for one process 6.1) is run over the tasks that our namespace shows: it tells of
each process the number that the kernel's first pid namespace has for it, when it was created and whose child
it is. What it gives is a moment's picture; who must know that a number still means the same process holds a
pidfd of it. The other way, from a task to the number that our namespace has for it, is the programs' own
business (`bpf.task.PidNamespace`); here they learn which namespace ours is.
"""

import os
import struct
from collections.abc import Iterator

from kwire.bpf.asm import (
    R0,
    R1,
    R2,
    R3,
    R6,
    R7,
    R8,
    R9,
    R10,
    Item,
    Label,
    alu64,
    call,
    exit_,
    image,
    jmp,
    ldx,
    mov64,
    stx,
)
from kwire.bpf.helpers import NAMES
from kwire.bpf.image import Image
from kwire.bpf.task import PidFields, PidNamespace, TaskFields
from kwire.kernel.prog import function_btf_id, load
from kwire.kernel.sys import ATTACH_TYPES, bpf, failure
from kwire.kernel.syscall import Fd, KernelError
from kwire.kernel.task_programs import read_kernel
from kwire.kernel.tasks import Identity
from kwire.lazy import NamedTuple

RECORD = struct.Struct("=QII")
OWN = struct.Struct("=QQ")
ITERATOR = "bpf_iter_task"
SEQ_WRITE = NAMES.index("seq_write")


class Process(NamedTuple):
    """A process of the picture; `parent`: the number of the process that it is a child of."""

    identity: Identity
    parent: int


def find(pid: int, fields: TaskFields) -> Process | None:
    """The process that has this id in our pid namespace, None where none has. Raises KernelError."""
    return next(iter(_walk(fields, pid)), None)


def everybody(fields: TaskFields) -> list[Process]:
    """All processes that our pid namespace shows. Raises KernelError."""
    return list(_walk(fields, 0))


def own_namespace(fields: PidFields) -> PidNamespace:
    """The pid namespace that shows us by the number that `os.getpid` gives. Raises KernelError."""
    for level, address in OWN.iter_unpack(_run(namespace_program(fields), os.getpid())):
        return PidNamespace(level, address, fields)
    raise KernelError("find", "our pid namespace", "the kernel does not tell of our process")


def try_iterator() -> None:
    """Walk over our own process with a program that does nothing. Raises KernelError where that cannot be."""
    _run(image("kwire_probe", "iter", [mov64(R0, 0), exit_()]), os.getpid())


def _walk(fields: TaskFields, pid: int) -> Iterator[Process]:
    """One record a process; `pid`: of this one only, 0 for all."""
    for started, number, parent in RECORD.iter_unpack(_run(program(fields), pid)):
        yield Process(Identity(number, started), parent)


def _run(iterator: Image, pid: int) -> bytes:
    """What an iterator writes of the tasks of this process, 0 for all."""
    with load(iterator, {}, attach_btf_id=function_btf_id(ITERATOR)) as prog:
        only = struct.pack("=III", 0, pid, 0)  # union bpf_iter_link_info: thread, process, pidfd
        link = Fd(
            bpf(
                "link_create_iter",
                prog_fd=prog.fd,
                attach_type=ATTACH_TYPES["iter"],
                iter_info=only if pid else None,
                iter_info_len=len(only) if pid else 0,
            )
        )
    data = bytearray()
    with link, Fd(bpf("iter_create", link_fd=link.fd)) as pictures:
        try:
            while part := os.read(pictures.fd, 1 << 16):
                data += part
        except OSError as error:
            raise failure("walk", "the kernel's tasks", error.errno or 0) from None
    return bytes(data)


def program(fields: TaskFields) -> Image:
    """For each task that leads a process, write a `RECORD`."""
    out = Label("out")
    return image(
        "processes",
        "iter",
        [
            ldx("dw", R6, R1, 0),  # struct bpf_iter__task: meta, task
            ldx("dw", R7, R1, 8),
            jmp("eq", R7, 0, out),  # the end
            ldx("w", R1, R7, fields.tgid),
            ldx("w", R2, R7, fields.pid),
            jmp("ne", R1, R2, out),
            stx("w", R10, R1, -8),
            ldx("dw", R1, R7, fields.start_time),
            stx("dw", R10, R1, -16),
            ldx("dw", R1, R7, fields.real_parent),
            ldx("w", R1, R1, fields.tgid),
            stx("w", R10, R1, -4),
            *_write(RECORD.size),
            out,
            mov64(R0, 0),
            exit_(),
        ],
    )


def namespace_program(fields: PidFields) -> Image:
    """For a task, write an `OWN`: the level and the address of its pid namespace."""
    out = Label("out")
    return image(
        "namespace",
        "iter",
        [
            ldx("dw", R6, R1, 0),
            ldx("dw", R7, R1, 8),
            jmp("eq", R7, 0, out),
            *read_kernel(R7, fields.thread_pid, -8, 8, out),
            ldx("dw", R8, R10, -8),
            *read_kernel(R8, fields.level, -8, 4, out),
            ldx("w", R9, R10, -8),
            stx("dw", R10, R9, -16),
            alu64("mul", R9, fields.step),
            alu64("add", R8, R9),
            *read_kernel(R8, fields.numbers + fields.namespace, -8, 8, out),
            *_write(OWN.size),
            out,
            mov64(R0, 0),
            exit_(),
        ],
    )


def _write(size: int) -> list[Item]:
    """Write the top bytes of the frame to the file of the iterator, whose `meta` is in r6."""
    return [
        ldx("dw", R1, R6, 0),  # struct bpf_iter_meta: seq
        mov64(R2, R10),
        alu64("add", R2, -size),
        mov64(R3, size),
        call(SEQ_WRITE),
    ]
