"""An OTLP endpoint over HTTP that decodes what comes by the official package, or behaves badly.

Samples of an export and of a page for Prometheus have one shape: by name and labels, histograms as the lines
that Prometheus has for them.
"""

from __future__ import annotations

import contextlib
import gzip
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import pytest
from prometheus_client.parser import text_string_to_metric_families

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

BAD: Final = ("stuck", "drip", "cut", "noise", "garbage", "endless", "partial", "302", "400", "500", "503")
"""What it can do but answer well: nothing until it is closed; a byte of the answer's head now and then until
then; close the connection; answer what is no HTTP, no OTLP, or does not end; reject a part; a status.
"""


def page(text: str) -> Samples:
    """The samples of a page for Prometheus."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name, labelled(sample.labels)] = sample.value
    return found


def labelled(labels: dict[str, str]) -> frozenset[tuple[str, str]]:
    """Labels of a sample, ends of buckets written in one way."""
    return frozenset((name, _bound(value) if name == "le" else value) for name, value in labels.items())


def samples(request: Any) -> Samples:
    """Those of an export."""
    found: Samples = {}

    def put(name: str, labels: dict[str, str], value: float) -> None:
        key = name, frozenset(labels.items())
        assert key not in found, key
        found[key] = value

    for metric in metrics(request):
        kind = metric.WhichOneof("data")
        for point in getattr(metric, kind).data_points:
            labels = {one.key: one.value.string_value for one in point.attributes}
            if kind != "histogram":
                value = point.as_double if point.HasField("as_double") else point.as_int
                put(metric.name, labels, value)
                continue
            assert len(point.bucket_counts) == (len(point.explicit_bounds) + 1 if point.bucket_counts else 0)
            below = 0
            for bound, count in zip(
                [*point.explicit_bounds, float("inf")], point.bucket_counts, strict=False
            ):
                below += count
                put(f"{metric.name}_bucket", labels | {"le": _bound(bound)}, below)
            put(f"{metric.name}_count", labels, point.count)
            if point.HasField("sum"):
                put(f"{metric.name}_sum", labels, point.sum)
    return found


def metrics(request: Any) -> list[Any]:
    """All metrics of an export."""
    return [
        metric
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    ]


def _bound(bound: str | float) -> str:
    return f"{float(bound):.15g}"


class Receiver:
    """An endpoint. `status`: what it answers; `bad`: one of BAD, what it does instead; at `port` (0: a free
    one); over TLS with `context`.
    """

    def __init__(self, port: int = 0, context: ssl.SSLContext | None = None) -> None:
        service: Any = pytest.importorskip("opentelemetry.proto.collector.metrics.v1.metrics_service_pb2")
        self.bad = ""
        self.requests: list[Any] = []
        self.heard = 0
        self.paths: set[str] = set()
        self._end = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                if receiver._end.is_set():  # a connection that was kept: it ends with the others
                    self.close_connection = True
                    return
                receiver.heard += 1
                receiver.paths.add(self.path)
                if receiver.bad:
                    self.close_connection = True
                    with contextlib.suppress(OSError):  # the other side has had enough
                        self.misbehave(receiver.bad)
                    return
                receiver.requests.append(service.ExportMetricsServiceRequest.FromString(body))
                self.answer(200, service.ExportMetricsServiceResponse().SerializeToString())

            def answer(self, status: int, body: bytes = b"") -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def misbehave(self, how: str) -> None:
                if how == "stuck":
                    receiver._end.wait()
                elif how == "drip":
                    self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
                    while not receiver._end.wait(0.05):
                        self.wfile.write(b".")
                elif how == "noise":
                    self.wfile.write(bytes(range(256)))
                elif how == "garbage":
                    self.answer(200, b"<html>\xff\xff")
                elif how == "endless":
                    self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
                    while True:
                        self.wfile.write(bytes(4096))
                elif how == "partial":
                    answer = service.ExportMetricsServiceResponse()
                    answer.partial_success.rejected_data_points = 7
                    answer.partial_success.error_message = "too many"
                    self.answer(200, answer.SerializeToString())
                elif how == "302":
                    self.send_response(302)
                    self.send_header("Location", "http://127.0.0.1:9/")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                elif how.isdigit():
                    self.answer(int(how))

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass

        self._server = Server(("127.0.0.1", port), Handler)
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.port = self._server.server_port
        self.url = f"http{'s' if context else ''}://127.0.0.1:{self.port}"

    def last(self) -> Samples:
        """What came last."""
        return samples(self.requests[-1])

    def named(self, name: str) -> dict[tuple[str, ...], float]:
        """The values of a metric that came last, by the values of its labels in the order of their names."""
        return {
            tuple(value for _, value in sorted(labels)): value
            for (one, labels), value in self.last().items()
            if one == name
        }

    def about(self) -> dict[str, str]:
        attributes = self.requests[-1].resource_metrics[0].resource.attributes
        return {one.key: one.value.string_value for one in attributes}

    def close(self) -> None:
        self._end.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
