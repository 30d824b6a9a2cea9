"""Maps of scripts in captures: printed again as they were, tables of queries, balanced, cut and merged."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import PATIENCE

from kwire.kernel.sys import possible_cpus

pytestmark = [pytest.mark.live, pytest.mark.native]

KINDS = """
BEGIN { @a = 1; @b["x", 2] = 5; @b["yyy", 3] = 4; @h = hist(5); @h = hist(-1); @l[1] = lhist(5, 0, 10, 5);
  @l[1] = lhist(50, 0, 10, 5); @s = stats(4); @s = stats(-7); @c[1] = count(); @d["n"] = sum(3); @e = avg(3);
  @z = 7; delete(@z); @p[0] = (struct task_struct *)16; @m = max(2); @i[1] = min(9); @t[1 == 1] = 3;
  @n[ntop(16777343)] = 1; @z0[5] = hist(1); zero(@z0);
  @u[(1, "k")] = (1, ("two", 3)); @r = (a = 4, b = "five"); @w["k"] = "text";
  print(@b, 1); print(@h); printf("between %s\\n", "two"); clear(@b); print(@b);
  zero(@c); print(@c); @a = 2; print(@a); print(@s, 0, 2); print(@l); print(@u); print(@r); }
END { printf("%d\\n", @a); print(@m); }
"""


def kwire(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    return subprocess.run(
        [sys.executable, "-m", "kwire.cli.main", *words], capture_output=True, text=True, timeout=PATIENCE
    )


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    path = tmp_path_factory.mktemp("maps") / "kinds.pcapng"
    run = kwire("-q", "-w", str(path), "-e", KINDS)
    assert (run.returncode, run.stderr) == (0, "")
    return path, run.stdout


def test_show_prints_what_the_run_printed(recorded: tuple[Path, str]) -> None:
    path, live = recorded
    assert live.startswith("@b[x, 2]: 5\n@h:\n")
    assert "between two\n@c[1]: 0\n" in live
    assert "2\n@m: 2\n\n\n@a: 2\n@c[1]: 0\n" in live
    assert live.count("\n@h:\n") == 2
    shown = kwire("show", str(path))
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout == live


def test_json_is_what_bpftrace_gives() -> None:
    program = """BEGIN { @a = "x"; @b = (1, "a", (2, 3)); @r = (a=1, b=(5, 6)); @n = ntop(1);
      @p = (struct task_struct *)16; @s[1] = stats(4); @s[2] = stats(40); @k[1, "q"] = 3; @k[2, "r"] = 30;
      print(@k, 1, 10); print(@s, 1, 2); }"""
    run = kwire("-q", "-f", "json", "-e", program)
    assert run.stdout.splitlines() == [
        '{"type": "map", "data": {"@k": {"2,r": 3}}}',
        '{"type": "stats", "data": {"@s": {"2": {"count": 1, "average": 20, "total": 40}}}}',
        '{"type": "map", "data": {"@a": "x"}}',
        '{"type": "map", "data": {"@b": [1,"a",[2,3]]}}',
        '{"type": "map", "data": {"@k": {"1,q": 3, "2,r": 30}}}',
        '{"type": "map", "data": {"@n": "1.0.0.0"}}',
        '{"type": "map", "data": {"@p": 16}}',
        '{"type": "map", "data": {"@r": {"a": 1, "b": [5,6]}}}',
        '{"type": "stats", "data": {"@s": {"1": {"count": 1, "average": 4, "total": 4}, '
        '"2": {"count": 1, "average": 40, "total": 40}}}}',
    ]


def test_it_balances(recorded: tuple[Path, str]) -> None:
    path, _ = recorded
    report = json.loads(kwire("verify", "--json", str(path)).stdout)
    assert report["complete"]
    [file] = report["files"]
    assert file["tables"]["produced"] == file["tables"]["stored"] == 28
    rows = {row["probe"]: row for row in file["probes"]}
    assert rows["map:@b"]["stored"] == 3
    assert file["produced"] == sum(row["stored"] for row in file["probes"] if "map" not in row)


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ('select key1, key2, value from b where "table" = 1', [["x", 2, 5], ["yyy", 3, 4]]),
        ('select * from b where "table" > 1', []),
        ("select distinct low, high, count from l order by low", [[5, 10, 1], [10, (1 << 63) - 1, 1]]),
        ("select distinct key1, key2, value1, value2, value3 from u", [[1, "k", 1, "two", 3]]),
        ("select distinct count, total, average from s", [[2, -3, -1]]),
        ("select key, value from n", [["127.0.0.1", 1]]),
        ("select probe, events from probes where probe = 'map:@a'", [["map:@a", 2]]),
        ("select count(*) from events where probe like 'map%'", [[0]]),
    ],
)
def test_each_map_is_a_table(recorded: tuple[Path, str], sql: str, rows: list[list[object]]) -> None:
    run = kwire("query", "--json", str(recorded[0]), sql)
    assert run.returncode == 0, run.stderr
    found = [list(json.loads(line).values()) for line in run.stdout.splitlines()]
    assert sorted(map(str, found)) == sorted(map(str, rows))


def test_captures_made_of_it_have_the_maps(recorded: tuple[Path, str], tmp_path: Path) -> None:
    path, live = recorded
    merged, cut = tmp_path / "merged.pcapng", tmp_path / "cut.pcapng"
    run = kwire("merge", str(path), "-w", str(merged))
    assert run.returncode == 0, run.stderr
    assert kwire("show", str(merged)).stdout == live
    assert kwire("verify", str(merged)).returncode == 0
    run = kwire("cut", str(path), "--probe", "map:@b", "-w", str(cut))
    assert run.returncode == 0, run.stderr
    assert kwire("show", str(cut)).stdout == "@b[x, 2]: 5\n\n\n"


def test_what_reads_events_says_what_maps_there_are(recorded: tuple[Path, str]) -> None:
    path, _ = recorded
    assert "maps: @a, @b, " in kwire("stats", str(path)).stdout
    lines = [json.loads(line) for line in kwire("show", "--json", str(path)).stdout.splitlines()]
    maps = [line for line in lines if "map" in line]
    assert maps[0]["map"] == "@b"
    assert maps[0]["entries"][0] == {"key": ["x", 2], "value": 5}
    assert {"key": ["127.0.0.1"], "value": 1} in next(one for one in maps if one["map"] == "@n")["entries"]


def test_a_capture_that_is_cut_shows_what_is_there(recorded: tuple[Path, str], tmp_path: Path) -> None:
    path, live = recorded
    cut = tmp_path / "cut.pcapng"
    data = path.read_bytes()
    at = data.rindex(b"dmore") if b"dmore" in data else data.rindex(b"cend")
    cut.write_bytes(data[:at])
    shown = kwire("show", str(cut))
    assert shown.returncode == 3
    assert "cut at byte" in shown.stderr
    assert live.startswith(shown.stdout)
    assert "between two" in shown.stdout


def test_addresses_of_the_kernel_are_named_in_maps_alone(tmp_path: Path) -> None:
    """Without an event that has a symbol or a stack: when maps are read, the privileges are gone."""
    text = 'BEGIN { @a[ksym(kaddr("vfs_read"))] = 1; @b = ksym(kaddr("vfs_write")); exit(); }'
    file = tmp_path / "symbols.pcapng"
    lines = ["@a[vfs_read]: 1", "@b: vfs_write"]
    assert kwire("-e", text, "-w", str(file)).stdout.split("\n")[-3:-1] == lines
    assert kwire("show", str(file)).stdout.split("\n")[-3:-1] == lines


CALLS = 300_000
CALLING = f"import os\nfor _ in range({CALLS}): os.getppid()"
"""A process that makes so many system calls."""


def test_what_is_counted_while_a_map_is_printed_and_emptied_is_not_lost() -> None:
    """But for what a CPU adds to a key in the moment that it is taken: one a CPU and print at most."""
    script = """tracepoint:syscalls:sys_enter_getppid /pid == cpid/ { @[tid] = count(); }
    interval:ms:5 { print(@); clear(@); }"""
    command = shlex.join([sys.executable, "-S", "-c", CALLING])
    run = kwire("-q", "-e", script, "-c", command)
    assert run.stderr == ""
    printed = [int(line.rpartition(": ")[2]) for line in run.stdout.splitlines() if line]
    assert CALLS - possible_cpus() * len(printed) <= sum(printed) <= CALLS


def test_a_map_is_emptied_with_its_print_only_where_the_clear_stands_behind_it() -> None:
    script = """BEGIN { @a[1] = 1; @b[2] = 2; @c = 3; @h = hist(4);
    print(@a, 5); clear(@a); print(@a); print(@b); print(@a); clear(@a); print(@b); print(@c); clear(@c);
    print(@c); print(@h); clear(@h); print(@h); zero(@b); print(@b); clear(@b); }"""
    run = kwire("-q", "-e", script)
    assert run.stderr == ""
    head, _, last = run.stdout.partition("@h:\n[4, 8)")
    assert head.split() == ["@a[1]:", "1", *["@b[2]:", "2"] * 2, "@c:", "3", "@c:", "0"]
    assert last.split()[-2:] == ["@b[2]:", "0"]


@pytest.mark.parametrize(
    ("script", "printed"),
    [
        (
            "BEGIN { @n[1] = 2; for $i : 0..(@n[1] & 3) { @l[$i] = @n[1]; @n[1] = @n[1] + 10; } exit(); }",
            "@l[0]: 2\n@l[1]: 12\n@n[1]: 22",
        ),
        (
            'BEGIN { @x[1] = 5; if (str(0x10) != str(@x[1])) { printf("%d\\n", @x[1]); } }',
            "5\n@x[1]: 5",
        ),
    ],
    ids=["in the bounds of a loop", "in a text that is not always compared"],
)
def test_what_was_read_from_a_map_is_known_only_where_it_was_surely_read(script: str, printed: str) -> None:
    run = kwire("-q", "-e", script)
    assert (run.stderr, [line for line in run.stdout.splitlines() if line]) == ("", printed.splitlines())
