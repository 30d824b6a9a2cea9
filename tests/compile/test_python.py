"""Random probes in Python, with functions, loops, choices and tuples: what they emit is what Python says, in
the interpreter and in the kernel.

Programs whose numbers become too large are left out: those of Python have no end, those of probes 64 bits.
"""

from __future__ import annotations

import ast
import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from amounts import fewer_in_guests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kwire.bpf import vm
from kwire.compile import loops
from kwire.lang.errors import LanguageError
from kwire.wire.schema import decode

MASK = (1 << 64) - 1
LOCALS = ("x", "y", "z")
LARGE = 1 << 62
REFUSED = "this is never true"
"""What is refused, though Python takes it, because nobody means it."""


def _meaning() -> ModuleType:
    """What compiles a probe's text for a site, and runs it in the kernel."""
    spec = importlib.util.spec_from_file_location("meaning", Path(__file__).parent / "test_meaning.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def meaning() -> ModuleType:
    """That module; the kernel's types are open before any test and stay so."""
    module = _meaning()
    module.types()
    return module


WHILES = [
    # (before, the condition, what moves towards its end)
    ("{0} = 0", "{0} < 5", "{0} += 1"),
    ("{0} = 9", "{0} > 0 and {1}", "{0} -= 2"),
    ("{0} = 1", "{1} and {0} <= 40", "{0} *= 3"),
    ("{0} = {1} & 31", "{0}", "{0} >>= 1"),
    ("{0} = ({1}) & 7", "{0} != 0", "{0} -= 1"),
    ("{0} = 0", "True", "if {0} == 4: break\n{0} += 1"),
    ("{0} = ({1}) & 15", "not {0} < 2", "{0} //= 2"),
]
TUPLES = ["t = (1, 2)", "r = {'n': 5, 'ab': (3, 4)}"]


class Writer:
    """Writes functions and the body of a probe by dice."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.turns = 0
        self.functions: list[tuple[str, int]] = []  # names, and how many parameters each has

    def expression(self, names: list[str], depth: int) -> str:
        """An expression over these names."""
        kind = self.dice.randrange(14) if depth else self.dice.randrange(2)

        def part() -> str:
            return self.expression(names, depth - 1)

        if kind == 0 or (kind == 6 and not self.functions):
            return self.dice.choice(names)
        if kind == 1:
            return str(self.dice.randint(0, 20))
        if kind < 5:
            return f"({part()} {'+-&'[kind - 2]} {part()})"
        if kind == 5:
            return f"({part()} * {self.dice.randint(0, 5)})"
        if kind == 6:
            return self.call(names, depth - 1)
        if kind == 7:
            return f"({part()} if {self.test(names, depth - 1)} else {part()})"
        if kind == 9:
            return f"{self.dice.choice(['t', 't', 'r'])}[{self.dice.choice([0, 1, -1])}]".replace(
                "r[", "r['ab']["
            )
        if kind == 10:
            return f"({self.dice.choice(['~', '-', '+', '~-'])}{part()})"
        if kind == 11:
            return f"({part()} {self.dice.choice(['|', '^', '<<', '>>'])} {self.dice.randint(0, 5)})"
        if kind == 12:
            return f"{self.dice.choice(['min', 'max'])}({part()}, {part()})"
        if kind == 13:
            return f"({self.test(names, depth - 1)})"
        return f"({part()} {self.dice.choice(['%', '//'])} {self.dice.randint(1, 9)})"

    def test(self, names: list[str], depth: int) -> str:
        """A condition."""
        kind = self.dice.randrange(7) if depth > 0 else 0

        def part() -> str:
            return self.expression(names, depth - 1)

        sign = self.dice.choice(["<", "<=", ">", ">=", "==", "!="])
        if kind == 1:
            return f"{part()} {self.dice.choice(['<', '<='])} {part()} {sign} {part()}"
        if kind == 2:
            return f"not {self.test(names, depth - 1)}"
        if kind == 3:
            word = self.dice.choice(["and", "or"])
            return f"({self.test(names, depth - 1)} {word} {self.test(names, depth - 1)})"
        if kind == 4:
            return f"{part()} {self.dice.choice(['in', 'not in'])} ({part()}, {part()}, 3)"
        if kind == 5:
            return f"({part()}, {part()}) {sign} (t[0], {part()})"
        if kind == 6:
            return f"t {sign} ({part()}, {part()})"
        return f"{self.expression(names, 0)} {sign} {self.expression(names, 0)}"

    def call(self, names: list[str], depth: int) -> str:
        """A call of one of the functions so far."""
        name, count = self.dice.choice(self.functions)
        return f"{name}({', '.join(self.expression(names, depth) for _ in range(count))})"

    def block(self, names: list[str], depth: int, inside: bool, probe: bool) -> list[str]:
        """Statements; `inside`: in a loop; `probe`: they emit, functions return values."""
        lines: list[str] = []
        for _ in range(self.dice.randint(1, 4)):
            often = ["set", "set", "if", "for", "leave", "give", "emit", "call", "while", "unpack", "unpack"]
            kind = self.dice.choice([*often, "tuple", "augment", "both"])
            if kind == "if" and depth:
                lines.append(f"if {self.test(names, 2)}:")
                lines += self.indented(names, depth, inside, probe)
                if self.dice.randrange(2):
                    lines += ["else:", *self.indented(names, depth, inside, probe)]
            elif kind == "for" and depth:
                self.turns += 1
                name, end = f"i{self.turns}", self.expression(names, 0)
                numbers = self.dice.choice(["4", "7, 0, -2", f"{end} & 7", f"{end} & 3, 9, 3"])
                lines.append(f"for {name} in range({numbers}):")
                lines += self.indented([*names, name], depth, True, probe)
            elif kind == "while" and depth:
                self.turns += 1
                name = f"w{self.turns}"
                start, head, step = self.dice.choice(WHILES)
                lines.append(start.format(name, self.expression(names, 1)))
                lines.append(f"while {head.format(name, self.test(names, 1))}:")
                first, *more = step.format(name).split("\n")
                lines += ["    " + first, *("    " + line for line in more)]
                lines += self.indented([*names, name], depth, True, probe)
            elif kind == "unpack":
                a, b = self.dice.sample(LOCALS, 2)
                given = self.expression(names, 2), self.expression(names, 2)
                whole = self.dice.choice(
                    [f"{given[0]}, {given[1]}", f"{b}, {a}", "t", "r['ab']", f"pair({given[0]})"]
                )
                lines.append(f"{a}, {b} = {whole}")
            elif kind == "tuple":
                pair = f"({self.expression(names, 1)}, {self.expression(names, 1)})"
                lines.append(
                    self.dice.choice(
                        [f"t = {pair}", f"r = {{'n': {self.expression(names, 1)}, 'ab': {pair}}}"]
                    )
                )
            elif kind == "augment":
                sign = self.dice.choice(["+", "-", "&", "|", "^", ">>"])
                value = self.dice.randint(0, 9) if sign == ">>" else self.expression(names, 1)
                lines.append(f"{self.dice.choice(LOCALS)} {sign}= {value}")
            elif kind == "both":
                lines.append(f"{' = '.join(self.dice.sample(LOCALS, 2))} = {self.expression(names, 1)}")
            elif kind == "leave" and inside:
                return [*lines, self.dice.choice(["break", "continue"])]
            elif kind == "give" and not probe and depth < 2:
                return [*lines, f"return {self.expression(names, 2)}"]
            elif kind == "emit" and probe:
                lines.append(f"emit(x={self.expression(names, 2)})")
            elif kind == "call" and self.functions:
                lines.append(f"{self.dice.choice(LOCALS)} = {self.call(names, 1)}")
            else:
                lines.append(f"{self.dice.choice(LOCALS)} = {self.expression(names, 2)}")
        return lines

    def indented(self, names: list[str], depth: int, inside: bool, probe: bool) -> list[str]:
        """The statements of an arm or a loop."""
        return ["    " + line for line in self.block(names, depth - 1, inside, probe)]

    def text(self) -> tuple[str, str]:
        """The functions, and the body of a probe with a number `n` and one more."""
        texts = ["def pair(n):\n    if n > 7: return n - 1, n\n    return (n & 3, 2)\n"]
        for number in range(self.dice.randint(1, 3)):
            parameters = [f"p{each}" for each in range(self.dice.randint(1, 3))]
            names = [*parameters, *LOCALS]
            lines = [f"{name} = {at}" for at, name in enumerate(LOCALS)] + TUPLES
            lines += [*self.block(names, 2, False, False), f"return {self.expression(names, 1)}"]
            body = "".join(f"    {line}\n" for line in lines)
            texts.append(f"def f{number}({', '.join(parameters)}):\n{body}")
            self.functions.append((f"f{number}", len(parameters)))
        names = ["n", "m", *LOCALS]
        start = ["m = s64(u)", *(f"{name} = {at}" for at, name in enumerate(LOCALS)), *TUPLES]
        end = f"emit(x={' + '.join(LOCALS)})"
        return "\n".join(texts), "\n".join([*start, *self.block(names, 3, False, True), end])


class _Checked(ast.NodeTransformer):
    """Looks at the result of each operation."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        self.generic_visit(node)
        return ast.Call(ast.Name("checked", ast.Load()), [node], [])

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.Assign:
        assert isinstance(node.target, ast.Name)
        left = ast.Name(node.target.id, ast.Load())
        return ast.Assign([node.target], self.visit_BinOp(ast.BinOp(left, node.op, node.value)))


def python_says(functions: str, body: str, n: int, u: int) -> list[int]:
    """What Python itself emits. Raises OverflowError where a number is too large."""
    emitted: list[int] = []

    def checked(value: int) -> int:
        if abs(value) >= LARGE:
            raise OverflowError
        return value

    names: dict[str, Any] = {"s64": int, "checked": checked}
    lines = "".join(f"    {line}\n" for line in body.split("\n"))
    module = ast.parse(f"{functions}\ndef probe(n, u, emit):\n{lines}")
    exec(compile(ast.fix_missing_locations(_Checked().visit(module)), "probe", "exec"), names)
    names["probe"](n, u, lambda x: emitted.append(x & MASK))
    return emitted


def number(event: Any) -> int:
    """What an event holds."""
    return int(event["x"]) & MASK


@pytest.mark.live
@pytest.mark.kernels("6.1")  # the oldest verifier; the newest one judges here
@settings(max_examples=fewer_in_guests(60), deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, (1 << 32) - 1), st.sampled_from([0, 3, -5, 700]), st.sampled_from([0, 9, 50]))
def test_a_random_probe_means_what_python_means(meaning: ModuleType, seed: int, n: int, u: int) -> None:
    functions, body = Writer(seed).text()
    try:
        wanted = python_says(functions, body, n, u)
    except OverflowError:
        return
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WEIGHT_MOST", "CHOICES_MOST"):  # all loops are called, or walked
            patch.setattr(loops, name, -1 if seed % 2 else 1 << 30)
        try:
            made = meaning.compiled(body, functions=functions)
        except LanguageError as error:
            if all(one.message.startswith(REFUSED) for one in error.diagnostics):
                return
            raise
    context = vm.arguments([0, n & MASK, u, 0])
    machine = vm.Machine(made.image)
    machine.budget = 20_000_000
    emitted = machine.run(context).emitted
    assert [number(decode(made.schemas[0], one)) for one in emitted] == wanted
    if seed % 2 or len(wanted) < 500:  # a walked program of many ways may be too much for the verifier
        with meaning.in_kernel(made) as run:
            assert list(map(number, run(context)[0])) == wanted
