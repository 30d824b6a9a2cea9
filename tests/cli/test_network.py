"""What the arguments that all networked verbs share come to."""

import argparse
from collections.abc import Sequence

import pytest

from kwire.cli.network import add_transport_arguments, session_settings
from kwire.errors import KwireError
from kwire.wire.settings import LIMITS, Settings


def parsed(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_transport_arguments(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize("name", LIMITS)
def test_every_timer_and_limit_can_be_set(name: str) -> None:
    limit = LIMITS[name]
    settings = session_settings(parsed([f"--set={name}={limit.low:g}"]), Settings())
    assert getattr(settings, name) == limit.low
    assert [field for field in LIMITS if getattr(settings, field) != LIMITS[field].default] in ([], [name])


def test_what_is_not_set_stays() -> None:
    base = Settings(memory=1 << 20)
    changed = session_settings(parsed(["--set", "keepalive=2.5", "--set", "silent=5"]), base)
    assert changed == base._replace(keepalive=2.5, silent=5)
    assert session_settings(parsed([]), base) == base


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("keepalife=3", "there is no setting 'keepalife'"),
        ("keepalive", "'' is not a number"),
        ("silent=2.5", "'2.5' is not a whole number"),
        ("keepalive=1e9", "out of range"),
        ("expiry=nan", "out of range"),
    ],
)
def test_what_cannot_be_set_is_said(text: str, why: str) -> None:
    with pytest.raises(KwireError, match=why):
        session_settings(parsed(["--set", text]), Settings())
