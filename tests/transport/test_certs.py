"""Certificates: made well, by openssl's judgement too; files that are not good are one line."""

from __future__ import annotations

import os
import shutil
import ssl
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kwire.errors import KwireError
from kwire.transport.certs import ROLES, instructions, make_certs
from kwire.transport.tls import FILES, REASONS, TlsOptions, client_context, complete, server_context

OPENSSL = shutil.which("openssl")


def test_each_role_gets_a_directory_that_works(certs: Path, tls: Callable[[str], TlsOptions]) -> None:
    for role in ROLES:
        assert sorted(os.listdir(certs / role)) == sorted(FILES.values())
        for context in (server_context(tls(role)), client_context(tls(role))):
            assert context.minimum_version == context.maximum_version == ssl.TLSVersion.TLSv1_3
            assert context.verify_mode == ssl.CERT_REQUIRED
        assert client_context(tls(role)).check_hostname


def test_keys_are_for_their_owner_only(certs: Path) -> None:
    keys = [*(certs / role / "key.pem" for role in ROLES), certs / "ca-key.pem"]
    assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}


@pytest.mark.skipif(OPENSSL is None, reason="no openssl")
def test_openssl_finds_them_good(certs: Path) -> None:
    assert OPENSSL
    for role in ROLES:
        for purpose in ("sslserver", "sslclient"):
            done = subprocess.run(
                [
                    *(
                        OPENSSL,
                        "verify",
                        "-x509_strict",
                        "-purpose",
                        purpose,
                        "-verify_hostname",
                        "localhost",
                    ),
                    *("-verify_ip", "127.0.0.1", "-CAfile", certs / "ca.pem", certs / role / "cert.pem"),
                ],
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr


def test_a_second_call_adds_to_the_same_ca_and_overwrites_nothing(tmp_path: Path) -> None:
    first = make_certs(str(tmp_path), ["web1"])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.pem")}
    second = make_certs(str(tmp_path), ["web1", "10.0.0.7"])
    assert {path: path.read_bytes() for path in before} == before
    assert all(made.new for made in first)
    assert [made.name for made in second if made.new] == ["10.0.0.7"]
    text = "\n".join(instructions(str(tmp_path), second))
    assert f"made {tmp_path}/10.0.0.7" in text
    assert f"kept {tmp_path}/web1" in text
    assert "/etc/kwire" in text
    client_context(
        TlsOptions(*(str(tmp_path / "10.0.0.7" / f"{name}.pem") for name in ("cert", "key", "ca")))
    )


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", "agent", ".", "x\n", "-x"])
def test_names_that_are_none_are_refused_before_anything_is_made(tmp_path: Path, name: str) -> None:
    with pytest.raises(KwireError, match="make certificate"):
        make_certs(str(tmp_path / "new"), [name])
    assert not (tmp_path / "new").exists()


def test_a_foreign_ca_key_is_refused(tmp_path: Path) -> None:
    make_certs(str(tmp_path / "one"))
    make_certs(str(tmp_path / "two"))
    shutil.copy(tmp_path / "one" / "ca-key.pem", tmp_path / "two" / "ca-key.pem")
    with pytest.raises(KwireError, match="is not the key"):
        make_certs(str(tmp_path / "two"), ["new"])
    (tmp_path / "two" / "ca-key.pem").write_text("nonsense")
    with pytest.raises(KwireError, match="no CA is in it"):
        make_certs(str(tmp_path / "two"), ["new"])


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KwireError, match="make certificates in"):
        make_certs(str(tmp_path / "file" / "x"))


def test_without_cryptography_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(KwireError, match=r"pip install 'kwire\[tls\]'"):
        make_certs(str(tmp_path))


def test_where_certificates_are_looked_for(
    certs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KWIRE_TLS", str(certs / "agent"))
    assert complete(None).key == str(certs / "agent" / "key.pem")
    assert complete(TlsOptions(ca="mine.pem")) == TlsOptions(
        str(certs / "agent" / "cert.pem"), str(certs / "agent" / "key.pem"), "mine.pem"
    )
    monkeypatch.delenv("KWIRE_TLS")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    shutil.copytree(certs / "client", tmp_path / "kwire")
    assert complete(TlsOptions()).cert == str(tmp_path / "kwire" / "cert.pem")
    monkeypatch.setenv("KWIRE_TLS", str(tmp_path))
    with pytest.raises(KwireError, match=r"no cert\.pem, key\.pem, ca\.pem in .*--make-certs"):
        complete(None)


def damage(directory: Path, what: str) -> str:
    """Make one thing of the directory bad; what the error must say."""
    key, cert, ca = directory / "key.pem", directory / "cert.pem", directory / "ca.pem"
    if what == "no file":
        key.unlink()
        return "no such file"
    if what == "a directory":
        key.unlink()
        key.mkdir()
        return "is a directory"
    if what == "readable key":
        key.chmod(0o604)
        return "everybody may read this private key"
    if what == "no pem":
        cert.write_text("nonsense")
        return "PEM form|cannot be read"
    if what == "no ca":
        ca.write_text("nonsense")
        return "holds no certificate"
    if what == "empty ca":
        ca.write_text("")
        return "holds no certificate"
    if what == "another key":
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        other = ec.generate_private_key(ec.SECP256R1())
        key.write_bytes(
            other.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return "is not the key of"
    from cryptography.hazmat.primitives import serialization

    own = serialization.load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(
        own.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    return "encrypted"


DAMAGES = [
    "no file",
    "a directory",
    "readable key",
    "no pem",
    "no ca",
    "empty ca",
    "another key",
    "encrypted",
]


@pytest.mark.parametrize("what", DAMAGES)
def test_files_that_are_not_good_are_one_line(certs: Path, tmp_path: Path, what: str) -> None:
    directory = tmp_path / "agent"
    shutil.copytree(certs / "agent", directory)
    expected = damage(directory, what)
    options = TlsOptions(*(str(directory / f"{name}.pem") for name in ("cert", "key", "ca")))
    with pytest.raises(KwireError, match=f"(?i){expected}") as error:
        server_context(options)
    assert "\n" not in str(error.value)
    assert error.value.cure


def test_reasons_are_openssls() -> None:
    known = set(ssl.__dict__.get("_SSL_REASONS", ())) or None
    import _ssl

    known = known or {name for _, name in _ssl.err_codes_to_names.items()}
    assert set(REASONS) <= known
