"""What the verbs share: choices, notes, progress on a terminal only."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pytest

from kwire.analyze import rows
from kwire.cli.choosing import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_shown_on_a_terminal_and_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    terminal = Terminal()
    progress = Progress("a: counting", 1000, terminal)
    progress(1)
    assert terminal.getvalue() == ""  # short work shows nothing
    now[0] += 1
    progress(420)
    progress(421)
    assert terminal.getvalue() == "\ra: counting 42 %\x1b[K"
    now[0] += 1
    progress(5000)
    assert terminal.getvalue().endswith("\ra: counting 99 %\x1b[K")
    progress.done()
    assert terminal.getvalue().endswith("\r\x1b[K")
    progress.done()


def test_progress_is_for_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    progress = Progress("a", 0, out)
    monkeypatch.setattr("time.monotonic", lambda: 1e9)
    progress(5)
    progress.done()
    assert out.getvalue() == ""


@pytest.mark.parametrize("option", [["--from", "soon"], ["--to", "25:00:00"], ["--where", "pid =="]])
@pytest.mark.parametrize("verb", [["query"], ["stats"], ["export", "-o", "x.csv"], ["cut", "-w", "x"]])
def test_wrong_choices_are_one_line(
    rich: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, kwire: Any, verb: list[str], option: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = kwire(verb[0], rich, *verb[1:], *option)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(("kwire: read --", "kwire: --where:1: "))
    assert [path.name for path in tmp_path.iterdir()] == ["rich.pcapng"]


def test_a_moment_from_the_end_is_written_as_help_says(rich: str, tmp_path: Any, kwire: Any) -> None:
    for option in ("--from", "--to"):
        texts: list[str] = []
        for words in ([option, "-5s"], [f"{option}=-5s"]):
            path = str(tmp_path / f"{len(texts)}.csv")
            status, _, err = kwire("export", rich, *words, "-o", path)
            assert status == 3, err
            texts.append(Path(path).read_text())
        assert texts[0] == texts[1]
    for where in (["--where", "-5>cpu"], ["--where=-5>cpu"], ["--where", "-x(cpu)"]):
        status, _, err = kwire("export", rich, *where, "-o", str(tmp_path / "where.csv"))
        assert (status, err.count("\n")) == (1, 1)
        assert err.startswith("kwire: --where:1: ")
    status, _, err = kwire("export", rich, "--utc", "-5s", "-o", str(tmp_path / "x.csv"))
    assert (status, err.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    "verb", [["show"], ["stats"], ["query"], ["export", "-o", "x.csv"], ["cut", "-w", "x"]]
)
def test_a_range_that_holds_nothing_is_said(
    verb: list[str], rich: str, tmp_path: Any, kwire: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    status, out, err = kwire(verb[0], rich, *verb[1:], "--from", "+5s", "--to", "+1s")
    assert (status, out, sorted(tmp_path.iterdir())) == (1, "", before)
    assert err == "kwire: choose --from +5s --to +1s: it ends before it begins; turn the two around\n"
    said = kwire(verb[0], rich, *verb[1:], "--from", "+5h")[2]
    assert "no event is in this range of time; there are some from " in said


@pytest.mark.parametrize(
    ("value", "table", "json", "csv"),
    [
        (None, "", "null", ""),
        (True, "true", "true", "true"),
        ((1 << 64) - 1, "18446744073709551615", "18446744073709551615", "18446744073709551615"),
        (math.nan, "nan", "null", ""),
        (0.5, "0.5", "0.5", "0.5"),
        ("a\nb", "a\\nb", '"a\\nb"', '"a\nb"'),
        (b"\x00\xff", "00ff", '"00ff"', "00ff"),
        ([1, 2], "[1, 2]", "[1, 2]", '"[1, 2]"'),
        ({"a": b"x"}, '{"a": "78"}', '{"a": "78"}', '"{""a"": ""78""}"'),
    ],
)
def test_values_are_written_so_that_a_row_is_one_line(value: Any, table: str, json: str, csv: str) -> None:
    import pyarrow as pa

    kind = pa.uint64() if type(value) is int else None
    made = pa.table({"x": pa.array([value], kind), "y": [1]})
    for write, expected in (
        (rows.write_json, f'{{"x": {json}, "y": 1}}\n'),
        (rows.write_csv, f"x,y\n{csv},1\n"),
    ):
        out = io.StringIO()
        batches = pa.Table.to_reader(made)
        assert write(batches, out) == 1
        assert out.getvalue() == expected
    out = io.StringIO()
    rows.write_table(pa.Table.to_reader(made), out)
    assert out.getvalue().splitlines()[1].split("  ")[0].strip() == table.split("  ")[0]


def test_one_event_is_said_in_the_singular(tmp_path: Path, kit: Any, kwire: Any) -> None:
    schema = kit.schema(1, "kprobe:f", (("pid", "u32", 1, ""),))
    path = str(kit.write(tmp_path / "one.pcapng", [schema], [kit.event(schema, kit.monotonic, (7,))]))
    out = str(tmp_path / "one.csv")
    assert kwire("export", path, "-o", out)[2] == f"1 event written to {out}\n"
    for verb in ("stats", "verify"):
        said = kwire(verb, path)[1]
        assert "1 event" in said
        assert "1 events" not in said
