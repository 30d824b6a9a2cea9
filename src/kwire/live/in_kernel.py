"""One run of a probe in the kernel, attached to nothing: what BPF_PROG_TEST_RUN is for.

Invariant: the program is loaded as for a trace, and gone when its events are given.
"""

import sys
from collections.abc import Mapping

from kwire.btf.store import load_kernel
from kwire.errors import KwireError
from kwire.lang import attach
from kwire.lang.context import Argument
from kwire.lang.kerneltypes import KernelTypes
from kwire.lang.tree import Source
from kwire.live.events import Event
from kwire.live.lines import batch
from kwire.live.planner import make_plan
from kwire.live.probes import Probe
from kwire.live.recorder import Recorder
from kwire.live.simulate import site_at

RUN_SO = ("rawtracepoint", "begin", "end")
"""Kinds of probes that the kernel can be asked to run."""

ARGUMENTS = 12
"""Of a raw tracepoint at most."""


def fire(probe: Probe, values: Mapping[str, int]) -> list[Event]:
    """Run a probe once in the kernel, at the first place it attaches to; the events it emitted. `values`: its
    arguments by name, numbers; what is left out is 0. Raises KwireError.
    """
    place = probe.attach[0]
    point = attach.parse(Source("place", place), len(place))
    if point.kind not in RUN_SO:
        cure = f"use trace, or a bench; of {', '.join(RUN_SO)} it does"
        raise KwireError("fire", place, "the kernel runs no such probe when it is asked to", cure)
    arguments = [0] * ARGUMENTS
    left = dict(values)
    if point.kind == "rawtracepoint":
        for param in site_at(point, KernelTypes(load_kernel())).params:
            if isinstance(param.access, Argument):
                arguments[param.access.number] = left.pop(param.name, 0)
    if left:
        raise KwireError("fire", place, f"it is not given {next(iter(left))!r}")
    context = b"".join((number & (1 << 64) - 1).to_bytes(8, sys.byteorder) for number in arguments)
    with Recorder(make_plan((Probe(probe.function, (place,)),), None)) as recorder:
        kept = batch(recorder.plan.schemas)
        for _, program in recorder.tracer.programs():
            program.test_run(context=context)
        for frames in recorder.tracer.drain():
            kept.write(frames)
        return kept.take()
