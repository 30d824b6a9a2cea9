"""Names for numbers out of a tracepoint's `print fmt`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwire.kernel.printfmt import symbolic

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
