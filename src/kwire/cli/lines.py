"""Lines for people on standard error: the one place where they are written.

Invariants: what is said is one line, whatever it quotes (a file's name, a probe, what a capture holds): what
cannot be printed is an escape, made here and nowhere before; a descriptor that could not be had has its cure.
"""

import errno
import os
import sys

from kwire.hints import TYPE_CHECKING, Final
from kwire.view.text import line

if TYPE_CHECKING:
    from collections.abc import Callable

NO_DESCRIPTORS: Final = (os.strerror(errno.EMFILE), os.strerror(errno.ENFILE))
MORE: Final = "allow more with 'ulimit -n', or name fewer probes"

style: "Callable[[str, str, str], None] | None" = None
"""Who writes instead where lines are no plain text (`kwire.cli.log`): text, event, what stands before it."""


def say(text: str, event: str = "note") -> None:
    """Tell people what happened, or what is wrong. `event`: of `kwire.transport.log_events.EVENTS`."""
    _tell(text, event, "kwire: ")


def tell(text: str, event: str = "summary") -> None:
    """The same without our name before it: what a verb sums up."""
    _tell(text, event, "")


def are_seen() -> bool:
    """Whether somebody looks at all lines as they come, so that progress may be shown between them."""
    return style is None and sys.stderr.isatty()


def _tell(text: str, event: str, prefix: str) -> None:
    if any(cause in text for cause in NO_DESCRIPTORS) and "ulimit -n" not in text:
        text += f"; {MORE}"
    if style is not None:
        style(text, event, prefix)
    else:
        write(prefix + text)


def write(text: str) -> None:
    """Write one line."""
    sys.stderr.write(line(text) + "\n")
    sys.stderr.flush()
