"""Probes on functions in the kernel: arguments and results of every width, names that stand for several."""

# Names and annotations inside of probes are the probe language's, not Python's.
# ruff: noqa: F821
# mypy: ignore-errors

import contextlib
import errno
import os
import socket

import pytest

import kwire

ENOPROTOOPT = -errno.ENOPROTOOPT


def options() -> None:
    """Three calls of setsockopt on TCP: one with 8 bytes, one with 4, one of an option that is not there."""
    with socket.socket() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, b"\1\0\0\0\0\0\0\0")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, b"\0\0\0\0")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, 9999, b"\0\0\0\0")


def seen(probe) -> list[tuple[int, ...]]:
    with kwire.trace(probe, pid=os.getpid()) as events:
        options()
        columns = events.columns()
    own = [columns[name].tolist() for name in columns if not name.startswith("time")]
    return list(zip(*own, strict=True))


@pytest.mark.needs("kprobe")
def test_the_entry_with_a_structure_by_value() -> None:
    @kwire.kprobe("do_tcp_setsockopt")
    def setting(sk, level, optname, optval, optlen):
        emit(level, optname, optlen, inside=optval.is_kernel, empty=optval.user == 0)

    assert seen(setting) == [(6, 1, 8, 0, 0), (6, 1, 4, 0, 0), (6, 9999, 4, 0, 0)]


@pytest.mark.needs("fentry")
@pytest.mark.parametrize("kind", [kwire.fentry, kwire.fexit])
def test_the_context_with_a_structure_by_value(kind) -> None:
    @kind("do_tcp_setsockopt")
    def setting(sk, level, optname, optval, optlen):
        emit(level, optname, optlen, inside=optval.is_kernel, empty=optval.user == 0)

    assert seen(setting) == [(6, 1, 8, 0, 0), (6, 1, 4, 0, 0), (6, 9999, 4, 0, 0)]


@pytest.mark.needs("kprobe", "fentry")
@pytest.mark.parametrize("kind", [kwire.kretprobe, kwire.fexit])
def test_the_result_after_a_structure_by_value(kind) -> None:
    @kind("do_tcp_setsockopt")
    def done():
        emit(retval)

    assert seen(done) == [(0,), (0,), (ENOPROTOOPT,)]
