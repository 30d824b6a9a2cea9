"""docs/protocol.md and the code say the same: every table, the vectors, and the example byte for byte."""

from __future__ import annotations

import argparse
import re
import struct
from pathlib import Path
from typing import Any

import pytest

from kwire.cli import decode
from kwire.wire.control import BYE_KEYS, ERROR_KEYS, HELLO_KEYS, WELCOME_KEYS
from kwire.wire.fields import DISPLAYS, Field
from kwire.wire.fields import TYPES as FIELD_TYPES
from kwire.wire.frame import ERRORS, MAX_EVENT, TYPES, Code, Type, build, checksum
from kwire.wire.frames import Frames
from kwire.wire.hextext import parse
from kwire.wire.keyed import NEEDED, Key
from kwire.wire.messages import CAUSES, PAYLOAD, Cause, Lost
from kwire.wire.schema import MAP_VALUES, MAX_FIELD_BYTES, MAX_FIELDS, Clock, MapShape, Schema
from kwire.wire.session import Delivered, Role, Session
from kwire.wire.settings import LIMITS, Settings
from kwire.wire.tables import KEYS, SHOWN
from kwire.wire.transitions import TABLE, Action, Input, State

TEXT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
Rows = list[list[str]]


def tables() -> list[tuple[list[str], Rows]]:
    """Every table of the document: its head, and its rows of cells without back-quotes."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", TEXT, re.MULTILINE):
        lines = [
            [cell.strip().strip("`") for cell in line.strip("|\n").split("|")] for line in block.splitlines()
        ]
        found.append((lines[0], lines[2:]))
    return found


def table(*head: str, holding: str) -> Rows:
    """The one table with this head and a row that begins with, or names second, `holding`."""
    (rows,) = [
        rows for top, rows in tables() if top == list(head) and any(holding in row[:2] for row in rows)
    ]
    return rows


def test_types() -> None:
    *rows, reserved = table("n", "name", "id", "payload", holding="KEEPALIVE")
    assert rows == [[f"{type:d}", type.name, rule.id, rule.payload] for type, rule in TYPES.items()]
    assert reserved[0] == f"{max(Type) + 1}–15"


def test_errors() -> None:
    rows = table("n", "name", "meaning", holding="BAD_VERSION")
    assert rows == [[f"{code:d}", code.name, text] for code, text in ERRORS.items()]
    assert list(ERRORS) == sorted(Code)


def test_causes() -> None:
    rows = table("n", "name", "meaning", holding="RING_FULL")
    assert rows == [[f"{cause:d}", cause.name, text] for cause, text in CAUSES.items()]


def test_types_of_fields() -> None:
    rows = table("type", "bytes", "signed", "value", "meaning", holding="u8")
    kinds = {"int": "integer", "bool": "bool", "raw": "bytes", "bytes": "bytes"}
    assert rows == [
        [
            name,
            ", ".join(map(str, rule.sizes)) or "any",
            "yes" if rule.signed else "",
            kinds.get(rule.kind, "text"),
            rule.meaning,
        ]
        for name, rule in FIELD_TYPES.items()
    ]


def test_keys_of_a_schema() -> None:
    keys = {row[0]: row[2] for row in table("key", "type", "", "meaning", holding="probe")}
    assert set(keys) == {*Schema._fields, "more"} - {"id", "stacks"}
    fields = {row[0]: row[2] for row in table("key", "type", "", "meaning", holding="offset")}
    assert tuple(fields) == Field._fields
    assert [key for key, need in fields.items() if need] == [
        key for key in Field._fields if key not in Field._field_defaults
    ]
    assert dict(table("display", "what people read", holding="octal")) == DISPLAYS
    clock = table("key", "type", "", "meaning", holding="monotonic")
    assert tuple(row[0] for row in clock) == Clock._fields
    assert f"at most {MAX_FIELDS}" in TEXT
    assert f"at most {MAX_FIELD_BYTES} bytes" in TEXT
    assert f"at most {MAX_EVENT} bytes" in TEXT


def test_tables_of_maps() -> None:
    said = {row[0]: row[1:] for row in table("key", "type", "", "meaning", holding="rows")}
    assert said == {
        name: [key.kind.words, "required" if key.default is NEEDED else "", key.meaning]
        for name, key in KEYS.items()
    }
    assert dict(table("shown", "when and where", holding="end")) == SHOWN
    kinds = table("kind", "value in a TABLE", "fields", holding="lhist")
    assert {row[0]: tuple(row[2].replace("`", "").split(", ")) for row in kinds} == MAP_VALUES
    rows = [row[0] for row in table("key", "type", "", "meaning", holding="bounds")]
    assert tuple(rows) == MapShape._fields


def test_the_layout_of_lost() -> None:
    rows = table("offset", "size", "what", holding="24")
    assert [int(row[0]) for row in rows] == [8, 16, 24, 32, 34, 35]
    assert sum(int(row[1]) for row in rows) == PAYLOAD.size


def test_checksums() -> None:
    rows = table("bytes", "checksum of those bytes", holding="(none)")
    assert len(rows) == 6
    for text, sum in rows:
        assert f"{checksum(bytes.fromhex(text.replace('(none)', ''))):04x}" == sum


def example() -> bytes:
    """What section 7 shows, made anew."""
    fields = (
        Field("cpu", "u16", 32, 2),
        Field("pid", "u32", 16, 4),
        Field("tid", "u32", 20, 4),
        Field("comm", "str", 28, 4, limit=16),
        Field("__syscall_nr", "s32", 24, 4),
    )
    clock = Clock("monotonic", 1_000_000_000, 1_700_000_000_000_000_000)
    target = "syscalls:sys_enter_getppid"
    schema = Schema(1, f"tracepoint:{target}", "tracepoint", target, fields, 34, clock=clock)
    record = struct.pack("<QIIiHHH", 5_000_000_123, 4242, 4243, 110, 34, 4, 3) + b"load\0\0"
    lost = Lost(1, 6_000_000_000, 6_000_500_000, 17, 3, Cause.RING_FULL)
    return b"".join(schema.frames()) + build(Type.EVENT, 1, record) + lost.frame()


def test_the_example(capsys: pytest.CaptureFixture[str]) -> None:
    dump, explained = re.findall(
        r"^```\n(.*?)^```", TEXT[TEXT.index("## 7.") : TEXT.index("## 8.")], re.MULTILINE | re.DOTALL
    )
    assert parse(dump) == example()
    parser = argparse.ArgumentParser()
    decode.configure(parser)
    assert decode.run(parser.parse_args(["--hex", dump])) == 0
    assert capsys.readouterr().out.strip() == explained.strip()


# ---- sessions


def test_keys_of_control_maps() -> None:
    for keys, holding in (
        (HELLO_KEYS, "versions"),
        (WELCOME_KEYS, "refused"),
        (ERROR_KEYS, "code"),
        (BYE_KEYS, "reason"),
    ):
        assert table("key", "type", "", "meaning", holding=holding) == keys_table(keys)


def test_states_inputs_and_actions() -> None:
    assert table("state", "meaning", holding="CLOSED") == [[state.name, state.value] for state in State]
    assert table("input", "when", holding="CONNECT") == [[input.name, input.value] for input in Input]
    actions = table("action", "what is done", holding="REFUSE")
    assert actions == [[action.name, action.value] for action in Action if action is not Action.NEVER]


def test_transitions() -> None:
    head = ["input", *(state.name for state in State)]
    assert table(*head, holding="CONNECT") == transitions()


def test_the_diagram() -> None:
    assert diagram() in TEXT


def test_timers_and_limits() -> None:
    rows = table("name", "default", "range", "unit", "meaning", holding="keepalive")
    assert rows == limits()
    assert Settings._fields == tuple(LIMITS)
    assert tuple(Settings()) == tuple(limit.default for limit in LIMITS.values())
    for limit in LIMITS.values():
        assert limit.low <= limit.default <= limit.high


def keys_table(keys: dict[str, Key]) -> Rows:
    return [
        [name, key.kind.words, "required" if key.default is NEEDED else "", key.meaning.strip("`")]
        for name, key in keys.items()
    ]


def transitions() -> Rows:
    """One row for each input: what it does in each state."""

    def cell(state: State, input: Input) -> str:
        rule = TABLE[state][input]
        if rule.action is Action.NEVER:
            return "—"
        return rule.action.name if rule.next is state else f"{rule.action.name} → {rule.next.name}"

    return [[input.name, *(cell(state, input) for state in State)] for input in Input]


def diagram() -> str:
    """Every change of state, as a diagram that is text: the inputs that lead from one state to another."""
    edges: dict[tuple[State, State], list[str]] = {}
    for state, rules in TABLE.items():
        for input, rule in rules.items():
            if rule.next is not state:
                edges.setdefault((state, rule.next), []).append(input.name)
    lines = [f"    {old.name} --> {new.name}: {', '.join(inputs)}" for (old, new), inputs in edges.items()]
    return "\n".join(["```mermaid", "stateDiagram-v2", *lines, "```"])


def limits() -> Rows:
    def shown(value: float) -> str:
        for unit, size in (("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)):
            if value >= size and value == int(value) and int(value) % size == 0:
                return f"{int(value) // size} {unit}"
        return f"{value:g}"

    return [
        [name, shown(limit.default), f"{shown(limit.low)} to {shown(limit.high)}", limit.unit, limit.meaning]
        for name, limit in LIMITS.items()
    ]


def dump(data: bytes) -> str:
    """Bytes as hex, sixteen a line, and as text."""
    lines = []
    for at in range(0, len(data), 16):
        piece = data[at : at + 16]
        halves = "  ".join(part.hex(" ") for part in (piece[:8], piece[8:]) if part)
        shown = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in piece)
        lines.append(f"{at:08x}  {halves:<48}  |{shown}|")
    return "\n".join(lines)


def session_example() -> str:
    """A whole session over a stream, frame by frame: one EVENT is sent, stored and acknowledged."""
    common: dict[str, Any] = {"random": lambda size: bytes(range(0xA0, 0xA0 + size))}
    source = Session(Role.SOURCE, initiator=True, about={"host": "web1"}, **common)
    sink = Session(Role.SINK, initiator=False, about={"host": "log"}, **common)
    now, lines = 0.0, []
    source.connected(now)
    sink.connected(now)

    def carry(sender: Session, receiver: Session) -> None:
        stream = b"".join(map(bytes, sender.transmit(1 << 16)))
        for frame in Frames.walk(stream):
            data = stream[frame.offset : frame.offset + frame.header.length]
            title = f"{sender.role.value} to {receiver.role.value}: {Type(frame.header.type).name}"
            lines.append(f"{title}\n{dump(data)}\n")
        receiver.receive(stream, now)
        for session_event in receiver.session_events():
            if isinstance(session_event, Delivered):
                receiver.consumed(session_event.sequence, now)

    carry(source, sink)
    carry(sink, source)
    source.send(build(Type.EVENT, 1, struct.pack("<QQ", 5_000_000_123, 4242)), now)
    source.close(now)
    carry(source, sink)
    carry(sink, source)
    assert source.state is sink.state is State.CLOSED
    return "\n".join(lines)


def test_the_example_of_a_session() -> None:
    (shown,) = re.findall(r"^```\n(.*?)^```", TEXT[TEXT.index("## 8.") :], re.MULTILINE | re.DOTALL)
    assert shown == session_example()
