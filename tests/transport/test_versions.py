"""An agent of one release and a collector of another: kept peers, both ways; and no version in common."""

from __future__ import annotations

import json
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cbor2
import kept_peers
import pytest
from kept_peers import NEW, OLD, RELEASES, Agent, frame
from site_of_one import events, schema
from verified import verify_file
from waiting import PATIENCE

from kwire.agent.spool import begin
from kwire.wire import frame as wire_frame
from kwire.wire.messages import totals_frames

COMMAND = [sys.executable, "-m", "kwire.cli.main"]
UPDATE = "update the older one"


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def collector(started: list[subprocess.Popen[str]], path: Path) -> subprocess.Popen[str]:
    """Ours, listening at `path`/socket."""
    words = ["collect", "--listen", f"unix:{path}/socket", "-w", "in", "--json"]
    process = subprocess.Popen([*COMMAND, *words], cwd=path, text=True, stdout=-1, stderr=-1)
    started.append(process)
    assert process.stderr is not None
    assert "collecting at" in process.stderr.readline()
    return process


def ended(process: subprocess.Popen[str]) -> tuple[dict[str, Any], str]:
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    return json.loads(out), err


def agent(started: list[subprocess.Popen[str]], path: Path) -> subprocess.Popen[str]:
    """Ours, that delivers what a recording left in a spool: ten events."""
    spool = str(path / "spool")
    if not (path / "spool").exists():
        made = begin(spool, b"t" * 16, list(schema("web1").frames()), 1 << 20, 1 << 20)
        made.run()
        made.put(made.next, events(0, 10))
        made.put(made.next, b"".join(totals_frames({1: 10})))
        made.close()
    words = ["agent", "--to", f"unix:{path}/socket", "--spool", spool, "--json"]
    process = subprocess.Popen([*COMMAND, *words], cwd=path, text=True, stdout=-1, stderr=-1)
    started.append(process)
    return process


def test_the_kept_peers_speak_as_the_protocol_says() -> None:
    """What they have of it in numbers is what it has, so a mistake here is not taken for theirs."""
    for name in (
        "HELLO",
        "WELCOME",
        "DATA",
        "ACK",
        "REQUEST",
        "REPLY",
        "ERROR",
        "BYE",
        "SCHEMA",
        "EVENT",
        "TABLE",
    ):
        assert getattr(kept_peers, name) == wire_frame.Type[name]
    assert frame(kept_peers.TABLE, 0, cbor2.dumps({"produced": {1: 5}})) == b"".join(totals_frames({1: 5}))


@pytest.mark.parametrize("release", RELEASES)
def test_an_agent_of_another_release(release: str, tmp_path: Path, started: Any) -> None:
    ours = collector(started, tmp_path)
    theirs = Agent(f"{tmp_path}/socket", release)
    assert not theirs.refused
    theirs.deliver(1000)
    summary, said = ended(ours)
    (host,) = summary["hosts"]
    assert (host["host"], host["events"], host["lost"], host["errors"]) == (f"{release}host", 1000, 0, 0)
    assert (host["unproven"], summary["problems"], ours.returncode) == (0, [], 0), said
    report = verify_file(str(tmp_path / host["files"][0]))
    assert (report.complete, report.totals.stored) == (True, 1000)
    assert "clock" in theirs.asked
    assert all("error" in reply for reply in theirs.replies)
    assert len(theirs.replies) == (release == NEW)


@pytest.mark.parametrize("release", RELEASES)
def test_a_collector_of_another_release(release: str, tmp_path: Path, started: Any) -> None:
    theirs = kept_peers.Collector(f"{tmp_path}/socket", release)
    work = threading.Thread(target=theirs.collect, daemon=True)
    work.start()
    ours = agent(started, tmp_path)
    out, err = ours.communicate(timeout=PATIENCE)
    work.join(PATIENCE)
    assert not work.is_alive()
    assert (ours.returncode, json.loads(out)["delivered"], json.loads(out)["lost"]) == (0, 1, 0), err
    assert 1 in theirs.hello["versions"]
    assert b"".join(theirs.payloads).count(struct.pack(">BBHI", 0x11, 0, 24, 1)) == 10
    assert len(theirs.replies) == (release == NEW)
    assert all("error" in reply for reply in theirs.replies)
    theirs.listener.close()


@pytest.mark.parametrize(("versions", "told"), [([2, 3], "2, 3"), ([], "none")])
def test_an_agent_without_a_common_version(
    versions: list[int], told: str, tmp_path: Path, started: Any
) -> None:
    """One clear line at both ends, nothing of it is kept, and others go on."""
    ours = collector(started, tmp_path)
    theirs = Agent(f"{tmp_path}/socket", OLD, versions=versions)
    who = f"the side that connects speaks {told}, the side that listens 1"
    line = f"no version of the protocol in common: {who}; {UPDATE}"
    assert theirs.refused == line
    Agent(f"{tmp_path}/socket", OLD).deliver(5)
    summary, said = ended(ours)
    assert [one for one in said.splitlines() if "protocol" in one] == [
        f"kwire: unix:{tmp_path}/socket gets no session: {line}"
    ]
    assert (summary["sessions"], summary["events"], ours.returncode) == (1, 5, 0)
    assert len([one for one in (tmp_path / "in" / ".sessions").iterdir() if one.name != "known"]) == 1


def test_a_hello_of_another_version(tmp_path: Path, started: Any) -> None:
    ours = collector(started, tmp_path)
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.settimeout(PATIENCE)
        theirs.connect(f"{tmp_path}/socket")
        theirs.sendall(frame(kept_peers.HELLO, 0, b"\xa0", version=2))
        assert theirs.recv(100) == b""
    summary, said = ended(ours)
    assert "it said no HELLO: BAD_VERSION (5) at offset 0: found 2, expected 1" in said
    assert summary["sessions"] == 0


def test_a_collector_that_chooses_another_version(tmp_path: Path, started: Any) -> None:
    """It is said once, the spool is kept, and a collector with a common version gets all of it."""
    theirs = kept_peers.Collector(f"{tmp_path}/socket", NEW)
    ours = agent(started, tmp_path)
    for _ in range(2):
        theirs.accept(version=2).socket.close()
    ours.send_signal(signal.SIGINT)
    ours.send_signal(signal.SIGINT)
    _, err = ours.communicate(timeout=PATIENCE)
    line = f"refused: it chose version 2 of the protocol, and 1 was offered; {UPDATE}"
    assert err.count(line) in (1, 2), err  # as it comes, and as the attempt ends
    assert "Traceback" not in err
    assert ours.returncode == 1
    work = threading.Thread(target=theirs.collect, daemon=True)
    work.start()
    again = agent(started, tmp_path)
    out, err = again.communicate(timeout=PATIENCE)
    work.join(PATIENCE)
    assert (again.returncode, json.loads(out)["lost"]) == (0, 0), err
    assert b"".join(theirs.payloads).count(struct.pack(">BBHI", 0x11, 0, 24, 1)) == 10
    theirs.listener.close()
