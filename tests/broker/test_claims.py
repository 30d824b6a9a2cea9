"""Claims, against a plain model: who has what, whatever is claimed, taken back and missing."""

from __future__ import annotations

import random

import pytest

from kwire.broker.claims import Claims, ClaimsError, Span, StoredPlaces, lost_between, whole


def message(place: int, each: int = 10) -> Span:
    """The message at a place, where each tells of so many events of probe 1."""
    return Span(place, place, {1: each * place}, {1: each * (place + 1)})


def test_what_is_claimed_is_had_by_who_claimed_it() -> None:
    claims = Claims()
    assert claims.claim("a", [message(0), message(1), message(3)]) == 1
    assert claims.claim("b", [message(2)]) == 1
    assert [claims.has(place) for place in range(5)] == [True, True, True, True, False]
    assert (claims.holder(1), claims.holder(2), claims.holder(4)) == ("a", "b", None)
    assert claims.taken == [Span(0, 3, {1: 0}, {1: 40})]
    assert claims.claim("a", [message(4)]) == 2  # so it has stored what it had before
    assert claims.holder(1) is None
    assert claims.collectors == ["a", "b"]
    assert claims.parts == {"a": StoredPlaces(4, 8, 26), "b": StoredPlaces(1, 2, 4)}


def test_a_batch_taken_back_may_be_claimed_by_another() -> None:
    claims = Claims()
    claims.claim("a", [message(0)])
    claims.claim("b", [message(1), message(2)])
    claims.claim("a", [message(3)])
    claims.release("b")
    assert claims.gaps == [Span(1, 2, {1: 10}, {1: 30})]
    assert claims.claim("a", [message(1), message(2)]) == 3
    assert (claims.gaps, claims.parts["b"], claims.parts["a"]) == ([], StoredPlaces(), StoredPlaces(4, 6, 14))
    assert claims.claim("b", [message(4)]) == 1


def test_a_bye_that_is_taken_back_is_no_end() -> None:
    """A collector claimed it, and was killed before it had stored it."""
    claims = Claims()
    claims.claim("a", [message(0), message(1)])
    claims.claim("b", [message(2), message(3)])
    claims.end = 3, 77
    claims.release("b")
    assert (claims.claimed, claims.messages) == (False, 0)
    claims.end = 3, 77  # as an earlier kwire left it
    assert not claims.claimed
    claims.claim("a", [message(2), message(3)])
    assert claims.claimed


def test_it_is_over_when_everybody_has_stored_what_they_claimed() -> None:
    claims = Claims()
    claims.claim("a", [message(0), message(2)])
    claims.end = 2, 77
    assert (claims.claimed, claims.over, claims.messages) == (False, False, 3)
    claims.claim("b", [message(1)])
    assert (claims.claimed, claims.over) == (True, False)
    claims.confirm("a")
    assert not claims.over
    claims.confirm("b")
    assert claims.over


def test_what_is_missing_is_counted_by_what_stands_around_it() -> None:
    assert lost_between(Span(1, 5, {1: 10, 2: 3}, {1: 25, 2: 3, 3: 1})) == {1: 15, 3: 1}
    assert lost_between(Span(0, 5, {}, {1: 25})) == {1: 25}
    assert lost_between(Span(1, 5, {0: 10}, {1: 25})) == {0: 15}  # a later agent counts otherwise
    assert lost_between(Span(1, 5, None, {1: 25})) is lost_between(Span(1, 5, {1: 5}, None)) is None
    assert lost_between(Span(1, 5, {1: 30}, {1: 25})) is None  # they contradict each other


@pytest.mark.parametrize("seed", range(20))
def test_against_a_model(seed: int) -> None:
    rng = random.Random(seed)
    claims, owner, opened = Claims(), dict[int, str](), dict[str, list[int]]()
    for _ in range(60):
        who = rng.choice("abc")
        if rng.random() < 0.2 and opened.get(who):
            claims.release(who)
            for place in opened.pop(who):
                del owner[place]
        else:
            free = [place for place in range(30) if place not in owner]
            batch = sorted(rng.sample(free, min(len(free), rng.randrange(4))))
            claims.claim(who, [message(place) for place in batch])
            opened[who] = batch
            owner |= dict.fromkeys(batch, who)
        claims = Claims.read(claims.pack())
        assert [place for place in range(31) if claims.has(place)] == sorted(owner)
        for place in range(31):
            holds = [one for one, batch in opened.items() if place in batch]
            assert claims.holder(place) == (holds[0] if holds else None)
        for span in claims.taken:
            assert (span.before, span.after) == ({1: 10 * span.first}, {1: 10 * (span.last + 1)})
        assert all(one.last + 1 < two.first for one, two in zip(claims.taken, claims.taken[1:], strict=False))
        for one in "abc":
            places = [place for place, who in owner.items() if who == one]
            part = StoredPlaces(len(places), sum(places), sum(place * place for place in places))
            assert claims.parts.get(one, StoredPlaces()) == part
        missing = [place for gap in claims.gaps for place in range(gap.first, gap.last + 1)]
        assert missing == [place for place in range(max(owner, default=-1)) if place not in owner]
        assert all(lost_between(gap) == {1: 10 * (gap.last - gap.first + 1)} for gap in claims.gaps)


def test_the_sums_of_all_places() -> None:
    for first, last in ((0, 0), (0, 9), (3, 7), (5, 5)):
        places = range(first, last + 1)
        assert whole(first, last) == StoredPlaces(len(places), sum(places), sum(n * n for n in places))


def test_a_value_that_is_none_is_refused() -> None:
    claims = Claims()
    claims.claim("a", [message(0)])
    value = claims.pack()
    assert Claims.read(b"").taken == []
    for wrong in (value[:-1], b"\xa0", b"x", value.replace(b"taken", b"token")):
        with pytest.raises(ClaimsError):
            Claims.read(wrong)
