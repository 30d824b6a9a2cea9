"""What costs time at import, put off until it is used: most commands use little of what their modules hold.

`NamedTuple` is that of `typing`, made in a seventh of the time: the compiling of a `__new__` for each class
takes longest, and is done at the first call here. `pattern` is `re.compile`, done at the first use. Both only
pay in modules that a command loads at its start, and harm in none.
"""

import re
import sys

from kwire.hints import TYPE_CHECKING, Any, cast, overload

if TYPE_CHECKING or sys.version_info >= (3, 14):  # where annotations are made only when asked for
    from typing import NamedTuple as NamedTuple
else:
    from _collections import _tuplegetter
    from collections import namedtuple

    class _Making(type):
        """Turns a class with annotated fields into one of tuples."""

        def __new__(cls, name: str, bases: tuple[type, ...], space: dict[str, Any]) -> type:
            if not bases:
                return super().__new__(cls, name, bases, space)
            fields = tuple(space.get("__annotations__", ()))
            defaults = {field: space.pop(field) for field in fields if field in space}
            made = {
                **space,
                **{field: _tuplegetter(at, "") for at, field in enumerate(fields)},
                "__slots__": (),
                "__match_args__": fields,
                "_fields": fields,
                "_field_defaults": defaults,
                "__new__": _first,
                "_make": classmethod(_make),
                "_replace": _replace,
                "_asdict": _asdict,
                "__getnewargs__": _values,
            }
            made.setdefault("__repr__", _repr)
            return type(name, (tuple,), made)

    def _first(cls: type, /, *values: Any, **named: Any) -> Any:
        """`__new__` of a class that has made none yet: compiles the one for all others."""
        own = next(base for base in cls.__mro__ if "_fields" in base.__dict__)
        compiled = namedtuple(own.__name__, own._fields, defaults=tuple(own._field_defaults.values()))
        own.__new__ = compiled.__new__
        return own.__new__(cls, *values, **named)

    def _values(self: Any) -> tuple[Any, ...]:
        """What the class is called with to make the same again."""
        return tuple(self)

    def _make(cls: type, values: Any) -> Any:
        """A tuple of these values, as many as there are fields."""
        made = tuple.__new__(cls, values)
        if len(made) != len(cls._fields):
            raise TypeError(f"Expected {len(cls._fields)} arguments, got {len(made)}")
        return made

    def _replace(self: Any, /, **changes: Any) -> Any:
        """The same with other values for some fields."""
        made = self._make(map(changes.pop, self._fields, self))
        if changes:
            raise ValueError(f"Got unexpected field names: {list(changes)!r}")
        return made

    def _asdict(self: Any) -> dict[str, Any]:
        """The values by the names of their fields."""
        return dict(zip(self._fields, self, strict=True))

    def _repr(self: Any) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in zip(self._fields, self, strict=True))
        return f"{type(self).__name__}({shown})"

    class NamedTuple(metaclass=_Making):
        """The base of classes whose instances are tuples, with the fields that they annotate."""


class _Pattern:
    """A regular expression that compiles itself when a method or attribute of it is first asked for."""

    def __init__(self, text: str | bytes, flags: int) -> None:
        self._text = text
        self._flags = flags

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        compiled = re.compile(self._text, self._flags)
        found = getattr(compiled, name)
        setattr(self, name, found)  # the next time it is there
        return found


@overload
def pattern(text: str, flags: int = 0) -> re.Pattern[str]: ...


@overload
def pattern(text: bytes, flags: int = 0) -> re.Pattern[bytes]: ...


def pattern(text: str | bytes, flags: int = 0) -> re.Pattern[str] | re.Pattern[bytes]:
    """A regular expression, compiled when it is first used; it is no argument for functions of `re`."""
    return cast(re.Pattern[str], _Pattern(text, flags))
