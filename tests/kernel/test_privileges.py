"""Giving up capabilities, in a process that can be thrown away; what a descriptor allows stays allowed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kwire.bpf.asm import R0, exit_, image, mov64
from kwire.bpf.image import Image, MapSpec
from kwire.kernel import privileges, tracefs
from kwire.kernel.attach import attach
from kwire.kernel.maps import PAGE, Map
from kwire.kernel.prog import load
from kwire.kernel.ring import Ring
from kwire.kernel.syscall import KernelError

pytestmark = pytest.mark.live


def elsewhere(action: Callable[[], Any]) -> Any:
    """What an action returns in a child process; an error there is one here."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            answer = {"value": action()}
        except BaseException as error:
            answer = {"error": repr(error)}
        os.write(write, json.dumps(answer).encode())
        os._exit(0)
    os.close(write)
    with open(read) as file:
        text = file.read()
    os.waitpid(pid, 0)
    answer = json.loads(text)
    assert "error" not in answer, answer
    return answer["value"]


def status() -> dict[str, str]:
    lines = Path("/proc/self/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_the_held_ones_are_those_that_the_kernel_shows() -> None:
    held = int(status()["CapEff"], 16)
    assert privileges.effective() == {
        name for name, number in privileges.NUMBERS.items() if held >> number & 1
    }


def test_nothing_is_left() -> None:
    def gone() -> dict[str, str]:
        dropped = privileges.drop()
        assert dropped.other_threads == 0
        assert status()["NoNewPrivs"] == "1"
        assert privileges.effective() == frozenset()
        return status()

    after = elsewhere(gone)
    assert {after[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert after["NoNewPrivs"] == "1"
    assert status()["NoNewPrivs"] == "0"


def test_what_is_to_be_kept_is_kept_and_can_be_dropped_later() -> None:
    def twice() -> list[list[str]]:
        privileges.drop(keep=["CAP_DAC_OVERRIDE"])
        first = sorted(privileges.effective())
        privileges.drop()
        return [first, sorted(privileges.effective())]

    assert elsewhere(twice) == [["CAP_DAC_OVERRIDE"], []]


def test_an_unknown_capability_is_an_error() -> None:
    with pytest.raises(KeyError):
        privileges.drop(keep=["CAP_NOTHING"])


def test_other_threads_are_counted() -> None:
    def with_a_thread() -> int:
        import threading

        release = threading.Event()
        thread = threading.Thread(target=release.wait)
        thread.start()
        others = privileges.drop().other_threads
        assert others is not None
        release.set()
        thread.join()
        return others

    assert elsewhere(with_a_thread) == 1


def test_nothing_new_can_be_made_but_what_is_there_goes_on(hits: Any, counting: Callable[..., Image]) -> None:
    def trace() -> dict[str, Any]:
        pid = os.getpid()
        files = tracefs.shared()
        prog = load(counting("tracepoint", pid=pid), {"hits": hits.map})
        link = attach(prog, "tracepoint", "syscalls:sys_enter_getppid")
        ring = Ring(Map.create(MapSpec("ring", "ringbuf", 0, 0, PAGE)))
        privileges.drop()
        for _ in range(5):
            os.getppid()
        try:
            load(image("more", "tracepoint", [mov64(R0, 0), exit_()]), {})
            refused = False
        except KernelError as error:
            refused = "root" in str(error)
        frames = len(ring.read())
        ring.release()
        return {
            "refused": refused,
            "hits": hits.count,
            "frames": frames,
            "misses": prog.info().recursion_misses,
            "missed": link.missed,
            "place": files.closed,
        }

    assert elsewhere(trace) == {
        "refused": True,
        "hits": 5,
        "frames": 0,
        "misses": 0,
        "missed": 0,
        "place": False,
    }
