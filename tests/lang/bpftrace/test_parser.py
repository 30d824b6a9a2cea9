"""Scripts that are right: how they are read. Scripts that are wrong: everything that is said of them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from kwire.lang.bpftrace.reader import read
from kwire.lang.bpftrace.shown import shown
from kwire.lang.errors import LanguageError

HERE = Path(__file__).parent
TOOLS = sorted(Path("/usr/sbin").glob("*.bt"))

SCRIPT = r"""#!/usr/bin/env kwire
/* A comment with a # line:
# not a directive
*/
#ifndef BPFTRACE_HAVE_BTF
#include "missing.h"
#else
#include <sys/socket.h>
#endif
#define LIMIT 10
#define BOTH (LIMIT + 1) // a comment
#if defined(LIMIT) && LIMIT > 9
#define SEEN 1
#elif 0
#error no
#endif

struct pair { int a, *b; char c[4]; struct { unsigned long d:3; } e; void (*f)(int); }
  __attribute__((packed));
enum color { RED, GREEN = 4, BLUE };

config = { missing_probes = warn; max_strlen = 64 }

let @m = lruhash(100);

macro twice($x) { $x * 2 }

BEGIN { @start = nsecs; printf("%-6s %s\n", "PID", "COMM"); }

tracepoint:syscalls:sys_enter_open,
tracepoint:syscalls:sys_enter_openat,
/pid == $1 && comm != "x" /  // a predicate
{
  let $a : uint64 = 1e6;
  $b = (struct task_struct *)curtask;
  $c = $b->pid + args.flags ? twice(3) : -1;
  if ($c > BOTH) { @m[pid, comm] = count(); } else if $a == RED { $a += 0x1f; } else { return; }
  unroll (3) { @x[$a]++; --$a; }
  for ($i : 0..10) { if ($i == 5) { break; } continue; }
  while ($a < 5) { $a++; }
  for ($kv : @m) { print(($kv.0, $kv.1)); }
  $d = (1, "two", (3, 4)); $e = (one=1, two=2);
  _ = strlen("x");
  printf("%d %s\n", sizeof(struct pair), str($b.comm)); print(sizeof($a)); print(offsetof(struct pair, e.d));
  delete(@m[1, "x"]); clear(@m); @ = { let $z = 3; $z + 1 };
  $f = *$b; $g = &$a; $h = ~$a ^ !$a << 2 >> 1 | 7 & 3 % 2;
}

uprobe:/lib/*/libc.so:malloc /arg0/ { @[ustack(3)] = hist(arg0); }
kprobe:"vfs_*" , kretprobe:vfs_read { @["a" "b"] = lhist(retval, 0, 100, 10) }
interval:s:1 { exit() }
"""


def test_a_script_of_everything_is_read_as_it_was() -> None:
    """The tree, a node a line, beside this file: it is looked at when it changes."""
    expected = (HERE / "everything.txt").read_text()
    assert shown(read("stdin", SCRIPT)) == expected


@pytest.mark.parametrize("path", TOOLS, ids=lambda path: path.name)
def test_the_tools_of_bpftrace_are_read(path: Path) -> None:
    """Where the package is installed; elsewhere there are none."""
    assert read(str(path), path.read_text()).probes


# (script, what is said: "line:column-end: message; hint")
WRONG = [
    ("", "1:1-2: there is no probe in this script; write BEGIN { … }"),
    ("BEGIN", "1:5-6: the script ends where '{' to open the probe has to follow; "
     "a probe is: kind:target, perhaps a /condition/, and { statements }"),
    ("BEGIN {", "1:7-8: this brace has no end; write }"),
    ("BEGIN { $x = ; }", "1:14-15: ';' stands where a value has to"),
    ("BEGIN { f(1, }", "1:14-15: '}' stands where a value has to"),
    ("BEGIN { $x = 1 $y = 2; }", "1:14-15: behind this ';' has to follow, not '$y'; write ;"),
    ('BEGIN { printf("x); }', '1:16-22: this string has no end on its line; write "'),
    (r'BEGIN { printf("\q"); }',
     r'1:17-19: \q is no escape of a string; the escapes are \n \t \r \" \\ \x1b \033'),
    ("BEGIN { /* x }", "1:9-11: this comment has no end; write */"),
    ("BEGIN { $x = 1.5; }", "1:14-17: 1.5 is no number; there are no fractions: calculate in a smaller unit"),
    ("BEGIN { $x = 08; }", "1:14-16: 08 is no number; octal digits are 0 to 7"),
    ("BEGIN { $x = 1e99; }", "1:14-18: 1e99 is no number; an exponent is 0 to 19"),
    ("BEGIN { $x = 18446744073709551616; }",
     "1:14-34: 18446744073709551616 is no number; a number has 64 bits"),
    ("BEGIN { $x = 5q; }",
     "1:14-16: 5q is no number; what may follow a number is u, l, ul, ull, or ns, us, ms, s, m, h, d"),
    ("BEGIN { $x = 'a'; }", "1:14-17: there are no characters in quotes; write a text as \"x\""),
    ("BEGIN { $ = 1; }", "1:9-10: a name has to follow $; write $name, or $1 for an argument of the script"),
    ("BEGIN { 5 = 1; }", "1:9-11: to this nothing can be assigned; assign to $name or @name"),
    ("BEGIN { $a.b = 1; }", "1:9-14: a part of a value cannot be changed; make a new value and assign that"),
    ("BEGIN { pid++; }", "1:9-12: ++ and -- change variables and maps only; write $x++ or @x++"),
    ("BEGIN { $x = struct a; }", "1:14-20: 'struct' stands where a value has to; "
     "a type stands in parentheses: (struct NAME *)value"),
    ("BEGIN { for (1..2) { } }", "1:14-15: '1' stands where a variable has to; "
     "write for $i : 0..10 { … }, or for $kv : @map { … }"),
    ("BEGIN { for ($i : 5) { } }", "1:19-20: a loop is over a range or a map; write for $i : 0..10 { … }"),
    ("#if 1\nBEGIN { }", "1:1-6: this condition has no end; write #endif"),
    ("#endif\nBEGIN { }", "1:1-7: #endif ends no condition; there is no #if before it"),
    ("#foo\nBEGIN { }", "1:1-5: #foo is no directive; there are #define, #undef, #include, #ifdef, #ifndef, "
     "#if, #elif, #else, #endif, #pragma, #error"),
    ("#define F(x) x\nBEGIN { $x = F(1) + F; }",
     "2:21-22: F takes arguments, which is not supported yet; write macro F($x) { … }"),
    ("#define A B +\nBEGIN { $x = A; }", "2:14-15: the script ends where a value has to follow"),
    ("typedef int x; BEGIN { }",
     "1:1-8: typedef is not supported yet; write struct NAME { … }, and struct NAME where it is used"),
    ("let $x = 1; BEGIN { }",
     "1:5-7: '$x' stands where a map has to; outside of probes: let @name = hash(100);"),
    ("BEGIN { $x = (a=1, a=2); }", "1:20-21: a is there twice; use two names"),
    ("{ }", "1:1-2: '{' stands where a probe has to"),
    ("BEGIN { $x = " + "(" * 200 + "1", "1:113-114: this is nested more than 100 deep"),
    ("BEGIN { $x = " + "1+" * 300 + "1; }",
     "1:14-417: these are more than 200 operators in a row; use a variable"),
]  # fmt: skip


def said(text: str) -> list[str]:
    with pytest.raises(LanguageError) as caught:
        read("stdin", text)
    found = []
    for one in caught.value.diagnostics:
        first, *rest = one.report(caught.value.source)
        hint = rest[-1].removeprefix("HINT: ") if rest and rest[-1].startswith("HINT: ") else ""
        first = first.removeprefix("stdin:").replace(" ERROR:", "", 1)
        found.append(f"{first}; {hint}" if hint else first)
    return found


@pytest.mark.parametrize(("text", "expected"), WRONG, ids=[text[:30] for text, _ in WRONG])
def test_what_is_wrong_is_said_at_its_place(text: str, expected: str) -> None:
    assert said(text)[0] == expected


def test_all_that_is_wrong_is_said_at_once() -> None:
    text = (
        "kprobe:a { $x = ; foo( }\nkprobe:b /pid ==/ { }\nkprobe:c { if { } $y = 08; }\nkprobe:d { exit(); }"
    )
    assert [one.split(":")[0] for one in said(text)] == ["1", "1", "2", "3", "3"]


def test_the_picture_of_a_fault() -> None:
    with pytest.raises(LanguageError) as caught:
        read("x.bt", 'BEGIN {\n\tprintf("%d", 1 2);\n}')
    assert caught.value.diagnostics[0].report(caught.value.source) == [
        "x.bt:2:17-18: ERROR: '2' stands where ')' to close the arguments of printf has to",
        '\tprintf("%d", 1 2);',
        "\t               ~",
    ]


def mutated(text: str, dice: random.Random) -> str:
    """A script with a few stretches left out, doubled, swapped or replaced."""
    for _ in range(dice.randint(1, 4)):
        at, end = sorted(dice.randrange(len(text) + 1) for _ in range(2))
        end = min(end, at + dice.choice((1, 1, 2, 5, 40)))
        piece = dice.choice(
            ("", text[at:end] * 2, dice.choice("{}()[]/\\\"'$@#*;,.<>=&|!~%\n\0\x80é"), "/*", "1e9", "0x")
        )
        text = text[:at] + piece + text[end:]
    return text


def test_no_script_breaks_the_parser() -> None:
    """What comes is a script or a diagnostic, of any mutation of a script."""
    dice = random.Random(12)
    found: list[LanguageError] = []
    for _ in range(300):
        try:
            read("stdin", mutated(SCRIPT, dice))
        except LanguageError as error:
            found.append(error)
    assert 200 < len(found) < 300
    assert all(one.message and one.report(error.source) for error in found for one in error.diagnostics)


@pytest.mark.parametrize(
    "piece",
    ["(", "{", "[", "-", "if 1 {", "$x[", "f(", "1?", "!", "*", "(a=", "@a[", "x.", '"a"', "macro m("],
)
def test_depth_is_no_trouble(piece: str) -> None:
    with pytest.raises(LanguageError):
        read("stdin", "BEGIN { $x = " + piece * 5000)
