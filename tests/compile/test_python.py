"""Random probes in Python, with functions, loops and choices: what they emit is what Python says, in the
interpreter and in the kernel.

Numbers stay small, so that those of Python, which have no end, and those of probes, of 64 bits, are the same.
"""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kwire.bpf import vm
from kwire.compile import loops
from kwire.wire.schema import decode

MASK = (1 << 64) - 1
LOCALS = ("x", "y", "z")


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


class Writer:
    """Writes functions and the body of a probe by dice."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.turns = 0
        self.functions: list[tuple[str, int]] = []  # names, and how many parameters each has

    def expression(self, names: list[str], depth: int) -> str:
        """An expression over these names."""
        kind = self.dice.randrange(9) if depth else self.dice.randrange(2)

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
            return f"({part()} if {part()} {self.dice.choice(['<', '>', '==', '!='])} {part()} else {part()})"
        return f"({part()} {self.dice.choice(['%', '//'])} {self.dice.randint(1, 9)})"

    def call(self, names: list[str], depth: int) -> str:
        """A call of one of the functions so far."""
        name, count = self.dice.choice(self.functions)
        return f"{name}({', '.join(self.expression(names, depth) for _ in range(count))})"

    def block(self, names: list[str], depth: int, inside: bool, probe: bool) -> list[str]:
        """Statements; `inside`: in a loop; `probe`: they emit, functions return values."""
        lines: list[str] = []
        for _ in range(self.dice.randint(1, 4)):
            kind = self.dice.choice(["set", "set", "if", "for", "leave", "give", "emit", "call"])
            if kind == "if" and depth:
                test = f"{self.expression(names, 1)} {self.dice.choice(['<', '>=', '=='])}"
                lines.append(f"if {test} {self.expression(names, 1)}:")
                lines += self.indented(names, depth, inside, probe)
                if self.dice.randrange(2):
                    lines += ["else:", *self.indented(names, depth, inside, probe)]
            elif kind == "for" and depth:
                self.turns += 1
                name, end = f"i{self.turns}", self.expression(names, 0)
                numbers = self.dice.choice(["4", "7, 0, -2", f"{end} & 7", f"{end} & 3, 9, 3"])
                lines.append(f"for {name} in range({numbers}):")
                lines += self.indented([*names, name], depth, True, probe)
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
        texts = []
        for number in range(self.dice.randint(1, 3)):
            parameters = [f"p{each}" for each in range(self.dice.randint(1, 3))]
            names = [*parameters, *LOCALS]
            lines = [f"{name} = {at}" for at, name in enumerate(LOCALS)]
            lines += [*self.block(names, 2, False, False), f"return {self.expression(names, 1)}"]
            body = "".join(f"    {line}\n" for line in lines)
            texts.append(f"def f{number}({', '.join(parameters)}):\n{body}")
            self.functions.append((f"f{number}", len(parameters)))
        names = ["n", "m", *LOCALS]
        start = ["m = s64(u)", *(f"{name} = {at}" for at, name in enumerate(LOCALS))]
        end = f"emit(x={' + '.join(LOCALS)})"
        return "\n".join(texts), "\n".join([*start, *self.block(names, 3, False, True), end])


def python_says(functions: str, body: str, n: int, u: int) -> list[int]:
    """What Python itself emits."""
    emitted: list[int] = []
    names: dict[str, Any] = {"s64": int}
    lines = "".join(f"    {line}\n" for line in body.split("\n"))
    exec(f"{functions}\ndef probe(n, u, emit):\n{lines}", names)
    names["probe"](n, u, lambda x: emitted.append(x & MASK))
    return emitted


def number(event: Any) -> int:
    """What an event holds."""
    return int(event["x"]) & MASK


@pytest.mark.live
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, (1 << 32) - 1), st.sampled_from([0, 3, -5, 700]), st.sampled_from([0, 9, 50]))
def test_a_random_probe_means_what_python_means(meaning: ModuleType, seed: int, n: int, u: int) -> None:
    functions, body = Writer(seed).text()
    wanted = python_says(functions, body, n, u)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WEIGHT_MOST", "CHOICES_MOST"):  # all loops are called, or walked
            patch.setattr(loops, name, -1 if seed % 2 else 1 << 30)
        made = meaning.compiled(body, functions=functions)
    context = vm.arguments([0, n & MASK, u, 0])
    machine = vm.Machine(made.image)
    machine.budget = 20_000_000
    emitted = machine.run(context).emitted
    assert [number(decode(made.schemas[0], one)) for one in emitted] == wanted
    if seed % 2 or len(wanted) < 500:  # a walked program of many ways may be too much for the verifier
        assert list(map(number, meaning.in_kernel(made, context)[0])) == wanted
