"""Probes that came as text from elsewhere: parsed, never run, and compiled where they are to attach.

Invariants: nothing in a text is executed or imported, whatever stands in it; errors are those of a probe
written here, with its file, line and span; what a text asks for is known (`Wanted.asked`) before
anything is compiled, so that it can be refused first.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from kwire.errors import KwireError
from kwire.lang import python, spec, tree
from kwire.lang.bpftrace.syntax import Script
from kwire.live.plan import Plan, Scope
from kwire.live.planner import FILTER, make_plan
from kwire.live.probes import Probe


class ScriptSource(NamedTuple):
    """A script in the bpftrace language: what it is called in messages, its text, what it is given, options
    among that.
    """

    name: str
    text: str
    arguments: tuple[str, ...] = ()


class ProgramSources(NamedTuple):
    """What to trace, as text. `specs`: as `kwire record` takes them; `functions`: probe functions by
    themselves; `filter`: an expression, for all of them; `script`: instead of all these.
    """

    specs: tuple[str, ...] = ()
    functions: tuple[python.Written, ...] = ()
    filter: str | None = None
    script: ScriptSource | None = None


class Asked(NamedTuple):
    """One thing asked for: its `kind:target`, wildcards as written; the spec, "" where a function attaches
    there; whether there is a program in it, and not the place alone.
    """

    place: str
    spec: str
    program: bool


class Wanted(NamedTuple):
    """Program sources that were parsed, and all they ask for."""

    texts: ProgramSources
    probes: tuple[tree.Probe, ...]
    asked: tuple[Asked, ...]
    script: Script | None = None

    def plan(self, scope: Scope, command: int = 0, *, apart: bool = False) -> Plan:
        """Compile against the running kernel; `scope` as for `make_plan`; `command`: what a script knows as
        its command; `apart`: the probes of each spec can be taken away by themselves. Raises KwireError.
        """
        if self.script is not None and self.texts.script is not None:
            from kwire.live.scripts import plan_script

            words = self.texts.script.arguments
            return plan_script(self.script, words, scope=scope, command=command).plan
        probes: list[str | Probe | tree.Probe] = [*self.texts.specs, *self.probes]
        numbers = range(len(probes)) if apart else None
        return make_plan(probes, self.texts.filter, scope=scope, numbers=numbers)


def parse(texts: ProgramSources) -> Wanted:
    """Read the texts. Raises LanguageError for what is wrong in them, KwireError where there is no probe."""
    if texts.script is not None:
        from kwire.lang.bpftrace.options import given
        from kwire.lang.bpftrace.points import places
        from kwire.lang.bpftrace.reader import read

        script = read(texts.script.name, texts.script.text)
        points = places(script, tuple(given(texts.script.arguments)[0]))
        return Wanted(texts, (), tuple(Asked(str(at), "", True) for at in points), script)
    probes = [python.parse_written(function) for function in texts.functions]
    if texts.filter is not None:
        python.parse_expression(texts.filter, FILTER)
    asked = []
    for text in texts.specs:
        one = spec.parse(text)
        asked.append(Asked(str(one.point), text, bool(one.expressions or one.condition)))
    asked += [Asked(str(at), "", True) for probe in probes for at in probe.attach]
    return Wanted(texts, tuple(probes), tuple(asked))


def written(probes: Sequence[object]) -> tuple[python.Written, ...]:
    """What must travel of probe functions of this program. Raises KwireError for what is no probe."""
    from kwire.live.probes import Probe

    functions = []
    for probe in probes:
        if not isinstance(probe, Probe):
            raise KwireError("trace", repr(probe), "it is no probe", "write functions under @kwire.kprobe")
        functions.append(python.written(probe.function, probe.attach))
    return tuple(functions)


def function_of(
    file: str,
    text: str,
    name: str,
    attach: Sequence[str],
    constants: Mapping[str, int | str],
    values: Mapping[str, int | str],
    names: Mapping[str, str],
    maps: Mapping[str, tree.MapDeclaration],
) -> python.Written:
    """A probe function by itself from what came of it."""
    known = dict(constants), dict(values), dict(names), dict(maps)
    return python.Written(file, text, name, tuple(attach), *known)
