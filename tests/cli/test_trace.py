"""`kwire trace` and `kwire record` take the same: specs, files of Python probes, conditions, filters."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import PATIENCE

from kwire.cli.main import main

KWIRE = [sys.executable, "-m", "kwire.cli.main"]
OPENS = "tracepoint:syscalls:sys_enter_openat(filename, flags)"
NUMBERS = "tracepoint:syscalls:sys_enter_openat(filename, dfd, flags)"
READ_NOTHING = ["-c", "cat /dev/null"]

PROBES = """
import kwire

@kwire.tracepoint("sched:sched_process_exec")
def started(filename):
    emit(path=str(filename))
"""

pytestmark = [pytest.mark.live, pytest.mark.native]  # the same on each kernel


def kwire(*words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    return subprocess.run([*KWIRE, *words], capture_output=True, text=True, timeout=PATIENCE, input=text)


@pytest.fixture
def touched(tmp_path: Path) -> Path:
    path = tmp_path / "some file.conf"
    path.write_text("x\n")
    return path


def events(output: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that `cat /dev/null` opens."""
    capture = tmp_path_factory.mktemp("whole") / "whole.pcapng"
    run = kwire("record", NUMBERS, "-w", str(capture), *READ_NOTHING)
    assert run.returncode == 0, run.stderr
    return capture


def test_a_spec_is_shown_without_a_file(touched: Path) -> None:
    run = kwire("trace", OPENS, "-c", f"cat '{touched}'")
    assert run.returncode == 0
    lines = run.stdout.splitlines()
    assert lines[0].split()[:2] == ["TIME", "CPU"]
    assert any(str(touched) in line for line in lines)
    assert "none lost" in run.stderr


def test_specs_and_files_go_together(touched: Path, tmp_path: Path) -> None:
    file = tmp_path / "probes.py"
    file.write_text(PROBES)
    capture = tmp_path / "both.pcapng"
    run = kwire("trace", str(file), OPENS, "--json", "-w", str(capture), "-c", f"cat '{touched}'")
    assert run.returncode == 0, run.stderr
    assert len({event["probe"] for event in events(run.stdout)}) == 2
    again = kwire("record", OPENS, "-", "-w", str(capture), "-c", f"cat '{touched}'", text=PROBES)
    assert again.returncode == 0, again.stderr
    shown = kwire("show", "--json", str(capture))
    assert len({event["probe"] for event in events(shown.stdout)}) == 2


def test_each_probe_has_its_own_condition(touched: Path) -> None:
    specs = [
        OPENS + '{filename.endswith(".conf")}',
        'tracepoint:syscalls:sys_enter_close{comm ~ "no*"}',
        'tracepoint:sched:sched_process_exec{filename ~ "*/cat"}',
    ]
    run = kwire("trace", *specs, "--json", "-c", f"cat '{touched}'")
    assert run.returncode == 0, run.stderr
    found = events(run.stdout)
    assert {event["probe"] for event in found} == {
        "tracepoint:syscalls:sys_enter_openat",
        "tracepoint:sched:sched_process_exec",
    }
    assert [event["fields"]["filename"] for event in found][-1] == str(touched)  # type: ignore[index]


@pytest.mark.parametrize(
    "condition",
    [
        'flags == "O_RDONLY|O_CLOEXEC"',
        'flags == "O_CLOEXEC"',
        "flags == O_CLOEXEC",
        'dfd == "AT_FDCWD" and flags',
    ],
)
def test_names_of_numbers_mean_the_same_in_the_kernel_and_in_a_capture(
    tmp_path: Path, whole: Path, condition: str, capsys: pytest.CaptureFixture[str]
) -> None:
    filtered = tmp_path / "filtered.pcapng"
    run = kwire("record", NUMBERS, "--filter", condition, "-w", str(filtered), *READ_NOTHING)
    assert run.returncode == 0, run.stderr
    paths = []
    for words in ([str(filtered)], [str(whole), "--where", condition]):
        assert main(["show", "--json", *words]) == 0
        paths.append([event["fields"]["filename"] for event in events(capsys.readouterr().out)])  # type: ignore[index]
    assert paths[0]
    assert len(paths[0]) == len(paths[1])  # a page that was not there yet gives an empty name
    assert "/dev/null" not in paths[0]


def test_a_filter_applies_where_its_names_exist(touched: Path) -> None:
    other = "tracepoint:sched:sched_process_exec"
    words = ["trace", OPENS, other, "--json", "-c", f"cat '{touched}'"]
    run = kwire(*words, "--filter", 'flags == 0 and filename ~ "*.conf"')
    assert run.returncode == 0, run.stderr
    found = events(run.stdout)
    assert [event["probe"] for event in found].count("tracepoint:syscalls:sys_enter_openat") == 1
    assert other in {event["probe"] for event in found}
    [line] = [line for line in run.stderr.splitlines() if line.startswith("kwire: ")]
    assert line.startswith(f"kwire: --filter does not apply to {other}, whose events all are taken: ")
    assert "unknown name flags" in line

    nowhere = kwire(*words, "--filter", "flagz == 0")
    assert nowhere.returncode == 1
    assert nowhere.stderr.strip() == "kwire: --filter:1: unknown name flagz; did you mean flags?"


def test_of_a_wildcard_only_those_with_the_names_are_taken() -> None:
    run = kwire("trace", "tracepoint:syscalls:sys_enter_op*", "--json", "--filter", "dfd != 0", "-c", "true")
    assert run.returncode == 0, run.stderr
    assert "targets are left out" in run.stderr
    assert "does not apply" not in run.stderr
    assert {event["probe"] for event in events(run.stdout)} <= {
        "tracepoint:syscalls:sys_enter_openat",
        "tracepoint:syscalls:sys_enter_openat2",
        "tracepoint:syscalls:sys_enter_open_tree",
        "tracepoint:syscalls:sys_enter_open_tree_attr",
    }


@pytest.mark.native
def test_the_example_of_the_readme_traces_its_workload() -> None:
    root = Path(__file__).parents[2]
    workload = f"{sys.executable} {root}/examples/workload.py"
    run = kwire("trace", f"{root}/examples/web.py", "--json", "-c", workload)
    assert run.returncode == 0, run.stderr
    seen = {str(event["probe"]) for event in events(run.stdout)}
    assert {"tracepoint:sched:sched_process_exec", "tracepoint:syscalls:sys_enter_sendto"} <= seen


def test_a_file_without_its_ending_is_told() -> None:
    run = kwire("trace", "examples/web")
    assert run.returncode == 1
    assert "has no kind" in run.stderr


def test_what_probes_print_is_shown_live_and_from_a_capture(tmp_path: Path) -> None:
    file, kept = tmp_path / "probes.py", tmp_path / "kept.pcapng"
    file.write_text(
        "import kwire\nasked = kwire.Count()\n"
        '@kwire.tracepoint("syscalls:sys_enter_getppid")\n'
        'def f():\n    asked.add()\n    print(f"{comm:>9} asked 100%", cpu >= 0)\n'
    )
    command = [sys.executable, "-c", "import os; os.getppid()"]
    words = [sys.executable, "-m", "kwire.cli.main"]
    live = subprocess.run(
        [*words, "trace", str(file), "-w", str(kept), "--", *command], capture_output=True, text=True
    )
    lines = live.stdout.splitlines()
    assert (live.returncode, lines[-3:]) == (0, ["", "asked (count):", "1"]), live.stderr
    assert lines[0].endswith(" asked 100% true")
    again = subprocess.run([*words, "show", str(kept)], capture_output=True, text=True)
    assert again.stdout == live.stdout
