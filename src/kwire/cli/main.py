"""The `kwire` command: finds the verb's module, parses its arguments, turns errors into one line.

Invariants: only the module of the verb asked for is imported, because start-up time is what a user sees
first; no traceback reaches a user; the exit status says what happened (`kwire.cli.status`).
"""

import argparse
import errno
import importlib
import os
import re
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

from kwire.cli import process, status
from kwire.cli.lines import say, tell
from kwire.cli.zone import zone
from kwire.errors import KwireError
from kwire.hints import Any, NoReturn, Protocol, cast

VERBS: dict[str, str] = {
    "record": "capture events to a file",
    "trace": "print events as they come",
    "agent": "record here, for a collector elsewhere",
    "collect": "collect the events of agents into captures",
    "show": "print a capture as a table or as JSON",
    "sniff": "show what captures show, live from a network interface",
    "fleet": "set up a broker for many agents and collectors, and see how they are",
    "query": "ask a capture in SQL; without SQL, list its tables",
    "export": "write events as Parquet, Arrow, CSV, NDJSON or a Perfetto trace",
    "stats": "rates, losses, silences and distributions of a capture",
    "merge": "join captures into one, in order of time",
    "split": "write a capture as several: by probe, host, time, size or number of events",
    "cut": "write a range of a capture, some of its probes or events, as a capture",
    "verify": "prove a capture complete, or name every hole",
    "tools": "ready tools: opens, execs, connections, latencies, flame graphs, drops …",
    "list": "list probes with their arguments, and kernel types as C",
    "decode": "explain the bytes of frames",
    "bench": "measure how fast captures are read here",
    "wireshark": "show captures in Wireshark: install the dissector, open a capture",
    "doctor": "say what this kernel, user and environment allow",
    "completion": "complete words of commands in bash, zsh or fish",
}
"""Verb → one line of help. The module is `kwire.cli.<verb>`."""

READING = frozenset({"show", "verify", "query", "export", "stats", "merge", "split", "cut", "decode"})
"""Verbs that read what anybody may have written: they give up all privileges first."""


SCRIPT = "script"
"""The module of what begins with no verb: a script, or the options of one."""

CONDITIONS = ("--filter", "--where")
"""Options whose values are expressions, which may begin with a minus."""


class Verb(Protocol):
    """What every verb's module offers."""

    HELP: str

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's arguments."""

    def run(self, args: argparse.Namespace) -> int:
        """Do the work; return the exit status."""


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help as wide as the terminal; argparse asks shutil for that, which imports compressors."""

    def __init__(self, prog: str) -> None:
        try:
            width = os.get_terminal_size().columns - 2
        except OSError:
            width = 98
        super().__init__(prog, max_help_position=28, width=max(width, 40))


# argparse asks for translations, of which there are none here: finding that out imports `locale`.
vars(argparse)["_"] = str


class _Parser(argparse.ArgumentParser):
    """An argument parser whose complaint is one line and says where help is."""

    def error(self, message: str) -> NoReturn:
        tell(f"{self.prog}: {message}; see '{self.prog} --help'")
        raise SystemExit(2)


def _overview() -> str:
    width = max(map(len, VERBS))
    lines = ["kwire: kernel events on the wire", "", "usage: kwire VERB ...", ""]
    lines += [f"  {verb:<{width}}  {text}" for verb, text in VERBS.items()]
    lines += ["", "'kwire VERB --help' explains a verb; 'kwire --version' prints the version.", ""]
    lines += ["exit status:", *(f"  {number:<3}  {text}" for number, text in status.MEANINGS.items())]
    lines += ["", status.COMMANDS]
    return "\n".join(lines)


def _unknown(verb: str) -> str:
    import difflib

    near = difflib.get_close_matches(verb, VERBS, n=1)
    hint = f"did you mean '{near[0]}'?" if near else "see 'kwire --help'"
    return f"there is no verb '{verb}'; {hint}"


def _is_script(word: str) -> bool:
    """Whether a first word that is no verb is an option, or the file, of a script."""
    return word.startswith("-") or word.endswith(".bt") or os.path.isfile(word)


def _version() -> str:
    from kwire import __version__

    return f"kwire {__version__}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` and return the exit status.

    Without `argv` the process is ours: its arguments are taken, its streams and signals are set up.
    """
    if argv is not None:
        return _run(list(argv), ours=False)
    return process.run(lambda: _run(sys.argv[1:], ours=True))


def _run(args: list[str], *, ours: bool) -> int:
    """Find the verb, run it, turn whatever it raises into one line; `ours`: whether the process is."""
    verbose, name = False, args[0] if args else "help"
    try:
        if name in ("-h", "--help", "help"):
            sys.stdout.write(_overview() + "\n")
            return status.OK if args else status.USAGE
        if name in ("-V", "--version"):
            sys.stdout.write(_version() + "\n")
            return 0
        rest = args[1:]
        if name not in VERBS:
            if not _is_script(name):
                say(_unknown(name))
                return 2
            name, rest = SCRIPT, args
        verb = cast(Verb, importlib.import_module(f"kwire.cli.{name}"))
        if name == "tools" and (tool := cast(Any, verb).chosen(rest)) is not None:
            verb, rest = tool, rest[1:]
            parsed = _parse(f"{name} {args[1]}", verb, rest)
        else:
            parsed = _parse(name, verb, rest)
        verbose = bool(parsed.verbose)
        if name in READING and ours:  # a library's caller keeps what it may do
            from kwire.cli.reading import confine, huge_pages, one_thread

            one_thread()
            huge_pages()
            confine(parsed)
        with zone(parsed):
            outcome = verb.run(parsed)
        sys.stdout.flush()
        return outcome
    except SystemExit as end:  # argparse has said why
        return end.code if isinstance(end.code, int) else 1
    except KwireError as error:
        if process.interrupted():
            return 130
        _complain(error, verbose=verbose)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        process.drain()  # the reader of our output has gone (`| head`): not an error
        return 128 + signal.SIGPIPE
    except MemoryError:
        say(f"{name}: not enough memory; narrow the input or the buffers", "error")
        return 1
    except OSError as error:
        say(_failed(name, error), "error")
        return 1
    except Exception as error:
        if process.interrupted():
            return 130
        _broken(name, error, verbose=verbose)
        return 1


def parser_of(name: str, verb: Verb) -> argparse.ArgumentParser:
    """What knows the verb's arguments."""
    parser = _Parser(prog=f"kwire {name}", description=verb.HELP, formatter_class=_Help)
    parser.add_argument("-v", "--verbose", action="count", default=0, help="explain errors in full detail")
    verb.configure(parser)
    return parser


def _parse(name: str, verb: Verb, words: list[str]) -> argparse.Namespace:
    """The verb's arguments; SystemExit where they make no sense, with the reason on standard error."""
    parser = parser_of(name, verb)
    parser.epilog = f"{(parser.epilog or '').rstrip()}\n\n{status.EPILOG}".lstrip()
    command: list[str] | None = None
    rest: list[str] = []
    if "--" in words and getattr(verb, "COMMAND", False):  # ends our arguments and begins the command
        at = words.index("--")
        command, words = words[at + 1 :], words[:at]
    elif "--" in words and getattr(verb, "REST", False):  # what follows is for the script
        at = words.index("--")
        rest, words = words[at + 1 :], words[:at]
    for before, word in zip(["", *words], words, strict=False):
        if not word or (word.startswith("--") and word.endswith("=")):
            what = word[:-1] or (f"what follows {before}" if before.startswith("-") else "an argument")
            parser.error(f"{what} is empty")
    words = _joined(words)
    mixed = getattr(verb, "INTERMIXED", False)  # an optional argument may stand after options
    if file := getattr(verb, "CONFIGURATION", ""):  # the name of the verb's file of options
        from kwire.cli.configuration import parse

        parsed = parse(parser, words, file)
    else:
        parsed = parser.parse_intermixed_args(words) if mixed else parser.parse_args(words)
    parsed.rest = rest
    if command is not None:
        if parsed.command is not None:
            parser.error("-c and -- both give a command")
        if not command or not command[0]:
            parser.error("no command follows --")
        parsed.command = command
    return parsed


def _joined(words: list[str]) -> list[str]:
    """The words with each value such as -5s or -fd > 9, which argparse takes for an option, joined to its
    option.
    """
    joined: list[str] = []
    for word in words:
        last = joined[-1] if joined else ""
        value = r"-[^-]." if last in CONDITIONS else r"-\.?\d"
        if last.startswith("--") and "=" not in last and re.match(value, word):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _failed(name: str, error: OSError) -> str:
    """What an error of the operating system means, in one line."""
    if error.errno == errno.ENOENT and not error.filename:
        try:
            os.getcwd()
        except FileNotFoundError:
            return f"{name}: the folder that this was started in is gone; change to one that is there"
    what = f" {error.filename}" if error.filename else ""
    return f"{name}{what}: {error.strerror or error}"


def _broken(name: str, error: Exception, *, verbose: bool) -> None:
    """Say that something is wrong with kwire itself, or with how it is installed."""
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("kwire"):
        package = error.name.split(".")[0]
        if package in sys.stdlib_module_names:
            what, cure = f"module {package} of Python itself", "make Python whole, and readable to this user"
        else:
            what, cure = f"Python package {package}", f"install it, as with 'pip install {package}'"
        say(f"{name}: the {what} is not there; {cure}", "error")
        return
    if verbose:
        with suppress(OSError, ImportError):  # perhaps no file can be opened any more
            from traceback import print_exc

            print_exc()
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = ""
    if trace is not None:
        file = trace.tb_frame.f_code.co_filename
        place = f" at {'/'.join(file.split('/')[-3:])}:{trace.tb_lineno}"
    what = f"{type(error).__name__}: {error}"
    say(f"{name}: a fault of kwire itself{place}: {what}; please report what -v prints", "error")


def _complain(error: KwireError, *, verbose: bool) -> None:
    """Say what is wrong: in one line, or in all there is to know of it."""
    if not verbose or error.detail == str(error):
        say(str(error), "error")
        return
    first, *more = error.detail.split("\n")
    say(first, "error")
    for text in more:
        tell(text, "error")


if __name__ == "__main__":
    raise SystemExit(main())
