"""`kwire collect`: events of many agents into captures, one of each host, or one of all."""

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from kwire.agent import confinement
from kwire.broker import names
from kwire.broker.address import is_broker, servers
from kwire.cli import lines, log, metrics, services, values
from kwire.cli.lines import say, tell
from kwire.cli.network import (
    broker,
    check_certificates,
    check_folder,
    loaded_login,
    session_settings,
    tls_options,
    watch,
)
from kwire.cli.process import ending_signals
from kwire.cli.status import FAILED, NOT_WHOLE, OK, worst
from kwire.cli.tracing import CLEAR_LINE, allow_descriptors
from kwire.collector.collected_session import CaptureTarget
from kwire.collector.collector import Collector
from kwire.collector.folder import Folder
from kwire.collector.retention import LOOK, Keep, Retention
from kwire.collector.store import Options
from kwire.errors import KwireError
from kwire.metrics.table import COLLECT
from kwire.transport.address import Address, check_secure, parse
from kwire.transport.connect import CertificateError, Connector, connect
from kwire.transport.half_open import Roster
from kwire.transport.hosts import Hosts
from kwire.transport.hosts import load as load_hosts
from kwire.transport.listen import Listener, listen
from kwire.transport.loop import Loop
from kwire.transport.rate_limited_log import Recurring
from kwire.wire.settings import Settings
from kwire.words import human_size, lost, plural

if TYPE_CHECKING:
    from kwire.broker.client import Broker
    from kwire.cli.parquet import Feeder, LakeProcess
    from kwire.collector.intake import Intake
    from kwire.collector.metrics import CollectorMetrics

HELP = "collect the events of agents into captures"

EPILOG = """\
ADDR is tcp:HOST:PORT, tls:HOST:PORT, udp:HOST:PORT or unix:PATH; without PORT it is 17800.

DIR/HOST-YYYYmmdd-HHMMSS.pcapng (UTC) is one session of one host. What is acknowledged to an agent is in these
files: a collector that is killed and started again goes on exactly there (DIR/.sessions). That promise holds
for the process; with --sync it holds for the machine too, power cuts included.

Ctrl-C, -d and -n end the collection, and the traces of agents that --from has connected to. SIGTERM and
SIGHUP leave all sessions as they are, for the next collector to go on with; with a configuration file SIGHUP
reads it again, certificates too.

examples:
  kwire collect --listen tls: -w captures               agents connect: kwire agent --to tls:THIS-HOST PROBE…
  kwire collect --listen unix:/run/kwire.sock --merge all.pcapng
  kwire collect --from tls:web1 --from tls:web2 -w captures --rotate 100M
  kwire collect --from nats://a.example,b.example --tls-ca ca.pem --nats-creds c.creds -w captures
"""

DEFAULT = "captures"
LAKE_ROTATES = (256 << 20, 300.0)
"""Bytes and seconds after which captures are finished for a lake, where nothing else is said."""

CONFIGURATION = "collector.toml"
AT_ONCE = frozenset(
    {"keep", "hosts", "tls-cert", "tls-key", "tls-ca"}
    | {f"nats-{secret}" for secret in ("user", "password", "token", "nkey", "creds")}
)
"""Keys of the configuration file that SIGHUP changes; for others the collector is started again."""

TICK = 0.5
"""Seconds between two looks at the limits, and two reports of progress."""

LAST_WORDS = 10.0
"""Seconds that agents have to end the traces that we asked for, as many as they give these themselves."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.epilog = EPILOG
    whom = parser.add_argument_group("whom to collect from")
    whom.add_argument(
        "--listen", metavar="ADDR", action="append", default=[], help="where agents connect; more than once"
    )
    whom.add_argument(
        "--from",
        dest="origins",
        metavar="ADDR",
        action="append",
        default=[],
        help="an agent that listens, or a broker (nats://); more than once",
    )
    whom.add_argument(
        "--group",
        metavar="NAME",
        help="at a broker: collectors of one group share the work (default collectors)",
    )
    where = parser.add_argument_group(f"where to (default: -w {DEFAULT})")
    where.add_argument("-w", dest="folder", metavar="DIR", help="a capture of each session, in this folder")
    where.add_argument(
        "--merge", metavar="FILE", help="one capture of all, by this machine's clock instead of theirs"
    )
    where.add_argument(
        "--rotate",
        metavar="SIZE|TIME",
        type=values.rotation,
        default=(0, 0.0),
        help="begin a new file after so much (100M) or so long (60s)",
    )
    where.add_argument(
        "--keep",
        metavar="SIZE|TIME",
        type=values.size_or_time,
        action="append",
        default=[],
        help="remove finished captures beyond so much (100G), or written so long ago (7d); both may be given",
    )
    where.add_argument(
        "--parquet",
        metavar="DIR",
        help="add finished captures to the lake in DIR; without --rotate they are finished after 256M or 5m",
    )
    where.add_argument(
        "--sync", action="store_true", help="acknowledge only what is on the disk, power cuts included"
    )
    whom.add_argument(
        "--hosts", metavar="FILE", help="which names in certificates are one host, so that one may be renewed"
    )
    values.add_limits(parser, "until Ctrl-C", "so many events, or a few more")
    services.add_arguments(parser, CONFIGURATION, probes=False)


class Run:
    """One run of the verb: the loop, the collector, and what ends it."""

    def __init__(self, args: argparse.Namespace, lake: "LakeProcess | None" = None) -> None:
        self.args = args
        self.loop = Loop()
        self.start = time.monotonic()
        self.news = log.limited(args, self.loop, self._write)
        self.loop.report = self.news.say
        self._shown = False
        self.hosts = hosts = load_hosts(args.hosts) if args.hosts else Hosts()
        self.collector = Collector(
            self.loop, _place(args), session_settings(args, Settings()), say=self.news.say, hosts=hosts
        )
        keep = _keep(args)
        self.feeder: Feeder | None = None
        if lake is not None:
            from kwire.cli import parquet

            self.feeder = parquet.Feeder(self.loop, self.collector.storage, lake, self.news.say)
        self.retention = self._retention(keep) if keep != Keep() else None
        self.measures: CollectorMetrics | None = None
        self.roster = Roster(hosts, self.collector.place.folder.known())
        self.left = False
        """SIGTERM: sessions go on with the next collector."""
        self.broker: Broker | None = None
        self.intake: Intake | None = None
        self.listeners: list[Listener] = []
        self.served: metrics.Served | None = None
        self.connectors: list[Connector] = []
        self.ending = False
        self._troubles = Recurring(self.loop.now, self.news.say)

    def _retention(self, keep: Keep) -> Retention:
        """What removes old captures that are in the lake, if there is one."""
        made = Retention(self.loop, self.collector.storage, keep, self.news.say)
        if self.feeder is not None:
            made.needed.append(self.feeder.needs)
        return made

    def open(self) -> None:
        """Listen and connect."""
        # Before anybody is told that we are there, so that from then on a signal ends us in order.
        self.loop.signals((signal.SIGINT,), lambda number: self.end())
        leaving = {*ending_signals()} - {signal.SIGINT}
        if self.args.reread is not None:
            leaving.discard(signal.SIGHUP)
            self.loop.signals((signal.SIGHUP,), lambda number: self.reload())
        self.loop.signals(tuple(leaving), lambda number: self.leave())
        args, seen = self.args, watch(self.args)
        self.served = metrics.served(args, self.loop, COLLECT)
        tls = tls_options(args)
        for text in args.listen:
            listener = listen(
                self.loop,
                parse(text),
                self.collector.choose,
                self.collector.handler_for,
                tls=tls,
                insecure=args.insecure,
                watch=seen,
                roster=self.roster,
                said=self.news.say,
            )
            self.listeners.append(listener)
            say(f"collecting at {listener.address}", "listening")
        for text in args.origins:
            if is_broker(text):
                self._take_from(text)
                continue
            origin = parse(text)
            connector = connect(
                self.loop,
                origin,
                partial(self.collector.fetch, origin),
                self.collector,
                tls=tls,
                insecure=args.insecure,
                watch=seen,
                troubled=self._troubled,
            )
            self.connectors.append(connector)
        if self.served is not None:
            from kwire.collector.metrics import CollectorMetrics

            told = self.measures = CollectorMetrics(self.collector, self.broker, self.retention)
            self.served.begin(told.samples, told.ready)
        sys.stderr.flush()

    def _take_from(self, text: str) -> None:
        """Take what is published to a broker."""
        from kwire.collector.intake import Intake, identity

        place = self.collector.place
        if place.merged or self.broker is not None:
            cause = "--merge takes agents, not a broker" if place.merged else "there is one already"
            raise KwireError("collect from", text.rpartition("@")[2], cause, "use -w, and a collector each")
        self.broker = broker(self.args, text, self.loop, self.news.say)
        group = names.group(self.args.group or names.GROUP)
        self.intake = Intake(self.collector, self.broker, group, identity(place.folder.sessions))
        say(f"collecting from {self.broker.address}, group {group}", "listening")

    @property
    def servers(self) -> list[Address]:
        """What is connected to."""
        own = servers(self.broker.address) if self.broker is not None else []
        return [*(connector.address for connector in self.connectors), *own]

    @property
    def unreached(self) -> list[str]:
        """Where nobody was ever reached of whom events were asked for."""
        away = [str(connector.address) for connector in self.connectors if not connector.reached]
        if self.broker is not None and self.intake is not None and not self.intake.reached:
            away.append(str(self.broker.address))
        return away

    def run(self) -> None:
        """Collect until something ends it."""
        if self.retention is not None:
            self.retention.begin(0.0 if self.feeder is None else LOOK)  # the lake is asked what it has before
        if self.feeder is not None:
            self.feeder.begin()
        if self.broker is not None:
            self.broker.start()
        self.loop.at(self.loop.now() + TICK, self._tick)
        if self.args.seconds is not None:
            self.loop.at(self.loop.now() + self.args.seconds, self.end)
        self.loop.run()

    def reload(self) -> None:
        """Read the configuration file again, and the certificates; where one is wrong nothing changes."""
        try:
            new, changed = self.args.reread()
            keep, hosts = _keep(new), load_hosts(new.hosts) if new.hosts else Hosts()
            changes = self._secrets(new)
        except KwireError as error:
            self._write(f"{error}; what was configured before stays in force", "configuration")
            return
        self.hosts.replace(hosts)
        for change in changes:
            change()
        if self.retention is not None:
            self.retention.stop()
            self.retention.keep = keep
        elif keep != Keep():
            self.retention = self._retention(keep)
            if self.measures is not None:
                self.measures.retention = self.retention
        if self.retention is not None:
            self.retention.begin()
        for key in changed:
            if key in AT_ONCE:
                name = key.replace("-", "_")
                setattr(self.args, name, getattr(new, name))
        late = ", ".join(key for key in changed if key not in AT_ONCE)
        told = f"{self.args.config} is read again, certificates too"
        self._write(f"{told}; restart for the new {late}" if late else told)

    def _secrets(self, args: argparse.Namespace) -> list[Callable[[], None]]:
        """Read certificates and secrets anew; what puts them in the place of those before. KwireError."""
        tls, changes = tls_options(args), list[Callable[[], None]]()
        for listener in (one for one in self.listeners if one.address.kind == "tls"):
            from kwire.transport.tls import server_context

            changes.append(partial(listener.renew, server_context(tls)))
        for connector in (one for one in self.connectors if one.address.kind == "tls"):
            from kwire.transport.tls import client_context

            changes.append(partial(connector.renew, client_context(tls)))
        if self.broker is not None:
            (text,) = filter(is_broker, self.args.origins)
            changes.append(partial(self.broker.renew, loaded_login(args, text)))
        return changes

    def leave(self) -> None:
        """Stop; sessions go on with the next collector."""
        self.left = True
        self.loop.stop()

    def end(self) -> None:
        """End the collection; agents that we connected to may say their last words."""
        if self.ending:
            return
        self.ending = True
        for connector in self.connectors:
            connector.close()
        self.collector.end_traces()
        if self.collector.has_traces():
            self.collector.finished = self._look
            self.loop.at(self.loop.now() + LAST_WORDS, self.loop.stop)
        else:
            self.loop.stop()

    def close(self) -> None:
        """Make all safe, and go."""
        for connector in self.connectors:
            connector.close()
        if self.retention is not None:
            self.retention.stop()
        self.collector.stop()
        for listener in self.listeners:
            listener.close()
        if self.served is not None:
            self.served.close()
        self.loop.turn(0)
        if self.feeder is not None:
            self.feeder.finish()
        self.loop.close()
        self._keep_known()
        self.collector.place.folder.close()
        self.news.close()
        if self._shown:
            sys.stderr.write(CLEAR_LINE)

    def summary(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        seconds = round(time.monotonic() - self.start, 3)
        more = {"failures": self.loop.failures, "unreached": self.unreached, "seconds": seconds}
        summary = self.collector.summary() | more
        if self.retention is not None:
            gone = self.retention
            summary["removed"] = {"files": gone.removed_files, "bytes": gone.removed_bytes}
        if self.feeder is not None:
            summary["lake"] = self.feeder.summary()
        return summary

    def _look(self) -> None:
        if not self.collector.has_traces():
            self.loop.stop()

    def _troubled(self, problem: KwireError) -> None:
        """Say that an agent cannot be reached."""
        event = "certificate" if isinstance(problem, CertificateError) else "unreachable"
        self._troubles.say(f"{problem} (trying again)", event)

    def _write(self, line: str, event: str = "note", /) -> None:
        """A line on standard error; what came from outside is escaped."""
        if self._shown:
            sys.stderr.write(CLEAR_LINE)
        say(line, event)

    def _keep_known(self) -> None:
        """Have it written down who has proven who they are, for the next collector."""
        if self.roster.news:
            self.roster.news = False
            with contextlib.suppress(OSError):  # a full disk: they prove it again
                self.collector.place.folder.remember(self.roster.known)

    def _tick(self) -> None:
        collector = self.collector
        self.loop.at(self.loop.now() + TICK, self._tick)
        collector.look()
        self._keep_known()
        if self.args.count is not None and collector.events >= self.args.count:
            self.end()
        others = self.listeners or self.broker is not None or self.ending  # which has a time of its own
        if all(connector.closed for connector in self.connectors) and not others:
            self.loop.stop()
        if lines.are_seen() and not self.args.verbose:
            self._shown = True
            rate = collector.events / max(time.monotonic() - self.start, 1e-3)
            sys.stderr.write(
                f"{CLEAR_LINE}{plural(len(collector.collected_sessions), 'session')}, "
                f"{plural(collector.events, 'event')}, {rate:,.0f}/s, "
                f"{collector.lost:,} lost, {human_size(collector.size)}"
            )
            sys.stderr.flush()


def run(args: argparse.Namespace) -> int:
    """Collect; the exit status."""
    log.begin(args, "collect")
    if args.install is not None:
        return services.run_install(services.COLLECT, args.install)
    if not args.listen and not args.origins:
        raise KwireError("collect", "", "from whom?", "name an address with --listen or --from")
    if args.group is not None and not any(map(is_broker, args.origins)):
        raise KwireError("collect", "", "--group is for brokers", "name one with --from nats://HOST")
    if args.check:
        return _check(args)
    allow_descriptors()
    lake = _lake(args) if args.parquet is not None else None  # before there is a thread, or a socket
    job = Run(args, lake)
    try:
        job.open()
        for problem in confinement.collector(job.servers):
            if args.verbose:
                say(problem)
        job.run()
    finally:
        job.close()
    summary = job.summary()
    if args.json:
        import json

        sys.stdout.write(json.dumps(summary) + "\n")
    report(summary)
    missing = summary["lost"] or (summary["unproven"] and not job.left)
    wrong = summary["problems"] or summary["failures"] or (summary["unreached"] and not job.left)
    wrong = wrong or summary.get("lake", {}).get("trouble")
    return worst(NOT_WHOLE if missing else OK, FAILED if wrong else OK)


def _check(args: argparse.Namespace) -> int:
    """`--check`: whether all that is configured would do; nothing is opened, made or connected to."""
    session_settings(args, Settings())
    _keep(args)
    _one_place(args)
    if args.hosts:
        load_hosts(args.hosts)
    metrics.check_served(args)
    names.group(args.group or names.GROUP)
    check_folder(_folder(args))
    if args.parquet is not None:
        from kwire.cli.parquet import check_library
        from kwire.lake.directory import check_path

        _lake_apart(args)
        check_folder(args.parquet)
        check_path(args.parquet)
        check_library()
    brokers = [text for text in args.origins if is_broker(text)]
    if brokers and (args.merge is not None or len(brokers) > 1):
        cause = "--merge takes agents, not a broker" if args.merge else "there is more than one"
        name = brokers[-1].rpartition("@")[2]
        raise KwireError("collect from", name, cause, "use -w, and a collector each")
    for text in brokers:
        loaded_login(args, text)
    addresses = [(parse(text), True) for text in args.listen]
    addresses += [(parse(text), False) for text in args.origins if not is_broker(text)]
    for address, _ in addresses:
        check_secure(address, args.insecure)
    check_certificates(args, addresses, None)
    where = [f"listening at {address}" if listens else f"from {address}" for address, listens in addresses]
    told = ", ".join([*where, *(f"from {text.rpartition('@')[2]}" for text in brokers)])
    sys.stdout.write(f"{args.config or 'the command line'}: in order: {told}\n")
    return OK


def _lake_apart(args: argparse.Namespace) -> None:
    """KwireError where captures and Parquet would lie in one directory."""
    if os.path.realpath(_folder(args)) == os.path.realpath(args.parquet):
        cure = "name a directory of its own"
        raise KwireError("collect", f"--parquet {args.parquet}", "the captures lie there", cure)


def _lake(args: argparse.Namespace) -> "LakeProcess":
    """The process that makes Parquet of what is finished."""
    from kwire.cli.parquet import LakeProcess

    _lake_apart(args)
    return LakeProcess(args.parquet, _folder(args))


def report(summary: dict[str, Any]) -> None:
    """Say on standard error what was collected, a line a host."""
    for host in summary["hosts"]:
        gone = lost(host["lost"], host["causes"])
        files = ", ".join(host["files"][:3]) + (" …" if len(host["files"]) > 3 else "")
        still = ""
        if unproven := host["unproven"]:
            still = f"; not proven complete: {plural(unproven, 'session')}"
        tell(f"{host['host'] or 'unknown'}: {plural(host['events'], 'event')}, {gone}, in {files}{still}")
    for address in summary["unreached"]:
        tell(f"nothing could be taken from {address}: it was not reached")
    if not summary["hosts"]:
        tell("no events")
    if lake := summary.get("lake"):
        captures = plural(lake["captures"], "capture")
        tell(f"{plural(lake['events'], 'event')} of {captures} added to {lake['path']}")


def _keep(args: argparse.Namespace) -> Keep:
    """What `--keep` says. KwireError where that cannot be kept."""
    sizes, times = ([one[part] for one in args.keep if one[part]] for part in (0, 1))
    if len(sizes) > 1 or len(times) > 1:
        raise KwireError("keep", "captures", "--keep takes a size and a time, one of each", "leave one out")
    if args.merge is not None and args.keep and _rotation(args) == (0, 0.0):
        raise KwireError("keep", args.merge, "one file is never finished", "give --rotate, or -w")
    if sizes and sizes[0] < 2 * _rotation(args)[0]:
        cause = f"--keep {human_size(sizes[0])} holds no two files of --rotate"
        raise KwireError("keep", "captures", cause, "keep more, or rotate sooner")
    return Keep(*times[:1] or [0.0], *sizes[:1])


def _one_place(args: argparse.Namespace) -> None:
    if args.merge is not None and args.folder is not None:
        raise KwireError("collect", args.merge, "-w and --merge exclude each other", "give one of them")


def _folder(args: argparse.Namespace) -> str:
    """Where the captures are."""
    return os.path.dirname(os.path.abspath(args.merge)) if args.merge else args.folder or DEFAULT


def _rotation(args: argparse.Namespace) -> tuple[int, float]:
    """After how many bytes or seconds a file is finished; 0: not by these."""
    rotate: tuple[int, float] = args.rotate
    return LAKE_ROTATES if args.parquet is not None and rotate == (0, 0.0) else rotate


def _place(args: argparse.Namespace) -> CaptureTarget:
    _one_place(args)
    options = Options(*_rotation(args), args.sync)
    if args.merge is not None:
        path = os.path.abspath(args.merge)
        return CaptureTarget(Folder(os.path.dirname(path)), path, options)
    return CaptureTarget(Folder(args.folder or DEFAULT), "", options)
