"""What the clients of an agent may do: a policy file in TOML, or nothing but the probes the agent lists.

    [[allow]]
    who = ["ops-*", "uid:1000"]
    probes = ["tracepoint:syscalls:*", "kprobe:tcp_*"]
    programs = true
    rate = 100_000

Invariants: the table `KEYS` is what a rule may say; what is not allowed is forbidden; the first rule that
names a client counts, and the probes on the agent's command line are for all; a key that is not known, or of
another type, is an error when the file is read, so that a slip of the pen opens nothing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import zlib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kwire import toml
from kwire.errors import KwireError
from kwire.kernel.syscall import Fd
from kwire.kinds import TRACE
from kwire.wire.keyed import FLAG, MISSING, NEEDED, Key, Misfit, integer, listing, read, text
from kwire.wire.schema import Schema

if TYPE_CHECKING:
    from kwire.live.program_sources import Wanted

ANYONE: Final = "anyone"
UID: Final = "uid:"
UNIX: Final = "unix:"

MOST: Final = 1 << 62
"""No limit."""

MEMORY_LEAST: Final = 1 << 20

PLACES: Final = 1 << 20
"""The most traces at a time."""


class PolicyError(KwireError):
    """The policy does not allow it, or the policy file cannot be used."""


_TEXTS: Final = listing(text(1 << 20, least=1), 'a list of texts, ["…", "…"]')
_NUMBER: Final = integer(MOST, "a whole number, more than 0", 1)

KEYS: Final[dict[str, Key]] = {
    "who": Key(_TEXTS, 'names in certificates (`*` allowed), `uid:N` of a Unix socket, or `"anyone"`'),
    "probes": Key(_TEXTS, "what may be probed: `kind:target`, `*` allowed", ()),
    "programs": Key(FLAG, "expressions, filters and Python probes of the client's own", False),
    "commands": Key(_TEXTS, "what `-c` may run, as typed, `*` allowed", ()),
    "user": Key(
        text(1 << 20, "a text", 1),
        "the user that these commands run as",
        "nobody",
    ),
    "pids": Key(FLAG, "processes may be chosen (`-p`)", True),
    "seconds": Key(_NUMBER, "the longest a trace may take", MOST),
    "rate": Key(_NUMBER, "events a second; what goes beyond is counted LOST (RATE_LIMIT)", MOST),
    "memory": Key(_NUMBER, "bytes: half for ring buffers, half for what is not acknowledged", 128 << 20),
    "traces": Key(
        _NUMBER, "traces at a time of all clients that the rule names; of each client that no rule names", 4
    ),
    "targets": Key(_NUMBER, "attach points of one trace", 1000),
}
"""What a rule may say."""


class Slots(Fd):
    """A number of places for traces. A process takes one, and the kernel frees it when the process ends.

    Where `each` is set, every client has that many places; otherwise all clients that a rule names share
    them. A place is a lock on one byte of an empty file.
    """

    __slots__ = ("_count", "_each")

    def __init__(self, count: int, each: bool = False) -> None:
        super().__init__(os.memfd_create("kwire-traces"))
        self._count = min(count, PLACES)
        self._each = each

    def take(self, client: str) -> bool:
        """Take a place for the calling process; False where all are taken. One a process."""
        base = zlib.crc32(client.encode("utf-8", "surrogatepass")) * PLACES if self._each else 0
        for place in range(base, base + self._count):
            try:
                fcntl.lockf(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise
            else:
                return True
        return False


class Grant(NamedTuple):
    """What one client may do. `listed`: the specs on the agent's command line; `client`: who it is, where
    each has places of its own; the rest as in `KEYS`.
    """

    listed: tuple[str, ...]
    probes: tuple[str, ...]
    programs: bool
    commands: tuple[str, ...]
    user: str
    pids: bool
    seconds: int
    rate: int
    memory: int
    traces: int
    targets: int
    slots: Slots | None = None
    client: str = ""

    def same(self, other: Grant | None, listed: bool) -> bool:
        """Whether another grant allows the same; `listed`: the specs on the command line count, too."""
        if other is None:
            return False
        own = self._replace(slots=None, client="", listed=self.listed if listed else ())
        return own == other._replace(slots=None, client="", listed=other.listed if listed else ())

    @property
    def send_queue(self) -> int:
        """Bytes for what was sent and is not acknowledged."""
        return self.memory // 2

    def buffer(self, wanted: int | None, cpus: int) -> int | None:
        """Bytes of each CPU's ring: what is wanted, or (None) the default, where that is not too much."""
        from kwire.live.ground import MIN_BUFFER, default_buffer, ring_size

        most = max(MIN_BUFFER, 1 << (self.memory // 2 // cpus).bit_length() - 1)
        if wanted is None:
            return min(default_buffer(), most)
        return min(ring_size(wanted), most)

    def check(self, wanted: Wanted) -> None:
        """Raise PolicyError unless this may be traced, as far as is known before wildcards are expanded."""
        for asked in wanted.asked:
            if asked.spec and asked.spec in self.listed:
                continue
            if not self._open(asked.place):
                raise _refusal(
                    asked.place, f"probes such as {self.probes[0]}" if self.probes else self._list()
                )
            if asked.program and not self.programs:
                raise _refusal(asked.spec or "a probe function", "programs")
        if wanted.texts.filter is not None and not self.programs:
            raise _refusal("a filter", "programs")

    def check_schemas(self, schemas: Sequence[Schema], wanted: Wanted, attached: int = 0) -> None:
        """Raise PolicyError unless what was asked for came to something allowed, wildcards expanded.
        `attached`: as many the trace has already.
        """
        if attached + len(schemas) > self.targets:
            shapes = any(schema.probe != schema.spec for schema in schemas)
            each = ", each shape of event counted" if shapes else ""
            more = f" beside {attached} of the trace" if attached else ""
            cause = f"the agent allows {self.targets} attach points, these are {len(schemas)}{more}{each}"
            raise PolicyError("trace", "", cause, "narrow the wildcards")
        listed = [asked.place for asked in wanted.asked if asked.spec and asked.spec in self.listed]
        for schema in schemas:
            if not self._open(schema.spec) and not _any(schema.spec, listed):
                raise _refusal(schema.spec, f"more than {', '.join(self.probes)}")

    def check_command(self, words: Sequence[str]) -> None:
        """Raise PolicyError unless this command may be run."""
        from shlex import join

        if not _any(join(words), self.commands):
            raise _refusal(f"command {words[0]!r}", "commands")

    def check_pids(self) -> None:
        """Raise PolicyError unless processes may be chosen."""
        if not self.pids:
            raise _refusal("processes", "choosing processes")

    def take(self) -> None:
        """Count one more trace, until the calling process ends; PolicyError where that is too many."""
        if self.slots is not None and not self.slots.take(self.client):
            cause = f"as many traces as the agent allows, {self.traces}, are running"
            raise PolicyError("trace", "", cause, "wait for one to end")

    def shows(self, place: str) -> bool:
        """Whether this `kind:target` is told to one who asks what there is."""
        return self._open(place) or place in self.listed

    def _open(self, place: str) -> bool:
        """Whether this `kind:target` may be probed; moments of the trace itself are nobody else's."""
        return place in TRACE or _any(place, self.probes)

    def _list(self) -> str:
        return f"probes; it has {', '.join(self.listed)}" if self.listed else "probes"


def _any(text: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in patterns)


def _refusal(subject: str, what: str) -> PolicyError:
    return PolicyError(
        "trace", subject, "the agent's policy does not allow it", f"it would have to allow {what}"
    )


class _Rule(NamedTuple):
    who: tuple[str, ...]
    grant: Grant

    def names(self, identity: str, local: bool) -> bool:
        return any(_matches(pattern, identity, local) for pattern in self.who)


def _matches(pattern: str, identity: str, local: bool) -> bool:
    if pattern == ANYONE:
        return True
    if pattern.startswith(UID):  # only the kernel says who is at the other end of a Unix socket
        return local and identity == pattern
    return not local and bool(identity) and fnmatchcase(identity, pattern)


class Policy:
    """The rules of an agent. `listed`: the probes on its command line; `places`: there are some for traces,
    which only who starts these needs.
    """

    __slots__ = ("_default", "_rules", "listed")

    def __init__(
        self, listed: Sequence[str] = (), rules: Sequence[_Rule] = (), *, places: bool = True
    ) -> None:
        self.listed = tuple(listed)
        self._rules = tuple(rules)
        values = {name: key.default for name, key in KEYS.items() if name != "who"}
        slots = Slots(values["traces"], each=True) if places else None
        self._default = Grant(listed=self.listed, **values, slots=slots)

    def grant(self, identity: str, address: str) -> Grant | None:
        """What the client of this identity at this address may do; None: nothing at all.

        `identity`: the name in its certificate, `uid:N` on a Unix socket, or nothing.
        """
        local = address.startswith(UNIX)
        for rule in self._rules:
            if rule.names(identity, local):
                return rule.grant
        return self._default if self.listed else None

    def follow(self, before: Policy) -> None:
        """Take the place of another policy: where a rule grants as many traces to the same clients as before,
        those that run count.
        """
        slots = {(rule.who, rule.grant.traces): rule.grant.slots for rule in before._rules}
        self._rules = tuple(
            rule._replace(grant=rule.grant._replace(slots=slots.get((rule.who, rule.grant.traces))))
            if (rule.who, rule.grant.traces) in slots
            else rule
            for rule in self._rules
        )
        self._default = self._default._replace(slots=before._default.slots)


def load(path: str, listed: Sequence[str] = ()) -> Policy:
    """Read a policy file. Raises PolicyError, with what is wrong and where."""
    return rules(read_file(path), path, listed)


def read_file(path: str) -> dict[str, Any]:
    """The content of a policy file, as it is written. Raises PolicyError."""
    return toml.load(path, "read policy", PolicyError)


def rules(top: Mapping[str, Any], path: str, listed: Sequence[str] = (), *, places: bool = True) -> Policy:
    """The policy that the content of a file means; `places`: as `Policy` takes it. Raises PolicyError."""
    for name in top:
        if name != "allow":
            raise PolicyError("read policy", path, f"there is no {name!r}", "write [[allow]] rules")
    tables = top.get("allow", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise PolicyError("read policy", path, "allow is no list of rules", "write [[allow]]")
    found = [_rule(table, number, path, listed, places) for number, table in enumerate(tables, 1)]
    return Policy(listed, found, places=places)


def _rule(table: Mapping[str, Any], number: int, path: str, listed: Sequence[str], places: bool) -> _Rule:
    where = f"rule {number}"

    def wrong(one: Misfit) -> PolicyError:
        if one.key is None:
            from difflib import get_close_matches

            near = get_close_matches(one.name.strip("'"), KEYS, 1)
            cure = f"did you mean {near[0]}?" if near else f"there are {', '.join(KEYS)}"
            return PolicyError("read policy", path, f"{where} has a key {one.name}", cure)
        if one.found == MISSING:
            cure = f"write {one.name}, {one.key.kind.words}: {one.key.meaning}"
            return PolicyError("read policy", path, f"{where} has no {one.name}", cure)
        cause = f"{where}: {one.name} is not as it should be"
        return PolicyError("read policy", path, cause, f"write {one.key.kind.words}")

    taken = read(table, KEYS, wrong, strict=True)
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in taken.items()
    }
    who = values.pop("who")
    for one in who:
        if one.startswith(UID) and not one.removeprefix(UID).isdecimal():
            raise PolicyError("read policy", path, f"{where}: {one!r} is no user", "write uid:NUMBER")
    if values["memory"] < MEMORY_LEAST:
        raise PolicyError("read policy", path, f"{where}: memory is too little", f"at least {MEMORY_LEAST}")
    slots = Slots(values["traces"]) if places else None
    return _Rule(who, Grant(listed=tuple(listed), **values, slots=slots))


def markdown() -> str:
    """The table of keys for the documentation."""
    lines = ["| key | value | where not written | meaning |", "|---|---|---|---|"]
    for name, key in KEYS.items():
        default = "must be written" if key.default is NEEDED else _shown(key.default)
        lines.append(f"| `{name}` | {key.kind.words} | {default} | {key.meaning} |")
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    if value == ():
        return "none"
    if value == MOST:
        return "no limit"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:,}" if isinstance(value, int) else str(value)
