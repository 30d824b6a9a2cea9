"""The Python front end: files that are never run, live functions, constants, decorators, expressions."""

from __future__ import annotations

import enum
import importlib.util
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import shown_tree

from kwire.lang import python, tree
from kwire.lang.checked import Program
from kwire.lang.errors import LanguageError
from kwire.lang.tree import Source

FILE = '''\
"""Two probes and other things."""
import os
import kwire as kw
from kwire import kprobe, tracepoint

raise SystemExit("a file of probes is not run")
os.abort()
PORT = 80
LIMIT: int = PORT << 2
NAME = "x"
CHANGED = 1
CHANGED = os.getpid()

@kw.kprobe("tcp_connect", "tcp_close")
def first(sk: "struct sock *", flags: kw.u32):
    """What it does."""
    n = 1
    n += PORT
    if n > LIMIT: return
    kw.emit(pid, n)

@other.kprobe("no")
@staticmethod
def helper(a, b=1):
    yield a

@tracepoint("sched:sched_switch")
def second(prev_comm, next_pid):
    emit(pid)

@kw.probe("fentry:vfs_read")
@kprobe("vfs_read")
def third(): emit(pid)
'''


def test_a_file_is_read_and_not_run() -> None:
    probes = python.parse_file(FILE, "probes.py")
    assert [probe.name for probe in probes] == ["first", "second", "third"]
    first, second, third = probes
    assert [(one.kind, one.target) for one in first.attach] == [
        ("kprobe", "tcp_connect"),
        ("kprobe", "tcp_close"),
    ]
    assert [(one.name, one.type) for one in first.parameters] == [("sk", "struct sock *"), ("flags", "u32")]
    assert dict(first.constants) == {"PORT": 80, "LIMIT": 320}  # what it uses
    assert [type(one).__name__ for one in first.body] == ["Assign", "Assign", "If", "Do"]
    assert [(one.name, one.type) for one in second.parameters] == [("prev_comm", ""), ("next_pid", "")]
    assert [(one.kind, one.target) for one in third.attach] == [
        ("fentry", "vfs_read"),
        ("kprobe", "vfs_read"),
    ]


SECRETIVE = """\
'''My notes: hunter2.'''
import kwire
TOKEN = "hunter2"
LIMIT = 1 << 4
WORD = "ls"
\x0c
# hunter2
@kwire.kprobe("tcp_connect")
def one():
    if pid > LIMIT:
        emit(a=LIMIT, b=comm == WORD)  # mine

@kwire.kprobe("tcp_close")
def two():
    emit(a=1)
# hunter2
"""


def test_a_capture_keeps_the_probe_and_what_it_names_and_nothing_beside_it() -> None:
    one, two = python.parse_file(SECRETIVE, "secret.py")
    assert one.source.kept == (
        "LIMIT = 16\nWORD = 'ls'\n"
        '@kwire.kprobe("tcp_connect")\n'
        "def one():\n"
        "    if pid > LIMIT:\n"
        "        emit(a=LIMIT, b=comm == WORD)  # mine\n"
    )
    assert two.source.kept == '@kwire.kprobe("tcp_close")\ndef two():\n    emit(a=1)\n'
    assert two.source.text == SECRETIVE  # complaints show lines of it

    def inner(fd: int) -> None:
        emit(family=socket.AF_INET)  # type: ignore[name-defined]  # noqa: F821

    kept = python.parse_function(inner, ["kprobe:tcp_connect"]).source.kept
    assert kept.startswith("socket.AF_INET = 2\ndef inner(fd: int)")
    assert "hunter2" not in kept


def test_spans_point_at_the_text() -> None:
    (probe,) = python.parse_file('@kprobe("f")\ndef größe(a: "u8"):\n    emit(ä=a.bc[1])\n', "x.py")
    call = probe.body[0]
    assert isinstance(call, tree.Do)
    index = call.call.keywords[0][1]
    assert isinstance(index, tree.Index)
    member = index.value
    assert isinstance(member, tree.Member)
    lines = probe.source.text.splitlines()

    def text(span: tree.Span) -> str:
        assert span.line == span.end_line
        return lines[span.line - 1][span.column : span.end_column]

    assert text(index.span) == "a.bc[1]"
    assert text(member.span) == "a.bc"
    assert text(member.name_span) == "bc"
    assert text(probe.parameters[0].span) == "a"
    assert text(probe.parameters[0].type_span) == '"u8"'
    assert text(probe.attach[0].span) == '"f"'


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "@kprobe\ndef f(): pass",
            'x.py:1: the decorator does not say where to attach; write @kwire.kprobe("…")',
        ),
        (
            "@kprobe()\ndef f(): pass",
            'x.py:1: the decorator does not say where to attach; write @kwire.kprobe("…")',
        ),
        ("@kprobe(NAME)\ndef f(): pass", 'x.py:1: an attach point is a string; write @kwire.kprobe("…")'),
        ("@probe('x')\ndef f(): pass", "x.py:1: 'x' has no kind; write kprobe:x or tracepoint:…"),
        (
            "@kprobe('f(a)')\ndef f(): pass",
            "x.py:1: expressions belong into the function; emit(…) them, or use if",
        ),
        ("@kprobe('f')\nasync def f(): pass", "x.py:2: a probe is not async; write def"),
        ("@kprobe('f')\ndef f(:\n", "x.py:2: invalid syntax"),
        ("@kprobe('f')\ndef f():\n    a && b\n", "x.py:3: invalid syntax; write `and`"),
        (
            "@kprobe('f')\ndef f():\n    emit(\n        1.5)",
            "x.py:4: the kernel has no floating point; use integers",
        ),
    ],
)
def test_a_wrong_file_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(LanguageError) as caught:
        python.written_file(text, "x.py")
    assert str(caught.value) == complaint


def test_every_form_python_has_is_known_or_refused_by_name() -> None:
    """Whatever Python's grammar offers is converted or refused with a sentence of its own."""
    import ast

    from kwire.lang import pysyntax

    statements = {
        "Pass",
        "Expr",
        "Assign",
        "AnnAssign",
        "AugAssign",
        "If",
        "For",
        "While",
        "Break",
        "Continue",
        "Return",
    }
    # Parts of others, old names that only ast's users meet, and what this Python's parser does not make.
    parts = {"FormattedValue", "TryStar", "AsyncWith", "TypeAlias", "TemplateStr", "Interpolation"}
    kinds = {kind.__name__ for kind in (*ast.expr.__subclasses__(), *ast.stmt.__subclasses__())}
    converted = {name for name in kinds if hasattr(pysyntax.Converter, f"_{name}")}
    assert kinds - converted - statements - parts == pysyntax.REFUSED.keys() & kinds
    assert {"Name", "Call", "Compare", "Subscript"} <= converted


def test_null_bytes_are_refused() -> None:
    with pytest.raises(LanguageError, match="cannot contain null bytes"):
        python.parse_file("a\0b", "x.py")


# -- functions that probes call

CALLING = """
import kwire, shared.tools
from helpers import double as twice, LIMIT

def half(n): return n // 2

@kwire.kprobe("f")
def probe(a):
    emit(x=twice(half(a)), y=shared.tools.third(a))

def unused(): return nonsense
"""
MODULES = {
    "helpers": """STEP = 2
def double(n):
    return scaled(n, STEP)
def scaled(n, by):
    return n * by
""",
    "shared.tools": "def third(n):\n    return n // 3\n",
}


def text_of(module: str) -> Source | None:
    return Source(f"{module}.py", MODULES[module]) if module in MODULES else None


def test_functions_of_the_file_and_of_modules_are_found() -> None:
    (probe,) = python.parse_file(CALLING, "probes.py", text_of)
    assert [function.name for function in probe.functions] == ["double", "half", "third", "scaled"]
    assert dict(probe.functions[0].constants) == {"STEP": 2}
    assert [source.name for source in probe.source.others] == ["helpers.py", "shared.tools.py"]
    places = [probe.source.at(function.span.line) for function in probe.functions]
    assert [(source.name, line) for source, line in places] == [
        ("helpers.py", 2),
        ("probes.py", 5),
        ("shared.tools.py", 1),
        ("helpers.py", 4),
    ]
    assert "unused" not in probe.source.kept
    assert "def scaled(n, by):" in probe.source.kept
    assert "STEP = 2" in probe.source.kept


def test_what_is_wrong_in_a_function_is_told_where_it_stands() -> None:
    broken = "\n\ndef double(n):\n    yield n\n"

    def only_helpers(module: str) -> Source | None:
        return Source("helpers.py", broken) if module == "helpers" else None

    with pytest.raises(LanguageError) as caught:
        python.written_file(CALLING, "probes.py", only_helpers)
    first, second = (line for line in caught.value.detail.split("\n") if ".py:" in line)
    assert first.startswith("probes.py:9: this is no function of kwire")
    assert second == "helpers.py:4: yield has no meaning in a probe; use emit(…)"


def test_what_travels_holds_the_functions_of_its_file() -> None:
    text = (
        "X = 3\nimport kwire\ndef half(n):\n    return n // X\n\nsecret = 'x'\n"
        "@kwire.kprobe('f')\ndef p(a):\n    emit(x=half(a))\n"
    )
    (one,) = python.written_file(text, "probes.py")
    assert one.constants == {"X": 3}
    assert "secret" not in one.text
    probe = python.parse_written(one)
    assert [function.name for function in probe.functions] == ["half"]
    assert (probe.functions[0].span.line, probe.span.line) == (3, 8)
    with pytest.raises(LanguageError, match=r"probes.py:8: double stands in helpers.py, which does not"):
        python.written_file(CALLING, "probes.py", text_of)


def test_a_function_of_a_live_probe_is_read_from_its_text() -> None:
    def inner(a: Any) -> None:
        emit(x=helper(a))  # type: ignore[name-defined]  # noqa: F821

    probe = python.parse_function(inner, ["kprobe:f"])
    assert [function.name for function in probe.functions] == ["helper"]
    (function,) = probe.functions
    assert dict(function.constants) == {"WIDE": 4}
    assert function.span.line == helper.__code__.co_firstlineno


def helper(n: Any) -> Any:
    return n + WIDE


# -- live functions

WIDE = 4
TEXT = "cat"


class Color(enum.IntEnum):
    RED = 3


class Plain:
    LEVEL = 7


def live(sk: Any) -> None:
    if sk.a == WIDE and sk.b == Color.RED and sk.c == socket.AF_INET6 and sk.d == Plain.LEVEL:  # comment
        emit(sk.x, y=comm == TEXT)  # type: ignore[name-defined]  # noqa: F821


def test_a_live_function_is_read_from_its_text() -> None:
    probe = python.parse_function(live, ["kprobe:tcp_connect"])
    assert probe.name == "live"
    assert [(one.kind, one.target) for one in probe.attach] == [("kprobe", "tcp_connect")]
    assert probe.span.line == live.__code__.co_firstlineno
    assert probe.source.name == __file__
    assert probe.source.line(probe.span.line).startswith("def live(")
    (condition,) = probe.body
    assert isinstance(condition, tree.If)
    assert (
        shown_tree.expression(condition.test)
        == "((sk.a == WIDE) and (sk.b == 3) and (sk.c == 10) and (sk.d == 7))"
    )
    assert {"WIDE": 4, "TEXT": "cat"}.items() <= dict(probe.constants).items()


def test_what_a_function_closes_over_is_constant() -> None:
    hidden, WIDE, flag = 9, 5, True  # noqa: N806

    def inner(a: Any) -> None:
        emit(x=a.b + hidden + WIDE, y=flag, z=later)  # type: ignore[name-defined]  # noqa: F821

    probe = python.parse_function(inner, ["kprobe:f"])
    assert {"hidden": 9, "WIDE": 5, "flag": 1}.items() <= dict(probe.constants).items()
    later = 3
    assert dict(python.parse_function(inner, ["kprobe:f"]).constants)["later"] == later


def test_indented_and_decorated_functions() -> None:
    def kprobe(_: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
        return lambda function: function

    if WIDE:

        @kprobe("one")
        @kprobe(
            "two"  # in its own line
        )
        def probe(
            a: Any,
        ) -> None:
            """Docs
                that go to the left:
            x
            """
            emit(a.b)  # type: ignore[name-defined]  # noqa: F821

    parsed = python.parse_function(probe)
    assert [one.target for one in parsed.attach] == ["one", "two"]
    assert "emit(a.b)" in parsed.source.line(parsed.body[0].span.line)


def test_of_two_functions_of_one_name_the_right_one_is_read() -> None:
    def make(which: int) -> Callable[..., None]:
        if which:

            def probe(a: Any) -> None:
                emit(a.one)  # type: ignore[name-defined]  # noqa: F821
        else:

            def probe(a: Any) -> None:
                emit(a.two)  # type: ignore[name-defined]  # noqa: F821

        return probe

    for which, name in ((1, "one"), (0, "two")):
        (call,) = python.parse_function(make(which), ["kprobe:f"]).body
        assert isinstance(call, tree.Do)
        assert shown_tree.expression(call.call) == f"emit(a.{name})"


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        (lambda sk: None, "a lambda cannot be a probe; write a function with def"),
        (len, "len is not a Python function; give a function defined with def"),
        (eval("lambda: 1"), "a lambda cannot be a probe"),
    ],
)
def test_what_has_no_text_is_refused(function: Callable[..., Any], complaint: str) -> None:
    with pytest.raises(LanguageError) as caught:
        python.parse_function(function)
    assert complaint in str(caught.value)


def test_a_function_made_from_a_string_is_refused() -> None:
    space: dict[str, Any] = {}
    exec(compile("def f(a):\n    emit(a)\n", "<made>", "exec"), space)
    with pytest.raises(
        LanguageError, match="<made>: the source text of f cannot be found; put it into a file"
    ):
        python.parse_function(space["f"])


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("changing", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_file_that_changed_meanwhile_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "changing.py"
    path.write_text("def f(a):\n    emit(a)\n")
    module = _load(path)
    path.write_text("\n\n\ndef f(a):\n    emit(b)\n")
    with pytest.raises(LanguageError, match=r"f is not at line 1 of its file; was the file changed"):
        python.parse_function(module.f)


@pytest.mark.parametrize(
    ("around", "used", "says"),
    [
        ("pid = 7", "pid", "pid is a built-in of probes, and a name of the script around this one"),
        ("pid = os.getpid()", "pid", "pid is a built-in of probes"),
        ("for cpu in range(3): pass", "cpu", "cpu is a built-in of probes"),
        ("emit = 3", "pid", "emit is a function of probes"),
        ("str = 3", "str(arg0)", "str is a function of probes"),
        ("u32: int = 3", "u32(arg0)", "u32 is a function of probes"),
        ("arg0 = 3", "arg0", "arg0 is a built-in of probes"),
        ("ENOENT = 3", "ENOENT", "ENOENT is a constant of Linux"),
        ("ENOENT = 2", "ENOENT", ""),
        ("from errno import ENOENT", "ENOENT", ""),
        ("pid = 7", "tid", ""),
        ("def str(): pass", "str(arg0)", "str is a function of the language, and one of the script"),
        ("def other(): pass", "str(arg0)", ""),
        ("def other():\n    pid = 7", "pid", ""),
    ],
)
def test_a_name_means_one_thing(around: str, used: str, says: str) -> None:
    text = f'import kwire, os\n{around}\n@kwire.kprobe("f")\ndef f(arg):\n    emit(x={used})\n'
    if not says:
        assert python.parse_file(text, "probes.py")
        return
    with pytest.raises(LanguageError) as caught:
        python.written_file(text, "probes.py")
    assert says in str(caught.value)
    assert str(caught.value).endswith("; give the script's another name")
    assert "^" in caught.value.detail


def test_a_name_of_a_running_script_means_one_thing() -> None:
    from errno import ENOENT

    cpu = [1, 2]

    def same():  # type: ignore[no-untyped-def]
        emit(x=ENOENT)  # type: ignore[name-defined]  # noqa: F821

    def other():  # type: ignore[no-untyped-def]
        emit(x=cpu)  # type: ignore[name-defined]  # noqa: F821

    assert python.parse_function(same, ["kprobe:f"]).constants == (("ENOENT", 2),)
    for parse in (python.parse_function, python.written):
        with pytest.raises(LanguageError, match="cpu is a built-in of probes, and a name of the script"):
            parse(other, ["kprobe:f"])


BESIDE = """
import os, kwire as kw
PASSWORD = "hunter2"  # a secret beside the probes
PORT = 443

def helper():
    return "another secret"

@kw.kprobe("tcp_connect")
@kw.fentry("tcp_close")
def first(sk):
    if sk.port == PORT:
        kw.emit(kw.ksym(sk.call))

TOKEN = os.environ["TOKEN"]

@kw.probe("tracepoint:sched:sched_switch")
def second(prev_comm):
    kw.emit(prev_comm, x=nobody)
"""


def test_what_travels_of_a_file_is_its_probes_and_what_they_name() -> None:
    here = python.parse_file(BESIDE, "probes.py")
    travelled = python.written_file(BESIDE, "probes.py")
    assert [one.name for one in travelled] == ["first", "second"]
    assert travelled[0].attach == ("kprobe:tcp_connect", "fentry:tcp_close")
    assert travelled[0].constants == {"PORT": 443}
    assert not any(word in repr(travelled) for word in ("hunter2", "secret", "TOKEN", "environ", "helper"))
    there = [python.parse_written(one) for one in travelled]
    for one, other in zip(here, there, strict=True):
        assert (one.body, one.parameters, one.constants) == (other.body, other.parameters, other.constants)
        assert [(at.kind, at.target) for at in one.attach] == [(at.kind, at.target) for at in other.attach]
        assert one.source.kept == other.source.kept
        assert one.span == other.span, "errors name the same lines"
    with pytest.raises(LanguageError, match=r"probes.py:2: invalid syntax"):
        python.written_file("\nno python", "probes.py")


# -- expressions


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("pid == 42", "(pid == 42)"),
        ("  a.b[2].c ", "a.b[2].c"),
        ("1 < a <= 3 != b", "(1 < a <= 3 != b)"),
        ("not a or b and -c", "((not a) or (b and (-c)))"),
        ("x in (1, 2)", "((x == 1) or (x == 2))"),
        ("x not in [1]", "(not (x == 1))"),
        ("p is None", "(p == 0)"),
        ("p is not None", "(p != 0)"),
        ("None != p == None", None),
        ("a if b else c", "(a if b else c)"),
        ("kwire.str(p, 3)", "str(p, 3)"),
        ('cast("struct x *", p).y', "cast('struct x *', p).y"),
        ("-1", "(-1)"),
        ("- -1", "1"),
        ("True", "True"),
        ("~1 ^ 2 | 3 & 4 << 5", "(((~1) ^ 2) | (3 & (4 << 5)))"),
        ("(a +\n b)", "(a + b)"),
    ],
)
def test_an_expression_parses_to(text: str, printed: str | None) -> None:
    if printed is None:
        with pytest.raises(LanguageError, match="None is no value"):
            python.parse_expression(text, "--filter")
    else:
        assert shown_tree.expression(python.parse_expression(text, "--filter")) == printed


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "--where:1: nothing is written here; write one expression, as in pid == 42"),
        ("a; b", "--where:1: this is not one expression; write one expression, as in pid == 42"),
        ("a = 1", "--where:1: this is not one expression; write one expression, as in pid == 42"),
        ("a && b", "--where:1: invalid syntax; write `and`"),
        ("a || b", "--where:1: invalid syntax; write `or`"),
        ("!a", "--where:1: invalid syntax; write `not`"),
        ("a != b c", "--where:1: invalid syntax"),
        ("x => 3", None),
    ],
)
def test_a_wrong_expression_is_refused(text: str, complaint: str | None) -> None:
    with pytest.raises(LanguageError) as caught:
        python.parse_expression(text, "--where")
    if complaint is not None:
        assert str(caught.value) == complaint


def test_the_front_end_is_light() -> None:
    import subprocess

    code = "import sys, kwire.lang.python, kwire.lang.record; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ran.stdout.split())
    assert not {"inspect", "dataclasses", "numpy", "difflib", "linecache", "json"} & loaded


def test_a_field_may_have_the_name_of_a_function(compiled: Callable[..., Program]) -> None:
    """So a function that is new breaks no probe that names its field so."""
    program = compiled("def f(len): emit(len, more=len + 1)", "tracepoint:toy:called")
    assert [field.name for field in program.shapes[0].fields] == ["len", "more"]
    with pytest.raises(LanguageError, match=r"len is a parameter here, and no function; write args\.len"):
        compiled("def f(len, path): emit(n=len(path))", "tracepoint:toy:called")
    assert compiled("def f(path): emit(args.len, n=len(path))", "tracepoint:toy:called")
