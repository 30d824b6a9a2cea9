"""Names for stacks: this process and one of its own say the same, and one that is gone says nothing."""

from __future__ import annotations

import ctypes
import os
import signal
from contextlib import suppress
from pathlib import Path

from kwire.live.symbolization import Names, NamingProcess, RawStack
from kwire.wire.stacks import Frame, Stack


def addresses() -> list[int]:
    libc = ctypes.CDLL(None)
    found = [ctypes.cast(getattr(libc, name), ctypes.c_void_p).value or 0 for name in ("getpid", "qsort")]
    return [found[0] + 1, found[1] + 2, 0x10]


def test_a_process_of_its_own_names_as_this_one_does() -> None:
    seen = [RawStack(7, os.getpid(), addresses()), RawStack(1 << 62, 1 << 30, [4096])]
    here, there = Names(), NamingProcess()
    try:
        for one in (here, there):
            one.take(seen)
        told = here.names(again=False)
        assert [(frame.symbol, frame.offset) for frame in told[7]] == [("getpid", 1), ("qsort", 2), ("", 0)]
        assert told[1 << 62] == Stack([Frame(4096)])
        assert there.names(again=True) == told
        assert here.names(again=True) == there.names(again=True) == {}  # told already
    finally:
        there.close()


def test_a_naming_process_holds_nothing_of_ours_and_ends_with_us() -> None:
    there = NamingProcess()
    there.take([RawStack(1, os.getpid(), addresses())])
    assert there.names(again=False)[1][0].symbol == "getpid"
    held = sorted(os.readlink(one) for one in Path(f"/proc/{there._child}/fd").iterdir())
    assert held[:3] == [os.devnull] * 3
    assert [one.partition(":")[0] for one in held[3:]] == ["socket"]
    child, there._child = there._child, 1 << 22
    there.close()
    assert os.waitpid(child, 0) == (child, 0)


def test_where_it_is_gone_addresses_have_no_names() -> None:
    there = NamingProcess()
    os.kill(there._child, signal.SIGKILL)
    there.take([RawStack(1, os.getpid(), [16, 32])])
    assert there.names(again=False) == {1: Stack([Frame(16), Frame(32)])}
    there.take([RawStack(2, os.getpid(), [48])])
    assert there.names(again=True) == {2: Stack([Frame(48)])}
    there.close()
    with suppress(ChildProcessError):  # it may have been waited for
        os.waitpid(there._child, 0)
