"""`kwire decode`: the vectors and the errors through the command, every way in, both ways out."""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kwire.cli import decode
from kwire.errors import KwireError
from kwire.wire.fields import Field
from kwire.wire.frame import Code, Flag, Type, build
from kwire.wire.messages import Cause, Lost
from kwire.wire.schema import Schema

TEST = "1100000c0000006374657374"
SCHEMA = Schema(1, "kprobe:f", "kprobe", "f", (Field("pid", "u32", 16, 4), Field("comm", "str", 20, 4)), 24)
EVENT = build(Type.EVENT, 1, bytes.fromhex("0500000000000000 07000000 18000400") + b"ab\x1b\xff")
STREAM = b"".join(SCHEMA.frames()) + EVENT + Lost(1, 5, 6, 7, cause=Cause.RING_FULL).frame()


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    decode.configure(parser)
    return decode.run(parser.parse_args(words))


@pytest.fixture
def rows(capsys: pytest.CaptureFixture[str]) -> Any:
    def objects(*words: str) -> tuple[int, list[dict[str, Any]]]:
        status = run("--json", *words)
        return status, [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return objects


VECTORS = [
    (
        "110000340000000148656c6c6f2066726f6d206b70726f62657320616e64207472616365706f696e747320776974682065425046"
    )
    + " 145f 1 0 52 1",
    TEST + " 06b7 1 0 12 99",
    "1000000800000000 eff7 0 0 8 0",
    "1fff000bdeadbeef00ff80 c158 15 255 11 3735928559",
    "110000090000000778 76ef 1 0 9 7",
]


@pytest.mark.parametrize("vector", VECTORS)
def test_vectors(vector: str, rows: Any) -> None:
    text, sum, *numbers = vector.split()
    status, (row,) = rows("--hex", text, "--lenient")
    assert status == 0
    assert row["checksum"] == sum
    assert [row[key] for key in ("type_number", "flags", "length", "id")] == [
        int(number) for number in numbers
    ]
    assert row["payload"] == text[16:]
    assert row["errors"] == []


ERRORS = [
    ("1000", Code.TRUNCATED_HEADER, 2),
    ("1100000c0000006374", Code.TRUNCATED_PAYLOAD, 9),
    ("1100000400000001", Code.LENGTH_BELOW_HEADER, 2),
    ("2100000800000000", Code.BAD_VERSION, 0),
    ("1f00000800000000", Code.BAD_TYPE, 0),
    ("1180000800000000", Code.BAD_FLAGS, 1),
    ("1001000a000000000000", Code.BAD_CHECKSUM, 8),
    ("1000000800000001", Code.BAD_ID, 4),
    ("1600000900000001ff", Code.BAD_PAYLOAD, 8),
]


@pytest.mark.parametrize(("text", "code", "offset"), ERRORS)
def test_errors(text: str, code: Code, offset: int, rows: Any, capsys: pytest.CaptureFixture[str]) -> None:
    status, (row,) = rows("--hex", text)
    assert status == 1
    (error,) = row["errors"]
    assert set(error) == {"code", "number", "offset", "found", "expected"}
    assert (error["code"], error["number"], error["offset"]) == (code.name, int(code), offset)
    assert run("--hex", text) == 1
    assert f"error {code.name} ({code:d}) at offset {offset}: found " in capsys.readouterr().out


def test_the_keys_of_a_frame(rows: Any) -> None:
    _, (row,) = rows("--hex", TEST)
    assert list(row)[:10] == [
        *(
            "offset",
            "version",
            "type",
            "type_number",
            "flags",
            "length",
            "id",
            "payload",
            "checksum",
            "errors",
        )
    ]
    assert (row["offset"], row["version"], row["type"]) == (0, 1, "EVENT")
    _, (row,) = rows("--hex", "1000")
    assert (row["type"], row["checksum"], row["length"]) == (None, None, None)


def test_a_stream(rows: Any) -> None:
    status, (schema, event, lost) = rows(STREAM.hex())
    assert status == 0
    assert [row["type"] for row in (schema, event, lost)] == ["SCHEMA", "EVENT", "LOST"]
    assert [row["offset"] for row in (event, lost)] == [len(STREAM) - 40 - len(EVENT), len(STREAM) - 40]
    assert schema["decoded"]["probe"] == "kprobe:f"
    fields = {"pid": 7, "comm": "ab\x1b\\xff"}
    assert event["decoded"] == {"probe": "kprobe:f", "time_ns": 5, "fields": fields}
    assert (lost["decoded"]["count"], lost["decoded"]["cause"]) == (7, 1)


def test_a_stream_for_a_person(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(STREAM.hex(), "--lenient") == run(STREAM.hex()) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    for part in ("RING_FULL", 'probe: "kprobe:f"', r"ab\x1b\xff", "4 bytes at 24", "what comm points to"):
        assert part in out
    assert {"18 00 04 00", "61 62 1b ff"} <= {line[10:33].strip() for line in out.splitlines()}


def test_the_checksum_is_compared(capsys: pytest.CaptureFixture[str]) -> None:
    frame = bytearray(build(Type.EVENT, 1, b"a record...", Flag.CHECKSUM))
    assert run(frame.hex()) == 0
    assert "right: computed" in capsys.readouterr().out
    frame[9] ^= 1
    assert run(frame.hex()) == 1
    out = capsys.readouterr().out
    assert "WRONG: computed" in out
    assert "error BAD_CHECKSUM (8) at offset 20" in out


def test_it_stops_after_a_bad_length(capsys: pytest.CaptureFixture[str], rows: Any) -> None:
    text = TEST + "1100000400000001" + TEST
    assert run(text) == 1
    out = capsys.readouterr().out
    assert out.count("frame ") >= 2
    assert "frame 3" not in out
    assert "reading stops here" in out
    _, objects = rows(text)
    assert len(objects) == 2
    assert "reading stops here" in objects[1]["notes"][0]


DRESSES = [
    TEST,
    "0x" + TEST,
    "0x11, 0x00, 0x00, 0x0c, 0x00, 0x00, 0x00, 0x63, 0x74, 0x65, 0x73, 0x74",
    "00000000: 1100 000c 0000 0063 7465 7374            .......ctest\n",
    "00000000  11 00 00 0c 00 00 00 63  74 65 73 74              |.......ctest|\n0000000c\n",
    "12:00:00.000000 UNSUPPORTED\n\t0x0000:  1100 000c 0000 0063 7465 7374\n",
    "\t0x0000:  1100 000c 0000 0063 7465 7374            .......ctest\n",
]


class Stdin:
    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)


@pytest.mark.parametrize("text", DRESSES)
def test_every_way_in(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: Any) -> None:
    file = tmp_path / "dump.txt"
    file.write_text(text)
    ways = [("--hex", text), (text,), (str(file),), ("-",), ()]
    for words in ways:
        monkeypatch.setattr(sys, "stdin", Stdin(text.encode()))
        status, (row,) = rows(*words, "--lenient")  # read strictly, an EVENT has a timestamp
        assert (status, row["payload"]) == (0, "74657374"), words


def test_words_without_quotes_and_frames_as_they_are(tmp_path: Path, rows: Any) -> None:
    assert rows("1100", "000c", "00000063", "74657374")[1][0]["id"] == 99
    file = tmp_path / "frames"
    file.write_bytes(STREAM)
    assert len(rows(str(file))[1]) == 3


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--hex", "11zz"), "position 3: 'z' is not a hex digit"),
        (("11zz",), "position 3: 'z'"),
        (("11zz",), "or the name of a file"),
        (("--hex", "110"), "position 3: digit '0' stands alone"),
        (("--hex", ""), "no hex digits"),
        (("--hex", "11", "file"), "leave one of them out"),
        (("/",), "directory"),
    ],
)
def test_unusable_input_is_one_line(
    words: tuple[str, ...], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KwireError) as caught:
        run(*words)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


def test_a_capture_is_sent_elsewhere(tmp_path: Path) -> None:
    file = tmp_path / "x.pcapng"
    file.write_bytes(bytes.fromhex("0a0d0d0a1c0000004d3c2b1a"))
    with pytest.raises(KwireError, match="kwire show"):
        run(str(file))


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"\xff\xfe\0")
    with pytest.raises(KwireError, match="not a hex digit"):
        run(str(file))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=1, max_size=80), st.booleans(), st.booleans())
def test_any_bytes_are_explained(
    capsys: pytest.CaptureFixture[str], data: bytes, lenient: bool, whole: bool
) -> None:
    data = STREAM + data if whole else data
    words = ("--hex", data.hex(), *(["--lenient"] if lenient else []))
    status = run("--json", *words)
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert objects
    assert status == any(row["errors"] for row in objects)
    assert run(*words) == status
    out = capsys.readouterr().out
    assert all(character.isprintable() or character == "\n" for character in out)


def test_the_command() -> None:
    command = [
        sys.executable,
        "-c",
        "import sys; from kwire.cli.main import main; sys.exit(main(sys.argv[1:]))",
        "decode",
    ]
    done = subprocess.run([*command, "--hex", TEST, "--json", "--lenient"], capture_output=True, text=True)
    assert (done.returncode, json.loads(done.stdout)["id"]) == (0, 99)
    done = subprocess.run([*command], input="11 0q", capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "position 5: 'q'" in done.stderr
