"""The graph of blocks: dominators, jumps, and what nobody uses."""

from kwire.compile.ir import Block, Branch, Function, Ins, Jump, Value, end_values, successors


def common(a: Block, b: Block) -> Block:
    """The nearest block that dominates both."""
    if a.depth < b.depth:
        a, b = b, a
    a = ancestor(a, b.depth)
    while a is not b:  # of equal depth, so their skips are of equal depth too
        if a.skip is b.skip:
            a, b = a.parent, b.parent  # type: ignore[assignment]  # only the entry has none, and it is common
        else:
            a, b = a.skip, b.skip
    return a


def ancestor(block: Block, depth: int) -> Block:
    """The block at this depth among those that dominate the block."""
    while block.depth > depth:
        block = block.skip if block.skip.depth >= depth else block.parent  # type: ignore[assignment]
    return block


def dominates(a: Block, b: Block) -> bool:
    """Whether every way to b leads through a."""
    return ancestor(b, a.depth) is a


def thread_jumps(function: Function) -> None:
    """Lead jumps past empty blocks, and merge a block into the only one that leads to it."""
    final: dict[Block, Block] = {}
    for block in reversed(function.blocks):
        target = block
        if not block.body and isinstance(block.end, Jump):
            target = final[block.end.target]
        final[block] = target
    for block in function.blocks:
        end = block.end
        if isinstance(end, Jump):
            block.end = Jump(final[end.target])
        elif isinstance(end, Branch):
            then, otherwise = final[end.then], final[end.otherwise]
            block.end = Jump(then) if then is otherwise else end._replace(then=then, otherwise=otherwise)
    counts: dict[Block, int] = {}
    reached = {function.entry}
    order: list[Block] = []
    for block in function.blocks:
        if block in reached:
            order.append(block)
            for target in successors(block.end):
                reached.add(target)
                counts[target] = counts.get(target, 0) + 1
    gone: set[Block] = set()
    for block in order:
        if block in gone:
            continue
        while isinstance(block.end, Jump) and counts[block.end.target] == 1:
            other = block.end.target
            block.body += other.body
            block.end, block.span = other.end, other.span
            gone.add(other)
    function.blocks = [block for block in order if block not in gone]
    set_dominators(function)


def set_dominators(function: Function) -> None:
    """Find every block's direct dominator, in one walk."""
    preds: dict[Block, list[Block]] = {function.entry: []}
    for block in function.blocks:
        parent: Block | None = None
        for pred in preds[block]:
            parent = pred if parent is None else common(parent, pred)
        block.dominated_by(parent)
        for target in successors(block.end):
            preds.setdefault(target, []).append(block)


def drop_unused(function: Function) -> None:
    """Remove pure instructions whose result nobody uses, from the end to the beginning."""
    used: set[Value] = set()
    for block in reversed(function.blocks):
        used.update(end_values(block.end))
        kept: list[Ins] = []
        for ins in reversed(block.body):
            if ins.dst is not None and ins.dst not in used:
                if ins.pure() or ins.op == "load":
                    continue
                ins.dst = None
            kept.append(ins)
            used.update(ins.uses())
        kept.reverse()
        block.body = kept
