"""Scripts from the command line: what they print, what is kept of it, what is said of wrong ones."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from waiting import PATIENCE

from kwire.wire.names import SYSCALLS

KWIRE = [sys.executable, "-m", "kwire.cli.main"]
OPENS = "tracepoint:syscalls:sys_enter_openat /pid == cpid/"


def kwire(*words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    return subprocess.run([*KWIRE, *words], capture_output=True, text=True, timeout=PATIENCE, input=text)


@pytest.fixture
def touched(tmp_path: Path) -> Path:
    path = tmp_path / "some file.conf"
    path.write_text("")
    return path


@pytest.mark.live
@pytest.mark.native
def test_a_script_prints_and_show_prints_the_same(touched: Path, tmp_path: Path) -> None:
    program = (
        OPENS + ' { printf("%-8s|%6d|%x ", comm, $1, args.flags); printf("%s\\n", str(args.filename)); }'
    )
    capture = tmp_path / "opens.pcapng"
    run = kwire("-w", str(capture), "-c", f"cat '{touched}'", "-e", program, "42")
    assert run.returncode == 0, run.stderr
    assert run.stderr == "Attached 1 probe\n"
    flags = f"{os.O_RDONLY | os.O_LARGEFILE:x}"
    assert f"cat     |    42|{flags} {touched}\n" in run.stdout
    assert run.stdout.endswith("\n\n\n")
    shown = kwire("show", str(capture))
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout == run.stdout
    events = [json.loads(line) for line in kwire("show", "--json", str(capture)).stdout.splitlines()]
    assert events[-1]["fields"] == {"filename": str(touched)}
    assert kwire("verify", str(capture)).returncode == 0


@pytest.mark.live
@pytest.mark.native
def test_targets_with_names_of_many_lengths_share_a_map() -> None:
    run = kwire("--dry-run", "-e", "tracepoint:syscalls:sys_enter_open* { @[probe] = count(); }")
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.live
@pytest.mark.native
def test_a_file_with_the_time_to_a_file_as_json(touched: Path, tmp_path: Path) -> None:
    script = tmp_path / "x.bt"
    script.write_text("#!/usr/bin/env kwire\n" + OPENS + ' { time("%Y\\n"); printf("\\"%s\\"\\n", comm); }')
    out = tmp_path / "out"
    run = kwire(str(script), "-f", "json", "-o", str(out), "-c", f"cat '{touched}'")
    assert run.returncode == 0, run.stderr
    assert run.stdout == ""
    attached, *printed = [json.loads(line) for line in out.read_text().splitlines()]
    assert attached == {"type": "attached_probes", "count": 1, "data": {"probes": 1}}
    assert [one["type"] for one in printed] == ["time", "printf"] * (len(printed) // 2)
    assert printed[0]["data"].strip().isdecimal()
    assert printed[1]["data"] == '"cat"\n'


WHOLE = """struct pair { int a; char b[4]; };
enum color { RED = 3 };
BEGIN {
    @n[1] = comm; @n[2] = "constant"; $was = @n[2]; @n[2] = "other";
    printf("%s %s|%s\\n", $was, @n[2], @n[9]);
    @t = (1, "x", (RED, comm)); @r["k"] = (a=1, b=(c="y"));
    for ($kv : @n) { if ($kv.0 == 2) { print($kv); @seen[$kv.1] = $kv.0; } }
    print((1, "a", @t.2)); print(*(struct pair *)0); $x = pid ? comm : "no"; print($x == comm);
}"""


@pytest.mark.live
@pytest.mark.kernels("6.1")
def test_texts_tuples_and_loops_over_maps() -> None:
    run = kwire("-q", "-e", WHOLE)
    assert run.stderr == ""
    lines = run.stdout.splitlines()
    [name] = [line.removeprefix("@n[1]: ") for line in lines if line.startswith("@n[1]: ")]
    assert lines == [
        "constant other|",
        "(2, other)",
        f"(1, a, (RED, {name}))",
        "{ .a = 0, .b =  }",
        "true",
        "",
        "",
        f"@n[1]: {name}",
        "@n[2]: other",
        "@r[k]: { .a = 1, .b = { .c = y } }",
        "@seen[other]: 2",
        f"@t: (1, x, (RED, {name}))",
    ]
    run = kwire("-q", "-f", "json", "-e", 'BEGIN { @t = (1, "x"); @r["k"] = (a=1, b=(c="y")); @s = "z"; }')
    assert [json.loads(line)["data"] for line in run.stdout.splitlines()] == [
        {"@r": {"k": {"a": 1, "b": {"c": "y"}}}},
        {"@s": "z"},
        {"@t": [1, "x"]},
    ]


@pytest.mark.live
@pytest.mark.native
def test_the_command_decides_the_exit_status() -> None:
    assert kwire("-q", "-c", "sh -c 'exit 7'", "-e", OPENS + " { }").returncode == 7


@pytest.mark.live
@pytest.mark.native
def test_two_probes_at_one_place_are_two() -> None:
    probe = "tracepoint:syscalls:sys_enter_getppid /pid == cpid/"
    program = f'{probe} {{ printf("a\\n"); }} {probe} {{ printf("b\\n"); }}'
    run = kwire("-c", f"{sys.executable} -c 'import os; os.getppid()'", "-e", program)
    assert sorted(run.stdout.split()) == ["a", "b"]
    assert run.stderr == "Attached 2 probes\n"


@pytest.mark.live
@pytest.mark.native
@pytest.mark.parametrize(
    ("first", "told"),
    [
        (
            "tracepoint:sched:nope { @d[1] = comm; }",
            "stdin:1:1-22: ERROR: No matches for tracepoint sched:nope",
        ),
        ("END { @d[1] = str(1, nope); }", "stdin:1:22-26: ERROR: unknown name nope"),
        ("BEGIN { @d[1] = 5; }", "stdin:1:29-40: ERROR: an s64 is no text"),
    ],
    ids=["a missing probe", "a wrong one", "a number"],
)
def test_what_would_fill_a_map_is_told_and_not_what_follows(first: str, told: str) -> None:
    run = kwire("--dry-run", "-e", f'{first} BEGIN /@d[1] != ""/ {{ print(@d[1]); exit(); }}')
    assert run.stderr.startswith(told)
    assert run.stderr.count("ERROR") == 1


@pytest.mark.live
@pytest.mark.native
def test_a_missing_probe_is_what_the_setting_says() -> None:
    program = 'tracepoint:sched:nope, tracepoint:syscalls:sys_enter_getppid { printf("%s", probe); }'
    run = kwire("--dry-run", "-e", program)
    assert run.returncode == 1
    assert run.stderr.splitlines()[0] == (
        "stdin:1:1-22: ERROR: No matches for tracepoint sched:nope: this kernel has no such tracepoint"
    )
    run = kwire("--dry-run", "-e", f"config = {{ missing_probes = ignore }} {program}")
    assert (run.returncode, run.stderr) == (0, "")
    pattern = program.replace("nope", "nope*")  # beside a place that is there
    run = kwire("--dry-run", "-e", pattern)
    assert run.returncode == 0
    assert run.stderr.startswith("stdin:1:1-23: WARNING: No matches for tracepoint sched:nope*. Skipping.")
    for silent in (
        "config = { missing_probes = ignore } " + pattern,
        pattern.replace(":sched:nope*", ":syscalls:*getppid"),
    ):
        run = kwire("--dry-run", "-e", silent)
        assert (run.returncode, run.stderr) == (0, "")
    run = kwire(
        "--dry-run", "-e", f"BEGIN {{ }} {program.replace(', tracepoint:syscalls:sys_enter_getppid', '*')}"
    )
    assert run.returncode == 1
    assert "ERROR: No matches for tracepoint sched:nope*: no tracepoint matches" in run.stderr
    run = kwire("--dry-run", "-e", "config = { missing_probes = warn } BEGIN { } tracepoint:sched:nope { }")
    assert run.returncode == 0
    assert "WARNING: No matches for tracepoint sched:nope. Skipping." in run.stderr
    assert "WARNING: Probe has no valid attach points." in run.stderr


def test_all_that_is_wrong_is_said() -> None:
    run = kwire("-e", "kprobe:f { $x = ; }\nkprobe:g { foo bar }")
    assert run.returncode == 1
    assert run.stderr == (
        "stdin:1:17-18: ERROR: ';' stands where a value has to\n"
        "kprobe:f { $x = ; }\n"
        "                ~\n"
        "stdin:2:14-15: ERROR: behind this ';' has to follow, not 'bar'\n"
        "kprobe:g { foo bar }\n"
        "             ~\n"
        "HINT: write ;\n"
    )


def test_the_tree_is_shown() -> None:
    run = kwire("-d", "ast", "-e", "kprobe:f { exit() }")
    assert run.returncode == 0
    assert run.stdout == "probe\n  attachpoint text='kprobe:f'\n  block\n    call function='exit'\n"


def test_a_stage_is_shown() -> None:
    program = 'BEGIN {\n $x = pid;\n if ($x > 7) { printf("%d\\n", $x); }\n}'
    run = kwire("-d", "all", "-e", program)
    assert (run.returncode, run.stderr) == (0, "")
    lines = run.stdout.splitlines()
    assert lines[0] == "probe"
    assert "; begin" in lines
    assert "entry:" in lines
    at = lines.index('; stdin:3: if ($x > 7) { printf("%d\\n", $x); }')
    assert re.match(r" +\d+: \(..\) ", lines[at + 1])
    only = kwire("-d", "ir", "-e", program).stdout.splitlines()
    assert only[:2] == ["; begin", "entry:"]
    assert only[:-1] == lines[lines.index("; begin") :][: len(only) - 1]
    assert kwire("-d", "nope", "-e", program).returncode == 2


def test_probes_are_listed() -> None:
    assert kwire("-l", "interval:*", "begin").stdout.split() == [
        *(f"interval:{unit}:" for unit in ("hz", "ms", "ns", "s", "us")),
        "begin",
    ]
    run = kwire("-lv", "tracepoint:sched:sched_process_ex*,struct list_head", "profile:hz")
    lines = run.stdout.splitlines()
    assert lines[0] == "tracepoint:sched:sched_process_exec"
    assert "    pid_t pid" in lines
    assert "tracepoint:sched:sched_process_exit" in lines
    assert "vmlinux: struct list_head {" in lines
    assert lines[-1] == "profile:hz:"
    program = "interval:s:1 { } tracepoint:sched:sched_process_exi[t], BEGIN { }"
    assert kwire("-l", "-e", program).stdout.split() == [
        "interval:s:",
        "tracepoint:sched:sched_process_exit",
        "begin",
    ]
    run = kwire("-l", "-e", "kprope:f { }")
    assert run.returncode == 1
    assert "did you mean kprobe" in run.stderr
    run = kwire("-l", "nowhere.bt")
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == "kwire: read nowhere.bt: no such file or directory\n"


def test_what_scripts_find_here_is_told() -> None:
    lines = kwire("--info").stdout.splitlines()
    rows = dict(line.strip().split(": ", 1) for line in lines if line.startswith("  "))
    assert rows["Arch"] == os.uname().machine
    assert {"btf", "kprobe_multi", "Loop support", "libdw (DWARF support)", "fentry"} < rows.keys()
    answers = [value for name, value in rows.items() if name not in ("OS", "Arch", "version", "Python")]
    assert set(answers) == {"yes", "no"}


@pytest.mark.live
@pytest.mark.native
def test_options_of_bpftrace() -> None:
    quiet = [
        "-k",
        "-I",
        "/nowhere",
        "--include",
        "x.h",
        "--no-feature",
        "kprobe_multi",
        "--unsafe",
        "-B",
        "full",
    ]
    run = kwire(*quiet, "-v", "-e", 'BEGIN { printf("%d %d\\n", $1, $2); exit(4); }', "5", "--", "7")
    assert run.returncode == 4
    assert run.stdout == "5 7\n\n\n"
    said, attached = run.stderr.splitlines()
    assert re.fullmatch(r"begin: \d+ instructions, attached as begin", said)
    assert attached == "Attached 1 probe"
    program = "config = { missing_probes = warn } BEGIN, tracepoint:no:no { }"
    assert "WARNING" in kwire("--dry-run", "-e", program).stderr
    run = kwire("--dry-run", "--no-warnings", "-e", program)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


SAYING = r"""
macro inc(@m, $x, k) { @m[k] += $x; @m[k] }
macro two(@q) { inc(@q, 1, "a") }
BEGIN {
  $y = 5;
  printf("%d %d %d %d\n", inc(@z, $y, "a"), two(@z), $y, $y++);
  if (delete(@z, "a")) { printf("gone\n"); }
  $again = delete(@z, "a");
  printf("%d %s %d %d %d\n", $again, getopt("s", "x"), getopt("n", -5), getopt("b"), getopt("c", true));
  printf("%s|%s|%s\n", strerror(7), signal_name(2), syscall_name(getopt("call", 0)));
  printf("%s\n", strftime("%Y.%f", nsecs));
  @["at", strftime("%Y", nsecs)] = 1;
  @e[strerror(1)] = count();
  cat("/proc/sys/kernel/%s", "ostype");
  system("echo said %d", 3);
  errorf("bad %d", 4);
  warnf("odd %d", 5);
  print(6);
  print(@e[strerror(1)]);
  print(__builtin_pid == pid());
  exit(7);
}
"""


@pytest.mark.live
@pytest.mark.native
def test_what_scripts_of_others_say(tmp_path: Path) -> None:
    script, capture, year = tmp_path / "x.bt", tmp_path / "x.pcapng", time.strftime("%Y")
    script.write_text(SAYING)
    given = ["--", "--n=7", "--s=hello", "--b", "--call=0"]
    run = kwire("--unsafe", "-w", str(capture), str(script), *given)
    assert run.returncode == 7, run.stderr
    lines = run.stdout.splitlines()
    call = SYSCALLS[os.uname().machine]
    name = next(word for word, number in call.items() if number == 0)
    expected = ["5 6 5 5", "gone", "0 hello 7 1 1", f"Argument list too long|Interrupt|{name}"]
    assert lines[:4] == expected
    assert re.fullmatch(rf"{year}\.\d{{6}}", lines[4])
    assert lines[5:10] == ["Linux", "said 3", "6", "1", "true"]
    assert lines[-2:] == [f"@[at, {year}]: 1", "@e[Operation not permitted]: 1"]
    assert run.stderr.splitlines()[-2:] == [
        f"{script}:16:3-22: ERROR: bad 4",
        f"{script}:17:3-21: WARNING: odd 5",
    ]
    shown = kwire("show", str(capture)).stdout.splitlines()
    assert shown[:5] == lines[:5]
    assert "<cat of /proc/sys/kernel/ostype" in shown[5]
    run = kwire("-f", "json", "--unsafe", "--no-warnings", str(script), *given)
    printed = [json.loads(line) for line in run.stdout.splitlines()]
    told = [(one["type"], one["data"]) for one in printed[6:13]]
    assert told[:2] == [("cat", "Linux\n"), ("syscall", "said 3\n")]
    assert [kind for kind, _ in told[2:4]] == ["errorf", "warnf"]
    assert told[4:] == [("value", 6), ("value", 1), ("value", True)]
    assert run.stderr == "", run.stderr


OF_ONES_OWN = r"""
config = { license = "Dual BSD/GPL" }
enum Foo { ONE = 1, TWO, FAR = 99999 };
let @o = percpuhash(5);
macro twice(x) { $y = x + 1; $z = x + 2; $y + $z }
macro inc(x) { x + 1 }
macro say(what, n) { printf(what, n) }
BEGIN {
  say("said %d\n", 8);
  $one = ONE;
  @o = TWO;
  printf("%d %s %s %s %s\n", ONE, FAR, $one, @o, (enum Foo)2);
  print((enum Foo)7);
  $y = 2;
  print(twice({ $y += 1; $y }));
  print(inc(inc(3)));
  _ = { print(1); 1 };
  @p = (int32 *)0x32;
  @p -= 1;
  @q = (int64 *)0x32;
  @q++;
  @r[ONE, TWO] = 1;
  print((ONE, $one == ONE));
  print(ONE + 1);
}
"""


@pytest.mark.live
@pytest.mark.native
def test_enumerations_pointers_and_macros_as_others_have_them() -> None:
    run = kwire("-q", "-e", OF_ONES_OWN)
    assert run.stderr == ""
    printed = ["said 8", "1 FAR ONE TWO TWO", "7", "10", "5", "1", "(ONE, true)", "2", "", ""]
    held = ["@o: TWO", "@p: 0x2e", "@q: 0x3a", "@r[ONE, TWO]: 1"]
    assert run.stdout.splitlines() == [*printed, *held]


@pytest.mark.parametrize(
    ("program", "given", "said"),
    [
        ('print(getopt("a", 1, "how many"))', ["--a=x"], "kwire: run --a: 'x' is no number"),
        ('print(getopt("a", 1))', ["--a"], "kwire: run --a: it has no value; write --a=…"),
        ('print(getopt("a"))', ["--a=maybe"], "kwire: run --a: 'maybe' is neither true nor false"),
        (
            'print(getopt("a", 1, "how many"))',
            ["--help"],
            "HINT: expected program options:",
        ),
        ("getopt(1)", [], "stdin:1:9-18: ERROR: this is no option"),
        ('system("x")', [], "stdin:1:9-20: ERROR: system() can change the system"),
    ],
)
def test_what_a_script_is_given_wrongly(program: str, given: list[str], said: str) -> None:
    run = kwire("--dry-run", "-e", f"BEGIN {{ {program} }}", "--", *given)
    assert run.returncode == 1
    assert run.stderr.splitlines()[0] == said


@pytest.mark.live
@pytest.mark.native
def test_arguments_are_joined() -> None:
    command = "env A=5 sh -c 'exit 0' x '' y"
    run = kwire(
        "-q",
        "-c",
        command,
        "-e",
        'tracepoint:syscalls:sys_enter_execve /pid == cpid/ { join(args.argv, ",") }',
    )
    assert "env,A=5,sh,-c,exit 0,x,,y" in run.stdout.splitlines()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["/nowhere/x.bt"], "kwire: read /nowhere/x.bt: no such file or directory\n"),
        (["-q"], "kwire: run script: there is none; write kwire -e 'PROGRAM', or kwire FILE.bt\n"),
        (["-", "-q"], "stdin:1:1-2: ERROR: there is no probe in this script\nHINT: write BEGIN { … }\n"),
        (["nope"], "kwire: there is no verb 'nope'; see 'kwire --help'\n"),
    ],
)
def test_what_is_no_script_is_said_in_one_line(words: list[str], said: str) -> None:
    run = kwire(*words, text="")
    assert run.returncode in (1, 2)
    assert run.stderr == said


MAPS = """
BEGIN { @a = 1; @b["x", 2] = 5; @b["yyy", 3] = 4; @h = hist(5); @h = hist(-1); @l = lhist(5, 0, 10, 5);
  @s = stats(4); @s = stats(-7); @c[1] = count(); @d["n"] += 3; @d["n"]--; @e = avg(3); @z = 7; delete(@z);
  @p[0] = (struct task_struct *)16; @m = max(2); @m = max(9); }
END { printf("%d %d %d\\n", @a, @b["x", 2], has_key(@b, ("q", 1))); }
"""

PRINTED = """1 5 0


@a: 1
@b[yyy, 3]: 4
@b[x, 2]: 5
@c[1]: 1
@d[n]: 2
@e: 3
@h:
(..., 0)               1 |@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@|
[0]                    0 |                                                    |
[1]                    0 |                                                    |
[2, 4)                 0 |                                                    |
[4, 8)                 1 |@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@|

@l:
[5, 10)                1 |@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@|

@m: 9
@p[0]: 0x10
@s: { .count = 2, .average = -1, .total = -3 }
"""


@pytest.mark.live
@pytest.mark.native
def test_maps_are_printed_at_the_end() -> None:
    """A script of BEGIN and END only ends by itself."""
    run = kwire("-q", "-e", MAPS)
    assert run.stderr == ""
    assert run.stdout == PRINTED
    run = kwire("-q", "-f", "json", "-e", "config = { print_maps_on_exit = false } BEGIN { @x = 1; }")
    assert '"@x"' not in run.stdout


ACTS = """
BEGIN { @a[1] = count(); @a[2] = count(); @a[2] = count(); print(@a); print(@a, 1); clear(@a);
  print(@a); @b = 5; print(@b); zero(@b); print(@b); @c["x"] = 7; print(@c["x"]); zero(@c);
  print(comm == "x"); print(-5); @d = sum(100); print(@d, 0, 7); clear(@d); exit(4); print(1); }
END { printf("end\\n"); clear(@c); }
"""


@pytest.mark.live
@pytest.mark.native
def test_maps_are_printed_and_emptied_in_order_and_exit_gives_the_status() -> None:
    run = kwire("-q", "-e", ACTS)
    assert run.stderr.startswith("stdin:4:86-94: WARNING: Unreachable statement\n")
    assert run.stdout == "@a[1]: 1\n@a[2]: 2\n@a[2]: 2\n@b: 5\n@b: 0\n7\nfalse\n-5\n@d: 14\nend\n\n\n@b: 0\n"
    assert run.returncode == 4


@pytest.mark.live
@pytest.mark.native
def test_maps_join_two_probes() -> None:
    program = (
        "tracepoint:syscalls:sys_exit_getppid /@start[tid]/ "
        "{ @ns = sum(nsecs - @start[tid] > 0); delete(@start[tid]); } "
        "tracepoint:syscalls:sys_enter_getppid /pid == cpid/ "
        "{ @start[tid] = nsecs; @calls[comm, probe] = count(); }"
    )
    name = os.path.basename(sys.executable)
    code = "import os; [os.getppid() for _ in range(7)]"
    run = kwire("-q", "-c", f"{sys.executable} -c '{code}'", "-e", program)
    assert run.stdout.split("\n\n")[-1].strip().splitlines() == [
        f"@calls[{name}, tracepoint:syscalls:sys_enter_getppid]: 7",
        "@ns: 7",
    ], run.stderr


SIGNALLED = """
import os, signal
signal.signal(signal.SIGUSR1, lambda *_: print("heard", flush=True))
os.getppid()
print("goes on", flush=True)
"""


@pytest.mark.live
@pytest.mark.kernels("6.1")
def test_a_signal_is_sent_where_that_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "told.py").write_text(SIGNALLED)
    program = 'tracepoint:syscalls:sys_enter_getppid /pid == cpid/ { signal("USR1"); signal_thread(0); }'
    words = ["-q", "-e", program, "-c", f"{sys.executable} {tmp_path}/told.py"]
    refused = kwire(*words)
    assert "ERROR: signal() is unsafe" in refused.stderr
    assert kwire("--unsafe", *words).stdout.split("\n")[:2] == ["heard", "goes on"]
    wrong = kwire("--unsafe", "-e", 'begin { signal("TRM") }')
    assert "ERROR: there is no signal TRM" in wrong.stderr


def test_what_is_never_reached_is_told() -> None:
    run = kwire("--dry-run", "-e", "begin { exit(); @++; if (1) { return; @-- } }")
    assert run.stderr.count("WARNING: Unreachable statement") == 2
    assert "stdin:1:17-20: WARNING" in run.stderr
