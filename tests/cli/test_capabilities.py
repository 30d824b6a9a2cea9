"""Which capabilities each kind of probe takes, tried as another user; README says the same."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.live,
    pytest.mark.kernels("6.12"),
    pytest.mark.usefixtures("readable"),
    pytest.mark.skipif(not shutil.which("setpriv"), reason="no setpriv"),
]
TRACEFS = "/sys/kernel/tracing"
MOUNTED = f'test -e {TRACEFS}/events || mount -t tracefs tracefs {TRACEFS} && exec "$@"'
NOBODY = (
    *("unshare", "--mount", "sh", "-c", MOUNTED, "sh"),  # as on most machines; these tests alone see it
    *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
)
KWIRE = (sys.executable, "-m", "kwire.cli.main")
SETTING = Path("/proc/sys/kernel/perf_event_paranoid")
PARANOID = int(SETTING.read_text()) if SETTING.exists() else 2
RAW, EVENT = "rawtracepoint:sched_process_exec", "tracepoint:sched:sched_process_exec"


@pytest.fixture(scope="module")
def readable() -> None:
    """Skips where another user cannot read this installation."""
    probe = subprocess.run([*NOBODY, *KWIRE, "--help"], capture_output=True, cwd="/")
    if probe.returncode:
        pytest.skip("another user cannot read this installation")


def record(before: tuple[str, ...], specs: str, path: Path) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            [*before, *KWIRE, "record", *specs.split(), "-c", "true", "-w", str(path)],
            capture_output=True,
            text=True,
            cwd="/",
            env={**os.environ, "HOME": "/nonexistent"},
        )
    finally:
        path.unlink(missing_ok=True)


def as_nobody(capabilities: str, specs: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Record events of `true` as another user with these capabilities and no others."""
    folder.chmod(0o777)
    sets = ",".join(("-all", *(f"+{name}" for name in capabilities.split())))
    user = (*NOBODY, f"--inh-caps={sets}", f"--ambient-caps={sets}")
    return record(user, specs, Path("/tmp") / f"kwire-{folder.name}.pcapng")


@pytest.mark.native  # guests try each kind of probe, below
@pytest.mark.parametrize(
    ("capabilities", "spec"),
    [
        ("bpf perfmon", RAW),
        pytest.param(
            "bpf perfmon dac_read_search", EVENT, marks=pytest.mark.skipif(PARANOID > 2, reason="see below")
        ),
        ("sys_admin dac_read_search", EVENT),
    ],
)
def test_what_is_enough(capabilities: str, spec: str, tmp_path: Path) -> None:
    run = as_nobody(capabilities, spec, tmp_path)
    assert "1 event, none lost" in run.stderr


@pytest.mark.native
@pytest.mark.parametrize(
    ("capabilities", "spec", "cure"),
    [
        ("", RAW, "with CAP_BPF and CAP_PERFMON"),
        ("bpf", RAW, "also with CAP_PERFMON"),
        ("sys_admin", EVENT, "with CAP_DAC_READ_SEARCH"),
        ("bpf perfmon", EVENT, "with CAP_DAC_READ_SEARCH"),
    ],
)
def test_who_lacks_one_is_told_which(capabilities: str, spec: str, cure: str, tmp_path: Path) -> None:
    run = as_nobody(capabilities, spec, tmp_path)
    assert run.returncode == 1
    [line] = run.stderr.splitlines()
    assert line.endswith(f"run as root, or {cure}")


TRACERS = "bpf perfmon"
READERS = f"{TRACERS} dac_read_search"
LEVEL = "kernel.perf_event_paranoid=3 asks for CAP_SYS_ADMIN too: take it, or set it to 2"
HIDDEN = "run as root, or with CAP_SYSLOG"


@pytest.fixture
def setting() -> Iterator[Callable[[str, int], None]]:
    """Changes settings of the kernel, which are put back."""
    before: dict[Path, str] = {}

    def change(name: str, value: int) -> None:
        path = Path("/proc/sys/kernel", name)
        before.setdefault(path, path.read_text())
        path.write_text(str(value))

    yield change
    for path, value in before.items():
        path.write_text(value)


@pytest.mark.guest
@pytest.mark.needs("kprobe", "fentry")
@pytest.mark.parametrize(
    ("paranoid", "capabilities", "specs", "cure"),
    [
        (3, TRACERS, f"{RAW} fentry:do_filp_open fexit:do_filp_open", ""),
        (3, READERS, EVENT, LEVEL),
        (2, READERS, EVENT, ""),
        (2, READERS, "kprobe:do_filp_ope*", ""),
        (3, TRACERS, "kprobe:do_filp_open", LEVEL),
        (2, TRACERS, "kprobe:do_filp_open kretprobe:do_filp_open", ""),
        (3, "sys_admin", "kprobe:do_filp_open", ""),
        (2, READERS, "kprobe:c_start", HIDDEN),
        (2, f"{READERS} syslog", "kprobe:c_start", ""),
    ],
)
def test_every_kind_of_probe(
    paranoid: int,
    capabilities: str,
    specs: str,
    cure: str,
    tmp_path: Path,
    setting: Callable[[str, int], None],
) -> None:
    setting("perf_event_paranoid", paranoid)
    setting("kptr_restrict", 1)
    run = as_nobody(capabilities, specs, tmp_path)
    if cure:
        assert run.returncode == 1
        [line] = run.stderr.splitlines()
        assert line.endswith(cure)
    else:
        assert run.returncode == 0, run.stderr
        assert "none lost" in run.stderr
        assert not run.stderr.startswith("0 events")


@pytest.mark.guest
@pytest.mark.needs("fentry", "module")
def test_types_of_modules_take_another(kernel_module: str, tmp_path: Path) -> None:
    run = as_nobody(TRACERS, f"fentry:{kernel_module}_xmit", tmp_path)
    assert run.returncode == 1
    assert run.stderr.endswith("run as root, or also with CAP_SYS_ADMIN\n")
    run = as_nobody(f"{TRACERS} sys_admin", f"fentry:{kernel_module}_xmit", tmp_path)
    assert run.returncode == 0, run.stderr


@pytest.mark.guest
@pytest.mark.needs("kprobe")
def test_addresses_hidden_from_everybody(tmp_path: Path, setting: Callable[[str, int], None]) -> None:
    setting("kptr_restrict", 2)
    run = record((), "kprobe:c_start", tmp_path / "x.pcapng")
    assert run.returncode == 1
    [line] = run.stderr.splitlines()
    assert line.endswith("kernel.kptr_restrict=2 hides them from everybody: `sysctl kernel.kptr_restrict=1`")


def test_a_record_of_the_function_tracer_is_no_tracepoint(tmp_path: Path) -> None:
    run = record((), "tracepoint:ftrace:function", tmp_path / "x.pcapng")
    assert run.returncode == 1
    assert run.stderr.endswith("no tracepoint; use kprobe:FUNCTION\n")
