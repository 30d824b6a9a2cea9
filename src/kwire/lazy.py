"""What costs time at import, put off until it is used: most commands use little of what their modules hold.

`NamedTuple` is that of `typing`, made in a seventh of the time: the compiling of a `__new__` for each class
takes longest, and is done here for classes of which many are made. `IntEnum` is that of `enum`, for members
that are plain numbers, made in a tenth of the time. `pattern` is `re.compile`, done at the first use. All
only pay in modules that a command loads at its start, and harm in none.
"""

import sys

from kwire.hints import TYPE_CHECKING, Any, cast, overload

if TYPE_CHECKING:
    import re

ASCII, DOTALL = 256, 16
"""Flags of a `pattern`, those of `re`, which imports `enum`: planning most traces needs neither."""

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
            for at, field in enumerate(fields):
                space[field] = _tuplegetter(at, "")
            space |= _COMMON
            space["__match_args__"] = space["_fields"] = fields
            space["_field_defaults"] = defaults
            space.setdefault("__repr__", _repr)
            return type(name, (tuple,), space)

    FEW = 30
    """So many tuples of a class are made without a compiled `__new__`: most classes have no more of them in a
    command, and to compile one takes as long as this many calls of it save.
    """

    _counts: dict[type, int] = {}

    def _first(cls: type, /, *values: Any, **named: Any) -> Any:
        """`__new__` of a class that has made few yet; then it compiles the one for all others, and also where
        the arguments are wrong, for its errors.
        """
        own = next(base for base in cls.__mro__ if "_fields" in base.__dict__)
        count = _counts[own] = _counts.get(own, 0) + 1
        if count <= FEW:
            rest = own._fields[len(values) :]
            if not rest and not named and len(values) == len(own._fields):
                return tuple.__new__(cls, values)
            known = own._field_defaults | named
            if rest and named.keys() <= set(rest) and known.keys() >= set(rest):
                return tuple.__new__(cls, (*values, *(known[field] for field in rest)))
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

    _COMMON = {
        "__slots__": (),
        "__new__": _first,
        "_make": classmethod(_make),
        "_replace": _replace,
        "_asdict": _asdict,
        "__getnewargs__": _values,
    }

    class NamedTuple(metaclass=_Making):
        """The base of classes whose instances are tuples, with the fields that they annotate."""


if TYPE_CHECKING:
    from enum import IntEnum as IntEnum
else:

    class _Numbers(type):
        """Turns a class whose attributes are numbers into one of these numbers, which know their names."""

        def __new__(cls, name: str, bases: tuple[type, ...], space: dict[str, Any]) -> type:
            if not bases:
                return super().__new__(cls, name, (int,), space)
            numbers = {key: value for key, value in space.items() if type(value) is int and key[0] != "_"}
            made = super().__new__(cls, name, bases, {k: v for k, v in space.items() if k not in numbers})
            by_value = made._by_value = {}
            made.__members__ = {}
            for key, value in numbers.items():
                one = by_value.get(value)  # where there is one, the name is another one for it
                if one is None:
                    one = by_value[value] = int.__new__(made, value)
                    one.name = key
                made.__members__[key] = one
                setattr(made, key, one)
            return made

        def __call__(cls, value: int) -> Any:
            try:
                return cls._by_value[value]
            except (KeyError, TypeError):
                raise ValueError(f"{value!r} is not a valid {cls.__qualname__}") from None

        def __getitem__(cls, name: str) -> Any:
            return cls.__members__[name]

        def __iter__(cls) -> Any:
            return iter(cls._by_value.values())

        def __len__(cls) -> int:
            return len(cls._by_value)

        def __contains__(cls, value: object) -> bool:
            return value in cls._by_value

    class IntEnum(metaclass=_Numbers):
        """The base of classes whose attributes are numbers with names."""

        @property
        def value(self) -> int:
            """The plain number."""
            return int(self)

        def __repr__(self) -> str:
            return f"<{type(self).__name__}.{self.name}: {int(self)}>"

        __str__ = int.__repr__

        def __reduce_ex__(self, protocol: int) -> Any:
            return type(self), (int(self),)


class _Pattern:
    """A regular expression that compiles itself when a method or attribute of it is first asked for."""

    def __init__(self, text: str | bytes, flags: int) -> None:
        self._text = text
        self._flags = flags

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        import re

        compiled = re.compile(self._text, self._flags)
        found = getattr(compiled, name)
        setattr(self, name, found)  # the next time it is there
        return found


@overload
def pattern(text: str, flags: int = 0) -> "re.Pattern[str]": ...


@overload
def pattern(text: bytes, flags: int = 0) -> "re.Pattern[bytes]": ...


def pattern(text: str | bytes, flags: int = 0) -> "re.Pattern[str] | re.Pattern[bytes]":
    """A regular expression, compiled when it is first used; it is no argument for functions of `re`."""
    return cast("re.Pattern[str]", _Pattern(text, flags))
