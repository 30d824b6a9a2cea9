"""Names for numbers out of a tracepoint's `print fmt`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwire.kernel.printfmt import hexadecimal, symbolic

STATES = (
    '"oldstate=%s newstate=%s skaddr=%p", __print_symbolic(REC->oldstate, { 1, "TCP_ESTABLISHED" }, '
    '{ 2, "TCP_SYN_SENT" }), '
    '__print_symbolic(REC->newstate, {0x1,"TCP_ESTABLISHED"},{7UL,"TCP_CLOSE"}), REC->skaddr'
)


def test_tables_of_the_kernel() -> None:
    assert symbolic(STATES) == {
        "oldstate": {1: "TCP_ESTABLISHED", 2: "TCP_SYN_SENT"},
        "newstate": {1: "TCP_ESTABLISHED", 7: "TCP_CLOSE"},
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        '"%d", REC->state',
        '"%s", __print_symbolic(REC->a & 0xf, { 1, "one" })',
        '"%s", __print_symbolic(REC->a, { ONE, "one" })',
        '"%s", __print_flags(REC->a, "|", { 1, "one" })',
        '"%s", __print_symbolic(REC->a, { 1, "one" }',
    ],
)
def test_what_is_no_plain_table_gives_no_names(text: str) -> None:
    assert symbolic(text) == {}


def test_an_entry_that_is_no_number_is_left_out() -> None:
    text = '__print_symbolic(REC->a, { -1, "none" }, { MAX, "max" }, { 3, "three" })'
    assert symbolic(text) == {"a": {-1: "none", 3: "three"}}


@given(st.text(alphabet='_print_symbolic(REC->a, {1"x"})', max_size=300))
def test_any_text_is_survived(text: str) -> None:
    assert isinstance(symbolic(text), dict)


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ('"address=%ps ip=%ps error_code=0x%lx", (void *)REC->address, (void *)REC->ip, REC->error_code',
         ["address", "ip", "error_code"]),
        ('"a=%d b=%#x 100%% c=%pI4", REC->a, REC->b, REC->c', ["b"]),
        ('"%s %llx", __get_str(name), (unsigned long long)REC->inode', ["inode"]),
        ('"%s %x", __print_symbolic(REC->a, { 1, "x,y" }, { 2, "z)" }), REC->b', ["b"]),
        ('"%x", REC->a >> 3', []),
        ('"%x %x", REC->a', []),
        ('"%x"', []),
        ("", []),
    ],
)  # fmt: skip
def test_what_is_printed_as_hexadecimal(text: str, fields: list[str]) -> None:
    assert hexadecimal(text) == fields


@given(st.text(max_size=200))
def test_hexadecimal_of_any_text(text: str) -> None:
    assert isinstance(hexadecimal(text), list)
    assert isinstance(hexadecimal(f'"{text}", {text}'), list)
