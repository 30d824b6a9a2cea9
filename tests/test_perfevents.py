"""How often a counter fires, as people write it."""

import pytest

from kwire.perfevents import COUNTERS, counter


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1", 1),
        ("1000", 1000),
        ("1e6", 1_000_000),
        ("9223372036854775807", (1 << 63) - 1),
        *(
            (text, None)
            for text in ("", "0", "0e3", "-1", "1e", "e6", "1e-3", "1e19", "1e999", "1.5", "\u0663")
        ),
        ("9223372036854775808", None),
    ],
)
def test_a_number_of_events_is_one_or_nothing(text: str, number: int | None) -> None:
    found = counter("software", f"page-faults:{text}")
    assert (found and found.number) == number


def test_without_a_number_it_is_the_usual_one() -> None:
    assert counter("software", "faults") == COUNTERS["software"]["page-faults"]
