"""Probes in programs: functions, their returns, static probes, by each way there is to name them."""

# Names and annotations inside of probes are the probe language's, not Python's.
# ruff: noqa: F722, F821
# mypy: ignore-errors

import mmap
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from bpftrace_here import BPFTRACE

import kwire
from kwire.cli.main import main
from kwire.errors import KwireError
from kwire.kernel import binaries
from kwire.kernel.catalog import expand
from kwire.lang.errors import LanguageError

SOURCE = r"""
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define MARK(provider, name, semaphore, forms, ...) asm volatile( \
    "990: nop\n" \
    ".pushsection .note.stapsdt,\"\",\"note\"\n" \
    ".balign 4\n" \
    ".4byte 992f-991f, 994f-993f, 3\n" \
    "991: .asciz \"stapsdt\"\n" \
    "992: .balign 4\n" \
    "993: .8byte 990b, 0, " semaphore "\n" \
    ".asciz \"" provider "\"\n.asciz \"" name "\"\n.asciz \"" forms "\"\n" \
    "994: .balign 4\n" \
    ".popsection\n" : : __VA_ARGS__)

unsigned short shop_sold_semaphore __attribute__((section(".probes"), used, visibility("hidden")));
volatile uint64_t watched = 7;  // not among what the kernel sets to 0
struct item { int64_t price; const char *name; };

__attribute__((noipa)) int64_t price(struct item *item, int count)
{
    asm volatile("");
    return item->price * count;
}
static __attribute__((noipa)) int step_up(int n) { asm volatile(""); return n + 1; }
static __attribute__((noipa)) int step_down(int n) { asm volatile(""); return n - 1; }
__attribute__((noipa)) int many(int a, int b, int c, int d, int e, int f, int g, int h, int i, int j)
{
    asm volatile("");
    return a + b + c + d + e + f + g + h + i + j;
}

int main(int argc, char **argv)
{
    char name[16];
    struct item item = {-7, strcpy(name, "apple")};
    int n = 0;
    for (int round = 0; round < 3; round++) {
        int64_t total = price(&item, round + 1);
        n = step_down(step_up(step_up(n)));
        watched = round;
        if (shop_sold_semaphore)
            MARK("shop", "sold", "shop_sold_semaphore", "-4@%[a] -8@%[b] 8@%[c]",
                 [a] "nor"(-round), [b] "nor"(total), [c] "r"(item.name));
        MARK("shop", "closed", "0", "-4@%[a]", [a] "n"(-1));
        MARK("shop", "closed", "0", "4@%[a]", [a] "r"(round));
    }
    many(1, 2, 3, 4, 5, 6, 7, 8, 9, 10);
    printf("%d\n", shop_sold_semaphore);
    return 0;
}
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A program that is at a fixed address, with functions and static probes."""
    if not shutil.which("gcc"):
        pytest.skip("there is no compiler")
    home = tmp_path_factory.mktemp("shop")
    (home / "shop.c").write_text(SOURCE)
    subprocess.run(["gcc", "-O1", "-g0", "-no-pie", "-o", home / "shop", home / "shop.c"], check=True)
    return str(home / "shop")


def _symbol(shop: str, name: str) -> int:
    [found] = binaries.binary(shop).functions[name]
    return found.address


@pytest.mark.needs("uprobe")
def test_every_kind_of_place(shop: str) -> None:
    """One trace: what each probe gives is what the program did."""

    @kwire.uprobe(f"{shop}:price")
    def entered(item: "s64 *", count: "int"):
        emit("entered", pid, price=item[0], count=count, name=str(user(cast("u64 *", item)[1])))

    @kwire.uretprobe(f"{shop}:price")
    def left():
        emit("left", value=cast("s64", retval))

    @kwire.uprobe(f"{shop}:step_*")
    def stepped(n: "int"):
        emit("stepped", n=n)

    @kwire.probe(f"uprobe:{shop}:many")
    def several():
        emit("several", first=cast("int", arg0), last=cast("int", arg9))

    @kwire.uprobe(f"{shop}:{_symbol(shop, 'many'):#x}")
    def by_address():
        emit("address", a=cast("int", arg1))

    @kwire.usdt(f"{shop}:shop:sold")
    def sold(round, total, name: "char *"):
        emit("sold", round=round, total=total, name=str(name))

    @kwire.usdt(f"{shop}:clos*")
    def closed():
        emit("closed", n=arg0)

    with kwire.trace(
        entered, left, stepped, several, by_address, sold, closed, command=[shop], seconds=60
    ) as trace:
        events = list(trace)
    by_name = {}
    for event in events:
        by_name.setdefault(event.probe.partition("#")[2], []).append(event)
    assert [(one.price, one.count, one.name) for one in by_name["entered"]] == [
        (-7, number, "apple") for number in (1, 2, 3)
    ]
    assert [one.value for one in by_name["left"]] == [-7, -14, -21]
    assert Counter(one.probe.partition("#")[0].rpartition(":")[2] for one in by_name["stepped"]) == {
        "step_up": 6,
        "step_down": 3,
    }
    assert [one.n for one in by_name["stepped"]] == [0, 1, 2, 1, 2, 3, 2, 3, 4]
    assert [(one.first, one.last) for one in by_name["several"]] == [(1, 10)]
    assert [one.a for one in by_name["address"]] == [2]
    assert [(one.round, one.total, one.name) for one in by_name["sold"]] == [
        (-number, -7 * (number + 1), "apple") for number in range(3)
    ]
    assert [one.n for one in by_name["closed"]] == [-1, 0, -1, 1, -1, 2]
    assert trace.lost == 0


@pytest.mark.needs("clock")
def test_events_that_the_kernel_counts(shop: str) -> None:
    with kwire.trace("software:page-faults:1(comm)", command=[shop], seconds=60) as trace:
        events = list(trace)
    assert len(events) > 3
    assert "shop" in {event.comm for event in events}


@pytest.mark.native  # an emulated CPU stops a hundred times at one access
@pytest.mark.needs("watchpoint")
def test_a_watchpoint_of_a_process(shop: str) -> None:
    # Before it is the shop, it is another program at the same addresses.
    watch = f"watchpoint:{_symbol_of_data(shop):#x}:8:w" + '(pid){comm == "shop"}'
    with kwire.trace(watch, command=[shop], seconds=60) as trace:
        assert len(list(trace)) == 3


def _symbol_of_data(shop: str) -> int:
    from kwire.kernel.elf import Elf

    with Elf.open(shop) as file:
        return next(one.address for one in file.symbols() if one.name == "watched")


SCRIPT = """
uprobe:SHOP:price { printf("price %d\\n", arg1);}
uretprobe:SHOP:price { printf("is %d\\n", retval); }
uprobe:SHOP:step_up { @steps = sum(arg0); }
usdt:SHOP:shop:sold { printf("sold %s\\n", str(arg2)); }
"""


@pytest.mark.native
@pytest.mark.needs("uprobe")
def test_scripts_print_what_bpftrace_prints(
    shop: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not shutil.which("bpftrace"):
        pytest.skip("there is no bpftrace")
    script = SCRIPT.replace("SHOP", shop)
    theirs = subprocess.run(
        [*BPFTRACE, "-q", "-c", shop, "-e", script], capture_output=True, text=True, check=False
    ).stdout
    ours = subprocess.run(
        [sys.executable, "-m", "kwire", "-q", "-c", shop, "-e", script],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    own = [line for line in theirs.splitlines() if line and not line.startswith("Attaching") and line != "1"]
    assert sorted(line for line in ours.splitlines() if line and line != "1") == sorted(own)
    assert "sold apple" in ours


MARKED = """
usdt:SHOP:shop:sold { $name = usdt_arg(2);
  printf("%d %s %c\\n", (int32)arg0, str($name), *(int8 *)usdt_arg(2)); }
"""


@pytest.mark.native
@pytest.mark.needs("uprobe")
def test_an_argument_of_a_static_probe_is_an_address_of_the_process(shop: str) -> None:
    words = [sys.executable, "-m", "kwire", "-q", "-c", shop, "-e", MARKED.replace("SHOP", shop)]
    ran = subprocess.run(words, capture_output=True, text=True, check=True)
    assert [line for line in ran.stdout.splitlines() if "apple" in line] == [
        "0 apple a",
        "-1 apple a",
        "-2 apple a",
    ]


NAMED = """
uprobe:SHOP:price { printf("%d of %s at %d\\n", args.count, str(args.item.name), args.item->price); }
uprobe:SHOP:price { @[*args.item] = 1; }
uprobe:SHOP:step_up { print(args); @all = args; }
uprobe:SHOP:many { printf("watched %d\\n", *uaddr("watched")); }
uprobe:SHOP@shop.c:LINE { print("in step_down"); }
uretprobe:SHOP:price { print((int64)retval); }
"""


@pytest.mark.native
@pytest.mark.needs("uprobe")
def test_functions_have_the_names_and_types_of_their_source(
    shop: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("elftools", reason="pyelftools is not installed")
    whole, bare, apart = (str(tmp_path / name) for name in ("whole", "bare", "apart"))
    source = str(Path(shop).with_name("shop.c"))
    subprocess.run(["gcc", "-O1", "-g", "-no-pie", "-o", whole, source], check=True)
    subprocess.run(["objcopy", "--strip-debug", whole, bare], check=True)
    Path(apart).mkdir()
    subprocess.run(["objcopy", "--only-keep-debug", whole, f"{apart}/bare.debug"], check=True)
    line = next(number for number, text in enumerate(SOURCE.splitlines(), 1) if "step_down(int n)" in text)
    for program, options in ((whole, ()), (bare, ("--debuginfo", "apart"))):
        script = NAMED.replace("SHOP", program).replace("LINE", str(line))
        words = [sys.executable, "-m", "kwire", "-q", *options, "-c", program, "-e", script]
        run = subprocess.run(words, capture_output=True, text=True, check=False)
        lines = run.stdout.splitlines()
        lines.remove("0")  # which the program itself prints
        assert lines[:6] == [
            *("1 of apple at -7", "-7", "{ .n = 0 }", "{ .n = 1 }", "in step_down", "2 of apple at -7"),
        ], run.stderr
        assert "@all: { .n = 3 }" in lines
        assert "watched 2" in lines
        assert any(one.startswith("@[{ .price = -7, .name = 0x") and one.endswith("}]: 1") for one in lines)
    run = subprocess.run(
        [sys.executable, "-m", "kwire", "-e", NAMED.replace("SHOP", bare).replace("@shop.c:LINE", ":main")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "HINT: it has no debugging information about this function" in run.stderr
    assert main(["list", "-v", f"uprobe:{whole}:price"]) == 0
    assert capsys.readouterr().out == f"uprobe:{whole}:price\n    struct item *item\n    int count\n"


@pytest.mark.native
def test_a_return_is_probed_from_the_beginning_of_its_function(shop: str) -> None:
    """Elsewhere the kernel changes what it takes for an address to return to: the program would die."""
    from kwire.live.planner import make_plan

    [price] = binaries.binary(shop).functions["price"]
    assert len(make_plan([f"uretprobe:{shop}:{price.address:#x}"]).schemas) == 1
    for place, says in (
        (f":0{price.address + 4}", f"and this is inside price; write uretprobe:{shop}:price"),
        ("@shop.c:7", "no line returns; name the function"),
    ):
        with pytest.raises(KwireError) as caught:
            make_plan([f"uretprobe:{shop}{place}"])
        assert str(caught.value).endswith(says)


BY_VALUE = """
struct point { int x, y; }; struct pair { long a; char b; }; struct large { long a[3]; };
__attribute__((noipa)) struct pair
make(struct point p, int n, struct pair q, struct large w, long six, struct pair last)
{ struct pair made = {p.x + n, q.b}; return made; }
int main(void)
{
    struct point p = {3, -4}; struct pair q = {5, 'q'}, last = {11, 'l'}; struct large w = {{7, 8, 9}};
    return make(p, 1, q, w, 10, last).a - 4;
}
"""


@pytest.mark.native
@pytest.mark.needs("uprobe")
def test_structures_are_passed_and_returned_by_value(tmp_path: Path) -> None:
    """In registers, and on the stack."""
    pytest.importorskip("elftools", reason="pyelftools is not installed")
    (tmp_path / "own.c").write_text(BY_VALUE)
    program = str(tmp_path / "own")
    subprocess.run(["gcc", "-g", "-O1", "-no-pie", "-o", program, tmp_path / "own.c"], check=True)
    script = f"""uprobe:{program}:make {{ print(args.p); print((args.n, args.q.a, args.six, args.last.b));
    print(args.w); }} uretprobe:{program}:make {{ print((retval.a, retval.b)); }}"""
    words = [sys.executable, "-m", "kwire", "-q", "-c", program, "-e", script]
    run = subprocess.run(words, capture_output=True, text=True, check=False)
    shown = ["{ .x = 3, .y = -4 }", "(1, 5, 10, 108)", "{ .a = [7,8,9] }", "(4, 113)"]
    assert run.stdout.splitlines()[:4] == shown, run.stderr


CLASSES = """
struct first { int x; virtual ~first() {} }; struct second { int x; }; struct apart { int shared; };
struct all : first, second, virtual apart { int own; static int common; int &same; all(int &r) : same(r) {} };
extern "C" __attribute__((noipa)) int work(all *given, all &same) { return given->own; }
int main() { int n = 5; all one(n); one.own = 3; one.first::x = 8; return work(&one, one) - 3; }
"""


@pytest.mark.native
@pytest.mark.needs("uprobe")
def test_an_object_of_a_class_is_the_members_that_can_be_named(tmp_path: Path) -> None:
    pytest.importorskip("elftools", reason="pyelftools is not installed")
    if not shutil.which("g++"):
        pytest.skip("there is no compiler of C++")
    (tmp_path / "own.cc").write_text(CLASSES)
    program = str(tmp_path / "own")
    subprocess.run(["g++", "-g", "-no-pie", "-o", program, tmp_path / "own.cc"], check=True)
    script = f"uprobe:{program}:work {{ print(*args.given); print((args.same->x, *args.given->same)); }}"
    words = [sys.executable, "-m", "kwire", "-q", "-c", program, "-e", script]
    run = subprocess.run(words, capture_output=True, text=True, check=False)
    shown, pair, *_ = [*run.stdout.splitlines(), run.stderr, ""]
    assert re.fullmatch(r"\{ \.own = 3, \.same = 0x[0-9a-f]+, \.x = 8 \}", shown)
    assert pair == "(8, 5)"


@pytest.mark.kernels("6.12")
@pytest.mark.needs("uprobe_multi")
def test_a_wildcard_is_one_link_a_file(shop: str) -> None:
    from kwire.live.planner import make_plan

    plan = make_plan([f"uprobe:{shop}:step_*", f"uprobe:{shop}:many"])
    [group] = plan.groups
    assert group.multi
    assert sorted(point.text.partition(":")[0] for point in group.points) == [shop] * 3


@pytest.mark.parametrize(("setting", "optional"), [("error", set()), ("warn", {1, 2}), ("ignore", {1, 2})])
def test_a_place_that_the_kernel_refuses_is_as_one_that_is_missing(
    shop: str, setting: str, optional: set[int]
) -> None:
    from kwire.lang.bpftrace.reader import read
    from kwire.live.scripts import plan_script

    text = f"config = {{ missing_probes = {setting} }} uprobe:{shop}:many, uretprobe:{shop}:price {{ @++ }}"
    assert plan_script(read("t", text)).plan.optional == optional


def test_what_can_be_probed_is_listed(shop: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert [str(one) for one in expand("uprobe", f"{shop}:step_*")] == [
        f"uprobe:{shop}:step_down",
        f"uprobe:{shop}:step_up",
    ]
    marks = [(one.name, one.form, one.copies) for one in expand("usdt", f"{shop}:*")]
    assert [(name, copies) for name, _, copies in marks] == [
        ("shop:closed", 1),
        ("shop:closed", 1),
        ("shop:sold", 1),
    ]
    assert main(["list", f"uprobe:{shop}:step_*", f"usdt:{shop}:sold", "software:cpu-*"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"uprobe:{shop}:step_down",
        f"uprobe:{shop}:step_up",
        f"usdt:{shop}:shop:sold",
        "software:cpu-clock",
        "software:cpu-migrations",
    ]


CPP = r"""
int whole(int) __asm__("_Z4overi");
int text(const char *) __asm__("_Z4overPKc");
int copy(int) __asm__("_ZN2ns3BoxIlE4takeEi.isra.0");
int element(int) __asm__("_ZN2ns3BoxIlEixEi");
int begin(int) __asm__("_ZN2ns1AC1Ei");
int base(int) __asm__("_ZN2ns1AC2Ei") __attribute__((alias("_ZN2ns1AC1Ei")));
__attribute__((noipa)) int whole(int a) { asm volatile(""); return a; }
__attribute__((noipa)) int text(const char *a) { asm volatile(""); return a[0]; }
__attribute__((noipa)) int copy(int a) { asm volatile(""); return a; }
__attribute__((noipa)) int element(int a) { asm volatile(""); return a; }
__attribute__((noipa)) int begin(int a) { asm volatile(""); return a; }
int main(void) { return whole(1) + text("") + copy(-1) + element(0); }
"""


@pytest.mark.native
@pytest.mark.needs("uprobe")
def test_functions_by_their_names_in_cpp(tmp_path: Path) -> None:
    program = tmp_path / "cpp"
    program.with_suffix(".c").write_text(CPP)
    subprocess.run(["gcc", "-O1", "-o", program, program.with_suffix(".c")], check=True)

    def named(name: str) -> list[str]:
        return [one.name for one in expand("uprobe", f"{program}:cpp:{name}")]

    assert named("over") == ["_Z4overPKc", "_Z4overi"]
    assert named("over(int)") == named(" over( int )") == ["_Z4overi"]
    assert named("over(char const*)") == ["_Z4overPKc"]
    assert named("ns::Box<long>::take") == ["_ZN2ns3BoxIlE4takeEi.isra.0"]
    assert named("ns::Box<long>::operator[]") == ["_ZN2ns3BoxIlEixEi"]
    assert named("ns::A::A") == ["_ZN2ns1AC1Ei"]  # which is there twice
    assert named("ns::Box*") == ["_ZN2ns3BoxIlE4takeEi.isra.0", "_ZN2ns3BoxIlEixEi"]
    with pytest.raises(KwireError, match=r"it has no such function of C\+\+"):
        named("ove")
    with pytest.raises(KwireError, match=r"no such function; did you mean cpp:over\?"):
        expand("uprobe", f"{program}:over")
    places = f'uprobe:{program}:cpp:"over(int)", uprobe:{program}:cpp:ns::Box*'
    script = places + '{ printf("%s %s\\n", func, probe); }'
    command = [sys.executable, "-m", "kwire", "-q", "-e", script, "-c", str(program)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert told.split("\n")[:3] == [
        f"over(int) uprobe:{program}:_Z4overi",
        f"ns::Box<long>::take(int) (.isra.0) uprobe:{program}:_ZN2ns3BoxIlE4takeEi.isra.0",
        f"ns::Box<long>::operator[](int) uprobe:{program}:_ZN2ns3BoxIlEixEi",
    ]


OVERLOADED = r"""
int whole(int) __asm__("_ZN2ns4overEi");
long large(long) __asm__("_ZN2ns4overEl");
__attribute__((noipa)) int whole(int a) { asm volatile(""); return a; }
__attribute__((noipa)) long large(long a) { asm volatile(""); return a; }
int main(void) { return whole(1) + (int)large(-1); }
"""


@pytest.mark.native
@pytest.mark.needs("uprobe")
def test_functions_whose_names_are_longer_in_cpp_are_keys(tmp_path: Path) -> None:
    """The map's keys have room for the longest, which is not the longest in the file."""
    program = tmp_path / "cpp"
    program.with_suffix(".c").write_text(OVERLOADED)
    subprocess.run(["gcc", "-O1", "-o", program, program.with_suffix(".c")], check=True)
    script = f"uprobe:{program}:cpp:ns::over {{ @[func] = count(); }}"
    command = [sys.executable, "-m", "kwire", "-q", "-e", script, "-c", str(program)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert sorted(filter(None, run.stdout.splitlines())) == ["@[ns::over(int)]: 1", "@[ns::over(long)]: 1"]
    assert run.stderr == ""


def test_a_library_is_found_as_the_loader_finds_it() -> None:
    maps = Path("/proc/self/maps").read_text()
    loaded = {os.path.realpath(line.split()[-1]) for line in maps.splitlines() if "/libc.so" in line}
    if not loaded:
        pytest.skip("Python here is not linked with libc.so")
    for name in ("libc", "libc.so.6"):
        assert {os.path.realpath(one) for one in binaries.files(name)} == loaded
    assert binaries.files("sh") == [shutil.which("sh")]


@pytest.mark.needs("uprobe")
def test_probes_of_one_place_fire_as_they_are_written(shop: str) -> None:
    script = """
    uprobe:SHOP:many { printf("one\\n"); } uprobe:SHOP:many { printf("two\\n"); }
    uretprobe:SHOP:many { printf("three\\n"); } uretprobe:SHOP:many { printf("four\\n"); }
    """
    words = [sys.executable, "-m", "kwire", "-q", "-c", shop, "-e", script.replace("SHOP", shop)]
    ran = subprocess.run(words, capture_output=True, text=True, check=True)
    assert [line for line in ran.stdout.splitlines() if line.isalpha()] == ["one", "two", "three", "four"]


def test_files_are_those_of_the_process(shop: str) -> None:
    """`*` is what it has mapped as code, a library the one that it has loaded."""
    own = binaries.files("*", [os.getpid()])
    assert os.path.realpath(sys.executable) in map(os.path.realpath, own)
    assert binaries.files("libc", [os.getpid()])[0] in own
    assert binaries.files(shop, [os.getpid()]) == [shop]
    with pytest.raises(KwireError, match="name a process: -p PID"):
        binaries.files("*")
    with pytest.raises(KwireError, match="no such file"):
        binaries.files("*", [1 << 22])


@pytest.mark.native
@pytest.mark.needs("uprobe")
def test_a_process_in_a_container_names_its_own_files(shop: str, tmp_path: Path) -> None:
    """In a mount namespace where the shop lies elsewhere."""
    place = tmp_path / "there"
    place.mkdir()
    inside = (
        f"mount -t tmpfs none {place} && cp {shop} {place}/inner && echo ready && read x && {place}/inner"
    )
    words = ["unshare", "--mount", "sh", "-ec", inside]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as ran:
        assert ran.stdin is not None
        assert ran.stdout is not None
        assert ran.stdout.readline() == "ready\n"
        with kwire.trace(f"uprobe:{place}/inner:many(arg0)", pid=ran.pid, seconds=60) as trace:
            ran.stdin.write("go\n")
            ran.stdin.close()
            [event] = list(trace)
    assert event.arg0 == 1
    assert not (place / "inner").exists()


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("uprobe:SHOP:step_upp", "did you mean step_up?"),
        ("uprobe:SHOP:nothing_*", "no function in SHOP matches"),
        ("uprobe:SHOP:many+4096", "many has"),
        ("uprobe:SHOP:0x10", "no code of it is at address 0x10"),
        ("uprobe:SHOP:10", "no code of it is at address 0xa"),
        ("uprobe:SHOP:08", "no code of it is at address 0x8"),
        ("uprobe:SHOP:0xzz", "it has no such function"),
        ("uprobe:SHOP:_init+4", "is not known"),
        ("uprobe:/no/such/file:f", "/no/such/file: no such file"),
        ("uprobe:libnothing:f", "there is no library and no program of this name"),
        ("uprobe:grepp:f", "did you mean grep"),
        ("uprobe:/etc/passwd:f", "it is no ELF file"),
        ("uprobe:libc:strlen", "IFUNC"),
        ("usdt:SHOP:shop:solde", "did you mean shop:sold?"),
        ("usdt:SHOP:solde", "did you mean shop:sold?"),
        ("usdt:SHOP:shop:sold(arg3)", "shop:sold has 3 arguments"),
        ("uretprobe:SHOP:many(arg0)", "a uretprobe has no arg0"),
        ('uprobe:SHOP:many(x=reg("nope"))', "there is no register nope"),
        ("uprobe:SHOP", "write uprobe:file:function[+offset]"),
        ("software:faulty", "it is one of cpu-clock, "),
        ("hardware:cycles:0", "'cycles:0' is no counter with a number of events, 1 or more"),
        ("watchpoint:4000:3:w", "'4000:3:w' is no stretch of memory"),
        ("watchpoint:0x4000:8:", "is not a target of a watchpoint"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(shop: str, spec: str, says: str) -> None:
    from kwire.live.planner import make_plan

    with pytest.raises(KwireError) as caught:
        make_plan([spec.replace("SHOP", shop)])
    error = caught.value
    said = (
        "\n".join(one.message + one.cure for one in error.diagnostics)
        if isinstance(error, LanguageError)
        else str(error)
    )
    assert says.replace("SHOP", shop) in said.replace("No such", "no such")
    assert "\n" not in said


@pytest.mark.native
@pytest.mark.parametrize(
    ("place", "name", "says"),
    [
        ("many", "nowhere", "SHOP has no variable nowhere"),
        ("many", "0xzz", "SHOP has no variable 0xzz"),
        ("many", "watched+x", "SHOP has no variable watched+x"),
        ("man[y]", "watched", "how far watched is from man[y] is not known"),
        ("@shop.c:7", "watched", "how far watched is from 7 is not known"),
    ],
)
def test_a_variable_that_is_not_there_is_said(shop: str, place: str, name: str, says: str) -> None:
    from kwire.lang.bpftrace.reader import read
    from kwire.live.scripts import plan_script

    with pytest.raises(LanguageError) as caught:
        plan_script(
            read(
                "t", f'uprobe:{shop}{place if place[0] == "@" else f":{place}"} {{ print(uaddr("{name}")); }}'
            )
        )
    assert [one.message for one in caught.value.diagnostics] == [says.replace("SHOP", shop)]


@pytest.mark.native
def test_a_counter_that_the_machine_has_not_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    from kwire.kernel import features

    if features.probe("hardware").answer != "no":
        pytest.skip("the CPU counts here")
    assert main(["trace", "-p", str(os.getpid()), "hardware:cycles"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "this machine has no counter of that" in said


@kwire.iter("task_file")
def opened(task, fd):
    if task.tgid == ME:
        emit(fd, thread=task.pid, comm=str(task.comm))


ME = os.getpid()


@pytest.mark.needs("iter")
def test_an_iterator_comes_to_each_object_once_and_ends() -> None:
    with kwire.trace(opened, "begin", "end") as trace:
        events = list(trace)
    found = [event.fd for event in events if event.probe == "iter:task_file"]
    assert (events[0].probe, events[-1].probe) == ("begin", "end")
    assert len(found) == len(set(found))
    there = {int(name) for name in os.listdir("/proc/self/fd")}
    assert len(there - set(found)) <= 1  # the one that lists them
    assert {0, 1, 2} <= set(found)
    assert trace.lost == 0


ENDING = r"""
iter:task_vma /ctx->task->tgid == $1/ { @ = count(); printf("%1000d\n", ctx->vma->vm_start); exit(3); }
"""


@pytest.mark.needs("iter")
def test_an_iterator_that_asks_for_the_end_comes_to_all_objects() -> None:
    words = [sys.executable, "-m", "kwire", "-q", "-e", ENDING, str(ME)]
    ran = subprocess.run(words, capture_output=True, text=True)
    printed, _, counted = ran.stdout.partition("@: ")
    assert len(printed.split()) == int(counted) > 1
    assert ran.returncode == 3


VMAS = r"""
iter:task_vma /ctx->task->tgid == $1/ { @ = count(); printf("%1000d\n", ctx->vma->vm_start); }
"""


@pytest.mark.native
@pytest.mark.needs("iter")
def test_an_iterator_waits_for_its_reader() -> None:
    """More than a ring has room for, of one process: each second page that it maps is apart."""
    pages = 1000
    with mmap.mmap(-1, 2 * pages * mmap.PAGESIZE) as area:
        for page in range(pages):
            area.madvise(mmap.MADV_DONTFORK, 2 * page * mmap.PAGESIZE, mmap.PAGESIZE)
        ran = subprocess.run(
            [sys.executable, "-m", "kwire", "-q", "-e", VMAS, str(os.getpid())],
            capture_output=True,
            text=True,
            check=True,
        )
    lines = [line for line in ran.stdout.splitlines() if line.strip()]
    assert lines[-1] == f"@: {len(lines) - 1}"
    assert len(lines) > pages
    assert ran.stderr == ""


NARROW = r"""
volatile int seen;
__attribute__((noipa)) int narrow(int a, const char *text, unsigned b) { seen += text[0]; return a - (int)b; }
void _start(void)
{
    asm volatile("and $-16, %esp");
    static char text[] = "narrow text";
    seen += *(volatile char *)text;  // so that its page is there
    for (int i = 0; i < 3; i++) {
        narrow(-i, text, 40 + i);
        asm volatile("990: nop\n.pushsection .note.stapsdt,\"\",\"note\"\n.balign 4\n"
            ".4byte 992f-991f, 994f-993f, 3\n991: .asciz \"stapsdt\"\n992: .balign 4\n"
            "993: .4byte 990b, 0, 0\n.asciz \"shop\"\n.asciz \"sold\"\n.asciz \"-4@%[a] 4@%[b]\"\n"
            "994: .balign 4\n.popsection\n" : : [a] "nor"(-i), [b] "nor"(i + 5));
    }
    asm volatile("int $0x80" : : "a"(1), "b"(0));
}
"""


@pytest.mark.native
@pytest.mark.needs("uprobe")
def test_the_arguments_of_programs_of_32_bits(tmp_path: Path) -> None:
    """They are on the stack, where the registers of 64 bits have nothing of them."""
    (tmp_path / "narrow.c").write_text(NARROW)
    words = "gcc -m32 -O1 -nostdlib -static -fno-pic -no-pie -fno-stack-protector -o narrow narrow.c"
    if os.uname().machine != "x86_64" or subprocess.run(words.split(), cwd=tmp_path, check=False).returncode:
        pytest.skip("there is no compiler for 32 bits")
    file = f"{tmp_path}/narrow"

    @kwire.uprobe(f"{file}:narrow")
    def entered(a: "int", text: "char *"):
        emit(a=a, text=str(text), b=arg2)

    @kwire.uretprobe(f"{file}:narrow")
    def left():
        emit("left", value=cast("int", retval))

    @kwire.usdt(f"{file}:sold")
    def sold():
        emit("sold", a=arg0, b=arg1)

    with kwire.trace(entered, left, sold, command=[file], seconds=60) as trace:
        events = list(trace)
    assert [(one.a, one.text, one.b) for one in events[::3]] == [
        (-i, "narrow text", 40 + i) for i in range(3)
    ]
    assert [one.value for one in events[1::3]] == [-i - 40 - i for i in range(3)]
    assert [(one.a, one.b) for one in events[2::3]] == [(-i, i + 5) for i in range(3)]


def test_files_of_any_name_and_of_any_kind(shop: str, tmp_path: Path) -> None:
    """Quotes hold a name with colons together; what cannot be probed among many files is left out."""
    from kwire.lang.bpftrace.reader import read
    from kwire.live.planner import make_plan

    odd = f"{tmp_path}/a shop: of mine"
    shutil.copy(shop, odd)
    [target] = expand("uprobe", f'"{odd}":step_up')
    assert (target.group, str(target)) == (odd, f'uprobe:"{odd}":step_up')
    [plain] = expand("uprobe", f"{tmp_path}/*:step_up")
    assert plain == target
    plan = make_plan([f'uprobe:"{odd}":step_*(arg0)', f'usdt:"{odd}":shop:sold(arg0)'])
    assert [schema.probe.partition("(")[0] for schema in plan.schemas] == [
        f'uprobe:"{odd}":step_down',
        f'uprobe:"{odd}":step_up',
        f'usdt:"{odd}":shop:sold',
    ]
    source = f'uprobe:"{odd}":step_up, usdt:"{odd}":"shop:sold" {{ print(func) }}'
    from kwire.lang.bpftrace.points import places

    assert [str(one) for one in places(read("x.bt", source), ())] == [
        f'uprobe:"{odd}":step_up',
        f'usdt:"{odd}":shop:sold',
    ]
    whole = Path(shop).read_bytes()
    (tmp_path / "cut").write_bytes(whole[:3000])
    (tmp_path / "object").write_bytes(whole[:16] + b"\1\0" + whole[18:])
    (tmp_path / "foreign").write_bytes(whole[:18] + b"\xb7\0" + whole[20:])
    unread: dict[str, str] = {}
    assert expand("uprobe", f"{tmp_path}/*:step_up", (), unread) == [target]
    assert list(unread) == [f"uprobe:{tmp_path}/cut:step_up"]
    plan = make_plan([f"uprobe:{tmp_path}/*:step_up"])
    assert [what for what, _ in plan.skipped] == list(unread)
    with pytest.raises(KwireError, match="it is of aarch64, this machine is"):
        expand("uprobe", f"{tmp_path}/foreign:step_up")
