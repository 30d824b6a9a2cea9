"""The bucket's values, changed by several at once; and what a fleet looks like."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from brokers import Cluster, Server, ask, free_ports, init, needed
from waiting import until

from kwire.broker.client import Connection


def made(cluster: Cluster) -> bool:
    """Whether stream and bucket are there."""
    try:
        init(cluster.url, 1.0, replicas=3)
    except Exception:  # there is no leader yet
        return False
    return True


@pytest.mark.native
def test_of_changes_that_come_at_once_one_counts(tmp_path: Path) -> None:
    """Also in a cluster, whose servers of 2.9 let two of them pass where only the revision is looked at."""
    needed()
    with Cluster(tmp_path) as cluster:
        until(lambda: made(cluster))

        async def race(nc: Any, js: Any) -> list[int]:
            import nats

            clients = [await nats.connect(one.url) for one in cluster.servers]
            links = [Connection(one, one.jetstream()) for one in clients]
            winners, revision = list[int](), 0
            while len(winners) < 30:
                swaps = (link.swap("claims.x.y", b"z", revision) for link in (*links, *links))
                told = await asyncio.gather(*swaps, return_exceptions=True)
                won = [one for one in told if isinstance(one, int) and one]
                if won:
                    winners.append(len(won))
                    revision = won[0]
                else:  # the answer of the one that counts was lost: whoever swaps reads again
                    revision = (await links[0].get("claims.x.y"))[1]
            for one in clients:
                await one.close()
            return winners

        assert ask(",".join(one.url for one in cluster.servers), race) == [1] * 30


def test_what_is_at_the_broker_is_shown(server: Server) -> None:
    from test_fleet import agent

    produced = agent(server.url, "0.2")

    def status(*more: str) -> str:
        command = [sys.executable, "-m", "kwire", "fleet", "status", server.url, *more]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    [session] = json.loads(status("--json"))["sessions"]
    assert (session["host"], session["events"], session["over"], session["lag"]) == (
        "web1",
        produced,
        True,
        {},
    )
    assert f"web1                 {session['session'][:8]} ended {produced:>15,}" in status()


def status(url: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kwire", "fleet", "status", url]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.native
def test_verbs_end_where_a_broker_is_there_and_does_not_answer(tmp_path: Path) -> None:
    needed()
    with Server(tmp_path, free_ports(1)[0]) as server:
        server.signal(signal.SIGSTOP)
        done = status(server.url)
        server.signal(signal.SIGCONT)
    assert done.stderr == f"kwire: connect to {server.url}: it does not answer\n"
    assert done.returncode == 1


@pytest.mark.native
def test_verbs_end_where_most_of_a_cluster_is_gone(tmp_path: Path) -> None:
    needed()
    with Cluster(tmp_path) as cluster:
        until(lambda: made(cluster))
        for server in cluster.servers[:2]:
            server.kill()
        done = status(cluster.url)
    assert "does not answer" in done.stderr  # which of its questions, depends on who led
    assert len(done.stderr.splitlines()) == 1
    assert done.returncode == 1
