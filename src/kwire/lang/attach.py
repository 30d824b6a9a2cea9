"""Attach points as they are written: `kind:target`, wildcards kept.

The kinds, their spellings and the form of their targets are those of `kwire.kinds`.
"""

from kwire.kinds import KINDS, SIGNALS, SPELLINGS, ProbeKind, file_and_name, period
from kwire.lang.errors import Diagnostic, LanguageError, did_you_mean
from kwire.lang.tree import AttachPoint, Source, Span
from kwire.lazy import ASCII, pattern
from kwire.words import article

PARTS = {
    "event": (2,),
    "raw event": (1,),
    "function": (1, 2),
    "timer": (1, 2),
    "trace": (),
    "user function": (2,),
    "user mark": (2, 3),
    "counter": (1, 2),
    "memory": (3,),
    "objects": (1,),
    "signal": (2,),
}
"""How many parts a target has between colons, by what it is."""

_OFFSET = pattern(r"(.+)\+(0[xX][0-9a-fA-F]+|[0-9]+)")

_NAME = pattern(r"[\w.$*?\[\]!^-]+", ASCII)  # of a function, wildcards included


def tail(text: str) -> int:
    """Where the expressions or the condition of a probe spec begin; the end of the text where it has none."""
    return min(at for at in (text.find("("), text.find("{"), len(text)) if at >= 0)


def kind_of(source: Source, word: str, column: int = 0) -> str:
    """The full name of a kind from any of its spellings."""
    found = SPELLINGS.get(word) or SPELLINGS.get(word.lower())
    if found is None:
        cure = did_you_mean(word, SPELLINGS) or f"the kinds are {', '.join(KINDS)}"
        raise _error(source, column, column + len(word), f"unknown kind of probe {word!r}", cure)
    return found.name


def parse(source: Source, end: int) -> AttachPoint:
    """The attach point in the first `end` characters of a source. Raises `LanguageError` with the span of the
    part that is wrong.
    """
    head = source.text[:end].rstrip()
    span = Span(1, 0, 1, max(len(head), 1))
    word, colon, rest = head.partition(":")
    if not colon:
        if word in SPELLINGS or word.lower() in SPELLINGS:
            kind = SPELLINGS.get(word) or SPELLINGS[word.lower()]
            if kind.place == "trace":
                return AttachPoint(kind.name, "", "", 0, span)
            raise _error(source, 0, len(head), f"{word!r} says no target", f"write {kind.name}:{kind.form}")
        cure = f"write kprobe:{head} or tracepoint:…"
        if head.endswith(".bt"):
            cure = f"a script runs as 'kwire {head}', with -w FILE to keep what it prints"
        raise _error(source, 0, len(head), f"{head!r} has no kind", cure)
    kind = KINDS[kind_of(source, word)]
    start = len(word) + 1
    parts = rest.split(":")
    wrong = (
        f"write {kind.name}:{kind.form}, for example {kind.example}" if kind.form else f"write {kind.name}"
    )
    if kind.user:
        return _in_file(source, kind, head, start, wrong, span)
    if not all(parts) or any(part != part.strip() or " " in part for part in parts):
        raise _error(source, start, len(head), f"{rest!r} is not a target of {article(kind.name)}", wrong)
    if len(parts) not in PARTS[kind.place]:
        raise _error(source, start, len(head), f"{rest!r} is not a target of {article(kind.name)}", wrong)
    if kind.place in ("timer", "counter", "memory", "signal"):
        fault = _meaningless(kind, rest)
        if fault:
            raise _error(source, start, len(head), f"{rest!r} is no {fault[0]}", fault[1] or wrong)
        return AttachPoint(kind.name, "", rest, 0, span)
    group = parts[0] if len(parts) == 2 else ""
    name, plus, offset_text = parts[-1].partition("+")
    if kind.place == "function" and not _NAME.fullmatch(name):
        raise _error(source, start, len(head), f"{name!r} is no name of a kernel function", wrong)
    if not plus:
        return AttachPoint(kind.name, group, name, 0, span)
    column = len(head) - len(offset_text)
    if not kind.offset:
        raise _error(
            source,
            column - 1,
            len(head),
            f"{article(kind.name)} takes no offset",
            "use kprobe:function+offset",
        )
    try:
        offset = int(offset_text, 0)
    except ValueError:
        raise _error(
            source, column, len(head), f"{offset_text!r} is no offset", "write bytes, as in +16"
        ) from None
    if offset < 0 or not name:
        raise _error(source, start, len(head), f"{rest!r} is not a target of a kprobe", wrong)
    return AttachPoint(kind.name, group, name, offset, span)


def _meaningless(kind: ProbeKind, target: str) -> tuple[str, str] | None:
    """What a target that is no name is not, where it is not, and what there is (empty: any number)."""
    if kind.place == "timer":
        return None if period(target) else ("period", "")
    if kind.place == "signal":
        what, _, name = target.partition(":")
        known = what == "signal" and name in SIGNALS
        return (
            None
            if known
            else ("signal to us", f"write {' or '.join(f'self:signal:{one}' for one in SIGNALS)}")
        )
    from kwire import perfevents

    if kind.place == "memory":
        return None if perfevents.watch(target) else ("stretch of memory", "")
    if perfevents.counter(kind.name, target):
        return None
    name = target.partition(":")[0]
    if perfevents.counter(kind.name, name):
        return "counter with a number of events, 1 or more", f"for example {kind.name}:{name}:1000"
    return "counter", f"it is one of {', '.join(perfevents.COUNTERS[kind.name])}, perhaps with :number"


def _in_file(source: Source, kind: ProbeKind, head: str, start: int, wrong: str, span: Span) -> AttachPoint:
    """The attach point of a kind whose target is in a file; names in C++ may have blanks and colons."""
    file, colon, name = file_and_name(head[start:])
    offset = 0
    if kind.place == "user function":
        if kind.offset and (found := _OFFSET.fullmatch(name)):
            name, offset = found[1], int(found[2], 0)
    elif name.count(":") > 1:
        colon = ""
    else:  # in whatever file of the process, by whatever provider
        file, name = file or "*", f"*{name}" if name.startswith(":") else name
    if not colon or not file.strip() or not name.strip():
        raise _error(
            source, start, len(head), f"{head[start:]!r} is not a target of {article(kind.name)}", wrong
        )
    return AttachPoint(kind.name, file, name, offset, span)


def _error(source: Source, start: int, end: int, message: str, cure: str) -> LanguageError:
    return LanguageError(source, [Diagnostic(Span(1, start, 1, max(end, start + 1)), message, cure)])
