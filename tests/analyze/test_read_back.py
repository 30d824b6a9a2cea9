"""What other programs read of an export is what was recorded: numbers of all widths, any texts and bytes."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kwire.analyze.capture_summary import CaptureSummary
from kwire.analyze.export import FORMATS, Export
from kwire.analyze.scan import Block
from kwire.analyze.tables import Tables

WIDTHS = {"u8": 8, "u16": 16, "u32": 32, "u64": 64, "s8": 8, "s16": 16, "s32": 32, "s64": 64}
FIELDS = (
    *((f"n_{kind}", kind, 1, "") for kind in WIDTHS),
    *(("ok", "bool", 1, ""), ("text", "str", 1, ""), ("data", "bytes", 1, "")),
    *(("fixed", "text", 8, ""), ("lump", "raw", 3, "")),
)


def numbers(kind: str) -> st.SearchStrategy[int]:
    """Numbers of this type, the least and the greatest and what is near to powers of ten among them."""
    bits = WIDTHS[kind]
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if kind[0] == "s" else (0, (1 << bits) - 1)
    tens = [sign * 10**power + more for power in range(20) for more in (-1, 0, 1) for sign in (-1, 1)]
    known = sorted({low, high, *(one for one in tens if low <= one <= high)})
    return st.sampled_from(known) | st.integers(low, high)


def octets(most: int) -> st.SearchStrategy[bytes]:
    """Bytes: what means something in CSV, JSON or Python, UTF-8, and what is none."""
    pieces = [
        b'"',
        b",",
        b"\n",
        b"\r",
        b"\0",
        b"\\x41",
        b"\\",
        b"\xff",
        "é".encode(),
        b"a",
        b"\x7f",
        b"plain",
    ]
    some = st.lists(st.sampled_from(pieces), max_size=6).map(b"".join)
    return (some | st.binary(max_size=most)).map(lambda made: made[:most])


EVENT = st.tuples(
    *(numbers(kind) for kind in WIDTHS),
    st.booleans(),
    *(octets(64), octets(64), octets(8)),
    st.binary(min_size=3, max_size=3),
)


def as_cell(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return value.hex() if isinstance(value, bytes) else str(value)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["little", "big"]),
    st.lists(EVENT, max_size=12),
    st.integers(-(1 << 62), 1 << 62),
)
def test_values_are_read_back(kit: Any, order: str, events: list[tuple[Any, ...]], start: int) -> None:
    """By csv, json and pyarrow, out of tables without a row too."""
    schema = kit.schema(1, "kprobe:f", FIELDS, order=order)
    frames = kit.frames(*(kit.event(schema, 0, values) for values in events))
    times = start + 999_999_999 * np.arange(len(events), dtype=np.int64)
    decode = schema.decoder()
    wanted = [decode(frames.frame_bytes(at)) for at in range(len(events))]
    names = [field.name for field in schema.fields]
    summary = CaptureSummary()
    summary.read = True

    def written(form: str) -> io.BytesIO:
        out = io.BytesIO()
        blocks = [Block(schema, frames, times, object())] if events else []
        FORMATS[form].write(Export(blocks, Tables([schema]), summary, []), out)
        return io.BytesIO(out.getvalue())

    rows = list(csv.DictReader(io.StringIO(written("csv").getvalue().decode(), newline="")))
    assert [int(row["time_ns"]) for row in rows] == times.tolist()
    assert [[row[name] for name in names] for row in rows] == [list(map(as_cell, one)) for one in wanted]

    objects = [json.loads(line) for line in written("ndjson").getvalue().splitlines()]
    assert [one["time_ns"] for one in objects] == times.tolist()
    for one, values in zip(objects, wanted, strict=True):
        shown = [value.hex() if isinstance(value, bytes) else value for value in values]
        assert list(one["fields"].values()) == shown

    for table in (
        pq.read_table(written("parquet")),
        pa.ipc.open_file(written("arrow")).read_all(),
        pa.ipc.open_stream(written("arrows")).read_all(),
    ):
        assert table["time_ns"].to_pylist() == times.tolist()
        found = [table[name].to_pylist() for name in names]
        assert [tuple(row) for row in zip(*found, strict=True)] == [tuple(one) for one in wanted]
