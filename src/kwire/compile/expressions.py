"""Scalar expressions of the checked program → IR.

Invariants: `expr` gives an operand that holds the mathematical value of the expression's type in 64 bits,
constants as Python integers in signed 64-bit form. Reading through an address becomes `hop` or `block`,
never a helper call: that is decided later, when it is known what else is read nearby. Logic branches only
where the right operand costs something.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable

from kwire.bpf.arch import Arch
from kwire.bpf.task import PidNamespace, TaskFields
from kwire.compile.builder import Builder
from kwire.compile.ir import At, Block, Function, Operand, Slot, Value
from kwire.compile.layout import CompileError
from kwire.hints import Any, NoReturn, TypeAlias
from kwire.kinds import KINDS
from kwire.lang import checked, types
from kwire.lang.context import Argument, CtxField, Located, Param, Result, Saved, Site, TaskMember
from kwire.lang.errors import did_you_mean
from kwire.lang.tree import Span
from kwire.lazy import NamedTuple

Reader: TypeAlias = Callable[[int, int], Value]
"""Reads the aligned unsigned integer at an offset, of a size."""

MASK64 = (1 << 64) - 1

ALU = {
    "add": "add", "sub": "sub", "mul": "mul", "and": "and", "or": "or", "xor": "xor", "shl": "lsh",
    "div": "div", "mod": "mod", "quo": "div", "rem": "mod", "shr": "rsh",
}  # fmt: skip
"""The checker's operators and the unsigned IR operations."""

BUILTINS: dict[str, tuple[str, str, int]] = {
    "nsecs": ("ktime_get_ns", "", 64),
    "cpu": ("get_smp_processor_id", "", 16),
    "uid": ("get_current_uid_gid", "low", 32),
    "gid": ("get_current_uid_gid", "high", 32),
    "curtask": ("get_current_task", "", 64),
    "cgroup": ("get_current_cgroup_id", "", 64),
    "func": ("get_func_ip", "", 64),
    "boottime": ("ktime_get_boot_ns", "", 64),
    "tai": ("ktime_get_tai_ns", "", 64),
    "rand": ("get_prandom_u32", "", 32),
    "jiffies": ("jiffies64", "", 64),
    "numaid": ("get_numa_node_id", "", 16),
}
"""Built-ins that are one helper call: the helper, which half of its result, how many bits that has."""

BREAKPOINT = {"x86_64": -1}
"""From the instruction pointer a kprobe in the middle of a function sees to the address it is at."""

DATA_MOST = 1 << 16
"""Bytes of a tracepoint's variable-length data."""

FAR = 1 << 30
"""An offset that may be too large for an instruction, with what else is added to it."""

COMM_MOST = 15
"""Bytes of a thread's name, its NUL apart."""

WITH_CONTEXT = frozenset({"get_func_ip", "get_attach_cookie"})


CHANGING = (checked.MapPlace, checked.TextPlace)
"""Bases of places that the program itself may change: what is there is loaded anew each time."""


class Options(NamedTuple):
    """What a compilation depends on besides the checked program (see `build.compile_probe`)."""

    arch: Arch
    id: int
    probes: int
    cpus: int
    tasks: bool = False
    main: int = 0
    without: tuple[int, ...] = ()
    cookie: bool = False
    task: TaskFields | None = None
    namespace: PidNamespace | None = None
    loops: int = 0
    preempted: bool = False  # another thread may run the program on the same CPU before this one goes on
    single: bool = False  # it never runs twice at once: the first ring and the first CPU's parts are its own
    claims: bool = False  # so its memory in maps is claimed before it is used
    ends: bool = False  # it does nothing any more once the end of the trace was asked for
    room: bool = False  # the ring surely has room for all that it emits


def signed64(value: int) -> int:
    """The number as the signed 64-bit integer with the same low 64 bits."""
    value &= MASK64
    return value - (1 << 64) if value >> 63 else value


class ExpressionLowering(Builder, ABC):
    """Lowers expressions into the current block. `locals` holds the current operand of every local."""

    __slots__ = (
        "_comm",
        "arguments",
        "current_task",
        "each",
        "epoch",
        "faults",
        "known",
        "locals",
        "name",
        "now",
        "options",
        "reads",
        "site",
        "turn",
    )

    def __init__(
        self, name: str, site: Site, options: Options, exit_value: int, function: Function | None = None
    ) -> None:
        super().__init__(exit_value, function)
        self.name = name
        self.site = site
        self.options = options
        self.locals: dict[int, Operand] = {}
        self.epoch = 0  # another one behind each event
        self.reads = False  # whether anything is read through an address
        self.faults = self.function.slot("faults", 8, pinned=True)
        self.arguments: dict[int, Value] = {}
        self._comm: Slot | None = None
        self.turn: Operand = 0  # the index of the innermost loop
        self.each: tuple[Value, Value] = (self.function.context, self.function.context)
        """Key and value where the innermost loop over a map is."""
        self.known: dict[Hashable, Operand] = {}  # values read from maps, on all ways to here
        self.now: Value | None = None  # in an event: the reading of the clock that is its time

    @property
    def registers(self) -> bool:
        """Whether the context is the machine's registers."""
        return KINDS[self.site.kind].context == "registers"

    @property
    def slotted(self) -> bool:
        """Whether what the context holds is the arguments of a function, or its result, in slots."""
        return KINDS[self.site.kind].place in ("function", "user function")

    @property
    def space(self) -> str:
        """Whose memory the stack is in that arguments are passed on."""
        return types.USER if KINDS[self.site.kind].user else types.KERNEL

    # values

    def expr(self, e: checked.Expr) -> Operand:
        """The value of a scalar expression."""
        before, self.span = self.span, self.place_of(e.span)
        result = _LOWER[e.__class__](self, e)
        self.span = before
        return result

    def const(self, e: checked.Const) -> Operand:
        """A number."""
        return signed64(e.value)

    def builtin(self, e: checked.Builtin) -> Operand:
        """A built-in scalar."""
        if e.op in ("pid", "tid", "ppid"):
            return self.number(e.op)
        if e.op == "func" and self.registers and "+" in self.site.target:
            ip = self.load(self.function.context, self.options.arch.ip, 8, pure=True)
            return self.binary("add", ip, BREAKPOINT.get(self.options.arch.machine, 0))
        if e.op == "usermode":
            return self._user_mode()
        if e.op == "context":
            return self.as_number(self.function.context)
        if e.op == "nsecs" and self.now is not None:
            return self.now
        if e.op not in BUILTINS:
            raise CompileError(self.name, f"the built-in {e.op} cannot be compiled yet")
        helper, half, bits = BUILTINS[e.op]
        args: list[Operand] = [self.function.context] if helper in WITH_CONTEXT else []
        value = self.call(helper, *args)
        if half == "low":
            return self.emit("zext", [value], 32, 32)
        if half == "high":
            return self.emit("rsh", [value, 32], None, 32)
        value.bits = bits
        return value

    def _user_mode(self) -> Operand:
        """Whether the CPU was in user mode: as its registers say where there are some, else by the kind."""
        kind, segment = KINDS[self.site.kind], self.options.arch.registers.get("cs")
        if kind.program != "perf_event" or segment is None:
            return int(kind.user or kind.name in ("begin", "end", "self"))
        ring = self.emit("and", [self.load(self.function.context, segment, 8, pure=True), 3], None, 2)
        return self.emit("cmp", [ring, 3], "eq", 1)

    def number(self, which: str) -> Value:
        """`pid`, `tid` or `ppid` as people see it: in their pid namespace, 0 for whom that does not show.

        Without branches, so that equal ones are made once. A `struct pid` of a higher level has no entry
        there; what is read in its place is never used.
        """
        namespace, task = self.options.namespace, self.options.task
        if namespace is None or task is None:
            return self.process(which)
        fields, owner = namespace.fields, self.call("get_current_task_btf")
        if which == "ppid":
            owner = self.load(owner, task.real_parent, 8, pure=True)
        if which != "tid":
            owner = self.load(owner, task.group_leader, 8, pure=True)
        pid = self.load(owner, fields.thread_pid, 8, pure=True)
        deep = self.emit("cmp", [self.load(pid, fields.level, 4, pure=True), namespace.level], "ge", 1)
        nr = self.hop(pid, namespace.entry + fields.nr, 4, types.KERNEL)
        there = self.hop(pid, namespace.entry + fields.namespace, 8, types.KERNEL)
        same = self.emit("cmp", [there, signed64(namespace.address)], "eq", 1)
        return self.emit("mul", [nr, self.emit("and", [deep, same], None, 1)], None, 32)

    def process(self, which: str) -> Value:
        """The kernel's number of the process (`pid`, its tgid) or of the thread (`tid`)."""
        task = self.options.task
        if task is not None:
            offset = task.tgid if which == "pid" else task.pid
            return self.load(self.call("get_current_task_btf"), offset, 4, pure=True)
        both = self.call("get_current_pid_tgid")
        if which == "pid":
            return self.emit("rsh", [both, 32], None, 32)
        return self.emit("zext", [both], 32, 32)

    def param(self, e: checked.Param) -> Operand:
        """A parameter of the site, narrowed to its type."""
        access = e.access
        if isinstance(access, CtxField):
            return self.extend(self.context_int(access.offset, access.size), access.size, e.type)
        if isinstance(access, Saved | TaskMember):
            base = self.call("get_current_task_btf")
            if isinstance(access, Saved):
                base = self.call("task_pt_regs", base)
            size = types.size_of(e.type)
            return self.extend(self.load(base, access.offset, size, pure=True), size, e.type)
        if isinstance(access, Located):
            return self.located(access, e.type, e.span)
        return self.narrow(self.argument(access), e.type)

    def located(self, where: Located, type_: types.Scalar, span: Span) -> Operand:
        """What a static probe says that its argument is."""
        registers, context = self.options.arch.registers, self.function.context
        if where.register and where.register not in registers:
            cure = did_you_mean(where.register, registers) or f"there are {', '.join(registers)}"
            self.refuse(span, f"there is no register {where.register}", cure)
        at: Operand = signed64(where.constant)
        if where.index:
            index = self.load(context, registers[where.index], 8, pure=True)
            at = self.binary("add", self.emit("mul", [index, where.scale]), at)
        if where.register:
            at = self.binary("add", self.load(context, registers[where.register], 8, pure=True), at)
        size = types.size_of(type_)
        if not where.memory:
            return at if isinstance(at, int) else self.narrow(at, type_)
        return self.extend(self.hop(at, 0, size, types.USER), size, type_)

    def narrow(self, value: Operand, type_: types.Scalar) -> Operand:
        """The low bytes of a register as a type."""
        bits = 8 * types.size_of(type_)
        if bits == 64:
            return value
        if types.signed(type_):
            return self.emit("sext", [value], bits)
        return self.emit("zext", [value], bits, bits)

    def argument(self, access: Argument | Result) -> Operand:
        """All 64 bits of a function's argument or result."""
        kind, arch, context = self.site.kind, self.options.arch, self.function.context
        if self.registers:
            if isinstance(access, Result):
                return self.load(context, arch.ret, 8, pure=True)
            if access.number < len(arch.args):
                return self.load(context, arch.args[access.number], 8, pure=True)
            stack = self.load(context, arch.sp, 8, pure=True)
            return self.hop(stack, arch.stack_args + 8 * (access.number - len(arch.args)), 8, self.space)
        number = access.slots if isinstance(access, Result) else access.number
        if KINDS[kind].context == "objects":  # read as memory it is a number, with which anything may be done
            return self.hop(context, 8 * number, 8, types.KERNEL)
        if KINDS[kind].context == "typed slots" and self._typed_pointer(access):
            return self._function_argument(number, isinstance(access, Result))
        return self.load(context, 8 * number, 8, pure=True)

    def _typed_pointer(self, access: Argument | Result) -> bool:
        """Whether the verifier gives this argument a type, which would limit what may be done with it."""
        params: tuple[Param | None, ...] = (*self.site.params, self.site.retval)
        for param in params:
            if param is not None and type(param.access) is type(access) and param.access == access:
                return not types.is_integer(param.type)
        return True

    def _function_argument(self, number: int, result: bool) -> Value:
        """The argument as a plain number, by the helper that the kernel turns into a load of it."""
        key = -1 if result else number
        if key not in self.arguments:
            before, self.block = self.block, Block("prologue")
            slot = self.function.slot(f"arg{number}", 8)
            if result:
                self.call("get_func_ret", self.function.context, At(slot, 0))
            else:
                self.call("get_func_arg", self.function.context, number, At(slot, 0))
            self.arguments[key] = self.load(slot, 0, 8)
            self.prologue += self.block.body
            self.block = before
        return self.arguments[key]

    def socket_cookie(self, e: checked.SocketCookie) -> Operand:
        """The cookie of a socket: the helper takes the argument only as the verifier knows it."""
        assert isinstance(e.socket.access, Argument)
        socket = self.load(self.function.context, 8 * e.socket.access.number, 8, pure=True)
        return self.call("get_socket_cookie", socket)

    def context_address(self, e: checked.Context) -> Operand:
        """The context's address."""
        if self.slotted:
            cause = "an argument that is passed by value has no address"
            raise CompileError(self.name, cause, "name the members, and elements by constant indexes")
        return self.function.context

    def data_location(self, e: checked.DataLocAddress) -> Operand:
        """Where a tracepoint's variable-length data begins."""
        word = self.context_int(e.offset, 4)
        start = self.emit("and", [word, 0xFFFF], None, 16)
        address = self.emit("add", [self.function.context, start])
        return self.binary("add", address, e.offset + 4 if e.relative else 0)

    def context_int(self, offset: int, size: int) -> Value:
        """An unsigned integer of the context, by aligned loads; of a function's, from its slots."""
        if self.slotted:
            return self.gather(offset, size, self._of_slot)
        return self.gather(offset, size, lambda at, n: self.load(self.function.context, at, n, pure=True))

    def _of_slot(self, offset: int, size: int) -> Value:
        """An unsigned integer of 1 to 8 bytes within one slot, which is loaded as a whole."""
        slot, within = divmod(offset, 8)
        arch = self.options.arch
        if self.registers and KINDS[self.site.kind].result:
            whole: Operand = self.load(self.function.context, (arch.ret, arch.ret_high)[slot], 8, pure=True)
        elif self.registers:
            whole = self.argument(Argument(slot))
        else:
            whole = self.load(self.function.context, 8 * slot, 8, pure=True)
        if within:
            whole = self.emit("rsh", [whole, 8 * within], None, 64 - 8 * within)
        return self.emit("zext", [whole], 8 * size, 8 * size)

    def gather(self, offset: int, size: int, read: Reader) -> Value:
        """A little-endian integer of 1 to 8 bytes, put together from naturally aligned pieces."""
        result: Value | None = None
        for at, piece in pieces(offset, size):
            part = read(at, piece)
            shift = 8 * (at - offset)
            if shift:
                part = self.emit("lsh", [part, shift], None, shift + 8 * piece)
            result = part if result is None else self.emit("or", [result, part], None, shift + 8 * piece)
        if result is None:
            raise CompileError(self.name, "an integer of no bytes")
        return result

    # memory

    def hop(self, base: Operand, offset: int, size: int, space: str) -> Value:
        """An aligned unsigned integer at an address."""
        self.reads = True
        return self.emit("hop", [base], (space, offset, size, self.epoch), size * 8)

    def fault(self, result: Value) -> None:
        """Note it when a helper that reads says so."""
        self.reads = True
        self.do("fault", [result, At(self.faults, 0)])

    def place(self, place: checked.Place) -> tuple[Operand, int]:
        """Base and constant offset of a place; with a checked index the offset is part of the base.

        To a pointer that the verifier knows it lets nobody add what it does not know to be small.
        """
        base, offset = self.expr(place.base), place.offset
        if abs(offset) >= FAR:
            base, offset = self.emit("add", [base, signed64(offset)]), 0
        data = place.base if isinstance(place.base, checked.DataLocAddress) else None
        known = data is not None or isinstance(place.base, (checked.Context, *CHANGING))
        bounded = any(index.length or data is not None for index in place.indexes)
        address = self.binary("add", base, offset) if bounded else base
        checks: list[tuple[Operand, Operand]] = []
        for index in place.indexes:
            value = self.expr(index.value)
            step = value
            if known:
                most = index.length or max(DATA_MOST // index.stride, 1)
                step = self.emit("within", [value, value, most])
            address = self.emit("add", [address, self.emit("mul", [step, index.stride])])
            if index.length:
                checks.append((value, index.length))
            elif data is not None:
                length = self.binary("rsh", self.context_int(data.offset, 4), 16)
                checks.append((value, self.emit("div", [length, index.stride])))
        for value, limit in checks:
            address = self.emit("within", [address, value, limit])
        return address, 0 if bounded else offset

    def load_place(self, e: checked.Load) -> Operand:
        """The scalar at a place."""
        size = (e.bit_offset + e.bit_size + 7) // 8 if e.bit_size else types.size_of(e.type)
        raw = self.read_int(e.place, size)
        if not e.bit_size:
            return self.extend(raw, size, e.type)
        if types.signed(e.type):
            up = self.binary("lsh", raw, 64 - e.bit_offset - e.bit_size)
            return self.binary("arsh", up, 64 - e.bit_size)
        down = self.binary("rsh", raw, e.bit_offset)
        if e.bit_offset + e.bit_size == 8 * size:
            if isinstance(down, Value) and e.bit_offset:
                down.bits = e.bit_size
            return down
        return self.emit("and", [down, (1 << e.bit_size) - 1], None, e.bit_size)

    def read_int(self, place: checked.Place, size: int, at: int = 0) -> Value:
        """The unsigned integer of 1 to 8 bytes, `at` bytes after a place."""
        if isinstance(place.base, checked.Context) and not place.indexes:
            return self.context_int(place.offset + at, size)
        base, offset = self.place(place)
        if isinstance(place.base, CHANGING):
            if not place.indexes:
                return self.gather(offset + at, size, lambda o, n: self.load(base, o, n))  # type: ignore[arg-type]  # memory that changes has a value for its base
            slot = self.function.slot("part", 8)
            self.call("probe_read_kernel", At(slot, 0), size, self.binary("add", base, offset + at))
            return self.load(slot, 0, size)
        return self.gather(offset + at, size, lambda o, n: self.hop(base, o, n, place.space))

    def extend(self, raw: Value, size: int, type_: types.Scalar) -> Value:
        """The value of a scalar type from its `size` raw bytes."""
        if size < 8 and types.signed(type_):
            return self.emit("sext", [raw], size * 8)
        return raw

    def address_of(self, e: checked.AddressOf) -> Operand:
        """The address of a place."""
        base, offset = self.place(e.place)
        return self.binary("add", base, offset)

    def local(self, e: checked.LocalGet) -> Operand:
        """A local's current value."""
        return self.locals[e.local]

    def index(self, e: checked.Turn) -> Operand:
        """Where the innermost loop is."""
        return self.turn

    # arithmetic

    def arithmetic(self, e: checked.Binary) -> Operand:
        """Two operands and an operator, in 64 bits."""
        left, right = self.expr(e.left), self.expr(e.right)
        if types.signed(e.type):
            if e.op == "shr":
                return self.emit("arsh", [left, right])
            if e.op in ("div", "mod"):
                return self._signed_division(e.op, left, right)
            if e.op in ("quo", "rem"):
                return self._truncating_division(e.op, left, right)
        return self.emit(ALU[e.op], [left, right])

    def quotient(self, left: Operand, right: Operand, signed: bool) -> Operand:
        """Division that truncates, as an average is shown; 0 by 0."""
        return self._truncating_division("quo", left, right) if signed else self.emit("div", [left, right])

    def _signed_division(self, op: str, left: Operand, right: Operand) -> Operand:
        """Division that floors, by unsigned instructions: signed ones came only with ISA v4.

        With ~x = -x - 1: floor(x / d) is ~(~x / d) for negative x and positive d, and the remainder
        d + ~(~x % d).
        """
        if isinstance(right, int) and right > 0:
            if right & (right - 1) == 0:
                if op == "div":
                    return self.binary("arsh", left, right.bit_length() - 1)
                return self.emit("and", [left, right - 1])
            sign = self.emit("arsh", [left, 63])
            result = self.emit("xor", [self.emit(op, [self.emit("xor", [left, sign]), right]), sign])
            return result if op == "div" else self.emit("add", [result, self.emit("and", [sign, right])])
        quotient = self._floor(left, right)
        return quotient if op == "div" else self.emit("sub", [left, self.emit("mul", [quotient, right])])

    def _truncating_division(self, op: str, left: Operand, right: Operand) -> Operand:
        """Division as in C: of the magnitudes, with the sign of both; the remainder has the dividend's."""
        sign = self.emit("arsh", [left, 63])
        one = self._flip(left, sign)
        if isinstance(right, int):
            two: Operand = abs(right)
            both = sign if right > 0 else self.emit("xor", [sign, -1])
        else:
            right_sign = self.emit("arsh", [right, 63])
            two, both = self._flip(right, right_sign), self.emit("xor", [sign, right_sign])
        if op == "quo":
            return self._flip(self.emit("div", [one, two]), both)
        return self._flip(self.emit("mod", [one, two]), sign)

    def _floor(self, left: Operand, right: Operand) -> Operand:
        """The quotient by any divisor: that of the magnitudes, its sign, and one less where a negative one
        has a remainder; 0 where the divisor is 0.
        """
        left_sign, right_sign = (self.emit("arsh", [value, 63]) for value in (left, right))
        one, two = self._flip(left, left_sign), self._flip(right, right_sign)
        sign = self.emit("xor", [left_sign, right_sign])
        quotient = self._flip(self.emit("div", [one, two]), sign)
        inexact = self.emit("and", [self._negative(self.emit("mod", [one, two])), self._negative(two)])
        less = self.emit("rsh", [self.emit("and", [sign, inexact]), 63])
        return self.emit("sub", [quotient, less])

    def _negative(self, value: Operand) -> Operand:
        """A number whose highest bit tells whether the value is not 0."""
        return self.emit("or", [value, self.emit("neg", [value])])

    def _flip(self, value: Operand, sign: Operand) -> Operand:
        """Value where sign is 0, -value where sign is -1."""
        return self.emit("sub", [self.emit("xor", [value, sign]), sign])

    def negate(self, e: checked.Negate) -> Operand:
        """0 - operand."""
        return self.emit("neg", [self.expr(e.operand)])

    def invert(self, e: checked.Invert) -> Operand:
        """All bits flipped."""
        return self.emit("xor", [self.expr(e.operand), -1])

    def convert(self, e: checked.Convert) -> Operand:
        """The low bytes as another type."""
        value = self.expr(e.operand)
        if isinstance(e.type, types.Bool):
            return self.emit("cmp", [value, 0], "ne", 1)
        return self.narrow(value, e.type)

    def retype(self, e: checked.Retype) -> Operand:
        """The same bits."""
        return self.expr(e.operand)

    def swap(self, e: checked.Bswap) -> Operand:
        """From network byte order."""
        return self.emit("be", [self.expr(e.operand)], e.size * 8, e.size * 8)

    # truth

    def compare(self, e: checked.Compare) -> Operand:
        """A comparison as 0 or 1."""
        return self.emit("cmp", [self.expr(e.left), self.expr(e.right)], condition_of(e), 1)

    def truth(self, e: checked.Expr) -> Operand:
        """A condition made of branches as 0 or 1."""
        yes, no = self.new_block("yes"), self.new_block("no")
        self.condition(e, yes, no)
        self.start(yes)
        self.start(no)
        return self.join([(yes, 1), (no, 0)])

    def negation(self, e: checked.Not) -> Operand:
        """1 when the operand is 0."""
        return self.emit("cmp", [self.expr(e.operand), 0], "eq", 1)

    def select(self, e: checked.Select) -> Operand:
        """One of two, the other one not computed."""
        yes, no = self.new_block("then"), self.new_block("else")
        self.condition(e.test, yes, no)
        arms: list[tuple[Block | None, Operand]] = []
        known = self.known
        for block, arm in ((yes, e.then), (no, e.otherwise)):
            self.start(block)
            self.known = dict(known)
            value = self.expr(arm)
            arms.append((self.block, value))
        self.known = known
        return self.join(arms)

    def condition(self, e: checked.Expr, yes: Block, no: Block) -> None:
        """Go to `yes` when the expression is not 0, otherwise to `no`."""
        before, self.span = self.span, self.place_of(e.span)
        if isinstance(e, checked.Not):
            self.condition(e.operand, no, yes)
        elif isinstance(e, checked.Logic):
            middle = self.new_block(e.op)
            if e.op == "and":
                self.condition(e.left, middle, no)
            else:
                self.condition(e.left, yes, middle)
            self.start(middle)
            known, self.known = self.known, dict(self.known)
            self.condition(e.right, yes, no)
            self.known = known
        elif isinstance(e, checked.TextEqual):
            self._text_condition(e, yes, no)
        elif isinstance(e, checked.TextOrder):
            self._text_order(e, yes, no)
        elif isinstance(e, checked.TextMatch):
            self.match(e, yes, no)
        elif isinstance(e, checked.TextCompare):
            self.compare_texts(e, yes, no)
        elif isinstance(e, checked.BlockEqual):
            self._block_condition(e, yes, no)
        elif isinstance(e, checked.Compare):
            left, right = self.expr(e.left), self.expr(e.right)
            self.branch(condition_of(e), left, right, yes, no)
        else:
            self.branch("ne", self.expr(e), 0, yes, no)
        self.span = before

    def _text_condition(self, e: checked.TextEqual, yes: Block, no: Block) -> None:
        """Compare word by word with the literal, and with its NUL where the text may go on; one branch."""
        text, most = self._limited(e.text)
        difference: Operand = 0
        wanted = (e.literal + b"\0")[:most]
        if len(e.literal) > most:
            self.jump(no)
            return
        if isinstance(text, checked.Comm):
            if most == COMM_MOST:
                wanted = e.literal + b"\0"  # there is always one, and whole words are compared at once
            for number, word in enumerate(self.comm()[: (len(wanted) + 7) // 8]):
                difference = self._differ(difference, word, wanted[8 * number : 8 * number + 8])
        elif text.fixed:
            start = 0 if any(index.length for index in text.place.indexes) else text.place.offset
            for at, piece in pieces(start, len(wanted)):
                word = self.read_int(text.place, piece, at - start)
                difference = self._differ(difference, word, wanted[at - start : at - start + piece])
        else:
            slot, result = self._fetch(text.place, len(wanted) + 1)
            if not e.literal:
                # Unreadable memory, which gives zeros, holds no empty text. Of user memory an empty one is
                # 1 byte with its NUL on Linux 6.18, and 0 on 6.1 and 6.12.
                self.branch("lt", result, 2, yes, no)
                return
            for at, piece in pieces(0, len(wanted)):
                difference = self._differ(difference, self.load(slot, at, piece), wanted[at : at + piece])
        self.branch("eq", difference, 0, yes, no)

    def _limited(self, text: checked.Wide) -> tuple[checked.ReadText | checked.Comm, int]:
        """A text, and how many bytes it has at most."""
        assert isinstance(text, checked.ReadText | checked.Comm)
        most = text.type.limit
        if isinstance(text, checked.ReadText) and text.fixed:
            most = min(most, text.fixed)
        return text, most

    def _text_order(self, e: checked.TextOrder, yes: Block, no: Block) -> None:
        """Compare word by word with the literal and its NUL, each as the number its bytes are from the left:
        the first difference decides. What follows the text's NUL is never looked at.
        """
        text, most = self._limited(e.text)
        wanted = (e.literal + b"\0")[:most]
        words: list[tuple[Value, bytes]] = []
        if isinstance(text, checked.Comm):
            for number, word in enumerate(self.comm()[: (len(wanted) + 7) // 8]):
                part = wanted[8 * number : 8 * number + 8]
                words.append((self._low(word, len(part)), part))
        elif text.fixed:
            start = 0 if any(index.length for index in text.place.indexes) else text.place.offset
            for at, piece in pieces(start, len(wanted)):
                word = self.read_int(text.place, piece, at - start)
                words.append((word, wanted[at - start : at - start + piece]))
        else:
            slot, result = self._fetch(text.place, len(wanted) + 1)
            if e.op in ("lt", "le") or not e.literal:  # what is not there is nowhere in the order
                there = self.new_block("there")
                self.branch("slt", result, 0, no, there)
                self.start(there)
            for at, piece in pieces(0, len(wanted)):
                words.append((self.load(slot, at, piece), wanted[at : at + piece]))
        less, greater = (yes, no) if e.op in ("lt", "le") else (no, yes)
        for word, part in words[:-1]:
            same, differs = self.new_block("same"), self.new_block("differs")
            sides = self._from_left(word, part)
            self.branch("eq", *sides, same, differs)
            self.start(differs)
            self.branch("lt", *sides, less, greater)
            self.start(same)
        # A literal that goes on beyond the text's limit is greater than what equals its beginning.
        beyond = {"lt": "le", "ge": "gt"} if len(e.literal) > most else {}
        self.branch(beyond.get(e.op, e.op), *self._from_left(*words[-1]), yes, no)

    def _from_left(self, word: Value, wanted: bytes) -> tuple[Value, int]:
        """The bytes of a word and those wanted, each as the number they are from the left."""
        number = int.from_bytes(wanted.ljust(8, b"\0"), "big")
        return self.emit("be", [word], 64, 64), signed64(number)

    def _low(self, word: Value, size: int) -> Value:
        """The low bytes of a word."""
        return word if size == 8 else self.emit("and", [word, (1 << 8 * size) - 1], None, 8 * size)

    @abstractmethod
    def refuse(self, span: Span, message: str, cure: str) -> NoReturn:
        """Raise `LanguageError` about a place in the program."""

    @abstractmethod
    def as_number(self, address: Operand) -> Operand:
        """An address as a number, with which anything may be done."""

    @abstractmethod
    def map_get(self, e: checked.MapGet) -> Operand:
        """The value at a key of a map."""

    @abstractmethod
    def map_has(self, e: checked.MapHas) -> Operand:
        """Whether a map has a key."""

    @abstractmethod
    def map_place(self, e: checked.MapPlace) -> Operand:
        """The address of the value at a key of a map."""

    @abstractmethod
    def each_get(self, e: checked.EachGet) -> Operand:
        """What a map holds where the loop over it is."""

    @abstractmethod
    def text_place(self, e: checked.TextPlace) -> Operand:
        """The address of the text that a local holds."""

    @abstractmethod
    def stack(self, e: checked.Stack | checked.UserSymbol) -> Operand:
        """The number of a stack."""

    @abstractmethod
    def stack_depth(self, e: checked.StackDepth) -> Operand:
        """How many frames a stack has."""

    @abstractmethod
    def kernel_symbol(self, e: checked.KernelSymbol) -> Operand:
        """An address in the kernel, which is told by its name."""

    @abstractmethod
    def reader(self, text: checked.ReadText, limit: int) -> Function | None:
        """The function that reads such texts into records, where there are many."""

    @abstractmethod
    def match(self, e: checked.TextMatch, yes: Block, no: Block) -> None:
        """Go to `yes` where a text matches a pattern, otherwise to `no`."""

    @abstractmethod
    def text_length(self, e: checked.TextLength) -> Operand:
        """How many bytes a text has."""

    @abstractmethod
    def compare_texts(self, e: checked.TextCompare, yes: Block, no: Block) -> None:
        """Go to `yes` where two texts stand to each other as asked, otherwise to `no`."""

    def _block_condition(self, e: checked.BlockEqual, yes: Block, no: Block) -> None:
        """Compare bytes word by word; one branch."""
        place, difference = e.block.place, None
        start = 0 if any(index.length for index in place.indexes) else place.offset
        for at, piece in pieces(start, len(e.data)):
            word = self.read_int(place, piece, at - start)
            part = e.data[at - start : at - start + piece]
            difference = self._differ(0 if difference is None else difference, word, part)
        self.branch("eq", 0 if difference is None else difference, 0, yes, no)

    def _fetch(self, place: checked.Place, size: int) -> tuple[Slot, Value]:
        """A text of unknown size on the stack, its first `size - 1` bytes, then zeros; and what the helper
        says: how many bytes there are with the NUL (an empty text of user memory: 1 or 0), or an error.

        It is not read with its neighbours: what lies behind its NUL may not be readable.
        """
        base, offset = self.place(place)
        slot = self.function.slot("text", size)
        for at in range(0, slot.size, 8):
            self.store(slot, at, 8, 0)
        source = self.binary("add", base, offset)
        result = self.call(f"probe_read_{place.space}_str", At(slot, 0), size, source)
        self.fault(result)
        return slot, result

    def _differ(self, so_far: Operand, word: Value, wanted: bytes) -> Operand:
        """Zero when `so_far` is and the low bytes of the word are the wanted ones."""
        number = signed64(int.from_bytes(wanted, "little"))
        size = 8 * len(wanted)
        if size < word.bits:
            word = self.emit("and", [word, (1 << size) - 1], None, size)
        here = self.emit("xor", [word, number])
        return here if so_far == 0 else self.emit("or", [so_far, here])

    def comm(self) -> tuple[Value, Value]:
        """The 16 bytes of the current thread's name as two words."""
        task = self.options.task
        if task is not None and task.comm % 8 == 0:
            current = self.call("get_current_task_btf")
            return self.load(current, task.comm, 8, pure=True), self.load(
                current, task.comm + 8, 8, pure=True
            )
        if self._comm is None:
            slot = self._comm = self.function.slot("comm", 16)
            before, self.block = self.block, Block("prologue")
            for at in (0, 8):
                self.store(slot, at, 8, 0)  # Linux 6.1 writes nothing behind the name's NUL
            self.call("get_current_comm", At(slot, 0), 16)
            self.prologue += self.block.body
            self.block = before
        return self.load(self._comm, 0, 8), self.load(self._comm, 8, 8)


def condition_of(e: checked.Compare) -> str:
    """The IR's condition of a comparison."""
    return f"s{e.op}" if e.signed and e.op not in ("eq", "ne") else e.op


def pieces(offset: int, size: int) -> list[tuple[int, int]]:
    """Cuts `size` bytes at `offset` into naturally aligned words of 8, 4, 2 and 1 bytes: (offset, size)."""
    found: list[tuple[int, int]] = []
    end = offset + size
    while offset < end:
        piece = 8
        while offset % piece or offset + piece > end:
            piece //= 2
        found.append((offset, piece))
        offset += piece
    return found


_LOWER: dict[type, Callable[[ExpressionLowering, Any], Operand]] = {
    checked.Const: ExpressionLowering.const,
    checked.Builtin: ExpressionLowering.builtin,
    checked.Param: ExpressionLowering.param,
    checked.Context: ExpressionLowering.context_address,
    checked.DataLocAddress: ExpressionLowering.data_location,
    checked.Load: ExpressionLowering.load_place,
    checked.AddressOf: ExpressionLowering.address_of,
    checked.LocalGet: ExpressionLowering.local,
    checked.Turn: ExpressionLowering.index,
    checked.Binary: ExpressionLowering.arithmetic,
    checked.Negate: ExpressionLowering.negate,
    checked.Invert: ExpressionLowering.invert,
    checked.Compare: ExpressionLowering.compare,
    checked.TextEqual: ExpressionLowering.truth,
    checked.TextCompare: ExpressionLowering.truth,
    checked.TextOrder: ExpressionLowering.truth,
    checked.TextLength: lambda lower, e: lower.text_length(e),
    checked.TextMatch: ExpressionLowering.truth,
    checked.BlockEqual: ExpressionLowering.truth,
    checked.Logic: ExpressionLowering.truth,
    checked.Not: ExpressionLowering.negation,
    checked.Select: ExpressionLowering.select,
    checked.Convert: ExpressionLowering.convert,
    checked.Retype: ExpressionLowering.retype,
    checked.Bswap: ExpressionLowering.swap,
    checked.MapGet: lambda lower, e: lower.map_get(e),
    checked.MapHas: lambda lower, e: lower.map_has(e),
    checked.MapPlace: lambda lower, e: lower.map_place(e),
    checked.TextPlace: lambda lower, e: lower.text_place(e),
    checked.EachKey: lambda lower, e: lower.each[0],
    checked.EachValue: lambda lower, e: lower.each[1],
    checked.EachGet: lambda lower, e: lower.each_get(e),
    checked.SocketCookie: ExpressionLowering.socket_cookie,
    checked.Stack: lambda lower, e: lower.stack(e),
    checked.StackDepth: lambda lower, e: lower.stack_depth(e),
    checked.UserSymbol: lambda lower, e: lower.stack(e),
    checked.KernelSymbol: lambda lower, e: lower.kernel_symbol(e),
}
