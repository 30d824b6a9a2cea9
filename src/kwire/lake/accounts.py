"""Accounts of a lake: what each capture that was added told of itself, and which of it is in the lake.

Invariants: an account is written whole (rename(2)), first with all files that may be there and not `done`,
then, when they are all there, with them and `done`; so whatever a killed process left is known, and made
again under the same names. Events of one capture file have one account, by the identity of that file (see
`kwire.capture.identity`); whatever may have some of them under another key is not added.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from kwire.capture import identity
from kwire.lake.directory import Lake, LakeError, reason, sync

FORMAT: Final = 1
SEVERAL: Final = "m-"
"""How the key of a capture begins that is not one file of one capture: merged, cut."""


def key_of(held: Sequence[identity.Identity]) -> str:
    """The key of a capture that holds these files' events."""
    if len(held) == 1 and held[0].part is None:
        return f"{held[0].id}-{held[0].number:04d}"
    told = "\n".join(sorted(one.comment() for one in held))
    return SEVERAL + hashlib.sha256(told.encode()).hexdigest()[:32]


def path_of(lake: Lake, key: str) -> str:
    """Where the account of a key is."""
    return os.path.join(lake.captures, f"{key}.json")


def read(lake: Lake, key: str) -> dict[str, Any] | None:
    """The account of a key; None where there is none. LakeError where it cannot be read."""
    path = path_of(lake, key)
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        cause = reason(error) if isinstance(error, OSError) else "it is damaged"
        raise LakeError("read", path, cause) from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        cause = "it is of another version of kwire, or damaged"
        raise LakeError("read", path, cause, "use the version that made this lake")
    return found


def write(lake: Lake, account: dict[str, Any]) -> None:
    """Write an account, in one step. In `Lake.change` only."""
    path = path_of(lake, account["key"])
    new = f"{path}.new"
    with open(new, "w", encoding="utf-8") as file:
        json.dump({"format": FORMAT, **account}, file)
    sync(new)
    os.rename(new, path)
    sync(lake.captures)


def all_of(lake: Lake, prefix: str = "") -> Iterator[dict[str, Any]]:
    """The accounts whose keys begin so, by key; those that are not done are among them. LakeError."""
    with contextlib.suppress(FileNotFoundError):
        for name in sorted(os.listdir(lake.captures)):
            if name.startswith(prefix) and name.endswith(".json"):
                found = read(lake, name[: -len(".json")])
                if found is not None:
                    yield found


def repeated(lake: Lake, key: str, held: Sequence[identity.Identity]) -> str:
    """What of these files is in the lake under another key, in words; empty where nothing is."""
    others = {one["key"]: one for one in all_of(lake, SEVERAL)}
    for one in held:
        alone = f"{one.id}-{one.number:04d}"
        found = read(lake, alone)
        if found is not None:
            others[alone] = found
    others.pop(key, None)
    for other in others.values():
        told = identity.held(other["held"])
        if identity.repeated([held, told]):
            return str(other["source"])
    return ""


def in_range(accounts: Iterable[dict[str, Any]], first: int, last: int) -> Iterator[dict[str, Any]]:
    """Those of captures with something between two moments (wall-clock ns), or of which that is not known."""
    for one in accounts:
        if one["begins"] is None or (one["begins"] <= last and one["ends"] >= first):
            yield one
