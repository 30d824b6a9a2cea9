"""Python's syntax, as Python's own parser gives it, turned into the common syntax tree.

Everything that is Python's own ends here: augmented assignment, `elif`, `in (…)`, `is None`, chained
comparison, docstrings, annotations as C types, `cast("type", x)`. What the common tree has no form for is
refused by name, with what to write instead. No code is run.
"""

import ast
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kwire.hints import Final, NoReturn
from kwire.lang import builtins, tree
from kwire.lang.errors import TextError
from kwire.lang.events import RESERVED, field_name
from kwire.lang.tree import Expr, Span, Stmt
from kwire.lazy import pattern

BINARY = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.FloorDiv: "div",
    ast.Mod: "mod",
    ast.BitAnd: "and",
    ast.BitOr: "or",
    ast.BitXor: "xor",
    ast.LShift: "shl",
    ast.RShift: "shr",
}
COMPARE = {ast.Eq: "eq", ast.NotEq: "ne", ast.Lt: "lt", ast.LtE: "le", ast.Gt: "gt", ast.GtE: "ge"}
UNARY = {ast.USub: "neg", ast.Invert: "inv", ast.Not: "not", ast.UAdd: "pos"}

METHODS = frozenset(("startswith", "endswith"))
"""What can be called on a text."""

FOR_PYTHON = frozenset(("Any", "bool", "bytes", "int", "object", "str"))
"""Annotations that say nothing of C's types: what a parameter is then follows from the place."""

MAX_DEPTH = 60
MAX_ARMS = 200
"""Choices of one `if`, `elif`, … : trees are walked by recursion."""

NO_INTEGER_OPERATION: dict[type[ast.operator], tuple[str, str]] = {
    ast.Div: ("/", "use // for whole numbers"),
    ast.Pow: ("**", "multiply, or use 1 << n"),
}

REFUSED = {
    "Await": ("await has no meaning in a probe", ""),
    "Yield": ("yield has no meaning in a probe", "use emit(…)"),
    "YieldFrom": ("yield has no meaning in a probe", "use emit(…)"),
    "Lambda": ("a probe has no functions inside", "write the expression itself"),
    "FunctionDef": ("a probe has no functions inside", "write the statements themselves"),
    "AsyncFunctionDef": ("a probe has no functions inside", "write the statements themselves"),
    "ClassDef": ("a probe has no classes", ""),
    "JoinedStr": (
        "a probe formats text in print(…) only",
        "emit the values; text is made where they are shown",
    ),
    "AsyncFor": ("loops are not supported", ""),
    "With": ("with has no meaning in a probe", ""),
    "Try": ("nothing raises in a probe", "what cannot be read is 0, or no text"),
    "Raise": ("a probe raises nothing", "use return"),
    "Assert": ("a probe raises nothing", "use if … return"),
    "Delete": ("del takes keys out of maps", "write del starts[pid]"),
    "Global": ("a probe changes no globals", ""),
    "Nonlocal": ("a probe changes no outer variables", ""),
    "Import": ("a probe imports nothing", ""),
    "ImportFrom": ("a probe imports nothing", ""),
    "Match": ("match is not supported", "use if … elif"),
    "NamedExpr": (":= is not supported", "assign in a statement of its own"),
    "List": ("lists are not supported", ""),
    "Set": ("sets are not supported", ""),
    "ListComp": ("comprehensions are not supported", ""),
    "SetComp": ("comprehensions are not supported", ""),
    "DictComp": ("comprehensions are not supported", ""),
    "GeneratorExp": ("comprehensions are not supported", ""),
    "Starred": ("* has no meaning here", ""),
    "Slice": ("slices are not supported", "use bytes(pointer, n) or one index"),
}
"""Python's forms that probes do not have: what is wrong, and what to do instead."""


class Converter:
    """Turns nodes of one parsed text into tree nodes.

    `lines` are the parsed text's lines; the spans say `line` lines and `column` characters (first line only)
    more than the parser's positions. `kwire_names` are the names under which the module kwire is known.
    """

    def __init__(
        self, text: str, line: int = 0, column: int = 0, kwire_names: frozenset[str] = frozenset(("kwire",))
    ) -> None:
        self.lines = text.split("\n")
        self.line = line
        self.column = column
        self.kwire_names = kwire_names
        self.depth = 0
        self.more: list[TextError] = []  # what is wrong in a statement besides what is raised
        self.loops = 0  # that what is converted stands in
        self.globs = False  # whether `@` in the parsed text stands for the `~` of a condition
        self.returns = False  # whether it is a function, which gives a value
        self.own: Callable[[str], int] = lambda name: -1  # the number of the function of one's own of a name
        self.maps: Callable[[str], tree.MapDeclaration | None] = lambda name: None  # the map of a name
        self.values: dict[str, int | str] = {}  # dotted names with known values: "socket.AF_INET"
        self.prints: dict[str, tree.Print] = {}  # the statements that print, by the names of their events
        # The name of the language that a name stands for.
        self.language: Callable[[str], str] = lambda name: ""

    def _position(self, line: int, offset: int) -> tuple[int, int]:
        text = self.lines[line - 1] if 0 < line <= len(self.lines) else ""
        column = offset if text.isascii() else len(text.encode()[:offset].decode("utf-8", "replace"))
        return line + self.line, column + (self.column if line == 1 else 0)

    def span(self, node: ast.expr | ast.stmt | ast.arg | ast.keyword) -> Span:
        """Where a node stands, in lines of the file and columns in characters."""
        end_line, end_offset = node.end_lineno or node.lineno, node.end_col_offset or node.col_offset
        return Span(*self._position(node.lineno, node.col_offset), *self._position(end_line, end_offset))

    def _refuse(self, node: ast.expr | ast.stmt) -> NoReturn:
        name = type(node).__name__
        message, cure = REFUSED.get(name, (f"{name} is not supported in a probe", ""))
        span = self.span(node)
        if isinstance(node, ast.stmt) and span.end_line > span.line:
            span = Span(span.line, span.column, span.line, len(self.lines[node.lineno - 1]))
        raise TextError(span, message, cure)

    # -- expressions

    def expr(self, node: ast.expr) -> Expr:
        """The tree of an expression. Raises `TextError` for what a probe cannot have."""
        method = getattr(self, f"_{type(node).__name__}", None)
        if method is None:
            self._refuse(node)
        with self._deeper(node):
            converted: Expr = method(node)
        return converted

    def _all(self, nodes: list[ast.expr]) -> list[Expr]:
        """The trees of several expressions; what is wrong in any of them is told."""
        made, wrong = [], []
        for node in nodes:
            try:
                made.append(self.expr(node))
            except TextError as fault:
                wrong.append(fault)
        if wrong:
            self.more += wrong[1:]
            raise wrong[0]
        return made

    @contextmanager
    def _deeper(self, node: ast.expr | ast.stmt) -> Iterator[None]:
        """One level down; what follows the tree by recursion must not run out of stack."""
        if self.depth == MAX_DEPTH:
            raise TextError(self.span(node), "this is nested too deeply", "use local variables")
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1

    def _Name(self, node: ast.Name) -> Expr:  # noqa: N802 (named after the node)
        if self.map(node) is not None:
            raise TextError(self.span(node), f"{node.id} is a map, and no value", f"write {node.id}[key]")
        return tree.Name(self.language(node.id) or node.id, self.span(node))

    def _Constant(self, node: ast.Constant) -> Expr:  # noqa: N802
        value = node.value
        if isinstance(value, bool):
            return tree.Number(int(value), self.span(node), True)
        if isinstance(value, int):
            return tree.Number(value, self.span(node))
        if isinstance(value, str):
            return tree.String(value, self.span(node))
        if isinstance(value, float | complex):
            raise TextError(self.span(node), "the kernel has no floating point", "use integers")
        if value is None:
            raise TextError(
                self.span(node), "None is no value in a probe", "compare a pointer with `is None` or 0"
            )
        raise TextError(self.span(node), f"{value!r} is no value in a probe", "use an integer or a str")

    def _Attribute(self, node: ast.Attribute) -> Expr:  # noqa: N802
        span = self.span(node)
        element = self.element(node)
        if element is not None:
            return element
        known = self.values.get(dotted(node))
        if known is not None:
            return tree.Number(int(known), span) if isinstance(known, int) else tree.String(known, span)
        named = self.language(dotted(node))
        if named:
            return tree.Name(named, span)
        name_span = Span(span.end_line, span.end_column - len(node.attr), span.end_line, span.end_column)
        return tree.Member(self.expr(node.value), node.attr, span, name_span)

    def _Subscript(self, node: ast.Subscript) -> Expr:  # noqa: N802
        element = self.element(node)
        if element is not None:
            return element
        return tree.Index(self.expr(node.value), self.expr(node.slice), self.span(node))

    def _Tuple(self, node: ast.Tuple) -> Expr:  # noqa: N802
        return tree.Tuple(tuple(self.expr(one) for one in node.elts), self.span(node))

    def _Dict(self, node: ast.Dict) -> Expr:  # noqa: N802
        names = [one.value if isinstance(one, ast.Constant) else None for one in node.keys]
        texts = [one for one in names if isinstance(one, str) and one.isidentifier()]
        if not texts or len(texts) < len(names):
            cure = 'write {"pid": pid, "comm": comm}'
            raise TextError(self.span(node), "the keys of a dictionary in a probe are names, as texts", cure)
        return tree.Tuple(tuple(self.expr(one) for one in node.values), self.span(node), tuple(texts))

    def _UnaryOp(self, node: ast.UnaryOp) -> Expr:  # noqa: N802
        operand, span = self.expr(node.operand), self.span(node)
        if isinstance(operand, tree.Number) and isinstance(node.op, ast.USub) and not operand.boolean:
            return tree.Number(-operand.value, span)
        return tree.Unary(UNARY[type(node.op)], operand, span)

    def _BinOp(self, node: ast.BinOp) -> Expr:  # noqa: N802
        op = BINARY.get(type(node.op))
        if isinstance(node.op, ast.MatMult) and self.globs:
            return tree.Match("glob", self.expr(node.left), self.expr(node.right), self.span(node))
        if op is None:
            sign, cure = NO_INTEGER_OPERATION.get(type(node.op), ("@", ""))
            raise TextError(self.span(node), f"{sign} is not an operation on integers", cure)
        return tree.Binary(op, self.expr(node.left), self.expr(node.right), self.span(node))

    def _BoolOp(self, node: ast.BoolOp) -> Expr:  # noqa: N802
        op = "and" if isinstance(node.op, ast.And) else "or"
        return tree.Logic(op, tuple(self.expr(one) for one in node.values), self.span(node))

    def _IfExp(self, node: ast.IfExp) -> Expr:  # noqa: N802
        test, then, otherwise = self.expr(node.test), self.expr(node.body), self.expr(node.orelse)
        return tree.Conditional(test, then, otherwise, self.span(node))

    def _Compare(self, node: ast.Compare) -> Expr:  # noqa: N802
        span = self.span(node)
        if len(node.ops) == 1 and isinstance(node.ops[0], ast.In | ast.NotIn):
            return self._membership(node, isinstance(node.ops[0], ast.NotIn))
        rest: list[tuple[str, Expr]] = []
        for op, operand in zip(node.ops, node.comparators, strict=True):
            none = isinstance(operand, ast.Constant) and operand.value is None
            if isinstance(op, ast.Is | ast.IsNot):
                if not none:
                    raise TextError(span, "`is` compares nothing in a probe", "use ==")
                rest.append(("eq" if isinstance(op, ast.Is) else "ne", self._none(operand)))
            elif isinstance(op, ast.In | ast.NotIn):
                raise TextError(span, "`in` cannot stand in a chain of comparisons", "use `and`")
            else:
                right = self._none(operand) if none else self.expr(operand)
                rest.append((COMPARE[type(op)], right))
        return tree.Compare(self.expr(node.left), tuple(rest), span)

    def _none(self, node: ast.expr) -> Expr:
        return tree.Number(0, self.span(node), none=True)

    def _membership(self, node: ast.Compare, negated: bool) -> Expr:
        choices, span = node.comparators[0], self.span(node)
        map_ = self.map(choices)
        if map_ is not None:
            key = tree.HasKey(tree.Element(map_, self._parts(node.left), span), span)
            return tree.Unary("not", key, span) if negated else key
        several = isinstance(choices, ast.Tuple | ast.List | ast.Set)
        if not several and isinstance(node.left, ast.Constant) and isinstance(node.left.value, str):
            held: Expr = tree.Match("contains", self.expr(choices), self.expr(node.left), span)
            return tree.Unary("not", held, span) if negated else held
        if not isinstance(choices, ast.Tuple | ast.List | ast.Set) or not choices.elts:
            cure = 'write x in (1, 2, 3), or "part" in text'
            raise TextError(self.span(choices), "`in` needs the values themselves", cure)
        left = self.expr(node.left)
        tests: list[Expr] = [tree.Compare(left, (("eq", self.expr(one)),), span) for one in choices.elts]
        found = tests[0] if len(tests) == 1 else tree.Logic("or", tuple(tests), span)
        return tree.Unary("not", found, span) if negated else found

    def _Call(self, node: ast.Call) -> Expr:  # noqa: N802
        return self.call(node)

    def call(self, node: ast.Call) -> Expr:
        """A call; `cast("type", value)` and the tests of texts are tree forms of their own."""
        function, span, own = node.func, self.span(node), -1
        if named := self.language(dotted(function)):
            name = named
        elif isinstance(function, ast.Attribute) and dotted(function.value) in self.kwire_names:
            name = function.attr
        elif (own := self.own(dotted(function))) >= 0:
            name = dotted(function).rpartition(".")[2]
            if isinstance(function, ast.Name) and name in builtins.FUNCTION:
                message = f"{name} is a function of the language, and one of the script around this one"
                raise TextError(self.span(function), message, "give the script's another name")
        elif isinstance(function, ast.Attribute) and function.attr in METHODS:
            return self._method(node, function)
        elif isinstance(function, ast.Name):
            name = function.id
        else:
            message = "this is no function of kwire, nor one in Python whose text can be found"
            raise TextError(self.span(function), message, "define it with def, in this file or one beside it")
        for keyword in node.keywords:
            if keyword.arg is None:
                raise TextError(self.span(keyword), "** has no meaning here", "write name=value")
        if name == "cast" and own < 0:
            return self._cast(node)
        if name == "glob" and own < 0:
            if len(node.args) != 2 or node.keywords:
                raise TextError(span, "glob takes a text and a pattern", 'write glob(path, "*.so")')
            return tree.Match("glob", self.expr(node.args[0]), self.expr(node.args[1]), span)
        given = self._all([*node.args, *(one.value for one in node.keywords)])
        arguments = tuple(given[: len(node.args)])
        names = (one.arg or "" for one in node.keywords)
        keywords = tuple(zip(names, given[len(node.args) :], strict=True))
        return tree.Call(name, arguments, keywords, span, self.span(function), own)

    def _method(self, node: ast.Call, function: ast.Attribute) -> Expr:
        """`text.startswith("a")` or `text.endswith(("a", "b"))`."""
        if len(node.args) != 1 or node.keywords:
            cure = f'write x.{function.attr}("…")'
            raise TextError(self.span(node), f"{function.attr} takes one text", cure)
        given, span = node.args[0], self.span(node)
        choices = given.elts if isinstance(given, ast.Tuple) and given.elts else [given]
        text = self.expr(function.value)
        tests: list[Expr] = [tree.Match(function.attr, text, self.expr(one), span) for one in choices]
        return tests[0] if len(tests) == 1 else tree.Logic("or", tuple(tests), span)

    def _cast(self, node: ast.Call) -> tree.Cast:
        cure = 'write cast("struct sock *", value)'
        if len(node.args) != 2 or node.keywords:
            raise TextError(self.span(node), "cast takes a type and a value", cure)
        written, value = node.args
        type_ = written.value if isinstance(written, ast.Constant) else None
        if not isinstance(type_, str):
            raise TextError(self.span(written), "the type of a cast is a string", cure)
        return tree.Cast(type_, self.expr(value), self.span(node), self.span(written))

    # -- maps

    def map(self, node: ast.expr) -> tree.MapDeclaration | None:
        """The map that a plain or dotted name means; None where it means none."""
        name = dotted(node)
        try:
            return self.maps(name) if name else None
        except ValueError as error:
            raise TextError(self.span(node), f"{name} is no map: {error}") from None

    def element(self, node: ast.expr) -> tree.Element | None:
        """`map[key]`, or `variable.value`; None for anything else."""
        if isinstance(node, ast.Subscript):
            map_ = self.map(node.value)
            return None if map_ is None else tree.Element(map_, self._parts(node.slice), self.span(node))
        if isinstance(node, ast.Attribute) and node.attr == "value":
            map_ = self.map(node.value)
            return None if map_ is None else tree.Element(map_, (), self.span(node))
        return None

    def _parts(self, node: ast.expr) -> tuple[Expr, ...]:
        """The parts of a key."""
        return tuple(self.expr(one) for one in (node.elts if isinstance(node, ast.Tuple) else [node]))

    def _added(self, call: ast.Call) -> tree.Aggregate | None:
        """`map.add(…)`, `map[key].add(…)`; None for any other call. What is given to a count is its key."""
        function = call.func
        if not isinstance(function, ast.Attribute):
            return None
        map_, span = self.map(function.value), self.span(call)
        element = self.element(function.value)
        if map_ is None and element is None:
            return None
        if function.attr != "add" or call.keywords:
            raise TextError(span, "what a probe does with a map is add(…)", "write counts.add(…)")
        given = [part for one in call.args for part in self._parts(one)]
        if element is None:
            assert map_ is not None
            if map_.kind == "count":
                return tree.Aggregate(tree.Element(map_, tuple(given), span), None, span)
            if map_.key:
                name = dotted(function.value)
                raise TextError(span, f"{name} has keys", f"write {name}[key].add(value)")
            element = tree.Element(map_, (), span)
        if len(given) > 1:
            raise TextError(span, "one value is added at a time")
        return tree.Aggregate(element, given[0] if given else None, span)

    def _changed(self, node: ast.Assign | ast.AugAssign) -> Stmt | None:
        """`map[key] = value`, `map[key] += value`; None for other assignments."""
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        if isinstance(node, ast.Assign) and len(node.targets) > 1:
            return None
        element = self.element(target)
        if element is None:
            return None
        value, span = self.expr(node.value), self.span(node)
        if isinstance(node, ast.Assign):
            return tree.SetElement(element, value, span)
        if isinstance(node.op, ast.Add):
            return tree.Aggregate(element, value, span)
        if isinstance(node.op, ast.Sub):
            return tree.Aggregate(element, tree.Unary("neg", value, value.span), span)
        if type(node.op) not in BINARY:
            sign, cure = NO_INTEGER_OPERATION.get(type(node.op), ("@", ""))
            raise TextError(span, f"{sign} is not an operation on integers", cure)
        return tree.SetElement(element, tree.Binary(BINARY[type(node.op)], element, value, span), span)

    # -- statements

    def body(self, statements: list[ast.stmt], faults: list[TextError]) -> tuple[Stmt, ...]:
        """The statements of a block; what is wrong in each goes to `faults` and the next is looked at."""
        converted: list[Stmt] = []
        for statement in statements:
            try:
                converted.extend(self._statement(statement, faults))
            except TextError as fault:
                faults += [fault, *self.more]
                self.more.clear()
                converted.append(self._broken(statement))
        return tuple(converted)

    def _broken(self, node: ast.stmt) -> Stmt:
        """What stands for a statement that is wrong."""
        stored = [
            one for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)
        ]
        names = tuple(dict.fromkeys(one.id for one in stored))
        return tree.Broken(names, isinstance(node, ast.Return), self.span(node))

    def _statement(self, node: ast.stmt, faults: list[TextError]) -> list[Stmt]:  # noqa: RET503 (_refuse raises)
        span = self.span(node)
        match node:
            case ast.Pass() | ast.Expr(value=ast.Constant()):  # a docstring, or ...
                return []
            case ast.Expr(value=ast.Call() as written):
                added = self._added(written)
                if added is not None:
                    return [added]
                if (self.language(dotted(written.func)) or dotted(written.func)) == "print":
                    return [self._print(written)]
                call = self.call(written)
                if isinstance(call, tree.Call):
                    return [tree.Do(call, span)]
                raise TextError(span, "this expression has no effect", "emit(…) it or assign it to a name")
            case ast.Assign() | ast.AugAssign() if (changed := self._changed(node)) is not None:
                return [changed]
            case ast.Assign(targets=[first, *more], value=value):
                return self._assign(first, more, value, span)
            case ast.AnnAssign(target=ast.Name() as target, value=ast.expr() as value):
                type_ = self.annotation(node.annotation)
                at = self.span(target)
                type_span = self.span(node.annotation)
                return [tree.Assign(target.id, self.expr(value), span, at, type_, type_span)]
            case ast.AugAssign(target=ast.Name() as target):
                at = self.span(target)
                joined = ast.copy_location(ast.BinOp(ast.Name(target.id), node.op, node.value), node)
                ast.copy_location(joined.left, target)
                return [tree.Assign(target.id, self.expr(joined), span, at)]
            case ast.If():
                return [self._if(node, faults)]
            case ast.For():
                return [self._for(node, faults)]
            case ast.While():
                return [self._while(node, faults)]
            case ast.Break() | ast.Continue():
                if not self.loops:
                    if isinstance(node, ast.Break):
                        raise TextError(span, "there is no loop to break")
                    raise TextError(span, "there is no loop to continue", "use return")
                return [tree.Break(span) if isinstance(node, ast.Break) else tree.Continue(span)]
            case ast.Return(value=None | ast.Constant(value=None)):
                return [tree.Return(span)]
            case ast.Return(value=ast.expr() as value) if self.returns:
                return [tree.Return(span, self.expr(value))]
            case ast.Return():
                raise TextError(span, "a probe returns nothing", "use emit(…) for what shall be seen")
            case ast.AugAssign() | ast.AnnAssign():
                raise self._no_target(node.target)
            case ast.Delete(targets=targets):
                deleted = [self.element(one) for one in targets]
                if None in deleted:
                    self._refuse(node)
                return [tree.DeleteElement(one, span) for one in deleted if one is not None]
            case ast.Expr():
                self.expr(node.value)
                raise TextError(span, "this expression has no effect", "emit(…) it or assign it to a name")
        self._refuse(node)

    def _print(self, call: ast.Call) -> Stmt:
        """`print(f"{pid} opened {path}", size)`: an event of its own shape, which is shown as this text."""
        between, end = " ", "\n"
        for keyword in call.keywords:
            value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
            if keyword.arg not in ("sep", "end") or not isinstance(value, str):
                raise TextError(
                    self.span(keyword), "print takes constant texts as sep and end", 'write end=""'
                )
            between, end = (value, end) if keyword.arg == "sep" else (between, value)
        made = _Format(self)
        for number, one in enumerate(call.args):
            made.text(between if number else "")
            made.add(one)
        made.text(end)
        span, name = self.span(call), f"print{len(self.prints) + 1}"
        self.prints[name] = tree.Print("printf", made.format, span, tuple(made.places), True)
        event = tree.String(name, span)
        return tree.Do(tree.Call("emit", (event,), tuple(made.fields.items()), span, span), span)

    def _assign(self, first: ast.expr, more: list[ast.expr], value: ast.expr, span: Span) -> list[Stmt]:
        """`a = value`, `a, b = value`, `a = b = value`: the value is taken once."""
        if more and not isinstance(first, ast.Name):
            first, *more = sorted((first, *more), key=lambda one: not isinstance(one, ast.Name))
        converted = self.expr(value)
        made: list[Stmt] = []
        for target in (first, *more):
            at = self.span(target)
            if isinstance(target, ast.Name):
                made.append(tree.Assign(target.id, converted, span, at))
                converted = tree.Name(target.id, at)
            else:
                made.append(tree.Unpack(self._targets(target), converted, span))
        return made

    def _targets(self, node: ast.expr) -> tree.Targets:
        """Names that the parts of a tuple are given to."""
        if not isinstance(node, ast.Tuple | ast.List):
            raise self._no_target(node)
        items = (
            tree.Name(one.id, self.span(one)) if isinstance(one, ast.Name) else self._targets(one)
            for one in node.elts
        )
        return tree.Targets(tuple(items), self.span(node))

    def _no_target(self, node: ast.expr) -> TextError:
        return TextError(self.span(node), "only a local variable can be assigned", "write name = value")

    def _while(self, node: ast.While, faults: list[TextError]) -> Stmt:
        """A loop that ends by its condition."""
        test = self.expr(node.test)
        return tree.While(test, self._turn(node, faults), self.span(node))

    def _turn(self, node: ast.For | ast.While, faults: list[TextError]) -> tuple[Stmt, ...]:
        """The body of a loop."""
        if node.orelse:
            wrong = "a loop has no else in a probe"
            faults.append(TextError(self.span(node.orelse[0]), wrong, "use a local variable"))
        self.loops += 1
        try:
            with self._deeper(node):
                return self.body(node.body, faults)
        finally:
            self.loops -= 1

    def _if(self, node: ast.If, faults: list[TextError]) -> Stmt:
        """A choice; every `elif` is one in the other arm of the one before."""
        arms: list[tuple[Expr, tuple[Stmt, ...], Span]] = []
        while True:
            test = self.expr(node.test)
            with self._deeper(node):
                arms.append((test, self.body(node.body, faults), self.span(node)))
            if len(node.orelse) != 1 or not isinstance(node.orelse[0], ast.If):
                break
            node = node.orelse[0]
            if len(arms) == MAX_ARMS:
                raise TextError(self.span(node.test), f"these are more than {MAX_ARMS} choices in a row")
        with self._deeper(node):
            otherwise = self.body(node.orelse, faults)
        test, then, span = arms.pop()
        whole = tree.If(test, then, otherwise, span)
        for test, then, span in reversed(arms):
            whole = tree.If(test, then, (whole,), span)
        return whole

    def _for(self, node: ast.For, faults: list[TextError]) -> Stmt:
        """A loop over numbers, or over a map."""
        span, cure = self.span(node.iter), "write for i in range(10):"
        call = node.iter
        map_, part = self._looped_map(call)
        if map_ is not None:
            return self._for_map(node, map_, part, faults)
        if not isinstance(call, ast.Call) or dotted(call.func) != "range" or call.keywords:
            raise TextError(span, "a probe's loop runs over numbers", cure)
        if not 1 <= len(call.args) <= 3:
            raise TextError(span, f"range was called with {len(call.args)} arguments", cure)
        if not isinstance(node.target, ast.Name):
            raise TextError(self.span(node.target), "a loop sets one name", cure)
        given = [self.expr(one) for one in call.args]
        start: Expr = given[0] if len(given) > 1 else tree.Number(0, span)
        step: Expr = given[2] if len(given) > 2 else tree.Number(1, span)
        body = self._turn(node, faults)
        stop = given[min(len(given) - 1, 1)]
        at = self.span(node.target)
        return tree.For(node.target.id, start, stop, step, body, self.span(node), at, span)

    def _looped_map(self, node: ast.expr) -> tuple[tree.MapDeclaration | None, str]:
        """The map that a loop is over, and what of it: "keys" or "items"; None where it is over none."""
        method = node.func if isinstance(node, ast.Call) and not (node.args or node.keywords) else None
        if isinstance(method, ast.Attribute) and method.attr in ("keys", "items"):
            return self.map(method.value), method.attr
        return self.map(node), "keys"

    def _for_map(self, node: ast.For, map_: tree.MapDeclaration, part: str, faults: list[TextError]) -> Stmt:
        """`for key in map:`, `for key, value in map.items():`."""
        span, at = self.span(node), self.span(node.target)
        name = f"turn#{span.line}.{span.column}"
        pair: Expr = tree.Name(name, at)
        if part == "keys":
            pair = tree.Index(pair, tree.Number(0, at), at)
        if isinstance(node.target, ast.Name):
            first: Stmt = tree.Assign(node.target.id, pair, at, at)
        else:
            first = tree.Unpack(self._targets(node.target), pair, at)
        body = self._turn(node, faults)
        return tree.ForMap(name, map_, (first, *body), span, at, self.span(node.iter))

    def annotation(self, node: ast.expr) -> str:
        """The C type in an annotation: a string, a plain name such as u32, or what stands behind a type of
        Python's, `Annotated[Any, "struct sock *"]`. Empty where it is only for Python: `Any`, `int`.
        """
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return node.value
        name = dotted(node)
        last = self.language(name) or name.rpartition(".")[2]
        if last in FOR_PYTHON:
            return ""
        if isinstance(node, ast.Name):
            return last
        if isinstance(node, ast.Attribute) and (last != node.attr or dotted(node.value) in self.kwire_names):
            return last
        if isinstance(node, ast.Subscript) and dotted(node.value).rpartition(".")[2] == "Annotated":
            parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else []
            if len(parts) > 1 and isinstance(parts[1], ast.Constant) and isinstance(parts[1].value, str):
                return parts[1].value
        cure = 'for example sk: "struct sock *"'
        raise TextError(self.span(node), "a type is written as a string", cure)


_SPEC: Final = pattern(r"([<>]?)([+ ]?)(#?)(0?)(\d*)(?:\.(\d+))?([dxXocs]?)")
"""What of Python's format specifications a conversion of C's printf can say."""


class _Format:
    """A format while it is made of what is printed, with its fields."""

    def __init__(self, converter: Converter) -> None:
        self._converter = converter
        self.format = ""
        self.fields: dict[str, Expr] = {}
        self.places: list[tuple[str, Span]] = []

    def text(self, text: str) -> None:
        """What is printed as it is."""
        self.format += text.replace("%", "%%")

    def add(self, node: ast.expr) -> None:
        """What is printed of an expression."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            self.text(node.value)
        elif isinstance(node, ast.JoinedStr):
            for part in node.values:
                self.add(part)
        elif isinstance(node, ast.FormattedValue):
            self._value(node.value, self._conversion(node))
        else:
            self._value(node, "%s")

    def _value(self, node: ast.expr, conversion: str) -> None:
        value, span = self._converter.expr(node), self._converter.span(node)
        if isinstance(value, tree.String):
            raise TextError(span, "a constant text has no format", "write it as it is")
        name = field_name(value) or f"arg{len(self.fields) + 1}"
        name, number = name + "_" * (name in RESERVED), 2
        free = name
        while free in self.fields:
            free, number = f"{name}_{number}", number + 1
        self.fields[free] = value
        self.places.append((free, span))
        self.format += conversion

    def _conversion(self, node: ast.FormattedValue) -> str:
        span = self._converter.span(node.value)
        if node.conversion not in (-1, ord("s")):
            raise TextError(span, "!r and !a are not supported", "write {x}")
        parts = node.format_spec.values if isinstance(node.format_spec, ast.JoinedStr) else []
        if any(not isinstance(part, ast.Constant) for part in parts):
            raise TextError(span, "a format must be known when the probe is compiled", "write {x:8}")
        spec = "".join(str(part.value) for part in parts if isinstance(part, ast.Constant))
        found = _SPEC.fullmatch(spec)
        letter = found[7] if found else ""
        number = (
            letter in ("d", "x", "X", "o", "c")
            if letter
            else bool(found and (found[2] or found[3] or found[4]))
        )
        if found is None or (found[6] and number) or (letter == "s" and (found[2] or found[3] or found[4])):
            cure = "write {x:>8}, {x:08x}, {x:.20} or the like"
            raise TextError(span, f"{spec!r} is no format of what a probe prints", cure)
        if len(found[5]) > 4 or len(found[6] or "") > 4:
            raise TextError(span, "a width or precision is at most 4096")
        left = "-" if found[1] == "<" else "+" if found[1] == ">" and not number else ""
        precision = f".{found[6]}" if found[6] else ""
        if not number:
            return f"%{left}{found[5]}{precision}s"
        return f"%{left}{found[2]}{found[3]}{found[4]}{found[5]}l{letter or 'd'}"


def dotted(node: ast.expr) -> str:
    """`a.b.c` as text; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        head = dotted(node.value)
        return f"{head}.{node.attr}" if head else ""
    return ""
