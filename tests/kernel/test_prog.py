"""Loading programs: what is given to the kernel, what comes back, what a refusal looks like."""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Callable
from typing import Any

import pytest

from kwire.bpf.asm import (
    R0,
    R1,
    R2,
    R10,
    Item,
    Label,
    alu64,
    exit_,
    image,
    jmp,
    ldx,
    map_fd,
    map_value,
    mov64,
    st,
    stx,
)
from kwire.bpf.image import Image, Line, MapSpec
from kwire.kernel import prog as programs
from kwire.kernel.maps import Map
from kwire.kernel.prog import KINDS, Prog, VerifierError, function_btf_id, link, load, source_line
from kwire.kernel.sys import info, try_bpf
from kwire.kernel.syscall import KernelError

NOTHING = (mov64(R0, 0), exit_())
VALUES = MapSpec("values", "array", 4, 16, 1)


def typed(one: Image) -> Image:
    """The program with BTF that says it is `static int main(void)`."""
    strings = b"\0int\0main\0probe.py\0return x\0"
    types = struct.pack("=IIII", 1, 1 << 24, 4, 1 << 24 | 32)
    types += struct.pack("=III", 0, 13 << 24, 1) + struct.pack("=III", 5, 12 << 24, 2)
    header = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    return one._replace(
        btf=header + types + strings,
        func_info=struct.pack("=II", 0, 3),
        line_info=struct.pack("=IIII", 0, 10, 19, 7 << 10 | 3),
    )


@pytest.mark.live
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("fentry", "fexit", "syscall")])
def test_every_kind_loads(kind: str) -> None:
    function = function_btf_id("bpf_iter_task") if kind == "iter" else 0
    with load(image(f"a {kind}", kind, NOTHING), {}, attach_btf_id=function) as prog:
        info = prog.info()
        assert info.id > 0
        assert len(info.tag) == 16
        assert info.recursion_misses == 0
        assert prog._fdinfo()._replace(insns=0) == info._replace(insns=0)
        assert not os.get_inheritable(prog.fd)
    prog.close()


@pytest.mark.live
def test_a_program_runs_on_given_bytes() -> None:
    items = [
        ldx("w", R0, R1, 0),
        alu64("add", R0, 1),
        exit_(),
    ]  # the length of a packet without its Ethernet header, and one
    with load(image("length", "socket_filter", items), {}) as prog:
        assert prog.test_run(bytes(60)).result == 60 - 14 + 1
        assert prog.test_run(bytes(100), repeat=10).result == 100 - 14 + 1
        with pytest.raises(KernelError):
            prog.test_run(b"")


@pytest.mark.live
def test_maps_are_linked_by_name_and_offset() -> None:
    items: list[Item] = [map_value(R1, "values", 8), mov64(R2, 77), stx("dw", R1, R2, 0), *NOTHING]
    one = image("store", "socket_filter", items, maps=[VALUES])
    with Map.create(VALUES) as values, load(one, {"values": values}) as prog:
        prog.test_run(bytes(60))
        assert values.lookup(bytes(4)) == struct.pack("=QQ", 0, 77)
        with load(one, {"values": values.fd}) as again:
            assert again.info().tag == prog.info().tag


def test_linking_fills_in_descriptors_and_leaves_the_image_alone() -> None:
    one = image("store", "kprobe", [map_value(R1, "values", 8), *NOTHING], maps=[VALUES])
    code = link(one, {"values": 1234})
    assert struct.unpack_from("=BBhi", code) == (0x18, 0x21, 0, 1234)
    assert struct.unpack_from("=BBhi", code, 8) == (0, 0, 0, 8)
    assert one.code != code
    with pytest.raises(KernelError, match="no map called 'values'"):
        link(one, {})


def test_the_line_of_an_instruction() -> None:
    lines = tuple(Line(insn, "f.py", number, 1, "") for insn, number in ((0, 10), (4, 11), (2, 12)))
    one = image("x", "kprobe", NOTHING, lines=lines)
    assert [getattr(source_line(one, insn), "line", None) for insn in (-1, 0, 1, 2, 3, 4, 99)] == [
        None,
        10,
        10,
        12,
        12,
        11,
        11,
    ]


@pytest.mark.live
def test_a_refusal_names_the_limit_that_was_met() -> None:
    names = [f"m{number}" for number in range(65)]
    specs = [VALUES._replace(name=name) for name in names]
    many = image("many", "socket_filter", [*(map_fd(R1, name) for name in names), *NOTHING], maps=specs)
    with contextlib.ExitStack() as stack:
        maps = {spec.name: stack.enter_context(Map.create(spec)) for spec in specs}
        with pytest.raises(KernelError, match="it uses 65 maps, a program may use 64"):
            load(many, maps)
    short = image("long", "socket_filter", NOTHING)
    with pytest.raises(KernelError, match="it has 1000002 instructions, a program may have 1000000"):
        load(short._replace(code=short.code[:8] * 1_000_001 + short.code[8:]), {})
    with load(short._replace(code=short.code[:8] * 999 + short.code[8:]), {}):
        pass


@pytest.mark.live
def test_a_refusal_shows_the_source_line() -> None:
    lines = [Line(0, "probe.py", 3, 5, "    a = 1"), Line(1, "probe.py", 4, 5, "    return nothing")]
    with pytest.raises(VerifierError) as caught:
        load(
            image(
                "wrong",
                "tracepoint",
                [mov64(R2, 1), mov64(R0, R10), ldx("dw", R0, R0, 8), exit_()],
                lines=lines,
            ),
            {},
        )
    error = caught.value
    assert error.line == lines[1]
    assert "probe.py:4: `return nothing`: " in str(error)
    assert error.errno in (errno.EACCES, errno.EINVAL)
    assert "(79) r0 = *(u64 *)(r0 +8)" in error.detail


@pytest.mark.live
def test_type_information_reaches_the_kernel() -> None:
    with load(typed(image("typed", "tracepoint", NOTHING)), {}) as prog:
        assert prog.btf
        told, _ = info("prog", prog.fd)
        assert told["nr_func_info"] == told["nr_line_info"] == 1
        assert told["btf_id"]


@pytest.mark.live
def test_type_information_that_the_kernel_refuses_is_left_out() -> None:
    good = typed(image("untyped", "tracepoint", NOTHING))
    with load(good._replace(btf=b"\0" + good.btf[1:]), {}) as prog:
        assert not prog.btf
        assert not info("prog", prog.fd)[0]["btf_id"]


@pytest.mark.live
def test_good_type_information_with_wrong_functions_is_not_hidden() -> None:
    wrong = typed(image("wrong", "tracepoint", NOTHING))._replace(func_info=struct.pack("=II", 0, 1))
    with pytest.raises(KernelError):  # type 1 is no function
        load(wrong, {})


def long_and_wrong(size: int) -> Image:
    """A program whose log has a few hundred bytes for each of many instructions, and which is refused at
    the end.
    """
    items: list[Item] = [st("dw", R10, 0, -8)]
    for number in range(size):
        skip = Label()
        items += [ldx("dw", R1, R10, -8), alu64("add", R1, number), jmp("eq", R1, number, skip), skip]
    return image("long", "tracepoint", [*items, mov64(R0, R2), ldx("dw", R0, R0, 0), exit_()])


@pytest.mark.live
@pytest.mark.parametrize("size", [200, 5000, pytest.param(60000, marks=pytest.mark.native)])
def test_the_complaint_is_found_in_a_long_log(size: int) -> None:
    with pytest.raises(VerifierError, match="register r2 is used before") as caught:
        load(long_and_wrong(size), {})
    assert caught.value.insn == 1 + 3 * size


@pytest.mark.live
def test_the_log_is_not_asked_for_when_all_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def watched(command: str, **fields: Any) -> Any:
        seen.append((command, fields.get("log_level", 0)))
        return try_bpf(command, **fields)

    monkeypatch.setattr(programs, "try_bpf", watched)
    load(image("fine", "tracepoint", NOTHING), {}).close()
    assert seen == [("prog_load", 0)]
    seen.clear()
    with pytest.raises(VerifierError):
        load(image("wrong", "tracepoint", [exit_()]), {})
    assert [level for _, level in seen] == [0, 1]


@pytest.mark.live
def test_unknown_kinds_and_impossible_programs() -> None:
    with pytest.raises(KernelError, match="no kind of program"):
        load(image("x", "no such kind", NOTHING), {})
    with pytest.raises(KernelError):
        load(image("x", "tracepoint", []), {})


@pytest.mark.needs("fentry")
def test_a_function_entry_program_loads() -> None:
    for kind in ("fentry", "fexit"):
        number = function_btf_id("bpf_fentry_test1")
        load(image("entry", kind, NOTHING), {}, attach_btf_id=number).close()
    with pytest.raises(KernelError):
        function_btf_id("no_such_function")


def test_a_program_is_one_value(counting: Callable[..., Image]) -> None:
    assert counting("tracepoint").code
    assert Prog.__slots__ == ("btf", "image")
