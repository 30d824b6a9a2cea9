"""How commands end, and what they leave: outputs, standard streams, signals, exit status."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from waiting import PATIENCE

KWIRE = [sys.executable, "-m", "kwire"]
EXEC = "tracepoint:sched:sched_process_exec"
BYTES = b"something of somebody"


def kwire(*words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line; its output is text."""
    return subprocess.run([*KWIRE, *words], capture_output=True, text=True, timeout=PATIENCE, **options)


def shell(script: str, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a shell's script, in which $K is kwire and $P a probe; its output is text."""
    env = {**os.environ, "K": " ".join(KWIRE), "P": EXEC}
    run = subprocess.run(
        ["bash", "-c", script], cwd=cwd, env=env, capture_output=True, text=True, timeout=PATIENCE, **options
    )
    assert "Traceback" not in run.stderr
    assert "Exception ignored" not in run.stderr
    return run


def events(file: Path) -> int:
    """How many events a complete capture holds."""
    run = kwire("verify", file, "--json")
    told = json.loads(run.stdout)
    assert run.returncode == 0, run.stdout
    return int(told["files"][0]["stored"])


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A capture of one execution."""
    file = tmp_path_factory.mktemp("capture") / "one.pcapng"
    assert kwire("record", EXEC, "-w", file, "--", "true").returncode == 0
    return file


# --- standard output belongs to one


@pytest.mark.live
@pytest.mark.native
@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "link"])
def test_a_capture_on_standard_output_has_it_to_itself(name: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/stdout")
    run = shell(f"$K record $P -c 'echo hello' -w {name} | tee copy | $K show - --json", tmp_path)
    [event] = run.stdout.splitlines()
    assert json.loads(event)["fields"]["filename"].endswith("/echo")
    assert run.stderr.splitlines()[0] == "hello"
    assert "none lost" in run.stderr
    assert events(tmp_path / "copy") == 1
    assert (tmp_path / "link").is_symlink()


@pytest.mark.live
@pytest.mark.native
def test_json_on_standard_output_has_it_to_itself(tmp_path: Path) -> None:
    run = kwire("record", EXEC, "--json", "-c", "echo hello", "-w", tmp_path / "a")
    assert json.loads(run.stdout)["events"] == 1
    assert run.stderr == "hello\n"


@pytest.mark.live
@pytest.mark.native
def test_events_on_standard_output_have_it_to_themselves(tmp_path: Path) -> None:
    file = tmp_path / "probes.py"
    file.write_text(f'import kwire\n@kwire.probe("{EXEC}")\ndef executed():\n    emit(one=1)\n')
    run = kwire("trace", file, "--json", "--", "echo", "hello")
    assert [json.loads(line)["fields"] for line in run.stdout.splitlines()] == [{"one": 1}]
    assert "hello" in run.stderr.splitlines()


@pytest.mark.live
@pytest.mark.native
def test_otherwise_the_commands_output_is_its_own(tmp_path: Path) -> None:
    run = kwire("record", EXEC, "-c", "sh -c 'echo hello; echo world >&2'", "-w", tmp_path / "a")
    assert run.stdout == "hello\n"
    assert run.stderr.splitlines()[0] == "world"


# --- a recording that does not start destroys nothing


@pytest.mark.live
@pytest.mark.native
@pytest.mark.parametrize(
    "words",
    [
        [EXEC, "-c", "nosuchcommand"],
        [EXEC, "--", "./unreadable"],
        [EXEC, "--", "./strange"],
        ["tracepoint:sched:nosuch", "-c", "true"],
        [EXEC, "--filter", "nosuch == 1", "-c", "true"],
        [EXEC, "-c", "true", "--no-clobber"],
        [EXEC, "-c", "true", "--buffer", "8G"],
        [EXEC, "-p", "4194000"],
        ["-H", "unix:nothing", EXEC, "-d", "1"],
    ],
    ids=lambda words: words[-1],
)
def test_what_does_not_start_leaves_the_file_as_it_was(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "unreadable").write_text("#!/bin/sh\n")
    (tmp_path / "strange").write_bytes(bytes(100))
    (tmp_path / "strange").chmod(0o755)
    keep = tmp_path / "keep.pcapng"
    keep.write_bytes(BYTES)
    at = words.index("--") if "--" in words else len(words)
    run = kwire("record", *words[:at], "-w", keep, *words[at:], cwd=tmp_path)
    assert run.returncode == 1
    [line] = run.stderr.splitlines()
    assert line.startswith("kwire: ")
    assert keep.read_bytes() == BYTES
    assert sorted(os.listdir(tmp_path)) == ["keep.pcapng", "strange", "unreadable"]


@pytest.mark.live
@pytest.mark.native
def test_no_clobber_keeps_the_files_of_a_rotation(tmp_path: Path) -> None:
    keep = tmp_path / "keep-0001.pcapng"
    keep.write_bytes(BYTES)
    words: list[str | Path] = [EXEC, "-w", tmp_path / "keep.pcapng", "--rotate", "1M", "-c", "true"]
    run = kwire("record", *words, "--no-clobber")
    assert (run.returncode, keep.read_bytes()) == (1, BYTES)
    assert kwire("record", *words).returncode == 0
    assert events(keep) == 1


@pytest.mark.live
@pytest.mark.native
def test_a_file_is_replaced_and_a_recording_that_is_killed_is_there(tmp_path: Path) -> None:
    keep, link = tmp_path / "keep.pcapng", tmp_path / "link"
    keep.write_bytes(BYTES)
    link.symlink_to(keep)
    words: list[str | Path] = [
        *KWIRE,
        "record",
        EXEC,
        "-w",
        link,
        "--",
        "sh",
        "-c",
        "while :; do true; /bin/true; done",
    ]
    with subprocess.Popen(words, stderr=subprocess.PIPE) as recorder:
        try:
            deadline = time.monotonic() + 60
            while keep.stat().st_size < 4096 and time.monotonic() < deadline:
                time.sleep(0.05)
        finally:
            recorder.kill()  # its command's keeper sees that, and ends the command
    assert link.is_symlink()
    run = kwire("show", keep, "--json")
    assert len(run.stdout.splitlines()) > 10
    assert "its recorder was killed" in run.stderr
    assert sorted(os.listdir(tmp_path)) == ["keep.pcapng", "link"]


# --- signals and the exit status


@pytest.mark.live
@pytest.mark.native
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_recording_in_order(number: signal.Signals, tmp_path: Path) -> None:
    file, mark = tmp_path / "a.pcapng", tmp_path / "pid"
    script = f"echo $$ >{mark}; exec sleep 100"
    words: list[str | Path] = [*KWIRE, "record", EXEC, "-w", file, "--", "sh", "-c", script]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as recorder:
        try:
            while not (mark.exists() and mark.read_text().endswith("\n")):
                assert recorder.poll() is None
                time.sleep(0.05)
            time.sleep(0.2)
            for pause in (0.0, 0.02, 0.05):  # `timeout` tells a process and its group, a terminal all of them
                time.sleep(pause)
                recorder.send_signal(number)
            said = recorder.communicate(timeout=PATIENCE)[1]
        finally:
            recorder.kill()
    assert recorder.returncode == 0
    assert re.fullmatch(rf"2 events, none lost, \d\.\d kB in {file}\n", said)
    assert events(file) == 2
    assert not Path(f"/proc/{mark.read_text().strip()}").exists()


@pytest.mark.live
@pytest.mark.native
def test_nohup_keeps_sighup_away(tmp_path: Path) -> None:
    script = "nohup $K record $P -w a -c 'sh -c \"kill -HUP $PPID; kill -HUP $$; exec /bin/true\"'"
    run = shell(script, tmp_path)
    assert run.returncode == 0
    assert events(tmp_path / "a") == 2


@pytest.mark.live
@pytest.mark.native
@pytest.mark.parametrize(
    ("options", "script", "status"),
    [
        ([], "exit 7", 7),
        ([], "kill -9 $$", 137),
        ([], "exit 0", 0),
        (["--no-command-status"], "exit 7", 0),
        (["-d", "1s"], "exec sleep 100", 0),
        (["-n", "1"], "exec sleep 100", 0),
    ],
)
def test_the_exit_status_is_the_commands(
    options: list[str], script: str, status: int, tmp_path: Path
) -> None:
    run = kwire("record", EXEC, *options, "-w", tmp_path / "a", "--", "sh", "-c", script)
    assert run.returncode == status
    assert "none lost" in run.stderr


@pytest.mark.live
@pytest.mark.native
def test_two_dashes_begin_the_command(tmp_path: Path) -> None:
    run = kwire("record", EXEC, "-w", tmp_path / "a", "--", "echo", "-n", "", "--", "two  words", "-w")
    assert (run.returncode, run.stdout) == (0, " -- two  words -w")


@pytest.mark.live
@pytest.mark.native
@pytest.mark.parametrize("trap", ["", "trap '' USR1 HUP; "])
def test_a_command_has_the_signals_of_our_caller(trap: str, tmp_path: Path) -> None:
    show = "grep -E 'Sig(Ign|Blk)' /proc/self/status"
    direct = shell(trap + show, tmp_path).stdout
    assert shell(f"{trap}$K record $P -w a -- {show}", tmp_path).stdout == direct


# --- the command line


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["record", EXEC, "-w", ""], "what follows -w is empty"),
        (["record", EXEC, "-w", "x", "-c", ""], "what follows -c is empty"),
        (["record", EXEC, "-w", "x", "-H", ""], "what follows -H is empty"),
        (["record", EXEC, "-w", "x", "--filter="], "--filter is empty"),
        (["record", "", "-w", "x"], "an argument is empty"),
        (["agent", "--make-certs", ""], "what follows --make-certs is empty"),
        (["agent", "--to", ""], "what follows --to is empty"),
        (["collect", "--merge", "", "--listen", "unix:x"], "what follows --merge is empty"),
        (["export", "x", "-o", ""], "what follows -o is empty"),
        (["stats", "x", "--plot", ""], "what follows --plot is empty"),
        (["show", ""], "an argument is empty"),
        (["record", EXEC, "-w", "x", "--"], "no command follows --"),
        (["record", EXEC, "-w", "x", "--", ""], "no command follows --"),
        (["record", EXEC, "-w", "x", "-c", " "], "it is empty"),
        (["record", EXEC, "-w", "x", "-c", "ls", "--", "ls"], "-c and -- both give a command"),
        (
            ["record", EXEC, "-w", "x", "--rotate", "10"],
            "'10' has no unit; write a size, as 10M, or a time, as 10s",
        ),
        (["record", EXEC, "-w", "x", "--rotate", "1000000"], "has no unit"),
        (["record", EXEC, "-w", "x", "--rotate", "-5"], "'-5' is not more than 0"),
        (
            ["record", EXEC, "-w", "x", "--rotate", "100k"],
            "'100k' is too little for a file; write 256K or more",
        ),
        (["record", EXEC, "-w", "x", "--buffer", "8"], "'8' has no unit; write 8K, 8M, or 8B for bytes"),
        (["agent", "--to", "tcp:x", "--memory", "64"], "'64' has no unit"),
        (["agent", "--to", "tcp:x", "--name", "a\udcff"], "'a\\udcff' is not in UTF-8"),
        (["agent", "--to", "tcp:x", "--spool-size", "4"], "'4' has no unit"),
    ],
)
def test_what_is_empty_or_lacks_its_unit_is_refused(words: list[str], says: str) -> None:
    run = kwire(*words)
    assert run.returncode == 2
    [line] = run.stderr.splitlines()
    assert says in line


def test_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    words = shlex.join([*KWIRE, "show", "a.pcapng"])
    folder = tmp_path / "gone"
    folder.mkdir()
    run = subprocess.run(["sh", "-c", f"rmdir {folder}; {words}"], cwd=folder, capture_output=True, text=True)
    assert (
        run.stderr
        == "kwire: show: the folder that this was started in is gone; change to one that is there\n"
    )


def test_the_package_is_a_command() -> None:
    assert kwire("--version").stdout.startswith("kwire ")
    assert "usage: kwire show" in kwire("show", "--help").stdout


# --- standard streams


@pytest.mark.live
@pytest.mark.native
@pytest.mark.parametrize(
    ("script", "says", "status"),
    [
        ("$K show one >&-", "kwire: write standard output: it is closed", 1),
        ("$K show one >/dev/full", "kwire: write standard output: No space left on device", 1),
        ("$K stats one >/dev/full", "kwire: write standard output: No space left on device", 1),
        ("$K export one --format csv -o - >/dev/full", "kwire: write standard output: No space left", 1),
        ("$K export one --format csv -o - >&-", "kwire: write standard output: ", 1),
        ("$K --version >&-", "kwire: write standard output: it is closed", 1),
        ("$K --help >/dev/full", "kwire: write standard output: No space left on device", 1),
        ("$K show --help >&-", "kwire: write standard output: it is closed", 1),
        ("$K record $P --json -w new -c true >/dev/full", "kwire: write standard output: No space left", 1),
        ("$K record $P -w - -c true >&-", "kwire: write standard output: Bad file descriptor", 1),
        ("$K show - <&-", "kwire: read capture standard input: Bad file descriptor", 1),
        ("$K show one 2>&-", "", 0),
        ("$K show nosuch 2>&-", "", 1),
        ("$K nosuch >&- 2>&- <&-", "", 2),
        ("$K record $P -w new -c true >&-", "1 event, none lost, ", 0),
        ("$K record $P -w new -c true >&- 2>&- <&-; s=$?; $K verify new; exit $s", "", 0),
        ("$K show one | true", "", 0),
        ("$K show one 2>&1 >/dev/null | true", "", 0),
    ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_stream_that_is_closed_or_full_is_an_error_like_others(
    script: str, says: str, status: int, unbuffered: str, capture: Path, tmp_path: Path
) -> None:
    (tmp_path / "one").symlink_to(capture)
    run = shell(f"export PYTHONUNBUFFERED={unbuffered}; {script}", tmp_path)
    assert run.returncode == status
    assert run.stderr.startswith(says)
    assert run.stderr.count("\n") == bool(says)


@pytest.mark.live
@pytest.mark.native
def test_a_reader_that_goes_ends_the_trace_and_not_its_capture(tmp_path: Path) -> None:
    run = shell(
        "$K trace $P -w kept --json -- sh -c '/bin/true; sleep 1; while /bin/true; do :; done' | head -1",
        tmp_path,
    )
    assert len(run.stdout.splitlines()) == 1
    assert events(tmp_path / "kept") > 1


@pytest.mark.live
@pytest.mark.native
def test_a_screen_that_cannot_be_written_costs_no_event_of_the_capture(tmp_path: Path) -> None:
    run = shell("$K trace $P -w kept -c true >/dev/full", tmp_path)
    assert run.returncode == 1
    assert "no space left on device" in run.stderr.lower()
    assert events(tmp_path / "kept") == 1


@pytest.mark.live
@pytest.mark.native
@pytest.mark.parametrize("encoding", ["iso-8859-1", "ascii", "utf-8"])
def test_what_an_encoding_lacks_is_escaped(encoding: str, tmp_path: Path) -> None:
    name = os.fsdecode("h\xe9 → ☃ 😀".encode() + b"\xff")
    (tmp_path / name).symlink_to("/bin/true")
    shell(f'$K record $P -w one -- "./{name}"', tmp_path)
    env = {**os.environ, "PYTHONIOENCODING": encoding}
    run = kwire("show", tmp_path / "one", "--json", env=env)
    [event] = run.stdout.splitlines()
    assert json.loads(event)["fields"]["filename"].startswith("./h\xe9 → ☃ 😀")
    for words in (["show"], ["stats"], ["verify"], ["query"], ["export", "-o", "-", "--format", "csv"]):
        done = subprocess.run([*KWIRE, words[0], tmp_path / "one", *words[1:]], env=env, capture_output=True)
        assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
    (tmp_path / "one").rename(tmp_path / name)
    done = subprocess.run([*KWIRE, "verify", tmp_path / name], env=env, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.live
@pytest.mark.native
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_query_that_a_library_is_at(number: signal.Signals, tmp_path: Path) -> None:
    file = tmp_path / "many"
    loop = "import os\nfor _ in range(50000): os.getppid()"
    shell(
        f"$K record tracepoint:syscalls:sys_enter_getppid -w many -- {sys.executable} -c '{loop}'", tmp_path
    )
    sql = "select a.comm, count(*) from events a, events b, events c where a.cpu = b.cpu group by 1"
    with subprocess.Popen([*KWIRE, "query", file, sql], stderr=subprocess.PIPE, text=True) as query:
        try:
            time.sleep(3)
            assert query.poll() is None
            query.send_signal(number)
            said = query.communicate(timeout=PATIENCE)[1]
        finally:
            query.kill()
    assert (query.returncode, said) == (130 if number == signal.SIGINT else -number, "")


def test_a_python_that_is_not_whole_is_said() -> None:
    code = "import sys; sys.modules['array'] = None; from kwire.cli.main import main; sys.exit(main())"
    words = [sys.executable, "-c", code, "stats", "x.pcapng"]
    run = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE)
    cure = "make Python whole, and readable to this user"
    says = f"kwire: stats: the module array of Python itself is not there; {cure}\n"
    assert (run.returncode, run.stderr) == (1, says)
