"""A plugin of pytest: fixtures that test probes, in kwire's own machine and in the kernel.

    def test_connect(kwire_bench):
        sock = kwire_bench.struct("struct sock", {"__sk_common.skc_dport": 0xBB01})
        [event] = kwire_bench.fire(connect, sk=sock)
        assert event.dport == 443

Installing kwire is all it takes. Invariants: nothing but pytest, which is there already, is imported before a
fixture is asked for; `kwire_bench` needs no privileges; `kwire_kernel` skips, and says why, where the kernel
or the user lacks what a probe takes, and never because a probe is wrong.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from kwire.live.bench import Bench as Bench
    from kwire.live.events import Event
    from kwire.live.probes import Probe
    from kwire.live.script import Script
    from kwire.live.trace import Trace

_Made = TypeVar("_Made")
_Trace = TypeVar("_Trace", bound="Trace")

LACKING = (errno.EPERM, errno.EACCES, errno.ENOSYS)
"""Errors of the kernel that say nothing against a probe."""


@pytest.fixture
def kwire_bench() -> Iterator[Bench]:
    """A bench (`kwire.live.bench.Bench`) that runs probes in kwire's own eBPF machine."""
    from kwire.live.bench import Bench

    bench = Bench()
    yield bench
    bench.close()


@pytest.fixture
def kwire_kernel() -> Iterator[KernelBench]:
    """Probes in the running kernel; the test is skipped, with the reason, where that cannot be."""
    bench = KernelBench()
    yield bench
    bench.close()


def __getattr__(name: str) -> Any:
    """`Bench`, imported when somebody asks for it."""
    if name == "Bench":
        from kwire.live.bench import Bench

        return Bench
    raise AttributeError(f"module 'kwire.test' has no attribute {name!r}")


class KernelBench:
    """The running kernel, for tests. Each method skips the test where the kernel, or the user, lacks what the
    probe takes: privileges, the kind of probe. What is wrong with a probe fails the test.
    """

    def __init__(self) -> None:
        self._open: list[Trace] = []

    def trace(self, *probes: Probe | str, **limits: Any) -> Trace:
        """As `kwire.trace`: really attached, inside a `with`."""
        from kwire.live.trace import Trace

        return self._made(lambda: Trace(probes, **limits), _places(probes))

    def bt(self, script: str, *arguments: str | int, **limits: Any) -> Script:
        """As `kwire.bt`: a script, really attached, inside a `with`."""
        from kwire.live.script import Script

        return self._made(lambda: Script(script, arguments, **limits), _places_of(script, arguments))

    def load(self, *probes: Probe | str) -> None:
        """Compile the probes, and let the kernel's verifier accept them; nothing is attached."""
        self.trace(*probes).close()

    def fire(self, probe: Probe, values: Mapping[str, int] | None = None, **named: int) -> list[Event]:
        """Run a probe once in the kernel (BPF_PROG_TEST_RUN), attached to nothing; the events it emitted. Of
        raw tracepoints, with numbers as their arguments, and of begin and end: the kernel runs no others so.
        """
        from kwire.live.in_kernel import fire

        return self._judged(lambda: fire(probe, {**(values or {}), **named}), list(probe.attach[:1]))

    def close(self) -> None:
        """Take away what is left."""
        for one in self._open:
            one.close()

    def _made(self, make: Callable[[], _Trace], places: list[str]) -> _Trace:
        made = self._judged(make, places)
        self._open.append(made)
        return made

    def _judged(self, make: Callable[[], _Made], places: list[str]) -> _Made:
        from kwire.errors import KwireError

        for kind in dict.fromkeys(place.partition(":")[0] for place in places):
            lacking = _lacking(kind)
            if lacking:
                pytest.skip(f"{kind}: {lacking}")
        try:
            return make()
        except KwireError as error:
            if getattr(error, "errno", None) in LACKING:
                pytest.skip(str(error))
            raise


def _lacking(kind: str) -> str:
    """What the kernel, or the user, lacks for a kind of probe; empty where that is nothing."""
    from kwire.kernel import features
    from kwire.kinds import KINDS

    for name in ("privileges", "bpf", KINDS[kind].feature):
        found = features.probe(name)
        instead = name == KINDS[kind].feature and KINDS[kind].instead
        if found.answer == "yes" or (instead and _reached(kind)):
            continue
        if found.answer == "no" or name == "privileges":
            return f"{found.reason}; {found.cure}" if found.cure else found.reason
    return ""


def _reached(kind: str) -> bool:
    """Whether there is another way to probe what a kprobe would."""
    from kwire.kernel import features
    from kwire.kernel.syscall import KernelError

    try:
        return bool(features.mechanism(kind))
    except KernelError:
        return False


def _places(probes: tuple[Probe | str, ...]) -> list[str]:
    from kwire.lang import spec

    return [
        place
        for probe in probes
        for place in ([str(spec.parse(probe).point)] if isinstance(probe, str) else probe.attach)
    ]


def _places_of(script: str, arguments: tuple[str | int, ...]) -> list[str]:
    from kwire.lang.bpftrace.points import places
    from kwire.lang.bpftrace.reader import read
    from kwire.live.script import NAME

    return [str(one) for one in places(read(NAME, script), tuple(map(str, arguments)))]
