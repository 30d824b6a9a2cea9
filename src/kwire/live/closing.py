"""Taking probes away: at once, whatever the kernel has still to do.

When a program is taken from a perf event, the kernel waits some 40 ms until nobody runs it; it can do so for
many programs at once. When the event itself is freed, it waits again, for one event after the other: half a
minute for the 722 system calls. Nothing runs by then, so a process that ends leaves this to a child.
"""

import os
import signal
from collections.abc import Callable, Sequence
from functools import partial

from kwire.kernel.attach import Link
from kwire.kernel.syscall import Fd, close_all_but

WORKERS = 64
"""Threads that take probes away: each waits, and does nothing else."""


def detach_all(links: Sequence[Link]) -> list[Fd]:
    """Take programs away; gives what is left of the links to be closed.

    Links to many functions are taken away by the kernel one after the other anyway, and sooner by one thread.
    """
    left: list[Fd] = []

    def detach(*links: Link) -> None:
        for link in links:
            left.extend(link.detach())

    many = [link for link in links if link.mechanism.endswith(".multi")]
    others = [partial(detach, link) for link in links if link not in many]
    _side_by_side([*([partial(detach, *many)] if many else []), *others])
    return left


def close_all(descriptors: Sequence[Fd]) -> None:
    """Close descriptors, for whose end the kernel lets us wait."""
    _side_by_side([one.close for one in descriptors])


def hand_over(descriptors: Sequence[Fd]) -> bool:
    """Close descriptors; a child that has them too waits until the kernel has freed what is behind them.
    Nobody waits for the child, which has nothing else of ours, and ends when that is done. Gives False where
    nothing is to be closed, or there can be no child: then they stay open.
    """
    if not descriptors:
        return False
    try:
        child = os.fork()
    except OSError:
        return False
    if child == 0:
        try:
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            close_all_but({one.fd for one in descriptors})
            os.chdir("/")
        finally:
            os._exit(0)  # the kernel closes them
    for one in descriptors:
        one.close()
    return True


def _side_by_side(calls: list[Callable[[], None]]) -> None:
    """Do what waits, in threads where there is more than one, as many as there can be."""

    def work() -> None:
        while calls:
            try:
                call = calls.pop()
            except IndexError:
                return
            call()

    threads = []
    if len(calls) > 1:
        from threading import Thread

        for _ in range(min(len(calls), WORKERS) - 1):
            thread = Thread(target=work, daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no more threads
                break
            threads.append(thread)
    work()
    for thread in threads:
        thread.join()
