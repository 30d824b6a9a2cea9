"""What an attach point gives to a program: its parameters, their types, and how each is reached.

A `Site` is one concrete place (no wildcards). The checker resolves names against it, the compiler turns an
access into instructions. How a site is found out (BTF, tracefs) is the business of `sites`.
"""

from kwire.hints import Any, TypeAlias
from kwire.kinds import file_and_name
from kwire.lang.forms import Form
from kwire.lang.types import U32, U64, Type


class CtxField(Form):
    """`size` bytes at `offset` of the program's context (a tracepoint's record)."""

    offset: int
    size: int


class Argument(Form):
    """The argument in slot `number`, from 0. Slots are eight bytes each (see `abi`): of a kprobe the argument
    registers and then the stack; of the others at 8 * number of the context.

    For a raw tracepoint the leading `void *__data` of its prototype is not counted.
    """

    number: int


class Slots(Form):
    """`size` bytes in slots from `first` on: an argument wider than a register, or a structure. At the return
    of a function (kretprobe): in the registers that hold the result. Size 0: no probe can read it.
    """

    first: int
    size: int


class Result(Form):
    """What the function returned (kretprobe: the return register; fexit: 8 * `slots` of the context)."""

    slots: int  # how many slots its arguments take


class DataLoc(Form):
    """A variable-length array of a tracepoint's record: the u32 at `offset` holds length << 16 | start.

    start counts from the beginning of the context; `relative` (`__rel_loc`): from the end of the u32.
    """

    offset: int
    relative: bool = False


class Located(Form):
    """A value as a static probe says where it is: the number `constant`, or the register `register` (a name
    of `bpf.arch`; empty: none) plus `index` times `scale` (empty: none) plus `constant`; `memory`: it is in
    the program's memory there.
    """

    constant: int
    register: str = ""
    index: str = ""
    scale: int = 1
    memory: bool = False


class Saved(Form):
    """A register as the current thread had it when it entered the kernel, at `offset` of its `pt_regs`."""

    offset: int


class TaskMember(Form):
    """The member at `offset` of the current thread's `task_struct`; its size is that of its type."""

    offset: int


Access: TypeAlias = CtxField | Argument | Slots | Result | DataLoc | Located


class Param(Form):
    """A named value of the site. A `DataLoc` param has type `Array(element, 0)`: char is text."""

    name: str
    type: Type
    access: Access


class Site(Form):
    """One attach point. `target` is without the kind: "tcp_connect", "sched:sched_switch", "ext4:f+16"."""

    kind: str
    target: str
    params: tuple[Param, ...]
    retval: Param | None = None
    module: str = ""  # the module that holds the function, empty for the kernel itself
    typed: bool = True  # False when no prototype was found: arg0… are there, untyped
    slots: int = 0  # how many slots the arguments take, where they are typed and in the context
    machine: str = ""  # whose calls are made there, where that is not the host's

    def argument(self, number: int) -> Param:
        """An argument by its number, from 0, whatever its type."""
        if self.machine == "i386":  # all are on the stack, behind the return address
            return Param(f"arg{number}", U32, Located(4 * (number + 1), "sp", "", 1, True))
        return Param(f"arg{number}", U64, Argument(number))

    @property
    def function(self) -> str:
        """The name of the function that it is at or in, of a program's file; of a static probe its name."""
        return file_and_name(self.target)[2].partition("+")[0]


class SiteNeededError(Exception):
    """A program asks for something that each place has of its own."""


class AnySite(Site):
    """A place of which only its kind is known; who asks for anything else gets a `SiteNeededError`. A program
    that can be made here is the same at all places of the kind.
    """

    def __getattribute__(self, name: str) -> Any:
        """An attribute, or the error."""
        if name in _OF_ONE_PLACE:
            raise SiteNeededError(name)
        return super().__getattribute__(name)


_OF_ONE_PLACE = frozenset({"target", "params", "retval", "module", "typed", "slots", "function"})
