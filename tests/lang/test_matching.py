"""Tests of texts by their parts: every spelling, the pattern it becomes, and what is said of mistakes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import shown_tree

from kwire.lang import python
from kwire.lang.context import Site
from kwire.lang.errors import LanguageError, TextError
from kwire.lang.expressions import ExpressionChecker
from kwire.lang.kerneltypes import KernelTypes


@pytest.fixture
def shown(types: KernelTypes, site: Callable[[str], Site]) -> Callable[[str], str]:
    """A condition at a tracepoint, checked, as text."""
    checker = ExpressionChecker(site("tracepoint:toy:all"), types, own_fields=True)
    return lambda text: shown_tree.value(checker.condition(python.parse_expression(text, "--filter")))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('comm ~ "a*b"', "(comm ~ 'a*b')"),
        ('glob(comm, "a*b")', "(comm ~ 'a*b')"),
        ('not comm ~ "*b" and args_pid == ~1', "(not (comm ~ '*b') and (s32[ctx+24] == -2))"),
        ('(comm) ~ "a" or comm ~ "[a]"', "((comm == b'a') or (comm == b'a'))"),
        ('comm ~ "ab*"', "(comm == b'ab')"),
        ('comm.startswith("ab")', "(comm == b'ab')"),
        ('comm.endswith("ab")', "(comm ~ '*ab')"),
        ('"~" in comm', "(comm ~ '*~*')"),
        ('"~" not in comm', "not (comm ~ '*~*')"),
        ('comm.endswith(("a", "b"))', "((comm ~ '*a') or (comm ~ '*b'))"),
        ('path ~ "/[a-cx]?**[!b-z]"', "(text<=256[data_loc(52)] ~ '/[a-cx-x]?*[\\x01-a{-ÿ]')"),
        ('str(comm, 3).endswith("b")', "(comm ~ '*b')"),
        ('comm ~ "*" and comm.startswith("") and "" in comm', "((1 and (1 and 1)))"),
        ('state == "GONE"', "(enum state[ctx+28] == 7)"),
        ('ipv6(saddr_v6) == "::1"', f"(block(16)[ctx+36] == {bytes(15) + bytes([1])!r})"),
    ],
)
def test_every_spelling_becomes_a_pattern(shown: Callable[[str], str], text: str, wanted: str) -> None:
    assert shown(text).replace("comm<=15", "comm") in (wanted, wanted.strip("()"), wanted[1:-1])


@pytest.mark.parametrize(
    ("text", "says", "span"),
    [
        ('comm ~ "[a"', "a [ of this pattern has no ]; write [[] for the sign itself", (7, 11)),
        ('comm ~ "[z-a]"', "[z-a] in this pattern holds nothing", (7, 14)),
        ('comm ~ "0123456789abcdef*"', "this text has at most 15 bytes, never these 16", (7, 26)),
        ('comm.endswith("0123456789abcdef")', "this text has at most 15 bytes, never these 16", (14, 32)),
        ('comm ~ "[é]*"', "[…] stands for one byte", (7, 13)),
        ("comm ~ path", "a text is searched for a constant text only", (7, 11)),
        ('pid ~ "a*"', "a u32 is no text; compare it with a number", (0, 10)),
        ('comm.startswith("a", 1)', "startswith takes one text", (0, 23)),
        ('comm.upper() == "A"', "this is no function of kwire, nor one in Python", (0, 10)),
        ('glob(comm) == "A"', "glob takes a text and a pattern", (0, 10)),
        ('state == "GON"', "an enum state has no name 'GON'; did you mean GONE?", (9, 14)),
        ('ipv6(saddr_v6) == "::g"', "'::g' is no IPv6 address", (18, 23)),
        ('pid @ "a"', "@ is not an operation on integers", (0, 9)),
        ("pid in comm", "`in` needs the values themselves", (7, 11)),
    ],
)
def test_mistakes_are_named(shown: Callable[[str], str], text: str, says: str, span: tuple[int, int]) -> None:
    with pytest.raises((TextError, LanguageError)) as caught:
        shown(text)
    error: Any = caught.value
    [diagnostic] = error.diagnostics if isinstance(error, LanguageError) else [error.diagnostic]
    assert says in f"{diagnostic.message}; {diagnostic.cure}"
    assert (diagnostic.span.column, diagnostic.span.end_column) == span
