"""A script in the bpftrace language in a Python program: `with kwire.bt("kprobe:… { … }") as lines`.

Invariants: it is a trace like any other, whose events are what the script prints, and whose maps are objects;
files are shown and commands run (`cat`, `system`) when their events are taken, in their order, and nothing is
written to standard output or error.
"""

import os
from collections.abc import Mapping, Sequence

from kwire.arguments import ArgumentError, checked, needed
from kwire.hints import Any
from kwire.lang.bpftrace.reader import read
from kwire.live.command import Command
from kwire.live.lines import Lines
from kwire.live.mapview import MapView
from kwire.live.plan import Plan, Scope
from kwire.live.processes import Processes, choice
from kwire.live.recorder import Limits, Recorder
from kwire.live.script_actions import Acts
from kwire.live.scriptmaps import ScriptMap
from kwire.live.scripts import Planned, plan_script
from kwire.live.trace import Trace

NAME = "script"
"""What a script is called in messages."""


class Script(Trace):
    """A script that runs inside a `with`. Iterate for what it prints; see `kwire.bt`.

    `maps`: those of the script by name, `script.maps["@bytes"]`, while it runs and afterwards.
    """

    __slots__ = ("_again", "_lines", "_planned", "maps")

    def __init__(
        self,
        text: str,
        arguments: Sequence[str | int] = (),
        parameters: Mapping[str, str | int | bool] | None = None,
        *,
        command: str | list[str] | None = None,
        pid: int | list[int] | None = None,
        seconds: float | None = None,
        buffer: int | None = None,
        unsafe: bool = False,
    ) -> None:
        [text] = needed("run", script=text)
        seconds, buffer, unsafe = checked("run", seconds=seconds, buffer=buffer, unsafe=unsafe)
        told = words(arguments, parameters or {})
        script = read(NAME, text)
        self._words, self._pids = choice(command, pid)
        self._command: Command | None = None
        self._processes: Processes | None = None
        self._state = "not begun"
        scope = Scope(bool(self._pids), pids=tuple(self._pids))
        planned: list[Planned] = []

        def plan(process: int) -> Plan:
            planned.append(plan_script(script, told, scope=scope, command=process, unsafe=unsafe))
            return planned[-1].plan

        def recorder(process: int) -> Recorder:
            limits = Limits(seconds, None)
            return Recorder.begin(lambda: plan(process), limits, buffer=buffer, follow=bool(self._pids))

        # What of it means the command is known when that was forked; until then any number will do.
        self._again = recorder if self._words and "cpid" in text else None
        self._recorder = recorder(os.getpid() if self._words else 0)
        self._planned = planned[-1]
        self._batch = self._lines = Lines(self.schemas)
        self.maps: dict[str, MapView] = {}
        """Those that the script uses, by their names with the @."""
        for unit in self._recorder.plan.maps:
            self.maps[unit.map.name] = ScriptMap(unit)

    @property
    def status(self) -> int | None:
        """The status that the script asked to end with, once it has."""
        return self._recorder.status

    @property
    def left_out(self) -> list[tuple[str, str]]:
        """Places that are not traced, and why."""
        missing = [(str(one.span.line), one.message) for one in self._planned.missing]
        return [*super().left_out, *missing]

    def _begin(self) -> None:
        if self._words:
            self._command = Command(self._words)
        if self._again is not None and self._command is not None:
            self._recorder.close()
            self._recorder = self._again(self._command.pid)
        self._processes = Processes(self._pids, self._command, everyone=not self._pids)
        self._recorder.attach(self._processes)
        tracer = self._recorder.tracer
        for unit in self._recorder.plan.maps:
            one = self.maps[unit.map.name]
            assert isinstance(one, ScriptMap)
            one.begin(unit, tracer.maps, tracer.stacks)
        self._batch = self._lines = Lines(
            self._recorder.schemas, Acts(self._planned.cat_most, tells=False).act
        )
        self._recorder.start([self._batch])

    def _release(self) -> None:
        for one in self.maps.values():
            one.unbind(self._recorder.tracer.maps)
        super()._release()


def _word(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ArgumentError(
            "run", "script", f"{value!r} is no argument of a script", "give texts and integers"
        )
    return str(value)


def words(arguments: Sequence[Any], named: Mapping[str, Any]) -> list[str]:
    """What a script is given, as on a command line: of named parameters True is an option without a value,
    False none. Raises ArgumentError.
    """
    given = ((name, value) for name, value in named.items() if value is not False)
    options = (f"--{name}" if value is True else f"--{name}={_word(value)}" for name, value in given)
    return [*options, *map(_word, arguments)]
