"""The traced command of `-c`: started, held back until every probe is attached, then let go.

The laws: the command keeps the user's own privileges (it is forked before kwire gives its own up), or is
another user's and can gain none, when it is run for somebody else; it is never left waiting (when kwire fails
or dies first, the closed pipe ends it without running the command); its process id is known before its first
instruction, so nothing it does is missed.
"""

import contextlib
import errno
import os
import shlex
import signal
import time
from typing import TYPE_CHECKING

from kwire.errors import KwireError

if TYPE_CHECKING:
    from pwd import struct_passwd

_GO = b"g"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where the commands of others are looked for."""

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


def _account(user: str) -> "struct_passwd":
    """What the system knows of a user. Raises CommandError."""
    from pwd import getpwnam

    try:
        return getpwnam(user)
    except KeyError:
        raise CommandError("start command", f"as {user}", "there is no such user") from None


def _turn_into(account: "struct_passwd") -> dict[str, str]:
    """Make this process the user's, for good; its environment."""
    from kwire.kernel import privileges

    for name in os.listdir("/proc/self/fd"):  # whatever was opened how: nothing of ours is for others
        with contextlib.suppress(OSError):
            os.set_inheritable(int(name), False)
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nothing, fd)
    if os.geteuid() != account.pw_uid:
        os.setgroups([])
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
    privileges.drop()
    privileges.end_with_parent()
    os.chdir("/")
    home = {"HOME": account.pw_dir, "USER": account.pw_name, "LOGNAME": account.pw_name}
    return {"PATH": DEFAULT_PATH, "LANG": "C.UTF-8", **home}


class Command:
    """A forked process that waits for `go()` and then becomes the command.

    `user`: run as that user, from the root directory, in an environment of its own, without input and output;
    ending it then takes CAP_KILL, and it ends with this process anyhow.
    """

    __slots__ = ("_failure", "_gate", "pid", "pidfd", "status", "words")

    def __init__(self, words: list[str], user: str = "") -> None:
        account = _account(user) if user else None
        self.words = words
        self.status: int | None = None
        gate_read, self._gate = os.pipe2(os.O_CLOEXEC)
        self._failure, failure_write = os.pipe2(os.O_CLOEXEC)
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._gate)
            self._become(gate_read, failure_write, account)
        os.close(gate_read)
        os.close(failure_write)
        self.pidfd = os.pidfd_open(self.pid)

    def _become(self, gate: int, failure: int, account: "struct_passwd | None") -> None:
        """In the child: wait for the gate, then exec. Never returns."""
        try:
            environment = _turn_into(account) if account is not None else os.environ
            if os.read(gate, 1) != _GO:
                os._exit(127)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)
            os.execvpe(self.words[0], self.words, environment)
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
