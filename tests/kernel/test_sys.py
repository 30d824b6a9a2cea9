"""The argument structures, against the C compiler; errors and descriptors."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from kwire.kernel import sys as calls
from kwire.kernel.sys import ATTRS, INFOS, PERF_ATTR, Layout, Struct
from kwire.kernel.syscall import Fd, KernelError

# Our name of a command's or structure's layout -> the C type, and the member that it is, where it has a name.
C_TYPES = {
    **dict.fromkeys(ATTRS, ("union bpf_attr", "")),
    "map_lookup_batch": ("union bpf_attr", "batch."),
    "map_update_batch": ("union bpf_attr", "batch."),
    "prog_test_run": ("union bpf_attr", "test."),
    "obj_get_info_by_fd": ("union bpf_attr", "info."),
    "raw_tracepoint_open": ("union bpf_attr", "raw_tracepoint."),
    "enable_stats": ("union bpf_attr", "enable_stats."),
    "link_create_perf": ("union bpf_attr", "link_create."),
    "link_create_tracing": ("union bpf_attr", "link_create."),
    "link_create_multi": ("union bpf_attr", "link_create."),
    "link_create_uprobes": ("union bpf_attr", "link_create."),
    "link_create_iter": ("union bpf_attr", "link_create."),
    "iter_create": ("union bpf_attr", "iter_create."),
}
# Our field names that differ from the C ones, and those that the oldest headers we build with do not have.
RENAMED = {
    ("link_create_perf", "bpf_cookie"): "perf_event.bpf_cookie",
    ("link_create_tracing", "cookie"): "tracing.cookie",
    ("link_create_multi", "multi_flags"): "kprobe_multi.flags",
    **{("link_create_multi", name): f"kprobe_multi.{name}" for name in ("cnt", "syms", "addrs", "cookies")},
    **{(command, "id"): "start_id" for command in ATTRS if "_id" in command},
}
# Members that older headers do not have, with their offsets in newer ones.
NEWER = {
    ("raw_tracepoint_open", "cookie"): 16,
    ("prog_load", "log_true_size"): 140,
    ("btf_load", "btf_log_true_size"): 28,
    **{
        ("link_create_uprobes", name): offset
        for name, offset in {
            "path": 16,
            "offsets": 24,
            "ref_ctr_offsets": 32,
            "cookies": 40,
            "cnt": 48,
            "uprobe_flags": 52,
            "pid": 56,
        }.items()
    },
}


def c_offsets(members: list[tuple[str, str]], folder: Path) -> list[int]:
    """Offsetof each (type, member), by the C compiler."""
    lines = "".join(f'printf("%zu\\n", offsetof({c}, {member}));' for c, member in members)
    source = (
        "#include <stdio.h>\n#include <stddef.h>\n#include <linux/bpf.h>\n#include <linux/perf_event.h>\n"
        f"int main(void) {{ {lines} return 0; }}"
    )
    path = folder / "offsets"
    subprocess.run(["gcc", "-xc", "-", "-o", path], input=source, text=True, check=True)
    return [int(line) for line in subprocess.run([path], capture_output=True, check=True).stdout.split()]


@pytest.mark.skipif(not shutil.which("gcc"), reason="no C compiler")
def test_layouts_are_those_of_the_headers(tmp_path: Path) -> None:
    members, ours = [], []
    for command, (_, text) in ATTRS.items():
        c, prefix = C_TYPES[command]
        for name, (offset, _, _) in Layout(text).fields.items():
            if (command, name) in NEWER:
                assert offset == NEWER[command, name]
                continue
            members.append((c, prefix + RENAMED.get((command, name), name)))
            ours.append((command, name, offset))
    for kind in ("prog", "map", "btf", "link"):
        for name, (offset, _, _) in Layout(INFOS[kind]).fields.items():
            if name != "gpl_compatible":  # a bit-field has no offset in C
                members.append((f"struct bpf_{kind}_info", name))
                ours.append((kind, name, offset))
    theirs = c_offsets(members, tmp_path)
    assert [(one, c) for one, c in zip(ours, theirs, strict=True) if one[2] != c] == []


@pytest.mark.skipif(not shutil.which("gcc"), reason="no C compiler")
def test_the_perf_attribute_is_that_of_the_headers(tmp_path: Path) -> None:
    names = {"flags": "", "pad": "__reserved_2"}
    ours = {name: offset for name, (offset, _, _) in Layout(PERF_ATTR).fields.items()}
    wanted = [(name, names.get(name, name)) for name in ours if names.get(name, name)]
    theirs = c_offsets([("struct perf_event_attr", member) for _, member in wanted], tmp_path)
    assert [ours[name] for name, _ in wanted] == theirs
    assert ours["flags"] == ours["read_format"] + 8  # bit-fields
    assert Layout(PERF_ATTR).size == 112


def test_a_structure_keeps_what_it_is_given() -> None:
    one = Struct("a:u16 b:u64 name:c8 p:ptr", {"a": 0xABCD, "b": -1, "name": "abc", "p": b"xyz"})
    assert (one["a"], one["b"], one.text("name")) == (0xABCD, 2**64 - 1, "abc")
    assert one["p"] != 0
    assert len(one.buffer) == 32
    assert one.has("name", 24)
    assert not one.has("p", 31)


def test_an_unknown_member_is_an_error() -> None:
    with pytest.raises(KeyError):
        Struct("a:u32", {"b": 1})


@pytest.mark.live
def test_errno_travels_in_the_error() -> None:
    with pytest.raises(KernelError) as caught:
        calls.bpf("iter_create", link_fd=-1)
    assert caught.value.errno == errno.EBADF
    assert "EBADF" in str(caught.value)


def test_a_forgotten_descriptor_is_closed() -> None:
    read, write = os.pipe()
    os.close(write)
    Fd(read)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(read)


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("0", [0]), ("0-3\n", [0, 1, 2, 3]), ("0-1,4,6-7", [0, 1, 4, 6, 7]), ("\n", [])],
)
def test_cpu_lists(text: str, cpus: list[int]) -> None:
    assert calls.cpu_list(text) == cpus
