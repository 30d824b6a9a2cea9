"""The graph of blocks: order, loops, who dominates whom, what lives where, jumps, and what nobody uses."""

from kwire.compile.fold import decide
from kwire.compile.ir import (
    At,
    Block,
    Branch,
    Effect,
    End,
    Function,
    Ins,
    Jump,
    Operand,
    Ranked,
    Value,
    end_values,
    successors,
    values_of,
)

# trees of dominators


def common(a: Ranked, b: Ranked) -> Ranked:
    """The nearest one above or at both."""
    if a.depth < b.depth:
        a, b = b, a
    a = ancestor(a, b.depth)
    while a is not b:  # of equal depth, so their skips are of equal depth too
        if a.skip is b.skip:
            a, b = a.parent, b.parent  # type: ignore[assignment]  # only the root has none, and it is common
        else:
            a, b = a.skip, b.skip
    return a


def ancestor(one: Ranked, depth: int) -> Ranked:
    """The one at this depth among those above."""
    while one.depth > depth:
        one = one.skip if one.skip.depth >= depth else one.parent  # type: ignore[assignment]  # those above it are what it is
    return one


def dominates(a: Block, b: Block) -> bool:
    """Whether every way to b leads through a."""
    return ancestor(b, a.depth) is a


def predecessors(function: Function) -> dict[Block, list[Block]]:
    """The blocks that lead to each block; of every block that is placed."""
    found: dict[Block, list[Block]] = {block: [] for block in function.blocks}
    for block in function.blocks:
        for target in successors(block.end):
            found[target].append(block)
    return found


def set_dominators(function: Function) -> None:
    """Find every block's direct dominator, in any graph whose blocks can all be reached.

    One walk does where only jumps to a block that dominates them lead back; elsewhere walks are repeated
    until nothing changes, without the tree's short cuts, which hold for a finished tree only.
    """
    blocks, preds = function.blocks, predecessors(function)
    number = {block: at for at, block in enumerate(blocks)}
    for at, block in enumerate(blocks):
        parent: Ranked | None = None
        for pred in preds[block]:
            if number[pred] < at:
                parent = pred if parent is None else common(parent, pred)
        block.below(parent)
    back = [(pred, block) for block in blocks for pred in preds[block] if number[pred] >= number[block]]
    if all(dominates(block, pred) for pred, block in back):
        return
    order = _postorder(function)[::-1]
    number = {block: at for at, block in enumerate(order)}
    above: dict[Block, Block] = {function.entry: function.entry}
    changed = True
    while changed:
        changed = False
        for block in order[1:]:
            found: Block | None = None
            for pred in preds[block]:
                if pred in above:
                    found = pred if found is None else _meet(found, pred, above, number)
            if found is not None and above.get(block) is not found:
                above[block] = found
                changed = True
    for block in order:
        block.below(above[block] if block is not function.entry else None)


def _meet(a: Block, b: Block, above: dict[Block, Block], number: dict[Block, int]) -> Block:
    while a is not b:
        while number[a] > number[b]:
            a = above[a]
        while number[b] > number[a]:
            b = above[b]
    return a


def _postorder(function: Function) -> list[Block]:
    found: list[Block] = []
    seen = {function.entry}
    waiting = [(function.entry, iter(successors(function.entry.end)))]
    while waiting:
        block, following = waiting[-1]
        target = next(following, None)
        if target is None:
            found.append(block)
            waiting.pop()
        elif target not in seen:
            seen.add(target)
            waiting.append((target, iter(successors(target.end))))
    return found


def find_loops(function: Function) -> dict[Block, Block]:
    """Note for each block the loops it is in. The head of each loop and its last block."""
    number = {block: at for at, block in enumerate(function.blocks)}
    ends: dict[Block, int] = {}  # head of a loop → number of its last block
    for at, block in enumerate(function.blocks):
        block.loop, block.loops = None, 0
        for target in successors(block.end):
            if number[target] <= at:
                ends[target] = max(ends.get(target, at), at)
    for head in sorted(ends, key=number.__getitem__):  # an outer loop's head comes before an inner one's
        for block in function.blocks[number[head] : ends[head] + 1]:
            block.loop = head
            block.loops += 1
    return {head: function.blocks[end] for head, end in ends.items()}


def regions(function: Function) -> dict[Block, int]:
    """A number for each block; two blocks one of which dominates the other have the same number when none of
    them guards the other: whenever one is run the other is too. The rare ends of branches do not count.
    """
    after: dict[Block, Ranked] = {}
    root = Ranked()
    for block in reversed(function.blocks):
        place = after[block] = Ranked()
        parent: Ranked | None = None
        rare = block.end.rare if isinstance(block.end, Branch) else None
        for target in successors(block.end):
            if target is not rare and target in after:  # what leads back is left out
                parent = after[target] if parent is None else common(parent, after[target])
        place.below(root if parent is None else parent)
    found: dict[Block, int] = {}
    for at, block in enumerate(function.blocks):
        above = block.parent
        if isinstance(above, Block) and ancestor(after[above], after[block].depth) is after[block]:
            found[block] = found[above]
        else:
            found[block] = at
    return found


def liveness(function: Function) -> dict[Block, set[Value]]:
    """The values that are needed at the start of each block and come from before it."""
    live: dict[Block, set[Value]] = {block: set() for block in function.blocks}
    changed = True
    while changed:
        changed = False
        for block in reversed(function.blocks):
            needed: set[Value] = set()
            for target in successors(block.end):
                needed |= live[target]
            needed.update(end_values(block.end))
            for ins in reversed(block.body):
                if ins.dst is not None:
                    needed.discard(ins.dst)
                needed.update(ins.uses())
            needed.difference_update(block.params)
            if needed != live[block]:
                live[block] = needed
                changed = True
    return live


# tidying


def thread_jumps(function: Function) -> None:
    """Lead jumps past empty blocks, and merge a block into the only one that leads to it."""
    final: dict[Block, Block] = {}
    for block in reversed(function.blocks):
        target = block
        if not block.body and not block.params and isinstance(block.end, Jump) and not block.end.args:
            target = final.get(block.end.target, block)  # not there: it leads back
        final[block] = target
    for block in function.blocks:
        end = block.end
        if isinstance(end, Jump):
            if not end.args:
                block.end = Jump(final[end.target])
        elif isinstance(end, Branch):
            end.then, end.otherwise = final[end.then], final[end.otherwise]
            if end.rare is not None:
                end.rare = final[end.rare]
            if end.then is end.otherwise:
                block.end = Jump(end.then)
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
        while isinstance(block.end, Jump) and counts[block.end.target] == 1 and not block.end.args:
            other = block.end.target
            if other is block:
                break
            block.body += other.body
            block.end, block.span = other.end, other.span
            gone.add(other)
    function.blocks = [block for block in order if block not in gone]
    find_loops(function)
    set_dominators(function)


def thread_constants(function: Function) -> None:
    """Where a block only asks for a number that some give it as a constant, those need not ask."""
    given: dict[Value, Operand] = {}
    uses: dict[Value, list[Block]] = {}
    givers: dict[Block, list[Block]] = {}
    for block in function.blocks:
        for value in (*(one for ins in block.body for one in ins.uses()), *end_values(block.end)):
            uses.setdefault(value, []).append(block)
        for target in successors(block.end):
            givers.setdefault(target, []).append(block)
    for block in function.blocks:
        end = block.end
        if block.body or len(block.params) != 1 or not isinstance(end, Branch) or block.loop is block:
            continue
        [param] = block.params
        if end.a is not param or end.b.__class__ is not int:
            continue
        left: list[Jump] = []
        known: list[tuple[Block, Block]] = []  # who need not ask, and where it goes
        for giver in givers[block]:
            jump = giver.end
            assert isinstance(jump, Jump)
            found = decide(end.condition, jump.args[0], end.b) if jump.args[0].__class__ is int else None
            if found is None:
                left.append(jump)
            else:
                known.append((giver, end.then if found else end.otherwise))
        if len(uses[param]) > 1:  # it may only be used where none of those goes
            others = {end.then, end.otherwise} - {target for _, target in known}
            if len(left) != 1 or len(others) != 1 or givers[other := others.pop()] != [block]:
                continue
            if not all(dominates(other, user) for user in uses[param] if user is not block):
                continue
        for giver, target in known:
            giver.end = Jump(target)
        if len(left) == 1:
            given[param] = left[0].args[0]
            end.a, block.params = left[0].args[0], []
            left[0].args = []
    if any(len(uses[param]) > 1 for param in given):
        replace_values(function, given)


def replace_values(function: Function, given: dict[Value, Operand]) -> None:
    """Put what is given for values in their places."""

    def put(operand: Operand) -> Operand:
        if operand.__class__ is Value:
            while operand in given:
                operand = given[operand]  # type: ignore[index]  # it is a value
        elif operand.__class__ is At and operand.base in given:
            base = put(operand.base)
            assert isinstance(base, Value)
            return At(base, operand.offset)
        return operand

    for block in function.blocks:
        for ins in block.body:
            ins.args = [put(arg) for arg in ins.args]
        end = block.end
        if isinstance(end, Branch):
            end.a, end.b = put(end.a), put(end.b)
        elif isinstance(end, Jump):
            end.args = [put(arg) for arg in end.args]
        elif end.value is not None:
            end.value = put(end.value)


def pass_zeros(function: Function) -> None:
    """Where a block is only come to when a value is 0, the value is passed on from it for the number: it
    has a register already, and what it is passed to may have the same one.
    """
    zero: dict[Block, Value | None] = {}
    for block in function.blocks:
        end = block.end
        for target in successors(end):
            zero[target] = None if target in zero else _zero_at(end, target)
    for block in function.blocks:
        value = zero.get(block)
        if value is not None and isinstance(block.end, Jump):
            block.end.args = [value if arg.__class__ is int and arg == 0 else arg for arg in block.end.args]


def _zero_at(end: End, target: Block) -> Value | None:
    """The value that is 0 where a block's end leads there."""
    if isinstance(end, Branch) and end.b.__class__ is int and end.b == 0 and isinstance(end.a, Value):
        there = {"eq": end.then, "ne": end.otherwise}.get(end.condition)
        if there is target and end.then is not end.otherwise:
            return end.a
    return None


def drop_unused(function: Function) -> None:
    """Remove what only gives a value that nobody uses; in a loop a value may only be used by itself."""
    made: dict[Value, Ins] = {}
    arms: dict[Value, list[Value]] = {}
    waiting: list[Value] = []
    for block in function.blocks:
        for ins in block.body:
            if ins.dst is not None:
                made[ins.dst] = ins
            if ins.effect == Effect.WRITES:
                waiting += ins.uses()
        end = block.end
        if not isinstance(end, Jump):
            waiting += end_values(end)
            continue
        for param, arg in zip(end.target.params, end.args, strict=True):
            arms.setdefault(param, []).extend(values_of((arg,)))
    used: set[Value] = set()
    while waiting:
        value = waiting.pop()
        if value in used:
            continue
        used.add(value)
        waiting += made[value].uses() if value in made else arms.get(value, ())
    for block in function.blocks:
        kept: list[Ins] = []
        for ins in block.body:
            if ins.dst is not None and ins.dst not in used:
                if ins.effect != Effect.WRITES:
                    continue
                ins.dst = None
            kept.append(ins)
        block.body = kept
    for block in function.blocks:
        if isinstance(block.end, Jump) and block.end.args:
            both = zip(block.end.target.params, block.end.args, strict=True)
            block.end.args = [arg for param, arg in both if param in used]
    for block in function.blocks:
        block.params = [param for param in block.params if param in used]
