"""What can be probed: patterns, exact names, and what a typo meant."""

from __future__ import annotations

import pytest

from kwire.kernel import catalog
from kwire.kernel.catalog import expand, missing, suggestions
from kwire.kernel.symbols import kernel_symbols
from kwire.kernel.targets import CatalogError, Target

LISTED = """tcp_connect
tcp_conn_request
__x64_sys_openat
__ia32_sys_openat
do_sys_openat2
vfs_read
vfs_readv
vfs_read
veth_xmit [veth]
veth_open [veth]
br_open [bridge]
__pfx_vfs_read
vfs_read.cold
__ftrace_invalid_address___1
"""


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "_function_lines", lambda modules: LISTED)


@pytest.mark.usefixtures("listed")
@pytest.mark.parametrize(
    ("pattern", "targets"),
    [
        ("tcp_con*", ["tcp_conn_request", "tcp_connect"]),
        ("vfs_rea?", ["vfs_read"]),
        ("vfs_read*", ["vfs_read", "vfs_readv"]),
        ("*_open", ["bridge:br_open", "veth:veth_open"]),
        ("veth:*", ["veth:veth_open", "veth:veth_xmit"]),
        ("v*:*xmit", ["veth:veth_xmit"]),
        ("vmlinux:vfs_rea?", ["vfs_read"]),
        ("vmlinu*:vfs_readv", ["vfs_readv"]),
        ("[tv]*_con[mn]ect", ["tcp_connect"]),
        ("[!t]*_read", ["vfs_read"]),
        ("tcp_connect", ["tcp_connect"]),
        ("veth:veth_open", ["veth:veth_open"]),
    ],
)
def test_functions(pattern: str, targets: list[str]) -> None:
    for kind in ("kprobe", "kretprobe", "fentry", "fexit"):
        found = expand(kind, pattern)
        assert [target.target for target in found] == targets
        assert [str(target) for target in found] == [f"{kind}:{target}" for target in targets]


@pytest.mark.usefixtures("listed")
def test_names_that_several_functions_have_are_counted() -> None:
    assert {str(target): target.copies for target in expand("kprobe", "vfs_read*")} == {
        "kprobe:vfs_read": 2,
        "kprobe:vfs_readv": 1,
    }


@pytest.mark.usefixtures("listed")
@pytest.mark.parametrize(
    "pattern", ["nothing*", "veth:nothing*", "nothing:*", "__pfx_*", "*.cold", "[z-a]*", "[", "(*"]
)
def test_patterns_that_match_nothing(pattern: str) -> None:
    with pytest.raises(CatalogError):
        expand("kprobe", pattern)


@pytest.mark.usefixtures("listed")
@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("tcp_conect", "tcp_connect"),
        ("tpc_connect", "tcp_connect"),
        ("TCP_connect", "tcp_connect"),
        ("vfs_raed", "vfs_read"),
        ("veth_xmit", "veth:veth_xmit"),
        ("sys_openat", "__x64_sys_openat"),
    ],
)
def test_a_typo_suggests_what_was_meant(typo: str, meant: str) -> None:
    assert meant in suggestions("kprobe", typo)
    assert meant in str(missing("kprobe", typo))
    assert meant in missing("kprobe", typo).near


@pytest.mark.usefixtures("listed")
@pytest.mark.parametrize("nonsense", ["qqqqqqqqqqqq", "", "x", "tcp"])
def test_nonsense_suggests_little(nonsense: str) -> None:
    assert len(suggestions("kprobe", nonsense)) <= 3
    assert "qqq" not in "".join(suggestions("kprobe", nonsense))


def test_unknown_kinds() -> None:
    with pytest.raises(CatalogError, match="did you mean kprobe"):
        expand("kprob", "x")


@pytest.mark.live
def test_tracepoints_of_the_running_kernel() -> None:
    assert expand("tracepoint", "sched:sched_switch") == [Target("tracepoint", "sched", "sched_switch")]
    wakeups = expand("tracepoint", "sched:*wakeup*")
    assert Target("tracepoint", "sched", "sched_wakeup") in wakeups
    assert all(target.group == "sched" for target in wakeups)
    groups = {target.group for target in expand("tracepoint", "s*:s*_switch")}
    assert "sched" in groups
    assert expand("tracepoint", "*getppid") == [
        Target("tracepoint", "syscalls", name) for name in ("sys_enter_getppid", "sys_exit_getppid")
    ]


@pytest.mark.live
@pytest.mark.parametrize(
    ("kind", "pattern", "meant"),
    [
        ("tracepoint", "sched:sched_swich", "sched:sched_switch"),
        ("tracepoint", "shed:sched_switch", "sched:sched_switch"),
        ("tracepoint", "sched_switch", "sched:sched_switch"),
        ("rawtracepoint", "sched_swich", "sched_switch"),
    ],
)
def test_typos_of_tracepoints(kind: str, pattern: str, meant: str) -> None:
    with pytest.raises(CatalogError) as caught:
        expand(kind, pattern)
    assert caught.value.near[0] == meant


@pytest.mark.live
def test_raw_tracepoints_of_the_running_kernel() -> None:
    assert expand("rawtracepoint", "sched_switch") == [Target("rawtracepoint", "", "sched_switch")]
    names = {target.name for target in expand("rawtracepoint", "sys_*")}
    assert {"sys_enter", "sys_exit"} <= names
    assert "sys_enter_getppid" not in names  # an event that is no tracepoint of its own
    with pytest.raises(CatalogError):
        expand("rawtracepoint", "sys_enter_getppid")
    for pattern in ("a:b", "../x", ""):
        with pytest.raises(CatalogError):
            expand("rawtracepoint", pattern)


@pytest.mark.live
def test_functions_of_the_running_kernel() -> None:
    catalog._function_lines.cache_clear()
    names = {name for _, name in catalog.functions()}
    assert "vfs_read" in names
    assert len(names) > 10000
    assert not [name for name in names if " " in name or not name]
    assert [target.name for target in expand("kprobe", "vfs_rea[d]")] == ["vfs_read"]
    assert "vfs_read" in suggestions("kprobe", "vfs_raed")
    catalog._function_lines.cache_clear()


@pytest.mark.live
def test_tracepoints_without_events_are_found() -> None:
    names = {target.name for target in expand("rawtracepoint", "pelt_*")}
    if not kernel_symbols().addresses("__traceiter_pelt_cfs_tp"):
        pytest.skip("this kernel has no such tracepoint")
    assert "pelt_cfs_tp" in names
