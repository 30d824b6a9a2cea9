"""Modules that are loaded, unloaded and loaded again while they are traced, by every kind of probe."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from waiting import PATIENCE

from kwire.errors import KwireError
from kwire.live.planner import make_plan
from kwire.live.tracer import Tracer

pytestmark = [pytest.mark.guest, pytest.mark.kernels("6.12"), pytest.mark.needs("kprobe", "fentry", "module")]

KWIRE = (sys.executable, "-m", "kwire.cli.main")
LINK = (
    "ip link add dummy7 type dummy && ip addr add 10.7.7.1/24 dev dummy7 && ip link set dummy7 up"
    " && ip neigh add 10.7.7.2 lladdr 02:00:00:00:00:02 dev dummy7"
)
HOST_OF_ITSELF = 1  # VMADDR_CID_LOCAL


def send() -> None:
    """A packet through a device of the module dummy."""
    subprocess.run(["sh", "-c", LINK], check=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", ("10.7.7.2", 9))
    subprocess.run(["ip", "link", "del", "dummy7"], check=True)


def connect() -> None:
    """A packet within vsock, which nobody takes."""
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as sock, contextlib.suppress(OSError):
        sock.connect((HOST_OF_ITSELF, 9999))


DUMMY, VSOCK = ["dummy"], ["vsock_loopback", "vmw_vsock_virtio_transport_common"]
PACKET = "virtio_transport_alloc_pkt"
PROBES = [
    *(
        (spec, DUMMY, send)
        for spec in (
            "kprobe:dummy_xmit",
            "kretprobe:dummy:dummy_xmit",
            "fentry:dummy_xmit",
            "fexit:dummy:dummy_xmit",
            "kprobe:dummy:dummy_*",
            "kretprobe:dummy:dummy_*",
            "fentry:dummy:dummy_*",
            "fexit:dummy:dummy_*",
        )
    ),
    *((spec, VSOCK, connect) for spec in (f"tracepoint:vsock:{PACKET}", f"rawtracepoint:{PACKET}")),
    ("tracepoint:vsock:*", VSOCK, connect),
]


def load(modules: list[str]) -> None:
    for name in reversed(modules):
        subprocess.run(["modprobe", name], check=True)


def unload(modules: list[str]) -> str:
    """What rmmod says of the first that does not go; nothing where all went."""
    for name in modules:
        if Path("/sys/module", name).exists():
            done = subprocess.run(["rmmod", name], capture_output=True, text=True)
            if done.returncode:
                return done.stderr
    return ""


@pytest.fixture
def loaded() -> Iterator[Callable[[list[str]], None]]:
    """Loads modules, which are unloaded at the end."""
    all_: list[list[str]] = []

    def start(modules: list[str]) -> None:
        all_.append(modules)
        load(modules)

    yield start
    for modules in all_:
        assert unload(modules) == ""


def events(tracer: Tracer, work: Callable[[], None]) -> int:
    work()
    return sum(frames.count for frames in tracer.drain())


@pytest.mark.parametrize(("spec", "modules", "work"), PROBES, ids=[spec for spec, _, _ in PROBES])
def test_a_module_that_comes_and_goes(
    spec: str, modules: list[str], work: Callable[[], None], loaded: Callable[[list[str]], None]
) -> None:
    """The kernel keeps a module that a link of its own holds; a kprobe ends with its module."""
    loaded(modules)
    with Tracer(make_plan([spec])) as tracer:
        tracer.attach()
        kept = not all(
            group.kind in ("kprobe", "kretprobe") and not group.multi for group in tracer.plan.groups
        )
        assert events(tracer, work) > 0
        assert tracer.unloaded() == []
        problem = unload(modules)
        if kept:
            assert "in use" in problem
            load(modules)
            assert events(tracer, work) > 0
            assert tracer.unloaded() == []
        else:
            assert problem == ""
            assert tracer.unloaded() == ["dummy"]
            load(modules)
            assert events(tracer, work) == 0
            assert tracer.unloaded() == []
        assert tracer.balanced()
        assert tracer.missed() == []
    assert unload(modules) == ""
    load(modules)  # at other addresses
    with Tracer(make_plan([spec])) as tracer:
        tracer.attach()
        assert events(tracer, work) > 0


def test_a_module_that_goes_is_said_while_it_is_traced(
    loaded: Callable[[list[str]], None], tmp_path: Path
) -> None:
    loaded(DUMMY)
    capture = tmp_path / "x.pcapng"
    words = ["record", "kprobe:dummy_xmit", "-w", str(capture), "--json"]
    with subprocess.Popen([*KWIRE, *words], stderr=subprocess.PIPE, text=True) as traced:
        assert traced.stderr is not None
        for _ in range(1200):
            if capture.exists():
                break
            time.sleep(0.1)
        send()
        assert unload(DUMMY) == ""
        assert traced.stderr.readline() == "kwire: module dummy was unloaded: its 1 probe ended with it\n"
        traced.terminate()
        assert traced.wait(PATIENCE) == 0


@pytest.mark.parametrize(("kind", "target"), [("kprobe", "dummy:dummy_*"), ("fentry", "dummy:dummy_xmit")])
def test_a_module_that_is_not_loaded_is_named(kind: str, target: str) -> None:
    assert unload(DUMMY) == ""
    with (
        pytest.raises(KwireError, match="no module dummy is loaded") as error,
        Tracer(make_plan([f"{kind}:{target}"])) as tracer,
    ):
        tracer.attach()
    assert "modprobe dummy" in str(error.value)
