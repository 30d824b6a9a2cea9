"""TLS: only 1.3, only with certificates of the CA on both sides, only the host that was asked for."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import socket
import ssl
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kwire.errors import KwireError
from kwire.transport.address import Address, parse
from kwire.transport.tls import TlsOptions, client_context, server_context
from kwire.wire.transitions import State

BOTH = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
DAY = datetime.timedelta(days=1)


class Maker:
    """Makes certificates as they should not be, of the CA in `certs` where nothing else is said."""

    def __init__(self, certs: Path, directory: Path) -> None:
        self.certs = certs
        self.directory = directory
        key = serialization.load_pem_private_key((certs / "ca-key.pem").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self.ca_key = key
        self.ca = x509.load_pem_x509_certificate((certs / "ca.pem").read_bytes())

    def __call__(
        self,
        hosts: tuple[str, ...] = ("localhost", "127.0.0.1"),
        begins: datetime.timedelta = -DAY,
        ends: datetime.timedelta = DAY,
        usage: list[x509.ObjectIdentifier] = BOTH,
        own: bool = False,
        issuer: x509.Certificate | None = None,
        issuer_key: ec.EllipticCurvePrivateKey | None = None,
        is_ca: bool = False,
    ) -> TlsOptions:
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mallory")])
        signer = key if own else issuer_key or self.ca_key
        alternatives: list[x509.GeneralName] = []
        for host in hosts:
            try:
                alternatives.append(x509.IPAddress(ipaddress.ip_address(host)))
            except ValueError:
                alternatives.append(x509.DNSName(host))
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name if own else (issuer or self.ca).subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begins)
            .not_valid_after(now + ends)
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
            )
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        )
        made = builder.sign(signer, hashes.SHA256())
        number = len(list(self.directory.iterdir()))
        cert, secret = self.directory / f"{number}.cert", self.directory / f"{number}.key"
        cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        secret.touch(0o600)
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return TlsOptions(str(cert), str(secret), str(self.certs / "ca.pem"))


@pytest.fixture
def maker(certs: Path, tmp_path: Path) -> Maker:
    directory = tmp_path / "wrong"
    directory.mkdir()
    return Maker(certs, directory)


WRONG: dict[str, dict[str, Any]] = {
    "self-signed": {"own": True},
    "self-signed, a CA": {"own": True, "is_ca": True},
    "expired": {"begins": -3 * DAY, "ends": -DAY},
    "not yet good": {"begins": DAY, "ends": 3 * DAY},
}
LABELS = {
    "self-signed": "unknown_ca",
    "self-signed, a CA": "unknown_ca",
    "expired": "expired",
    "not yet good": "expired",
    "of another host": "wrong_name",
    "of nobody": "wrong_name",
    "for clients": "bad_certificate",
    "for servers": "bad_certificate",
}
"""What metrics call each."""

WRONG_SERVER = WRONG | {
    "of another host": {"hosts": ("elsewhere.example", "10.9.8.7")},
    "of nobody": {"hosts": ("nobody",)},
    "for clients": {"usage": [ExtendedKeyUsageOID.CLIENT_AUTH]},
}
WRONG_CLIENT = WRONG | {"for servers": {"usage": [ExtendedKeyUsageOID.SERVER_AUTH]}}


@pytest.mark.parametrize("what", WRONG_CLIENT)
def test_a_wrong_client_gets_no_session_and_others_do(
    net: Any, maker: Maker, tls: Callable[[str], TlsOptions], what: str
) -> None:
    listener = net.listen(parse("tls:127.0.0.1:0"), tls("collector"))
    heard: list[KwireError] = []
    bad = net.connect(listener.address, tls=maker(**WRONG_CLIENT[what]), troubled=heard.append)
    good = net.connect(listener.address, tls=tls("agent"))
    net.until(lambda: heard and good.peer.session.state is State.ESTABLISHED)
    assert len(net.hellos) == 1
    assert "connect to tls:127.0.0.1" in str(heard[0])
    assert "the other side" in str(heard[0])
    assert bad.peer.session.state is not State.ESTABLISHED
    assert not listener._half_open
    assert net.loop.counted.keys() == {("handshake", LABELS[what]), ("connect", "certificate")}


@pytest.mark.parametrize("what", WRONG_SERVER)
def test_a_wrong_server_hears_nothing_of_us(
    net: Any, maker: Maker, tls: Callable[[str], TlsOptions], what: str
) -> None:
    listener = net.listen(parse("tls:127.0.0.1:0"), maker(**WRONG_SERVER[what]))
    heard: list[KwireError] = []
    connector = net.connect(listener.address, tls=tls("agent"), troubled=heard.append)
    net.until(lambda: len(heard) >= 2)
    assert "certificate is not good" in str(heard[0])
    assert not net.hellos
    assert connector.peer.transport is None
    heard_there = {"certificate", "unreachable"}  # its alert, or that the connection has ended
    counted = net.loop.counted.keys()
    assert ("handshake", LABELS[what]) in counted
    assert {why for kind, why in counted if kind == "connect"} <= heard_there


def test_another_ca_on_either_side(net: Any, tls: Callable[[str], TlsOptions], tmp_path: Path) -> None:
    from kwire.transport.certs import make_certs

    make_certs(str(tmp_path))
    other = TlsOptions(*(str(tmp_path / "agent" / f"{name}.pem") for name in ("cert", "key", "ca")))
    listener = net.listen(parse("tls:127.0.0.1:0"), tls("collector"))
    mixed = other._replace(ca=tls("agent").ca)  # trusts the right CA, but is of another
    for options, why in ((other, "not good"), (mixed, "CA")):
        heard: list[KwireError] = []
        connector = net.connect(listener.address, tls=options, troubled=heard.append)
        net.until(lambda heard=heard: heard)
        assert why in str(heard[0])
        connector.close()
    assert not net.hellos


def test_a_certificate_of_a_certificate_is_no_good(
    net: Any, maker: Maker, tls: Callable[[str], TlsOptions]
) -> None:
    """An agent's certificate must not sign others."""
    agent = tls("agent")
    key = serialization.load_pem_private_key(Path(agent.key).read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    cert = x509.load_pem_x509_certificate(Path(agent.cert).read_bytes())
    forged = maker(issuer=cert, issuer_key=key)
    with open(forged.cert, "ab") as chain:
        chain.write(Path(agent.cert).read_bytes())
    listener = net.listen(parse("tls:127.0.0.1:0"), tls("collector"))
    heard: list[KwireError] = []
    net.connect(listener.address, tls=forged, troubled=heard.append)
    net.until(lambda: heard)
    assert not net.hellos


def shake(net: Any, port: int, context: ssl.SSLContext) -> str:
    """Try a handshake with plain ssl; "" where it went well, else why not."""
    end = socket.create_connection(("127.0.0.1", port), timeout=10)
    end.setblocking(False)
    with context.wrap_socket(end, server_hostname="localhost", do_handshake_on_connect=False) as wrapped:
        done: list[str] = []
        said: list[int] = []

        def step() -> bool:
            try:
                wrapped.do_handshake()
                if not said:
                    said.append(wrapped.send(b"x"))
                wrapped.recv(1)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return False
            except OSError as error:
                done.append(str(error))
                return True
            done.append("")
            return True

        net.until(step)
        return done[0]


def test_clients_without_a_certificate_or_with_an_older_tls_are_refused(
    net: Any, tls: Callable[[str], TlsOptions]
) -> None:
    listener = net.listen(parse("tls:127.0.0.1:0"), tls("collector"))
    port = listener.address.port
    nameless = ssl.create_default_context(cafile=tls("agent").ca)
    assert "CERTIFICATE_REQUIRED" in shake(net, port, nameless).upper().replace(" ", "_")
    older = ssl.create_default_context(cafile=tls("agent").ca)
    older.load_cert_chain(tls("agent").cert, tls("agent").key)
    older.maximum_version = ssl.TLSVersion.TLSv1_2
    assert "PROTOCOL_VERSION" in shake(net, port, older).upper().replace(" ", "_")
    assert not net.hellos


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_1])
def test_servers_with_an_older_tls_are_refused(tls: Callable[[str], TlsOptions], version: Any) -> None:
    import warnings

    client = client_context(tls("agent"))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tls("collector").cert, tls("collector").key)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        server.minimum_version = ssl.TLSVersion.TLSv1
        server.maximum_version = version
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(to_client, to_server, server_hostname="localhost")
    far = server.wrap_bio(to_server, to_client, server_side=True)
    with pytest.raises(ssl.SSLWantReadError):
        near.do_handshake()
    with pytest.raises(ssl.SSLError):
        far.do_handshake()


def test_nothing_falls_back_to_plain_text(net: Any, tls: Callable[[str], TlsOptions]) -> None:
    secure = net.listen(parse("tls:127.0.0.1:0"), tls("collector"))
    plain = net.listen(parse("tcp:127.0.0.1:0"))
    heard: list[KwireError] = []
    net.connect(Address("tls", "127.0.0.1", plain.address.port), tls=tls("agent"), troubled=heard.append)
    net.until(lambda: heard)
    heard.clear()
    net.connect(Address("tcp", "127.0.0.1", secure.address.port), troubled=heard.append)
    net.until(lambda: heard)
    assert not net.hellos


def test_an_https_server_is_told_apart(net: Any, tls: Callable[[str], TlsOptions]) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    heard: list[KwireError] = []
    net.connect(Address("tls", "127.0.0.1", server.getsockname()[1]), tls=tls("agent"), troubled=heard.append)
    net.run(0.1)
    other, _ = server.accept()
    other.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")
    net.until(lambda: heard)
    assert "does not speak TLS" in str(heard[0])
    other.close()
    server.close()


def test_a_server_that_resets_at_once_is_tried_again(net: Any, tls: Callable[[str], TlsOptions]) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    server.setblocking(False)
    heard: list[KwireError] = []
    connector = net.connect(
        Address("tls", "127.0.0.1", server.getsockname()[1]), tls=tls("agent"), troubled=heard.append
    )
    for _ in range(4):
        connector._pause = 0.001
        others: list[socket.socket] = []

        def accepted(others: list[socket.socket] = others) -> bool:
            with contextlib.suppress(BlockingIOError):
                others.append(server.accept()[0])
            return bool(others)

        net.until(accepted)
        others[0].send(b"some data")
        others[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        others[0].close()
    net.until(lambda: len(heard) >= 3)
    server.close()


def test_a_handshake_that_never_ends_is_given_up(
    net: Any, tls: Callable[[str], TlsOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kwire.transport.connect.PATIENCE", 0.2)
    server = socket.create_server(("127.0.0.1", 0))
    heard: list[KwireError] = []
    net.connect(Address("tls", "127.0.0.1", server.getsockname()[1]), tls=tls("agent"), troubled=heard.append)
    net.until(lambda: heard)
    assert "no answer" in str(heard[0])
    server.close()


def test_a_stream_that_is_cut_is_not_taken_for_one_that_ended(
    net: Any, tls: Callable[[str], TlsOptions], tcp_proxy: Any
) -> None:
    listener = net.listen(parse("tls:127.0.0.1:0"), tls("collector"))
    proxy = tcp_proxy(listener.address.port)
    heard: list[KwireError] = []
    connector = net.connect(Address("tls", "127.0.0.1", proxy.port), tls=tls("agent"), troubled=heard.append)
    net.until(lambda: connector.peer.session.state is State.ESTABLISHED)
    proxy.cut()
    net.until(lambda: heard)
    assert "the stream was cut" in str(heard[0])
    net.until(lambda: connector.peer.session.state is State.ESTABLISHED)


def test_a_file_changed_on_the_way_is_noticed(
    net: Any, tls: Callable[[str], TlsOptions], event: Callable[..., bytes]
) -> None:
    """One byte of the stream is flipped: the session is interrupted, and goes on over another connection."""
    listener = net.listen(parse("tls:127.0.0.1:0"), tls("collector"))
    connector = net.connect(listener.address, tls=tls("agent"))
    net.until(lambda: connector.peer.session.state is State.ESTABLISHED)
    transport: Any = connector.peer.transport
    socket.socket.send(transport._socket, b"\x17\x03\x03\x00\x20" + bytes(32))  # beneath TLS: a forged record
    connector.peer.session.send(event(1), net.loop.now())
    connector.peer.flush()
    net.until(lambda: State.SUSPENDED in net.sink(connector).states)
    net.until(lambda: net.sink(connector).payloads == [event(1)])


def test_contexts_of_both_sides(tls: Callable[[str], TlsOptions]) -> None:
    assert server_context(tls("agent")).num_tickets == 0
    assert not client_context(tls("agent")).hostname_checks_common_name
