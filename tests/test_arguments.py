"""Arguments of the Python API that are of the wrong type: a KwireError at the boundary, and no other."""

# Every call here is wrong, which mypy sees.
# mypy: ignore-errors

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kwire
from kwire.arguments import ARGUMENTS, ArgumentError, checked, needed
from kwire.errors import KwireError

SPEC = "tracepoint:sched:sched_switch"


class Odd:
    """An object whose own methods fail."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


class Lines:
    """An index whose own error has two lines."""

    def __repr__(self) -> str:
        return "7"

    def __index__(self) -> int:
        raise ValueError("no number\nat all")


WRONG: list[Any] = [object(), Odd(), b"bytes", 1.5, {"a": 1}, True]
"""What no argument takes, but those named below."""

TAKES = {"seconds": (float,), "insecure": (bool,), "unsafe": (bool,), "data": (bytes,)}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_each_argument_refuses_what_it_is_not(name: str) -> None:
    for value in WRONG:
        if isinstance(value, TAKES.get(name, ())):
            continue
        with pytest.raises(ArgumentError) as caught:
            checked("do", **{name: value})
        text = str(caught.value)
        assert text.startswith(f"do {name}=")
        assert f"; give {ARGUMENTS[name].wanted}" in text
        assert "\n" not in text
        with pytest.raises(ArgumentError):
            needed("do", **{name: None})
    assert checked("do", **{name: None}) == (None,)


@pytest.mark.parametrize(
    ("name", "value", "made"),
    [
        ("filter", "pid == 1", "pid == 1"),
        ("pid", 7, [7]),
        ("pid", (7, 8), [7, 8]),
        ("pid", range(2), [0, 1]),
        ("command", "ls -l", "ls -l"),
        ("command", ("ls", "-l"), ["ls", "-l"]),
        ("seconds", 1, 1.0),
        ("seconds", 0.5, 0.5),
        ("seconds", math.inf, math.inf),
        ("count", 0, 0),
        ("path", Path("a/b"), "a/b"),
        ("insecure", False, False),
    ],
)
def test_each_argument_takes_what_it_is(name: str, value: Any, made: Any) -> None:
    assert checked("do", **{name: value}) == (made,)


def test_numbers_of_numpy_are_numbers() -> None:
    np = pytest.importorskip("numpy")
    assert checked("do", first=np.int64(5), seconds=np.float64(2), count=np.uint8(3), pid=np.int32(1)) == (
        5, 2.0, 3, [1]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: kwire.trace(SPEC, seconds="1"), "trace seconds='1': it is a str; give a number of seconds"),
        (lambda: kwire.trace(SPEC, seconds=-1), "trace seconds=-1: it is negative; give a number of seconds"),
        (lambda: kwire.trace(SPEC, seconds=math.nan), "trace seconds=nan: it is no number"),
        (lambda: kwire.trace(SPEC, pid="1"), "trace pid='1': it is a str; give an integer, or a list"),
        (lambda: kwire.trace(SPEC, pid=["1"]), "trace pid=['1']: '1' in it is a str; give an integer, or"),
        (lambda: kwire.trace(SPEC, pid=[]), "trace pid=[]: it is empty"),
        (lambda: kwire.trace(SPEC, pid=True), "trace pid=True: it is a bool"),
        (lambda: kwire.trace(SPEC, filter=3), "trace filter=3: it is an int; give a text: an expression"),
        (lambda: kwire.trace(SPEC, filter=""), "filter:1: nothing is written here"),
        (lambda: kwire.trace(SPEC, filter="pidd == 1"), "filter:1: unknown name pidd"),
        (lambda: kwire.trace(SPEC, command=[1]), "trace command=[1]: 1 in it is an int; give a text, as in"),
        (lambda: kwire.trace(SPEC, command=[]), "trace command=[]: it is empty"),
        (lambda: kwire.trace(SPEC, command=""), "read command '': it is empty"),
        (lambda: kwire.trace(SPEC, command=["ls", "a\0b"]), "no word of a command has a NUL in it"),
        (lambda: kwire.trace(SPEC, pid=Lines()), "trace pid=7: no number at all; give an integer"),
        (lambda: kwire.trace(SPEC, count=1.5), "trace count=1.5: it is a float; give an integer"),
        (lambda: kwire.trace(SPEC, buffer="1M"), "trace buffer='1M': it is a str; give an integer: bytes"),
        (lambda: kwire.trace(3), "trace 3: it is no probe"),
        (lambda: kwire.trace(b"x"), "it is no probe"),
        (lambda: kwire.trace(), "there is no probe in it"),
        (lambda: kwire.open(3), "open path=3: it is an int; give a path"),
        (lambda: kwire.open("a\0b"), "no name of a file has a NUL in it"),
        (lambda: kwire.open(None), "open path=None: it is a NoneType"),
        (lambda: kwire.connect(3), "connect host=3: it is an int; give a text"),
        (lambda: kwire.connect("h", ca=1), "connect ca=1: it is an int; give a path"),
        (lambda: kwire.connect("h", insecure=1), "connect insecure=1: it is an int; give True or False"),
        (lambda: kwire.connect("127.0.0.1").trace(SPEC, seconds="1"), "trace seconds='1': it is a str"),
        (lambda: kwire.connect("127.0.0.1").trace(3), "trace 3: it is no probe"),
        (lambda: kwire.connect("127.0.0.1").record(3, SPEC, count=1), "record file=3: it is an int"),
        (lambda: kwire.connect("127.0.0.1").record("x", SPEC, count="1"), "trace count='1': it is a str"),
        (lambda: kwire.connect("127.0.0.1").probes(3), "list probes pattern=3: it is an int"),
        (lambda: kwire.kprobe(3), "make kprobe target=3: it is an int; give a text: where to attach"),
        (lambda: kwire.kprobe(print), "make kprobe target=<built-in function print>: it is a builtin_func"),
        (lambda: kwire.probe(None), "make probe spec=None: it is a NoneType"),
        (lambda: kwire.simulate(SPEC), f"simulate '{SPEC}': it is no probe"),
        (lambda: kwire.simulate(kwire.kprobe("f")(print), nobody=1), "simulate nobody: there is no such arg"),
        (lambda: kwire.simulate(kwire.kprobe("f")(print), retval="x"), "simulate retval='x': it is a str"),
        (lambda: kwire.Memory().kernel("x"), "map memory data='x': it is a str; give bytes"),
        (lambda: kwire.Memory().user(5), "map memory data=5: it is an int; give bytes"),
        (lambda: kwire.Memory().put(-1, b"x"), "write memory address=-1: it is negative"),
        (lambda: kwire.Memory().put(8, None), "write memory data=None: it is a NoneType"),
        (lambda: kwire.fake(3), "fake type=3: it is an int; give a text: a C type"),
    ],
)
def test_the_boundary(call: Callable[[], object], says: str) -> None:
    with pytest.raises(KwireError) as caught:
        call()
    assert says in str(caught.value)
    assert "--" not in str(caught.value), "a program has no command line"


@pytest.mark.parametrize(
    "given", [{"where": 3}, {"probe": 3}, {"first": "now"}, {"last": 1.5}, {"where": "x =="}]
)
def test_captures_check_what_chooses_events(given: dict[str, Any]) -> None:
    capture = str(Path(__file__).parent / "data" / "0.1-capture-little.pcapng")
    with kwire.open(capture) as opened:
        for name in ("events", "columns", "blocks"):
            with pytest.raises(KwireError) as caught:
                list(getattr(opened, name)(**{"probe": "kprobe:*", **given}))
            assert next(iter(given)) in str(caught.value)
        with pytest.raises(KwireError, match="query sql=3: it is an int; give a text: an SQL query"):
            opened.query(3)
        with pytest.raises(KwireError, match="has no bytes in UTF-8"):
            opened.query("SELECT '\udcff'")
    assert list(kwire.open(Path(capture)).events(first=0, last=1)) == []
