"""Who of a group has stored what of a session: one value of the bucket, changed only where nobody else has
changed it meanwhile.

Invariants: a collector claims messages before it stores them, and nobody stores a message that another has
claimed, so nothing is stored twice, whatever is delivered again to whom; each collector has one batch of a
session that is claimed and perhaps not stored, its `open` one, and by claiming the next it says that it has
stored that one; only the collector itself takes back its open batch, when it was killed before it had stored
it. Who has stored all of its part and given its capture the ending says so (`ended`): until all have, the
claims are needed. What is missing between two messages is counted by what their sources said they had told
before and after (`kwire.broker.names.Counts`). Messages are named by their place in the session, from 0:
sequence numbers less the first one. What is kept grows with what is under way, not with the session.

Sums of places and of their squares, by collector, are what proves afterwards that the files of all have each
place once (`StoredPlaces`).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from kwire.broker.names import Counts
from kwire.errors import KwireError
from kwire.wire import cbor

VERSION: Final = 1


class ClaimsError(KwireError):
    """What the bucket has of claims is none."""


class Span(NamedTuple):
    """Places `first` to `last`; what was told before the first, and with the last; None: not known."""

    first: int
    last: int
    before: Counts | None = None
    after: Counts | None = None


class StoredPlaces(NamedTuple):
    """What one collector has of a session: how many messages, the sum of their places and of the squares."""

    messages: int = 0
    places: int = 0
    squares: int = 0

    def with_spans(self, spans: Iterable[Span], sign: int = 1) -> "StoredPlaces":
        """The same with these messages (-1: without them)."""
        messages, places, squares = self
        for span in spans:
            one = whole(span.first, span.last)
            messages += sign * one.messages
            places += sign * one.places
            squares += sign * one.squares
        return StoredPlaces(messages, places, squares)


def whole(first: int, last: int) -> StoredPlaces:
    """The sums of one who has all places from `first` to `last`."""

    def up_to(n: int) -> tuple[int, int]:
        return n * (n + 1) // 2, n * (n + 1) * (2 * n + 1) // 6

    (places, squares), (before, squares_before) = up_to(last), up_to(first - 1) if first else (0, 0)
    return StoredPlaces(last - first + 1, places - before, squares - squares_before)


class Open(NamedTuple):
    """The last batch that a collector claimed: its number, counted from 1, and what is in it."""

    batch: int
    spans: tuple[Span, ...]


class Claims:
    """The claims of a group on a session. Methods that change it are followed by a swap in the bucket."""

    __slots__ = ("discarded", "end", "ended", "open", "parts", "produced", "taken")

    def __init__(self) -> None:
        self.taken: list[Span] = []
        """What is claimed, in order, as few spans as can be."""
        self.open: dict[str, Open] = {}
        """By collector."""
        self.parts: dict[str, StoredPlaces] = {}
        """By collector, what it has claimed in all; what the broker discarded, and it has counted, too."""
        self.end: tuple[int, int] | None = None
        """The place of BYE, and its place in the stream, where that has come."""
        self.produced: dict[int, int] | None = None
        """Events by probe that its source told at the end."""
        self.discarded = 0
        """Events that were counted as discarded by the broker."""
        self.ended: set[str] = set()
        """Collectors whose captures have their ending."""

    # --- questions

    def has(self, place: int) -> bool:
        """Whether a message is claimed."""
        return any(span.first <= place <= span.last for span in self.taken)

    def holder(self, place: int) -> str | None:
        """In whose open batch a message is; None: in nobody's."""
        for collector, batch in self.open.items():
            if any(span.first <= place <= span.last for span in batch.spans):
                return collector
        return None

    @property
    def gaps(self) -> list[Span]:
        """What is missing before the last that is claimed, with what is known of it."""
        found: list[Span] = []
        place = 0
        before: Counts | None = {}
        for span in self.taken:
            if span.first > place:
                found.append(Span(place, span.first - 1, before, span.before))
            place, before = span.last + 1, span.after
        return found

    @property
    def claimed(self) -> bool:
        """Whether everything up to BYE is claimed, and BYE is."""
        return self.end is not None and self.has(self.end[0]) and not self.gaps

    @property
    def over(self) -> bool:
        """Whether everything up to BYE is stored."""
        return self.claimed and not any(batch.spans for batch in self.open.values())

    @property
    def spent(self) -> bool:
        """Whether all who have a part of it have given their captures the ending."""
        return self.over and self.ended.issuperset(self.collectors)

    def others_store(self, collector: str) -> bool:
        """Whether others than this collector have claimed what they have perhaps not stored."""
        return any(batch.spans for who, batch in self.open.items() if who != collector)

    @property
    def messages(self) -> int:
        """How many there are, BYE among them; 0 where that is not known."""
        return self.end[0] + 1 if self.end else 0

    @property
    def collectors(self) -> list[str]:
        """Who has a part of it."""
        return sorted(one for one, part in self.parts.items() if part.messages)

    # --- changes

    def claim(self, collector: str, messages: Sequence[Span]) -> int:
        """Claim messages, in order, that nobody has; the number of the batch that they are."""
        batch = self.open.get(collector, Open(0, ())).batch + 1
        spans = tuple(_merge(messages))
        self.taken = _merge([*self.taken, *spans])
        self.open[collector] = Open(batch, spans)
        self.parts[collector] = self.parts.get(collector, StoredPlaces()).with_spans(spans)
        return batch

    def renumber(self, collector: str) -> int:
        """Claim the open batch of a collector again, as the next one; its number."""
        batch = self.open[collector]
        self.open[collector] = batch._replace(batch=batch.batch + 1)
        return batch.batch + 1

    def release(self, collector: str) -> None:
        """Take back the open batch of a collector, which has not stored it."""
        batch = self.open.pop(collector)
        if self.end is not None and any(span.first <= self.end[0] <= span.last for span in batch.spans):
            self.end = None
        for gone in batch.spans:
            self.taken = [piece for span in self.taken for piece in _without(span, gone)]
        self.parts[collector] = self.parts.get(collector, StoredPlaces()).with_spans(batch.spans, -1)
        self.open[collector] = Open(batch.batch - 1, ())

    @property
    def messages_claimed(self) -> int:
        """How many messages are claimed."""
        return sum(span.last + 1 - span.first for span in self.taken)

    def confirm(self, collector: str) -> None:
        """A collector has stored its open batch, and claims nothing more at present."""
        self.open[collector] = self.open[collector]._replace(spans=())

    # --- as a value

    def pack(self) -> bytes:
        """As a value of the bucket."""
        return cbor.dumps(
            {
                "version": VERSION,
                "taken": [_packed(span) for span in self.taken],
                "open": {
                    who: [one.batch, [_packed(span) for span in one.spans]] for who, one in self.open.items()
                },
                "parts": {
                    who: [part.messages, str(part.places), str(part.squares)]
                    for who, part in self.parts.items()
                },
                "end": list(self.end) if self.end else [],
                "produced": self.produced,
                "discarded": self.discarded,
                "ended": sorted(self.ended),
            }
        )

    @classmethod
    def read(cls, value: bytes) -> "Claims":
        """From a value of the bucket; nothing where that is empty. ClaimsError where it is none."""
        claims = cls()
        if not value:
            return claims
        try:
            found = cbor.loads_map(value)
            if found["version"] != VERSION:
                raise ClaimsError("read", "claims", f"they are of version {found['version']}", "update kwire")
            claims.taken = [_unpacked(span) for span in found["taken"]]
            claims.open = {
                str(who): Open(int(batch), tuple(map(_unpacked, spans)))
                for who, (batch, spans) in found["open"].items()
            }
            claims.parts = {
                str(who): StoredPlaces(int(messages), int(places), int(squares))
                for who, (messages, places, squares) in found["parts"].items()
            }
            claims.end = (int(found["end"][0]), int(found["end"][1])) if found["end"] else None
            claims.discarded = int(found["discarded"])
            claims.ended = {str(who) for who in found.get("ended", ())}  # earlier releases have none
            produced = found["produced"]
            claims.produced = None if produced is None else _counts(produced)
        except ClaimsError:
            raise
        except (KwireError, KeyError, ValueError, TypeError, AttributeError):
            raise ClaimsError("read", "claims", "they are damaged") from None
        return claims


def lost_between(gap: Span) -> Counts | None:
    """Events by probe that were told of in what is missing; None: nobody knows."""
    if gap.before is None or gap.after is None:
        return None
    if bool(gap.before) and bool(gap.after) and (0 in gap.before) != (0 in gap.after):
        gap = gap._replace(before={0: sum(gap.before.values())}, after={0: sum(gap.after.values())})
    assert gap.before is not None  # they were there
    assert gap.after is not None
    probes = {**gap.before, **gap.after}
    counts = {probe: gap.after.get(probe, 0) - gap.before.get(probe, 0) for probe in probes}
    if any(count < 0 for count in counts.values()):
        return None
    return {probe: count for probe, count in sorted(counts.items()) if count}


def _merge(spans: Iterable[Span]) -> list[Span]:
    """Spans in order, those that touch joined."""
    merged: list[Span] = []
    for span in sorted(spans, key=lambda span: span.first):
        if merged and merged[-1].last + 1 == span.first:
            merged[-1] = merged[-1]._replace(last=span.last, after=span.after)
        else:
            merged.append(span)
    return merged


def _without(span: Span, gone: Span) -> list[Span]:
    """What is left of a span without another one that lies within it, or not at all."""
    if gone.last < span.first or gone.first > span.last:
        return [span]
    pieces = []
    if gone.first > span.first:
        pieces.append(span._replace(last=gone.first - 1, after=gone.before))
    if gone.last < span.last:
        pieces.append(span._replace(first=gone.last + 1, before=gone.after))
    return pieces


def _packed(span: Span) -> list[Any]:
    return [span.first, span.last, span.before, span.after]


def _unpacked(span: Sequence[Any]) -> Span:
    first, last, before, after = span
    if not 0 <= int(first) <= int(last):
        raise ValueError
    return Span(
        int(first),
        int(last),
        None if before is None else _counts(before),
        None if after is None else _counts(after),
    )


def _counts(counts: Mapping[Any, Any]) -> Counts:
    return {int(probe): int(count) for probe, count in counts.items()}
