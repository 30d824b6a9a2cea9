"""Waiting in a coroutine of asyncio for what a trace waits for."""

import asyncio
from contextlib import suppress

LONGEST = 0.25
"""Seconds between two looks at a trace."""


async def ready(fd: int, seconds: float) -> None:
    """Until the descriptor is readable, or so many seconds have passed; others run meanwhile in any case."""
    if seconds <= 0:
        await asyncio.sleep(0)
        return
    loop = asyncio.get_running_loop()
    come: asyncio.Future[None] = loop.create_future()

    def woken() -> None:
        if not come.done():
            come.set_result(None)

    loop.add_reader(fd, woken)
    try:
        with suppress(TimeoutError):
            await asyncio.wait_for(come, min(seconds, LONGEST))
    finally:
        loop.remove_reader(fd)
