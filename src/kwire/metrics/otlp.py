"""Metrics sent to an OpenTelemetry collector, by the official SDK: OTLP over HTTP, every so many seconds.

Invariants: what is sent is the table (`kwire.metrics.table`), gathered in the loop's thread in short steps;
what waits for the network is a thread of its own, which begins with the loop's first turn, so after the
process is confined; it never holds the end up for more than `FAREWELL` seconds. What does not arrive is told
at a bounded rate, and the next interval tells all, as counters are sums since the beginning. The SDK (extra
`kwire[otlp]`) is imported here and nowhere else.
"""

import contextlib
import logging
import os
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from kwire.errors import KwireError
from kwire.metrics.gathering import Gathered, Gathering
from kwire.metrics.table import COUNTER, Metric
from kwire.transport.log_events import Say
from kwire.transport.loop import Loop, Timer
from kwire.transport.rate_limited_log import Recurring

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Observation

LEAST: Final = 1.0
"""Seconds between two exports at least."""

FAREWELL: Final = 3.0
"""Seconds that the last export may take, when the process ends."""

PATIENCE: Final = 10.0
"""Seconds that an export may take, with what is tried again at once."""

SLICE: Final = 0.002
"""Seconds of one step of gathering."""

PATH: Final = "/v1/metrics"

UNITS: Final = {"": "1", "bytes": "By", "seconds": "s"}
"""Units of the table by their names in UCUM; others are what is counted, in braces."""


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
    the SDK is missing, or `url` is no address.
    """

    def __init__(self, loop: Loop, url: str, interval: float, say: Say) -> None:
        check_library()
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.sdk.metrics.export import MetricExportResult

        self.url = endpoint(url)
        self._loop, self._interval = loop, interval
        self._heard = _Heard()
        self._exporter = OTLPMetricExporter(endpoint=self.url, timeout=PATIENCE)
        self._good = MetricExportResult.SUCCESS
        self._troubles = Recurring(loop.now, say)
        self._gathering: Gathering | None = None
        self._found: Gathered = {}  # for the SDK, whose thread reads it
        self._collect: Callable[[], Any] = lambda: None
        self._steps: Iterator[Gathered | None] | None = None
        self._timer: Timer | None = None
        self._thread: threading.Thread | None = None
        self._work: queue.SimpleQueue[Gathered | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[str] = queue.SimpleQueue()  # "": it arrived
        self._busy = False  # with what was handed to the thread
        parts = urlsplit(self.url)
        self._shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()  # without a password
        with contextlib.suppress(OSError):  # what answers is loaded now
            socket.getaddrinfo(parts.hostname, parts.port)

    def begin(self, gathering: Gathering, service: str, version: str) -> None:
        """Send from the loop's next turn on. `service`: what the SDK calls the process."""
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.resources import Resource

        host = os.uname().nodename
        about = {
            "service.name": service,
            "service.version": version,
            "service.instance.id": f"{host}:{os.getpid()}",
            "host.name": host,
        }
        reader = InMemoryMetricReader()
        provider = MeterProvider([reader], Resource(about), shutdown_on_exit=False)
        meter = provider.get_meter("kwire", version)
        for metric in gathering.metrics:
            make = (
                meter.create_observable_counter if metric.kind == COUNTER else meter.create_observable_gauge
            )
            unit = UNITS.get(metric.unit, f"{{{metric.unit}}}")
            make(metric.name, [self._observer(metric)], unit, f"{metric.help}.")
        self._gathering, self._collect = gathering, reader.get_metrics_data
        self._timer = self._loop.at(self._loop.now(), self._turn)

    def _observer(self, metric: Metric) -> "Callable[[CallbackOptions], list[Observation]]":
        from opentelemetry.metrics import Observation

        def observe(options: "CallbackOptions") -> "list[Observation]":
            return [
                Observation(sample.value, dict(zip(metric.labels, sample.labels, strict=True)))
                for sample in self._found.get(metric.name, ())
                if isinstance(sample.value, int | float)
            ]

        return observe

    def close(self) -> None:
        """Send the last of it, and no more."""
        self._loop.cancel(self._timer)
        if self._gathering is None or self._thread is None:
            self._heard.close()
            return
        for found in self._gathering.steps():
            if found is not None:
                self._work.put(found)
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
        if self._gathering is not None and self._steps is None and not self._busy:
            self._steps = self._gathering.steps()
            self._step()

    def _step(self) -> None:
        end = self._loop.now() + SLICE
        assert self._steps is not None
        try:
            for found in self._steps:
                if found is not None:
                    self._busy = True
                    self._work.put(found)
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
            self._busy = False
            if why:
                self._troubles.say(f"send metrics to {self._shown}: {why} ({then})", "unreachable")
            else:
                self._troubles.over()

    # ------------------------------------------------------------------ the SDK's thread

    def _run(self) -> None:
        while (found := self._work.get()) is not None:
            self._found = found
            self._heard.last = ""
            try:
                good = self._exporter.export(self._collect()) is self._good
                why = "" if good else self._heard.last or "it is refused"
            except Exception as error:  # the SDK's, or the network's
                why = f"{type(error).__name__}: {error}"
            self._results.put(why[:300])


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
