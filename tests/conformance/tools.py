"""What becomes of the tools that others wrote in the bpftrace language: each is read, compiled, judged by
the kernel's verifier, and with `--run` run beside what triggers it, here or in a guest.

    python tests/conformance/tools.py /usr/sbin/*.bt
    python tests/vm/run.py --kernel 6.1 -- .venv/bin/python tests/conformance/tools.py /usr/sbin/*.bt
    python tests/conformance/tools.py --run --ours /usr/sbin/opensnoop.bt
    python tests/conformance/tools.py --run --beside bpftrace /usr/sbin/opensnoop.bt

A line a tool: `loads`, `prints` (with `--run`: it printed what it should), `not here` (the kernel lacks a
function, an event or a member that the tool names) or `fails`, with the reason. `--beside` runs the same
with another program, and says whether that prints it too. Exit status: 0 where nothing fails.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kwire.cli.main import main as kwire
from kwire.wire.names import SYSCALLS

KWIRE = [sys.executable, "-m", "kwire.cli.main"]
ATTACHED = "__BPFTRACE_NOTIFY_PROBES_ATTACHED"
NOT_HERE = re.compile(
    r"this kernel has no|no (?:function|tracepoint) matches|no module \w+ is loaded|has no member|"
    r"there is no function|it has no such function|no such (?:file|program)|no file|the kernel has no symbol"
)
"""What is said of what a kernel, or this machine, has not."""

WAITING = ("sh", "-c", 'read go; exec "$@"', "sh")
"""What a trigger waits in until the tool is attached: a line, then it is the trigger."""

SETTLE = 4.0
"""Seconds that a tool has for what its trigger did, before it is asked to end; some print once a second."""

PYTHON = f"exec {sys.executable} -S -c"


class Trigger(NamedTuple):
    """What makes a tool print, and what it prints then, as a regular expression."""

    command: str
    expected: str


TRIGGERS = {
    "bashreadline.bt": Trigger("printf 'echo over\\n' | bash -i 2>/dev/null", r"echo over"),
    "biolatency.bt": Trigger("DISK", r"@usecs: *\n\[.*\|@"),
    "biolatency-kp.bt": Trigger("DISK", r"@usecs: *\n\[.*\|@"),
    "biosnoop.bt": Trigger("DISK", r"^\d+ +loop\d+ +dd +\d+ +\d+"),
    "biostacks.bt": Trigger("DISK", r"@usecs\[ *\n(?:.*\n)*? +\w+\+\d+\n"),
    "bitesize.bt": Trigger("DISK", r"@\[dd\]: *\n\[64K, 128K\) +[4-9] "),
    "capable.bt": Trigger(f"{PYTHON} 'import os; os.setpriority(0, 0, -1)'", r"python\S*\s+23 +CAP_SYS_NICE"),
    "cpuwalk.bt": Trigger(
        f"{PYTHON} 'import time; t = time.time()\nwhile time.time() < t + 1: pass'", r"\[0, 1\)|\[0\]|\[\d"
    ),
    "dcsnoop.bt": Trigger("cat /etc/nowhere-at-all", r"M /?.*nowhere-at-all"),
    "execsnoop.bt": Trigger("exec env A=5 true joined", r"env A=5 true joined"),
    "gethostlatency.bt": Trigger("getent ahosts localhost", r"getent +\d+ localhost"),
    "killsnoop.bt": Trigger("sleep 9 & kill -15 $!; wait", r" (?:15|SIGTERM) +\d+ +0"),
    "loads.bt": Trigger("sleep 2", r"load averages: \d+\.\d{3} \d+\.\d{3} \d+\.\d{3}"),
    "mdflush.bt": Trigger("MD", r"\d +\d+ +dd +md9"),
    "naptime.bt": Trigger("NAP", r"python\S* +0\.250"),
    "oomkill.bt": Trigger(
        "OOM", r'Triggered by PID \d+ \("\w+"\), OOM kill of PID \d+ \("\w+"\), \d+ pages, loadavg: \d'
    ),
    "opensnoop.bt": Trigger("cat /etc/hostname", r"cat +\d+ +0 +/etc/hostname"),
    "pidpersec.bt": Trigger("true; true; sleep 1.5", r"PIDs/sec: @: [1-9]"),
    "runqlat.bt": Trigger("sleep 0.1; sleep 0.1", r"@usecs:"),
    "runqlen.bt": Trigger("sleep 0.3", r"@runqlen:"),
    "setuids.bt": Trigger(f"{PYTHON} 'import os; os.setuid(0)'", r"python\S* +0 +setuid +uid=0 \(0\)"),
    "ssllatency.bt": Trigger("TLS", r"@hist\[SSL_do_handshake\]: *\n\["),
    "sslsnoop.bt": Trigger("TLS", r"python\S* .*(?:handshake|write|read)"),
    "statsnoop.bt": Trigger(f"{PYTHON} 'import os; os.statvfs(\"/tmp\")'", r"/tmp"),
    "swapin.bt": Trigger("SWAP", r"@\[python\S*, \d+\]: \d"),
    "syncsnoop.bt": Trigger("sync", r"sync +tracepoint:syscalls:sys_enter_sync"),
    "syscount.bt": Trigger("cat /etc/hostname", r"@process\[cat\]|cat: \d"),
    "tcpaccept.bt": Trigger("CONNECT", r"127\.0\.0\.1 +\d+ +127\.0\.0\.1"),
    "tcpconnect.bt": Trigger("CONNECT", r"127\.0\.0\.1 +\d+ +127\.0\.0\.1 +\d+"),
    "tcpdrop.bt": Trigger("REFUSE", r"127\.0\.0\.1:\d+ +127\.0\.0\.1:\d+ +LISTEN"),
    "tcplife.bt": Trigger("CONNECT", r"127\.0\.0\.1 +\d+ +127\.0\.0\.1 +\d+"),
    "tcpretrans.bt": Trigger("REFUSE", r"127\.0\.0\.1:\d+ +127\.0\.0\.1:\d+ +SYN_SENT"),
    "tcpsynbl.bt": Trigger("CONNECT", r"@backlog\["),
    "threadsnoop.bt": Trigger("THREAD", r"python"),
    "undump.bt": Trigger("UNIX", r"hello"),
    "vfscount.bt": Trigger("cat /etc/hostname", r"@\[vfs_open\]: \d"),
    "vfsstat.bt": Trigger("cat /etc/hostname; sleep 1.5", r"@\[vfs_open\]: \d"),
    "writeback.bt": Trigger(
        "dd if=/dev/zero of=/tmp/x bs=64k count=9; sync", r"^\d\d:\d\d:\d\d +\S+ +\d+ +sync +\d+\.\d{3}"
    ),
    "xfsdist.bt": Trigger("XFS", r"@us\[xfs_file_\w+\]: *\n\["),
}
NANOSLEEP = SYSCALLS.get(os.uname().machine, {}).get("nanosleep", 35)
MODULES = ("loop", "raid1", "xfs")
"""What tools look into; loaded where the machine is a guest, which is thrown away."""

SHELL = {
    "DISK": """dd if=/dev/zero of=/tmp/disk bs=1M count=4
disk=$(losetup -f --show /tmp/disk)
dd if=$disk of=/dev/null bs=64k count=4 iflag=direct; losetup -d $disk""",
    "XFS": """dd if=/dev/zero of=/tmp/xfs bs=1M count=400
mkfs.xfs -q /tmp/xfs; mkdir -p /tmp/m; mount -o loop /tmp/xfs /tmp/m
dd if=/dev/zero of=/tmp/m/x bs=4k count=9 conv=fsync; cat /tmp/m/x; umount /tmp/m""",
    "MD": """dd if=/dev/zero of=/tmp/md bs=1M count=16; disk=$(losetup -f --show /tmp/md)
mdadm --create /dev/md9 --level=1 --raid-devices=2 --force --run --metadata=1.2 $disk missing
dd if=/dev/zero of=/dev/md9 bs=4k count=4 conv=fsync; mdadm --stop /dev/md9; losetup -d $disk""",
    "SWAP": f"""dd if=/dev/zero of=/tmp/swap bs=1M count=64; chmod 600 /tmp/swap
mkswap /tmp/swap; disk=$(losetup -f --show /tmp/swap); swapon $disk; {sys.executable} -S -c '
import mmap
m = mmap.mmap(-1, 1 << 22)
m.write(bytes(range(256)) * (1 << 14))
m.madvise(21)  # MADV_PAGEOUT
print(m[0], m[1 << 20])'
swapoff $disk; losetup -d $disk""",
}
"""Triggers of several commands, which want root and a machine that may be thrown away."""

PROGRAMS = {
    "NAP": "import ctypes, struct\n"
    f"ctypes.CDLL(None).syscall({NANOSLEEP}, struct.pack('qq', 0, 250_000_000), None)",
    "CONNECT": "import socket; s = socket.create_server(('127.0.0.1', 0))\n"
    "c = socket.create_connection(s.getsockname()); d, _ = s.accept(); c.close(); d.close()",
    "THREAD": "import threading; t = threading.Thread(target=int); t.start(); t.join()",
    "REFUSE": "import socket, time; s = socket.create_server(('127.0.0.1', 0), backlog=0)\n"
    "all = [socket.socket() for _ in range(3)]\n"
    "for one in all: one.setblocking(False); one.connect_ex(s.getsockname())\n"
    "time.sleep(2.5)",
    "TLS": """import ssl, subprocess, tempfile
folder = tempfile.mkdtemp(); key, cert = f"{folder}/key", f"{folder}/cert"
make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=a"]
subprocess.run([*make, "-keyout", key, "-out", cert], check=True)
one, other = ssl.MemoryBIO(), ssl.MemoryBIO()
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); context.load_cert_chain(cert, key)
server = context.wrap_bio(one, other, True)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT); context.check_hostname = False; context.verify_mode = 0
client = context.wrap_bio(other, one)
for side in (client, server, client, server):
    try: side.do_handshake()
    except ssl.SSLWantReadError: pass
client.write(b"hello"); server.read(5)""",
    "OOM": """import os, pathlib, subprocess
root = pathlib.Path("/tmp/cgroup"); root.mkdir(exist_ok=True)
subprocess.run(["mount", "-t", "cgroup2", "none", root])
(root / "cgroup.subtree_control").write_text("+memory")
group = root / "oom"; group.mkdir(exist_ok=True)
(group / "memory.max").write_text("20000000"); (group / "memory.swap.max").write_text("0")
(group / "cgroup.procs").write_text(str(os.getpid())); held = bytearray(1 << 28)""",
    "UNIX": "import socket; a, b = socket.socketpair(); a.send(b'hello'); b.recv(9)",
}


def loads(path: Path) -> tuple[str, str]:
    """What the reader, the compiler and the verifier say of a tool: a word, and why."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        status = kwire(["--dry-run", "--unsafe", str(path)])
    if not status:
        return "loads", ""
    return judged(said.getvalue().splitlines())


def judged(lines: Sequence[str], trigger: Trigger | None = None) -> tuple[str, str]:
    """What it means that a tool said this: that the kernel lacks something, or that it fails."""
    found = [re.sub(r"^.*ERROR: ", "", line) for line in lines if "ERROR: " in line] or lines[-1:]
    missing = bool(found) and all(NOT_HERE.search(line) for line in found)
    if trigger is not None and ATTACHED in lines:
        return "fails", f"it does not print {trigger.expected!r}"
    return ("not here" if missing else "fails"), "; ".join(dict.fromkeys(found)) or "it says nothing"


def runs(
    program: Sequence[str], path: Path, trigger: Trigger, seconds: float, ours: bool = False
) -> tuple[bool, str]:
    """Whether a tool prints what it should once its trigger has run, and what it printed; `ours`: it looks at
    its trigger only.
    """
    environment = {**os.environ, ATTACHED: "1"}
    command = PROGRAMS.get(trigger.command)
    shell = SHELL.get(trigger.command, trigger.command)
    words = [sys.executable, "-S", "-c", command] if command else ["sh", "-c", shell]
    quiet = subprocess.DEVNULL
    with (
        tempfile.TemporaryFile("w+b") as out,
        subprocess.Popen(
            [*WAITING, *words], stdin=subprocess.PIPE, stdout=quiet, stderr=quiet
        ) as trigger_process,
    ):
        tool = subprocess.Popen(
            [*program, *(["-p", str(trigger_process.pid)] if ours else []), str(path)],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        until = time.monotonic() + seconds
        own = program == KWIRE
        started = time.monotonic()
        while tool.poll() is None and time.monotonic() < until:
            text = _text(out)
            ready = ATTACHED in text if own else "Attaching" in text and time.monotonic() > started + 4
            if ready:
                break
            time.sleep(0.05)
        with contextlib.suppress(subprocess.TimeoutExpired):
            trigger_process.communicate(b"\n", timeout=seconds)
        trigger_process.kill()
        done = time.monotonic()
        while time.monotonic() < done + SETTLE and tool.poll() is None:
            if re.search(trigger.expected, _text(out), re.M):
                break
            time.sleep(0.05)
        if tool.poll() is None:
            os.kill(tool.pid, signal.SIGINT)  # what it holds is printed at the end
            try:
                tool.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(tool.pid, signal.SIGKILL)
        text = _text(out)
    return bool(re.search(trigger.expected, text, re.M)), text


def _text(file: io.BufferedRandom) -> str:
    os.lseek(file.fileno(), 0, os.SEEK_SET)
    data = b""
    while chunk := os.read(file.fileno(), 1 << 16):
        data += chunk
    return data.decode("utf-8", "backslashreplace")


def main() -> int:
    """A line a tool, and the sums."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("tools", nargs="+", type=Path)
    parser.add_argument("--run", action="store_true", help="run those that load beside what triggers them")
    parser.add_argument("--ours", action="store_true", help="with --run: attach to the trigger only, -p")
    parser.add_argument("--beside", metavar="PROGRAM", help="with --run: another program that runs them, too")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long one may take")
    parser.add_argument("-v", "--verbose", action="store_true", help="show what tools print")
    args = parser.parse_args()
    if "VM_SHARE" in os.environ:
        for module in MODULES:
            subprocess.run(["modprobe", module], check=False)
    sums: Counter[str] = Counter()
    for path in args.tools:
        trigger = TRIGGERS.get(path.name) if args.run else None
        if trigger is None:
            word, why = loads(path)
        else:
            well, text = runs(KWIRE, path, trigger, args.seconds, args.ours)
            word, why = ("prints", "") if well else judged(text.splitlines(), trigger)
            if args.beside:
                other, more = runs([args.beside], path, trigger, args.seconds)
                why += f" ({args.beside}: {'prints it, too' if other else 'does not'})"
                text += f"\n--- {args.beside}:\n{more}" * args.verbose
            if args.verbose:
                why += "".join(f"\n    {line}" for line in text.splitlines()[-20:])
        sums[word] += 1
        print(f"{path.name}: {word}{why and ': '}{why}", flush=True)
    print(", ".join(f"{count} {word}" for word, count in sorted(sums.items())))
    return 1 if sums["fails"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
