"""Functions that probes call: what is wrong with them, or with a call, is told where it stands."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kwire.lang.checked import Program
from kwire.lang.errors import LanguageError

WRONG = [
    # (functions, the probe's statement, message)
    ("def f(n): return n", "emit(x=f())", "f does not take these arguments; write f(n)"),
    ("def f(n): return n", "emit(x=f(1, 2))", "f does not take these arguments; write f(n)"),
    ("def f(n): return n", "emit(x=f(1, n=2))", "f does not take these arguments; write f(n)"),
    ("def f(n): return n", "emit(x=f(1, m=2))", "f does not take these arguments; write f(n)"),
    ("def f(n): return f(n - 1)", "emit(x=f(1))", "f calls itself; use a loop: for i in range(…)"),
    (
        "def f(n): return g(n)\ndef g(n): return f(n)",
        "emit(x=f(1))",
        "f calls itself; use a loop: for i in range(…)",
    ),
    ("def f(n): pass", "emit(x=f(1))", "f gives no value; let it return one"),
    (
        "def f(n):\n    if n: return 1",
        "emit(x=f(pid))",
        "f may end without a value; return one at its end",
    ),
    (
        "def f(n):\n    emit(n)\n    return n",
        "emit(x=f(pid) + 1)",
        "f emits events or changes maps; call it in a statement of its own: x = f(…)",
    ),
    ("def f(n): return m", "emit(x=f(pid))", "unknown name m"),
    ("def f(n): return sk", "emit(x=f(pid))", "unknown name sk"),
    ("def f(n, *m): return n", "emit(x=f(pid))", "a function that probes call takes plain parameters only"),
    (
        "def f(n, *, m=1): return n",
        "emit(x=f(pid))",
        "a function that probes call takes plain parameters only",
    ),
    ("def f(n, m=1): return n", "emit(x=f())", "f does not take these arguments; write f(n, m)"),
    ("def f(n=pid): return n", "emit(x=f())", "a default is a number or a text that is known before"),
    ("def f(n=[1]): return n", "emit(x=f(1))", "lists are not supported"),
    ("async def f(n): return n", "emit(x=f(pid))", "a function that probes call is plain"),
    ("@other\ndef f(n): return n", "emit(x=f(pid))", "a function that probes call is plain"),
    (
        "def min(a, b): return a",
        "emit(x=min(1, 2))",
        "min is a function of the language, and one of the script",
    ),
    ("def f(pid): return pid", "emit(x=f(1))", "pid is a built-in"),
    (
        "def f(n):\n    if n: return str(n, 3)\n    return str(n, 4)",
        'emit(x=f(sk.label) == "a")',
        "return is a text of one limit on one path",
    ),
    ("def f(n):\n    if n: return nothing\n    return 1 + other", "emit(x=f(pid))", "unknown name nothing"),
    ("def f(n):\n    if n: return n\n    return comm", "emit(x=f(sk))", "return cannot hold this"),
    ("def f(n):\n    if n: return n\n    return sk", "emit(x=f(sk))", "unknown name sk"),
]


@pytest.mark.parametrize(("functions", "statement", "message"), WRONG)
def test_a_wrong_function_or_call_is_refused(
    compiled: Callable[..., Program], functions: str, statement: str, message: str
) -> None:
    with pytest.raises(LanguageError) as caught:
        compiled(f'{functions}\n@kprobe("connect")\ndef probe(sk):\n    {statement}\n')
    assert message in str(caught.value)


def test_a_mistake_in_a_function_is_told_at_its_line(compiled: Callable[..., Program]) -> None:
    with pytest.raises(LanguageError) as caught:
        compiled('def f(sk):\n    return sk.prioo\n@kprobe("connect")\ndef probe(sk):\n    emit(x=f(sk))\n')
    assert (
        caught.value.detail.split("\n")[0]
        == "probe.py:2: struct sock has no member prioo; did you mean prio?"
    )


def test_too_many_calls_are_refused(compiled: Callable[..., Program]) -> None:
    names = [f"def f{n}(a): return f{n + 1}(f{n + 1}(a))" for n in range(12)] + ["def f12(a): return a + 1"]
    text = "\n".join(names) + '\n@kprobe("connect")\ndef probe(sk):\n    emit(x=f0(pid))\n'
    with pytest.raises(LanguageError, match="more than 1000 calls of functions"):
        compiled(text)


def test_a_constant_text_reaches_emit_through_parameters(compiled: Callable[..., Program]) -> None:
    """As the name of the events, whatever functions it goes through; as a field it is refused where it is."""
    functions = "def tell(name, n):\n    emit(name, n)\ndef both(name, n):\n    tell(name, n)\n"
    probe = '@kprobe("connect")\ndef probe(sk):\n    both("opened", 1)\n    tell("closed", 2)\n'
    assert [shape.name for shape in compiled(functions + probe).shapes] == ["opened", "closed"]
    with pytest.raises(LanguageError) as caught:
        compiled(functions + probe.replace("opened", "no name"))
    (only,) = caught.value.diagnostics
    assert only.message == "this is no name of an event"
    with pytest.raises(LanguageError) as caught:
        compiled(functions.replace("name, n)\ndef", "pid, x=name)\ndef") + probe)
    assert {one.message for one in caught.value.diagnostics} == {"a constant text is in no event"}
