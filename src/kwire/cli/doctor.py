"""`kwire doctor`: what this kernel, this user and this environment allow, tried out, one line each.

Invariants: every line is the result of a trial, never of a version; what is missing has a reason and, where
there is one, a cure; the exit status is 0 when tracing can work. It runs for any user and never ends in a
traceback.
"""

import argparse
import os
import sys

from kwire.kernel import features

HELP = "say what this kernel, user and environment allow"

_MARKS = {"yes": "yes", "no": "no ", "unknown": "?  "}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.description = (
        "Try what tracing needs, one line each: yes, no or ? (could not be told), why, and what to do. "
        "The exit status is 0 when tracing can work."
    )
    parser.add_argument("--json", action="store_true", help="one JSON object: ok, kernel, checks")


def run(args: argparse.Namespace) -> int:
    """Probe everything and print it; 0 when tracing can work."""
    checks = [(feature, features.probe(name)) for name, feature in features.FEATURES.items()]
    works = features.can_trace()
    kernel = f"{os.uname().sysname} {os.uname().release} {os.uname().machine}"
    if args.json:
        import json

        rows = [
            {"name": feature.name, "answer": found.answer, "reason": found.reason, "cure": found.cure}
            for feature, found in checks
        ]
        print(json.dumps({"ok": works, "kernel": kernel, "checks": rows}))
        return 0 if works else 1
    print(kernel)
    width = max(len(feature.name) for feature, _ in checks)
    for feature, found in checks:
        why = f"{feature.meaning}: {found.reason}" if found.reason else feature.meaning
        cure = f"  → {found.cure}" if found.cure and found.answer != "yes" else ""
        print(f"{_MARKS[found.answer]}  {feature.name:<{width}}  {why}{cure}")
    if works:
        usable = ", ".join(name for name in features.PROBES if features.probe(name).answer == "yes")
        print(f"tracing works here: {usable}")
    else:
        print(f"tracing does not work here: {_obstacle()}")
    sys.stdout.flush()
    return 0 if works else 1


def _obstacle() -> str:
    """The first thing in the way."""
    for name in ("privileges", *features.BASE, *features.PROBES):
        found = features.probe(name)
        if found.answer != "yes":
            why = found.reason or features.FEATURES[name].meaning
            return f"{why}; {found.cure}" if found.cure else why
    return "nothing to probe was found"
