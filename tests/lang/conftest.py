"""A toy kernel to compile against: a few structures, functions and tracepoints, written as BTF of its own."""

from __future__ import annotations

import importlib.util
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from kwire.btf.store import load_kernel
from kwire.kinds import KINDS
from kwire.lang import attach_points, python
from kwire.lang.check import check
from kwire.lang.checked import Program
from kwire.lang.context import Site
from kwire.lang.kerneltypes import KernelTypes

HERE = Path(__file__).parent


def _writer() -> ModuleType:
    """The writer of BTF blobs lives with the tests of the room btf."""
    spec = importlib.util.spec_from_file_location("btf_writer", HERE.parent / "btf" / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def btf_writer() -> ModuleType:
    """The module that writes BTF."""
    return _writer()


def toy_btf() -> bytes:
    """The toy kernel's types: written once to learn the id of `struct sock`, then again to point to it."""
    return _toy(_toy(0)[1])[0]


def _toy(sock_id: int) -> tuple[bytes, int]:
    """Offsets are in bits, as in BTF."""
    w = _writer()
    b = w.Builder()
    int_ = b.integer("int", 4, True)
    char = b.integer("char", 1)
    u8 = b.ref(w.TYPEDEF, b.integer("unsigned char", 1), "u8")
    u16 = b.ref(w.TYPEDEF, b.integer("unsigned short", 2), "__u16")
    u32 = b.ref(w.TYPEDEF, b.integer("unsigned int", 4), "__u32")
    u64 = b.integer("long unsigned int", 8)
    s64 = b.integer("long int", 8, True)
    bool_ = b.integer("_Bool", 1, flags=4)
    b.ref(w.TYPEDEF, int_, "pid_t")
    b.integer("__int128", 16, True)
    double = b.add(w.FLOAT, "double", 8)
    state = b.enum("state", [("CLOSED", 0), ("OPEN", 1), ("GONE", 7)])
    text = b.ref(w.PTR, b.ref(w.CONST, char))
    tagged = b.ref(w.PTR, b.ref(w.TYPE_TAG, char, "user"))
    code = b.ref(w.PTR, b.proto(0, []))
    declared = b.ref(w.PTR, b.add(w.FWD, "declared", 0))
    common = b.struct(
        "common",
        40,
        [
            ("daddr", u32, 0, 0),
            ("dport", u16, 32, 0),
            ("family", u8, 48, 0),
            ("reuse", u8, 56, 4),
            ("reuseport", u8, 60, 1),
            ("v6", b.array(u8, 16), 64, 0),
            ("depth", int_, 192, 12),
            ("up", b.ref(w.PTR, sock_id), 256, 0),
        ],
    )
    either = b.struct("", 8, [("low", u32, 0), ("whole", u64, 0)], kind=w.UNION)
    file_ = b.struct("file", 16, [("ino", u64, 0), ("bad", double, 64)])
    sock = b.struct(
        "sock",
        256,
        [
            ("common", common, 0),
            ("prio", int_, 320),
            ("cookie", u64, 384),
            ("delta", s64, 448),
            ("file", b.ref(w.PTR, file_), 512),
            ("name", b.array(char, 16), 576),
            ("counts", b.array(u32, 4), 704),
            ("table", b.array(common, 2), 832),
            ("stamps", b.ref(w.PTR, u64), 1472),
            ("label", text, 1536),
            ("hidden", declared, 1600),
            ("", either, 1664),
            ("state", state, 1728),
            ("alive", bool_, 1760),
            ("run", code, 1792),
            ("where", tagged, 1856),
            ("next", b.ref(w.PTR, b.ref(w.PTR, sock_id)), 1920),
            ("mac", b.array(u8, 6), 1984),
        ],
    )
    pointer = b.ref(w.PTR, sock)
    task = b.struct("task_struct", 32, [("tgid", int_, 0), ("real_parent", b.ref(w.PTR, b.next_id + 1), 64)])
    assert task
    b.func("connect", b.proto(int_, [("sk", pointer), ("name", text), ("flags", int_)]))
    b.func("read", b.proto(s64, [("file", b.ref(w.PTR, file_)), ("buf", text), ("count", u64)]))
    b.func("nothing", b.proto(0, []))
    b.func("by_value", b.proto(0, [("a", int_), ("whole", common), ("b", int_)]))
    b.func("many", b.proto(0, [(f"p{number}", u64) for number in range(8)]))
    traced = b.proto(0, [("", b.ref(w.PTR, 0)), ("", bool_), ("", pointer)])
    b.ref(w.TYPEDEF, b.ref(w.PTR, traced), "btf_trace_switch")
    named = b.proto(0, [("__data", b.ref(w.PTR, 0)), ("preempt", bool_), ("prev", pointer)])
    b.func("__bpf_trace_switch", named)
    return bytes(b.blob()), sock


@pytest.fixture(scope="session")
def types(tmp_path_factory: pytest.TempPathFactory) -> KernelTypes:
    """The toy kernel's types."""
    path = tmp_path_factory.mktemp("btf") / "vmlinux"
    path.write_bytes(toy_btf())
    return KernelTypes(load_kernel("", str(path)))


class FormatField(NamedTuple):
    """A field of a tracepoint's format, as the kernel room gives it."""

    name: str
    type: str
    offset: int
    size: int
    signed: bool = False
    length: int | None = None
    location: str = "inline"


FORMATS = {
    "syscalls:sys_enter_openat": (
        FormatField("__syscall_nr", "int", 8, 4, True),
        FormatField("dfd", "int", 16, 8),
        FormatField("filename", "const char *", 24, 8),
        FormatField("buf", "char *", 32, 8),
    ),
    "toy:called": (
        FormatField("len", "int", 8, 4, True),
        FormatField("path", "char", 12, 4, location="data_loc", length=0),
    ),
    "toy:all": (
        FormatField("comm", "char", 8, 16, length=16),
        FormatField("pid", "pid_t", 24, 4, True),
        FormatField("state", "enum state", 28, 4),
        FormatField("saddr", "__u8", 32, 4, length=4),
        FormatField("saddr_v6", "__u8", 36, 16, length=16),
        FormatField("path", "char", 52, 4, location="data_loc", length=0),
        FormatField("blob", "u8", 56, 4, location="rel_loc", length=0),
        FormatField("odd", "struct unknown *", 64, 8),
        FormatField("mystery", "foo_t", 72, 2, True),
        FormatField("ids", "int", 80, 8, length=2),
    ),
}


@pytest.fixture(scope="session")
def site(types: KernelTypes) -> Callable[[str], Site]:
    """Makes the site of `kind:target`."""

    def make(text: str) -> Site:
        kind, _, target = text.partition(":")
        if KINDS[kind].place in ("trace", "timer"):
            return Site(kind, target, ())
        if kind == "tracepoint":
            category, _, name = target.partition(":")
            return attach_points.tracepoint(category, name, FORMATS[target], types)
        if kind == "rawtracepoint":
            return attach_points.raw_tracepoint(target, types)
        name, _, offset = target.partition("+")
        return attach_points.function(kind, name, types, offset=int(offset or 0))

    return make


@pytest.fixture(scope="session")
def compiled(types: KernelTypes, site: Callable[[str], Site]) -> Callable[..., Program]:
    """Checks the one probe in a text, at the place its decorator names. The text's body may stand alone."""

    def make(text: str, where: str = "") -> Program:
        text = textwrap.dedent(text).strip("\n")
        if where:
            kind, _, target = where.partition(":")
            if "def " not in text:
                text = "def probe():\n" + textwrap.indent(text, "    ")
            before, _, after = text.partition("def ")
            text = f"{before}@{kind}{f'({target!r})' if target else ''}\ndef {after}"
        (probe,) = python.parse_file(text, "probe.py")
        (attach,) = probe.attach
        return check(probe, site(f"{attach.kind}:{attach.target}"), types)

    return make
