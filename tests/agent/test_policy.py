"""Who may do what: policy files as tables, and what they let pass."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kwire.agent import policy, requests
from kwire.agent.policy import KEYS, Grant, Policy, PolicyError, load, rules
from kwire.lang.python import Written
from kwire.live.program_sources import ProgramSources, Wanted, parse
from kwire.wire.schema import Schema

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "policy.toml"
SWITCH, EXEC = "tracepoint:sched:sched_switch", "tracepoint:sched:sched_process_exec"
PROBE = Written("f.py", "def f(): emit(pid)\n", "f", (SWITCH,), {}, {}, {}, {})


def made(*tables: dict[str, Any], listed: tuple[str, ...] = ()) -> Policy:
    return rules({"allow": list(tables)}, "policy.toml", listed)


def granted(listed: tuple[str, ...] = (), **keys: Any) -> Grant:
    grant = made({"who": ["anyone"], **keys}, listed=listed).grant("", "tcp:127.0.0.1:1")
    assert grant is not None
    return grant


def wanted(*specs: str, functions: tuple[Written, ...] = (), filter: str | None = None) -> Wanted:
    return parse(ProgramSources(specs, functions, filter))


def schema(probe: str) -> Schema:
    kind, _, target = probe.partition(":")
    return Schema(1, probe, kind, target, (), 16, "little", 8)


@pytest.mark.parametrize(
    ("who", "identity", "address", "named"),
    [
        ("anyone", "", "tcp:127.0.0.1:9", True),
        ("ops-*", "ops-7", "tls:10.0.0.1:9", True),
        ("ops-*", "dev-7", "tls:10.0.0.1:9", False),
        ("ops-*", "", "tcp:127.0.0.1:9", False),
        ("*", "", "tcp:127.0.0.1:9", False),  # a name is a name: somebody unknown has none
        ("uid:0", "uid:0", "unix:/run/kwire.sock", True),
        ("uid:0", "uid:1000", "unix:/run/kwire.sock", False),
        ("uid:0", "uid:0", "tls:10.0.0.1:9", False),  # a certificate that calls itself so
        ("u*", "uid:0", "unix:/run/kwire.sock", False),
    ],
)
def test_who_is_named(who: str, identity: str, address: str, named: bool) -> None:
    assert (made({"who": [who]}).grant(identity, address) is not None) == named


def test_the_first_rule_that_names_a_client_counts() -> None:
    one = made({"who": ["a"], "rate": 1}, {"who": ["a", "b"], "rate": 2})
    grants = [one.grant(name, "tls:h:1") for name in "abc"]
    assert [grant and grant.rate for grant in grants] == [1, 2, None]


def test_without_a_file_there_is_what_is_listed_and_nothing_else() -> None:
    listed = f"{SWITCH}(prev_pid)"
    grant = Policy([listed]).grant("", "tcp:127.0.0.1:9")
    assert grant is not None
    grant.check(wanted(listed))
    grant.check_schemas([schema(SWITCH), schema(f"{SWITCH}#off")], wanted(listed))
    for other in (
        wanted(SWITCH),
        wanted(f"{SWITCH}(next_pid)"),
        wanted(EXEC),
        wanted("tracepoint:sched:*"),
        wanted(listed, filter="pid == 1"),
        wanted(listed, functions=(PROBE,)),
    ):
        with pytest.raises(PolicyError, match="policy does not allow"):
            grant.check(other)
    with pytest.raises(PolicyError):
        grant.check_command(["true"])
    assert Policy().grant("root", "tls:h:1") is None


@pytest.mark.parametrize(
    ("keys", "asked", "allowed"),
    [
        ({"probes": [SWITCH]}, wanted(SWITCH), True),
        ({"probes": [SWITCH]}, wanted(EXEC), False),
        ({"probes": ["tracepoint:sched:*"]}, wanted(SWITCH, EXEC), True),
        ({"probes": ["tracepoint:sched:*"]}, wanted("tracepoint:sched:sched_*"), True),
        ({"probes": ["tracepoint:sched:sched_p*"]}, wanted("tracepoint:sched:*"), False),
        ({"probes": ["tracepoint:*"]}, wanted(f"{SWITCH}(prev_pid)"), False),
        ({"probes": ["tracepoint:*"]}, wanted(SWITCH, filter="pid == 1"), False),
        ({"probes": ["tracepoint:*"]}, wanted(functions=(PROBE,)), False),
        ({"probes": ["tracepoint:*"], "programs": True}, wanted(f"{SWITCH}(prev_pid)"), True),
        ({"probes": ["tracepoint:*"], "programs": True}, wanted(SWITCH, filter="pid == 1"), True),
        ({"probes": ["tracepoint:*"], "programs": True}, wanted(functions=(PROBE,)), True),
        ({"probes": ["kprobe:*"], "programs": True}, wanted(functions=(PROBE,)), False),
        ({"programs": True}, wanted(SWITCH), False),
    ],
)
def test_what_is_allowed(keys: dict[str, Any], asked: Wanted, allowed: bool) -> None:
    grant = granted(**keys)
    if allowed:
        grant.check(asked)
        return
    with pytest.raises(PolicyError, match="it would have to allow"):
        grant.check(asked)


def test_wildcards_are_judged_by_what_they_come_to() -> None:
    grant = granted(probes=["tracepoint:sched:sched_s*"])
    asked = wanted("tracepoint:sched:sched_s[tw]*")
    grant.check(asked)
    grant.check_schemas([schema(SWITCH)], asked)
    with pytest.raises(PolicyError, match="sched_process_exec"):
        grant.check_schemas([schema(SWITCH), schema(EXEC)], asked)
    few = granted(probes=["*"], targets=1)
    with pytest.raises(PolicyError, match="narrow the wildcards"):
        few.check_schemas([schema(SWITCH), schema(EXEC)], wanted("tracepoint:sched:*"))
    with pytest.raises(PolicyError, match="these are 2, each shape of event counted"):
        few.check_schemas([schema(f"{SWITCH}#on"), schema(f"{SWITCH}#off")], wanted(SWITCH))


def test_commands_and_processes() -> None:
    grant = granted(commands=["curl *", "true"], pids=False)
    grant.check_command(["true"])
    grant.check_command(["curl", "-s", "http://localhost/"])
    for words in (["false"], ["true", "x"], ["curl"], ["sh", "-c", "curl x"], ["curl x"]):
        with pytest.raises(PolicyError):
            grant.check_command(words)
    with pytest.raises(PolicyError):
        grant.check_pids()
    granted().check_pids()


def test_memory_bounds_rings_and_send_queue() -> None:
    grant = granted(memory=8 << 20)
    assert grant.send_queue == 4 << 20
    assert grant.buffer(None, 4) == 1 << 20
    assert grant.buffer(64 << 20, 4) == 1 << 20
    assert grant.buffer(10_000, 4) == 16384
    assert grant.buffer(8192, 1000) == 4096


def test_places_are_given_back_by_processes_that_end() -> None:
    grant = granted(traces=2)
    assert grant.slots is not None

    def holder() -> int:
        """A process with a place, until it is killed."""
        told, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(tell, b"y" if grant.slots and grant.slots.take("") else b"n")
            while True:
                signal.pause()
        assert os.read(told, 1) == b"y"
        os.close(told)
        os.close(tell)
        return pid

    holders = [holder(), holder()]
    try:
        with pytest.raises(PolicyError, match="as many traces as the agent allows, 2"):
            grant.take()
    finally:
        for pid in holders:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    grant.take()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[[allow]]\nprobes = []", "rule 1 has no who; write who, a list of texts"),
        ('[[allow]]\nwho = ["a"]\n[[allow]]\nwho = "b"', "rule 2: who is not as it should be"),
        ('[[allow]]\nwho = ["a"]\nprogramms = true', "did you mean programs"),
        ('[[allow]]\nwho = ["a"]\nprograms = "yes"', "write true or false"),
        ('[[allow]]\nwho = ["a"]\nrate = 0', "more than 0"),
        ('[[allow]]\nwho = ["a"]\nrate = true', "a whole number"),
        ('[[allow]]\nwho = ["a"]\nseconds = 1.5', "a whole number"),
        ('[[allow]]\nwho = ["uid:root"]', "write uid:NUMBER"),
        ('[[allow]]\nwho = ["a"]\nmemory = 5', "memory is too little"),
        ('[[deny]]\nwho = ["a"]', "there is no 'deny'"),
        ("allow = 3", "allow is no list of rules"),
        ("[[allow", "it is no TOML"),
    ],
)
def test_a_slip_of_the_pen_opens_nothing(text: str, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(text)
    with pytest.raises(PolicyError) as error:
        load(str(file))
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="no such file"):
        load(str(tmp_path / "none"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(PolicyError, match="it is not in UTF-8"):
        load(str(tmp_path / "binary"))


def test_the_example_says_what_its_comments_say() -> None:
    example = load(str(EXAMPLE))
    ops = example.grant("ops-3", "tls:h:1")
    ci = example.grant("ci", "tls:h:1")
    user = example.grant("uid:1000", "unix:/run/kwire.sock")
    assert ops is not None
    assert ci is not None
    assert user is not None
    ops.check(wanted("kprobe:tcp_connect(sk.__sk_common.skc_dport)", filter="uid == 0"))
    ops.check_command(["curl", "http://localhost/"])
    ci.check(wanted("tracepoint:sched:sched_process_*"))
    for grant, asked in ((ci, wanted(SWITCH)), (user, wanted(EXEC)), (user, wanted(functions=(PROBE,)))):
        with pytest.raises(PolicyError):
            grant.check(asked)
    assert example.grant("uid:1001", "unix:/run/kwire.sock") is None
    assert example.grant("stranger", "tls:h:1") is None


def test_the_table_for_people_names_every_key() -> None:
    table = policy.markdown()
    assert all(f"| `{name}` |" in table for name in KEYS)
    assert table.count("\n") == len(KEYS) + 2


def test_the_documentation_has_the_tables_of_the_code() -> None:
    text = (EXAMPLE.parents[1] / "docs" / "agents.md").read_text()
    assert policy.markdown() in text
    assert requests.markdown() in text


def test_reading_a_policy_costs_an_agent_without_one_nothing() -> None:
    program = "import sys, kwire.agent.policy; assert 'tomllib' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
