"""Names for numbers out of a tracepoint's `print fmt`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwire.kernel.printfmt import constant, hexadecimal, tables

STATES = (
    '"oldstate=%s newstate=%s skaddr=%p", __print_symbolic(REC->oldstate, { 1, "TCP_ESTABLISHED" }, '
    '{ 2, "TCP_SYN_SENT" }), '
    '__print_symbolic(REC->newstate, {0x1,"TCP_ESTABLISHED"},{7UL,"TCP_CLOSE"}), REC->skaddr'
)


def names(text: str, **enumerators: int) -> dict[str, tuple[dict[int, str], bool]]:
    return {field: tuple(found) for field, found in tables(text, enumerators.get).items()}  # type: ignore[misc]


def test_tables_of_the_kernel() -> None:
    assert names(STATES) == {
        "oldstate": ({1: "TCP_ESTABLISHED", 2: "TCP_SYN_SENT"}, False),
        "newstate": ({1: "TCP_ESTABLISHED", 7: "TCP_CLOSE"}, False),
    }


SWITCH = (
    '"prev_state=%s%s ==> next=%d", (REC->prev_state & ((((0x0 | 0x1 | 0x2) + 1) << 1) - 1)) ? __print_flags('
    'REC->prev_state & ((((0x0 | 0x1 | 0x2) + 1) << 1) - 1), "|", { 0x00000001, "S" }, { 0x00000002, "D" }) '
    ': "R", REC->prev_state & (((0x0 | 0x1 | 0x2) + 1) << 1) ? "+" : "", REC->next'
)


def test_flags_with_a_name_for_none_and_a_mark_beside_them() -> None:
    assert names(SWITCH) == {"prev_state": ({0: "R", 1: "S", 2: "D", 8: "R+"}, True)}


GFP = (
    '"gfp_flags=%s", (REC->gfp_flags) ? __print_flags(REC->gfp_flags, "|", {( unsigned long)((( gfp_t)((((1UL'
    '))) << (10))|((((1UL))) << (11))) | (( gfp_t)((((1UL))) << (6)))), "GFP_NOFS"}, {( unsigned long)'
    '(( gfp_t)((((1UL))) << (___GFP_ZERO_BIT))), "__GFP_ZERO" }) : "none"'
)


def test_values_are_expressions_with_constants_of_enumerations() -> None:
    expected = {0: "none", 0xC40: "GFP_NOFS", 1 << 8: "__GFP_ZERO"}
    assert names(GFP, ___GFP_ZERO_BIT=8) == {"gfp_flags": (expected, True)}
    assert list(names(GFP)["gfp_flags"][0].values()) == ["none", "GFP_NOFS"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("0x10UL | 1 << 4 + 1", 0x30),
        ("-1", -1),
        ("(int)~0U & 0xff", 0xFF),
        ("010", 8),
        ("!0 + !5", 1),
        ("6 ^ 3 & 2 * 3", 6 ^ (3 & 6)),
        ("(u8)0x1ff", 0xFF),
        ("ONE << 1", 2),
        ("0xffffffffffffffffULL", -1),
        ("TWO", None),
        ("1 +", None),
        ("(1", None),
        ("1)", None),
        ("1 << 64", None),
        ("1 / 2", None),
        ('"a"', None),
        ("sizeof(int)", None),
        ("", None),
        ("(" * 100 + "1" + ")" * 100, None),
    ],
)
def test_constant_expressions(text: str, value: int | None) -> None:
    assert constant(text, {"ONE": 1}.get) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        '"%d", REC->state',
        '"%s", __print_symbolic(REC->a & 0xf, { 1, "one" })',
        '"%s", __print_symbolic(REC->a, { ONE, "one" })',
        '"%s", __print_symbolic(REC->a >> 3, { 1, "one" })',
        '"%s", __print_flags(REC->a, "|")',
        '"%s", __print_flags(1 << REC->a, "|", { 1, "one" })',
        '"%s", __print_symbolic(REC->a, { 1, "one" }',
        '__print_symbolic(REC->a, { 1, "one" })',
    ],
)
def test_what_is_no_plain_table_gives_no_names(text: str) -> None:
    assert tables(text) == {}


def test_an_entry_that_is_no_number_is_left_out() -> None:
    entries = '{ -1, "none" }, { MAX, "max" }, { 3, "three" }, { 4, ((void *)0) }'
    text = f'"%s", __print_symbolic((u32)REC->a, {entries})'
    assert names(text) == {"a": ({-1: "none", 3: "three"}, False)}


@given(st.text(alphabet='_print_symbolicflgsREC->a, {1"x"}()|<', max_size=300))
def test_any_text_is_survived(text: str) -> None:
    assert isinstance(tables(f'"%s", {text}'), dict)
    constant(text, lambda name: 1)


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
