"""Format files: the declarations that kernels write, damage, and every event of the running kernel."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwire.kernel import tracefs
from kwire.kernel.formats import ELEMENT_SIZES, EventField, FormatError, declarator, parse_format

SCHED_SWITCH = """name: sched_switch
ID: 315
format:
	field:unsigned short common_type;	offset:0;	size:2;	signed:0;
	field:unsigned char common_flags;	offset:2;	size:1;	signed:0;
	field:unsigned char common_preempt_count;	offset:3;	size:1;	signed:0;
	field:int common_pid;	offset:4;	size:4;	signed:1;

	field:char prev_comm[16];	offset:8;	size:16;	signed:0;
	field:pid_t prev_pid;	offset:24;	size:4;	signed:1;
	field:long prev_state;	offset:32;	size:8;	signed:1;

print fmt: "prev_comm=%s prev_pid=%d%s", REC->prev_comm, REC->prev_pid, REC->prev_state ? "|" : ""
"""


def test_a_whole_file() -> None:
    found = parse_format(SCHED_SWITCH)
    assert (found.name, found.id) == ("sched_switch", 315)
    assert [field.name for field in found.common] == [
        "common_type",
        "common_flags",
        "common_preempt_count",
        "common_pid",
    ]
    assert found.fields == (
        EventField("prev_comm", "char", 8, 16, False, 16),
        EventField("prev_pid", "pid_t", 24, 4, True),
        EventField("prev_state", "long", 32, 8, True),
    )
    assert found.print_fmt.startswith('"prev_comm=%s')
    assert found.field("prev_pid") == found.fields[1]
    assert found.field("nothing") is None
    assert [field.declaration for field in found.fields] == [
        "char prev_comm[16]",
        "pid_t prev_pid",
        "long prev_state",
    ]


# (declaration, size, name, element type, length, location)
DECLARATIONS = [
    ("int fd", 4, "fd", "int", None, "inline"),
    ("unsigned long long  x", 8, "x", "unsigned long long", None, "inline"),
    ("const char * filename", 8, "filename", "const char *", None, "inline"),
    ("const char *const *argv", 8, "argv", "const char *const *", None, "inline"),
    ("void*p", 8, "p", "void*", None, "inline"),
    ("struct sockaddr * addr", 8, "addr", "struct sockaddr *", None, "inline"),
    ("enum hrtimer_mode mode", 4, "mode", "enum hrtimer_mode", None, "inline"),
    ("char comm[16]", 16, "comm", "char", 16, "inline"),
    ("char comm[TASK_COMM_LEN]", 16, "comm", "char", 16, "inline"),
    ("unsigned long args[6]", 48, "args", "unsigned long", 6, "inline"),
    ("__u8 saddr_v6[0x10]", 16, "saddr_v6", "__u8", 16, "inline"),
    ("u32 x[N]", 12, "x", "u32", 3, "inline"),
    ("struct thing x[N]", 12, "x", "struct thing", 0, "inline"),
    ("char buf[]", 0, "buf", "char", 0, "inline"),
    ("__data_loc char[] name", 4, "name", "char", 0, "data_loc"),
    ("__data_loc unsigned int[] array", 4, "array", "unsigned int", 0, "data_loc"),
    ("__rel_loc u8[] data", 4, "data", "u8", 0, "rel_loc"),
    ("__data_loc cpumask_t mask", 4, "mask", "cpumask_t", 0, "data_loc"),
    ("u8[16] name", 16, "name", "u8", 16, "inline"),
    ("void (*callback)(struct x *)", 8, "callback", "void (*)(struct x *) *", None, "inline"),
]


@pytest.mark.parametrize(("text", "size", "name", "ctype", "length", "location"), DECLARATIONS)
def test_declarations(text: str, size: int, name: str, ctype: str, length: int | None, location: str) -> None:
    assert declarator(text, size) == (name, ctype, length, location)


@pytest.mark.parametrize(
    ("text", "pointer"),
    [("char *", True), ("const void *const", True), ("void*", True), ("char", False), ("struct x * *", True)],
)
def test_pointers(text: str, pointer: bool) -> None:
    assert EventField("x", text, 8, 8, False).pointer is pointer


@pytest.mark.parametrize("text", ["", "int", "*", "int 5", "[3]", "int x[", "; drop", "int x y["])
def test_what_is_no_declaration_has_no_name(text: str) -> None:
    assert declarator(text, 4)[0] == ""


# (damaged file, words of the complaint, line)
DAMAGE = [
    ("", "no ID", 0),
    ("name: x\nformat:\n", "no ID", 0),
    ("ID: -5\n", "no event id", 1),
    ("ID: 99999999999\n", "no event id", 1),
    ("ID: ٣\n", "no event id", 1),
    ("ID: 1\nformat:\n\tfield:int x;\n", "not a field", 3),
    ("ID: 1\n\tfield:int x;\toffset:8;\tsize:-4;\tsigned:1;\n", "not a field", 2),
    ("ID: 1\n\tfield:int x;\toffset:8;\tsize:4;\tsigned:2;\n", "not a field", 2),
    ("ID: 1\n\tfield:int x;\toffset:99999;\tsize:4;\tsigned:1;\n", "cannot be", 2),
    ("ID: 1\n\tfield:int;\toffset:8;\tsize:4;\tsigned:1;\n", "declaration", 2),
    ("ID: 1\n\tfield:__data_loc char[] x;\toffset:8;\tsize:8;\tsigned:1;\n", "not 4", 2),
    ("ID: 1\n" + "\tfield:int x;\toffset:8;\tsize:4;\tsigned:1;\n" * 2, "twice", 0),
]


@pytest.mark.parametrize(("text", "words", "line"), DAMAGE)
def test_damage_is_named(text: str, words: str, line: int) -> None:
    with pytest.raises(FormatError, match=words) as caught:
        parse_format(text, "tracepoint:a:b")
    assert caught.value.line == line
    assert "tracepoint:a:b" in str(caught.value)


def test_a_file_without_signedness_reads_as_unsigned() -> None:
    found = parse_format("name: x\nID: 1\n\tfield:int x;\toffset:8;\tsize:4;\n")
    assert not found.fields[0].signed


def test_an_enormous_file_is_refused() -> None:
    with pytest.raises(FormatError, match="characters"):
        parse_format("ID: 1\n" + " " * (1 << 20))


@given(
    st.lists(st.sampled_from([*SCHED_SWITCH.split("\n"), "\tfield:", ";", "ID: 0"]), max_size=12).map(
        "\n".join
    )
)
def test_any_mixture_is_read_or_refused(text: str) -> None:
    try:
        found = parse_format(text)
    except FormatError:
        return
    assert len({field.name for field in found.fields}) == len(found.fields)


@pytest.mark.live
@pytest.mark.native
def test_every_event_of_this_kernel_is_understood() -> None:
    events = tracefs.shared()
    names = events.all_events()
    assert len(names) > 100
    for event in names:
        category, _, name = event.partition(":")
        found = events.format(category, name)
        assert found.id == events.event_id(category, name)
        assert {field.name for field in found.common} >= {"common_type", "common_pid"}
        end = 0
        for field in sorted(found.fields, key=lambda field: field.offset):
            assert field.offset >= end, f"{event}: {field.name} overlaps"
            end = field.offset + field.size
            element = ELEMENT_SIZES.get(field.type)
            if field.length and element:
                assert field.length * element == field.size, f"{event}: {field.declaration}"
