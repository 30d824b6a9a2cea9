"""The probes named on a command line: specs, and files of probes written in Python, in any order."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from kwire.errors import KwireError
from kwire.hints import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kwire.lang import tree
    from kwire.lang.python import Written

PROBES = """\
PROBE is kind:target; a target may have wildcards (*, ?, [..]). Kinds: tracepoint, rawtracepoint, kprobe,
kretprobe, fentry, fexit; uprobe, uretprobe and usdt (file:name) in programs; software and hardware counters
(event:number), watchpoint (address:length:mode), iter (objects), interval and profile (unit:number), self
(signal:name), and begin and end, which have no target; `kwire list` shows what there is.
kind:target(expr, name=expr) gives these fields, without it an event has the probe's own; always the time,
CPU, pid, tid and comm. kind:target(expr){condition} gives the events for which the condition is true;
--filter is for all probes that have its names. FILE.py is read, never run: module-level functions under
@kwire.kprobe("..."), @kwire.tracepoint("...") and their like are compiled to eBPF; docs/python.md describes
what may stand in them and in expressions.
"""

MAX_FILE = 1 << 20


def add_arguments(parser: argparse.ArgumentParser, nargs: str = "+") -> None:
    """The probes and their filter."""
    parser.add_argument(
        "probes", metavar="PROBE|FILE.py", nargs=nargs, help="kind:target(expr, ...){condition}, or a file"
    )
    parser.add_argument(
        "--filter", metavar="EXPR", help="only events for which this is true; runs in the kernel"
    )


def is_file(name: str) -> bool:
    """Whether a file is meant; `-` is standard input."""
    return name.endswith(".py") or name == "-"


def read(names: Sequence[str]) -> list[str | tree.Probe]:
    """The specs as they are, the probes of the files. KwireError where a file has none."""
    probes: list[str | tree.Probe] = []
    for name in names:
        if not is_file(name):
            probes.append(name)
            continue
        from kwire.lang.python import parse_file

        found = parse_file(text_of(name), name, beside(name))
        if not found:
            raise _without(name)
        probes += found
    return probes


def request(names: Sequence[str]) -> dict[str, Any]:
    """The same as a request to another machine says it: of a file the probes, not what stands beside them.

    Raises KwireError as `read`.
    """
    from kwire.agent.requests import numbered
    from kwire.live.travelling import Titles

    specs = [name for name in names if not is_file(name)]
    functions: list[Written] = []
    for name in names:
        if is_file(name):
            from kwire.lang.python import written_file

            found = written_file(text_of(name), name, beside(name))
            if not found:
                raise _without(name)
            functions += found
    given = {"probes": specs, "functions": numbered(functions, Titles()) if functions else {}}
    return {key: value for key, value in given.items() if value}


def written_in(name: str) -> list[dict[str, Any]] | None:
    """What travels of each probe of a file, in the order of `read`; None where one calls functions of other
    files. Raises KwireError as `read`.
    """
    from kwire.agent.requests import numbered
    from kwire.lang.errors import LanguageError
    from kwire.lang.python import written_file
    from kwire.live.travelling import Titles

    try:
        found = written_file(text_of(name), name, beside(name))
    except LanguageError:  # where something is wrong, `read` or the plan says so
        return None
    return list(numbered(found, Titles()).values())


def beside(name: str) -> Callable[[str], tree.Source | None]:
    """What gives the text of a module that stands beside a file; it is read, never run."""

    from kwire.lang.tree import Source

    def source_of(module: str) -> tree.Source | None:
        path = os.path.join(os.path.dirname(name), *module.split("."))
        for place in (f"{path}.py", os.path.join(path, "__init__.py")):
            if name != "-" and os.path.isfile(place):
                return Source(place, text_of(place))
        return None

    return source_of


def _without(name: str) -> KwireError:
    """A file that has no probe."""
    return KwireError("trace", name, "there is no probe in it", 'write functions under @kwire.kprobe("...")')


_standard_input: str | None = None  # once it was read: nobody can read it twice


def text_of(name: str) -> str:
    """The text of a file; that of standard input is the same each time. Raises KwireError."""
    global _standard_input
    try:
        if name != "-":
            with open(name, encoding="utf-8") as file:
                return file.read(MAX_FILE)
        if _standard_input is None:
            with open(sys.stdin.fileno(), encoding="utf-8", closefd=False) as file:
                _standard_input = file.read(MAX_FILE)
        return _standard_input
    except OSError as error:
        raise KwireError("read", name, (error.strerror or str(error)).lower()) from None
    except UnicodeDecodeError as error:
        raise KwireError("read", name, f"it is not UTF-8 text at byte {error.start}") from None
