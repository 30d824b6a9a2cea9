"""System calls by name, their errors, descriptors."""

from __future__ import annotations

import errno
import os

import pytest

from kwire.kernel.syscall import Fd, KernelError, reason, syscall


def test_an_unknown_system_call_is_enosys() -> None:
    assert syscall("no_such_call")[1] == errno.ENOSYS


def test_a_descriptor_is_closed_once() -> None:
    read, write = os.pipe()
    os.close(write)
    owner = Fd(read)
    with owner:
        assert owner.fd == read
    assert owner.closed
    reused = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)  # takes the number that is free now
    owner.close()
    os.fstat(reused)
    os.close(reused)
    with pytest.raises(KernelError, match="closed"):
        _ = owner.fd


@pytest.mark.parametrize("number", [errno.EPERM, errno.EINVAL, 524, 9999])
def test_every_errno_has_words(number: int) -> None:
    assert "(" in reason(number)
