"""The server of an agent that listens, with clients in its own loop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from waiting import until

from kwire.agent.policy import Policy
from kwire.agent.server import Server
from kwire.transport.address import Address
from kwire.transport.connect import connect
from kwire.transport.half_open import Limits
from kwire.transport.listen import listen
from kwire.transport.loop import Loop
from kwire.transport.peer import Handler
from kwire.wire.control import Role
from kwire.wire.session import Session, Settings


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def test_a_client_that_is_refused_as_there_are_too_many_is_not_waited_for(loop: Loop, tmp_path: Path) -> None:
    """Nothing is left of it: the agent ends when those that it has served are gone."""
    server = Server(loop, cast(Any, None), Policy(["fault:probe"]), Settings(), {})
    address = Address("unix", path=str(tmp_path / "socket"))
    told = list[str]()
    listener = listen(
        loop, address, server.choose, server.handler_for, limits=Limits(sessions=1),
        said=lambda text, event="note", /: told.append(text),
    )  # fmt: skip
    first, second = (
        connect(loop, address, lambda: Session(Role.SINK, initiator=True), Handler()) for _ in range(2)
    )
    until(lambda: any("too many sessions" in line for line in told), turn=lambda: loop.turn(0.05))
    assert (server.sessions, len(listener.peers)) == (1, 1)
    idle = list[bool]()
    server.stop(lambda: idle.append(True))
    assert not idle
    for one in (first, second):
        one.close()
        one.peer.close()
    until(lambda: idle, turn=lambda: loop.turn(0.05))
    listener.close()
