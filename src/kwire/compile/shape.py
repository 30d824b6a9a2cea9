"""What decides a program's instructions: its shape.

Names, places in the source and how things are shown do not matter; types, accesses and operations do.
`COUNTS` says for each class of checked nodes and of types which of its parts count; a class that is not there
is an error.
"""

from collections.abc import Hashable

from kwire.hints import Any, Final
from kwire.kinds import KINDS
from kwire.lang import checked as c
from kwire.lang import context
from kwire.lang import types as t
from kwire.lang.forms import Form

COUNTS: Final[dict[type[Form], tuple[str, ...]]] = {
    t.Void: (),
    t.Int: ("size", "signed", "char"),
    t.Bool: (),
    t.Enum: ("size", "signed"),
    t.Pointer: ("space",),  # what it points to decided the loads
    t.Struct: ("size",),
    t.Array: ("element", "length"),
    t.Text: ("limit", "space", "exact"),
    t.Bytes: ("limit", "space"),
    t.Tuple: ("items",),
    t.Stack: (),
    context.CtxField: ("offset", "size"),
    context.Argument: ("number",),
    context.Result: ("slots",),
    context.Located: ("constant", "register", "index", "scale", "memory"),
    context.Saved: ("offset",),
    context.TaskMember: ("offset",),
    c.Const: ("value",),
    c.Builtin: ("op",),
    c.Param: ("access", "type"),
    c.Context: (),
    c.DataLocAddress: ("offset", "relative"),
    c.Index: ("value", "stride", "length"),
    c.Place: ("base", "offset", "indexes", "space"),
    c.Load: ("place", "type", "bit_offset", "bit_size"),
    c.AddressOf: ("place",),
    c.LocalGet: ("local",),
    c.Turn: (),
    c.TextPlace: ("local",),
    c.EachKey: (),
    c.EachValue: (),
    c.EachGet: ("map",),
    c.Binary: ("op", "left", "right", "type"),
    c.Negate: ("operand",),
    c.Invert: ("operand",),
    c.Compare: ("op", "left", "right", "signed"),
    c.TextEqual: ("text", "literal"),
    c.TextCompare: ("op", "left", "right"),
    c.TextLength: ("text",),
    c.TextOrder: ("op", "text", "literal"),
    c.TextMatch: ("text", "pieces"),
    c.BlockEqual: ("block", "data"),
    c.Logic: ("op", "left", "right"),
    c.Not: ("operand",),
    c.Select: ("test", "then", "otherwise"),
    c.Convert: ("operand", "type"),
    c.Retype: ("operand",),
    c.Bswap: ("operand", "size"),
    c.ReadText: ("place", "type", "fixed"),
    c.ReadBlock: ("place", "size"),
    c.Comm: ("type",),
    c.ReadBytes: ("place", "length", "type"),
    c.LocalSet: ("local", "value"),
    c.TextSet: ("local", "value", "type", "size"),
    c.Store: ("local", "value", "at"),
    c.If: ("test", "then", "otherwise"),
    c.Loop: ("start", "step", "stop", "most", "body", "unsigned"),
    c.Each: ("map", "body"),
    c.Break: (),
    c.Block: ("body",),
    c.Leave: (),
    c.Continue: (),
    c.Emit: ("values", "shape"),
    c.Map: ("name", "kind", "key", "value", "size", "bounds"),
    c.TextConst: ("value", "type"),
    c.MapGet: ("map", "key"),
    c.MapPlace: ("map", "key"),
    c.MapHas: ("map", "key"),
    c.StackTable: ("user", "limit", "ids", "room", "single"),
    c.SocketCookie: ("socket",),
    c.Stack: ("table",),
    c.StackDepth: ("user", "limit"),
    c.UserSymbol: ("address", "table"),
    c.KernelSymbol: ("address", "table"),
    c.MapSet: ("map", "key", "value"),
    c.MapDelete: ("map", "key"),
    c.Aggregate: ("map", "key", "value"),
    c.Signal: ("number", "thread"),
    c.Exit: ("status",),
    c.Return: (),
}


def layout_key(program: c.Program) -> Hashable:
    """What decides the instructions: programs with equal keys can share one."""
    site = program.site
    own: Hashable = (site.kind, "+" in site.target)
    if not KINDS[site.kind].shared:  # bound to one function when loaded, or without a cookie on Linux 6.1
        own = site
    fields = tuple(tuple(shape(field.type) for field in one.fields) for one in program.shapes)
    return own, fields, *map(shape, (program.guard, program.filter, program.body))


def shape(value: Any) -> Hashable:
    """The parts of a node, a type or a tuple of them that count."""
    if isinstance(value, Form):
        return value.__class__, *(shape(getattr(value, part)) for part in COUNTS[value.__class__])
    if isinstance(value, tuple):
        return tuple(map(shape, value))
    assert value is None or isinstance(value, int | str | bytes), value
    return value
