"""Things to probe by name: targets, patterns of names, and the names that a misspelt one may have meant."""

from collections.abc import Iterable, Sequence

from kwire.errors import KwireError
from kwire.kinds import in_file
from kwire.lazy import NamedTuple, pattern

WILDCARD = pattern(r"[*?\[]")


class Target(NamedTuple):
    """One thing to probe. `group`: category of a tracepoint, module of a function, "" for the kernel
    proper, file of what is in a program; `copies`: how many functions of that module have this name, or
    places; `form`: of the arguments of a static probe, where they lie.
    """

    kind: str
    group: str
    name: str
    copies: int = 1
    form: str = ""

    @property
    def target(self) -> str:
        """What stands after the kind in a probe spec: `sched:sched_switch`, `tcp_connect`,
        `nf_nat:nf_nat_init`.
        """
        return in_file(self.group, self.name) if self.group else self.name

    def __str__(self) -> str:
        return f"{self.kind}:{self.target}" if self.target else self.kind


class CatalogError(KwireError):
    """Nothing matches. `near`: the names that may have been meant."""

    def __init__(self, kind: str, pattern: str, cause: str, near: Sequence[str] = (), cure: str = "") -> None:
        cure = f"did you mean {' or '.join(near)}?" if near else cure
        super().__init__("find", f"{kind}:{pattern}", cause, cure)
        self.near = tuple(near)


def as_regex(pattern: str) -> str:
    """A shell pattern as a regular expression over one name."""
    import re

    parts = re.split(r"(\*|\?|\[[!^]?\]?[^\]]*\])", re.sub(r"\*+", "*", pattern))
    return "".join(
        {"*": r"[^\s:]*", "?": r"[^\s:]"}.get(part)
        or (f"[{'^' if part[1] in '!^' else ''}{_class(part)}]" if index % 2 else re.escape(part))
        for index, part in enumerate(parts)
    )


def _class(part: str) -> str:
    return part[1:-1].lstrip("!^").replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]")


def nearest(wanted: str, names: Iterable[str], limit: int) -> list[str]:
    """The names nearest to a misspelt one. A cheap look first: of a word with two mistakes, one third is
    whole.
    """
    from difflib import SequenceMatcher

    low = wanted.lower()
    third = max(len(low) // 3, 1)
    first, second, last = low[:third], low[third : 2 * third], low[2 * third :]
    slack = max(4, len(low) // 3)
    size = len(low)
    candidates = [
        name
        for name in names
        if (first in name or second in name or last in name)
        and (abs(len(name) - size) <= slack or low in name)
    ]
    candidates.sort(key=lambda name: abs(len(name) - size))
    scored = []
    matcher = SequenceMatcher(b=low, autojunk=False)
    for name in candidates[:3000]:
        matcher.set_seq1(name.lower())
        bonus = 0.35 if name.endswith(f"_{low}") else 0.3 if low in name else 0.0
        if matcher.real_quick_ratio() + bonus >= 0.7 and matcher.quick_ratio() + bonus >= 0.7:
            scored.append((-(matcher.ratio() + bonus), name))
    scored.sort()
    return [name for score, name in scored[:limit] if score <= min(-0.7, scored[0][0] + 0.15)]
