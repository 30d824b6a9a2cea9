"""Names and forms of numbers, as a tracepoint itself prints them.

A format's `print fmt` is the arguments of a printf in C, such as `"state=%s at=0x%lx", __print_symbolic(
REC->newstate, { 1, "TCP_ESTABLISHED" }, …), REC->address`. This reads tables of names, for whole numbers and
for flags, and which fields are printed as hexadecimal numbers or addresses. Invariants: what is not exactly
of these forms is left alone; a value of a table is a constant expression of C, in which the names of
enumerations are looked up; one that cannot be told leaves its entry out.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache

from kwire.hints import Final
from kwire.lazy import DOTALL, NamedTuple, pattern

Resolve = Callable[[str], int | None]
"""The number of an enumeration's constant, None where there is none."""


class Names(NamedTuple):
    """What a field's values are called, in the kernel's order. `flags`: names are of bits, joined by `|`."""

    names: dict[int, str]
    flags: bool


_CALL = pattern(r"__print_(symbolic|flags)(?:_u64)?\(")
_NONE = pattern(r'\s*:\s*"([^"\\]{1,128})"\s*$')  # what is printed where no flag is set
_SUFFIX = pattern(r'(.*)\?\s*"([^"\\]{1,16})"\s*:\s*""\s*$', DOTALL)
_BRACKETS = pattern(r'"(?:[^"\\]|\\.)*"|[()\[\]{}]')
_PARTS = pattern(r'"(?:[^"\\]|\\.)*"|[()\[\]{},]')
_NAME = pattern(r'\s*"([^"\\]{0,128})"\s*$')
_FORMAT = pattern(r'\s*"((?:[^"\\]|\\.)*)"\s*,')
_CONVERSION = pattern(r"%[-+ #0]*\d*(?:\.\d+)?(?:hh|h|ll|l|z|t|j)?([a-zA-Z%*.])([a-zA-Z0-9]*)")
_CAST = r"(?:\(\s*(?:const\s+)?[a-z_]\w*(?:\s+\w+)*(?:\s*\*)?\s*\)\s*)"
_PLAIN = pattern(rf"\(*\s*{_CAST}*\(*REC->(\w+)\)*\s*$")
_MASKED = pattern(rf"\(*\s*{_CAST}*\(*REC->(\w+)\)*\s*&\s*(.+)$", DOTALL)
_ADDRESSES = frozenset(("", "S", "s", "x", "K", "B"))
"""What may follow `%p` for a plain address; other letters print what it points to."""

MAX_ENTRIES: Final = 4096
MAX_TEXT: Final = 1 << 20
MAX_DEPTH: Final = 64  # of brackets in one expression


def tables(print_fmt: str, resolve: Resolve = lambda name: None) -> dict[str, Names]:
    """Field → its names, for each field printed through `__print_symbolic` or `__print_flags`.

    Of flags, what is printed where none is set is the name of 0 (`REC->f ? __print_flags(…) : "none"`), and
    what is added for a bit beside the table (`REC->f & 256 ? "+" : ""`) is added to that.
    """
    text = print_fmt[:MAX_TEXT]
    found: dict[str, Names] = {}
    if "__print_" not in text:
        return found
    start = _FORMAT.match(text)
    for argument in _split(text[start.end() :]) if start else ():
        if "__print_" in argument:
            for field, names in _called(argument, resolve):
                found.setdefault(field, names)
        elif argument.endswith('""') and "?" in argument:
            _add_suffix(argument, found, resolve)
    return found


def hexadecimal(print_fmt: str) -> list[str]:
    """The fields that are printed as hexadecimal numbers or as addresses."""
    text = print_fmt[:MAX_TEXT]
    format_ = _FORMAT.match(text)
    if format_ is None:
        return []
    conversions = [found for found in _CONVERSION.finditer(format_[1]) if found[1] != "%"]
    arguments = _split(text[format_.end() :])
    if len(conversions) != len(arguments):
        return []
    found = []
    for conversion, argument in zip(conversions, arguments, strict=True):
        field = _PLAIN.match(argument)
        plain = conversion[1] in "xX" or (conversion[1] == "p" and conversion[2] in _ADDRESSES)
        if field and plain:
            found.append(field[1])
    return found


def _called(argument: str, resolve: Resolve) -> Iterator[tuple[str, Names]]:
    """The tables of an argument's calls, by their fields."""
    for call in _CALL.finditer(argument):
        end = _closing(argument, call.end() - 1)
        parts = _split(argument[call.end() : end])
        flags = call[1] == "flags"
        field = _PLAIN.match(parts[0]) or (_MASKED.match(parts[0]) if flags else None)
        if field is None or end == len(argument) or len(parts) < (3 if flags else 2):
            continue
        names = _entries(parts[2 if flags else 1 :], resolve)
        if not names:
            continue
        none = _NONE.match(argument[end + 1 :])
        if flags and none and "?" in argument[: call.start()]:
            names = {0: none[1], **{value: name for value, name in names.items() if value}}
        yield field[1], Names(names, flags)


def _entries(parts: list[str], resolve: Resolve) -> dict[int, str]:
    """The `{ value, "name" }` of a table."""
    entries: dict[int, str] = {}
    for part in parts[:MAX_ENTRIES]:
        inside = part.strip()
        if not (inside.startswith("{") and inside.endswith("}")):
            return {}
        value, _, name = inside[1:-1].rpartition(",")
        named = _NAME.match(name)
        if named is None or not named[1]:
            continue  # the end of the table, `{ -1, NULL }`
        number = constant(value, resolve)
        if number is not None:
            entries.setdefault(number, named[1])
    return entries


def _add_suffix(argument: str, found: dict[str, Names], resolve: Resolve) -> None:
    """`REC->f & C ? "+" : ""`, which follows a table of flags: the name of 0 with it is that of C."""
    shape = _SUFFIX.match(argument)
    masked = _MASKED.match(shape[1].strip()) if shape else None
    if shape is None or masked is None:
        return
    known = found.get(masked[1])
    bit = constant(masked[2], resolve)
    if known and known.flags and 0 in known.names and bit:
        known.names.setdefault(bit, known.names[0] + shape[2])


def _closing(text: str, start: int) -> int:
    """Where the bracket at `start` is closed; the end of the text where it is not."""
    depth = 0
    for piece in _BRACKETS.finditer(text, start):
        depth += {"(": 1, "[": 1, "{": 1}.get(piece[0], 0) - (piece[0] in ")]}")
        if not depth:
            return piece.start()
    return len(text)


def _split(text: str) -> list[str]:
    """What stands between the commas of an argument list, those inside of brackets and texts left alone."""
    parts, depth, start = [], 0, 0
    for piece in _PARTS.finditer(text):
        mark = piece[0]
        if mark in "([{":
            depth += 1
        elif mark in ")]}":
            depth -= 1
        elif mark == "," and not depth:
            parts.append(text[start : piece.start()].strip())
            start = piece.end()
    return [*parts, text[start:].strip()]


# -- constant expressions of C

_TOKEN = pattern(
    r"\s*(?:(?P<number>0[xX][0-9a-fA-F]+|\d+)[uUlL]*|(?P<name>[A-Za-z_]\w*)|(?P<sign><<|>>|[()|&^+\-*~!]))"
)
_LEVELS: Final = (("|",), ("^",), ("&",), ("<<", ">>"), ("+", "-"), ("*",))
_TYPES: Final = frozenset(("unsigned", "signed", "int", "long", "short", "char", "const", "enum", "struct"))
_SIZES: Final = {"u8": 8, "u16": 16, "u32": 32, "u64": 64, "gfp_t": 32, "blk_opf_t": 32}


def constant(text: str, resolve: Resolve) -> int | None:
    """The value of a constant expression, as a number of 64 bits with its sign; None where it is none."""
    tokens = _tokens(text.strip())
    if tokens is None:
        return None
    try:
        reader = _Reader(tokens, resolve)
        value = reader.level(0)
        reader.end()
    except _UnreadError:
        return None
    return value if -(1 << 63) <= value < 1 << 63 else (value + (1 << 63)) % (1 << 64) - (1 << 63)


@lru_cache(maxsize=1024)
def _tokens(text: str) -> tuple[str, ...] | None:
    """The words and signs; None where something else stands there."""
    tokens, at = [], 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            return None
        tokens.append(found["number"] or found["name"] or found["sign"])
        at = found.end()
        if len(tokens) > 4096:
            return None
    return tuple(tokens)


class _UnreadError(Exception):
    """This is no constant expression."""


class _Reader:
    """Reads an expression from its tokens, by falling precedence."""

    __slots__ = ("_at", "_depth", "_resolve", "_tokens")

    def __init__(self, tokens: tuple[str, ...], resolve: Resolve) -> None:
        self._tokens, self._resolve = tokens, resolve
        self._at = self._depth = 0

    def end(self) -> None:
        """Refuse what follows."""
        if self._at != len(self._tokens):
            raise _UnreadError

    def level(self, level: int) -> int:
        """An expression whose operators bind at least so tightly."""
        if level == len(_LEVELS):
            return self._unary()
        value = self.level(level + 1)
        while self._peek() in _LEVELS[level]:
            sign = self._next()
            value = _operate(sign, value, self.level(level + 1))
        return value

    def _unary(self) -> int:
        token = self._next()
        if token == "-":
            return -self._unary()
        if token == "+":
            return self._unary()
        if token == "~":
            return ~self._unary()
        if token == "!":
            return int(not self._unary())
        if token == "(":
            return self._bracket()
        if token[0].isdigit():
            return int(token, 8 if token[0] == "0" and token.isdigit() else 0)
        value = self._resolve(token) if token[0].isalpha() or token[0] == "_" else None
        if value is None:
            raise _UnreadError
        return value

    def _bracket(self) -> int:
        """What follows `(`: a cast, or an expression."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _UnreadError
        words, at = [], self._at
        while at < len(self._tokens) and (self._tokens[at][0].isalpha() or self._tokens[at][0] == "_"):
            words.append(self._tokens[at])
            at += 1
        if words and self._tokens[at : at + 1] == (")",) and self._is_type(words):
            self._at = at + 1
            value = self._unary()
            size = _SIZES.get(words[-1], 0)
            value = value & (1 << size) - 1 if size else value
        else:
            value = self.level(0)
            if self._next() != ")":
                raise _UnreadError
        self._depth -= 1
        return value

    def _is_type(self, words: list[str]) -> bool:
        return words[0] in _TYPES or words[-1] in _SIZES or words[-1].endswith("_t")

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _next(self) -> str:
        token = self._peek()
        if not token:
            raise _UnreadError
        self._at += 1
        return token


def _operate(sign: str, left: int, right: int) -> int:
    if sign in ("<<", ">>") and not 0 <= right < 64:
        raise _UnreadError
    if sign == "<<":
        return left << right
    if sign == ">>":
        return left >> right
    if sign == "*":
        return left * right
    return {"|": left | right, "^": left ^ right, "&": left & right, "+": left + right, "-": left - right}[
        sign
    ]
