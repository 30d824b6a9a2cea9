"""Lines for people on standard error: the one place where they are written.

Invariants: what is said is one line, whatever it quotes (a file's name, a probe, what a capture holds): what
cannot be printed is an escape, made here and nowhere before; a descriptor that could not be had has its cure.
"""

import errno
import os
import sys

from kwire.hints import Final
from kwire.view.text import line

NO_DESCRIPTORS: Final = (os.strerror(errno.EMFILE), os.strerror(errno.ENFILE))
MORE: Final = "allow more with 'ulimit -n', or name fewer probes"


def say(text: str) -> None:
    """Tell people what happened, or what is wrong."""
    tell(f"kwire: {text}")


def tell(text: str) -> None:
    """The same without our name before it: what a verb sums up."""
    if any(cause in text for cause in NO_DESCRIPTORS) and "ulimit -n" not in text:
        text += f"; {MORE}"
    sys.stderr.write(line(text) + "\n")
    sys.stderr.flush()
