"""The names of `typing` for modules that a command loads at its start: for type checkers they are those; when
a program runs they do nothing, and importing them takes a twentieth of the time.

Invariant: annotations that use them may be evaluated, and mean nothing then; who looks at annotations when a
program runs uses `typing`.
"""

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import IO as IO
    from typing import Any as Any
    from typing import ClassVar as ClassVar
    from typing import Final as Final
    from typing import Literal as Literal
    from typing import NoReturn as NoReturn
    from typing import Protocol as Protocol
    from typing import Self as Self
    from typing import TextIO as TextIO
    from typing import TypeAlias as TypeAlias
    from typing import TypeVar as TypeVar
    from typing import cast as cast
    from typing import dataclass_transform as dataclass_transform
    from typing import overload as overload
else:

    class _Hint:
        """Stands for a type in expressions of types."""

        __slots__ = ()

        def __getitem__(self, parameters):
            return self

        def __or__(self, other):
            return self

        __ror__ = __or__

    IO = Any = ClassVar = Final = Literal = NoReturn = Self = TextIO = TypeAlias = _Hint()

    class Protocol:
        """A class of which only the names count."""

        def __class_getitem__(cls, parameters):
            return cls

    def TypeVar(name, *bounds, **more):
        """A type of which nothing is known."""
        return Any

    def cast(kind, value):
        """The value."""
        return value

    def overload(function):
        """The function, which another of its name replaces."""
        return function

    def dataclass_transform(**more):
        """What leaves a class as it is."""
        return lambda made: made
