"""Markers that say what a test needs, and what every test must leave as it found it.

`@pytest.mark.live` needs root and a working bpf(2); `@pytest.mark.needs("kprobe", ...)` needs
those kernel features too.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os

import pytest

SYS_BPF = {"x86_64": 321, "aarch64": 280}
BPF_PROG_GET_NEXT_ID = 11


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "live: loads programs into the running kernel (root and bpf(2))")
    config.addinivalue_line(
        "markers", "needs(*features): runs only where the running kernel has these features"
    )
    config.addinivalue_line(
        "markers", "guest: for a throwaway machine only (watches everything, loads modules)"
    )


@functools.cache
def bpf_refusal() -> str:
    """Why bpf(2) cannot be used here; empty when it can."""
    if os.geteuid() != 0:
        return "needs root"
    number = SYS_BPF.get(os.uname().machine)
    if number is None:
        return f"no bpf(2) number known for {os.uname().machine}"
    libc = ctypes.CDLL(None, use_errno=True)
    attr = ctypes.create_string_buffer(128)
    if libc.syscall(number, BPF_PROG_GET_NEXT_ID, attr, len(attr)) == 0 or ctypes.get_errno() == errno.ENOENT:
        return ""
    return f"bpf(2) says {os.strerror(ctypes.get_errno())}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if (
            item.get_closest_marker("live")
            or item.get_closest_marker("needs")
            or item.get_closest_marker("guest")
        ):
            refusal = bpf_refusal()
            if refusal:
                item.add_marker(pytest.mark.skip(reason=refusal))
