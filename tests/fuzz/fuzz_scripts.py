"""Fuzz target: scripts in the bpftrace language, those of others (where they are installed) and ours,
mutated by bytes, words and lines.

What is read is made ready for the checker; a script of BEGIN and END only is compiled. Whatever is wrong is
told as LanguageError or KwireError: no other exception, and nothing takes long.
"""

from __future__ import annotations

import contextlib
import random
import zlib
from pathlib import Path

import fuzzing

from kwire.errors import KwireError
from kwire.kinds import TRACE
from kwire.lang.bpftrace.lower import Surroundings
from kwire.lang.bpftrace.reader import read
from kwire.lang.bpftrace.script import probes
from kwire.live.scripts import plan_script

INPUTS = 400
TEXTS = r"""
BEGIN { @a[pid, "x"] = count(); $x = 5; if ($x > 3 && pid != 0) { printf("%d %s\n", $x, comm); }
exit(3); }
---
enum e { A, B = 7 }; struct s { int a; char b[8]; };
BEGIN { @x[A, "t"] = (A, "t", (1, 2)); for ($k : @x) { print($k); } }
---
macro m(@a, $b, c) { @a[c] += $b; @a[c] }
BEGIN { $q = 1; print(m(@z, $q, 4)); delete(@z, 4); clear(@z); }
---
config = { max_map_keys = 10 } let @m = lruhash(5);
BEGIN { @m[1] = 5; @h = lhist(3, 0, 9, 3); @g[comm] = hist(5); } END { print(@m); }
---
BEGIN { for $i : 0..9 { if $i == 3 { continue } @s = sum($i); } while (1) { break; }
unroll(3) { @u++; } }
---
BEGIN { $t = (a=1, b="x"); print($t.a); printf("%s %-5d|%r\n", strftime("%H", nsecs), -1, buf(curtask, 3)); }
---
kprobe:vfs_* /pid == $1/ { @[func, kstack] = count(); }
END { print(@, 5, 10); errorf("x %d", getopt("n", 3)); }
---
BEGIN { $a = 1; $p = &$a; @x = &@y[1]; @y[1] = *$p; $t = "ab"; $c = (int8 *)&$t; print((*$c, *++$c));
print(((int8[8])12345)[0]); print((uint8[])"hi"); @b[buf("ok", 2), (1, ("x", 2))] = len(@y); }
---
macro m(x) { x; x } macro m(a, b) { sizeof(a[2]) + sizeof(b*) } macro bad() { errorf("no"); fail("x %d", 1); }
BEGIN { m({ printf("hi") }); print(m(typeof(uint64*), typeof(uint8))); if comptime (1 == 2) { bad() }
static_assert(sizeof(int8) == 1, "odd"); assert(pid > 0, "none"); }
---
BEGIN { @s[comm] = tseries(5, 100ms, 20, "avg"); @h = hist(9, 3); @c = count(); delete(@c); zero(@h);
print((strlen(comm), strlen("x"), config().max_strlen, usermode, username, rand, ppid(curtask), pid(init)));
printf("%gr %d", 0xcc0, 7 / @q); @q = { let $v = 3; $v }; print(percpu_kaddr("runqueues", cpu)); }
---
struct two { int a; short b[2][2]; struct { char c[4]; } in[2]; };
BEGIN { $n = (uint64)7; @s = *(struct two *)&$n; @k[*(struct two *)&$n, 1] = @s.b;
print(@s.in); print((1, @s));
$c = container_of(&$n, struct two, b); @a[1] = 1; @b = 2; delete(@a[1], @a[2]); print($c.in[1].c); exit(); }
uprobe:/bin/sh:main { print(args); @all[args] = args; print(*uaddr("environ")); print(cgroupid("/sys")); }
---
union u { float f; int i; }; struct w { double d; union u u[2]; };
begin { $n = (uint64)5; print(*(union u *)&$n); @a = pton("::1"); print((ntop(@a), (int32)(uint8[4])$n));
$b = $n > 3 ? buf("a\0b", 3) : buf("cde", 3); print($b); print(len(kstack(3)));
print(offsetof(struct w, u)); }
---
i:ms:1 { $c = (uint64 *)ctx; $k = ustack(2); @ = len($k); printf("%d %s\n", $c[1], "x\0y"); exit(); }
---
fentry:tcp_v4_connect { @[socket_cookie(args.sk)] = count(); }
"""
OWN = TEXTS.split("---")
INSTALLED = [path.read_bytes() for path in sorted(Path("/usr/sbin").glob("*.bt"))]
SEEDS = [*(text.encode() for text in OWN), *INSTALLED]
WORDS = (
    *(
        "{",
        "}",
        "(",
        ")",
        "[",
        "]",
        ";",
        ",",
        "@x",
        "$x",
        "0",
        "-1",
        "1 << 63",
        '"t"',
        "printf",
        "if",
        "else",
        "for",
        "..",
        "->",
    ),
    *(
        "/",
        "*",
        "&&",
        "?",
        ":",
        "=",
        "++",
        "@[",
        "args.x",
        "(struct file *)",
        "sizeof(",
        "let",
        "macro",
        "count()",
        "&$x",
        "&@x",
        "*$x",
        "(int8[8])",
        "comptime",
        "typeof(",
        "tseries(1, 1s, 2)",
        "*(struct two *)",
        "container_of(",
        "args",
        "delete(@x[1], @x[2])",
        "socket_cookie(args.sk)",
        'pton("::1")',
        "ctx",
        "len(kstack)",
        'buf("a\\0b", 3)',
        "float f;",
        "\0",
        "é",
    ),
)


def changed(text: str) -> str:
    """The text with words and lines removed, doubled, exchanged; the same for the same text."""
    choose = random.Random(zlib.crc32(text.encode("utf-8", "surrogateescape")))
    for _ in range(choose.randrange(3)):
        parts = text.split("\n") if choose.random() < 0.3 else text.split(" ")
        at = choose.randrange(len(parts))
        parts[at : at + 1] = choose.choice(
            [
                [],
                [parts[at]] * 2,
                [choose.choice(WORDS)],
                [parts[at], choose.choice(WORDS)],
                [choose.choice(parts)],
            ]
        )
        text = (" " if " " in text else "\n").join(parts)
    return text


def one_input(data: bytes) -> None:
    """Read it and make it ready; compile what needs no place."""
    text = changed(data.decode("utf-8", "surrogateescape"))
    with contextlib.suppress(KwireError):
        script = read("stdin", text)
        kinds = {point.text.partition(":")[0].lower() for probe in script.probes for point in probe.points}
        if kinds <= {*TRACE}:
            plan_script(script)
        else:
            probes(script, Surroundings(("5", "text"), 0, 1, 2))


if __name__ == "__main__":
    fuzzing.main(one_input, SEEDS)
