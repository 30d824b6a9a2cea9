"""What clients ask of an agent: the bodies of REQUEST and REPLY, read strictly, answered within the policy.

    REQUEST  {"op": "trace", "probes": ["tracepoint:sched:sched_switch"], "seconds": 5.0}
    REPLY    {"ok": true, "probes": 1, "host": "web1", "kernel": "6.12.0"}
    REPLY    {"error": {"text": "…", "detail": "…", "operation": "trace", "subject": "…", "cause": "…", …}}

Invariants: `OPERATIONS` is all there is; a key that is not known, or not of its type, is refused and never
passed over, because it may have been meant to narrow what is traced; sizes are bounded before anything is
done with them; nothing that came is executed but verified eBPF, and the commands that the policy names.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kwire.errors import KwireError
from kwire.kinds import USER
from kwire.wire import keyed
from kwire.wire.keyed import (
    FLAG,
    INTEGER,
    LEFT_OUT,
    MAP,
    MISSING,
    Key,
    Kind,
    Misfit,
    integer,
    listing,
    plain,
    table,
    text,
)

if TYPE_CHECKING:
    from types import FrameType

    from kwire.agent.policy import Grant
    from kwire.live.plan import Plan
    from kwire.live.processes import Processes
    from kwire.live.program_sources import ProgramSources
    from kwire.live.recorder import Limits
    from kwire.live.travelling import Titles, Written

TEXT_MOST: Final = 256 << 10
"""Characters of program text in one request."""

COMPILE_SECONDS: Final = 10.0
"""What an agent spends on understanding and compiling one request at most."""

PIECE: Final = 8192
"""Characters of a text that are sent together: a long one is a list of pieces, since frames are short."""

NAMES_MOST: Final = 1000
"""Names in the answer to `probes`: they fit a datagram."""

LINE_MOST, DETAIL_MOST = 1000, 10_000
"""Characters of a line and of the detail of an error: together they fit a datagram in any script."""

SAID_MOST: Final = 20
"""Targets left out of a wildcard that are named in an answer."""


class RequestError(KwireError):
    """A request that cannot be understood."""


class RemoteError(KwireError):
    """What the other side refused or failed at, in its own words."""

    def __init__(self, operation: str, subject: str, cause: str, cure: str, text: str, detail: str) -> None:
        super().__init__(operation, subject, cause, cure)
        self._text = text
        self._detail = detail

    def __str__(self) -> str:
        return self._text

    @property
    def detail(self) -> str:
        """Everything the other side knows of it: the source line and the span, the verifier's log."""
        return self._detail


def _texts_of(most: int) -> Kind:
    return listing(text(PIECE), "a list of texts", most)


def _pieces_wrong(value: Any) -> str | None:
    wrong = _texts_of(TEXT_MOST).wrong(value)
    size = 0 if wrong else sum(map(len, value))
    return f": {size} characters" if size > TEXT_MOST else wrong


def _is_constant(value: Any) -> bool:
    return len(value) <= 1 << 16 if isinstance(value, str) else abs(value) < 1 << 64


_CONSTANTS: Final = table(
    text(256),
    plain("an integer or text", str, int, bool, fits=_is_constant, shown=lambda value: "a large one"),
    "a map from names to integers and texts",
    4096,
)

TRACE: Final[dict[str, Key]] = {
    "probes": Key(
        _texts_of(4096),
        "probe specs as `kwire record` takes them; none at all: those the agent lists",
        LEFT_OUT,
    ),
    "functions": Key(
        table(INTEGER, MAP, "a map", 1024), "probe functions by themselves: number → map", LEFT_OUT
    ),
    "script": Key(
        MAP, "a script in the bpftrace language instead, with its `name`, `text` and `arguments`", LEFT_OUT
    ),
    "filter": Key(text(PIECE), "an expression that must hold for every event", LEFT_OUT),
    "command": Key(_texts_of(1024), "the words of a command to run and trace", LEFT_OUT),
    "pids": Key(
        listing(integer(1 << 31, least=1), "a list of integers", 1024),
        "processes to trace, with what they start",
        LEFT_OUT,
    ),
    "everyone": Key(
        FLAG,
        "whether all processes are traced beside the command or these processes, whose end ends the trace; "
        "without this key only beside the command of a script",
        LEFT_OUT,
    ),
    "seconds": Key(
        plain("a number", int, float, fits=lambda value: 0 < value <= 1 << 40),
        "end after so long",
        LEFT_OUT,
    ),
    "count": Key(integer(1 << 63, "an integer", 1), "end after so many events", LEFT_OUT),
    "buffer": Key(integer(1 << 30, "an integer", 1), "bytes of each CPU's ring buffer", LEFT_OUT),
}
"""The keys of `trace`, the operation apart. Neither `command` nor `pids`: the whole machine is traced."""

MAPS_MOST: Final = 256
"""Maps that one function uses."""

SET_MOST: Final = 1 << 16
"""Keys that a map begins with."""


def _argument_wrong(value: Any) -> str | None:
    texts = isinstance(value, list) and len(value) <= MAPS_MOST and all(isinstance(one, str) for one in value)
    return None if texts or isinstance(value, int) else ": neither an integer nor a list of texts"


def _part(value: Any) -> bool:
    return type(value) in (int, bool, str, bytes) or (isinstance(value, list) and all(map(_part, value)))


def _pair_wrong(value: Any) -> str | None:
    sound = isinstance(value, list) and len(value) == 2 and isinstance(value[0], list) and _part(value)
    return None if sound else ": no key and value"


MAP_OF_FUNCTION: Final[dict[str, Key]] = {
    "title": Key(text(256), "what it is called; what has one title is one map"),
    "kind": Key(text(32), "as Python declares it: `Hash`, `Count`, …"),
    "arguments": Key(
        table(text(16), Kind("an integer or a list of texts", _argument_wrong), "a map", 16),
        "what it is declared with; types as lists of C types",
    ),
    "set": Key(
        listing(
            Kind("a list of a key, which is a list of parts, and a value", _pair_wrong), "a list", SET_MOST
        ),
        "what it begins with",
        LEFT_OUT,
    ),
}
"""The keys of one of a function's `maps`."""


FUNCTION: Final[dict[str, Key]] = {
    "file": Key(text(4096), "the file it stands in, for messages"),
    "text": Key(
        Kind(f"a list of texts of at most {PIECE} characters, to be joined", _pieces_wrong),
        "its text, at its own line of the file, in pieces",
    ),
    "name": Key(text(256), "its name"),
    "attach": Key(_texts_of(64), "where it attaches: probe specs"),
    "constants": Key(_CONSTANTS, "the numbers and texts that it uses of what is around it, by name"),
    "values": Key(_CONSTANTS, "the same by dotted names"),
    "names": Key(
        table(text(256), text(256), "a map from names to names", 4096),
        "the names of the probe language that it calls otherwise",
    ),
    "maps": Key(
        table(text(256), MAP, "a map from names to maps", MAPS_MOST),
        "the maps that it uses, by the names there",
    ),
}
"""The keys of one of `functions`; all must be there."""

SCRIPT: Final[dict[str, Key]] = {
    "name": Key(text(4096), "what it is called in messages"),
    "text": Key(
        Kind(f"a list of texts of at most {PIECE} characters, to be joined", _pieces_wrong),
        "its text, in pieces",
    ),
    "arguments": Key(_texts_of(1024), "what it is given: arguments, and options as `--name=value`"),
}
"""The keys of `script`; all must be there."""

OPERATIONS: Final[dict[str, dict[str, Key]]] = {
    "trace": TRACE,
    "stop": {},
    "probes": {"pattern": Key(text(4096), "a probe spec, with wildcards or without", LEFT_OUT)},
    "clock": {},
    "join": {},
    "ended": {
        "why": Key(text(4096), "why the trace ended", LEFT_OUT),
        "status": Key(
            integer(1 << 31, "an integer", -(1 << 31)),
            "exit status of its command; where it had one",
            LEFT_OUT,
        ),
        "error": Key(MAP, "as in a REPLY: it did not end in order", LEFT_OUT),
    },
}
"""Operation → its keys. A session has one `trace` at most; `ended` is asked by the agent, before its BYE."""

MEANINGS: Final = {
    "trace": "begin to trace; the answer comes when the probes are attached, and the events follow as DATA",
    "stop": "end the trace in order: what is known of it is sent, then BYE",
    "probes": "what may be probed and matches: `names`, and `more` where there are too many to tell",
    "clock": "the agent's clocks: `received` and `sent` (ns of its monotonic clock), `wall`",
    "join": "asked by the agent: whether probes that it lists only now may join the trace, "
    "with further SCHEMAs; after an `error` the trace ends, and may be asked for anew; where `joins` of a "
    "REPLY is false, it goes on without them",
    "ended": "the trace has ended by itself; told by the agent",
}


# -- reading


def read(body: Mapping[Any, Any], operation: str, keys: Mapping[str, Key] | None = None) -> dict[str, Any]:
    """The values of a request, each as its key says. Raises RequestError."""

    def wrong(one: Misfit) -> RequestError:
        if one.key is None:
            return RequestError("understand request", operation, f"there is no {one.name} in it", "")
        cause = f"{one.name} is {'missing' if one.found == MISSING else 'not as it should be'}"
        return RequestError("understand request", operation, cause, one.key.meaning)

    given = {name: value for name, value in body.items() if name != "op"}
    taken = keyed.read(given, OPERATIONS[operation] if keys is None else keys, wrong, strict=True)
    functions = taken.get("functions")
    if functions is not None:
        read_each = (
            read(functions[number], f"{operation} functions", FUNCTION) for number in sorted(functions)
        )
        taken["functions"] = [
            {**one, "text": "".join(one["text"]), "maps": _read_maps(one["maps"], operation)}
            for one in read_each
        ]
    if "script" in taken:
        script = read(taken["script"], f"{operation} script", SCRIPT)
        taken["script"] = {**script, "text": "".join(script["text"])}
    return taken


def _read_maps(given: Mapping[str, Mapping[Any, Any]], operation: str) -> dict[str, dict[str, Any]]:
    return {name: read(one, f"{operation} functions maps", MAP_OF_FUNCTION) for name, one in given.items()}


def operation_of(body: Mapping[Any, Any]) -> str:
    """What is asked for. Raises RequestError where that is nothing known."""
    name = body.get("op")
    if not isinstance(name, str) or name not in OPERATIONS:
        known = ", ".join(OPERATIONS)
        raise RequestError(
            "understand request", ascii(name)[:40], "there is no such operation", f"known: {known}"
        )
    return name


# -- answering


def failed(error: KwireError) -> dict[str, Any]:
    """The REPLY that says what went wrong."""
    parts = {"operation": error.operation, "subject": error.subject, "cause": error.cause, "cure": error.cure}
    told = {name: text[:LINE_MOST] for name, text in {**parts, "text": str(error)}.items()}
    return {"error": {**told, "detail": error.detail[:DETAIL_MOST]}}


def numbered(functions: Iterable[Written], titles: Titles) -> dict[int, dict[str, Any]]:
    """`functions` as they travel, each with its `text` in pieces, so that frames can be short. `titles`: of
    the maps of all of them.
    """
    return {
        number: {
            **one._asdict(),
            "attach": list(one.attach),
            "text": pieces(one.text),
            "maps": {name: titles.said(made) for name, made in one.maps.items()},
        }
        for number, one in enumerate(functions)
    }


def pieces(text: str) -> list[str]:
    """A long text as a list of texts, each of at most PIECE characters."""
    return [text[at : at + PIECE] for at in range(0, len(text), PIECE)]


def answered(body: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """The body of a REPLY. Raises RemoteError where it tells of a failure."""
    error = body.get("error")
    if error is None and body.get("ok") is True:
        return body
    told = error if isinstance(error, dict) else {}
    parts = [told.get(name) for name in ("operation", "subject", "cause", "cure", "text", "detail")]
    operation, subject, cause, cure, text, detail = (
        _harmless(part) if isinstance(part, str) else "" for part in parts
    )
    cause = cause or "it gave no sound answer"
    text = text or f"{operation or 'ask agent'}: {cause}"
    raise RemoteError(operation or "ask agent", subject, cause, cure, text, detail or text)


def _harmless(text: str) -> str:
    """Another's text without what a terminal would take for commands."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\ufffd" for char in text[:TEXT_MOST])


class Job(NamedTuple):
    """A trace that a client is to have. `plan` is compiled, nothing is loaded; its command waits.

    `buffer`: bytes of each CPU's ring; `rate`: events a second.
    """

    plan: Plan
    processes: Processes
    limits: Limits
    buffer: int | None
    rate: int
    listed: tuple[str, ...] = ()
    """The specs, where they are those that the agent lists."""
    filter: str | None = None


def begun(plan: Plan, described: int) -> dict[str, Any]:
    """The REPLY to `trace`, once the probes are attached. `described`: how many SCHEMAs follow, maps' too."""
    system = os.uname()
    return {
        "ok": True,
        "probes": described,
        "skipped": [[place[:200], why[:200]] for place, why in plan.skipped[:SAID_MOST]],
        "left_out": len(plan.skipped),
        "unfiltered": [[place[:200], why[:200]] for place, why in plan.unfiltered[:SAID_MOST]],
        "host": system.nodename,
        "kernel": system.release,
    }


def serve(body: Mapping[Any, Any], grant: Grant, without: Sequence[int] = ()) -> Job:
    """Compile what a `trace` request asks for; nothing is loaded yet. `without`: our own processes.

    For a process of its own: it takes one of the grant's places until the process ends. Raises KwireError;
    then no command is left.
    """
    from kwire.kernel.sys import possible_cpus
    from kwire.live.command import Command
    from kwire.live.processes import Processes
    from kwire.live.program_sources import parse
    from kwire.live.recorder import Limits

    grant.take()
    asked = read(body, "trace")
    words, pids = list(asked.get("command", ())), tuple(asked.get("pids", ()))
    with in_time(COMPILE_SECONDS):
        texts = _texts(asked)
        listed = () if texts.specs or texts.functions or texts.script else grant.listed
        if listed:
            texts = texts._replace(specs=listed)
        wanted = parse(texts)
        grant.check(wanted)
        if words:
            grant.check_command(words)
        if pids:
            grant.check_pids()
        command = Command(words, user=grant.user) if words else None
        everyone = asked.get("everyone", texts.script is not None and not pids)
        try:
            processes = Processes(pids, command, without=without, everyone=everyone)
            plan = wanted.plan(processes.scope, command.pid if command else 0, apart=bool(listed))
            grant.check_schemas(plan.schemas, wanted)
        except BaseException:
            if command:
                command.end()
            raise
    seconds = asked.get("seconds")
    if grant.seconds < (seconds or float("inf")):
        seconds = float(grant.seconds) if grant.seconds < 1 << 40 else seconds
    buffer = grant.buffer(asked.get("buffer"), possible_cpus())
    return Job(plan, processes, Limits(seconds, asked.get("count")), buffer, grant.rate, listed, texts.filter)


def names(body: Mapping[Any, Any], grant: Grant) -> dict[str, Any]:
    """The answer to `probes`; takes a place as `serve` does. Raises KwireError."""
    from kwire.kernel import catalog

    grant.take()
    pattern = read(body, "probes").get("pattern", "")
    kind, _, target = pattern.partition(":")
    if kind in USER and not grant.shows(pattern):  # not even which files there are
        return {"ok": True, "names": [], "more": False}
    with in_time(COMPILE_SECONDS):
        found = [str(one) for one in catalog.expand(kind, target) if grant.shows(str(one))]
    return {"ok": True, "names": found[:NAMES_MOST], "more": len(found) > NAMES_MOST}


def _texts(asked: Mapping[str, Any]) -> ProgramSources:
    from kwire.live.program_sources import ProgramSources, ScriptSource, function_of
    from kwire.live.travelling import ReceivedMaps

    made = ReceivedMaps()
    functions = tuple(
        function_of(**{**one, "maps": {name: made.map(said) for name, said in one["maps"].items()}})
        for one in asked.get("functions", ())
    )
    script = asked.get("script")
    if script is None:
        return ProgramSources(tuple(asked.get("probes", ())), functions, asked.get("filter"))
    if functions or asked.keys() & {"probes", "filter"}:
        raise RequestError("understand request", "trace", "a script comes by itself", "leave the rest out")
    own = ScriptSource(script["name"], script["text"], tuple(script["arguments"]))
    return ProgramSources(script=own)


@contextmanager
def in_time(seconds: float) -> Iterator[None]:
    """Raise KwireError in the body of the `with` once it has taken so long. For a main thread (SIGALRM)."""

    def late(number: int, frame: FrameType | None) -> None:
        raise KwireError("compile", "request", f"it took more than {seconds:g} s", "ask for less at once")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def markdown() -> str:
    """The operations and their keys, as tables for the documentation."""
    lines = ["| `op` | what is asked |", "|---|---|"]
    lines += [f"| `{name}` | {meaning} |" for name, meaning in MEANINGS.items()]
    parts = ["\n".join(lines)]
    for title, keys in (
        ("`trace`", TRACE),
        ("one of `functions`", FUNCTION),
        ("one of a function's `maps`", MAP_OF_FUNCTION),
        ("`script`", SCRIPT),
        ("`probes`", OPERATIONS["probes"]),
        ("`ended`", OPERATIONS["ended"]),
    ):
        rows = [f"| `{name}` | {key.kind.words} | {key.meaning} |" for name, key in keys.items()]
        parts.append("\n".join([f"| key of {title} | type | meaning |", "|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"
