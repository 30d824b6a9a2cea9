"""Sockets that listen: on all addresses of a name, or at a path.

Invariants: a name that has several addresses has one port on all of them; a Unix socket's file is never more
open than its mode, replaces only what nobody listens on, and is recognized by its inode.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat

from kwire.errors import KwireError
from kwire.transport.address import Address, SockAddress, resolve

BACKLOG = 1024
"""Connections that the kernel completes before we take them."""


def bind(address: Address, mode: int) -> list[socket.socket]:
    """Sockets bound to all addresses of `address`; at least one, or KwireError."""
    if address.kind == "unix":
        return [_bind_unix(address, mode)]
    sockets: list[socket.socket] = []
    problem: OSError | None = None
    port = address.port
    for family, place in resolve(address, listening=True):
        kind = socket.SOCK_DGRAM if address.datagrams else socket.SOCK_STREAM
        try:
            bound = socket.socket(family, kind)
        except OSError as error:  # a kernel without IPv6, say: others may do
            problem = problem or error
            continue
        try:
            bound.setblocking(False)
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if not address.datagrams:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((place[0], port, *place[2:]))
            if not address.datagrams:
                bound.listen(BACKLOG)
            port = bound.getsockname()[1]
            sockets.append(bound)
        except OSError as error:
            bound.close()
            if error.errno == errno.EADDRINUSE:
                for other in sockets:
                    other.close()
                raise _refused(address, error) from error
            problem = problem or error
    if not sockets:
        assert problem is not None
        raise _refused(address, problem) from problem
    return sockets


def _bind_unix(address: Address, mode: int) -> socket.socket:
    """A Unix socket at the path; one that nobody listens on any more is taken away first."""
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bound.setblocking(False)
        try:
            _bind_with_mode(bound, address.path, mode)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _is_stale(address.path):
                raise
            os.unlink(address.path)
            _bind_with_mode(bound, address.path, mode)
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        raise _refused(address, error) from error
    return bound


def _bind_with_mode(bound: socket.socket, path: str, mode: int) -> None:
    """Bind, the file having this mode from its beginning; the process's umask would take bits off it."""
    before = os.umask(0o777 & ~mode)
    try:
        bound.bind(path)
    finally:
        os.umask(before)


def remove_stale(path: str) -> None:
    """Take away a socket that nobody listens on any more; another thing at the path stays."""
    with contextlib.suppress(OSError):
        if _is_stale(path):
            os.unlink(path)


def _is_stale(path: str) -> bool:
    """Whether the path is a socket on which nobody listens."""
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path) == errno.ECONNREFUSED


def inode(path: str) -> tuple[int, int] | None:
    """(device, inode) of what is at the path; None where nothing is."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _refused(address: Address, error: OSError) -> KwireError:
    cures = {
        errno.EADDRINUSE: "something listens there already; choose another port or path",
        errno.EADDRNOTAVAIL: "that is no address of this machine; leave the host empty for all of them",
        errno.EACCES: "choose a port over 1023, or a directory of yours",
        errno.ENOENT: "make the directory first",
    }
    return KwireError(
        "listen on", str(address), (error.strerror or str(error)).lower(), cures.get(error.errno or 0, "")
    )


def origin(place: SockAddress) -> str:
    """What limits are counted by: an IPv4 address, the first half of an IPv6 address."""
    host = str(place[0])
    if ":" not in host:
        return host
    packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    return packed[12:].hex() if packed[:12] == bytes(10) + b"\xff\xff" else packed[:8].hex()
