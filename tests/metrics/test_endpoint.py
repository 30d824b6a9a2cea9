"""Who serves metrics: what is asked and answered, and that nobody who asks can hold up the loop."""

from __future__ import annotations

import itertools
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from said import Said
from waiting import until

from kwire.errors import KwireError
from kwire.metrics import endpoint as served
from kwire.metrics import table
from kwire.metrics.endpoint import Endpoint, metrics_address
from kwire.metrics.exposition import Exposition
from kwire.metrics.gathering import Gathering, Source
from kwire.metrics.table import Sample
from kwire.transport.loop import Loop

ROOT = Path(__file__).resolve().parents[2]


class Site:
    """An endpoint in a loop, and clients of it."""

    def __init__(self, address: str = "127.0.0.1:0") -> None:
        self.loop = Loop()
        self.samples: list[Sample] = [Sample("kwire_events_total", 3)]
        self.steps = 0
        self.trouble = ""
        self.sockets: list[socket.socket] = []
        exposition = Exposition(Gathering(table.RECORD, self.source, lambda: self.trouble, "9.9"))
        self.endpoint = Endpoint(self.loop, metrics_address(address))
        self.endpoint.serve(exposition)

    def source(self) -> Iterator[Sample]:
        for sample in self.samples:
            self.steps += 1
            yield sample

    def connect(self, host: str = "127.0.0.1") -> socket.socket:
        where = self.endpoint.address
        if where.kind == "unix":
            client = socket.socket(socket.AF_UNIX)
            client.connect(where.path)
        else:
            client = socket.create_connection(("127.0.0.1", where.port), source_address=(host, 0))
        client.setblocking(False)
        self.sockets.append(client)
        return client

    def until(self, condition: Callable[[], object]) -> None:
        until(condition, turn=lambda: self.loop.turn(0.02))

    def read(self, client: socket.socket) -> bytes:
        """All that comes until the other side ends."""
        heard = bytearray()

        def whole() -> bool:
            try:
                data = client.recv(1 << 16)
            except BlockingIOError:
                return False
            except ConnectionResetError:
                return True
            heard.extend(data)
            return not data

        self.until(whole)
        client.close()
        return bytes(heard)

    def ask(self, request: bytes = b"GET /metrics HTTP/1.1\r\n\r\n", host: str = "127.0.0.1") -> bytes:
        client = self.connect(host)
        client.sendall(request)
        return self.read(client)

    def metrics(self) -> dict[str, dict[tuple[str, ...], float]]:
        """A scrape, as the library reads it."""
        head, _, body = self.ask().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK")
        return parsed(body.decode())


def parsed(text: str) -> dict[str, dict[tuple[str, ...], float]]:
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    for one in site.sockets:
        one.close()
    site.endpoint.close()
    site.loop.close()


def test_a_scrape_is_what_the_table_says(site: Site) -> None:
    site.samples += [Sample("kwire_lost_events_total", 2, ("ring_full",))]
    found = site.metrics()
    assert found["kwire_events_total"] == {(): 3}
    assert found["kwire_build_info"] == {("9.9",): 1}
    lost = found["kwire_lost_events_total"]
    assert (lost["ring_full",], lost["sender_full",]) == (2, 0)
    assert len(lost) == len(table.BY_NAME["kwire_lost_events_total"].values)
    assert {"process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"} <= set(found)
    assert set(found) <= {one.name for one in table.METRICS if table.RECORD in one.of}


def test_counters_never_fall_and_gauges_may(site: Site) -> None:
    site.samples = [Sample("kwire_events_total", 10), Sample("kwire_probes", 10)]
    site.metrics()
    site.samples = [Sample("kwire_events_total", 4), Sample("kwire_probes", 4)]
    found = site.metrics()
    assert (found["kwire_events_total"], found["kwire_probes"]) == ({(): 10}, {(): 4})


ANSWERS = {
    b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n": (b"200 OK", b"ok\n"),
    b"GET /readyz HTTP/1.0\r\n\r\n": (b"200 OK", b"ready\n"),
    b"GET /readyz?verbose HTTP/1.0\r\n\r\n": (b"200 OK", b"ready\n"),
    b"HEAD /healthz HTTP/1.1\r\n\r\n": (b"200 OK", b""),
    b"GET / HTTP/1.1\r\n\r\n": (b"404 Not Found", b"there are /metrics, /healthz and /readyz\n"),
    b"POST /metrics HTTP/1.1\r\n\r\n": (b"405 Method Not Allowed", b"there is only GET\n"),
    b"\x16\x03\x01\x02\x00\r\n\r\n": (b"400 Bad Request", b"this is HTTP: GET /metrics\n"),
    b"GET /" + b"a" * 5000: (b"400 Bad Request", b"this is HTTP: GET /metrics\n"),
    b"GET /metrics\r\n\r\n": (b"400 Bad Request", b"this is HTTP: GET /metrics\n"),
}


@pytest.mark.parametrize("request_", ANSWERS, ids=lambda one: one[:20].decode("latin-1").strip())
def test_each_request_has_its_answer(site: Site, request_: bytes) -> None:
    status, body = ANSWERS[request_]
    head, _, found = site.ask(request_).partition(b"\r\n\r\n")
    assert (head.split(b"\r\n")[0], found) == (b"HTTP/1.1 " + status, body)
    assert b"Connection: close" in head


def test_ready_says_why_not(site: Site) -> None:
    site.trouble = "the disk is full"
    assert site.ask(b"GET /readyz HTTP/1.1\r\n\r\n").endswith(b"\r\n\r\nthe disk is full\n")
    assert site.ask(b"GET /readyz HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 503 ")
    assert site.metrics()["kwire_ready"] == {(): 0}


def test_a_request_may_come_in_pieces(site: Site) -> None:
    client = site.connect()
    for byte in b"GET /healthz HTTP/1.1\r\n\r\n":
        client.send(bytes([byte]))
        site.loop.turn(0)
    assert site.read(client).startswith(b"HTTP/1.1 200")


def test_who_is_slow_is_dropped(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "PATIENCE", 0.05)
    slow = site.connect()
    slow.send(b"GET /me")
    assert site.read(slow) == b""
    deaf = site.connect()  # it never reads the answer, nor closes
    deaf.send(b"GET /healthz HTTP/1.1\r\n\r\n")
    site.until(lambda: site.endpoint._clients)
    site.until(lambda: not site.endpoint._clients)


def test_one_address_cannot_take_the_place_of_all(site: Site) -> None:
    many = [site.connect() for _ in range(2 * served.MOST)]
    site.until(lambda: len(site.endpoint._clients) == served.MOST)
    assert site.ask(b"GET /healthz HTTP/1.1\r\n\r\n", host="127.0.0.2").startswith(b"HTTP/1.1 200")
    assert len(site.endpoint._clients) <= served.MOST
    assert len(many) > served.MOST


def test_scrapes_a_second_are_bounded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.5
    monkeypatch.setattr(Loop, "now", lambda self: now)
    may = site.endpoint._may_scrape
    assert [may("a") for _ in range(served.EACH_A_SECOND + 2)] == [True] * served.EACH_A_SECOND + [False] * 2
    others = [may(str(host)) for host in range(served.A_SECOND)]
    assert all(others)  # the first of each
    assert not may("0")  # the second, when all have had enough
    now += 1
    assert may("a")


def test_who_asks_too_often_is_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "EACH_A_SECOND", 0)
    head, _, body = site.ask().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 429 Too Many Requests")
    assert b"Retry-After: 1" in head
    assert (body, site.steps) == (b"too many scrapes\n", 0)


def test_others_have_their_turns_within_a_scrape(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "SLICE", 0.0)
    site.samples = [Sample("kwire_probe_events_total", 1, (f"probe {at}",)) for at in range(2000)]
    seen: list[int] = []

    def turn() -> None:
        if not seen or seen[-1] != site.steps:
            seen.append(site.steps)
        site.loop.soon(turn)

    site.loop.soon(turn)
    assert len(site.metrics()["kwire_probe_events_total"]) == 2000
    assert len(seen) >= 2000 // 64  # in none of these turns more than a piece was made
    assert max(after - before for before, after in itertools.pairwise(seen)) <= 64


def test_who_leaves_in_the_middle_stops_the_scrape(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "SLICE", 0.0)
    site.samples = [Sample("kwire_probe_events_total", 1, (f"probe {at}",)) for at in range(2000)]
    client = site.connect()
    client.send(b"GET /metrics HTTP/1.1\r\n\r\n")
    site.until(lambda: site.steps > 64)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()  # with a reset
    site.until(lambda: not site.endpoint._scrapes)
    assert site.steps < 2000
    assert site.ask(b"GET /healthz HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 200")


def test_a_source_that_fails_ends_its_scrape_alone(site: Site) -> None:
    said = Said()
    site.loop.report = said
    site.samples = [Sample("kwire_no_such_metric", 1)]
    assert site.ask() == b""
    assert "metrics: failed: KeyError" in said[0]
    site.samples = []
    assert site.metrics()["kwire_ready"] == {(): 1}


def test_a_unix_socket(tmp_path: Path) -> None:
    site = Site(f"unix:{tmp_path}/metrics")
    assert site.metrics()["kwire_events_total"] == {(): 3}
    assert site.endpoint.url == f"unix:{tmp_path}/metrics"
    for one in site.sockets:
        one.close()
    site.endpoint.close()
    site.loop.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "cause"),
    [("udp:localhost:1", "not served over udp"), ("tls:localhost", "over tls"), ("9100", "no host")],
)
def test_addresses_that_are_refused(text: str, cause: str) -> None:
    with pytest.raises(KwireError, match=cause):
        metrics_address(text)


def test_the_port_has_a_default() -> None:
    assert metrics_address("localhost").port == served.PORT
    assert str(metrics_address(":9100")) == "tcp::9100"


def test_a_port_that_is_taken_is_one_clear_error(site: Site) -> None:
    with pytest.raises(KwireError, match="something listens there already"):
        Site(f"127.0.0.1:{site.endpoint.address.port}")


def test_without_the_library_the_cure_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    source: Source = lambda: iter(())  # noqa: E731
    with pytest.raises(KwireError, match=r"prometheus-client is not installed.*kwire\[metrics\]"):
        Exposition(Gathering(table.RECORD, source, lambda: "", "1"))


def test_names_follow_the_conventions() -> None:
    for metric in table.METRICS:
        assert metric.name.startswith(("kwire_", "process_"))
        assert metric.name.endswith("_total") == (metric.kind == table.COUNTER), metric.name
        assert metric.unit not in ("bytes", "seconds") or metric.unit in metric.name, metric.name
        assert not metric.help.endswith("."), metric.name
        assert not metric.values or len(metric.labels) == 1
    assert len(table.BY_NAME) == len(table.METRICS)


def test_the_document_is_the_table() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text()
    for call in (table.markdown, table.reasons):
        begin, end = f"<!-- table.{call.__name__}() -->\n", "\n<!-- end"
        assert text.partition(begin)[2].partition(end)[0].strip() == call().strip()


def test_reasons_are_those_that_are_counted() -> None:
    from kwire.transport import tls

    labels: set[Any] = {reason.label for reason in tls.REASONS.values()} | set(tls.CHECKS.values())
    assert labels | {"cut", "bad_certificate", "other"} <= set(table.HANDSHAKES)
