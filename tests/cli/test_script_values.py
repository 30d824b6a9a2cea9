"""What values of scripts mean where the kernel has to say so: one script, which begins and ends."""

from __future__ import annotations

import os
import pwd
import re
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import PATIENCE

KWIRE = [sys.executable, "-m", "kwire.cli.main"]

SCRIPT = r"""
struct bits { unsigned long long a:1; unsigned long long b:1; unsigned long long c:2; };
struct two { int a; short b; short c; }; struct grid { short m[2][2]; }; struct one { struct two of[1]; };
macro cpu(x) { x }
macro twice(x) { x; x; }
macro size(a) { sizeof(a[2]) }
begin {
  $a = 1; $p = &$a; $a = 7; print(*$p); $a = 8; print(*$p);
  $t = "hello"; $c = (int8 *)&$t; printf("%c%c\n", *$c, *++$c);
  for $i : 0..5 { $a += $i; } print(*$p);
  @x = 5; $q = &@x; @x = 6; print(*$q); print(*&@x);
  $bits = (uint64)0x1e; print(*(struct bits *)(&$bits));
  printf("%x %x\n", ((int8[8])12345)[0], ((int8[])12345)[1]);
  print((int8[])"hi"); print((bool[2])(uint16)1); print(buf("abc")); print(buf(comm, 2));
  @n[1] = 1; @n[2] = 2; print((len(@n), strlen($t), strlen("abc"), strlen(comm) > 0));
  @zero = 0; print(((uint64)10 / @zero, 10 % @zero, 7 / $a, 7 % (@zero + 4)));
  print((sizeof($a), sizeof(1000), sizeof((int64)1)));
  print((sizeof(((int8)1, "abc", (int32)2)), size(typeof(uint64*))));
  twice({ printf("twice ") }); print(cpu("own")); printf("%d\n", cpu() < ncpus);
  $r = (x=1, y=2); $r = (y=3, x=4); print($r);
  printf("%rx %rh\n", buf("ab\0", 3), buf("cd", 2)); @b[buf("ok", 3), 1] = 1; @buf = buf("hello", 4);
  @deep["hi", ("longer", 2)] = 1; for ($kv : @deep) { print($kv.0.1); }
  @h = hist(3, 2); @h = hist(9, 2); @avg = { $v = 100; avg($v) };
  @gone = count(); delete(@gone); print(@unset);
  printf("%d %s %d\n", config().max_strlen, config().stack_mode, usermode);
  printf("%s %d\n", username, pid == ppid(curtask));
  printf("%gr %s %s %s\n", 0xcc0, probetype, signal_name(0), signal_name(1024));
  $one = (uint16[4])(uint64)7; $two = (uint16[4])(uint64)7; $three = (uint16[4])(uint64)8;
  print(($one == $two, $one != $two, $one == $three));
  print((nsecs(boot) >= nsecs, nsecs(tai) > nsecs(monotonic), __NR_nanosleep > 0));
  printf("%s %x\n", ntop(2, pton("127.0.0.1")), (uint32)pton("127.0.0.1"));
  if comptime (sizeof(uint8) == 2) { fail("never") } else { print("known") }
  assert(1 == 1, "fine"); $text = "foo"; $far = (uint64)10; printf("[%s]\n", $text[$far] == 0 ? "" : "?");
  $n = (uint64)0x0004000300020001; @two = *(struct two *)(&$n); print(@two); print(@two.b); $copy = @two;
  @sums[*(struct two *)(&$n)] = $copy.a; @grid[0] = (*(struct grid *)(&$n)).m; print(@grid[0][1][0]);
  for ($kv : @sums) { print($kv.0.b); } print((1, (*(struct grid *)(&$n)).m)); print(*(struct one *)(&$n));
  $i = 2; while (($i--) > 0) { print($i); } while (--$i > -3) { print($i); }
  $some = (uint64)@zero + 4;
  print((str((int8 *)&$t, $some), str("abcdef", $some - 1), strlen(str($t, $some - 9))));
  @cut[str($t, $some)] = str($t, 3); print(str((int8 *)&$t, 3));
  $b1 = buf("bytes of a buf", 14); $b2 = buf("bytes of a bug", 14); $d = memcmp($t, "help", 3);
  print(($b1 == $b1, $b1 == $b2, $b1 != $b2, $b1 == buf("b", 1), $d, memcmp($t, "help", 4)));
  $far = (uint64)kaddr("vfs_read") + 4; print(ksym($far)); @far = ksym($far); @at[ksym($far)] = 1;
  $part = "ell"; $own = comm; $end = str($own, 3); print((strcontains($t, $part), strcontains($own, $t)));
  if (strcontains($own, $end)) { print(strcontains($end, $own)); }
  assert($a == 0, "told");
}
end { @unset = 1; }
"""

PRINTED = """7
8
he
18
6
6
{ .a = 0, .b = 1, .c = 3 }
39 30
[104,105,0]
[true,false]
abc
COMM
(2, 5, 3, true)
(1, 1, 0, 3)
(8, 2, 8)
(12, 16)
twice twice own
1
{ .x = 4, .y = 3 }
\\x61\\x62\\x00 63 64
(longer, 2)
@unset: 0
1024 bpftrace 1
NAME 0
GFP_KERNEL special Unknown signal 0 N/A
(true, false, false)
(true, true, true)
127.0.0.1 100007f
known
[]
@two: { .a = 131073, .b = 3, .c = 4 }
3
3
3
(1, [[1,2],[3,4]])
{ .of = [{ .a = 131073, .b = 3, .c = 4 }] }
1
0
-2
(hel, ab, 5)
he
(true, false, true, false, 0, 1)
vfs_read
(true, false)
false
"""

LEFT = """@at[vfs_read]: 1
@avg: 100
@b[ok\\x00, 1]: 1
@buf: hell
@cut[hel]: he
@deep[hi, (longer, 2)]: 1
@far: vfs_read
@grid[0]: [[1,2],[3,4]]
@h:
[3]                    1 |@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@|"""


@pytest.mark.live
@pytest.mark.native
def test_what_values_mean() -> None:
    run = subprocess.run([*KWIRE, "-q", "-e", SCRIPT], capture_output=True, text=True, timeout=PATIENCE)
    name = pwd.getpwuid(os.geteuid()).pw_name
    own = Path("/proc/self/comm").read_text()[:2]
    printed, _, left = run.stdout.partition("\n\n")
    assert printed + "\n" == PRINTED.replace("NAME", name).replace("COMM", own), run.stderr
    assert left.lstrip("\n").startswith(LEFT)
    assert "assert failed: told" in run.stderr
    assert run.stderr.count("WARNING: Divide or modulo by 0 detected.") == 2
    assert run.returncode == 1


TEXTS = r"""
macro written(x) { is_literal(x) }
begin {
  $s = "hello world"; $p = (int8 *)&$s; @m[1] = (uint64)0; @m[2] = (uint64)3; $below = -5;
  print((str($p, @m[1]), str($p, @m[1] - 1), str($p, @m[2]), str($p, $below * (int64)@m[2]), str($p, 4)));
  if (@m[2] == 3 && str($p, @m[1]) == "") { print("empty"); }
  @one = "lo w"; @t[2] = "x"; @t[3] = "yz";
  print((strstr($s, "wor"), strstr($s, @one), strstr($s, "zz"), strstr($s, "")));
  print((strcontains($s, @one), strcontains("abcyz", @t[3]), strcontains(@one, @t[3])));
  print(strcontains(@one, @t[9]));
  let $v; if (find(@t, 3, $v)) { print($v); } if (find(@t, 9, $v)) { print("found"); } print($v);
  @k[1, "a"] = 7; let $n = 5; $there = find(@k, (1, "b"), $n); print(($there, $n));
  $there = find(@k, (1, "a"), $n); print(($there, $n));
  print((is_literal(1), is_literal("a"), is_literal($s), written(4), written($s)));
  if comptime is_literal(5) { print("known"); } else { fail("never"); }
  print((memcmp(10, 20, 16), memcmp($p + 1, $p + 1, 3), memcmp($p, $p + 2, 3)));
  exit();
}
"""

FOUND = """(, hello world, he, , hel)
empty
(6, 3, -1, 0)
(true, true, false)
true
yz
yz
(false, 5)
(true, 7)
(1, 1, 0, 1, 0)
known
(0, 0, 1)
"""


@pytest.mark.live
@pytest.mark.native
def test_what_functions_of_texts_and_maps_find() -> None:
    run = subprocess.run([*KWIRE, "-q", "-e", TEXTS], capture_output=True, text=True, timeout=PATIENCE)
    assert (run.stdout.partition("\n\n")[0] + "\n", run.stderr) == (FOUND, "")


PLACES = r"""
union either { int whole; float part; };
struct mixed { char small; double real; union either of; float all[2]; char last; };
struct bare { unsigned long word; };
begin {
  $a = pton("2001:db8::1"); $same = $a == pton("2001:db8::1");
  print((ntop(10, $a), ntop(pton("::")), $same, $a == pton("::1")));
  @address = pton("fe80::1:2"); print(ntop(@address));
  $n = (uint64)0x11ddccbbaa; $four = (uint8[4])$n; printf("%x\n", (int32)$four);
  print((sizeof(struct mixed), offsetof(struct mixed, real), offsetof(struct mixed, all)));
  print(*(union either *)(&$n));
  $b = $n == 0 ? buf("one", 3) : buf("two", 3); print($b); print($n ? buf("a\0b", 3) : buf("longer", 6));
  printf("%s %d\n", "cut\0here", 5); printf("\0\n");
  print(buf("\0q", 5)); print(buf("p\0q")); printf("ends\n\0here");
  printf("%d%s", len(kstack(raw, 3)), kstack(raw, 3)); $k = kstack(1); print(len($k));
}
interval:us:100 {
  $word = (uint64 *)ctx; print((((struct bare *)ctx).word == *$word, ctx == 0, *$word > 0));
  print(*((uint8 *)ctx + rand % 4) < 256); exit();
}
"""

PLACED = """(2001:db8::1, ::, true, false)
fe80::1:2
ddccbbaa
(32, 8, 20)
{ .whole = -573785174, .part = \\xaa\\xbb\\xcc\\xdd }
two
a\\x00b
cut 5
\\x00q\\x00\\x00\\x00
p\\x00q
ends
"""


@pytest.mark.live
@pytest.mark.native
def test_where_values_are() -> None:
    run = subprocess.run([*KWIRE, "-q", "-e", PLACES], capture_output=True, text=True, timeout=PATIENCE)
    assert run.stdout.startswith(PLACED), run.stdout + run.stderr
    frames, *stack = run.stdout.removeprefix(PLACED).partition("\n\n\n")[0].splitlines()
    assert (frames, len(stack)) == ("3", 6)
    assert stack[-3:] == ["1", "(true, false, true)", "true"]


ONE_OF_SEVERAL = r"""
begin {
  @n = 1; @s = "abcd"; @t = "wxyz"; @k[1] = "ab"; @k[2] = "cd";
  print((strlen(@s), strlen(@k[2]), strlen(@k[7]), str(@s, 3), buf(@t, 2), (int8[2])@k[2]));
  print((strcontains(@s, "bc"), strncmp(@s, "abx", 2), memcmp(@s, @t, 2), memcmp(@s, "abcz", 3)));
  $p = &@s; print(str($p)); print(@n > 0 ? buf(@s, 2) : buf(@t, 3)); print(@k[1][1]);
  $i = 0; while (strlen(@s) > 2 && $i < 3) { $i++; if ($i == 2) { @s = "ab"; } } print($i);
  if (@n > 0 && strlen(@t) == 4) { print("four"); }
  for ($kv : @k) { @sum += strlen($kv.1); @all[str($kv.1, 2)] = strcontains($kv.1, "d"); } exit();
}
end { clear(@n); clear(@s); clear(@t); clear(@k); }
"""

SEVERAL = """(4, 2, 0, ab, wx, [99,100])
(true, 0, 1, 0)
abcd
ab
98
2
four
"""

SUMS = """@all[a]: false
@all[c]: true
@sum: 4
"""


@pytest.mark.live
@pytest.mark.native
def test_texts_of_maps_that_hold_constant_ones_only_are_texts() -> None:
    words = [*KWIRE, "-q", "-e", ONE_OF_SEVERAL]
    run = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE)
    printed, _, left = run.stdout.partition("\n\n")
    assert (printed + "\n", left.lstrip("\n"), run.stderr) == (SEVERAL, SUMS, "")


FAR = r"""
config = { max_strlen = 16000 }
begin {
  @n = 1; $n = (uint64)1; $p = &$n;
  $t = "a"; $t = str(kptr(@n), @n); $u = "b"; $u = str(kptr(@n), @n); $v = "c"; $v = str(kptr(@n), @n);
  $m = (uint64)2; $q = &$m;
  $w = "a"; $w = str(kptr(@n), @n); $x = "b"; $x = str(kptr(@n), @n); $y = "c"; $y = str(kptr(@n), @n);
  $o = (uint64)3; $r = &$o;
  $n = 5; $m = 6; $o = 7; $n = 8; $m = 9; $o = 10; $m = 11; $o = 12;
  print((*$p, *$q, *$r)); if (@n > 1) { print(($t, $u, $v)); print(($w, $x, $y)); }
  $place = (uint64)kaddr("vfs_read"); @place = $place;
  $near = *(uint64 *)$place + *(uint64 *)($place + 3) + *(uint32 *)($place + 17);
  print($near == *(uint64 *)@place + *(uint64 *)(@place + 3) + *(uint32 *)(@place + 17)); exit();
}
end { delete(@n); delete(@place); }
"""


@pytest.mark.live
@pytest.mark.native
def test_memory_far_from_other_memory_and_at_odd_places() -> None:
    run = subprocess.run([*KWIRE, "-q", "-e", FAR], capture_output=True, text=True, timeout=PATIENCE)
    assert (run.stdout.split("\n\n")[0], run.stderr) == ("(8, 11, 12)\ntrue", "")


@pytest.mark.live
@pytest.mark.native
@pytest.mark.parametrize("size", ["280", "$n"])
def test_bytes_of_a_text_end_where_its_memory_ends(size: str) -> None:
    """What is behind it is of something else, of the kernel's too."""
    script = f"""begin {{ $n = (uint64)250; @m[1] = "abc"; $a = "xy";
      printf("%r\\n", buf($a, {size})); printf("%r\\n", buf(@m[1], {size})); printf("%r\\n", buf(@m[1], 2));
      clear(@m); }}"""
    run = subprocess.run([*KWIRE, "-q", "-e", script], capture_output=True, text=True, timeout=PATIENCE)
    first, second, third = run.stdout.split("\n")[:3]
    assert re.fullmatch(r"xy(\\x00)+", first)
    assert re.fullmatch(r"abc(\\x00)+", second)
    assert third == "ab"


@pytest.mark.live
@pytest.mark.native
def test_what_a_macro_changes_was_read_before_it() -> None:
    """Also where a function of a map's text stands there."""
    script = """macro setit() { @s = "ccc"; 1 }
      begin { @s = "longer"; printf("%d %d %d\\n", strlen(@s), setit(), strlen(@s));
      @s = "a"; $x = strlen(@s) + setit(); print($x); clear(@s); }"""
    run = subprocess.run([*KWIRE, "-q", "-e", script], capture_output=True, text=True, timeout=PATIENCE)
    assert run.stdout.split("\n")[:2] == ["6 1 3", "2"]


@pytest.mark.live
@pytest.mark.native
def test_texts_far_away_in_a_loop_that_reads() -> None:
    """The loop is a function of its own, which takes what could not be read from the same memory."""
    names = [f"$t{number}" for number in range(40)]
    texts = " ".join(f'{name} = str($p); if ({name} == "q") {{ {name} = comm; }}' for name in names)
    loop = 'for ($kv : @a) { print(str((uint64)$kv.0)); print($t39); $t38 = "x"; }'
    body = f"$p = (uint64)8; {texts} @a[8] = 1; {loop} print($t38);"
    script = f"config = {{ max_strlen = 1024 }} begin {{ {body} }} end {{ clear(@a); }}"
    run = subprocess.run([*KWIRE, "-q", "-e", script], capture_output=True, text=True, timeout=PATIENCE)
    assert (run.stdout.strip(), run.stderr) == ("x", "")


@pytest.mark.live
@pytest.mark.native
@pytest.mark.parametrize(
    "script",
    [
        "macro m() { let $s = kstack(2); print(len($s)); } begin { m(); }",
        "macro m($x) { $x = kstack(2); } begin { $s = kstack(4); m($s); print(len($s)); }",
        "begin { @a[1] = 1; $s = kstack(3); for ($kv : @a) { print(len($s)); } }",
    ],
)
def test_a_stack_is_not_counted_where_another_one_would_be(script: str) -> None:
    run = subprocess.run([*KWIRE, "-q", "-e", script], capture_output=True, text=True, timeout=PATIENCE)
    assert "ERROR: len takes a map with keys, or a stack" in run.stderr
    assert run.returncode == 1


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ('strcontains("abcd", pid)', "15-39: ERROR: a u32 is no text, and has no length"),
        ("find(5, 1, $x)", "20-21: ERROR: this is not a map"),
        ("find(@m, 1, 5)", "27-28: ERROR: this is no variable"),
        ('kaddr("a\\xf5")', "15-29: ERROR: the kernel has no symbol a\\xf5"),  # bytes that are no UTF-8
        ("pid > 1 && strstr(comm, @m[1])", "26-45: ERROR: strstr is done before its statement"),
    ],
)
def test_what_is_wrong_with_a_function_is_wrong_with_its_call(script: str, told: str) -> None:
    text = f'begin {{ print({script}); @m[1] = "a"; let $x = 1; }}'
    run = subprocess.run([*KWIRE, "-q", "-e", text], capture_output=True, text=True, timeout=PATIENCE)
    assert run.stderr.startswith(f"stdin:1:{told}")
    assert run.returncode == 1


FULL = r"""
let @lru = percpulruhash(1); let @full = percpuhash(1); let @none = hash(5);
macro bad(x) { errorf("100%% %d", x); }
begin { @lru[1] = count(); @lru[2] = count(); @full[1] = count(); @full[2] = count(); bad(3); exit(4); }
"""


@pytest.mark.live
@pytest.mark.native
def test_what_a_script_is_told() -> None:
    run = subprocess.run([*KWIRE, "-q", "-e", FULL], capture_output=True, text=True, timeout=PATIENCE)
    assert run.stdout.split() == ["@full[1]:", "1", "@lru[2]:", "1"]
    assert "WARNING: Unused map: @none\n" in run.stderr
    assert "WARNING: Map full; can't update element: @full, 1 update;" in run.stderr
    assert "stdin:3:16-37: ERROR: 100% 3\nstdin:4:87-93: ERROR: expanded from\nbegin {" in run.stderr
    assert run.returncode == 4


@pytest.mark.live
@pytest.mark.native
def test_nothing_is_done_once_a_probe_has_asked_for_the_end() -> None:
    script = 'interval:us:100 { printf("once\\n"); @ = count(); exit(3); } end { printf("end\\n"); }'
    run = subprocess.run([*KWIRE, "-q", "-e", script], capture_output=True, text=True, timeout=PATIENCE)
    assert run.stdout.split() == ["once", "end", "@:", "1"]
    assert run.returncode == 3


@pytest.mark.live
@pytest.mark.native
def test_who_stops_reading_ends_a_script_without_a_word() -> None:
    script = "interval:ms:5 { @[1] = count(); time(); print(@); clear(@); }"
    words = [*KWIRE, "-q", "-e", script]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141  # as of a program that SIGPIPE ended


def test_a_script_tells_its_options() -> None:
    script = 'begin { print((getopt("one", 10, "what it is"), getopt("two"))) }'
    run = subprocess.run(
        [*KWIRE, "-e", script, "--", "--help"], capture_output=True, text=True, timeout=PATIENCE
    )
    assert run.stderr == "HINT: expected program options:\n  --one: what it is\n  --two\n"
    assert run.returncode == 1


@pytest.mark.live
@pytest.mark.native
def test_series_of_times(tmp_path: Path) -> None:
    script = (
        'begin { @["a"] = tseries(2, 1h, 3); @s = tseries(3, 1h, 3, "sum"); @s = tseries(4, 1h, 3, "sum") }'
    )
    script = script.replace("1h", "3600s")
    capture = str(tmp_path / "series.pcapng")
    run = subprocess.run(
        [*KWIRE, "-q", "-w", capture, "-e", script], capture_output=True, text=True, timeout=PATIENCE
    )
    assert "@[a]:\n" in run.stdout, run.stderr
    assert run.stdout.count("*") in (2, 3)  # the hour may have changed between two of them
    shown = subprocess.run([*KWIRE, "show", capture], capture_output=True, text=True, timeout=PATIENCE)
    assert shown.stdout == run.stdout


def test_settings_of_the_environment_go_before() -> None:
    environment = os.environ | {"BPFTRACE_MAX_STRLEN": "99", "BPFTRACE_COLOR": "never"}
    words = [
        "-d",
        "ir",
        "-e",
        "config = { max_strlen = 5; BPFTRACE_STACK_MODE = raw } begin { $x = str(1); }",
    ]
    run = subprocess.run([*KWIRE, *words], capture_output=True, text=True, timeout=PATIENCE, env=environment)
    assert run.returncode == 0, run.stderr
    wrong = subprocess.run(
        [*KWIRE, "-d", "ir", "-e", "begin { }"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=environment | {"BPFTRACE_MAX_STRLEN": "0"},
    )
    assert "max_strlen is from 1 to 16,384" in wrong.stderr
    assert wrong.returncode == 1


LONG = """config = { max_strlen = 9999 }
tracepoint:syscalls:sys_enter_access /pid == cpid && strlen(str(args.filename)) > 5000/ {
  @kept = str(args.filename); @again = @kept; printf("%s\\n", str(args.filename)); print(strlen(@again));
  exit();
}"""


@pytest.mark.live
@pytest.mark.kernels("6.1")
def test_texts_may_be_long() -> None:
    name = "X" * 5555
    command = f"{sys.executable} -c 'import os; os.access(\"X\" * 5555, 0)'"
    words = [*KWIRE, "-q", "-e", LONG, "-c", command]
    run = subprocess.run(words, capture_output=True, text=True, timeout=200)
    assert run.stdout.split() == [name, "5555", "@again:", name, "@kept:", name], run.stderr
