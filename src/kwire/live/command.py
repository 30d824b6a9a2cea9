"""The traced command of `-c`: started, held back until every probe is attached, then let go.

Invariants: the command keeps the user's own privileges (it is forked before kwire gives its own up), or is
another user's and can gain none, when it is run for somebody else; it is never left waiting (when kwire fails
or dies first, the closed pipe ends it without running the command); its process id is known before its first
instruction, so nothing it does is missed; it ends with its trace, and what it has started too, through a
keeper (`kwire.live.keeper`), so that kwire may have given up its privileges meanwhile. A command of the
user's own that has ended by itself leaves behind what it leaves behind.
"""

import contextlib
import errno
import os
import select
import signal

from kwire.errors import KwireError
from kwire.hints import TYPE_CHECKING
from kwire.live.keeper import END, NUMBER, keep

if TYPE_CHECKING:
    from pwd import struct_passwd

_GO = b"g"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where the commands of others are looked for."""

DEFAULTS = (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ)
"""Signals whose default a command has, whatever Python or we have set."""


class CommandError(KwireError):
    """The command of `-c` could not be started."""


def split(text: str) -> list[str]:
    """Split a command line into its words as a shell does; no other part of the shell's language applies."""
    import shlex

    try:
        words = shlex.split(text)
    except ValueError as error:
        raise CommandError("read command", repr(text), str(error).lower(), "close the quotation") from None
    if not words:
        raise CommandError("read command", repr(text), "it is empty", "give a program, as in 'ls -l'")
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


def find(name: str, path: str | None) -> str:
    """The program that a command's first word names, looked for in `path`, directories joined by colons.

    Raises CommandError, with what execve(2) would say.
    """
    problem = errno.ENOENT
    folders = [""] if "/" in name else (path or os.defpath).split(":")
    for folder in folders if name else ():
        program = os.path.join(folder, name)
        if not os.path.isfile(program):
            if os.path.isdir(program) and "/" in name:
                problem = errno.EISDIR
        elif os.access(program, os.X_OK):
            return program
        else:
            problem = errno.EACCES
    raise _unstartable(name, problem)


def _unstartable(name: str, problem: int) -> CommandError:
    cures = {
        errno.ENOENT: "check the name and PATH",
        errno.EACCES: "make it executable, or give its interpreter, as in 'sh SCRIPT'",
        errno.ENOEXEC: "give its interpreter, as in 'sh SCRIPT'",
        errno.E2BIG: "give shorter arguments",
        errno.EAGAIN: "end some processes, or allow more",
    }
    return CommandError("start command", repr(name), os.strerror(problem).lower(), cures.get(problem, ""))


class Command:
    """A forked process that waits for `go()` and then becomes the command.

    `user`: run as that user, from the root directory, in an environment of its own, without input and output;
    then all that it has started ends with the trace, whatever has become of the command. `aside`: its
    standard output is our standard error, because ours is taken. Raises CommandError where there is no such
    program or user; `pid` does where there was no more process for it.
    """

    __slots__ = (
        "_aside",
        "_failure",
        "_gate",
        "_keeper",
        "_known",
        "_orders",
        "_program",
        "_told",
        "status",
        "words",
    )

    def __init__(self, words: list[str], user: str = "", *, aside: bool = False) -> None:
        if not words:
            raise CommandError("start command", "", "it is empty", "give a program, as in ls -l")
        account = _account(user) if user else None
        self._program = find(words[0], DEFAULT_PATH if user else os.environ.get("PATH"))
        self._aside = aside
        self.words = words
        self.status: int | None = None
        gate_read, self._gate = os.pipe2(os.O_CLOEXEC)
        self._failure, failure_write = os.pipe2(os.O_CLOEXEC)
        orders_read, self._orders = os.pipe2(os.O_CLOEXEC)
        self._told, told_write = os.pipe2(os.O_CLOEXEC)
        theirs = (gate_read, failure_write)
        self._known: tuple[int, int] | None = None
        try:
            self._keeper = os.fork()
            if self._keeper == 0:
                keep(lambda: self._become(*theirs, account), orders_read, told_write, theirs, bool(user))
        except OSError as error:
            for fd in (self._gate, self._failure, self._orders, self._told):
                os.close(fd)
            raise _unstartable(words[0], error.errno or 0) from None
        finally:
            for fd in (*theirs, orders_read, told_write):
                os.close(fd)

    @property
    def pid(self) -> int:
        """Its process id. Raises CommandError where there was no more process for it."""
        return self._identity()[0]

    @property
    def pidfd(self) -> int:
        """A descriptor that is readable when it has ended. Raises as `pid`."""
        return self._identity()[1]

    def _identity(self) -> tuple[int, int]:
        self._learn()
        if self._known is None:
            self.close()
            raise _unstartable(self.words[0], errno.EAGAIN)
        return self._known

    def _learn(self) -> None:
        """Hear from the keeper which process it is; waits for that, so it is put off until somebody asks."""
        if self._known is None and self.status is None:
            told = os.read(self._told, NUMBER.size)
            if told:
                [pid] = NUMBER.unpack(told)
                self._known = pid, os.pidfd_open(pid)
            else:
                self.status = signal.SIGKILL

    def _become(self, gate: int, failure: int, account: "struct_passwd | None") -> None:
        """In the child: wait for the gate, then exec. Never returns."""
        try:
            environment = _turn_into(account) if account is not None else dict(os.environ)
            if self._aside:
                os.dup2(2, 1)
            # Ctrl-C is for all of the terminal's processes, this one too while it waits.
            for number in DEFAULTS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            if os.read(gate, 1) != _GO:
                os._exit(127)
            os.execve(self._program, self.words, environment)
        except OSError as error:
            os.write(failure, str(error.errno).encode())
        finally:
            os._exit(127)

    def go(self) -> None:
        """Let the command run. Raises CommandError when it cannot be executed."""
        try:
            os.write(self._gate, _GO)
        except BrokenPipeError:  # it was ended while it waited, as by Ctrl-C, which is for it too
            raise CommandError("start command", repr(self.words[0]), "it was ended before it began") from None
        finally:
            os.close(self._gate)
            self._gate = -1
        report = os.read(self._failure, 16)  # ends when exec closes the other end
        if report:
            self.wait()
            if int(report) == errno.ENOENT:
                cause = "the interpreter in its first line is not there"
                raise CommandError("start command", repr(self.words[0]), cause, "check that line")
            raise _unstartable(self.words[0], int(report))

    def ended(self) -> bool:
        """Whether the command has ended; then `status` is its wait status."""
        self._learn()
        if self.status is None and self._known and select.select([self._known[1]], [], [], 0)[0]:
            self.wait()
        return self.status is not None

    def wait(self) -> None:
        """Wait until the command has ended."""
        self._learn()
        if self.status is None:
            told = os.read(self._told, NUMBER.size)
            self.status = NUMBER.unpack(told)[0] if told else int(signal.SIGKILL)  # with its keeper

    def end(self) -> None:
        """End a command that still runs, with all that it has started: asked as by Ctrl-C, then told; free
        everything.
        """  # fmt: skip
        if self._gate < 0 <= self._orders and not self.ended():
            with contextlib.suppress(BrokenPipeError):
                os.write(self._orders, END)
            self.wait()
        self.close()

    def close(self) -> None:
        """Free everything; a command never let go ends without having run, one that still runs is ended."""
        if self._gate >= 0:
            os.close(self._gate)
            self._gate = -1
            self.wait()
        if self._orders >= 0:
            os.close(self._orders)
            self._orders = -1
            self.wait()
            os.waitpid(self._keeper, 0)
        if self._known and self._known[1] >= 0:
            os.close(self._known[1])
            self._known = self._known[0], -1
        for fd in (self._failure, self._told):
            if fd >= 0:
                os.close(fd)
        self._failure = self._told = -1
