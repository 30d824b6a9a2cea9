"""Which names are one host, for a collector: a file in TOML, for certificates renewed under another name.

    [[host]]
    names = ["web1.example", "web1-2027.example"]

Invariants: a session is resumed by who began it; names of one host count as the same, and all other names are
their own; a name belongs to one host; a key that is not known, or of another type, is an error.
"""

from collections.abc import Mapping
from typing import Any, Final

from kwire import toml
from kwire.errors import KwireError

CURE: Final = 'write [[host]] and names = ["…", "…"]'


class Hosts:
    """The names of hosts: `canonical` gives the same text for names of one host."""

    __slots__ = ("_names",)

    def __init__(self, names: Mapping[str, str] | None = None) -> None:
        self._names = dict(names or {})

    def replace(self, others: "Hosts") -> None:
        """Know what others know, and nothing else."""
        self._names = dict(others._names)

    def canonical(self, identity: str) -> str:
        """What a name in a certificate stands for; another identity stands for itself."""
        return self._names.get(identity, identity)


def load(path: str) -> Hosts:
    """Read such a file. Raises KwireError, with what is wrong and where."""
    return read(toml.load(path, "read hosts"), path)


def read(top: Mapping[str, Any], path: str) -> Hosts:
    """What the content of a file means. Raises KwireError."""
    tables = top.get("host", [])
    if set(top) - {"host"} or not isinstance(tables, list):
        raise KwireError("read hosts", path, "it has something else than hosts", CURE)
    names: dict[str, str] = {}
    for number, table in enumerate(tables, 1):
        listed = table.get("names") if isinstance(table, dict) and set(table) == {"names"} else None
        if (
            not isinstance(listed, list)
            or not listed
            or not all(isinstance(one, str) and one for one in listed)
        ):
            raise KwireError("read hosts", path, f"host {number} is not as it should be", CURE)
        for name in listed:
            if name in names:
                raise KwireError("read hosts", path, f"{name} belongs to two hosts", "name it once")
            names[name] = listed[0]
    return Hosts(names)
