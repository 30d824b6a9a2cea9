"""A process with all of kwire imported, and its caches filled, that forks for each command line.

An emulated guest takes seconds to start Python and to import the compiler; of what a case tests nothing lies
there. `Warm(folder)` starts the process and builds the program `folder/bpftrace`, which stands in the place
of the command: same arguments, environment, folder, standard streams, signals and exit status.

Invariants: each command runs in a process and a session of its own, which ends with the program that asked
for it; this process never plans, attaches or prints for a command itself.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import pkgutil
import selectors
import signal
import socket
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

OWN_NAME = "bpftrace"
"""What cases believe that the program is called, which they see in `comm`."""
APART = (
    "agent",
    "analyze",
    "broker",
    "collector",
    "packets",
    "test",
    "tools",
    "transport",
    "wireshark",
    "_walk",
)
"""Parts of kwire that no case needs."""
PR_SET_NAME = 15
READY = b"warm\n"

HEATING = (
    'BEGIN { @a[comm, "x"] = count(); @b = hist(1); printf("%s %d\\n", "a", 1); exit(); }',
    "kprobe:vfs_read { @[kstack, ustack] = count(); print(((struct task_struct *)curtask)->pid); }",
    "tracepoint:syscalls:sys_enter_openat { @[str(args.filename)] = sum(1); print((1, 2)); }",
    'uprobe:/bin/bash:main { printf("%d %s\\n", arg0, usym(reg("ip"))); }',
    "interval:ms:1 { $a = 1; for ($i : 0..3) { print($i); } exit(); }",
)
"""What is planned once before anything is asked for, as tables are made when they are needed first."""


class Warm:
    """The process, as what starts it sees it."""

    def __init__(self, folder: Path) -> None:
        place = folder / "socket"
        self.program = folder / OWN_NAME
        source = Path(__file__).with_name("warm.c")
        build = ["gcc", "-O1", f'-DWARM_SOCKET="{place}"', "-o", str(self.program), str(source)]
        subprocess.run(build, check=True)
        words = [sys.executable, __file__, str(place)]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True)
        assert self._process.stdout
        if self._process.stdout.readline() != READY:
            raise RuntimeError("the warm process did not start")

    def close(self) -> None:
        """End it, and what runs in its place."""
        self._process.terminate()
        self._process.wait()


def main() -> int:
    """Import, fill the caches, serve until we are ended."""
    _import_all()
    _heat()
    gc.collect()
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as selector:
        listener.bind(sys.argv[1])
        listener.listen(16)
        selector.register(listener, selectors.EVENT_READ)
        os.write(1, READY)
        while True:
            for key, _ in selector.select():
                if key.data is None:
                    _begin(selector, listener)
                else:
                    _ended(selector, *key.data)


def _import_all() -> None:
    import kwire

    for module in pkgutil.walk_packages(kwire.__path__, "kwire."):
        if module.name.split(".")[1] not in APART:
            importlib.import_module(module.name)


def _heat() -> None:
    from kwire.errors import KwireError
    from kwire.live.plan import Scope
    from kwire.live.scripts import plan_text

    for text in HEATING:
        with suppress(KwireError, OSError):
            plan_text("warm", text, (), scope=Scope(), command=0, unsafe=True)


def _begin(selector: selectors.BaseSelector, listener: socket.socket) -> None:
    """Fork for one request; what is to be told of it is watched."""
    peer, _ = listener.accept()
    head, streams, _, _ = socket.recv_fds(peer, 4, 3)
    size = int.from_bytes(head, sys.byteorder)
    data = b""
    while len(data) < size:
        part = peer.recv(size - len(data))
        if not part:
            break
        data += part
    words = data.split(b"\0")[:-1]
    if not words:  # it has died
        peer.close()
        return
    child = os.fork()
    if child == 0:
        count = int(words[0]) + 1
        listener.close()
        peer.close()
        selector.close()
        _command(words[1:count], words[count], words[count + 1 :], streams)
    for stream in streams:
        os.close(stream)
    process = os.pidfd_open(child)
    with suppress(OSError):
        peer.sendall(struct.pack("=i", child))
    selector.register(process, selectors.EVENT_READ, (child, process, peer))
    selector.register(peer, selectors.EVENT_READ, (child, process, peer))


def _ended(selector: selectors.BaseSelector, child: int, process: int, peer: socket.socket) -> None:
    """A command ended, or who had asked for it is gone: then it is ended, too."""
    found, status = os.waitpid(child, os.WNOHANG)
    if not found:
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        found, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    with suppress(OSError):
        peer.sendall(struct.pack("=i", code if code >= 0 else 128 - code))
    selector.unregister(process)
    selector.unregister(peer)
    os.close(process)
    peer.close()


def _command(words: list[bytes], folder: bytes, environment: list[bytes], streams: list[int]) -> None:
    """Be the command. Never returns."""
    code = 70
    try:
        os.setsid()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.closerange(3, 256)
        os.chdir(folder)
        os.environ.clear()
        for pair in environment:
            name, _, value = pair.partition(b"=")
            os.environb[name] = value
        ctypes.CDLL(None).prctl(PR_SET_NAME, OWN_NAME.encode(), 0, 0, 0)
        sys.argv = ["kwire", *map(os.fsdecode, words)]
        sys.stdin, sys.stdout = open(0), open(1, "w")  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1)  # noqa: SIM115
        gc.set_threshold(100_000)
        from kwire.cli.main import main as command

        code = command()
        sys.stdout.flush()
    finally:
        os._exit(code)


if __name__ == "__main__":
    raise SystemExit(main())
