"""What can go wrong with BTF: it is damaged (`BtfError`) or it lacks what was asked for (`BtfLookupError`).

Invariant: whatever bytes are read as BTF, no other exception leaves the room `btf`.
"""

from collections.abc import Callable, Iterable

from kwire.errors import KwireError


class BtfError(KwireError):
    """BTF that cannot be read: `offset` is the byte of the blob where it goes wrong (None: no one place)."""

    def __init__(
        self, subject: str, cause: str, offset: int | None = None, cure: str | Callable[[], str] = ""
    ) -> None:
        where = "" if offset is None else f" at byte {offset}"
        super().__init__("read BTF of", subject, f"{cause}{where}", cure)
        self.offset = offset


class BtfLookupError(BtfError):
    """Sound BTF without the type, function or member asked for; `name` is what was asked."""

    def __init__(self, subject: str, name: str, cause: str, cure: str | Callable[[], str] = "") -> None:
        super().__init__(subject, cause, None, cure)
        self.operation = "look up in BTF of"
        self.name = name


# ---- The nearest names to a mistyped one, among very many


def nearest(name: str, names: Iterable[str], count: int = 3) -> list[str]:
    """Up to `count` of `names` that look like `name`, the nearest first; 60,000 names take 0.1 s."""
    import difflib  # only errors need it

    letters, pairs = set(name), {name[at : at + 2] for at in range(len(name) - 1)}
    scored = []
    for other in names:
        if abs(len(other) - len(name)) <= 3 and len(letters.difference(other)) <= 2:
            scored.append((sum(pair in other for pair in pairs), other))
    scored.sort(reverse=True)
    return difflib.get_close_matches(name, [other for _, other in scored[:200]], count, 0.75)


def did_you_mean(names: Iterable[str]) -> str:
    """The cure of an error: "did you mean a or b?", empty for no names."""
    text = " or ".join(names)
    return f"did you mean {text}?" if text else ""
