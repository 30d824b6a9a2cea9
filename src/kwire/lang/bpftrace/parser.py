"""The parser: recursive descent, and precedence climbing for operators.

Invariants: all of a script is looked at, whatever is wrong in it: after a fault the parser goes on behind the
statement, or behind the probe, that it is in, and says nothing twice; each step takes a token or ends. What
begins with `#` is gone (`preprocessor`); names that it defined are read where they stand.
"""

from collections.abc import Callable, Mapping
from contextlib import contextmanager

from kwire.hints import TYPE_CHECKING, Final, NoReturn, TypeVar
from kwire.lang.bpftrace import syntax as s
from kwire.lang.bpftrace.lexer import (
    BAD,
    BLANKS,
    END,
    INTEGER,
    MAP,
    POSITIONAL,
    SIGN,
    STRING,
    VARIABLE,
    WORD,
    WORDS,
    Lexer,
    Token,
)
from kwire.lang.bpftrace.types import is_type
from kwire.lang.errors import Diagnostic, TextError
from kwire.lang.forms import Node
from kwire.lang.tree import Source, Span
from kwire.lazy import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPTH: Final = 100
"""Of blocks, parentheses and operators in each other."""

LENGTH: Final = 200
"""Of operators in a row, which make a tree of that depth."""

USER_KINDS: Final = frozenset(("uprobe", "u", "uretprobe", "ur", "usdt", "U"))
"""Kinds whose target is a file, and so may have slashes."""

_PRECEDENCE: Final = {op: level for level, ops in enumerate(s.LEVELS, 1) for op in ops}
_KEYWORDS: Final = frozenset(
    (
        *("if", "else", "while", "for", "unroll", "break", "continue", "return", "let", "import"),
        *("sizeof", "offsetof", "container_of", "typeinfo", "typeof", "comptime", "true", "false"),
    )
)

_T = TypeVar("_T")


class Definition(NamedTuple):
    """What `#define` says of a name: a text, and where; `call`: it takes arguments."""

    name: str
    body: str
    span: Span
    call: bool = False


def parse(
    source: Source, text: str, definitions: Mapping[str, Definition], faults: list[Diagnostic]
) -> s.Script:
    """The tree of a text without directives. `faults` takes what is wrong; the tree is what could be read."""
    return Parser(Lexer(text, faults), definitions).script(source)


def expression(
    text: str, span: Span, definitions: Mapping[str, Definition], faults: list[Diagnostic], depth: int = 0
) -> s.Expr:
    """A text that is one expression and stands for `span`. Raises `TextError`."""
    parser = Parser(Lexer(text, faults, span), definitions)
    parser.depth = depth
    made = parser.expression()
    if parser.token.kind != END:
        raise TextError(span, f"{text.strip()[:60]!r} is no expression")
    return made


class SilentError(TextError):
    """A fault whose diagnostic is kept already."""


class Parser:
    """The state of one parse: the token that comes next, and where the last one ended."""

    def __init__(self, lexer: Lexer, definitions: Mapping[str, Definition]) -> None:
        self.lexer = lexer
        self.definitions = definitions
        self.depth = 0
        self.end = 0
        self.token = lexer.token(0)
        self.expanding: frozenset[str] = frozenset()

    # -- tokens

    def next(self) -> Token:
        """Take a token."""
        token = self.token
        self.end = token.end
        self.token = self.lexer.token(token.end)
        return token

    def after(self) -> Token:
        """The token behind the next one."""
        return self.lexer.token(self.token.end)

    def at(self, *signs: str) -> bool:
        """Whether one of these signs is next."""
        return self.token.kind == SIGN and self.token.text in signs

    def at_word(self, *words: str) -> bool:
        """Whether one of these words is next."""
        return self.token.kind == WORD and self.token.text in words

    def take(self, *signs: str) -> bool:
        """Take one of these signs if it is next."""
        if self.at(*signs):
            self.next()
            return True
        return False

    def expect(self, sign: str, where: str) -> Token:
        """Take a sign that has to be there."""
        if not self.at(sign):
            self.unexpected(f"{sign!r} {where}" if where else repr(sign))
        return self.next()

    def unexpected(self, wanted: str, cure: str = "") -> NoReturn:
        """The next token is not what has to stand there."""
        token = self.token
        if token.kind == BAD:
            raise SilentError(self.span_of(token), "")
        if token.kind == END:
            at = self.end
            raise TextError(
                self.lexer.span(max(at - 1, 0), at), f"the script ends where {wanted} has to follow", cure
            )
        found = _shown(token)
        raise TextError(self.span_of(token), f"{found} stands where {wanted} has to", cure)

    def span_of(self, token: Token) -> Span:
        """The span of a token."""
        return self.lexer.span(token.start, max(token.end, token.start + 1))

    def since(self, start: int) -> Span:
        """The span from a place to the end of the last token."""
        return self.lexer.span(start, self.end)

    def fault(self, error: TextError) -> None:
        """Keep a diagnostic."""
        if not isinstance(error, SilentError):
            self.lexer.faults.append(error.diagnostic)

    @contextmanager
    def deeper(self) -> "Iterator[None]":
        """One level deeper in the text."""
        self.depth += 1
        try:
            if self.depth > DEPTH:
                raise TextError(self.span_of(self.token), f"this is nested more than {DEPTH} deep")
            yield
        finally:
            self.depth -= 1

    def tried(self, read: Callable[[], "_T | None"]) -> "_T | None":
        """What is read, or nothing taken where it is not that."""
        token, end, faults = self.token, self.end, len(self.lexer.faults)
        try:
            found = read()
        except TextError:
            found = None
        if found is None:
            self.token, self.end = token, end
            del self.lexer.faults[faults:]
        return found

    # -- the script

    def script(self, source: Source) -> s.Script:
        """All of it."""
        found: dict[type, list[Node]] = {}
        while self.token.kind != END:
            start = self.token
            try:
                for one in self.top():
                    found.setdefault(type(one), []).append(one)
            except TextError as error:
                self.fault(error)
                self.behind_block(start)

        def all_of(kind: type[_T]) -> tuple[_T, ...]:
            return tuple(one for one in found.get(kind, ()) if isinstance(one, kind))

        return s.Script(
            source,
            all_of(s.CStruct),
            all_of(s.CEnum),
            all_of(s.Setting),
            all_of(s.Import),
            all_of(s.Macro),
            all_of(s.Function),
            all_of(s.MapDeclaration),
            all_of(s.Probe),
            self.lexer.span(0, len(self.lexer.text)),
        )

    def behind_block(self, start: Token) -> None:
        """Go on behind the block that follows, or is entered."""
        if self.token is start and self.token.kind != END:
            self.next()
        while self.token.kind != END and not self.at("{", "}"):
            self.next()
        if self.at("}"):
            self.next()
        else:
            self.skip_braces()

    def skip_braces(self) -> None:
        """Go on behind the braces that are next."""
        depth = 0
        while self.token.kind != END:
            sign = self.next().text
            depth += (sign == "{") - (sign == "}")
            if depth <= 0:
                break

    def top(self) -> "list[Node]":
        """What stands outside of probes."""
        token = self.token
        if token.kind == SIGN and token.text == ";":
            self.next()
            return []
        if token.kind == WORD:
            word, after = token.text, self.after()
            if word in ("struct", "union", "enum") and (after.kind == WORD or after.text == "{"):
                return self.c_definition()
            if word == "typedef":
                cure = "write struct NAME { … }, and struct NAME where it is used"
                raise TextError(self.span_of(token), "typedef is not supported yet", cure)
            if word == "config" and after.text == "=":
                return [*self.config()]
            if word == "import" and after.kind == STRING:
                return [self.import_()]
            if word == "macro" and after.kind == WORD:
                return [self.macro()]
            if word == "fn" and after.kind == WORD:
                return [self.function()]
            if word == "let":
                return [self.map_declaration()]
        return [self.probe()]

    def config(self) -> "list[s.Setting]":
        """`config = { name = value; … }`."""
        self.next()
        self.next()
        self.expect("{", "to open the settings")
        found = []
        while not self.at("}"):
            start = self.token.start
            name = self.word("the name of a setting").text
            self.expect("=", "behind the name of a setting")
            token = self.next()
            if token.kind in (STRING, INTEGER):
                value = token.value
            elif token.kind == WORD:
                value = token.text == "true" if token.text in ("true", "false") else token.text
            else:
                raise TextError(self.span_of(token), f"{_shown(token)} is no value of a setting")
            found.append(s.Setting(name, value, self.since(start)))
            if not self.at("}"):
                self.expect(";", "behind a setting")
        self.next()
        self.take(";")
        return found

    def import_(self) -> s.Import:
        """`import "file";`."""
        start = self.next().start
        if self.token.kind != STRING:
            self.unexpected("the name of a file in quotes")
        path = str(self.next().value)
        found = s.Import(path, self.since(start))
        self.expect(";", "behind an import")
        return found

    def macro(self) -> s.Macro:
        """`macro name($a, @b, c) { … }`."""
        start = self.next().start
        name = self.word("the name of a macro").text
        span = self.since(start)
        self.expect("(", "to open the parameters of a macro")
        parameters: list[s.Var | s.Map | s.Name] = []
        while not self.at(")"):
            token = self.token
            if token.kind == VARIABLE:
                parameters.append(s.Var(token.text, self.span_of(token)))
            elif token.kind == MAP:
                parameters.append(s.Map(token.text, None, self.span_of(token)))
            elif token.kind == WORD:
                parameters.append(s.Name(token.text, self.span_of(token)))
            else:
                self.unexpected("a parameter ($var, @map, or a word)")
            self.next()
            if not self.take(","):
                break
        self.expect(")", "to close the parameters of a macro")
        return s.Macro(name, tuple(parameters), self.block(), span)

    def function(self) -> s.Function:
        """`fn name(…) : type { … }`, read as far as it takes to go on behind it."""
        start = self.next().start
        name = self.word("the name of a function").text
        span = self.since(start)
        while self.token.kind != END and not self.at("{"):
            self.next()
        self.skip_braces()
        return s.Function(name, span)

    def map_declaration(self) -> s.MapDeclaration:
        """`let @name = kind(entries);`."""
        start = self.next().start
        if self.token.kind != MAP:
            self.unexpected("a map", "outside of probes: let @name = hash(100);")
        name = self.next().text
        self.expect("=", "behind the map")
        kind = self.word("the kind of a map")
        self.expect("(", "to open the number of entries")
        if self.token.kind != INTEGER:
            self.unexpected("the number of entries")
        entries = int(self.next().value)
        self.expect(")", "to close the number of entries")
        span = self.since(start)
        self.take(";")
        return s.MapDeclaration(name, kind.text, entries, span, self.span_of(kind))

    def probe(self) -> s.Probe:
        """Attach points, a predicate, a block."""
        start = self.token.start
        points = [self.attach_point()]
        while self.take(","):
            if self.at("{", "/"):
                break
            points.append(self.attach_point())
        span = self.since(start)
        predicate = None
        if self.at("/"):
            self.next()
            predicate = self.expression()
            self.expect("/", "to close the predicate")
        if not self.at("{"):
            cure = "a probe is: kind:target, perhaps a /condition/, and { statements }"
            self.unexpected("'{' to open the probe", cure)
        return s.Probe(tuple(points), predicate, self.block(), span)

    def attach_point(self) -> s.AttachPoint:
        """The text of an attach point: up to a blank, a comma, a brace, or the slash of a predicate."""
        text, start = self.lexer.text, self.token.start
        at, segment, kind, parts = start, start, "", 0
        while at < len(text):
            char = text[at]
            if char in BLANKS or char in "{,":
                break
            if char == "/" and not (
                text[segment:at].startswith("/")
                or (at == segment and parts)
                or (parts == 1 and kind in USER_KINDS)
            ):
                break
            if char == ":":
                if not parts:
                    kind = text[start:at]
                parts, segment = parts + 1, at + 1
            elif char == '"':
                close = at + 1
                while close < len(text) and text[close] not in '"\n':
                    close += 2 if text[close] == "\\" else 1
                at = min(close, len(text) - 1)
            at += 1
        if at == start or not (text[start] in WORDS or text[start] in '*?["$'):
            self.unexpected("a probe")
        self.end = at
        self.token = self.lexer.token(at)
        return s.AttachPoint(text[start:at], self.lexer.span(start, at))

    # -- definitions in C

    def c_definition(self) -> "list[Node]":
        """`struct name { … };`, `union …`, `enum …`."""
        made = self.c_enum() if self.at_word("enum") else self.c_struct()
        if made is None:
            self.take(";")
            return []
        if not self.take(";") and self.token.kind in (WORD, SIGN) and self.at("*"):
            self.unexpected("';' behind the definition")
        return [made]

    def c_struct(self) -> s.CStruct | None:
        """A structure or union with its members; None where it is only named."""
        start = self.token.start
        union = self.next().text == "union"
        packed = self.c_attributes()
        name = self.next().text if self.token.kind == WORD else ""
        packed = self.c_attributes() or packed
        span = self.since(start)
        if name and not self.at("{"):
            return None
        self.expect("{", "to open the members")
        members: list[s.CMember] = []
        with self.deeper():
            while not self.at("}"):
                members += self.c_member()
        self.next()
        packed = self.c_attributes() or packed
        return s.CStruct(name, union, packed, tuple(members), span)

    def c_attributes(self) -> bool:
        """Take `__attribute__((…))`; whether it says packed."""
        packed = False
        while self.at_word("__attribute__"):
            self.next()
            depth = 0
            while self.token.kind != END:
                token = self.next()
                packed = packed or token.text in ("packed", "__packed__")
                depth += (token.text == "(") - (token.text == ")")
                if depth <= 0:
                    break
        return packed

    def c_member(self) -> "list[s.CMember]":
        """`type name, *name[4], name : 3;`."""
        start = self.token.start
        inner: s.CStruct | s.CEnum | None = None
        words: list[str] = []
        while self.token.kind == WORD:
            word = self.token.text
            if word in ("const", "volatile", "restrict", "__user", "__kernel"):
                self.next()
            elif word in ("struct", "union", "enum") and not words:
                inner = self.tried(self.c_enum) if word == "enum" else self.tried(self.c_struct)
                if inner is None:
                    words = [self.next().text, self.word("the name of a structure").text]
                break
            elif words and (words[-1] not in _C_WORDS or word not in _C_WORDS):
                break
            else:
                words.append(self.next().text)
        while self.at_word("const", "volatile", "restrict", "__user"):
            self.next()
        if not words and inner is None:
            self.unexpected("the type of a member")
        found: list[s.CMember] = []
        while not self.at(";"):
            found.append(self.c_declarator(_plain_c(words), inner, start))
            if not self.take(","):
                break
        if not found:
            found.append(s.CMember("", "", (), 0, self.since(start), inner))
        if not self.at("}"):
            self.expect(";", "behind a member")
        return found

    def c_declarator(self, type_: str, inner: s.CStruct | s.CEnum | None, start: int) -> s.CMember:
        """One name of a member with its stars, lengths or bits."""
        stars = 0
        while self.at("*") or self.at_word("const", "volatile", "restrict", "__user"):
            stars += self.next().text == "*"
        if self.at("("):  # a pointer to a function
            return self.c_function_pointer(start)
        name = self.word("the name of a member").text if not self.at(":") else ""
        lengths, bits = [], 0
        while self.take("["):
            lengths.append(0 if self.at("]") else self.c_number("the length of an array"))
            self.expect("]", "to close a length")
        if self.take(":"):
            bits = self.c_number("a number of bits")
        self.c_attributes()
        shown = f"{type_} {'*' * stars}" if stars and type_ else type_
        if stars and inner is not None:
            raise TextError(
                self.since(start), "a pointer to a structure without a name is not supported yet", "name it"
            )
        return s.CMember(name, shown, tuple(lengths), bits, self.since(start), inner)

    def c_function_pointer(self, start: int) -> s.CMember:
        """A member that points to a function."""
        self.next()
        self.expect("*", "of a pointer to a function")
        name = self.word("the name of a member").text
        self.expect(")", "behind the name of a pointer to a function")
        depth = 0
        while self.token.kind != END:
            depth += (self.token.text == "(") - (self.token.text == ")")
            self.next()
            if depth <= 0:
                break
        return s.CMember(name, "void *", (), 0, self.since(start))

    def c_number(self, what: str) -> int:
        """A constant number in a definition."""
        start = self.token.start
        value = _constant(self.binary(1))
        if value is None or not 0 <= value < 1 << 31:
            raise TextError(self.since(start), f"this is not {what}", "write a number")
        return value

    def c_enum(self) -> s.CEnum | None:
        """`enum name { A, B = 2 }`; None where it is only named."""
        start = self.next().start
        name = self.next().text if self.token.kind == WORD else ""
        span = self.since(start)
        if name and not self.at("{"):
            return None
        self.expect("{", "to open the values")
        found: dict[str, int] = {}
        value = 0
        while not self.at("}"):
            own = self.word("the name of a value")
            if self.take("="):
                at = self.token.start
                given = _constant(self.binary(1), found)
                if given is None:
                    raise TextError(self.since(at), "this is no constant", "write a number")
                value = given
            found[own.text] = value
            value += 1
            if not self.take(","):
                break
        self.expect("}", "to close the values")
        return s.CEnum(name, tuple(found.items()), span)

    # -- statements

    def block(self) -> s.Block:
        """`{ statements… }`, perhaps with a value at its end."""
        faults = len(self.lexer.faults)
        opening = self.expect("{", "to open a block")
        body: list[s.Stmt] = []
        value: s.Expr | None = None
        with self.deeper():
            while not self.at("}"):
                if self.token.kind == END:
                    if len(self.lexer.faults) > faults:  # so this may be one more consequence
                        raise SilentError(self.span_of(opening), "")
                    raise TextError(self.span_of(opening), "this brace has no end", "write }")
                if self.take(";"):
                    continue
                start = self.token
                try:
                    statement, value = self.statement()
                except TextError as error:
                    self.fault(error)
                    self.behind_statement(start)
                    continue
                if statement is not None:
                    body.append(statement)
        self.next()
        return s.Block(tuple(body), value, self.since(opening.start))

    def behind_statement(self, start: Token) -> None:
        """Go on behind a statement in which something is wrong."""
        if self.token is start and not self.at("}"):
            self.next()
        while self.token.kind != END and not self.at(";", "}"):
            if self.at("{"):
                self.skip_braces()
                return
            self.next()
        self.take(";")

    def statement(self) -> tuple[s.Stmt | None, s.Expr | None]:
        """A statement; or nothing, and the value at the end of a block."""
        token = self.token
        if token.kind == WORD:
            word = token.text
            if word in ("while", "unroll"):
                return self.loop(), None
            if word == "for":
                return self.for_(), None
            if word in ("break", "continue", "return"):
                return self.jump(), None
            if word == "let":
                return self.let(), None
            if word == "import" and self.after().kind == STRING:
                return self.import_(), None
            if word == "_" and self.after().text == "=":
                self.next()
                self.next()
                discarded = self.expression()
                self.statement_end()
                return s.Discard(discarded, self.since(token.start)), None
        value = self.expression()
        if self.at("=", *s.COMPOUND):
            return self.assign(value, token.start), None
        span = self.since(token.start)
        if self.at("}"):
            if isinstance(value, s.If | s.Block):
                return s.Do(value, span), None
            return None, value
        if isinstance(value, s.If | s.Block):
            self.take(";")
        else:
            self.statement_end()
        return s.Do(value, span), None

    def statement_end(self) -> None:
        """The end of a statement."""
        if self.at("}"):
            return
        if not self.at(";"):
            if self.token.kind in (BAD, END):
                self.unexpected("';'")
            at = self.lexer.span(max(self.end - 1, 0), self.end)
            raise TextError(at, f"behind this ';' has to follow, not {_shown(self.token)}", "write ;")
        self.next()

    def assign(self, target: s.Expr, start: int) -> s.Assign:
        """`target = value;`, `target += value;`."""
        sign = self.next().text
        if not isinstance(target, s.Var | s.Map):
            if isinstance(target, s.Item | s.Field | s.Index):
                message, cure = "a part of a value cannot be changed", "make a new value and assign that"
            else:
                message, cure = "to this nothing can be assigned", "assign to $name or @name"
            raise TextError(self.lexer.span(start, self.end - len(sign)), message, cure)
        value = self.expression()
        span = self.since(start)
        self.statement_end()
        return s.Assign(target, sign[:-1], value, span)

    def let(self) -> s.Stmt:
        """`let $x : type = value;`."""
        start = self.next().start
        if self.token.kind != VARIABLE:
            self.unexpected("a variable", "let $name = value; declares one")
        target = self.variable()
        type_ = self.type_() if self.take(":") else None
        value = self.expression() if self.take("=") else None
        span = self.since(start)
        self.statement_end()
        return s.Let(target, type_, value, span)

    def variable(self) -> s.Var:
        """`$name`."""
        token = self.next()
        return s.Var(token.text, self.span_of(token))

    def loop(self) -> s.Stmt:
        """`while (test) { … }`, `unroll (count) { … }`."""
        start = self.token.start
        word = self.next().text
        test = self.condition()
        body = self.block()
        if word == "while":
            return s.While(test, body, self.since(start))
        return s.Unroll(test, body, self.since(start))

    def condition(self) -> s.Expr:
        """A condition before a block, in parentheses or without."""
        if self.at("("):
            opening = self.next()
            with self.deeper():
                test = self.expression()
            self.expect(")", "to close the condition")
            if not self.at("{"):  # (a) == b { … }
                self.token, self.end = opening, opening.start
                return self.binary(1)
            return test
        return self.binary(1)

    def for_(self) -> s.Stmt:
        """`for $i : start..end { … }`, `for ($kv : @map) { … }`."""
        start = self.next().start
        paren = self.take("(")
        if self.token.kind != VARIABLE:
            self.unexpected("a variable", "write for $i : 0..10 { … }, or for $kv : @map { … }")
        target = self.variable()
        self.expect(":", "behind the variable of a loop")
        first = self.postfix()
        end = self.postfix() if self.take("..") else None
        if paren:
            self.expect(")", "to close what the loop is over")
        if end is not None:
            return s.ForRange(target, first, end, self.block(), self.since(start))
        if not isinstance(first, s.Map) or first.key is not None:
            raise TextError(first.span, "a loop is over a range or a map", "write for $i : 0..10 { … }")
        return s.ForMap(target, first, self.block(), self.since(start))

    def jump(self) -> s.Jump:
        """`break`, `continue`, `return`."""
        token = self.next()
        value = None
        if token.text == "return" and not self.at(";", "}"):
            value = self.expression()
        span = self.since(token.start)
        self.statement_end()
        return s.Jump(token.text, value, span)

    # -- types

    def type_(self) -> s.Type:
        """The name of a type."""
        start = self.token.start
        if self.at_word("typeof"):
            self.next()
            self.expect("(", "behind typeof")
            of = self.type_or_value()
            self.expect(")", "to close typeof")
            if isinstance(of, s.Type):
                return of
            return s.Type("", self.since(start), of)
        words = [self.word("the name of a type").text]
        if words[0] in ("struct", "union", "enum"):
            words.append(self.word(f"the name of a {words[0]}").text)
        while words[-1] in _C_WORDS and self.token.kind == WORD and self.token.text in _C_WORDS:
            words.append(self.next().text)
        name = _plain_c(words)
        suffix = ""
        while self.at("*", "["):
            if self.next().text == "*":
                suffix += "*"
                continue
            length = ""
            if self.token.kind == INTEGER:
                length = str(self.next().value)
            self.expect("]", "to close the length of an array")
            suffix += f"[{length}]"
        text = f"{name} {suffix}" if suffix[:1] == "*" else name + suffix
        return s.Type(text, self.since(start))

    def type_or_value(self) -> "s.Type | s.Expr":
        """What stands in `sizeof(…)`."""

        def type_only() -> s.Type | None:
            word = self.token.text
            found = self.type_()
            if not self.at(")", ","):
                return None
            known = is_type(word) or found.name != word or word == "typeof"
            return found if known else None

        if self.token.kind == WORD:
            found = self.tried(type_only)
            if found is not None:
                return found
        return self.expression()

    # -- expressions

    def expression(self) -> s.Expr:
        """Any expression."""
        with self.deeper():
            test = self.binary(1)
            if not self.at("?"):
                return test
            self.next()
            then = None if self.at(":") else self.expression()
            self.expect(":", "between the two values of a choice")
            otherwise = self.expression()
            return s.Ternary(test, then, otherwise, _between(test.span, otherwise.span))

    def binary(self, least: int) -> s.Expr:
        """Operands joined by operators that bind at least so much."""
        left, length = self.unary(), 0
        while self.token.kind == SIGN:
            op = self.token.text
            level = _PRECEDENCE.get(op, 0)
            if level < least or (op == "/" and self.closes_predicate()):
                break
            self.next()
            right = self.binary(level + 1)
            left = s.Binary(op, left, right, _between(left.span, right.span))
            length += 1
            if length > LENGTH:
                raise TextError(
                    left.span, f"these are more than {LENGTH} operators in a row", "use a variable"
                )
        return left

    def closes_predicate(self) -> bool:
        """Whether the slash that is next ends a predicate."""
        return self.after().text == "{"

    def unary(self) -> s.Expr:
        """An operand with what stands before it."""
        token = self.token
        if token.kind != SIGN or token.text not in ("++", "--", "&", "+", *s.UNARY):
            return self.postfix()
        self.next()
        with self.deeper():
            operand = self.unary()
        span = self.since(token.start)
        if token.text in ("++", "--"):
            return s.Step(token.text, self.steppable(operand), True, span)
        if token.text == "&":
            if not isinstance(operand, s.Var | s.Map):
                raise TextError(span, "only variables and maps have an address", "write &$name or &@name")
            return s.AddressOf(operand, span)
        if token.text == "+":
            raise TextError(self.span_of(token), "there is no + before a number", "leave it out")
        return s.Unary(token.text, operand, span)

    def steppable(self, operand: s.Expr) -> s.Expr:
        """An operand that ++ and -- can change."""
        if not isinstance(operand, s.Var | s.Map):
            raise TextError(operand.span, "++ and -- change variables and maps only", "write $x++ or @x++")
        return operand

    def postfix(self) -> s.Expr:
        """A value with what stands behind it."""
        start = self.token.start
        value = self.primary()
        length = 0
        while self.token.kind == SIGN:
            sign = self.token.text
            if sign in (".", "->"):
                self.next()
                if self.token.kind == INTEGER and sign == ".":
                    number = int(self.next().value)
                    value = s.Item(value, number, self.since(start))
                else:
                    name = self.word("the name of a member")
                    value = s.Field(value, name.text, self.since(start), self.span_of(name))
            elif sign == "[":
                self.next()
                with self.deeper():
                    subscript = self.expression()
                self.expect("]", "to close the index")
                value = s.Index(value, subscript, self.since(start))
            elif sign in ("++", "--"):
                self.steppable(value)
                self.next()
                value = s.Step(sign, value, False, self.since(start))
            else:
                break
            length += 1
            if length > LENGTH:
                raise TextError(
                    value.span, f"these are more than {LENGTH} members in a row", "use a variable"
                )
        return value

    def primary(self) -> s.Expr:
        """A value that stands alone."""
        token = self.token
        match token.kind:
            case "integer":
                self.next()
                return s.Int(int(token.value), self.span_of(token))
            case "string":
                self.next()
                return self.strings(token)
            case "variable":
                return self.variable()
            case "map":
                return self.map_()
            case "positional":
                self.next()
                return s.Positional(int(token.value), self.span_of(token))
            case "word":
                return self.named()
            case "sign" if token.text == "(":
                return self.parenthesis()
            case "sign" if token.text == "{":
                return self.block()
        return self.unexpected("a value")

    def strings(self, first: Token) -> s.Str:
        """A string, joined with those that follow it."""
        value = str(first.value)
        while self.token.kind == STRING:
            value += str(self.next().value)
        return s.Str(value, self.since(first.start))

    def map_(self) -> s.Map:
        """`@name`, `@name[key]`."""
        token = self.next()
        key: s.Expr | None = None
        if self.at("["):
            opening = self.next()
            with self.deeper():
                items = [self.expression()]
                while self.take(","):
                    items.append(self.expression())
            self.expect("]", "to close the key")
            key = items[0] if len(items) == 1 else s.Tuple(tuple(items), self.since(opening.start))
        return s.Map(token.text, key, self.since(token.start))

    def named(self) -> s.Expr:
        """What begins with a word."""
        token = self.token
        word = token.text
        if word == "if":
            return self.if_()
        if word in ("true", "false"):
            self.next()
            return s.Bool(word == "true", self.span_of(token))
        if word in ("sizeof", "offsetof", "typeinfo"):
            return self.about_type(word)
        if word == "container_of":
            return self.container()
        if word == "comptime":
            self.next()
            return s.Comptime(self.unary(), self.since(token.start))
        if word in _KEYWORDS:
            self.unexpected("a value")
        if word in ("struct", "union", "enum"):
            self.unexpected("a value", f"a type stands in parentheses: ({word} NAME *)value")
        self.next()
        if self.at("("):
            return self.call(token)
        definition = self.definitions.get(word)
        if definition is not None and word not in self.expanding:
            return self.expanded(definition, self.span_of(token))
        return s.Name(word, self.span_of(token))

    def expanded(self, definition: Definition, span: Span) -> s.Expr:
        """What a name of the preprocessor stands for."""
        if definition.call:
            cure = f"write macro {definition.name}($x) {{ … }}"
            raise TextError(span, f"{definition.name} takes arguments, which is not supported yet", cure)
        if not definition.body:
            raise TextError(
                span, f"{definition.name} is defined as nothing", "give it a value: #define NAME 1"
            )
        parser = Parser(Lexer(definition.body, self.lexer.faults, span), self.definitions)
        parser.depth, parser.expanding = self.depth, self.expanding | {definition.name}
        with parser.deeper():
            value = parser.expression()
        if parser.token.kind != END:
            raise TextError(span, f"{definition.name} is {definition.body[:60]!r}, which is no expression")
        return value

    def call(self, name: Token) -> s.Call:
        """`function(arguments)`."""
        self.next()
        arguments: list[s.Expr] = []
        with self.deeper():
            while not self.at(")"):
                argument = self.type_or_value()
                if isinstance(argument, s.Type):
                    named = s.Name(argument.name, argument.span)
                    argument = named if argument.value is None else argument.value
                arguments.append(argument)
                if not self.take(","):
                    break
        self.expect(")", f"to close the arguments of {name.text}")
        return s.Call(name.text, tuple(arguments), self.since(name.start), self.span_of(name))

    def about_type(self, word: str) -> s.Expr:
        """`sizeof(…)`, `offsetof(…, member)`, `typeinfo(…)`."""
        start = self.next().start
        self.expect("(", f"behind {word}")
        of = self.type_or_value()
        members: list[str] = []
        if word == "offsetof":
            self.expect(",", "between the type and its member")
            members.append(self.word("the name of a member").text)
            while self.take("."):
                members.append(self.word("the name of a member").text)
        self.expect(")", f"to close {word}")
        span = self.since(start)
        if word == "sizeof":
            return s.Sizeof(of, span)
        return s.Offsetof(of, tuple(members), span) if word == "offsetof" else s.Typeinfo(of, span)

    def container(self) -> s.Expr:
        """`container_of(pointer, type, member)`: a pointer to the structure whose member that is."""
        start = self.next().start
        self.expect("(", "behind container_of")
        pointer = self.expression()
        self.expect(",", "between the pointer and the type")
        of = self.type_or_value()
        if not isinstance(of, s.Type) or not of.name:
            raise TextError(of.span, "this is no type", "container_of(p, struct x, member)")
        self.expect(",", "between the type and its member")
        members = [self.word("the name of a member").text]
        while self.take("."):
            members.append(self.word("the name of a member").text)
        self.expect(")", "to close container_of")
        span = self.since(start)
        number = s.Cast(s.Type("uint64", span), pointer, span)
        whole = s.Binary("-", number, s.Offsetof(of, tuple(members), span), span)
        return s.Cast(s.Type(f"{of.name} *", of.span), whole, span)

    def if_(self) -> s.If:
        """`if test { … } else if … else { … }`."""
        start = self.next().start
        test = self.condition()
        then = self.block()
        otherwise: s.Block | s.If | None = None
        if self.at_word("else"):
            self.next()
            if self.at_word("if"):
                with self.deeper():
                    otherwise = self.if_()
            else:
                otherwise = self.block()
        return s.If(test, then, otherwise, self.since(start))

    def parenthesis(self) -> s.Expr:
        """`(value)`, `(type)value`, `(a, b)`, `(a=1, b=2)`."""
        start = self.token.start
        after = self.after()
        if after.text == ")" and after.kind == SIGN:
            self.next()
            self.next()
            return s.Tuple((), self.since(start))
        if after.kind == WORD:
            if self.lexer.token(after.end).text == "=":
                return self.record()
            cast = self.tried(self.cast_type)
            if cast is not None:
                value = self.unary()
                return s.Cast(cast, value, self.since(start))
        self.next()
        first = self.expression()
        if not self.at(","):
            self.expect(")", "to close the parenthesis")
            return first.replace(span=self.since(start))
        items = [first]
        while self.take(","):
            if self.at(")"):
                break
            items.append(self.expression())
        self.expect(")", "to close the tuple")
        return s.Tuple(tuple(items), self.since(start))

    def cast_type(self) -> s.Type | None:
        """`(type)` before a value; None where it is something else in parentheses."""
        self.next()
        word = self.token.text
        found = self.type_()
        if not self.take(")"):
            return None
        token = self.token
        begins = token.kind in (WORD, INTEGER, STRING, VARIABLE, MAP, POSITIONAL) or token.text == "("
        if found.name == word and not is_type(word):  # (word)value: a type of the kernel's
            return found if begins and token.text not in _KEYWORDS else None
        return found if begins or token.text in ("-", "!", "~", "*", "&", "++", "--") else None

    def record(self) -> s.Record:
        """`(a=1, b=2)`."""
        start = self.next().start
        names: list[str] = []
        items: list[s.Expr] = []
        while not self.at(")"):
            name = self.word("the name of an item")
            if name.text in names:
                raise TextError(self.span_of(name), f"{name.text} is there twice", "use two names")
            self.expect("=", "behind the name of an item")
            names.append(name.text)
            items.append(self.expression())
            if not self.take(","):
                break
        self.expect(")", "to close the record")
        return s.Record(tuple(names), tuple(items), self.since(start))

    def word(self, what: str) -> Token:
        """A word that has to be there."""
        if self.token.kind != WORD:
            self.unexpected(what)
        return self.next()


_C_WORDS: Final = frozenset(("unsigned", "signed", "long", "int", "short", "char"))


def _plain_c(words: list[str]) -> str:
    """The name of a type as BTF writes it: "unsigned long" is "long unsigned int" there."""
    if not set(words) <= _C_WORDS:
        return " ".join(words)
    sign = "u" if "unsigned" in words else "s"
    if "char" in words:
        return {"unsigned": "u8", "signed": "s8"}.get(words[0], "char")
    size = 16 if "short" in words else 64 if "long" in words else 32
    return f"{sign}{size}"


def _constant(node: s.Expr, names: Mapping[str, int] = {}) -> int | None:
    """The number that an expression in a definition is; None where it is none."""
    if isinstance(node, s.Int):
        return node.value
    if isinstance(node, s.Name):
        return names.get(node.id)
    if isinstance(node, s.Unary) and node.op in "-~":
        value = _constant(node.operand, names)
        return None if value is None else -value if node.op == "-" else ~value
    if isinstance(node, s.Binary):
        a, b = _constant(node.left, names), _constant(node.right, names)
        if a is None or b is None:
            return None
        match node.op:
            case "+":
                return a + b
            case "-":
                return a - b
            case "*":
                return a * b
            case "|":
                return a | b
            case "<<" if 0 <= b < 64:
                return a << b
            case "/" if b:
                return a // b
    return None


def _between(left: Span, right: Span) -> Span:
    return Span(left.line, left.column, right.end_line, right.end_column)


def _shown(token: Token) -> str:
    """A token for people."""
    mark = {VARIABLE: "$", MAP: "@"}.get(token.kind, "")
    if token.kind == STRING:
        return "a string"
    return "the end" if token.kind == END else repr(mark + token.text)[:60]
