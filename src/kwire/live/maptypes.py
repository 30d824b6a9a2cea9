"""The types of maps that Python programs declare, when no probe has used them yet.

Invariant: keys and values that Python sets are judged where they are set, by the types that probes will find.
"""

from kwire.btf.errors import BtfError, BtfLookupError
from kwire.btf.store import load_kernel
from kwire.errors import KwireError
from kwire.lang import types as t
from kwire.lang.checked import Map
from kwire.lang.errors import TextError
from kwire.lang.kerneltypes import KernelTypes
from kwire.lang.maps import declared
from kwire.lang.tree import NOWHERE, MapDeclaration, Span


class _Named:
    """The types of the running kernel by their names."""

    def __init__(self) -> None:
        self._types = KernelTypes(load_kernel())

    def named_type(self, text: str, span: Span) -> t.Type:
        """The type of a name. Raises `TextError`."""
        if text == "stack":
            return t.Stack()
        try:
            return self._types.type(text)
        except BtfLookupError as error:
            raise TextError(span, error.cause, error.cure) from None


def checked_map(made: MapDeclaration) -> Map:
    """The map that is declared. Raises KwireError where a type is none, or the kernel tells no types."""
    try:
        return declared(_Named(), made, NOWHERE)
    except TextError as fault:
        found = fault.diagnostic
        raise KwireError("use map", made.title, found.message, found.cure) from None
    except BtfError as error:
        raise KwireError("use map", made.title, error.cause, error.cure) from None
