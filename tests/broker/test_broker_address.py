"""Addresses of brokers, and the files that say who we are."""

from pathlib import Path

import pytest

from kwire.broker.address import check_broker_secure, is_broker, parse_broker, read_login
from kwire.broker.names import group, number_of, read_counts, session_of, subject, token, write_counts
from kwire.errors import KwireError


@pytest.mark.parametrize(
    ("text", "shown", "user", "password"),
    [
        ("nats://a", "nats://a:4222", "", ""),
        ("nats://a:1,b,[::1]:3", "nats://a:1,b:4222,[::1]:3", "", ""),
        ("nats://[::1]", "nats://[::1]:4222", "", ""),
        ("nats://me:p%40ss@a:1/", "nats://a:1", "me", "p@ss"),
        ("nats://me@a", "nats://a:4222", "me", ""),
    ],
)
def test_addresses(text: str, shown: str, user: str, password: str) -> None:
    address = parse_broker(text)
    assert (str(address), address.user, address.password) == (shown, user, password)
    assert is_broker(text)


@pytest.mark.parametrize(
    "text",
    ["nats:a", "nats://", "nats://a,", "nats://a:x", "nats://@a", "nats://a:0", "nats://me:secret@a b"],
)
def test_what_is_no_address_is_refused_without_its_password(text: str) -> None:
    with pytest.raises(KwireError) as caught:
        parse_broker(text)
    assert "nats://HOST:4222,HOST2:4222" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_other_machines_are_spoken_to_with_tls_only() -> None:
    here, there = parse_broker("nats://127.0.0.1,localhost"), parse_broker("nats://127.0.0.1,a.example")
    check_broker_secure(here, read_login(here), insecure=False)
    check_broker_secure(there, read_login(there), insecure=True)
    with pytest.raises(KwireError, match="read and changed"):
        check_broker_secure(there, read_login(there), insecure=False)


def test_who_we_are_is_read_from_files(tmp_path: Path) -> None:
    address = parse_broker("nats://localhost")

    def file(name: str, text: str, mode: int = 0o600) -> str:
        path = tmp_path / name
        path.write_text(text)
        path.chmod(mode)
        return str(path)

    secret = file("secret", "# a comment\n\n s3cret \nmore\n")
    assert read_login(address, token_file=secret).token == "s3cret"
    assert read_login(address, nkey=secret).seed == "s3cret"
    assert read_login(address, user="me", password_file=secret)[:2] == ("me", "s3cret")
    creds = file(
        "creds",
        "-----BEGIN NATS USER JWT-----\neyJ0.eyJq\n------END NATS USER JWT------\n\nIMPORTANT\n"
        "-----BEGIN USER NKEY SEED-----\nSUAB\n------END USER NKEY SEED------\n",
    )
    assert read_login(address, creds=creds)[3:5] == ("SUAB", "eyJ0.eyJq")
    for wrong, why in (
        ({"creds": secret}, "no user JWT"),
        ({"nkey": file("open", "x", 0o644)}, "others may read it"),
        ({"nkey": str(tmp_path / "none")}, "no such file"),
        ({"nkey": file("empty", "#\n")}, "it is empty"),
        ({"nkey": secret, "creds": creds}, "an NKey and credentials are named"),
        ({"password_file": secret}, "a password has no user"),
        ({"cert": secret, "key": secret}, "no CA is named"),
        ({"ca": secret}, "use TLS"),
    ):
        with pytest.raises(KwireError, match=why):
            read_login(address, **wrong)


def test_names() -> None:
    session = bytes(range(16))
    assert subject("web1.example", session) == f"kwire.web1-example.{session.hex()}"
    assert session_of(subject("*.>", session)) == session.hex()
    assert session_of("kwire.a.b.c") == session_of("kwire.a.12") == session_of(f"x.a.{session.hex()}") == ""
    assert token("..") == "unknown"
    assert number_of(f"{session.hex()}-12", session.hex()) == 12
    for other in (f"{session.hex()}-4294967296", f"{session.hex()}-", "12", f"{bytes(16).hex()}-12"):
        assert number_of(other, session.hex()) is None
    assert group("night-shift") == "night-shift"
    with pytest.raises(KwireError, match="no name of a group"):
        group("a.b")


def test_counts_travel_as_text() -> None:
    assert read_counts(write_counts({2: 5, 1: 3, 3: 0}, 3)) == {1: 3, 2: 5}
    assert read_counts(write_counts({1: 3, 17: 5}, 17)) == {0: 8}
    assert read_counts(write_counts({}, 1)) == {}
    for wrong in (None, "1", "a=1", "1=-1", "1=²", "1=1 " * 2000):
        assert read_counts(wrong) is None
