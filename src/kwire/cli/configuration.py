"""Configuration files of `kwire agent` and `kwire collect`: each option of the command line has its key.

Invariants: the keys are the verb's own arguments, so an option cannot lack one; a value is judged by what
judges the option's; what the command line says counts instead of what the file says; a key that is not known,
or a value of another type, is an error with its file and line, before anything is done. The file is in TOML:
an option's key is its name (`spool-size`), texts and numbers are written as on the command line, an option
without a value is `true` or `false`, one that may be given several times takes a list, and `set` may be a
table.
"""

import argparse
import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from kwire import toml
from kwire.errors import KwireError

LEFT_OUT: Final = frozenset({"help", "config", "check", "install", "make_certs"})
"""Arguments that say what to do with a configuration, and those that have nothing to do with one."""

#: Arguments beside which a file is looked for.
_ALONE: Final = frozenset({"config", "check", "install", "verbose", "json"})


def add_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    """Add `--config` and `--check`; `name` is that of the file."""
    group = parser.add_argument_group(
        "configuration", f"Without other arguments {path_of(name)} is read. Each option has its key there."
    )
    group.add_argument(
        "--config", metavar="FILE", help="take options from this file (TOML); read again on SIGHUP"
    )
    group.add_argument(
        "--install",
        metavar="ROOT",
        nargs="?",
        const="/",
        help="install the systemd unit, and a configuration where there is none, and end; ROOT: in an image",
    )
    group.add_argument(
        "--check", action="store_true", help="say whether all that is configured would do, and end"
    )


def path_of(name: str) -> str:
    """Where the file of that name is looked for."""
    return f"/etc/kwire/{name}"


def options(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """The keys, each with its argument: the long name of an option, else what it is called in the program."""
    found: dict[str, argparse.Action] = {}
    for action in parser._actions:
        if action.dest not in LEFT_OUT:
            names = [name[2:] for name in action.option_strings if name.startswith("--")]
            found[names[0] if names else action.dest.replace("_", "-")] = action
    return found


def parse(parser: argparse.ArgumentParser, words: Sequence[str], name: str) -> argparse.Namespace:
    """The arguments `words` with those of a file: that of `--config`, or where there are no others the one at
    its place. `args.reread()` gives them anew, and the keys that are different then. Raises KwireError;
    SystemExit where argparse does.
    """
    given = _given(parser, words)
    path = given.get("config") or ""
    if "install" in given:
        args = argparse.Namespace(**{action.dest: action.default for action in parser._actions})
        vars(args).update(parser._defaults | given | {"reread": None})
        return args
    if not path and not set(given) - _ALONE and (given.get("check") or _there(path_of(name))):
        path = path_of(name)
    if not path:
        args = parser.parse_args(words)
        args.reread = None
        return args

    def read() -> argparse.Namespace:
        return _joined(parser, given, path)

    args = read()

    def reread() -> tuple[argparse.Namespace, list[str]]:
        new = read()
        keys = {action.dest: key for key, action in options(parser).items()}
        return new, [key for dest, key in keys.items() if getattr(new, dest) != getattr(args, dest)]

    args.reread = reread
    return args


def _there(path: str) -> bool:
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # reading it says why not
    return True


def _given(parser: argparse.ArgumentParser, words: Sequence[str]) -> dict[str, Any]:
    """What the command line says, without defaults; nothing is required of it."""
    actions = list(parser._actions)
    defaults = [action.default for action in actions]
    others = dict(parser._defaults)
    groups = [each for each in parser._mutually_exclusive_groups if each.required]
    for action in actions:
        action.default = argparse.SUPPRESS
    parser._defaults.clear()
    for group in groups:
        group.required = False
    try:
        return vars(parser.parse_args(list(words)))
    finally:
        for action, default in zip(actions, defaults, strict=True):
            action.default = default
        parser._defaults.update(others)
        for group in groups:
            group.required = True


def _joined(parser: argparse.ArgumentParser, given: Mapping[str, Any], path: str) -> argparse.Namespace:
    """Defaults, the file's values, those of the command line: the later counts."""
    found = _read(parser, path)
    for group in parser._mutually_exclusive_groups:
        dests = [action.dest for action in group._group_actions]
        if any(dest in given for dest in dests):
            for dest in dests:
                found.pop(dest, None)
    args = argparse.Namespace(**{a.dest: a.default for a in parser._actions if a.dest != "help"})
    for dest, value in {**parser._defaults, **found, **given}.items():
        setattr(args, dest, value)
    if getattr(args, "probes", []) is None:
        args.probes = []
    args.config = path
    for group in parser._mutually_exclusive_groups:
        names = [key for key, one in options(parser).items() if one in group._group_actions]
        if group.required and not any(getattr(args, a.dest) is not None for a in group._group_actions):
            raise KwireError(
                "read configuration", path, f"it has none of {', '.join(names)}", "write one of them"
            )
    return args


def _read(parser: argparse.ArgumentParser, path: str) -> dict[str, Any]:
    """The values of a file, by argument. Raises KwireError with file, line and cure."""
    top, text = toml.read(path, "read configuration")
    known = options(parser)
    values: dict[str, Any] = {}
    for key, value in top.items():
        place = f"{path}:{_line(text, key)}"
        action = known.get(key)
        if action is None:
            raise KwireError("read configuration", place, f"there is no key {key!r}", _hint(key, known))
        try:
            values[action.dest] = _value(action, value)
        except argparse.ArgumentTypeError as error:
            raise KwireError("read configuration", place, f"{key}: {error}") from None
        except KwireError as error:
            raise KwireError("read configuration", place, f"{key}: {error.cause}", error.cure) from None
    for group in parser._mutually_exclusive_groups:
        both = [key for key, one in known.items() if one in group._group_actions and key in top]
        if len(both) > 1:
            place = f"{path}:{_line(text, both[1])}"
            raise KwireError(
                "read configuration", place, f"{' and '.join(both)} exclude each other", "leave one out"
            )
    return values


def _line(text: str, key: str) -> int:
    """The line of a key, or of its table."""
    word = f"(?:{re.escape(key)}|\"{re.escape(key)}\"|'{re.escape(key)}')"
    match = re.search(rf"^[ \t]*(?:{word}[ \t]*[=.]|\[+[ \t]*{word}[ \t]*[\].])", text, re.MULTILINE)
    return text.count("\n", 0, match.start()) + 1 if match else 1


def _hint(key: str, known: Mapping[str, object]) -> str:
    plain = key.replace("_", "-").lower()
    near = [plain] if plain in known else difflib.get_close_matches(plain, known, n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"


def _value(action: argparse.Action, value: object) -> Any:
    """What an argument has by this value. ArgumentTypeError where it is none of its."""
    if action.nargs == 0:
        if isinstance(value, bool):
            return value if action.dest != "verbose" else int(value)
        if action.dest == "verbose" and isinstance(value, int):
            return value
        raise _other("true or false", value)
    if action.dest == "settings" and isinstance(value, dict):
        return [f"{name}={_text(each)}" for name, each in value.items()]
    if action.dest == "command" and isinstance(value, list):
        return [_text(each) for each in value]
    if action.nargs == "*" or type(action).__name__ in ("_AppendAction", "_ExtendAction"):
        found = [_one(action, each) for each in (value if isinstance(value, list) else [value])]
        return [each for some in found for each in some] if action.dest == "pids" else found
    return _one(action, value)


def _one(action: argparse.Action, value: object) -> Any:
    text = _text(value)
    if not text:
        raise argparse.ArgumentTypeError("it is empty")
    found = action.type(text) if callable(action.type) else text
    if action.choices is not None and found not in action.choices:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(map(str, action.choices))}")
    return found


def _text(value: object) -> str:
    if isinstance(value, str):
        if "\0" in value:
            raise argparse.ArgumentTypeError("it has a character NUL")
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise _other("a text, or a number", value)


def _other(wanted: str, value: object) -> argparse.ArgumentTypeError:
    kinds = {
        bool: "true or false",
        dict: "a table",
        list: "a list",
        str: "a text",
        int: "a number",
        float: "a number",
    }
    return argparse.ArgumentTypeError(
        f"it wants {wanted}, not {kinds.get(type(value), type(value).__name__)}"
    )


def markdown(parsers: Mapping[str, argparse.ArgumentParser]) -> str:
    """The table of keys as docs/agents.md has it: each with the verbs that have it."""
    rows = ["| key | option | value | of |", "|---|---|---|---|"]
    verbs: dict[tuple[str, str, str], list[str]] = {}
    for verb, parser in parsers.items():
        for row in _rows(parser):
            verbs.setdefault(row, []).append(verb)
    for (key, option, kind), of in sorted(verbs.items()):
        rows.append(f"| `{key}` | `{option}` | {kind} | {', '.join(of)} |")
    return "\n".join(rows) + "\n"


def _rows(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str, str]]:
    for key, action in options(parser).items():
        option = (
            action.option_strings[-1]
            if action.option_strings
            else str(action.metavar or key).replace("|", " or ")
        )
        several = action.nargs == "*" or type(action).__name__ in ("_AppendAction", "_ExtendAction")
        metavar = str(action.metavar or "").replace("|", " or ")
        kind = "true, false" if action.nargs == 0 else f"a list of {metavar}" if several else metavar
        yield key, option, kind
