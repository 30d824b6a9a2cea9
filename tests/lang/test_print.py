"""`print` in probes: events of shapes of their own, shown as the text that Python would make."""

# Names inside of probes are the probe language's, not Python's.
# ruff: noqa: F821
# mypy: ignore-errors

import pytest

import kwire
from kwire.lang import python
from kwire.lang.errors import LanguageError
from kwire.live.planner import make_plan


def helper(x):
    print("helper", x, sep="=")


@kwire.rawtracepoint("sys_enter")
def printing():
    print(f"{pid} {comm:>6}|{comm:6}|{comm:<6}|{comm:.2} {pid:08x} {pid:#x} {pid:>4} {pid:4}|{pid:<4}| 100%")
    print("plain %d", end="")
    print(s64(pid) - 50, f"{s64(pid) - 50:+d}", (pid, comm))
    helper(pid)
    helper(pid + 1)
    emit("also", pid)
    print()


def test_what_is_printed_is_what_python_would_print() -> None:
    pid, comm = 42, "sh"
    told = kwire.simulate(printing, pid=pid, comm=comm)
    texts = [one.text for one in told if isinstance(one, kwire.Line)]
    assert texts == [
        f"{pid} {comm:>6}|{comm:6}|{comm:<6}|{comm:.2} {pid:08x} {pid:#x} {pid:>4} {pid:4}|{pid:<4}| 100%\n",
        "plain %d",
        f"-8 {-8:+d} (42, sh)\n",
        "helper=42\n",
        "helper=43\n",
        "\n",
    ]
    [event] = [one for one in told if not isinstance(one, kwire.Line)]
    assert (event.probe, event.pid) == ("rawtracepoint:sys_enter#also", 42)
    assert told[0]["pid"] == 42
    assert told[0].keys()[:3] == ["pid", "comm", "comm_2"]
    assert told[3]["x"] == 42


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('print(f"{pid!r}")', "!r and !a are not supported"),
        ('print(f"{pid:,}")', "',' is no format of what a probe prints"),
        ('print(f"{pid:.3d}")', "is no format"),
        ('print(f"{pid:{cpu}}")', "a format must be known when the probe is compiled"),
        ('print(f"{pid:99999}")', "a width or precision is at most 4096"),
        ("print(pid, end=cpu)", "print takes constant texts as sep and end"),
        ("print(pid, file=3)", "print takes constant texts as sep and end"),
        ('print(f"{comm:d}")', "does not take"),
        ("print(nothing)", "unknown name nothing"),
        ("x = print(3)", "print is a statement and gives no value"),
        ('emit(x=f"{pid}")', "a probe formats text in print"),
    ],
)
def test_what_cannot_be_printed_is_refused(line: str, says: str) -> None:
    text = f'import kwire\n@kwire.rawtracepoint("sys_enter")\ndef probe():\n    {line}\n'
    with pytest.raises(LanguageError) as error:
        make_plan(python.parse_file(text, "p.py"), None)
    assert says in str(error.value)
