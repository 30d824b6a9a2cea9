"""The house rules, checked: which room may use which, what must not be imported."""

from __future__ import annotations

import ast
import graphlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "kwire"
MODULES = sorted(SOURCE.rglob("*.py"))

# Room → the other rooms that it may use. Those in FOR_ALL may be used by all.
ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "arguments": set(),
    "demangle": set(),
    "native": set(),
    "hints": set(),
    "interrupts": set(),
    "kinds": set(),
    "lazy": set(),
    "perfevents": set(),
    "probe": {"lang", "live"},
    "test": {"kernel", "lang", "live"},
    "toml": set(),
    "words": set(),
    "wire": set(),
    "bpf": set(),
    "btf": set(),
    "lang": {"btf", "wire"},
    "compile": {"lang", "bpf", "wire", "btf"},
    "kernel": {"bpf", "wire"},
    "capture": {"wire"},
    "view": {"wire", "lang"},
    "packets": {"wire", "capture"},
    "analyze": {"wire", "capture", "packets", "view"},
    "lake": {"wire", "capture", "analyze"},
    "wireshark": {"wire", "capture", "packets"},
    "transport": {"wire", "capture", "view"},
    "broker": {"wire", "transport"},
    "metrics": {"wire", "transport"},
    "agent": {"wire", "capture", "kernel", "live", "view", "transport", "broker", "metrics"},
    "collector": {"wire", "capture", "transport", "broker", "metrics"},
    "live": {"lang", "compile", "kernel", "capture", "view", "wire", "bpf", "btf"},
}
FOR_ALL = {
    "arguments",
    "demangle",
    "errors",
    "hints",
    "interrupts",
    "kinds",
    "lazy",
    "native",
    "perfevents",
    "toml",
    "words",
}
JOINS_ALL = {"cli", "__init__", "__main__", "tools"}  # tools are users: they import `kwire`

# Costly to import, so absent on the way to the first event.
HEAVY = {
    *(
        "numpy",
        "dataclasses",
        "inspect",
        "asyncio",
        "importlib.metadata",
        "pathlib",
        "tempfile",
        "subprocess",
    ),
    *("logging", "json", "secrets", "random"),
}

# Words that only make sense on the machine or in the workshop where a line was written.
PLACES = ("/" + "work/", "shared" + "/anchors", "shared" + "/accept", "accept" + "ance/", "CONTRACT" + ".md")
HOSTS = ("deb.debian" + ".org", "pypi" + ".org", "files.python" + "hosted", "registry.npm" + "js")


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of every module that a file imports, at the top or inside functions."""
    package = ["kwire", *path.relative_to(SOURCE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            stem = [*base, node.module] if node.module else base
            # `from kwire import wire` names a module in its list, so both parts count.
            yield from ((node.lineno, ".".join([*stem, name.name])) for name in node.names)


def test_the_rooms_are_those_of_the_house() -> None:
    assert {room(path) for path in MODULES} <= ARROWS.keys() | JOINS_ALL


@pytest.mark.parametrize("name", sorted(ARROWS))
def test_a_room_uses_only_what_it_may(name: str) -> None:
    allowed = ARROWS[name] | FOR_ALL | {name}
    wrong = []
    for path in (path for path in MODULES if room(path) == name):
        for line, module in imports(path):
            parts = module.split(".")
            if parts[0] == "kwire" and (len(parts) < 2 or parts[1] not in allowed):
                wrong.append(f"{path.relative_to(ROOT)}:{line} uses {module}")
    assert not wrong, f"{name} may use {sorted(ARROWS[name]) or 'no other room'}; {'; '.join(wrong)}"


def executed(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a tree but for what is read by type checkers only."""
    yield tree
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield from executed(node)


def test_no_module_imports_one_that_imports_it() -> None:
    """Nowhere, in functions neither; for types alone two parts of one thing may know each other."""
    names = {".".join(["kwire", *path.relative_to(SOURCE).with_suffix("").parts]): path for path in MODULES}
    uses: dict[str, set[str]] = {}
    for name, path in names.items():
        found: set[str] = set()
        for node in executed(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                stems = {f"{node.module}.{one.name}" for one in node.names} | {node.module}
                found |= stems & names.keys()
        uses[name] = found
    order = graphlib.TopologicalSorter(uses)
    try:
        order.prepare()
    except graphlib.CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_import_statements_of_all_forms_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "SOURCE", tmp_path)
    file = tmp_path / "wire" / "x.py"
    file.parent.mkdir()
    file.write_text(
        "import a.b, c\nfrom kwire import bpf\nfrom ..btf import blob\ndef f():\n  from . import frame\n"
    )
    names = [name for _, name in imports(file)]
    assert names == ["a.b", "c", "kwire.bpf", "kwire.btf.blob", "kwire.wire.frame"]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), "no docstring"


def test_no_dataclasses() -> None:
    for path in MODULES:
        names = {name.split(".")[0] for _, name in imports(path)}
        assert "dataclasses" not in names, path


def test_what_mypy_is_told_to_pass_over_has_a_reason() -> None:
    without = re.compile(r"# type: ignore(?!\[[a-z, -]+\]  # \S)")
    modules = [*MODULES, *sorted((ROOT / "bench").glob("*.py"))]
    lines = ((path, *line) for path in modules for line in enumerate(path.read_text().splitlines(), 1))
    assert not [f"{path}:{number}" for path, number, line in lines if without.search(line)]


def test_the_package_is_typed() -> None:
    assert (SOURCE / "py.typed").exists()


def loaded(*arguments: str) -> set[str]:
    """The modules that a Python with these arguments imports, beyond those of its own start."""

    def names(arguments: list[str]) -> set[str]:
        command = [sys.executable, "-X", "importtime", *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return set(re.findall(r"^import time:.*\| +(\S+)$", done.stderr, re.MULTILINE))

    return names(list(arguments)) - names(["-c", "pass"])


def test_importing_the_package_is_light() -> None:
    assert not loaded("-c", "import kwire") & HEAVY


def test_the_version_is_told_with_nothing_imported() -> None:
    program = "import sys; from kwire.__main__ import main; sys.exit(main())"
    assert loaded("-c", program, "--version") == {"__future__", "kwire", "kwire.__main__"}


@pytest.mark.live
@pytest.mark.native
def test_recording_and_showing_are_light(tmp_path: Path) -> None:
    program = "import sys; from kwire.cli.main import main; sys.exit(main(sys.argv[1:]))"
    capture = tmp_path / "x.pcapng"
    probe = "tracepoint:syscalls:sys_enter_getppid"
    assert not loaded("-c", program, "record", probe, "-c", "true", "-w", str(capture)) & HEAVY
    assert capture.stat().st_size > 0
    assert not loaded("-c", program, "show", str(capture)) & (HEAVY - {"json"})


def test_planning_is_lighter_still() -> None:
    """Whoever records waits for it. What annotations name is in `kwire.hints`, and in `typing` elsewhere."""
    unwanted = {"typing", "weakref", "shlex", "string", "threading", "traceback", "ast", "cbor2", "pickle"}
    found = loaded("-c", "import kwire.live.planner") & (HEAVY | unwanted)
    assert not found


def test_what_attaches_and_records_needs_no_compiler() -> None:
    """Another process compiles meanwhile; whoever imports it too waits for it."""
    modules = (
        "cli.record, cli.script, cli.tracing, live.plan_process, live.recorder, live.summary, view.printed, "
        "view.render, capture.writer"
    )
    found = loaded("-c", f"import {', '.join(f'kwire.{name}' for name in modules.split(', '))}")
    assert "kwire.live.tracer" in found
    assert not {name for name in found if name.startswith(("kwire.lang", "kwire.compile", "kwire.btf"))}
    assert not found & {"kwire.bpf.asm", "typing"}


def test_the_tracer_of_made_events_has_what_a_recorder_asks_for() -> None:
    """Scenarios of faults give it to `kwire agent` in the place of the kernel's."""
    from fault_source import Synthetic

    asked = re.findall(r"\btracer\.(\w+)", (SOURCE / "live" / "recorder.py").read_text())
    has = {*vars(Synthetic), *re.findall(r"self\.(\w+) =", Path(inspect.getfile(Synthetic)).read_text())}
    assert set(asked) <= has


def test_nothing_committed_names_where_it_was_written() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    found = []
    for name in filter(None, listed.stdout.split("\0")):
        try:
            text = (ROOT / name).read_text()
        except (UnicodeDecodeError, FileNotFoundError):
            continue  # an image or the like; or removed and not yet committed
        found += [f"{name}: {word}" for word in (*PLACES, *HOSTS) if word in text]
    assert not found
