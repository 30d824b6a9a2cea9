"""What a collector of a broker may take for settled."""

from kwire.collector.intake import ACK_WAIT, Settled

LONG = 2 * ACK_WAIT


def test_what_was_delivered_long_ago_and_not_again_is_settled() -> None:
    settled = Settled()
    assert settled.look(10, 0, 1000.0) == 0
    assert settled.look(20, 0, 1000.0 + LONG - 1) == 0
    assert settled.look(30, 0, 1000.0 + LONG) == 10
    assert settled.look(40, 1, 1000.0 + 2 * LONG) == 10  # something was delivered again
    assert settled.look(50, 0, 1001.0 + 2 * LONG) == 30


def test_while_nobody_asks_nothing_is_delivered_again() -> None:
    """So nothing that was delivered before, or meanwhile, is settled by that time."""
    settled = Settled()
    settled.look(10, 0, 1000.0)
    settled.paused()
    assert settled.look(10, 0, 1001.0 + LONG) == 0
    assert settled.look(10, 0, 1002.0 + LONG) == 0
    assert settled.look(10, 0, 1001.0 + 2 * LONG) == 10


def test_of_another_stream_nothing_is_settled() -> None:
    settled = Settled()
    settled.look(10, 0, 1000.0)
    assert settled.look(10, 0, 1000.0 + LONG) == 10
    assert settled.look(5, 0, 1001.0 + LONG) == 0
    assert settled.look(5, 0, 1001.0 + 2 * LONG) == 5
