"""`kwire fleet`: what many agents and collectors need at a broker, and how they are."""

import argparse
import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any

from kwire.cli import values
from kwire.cli.lines import tell
from kwire.cli.network import add_broker_arguments, broker_login
from kwire.cli.status import OK
from kwire.cli.tracing import human_size
from kwire.words import plural

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kwire.broker.address import BrokerAddress
    from kwire.broker.client import Link

HELP = "set up a broker for many agents and collectors, and see how they are"

EPILOG = """\
ADDR is nats://HOST:4222,HOST2:4222, the servers of a cluster with JetStream.

init makes the stream KWIRE (subjects kwire.HOST.SESSION) and the bucket kwire, or gives those that are there
the limits named. What the limits discard before it is collected is counted LOST; with --discard new nothing
is discarded, and agents keep what the broker does not take.

examples:
  kwire fleet init nats://127.0.0.1
  kwire fleet init nats://a.example,b.example --tls-ca ca.pem --nats-creds admin.creds --replicas 3 --age 7d
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.epilog = EPILOG
    parser.add_argument("what", choices=["init"], help="init: make stream and bucket, or change limits")
    parser.add_argument("address", metavar="ADDR", help="the broker")
    limits = parser.add_argument_group("limits (init)")
    limits.add_argument(
        "--replicas", metavar="N", type=values.count, default=1, help="copies of each message (default 1)"
    )
    limits.add_argument(
        "--age", metavar="TIME", type=values.seconds, default=86400.0, help="of a message (default 24h)"
    )
    limits.add_argument(
        "--size", metavar="SIZE", type=values.size, default=8 << 30, help="of the stream (default 8G)"
    )
    limits.add_argument(
        "--discard",
        choices=["old", "new"],
        default="old",
        help="where it is full: the oldest messages (default), or what comes",
    )
    add_broker_arguments(parser)
    secure = parser.add_argument_group("how to reach it")
    for name, what in (("ca", "the CA of its certificate"), ("cert", "our certificate"), ("key", "its key")):
        secure.add_argument(f"--tls-{name}", metavar="FILE", default="", help=what)
    secure.add_argument("--insecure", action="store_true", help="speak in the clear with other machines")
    parser.add_argument("--json", action="store_true", help="print one object")


def run(args: argparse.Namespace) -> int:
    """Do what the arguments say."""
    from kwire.broker.setup import Limits

    limits = Limits(args.replicas, args.age, args.size, args.discard)

    async def init(link: "Link", address: "BrokerAddress") -> int:
        from kwire.broker import setup

        known = await setup.init(link.js, address, limits)
        told = {"address": str(address), "known": known, **limits._asdict()}
        _print(args, told, f"{'changed' if known else 'made'}: {_limits(limits)}")
        return OK

    return _with(args, init)


def _limits(limits: Any) -> str:
    from kwire.broker.setup import DISCARD

    hours = f"{limits.age / 3600:g} hours"
    kept = f"{plural(limits.replicas, 'copy', 'copies')} of each message, for {hours} at most"
    return f"{kept}, {human_size(limits.size)} in all; where that is full, {DISCARD[limits.discard]}"


def _with(args: argparse.Namespace, do: "Callable[[Link, BrokerAddress], Awaitable[int]]") -> int:
    """Do something on a connection to the first server that answers. BrokerError where none does."""
    from kwire.broker.client import BrokerError, Link, connect, load

    address, login = broker_login(args, args.address)
    load(login)

    async def main() -> int:
        problem: BrokerError | None = None
        for server in address.servers:
            try:
                nc = await connect(server, login, "kwire fleet")
            except BrokerError as error:
                problem = problem or error
                continue
            try:
                return await do(Link(nc, nc.jetstream(timeout=10.0)), address)
            finally:
                await nc.close()
        assert problem is not None  # there is a server
        raise problem

    return asyncio.run(main())


def _print(args: argparse.Namespace, told: dict[str, Any], text: str) -> None:
    if args.json:
        sys.stdout.write(json.dumps(told) + "\n")
    else:
        tell(text)
