"""A pytest plugin: which transitions of sessions all tests together took, as a table at their end."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

TAKEN: Counter[str] = Counter()


@pytest.fixture(scope="session")
def transitions_taken() -> Counter[str]:
    """How often each "STATE INPUT" was taken, by all tests together."""
    return TAKEN


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand what this process counted to the one that prints."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["taken"] = dict(TAKEN)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    TAKEN.update(getattr(node, "workeroutput", {}).get("taken", {}))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Show which transitions of sessions were taken, and how often."""
    if len(TAKEN) < 100:
        return  # only a few tests ran
    from kwire.wire.transitions import TABLE, Action, Input, State

    write = terminalreporter.write_line
    terminalreporter.section("transitions of sessions taken (— cannot happen)")
    write(f"{'':16}" + "".join(f"{state.name:>12}" for state in State))
    missed = 0
    for input in Input:
        cells = []
        for state in State:
            times = TAKEN[f"{state.name} {input.name}"]
            never = TABLE[state][input].action is Action.NEVER
            missed += not never and not times
            cells.append("—" if never else str(times))
        write(f"{input.name:16}" + "".join(f"{cell:>12}" for cell in cells))
    write(f"{missed} of those that can happen were not taken")
