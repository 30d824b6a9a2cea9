"""What a macro was given for a name: an expression, done anew at each place where the name stands."""

from collections.abc import Callable

from kwire.hints import TYPE_CHECKING, TypeVar
from kwire.lang.bpftrace import syntax as s
from kwire.lazy import NamedTuple

if TYPE_CHECKING:
    from kwire.lang.bpftrace.lower import Lowering

_Made = TypeVar("_Made")


class MacroArgument(NamedTuple):
    """An expression, with the variables, the names and the macros around whoever wrote it."""

    argument: s.Expr
    scopes: list[dict[str, str]]
    substitutes: "list[dict[str, MacroArgument]]"
    expanding: list[str]

    def made(self, low: "Lowering", make: "Callable[[Lowering, s.Expr], _Made]") -> _Made:
        """What `make` makes of it there."""
        own = low.scopes, low.substitutes, low.expanding
        low.scopes, low.substitutes, low.expanding = self.scopes, self.substitutes, self.expanding
        try:
            return make(low, self.argument)
        finally:
            low.scopes, low.substitutes, low.expanding = own
