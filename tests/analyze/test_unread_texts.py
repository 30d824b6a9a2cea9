"""Texts that a probe could not read, because the memory was not there: none is taken for an empty text."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest

import kwire as library
from kwire.view.filter import Events, mask
from kwire.view.where import Where
from kwire.wire.frames import Frames

PATHS = (b"", None, b"/tmp/x", None, b"<unread>")


def event_of(kit: Any, schema: Any, time: int, path: bytes | None) -> bytes:
    frame = bytearray(kit.event(schema, time, kit.rich(0, path=path or b"")))
    if path is None:
        frame[schema.field("path").offset + 3] |= 0x80  # the length's high byte
    return bytes(frame)


@pytest.fixture
def events(kit: Any) -> list[bytes]:
    schema = kit.schema()
    return [event_of(kit, schema, kit.monotonic + at, path) for at, path in enumerate(PATHS)]


@pytest.fixture
def capture(tmp_path: Path, kit: Any, events: list[bytes]) -> str:
    return str(kit.write(tmp_path / "unread.pcapng", [kit.schema()], events))


def test_json_and_the_table(capture: str, kwire: Any, shown: Any) -> None:
    assert [event["fields"]["path"] for event in shown(capture)] == ["", None, "/tmp/x", None, "<unread>"]
    assert all("cut" not in event for event in shown(capture))
    lines = kwire("show", capture, "--wide")[1].splitlines()[-5:]
    assert [line.split("path=")[1].split()[0] for line in lines] == [
        '""', "<unread>", "/tmp/x", "<unread>", '"<unread>"'
    ]  # fmt: skip


def test_sql_parquet_and_csv(capture: str, kwire: Any, tmp_path: Path) -> None:
    pytest.importorskip("duckdb")
    pq = pytest.importorskip("pyarrow.parquet")
    sql = "SELECT count(*) AS n, count(path) AS known, count(*) FILTER (path = '') AS empty FROM vfs_open"
    [row] = map(json.loads, kwire("query", capture, "--json", sql)[1].splitlines())
    assert row == {"n": 5, "known": 3, "empty": 1}
    for name in ("out.parquet", "out.csv"):
        kwire("export", capture, "-o", str(tmp_path / name))
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["path"].to_pylist() == ["", None, "/tmp/x", None, "<unread>"]
    assert table["path_cut"].to_pylist() == [False] * 5
    text = (tmp_path / "out.csv").read_text()
    cells = [re.findall(r'(?:^|,)("(?:[^"]|"")*"|[^,]*)', line) for line in text.splitlines()]
    place = cells[0].index("path")
    assert [row[place] for row in cells[1:]] == ['""', "", "/tmp/x", "", "<unread>"]


def test_perfetto_and_stats(capture: str, kwire: Any, tmp_path: Path) -> None:
    kwire("export", capture, "-o", str(tmp_path / "out.json"))
    entries = json.loads((tmp_path / "out.json").read_text())["traceEvents"]
    told = [entry["args"]["begin"]["path"] for entry in entries if entry["ph"] == "B"]
    assert told == ["", None, "/tmp/x", None, "<unread>"]
    report = json.loads(kwire("stats", capture, "--json")[1])
    [path] = [field for field in report["probes"][0]["fields"] if field["name"] == "path"]
    assert path["top"][0] == {"value": None, "count": 2}
    assert path["distinct"] == 4


def test_python_values(capture: str) -> None:
    with library.open(capture) as opened:
        events = list(opened)
        assert [event.path for event in events] == ["", None, "/tmp/x", None, "<unread>"]
        assert events[1]["path"] is None
        assert events[1].fields["path"] is None
        assert pickle.loads(pickle.dumps(events[1])).path is None
        assert [event.cut for event in events] == [()] * 5
        columns = opened.columns()
        assert columns["path_unread"].tolist() == [False, True, False, True, False]
        assert columns["path_cut"].tolist() == [False] * 5
        if pytest.importorskip("pyarrow"):
            assert opened.arrow()["path"].null_count == 2


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("path == ''", [0]),
        ("path != ''", [1, 2, 3, 4]),
        ("path != '/tmp/x'", [0, 1, 3, 4]),
        ("path", [2, 4]),
        ("not path", [0, 1, 3]),
        ("path < 'a'", [0, 2, 4]),
        ("path >= ''", [0, 2, 4]),
        ("path <= ''", [0]),
        ("path ~ '?*'", [2, 4]),
        ("path == comm or path != comm", [0, 1, 2, 3, 4]),
        ("path == path", [0, 2, 4]),
    ],
)
def test_conditions(kit: Any, events: list[bytes], text: str, wanted: list[int]) -> None:
    schema = kit.schema()
    where = Where(text)
    where.check([schema])
    test, decode = where.test(schema), schema.decoder()
    assert [at for at, event in enumerate(events) if test(0, decode(event))] == wanted
    np = pytest.importorskip("numpy")
    frames = Frames.walk(b"".join(events))
    found = mask(where, schema)(Events(schema, frames, np.zeros(len(events), np.int64)))
    assert np.flatnonzero(found).tolist() == wanted
