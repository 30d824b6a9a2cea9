"""A session whose steps over the table of transitions can be counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kwire.wire.session import Session, State
from kwire.wire.transitions import Action, Input


class Stepped(Session):
    """A session that tells of every step, those of DATA too."""

    __slots__ = ("_stepped",)
    _short_way = False

    def __init__(self, stepped: Callable[[State, Input], None], *args: Any, **rest: Any) -> None:
        self._stepped = stepped
        super().__init__(*args, **rest)

    def _step(self, input: Input, value: Any = None) -> Action:
        self._stepped(self.state, input)
        return super()._step(input, value)
