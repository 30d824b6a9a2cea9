"""ExpressionChecker: names resolved, members found, types given.

`ExpressionChecker` turns one tree into one checked value at a time. It knows the attach point, the kernel's
types, the constants and whatever names its owner binds; what it cannot make sense of raises `TextError`.
"""

from collections.abc import Mapping, Sequence

from kwire.btf.errors import BtfLookupError
from kwire.hints import Protocol
from kwire.kinds import KINDS
from kwire.lang import builtins, tree, values
from kwire.lang import checked as c
from kwire.lang import types as t
from kwire.lang.builtins import NUMBERED, linux_constant
from kwire.lang.context import CtxField, DataLoc, Param, Result, Site, Slots
from kwire.lang.errors import Diagnostic, NameTextError, NeverTextError, TextError, did_you_mean
from kwire.lang.kerneltypes import Found
from kwire.lang.tree import Span
from kwire.lang.types import Type
from kwire.lang.value_range import Extent, extent
from kwire.lang.values import Literal, Value
from kwire.words import article, plural

PREFIX = "args_"
DIVISIONS = ("div", "mod", "quo", "rem")

COMPARED_MOST = 32
"""Elements of arrays that are compared with each other."""

MEMBERS_MOST = 32
"""Of a structure that is kept or shown as a whole."""

PARTS_MOST = 128
"""Of a value that is kept or shown as a whole."""

WORD = 64
"""Bits of a number."""


class Types(Protocol):
    """What the checker needs to know of the kernel's types; `KernelTypes` is the one in use."""

    @property
    def namespaced(self) -> bool:
        """Whether process ids are told in a pid namespace that is not the kernel's first."""

    def type(self, text: str, module: str = "") -> Type:
        """The type of a C type name. Raises BtfLookupError."""

    def member(self, struct: t.Struct, name: str) -> Found | None:
        """A structure's member."""

    def members(self, struct: t.Struct) -> list[str]:
        """The names of a structure's members."""

    def enumerator(self, name: str) -> tuple[int, Type] | None:
        """The value and type of an enumeration's constant."""


class ExpressionChecker:
    """Checks expressions at one site.

    `constants` are names with known values; `own_fields` lets the site's own fields be named without `args.`
    (`--filter`, `PROBE(expr)`). Subclasses bind further names with `binding`.
    """

    def __init__(
        self,
        site: Site,
        types: Types,
        constants: Mapping[str, int | str] | None = None,
        own_fields: bool = False,
    ) -> None:
        self.site = site
        self.types = types
        self._constants = constants or {}
        self.own_fields = own_fields
        self.never: list[Diagnostic] | None = None
        """Where comparisons that are never true here are kept; None: each is a mistake at once."""
        self.space = t.USER if site.kind in KINDS and KINDS[site.kind].user else ""
        """Whose memory a plain number is an address of; empty: that has to be said."""

    @property
    def constants(self) -> Mapping[str, int | str]:
        """Names with known values."""
        return self._constants

    def binding(self, name: str, span: Span) -> Value | None:
        """The value of a local or parameter of this name, None when there is none."""
        return None

    def bound_names(self) -> list[str]:
        """The names `binding` knows."""
        return []

    def check(self, node: tree.Expr) -> Value:
        """The checked value of a tree. Raises `TextError`."""
        method = getattr(self, f"_{type(node).__name__.lower()}")
        value: Value = method(node)
        return value

    def condition(self, node: tree.Expr) -> c.Expr:
        """The checked value of a tree of which only matters whether it is 0."""
        if isinstance(node, tree.Logic):
            return _balanced(node.op, [self.condition(one) for one in node.operands], node.span)
        return values.truth(self.check(node))

    # -- leaves

    def _number(self, node: tree.Number) -> Value:
        if node.boolean:
            return c.Const(node.value, t.BOOL, node.span)
        return values.constant(node.value, node.span)

    def _string(self, node: tree.String) -> Value:
        if node.table:
            names = (("", 0), *((text, number) for number, text in enumerate(node.table, 1)))
            number = node.table.index(node.value) + 1 if node.value else 0
            return c.Const(number, t.Enum(t.TEXTS, 4, False, names), node.span)
        try:
            size = len(node.value.encode("utf-8", "surrogateescape"))
        except UnicodeEncodeError as error:
            wrong = f"the character {node.value[error.start]!a} has no bytes in UTF-8"
            cure = "write the text without it, or a pattern with ? for a byte"
            raise TextError(node.span, wrong, cure) from None
        return Literal(node.value, t.Text(size), node.span)

    def _name(self, node: tree.Name) -> Value:
        name, span = node.id, node.span
        bound = self.binding(name, span)
        if bound is not None:
            return bound
        if name in self.constants:
            known = self.constants[name]
            if isinstance(known, str):
                return self._string(tree.String(known, span))
            return values.constant(known, span)
        if name == "args" and self.site.params and not self.own_fields:
            items = tuple(self.own(param, span) for param in self.site.params)
            return values.Tuple(items, tuple(param.name for param in self.site.params), span)
        if name in NUMBERED:
            return self.numbered(NUMBERED[name], span)
        builtin = builtins.BY_NAME.get(name)
        if builtin is not None:
            return self._builtin(builtin, span)
        if self.own_fields:
            param = self._param_named(name) or self._param_named(name.removeprefix(PREFIX))
            if param is not None:
                return self.own(param, span)
        printed = self._printed(name)
        if printed is not None:
            return c.Const(printed, t.S64, span)
        enumerator = self.types.enumerator(name)
        if enumerator is not None:
            value, type_ = enumerator
            assert isinstance(type_, t.Enum)
            return c.Const(value, type_, span)
        number = linux_constant(name)
        if number is not None:
            return values.constant(number, span)
        raise self._unknown(name, span)

    def _printed(self, name: str) -> int | None:
        """What the tracepoint itself prints by a name, where that is one number."""
        values = {
            value
            for param in self.site.params
            if isinstance(param.type, t.Enum)
            for known, value in param.type.values
            if known == name
        }
        return values.pop() if len(values) == 1 else None

    def _unknown(self, name: str, span: Span) -> NameTextError:
        if name == "args":
            return NameTextError(span, "args alone is no value", "name one of them: args.name")
        if name.startswith("$"):  # of a script: declared, or it would not come here
            return NameTextError(span, f"{name.partition('.')[0]} has no value here", "assign it before")
        if name in builtins.FUNCTION:
            return NameTextError(span, f"{name} is a function", f"call it: {builtins.FUNCTION[name].form}")
        if not self.own_fields and self._param_named(name):
            return NameTextError(span, f"unknown name {name}", f"write args.{name}, or make it a parameter")
        known = [*self.bound_names(), *self.constants, *builtins.BY_NAME]
        if self.own_fields:
            known += [param.name for param in self.site.params]
        cure = did_you_mean(name, known)
        if not cure and self.own_fields:
            own = ", ".join(param.name for param in self.site.params)
            cure = f"{self.site.target} has {own}" if own else ""
        if not cure and name.isupper():
            cure = f"macros are not in the kernel's types: write its number, {name} = …, before the probe"
        return NameTextError(span, f"unknown name {name}", cure)

    def _builtin(self, builtin: builtins.Builtin, span: Span) -> Value:
        name, kind = builtin.name, self.site.kind
        if kind not in builtin.kinds:
            raise NameTextError(
                span, f"{article(kind)} has no {name}", f"it exists in {', '.join(builtin.kinds)}"
            )
        if builtin.macro and not (builtin.operation and self.types.namespaced):
            from kwire.lang.python import parse_expression

            return _at(self.check(parse_expression(builtin.macro, name)), span)
        if builtin.type == builtins.COMM:
            return c.Comm(builtins.COMM, span)
        if name == "retval":
            if self.site.retval is None or self.site.retval.type == t.VOID:
                raise TextError(span, f"{self.site.target} returns nothing")
            return self.param(self.site.retval, span)
        if name == "args":
            raise self._unknown(name, span)
        type_ = builtin.type if builtin.type is not None else self.types.type(builtin.type_name)
        assert isinstance(type_, t.Int | t.Pointer)
        return c.Builtin(builtin.operation, type_, span)

    def numbered(self, number: int, span: Span) -> Value:
        """An argument by its number, from 0."""
        kind, name = self.site.kind, f"arg{number}"
        if kind not in builtins.ARGUMENTS:
            cure = "use args.name" if KINDS[kind].context == "record" else "probe the entry, or use fexit"
            raise NameTextError(span, f"{article(kind)} has no {name}", cure)
        if KINDS[kind].place == "user mark":
            param = self._param_named(name)
            if param is None:
                has = f"{self.site.target} has {plural(len(self.site.params), 'argument')}"
                raise TextError(span, has, "they are arg0, arg1, …")
            return self.param(param, span)
        if kind != "kprobe" and self.site.typed and number >= self.site.slots:
            raise TextError(span, f"the arguments of {self.site.target} are arg0 to arg{self.site.slots - 1}")
        return self.param(self.site.argument(number), span)

    def _param_named(self, name: str) -> Param | None:
        return next((param for param in self.site.params if param.name == name), None)

    def own(self, param: Param, span: Span) -> Value:
        """A value of the attach point as its name means it; where names stand alone, as in events."""
        value = self.param(param, span)
        if self.own_fields:
            from kwire.lang.shown import is_name

            if is_name(self.site, param.name, param.type):
                place = values.place_at(values.scalar(value), span)
                return c.ReadText(place, t.Text(builtins.TEXT_LIMIT, place.space), span)
        return value

    def param(self, param: Param, span: Span, type_: Type | None = None) -> Value:
        """A value of the attach point; `type_` overrides the type it is known by."""
        own = param.type if type_ is None else type_
        access = param.access
        if isinstance(access, DataLoc):
            element = own.element if isinstance(own, t.Array) else t.CHAR
            base: c.Expr = c.DataLocAddress(access.offset, access.relative, t.Pointer(element), span)
            return c.ReadBlock(c.Place(base, 0, (), t.KERNEL, span), 0, t.Array(element, 0), span)
        if isinstance(access, Slots) and not access.size:
            raise TextError(span, f"{param.name} is passed where no probe can read it", "leave it out")
        if isinstance(own, t.Array | t.Struct):
            if type_ is not None and isinstance(own, t.Struct):
                message = f"a parameter is no whole {t.describe(own)}"
                raise TextError(span, message, f'add a star: "{t.describe(own)} *"')
            if not isinstance(access, CtxField | Slots):
                what = "returned" if isinstance(access, Result) else "passed"
                raise TextError(span, f"{param.name} is {what} as a whole {t.describe(own)}", "use arg0, …")
            base = c.Context(t.Pointer(t.VOID), span)
            offset = access.offset if isinstance(access, CtxField) else 8 * access.first
            return c.ReadBlock(c.Place(base, offset, (), t.KERNEL, span), access.size, own, span)
        if not isinstance(own, t.SCALARS) or t.size_of(own) > 8 or isinstance(access, Slots):
            raise TextError(span, f"{param.name} is {t.article(own)}, of no use here", "use arg0, …")
        if isinstance(access, CtxField) and t.size_of(own) != access.size:
            # Its type has another width than the field: read the field as it is, then convert.
            known = isinstance(param.type, t.Int | t.Enum) and param.type.size == access.size
            stored = param.type if known else t.Int(access.size, t.signed(own))
            assert isinstance(stored, t.Int | t.Enum)
            return values.convert(c.Param(param.name, access, stored, span), own, span)
        return c.Param(param.name, access, own, span)

    # -- members and elements

    def _member(self, node: tree.Member) -> Value:
        head = node.value
        if isinstance(head, tree.Name) and head.id == "args" and self.binding("args", head.span) is None:
            return self._own(node)
        value = self.check(node.value)
        if isinstance(value, values.Tuple):
            return self._part(value, node.name, node.name_span)
        struct, place = self._struct(value, node)
        found = self.types.member(struct, node.name)
        if found is None:
            raise self._no_member(struct, node)
        offset, bit = place.offset + found.offset_bits // 8, found.offset_bits % 8
        return values.load(
            place.replace(offset=offset, span=node.span), found.type, node.span, bit, found.bit_size
        )

    def _own(self, node: tree.Member) -> Value:
        param = self._param_named(node.name)
        if param is not None:
            return self.own(param, node.span)
        if self.site.kind == "kretprobe":
            message, cure = "at the return of a function its arguments are gone", "use fexit, or retval"
            raise TextError(node.span, message, cure)
        known = [one.name for one in self.site.params]
        cure = did_you_mean(node.name, known) or (f"it has {', '.join(known)}" if known else "")
        site = self.site
        of = article(site.kind) if KINDS[site.kind].place in ("trace", "timer") else site.target
        raise NameTextError(node.name_span, f"{of} has no {node.name}", cure)

    def _struct(self, value: Value, node: tree.Member) -> tuple[t.Struct, c.Place]:
        """The structure whose member is wanted, and where it is; pointers are followed."""
        if isinstance(value, c.ReadBlock) and isinstance(value.type, t.Struct):
            return value.type, value.place
        if isinstance(value.type, t.Pointer) and not isinstance(value, values.WIDE):
            target = value.type.target
            if isinstance(target, t.Struct):
                return target, values.place_at(value, node.span)
            if isinstance(target, t.Pointer):
                message = f"this is {t.article(value.type)}, which has no member {node.name}"
                raise TextError(node.span, message, "follow it first: [0]")
        cure = ""
        if isinstance(value.type, t.Array):
            cure = "use one element: [0]"
        elif t.is_scalar(value.type):
            cure = f'cast it: cast("struct … *", x).{node.name}'
        raise TextError(node.span, f"{t.article(value.type)} has no member {node.name}", cure)

    def _no_member(self, struct: t.Struct, node: tree.Member) -> TextError:
        if not struct.size:
            return TextError(node.name_span, f"the members of {t.describe(struct)} are not known", "cast it")
        names = self.types.members(struct)
        message = f"{t.describe(struct)} has no member {node.name}"
        for name in names:
            found = self.types.member(struct, name)
            if found and isinstance(found.type, t.Struct) and self.types.member(found.type, node.name):
                return TextError(node.name_span, message, f"write .{name}.{node.name}")
        cure = did_you_mean(node.name, names)
        if not cure and 0 < len(names) <= 8:
            cure = f"it has {', '.join(names)}"
        return TextError(node.name_span, message, cure)

    def _index(self, node: tree.Index) -> Value:
        value = self.check(node.value)
        if isinstance(value, values.Tuple) and isinstance(node.subscript, tree.String):
            return self._part(value, node.subscript.value, node.subscript.span)
        index = values.integer(self.check(node.subscript))
        if not isinstance(value, values.Tuple):
            return self.element(value, index, node.span)
        if not isinstance(index, c.Const):
            message, cure = "which part of a tuple is known when the probe is compiled", "write its number"
            raise TextError(index.span, message, cure)
        size = len(value.items)
        if not -size <= index.value < size:
            message = f"{index.value} is not an index of {t.article(value.type)}"
            raise TextError(index.span, message, f"its indexes are 0 to {size - 1}")
        return _moved(value.items[index.value], node.span)

    def _part(self, value: values.Tuple, name: str, span: Span) -> Value:
        """A part of a record by its name."""
        if name and name in value.names:
            return _moved(value.items[value.names.index(name)], span)
        known = [one for one in value.names if one not in ("", t.ELEMENT)]
        cure = did_you_mean(name, known) or (f"it has {', '.join(known)}" if known else "use its number: [0]")
        raise TextError(span, f"{t.article(value.type)} has no {name}", cure)

    def _tuple(self, node: tree.Tuple) -> Value:
        if not node.items:
            raise TextError(node.span, "an empty tuple holds nothing")
        names = node.names or ("",) * len(node.items)
        twice = next((name for name in names if name and names.count(name) > 1), "")
        if twice:
            raise TextError(node.span, f"there are two parts {twice}")
        return values.Tuple(tuple(self.check(one) for one in node.items), names, node.span)

    def spread(self, value: Value) -> Value:
        """A value as it is kept and shown: a structure as a record of its members, an array of structures or
        arrays, or of a single number, as a tuple of its elements; what is in them likewise. Raises
        `TextError` where it has too many parts.
        """
        made = self._spread(value)
        if made is not value and len(values.parts("", made)) > PARTS_MOST:
            message = f"{t.article(value.type)} has {plural(len(values.parts('', made)), 'part')}"
            raise TextError(value.span, message, f"name one: up to {PARTS_MOST} go together")
        return made

    def _spread(self, value: Value) -> Value:
        if isinstance(value, values.Tuple):
            return value.replace(items=tuple(map(self._spread, value.items)))
        if not isinstance(value, c.ReadBlock):
            return value
        if isinstance(value.type, t.Struct):
            return self._record(value, value.type)
        array = value.type
        if not isinstance(array, t.Array) or not 0 < array.length <= PARTS_MOST or t.is_text_array(array):
            return value
        if t.is_scalar(array.element) and array.length > 1:
            return value
        numbers = (c.Const(number, t.S64, value.span) for number in range(array.length))
        items = tuple(self._spread(self.element(value, one, value.span)) for one in numbers)
        return values.Tuple(items, (t.ELEMENT,) * array.length, value.span)

    def _record(self, value: c.ReadBlock, struct: t.Struct) -> Value:
        """A structure as a record of its members."""
        names = self.types.members(struct)
        if not 0 < len(names) <= MEMBERS_MOST:
            message = f"{t.describe(struct)} has {plural(len(names), 'member')}"
            raise TextError(value.span, message, f"name one: up to {MEMBERS_MOST} go together")
        members = []
        for name in names:
            found = self.types.member(struct, name)
            assert found is not None
            at, bit = divmod(found.offset_bits, 8)
            place = value.place.replace(offset=value.place.offset + at)
            members.append(self._spread(values.load(place, found.type, value.span, bit, found.bit_size)))
        return values.Tuple(tuple(members), tuple(names), value.span)

    def element(self, value: Value, index: c.Expr, span: Span) -> Value:
        """One element of an array, or of what a pointer points to; of a text one of its characters."""
        length = 0
        value = self.text(value)
        if isinstance(value, Literal) and isinstance(index, c.Const):
            data = (*value.value.encode("utf-8", "surrogateescape"), 0)
            if not 0 <= index.value < len(data):
                raise TextError(index.span, f"this text has {plural(len(data) - 1, 'byte')}")
            return c.Const(values.wrap(data[index.value], t.CHAR), t.CHAR, span)
        if isinstance(value, Literal):
            value = self.in_memory(value)
        if isinstance(value, c.Comm):
            value = self._thread_name(value)
        if isinstance(value, c.ReadText):
            length = min(value.fixed, value.type.limit) if value.fixed else value.type.limit
            value = c.ReadBlock(value.place, length, t.Array(t.CHAR, length), value.span)
        if isinstance(value, c.ReadBlock) and isinstance(value.type, t.Array):
            target, place, length = value.type.element, value.place, value.type.length
        elif isinstance(value.type, t.Pointer) and not isinstance(value, values.WIDE):
            target, place = value.type.target, values.place_at(value, span)
        else:
            raise TextError(span, f"{t.article(value.type)} has no elements")
        stride = t.size_of(target)
        if not stride:
            message = f"elements of {t.describe(target)} have no size"
            raise TextError(span, message, 'cast it: cast("u8 *", p)')
        if isinstance(index, c.Const):
            if length and not 0 <= index.value < length:
                message = f"the index {index.value} is out of bounds for array of size {length}"
                raise TextError(index.span, message, f"its indexes are 0 to {length - 1}")
            place = place.replace(offset=place.offset + index.value * stride, span=span)
        else:
            place = place.replace(indexes=(*place.indexes, c.Index(index, stride, length)), span=span)
        return values.load(place, target, span)

    def _thread_name(self, comm: c.Comm) -> Value:
        """The name of the current thread where it is in memory."""
        from kwire.lang.python import parse_expression

        name = values.as_text(
            self.check(parse_expression("curtask.comm", "comm")), comm.type.limit, comm.span
        )
        assert isinstance(name, c.ReadText)
        return name.replace(span=comm.span)

    # -- operations

    def _unary(self, node: tree.Unary) -> Value:
        span = node.span
        if node.op == "not":
            return c.Not(self.condition(node.operand), t.BOOL, span)
        number = values.integer(self.check(node.operand))
        if isinstance(number, c.Const):
            value = {"neg": -number.value, "inv": ~number.value, "pos": number.value}[node.op]
            return values.constant(value, span)
        if node.op == "pos":
            return number
        if node.op == "inv":
            return c.Invert(number, t.arithmetic(number.type, number.type), span)
        return c.Negate(number, t.S64, span)

    def _binary(self, node: tree.Binary) -> Value:
        left, right = self.check(node.left), self.check(node.right)
        if (
            isinstance(left.type, t.Pointer)
            and not isinstance(left, values.WIDE)
            and node.op in ("add", "sub")
        ):
            return self._pointer_arithmetic(node, left, values.integer(right))
        a, b = values.integer(left), values.integer(right)
        if isinstance(a, c.Const) and isinstance(b, c.Const):
            return _fold(node.op, a, b, node.span)
        if node.op in DIVISIONS and isinstance(b, c.Const) and not b.value:
            raise TextError(node.span, "this divides by zero")
        if node.op in ("shl", "shr"):
            return self._shift(node.op, a, b, node.span)
        if node.op in ("quo", "rem"):
            return self._divided(node.op, a, b, node.span)
        return c.Binary(node.op, a, b, t.arithmetic(a.type, b.type), node.span)

    def _divided(self, op: str, a: c.Expr, b: c.Expr, span: Span) -> Value:
        """A division that truncates, or its remainder; 1 by 0."""
        type_ = t.arithmetic(a.type, b.type)
        low, high = self.extent(b)
        if low > 0 or high < 0:
            return c.Binary(op, a, b, type_, span)
        if not isinstance(b, c.Const | c.LocalGet | c.Param | c.Builtin):
            b = self.once(b)
        zero = c.Compare("eq", b, c.Const(0, t.S64, span), False, t.BOOL, span)
        divided = c.Binary(op, a, b, type_, span)
        if op == "quo":  # which is 0 then
            return c.Binary("or", divided, zero, type_, span)
        return c.Select(zero, c.Const(1, type_, span), divided, type_, span)

    def _shift(self, op: str, a: c.Expr, b: c.Expr, span: Span) -> Value:
        """A shift; by 64 bits and more nothing is left but the sign."""
        if isinstance(b, c.Const) and not 0 <= b.value < WORD:
            raise TextError(b.span, f"a number has {WORD} bits, it cannot be shifted by {b.value}")
        type_ = t.arithmetic(a.type, a.type)
        shifted = c.Binary(op, a, b, type_, span)
        low, high = self.extent(b)
        if low >= 0 and high < WORD:
            return shifted
        few = c.Compare("lt", b, c.Const(WORD, t.U64, span), False, t.BOOL, span)
        sign = c.Binary("shr", a, c.Const(WORD - 1, t.S64, span), type_, span)
        left = sign if op == "shr" and type_.signed else c.Const(0, type_, span)
        return c.Select(few, shifted, left, type_, span)

    def extent(self, value: c.Expr) -> Extent:
        """The least and the greatest number that a value can be here."""
        return extent(value)

    def _pointer_arithmetic(self, node: tree.Binary, pointer: c.Expr, number: c.Expr) -> Value:
        assert isinstance(pointer.type, t.Pointer)
        if isinstance(number, c.Const):
            stride = t.size_of(pointer.type.target) or 1
            distance = c.Const(number.value * stride, t.S64, number.span)
            return c.Binary(node.op, pointer, distance, pointer.type, node.span)
        stride = t.size_of(pointer.type.target) or 1
        if stride != 1:
            size = c.Const(stride, t.S64, number.span)
            number = c.Binary("mul", number, size, t.arithmetic(number.type, t.S64), number.span)
        return c.Binary(node.op, pointer, number, pointer.type, node.span)

    def _compare(self, node: tree.Compare) -> Value:
        left = self.check(node.left)
        tests = []
        for op, operand in node.rest:
            right = self.check(operand)
            span = node.span if len(node.rest) == 1 else _between(left.span, right.span)
            if isinstance(operand, tree.Number) and operand.none and op in ("eq", "ne"):
                tests.append(self.missing(op, left, span))
            else:
                tests.append(self.compare(op, left, right, span))
            left = right
        # What is always true changes nothing: half of `0 <= fd < 10`, say.
        return _balanced("and", [test for test in tests if not _true(test)] or tests[:1], node.span)

    def compare(self, op: str, left: Value, right: Value, span: Span) -> c.Expr:
        """`left op right` as 0 or 1."""
        if isinstance(left, values.Tuple) or isinstance(right, values.Tuple):
            return self._compare_tuples(op, left, right, span)
        blocks = values.fixed(left), values.fixed(right)
        if op in ("eq", "ne") and all(map(_raw, blocks)):
            same = self._same_bytes(*blocks, span)
            return same if op == "eq" else c.Not(same, t.BOOL, span)
        if op in ("eq", "ne") and _numbers(left) and left.type == right.type:
            array = left.type
            assert isinstance(array, t.Array)
            places = [c.Const(number, t.S64, span) for number in range(array.length)]
            sides = [(self.element(left, one, span), self.element(right, one, span)) for one in places]
            same = _balanced("and", [self.compare("eq", a, b, span) for a, b in sides], span)
            return same if op == "eq" else c.Not(same, t.BOOL, span)
        from kwire.lang.comparisons import compare

        kept = t.is_constant_text(left.type), t.is_constant_text(right.type)
        if any(kept) and not (op in ("eq", "ne") and (all(kept) or Literal in (type(left), type(right)))):
            left, right = self.text(left), self.text(right)
        try:
            return compare(op, left, right, span, self.constant)
        except NeverTextError as error:
            return self._never(error, op == "ne")

    def _same_bytes(self, left: Value, right: Value, span: Span) -> c.Expr:
        """Whether as many bytes are the same at two places, looked at in words."""
        assert isinstance(left, c.ReadBlock)
        assert isinstance(right, c.ReadBlock)
        if left.size != right.size:
            return c.Const(0, t.BOOL, span)
        tests: list[c.Expr] = []
        at = 0
        while at < left.size:
            type_ = next(one for one in (t.U64, t.U32, t.U16, t.U8) if at + one.size <= left.size)
            one, other = (
                c.Load(side.place.replace(offset=side.place.offset + at), type_, span)
                for side in (left, right)
            )
            tests.append(c.Compare("eq", one, other, False, t.BOOL, span))
            at += type_.size
        return _balanced("and", tests, span)

    def _compare_tuples(self, op: str, left: Value, right: Value, span: Span) -> c.Expr:
        """Two tuples part by part: by the first that differs."""
        if not (isinstance(left, values.Tuple) and isinstance(right, values.Tuple)):
            wrong = f"{t.article(left.type)} does not compare with {t.article(right.type)}"
            raise TextError(span, wrong, "compare its parts")
        pairs = list(zip(left.items, right.items, strict=False))
        if len(left.items) != len(right.items):
            message = f"{t.article(left.type)} and {t.article(right.type)} have different numbers of parts"
            raise TextError(span, message)
        if op in ("eq", "ne"):
            same = _balanced("and", [self.compare("eq", a, b, span) for a, b in pairs], span)
            return same if op == "eq" else c.Not(same, t.BOOL, span)
        *before, (a, b) = pairs
        found = self.compare(op, a, b, span)
        for a, b in reversed(before):
            less = self.compare({"le": "lt", "ge": "gt"}.get(op, op), a, b, span)
            same = c.Logic("and", self.compare("eq", a, b, span), found, t.BOOL, span)
            found = c.Logic("or", less, same, t.BOOL, span)
        return found

    def text(self, value: Value) -> Value:
        """A value; where it is one of several constant texts, and known, that text."""
        if not t.is_constant_text(value.type) or isinstance(value, values.WIDE):
            return value
        assert isinstance(value.type, t.Enum)
        low, high = self.extent(value)
        if low != high:
            return value
        name = next(name for name, number in value.type.values if number == low)
        return Literal(name, t.Text(len(name.encode("utf-8", "surrogateescape"))), value.span)

    def sized(self, value: Value) -> Type:
        """The type whose size a value has: of a number as written the smallest signed one that holds it."""
        if isinstance(value, values.Tuple):
            return t.Tuple(tuple(map(self.sized, value.items)), value.type.names)
        if isinstance(value, c.Const) and not value.typed and value.type in (t.S64, t.U64):
            return values.smallest(value.value, value.value)
        if (
            isinstance(value, c.Const)
            and isinstance(value.type, t.Enum)
            and not t.is_constant_text(value.type)
        ):
            return t.U64  # a name of an enumeration alone
        return value.type

    def in_memory(self, value: Value) -> Value:
        """A value; a constant text where it is in memory. Raises `TextError` where there is no place."""
        if isinstance(value, Literal):
            raise TextError(value.span, "a constant text is nowhere in memory here")
        return self._thread_name(value) if isinstance(value, c.Comm) else value

    def beginning(self, text: Value, size: c.Expr, nul: bool) -> Value:
        """So many bytes of a text; `nul`: with its NUL. Raises `TextError` where there is no place."""
        raise TextError(size.span, "the number of bytes has to be a constant in a condition")

    def once(self, value: c.Expr) -> c.Expr:
        """A value that is taken here, and used several times. Raises `TextError` where there is no place."""
        raise TextError(value.span, "this is too much for a condition", "use one part of it")

    def missing(self, op: str, value: Value, span: Span) -> c.Expr:
        """`value is None` (eq), `value is not None` (ne)."""
        from kwire.lang.comparisons import missing

        return missing(op, value, span)

    def constant(self, name: str) -> int | None:
        """The number of a name that numbers are shown by, None where it is none."""
        return linux_constant(name)

    def _match(self, node: tree.Match) -> Value:
        from kwire.lang.matching import match

        try:
            text, pattern = self.text(self.check(node.text)), self.text(self.check(node.pattern))
            return match(node.op, text, pattern, node.span)
        except NeverTextError as error:
            return self._never(error, False)

    def _never(self, error: NeverTextError, value: bool) -> c.Expr:
        """The value of a comparison that no value makes true; raises it where that is a mistake."""
        if self.never is None:
            raise error
        self.never.append(error.diagnostic)
        return c.Const(int(value), t.BOOL, error.diagnostic.span)

    def _logic(self, node: tree.Logic) -> Value:
        operands = [self.condition(operand) for operand in node.operands]
        for operand in operands:
            if not isinstance(operand.type, t.Bool):
                message = f"`{node.op}` gives no number, only true or false"
                raise TextError(node.span, message, "write x if x else y, or compare the operands")
        return _balanced(node.op, operands, node.span)

    def _conditional(self, node: tree.Conditional) -> Value:
        test = self.condition(node.test)
        return self._select(test, self.check(node.then), self.check(node.otherwise), node.span)

    def _select(self, test: c.Expr, then: Value, otherwise: Value, span: Span) -> Value:
        """One of two values, of tuples each part."""
        if isinstance(then, values.Tuple) and isinstance(otherwise, values.Tuple):
            if then.names == otherwise.names:
                pairs = zip(then.items, otherwise.items, strict=True)
                return then.replace(items=tuple(self._select(test, *pair, span) for pair in pairs), span=span)
            message = f"one is {t.article(then.type)}, the other {t.article(otherwise.type)}"
            raise TextError(span, message)
        if isinstance(then, c.ReadBytes) and isinstance(otherwise, c.ReadBytes):
            return values.select_bytes(test, then, otherwise, span)
        return values.select(test, values.scalar(then), values.scalar(otherwise), span)

    def _cast(self, node: tree.Cast) -> Value:
        from kwire.lang.functions import cast

        if node.type.endswith("[]"):  # as many as there are
            type_: Type = t.Array(self.named_type(node.type[:-2], node.type_span), 0)
        else:
            type_ = self.named_type(node.type, node.type_span)
        value = self.check(node.value)
        if isinstance(type_, t.Array) and not isinstance(value, c.ReadBlock):
            return self._as_array(value, type_, node)
        return cast(value, type_, node.span, node.type_span, self.space)

    def _as_array(self, value: Value, type_: t.Array, node: tree.Cast) -> Value:
        """A number or a text as an array of its bytes."""
        element = t.size_of(type_.element)
        if not t.is_scalar(type_.element) or not element:
            raise TextError(node.type_span, f"this cannot become {t.describe(type_)}", "cast a pointer")
        value = self.text(value)
        if isinstance(value, Literal | c.ReadText | c.Comm):
            value = self.in_memory(value)
            assert isinstance(value, c.ReadText)
            size, place = value.fixed or value.type.limit + 1, value.place
        elif isinstance(value, values.Tuple):  # of numbers, each as 8 bytes
            numbers = [values.convert(values.scalar(one), t.U64, node.span) for one in value.items]
            size, place = 8 * len(numbers), self.numbers_in_memory(numbers, node.span)
        else:
            number = values.scalar(value)
            size = t.size_of(self.sized(number) if not type_.length else number.type)
            size = max(size, min(t.size_of(type_), 8) if isinstance(number, c.Const) else 0)
            place = self.numbers_in_memory([values.convert(number, t.U64, node.span)], node.span)
        length = type_.length or size // element
        if not 0 < length * element <= size:
            message = f"{plural(size, 'byte')} cannot become {t.describe(type_)}"
            raise TextError(node.type_span, message, "cast a pointer")
        return c.ReadBlock(place, length * element, type_.replace(length=length), node.span)

    def numbers_in_memory(self, numbers: Sequence[c.Expr], span: Span) -> c.Place:
        """Where numbers are in memory. Raises `TextError` where there is no place for them."""
        raise TextError(span, "this number is nowhere in memory here")

    def address(self, value: Value, span: Span) -> c.Expr:
        """The address of what a name stands for. Raises `TextError` where it has none."""
        if isinstance(value, c.ReadBlock | c.ReadText):
            return values.address(value, span)
        if isinstance(value, c.Load) and not value.bit_size:
            return c.AddressOf(value.place, t.Pointer(value.type, value.place.space), span)
        cure = "give it to a variable" if not isinstance(value, values.Tuple) else "take one of its parts"
        raise TextError(span, f"{t.article(value.type)} has no address here", cure)

    def _context(self, node: tree.Context) -> Value:
        return c.Builtin("context", t.Pointer(t.VOID), node.span)

    def _shown(self, node: tree.Shown) -> Value:
        assert isinstance(node.type, t.SCALARS)
        number = values.scalar(self.check(node.value))
        if isinstance(number, c.Const) and isinstance(node.type, t.Int):  # which would be a plain number
            plain = values.convert(number, node.type.replace(display=""), node.span)
            return c.Retype(plain, node.type, node.span)
        return values.convert(number, node.type, node.span)

    def named_type(self, text: str, span: Span) -> Type:
        """The type of a C type name written in the probe; "stack" is what kstack() and ustack() give."""
        if text == "stack":
            return t.Stack()
        try:
            return self.types.type(text, self.site.module)
        except BtfLookupError as error:
            raise TextError(span, error.cause, error.cure) from None

    def _call(self, node: tree.Call) -> Value:
        from kwire.lang.functions import call

        return call(self, node)


def _fold(op: str, a: c.Const, b: c.Const, span: Span) -> c.Const:
    x, y = a.value, b.value
    if op in DIVISIONS:
        if not y:
            raise TextError(span, "this divides by zero")
        if op in ("quo", "rem"):
            quotient = abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)
            return values.constant(quotient if op == "quo" else x - quotient * y, span)
        return values.constant(x // y if op == "div" else x % y, span)
    if op in ("shl", "shr") and not 0 <= y < WORD:
        raise TextError(b.span, f"a number has {WORD} bits, it cannot be shifted by {y}")
    results = {
        "add": lambda: x + y,
        "sub": lambda: x - y,
        "mul": lambda: x * y,
        "and": lambda: x & y,
        "or": lambda: x | y,
        "xor": lambda: x ^ y,
        "shl": lambda: x << y,
        "shr": lambda: x >> y,
    }
    return values.constant(results[op](), span)


def _balanced(op: str, operands: Sequence[c.Expr], span: Span) -> c.Expr:
    """`a op b op c…` as a tree of little depth: in which order pairs are joined changes nothing."""
    if len(operands) == 1:
        return operands[0]
    half = len(operands) // 2
    left, right = _balanced(op, operands[:half], span), _balanced(op, operands[half:], span)
    return c.Logic(op, left, right, t.BOOL, span)


def _raw(value: Value) -> bool:
    """Whether a value is so many bytes."""
    array = value.type if isinstance(value, c.ReadBlock) else None
    return isinstance(array, t.Array) and array.display == t.RAW


def _numbers(value: Value) -> bool:
    """Whether a value is an array of few numbers, of which each can be compared."""
    if not isinstance(value, c.ReadBlock) or not isinstance(value.type, t.Array):
        return False
    array = value.type
    plain = t.is_integer(array.element) and not t.is_text_array(array) and not array.display
    return plain and 0 < array.length <= COMPARED_MOST


def _true(test: c.Expr) -> bool:
    return isinstance(test, c.Const) and test.value != 0


def _between(left: Span, right: Span) -> Span:
    return Span(left.line, left.column, right.end_line, right.end_column)


def _moved(value: Value, span: Span) -> Value:
    """A part of a tuple, as if written where it is taken."""
    return value.replace(span=span)


def _at(value: Value, span: Span) -> Value:
    """A macro's value, as if written where the macro was used."""
    if isinstance(value, c.Load):
        return value.replace(span=span)
    return value
