"""Probes that are right, and exactly what the checker makes of them, in the form of `shown_tree.program`."""

from __future__ import annotations

import textwrap
from collections.abc import Callable

import pytest
import shown_tree

from kwire.lang.checked import Program

# (attach point, probe, checked program without its first line). A line that begins with | goes on the last.
PROGRAMS = [
    (
        "kprobe:connect",
        """
        def f(sk): emit(sk.common.daddr)
        """,
        """
        event daddr: u32
        emit u32[arg0]
        """,
    ),
    (
        "kprobe:connect",
        """
        def f(sk): emit(pid, tid, uid, gid, comm, cpu, nsecs, cgroup, curtask, func, ppid)
        """,
        """
        event pid: u32, tid: u32, uid: u32, gid: u32, comm: text up to 15 bytes, cpu: u16, nsecs:
        | u64, cgroup: u64, curtask: struct task_struct *, func: ksym, ppid: s32
        emit pid, tid, uid, gid, comm, cpu, nsecs, cgroup, curtask, func, s32[struct task_struct
        | *[curtask+8]]
        """,
    ),
    (
        "kprobe:connect",
        """
        def f(sk):
            emit(
                a=sk.table[1].dport, b=sk.table[1].v6[3], c=sk.common.up.prio,
                d=sk.common.up.common.up.cookie
            )
        """,
        """
        event a: u16, b: u8, c: s32, d: u64
        emit u16[arg0+148], u8[arg0+155], s32[struct sock *[arg0+32]+40], u64[struct sock *[struct
        | sock *[arg0+32]+32]+48]
        """,
    ),
    (
        "kprobe:connect",
        """
        def f(sk): emit(reuse=sk.common.reuse, reuseport=sk.common.reuseport, depth=sk.common.depth)
        """,
        """
        event reuse: u8, reuseport: u8, depth: s32
        emit u8[arg0+7].0:4, u8[arg0+7].4:1, s32[arg0+24].0:12
        """,
    ),
    (
        "kprobe:connect",
        """
        def f(sk, name, flags):
            emit(
                one=sk.counts[flags], two=sk.table[flags & 1].v6[flags], three=sk.stamps[flags],
                four=sk.stamps[2], five=deref(sk.stamps)
            )
        """,
        """
        event one: u32, two: u8, three: u64, four: u64, five: u64
        emit u32[arg0+88{arg2.s32*4<4}], u8[arg0+112{(arg2.s32 & 1)*40<2}{arg2.s32*1<16}], u64[u64
        | *[arg0+184]{arg2.s32*8}], u64[u64 *[arg0+184]+16], u64[u64 *[arg0+184]]
        """,
    ),
    (
        "kprobe:connect",
        """
        def f(sk):
            emit(
                sk.whole, sk.low, sk.state, sk.alive, sk.run, sk.label, sk.file, sk.mac, sk.name,
                sk.counts
            )
        """,
        """
        event whole: u64, low: u32, state: enum state, alive: bool, run: void *, label: char *,
        | file: struct file *, mac: u8[6], name: char[16], counts: u32[4]
        emit u64[arg0+208], u32[arg0+208], enum state[arg0+216], bool[arg0+220], void *[arg0+224],
        | char *[arg0+192], struct file *[arg0+64], block(6)[arg0+248], block(16)[arg0+72],
        | block(16)[arg0+88]
        """,
    ),
    (
        "kprobe:connect",
        """
        def f(sk):
            emit(
                a=str(sk.label), b=str(sk.name), c=str(sk.where, 16), d=str(sk.name, 4),
                e=str(cast("char *", sk.stamps)), f=str(user(sk.label))
            )
        """,
        """
        event a: text up to 256 bytes, b: text up to 16 bytes, c: text up to 16 bytes, d: text up
        | to 4 bytes, e: text up to 256 bytes, f: text up to 256 bytes
        emit text<=256[char *[arg0+192]], text(16)<=16[arg0+72], text<=16[user char __user
        | *[arg0+232]], text(16)<=4[arg0+72], text<=256[u64 *[arg0+184]], text<=256[user char
        | *[arg0+192]]
        """,
    ),
    (
        "kprobe:connect",
        """
        def f(sk):
            emit(
                a=ipv4(sk.common.daddr), b=ipv6(sk.common.v6), c=mac(sk.mac),
                d=be16(sk.common.dport), e=ksym(sk.run), f=ksym(sk.cookie),
                g=ipv4(kernel(sk.cookie))
            )
        """,
        """
        event a: ipv4, b: ipv6, c: mac, d: u16, e: ksym, f: ksym, g: ipv4
        emit (u32[arg0] as ipv4), block(16)[arg0+8], block(6)[arg0+248], be16(u16[arg0+4]), (void
        | *[arg0+224] as ksym), (u64[arg0+48] as ksym), ipv4[(u64[arg0+48] as void *)]
        """,
    ),
    (
        "kprobe:connect",
        """
        def f(sk, name, flags):
            emit(a=bytes(name, 8), b=bytes(name, flags), c=bytes(name, flags, 16))
        """,
        """
        event a: up to 8 bytes, b: up to 64 bytes, c: up to 16 bytes
        emit bytes(8)<=8[arg1], bytes(arg2.s32)<=64[arg1], bytes(arg2.s32)<=16[arg1]
        """,
    ),
    (
        "kprobe:connect",
        """
        def f(sk: "struct file *", name: u64): emit(sk.ino, name)
        """,
        """
        event ino: u64, name: u64
        emit u64[arg0], arg1
        """,
    ),
    (
        "kprobe:connect",
        """
        def f(sk):
            emit(
                a=u8(sk.cookie), b=s8(sk.common.family), c=u64(sk.prio), d=s64(sk.cookie),
                e=u32(sk.prio), f=u16(sk.common.family), g=cast("enum state", sk.prio),
                h=cast("bool", sk.prio)
            )
        """,
        """
        event a: u8, b: s8, c: u64, d: s64, e: u32, f: u16, g: enum state, h: bool
        emit u8(u64[arg0+48]), s8(u8[arg0+6]), u64(s32[arg0+40]), (u64[arg0+48] as s64),
        | u32(s32[arg0+40]), (u8[arg0+6] as u16), enum state(s32[arg0+40]), bool(s32[arg0+40])
        """,
    ),
    (
        "kprobe:connect",
        """
        def f(sk):
            emit(
                a=sk.prio + 1, b=sk.cookie - 1, c=sk.cookie // 2, d=sk.prio // 2, e=sk.prio % 3,
                f=sk.cookie >> 3, g=sk.prio >> 3, h=-sk.cookie, i=~sk.cookie, j=~sk.prio,
                k=sk.counts[0] - sk.counts[1], l=sk.prio << 2, m=+sk.prio
            )
        """,
        """
        event a: s64, b: u64, c: u64, d: s64, e: s64, f: u64, g: s64, h: s64, i: u64, j: s64, k:
        | s64, l: s64, m: s32
        emit (s32[arg0+40] + 1), (u64[arg0+48] - 1), (u64[arg0+48] //u 2), (s32[arg0+40] // 2),
        | (s32[arg0+40] % 3), (u64[arg0+48] >>u 3), (s32[arg0+40] >> 3), -u64[arg0+48],
        | ~u64[arg0+48], ~s32[arg0+40], (u32[arg0+88] - u32[arg0+92]), (s32[arg0+40] << 2),
        | s32[arg0+40]
        """,
    ),
    (
        "kprobe:connect",
        """
        def f(sk):
            emit(
                a=1 + 2 * 3, b=1 << 40, c=1 << 63, d=-1, e=True, f=7 // -2, g=-7 % 2, h=0xffff_ffff
            )
        """,
        """
        event a: s32, b: s64, c: u64, d: s32, e: bool, f: s32, g: s32, h: s64
        emit 7, 1099511627776, 9223372036854775808, -1, 1, -4, 1, 4294967295
        """,
    ),
    (
        "kprobe:connect",
        """
        def f(sk):
            emit(
                a=1 if sk.alive else 2, b=sk.prio if sk.prio > 0 else -sk.prio, c=min(sk.prio, 3),
                d=max(sk.cookie, sk.counts[0]), e=sizeof("struct sock"), g=sizeof(sk.name)
            )
        """,
        """
        event a: s64, b: s64, c: s32, d: u64, e: s32, g: s32
        emit (bool[arg0+220] ? 1 : 2), ((s32[arg0+40] > 0) ? (s32[arg0+40] as s64) :
        | -s32[arg0+40]), ((s32[arg0+40] <= 3) ? s32[arg0+40] : 3), ((u64[arg0+48] >=u u32[arg0+88])
        | ? u64[arg0+48] : (u32[arg0+88] as u64)), 256, 16
        """,
    ),
    (
        "kprobe:connect",
        """
        def f(sk):
            if sk.prio > 3 and (sk.alive or not sk.state) and 1 < sk.prio < 9:
                emit(a=1)
            elif sk.state == OPEN: emit(a=2)
            else:
                emit(a=300)
        """,
        """
        event a: s32
        if ((s32[arg0+40] > 3) and ((bool[arg0+220] or not enum state[arg0+216]) and ((1 <
        | s32[arg0+40]) and (s32[arg0+40] < 9))))
          emit 1
        else
          if (enum state[arg0+216] == 1)
            emit 2
          else
            emit 300
        """,
    ),
    (
        "kprobe:connect",
        """
        def f(sk):
            if comm == "cat" or str(sk.label) != "x" or sk.name == "nginx" or "a" == comm: emit(pid)
            if sk.prio in (1, 2, 3) and sk.prio not in (4,) and sk is not None and sk.file == None: emit(
                pid
            )
            if ipv4(sk.common.daddr) == "127.0.0.1": emit(pid)
        """,
        """
        event pid: u32
        if (((comm == b'cat') or not (text<=256[char *[arg0+192]] == b'x')) or
        | ((text(16)<=16[arg0+72] == b'nginx') or (comm == b'a')))
          emit pid
        if ((((s32[arg0+40] == 1) or ((s32[arg0+40] == 2) or (s32[arg0+40] == 3))) and not
        | (s32[arg0+40] == 4)) and ((arg0 != 0) and (struct file *[arg0+64] == 0)))
          emit pid
        if ((u32[arg0] as ipv4) == 16777343)
          emit pid
        """,
    ),
    (
        "kprobe:connect",
        """
        N = 7
        def f(sk):
            n = 0
            n += sk.counts[1]
            t = str(sk.label)
            c = comm
            k = sk.common
            v = k.v6
            ok = True
            if t == "x":
                n = N
                t = str(sk.common.up.label, 4)
                return
                n = 9
            x: "u8" = sk.prio
            x = 300
            p = sk
            p = sk.common.up
            emit(n, t, c, k.dport, ok, v=v[1], w=ipv6(v), x=x, p=p)
        """,
        """
        event n: s64, t: text up to 256 bytes, c: text up to 15 bytes, dport: u16, ok: bool, v:
        | u8, w: ipv6, x: u8, p: struct sock *
        local n: s64
        local t: char *
        local k: struct common *
        local v: u8 *
        local ok: bool
        local x: u8
        local p: struct sock *
        n = 0
        n = (n + u32[arg0+92])
        t = (char *[arg0+192] as char *)
        k = (arg0 as struct common *)
        v = &[k+8]
        ok = 1
        if (text<=256[t] == b'x')
          n = 7
          t = (char *[struct sock *[arg0+32]+192] as char *)
          return
        x = u8(s32[arg0+40])
        x = 44
        p = arg0
        p = struct sock *[arg0+32]
        emit n, text<=256[t], comm, u16[k+4], ok, u8[v+1], block(16)[v], x, p
        """,
    ),
    (
        "kprobe:connect",
        """
        def f(sk, name):
            sk = sk.common.up
            name = sk.label
            emit(sk, str(name), sk.prio)
        """,
        """
        event sk: struct sock *, name: text up to 256 bytes, prio: s32
        local sk: struct sock *
        local name: char *
        sk = arg0
        name = arg1
        sk = struct sock *[sk+32]
        name = char *[sk+192]
        emit sk, text<=256[name], s32[sk+40]
        """,
    ),
    (
        "kprobe:connect",
        """
        def f(sk, name, flags):
            if flags:
                x = 1
            else:
                x = sk.prio
            if flags > 2:
                y = 3
            else:
                return
            emit(x, y)
        """,
        """
        event x: s32, y: s64
        local x: s32
        local y: s64
        if arg2.s32
          x = 1
        else
          x = s32[arg0+40]
        if (arg2.s32 > 2)
          y = 3
        else
          return
        emit x, y
        """,
    ),
    (
        "kprobe:connect",
        """
        def f(sk):
            if sk.prio: emit(a=sk.prio, t=str(sk.label), x=1, y=sk.common.family)
            else: emit(t=str(sk.where, 9), a=sk.common.family, x=-5000000000, y=sk.prio)
        """,
        """
        event a: s32, t: text up to 256 bytes, x: s64, y: s32
        if s32[arg0+40]
          emit s32[arg0+40], text<=256[char *[arg0+192]], 1, (u8[arg0+6] as s32)
        else
          emit (u8[arg0+6] as s32), text<=9[user char __user *[arg0+232]], -5000000000, s32[arg0+40]
        """,
    ),
    (
        "kprobe:connect",
        """
        emit(arg0, arg1, x=args.sk.prio, y=args.flags)
        """,
        """
        event arg0: u64, arg1: u64, x: s32, y: s32
        emit arg0, arg1, s32[arg0+40], arg2.s32
        """,
    ),
    (
        "kretprobe:read",
        """
        if retval < 0: emit(retval)
        """,
        """
        event retval: s64
        if (retval < 0)
          emit retval
        """,
    ),
    (
        "kretprobe:connect",
        """
        emit(retval, pid)
        """,
        """
        event retval: s32, pid: u32
        emit retval, pid
        """,
    ),
    (
        "fexit:read",
        """
        def f(file, buf, count): emit(file.ino, retval, left=count - 3, b=args.buf)
        """,
        """
        event ino: u64, retval: s64, left: u64, b: char *
        emit u64[arg0], retval, (arg2 - 3), arg1
        """,
    ),
    (
        "fentry:connect",
        """
        def f(sk, name, flags): emit(flags, x=arg2)
        """,
        """
        event flags: s32, x: u64
        emit arg2.s32, arg2
        """,
    ),
    (
        "rawtracepoint:switch",
        """
        def f(preempt, prev): emit(preempt, prev.prio, a=args.prev.cookie)
        """,
        """
        event preempt: bool, prio: s32, a: u64
        emit arg0.bool, s32[arg1+40], u64[arg1+48]
        """,
    ),
    (
        "rawtracepoint:unknown",
        """
        def f(a, b: "struct sock *"): emit(a, b.prio, arg5)
        """,
        """
        event a: u64, prio: s32, arg5: u64
        emit arg0, s32[(arg1 as struct sock *)+40], arg5
        """,
    ),
    (
        "kprobe:unknown",
        """
        def f(a, b: "struct sock *"): emit(a, b.prio)
        """,
        """
        event a: u64, prio: s32
        emit arg0, s32[(arg1 as struct sock *)+40]
        """,
    ),
    (
        "tracepoint:syscalls:sys_enter_openat",
        """
        def f(filename, dfd): emit(dfd, str(filename), p=args.buf)
        """,
        """
        event dfd: s32, filename: text up to 256 bytes, p: char __user *
        emit s32(s64[ctx+16]), text<=256[user char __user *[ctx+24]], char __user *[ctx+32]
        """,
    ),
    (
        "tracepoint:toy:all",
        """
        def f(state, saddr, path, blob, odd, mystery, ids):
            emit(
                comm, state, path, blob, odd, mystery, ids, a=ipv4(saddr), b=ipv6(args.saddr_v6),
                c=saddr[1], d=str(path), e=blob[2], f=args.comm, g=args.pid, h=str(args.comm),
                i=ids[state]
            )
        """,
        """
        event comm: text up to 15 bytes, state: enum state, path: text up to 256 bytes, blob: up
        | to 256 bytes, odd: void *, mystery: s16, ids: s32[2], a: ipv4, b: ipv6, c: u8, d: text up
        | to 256 bytes, e: u8, f: char[16], g: s32, h: text up to 16 bytes, i: s32
        emit comm, enum state[ctx+28], text<=256[data_loc(52)], bytes((u32[ctx+56] >>
        | 16))<=256[rel_loc(56)], void *[ctx+64], s16[ctx+72], block(8)[ctx+80], ipv4[ctx+32],
        | block(16)[ctx+36], u8[ctx+33], text<=256[data_loc(52)], u8[rel_loc(56)+2],
        | block(16)[ctx+8], s32[ctx+24], text(16)<=16[ctx+8], s32[ctx+80{enum state[ctx+28]*4<2}]
        """,
    ),
    (
        "tracepoint:toy:all",
        """
        def f(path, mystery: u64):
            if path == "/bin/ls" and args.comm == "ls": emit(mystery)
        """,
        """
        event mystery: u64
        if ((text<=256[data_loc(52)] == b'/bin/ls') and (text(16)<=16[ctx+8] == b'ls'))
          emit u64(s16[ctx+72])
        """,
    ),
    (
        "tracepoint:toy:all",
        """
        def f(path):
            t = path
            p = cast("char *", path)
            emit(t, u=str(p, 9), v=path[0], w=ppid)
        """,
        """
        event t: text up to 256 bytes, u: text up to 9 bytes, v: char, w: s32
        local t: char *
        local p: char *
        t = data_loc(52)
        p = data_loc(52)
        emit text<=256[t], text<=9[p], char[data_loc(52)], s32[struct task_struct *[curtask+8]]
        """,
    ),
    (
        "kprobe:connect",
        """
        def f(sk):
            ok = sk.prio > 3 or sk.alive
            not_ok = not sk.prio
            emit(ok, not_ok, both=ok and not_ok, x=OPEN, y=sk.state if ok else GONE)
        """,
        """
        event ok: bool, not_ok: bool, both: bool, x: enum state, y: enum state
        local ok: bool
        local not_ok: bool
        ok = ((s32[arg0+40] > 3) or bool[arg0+220])
        not_ok = not s32[arg0+40]
        emit ok, not_ok, (ok and not_ok), 1, (ok ? enum state[arg0+216] : 7)
        """,
    ),
    (
        "kprobe:connect",
        """
        def f(sk):
            if sk.prio != 1 << 31 and 0 <= sk.common.dport < 9: emit(x=-1 < 0xffffffffffffffff)
            if sk.cookie < sk.delta: emit(x=sk.delta == sk.cookie)
        """,
        """
        event x: bool
        if (1 and (u16[arg0+4] < 9))
          emit 1
        if ((s64[arg0+56] >= 0) and (u64[arg0+48] <u s64[arg0+56]))
          emit ((s64[arg0+56] >= 0) and (s64[arg0+56] == u64[arg0+48]))
        """,
    ),
    (
        "kprobe:connect",
        """
        def f(sk):
            t = str(sk.label, 4)
            if t == "hell": emit(t)
            t = str(sk.label, 5)
            if t == "hello" or sk.label.endswith("lo"): emit(t)
        """,
        """
        event t: text up to 5 bytes
        local t: char *
        t = (char *[arg0+192] as char *)
        if (text<=4[t] == b'hell')
          emit text<=4[t]
        t = (char *[arg0+192] as char *)
        if ((text<=5[t] == b'hello') or (text<=256[char *[arg0+192]] ~ '*lo'))
          emit text<=5[t]
        """,
    ),
    (
        "kprobe:connect",
        """
        def f(sk):
            emit("opened", pid, x=1)
            emit(tid, pid)
            if sk: emit("opened", x=u64(sk), pid=tid)
            emit(pid, tid)
            emit(ended, x=comm)
        ended = "ended"
        """,
        """
        event opened: pid: u32, x: u64
        event 2: tid: u32, pid: u32
        event ended: x: text up to 15 bytes
        emit opened: pid, 1
        emit 2: tid, pid
        if arg0
          emit opened: tid, (arg0 as u64)
        emit 2: tid, pid
        emit ended: comm
        """,
    ),
]


@pytest.mark.parametrize(("where", "text", "wanted"), PROGRAMS)
def test_a_good_probe_becomes_this_program(
    compiled: Callable[..., Program], where: str, text: str, wanted: str
) -> None:
    shown = shown_tree.program(compiled(text, where)).partition("\n")[2]
    lines: list[str] = []
    for line in textwrap.dedent(wanted).strip("\n").rstrip().splitlines():
        if line.lstrip().startswith("| "):
            lines[-1] += " " + line.lstrip()[2:]
        else:
            lines.append(line)
    assert shown.splitlines() == lines
