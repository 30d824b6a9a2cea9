"""Text: nothing a record holds can do anything to a terminal; times; styles."""

from __future__ import annotations

import io
import os
import re
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwire.view.text import Style, WallClock, fit, quoted, safe, style


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ünïcode →", "plain ünïcode →"),
        ("a\nb\tc\r\0", "a\\nb\\tc\\r\\0"),
        ("\x1b[31mred", "\\e[31mred"),
        ("\x9b2J\x7f\x07", "\\u009b2J\\x7f\\x07"),
        (r"C:\dir\x2d", r"C:\dir\x2d"),
        (r"\n" + "\n", r"\\n\n"),
        (r"\xff", r"\xff"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\u2028\U000e0001", "\\u2028\\U000e0001"),
    ],
)
def test_what_is_not_printable_is_an_escape(text: str, shown: str) -> None:
    assert safe(text) == shown


def unescaped(shown: str) -> str:
    """The text that safe text stands for, by the rule alone."""

    def read(found: re.Match[str]) -> str:
        slashes, escape = found[1], found[2]
        half = "\\" * (len(slashes) // 2)
        if len(slashes) % 2 == 0:
            return half + escape
        short = {"n": "\n", "r": "\r", "t": "\t", "0": "\0", "e": "\x1b"}
        return half + (short.get(escape) or chr(int(escape[1:], 16)))

    return re.sub(r"(\\+)([nrt0e]|x[01][0-9a-f]|x7f|u[0-9a-f]{4}|U[0-9a-f]{8})", read, shown)


@given(st.text(st.sampled_from('\\\\nrt0exuU127fab "\n\x1b\x7f\x85\u202e\U000e0001é'), max_size=24))
def test_different_texts_stay_different(text: str) -> None:
    assert unescaped(safe(text)) == text
    word = quoted(text)
    if word.startswith('"'):
        inside = re.sub(r'(\\*)(\\")', lambda found: found[1][: len(found[1]) // 2] + '"', word[1:-1])
        slashes = len(inside) - len(inside.rstrip("\\"))
        assert unescaped(inside[: len(inside) - slashes // 2]) == text


@given(st.text())
def test_safe_text_is_printable_and_quoted_text_is_one_word(text: str) -> None:
    assert safe(text).isprintable()
    word = quoted(text)
    assert word.isprintable()
    assert word.startswith('"') or not (set(word) & set(' "=,') or not word)


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a", "a"), ("", '""'), ("a b", '"a b"'), ('say "x"', '"say \\"x\\""'), ("a=b", '"a=b"')],
)
def test_words_are_quoted_only_where_they_must_be(text: str, shown: str) -> None:
    assert quoted(text) == shown


def test_text_is_fitted_with_an_ellipsis() -> None:
    assert [fit("abcdef", width) for width in (0, 1, 5, 6)] == ["…", "…", "abcd…", "abcdef"]


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("zone")
def test_times_are_local_with_nanoseconds() -> None:
    clock = WallClock()
    assert clock.time(1_700_000_000_000_000_001) == "03:43:20.000000001"
    assert clock.date == "2023-11-15 +05:30"
    assert clock.moment(1_700_000_000_999_999_999) == "2023-11-15 03:43:20.999999999+05:30"
    day = clock.day(1_700_000_000_000_000_000)
    assert clock.time(day.start) == "00:00:00.000000000"
    assert clock.time(day.stop - 1) == "23:59:59.999999999"


def test_an_impossible_time_is_shown_somehow() -> None:
    clock = WallClock()
    assert clock.time((1 << 64) - 1).endswith("709551615")
    assert clock.time(10**30).endswith(".000000000")
    assert clock.day(10**30).start == 10**30


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return 77


def test_colours_are_for_terminals_where_nobody_minds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "get_terminal_size", lambda fd: os.terminal_size((90, 20)))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert style(Terminal()) == Style(True, 90)
    assert style(io.StringIO()) == Style(False, 0)
    monkeypatch.setenv("NO_COLOR", "1")
    assert style(Terminal()) == Style(False, 90)
    monkeypatch.setenv("NO_COLOR", "")
    monkeypatch.setenv("TERM", "dumb")
    assert style(Terminal()) == Style(False, 90)
    assert Style(True).paint("x", "31") == "\x1b[31mx\x1b[0m"
    assert Style().paint("x", "31") == "x"
