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
        ("pid // (pid - 42) == 0 and pid % (pid - 42) == 42", True),
        ("pid & 2 and pid | 1 == 43 and (pid ^ 1) == 43", True),
        ("pid << 1 == 84 and pid >> 1 == 21 and -pid < 0 and ~pid == -43", True),
        ("pid << (pid + 22) == 0", True),
        ("(1 if ok else 2) == 1", True),
        ("comm == 'cat'", True),
        ('comm != "cat"', False),
        ("comm > 'bat' and comm < 'dog'", True),
        ("'bat' <= comm and comm >= 'cat' and comm <= 'cat' and comm < 'cats' and comm > 'ca'", True),
        (
            "comm > 'cat' or comm < 'cat' or comm >= 'd' or comm <= 'ca' or comm >= 'cats'",
            False,
        ),
        ("comm != 'a name that no thread can have'", True),
        ("comm", True),
        ("state == 'RUNNING' and state == 1", True),
        ("'ASLEEP' == state", False),
        ("family == 'NONE' and family == -2", True),
        ("mode == 'READ'", False),
        ("caller == 'start+0x10' and caller == 4112", True),
        ("pointer == 0xffff888012345678", True),
        ("source == '127.0.0.1' and peer == '::1' and mac == '02:00:00:00:00:01'", True),
        ("numbers[1] == 8 and numbers[pid] == 0", True),
        ("data == '00ff'", True),
        ("ok == True", True),
        ("time_ns == 1700000000123456000", True),
        ("probe == 'kprobe:vfs_open(path)'", True),
        ("cpu == 3", True),
        ("comm[0] == 99 and path[cpu] != 0 and comm[5] == 0 and sizeof(pid) == 4", True),
        ("args.path == path and args.path[0] == path[0]", True),
        ("comm.startswith('c') and comm.endswith('t') and 'a' in comm and comm ~ '[c]?t*'", True),
        ("comm ~ 'C*' or 'x' in path or source ~ '10.*'", False),
        ("str(comm, 2) == 'ca' and str(comm, 2) != 'cat'", True),
        ("probe ~ 'kprobe:*' and probe != 'kprobe:'", True),
        ("(pid - 45) // 2 == -2 and (pid - 45) % 2 == 1 and -7 // 2 == -4", True),
        ("0 <= pid < 50 and pid != -1 and -1 < pid", True),
        ("min(pid, 7) + max(pid, 50) == 57 and u8(pid - 300) == 254 and s8(pid + 200) == -14", True),
        ("comm == comm and not comm < comm", True),
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
        ("pidd == 1", "unknown name pidd; did you mean pid"),
        ("qqqqqqq == 1", "there are: "),
        ("sk.port == 1", "unknown name sk.port; there are: "),
        ("comm == 1", "a text does not compare with an s64"),
        ("pid < 'x'", "a u32 is no text; compare it with a number"),
        ("comm + 1", "a text is no number; compare it with a string"),
        ("numbers == 1", "this is a whole s16[3]; use one element: [0]"),
        ("pid[0]", "a u32 has no elements"),
        ("bytes(comm, 1) == 'x'", "bytes reads memory, of which a capture keeps the fields"),
        ("cast('struct sock *', pid) == 1", "a capture does not hold the type struct sock *"),
        ("sizeof('struct sock') == 1", "a capture does not hold the type struct sock"),
        ("pid ==", ""),
        ("", "nothing is written here"),
        ("pid = 3", ""),
        ("1 if ok else comm", "a text is no number"),
        ("pid == 4294967297", "this is never true: a u32 is 0 to 4294967295"),
        ("str(comm, 2) == 'cat'", "this text has at most 2 bytes, never these 3"),
        ("str(comm, 2).startswith('cat')", "this text has at most 2 bytes, never these 3"),
        ("state == 'AWAKE'", "an enum states has no name 'AWAKE'; its names are"),
        ("source < '10.0.0.1'", "addresses have no order: <; use == or !="),
        ("source == 'localhost'", "'localhost' is no IPv4 address; write 192.0.2.1"),
        ("caller > 'start'", "addresses have no order: >; use == or !="),
        ("str == 1", "str is a function; call it: str(p[, n[, limit]])"),
    ],
)
def test_mistakes_are_named_with_their_place(samples: Any, text: str, says: str) -> None:
    with pytest.raises(KwireError) as caught:
        Where(text).check([samples.schema()])
    assert says in str(caught.value)
    assert str(caught.value).startswith("where:1: ")
    assert "\n" not in str(caught.value)
    if text and says:
        assert "^" in caught.value.detail


def test_what_is_never_true_of_one_probe_may_be_true_of_another(samples: Any) -> None:
    base = samples.schema()
    narrow = base._replace(id=2, fields=(base.fields[0]._replace(name="pid", type="u8", size=1),), size=17)
    where = Where("pid == 300")
    where.check([base, narrow])
    assert where.test(base)(0, (300, *samples.values()[1:])) is True
    assert where.test(narrow)(0, (44,)) is False
    with pytest.raises(KwireError, match="where:1: this is never true: a u8 is 0 to 255"):
        where.check([narrow])


def test_an_array_of_bytes_is_a_text_where_it_is_asked_for(samples: Any) -> None:
    base = samples.schema()
    field = base.fields[0]._replace(name="tag", type="u8", size=4, count=4)
    schema = base._replace(fields=(field,), size=20)
    for text, wanted in (
        ("str(tag) == 'ab'", True),
        ("str(tag, 1) ~ '[b-z]'", False),
        ("tag[1] == 98", True),
    ):
        where = Where(text)
        where.check([schema])
        assert where.test(schema)(0, ([97, 98, 0, 99],)) is wanted


@pytest.mark.parametrize("text", ["tag == 'ab'", "str(pid) == 'x'", "u8(comm)", "be16(comm) == 1"])
def test_what_is_no_condition_is_refused(samples: Any, text: str) -> None:
    with pytest.raises(KwireError):
        Where(text).check([samples.schema()])


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
