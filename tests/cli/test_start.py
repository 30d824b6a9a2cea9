"""The first moments of the command, and what it finds missing: Ctrl-C, descriptors, /proc, /sys, a locale."""

from __future__ import annotations

import ast
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "bin" / "kwire"
KWIRE = [sys.executable, "-m", "kwire"]
CAPTURE = str(ROOT / "tests" / "data" / "0.1-capture-little.pcapng")
EXEC = "tracepoint:sched:sched_process_exec"
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")


def test_nothing_is_imported_before_ctrl_c_is_seen_to() -> None:
    body = ast.parse(SCRIPT.read_text()).body[1:]
    assert isinstance(body[0], ast.Import)
    assert [name.name for name in body[0].names] == ["_signal"]
    assert isinstance(body[1], ast.If)
    assert "_signal" in sys.builtin_module_names, "it costs nothing"


INTERRUPTED = """
import os, signal, sys
def hook(event, arguments):
    global done
    if not done and f"{event} {arguments and arguments[0]}" == os.environ["WHEN"]:
        done = True
        os.kill(os.getpid(), signal.SIGINT)
done = False
sys.addaudithook(hook)
"""


@pytest.mark.parametrize(
    ("when", "status"),
    [
        ("import kwire", -signal.SIGINT),  # the first that is imported for the command
        ("import kwire.cli.main", -signal.SIGINT),
        ("import kwire.cli.process", -signal.SIGINT),
        ("import kwire.cli.choosing", 130),  # the work has begun, and ends in order
        (f"open {CAPTURE}", 130),
        ("import kwire.capture.pcapng", 130),
    ],
)
def test_ctrl_c_at_the_start_ends_it_without_a_word(tmp_path: Path, when: str, status: int) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTED)
    run = subprocess.run(
        [sys.executable, str(SCRIPT), "show", CAPTURE],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "WHEN": when},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert (run.returncode, run.stdout, run.stderr) == (status, b"", b"")


def with_descriptors(count: int, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*KWIRE, *words],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (count, count)),
    )


@pytest.mark.live
@pytest.mark.native
@pytest.mark.parametrize(
    ("words", "few", "enough", "status"),
    [
        (["record", EXEC, "-w", "OUT/r.pcapng", "--", "true"], (5, 10, 20), 1000, 0),
        (["trace", EXEC, "-p", "SELF", "-d", "0.1"], (5, 10, 20), 1000, 0),
        (["export", CAPTURE, "-o", "OUT/x.csv"], (5,), 20, 3),
        (["collect", "--listen", "unix:OUT/socket", "-w", "OUT/c", "-d", "0.1"], (5,), 20, 0),
    ],
    ids=lambda one: one[0] if isinstance(one, list) else "",
)
def test_too_few_descriptors_have_their_cure(
    tmp_path: Path, words: list[str], few: tuple[int, ...], enough: int, status: int
) -> None:
    """With 4, Python itself does not start where packages are installed for editing."""
    words = [word.replace("OUT", str(tmp_path)).replace("SELF", str(os.getpid())) for word in words]
    for count in few:
        run = with_descriptors(count, *words)
        assert "Traceback" not in run.stderr
        assert run.returncode == 1, run.stderr
        assert "ulimit -n" in run.stderr.splitlines()[-1], run.stderr
    run = with_descriptors(enough, *words)
    assert run.returncode == status, run.stderr


def hidden(place: str, command: str) -> subprocess.CompletedProcess[str]:
    """Run a shell's words where nothing is mounted at this place."""
    script = f"mount -t tmpfs none {place} || exit 77; {command}"
    run = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True)
    if run.returncode == 77 or "unshare:" in run.stderr:
        pytest.skip(f"nothing can be mounted here: {run.stderr}")
    return run


@ROOT_ONLY
@pytest.mark.live
@pytest.mark.native
@pytest.mark.parametrize(("place", "kind"), [("/proc", "proc"), ("/sys", "sysfs")])
def test_doctor_answers_the_rest(place: str, kind: str) -> None:
    run = hidden(place, f"{' '.join(KWIRE)} doctor --json")
    told = json.loads(run.stdout)
    rows = {check["name"]: check for check in told["checks"]}
    recorded = hidden(
        place, f"{' '.join(KWIRE)} record rawtracepoint:sched_process_exec -w /dev/null -- true"
    )
    assert (run.returncode, told["ok"], run.stderr) == (recorded.returncode, not recorded.returncode, "")
    assert run.returncode == int(kind == "sysfs"), "how many CPUs there are is told there alone"
    lacking = "kallsyms" if kind == "proc" else "btf"
    assert rows[lacking]["answer"] == "unknown"
    assert f"mount -t {kind} " in rows[lacking]["cure"]
    assert rows["rawtracepoint"]["answer"] == "yes"


@ROOT_ONLY
@pytest.mark.live
@pytest.mark.native
@pytest.mark.parametrize(("place", "recorded"), [("/proc", 0), ("/sys", 1)])
def test_without_it_each_verb_does_what_needs_it_not(tmp_path: Path, place: str, recorded: int) -> None:
    kwire, out = " ".join(KWIRE), tmp_path / "r.pcapng"
    for command, status in (
        (f"{kwire} record {EXEC} -w {out} -- true", recorded),
        (f"{kwire} show {CAPTURE}", 3),  # events are missing in it
        (f"{kwire} query - 'SELECT count(*) FROM events' < {CAPTURE}", 3),
        (f"{kwire} cut - --from +0s -w {out} < {CAPTURE}", 3),
        (f"{kwire} export {CAPTURE} -o {tmp_path}/x.csv", 3),
        (f"{kwire} list 'tracepoint:sched:*exec'", 0),
    ):
        run = hidden(place, command)
        assert "Traceback" not in run.stderr
        assert run.returncode == status, (command, run.stderr)
        if status == 1:
            [line] = run.stderr.splitlines()
            assert place in line, (command, line)


@pytest.fixture(scope="module")
def latin(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in a locale of ISO 8859-1, made here; else only what Python writes is in it."""
    place = tmp_path_factory.mktemp("locales")
    environment = {**os.environ, "PYTHONUTF8": "0"}
    made = ["localedef", "-i", "de_DE", "-f", "ISO-8859-1", str(place / "de_DE")]
    if shutil.which("localedef") and not subprocess.run(made, capture_output=True).returncode:
        return {**environment, "LOCPATH": str(place), "LC_ALL": "de_DE"}
    return {**environment, "PYTHONIOENCODING": "latin-1"}


def test_a_locale_of_iso_8859_1(tmp_path: Path, latin: dict[str, str]) -> None:
    name = tmp_path / "→ü.pcapng"
    name.write_bytes(Path(CAPTURE).read_bytes())
    for verb in ("verify", "show", "stats", "query"):
        run = subprocess.run([*KWIRE, verb, name], capture_output=True, env=latin)
        assert (run.returncode, b"Traceback" in run.stderr) == (3, False), run.stderr
        assert run.stdout.decode("latin-1").replace("\n", "").isprintable()
    run = subprocess.run([*KWIRE, "show", "/nowhere/ü→"], capture_output=True, env=latin)
    assert (run.returncode, run.stderr.count(b"\n")) == (1, 1)


@pytest.mark.parametrize("encoding", ["ascii", "utf-16"])
def test_what_an_encoding_lacks_is_an_escape(tmp_path: Path, encoding: str) -> None:
    name = tmp_path / "→ü.pcapng"
    name.write_bytes(Path(CAPTURE).read_bytes())
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    run = subprocess.run([*KWIRE, "verify", str(name)], capture_output=True, env=environment)
    told = run.stdout.decode(encoding)
    assert (run.returncode, b"Traceback" in run.stderr) == (3, False)
    assert "\\u2192" in told or "→" in told


@pytest.mark.parametrize(
    ("words", "status", "shown"),
    [
        (["show", "/nowhere/a\nb"], 1, "/nowhere/a\\nb"),
        (["show", "/nowhere/\x1b[31m"], 1, "/nowhere/\\e[31m"),
        (["show", b"/nowhere/\xff"], 1, "/nowhere/\\xff"),
        (["no\nverb"], 2, "no\\nverb"),
        (["show", CAPTURE, "--no\x1bsuch"], 2, "--no\\esuch"),
        (["show", CAPTURE, "--probe", "a\nb"], 1, "a\\nb"),
        (["record", "kprobe:a\nb", "-w", "/dev/null"], 1, "a\\nb"),
        (["merge", "/nowhere/\n", "-w", "/dev/null"], 1, "/nowhere/\\n"),
        (["split", CAPTURE, "--by", "x\ny", "-w", "/nowhere"], 1, "x\\ny"),
    ],
)
def test_whatever_is_quoted_a_message_is_one_line(words: list[str | bytes], status: int, shown: str) -> None:
    run = subprocess.run([*KWIRE, *words], capture_output=True, text=True)
    [line] = run.stderr.splitlines()
    assert run.returncode == status
    assert shown in line
    assert line.isprintable()
