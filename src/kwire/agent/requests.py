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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kwire.errors import KwireError

if TYPE_CHECKING:
    from types import FrameType

    from kwire.agent.policy import Grant
    from kwire.live.plan import Plan
    from kwire.live.processes import Processes
    from kwire.live.program_sources import ProgramSources
    from kwire.live.recorder import Limits

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


class Key(NamedTuple):
    """One key of a request: the type of its value, how large it may be (elements, characters, or the number
    itself), what it means.
    """

    kind: str
    most: int
    meaning: str


TRACE: Final[dict[str, Key]] = {
    "probes": Key(
        "texts", 4096, "probe specs as `kwire record` takes them; none at all: those the agent lists"
    ),
    "functions": Key("functions", 1024, "probe functions by themselves: number → map"),
    "filter": Key("text", PIECE, "an expression that must hold for every event"),
    "command": Key("texts", 1024, "the words of a command to run and trace"),
    "pids": Key("numbers", 1024, "processes to trace, with what they start"),
    "seconds": Key("seconds", 1 << 40, "end after so long"),
    "count": Key("number", 1 << 63, "end after so many events"),
    "buffer": Key("number", 1 << 30, "bytes of each CPU's ring buffer"),
}
"""The keys of `trace`, the operation apart. Neither `command` nor `pids`: the whole machine is traced."""

FUNCTION: Final[dict[str, Key]] = {
    "file": Key("text", 4096, "the file it stands in, for messages"),
    "text": Key("pieces", TEXT_MOST, "its text, at its own line of the file, in pieces"),
    "name": Key("text", 256, "its name"),
    "attach": Key("texts", 64, "where it attaches: probe specs"),
    "constants": Key("constants", 4096, "the numbers and texts that it uses of what is around it, by name"),
    "values": Key("constants", 4096, "the same by dotted names"),
}
"""The keys of one of `functions`; all must be there."""

OPERATIONS: Final[dict[str, dict[str, Key]]] = {
    "trace": TRACE,
    "stop": {},
    "probes": {"pattern": Key("text", 4096, "a probe spec, with wildcards or without")},
    "clock": {},
    "ended": {
        "why": Key("text", 4096, "why the trace ended"),
        "status": Key("status", 1 << 31, "exit status of its command; where it had one"),
        "error": Key("map", 16, "as in a REPLY: it did not end in order"),
    },
}
"""Operation → its keys. A session has one `trace` at most; `ended` is asked by the agent, before its BYE."""

MEANINGS: Final = {
    "trace": "begin to trace; the answer comes when the probes are attached, and the events follow as DATA",
    "stop": "end the trace in order: what is known of it is sent, then BYE",
    "probes": "what may be probed and matches: `names`, and `more` where there are too many to tell",
    "clock": "the agent's clocks: `received` and `sent` (ns of its monotonic clock), `wall`",
    "ended": "the trace has ended by itself; told by the agent",
}


# -- reading


def read(body: Mapping[Any, Any], operation: str, keys: Mapping[str, Key] | None = None) -> dict[str, Any]:
    """The values of a request, each as its key says. Raises RequestError."""
    keys = OPERATIONS[operation] if keys is None else keys
    for name in body:
        if name != "op" and name not in keys:
            raise RequestError("understand request", operation, f"there is no {ascii(name)[:40]} in it", "")
    return {name: _value(operation, name, keys[name], body[name]) for name in body if name != "op"}


def operation_of(body: Mapping[Any, Any]) -> str:
    """What is asked for. Raises RequestError where that is nothing known."""
    name = body.get("op")
    if not isinstance(name, str) or name not in OPERATIONS:
        known = ", ".join(OPERATIONS)
        raise RequestError(
            "understand request", ascii(name)[:40], "there is no such operation", f"known: {known}"
        )
    return name


def _value(operation: str, name: str, key: Key, value: Any) -> Any:
    good = _KINDS[key.kind](value, key.most)
    if not good:
        raise RequestError("understand request", operation, f"{name} is not as it should be", key.meaning)
    if key.kind == "functions":
        values = [read(value[number], f"{operation} {name}", FUNCTION) for number in sorted(value)]
        if any(len(one) < len(FUNCTION) for one in values):
            raise RequestError("understand request", operation, f"{name} lack a key", ", ".join(FUNCTION))
        return values
    return "".join(value) if key.kind == "pieces" else value


def _is_number(value: Any, most: int) -> bool:
    return type(value) is int and 0 < value <= most


def _is_text(value: Any, most: int) -> bool:
    return isinstance(value, str) and len(value) <= most


def _is_texts(value: Any, most: int) -> bool:
    return isinstance(value, list) and len(value) <= most and all(_is_text(one, PIECE) for one in value)


def _is_pieces(value: Any, most: int) -> bool:
    return _is_texts(value, most) and sum(map(len, value)) <= most


def _is_maps(value: Any, most: int) -> bool:
    if not isinstance(value, dict) or len(value) > most:
        return False
    return all(type(number) is int and isinstance(one, dict) for number, one in value.items())


def _is_constants(value: Any, most: int) -> bool:
    def good(item: Any) -> bool:
        if isinstance(item, str):
            return len(item) <= 1 << 16
        return isinstance(item, int) and abs(item) < 1 << 64

    return (
        isinstance(value, dict)
        and len(value) <= most
        and all(_is_text(name, 256) and good(item) for name, item in value.items())
    )


_KINDS: Final[dict[str, Callable[[Any, int], bool]]] = {
    "text": _is_text,
    "texts": _is_texts,
    "pieces": _is_pieces,
    "map": lambda value, most: isinstance(value, dict) and len(value) <= most,
    "number": _is_number,
    "numbers": lambda value, most: (
        isinstance(value, list) and len(value) <= most and all(_is_number(one, 1 << 31) for one in value)
    ),
    "seconds": lambda value, most: type(value) in (int, float) and 0 < value <= most,
    "status": lambda value, most: type(value) is int and abs(value) <= most,
    "functions": _is_maps,
    "constants": _is_constants,
}


# -- answering


def failed(error: KwireError) -> dict[str, Any]:
    """The REPLY that says what went wrong."""
    parts = {"operation": error.operation, "subject": error.subject, "cause": error.cause, "cure": error.cure}
    told = {name: text[:LINE_MOST] for name, text in {**parts, "text": str(error)}.items()}
    return {"error": {**told, "detail": error.detail[:DETAIL_MOST]}}


def numbered(maps: Iterable[Mapping[str, Any]]) -> dict[int, dict[str, Any]]:
    """`functions` as they travel, each with its `text` in pieces, so that frames can be short."""
    return {number: {**one, "text": pieces(one["text"])} for number, one in enumerate(maps)}


def pieces(text: str) -> list[str]:
    """A long text as it travels."""
    return [text[at : at + PIECE] for at in range(0, len(text), PIECE)]


def answered(body: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """A REPLY that went well. Raises RemoteError where it says that it did not."""
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


def begun(plan: Plan) -> dict[str, Any]:
    """The REPLY to `trace`, once the probes are attached."""
    system = os.uname()
    return {
        "ok": True,
        "probes": len(plan.schemas),
        "skipped": [[place[:200], why[:200]] for place, why in plan.skipped[:SAID_MOST]],
        "left_out": len(plan.skipped),
        "unfiltered": [[place[:200], why[:200]] for place, why in plan.unfiltered[:SAID_MOST]],
        "host": system.nodename,
        "kernel": system.release,
    }


def serve(body: Mapping[Any, Any], grant: Grant, without: Sequence[int] = ()) -> Job:
    """Do what a `trace` request asks for, as far as to what must be loaded; `without`: our own processes.

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
        if not (texts.specs or texts.functions):
            texts = texts._replace(specs=grant.listed)
        wanted = parse(texts)
        grant.check(wanted)
        if words:
            grant.check_command(words)
        if pids:
            grant.check_pids()
        command = Command(words, user=grant.user) if words else None
        try:
            processes = Processes(pids, command, without=without)
            plan = wanted.plan(processes.scope)
            grant.check_schemas(plan.schemas, wanted)
        except BaseException:
            if command:
                command.end()
            raise
    seconds = asked.get("seconds")
    if grant.seconds < (seconds or float("inf")):
        seconds = float(grant.seconds) if grant.seconds < 1 << 40 else seconds
    buffer = grant.buffer(asked.get("buffer"), possible_cpus())
    return Job(plan, processes, Limits(seconds, asked.get("count")), buffer, grant.rate)


def names(body: Mapping[Any, Any], grant: Grant) -> dict[str, Any]:
    """The answer to `probes`; takes a place as `serve` does. Raises KwireError."""
    from kwire.kernel import catalog

    grant.take()
    pattern = read(body, "probes").get("pattern", "")
    kind, _, target = pattern.partition(":")
    with in_time(COMPILE_SECONDS):
        found = [str(one) for one in catalog.expand(kind, target) if grant.shows(str(one))]
    return {"ok": True, "names": found[:NAMES_MOST], "more": len(found) > NAMES_MOST}


def _texts(asked: Mapping[str, Any]) -> ProgramSources:
    from kwire.live.program_sources import ProgramSources, function_of

    functions = tuple(function_of(**one) for one in asked.get("functions", ()))
    return ProgramSources(tuple(asked.get("probes", ())), functions, asked.get("filter"))


@contextmanager
def in_time(seconds: float) -> Iterator[None]:
    """Raise KwireError in what takes longer, in the main thread of a process."""

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
        ("`probes`", OPERATIONS["probes"]),
        ("`ended`", OPERATIONS["ended"]),
    ):
        rows = [f"| `{name}` | {_DESCRIBED[key.kind]} | {key.meaning} |" for name, key in keys.items()]
        parts.append("\n".join([f"| key of {title} | type | meaning |", "|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


_DESCRIBED: Final = {
    "text": "text",
    "texts": "list of texts",
    "pieces": f"list of texts of at most {PIECE} characters, to be joined",
    "number": "integer",
    "numbers": "list of integers",
    "seconds": "number",
    "status": "integer",
    "functions": "map",
    "constants": "map from names to integers and texts",
    "map": "map",
}
