"""What was gathered as OpenTelemetry's data: the SDK's own classes, filled with the numbers of the table.

The SDK's instruments are for who counts one at a time: they would have to count again what maps and sessions
have counted. So points are made directly, as a bridge from another source of metrics does (a MetricProducer
of the specification). Names are those that Prometheus sees, as the specification's conversion from Prometheus
keeps them; counters become monotonic sums, gauges gauges, histograms ones of explicit buckets. A summary,
whose class the SDK lacks, is a histogram without buckets: count and sum, as the data model says.

Invariants: all sums and histograms are cumulative. A series counts since the process began; one that was not
there at the last time, or has fallen since (a script has cleared its map), counts since the last time. A
number beyond those of the protocol (64 bits, signed) becomes one of floating point.
"""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.metrics.export import Metric as SdkMetric
from opentelemetry.sdk.resources import (
    TELEMETRY_SDK_LANGUAGE,
    TELEMETRY_SDK_NAME,
    TELEMETRY_SDK_VERSION,
    OTELResourceDetector,
    Resource,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.sdk.version import __version__ as sdk_version

from kwire.metrics.gathering import Gathered
from kwire.metrics.table import COUNTER, GAUGE, Buckets, Metric, Sample, Summed

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import DataT

UNITS: Final = {"": "", "bytes": "By", "seconds": "s"}
"""Units of the table by their names in UCUM; others are what is counted, in braces. What has none has none
here either: `1` would be a ratio, and be called so by who turns it back into Prometheus' names.
"""

_CUMULATIVE: Final = AggregationTemporality.CUMULATIVE
_LEAST, _MOST = -(1 << 63), (1 << 63) - 1


def resource(service: str, version: str) -> Resource:
    """Who tells: `service.name` and others; what OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME say goes
    before.
    """
    host = os.uname().nodename
    own = {
        "service.name": service,
        "service.version": version,
        "service.instance.id": f"{host}:{os.getpid()}",
        "host.name": host,
        TELEMETRY_SDK_LANGUAGE: "python",
        TELEMETRY_SDK_NAME: "opentelemetry",
        TELEMETRY_SDK_VERSION: sdk_version,
    }
    return Resource(own).merge(OTELResourceDetector().detect())


class DataPoints:
    """Makes data of what is gathered, time after time. `begun`: since when all counts, in ns since 1970."""

    def __init__(self, metrics: Sequence[Metric], about: Resource, version: str, begun: int) -> None:
        self._metrics = metrics
        self._about = about
        self._scope = InstrumentationScope("kwire", version)
        self._last = begun
        self._series: dict[tuple[str, tuple[str, ...]], tuple[int, float]] = {}  # → since when; how much

    def made(self, found: Gathered, now: int) -> MetricsData:
        """The data of what was found at `now`, in ns since 1970."""
        before, self._series = self._series, {}
        told = []
        for metric in self._metrics:
            if samples := found.get(metric.name):
                data = self._data(metric, samples, before, now)
                unit = UNITS.get(metric.unit, f"{{{metric.unit}}}")
                told.append(SdkMetric(metric.name, f"{metric.help}.", unit, data))
        self._last = now
        scope = ScopeMetrics(self._scope, told, "")
        return MetricsData([ResourceMetrics(self._about, [scope], "")])

    def _data(
        self,
        metric: Metric,
        samples: Sequence[Sample],
        before: Mapping[tuple[str, tuple[str, ...]], tuple[int, float]],
        now: int,
    ) -> "DataT":
        points: list[Any] = []
        for name, value, labels in samples:
            attributes = dict(zip(metric.labels, labels, strict=True))
            if metric.kind == GAUGE:
                assert isinstance(value, int | float)  # as the table says
                points.append(NumberDataPoint(attributes, 0, now, _number(value)))
                continue
            level = value if isinstance(value, int | float) else _count(value)
            since, least = before.get((name, labels), (self._last, level))
            if level < least:
                since = self._last
            since = min(since, now)  # the clock may have been set
            self._series[name, labels] = since, level
            if isinstance(value, int | float):
                points.append(NumberDataPoint(attributes, since, now, _number(value)))
            else:
                points.append(_distribution(attributes, since, now, value))
        if metric.kind == GAUGE:
            return Gauge(points)
        return Sum(points, _CUMULATIVE, True) if metric.kind == COUNTER else Histogram(points, _CUMULATIVE)


def _number(value: float) -> float:
    """A value that the protocol can carry: it has no integers of more than 64 bits, signed."""
    return value if isinstance(value, float) or _LEAST <= value <= _MOST else float(value)


def _count(value: Buckets | Summed) -> int:
    return int(value.counts[-1][1] if isinstance(value, Buckets) else value.number)


def _distribution(
    attributes: dict[str, str], since: int, now: int, value: Buckets | Summed
) -> HistogramDataPoint:
    """A point of a histogram, or of a summary: its buckets hold what is in them alone."""
    bounds, counts, before = [], [], 0
    if isinstance(value, Buckets):
        for bound, upto in value.counts:
            bounds.append(float(bound))
            counts.append(int(upto) - before)
            before = int(upto)
        bounds.pop()  # the last has no upper end
    unknown: Any = None  # the protocol leaves out what is not known; the class has no type for that
    total = value.total if value.total is not None else unknown
    return HistogramDataPoint(
        attributes, since, now, _count(value), total, counts, bounds, min=unknown, max=unknown
    )
