"""Cures fit the cause: nobody is told to get what he has."""

from __future__ import annotations

from pathlib import Path

import pytest

from kwire.kernel import cures, privileges, symbols
from kwire.kernel.cures import refused, unreadable
from kwire.kernel.sys import failure, usual_cure

ALL = frozenset(privileges.NUMBERS)
BOTH = frozenset(("CAP_BPF", "CAP_PERFMON"))


@pytest.mark.parametrize(
    ("held", "mode", "of_a_call", "of_a_file"),
    [
        (
            frozenset[str](),
            "none",
            "run as root, or with CAP_BPF and CAP_PERFMON",
            "run as root, or with CAP_BPF and CAP_PERFMON and CAP_DAC_READ_SEARCH",
        ),
        (
            frozenset(("CAP_BPF",)),
            "none",
            "run as root, or also with CAP_PERFMON",
            "run as root, or also with CAP_PERFMON and CAP_DAC_READ_SEARCH",
        ),
        (BOTH, "none", cures.SANDBOX, "run as root, or with CAP_DAC_READ_SEARCH"),
        (frozenset(("CAP_SYS_ADMIN",)), "", cures.SANDBOX, "run as root, or with CAP_DAC_READ_SEARCH"),
        (ALL, "none", cures.SANDBOX, cures.SANDBOX),
        (ALL, "integrity", cures.SANDBOX, cures.SANDBOX),
        (ALL, "confidentiality", "the kernel is locked down", "the kernel is locked down"),
    ],
)
def test_a_refusal(
    monkeypatch: pytest.MonkeyPatch, held: frozenset[str], mode: str, of_a_call: str, of_a_file: str
) -> None:
    monkeypatch.setattr(privileges, "effective", lambda: held)
    monkeypatch.setattr(cures, "lockdown_mode", lambda: (mode, 0))
    assert refused().startswith(of_a_call)
    assert unreadable().startswith(of_a_file)
    assert failure("load", "it", 1).cure == failure("load", "it", 13).cure == usual_cure(1) == refused()
    assert failure("load", "it", 24).cure != refused()


@pytest.mark.parametrize(("level", "cure"), [("2\n", "sysctl kernel.kptr_restrict=1"), ("1\n", "CAP_SYSLOG")])
def test_hidden_addresses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, level: str, cure: str) -> None:
    (tmp_path / "kptr_restrict").write_text(level)
    monkeypatch.setattr(symbols, "KPTR_RESTRICT", str(tmp_path / "kptr_restrict"))
    assert cure in symbols.how_to_see_addresses()
