"""Who we are to a broker, each way: real servers with accounts; the verbs as a user starts them."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from brokers import Server, free_ports, needed
from test_fleet import AGENT, FOLDERS
from waiting import until

from kwire.transport.certs import make_certs

REFUSED = "it refuses who we are"
OURS = "it refuses our certificate, or we show it none"


class Way(NamedTuple):
    """A way to be known: the server's configuration, the options of who is known, and of who is not, with
    what each of these is told.
    """

    config: str
    right: list[str]
    wrong: list[tuple[list[str], str]]
    host: str = "127.0.0.1"


def secret(path: Path, text: str | bytes) -> str:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(0o600)
    return str(path)


def user(folder: Path) -> Way:
    right, wrong = secret(folder / "right", "p@ss\n"), secret(folder / "wrong", "p@ssword")
    return Way(
        'authorization { user: me, password: "p@ss" }',
        ["--nats-user", "me", "--nats-password", right],
        [
            (["--nats-user", "me", "--nats-password", wrong], REFUSED),
            (["--nats-user", "you", "--nats-password", right], REFUSED),
            ([], REFUSED),
        ],
    )


def token(folder: Path) -> Way:
    right, wrong = secret(folder / "right", "s3cret"), secret(folder / "wrong", "secret")
    return Way(
        "authorization { token: s3cret }", ["--nats-token", right], [(["--nats-token", wrong], REFUSED)]
    )


def pair(prefix: str, number: int) -> Any:
    """A pair of keys: always the same one."""
    nkeys = pytest.importorskip("nkeys", reason="nkeys is not installed")
    return nkeys.from_seed(nkeys.encode_seed(bytes([number] * 32), getattr(nkeys, f"PREFIX_BYTE_{prefix}")))


def nkey(folder: Path) -> Way:
    known, other = pair("USER", 1), pair("USER", 2)
    right, wrong = (secret(folder / f"seed{n}", bytes(one.seed)) for n, one in enumerate((known, other)))
    return Way(
        f"authorization {{ users = [ {{ nkey: {known.public_key.decode()} }} ] }}",
        ["--nats-nkey", right],
        [(["--nats-nkey", wrong], REFUSED)],
    )


def jwt(issuer: Any, subject: Any, name: str, nats: dict[str, Any], **more: Any) -> str:
    """What an issuer says of a subject, as nsc writes it."""

    def encoded(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    claims = {"iss": issuer.public_key.decode(), "sub": subject.public_key.decode(), "name": name, **more}
    claims |= {"iat": int(time.time()), "nats": {**nats, "version": 2}}
    digest = hashlib.sha256(json.dumps(claims).encode()).digest()
    claims["jti"] = base64.b32encode(digest).rstrip(b"=").decode()
    head = encoded(json.dumps({"typ": "JWT", "alg": "ed25519-nkey"}).encode())
    body = f"{head}.{encoded(json.dumps(claims).encode())}"
    return f"{body}.{encoded(issuer.sign(body.encode()))}"


def creds(folder: Path) -> Way:
    """An operator, its account, users of that; the server has the account in memory."""
    operator, account, system = pair("OPERATOR", 1), pair("ACCOUNT", 2), pair("ACCOUNT", 3)
    room = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer", "subs", "conn"), -1)
    room |= dict.fromkeys(("data", "payload", "imports", "exports", "leaf"), -1)
    accounts = {
        one.public_key.decode(): jwt(operator, one, name, {"type": "account", "limits": limits})
        for one, name, limits in ((account, "A", room | {"wildcards": True}), (system, "SYS", {}))
    }

    def file(name: str, issuer: Any, subject: Any, signs: Any, **more: Any) -> str:
        limits = {"subs": -1, "data": -1, "payload": -1}
        said = jwt(issuer, subject, name, {"type": "user", "pub": {}, "sub": {}, **limits}, **more)
        return secret(
            folder / f"{name}.creds",
            f"-----BEGIN NATS USER JWT-----\n{said}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{bytes(signs.seed).decode()}\n------END USER NKEY SEED------\n",
        )

    known, other = pair("USER", 4), pair("USER", 5)
    config = (
        f"operator: {jwt(operator, operator, 'O', {'type': 'operator'})}\nresolver: MEMORY\n"
        f"system_account: {system.public_key.decode()}\nresolver_preload: {{\n"
        + "\n".join(f"{name}: {said}" for name, said in accounts.items())
        + "\n}"
    )
    return Way(
        config,
        ["--nats-creds", file("right", account, known, known)],
        [
            (["--nats-creds", file("stranger", pair("ACCOUNT", 6), known, known)], REFUSED),
            (["--nats-creds", file("other", account, known, other)], REFUSED),
            (["--nats-creds", file("expired", account, known, known, exp=int(time.time()) - 60)], REFUSED),
            (["--nats-nkey", secret(folder / "seed", bytes(known.seed))], REFUSED),
        ],
    )


def tls(folder: Path) -> Way:
    """The broker's certificate is checked."""
    made, others = certificates(folder / "made"), certificates(folder / "others")
    return Way(
        f'tls {{ cert_file: "{made}/cert.pem", key_file: "{made}/key.pem" }}',
        ["--tls-ca", f"{made}/ca.pem"],
        [
            (["--tls-ca", f"{others}/ca.pem"], "its certificate is refused: "),
            ([], "its certificate is refused: "),
        ],
        "localhost",
    )


def tls_both(folder: Path) -> Way:
    """And so is ours."""
    made, others = certificates(folder / "made"), certificates(folder / "others")
    ours = ["--tls-cert", f"{made}/cert.pem", "--tls-key", f"{made}/key.pem"]
    theirs = ["--tls-cert", f"{others}/cert.pem", "--tls-key", f"{others}/key.pem"]
    files = f'cert_file: "{made}/cert.pem", key_file: "{made}/key.pem", ca_file: "{made}/ca.pem"'
    return Way(
        f"tls {{ {files}, verify: true }}",
        ["--tls-ca", f"{made}/ca.pem", *ours],
        [
            (["--tls-ca", f"{made}/ca.pem", *theirs], OURS),
            (["--tls-ca", f"{made}/ca.pem"], OURS),
        ],
        "localhost",
    )


def certificates(folder: Path) -> Path:
    folder.mkdir()
    make_certs(str(folder), ["localhost"])
    return folder / "localhost"


WAYS: dict[str, Callable[[Path], Way]] = {
    "user": user,
    "token": token,
    "nkey": nkey,
    "creds": creds,
    "tls": tls,
    "tls of both": tls_both,
}


@pytest.mark.native
@pytest.mark.parametrize("name", WAYS)
def test_who_is_known_is_let_in_and_who_is_not_is_told_in_a_line(name: str, tmp_path: Path) -> None:
    needed()
    way = WAYS[name](tmp_path)
    with Server(tmp_path / "broker", free_ports(1)[0], way.config) as server:
        url = f"nats://{way.host}:{server.port}"
        assert fleet("init", url, way.right).returncode == 0
        for number, (options, why) in enumerate(way.wrong):
            done = fleet("status", url, options)
            assert (done.returncode, done.stdout) == (1, "")
            assert one_line(done.stderr) == f"kwire: connect to {url}: {why}"
            refused_for_ever(url, options, why, tmp_path / f"wrong{number}")
        agent = start([sys.executable, "-c", AGENT, *recording(url), *way.right], tmp_path / "agent")
        assert agent.wait() == 0, (tmp_path / "agent").read_text()
        collector = start(collect(url, tmp_path / "captures", way.right), tmp_path / "collector")
        until(lambda: "has ended: " in (tmp_path / "collector").read_text())
        collector.send_signal(signal.SIGINT)
        assert collector.wait() == 0
        assert fleet("status", url, way.right).returncode == 0


@pytest.mark.native
def test_a_broker_that_goes_away_over_tls_is_told_in_our_lines_only(tmp_path: Path) -> None:
    needed()
    way = tls(tmp_path)
    with Server(tmp_path / "broker", free_ports(1)[0], way.config) as server:
        url = f"nats://{way.host}:{server.port}"
        assert fleet("init", url, way.right).returncode == 0
        said = tmp_path / "said"
        job = start(collect(url, tmp_path / "captures", way.right), said)
        until(partial(says, said, "takes from"), said.read_text)
        server.kill()
        until(partial(says, said, "(trying again)"), said.read_text)
        job.send_signal(signal.SIGINT)
        assert job.wait() == 0
        lines = said.read_text().splitlines()
        assert [line for line in lines if not line.startswith("kwire: ")] == ["no events"]


def refused_for_ever(url: str, options: list[str], why: str, folder: Path) -> None:
    """Agent and collector say once why they are not let in, and try again until they are told to leave."""
    folder.mkdir()
    line = f"kwire: connect to {url}: {why} (trying again)"
    for who, command, status in (
        ("agent", [sys.executable, "-c", AGENT, *recording(url), *options], (1, 3)),
        ("collector", collect(url, folder / "captures", options), (1,)),
    ):
        said = folder / who
        job = start(command, said)
        until(partial(says, said, why), said.read_text)
        job.send_signal(signal.SIGINT)
        assert job.wait() in status, said.read_text()
        assert [one_line(each) for each in said.read_text().splitlines() if why in each] == [line]
        assert "Traceback" not in said.read_text()


def says(path: Path, text: str) -> bool:
    return text in path.read_text()


def one_line(said: str) -> str:
    """What is said in a line, without what a library says of a certificate."""
    [line] = said.splitlines()
    head, refused, rest = line.partition("its certificate is refused: ")
    return head + refused + (" (trying again)" if rest.endswith(" (trying again)") else "")


def recording(url: str) -> list[str]:
    return ["--to", url, "--name", "web1", "fault:probe", "-d", "0.1", "--grace", "0.1"]


def collect(url: str, folder: Path, options: list[str]) -> list[str]:
    return [sys.executable, "-m", "kwire", "collect", "--from", url, "-w", str(folder), *options]


def start(command: list[str], said: Path) -> subprocess.Popen[bytes]:
    with said.open("w") as out:
        return subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, "PYTHONPATH": FOLDERS})


def fleet(what: str, url: str, options: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kwire", "fleet", what, url, *options]
    return subprocess.run(command, capture_output=True, text=True)
