"""TLS 1.3 with certificates on both sides: contexts, the handshake, who the other end is, what went wrong.

Invariants: 1.3 only; both sides show a certificate of the CA that they share; the one who connects checks the
host name; keys that others may read are refused; a handshake makes no call wait and is given limited time by
its owner.
"""

from __future__ import annotations

import os
import socket
import ssl
import stat
from collections.abc import Callable
from typing import Any, NamedTuple

from kwire.errors import KwireError
from kwire.transport.lingering import Lingering
from kwire.transport.loop import READ, WRITE, Loop

FILES = {"ca": "ca.pem", "cert": "cert.pem", "key": "key.pem"}
"""What a directory with certificates holds: the CA's certificate, ours, and our private key."""

MAKE = "kwire agent --make-certs DIR makes them"


class TlsOptions(NamedTuple):
    """Paths of PEM files; an empty one is looked for (`directories`)."""

    cert: str = ""
    key: str = ""
    ca: str = ""


class Reason(NamedTuple):
    """Why TLS failed: in plain words, and in one word for those who count."""

    text: str
    label: str


REASONS: dict[str, Reason] = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": Reason(
        "the other side wants a certificate and got none", "no_certificate"
    ),
    "TLSV1_ALERT_UNKNOWN_CA": Reason("the other side does not know the CA of our certificate", "unknown_ca"),
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": Reason(
        "the other side says that our certificate has expired", "expired"
    ),
    "SSLV3_ALERT_BAD_CERTIFICATE": Reason("the other side refused our certificate", "bad_certificate"),
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": Reason("the other side refused our certificate", "bad_certificate"),
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": Reason(
        "the other side says that our certificate is for another purpose", "bad_certificate"
    ),
    "TLSV1_ALERT_DECRYPT_ERROR": Reason("the other side could not check our certificate", "bad_certificate"),
    "SSLV3_ALERT_HANDSHAKE_FAILURE": Reason("the other side refused the handshake", "other"),
    "TLSV1_ALERT_PROTOCOL_VERSION": Reason("the other side has no TLS 1.3", "no_tls13"),
    "UNSUPPORTED_PROTOCOL": Reason("the other side has no TLS 1.3", "no_tls13"),
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": Reason("the other side has no certificate", "no_certificate"),
    "WRONG_VERSION_NUMBER": Reason("the other side does not speak TLS", "not_tls"),
    "HTTP_REQUEST": Reason("the other side speaks HTTP", "not_tls"),
}
"""OpenSSL's names of reasons → what they mean."""

CHECKS: dict[int, str] = {
    2: "unknown_ca",  # X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT
    9: "expired",  # CERT_NOT_YET_VALID
    10: "expired",  # CERT_HAS_EXPIRED
    18: "unknown_ca",  # DEPTH_ZERO_SELF_SIGNED_CERT
    19: "unknown_ca",  # SELF_SIGNED_CERT_IN_CHAIN
    20: "unknown_ca",  # UNABLE_TO_GET_ISSUER_CERT_LOCALLY
    21: "unknown_ca",  # UNABLE_TO_VERIFY_LEAF_SIGNATURE
    62: "wrong_name",  # HOSTNAME_MISMATCH
    64: "wrong_name",  # IP_ADDRESS_MISMATCH
}
"""OpenSSL's numbers of what is wrong with a certificate (x509_vfy.h) → one word; others: bad_certificate."""


def directories() -> list[str]:
    """Where certificates are looked for: $KWIRE_TLS alone if it is set, else the user's and the system's."""
    named = os.environ.get("KWIRE_TLS")
    if named:
        return [named]
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return [os.path.join(home, "kwire"), "/etc/kwire"]


def complete(options: TlsOptions | None) -> TlsOptions:
    """Fill in the paths that are not given from the first directory that has them; KwireError if none has."""
    given = (options or TlsOptions())._asdict()
    for directory in directories():
        found = {what: path or os.path.join(directory, FILES[what]) for what, path in given.items()}
        if all(os.path.exists(path) for what, path in found.items() if not given[what]):
            return TlsOptions(**found)
    lacking = ", ".join(FILES[what] for what, path in given.items() if not path)
    raise KwireError(
        "use",
        "TLS",
        f"no {lacking} in {' or '.join(directories())}",
        f"name them (--tls-ca, --tls-cert, --tls-key); {MAKE}",
    )


def server_context(options: TlsOptions | None) -> ssl.SSLContext:
    """The context of a side that is connected to; clients must show a certificate of the CA."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, complete(options))
    context.num_tickets = 0  # sessions are resumed by our own token; a ticket is only memory
    return context


def client_context(options: TlsOptions | None) -> ssl.SSLContext:
    """The context of a side that connects; it checks the host name."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT, complete(options))
    context.check_hostname = True
    context.hostname_checks_common_name = False
    return context


def explain(error: OSError) -> str:
    """What went wrong on a socket under TLS, in plain words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the other side's certificate is not good: {error.verify_message}".rstrip(".")
    if isinstance(error, ssl.SSLEOFError):
        return "the stream was cut"
    if isinstance(error, ssl.SSLError):
        known = REASONS.get(error.reason or "")
        return known.text if known else (error.reason or "TLS failed").lower().replace("_", " ")
    return error.strerror or str(error)


def label(error: OSError) -> str:
    """The same in one word (`kwire.metrics.table.HANDSHAKES`)."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return CHECKS.get(error.verify_code, "bad_certificate")
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
        known = REASONS.get(error.reason or "")
        return known.label if known else "other"
    return "cut"


def identity(connected: ssl.SSLSocket) -> str:
    """The name in the other end's certificate: its common name, else its first DNS name; "" where none."""
    certificate: Any = connected.getpeercert() or {}
    for part in certificate.get("subject", ()):
        for key, value in part:
            if key == "commonName":
                return str(value)
    return next((str(value) for key, value in certificate.get("subjectAltName", ()) if key == "DNS"), "")


class Handshake:
    """One handshake in a loop; ends with `done(socket)` or `failed(why)`, unless `cancel` comes before."""

    __slots__ = ("_context", "_done", "_failed", "_host", "_loop", "_mask", "_socket", "_tls")

    def __init__(
        self,
        loop: Loop,
        connected: socket.socket,
        context: ssl.SSLContext,
        host: str | None,
        done: Callable[[ssl.SSLSocket], None],
        failed: Callable[[str], None],
    ) -> None:
        """`connected` is non-blocking and becomes ours; `host`: whom to expect, None on the server's side."""
        self._loop = loop
        self._done = done
        self._failed = failed
        self._mask = 0
        self._context = context
        self._host = host
        self._socket = connected
        self._tls: ssl.SSLSocket | None = None
        loop.soon(self._step)

    def cancel(self) -> None:
        """Give up, and close the socket."""
        self._forget()
        self._socket.close()

    def _step(self, mask: int = 0) -> None:
        if self._socket.fileno() < 0:
            return
        try:
            if self._tls is None:  # refuses a connection that was reset meanwhile
                self._socket = self._tls = self._wrap()
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._wait(READ)
        except ssl.SSLWantWriteError:
            self._wait(WRITE)
        except OSError as error:
            self._forget()
            self._loop.count("handshake", label(error))
            Lingering(self._loop, self._socket)  # the alert is to arrive
            self._failed(explain(error))
        else:
            self._forget()
            self._done(self._tls)

    def _wrap(self) -> ssl.SSLSocket:
        return self._context.wrap_socket(
            self._socket,
            server_side=self._host is None,
            server_hostname=self._host,
            do_handshake_on_connect=False,
            suppress_ragged_eofs=False,  # a stream that is cut is told from one that has ended
        )

    def _wait(self, mask: int) -> None:
        if not self._mask:
            self._loop.add(self._socket.fileno(), mask, self._step)
        elif mask != self._mask:
            self._loop.modify(self._socket.fileno(), mask)
        self._mask = mask

    def _forget(self) -> None:
        if self._mask:
            self._loop.remove(self._socket.fileno())
            self._mask = 0


def _context(side: int, options: TlsOptions) -> ssl.SSLContext:
    for path in options:
        _check_file(path, secret=path == options.key)
    context = ssl.SSLContext(side)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    try:
        context.load_verify_locations(options.ca)
    except ssl.SSLError as error:
        raise KwireError("use", options.ca, "it holds no certificate in PEM form", MAKE) from error
    try:
        context.load_cert_chain(options.cert, options.key, password=lambda: "")
    except ssl.SSLError as error:
        cause = {
            "KEY_VALUES_MISMATCH": f"it is not the key of {options.cert}",
            "NO_START_LINE": "it, or the certificate, is not in PEM form",
        }.get(error.reason or "", "it, or the certificate, cannot be read, or is encrypted")
        raise KwireError("use", options.key, cause, MAKE) from error
    return context


def _check_file(path: str, secret: bool) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # what is no file is not waited for
        mode = os.fstat(fd).st_mode
        os.close(fd)
    except OSError as error:
        raise KwireError("read", path, (error.strerror or str(error)).lower(), MAKE) from error
    if not stat.S_ISREG(mode):
        what = "a directory" if stat.S_ISDIR(mode) else "not a file"
        raise KwireError("read", path, f"it is {what}", "name a PEM file")
    if secret and mode & stat.S_IRWXO:
        raise KwireError("use", path, "everybody may read this private key", f"chmod 600 {path}")
