"""The model of `explorer.py`, explored in full: no deadlock, nothing stored twice, nothing lost uncounted."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from kwire.wire.transitions import TABLE, Action, Input, Rule, State


def _explorer() -> Any:
    path = Path(__file__).with_name("explorer.py")
    specification = importlib.util.spec_from_file_location("session_explorer", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["session_explorer"] = module
    specification.loader.exec_module(module)
    return module


EXPLORER = _explorer()

# datagrams, payloads, troubles, transports tried, may they leave
WORLDS = [
    (False, 3, 3, 4, False),
    (False, 2, 2, 3, True),
    (True, 1, 1, 1, False),
    (True, 1, 0, 2, False),
    (True, 2, 0, 1, False),
]


@pytest.mark.native
@pytest.mark.timeout(900)
@pytest.mark.parametrize("source_initiates", [True, False])
@pytest.mark.parametrize("world", WORLDS, ids=str)
def test_everything_that_can_happen(world: tuple[bool, int, int, int, bool], source_initiates: bool) -> None:
    datagrams, *rest = world
    explorer = EXPLORER.Explorer(datagrams, source_initiates, *rest)
    states, story = explorer.explore()
    assert not story, "\n".join(["", *story])
    assert states > 500
    never = {(state, input) for state, input in explorer.taken if TABLE[state][input].action is Action.NEVER}
    assert not never


@pytest.mark.parametrize(
    ("state", "input", "rule", "law"),
    [
        # a source takes the sink's leave for the end
        (State.ESTABLISHED, Input.LEFT, Rule(Action.FINISH, State.CLOSED), "not all is stored"),
        # a sink that got BYE takes no more DATA
        (State.DRAINING, Input.DATA, Rule(Action.IGNORE, State.DRAINING), "cannot end"),
        # a suspended session is not resumed
        (State.SUSPENDED, Input.HELLO, Rule(Action.IGNORE, State.SUSPENDED), "cannot end"),
        # an expired source says that all went well
        (State.SUSPENDED, Input.EXPIRE, Rule(Action.IGNORE, State.EXPIRED), "nothing is counted"),
    ],
    ids=lambda value: value.name if isinstance(value, Input) else "",
)
def test_a_wrong_table_is_found(
    monkeypatch: pytest.MonkeyPatch, state: State, input: Input, rule: Rule, law: str
) -> None:
    monkeypatch.setitem(TABLE[state], input, rule)
    stories = []
    for datagrams in (False, True):
        for source_initiates in (True, False):
            small = (1, 0, 1, False) if datagrams else (1, 1, 2, input is Input.LEFT)
            explorer = EXPLORER.Explorer(datagrams, source_initiates, *small)
            stories.append(explorer.explore()[1])
    assert any(story and law in story[-1] for story in stories)
