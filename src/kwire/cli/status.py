"""Exit statuses: one rule for all verbs.

Invariants: a status says the same of every verb (table `MEANINGS`, which README repeats); where several
apply, `worst` decides. What is missing, or there twice, is said on standard error too: a status never tells
alone. What is merely not proven (a recorder that was killed leaves no closing statistics) is told, and a
status of the verbs that are asked for a proof.
"""

from kwire.hints import Final

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
NOT_WHOLE: Final = 3
INTERRUPTED: Final = 130

MEANINGS: Final[dict[int, str]] = {
    OK: "all went well",
    FAILED: "the operation failed, or what was checked is wrong; a line on standard error says why",
    USAGE: "the command line could not be understood",
    NOT_WHOLE: "what was recorded, collected or read is not whole, or holds events twice",
    INTERRUPTED: "interrupted by Ctrl-C; of other signals 128 and the signal's number",
}
"""Exit status → meaning."""

COMMANDS: Final = """\
Of record, trace and agent with a command it is the command's, as a shell gives it, where that is not 0 and
the command ended by itself, unless --no-command-status."""

EPILOG: Final = """\
exit status: 0 all went well, 1 it failed, 2 wrong usage, 3 what was recorded, collected or read is not whole;
'kwire --help' has the table
"""


def worst(*statuses: int) -> int:
    """The one of several statuses that is told: a loss is worse than a failure, and usage than both."""
    return max(statuses, key=_ORDER.index)


_ORDER: Final = (OK, FAILED, NOT_WHOLE, USAGE, INTERRUPTED)


def of_command(status: int | None, own: int, *, wanted: bool = True) -> int:
    """The exit status of what ran a command: the command's where that is not 0 and `wanted`, else our `own`.

    `status`: as a process tells it (a signal is negative); None: the command did not end by itself.
    """
    if status is None or not wanted or not status:
        return own
    return status if status > 0 else 128 - status
