"""What begins with `#`: conditions, includes, and names for expressions.

Invariants: the text keeps its length and its lines, so places in it stay what they are; directives and what
their conditions leave out become blanks. Types and constants come from the running kernel, so an `#include`
of a system header is not looked for.
"""

from collections.abc import Callable

from kwire.hints import Final
from kwire.lang.bpftrace import syntax
from kwire.lang.bpftrace.lexer import BLANKS, LETTERS, WORDS, Lexer
from kwire.lang.bpftrace.parser import Definition, SilentError, expression
from kwire.lang.errors import Diagnostic, TextError
from kwire.lang.tree import Source, Span
from kwire.lazy import NamedTuple

KNOWN: Final = {"BPFTRACE_HAVE_BTF": "1", "__x86_64__": "1", "__KERNEL__": "1"}
"""Names that are defined before a script begins."""


class Preprocessed(NamedTuple):
    """The text without directives, and the names that they define."""

    text: str
    definitions: dict[str, Definition]


def preprocess(source: Source, faults: list[Diagnostic]) -> Preprocessed:
    """Do what the directives of a text say. `faults` takes what is wrong."""
    text = source.text
    nowhere = Span(1, 0, 1, 0)
    known = {name: Definition(name, body, nowhere) for name, body in KNOWN.items()}
    if "#" not in text:
        return Preprocessed(text, known)
    return _Preprocessor(text, known, faults).run()


class _Branch(NamedTuple):
    """An open condition: whether what stands here counts, whether one of its parts did, where it began."""

    counts: bool
    taken: bool
    last: bool
    span: Span


class _Preprocessor:
    """One pass over the lines of a text."""

    def __init__(self, text: str, known: dict[str, Definition], faults: list[Diagnostic]) -> None:
        self.text = text
        self.known = known
        self.faults = faults
        self.lexer = Lexer(text, faults)
        self.branches: list[_Branch] = []
        self.pieces: list[str] = []

    def run(self) -> Preprocessed:
        """All lines."""
        text, at, inside = self.text, 0, False
        while at < len(text):
            end = text.find("\n", at)
            end = len(text) if end < 0 else end
            start = at
            while start < end and text[start] in BLANKS:
                start += 1
            if text.startswith("#!", start) and not text[:start].strip():
                self._blank(at, end)
            elif not inside and text.startswith("#", start):
                while text[at:end].endswith("\\") and end < len(text):
                    more = text.find("\n", end + 1)
                    end = len(text) if more < 0 else more
                self._directive(start, end)
                self._blank(at, end)
            else:
                inside = _comment(text, at, end, inside)
                if self._counts():
                    self.pieces.append(text[at:end])
                else:
                    self._blank(at, end)
            if end < len(text):
                self.pieces.append("\n")
            at = end + 1
        for branch in self.branches:
            self.faults.append(Diagnostic(branch.span, "this condition has no end", "write #endif"))
        return Preprocessed("".join(self.pieces), self.known)

    def _blank(self, at: int, end: int) -> None:
        self.pieces.append("".join("\n" if char == "\n" else " " for char in self.text[at:end]))

    def _counts(self) -> bool:
        return all(branch.counts for branch in self.branches)

    def _directive(self, start: int, end: int) -> None:
        at = start + 1
        while at < end and self.text[at] in " \t":
            at += 1
        word_end = at
        while word_end < end and self.text[word_end] in WORDS:
            word_end += 1
        word = self.text[at:word_end]
        while word_end < end and self.text[word_end] in " \t\\\n":
            word_end += 1
        span = self.lexer.span(start, max(len(self.text[:end].rstrip()), start + 1))
        handler = getattr(self, f"_{word}", None) if word in DIRECTIVES else None
        if handler is None:
            if self._counts():
                cure = "write // before a comment" if not word else f"there are #{', #'.join(DIRECTIVES)}"
                self.faults.append(Diagnostic(span, f"#{word} is no directive", cure))
            return
        handler(word_end, _stripped(self.text, word_end, end), span)

    def _define(self, at: int, end: int, span: Span) -> None:
        if not self._counts():
            return
        stop = at
        while stop < end and self.text[stop] in WORDS:
            stop += 1
        name = self.text[at:stop]
        if not name or name[0] not in LETTERS:
            self.faults.append(Diagnostic(span, "#define has no name", "write #define NAME value"))
            return
        body = self.text[stop:end].replace("\\\n", " ").strip()
        self.known[name] = Definition(name, body, span, self.text.startswith("(", stop))

    def _undef(self, at: int, end: int, span: Span) -> None:
        if self._counts():
            self.known.pop(self.text[at:end].strip(), None)

    def _include(self, at: int, end: int, span: Span) -> None:
        if not self._counts():
            return
        name = self.text[at:end].strip()
        if name[:1] == '"':
            cure = "write its definitions into the script"
            self.faults.append(Diagnostic(span, "#include of a file of one's own is not supported yet", cure))
        elif name[:1] != "<" or name[-1:] != ">":
            self.faults.append(Diagnostic(span, "#include has no file", "write #include <linux/sched.h>"))

    def _ifdef(self, at: int, end: int, span: Span) -> None:
        self._open(self._defined(at, end, span), span)

    def _ifndef(self, at: int, end: int, span: Span) -> None:
        self._open(not self._defined(at, end, span), span)

    def _defined(self, at: int, end: int, span: Span) -> bool:
        name = self.text[at:end].strip()
        if not name:
            self.faults.append(Diagnostic(span, "this condition has no name", "write #ifdef NAME"))
        return name in self.known

    def _if(self, at: int, end: int, span: Span) -> None:
        self._open(self._counts() and self._true(at, end, span), span)

    def _elif(self, at: int, end: int, span: Span) -> None:
        branch = self._last(span)
        if branch is not None:
            counts = not branch.taken and self._true(at, end, span)
            self.branches.append(_Branch(counts, branch.taken or counts, False, branch.span))

    def _else(self, at: int, end: int, span: Span) -> None:
        branch = self._last(span)
        if branch is not None:
            self.branches.append(_Branch(not branch.taken, True, True, branch.span))

    def _endif(self, at: int, end: int, span: Span) -> None:
        if not self.branches:
            self.faults.append(Diagnostic(span, "#endif ends no condition", "there is no #if before it"))
        else:
            self.branches.pop()

    def _pragma(self, at: int, end: int, span: Span) -> None:
        """Nothing: what it could say is about a C compiler."""

    def _error(self, at: int, end: int, span: Span) -> None:
        if self._counts():
            self.faults.append(Diagnostic(span, f"#error {self.text[at:end].strip()}"))

    def _open(self, counts: bool, span: Span) -> None:
        self.branches.append(_Branch(counts, counts, False, span))

    def _last(self, span: Span) -> _Branch | None:
        if not self.branches or self.branches[-1].last:
            self.faults.append(Diagnostic(span, "there is no #if to which this belongs"))
            return None
        return self.branches.pop()

    def _true(self, at: int, end: int, span: Span) -> bool:
        """Whether the condition of an #if holds."""
        text = self._resolved(self.text[at:end].replace("\\\n", " "))
        try:
            return _value(expression(text, span, self.known, self.faults)) != 0
        except SilentError:
            pass
        except TextError as error:
            self.faults.append(error.diagnostic)
        return False

    def _resolved(self, text: str) -> str:
        """A condition with every `defined(NAME)` and `defined NAME` as 1 or 0."""
        made, at = "", 0
        while True:
            found = text.find("defined", at)
            if found < 0:
                return made + text[at:]
            rest = text[found + len("defined") :].lstrip()
            inner = rest[1:].lstrip() if rest[:1] == "(" else rest
            name = inner[: len(inner) - len(inner.lstrip("".join(WORDS)))]
            behind = inner[len(name) :].lstrip()
            if rest[:1] == "(":
                behind = behind.removeprefix(")")
            made += f"{text[at:found]}{int(name in self.known)} "
            text, at = behind, 0


DIRECTIVES: Final = (
    *("define", "undef", "include", "ifdef", "ifndef", "if", "elif", "else", "endif", "pragma", "error"),
)
"""The directives that there are."""


def _stripped(text: str, at: int, end: int) -> int:
    """Where a directive ends: before a comment that follows it."""
    for mark in ("//", "/*"):
        found = text.find(mark, at, end)
        if found >= 0:
            end = found
    return end


def _comment(text: str, at: int, end: int, inside: bool) -> bool:
    """Whether a comment is open at the end of a line, where one is, or is not, at its beginning."""
    while at < end:
        if inside:
            close = text.find("*/", at, end)
            if close < 0:
                return True
            inside, at = False, close + 2
        elif text[at] == '"':
            at += 1
            while at < end and text[at] != '"':
                at += 2 if text[at] == "\\" else 1
            at += 1
        elif text.startswith("//", at):
            return False
        elif text.startswith("/*", at) and text[at - 1 : at] not in (":", "/", *WORDS):  # of a path: /lib/*
            inside, at = True, at + 2
        else:
            at += 1
    return inside


def _value(node: syntax.Expr) -> int:
    """The number that a condition is; names that nobody defined are 0."""
    match node:
        case syntax.Int(value=value) | syntax.Bool(value=value):
            return int(value)
        case syntax.Name():
            return 0
        case syntax.Unary(op="-", operand=operand):
            return -_value(operand)
        case syntax.Unary(op="!", operand=operand):
            return int(not _value(operand))
        case syntax.Unary(op="~", operand=operand):
            return ~_value(operand)
        case syntax.Ternary(test=test, then=then, otherwise=otherwise) if then is not None:
            return _value(then) if _value(test) else _value(otherwise)
        case syntax.Binary(op=op, left=left, right=right) if op in _OPERATIONS:
            return _OPERATIONS[op](_value(left), _value(right))
    raise TextError(node.span, "a condition is of numbers, names and operators", "")


_OPERATIONS: Final[dict[str, Callable[[int, int], int]]] = {
    "||": lambda a, b: int(bool(a) or bool(b)),
    "&&": lambda a, b: int(bool(a) and bool(b)),
    "==": lambda a, b: int(a == b),
    "!=": lambda a, b: int(a != b),
    "<": lambda a, b: int(a < b),
    "<=": lambda a, b: int(a <= b),
    ">": lambda a, b: int(a > b),
    ">=": lambda a, b: int(a >= b),
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "&": lambda a, b: a & b,
    "|": lambda a, b: a | b,
    "^": lambda a, b: a ^ b,
    "<<": lambda a, b: a << b if 0 <= b < 64 else 0,
    ">>": lambda a, b: a >> b if 0 <= b < 64 else 0,
}
