"""The manual pages, made of the arguments that the verbs declare: `kwire(1)` with the options of scripts, and
one page a verb. They are written when a package is built (setup.py), so they say what `--help` says.

Invariants: the pages are of the macros `man`, which man-db, groff and mandoc read without a warning; they
depend on nothing but the code, so that the same code gives the same pages.
"""

import argparse
import importlib
import textwrap
from collections.abc import Iterable, Iterator

from kwire import __version__
from kwire.cli import status
from kwire.cli.main import SCRIPT, VERBS, Verb, parser_of
from kwire.hints import Final, cast

ABOUT: Final = "kernel events on the wire: kprobes, tracepoints and bpftrace scripts, recorded and proven"

HOME: Final = """\
kwire traces the kernel and its programs with eBPF that it compiles itself. What a probe sees becomes a packet
at once; it stays that packet on the screen, in a capture (pcapng), and on the way to another machine.
Every event arrives once, or is counted as lost.

Without a verb kwire runs a script in the bpftrace language: the text behind -e, or a file."""

WIDTH: Final = 76

ENVIRONMENT: Final = {
    "KWIRE_TLS": "the folder of certificates, before ~/.config/kwire and /etc/kwire",
    "XDG_CACHE_HOME": "where tables of the kernel's types are kept, in the folder kwire of it; otherwise "
    "/var/cache/kwire for root and ~/.cache/kwire for others",
    "BPFTRACE_NAME": "a setting of scripts, as BPFTRACE_MAX_STRLEN=200",
}
"""Variable → what it is for."""


def pages() -> dict[str, str]:
    """Every page, by the name of its file."""
    made = {"kwire.1": _first()}
    for name in VERBS:
        made[f"kwire-{name}.1"] = _of_verb(name)
    return made


def _first() -> str:
    """kwire(1)."""
    parser = _parser(SCRIPT)
    lines = [*_head("kwire", ABOUT), ".SH SYNOPSIS"]
    for at, synopsis in enumerate(["kwire VERB [ARGUMENT ...]", *_usages(parser)]):
        lines += [".br"] * bool(at) + [f".B {_code(synopsis)}"]
    lines += [".SH DESCRIPTION", *_paragraphs(HOME), ".SH VERBS"]
    for verb, about in VERBS.items():
        lines += [".TP", f".BR {_code(f'kwire-{verb}')} (1)", _text(about)]
    lines += [*_arguments(parser, "OPTIONS OF SCRIPTS"), *_behind(parser), ".SH ENVIRONMENT"]
    for name, about in ENVIRONMENT.items():
        lines += [".TP", f".B {_code(name)}", _text(about)]
    lines += [*_statuses(), *_see(f"kwire-{verb}" for verb in VERBS)]
    return "\n".join(lines) + "\n"


def _of_verb(name: str) -> str:
    """The page of a verb."""
    parser = _parser(name)
    lines = [*_head(f"kwire-{name}", VERBS[name]), ".SH SYNOPSIS"]
    for at, synopsis in enumerate(_usages(parser)):
        lines += [".br"] * bool(at) + [f".B {_code(synopsis)}"]
    lines += [
        ".SH DESCRIPTION",
        *_paragraphs(_sentence(parser.description or "")),
        *_arguments(parser, "OPTIONS"),
    ]
    lines += [*_behind(parser), *_statuses(), *_see(["kwire"])]
    return "\n".join(lines) + "\n"


def _parser(name: str) -> argparse.ArgumentParser:
    return parser_of(name, cast(Verb, importlib.import_module(f"kwire.cli.{name}")))


def _head(name: str, about: str) -> list[str]:
    title = f'.TH {_code(name.upper())} 1 "" "kwire {__version__}" "User Commands"'
    return [title, ".SH NAME", f"{_code(name)} \\- {_line(about)}"]


def _usages(parser: argparse.ArgumentParser) -> list[str]:
    """How it is written, each way in one line."""
    if parser.usage:
        return [" ".join(line.split()) for line in parser.usage.splitlines()]
    formatter = parser._get_formatter()
    words = [parser.prog, "[OPTION ...]"]
    for action in parser._actions:
        if not action.option_strings:
            words.append(formatter._format_args(action, action.dest))
    return [" ".join(words)]


def _arguments(parser: argparse.ArgumentParser, title: str) -> Iterator[str]:
    """What stands on the command line, in the groups of the help."""
    heads = {"positional arguments": "ARGUMENTS", "options": title}
    for group in parser._action_groups:
        actions = [one for one in group._group_actions if one.help != argparse.SUPPRESS]
        if not actions:
            continue
        known = heads.get(group.title or "")
        yield f".SH {known}" if known else f".SS {_line(group.title or '')}"
        if group.description:
            yield from _paragraphs(group.description)
        for action in actions:
            yield from _argument(parser, action)


def _argument(parser: argparse.ArgumentParser, action: argparse.Action) -> Iterator[str]:
    formatter = parser._get_formatter()
    if isinstance(action, argparse._SubParsersAction):
        for one in action._choices_actions:
            inner = action.choices[one.dest]
            words = [
                formatter._format_args(each, each.dest) for each in inner._actions if not each.option_strings
            ]
            yield from (".TP", f".B {_code(' '.join([one.dest, *words]))}", _text(_sentence(one.help or "")))
        return
    if action.option_strings:
        value = "" if action.nargs == 0 else formatter._format_args(action, action.dest.upper())
        names = ", ".join(f"\\fB{_code(option)}\\fR" for option in action.option_strings)
        yield from (".TP", names + f" \\fI{_code(value)}\\fR" * bool(value))
    else:
        choices = "|".join(map(str, action.choices or ()))
        yield from (".TP", f"\\fI{_code(str(action.metavar or choices or action.dest))}\\fR")
    yield _text(formatter._expand_help(action)) if action.help else "\\&"


def _behind(parser: argparse.ArgumentParser) -> Iterator[str]:
    """What follows the arguments in the help: examples, and what there is to say."""
    notes: list[str] = []
    examples: list[str] = []
    for paragraph in (parser.epilog or "").strip("\n").split("\n\n"):
        first, *rest = paragraph.split("\n")
        if rest and first.endswith(":") and all(line.startswith("  ") for line in rest):
            examples += [f".SH {_line(first[:-1].upper())}", *_verbatim(rest)]
        elif paragraph.strip():
            lines = _verbatim(paragraph.split("\n")) if paragraph.startswith("  ") else [_text(paragraph)]
            notes += [".PP"] * bool(notes) + lines
    if notes:
        yield ".SH NOTES"
        yield from notes
    yield from examples


def _verbatim(lines: Iterable[str]) -> list[str]:
    return [".RS 4", ".nf", *(_code(line.strip()) for line in lines), ".fi", ".RE"]


def _statuses() -> Iterator[str]:
    yield ".SH EXIT STATUS"
    for number, meaning in status.MEANINGS.items():
        yield from (".TP", f".B {number}", _text(_sentence(meaning)))
    yield from _paragraphs(status.COMMANDS)


def _see(names: Iterable[str]) -> list[str]:
    lines = [f".BR {_code(name)} (1)" for name in names]
    return [".SH SEE ALSO", *(f"{line}," for line in lines[:-1]), lines[-1]]


def _sentence(text: str) -> str:
    """A text that begins with a capital, and ends with a full stop, as in a page."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text[-1:] in ".:" else ".")


def _paragraphs(text: str) -> list[str]:
    lines: list[str] = []
    for paragraph in text.strip().split("\n\n"):
        lines += [".PP"] * bool(lines) + [_text(paragraph)]
    return lines


def _text(text: str) -> str:
    """Running text, in lines of a terminal's width."""
    lines = textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)
    return "\n".join(map(_plain, lines))


def _line(text: str) -> str:
    """A text that has to stand on one line."""
    return _plain(" ".join(text.split()))


def _code(text: str) -> str:
    """What is typed: its minus signs are those of the keyboard."""
    return "".join(TYPED.get(one, one) for one in _plain(text))


TYPED: Final = {"-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti"}
"""Characters that roff would set as others, such as a hyphen or a curved quote."""


def _plain(text: str) -> str:
    """A text without anything that roff reads as its own."""
    text = text.replace("\\", "\\e")
    text = "".join(one if one.isascii() else f"\\[u{ord(one):04X}]" for one in text)
    return f"\\&{text}" if text[:1] in (".", "'") else text
