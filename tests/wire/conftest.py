"""What several tests of the wire need: the reference program, and probes made at random with their events."""

from __future__ import annotations

import ipaddress
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import strategies as st

from kwire.wire.fields import TYPES, Field
from kwire.wire.schema import Clock, Schema

Ask = Callable[[bytes], bytes]


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Ask:
    """Hands requests to the independent C program, and its answers back."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    program = tmp_path_factory.mktemp("reference") / "reference"
    source = Path(__file__).with_name("reference.c")
    flags = ["-O1", "-std=c11", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([compiler, *flags, "-o", str(program), str(source)], check=True)

    def ask(requests: bytes) -> bytes:
        return subprocess.run([program], input=requests, capture_output=True, check=True).stdout

    return ask


class Sample(NamedTuple):
    """A schema, EVENT frames of its probe, and for each frame its time and values, as the fields stand."""

    schema: Schema
    frames: list[bytes]
    times: list[int]
    values: list[list[Any]]


NUMBERS = st.integers(0, 2**64 - 1)
NAMES = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=8)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@st.composite
def fields(draw: st.DrawFn) -> tuple[list[Field], int]:
    """Fields with holes between them, shuffled, and the size of the fixed part."""
    made, at = [], 16
    for name in draw(st.lists(NAMES, max_size=8, unique=True)):
        type = draw(st.sampled_from(sorted(TYPES)))
        rule = TYPES[type]
        width = draw(st.sampled_from(rule.sizes)) if rule.sizes else draw(st.integers(1, 20))
        count = 1 if rule.tail else draw(st.sampled_from([1, 1, 1, 2, 3]))
        at += draw(st.integers(0, 3))
        limit = 40 if rule.tail else 0
        display = (draw(TEXT), draw(TEXT), draw(NUMBERS)) if draw(st.booleans()) else ()
        made.append(
            Field(name, type, at, width * count, draw(TEXT), draw(TEXT), count, draw(TEXT), limit, *display)
        )
        at += width * count
    return draw(st.permutations(made)), at + draw(st.integers(0, 3))


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    made, size = draw(fields())
    table = st.dictionaries(st.integers(-(2**63), 2**64 - 1), TEXT, max_size=3)
    return Schema(
        draw(st.integers(1, 2**32 - 1)),
        draw(TEXT),
        draw(TEXT),
        draw(TEXT),
        tuple(made),
        size,
        draw(st.sampled_from(["little", "big"])),
        draw(st.sampled_from([4, 8])),
        draw(TEXT),
        draw(st.dictionaries(NAMES, table, max_size=2)),
        draw(st.dictionaries(NUMBERS, TEXT, max_size=3)),
        draw(st.none() | st.builds(Clock, TEXT, NUMBERS, NUMBERS)),
        draw(TEXT),
        draw(TEXT),
    )


def as_text(data: bytes) -> str:
    """Bytes as text by the protocol's rule, one sequence after the other; written apart from the decoder."""
    tokens: list[str | int] = []
    at = 0
    while at < len(data):
        for size in (1, 2, 3, 4):
            try:
                tokens.append(data[at : at + size].decode())
            except UnicodeDecodeError:
                continue
            at += size
            break
        else:
            tokens.append(data[at])
            at += 1
    shown, run = "", 0
    for place, token in enumerate(tokens):
        if token == "\\":
            run += 1
            continue
        ahead = "".join(one for one in tokens[place : place + 3] if isinstance(one, str))
        escape = isinstance(token, int) or (ahead[:1] == "x" and ahead[1:2] in "89abcdef" and len(ahead) == 3)
        escape = escape and (isinstance(token, int) or ahead[2] in "0123456789abcdef")
        shown += "\\" * (2 * run if escape else run) + (
            f"\\x{token:02x}" if isinstance(token, int) else token
        )
        run = 0
    return shown + "\\" * run


def element(draw: st.DrawFn, type: str, width: int, order: str) -> tuple[bytes, Any]:
    """Random bytes of one element, and what they mean; written apart from the decoder."""
    raw = draw(st.binary(min_size=width, max_size=width))
    if type == "text":
        end = raw.find(b"\0")
        return raw, as_text(raw if end < 0 else raw[:end])
    if type == "raw":
        return raw, raw
    if type in ("ipv4", "ipv6"):
        return raw, str(ipaddress.ip_address(raw))
    if type == "mac":
        return raw, ":".join(f"{byte:02x}" for byte in raw)
    signed = type in ("s8", "s16", "s32", "s64", "senum")
    number = int.from_bytes(raw, "little" if order == "little" else "big", signed=signed)
    return raw, number != 0 if type == "bool" else number


@st.composite
def samples(draw: st.DrawFn, schema: Schema | None = None) -> Sample:
    schema = draw(schemas()) if schema is None else schema
    sign = "<" if schema.order == "little" else ">"
    frames, times, rows = [], [], []
    for _ in range(draw(st.integers(0, 4))):
        time = draw(NUMBERS)
        record = bytearray(draw(st.binary(min_size=schema.size, max_size=schema.size)))
        record[8:16] = struct.pack(sign + "Q", time)
        tail, values = b"", []
        for field in schema.fields:
            if TYPES[field.type].tail:
                value: Any = draw(TEXT) if field.type == "str" else draw(st.binary(max_size=40))
                raw = value.encode()[:40] if isinstance(value, str) else value
                value = as_text(raw) if isinstance(value, str) else value
                tail += bytes(draw(st.integers(0, 2)))
                cut = draw(st.sampled_from([0, 0, 0x8000]))
                start = schema.size + len(tail) if raw or draw(st.booleans()) else 0
                data = struct.pack(sign + "HH", start, len(raw) | cut)
                tail += raw
            else:
                width = field.size // field.count
                parts = [element(draw, field.type, width, schema.order) for _ in range(field.count)]
                data = b"".join(part for part, _ in parts)
                value = [part for _, part in parts] if field.count > 1 else parts[0][1]
            record[field.offset : field.offset + field.size] = data
            values.append(value)
        record += tail
        record += bytes(-len(record) % 8)
        record[:8] = struct.pack(">BBHI", 0x11, 0, len(record), schema.id)
        frames.append(bytes(record))
        times.append(time)
        rows.append(values)
    return Sample(schema, frames, times, rows)


@pytest.fixture(scope="session")
def made_schemas() -> st.SearchStrategy[Schema]:
    return schemas()


@pytest.fixture(scope="session")
def made_samples() -> st.SearchStrategy[Sample]:
    return samples()
