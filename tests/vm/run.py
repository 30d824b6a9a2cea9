"""Boots a kernel in QEMU, runs one command as root in it, and ends with the command's exit status.

    python tests/vm/run.py --kernel 6.12 -- uname -r
    python tests/vm/run.py --kernel 6.1 -- .venv/bin/python -m pytest tests/live
    python tests/vm/run.py --image vmlinuz --modules /lib/modules/6.6.9 -- COMMAND ARG...

The guest sees this machine's files, at the same paths, through virtiofs under an overlay: it may write
anywhere, and nothing of it stays, but for what it writes to the shared folder ($VM_SHARE in the guest,
--share here). A file that changes here after the guest has read it stays in the guest as it was read.
/run and /dev/shm are its own and empty. It has the loopback interface and no other.
Emulation is in software, about 30 times slower than the machine, so it works inside virtual machines too.
Any number of guests may run at once, and none outlives the process that started it.

A kernel that dies while it boots is booted again, and stderr says so, for emulation has deaths of its own.
A guest that hangs is made to panic (NMI), so that its log says where each of its processors is.

Exit status: the command's; 128 + N when signal N ended it; 124 after --timeout; 125 when the guest could
not be started or ended without a status.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from initramfs import GuestError, build, compiled
from kernels import PACKAGES, Kernel, fetch

TIMED_OUT = 124
FAILED = 125
BOOTS = 3  # of a kernel that dies before the command begins
LAST_WORDS = 30  # seconds for a kernel that hangs to say where
LOG_END = 8000  # bytes of the kernel's log that an error quotes
SHARE_NAME = "VM_SHARE"
PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ")
VIRTIOFSD = ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd", "/usr/lib/virtiofsd")
PR_SET_PDEATHSIG = 1

# rcu_expedited: attaching and detaching wait for grace periods, which an emulated machine makes long.
# no_timer_check: a kernel that gets no processor time while it looks for its timer's interrupt takes that for
# a broken timer, and panics, or goes on without one and hangs.
PARAMETERS = (
    "console=ttyS0 quiet loglevel=4 panic=-1 rdinit=/init tsc=reliable clocksource=tsc no_timer_check "
    "rcupdate.rcu_expedited=1 mitigations=off random.trust_cpu=on audit=0 cryptomgr.notests 8250.nr_uarts=4 "
    "unknown_nmi_panic panic_print=0x40"  # all processors' stacks (0x40)
)


class GuestDeathError(GuestError):
    """The guest ended without a status, as one whose kernel panics; the text holds the end of its log."""


class HangError(Exception):
    """A guest makes no progress."""


@dataclass(frozen=True)
class Progress:
    """What tells that a guest goes on: a file in the shared folder that grows.

    A guest hangs when `file` has not grown while QEMU used `busy` seconds of processor time or `idle` seconds
    went by. A machine with other work makes a guest slow, and not dead, so only the second is of the clock.
    """

    file: Path
    busy: float
    idle: float


def run(
    kernel: Kernel,
    command: list[str],
    *,
    share: Path | None = None,
    environment: dict[str, str] | None = None,
    cwd: str = "",
    parameters: str = "",
    timeout: float = 600,
    memory: int = 2048,
    cpus: int = 2,
    output: BinaryIO | None = None,
    progress: Progress | None = None,
) -> int:
    """Runs `command` in a guest of `kernel`, copying what it prints to `output` (stdout) as it comes.

    `parameters`: more of the kernel's command line; `memory` is in MiB, `timeout` in seconds from the start
    of the first boot. Raises GuestError when no guest can be started, GuestDeathError when it ends without a
    status or makes no progress.
    """
    deadline = time.monotonic() + timeout
    for boots in range(1, BOOTS + 1):
        with contextlib.ExitStack() as stack:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kwire-vm-")))
            place = share.resolve() if share else scratch / "share"
            place.mkdir(exist_ok=True)
            requests = {"command": command, "environment": guest_environment(place, environment or {})}
            for name, items in requests.items():
                (place / name).write_bytes(b"".join(os.fsencode(item) + b"\0" for item in items))
            for name in ("status", "began"):
                (place / name).unlink(missing_ok=True)
            append = f"{PARAMETERS} {clock(scratch)} share={place} cwd={cwd or os.getcwd()} {parameters}"
            process = boot(stack, kernel, scratch, place, append, machine(memory, cpus))
            watch = Watch(process.pid, progress) if progress else None
            try:
                copy_output(process, output or sys.stdout.buffer, deadline, watch)
            except TimeoutError:
                return TIMED_OUT
            except HangError as error:
                make_panic(process, scratch / "monitor")
                raise GuestDeathError(f"{error}; {log_end(scratch / 'console')}") from None
            try:
                return status(place / "status", scratch / "console")
            except GuestDeathError as error:
                if boots == BOOTS or (place / "began").exists() or process.returncode:
                    raise
                print(f"run.py: {error}\nrun.py: the guest is booted again", file=sys.stderr, flush=True)
    raise AssertionError("the last boot returns or raises")


def clock(scratch: Path) -> str:
    """How fast the guest's clock ticks, for its kernel's command line. A kernel that looks for it by itself,
    while other work takes the processor from it, can find another rate: one had a clock 24 times too fast, so
    that whatever waited gave up.
    """
    rate = subprocess.run([compiled("tsc", scratch)], capture_output=True, text=True, check=True).stdout
    return f"tsc_early_khz={int(rate)}"


def boot(
    stack: contextlib.ExitStack, kernel: Kernel, scratch: Path, share: Path, append: str, computer: list[str]
) -> subprocess.Popen[bytes]:
    """QEMU with the file servers it needs; the command's output is its stdout, the kernel's log a file."""
    qemu, virtiofsd = tools()
    (scratch / "initramfs").write_bytes(build(kernel.modules, scratch))
    for tag, source in (("host", Path("/")), ("share", share)):
        serve(stack, virtiofsd, scratch / f"{tag}.socket", source, "always" if tag == "host" else "auto")
    modules = f" modules={kernel.modules.resolve()}" if kernel.modules else ""
    guest = [qemu, *computer, *folder("host", scratch), *folder("share", scratch)]
    guest += ["-kernel", str(kernel.image), "-initrd", str(scratch / "initramfs")]
    guest += ["-append", append + modules]
    guest += ["-serial", f"file:{scratch}/console", "-chardev", "stdio,id=output,signal=off"]
    guest += ["-serial", "chardev:output", "-monitor", f"unix:{scratch}/monitor,server=on,wait=off"]
    return spawn(stack, guest, stdout=subprocess.PIPE)


def tools() -> tuple[str, str]:
    """The paths of QEMU and of its file server."""
    if os.uname().machine != "x86_64":
        raise GuestError(f"guests run on x86_64 only, not on {os.uname().machine}")
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None:
        raise GuestError("no qemu-system-x86_64: apt-get install qemu-system-x86")
    virtiofsd = next((path for path in VIRTIOFSD if os.access(path, os.X_OK)), None)
    if virtiofsd is None:
        raise GuestError("no virtiofsd: apt-get install qemu-system-common (virtiofsd on newer systems)")
    if os.geteuid() != 0:
        raise GuestError("a guest whose root is this machine's file system needs root")
    return qemu, virtiofsd


def guest_environment(share: Path, extra: dict[str, str]) -> list[str]:
    values = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return [f"{name}={value}" for name, value in (values | extra | {SHARE_NAME: str(share)}).items()]


def machine(memory: int, cpus: int) -> list[str]:
    """QEMU's arguments for the machine itself; its memory is shared with the file servers.

    One thread emulates all processors in turn: with a thread each, a processor runs instructions that another
    one is just replacing, and kernels died and hung of it, now and then. It takes as much processor time.
    The processor says nothing of what makes a real one faster or safer and an emulated one slower: fast
    `rep movsb` (erms, fsrm), for emulation copies byte by byte; a fifth level of page tables (la57), which
    each miss of the translation cache walks; SMAP and SMEP, whose instructions around each copy from or to
    user memory end a block of translated code.
    """
    return [
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *(
            "-accel",
            "tcg,thread=single",
            "-cpu",
            "max,-erms,-fsrm,-la57,-smap,-smep",
            "-smp",
            str(cpus),
            "-m",
            f"{memory}M",
        ),
        *("-machine", "q35,memory-backend=memory"),
        *("-object", f"memory-backend-memfd,id=memory,size={memory}M,share=on"),
    ]


def folder(tag: str, scratch: Path) -> list[str]:
    chardev = f"socket,id={tag},path={scratch}/{tag}.socket"
    return ["-chardev", chardev, "-device", f"vhost-user-fs-pci,chardev={tag},tag={tag},queue-size=1024"]


def serve(stack: contextlib.ExitStack, virtiofsd: str, place: Path, source: Path, cache: str) -> None:
    """Starts a file server for one folder; it ends when the guest does.

    `cache`: "always" where nobody changes what a guest has read; it is then asked for once. With "auto" each
    open drops what the guest's kernel holds of the file, and each start of Python reads everything anew.
    """
    log = Path(f"{place}.log")
    command = [
        virtiofsd,
        f"--socket-path={place}",
        "-o",
        f"source={source},sandbox=chroot,cache={cache},log_level=err",
    ]
    with log.open("wb") as stderr:
        process = spawn(stack, command, stderr=stderr)
    deadline = time.monotonic() + 10
    while not place.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise GuestError(f"virtiofsd does not start: {log.read_text(errors='replace').strip()}")
        time.sleep(0.01)


def spawn(stack: contextlib.ExitStack, command: list[str], **streams: object) -> subprocess.Popen[bytes]:
    """A process that ends with this one, however this one ends, and at the latest when `stack` is left."""
    settings: dict[str, object] = {"stdin": subprocess.DEVNULL, "start_new_session": True, **streams}
    ends = ending_with_parent(signal.SIGKILL)

    def prepare() -> None:
        ends()
        keep_nice()

    process: subprocess.Popen[bytes] = subprocess.Popen(command, preexec_fn=prepare, **settings)  # type: ignore[call-overload]  # one overload a keyword

    def end() -> None:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()

    stack.callback(end)
    return process


def ending_with_parent(number: signal.Signals) -> Callable[[], None]:
    """For Popen's preexec_fn: the process gets this signal when the thread that started it ends."""
    libc = ctypes.CDLL(None)
    return lambda: libc.prctl(PR_SET_PDEATHSIG, number)


def keep_nice() -> None:
    """Make a new session as nice as its first process: the scheduler weighs sessions as wholes (sched(7))."""
    with contextlib.suppress(OSError), open("/proc/self/autogroup", "w") as autogroup:
        autogroup.write(str(os.nice(0)))


class Watch:
    """Whether one guest goes on; asked from time to time."""

    def __init__(self, pid: int, progress: Progress) -> None:
        self._pid, self._progress = pid, progress
        self._size = -1
        self._busy = self._since = 0.0

    def check(self) -> None:
        """Raises HangError when there was no progress for too long."""
        file = self._progress.file
        size = file.stat().st_size if file.exists() else 0
        busy, now = processor_time(self._pid), time.monotonic()
        if size != self._size:
            self._size, self._busy, self._since = size, busy, now
        elif busy - self._busy > self._progress.busy:
            raise HangError(f"the guest made no progress in {busy - self._busy:.0f} s of processor time")
        elif now - self._since > self._progress.idle:
            raise HangError(f"the guest made no progress in {now - self._since:.0f} s")


def processor_time(pid: int) -> float:
    """Seconds that a process has used, user and system (proc_pid_stat(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def copy_output(
    process: subprocess.Popen[bytes], output: BinaryIO, deadline: float, watch: Watch | None
) -> None:
    """Copies the guest's output until QEMU ends; TimeoutError at the deadline, HangError from `watch`."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            left = max(0, deadline - time.monotonic())
            if selector.select(min(left, 1) if watch else left):
                chunk = os.read(process.stdout.fileno(), 65536)
                if not chunk:
                    break
                output.write(chunk)
                output.flush()
            elif left == 0:
                raise TimeoutError
            if watch:
                watch.check()
    process.wait()


def make_panic(process: subprocess.Popen[bytes], monitor: Path) -> None:
    """Let a kernel that hangs say where it is; what does not heed an NMI says nothing."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired), socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(monitor))
        peer.sendall(b"nmi\n")
        process.wait(LAST_WORDS)


def status(report: Path, console: Path) -> int:
    """The command's exit status as the guest's first process wrote it."""
    words = report.read_text().split() if report.exists() else []
    if len(words) != 2:
        raise GuestDeathError(f"the guest ended without a status; {log_end(console)}")
    return int(words[1]) + (128 if words[0] == "signal" else 0)


def log_end(console: Path) -> str:
    tail = console.read_bytes()[-LOG_END:].decode(errors="replace") if console.exists() else ""
    return f"the end of its log:\n{tail}"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="run.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--kernel", choices=PACKAGES, help="a Debian kernel, downloaded into .vm/ the first time"
    )
    which.add_argument("--image", type=Path, metavar="PATH", help="any bootable kernel image")
    parser.add_argument(
        "--modules", type=Path, metavar="DIR", help="the image's modules, .../lib/modules/VERSION"
    )
    parser.add_argument("--share", type=Path, metavar="DIR", help="the folder that the guest writes for you")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="for the command")
    parser.add_argument(
        "--append", default="", metavar="TEXT", help="more of the kernel's command line: lockdown=integrity"
    )
    parser.add_argument("--timeout", type=float, default=600, metavar="SECONDS", help="default: %(default)s")
    parser.add_argument("--memory", type=int, default=2048, metavar="MIB", help="default: %(default)s")
    parser.add_argument("--cpus", type=int, default=2, help="default: %(default)s")
    parser.add_argument("command", nargs="+", metavar="COMMAND")
    options = parser.parse_args(arguments)
    environment = dict(item.partition("=")[::2] for item in options.env)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that all is cleared away
    try:
        kernel = fetch(options.kernel) if options.kernel else Kernel(options.image, options.modules)
        return run(
            kernel,
            options.command,
            share=options.share,
            environment=environment,
            parameters=options.append,
            timeout=options.timeout,
            memory=options.memory,
            cpus=options.cpus,
        )
    except GuestError as error:
        print(f"run.py: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
