"""`kwire bench`: how fast kwire is here, beside what a network can deliver."""

import argparse
import re
import sys
from typing import TYPE_CHECKING, Any

from kwire import native

if TYPE_CHECKING:
    from kwire.analyze.speed import Speed

HELP = "measure how fast captures are read here"

EXAMPLES = """\
examples:
  kwire bench parse
  kwire bench parse --json
  kwire bench parse --long 10G        also read so much from a pipe, and tell the memory it took

Everything runs on one core, whose processor time counts. Captures of a network are read as the verbs read
them. The ideal one is of the smallest packets, half of them datagrams with one event; the mix is what a tap
sees: 1,000 agents on UDP, 100 on TCP, other traffic, some of it lost or late, checksums left to the card.
BYTES: of a packet on average; OF 10 GbE: of what such a line delivers at most in such packets. Line rates
are those of Ethernet, whose frames take 20 bytes more on the wire.
"""

SUFFIXES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.epilog = EXAMPLES
    parser.add_argument("what", choices=["parse"], help="parse: frames, checksums and captures")
    parser.add_argument("--json", action="store_true", help="print one object")
    parser.add_argument("--packets", metavar="N", type=_count, default=1_000_000, help="of each sample")
    parser.add_argument("--runs", metavar="N", type=_count, default=5, help="of which the best counts")
    parser.add_argument("--long", metavar="BYTES", type=_size, help="read so much from a pipe as well: 10G")


def _count(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= 1 << 30:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+)([KMG]?)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: 500M, 10G")
    return int(match[1]) * SUFFIXES[match[2]]


def run(args: argparse.Namespace) -> int:
    """Measure, and print line by line."""
    from kwire.analyze import speed

    count = max(args.packets // 8 * 8, 8)
    long = speed.long(args.long) if args.long else None  # first, while little memory was ever used
    measured: list[Speed] = []
    if not args.json:
        sys.stdout.write(f"{_walkers()}, one core, best of {args.runs}\n\n")
        sys.stdout.write(f"{'READER':<30} {'A SECOND':>18} {'GB/S':>6} {'BYTES':>7} {'OF 10 GbE':>10}\n")
    for one in speed.measure(count, args.runs):
        measured.append(one)
        if not args.json:
            rate = f"{one.items / 1e6:,.2f} M {one.unit}"
            line = f"{one.size:>7.0f} {one.share:>8.2f} ×" if one.size else ""
            sys.stdout.write(f"{one.name:<30} {rate:>18} {one.bytes / 1e9:>6.2f} {line}".rstrip() + "\n")
            sys.stdout.flush()
    cost = speed.linear(max(count // 4, 8), args.runs)
    if args.json:
        _print_json(measured, cost, long)
        return 0
    sys.stdout.write(f"\na packet of a capture four times as long costs {cost:.2f} times as much\n")
    if long is not None:
        sys.stdout.write(
            f"{long.bytes / 1e9:.1f} GB from a pipe: {long.events:,} events in {long.seconds:.1f} s, "
            f"{long.resident / 1e6:.0f} MB resident at most\n"
        )
    sys.stdout.write("\nline rate, million packets a second\n")
    sys.stdout.write(f"{'BYTES':>8}" + "".join(f"{rate:>7} GbE" for rate in speed.RATES) + "\n")
    for name, size in speed.SIZES.items():
        cells = "".join(f"{speed.line_rate(rate, size) / 1e6:>11.2f}" for rate in speed.RATES)
        sys.stdout.write(f"{name:>8}{cells}\n")
    return 0


def _walkers() -> str:
    return "C walkers" if native.frame_strict is not None else "no C walkers: their Python twins"


def _print_json(measured: "list[Speed]", cost: float, long: Any) -> None:
    import json

    from kwire.analyze import speed

    lines = {
        name: {str(rate): speed.line_rate(rate, size) for rate in speed.RATES}
        for name, size in speed.SIZES.items()
    }
    value: dict[str, Any] = {
        "native": native.frame_strict is not None,
        "readers": [one._asdict() for one in measured],
        "line_rates": lines,
        "cost_ratio": cost,
    }
    if long is not None:
        value["long"] = long._asdict()
    sys.stdout.write(json.dumps(value) + "\n")
