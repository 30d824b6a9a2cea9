"""Real nats-servers on loopback, one or a cluster, each in a folder of its own; ended with the test."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from waiting import until

T = TypeVar("T")

SERVER = shutil.which("nats-server") or shutil.which("nats-server", path="/usr/sbin:/usr/local/sbin")


def needed() -> None:
    """Skip where there is no broker, or no client."""
    if SERVER is None:
        pytest.skip("nats-server is not installed")
    pytest.importorskip("nats", reason="nats-py is not installed")


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody has."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Server:
    """One nats-server; `config` goes into its configuration."""

    def __init__(
        self, folder: Path, port: int, config: str = "", name: str = "n1", jetstream: bool = True
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.port, self.name = folder, port, name
        self._config = folder / "server.conf"
        store = f'jetstream {{ store_dir: "{folder}/store", max_mem: 64M, max_file: 16G }}'
        self._config.write_text(
            f'listen: "127.0.0.1:{port}"\nserver_name: {name}\n{store if jetstream else ""}\n{config}\n'
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        assert SERVER is not None
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen([SERVER, "-c", self._config], stdout=log, stderr=log)
        until(self._listens, self.log)

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    @property
    def alive(self) -> bool:
        """Whether it was started, and not killed since."""
        return self._process is not None

    def log(self) -> str:
        return (self.folder / "log").read_text()[-2000:]

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class Cluster:
    """Three of them."""

    def __init__(self, folder: Path, size: int = 3) -> None:
        ports = free_ports(2 * size)
        clients, routes = ports[:size], ports[size:]
        peers = ", ".join(f'"nats-route://127.0.0.1:{port}"' for port in routes)
        self.servers = [
            Server(
                folder / f"n{index}",
                clients[index],
                f'cluster {{ name: kwire, listen: "127.0.0.1:{routes[index]}", routes: [{peers}] }}',
                f"n{index}",
            )
            for index in range(size)
        ]

    @property
    def url(self) -> str:
        return "nats://" + ",".join(f"127.0.0.1:{one.port}" for one in self.servers)

    def __enter__(self) -> Cluster:
        for one in self.servers:
            one.start()
        return self

    def __exit__(self, *_: object) -> None:
        for one in self.servers:
            one.kill()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A broker with stream and bucket."""
    needed()
    with Server(tmp_path / "broker", free_ports(1)[0]) as server:
        init(server.url)
        yield server


def ask(url: str, question: Callable[[Any, Any], Awaitable[T]], patience: float = 5.0, **options: Any) -> T:
    """Ask a broker something through a client and JetStream of our own; seconds for each answer."""

    async def main() -> T:
        import nats

        nc = await nats.connect(url.split(","), **options)
        try:
            return await question(nc, nc.jetstream(timeout=patience))
        finally:
            await nc.close()

    return asyncio.run(main())


def messages(url: str, **options: Any) -> list[Any]:
    """All messages of the stream, in order."""

    async def read(nc: Any, js: Any) -> list[Any]:
        state = (await js.stream_info("KWIRE")).state
        if not state.messages:
            return []
        return [await js.get_msg("KWIRE", n) for n in range(state.first_seq, state.last_seq + 1)]

    return ask(url, read, **options)


def init(url: str, patience: float = 5.0, **limits: Any) -> None:
    """Make stream and bucket, as `kwire fleet init`; seconds for each answer."""
    from kwire.broker import setup
    from kwire.broker.address import parse_broker

    address = parse_broker(url)
    ask(
        ",".join(f"nats://127.0.0.1:{one.port}" for one in address.servers),
        lambda nc, js: setup.init(js, address, limits),
        patience,
    )
