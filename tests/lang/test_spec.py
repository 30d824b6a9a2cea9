"""Probe specs: every spelling, wildcards, expressions, and what is wrong where."""

from __future__ import annotations

import pytest
import shown_tree

from kwire.kinds import KINDS, SPELLINGS
from kwire.lang import spec
from kwire.lang.errors import LanguageError

RIGHT = [
    ("tracepoint:sched:sched_switch", ("tracepoint", "sched", "sched_switch", 0)),
    ("t:sched:sched_switch", ("tracepoint", "sched", "sched_switch", 0)),
    ("tp:syscalls:sys_enter_*", ("tracepoint", "syscalls", "sys_enter_*", 0)),
    ("TRACEPOINT:a:b", ("tracepoint", "a", "b", 0)),
    ("rawtracepoint:sched_switch", ("rawtracepoint", "", "sched_switch", 0)),
    ("raw_tracepoint:x", ("rawtracepoint", "", "x", 0)),
    ("rt:x", ("rawtracepoint", "", "x", 0)),
    ("kprobe:tcp_connect", ("kprobe", "", "tcp_connect", 0)),
    ("k:tcp_connect+16", ("kprobe", "", "tcp_connect", 16)),
    ("k:ext4:ext4_file_open+0x10", ("kprobe", "ext4", "ext4_file_open", 16)),
    ("kr:vfs_read", ("kretprobe", "", "vfs_read", 0)),
    ("kretprobe:*:tcp_[rs]*", ("kretprobe", "*", "tcp_[rs]*", 0)),
    ("f:x", ("fentry", "", "x", 0)),
    ("kfunc:m:x", ("fentry", "m", "x", 0)),
    ("fr:x.isra.0", ("fexit", "", "x.isra.0", 0)),
    ("fexit:x", ("fexit", "", "x", 0)),
]


CONDITIONS = [
    ("k:f{pid == 1}", [], "(pid == 1)"),
    ("k:f(a, b=2) {pid == 1} ", ["a", "2"], "(pid == 1)"),
    ('k:f(a, b=x in {1, 2}, c="){") { "}" in c and d ~ "{*" }', None, "(('}' in c) and glob(d, '{*'))"),
]


@pytest.mark.parametrize(("text", "expressions", "condition"), CONDITIONS)
def test_a_spec_may_have_a_condition(text: str, expressions: list[str] | None, condition: str) -> None:
    parsed = spec.parse(text)
    assert parsed.condition is not None
    assert shown_tree.expression(parsed.condition) == condition
    if expressions is not None:
        assert [shown_tree.expression(one) for _, one in parsed.expressions] == expressions
    assert str(parsed.point) == "kprobe:f"


@pytest.mark.parametrize(
    ("text", "says", "columns"),
    [
        ("k:f{}", "nothing is written here; write one expression", (4, 5)),
        ("k:f{ }", "nothing is written here", (4, 5)),
        ("k:f{pid == 1", "is no condition in braces", (3, 12)),
        ("k:f(pid) pid == 1", "'pid == 1' is no condition in braces", (9, 17)),
        ("k:f(pid){pid ==}", "invalid syntax", (15, 16)),
        ("k:f(pid){pid = 1}", "", (9, 16)),
        ("k:f{(pid}", "", (4, 5)),
    ],
)
def test_a_condition_that_is_none_is_shown_where_it_is(
    text: str, says: str, columns: tuple[int, int]
) -> None:
    with pytest.raises(LanguageError) as caught:
        spec.parse(text)
    [diagnostic] = caught.value.diagnostics
    assert says in f"{diagnostic.message}; {diagnostic.cure}"
    assert (diagnostic.span.column, diagnostic.span.end_column) == columns


@pytest.mark.parametrize(("text", "parts"), RIGHT)
def test_a_spec_has_these_parts(text: str, parts: tuple[str, str, str, int]) -> None:
    parsed = spec.parse(text)
    point = parsed.point
    assert (point.kind, point.group, point.name, point.offset) == parts
    assert parsed.expressions == ()
    assert point.wildcard == any(sign in text for sign in "*[?")
    assert spec.parse(str(point)).point == point.replace(span=spec.parse(str(point)).point.span)


@pytest.mark.parametrize(
    ("text", "expressions"),
    [
        ("k:f(a)", [("", "a")]),
        ("k:f(a.b.c, n=d[1] + 2)", [("", "a.b.c"), ("n", "(d[1] + 2)")]),
        ('k:f( str(x, 3) ,y = "(" ) ', [("", "str(x, 3)"), ("y", "'('")]),
        ("t:a:b()", []),
        ("k:f(cast('struct x *', a).b)", [("", "cast('struct x *', a).b")]),
    ],
)
def test_expressions_of_a_spec(text: str, expressions: list[tuple[str, str]]) -> None:
    parsed = spec.parse(text)
    assert [(name, shown_tree.expression(node)) for name, node in parsed.expressions] == expressions


def test_spans_of_expressions_are_columns_of_the_spec() -> None:
    text = "kprobe:tcp_connect(sk.prio, n=sk.b)"
    parsed = spec.parse(text)
    assert [text[node.span.column : node.span.end_column] for _, node in parsed.expressions] == [
        "sk.prio",
        "sk.b",
    ]


WRONG = [
    ("tcp_connect", "'tcp_connect' has no kind; write kprobe:tcp_connect or tracepoint:…", "tcp_connect"),
    (
        "r.bt",
        "'r.bt' has no kind; a script runs as 'kwire r.bt', with -w FILE to keep what it prints",
        "r.bt",
    ),
    ("kprobe", "'kprobe' says no target; write kprobe:[module:]function[+offset]", "kprobe"),
    ("kprob:x", "unknown kind of probe 'kprob'; did you mean kprobe, uprobe or kretprobe?", "kprob"),
    (
        "uprobe:x",
        "'x' is not a target of a uprobe; write uprobe:file:function[+offset], "
        "for example uprobe:/bin/bash:readline",
        "x",
    ),
    (
        "qq:x",
        "unknown kind of probe 'qq'; "
        "the kinds are tracepoint, rawtracepoint, kprobe, kretprobe, fentry, fexit, uprobe, uretprobe, usdt, "
        "interval, profile, software, hardware, watchpoint, iter, self, begin, end",
        "qq",
    ),
    (
        "t:sched",
        "'sched' is not a target of a tracepoint; "
        "write tracepoint:category:name, for example tracepoint:sched:sched_switch",
        "sched",
    ),
    (
        "rt:a:b",
        "'a:b' is not a target of a rawtracepoint; "
        "write rawtracepoint:name, for example rawtracepoint:sched_switch",
        "a:b",
    ),
    ("k:f+x", "'x' is no offset; write bytes, as in +16", "x"),
    ("kr:f+1", "a kretprobe takes no offset; use kprobe:function+offset", "+1"),
    ("k:f(", "'(' was never closed", "("),
    ("k:f(a)(b)", "'(b)' is no condition in braces; write PROBE(expr, name=expr){condition}", "(b)"),
    ("k:f(a b)", "invalid syntax. Perhaps you forgot a comma?", "a b"),
    ("k:f(a->b)", "invalid syntax; write `.`: pointers are followed", "->"),
    ("k:f(a; b)", "invalid syntax", ";"),
    ("k:f(lambda: 1)", "a probe has no functions inside; write the expression itself", "lambda: 1"),
]


@pytest.mark.parametrize(("text", "complaint", "underlined"), WRONG)
def test_a_wrong_spec_is_refused(text: str, complaint: str, underlined: str) -> None:
    with pytest.raises(LanguageError) as caught:
        spec.parse(text)
    assert str(caught.value) == f"PROBE:1: {complaint}"
    span = caught.value.diagnostics[0].span
    assert text[span.column : span.end_column] == underlined


@pytest.mark.parametrize(
    "text", ["", ":", "k:", "k::", "k:a:", "k::b", "k:a b", "k:a:b:c", "t::x", "k:+4", "k:f+-1"]
)
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(LanguageError, match="PROBE:1: "):
        spec.parse(text)


def test_names_of_kinds_are_distinct() -> None:
    names = [name for kind in KINDS.values() for name in (kind.name, *kind.aliases)]
    assert len(names) == len(set(names)) == len(SPELLINGS)
    for kind in KINDS.values():
        assert str(spec.parse(kind.example).point) == kind.example
