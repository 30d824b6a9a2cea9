"""Which capabilities each kind of probe takes, tried as another user; README says the same."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(not shutil.which("setpriv"), reason="no setpriv"),
]
TRACEFS = "/sys/kernel/tracing"
MOUNTED = f'test -e {TRACEFS}/events || mount -t tracefs tracefs {TRACEFS} && exec "$@"'
NOBODY = (
    *("unshare", "--mount", "sh", "-c", MOUNTED, "sh"),  # as on most machines; these tests alone see it
    *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
)
KWIRE = (sys.executable, "-m", "kwire.cli.main")
RAW, EVENT = "rawtracepoint:sched_process_exec", "tracepoint:sched:sched_process_exec"


def as_nobody(capabilities: str, spec: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Record an event of `true` as another user with these capabilities and no others."""
    folder.chmod(0o777)
    sets = ",".join(("-all", *(f"+{name}" for name in capabilities.split())))
    user = (*NOBODY, f"--inh-caps={sets}", f"--ambient-caps={sets}")
    probe = subprocess.run([*user, *KWIRE, "--help"], capture_output=True, cwd="/")
    if probe.returncode:
        pytest.skip("another user cannot read this installation")
    path = Path("/tmp") / f"kwire-{folder.name}.pcapng"
    try:
        return subprocess.run(
            [*user, *KWIRE, "record", spec, "-c", "true", "-w", str(path)],
            capture_output=True,
            text=True,
            cwd="/",
            env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
        )
    finally:
        path.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("capabilities", "spec"),
    [
        ("bpf perfmon", RAW),
        ("bpf perfmon dac_read_search", EVENT),
        ("sys_admin dac_read_search", EVENT),
    ],
)
def test_what_is_enough(capabilities: str, spec: str, tmp_path: Path) -> None:
    run = as_nobody(capabilities, spec, tmp_path)
    assert "1 event, none lost" in run.stderr


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
