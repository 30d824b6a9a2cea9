"""Configuration files: each option has its key, the command line counts, a mistake its place; SIGHUP."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from site_of_one import events, schema
from waiting import PATIENCE, until

from kwire import toml
from kwire.agent.spool import begin
from kwire.broker.address import Login
from kwire.cli import configuration
from kwire.cli.configuration import options, parse
from kwire.cli.main import main, parser_of
from kwire.cli.reload import Reloader, Renewal, _copy
from kwire.errors import KwireError
from kwire.transport.certs import make_certs
from kwire.transport.loop import Loop
from kwire.transport.tls import TlsOptions, client_context
from kwire.wire.messages import totals_frames

ROOT = Path(__file__).resolve().parents[2]
VERBS = {"agent": "agent.toml", "collect": "collector.toml"}


def parser(verb: str) -> argparse.ArgumentParser:
    return parser_of(verb, importlib.import_module(f"kwire.cli.{verb}"))


def read(verb: str, path: Path, text: str, *words: str) -> argparse.Namespace:
    path.write_text(text)
    return parse(parser(verb), ["--config", str(path), *words], VERBS[verb])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file.toml"


def as_text(action: argparse.Action) -> tuple[str, str]:
    """A value of an option, in TOML and on the command line."""
    values = {"SIZE": "1M", "TIME": "5m", "SIZE|TIME": "300M", "COUNT": "7", "PID[,PID]": "12"}
    value = str(list(action.choices)[-1]) if action.choices else values.get(str(action.metavar), "a:b")
    return f'"{value}"', value


@pytest.mark.parametrize("verb", VERBS)
def test_each_option_has_its_key_and_means_the_same(verb: str, file: Path) -> None:
    """By the arguments' own table: one that is added is tried here."""
    known = options(parser(verb))
    assert {action.dest for action in known.values()} >= {
        "settings",
        "insecure",
        "tls_cert",
        "json",
        "metrics",
    }
    base = {"agent": ["--to", "x"], "collect": []}[verb]
    for key, action in known.items():
        if key in ("to", "listen", "verbose"):
            continue
        written, word = as_text(action)
        words = [action.option_strings[-1]] if action.option_strings else []
        text = f"{key} = true" if action.nargs == 0 else f"{key} = {written}"
        expected = parser(verb).parse_args([*base, *words, *([word] if action.nargs != 0 else [])])
        found = read(verb, file, f"{text}\n", *base)
        assert getattr(found, action.dest) == getattr(expected, action.dest), key
        others = {
            name: value for name, value in vars(expected).items() if name not in (action.dest, "config")
        }
        assert {name: getattr(found, name) for name in others} == others


def test_lists_numbers_tables_and_words(file: Path) -> None:
    args = read(
        "agent",
        file,
        """
to = "tcp:localhost"
probes = ["kprobe:a", "kprobe:b"]
memory = "2M"
grace = 2.5
pids = [1, "2,3"]
command = ["make", "all of it"]
count = 4
verbose = 2
[set]
keepalive = 5
""",
    )
    assert (args.probes, args.memory, args.grace) == (["kprobe:a", "kprobe:b"], 2 << 20, 2.5)
    assert (args.pids, args.command, args.count, args.verbose) == ([1, 2, 3], ["make", "all of it"], 4, 2)
    assert args.settings == ["keepalive=5"]
    keep = read("collect", file, 'keep = ["7d", "1G"]\n').keep
    assert keep == [(0, 7 * 86400), (1 << 30, 0)]
    assert read("collect", file, 'listen = "tls:"\n').listen == ["tls:"]


def test_the_command_line_counts(file: Path) -> None:
    args = read(
        "agent", file, 'to = "tcp:a"\nprobes = ["kprobe:a"]\nmemory = "2M"\n', "--listen", "tcp:b", "kprobe:b"
    )
    assert (args.to, args.listen, args.probes, args.memory) == (None, "tcp:b", ["kprobe:b"], 2 << 20)
    assert read("collect", file, 'keep = "7d"\n', "--keep", "1G").keep == [(1 << 30, 0)]


@pytest.mark.parametrize(
    ("verb", "text", "told"),
    [
        (
            "agent",
            'to = "x"\nspool_size = "4G"\n',
            ":2: there is no key 'spool_size'; did you mean spool-size?",
        ),
        ("agent", 'to = "x"\n\nmemmory = "4G"\n', ":3: there is no key 'memmory'; did you mean memory?"),
        ("collect", "[sets]\na = 1\n", ":1: there is no key 'sets'; did you mean set?"),
        ("collect", "\nconfig = 'x'\n", ":2: there is no key 'config'; there are "),
        ("agent", 'to = "x"\nmemory = "4"\n', ":2: memory: '4' has no unit; write 4K, 4M, or 4B for bytes"),
        ("agent", "to = 5\nlisten = 'x'\n", ":2: to and listen exclude each other; leave one out"),
        ("agent", "memory = '4M'\n", ": it has none of to, listen; write one of them"),
        ("collect", "sync = 'yes'\n", ":1: sync: it wants true or false, not a text"),
        ("collect", "rotate = ['1M']\n", ":1: rotate: it wants a text, or a number, not a list"),
        ("collect", "rotate = true\n", ":1: rotate: it wants a text, or a number, not true or false"),
        ("collect", "hosts = ''\n", ":1: hosts: it is empty"),
        ("collect", 'hosts = "a\\u0000"\n', ":1: hosts: it has a character NUL"),
        ("agent", "\nlog = 'yaml'\n", ":2: log: 'yaml' is none of text, json"),
        ("agent", "log-level = 3\n", ":1: log-level: '3' is none of debug, info, warning, error"),
        ("collect", "sync = true\nsync = false\n", ":2: it is no TOML: cannot overwrite a value"),
        ("collect", "sync = true\nkeep = [", ":2: it is no TOML: invalid value"),
        ("collect", "sync", ":1: it is no TOML: expected '=' after a key in a key/value pair"),
    ],
)
def test_a_mistake_has_its_place(verb: str, text: str, told: str, file: Path) -> None:
    with pytest.raises(KwireError) as caught:
        read(verb, file, text)
    assert f"{file}{told}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    for path, told in [(tmp_path / "none", "no such file"), (tmp_path, "is a directory")]:
        with pytest.raises(KwireError, match=told):
            parse(parser("collect"), ["--config", str(path)], "collector.toml")
    (tmp_path / "latin").write_bytes(b"sync = true\nname = '\xe4'\n")
    with pytest.raises(KwireError, match=r"latin:2: it is not in UTF-8"):
        parse(parser("collect"), ["--config", str(tmp_path / "latin")], "collector.toml")
    (tmp_path / "large").write_bytes(b"#" * (toml.MOST + 1))
    with pytest.raises(KwireError, match="larger than a megabyte"):
        parse(parser("collect"), ["--config", str(tmp_path / "large")], "collector.toml")
    (tmp_path / "deep").write_text("a = " + "[" * 5000)
    with pytest.raises(KwireError, match="it is no TOML"):
        parse(parser("collect"), ["--config", str(tmp_path / "deep")], "collector.toml")


def test_the_place_is_looked_at_where_nothing_else_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "collector.toml"
    monkeypatch.setattr(configuration, "path_of", lambda name: str(tmp_path / name))
    assert parse(parser("collect"), [], "collector.toml").reread is None
    place.write_text("sync = true\n")
    assert parse(parser("collect"), ["--json"], "collector.toml").sync
    assert not parse(parser("collect"), ["--rotate", "1M"], "collector.toml").sync
    place.unlink()
    with pytest.raises(KwireError, match="no such file"):
        parse(parser("collect"), ["--check"], "collector.toml")


def test_the_document_has_every_key() -> None:
    text = (ROOT / "docs" / "agents.md").read_text()
    begin, end = "<!-- configuration.markdown() -->\n", "\n<!-- end"
    table = configuration.markdown({verb: parser(verb) for verb in VERBS})
    assert text.partition(begin)[2].partition(end)[0].strip() == table.strip()


# ---------------------------------------------------------------------- --check


def kwire(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kwire.cli.main", *words], text=True, capture_output=True, timeout=PATIENCE
    )


def checked(verb: str, file: Path, text: str) -> tuple[int, str]:
    file.write_text(text)
    done = kwire(verb, "--config", str(file), "--check")
    assert len((done.stdout + done.stderr).splitlines()) == 1, done.stderr
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("verb", "text", "told"),
    [
        (
            "collect",
            'listen = ["unix:/x/s"]\nkeep = ["7d"]\nfolder = "DIR/in"\n',
            "in order: listening at unix:/x/s",
        ),
        ("collect", 'listen = ["tcp:10.0.0.1"]\n', "--insecure"),
        ("collect", 'listen = ["unix:/x/s"]\nhosts = "DIR/none"\n', "read hosts DIR/none: no such file"),
        ("collect", 'listen = ["unix:/x/s"]\nfolder = "DIR/file.toml/x"\n', "file.toml is no folder"),
        ("collect", 'listen = ["unix:/x/s"]\nset = ["nope=1"]\n', "there is no setting 'nope'"),
        ("collect", 'listen = ["unix:/x/s"]\nparquet = "DIR"\n', "it has other files, and is no lake"),
        (
            "collect",
            'listen = ["tls:"]\ntls-ca = "DIR/a"\ntls-cert = "DIR/b"\ntls-key = "DIR/c"\n',
            "DIR/b: no such file",
        ),
        ("collect", "sync = true\n", "from whom?"),
        ("collect", 'from = ["nats://127.0.0.1"]\ngroup = "a.b"\n', "no name of a group"),
        ("agent", 'to = "unix:/x"\nprobes = ["begin"]\n', "in order: to unix:/x, 1 probe"),
        ("agent", 'to = "unix:/x"\nprobes = ["begin", "kprob:x"]\n', "did you mean kprobe"),
        ("agent", 'to = "unix:/x"\n', "no PROBE is named"),
        ("agent", 'to = "unix:/x"\nprobes = ["a.bt", "b.bt"]\n', "an agent runs one script"),
        ("agent", 'to = "unix:/x"\nprobes = ["begin", "a.bt"]\n', "name FILE.bt alone"),
        ("agent", 'listen = "unix:/x"\nspool = "s"\nprobes = ["begin"]\n', "--spool goes with --to"),
        ("agent", 'listen = "unix:/x"\npolicy = "DIR/none"\n', "DIR/none"),
    ],
)
def test_check(verb: str, text: str, told: str, tmp_path: Path) -> None:
    status, said = checked(verb, tmp_path / "file.toml", text.replace("DIR", str(tmp_path)))
    assert told.replace("DIR", str(tmp_path)) in said
    assert status == (0 if "in order" in told else 1)
    assert [path.name for path in tmp_path.iterdir()] == ["file.toml"]


@pytest.mark.parametrize(
    ("text", "module", "told"),
    [
        ('metrics = ":17801"', "prometheus_client", "prometheus-client is not installed"),
        ('parquet = "lake"', "pyarrow", "pyarrow is not installed"),
        ('from = ["nats://127.0.0.1"]', "nats.aio.client", "nats-py is not installed"),
    ],
)
def test_check_finds_what_is_not_installed(
    text: str,
    module: str,
    told: str,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file.write_text(f'listen = ["unix:/x/s"]\n{text}\n')
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["collect", "--config", str(file), "--check"]) == 1
    assert told in capsys.readouterr().err


# ---------------------------------------------------------------------- SIGHUP


class Running:
    """A collector, or agent, that says what it does into a file."""

    def __init__(self, folder: Path, text: str, verb: str) -> None:
        self.folder, self.file = folder, folder / "collector.toml"
        self.file.write_text(text)
        self._log = (folder / "log").open("w")
        command = [sys.executable, "-m", "kwire.cli.main", verb, "--config", str(self.file)]
        self.process = subprocess.Popen(command, cwd=folder, stderr=self._log, stdout=self._log)
        until(lambda: "ing at " in self.said())

    def said(self) -> str:
        return (self.folder / "log").read_text()

    def hup(self, text: str, wanted: str) -> None:
        self.file.write_text(text)
        self.process.send_signal(signal.SIGHUP)
        until(lambda: wanted in self.said())

    def close(self) -> int:
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self._log.close()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    begun: list[Running] = []

    def start(text: str, verb: str = "collect") -> Running:
        begun.append(Running(tmp_path, text, verb))
        return begun[-1]

    yield start
    for one in begun:
        one.close()


def scraped(path: Path) -> str:
    with socket.socket(socket.AF_UNIX) as connected:
        connected.settimeout(PATIENCE)
        connected.connect(str(path))
        connected.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        parts = []
        while part := connected.recv(65536):
            parts.append(part)
    return b"".join(parts).decode()


def test_sighup_reads_it_again(running: Any, tmp_path: Path) -> None:
    own = (
        f'listen = ["unix:{tmp_path}/s"]\nfolder = "in"\nmetrics = "unix:{tmp_path}/metrics"\nlog = "json"\n'
    )
    collector = running(own)
    old = tmp_path / "in" / "host-20200101-000000.pcapng"
    captured = ROOT / "tests" / "data"
    old.write_bytes(next(path for path in sorted(captured.rglob("*.pcapng"))).read_bytes())
    os.utime(old, (1, 1))
    collector.hup(
        own + 'kep = "7d"\n', "there is no key 'kep'; did you mean keep?; what was configured before stays"
    )
    assert old.exists()
    collector.hup(own + 'keep = "7d"\n', 'is read again, certificates too"')
    until(lambda: not old.exists())
    assert "kwire_removed_files_total 1.0" in scraped(tmp_path / "metrics")
    collector.hup(own + "sync = true\n", "is read again, certificates too; restart for the new sync")
    assert collector.close() == 0
    told = [json.loads(line) for line in collector.said().splitlines() if line.startswith('{"time"')]
    assert [line["level"] for line in told if "stays in force" in line["message"]] == ["warning"]
    assert "Traceback" not in collector.said()


def test_a_large_file_of_certificates_is_handed_over_whole(file: Path) -> None:
    """A CA file may be that of a whole system."""
    file.write_bytes(os.urandom(300_000))
    copy = _copy(str(file), {"user": os.geteuid(), "group": os.getegid()})
    with open(copy, "rb") as handed:
        handed.seek(0)
        assert handed.read() == file.read_bytes()


def test_secrets_of_a_broker_are_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By a process that may: who asks is given what it says, and its certificates."""
    make_certs(str(tmp_path), ["localhost"])
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text("first\n")
    args = argparse.Namespace(
        config="agent.toml",
        to="nats://localhost",
        nats_user="",
        nats_password="",
        nats_token=str(token),
        nats_nkey="",
        nats_creds="",
        tls_ca=str(tmp_path / "ca.pem"),
        tls_cert="",
        tls_key="",
        insecure=False,
    )
    args.reread = lambda: (args, ["nats-token", "memory"])
    logins: list[Login] = []
    loop, reader = Loop(), Reloader(args, listens=False, kind="nats")
    reader.serve(loop, Renewal(login=logins.append))

    def asked() -> str:
        reader._ask()
        said = ""
        while not said:
            loop.turn(20)
            said = capsys.readouterr().err
        return said

    try:
        assert asked() == "kwire: agent.toml is read again, secrets too; restart for the new memory\n"
        token.write_text("second\n")
        asked()
        token.write_text("")
        assert "it is empty; what was configured before stays in force" in asked()
        assert [login.token for login in logins] == ["first", "second"]
        assert all(login.tls is not None and login.tls.get_ca_certs() for login in logins)
    finally:
        reader.close()
        loop.close()


def test_certificates_that_cannot_be_used_leave_the_probes_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All that was read is taken, or nothing."""
    make_certs(str(tmp_path), ["localhost"])
    names = {f"tls_{what}": str(tmp_path / "localhost" / f"{what}.pem") for what in ("ca", "cert", "key")}
    args = argparse.Namespace(config="agent.toml", to="tls:localhost", **names)
    args.reread = lambda: (args, [])
    taken: list[str] = []

    class Probes:
        """Of an agent, and what it has taken."""

        question: tuple[dict[str, Any], list[int]] = {}, []

        def take(self, told: dict[str, Any], data: bytes, descriptors: Sequence[int]) -> str:
            taken.append("probes")
            return ", probes"

    loop, reader = Loop(), Reloader(args, listens=False, kind="tls")
    renewal = Renewal(lambda context: taken.append("certificates"), probes=Probes())
    reader.serve(loop, renewal)
    room = os.memfd_create("answers")
    try:
        wrong = {"late": [], "certificates": 3, "keys": [], "added": []}
        with pytest.raises(KwireError):
            reader._change(wrong, b"", [os.dup(room) for _ in range(3)])
        assert taken == []
        sound = [os.open(names[f"tls_{what}"], os.O_RDONLY) for what in ("cert", "key", "ca")]
        assert reader._change(wrong, b"", sound) == ", certificates too, probes"
        assert taken == ["probes", "certificates"]
    finally:
        reader.close()
        loop.close()
    assert capsys.readouterr().err == ""


def test_a_secret_that_is_wrong_changes_nothing(running: Any, tmp_path: Path) -> None:
    """A seed that is none is found before anything is changed, and is not the end of the collector."""
    pytest.importorskip("nats")
    text = f'listen = ["unix:{tmp_path}/s"]\nfolder = "in"\nfrom = ["nats://127.0.0.1:1"]\n'
    collector = running(text)
    (tmp_path / "seed").write_text("no seed")
    (tmp_path / "seed").chmod(0o600)
    collector.hup(text + f'nats-nkey = "{tmp_path}/seed"\n', "what was configured before stays in force")
    collector.hup(text, "is read again, certificates too")
    assert "Traceback" not in collector.said()


@pytest.mark.parametrize("verb", ["collect", "agent"])
def test_sighup_reads_certificates_again(running: Any, tmp_path: Path, verb: str) -> None:
    """Who connects from then on sees the new one; a key that is wrong leaves the old one in force."""
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        make_certs(str(folder), ["localhost"])
    now = tmp_path / "now"
    now.symlink_to(first / "localhost")
    text = "".join(f'tls-{what} = "{now}/{what}.pem"\n' for what in ("ca", "cert", "key"))
    own = {"collect": 'listen = ["tls:localhost:0"]\nfolder = "in"\n', "agent": 'probes = ["begin"]\n'}
    text += own[verb] + ('listen = "tls:localhost:0"\n' if verb == "agent" else "")
    collector = running(text, verb)
    port = int(collector.said().split("ing at ")[1].split("\n")[0].rpartition(":")[2])

    def trusted(folder: Path) -> bool:
        paths = [str(folder / "localhost" / f"{what}.pem") for what in ("cert", "key", "ca")]
        try:
            with socket.create_connection(("localhost", port)) as plain:
                client_context(TlsOptions(*paths)).wrap_socket(plain, server_hostname="localhost").close()
        except (ssl.SSLError, ConnectionError):
            return False
        return True

    assert (trusted(first), trusted(second)) == (True, False)
    now.unlink()
    now.symlink_to(tmp_path / "nowhere")
    collector.hup(text, "what was configured before stays in force")
    assert (trusted(first), trusted(second)) == (True, False)
    now.unlink()
    now.symlink_to(second / "localhost")
    collector.hup(text, "is read again, certificates too")
    assert (trusted(first), trusted(second)) == (False, True)


def test_an_agent_that_is_nobody_shows_its_new_certificate(tmp_path: Path) -> None:
    """A spool is delivered to a collector that knows only the CA that came while the agent ran; a file that
    is wrong, a key that others may read: said, and nothing changes.
    """
    first, second, now = tmp_path / "first", tmp_path / "second", tmp_path / "now"
    for folder in (first, second):
        make_certs(str(folder), ["localhost"])
    now.symlink_to(first / "localhost")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    made = begin(str(tmp_path / "spool"), b"t" * 16, list(schema("web1").frames()), 1 << 20, 1 << 20)
    made.run()
    made.put(made.next, events(0, 10))
    made.put(made.next, b"".join(totals_frames({1: 10})))
    made.close()
    text = "".join(f'tls-{what} = "{now}/{what}.pem"\n' for what in ("ca", "cert", "key"))
    text += f'to = "tls:localhost:{port}"\nspool = "{tmp_path}/spool"\njson = true\n'
    file, log = tmp_path / "agent.toml", tmp_path / "log"
    file.write_text(text)
    command = [sys.executable, "-m", "kwire.cli.main"]
    with log.open("w") as told:
        agent = subprocess.Popen([*command, "agent", "--config", str(file)], stdout=told, stderr=told)
    names = [f"--tls-{what}={second}/localhost/{what}.pem" for what in ("ca", "cert", "key")]
    words = ["collect", "--listen", f"tls:localhost:{port}", *names, "-w", str(tmp_path / "in"), "-n", "10"]
    try:
        until(lambda: "trying again" in log.read_text())
        for wrong, said in (
            (text + "nope = 1\n", "there is no key 'nope'"),
            (text.replace(f"{now}/key", str(tmp_path / "open")), "everybody may read this private key"),
        ):
            (tmp_path / "open.pem").write_bytes((second / "localhost" / "key.pem").read_bytes())
            (tmp_path / "open.pem").chmod(0o644)
            file.write_text(wrong)
            agent.send_signal(signal.SIGHUP)
            until(lambda said=said: said in log.read_text())  # type: ignore[misc]
        assert log.read_text().count("what was configured before stays in force") == 2
        now.unlink()
        now.symlink_to(second / "localhost")
        file.write_text(text + 'memory = "32M"\n')
        agent.send_signal(signal.SIGHUP)
        until(lambda: "is read again, certificates too; restart for the new memory" in log.read_text())
        collected = subprocess.run([*command, *words], capture_output=True, text=True, timeout=PATIENCE)
        assert "localhost" in collected.stderr or "web1" in collected.stderr
        assert agent.wait(PATIENCE) == 0, log.read_text()
    finally:
        agent.kill()
        agent.wait()
    assert '"delivered": 1' in log.read_text()
    assert "Traceback" not in log.read_text()
