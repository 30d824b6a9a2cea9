"""The names of the probe language, for editors and type checkers: `from kwire.probe import comm, emit, pid`.

A probe knows these names without it. Invariants: every built-in, function and constant of the language is
here, from its tables, with its type in `probe.pyi`; outside of a probe a name says what it is. The module can
be called, too: `@kwire.probe("kprobe:tcp_connect")` is a decorator.
"""

import sys
from types import ModuleType

from kwire.hints import TYPE_CHECKING
from kwire.lang import outside

if TYPE_CHECKING:
    from kwire.live.probes import Decorator


class _Callable(ModuleType):
    """This module, which is a decorator as well."""

    def __call__(self, spec: str) -> "Decorator":
        """Attach a function to a whole probe spec, such as `kprobe:tcp_connect`; may be repeated."""
        from kwire.live.probes import probe

        return probe(spec)


_NAMES = outside.names()
globals().update(outside.constants() | _NAMES)
__all__ = sorted(_NAMES.keys() - outside.HIDING)
sys.modules[__name__].__class__ = _Callable
