"""Feature probes: what must be here is here, what cannot be told is not kept, nothing is left behind."""

from __future__ import annotations

import errno
import resource
from collections.abc import Callable
from typing import Any

import pytest
from traces import open_descriptors

from kwire import native
from kwire.bpf.asm import image
from kwire.bpf.helpers import HELPERS
from kwire.kernel import environment, features, maps, privileges, probes, prog
from kwire.kernel.features import BASE, FEATURES, PROBES, mechanism, probe
from kwire.kernel.probes import Answer, refused
from kwire.kernel.sys import ATTRS, Struct, bpf, try_bpf
from kwire.kernel.syscall import KernelError

ALWAYS = (
    *BASE,
    "privileges",
    "tracefs",
    "tracepoint",
    "rawtracepoint",
    "func_info",
    "isa_v3",
    "bounded_loops",
)


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_known", {})


@pytest.mark.live
@pytest.mark.parametrize("name", FEATURES)
def test_every_probe_answers_and_leaves_nothing(name: str) -> None:
    before = open_descriptors()
    limits = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    found = probe(name)
    assert found.answer in ("yes", "no", "unknown")
    assert found.answer == "yes" or found.reason
    assert "\n" not in found.reason + found.cure
    assert open_descriptors() == before
    assert resource.getrlimit(resource.RLIMIT_MEMLOCK) == limits
    if name in ALWAYS:
        assert found.answer == "yes", found


@pytest.mark.live
def test_a_conclusive_answer_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    answers = [Answer("unknown", "x"), Answer("no", "y"), Answer("yes")]

    def next_answer() -> Answer:
        calls.append("")
        return answers[len(calls) - 1]

    monkeypatch.setitem(FEATURES, "bpf", FEATURES["bpf"]._replace(probe=next_answer))
    assert [probe("bpf").answer for _ in range(4)] == ["unknown", "no", "no", "no"]
    assert len(calls) == 2
    assert "3.18" in probe("bpf").cure


def refusing(wanted: dict[str, int]) -> Callable[..., Any]:
    """A bpf(2) that fails for some commands, and works for others."""

    def call(command: str, **fields: Any) -> Any:
        if command in wanted:
            return -1, wanted[command], Struct(ATTRS[command][1], fields)
        return try_bpf(command, **fields)

    return call


@pytest.mark.live
def test_a_kernel_without_bpf(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = dict.fromkeys(ATTRS, errno.ENOSYS)
    for module in (probes, maps, prog):
        monkeypatch.setattr(module, "try_bpf", refusing(everything))
    assert probe("bpf").answer == "no"
    assert "CONFIG_BPF_SYSCALL" in probe("bpf").cure
    assert not features.can_trace()


@pytest.mark.live
@pytest.mark.parametrize(
    ("number", "may", "kind"),
    [
        (errno.EPERM, False, "unknown"),
        (errno.EPERM, True, "no"),
        (errno.EINVAL, False, "no"),
        (errno.ENOMEM, True, "unknown"),
        (errno.EMFILE, True, "unknown"),
    ],
)
def test_what_an_errno_means(monkeypatch: pytest.MonkeyPatch, number: int, may: bool, kind: str) -> None:
    held = frozenset(("CAP_BPF", "CAP_PERFMON") if may else ())
    monkeypatch.setattr(privileges, "effective", lambda: held)
    found = refused(number)
    assert found.answer == kind
    if number == errno.EMFILE:
        assert "ulimit -n" in found.cure
    if number == errno.EPERM and not may:
        assert found.cure == "run as root, or with CAP_BPF and CAP_PERFMON"


@pytest.mark.live
def test_helpers_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (9, 9999):  # skb_store_bytes, which is for packets, and one that no kernel has
        monkeypatch.setitem(HELPERS, "wanting", HELPERS["ktime_get_ns"]._replace(id=number))
        monkeypatch.setitem(probes.HELPERS_OF, "tracepoint", ("ktime_get_ns", "wanting"))
        found = probes.helpers("tracepoint")()
        assert found.answer == "no"
        assert found.reason == "without wanting"


@pytest.mark.live
def test_the_best_mechanism(monkeypatch: pytest.MonkeyPatch) -> None:
    def there(*names: str) -> None:
        monkeypatch.setattr(
            features, "probe", lambda name: Answer("yes" if name in names else "no", "it is not there")
        )
        monkeypatch.setattr(features, "kprobe_pmu", lambda: (6, 0) if "kprobe" in names else None)

    there("kprobe_multi", "kprobe", "fentry")
    assert (mechanism("kprobe"), mechanism("kprobe", 2)) == ("kprobe", "kprobe.multi")
    there("kprobe", "fentry")
    assert mechanism("kprobe", 2) == "kprobe"
    there("fentry")
    assert mechanism("kretprobe", 2) == "fentry"
    there()
    with pytest.raises(KernelError, match="CONFIG_KPROBES"):
        mechanism("kprobe")


@pytest.mark.live
def test_surroundings_that_are_hostile(monkeypatch: pytest.MonkeyPatch) -> None:
    texts: dict[str, str | None] = {
        "/proc/sys/kernel/unprivileged_bpf_disabled": "0\n",
        "/proc/meminfo": "MemAvailable: 1000 kB\n",
        "/proc/sys/kernel/perf_event_paranoid": None,
        "/proc/modules": "",
    }
    monkeypatch.setattr(environment, "_read", lambda path, directory=None: texts.get(path))
    monkeypatch.setattr(environment, "lockdown_mode", lambda: ("confidentiality", 0))
    monkeypatch.setattr(environment, "in_first_namespace", lambda: False)
    monkeypatch.setattr(environment, "try_iterator", lambda: bpf("iter_create", link_fd=-1))
    monkeypatch.setattr(environment, "MANY_PROBES", 1 << 40)
    monkeypatch.setattr(native, "ring_walk", None)
    for name in (
        "lockdown",
        "unprivileged_bpf",
        "memory",
        "perf_paranoid",
        "pid_namespace",
        "open_files",
        "native",
    ):
        found = probe(name)
        assert found.answer == "no", (name, found)
        assert found.cure


def test_the_table_is_whole() -> None:
    assert {*BASE, *PROBES} <= FEATURES.keys()
    assert all(feature.meaning for feature in FEATURES.values())
    assert all(name == feature.name for name, feature in FEATURES.items())


@pytest.mark.live
def test_functions_are_found_by_the_kernel_itself() -> None:
    assert prog.function_btf_id("vfs_read") > 0
    with pytest.raises(KernelError):
        prog.function_btf_id("no_such_function_at_all")


def test_probe_programs_do_nothing() -> None:
    nothing = image("x", "kprobe", probes.NOTHING)
    assert len(nothing.code) == 16
