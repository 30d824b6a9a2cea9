"""The names of the probe language where there is no probe: what `kwire.probe` gives to Python.

Invariants: each name is an object that says what it is, to people (`help`, completion) and to programs that
use it: a KwireError; what there is comes from the tables of built-ins, and so does the file of types (`stub`)
that type checkers and editors read.
"""

import builtins as python
import os

from kwire.errors import KwireError
from kwire.hints import Any, NoReturn
from kwire.lang import builtins


class OutsideError(KwireError, AttributeError):
    """A name of the probe language was used outside of a probe."""


class Name:
    """A name of the probe language. It means something inside of probes only, which Python does not run."""

    def __init__(self, name: str, form: str, doc: str) -> None:
        self.__name__ = name
        self.__doc__ = f"{form}: {doc}\n\nOf the probe language: it has a meaning inside of probes only."
        self._form, self._doc = form, doc

    def __repr__(self) -> str:
        return f"<{self._form} of the probe language: {self._doc}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # Python asks for these itself
            raise AttributeError(name)
        self._refuse()

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise OutsideError(
            "use",
            self.__name__,
            f"it is a name of the probe language ({self._doc}), and Python runs no probes",
            "use it in a function under @kwire.kprobe and its like",
        )

    __call__ = __getitem__ = __setitem__ = __delitem__ = __iter__ = __contains__ = __len__ = _refuse
    __bool__ = __int__ = __float__ = __index__ = __neg__ = __pos__ = __abs__ = __invert__ = _refuse
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __pow__ = __rpow__ = _refuse
    __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = _refuse
    __and__ = __rand__ = __or__ = __ror__ = __xor__ = __rxor__ = _refuse
    __lshift__ = __rlshift__ = __rshift__ = __rrshift__ = _refuse
    __hash__ = object.__hash__


def _table() -> dict[str, tuple[str, str, str]]:
    """All names: how each is written, what it is, and what type checkers take it for."""
    found = {one.name: (one.name, one.doc, one.hint) for one in builtins.BY_NAME.values()}
    plain = "an argument as a plain number, without its type"
    found |= {name: (name, plain, "int") for name in builtins.NUMBERED}
    found |= {one.name: (one.form, one.doc, one.hint) for one in builtins.FUNCTIONS}
    return found


def names() -> dict[str, Name]:
    """Every name of the language but the constants, as what it is in Python."""
    return {name: Name(name, form, doc) for name, (form, doc, _) in _table().items()}


def constants() -> dict[str, int]:
    """The constants of Linux on this machine, which are numbers in Python, too."""
    from kwire.wire import names as linux

    return dict(linux.constants(os.uname().machine))


TITLE = "The names of the probe language, typed: `from kwire.probe import comm, emit, pid`."

HIDING = frozenset(dir(python)) & {one.name for one in builtins.FUNCTIONS}
"""Functions of the language that are called like Python's own: an `import *` leaves them out."""

HEAD = """\
# Made by scripts/probe_types.py of the tables of built-ins.
from builtins import bool as _bool
from builtins import bytes as _bytes
from builtins import int as _int
from builtins import str as _str
from typing import Any as _Any
"""


def stub() -> str:
    """The text of the file of types, `kwire/probe.pyi`."""
    import re

    from kwire.wire import names as linux

    own = re.compile(r"\b(Any|bool|bytes|int|str)\b")  # names that mean something else in that file
    lines = [f'"""{TITLE}"""', "", HEAD]
    for name, (form, doc, hint) in _table().items():
        typed = own.sub(r"_\1", hint)
        told = f"{doc[0].upper()}{doc[1:]}."
        if name in builtins.FUNCTION:
            lines += [f"def {name}{typed}:", f'    """`{form}`: {doc}."""', ""]
        else:
            lines += [f"{name}: {typed}", f'"""{told}"""', ""]
    lines += [f"{name}: _int" for name in sorted(linux.constants("x86_64"))]
    return "\n".join(lines) + "\n"
