"""Probes in the kernel, from maps to links: created, loaded, attached, read, taken away.

Invariants: nothing of ours outlives the process, because everything hangs on descriptors; every event a
program produced is accounted for (`Tracer.balanced`): delivered through a ring, refused by it, or too long;
nothing attached is left attached when an error is raised half-way.
"""

import errno
import os
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from mmap import mmap

from kwire.bpf.counts import ASKED, ASKED_BIT, counts_size
from kwire.bpf.image import Image, MapSpec
from kwire.errors import KwireError
from kwire.hints import TYPE_CHECKING
from kwire.kernel import attach, prog, tracefs
from kwire.kernel.attach import AttachError, AttachTarget, FilePlace, Iteration, Link, OnSignal
from kwire.kernel.maps import Map
from kwire.kernel.prog import Prog
from kwire.kernel.ring import Ring, Rings
from kwire.kernel.sys import BPF_F_MMAPABLE, possible_cpus
from kwire.kernel.syscall import Fd, KernelError
from kwire.kernel.tasks import Follow
from kwire.kinds import KINDS, OVER
from kwire.lazy import NamedTuple
from kwire.live.closing import close_all, detach_all, hand_over
from kwire.live.counters import Counters
from kwire.live.ground import Ground
from kwire.live.plan import Group, Plan, Point
from kwire.live.processes import Processes
from kwire.wire.frames import Frames
from kwire.wire.messages import CPU_UNKNOWN, Cause, Lost

if TYPE_CHECKING:
    from kwire.live.stacks import StackReader

READS = 16
"""Reads of one ring in a round at most: a flood on one CPU must not hold up the others."""

SETTLE_SECONDS = 1.0
"""How long after detaching a program that was still running may take to hand over its last event."""


NOT_THE_TARGETS = (errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSYS)
"""Errors that say nothing against one of many targets: all others would fail as well."""


def _batches(points: Sequence[Point]) -> list[list[Point]]:
    """The points of a multi link in as few as take them: names, addresses and each file apart, each place
    once.
    """
    seen: dict[str | int | FilePlace, int] = {}
    batches: dict[str | type, list[list[Point]]] = {}
    for point in points:
        target = point.target
        at = seen.get(target, 0)
        seen[target] = at + 1
        own = batches.setdefault(_whose(point), [])
        if at == len(own):
            own.append([])
        own[at].append(point)
    return [batch for own in batches.values() for batch in own]


LAST_IS_FIRST = ("uprobe", "perf kprobe", "trampoline")
"""Ways to attach of which the kernel runs what was attached last first; at the return of a kernel function it
does not: there it goes back from the last that it met at the entry.
"""


def _in_order(programs: Sequence[tuple[Group, Prog]]) -> list[tuple[Group, Prog]]:
    """The order in which programs are attached: `begin` first; the others so that, of several on one place,
    the one that was asked for first runs first.
    """
    begins = [one for one in programs if one[0].kind == "begin"]
    backward = [
        one
        for one in programs
        if KINDS[one[0].kind].mechanism in LAST_IS_FIRST and one[0].kind != "kretprobe"
    ]
    return begins + [one for one in programs if one not in begins and one not in backward] + backward[::-1]


def _whose(point: Point) -> str | type:
    """What the targets of one link have in common."""
    target = point.target
    return target.path if isinstance(target, FilePlace) else type(target)


def _attach(program: Prog, kind: str, target: AttachTarget, cookie: int) -> Link:
    """Attach to one target; a function that is not there becomes an error that names the nearest."""
    try:
        return attach.attach(program, kind, target, cookie)
    except AttachError as error:
        if isinstance(target, str) and error.errno == errno.ENOENT and KINDS[kind].mechanism == "perf kprobe":
            from kwire.kernel import catalog

            raise catalog.missing(kind, target) from None
        raise


def _is_fatal(error: KwireError) -> bool:
    """Whether an error says nothing against one of many targets."""
    return isinstance(error, KernelError) and error.errno in NOT_THE_TARGETS


def _name_one_each(names: Collection[str]) -> bool:
    """Whether the kernel's table of symbols has one function of each name; also where nobody may read it."""
    from kwire.kernel.symbols import kernel_symbols

    try:
        found = kernel_symbols().functions_named(names)
    except KernelError:
        return True
    return all(sum(map(len, found.get(name, {}).values())) == 1 for name in names)


def _loaded(module: str) -> int:
    """What tells one loading of a module from the next; 0 while it is not there."""
    try:
        return os.stat(f"/sys/module/{module}").st_ino
    except OSError:
        return 0


def _missed(link: Link) -> int:
    """What the kernel says of firings it did not run; 0 where it refuses to say: before 6.5 unprivileged."""
    try:
        return link.missed
    except KernelError as error:
        if error.errno == errno.EPERM:
            return 0
        raise


def _cause(group: Group, points: int) -> Cause:
    """Why firings are missing that the kernel counts of so many points of a program together."""
    return Cause.MISSED if points == group.shapes == 1 else Cause.MISSED_SHARED


class Attached(NamedTuple):
    """All that a tracer is once its probes are attached, for another process (`kwire.live.handover`)."""

    plan: Plan
    cpus: int
    maps: dict[str, Map]
    rings: tuple[Map, ...]
    progs: list[Prog | None]
    ending: list[Prog]
    links: list[tuple[Link, int, Cause]]
    events: list[Fd]
    iterations: list[Iteration]
    modules: dict[str, int]
    missed: dict[tuple[int, Cause], int]
    missed_at: int


class Tracer:
    """A running trace: the plan's probes attached, their events waiting in one ring a CPU."""

    __slots__ = (
        "_asked",
        "_counters",
        "_ending",
        "_events",
        "_follow",
        "_ground",
        "_iterations",
        "_leaving",
        "_links",
        "_missed",
        "_missed_at",
        "_modules",
        "_processes",
        "_progs",
        "_refusals",
        "_unsure",
        "delivered",
        "maps",
        "plan",
        "stacks",
    )

    def __init__(
        self, plan: Plan, *, ground: Ground | None = None, follow: bool = False, leaving: bool = False
    ) -> None:
        """Create maps and load every program; nothing fires before `attach`.

        `ground`: what was begun for it, before the plan was made, which it closes; without, with rings of the
        default size, `follow` says whether only chosen processes (method `follow`) and what they start are
        traced. `leaving`: this process ends with the trace, so `close` leaves what the kernel frees slowly to
        a child.
        """
        self.plan = plan
        self._leaving = leaving
        self._ground = ground or Ground(follow=follow)
        self._processes: Processes | None = None
        self._missed: dict[tuple[int, Cause], int] = {}
        self._modules: dict[str, int] = {}  # those that are traced, as they were then
        self._missed_at = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        self.delivered = 0
        self._open()

    def attached(self) -> Attached:
        """It as another process needs it, once `attach` is done and before anything was read."""
        groups = tuple(group._replace(otherwise=None, explain=None) for group in self.plan.groups)
        return Attached(
            self.plan._replace(groups=groups, again=None, anew=None),
            possible_cpus(),
            self.maps,
            tuple(ring.map for ring in self.rings),
            self._progs,
            self._ending,
            self._links,
            self._events,
            self._iterations,
            self._modules,
            self._missed,
            self._missed_at,
        )

    @classmethod
    def taken(cls, found: Attached) -> "Tracer":
        """One that another process has attached. Raises KernelError."""
        self = cls.__new__(cls)
        self.plan, self.maps = found.plan, found.maps
        self._progs, self._links, self._events = found.progs, found.links, found.events
        self._iterations, self._ending = found.iterations, found.ending
        self._modules, self._missed, self._missed_at = found.modules, found.missed, found.missed_at
        self._leaving, self._processes, self._follow, self._refusals = False, None, None, {}
        self.delivered = 0
        self.stacks = self._counters = self._asked = None
        self._ground = Ground.taken(Rings.taken(found.maps["rings"], found.rings))
        try:
            self._map_memory(found.cpus)
        except BaseException:
            self.close()
            raise
        return self

    def _open(self) -> None:
        """Create the maps and load the programs of the plan."""
        self.maps: dict[str, Map] = {}
        self._progs: list[Prog | None] = []  # None: refused
        self.stacks: StackReader | None = None  # where programs take any
        self._asked: mmap | None = None  # whether a program has asked for the end
        self._ending: list[Prog] = []  # those that run when all others are gone
        self._links: list[tuple[Link, int, Cause]] = []  # whose firing it is that a link misses, and why
        self._events: list[Fd] = []  # those from which links were taken away
        self._iterations: list[Iteration] = []
        self._follow: Follow | None = None
        self._counters: Counters | None = None
        self._refusals: dict[int, list[tuple[Point, KwireError]]] = {}  # by probe
        self._unsure: dict[str, bool] = {}  # names that the plan assumes; whether the kernel refused them
        try:
            self._create_maps()
            for group in self.plan.groups:
                self._progs.append(self._load(group))
        except BaseException:
            self.close()
            raise

    @property
    def rings(self) -> list[Ring]:
        """The rings of all CPUs."""
        return self._ground.rings.readers

    def _create_maps(self) -> None:
        cpus = possible_cpus()
        probes = len(self.plan.schemas)
        counts = MapSpec("counts", "array", 4, counts_size(probes, cpus), 1, BPF_F_MMAPABLE)
        self.maps["counts"] = Map.create(counts)
        if self.plan.stacks:
            from kwire.live import stacks

            self.maps |= stacks.create(self.plan.stacks)
            self.stacks = stacks.StackReader(self.plan.stacks, self.maps)
            known = self.stacks.known
            schemas = tuple(schema._replace(stacks=known) for schema in self.plan.schemas)
            self.plan = self.plan._replace(schemas=schemas)
        if self.plan.maps:
            from kwire.live import maps

            self.maps |= maps.create(self.plan.maps, cpus)
            maps.bind(self.plan.maps, self.maps, self.stacks)
        specs = (spec for group in self.plan.groups for spec in group.image.maps if spec.name == ASKED)
        spec = next(specs, None)
        if spec is not None:
            self.maps[ASKED] = Map.create(spec)
        self._map_memory(cpus)
        tasks = self._ground.tasks
        if tasks is not None:
            self.maps["tasks"] = tasks
            if self.plan.following:  # else another trace keeps the map
                self._follow = Follow(tasks, self.plan.following)
        self.maps["rings"] = self._ground.rings.array
        self.maps["ring"] = self._ground.rings.first

    def _map_memory(self, cpus: int) -> None:
        """Map what programs count, and what they ask for."""
        memory = self.maps["counts"].mmap(writable=True)
        self._counters = Counters(memory, len(self.plan.schemas), cpus)
        if ASKED in self.maps:
            self._asked = self.maps[ASKED].mmap()

    def follow(self, processes: Processes) -> None:
        """Trace these processes and what they start; nothing to do where the whole machine is traced."""
        self._processes = processes
        if processes.chosen:
            processes.enter(self.maps["tasks"], self.plan.task)

    @property
    def unfollowed(self) -> int:
        """How many processes are not traced, though one that is started them: more than there is room for."""
        return self._follow.refused if self._follow else 0

    def _load(self, group: Group) -> Prog | None:
        try:
            if group.otherwise is None:
                return self._load_image(group, group.image)
            try:
                return self._load_image(group, group.image, explain=False)
            except prog.TooComplexError:
                return self._load_image(group, group.otherwise() or group.image)
        except KernelError as error:
            if len(group.points) > 1:
                raise
            self._refuse(group.points[0], error)
            return None

    def _load_image(self, group: Group, image: Image, explain: bool = True) -> Prog:
        own = {
            spec.name: Map.create(spec) for spec in image.maps if spec.name not in self.maps
        }  # scratch memory: one for each program
        try:
            return prog.load(
                image,
                {**self.maps, **own},
                multi=group.multi,
                attach_btf_id=group.btf_id,
                module=group.module if group.btf_id else "",
                explain=explain,
            )
        finally:
            for scratch in own.values():
                scratch.close()  # the program holds it now

    def attach(self) -> None:
        """Let the probes fire: all those of the plan but the optional ones that the kernel refuses, which are
        no longer in `plan` then. What was attached is taken away again when one of the others cannot be.
        """
        while True:
            self._modules = {name: _loaded(name) for name in set(self.plan.modules.values())}
            self._attach()
            if self._unsure and (any(self._unsure.values()) or not _name_one_each(self._unsure)):
                self._renew(self.plan.looked_up())
                continue
            refused = self._lost_probes() if self._refusals else {}
            if not refused:
                self._ending = [program for group, program in self.programs() if group.kind == "end"]
                return
            self._renew(self.plan.without(refused))

    def _renew(self, plan: Plan) -> None:
        """Begin once more, with another plan."""
        self.close()
        self.plan = plan
        self._ground = self._ground.anew()
        self._open()
        if self._processes:
            self.follow(self._processes)

    def _attach(self) -> None:
        kinds = {group.kind for group in self.plan.groups}
        by_files = any(KINDS[kind].place == "event" for kind in kinds)
        events = tracefs.shared() if by_files else None  # opened once for all of them
        try:
            for group, program in _in_order(self.programs()):
                if group.kind == "end":
                    continue  # that is not yet
                if group.multi:
                    for points in _batches(group.points):
                        self._attach_multi(group, program, points)
                    continue
                for point in group.points:
                    cookie = point.probe if group.image.cookies else 0
                    try:
                        link = _attach(program, group.kind, point.place, cookie)
                    except KwireError as error:
                        if point.target in self.plan.assumed and not _is_fatal(error):
                            self._unsure[point.text] = True
                        else:
                            self._refuse(point, error)
                    else:
                        if point.target in self.plan.assumed and not link.only_one:
                            self._unsure.setdefault(point.text, False)
                        self._links.append((link, point.probe, _cause(group, 1)))
                        if isinstance(link, Iteration):
                            self._iterations.append(link)
        except BaseException:
            self.close()
            raise
        finally:
            del events

    def programs(self) -> list[tuple[Group, Prog]]:
        """The programs that the kernel has taken."""
        both = zip(self.plan.groups, self._progs, strict=True)
        return [(group, program) for group, program in both if program is not None]

    def _attach_multi(self, group: Group, program: Prog, points: Sequence[Point]) -> None:
        """Attach to all at once, or to those that the kernel takes: halves of what it refuses are tried."""
        on_return = KINDS[group.kind].result
        in_file = [(one.target, one.probe) for one in points if isinstance(one.target, FilePlace)]
        targets = [(one.target, one.probe) for one in points if not isinstance(one.target, FilePlace)]
        self._unsure |= dict.fromkeys((str(name) for name, _ in targets if name in self.plan.assumed), False)
        try:
            if in_file:
                link = attach.attach_files(program, in_file, on_return=on_return)
            else:
                link = attach.attach_multi(program, targets, on_return=on_return)
        except AttachError as error:
            if len(points) == 1:
                self._refuse(points[0], error)
                return
            if error.errno in NOT_THE_TARGETS:
                raise
            half = len(points) // 2
            for part in (points[:half], points[half:]):
                self._attach_multi(group, program, part)
        else:
            self._links.append((link, group.points[0].probe, _cause(group, len(group.points))))

    def _refuse(self, point: Point, error: KwireError) -> None:
        """Note that the kernel did not take a point; raise where the trace cannot do without."""
        several = any(other.probe == point.probe and other != point for other in self._points())
        if _is_fatal(error) or (point.probe not in self.plan.optional and not several):
            raise error
        self._refusals.setdefault(point.probe, []).append((point, error))

    def _points(self) -> Iterator[Point]:
        return (point for group in self.plan.groups for point in group.points)

    def _lost_probes(self) -> dict[int, str]:
        """The probes that have no point left, and why; the others' missing points are told in the plan."""
        places = Counter(point.probe for point in self._points())
        gone = {probe: found for probe, found in self._refusals.items() if len(found) == places[probe]}
        for probe, found in gone.items():
            if probe not in self.plan.optional or len(gone) == len(places):
                self.close()
                raise found[0][1]
        parts = tuple(
            (f"{self.plan.schemas[probe - 1].spec} at {point.text}", error.cause)
            for probe, found in self._refusals.items()
            if probe not in gone
            for point, error in found
        )
        if not gone:
            self.plan = self.plan._replace(skipped=(*self.plan.skipped, *parts))
        return {probe: found[0][1].cause for probe, found in gone.items()}

    @property
    def iterating(self) -> bool:
        """Whether there are objects that an iterator has not come to."""
        return any(not one.over for one in self._iterations)

    @property
    def finite(self) -> bool:
        """Whether its probes fire so often and no more: at its begin and end, by iterators."""
        return {group.kind for group in self.plan.groups} <= set(OVER)

    def drain(self) -> Iterator[Frames]:
        """Give what waits in each ring, once around; each is valid until the next is asked for. Before that
        the iterators go on, one after the other, by as many objects as a ring has room for.
        """
        for one in self._iterations:
            if not one.over:
                one.step()
                break
        for ring in self.rings:
            for _ in range(READS):
                frames = ring.read()
                count = frames.count
                self.delivered += count
                if count:
                    yield frames
                ring.release()
                if not count:
                    break

    def lost(self) -> list[Lost]:
        """What the kernel lost since the last call: refused by a ring, or too long for one."""
        return self._read.take()

    def missed(self) -> list[Lost]:
        """Firings since the last call at which the kernel did not run the program. A system call a probe."""
        skipped: dict[tuple[int, Cause], int] = {}
        for link, probe, cause in self._links:
            skipped[probe, cause] = skipped.get((probe, cause), 0) + _missed(link)
        for group, program in zip(self.plan.groups, self._progs, strict=True):
            if program is not None:
                key = (group.points[0].probe, _cause(group, len(group.points)))
                skipped[key] = skipped.get(key, 0) + program.recursion_misses
                for point in group.points if KINDS[group.kind].preempted else ():
                    key = (point.probe, _cause(group, 1))
                    skipped[key] = skipped.get(key, 0) + self._read.count(point.probe).skipped
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        lost = []
        for (probe, cause), total in skipped.items():
            count = total - self._missed.get((probe, cause), 0)
            if count > 0:
                self._missed[probe, cause] = total
                lost.append(Lost(probe, self._missed_at, now, count, CPU_UNKNOWN, cause))
        self._missed_at = now
        return lost

    def unloaded(self) -> list[str]:
        """Modules that were unloaded, each told once: their probes have ended, and what is loaded under the
        name by now is not traced. The kernel does not unload a module that its links hold.
        """
        gone = sorted(name for name, known in self._modules.items() if _loaded(name) != known)
        for name in gone:
            del self._modules[name]
        return gone

    def detach(self) -> None:
        """Take the probes away; what they produced stays in the rings. Ask `missed` before."""
        self._events += _detached([link for link, _, _ in self._links])
        self._links.clear()
        self._iterations.clear()

    def finish(self) -> None:
        """After `detach` and `settle`: run the probes at its end, which find the rings empty. What they
        produced is for `settle` again.
        """
        ending, self._ending = self._ending, []
        for program in ending:
            attach.attach(program, "end", "")

    def take_away(self, probes: Collection[int]) -> None:
        """Take these probes away, whose programs are no others', as `detach` does all; what they produced
        stays in the rings. Ask `missed` before.
        """
        going = [one for one in self._links if one[1] in probes]
        self._links = [one for one in self._links if one[1] not in probes]
        self._iterations = [one for one in self._iterations if all(one is not link for link, _, _ in going)]
        close_all(_detached([link for link, _, _ in going]))
        for at, (group, program) in enumerate(zip(self.plan.groups, self._progs, strict=True)):
            if program is not None and all(point.probe in probes for point in group.points):
                if program in self._ending:
                    self._ending.remove(program)
                    attach.attach(program, "end", "")
                program.close()
                self._progs[at] = None

    @property
    def _read(self) -> Counters:
        assert self._counters is not None, "the tracer is closed"
        return self._counters

    @property
    def asked(self) -> int | None:
        """The status with which a program has asked the trace to end; None: none has."""
        word = int.from_bytes(self._asked[:8], sys.byteorder) if self._asked is not None else 0
        return word & (ASKED_BIT - 1) if word & ASKED_BIT else None

    def balanced(self) -> bool:
        """Whether every event produced so far was delivered, refused or too long: none is under way."""
        attempts = refused = 0
        for probe in range(1, len(self.plan.schemas) + 1):
            count = self._read.count(probe)
            attempts += count.attempts
            refused += count.refused + count.too_long
        return attempts == self.delivered + refused

    def settle(self) -> Iterator[Frames]:
        """After `detach` or `finish`: give what is left, until the books balance or nothing more can come."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            before = self.delivered
            yield from self.drain()
            if self.delivered == before:
                if self.balanced() or time.monotonic() > deadline:
                    return
                time.sleep(0.001)

    def produced(self) -> dict[int, int]:
        """Events by probe: those its program counted, and the firings at which the kernel did not run it.

        What was missed of a program that several probes share, or that has events of several shapes, stands
        with the first of them, as in LOST.
        """
        return {schema.id: self.produced_by(schema.id) for schema in self.plan.schemas}

    def produced_by(self, probe: int) -> int:
        """Those of one probe."""
        missed = sum(self._missed.get((probe, cause), 0) for cause in (Cause.MISSED, Cause.MISSED_SHARED))
        return self._read.count(probe).attempts + missed

    def close(self) -> None:
        """Take everything away and free it; twice is harmless."""
        self.detach()
        events, self._events = self._events, []
        if not (self._leaving and hand_over(events)):
            close_all(events)
        for program in self._progs:
            if program is not None:
                program.close()
        self._ground.close()
        if self._follow:
            self._follow.close()
        if self._counters is not None:
            self._counters.close()
        if self._asked is not None:
            self._asked.close()
            self._asked = None
        if self.plan.maps and self.maps:
            from kwire.live import maps

            maps.unbind(self.plan.maps, self.maps)
        if self.stacks is not None:
            self.stacks.close()
        for map_ in self.maps.values():
            map_.close()

    def __enter__(self) -> "Tracer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _detached(links: Sequence[Link]) -> list[Fd]:
    """Take programs away, those that wait for our own signals too; gives what is left to be closed."""
    for link in links:
        if isinstance(link, OnSignal):
            link.close()
    return detach_all(links)
