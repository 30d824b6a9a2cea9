"""A plan: everything a trace needs to start. Made by `planner`, carried out by `tracer`."""

from collections.abc import Callable, Mapping

from kwire.bpf.image import Image
from kwire.bpf.task import TaskFields
from kwire.hints import TYPE_CHECKING, Any
from kwire.lazy import NamedTuple
from kwire.wire.schema import Schema

if TYPE_CHECKING:
    from kwire.kernel.attach import AttachTarget, FilePlace
    from kwire.lang.checked import Map, StackTable


class Scope(NamedTuple):
    """Whose events are wanted, as programs must know it. Processes are named by the kernel's numbers.

    `follow`: those in the map `tasks` only, `main` being one that is surely in it as long as the trace lasts
    (0: none); `without`: processes that are left out; `pids`: those that were named, as /proc calls them:
    names of files mean what they mean there; `debug`: folders in which files with debugging information are
    looked for, too.
    """

    follow: bool = False
    main: int = 0
    without: tuple[int, ...] = ()
    pids: tuple[int, ...] = ()
    debug: tuple[str, ...] = ()


class Point(NamedTuple):
    """An attach point and the number of the probe it is: that of the first shape of its events.

    `target`: as `kernel.attach` takes it; a function's address, too.
    """

    target: "str | int | FilePlace"
    probe: int

    @property
    def place(self) -> "AttachTarget":
        """The target, an address as text."""
        return f"{self.target:#x}" if isinstance(self.target, int) else self.target

    @property
    def text(self) -> str:
        """The target as text."""
        return str(self.place)


class Group(NamedTuple):
    """One program and the points it hangs on; more than one only where the program reads its cookie.

    `kind`: how it is attached; `multi`: all points by one kprobe.multi link, or by one uprobe.multi link a
    file; `btf_id`, `module`: of the
    function of an fentry or fexit, in the kernel's ("") or a module's BTF; `shapes`: how many kinds of events
    each point has; `otherwise`: gives another image of the same, for when the verifier finds this one too
    complex; None where there is none; `explain`: gives the program between checker and instructions, as text.
    """

    image: Image
    kind: str
    points: tuple[Point, ...]
    multi: bool = False
    btf_id: int = 0
    module: str = ""
    shapes: int = 1
    otherwise: "Callable[[], Image | None] | None" = None
    explain: Callable[[], str] | None = None


class UnitMap(NamedTuple):
    """A map that the programs of a plan share. `owner`: as in `tree.MapDeclaration`."""

    map: "Map"
    owner: object


class Plan(NamedTuple):
    """Programs with their points, and the schema of each shape of event, by number from 1. Those of one probe
    follow each other, and its number is that of its first.

    `skipped`: targets of wildcards that do not fit what was asked of them, and why; `unfiltered`: probes to
    which the filter does not apply, and why; `task`: the running kernel's tasks, None where it has no BTF;
    `notes`: what people should know of how their probes were understood; `optional`: the numbers of probes
    that the trace can do without; `again`: the plan without some probes, told why (see `without`); `modules`:
    the module of each probe on a module's function, by number; `maps`: those of the unit; `following`: the
    programs that keep the map of chosen processes, each with the event it hangs on; `prints_maps`: whether
    what the unit's maps hold at the end is printed; `stacks`: the unit's tables of stacks; `asked_by`: where
    probes may be taken away one by one, by the number of each probe which of those asked for it is of;
    `assumed`: names that are taken for those of one function each, without the table of symbols, which takes
    long to read: kernels tell when they attach (since 6.7); `anew`: the plan made with that table.
    """

    groups: tuple[Group, ...]
    schemas: tuple[Schema, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    task: TaskFields | None = None
    unfiltered: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    optional: frozenset[int] = frozenset()
    again: Callable[[Mapping[int, str]], "Plan"] | None = None
    modules: Mapping[int, str] = {}
    maps: tuple[UnitMap, ...] = ()
    following: tuple[tuple[Image, str], ...] = ()
    prints_maps: bool = True
    stacks: "tuple[StackTable, ...]" = ()
    asked_by: Mapping[int, tuple[int, ...]] = {}
    assumed: frozenset[str] = frozenset()
    anew: "Callable[[], Plan] | None" = None

    def without(self, causes: Mapping[int, str]) -> "Plan":
        """The plan without the probes of these numbers, which the kernel did not take, and why."""
        assert self.again is not None, "the plan has no optional probes"
        return self._as_told(self.again(causes))

    def looked_up(self) -> "Plan":
        """The plan made with the kernel's table of symbols."""
        assert self.anew is not None, "the plan assumes nothing"
        return self._as_told(self.anew())

    def _as_told(self, fresh: "Plan") -> "Plan":
        """Another plan, its schemas of the machine and the moment that ours tell of; where ours follows no
        processes by itself, neither does it.
        """
        old = self.schemas[0]
        schemas = (
            schema._replace(clock=old.clock, host=old.host, kernel=old.kernel) for schema in fresh.schemas
        )
        return fresh._replace(schemas=tuple(schemas), following=self.following)


class About(NamedTuple):
    """What is to be known of a script that runs, but for its plan. `warnings`: lines of what is said of it;
    `declared`: names of its maps with a size of their own; `cat_most`: bytes of a file that are shown.
    """

    warnings: tuple[str, ...]
    declared: frozenset[str]
    cat_most: int


class PlanResult(NamedTuple):
    """What is made by a process that plans (`plan_process`): a plan, and what else is known of it."""

    plan: Plan
    about: Any = None
