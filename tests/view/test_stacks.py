"""Stacks as text: bpftrace's forms, one line, and what is not known."""

import pytest

from kwire.view.stacks import short, text
from kwire.wire.stacks import Frame, Stack, Stacks

KERNEL = Stack((Frame(0xFFFFFFFF81000010, "vfs_read", 16), Frame(0xFFFFFFFFC0000000)))
USER = Stack((Frame(0x55D240A6C1BE, "f;g()", 3, "/bin/x y"), Frame(0x1234)))
IDS = Stack((Frame(0x10, "", 0, "ab" * 20), Frame(0x7F0000000000)))

FORMS = [
    (KERNEL, "bpftrace", "\n        vfs_read+16\n        0xffffffffc0000000\n"),
    (KERNEL, "perf", "\n\tffffffff81000010 vfs_read+16\n\tffffffffc0000000 0xffffffffc0000000\n"),
    (KERNEL, "raw", "\nffffffff81000010\nffffffffc0000000\n"),
    (USER, "perf", "\n\t55d240a6c1be f;g()+3 (/bin/x y)\n\t1234 0x1234 ([unknown])\n"),
    (IDS, "build_id", f"\n{'ab' * 20} 0x10\n0x7f0000000000\n"),
    (KERNEL, "symbol", "vfs_read"),
    (USER[1:], "symbol", "0x1234"),
    (Stack(), "symbol", ""),
    (Stack(), "bpftrace", "\n"),
    (KERNEL, "a mode that comes later", "\n        vfs_read+16\n        0xffffffffc0000000\n"),
]


@pytest.mark.parametrize(("stack", "display", "shown"), FORMS)
def test_a_stack_is_shown_as_bpftrace_shows_it(stack: Stack, display: str, shown: str) -> None:
    assert text(Stack(stack), display) == shown


def test_on_one_line_the_outermost_function_stands_first_and_no_name_divides_it() -> None:
    assert short(KERNEL, "bpftrace") == KERNEL.folded == "0xffffffffc0000000;vfs_read"
    assert USER.folded == "0x1234;f:g()"
    assert short(KERNEL, "raw") == "ffffffff81000010 ffffffffc0000000"
    assert str(KERNEL) == "vfs_read+16\n0xffffffffc0000000"


def test_a_number_that_nobody_told_is_a_stack_without_frames() -> None:
    known = Stacks()
    known.add(7, KERNEL)
    assert (known.stack(7), known.stack(8), known.stack(0)) == (KERNEL, Stack(), Stack())
    assert 7 in known
    assert dict(known) == {7: KERNEL}
