"""What agents and collectors tell on standard error: a line an event, with its level; as JSON where asked."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cbor2
import kept_peers
import pytest
from verbs import Verb
from waiting import PATIENCE, until

from kwire.cli import lines
from kwire.cli.tracing import Progress
from kwire.transport.certs import make_certs
from kwire.transport.log_events import EVENTS, markdown

ROOT = Path(__file__).resolve().parents[2]
PROBE = "tracepoint:syscalls:sys_enter_getppid"
KEYS = ["time", "level", "event", "verb", "message"]


def tls(directory: Path, role: str) -> list[str]:
    return [f"--tls-{name}={directory / role / name}.pem" for name in ("cert", "key", "ca")]


@pytest.mark.live
@pytest.mark.native
def test_a_refused_certificate_is_told_at_both_ends(start: Callable[..., Verb], tmp_path: Path) -> None:
    """The agent's is of another CA: the collector says so at once, and the agent that it was refused."""
    make_certs(str(tmp_path / "ours"))
    make_certs(str(tmp_path / "theirs"))
    ours, theirs = tls(tmp_path / "ours", "collector"), tls(tmp_path / "theirs", "agent")
    theirs[2] = tls(tmp_path / "ours", "agent")[2]
    collector = start(
        "collect", "--listen", "tls:127.0.0.1:0", "--log", "json", "--log-level", "debug", *ours
    )
    until(lambda: "listening" in collector.events)
    address = re.search(r"tls:\S+", collector.told[0]["message"])
    assert address
    pid = str(collector.process.pid)
    agent = start("agent", "--to", address[0], PROBE, "-p", pid, "--log", "json", *theirs)
    until(lambda: "certificate" in agent.events)
    until(lambda: "handshake" in collector.events)
    other = start(
        "agent",
        "--to",
        address[0],
        PROBE,
        "-p",
        pid,
        "-d",
        "0.1",
        "--log=json",
        *tls(tmp_path / "ours", "agent"),
    )
    other.process.wait(PATIENCE)
    assert [event for event in other.events if event != "note"] == ["connected", "summary"]
    until(lambda: "session_ended" in collector.events)
    agent.end()
    collector.end()
    assert "session_begun" in collector.events
    for verb, name in ((agent, "agent"), (collector, "collect"), (other, "agent")):
        for line in verb.told:
            assert list(line) == KEYS
            assert (line["verb"], line["level"]) == (name, EVENTS[line["event"]].level)
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    refused = [line["message"] for line in agent.told if line["event"] == "certificate"]
    assert "does not know the CA of our certificate" in refused[0]
    assert "(trying again)" in refused[0]
    [seen, *_] = [line["message"] for line in collector.told if line["event"] == "handshake"]
    assert "the other side's certificate is not good" in seen


def test_a_peer_that_breaks_the_protocol_is_told_at_both_ends(
    start: Callable[..., Verb], tmp_path: Path
) -> None:
    """Whoever sees it says so on its own standard error, and to the other side, which says so as well."""
    collector = start("collect", "--listen", "unix:c", "--log", "json")
    until(lambda: "listening" in collector.events)
    theirs = kept_peers.Agent(f"{tmp_path}/c", kept_peers.NEW)
    theirs.wire.send(kept_peers.frame(kept_peers.DATA, 0, b"", version=15))
    until(lambda: "peer" in collector.events)
    [told] = [line for line in collector.told if line["event"] == "peer"]
    assert (told["level"], told["message"].split()[0]) == ("warning", "newhost")
    while (got := theirs.wire.read()) is not None and got[0] != kept_peers.ERROR:
        pass
    assert got is not None  # they are told
    theirs.wire.socket.close()
    collector.end()


@pytest.mark.live
@pytest.mark.native
@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (kept_peers.frame(kept_peers.ACK, 0, b"", version=15), "broke the protocol: "),
        (kept_peers.frame(kept_peers.ERROR, 0, cbor2.dumps({"code": 9, "message": "no good"})), "no good"),
    ],
    ids=["it does", "it says that we did"],
)
def test_an_agent_tells_of_a_collector_that_breaks_the_protocol(
    sent: bytes, told: str, start: Callable[..., Verb], tmp_path: Path
) -> None:
    theirs = kept_peers.Collector(f"{tmp_path}/c", kept_peers.NEW)
    agent = start("agent", "--to", "unix:c", PROBE, "-p", str(os.getpid()), "--log", "json")
    with theirs.accept(sent).socket:
        until(lambda: "peer" in agent.events, lambda: agent.errors)
    [line] = [line for line in agent.told if line["event"] == "peer"]
    assert line["level"] == "warning"
    assert told in line["message"]
    theirs.listener.close()


def test_the_last_error_is_a_line_of_the_same_form(start: Callable[..., Verb], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    verb = start("collect", "--listen", "unix:s", "-w", "file", "--log", "json")
    assert verb.process.wait(PATIENCE) == 1
    [line] = verb.told
    assert (line["event"], line["level"]) == ("error", "error")
    assert "file" in line["message"]
    nobody = start("collect", "--log", "json")
    assert nobody.process.wait(PATIENCE) == 1
    assert [(line["event"], "from whom?" in line["message"]) for line in nobody.told] == [("error", True)]


def test_levels_leave_out_what_matters_less(start: Callable[..., Verb], tmp_path: Path) -> None:
    verb = start("collect", "--listen", "unix:s", "--log-level", "error")
    until(lambda: (tmp_path / "s").exists())
    verb.end()
    assert verb.said.read_text() == ""


class Terminal(io.StringIO):
    """What a person looks at."""

    def isatty(self) -> bool:
        return True


def test_no_progress_stands_between_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Terminal()
    monkeypatch.setattr(sys, "stderr", seen)
    progress = Progress(SimpleNamespace(events=1, lost=0), None)
    progress()
    assert "1 event, " in seen.getvalue()
    progress.clear()
    before = seen.getvalue()
    monkeypatch.setattr(lines, "style", lambda text, event, prefix: None)
    progress()
    assert seen.getvalue() == before


def test_the_document_is_the_table() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text()
    assert (
        text.partition("<!-- life.markdown() -->\n")[2].partition("\n<!-- end")[0].strip()
        == markdown().strip()
    )
