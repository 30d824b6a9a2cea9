"""What a process that talks to the network gives up, for good, before it goes on.

Invariants: an agent is nobody: another user than the one that started it, without capabilities, with the
system calls of a table (`kwire.kernel.seccomp`), writing to no file but those of its spool
(`kwire.kernel.landlock`); a collector keeps its user, whose captures they are. What the kernel or our own
privileges do not allow is left out, and told to whoever asks. All that is needed later must be loaded before:
no code comes in afterwards.
"""

import os
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress

from kwire.agent.spool_state import NAME, open_folder
from kwire.errors import KwireError
from kwire.kernel import landlock, privileges, seccomp
from kwire.transport.address import Address, is_numeric, resolve

NAMES = ("/etc/hosts", "/etc/host.conf", "/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/gai.conf")
"""What names of hosts are looked up by; metrics may go to a name where events go to a path."""

AUTHORITIES = ("/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/pki/tls/certs", "/etc/pki/ca-trust/extracted")
"""Where systems keep the certificates of authorities, and nothing else: what is beside may be secret."""

UNIX_KEEPS = ("CAP_DAC_OVERRIDE",)
"""Reconnecting needs it: the socket of a Unix path may be another user's."""


def preload(addresses: Sequence[Address]) -> None:
    """Load what may be needed later; ask for the names once, so that the libraries that answer are here."""
    import hmac  # noqa: F401
    import json  # noqa: F401
    import threading  # noqa: F401
    import zlib  # noqa: F401

    import cbor2

    cbor2.loads(cbor2.dumps({}))
    "localhost".encode("idna")
    for address in addresses:
        if address.kind != "unix" and address.host and not is_numeric(address):
            with suppress(KwireError):
                resolve(address)


def collector(addresses: Sequence[Address]) -> list[str]:
    """Confine a collector that reaches `addresses`; what could not be done."""
    preload(addresses)
    privileges.drop()
    problem = seccomp.confine()
    return [f"no system-call filter: {problem}"] if problem else []


def agent(addresses: Sequence[Address] = (), folder: str = "") -> list[str]:
    """Confine an agent that reaches `addresses` and keeps its spool in `folder` (none: ""); what could not be
    done. Raises KernelError.
    """  # fmt: skip
    preload(addresses)
    keep = UNIX_KEEPS if any(address.kind == "unix" for address in addresses) else ()
    user = privileges.stranger() if privileges.may_become_another() else None
    if user is not None and folder:
        _give(folder, user)
    rules = landlock.Rules([folder] if folder else [], _libraries() if keep else ("/",))
    privileges.drop(keep, user)
    problems = []
    if user is None and os.geteuid() == 0:
        problems.append("no other user to become")
    rules.restrict()
    if rules.problem:
        problems.append(f"no sandbox for files: {rules.problem}")
    problem = seccomp.confine(seccomp.agent_calls(bool(folder)))
    if problem:
        problems.append(f"no system-call filter: {problem}")
    return problems


def _libraries() -> list[str]:
    """What must be readable to go on, for one that could read everything."""
    places = ["/usr", "/lib", "/lib64", "/proc/sys", "/proc/self", sys.prefix, sys.base_prefix, *sys.path]
    places += [*NAMES, *AUTHORITIES]
    return [place for place in dict.fromkeys(places) if place and os.path.exists(place)]


def _give(folder: str, user: privileges.User) -> None:
    """Make the spools in a folder the user's, and the folder where nothing else is in it. What lies there may
    have been put there by that user: no link is followed, and nothing of others is given.
    """
    names = [name for name in os.listdir(folder) if name != "lost+found"]  # of a file system of its own
    spools = 0
    for name in names:
        if not NAME.fullmatch(name):
            continue
        with suppress(FileNotFoundError, NotADirectoryError):
            own = open_folder(os.path.join(folder, name))
            try:
                os.fchown(own, user.uid, user.gid)
                for part in os.listdir(own):
                    _give_file(own, part, user)
            finally:
                os.close(own)
            spools += 1
    if spools == len(names) and not os.stat(folder).st_mode & 0o002:
        os.chown(folder, user.uid, user.gid)


def _give_file(folder: int, name: str, user: privileges.User) -> None:
    with suppress(OSError):  # a link, a device: whoever opens it is told
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        try:
            found = os.fstat(fd)
            if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:  # not another's, by another name
                os.fchown(fd, user.uid, user.gid)
        finally:
            os.close(fd)
