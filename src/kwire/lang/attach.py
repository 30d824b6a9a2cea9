"""Attach points as they are written: `kind:target`, wildcards kept.

The kinds, their spellings and the form of their targets are those of `kwire.kinds`.
"""

import re

from kwire.kinds import KINDS, SPELLINGS, period
from kwire.lang.errors import Diagnostic, LanguageError, did_you_mean
from kwire.lang.tree import AttachPoint, Source, Span
from kwire.lazy import pattern

PARTS = {"event": (2,), "raw event": (1,), "function": (1, 2), "timer": (1, 2), "trace": ()}
"""How many parts a target has between colons, by what it is."""

TAIL = pattern(r"[({]")
"""Where the expressions or the condition of a probe spec begin."""

_NAME = pattern(r"[\w.$*?\[\]!^-]+", re.ASCII)  # of a function, wildcards included


def kind_of(source: Source, word: str, column: int = 0) -> str:
    """The full name of a kind from any of its spellings."""
    found = SPELLINGS.get(word.lower())
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
        if word.lower() in SPELLINGS:
            kind = SPELLINGS[word.lower()]
            if kind.place == "trace":
                return AttachPoint(kind.name, "", "", 0, span)
            raise _error(source, 0, len(head), f"{word!r} says no target", f"write {kind.name}:{kind.form}")
        raise _error(source, 0, len(head), f"{head!r} has no kind", f"write kprobe:{head} or tracepoint:…")
    kind = KINDS[kind_of(source, word)]
    start = len(word) + 1
    parts = rest.split(":")
    wrong = (
        f"write {kind.name}:{kind.form}, for example {kind.example}" if kind.form else f"write {kind.name}"
    )
    if not all(parts) or any(part != part.strip() or " " in part for part in parts):
        raise _error(source, start, len(head), f"{rest!r} is not a target of a {kind.name}", wrong)
    if len(parts) not in PARTS[kind.place]:
        raise _error(source, start, len(head), f"{rest!r} is not a target of a {kind.name}", wrong)
    if kind.place == "timer" and period(rest) is None:
        raise _error(source, start, len(head), f"{rest!r} is no period", wrong)
    group = parts[0] if len(parts) == 2 else ""
    name, plus, offset_text = parts[-1].partition("+")
    if kind.place == "function" and not _NAME.fullmatch(name):
        raise _error(source, start, len(head), f"{name!r} is no name of a kernel function", wrong)
    if not plus:
        return AttachPoint(kind.name, group, name, 0, span)
    column = len(head) - len(offset_text)
    if not kind.offset:
        raise _error(
            source, column - 1, len(head), f"a {kind.name} takes no offset", "use kprobe:function+offset"
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


def _error(source: Source, start: int, end: int, message: str, cure: str) -> LanguageError:
    return LanguageError(source, [Diagnostic(Span(1, start, 1, max(end, start + 1)), message, cure)])
