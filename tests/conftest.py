"""What a test may ask of the machine (markers), and what it must leave as it found it (`leaves_nothing`).

Invariants: a test that cannot run is skipped by name with what is lacking; on the kernels of `KERNELS` a test
is skipped only for what the table says, so a feature that stops being found there fails instead of skipping.
"""

from __future__ import annotations

import compileall
import functools
import gc
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from traces import Traces, become_subreaper, bpf_refusal

from kwire.compile import verify

pytest_plugins = ["parallel", "taken", "guests", "peers", "brokers", "verbs"]

# Machines are noisy: nothing here is timed. The examples of a test are the same in each run, so that a change
# is judged by what it changed; `--hypothesis-profile=search` looks for new ones.
settings.register_profile("kwire", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None)
settings.load_profile("kwire")
verify.checking = "VM_SHARE" not in os.environ  # of each program; guests get the same ones

ROOT = Path(__file__).parents[1]

MARKERS = (
    "live: loads programs into the running kernel; needs root and bpf(2)",
    "needs(*features): live, and only where the running kernel has these features",
    "guest: live, and only in a throwaway machine: watches everything, loads modules, fills memory",
    "native: not in guests: too much work for an emulated machine, or the same on each kernel",
    "kernels(*names): of all guests only in those with these kernels",
    "first: begun before others, because it takes minutes",
    "last: after all others, whose outcomes it judges",
)

# The kernels that the tests run on, by release, with the features (of kwire.kernel.features) that each lacks.
# Every other feature it must have.
KERNELS = {
    r"6\.1\.0-\d+-cloud-amd64": {
        "hardware",
        "kprobe_multi",
        "uprobe_multi",
        "isa_v4",
        "log_true_size",
        "missed",
    },
    r"6\.12\.\d+\+deb\d+-cloud-amd64": {"hardware"},
    r"6\.18\.\d+-fc-.*": {
        "hardware",
        "kprobe",
        "kprobe_multi",
        "fentry",
        "prog_fentry",
        "prog_fexit",
        "module",
    },
}
IN_GUEST = "VM_SHARE" in os.environ


def known_lacks() -> set[str] | None:
    """What the running kernel lacks by the table; None for a kernel that is not in it."""
    release = os.uname().release
    return next((lacks for pattern, lacks in KERNELS.items() if re.fullmatch(pattern, release)), None)


@functools.cache
def lack(feature: str) -> str:
    """Why the running kernel has not got `feature`; empty when it has."""
    lacks = known_lacks()
    if lacks is not None:
        return f"Linux {os.uname().release} has no {feature}" if feature in lacks else ""
    from kwire.kernel import features

    answer = features.probe(feature)
    return "" if answer.answer == "yes" else f"Linux {os.uname().release}: no {feature}: {answer.reason}"


def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    become_subreaper()
    pass_signals_on()
    compile_once()


def pass_signals_on() -> None:
    """Give what tests start the signals that we ignore, as under nohup or behind `&`: one that is ignored is
    so in all that are started, but one that is caught has its default effect there.
    """
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def compile_once() -> None:
    """Have all code compiled on the disk: tests start thousands of processes, and guests read the same files.

    An environment that asks Python to write none would have each of them compile everything.
    """
    if IN_GUEST:
        return  # they see what was compiled outside
    sys.dont_write_bytecode = False  # the tests themselves, which pytest compiles
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    compileall.compile_dir(ROOT / "src", quiet=2)


def needed(item: pytest.Item) -> list[str]:
    """The features that a test names, in all its `needs` markers."""
    names = [name for marker in item.iter_markers("needs") for name in marker.args]
    if names:
        from kwire.kernel.features import FEATURES

        unknown = [name for name in names if name not in FEATURES]
        if unknown:
            raise pytest.UsageError(
                f"{item.nodeid} needs {unknown[0]!r}, which is no feature that kwire knows"
            )
    return names


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("needs") or item.get_closest_marker("guest"):
            item.add_marker("live")
        if not item.get_closest_marker("live"):
            continue
        reasons = [bpf_refusal()]
        if item.get_closest_marker("guest") and not IN_GUEST:
            reasons.append("only in a throwaway machine")
        if item.get_closest_marker("native") and IN_GUEST:
            reasons.append("too much work for an emulated machine")
        needs = needed(item)
        if not any(reasons):
            reasons += [lack(feature) for feature in needs]
        reason = next(filter(None, reasons), "")
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Whoever looks for garbage, as tests and Python itself do, need not look at ten thousand tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def leaves_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    """After a live test no descriptor, no process and nothing in the kernel is left of it."""
    if not request.node.get_closest_marker("live"):
        yield
        return
    before = Traces.now()
    yield
    left = before.left()
    if left:
        pytest.fail("the test left behind: " + "; ".join(left), pytrace=False)


@pytest.fixture
def kernel_lacks() -> set[str]:
    """What the running kernel lacks by the table `KERNELS`; skips on a kernel that is not in it."""
    lacks = known_lacks()
    if lacks is None:
        pytest.skip(f"nothing is known beforehand of Linux {os.uname().release}")
    return lacks


@pytest.fixture
def kernel_module() -> Iterator[str]:
    """The name of a module with BTF of its own, loaded for the test; for tests that need "module"."""
    name = "dummy"
    subprocess.run(["modprobe", name], check=True)
    assert Path("/sys/kernel/btf", name).exists()
    yield name
    subprocess.run(["rmmod", name], check=True)
