"""kwire as an interface in Wireshark's list (extcap): Wireshark runs this, asks questions, lets it capture.

Invariants: the answers are those of Wireshark's extcap interface (man 4 extcap), on standard output; a
capture is `kwire record` into the FIFO that Wireshark names; what is wrong goes to standard error in one
line, which Wireshark shows.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Final, NamedTuple

from kwire.cli.lines import say

INTERFACE: Final = "kwire"
LINKTYPE_USER0: Final = 147


class Option(NamedTuple):
    """One line of the dialog; `record`: the option of kwire record it becomes."""

    name: str
    display: str
    tooltip: str
    record: str


OPTIONS: Final = (
    Option("spec", "More probes", "probe specs as for kwire record, blanks between: kprobe:tcp_connect", ""),
    Option("filter", "Filter", "record only where this is true: uid == 1000", "--filter"),
    Option("command", "Command", "run this command and trace only what it starts", "-c"),
    Option("pid", "Processes", "trace only these processes: 42,43", "-p"),
    Option("buffer", "Ring buffer", "of each CPU: 8M", "--buffer"),
)
PROBES: Final = Option("probes", "Tracepoints", "what to record", "")


def main(argv: Sequence[str] | None = None) -> int:
    """Answer one of Wireshark's questions, or capture; the exit status."""
    parser = argparse.ArgumentParser(prog="kwire extcap", allow_abbrev=False)
    for question in ("interfaces", "dlts", "config"):
        parser.add_argument(f"--extcap-{question}", action="store_true")
    for name in ("version", "interface", "reload-option", "capture-filter"):
        parser.add_argument(f"--extcap-{name}")
    parser.add_argument("--capture", action="store_true")
    parser.add_argument("--fifo")
    for option in (PROBES, *OPTIONS):
        parser.add_argument(f"--{option.name}", default="")
    args, _ = parser.parse_known_args(argv)  # newer Wiresharks ask more
    if args.extcap_interfaces:
        sys.stdout.write(interfaces())
    elif args.extcap_dlts:
        sys.stdout.write(f"dlt {{number={LINKTYPE_USER0}}}{{name=USER0}}{{display=kwire frames}}\n")
    elif args.extcap_config:
        sys.stdout.write(config())
    elif args.capture:
        return _capture(args)
    else:
        parser.error("this is run by Wireshark; 'kwire wireshark install' makes kwire one of its interfaces")
    return 0


def interfaces() -> str:
    """What `--extcap-interfaces` is answered."""
    from kwire import __version__

    return (
        f"extcap {{version={__version__}}}{{display=kwire}}\n"
        f"interface {{value={INTERFACE}}}{{display=kwire: kernel events}}\n"
    )


def config() -> str:
    """What `--extcap-config` is answered: the dialog. Tracepoints where this user can list them."""
    lines = []
    for number, option in enumerate(OPTIONS):
        lines.append(
            f"arg {{number={number}}}{{call=--{option.name}}}{{display={option.display}}}"
            f"{{tooltip={option.tooltip}}}{{type=string}}"
        )
    groups = _tracepoints()
    if groups:
        number = len(OPTIONS)
        lines.append(
            f"arg {{number={number}}}{{call=--{PROBES.name}}}{{display={PROBES.display}}}"
            f"{{tooltip={PROBES.tooltip}}}{{type=multicheck}}"
        )
        for group, names in groups.items():
            start = f"value {{arg={number}}}"
            lines.append(f"{start}{{value={group}}}{{display={group}}}{{enabled=false}}")
            lines += [
                f"{start}{{value=tracepoint:{group}:{name}}}{{display={name}}}{{parent={group}}}"
                for name in names
            ]
    return "".join(f"{line}\n" for line in lines)


def _tracepoints() -> dict[str, list[str]]:
    """Tracepoints by group; empty where they cannot be listed."""
    from kwire.errors import KwireError
    from kwire.kernel.catalog import expand

    groups: dict[str, list[str]] = {}
    try:
        for target in expand("tracepoint", "*:*"):
            groups.setdefault(target.group, []).append(target.name)
    except (KwireError, OSError):
        return {}
    return groups


def record_arguments(args: argparse.Namespace) -> list[str]:
    """The command line of `kwire record` for what was chosen in the dialog."""
    probes = [probe for probe in args.probes.split(",") if ":" in probe] + _words(args.spec)
    chosen = [(option.record, getattr(args, option.name)) for option in OPTIONS if option.record]
    return [*probes, *(word for name, value in chosen if value for word in (name, value)), "-w", "-"]


def _words(specs: str) -> list[str]:
    """Probe specs, at blanks that stand in no parentheses."""
    words, depth, word = [], 0, ""
    for char in specs:
        depth += (char == "(") - (char == ")")
        if char.isspace() and depth <= 0:
            words.append(word)
            word = ""
        else:
            word += char
    return [word for word in [*words, word] if word]


def _capture(args: argparse.Namespace) -> int:
    if not args.fifo:
        say("extcap: --capture needs --fifo")
        return 2
    arguments = record_arguments(args)
    if arguments[0] == "-w":
        say("choose probes in the interface's options")
        return 1
    try:
        fifo = os.open(args.fifo, os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:
        say(f"{args.fifo}: {error.strerror}")
        return 1
    os.dup2(fifo, 1)
    os.close(fifo)
    from kwire.cli.main import main as kwire

    return kwire(["record", *arguments])


if __name__ == "__main__":
    from kwire.cli import process

    raise SystemExit(process.run(main))
