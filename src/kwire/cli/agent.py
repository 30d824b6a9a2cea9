"""`kwire agent`: record here, for a collector elsewhere."""

import argparse
import contextlib
import os
import signal
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from kwire.agent import confinement
from kwire.broker.address import BrokerAddress, is_broker, parse_broker, servers
from kwire.cli import log, metrics, probes, services, tracing, values
from kwire.cli.lines import say, tell
from kwire.cli.network import (
    broker,
    check_certificates,
    check_folder,
    session_settings,
    tls_options,
    watch,
)
from kwire.cli.process import ending_signals
from kwire.cli.status import FAILED, NOT_WHOLE, OK, of_command, worst
from kwire.errors import KwireError
from kwire.live.processes import Processes
from kwire.live.recorder import Recorder
from kwire.metrics.table import AGENT, SERVER
from kwire.transport.address import Address, check_secure, parse
from kwire.wire.settings import Settings
from kwire.words import are, lost, plural

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from kwire.agent.agent import Agent, Courier, Recovered
    from kwire.agent.uplink import Line
    from kwire.cli.parts import Parts
    from kwire.cli.reload import Changes, Reloader

HELP = "record here, for a collector elsewhere"

EXAMPLES = """\
examples:
  kwire agent --to tls:collector.example tracepoint:sched:sched_switch
  kwire agent --to tcp:localhost 'tracepoint:syscalls:sys_enter_openat(str(filename))' -c 'make all'
  kwire agent --to unix:/run/kwire.sock --spool /var/spool/kwire 'kprobe:tcp_connect'
  kwire agent --to tcp:localhost tracepoint:sched:sched_process_exec -- make all
  kwire agent --to nats://broker.example --tls-ca ca.pem --nats-creds agent.creds 'kprobe:tcp_connect'
  kwire agent --listen tls:0.0.0.0 --policy /etc/kwire/policy.toml
  kwire agent --make-certs certs collector.example web1.example

ADDR is tcp:HOST:PORT, tls:HOST:PORT, udp:HOST:PORT or unix:PATH; the port is 17800 where none is written.
--to takes nats://HOST:4222,HOST2:4222 too, the servers of a broker (docs/fleet.md).
PROBE is what 'kwire record' takes, or a FILE.py as 'kwire trace' takes; or FILE.bt and its arguments. Ctrl-C
ends the recording and waits for the collector; again, it leaves at once. docs/agents.md says what is
promised.
"""

OPTIONS = {
    "command": "-c",
    "pids": "-p",
    "seconds": "-d",
    "count": "-n",
    "buffer": "--buffer",
    "filter": "--filter",
    "spool": "--spool",
    "adopt": "--adopt",
    "metrics_maps": "--metrics-maps",
}
"""Arguments that say what is recorded, which with --listen the clients do."""

MEMORY, SPOOL_SIZE = 64 << 20, 4 << 30
COMMAND = True
CONFIGURATION = "agent.toml"
LEAST_MEMORY = 1 << 20
GRACE = 10.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.epilog = EXAMPLES
    probes.add_arguments(parser, "*")
    where = parser.add_argument_group("where to").add_mutually_exclusive_group(required=True)
    where.add_argument("--to", metavar="ADDR", help="connect to a collector, again and again")
    where.add_argument("--listen", metavar="ADDR", help="wait for collectors and for record -H, trace -H")
    where.add_argument(
        "--make-certs", metavar="DIR", help="make a small CA and certificates for the NAMEs given, and end"
    )
    parser.add_argument("--policy", metavar="FILE", help="with --listen: who may trace what (TOML)")
    parser.add_argument(
        "--name",
        metavar="NAME",
        default="",
        type=values.text,
        help="what we are called (default: the host)",
    )
    keep = parser.add_argument_group("what waits for the collector")
    keep.add_argument(
        "--memory",
        metavar="SIZE",
        type=values.size,
        default=MEMORY,
        help="in memory at most (default 64M); what finds no room is counted lost",
    )
    keep.add_argument(
        "--spool", metavar="DIR", default="", help="keep it on disk too: killed, an agent goes on"
    )
    keep.add_argument(
        "--spool-size",
        metavar="SIZE",
        type=values.size,
        default=SPOOL_SIZE,
        help="on disk at most (default 4G)",
    )
    keep.add_argument(
        "--adopt",
        action="store_true",
        help="take spools that were copied to DIR; where another copy goes on first, what they hold is lost",
    )
    keep.add_argument(
        "--grace",
        metavar="TIME",
        type=values.seconds,
        default=GRACE,
        help="after Ctrl-C wait so long for the collector (default 10s)",
    )
    tracing.add_arguments(parser, rotate=False)
    services.add_arguments(parser, CONFIGURATION, probes=True)


def run(args: argparse.Namespace) -> int:
    """Do what the arguments say."""
    log.begin(args, "agent")
    if args.install is not None:
        return services.run_install(services.AGENT, args.install)
    if args.check:
        return _check(args)
    if args.make_certs is not None:
        return _make_certs(args)
    if args.listen is not None:
        return _listen(args)
    return _connect(args)


def _check(args: argparse.Namespace) -> int:
    """`--check`: whether all that is configured would do; nothing is attached, opened or connected to."""
    from kwire.agent import policy

    session_settings(args, Settings(memory=args.memory))
    metrics.check_served(args)
    if args.listen is not None:
        address: Address | BrokerAddress = _listening(args)
        policy.load(args.policy, args.probes) if args.policy else policy.Policy(args.probes)
    else:
        address = _connecting(args)
        check_folder(args.spool)
    check_certificates(args, [(address, args.listen is not None)], args.to)
    planned = ""
    if args.probes:
        count = _planned(args)
        planned = f", {plural(count, 'probe')}"
    source = args.config or "the command line"
    sys.stdout.write(f"{source}: in order: {'listening at' if args.listen else 'to'} {address}{planned}\n")
    return OK


def _planned(args: argparse.Namespace) -> int:
    """Make the plan of the probes, which is not loaded; how many there are. Raises KwireError."""
    if any(name.endswith(".bt") for name in args.probes):
        from kwire.cli import script

        name, arguments = _script(args)
        with tracing.chosen(args, args.buffer, aside=True, everyone=not args.pids) as (processes, _):
            return len(script.planned(name, arguments, processes).schemas)
    from kwire.live.planner import make_plan

    return len(make_plan(probes.read(args.probes), args.filter, origin="--filter").schemas)


def _make_certs(args: argparse.Namespace) -> int:
    from kwire.transport.certs import instructions, make_certs

    made = make_certs(args.make_certs, args.probes)
    sys.stdout.write("\n".join(instructions(args.make_certs, made)) + "\n")
    return 0


def _listen(args: argparse.Namespace) -> int:
    """`--listen`: serve clients until we are stopped."""
    address = _listening(args)
    with _reloading(args, address) as reader:
        return _serve(args, address, reader)


def _serve(args: argparse.Namespace, address: Address, reader: "Reloader | None") -> int:
    from kwire.agent import policy
    from kwire.agent.server import ENDING, Server
    from kwire.agent.trace_process import Launcher
    from kwire.transport.listen import listen
    from kwire.transport.loop import READ

    rules = policy.load(args.policy, args.probes) if args.policy else policy.Policy(args.probes)
    launch = partial(Launcher, rules, address.path)
    launcher = launch() if reader is None else reader.launched(launch)
    try:
        line = _line(args, address, Settings(memory=args.memory))
        loop = line.loop
        served = metrics.served(args, loop, SERVER)
        server = Server(loop, launcher, rules, line.settings, line.about, line.say)
        listener = listen(
            loop,
            address,
            server.choose,
            server.handler_for,
            tls=tls_options(args),
            insecure=args.insecure,
            watch=line.watch,
            mode=0o666 if args.policy else 0o600,  # of a Unix socket: the policy knows users
            said=line.say,
        )

        if served is not None:
            from kwire.agent.metrics import ServerMetrics

            told = ServerMetrics(server, listener)
            served.begin(told.samples, told.ready)

        def stop(number: int) -> None:
            server.stop(loop.stop)
            loop.at(loop.now() + ENDING, loop.stop)

        status = left = lost = 0

        def launcher_gone(mask: int) -> None:
            nonlocal status
            status = 1
            say("the process that loads programs has ended: start the agent again", "failure")
            loop.stop()

        loop.add(launcher.fd, READ, launcher_gone)
        loop.signals(_ending(reader), stop)
        if reader is not None:
            from kwire.cli.reload import Renewal

            def change(new: policy.Policy) -> str:
                launcher.change()
                return server.change(new)

            reader.serve(loop, Renewal(listener.renew, policy=change))
        _confine(args, [])
        say(f"listening at {listener.address}", "listening")
        try:
            loop.run()
        finally:
            loop.remove(launcher.fd)
            left, lost = server.close()
            listener.close()
            if served is not None:
                served.close()
            loop.close()
            line.end()
    finally:
        launcher.close()
    text = f"{plural(server.sessions, 'session')} served"
    _print(args, {"sessions": server.sessions, "traces": server.traces, "lost": lost}, text)
    if left:
        say(
            f"{plural(left, 'client')} did not come back in time: {plural(lost, 'event')} lost", "events_lost"
        )
    return worst(NOT_WHOLE if lost else OK, FAILED if status or loop.failures else OK)


def _connect(args: argparse.Namespace) -> int:
    """`--to`: record, deliver, leave."""
    address = _connecting(args)
    with _reloading(args, address) as reader:
        if not args.probes:
            return _deliver(args, address, reader)
        scripted = any(name.endswith(".bt") for name in args.probes)
        apart = None
        if reader is not None:
            from kwire.cli.parts import parts

            apart = parts(args)
        prepared = _scripted(args) if scripted else tracing.prepared(args, aside=args.json, apart=apart)
        with prepared as (recorder, processes):
            return _record(args, address, recorder, processes, reader, apart)


@contextlib.contextmanager
def _reloading(args: argparse.Namespace, address: "Address | BrokerAddress") -> "Iterator[Reloader | None]":
    """What reads the configuration file again on SIGHUP, where there is one."""
    if args.reread is None:
        yield None
        return
    from kwire.cli.reload import Reloader

    if "-" in args.probes:
        probes.text_of("-")  # before the reader begins, which has no standard input
    listens = args.listen is not None
    check = _listening if listens else _connecting
    reader = Reloader(args, listens=listens, kind=address.kind, check=check)
    try:
        yield reader
    finally:
        reader.close()


def _ending(reader: "Reloader | None") -> tuple[int, ...]:
    """The signals that end the agent: SIGHUP where nothing is read again then."""
    return tuple(number for number in ending_signals() if reader is None or number != signal.SIGHUP)


def _heed(courier: "Courier", reader: "Reloader | None", changes: "Changes | None" = None) -> None:
    """Have signals end the recording, or SIGHUP read the configuration again."""
    from kwire.agent.uplink import Uplink
    from kwire.cli.reload import Renewal

    def renew(context: "ssl.SSLContext") -> None:
        assert courier.line.tls is not None
        courier.line.tls.renew(context)
        for uplink in courier.uplinks:
            if isinstance(uplink, Uplink):
                uplink.renew()

    courier.loop.signals(_ending(reader), lambda number: courier.stop())
    if reader is not None:
        broker = courier.line.broker
        reader.serve(courier.loop, Renewal(renew, broker.renew if broker else lambda login: None, changes))


def _listening(args: argparse.Namespace) -> Address:
    """Where `--listen` listens. KwireError where the arguments make no sense together."""
    address = parse(args.listen)
    check_secure(address, args.insecure)
    for name, option in OPTIONS.items():
        if getattr(args, name):
            raise KwireError("listen", str(address), f"{option} goes with --to", "leave it out")
    if any(map(probes.is_file, args.probes)):
        cure = "allow programs in a policy, and let clients send theirs"
        raise KwireError("listen", str(address), "files of probes go with --to", cure)
    if not args.probes and not args.policy:
        cure = "name a PROBE, or a --policy"
        raise KwireError("listen", str(address), "nobody would be allowed anything", cure)
    return address


def _connecting(args: argparse.Namespace) -> "Address | BrokerAddress":
    """Where `--to` goes: a collector, or a broker. KwireError where the arguments make no sense together."""
    metrics.check(args)
    if args.memory < LEAST_MEMORY:
        raise KwireError("set memory", str(args.memory), "it is too little", "give at least 1M")
    if not args.probes and not args.spool:
        raise KwireError("record", "", "no PROBE is named", "name one, as in tracepoint:sched:sched_switch")
    if is_broker(args.to):
        return parse_broker(args.to)
    address = parse(args.to)
    check_secure(address, args.insecure)
    return address


def _script(args: argparse.Namespace) -> tuple[str, list[str]]:
    """The script, and its arguments. KwireError where it is not alone."""
    name, *arguments = args.probes
    if not name.endswith(".bt") or args.filter is not None:
        cause = "it comes by itself, and has its own filters"
        raise KwireError("record", "script", cause, "name FILE.bt alone")
    if others := [one for one in arguments if one.endswith((".bt", ".py"))]:
        cause = f"an agent runs one script, and what follows {name} are its arguments"
        raise KwireError("record", others[0], cause, "start an agent for each; they may share a --spool")
    return name, arguments


@contextlib.contextmanager
def _scripted(args: argparse.Namespace) -> "Iterator[tuple[Recorder, Processes]]":
    """The recorder of a script in the bpftrace language, and its processes."""
    from kwire.cli import script
    from kwire.live.recorder import Limits, Recorder

    name, arguments = _script(args)
    with tracing.chosen(args, args.buffer, aside=args.json, everyone=not args.pids) as (processes, ground):
        plan = script.planned(name, arguments, processes)
        with Recorder(plan, Limits(args.seconds, args.count), ground=ground) as recorder:
            yield recorder, processes


def _line(args: argparse.Namespace, address: "Address | BrokerAddress", settings: Settings) -> "Line":
    from kwire.agent.uplink import Certificates, Line
    from kwire.transport.loop import Loop

    system = os.uname()
    about = {
        "host": system.nodename,
        "kernel": system.release,
        "tool": "kwire agent",
        "name": args.name or system.nodename,
    }
    settings = session_settings(args, settings)
    tls = Certificates(tls_options(args)) if address.kind == "tls" else None
    loop = Loop()
    news = log.limited(args, loop)
    loop.report = news.say
    way = broker(args, args.to, loop, news.say) if isinstance(address, BrokerAddress) else None
    return Line(loop, address, settings, about, news.say, tls, args.insecure, watch(args), way, news.close)


def _reach(
    args: argparse.Namespace, address: "Address | BrokerAddress"
) -> "tuple[Line, list[Recovered], int]":
    """The way to the collector, what agents before us left in the spool for it, and how many folders in it
    cannot be used.
    """
    from kwire.agent.uplink import EXPIRY

    line = _line(args, address, Settings(memory=args.memory, expiry=EXPIRY))
    if not args.spool:
        return line, [], 0
    from kwire.agent.agent import Recovered
    from kwire.agent.spool import recover

    found, refused = [], 0
    for spool, wrong in recover(args.spool, args.spool_size, args.memory, args.adopt):
        if spool is None:
            refused += 1
            say(wrong, "disk")
            continue
        if wrong:
            say(f"spool {spool.path}: {wrong}", "disk")
        payloads, go = plural(spool.count, "payload"), "goes" if spool.count == 1 else "go"
        say(f"spool {spool.path}: {payloads} of an agent before this one {go} to {line.address}", "spool")
        found.append(Recovered(line, spool))
    return line, found, refused


def _record(
    args: argparse.Namespace,
    address: "Address | BrokerAddress",
    recorder: Recorder,
    processes: Processes,
    reader: "Reloader | None",
    apart: "Parts | None",
) -> int:
    from kwire.agent.agent import Agent, make_hold
    from kwire.agent.source import SourceSink

    line, recovered, refused = _reach(args, address)
    size = line.settings.datagram_size if address.datagrams else line.settings.data_size
    recorder.attach(processes)
    recorder.delegate()
    tracing.say_skipped(recorder.plan)
    served = metrics.served(args, line.loop, AGENT, recorder)
    sink = SourceSink(recorder.schemas, size)
    hold = make_hold(args.spool, sink, args.memory, args.spool_size, line.about["name"])
    agent = Agent(line, recorder, sink, hold, recovered, args.grace, apart.keys if apart else ())
    changes = None
    if reader is not None:
        from kwire.cli.reload import Changes

        changes = Changes(args, agent, processes, size)
    _heed(agent, reader, changes)
    progress = tracing.Progress(recorder, None, recorder.tracer)
    if not args.verbose:  # then the frames tell
        recorder.progress = progress
    with _at_work(args, agent, served):
        with _hurried(agent):
            agent.run()
        progress.finish()
    return _report(args, agent, refused)


@contextlib.contextmanager
def _at_work(args: argparse.Namespace, courier: "Courier", served: metrics.Served | None) -> "Iterator[None]":
    """Inside, its numbers are served and the process is nobody; then all that is its own is closed."""
    line = courier.line
    if served is not None:
        from kwire.agent.metrics import AgentMetrics

        measured = AgentMetrics(courier)
        served.begin(measured.samples, measured.ready)
    _confine(args, servers(line.address))
    try:
        yield
    finally:
        courier.close()
        if served is not None:
            served.close()
        if line.broker is not None:
            line.broker.close()
        line.loop.close()
        line.end()


@contextlib.contextmanager
def _hurried(courier: "Courier") -> "Iterator[None]":
    """Inside, a second Ctrl-C ends the waiting for the collector; what waits is told as after `--grace`."""
    try:
        yield
    except KeyboardInterrupt:
        if not courier.recording_over:
            raise


def _confine(args: argparse.Namespace, addresses: list[Address]) -> None:
    """Be nobody from now on."""
    folder = args.spool if args.spool and os.path.isdir(args.spool) else ""
    for problem in confinement.agent(addresses, folder):
        if args.verbose:
            say(problem)


def _deliver(args: argparse.Namespace, address: "Address | BrokerAddress", reader: "Reloader | None") -> int:
    """Without a probe: deliver what the spool holds, and end."""
    from kwire.agent.agent import Courier

    line, recovered, refused = _reach(args, address)
    served = metrics.served(args, line.loop, AGENT)
    courier = Courier(line, recovered, args.grace)
    _heed(courier, reader)
    with _at_work(args, courier, served), _hurried(courier):
        courier.run()
    delivered = sum(before.uplink.finished for before in recovered)
    told = {"recovered": len(recovered), "delivered": delivered, "refused": refused, "lost": courier.gone}
    lost = f", {plural(courier.gone, 'event')} lost" if courier.gone else ""
    _print(args, told, f"{plural(delivered, 'recording')} delivered{lost}")
    return worst(_status(courier, args.spool), FAILED if refused else OK)


def _status(courier: "Courier", spool: str) -> int:
    """The exit status; says what is left behind."""
    address = str(courier.line.address)
    if courier.unknown:
        which = plural(courier.unknown, "payload")
        say(
            f"{which} of the spool cannot be read, and nobody knows how many events were in them",
            "events_lost",
        )
    if courier.kept:
        say(unfinished(courier.kept, spool, address), "unreachable")
    if courier.missing or (not courier.finished and not courier.kept):
        reached = any(uplink.sessions for uplink in courier.uplinks)
        text = unfinished(courier.missing, "", address, reached)
        say(text, "events_lost" if courier.missing else "unreachable")
    if courier.missing or courier.gone or courier.unknown:
        return NOT_WHOLE
    return OK if courier.finished else FAILED


def _report(args: argparse.Namespace, agent: "Agent", refused: int) -> int:
    from kwire.agent.agent import summary

    told = summary(agent)
    status = agent.recorder.command_status
    if status is not None:
        told["command_status"] = status
    gone = lost(told["lost"], told["causes"])
    acknowledged = f"{told['acknowledged']:,} acknowledged by {agent.line.address}"
    _print(args, told, f"{plural(told['events'], 'event')}, {gone}, {acknowledged}")
    own = worst(NOT_WHOLE if told["lost"] else OK, _status(agent, args.spool), FAILED if refused else OK)
    return of_command(told.get("command_status"), own, wanted=not args.no_command_status)


def unfinished(waiting: int, spool: str, address: str, reached: bool = True) -> str:
    """Where an agent that left early leaves what it could not deliver. `reached`: it had a session."""
    if not waiting and not reached:
        return f"{address} was never reached; there is no event that it does not have"
    if not waiting:
        return f"{address} has everything, but did not say that the recording is complete there"
    events, them = are(waiting, "event"), "it" if waiting == 1 else "them"
    if spool:
        again = f"'kwire agent --to {address} --spool {spool}' delivers {them}"
        return f"{events} not acknowledged yet, and kept in {spool}: {again}"
    if waiting == 1:
        return f"{events} not acknowledged: unless {address} has stored it, it is lost with this agent"
    return f"{events} not acknowledged: what {address} has not stored of them is lost with this agent"


def _print(args: argparse.Namespace, told: dict[str, Any], text: str) -> None:
    if args.json:
        import json

        sys.stdout.write(json.dumps(told) + "\n")
    else:
        tell(text)
