"""Conditions: what they mean over decoded events, and what is said of mistakes before the first one."""

from __future__ import annotations

from typing import Any

import pytest

from kwire.errors import KwireError
from kwire.view.where import Where


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("pid == 42", True),
        ("pid != 42", False),
        ("40 < pid <= 42 < 50", True),
        ("40 < pid < 42", False),
        ("pid == 41 or pid == 42", True),
        ("pid == 42 and not ok", False),
        ("not (pid == 42 and ok)", False),
        ("pid", True),
        ("pid - 42", False),
        ("pid * 2 + 1 == 85 and pid % 5 == 2 and pid // 5 == 8", True),
        ("pid // 0 == 0 and pid % 0 == 42", True),
        ("pid & 2 and pid | 1 == 43 and (pid ^ 1) == 43", True),
        ("pid << 1 == 84 and pid >> 1 == 21 and -pid < 0 and ~pid == -43", True),
        ("pid << 64 == 42", True),
        ("(1 if ok else 2) == 1", True),
        ("comm == 'cat'", True),
        ('comm != "cat"', False),
        ("comm > 'bat' and comm < 'dog'", True),
        ("comm", True),
        ("state == 'RUNNING' and state == 1", True),
        ("'ASLEEP' == state", False),
        ("family == 'NONE' and family == -2", True),
        ("mode == 'READ'", False),
        ("caller == 'start+0x10' and caller == 4112", True),
        ("pointer == 0xffff888012345678", True),
        ("source == '127.0.0.1' and peer == '::1' and mac == '02:00:00:00:00:01'", True),
        ("numbers[1] == 8 and numbers[7] == 0", True),
        ("data == '00ff'", True),
        ("ok == True", True),
        ("time_ns == 1700000000123456000", True),
        ("probe == 'kprobe:vfs_open(path)'", True),
        ("cpu == 3", True),
        ("state == RUNNING and state != ASLEEP", True),
        ("family == NONE and mode & APPEND", True),
        ("pid == ENOENT + 40 and pid > -ENOENT and cpu != SIGKILL", True),
        ("took == 0xfa and cpu == AF_INET + 1", True),
    ],
)
def test_conditions_mean_what_they_say(samples: Any, text: str, wanted: bool) -> None:
    where = Where(text)
    where.check([samples.schema()])
    assert where.test(samples.schema())(samples.wall, samples.values()) is wanted


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("pidd == 1", "no probe here has a field 'pidd'; did you mean pid"),
        ("qqqqqqq == 1", "there are: "),
        ("sk.port == 1", "no probe here has a field 'sk.port'"),
        ("comm == 1", "text does not compare with number"),
        ("pid < 'x'", "number does not compare with text"),
        ("comm + 1", "a number is wanted, this is text"),
        ("numbers == 1", "list does not compare with number"),
        ("pid[0]", "number has no elements"),
        ("str(comm) == 'x'", "functions cannot be called here"),
        ("pid ==", ""),
        ("", "nothing is written here"),
        ("pid = 3", ""),
        ("1 if ok else comm", "gives number or text"),
    ],
)
def test_mistakes_are_named_with_their_place(samples: Any, text: str, says: str) -> None:
    with pytest.raises(KwireError) as caught:
        Where(text).check([samples.schema()])
    assert says in str(caught.value)
    assert str(caught.value).startswith("--where")
    assert "\n" not in str(caught.value)
    if text and says:
        assert "^" in caught.value.detail


def test_events_of_probes_without_a_name_are_not_wanted(samples: Any) -> None:
    base = samples.schema()
    other = base._replace(id=2, fields=base.fields[:1])
    where = Where("comm == 'cat' or pid == 42")
    where.check([base, other])
    assert where.test(base)(0, samples.values()) is True
    assert where.test(other)(0, (42,)) is False


def test_a_field_may_have_dots_in_its_name(samples: Any) -> None:
    base = samples.schema()
    dotted = base._replace(fields=(base.fields[0]._replace(name="sk.port"),))
    where = Where("sk.port == 42")
    where.check([dotted])
    assert where.test(dotted)(0, (42,)) is True
