"""The system-call filter: its table against the headers, its verdicts one by one, and a process under it."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from kwire.kernel import seccomp
from kwire.kernel.seccomp import ALLOW, ARCHES, CALLS, ERRNO, KILL, LIMITS

HEADERS = {
    "x86_64": ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", r"#define __NR_(\w+) (\d+)"),
    "aarch64": ("/usr/include/asm-generic/unistd.h", r"#define __NR(?:3264)?_(\w+) (\d+)"),
}
RENAMED = {"fcntl", "fstat", "ftruncate", "lseek", "mmap", "newfstatat"}  # __NR3264_ in the generic header


@pytest.mark.parametrize("machine", ARCHES)
def test_the_numbers_are_those_of_the_headers(machine: str) -> None:
    path, pattern = HEADERS[machine]
    if not Path(path).exists():
        pytest.skip(f"{path} is not installed")
    known = {name: int(number) for name, number in re.findall(pattern, Path(path).read_text())}
    known.setdefault("newfstatat", known.get("fstatat", -1))
    for name, call in CALLS.items():
        number = call.x86_64 if machine == "x86_64" else call.aarch64
        if number is not None:
            assert known.get(name, number if machine == "aarch64" and number > 400 else -1) == number, name
        elif machine == "aarch64":
            assert name not in known or known[name] > 1000, f"{name} is there"


def test_each_call_has_a_reason_and_a_limit_that_exists() -> None:
    for name, call in CALLS.items():
        assert call.why, name
        assert not call.limit or call.limit in LIMITS, name
        assert call.x86_64 is not None, name


def verdict(machine: str, number: int, *args: int, arch: int | None = None) -> int:
    """What the filter says of a call: an interpreter of classic BPF, as far as the filter uses it."""
    code = list(struct.iter_unpack("=HBBI", seccomp.program(machine)))
    data = struct.pack(
        "=IIQ6Q", number, ARCHES[machine] if arch is None else arch, 0, *args, *[0] * (6 - len(args))
    )
    at, accumulator = 0, 0
    while True:
        operation, true, false, k = code[at]
        at += 1
        if operation == seccomp.LOAD:
            accumulator = struct.unpack_from("=I", data, k)[0]
        elif operation == seccomp.RETURN:
            return int(k)
        else:
            holds = {
                seccomp.EQUAL: accumulator == k,
                seccomp.SET: bool(accumulator & k),
                seccomp.GREATER: accumulator >= k,
            }[operation]
            at += true if holds else false


@pytest.mark.parametrize("machine", ARCHES)
def test_what_is_in_the_table_may_be_called_and_nothing_else(machine: str) -> None:
    numbers = {call.x86_64 if machine == "x86_64" else call.aarch64: call for call in CALLS.values()}
    for number in range(600):
        call = numbers.get(number)
        if call is None:
            assert verdict(machine, number) == ERRNO | errno.EPERM, number
        elif not call.limit:
            assert verdict(machine, number) == ALLOW, number
    assert verdict(machine, 0, arch=0x40000003) == KILL
    if machine == "x86_64":
        assert verdict(machine, seccomp.X32 | 1) == KILL


@pytest.mark.parametrize(
    ("name", "args", "refused"),
    [
        ("mmap", (0, 4096, 3), 0),
        ("mmap", (0, 4096, 5), errno.EPERM),
        ("mprotect", (0, 4096, 1), 0),
        ("mprotect", (0, 4096, 7), errno.EPERM),
        ("clone", (0x3D0F00,), 0),
        ("clone", (17,), errno.EPERM),
        ("clone3", (0, 88), errno.ENOSYS),
        ("socket", (2, 1, 0), 0),
        ("socket", (1, 1, 0), 0),
        ("socket", (16, 3, 0), 0),
        ("socket", (17, 3, 0), errno.EAFNOSUPPORT),
        ("ioctl", (1, 0x5401), 0),
        ("ioctl", (1, 0x5412), errno.ENOTTY),
    ],
)
@pytest.mark.parametrize("machine", ARCHES)
def test_arguments_are_held_to_their_limits(
    machine: str, name: str, args: tuple[int, ...], refused: int
) -> None:
    call = CALLS[name]
    number = call.x86_64 if machine == "x86_64" else call.aarch64
    assert number is not None
    assert verdict(machine, number, *args) == (ERRNO | refused if refused else ALLOW)


def test_a_filter_is_short_enough_for_every_kernel() -> None:
    for machine in ARCHES:
        assert len(seccomp.program(machine)) // 8 <= 4096  # BPF_MAXINSNS


PRELUDE = """
import ctypes, errno, json, mmap, os, socket, sys, threading
socket.getaddrinfo("localhost", 1)  # loads what it needs
from kwire.kernel import seccomp
why = seccomp.confine()
if why:
    print(json.dumps({"none": why}))
    sys.exit()
found = {"mode": seccomp.mode()}
def attempt(name, action):
    try:
        action()
        found[name] = 0
    except OSError as error:
        found[name] = error.errno
    except ImportError:
        found[name] = "ImportError"
"""


def confined(program: str, folder: Path) -> dict[str, object]:
    """What a program found under the filter."""
    text = PRELUDE + textwrap.dedent(program) + "\nprint(json.dumps(found))"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    if "none" in found:
        pytest.skip(f"no seccomp here: {found['none']}")
    return found


def test_what_a_collector_does_goes_on(tmp_path: Path) -> None:
    found = confined(
        """
        def files():
            fd = os.open("a", os.O_RDWR | os.O_CREAT)
            os.pwrite(fd, b"x" * 100, 0); os.fdatasync(fd); os.ftruncate(fd, 10); os.close(fd)
            os.rename("a", "b"); os.listdir("."); os.unlink("b"); os.makedirs("c/d")
        def network():
            here = socket.create_server(("127.0.0.1", 0))
            there = socket.create_connection(here.getsockname())
            there.sendall(b"x")
            assert here.accept()[0].recv(1) == b"x"
        def threads():
            done = []
            thread = threading.Thread(target=lambda: done.append(1)); thread.start(); thread.join()
            assert done
        attempt("files", files)
        attempt("network", network)
        attempt("threads", threads)
        attempt("random", lambda: os.urandom(8))
        attempt("memory", lambda: bytearray(64 << 20))
        attempt("names", lambda: socket.getaddrinfo("localhost", 1))
        attempt("a signal to itself", lambda: os.kill(os.getpid(), 0))
        """,
        tmp_path,
    )
    assert found == {
        "mode": 2,
        **dict.fromkeys(["files", "network", "threads", "random", "memory", "names"], 0),
        "a signal to itself": 0,
    }


def test_what_a_collector_has_no_business_with_fails(tmp_path: Path) -> None:
    found = confined(
        """
        libc = ctypes.CDLL(None, use_errno=True)
        def call(name, *args):
            if getattr(libc, name)(*args) < 0:
                raise OSError(ctypes.get_errno(), name)
        attempt("exec", lambda: os.execv("/bin/true", ["true"]))
        attempt("fork", os.fork)
        attempt("kill", lambda: os.kill(os.getppid(), 0))
        attempt("chmod", lambda: os.chmod(".", 0o777))
        attempt("chown", lambda: os.chown(".", 0, 0))
        attempt("link", lambda: os.symlink("/etc/passwd", "x"))
        attempt("raw", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
        attempt("ptrace", lambda: call("ptrace", 0, 0, 0, 0))
        attempt("mount", lambda: call("mount", b"none", b"/", b"tmpfs", 0, None))
        attempt("bpf", lambda: call("syscall", 321 if os.uname().machine == "x86_64" else 280, 0, 0, 0))
        attempt("setuid", lambda: os.setuid(0))
        attempt("code", lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC))
        """,
        tmp_path,
    )
    assert found.pop("mode") == 2
    assert found.pop("raw") == errno.EAFNOSUPPORT
    assert set(found.values()) == {errno.EPERM}, found


def test_every_thread_is_under_it(tmp_path: Path) -> None:
    program = """
        import os, sys, threading
        from kwire.kernel import seccomp
        go, done, modes = threading.Event(), threading.Event(), []
        def wait():
            go.wait()
            modes.append(seccomp.mode())
        thread = threading.Thread(target=wait)
        thread.start()
        why = seccomp.confine()
        go.set()
        thread.join()
        print("none" if why else modes[0])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert done.stdout.strip() in ("2", "none"), done.stderr


def test_a_machine_without_a_table_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = type("Machine", (), {"machine": "m68k"})
    monkeypatch.setattr(os, "uname", lambda: machine)
    assert seccomp.confine() == "none is known for m68k"


def test_a_kernel_without_seccomp_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "syscall", lambda *arguments: (-1, errno.EINVAL))
    monkeypatch.setattr(ctypes, "CDLL", lambda *a, **k: type("C", (), {"prctl": lambda *a: 0})())
    assert seccomp.confine() == "Invalid argument (EINVAL)"
