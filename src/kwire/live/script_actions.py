"""What a script asks to be done when what it printed is shown: files shown, commands run, errors told.

These come as events, and are done in their order. Commands and files are this machine's at that moment,
with the rights that tracing has left us; what they gave is part of what is printed, but not of a capture.
"""

import subprocess
import sys

from kwire.hints import Final

SECONDS: Final = 60.0
"""How long a command may take; nothing else is shown meanwhile."""


class Acts:
    """What is done in one run. `most`: bytes of a file that are shown; `warnings`: whether they are told;
    `tells`: whether errors and warnings go to standard error, or are part of what is printed.
    """

    __slots__ = ("_most", "_tells", "_warnings")

    def __init__(self, most: int, *, warnings: bool = True, tells: bool = True) -> None:
        self._most = most
        self._tells = tells
        self._warnings = warnings

    def act(self, what: str, text: str) -> str:
        """Do it; what is printed of it. `what`: one of `wire.printf.PRINTED`; `text`: what it was told."""
        if what == "cat":
            return self._cat(text)
        if what == "system":
            return _system(text)
        if what in ("errorf", "warnf"):
            if not self._tells:
                return text
            if what == "errorf" or self._warnings:
                sys.stdout.flush()
                sys.stderr.write(text)
                sys.stderr.flush()
            return ""
        return ""

    def _cat(self, path: str) -> str:
        try:
            with open(path, "rb") as file:
                return file.read(self._most).decode("utf-8", "backslashreplace")
        except OSError as error:
            return f"<{path}: {(error.strerror or str(error)).lower()}>\n"


def _system(command: str) -> str:
    """What a command of the shell prints, errors too."""
    try:
        run = subprocess.run(
            ["/bin/sh", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        text = (error.output or b"").decode("utf-8", "backslashreplace")
        return f"{text}<{command}: ended after {SECONDS:.0f} s>\n"
    except OSError as error:
        return f"<{command}: {(error.strerror or str(error)).lower()}>\n"
    return run.stdout.decode("utf-8", "backslashreplace")
