"""Maps that probes and Python share: what probes add is what Python reads, in the kernel and simulated."""

# Names and annotations inside of probes are the probe language's, not Python's.
# ruff: noqa: F821
# mypy: ignore-errors

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import kwire
from kwire.errors import KwireError
from kwire.lang import python
from kwire.lang.errors import LanguageError
from kwire.live.contents import Bucket
from kwire.live.maps import SharedMap

ENTER, LEAVE = "syscalls:sys_enter_getpriority", "syscalls:sys_exit_getpriority"
ME = os.getpid()

starts = kwire.Hash(key="u32", value="u64")
last = kwire.Variable("s64")
calls = kwire.Count()
by_which = kwire.Count(by=("u32", "char[16]"))
numbers = kwire.Histogram(by="u32")
linear = kwire.LinearHistogram(-10, 50, 20)
total = kwire.Sum()
least = kwire.Min(by=int)
most = kwire.Max()
average = kwire.Average()
stats = kwire.Stats(by=bool)
allowed = kwire.Hash(key="u32", value="bool")
narrow = kwire.Hash(key="u8", value="u8")
few = kwire.Count(by="u64", size=2)


@kwire.tracepoint(ENTER)
def enter(which: "u32", who: "s32") -> None:
    calls.add()
    starts[tid] = nsecs
    last.value = who
    by_which.add(which, comm)
    numbers[which].add(who)
    linear.add(who)
    total.add(who)
    least[which].add(who)
    most.add(who)
    average.add(who)
    stats[who > 0].add(who)
    narrow[which] += 200


@kwire.tracepoint(LEAVE)
def leave() -> None:
    if tid in starts:
        if allowed[tid]:
            last.value += 1000
        if nsecs >= starts[tid]:
            emit(took=nsecs - starts[tid])
        del starts[tid]


NUMBERS = (0, 1, 5, 4096, -1, 5)


def ask(*numbers: int) -> None:
    """System calls that nothing else makes, with these numbers, of processes or not."""
    for number in numbers:
        with contextlib.suppress(OSError):
            os.getpriority(os.PRIO_PROCESS, number)


def expected() -> None:
    """What the maps hold after `ask(*NUMBERS)`."""
    signed = [one for one in NUMBERS if one >= 0]
    assert calls.value == len(NUMBERS)
    assert last.value == NUMBERS[-1]
    assert sum(by_which.values()) == len(NUMBERS)
    [((which, comm), count)] = by_which.items()
    assert (which, count) == (os.PRIO_PROCESS, len(NUMBERS))
    assert by_which[os.PRIO_PROCESS, comm] == count
    buckets = {(one.low, one.high): one.number for one in numbers[os.PRIO_PROCESS] if one.number}
    assert buckets == {(None, 0): 1, (0, 1): 1, (1, 2): 1, (4, 8): 2, (4096, 8192): 1}
    assert numbers[os.PRIO_PROCESS].number == len(NUMBERS)
    assert linear.value == (Bucket(-10, 10, 5), Bucket(10, 30, 0), Bucket(30, 50, 0), Bucket(50, None, 1))
    assert total.value == sum(NUMBERS)
    assert dict(least) == {0: -1}
    assert most.value == 4096
    assert average.value == pytest.approx(sum(NUMBERS) / len(NUMBERS))
    assert stats[True] == (4, sum(one for one in signed if one > 0))
    assert stats[True].average == sum(signed) / 4
    assert stats[False] == (2, -1)
    assert narrow[0] == 200 * len(NUMBERS) % 256
    assert len(starts) == 0
    assert all(one.lost == 0 for one in (by_which, numbers, least, stats, starts, narrow))


@pytest.mark.live
def test_what_probes_add_is_what_python_reads() -> None:
    with kwire.trace(enter, leave, pid=ME) as trace:
        ask(*NUMBERS)
        assert calls.value == len(NUMBERS)  # while it runs
        expected()
        assert 7 not in starts
        starts[7] = 1
        assert starts[7] == 1
        del starts[7]
        with pytest.raises(KeyError):
            del starts[7]
    expected()
    assert len(list(trace)) == len(NUMBERS)
    with kwire.trace(enter, leave, pid=ME):
        assert calls.value == 0  # a new trace begins with nothing
        ask(*NUMBERS)
    expected()


@pytest.mark.live
def test_what_python_sets_is_what_probes_read() -> None:
    allowed[ME] = True
    try:
        with kwire.trace(enter, leave, pid=ME):
            ask(*NUMBERS)
            assert dict(allowed) == {ME: True}
    finally:
        allowed.__init__(key="u32", value="bool")  # as it was, for other tests
    assert last.value == NUMBERS[-1] + 1000


@kwire.tracepoint(ENTER)
def crowd(who: "u64") -> None:
    few.add(who)


@pytest.mark.live
def test_updates_that_find_no_room_are_counted() -> None:
    with kwire.trace(crowd, pid=ME):
        ask(1, 2, 3, 1, 4, 2)
    assert dict(few) == {1: 2, 2: 2}
    assert few.lost == 2


loud = kwire.Count(by="u32")
tall = kwire.Max()


@kwire.tracepoint(ENTER)
def loudest(who: "u32") -> None:
    loud.add(who)
    tall.add(who)
    if loud[who] == 3:
        emit(who, count=loud[who], tall=tall.value, other=9 in loud)
        del loud[who]


@pytest.mark.live
def test_probes_read_what_all_cpus_keep() -> None:
    cpus = sorted(os.sched_getaffinity(0))
    with kwire.trace(loudest, pid=ME) as trace:
        try:
            for number in (5, 6, 5, 6, 5):  # on any CPU there is
                os.sched_setaffinity(0, {cpus[0]})
                cpus.append(cpus.pop(0))
                ask(number)
        finally:
            os.sched_setaffinity(0, cpus)
    [event] = list(trace)
    assert (event.who, event.count, event.tall, event.other) == (5, 3, 6, False)
    assert dict(loud) == {6: 2}


taken = kwire.Count(by="u32")
sizes = kwire.Stats()
shapes = kwire.Histogram(by="u32")


@kwire.tracepoint(ENTER)
def takes(which: "u32", who: "u32") -> None:
    taken.add(who)
    sizes.add(who)
    shapes[which].add(who)


@pytest.mark.live
def test_what_is_taken_is_taken_once() -> None:
    with kwire.trace(takes, pid=ME):
        assert (taken.take(), sizes.take(), shapes.take()) == ({}, (0, 0), {})
        ask(1, 1, 2)
        assert taken.take() == {1: 2, 2: 1}
        assert sizes.take() == (3, 4)
        ask(2)
        assert taken.take() == {2: 1}
        assert taken.take() == {}
        assert dict(taken) == {1: 2, 2: 2}
        assert shapes.take()[0].number == 4
        ask(8)
    assert taken.take() == {8: 1}
    assert sizes.take() == (2, 10)
    assert shapes.take() == {0: (Bucket(8, 16, 1),)}
    with pytest.raises(KwireError, match="only what is added up can be taken"):
        least.take()


@pytest.mark.live
@pytest.mark.native
def test_nothing_is_taken_twice_while_a_map_fills() -> None:
    code = "import os\nfor n in range(20000):\n    os.getpriority(0, 0)"
    given = 0
    with kwire.trace(takes, command=[sys.executable, "-IS", "-c", code]) as trace:
        while not trace._round():
            given += taken.take().get(0, 0)
    assert given + taken.take().get(0, 0) == 20000


def run(number: int, **surroundings: object) -> list[kwire.Event]:
    return kwire.simulate(enter, {"who": number, "which": 0}, format=FORMAT, **surroundings)


FORMAT = """name: sys_enter_getpriority
ID: 700
format:
	field:unsigned short common_type;	offset:0;	size:2;	signed:0;
	field:unsigned char common_flags;	offset:2;	size:1;	signed:0;
	field:unsigned char common_preempt_count;	offset:3;	size:1;	signed:0;
	field:int common_pid;	offset:4;	size:4;	signed:1;

	field:int __syscall_nr;	offset:8;	size:4;	signed:1;
	field:int which;	offset:16;	size:8;	signed:0;
	field:int who;	offset:24;	size:8;	signed:0;

print fmt: "which: 0x%08lx"
"""


def test_simulated_runs_share_maps_too() -> None:
    for number in NUMBERS:
        assert run(number, cpu=number % 3) == []
        starts._raw.clear()  # as if it had returned
    expected()


mean = kwire.Average()


@kwire.tracepoint(ENTER)
def averaged(who: "s32") -> None:
    mean.add(who)
    emit(mean=mean.value)


def test_an_average_is_truncated_where_a_probe_reads_it() -> None:
    for number, is_now in ((-7, -7), (2, -2), (-1, -2), (9, 0), (9, 2)):
        [event] = kwire.simulate(averaged, {"who": number}, format=FORMAT)
        assert event["mean"] == is_now == int(mean.value)


def test_a_full_map_in_a_simulated_run() -> None:
    small = few
    for number in (1, 2, 3, 1):
        kwire.simulate(crowd, {"who": number}, format=FORMAT)
    assert dict(small) == {1: 2, 2: 1}
    assert small.lost == 1


named = kwire.Hash(key="u32", value="char[32]")
pairs = kwire.Hash(key=("u32", "char[16]"), value=("u64", "char[8]"))
counted = kwire.Count(by="s64")
mood = kwire.Variable("char[20]")


@kwire.tracepoint(ENTER)
def keeps(which: "u32", who: "s32") -> None:
    named[who] = comm
    pairs[who, comm] = who + 1, str(comm, 7)
    counted.add(who)
    what = "few"
    if who > 2:
        what = comm
    before = mood.value
    mood.value = "many" if who > 2 else "little"
    emit("got", what, before, mood=mood.value, nothing=named[1000])
    if who == 3:
        total = 0
        for key in counted:
            total += key
        for key, count in counted.items():
            if key == 3:
                emit("each", key, count)
        for (number, name), (next, short) in pairs.items():
            if number == 2:
                emit("pair", number, name, next, short)
                break
        after, text = pairs[2, comm]
        emit("end", total, after, text)


def kept(events: list[kwire.Event], name: str) -> None:
    """What `keeps` tells of 1, 2 and 3."""
    short, events = name[:7], [tuple(one[field] for field in one.keys()) for one in events]  # noqa: SIM118
    got = [("few", "", "little", ""), ("few", "little", "little", ""), (name, "little", "many", "")]
    assert events[:3] == got
    assert events[3:] == [(3, 1), (2, name, 3, short), (6, 3, short)]
    assert dict(named) == {1: name, 2: name, 3: name}
    assert dict(pairs) == {(one, name): (one + 1, short) for one in (1, 2, 3)}
    assert mood.value == "many"
    assert str(pairs).splitlines()[0].split() == ["1", name, "2", short]


@pytest.mark.live
def test_texts_and_tuples_are_kept_and_maps_are_looped_over() -> None:
    with open("/proc/self/comm") as file:
        name = file.read().rstrip()
    with kwire.trace(keeps, pid=ME) as trace:
        ask(1, 2, 3)
    kept(list(trace), name)
    with kwire.trace(keeps, pid=ME):
        named[9], pairs[7, "x"], mood.value = "nine", (3, "y"), "good"
        assert (named[9], pairs[7, "x"], mood.value) == ("nine", (3, "y"), "good")
        with pytest.raises(KwireError, match="is no text of at most 31 bytes"):
            named[9] = "x" * 32


def test_simulated_runs_keep_texts_too() -> None:
    events = []
    for number in (1, 2, 3):
        events += kwire.simulate(keeps, {"who": number, "which": 0}, format=FORMAT, comm="someone")
    kept(events, "someone")


# declarations


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: kwire.Hash(), "Hash needs key=…"),
        (lambda: kwire.Hash(key=()), "Hash needs the type of its keys"),
        (lambda: kwire.Hash(key=3.5), "3.5 is no type"),
        (lambda: kwire.Count(by="u32", size=0), "size=0: choose from 1"),
        (lambda: kwire.Count(by="u32", size="1"), "size='1': it is no integer"),
        (lambda: kwire.Count(high=3), "Count has no argument high; it has by, size"),
        (lambda: kwire.Count("u32", 4, 5), "Count takes at most 2 arguments"),
        (lambda: kwire.LinearHistogram(0, 10, 0), "0 to 10 by 0 makes no buckets"),
        (lambda: kwire.LinearHistogram(0, 100000, 1), "makes more than 1000 buckets"),
        (lambda: kwire.LinearHistogram(0, 10), "LinearHistogram needs step=…"),
        (lambda: kwire.Count(by="u32", of=("u64", "u64")), "Count has no argument of"),
        (lambda: kwire.Sum(of=("u64", "u64")), "the values of Sum have one type"),
    ],
)
def test_wrong_declarations(make: object, says: str) -> None:
    with pytest.raises(KwireError, match=says.replace("(", r"\(")):
        make()


def test_use_outside_of_probes() -> None:
    with pytest.raises(KwireError, match="add is for probes; call it in a probe"):
        kwire.Count().add(3)
    with pytest.raises(KwireError, match="probes add to it, nobody sets it"):
        kwire.Count(by=int)[3] = 4
    with pytest.raises(KwireError, match="it has keys"):
        kwire.Count(by=int).value  # noqa: B018
    fresh = kwire.Histogram(by=int)
    assert (len(fresh), dict(fresh), fresh.get(3), 3 in fresh, fresh.lost) == (0, {}, None, False, 0)
    assert kwire.Variable().value == 0
    assert kwire.Min().value is None
    assert isinstance(fresh, SharedMap)
    with pytest.raises(KeyError):
        fresh[3]


def test_what_python_set_before_a_trace_can_be_deleted() -> None:
    wanted = kwire.Hash(key="u8", value="u8")
    wanted[5] = 3
    wanted[3] = 4
    del wanted[5]
    with pytest.raises(KeyError):
        del wanted[5]

    @kwire.tracepoint(ENTER)
    def ask(who: "u8") -> None:
        emit(found=wanted[who])

    [event] = kwire.simulate(ask, {"who": 3}, format=FORMAT)
    assert event["found"] == 4
    wanted[3] = 5
    assert [one["found"] for one in kwire.simulate(ask, {"who": 3}, format=FORMAT)] == [5]
    assert wanted[3] == 5
    del wanted[3]
    assert [one["found"] for one in kwire.simulate(ask, {"who": 3}, format=FORMAT)] == [0]
    with pytest.raises(KwireError, match="keys are deleted while a trace runs"):
        del kwire.Count(by=int)[3]


HEAD = """import kwire
from kwire import Count as Counter
starts = kwire.Hash(key="u32", value="u64")
counts = Counter(by=str)
both = kwire.Count(by=("u32", str))
plain = kwire.Variable()
hist = kwire.Histogram(by="u32")
alone = kwire.Histogram()
bad = kwire.Hash(key=WHAT)
odd = kwire.Hash(key="struct nothing")

@kwire.rawtracepoint("sys_enter")
def probe(regs, id):
"""


def wrong(line: str) -> str:
    from kwire.live.planner import make_plan

    with pytest.raises(LanguageError) as caught:
        make_plan(python.parse_file(f"{HEAD}    {line}\n", "p.py"))
    return caught.value.cause + ("; " + caught.value.cure if caught.value.cure else "")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("x = starts", "starts is a map, and no value"),
        ("starts[1, 2] = 3", "keys of starts have 1 part, this has 2"),
        ("starts.value = 3", "keys of starts have 1 part, this has 0"),
        ("plain[3] = 3", "keys of plain have no part, this has 1"),
        ('starts["a"] = 3', "this part of the keys of starts is a u32"),
        ("starts[comm] = 3", "a text is no number"),
        ("counts.add(id)", "this part of the keys of counts is a text, and this is"),
        ("counts.add(str(user(id)))", "this text may have 256 bytes, keys of counts have 63"),
        ("counts[comm] = 3", "what a count holds is added to, not set"),
        ("del alone.value", "what a hist holds is added to, not deleted"),
        ("emit(x=hist[3])", "what a hist holds cannot be read in a probe"),
        ("hist.add(3)", "hist has keys"),
        ("hist[3].add()", "this adds nothing to the hist"),
        ("alone.add(3, 4)", "one value is added at a time"),
        ("alone.clear()", "what a probe does with a map is add(…)"),
        ("bad[3] = 4", "bad is no map: WHAT is not known without running it"),
        ("odd[3] = 4", "nothing"),
        ("del id", "del takes keys out of maps"),
        ("starts[3] /= 4", "/ is not an operation on integers"),
    ],
)
def test_wrong_uses(line: str, says: str) -> None:
    assert says in wrong(line)


def test_a_declaration_may_calculate_with_numbers_of_its_file() -> None:
    text = HEAD.replace("(key=WHAT)", '(key="u32", size=SOME * 2**3 - (1 << 4))').replace(
        "bad =", "SOME = 64 * 1024\nbad ="
    )
    [probe] = python.parse_file(f"{text}    bad[3] = 4\n", "p.py")
    assert f"size={64 * 1024 * 8 - 16}" in repr(probe)


def test_maps_travel_with_their_probes() -> None:
    """As they are declared, with what Python has set; maps of one name are told apart, equal ones are one."""
    from kwire.live import program_sources
    from kwire.live.travelling import ReceivedMaps, Titles

    first = kwire.Hash(key=("u32", "char[16]"), value=("u64", "char[8]"), size=7, lru=True)
    first[3, "a"] = 4, "b"
    every = [
        first,
        kwire.Variable("s32"),
        kwire.Count(by=str),
        kwire.Sum(by=int, of="u32", size=9),
        kwire.LinearHistogram(-5, 100, 3, by="stack"),
        kwire.Average(),
    ]
    titles, made = Titles(), ReceivedMaps()
    for one in every:
        there = made.map(titles.said(one.declaration.replace(title="m")))
        own = one.declaration
        assert there.replace(title="", owner=None) == own.replace(title="", owner=None)
    assert list(titles.shared) == ["m", "m_2", "m_3", "m_4", "m_5", "m_6"]
    assert titles.said(first.declaration.replace(title="m")) == {
        "title": "m",
        "kind": "Hash",
        "arguments": {"key": ["u32", "char[16]"], "value": ["u64", "char[8]"], "size": 7, "lru": True},
        "set": [((3, "a"), (4, "b"))],
    }
    assert made.map(titles.said(first.declaration.replace(title="m"))).owner.set_before() == [
        ((3, "a"), (4, "b"))
    ]
    with pytest.raises(KwireError, match="it is said in two ways"):
        made.map({"title": "m", "kind": "Hash", "arguments": {"key": ["u32"]}})
    for wrong, says in (
        ({"kind": "Map"}, "there is no such kind; known: Hash, "),
        ({"arguments": {"self": 3}}, "Hash has no argument self"),
        ({"arguments": {"key": ["u32"], "size": 1 << 40}}, "choose from 1 to"),
        ({"arguments": {"key": ["u32"]}, "set": [[["x"], 1]]}, "'x' is no "),
        ({"arguments": {"key": ["u32"]}, "set": [[[], 1]]}, "its keys have 1 part, not 0"),
    ):
        with pytest.raises(KwireError, match=says):
            made.map({"title": "new", "kind": "Hash", "arguments": {}, **wrong})
    [written] = program_sources.written([crowd])
    assert python.parse_written(written._replace(maps=dict(written.maps))).faults == ()
    assert written.maps.keys() == {"few"}


def test_keys_and_values_are_judged_where_python_sets_them() -> None:
    """Not at the next trace: by the types that probes will find."""
    names = kwire.Hash(key=("u32", "char[4]"), value="char[4]")
    names[7, "abc"] = "abc"
    numbers = kwire.Hash(key="pid_t", value="u8")
    numbers[-7] = 255
    single = kwire.Variable("s32")
    single.value = -5
    for wrong, says in (
        (lambda: names.__setitem__(7, "abc"), "its keys have 2 parts, not 1"),
        (lambda: names.__setitem__((7, "abcd"), "abc"), "'abcd' is no text of at most 3 bytes"),
        (lambda: names.__setitem__((1 << 32, "a"), "abc"), "4294967296 is no unsigned integer of 4 bytes"),
        (lambda: names.__setitem__((7, "a"), 3), "3 is no text"),
        (lambda: numbers.__setitem__(1, 256), "256 is no unsigned integer of 1 byte"),
        (lambda: numbers.__setitem__(1 << 33, 1), "no signed integer of 4 bytes"),
        (lambda: numbers.__setitem__(1, -1), "-1 is no unsigned integer of 1 byte"),
        (lambda: numbers.__setitem__("x", 1), "'x' is no "),
        (lambda: setattr(single, "value", "x"), "'x' is no "),
        (lambda: kwire.Hash(key="struct nothing *").__setitem__(1, 1), "nothing"),
        (lambda: names.__delitem__(7), "its keys have 2 parts, not 1"),
    ):
        with pytest.raises(KwireError, match=says):
            wrong()
    assert names.set_before() == [((7, "abc"), "abc")]
    assert numbers.set_before() == [((-7,), 255)]
    assert single.set_before() == [((), -5)]
    with pytest.raises(KeyError):
        del names[7, "b"]
    del names[7, "abc"]
    assert names.set_before() == []


def test_a_parameter_or_local_hides_a_map() -> None:
    text = HEAD.replace("(regs, id)", "(starts)") + "    counts = 3\n    emit(counts, starts=u64(starts))\n"
    [probe] = python.parse_file(text, "p.py")
    assert "MapDeclaration" not in repr(probe)


SCRIPT = """import kwire
files = kwire.Count(by=("u32", "char[16]"))
took = kwire.Histogram()
begun = kwire.Hash(key="u32", value="u64", size=1)
flags = kwire.Stats(by="u32")

@kwire.tracepoint("syscalls:sys_enter_getpriority")
def enter(which):
    files.add(which, comm)
    begun[which] = nsecs
    flags[7].add(which)

@kwire.tracepoint("syscalls:sys_exit_getpriority")
def leave():
    took.add(1000)
"""


@pytest.mark.live
@pytest.mark.native
def test_the_command_line_shows_maps_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "p.py").write_text(SCRIPT)
    (tmp_path / "c.py").write_text(
        "import os\nfor which in (0, 1, 2, 0):\n    os.getpriority(which, 0)\nos._exit(0)"
    )
    words = [sys.executable, "-m", "kwire.cli.main", "trace", "p.py", "--", sys.executable, "-IS", "c.py"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr  # `begun` has room for one key
    assert "begun: " in done.stderr
    assert "found no room; declare it with a greater size=" in done.stderr
    assert "files (count by u32, text):" in done.stdout
    assert "took (hist):\n[512, 1K)  " in done.stdout
    assert "number " in done.stdout.partition("flags (stats by u32):\n7")[2]
    words.insert(4, "--json")
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    took = '{"map": "took", "kind": "hist", "key": [], "lost": 0, "entries": [{"key": [], '
    assert took + '"value": [{"low": 512' in done.stdout


def test_maps_are_columns_frames_and_pictures() -> None:
    """Texts are texts, averages are not truncated, a histogram is a picture and no value is markup."""
    names = kwire.Stats(by=("u32", "char[16]"))
    sizes = kwire.Histogram(by="char[16]")
    alone = kwire.Average()

    @kwire.tracepoint(ENTER)
    def ask(who: "u64") -> None:
        names[1, comm].add(who)
        sizes[comm].add(who)
        alone.add(who)

    for who in (2, 5):
        kwire.simulate(ask, {"who": who}, format=FORMAT, comm="<b>&")
    assert {name: list(column) for name, column in names.columns().items()} == {
        "key1": [1],
        "key2": [b"<b>&"],
        "count": [2],
        "total": [7],
        "average": [3.5],
    }
    frame = names.pandas()
    assert (list(frame["key2"]), list(frame["average"])) == (["<b>&"], [3.5])
    assert sizes.polars().rows() == [("<b>&", 2, 4, 1), ("<b>&", 4, 8, 1)]
    assert list(alone.columns()["average"]) == [3.5]
    for shown in (names._repr_html_(), sizes._repr_html_(), sizes["<b>&"]._repr_html_()):
        assert "<b>" not in shown
    assert sizes._repr_html_().count("<rect ") == sizes["<b>&"]._repr_html_().count("<rect ") == 2
    assert "&lt;b&gt;&amp;" in names._repr_html_()
