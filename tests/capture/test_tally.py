"""What chunks of frames count: of one section or of many together, the same sums."""

from __future__ import annotations

import random
from array import array
from collections import Counter
from typing import Any, cast

import numpy as np
import pytest

from kwire.capture import event_counts, pcapng
from kwire.capture.event_counts import Sums
from kwire.capture.reader import Capture, Mixed, Section
from kwire.wire.fields import Field
from kwire.wire.frames import Frames
from kwire.wire.messages import Cause, Lost
from kwire.wire.schema import MapShape, Schema
from kwire.wire.tables import MapTable, Row


class Given:
    """A capture as far as tallies ask it: the section of its last chunk."""

    tallied = None

    def __init__(self) -> None:
        self.section: Section | None = None


def summed(sums: Sums) -> dict[tuple[int, int | None, str], tuple[int, ...]]:
    """The rows by the section's name, the probe's number and text; times only where a schema tells them."""
    made: dict[tuple[int, int | None, str], tuple[int, ...]] = {}
    for section, rows in sums.rows():
        for schema, row in rows:
            who = (int(section.comments[0]), schema.id if schema else None, schema.probe if schema else "")
            made[who] = row if schema else row[:1]
    return made


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("waiting", [0, event_counts.WAITING])
def test_many_sections_together_count_as_each_alone(
    kit: Any, order: str, waiting: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_counts, "WAITING", waiting)
    source = random.Random(1)
    sections = [Section(pcapng.HOST, [(1, str(number).encode())]) for number in range(40)]
    fields = (Field("value", "u64", 16, 8), Field("table", "u32", 24, 4))
    held = Schema(5, "map:@x", "map", "@x", fields, 28, order, map=MapShape("count", 0))
    schemas = [kit.schema(1, order=order), kit.schema(3, "kprobe:f", order=order), held]
    frames_of_maps = {id: MapTable(1, 1 << 30, (Row((), 2),)).frames(id)[0] for id in (1, 5, 9)}
    strays = [*frames_of_maps.values(), kit.event(5, 1, order=order)]
    together, alone = Sums(), Sums()
    capture = Given()
    others: tuple[Counter[Any], Counter[Any]] = (Counter(), Counter())
    for turn in range(6):
        if turn == 3:
            schemas[1] = kit.schema(3, "kprobe:other", order=order)  # from here on 3 is another probe
        for section in sections:
            for schema in schemas:
                section.define(schema)
        frames, owners = [], []
        for _ in range(300):
            owners.append(source.randrange(40) if turn else 7)
            one = kit.event(source.choice([1, 1, 3, 9]), source.randrange(1 << 40), order=order)
            if source.random() > 0.9:
                one = source.choice([*strays, Lost(1, 5, 6, 2, 1, Cause.RING_FULL).frame()])
            frames.append(one)
        offsets = array("Q", np.cumsum([0, *map(len, frames[:-1])]).tolist())
        mixed = Mixed(b"".join(frames), offsets, sections, np.array(owners, np.uint32))
        for section, places in together.add(cast(Capture, capture), mixed):
            others[0].update((section.comments[0], bytes(mixed.frame_bytes(at))) for at in places)
        for section, some in mixed.split():
            capture.section = section
            for _, places in alone.add(cast(Capture, capture), some):
                others[1].update((section.comments[0], bytes(some.frame_bytes(at))) for at in places)
    found = summed(together)
    assert found == summed(alone)
    assert others[0] == others[1]
    assert sum(row[0] for row in found.values()) + others[0].total() == 6 * 300
    assert {probe for _, _, probe in found} == {
        "tracepoint:sched:tick",
        "kprobe:f",
        "kprobe:other",
        "map:@x",
        "",
    }


@pytest.mark.parametrize("many", [1, 40])
def test_an_event_of_a_map_and_a_table_of_a_probe_are_strangers(kit: Any, many: int) -> None:
    fields = (Field("value", "u64", 16, 8), Field("table", "u32", 24, 4))
    section = Section(pcapng.HOST, [])
    for schema in (kit.schema(1), Schema(2, "map:@x", "map", "@x", fields, 28, map=MapShape("count", 0))):
        section.define(schema)
    table = MapTable(1, 5, (Row((), 2),))
    right, wrong = [kit.event(1, 5), *table.frames(2)], [kit.event(2, 5), *table.frames(1)]
    for given, count in (([wrong[0]] * many, 0), (wrong * many, 0), ((right + wrong) * many, many)):
        found = event_counts.tally(Frames.walk(b"".join(given)), section)
        assert found.others == []
        assert {number: row[0] for number, row in found.known.items()} == (
            {1: count, 2: count} if count else {}
        )
        assert sum(found.strangers.values()) == len(given) - 2 * count


def test_a_chunk_of_nothing_counts_nothing(kit: Any) -> None:
    capture = Given()
    capture.section = Section(pcapng.HOST, [])
    sums = Sums()
    assert sums.add(cast(Capture, capture), Frames(b"", array("Q"))) == []
    assert [rows for _, rows in sums.rows()] == [[]]
