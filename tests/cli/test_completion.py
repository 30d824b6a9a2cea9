"""`kwire completion`: what words may become, and the three shells, each itself, at a terminal."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kwire.cli.completion import PLACES, SCRIPTS, Answer, answer, lines
from kwire.cli.main import VERBS
from kwire.kernel import tracefs
from kwire.kernel.syscall import KernelError
from kwire.kernel.tracefs import TracefsError

ROOT = Path(__file__).parents[2]


def texts(*words: str) -> list[str]:
    return [one.text for one in answer(list(words)).candidates]


def test_the_first_word_is_a_verb_or_a_script() -> None:
    found = answer([""])
    assert [one.text for one in found.candidates] == list(VERBS)
    assert found.also == ":files *.bt"
    assert texts("rec") == ["record"]
    assert next(lines(answer(["rec"]))) == ":files *.bt"
    assert list(lines(answer(["rec"])))[1] == "record\tcapture events to a file"


def test_options_are_those_of_the_verb() -> None:
    assert texts("record", "--no") == ["--no-command-status", "--no-clobber"]
    assert texts("record", "x", "--rot") == ["--rotate"]
    assert texts("--dry") == ["--dry-run"], "a script's"
    assert "-k" not in texts("-"), "changes nothing here"
    assert texts("tools", "oncpu", "--tls-c") == ["--tls-cert", "--tls-ca"]


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_answers(verb: str) -> None:
    assert "--help" in texts(verb, "-")
    assert answer([verb, ""]) == answer([verb, ""])


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("export", "--format", "arr"), ["arrow", "arrows"]),
        (("export", "--format=arr"), ["--format=arrow", "--format=arrows"]),
        (("bench", ""), ["parse"]),
        (("wireshark", "un"), ["uninstall"]),
        (("tools", "onc"), ["oncpu"]),
        (("completion", "f"), ["fish"]),
        (("-d", "i"), ["ir"]),
        (("-qd", "i"), ["ir"]),
        (("record", "kprob"), ["kprobe:"]),
        (("record", "-w", "x", "kprob"), ["kprobe:"]),
        (("trace", "beg"), ["begin"]),
        (("list", "interval:m"), ["interval:ms:"]),
        (("list", "software:cpu-"), ["software:cpu-clock", "software:cpu-migrations"]),
        (("-e", "beg"), ["begin {", "begin /"]),
        (
            ("-e", "begin { } inter"),
            [f"begin {{ }} interval:{unit}:" for unit in ("hz", "ms", "ns", "s", "us")],
        ),
        (("-e", "begin { inter"), []),
        (("-e", "kprobe:x /pid == inter"), []),
        (("-e", "uprobe:/x:y { } beg"), ["uprobe:/x:y { } begin {", "uprobe:/x:y { } begin /"]),
        (("-e", "PROGRAM", ""), []),
        (("record", "nokind:x"), []),
        (("record", "--nooption", "kprob"), ["kprobe:"]),
        (("record", "--filter", "kprob"), []),
        (("bench", "parse", ""), []),
    ],
)
def test_values(words: tuple[str, ...], wanted: list[str]) -> None:
    assert texts(*words) == wanted


@pytest.mark.parametrize(
    ("words", "also"),
    [
        (("show", ""), ":files *.pcapng *.pcap *.pcapng.* *.pcap.*"),
        (("record", "-w", ""), ":files *.pcapng *.pcap *.pcapng.* *.pcap.*"),
        (("wireshark", "open", ""), ":files *.pcapng *.pcap *.pcapng.* *.pcap.*"),
        (("record", ""), ":files *.py"),
        (("agent", ""), ":files *.py *.bt"),
        (("collect", "-w", ""), ":folders"),
        (("record", "x", "-c", ""), ":commands"),
        (("record", "x", "--", "l"), ":commands"),
        (("record", "x", "--", "ls", ""), ":files *"),
        (("record", "--tls-key", ""), ":files *"),
        (("-q", ""), ":files *.bt"),
    ],
)
def test_what_the_shell_completes_itself(words: tuple[str, ...], also: str) -> None:
    assert answer(list(words)).also == also


def test_processes_by_what_they_are_called() -> None:
    own = str(os.getpid())
    (found,) = [one for one in answer(["trace", "-p", own]).candidates if one.text == own]
    assert found.about == Path("/proc/self/comm").read_text().strip()
    assert f"1,{own}" in texts("trace", "-p", f"1,{own}")


def test_tracepoints_of_this_kernel() -> None:
    try:
        tracefs.shared()
    except TracefsError as error:
        pytest.skip(str(error))
    assert texts("record", "tracepoint:sche") == ["tracepoint:sched:"]
    assert answer(["record", "tracepoint:sche"]).candidates[0].open
    assert "t:sched:sched_switch" in texts("record", "t:sched:sched_sw")
    found = texts("-e", "tracepoint:sched:sched_swit")
    assert found == ["tracepoint:sched:sched_switch {", "tracepoint:sched:sched_switch /"]


def test_functions_of_this_kernel() -> None:
    from kwire.kernel.symbols import kernel_symbols

    try:
        kernel_symbols()
    except KernelError as error:
        pytest.skip(str(error))
    assert "kprobe:vfs_read" in texts("record", "kprobe:vfs_rea")
    many = answer(["record", "kprobe:"]).candidates
    assert 10 < len(many) <= 1000
    assert any(one.open for one in many)


def test_functions_of_a_program(tmp_path: Path) -> None:
    shell = shutil.which("bash") or pytest.skip("no bash here")
    (tmp_path / "folder").mkdir()
    (tmp_path / "program").write_bytes(Path(shell).read_bytes())
    (tmp_path / "program").chmod(0o755)
    assert set(texts("record", f"uprobe:{tmp_path}/")) == {
        f"uprobe:{tmp_path}/folder/",
        f"uprobe:{tmp_path}/program:",
    }
    assert f"uprobe:{tmp_path}/program:readline" in texts("record", f"uprobe:{tmp_path}/program:readl")


def test_no_description_breaks_a_line() -> None:
    assert all("\n" not in one for verb in VERBS for one in lines(answer([verb, "-"])))
    assert list(lines(Answer())) == []


# --- the shells ---

LONGEST = 60
"""Seconds without a word after which a shell is taken for one that waits for what does not come."""

TELLS = f"""#!/bin/sh
test "$1" = completion && exec {sys.executable} -m kwire "$@"
printf '%s\\n' "$@" > "$TOLD"
"""

SHELLS = {
    "bash": (["--norc", "--noprofile", "-i"], "source {script}"),
    "zsh": (["-f", "-i"], "autoload -U compinit && compinit -D -u && source {script}"),
    "fish": (["--no-config", "-i"], "source {script}"),
}


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name if shutil.which(name) else pytest.skip(f"{name} is not installed")


def typed(shell: str, folder: Path, line: str) -> list[str]:
    """The words that the command is given where somebody types the line, with Tab for each \\t, and Enter."""
    places = folder / "bin"
    places.mkdir()
    (places / "kwire").write_text(TELLS)
    (places / "kwire").chmod(0o755)
    script = folder / "script"
    script.write_text(SCRIPTS[shell])
    options, setup = SHELLS[shell]
    for name in ("one.pcapng", "other.txt"):
        (folder / name).touch()
    ours, theirs = pty.openpty()
    environment = {
        "HOME": str(folder),
        "PATH": f"{places}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
        "TERM": "dumb" if shell != "fish" else "xterm",
        "TOLD": str(folder / "told"),
        "LC_ALL": "C.UTF-8",
    }
    with subprocess.Popen(
        ["setsid", "-c", shell, *options],  # which makes it the terminal's own
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=folder,
        env=environment,
    ) as process:
        os.close(theirs)
        os.write(ours, f" {setup.format(script=script)}\n {line}\n exit\n".encode())
        seen = b""
        try:
            while select.select([ours], [], [], LONGEST)[0] and (part := os.read(ours, 1 << 16)):
                seen += part
            process.kill()  # one that still waits for something
        except OSError:  # it has ended
            pass
        os.close(ours)
        process.wait()
    told = folder / "told"
    assert told.exists(), seen.decode(errors="replace")
    return told.read_text().split("\n")[:-1]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("kwire recor\tkprob\tx", ["record", "kprobe:x"]),
        ("kwire list software:alignment-f\t-v", ["list", "software:alignment-faults", "-v"]),
        ("kwire list 'software:alignment-f\t", ["list", "software:alignment-faults"]),
        ("kwire -e 'software:alignment-f\t{ exit() }'", ["-e", "software:alignment-faults { exit() }"]),
        ("kwire show o\t--rela\t", ["show", "one.pcapng", "--relative"]),
        ("kwire export --format=ndj\tx", ["export", "--format=ndjson", "x"]),
    ],
    ids=["verb", "probe", "quoted", "program", "file", "value"],
)
def test_a_shell_completes(shell: str, tmp_path: Path, line: str, words: list[str]) -> None:
    assert typed(shell, tmp_path, line) == words


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_script_is_printed(name: str) -> None:
    made = subprocess.run([sys.executable, "-m", "kwire", "completion", name], capture_output=True, text=True)
    assert (made.returncode, made.stdout, made.stderr) == (0, SCRIPTS[name], "")
    assert set(PLACES) == set(SCRIPTS)
