"""Values as people write them on the command line: sizes and durations with a unit, commands, process ids."""

import argparse

from kwire.errors import KwireError
from kwire.live.command import split

SIZES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
"""Unit letter → bytes."""

DURATIONS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
"""Unit → seconds."""


LEAST = 4096
"""Bytes below which a size without a unit is taken for a mistake: nothing of ours is smaller than a page."""


LEAST_ROTATION = 256 << 10
"""Bytes below which files of a rotation would hold next to nothing: two of the largest packets fit."""


def size(text: str) -> int:
    """Read `4096`, `64K`, `4M`, `1G`, `100B` as bytes; a small number needs its unit."""
    number, unit = _split(text.lower().removesuffix("ib").removesuffix("b"))
    if unit not in SIZES:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write bytes, or 64K, 4M, 1G")
    if text[-1:].isdigit() and number < LEAST:
        raise argparse.ArgumentTypeError(
            f"{text!r} has no unit; write {text}K, {text}M, or {text}B for bytes"
        )
    return int(number * SIZES[unit])


def seconds(text: str) -> float:
    """Read `10`, `0.5`, `250ms`, `30s`, `5m`, `1h` as seconds."""
    number, unit = _split(text.lower())
    if unit and unit not in DURATIONS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration; write seconds, or 250ms, 30s, 5m, 1h")
    return number * DURATIONS[unit or "s"]


def rotation(text: str) -> tuple[int, float]:
    """Read what `--rotate` takes: a size (`100M`) or a duration (`60s`), as (bytes, seconds), one of them 0.

    `m` is minutes, `M` is megabytes; a number without a unit could be either.
    """
    number, time = size_or_time(text)
    if number and number < LEAST_ROTATION:
        raise argparse.ArgumentTypeError(f"{text!r} is too little for a file; write 256K or more")
    return number, time


def size_or_time(text: str) -> tuple[int, float]:
    """Read a size (`100G`) or a duration (`7d`), as (bytes, seconds), one of them 0; `m` is minutes."""
    if text[-1:].isdigit() and _split(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} has no unit; write a size, as {text}M, or a time, as {text}s"
        )
    if text[-1:] == "m" or text.lower().endswith(("s", "h", "d")):
        return 0, seconds(text)
    return size(text), 0.0


def add_clobber(parser: argparse.ArgumentParser) -> None:
    """Add the argument that keeps a file that is there."""
    parser.add_argument(
        "--no-clobber", action="store_true", help="with -w: refuse to replace a file that is there"
    )


def add_limits(parser: argparse.ArgumentParser, default: str, count_help: str) -> None:
    """Add the arguments that say for how long; `default`: what holds without them."""
    limits = parser.add_argument_group(f"how long (default: {default})")
    limits.add_argument("-d", dest="seconds", metavar="TIME", type=seconds, help="so long: 10, 5m")
    limits.add_argument("-n", dest="count", metavar="COUNT", type=count, help=count_help)


def command(text: str) -> list[str]:
    """Read a command line as a shell splits it."""
    try:
        return split(text)
    except KwireError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def text(given: str) -> str:
    """A text that is sent to others: it has to be one."""
    try:
        given.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{given!a} is not in UTF-8") from None
    return given


def count(text: str) -> int:
    """Read a number of events, at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a count of at least 1")
    return int(text)


def process_ids(text: str) -> list[int]:
    """Read process ids separated by commas."""
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a process id, or several separated by commas")
    return [int(part) for part in parts]


def _split(text: str) -> tuple[float, str]:
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    try:
        number = float(digits)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} does not begin with a number") from None
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not more than 0")
    return number, text[len(digits) :]
