"""What the command line needs of its process: standard streams that are there, signals that end it in order.

Invariants: a standard stream that was closed is no accident waiting: nothing else gets its number, and using
it is an error like any other; what goes to standard error never fails, as nobody could be told; text that the
locale's encoding lacks is written as `\\uXXXX`, which JSON reads back. SIGTERM and SIGHUP unwind what is
being done, so that nothing half-made stays, and then end the process as they would have; who runs us under
nohup keeps us from being ended by SIGHUP. Ctrl-C before the work has begun ends the process at once.
"""

import codecs
import errno
import io
import os
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from kwire import interrupts
from kwire.capture.destination import OutputError
from kwire.hints import Any, Final, TextIO, cast

ESCAPE: Final = "kwire.escape"
_WRONG_WAY: Final = (os.O_WRONLY, os.O_RDONLY, os.O_RDWR)
"""How /dev/null is opened in the place of a closed stream: reading standard input fails, as does writing
standard output; standard error takes everything."""


def run(work: Callable[[], int]) -> int:
    """Do the work of a process of ours, with its streams and signals in order; gives the exit status."""
    quick_end()
    streams()
    try:
        with signals():
            status = work()
            if _came in (signal.SIGTERM, signal.SIGHUP):  # a library has made an error of its own of it
                raise Terminated(_came)
            problem = drain()
            if isinstance(problem, OutputError) and not status:
                sys.stderr.write(f"kwire: {problem}\n")
                status = 1
            return status
    except Terminated as terminated:
        drain()
        end_by(terminated.number)
        return 128 + terminated.number
    except KeyboardInterrupt:
        return 130


_came = 0
"""The signal that has come to end this process; 0: none."""


class Terminated(BaseException):
    """SIGTERM or SIGHUP has come."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def ending_signals() -> tuple[int, ...]:
    """The signals that end a recording in order: SIGHUP unless our caller made us ignore it."""
    hangup = (signal.SIGHUP,) if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else ()
    return (signal.SIGINT, signal.SIGTERM, *hangup)


def quick_end() -> None:
    """Let Ctrl-C end this process at once, without a word: nothing has begun, or all is done."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def signals() -> Iterator[None]:
    """Inside, Ctrl-C raises KeyboardInterrupt, SIGTERM and SIGHUP raise Terminated."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    if signal.getsignal(signal.SIGINT) in (signal.SIG_DFL, signal.default_int_handler):
        signal.signal(signal.SIGINT, _interrupt)
    numbers = [
        number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) == signal.SIG_DFL
    ]
    for number in numbers:
        signal.signal(number, _terminate)
    hook, sys.unraisablehook = sys.unraisablehook, _unraisable
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number in numbers:  # what ended us in order comes again, and ends nobody now
            signal.signal(number, signal.SIG_IGN if interrupts.heard() else signal.SIG_DFL)
        if interrupts.heard():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        else:
            quick_end()


def interrupted() -> bool:
    """Whether a signal has come to end us: what fails then fails because of it, whatever a library says."""
    return bool(_came)


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _came
    if interrupts.echo():  # it must not break off the unwinding
        return
    interrupts.hear()
    _came = number
    raise KeyboardInterrupt


def _terminate(number: int, frame: FrameType | None) -> None:
    global _came
    if interrupts.echo():
        return
    interrupts.hear()
    _came = number
    signal.signal(number, signal.SIG_IGN)  # once: it must not break off the unwinding
    raise Terminated(number)


def _unraisable(failed: "sys.UnraisableHookArgs") -> None:
    """A signal that came while Python cleaned up, where nothing can be raised, comes again right after."""
    if not isinstance(failed.exc_value, (KeyboardInterrupt, Terminated)):
        sys.__unraisablehook__(failed)
        return
    from threading import Thread, get_ident

    interrupts.forget()
    if isinstance(failed.exc_value, Terminated):
        signal.signal(_came, _terminate)
    Thread(target=_repeat, args=(_came, get_ident()), daemon=True).start()


def _repeat(number: int, thread: int) -> None:
    """Send ourselves a signal again once `thread` is out of `_unraisable`, where it would be lost once more;
    and until it is heard: one that comes just before a system call begins does not end that.
    """
    while not interrupts.heard():
        time.sleep(0.01)
        frame = sys._current_frames().get(thread)
        while frame is not None and frame.f_code is not _unraisable.__code__:
            frame = frame.f_back
        if frame is None:
            os.kill(os.getpid(), number)


@contextmanager
def on_signal(call: Callable[[], object]) -> Iterator[None]:
    """Inside, a signal calls this, from a thread: what runs in a library does not let Python look at it."""
    from threading import Thread

    wait, tell = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(tell, False)

    def watch() -> None:
        while os.read(wait, 1):
            call()

    watcher = Thread(target=watch, daemon=True)
    before = signal.set_wakeup_fd(tell)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(tell)
        watcher.join()
        os.close(wait)


def end_by(number: int) -> None:
    """End this process by a signal, so that our caller sees which."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def leave(status: int) -> None:
    """End this process, without what Python does at its end where nobody has asked for that: taking all
    modules and objects apart takes 15 ms. Returns where something is left to be done.
    """
    import atexit

    threading = sys.modules.get("threading")
    if atexit._ncallbacks() or sys.getprofile() or (threading and threading.active_count() > 1):
        return
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, OutputError):
            return  # as it is said by Python
    os._exit(status & 0xFF)


# --- streams


class _Stream(ABC):
    """A standard stream, but for what happens when it cannot be written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    @abstractmethod
    def write(self, text: str) -> int:
        """Write text; how many characters it was."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Output(_Stream):
    """Standard output: a BrokenPipeError where nobody reads it any more, else an OutputError."""

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError) as error:
            raise _unwritable(error) from None

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            raise _unwritable(error) from None


def _unwritable(error: OSError | ValueError) -> OSError | OutputError:
    if isinstance(error, BrokenPipeError):
        return error
    cause = "it is closed"
    if isinstance(error, OSError) and error.errno != errno.EBADF:
        cause = error.strerror or str(error)
    return OutputError("write", "standard output", cause)


class _Mute(_Stream):
    """Standard error: what cannot be written is dropped."""

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


def streams() -> None:
    """Make the three standard streams usable; see the laws."""
    codecs.register_error(ESCAPE, _escape)
    for number, way in enumerate(_WRONG_WAY):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):
                opened = os.open(os.devnull, way)
                if opened != number:
                    os.dup2(opened, number)
                    os.close(opened)
                os.set_inheritable(number, True)
    # Python has no object for a stream that was closed when it started.
    sys.stdin = sys.stdin or _stream(0)
    sys.stdout = sys.stdout or _stream(1)
    sys.stderr = sys.stderr or _stream(2)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=ESCAPE)
    sys.stdout, sys.stderr = cast(TextIO, _Output(sys.stdout)), cast(TextIO, _Mute(sys.stderr))


def _stream(number: int) -> TextIO:
    return open(number, "w" if number else "r", encoding="utf-8", errors="backslashreplace", closefd=False)


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    pairs = zip(units[::2], units[1::2], strict=True)
    return "".join(f"\\u{high:02x}{low:02x}" for high, low in pairs), error.end


def drain() -> OSError | OutputError | None:
    """Write what waits for standard output; where that fails, give the error, and let nothing be written."""
    try:
        sys.stdout.flush()
    except (OSError, OutputError) as error:
        with suppress(OSError):
            null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(null, 1)
            os.close(null)
        return error
    return None
