"""Arguments that every verb with a network has: certificates, `--insecure`, `-v` to watch, `--json`.

Invariants: one definition for all verbs; `-v` is the command's own (it explains errors too).
"""

from __future__ import annotations

import argparse
import os
import sys

from kwire.errors import KwireError
from kwire.hints import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kwire.broker.address import BrokerAddress, Login
    from kwire.broker.client import Broker
    from kwire.transport.address import Address
    from kwire.transport.frame_log import Watch
    from kwire.transport.log_events import Log
    from kwire.transport.loop import Loop
    from kwire.transport.tls import TlsOptions
    from kwire.wire.settings import Settings

WATCHING = "-v shows every frame, in and out, with its effect on the session"
"""For the help of a verb."""


def add_transport_arguments(parser: argparse.ArgumentParser, json: bool = True) -> None:
    """Add them; `json` off where the verb has a `--json` of its own."""
    group = parser.add_argument_group(
        "how to reach the other side", f"Certificates: $KWIRE_TLS, ~/.config/kwire or /etc/kwire. {WATCHING}."
    )
    group.add_argument("--tls-cert", metavar="FILE", default="", help="our certificate (cert.pem)")
    group.add_argument("--tls-key", metavar="FILE", default="", help="our private key (key.pem)")
    group.add_argument("--tls-ca", metavar="FILE", default="", help="the CA of both sides (ca.pem)")
    group.add_argument(
        "--insecure", action="store_true", help="speak in the clear with other machines: tcp: and udp:"
    )
    group.add_argument(
        "--set",
        dest="settings",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="a timer or limit of our side, as in keepalive=5 (docs/protocol.md lists them)",
    )
    if json:
        group.add_argument(
            "--json", action="store_true", help="summaries, and what -v shows, as JSON objects"
        )


def add_broker_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what says who we are to a broker."""
    group = parser.add_argument_group(
        "who we are to a broker (nats://)", "One of these; a user and password may also stand in the address."
    )
    group.add_argument("--nats-user", metavar="NAME", default="", help="a user, with --nats-password")
    group.add_argument("--nats-password", metavar="FILE", default="", help="the file with its password")
    group.add_argument("--nats-token", metavar="FILE", default="", help="a file with a token")
    group.add_argument("--nats-nkey", metavar="FILE", default="", help="a file with the seed of an NKey")
    group.add_argument("--nats-creds", metavar="FILE", default="", help="a credentials file (.creds)")


def broker(args: argparse.Namespace, text: str, loop: Loop, say: Log) -> Broker:
    """The way to a broker, with who the arguments say that we are. Raises KwireError."""
    from kwire.broker.client import Broker

    return Broker(loop, *broker_login(args, text), say)


def broker_login(args: argparse.Namespace, text: str) -> tuple[BrokerAddress, Login]:
    """The address of a broker, and who the arguments say that we are there. Raises KwireError."""
    from kwire.broker.address import check_broker_secure, parse_broker, read_login

    address = parse_broker(text)
    login = read_login(
        address,
        user=args.nats_user,
        password_file=args.nats_password,
        token_file=args.nats_token,
        nkey=args.nats_nkey,
        creds=args.nats_creds,
        ca=args.tls_ca,
        cert=args.tls_cert,
        key=args.tls_key,
    )
    check_broker_secure(address, login, args.insecure)
    return address, login


def check_certificates(
    args: argparse.Namespace, addresses: Sequence[tuple[Address | BrokerAddress, bool]], broker: str | None
) -> None:
    """Read the certificates and secrets that these addresses take, each with whether we listen there.

    `broker`: the address of one as it was written. Raises KwireError.
    """
    for address, listens in addresses:
        if address.kind == "tls":
            from kwire.transport.tls import client_context, server_context

            (server_context if listens else client_context)(tls_options(args))
        elif address.kind == "nats" and broker is not None:
            loaded_login(args, broker)


def loaded_login(args: argparse.Namespace, text: str) -> Login:
    """Who the arguments say that we are at a broker, with all of its client that this takes loaded. Raises
    KwireError where a secret is wrong, or something is not installed.
    """
    from kwire.broker.client import load

    _, login = broker_login(args, text)
    load(login)
    return login


def check_folder(path: str | None) -> None:
    """See whether a folder, if one is named, could be written to, or made. KwireError where not."""
    if not path:
        return
    there = os.path.abspath(path)
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    if not os.path.isdir(there) or not os.access(there, os.W_OK | os.X_OK):
        cause = "it may not be written to" if os.path.isdir(there) else f"{there} is no folder"
        raise KwireError("write to", path, cause, "name another folder")


def tls_options(args: argparse.Namespace) -> TlsOptions:
    """The certificates that the arguments name; what they do not name is looked for when it is needed."""
    from kwire.transport.tls import TlsOptions  # here, so that others do without ssl

    return TlsOptions(args.tls_cert, args.tls_key, args.tls_ca)


def session_settings(args: argparse.Namespace, settings: Settings) -> Settings:
    """`settings` with what `--set` changes; KwireError where that is no setting, or out of its range."""
    from kwire.wire.settings import LIMITS

    values: dict[str, Any] = settings._asdict()
    for text in args.settings:
        name, _, value = text.partition("=")
        if name not in LIMITS:
            known = ", ".join(LIMITS)
            raise KwireError("set", text, f"there is no setting {name!r}", f"there are {known}")
        whole = isinstance(values[name], int)
        try:
            values[name] = int(value) if whole else float(value)
        except ValueError:
            kind = "a whole number" if whole else "a number"
            raise KwireError("set", text, f"{value!r} is not {kind}", f"give {LIMITS[name].unit}") from None
    return type(settings)(**values).check()


def watch(args: argparse.Namespace) -> Watch | None:
    """What shows the frames on standard error, where `-v` asks for it."""
    if not args.verbose:
        return None
    from kwire.transport.frame_log import Watch  # here: `kwire record` is not to be slowed by it

    def write(line: str) -> None:
        sys.stderr.write(line + "\n")

    return Watch(write, json=args.json or getattr(args, "log", "text") == "json")
