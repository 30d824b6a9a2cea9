"""`while`, tuples and records, and the types of variables: bounds that are found, programs refused."""

from __future__ import annotations

import textwrap
from collections.abc import Callable

import pytest

from kwire.lang import checked as c
from kwire.lang.checked import Program
from kwire.lang.errors import LanguageError
from kwire.lang.forms import walk
from kwire.lang.types import describe


def of(body: str) -> str:
    """A probe with a parameter."""
    return f"def f(sk):\n{textwrap.indent(body, '    ')}"


BOUNDS = [
    # (before the loop, the loop's head, its body, how often it runs at most)
    ("i = 0", "while i < 10", "i += 1", 10),
    ("i = 0", "while i <= 10", "i += 1", 11),
    ("i = 0", "while i < 10", "i += 3", 4),
    ("i = 0", "while 10 > i", "i = i + 4\nif i & 1: i += 2", 5),
    ("i = 10", "while i", "i -= 1", 10),
    ("i = 10", "while i > 0", "i -= 4", 3),
    ("i = 10", "while i >= 0", "i -= 1", 11),
    ("i = -5", "while i != 5", "i += 2", 5),
    ("i = 0", "while not i >= 7", "i += 1", 7),
    ("i = 0", "while i < 10 and sk.prio > i", "i += 1", 10),
    ("i = sk.common.reuse", "while i < 100", "i += 1", 100),
    ("n = sk.cookie", "while n", "n >>= 1", 64),
    ("n = sk.cookie", "while n", "n &= n - 1", 64),
    ("n = sk.delta", "while n > 0", "n //= 10", 19),
    ("n = sk.common.dport", "while n != 0", "n = n >> 4", 4),
    ("n = 1", "while n < 1000", "n *= 2", 10),
    ("n = 1", "while n < 1000", "n <<= 4", 3),
    ("n = min(sk.cookie, 50)\ni = 0", "while i < n", "i += 1", 50),
    ("n = sk.cookie & 31\ni = 0", "while i < n", "i += 1", 31),
    ("n = min(sk.cookie, 50)\ni = 0", "while True", "if i >= n: break\ni += 1", 51),
    ("i = 0", "while True", "i += 1\nif i == 9 or sk.prio: break", 10),
    ("i = 0", "while True", "i += 1\nemit(i)\nif i > 9: return", 11),
    ("", "while sk.prio", "break", 1),
    ("", "while False", "pass", 0),
    ("t = (1, 2)", "while t[0] < sk.common.dport", "t = (t[0] + 1, 2)", 65534),
    ("", "while turns(7)", "pass", 7),
    ("", "while sk.prio and turns(7)", "pass", 7),
    ("N = 7", "while turns(sk.cookie & 7) and sk.prio", "pass", 7),
    ("i = 0", "for j in range(5)", "i = j", 5),
    ("n = min(sk.cookie, 50)", "for j in range(n)", "pass", 50),
]


@pytest.mark.parametrize(("before", "head", "body", "most"), BOUNDS)
def test_how_often_a_loop_runs_is_found(
    compiled: Callable[..., Program], before: str, head: str, body: str, most: int
) -> None:
    text = f"{before}\n{head}:\n{textwrap.indent(body, '    ')}\nemit(pid)"
    program = compiled(of(text), "kprobe:connect")
    (loop,) = [one for top in program.body for one in walk(top) if isinstance(one, c.Loop)]
    assert loop.most == most


ENDLESS = [
    ("i = 0", "while i < 10", "pass"),
    ("i = 0", "while i < 10", "i -= 1"),
    ("i = 0", "while i < 10", "if sk.prio: i += 1"),
    ("i = 0", "while i < 10", "if sk.prio: continue\ni += 1"),
    ("i = 0", "while i < 10", "i += 1\nif sk.prio: i = 0"),
    ("i = 0", "while i < 10", "i += 1\nif sk.prio: i -= 1"),
    ("i = 0", "while i < 10", "i += sk.prio"),
    ("i = 0", "while i < 10 or sk.prio", "i += 1"),
    ("i = 0", "while i != 5", "i += 2"),
    ("i = 0", "while i != sk.prio", "i += 1"),
    ("i = 10", "while i", "i -= 3"),
    ("n = sk.delta", "while n", "n >>= 1"),  # -1 >> 1 is -1
    ("n = 0", "while n < 1000", "n *= 2"),
    ("n = sk.prio", "while n > 0", "n >>= 0"),
    ("i: u8 = 0", "while i <= 255", "i += 1"),
    ("i: u8 = 0", "while i < 255", "i += 2"),  # it goes around
    ("i = 0", "while True", "if sk.prio: continue\ni += 1\nif i > 9: break"),
    ("i = 0", "while True", "if sk.prio:\n    i += 1\n    if i > 9: break"),
    ("i = 0\nj = 0", "while i < j", "i += 1\nj += 1"),
    ("", "while sk.prio", "pass"),
]


@pytest.mark.parametrize(("before", "head", "body"), ENDLESS)
def test_a_loop_without_an_end_that_is_known_is_refused_at_its_condition(
    compiled: Callable[..., Program], before: str, head: str, body: str
) -> None:
    with pytest.raises(LanguageError) as caught:
        compiled(of(f"{before}\n{head}:\n{textwrap.indent(body, '    ')}\nemit(pid)"), "kprobe:connect")
    (only,) = caught.value.diagnostics
    assert only.message.startswith(("this loop has no end that can be known", "this loop may run more than"))
    assert "while turns(100) and …:" in only.cure
    condition = head.removeprefix("while ")
    assert caught.value.source.line(only.span.line)[only.span.column : only.span.end_column] == condition


WRONG = [
    ("a, b = pid", "a u32 is no tuple to unpack", "pid"),
    ("a, b = 1, 2, 3", "3 values for 2 names", "a, b"),
    ("a, (b, d) = 1, 2", "an s64 is no tuple to unpack", "2"),
    ("a, pid = 1, 2", "pid is a built-in of probes; use another name", "pid"),
    ("a, sk.prio = 1, 2", "only a local variable can be assigned; write name = value", "sk.prio"),
    ("a, *b = 1, 2", "only a local variable can be assigned; write name = value", "*b"),
    ("t = 1, 2\nt = 3", "t is set to two different things; this is an s64; use two names", "t = 3"),
    (
        "t = 1, 2\nt = 1, 2, 3",
        "t is set to two different things; this is a tuple of 3; use two names",
        "t = 1, 2, 3",
    ),
    (
        't = 1, 2\nt = {"a": 1, "b": 2}',
        "t is set to two different things; this is a record of a, b; use two names",
        't = {"a": 1, "b": 2}',
    ),
    ("t = (1, 2)\nemit(x=t[2])", "2 is not an index of a tuple of 2; its indexes are 0 to 1", "2"),
    (
        "t = (1, 2)\nemit(x=t[pid])",
        "which part of a tuple is known when the probe is compiled; write its number",
        "pid",
    ),
    ("t = (1, 2)\nemit(x=t + 1)", "a tuple of 2 is no number; use one part: [0]", "t"),
    ("t = (1, 2)\nif t: emit(pid)", "a tuple is always true; use one part: [0]", "t"),
    ('r = {"size": 1}\nemit(x=r.sise)', "a record of size has no sise; did you mean size?", "sise"),
    ('r = {"size": 1}\nemit(x=r["a"])', "a record of size has no a; it has size", '"a"'),
    ("emit(x=(1, 2) == 3)", "a tuple of 2 does not compare with an s64; compare its parts", "(1, 2) == 3"),
    (
        "emit(x=(1, 2) == (1, 2, 3))",
        "a tuple of 2 and a tuple of 3 have different numbers of parts",
        "(1, 2) == (1, 2, 3)",
    ),
    ("x = ()\nemit(pid)", "an empty tuple holds nothing", "()"),
    ("x = {1: 2}\nemit(pid)", "the keys of a dictionary in a probe are names, as texts", "{1: 2}"),
    ('x = {"a b": 2}\nemit(pid)', "the keys of a dictionary in a probe are names, as texts", '{"a b": 2}'),
    ("t = (1, 2)\nemit(t, t_0=1)", "there are two fields t_0", "emit(t, t_0=1)"),
    ('t = ("a", 1)\nt = (2, 1)\nemit(t)', "t[0] is set to two different things; this is", "t = (2, 1)"),
    ("while turns(pid): pass\nemit(pid)", "this loop may run more than 1,048,576 times", "turns(pid)"),
    ("while turns(): pass\nemit(pid)", "turns takes one number; write turns(100)", "turns()"),
    (
        "while turns(2) and turns(3): pass\nemit(pid)",
        "how often a loop runs at most is said once",
        "turns(3)",
    ),
    ("x = turns(2)\nemit(pid)", "turns says how often a `while` runs", "turns(2)"),
    ("if pid:\n    x = sk\nelse:\n    x = 1\nemit(x)", "x was a struct sock * and becomes an s64", "x = 1"),
    ("emit(x)\nx = 1", "x may have no value here; assign it on every path before", "x"),
    ("while sk.prio:\n    break\nelse:\n    pass\nemit(pid)", "a loop has no else in a probe", "pass"),
]


@pytest.mark.parametrize(("text", "message", "underlined"), WRONG)
def test_a_wrong_tuple_loop_or_type_is_refused(
    compiled: Callable[..., Program], text: str, message: str, underlined: str
) -> None:
    with pytest.raises(LanguageError) as caught:
        compiled(of(text), "kprobe:connect")
    first, *others = caught.value.diagnostics
    assert f"{first.message}; {first.cure}".startswith(message), caught.value.detail
    assert not others
    line = caught.value.source.line(first.span.line)
    assert line[first.span.column : first.span.end_column] == underlined


TYPES = [
    # (text, the types of the event's fields)
    ("x = 0\nif pid: x = sk\nemit(x)", "struct sock *"),
    ("x = 0 if pid else sk\nemit(x)", "struct sock *"),
    ("x = 0\ny = x\nif pid: y = sk\nemit(y)", "struct sock *"),
    ("p = 0\nfor i in range(3):\n    if p: emit(q=p.prio)\n    p = sk\nemit(q=sk.prio)", "s32"),
    ("x = sk.common.family\nemit(x)\nx = sk.cookie", "u8"),  # what comes later changes nothing here
    (
        "x = sk.common.family\nfor i in range(3):\n    emit(x)\n    x = sk.cookie",
        "u64",
    ),  # it comes before, too
    (
        "a = b = d = sk.common.family\n"
        "for i in range(9):\n"
        "    for j in range(9):\n"
        "        emit(a)\n        a = b\n        b = d\n        d = sk.cookie",
        "u64",
    ),
    ("x = -1\nif pid:\n    x = sk.cookie\nelse:\n    emit(y=x < 0)", "bool"),
    ("t = (sk.common.family, sk)\nt = (sk.cookie, sk)\nemit(t)", "u64, struct sock *"),
]


@pytest.mark.parametrize(("text", "wanted"), TYPES)
def test_variables_are_what_they_are_given(compiled: Callable[..., Program], text: str, wanted: str) -> None:
    program = compiled(of(text), "kprobe:connect")
    assert ", ".join(describe(field.type) for field in program.shapes[0].fields) == wanted
