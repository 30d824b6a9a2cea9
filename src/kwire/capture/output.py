"""Where a capture's bytes go: a file with room kept for its ending, or a pipe.

Invariants: `reserve` bytes beyond the position stay writable whatever happens to the disk, so that an ending
always fits; what was written before `position` is whole; `close` cuts a file back to it, so half a block is
never left. Room is kept by allocating blocks beyond the end of the file (they vanish at close), where the
file system cannot do that by zeros written ahead. A pipe, or a file open for appending, has no reserve. A
file that is `kept` is looked at before and after each write: what was deleted, or cut by others, is a
GoneError, and one that was cut while it was written to is left as they cut it.
"""

import ctypes
import errno
import functools
import os
import select
import stat
from collections.abc import Callable

from kwire.capture.destination import FULL, Destination, NoRoomError, OutputError
from kwire.errors import KwireError
from kwire.hints import Final
from kwire.words import plural

STEP: Final = 4 << 20  # bytes allocated at a time, at most; a file that is small as yet gets less
FIRST_STEP: Final = 64 << 10
_PIECE: Final = 1 << 20  # bytes read at once
_UNSUPPORTED: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM})
_KEEP_SIZE: Final = 1  # FALLOC_FL_KEEP_SIZE


class CaptureError(KwireError):
    """A capture that cannot be written or read."""


class FullError(CaptureError):
    """The disk, or a size limit, has no room."""


class GoneError(CaptureError):
    """A file is not there any more as it was written."""


def _as_ours(error: OutputError) -> CaptureError:
    """The same error, of a capture."""
    kind = FullError if isinstance(error, NoRoomError) else CaptureError
    return kind(error.operation, error.subject, error.cause, error.cure)


@functools.cache
def _fallocate() -> Callable[[int, int, int, int], int]:
    """fallocate(2); to look it up takes longer than to call it."""
    call = ctypes.CDLL(None, use_errno=True).fallocate
    call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return call


def _allocate(fd: int, offset: int, length: int) -> int:
    """fallocate(2) beyond the end without changing the size: 0 or the errno."""
    while _fallocate()(fd, _KEEP_SIZE, offset, length):
        error = ctypes.get_errno()
        if error != errno.EINTR:
            return error
    return 0


class Output:
    """An open target: a name, as Destination takes it, or a descriptor.

    A regular file has its place from `publish` on. A descriptor is written from where it stands and not
    closed. `kept`: what was written to a regular file before must still be there. Raises CaptureError where
    the target cannot be opened or is a terminal.
    """

    __slots__ = (
        "_allocated",
        "_appends",
        "_can_allocate",
        "_destination",
        "_limit",
        "_owned",
        "_tail",
        "fd",
        "kept",
        "name",
        "position",
        "reserve",
        "seekable",
    )

    def __init__(self, target: str | int, reserve: int, *, clobber: bool = True, kept: bool = False) -> None:
        self.name = str(target) if isinstance(target, str) else f"descriptor {target}"
        self._destination: Destination | None = None
        try:
            if isinstance(target, str):
                self._destination = Destination(target, clobber=clobber)
                self.name = self._destination.name
            self._owned = self._destination is not None
            self.fd = self._destination.fd if self._destination else int(target)
            status = os.fstat(self.fd)
        except OutputError as error:
            raise _as_ours(error) from None
        except OSError as error:
            raise CaptureError("open for writing", self.name, error.strerror or "failed") from None
        if os.isatty(self.fd):
            self._let_go()
            raise CaptureError(
                "write", self.name, "a capture is not for a terminal", "name a file, or pipe it somewhere"
            )
        regular = stat.S_ISREG(status.st_mode)
        foreign = self._destination is None or self._destination.foreign
        self._appends = regular and foreign and _appends(self.fd)
        self.seekable = regular and not self._appends
        self.position = status.st_size if self._appends else 0
        if self.seekable:
            self.position = os.lseek(self.fd, 0, os.SEEK_CUR)
        self.kept = kept and self.seekable
        self.reserve = reserve if self.seekable else 0
        self._tail = 0  # of a file that is kept, the last four bytes before the position; 0: not known
        self._allocated = self.position
        self._can_allocate = self.seekable
        self._limit = _size_limit() if regular else None

    @classmethod
    def again(cls, path: str, position: int, reserve: int, tail: int = 0) -> "Output":
        """Open a file that was written before, cut to `position`, to go on there; it is kept.

        `tail`: what `Output.tail` was there; 0 where that is not known. Raises GoneError where the file is
        not that one any more, CaptureError where it cannot be opened.
        """
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                size = os.fstat(fd).st_size
                if size < position:
                    raise GoneError(
                        "go on writing", path, f"it has {plural(size, 'byte')}, {position} were written"
                    )
                if tail and _word(fd, position) != tail:
                    raise GoneError("go on writing", path, "it is not what was written")
                os.ftruncate(fd, position)
                os.lseek(fd, position, os.SEEK_SET)
                output = cls(fd, reserve, kept=True)
                output.name, output._tail = path, tail
                output.check()  # it may have been cut just now
            except BaseException:
                os.close(fd)
                raise
        except FileNotFoundError:
            raise GoneError("go on writing", path, "it is not there any more") from None
        except OSError as error:
            raise CaptureError("open for writing", path, error.strerror or "failed") from None
        output._owned = True
        return output

    def tail(self) -> int:
        """The last four bytes before the position, as a number: the length of a block, never 0."""
        try:
            return _word(self.fd, self.position)
        except OSError as error:
            raise CaptureError("read", self.name, error.strerror or "failed") from None

    def moved(self) -> bool:
        """Whether the file still exists, but not at its path."""
        try:
            here = os.stat(self.name)
        except OSError:
            return os.fstat(self.fd).st_nlink > 0
        there = os.fstat(self.fd)
        return (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino) and there.st_nlink > 0

    def check(self) -> None:
        """GoneError where a file that is kept was deleted, or has not got what was written to it."""
        if not self.kept:
            return
        status = os.fstat(self.fd)
        if not status.st_nlink:
            raise GoneError("write", self.name, "it was deleted")
        if status.st_size < self.position:
            raise GoneError("write", self.name, f"it was cut to {plural(status.st_size, 'byte')}")
        self._see_tail(self.position)

    def _see_tail(self, position: int) -> None:
        """GoneError where the bytes before `position`, the last ones known, are others. Where they are zeros
        the file was cut, and we made it long again since: that is undone.
        """
        if not self._tail:
            return
        try:
            word = _word(self.fd, position)
            if word == self._tail:
                return
            if not word:
                os.ftruncate(self.fd, _without_zeros(self.fd, position))
        except OSError as error:
            raise CaptureError("write", self.name, error.strerror or "failed") from None
        raise GoneError("write", self.name, "it was cut")

    def room(self, size: int) -> bool:
        """Make sure that `size` bytes and the reserve fit; False means the disk, or a size limit, is full.

        Where the file system cannot promise, the answer is True and `write` finds out.
        """
        need = self.position + size + self.reserve
        if self._limit is not None and need > self._limit:
            return False
        if need <= self._allocated or not self._can_allocate:
            return True
        step = min(STEP, max(FIRST_STEP, self.position))
        for target in (need + step, need):
            error = _allocate(self.fd, self._allocated, target - self._allocated)
            if not error:
                self._allocated = target
                return True
            if error in _UNSUPPORTED:
                self._can_allocate = False
                return self._zeros_ahead(0)
            if error not in FULL:
                raise CaptureError("write", self.name, os.strerror(error))
        return False

    def write(self, data: memoryview) -> int:
        """Write `data` at the position and move it; gives how many bytes went in, all of them unless full.

        Raises CaptureError on any other failure, BrokenPipeError where nobody reads the pipe.
        """
        done = self._put(data)
        if self.seekable and not self._can_allocate and not (done == len(data) and self._zeros_ahead(done)):
            # What lies on the disk beyond the position now is all there is for the ending.
            done = max(0, done - self.reserve)
        self._moved(done, data)
        return done

    def finish(self, data: memoryview) -> int:
        """Write the ending into the reserve; gives how many bytes went in."""
        done = self._put(data)
        self._moved(done, data)
        return done

    def back(self, size: int) -> None:
        """Take the last `size` bytes back: they were part of something that is not whole."""
        self.position -= size
        if self.kept:
            self._tail = self.tail()
            if self.position and not self._tail:
                raise GoneError("write", self.name, "it was cut")
        if self._appends:
            os.ftruncate(self.fd, self.position)

    def cut(self, position: int) -> None:
        """Take back what was written after a position; it is done at `close`."""
        self.position, self._tail = min(position, self.position), 0

    def _moved(self, done: int, data: memoryview) -> None:
        self.position += done
        if self.kept and done:
            self._tail = int.from_bytes(data[max(0, done - 4) : done], "little")

    def publish(self) -> None:
        """Let a regular file take its place. Raises CaptureError."""
        if self._destination is not None:
            try:
                self._destination.publish()
            except OutputError as error:
                raise _as_ours(error) from None

    def close(self) -> None:
        """Cut the file to the position, give unused blocks back, close what was opened here.

        A file that was not published is gone then.
        """
        if self.fd < 0:
            return
        try:
            if self.seekable and not (self.kept and os.fstat(self.fd).st_size < self.position):
                os.ftruncate(self.fd, self.position)
                os.lseek(self.fd, self.position, os.SEEK_SET)
                self._see_tail(self.position)  # it may have been cut just now
        except OSError as error:
            raise CaptureError("close", self.name, error.strerror or "failed") from None
        finally:
            self._let_go()

    def _let_go(self) -> None:
        fd, self.fd = self.fd, -1
        if self._destination is not None:
            self._destination.close()
        elif self._owned:
            os.close(fd)

    def _put(self, data: memoryview) -> int:
        done, size = 0, len(data)
        self.check()
        while done < size:
            try:
                if self.seekable:
                    done += os.pwrite(self.fd, data[done:], self.position + done)
                else:
                    done += os.write(self.fd, data[done:])
            except BlockingIOError:
                waiting = select.poll()  # takes descriptors beyond 1023, which select(2) does not
                waiting.register(self.fd, select.POLLOUT)
                waiting.poll()
            except BrokenPipeError:
                raise
            except OSError as error:
                if error.errno in FULL:
                    break
                raise CaptureError("write", self.name, error.strerror or "failed") from None
        self._see_tail(self.position)  # it may have been cut between the look and the writing
        return done

    def _zeros_ahead(self, done: int) -> bool:
        """Zeros over the reserve that begins `done` bytes after the position."""
        start, zeros, written = self.position + done, bytes(self.reserve), 0
        while written < len(zeros):
            try:
                written += os.pwrite(self.fd, zeros[written:], start + written)
            except OSError as error:
                if error.errno in FULL:
                    return False
                raise CaptureError("write", self.name, error.strerror or "failed") from None
        return True


def _word(fd: int, position: int) -> int:
    """The four bytes before a position, as a number."""
    return int.from_bytes(os.pread(fd, 4, max(0, position - 4)), "little")


def _without_zeros(fd: int, end: int) -> int:
    """Where the zeros begin that a file has before `end`, or before its own end."""
    end = min(end, os.fstat(fd).st_size)
    while end and (piece := os.pread(fd, min(end, _PIECE), max(0, end - _PIECE))):
        if rest := piece.rstrip(b"\0"):
            return end - len(piece) + len(rest)
        end -= len(piece)
    return end


def _appends(fd: int) -> bool:
    import fcntl

    return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND)


def _size_limit() -> int | None:
    """RLIMIT_FSIZE, in bytes."""
    import resource

    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if limit == resource.RLIM_INFINITY else limit
