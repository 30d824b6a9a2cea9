"""What brokers need not know any more: removed by collectors, or by people; real servers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from brokers import Server, ask, messages
from fault_judge import look_into
from test_fleet import AGENT, FOLDERS, Fleet, agent
from waiting import until

from kwire.broker import forgetting
from kwire.broker.claims import Claims, Span
from kwire.broker.client import Connection
from kwire.broker.forgetting import Cleaner
from kwire.broker.names import claims_key, schema_key, session_key
from kwire.broker.sessions import Entry


def kwire(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "kwire", *words], capture_output=True, text=True)


def with_bucket(url: str, do: Callable[[Connection], Awaitable[Any]]) -> Any:
    async def main(nc: Any, js: Any) -> Any:
        return await do(Connection(nc, js, await js.key_value("kwire")))

    return ask(url, main)


def keys(url: str) -> list[str]:
    found: list[str] = sorted(with_bucket(url, lambda connection: connection.keys()))
    return found


def collected(fleet: Fleet, *more: str) -> dict[str, Any]:
    """Collect until a session has ended; the summary."""
    job = fleet.collect(*more)
    fleet.until("has ended: ")
    job.send_signal(signal.SIGINT)
    told: dict[str, Any] = json.loads(job.communicate()[0])
    return told


# --- by people


def test_a_host_that_is_gone_is_forgotten_and_others_are_not(server: Server, tmp_path: Path) -> None:
    agent(server.url, "0.1", name="web1")
    agent(server.url, "0.1", name="db1")
    done = kwire("fleet", "forget", server.url, "web1")
    assert (done.returncode, done.stdout) == (1, "")
    assert "messages of session " in done.stderr
    assert "are still to be collected; collect first; --force removes them uncollected" in done.stderr
    fleet = Fleet(tmp_path, server.url)
    job = fleet.collect()
    until(lambda: fleet.said.read_text().count("has ended: ") == 2, fleet.said.read_text)
    job.send_signal(signal.SIGINT)
    job.communicate()
    before = messages(server.url)
    mine = [one for one in before if ".web1." in one.subject]
    [told] = json.loads(kwire("fleet", "forget", server.url, "web1", "--json").stdout)
    assert (told["host"], told["messages"], told["uncollected"]) == ("web1", len(mine), 0)
    [other] = json.loads(kwire("fleet", "status", server.url, "--json").stdout)["sessions"]
    assert other["host"] == "db1"
    rest = other["session"]
    assert keys(server.url) == [f"claims.collectors.{rest}", f"schema.{rest}.0", f"session.{rest}"]
    info = ask(server.url, lambda nc, js: js.stream_info("KWIRE", subjects_filter=">"))
    assert list(info.state.subjects.values()) == [len(before) - len(mine)]
    done = kwire("fleet", "forget", server.url, rest[:8])
    told = f"{len(before) - len(mine)} messages removed from the stream"
    assert done.stderr == f"db1, session {rest[:8]}: forgotten; {told}\n"
    assert keys(server.url) == []
    for which in ("web1", rest[:8], "ab"):
        done = kwire("fleet", "forget", server.url, which)
        assert "there is no such host or session at the broker" in done.stderr
        assert done.returncode == 1


def test_uncollected_messages_are_removed_where_that_is_asked_for(server: Server) -> None:
    agent(server.url, "0.1")
    there = len(messages(server.url))
    [told] = json.loads(kwire("fleet", "forget", server.url, "web1", "--force", "--json").stdout)
    assert (told["messages"], told["uncollected"]) == (there, there)
    assert keys(server.url) == []


def test_of_an_agent_that_may_come_back_all_is_kept_until_it_is_forced(
    server: Server, tmp_path: Path
) -> None:
    """Collectors then give what they have of its session its ending, and say that nobody knows the rest."""
    fleet = Fleet(tmp_path, server.url)
    job = fleet.collect()
    command = [sys.executable, "-c", AGENT, "--to", server.url, "--name", "web1", "fault:probe"]
    with subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": FOLDERS}, stderr=subprocess.DEVNULL
    ) as one:
        fleet.until("is written to")
        one.kill()

    def lag() -> Any:
        return json.loads(kwire("fleet", "status", server.url, "--json").stdout)["sessions"][0]["lag"]

    until(lambda: lag() == {"collectors": 0})
    done = kwire("fleet", "forget", server.url, "web1")
    assert done.returncode == 1
    assert "the agent of session " in done.stderr
    assert "end it, or wait: 20 minutes after its last word it counts as gone (--force)" in done.stderr
    assert kwire("fleet", "forget", server.url, "web1", "--force").returncode == 0
    fleet.until("web1: the broker has forgotten it: ")
    job.send_signal(signal.SIGINT)
    told = json.loads(job.communicate()[0])
    assert (job.returncode, told["unproven"], told["problems"]) == (3, 1, [])
    assert fleet.verify()["complete"] is False
    again = fleet.collect()  # it does not ask for it any more
    fleet.until("takes from")
    again.send_signal(signal.SIGINT)
    again.communicate()
    assert "forgotten" not in fleet.said.read_text()
    assert keys(server.url) == []


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["forget", "nats://127.0.0.1:1"], "fleet forget nats://127.0.0.1:1: which host or session?"),
        (["status", "nats://127.0.0.1:1", "web1"], "web1 is one word too many"),
        (["status", "nats://127.0.0.1:1", "--force"], "--force goes with forget"),
    ],
)
def test_what_is_to_be_forgotten_is_named(words: list[str], why: str) -> None:
    done = kwire("fleet", *words)
    assert done.returncode == 1
    assert why in done.stderr


# --- by collectors


def clean(url: str, cleaner: Cleaner | None = None) -> int:
    cleaner = cleaner or Cleaner(0.0)
    removed: int = with_bucket(url, cleaner.clean)
    return removed


def test_what_has_ended_is_removed_when_the_stream_has_nothing_more_of_it(
    server: Server, tmp_path: Path
) -> None:
    agent(server.url, "0.1")
    assert clean(server.url) == 0  # nobody has collected it
    collected(Fleet(tmp_path, server.url))
    assert clean(server.url) == 0  # another group may come
    assert len(keys(server.url)) == 4
    ask(server.url, lambda nc, js: js.purge_stream("KWIRE"))
    assert clean(server.url) == 1
    assert keys(server.url) == ["cleaned"]
    info = ask(server.url, lambda nc, js: js.stream_info("KV_kwire"))
    assert info.state.messages == 1  # no marks are left of what is removed


def test_who_starts_in_the_middle_after_a_cleaning_can_decode(server: Server, tmp_path: Path) -> None:
    produced = agent(server.url, "0.5")
    collected(Fleet(tmp_path / "first", server.url))
    half = len(messages(server.url)) // 2
    ask(server.url, lambda nc, js: js.purge_stream("KWIRE", seq=half))
    assert clean(server.url) == 0
    fleet = Fleet(tmp_path / "late", server.url)
    told = collected(fleet, "--group", "late")
    found = look_into(fleet.folder.glob("*.pcapng"))
    assert (told["errors"], list(found.lost)) == (0, [12])  # the broker discarded what was before
    assert len(found.numbers) > 0
    assert len(found.numbers) + found.all_lost == produced


def test_a_session_without_an_end_is_kept_for_a_week_and_for_earlier_agents_for_ever(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(session: str, touched: int, open: bool = False) -> None:
        async def do(connection: Connection) -> None:
            entry = Entry(7, 1, 1, {"host": "a"}, time.time_ns(), touched)
            await connection.bucket.put(schema_key(session, 0), b"x")
            await connection.bucket.put(session_key(session), entry.pack())
            if open:  # it has ended, and a collector that is gone has not confirmed the last it took
                claims = Claims()
                claims.claim("gone", [Span(0, 0)])
                claims.end = (0, 1)
                await connection.bucket.put(claims_key("collectors", session), claims.pack())

        with_bucket(server.url, do)

    put("a" * 32, 600)
    put("b" * 32, 0)
    put("c" * 32, 0, open=True)
    assert clean(server.url) == 0
    monkeypatch.setattr(forgetting, "KEPT", 0.0)
    assert clean(server.url) == 2
    assert [key for key in keys(server.url) if key != "cleaned"] == [
        f"schema.{'b' * 32}.0",
        f"session.{'b' * 32}",
    ]


def test_what_an_interrupted_removal_left_goes_the_next_time(server: Server) -> None:
    async def put(connection: Connection) -> None:
        await connection.bucket.put(schema_key("a" * 32, 0), b"x")

    with_bucket(server.url, put)
    cleaner = Cleaner(0.0)
    clean(server.url, cleaner)
    assert keys(server.url) == ["cleaned", f"schema.{'a' * 32}.0"]  # an agent may just begin
    clean(server.url, cleaner)
    assert keys(server.url) == ["cleaned"]


def test_of_several_that_would_clean_one_does(server: Server) -> None:
    async def race(connection: Connection) -> list[float]:
        cleaners = [Cleaner(3600.0) for _ in range(5)]
        first = await asyncio.gather(*(one._turn(connection) for one in cleaners))
        second = await asyncio.gather(*(one._turn(connection) for one in cleaners))
        return [*map(bool, first), *map(bool, second)]

    assert sum(with_bucket(server.url, race)) == 1
