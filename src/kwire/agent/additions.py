"""Probes that an agent lists only since a trace of those it lists began: they join it, in its session.

    trace process   asks, by the socket that it has from the launcher, and goes on with what it records
    launcher        forks a process for the question, and never reads it
    that process    plans and attaches what the policy lists and the trace has not, and hands it over

Invariants: what is attached is what the policy lists, which was read by who read no network; the question
only says what the trace has, and whose processes it traces. Their numbers follow those of the trace.
"""

import json
import socket
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

from kwire.agent import requests
from kwire.agent.policy import Policy, PolicyError
from kwire.errors import KwireError
from kwire.kernel.tasks import known_tasks
from kwire.live import handing
from kwire.live.ground import Ground
from kwire.live.plan import Plan, Scope
from kwire.live.program_sources import ProgramSources, parse
from kwire.live.recorder import Sink, complete
from kwire.live.tracer import Tracer
from kwire.wire.frames import Frames
from kwire.wire.messages import Lost
from kwire.wire.schema import Schema
from kwire.wire.walk import frame_renumber


def answer(connection: socket.socket, following: socket.socket, rules: Policy) -> None:
    """Answer the question that has come over `connection`; with the answer goes `following`, over which the
    next one may be asked.
    """
    asked = handing.receive(connection)
    if asked is None:
        return
    data, descriptors = b"", list[int]()
    try:
        tracer, new = _attach(json.loads(asked[0]), asked[1], rules)
    except KwireError as error:
        told: dict[str, Any] = requests.failed(error)
    else:
        told = {"listed": new}
        data, descriptors = handing.handed(tracer)
    handing.send(connection, json.dumps(told).encode() + b"\0" + data, [following.fileno(), *descriptors])


def _attach(question: Mapping[str, Any], given: Sequence[int], rules: Policy) -> tuple[Tracer, list[str]]:
    """What the policy lists and the trace has not, attached, and its specs. Raises KwireError."""
    grant = rules.grant(question["identity"], question["address"])
    listed = grant.listed if grant is not None else ()
    new = [spec for spec in listed if spec not in question["listed"]]
    if grant is None or not new:
        raise PolicyError("trace", "", "the agent lists no more probes", "")
    with requests.in_time(requests.COMPILE_SECONDS):
        wanted = parse(ProgramSources(tuple(new), filter=question["filter"]))
        grant.check(wanted)
        follow, main, without, pids = question["scope"]
        plan = wanted.plan(Scope(follow, main, tuple(without), tuple(pids)), apart=True)
    grant._replace(targets=grant.targets - question["probes"]).check_schemas(plan.schemas, wanted)
    handing.check(plan)
    plan = plan._replace(following=(), schemas=complete(plan.schemas))
    known = known_tasks(given[0]) if given else None
    tracer = Tracer(plan, ground=Ground(question["buffer"], known=known))
    tracer.attach()
    return tracer, new


def numbered(plan: Plan, before: int) -> tuple[Schema, ...]:
    """The schemas of a plan by their numbers behind those `before`."""
    return tuple(schema._replace(id=schema.id + before) for schema in plan.schemas)


class Renumbered:
    """A sink that gives what it is given to another one, under numbers behind those `before`."""

    __slots__ = ("_before", "_sink", "_table")

    def __init__(self, sink: Sink, before: int, probes: int) -> None:
        self._sink, self._before = sink, before
        self._table = array("Q", [0, *range(before + 1, before + probes + 1)])

    def write(self, frames: Frames) -> None:
        """Pass on copies: the rings are the kernel's."""
        data = bytearray(b"".join(frames.frame_bytes(at) for at in range(frames.count)))
        copy = Frames.walk(data)
        frame_renumber(copy.data, copy.offsets, 0, copy.count, self._table)
        self._sink.write(copy)

    def lost(self, losses: list[Lost]) -> None:
        """Pass on."""
        self._sink.lost([loss._replace(probe=loss.probe + self._before) for loss in losses])

    def flush(self) -> None:
        """The round of the other sink ends by itself."""
