"""Addresses of brokers: `nats://HOST:4222,HOST2:4222`, the servers of one cluster; and who we are there.

Invariants: a password in an address is used and never shown; nothing but loopback is spoken to without TLS,
unless it is asked for outright; all files that say who we are, are read once, before privileges are given up.
"""

import os
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import unquote

from kwire.errors import KwireError
from kwire.transport.address import Address, parse

if TYPE_CHECKING:
    import ssl

SCHEME: Final = "nats://"
PORT: Final = 4222
SYNTAX: Final = "nats://HOST:4222,HOST2:4222"


class BrokerAddress(NamedTuple):
    """The servers of a cluster, and the user and password that stood in the address."""

    servers: tuple[Address, ...]
    user: str = ""
    password: str = ""

    @property
    def kind(self) -> str:
        """The scheme."""
        return "nats"

    @property
    def datagrams(self) -> bool:
        """Messages are acknowledged one by one, and may be as long as on a stream."""
        return False

    def __str__(self) -> str:
        return SCHEME + ",".join(str(one).partition(":")[2] for one in self.servers)

    @property
    def is_local(self) -> bool:
        """Whether all servers are on this machine."""
        return all(one.is_local for one in self.servers)


class Login(NamedTuple):
    """Who we are to a broker, read from files: one of user and password, token, NKey seed, or credentials
    (`jwt` and `seed`); `tls`: the context to speak TLS with, where it is wanted.
    """

    user: str = ""
    password: str = ""
    token: str = ""
    seed: str = ""
    jwt: str = ""
    tls: "ssl.SSLContext | None" = None


def servers(address: "Address | BrokerAddress") -> list[Address]:
    """What is connected to."""
    return list(address.servers) if isinstance(address, BrokerAddress) else [address]


def is_broker(text: str) -> bool:
    """Whether an address is meant to be a broker's."""
    return text.startswith("nats:")


def parse_broker(text: str) -> BrokerAddress:
    """Read an address; KwireError that says what is wrong with it."""
    shown = SCHEME + text.rpartition("@")[2] if "@" in text else text
    if not text.startswith(SCHEME):
        raise KwireError("read address", ascii(shown), "it does not begin with nats://", f"write {SYNTAX}")
    login, at, hosts = text.removeprefix(SCHEME).rpartition("@")
    user, _, password = login.partition(":")
    if at and not user:
        raise KwireError("read address", ascii(shown), "no user stands before the @", f"write {SYNTAX}")
    servers: list[Address] = []
    for one in hosts.rstrip("/").split(","):
        try:
            address = parse(f"tcp:{one}")
        except KwireError as error:
            raise KwireError("read address", ascii(shown), error.cause, f"write {SYNTAX}") from None
        if not address.host or not address.port:
            raise KwireError(
                "read address", ascii(shown), "a server has no host, or port 0", f"write {SYNTAX}"
            )
        written = one.rpartition("]")[2] if one.startswith("[") else one
        servers.append(address if ":" in written else address._replace(port=PORT))
    return BrokerAddress(tuple(servers), unquote(user), unquote(password))


def check_broker_secure(address: BrokerAddress, login: Login, insecure: bool) -> None:
    """Raise KwireError where the broker would be spoken to in the clear and nobody asked for that."""
    if insecure or address.is_local or login.tls is not None:
        return
    cure = "name the CA of its certificate (--tls-ca), or write --insecure on a network you trust"
    raise KwireError("use", str(address), "what is sent there could be read and changed on the way", cure)


def read_login(
    address: BrokerAddress,
    *,
    user: str = "",
    password_file: str = "",
    token_file: str = "",
    nkey: str = "",
    creds: str = "",
    ca: str = "",
    cert: str = "",
    key: str = "",
) -> Login:
    """Read the files that say who we are. KwireError where they cannot be read, or there are too many."""
    ways = {
        "a user": bool(address.user or user or password_file),
        "a token": bool(token_file),
        "an NKey": bool(nkey),
        "credentials": bool(creds),
    }
    given = [name for name, there in ways.items() if there]
    if len(given) > 1:
        raise KwireError("use", str(address), f"{' and '.join(given)} are named", "name one way to log in")
    if password_file and not (user or address.user):
        raise KwireError("use", str(address), "a password has no user", "name one with --nats-user")
    tls = tls_context(ca, cert, key) if ca or cert or key else None
    if creds:
        jwt, seed = _credentials(creds)
        return Login(jwt=jwt, seed=seed, tls=tls)
    if nkey:
        return Login(seed=_first_line(nkey, secret=True), tls=tls)
    if token_file:
        return Login(token=_first_line(token_file, secret=True), tls=tls)
    password = _first_line(password_file, secret=True) if password_file else address.password
    return Login(user or address.user, password, tls=tls)


def _text(path: str, secret: bool) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            if secret and os.fstat(file.fileno()).st_mode & 0o077:
                raise KwireError("use", path, "others may read it", f"chmod 600 {path}")
            return file.read(1 << 16)
    except OSError as error:
        raise KwireError("read", path, (error.strerror or "failed").lower()) from None
    except UnicodeDecodeError:
        raise KwireError("read", path, "it is not text") from None


def _first_line(path: str, secret: bool) -> str:
    lines = [line.strip() for line in _text(path, secret).splitlines()]
    found = next((line for line in lines if line and not line.startswith("#")), "")
    if not found:
        raise KwireError("read", path, "it is empty")
    return found


def _credentials(path: str) -> tuple[str, str]:
    """The JWT and the seed of a credentials file."""
    parts: dict[str, str] = {}
    kind = ""
    for line in map(str.strip, _text(path, secret=True).splitlines()):
        if line.startswith("-----BEGIN "):
            kind = line.strip("-").removeprefix("BEGIN ").strip()
        elif line.strip("-").startswith("END ") and line.startswith("---"):
            kind = ""
        elif kind and line:
            parts[kind] = parts.get(kind, "") + line
    jwt, seed = parts.get("NATS USER JWT", ""), parts.get("USER NKEY SEED", "")
    if not jwt or not seed:
        raise KwireError("read", path, "it has no user JWT with an NKey seed", "name a .creds file of nsc")
    return jwt, seed


def tls_context(ca: str, cert: str, key: str) -> "ssl.SSLContext":
    """The context of a connection to a broker, by these files. Raises KwireError."""
    import ssl

    if not ca or bool(cert) != bool(key):
        what = "no CA" if not ca else "a certificate without its key, or a key without its certificate"
        raise KwireError("use", "TLS", f"{what} is named", "name --tls-ca, and --tls-cert with --tls-key")
    try:
        context = ssl.create_default_context(cafile=ca)
        if cert:
            context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise KwireError("use", "TLS", f"{ca if not cert else f'{ca}, {cert}, {key}'}: {error}") from None
    return context
