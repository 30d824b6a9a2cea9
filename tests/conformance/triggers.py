"""What triggers each tool that others wrote, and each of our own, and what the tool prints then.

Data for tools.py. A trigger is a shell command, or the name of a longer one below. What a tool prints of it
is a regular expression, and so is what two programs that run the tool at once have to agree on: processes,
names, sizes, counts and addresses. Times differ, as one program sees what the other does to the kernel.
"""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

from kwire.wire.names import SYSCALLS

PYTHON = f"exec {sys.executable} -S -c"
MODULES = ("loop", "raid1", "xfs")
"""What tools look into; loaded where the machine is a guest, which is thrown away."""


class Trigger(NamedTuple):
    """What makes a tool print, and what it prints then.

    `expected` is found in it; `same` finds what another program has to print, too, in any order, or, with
    `sums`, the numbers whose sum both have to print. Nothing is compared where `same` is empty.
    """

    command: str
    expected: str
    same: str = ""
    sums: bool = False


ROW = r"^\[.*?\) +(\d+) \|"
"""A row of a histogram, of which the number is compared."""
STACK = r"^ {4}(\w[\w.]*\+\d+)$"
"""A line of a stack."""
TCP = r"127\.0\.0\.1"

TRIGGERS = {
    "bashreadline.bt": Trigger(
        "printf 'echo over\\n' | bash -i 2>/dev/null", r"echo over", r"^\S+ +(\d+ +echo over)$"
    ),
    "biolatency.bt": Trigger("DISK", r"@usecs: *\n\[.*\|@", ROW, sums=True),
    "biolatency-kp.bt": Trigger("DISK", r"@usecs: *\n\[.*\|@", ROW, sums=True),
    "biosnoop.bt": Trigger(
        "DISK",
        r"^\d+ +(?:loop\d+|7 +\d+) +dd +\d+ +\d+",
        r"^\d+ +((?:loop\d+|7 +\d+) +dd +\d+) +\d+$",
    ),
    "biostacks.bt": Trigger("DISK", r"@usecs\[ *\n(?:.*\n)*? +\w+\+\d+\n", STACK),
    "bitesize.bt": Trigger("DISK", r"@\[dd\]: *\n\[64K, 128K\) +[4-9] ", r"@\[dd\]: *\n((?:\[.*\n)+)"),
    "capable.bt": Trigger(
        f"{PYTHON} 'import os; os.setpriority(0, 0, -1)'",
        r"python\S*\s+23 +CAP_SYS_NICE",
        r"^\S+ +(\d+ +\d+ +python\S*\s+23 +CAP_SYS_NICE.*)$",
    ),
    "cpuwalk.bt": Trigger(
        f"{PYTHON} 'import time; t = time.time()\nwhile time.time() < t + 1: pass'",
        r"@cpu: *\n\[[01](?:, [12]\)|\]) +\d+ \|@",
    ),
    "dcsnoop.bt": Trigger(
        "cat /etc/nowhere-at-all$$",
        r"M /?.*nowhere-at-all",
        r"^\d+ +(\d+ +cat +[MR] +.*nowhere-at-all\d+)$",
    ),
    "execsnoop.bt": Trigger(
        "exec env A=5 true joined", r"env A=5 true joined", r"^ *[\d:.]+ +(\d+ .*(?:env|true) .*)$"
    ),
    "gethostlatency.bt": Trigger(
        "getent ahosts localhost",
        r"getent +\d+ localhost",
        r"^\S+ +(\d+ +getent) +\d+ (localhost)$",
    ),
    "killsnoop.bt": Trigger(
        "sleep 9 & kill -15 $!; wait", r" (?:15|SIGTERM) +\d+ +0", r"^\S+ +(\d+ +sh +(?:15|SIGTERM) .*)$"
    ),
    "loads.bt": Trigger("sleep 2", r"load averages: \d+\.\d{3} \d+\.\d{3} \d+\.\d{3}"),
    "mdflush.bt": Trigger("MD", r"\d +\d+ +dd +md9", r"^\S+ +(\d+ +dd +md9)$"),
    "naptime.bt": Trigger("NAP", r"python\S* +0\.250", r"^\S+ +(\d+ +\S+ +\d+ +python\S* +0\.250)$"),
    "oomkill.bt": Trigger(
        "OOM",
        r'Triggered by PID \d+ \("\w+"\), (?:CGROUP \d+ .*)?OOM kill of PID \d+ \("\w+"\), \d+ pages, '
        r"loadavg: \d",
        r"^\S+ (Triggered by PID .* pages, loadavg:)",
    ),
    "opensnoop.bt": Trigger(
        "cat /etc/hostname /nowhere", r"cat +\d+ +0 +/etc/hostname", r"^(\d+ +cat +-?\d+ +\d+ .*)$"
    ),
    "pidpersec.bt": Trigger("true; true; sleep 1.5", r"PIDs/sec: @: [1-9]"),
    "runqlat.bt": Trigger("sleep 0.1; sleep 0.1", r"@usecs: *\n\[.*\|"),
    "runqlen.bt": Trigger("sleep 0.3", r"@runqlen: *\n\[0(?:, 1\)|\]) +\d+ \|"),
    "setuids.bt": Trigger(
        f"{PYTHON} 'import os; os.setuid(0); os.setresuid(1, 2, -1)'",
        r"python\S* +0 +setuid +uid=0 \(0\)",
        r"^\S+ +(\d+ +python\S* +\d+ +set.*)$",
    ),
    "ssllatency.bt": Trigger(
        "TLS", r"@hist\[SSL_do_handshake\]: *\n\[", r"^@(hist\w*\[\w+\]|stat\w*\[\w+\]: count \d+)"
    ),
    "sslsnoop.bt": Trigger(
        "TLS", r"python\S* .*(?:handshake|write|read)", r"^\d+ +(\d+ +python\S*) +\d+ +(-?\d+ \w+)$"
    ),
    "statsnoop.bt": Trigger(
        f'{PYTHON} \'import os; os.statvfs("/tmp"); os.stat("/etc"); os.path.exists("/nowhere")\'',
        r"python\S* +0 /tmp",
        r"^(\d+ +python\S* +\d+ (?:/tmp|/etc|/nowhere))$",
    ),
    "swapin.bt": Trigger("SWAP", r"@\[python\S*, \d+\]: \d", r"^@\[python\S*, \d+\]: (\d+)$", sums=True),
    "syncsnoop.bt": Trigger(
        "sync", r"sync +tracepoint:syscalls:sys_enter_sync", r"^\S+ +(\d+ +sync +tracepoint:syscalls:.*)$"
    ),
    "syscount.bt": Trigger("cat /etc/hostname", r"@process\[cat\]: \d+", r"^(@process\[cat\]: \d+)$"),
    "tcpaccept.bt": Trigger("CONNECT", rf"{TCP} +\d+ +{TCP}", rf"^\S+ +(\d+ .*{TCP}.*)$"),
    "tcpconnect.bt": Trigger("CONNECT", rf"{TCP} +\d+ +{TCP} +\d+", rf"^\S+ +(\d+ .*{TCP}.*)$"),
    "tcpdrop.bt": Trigger("DROP", rf"{TCP}:\d+ +{TCP}:\d+ +SYN_SENT", rf"^\S+ (\d+ +.*{TCP}.*)$|{STACK}"),
    "tcplife.bt": Trigger("CONNECT", rf"{TCP} +\d+ +{TCP} +\d+", rf"^(.*{TCP}.*) \d+$"),
    "tcpretrans.bt": Trigger("REFUSE", rf"{TCP}:\d+ +{TCP}:\d+ +SYN_SENT", rf"^\S+ (\d+ +.*{TCP}.*)$"),
    "tcpsynbl.bt": Trigger("CONNECT", r"@backlog\[\d+\]: *\n\[", r"(@backlog\[\d+\]:) *\n((?:\[.*\n)+)"),
    "threadsnoop.bt": Trigger("THREAD", r"python", r"^\S+ +(\d+ +python\S* +.*)$"),
    "undump.bt": Trigger("UNIX", r"hello", r"^\S+ (python\S* +\d+ +\d+ +.*hello.*)$"),
    "vfscount.bt": Trigger(
        "FOLDERS", r"@\[vfs_mkdir\]: \d", r"^(@\[vfs_(?:mkdir|rmdir|symlink|rename|link)\]: \d+)$"
    ),
    "vfsstat.bt": Trigger(
        "dd if=/dev/zero of=/tmp/fsync bs=4k count=1 conv=fsync; sleep 1.5",
        r"@\[vfs_open\]: \d",
        r"^@\[vfs_fsync\]: (\d+)$",
        sums=True,
    ),
    "writeback.bt": Trigger(
        "WRITEBACK",
        r"^\d\d:\d\d:\d\d +\S+ +\d+ +sync +\d+\.\d{3}",
        r"^\S+ +(\S+ +\d+ +sync) +[\d.]+$",
    ),
    "xfsdist.bt": Trigger("XFS", r"@us\[xfs_file_\w+\]: *\n\[", r"^(@us\[xfs_file_\w+\]):"),
}
"""Tools of bpftrace's repository, and what those of its release 0.17 and those of its newest print."""

TRIGGERS["biosnoop-pre-5.17.bt"] = TRIGGERS["biosnoop-pre-6.4.bt"] = TRIGGERS["biosnoop.bt"]

OWN = {
    "opens": Trigger("cat /etc/hostname", r"^\d+ +cat +\d+ +0 /etc/hostname$"),
    "execs": Trigger("exec env A=5 true joined", r"env A=5 true joined"),
    "files --slow 0": Trigger(
        "dd if=/dev/zero of=/tmp/x bs=1000 count=3 conv=fsync", r"^\d+ +dd +write +1000 +\d+ x$"
    ),
    "connects": Trigger("CONNECT", rf"source={TCP} destination={TCP} dport=\d+"),
    "accepts": Trigger("CONNECT", rf"client={TCP} client_port=\d+"),
    "tcplife": Trigger("CONNECT", rf"{TCP} +\d+ +{TCP} +\d+"),
    "retransmits": Trigger("REFUSE", r"state=TCP_SYN_SENT"),
    "drops": Trigger(
        f'{PYTHON} \'import socket; a = ("127.0.0.1", 9); socket.socket(2, 2).sendto(b"x", a)\'',
        r"reason=SKB_DROP_REASON_NO_SOCKET",
    ),
    "syscalls": Trigger(
        "cat /nowhere", r"@calls\[execve\]: \d+\n(.|\n)*@errors\[openat, No such file or directory\]"
    ),
    "syslat": Trigger("NAP", r"@us\[nanosleep\]: \{ \.count = 1, \.average = \d{6},"),
    "runqlat": Trigger("sleep 0.1; sleep 0.1", r"^@us:\n\["),
    "oncpu": Trigger(
        f"{PYTHON} 'import time; t = time.time()\nwhile time.time() < t + 1: pass'",
        r"@samples\[python\S*, \n",
    ),
    "offcpu": Trigger("NAP", r"^@us\[python\S*, \n(?: .*\n|, \n)*? +do_nanosleep\+\d+\n"),
    "blocklat --each": Trigger("DISK", r"^\d+ +dd +7:\d+ +R\w* +\d+ +65536 +\d+$"),
}
"""`kwire tools` with the options that stand behind the name."""

NANOSLEEP = SYSCALLS.get(os.uname().machine, {}).get("nanosleep", 35)

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
import mmap, time
m = mmap.mmap(-1, 1 << 22, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
m.write(bytes(range(256)) * (1 << 14))
for _ in range(3):  # pages that were just written out stay in memory; clean ones do not
    m.madvise(21)  # MADV_PAGEOUT
    time.sleep(1)
    print(sum(m[::4096]))'
swapoff $disk; losetup -d $disk""",
    "DROP": f"""tc qdisc add dev lo root pfifo limit 0
{sys.executable} -S -c 'import socket
s = socket.socket(); s.setblocking(False); s.connect_ex(("127.0.0.1", 9))'
tc qdisc del dev lo root""",
    "FOLDERS": """cd $(mktemp -d); mkdir a b; ln -s a c; : > d; ln d e; mv a f; rmdir f b""",
    "WRITEBACK": """dd if=/dev/zero of=/tmp/ext4 bs=1M count=16; mkfs.ext4 -q -F /tmp/ext4; mkdir -p /tmp/m
mount -o loop /tmp/ext4 /tmp/m; dd if=/dev/zero of=/tmp/m/x bs=64k count=9; sync; umount /tmp/m""",
}
"""Triggers of several commands; those but FOLDERS want root and a machine that may be thrown away."""

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
"""Triggers in Python."""


def words(trigger: Trigger) -> list[str]:
    """The command line of a trigger."""
    if trigger.command in PROGRAMS:
        return [sys.executable, "-S", "-c", PROGRAMS[trigger.command]]
    return ["sh", "-c", SHELL.get(trigger.command, trigger.command)]
