"""Writes native/tables.h: the numbers that the C walkers use, from the tables that Python uses.

Run: `.venv/bin/python scripts/native_tables.py`; tests/test_native.py holds the file against these tables.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from kwire import native
from kwire.analyze import rowlines
from kwire.capture import walk
from kwire.kernel import ring
from kwire.packets import conversations, dissect, fragments, memory, network, streams, tables
from kwire.packets import walk as records
from kwire.view import batches
from kwire.wire import column_rows, fields, frame, frames, gather

TARGET = Path(__file__).resolve().parent.parent / "native" / "tables.h"

HEAD = """\
/* Made by scripts/native_tables.py from the tables that Python uses; do not edit. */
#ifndef KWIRE_TABLES_H
#define KWIRE_TABLES_H
"""


PARTS = ("TEXT", "INTEGER", "CHARACTER", "TAIL", "FIXED")
ROW_PARTS = ("INTEGER", "TAIL", "FIXED", "BOOL", "NOTHING", "TIME", "MOMENT", "GIVEN", "ODD")
STYLES = ("JSON", "CELL", "HEX", "JSON_HEX", "CUT")
"""Of those of lines: `view.batches` and `analyze.rowlines`."""

FLAGS = {"-": "LEFT", "0": "ZERO", "+": "PLUS", " ": "SPACE", "#": "FORM"}
"""What the flags of a conversion are called in C."""


def numbers(prefix: str, values: type[Enum]) -> list[str]:
    """The members of an enumeration; those whose value is a text are numbered from 0."""
    made = []
    for place, one in enumerate(values):
        number = place if isinstance(one.value, str) else int(one.value)
        made.append(f"#define {prefix}_{one.name} {number}u")
    if made and isinstance(next(iter(values)).value, str):
        made.append(f"#define {prefix}_COUNT {len(values)}u")
    return made


def defined(values: dict[str, int]) -> list[str]:
    """Single numbers."""
    return [f"#define {name} {value}{'u' if value < 1 << 32 else 'llu'}" for name, value in values.items()]


def mask(values: frozenset[frame.Type]) -> str:
    """A bit for each of these frame types."""
    return f"0x{sum(1 << one for one in values):x}u"


def text() -> str:
    """The header."""
    without = frozenset(kind for kind, rule in frame.TYPES.items() if rule.id_zero)
    single = {
        "FRAME_VERSION": frame.VERSION,
        "FRAME_HEADER": frame.HEADER_SIZE,
        "FRAME_FLAGS_AT": frames.FLAGS_AT,
        "FRAME_LENGTH_AT": frames.LENGTH_AT,
        "FRAME_ID_AT": frames.ID_AT,
        "EVENT_HEADER": fields.EVENT_LEAST,
        "EVENT_TIME_AT": fields.TIMESTAMP_AT,
        "EVENT_MAX": frame.MAX_EVENT,
        "TAIL_MAX": fields.TAIL_MAX,
        "TAIL_CUT": fields.TAIL_CUT,
        "MAX_FIELD_BYTES": fields.MAX_FIELD_BYTES,
        "NO_EVENT": column_rows.NO_EVENT,
        "MAX_PACKET": tables.MAX_PACKET,
        "MAX_TAGS": tables.MAX_TAGS,
        "MAX_EXTENSIONS": tables.MAX_EXTENSIONS,
        "MORE_FRAGMENTS": dissect.MORE_FRAGMENTS,
        "FRAGMENT_OFFSET": dissect.FRAGMENT_OFFSET,
        "MORE_FRAGMENTS_6": dissect.MORE_FRAGMENTS_6,
        "FRAGMENT_OFFSET_6": dissect.FRAGMENT_OFFSET_6,
        "MAX_FRAGMENTED": fragments.MAX_BYTES,
        "MAX_FRAGMENT_PACKETS": fragments.MAX_PACKETS,
        "MAX_STREAM_HELD": streams.MAX_HELD,
        "MAX_SEGMENTS": streams.MAX_SEGMENTS,
        "MAX_WAIT": streams.MAX_WAIT,
        "JOINED": streams.JOINED,
        "JOIN_WAIT": streams.JOIN_WAIT,
        "LOOKED_AT": streams.LOOKED_AT,
        "GIVEN": streams.GIVEN,
        "SPAN": streams.SPAN,
        "MAX_CONTROL": streams.MAX_CONTROL,
        "CHAIN": streams.CHAIN,
        "MAX_PARTS": conversations.MAX_PARTS,
        "MAX_DATA_HELD": conversations.MAX_HELD,
        "PART_COST": conversations.PART_COST,
        "HELD": network.HELD,
        "RING_HEADER": ring.HEADER,
        "RING_BUSY": ring.BUSY,
        "RING_DISCARD": ring.DISCARD,
        "RING_LENGTH": ring.LENGTH,
        "EPB_HEADER": walk.EPB_HEADER,
        "EPB_OVERHEAD": walk.EPB_OVERHEAD,
        "EPB_DROPCOUNT": walk.EPB_DROPCOUNT,
        "DROPCOUNT_SPACE": walk.DROPCOUNT_SPACE,
        "ROW_WALL": walk.ROW_WALL,
        "ROW_SWAP": walk.ROW_SWAP,
        "ROW_STORED": walk.ROW_STORED,
        "ROW_DROPS": walk.ROW_DROPS,
        "ROW_WORDS": native.ROW_WORDS,
        "COUNT_EVENTS": walk.COUNT,
        "COUNT_FIRST": walk.FIRST,
        "COUNT_LAST": walk.LAST,
        "COUNT_WORDS": native.COUNT_WORDS,
        "FIELD_WORDS": native.FIELD_WORDS,
        "LINE_WORDS": native.LINE_WORDS,
        "PART_WORDS": native.PART_WORDS,
        **{f"PART_{name}": getattr(batches, name) for name in PARTS},
        "ROW_SHAPE_WORDS": native.ROW_SHAPE_WORDS,
        "ROW_PART_WORDS": native.ROW_PART_WORDS,
        "ROW_MEMO_WORDS": native.ROW_MEMO_WORDS,
        "ROW_NEED": rowlines.NEED,
        "ROW_TEXT_LEAST": rowlines.TEXT_LEAST,
        **{f"ROW_{name}": getattr(rowlines, name) for name in ROW_PARTS},
        **{f"STYLE_{name}": getattr(rowlines, name) for name in STYLES},
        "ROW_FLAG_SIGNED": rowlines.SIGNED,
        "ROW_FLAG_SWAP": rowlines.SWAP,
        **{f"FLAG_{name}": batches.FLAGS[flag] for flag, name in FLAGS.items()},
        "FLAG_SWAP": batches.SWAP,
        "TOGETHER": native.TOGETHER,
        "BIT_LENGTHS": native.BIT_LENGTHS,
        "SUMS": native.SUMS,
        "TEXT_TAIL": gather.TAIL,
        "TEXT_FIXED": gather.FIXED,
        "TEXT_RAW": gather.RAW,
        "RECORD_HEADER": records.RECORD_HEADER,
        "SIMPLE_HEADER": records.SIMPLE_HEADER,
        "LENGTHS_SWAPPED": records.SWAPPED,
        "LENGTHS_EITHER": records.EITHER,
        "NO_TIME": records.NO_TIME,
        "FIN": streams.FIN,
        "SYN": streams.SYN,
        "RST": streams.RST,
    }
    engine = {
        name: getattr(memory, name)
        for name in (
            *("CODES", "CODE_TROUBLE", "MAX_SPECIALS", "MAX_PLACES", "FAMILIES", "TALLY_PROTOCOL"),
            *("TALLY_FRAGMENT", "TALLY_WORDS", "SCHEMA_MARK", "ALONE_MARK", "SEVERAL", "OUT_FULL"),
            *("MARKS", "MARKED", "LYING"),
            *("FOUND_FULL", "RESERVE", "HOLD_RESERVE", "FRAGMENT_DATA", "FRAGMENT_UNITS", "FRAGMENT_SLAB"),
            *(
                "FRAGMENT_BUCKETS",
                "SLAB",
                "SLAB_KINDS",
                "CHUNK",
                "BUILDING",
                "BUILD_LEAST",
                "BUILD_FULL",
                "STARTS_COUNTED",
                "SECRETS",
            ),
        )
    }
    lines = [HEAD]
    lines += [*defined(single), "", *defined(engine)]
    lines += ["", *numbers("VARIANT", memory.Variant), "", *numbers("WHY", memory.Why)]
    lines += ["", *numbers("ROLE", memory.Role)]
    lines += ["", *numbers("TYPE", frame.Type), f"#define TYPE_MAX {max(frame.TYPES):d}u"]
    lines += [f"#define TYPES_WITHOUT_ID {mask(without)}", f"#define TYPES_WRAPPED {mask(streams.WRAPPED)}"]
    lines += [f"#define TYPES_OF_MAPS {mask(streams.MAPS)}"]
    lines += ["", *numbers("FLAG", frame.Flag), "", *numbers("CODE", frame.Code), "#define CODE_COUNT 16u"]
    lines += ["", *numbers("TROUBLE", tables.Trouble), "", *numbers("REMARK", tables.Remark)]
    lines += ["", *numbers("LINK", tables.LinkType), "", *numbers("ETHERTYPE", tables.EtherType)]
    lines += ["", *numbers("PROTOCOL", tables.Protocol), "", *numbers("EPB", Blocks), ""]
    families = " || ".join(
        f"(family) == {number}u" for number, kind in tables.FAMILIES.items() if kind == tables.EtherType.IPV6
    )
    four = next(number for number, kind in tables.FAMILIES.items() if kind == tables.EtherType.IPV4)
    extensions = " || ".join(f"(protocol) == {int(one)}u" for one in sorted(tables.EXTENSIONS))
    lines += [
        f"#define FAMILY_IPV4(family) ((family) == {four}u)",
        f"#define FAMILY_IPV6(family) ({families})",
    ]
    lines += [f"#define IS_EXTENSION(protocol) ({extensions})"]
    vlans = " || ".join(f"(kind) == {int(one):#x}u" for one in sorted(tables.VLANS))
    lines += [f"#define IS_VLAN(kind) ({vlans})", "", "#endif", ""]
    return "\n".join(lines)


class Blocks(Enum):
    """Types of pcapng blocks that C knows."""

    TYPE = 6
    SIMPLE = 3
    INTERFACE = 1
    OLD = 2
    STATISTICS = 5
    SECTION = 0x0A0D0D0A


if __name__ == "__main__":
    TARGET.write_text(text())
