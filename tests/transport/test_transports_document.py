"""docs/transports.md says what the code does: its tables are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

from kwire.transport import connect, half_open, lingering, udp
from kwire.transport.address import DEFAULT_PORT, KINDS
from kwire.transport.certs import ROLES, IssuedCertificate, instructions
from kwire.transport.half_open import Limits

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "transports.md").read_text()


def table(first: str) -> list[list[str]]:
    """The rows of the table whose head begins with `first`."""
    found = re.search(rf"^\| {re.escape(first)} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    assert found, first
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in found[1].splitlines()]


def test_addresses() -> None:
    rows = table("address")
    assert [row[0].partition(":")[0] for row in rows] == list(KINDS)
    assert [row[1] for row in rows] == [kind.meaning for kind in KINDS.values()]
    assert [row[2] == "yes" for row in rows] == [kind.private for kind in KINDS.values()]
    assert f"Without `:PORT` it is {DEFAULT_PORT}" in TEXT


def test_limits() -> None:
    assert {row[0]: float(row[1]) for row in table("limit")} == Limits()._asdict()
    assert f"keep their place\nfor {half_open.GRACE:g} seconds" in TEXT


def test_timers() -> None:
    assert [float(row[1]) for row in table("timer")] == [
        *(connect.PATIENCE, connect.SHORTEST, connect.LONGEST, lingering.LINGER, udp.FAREWELL),
    ]


def test_what_make_certs_prints() -> None:
    here = ("vm", "localhost", "127.0.0.1", "::1")
    made = [IssuedCertificate(role, f"certs/{role}", here, new=True) for role in ROLES]
    made.append(IssuedCertificate("web1.example", "certs/web1.example", ("web1.example",), new=True))
    shown = "".join(f"    {line}\n" for line in instructions("certs", made))
    assert shown in TEXT
