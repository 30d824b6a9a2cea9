"""Stacks by their numbers: what fields of type `stack` mean, kept beside the schemas of one stream.

Invariants: a number means one stack, in all captures: traces take theirs from ranges of their own (see
`live.stacks`), so tables of several streams can be held together. A single address in the kernel is its own
number (see `compile.stacks`), so in streams from several kernels held together it may have two names: it has
none then, as nobody can tell which is meant. A number that is not there is of a stack nobody told, which
shows as no frames; 0 is that of none.
"""

from collections.abc import Iterator

from kwire.lazy import NamedTuple


class Frame(NamedTuple):
    """A place in a function on a stack. `address`: where it is, of a stack by build ids the offset in the
    file; `symbol`: the function's name, empty where it is not known; `offset`: how far from its start;
    `file`: a module of the kernel, the file that a process has there, or the build id of that.
    """

    address: int
    symbol: str = ""
    offset: int = 0
    file: str = ""

    @property
    def name(self) -> str:
        """The function's name, or the address where it is not known."""
        return self.symbol or f"{self.address:#x}"

    def __str__(self) -> str:
        return f"{self.symbol}+{self.offset}" if self.symbol else f"{self.address:#x}"


class Stack(tuple[Frame, ...]):
    """The frames of a stack, the innermost one first; as text a line each."""

    __slots__ = ()

    @property
    def folded(self) -> str:
        """On one line as flame graphs take it: the names, the outermost function first."""
        return ";".join(frame.name.replace(";", ":").replace("\n", " ") for frame in reversed(self))

    def __str__(self) -> str:
        return "\n".join(map(str, self))


NONE = Stack()


class Stacks:
    """The stacks of a stream."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[int, Stack] = {}

    def add(self, number: int, stack: Stack) -> None:
        """Tell what a number means: an address in the kernel that was told otherwise before, nothing."""
        if number >> 63 and str(self._known.get(number, stack)) != str(stack):
            stack = NONE
        self._known[number] = stack

    def stack(self, number: int) -> Stack:
        """A stack by its number: without frames where it has none, or nobody told them."""
        return self._known.get(number, NONE)

    def __eq__(self, other: object) -> bool:
        """Two schemas are equal whatever was told of their stacks by now."""
        return other is None or isinstance(other, Stacks)

    def __hash__(self) -> int:
        return hash(None)

    def __contains__(self, number: object) -> bool:
        return number in self._known

    def __iter__(self) -> Iterator[tuple[int, Stack]]:
        return iter(self._known.items())

    def __len__(self) -> int:
        return len(self._known)

    def __bool__(self) -> bool:
        return True
