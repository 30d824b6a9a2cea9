"""A script as a whole: its probes, each with the places where it attaches and its program at each of them.

Invariant: what is wrong whatever the kernel has is told before anything is compiled, all of it at once.
"""

from collections.abc import Collection, Mapping

from kwire.hints import Final
from kwire.lang import check, tree
from kwire.lang import checked as c
from kwire.lang.bpftrace import owntypes
from kwire.lang.bpftrace import syntax as s
from kwire.lang.bpftrace.branches import with_tails
from kwire.lang.bpftrace.choices import with_choices
from kwire.lang.bpftrace.lower import Lowering, Surroundings
from kwire.lang.bpftrace.macros import form
from kwire.lang.bpftrace.maps import declared_maps
from kwire.lang.bpftrace.options import with_options
from kwire.lang.bpftrace.owntypes import OwnTypes
from kwire.lang.bpftrace.points import attach_point
from kwire.lang.bpftrace.settings import settings
from kwire.lang.bpftrace.specialize import without_map_parameters
from kwire.lang.context import Site
from kwire.lang.errors import Diagnostic, LanguageError, TextError
from kwire.lang.expressions import Types
from kwire.lang.forms import walk
from kwire.lang.inferred import Inferred
from kwire.lang.tree import AttachPoint, Source, Span


class ScriptProbe:
    """A probe of a script: where it attaches, and its program at each place."""

    __slots__ = ("_name", "_script", "_settings", "_source", "_surroundings", "attach", "maps", "probe")

    def __init__(
        self,
        script: s.Script,
        number: int,
        attach: tuple[AttachPoint, ...],
        settings: Mapping[str, int | str | bool],
        surroundings: Surroundings,
        maps: Mapping[str, Inferred],
    ) -> None:
        self.probe = script.probes[number]
        self.attach = attach
        self.maps = maps
        self._script = script
        self._settings = settings
        self._surroundings = surroundings
        self._name = f"probe_{number + 1}"
        self._source = script.source._replace(kept=_text(script.source, self.probe))

    def faults(self) -> list[Diagnostic]:
        """What is wrong in it whatever the places have: of the words of the language."""
        site = Site(self.attach[0].kind, self.attach[0].target, ()) if self.attach else Site("begin", "", ())
        try:
            lowering = self._lowered(site)[0]
        except RecursionError:
            return [self._deep()]
        return list(dict.fromkeys(lowering.faults))

    def asks(self, maps: Collection[str], span: Span) -> bool:
        """Whether what stands at `span` has to do with any of these maps."""
        nodes = (node for node in walk(self.probe) if isinstance(node, s.Map) and node.id in maps)
        return any(span[:2] <= one.span[:2] and one.span[2:] <= span[2:] for one in nodes)

    def _lowered(self, site: Site) -> tuple[Lowering, tuple[tree.Stmt, ...]]:
        """The probe at a place as statements. A variable that is used behind the block it was first assigned
        in is one of the whole probe, as all once were.
        """
        wide: set[str] = set()
        while True:
            lowering = Lowering(
                self._script, self.probe, site, self._settings, self._surroundings, self.maps, wide
            )
            body = lowering.body()
            if lowering.wide <= wide:
                return lowering, body
            wide |= lowering.wide

    def _deep(self) -> Diagnostic:
        return Diagnostic(self.probe.span, "this probe is nested too deeply", "use variables")

    def program(self, site: Site, types: Types) -> c.Program:
        """The program at one place. Raises `LanguageError` with everything that is wrong in it."""
        source = self._source
        try:
            lowering, body = self._lowered(site)
            if lowering.faults:
                raise LanguageError(source, lowering.faults)
            span = self.probe.span
            if self._script.structs or self._script.enums:
                types = OwnTypes(types, self._script)
            prints = tuple(lowering.prints.items())
            made = tree.Probe(self._name, (), (), body, source, span, prints=prints)
            return check.check(made, site, types, dialect=check.C)
        except LanguageError as error:
            raise LanguageError(source, dict.fromkeys(map(_in_own_words, error.diagnostics))) from None
        except RecursionError:
            raise LanguageError(source, [self._deep()]) from None


def probes(script: s.Script, surroundings: Surroundings) -> list[ScriptProbe]:
    """The probes of a script. Raises `LanguageError` with what is wrong in it whatever the kernel has."""
    faults = [
        *(Diagnostic(one.span, "import is not supported yet") for one in script.imports),
        *(
            Diagnostic(one.span, "functions are not supported yet", "write a macro")
            for one in script.functions
        ),
        *owntypes.faults(script),
    ]
    script = with_options(script, surroundings.options, faults)
    script = with_choices(script, surroundings.command > 0)
    names: set[tuple[str, tuple[str, ...]]] = set()
    for macro in script.macros:
        key = macro.name, form(macro)
        if key in names:
            faults.append(Diagnostic(macro.span, f"there are two macros {macro.name}"))
        names.add(key)
    script = without_map_parameters(script, faults)
    own = {one.name for one in script.macros} | {one.name for one in script.functions}
    script = script.replace(probes=tuple(with_tails(one, own) for one in script.probes))
    try:
        chosen: Mapping[str, int | str | bool] = settings(script, surroundings.environment)
    except LanguageError as error:
        faults += error.diagnostics
        chosen = {}
    maps = declared_maps(script, chosen, faults, surroundings.arguments)
    found: list[ScriptProbe] = []
    for number, probe in enumerate(script.probes):
        points: list[AttachPoint] = []
        for point in probe.points:
            try:
                points.append(attach_point(point, surroundings.arguments))
            except TextError as error:
                faults.append(error.diagnostic)
        found.append(ScriptProbe(script, number, tuple(points), chosen, surroundings, maps))
    faults += [fault for probe in found for fault in probe.faults()]
    if faults:
        raise LanguageError(script.source, faults)
    return found


def _text(source: Source, probe: s.Probe) -> str:
    """The text of a probe."""
    lines = source.lines()[probe.span.line - 1 : probe.body.span.end_line]
    if not lines:
        return ""
    end, first = probe.body.span.end_column, probe.span.column
    lines[-1] = lines[-1][:end]
    lines[0] = lines[0][first:]
    return "\n".join(lines)


def _in_own_words(one: Diagnostic) -> Diagnostic:
    """A diagnostic of the checker, whose hints are written in Python, in the words of this language."""
    cure, at = one.cure, one.cure.find('cast("')
    if at >= 0:
        type_, _, rest = cure[at + len('cast("') :].partition('", ')
        value, _, behind = rest.partition(")")
        cure = f"{cure[:at]}(({type_}){value}){behind}"
    elif cure.startswith("macros are not"):
        cure = f"write its number: #define {one.message.rpartition(' ')[2]} …"
    elif "emit" in cure or " if " in cure:
        cure = ""
    for theirs, own in _OWN_CURES:
        if cure.startswith(theirs):
            cure = own
    for name in ("u64", "s64", "u32"):
        cure = cure.replace(f"{name}(x)", f"({_C_NAMES[name]})x")
    return one._replace(cure=cure)


_OWN_CURES: Final = (("say a smaller number: turns(", "put fewer loops into each other"),)
"""How a hint that is written in Python begins → the hint of this language."""

_C_NAMES: Final = {"u64": "uint64", "s64": "int64", "u32": "uint32"}
