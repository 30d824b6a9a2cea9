"""`--metrics` and `--otlp`: where a verb serves or sends what it measures of itself, and such a recording.

Invariants: without the option neither the library nor the endpoint is imported; with it all that can go wrong
(no library, a port that is taken, a file of map metrics that does not fit) does before anything is recorded,
written or kept, and the sockets are there and all is loaded before the process is confined.
"""

from __future__ import annotations

import argparse

from kwire.cli import values
from kwire.cli.lines import say
from kwire.errors import KwireError
from kwire.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kwire.agent.map_metrics import MapMetrics
    from kwire.capture.writer import Writer
    from kwire.live.recorder import Recorder
    from kwire.metrics.endpoint import Endpoint
    from kwire.metrics.gathering import Source
    from kwire.metrics.otlp import Export
    from kwire.metrics.table import Sample
    from kwire.transport.address import Address
    from kwire.transport.log_events import Log
    from kwire.transport.loop import Loop


def add_arguments(parser: argparse.ArgumentParser, *, maps: bool) -> None:
    """Add the options; `maps`: the verb has probes, whose maps may be metrics."""
    parser.add_argument(
        "--metrics",
        metavar="[HOST]:PORT",
        help="serve metrics for Prometheus there, or at unix:PATH; without HOST at all addresses",
    )
    parser.add_argument(
        "--otlp",
        metavar="URL",
        help="send metrics to an OpenTelemetry collector, as to http://HOST:4318 (OTLP over HTTP)",
    )
    parser.add_argument(
        "--otlp-interval",
        metavar="TIME",
        type=values.seconds,
        default=60.0,
        help="so often (default 60s)",
    )
    if maps:
        parser.add_argument(
            "--metrics-maps", metavar="FILE", help="maps of the probes that are metrics too (TOML)"
        )


class Served:
    """What `--metrics` and `--otlp` ask for. All that can go wrong does when it is made, before anything is
    recorded or kept; `begin` when there is something to tell. `recorder`: whose maps may be metrics too, its
    probes being attached. Raises KwireError.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        loop: Loop,
        verb: str,
        recorder: Recorder | None = None,
        tell: Log = say,
    ) -> None:
        address = check_served(args)
        self._verb = verb
        self._maps: MapMetrics | None = None
        if recorder is not None and args.metrics_maps is not None:
            from kwire.agent.map_metrics import MapMetrics, load

            self._maps = MapMetrics(load(args.metrics_maps), recorder)
        self._export: Export | None = None
        if args.otlp is not None:
            from kwire.metrics.otlp import Export

            self._export = Export(loop, args.otlp, args.otlp_interval, tell)
        self._endpoint: Endpoint | None = None
        if address is not None:
            from kwire.metrics.endpoint import Endpoint

            self._endpoint = Endpoint(loop, address)

    def begin(self, source: Source, ready: Callable[[], str]) -> None:
        """Serve, and send."""
        from kwire import __version__
        from kwire.metrics.gathering import Gathering

        maps = self._maps

        def samples() -> Iterator[Sample | None]:
            yield from source()
            if maps is not None:
                yield from maps.samples()

        more = maps.metrics if maps is not None else ()
        if self._endpoint is not None:
            from kwire.metrics.exposition import Exposition

            self._endpoint.serve(Exposition(Gathering(self._verb, samples, ready, __version__, more)))
            say(f"metrics at {self._endpoint.url}", "listening")
        if self._export is not None:
            gathering = Gathering(self._verb, samples, ready, __version__, more)
            self._export.begin(gathering, f"kwire-{self._verb.split()[0]}", __version__)

    def close(self) -> None:
        """Serve no more; the last is sent."""
        if self._endpoint is not None:
            self._endpoint.close()
        if self._export is not None:
            self._export.close()


def wanted(args: argparse.Namespace) -> bool:
    """Whether metrics are served or sent."""
    return args.metrics is not None or args.otlp is not None


def served(
    args: argparse.Namespace, loop: Loop, verb: str, recorder: Recorder | None = None, tell: Log = say
) -> Served | None:
    """What `--metrics` and `--otlp` ask for; None without them. `tell`: takes what is said of trouble. Raises
    KwireError.
    """
    return Served(args, loop, verb, recorder, tell) if wanted(args) else None


class Recorded:
    """What a recording into a file tells of itself, and its turns: in a loop, beside the metrics."""

    def __init__(self, args: argparse.Namespace, recorder: Recorder, writer: Writer | None) -> None:
        from kwire.metrics.table import RECORD
        from kwire.transport.loop import Loop

        self.loop = Loop()
        self._recorder = recorder
        self._writer = writer
        self._served = Served(args, self.loop, RECORD, recorder)
        self._closed = False

    def run(self, stop: int) -> None:
        """Record until it is over, or the descriptor `stop` is readable; the recorder has been started."""
        from kwire.agent.recording import Recording
        from kwire.transport.loop import READ

        self._served.begin(self.samples, self.ready)
        recording = Recording(self.loop, self._recorder, lambda: None, lambda why: self.loop.stop())
        self.loop.add(stop, READ, lambda mask: recording.end("asked to stop"))
        try:
            recording.go_on()
            self.loop.run()
        finally:
            self.loop.remove(stop)
            recording.close()
            self.close()

    def close(self) -> None:
        """Serve no more."""
        if not self._closed:
            self._closed = True
            self._served.close()
            self.loop.close()

    def ready(self) -> str:
        """Ready is: the probes are attached, and the disk takes events."""
        if self._writer is not None and self._writer.dropped:
            return "the disk is full"
        return "the recording has ended" if self._recorder.over else ""

    def samples(self) -> Iterator[Sample]:
        """What there is now."""
        from kwire.metrics.table import Sample, cause_label, labelled

        recorder, writer = self._recorder, self._writer
        yield Sample("kwire_events_total", recorder.events)
        yield from labelled(
            "kwire_lost_events_total",
            [(cause_label(cause), number) for cause, number in recorder.causes.items()],
        )
        if writer is not None:
            yield Sample("kwire_bytes_total", writer.size)
            yield Sample("kwire_files_total", len(writer.files))
            yield Sample("kwire_disk_refuses", float(writer.dropped))
        yield Sample("kwire_probes", 0 if recorder.over else len(recorder.plan.schemas))
        for schema in recorder.plan.schemas:
            yield Sample("kwire_probe_events_total", recorder.produced_by(schema.id), (schema.probe,))


def check(args: argparse.Namespace) -> None:
    """Refuse `--metrics-maps` where nothing is served, and a file that cannot be read. Raises KwireError."""
    if args.metrics_maps is None:
        return
    if not wanted(args):
        cure = "say where, with --metrics [HOST]:PORT or --otlp URL"
        raise KwireError("serve", args.metrics_maps, "--metrics-maps goes with --metrics or --otlp", cure)
    from kwire.agent.map_metrics import load

    load(args.metrics_maps)


def check_served(args: argparse.Namespace) -> Address | None:
    """Where `--metrics` serves; None without it. Raises KwireError where that is no address, or that of
    `--otlp` is none, or a library is missing.
    """
    if args.otlp is not None:
        from kwire.metrics import otlp

        otlp.check_library()
        otlp.endpoint(args.otlp)
        if args.otlp_interval < otlp.LEAST:
            cure = f"choose at least {otlp.LEAST:g}s"
            raise KwireError("send", "metrics", "--otlp-interval is too short", cure)
    if args.metrics is None:
        return None
    from kwire.metrics.endpoint import metrics_address
    from kwire.metrics.exposition import check_library

    check_library()
    return metrics_address(args.metrics)


def not_elsewhere(args: argparse.Namespace) -> None:
    """Refuse the options for a recording on another machine. Raises KwireError."""
    if wanted(args):
        cause = "-H records on another machine, whose agent has metrics"
        raise KwireError("serve", "metrics", cause, "kwire agent --listen … --metrics there")
