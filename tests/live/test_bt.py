"""Scripts in the bpftrace language from Python: `kwire.bt`."""

import asyncio
import os
import pickle
import subprocess
import sys
from typing import Any

import pytest

import kwire
from kwire.errors import KwireError

pytestmark = [pytest.mark.live, pytest.mark.native]

SCRIPT = r"""BEGIN {
  printf("%d %s|", pid, comm);
  @x[1, "a"] = count(); @x[1, "a"] = count();
  print(@x);
  @h = hist(5); @a = avg(3); @a = avg(4); @s = "text"; @t[2] = (1, "b"); @k[kstack(1)] = count();
  print((1, "a"));
  printf("%s %d %d %d\n", str($1), $2, getopt("top", 5), getopt("verbose"));
  errorf("wrong: %d", 7); printf("%s", kstack(1));
  print(@x); clear(@x); print(@x);
  exit(3);
}"""


def test_only_the_processes_named_are_traced_and_they_end_it() -> None:
    calls = "import os, sys; sys.stdin.readline(); os.getppid(); os.getppid()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-S", "-c", calls], stdin=pipe, text=True) as child:
        text = 'tracepoint:syscalls:sys_enter_getppid { printf("%d", pid); }'
        with kwire.bt(text, pid=child.pid, seconds=60) as lines:
            os.getppid()
            child.communicate("\n")
            assert [line["pid"] for line in lines] == [child.pid, child.pid]


def test_what_a_script_prints_are_events_and_its_maps_are_objects() -> None:
    script = kwire.bt(SCRIPT, "hello", 40, parameters={"top": 7, "verbose": True, "not": False})
    assert (script.maps["@a"].value, dict(script.maps["@x"]), script.status) == (0.0, {}, None)
    with script as lines:
        told: list[Any] = list(lines)
        assert lines.maps["@h"].value.number == 1
        assert lines.status == 3  # the lines have ended
    texts = [line.text for line in told]
    assert texts[0] == f"{os.getpid()} {told[0]['comm']}|"
    assert texts[1:4] == ["@x[1, a]: 2\n", "(1, a)\n", "hello 40 7 1\n"]
    assert "wrong: 7" in texts[4]
    assert told[5].keys() == ["arg1"]
    [frame] = told[5]["arg1"]
    assert f"{frame.symbol}+{frame.offset}" in texts[5]
    assert texts[6:] == ["@x[1, a]: 2\n", ""]
    assert [len(stack) for stack in script.maps["@k"]] == [1]
    assert str(told[2]) == "(1, a)"
    assert dict(told[1].map) == {(1, "a"): 2}
    assert told[3].map is None
    assert told[0].fields == {"pid": os.getpid(), "comm": told[0]["comm"]}
    assert all(isinstance(line, kwire.Line) for line in told)
    again = pickle.loads(pickle.dumps(told[3]))
    assert (again, again.text) == (told[3], "hello 40 7 1\n")
    assert script.status == 3
    assert script.maps["@a"].value == 3.5
    assert (script.maps["@s"].value, script.maps["@t"][2]) == ("text", (1, "b"))
    assert str(script.maps["@t"]) == "@t[2]: (1, b)"
    assert str(script.maps["@a"]) == "@a: 3"
    assert list(script.maps["@h"].columns()["low"]) == [4]
    assert "<svg" in script.maps["@h"]._repr_html_()
    assert len(script.maps["@t"].pandas()) == 1


def test_a_command_is_known_to_its_script_and_ends_it() -> None:
    text = "tracepoint:syscalls:sys_enter_getppid /pid == cpid/ { @[comm] = count(); }"
    with kwire.bt(text, command=[sys.executable, "-c", "import os; os.getppid()"]) as script:
        assert list(script) == []
    assert list(script.maps["@"].values()) == [1]
    with pytest.raises(KwireError, match="there is no command"):
        kwire.bt(text)


def test_coroutines_run_beside_a_trace() -> None:
    """Lines come while another coroutine runs; the trace ends in its `async for`."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def main() -> list[str]:
        beside = asyncio.create_task(other())
        found = []
        with kwire.bt(
            'interval:ms:5 { @n++; if (@n <= 3) { printf("%d", @n); } else { exit(); } }'
        ) as script:
            async for line in script:
                found.append(str(line))
        beside.cancel()
        events = kwire.trace(
            "tracepoint:syscalls:sys_enter_getppid",
            command=[sys.executable, "-c", "import os; os.getppid(); os.getppid()"],
        )
        async for event in events:
            found.append(event.comm)
        return found

    told = asyncio.run(main())
    assert told[:3] == ["1", "2", "3"]
    assert len(told) == 5
    assert turns > 3
    assert "<table>" in kwire.bt("BEGIN { exit(); }")._repr_html_()


def test_what_is_wrong_is_told_with_its_places() -> None:
    with pytest.raises(kwire.LanguageError) as error:
        kwire.bt('BEGIN { printf("%d", foo); }\nEND { @x = 1; @x = "a"; }')
    first, second = error.value.places
    assert (first.file, first.line, first.column, first.end_column) == ("script", 1, 22, 25)
    assert (first.message, second.line) == ("unknown name foo", 2)
    bt: Any = kwire.bt
    calls: list[tuple[Any, str]] = [
        (lambda: bt(3), "run script=3: it is an int; give a text"),
        (lambda: bt("BEGIN { }", 1.5), "1.5 is no argument of a script"),
        (lambda: bt("BEGIN { }", parameters={"a": None}), "None is no argument"),
        (lambda: bt("BEGIN { }", unsafe=1), "unsafe=1: it is an int"),
        (lambda: bt('BEGIN { system("true"); }'), "unsafe"),
    ]
    for wrong, says in calls:
        with pytest.raises(KwireError, match=says):
            wrong()


def test_files_and_commands_are_part_of_what_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    with kwire.bt('BEGIN { system("echo %d", 7); cat("/dev/null"); exit(); }', unsafe=True) as script:
        assert [line.text for line in script] == ["7\n", ""]
    assert capfd.readouterr() == ("", "")
