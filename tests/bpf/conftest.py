"""Runs the same program in the running kernel and in the interpreter, for tests that compare the two."""

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pytest

from kwire.bpf import asm, insn, vm
from kwire.bpf.image import Image, MapSpec

MEMORY = 256  # bytes of memory that a program gets in r1
OUT = MapSpec("out", "array", 4, 8, 1)
INPUT = MapSpec("memory", "array", 4, MEMORY, 1)


class Outcome(NamedTuple):
    """What a program leaves: its whole r0 and its memory."""

    r0: int
    memory: bytes


def wrapped(items: Sequence[asm.Item], length: int) -> Image:
    """A program as a subprogram: r1 = its memory, r2 = the length; all 64 bits of its r0 go to the map `out`.

    BPF_PROG_TEST_RUN itself gives only 32 bits of it.
    """
    main = asm.Label("main")
    head: list[asm.Item] = [
        asm.map_value(asm.R1, "memory"),
        asm.mov64(asm.R2, length),
        asm.call_local(main),
        asm.map_value(asm.R1, "out"),
        asm.stx("dw", asm.R1, asm.R0, 0),
        asm.mov64(asm.R0, 0),
        asm.exit_(),
        main,
    ]
    return asm.image("test", "rawtracepoint", [*head, *items], [OUT, INPUT])


class Kernel:
    """The running kernel as an executor. Its two maps are made once and used by every program."""

    def __init__(self) -> None:
        from kwire.kernel import maps

        self.maps = {spec.name: maps.Map.create(spec) for spec in (OUT, INPUT)}

    def run(self, items: Sequence[asm.Item], memory: bytes = b"") -> Outcome:
        """Loads and runs once. Raises KernelError where the verifier refuses."""
        from kwire.kernel import prog

        zero = bytes(4)
        self.maps["memory"].update(zero, memory.ljust(MEMORY, b"\0"))
        with prog.load(wrapped(items, len(memory)), self.maps) as loaded:
            loaded.test_run()
        out, left = (self.maps[name].lookup(zero) for name in ("out", "memory"))
        assert out is not None
        assert left is not None
        return Outcome(int.from_bytes(out, "little"), left[: len(memory)])

    def close(self) -> None:
        for made in self.maps.values():
            made.close()

    @staticmethod
    def verifier_log(code: bytes, kind: str = "socket_filter", license: bytes = b"GPL") -> str:
        """Everything the verifier says at log level 2, whether or not it takes the program."""
        from kwire.kernel import sys
        from kwire.kernel.syscall import Fd

        log = bytearray(4 << 20)
        fields: dict[str, sys.Value] = {
            "prog_type": sys.PROG_TYPES[kind],
            "insn_cnt": len(code) // 8,
            "insns": code,
            "license": license,
            "log_level": 2,
            "log_size": len(log),
            "log_buf": log,
        }
        fd, error, _ = sys.try_bpf("prog_load", **fields)
        if not error:
            Fd(fd).close()
        return log.split(b"\0", 1)[0].decode()


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    """An executor on the running kernel; for tests marked live."""
    executor = Kernel()
    yield executor
    executor.close()


def simulate(items: Sequence[asm.Item], memory: bytes = b"") -> Outcome:
    """The same in the interpreter."""
    machine = vm.Machine(wrapped(items, len(memory)))
    value = machine.maps["memory"]
    assert isinstance(value, vm.ArrayMap)
    value.value()[: len(memory)] = memory
    machine.run()
    out = machine.maps["out"]
    assert isinstance(out, vm.ArrayMap)
    return Outcome(struct.unpack("<Q", out.value())[0], bytes(value.value()[: len(memory)]))


@pytest.fixture
def simulator() -> "type[Simulator]":
    """An executor with the same methods, on the interpreter."""
    return Simulator


class Simulator:
    """The interpreter behind the executor's interface."""

    run = staticmethod(simulate)


def code_of(items: Sequence[asm.Item]) -> bytes:
    """The bytes of a program of builders."""
    return insn.encode(asm.assemble(items))
