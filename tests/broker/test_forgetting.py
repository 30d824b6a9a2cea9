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
from brokers import Server, ask, free_ports, messages, needed
from fault_judge import look_into
from test_fleet import AGENT, FOLDERS, Fleet, agent
from waiting import until

from kwire.broker import forgetting
from kwire.broker.address import parse_broker
from kwire.broker.claims import Claims, Span
from kwire.broker.client import BrokerError, Connection
from kwire.broker.forgetting import Cleaner, Forgotten, forget
from kwire.broker.names import BUCKET, CLEANED, claims_key, schema_key, session_key
from kwire.broker.sessions import Entry


def kwire(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "kwire", *words], capture_output=True, text=True)


def recording(url: str) -> subprocess.Popen[str]:
    """A synthetic agent of web1 that ends when it is told to, and prints how many events it produced."""
    return subprocess.Popen(
        [sys.executable, "-c", AGENT, "--to", url, "--name", "web1", "fault:probe"],
        env={**os.environ, "PYTHONPATH": FOLDERS},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def with_bucket(url: str, do: Callable[[Connection], Awaitable[Any]]) -> Any:
    async def main(nc: Any, js: Any) -> Any:
        return await do(Connection(nc, js, await js.key_value("kwire")))

    return ask(url, main)


def keys(url: str) -> list[str]:
    """What the bucket has of sessions."""
    found: list[str] = sorted(with_bucket(url, lambda connection: connection.keys()))
    return [key for key in found if key != CLEANED]


def collected(fleet: Fleet, *more: str) -> dict[str, Any]:
    """Collect until a session has ended; the summary."""
    return fleet.summary(fleet.collect(*more))


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


@pytest.mark.parametrize("hours", [-2, 2])
def test_who_is_silent_is_judged_by_the_brokers_clock(server: Server, hours: int) -> None:
    """Not by that of the machine on which somebody looks."""
    code = (
        "import sys, time; here = time.time\n"
        f"time.time = lambda: here() + 3600 * {hours}\n"
        "from kwire.cli.main import main; sys.exit(main(['fleet', 'status', *sys.argv[1:]]))"
    )
    with recording(server.url) as job:
        until(lambda: messages(server.url))
        found = subprocess.run([sys.executable, "-c", code, server.url], capture_output=True, text=True)
        told = subprocess.run(
            [sys.executable, "-c", code, server.url, "--json"], capture_output=True, text=True
        )
        job.send_signal(signal.SIGINT)
        job.communicate()
    [session] = json.loads(told.stdout)["sessions"]
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[-1].split()[2] == "live"
    assert 0 < session["silent"] < 1800
    assert 0 < session["heard"] < 1800


def test_a_mark_in_the_place_of_the_brokers_clock_is_removed(server: Server) -> None:
    """As `nats kv del` leaves one."""
    mark = {"KV-Operation": "DEL"}

    async def delete(nc: Any, js: Any) -> None:
        await js.publish(f"$KV.{BUCKET}.{CLEANED}", b"", headers=mark)

    ask(server.url, delete)
    shown = kwire("fleet", "status", server.url)
    assert (shown.returncode, shown.stderr) == (0, "")


def test_who_may_only_read_is_told_by_which_clock(tmp_path: Path) -> None:
    """The fleet is shown; nothing is forgotten by it."""
    needed()
    port = free_ports(1)[0]
    allowed = 'publish: { deny: "$KV.>" }'
    secret = tmp_path / "secret"
    secret.write_text("secret")
    secret.chmod(0o600)
    reader = f"{{ user: reads, password: secret, permissions: {{ {allowed} }} }}"
    users = f"authorization {{ users: [ {{ user: all, password: secret }}, {reader} ] }}"
    with Server(tmp_path / "broker", port, users) as server:
        login = ["--nats-user", "all", "--nats-password", str(secret)]
        assert kwire("fleet", "init", server.url, *login).returncode == 0
        job = [sys.executable, "-c", AGENT, "--to", server.url, "--name", "web1", "fault:probe", "-d", "0.1"]
        subprocess.run([*job, *login], check=True, env={**os.environ, "PYTHONPATH": FOLDERS})
        login[1] = "reads"
        shown = kwire("fleet", "status", server.url, *login)
        forgotten = kwire("fleet", "forget", server.url, "web1", *login)
    assert shown.returncode == 0, shown.stderr
    assert "web1" in shown.stdout
    why = "read the broker's clock: nothing can be written to the bucket"
    assert f"{why}; let this user write to it, or make room; who is silent is told by this" in shown.stderr
    assert forgotten.returncode == 1
    assert why in forgotten.stderr


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
    with recording(server.url) as one:
        fleet.until("is written to")
        one.kill()

    until(lambda: lag(server.url) == {"collectors": 0})
    done = kwire("fleet", "forget", server.url, "web1")
    assert done.returncode == 1
    assert "the agent of session " in done.stderr
    assert "end it, or wait: 30 minutes after its last word it counts as gone (--force)" in done.stderr
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


def test_what_a_forgetting_that_was_interrupted_left_goes_with_the_next(
    server: Server, tmp_path: Path
) -> None:
    """Killed between the entry and the messages: these are found by their subjects."""
    agent(server.url, "0.1", name="web.1")
    agent(server.url, "0.1", name="db1")
    [(session, count)] = published(server.url, "web-1").items()
    with_bucket(server.url, lambda connection: connection.remove(session_key(session)))
    done = kwire("fleet", "forget", server.url, "web.1")
    assert f"{count} messages of it are still to be collected" in done.stderr
    [told] = json.loads(kwire("fleet", "forget", server.url, "web.1", "--force", "--json").stdout)
    assert (told["session"], told["messages"], told["uncollected"]) == (session, count, count)
    agent(server.url, "0.1", name="web.1")
    fleet = Fleet(tmp_path, server.url)
    job = fleet.collect()
    until(lambda: fleet.said.read_text().count("has ended: ") == 2, fleet.said.read_text)
    until(lambda: waits_for(server.url) == 0)
    [other] = published(server.url, "web-1")
    with_bucket(server.url, lambda connection: connection.remove(session_key(other)))
    [told] = json.loads(kwire("fleet", "forget", server.url, other[:8], "--json").stdout)
    assert (told["host"], told["session"], told["uncollected"]) == ("web-1", other, 0)
    assert published(server.url, "web-1") == {}
    assert len(published(server.url, "db1")) == 1
    assert len([key for key in keys(server.url) if other in key or session in key]) == 0
    job.send_signal(signal.SIGINT)
    job.communicate()


def published(url: str, host: str) -> dict[str, int]:
    """Sessions of a host → messages of them in the stream."""
    found = with_bucket(url, lambda connection: connection.subjects("KWIRE", f"kwire.{host}.*"))
    return {subject[-32:]: count for subject, count in found.items()}


def put_session(url: str, session: str, touched: int, claims: Claims | None = None) -> None:
    """A session as the bucket has it, of which the stream has nothing."""

    async def do(connection: Connection) -> None:
        entry = Entry(7, 1, 1, {"host": "a"}, time.time_ns(), touched)
        await connection.bucket.put(schema_key(session, 0), b"x")
        await connection.bucket.put(session_key(session), entry.pack())
        if claims is not None:
            await connection.bucket.put(claims_key("collectors", session), claims.pack())

    with_bucket(url, do)


def forgotten(url: str, which: str) -> list[Forgotten]:
    """`kwire fleet forget` in this process."""
    done: list[Forgotten] = with_bucket(url, lambda one: forget(one, parse_broker(url), which, force=False))
    return done


def test_whether_an_agent_is_there_is_by_the_clock_of_the_broker(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_session(server.url, "a" * 32, 600)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 86400.0)
    with pytest.raises(BrokerError, match="the agent of it was there"):
        forgotten(server.url, "a" * 32)
    assert len(keys(server.url)) == 2


def test_an_agent_of_an_earlier_release_may_be_there(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not say so now and then: how long ago it wrote means nothing."""
    put_session(server.url, "a" * 32, 0)
    put_session(server.url, "b" * 32, 600)
    monkeypatch.setattr(forgetting, "MISSED", 0)
    with pytest.raises(BrokerError, match="is of an earlier release"):
        forgotten(server.url, "a" * 32)
    assert [one.session for one in forgotten(server.url, "b" * 32)] == ["b" * 32]


def test_what_an_agent_still_publishes_is_counted_and_stands_in_nobodys_way(
    server: Server, tmp_path: Path
) -> None:
    """Its session was removed under it: each group counts what comes of it, and goes on with others."""
    patch = "from kwire.collector import intake\nintake.UNKNOWN = 0.5\n"
    fleet = Fleet(tmp_path / "one", server.url)
    job = fleet.collect(patch=patch)
    with recording(server.url) as one:
        fleet.until("is written to")
        one.send_signal(signal.SIGSTOP)
        until(lambda: lag(server.url) == {"collectors": 0})
        assert kwire("fleet", "forget", server.url, "web1", "--force").returncode == 0
        fleet.until("web1: the broker has forgotten it: ")
        one.send_signal(signal.SIGCONT)
        fleet.until(", which the broker has forgotten, is counted as lost")
        one.send_signal(signal.SIGINT)
        produced = int(one.communicate()[0].splitlines()[-1])
    late = Fleet(tmp_path / "late", server.url)
    other = late.collect("--group", "late", patch=patch)
    late.until(", which the broker has forgotten, is counted as lost")
    more = agent(server.url, "0.1", name="db1")
    for each in (fleet, late):
        each.until("db1 has ended: ")
    until(lambda: waits_for(server.url) == 0)
    found = []
    for process in (job, other):
        process.send_signal(signal.SIGINT)
        told = json.loads(process.communicate()[0])
        found.append((told["events"], told["lost"]))
    (stored, lost), (stored_late, lost_late) = found
    assert stored + lost == produced + more
    assert (stored_late, lost_late) == (more, lost)
    assert lost > 0


def lag(url: str) -> Any:
    """What each group has not taken of the first session."""
    return json.loads(kwire("fleet", "status", url, "--json").stdout)["sessions"][0]["lag"]


def waits_for(url: str) -> int:
    """Messages that groups have not acknowledged."""
    groups = json.loads(kwire("fleet", "status", url, "--json").stdout)["groups"]
    return sum(one["pending"] + one["unacknowledged"] for one in groups)


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
    assert len(keys(server.url)) == 3
    ask(server.url, lambda nc, js: js.purge_stream("KWIRE"))
    assert clean(server.url) == 1
    assert keys(server.url) == []
    info = ask(server.url, lambda nc, js: js.stream_info("KV_kwire"))
    assert info.state.messages == 1  # no marks are left of what is removed


def test_a_session_stays_until_each_collector_has_ended_its_capture(server: Server, tmp_path: Path) -> None:
    """One that was away when its session ended is told so when it comes back: what it has is proven."""
    first, second = Fleet(tmp_path / "first", server.url), Fleet(tmp_path / "second", server.url)
    job = first.collect()
    with recording(server.url) as one:
        first.until("is written to")
        one.send_signal(signal.SIGSTOP)
        until(lambda: (found := claims_of(server.url)) is not None and not found.others_store(""))
        job.kill()
        job.communicate()
        one.send_signal(signal.SIGCONT)
        job = second.collect()
        second.until("is written to")
        one.send_signal(signal.SIGINT)
        one.wait()
    second.until("2 collectors are sharing it")
    ask(server.url, lambda nc, js: js.purge_stream("KWIRE"))
    assert clean(server.url) == 0
    back = first.collect()
    first.until("2 collectors are sharing it")
    until(lambda: (found := claims_of(server.url)) is not None and found.spent)
    for process in (job, back):
        process.send_signal(signal.SIGINT)
        assert json.loads(process.communicate()[0])["unproven"] == 0
    files = [*map(str, first.folder.glob("*.pcapng")), *map(str, second.folder.glob("*.pcapng"))]
    told = json.loads(kwire("verify", "--json", *files).stdout)
    assert [*told["problems"], *(text for file in told["files"] for text in file["problems"])] == []
    assert clean(server.url) == 1
    assert keys(server.url) == []


def claims_of(url: str) -> Claims | None:
    """The claims of the only group on the only session, if there are any."""

    async def read(connection: Connection) -> Claims | None:
        found = [key for key in await connection.keys() if key.startswith("claims.")]
        return Claims.read((await connection.get(found[0]))[0]) if found else None

    claims: Claims | None = with_bucket(url, read)
    return claims


def test_a_collector_killed_before_the_group_knew_of_its_ending_says_it_later(
    server: Server, tmp_path: Path
) -> None:
    agent(server.url, "0.1")
    fleet = Fleet(tmp_path, server.url)
    job = fleet.collect(
        patch="import asyncio\nfrom kwire.collector.intake import Intake\n"
        "async def never(self, connection, each): await asyncio.sleep(3600)\n"
        "Intake._say_ended = never\n"
    )
    fleet.until("has ended: ")
    job.kill()
    job.communicate()
    before = claims_of(server.url)
    assert before is not None
    assert not before.over
    [checkpoint] = [one for one in (fleet.folder / ".sessions").iterdir() if len(one.name) == 32]
    job = fleet.collect()
    until(lambda: (found := claims_of(server.url)) is not None and found.spent)
    until(lambda: not checkpoint.exists())
    job.send_signal(signal.SIGINT)
    job.communicate()
    assert "has ended: " not in fleet.said.read_text()
    assert fleet.verify()["complete"]


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
    claims = Claims()  # it has ended, and a collector that is gone has not confirmed the last it took
    claims.claim("gone", [Span(0, 0)])
    claims.end = (0, 1)
    put_session(server.url, "a" * 32, 600)
    put_session(server.url, "b" * 32, 0)
    put_session(server.url, "c" * 32, 0, claims)
    assert clean(server.url) == 0
    monkeypatch.setattr(forgetting, "KEPT", 0.0)
    assert clean(server.url) == 2
    assert keys(server.url) == [f"schema.{'b' * 32}.0", f"session.{'b' * 32}"]


def test_what_an_interrupted_removal_left_goes_the_next_time(server: Server) -> None:
    async def put(connection: Connection) -> None:
        await connection.bucket.put(schema_key("a" * 32, 0), b"x")

    with_bucket(server.url, put)
    cleaner = Cleaner(0.0)
    clean(server.url, cleaner)
    assert keys(server.url) == [f"schema.{'a' * 32}.0"]  # an agent may just begin
    clean(server.url, cleaner)
    assert keys(server.url) == []


def test_of_several_that_would_clean_one_does(server: Server) -> None:
    async def race(connection: Connection) -> list[float]:
        cleaners = [Cleaner(3600.0) for _ in range(5)]
        first = await asyncio.gather(*(one._turn(connection) for one in cleaners))
        second = await asyncio.gather(*(one._turn(connection) for one in cleaners))
        return [*map(bool, first), *map(bool, second)]

    assert sum(with_bucket(server.url, race)) == 1
