"""Nothing is lost silently: what was produced, counted independently, is stored or counted lost.

The independent counter is the traced program itself: it calls getppid exactly so many times.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PROBE = "tracepoint:syscalls:sys_enter_getppid"
CALLS = 300_000
CALLER = f"import os\nfor _ in range({CALLS}): os.getppid()"
KWIRE = [sys.executable, "-m", "kwire.cli.main"]
ROOMY = ("--buffer", "64M")  # all calls find room, however long a busy machine keeps the reader waiting

pytestmark = [pytest.mark.live, pytest.mark.native]


def record(file: Path | str, *options: str) -> list[str]:
    """The command that records the caller into `file`."""
    return [
        *KWIRE,
        "record",
        PROBE,
        "-c",
        f"{sys.executable} -c '{CALLER}'",
        "-w",
        str(file),
        "--json",
        *options,
    ]


def summary(output: str) -> dict[str, Any]:
    """The summary object that `--json` prints last."""
    found = json.loads(output.strip().splitlines()[-1])
    assert isinstance(found, dict)
    return found


def wait_for_events(recorder: subprocess.Popen[Any], file: Path) -> None:
    """Wait until the file holds more than its beginning; we call getppid meanwhile, should we be traced."""
    while not file.exists() or file.stat().st_size < 2000:
        assert recorder.poll() is None, "the recorder ended before it recorded anything"
        time.sleep(0.001)
        os.getppid()


def verify(*files: Path | str) -> tuple[int, list[dict[str, Any]]]:
    """What `kwire verify --json` says: exit status and objects."""
    run = subprocess.run([*KWIRE, "verify", "--json", *map(str, files)], capture_output=True, text=True)
    assert "Traceback" not in run.stderr
    return run.returncode, [json.loads(line) for line in run.stdout.splitlines()]


def shown(file: Path | str) -> int:
    """How many events `kwire show` finds."""
    run = subprocess.run([*KWIRE, "show", "--json", str(file)], capture_output=True, text=True)
    assert "Traceback" not in run.stderr
    return sum(line.startswith("{") for line in run.stdout.splitlines())


def test_all_is_well(tmp_path: Path) -> None:
    file = tmp_path / "a.pcapng"
    run = subprocess.run(record(file, *ROOMY), capture_output=True, text=True, check=True)
    told = summary(run.stdout)
    assert (told["events"], told["lost"], told["file"]) == (CALLS, 0, str(file))
    assert [probe["probe"] for probe in told["probes"]] == [PROBE]
    assert verify(file)[0] == 0
    assert shown(file) == CALLS


def test_a_full_ring(tmp_path: Path) -> None:
    file = tmp_path / "a.pcapng"
    run = subprocess.run(record(file, "--buffer", "4096"), capture_output=True, text=True)
    assert run.returncode == 3
    told = summary(run.stdout)
    assert told["lost"] > 0
    assert told["events"] + told["lost"] == CALLS
    status, _ = verify(file)
    assert status == 3
    assert shown(file) == told["events"]


def test_a_full_ring_and_events_of_several_shapes(tmp_path: Path) -> None:
    source, file = tmp_path / "probes.py", tmp_path / "a.pcapng"
    source.write_text(f"""import kwire
@kwire.tracepoint("{PROBE.partition(":")[2]}")
def several():
    emit("asked", pid)
    for i in range(2):
        emit("turned", i, thread=tid)
""")
    asked = record(file, "--buffer", "4096")
    asked[asked.index(PROBE)] = str(source)
    run = subprocess.run(asked, capture_output=True, text=True)
    assert run.returncode == 3
    told = summary(run.stdout)
    assert [(probe["probe"], probe["produced"]) for probe in told["probes"]] == [
        (f"{PROBE}#asked", CALLS),
        (f"{PROBE}#turned", 2 * CALLS),
    ]
    assert all(probe["lost"] > 0 for probe in told["probes"])
    assert told["events"] + told["lost"] == 3 * CALLS
    assert verify(file)[0] == 3
    assert shown(file) == told["events"]


ON_DEMAND = """
import os, sys
for line in sys.stdin:
    for _ in range(int(line)): os.getppid()
    print("done", flush=True)
"""


def test_a_reader_that_is_stopped_and_continued(tmp_path: Path) -> None:
    """While it is stopped, more is called than its ring holds."""
    file, first = tmp_path / "a.pcapng", 1000
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", ON_DEMAND], stdin=pipe, stdout=pipe, text=True) as caller:
        assert caller.stdin is not None
        assert caller.stdout is not None

        def call(times: int) -> None:
            print(times, file=caller.stdin, flush=True)
            assert caller.stdout.readline() == "done\n"  # type: ignore[union-attr]  # it is there

        asked = ["record", PROBE, "-p", str(caller.pid), "-w", str(file), "--buffer", "64K", "--json"]
        with subprocess.Popen([*KWIRE, *asked], stdout=pipe, text=True) as recorder:
            while not file.exists():  # it takes its place when all is attached
                assert recorder.poll() is None, "the recorder ended before it recorded anything"
                time.sleep(0.001)
            call(first)
            wait_for_events(recorder, file)
            recorder.send_signal(signal.SIGSTOP)
            while " T " not in Path(f"/proc/{recorder.pid}/stat").read_text():
                time.sleep(0.001)
            call(CALLS)
            recorder.send_signal(signal.SIGCONT)
            recorder.send_signal(signal.SIGINT)
            output, _ = recorder.communicate()
        caller.stdin.close()
    told = summary(output)
    assert recorder.returncode == 3
    assert told["lost"] > 0
    assert told["events"] + told["lost"] == first + CALLS
    assert verify(file)[0] == 3
    assert shown(file) == told["events"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "kwire-test", disk], check=True)
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    file = small_disk / "a.pcapng"
    run = subprocess.run(record(file), capture_output=True, text=True)
    assert "Traceback" not in run.stderr
    told = summary(run.stdout)
    assert 0 < told["events"] < CALLS
    assert told["events"] + told["lost"] == CALLS
    status, _ = verify(file)
    assert status == 3
    assert shown(file) == told["events"]
    text = subprocess.run([*KWIRE, "verify", str(file)], capture_output=True, text=True).stdout
    assert "disk was full" in text


def test_a_recorder_that_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "a.pcapng"
    command = [*KWIRE, "record", PROBE, "-p", str(os.getpid()), "-w", str(file)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as recorder:
        wait_for_events(recorder, file)
        for _ in range(20_000):
            os.getppid()
        time.sleep(0.3)
        recorder.kill()
    # That nothing of ours is left in the kernel is checked after every live test.
    status, _ = verify(file)
    assert status == 3
    assert shown(file) > 0
    text = subprocess.run([*KWIRE, "verify", str(file)], capture_output=True, text=True).stdout
    assert "no closing statistics" in text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_recording_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    file = tmp_path / "a.pcapng"
    command = [*KWIRE, "record", PROBE, "-p", str(os.getpid()), "-w", str(file), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as recorder:
        wait_for_events(recorder, file)
        recorder.send_signal(number)
        output, _ = recorder.communicate()
    assert recorder.returncode == 0
    assert summary(output)["events"] == shown(file) > 0
    assert verify(file)[0] == 0


@pytest.mark.parametrize("options", [(), ("--buffer", "131072")])
def test_exactly_as_many_events_as_asked_for(tmp_path: Path, options: tuple[str, ...]) -> None:
    """A ring that the calls after the last one asked for overflow is no loss of the recording."""
    file = tmp_path / "a.pcapng"
    run = subprocess.run(record(file, "-n", "1000", *options), capture_output=True, text=True, check=True)
    told = summary(run.stdout)
    assert (told["events"], told["lost"]) == (1000, 0)
    assert shown(file) == 1000
    assert verify(file)[0] == 0


def test_every_file_of_a_rotation_stands_alone_and_together_they_are_whole(tmp_path: Path) -> None:
    run = subprocess.run(
        record(tmp_path / "a.pcapng", "--rotate", "4M", *ROOMY),
        capture_output=True,
        text=True,
        check=True,
    )
    told = summary(run.stdout)
    assert (told["events"], told["lost"]) == (CALLS, 0)
    files = [Path(file) for file in told["files"]]
    assert len(files) > 3
    assert all(file.stat().st_size <= 4 << 20 for file in files)
    assert sum(shown(file) for file in files) == CALLS
    assert verify(*files)[0] == 0
    missing = [file for file in files if file != files[1]]
    assert verify(*missing)[0] == 3


def test_a_capture_through_a_pipe_is_the_same(tmp_path: Path) -> None:
    file = tmp_path / "a.pcapng"
    with file.open("wb") as out:
        run = subprocess.run(record("-", *ROOMY), stdout=out, stderr=subprocess.PIPE, text=True, check=True)
    told = summary(run.stderr)
    assert (told["events"], told["lost"]) == (CALLS, 0)
    assert shown(file) == CALLS
