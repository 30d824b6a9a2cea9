"""Where a capture's bytes come from: a file, a pipe, standard input, anything that reads; compressed or not.

Invariants: compression is known by its first bytes, never by a name; memory is bounded, however small a file
unpacks to something large; what can be unpacked before the end of a cut file is given, and `problem` says
that it was cut; a file that grows is read on and on where that is asked for (`follow`). gzip is Python's own;
zstd and lz4 are imported only where such a file is read.
"""

import os
import stat
import time
from collections.abc import Callable, Iterator

from kwire.capture.output import CaptureError
from kwire.hints import IO, Any, Final, Protocol, TypeAlias
from kwire.lazy import NamedTuple
from kwire.words import plural

CHUNK: Final = 1 << 20  # bytes asked for at a time
POOL: Final = 4  # buffers kept
PAUSE: Final = 0.05  # seconds between two looks at a file that grows
ZSTD_PIECE: Final = 1 << 10  # bytes unpacked at a time: at most 32 MiB come of them
ZSTD_WINDOW: Final = 1 << 27  # bytes; what zstd --long makes at most without a warning
MAGIC_SIZE: Final = 4
WRONG: Final = {
    "incorrect data check": "its checksum (CRC) is wrong",
    "incorrect length check": "its length is wrong",
    "contentChecksum": "its checksum is wrong",
    "match checksum": "its checksum is wrong",
}
"""What the libraries say of a wrong ending → in our words."""

Source: TypeAlias = "str | int | IO[bytes]"
Bytes: TypeAlias = "bytes | memoryview"


class Unpacker(Protocol):
    """One compressed stream. `eof`: its end was there; `unused_data`: what came after it."""

    @property
    def eof(self) -> bool:
        """See above."""

    @property
    def unused_data(self) -> bytes:
        """See above."""

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """Unpack the next bytes; what does not fit into `max_length` is kept."""


class Compression(NamedTuple):
    """A format: its first bytes, its name, what makes an unpacker, bytes of its ending with the checksum;
    `damage`: the error of its library that means damaged data (all others are faults of kwire).
    """

    magic: bytes
    name: str
    make: Callable[[], Unpacker]
    ending: int
    damage: Callable[[], type[Exception]]


class _Gzip:
    """zlib's unpacker with the manners of the others: it keeps what it has not yet taken.

    Where the data are damaged, or the checksum at their end is wrong, what can be unpacked is given first.
    """

    __slots__ = ("_damage", "_error", "_kept", "_unpacker")

    def __init__(self) -> None:
        import zlib

        self._damage = zlib.error
        self._unpacker = zlib.decompressobj(31)
        self._kept = b""
        self._error: Exception | None = None

    @property
    def eof(self) -> bool:
        """Whether the end was there."""
        return self._unpacker.eof

    @property
    def unused_data(self) -> bytes:
        """What came after the end."""
        return self._unpacker.unused_data

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """Unpack the next bytes."""
        if self._error is not None:
            raise self._error
        before, data = self._unpacker.copy(), self._kept + data
        try:
            out = self._unpacker.decompress(data, max_length)
        except self._damage as error:
            self._error = error
            out = self._before_damage(before, data, max_length)
            if not out:
                raise
            return out
        self._kept = self._unpacker.unconsumed_tail
        return out

    def _before_damage(self, unpacker: Any, data: bytes, size: int) -> bytes:
        """What the bytes before the place where zlib stops unpack to; `size` bytes at most."""
        parts, step = [], len(data)
        while step and size:
            trial = unpacker.copy()
            try:
                part = trial.decompress(data[:step], size)
            except self._damage:
                step //= 2
                continue
            parts.append(part)
            size -= len(part)
            unpacker, data = trial, trial.unconsumed_tail + data[step:]
            step = min(step, len(data))
        return b"".join(parts)


class _Zstd:
    """zstandard's unpacker knows no limit, so it gets small pieces."""

    __slots__ = ("_kept", "_unpacker")

    def __init__(self) -> None:
        zstandard = _extra("zstandard", "zstd")
        self._unpacker = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW).decompressobj()
        self._kept = b""

    @property
    def eof(self) -> bool:
        """Whether the end was there."""
        return bool(self._unpacker.eof)

    @property
    def unused_data(self) -> bytes:
        """What came after the end."""
        return bytes(self._unpacker.unused_data) + self._kept

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """Unpack the next bytes."""
        data, parts, size, at = self._kept + data, [], 0, 0
        while at < len(data) and size < max_length and not self._unpacker.eof:
            part = self._unpacker.decompress(data[at : at + ZSTD_PIECE])
            parts.append(part)
            size += len(part)
            at += ZSTD_PIECE
        self._kept = data[at:]
        return b"".join(parts)


def _extra(module: str, name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        cure = f"pip install 'kwire[compression]', or unpack it first: {name} -d"
        raise CaptureError("read", "", f"it is compressed with {name}: {module} is missing", cure) from None


def _gzip_damage() -> type[Exception]:
    import zlib

    return zlib.error


def _zstd_damage() -> type[Exception]:
    damage: type[Exception] = _extra("zstandard", "zstd").ZstdError
    return damage


ZSTD: Final = Compression(b"\x28\xb5\x2f\xfd", "zstd", _Zstd, 4, _zstd_damage)
SKIPPABLE: Final = b"\x2a\x4d\x18"  # after a byte 0x50 to 0x5f: a frame of zstd that holds other things
COMPRESSIONS: Final = (
    Compression(b"\x1f\x8b", "gzip", _Gzip, 8, _gzip_damage),
    ZSTD,
    Compression(
        b"\x04\x22\x4d\x18",
        "lz4",
        lambda: _extra("lz4.frame", "lz4").LZ4FrameDecompressor(),
        8,
        lambda: RuntimeError,
    ),
)


def _find(start: bytes) -> Compression | None:
    """The format that these first bytes tell."""
    if len(start) >= MAGIC_SIZE and start[1:4] == SKIPPABLE and start[0] >> 4 == 5:
        return ZSTD
    return next((one for one in COMPRESSIONS if start.startswith(one.magic)), None)


class Input:
    """Bytes of a source: a path, `-` (standard input), a descriptor, or an object that reads.

    `name` for messages; `compression` is the name of the format, empty where there is none, known after the
    first reading. `problem`, once the end was read: why it is not the true end. CaptureError where the source
    cannot be opened or read.
    """

    __slots__ = (
        "_ahead",
        "_file",
        "_follow",
        "_next",
        "_owned",
        "_pool",
        "_taken",
        "compression",
        "name",
        "problem",
    )

    def __init__(self, source: Source, *, follow: bool = False) -> None:
        self._owned = isinstance(source, str) and source != "-"
        self._file: int | IO[bytes] = 0
        self.name = "standard input"
        if isinstance(source, int):
            self._file, self.name = source, f"descriptor {source}"
        elif not isinstance(source, str):
            self._file, self.name = source, str(getattr(source, "name", "input"))
        elif source != "-":
            self.name = source
            try:
                self._file = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise CaptureError("open", source, error.strerror or "failed") from None
        self._follow = follow
        self._ahead: list[bytes] = []  # read already, still to be given
        self._next: Callable[[], bytes] | None = None  # gives the next bytes, once the start is known
        self._pool: list[bytearray] = []
        self._taken = 0  # bytes read from the source itself
        self.compression = ""
        self.problem: str | None = None

    @property
    def regular(self) -> bool:
        """Whether this is a file: all of it is there, nothing has to be waited for."""
        status = self._status()
        return not self._follow and (status is None or stat.S_ISREG(status.st_mode))

    def read(self) -> bytes:
        """The next bytes, unpacked: nothing only at the end."""
        if self._next is None:
            self._next = self._begin()
        return self._ahead.pop(0) if self._ahead else self._next()

    def peek(self, size: int) -> bytes:
        """The next bytes, unpacked, without taking them: at least `size` unless there are fewer."""
        parts: list[bytes] = []
        while sum(map(len, parts)) < size and (part := self.read()):
            parts.append(part)
        self._ahead[:0] = parts
        return b"".join(parts)

    def extend(self, rest: Bytes, need: int) -> Bytes:
        """`rest` and what follows it in one piece: `need` bytes or more, fewer only at the end.

        The piece may lie in a buffer that is used again once nobody holds a view of it any more.
        """
        plain = self._next == self._raw and not self._ahead
        if plain and isinstance(self._file, int) and max(len(rest), need) <= CHUNK:
            there, view = len(rest), memoryview(self._buffer())
            view[:there] = rest
            while there < need and (size := self._into(self._file, view[there : there + CHUNK])):
                there += size
            return view[:there]
        parts, there = [bytes(rest)], len(rest)
        while there < need and (part := self.read()):
            parts.append(part)
            there += len(part)
        return b"".join(parts)

    def _buffer(self) -> bytearray:
        """A buffer that nobody looks at."""
        for buffer in self._pool:
            try:
                buffer.pop()  # not possible while there is a view of it
            except BufferError:
                continue
            buffer.append(0)  # in the place just left: nothing is moved
            return buffer
        buffer = bytearray(2 * CHUNK)
        if len(self._pool) < POOL:
            self._pool.append(buffer)
        return buffer

    def _into(self, fd: int, view: memoryview) -> int:
        """Read into `view`; how many bytes, 0 at the end."""
        try:
            size = os.readv(fd, [view])
        except OSError as error:
            raise CaptureError("read capture", self.name, error.strerror or "failed") from None
        if size or not self._follow:
            self._taken += size
            return size
        data = self._raw()[: len(view)]
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close what was opened here."""
        if self._owned and isinstance(self._file, int):
            os.close(self._file)
            self._owned = False

    def _status(self) -> os.stat_result | None:
        try:
            return os.fstat(self._file if isinstance(self._file, int) else self._file.fileno())
        except (OSError, AttributeError):
            return None

    def _raw(self) -> bytes:
        """The next bytes of the source itself; waits for them where it grows."""
        while True:
            try:
                part = os.read(self._file, CHUNK) if isinstance(self._file, int) else self._file.read(CHUNK)
            except OSError as error:
                raise CaptureError("read capture", self.name, error.strerror or "failed") from None
            if part or not self._follow:
                self._taken += len(part or b"")
                return part or b""
            status = self._status()
            if status is None or not stat.S_ISREG(status.st_mode):
                return b""  # a pipe that nobody writes any more
            if status.st_size < self._taken:
                self.problem = (
                    f"the file was cut from {self._taken} to {plural(status.st_size, 'byte')} while followed"
                )
                return b""
            time.sleep(PAUSE)

    def _begin(self) -> Callable[[], bytes]:
        """Find out whether the source is compressed; gives what reads on."""
        start = b""
        while len(start) < MAGIC_SIZE and (part := self._raw()):
            start += part
        found = _find(start)
        if found is None:
            if start:
                self._ahead.append(start)
            return self._raw
        self.compression = found.name
        parts = self._unpacked(found, start)
        return lambda: next(parts, b"")

    def _unpacked(self, format: Compression, data: bytes) -> Iterator[bytes]:
        """What one or more streams of this format unpack to, `data` being their first bytes."""
        try:
            unpacker = format.make()
        except CaptureError as error:  # an extra is missing
            raise CaptureError("read capture", self.name, error.cause, error.cure) from None
        later = b""
        while True:
            if len(data) > format.ending:  # that by itself: a wrong checksum takes nothing else with it
                data, later = data[: -format.ending], data[-format.ending :]
            try:
                part = unpacker.decompress(data, CHUNK)
            except format.damage() as error:
                why = next((said for text, said in WRONG.items() if text in str(error)), str(error))
                where = f"not sound {format.name} near byte {self._taken}"
                self.problem = f"damaged: {where}: {why}".split("\n")[0]
                return
            data = b""
            if part:
                yield part
            if unpacker.eof:
                data = bytes(unpacker.unused_data or b"") + later  # lz4: None where there are none
                data, later = data.lstrip(b"\0"), b""
                while len(data) < MAGIC_SIZE and (more := self._raw()):
                    data = (data + more).lstrip(b"\0")
                if not data:
                    return
                if _find(data) is not format:
                    self.problem = (
                        f"what follows the {format.name} data, near byte {self._taken}, is something else"
                    )
                    return
                unpacker = format.make()
            elif not part:
                data, later = later or self._raw(), b""
                if not data:
                    self.problem = (
                        self.problem or f"cut at byte {self._taken}: the {format.name} data has no end"
                    )
                    return
