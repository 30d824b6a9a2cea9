"""Columns of many blocks together are those of each block by itself, row for row."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from kwire.analyze import arrow, gathering
from kwire.analyze.gathering import Gathering, Pending, Shapes
from kwire.analyze.order import runs
from kwire.analyze.scan import Block
from kwire.analyze.shared import Shared
from kwire.analyze.tables import Tables
from kwire.wire import gather
from kwire.wire.fields import TAIL_CUT
from kwire.wire.frame import FrameError
from kwire.wire.heads import heads_of


def blocks_of(kit: Any, source: random.Random) -> tuple[list[Block], Tables]:
    """Blocks of five probes: two layouts, both byte orders, times that lie among each other."""
    narrow = [("pid", "u64", 1, ""), ("big", "u64", 1, ""), ("path", "str", 1, ""), ("cpu", "s16", 1, "")]
    schemas = [kit.schema(1, "kprobe:a"), kit.schema(2, "kprobe:b", host="other")]
    schemas += [kit.schema(3, "kprobe:c", order="big"), kit.schema(4, "kprobe:d", narrow)]
    schemas.append(kit.schema(5, "kprobe:e", narrow, order="big"))
    tables, made = Tables(schemas), []
    for number in range(source.randrange(1, 12)):
        schema = source.choice(schemas)
        wide = schema.id < 4
        values = [kit.rich(source.randrange(1000)) for _ in range(source.randrange(1, 9))]
        if not wide:
            values = [
                (one[0], one[8], source.choice([b"\\x41", b"\xff", b"", b"plain"]), 3) for one in values
            ]
        frames = kit.frames(*(kit.event(schema, 0, one) for one in values))
        times = np.sort(np.array([source.randrange(60) + 20 * number for _ in values]))
        ends = source.choice([None, heads_of(frames).ends])
        made.append(Block(schema, frames, times, object(), ends))
    return made, tables


def rows_alone(blocks: list[Block], tables: Tables) -> list[dict[str, Any]]:
    """Every event by the columns of its own block, the oldest first."""
    rows = []
    for block in blocks:
        table = tables.find(block.schema)
        assert table is not None
        values = arrow.Values(block)
        columns = {column.name: values.column(column).to_pylist() for column in table.columns}
        for at, time in enumerate(block.times.tolist()):
            rows.append((time, {name: some[at] for name, some in columns.items()}))
    return [row for _, row in sorted(rows, key=lambda one: one[0])]


@pytest.mark.parametrize("twin", [False, True], ids=["as_built", "twin"])
def test_rows_are_those_of_each_block(kit: Any, twin: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if twin:
        for name in ("fixed", "located", "packed"):
            monkeypatch.setattr(gathering, f"rows_{name}", getattr(gather, f"rows_{name}_twin"))
    several = 0
    for seed in range(6 if twin else 16):
        blocks, tables = blocks_of(kit, random.Random(seed))
        shapes, found = Shapes(), list[dict[str, Any]]()
        pending = []
        for block in blocks:
            table = tables.find(block.schema)
            assert table is not None
            named = [(f"{one.name} {arrow.array_type(one)}", one) for one in table.columns]
            pending.append(Pending(block, shapes.of(block.schema, named)))
        for run in runs(pending, 20, 1 << 20):
            for start in range(0, len(run.times), 7):
                columns = Gathering(run.part(start, start + 7)).columns()
                several += len({one.shape.number for one, _ in run.stretches}) > 1
                lists = {name.split(" ", 1)[0]: [] for name in columns}  # type: dict[str, list[Any]]
                for name, column in columns.items():
                    lists[name.split(" ", 1)[0]].append(column.to_pylist())
                count = len(run.times[start : start + 7])
                found += [
                    {
                        name: next((some[at] for some in all if some[at] is not None), None)
                        for name, all in lists.items()
                    }
                    for at in range(count)
                ]
        wanted = rows_alone(blocks, tables)
        assert len(found) == len(wanted), seed
        for mine, theirs in zip(found, wanted, strict=True):
            assert {name: mine.get(name) for name in theirs} == theirs, seed
            assert all(mine[name] is None for name in mine.keys() - theirs.keys()), seed
    assert several > 5


def test_an_event_that_is_not_sound_is_refused_as_by_itself(kit: Any) -> None:
    schema = kit.schema(1, "kprobe:a", [("path", "str", 1, "")])
    frame = bytearray(kit.event(schema, 0, (b"abcd",)))
    frame[16:20] = (2).to_bytes(2, "little") + (4 | TAIL_CUT).to_bytes(2, "little")
    frames = kit.frames(bytes(frame))
    block = Block(schema, frames, np.array([1]), object(), heads_of(frames).ends)
    (table,) = Tables([schema])
    pending = Pending(block, Shapes().of(schema, [(one.name, one) for one in table.columns]))
    (run,) = runs([pending])
    with pytest.raises(FrameError) as found:
        Gathering(run).columns()
    with pytest.raises(FrameError, match=str(found.value)[:20]):
        block._replace(ends=None).columns().column(schema.fields[0])


def test_all_events_have_the_columns_that_all_tables_share(kit: Any) -> None:
    """A batch of `events` of several blocks is that of each of them alone, put together."""
    for seed in range(20):
        blocks, tables = blocks_of(kit, random.Random(seed))
        shared, together = Shared(tables), object()
        pairs = [(tables.find(block.schema), block) for block in blocks]
        alone = [row for one in pairs for batch in shared.batches([one]) for row in batch.to_pylist()]  # type: ignore[list-item]
        rounds = [(table, block._replace(round=together)) for table, block in pairs]
        (batch,) = shared.batches(rounds)  # type: ignore[arg-type]
        assert batch.to_pylist() == alone
        (few,) = shared.batches(rounds, {"cpu", "probe"})  # type: ignore[arg-type]
        assert [row["cpu"] for row in few.to_pylist()] == [row["cpu"] for row in alone]
        assert {row["comm"] for row in few.to_pylist()} == {None}
