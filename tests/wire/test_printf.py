"""Formats of printed events: what they are made of, what they take, what is refused."""

from __future__ import annotations

import pytest

from kwire.wire.fields import Field
from kwire.wire.frame import FrameError, read_strict
from kwire.wire.printf import Conversion, FormatError, OfMap, problem, split
from kwire.wire.schema import Schema, SchemaReader

NUMBER = Field("a", "u32", 16, 4)
TEXT = Field("b", "str", 20, 4, limit=8)


def test_a_format_is_texts_and_conversions() -> None:
    assert split("100%% %-5.3lld|%gr") == (
        ["100% ", "|", ""],
        [Conversion("d", "-", 5, 3, "ll"), Conversion("gr")],
    )
    assert split("") == ([""], [])


@pytest.mark.parametrize("text", ["%-5.3lld", "%#x", "%08lu", "%s", "%.4s", "%rx", "%+d"])
def test_a_conversion_is_written_as_it_was(text: str) -> None:
    assert split(text)[1][0].text == text


@pytest.mark.parametrize("text", ["%", "%k", "%5", "%-", "%99999d", "%.99999d", "%l", "%é"])
def test_what_is_no_conversion_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        split(text)


@pytest.mark.parametrize(
    ("format", "wrong"),
    [
        ("%d %s", ""),
        ("%s %r", ""),
        ("%d", "format has 1 conversions for 2 fields"),
        ("%d %d", "format: %d does not take b, which is str"),
        ("%d %q", "format: %q is no conversion"),
    ],
)
def test_a_format_has_to_fit_its_fields(format: str, wrong: str) -> None:
    assert problem("printf", format, (NUMBER, TEXT)) == wrong


def schema(prints: str, format: str) -> Schema:
    return Schema(1, "kprobe:f", "kprobe", "f", (NUMBER, TEXT), 24, prints=prints, format=format)


@pytest.mark.parametrize(
    ("prints", "format"), [("printf", "%d %s\n"), ("time", "%H"), ("later", "x"), ("", "")]
)
def test_a_schema_keeps_it(prints: str, format: str) -> None:
    [data] = schema(prints, format).frames()
    read = SchemaReader().add(read_strict(data))
    assert read == schema(prints, format)


def test_what_is_asked_of_a_map_is_its_name_and_the_limits_of_a_print() -> None:
    read = [OfMap.read(format) for format in ("@x", "@x 5", "@x 5 1000", "@x 0 1 1")]
    assert read == [OfMap("@x"), OfMap("@x", 5), OfMap("@x", 5, 1000), OfMap("@x", emptied=1)]
    with pytest.raises(FrameError, match="the limits of a print are no numbers"):
        schema("print", "@x many").frames()


def test_a_schema_whose_format_does_not_fit_is_not_sound() -> None:
    with pytest.raises(FrameError):
        schema("printf", "%d").frames()
    good = schema("printf", "%d %s").frames()[0]
    bad = good.replace(b"%d %s", b"%d %d")
    with pytest.raises(FrameError):
        SchemaReader().add(read_strict(bad))
