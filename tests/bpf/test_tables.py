"""Tables of facts about kernels and processors, held against the kernel; and what importing costs."""

import subprocess
import sys
from typing import Protocol

import pytest

from kwire.bpf import arch, asm
from kwire.bpf.asm import R0
from kwire.bpf.helpers import HELPERS, NAMES
from kwire.bpf.insn import encode
from kwire.errors import KwireError


class Kernel(Protocol):
    def verifier_log(self, code: bytes, kind: str = ..., license: bytes = ...) -> str: ...


def test_numbers_of_helpers() -> None:
    """Anchors from include/uapi/linux/bpf.h along the list: one name too many or too few would show."""
    known = {
        "map_lookup_elem": 1,
        "get_current_comm": 16,
        "perf_event_output": 25,
        "get_current_task": 35,
        "get_current_cgroup_id": 80,
        "probe_read_user": 112,
        "probe_read_kernel_str": 115,
        "jiffies64": 118,
        "get_ns_current_pid_tgid": 120,
        "get_current_ancestor_cgroup_id": 123,
        "ktime_get_boot_ns": 125,
        "ringbuf_output": 130,
        "get_current_task_btf": 158,
        "get_func_ip": 173,
        "get_attach_cookie": 174,
        "loop": 181,
        "get_func_arg": 183,
        "get_func_ret": 184,
        "cgrp_storage_delete": 211,
    }
    assert {name: NAMES.index(name) for name in known} == known
    assert len(set(NAMES)) == len(NAMES) == 212
    assert all(NAMES[row.id] == name for name, row in HELPERS.items())
    assert all(len(row.args) <= 5 for row in HELPERS.values())


@pytest.mark.live
@pytest.mark.native
def test_the_kernel_calls_helpers_by_the_same_names(kernel: Kernel) -> None:
    for number in range(1, len(NAMES)):
        code = encode(asm.assemble([asm.call(number), asm.mov64(R0, 0), asm.exit_()]))
        assert f"call bpf_{NAMES[number]}#{number}" in kernel.verifier_log(code, "kprobe"), NAMES[number]


ELSEWHERE = {"get_func_arg", "get_func_ret", "get_func_arg_cnt", "get_socket_cookie", "seq_write"}
"""Helpers that a kprobe program cannot call at all."""


@pytest.mark.live
@pytest.mark.native
@pytest.mark.parametrize("name", [name for name in HELPERS if name not in ELSEWHERE])
def test_the_kernel_wants_gpl_for_the_same_helpers(name: str, kernel: Kernel) -> None:
    code = encode(asm.assemble([asm.call(HELPERS[name].id), asm.mov64(R0, 0), asm.exit_()]))
    log = kernel.verifier_log(code, "kprobe", b"Proprietary")
    assert "unknown func" not in log
    assert "cannot use helper" not in log
    assert ("cannot call GPL-restricted function" in log) == HELPERS[name].gpl


def pt_regs_of_the_kernel() -> dict[str, int]:
    from kwire.btf.store import load_kernel
    from kwire.btf.types import Kind, Struct

    btf = load_kernel(cache_dir="").vmlinux
    regs = btf.type(btf.find("pt_regs", Kind.STRUCT))
    assert isinstance(regs, Struct)
    return {member.name: member.offset_bits // 8 for member in regs.members if member.name}


@pytest.mark.live
def test_pt_regs_are_those_of_the_running_kernel() -> None:
    row, theirs = arch.host(), pt_regs_of_the_kernel()
    ours = {name: at for name, at in row.registers.items() if name in theirs}
    assert ours == {name: theirs[name] for name in ours}
    assert len(ours) >= len(row.registers) - 2  # since FRED, cs and ss are inside of unions without a name


def test_arm64_is_laid_out_as_user_pt_regs() -> None:
    row = arch.named("arm64")
    assert row is arch.named("aarch64")
    assert row.args == tuple(range(0, 64, 8))
    assert (row.ret, row.sp, row.ip, row.link, row.size) == (0, 248, 256, 240, 272)
    assert row.syscall_prefix + "openat" == "__arm64_sys_openat"


def test_x86_64_arguments_follow_the_abi() -> None:
    row = arch.named("x86_64")
    at = row.registers
    assert row.args == tuple(at[name] for name in ("di", "si", "dx", "cx", "r8", "r9"))
    assert row.syscall_args[3] == at["r10"]
    assert (row.ret, row.ip, row.sp, row.size) == (80, 128, 152, 168)


def test_other_machines_are_a_clear_error() -> None:
    with pytest.raises(KwireError, match="supported are x86_64 and aarch64"):
        arch.named("vax")


def test_what_the_compiler_needs_imports_nothing_heavy() -> None:
    """On the way to the first event: no interpreter, no dataclasses, no inspect, no re."""
    program = """
import sys
before = set(sys.modules)
import kwire.bpf.image, kwire.bpf.insn, kwire.bpf.asm, kwire.bpf.helpers, kwire.bpf.arch
print("\\n".join(sorted(set(sys.modules) - before)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "kwire.bpf.asm" in loaded
    heavy = {"dataclasses", "inspect", "numpy", "ctypes", "kwire.bpf.vm", "kwire.bpf.semantics"}
    assert loaded & heavy == set()
