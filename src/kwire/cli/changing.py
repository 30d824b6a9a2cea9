"""Probes of an agent that change while it records: what it has, and what it does with what was attached for
it (`kwire.cli.rereading`).

Invariants: what stays is not touched; where what came cannot be used, it is closed, and all stays as it was.
"""

import argparse
import os
from collections.abc import Sequence
from typing import Any

from kwire.agent import spool as spools
from kwire.agent.agent import Agent, Trace
from kwire.agent.segment import SpoolFullError
from kwire.agent.source import SourceSink
from kwire.agent.uplink import Hold, MemoryHold, SpoolHold
from kwire.cli import tracing
from kwire.errors import KwireError
from kwire.live import handing
from kwire.live.processes import Processes
from kwire.live.recorder import Recorder
from kwire.words import plural


class Changes:
    """What an agent's probes may change by. `size`: bytes of a payload."""

    def __init__(self, args: argparse.Namespace, agent: Agent, processes: Processes, size: int) -> None:
        self._args, self._agent, self._size = args, agent, size
        command = processes.command
        self._about = {"scope": list(processes.scope[:4]), "command": command.pid if command else 0}
        self._follows = processes.chosen

    @property
    def question(self) -> tuple[dict[str, Any], list[int]]:
        """What there is, and the map of processes that are traced; nothing where the recording has ended."""
        if self._agent.stopping:
            return {}, []
        tasks = [self._agent.recorder.tracer.maps["tasks"].fd] if self._follows else []
        return {**self._about, "keys": list(self._agent.keys)}, tasks

    def take(self, told: dict[str, Any], data: bytes, descriptors: Sequence[int]) -> str:
        """Go on with what is asked for now. Raises KwireError; then nothing is changed."""
        agent, new, notes = self._agent, None, ""
        if data:
            tracer, folder = handing.taken(data, descriptors)
            recorder = Recorder.taken(tracer)
            try:
                if agent.stopping:  # since it was asked
                    raise KwireError("change", "probes", "the recording has ended")
                sink = SourceSink(recorder.schemas, self._size)
                new = Trace(agent.line, recorder, sink, self._hold(sink, folder), told["added"])
            except BaseException:
                recorder.close()
                raise
            tracing.say_skipped(recorder.plan)
            if told["full"]:
                self._say_full(told["full"])
            notes += f", {plural(len(recorder.plan.schemas), 'new probe')}"
        count = agent.change(new, told["keys"])
        return notes + (f", {plural(count, 'probe')} taken away" if count else "")

    def _hold(self, sink: SourceSink, folder: spools.SpoolFolder | None) -> Hold:
        """Where its payloads wait. A full disk is no error, as it is none while it records."""
        args, name = self._args, str(self._agent.line.about["name"])
        token, prefix = os.urandom(16), sink.begin()
        if folder is not None:
            size, memory = args.spool_size, args.memory
            try:
                return SpoolHold(spools.begin_in(folder, token, prefix, size, memory, sink.probes, name))
            except SpoolFullError as error:
                self._say_full(error)
        return MemoryHold(args.memory, prefix)

    def _say_full(self, error: object) -> None:
        self._agent.line.say(f"{error}: what the new probes see waits in memory alone", "disk")
