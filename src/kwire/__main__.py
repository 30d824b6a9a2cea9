"""The command line as a program: `kwire`, and `python -m kwire`.

What stands between the start of Python and the first line of a command is here: nothing is imported but what
Python has loaded anyway, until it is known that there is more to do than to tell the version; and the process
that plans a trace begins before anything is imported that it does not need.
"""

import _signal  # type: ignore[import-not-found]  # `signal` makes enumerations of all its numbers
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

GARBAGE = 100_000
"""Objects that may be made before Python looks for cycles of them that nobody has any more. At its own 700 it
looks 100 times while a command starts, which makes 30,000 that stay: 6 ms.
"""

UNPLANNED = frozenset({"-h", "--help", "-V", "--version", "--info", "-l", "-lv", "-vl", "--list", "-H"})
"""Words with which nothing is planned here."""


def main() -> int:
    """Run the command line of this process; Ctrl-C before it has begun ends it at once, without a word."""
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    if sys.argv[1:] in (["--version"], ["-V"]) and _tell_version():
        return 0
    import gc

    gc.set_threshold(GARBAGE)
    _plan_beside(sys.argv[1:])
    from kwire.cli.main import main as command

    return command()


def _plan_beside(words: "list[str]") -> None:
    """Begin the process that plans (`live.plan_process`) where these words most likely want a plan: it
    imports the compiler while this one reads its arguments. Where they want none, it ends with us.
    """
    first = words[0] if words else ""
    ours = words[: words.index("--")] if "--" in words else words
    if UNPLANNED.intersection(ours):
        return
    if first in ("record", "trace"):
        module = "kwire.live.planner"
    elif (first == "tools" and len(words) > 1) or first[:1] == "-" or first.endswith(".bt") or "/" in first:
        import re  # noqa: F401  # both will use it

        module = "kwire.live.scripts"
    else:
        return
    from kwire.live.plan_process import begin

    begin(module)


def run() -> "NoReturn":
    """Be the command line, and end this process."""
    status = main()
    if "kwire.cli.process" in sys.modules:
        from kwire.cli.process import leave

        leave(status)
    raise SystemExit(status)


def _tell_version() -> bool:
    """Whether it could be told; where not, the command line says why not."""
    from kwire import __version__

    try:
        sys.stdout.write(f"kwire {__version__}\n")
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError):  # closed, or nobody reads
        return False
    return True


if __name__ == "__main__":
    run()
