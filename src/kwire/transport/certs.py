"""Certificates for a first try: a small CA, and for each role or host a directory that is ready to copy.

Invariants: private keys are files of mode 0600, made so, never widened; nothing that exists is overwritten,
so a second call adds to the same CA; nothing is printed here. Needs `cryptography`: pip install 'kwire[tls]'.
"""

from __future__ import annotations

import os
import re
import socket
from typing import TYPE_CHECKING, NamedTuple

from kwire.capture.destination import put
from kwire.errors import KwireError
from kwire.transport.tls import FILES

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

ROLES: dict[str, str] = {
    "agent": "machines that run kwire agent",
    "collector": "the machine that runs kwire collect",
    "client": "whoever runs kwire record -H or trace -H",
}
"""Directory → who gets it."""

CA_YEARS = 10
CERT_YEARS = 2
CA_KEY = "ca-key.pem"
TARGET = "/etc/kwire"


class IssuedCertificate(NamedTuple):
    """A directory with ca.pem, cert.pem and key.pem."""

    name: str  # the common name: what a policy knows it by
    directory: str
    names: tuple[str, ...]  # host names and addresses that it is good for
    new: bool  # False: it was there before and was left as it is


def make_certs(directory: str, names: list[str] | None = None) -> list[IssuedCertificate]:
    """Make a CA in `directory` and below it a directory for each role and for each of `names`.

    Roles are good for this machine (its host name, localhost, 127.0.0.1, ::1), a host in `names` (a host name
    or an address) for itself. Raises KwireError where `cryptography` is lacking, a name is none, or files
    cannot be written.
    """
    try:
        import cryptography  # noqa: F401  # only to see that it is there
    except ImportError as error:
        raise KwireError(
            "make", "certificates", "cryptography is not installed", "pip install 'kwire[tls]'"
        ) from error
    wanted = {role: _here() for role in ROLES} | {_checked(name): (name,) for name in names or []}
    try:
        os.makedirs(directory, mode=0o755, exist_ok=True)
        ca = _authority(directory)
        return [_one(directory, ca, name, hosts) for name, hosts in wanted.items()]
    except OSError as error:
        raise KwireError(
            "make certificates in",
            directory,
            (error.strerror or str(error)).lower(),
            "choose a directory of yours",
        ) from error


def instructions(directory: str, made: list[IssuedCertificate]) -> list[str]:
    """What to copy where, a line each."""
    lines = []
    for one in made:
        whom = ROLES.get(one.name, f"{one.name}, as agent, collector or client")
        state = "made" if one.new else "kept"
        lines.append(f"{state} {one.directory}: for {whom}; good for {', '.join(one.names)}")
    lines += [
        f"copy the three files of one directory to {TARGET} or ~/.config/kwire of its machine, or set "
        "KWIRE_TLS to the directory; tls: addresses need nothing more",
        f"keep {os.path.join(directory, CA_KEY)} to yourself: whoever has it can make further certificates",
    ]
    return lines


def _here() -> tuple[str, ...]:
    host = socket.gethostname()
    names = [host] if _is_name(host) else []
    return tuple(dict.fromkeys([*names, "localhost", "127.0.0.1", "::1"]))


def _is_name(name: str) -> bool:
    return re.fullmatch(r"(?![-.])[A-Za-z0-9.-]{1,64}", name) is not None


def _checked(name: str) -> str:
    if name in ROLES:
        raise KwireError(
            "make certificate", name, "that is a role's directory", "name a host by another name"
        )
    if not _is_name(name) and _address(name) is None:
        raise KwireError(
            "make certificate", ascii(name), "that is no host name and no address", "write a name"
        )
    return name


def _address(name: str) -> x509.IPAddress | None:
    import ipaddress

    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return None


def _authority(directory: str) -> tuple[EllipticCurvePrivateKey, x509.Certificate]:
    """The CA of the directory, made if there is none."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key_path, cert_path = os.path.join(directory, CA_KEY), os.path.join(directory, FILES["ca"])
    if os.path.exists(key_path) and os.path.exists(cert_path):
        with open(key_path, "rb") as key_file, open(cert_path, "rb") as cert_file:
            try:
                key = serialization.load_pem_private_key(key_file.read(), None)
                cert = x509.load_pem_x509_certificate(cert_file.read())
            except (ValueError, TypeError) as error:
                raise KwireError("read", key_path, "no CA is in it", "choose an empty directory") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != cert.public_key():
            raise KwireError(
                "use", key_path, f"it is not the key of {cert_path}", "choose an empty directory"
            )
        return key, cert
    _free(key_path, cert_path)
    key = ec.generate_private_key(ec.SECP256R1())
    name = f"kwire CA of {socket.gethostname()}"[:64]
    cert = _sign(key, name, key, None, ())
    put(key_path, _private(key), 0o600, clobber=False)
    put(cert_path, cert.public_bytes(serialization.Encoding.PEM), 0o644, clobber=False)
    return key, cert


def _one(
    directory: str, ca: tuple[EllipticCurvePrivateKey, x509.Certificate], name: str, hosts: tuple[str, ...]
) -> IssuedCertificate:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    place = os.path.join(directory, name)
    paths = {what: os.path.join(place, file) for what, file in FILES.items()}
    if all(map(os.path.exists, paths.values())):
        return IssuedCertificate(name, place, hosts, new=False)
    _free(*paths.values())
    os.makedirs(place, mode=0o700, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    cert = _sign(key, name, *ca, hosts)
    put(paths["key"], _private(key), 0o600, clobber=False)
    for what, value in (("cert", cert), ("ca", ca[1])):
        put(paths[what], value.public_bytes(serialization.Encoding.PEM), 0o644, clobber=False)
    return IssuedCertificate(name, place, hosts, new=True)


def _sign(
    key: EllipticCurvePrivateKey,
    name: str,
    ca_key: EllipticCurvePrivateKey,
    ca: x509.Certificate | None,
    hosts: tuple[str, ...],
) -> x509.Certificate:
    """A certificate of `name` for `key`; a CA's own where `ca` is None."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    is_ca = ca is None
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(ca.subject if ca else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # clocks of first tries differ
        .not_valid_after(now + datetime.timedelta(days=365 * (CA_YEARS if is_ca else CERT_YEARS)))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=0 if is_ca else None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .add_extension(
            x509.KeyUsage(
                digital_signature=not is_ca,
                key_cert_sign=is_ca,
                crl_sign=is_ca,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    if not is_ca:
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]  # either side may connect
        builder = builder.add_extension(x509.ExtendedKeyUsage(both), critical=False)
        alternatives = [_address(host) or x509.DNSName(host) for host in hosts]
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    return builder.sign(ca_key, hashes.SHA256())


def _private(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _free(*paths: str) -> None:
    """Raise KwireError where one of these is there: somebody's key or certificate, alone."""
    for path in paths:
        if os.path.lexists(path):
            cause = "it is there without what belongs to it"
            raise KwireError("make certificates", path, cause, "move it away, or choose an empty directory")
