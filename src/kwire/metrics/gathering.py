"""What one process tells of itself at one moment, by metric of the table: for whoever shows or sends it.

Invariants: gathering goes in steps, each of which takes little time, so that whoever gathers can do something
else in between; a counter never falls; each value of a label that is known beforehand is there.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Final

from kwire.metrics.process import Process
from kwire.metrics.table import BY_NAME, COUNTER, Metric, Sample

STEP: Final = 64
"""Samples that are gathered in one step."""

Source = Callable[[], Iterator[Sample | None]]
"""Gives what there is now (None: nothing at this step). Each step is short; the next one may come in a later
turn of the loop."""

Gathered = dict[str, list[Sample]]
"""The samples of each metric, by its name."""


class Gathering:
    """What one process tells. `verb`: of the table; `source`: its samples; `ready`: why it is not ready, or
    nothing; `more`: metrics of its own, beside the table's.
    """

    def __init__(
        self, verb: str, source: Source, ready: Callable[[], str], version: str, more: Sequence[Metric] = ()
    ) -> None:
        self.metrics = (*(metric for metric in BY_NAME.values() if verb in metric.of), *more)
        """All metrics that it has."""
        self.ready = ready
        """Why it is not ready; empty where it is."""
        self._source = source
        self._process = Process()
        self.started = self._process.started
        """When the process began, in seconds since 1970; None where /proc does not tell."""
        self._version = version
        self._highest: dict[tuple[str, tuple[str, ...]], float] = {}  # of counters

    def steps(self) -> Iterator[Gathered | None]:
        """All that there is, at the end; None at each step before."""
        found: Gathered = {one.name: [] for one in self.metrics}
        found["kwire_build_info"].append(Sample("kwire_build_info", 1, (self._version,)))
        found["kwire_ready"].append(Sample("kwire_ready", float(not self.ready())))
        for number, sample in enumerate(chain(self._process.samples(), self._source())):
            if sample is not None:
                found[sample.name].append(self._grown(sample))
            if number % STEP == 0:
                yield None
        for metric in self.metrics:
            known = {sample.labels for sample in found[metric.name]}
            found[metric.name] += [
                Sample(metric.name, 0, (one,)) for one in metric.values if (one,) not in known
            ]
        yield found

    def _grown(self, sample: Sample) -> Sample:
        """A sample of a counter of ours never falls: what has to be sent again to a store that failed is not
        told until there is more than before.
        """
        metric = BY_NAME.get(sample.name)
        if metric is None or metric.kind != COUNTER or not isinstance(sample.value, int | float):
            return sample
        key = sample.name, sample.labels
        value = self._highest[key] = max(sample.value, self._highest.get(key, 0))
        return sample._replace(value=value)
