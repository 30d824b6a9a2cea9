"""The Python front end: probe functions, of a file or of a running program, and single expressions.

Invariants: text is parsed, never run (`parse_file` is safe on text from elsewhere); a live function is read
from its source text, never from its byte code. Integers and strings with constant values around a probe can
be used in it: those assigned at module level in a file, and for a live function also those of its closure and
of modules (`socket.AF_INET`), with the value they have when the probe is parsed.
"""

import ast
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FunctionType

from kwire.hints import Any, TypeAlias, TypeVar
from kwire.kinds import KINDS
from kwire.lang import attach as attaching
from kwire.lang import builtins, tree
from kwire.lang.errors import Diagnostic, LanguageError, TextError
from kwire.lang.outside import Name
from kwire.lang.pysyntax import Converter, dotted
from kwire.lang.tree import LINES, NOWHERE, Expr, Source, Span
from kwire.lazy import NamedTuple

_Converted = TypeVar("_Converted")

DECORATORS = {
    **{name: name for name in KINDS},
    "raw_tracepoint": "rawtracepoint",
    "probe": "",
}
"""Names of decorators and the kind of probe each makes; `probe` takes a whole spec."""

FOREIGN = {
    "&&": "write `and`",
    "||": "write `or`",
    "->": "write `.`: pointers are followed",
    "!": "write `not`",
}
"""Signs of other languages that people write, and Python's words for them."""


_Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

Elsewhere: TypeAlias = Callable[[str], Source | None]
"""Gives the text of a module by its name, where it can be had without running anything."""


def parse_file(text: str, name: str, elsewhere: Elsewhere = lambda module: None) -> list[tree.Probe]:
    """The probes in a Python text: module-level functions under kwire's decorators, in their order, with the
    functions that they call, of this text or of modules that it imports and `elsewhere` knows.

    Raises `LanguageError` with all that is wrong with the heads of any of them; what is wrong in their bodies
    is in `tree.Probe.faults`, for the checker to tell with what it finds.
    """
    home = _File(Source(name, text), elsewhere)
    faults: list[TextError] = []
    probes = [_probe(home, node, None, faults) for node in home.probes()]
    _raise(home.whole, faults)
    return probes


def parse_function(function: Callable[..., Any], attach: Sequence[str] | None = None) -> tree.Probe:
    """The probe of a function object, from its source text.

    `attach`: where it attaches ("kprobe:tcp_connect"); None takes the decorators in the text. Raises
    `LanguageError` when there is no source text, or as `parse_file`.
    """
    home = _Live(function)
    return _one(home, home.node, attach)


class Written(NamedTuple):
    """A probe function as text, with what it takes from around it: enough to parse it anywhere.

    `text`: of the function, behind as many empty lines as stand before it in `file`; `constants`, `values`:
    what plain and dotted names around it stand for; `names`: which name of the language is meant, where it
    was imported under another; `maps`: those that it uses, by name.
    """

    file: str
    text: str
    name: str
    attach: tuple[str, ...]
    constants: dict[str, int | str]
    values: dict[str, int | str]
    names: dict[str, str]
    maps: dict[str, tree.MapDeclaration]


def written(function: Callable[..., Any], attach: Sequence[str]) -> Written:
    """What of a function object must travel for `parse_written`. Raises `LanguageError` without a text, or
    where it calls functions of other files.
    """
    home = _Live(function)
    return _travels(home, home.node, attach)


def written_file(text: str, name: str, elsewhere: Elsewhere = lambda module: None) -> list[Written]:
    """What of the probes in a Python text must travel: each by itself, and nothing that stands beside them.

    Raises `LanguageError` with everything that is wrong as it is written.
    """
    home = _File(Source(name, text), elsewhere)
    probes = parse_file(text, name, elsewhere)
    wrong = [Diagnostic(*fault) for probe in probes for fault in probe.faults]
    if wrong:
        raise LanguageError(max((one.source for one in probes), key=lambda source: len(source.others)), wrong)
    found = []
    for probe, node in zip(probes, home.probes(), strict=True):
        found.append(_travels(home, node, [str(one) for one in probe.attach]))
    return found


def _travels(home: "_Home", node: _Function, attach: Sequence[str]) -> Written:
    """A probe with the functions that it calls, all at their own lines."""
    own = _Own(home)
    _raise(home.source, _clashes(Converter(home.source.text), node, home.known))
    own.functions_of(home, node)
    constants, values = home.taken(node)
    for other, function in own.found:
        if other.source.name != home.source.name:
            cause = f"{function.name} stands in {other.source.name}, which does not travel with the probe"
            span = Converter(home.source.text).span(node)
            span = span._replace(end_line=span.line, end_column=len(home.source.line(span.line)))
            raise LanguageError(home.source, [Diagnostic(span, cause, "define it in this file")])
        more = other.taken(function)
        constants, values = {**more[0], **constants}, {**more[1], **values}
    text = _alone(home.source, [node, *(function for _, function in own.found)])
    known = constants, values, own.names, own.maps
    return Written(home.source.name, text, node.name, tuple(attach), *known)


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

PROBE = "kwire.probe"
"""The module of the language's names."""


def _is_probe(node: ast.stmt, names: frozenset[str]) -> bool:
    return isinstance(node, _FUNCTIONS) and any(_decorators(node, names))


def _alone(source: Source, nodes: Sequence[_Function]) -> str:
    """The text of functions, each at its own line, and nothing between them."""
    lines = source.lines()
    kept = [""] * len(lines)
    for node in nodes:
        first = _first(node)
        kept[first - 1 : node.end_lineno] = lines[first - 1 : node.end_lineno]
    for node in nodes:
        above = _first(node) - 2
        if above >= 0 and lines[above + 1][:1].isspace() and not kept[above]:
            kept[above] = "if True:"  # it stands within something: that is made up
    return "\n".join(kept).rstrip("\n") + "\n"


def _first(node: _Function) -> int:
    """The first line of a function, its decorators included."""
    return min([node.lineno, *(one.lineno for one in node.decorator_list)])


def parse_written(written: Written) -> tree.Probe:
    """The probe of a function that came as text; nothing of it is run. Raises `LanguageError`."""
    home = _Text(written)
    node = home.functions.get(written.name)
    if node is None:
        raise _sourceless(written.file, f"there is no function {written.name}", "send its text")
    return _one(home, node, written.attach)


_TOKENS = re.compile(
    r"""(?x) (?P<text>[a-zA-Z]{0,2}(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')) | (?P<word>\w+) | (?P<sign>\S)"""
)
_OPERATORS = frozenset(("and", "or", "not", "in", "is", "if", "else"))


def _with_globs(text: str) -> tuple[str, bool]:
    """The text of a condition with `@` for each `~` between two operands, and whether there is one.

    Python has no such operator: `@`, which probes do not have, binds as tightly as it should.
    """
    if "~" not in text or "@" in text:
        return text, False
    operand, places = False, []
    for token in _TOKENS.finditer(text):
        sign = token.group("sign")
        if sign == "~" and operand:
            places.append(token.start())
        operand = sign in (")", "]", "}") if sign else token.group() not in _OPERATORS
    for place in places:
        text = f"{text[:place]}@{text[place + 1 :]}"
    return text, bool(places)


def parse_expression(text: str, name: str) -> Expr:
    """One expression, as given to --filter or --where; `name` is what errors call it."""
    return parse_condition(Source(name, text), 0, len(text))


def parse_condition(source: Source, start: int, end: int) -> Expr:
    """One expression: the part of a text from column `start` of its first line to `end`."""
    text = source.text[start:end]
    shift = start + len(text) - len(text.lstrip())
    parsed, globs = _with_globs(text.strip())
    module = _parse(source, parsed, shift)
    if len(module.body) != 1 or not isinstance(module.body[0], ast.Expr):
        span = Span(1, start, 1, max(start + 1, min(end, len(source.line(1)))))
        what = "nothing is written here" if not module.body else "this is not one expression"
        raise LanguageError(source, [Diagnostic(span, what, "write one expression, as in pid == 42")])
    converter, value = Converter(text.strip(), 0, shift), module.body[0].value
    converter.globs = globs
    try:
        return _deep(source, lambda: converter.expr(value))
    except TextError as fault:
        raise LanguageError(source, [fault.diagnostic]) from None


def closing(text: str, start: int) -> int:
    """Where the parenthesis at `start` is closed: the place behind it, or the end of the text."""
    depth = 0
    for token in _TOKENS.finditer(text, start):
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(token.group(), 0)
        if not depth:
            return token.end()
    return len(text)


def parse_arguments(source: Source, start: int, end: int) -> tuple[tuple[str, Expr], ...]:
    """The (name, expression) pairs of the `(expr, name=expr…)` from column `start` to `end` of a text."""
    text, globs = _with_globs("_" + source.text[start:end].rstrip())
    module = _parse(source, text, start - 1)
    statement = module.body[0] if len(module.body) == 1 else None
    call = statement.value if isinstance(statement, ast.Expr) else None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        span = Span(1, start, 1, max(start + 1, end))
        cure = "write PROBE(expr, name=expr)"
        raise LanguageError(source, [Diagnostic(span, "this is not a list of expressions", cure)])
    converter = Converter(text, 0, start - 1)
    converter.globs = globs
    try:
        converted = _deep(source, lambda: converter.call(call))
    except TextError as fault:
        raise LanguageError(source, [fault.diagnostic]) from None
    assert isinstance(converted, tree.Call)
    return tuple(("", one) for one in converted.arguments) + converted.keywords


def _parse(source: Source, text: str, column: int = 0) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of "10in x" the compiler would print what it thinks
            return ast.parse(text)
    except SyntaxError as error:
        line, offset = error.lineno or 1, max(error.offset or 1, 1) - 1
        end = error.end_offset - 1 if error.end_offset and error.end_lineno == line else offset + 1
        shift = column if line == 1 else 0
        span = Span(line, offset + shift, line, max(end, offset + 1) + shift)
        written = source.line(line)
        cure = next((cure for sign, cure in FOREIGN.items() if sign in written.replace("!=", "")), "")
        if "positional argument follows" in error.msg:
            cure = "put those with a name last"
        raise LanguageError(source, [Diagnostic(span, error.msg or "invalid syntax", cure)]) from None
    except (ValueError, RecursionError, MemoryError) as error:  # null bytes; nested too deeply
        cause = "nested too deeply" if not isinstance(error, ValueError) else str(error)
        raise LanguageError(source, [Diagnostic(NOWHERE, f"not Python: {cause}")]) from None


def _deep(source: Source, convert: Callable[[], _Converted]) -> _Converted:
    try:
        return convert()
    except RecursionError:
        raise LanguageError(source, [Diagnostic(NOWHERE, "nested too deeply")]) from None


def _raise(source: Source, faults: list[TextError]) -> None:
    if faults:
        raise LanguageError(source, [fault.diagnostic for fault in faults])


def _taken(
    node: ast.FunctionDef | ast.AsyncFunctionDef, known: Mapping[str, Any]
) -> tuple[dict[str, int | str], dict[str, int | str]]:
    """What a function uses of the constant values `known` around it: by plain and by dotted names."""
    constants: dict[str, int | str] = {}
    values: dict[str, int | str] = {}
    bound = {argument.arg for argument in node.args.args}
    for one in ast.walk(node):
        name = dotted(one) if isinstance(one, ast.Name | ast.Attribute) else ""
        root, *path = name.split(".")
        value = known.get(root)
        for part in path:
            # Modules and classes (enumerations) only: reading an attribute of these runs no code of probes.
            value = getattr(value, part, None) if isinstance(value, type | type(ast)) else None
        if isinstance(value, int | str) and root not in bound:
            # Members of IntEnum and their like become the plain value they are.
            plain = int(value) if isinstance(value, int) else str(value)
            (values if path else constants)[name] = plain
    return constants, values


def _clashes(
    converter: Converter, node: ast.FunctionDef | ast.AsyncFunctionDef, known: Mapping[str, Any]
) -> list[TextError]:
    """What a probe uses by a name that means one thing to the script around it and another to the language.

    A constant of Linux that has the same number in the script is the same; functions and modules of the
    script are not known to probes.
    """
    faults: dict[str, TextError] = {}
    own = _bound(node)
    for one in (one for statement in node.body for one in ast.walk(statement)):
        if not isinstance(one, ast.Name) or one.id in own or one.id not in known:
            continue
        value, meaning = known[one.id], builtins.meaning(one.id)
        same = isinstance(value, int) and value == builtins.linux_constant(one.id)
        if meaning and not same and not callable(value) and not isinstance(value, type(ast)):
            message = f"{one.id} is {meaning}, and a name of the script around this one"
            faults.setdefault(
                one.id, TextError(converter.span(one), message, "give the script's another name")
            )
    return list(faults.values())


def _kept(home: "_Home", node: _Function, own: "_Own") -> Source:
    """The source with what a capture keeps of it: the probe, the functions that it calls, and the values of
    the names they use; and with the other texts that these stand in.
    """
    named: dict[str, int | str] = {}
    lines: list[str] = []
    for place, function in [*own.found, (home, node)]:
        for values in place.taken(function):
            named |= values
        text = place.source.lines()[_first(function) - 1 : function.end_lineno]
        indent = len(text[0]) - len(text[0].lstrip())
        lines += [line[indent:] if not line[:indent].strip() else line for line in text]
    constants = [f"{name} = {value!r}" for name, value in sorted(named.items())]
    return home.whole._replace(kept="\n".join([*constants, *lines, ""]))


def _one(home: "_Home", node: _Function, attach: Sequence[str] | None) -> tree.Probe:
    """The probe of one function node."""
    faults: list[TextError] = []
    probe = _probe(home, node, attach, faults)
    _raise(home.whole, faults)
    return probe


def _probe(
    home: "_Home", node: _Function, attach: Sequence[str] | None, faults: list[TextError]
) -> tree.Probe:
    own = _Own(home)
    converter = own.converter(home, node)
    faults += _clashes(converter, node, home.known)
    span = converter.span(node)
    head = Span(span.line, span.column, span.line, len(home.source.line(span.line)))
    if isinstance(node, ast.AsyncFunctionDef):
        faults.append(TextError(head, "a probe is not async", "write def"))
    parameters = _parameters(converter, node, head, "a probe", faults)
    where: list[tree.AttachPoint | None] = []
    if attach is None:
        for decorator in node.decorator_list:
            where.extend(_attach(converter, decorator, faults))
    else:
        where = [_checked_attach(text, head, faults) for text in attach]
    inside: list[TextError] = []
    body = _deep(home.source, lambda: converter.body(node.body, inside))
    functions = _deep(home.source, lambda: own.functions(inside))
    if faults:
        faults += inside
    return tree.Probe(
        node.name,
        tuple(one for one in where if one is not None),
        parameters,
        body,
        _kept(home, node, own),
        span,
        tuple(home.taken(node)[0].items()),
        functions,
        tuple((one.diagnostic.span, one.diagnostic.message, one.diagnostic.cure) for one in inside),
        tuple(own.prints.items()),
    )


def _parameters(
    converter: Converter, node: _Function, head: Span, what: str, faults: list[TextError]
) -> tuple[tree.Parameter, ...]:
    """The parameters of a function; `what` it is in messages."""
    arguments = node.args
    unusual = (
        arguments.vararg,
        arguments.kwarg,
        arguments.kwonlyargs,
        arguments.posonlyargs,
    )
    probe = what == "a probe"
    if any(unusual) or (probe and arguments.defaults):
        cure = "write def probe(a, b):" if probe else f"write def {node.name}(a, b):"
        faults.append(TextError(head, f"{what} takes plain parameters only", cure))
    parameters = []
    defaults = [None] * (len(arguments.args) - len(arguments.defaults)) + arguments.defaults
    for argument, written in zip(arguments.args, defaults, strict=True):
        at = converter.span(argument)
        name_span = Span(at.line, at.column, at.line, at.column + len(argument.arg))
        type_, type_span = "", name_span
        if argument.annotation is not None:
            type_span = converter.span(argument.annotation)
            try:
                type_ = converter.annotation(argument.annotation)
            except TextError as fault:
                faults.append(fault)
        default = None
        if written is not None and not probe:
            try:
                default = converter.expr(written)
            except TextError as fault:
                faults.append(fault)
        parameters.append(tree.Parameter(argument.arg, type_, name_span, type_span, default))
    return tuple(parameters)


class _Home(ABC):
    """Where functions stand: a text, and what names in it mean. `known`: values of names, as far as they can
    be told; `names`: those of the module kwire.
    """

    source: Source
    known: Mapping[str, Any]
    names: frozenset[str]

    def __init__(self, source: Source) -> None:
        self.source = source
        self.others: list[Source] = []  # the texts besides this one that functions called from here stand in

    @property
    def whole(self) -> Source:
        """The text, with the others."""
        return self.source._replace(others=tuple(self.others))

    def taken(self, node: _Function) -> tuple[dict[str, int | str], dict[str, int | str]]:
        """What a function uses of the values around it: by plain and by dotted names."""
        return _taken(node, self.known)

    @abstractmethod
    def find(self, name: str) -> "tuple[_Home, _Function] | None":
        """The function that a plain or dotted name means here, and where that stands."""

    def map(self, name: str) -> tree.MapDeclaration | None:
        """The map that a plain or dotted name means here. Raises ValueError for what is declared wrongly."""
        return None

    @abstractmethod
    def language(self, name: str) -> str:
        """The name of the probe language that a plain or dotted name was made to stand for here, by an import
        from `kwire.probe`; empty where it was not.
        """


class _File(_Home):
    """A text of a file."""

    def __init__(self, source: Source, elsewhere: Elsewhere) -> None:
        super().__init__(source)
        self.elsewhere = elsewhere
        self.module = _parse(source, source.text)
        self.names = _kwire_names(self.module)
        self.known = _constants(self.module)
        functions = [node for node in self.module.body if isinstance(node, _FUNCTIONS)]
        self.functions = {node.name: node for node in functions if not _is_probe(node, self.names)}
        self._declarations: dict[str, tuple[str, ast.Call]] | None = None
        self.imported: dict[str, tuple[str, str]] = {}  # a name → a module, and what of it ("": itself)
        for one in self.module.body:
            if isinstance(one, ast.ImportFrom) and one.module and not one.level:
                self.imported |= {at.asname or at.name: (one.module, at.name) for at in one.names}
            elif isinstance(one, ast.Import):
                self.imported |= {at.asname or at.name: (at.name, "") for at in one.names}

    def map(self, name: str) -> tree.MapDeclaration | None:
        root, _, last = name.rpartition(".")
        if not root and last in self.declarations:
            return _declared(*self.declarations[last], last, f"{self.source.name}:{last}", self.known)
        module, what = self.imported.get(root or last, ("", ""))
        if not module or bool(root) == bool(what) or module.partition(".")[0] == "kwire":
            return None
        found = self.elsewhere(module)
        return None if found is None else _File(found, self.elsewhere).map(what or last)

    def language(self, name: str) -> str:
        root, _, last = name.rpartition(".")
        if not root:
            module, what = self.imported.get(last, ("", ""))
            return what if module == PROBE and last != what else ""
        module = ".".join(filter(None, self.imported.get(root, (root, ""))))
        return last if module == PROBE else ""

    @property
    def declarations(self) -> dict[str, tuple[str, ast.Call]]:
        """The calls that make maps, with the maker's name, by the name that is given to each."""
        if self._declarations is None:
            from kwire.lang.declarations import MAKERS

            self._declarations = {}
            for node in self.module.body:
                match node:
                    case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call() as call):
                        pass
                    case ast.AnnAssign(target=ast.Name(id=name), value=ast.Call() as call):
                        pass
                    case _:
                        continue
                root, _, maker = dotted(call.func).rpartition(".")
                if not root and self.imported.get(maker, ("", ""))[0] == "kwire":
                    maker = self.imported[maker][1]
                elif root not in self.names:
                    continue
                if maker in MAKERS:
                    self._declarations[name] = maker, call
        return self._declarations

    def probes(self) -> list[_Function]:
        """The functions under kwire's decorators."""
        nodes = [node for node in self.module.body if isinstance(node, _FUNCTIONS)]
        return [node for node in nodes if _is_probe(node, self.names)]

    def find(self, name: str) -> tuple[_Home, _Function] | None:
        root, _, last = name.rpartition(".")
        if not root and last in self.functions:
            return self, self.functions[last]
        module, what = self.imported.get(root or last, ("", ""))
        if not module or bool(root) == bool(what) or module.partition(".")[0] == "kwire":
            return None
        found = self.elsewhere(module)
        if found is None:
            return None
        home = _File(found, self.elsewhere)
        node = home.functions.get(what or last)
        return (home, node) if node is not None else home.find(what or last)


class _Live(_Home):
    """The file of a function object, and what names mean to that."""

    def __init__(self, function: Callable[..., Any]) -> None:
        source, self.node, _ = _source_of(function)
        super().__init__(source)
        self.known = _surroundings(function)
        kwire = (name for name, value in self.known.items() if getattr(value, "__name__", "") == "kwire")
        self.names = frozenset((*kwire, "kwire"))

    def find(self, name: str) -> tuple[_Home, _Function] | None:
        root, *path = name.split(".")
        value = self.known.get(root)
        for part in path:
            value = getattr(value, part, None) if isinstance(value, type(ast)) else None
        module = str(getattr(value, "__module__", None))
        if not isinstance(value, FunctionType) or module.partition(".")[0] == "kwire":
            return None
        home = _Live(value)
        return home, home.node

    def map(self, name: str) -> tree.MapDeclaration | None:
        root, *path = name.split(".")
        value = self.known.get(root)
        for part in path:
            value = getattr(value, part, None) if isinstance(value, type(ast)) else None
        made = getattr(value, "declaration", None) if value is not None else None
        return made.replace(title=name.rpartition(".")[2]) if isinstance(made, tree.MapDeclaration) else None

    def language(self, name: str) -> str:
        root, *path = name.split(".")
        value = self.known.get(root)
        for part in path:
            value = getattr(value, part, None) if isinstance(value, type(ast)) else None
        return value.__name__ if isinstance(value, Name) and value.__name__ != name else ""


class _Text(_Home):
    """A text that came from elsewhere, with the values of the names it uses."""

    def __init__(self, written: Written) -> None:
        super().__init__(Source(written.file, written.text))
        nodes = [node for node in ast.walk(_parse(self.source, written.text)) if isinstance(node, _FUNCTIONS)]
        self.functions = {node.name: node for node in reversed(nodes)}
        decorating = (name for node in nodes for name in _decorating(node))
        self.names = frozenset(("kwire", *decorating))
        self.written = written
        self.known = {}

    def taken(self, node: _Function) -> tuple[dict[str, int | str], dict[str, int | str]]:
        return self.written.constants, self.written.values

    def language(self, name: str) -> str:
        return self.written.names.get(name, "")

    def map(self, name: str) -> tree.MapDeclaration | None:
        return self.written.maps.get(name)

    def find(self, name: str) -> tuple[_Home, _Function] | None:
        node = self.functions.get(name.rpartition(".")[2])
        return None if node is None or node.name == self.written.name else (self, node)


class _Own:
    """The functions that a probe calls, found while its text is converted."""

    def __init__(self, home: _Home) -> None:
        self.home = home
        self.found: list[tuple[_Home, _Function]] = []
        self.numbers: dict[tuple[_Home, str], int] = {}  # what was asked for already
        self.maps: dict[str, tree.MapDeclaration] = {}  # those that are used, by name
        self.prints: dict[str, tree.Print] = {}  # the statements that print
        self.names: dict[str, str] = {}  # those of the language that are called otherwise here

    def converter(self, home: _Home, node: _Function) -> Converter:
        """What converts a function that stands there."""
        converter = Converter(home.source.text, LINES * self._text(home), kwire_names=home.names)
        converter.values.update(home.taken(node)[1])
        converter.own = lambda name: self.number(home, name)
        converter.prints = self.prints
        bound = _bound(node)
        converter.language = lambda name: "" if name.partition(".")[0] in bound else self.name(home, name)
        converter.maps = lambda name: None if name.partition(".")[0] in bound else self.map(home, name)
        return converter

    def name(self, home: _Home, name: str) -> str:
        """The name of the language that another stands for there."""
        found = home.language(name)
        if found:
            self.names[name] = found
        return found

    def map(self, home: _Home, name: str) -> tree.MapDeclaration | None:
        """The map that a name means there."""
        found = home.map(name)
        if found is not None:
            self.maps[name] = found
        return found

    def number(self, home: _Home, name: str) -> int:
        """The number of the function that a name means; -1 where it means none."""
        number = self.numbers.get((home, name))
        if number is None:
            number = self.numbers[home, name] = self._number(home.find(name))
        return number

    def _number(self, found: tuple[_Home, _Function] | None) -> int:
        if found is None:
            return -1
        for number, (place, node) in enumerate(self.found):
            if place.source.name == found[0].source.name and node.lineno == found[1].lineno:
                return number
        self.found.append(found)
        return len(self.found) - 1

    def functions(self, faults: list[TextError]) -> tuple[tree.Function, ...]:
        """All of them, those included that they call themselves."""
        made: list[tree.Function] = []
        while len(made) < len(self.found):
            home, node = self.found[len(made)]
            converter = self.converter(home, node)
            converter.returns = True
            faults += _clashes(converter, node, home.known)
            span = converter.span(node)
            line = home.source.line(node.lineno)
            head = Span(span.line, span.column, span.line, len(line))
            if isinstance(node, ast.AsyncFunctionDef) or node.decorator_list:
                message = "a function that probes call is plain: not async, not decorated"
                faults.append(TextError(head, message, f"write def {node.name}(a, b):"))
            parameters = _parameters(converter, node, head, "a function that probes call", faults)
            body = converter.body(node.body, faults)
            constants = tuple(home.taken(node)[0].items())
            made.append(tree.Function(node.name, parameters, body, head, constants))
        return tuple(made)

    def functions_of(self, home: _Home, node: _Function) -> None:
        """Find all that a probe calls; what is wrong in them is told elsewhere."""
        self.converter(home, node).body(node.body, [])
        self.functions([])

    def _text(self, home: _Home) -> int:
        """Which text that is: 0 the probe's, else one more than its index in the others."""
        if home.source.name == self.home.source.name:
            return 0
        others = self.home.others
        for number, source in enumerate(others, 1):
            if source.name == home.source.name:
                return number
        others.append(home.source)
        return len(others)


def _declared(
    name: str, call: ast.Call, title: str, owner: str, known: Mapping[str, int | str | None]
) -> tree.MapDeclaration:
    """The map that a call in a text declares, which is not run. Raises ValueError."""
    from kwire.lang.declarations import declare

    for keyword in call.keywords:
        if keyword.arg is None:
            raise ValueError("** has no meaning where nothing is run")
    named = {one.arg: _argument(one.value, known) for one in call.keywords if one.arg is not None}
    return declare(name, [_argument(one, known) for one in call.args], named, title, owner)


def _argument(node: ast.expr, known: Mapping[str, int | str | None]) -> object:
    """The value of an argument of a declaration, which is known without running anything."""
    types = {"int": int, "bool": bool, "str": str}
    match node:
        case ast.Constant(value=int() | str() as value):
            return value
        case ast.Name(id=name) if name in types:
            return types[name]
        case ast.Tuple(elts=parts) | ast.List(elts=parts):
            return tuple(_argument(one, known) for one in parts)
    folded = _fold(node, known)
    if folded is not None:
        return folded
    raise ValueError(f"{ast.unparse(node)} is not known without running it")


def _bound(node: _Function) -> frozenset[str]:
    """The names that are a function's own."""
    stored = (
        one.id for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)
    )
    return frozenset((*stored, *(argument.arg for argument in node.args.args)))


def _attach(
    converter: Converter, decorator: ast.expr, faults: list[TextError]
) -> Iterator[tree.AttachPoint | None]:
    call = decorator if isinstance(decorator, ast.Call) else None
    name = dotted(call.func if call else decorator).rpartition(".")
    if name[2] not in DECORATORS or (name[0] and name[0] not in converter.kwire_names):
        return
    span = converter.span(decorator)
    kind = DECORATORS[name[2]]
    if kind and KINDS[kind].place == "trace":
        if call is not None:
            faults.append(TextError(span, f"{kind} has no target", f"write @kwire.{kind}"))
        yield tree.AttachPoint(kind, "", "", 0, span)
        return
    example = '@kwire.probe("kprobe:tcp_connect")' if not kind else f'@kwire.{name[2]}("…")'
    if call is None or not call.args or call.keywords:
        faults.append(TextError(span, "the decorator does not say where to attach", f"write {example}"))
        return
    for argument in call.args:
        at = converter.span(argument)
        if not isinstance(argument, ast.Constant) or not isinstance(argument.value, str):
            faults.append(TextError(at, "an attach point is a string", f"write {example}"))
            continue
        yield _checked_attach(f"{kind}:{argument.value}" if kind else argument.value, at, faults)


def _checked_attach(text: str, span: Span, faults: list[TextError]) -> tree.AttachPoint | None:
    end = attaching.tail(text)
    if end < len(text):
        faults.append(TextError(span, "expressions belong into the function", "emit(…) them, or use if"))
    try:
        point = attaching.parse(Source("PROBE", text), end)
    except LanguageError as error:
        first = error.diagnostics[0]
        faults.append(TextError(span, first.message, first.cure))
        return None
    return point.replace(span=span)


def _decorators(node: ast.FunctionDef | ast.AsyncFunctionDef, names: frozenset[str]) -> Iterator[str]:
    for decorator in node.decorator_list:
        written = dotted(decorator.func if isinstance(decorator, ast.Call) else decorator)
        root, _, last = written.rpartition(".")
        if last in DECORATORS and (not root or root in names):
            yield last


def _decorating(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    """The names by which the decorators of a probe know kwire."""
    for decorator in node.decorator_list:
        root, _, last = dotted(decorator.func if isinstance(decorator, ast.Call) else decorator).rpartition(
            "."
        )
        if root and last in DECORATORS:
            yield root


def _kwire_names(module: ast.Module) -> frozenset[str]:
    names = {"kwire"}
    for node in module.body:
        if isinstance(node, ast.Import):
            names.update(one.asname for one in node.names if one.name == "kwire" and one.asname)
    return frozenset(names)


def _constants(module: ast.Module) -> dict[str, int | str | None]:
    """Names assigned at module level; None where the value cannot be told without running anything."""
    known: dict[str, int | str | None] = {}
    for node in module.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                pass
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                pass
            case _:
                for one in () if isinstance(node, _SCOPES) else ast.walk(node):
                    if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store):
                        known[one.id] = None
                continue
        known[name] = _fold(value, known)
    return known


_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
"""Statements whose assignments are not the module's."""


def _fold(node: ast.expr, known: Mapping[str, int | str | None]) -> int | str | None:
    match node:
        case ast.Constant(value=int() | str() as value):
            return int(value) if isinstance(value, int) else value
        case ast.Name(id=name):
            return known.get(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            negated = _fold(operand, known)
            return -negated if isinstance(negated, int) else None
        case ast.BinOp(left=left, right=right):
            a, b = _fold(left, known), _fold(right, known)
            if isinstance(a, int) and isinstance(b, int) and abs(a) < 1 << 64 and abs(b) < 1 << 64:
                return _fold_integers(node.op, a, b)
    return None


def _fold_integers(op: ast.operator, a: int, b: int) -> int | None:
    match op:
        case ast.Add():
            return a + b
        case ast.Sub():
            return a - b
        case ast.Mult():
            return a * b
        case ast.BitOr():
            return a | b
        case ast.BitAnd():
            return a & b
        case ast.LShift() if 0 <= b < 64:
            return a << b
        case ast.FloorDiv() if b:
            return a // b
        case ast.Pow() if 0 <= b < 64:
            return int(a**b)
    return None


def _source_of(function: Callable[..., Any]) -> tuple[Source, ast.FunctionDef | ast.AsyncFunctionDef, str]:
    """The text of the whole file around a function, and the function's node in it."""
    code = getattr(function, "__code__", None)
    name = getattr(function, "__name__", repr(function))
    if code is None:
        raise _sourceless(name, f"{name} is not a Python function", "give a function defined with def")
    if name == "<lambda>":
        raise _sourceless(code.co_filename, "a lambda cannot be a probe", "write a function with def")
    import linecache

    linecache.checkcache(code.co_filename)
    text = "".join(linecache.getlines(code.co_filename, getattr(function, "__globals__", None)))
    if not text and hasattr(linecache, "_getlines_from_code"):  # what was typed at the prompt, Python 3.13
        text = "".join(linecache._getlines_from_code(code))
    if not text:
        raise _sourceless(
            code.co_filename, f"the source text of {name} cannot be found", _where_text_is(code)
        )
    source = Source(code.co_filename, text)
    for node in ast.walk(_parse(source, text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
            first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
            if code.co_firstlineno in (first, node.lineno):
                return source, node, text
    cause = f"{name} is not at line {code.co_firstlineno} of its file"
    raise _sourceless(code.co_filename, cause, "was the file changed while running?")


def _where_text_is(code: Any) -> str:
    """What to do about a function without a text."""
    if code.co_filename == "<stdin>":
        cure = "Python's prompt keeps what is typed from 3.13 on; use IPython, put the function into a file"
        return f'{cure}, or trace a spec: "kprobe:tcp_connect(pid, comm)"'
    return "put it into a file"


def _sourceless(name: str, message: str, cure: str) -> LanguageError:
    return LanguageError(Source(name, ""), [Diagnostic(NOWHERE, message, cure)])


def _surroundings(function: Callable[..., Any]) -> dict[str, Any]:
    """Names a live function sees: its globals, hidden by what it closes over."""
    known = dict(getattr(function, "__globals__", {}))
    code = function.__code__
    for name, cell in zip(code.co_freevars, getattr(function, "__closure__", None) or (), strict=True):
        try:
            known[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            known.pop(name, None)
    return known
