"""Kernel file systems that are mounted nowhere: fsopen(2) and fsmount(2) (Linux 5.2) give one by a
descriptor alone.

Invariant: no other process sees it, no mount namespace changes, and it is gone with its last descriptor.
"""

import os

from kwire.kernel.syscall import Fd, address_of, syscall

FSOPEN_CLOEXEC = 1
FSCONFIG_CMD_CREATE = 6
FSMOUNT_CLOEXEC = 1


def detached(kind: str) -> tuple[int, int]:
    """(descriptor of the root directory, errno) of a file system of this kind, `tracefs` or `securityfs`."""
    name = kind.encode()
    context, errno = syscall("fsopen", address_of(name), FSOPEN_CLOEXEC)
    if errno:
        return -1, errno
    with Fd(context):
        _, errno = syscall("fsconfig", context, FSCONFIG_CMD_CREATE, 0, 0, 0)
        if errno:
            return -1, errno
        mount, errno = syscall("fsmount", context, FSMOUNT_CLOEXEC, 0)
    if errno:
        return -1, errno
    with Fd(mount):  # an O_PATH descriptor; one that can be listed keeps the mount alive as well
        try:
            return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mount), 0
        except OSError as error:
            return -1, error.errno or 0
