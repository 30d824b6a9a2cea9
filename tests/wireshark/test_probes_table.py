"""The table of probes: names for everything, kept, and never one name for values of two classes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kwire.errors import KwireError
from kwire.wire.fields import TYPES, Field
from kwire.wire.schema import Schema
from kwire.wireshark import probes
from kwire.wireshark.dissector import dissector, filter_class, tables


def schema(probe: str, *fields: tuple[str, str], id: int = 1) -> Schema:
    made, at = [], 16
    for name, type in fields:
        size = TYPES[type].sizes[-1] if TYPES[type].sizes else 4
        made.append(Field(name, type, at, size))
        at += size
    kind, _, target = probe.partition(":")
    return Schema(id, probe, kind, target.split("(")[0], tuple(made), at)


@pytest.mark.parametrize(
    ("probe", "field", "name"),
    [
        ("kprobe:tcp_connect(dport)", "dport", "kwire.tcp_connect.dport"),
        ("tracepoint:syscalls:sys_enter_openat", "__syscall_nr", "kwire.sys_enter_openat.__syscall_nr"),
        ("kprobe:nf_nat:nf_nat_init+0x10", "arg0", "kwire.nf_nat_init_0x10.arg0"),
        ("uprobe:/usr/bin/x:main", "a.b", "kwire.main.a_b"),
        ("interval:s:1", "count", "kwire.interval_s_1.count"),
        ("kprobe:lost", "count", "kwire.kprobe_lost.count"),
        ("kprobe:error(x)", "x", "kwire.kprobe_error.x"),
        ("kprobe:žluť", "é", "kwire._lu_._"),
        ("x", "", "kwire.x.x"),
    ],
)
def test_names(probe: str, field: str, name: str) -> None:
    assert [row.filter for row in probes.merge([], [schema(probe, (field, "u32"))])] == [name]


def test_a_name_stands_for_one_class_and_its_widest_number() -> None:
    rows = probes.merge([], [schema("kprobe:f", ("a", "u16"), ("b", "u8"))])
    rows = probes.merge(
        rows, [schema("kprobe:f", ("a", "str"), ("b", "u64")), schema("kretprobe:f", ("a", "s32"))]
    )
    rows = probes.merge(rows, [schema("tracepoint:x:f", ("a", "bytes"), ("b", "u16"))])
    found = {(row.probe, row.field, row.class_): (row.filter, row.width) for row in rows}
    assert found == {
        ("kprobe:f", "a", "uint"): ("kwire.f.a", 2),
        ("kprobe:f", "b", "uint"): ("kwire.f.b", 8),
        ("kprobe:f", "a", "string"): ("kwire.f.a_string", 8),
        ("kretprobe:f", "a", "int"): ("kwire.f.a_int", 4),
        ("tracepoint:x:f", "a", "bytes"): ("kwire.f.a_bytes", 8),
        ("tracepoint:x:f", "b", "uint"): ("kwire.f.b", 8),
    }
    assert probes.merge(rows, [schema("kprobe:f", ("a", "u16"))]) == rows


WORDS = st.text(max_size=6) | st.sampled_from(["a", "a_int", "a_string", "b"])
SCHEMAS = st.builds(
    lambda kind, target, fields: schema(f"{kind}:{target}", *fields),
    st.sampled_from(["kprobe", "kretprobe", "lost", "x"]),
    st.sampled_from(["f", "g", "lost", "a:b", "1", "\t"]) | st.text(max_size=5),
    st.lists(st.tuples(WORDS, st.sampled_from(sorted(TYPES))), max_size=4, unique_by=lambda pair: pair[0]),
)


@settings(deadline=None)
@given(st.lists(SCHEMAS, max_size=6))
def test_whatever_comes_names_are_legal_of_one_class_and_stay(
    tmp_path_factory: pytest.TempPathFactory, all: list[Schema]
) -> None:
    rows: list[probes.Row] = []
    for one in all:
        before = {row[:3]: row.filter for row in rows}
        rows = probes.merge(rows, [one])
        after = {row[:3]: row for row in rows}
        assert before.items() <= {key: row.filter for key, row in after.items()}.items()
        for field in one.fields:
            assert (one.probe.split("(")[0], field.name, filter_class(field.type)) in after
    classes: dict[str, tuple[str, int, bool]] = {}
    for row in rows:
        assert re.fullmatch(r"kwire\.\w+\.\w+", row.filter, re.ASCII)
        assert classes.setdefault(row.filter, (row.class_, row.width, row.named)) == (
            row.class_,
            row.width,
            row.named,
        )
    path = tmp_path_factory.mktemp("table") / "kwire.probes"
    probes.write(path, rows)
    assert probes.read(path) == rows


def test_what_is_no_table_has_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "kwire.probes"
    assert probes.read(path) == []
    path.write_bytes(b"# head\na\tb\nx\ty\tuint\t3\tkwire.x.y\t0\n\xff\xfe\0\na\tb\tuint\t4\tkwire.a.b\t0\n")
    assert [row.filter for row in probes.read(path)] == ["kwire.a.b"]


def test_the_table_does_not_grow_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "MAX_ROWS", 10)
    rows = probes.merge([], [schema("kprobe:f", *((f"a{n}", "u8") for n in range(10)))])
    with pytest.raises(KwireError, match="more than 10 fields"):
        probes.merge(rows, [schema("kprobe:g", ("a", "u8"))])


def test_the_dissector_says_what_the_protocol_says() -> None:
    made = tables()
    assert set(made["field_types"]) == set(TYPES)
    assert {rule["class"] for rule in made["field_types"].values()} == set(
        re.findall(r"^    (\w+) = function\(abbr, name", dissector(), re.MULTILINE)
    )
    assert dissector() == dissector()
