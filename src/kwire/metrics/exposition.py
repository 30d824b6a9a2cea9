"""Samples as Prometheus' text format, made by the official client library in small steps.

Invariants: what a source gives is in the table (`kwire.metrics.table`); a scrape is a generator, each step of
which takes little time whatever is measured, so that whoever serves it can do something else in between;
prometheus-client (extra `kwire[metrics]`) is imported here and nowhere else.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from kwire.errors import KwireError
from kwire.metrics.gathering import Gathering
from kwire.metrics.table import COUNTER, Buckets, Metric, Sample, Summed

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

CHUNK: Final = 64
"""Samples that are rendered in one step."""

LINES: Final = 32
"""Samples that a histogram counts for: it has a line a bucket."""

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def check_library() -> None:
    """Raise KwireError where prometheus-client is missing."""
    try:
        import prometheus_client  # noqa: F401
    except ImportError:
        cure = "pip install 'kwire[metrics]'"
        raise KwireError("serve", "metrics", "prometheus-client is not installed", cure) from None


class Exposition:
    """What one process tells (`gathering`) as text. Raises KwireError where prometheus-client is missing
    (`check_library`).
    """

    def __init__(self, gathering: Gathering) -> None:
        check_library()
        from prometheus_client import exposition
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
            SummaryMetricFamily,
        )

        self._families: dict[str, Callable[..., Any]] = {
            "counter": CounterMetricFamily,
            "gauge": GaugeMetricFamily,
            "histogram": HistogramMetricFamily,
            "summary": SummaryMetricFamily,
        }
        self._generate = exposition.generate_latest
        self._gathering = gathering
        self.ready = gathering.ready
        """Why it is not ready; empty where it is."""

    def render(self) -> Iterator[bytes]:
        """The text, piece by piece; empty pieces where a step gave none."""
        for found in self._gathering.steps():
            if found is None:
                yield b""
                continue
            for metric in self._gathering.metrics:
                yield from self._text(metric, found.pop(metric.name))

    def _text(self, metric: Metric, samples: list[Sample]) -> Iterator[bytes]:
        """The lines of one metric; HELP and TYPE stand before the first of them only."""
        step = CHUNK if metric.kind != "histogram" else CHUNK // LINES
        for start in range(0, len(samples), step):
            name = metric.name.removesuffix("_total") if metric.kind == COUNTER else metric.name
            family = self._families[metric.kind](name, f"{metric.help}.", labels=metric.labels)
            for sample in samples[start : start + step]:
                if isinstance(sample.value, Buckets | Summed):
                    family.add_metric(sample.labels, *sample.value)
                    if isinstance(sample.value, Buckets) and sample.value.total is None:
                        _add_count(family, metric, sample.labels, sample.value)
                else:
                    family.add_metric(sample.labels, sample.value)
            text = self._generate(_Only(family))
            yield text if start == 0 else text.split(b"\n", 2)[2]


def _add_count(family: "Family", metric: Metric, labels: tuple[str, ...], held: Buckets) -> None:
    """The library leaves the count out with the sum; OpenTelemetry's receiver drops one without it."""
    named = dict(zip(metric.labels, labels, strict=True))
    family.add_sample(f"{metric.name}_count", named, held.counts[-1][1])


class _Only:
    """What the library takes for a registry: one family."""

    def __init__(self, family: "Family") -> None:
        self._family = family

    def collect(self) -> "Iterable[Family]":
        """That family."""
        return [self._family]
