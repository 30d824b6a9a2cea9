"""Addresses of agents and collectors: `tcp:HOST:PORT`, `tls:HOST:PORT`, `udp:HOST:PORT`, `unix:PATH`.

Invariants: the table `KINDS` is what there is; what is not an address is refused in one line that says what
to write; nothing but loopback and Unix sockets is spoken to without TLS, unless it is asked for outright.
"""

import re
import socket
from typing import Any, NamedTuple

from kwire.errors import KwireError

DEFAULT_PORT = 17800
SYNTAX = "tcp:HOST:PORT, tls:HOST:PORT, udp:HOST:PORT or unix:PATH"
MAX_PATH = 107
"""Bytes of a Unix socket's path: unix(7)."""

SockAddress = tuple[Any, ...] | str
"""What the socket module calls an address."""


class Scheme(NamedTuple):
    """What the protocol's frames travel over."""

    meaning: str
    private: bool  # the bytes are encrypted, or never leave the machine
    datagrams: bool


KINDS: dict[str, Scheme] = {
    "tcp": Scheme("TCP, for loopback and trusted networks", private=False, datagrams=False),
    "tls": Scheme("TLS 1.3 over TCP, both sides with certificates", private=True, datagrams=False),
    "udp": Scheme(
        "UDP, a frame a datagram, for loopback and trusted networks", private=False, datagrams=True
    ),
    "unix": Scheme("a Unix socket on this machine", private=True, datagrams=False),
}
"""Scheme → what it is."""

_HOST = re.compile(r"(?!-)[A-Za-z0-9._-]{1,253}")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?")


class Address(NamedTuple):
    """Where to connect or listen. An empty host stands for all addresses of this machine."""

    kind: str
    host: str = ""
    port: int = DEFAULT_PORT
    path: str = ""

    def __str__(self) -> str:
        if self.kind == "unix":
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.kind}:{host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether it names this machine only: a Unix socket, `localhost`, 127.0.0.0/8 or ::1."""
        return self.kind == "unix" or self.host.lower() == "localhost" or is_loopback(self.host)

    @property
    def datagrams(self) -> bool:
        """Whether it carries datagrams; the others carry a stream of bytes."""
        return KINDS[self.kind].datagrams


def parse(text: str, kind: str = "", port: int = DEFAULT_PORT) -> Address:
    """Read an address; `kind` is what it is where no scheme is written ("": one must be), `port` where no
    port is.

    Raises KwireError that says what is wrong. IPv6 addresses stand in brackets.
    """
    scheme, colon, rest = text.partition(":")
    if not colon or scheme not in KINDS:
        if not kind:
            raise _bad(text, "it has no scheme" if not colon else f"there is no scheme '{scheme}'")
        scheme, rest = kind, text
    if scheme == "unix":
        return _unix(text, rest)
    host, number = _split(text, rest)
    if host.isdigit():
        raise _bad(text, f"'{host}' is no host", f"write {scheme}:HOST:{host}, or {scheme}::{host} to listen")
    if ":" in host:
        if not _IPV6.fullmatch(host) or not _is_ipv6(host):
            raise _bad(text, f"'{host}' is no IPv6 address")
    elif host and not _HOST.fullmatch(host):
        raise _bad(text, f"'{host}' is no host name")
    return Address(scheme, host, _port(text, number) if number else port)


def check_secure(address: Address, insecure: bool) -> None:
    """Raise KwireError where `address` would be spoken to in the clear and nobody asked for that."""
    if insecure or KINDS[address.kind].private or address.is_local:
        return
    raise KwireError(
        "use",
        str(address),
        "what is sent there could be read and changed on the way",
        f"use tls:{str(address).partition(':')[2]} (kwire agent --make-certs makes certificates), "
        "or write --insecure on a network you trust",
    )


def is_loopback(host: str) -> bool:
    """Whether `host` is a numeric address of the loopback interface."""
    try:
        return socket.inet_pton(socket.AF_INET, host)[0] == 127
    except OSError:
        pass
    try:
        return socket.inet_pton(socket.AF_INET6, host) == bytes(15) + b"\x01"
    except OSError:
        return False


def resolve(address: Address, listening: bool = False) -> list[tuple[int, SockAddress]]:
    """(family, socket address) for each address of the host, in the order to try them; may wait for DNS.

    Raises KwireError where there is none.
    """
    if address.kind == "unix":
        return [(socket.AF_UNIX, address.path)]
    kind = socket.SOCK_DGRAM if address.datagrams else socket.SOCK_STREAM
    flags = socket.AI_PASSIVE if listening else 0
    try:
        found = socket.getaddrinfo(address.host or None, address.port, type=kind, flags=flags)
    except (OSError, UnicodeError) as error:
        cause = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise KwireError("look up", address.host, cause.lower(), "check the name") from error
    answers: list[tuple[int, SockAddress]] = []
    for family, _, _, _, place in found:
        if family in (socket.AF_INET, socket.AF_INET6) and (family, place) not in answers:
            answers.append((family, place))
    if not answers:
        raise KwireError("look up", address.host, "it has no IP address", "check the name")
    return answers


def is_numeric(address: Address) -> bool:
    """Whether `resolve` answers at once, without asking a name server."""
    if address.kind == "unix" or not address.host:
        return True
    try:
        socket.getaddrinfo(address.host, address.port, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return False
    return True


def name_of(kind: str, place: SockAddress) -> str:
    """The text of a socket address, as `Address` writes it."""
    if isinstance(place, str):
        return f"unix:{place}"
    return str(Address(kind, str(place[0]), int(place[1])))


def _bad(text: str, cause: str, cure: str = f"write {SYNTAX}") -> KwireError:
    return KwireError("read address", ascii(text), cause, cure)


def _unix(text: str, path: str) -> Address:
    if not path:
        raise _bad(text, "it has no path")
    if "\0" in path:
        raise _bad(text, "a path has no NUL")
    if len(path.encode(errors="surrogateescape")) > MAX_PATH:
        raise _bad(text, f"the path of a Unix socket has at most {MAX_PATH} bytes", "choose a shorter path")
    return Address("unix", path=path, port=0)


def _split(text: str, rest: str) -> tuple[str, str]:
    """(host, port as text) of what follows the scheme."""
    if rest.startswith("["):
        host, bracket, port = rest[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise _bad(text, "the brackets around an IPv6 address are not closed")
        if ":" not in host:
            raise _bad(text, f"'{host}' is no IPv6 address")
        return host, port[1:]
    if rest.count(":") > 1:
        raise _bad(text, "an IPv6 address stands in brackets", f"write {text.partition(':')[0]}:[::1]:PORT")
    host, _, port = rest.partition(":")
    return host, port


def _port(text: str, port: str) -> int:
    if not (port.isascii() and port.isdigit()) or int(port[:6]) > 65535:
        raise _bad(text, f"'{port}' is no port", "a port is a number up to 65535; 0 lets a listener take any")
    return int(port)


def _is_ipv6(host: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    except OSError:
        return False
    return True
