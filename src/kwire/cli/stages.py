"""What a script becomes on its way to the kernel, as text: the stages that -d shows, what -v says of
programs.

Invariants: nothing is loaded or attached; each part stands under the probe that it is of.
"""

from collections.abc import Iterator

from kwire.bpf import disasm
from kwire.bpf.insn import decode
from kwire.live.plan import Group, Plan
from kwire.words import plural

NAMED_MOST = 3
"""Probes of one program that are named."""


def shown(plan: Plan, stage: str) -> Iterator[str]:
    """The lines of a stage of all programs: "ir", "asm", or both ("all")."""
    for group in plan.groups:
        yield f"; {title(group, plan)}"
        if stage in ("ir", "all") and group.explain is not None:
            yield from group.explain().splitlines()
        if stage in ("asm", "all"):
            yield from _instructions(group)
        yield ""


def programs(plan: Plan) -> Iterator[str]:
    """A line a program: of which probes it is, how it is attached, how long it is."""
    for group in plan.groups:
        way = "kprobe.multi" if group.multi else group.kind
        size = plural(len(decode(group.image.code)), "instruction")
        yield f"{title(group, plan)}: {size}, attached as {way}"


def title(group: Group, plan: Plan) -> str:
    """The probes of a program."""
    specs = {schema.id: schema for schema in plan.schemas}
    names = []
    for point in group.points:
        schema = specs.get(point.probe)
        known = f"{schema.kind}:{schema.target}".rstrip(":") if schema else f"{group.kind}:{point.text}"
        names.append(known)
    more = len(names) - NAMED_MOST
    first = ", ".join(names[:NAMED_MOST])
    return f"{first} and {more} more" if more > 0 else first


def _instructions(group: Group) -> Iterator[str]:
    """The instructions of a program, each run of them under its source line."""
    image = group.image
    insns = decode(image.code)
    at = {line.insn: line for line in image.lines}
    slot, last = 0, None
    for insn, text in zip(insns, disasm.listing(insns, image.uses), strict=True):
        line = at.get(slot)
        if line is not None and (line.file, line.line) != last:
            last = line.file, line.line
            yield f"; {line.file}:{line.line}: {line.text.strip()}"
        yield text
        slot += insn.slots
