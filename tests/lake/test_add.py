"""Captures into a lake: what is in it then, once, whatever is added again, has grown, or breaks off."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from tests.analyze.conftest import RICH, Kit
from tests.lake.conftest import FIELDS, Waters

from kwire.analyze.tables import Tables
from kwire.lake import parquet_files
from kwire.lake.add import Added, added_before
from kwire.lake.columns import grown, probe_for, read
from kwire.lake.compact import compact
from kwire.lake.directory import NO_HOST, Lake, LakeError, segment

Run = Callable[..., tuple[int, str, str]]

EXEC = "probe=tracepoint_sched_sched_process_exec"
OPEN = "probe=kprobe_vfs_open_path"


def test_files_are_partitioned_by_probe_day_and_host(waters: Waters) -> None:
    waters.add(waters.capture("a.pcapng", hosts=["web1", "a/b ü"]), waters.capture("b.pcapng", day=1))
    assert {path.rpartition(os.sep)[0] for path in waters.files} == {
        f"{probe}/day={day}/host={host}"
        for probe in (EXEC, OPEN)
        for day, host in (("2023-11-14", "web1"), ("2023-11-14", "a%2Fb%20%C3%BC"), ("2023-11-15", "web1"))
    }


def test_a_capture_over_midnight_is_on_both_days(waters: Waters) -> None:
    midnight = 1_700_006_400_000_000_000 - 1_700_000_000_000_000_000
    waters.add(waters.capture("a.pcapng", day=0, probes=["kprobe:x"], events=2))
    days = waters.kit.schema(1, "kprobe:y", FIELDS)
    frames = [
        waters.kit.event(days, 1_000_000 + midnight + 10 * (number - 5), [number, b"sh", 1])
        for number in range(10)
    ]
    waters.add(waters.kit.write(waters.folder / "b.pcapng", [days], frames))
    found = {
        day: sum(1 for (probe, _, _), _ in waters.events().items() if probe == "probe=kprobe_y")
        for day in ("2023-11-14", "2023-11-15")
        if os.path.isdir(f"{waters.path}/probe=kprobe_y/day={day}")
    }
    assert found == {"2023-11-14": 10, "2023-11-15": 10}  # 5 each, 10 together
    assert sum(waters.events().values()) == 12


def test_row_groups_are_in_order_of_time_compressed_and_have_statistics(
    waters: Waters, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyarrow import parquet

    monkeypatch.setattr(parquet_files, "GROUP", 100)
    monkeypatch.setattr(parquet_files, "FILE", 450)
    monkeypatch.setattr("kwire.analyze.export.ROWS", 50)
    waters.add(waters.capture("a.pcapng", events=1000, probes=["kprobe:x"]))
    assert [path[-8 - 4 : -8] for path in waters.files] == ["-000", "-001", "-002"]
    ends = 0
    for path in waters.files:
        metadata = parquet.read_metadata(os.path.join(waters.path, path))
        for at in range(metadata.num_row_groups):
            column = metadata.row_group(at).column(metadata.schema.names.index("time_ns"))
            assert column.compression == "ZSTD"
            assert ends < column.statistics.min <= column.statistics.max
            assert metadata.row_group(at).num_rows <= 100
            ends = column.statistics.max
    assert len(waters.events()) == 1000


def test_what_was_added_is_not_added_again(waters: Waters, kwire: Run) -> None:
    path = waters.capture("a.pcapng")
    assert waters.add(path).new
    before = waters.events()
    assert not waters.add(path).new
    compact(Lake(waters.path))
    assert not waters.add(path).new
    status, _, err = kwire("export", path, "--partition", waters.path)
    assert (status, err) == (0, f"0 events added to {waters.path}; 1 capture had been added before\n")
    assert waters.events() == before
    assert set(before.values()) == {1}


def test_what_was_added_is_known_by_its_beginning(waters: Waters) -> None:
    """A collector that is started again asks for all of its captures."""
    path = waters.capture("a.pcapng")
    lake = Lake(waters.path, make=True)
    assert added_before(lake, path, settled=False) is None
    waters.add(path, settled=False)
    assert added_before(lake, path, settled=False) == Added(40, 0, False)
    assert added_before(lake, path, settled=True) is None
    waters.add(path, settled=True)
    assert added_before(lake, path, settled=True) == Added(40, 0, False)
    with open(path, "ab") as file:
        file.write(bytes(4))
    assert added_before(lake, path, settled=False) is None


def test_parts_of_what_was_added_and_wholes_of_parts_are_refused(waters: Waters, kwire: Run) -> None:
    one, two = waters.capture("a.pcapng"), waters.capture("b.pcapng", day=1)
    merged, cut = str(waters.folder / "merged.pcapng"), str(waters.folder / "cut.pcapng")
    assert kwire("merge", one, two, "-w", merged)[0] == 0
    assert kwire("cut", one, "--to", "+5ms", "-w", cut)[0] == 0
    waters.add(one)
    for path in (merged, cut):
        with pytest.raises(LakeError, match=r"has events of it already, added as a\.pcapng"):
            waters.add(path)
    other = Waters(waters.folder, waters.kit)
    other.path += "2"
    other.add(merged)
    with pytest.raises(LakeError, match=r"added as merged\.pcapng"):
        other.add(two)


def test_parts_that_are_apart_are_added(waters: Waters, kwire: Run) -> None:
    path = waters.capture("a.pcapng")
    for name, choice in (("first", ("--to", "+4500us")), ("second", ("--from", "+4500us"))):
        cut = str(waters.folder / f"{name}.pcapng")
        assert kwire("cut", path, *choice, "-w", cut)[0] == 0
        waters.add(cut)
    assert len(waters.events()) == 40
    assert set(waters.events().values()) == {1}


def test_a_capture_that_goes_on_takes_the_place_of_what_it_was(waters: Waters) -> None:
    path = waters.capture("a.pcapng", events=10)
    whole = Path(waters.capture("whole.pcapng", events=30)).read_bytes()
    short = Path(path).read_bytes()
    # the same file, of the same id, later
    own = short.index(b"kwire capture ") + 14
    other = whole.index(b"kwire capture ") + 14
    whole = whole[:other] + short[own : own + 32] + whole[other + 32 :]
    waters.add(path, settled=False)
    assert len(waters.events()) == 20
    compact(Lake(waters.path))  # leaves it alone
    Path(path).write_bytes(whole)
    waters.add(path, settled=True)
    assert len(waters.events()) == 60
    assert set(waters.events().values()) == {1}
    Path(path).write_bytes(short)
    with pytest.raises(LakeError, match="it was finished when it was added"):
        waters.add(path)


def test_a_schema_grows_where_fields_are_added_or_become_wider(waters: Waters) -> None:
    probes = ["kprobe:x"]
    waters.add(waters.capture("a.pcapng", fields=FIELDS, probes=probes))
    wider = (("pid", "u32", 1, ""), ("comm", "str", 1, ""), ("count", "s64", 1, ""), ("note", "str", 1, ""))
    assert waters.add(waters.capture("b.pcapng", day=1, fields=wider, probes=probes)).said == []
    narrow = (("pid", "u8", 1, ""),)
    waters.add(waters.capture("c.pcapng", day=2, fields=narrow, probes=probes))
    lake = Lake(waters.path)
    assert lake.probes() == ["probe=kprobe_x"]
    names = ["time", "time_ns", "pid", "comm", "comm_cut", "count", "note", "note_cut"]
    assert read(lake, "probe=kprobe_x").schema.names == names


def test_joined_files_have_the_columns_of_all(waters: Waters) -> None:
    from pyarrow import parquet

    wider = (*FIELDS, ("note", "str", 1, ""))
    waters.add(waters.capture("a.pcapng", probes=["kprobe:x"]))
    waters.add(waters.capture("b.pcapng", probes=["kprobe:x"], later=5, fields=wider))
    compact(Lake(waters.path))
    [path] = waters.files
    table = parquet.ParquetFile(os.path.join(waters.path, path)).read()
    assert table.num_rows == 40
    assert table.column("note").null_count == 20
    assert table.column("time_ns").to_pylist() == sorted(table.column("time_ns").to_pylist())


@pytest.mark.parametrize(
    ("before", "after", "unit"),
    [("u32", "bool", ""), ("u32", "u64", ""), ("s16", "u64", ""), ("u64", "u64", "ns")],
)
def test_a_schema_of_another_kind_begins_a_directory_and_is_said(
    waters: Waters, before: str, after: str, unit: str
) -> None:
    probes, units = ["kprobe:x"], {"x": unit} if unit else {}
    waters.add(waters.capture("a.pcapng", fields=(("x", before, 1, ""),), probes=probes))
    second = waters.capture("b.pcapng", day=1, fields=(("x", after, 1, ""),), probes=probes, units=units)
    said = waters.add(second).said
    assert said == ["kprobe:x: its fields are not of one kind with those before; probe=kprobe_x.2 is begun"]
    third = waters.capture("c.pcapng", day=2, fields=(("x", after, 1, ""),), probes=probes, units=units)
    assert waters.add(third).said == []
    assert Lake(waters.path).probes() == ["probe=kprobe_x", "probe=kprobe_x.2"]


def test_specs_that_look_alike_have_directories_of_their_own(waters: Waters) -> None:
    added = waters.add(waters.capture("a.pcapng", probes=["kprobe:x(a)", "kprobe:x:a"]))
    assert added.said == []
    lake = Lake(waters.path)
    assert [read(lake, name).spec for name in lake.probes()] == ["kprobe:x(a)", "kprobe:x:a"]


def test_columns_have_no_name_of_the_path_and_none_that_differs_in_case_only(
    waters: Waters, kit: Kit
) -> None:
    fields = tuple((name, "u32", 1, "") for name in ("probe", "day", "host", "Day"))
    [table] = Tables([kit.schema(1, "kprobe:x", fields)])
    lake = Lake(waters.path, make=True)
    with lake.change():
        probe, _ = probe_for(lake, table)
    folded = [name.casefold() for name in probe.schema.names]
    assert len(set(folded)) == len(folded)
    assert not {"probe", "day", "host"} & set(folded)
    [other] = Tables([kit.schema(1, "kprobe:x", (("dAY", "u32", 1, ""),))])
    assert grown(probe.schema, other) is None


@pytest.mark.parametrize(
    ("host", "written"),
    [
        ("web1.example-7_x", "web1.example-7_x"),
        ("", "__HIVE_DEFAULT_PARTITION__"),
        ("../../etc", "..%2F..%2Fetc"),
        ("7", "%37"),
        ("2023-11-14", "%32023-11-14"),
        ("10.0.0.7", "10.0.0.7"),
        ("a=b\n\0%", "a%3Db%0A%00%25"),
        ("ü" * 200, "%C3%BC" * 20 + "~"),
    ],
)
def test_hosts_are_written_as_hive_does(host: str, written: str) -> None:
    found = segment(host)
    assert found.startswith(written)
    assert len(os.fsencode(found)) < 160
    if len(host) < 100:
        assert ("" if found == NO_HOST else unquote(found)) == host


def test_a_hostile_host_stays_in_the_lake(waters: Waters) -> None:
    waters.add(waters.capture("a.pcapng", hosts=["../../../out", "x" * 3000, ""]))
    assert len(waters.files) == 6
    assert sorted(os.listdir(waters.folder)) == ["a.pcapng", "lake"]


def test_memory_is_bounded_by_files_that_are_closed(waters: Waters, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_files, "OPEN", 3)
    monkeypatch.setattr(parquet_files, "HELD", 1000)
    waters.add(waters.capture("a.pcapng", hosts=[f"h{number}" for number in range(8)], events=30))
    assert len(waters.events()) == 8 * 2 * 30


# ------------------------------------------------------------------ killed at any moment


NEVER = 1 << 30


@pytest.fixture(scope="module")
def dying() -> Iterator[Callable[..., int]]:
    """Does something in a process that is gone at a step of it; how that ended. See dying.py."""
    pytest.importorskip("pyarrow")
    program = [sys.executable, str(Path(__file__).with_name("dying.py"))]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def do(*order: object) -> int:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        yield do
        process.stdin.close()


@pytest.mark.parametrize("seed", range(3))
def test_whatever_moment_it_is_killed_each_event_is_there_once(
    waters: Waters, dying: Callable[..., int], seed: int
) -> None:
    dice = random.Random(seed)
    captures = [
        waters.capture(f"{number}.pcapng", later=number, hosts=["a", "b"], events=4) for number in range(2)
    ]
    deaths = 0
    for path in captures:
        for _ in range(3):
            deaths += dying(dice.randrange(1, 120), "add", waters.path, path) == 9
            assert set(waters.events().values()) <= {1}
        assert dying(NEVER, "add", waters.path, path) == 0
        whole = waters.events()
        for _ in range(2):
            deaths += dying(dice.randrange(1, 200), "compact", waters.path) == 9
            assert waters.events() == whole
    assert deaths > 2
    assert dying(NEVER, "compact", waters.path) == 0
    assert len(waters.events()) == 2 * 8 * 2
    assert set(waters.events().values()) == {1}
    assert sorted(os.listdir(waters.folder)) == ["0.pcapng", "1.pcapng", "lake"]
    assert os.listdir(f"{waters.path}/.kwire") == ["captures"]
    told = [json.loads(path.read_text()) for path in Path(waters.path, ".kwire/captures").iterdir()]
    assert [one["done"] for one in told] == [True] * 2


def test_a_reader_sees_what_was_there_or_what_is(waters: Waters) -> None:
    """At every step of a compaction, in every place of the lake."""
    captures = [
        waters.capture(f"{number}.pcapng", later=number, hosts=["a", "b"], events=5) for number in range(3)
    ]
    waters.add(*captures)
    whole, seen = waters.events(), set()
    looking = True

    def hook(event: str, _: Any) -> None:
        nonlocal looking
        if looking and event.startswith(
            ("os.rename", "os.link", "os.remove", "os.unlink", "os.rmdir", "ctypes")
        ):
            looking = False
            assert waters.events() == whole
            seen.add(len(waters.files))
            looking = True

    sys.addaudithook(hook)
    try:
        compact(Lake(waters.path))
    finally:
        looking = False
    assert seen == {12, 10, 8, 6, 4}


# ------------------------------------------------------------------ mistakes


def test_mistakes_are_one_line(waters: Waters, kwire: Run, tmp_path: Path) -> None:
    capture = waters.capture("a.pcapng")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for arguments, said in (
        (("export", capture, "--partition", str(tmp_path / "full")), "it has other files, and is no lake"),
        (("export", capture, "--partition", capture), "File exists"),
        (
            ("export", capture, "--partition", "x", "--probe", "*"),
            "each event is in it once: --probe chooses",
        ),
        (("export", capture, "--partition", "x", "--format", "csv"), "a lake is Parquet; leave --format out"),
        (("export", str(tmp_path / "none"), "--partition", "x"), "No such file"),
        (("query", str(tmp_path / "full")), "it is no lake"),
        (("fleet", "compact", str(tmp_path / "gone")), "it is not there"),
        (("fleet", "compact", str(tmp_path / "full")), "it is no lake"),
        (("export", capture, "--partition", f"{tmp_path}/a\udcff"), "its name is not in UTF-8"),
    ):
        status, out, err = kwire(*arguments)
        assert (status, out, err.count("\n")) == (1, "", 1), err
        assert said in err
    assert not os.path.exists("x")


def test_a_damaged_account_is_said(waters: Waters, kwire: Run) -> None:
    capture = waters.capture("a.pcapng")
    waters.add(capture)
    [account] = Path(waters.path, ".kwire/captures").iterdir()
    account.write_text("{")
    status, _, err = kwire("export", capture, "--partition", waters.path)
    assert (status, err) == (1, f"kwire: read {account}: it is damaged\n")


def test_damaged_files_are_said(waters: Waters, kwire: Run) -> None:
    waters.add(*(waters.capture(f"{number}.pcapng", later=number, probes=["kprobe:x"]) for number in (1, 2)))
    parquet, columns = (
        Path(waters.path, waters.files[0]),
        Path(waters.path, "probe=kprobe_x/_common_metadata"),
    )
    whole = parquet.read_bytes()
    parquet.write_bytes(b"no Parquet")
    status, _, err = kwire("fleet", "compact", waters.path)
    assert (status, err.count("\n")) == (1, 1)
    assert err.startswith("kwire: join the files of probe=kprobe_x/day=2023-11-14/host=web1: ")
    parquet.write_bytes(whole)
    columns.write_bytes(b"x")
    for arguments in (("query", waters.path), ("fleet", "compact", waters.path)):
        status, _, err = kwire(*arguments)
        assert (status, err.count("\n")) == (1, 1)
        assert err.startswith(f"kwire: read {columns}: ")
    columns.unlink()
    more = waters.capture("3.pcapng", later=3, probes=["kprobe:x"])
    for words in (["query", waters.path], ["export", more, "--partition", waters.path]):
        status, _, err = kwire(*words)
        assert (status, err.count("\n")) == (1, 1)
        assert err.startswith(f"kwire: read {columns}: No such file or directory; put there the columns of ")


def test_a_full_disk_is_said_of_the_lake(waters: Waters, kwire: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    waters.add(*(waters.capture(f"{number}.pcapng", later=number, probes=["kprobe:x"]) for number in (1, 2)))
    before, more = waters.events(), waters.capture("3.pcapng", later=3, probes=["kprobe:x"])

    def full(*_: str) -> None:
        raise OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28] No space left on device")

    monkeypatch.setattr(parquet_files, "sync", full)
    for arguments in (["fleet", "compact", waters.path], ["export", more, "--partition", waters.path]):
        status, _, err = kwire(*arguments)
        assert (status, err) == (1, f"kwire: write to {waters.path}: No space left on device\n")
    assert waters.events() == before
    assert os.listdir(f"{waters.path}/.kwire") == ["captures"]


def test_a_lake_is_its_owners(waters: Waters) -> None:
    waters.add(waters.capture("a.pcapng"))
    assert os.stat(waters.path).st_mode & 0o777 == 0o700


def test_every_kind_of_field_and_many_hosts_and_days(waters: Waters, kit: Kit) -> None:
    waters.add(kit.capture(waters.folder / "rich.pcapng", 60))
    assert sum(waters.events().values()) == 60
    names = {name for name, *_ in RICH}
    assert names <= set(read(Lake(waters.path), OPEN).schema.names) | {"probe", "day", "host"}
