"""Diagnostics about probe text: collected, located, shown with the source line and the span.

Invariants: `str(error)` is one line, `file:line: message; cure`; `error.detail` shows every diagnostic with
its source line underlined; a message names what was written and what is known, a cure says what to write.
"""

from collections.abc import Iterable, Sequence

from kwire.errors import KwireError
from kwire.lang.tree import NOWHERE, Source, Span
from kwire.lazy import NamedTuple


class Diagnostic(NamedTuple):
    """One thing that is wrong, where, and what to do about it (may be empty)."""

    span: Span
    message: str
    cure: str = ""

    def line(self, source: Source) -> str:
        """`file:line: message; cure`, or without the line where nobody wrote one."""
        source, line = source.at(self.span.line)
        place = source.name if self.span == NOWHERE else f"{source.name}:{line}"
        return f"{place}: {self.message}; {self.cure}" if self.cure else f"{place}: {self.message}"

    def picture(self, source: Source) -> str:
        """The line, then the source line with the span underlined."""
        if self.span == NOWHERE:
            return self.line(source)
        own, line = source.at(self.span.line)
        text = own.line(line)
        number = f"{line:5} | "
        end = self.span.end_column if self.span.end_line == self.span.line else len(text)
        width = max(1, min(end, len(text)) - self.span.column)
        before = "".join("\t" if char == "\t" else " " for char in text[: self.span.column])
        return f"{self.line(source)}\n{number}{text}\n{' ' * 5} | {before}^{'~' * (width - 1)}"

    def report(self, source: Source, kind: str = "ERROR") -> list[str]:
        """The lines in the form of compilers: place with columns from 1, the source line, the span under it,
        and a hint.
        """
        span = self.span
        own, line = source.at(span.line)
        text = own.line(line)
        same = span.end_line == span.line
        end = max(span.end_column if same else len(text), span.column + 1)
        where = f"{line}:{span.column + 1}-{end + 1}" if same else f"{line}-{span.end_line}"
        before = "".join("\t" if char == "\t" else " " for char in text[: span.column])
        found = [f"{own.name}:{where}: {kind}: {self.message}"]
        if text.strip():
            found += [text, f"{before}{'~' * (end - span.column)}"]
        return [*found, f"HINT: {self.cure}"] if self.cure else found


class Mistake(NamedTuple):
    """Something that is wrong in a text: where (lines and columns from 1, the end exclusive), and what."""

    file: str
    line: int
    column: int
    end_line: int
    end_column: int
    message: str
    cure: str


class LanguageError(KwireError):
    """Probe text that cannot become a program. `diagnostics` are in the order of the text, at least one."""

    def __init__(self, source: Source, diagnostics: Iterable[Diagnostic]) -> None:
        self.source = source
        self.diagnostics = tuple(sorted(set(diagnostics), key=lambda one: one.span))
        first = self.diagnostics[0]
        super().__init__("compile", source.name, first.message, first.cure)

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.source, self.diagnostics))

    def __str__(self) -> str:
        more = len(self.diagnostics) - 1
        text = self.diagnostics[0].line(self.source)
        return f"{text} (and {more} more)" if more else text

    @property
    def places(self) -> list[Mistake]:
        """Everything that is wrong, each with its place."""
        found = []
        for span, message, cure in self.diagnostics:
            own, line = self.source.at(span.line)
            _, end = self.source.at(span.end_line)
            found.append(Mistake(own.name, line, span.column + 1, end, span.end_column + 1, message, cure))
        return found

    @property
    def detail(self) -> str:
        """Every diagnostic with its source line and the span underlined."""
        return "\n".join(one.picture(self.source) for one in self.diagnostics)


def together(errors: Sequence[LanguageError]) -> LanguageError:
    """The first of several errors, with all that is wrong in the same text."""
    first = errors[0]
    same = [one for one in errors if one.source.name == first.source.name]
    if len(same) == 1:
        return first
    most = max((one.source for one in same), key=lambda source: len(source.others))
    return LanguageError(most, [diagnostic for one in same for diagnostic in one.diagnostics])


class UnknownNameError(LanguageError):
    """A condition with a name that does not exist at the attach point."""


class TextError(Exception):
    """Inside the room: this part of the text is wrong; caught where the next part can still be looked at."""

    def __init__(self, span: Span, message: str, cure: str = "") -> None:
        super().__init__(message)
        self.diagnostic = Diagnostic(span, message, cure)


class NameTextError(TextError):
    """Inside the room: a name that does not exist here; `name` where others like it may be suggested."""

    def __init__(self, span: Span, message: str, cure: str = "", name: str = "") -> None:
        super().__init__(span, message, cure)
        self.name = name


class NeverTextError(TextError):
    """Inside the room: a comparison that no value makes true."""


def never_anywhere(found: Iterable[Iterable[Diagnostic]]) -> Diagnostic | None:
    """The first comparison that is never true at any of several places; `found` are those of each place.

    What is never true of one probe may be true of another that the same condition is about.
    """
    places = [{one.span: one for one in diagnostics} for diagnostics in found]
    common = set.intersection(*map(set, places)) if places else set()
    return places[0][min(common)] if common else None


def nearest(name: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """The names most like `name`, best first; none when nothing is near."""
    import difflib

    lowered = {one.lower(): one for one in known}
    return [lowered[one] for one in difflib.get_close_matches(name.lower(), lowered, limit, 0.6)]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A cure that names the nearest names, or nothing."""
    names = nearest(name, known)
    if not names:
        return ""
    return "did you mean " + " or ".join([", ".join(names[:-1]), names[-1]] if names[:-1] else names) + "?"
