"""Tools that are ready to run, `kwire tools NAME`: each a file of probes in Python or a script, made to be
read, too.

Invariants: what a tool does is said once, in its own first comment: a line, and after an empty one what a
user has to know. `TOOLS` has what else is needed to run it.
"""

import os

from kwire.hints import Final, Literal
from kwire.lazy import NamedTuple


class Tool(NamedTuple):
    """A tool. `file`: beside this module; `whom`: how it is about chosen processes, see `WHOM`; `stacks`:
    whether its maps have stacks for flame graphs; `known`: what such a tool is called elsewhere.
    """

    file: str
    whom: Literal["current", "own", "nobody"]
    known: tuple[str, ...] = ()
    stacks: bool = False

    @property
    def path(self) -> str:
        """Its file."""
        return os.path.join(os.path.dirname(__file__), self.file)

    @property
    def scripted(self) -> bool:
        """Whether it is a script in the bpftrace language; otherwise a file of probes in Python."""
        return self.file.endswith(".bt")

    @property
    def text(self) -> str:
        """What it is. Raises OSError."""
        with open(self.path, encoding="utf-8") as file:
            return file.read()


TOOLS: Final[dict[str, Tool]] = {
    "opens": Tool("opens.bt", "current", ("opensnoop",)),
    "execs": Tool("execs.bt", "current", ("execsnoop",)),
    "files": Tool("files.bt", "current", ("fileslower", "ext4slower")),
    "connects": Tool("connects.py", "current", ("tcpconnect",)),
    "accepts": Tool("accepts.py", "current", ("tcpaccept",)),
    "tcplife": Tool("tcplife.bt", "nobody"),
    "retransmits": Tool("retransmits.py", "nobody", ("tcpretrans",)),
    "drops": Tool("drops.py", "nobody", ("tcpdrop", "dropwatch")),
    "syscalls": Tool("syscalls.bt", "current", ("syscount",)),
    "syslat": Tool("syslat.bt", "current"),
    "runqlat": Tool("runqlat.bt", "own"),
    "oncpu": Tool("oncpu.bt", "current", ("profile",), stacks=True),
    "offcpu": Tool("offcpu.bt", "own", ("offcputime",), stacks=True),
    "blocklat": Tool("blocklat.bt", "nobody", ("biolatency", "biosnoop")),
}
"""By name, in the order in which they are listed."""

WHOM: Final = {
    "current": "the programs of the trace look at the current process, as everywhere in kwire",
    "own": "what happens to a process happens while another runs: the script has --pid and `cpid`",
    "nobody": "what happens has nothing to do with the process that runs then",
}


def described(text: str) -> tuple[str, str]:
    """What a tool says of itself: its line, and the rest, paragraphs divided by empty lines."""
    lines = text.splitlines()
    if text.startswith('"""'):
        comment = text[3:].split('"""', 1)[0].splitlines()
    else:
        end = next((at for at, line in enumerate(lines) if not line.startswith("//")), len(lines))
        comment = [line[2:].strip() for line in lines[:end]]
    return comment[0].rstrip("."), "\n".join(comment[1:]).strip()


def markdown() -> str:
    """The tools as a table for people."""
    whose = {"current": "", "own": "one", "nobody": "beside"}
    lines = ["| tool | what it tells | in | processes | known elsewhere as |", "|---|---|---|---|---|"]
    for name, tool in TOOLS.items():
        known = ", ".join(f"`{one}`" for one in tool.known)
        language = "bpftrace" if tool.scripted else "Python"
        lines.append(f"| `{name}` | {described(tool.text)[0]} | {language} | {whose[tool.whom]} | {known} |")
    return "\n".join(lines)
