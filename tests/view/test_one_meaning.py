"""One meaning: what a probe computes of an expression, run by the eBPF machine, is what --where says of the
event that the probe emitted, event by event and by columns.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kwire.bpf import vm
from kwire.bpf.arch import named
from kwire.btf.store import load_kernel
from kwire.compile.build import compile_probe
from kwire.errors import KwireError
from kwire.lang import record
from kwire.lang import types as t
from kwire.lang.check import check_filter
from kwire.lang.context import CtxField, Param, Site
from kwire.lang.kerneltypes import KernelTypes
from kwire.lang.python import parse_expression
from kwire.lang.tree import Source
from kwire.view.filter import Events, vector
from kwire.view.where import Where
from kwire.wire.frames import Frames

SIGNS = t.Enum("sign", 4, False, (("PLUS", 1), ("MINUS", 2)))
PARAMS = (
    Param("a", t.S32, CtxField(8, 4)),
    Param("b", t.U32, CtxField(12, 4)),
    Param("c", t.U64, CtxField(16, 8)),
    Param("d", t.S64, CtxField(24, 8)),
    Param("sign", SIGNS, CtxField(32, 4)),
    Param("few", t.U8, CtxField(36, 1)),
    Param("name", t.Array(t.CHAR, 16), CtxField(40, 16)),
    Param("long", t.Array(t.CHAR, 40), CtxField(56, 40)),
)
SITE = Site("tracepoint", "one:meaning", PARAMS)

EDGES = (0, 1, 2, 3, -1, -2, -3, 7, 255, 1 << 31, (1 << 31) - 1, -(1 << 31), 1 << 32, 1 << 63, -(1 << 63))
NUMBER = st.one_of(
    st.sampled_from(
        ["a", "b", "c", "d", "few", "sign", "-3", "2", "7", "ENOENT", "PLUS", "0xffffffff", "1 << 40"]
    )
)
TEXTS = st.sampled_from(["name", "long", "str(long, 3)", "str(name, 2)"])
WORDS = st.sampled_from(["", "a", "ab", "aba", "b", "bab"])
GLOBS = st.sampled_from(["*", "a*", "*b", "a*b*a", "?b*", "[!a]*", "*[a-b]?", "**a?", "abab"])


def _arithmetic(inner: Any) -> Any:
    operators = st.sampled_from(["+", "-", "*", "//", "%", "&", "|", "^", "<<", ">>"])
    return st.one_of(
        st.builds("({} {} {})".format, inner, operators, inner),
        st.builds("(-{})".format, inner),
        st.builds("(~{})".format, inner),
        st.builds("{}({})".format, st.sampled_from(["u8", "s8", "u32", "s32", "u64", "s64", "be16"]), inner),
        st.builds("min({}, {})".format, inner, inner),
    )


NUMBERS = st.recursive(NUMBER, _arithmetic, max_leaves=4)
TESTS = st.one_of(
    st.builds("{} {} {}".format, NUMBERS, st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), NUMBERS),
    st.builds("{} <= {} < {}".format, NUMBERS, NUMBERS, NUMBERS),
    st.builds("{} {} '{}'".format, TEXTS, st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), WORDS),
    st.builds("{} {} {}".format, TEXTS, st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), TEXTS),
    st.builds("{}[{}] == {}".format, TEXTS, st.sampled_from(["0", "1", "few"]), st.sampled_from(["97", "0"])),
    st.builds("{} {} None".format, TEXTS, st.sampled_from(["is", "is not", "==", "!="])),
    st.builds("{}.{}('{}')".format, TEXTS, st.sampled_from(["startswith", "endswith"]), WORDS),
    st.builds("'{}' in {}".format, WORDS, TEXTS),
    st.builds("{} ~ '{}'".format, TEXTS, GLOBS),
    st.builds("sign {} '{}'".format, st.sampled_from(["==", "!="]), st.sampled_from(["PLUS", "MINUS"])),
    st.builds("{}".format, TEXTS),
    st.builds("{}".format, NUMBERS),
)
CONDITIONS = st.recursive(
    TESTS,
    lambda inner: st.one_of(
        st.builds("({} and {})".format, inner, inner),
        st.builds("({} or {})".format, inner, inner),
        st.builds("(not {})".format, inner),
        st.builds("({} if {} else {})".format, inner, inner, inner),
    ),
    max_leaves=3,
)
VALUES = st.tuples(*(st.sampled_from(EDGES) for _ in range(6)))
LETTERS = st.text("ab", max_size=16)


@cache
def kernel_types() -> KernelTypes:
    return KernelTypes(load_kernel())


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(CONDITIONS, VALUES, LETTERS, LETTERS)
@example("a // 2 == -2", (-3, 0, 0, 0, 0, 0), "", "")
@example("d < c", (0, 0, 1 << 63, -1, 0, 0), "", "")
@example("d == c", (0, 0, (1 << 64) - 1, -1, 0, 0), "", "")
@example("str(long, 3) == 'aba'", (0, 0, 0, 0, 0, 0), "", "abab")
@example("long > 'ababababababababab'", (0, 0, 0, 0, 0, 0), "", "abababababababab")
@example("str(long, 2) >= 'aba' or str(long, 2) < 'abb'", (0, 0, 0, 0, 0, 0), "", "abb")
@example("a == min((a + PLUS), (-2))", (0, 0, 0, 0, 0, 0), "", "")
@example("a <= (a + PLUS) < (-2)", (0, 0, 0, 0, 0, 0), "", "")
@example("a % few == 0", (-7, 0, 0, 0, 0, 0), "", "")
def test_a_probe_and_where_agree(text: str, numbers: tuple[int, ...], name: str, long: str) -> None:
    node = parse_expression(f"1 if {text} else 0", "x")
    fields = tuple((one.name, parse_expression(one.name, "x")) for one in PARAMS)
    source = Source("x", text)
    try:
        program = record.program(SITE, kernel_types(), (*fields, ("result", node)), source)
    except KwireError:
        return  # no condition at all
    compiled = compile_probe(program, id=1, spec="x", probes=1, cpus=1, tasks=False, arch=named("x86_64"))
    sizes = (4, 4, 8, 8, 4, 1)
    raw = [
        (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        for value, size in zip(numbers, sizes, strict=True)
    ]
    data = (name.encode().ljust(16, b"\0"), long.encode().ljust(40, b"\0"))
    context = bytes(8) + struct.pack("<4s4s8s8s4s1s3x16s40s", *raw, *data)
    [frame] = vm.Machine(compiled.image).run(context).emitted
    values = compiled.schemas[0].decoder()(frame)
    result = values[[field.name for field in compiled.schemas[0].fields].index("result")]
    where = Where(text)
    where.check([compiled.schemas[0]])
    assert where.test(compiled.schemas[0])(0, values) is bool(result)
    fast = vector(where, compiled.schemas[0])
    if fast is not None:
        events = Events(compiled.schemas[0], Frames.walk(frame), np.zeros(1, np.int64))
        assert fast(events).tolist() == [bool(result)]


SAME = """
a == 4294967297 | few == 256 | few < 0 | name > "/etc" | name == 1 | 1 == name | name + 1
name == "0123456789abcdefg" | str(name, 2) == "abc" | name.startswith("0123456789abcdefg") | str == 1
emit == 1 | emit(a) | args == 1 | args.a == 1 | sign == "PLU" | sign == "PLUS" | sign > "PLUS" | a == "x"
a ~ "x" | name ~ "[a" | name ~ a | name ~ "[z-a]" | a // 0 | a << 64 | a << 65 == 1 | a / 2 | a ** 2
a and name | name and 1 | not name | a if name else 1 | name if a else "x" | min(a) | min(a, name)
str(a) == "x" | u8(name) | be16(name) | name[0] == 97 | name[a] == 97 | long[100] == 1 | a[0] | a is None
a is b | a in (1, 2) | a in () | name in ("a", 1) | "x" in a | "x" in name | name == "\\0"
"\\0" in name | name in "x" | 99999999999999999999999 | a == 1.5 | a == None | [1] | lambda: 1 | f"x"
a; b | a = 3 | | a == -ENOENT | a == "ENOENT" | ENOENT | glob(name) | glob(name, "x*") | name.upper()
name.startswith() | str(name, 0) == "x" | str(name, 5000) == "x" | str(name, a) == "x" | sizeof(a) == 4
cast("u8", a) == 1 | u8(a) == 300 | 1 < 2 | "a" < "b" | a < 5 < b | name != "0123456789abcdefg"
name == "\\ud800" | name ~ "\\udcff*" | "\\ud800" in name | name < "\\ud800" | "\\ud800" == "\\ud800"
name[16] == 1 | str(name, 2)[2] == 1 | name is None | name == None | name < None | name is 3 | name == long
str(name, 3) < long | name == "a" < long | min(name, long) | name in (long, "a") | name.startswith(long)
name ~ "" | long > "a name that is longer than the forty bytes of it" | True | None
"""


@pytest.mark.parametrize(
    "text", [text.strip() for line in SAME.strip().splitlines() for text in line.split(" | ")]
)
def test_what_is_refused_in_one_is_refused_in_the_other_in_the_same_words(text: str) -> None:
    fields = tuple((one.name, parse_expression(one.name, "x")) for one in PARAMS)
    program = record.program(SITE, kernel_types(), fields, Source("x", text))
    made = compile_probe(program, id=1, spec="x", probes=1, cpus=1, tasks=False, arch=named("x86_64"))
    [schema] = made.schemas

    def said(check: Callable[[], object]) -> str:
        try:
            check()
        except KwireError as error:
            return str(error)
        return ""

    source = Source("x", text)
    in_filter = said(lambda: check_filter(parse_expression(text, "x"), source, SITE, kernel_types()))
    assert said(lambda: Where(text, "x").check([schema])) == in_filter
