"""What an agent that is nobody reads anew on SIGHUP: a process that has kept its privileges reads it for it.

Invariants: it is forked before anything is attached or connected to, has no descriptor but its end of a
socket, reads nothing but that and files, and ends with the agent. What it reads is judged there, so that what
is wrong is told as text and nothing changes; certificates come as files in memory that the agent's user alone
may read.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from kwire.cli.lines import say
from kwire.cli.network import tls_options
from kwire.errors import KwireError
from kwire.transport.loop import READ, Loop

if TYPE_CHECKING:
    import argparse
    import ssl

AT_ONCE = frozenset({"tls-cert", "tls-key", "tls-ca"})
"""Keys of the configuration file that SIGHUP changes where TLS is ours, not a broker's client's; for others
the agent is started again.
"""

MOST = 1 << 16
"""Bytes of an answer."""


class Rereader:
    """The process, and the way to it. `listens`: whether certificates are for who connects to us; `tls`:
    whether there are any.
    """

    def __init__(self, args: "argparse.Namespace", *, listens: bool, tls: bool) -> None:
        self._args, self._listens, self._tls = args, listens, tls
        self._loop: Loop | None = None
        self._renew: Callable[[ssl.SSLContext], None] = lambda context: None
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork() == 0:
            self._work(theirs)
        theirs.close()

    def serve(self, loop: Loop, renew: "Callable[[ssl.SSLContext], None]") -> None:
        """Read anew on SIGHUP; `renew` takes what certificates came of it."""
        self._loop, self._renew = loop, renew
        loop.signals((signal.SIGHUP,), lambda number: self._ask())
        loop.add(self._ours.fileno(), READ, lambda mask: self._take())

    def close(self) -> None:
        """Let the process end."""
        self._ours.close()

    def _ask(self) -> None:
        with contextlib.suppress(OSError):  # it is gone, which was said
            self._ours.send(f"{os.geteuid()} {os.getegid()}".encode())

    def _take(self) -> None:
        data, files, _, _ = socket.recv_fds(self._ours, MOST, 3)
        try:
            if not data:
                ended = "the process that reads the configuration has ended"
                say(f"{ended}: restart the agent to change anything", "failure")
                if self._loop is not None:
                    self._loop.remove(self._ours.fileno())
                self._ours.close()
                return
            told: dict[str, Any] = json.loads(data)
            if "error" in told:
                raise _Unchanged(told["error"])
            if files:
                self._renew(self._context(*(f"/proc/self/fd/{file}" for file in files)))
        except (KwireError, _Unchanged) as error:
            say(f"{error}; what was configured before stays in force", "configuration")
            return
        finally:
            for file in files:
                os.close(file)
        late = ", ".join(key for key in told["changed"] if not self._tls or key not in AT_ONCE)
        text = f"{self._args.config} is read again{', certificates too' if self._tls else ''}"
        say(f"{text}; restart for the new {late}" if late else text)

    def _context(self, cert: str, key: str, ca: str) -> "ssl.SSLContext":
        from kwire.transport.tls import TlsOptions, client_context, server_context

        return (server_context if self._listens else client_context)(TlsOptions(cert, key, ca))

    # ------------------------------------------------------------------ the process

    def _work(self, asked: socket.socket) -> NoReturn:
        """Answer until nobody can ask any more."""
        status = 1
        try:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            own = asked.fileno()
            os.closerange(0, own)
            os.closerange(own + 1, os.sysconf("SC_OPEN_MAX"))
            while words := asked.recv(64):
                user, group = map(int, words.split())
                told, files = self._read(user, group)
                socket.send_fds(asked, [json.dumps(told).encode()[:MOST]], files)
                for file in files:
                    os.close(file)
            status = 0
        except BaseException:
            os._exit(status)
        os._exit(status)

    def _read(self, user: int, group: int) -> tuple[dict[str, Any], list[int]]:
        """What changed, and the certificates; or what is wrong."""
        files: list[int] = []
        try:
            new, changed = self._args.reread()
            if self._tls:
                from kwire.transport.tls import complete

                paths = complete(tls_options(new))
                self._context(*paths)
                files = [_copy(path, user, group) for path in paths]
            return {"changed": changed}, files
        except Exception as error:
            for file in files:
                os.close(file)
            return {"error": str(error)}, []


class _Unchanged(Exception):  # noqa: N818  # it is told, and no error of ours
    """What is wrong with what was read."""


def _copy(path: str, user: int, group: int) -> int:
    """A file in memory with what a file has, for one user alone."""
    copy = os.memfd_create("kwire", os.MFD_CLOEXEC)
    with open(path, "rb") as file, open(copy, "wb", closefd=False) as out:
        shutil.copyfileobj(file, out)
    os.fchmod(copy, 0o400)
    if (user, group) != (os.geteuid(), os.getegid()):
        os.fchown(copy, user, group)
    return copy
