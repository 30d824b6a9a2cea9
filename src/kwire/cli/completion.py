"""`kwire completion SHELL`: the script that completes words of our commands in bash, zsh or fish.

The scripts know nothing of the verbs: they ask `kwire completion words -- WORD …`, which answers from the
arguments that the verbs declare. Invariants: an answer is lines, a candidate for the last word each, with a
tab and a description behind where there is one; a line that begins with a colon says what else may stand
there (`Answer.also`), or that a candidate goes on; nothing is attached, and what cannot be found out is left
out in silence, as a shell has no place for complaints.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from kwire.cli.main import SCRIPT, VERBS, Verb, parser_of
from kwire.errors import KwireError
from kwire.hints import Any, Final, cast
from kwire.kinds import FUNCTIONS, KINDS, NANOSECONDS, SPELLINGS, TRACE, USER
from kwire.lazy import NamedTuple

HELP = "print the script that completes words of kwire's commands in a shell"

EPILOG = """\
Verbs, options, values, files by their type, process ids and probes are completed:

  kwire trace kprobe:tcp_conn<Tab>
  kwire -e 'tracepoint:sched:sched_sw<Tab>
  kwire show <Tab>

For this shell only, or as a line of its start-up file (~/.bashrc, ~/.zshrc, ~/.config/fish/config.fish):

  eval "$(kwire completion bash)"
  eval "$(kwire completion zsh)"
  kwire completion fish | source

In zsh, compinit comes first. pip puts the scripts below share of the environment, too: where that is
/usr/local, shells find them without such a line. They ask `kwire completion words -- WORD …`, which prints
what the last WORD may become.
"""

REST = True

MOST: Final = 1000
"""Candidates at most; where there are more, only what they begin with is told."""

CAPTURES: Final = ":files *.pcapng *.pcap *.pcapng.* *.pcap.*"
COMMANDS: Final = ":commands"
FILES: Final = ":files *"
FOLDERS: Final = ":folders"


class Candidate(NamedTuple):
    """What a word may become; `open`: it goes on, so that no blank follows."""

    text: str
    about: str = ""
    open: bool = False


class Answer(NamedTuple):
    """What a word may become. `also`: what else, as a shell itself completes it: `:files PATTERN …`,
    `:folders` or `:commands`.
    """

    candidates: tuple[Candidate, ...] = ()
    also: str = ""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = EPILOG
    parser.usage = "kwire completion [-h] {bash,zsh,fish}"
    parser.add_argument("shell", choices=[*SCRIPTS, "words"], metavar="SHELL", help="bash, zsh or fish")


def run(args: argparse.Namespace) -> int:
    """Print the script, or what the last word may become."""
    if args.shell in SCRIPTS:
        sys.stdout.write(SCRIPTS[args.shell])
        return 0
    with suppress(KwireError, OSError):
        sys.stdout.writelines(f"{one}\n" for one in lines(answer(args.rest or [""])))
    return 0


def lines(found: Answer) -> Iterator[str]:
    """An answer as the scripts read it."""
    if found.also:
        yield found.also
    if any(one.open for one in found.candidates):
        yield ":open"
    for one in found.candidates:
        if one.text.isprintable():
            yield f"{one.text}\t{one.about}" if one.about else one.text


def answer(words: list[str]) -> Answer:
    """What the last of the words behind `kwire` may become."""
    first, last = words[0], words[-1]
    if len(words) == 1 and not last.startswith("-"):
        return _like(last, VERBS.items(), ":files *.bt")
    if "--" in words[:-1] and first in VERBS:
        return Answer(also=COMMANDS if words[-2] == "--" else FILES)
    name = first if first in VERBS else SCRIPT
    verb = cast(Verb, importlib.import_module(f"kwire.cli.{name}"))
    rest = words[1:] if first in VERBS else words
    if name == "tools" and len(rest) > 1 and (tool := cast(Any, verb).chosen(rest)) is not None:
        verb, rest = tool, rest[1:]
    return _of_verb(name, parser_of(name, verb), rest)


def _of_verb(name: str, parser: argparse.ArgumentParser, words: list[str]) -> Answer:
    """What the last of a verb's words may become."""
    options = {option: one for one in parser._actions for option in one.option_strings}
    places = [one for one in parser._actions if not one.option_strings]
    waiting: argparse.Action | None = None
    stood = 0
    for word in words[:-1]:
        if waiting is not None:
            waiting = None
        elif word.startswith("-") and len(word) > 1:
            waiting = _takes(word, options)
        elif stood < len(places) and isinstance(places[stood], argparse._SubParsersAction):
            inner = cast(Any, places[stood]).choices.get(word)
            return Answer() if inner is None else _of_verb(name, inner, words[words.index(word) + 1 :])
        else:
            stood += 1
    last = words[-1]
    if waiting is not None:
        return _value(name, waiting, last)
    if last.startswith("--") and "=" in last:
        option, _, begun = last.partition("=")
        return _within(f"{option}=", _value(name, options[option], begun)) if option in options else Answer()
    if last.startswith("-"):
        told = [(option, one.help or "") for option, one in options.items() if one.help != argparse.SUPPRESS]
        return _like(last, told)
    if name == SCRIPT and "-e" in words[:-1]:
        return Answer()
    if not places or (stood >= len(places) and places[-1].nargs not in ("*", "+")):
        return Answer()
    return _value(name, places[min(stood, len(places) - 1)], last)


def _takes(word: str, options: dict[str, argparse.Action]) -> argparse.Action | None:
    """The option at the end of a word that waits for its value."""
    if word.startswith("--"):
        one = options.get(word)
        return one if one is not None and one.nargs != 0 else None
    for at, letter in enumerate(word[1:], 1):
        one = options.get(f"-{letter}")
        if one is None or one.nargs == 0:
            continue
        return one if at == len(word) - 1 else None
    return None


def _value(name: str, action: argparse.Action, begun: str) -> Answer:
    """What the value of an argument may become."""
    if action.choices is not None:
        about: Any = action.choices
        told = {one.dest: one.help or "" for one in getattr(action, "_choices_actions", ())}
        return _like(begun, [(str(one), told.get(str(one), "")) for one in about])
    if "-w" in action.option_strings or (name in READERS and action.metavar == "FILE"):
        return Answer(also=FOLDERS if action.metavar == "DIR" else CAPTURES)
    find = VALUES.get(f"{name} {action.dest}") or VALUES.get(str(action.metavar))
    return find(begun) if find is not None else Answer()


def _like(begun: str, what: Iterable[tuple[str, str]], also: str = "") -> Answer:
    """Those of what there is, with what is said of them, that begin so."""
    found = (Candidate(text, " ".join(about.split())) for text, about in what if text.startswith(begun))
    return Answer(tuple(found), also)


def _within(head: str, found: Answer) -> Answer:
    """The same behind what stands before."""
    return Answer(tuple(Candidate(head + one.text, one.about, one.open) for one in found.candidates))


# --- kinds of values ---


def _processes(begun: str) -> Answer:
    """Process ids, by what the processes are called; of several with commas between, the last."""
    head, comma, _ = begun.rpartition(",")
    found = []
    for pid in sorted(filter(str.isdecimal, os.listdir("/proc")), key=int):
        with suppress(OSError), open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            found.append((f"{head}{comma}{pid}", file.read().strip()))
    return _like(begun, found)


def _interfaces(begun: str) -> Answer:
    return _like(begun, [(one, "") for one in sorted(os.listdir("/sys/class/net"))])


def _tools(begun: str) -> Answer:
    from kwire.tools import TOOLS, described

    return _like(begun, [(name, described(tool.text)[0]) for name, tool in TOOLS.items()])


def _program(begun: str) -> Answer:
    """The text of a script: its attach points. Behind one that is known stands a condition, or what is done,
    so there are two candidates at least: of one alone bash and fish would close the program's quotes.
    """
    at = max(begun.rfind(one) for one in " ,;}\n") + 1
    slashes = sum(word.count("/") for word in begun[:at].split() if ":" not in word)  # files have some, too
    if begun.count("{") != begun.count("}") or slashes % 2:
        return Answer()
    found = _probes(begun[at:]).candidates
    while (
        len(found) == 1 and found[0].open and (deeper := _probes(found[0].text).candidates) not in ((), found)
    ):
        found = deeper
    if len(found) == 1:
        found = tuple(Candidate(f"{found[0].text} {mark}", found[0].about) for mark in "{/")
    return _within(begun[:at], Answer(tuple(one._replace(open=True) for one in found)))


def _recorded(begun: str) -> Answer:
    """What is recorded: probes, and files of them."""
    return Answer(_probes(begun).candidates, ":files *.py" if ":" not in begun else "")


def _of_agent(begun: str) -> Answer:
    return Answer(_probes(begun).candidates, ":files *.py *.bt" if ":" not in begun else "")


def _probes(begun: str) -> Answer:
    """Probes."""
    if ":" not in begun:
        kinds = [kind for kind in KINDS.values() if kind.name.startswith(begun)]
        return Answer(
            tuple(
                Candidate(kind.name, kind.meaning)
                if kind.name in TRACE
                else Candidate(f"{kind.name}:", kind.meaning, open=True)
                for kind in kinds
            )
        )
    word, _, rest = begun.partition(":")
    kind = SPELLINGS.get(word)
    if kind is None:
        return Answer()
    if kind.name in USER:
        return _within(f"{word}:", Answer(tuple(_in_programs(kind.name, rest))))
    return _within(f"{word}:", Answer(tuple(_shortened(rest, sorted({*_targets(kind.name, rest)})))))


def _targets(kind: str, begun: str) -> Iterable[str]:
    """All targets of a kind that begin so."""
    place = KINDS[kind].place
    if place == "event":
        from kwire.kernel import tracefs

        return (one for one in tracefs.shared().all_events() if one.startswith(begun))
    if place == "timer":
        return (f"{unit}:" for unit in (*NANOSECONDS, "hz") if f"{unit}:".startswith(begun))
    if kind in FUNCTIONS:
        return _functions(begun)
    from kwire.kernel import catalog

    if place in ("raw event", "objects", "signal", "counter"):
        return (str(one).partition(":")[2] for one in catalog.expand(kind, f"{_plain(begun)}*"))
    return ()


def _plain(begun: str) -> str:
    """What is begun, without what a pattern would take for wildcards."""
    return "".join(one for one in begun if one not in "*?[]")


def _functions(begun: str) -> Iterator[str]:
    """Functions of the kernel, from its symbols, which are read much faster than what ftrace lists."""
    import re

    from kwire.kernel.catalog import NO_PROBE
    from kwire.kernel.symbols import kernel_symbols

    module, colon, name = begun.rpartition(":")
    pattern = rb"[tTwW] (" + re.escape(name).encode() + rb"[^\t\n]*)"
    if colon:
        pattern += rb"\t\[" + re.escape(module).encode() + rb"\]"
    return (module + colon + one for one in kernel_symbols().search(pattern) if not NO_PROBE.match(one))


def _in_programs(kind: str, begun: str) -> Iterator[Candidate]:
    """Files, and what there is to probe in one."""
    if ":" in begun:
        from kwire.kernel import catalog

        for target in catalog.expand(kind, f"{_plain(begun)}*")[:MOST]:
            yield Candidate(str(target).partition(":")[2])
        return
    folder = begun[: begun.rfind("/") + 1]
    for entry in os.scandir(folder or "."):
        path = folder + entry.name
        if path.startswith(begun) and ":" not in path:
            with suppress(OSError):
                if entry.is_dir():
                    yield Candidate(f"{path}/", open=True)
                elif os.access(path, os.X_OK) or ".so" in entry.name:
                    yield Candidate(f"{path}:", open=True)


def _shortened(begun: str, names: list[str]) -> list[Candidate]:
    """The names, or, where there are too many, what they begin with: to the next colon or underscore, or by a
    letter; a category alone where nothing of it is begun.
    """
    ends: tuple[str, ...] = (":",) if ":" not in begun and any(":" in one for one in names) else ()
    for marks in (ends, (*ends, "_")) if len(names) > MOST or ends else ((),):
        found = _cut(begun, names, marks)
        if len(found) <= MOST:
            return found
    letters = sorted({one[: len(begun) + 1] for one in names})
    return [Candidate(one, open=True) for one in letters]


def _cut(begun: str, names: list[str], marks: tuple[str, ...]) -> list[Candidate]:
    """The names, each once, cut behind the first of the marks after what is begun."""
    found: dict[str, Candidate] = {}
    for one in names:
        at = min((i for mark in marks if (i := one.find(mark, len(begun))) >= 0), default=-1)
        goes_on = 0 <= at < len(one) - 1 or one.endswith(":")
        text = one[: at + 1] if goes_on and at >= 0 else one
        found.setdefault(text, Candidate(text, open=goes_on))
    return list(found.values())


READERS: Final = ("show", "verify")
"""Verbs whose FILE is a capture."""

VALUES: Final[dict[str, Callable[[str], Answer]]] = {
    "list pattern": _probes,
    "tools tool": _tools,
    "agent probes": _of_agent,
    "PROBE|FILE.py": _recorded,
    "PROGRAM": _program,
    "FILE|ARGUMENT": lambda begun: Answer(also=":files *.bt"),
    "CAPTURE": lambda begun: Answer(also=CAPTURES),
    "CAPTURE… [SQL]": lambda begun: Answer(also=CAPTURES),
    "OUT": lambda begun: Answer(also=CAPTURES),
    "FILE": lambda begun: Answer(also=FILES),
    "HEX|FILE": lambda begun: Answer(also=FILES),
    "DIR": lambda begun: Answer(also=FOLDERS),
    "COMMAND": lambda begun: Answer(also=COMMANDS),
    "'COMMAND ARGS'": lambda begun: Answer(also=COMMANDS),
    "PID": _processes,
    "PID[,PID]": _processes,
    "IFACE": _interfaces,
}
"""What finds the values of an argument: by its verb and name, or by what stands for it in the help."""


# --- the scripts ---

BASH: Final = r"""# bash completion of kwire; made by `kwire completion bash`
_kwire() {
    local line=${COMP_LINE:0:COMP_POINT} words=() rest word i
    for ((i = 0; i <= COMP_CWORD; i++)); do  # bash splits at colons, too; what no blank parts is one word
        rest=${line#"${line%%[![:space:]]*}"}
        word=${COMP_WORDS[i]}
        ((i == COMP_CWORD)) && word=$rest
        if ((i == 0)) || [[ $rest != "$line" ]]; then words+=("$word"); else words[-1]+=$word; fi
        line=${rest#"$word"}
    done
    local last=${words[-1]} quote='' cut=''
    case $last in
        \'* | \"*) quote=${last:0:1} last=${last:1} ;;
        *[:=]*) cut=${last%"${last##*[:=]}"} ;;  # what bash does not replace
    esac
    local asked=("${words[@]:1}") text about
    asked[-1]=$last
    for ((i = 0; i < ${#asked[@]} - 1; i++)); do
        case ${asked[i]} in \'*\' | \"*\") asked[i]=${asked[i]:1:${#asked[i]}-2} ;; esac
    done
    COMPREPLY=()
    while IFS=$'\t' read -r text about; do
        case $text in
            :open) compopt -o nospace ;;
            :folders) compopt -o filenames; _kwire_add "$last" -d ;;
            :commands) _kwire_add "$last" -c; compopt -o filenames; _kwire_add "$last" -f ;;
            :files*)
                compopt -o filenames
                _kwire_add "$last" -d
                set -f
                for about in ${text#:files}; do _kwire_add "$last" -f -X "!$about"; done
                set +f ;;
            *) COMPREPLY+=("${text#"$cut"}") ;;
        esac
    done < <("${words[0]/#\~/$HOME}" completion words -- "${asked[@]}" 2>/dev/null)
}
_kwire_add() {
    local one
    while IFS= read -r one; do
        [[ " ${COMPREPLY[*]} " == *" $one "* ]] || COMPREPLY+=("$one")
    done < <(compgen "${@:2}" -- "$1")
}
complete -F _kwire kwire
"""

ZSH: Final = r"""#compdef kwire
# zsh completion of kwire; made by `kwire completion zsh`
_kwire() {
    local line text found=1
    local -a asked texts shown ending
    asked=("${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}")
    while IFS= read -r line; do
        text=${line%%$'\t'*}
        case $text in
            :open) ending=(-S '') ;;
            :folders) _files -/ && found=0 ;;
            :commands) _command_names -e && found=0; _files && found=0 ;;
            :files*) _files -g "${text#:files }" && found=0 ;;
            *)
                texts+=("$text")
                shown+=("${line/$'\t'/  -- }") ;;
        esac
    done < <("${(Q)words[1]/#\~/$HOME}" completion words -- "${asked[@]}" 2>/dev/null)
    (($#texts)) && compadd "${ending[@]}" -l -d shown -a texts && found=0
    return found
}
if [[ $funcstack[1] == _kwire ]]; then _kwire "$@"; else compdef _kwire kwire; fi
"""

FISH: Final = r"""# fish completion of kwire; made by `kwire completion fish`
function __kwire_complete
    set -l words (commandline -opc)
    set -l last (commandline -ct | string unescape; or commandline -ct)
    set last (string replace -r '^[\'"]' '' -- "$last")
    for line in ($words[1] completion words -- $words[2..-1] "$last" 2>/dev/null)
        switch $line
            case :open
            case :folders
                __fish_complete_directories "$last" ''
            case :commands
                __fish_complete_command
            case ':files *'
                set -l kinds (string split ' ' -- (string replace ':files ' '' -- $line))
                for path in (__fish_complete_path "$last" '' | string split -f 1 \t)
                    if string match -q '*/' -- $path
                        echo $path
                    else
                        for kind in $kinds
                            string match -q -- $kind $path; and echo $path; and break
                        end
                    end
                end
            case '*'
                echo $line
        end
    end
end
complete -c kwire -f -a '(__kwire_complete)'
"""

SCRIPTS: Final = {"bash": BASH, "zsh": ZSH, "fish": FISH}
"""Shell → its script."""

PLACES: Final = {
    "bash": "share/bash-completion/completions/kwire",
    "zsh": "share/zsh/site-functions/_kwire",
    "fish": "share/fish/vendor_completions.d/kwire.fish",
}
"""Shell → where it looks for the script, in an environment."""
