"""What printed events look like: as C's printf, and bpftrace, print them."""

from __future__ import annotations

import pytest

from kwire.view.printed import Printed, PrintedJson, are_printed
from kwire.view.values import strftime
from kwire.wire.fields import CutStr, Field, UnreadStr
from kwire.wire.schema import Schema


def printed(format: str, *values: object, type: str = "s64", terminal: bool = False, **more: object) -> str:
    sizes = {"s64": 8, "u8": 1, "str": 4, "bytes": 4, "bool": 1, "ksym": 8, "enum": 4}
    fields = tuple(
        Field(f"f{number}", type, 16 + 8 * number, sizes[type], **more)  # type: ignore[arg-type]
        for number in range(len(values))
    )
    schema = Schema(
        1, "kprobe:f", "kprobe", "f", fields, 16 + 8 * len(values), prints="printf", format=format,
        enums={"state": {1: "OPEN"}}, symbols={4096: "vfs_read"},
    )  # fmt: skip
    assert schema.problem() == ""
    text: str = Printed(terminal=terminal).event(schema)(0, values)
    return text


@pytest.mark.parametrize(
    ("format", "value", "text"),
    [
        ("%d", -1, "-1"),
        ("%d", 1 << 32 | 5, "5"),
        ("%d", 0x80000000, "-2147483648"),
        ("%ld", 1 << 40, "1099511627776"),
        ("%lld", -1, "-1"),
        ("%llu", -1, "18446744073709551615"),
        ("%u", -1, "4294967295"),
        ("%hhd", 200, "-56"),
        ("%hx", -1, "ffff"),
        ("%x", 255, "ff"),
        ("%X", 255, "FF"),
        ("%#x", 255, "0xff"),
        ("%#x", 0, "0"),
        ("%#o", 8, "010"),
        ("%o", 8, "10"),
        ("%5d|", 42, "   42|"),
        ("%-5d|", 42, "42   |"),
        ("%05d", -42, "-0042"),
        ("%+d", 42, "+42"),
        ("% d", 42, " 42"),
        ("%.3d", 7, "007"),
        ("%6.3d", -7, "  -007"),
        ("%p", 255, "0xff"),
        ("%p", -1, "0xffffffffffffffff"),
        ("%c%%", 65, "A%"),
        ("%s", -5, "-5"),
    ],
)
def test_integers(format: str, value: int, text: str) -> None:
    assert printed(format, value) == text


@pytest.mark.parametrize(
    ("format", "value", "text"),
    [
        ("%s", "abc", "abc"),
        ("%5s|", "abc", "  abc|"),
        ("%-5s|", "abc", "abc  |"),
        ("%-4.2s|", "abc", "ab  |"),
        ("%s", CutStr("abc"), "abc.."),
        ("%s", UnreadStr(), ""),
        ("%r", "a\nb", "a\\x0ab"),
    ],
)
def test_texts(format: str, value: str, text: str) -> None:
    assert printed(format, value, type="str", limit=8) == text


def test_bytes_are_printed_in_three_ways() -> None:
    assert (
        printed("%r %rx %rh", b"a\x07", b"a\x07", b"a\x07", type="bytes", limit=8)
        == "a\\x07 \\x61\\x07 61 07"
    )


def test_names_and_words() -> None:
    assert printed("%s %d", True, False, type="bool") == "true 0"
    assert printed("%s %s %d", 1, 2, 1, type="enum", enum="state") == "OPEN 2 1"
    assert printed("%s %s", 4096, 1, type="ksym") == "vfs_read 0x1"


def test_only_a_terminal_is_protected() -> None:
    assert printed("%s\n", "\x1b[2J", type="str", limit=8) == "\x1b[2J\n"
    assert printed("%s\n", "\x1b[2J", type="str", limit=8, terminal=True) == "\\e[2J\n"


def test_the_time_is_that_of_the_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC0")
    import time

    time.tzset()
    assert strftime("%Y %H:%M:%S.%f %%f", 1_000_123_456_789) == "1970 00:16:40.123456 %f"


def test_json_is_an_object_a_line() -> None:
    schema = Schema(1, "kprobe:f", "kprobe", "f", (), 16, prints="printf", format='a "b"\n')
    assert PrintedJson().event(schema)(0, ()) == '{"type": "printf", "data": "a \\"b\\"\\n"}\n'


def test_which_captures_are_printed() -> None:
    one = Schema(1, "kprobe:f", "kprobe", "f", (), 16, prints="printf")
    assert are_printed([one])
    assert are_printed([one, one._replace(prints="")])  # a probe that only changes maps
    other = one._replace(prints="", fields=(Field("pid", "u32", 16, 4),), size=20)
    assert not are_printed([one, other])
    assert not are_printed([one._replace(prints="later")])
    assert not are_printed([])
