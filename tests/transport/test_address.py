"""Addresses: what is one, what is refused and in which words, what may be spoken to in the clear."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwire.errors import KwireError
from kwire.transport import address
from kwire.transport.address import KINDS, Address, check_secure, parse, resolve

GOOD = [
    ("tcp:host:1", Address("tcp", "host", 1)),
    ("tcp:host", Address("tcp", "host", 17800)),
    ("tls:a.b-c.example:65535", Address("tls", "a.b-c.example", 65535)),
    ("udp:127.0.0.1:0", Address("udp", "127.0.0.1", 0)),
    ("tcp:[::1]:17801", Address("tcp", "::1", 17801)),
    ("udp:[::1]", Address("udp", "::1", 17800)),
    ("tcp:[fe80::1%eth0]:5", Address("tcp", "fe80::1%eth0", 5)),
    ("tcp::17800", Address("tcp", "", 17800)),
    ("tcp:", Address("tcp", "", 17800)),
    ("unix:/run/kwire.sock", Address("unix", path="/run/kwire.sock", port=0)),
    ("unix:a:b", Address("unix", path="a:b", port=0)),
]

BAD = [
    ("", "it has no scheme"),
    ("host", "it has no scheme"),
    ("http:host:80", "there is no scheme 'http'"),
    ("TCP:host:80", "there is no scheme 'TCP'"),
    ("tcp:17800", "write tcp:HOST:17800, or tcp::17800 to listen"),
    ("tcp:host:port", "'port' is no port"),
    ("tcp:host:65536", "'65536' is no port"),
    ("tcp:host:-1", "'-1' is no port"),
    ("tcp:host:٣", "'٣' is no port"),
    ("tcp:host:99999999999999999999", "is no port"),
    ("tcp:::1:5", "an IPv6 address stands in brackets"),
    ("tcp:[::1", "brackets around an IPv6 address are not closed"),
    ("tcp:[::1]5", "brackets around an IPv6 address are not closed"),
    ("tcp:[host]:5", "'host' is no IPv6 address"),
    ("tcp:[1::2::3]:5", "'1::2::3' is no IPv6 address"),
    ("tcp:[]:5", "is no IPv6 address"),
    ("tcp:a b:5", "'a b' is no host name"),
    ("tcp:-x:5", "'-x' is no host name"),
    ("tcp:höst:5", "'höst' is no host name"),
    ("unix:", "it has no path"),
    ("unix:a\0b", "a path has no NUL"),
    ("unix:/" + "x" * 107, "at most 107 bytes"),
]


@pytest.mark.parametrize(("text", "expected"), GOOD, ids=[text for text, _ in GOOD])
def test_good(text: str, expected: Address) -> None:
    assert parse(text) == expected
    assert parse(str(expected)) == expected


@pytest.mark.parametrize(("text", "cause"), BAD)
def test_bad_ones_are_refused_in_one_line_that_says_why(text: str, cause: str) -> None:
    with pytest.raises(KwireError) as error:
        parse(text)
    assert cause in str(error.value)
    assert error.value.cure
    assert "\n" not in str(error.value)
    assert "\0" not in str(error.value)


@given(st.text())
def test_any_text_is_an_address_or_an_error(text: str) -> None:
    try:
        found = parse(text)
    except KwireError:
        return
    assert found.kind in KINDS
    assert parse(str(found)) == found


def test_a_default_scheme() -> None:
    assert parse("host", kind="tls") == Address("tls", "host")
    assert parse("host:5", kind="tls") == Address("tls", "host", 5)
    assert parse("[::1]:5", kind="tls") == Address("tls", "::1", 5)
    assert parse("unix:/x", kind="tls").kind == "unix"


LOCAL = [
    *("tcp:127.0.0.1", "tcp:127.9.9.9:5", "udp:[::1]:5", "tcp:localhost", "tcp:LOCALHOST", "unix:/x"),
]
REMOTE = ["tcp:", "tcp:0.0.0.0", "udp:[::]", "tcp:10.0.0.1", "udp:host", "tcp:[::2]", "tcp:128.0.0.1"]


@pytest.mark.parametrize("text", LOCAL)
def test_this_machine_may_be_spoken_to_in_the_clear(text: str) -> None:
    assert parse(text).is_local
    check_secure(parse(text), insecure=False)


@pytest.mark.parametrize("text", REMOTE)
def test_others_only_where_it_is_written_out(text: str) -> None:
    assert not parse(text).is_local
    with pytest.raises(KwireError, match="--insecure"):
        check_secure(parse(text), insecure=False)
    check_secure(parse(text), insecure=True)


def test_tls_is_good_for_any() -> None:
    check_secure(parse("tls:host"), insecure=False)


def test_names_are_resolved_to_all_their_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 5, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 5)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 5)),
        (socket.AF_PACKET, socket.SOCK_STREAM, 6, "", ("x", 5)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **more: answers)
    assert resolve(parse("tcp:two.example:5")) == [
        (socket.AF_INET6, ("::1", 5, 0, 0)),
        (socket.AF_INET, ("127.0.0.1", 5)),
    ]


@pytest.mark.parametrize(
    "failure",
    [
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
        UnicodeError("label empty or too long"),
        [(socket.AF_PACKET, socket.SOCK_STREAM, 6, "", ("x", 5))],
    ],
)
def test_a_name_that_is_none_is_one_line(monkeypatch: pytest.MonkeyPatch, failure: object) -> None:
    def getaddrinfo(*args: object, **more: object) -> object:
        if isinstance(failure, Exception):
            raise failure
        return failure

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(KwireError, match=r"look up nobody\.example: ") as error:
        resolve(parse("tcp:nobody.example:5"))
    assert error.value.cure


def test_what_needs_no_name_server() -> None:
    assert all(address.is_numeric(parse(text)) for text in ("tcp:", "tcp:[::1]", "udp:10.0.0.1", "unix:/x"))
    assert not address.is_numeric(parse("tcp:host.example"))
