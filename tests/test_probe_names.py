"""`kwire.probe`: the names of the probe language for people, editors and type checkers."""

import ast
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kwire
from kwire.errors import KwireError
from kwire.lang import builtins, outside, python
from kwire.lang.python import parse_file
from kwire.wire.names import constants

probe: Any = kwire.probe
ROOT = Path(__file__).resolve().parent.parent


def test_the_file_of_types_agrees_with_the_tables() -> None:
    written = (ROOT / "src" / "kwire" / "probe.pyi").read_text()
    assert written == outside.stub(), "run scripts/probe_types.py"
    typed = ast.parse(written)
    names = {node.name for node in typed.body if isinstance(node, ast.FunctionDef)}
    assert names == set(builtins.FUNCTION)
    for node in typed.body:
        if isinstance(node, ast.FunctionDef):
            given = node.args
            most = len(given.posonlyargs) if given.vararg is None else 64
            assert most >= min(builtins.FUNCTION[node.name].most, 64)
            assert len(given.posonlyargs) - len(given.defaults) <= builtins.FUNCTION[node.name].least
            assert ast.get_docstring(node)


def test_every_name_of_the_language_is_there_and_says_what_it_is() -> None:
    found = vars(probe)
    assert {*builtins.BY_NAME, *builtins.NUMBERED, *builtins.FUNCTION} <= found.keys()
    assert found["AF_INET"] == 2
    assert constants("x86_64").keys() - found.keys() <= {"MAP_32BIT", "MAP_ABOVE4G"}
    for name in (*builtins.BY_NAME, *builtins.FUNCTION):
        assert found[name].__name__ == name
        assert "Of the probe language" in found[name].__doc__
    assert repr(found["pid"]).startswith("<pid of the probe language: process id")
    assert not {"str", "bytes", "min", "max", "exit"} & set(probe.__all__)
    assert {"pid", "emit", "kstack"} <= set(probe.__all__)


@pytest.mark.parametrize(
    "use",
    [
        lambda one: one(3),
        lambda one: one + 1,
        lambda one: one == 1,
        lambda one: one > 1,
        lambda one: bool(one),
        lambda one: one.filename,
        lambda one: one[0],
        lambda one: int(one),
        lambda one: -one,
        lambda one: abs(one),
        lambda one: len(one),
        lambda one: float(one),
        lambda one: one / 2,
        lambda one: 7 // one,
        lambda one: 7 % one,
        lambda one: 1 << one,
        lambda one: 2**one,
    ],
)
def test_outside_of_a_probe_a_name_is_an_error(use: Any) -> None:
    for name in (vars(probe)["args"], vars(probe)["emit"]):
        with pytest.raises(
            KwireError, match=r"it is a name of the probe language .* Python runs no probes; use"
        ):
            use(name)


def test_a_name_is_an_object_that_programs_can_look_at() -> None:
    pid = vars(probe)["pid"]
    assert not hasattr(pid, "filename")
    assert not hasattr(pid, "__wrapped__")
    assert pid in {pid}
    assert isinstance(pid, outside.Name)


def test_the_module_is_a_decorator_too() -> None:
    made: Any = kwire.probe("kprobe:tcp_connect")
    assert made(test_the_module_is_a_decorator_too).attach == ("kprobe:tcp_connect",)
    assert vars(kwire)["probe"] is probe


FILE = """import kwire
import kwire.probe as kp
from kwire import probe as other
from kwire.probe import emit, pid as process, str as text, AF_INET as inet
from typing import Annotated, Any

@kwire.tracepoint("syscalls:sys_enter_openat")
def opened(filename: Any, dfd: Annotated[int, "s32"]) -> None:
    emit(process, kp.comm, other.tid, name=text(filename, 9), low=kp.u8(dfd), inet=inet)
"""
PLAIN = """import kwire
@kwire.tracepoint("syscalls:sys_enter_openat")
def opened(filename, dfd: "s32"):
    emit(pid, comm, tid, name=str(filename, 9), low=u8(dfd), inet=AF_INET)
"""


def shape(text: str) -> list[str]:
    """The probe without its places in the text."""
    [probe] = parse_file(text, "p.py")
    assert probe.faults == ()
    return [re.sub(r"Span\([^)]*\)", "", repr(one)) for one in (*probe.parameters, *probe.body)]


def test_imported_names_mean_the_same_under_any_name() -> None:
    assert shape(FILE.replace("", "")) == shape(PLAIN)


def test_a_parameter_hides_an_imported_name() -> None:
    [probe] = parse_file(
        "import kwire\nfrom kwire.probe import emit, pid as fd\n"
        '@kwire.tracepoint("syscalls:sys_enter_close")\ndef closed(fd: int):\n    emit(fd)\n',
        "p.py",
    )
    assert "'fd'" in repr(probe.body)
    assert "'pid'" not in repr(probe.body)


def test_imported_names_travel() -> None:
    [one] = python.written_file(FILE.replace("", ""), "p.py")
    assert one.names == {
        "process": "pid",
        "kp.comm": "comm",
        "other.tid": "tid",
        "text": "str",
        "kp.u8": "u8",
        "inet": "AF_INET",
    }
    assert python.parse_written(one).faults == ()


# ---- what a type checker says of the examples


def python_in(text: str) -> Iterator[tuple[int, list[str]]]:
    """The indented and fenced blocks of a document, each with its first line."""
    start, block, fence = 0, [""][:0], None
    for number, line in enumerate([*text.split("\n"), "end"], 1):
        if line.startswith("```"):
            if fence == "python":
                yield start, block
            fence, start, block = (line[3:] if fence is None else None), number + 1, []
        elif fence is not None:
            block.append(line)
        elif line.startswith("    ") or (block and not line.strip()):
            start = start if block else number
            block.append(line[4:])
        elif block:
            yield start, block
            block = []


def notebook(page: Path) -> str:
    """What a reader types who types all of a document, at its lines. Tables and shell lines are no Python."""
    lines: dict[int, str] = {}
    for start, block in python_in(page.read_text()):
        try:
            with warnings.catch_warnings(action="ignore"):
                parsed = ast.parse("\n".join(block))
        except SyntaxError:
            continue
        kinds = (
            ast.Import,
            ast.ImportFrom,
            ast.FunctionDef,
            ast.AsyncFunctionDef,
            ast.With,
            ast.For,
            ast.Assign,
        )
        if any(isinstance(node, kinds) for node in parsed.body) and not block[0].startswith(("[", "# kwire")):
            lines |= dict(enumerate(block, start))
    return "\n".join(lines.get(number, "") for number in range(max(lines, default=0) + 1)) + "\n"


def examples(folder: Path) -> list[Path]:
    """All that documents and examples show, each as a file."""
    made = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = notebook(page)
        if "kwire" in text:
            made.append(folder / f"{page.stem.lower()}_md.py")
            made[-1].write_text(text)
    return [*made, *sorted((ROOT / "examples").glob("*.py"))]


def test_mypy_strict_accepts_all_examples(tmp_path: Path) -> None:
    files = examples(tmp_path)
    assert {"readme_md.py", "python_md.py", "agents_md.py", "tutorial_md.py", "tcp.py"} <= {
        one.name for one in files
    }
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "import kwire\nfrom kwire.probe import emit, pid, pidd\n"
        '@kwire.kprobe("tcp_connect")\ndef connect() -> None:\n    emit(pid + comm)\n    pid.name\n'
    )
    # with the settings of this project, which are strict, and its cache
    command = [sys.executable, "-m", "mypy", "--no-error-summary", *map(str, files), str(wrong)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    told = [line for line in run.stdout.splitlines() if ": error: " in line]
    found = [line.partition(": ")[2] for line in told if "wrong.py" in line]
    assert [line for line in told if "wrong.py" not in line] == []
    assert len(found) == 3, run.stdout + run.stderr
    assert 'has no attribute "pidd"' in found[0]
    assert '"comm" is not defined' in found[1]
