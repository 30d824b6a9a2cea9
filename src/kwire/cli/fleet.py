"""`kwire fleet`: what many agents and collectors need at a broker, and how they are."""

import argparse
import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any, Final

from kwire.cli import values
from kwire.cli.lines import say, tell
from kwire.cli.network import add_broker_arguments, broker_login
from kwire.cli.status import OK
from kwire.errors import KwireError
from kwire.view.text import safe
from kwire.words import human_size, plural

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kwire.broker.address import BrokerAddress
    from kwire.broker.client import Connection
    from kwire.broker.overview import SessionView
    from kwire.broker.setup import Limits

    Do = Callable[[argparse.Namespace, Connection, BrokerAddress], Awaitable[int]]

SAMPLE = 1.0
"""Seconds in which rates are measured."""

SILENT = 30.0
"""Seconds without a message after which a session that has not ended is called silent."""

HELP = "set up a broker for many agents and collectors, and see how they are"

EPILOG = """\
ADDR is nats://HOST:4222,HOST2:4222, the servers of a cluster with JetStream.

init makes the stream KWIRE (subjects kwire.HOST.SESSION) and the bucket kwire, or gives those that are there
the limits named, and leaves the others as they are. What the limits discard before it is collected is counted
LOST; with --discard new nothing is discarded, and agents keep what the broker does not take.

status shows what waits in the stream, what each group of collectors has not taken yet, and the sessions:
events that their messages tell of, events a second just now, messages that a group has not taken (LAG), and
events that were counted as discarded by the broker (LOST). What sources lost themselves is in the captures.

forget removes what the broker has of a host, or of one session, that is gone: messages, SCHEMAs, who has
collected what. It is refused where its agent may be there still, or messages of it are still to be collected;
--force removes these too, and nobody counts them. What has ended and is collected need not be forgotten:
collectors remove it when the stream has nothing more of it.

compact joins the small files that many captures left in each partition of a lake (kwire export --partition,
kwire collect --parquet); readers see the files before or the files after, never both.

examples:
  kwire fleet init nats://127.0.0.1
  kwire fleet status nats://127.0.0.1
  kwire fleet forget nats://127.0.0.1 web17
  kwire fleet compact lake
  kwire fleet init nats://a.example,b.example --tls-ca ca.pem --nats-creds admin.creds --replicas 3 --age 7d
"""


GOES_WITH: Final = {
    "replicas": ("init",),
    "age": ("init",),
    "size": ("init", "compact"),
    "discard": ("init",),
    "all": ("status",),
    "force": ("forget",),
}
"""Options → what they are for; elsewhere they are refused, as nothing would come of them."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.epilog = EPILOG
    parser.add_argument(
        "what",
        choices=["init", "status", "forget", "compact"],
        help="init: make stream and bucket; status: how all are; forget: remove a host that is gone; "
        "compact: join small files of a lake",
    )
    parser.add_argument("address", metavar="ADDR|DIR", help="the broker, or the lake's directory (compact)")
    parser.add_argument("which", metavar="HOST|SESSION", nargs="?", help="what to forget, as status shows it")
    limits = parser.add_argument_group("limits (init)")
    limits.add_argument(
        "--replicas", metavar="N", type=values.count, help="copies of each message (default 1)"
    )
    limits.add_argument("--age", metavar="TIME", type=values.seconds, help="of a message (default 24h)")
    limits.add_argument(
        "--size",
        metavar="SIZE",
        type=values.size,
        help="of the stream (default 8G); compact: of a file (default 256M)",
    )
    limits.add_argument(
        "--discard",
        choices=["old", "new"],
        help="where it is full: the oldest messages (default), or what comes",
    )
    parser.add_argument(
        "--all", action="store_true", help="status: sessions too that have ended and are collected"
    )
    parser.add_argument(
        "--force", action="store_true", help="forget: also what is still to be collected, or may go on"
    )
    add_broker_arguments(parser)
    secure = parser.add_argument_group("how to reach it")
    for name, what in (("ca", "the CA of its certificate"), ("cert", "our certificate"), ("key", "its key")):
        secure.add_argument(f"--tls-{name}", metavar="FILE", default="", help=what)
    secure.add_argument("--insecure", action="store_true", help="speak in the clear with other machines")
    parser.add_argument("--json", action="store_true", help="print one object")


def run(args: argparse.Namespace) -> int:
    """Do what the arguments say."""
    for option, those in GOES_WITH.items():
        if getattr(args, option) and args.what not in those:
            cause = f"--{option} goes with {' and '.join(those)}"
            raise KwireError(f"fleet {args.what}", args.address.rpartition("@")[2], cause, "leave it out")
    if (args.which is None) == (args.what == "forget"):
        name = args.address.rpartition("@")[2]
        if args.what == "forget":
            raise KwireError("fleet forget", name, "which host or session?", "name one as status shows it")
        raise KwireError(f"fleet {args.what}", name, f"{args.which} is one word too many", "leave it out")
    if args.what == "compact":
        return _compact(args)
    return _with(args, {"init": _init, "status": _status, "forget": _forget}[args.what])


def _compact(args: argparse.Namespace) -> int:
    """Join the small files of a lake."""
    from kwire.lake.compact import TARGET, compact
    from kwire.lake.directory import Lake

    lake = Lake(args.address)
    done = compact(lake, args.size or TARGET)
    if args.json:
        sys.stdout.write(json.dumps(done._asdict()) + "\n")
        return OK
    if not done.files:
        tell("nothing is to be joined")
        return OK
    before, after = human_size(done.size), human_size(done.now)
    made = f"{plural(done.files, 'file')} ({before}) are {done.made:,} now ({after})"
    tell(f"{made}, in {plural(done.partitions, 'partition')}")
    return OK


async def _init(args: argparse.Namespace, connection: "Connection", address: "BrokerAddress") -> int:
    from kwire.broker import setup

    named = {name: getattr(args, name) for name in setup.Limits._fields}
    wanted = {name: value for name, value in named.items() if value is not None}
    known, limits = await setup.init(connection.js, address, wanted)
    told = {"address": str(address), "known": known, **limits._asdict()}
    _print(args, told, f"{'changed' if known else 'made'}: {_limits(limits)}")
    return OK


async def _status(args: argparse.Namespace, connection: "Connection", address: "BrokerAddress") -> int:
    from kwire.broker.client import Connection, bucket_of
    from kwire.broker.overview import overview

    found = await overview(
        Connection(connection.nc, connection.js, await bucket_of(connection.js, address)), address, SAMPLE
    )
    if found.clock:
        say(f"{found.clock}; who is silent is told by this machine's clock")
    if args.json:
        told = found._asdict() | {
            "groups": [one._asdict() for one in found.groups],
            "sessions": [one._asdict() for one in found.sessions],
        }
        sys.stdout.write(json.dumps(told) + "\n")
        return OK
    lines = [f"{plural(found.messages, 'message')} in the stream, {human_size(found.bytes)}"]
    for one in found.groups:
        waiting = f"{one.unacknowledged:,} delivered and not acknowledged"
        lines.append(f"group {one.name}: {plural(one.pending, 'message')} to be delivered, {waiting}")
    shown = [
        one for one in found.sessions if args.all or not one.over or not one.lag or any(one.lag.values())
    ]
    hosts = len({one.host for one in found.sessions})
    lines.append(f"{plural(hosts, 'host')}, {plural(len(found.sessions), 'session')}, {len(shown):,} shown")
    if shown:
        head = f"{'HOST':20} {'SESSION':8} {'STATE':7} {'EVENTS':>13} {'EVENTS/S':>10} {'LAG':>8} {'LOST':>8}"
        lines.append(head)
    lines += [_row(one) for one in shown]
    sys.stdout.write("\n".join(lines) + "\n")
    return OK


async def _forget(args: argparse.Namespace, connection: "Connection", address: "BrokerAddress") -> int:
    from kwire.broker.client import Connection, bucket_of
    from kwire.broker.forgetting import forget

    whole = Connection(connection.nc, connection.js, await bucket_of(connection.js, address))
    done = await forget(whole, address, args.which, args.force)
    if args.json:
        sys.stdout.write(json.dumps([one._asdict() for one in done]) + "\n")
        return OK
    for one in done:
        gone = f"{plural(one.messages, 'message')} removed from the stream"
        if one.uncollected:
            gone += f", {one.uncollected:,} of them not collected by every group"
        tell(f"{safe(one.host)}, session {one.session[:8]}: forgotten; {gone}")
    return OK


def _row(one: "SessionView") -> str:
    """A session for a person."""
    quiet = one.silent is None or one.silent > SILENT
    state = "ended" if one.over else "silent" if quiet else "live"
    events = "?" if one.events is None else f"{one.events:,}"
    rate = "" if one.rate is None else f"{one.rate:,.0f}"
    lag = f"{max(one.lag.values()):,}" if one.lag else "all"
    lost = f"{max(one.discarded.values(), default=0):,}"
    return f"{safe(one.host):20} {one.session[:8]} {state:7} {events:>13} {rate:>10} {lag:>8} {lost:>8}"


def _limits(limits: "Limits") -> str:
    from kwire.broker.setup import DISCARD

    age = f"for {limits.age / 3600:g} hours at most" if limits.age else "however old it is"
    size = f"{human_size(limits.size)} in all" if limits.size >= 0 else "as many as come"
    kept = f"{plural(limits.replicas, 'copy', 'copies')} of each message, {age}, {size}"
    return f"{kept}; where that is full, {DISCARD[limits.discard]}"


def _with(args: argparse.Namespace, do: "Do") -> int:
    """Do something on a connection to the first server that answers. BrokerError where none does."""
    from kwire.broker.client import BrokerError, Connection, connect, load, plain, quietly

    address, login = broker_login(args, args.address)
    load(login)

    async def main() -> int:
        # Tasks of nats-py that a lost connection ends tell nobody else; what matters is raised here.
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        problem: BrokerError | None = None
        for server in address.servers:
            try:
                nc = await connect(server, login, "kwire fleet")
            except BrokerError as error:
                problem = problem or error
                continue
            try:
                return await do(args, Connection(nc, nc.jetstream(timeout=10.0)), address)
            except KwireError:
                raise
            except Exception as error:
                raise BrokerError("look at", str(address), plain(error)[0]) from None
            finally:
                await quietly(nc.close())
        assert problem is not None  # there is a server
        raise problem

    return asyncio.run(main())


def _print(args: argparse.Namespace, told: dict[str, Any], text: str) -> None:
    if args.json:
        sys.stdout.write(json.dumps(told) + "\n")
    else:
        tell(text)
