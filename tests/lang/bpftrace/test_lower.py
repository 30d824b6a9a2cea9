"""Scripts against a toy kernel: what they become, and what is wrong with them that only their types tell."""

from __future__ import annotations

import ctypes
import re
import typing
from collections.abc import Callable
from pathlib import Path

import pytest
import shown_tree

from kwire.lang.bpftrace import syntax, tables
from kwire.lang.bpftrace.builtins import BUILTINS
from kwire.lang.bpftrace.expressions import EXPRESSIONS
from kwire.lang.bpftrace.functions import FUNCTIONS
from kwire.lang.bpftrace.lower import Surroundings
from kwire.lang.bpftrace.maps import AGGREGATES
from kwire.lang.bpftrace.points import attach_point
from kwire.lang.bpftrace.reader import read
from kwire.lang.bpftrace.script import probes
from kwire.lang.bpftrace.settings import settings
from kwire.lang.bpftrace.statements import STATEMENTS
from kwire.lang.bpftrace.syntax import AttachPoint
from kwire.lang.checked import Const, Emit, Program
from kwire.lang.context import Site
from kwire.lang.errors import LanguageError, TextError
from kwire.lang.forms import walk
from kwire.lang.kerneltypes import KernelTypes
from kwire.lang.tree import NOWHERE
from kwire.lang.types import CHAR, TEXTS, Array, Enum, Text, describe

Lowered = Callable[..., Program]


@pytest.fixture
def lowered(types: KernelTypes, site: Callable[[str], Site]) -> Lowered:
    """The program of the only probe of a script, at its place."""

    def lower(text: str, *arguments: str, command: int = 0) -> Program:
        script = read("stdin", text)
        [probe] = probes(script, Surroundings(arguments, command, 1000, 4))
        faults = probe.faults()
        if faults:
            raise LanguageError(script.source, faults)
        place = site(str(probe.attach[0]))
        changed = True
        while changed:
            for one in probe.maps.values():
                one.changed = False
            made = probe.program(place, types)
            changed = any(one.changed for one in probe.maps.values())
        return made

    return lower


@pytest.mark.parametrize(
    ("body", "formats"),
    [
        ('printf("%d %s\\n", pid, comm)', ["%d %s\n"]),
        ('printf("%s is %s%%\\n", probe, "x")', ["kprobe:connect is x%%\n"]),
        ('printf("%-4s|%4s|%.1s|", "a", "b", "cd")', ["a   |   b|c|"]),
        ('time("%H"); time(); printf("%d", cpu)', ["%H", "%H:%M:%S\n", "%d"]),
        ('if pid == 1 { printf("a\\n") } else { printf("b\\n") }', ["a\n", "b\n"]),
        ('macro_is_none("x")', None),
    ],
)
def test_prints_are_shapes_with_formats(lowered: Lowered, body: str, formats: list[str] | None) -> None:
    text = f"kprobe:connect {{ {body} }}"
    if formats is None:
        with pytest.raises(LanguageError):
            lowered(text)
        return
    shapes = lowered(text).shapes
    assert [shape.format for shape in shapes] == formats
    assert {shape.prints for shape in shapes} <= {"printf", "time"}


def test_a_number_is_followed_to_8_bytes(lowered: Lowered) -> None:
    [shape] = lowered('kprobe:connect { $a = arg0; printf("%d", *($a + 8)); }').shapes
    assert describe(shape.fields[0].type) == "u64"


def test_an_address_of_either_kind_makes_what_follows_twice(lowered: Lowered) -> None:
    program = lowered(
        "kprobe:connect { let $a; if (1) { $a = ntop(0); $b = 5;"
        " if (pid == 1) { $a = ntop((uint32)7); } else { $a = ntop(args.sk.common.v6); $b = 6; }"
        ' printf("%s %d\\n", $a, $b); } }'
    )
    assert [shape.format for shape in program.shapes] == ["%s %d\n"] * 2
    assert [describe(shape.fields[0].type) for shape in program.shapes] == ["ipv4", "ipv6"]


def test_what_has_no_such_address_is_made_once(lowered: Lowered) -> None:
    choice = "if (pid == 1) { $a = ntop((uint32)7); } else { $a = ntop(args.sk.common.v6); $b = 6; }"
    program = lowered(
        f'kprobe:connect {{ $b = 5; {choice} $c = pid; printf("before %d", $c);'
        ' printf("%s", $a); printf("behind %d", $b); }'
    )
    assert [shape.format for shape in program.shapes] == ["before %d", "%s", "%s", "behind %d"]
    program = lowered(  # one that the choice reads is not set before it, one that it sets not read
        f'kprobe:connect {{ $b = 5; {choice} printf("%d", $b); printf("%s", $a); }}'
    )
    assert [shape.format for shape in program.shapes] == ["%d", "%s"] * 2
    program = lowered(
        "kprobe:connect { $p = pid; $b = 0; if ($p == 1) { $a = ntop((uint32)7); }"
        ' else { $a = ntop(args.sk.common.v6); } $p = 2; printf("%d", $p); printf("%s", $a); }'
    )
    assert [shape.format for shape in program.shapes] == ["%d", "%s"] * 2


def test_fields_are_called_as_what_they_are(lowered: Lowered) -> None:
    values = "pid, pid, $y, args.sk.prio, str(args.name), 1 + cpu"
    text = f'kprobe:connect {{ $y = 5; printf("%d%d%d%d%s%d", {values}) }}'
    [shape] = lowered(text).shapes
    assert [field.name for field in shape.fields] == ["pid", "pid_2", "y", "prio", "name", "arg6"]


@pytest.mark.parametrize(
    ("body", "value"),
    [
        ("$x = -7 / 2", -3),
        ("$x = -7 % 2", -1),
        ("$x = 7 / -2", -3),
        ("$x = 1 << 4 | 2", 18),
        ("$x = $1 + $2", 12),
        ("$x = $#", 2),
        ("$x = ncpus", 4),
        ("$x = twice(3) + LIMIT", 16),
        ("$x = BLUE", 5),
        ("$x = true + 0", 1),
        ("$x = AF_INET6", 10),
        ("$x = sizeof(uint16)", 2),
        ("$x = 1ms", 1_000_000),
        ("$x = { let $a = 2; $a * 3 }", None),
        ("$x = if pid { if uid { 1 } else { 2 } } else { let $q = 3; $q }", None),
        ("$x = sizeof((1, (2, (int64)3)))", 24),
        ('$x = sizeof("abc")', 4),
        ("let $y : typeof(pid) = 3; $x = sizeof(typeof(args.sk)) + $y", None),
        ("$x = sizeof(typeof(args.sk))", 8),
        ('$a = "xyz"; $x = $a[1]', ord("y")),
        ('$a = "xyz"; $x = strcontains("wxyz", $a)', 1),
        ('$a = "xyz"; $x = $a < "xz"', 1),
    ],
)
def test_values(lowered: Lowered, body: str, value: int | None) -> None:
    head = "#define LIMIT 10\nenum color { RED, GREEN = 4, BLUE };\nmacro twice(x) { x * 2 }\n"
    program = lowered(head + f'kprobe:connect {{ {body}; printf("%d", $x) }}', "5", "7")
    if value is not None:
        assert f"x = {value}" in shown_tree.program(program).replace("$x := ", "x = "), shown_tree.program(
            program
        )


def test_strncmp_is_a_number(lowered: Lowered) -> None:
    [shape] = lowered('kprobe:connect { print(strncmp(comm, "ab", 2)) }').shapes
    assert [describe(field.type) for field in shape.fields] == ["s64"]  # bpftrace prints 0 or 1, not false


def test_maps_are_what_is_put_into_them(lowered: Lowered) -> None:
    text = """kprobe:connect {
        @a = args.sk; @b[pid, comm] = nsecs; @c["ab"] = count(); @d = lhist(pid, 0, 10, 2);
        @e[arg0] = min(-1); @f[probe]++;
        if (@b[1, "x"] > 3 && @a.prio) { delete(@b[1, comm]); } @g = avg(pid); @h = -@b[2, comm];
    }"""
    script = read("stdin", text)
    [probe] = probes(script, Surroundings())
    assert probe.faults() == []
    program = lowered(text)
    shown = {
        name: (one.kind, [describe(part) for part in one.key], describe(one.value), one.bounds)
        for name, one in program.maps().items()
    }
    assert shown == {
        "@a": ("hash", [], "struct sock *", (0, 0, 0)),
        "@b": ("hash", ["u64", "text up to 15 bytes"], "u64", (0, 0, 0)),
        "@c": ("count", ["text up to 2 bytes"], "u64", (0, 0, 0)),
        "@d": ("lhist", [], "u64", (0, 10, 2)),
        "@e": ("min", ["u64"], "s64", (0, 0, 0)),
        "@f": ("hash", ["text up to 14 bytes"], "s64", (0, 0, 0)),
        "@g": ("stats", [], "u64", (0, 0, 0)),
        "@h": ("hash", [], "s64", (0, 0, 0)),
    }


def test_arrays_of_bytes_are_whole_in_keys(lowered: Lowered) -> None:
    """Not texts, which end at a NUL: different keys would be one."""
    text = """struct own { uint8 a[4]; unsigned char b[2]; char c[8]; short d[2]; };
    kprobe:connect { $p = (struct own *)arg0; @a[$p->a] = 1; @b[*$p] = 1; @c = $p->a; }"""
    shown = {name: [describe(part) for part in one.key] for name, one in lowered(text).maps().items()}
    assert shown == {"@a": ["u8[4]"], "@b": ["u8[4]", "u8[2]", "text up to 8 bytes", "s16[2]"], "@c": []}


def test_constant_texts_are_values_of_maps(lowered: Lowered) -> None:
    text = 'kprobe:connect { @s[1] = "one"; @s[2] = "two"; printf("%s %d", @s[pid], @s[1] == "two"); }'
    program = lowered(text)
    [map] = program.maps().values()
    table = (("", 0), ("one", 1), ("two", 2), ("%s %d", 3))  # all strings of the script
    assert map.value == Enum(TEXTS, 4, False, table)
    assert program.shapes[0].fields[0].type == map.value


def test_maps_hold_texts_and_tuples(lowered: Lowered) -> None:
    text = """kprobe:connect {
        @a[1] = comm; @a[2] = "constant, and longer than comm"; @b = (1, comm, (2, "x"));
        @c = (n=pid, s=comm);
        @d[@b.2.1] = @a[7]; @e = str(arg0, 100);
    }"""
    shown = {name: describe(one.value) for name, one in lowered(text).maps().items()}
    assert shown == {
        "@a": "text up to 30 bytes",
        "@b": "tuple of 3",
        "@c": "record of n, s",
        "@d": "text up to 30 bytes",
        "@e": "text up to 99 bytes",
    }


@pytest.mark.parametrize(
    ("body", "format", "fields"),
    [
        ("print((1, (pid, comm)))", "(%s, (%s, %s))\n", 3),
        ("print((a=1, b=(c=comm)))", "{ .a = %s, .b = { .c = %s } }\n", 2),
        ('$t = (pid, "x"); printf("%d %s %s|", cpu, $t, $t.1)', "%d (%s, %s) %s|", 4),
        ("@m[1, 2] = (3, comm); print(@m[1, 2])", "(%s, %s)\n", 2),
        ('printf("%s %d%%", pid ? comm : "no", 5)', "%s %d%%", 2),
        ('print(($1, str("hello", 3), $#))', "(%s, %s, %s)\n", 3),
        ("print((1, *(struct Bar *)arg0))", "(%s, { .y = %s, .z = %s })\n", 3),
    ],
)  # fmt: skip
def test_tuples_are_printed_in_parts(lowered: Lowered, body: str, format: str, fields: int) -> None:
    [shape] = lowered(f"{OWN} kprobe:connect {{ {body} }}", "text").shapes
    assert (shape.format, len(shape.fields)) == (format, fields)


def test_texts_of_several_places_meet_in_a_map(types: KernelTypes, site: Callable[[str], Site]) -> None:
    script = read("stdin", "kprobe:connect, kretprobe:connect { @s[1] = probe; @h[@s[1]] = count(); }")
    [probe] = probes(script, Surroundings())
    for _ in range(3):
        made = [probe.program(site(str(point)), types) for point in probe.attach]
    for program in made:
        shown = {name: describe(one.value) for name, one in program.maps().items()}
        assert shown == {"@s": "text up to 17 bytes", "@h": "u64"}


def test_stacks_of_maps_are_keys_of_others(lowered: Lowered) -> None:
    text = (
        "kprobe:connect { @s[arg0] = kstack; @u[@s[arg0]] = hist(1); for ($kv : @s) { @n[$kv.1] = $kv.0; } }"
    )
    shown = {name: (describe(one.key[0]), one.kind) for name, one in lowered(text).maps().items()}
    stack = describe(lowered(text).maps()["@s"].value)
    assert shown == {"@s": ("u64", "hash"), "@u": (stack, "hist"), "@n": (stack, "hash")}


@pytest.mark.parametrize(
    ("body", "limit"),
    [
        ('$x = "abc"; $x = comm', 15),
        ('let $x = ""; if pid { $x = comm } else { $x = str(arg0, 40) }', 39),
        ("$x = comm; if pid { $x = str(arg0, 20) }", 19),
        ("@m[1] = str(arg0, 33); $x = @m[2]", 32),
        ('$x = pid ? comm : "a longer text than comm"', 23),
    ],
)
def test_a_variable_has_memory_for_texts_that_change(lowered: Lowered, body: str, limit: int) -> None:
    program = lowered(f'kprobe:connect {{ {body}; printf("%s", $x) }}')
    held = {one.name: one.type for one in program.locals}
    assert held["$x"] == Text(limit)
    printed = program.shapes[0].fields[0].type
    assert printed == (Array(CHAR, 16) if body.endswith("$x = comm") else Text(limit))


def test_arrays_of_characters_are_printed_as_they_lie(lowered: Lowered) -> None:
    program = lowered('kprobe:connect { printf("%s %s %s", comm, str(comm, 4), str(arg0)) }')
    first, *others = [field.type for field in program.shapes[0].fields]
    assert first == Array(CHAR, 16)
    assert isinstance(others[0], Text), "of which less is wanted"
    assert isinstance(others[-1], Text)


def test_a_variable_that_is_used_behind_its_block_is_of_the_whole_probe(lowered: Lowered) -> None:
    text = 'kprobe:connect { if pid { $a = 1; $b = 2 } else { $a = 3; $b = args.sk } printf("%d", $a) }'
    assert [one.name for one in lowered(text).locals] == ["$a", "$b", "$b.2"]


def test_variables_of_blocks_are_their_own(lowered: Lowered) -> None:
    text = """kprobe:connect {
        if pid { $a = 1; printf("%d", $a) } else { $a = args.sk; printf("%p", $a) }
    }"""
    assert [one.name for one in lowered(text).locals] == ["$a", "$a.2"]


OWN = """struct Foo {
    int x; char c; struct Bar { int y; short z; } bar; struct Foo *next;
    union { int u; char w[8]; }; int b : 3; int d : 7; int after; char name[16]; unsigned long long *p[2];
};
struct tight { char a; int b; struct Bar c; } __attribute__((packed));
union both { char a[3]; short b; };
enum color { RED = 1, GREEN, BLUE = 7 };
"""


def test_structures_of_a_script_lie_as_a_compiler_puts_them(lowered: Lowered) -> None:
    class Bar(ctypes.Structure):
        _fields_ = [("y", ctypes.c_int), ("z", ctypes.c_short)]

    class Inner(ctypes.Union):
        _fields_ = [("u", ctypes.c_int), ("w", ctypes.c_char * 8)]

    class Foo(ctypes.Structure):
        _anonymous_ = ("inner",)
        _fields_ = [
            ("x", ctypes.c_int), ("c", ctypes.c_char), ("bar", Bar), ("next", ctypes.c_void_p),
            ("inner", Inner), ("b", ctypes.c_int, 3), ("d", ctypes.c_int, 7), ("after", ctypes.c_int),
            ("name", ctypes.c_char * 16),
            ("p", ctypes.c_void_p * 2),
        ]  # fmt: skip

    places = {"bar.z": Foo.bar.offset + Bar.z.offset, "next": Foo.next.offset, "w": Foo.inner.offset}
    places |= {"name": Foo.name.offset, "p": Foo.p.offset}
    wanted = [ctypes.sizeof(Foo), ctypes.sizeof(Bar), 13, 4, *places.values()]
    sizes = ["struct Foo", "struct Bar", "struct tight", "union both"]
    values = [f"sizeof({one})" for one in sizes] + [f"offsetof(struct Foo, {one})" for one in places]
    formats, given = " %d" * len(values), ", ".join(values)
    program = lowered(OWN + f'kprobe:connect {{ printf("{formats}", {given}) }}')
    emitted = next(node for one in program.body for node in walk(one) if isinstance(node, Emit))
    assert [one.value for one in emitted.values if isinstance(one, Const)] == wanted


def test_enumerations_of_a_script_are_shown_by_name(lowered: Lowered) -> None:
    body = "$f = (struct Foo *)arg0; @[RED] = BLUE; print((enum color)2); print($f.d); print($f.next.bar.z)"
    program = lowered(OWN + f"kprobe:connect {{ {body}; print(GREEN) }}")
    shown = [describe(shape.fields[0].type) for shape in program.shapes]
    assert shown == ["enum color", "s32", "s16", "enum color"]
    [map] = program.maps().values()
    assert (describe(map.key[0]), describe(map.value)) == ("enum color", "enum color")


# (body of kprobe:connect, "line:column-end: message; hint" of what is wrong first)
WRONG = [
    ('printf("%d", comm)', "1:31-35: %d does not take a text up to 15 bytes; use %s"),
    ('printf("%r", pid)', "1:31-34: %r does not take a u32; use %s"),
    ('printf("%d\\n")', "1:18-32: the format has 1 conversion for 0 values; give one value for each %"),
    ('printf("%k", 1)', "1:25-29: %k is no conversion; write %% for a percent sign"),
    ("printf(pid)", '1:25-28: the format is not a string; write printf("…", …)'),
    ("prinf(1)", "1:18-23: there is no function prinf; did you mean printf, print or warnf?"),
    ('printf("%d", $x)', "1:31-33: $x has no value here; assign it before, in this block or around it"),
    ('if pid { $x = 1 } printf("%d", $x)',
     "1:49-51: $x may have no value here; assign it on every path before"),
    ('printf("%d", args.sk.foo)', "1:39-42: struct sock has no member foo"),
    ('printf("%d", pidd)', "1:31-35: unknown name pidd; did you mean pid or ppid?"),
    ('printf("%d", retval)', "1:31-37: a kprobe has no retval; it exists in kretprobe, fexit, uretprobe"),
    ("@x = 1; @x[1] = 2", "1:26-31: keys of @x have 0 parts, this has 1; use another map"),
    ("@x[1] = 2; @x[comm] = 3",
     "1:32-36: this part of the keys of @x was an s64 and is a text here; use another map"),
    ("@x = 1; @x = count()",
     "1:18-24: @x is a count, to which nothing else is assigned; write @x = count(…)"),
    ("@x = sum(1); @x = max(1)",
     "1:36-42: @x holds the sum of values, and here it is assigned a max; use another map"),
    ("@x = lhist(1, 5, 1, 1)",
     "1:23-40: the max of a histogram is above its min, and 1 is not above 5"),
    ("@x = tseries(1, 0, 5)",
     "1:23-39: the interval of a series is a duration that is written, as 100ms; tseries(n, 1s, 20)"),
    ("if pid { let $x = 1 } let $x : uint8[4]; if pid { $x = (uint8[4])(uint32)1 } print($x)",
     "1:101-103: $x may have no value here; assign it on every path before"),
    ("let $x : uint8[4]; print($x)", "1:43-45: $x has no value here; assign it before"),
    ("let $x : struct sock; print($x.__sk_common.skc_family)",
     "1:46-48: $x has no value here; assign it before"),
    ('print(uaddr("x"))', "1:24-34: there is no uaddr at a kprobe; use it in a uprobe"),
    ('print(cgroupid("/none"))', "1:33-40: /none: no such file or directory"),
    ("print(container_of(arg0, struct nothing, x))", "1:43-57: there is no struct nothing"),
    ("print(container_of(arg0, 5, x))", "1:43-44: this is no type; container_of(p, struct x, member)"),
    ("@a[1] = 1; delete(@a[1], arg0)",
     "1:43-47: this is not a map; write delete(@map, key), or delete(@map)"),
    ("@x = tseries(1, 1s, 2000)",
     "1:23-43: a series has 1 to 1,000 intervals, written as a number; tseries(n, 1s, 20)"),
    ('@x = tseries(1, 1s, 5, "mean")',
     "1:41-47: values of an interval are not put together so; it is one of avg, sum, min, max, count"),
    ("print(nsecs(now))",
     "1:30-33: this is no clock; there are monotonic, boot, tai, sw_tai"),
    ('print(pton("localhost"))',
     '1:29-40: localhost is no network address; write pton("127.0.0.1"), or pton("::1")'),
    ("print(pton(pid))", '1:29-32: the address is not a string; write pton("127.0.0.1")'),
    ('printf("%d\\0%s\\n", 5, comm)',
     "1:18-45: the format has 1 conversion for 2 values; give one value for each %"),
    ("print(reg(pid))", '1:28-31: the name is not a string; write reg("ip")'),
    ("@x = hist(1, 9)", "1:31-32: the second argument of hist is a number from 0 to 5"),
    ("print(&(pid, 1))", "1:24-33: only variables and maps have an address; write &$name or &@name"),
    ("@x[1] = 2; print(&@x)", "1:36-38: keys of @x have 1 part, this has 0; use another map"),
    ("@x = 1; print(len(@x))", "1:36-38: @x has no keys; a loop is over a map with keys"),
    ("print(socket_cookie(arg0))",
     "1:24-43: there is no socket_cookie at a kprobe; the kernel lets fentry and fexit ask for it"),
    ("print(len(5))",
     "1:28-29: len takes a map with keys, or a stack; write len(@map), len(kstack), or strlen(text)"),
    ("print(strlen(pid))", "1:31-34: a u32 is no text, and has no length"),
    ("print(config)", "1:24-30: config alone is no value; name a setting, as in config().max_strlen"),
    ("print(config().max_strln)",
     "1:33-42: there is no setting max_strln; did you mean max_strlen or max_ast_nodes?"),
    ("print(pid(other))", "1:28-33: this is no namespace; write pid(init), or (curr_ns)"),
    ('print(percpu_kaddr("no_such"))', "1:24-47: the kernel has no symbol no_such"),
    ("@x[1, (2, 3)] = 1; @x[1, 2, 3] = 2",
     "1:37-48: the parts of keys of @x lie otherwise here than elsewhere; put them into tuples likewise"),
    ('static_assert(sizeof(uint8) == 2, "odd")', "1:18-58: odd"),
    ("static_assert(pid, \"odd\")",
     "1:32-35: whether this holds is not known before the script runs; use assert"),
    ('fail("not %s%s, %d", "this", "", 5)', "1:18-53: not this, 5"),
    ("if comptime pid { }", "1:30-33: this is not known before the script runs; leave out comptime"),
    ("again(1, 2)", "1:18-29: again takes 1 argument, not 2"),
    ("@x = lhist(1, 1, 5, 0)", "1:23-40: the step of a histogram is at least 1, and this is 0"),
    ("@x = lhist(1, 0, 5000, 1)",
     "1:23-43: this histogram has 5,000 buckets; there are at most 1,000: take a greater step"),
    ("@x = lhist(1, 0, pid, 1)", "1:32-33: min, max and step of a histogram are written as numbers; "
     "lhist(n, 0, 100, 10)"),
    ("break", "1:18-23: break stands outside of a loop; return ends a probe"),
    ("if pid { continue }", "1:27-35: continue stands outside of a loop; return ends a probe"),
    ("@sum = sum(1); print(@sun)", "1:39-43: nothing is ever put into @sun; did you mean @sum?"),
    ("clear(@x)", "1:24-26: nothing is ever put into @x; assign to it: @x = …"),
    ('printf("%d", @x[1])', "1:31-36: nothing is ever put into @x; assign to it: @x = …"),
    ('printf("%d", MISSING)', "1:31-38: unknown name MISSING; write its number: #define MISSING …"),
    ("for $i : 0..pid { }", None),
    ('printf("%9999s", comm)', "1:25-33: a width or precision is at most 4096"),
    ("@x = 'a'", "1:23-26: there are no characters in quotes; write a text as \"x\""),
    ("@x = hist(1); $y = @x", "1:37-39: reading @x, which is a hist, is not supported yet"),
    ("@x = comm; @x = 5", "1:34-35: values of @x were a text, and this is an s64; "
     "use another map, or cast one of them"),
    ("@x = (1, comm); @x = (1, 2)", "1:39-45: values of @x were a tuple of 2, and this is a tuple of 2; "
     "use another map, or cast one of them"),
    ("@x = comm; @x = sum(1)", "1:18-27: @x is a sum, to which nothing else is assigned; write @x = sum(…)"),
    ("@x = comm; @x += 1", "1:35-36: "
     "values of @x were a text, and this is an s64; use another map, or cast one of them"),
    ("for ($k : @x) { }", "1:28-30: nothing is ever put into @x; assign to it: @x = …"),
    ("@x = 1; for ($k : @x) { }", "1:36-38: @x has no keys; a loop is over a map with keys"),
    ("@x[1] = hist(1); for ($k : @x) { }", "1:45-47: what a hist holds cannot be read in a probe"),
    ("@x[1] = 1; for ($k : @x[1]) { }",
     "1:39-44: a loop is over a range or a map; write for $i : 0..10 { … }"),
    ('$x = comm; $x = 5', "1:29-35: $x is set to two different things; this is an s64; use two names"),
    ('@x = 1; @x = "a"',
     "1:31-34: values of @x were an s64, and this is a constant text; use another map, or cast one of them"),
    ("$x = count()", "1:23-30: count is for maps; write @map = count()"),
    ("delete($x)", "1:25-27: this is not a map; write delete(@map, key), or delete(@map)"),
    ("print(@m[1], 5)", "1:18-33: top and div are for maps; write print(@map, 5)"),
    ("clear(5)", "1:24-25: this is not a map; write @name"),
    ("override(1)", "1:18-26: override() is not supported yet"),
    ('printf("%s", kstack(0))', "1:31-40: a stack of 0 frames is not possible; there are 1 to 1024"),
    ('printf("%d", kstack(3))', "1:31-40: %d does not take a stack; use %s"),
    ('printf("%d", str(1, 2, 3))', "1:31-43: str was called with 3 arguments; write str(p), str(p, n)"),
    ("$x = printf", '1:23-29: printf is a function; call it: printf("format", …)'),
    ('$x = printf("a")', "1:23-34: printf gives no value; write it as a statement"),
    ('$a = comm; $b = 1 && strcontains(comm, $a)',
     "1:39-60: strcontains is done before its statement, which would not always be right here; "
     "do it in a statement before"),
    ("unroll (200) { }", "1:26-29: unroll maximum value is 100"),
    ("$x = 1 / 0", "1:23-28: this divides by zero"),
    ('$x = pid ? "a" : 5', "1:23-36: one is a constant text, the other an s64; cast one of them"),
    ('$x = "a"; printf("%d", $x)', "1:41-43: %d does not take a constant text; use %s"),
    ('$x = "a"; $y = $x > 3', "1:33-39: an s64 is no text; compare it with a number"),
    ('$t = (1, 2); printf("%d", $t)', "1:44-46: %d does not take a tuple of 2; use %s"),
    ("args.sk", None),
    ("pid.x", "1:18-23: a u32 has no member x; cast it: ((struct … *)x).x"),
    ("cpid", "1:18-22: there is no command; give one: -c COMMAND"),
    ("again(1)", "2:18-23: the macro again uses itself"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("let @m = hash(0); BEGIN { @m[1] = 1 }", "1:1-17: a map has 1 to 16,777,216 entries"),
        ("let @m = hash(99999999999); BEGIN { @m[1] = 1 }", "1:1-27: a map has 1 to 16,777,216 entries"),
        ("let @m = hash(1); let @m = hash(2); BEGIN { @m[1] = 1 }", "1:19-35: @m is declared twice"),
        ("config = { max_map_keys = 0 } BEGIN { }", "1:12-28: max_map_keys is from 1 to 16,777,216"),
        ("config = { max_strlen = 20000 } BEGIN { }", "1:12-30: max_strlen is from 1 to 16,384"),
        ("config = { print_maps_on_exit = 2 } BEGIN { }", "1:12-34: print_maps_on_exit cannot be 2"),
        ("BEGIN { $x = args.x }", "1:19-20: a begin has no x"),
        ("interval:s:1 { $x = args.x }", "1:26-27: an interval has no x"),
    ],
)
def test_what_is_wrong_around_probes_is_said_at_its_place(
    site: Callable[[str], Site], types: KernelTypes, text: str, expected: str
) -> None:
    script = read("stdin", text)

    def check() -> None:
        [probe] = probes(script, Surroundings())
        probe.program(site(str(probe.attach[0])), types)

    with pytest.raises(LanguageError) as caught:
        check()
    first = caught.value.diagnostics[0].report(caught.value.source)[0]
    assert first.removeprefix("stdin:").replace(" ERROR:", "", 1) == expected


def test_a_size_that_is_declared_is_that_of_an_aggregate_too() -> None:
    [probe] = probes(read("stdin", "let @c = hash(2); BEGIN { @c[1] = count() }"), Surroundings())
    assert probe.maps["c"].size == 2


@pytest.mark.parametrize("value", ["0", "false"])
def test_a_setting_that_is_yes_or_no_may_be_a_number(value: str) -> None:
    assert (
        settings(read("stdin", f"config = {{ print_maps_on_exit = {value} }} BEGIN {{ }}"))[
            "print_maps_on_exit"
        ]
        is False
    )


def test_a_byte_order_mark_means_nothing() -> None:
    assert read("x.bt", "\ufeff#!/usr/bin/env kwire\nBEGIN { }").probes


@pytest.mark.parametrize(
    ("body", "type_"),
    [
        ("@x = 1; @x = arg0", "u64"),
        ("@x = arg0; @x = 1", "u64"),
        ("@x = 1; @x = -1", "s64"),
        ("@x = -1; @x = arg0", "s64"),
        ("@x = max(0); @x = max(arg0)", "u64"),
        ("@x = sum(18446744073709551615)", "u64"),
        ("@x = min(5); @x = min(18446744073709551615)", "u64"),
        ("@x = avg(1)", "s64"),
        ("@x = 0; @x = curtask", "struct task_struct *"),
        ("@x = 1; @x = curtask", "u64"),
    ],
)
def test_constants_take_the_sign_of_what_else_is_kept(lowered: Lowered, body: str, type_: str) -> None:
    [map] = lowered(f"kprobe:connect {{ {body} }}").maps().values()
    assert describe(map.value) == type_


@pytest.mark.parametrize(("body", "expected"), WRONG, ids=[body for body, _ in WRONG])
def test_what_is_wrong_is_said_at_its_place(lowered: Lowered, body: str, expected: str | None) -> None:
    text = f"kprobe:connect {{ {body} }}\nmacro again(x) {{ again(x) }}"
    if expected is None:
        assert lowered(text)
        return
    with pytest.raises(LanguageError) as caught:
        lowered(text)
    first, *rest = caught.value.diagnostics[0].report(caught.value.source)
    hint = rest[-1].removeprefix("HINT: ") if rest and rest[-1].startswith("HINT: ") else ""
    said = first.removeprefix("stdin:").replace(" ERROR:", "", 1)
    assert (f"{said}; {hint}" if hint else said) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kprobe:tcp_connect", "kprobe:tcp_connect"),
        ("k:tcp_*", "kprobe:tcp_*"),
        ("kfunc:vmlinux:tcp_connect", "fentry:vmlinux:tcp_connect"),
        ("kprobe:f+16", "kprobe:f+16"),
        ('tracepoint:"sched":$1', "tracepoint:sched:x"),
        ("rt:x", "rawtracepoint:x"),
        ("rt:vmlinu*:x", "rawtracepoint:x"),
        ("kprob:x", "there is no kind of probe 'kprob'; did you mean kprobe, uprobe or kretprobe?"),
        ("BEGIN", "begin"),
        ("interval:s:1", "interval:s:1"),
        ("usdt:x:y", "usdt:x:y"),
        ("U:/bin/x:p:y", "usdt:/bin/x:p:y"),
        ("usdt::p:y", "usdt:*:p:y"),
        ("usdt:::y", "usdt:*:*:y"),
        ("usdt:/bin/x::*", "usdt:/bin/x:*:*"),
        ('u:/bin/x:cpp:"a::b(int)"+4', "uprobe:/bin/x:cpp:a::b(int)+4"),
        ("it:task", "iter:task"),
        ("self:signal:SIGUSR1", "self:signal:SIGUSR1"),
        ("self:signal:SIGKILL", "'signal:SIGKILL' is no signal to us; "
         "write self:signal:SIGUSR1 or self:signal:SIGUSR2"),
        ("test:x", "test is not supported yet; "),
        ("kprobe", "'kprobe' says no target; write kprobe:[module:]function[+offset]"),
        ("kprobe:$2", "there is no argument $2; give it behind the script"),
        ("tracepoint:x", "'x' is not a target of a tracepoint; "
         "write tracepoint:category:name, for example tracepoint:sched:sched_switch"),
    ],
)  # fmt: skip
def test_attach_points(text: str, expected: str) -> None:
    try:
        made = str(attach_point(AttachPoint(text, NOWHERE), ("x",)))
    except TextError as error:
        made = f"{error.diagnostic.message}; {error.diagnostic.cure}"
    assert made == expected


def test_the_reference_is_the_tables() -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "language.md").read_text()
    found = re.search(r"tables\.markdown\(\) -->\n(.*?)<!-- end", text, re.S)
    assert found is not None
    assert found[1].strip() == tables.markdown().strip()


def test_each_row_that_is_ready_can_be_used() -> None:
    ready = {one.name for one in tables.FUNCTIONS if one.ready} - AGGREGATES.keys()
    assert ready - {"getopt"} == FUNCTIONS.keys() - {"delete"}  # an option is known before; a statement, too
    assert {one.name for one in tables.STATEMENTS if one.ready} == STATEMENTS.keys()
    assert BUILTINS.keys() <= {one.name for one in tables.BUILTINS if one.ready}


def test_each_kind_of_expression_has_a_value_or_is_refused() -> None:
    kinds = set(typing.get_args(syntax.Expr))
    assert kinds
    assert kinds == set(EXPRESSIONS)
