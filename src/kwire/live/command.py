"""The traced command of `-c`: started, held back until every probe is attached, then let go.

The laws: the command keeps the user's own privileges (it is forked before kwire gives its own up); it is
never left waiting (when kwire fails or dies first, the closed pipe ends it without running the command);
its process id is known before its first instruction, so nothing it does is missed.
"""

import errno
import os
import shlex
import signal
import time

from kwire.errors import KwireError

_GO = b"g"
PATIENCE = 100
"""Hundredths of a second a command has to end when asked."""


class CommandError(KwireError):
    """The command of `-c` could not be started."""


def split(text: str) -> list[str]:
    """Split a command line into its words as a shell does; no other part of the shell's language applies."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise CommandError("read command", repr(text), str(error).lower(), "close the quotation") from None
    if not words:
        raise CommandError("read command", repr(text), "it is empty", "give a program, as in -c 'ls -l'")
    return words


class Command:
    """A forked process that waits for `go()` and then becomes the command."""

    __slots__ = ("_failure", "_gate", "pid", "pidfd", "status", "words")

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self.status: int | None = None
        gate_read, self._gate = os.pipe2(os.O_CLOEXEC)
        self._failure, failure_write = os.pipe2(os.O_CLOEXEC)
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._gate)
            self._become(gate_read, failure_write)
        os.close(gate_read)
        os.close(failure_write)
        self.pidfd = os.pidfd_open(self.pid)

    def _become(self, gate: int, failure: int) -> None:
        """In the child: wait for the gate, then exec. Never returns."""
        try:
            if os.read(gate, 1) != _GO:
                os._exit(127)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)
            os.execvp(self.words[0], self.words)
        except OSError as error:
            os.write(failure, str(error.errno).encode())
        finally:
            os._exit(127)

    def go(self) -> None:
        """Let the command run. Raises CommandError when it cannot be executed."""
        os.write(self._gate, _GO)
        os.close(self._gate)
        self._gate = -1
        report = os.read(self._failure, 16)  # ends when exec closes the other end
        if report:
            self.wait()
            code = int(report)
            cure = "check the name and PATH" if code == errno.ENOENT else ""
            raise CommandError("start command", repr(self.words[0]), os.strerror(code).lower(), cure)

    def ended(self) -> bool:
        """Whether the command has ended; then `status` is its wait status."""
        if self.status is None and self.pidfd >= 0:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = status
        return self.status is not None

    def wait(self) -> None:
        """Wait until the command has ended."""
        if self.status is None:
            self.status = os.waitpid(self.pid, 0)[1]

    def end(self) -> None:
        """End a command that still runs: asked as by Ctrl-C, then told; free everything."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if self._gate < 0 and not self.ended():
                signal.pidfd_send_signal(self.pidfd, number)
                for _ in range(PATIENCE):
                    if self.ended():
                        break
                    time.sleep(0.01)
        self.close()

    def close(self) -> None:
        """Free the descriptors; a command never let go ends without having run."""
        if self._gate >= 0:
            os.close(self._gate)
            self._gate = -1
            self.wait()
        for fd in (self._failure, self.pidfd):
            if fd >= 0:
                os.close(fd)
        self._failure = self.pidfd = -1
