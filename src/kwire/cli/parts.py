"""What a recording is asked for, in parts that can come and go by themselves: each probe spec, each function
of a file, functions that share maps together, a script.

Invariants: a part has a key, which is the same as long as what it asks for is the same, wherever it stands in
its file and whatever stands beside it; the filter is of all parts but scripts.
"""

import argparse
import ast
import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from kwire.cli import probes
from kwire.errors import KwireError
from kwire.lang.forms import Form

if TYPE_CHECKING:
    from kwire.lang import tree


class Parts(NamedTuple):
    """The keys of the parts; the probes, and for each the number of its part among `keys`. Of a script there
    is the key alone.
    """

    keys: tuple[str, ...]
    probes: "tuple[str | tree.Probe, ...]" = ()
    numbers: tuple[int, ...] = ()

    def only(self, keys: Iterable[str]) -> "Parts":
        """These parts of it."""
        wanted = [key for key in self.keys if key in set(keys)]
        pairs = [
            (probe, wanted.index(self.keys[number]))
            for probe, number in zip(self.probes, self.numbers, strict=True)
            if self.keys[number] in wanted
        ]
        return Parts(tuple(wanted), tuple(probe for probe, _ in pairs), tuple(number for _, number in pairs))


def parts(args: argparse.Namespace) -> Parts:
    """What the arguments ask for. Raises KwireError where a file cannot be read, or something is wrong."""
    if any(name.endswith(".bt") for name in args.probes):
        name, *words = args.probes
        return Parts((_key("script", name, probes.text_of(name), words),))
    found: list[tuple[str | tree.Probe, str]] = []
    for name in args.probes:
        if not probes.is_file(name):
            found.append((name, _key("spec", name, args.filter)))
            continue
        texts, read = probes.written_in(name), probes.read([name])
        said = [_said(one) for one in texts] if texts is not None else [_meant(one) for one in read]
        shared = _shared(texts) if texts is not None else [0] * len(read)
        together = [[said[at] for at, other in enumerate(shared) if other == group] for group in shared]
        found += [(probe, _key("function", name, together[at], args.filter)) for at, probe in enumerate(read)]
    keys = tuple(dict.fromkeys(key for _, key in found))
    numbers = tuple(keys.index(key) for _, key in found)
    return Parts(keys, tuple(probe for probe, _ in found), numbers)


def _key(*what: Any) -> str:
    return hashlib.blake2b(json.dumps(what).encode(), digest_size=12).hexdigest()


def _said(one: dict[str, Any]) -> str:
    """What a function says, and those that it calls: without comments, and wherever each of them stands."""
    functions = sorted(map(ast.dump, ast.parse("".join(one["text"])).body))
    return json.dumps({**one, "file": "", "text": functions}, sort_keys=True)


def _meant(value: Any) -> str:
    """The same of one that calls functions of other files: its tree, without places and texts."""
    from kwire.lang.tree import MapDeclaration, Source, Span

    def plain(value: Any) -> Any:
        if isinstance(value, Span | Source):
            return None
        if isinstance(value, MapDeclaration):
            value = value.replace(owner=None)
        parts = value.contents() if isinstance(value, Form) else value
        return [type(value).__name__, *map(plain, parts)] if isinstance(parts, tuple) else repr(value)

    return json.dumps(plain(value))


def _shared(texts: Sequence[dict[str, Any]]) -> list[int]:
    """For each function a number, which is the same for those that share a map, directly or by others."""
    groups = list(range(len(texts)))
    owners: dict[str, int] = {}
    for at, one in enumerate(texts):
        for said in one["maps"].values():
            other = groups[owners.setdefault(said["title"], at)]
            groups = [other if group == groups[at] else group for group in groups]
    return groups


def check_changeable(args: argparse.Namespace) -> None:
    """Raise KwireError where these arguments do not let probes change while they are recorded."""
    for name, option in (
        ("count", "-n counts the events of one recording"),
        ("metrics_maps", "--metrics-maps names maps of the probes that were there first"),
    ):
        if getattr(args, name) is not None:
            raise KwireError("change", "probes", option, "restart the agent")
