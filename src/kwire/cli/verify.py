"""`kwire verify`: prove captures complete, or name every hole."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from kwire.capture.removed import Removed, read_ledger
from kwire.capture.verify import Balance, FileReport, Hole, verify_capture, verify_removed, verify_set
from kwire.cli.choosing import add_ports, ports
from kwire.cli.lines import say
from kwire.cli.status import FAILED, NOT_WHOLE, OK, worst
from kwire.cli.zone import add_utc
from kwire.errors import KwireError
from kwire.packets.open import open_capture
from kwire.view.text import WallClock, safe
from kwire.words import plural

HELP = "prove a capture complete, or name every hole"

EPILOG = """\
Complete means: for each probe, events produced = events stored, and the file's own closing statistics say so.
Give all files of a rotation together; a missing one is found. What a collector's --keep has removed is not
missing: it is named, and nothing is proven of it. Give all captures of a session that several
collectors shared (kwire collect --group) together: then what they have is added up.
A session captured on a network is complete where every DATA frame from its HELLO to its BYE is there. So
each hop can be proven: source, network,
collector.
An event that is not as its SCHEMA says is no event: it is counted apart, and such a file is not complete.

The exit status is 0 where all are complete, 3 where something is missing or not proven to be there, all of it
named; else 1 where a file is not readable as a capture.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.epilog = EPILOG
    parser.add_argument("files", metavar="FILE", nargs="+", help="a capture")
    parser.add_argument("--json", action="store_true", help="print one object")
    add_ports(parser)
    add_utc(parser)


def run(args: argparse.Namespace) -> int:
    """Verify each file, then what binds them."""
    reports: list[FileReport] = []
    unreadable: list[tuple[str, KwireError]] = []
    for path in args.files:
        try:
            with open_capture(path, **ports(args)) as capture:
                reports.append(verify_capture(capture))
        except KwireError as error:
            unreadable.append((path, error))
    removed: dict[str, Removed] = {}
    for folder in dict.fromkeys(os.path.dirname(report.path) for report in reports if report.capture):
        removed |= read_ledger(folder)
    missing, told = verify_set(reports, removed), verify_removed(reports, removed)
    if args.json:
        import json

        sys.stdout.write(json.dumps(_object(reports, missing, told, unreadable)) + "\n")
    else:
        for report in reports:
            sys.stdout.write("\n".join(_lines(report)) + "\n")
        for problem in [*missing, *told]:
            sys.stdout.write(f"{safe(problem)}\n")
    sys.stdout.flush()
    for _, reason in unreadable:
        say(str(reason))
    whole = not missing and all(report.complete for report in reports)
    return worst(OK if whole else NOT_WHOLE, FAILED if unreadable else OK)


def _lines(report: FileReport) -> list[str]:
    """The report of one file for a person: verdict, balance, holes, other problems."""
    totals = report.totals
    verdict = "complete" if report.complete else "INCOMPLETE"
    least = "at least " if any(balance.produced is None for balance in report.balances) else ""
    what = (
        f"{least}{plural(totals.produced, 'event')} produced, {totals.stored:,} stored, {totals.lost:,} lost"
    )
    tables = report.tables
    if tables.produced:
        frames = plural(tables.produced, "frame")
        what += f"; of maps {frames} produced, {tables.stored:,} stored, {tables.lost:,} lost"
    lines = [f"{safe(report.path)}: {verdict}: {what}"]
    if len(report.balances) > 1 or totals.lost:
        lines.append(f"  {'PRODUCED':>12} {'STORED':>12} {'LOST':>12}  PROBE")
        for balance in report.balances:
            produced = "?" if balance.produced is None else f"{balance.produced:,}"
            probe = _probes(balance.probes) or safe(balance.probe) or "(unknown)"
            lines.append(f"  {produced:>12} {balance.stored:>12,} {balance.lost:>12,}  {probe}")
    clock = WallClock()
    lines += [f"  hole: {_hole(hole, clock)}" for hole in report.holes]
    lines += [f"  problem: {safe(problem)}" for problem in report.problems]
    return lines


def _hole(hole: Hole, clock: WallClock) -> str:
    when = "at an unknown time"
    if hole.first is not None and hole.last is not None:
        first, last = clock.moment(hole.first), clock.time(hole.last)
        when = first if hole.first == hole.last else f"{first} to {last}"
    where = "" if hole.cpu is None else f", CPU {hole.cpu}"
    probe = _probes(hole.probes) or safe(hole.probe) or "an unknown probe"
    return f"{when}{where}: {plural(hole.count, 'event')} of {probe}: {hole.cause}"


def _probes(probes: Sequence[str]) -> str:
    """The probes that something concerns, all of them."""
    return " or ".join(map(safe, probes))


def _row(balance: Balance) -> dict[str, Any]:
    """The row of a probe; of a map it says so."""
    row = balance._asdict()
    if not row.pop("map"):
        return row
    return {**row, "map": True}


def _object(
    reports: list[FileReport],
    missing: list[str],
    removed: list[str],
    unreadable: list[tuple[str, KwireError]],
) -> dict[str, Any]:
    files: list[dict[str, Any]] = []
    for report in reports:
        totals = report.totals
        files.append(
            {
                "file": report.path,
                "complete": report.complete,
                **totals._asdict(),
                "probes": [_row(balance) for balance in report.balances],
                "holes": [hole._asdict() for hole in report.holes],
                "problems": report.problems,
            }
        )
        if any(balance.map for balance in report.balances):
            files[-1]["tables"] = report.tables._asdict()
    complete = not missing and not unreadable and all(report.complete for report in reports)
    failed = [{"file": path, "error": str(error)} for path, error in unreadable]
    return {
        "complete": complete,
        "files": files,
        "problems": missing,
        "removed": removed,
        "unreadable": failed,
    }
