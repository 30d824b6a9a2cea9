"""Whether a function in IR keeps the invariants of `ir`: run after every pass in tests, never otherwise.

`checking` is set by the tests' configuration. What is wrong is a `BrokenIrError`: a mistake of this compiler,
not of a probe.
"""

from kwire.compile import graph
from kwire.compile.ir import (
    CONDITIONS,
    OPS,
    Block,
    Branch,
    Function,
    Jump,
    Value,
    dump,
    end_values,
    successors,
)

checking = False


class BrokenIrError(Exception):
    """A pass has broken the IR."""


def verify(function: Function, after: str) -> None:
    """Raise BrokenIrError where an invariant does not hold; `after`: the pass that came before."""
    try:
        _verify(function)
    except BrokenIrError as error:
        raise BrokenIrError(f"after {after}: {error}\n{dump(function)}") from None


def _fail(unless: bool, what: str) -> None:
    if not unless:
        raise BrokenIrError(what)


def _verify(function: Function) -> None:
    blocks = function.blocks
    number = {block: at for at, block in enumerate(blocks)}
    _fail(len(number) == len(blocks), "a block stands at two places")
    _fail(bool(blocks) and blocks[0] is function.entry, "the entry is not the first block")
    _fail(not function.entry.params, "the entry has parameters")
    reached = {function.entry}
    for at, block in enumerate(blocks):
        if block not in reached:
            continue
        for target in successors(block.end):
            _fail(target in number, f"{block} leads to {target}, which is nowhere")
            _fail(number[target] > at or target in reached, f"{block} leads back to {target}")
            reached.add(target)
        _fail_end(block)
    _definitions(function, [block for block in blocks if block in reached])


def _fail_end(block: Block) -> None:
    end = block.end
    if isinstance(end, Branch):
        _fail(end.condition in CONDITIONS, f"{block}: no such condition")
        for target in successors(end):
            _fail(not target.params, f"{block}: a branch gives no arguments to {target}")
    elif isinstance(end, Jump):
        fits = len(end.args) == len(end.target.params)
        _fail(fits, f"{block}: {end} gives other arguments than {end.target} has parameters")


def _definitions(function: Function, blocks: list[Block]) -> None:
    """Each value has one definition, and every use is where that is known."""
    copy = Function.__new__(Function)
    copy.entry, copy.blocks = function.entry, blocks
    where: dict[Value, tuple[Block, int]] = {}

    def define(value: Value, block: Block, at: int) -> None:
        if value in where:
            raise BrokenIrError(f"{value} has two definitions")
        where[value] = block, at

    for param in function.params:
        define(param, function.entry, -2)
    for block in blocks:
        for param in block.params:
            define(param, block, -1)
        for at, ins in enumerate(block.body):
            if ins.op not in OPS:
                raise BrokenIrError(f"{block}: no operation {ins.op}")
            wanted = OPS[ins.op].args
            if wanted not in (-1, len(ins.args)):
                raise BrokenIrError(f"{block}: {ins} has not {wanted} arguments")
            if ins.dst is not None:
                define(ins.dst, block, at)
    above = _dominators(copy)

    def use(value: Value, block: Block, at: int) -> None:
        if value not in where:
            raise BrokenIrError(f"{block}: {value} has no definition")
        place, since = where[value]
        if not (since < at if place is block else place in above[block]):
            raise BrokenIrError(f"{block}: {value} of {place} is not known here")

    for block in blocks:
        for at, ins in enumerate(block.body):
            for value in ins.uses():
                use(value, block, at)
        for value in end_values(block.end):
            use(value, block, len(block.body))


def _dominators(function: Function) -> dict[Block, set[Block]]:
    """For each block those that every way to it leads through, found in the plainest way."""
    everything = set(function.blocks)
    preds = graph.predecessors(function)
    found = dict.fromkeys(function.blocks, everything)
    found[function.entry] = {function.entry}
    changed = True
    while changed:
        changed = False
        for block in function.blocks[1:]:
            new = set.intersection(*(found[pred] for pred in preds[block])) | {block}
            if new != found[block]:
                found[block] = new
                changed = True
    return found
