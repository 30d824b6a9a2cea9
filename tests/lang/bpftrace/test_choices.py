"""Branches that the command line rules out."""

import pytest

from kwire.lang.bpftrace import syntax as s
from kwire.lang.bpftrace.choices import with_choices
from kwire.lang.bpftrace.reader import read
from kwire.lang.forms import walk


@pytest.mark.parametrize(
    ("body", "with_command", "without"),
    [
        ("if (has_cpid) { print(1); } else { print(2); }", [1], [2]),
        ("if (!has_cpid) { print(1); }", [], [1]),
        ("if (has_cpid) { print(1); } else if (pid) { print(2); } print(3);", [1, 3], [2, 3]),
        ("if (pid) { if (!!has_cpid) { print(1); } else { print(2); } }", [1], [2]),
        ("if (has_cpid) { if (has_cpid) { print(1); } else { print(2); } }", [1], []),
        ("$x = has_cpid ? 4 : 5; print($x ? 6 : 7);", [4, 6, 7], [5, 6, 7]),
        ("$x = if has_cpid { 4 } else { 5 };", [4], [5]),
        ("if (has_cpid && pid) { print(1); } print(has_cpid ?: 2);", [1, 2], [1, 2]),
        ("if (pid) { print(1); } else { print(2); }", [1, 2], [1, 2]),
    ],
)
def test_what_is_ruled_out_is_no_part_of_the_script(
    body: str, with_command: list[int], without: list[int]
) -> None:
    script = read("x.bt", f"BEGIN {{ {body} }}")
    for command, expected in ((True, with_command), (False, without)):
        numbers = [node.value for node in walk(with_choices(script, command)) if isinstance(node, s.Int)]
        assert numbers == expected, command
