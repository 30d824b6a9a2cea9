"""From text to tokens, one at a time, from any place: the parser says where an attach point begins, whose
text has other rules.

Invariants: a token never spans lines; reading one has no effect but a diagnostic, which is the same when it
is read again; what is no token is one of kind BAD, whose diagnostic is kept already. Written by hand: a
script is short, and a module of regular expressions would cost more than it saves.
"""

from bisect import bisect_right

from kwire.hints import Final
from kwire.lang.errors import Diagnostic
from kwire.lang.tree import Span
from kwire.lazy import NamedTuple

WORD: Final = "word"
INTEGER: Final = "integer"
STRING: Final = "string"
VARIABLE: Final = "variable"
MAP: Final = "map"
POSITIONAL: Final = "positional"
SIGN: Final = "sign"
BAD: Final = "bad"
END: Final = "end"

SIGNS: Final = (
    *("<<=", ">>="),
    *("++", "--", "->", "..", "==", "!=", "<=", ">=", "<<", ">>", "&&", "||"),
    *("+=", "-=", "*=", "/=", "%=", "&=", "|=", "^="),
    *"+-*/%&|^~!<>=?:;,.(){}[]",
)
"""The signs, longer ones first."""

LETTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")
DIGITS: Final = frozenset("0123456789")
WORDS: Final = LETTERS | DIGITS
HEX: Final = frozenset("0123456789abcdefABCDEF")
BLANKS: Final = frozenset(" \t\n\r\v\f")

DURATIONS: Final = {
    "ns": 1,
    "us": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
    "d": 86_400_000_000_000,
}
"""Nanoseconds of the units that may stand behind a number."""

_SUFFIXES: Final = frozenset(("u", "l", "ll", "ul", "ull"))
_ESCAPES: Final = {"n": b"\n", "t": b"\t", "r": b"\r", '"': b'"', "\\": b"\\"}
_EXPONENT: Final = 19  # the largest power of ten that 64 bits hold
_LENGTH: Final = 256  # digits of a number that is worth reading


class Token(NamedTuple):
    """A piece of text. `value`: of an integer or a string; `start`, `end`: where it is, in characters."""

    kind: str
    text: str
    start: int
    end: int
    value: int | str = 0


class Lexer:
    """Tokens of a text. `faults` takes what is wrong."""

    __slots__ = ("_lines", "faults", "fixed", "text")

    def __init__(self, text: str, faults: list[Diagnostic], fixed: Span | None = None) -> None:
        self.text = text
        self.faults = faults
        self.fixed = fixed
        """The span of all of it, where the text stands for another: the body of a macro."""
        self._lines: list[int] = []

    def span(self, start: int, end: int) -> Span:
        """The span of a stretch of the text."""
        if self.fixed is not None:
            return self.fixed
        lines = self._lines
        if not lines:
            lines.append(0)
            at = self.text.find("\n")
            while at >= 0:
                lines.append(at + 1)
                at = self.text.find("\n", at + 1)
        first, last = bisect_right(lines, start), bisect_right(lines, end)
        return Span(first, start - lines[first - 1], last, end - lines[last - 1])

    def fault(self, start: int, end: int, message: str, cure: str = "") -> None:
        """Keep a diagnostic."""
        self.faults.append(Diagnostic(self.span(start, end), message, cure))

    def layout(self, at: int) -> int:
        """Where the next token begins: behind blanks and comments."""
        text, end = self.text, len(self.text)
        while at < end:
            char = text[at]
            if char in BLANKS:
                at += 1
            elif char == "/" and text.startswith("//", at):
                at = text.find("\n", at)
                if at < 0:
                    return end
            elif char == "/" and text.startswith("/*", at):
                close = text.find("*/", at + 2)
                if close < 0:
                    self.fault(at, at + 2, "this comment has no end", "write */")
                    return end
                at = close + 2
            else:
                return at
        return at

    def token(self, at: int) -> Token:
        """The first token at a place or after it."""
        text = self.text
        start = self.layout(at)
        if start >= len(text):
            return Token(END, "", start, start)
        char = text[start]
        if char in LETTERS:
            end = self._word(start)
            return Token(WORD, text[start:end], start, end)
        if char in DIGITS:
            return self._number(start)
        if char == '"':
            return self._string(start)
        if char == "$" or char == "@":
            return self._marked(char, start)
        for sign in SIGNS:
            if text.startswith(sign, start):
                return Token(SIGN, sign, start, start + len(sign))
        end = start + 1
        if char == "'":
            line = text.find("\n", end)
            close = text.find("'", end, line if line >= 0 else len(text))
            end = max(end, close + 1)
            self.fault(start, end, "there are no characters in quotes", 'write a text as "x"')
        else:
            self.fault(start, end, f"{char!a} means nothing here")
        return Token(BAD, text[start:end], start, end)

    def _word(self, at: int) -> int:
        text, end = self.text, len(self.text)
        while at < end and text[at] in WORDS:
            at += 1
        return at

    def _marked(self, mark: str, start: int) -> Token:
        """`$name`, `@name`, `@`, `$1`, `$#`."""
        text = self.text
        if mark == "$" and text.startswith("#", start + 1):
            return Token(POSITIONAL, "$#", start, start + 2, 0)
        end = self._word(start + 1)
        name = text[start + 1 : end]
        if name[:1] in DIGITS and name:
            if mark == "$" and name.isdecimal() and len(name) < 10 and int(name):
                return Token(POSITIONAL, mark + name, start, end, int(name))
            self.fault(start, end, f"{mark}{name} is no name", "begin it with a letter")
            return Token(BAD, mark + name, start, end)
        if mark == "@":
            return Token(MAP, name, start, end)
        if not name:
            self.fault(
                start, end, "a name has to follow $", "write $name, or $1 for an argument of the script"
            )
            return Token(BAD, mark, start, end)
        return Token(VARIABLE, name, start, end)

    # -- numbers

    def _number(self, start: int) -> Token:
        text, at = self.text, start
        base, digits = 10, DIGITS
        if text[start] == "0" and text[start + 1 : start + 2] in ("x", "X"):
            base, digits, at = 16, HEX, start + 2
        first = at
        while at < len(text) and (text[at] in digits or text[at] == "_"):
            at += 1
        written, end = text[first:at], self._word(at)
        rest = text[at:end]
        plain = written.replace("_", "")
        if not plain or len(plain) > _LENGTH or written.endswith("_"):
            return self._no_number(start, end)
        if base == 10 and len(plain) > 1 and plain[0] == "0":
            base = 8
            if not set(plain) <= set("01234567"):
                return self._no_number(start, end, "octal digits are 0 to 7")
        value = int(plain, base)
        if base == 10 and rest[:1] in ("e", "E"):
            power = rest[1:].replace("_", "")
            zeros = len(power) - len(power.rstrip("ulULnsmhd"))
            power, rest = (power[: len(power) - zeros], power[len(power) - zeros :]) if zeros else (power, "")
            if not power.isdecimal() or not power.isascii() or len(power) > 3 or int(power) > _EXPONENT:
                return self._no_number(start, end, f"an exponent is 0 to {_EXPONENT}")
            value *= 10 ** int(power)
        if rest in DURATIONS and base != 16:
            value *= DURATIONS[rest]
        elif rest and rest.lower() not in _SUFFIXES:
            units = ", ".join(DURATIONS)
            return self._no_number(start, end, f"what may follow a number is u, l, ul, ull, or {units}")
        if text[end : end + 1] == "." and text[end + 1 : end + 2] in DIGITS and text[end + 1 : end + 2]:
            close = self._word(end + 1)
            if text[close : close + 1] != "." and text[start - 1 : start] != ".":
                return self._no_number(start, close, "there are no fractions: calculate in a smaller unit")
        if value >= 1 << 64:
            return self._no_number(start, end, "a number has 64 bits")
        return Token(INTEGER, text[start:end], start, end, value)

    def _no_number(self, start: int, end: int, cure: str = "") -> Token:
        shown = self.text[start : min(end, start + 40)]
        self.fault(start, end, f"{shown} is no number", cure)
        return Token(BAD, shown, start, end)

    # -- strings

    def _string(self, start: int) -> Token:
        text, at, pieces = self.text, start + 1, bytearray()
        while True:
            char = text[at : at + 1]
            if not char or char == "\n":
                self.fault(start, at, "this string has no end on its line", 'write "')
                return Token(BAD, text[start:at], start, at)
            if char == '"':
                break
            if char != "\\":
                pieces += char.encode("utf-8", "surrogateescape")
                at += 1
                continue
            at = self._escape(at, pieces)
        value = pieces.decode("utf-8", "surrogateescape")
        return Token(STRING, text[start : at + 1], start, at + 1, value)

    def _escape(self, at: int, pieces: bytearray) -> int:
        """Take the escape at a backslash; where it ends."""
        text = self.text
        char = text[at + 1 : at + 2]
        if char in _ESCAPES:
            pieces += _ESCAPES[char]
            return at + 2
        if char in ("x", "X"):
            digits, first = HEX, at + 2
        else:
            digits, first = frozenset("01234567"), at + 1
        end = first
        while (
            end < first + (2 if digits is HEX else 3)
            and text[end : end + 1] in digits
            and text[end : end + 1]
        ):
            end += 1
        value = int(text[first:end], 16 if digits is HEX else 8) if end > first else 256
        if value > 255:
            end = max(end, at + 1 + bool(char.strip()))
            escapes = r"\n \t \r \" \\ \x1b \033"
            self.fault(at, end, f"{text[at:end]} is no escape of a string", f"the escapes are {escapes}")
            return end
        pieces.append(value)
        return end
