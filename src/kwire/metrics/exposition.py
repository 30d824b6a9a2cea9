"""Samples as Prometheus' text format, made by the official client library in small steps.

Invariants: what a source gives is in the table (`kwire.metrics.table`); a scrape is a generator, each step of
which takes little time whatever is measured, so that whoever serves it can do something else in between;
prometheus-client (extra `kwire[metrics]`) is imported here and nowhere else.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from kwire.errors import KwireError
from kwire.metrics.table import BY_NAME, COUNTER, Buckets, Metric, Sample, Summed

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

CHUNK: Final = 64
"""Samples that are rendered in one step."""

LINES: Final = 32
"""Samples that a histogram counts for: it has a line a bucket."""

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Source = Callable[[], Iterator[Sample | None]]
"""Gives what there is now (None: nothing at this step). Each step is short; the next one may come in a later
turn of the loop."""


def check_library() -> None:
    """Raise KwireError where prometheus-client is missing."""
    try:
        import prometheus_client  # noqa: F401
    except ImportError:
        cure = "pip install 'kwire[metrics]'"
        raise KwireError("serve", "metrics", "prometheus-client is not installed", cure) from None


class Exposition:
    """What one process tells. `verb`: of the table; `source`: its samples; `ready`: why it is not ready, or
    nothing; `more`: metrics of its own, beside the table's. Raises KwireError where prometheus-client is
    missing (`check_library`).
    """

    def __init__(
        self, verb: str, source: Source, ready: Callable[[], str], version: str, more: Sequence[Metric] = ()
    ) -> None:
        check_library()
        from prometheus_client import exposition, process_collector
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
        self._process = process_collector.ProcessCollector(registry=None)
        self._source = source
        self._highest: dict[tuple[str, tuple[str, ...]], float] = {}  # of counters: they never fall
        self._version = version
        self._more = more
        self.verb = verb
        self.ready = ready
        """Why it is not ready; empty where it is."""

    def render(self) -> Iterator[bytes]:
        """The text, piece by piece; empty pieces where a step gave none."""
        by_name: dict[str, list[Sample]] = {one.name: [] for one in self._metrics()}
        by_name["kwire_build_info"].append(Sample("kwire_build_info", 1, (self._version,)))
        by_name["kwire_ready"].append(Sample("kwire_ready", float(not self.ready())))
        for number, sample in enumerate(self._source()):
            if sample is not None:
                by_name[sample.name].append(sample)
            if number % CHUNK == 0:
                yield b""
        for metric in self._metrics():
            yield from self._text(metric, by_name.pop(metric.name))
        for family in self._process.collect():
            yield self._generate(_Only(family))

    def _metrics(self) -> Iterable[Metric]:
        yield from (metric for metric in BY_NAME.values() if self.verb in metric.of)
        yield from self._more

    def _text(self, metric: Metric, samples: list[Sample]) -> Iterator[bytes]:
        """The lines of one metric; HELP and TYPE stand before the first of them only."""
        known = {sample.labels for sample in samples}
        samples += [Sample(metric.name, 0, (one,)) for one in metric.values if (one,) not in known]
        step = CHUNK if metric.kind != "histogram" else CHUNK // LINES
        for start in range(0, len(samples), step):
            name = metric.name.removesuffix("_total") if metric.kind == COUNTER else metric.name
            family = self._families[metric.kind](name, f"{metric.help}.", labels=metric.labels)
            for sample in samples[start : start + step]:
                if isinstance(sample.value, Buckets | Summed):
                    family.add_metric(sample.labels, *sample.value)
                elif metric.kind == COUNTER and metric.name in BY_NAME:
                    family.add_metric(sample.labels, self._grown(sample.name, sample.labels, sample.value))
                else:
                    family.add_metric(sample.labels, sample.value)
            text = self._generate(_Only(family))
            yield text if start == 0 else text.split(b"\n", 2)[2]

    def _grown(self, name: str, labels: tuple[str, ...], value: float) -> float:
        """The value of a counter of ours. It never falls: what has to be sent again to a store that failed is
        not told until there is more than before.
        """
        value = self._highest[name, labels] = max(value, self._highest.get((name, labels), 0))
        return value


class _Only:
    """What the library takes for a registry: one family."""

    def __init__(self, family: "Family") -> None:
        self._family = family

    def collect(self) -> "Iterable[Family]":
        """That family."""
        return [self._family]
