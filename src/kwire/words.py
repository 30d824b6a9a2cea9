"""Words for people: numbers that agree with their nouns, for messages of every room."""


def plural(count: int, noun: str, many: str = "") -> str:
    """A number with its noun: `1 event`, `6,055 events`; `many` is the plural where no `s` makes it."""
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"


def are(count: int, noun: str) -> str:
    """The same with its verb: `1 event is`, `2 events are`."""
    return f"{plural(count, noun)} {'is' if count == 1 else 'are'}"
