"""Several captures read as one: the files of a rotation one after the other, others in order of time.

Invariants: every frame of every file is given once, under the section and the schemas it was written under; a
file is open only while it is read, those of a rotation in the order of their numbers, so memory does not grow
with their number; what is wrong with a file is told with its name. The same file twice is a CaptureError.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final, cast

from kwire.capture import identity
from kwire.capture.output import CaptureError
from kwire.capture.reader import Refused, Section, ignore
from kwire.packets.conversations import Conversation
from kwire.packets.network import Network
from kwire.packets.open import NetworkCapture
from kwire.wire.frame import Type
from kwire.wire.frames import Frames
from kwire.wire.messages import Lost
from kwire.wire.schema import Schema, clock_of

NAMED: Final = 3  # files that are named where all are meant

Opener = Callable[[], NetworkCapture]


class _Chain:
    """Files that follow each other; `frames` are the next ones of `capture`, which belong to `time`."""

    __slots__ = ("_chunks", "_openers", "_refused", "capture", "frames", "time")

    def __init__(self, openers: list[Opener], refused: Refused) -> None:
        self._openers, self._refused = openers, refused
        self._chunks: Iterator[Frames] = iter(())
        self.capture: NetworkCapture | None = None
        self.frames: Frames | None = None
        self.time = 0

    def step(self, ended: Callable[[NetworkCapture], None]) -> bool:
        """Go on to the next frames; False where no more come. `ended` is told of each file that is read."""
        while True:
            self.frames = next(self._chunks, None)
            if self.frames is not None and self.capture is not None:
                self.time = _moment(self.frames, self.capture.schemas) or self.time
                return True
            if self.capture is not None:
                self.capture.close()
                ended(self.capture)
                self.capture = None
            if not self._openers:
                return False
            self.capture = self._openers.pop(0)()
            self.capture.refused = self._refused
            self._chunks = iter(self.capture)

    def close(self) -> None:
        """Close the file that is open."""
        if self.capture is not None:
            self.capture.close()


class Several(NetworkCapture):
    """Captures as one, for one reading; `openers`: groups of files, those of a group one after the other."""

    __slots__ = ("_all", "_chains", "_complete", "_interned", "_now", "_shared", "_sum")

    def __init__(self, name: str, openers: list[list[Opener]]) -> None:
        self.name = name
        self.network = self._sum = Network(())
        self.sections: list[Section] = []
        self.problem: str | None = None
        self.packets = self.skipped = 0
        self.errors: dict[str, int] = {}
        self.first_skipped: str | None = None
        self.undecodable = 0
        self.first_undecodable = ""
        self.refused = ignore
        self.tallied = None
        self._chains = [_Chain(group, lambda *told: self.refused(*told)) for group in openers]
        self._now: NetworkCapture | None = None
        self._all: list[NetworkCapture] = []  # those that were read
        self._shared = (0, 0)  # the section whose schemas were looked at last, and how many it had
        self._interned: dict[tuple[int, str], Schema] = {}
        self._complete = True

    @property
    def regular(self) -> bool:
        """All of it is there: nothing has to be waited for."""
        return True

    @property
    def ended(self) -> bool:
        """Whether every file read so far came to its end in order."""
        return self._complete and all(one.ended for one in self._open())

    @property
    def forgotten(self) -> int:
        """Sessions that were let go of."""
        return sum(one.forgotten for one in (*self._all, *self._open()))

    @property
    def section(self) -> Section | None:
        """The section of the frames given last."""
        return self._now.section if self._now else None

    @property
    def schemas(self) -> dict[int, Schema]:
        """The schemas of that section."""
        return self._now.schemas if self._now else {}

    def complaint(self, section: Section) -> str | None:
        """Why a section does not prove itself whole; see Capture."""
        for one in self._all:
            if any(section is known for known in one.sections):
                return one.complaint(section)
        return None

    def wrong(self) -> list[str]:
        """What was wrong in packets, a line each, with the name of the file."""
        return [f"{one.name}: {line}" for one in self._all for line in one.wrong()]

    def label(self, section: Section) -> str:
        """The ends of a session."""
        return next(filter(None, (one.label(section) for one in self._all)), "")

    def close(self) -> None:
        """Close what is open."""
        for chain in self._chains:
            chain.close()

    def __iter__(self) -> Iterator[Frames]:
        waiting = [chain for chain in self._chains if chain.step(self._end)]
        while waiting:
            chain = min(waiting, key=lambda chain: chain.time)
            self._now = chain.capture
            assert chain.frames is not None  # it waits with them
            self._share()
            yield chain.frames
            if not chain.step(self._end):
                waiting.remove(chain)

    def _open(self) -> list[NetworkCapture]:
        return [chain.capture for chain in self._chains if chain.capture is not None]

    def _share(self) -> None:
        """Let equal schemas of several files be one object: symbols take megabytes."""
        section = self.section
        if section is None or self._shared == (id(section), len(section.history)):
            return
        self._shared = (id(section), len(section.history))
        for number, schema in section.schemas.items():
            known = self._interned.setdefault((number, schema.probe), schema)
            if known is not schema and known == schema:
                section.schemas[number] = known
                section.history[:] = [known if one is schema else one for one in section.history]

    def _end(self, capture: NetworkCapture) -> None:
        """Take over what a file that was read says."""
        self._all.append(capture)
        self.sections += capture.sections
        self.packets += capture.packets
        self.skipped += capture.skipped
        self.undecodable += capture.undecodable
        self._complete = self._complete and capture.ended
        for name, count in capture.errors.items():
            self.errors[name] = self.errors.get(name, 0) + count
        if capture.problem and self.problem is None:
            self.problem = f"{capture.name}: {capture.problem}"
        if capture.first_skipped and self.first_skipped is None:
            self.first_skipped = f"{capture.name}: {capture.first_skipped}"
        network = self._sum
        network.conversations += cast("list[Conversation]", capture.network.conversations)
        network.packets += capture.network.packets
        network.skipped += capture.network.skipped
        network.frames += capture.network.frames
        network.remarks.update(capture.network.remarks)
        network.others.update(capture.network.others)
        for name, first in capture.found.items():
            old = network.found.get(name)
            network.found[name] = first if old is None else old._replace(count=old.count + first.count)


def _moment(frames: Frames, schemas: dict[int, Schema]) -> int | None:
    """The wall-clock time of the first of the frames that tells one."""
    for index in range(min(len(frames), 16)):
        header = frames.header(index)
        schema = schemas.get(header.id)
        if header.type == Type.EVENT and schema is not None and header.length >= 16:
            return schema.wall(schema.timestamp(frames.frame_bytes(index)))
        if header.type == Type.LOST:
            loss = Lost.read(frames.frame(index))
            clock = schema.clock if schema else clock_of(schemas.values())
            if loss.last and clock:
                return clock.at(loss.last)
    return None


def in_order(paths: Sequence[str]) -> list[list[str]]:
    """The paths in groups: the files of a rotation by their numbers, every other one by itself.

    CaptureError where one of them is there twice, or cannot be opened.
    """
    groups: dict[object, list[tuple[int, str]]] = {}
    known: dict[tuple[str, int], str] = {}
    for place, path in enumerate(paths):
        found = identity.of_file(path) if path != "-" else None
        if found is None:
            groups[place] = [(0, path)]
            continue
        key = (found.id, found.number)
        if key in known:
            cause = f"it is the same capture as {known[key]}: each event would be there twice"
            raise CaptureError("read", path, cause, "name it once")
        known[key] = path
        groups.setdefault(found.id, []).append((found.number, path))
    return [[path for _, path in sorted(group)] for group in groups.values()]


def name_of(paths: Sequence[str]) -> str:
    """What several files are called together."""
    shown = ", ".join(paths[:NAMED])
    return shown if len(paths) <= NAMED else f"{shown} and {len(paths) - NAMED} more"
