"""Probes that join a trace of those that an agent lists: who attaches them, for whom, and their numbers."""

import errno
import json
import os
import signal
import socket
import sys
from typing import Any

import pytest

from kwire.agent import join, trace_process
from kwire.agent.policy import Policy, rules
from kwire.live import handover
from kwire.wire.frame import Type, build
from kwire.wire.frames import Frames
from kwire.wire.messages import Lost

PROBES = [f"tracepoint:syscalls:sys_enter_{name}" for name in ("getppid", "getuid")]
MINE = [f"{probe}{{pid == {os.getpid()}}}" for probe in PROBES]


def asked(policy: Policy, begun: dict[str, Any], question: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """What a trace is answered, and what it is given."""
    trace = {"identity": "", "address": "unix:x", "filter": None, "scope": [False, 0, [], []], "buffer": None}
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        handover.send(ours, json.dumps(question).encode())
        join.answer(theirs, json.dumps(trace | begun).encode(), [], policy)
        came = handover.receive(ours)
    assert came is not None
    text, _, data = came[0].partition(b"\0")
    return json.loads(text), handover.taken(data, came[1])[0] if data else None


@pytest.mark.live
@pytest.mark.native
def test_a_trace_says_what_it_has_and_not_whose_it_is() -> None:
    """What it tells of itself, by who reads the network, gets it nothing but what is listed."""
    allow = [{"who": [f"uid:{uid}"], "probes": [], "targets": targets} for uid, targets in ((1, 1), (2, 9))]
    policy = rules({"allow": allow}, "", MINE)
    more = {"identity": "uid:2", "scope": [True, 0, [], []], "filter": "nonsense == 1", "buffer": "x"}
    question = {"listed": [], "attached": 0, **more}
    told, _ = asked(policy, {"identity": "uid:1"}, question)
    assert "the agent allows 1 attach points, these are 2" in told["error"]["text"]
    told, tracer = asked(policy, {"identity": "uid:2"}, question | {"identity": "uid:1"})
    tracer.close()
    assert told == {"listed": MINE}


@pytest.mark.live
@pytest.mark.native
def test_targets_are_those_that_the_trace_has_and_those_that_join_it() -> None:
    policy = rules({"allow": [{"who": ["anyone"], "targets": 3}]}, "", MINE)
    told, _ = asked(policy, {}, {"listed": MINE[:1], "attached": 3})
    assert "allows 3 attach points, these are 1 beside 3 of the trace" in told["error"]["text"]
    for number in (-1, "0"):
        told, _ = asked(policy, {}, {"listed": MINE[:1], "attached": number})
        assert "a trace has no such number of attach points" in told["error"]["text"]
    told, tracer = asked(policy, {}, {"listed": MINE[:1], "attached": 2})
    tracer.close()
    assert told == {"listed": MINE[1:]}


class Kept:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.losses: list[Lost] = []

    def write(self, frames: Frames) -> None:
        self.ids += [frames.header(index).id for index in range(frames.count)]

    def lost(self, losses: list[Lost]) -> None:
        self.losses += losses

    def flush(self) -> None:
        pass


class Nothing(Kept):
    def write(self, frames: Frames) -> None:
        pass


def test_numbers_follow_those_of_the_trace() -> None:
    """Of events of any size, and of more than are copied together; what the rings hold stays as it is."""
    events = [build(Type.EVENT, 1 + at % 3, bytes(8 + 4 * (at % 16_000)), 0) for at in range(0, 4000, 7)]
    data = b"".join(events)
    assert len(data) > 4 * join.TOGETHER
    kept = Kept()
    sink = join.Renumbered(kept, 40, 3)
    sink.write(Frames.walk(data))
    sink.lost([Lost(2, 0, 0, 5)])
    assert kept.ids == [41 + at % 3 for at in range(0, 4000, 7)]
    assert kept.losses == [Lost(42, 0, 0, 5)]
    assert data == b"".join(events)


def calls(frames: Frames) -> int:
    """Calls of functions while they get other numbers."""
    sink, count = join.Renumbered(Nothing(), 1, 1), 0

    def called(frame: Any, event: str, what: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(called)
    try:
        sink.write(frames)
    finally:
        sys.setprofile(None)
    return count


def test_no_python_runs_for_an_event_of_them() -> None:
    few, many = (Frames.walk(build(Type.EVENT, 1, bytes(16), 0) * count) for count in (10, 5000))
    assert len(many.view) < join.TOGETHER
    assert calls(few) == calls(many)


class Bad:
    """What cannot be closed: in the process that is forked alone."""

    def __init__(self, told: int) -> None:
        self._told, self._owner = told, os.getpid()

    def close(self) -> None:
        os.write(self._told, str(os.getpid()).encode())
        if os.getpid() != self._owner:
            raise ValueError("it cannot be closed")


def test_a_process_that_fails_before_it_traces_ends(capfd: pytest.CaptureFixture[str]) -> None:
    """It is no second launcher, whose descriptors it has."""
    reads, writes = os.pipe()
    channel, other = socket.socketpair()
    with other:
        more = trace_process._launch_trace((Bad(writes),), channel, Policy(["begin"]), os.getpid())
        assert more is not None
        with more:
            assert not more.recv(1)
        assert not other.recv(1)
    child = int(os.read(reads, 100))
    os.close(reads)
    os.close(writes)
    assert child != os.getpid()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert "kwire: tracer: ValueError: it cannot be closed" in capfd.readouterr().err


@pytest.mark.parametrize("how", ["killed", "failed"])
def test_a_trace_is_told_where_who_answers_it_ends_before(
    how: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """And may ask again."""

    def attach(*_: object) -> None:
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(join, "_attach", attach)
    trace = {"identity": "", "address": "unix:x", "filter": None, "scope": [False, 0, [], []], "buffer": None}
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.settimeout(60)
    launched = trace_process._Launched(ours)
    policy = rules({}, "", MINE)
    with theirs:
        handover.send(theirs, json.dumps(trace).encode())
        assert launched.serve((), policy)
        for _ in range(2):
            handover.send(theirs, join.question([], 0))
            assert launched.serve((), policy)  # another process answers
            assert launched.serve((), policy)  # it has ended
            came = handover.receive(theirs)
            assert came is not None
            text = json.loads(came[0].partition(b"\0")[0])["error"]["text"]
            assert "the process that attaches its probes has ended" in text
            os.wait()
        launched.close()
    assert ("Input/output error" in capfd.readouterr().err) == (how == "failed")
