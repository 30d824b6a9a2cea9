"""Probes that an agent lists only since a trace of those it lists began: they join it, in its session.

    trace process   asks, by the socket that it has from the launcher, and goes on with what it records
    launcher        forks a process for the question, and never reads it
    that process    plans and attaches what the policy lists and the trace has not, and hands it over

Invariants: what is attached is what the policy lists, which was read by who read no network; for whom, and of
whose processes, the trace process has told while it still had its privileges. The question only says what the
trace has. Their numbers follow those of the trace.
"""

import contextlib
import json
import socket
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, Final

from kwire.agent import requests
from kwire.agent.policy import Policy, PolicyError
from kwire.errors import KwireError
from kwire.live import handover
from kwire.live.plan import Plan, Scope
from kwire.live.program_sources import ProgramSources, parse
from kwire.live.recorder import Sink
from kwire.live.tracer import Tracer
from kwire.wire.frames import Frames
from kwire.wire.messages import Lost
from kwire.wire.schema import Schema
from kwire.wire.walk import frame_gather, frame_renumber

TOGETHER: Final = 1 << 18
"""Bytes of events that get their numbers together; any frame is shorter."""


def begun(identity: str, address: str, job: requests.Job) -> bytes:
    """What is told of a trace before it begins: who asked for it, and what it shares with what joins it."""
    told = {
        "identity": identity,
        "address": address,
        "filter": job.filter,
        "scope": list(job.processes.scope[:4]),
        "buffer": job.buffer,
    }
    return json.dumps(told).encode()


def question(listed: Sequence[str], attached: int) -> bytes:
    """What a trace asks: the specs that it has, of those that were listed, and how many targets."""
    return json.dumps({"listed": list(listed), "attached": attached}).encode()


def answer(connection: socket.socket, trace: bytes, tasks: Sequence[int], rules: Policy) -> None:
    """Answer the question that has come over `connection`, of the trace that `trace` tells of (`begun`), with
    the map of its processes if they were chosen.
    """
    asked = handover.receive(connection)
    if asked is None:
        return
    descriptors = list[int]()
    try:
        tracer, new = _attach({**json.loads(asked[0]), **json.loads(trace)}, tasks, rules)
    except KwireError as error:
        data = failed(error)
    else:
        data, descriptors = handover.handed(tracer)
        data = json.dumps({"listed": new}).encode() + b"\0" + data
    with contextlib.suppress(OSError):  # who asked has gone
        handover.send(connection, data, descriptors)


def failed(error: KwireError) -> bytes:
    """The answer that says why nothing joins."""
    return json.dumps(requests.failed(error)).encode() + b"\0"


def _attach(trace: Mapping[str, Any], tasks: Sequence[int], rules: Policy) -> tuple[Tracer, list[str]]:
    """What the policy lists and the trace has not, attached, and its specs. Raises KwireError."""
    attached = trace["attached"]
    if not isinstance(attached, int) or attached < 0:  # it is told by who reads the network
        raise PolicyError("trace", "", "a trace has no such number of attach points", "")
    grant = rules.grant(trace["identity"], trace["address"])
    listed = grant.listed if grant is not None else ()
    new = [spec for spec in listed if spec not in trace["listed"]]
    if grant is None or not new:
        raise PolicyError("trace", "", "the agent lists no more probes", "")
    with requests.in_time(requests.COMPILE_SECONDS):
        wanted = parse(ProgramSources(tuple(new), filter=trace["filter"]))
        grant.check(wanted)
        follow, main, without, pids = trace["scope"]
        plan = wanted.plan(Scope(follow, main, tuple(without), tuple(pids)), apart=True)
    grant.check_schemas(plan.schemas, wanted, attached)
    return handover.attached(plan, trace["buffer"], tasks), new


def numbered(plan: Plan, before: int) -> tuple[Schema, ...]:
    """The schemas of a plan by their numbers behind those `before`."""
    return tuple(schema._replace(id=schema.id + before) for schema in plan.schemas)


class Renumbered:
    """A sink that gives what it is given to another one, under numbers behind those `before`."""

    __slots__ = ("_before", "_copies", "_sink", "_table")

    def __init__(self, sink: Sink, before: int, probes: int) -> None:
        self._sink, self._before = sink, before
        self._table = array("Q", [0, *range(before + 1, before + probes + 1)])
        self._copies = memoryview(bytearray(TOGETHER))

    def write(self, frames: Frames) -> None:
        """Pass on copies, as the rings are the kernel's: many together, so that no Python runs for one."""
        start = 0
        while start < frames.count:
            start, size = frame_gather(frames.data, frames.offsets, start, frames.count, self._copies, 0)
            copy = Frames.walk(self._copies[:size])
            frame_renumber(copy.data, copy.offsets, 0, copy.count, self._table)
            self._sink.write(copy)

    def lost(self, losses: list[Lost]) -> None:
        """Pass on."""
        self._sink.lost([loss._replace(probe=loss.probe + self._before) for loss in losses])

    def flush(self) -> None:
        """The round of the other sink ends by itself."""
