"""Arguments of the Python API: each is what it should be, or a KwireError says which is not, and why.

`ARGUMENTS` is one table for all functions: an argument means the same wherever it has the same name.
Invariants: what is checked here never gives a TypeError further in; None is checked by who allows it; an
integer is what Python takes for an index, so numpy's are, and a truth value is none.
"""

import os
from collections.abc import Callable, Iterable

from kwire.errors import KwireError
from kwire.hints import Any, Final
from kwire.lazy import NamedTuple


class ArgumentError(KwireError):
    """An argument that is of the wrong type, or out of range."""


WRONG: Final = (TypeError, AttributeError, OverflowError)
"""What reading a value of a wrong type raises."""


class ArgumentType(NamedTuple):
    """One kind of argument: what it should be, in words, and the function that reads it.

    `read` gives the value in its usual form and raises TypeError or ValueError, with the cause in words.
    """

    wanted: str
    read: Callable[[Any], Any]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return str(value)


def _path(value: Any) -> str:
    if not isinstance(value, str | os.PathLike):
        raise TypeError
    path = os.fspath(value)
    if not isinstance(path, str):
        raise TypeError
    if "\0" in path:
        raise ValueError("no name of a file has a NUL in it")
    return path


def _integer(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError
    return int(value.__index__())


def _least(value: Any) -> int:
    number = _integer(value)
    if number < 0:
        raise ValueError("it is negative")
    return number


def _seconds(value: Any) -> float:
    if isinstance(value, bool | str | bytes):
        raise TypeError
    number = float(value)
    if not number >= 0:
        raise ValueError("it is negative" if number < 0 else "it is no number")
    return number


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _each(value: Any, read: Callable[[Any], Any]) -> list[Any]:
    if isinstance(value, str | bytes | dict) or not isinstance(value, Iterable):
        raise TypeError
    made = []
    for one in value:
        try:
            made.append(read(one))
        except WRONG:
            raise ValueError(f"{_short(one)} in it is {_a(one)}") from None
    if not made:
        raise ValueError("it is empty")
    return made


def _word(value: Any) -> str:
    if "\0" in _text(value):
        raise ValueError("no word of a command has a NUL in it")
    return str(value)


def _command(value: Any) -> "str | list[str]":
    return _word(value) if isinstance(value, str) else _each(value, _word)


def _unicode(value: Any) -> str:
    try:
        _text(value).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the character {value[error.start]!a} has no bytes in UTF-8") from None
    return str(value)


def _data(value: Any) -> bytes:
    if isinstance(value, int | str):
        raise TypeError
    return bytes(memoryview(value))


def _address(value: Any) -> int:
    number = _least(value)
    if number >= 1 << 64:
        raise ValueError("it does not fit into 64 bits")
    return number


def _pids(value: Any) -> list[int]:
    return _each(value, _integer) if isinstance(value, Iterable) else [_integer(value)]


_TEXT: Final = ArgumentType("a text", _text)
_PATH: Final = ArgumentType("a path: a text, or a pathlib.Path", _path)
_WALL: Final = ArgumentType("an integer: nanoseconds since 1970", _integer)

ARGUMENTS: Final[dict[str, ArgumentType]] = {
    "filter": ArgumentType('a text: an expression, as in "pid == 42"', _text),
    "where": ArgumentType('a text: a condition, as in "pid == 42"', _text),
    "probe": ArgumentType('a text: a glob over probe specs, as in "kprobe:tcp_*"', _text),
    "pattern": ArgumentType('a text: a probe spec, with wildcards or without, as in "kprobe:tcp_*"', _text),
    "spec": ArgumentType('a text: a probe spec, as in "kprobe:tcp_connect"', _text),
    "target": ArgumentType('a text: where to attach, as in "tcp_connect"', _text),
    "command": ArgumentType('a text, as in "ls -l", or a list of texts, as in ["ls", "-l"]', _command),
    "pid": ArgumentType("an integer, or a list of them; leave it out for all processes", _pids),
    "seconds": ArgumentType("a number of seconds; leave it out for no limit", _seconds),
    "count": ArgumentType("an integer; leave it out for no limit", _least),
    "buffer": ArgumentType("an integer: bytes", _least),
    "first": _WALL,
    "last": _WALL,
    "sql": ArgumentType("a text: an SQL query", _unicode),
    "path": _PATH,
    "file": _PATH,
    "host": ArgumentType('a text: a name or an address, as in "web1.example"', _text),
    "cert": _PATH,
    "key": _PATH,
    "ca": _PATH,
    "script": ArgumentType("a text: a script in the bpftrace language", _text),
    "unsafe": ArgumentType("True or False", _flag),
    "insecure": ArgumentType("True or False", _flag),
    "type": ArgumentType('a text: a C type, as in "struct sock"', _text),
    "btf": _PATH,
    "format": ArgumentType("a text: of a tracepoint's format file", _text),
    "retval": ArgumentType("an integer", _integer),
    "data": ArgumentType("bytes", _data),
    "address": ArgumentType("an integer", _address),
}
"""Name of an argument → its kind."""


def checked(operation: str, **given: Any) -> tuple[Any, ...]:
    """The arguments in their order, each in its usual form; None stays None. Raises ArgumentError."""
    return tuple(None if value is None else _checked(operation, name, value) for name, value in given.items())


def needed(operation: str, **given: Any) -> tuple[Any, ...]:
    """The same of arguments that must be there."""
    return tuple(_checked(operation, name, value) for name, value in given.items())


def _checked(operation: str, name: str, value: Any) -> Any:
    kind = ARGUMENTS[name]
    try:
        return kind.read(value)
    except ValueError as error:
        cause = " ".join(str(error).split())  # it may be the value's own
    except WRONG:
        cause = f"it is {_a(value)}"
    raise ArgumentError(operation, f"{name}={_short(value)}", cause, f"give {kind.wanted}")


def _a(value: Any) -> str:
    """The type of what was given, with its article."""
    what = type(value).__name__
    return f"{'an' if what[0] in 'aeiouAEIOU' else 'a'} {what}"


def _short(value: Any) -> str:
    """What was given, on one line."""
    try:
        text = repr(value)
    except Exception:  # its own, whatever that does
        text = f"<{type(value).__name__}>"
    text = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
    return text if len(text) <= 60 else f"{text[:59]}…"


def module(name: str, operation: str) -> Any:
    """A module of somebody else's that only this operation needs. KwireError where it is not installed."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise KwireError(operation, "", f"{name} is not installed", f"pip install {name}") from None
