"""`kwire tools`: the tools that come with kwire (`kwire.tools`), listed, explained and run.

A tool is run as its file would be, by `kwire trace FILE.py` or `kwire FILE.bt`, with arguments of its own,
the options of its script among them. Invariants: an argument means the same in all tools that have it;
standard output is the tool's, what its command prints goes to standard error.
"""

import argparse
import os
import sys

from kwire.cli import tracing, values
from kwire.errors import KwireError
from kwire.hints import Any
from kwire.tools import TOOLS, Tool, described

HELP = "tools that are ready to run"

EXAMPLES = """\
examples:
  kwire tools opens -c 'ls -l'
  kwire tools connects -d 10 --filter 'dport == 443'
  kwire tools oncpu -p 4242 -d 10 -f svg > oncpu.svg
  kwire tools tcplife -H web1.example -w web1.pcapng
  kwire tools offcpu --help
"""

ALONE = "run this command beside it, and end with it; or write it at the end, behind --"
ITSELF = "this process and its threads, and what it starts from now on"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the list; those of a tool come with its name (`chosen`)."""
    parser.usage = "kwire tools [NAME [ARGUMENT ...]]"
    parser.epilog = f"tools:\n{_listed()}\n{EXAMPLES}"
    parser.add_argument(
        "tool", metavar="NAME", nargs="?", help="which; 'kwire tools NAME --help' explains it"
    )
    parser.add_argument("--json", action="store_true", help="list them as JSON, an object a line")


def run(args: argparse.Namespace) -> int:
    """List the tools."""
    if args.tool is not None:
        raise _unknown(args.tool)
    if args.json:
        import json

        for name, tool in TOOLS.items():
            print(json.dumps({"name": name, "about": described(tool.text)[0], "file": tool.path}))
        return 0
    sys.stdout.write(f"{_listed()}\n'kwire tools NAME' runs one, 'kwire tools NAME --help' explains it.\n")
    return 0


def chosen(words: list[str]) -> "ToolVerb | None":
    """The tool that is named first, as a verb; None where there is none of this name."""
    return ToolVerb(TOOLS[words[0]]) if words and words[0] in TOOLS else None


def _listed() -> str:
    width = max(map(len, TOOLS))
    return "".join(f"  {name:<{width}}  {described(tool.text)[0]}\n" for name, tool in TOOLS.items())


def _unknown(name: str) -> KwireError:
    """What is said of a name that is no tool's: what such a tool is called here."""
    from difflib import get_close_matches

    for own, tool in TOOLS.items():
        if name.removesuffix(".bt") in tool.known:
            return KwireError("run", f"tool {name}", "it has another name here", f"see 'kwire tools {own}'")
    near = get_close_matches(name, TOOLS, n=1)
    cure = f"did you mean {near[0]}?" if near else "'kwire tools' lists what there is"
    return KwireError("run", f"tool {name}", "there is none of this name", cure)


class ToolVerb:
    """A tool as a verb of the command line (`kwire.cli.main.Verb`)."""

    COMMAND = True

    def __init__(self, tool: Tool) -> None:
        self._tool = tool
        self._text = tool.text
        self._options: dict[str, Any] = {}
        line, about = described(self._text)
        self.HELP = f"{line}.\n\n{about}"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments that mean something to this tool."""
        tool = self._tool
        if tool.scripted:
            self._add_options(parser)
        parser.usage = f"{parser.prog} [OPTION ...] [-- COMMAND ...]"
        parser.epilog = f"The tool is the file {tool.path}: read it, copy it, change it."
        if tool.whom == "nobody":
            tracing.add_whom(parser, ALONE, "")
        elif tool.whom == "own":
            tracing.add_whom(parser, processes=ITSELF)
        else:
            tracing.add_whom(parser)
        parser.set_defaults(buffer=None, count=None, filter=None, rotate=(0, 0.0), no_clobber=False)
        parser.add_argument(
            "-d", dest="seconds", metavar="TIME", type=values.seconds, help="for so long: 10, 5m"
        )
        if not tool.scripted:
            parser.add_argument("-n", dest="count", metavar="COUNT", type=values.count, help="so many events")
            parser.add_argument("--filter", metavar="EXPR", help="only events for which this is true")
        keep = "keep what is seen in a capture, pcapng, too"
        parser.add_argument("-w", dest="write", metavar="FILE", help=keep)
        graphs = ("folded", "svg") if tool.stacks else ()
        parser.add_argument(
            "-f",
            dest="format",
            choices=("text", "json", *graphs),
            default="text",
            help="how to print" + "; folded, svg: as a flame graph" * bool(graphs),
        )
        tracing.add_remote_arguments(parser)

    def _add_options(self, parser: argparse.ArgumentParser) -> None:
        """Add the options that the script itself has, but those that say nothing of themselves."""
        from kwire.lang.bpftrace.options import told
        from kwire.lang.bpftrace.reader import read

        self._options = told(read(self._tool.file, self._text))
        own = parser.add_argument_group("of this tool") if self._options else parser
        for name, (default, about) in self._options.items():
            switch = isinstance(default, bool)
            help = about if switch else f"{about} ({default})"
            if switch:
                own.add_argument(f"--{name}", dest=f"option {name}", action="store_true", help=help)
            else:
                own.add_argument(f"--{name}", dest=f"option {name}", metavar="VALUE", help=help)

    def run(self, args: argparse.Namespace) -> int:
        """Run it."""
        tool = self._tool
        args.everyone = tool.whom != "current" and bool(args.command or args.pids)
        if not tool.scripted:
            from kwire.cli import trace

            args.probes, args.json = [tool.path], args.format == "json"
            return trace.run(args)
        from kwire.cli import script

        if not (args.command or args.pids):
            args.everyone = True  # as of every script
        words = []
        for name in self._options:
            value = vars(args)[f"option {name}"]
            if value is True:
                words.append(f"--{name}")
            elif value:
                words.append(f"--{name}={value}")
        if tool.whom == "own" and args.pids:
            if len(args.pids) > 1:
                raise KwireError("run", "tool", f"it is about one process, not {len(args.pids)}", "name one")
            words.append(f"--pid={args.pids[0]}")
        own = argparse.Namespace(**{**script.DEFAULTS, "aside": True, **vars(args)})
        return script.execute(own, os.path.basename(tool.path), self._text, words)
