"""Words for people: numbers that agree with their nouns, for messages of every room."""

from collections.abc import Mapping

from kwire.hints import Final

UNITS: Final = ("kB", "MB", "GB", "TB")
"""Powers of a thousand bytes."""


def plural(count: int, noun: str, many: str = "") -> str:
    """A number with its noun: `1 event`, `6,055 events`; `many` is the plural where no `s` makes it."""
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"


def are(count: int, noun: str) -> str:
    """The same with its verb: `1 event is`, `2 events are`."""
    return f"{plural(count, noun)} {'is' if count == 1 else 'are'}"


def article(noun: str) -> str:
    """A noun with its article: `an interval`, `a uprobe`."""
    return f"{'an' if noun[:1] in 'aei' else 'a'} {noun}"


def lost(count: int, causes: Mapping[str, int]) -> str:
    """How many events were lost, and why: `none lost`, `7 lost (the disk was full)`, `7 lost (5: …, 2: …)`.

    `causes`: how many of them by each cause.
    """
    if not count:
        return "none lost"
    if len(causes) == 1:
        return f"{count:,} lost ({next(iter(causes))})"
    why = ", ".join(f"{number:,}: {cause}" for cause, number in causes.items())
    return f"{count:,} lost ({why})" if why else f"{count:,} lost"


def human_size(size: float) -> str:
    """A number of bytes as a person reads it: `1 byte`, `100.0 MB`."""
    if size < 1000:
        return plural(round(size), "byte")
    power = 1
    while power < len(UNITS) and size >= 999.95 * 1000**power:
        power += 1
    return f"{size / 1000**power:,.1f} {UNITS[power - 1]}"
