"""Metrics sent over OTLP: a receiver in this process decodes what comes by the official package. That what it
gets is what Prometheus sees of running verbs is in test_served.py.
"""

from __future__ import annotations

import re
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from otlp_receiver import BAD, Receiver, metrics, page
from waiting import until

from kwire.errors import KwireError
from kwire.metrics import otlp, table
from kwire.metrics.exposition import Exposition
from kwire.metrics.gathering import Gathering
from kwire.metrics.otlp import Export, endpoint
from kwire.metrics.table import Buckets, Metric, Sample, Summed
from kwire.transport.loop import Loop

pytest.importorskip(
    "opentelemetry.exporter.otlp.proto.http", reason="opentelemetry-exporter-otlp-proto-http is not installed"
)

MAPS = (
    Metric("reads_total", table.COUNTER, "", "Reads", (), ("comm", "pid")),
    Metric("address", table.GAUGE, "", "Where", ()),
    Metric("latency_seconds", table.HISTOGRAM, "seconds", "How long", (), ("comm",)),
    Metric("steps", table.HISTOGRAM, "", "Steps, whose sum nobody knows", ()),
    Metric("sizes_bytes", table.SUMMARY, "bytes", "Sizes", ()),
)
MOVING = {
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
    "process_open_fds",
}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


class Sending:
    """An export of this process; `held`: what there is to tell."""

    def __init__(self, url: str, more: tuple[Metric, ...] = ()) -> None:
        self.loop = Loop()
        self.held = [Sample("kwire_events_total", 1.0)]
        self.said: list[str] = []
        self.export = Export(self.loop, url, 0.02, lambda text, event="note", /: self.said.append(text))
        self.gathering = Gathering(table.RECORD, lambda: iter(self.held), lambda: "", "9.9", more)
        self.export.begin(self.gathering, "kwire-test", "9.9")

    def until(self, condition: Callable[[], object]) -> None:
        until(condition, lambda: str(self.said), lambda: self.loop.turn(0.05))

    def turns(self, number: int) -> None:
        for _ in range(number):
            self.loop.turn(0.02)

    def close(self) -> None:
        self.export.close()
        self.loop.close()


# ---------------------------------------------------------------------- what is sent


def test_what_is_sent_is_what_a_page_has(receiver: Receiver) -> None:
    """Every kind of metric, value by value; what moves by itself is there."""
    sending = Sending(receiver.url, MAPS)
    sending.held += [
        Sample("kwire_lost_events_total", 2, ("ring_full",)),
        Sample("kwire_probe_events_total", 1 << 53, ('tracepoint:a:"b\\',)),
        Sample("reads_total", 3, ("cat", "1")),
        Sample("reads_total", 4, ("cat\n\N{SNOWMAN}", "2")),
        Sample("address", 0xFFFF_8880_0000_0000),
        Sample("latency_seconds", Buckets((("1e-06", 1), ("2e-06", 1), ("+Inf", 6)), 0.25), ("cat",)),
        Sample("latency_seconds", Buckets((("1e-06", 0), ("2e-06", 0), ("+Inf", 0)), 0), ("dog",)),
        Sample("steps", Buckets((("9", 2), ("19", 5), ("+Inf", 5)))),
        Sample("sizes_bytes", Summed(3, 60)),
    ]
    try:
        sending.until(lambda: receiver.requests)
    finally:
        sending.close()
    text = b"".join(Exposition(sending.gathering).render()).decode()
    seen, sent = page(text), receiver.last()
    assert seen.keys() == sent.keys()
    assert {key: seen[key] for key in seen if key[0] not in MOVING} == {
        key: sent[key] for key in sent if key[0] not in MOVING
    }
    for moving in MOVING:
        [(value,)] = [receiver.named(moving).values()]
        assert value > 0
    assert sending.said == []


def test_each_metric_has_its_kind_unit_and_text(receiver: Receiver) -> None:
    sending = Sending(receiver.url, MAPS)
    sending.held += [
        Sample(one.name, 1) for one in table.METRICS if table.RECORD in one.of and not one.labels
    ]
    sending.held += [
        Sample("reads_total", 3, ("cat", "1")),
        Sample("latency_seconds", Buckets((("1e-06", 1), ("+Inf", 6)), 0.25), ("cat",)),
        Sample("sizes_bytes", Summed(3, 60)),
    ]
    try:
        sending.until(lambda: receiver.requests)
    finally:
        sending.close()
    known = {one.name: one for one in sending.gathering.metrics}
    units = {"": "", "seconds": "s", "bytes": "By", "events": "{events}", "files": "{files}"}
    for told in metrics(receiver.requests[-1]):
        metric = known[told.name]
        kind = told.WhichOneof("data")
        assert kind == {table.COUNTER: "sum", table.GAUGE: "gauge"}.get(metric.kind, "histogram")
        assert told.unit == units[metric.unit], told.name
        assert told.description == f"{metric.help}."
        if kind != "gauge":
            assert getattr(told, kind).aggregation_temporality == 2  # cumulative
        if kind == "sum":
            assert told.sum.is_monotonic
    [summary] = [one for one in metrics(receiver.requests[-1]) if one.name == "sizes_bytes"]
    [point] = summary.histogram.data_points
    assert (point.count, point.sum, list(point.bucket_counts), list(point.explicit_bounds)) == (3, 60, [], [])
    assert not point.HasField("min")
    [scope] = receiver.requests[-1].resource_metrics[0].scope_metrics
    assert (scope.scope.name, scope.scope.version) == ("kwire", "9.9")


def test_who_tells_is_said_and_the_environment_goes_before(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=lab,host.name=web1")
    sending = Sending(receiver.url)
    try:
        sending.until(lambda: receiver.requests)
    finally:
        sending.close()
    about = receiver.about()
    assert about["service.name"] == "kwire-test"
    assert about["service.version"] == "9.9"
    assert about["host.name"] == "web1"
    assert about["deployment.environment.name"] == "lab"
    assert about["telemetry.sdk.language"] == "python"
    assert {"service.instance.id"} <= about.keys()


def points(request: Any, name: str) -> dict[tuple[str, ...], Any]:
    """The points of a metric by the values of its labels."""
    [metric] = [one for one in metrics(request) if one.name == name]
    return {
        tuple(one.value.string_value for one in point.attributes): point
        for point in getattr(metric, metric.WhichOneof("data")).data_points
    }


def test_a_series_says_since_when_it_counts(receiver: Receiver) -> None:
    """Since the process began; one that is new, or was cleared, since the last time that was told."""
    sending = Sending(receiver.url, MAPS)
    told: list[Any] = []

    def tell(*held: Sample) -> None:
        sending.held[1:] = held
        seen = len(receiver.requests) + 1  # what is on its way may be of before
        sending.until(lambda: len(receiver.requests) > seen)
        told.append(receiver.requests[-1])

    def latency(number: int) -> Sample:
        return Sample("latency_seconds", Buckets((("1", 1), ("+Inf", number)), 0.5), ("cat",))

    try:
        tell(Sample("reads_total", 5, ("cat", "1")), latency(6))
        tell(Sample("reads_total", 5, ("cat", "1")), Sample("reads_total", 9, ("dog", "2")), latency(7))
        tell(Sample("reads_total", 4, ("cat", "1")), Sample("reads_total", 9, ("dog", "2")), latency(2))
    finally:
        sending.close()
    first, second, third = (points(one, "reads_total") for one in told)
    began = int(sending.gathering.started or 0) * 10**9
    assert began <= points(told[0], "kwire_events_total")[()].start_time_unix_nano < began + 10**9
    cat, dog = ("cat", "1"), ("dog", "2")
    assert second[cat].start_time_unix_nano == first[cat].start_time_unix_nano
    assert first[cat].time_unix_nano <= second[dog].start_time_unix_nano <= second[dog].time_unix_nano
    assert third[dog].start_time_unix_nano == second[dog].start_time_unix_nano
    assert second[cat].time_unix_nano <= third[cat].start_time_unix_nano <= third[cat].time_unix_nano
    one, two, three = (points(request, "latency_seconds")[("cat",)] for request in told)
    assert two.start_time_unix_nano == one.start_time_unix_nano
    assert two.time_unix_nano <= three.start_time_unix_nano <= three.time_unix_nano


def test_what_is_told_of_kwire_never_falls(receiver: Receiver) -> None:
    sending = Sending(receiver.url)
    try:
        sending.held = [Sample("kwire_events_total", 5)]
        sending.until(lambda: receiver.requests)
        sending.held = [Sample("kwire_events_total", 3)]
    finally:
        sending.close()
    assert receiver.named("kwire_events_total") == {(): 5}


# ---------------------------------------------------------------------- what does not arrive

TOLD = {
    "stuck": "it does not answer",
    "drip": "it does not answer",
    "cut": "Remote end closed connection without response",
    "noise": ".*",
    "garbage": "what it answers is no OTLP",
    "endless": "it does not end its answer",
    "partial": "it rejects 7 data points: too many",
    "302": "it answers 302, a redirection",
    "400": "it answers 400 Bad Request",
    "500": "it answers 500 Internal Server Error",
    "503": "it answers 503 Service Unavailable",
}


@pytest.mark.parametrize("bad", BAD)
def test_what_does_not_arrive_is_told_once_and_comes_later(
    bad: str, receiver: Receiver, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop goes on, nothing is said twice, and the next export that arrives has all."""
    monkeypatch.setattr(otlp, "PATIENCE", 0.3 if bad in ("stuck", "drip") else 3.0)
    monkeypatch.setattr(otlp, "FAREWELL", 0.3)
    receiver.bad = bad
    sending = Sending(receiver.url)
    try:
        sending.until(lambda: sending.said)
        sending.turns(20)
        assert len(sending.said) == 1
        assert re.fullmatch(
            rf"send metrics to {receiver.url}/v1/metrics: {TOLD[bad]} \(trying again\)",
            sending.said[0],
            re.DOTALL,
        )
        receiver.bad = ""
        sending.held = [Sample("kwire_events_total", 5.0)]
        if bad not in ("stuck", "drip"):  # these hold on to the connection that they have
            sending.until(lambda: receiver.requests and receiver.named("kwire_events_total") == {(): 5})
    finally:
        sending.close()
    assert capfd.readouterr().err == ""


def test_an_endpoint_that_dies_and_returns(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "PATIENCE", 3.0)
    sending = Sending(receiver.url)
    try:
        sending.until(lambda: receiver.requests)
        receiver.close()
        sending.until(lambda: any("Connection refused (trying again)" in one for one in sending.said))
        sending.held = [Sample("kwire_events_total", 7)]
        again = Receiver(receiver.port)
        try:
            sending.until(lambda: again.requests and again.named("kwire_events_total") == {(): 7})
        finally:
            again.close()
    finally:
        sending.close()


def test_nobody_there(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "PATIENCE", 3.0)
    sending = Sending("http://127.0.0.1:9")
    try:
        sending.until(lambda: sending.said)
    finally:
        sending.close()
    assert (
        sending.said[0] == "send metrics to http://127.0.0.1:9/v1/metrics: Connection refused (trying again)"
    )
    assert capfd.readouterr().err == ""


def test_an_endpoint_that_never_answers_does_not_hold_the_end_up(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otlp, "FAREWELL", 0.3)
    receiver.bad = "stuck"
    sending = Sending(receiver.url)
    try:
        sending.until(lambda: receiver.paths)
    finally:
        sending.close()
    where = f"{receiver.url}/v1/metrics"
    assert sending.said == [f"send metrics to {where}: it does not answer (what it was sent last is gone)"]


def test_a_source_that_fails_does_not_fail_the_end(receiver: Receiver) -> None:
    sending = Sending(receiver.url)
    sending.loop.report = lambda text, event="note", /: sending.said.append(text)
    sending.until(lambda: receiver.requests)
    sending.held = [Sample("kwire_no_such_metric", 1)]
    sending.close()
    assert sending.loop.failures == 1


def test_no_password_is_told(receiver: Receiver) -> None:
    receiver.bad = "400"
    sending = Sending(receiver.url.replace("http://", "http://user:secret@"))
    try:
        sending.until(lambda: sending.said)
    finally:
        sending.close()
    assert sending.said[0].startswith(f"send metrics to {receiver.url}/v1/metrics: ")
    assert "secret" not in "".join(sending.said)


# ---------------------------------------------------------------------- over TLS


@pytest.fixture
def context(certs: Path) -> ssl.SSLContext:
    """That of an endpoint, which asks for a certificate of the same CA."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certs / "ca.pem")
    context.load_cert_chain(certs / "collector" / "cert.pem", certs / "collector" / "key.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def test_certificates_are_those_of_the_environment(
    certs: Path, context: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read before anything else: a process that is confined can read them no more."""
    for name, file in (("CERTIFICATE", "ca"), ("CLIENT_CERTIFICATE", "cert"), ("CLIENT_KEY", "key")):
        copy = tmp_path / f"{file}.pem"
        copy.write_bytes((certs / "agent" / f"{file}.pem").read_bytes())
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}", str(copy))
    receiver = Receiver(context=context)
    try:
        sending = Sending(receiver.url)
        for copy in tmp_path.iterdir():
            copy.unlink()
        try:
            sending.until(lambda: receiver.requests or sending.said)
        finally:
            sending.close()
    finally:
        receiver.close()
    assert sending.said == []
    assert receiver.named("kwire_events_total") == {(): 1}


def test_an_endpoint_of_another_ca_is_told(context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "PATIENCE", 3.0)
    receiver = Receiver(context=context)
    try:
        sending = Sending(receiver.url)
        try:
            sending.until(lambda: sending.said)
        finally:
            sending.close()
    finally:
        receiver.close()
    assert "certificate verify failed" in sending.said[0]
    assert receiver.requests == []


def test_a_certificate_that_cannot_be_read_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(tmp_path / "none.pem"))
    with pytest.raises(KwireError, match=r"read .*none.pem.*no such file"):
        Export(Loop(), "https://127.0.0.1:9", 1, lambda text, event="note", /: None)


# ---------------------------------------------------------------------- arguments


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
