"""Metrics sent over OTLP: a receiver in this process decodes what comes by the official package."""

from __future__ import annotations

import gzip
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from kwire.errors import KwireError
from kwire.metrics import table
from kwire.metrics.gathering import Gathering
from kwire.metrics.otlp import Export, endpoint
from kwire.metrics.table import Sample
from kwire.transport.loop import Loop

service = pytest.importorskip(
    "opentelemetry.proto.collector.metrics.v1.metrics_service_pb2",
    reason="opentelemetry-exporter-otlp-proto-http is not installed",
)

KWIRE = [sys.executable, "-m", "kwire.cli.main"]
PROBE = "tracepoint:syscalls:sys_enter_getppid"
CALLS = 20_000
LOAD = """
import os, sys
sys.stdin.readline()
for _ in range(int(sys.argv[1])):
    os.getppid()
sys.stdin.readline()
"""


class Receiver:
    """An OTLP endpoint. `status`: what it answers; `stuck`: it answers nothing until it is closed."""

    def __init__(self) -> None:
        self.status, self.stuck = 200, False
        self.requests: list[Any] = []
        self.paths: set[str] = set()
        self._free = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                if receiver.stuck:
                    receiver.paths.add(self.path)
                    receiver._free.wait()
                    return
                if receiver.status == 200:
                    receiver.requests.append(service.ExportMetricsServiceRequest.FromString(body))
                receiver.paths.add(self.path)
                self.send_response(receiver.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def last(self) -> dict[str, dict[tuple[str, ...], float]]:
        """The values that came last, by metric and the values of its labels."""
        found: dict[str, dict[tuple[str, ...], float]] = {}
        for resource in self.requests[-1].resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    kind = metric.WhichOneof("data")
                    assert kind == ("sum" if metric.name.endswith("_total") else "gauge")
                    if kind == "sum":
                        assert metric.sum.is_monotonic
                        assert metric.sum.aggregation_temporality == 2  # cumulative
                    for point in getattr(metric, kind).data_points:
                        labels = {one.key: one.value.string_value for one in point.attributes}
                        value = point.as_double if point.HasField("as_double") else point.as_int
                        key = tuple(labels[name] for name in table.BY_NAME[metric.name].labels)
                        found.setdefault(metric.name, {})[key] = value
        return found

    def about(self) -> dict[str, str]:
        attributes = self.requests[-1].resource_metrics[0].resource.attributes
        return {one.key: one.value.string_value for one in attributes}

    def close(self) -> None:
        self._free.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def names(verb: str) -> set[str]:
    return {metric.name for metric in table.METRICS if verb in metric.of}


@pytest.mark.live
@pytest.mark.native
def test_what_arrives_is_what_verify_says(receiver: Receiver, tmp_path: Path) -> None:
    """Of an agent, which is confined by then, and its collector; the last export is that of the end."""
    load = subprocess.Popen([sys.executable, "-c", LOAD, str(CALLS)], stdin=subprocess.PIPE, text=True)
    assert load.stdin
    other = Receiver()
    address = f"unix:{tmp_path}/collector"
    try:
        collector = subprocess.Popen(
            [*KWIRE, "collect", "--listen", address, "-w", "in", "--otlp", other.url, "--otlp-interval", "1"],
            cwd=tmp_path,
        )
        arguments = ["agent", "--to", address, PROBE, "-p", str(load.pid), "--otlp", receiver.url]
        agent = subprocess.Popen(
            [*KWIRE, *arguments, "--otlp-interval", "1", "--metrics", "127.0.0.1:0"],
            cwd=tmp_path,
        )
        until(lambda: receiver.requests)
        load.stdin.write("go\n")
        load.stdin.flush()
        until(lambda: receiver.last()["kwire_events_total"] == {(): CALLS})
        load.stdin.close()
        assert agent.wait(60) == 0
        until(lambda: other.last().get("kwire_events_total") == {(): CALLS})
        collector.send_signal(signal.SIGINT)
        assert collector.wait(60) == 0
    finally:
        for process in (load, agent, collector):
            process.kill()
            process.wait()
        other.close()
    found, stored = receiver.last(), other.last()
    run = subprocess.run(
        [*KWIRE, "verify", "--json", *map(str, (tmp_path / "in").glob("*.pcapng"))], capture_output=True
    )
    [told] = json.loads(run.stdout)["files"]
    assert found.keys() == names(table.AGENT)
    assert found["kwire_probe_events_total"] == {(PROBE,): told["produced"]}
    assert sum(found["kwire_lost_events_total"].values()) == told["lost"] == 0
    assert found["kwire_build_info"].keys() == {(receiver.about()["service.version"],)}
    assert receiver.about()["service.name"] == "kwire-agent"
    assert stored.keys() == names(table.COLLECT)
    assert stored["kwire_events_total"] == {(): told["stored"]}
    assert receiver.paths == {"/v1/metrics"}


@pytest.mark.live
@pytest.mark.native
def test_a_recording_sends_its_metrics(receiver: Receiver, tmp_path: Path) -> None:
    command = f"{sys.executable} -c 'import os\nfor _ in range({CALLS}): os.getppid()'"
    run = subprocess.run(
        [*KWIRE, "record", PROBE, "-c", command, "-w", "a.pcapng", "--otlp", f"{receiver.url}/own/path"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    found = receiver.last()
    assert found.keys() == names(table.RECORD)
    assert found["kwire_events_total"] == {(): CALLS}
    assert found["kwire_ready"] == {(): 0}  # it has ended
    assert receiver.paths == {"/own/path"}


class Sending:
    """An export of this process."""

    def __init__(self, url: str) -> None:
        self.loop, self.value = Loop(), 1.0
        self.said: list[str] = []
        self.export = Export(self.loop, url, 0.02, lambda text, event="note", /: self.said.append(text))
        gathering = Gathering(table.RECORD, self._samples, lambda: "", "9.9")
        self.export.begin(gathering, "kwire-test", "9.9")

    def _samples(self) -> Iterator[Sample]:
        yield Sample("kwire_events_total", self.value)

    def until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < end, "it did not happen in time"
            self.loop.turn(0.05)

    def close(self) -> None:
        self.export.close()
        self.loop.close()


def test_what_is_refused_is_told_once_and_comes_later(
    receiver: Receiver, capfd: pytest.CaptureFixture[str]
) -> None:
    receiver.status = 400
    sending = Sending(receiver.url)
    try:
        sending.until(lambda: sending.said)
        sending.value = 5.0
        for _ in range(20):
            sending.loop.turn(0.02)
        assert len(sending.said) == 1
        assert re.fullmatch(
            rf"send metrics to {receiver.url}/v1/metrics: .*400.* \(trying again\)", sending.said[0]
        )
        receiver.status = 200
        sending.until(lambda: receiver.requests)
        assert receiver.last()["kwire_events_total"] == {(): 5}
        sending.value = 3.0  # what is told never falls
    finally:
        sending.close()
    assert receiver.last()["kwire_events_total"] == {(): 5}
    assert capfd.readouterr().err == ""


def test_nobody_there(capfd: pytest.CaptureFixture[str]) -> None:
    sending = Sending("http://127.0.0.1:9")
    try:
        for _ in range(5):
            sending.loop.turn(0.02)
    finally:
        sending.close()
    assert any("127.0.0.1:9" in text for text in sending.said)
    assert capfd.readouterr().err == ""


def test_an_endpoint_that_never_answers_does_not_hold_the_end_up(receiver: Receiver) -> None:
    receiver.stuck = True
    sending = Sending(receiver.url)
    try:
        sending.until(lambda: receiver.paths)
    finally:
        sending.close()
    where = f"{receiver.url}/v1/metrics"
    assert sending.said == [f"send metrics to {where}: it does not answer (what it was sent last is gone)"]


def test_no_password_is_told(receiver: Receiver) -> None:
    receiver.status = 403
    sending = Sending(receiver.url.replace("http://", "http://user:secret@"))
    try:
        sending.until(lambda: sending.said)
    finally:
        sending.close()
    assert sending.said[0].startswith(f"send metrics to {receiver.url}/v1/metrics: ")
    assert "secret" not in "".join(sending.said)


@pytest.mark.parametrize(
    "url", ["collector:4318", "http://", "ftp://host", "http://host:0", "http://host:x", ""]
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(KwireError, match="it is no address of an OTLP endpoint; write http://HOST:4318"):
        endpoint(url)


@pytest.mark.parametrize(
    ("url", "whole"),
    [
        ("http://host:4318", "http://host:4318/v1/metrics"),
        ("https://host/", "https://host/v1/metrics"),
        ("http://host/otlp/v1/metrics", "http://host/otlp/v1/metrics"),
    ],
)
def test_where_no_path_is_written_it_is_that_of_metrics(url: str, whole: str) -> None:
    assert endpoint(url) == whole


def test_a_missing_library_is_named(tmp_path: Path) -> None:
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").write_text("raise ImportError(name='opentelemetry')")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from kwire.cli.main import main\n"
        "sys.exit(main(['agent', '--check', '--to', 'tcp:localhost', 'begin', '--otlp', 'http://host']))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr == ("kwire: send metrics: opentelemetry is not installed; pip install 'kwire[otlp]'\n")
