"""Metrics of running agents, collectors and recordings: what a scrape says is what `kwire verify` says, what
Prometheus itself stores, and what is sent over OTLP.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kept_peers
import pytest
from brokers import free_ports
from otlp_receiver import Receiver, Samples, labelled, page, samples
from prometheus_client.parser import text_string_to_metric_families
from verbs import KWIRE, Verb
from waiting import PATIENCE, until

from kwire.metrics import table
from kwire.transport.certs import make_certs

PROBE = "tracepoint:syscalls:sys_enter_getppid"
CALLS = 50_000
LOAD = """
import os, sys
for line in sys.stdin:
    for _ in range(int(line)):
        os.getppid()
    print("done", flush=True)
"""

pytestmark = [pytest.mark.live, pytest.mark.native]

Scrape = dict[str, dict[tuple[str, ...], float]]


class Served(Verb):
    """A running `kwire` that serves metrics at a free port."""

    def __init__(self, path: Path, *arguments: str) -> None:
        super().__init__(path, *arguments, "--metrics", "127.0.0.1:0")
        until(lambda: self.process.poll() is not None or "metrics at" in self.errors)
        found = re.search(r"metrics at (http://\S+)/metrics", self.errors)
        assert found, self.errors
        self.url = found[1]

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(self.url + path, timeout=PATIENCE) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def page(self) -> str:
        status, text = self.get("/metrics")
        while status == 429:
            time.sleep(0.2)
            status, text = self.get("/metrics")
        assert status == 200
        return text

    def scrape(self) -> Scrape:
        found: Scrape = {}
        for family in text_string_to_metric_families(self.page()):
            for sample in family.samples:
                found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
        return found

    def value(self, name: str) -> float:
        return self.scrape()[name][()]

    def end(self, number: int = signal.SIGINT) -> int:
        return super().end(number)


@pytest.fixture
def start(tmp_path: Path, verbs: list[Verb]) -> Callable[..., Served]:
    def begin(*arguments: str) -> Served:
        verbs.append(served := Served(tmp_path, *arguments))
        return served

    return begin


@pytest.fixture
def load() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", LOAD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    yield process
    process.kill()
    process.communicate()


def call(load: subprocess.Popen[str], times: int = CALLS) -> None:
    assert load.stdin
    assert load.stdout
    load.stdin.write(f"{times}\n")
    load.stdin.flush()
    assert load.stdout.readline() == "done\n"


def verified(*files: Path) -> dict[str, Any]:
    """What `kwire verify` says of one capture."""
    run = subprocess.run([*KWIRE, "verify", "--json", *map(str, files)], capture_output=True, text=True)
    [told] = json.loads(run.stdout)["files"]
    assert isinstance(told, dict)
    return told


def names(verb: str) -> set[str]:
    """What the table says that a verb has."""
    return {metric.name for metric in table.METRICS if verb in metric.of}


def test_a_recording_tells_what_its_capture_holds(
    start: Callable[..., Served], load: subprocess.Popen[str], tmp_path: Path
) -> None:
    """The ring is small, so that some may be lost: what is told is all that there was."""
    recording = start("record", PROBE, "-p", str(load.pid), "-w", "a.pcapng", "--buffer", "64k")
    assert recording.get("/readyz") == (200, "ready\n")
    call(load)

    def balance(found: Scrape) -> float:
        return found["kwire_events_total"][()] + sum(found["kwire_lost_events_total"].values())

    until(lambda: balance(recording.scrape()) == CALLS)
    found = recording.scrape()
    assert found.keys() >= names(table.RECORD)
    assert recording.end() in (0, 3)
    told = verified(tmp_path / "a.pcapng")
    assert told["stored"] == found["kwire_events_total"][()]
    assert told["lost"] == sum(found["kwire_lost_events_total"].values())
    assert found["kwire_probe_events_total"] == {(PROBE,): CALLS}
    assert told["produced"] == CALLS


def test_an_agent_and_its_collector_tell_the_same(
    start: Callable[..., Served], load: subprocess.Popen[str], tmp_path: Path
) -> None:
    """The collector comes when all is recorded: until then it is the spool that has it."""
    address = f"unix:{tmp_path}/collector"
    agent = start("agent", "--to", address, PROBE, "-p", str(load.pid), "--spool", "spool")
    call(load)
    until(lambda: agent.value("kwire_events_total") == CALLS)
    until(lambda: agent.value("kwire_spool_bytes") > 8 * CALLS)
    found = agent.scrape()
    assert found.keys() >= names(table.AGENT)
    assert found["kwire_probe_events_total"] == {(PROBE,): CALLS}
    assert sum(found["kwire_lost_events_total"].values()) == 0
    assert found["kwire_connected"] == {(): 0}
    assert found["kwire_spools"] == {(): 1}
    assert found["kwire_queue_payloads"][()] > 5
    assert 0 < found["kwire_lag_seconds"][()] < 600
    assert 0 < found["kwire_spool_age_seconds"][()] < 600
    assert found["kwire_connect_failures_total"]["unreachable",] >= 1
    assert found["process_cpu_seconds_total"][()] > 0  # confined, it still sees itself
    assert agent.get("/readyz") == (503, f"{address} is not connected\n")
    collector = start("collect", "--listen", address, "-w", "captures")
    until(lambda: agent.value("kwire_lag_seconds") == 0)
    found = agent.scrape()
    assert (found["kwire_connected"], found["kwire_ready"]) == ({(): 1}, {(): 1})
    assert agent.end() == 0
    until(lambda: collector.value("kwire_sessions") == 0)
    stored = collector.scrape()
    assert stored.keys() >= names(table.COLLECT)
    assert stored["kwire_events_total"] == {(): CALLS}
    [host] = stored["kwire_host_events_total"]
    assert stored["kwire_host_events_total"] == {host: CALLS}
    assert stored["kwire_host_lost_events_total"] == {host: 0}
    assert abs(stored["kwire_host_last_data_timestamp_seconds"][host] - time.time()) < 600
    assert abs(stored["kwire_host_newest_event_timestamp_seconds"][host] - time.time()) < 600
    assert 0 < stored["kwire_host_lag_seconds"][host] < 600  # it waited in the spool until we came
    assert stored["kwire_broker_pending_messages"] == {(): 0}
    assert stored["kwire_sessions_total"] == {(): 1}
    assert collector.get("/readyz") == (200, "ready\n")
    assert collector.end() == 0
    told = verified(*(tmp_path / "captures").glob("*.pcapng"))
    assert (told["stored"], told["lost"], told["complete"]) == (CALLS, 0, True)
    assert stored["kwire_bytes_total"][()] >= CALLS * 24


def test_a_listening_agent_tells_what_it_relayed(
    start: Callable[..., Served], load: subprocess.Popen[str], tmp_path: Path
) -> None:
    address = f"unix:{tmp_path}/agent"
    agent = start("agent", "--listen", address, PROBE)
    assert agent.get("/healthz") == (200, "ok\n")
    command = [*KWIRE, "record", "-H", address, PROBE, "-n", "5000", "-w", str(tmp_path / "a.pcapng")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as recording:
        until(lambda: agent.value("kwire_traces_total") == 1)
        while recording.poll() is None:
            call(load, 5000)
    told = verified(tmp_path / "a.pcapng")
    until(lambda: agent.value("kwire_sessions") == 0)
    found = agent.scrape()
    assert found.keys() >= names(table.SERVER)
    assert told["stored"] == found["kwire_events_total"][()] == 5000
    assert told["lost"] == sum(found["kwire_lost_events_total"].values())
    assert found["kwire_sessions_total"] == {(): 1}
    assert agent.end() == 0


def test_a_port_that_is_taken_ends_it_before_anything_is_kept(
    start: Callable[..., Served], load: subprocess.Popen[str], tmp_path: Path
) -> None:
    """No spool is left behind, no capture replaced, no command run."""
    taken = start("collect", "--listen", "unix:c", "-w", "in")
    port = taken.url.rpartition(":")[2]
    (tmp_path / "a.pcapng").write_text("kept")
    command = ["-c", f"touch {tmp_path}/ran", "--metrics", f"127.0.0.1:{port}"]
    for words in (
        ["agent", "--to", "unix:c", "--spool", "spool", PROBE, *command],
        ["record", PROBE, "-w", "a.pcapng", *command],
    ):
        run = subprocess.run([*KWIRE, *words], capture_output=True, text=True, cwd=tmp_path)
        assert (run.returncode, run.stderr.count("\n")) == (1, 1), run.stderr
        assert "something listens there already" in run.stderr
    assert not (tmp_path / "spool").exists()
    assert not (tmp_path / "ran").exists()
    assert (tmp_path / "a.pcapng").read_text() == "kept"
    assert [path.name for path in tmp_path.glob("*.pcapng*")] == ["a.pcapng"]


def test_what_goes_with_a_recording_here(tmp_path: Path) -> None:
    command = [*KWIRE, "record", "-H", "unix:/nowhere", PROBE, "-w", "a.pcapng", "--metrics", ":0"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 1
    assert run.stderr.count("\n") == 1
    assert "whose agent has metrics" in run.stderr


SCRIPT = """
tracepoint:syscalls:sys_enter_getppid /pid == $1/ {
    @calls[comm] = count(); @ids = hist(pid); @sums = sum(pid); @last[pid] = nsecs;
}
"""
FILE = """
[[metric]]
map = "@calls"
name = "getppid_calls_total"
help = "Calls of getppid by command"
labels = ["command"]

[[metric]]
map = "@ids"
name = "getppid_ids"
help = "Numbers of those that called"
sum = "@sums"

[[metric]]
map = "@last"
name = "getppid_last_seconds"
help = "When it was called last"
labels = ["pid"]
scale = 1e-9
"""


def test_a_scripts_maps_are_scraped_while_it_runs(
    start: Callable[..., Served], load: subprocess.Popen[str], tmp_path: Path
) -> None:
    """By an agent that is nobody and confined."""
    (tmp_path / "s.bt").write_text(SCRIPT)
    (tmp_path / "m.toml").write_text(FILE)
    agent = start(
        "agent", "--to", f"unix:{tmp_path}/nobody", "--metrics-maps", "m.toml", "s.bt", str(load.pid)
    )
    found = agent.scrape()
    assert "getppid_calls_total" not in found
    call(load, 1234)
    found = agent.scrape()
    comm = Path(f"/proc/{load.pid}/comm").read_text().strip()
    assert found["getppid_calls_total"] == {(comm,): 1234}
    assert found["getppid_ids_count"] == {(): 1234}
    assert found["getppid_ids_sum"] == {(): 1234 * load.pid}
    bound = str((1 << load.pid.bit_length()) - 1)
    assert found["getppid_ids_bucket"][bound,] == 1234
    assert found["getppid_ids_bucket"][str((1 << load.pid.bit_length() - 1) - 1),] == 0
    assert found["getppid_last_seconds"][str(load.pid),] > 0


# ---------------------------------------------------------------------- what goes wrong


def tls(directory: Path, role: str, ca: Path) -> list[str]:
    files = {"cert": directory / role / "cert.pem", "key": directory / role / "key.pem", "ca": ca}
    return [f"--tls-{name}={path}" for name, path in files.items()]


def test_a_certificate_that_is_refused_is_counted_at_both_ends(
    start: Callable[..., Served], load: subprocess.Popen[str], certs: Path, tmp_path: Path
) -> None:
    """And so is one that talks no TLS."""
    make_certs(str(tmp_path / "theirs"))
    collector = start("collect", "--listen", "tls:127.0.0.1:0", *tls(certs, "collector", certs / "ca.pem"))
    until(lambda: "collecting at tls:" in collector.errors)
    found = re.search(r"collecting at (tls:\S+:(\d+))", collector.errors)
    assert found
    options = tls(tmp_path / "theirs", "agent", certs / "ca.pem")
    agent = start("agent", "--to", found[1], PROBE, "-p", str(load.pid), *options)
    until(lambda: agent.scrape()["kwire_connect_failures_total"]["certificate",])
    failed = collector.scrape()["kwire_handshake_failures_total"]
    assert failed["unknown_ca",] >= 1
    assert sum(failed.values()) == failed["unknown_ca",]
    with socket.create_connection(("127.0.0.1", int(found[2]))) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        until(lambda: collector.scrape()["kwire_handshake_failures_total"]["not_tls",] == 1)
    assert agent.value("kwire_connected") == 0
    agent.end()
    assert collector.end() == 0


def test_what_is_refused_and_what_breaks_the_protocol_is_counted(
    start: Callable[..., Served], tmp_path: Path
) -> None:
    collector = start("collect", "--listen", "unix:c", "-w", "captures")
    until(lambda: (tmp_path / "c").exists())
    refused = kept_peers.Agent(f"{tmp_path}/c", kept_peers.NEW, role="sink")
    assert refused.refused
    assert collector.value("kwire_refused_sessions_total") == 1
    assert collector.value("kwire_sessions_total") == 0
    broken = kept_peers.Agent(f"{tmp_path}/c", kept_peers.NEW)
    broken.wire.send(kept_peers.frame(kept_peers.DATA, 0, b"\xff" * 40))
    until(lambda: collector.value("kwire_refused_frames_total"))
    found = collector.scrape()
    assert found["kwire_refused_frames_total"] == {(): 1}
    assert found["kwire_sessions_total"] == {(): 1}
    for one in (refused, broken):
        one.wire.socket.close()
    collector.end()


def test_connections_after_the_first_are_counted(
    start: Callable[..., Served], load: subprocess.Popen[str], tmp_path: Path
) -> None:
    """A collector is killed, and another one goes on with its session; what waits meanwhile is told."""
    listen = ("collect", "--listen", "unix:c", "-w", "captures")
    first = start(*listen)
    agent = start("agent", "--to", "unix:c", PROBE, "-p", str(load.pid))
    until(lambda: agent.value("kwire_connected"))
    first.process.kill()
    first.process.wait()
    call(load)
    until(lambda: agent.value("kwire_events_total") == CALLS)
    until(lambda: agent.value("kwire_connected") == 0)
    found = agent.scrape()
    assert found["kwire_queue_payloads"][()] > 0
    assert found["kwire_lag_seconds"][()] > 0
    until(lambda: agent.scrape()["kwire_connect_failures_total"]["unreachable",])
    second = start(*listen)
    until(lambda: agent.value("kwire_lag_seconds") == 0)
    found = agent.scrape()
    assert (found["kwire_reconnects_total"], found["kwire_sessions_total"]) == ({(): 1}, {(): 1})
    assert second.value("kwire_reconnects_total") == 1
    assert agent.end() == 0
    until(lambda: second.value("kwire_sessions") == 0)
    assert second.value("kwire_events_total") == CALLS
    assert second.end() == 0


# ---------------------------------------------------------------------- over OTLP

MOVING = {
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
    "process_open_fds",
}
EXPORT = ("--otlp-interval", "1")


@pytest.fixture
def receivers() -> Iterator[Callable[[], Receiver]]:
    begun: list[Receiver] = []

    def begin() -> Receiver:
        begun.append(Receiver())
        return begun[-1]

    yield begin
    for one in begun:
        one.close()


def still(found: Samples) -> Samples:
    """What does not move by itself."""
    return {key: value for key, value in found.items() if key[0] not in MOVING}


def agreed(served: Served, receiver: Receiver) -> Samples:
    """What both tell, when nothing moves: an export made between two pages that are the same."""
    found: list[Samples] = []

    def look() -> bool:
        before, seen = page(served.page()), len(receiver.requests)
        until(lambda: len(receiver.requests) >= seen + 2)  # the first may have been gathered before
        sent = samples(receiver.requests[seen + 1])
        found[:] = [before, sent]
        return still(page(served.page())) == still(before)

    until(look)
    before, sent = found
    assert before.keys() == sent.keys()
    assert still(before) == still(sent)
    return sent


def value(found: Samples, name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


def names_of(found: Samples) -> set[str]:
    return {name for name, _ in found}


def test_what_is_sent_over_otlp_is_what_prometheus_and_verify_see(
    start: Callable[..., Served],
    load: subprocess.Popen[str],
    receivers: Callable[[], Receiver],
    tmp_path: Path,
) -> None:
    """Of an agent, which is confined by then, and its collector; a script's maps too."""
    (tmp_path / "s.bt").write_text(SCRIPT.replace("@calls", 'printf("%d", pid); @calls'))
    (tmp_path / "m.toml").write_text(FILE)
    address = f"unix:{tmp_path}/collector"
    ours, theirs = receivers(), receivers()
    collector = start("collect", "--listen", address, "-w", "captures", "--otlp", theirs.url, *EXPORT)
    script = ["--metrics-maps", "m.toml", "s.bt", str(load.pid)]
    agent = start("agent", "--to", address, "--otlp", ours.url, *EXPORT, *script)
    until(lambda: agent.value("kwire_connected"))
    call(load, 1234)
    sent = agreed(agent, ours)
    assert names_of(sent) >= names(table.AGENT)
    assert value(sent, "getppid_ids_count") == 1234
    assert value(sent, "getppid_ids_sum") == 1234 * load.pid
    assert (
        value(sent, "getppid_calls_total", command=Path(f"/proc/{load.pid}/comm").read_text().strip()) == 1234
    )
    assert value(sent, "process_cpu_seconds_total") > 0  # confined, it still sees itself
    about = ours.about()
    assert about["service.name"] == "kwire-agent"
    assert value(sent, "kwire_build_info", version=about["service.version"]) == 1
    assert agent.end() == 0
    assert ours.named("kwire_ready") == {(): 0}  # the last export is that of the end
    assert ours.named("getppid_ids_count") == {(): 1234}
    until(lambda: collector.value("kwire_sessions") == 0)
    stored = agreed(collector, theirs)
    assert names_of(stored) >= names(table.COLLECT)
    assert collector.end() == 0
    told = verified(*(tmp_path / "captures").glob("*.pcapng"))
    assert value(stored, "kwire_events_total") == told["stored"] == value(sent, "kwire_events_total") == 1234
    assert theirs.paths == ours.paths == {"/v1/metrics"}


def test_a_listening_agent_and_a_recording_send_their_metrics(
    start: Callable[..., Served],
    load: subprocess.Popen[str],
    receivers: Callable[[], Receiver],
    tmp_path: Path,
) -> None:
    listening, recording = receivers(), receivers()
    agent = start("agent", "--listen", "unix:agent", PROBE, "--otlp", listening.url, *EXPORT)
    sent = agreed(agent, listening)
    assert names_of(sent) >= names(table.SERVER)
    assert agent.end() == 0
    arguments = [PROBE, "-p", str(load.pid), "-w", "a.pcapng", "--otlp", f"{recording.url}/own/path", *EXPORT]
    record = start("record", *arguments)
    call(load)
    sent = agreed(record, recording)
    assert names_of(sent) >= names(table.RECORD)
    assert record.end() in (0, 3)
    told = verified(tmp_path / "a.pcapng")
    assert value(sent, "kwire_events_total") == told["stored"]
    assert value(sent, "kwire_probe_events_total", probe=PROBE) == told["produced"] == CALLS
    assert recording.paths == {"/own/path"}


def test_an_agent_that_is_nobody_sends_over_tls_with_certificates_that_only_root_reads(
    start: Callable[..., Served], load: subprocess.Popen[str], certs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The endpoint asks for a certificate as well."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certs / "ca.pem")
    context.load_cert_chain(certs / "collector" / "cert.pem", certs / "collector" / "key.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    for name, file in (("CERTIFICATE", "ca"), ("CLIENT_CERTIFICATE", "cert"), ("CLIENT_KEY", "key")):
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}", str(certs / "agent" / f"{file}.pem"))
    receiver = Receiver(context=context)
    try:
        agent = start(
            "agent", "--to", "unix:nobody", PROBE, "-p", str(load.pid), "--otlp", receiver.url, *EXPORT
        )
        until(lambda: len(receiver.requests) >= 2 or "send metrics" in agent.errors, lambda: agent.errors)
        assert "send metrics" not in agent.errors
        [uid] = {int(word) for word in uids(agent.process.pid)}
        assert uid != 0
        agent.end()
    finally:
        receiver.close()
    assert receiver.named("kwire_ready") == {(): 0}  # the last, of the end


def uids(pid: int) -> list[str]:
    """Its user ids: real, effective, saved, of files."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1:] for line in lines if line.startswith("Uid:"))


@pytest.mark.parametrize("bad", ["stuck", "drip", "garbage", "500", "nobody"])
def test_a_bad_endpoint_does_not_disturb_a_recording(
    bad: str, receivers: Callable[[], Receiver], tmp_path: Path
) -> None:
    """Of one that is as short as a recording can be: all is stored, one line is told, and it ends."""
    receiver = receivers()
    receiver.bad = bad
    url = "http://127.0.0.1:9" if bad == "nobody" else receiver.url
    command = f"{sys.executable} -c 'import os\nfor _ in range({CALLS}): os.getppid()'"
    run = subprocess.run(
        [*KWIRE, "record", PROBE, "-c", command, "-w", "a.pcapng", "--otlp", url, *EXPORT],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    told = [line for line in run.stderr.splitlines() if "send metrics" in line]
    assert 1 <= len(told) <= 2, run.stderr  # what is tried again, and the end
    assert all(f"send metrics to {url}/v1/metrics: " in line for line in told)
    assert told[-1].endswith("(what it was sent last is gone)")
    found = verified(tmp_path / "a.pcapng")
    assert (found["stored"], found["lost"], found["complete"]) == (CALLS, 0, True)


# ---------------------------------------------------------------------- Prometheus itself

PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")


class Prometheus:
    """A server of Debian's package that scrapes these, by name, each second."""

    def __init__(self, folder: Path, scraped: dict[str, Served]) -> None:
        assert PROMETHEUS is not None
        jobs = [
            {"job_name": name, "static_configs": [{"targets": [one.url.removeprefix("http://")]}]}
            for name, one in scraped.items()
        ]
        folder.mkdir()
        config = folder / "prometheus.yml"  # JSON is YAML too
        config.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}))
        [port] = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        self._log = folder / "log"
        with self._log.open("wb") as log:
            address = f"--web.listen-address=127.0.0.1:{port}"
            command = [PROMETHEUS, f"--config.file={config}", f"--storage.tsdb.path={folder}/data", address]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def asked(self, query: str) -> list[dict[str, Any]]:
        """What it answers to a query now; nothing where it does not answer yet."""
        assert self.process.poll() is None, self._log.read_text()
        url = f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
                found = json.load(answer)["data"]["result"]
        except urllib.error.URLError:
            return []
        assert isinstance(found, list)
        return found

    def stored(self, job: str) -> Samples:
        """The newest samples of a job, without what Prometheus adds."""
        found: Samples = {}
        for one in self.asked(f'{{job="{job}"}}'):
            labels = {name: value for name, value in one["metric"].items() if name not in ("job", "instance")}
            name = labels.pop("__name__")
            if name != "up" and not name.startswith("scrape_"):
                found[name, labelled(labels)] = float(one["value"][1])
        return found


def stored_as_served(prometheus: Prometheus, job: str, served: Served) -> None:
    """Wait until what it stores is what we get; we do not ask so often that it would be refused."""

    def differing() -> str:
        found = still(prometheus.stored(job)).items() ^ still(page(served.page())).items()
        return str(found) if found else ""

    until(lambda: not differing(), differing, lambda: time.sleep(0.5))


@pytest.mark.skipif(None in (PROMETHEUS, PROMTOOL), reason="prometheus is not installed")
def test_prometheus_stores_what_is_served(
    start: Callable[..., Served], load: subprocess.Popen[str], tmp_path: Path
) -> None:
    """promtool finds nothing to say of a page either."""
    (tmp_path / "s.bt").write_text(SCRIPT)
    (tmp_path / "m.toml").write_text(FILE)
    collector = start("collect", "--listen", "unix:c", "-w", "captures")
    script = ["--metrics-maps", "m.toml", "s.bt", str(load.pid)]
    scraped = {
        "collect": collector,
        "agent": start("agent", "--to", "unix:c", *script),
        "listening": start("agent", "--listen", "unix:d", PROBE),
        "record": start("record", PROBE, "-p", str(load.pid), "-w", "a.pcapng"),
    }
    until(lambda: scraped["agent"].value("kwire_connected"))
    call(load)
    assert PROMTOOL is not None
    for name, one in scraped.items():
        run = subprocess.run([PROMTOOL, "check", "metrics"], input=one.page(), capture_output=True, text=True)
        assert (run.returncode, run.stdout, run.stderr) == (0, "", ""), name
    prometheus = Prometheus(tmp_path / "prometheus", scraped)
    try:
        for name, one in scraped.items():
            stored_as_served(prometheus, name, one)
        up = {one["metric"]["job"]: one["value"][1] for one in prometheus.asked("up")}
        assert up == dict.fromkeys(scraped, "1")
        [events] = prometheus.asked('kwire_events_total{job="record"} + on() sum(kwire_lost_events_total)')
        assert float(events["value"][1]) == CALLS
        [calls] = prometheus.asked("sum(getppid_calls_total)")
        assert float(calls["value"][1]) == CALLS
    finally:
        prometheus.process.kill()
        prometheus.process.wait()
    for one in reversed(scraped.values()):
        assert one.end() in (0, 3)
