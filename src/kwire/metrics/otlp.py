"""Metrics sent to an OpenTelemetry collector, by the official SDK: OTLP over HTTP, every so many seconds.

Invariants: what is sent is what Prometheus would see, maps of scripts too, gathered in the loop's thread in
short steps; what waits for the network is a thread of its own, which begins with the loop's first turn, so
after the process is confined; what it needs of files (certificates) is read before. It never holds the end up
for more than `FAREWELL` seconds. An answer is read up to `LONGEST` bytes, and only what OTLP calls a success
is one. What does not arrive is told at a bounded rate, and the next interval tells all, as counters are sums
since the beginning. The SDK (extra `kwire[otlp]`) is imported here and in `kwire.metrics.datapoints`.
"""

import contextlib
import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from kwire.errors import KwireError
from kwire.metrics.gathering import Gathered, Gathering
from kwire.transport.log_events import Log
from kwire.transport.loop import Loop, Timer
from kwire.transport.rate_limited_log import Recurring

if TYPE_CHECKING:
    from requests import PreparedRequest, Response

LEAST: Final = 1.0
"""Seconds between two exports at least."""

FAREWELL: Final = 3.0
"""Seconds that the last export may take, when the process ends."""

PATIENCE: Final = 10.0
"""Seconds that an export may take, with what is tried again at once."""

SLICE: Final = 0.002
"""Seconds of one step of gathering."""

PATH: Final = "/v1/metrics"

LONGEST: Final = 65_536
"""Bytes of an answer."""


def check_library() -> None:
    """Raise KwireError where the SDK or its exporter is missing."""
    try:
        import opentelemetry.exporter.otlp.proto.http.metric_exporter
        import opentelemetry.sdk.metrics  # noqa: F401
    except ImportError as error:
        cause = f"{error.name or 'opentelemetry-sdk'} is not installed"
        raise KwireError("send", "metrics", cause, "pip install 'kwire[otlp]'") from None


def endpoint(url: str) -> str:
    """The whole address of an endpoint: where no path is written, that of metrics. Raises KwireError."""
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        sound = False
    if not sound:
        cure = "write http://HOST:4318 or https://HOST:4318"
        raise KwireError("read address", ascii(url), "it is no address of an OTLP endpoint", cure)
    return url.rstrip("/") + PATH if parts.path in ("", "/") else url


class Export:
    """Sends what `begin` is given to `url` every `interval` seconds, and at the end. Raises KwireError where
    the SDK is missing, `url` is no address, or a certificate cannot be read.
    """

    def __init__(self, loop: Loop, url: str, interval: float, say: Log) -> None:
        check_library()
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.sdk.metrics.export import MetricExportResult

        from kwire.metrics import datapoints

        self.url = endpoint(url)
        self._loop, self._interval = loop, interval
        self._heard = _Heard()
        self._session = _session(_certificates(self.url))
        self._exporter = OTLPMetricExporter(endpoint=self.url, timeout=PATIENCE, session=self._session)
        self._good = MetricExportResult.SUCCESS
        self._datapoints = datapoints
        self._troubles = Recurring(loop.now, say)
        self._gathering: Gathering | None = None
        self._points: datapoints.DataPoints | None = None
        self._steps: Iterator[Gathered | None] | None = None
        self._timer: Timer | None = None
        self._thread: threading.Thread | None = None
        self._work: queue.SimpleQueue[tuple[int, Gathered] | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[str] = queue.SimpleQueue()  # "": it arrived
        self._busy: float | None = None  # with what was handed to the thread, since when
        parts = urlsplit(self.url)
        self._shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()  # without a password
        with contextlib.suppress(OSError):  # what answers is loaded now
            socket.getaddrinfo(parts.hostname, parts.port)

    def begin(self, gathering: Gathering, service: str, version: str) -> None:
        """Send from the loop's next turn on. `service`: what the process is called there."""
        about = self._datapoints.resource(service, version)
        begun = int((gathering.started or time.time()) * 1e9)
        self._points = self._datapoints.DataPoints(gathering.metrics, about, version, begun)
        self._gathering = gathering
        self._timer = self._loop.at(self._loop.now(), self._turn)

    def close(self) -> None:
        """Send the last of it, and no more."""
        self._loop.cancel(self._timer)
        if self._gathering is None or self._thread is None:
            self._heard.close()
            return
        try:
            for found in self._gathering.steps():
                if found is not None:
                    self._work.put((time.time_ns(), found))
        except Exception as error:
            self._loop.contain(error, "metrics")
        self._work.put(None)
        self._thread.join(FAREWELL)
        if self._thread.is_alive():
            self._results.put("it does not answer")
        self._tell("what it was sent last is gone")
        self._exporter.shutdown()
        self._heard.close()

    # ------------------------------------------------------------------ the loop's thread

    def _turn(self) -> None:
        """Gather, unless the last is still on its way."""
        self._timer = self._loop.at(self._loop.now() + self._interval, self._turn)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="otlp", daemon=True)
            self._thread.start()
        self._tell()
        if self._busy is not None:
            if self._loop.now() - self._busy > 2 * PATIENCE:  # with a byte now and then it can last for ever
                self._trouble(self._session.why or "it does not answer", "trying again")
        elif self._gathering is not None and self._steps is None:
            self._steps = self._gathering.steps()
            self._step()

    def _step(self) -> None:
        end = self._loop.now() + SLICE
        assert self._steps is not None
        try:
            for found in self._steps:
                if found is not None:
                    self._busy = self._loop.now()
                    self._work.put((time.time_ns(), found))
                    break
                if self._loop.now() >= end:
                    self._loop.soon(self._step)
                    return
        except Exception as error:
            self._loop.contain(error, "metrics")
        self._steps = None

    def _tell(self, then: str = "trying again") -> None:
        """Say what came of what was sent; `then`: what follows where it did not arrive."""
        while not self._results.empty():
            why = self._results.get()
            self._busy = None
            if why:
                self._trouble(why, then)
            else:
                self._troubles.over()

    def _trouble(self, why: str, then: str) -> None:
        self._troubles.say(f"send metrics to {self._shown}: {why} ({then})", "unreachable")

    # ------------------------------------------------------------------ the SDK's thread

    def _run(self) -> None:
        assert self._points is not None  # `begin` was called
        while (work := self._work.get()) is not None:
            now, found = work
            self._heard.last = self._session.why = ""
            try:
                good = self._exporter.export(self._points.made(found, now)) is self._good
                why = "" if good else self._session.why or self._heard.last or "it is refused"
            except Exception as error:  # the SDK's, or the network's
                why = self._session.why or f"{type(error).__name__}: {error}"
            self._results.put(why[:300])


def _certificates(url: str) -> dict[str, Any]:
    """What requests is told of TLS: copies in memory of the files that the SDK's variables name, or of the
    CAs that requests comes with, as a process that is confined may read none of them. Raises KwireError.
    """
    if urlsplit(url).scheme != "https":
        return {}
    from requests.utils import DEFAULT_CA_BUNDLE_PATH

    def named(what: str) -> str:
        names = (f"OTEL_EXPORTER_OTLP_METRICS_{what}", f"OTEL_EXPORTER_OTLP_{what}")
        return next(filter(None, map(os.environ.get, names)), "")

    bundles = next(filter(None, map(os.environ.get, ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"))), "")
    told: dict[str, Any] = {"verify": _in_memory(named("CERTIFICATE") or bundles or DEFAULT_CA_BUNDLE_PATH)}
    if cert := named("CLIENT_CERTIFICATE"):
        key = named("CLIENT_KEY")
        told["cert"] = (_in_memory(cert), _in_memory(key)) if key else _in_memory(cert)
    return told


def _in_memory(path: str) -> str:
    """Where a copy of this file can be read for as long as the process lives."""
    try:
        with open(path, "rb") as file:
            copy = os.memfd_create("kwire-otlp", os.MFD_CLOEXEC)
            with open(copy, "wb", closefd=False) as written:
                written.write(file.read())
    except OSError as error:
        cure = "see the SDK's variables OTEL_EXPORTER_OTLP_…"
        raise KwireError("read", ascii(path), str(error.strerror).lower(), cure) from error
    return f"/proc/self/fd/{copy}"


def _session(certificates: dict[str, Any]) -> Any:
    """What the exporter connects with: it knows why something did not arrive, and what a success is."""
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
    from requests import RequestException, Session
    from requests.exceptions import SSLError, Timeout

    bounded = {"stream": True, "allow_redirects": False}

    class Connection(Session):
        """`why`: what went wrong at the last time; empty where nothing did."""

        why = ""

        def send(self, request: "PreparedRequest", **kwargs: Any) -> "Response":
            """Send, and look at the answer. Raises RequestException."""
            end = time.monotonic() + PATIENCE
            try:
                answer = super().send(request, **(kwargs | certificates | bounded))
                self.why = "" if answer.ok else f"it answers {answer.status_code} {answer.reason}"
                body = bytearray()
                with answer:
                    for byte in answer.iter_content(1):
                        body += byte
                        if len(body) > LONGEST or time.monotonic() > end:
                            raise RequestException("it does not end its answer")
            except SSLError as error:
                self.why = str(_first(error) or error)
                raise
            except Timeout:
                self.why = "it does not answer"
                raise
            except RequestException as error:
                found = _first(error)
                self.why = (isinstance(found, OSError) and found.strerror) or str(found or error)
                raise
            if answer.status_code // 100 == 2:
                self.why = _refusal(bytes(body))
            elif answer.ok:
                self.why = f"it answers {answer.status_code}, a redirection"
            if answer.ok and self.why:
                raise RequestException(self.why)
            return answer

    def _refusal(body: bytes) -> str:
        try:
            partial = ExportMetricsServiceResponse.FromString(body).partial_success
        except Exception:  # DecodeError of whichever protobuf
            return "what it answers is no OTLP"
        number = partial.rejected_data_points
        return f"it rejects {number:,} data points: {partial.error_message}" if number else ""

    return Connection()


def _first(error: BaseException) -> BaseException | None:
    """What an error of requests comes from; its own text is long and has addresses in memory."""
    found: BaseException | None = None
    while (inner := error.__cause__ or error.__context__) is not None:
        found = error = inner
    return found


class _Heard(logging.Handler):
    """Takes what the SDK logs, and keeps the last of it: it would go to standard error."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last = ""
        self._logger = logging.getLogger("opentelemetry")
        self._propagated = self._logger.propagate
        self._logger.propagate = False
        self._logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep its text, in one line."""
        self.last = " ".join(record.getMessage().split())

    def close(self) -> None:
        """Take no more."""
        self._logger.removeHandler(self)
        self._logger.propagate = self._propagated
        super().close()
