"""Events as table lines and as JSON: each kind of field, missing context, losses, damaged records."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from kwire.errors import KwireError
from kwire.view.jsonl import JsonLines
from kwire.view.render import Head, Ordered, Renderer, Screen, Tail
from kwire.view.table import Note, Table
from kwire.view.text import Style
from kwire.view.values import flags
from kwire.wire.messages import Cause, Lost


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def rows(samples: Any, format: Any, *frames: bytes, **schemas: Any) -> list[str]:
    known = {schema.id: schema for schema in schemas.values()} or {1: samples.schema()}
    return lines(format, Renderer(format).rows(samples.frames(*frames), known))


def lines(format: Any, found: list[Any]) -> list[str]:
    """The lines of rows, without what stands before them."""
    made: list[str] = format.lines(found)
    return made[len(made) - len(found) :]


def test_json_has_every_kind_of_value(samples: Any) -> None:
    (line,) = rows(samples, JsonLines(), samples.event())
    assert json.loads(line) == {
        "time_ns": samples.wall,
        "probe": "kprobe:vfs_open(path)",
        "cpu": 3,
        "pid": 42,
        "comm": "cat",
        "fields": {
            "state": "RUNNING",
            "family": "NONE",
            "mode": "READ|APPEND",
            "ok": True,
            "pointer": "0xffff888012345678",
            "caller": "start+0x10",
            "took": 250,
            "source": "127.0.0.1",
            "peer": "::1",
            "mac": "02:00:00:00:00:01",
            "fixed": "eth0",
            "numbers": [7, 8, 9],
            "path": "/tmp/a b",
            "data": "00ff",
        },
    }
    assert list(json.loads(line)) == ["time_ns", "probe", "cpu", "pid", "comm", "fields"]


def test_json_of_values_without_a_name(samples: Any) -> None:
    (line,) = rows(
        samples, JsonLines(), samples.event(state=77, mode=0x42, caller=5, ok=False, comm='"\n\x1b')
    )
    value = json.loads(line)
    assert value["comm"] == '"\n\x1b'
    fields = value["fields"]
    assert (fields["state"], fields["mode"], fields["caller"], fields["ok"]) == (77, "0x42", "0x5", False)
    assert "\n" not in line


def test_json_of_a_record_without_context_and_of_names_with_a_percent_sign(samples: Any) -> None:
    base = samples.schema()
    fields = (base.fields[1]._replace(name='100%"d'),)
    (line,) = rows(samples, JsonLines(), samples.event(), one=base._replace(fields=fields, probe="kprobe:%s"))
    assert json.loads(line) == {
        "time_ns": samples.wall,
        "probe": "kprobe:%s",
        "cpu": None,
        "pid": None,
        "comm": None,
        "fields": {'100%"d': "RUNNING"},
    }
    (line,) = rows(samples, JsonLines(), samples.event(), one=base._replace(fields=()))
    assert json.loads(line)["fields"] == {}


def test_a_table_has_aligned_columns_and_names_its_fields(samples: Any) -> None:
    table = Table([samples.schema(), samples.schema(2, "kprobe:x")])
    found = Renderer(table).rows(samples.frames(samples.event()), {1: samples.schema()})
    header, date, line = table.lines(found)
    assert header == "TIME               CPU PID COMM PROBE    FIELDS"
    assert date == "-- 2023-11-14 +00:00 --"
    assert line == (
        "22:13:20.123456000   3  42 cat  vfs_open "
        "state=RUNNING family=NONE mode=READ|APPEND ok=true pointer=0xffff888012345678 caller=start+0x10 "
        "took=250ns source=127.0.0.1 peer=::1 mac=02:00:00:00:00:01 fixed=eth0 numbers=[7,8,9] "
        'path="/tmp/a b" data=00ff'
    )


def test_what_was_cut_or_is_long_is_marked_in_a_table(samples: Any) -> None:
    (line,) = rows(samples, Table([samples.schema()]), samples.event(cut=True))
    assert 'path="/tmp/a b"… data=00ff…(2 bytes)' in line
    (line,) = rows(samples, Table([samples.schema()]), samples.event(data=bytes(40)))
    assert f"data={'00' * 32}…(40 bytes)" in line
    base = samples.schema()
    many = base._replace(fields=(base.fields[12]._replace(type="u8", offset=16, size=20, count=20),))
    (line,) = rows(samples, Table([many]), samples.event(), one=many)
    assert line.endswith(",…20]")


def test_no_record_can_touch_the_terminal(samples: Any) -> None:
    nasty = samples.event(comm="\x1b[2J\n", path="\x9b\r", fixed="\x1b]0;")
    (line,) = rows(samples, Table([samples.schema()]), nasty)
    assert line.isprintable()
    assert "\\e[2J\\n" in line
    named = samples.schema(probe="kprobe:\x1b[1m")._replace(
        fields=(samples.schema().fields[1]._replace(name="\x1bx"),), enums={"states": {1: "\x07"}}
    )
    for line in rows(samples, Table([named]), samples.event(), one=named):
        assert line.replace("\x07", "").isprintable()


def test_columns_that_no_probe_has_are_left_out_and_gaps_are_dashes(samples: Any) -> None:
    base = samples.schema()
    without = base._replace(id=2, probe="kprobe:x", fields=base.fields[:2])
    only = Table([without])
    found = Renderer(only).rows(samples.frames(samples.event(2)), {2: without})
    assert only.lines(found) == [
        "TIME               PID FIELDS",
        "-- 2023-11-14 +00:00, kprobe:x --",
        "22:13:20.123456000  42 state=RUNNING",
    ]
    mixed = Table([base, without])
    (line,) = rows(samples, mixed, samples.event(2), one=without)
    assert line == "22:13:20.123456000   -  42 -    x        state=RUNNING"


def test_a_terminal_gets_lines_of_its_width_and_colours(samples: Any) -> None:
    for width in (40, 80, 100, 120):
        table = Table([samples.schema()], Style(False, width))
        (line,) = rows(samples, table, samples.event())
        assert len(line) <= max(width, 55)
        assert line.endswith("…")
    (line,) = rows(samples, Table([samples.schema()], Style(True, 0)), samples.event())
    assert line.startswith("\x1b[2m22:13:20.123456000\x1b[0m")
    loss = rows(samples, Table([], Style(True, 0)), Lost(1, 5, 1000, 3).frame())
    assert "\x1b[31mLOST 3 events" in loss[0]


def test_losses_stand_in_the_table_and_are_counted_apart(samples: Any) -> None:
    lost = Lost(1, 5, samples.monotonic, 12, 1, Cause.RING_FULL)
    for format, count in ((Table([]), 3), (JsonLines(), 1)):
        renderer = Renderer(format)
        frames = samples.frames(lost.frame(), samples.event(), Lost(0, 0, 0, 5, cause=99).frame())
        assert len(lines(format, renderer.rows(frames, {1: samples.schema()}))) == count
        assert (renderer.events, renderer.lost, renderer.holes) == (1, 17, 2)
    assert rows(samples, Table([]), lost.frame())[0] == (
        "22:13:20.123456000 LOST 12 events of kprobe:vfs_open on CPU 1: the ring buffer was full"
    )
    assert rows(samples, Table([]), Lost(0, 0, 0, 5, cause=99).frame())[0] == (
        "-    LOST 5 events of an unknown probe: cause 99"
    )


@pytest.mark.parametrize("format", [JsonLines(), Table([])])
def test_every_event_makes_a_line_whatever_is_in_it(samples: Any, format: Any) -> None:
    short = samples.event()[:4] + samples.event()[4:24]
    short = short[:2] + len(short).to_bytes(2, "big") + short[4:]
    wild = bytearray(samples.event())
    wild[98:102] = b"\xff\xff\xff\x7f"  # the path points outside
    strange = samples.event(9)
    renderer = Renderer(format)
    found = renderer.rows(samples.frames(short, bytes(wild), strange), {1: samples.schema()})
    assert renderer.events == len(found) == 3
    texts = lines(format, found)
    assert "BAD_PAYLOAD" in texts[0]
    assert "BAD_PAYLOAD" in texts[1]
    assert "UNKNOWN_SCHEMA" in texts[2]
    if isinstance(format, JsonLines):
        values = [json.loads(text) for text in texts]
        assert [value["time_ns"] for value in values] == [samples.wall] * 3  # the capture's clock
        assert [value["probe"] for value in values] == ["kprobe:vfs_open(path)"] * 2 + [None]
        assert all("error" in value for value in values)


def test_probes_and_events_are_chosen(samples: Any) -> None:
    schemas = {1: samples.schema(), 2: samples.schema(2, "kprobe:other")}
    frames = samples.frames(samples.event(1, pid=1), samples.event(2, pid=2), Lost(2, 1, 1, 9).frame())
    chosen = Renderer(JsonLines(), choose=lambda schema: schema.id == 1)
    assert [json.loads(line)["pid"] for _, line, _ in chosen.rows(frames, schemas)] == [1]
    assert chosen.lost == 0
    tested = Renderer(JsonLines(), where=lambda schema: lambda time, values: values[0] == 2)
    assert [json.loads(line)["pid"] for _, line, _ in tested.rows(frames, schemas)] == [2]
    assert tested.events == 1


def test_a_condition_need_not_fit_probes_that_are_not_chosen(samples: Any) -> None:
    def fits(schema: Any) -> Any:
        if schema.id != 1:
            raise KwireError("read", "--where", "it does not fit")
        return lambda time, values: True

    schemas = {1: samples.schema(), 2: samples.schema(2, "kprobe:other")}
    frames = samples.frames(samples.event(2, pid=2), samples.event(1, pid=1))
    both = Renderer(JsonLines(), choose=lambda schema: schema.id == 1, where=fits)
    assert [json.loads(line)["pid"] for _, line, _ in both.rows(frames, schemas)] == [1]


def test_a_new_schema_of_the_same_number_is_noticed(samples: Any) -> None:
    renderer = Renderer(JsonLines())
    for probe in ("kprobe:a", "kprobe:b"):
        ((_, line, _),) = renderer.rows(samples.frames(samples.event()), {1: samples.schema(probe=probe)})
        assert json.loads(line)["probe"] == probe


def test_rows_are_written_in_order_of_time_as_far_as_the_window_reaches() -> None:
    stream = io.StringIO()
    out = Ordered(JsonLines(), stream, window=4)
    out.add([(5, "e", True), (1, "a", True), (3, "c", True)])
    assert stream.getvalue() == ""
    out.add([(at, chr(96 + at), True) for at in (9, 2, 7, 4, 8, 6)])
    assert stream.getvalue().split() == ["a", "b", "c", "d", "e"]
    out.flush()
    assert stream.getvalue().split() == list("abcdefghi")
    out.flush()
    assert stream.getvalue().endswith("i\n")


def test_a_date_stands_before_the_first_line_of_a_day(samples: Any) -> None:
    day = 86_400_000_000_000
    stream = io.StringIO()
    out = Ordered(Table([]), stream)
    told = [(day + 5, "a"), (day + 6, "b"), (2 * day, "c"), (day + 7, "b2")]
    out.add([(at, Note(at, text), True) for at, text in told] + [(0, Note(None, "?"), True)])
    out.flush()
    assert [line.split()[-1] if line[0] != "-" else line for line in stream.getvalue().splitlines()] == [
        "FIELDS", "-                  ?", "-- 1970-01-02 +00:00 --", "a", "b", "b2",
        "-- 1970-01-03 +00:00 --", "c",
    ]  # fmt: skip


def test_a_screen_shows_each_round_in_order_of_time(samples: Any) -> None:
    stream = io.StringIO()
    screen = Screen(Renderer(Table([])), {1: samples.schema()}, stream)
    screen.write(samples.frames(samples.event(time=3000), samples.event(time=4000)))
    screen.write(samples.frames(samples.event(time=2000)))
    screen.lost([Lost(1, 1, 3500, 8)])
    assert stream.getvalue() == ""
    screen.flush()
    lines = stream.getvalue().splitlines()[2:]
    assert [line[12:18] for line in lines] == ["457000", "458000", "458500", "459000"]
    assert "LOST 8" in lines[2]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1, "READ"), (5, "READ|WRITE"), (6, "ALL"), (20, "WRITE|0x10"), (16, "0x10")],
)
def test_bits_are_named(value: int, text: str) -> None:
    """What has no name is hexadecimal, as the kernel's own trace_print_flags_seq prints it."""
    assert flags({1: "READ", 4: "WRITE", 6: "ALL"})(value) == text


def test_a_column_is_as_wide_as_what_it_has_held(samples: Any) -> None:
    table = Table([samples.schema()], columns=["pid", "comm", "path"])
    renderer = Renderer(table)

    def shown(**values: Any) -> list[str]:
        return table.lines(renderer.rows(samples.frames(samples.event(**values)), {1: samples.schema()}))

    assert shown() == ["PID COMM path", "-- 2023-11-14 +00:00 --", ' 42 cat  "/tmp/a b"']
    assert shown(pid=1234567, comm="a-longer-comm") == ['1234567 a-longer-comm "/tmp/a b"']
    assert shown() == ['     42 cat           "/tmp/a b"']


def test_columns_are_chosen_by_name(samples: Any) -> None:
    base = samples.schema()
    table = Table([base], columns=["probe", "source", "nothing", "fields"])
    one = base._replace(fields=(base.fields[0], base.fields[8]))
    header, date, line = table.lines(Renderer(table).rows(samples.frames(samples.event()), {1: one}))
    assert (header, line) == ("PROBE    source    nothing FIELDS", "vfs_open 127.0.0.1 -       pid=42")
    assert date == "-- 2023-11-14 +00:00 --"


def test_times_since_the_first_line_or_the_one_before(samples: Any) -> None:
    events = [samples.event(time=samples.monotonic + at) for at in (0, 5, 1_000_000_007)]
    for clock, wanted in (
        ("relative", ["+0.000000000", "+0.000000005", "+1.000000007"]),
        ("delta", ["+0.000000000", "+0.000000005", "+1.000000002"]),
    ):
        table = Table([samples.schema()], columns=["time"], clock=clock)
        _, begin, *found = table.lines(Renderer(table).rows(samples.frames(*events), {1: samples.schema()}))
        assert begin == "-- from 2023-11-14 22:13:20.123456000+00:00 --"
        assert found == wanted


def test_what_repeats_stands_once(samples: Any) -> None:
    base = samples.schema(probe="tracepoint:syscalls:sys_enter_x")._replace(target="syscalls:sys_enter_x")
    pid = base.fields[0]
    names = ("pid", "tid", "args_pid", "args_comm", "__syscall_nr")
    same = base._replace(fields=tuple(pid._replace(name=name) for name in names))
    (line,) = rows(samples, Table([same]), samples.event(), one=same)
    assert line.split()[1:] == ["42", "args_comm=42"]
    other = same._replace(fields=(pid, base.fields[16]._replace(name="tid")))
    (line,) = rows(samples, Table([other]), samples.event(), one=other)
    assert line.split()[1:] == ["42", "tid=3"]
    odd = same._replace(fields=(pid, base.fields[13]._replace(name="tid")))
    (line,) = rows(samples, Table([odd]), samples.event(), one=odd)
    assert line.split()[1:] == ["42", "tid=cat"]


def test_probes_are_named_as_short_as_they_can_be_told_apart(samples: Any) -> None:
    specs = ("kprobe:f", "kretprobe:f", "tracepoint:sched:sched_switch(prev_pid)")
    known = {id: samples.schema(id, spec) for id, spec in enumerate(specs, 1)}
    table = Table(known.values(), columns=["probe"])
    found = Renderer(table).rows(samples.frames(*map(samples.event, known)), known)
    assert lines(table, found) == ["kprobe:f", "kretprobe:f", "sched_switch"]


def test_a_probe_that_comes_later_makes_a_new_header(samples: Any) -> None:
    table = Table([samples.schema()])
    renderer, known = Renderer(table), {1: samples.schema()}
    assert "PROBE" not in table.lines(renderer.rows(samples.frames(samples.event()), known))[0]
    known[2] = samples.schema(2, "kprobe:later")
    found = table.lines(renderer.rows(samples.frames(samples.event(2)), known))
    assert "PROBE" in found[0]
    assert " later " in found[-1]


def test_the_first_and_the_last_events_are_those_by_time() -> None:
    events = [(at, str(at), True) for at in (30, 10, 20, 50, 40)]
    loss = (25, "lost", False)
    for sink, wanted in (
        (Head(JsonLines(), io.StringIO(), 2, 8), ["10", "20"]),
        (Head(JsonLines(), io.StringIO(), 3, 8), ["10", "20", "lost", "30"]),
        (Head(JsonLines(), io.StringIO(), 0, 8), []),
        (Tail(JsonLines(), io.StringIO(), 2, 8), ["40", "50"]),
        (Tail(JsonLines(), io.StringIO(), 4, 8), ["20", "lost", "30", "40", "50"]),
        (Tail(JsonLines(), io.StringIO(), 0, 8), []),
        (Tail(JsonLines(), io.StringIO(), 9, 8), ["10", "20", "lost", "30", "40", "50"]),
    ):
        sink.add([*events, loss])
        sink.flush()
        assert sink._stream.getvalue().split() == wanted  # type: ignore[attr-defined]


def test_a_tail_holds_a_bounded_number_of_rows() -> None:
    stream = io.StringIO()
    tail = Tail(JsonLines(), stream, 3, 10)
    for at in range(1000):
        tail.add([(at, str(at), True)])
        assert len(tail._rows) <= 2 * 13
    tail.flush()
    assert stream.getvalue().split() == ["997", "998", "999"]
