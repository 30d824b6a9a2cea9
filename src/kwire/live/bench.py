"""A bench for probes: those of Python and of scripts run in kwire's own eBPF machine, as a test says.

    bench = Bench()
    sock = bench.struct("struct sock", {"__sk_common.skc_dport": 0xBB01})
    [event] = bench.fire(connect, sk=sock)
    script = bench.bt("kprobe:tcp_connect { @[comm] = count(); }")
    script.fire("kprobe:tcp_connect", sk=sock)

Invariants: what runs is the program that the kernel would be given; only its surroundings are made up, and
they are the bench's: the time is what it says, and stands still. Nothing needs privileges, except the formats
of tracepoints where users may not read tracefs. What `given` sets in maps is taken back by `close`.
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from kwire.arguments import ArgumentError, checked, needed
from kwire.bpf.vm import Memory
from kwire.btf.store import load_kernel
from kwire.errors import KwireError
from kwire.lang import attach, tree
from kwire.lang.bpftrace.lower import Surroundings
from kwire.lang.bpftrace.options import given
from kwire.lang.bpftrace.reader import read
from kwire.lang.bpftrace.script import ScriptProbe, probes
from kwire.lang.checked import Map
from kwire.lang.inferred import settle
from kwire.lang.kerneltypes import KernelTypes
from kwire.lang.tree import Source
from kwire.live import contents
from kwire.live.contents import Raw
from kwire.live.events import Event
from kwire.live.lines import Lines
from kwire.live.maps import SharedMap
from kwire.live.mapview import MapView
from kwire.live.plan import UnitMap
from kwire.live.probes import Probe
from kwire.live.script import NAME, words
from kwire.live.scriptmaps import ScriptMap
from kwire.live.simulate import ENVIRONMENT, Run, execute, fake, simulate, site_at
from kwire.wire.schema import Clock

SINCE = 1_000_000_000
"""Nanoseconds of the monotonic clock when a bench begins; its wall clock is the same."""


class Bench:
    """What probes meet. `memory`: the memory that they read; `pid`, `comm`, `uid`, … (see
    `kwire.bpf.vm.Environment`): what helpers answer; `time`: nanoseconds of the clock (`nsecs`).
    """

    def __init__(self, *, btf: str | None = None) -> None:
        [self.btf] = checked("make bench", btf=btf)
        self.memory = Memory()
        self.time = SINCE
        self.formats: dict[str, str] = {}
        """Formats of tracepoints, `category:name` → the text of its file; of others the running kernel's."""
        self._set: dict[str, Any] = {}
        self._taken: list[SharedMap] = []  # maps that probes of this bench have used
        self._undo: list[tuple[SharedMap, dict[object, object]]] = []

    def set(self, **environment: Any) -> None:
        """What helpers answer from now on: `pid=42, comm="curl"`."""
        self._set |= known(environment)

    def struct(self, type: str, members: Mapping[str, int | bytes] | None = None) -> int:
        """The address of a structure in the kernel's memory: zeros but for `members`; see `kwire.fake`."""
        return self.memory.kernel(fake(type, members, btf=self.btf))

    def text(self, text: str | bytes) -> int:
        """The address of a text in the memory of the process."""
        return self.memory.user((text.encode() if isinstance(text, str) else text) + b"\0")

    def given(self, map: SharedMap, contents: Mapping[Any, Any]) -> None:
        """Let a map begin with these values (of a `Variable` by the key ()), until the bench is closed."""
        self._undo.append((map, map.replace_before(contents)))

    def fire(
        self,
        probe: Probe,
        values: Mapping[str, int | bytes | str] | None = None,
        *,
        retval: int | None = None,
        **named: int | bytes | str,
    ) -> list[Event]:
        """Run a Python probe once; the events it emitted. `values` and what is named are its arguments, or
        the fields of its tracepoint, as for `kwire.simulate`.
        """
        if not isinstance(probe, Probe):
            raise ArgumentError(
                "fire", repr(probe)[:80], "it is no probe", "give a function under @kwire.kprobe"
            )
        for one in probe_maps(probe):
            if one not in self._taken:
                one.forget()
                self._taken.append(one)
        kind, _, target = probe.attach[0].partition(":")
        return simulate(
            probe,
            {**(values or {}), **named},
            memory=self.memory,
            retval=retval,
            format=self.formats.get(target) if kind == "tracepoint" else None,
            btf=self.btf,
            **self.answers(),
        )

    def bt(
        self,
        script: str,
        *arguments: str | int,
        parameters: Mapping[str, str | int | bool] | None = None,
        unsafe: bool = False,
    ) -> "BenchScript":
        """A script in the bpftrace language on this bench: arguments as for `kwire.bt`."""
        [script] = needed("run", script=script)
        return BenchScript(self, script, words(arguments, parameters or {}), unsafe)

    def close(self) -> None:
        """Let maps be as they were."""
        for map, before in reversed(self._undo):
            map.replace_before(before)
        for map in self._taken:
            map.forget()
        self._undo, self._taken = [], []

    def answers(self) -> dict[str, Any]:
        """What helpers answer just now."""
        return {"monotonic_ns": self.time, "boot_ns": self.time, **self._set}


def known(environment: Mapping[str, Any]) -> dict[str, Any]:
    """What helpers are to answer. Raises ArgumentError for what none does."""
    unknown = sorted(environment.keys() - ENVIRONMENT)
    if unknown:
        known = ", ".join(ENVIRONMENT)
        raise ArgumentError("set", unknown[0], "no helper answers that", f"known: {known}")
    return dict(environment)


def probe_maps(probe: Probe) -> list[SharedMap]:
    """The maps of this program that a probe uses. Raises LanguageError where it cannot be read."""
    from kwire.lang.maps import elements
    from kwire.lang.python import parse_function

    owners = (made.owner for made in elements(parse_function(probe.function, probe.attach)))
    return [one for one in owners if isinstance(one, SharedMap)]


class BenchMap(ScriptMap):
    """A map of a script on a bench, which a test may set."""

    __slots__ = ()

    def preset(self, map: Map) -> Raw:
        """What a run begins with."""
        return self._raw

    def keep(self, raw: Raw, lost: int) -> None:
        """What a run has left."""
        self._raw, self._lost = raw, self._lost + lost

    @property
    def value(self) -> Any:
        """What a map without keys holds."""
        return super().value

    @value.setter
    def value(self, value: Any) -> None:
        if self.keyed:
            self._refuse("it has keys", "write m[key] = value")
        self[()] = value

    def __setitem__(self, key: Any, value: Any) -> None:
        map = self._map
        assert map is not None
        if map.kind not in ("hash", "lru"):
            self._refuse("probes add to it, nobody sets it", "let a probe fire")
        word = contents.word_of(map, value)
        parts = key if isinstance(key, tuple) else (key,)
        data = contents.bytes_of(map, parts) if map.key else b""
        self._raw[data] = [word if map.key else word + (1).to_bytes(8, "little")]

    def empty(self, *, zero: bool) -> None:
        """Remove what it holds; or `zero`: keep the keys."""
        self._raw = (
            {key: [bytes(len(one)) for one in values] for key, values in self._raw.items()} if zero else {}
        )


class BenchScript:
    """A script on a bench. `maps`: its maps by name, to be read, and to be set where scripts set them;
    `status`: what it gave to `exit`, None before.
    """

    def __init__(self, bench: Bench, text: str, words: Sequence[str], unsafe: bool) -> None:
        self._bench = bench
        self._types = KernelTypes(load_kernel(path=bench.btf))
        arguments, options = given(words)
        surroundings = Surroundings(tuple(arguments), 0, bench.time, 1, options, unsafe=unsafe)
        script = read(NAME, text)
        self._probes = probes(script, surroundings)
        self.maps: dict[str, MapView] = {}
        self.status: int | None = None
        self._owners = self._probes[0].maps
        settle(self._owners.values(), self._look)
        for one in self._owners.values():
            if one.key is not None:
                self.maps[one.title] = BenchMap(UnitMap(one.known(self._probes[0].probe.span), one))

    def fire(
        self,
        place: str | None = None,
        values: Mapping[str, int | bytes | str] | None = None,
        *,
        retval: int | None = None,
        **named: int | bytes | str,
    ) -> list[Event]:
        """Let the probes at a place (`kprobe:tcp_connect`) run once, those with wildcards that match it, too;
        what they printed. Without a place: the first probe, at its first one.
        """
        found: list[tuple[ScriptProbe, tree.AttachPoint]] = []
        if place is None:
            found.append((self._probes[0], self._probes[0].attach[0]))
        else:
            wanted = attach.parse(Source("place", place), len(place))
            found += (
                (probe, wanted)
                for probe in self._probes
                if any(_matches(point, wanted) for point in probe.attach)
            )
        if not found:
            there = ", ".join(str(point) for probe in self._probes for point in probe.attach)
            raise KwireError("fire", str(place), "no probe of the script is there", f"it has {there}")
        printed: list[Event] = []
        for probe, point in found:
            printed += self._fire(probe, point, {**(values or {}), **named}, retval)
        return printed

    def _fire(
        self,
        probe: ScriptProbe,
        point: tree.AttachPoint,
        values: Mapping[str, int | bytes | str],
        retval: int | None,
    ) -> list[Event]:
        bench = self._bench
        program = probe.program(site_at(point, self._types, bench.formats.get(point.target)), self._types)
        maps = [
            (map, one) for name, map in program.maps().items() if isinstance(one := self.maps[name], BenchMap)
        ]
        run = execute(program, str(point), maps, values, bench.memory, retval, bench.answers())
        self.status = run.status if run.status is not None else self.status
        return self._printed(run)

    def _printed(self, run: Run) -> list[Event]:
        """What a run has printed, maps as they are behind it."""
        clock = Clock("monotonic", 0, 0)
        schemas = [schema._replace(clock=clock) for schema in run.schemas]
        maps = list(self.maps.values())
        for number, one in enumerate(maps, len(schemas) + 1):
            schemas.append(one._table()[0]._replace(id=number, clock=clock))
        lines = Lines(schemas, None, self._act)
        if run.frames is not None:
            lines.write(run.frames)
        return lines.take()

    def _act(self, what: str, name: str, top: int, div: int, emptied: int) -> Any:
        """Do what a script asks of a whole map."""
        one = self.maps.get(name)
        if not isinstance(one, BenchMap):
            return None  # nothing is ever put into it
        if what == "print":
            schema, held = one._table()
            if emptied:
                one.empty(zero=False)
            return schema, held._replace(shown="print", top=top, div=div)
        one.empty(zero=what == "zero")
        return None

    def _look(self) -> None:
        """Check all probes, so that their maps learn; what is wrong is told when they fire."""
        for probe in self._probes:
            for point in probe.attach:
                try:
                    site = site_at(point, self._types, self._bench.formats.get(point.target))
                    probe.program(site, self._types)
                except KwireError:
                    continue


def _matches(point: tree.AttachPoint, wanted: tree.AttachPoint) -> bool:
    """Whether a place is one of those that a script names."""
    return point.kind == wanted.kind and fnmatchcase(wanted.target, point.target)
