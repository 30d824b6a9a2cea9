"""Probes that are wrong: the exact complaint, its line, and the exact text it underlines."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest

from kwire.lang.checked import Program
from kwire.lang.errors import LanguageError

# (attach point, probe, "line: message; cure", the underlined text). Bodies alone begin at line 3.
WRONG = [
    ("kprobe:connect", "emit(pidd)", "3: unknown name pidd; did you mean pid or ppid?", "pidd"),
    (
        "kprobe:connect",
        "emit(flags)",
        "3: unknown name flags; write args.flags, or make it a parameter",
        "flags",
    ),
    (
        "kprobe:connect",
        "emit(x=arg0 == ETH_P_IP)",
        "3: unknown name ETH_P_IP; "
        "macros are not in the kernel's types: write its number, ETH_P_IP = …, before the probe",
        "ETH_P_IP",
    ),
    (
        "kprobe:connect",
        "emit(x=pid or 3)",
        "3: `or` gives no number, only true or false; write x if x else y, or compare the operands",
        "pid or 3",
    ),
    ("begin", "emit(args)", "3: args alone is no value; name one of them: args.name", "args"),
    ("kprobe:connect", "emit(str)", "3: str is a function; call it: str(p[, n[, limit]])", "str"),
    ("kprobe:connect", "emit(args.skk)", "3: connect has no skk; did you mean sk?", "skk"),
    (
        "kprobe:connect",
        "emit(retval)",
        "3: a kprobe has no retval; it exists in kretprobe, fexit, uretprobe",
        "retval",
    ),
    (
        "kretprobe:read",
        "emit(args.file)",
        "3: at the return of a function its arguments are gone; use fexit, or retval",
        "args.file",
    ),
    ("kretprobe:read", "emit(arg0)", "3: a kretprobe has no arg0; probe the entry, or use fexit", "arg0"),
    (
        "tracepoint:toy:all",
        "emit(func)",
        "3: a tracepoint has no func; it exists in kprobe, kretprobe, fentry, fexit",
        "func",
    ),
    ("tracepoint:toy:all", "emit(arg0)", "3: a tracepoint has no arg0; use args.name", "arg0"),
    ("kretprobe:nothing", "emit(retval)", "3: nothing returns nothing", "retval"),
    ("fentry:read", "emit(arg3)", "3: the arguments of read are arg0 to arg2", "arg3"),
    (
        "kprobe:connect",
        "def f(sk, name, flags, more): emit(pid)",
        "2: connect has no parameter 4 that can be read; its parameters are sk, name, flags",
        "more",
    ),
    (
        "kprobe:connect",
        "def f(flags): emit(flags)",
        "2: flags is parameter 3 of connect, not 1; write (sk, name, flags)",
        "flags",
    ),
    (
        "tracepoint:toy:all",
        "def f(statt): emit(pid)",
        "2: toy:all has no field statt; did you mean state?",
        "statt",
    ),
    (
        "kretprobe:read",
        "def f(file): emit(pid)",
        "2: at the return of a function its arguments are gone; use retval, or fexit",
        "file",
    ),
    (
        "kprobe:connect+4",
        "def f(sk): emit(pid)",
        "2: inside a function there are no arguments; probe its entry",
        "sk",
    ),
    (
        "kprobe:connect",
        'def f(sk: "struct sok *"): emit(pid)',
        "2: there is no struct sok; did you mean struct sock?",
        '"struct sok *"',
    ),
    (
        "kprobe:connect",
        'def f(sk: "struct sock"): emit(pid)',
        '2: a parameter is no whole struct sock; add a star: "struct sock *"',
        "sk",
    ),
    (
        "fentry:by_value",
        "def f(a, whole, b, d): emit(a)",
        "2: by_value has no parameter 4 that can be read; its parameters are a, whole, b",
        "d",
    ),
    (
        "kprobe:many",
        "def f(a,b,c,d,e,f,g,h,i): emit(g)",
        "2: many has no parameter 9 that can be read; its parameters are p0, p1, p2, p3, p4, p5, p6, p7",
        "i",
    ),
    (
        "kprobe:unknown",
        'def f(a: "struct sock"): emit(pid)',
        "2: an argument is no struct sock; add a star",
        '"struct sock"',
    ),
    (
        "kprobe:connect",
        "def f(sk): emit(sk.prioo)",
        "2: struct sock has no member prioo; did you mean prio?",
        "prioo",
    ),
    (
        "kprobe:connect",
        "def f(sk): emit(sk.dport)",
        "2: struct sock has no member dport; write .common.dport",
        "dport",
    ),
    (
        "kprobe:connect",
        "def f(sk): emit(sk.hidden.x)",
        "2: the members of struct declared are not known; cast it",
        "x",
    ),
    (
        "kprobe:connect",
        "def f(sk): emit(sk.prio.x)",
        '2: an s32 has no member x; cast it: cast("struct … *", x).x',
        "sk.prio.x",
    ),
    (
        "kprobe:connect",
        "def f(sk): emit(sk.next.prio)",
        "2: this is a struct sock **, which has no member prio; follow it first: [0]",
        "sk.next.prio",
    ),
    (
        "kprobe:connect",
        "def f(sk): emit(sk.counts.x)",
        "2: a u32[4] has no member x; use one element: [0]",
        "sk.counts.x",
    ),
    (
        "kprobe:connect",
        "def f(sk): emit(sk.file.inode)",
        "2: struct file has no member inode; did you mean ino?",
        "inode",
    ),
    (
        "kprobe:connect",
        "def f(sk): emit(x=sk.counts[4])",
        "2: the index 4 is out of bounds for array of size 4; its indexes are 0 to 3",
        "4",
    ),
    (
        "kprobe:connect",
        "def f(sk): emit(x=sk.counts[-1])",
        "2: the index -1 is out of bounds for array of size 4; its indexes are 0 to 3",
        "-1",
    ),
    ("kprobe:connect", "def f(sk): emit(x=sk.prio[0])", "2: an s32 has no elements", "sk.prio[0]"),
    (
        "kprobe:connect",
        "def f(sk): emit(x=sk.run[0])",
        '2: elements of void have no size; cast it: cast("u8 *", p)',
        "sk.run[0]",
    ),
    (
        "kprobe:connect",
        "def f(sk): emit(x=sk.counts[sk.label])",
        "2: a char * is no number to calculate with; cast it: u64(x)",
        "sk.label",
    ),
    (
        "kprobe:connect",
        "def f(sk): emit(sk.common)",
        "2: this is a whole struct common; name its members, or bytes(x, 40)",
        "sk.common",
    ),
    (
        "kprobe:connect",
        "def f(sk): emit(sk.table)",
        "2: this is a whole struct common[2]; use one element: [0]",
        "sk.table",
    ),
    (
        "kprobe:connect",
        "def f(sk): emit(x=sk.counts + 1)",
        "2: this is a whole u32[4]; use one element: [0]",
        "sk.counts",
    ),
    (
        "kprobe:connect",
        "def f(sk): emit(x=deref(sk.hidden))",
        '2: elements of struct declared have no size; cast it: cast("u8 *", p)',
        "deref(sk.hidden)",
    ),
    (
        "kprobe:connect",
        "def f(sk): emit(x=sk.prio / 2)",
        "2: / is not an operation on integers; use // for whole numbers",
        "sk.prio / 2",
    ),
    ("kprobe:connect", "def f(sk): emit(x=sk.prio // 0)", "2: this divides by zero", "sk.prio // 0"),
    ("kprobe:connect", "def f(sk): emit(x=1 % 0)", "2: this divides by zero", "1 % 0"),
    (
        "kprobe:connect",
        "def f(sk): emit(x=sk.prio << 64)",
        "2: a number has 64 bits, it cannot be shifted by 64",
        "64",
    ),
    (
        "kprobe:connect",
        "def f(sk): emit(x=sk.label * 2)",
        "2: a char * is no number to calculate with; cast it: u64(x)",
        "sk.label",
    ),
    (
        "kprobe:connect",
        "def f(sk): emit(x=1 << 64)",
        "2: a number has 64 bits, it cannot be shifted by 64",
        "64",
    ),
    (
        "kprobe:connect",
        "def f(sk): emit(x=2**64)",
        "2: ** is not an operation on integers; multiply, or use 1 << n",
        "2**64",
    ),
    (
        "kprobe:connect",
        "def f(sk): emit(x=99999999999999999999)",
        "2: 99999999999999999999 does not fit into 64 bits",
        "99999999999999999999",
    ),
    (
        "kprobe:connect",
        "def f(sk): emit(x=comm + 1)",
        "2: a text is no number; compare it with a string: == or !=",
        "comm",
    ),
    (
        "kprobe:connect",
        'def f(sk): emit(x=-"a")',
        "2: a string is no number; compare a text with it: ==, !=",
        '"a"',
    ),
    (
        "kprobe:connect",
        "def f(sk): emit(x=sk.cookie < -1)",
        "2: this is never true: a u64 is never negative; cast it if its bits mean a signed number: s32(x)",
        "sk.cookie < -1",
    ),
    (
        "kprobe:connect",
        "def f(sk): emit(x=sk.cookie == -1)",
        "2: this is never true: a u64 is never negative; cast it if its bits mean a signed number: s32(x)",
        "sk.cookie == -1",
    ),
    (
        "kprobe:connect",
        "def f(sk): emit(x=sk.common.family == 256)",
        "2: this is never true: a u8 is 0 to 255",
        "sk.common.family == 256",
    ),
    (
        "kprobe:connect",
        'def f(sk): emit(x=ipv4(sk.common.daddr) < "10.0.0.1")',
        "2: addresses have no order: <; use == or !=",
        'ipv4(sk.common.daddr) < "10.0.0.1"',
    ),
    (
        "kprobe:connect",
        'def f(sk): emit(x=str(sk.label, 4) == "hello")',
        "2: this text has at most 4 bytes, never these 5; read more of it: str(x, 5)",
        '"hello"',
    ),
    (
        "kprobe:connect",
        'def f(sk): emit(x=str(comm, 2) == "cat")',
        "2: this text has at most 2 bytes, never these 3; read more of it: str(x, 3)",
        '"cat"',
    ),
    (
        "kprobe:connect",
        """
        def f(sk):
            if sk.prio: t = str(sk.label, 4)
            else: t = str(sk.label, 5)
            emit(x=t == "cat")
        """,
        "5: t is a text of one limit on one path and of another on the other; use one limit, or two names",
        "t",
    ),
    (
        "kprobe:connect",
        'def f(sk): emit(x=comm == "a name that is too long")',
        "2: this text has at most 15 bytes, never these 23",
        '"a name that is too long"',
    ),
    (
        "kprobe:connect",
        'def f(sk): emit(x=sk.stamps == "a")',
        '2: a u64 * is no text; cast it: str(cast("char *", x))',
        'sk.stamps == "a"',
    ),
    (
        "kprobe:connect",
        "def f(sk): emit(x=comm == cast('u8 *', sk))",
        '2: a text does not compare with a u8 *; compare it with a text: == "…"',
        "comm == cast('u8 *', sk)",
    ),
    (
        "kprobe:connect",
        "def f(sk): emit(x=comm == bytes(sk, 4))",
        "2: a value of up to 4 bytes is no text; read it as one: str(p)",
        "comm == bytes(sk, 4)",
    ),
    (
        "kprobe:connect",
        "def f(sk): emit(x=str(sk.name, 4)[4])",
        "2: the index 4 is out of bounds for array of size 4; its indexes are 0 to 3",
        "4",
    ),
    (
        "kprobe:connect",
        'def f(sk): emit(x=ipv4(sk.common.daddr) == "1.2.3")',
        "2: '1.2.3' is no IPv4 address; write 192.0.2.1",
        '"1.2.3"',
    ),
    (
        "kprobe:connect",
        'def f(sk): emit(x=ipv4(sk.common.daddr) == "1.2.3.256")',
        "2: '1.2.3.256' is no IPv4 address; each part is 0 to 255",
        '"1.2.3.256"',
    ),
    (
        "kprobe:connect",
        'def f(sk): emit(x=sk.prio == "a")',
        "2: an s32 is no text; compare it with a number",
        'sk.prio == "a"',
    ),
    (
        "kprobe:connect",
        'def f(sk): emit(x=str(sk.label) == "a\\0b")',
        "2: a text ends at its first NUL and contains none",
        '"a\\0b"',
    ),
    (
        "kprobe:connect",
        "def f(sk): emit(x=sk is sk)",
        "2: `is` compares nothing in a probe; use ==",
        "sk is sk",
    ),
    (
        "kprobe:connect",
        "def f(sk): emit(x=sk.prio in sk)",
        '2: `in` needs the values themselves; write x in (1, 2, 3), or "part" in text',
        "sk",
    ),
    (
        "kprobe:connect",
        "def f(sk):\n    if sk.common: emit(pid)",
        "3: this is a whole struct common; name one of its members",
        "sk.common",
    ),
    (
        "kprobe:connect",
        "emit(x=print(1))",
        "3: print is a statement and gives no value; write it on a line of its own",
        "print(1)",
    ),
    ("kprobe:connect", "emit(x=strr(1))", "3: unknown function strr; did you mean str?", "strr"),
    (
        "kprobe:connect",
        "emit(x=str())",
        "3: str was called with 0 arguments; write str(p[, n[, limit]])",
        "str()",
    ),
    (
        "kprobe:connect",
        "emit(x=str(p=1))",
        "3: str takes no named arguments; write str(p[, n[, limit]])",
        "str(p=1)",
    ),
    (
        "kprobe:connect",
        "emit(x=str(arg0))",
        "3: a u64 is not known to be an address; say whose memory: str(user(x)) or str(kernel(x))",
        "arg0",
    ),
    (
        "kprobe:connect",
        "def f(sk): emit(x=str(sk))",
        '2: a struct sock * does not point to text; cast it: str(cast("char *", p))',
        "sk",
    ),
    (
        "kprobe:connect",
        "def f(sk): emit(x=str(sk.common))",
        "2: a struct common is no text; name the member that is",
        "sk.common",
    ),
    (
        "kprobe:connect",
        "def f(sk): emit(x=str(sk.label, 0))",
        "2: 0 is no limit; it is 1 to 16384 bytes",
        "0",
    ),
    (
        "kprobe:connect",
        "def f(sk): emit(x=str(sk.label, sk.prio, sk.prio))",
        "2: the limit of str must be known when the probe is compiled",
        "sk.prio",
    ),
    (
        "kprobe:connect",
        "def f(sk): emit(x=str(sk.label, 20000))",
        "2: 20000 is no limit; it is 1 to 16384 bytes",
        "20000",
    ),
    (
        "kprobe:connect",
        "def f(sk): emit(x=bytes(sk.prio, 4))",
        "2: an s32 is not known to be an address; say whose memory: bytes(user(x)) or bytes(kernel(x))",
        "sk.prio",
    ),
    (
        "kprobe:connect",
        "def f(sk): emit(x=be32(sk.common.dport))",
        "2: be32 needs 4 bytes, this u16 has 2; use be16",
        "sk.common.dport",
    ),
    (
        "kprobe:connect",
        "def f(sk): emit(x=be16(sk.cookie))",
        "2: be16 would cut this u64; use be64",
        "sk.cookie",
    ),
    (
        "kprobe:connect",
        "def f(sk): emit(x=ipv4(sk.common.dport))",
        "2: an IPv4 address has 4 bytes, this u16 has 2; cast it: u32(x)",
        "sk.common.dport",
    ),
    (
        "kprobe:connect",
        "def f(sk): emit(x=ipv6(sk.common.daddr))",
        "2: ipv6 needs an array of 16 bytes or a pointer to them",
        "sk.common.daddr",
    ),
    (
        "kprobe:connect",
        "def f(sk): emit(x=ipv6(sk.mac))",
        "2: ipv6 needs 16 bytes, this u8[6] has 6; name the member that holds the address",
        "sk.mac",
    ),
    (
        "kprobe:connect",
        "def f(sk): emit(x=mac(sk.file))",
        "2: mac needs 6 bytes, a struct file * points to 16; name the member that holds the address",
        "sk.file",
    ),
    (
        "kprobe:connect",
        'emit(x=sizeof("struct nothing"))',
        "3: there is no struct nothing",
        '"struct nothing"',
    ),
    ("kprobe:connect", 'emit(x=sizeof("void"))', "3: void has no fixed size", 'sizeof("void")'),
    (
        "kprobe:connect",
        "emit(x=emit(pid))",
        "3: emit is a statement and gives no value; write it on a line of its own",
        "emit(pid)",
    ),
    (
        "kprobe:connect",
        'def f(sk): emit(x=cast("struct file", sk).ino)',
        '2: a value cannot become a structure, a pointer can point to one; add a star: "struct file *"',
        '"struct file"',
    ),
    (
        "kprobe:connect",
        'def f(sk): emit(x=cast("struct file *"))',
        '2: cast takes a type and a value; write cast("struct sock *", value)',
        'cast("struct file *")',
    ),
    (
        "kprobe:connect",
        "def f(sk): emit(x=cast(u32, sk))",
        '2: the type of a cast is a string; write cast("struct sock *", value)',
        "u32",
    ),
    (
        "kprobe:connect",
        "def f(sk): emit(x=u8(comm))",
        "2: a text is no number; compare it with a string: == or !=",
        "comm",
    ),
    (
        "kprobe:connect",
        "def f(sk): emit(x=sk.prio())",
        "2: this is no function of kwire, nor one in Python whose text can be found; "
        "define it with def, in this file or one beside it",
        "sk.prio",
    ),
    (
        "kprobe:connect",
        "emit(x=1 if pid else curtask)",
        "3: one is an s64, the other a struct task_struct *; cast one of them",
        "1 if pid else curtask",
    ),
    ("kprobe:connect", "pass", "2: this probe emits nothing; call emit(…)", "def probe():"),
    ("kprobe:connect", "emit()", "3: this emits nothing; name what shall be seen: emit(pid, comm)", "emit()"),
    ("kprobe:connect", "pid", "3: this expression has no effect; emit(…) it or assign it to a name", "pid"),
    (
        "kprobe:connect",
        "str(args.name)",
        "3: the value of this call is not used; emit(…) it or assign it to a name",
        "str(args.name)",
    ),
    ("kprobe:connect", "emit(1)", "3: this field has no name; write name=…", "1"),
    ("kprobe:connect", "emit(pid, pid)", "3: there are two fields pid; write name=… for one of them", "pid"),
    (
        "kprobe:connect",
        'emit(x="a")',
        "3: a constant text is in no event; emit a number; or write the text first, as the event's name",
        '"a"',
    ),
    (
        "kprobe:connect",
        "emit(time=1)",
        "3: a field cannot be called time: every event has its time; rename it",
        "1",
    ),
    (
        "kprobe:connect",
        "emit(time_ns=arg0)",
        "3: a field cannot be called time_ns: every event has its time; rename it",
        "arg0",
    ),
    (
        "kprobe:connect",
        "emit(probe=arg0)",
        "3: a field cannot be called probe: every event has its probe; rename it",
        "arg0",
    ),
    (
        "kprobe:connect",
        'emit("on", pid)\nemit("on", tid)',
        "4: this emit differs from the first on by pid, tid; emit the same fields under one name, "
        "or use two names",
        'emit("on", tid)',
    ),
    (
        "kprobe:connect",
        'emit("an event", pid)',
        '3: this is no name of an event; use at most 64 letters, digits and _, as in emit("opened", pid)',
        '"an event"',
    ),
    (
        "kprobe:connect",
        'emit("on")',
        "3: this emits nothing; name what shall be seen: emit(pid, comm)",
        'emit("on")',
    ),
    (
        "kprobe:connect",
        'emit(pid, "on")',
        "3: this field has no name; write name=…",
        '"on"',
    ),
    (
        "kprobe:connect",
        "def f(sk):\n    if pid: emit(x=sk)\n    else: emit(x=comm)",
        "4: x was a struct sock * and is a text up to 15 bytes here; give it another name, or cast it",
        "comm",
    ),
    (
        "kprobe:connect",
        "return 1",
        "3: a probe returns nothing; use emit(…) for what shall be seen",
        "return 1",
    ),
    ("kprobe:connect", "a.b = 1", "3: only a local variable can be assigned; write name = value", "a.b"),
    (
        "kprobe:connect",
        'x = "a"\nx = pid\nemit(x)',
        "4: x is set to two different things; this is a u32; use two names",
        "x = pid",
    ),
    (
        "kprobe:connect",
        "x = 1\nx = comm\nemit(x)",
        "4: x cannot hold this; use it where it is needed",
        "x = comm",
    ),
    (
        "kprobe:connect",
        "def f(sk):\n    x = sk\n    x = sk.file\n    emit(x)",
        "4: x was a struct sock * and becomes a struct file *; use two names, or cast one",
        "x = sk.file",
    ),
    (
        "kprobe:connect",
        "if pid: x = 1\nemit(x)",
        "4: x may have no value here; assign it on every path before",
        "x",
    ),
    ("kprobe:connect", "emit(x)\nx = 1", "3: x may have no value here; assign it on every path before", "x"),
    (
        "kprobe:connect",
        "x = y\ny = x\nemit(x, y)",
        "3: y may have no value here; assign it on every path before",
        "y",
    ),
    (
        "kprobe:connect",
        "def f(sk):\n    x = sk.nam\n    emit(x, y=x.z)",
        "3: struct sock has no member nam; did you mean name?",
        "nam",
    ),
    ("kprobe:connect", "def f(sk):\n    é = sk.名\n    emit(é)", "3: struct sock has no member 名", "名"),
    (
        "kprobe:connect",
        "for i in range(pid): emit(i)",
        "3: this loop may run more than 1,048,576 times; bound the number: range(min(n, 100)), range(n & 63)",
        "range(pid)",
    ),
    (
        "kprobe:connect",
        "for i in range(2000):\n    for j in range(1000): emit(i)",
        "4: this loop may run more than 1,048,576 times, with those around it; "
        "bound the number: range(min(n, 100)), range(n & 63)",
        "range(1000)",
    ),
    (
        "kprobe:connect",
        "for i in range(nsecs, -1): emit(i)",
        "3: one end of this range may be negative, the other too large for an s64; "
        "cast it: s64(n), or bound it",
        "range(nsecs, -1)",
    ),
    (
        "kprobe:connect",
        "for i in range(0, 9, pid): emit(i)",
        "3: the step of a range is a number that is not 0; write it as a number",
        "pid",
    ),
    (
        "kprobe:connect",
        "for i in range(0, 9, 0): emit(i)",
        "3: the step of a range is a number that is not 0; write it as a number",
        "0",
    ),
    (
        "kprobe:connect",
        "for i in (1, 2): emit(i)",
        "3: a probe's loop runs over numbers; write for i in range(10):",
        "(1, 2)",
    ),
    (
        "kprobe:connect",
        "for i in range(9):\n    x = i\nemit(x)",
        "5: x may have no value here; assign it on every path before",
        "x",
    ),
    (
        "kprobe:connect",
        "for pid in range(9): emit(x=1)",
        "3: pid is a built-in of probes; use another name",
        "pid",
    ),
    ("kprobe:connect", "emit(pid)\nbreak", "4: there is no loop to break", "break"),
    ("kprobe:connect", "emit(pid)\ncontinue", "4: there is no loop to continue; use return", "continue"),
    (
        "kprobe:connect",
        "for i in range(3): emit(i)\nelse: emit(i=4)",
        "4: a loop has no else in a probe; use a local variable",
        "emit(i=4)",
    ),
    (
        "kprobe:connect",
        "while True: pass",
        "3: this loop has no end that can be known; say how often it runs at most: while turns(100) and …:",
        "True",
    ),
    (
        "kprobe:connect",
        "x = lambda: 1",
        "3: a probe has no functions inside; write the expression itself",
        "lambda: 1",
    ),
    ("kprobe:connect", "x = [1]", "3: lists are not supported", "[1]"),
    (
        "kprobe:connect",
        'x = f"{pid}"',
        "3: a probe formats text in print(…) only; emit the values; text is made where they are shown",
        'f"{pid}"',
    ),
    ("kprobe:connect", "with x: pass", "3: with has no meaning in a probe", "with x: pass"),
    (
        "kprobe:connect",
        "try: pass\nexcept: pass",
        "3: nothing raises in a probe; what cannot be read is 0, or no text",
        "try: pass",
    ),
    ("kprobe:connect", "x = (y := 1)", "3: := is not supported; assign in a statement of its own", "y := 1"),
    ("kprobe:connect", "emit(*x)", "3: * has no meaning here", "*x"),
    ("kprobe:connect", "emit(**x)", "3: ** has no meaning here; write name=value", "**x"),
    ("kprobe:connect", "x = 1.5", "3: the kernel has no floating point; use integers", "1.5"),
    (
        "kprobe:connect",
        "x = None",
        "3: None is no value in a probe; compare a pointer with `is None` or 0",
        "None",
    ),
    ("kprobe:connect", 'x = b"a"', "3: b'a' is no value in a probe; use an integer or a str", 'b"a"'),
    (
        "kprobe:connect",
        "x = a[1:2]",
        "3: slices are not supported; use bytes(pointer, n) or one index",
        "1:2",
    ),
    ("kprobe:connect", "import os", "3: a probe imports nothing", "import os"),
    ("kprobe:connect", "global x", "3: a probe changes no globals", "global x"),
    (
        "kprobe:connect",
        "x: [1] = 2",
        '3: a type is written as a string; for example sk: "struct sock *"',
        "[1]",
    ),
    ("kprobe:connect", 'x: "foo" = 2', "3: there is no type foo", '"foo"'),
    (
        "kprobe:connect",
        "def f(*a): pass",
        "2: a probe takes plain parameters only; write def probe(a, b):",
        "def f(*a): pass",
    ),
    (
        "kprobe:connect",
        "def f(a=1): pass",
        "2: a probe takes plain parameters only; write def probe(a, b):",
        "def f(a=1): pass",
    ),
    (
        "kprobe:connect",
        "match pid:\n    case 1: pass",
        "3: match is not supported; use if … elif",
        "match pid:",
    ),
    (
        "kprobe:connect",
        "pid = 7\nemit(x=pid)",
        "3: pid is a built-in of probes; use another name",
        "pid",
    ),
    ("kprobe:connect", "arg1 = 7\nemit(x=arg1)", "3: arg1 is a built-in of probes; use another name", "arg1"),
    ("kprobe:connect", "emit = 7\nemit(x=emit)", "3: emit is a function of probes; use another name", "emit"),
    ("kprobe:connect", "str = 7\nemit(x=str)", "3: str is a function of probes; use another name", "str"),
    (
        "kprobe:connect",
        "if pid: ENOENT = 3\nemit(tid)",
        "3: ENOENT is a constant of Linux; use another name",
        "ENOENT",
    ),
    (
        "kprobe:connect",
        "def f(cpu): emit(cpu)",
        "2: cpu is a built-in of probes; use another name",
        "cpu",
    ),
    (
        "tracepoint:toy:all",
        "def f(comm): emit(comm)",
        "2: comm is a built-in of probes; write args.comm",
        "comm",
    ),
    ("kprobe:connect", "x = pid @ 2", "3: @ is not an operation on integers", "pid @ 2"),
    (
        "kprobe:connect",
        'emit(x=str(args.name) == "a\\ud800")',
        "3: the character '\\ud800' has no bytes in UTF-8; "
        "write the text without it, or a pattern with ? for a byte",
        '"a\\ud800"',
    ),
    ("kprobe:connect", "x = not", "3: invalid syntax", ""),
    ("kprobe:connect", "break", "3: there is no loop to break", "break"),
]


@pytest.mark.parametrize(("where", "text", "complaint", "underlined"), WRONG)
def test_a_wrong_probe_is_refused(
    compiled: Callable[..., Program], where: str, text: str, complaint: str, underlined: str
) -> None:
    with pytest.raises(LanguageError) as caught:
        compiled(text, where)
    assert str(caught.value) == f"probe.py:{complaint}"
    message, source, marks = caught.value.detail.split("\n")
    assert message == str(caught.value)
    start = marks.index("^")
    assert marks[start:] == "^" + "~" * (len(marks) - start - 1)
    assert source[start : len(marks)] == underlined


def test_all_that_is_wrong_is_said_at_once(compiled: Callable[..., Program]) -> None:
    text = """
    @kprobe("connect")
    def f(sk, name):
        if sk.prioo > 3:
            x = sk.cookie / 2
        emit(nid, comm, y=sk.common)
        emit(nid)
    """
    with pytest.raises(LanguageError) as caught:
        compiled(text.replace(" / ", " // sk.label // "))
    assert caught.value.detail == (
        "probe.py:3: struct sock has no member prioo; did you mean prio?\n"
        "    3 |     if sk.prioo > 3:\n"
        "      |           ^~~~~\n"
        "probe.py:4: a char * is no number to calculate with; cast it: u64(x)\n"
        "    4 |         x = sk.cookie // sk.label // 2\n"
        "      |                          ^~~~~~~~\n"
        "probe.py:5: unknown name nid; did you mean uid, tid or pid?\n"
        "    5 |     emit(nid, comm, y=sk.common)\n"
        "      |          ^~~\n"
        "probe.py:5: this is a whole struct common; name its members, or bytes(x, 40)\n"
        "    5 |     emit(nid, comm, y=sk.common)\n"
        "      |                       ^~~~~~~~~\n"
        "probe.py:6: unknown name nid; did you mean uid, tid or pid?\n"
        "    6 |     emit(nid)\n"
        "      |          ^~~"
    )
    assert str(caught.value) == caught.value.detail.split("\n")[0] + " (and 4 more)"


def test_the_mark_stands_under_the_text_after_tabs_and_other_letters(
    compiled: Callable[..., Program],
) -> None:
    with pytest.raises(LanguageError) as caught:
        compiled('@kprobe("connect")\ndef f(sk):\n\tif "größe" == comm and sk.prioo: emit(pid)')
    _, source, marks = caught.value.detail.split("\n")
    assert source == '    3 | \tif "größe" == comm and sk.prioo: emit(pid)'
    assert marks == "      | \t                          ^~~~~"


def test_an_error_survives_pickling(compiled: Callable[..., Program]) -> None:
    with pytest.raises(LanguageError) as caught:
        compiled("emit(nothing_of_the_kind)", "kprobe:connect")
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.detail == caught.value.detail
    assert (again.operation, again.subject) == ("compile", "probe.py")


@pytest.mark.parametrize(
    "text",
    [
        "emit(x=" + "(" * 900 + "1" + ")" * 900 + ")",
        "emit(x=" + " + ".join(["pid"] * 500) + ")",
        "emit(x=" + "-" * 5000 + "pid)",
        "emit(x=args.sk" + ".next[0]" * 3000 + ")",
        "if pid == 1: emit(pid)\n" + "elif pid == 2: emit(pid)\n" * 500,
        "if pid == 1: emit(pid)\n" + "elif pid == 2: emit(pid)\n" * 20000,
    ],
)
def test_endless_nesting_ends(compiled: Callable[..., Program], text: str) -> None:
    with pytest.raises(LanguageError, match=r"nested too deeply|too many nested|more than 200 choices"):
        compiled(text, "kprobe:connect")


def test_many_choices_are_no_deep_nesting(compiled: Callable[..., Program]) -> None:
    choices = ", ".join(str(number) for number in range(1, 3000))
    program = compiled(f"if pid in ({choices}): emit(pid)", "kprobe:connect")
    assert program.shapes[0].fields[0].name == "pid"


def test_all_that_is_wrong_in_the_arguments_of_a_call_is_told(compiled: Callable[..., Program]) -> None:
    with pytest.raises(LanguageError) as caught:
        compiled("emit(x=pid / 2, y=min(1.5, [1]), z=lambda: 1)\nx = pid ** 2", "kprobe:connect")
    wrong = [one.message for one in caught.value.diagnostics]
    assert wrong == [
        "/ is not an operation on integers",
        "the kernel has no floating point",
        "lists are not supported",
        "a probe has no functions inside",
        "** is not an operation on integers",
    ]


def test_what_is_wrong_as_written_and_what_it_means_are_told_together(
    compiled: Callable[..., Program],
) -> None:
    """And nothing that only follows from what is told."""
    text = """
    def f(n):
        return n / 2

    @kprobe("connect")
    def probe(sk):
        x = [1]
        y, z = sk.nothing, x
        if x and 1.5:
            w = 1
        for i in range(3):
            v = f"{i}"
            emit(v, i, other)
        emit(x, y, z, w=f(sk.prio))
        emit(u=unknown)
    """
    with pytest.raises(LanguageError) as caught:
        compiled(text)
    assert [(one.span.line, one.message) for one in caught.value.diagnostics] == [
        (2, "/ is not an operation on integers"),
        (6, "lists are not supported"),
        (7, "struct sock has no member nothing"),
        (8, "the kernel has no floating point"),
        (11, "a probe formats text in print(…) only"),
        (12, "unknown name other"),
        (14, "unknown name unknown"),
    ]
