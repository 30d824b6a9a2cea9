#!/usr/bin/env python3
"""How long generated programs are: 40 probes of ours, and what peers make of some of them.

    bench/codegen.py [--save FILE] [--against FILE] [--ns]
    bench/codegen.py --tools /usr/sbin/*.bt
    python tests/vm/run.py --kernel 6.12 -- .venv/bin/python bench/codegen.py --runs

For each probe: instructions of the program, of one run (in the interpreter, on memory that can all be read),
and what the kernel's verifier looks at to accept it. `--ns`: nanoseconds of a run in this kernel, for the raw
tracepoints, which can be run without attaching them. `--save` keeps the figures, `--against` shows what has
changed since. With bpftrace and clang installed, their instructions for the same probes stand beside ours.

`--tools`: of scripts in the bpftrace language, the instructions of all different programs of each, ours and
bpftrace's (of `--emit-elf`), and the geometric mean of ours over bpftrace's. Where one makes fewer programs
than the other, of several places, the mean of a program counts. Nothing is attached or loaded, so a kernel
without kprobes will do; functions are taken for there where the kernel's types have them.

`--runs`: nanoseconds that the kernel's statistics say of a run of small scripts, ours and bpftrace's, both
attached at once to what one process does, in turns, and the geometric mean of ours over bpftrace's.
"""

import argparse
import contextlib
import json
import math
import os
import re
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from kwire.bpf import vm
from kwire.bpf.arch import host
from kwire.bpf.image import Image
from kwire.bpf.task import TaskFields
from kwire.btf.store import load_kernel
from kwire.compile.build import Compiled, compile_probe, task_fields
from kwire.errors import KwireError
from kwire.kernel import features, prog, tracefs
from kwire.kernel.maps import Map
from kwire.kernel.sys import bpf, info, try_bpf
from kwire.kernel.syscall import Fd
from kwire.lang import attach_points, python, record, spec
from kwire.lang.bpftrace.reader import read
from kwire.lang.check import check
from kwire.lang.context import Site
from kwire.lang.kerneltypes import KernelTypes
from kwire.live.scripts import plan_script

SPECS = """
tracepoint:sched:sched_switch
tracepoint:sched:sched_switch(prev_pid, next_pid)
tracepoint:sched:sched_switch{prev_state != 0}
tracepoint:sched:sched_wakeup(target_pid=args.pid, prio=args.prio)
tracepoint:syscalls:sys_enter_openat
tracepoint:syscalls:sys_enter_openat{str(filename, 5) == "/etc/"}
tracepoint:syscalls:sys_enter_openat{filename ~ "*.so*"}
tracepoint:syscalls:sys_enter_write(fd, count)
tracepoint:syscalls:sys_exit_read(ret){ret > 0}
tracepoint:syscalls:sys_enter_getppid
tracepoint:syscalls:sys_enter_execve
tracepoint:block:block_rq_issue
tracepoint:irq:softirq_entry
tracepoint:net:netif_receive_skb
tracepoint:skb:kfree_skb
tracepoint:tcp:tcp_probe
tracepoint:sock:inet_sock_set_state
tracepoint:sock:inet_sock_set_state{newstate == 1 and dport == 443}
tracepoint:kmem:kmalloc(bytes_alloc, bytes_req){bytes_alloc > 4096}
tracepoint:raw_syscalls:sys_enter
rawtracepoint:sched_switch(prev.pid, next=next.pid)
rawtracepoint:sched_switch(prev.comm, next_comm=next.comm)
rawtracepoint:sched_process_exec(task=p.pid, name=str(bprm.filename))
rawtracepoint:sys_enter(id){id == 257}
rawtracepoint:sched_wakeup(p.pid, p.prio, p.static_prio, p.normal_prio)
rawtracepoint:kfree_skb(skb.len, skb.data_len, location)
rawtracepoint:netif_receive_skb(skb.len, skb.protocol, dev=skb.dev.name)
rawtracepoint:tcp_probe(sk.__sk_common.skc_dport, sk.sk_rcvbuf, sk.sk_sndbuf)
rawtracepoint:block_rq_issue(rq.__sector, rq.__data_len, flags=rq.cmd_flags)
rawtracepoint:sched_switch(a=prev.flags & 2 != 0, b=prev.flags & 4 != 0, c=prev.pid > 1000, d=next.pid // 3)
kprobe:tcp_connect(port=be16(sk.__sk_common.skc_dport), to=ipv4(sk.__sk_common.skc_daddr))
kprobe:vfs_read(file.f_pos, count)
kprobe:do_sys_openat2(name=str(filename, 64))
kretprobe:vfs_read(retval)
kprobe:tcp_sendmsg(size, sk.__sk_common.skc_num, sk.__sk_common.skc_family)
"""

FUNCTIONS = """
import kwire

@kwire.kprobe("tcp_sendmsg")
def sent(sk, msg, size):
    common = sk.__sk_common
    if common.skc_family == 2:
        emit(size, sport=common.skc_num, dport=be16(common.skc_dport), to=ipv4(common.skc_daddr))

@kwire.kprobe("vfs_write")
def written(file, buf, count):
    if count >= 4096 and file.f_pos == 0:
        emit(pid, comm, count, name=str(file.f_path.dentry.d_name.name))
    elif count > 100:
        emit(pid, comm, count, name=str(file.f_path.dentry.d_name.name))

@kwire.raw_tracepoint("sched_switch")
def switched(preempt, prev, next):
    kind = 1 if prev.prio < 100 else 2 if prev.prio == 120 else 3
    if prev.pid != 0 or next.pid != 0:
        emit(kind, prev.pid, prev.comm, next=next.pid, same=prev.tgid == next.tgid)

@kwire.raw_tracepoint("sched_process_fork")
def forked(parent, child):
    emit(parent.pid, child=child.pid, mm=child.mm, start=child.start_time, data=bytes(child.comm, 16))

@kwire.tracepoint("sched:sched_switch")
def several(prev_pid, next_pid, prev_prio, prev_state):
    if prev_pid == 0:
        return
    if prev_state == 0:
        emit(prev_pid, next_pid, why=1)
    elif prev_prio < 100:
        emit(prev_pid, next_pid, why=2)
    else:
        emit(prev_pid, next_pid, why=3)
"""

BLOCK = 1 << 16


def site_of(kind: str, group: str, name: str, types: KernelTypes) -> Site:
    """The attach point, on this kernel."""
    if kind == "tracepoint":
        return attach_points.tracepoint(group, name, tracefs.shared().format(group, name).fields, types)
    if kind == "rawtracepoint":
        return attach_points.raw_tracepoint(name, types)
    return attach_points.function(kind, name, types, group or None, 0, host().machine)


def programs() -> dict[str, Any]:
    """Every probe checked, by its text."""
    types = KernelTypes(load_kernel())
    found = {}
    for line in SPECS.split("\n"):
        if not line:
            continue
        parsed = spec.parse(line)
        site = site_of(parsed.point.kind, parsed.point.group, parsed.point.name, types)
        found[line] = record.program(site, types, parsed.expressions, parsed.source, parsed.condition)
    for probe in python.parse_file(FUNCTIONS, "probes.py"):
        point = probe.attach[0]
        site = site_of(point.kind, point.group, point.name, types)
        found[f"def {probe.name} on {point}"] = check(probe, site, types)
    return found


def built(program: Any, task: TaskFields | None) -> Compiled:
    """As a trace of one probe compiles it."""
    cpus = os.cpu_count() or 1
    return compile_probe(program, id=1, spec="x", probes=1, cpus=cpus, tasks=False, arch=host(), task=task)


def one_run(program: Any) -> int:
    """Instructions of one run, with all memory readable and full of pointers to itself."""
    image = built(program, TaskFields(8, 12, 16, 32, 40, 48)).image
    memory = vm.Memory()
    base = memory.kernel(bytes(BLOCK)) + BLOCK // 2
    memory.put(base - BLOCK // 2, struct.pack("<Q", base) * (BLOCK // 8))
    machine = vm.Machine(image, memory=memory, comm="codegen")
    machine.env.task = machine.space.add(
        bytearray(struct.pack("<QQ16s3Q", 7, 7, b"codegen", 1, base, base)), "task", writable=False
    ).base
    context = vm.registers([base] * 6, retval=base) if "probe" in image.kind else b""
    if not context:
        context = vm.arguments([base] * 5000)
    return machine.run(context).steps


@cache
def readable() -> int:
    """The address of a kernel structure, so that reads in what arguments point to succeed; 0 without one."""
    for line in Path("/proc/kallsyms").read_text().splitlines():
        if line.endswith(" init_task"):
            return int(line.split()[0], 16)
    return 0


def in_kernel(image: Image, ns: bool) -> tuple[int, int]:
    """What the verifier looks at, and nanoseconds of a run (0: not measured)."""
    maps = {one.name: Map.create(one) for one in image.maps}
    ring = next((one.inner for one in image.maps if one.inner is not None), None)
    try:
        if ring is not None:
            ring_map = maps["ring"] = Map.create(ring)
            for cpu in range(os.cpu_count() or 1):
                maps["rings"].update(struct.pack("<I", cpu), ring_map.fd)
        with prog.load(image, maps) as loaded:
            verified = loaded.info().insns
            if not ns or image.kind != "rawtracepoint":
                return verified, 0
            context = vm.arguments([readable()] * 8)
            for _ in range(2000):
                loaded.test_run(context=context)
            before = loaded.info()
            for _ in range(20000):
                loaded.test_run(context=context)
            after = loaded.info()
            runs = after.run_count - before.run_count
            return verified, round((after.run_ns - before.run_ns) / max(runs, 1))
    finally:
        for one in maps.values():
            one.close()


def by_bpftrace(text: str) -> int:
    """Instructions of bpftrace's program for a probe, 0 where it has none."""
    run = subprocess.run(["bpftrace", "-v", "-d", "-e", text], capture_output=True, text=True, check=False)
    found = re.findall(r"^\s*(\d+): ", run.stdout + run.stderr, re.M)
    return int(found[-1]) + 1 if found else 0


PEERS = {
    "rawtracepoint:sys_enter(id){id == 257}": "rawtracepoint:sys_enter /arg1 == 257/"
    ' { printf("%d %d %s %d", cpu, pid, comm, arg1); }',
    "tracepoint:sched:sched_switch(prev_pid, next_pid)": "tracepoint:sched:sched_switch"
    ' { printf("%d %d %s %d %d", cpu, pid, comm, args->prev_pid, args->next_pid); }',
}

C = """
typedef unsigned long long u64; typedef unsigned int u32;
static u64 (*pid_tgid)(void) = (void *)14; static long (*comm)(void *, u32) = (void *)16;
static u64 (*ktime)(void) = (void *)5; static u32 (*cpu)(void) = (void *)8;
static long (*out)(void *, void *, u64, u64) = (void *)130;
struct { int (*type)[27]; int (*max_entries)[1 << 20]; } ring __attribute__((section(".maps")));
struct event { u64 head, time; u32 pid, tid, cpu, id; char comm[16]; };
__attribute__((section("raw_tp/sys_enter"), used)) int probe(u64 *ctx)
{
    if (ctx[1] != 257) return 0;
    struct event e = { 1, ktime(), pid_tgid() >> 32, pid_tgid(), cpu(), ctx[1] };
    comm(e.comm, 16);
    out(&ring, &e, sizeof e, 0);
    return 0;
}
"""


def by_clang() -> int:
    """Instructions of clang's program for `sys_enter(id){id == 257}`, without counters; 0 without clang."""
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder, "x.c"), Path(folder, "x.o")
        source.write_text(C)
        command = ["clang", "-O2", "-target", "bpf", "-S", "-o", str(made), "-c", str(source)]
        if subprocess.run(command, check=False).returncode:
            return 0
        return sum(
            line.startswith("\t") and not line.startswith("\t.") for line in made.read_text().splitlines()
        )


READS = "kprobe:vfs_read"
OPENS = "tracepoint:syscalls:sys_enter_openat"
RUNS = {
    "count": READS + " { @ = count(); }",
    "count by number": READS + " { @[pid] = count(); }",
    "count by name": READS + " { @[comm] = count(); }",
    "sum by address": READS + " { @[arg0] = sum(arg2); }",
    "histogram": READS + " { @ = hist(arg2); }",
    "latency": READS + " { @t[tid] = nsecs; } kretprobe:vfs_read /@t[tid]/"
    " { @ns = hist(nsecs - @t[tid]); delete(@t[tid]); }",
    "members": READS + " { @[((struct file *)arg0)->f_inode->i_sb->s_magic] = count(); }",
    "print numbers": READS + ' { printf("%d %d %d\\n", pid, tid, arg2); }',
    "print a name": READS + ' { printf("%d %s\\n", pid, comm); }',
    "print a text": OPENS + ' { printf("%d %s\\n", pid, str(args->filename)); }',
    "count by text": OPENS + " { @[str(args->filename)] = count(); }",
}
"""Scripts whose runs are measured."""

ACTIVITY = """
import os
for _ in range(COUNT):
    fd = os.open("/dev/zero", os.O_RDONLY)
    os.read(fd, 64)
    os.close(fd)
"""


def loaded() -> set[int]:
    """The ids of all programs in the kernel."""
    found: set[int] = set()
    number = 0
    while True:
        _, error, attr = try_bpf("prog_get_next_id", id=number)
        if error:
            return found
        number = attr["next_id"]
        found.add(number)


def spent(ids: set[int]) -> tuple[int, int]:
    """Nanoseconds and runs of programs together; of runs those of the program that had most."""
    ns, runs = 0, 0
    for number in ids:
        with Fd(bpf("prog_get_fd_by_id", id=number)) as fd:
            told, _ = info("prog", fd.fd)
        ns, runs = ns + told["run_time_ns"], max(runs, told["run_cnt"])
    return ns, runs


@contextlib.contextmanager
def attached(command: list[str], environment: dict[str, str]) -> Iterator[set[int]]:
    """The programs of a tool that has attached its probes, while it runs: they have run."""
    before = loaded()
    known: set[int] = set()
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said, env=environment) as tool,
    ):
        try:
            while True:
                subprocess.run(activity(10), check=True)
                ids, known = known, loaded() - before
                if ids and ids == known and all(spent({one})[1] for one in ids):  # none that is only tried
                    break
                if tool.poll() is not None:
                    said.seek(0)
                    raise SystemExit(f"{' '.join(command)}: {said.read().decode()}")
            yield ids
        finally:
            tool.send_signal(signal.SIGINT)


def activity(count: int) -> list[str]:
    """The command that opens, reads and closes a file so often."""
    return [sys.executable, "-S", "-c", ACTIVITY.replace("COUNT", str(count))]


def runs(count: int, rounds: int) -> None:
    """Print what a run of each script costs, ours and bpftrace's."""
    from common import KWIRE, bpftrace_environment, mount_tracefs, workspace

    mount_tracefs()
    stats = bpf("enable_stats", type=0)
    parts = []
    print(f"{'ours':>6} {'theirs':>6} {'part':>6}  script, ns a run, best of {rounds}")
    with workspace() as folder:
        peer = bpftrace_environment(folder)
        for name, text in RUNS.items():
            ours: list[float] = []
            theirs: list[float] = []
            with (
                attached([KWIRE, "-e", text], {**os.environ}) as own,
                attached(["bpftrace", "-e", text], peer) as others,
            ):
                for _ in range(rounds):
                    before = spent(own), spent(others)
                    subprocess.run(activity(count), check=True)
                    for into, (ns, n), ids in zip((ours, theirs), before, (own, others), strict=True):
                        now = spent(ids)
                        into.append((now[0] - ns) / max(now[1] - n, 1))
            parts.append(min(ours) / min(theirs))
            print(f"{min(ours):>6.0f} {min(theirs):>6.0f} {parts[-1]:>6.2f}  {name}", flush=True)
    os.close(stats)
    print(f"{math.exp(statistics.mean(map(math.log, parts))):>20.2f}  geometric mean of {len(parts)}")


SECTION = struct.Struct("<IIQQQQ")
"""The head of an ELF section: name, type, flags, address, offset, size."""


def programs_of(elf: bytes) -> list[bytes]:
    """The programs in an object file of bpftrace, each once."""
    start, size, count, names = struct.unpack_from("<Q", elf, 40)[0], *struct.unpack_from("<HHH", elf, 58)
    sections = [SECTION.unpack_from(elf, start + at * size) for at in range(count)]
    texts = sections[names][4]
    found = {}
    for name, _, _, _, offset, length in sections:
        title = elf[texts + name : elf.index(b"\0", texts + name)]
        if title.startswith(b"s_") and length:
            found[elf[offset : offset + length]] = title
    return list(found)


def of_tool(path: str) -> tuple[list[int], list[int]]:
    """Instructions of our programs and of bpftrace's for a tool. KwireError; ValueError where it has none."""
    from common import bpftrace_environment, workspace

    text = Path(path).read_text()
    ours = [len(group.image.code) // 8 for group in plan_script(read(path, text), unsafe=True).plan.groups]
    with workspace() as folder:
        made = folder / "x.o"
        command = ["bpftrace", "--unsafe", "--emit-elf", str(made), path]
        environment = {**bpftrace_environment(folder), "BPFTRACE_MAX_PROBES": "5000"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if not made.exists():
            raise ValueError(done.stderr.strip().splitlines()[-1])
        return ours, [len(one) // 8 for one in programs_of(made.read_bytes())]


def tools(paths: list[str]) -> None:
    """Print what tools come to, beside bpftrace."""

    def mechanism(kind: str, count: int = 1) -> str:
        """As where there are kprobes."""
        if kind.startswith("u"):
            return "uprobe"
        return "kprobe.multi" if count > 1 else "kprobe"

    features.mechanism = mechanism
    parts = []
    print(f"{'ours':>6} {'programs':>8} {'theirs':>6} {'programs':>8} {'part':>6}  tool")
    for path in paths:
        name = os.path.basename(path)
        try:
            ours, theirs = of_tool(path)
        except (KwireError, ValueError) as error:
            print(f"{'':38}  {name}: {error}")
            continue
        same = len(ours) == len(theirs)
        part = sum(ours) / sum(theirs) if same else statistics.mean(ours) / statistics.mean(theirs)
        parts.append(part)
        print(f"{sum(ours):>6} {len(ours):>8} {sum(theirs):>6} {len(theirs):>8} {part:>6.2f}  {name}")
    mean = math.exp(statistics.mean(map(math.log, parts)))
    print(f"{'':31} {mean:>6.2f}  geometric mean of {len(parts)}")


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save")
    parser.add_argument("--against")
    parser.add_argument("--ns", action="store_true")
    parser.add_argument("--tools", nargs="+", metavar="FILE.bt")
    parser.add_argument("--runs", action="store_true")
    parser.add_argument("--count", type=int, default=2000, help="with --runs: how often a file is read")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if args.runs:
        runs(args.count, args.rounds)
        return
    if args.tools:
        tools(args.tools)
        return
    old = json.loads(Path(args.against).read_text()) if args.against else {}
    stats = bpf("enable_stats", type=0) if args.ns else -1
    task = task_fields(load_kernel().vmlinux)
    figures: dict[str, list[int]] = {}
    for name, program in programs().items():
        image = built(program, task).image
        verified, ns = in_kernel(image, args.ns)
        figures[name] = [len(image.code) // 8, one_run(program), verified, ns]
    if stats >= 0:
        os.close(stats)
    print(f"{'length':>12} {'one run':>12} {'verified':>12} {'ns':>10}  probe")
    sums = [[0, 0] for _ in range(4)]
    for name, row in figures.items():
        was = old.get(name, row)
        for total, now, before in zip(sums, row, was, strict=True):
            total[0], total[1] = total[0] + now, total[1] + before
        print(*(_cell(now, before) for now, before in zip(row, was, strict=True)), "", name)
    print(*(_cell(now, before) for now, before in sums), "", f"all {len(figures)}")
    if args.save:
        Path(args.save).write_text(json.dumps(figures, indent=1))
    from common import have

    for name, text in PEERS.items() if have("bpftrace") else ():
        print(f"bpftrace: {by_bpftrace(text)} instructions for {name}")
    if have("clang"):
        print(f"clang: {by_clang()} instructions for {next(iter(PEERS))}")


def _cell(now: int, before: int) -> str:
    return f"{now:>6}{f'{now - before:+}' if now != before else '':>6}"


if __name__ == "__main__":
    main()
