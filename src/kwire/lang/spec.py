"""Probe specs: `kind:target`, wildcards kept, and `kind:target(expr, name=expr…){condition}`.

The kinds, their spellings and the form of their targets are those of `kwire.kinds`.
"""

import re
from typing import NamedTuple

from kwire.kinds import KINDS, SPELLINGS
from kwire.lang import tree
from kwire.lang.errors import Diagnostic, LanguageError, did_you_mean

PARTS = {"event": (2,), "raw event": (1,), "function": (1, 2)}
"""How many parts a target has between colons, by what it is."""

WILDCARDS = frozenset("*?[")
_NAME = re.compile(r"[\w.$*?\[\]!^-]+", re.ASCII)  # of a function, wildcards included


_TAIL = re.compile(r"[({]")  # where expressions or a condition begin


class ProbeSpec(NamedTuple):
    """A parsed spec. `group` is the tracepoint's category or the function's module (empty: any), `offset` the
    bytes after the function's start. `expressions` are (name, tree) pairs; a name may be empty. `condition`:
    what must hold for an event, None where nothing must.
    """

    kind: str
    group: str
    name: str
    offset: int
    expressions: tuple[tuple[str, tree.Expr], ...]
    source: tree.Source
    condition: tree.Expr | None = None

    @property
    def target(self) -> str:
        """The text after the kind: "sched:sched_switch", "tcp_connect+16"."""
        offset = f"+{self.offset}" if self.offset else ""
        return f"{self.group}:{self.name}{offset}" if self.group else f"{self.name}{offset}"

    @property
    def wildcard(self) -> bool:
        """Whether the target is a pattern that may stand for several attach points."""
        return not WILDCARDS.isdisjoint(self.target)

    def __str__(self) -> str:
        return f"{self.kind}:{self.target}"


def parse(text: str) -> ProbeSpec:
    """A probe spec from its text. Raises `LanguageError` with the span of the part that is wrong."""
    source = tree.Source("PROBE", text)
    begins = _TAIL.search(text)
    head = text[: begins.start()] if begins else text
    kind, group, name, offset = _target(source, head.rstrip())
    if not begins:
        return ProbeSpec(kind, group, name, offset, (), source)
    from kwire.lang import python

    expressions: tuple[tuple[str, tree.Expr], ...] = ()
    at = len(head)
    if text[at] == "(":
        end = python.closing(text, at)
        expressions = python.parse_arguments(source, at, end)
        at = end + len(text[end:]) - len(text[end:].lstrip())
    if at == len(text):
        return ProbeSpec(kind, group, name, offset, expressions, source)
    last = len(text.rstrip()) - 1
    if text[at] != "{" or last == at or text[last] != "}":
        cure = "write PROBE(expr, name=expr){condition}"
        raise _error(source, at, len(text), f"{text[at:].strip()!r} is no condition in braces", cure)
    condition = python.parse_condition(source, at + 1, last)
    return ProbeSpec(kind, group, name, offset, expressions, source, condition)


def kind_of(source: tree.Source, word: str, column: int = 0) -> str:
    """The full name of a kind from any of its spellings."""
    found = SPELLINGS.get(word.lower())
    if found is None:
        cure = did_you_mean(word, SPELLINGS) or f"the kinds are {', '.join(KINDS)}"
        raise _error(source, column, column + len(word), f"unknown kind of probe {word!r}", cure)
    return found.name


def _target(source: tree.Source, head: str) -> tuple[str, str, str, int]:
    word, colon, rest = head.partition(":")
    if not colon:
        if word.lower() in SPELLINGS:
            kind = SPELLINGS[word.lower()]
            raise _error(source, 0, len(head), f"{word!r} says no target", f"write {kind.name}:{kind.form}")
        raise _error(source, 0, len(head), f"{head!r} has no kind", f"write kprobe:{head} or tracepoint:…")
    kind = KINDS[kind_of(source, word)]
    start = len(word) + 1
    parts = rest.split(":")
    wrong = f"write {kind.name}:{kind.form}, for example {kind.example}"
    if not all(parts) or any(part != part.strip() or " " in part for part in parts):
        raise _error(source, start, len(head), f"{rest!r} is not a target of a {kind.name}", wrong)
    if len(parts) not in PARTS[kind.place]:
        raise _error(source, start, len(head), f"{rest!r} is not a target of a {kind.name}", wrong)
    group = parts[0] if len(parts) == 2 else ""
    name, plus, offset_text = parts[-1].partition("+")
    if kind.place == "function" and not _NAME.fullmatch(name):
        raise _error(source, start, len(head), f"{name!r} is no name of a kernel function", wrong)
    if not plus:
        return kind.name, group, name, 0
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
    return kind.name, group, name, offset


def _error(source: tree.Source, start: int, end: int, message: str, cure: str) -> LanguageError:
    return LanguageError(source, [Diagnostic(tree.Span(1, start, 1, max(end, start + 1)), message, cure)])
