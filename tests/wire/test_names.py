"""Names of numbers: held against what Python knows of this machine, and against each other."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import resource
import select
import signal
import socket
import time

import pytest

from kwire.wire import names

MACHINE = os.uname().machine
OURS = names.constants(MACHINE)


def test_errors_are_those_of_this_system() -> None:
    for number, name in errno.errorcode.items():
        assert OURS[name] == number
    assert [names.error(2), names.error(512), names.error(99999)] == ["ENOENT", "ERESTARTSYS", ""]


@pytest.mark.parametrize("module", [os, signal, socket, mmap, fcntl, resource, time, select])
def test_constants_are_those_of_this_system(module: object) -> None:
    checked = 0
    for name, number in OURS.items():
        here = getattr(module, name, None)
        if (
            isinstance(here, int) and name != "O_LARGEFILE"
        ):  # on 64 bits C libraries say 0, the kernel sets it
            assert number == int(here), name
            checked += 1
    assert checked


@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "unheard-of"])
def test_a_name_stands_for_one_number(machine: str) -> None:
    found: dict[str, int] = {}
    for key, table in names.tables(machine).items():
        if key == "syscall":
            continue
        for number, name in table.names.items():
            assert found.setdefault(name, number) == number, name
            assert name.isidentifier()
            inside = number & table.mask
            assert inside in (0, number), f"{name} is partly a choice, partly a flag"
    assert names.constant("O_CREAT", machine) == 0x40
    assert names.constant("NOBODY", machine) is None


def test_machines_differ_where_linux_differs() -> None:
    assert names.constant("O_DIRECTORY", "x86_64") == 0x10000
    assert names.constant("O_DIRECTORY", "aarch64") == 0x4000
    assert names.tables("x86_64")["syscall"].names[257] == "openat"
    assert names.tables("aarch64")["syscall"].names[56] == "openat"
