"""`kwire list`: what can be probed, with typed arguments, and kernel types as C with offsets.

Invariants: what is listed is what was asked for, one line (or object) each on standard output; that something
could not be listed or cannot be attached here is one line on standard error; a name that does not exist is an
error with the nearest names.
"""

import argparse
import fnmatch
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from kwire.btf.store import Kernel, load_kernel
from kwire.cli import listtypes
from kwire.cli.lines import say
from kwire.cli.tracing import add_remote_arguments
from kwire.errors import KwireError
from kwire.hints import Any, Final
from kwire.kernel import catalog, features
from kwire.kernel.syscall import KernelError
from kwire.kernel.targets import WILDCARD, CatalogError, Target
from kwire.kinds import FUNCTIONS, KINDS, LISTED, NANOSECONDS, USER, file_and_name
from kwire.lang import attach, tree
from kwire.lazy import pattern as expression
from kwire.perfevents import COUNTER_ALIASES
from kwire.view.text import safe

if TYPE_CHECKING:
    from kwire.agent.host import Host

POINTER: Final = expression(r"(\w) (\*+)(?=\w+$)")
"""The stars of a declaration that belong to its type."""

HELP = "list probes with their arguments, and kernel types as C"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.description = (
        "List what can be probed: 'kprobe:tcp_*', 'tracepoint:sched:*', 'uprobe:/bin/bash:*', 'tcp_*' (all "
        "kinds), nothing (all that the kernel has). Or a kernel type as C with offsets: 'struct tcp_sock', "
        "'union x', 'enum y', 'typedef z'. With -v, probes come with their typed arguments."
    )
    parser.add_argument("pattern", nargs="*", help="a probe or a type, with the wildcards * ? [...]")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    add_remote_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """List what the patterns name; 0 when each names something."""
    patterns: list[str] = args.pattern or ["*"]
    if args.host is not None:
        return _remote(args, patterns)
    if patterns[0] in listtypes.KINDS and len(patterns) == 2:
        patterns = [" ".join(patterns)]  # struct tcp_sock, without the quotes
    listing = Listing(bool(args.json), bool(args.verbose))
    for pattern in patterns:
        listing.write(" ".join(pattern.split()))
    return 0


MOST = 4000
"""Names that an agent gives at once."""


def _remote(args: argparse.Namespace, patterns: list[str]) -> int:
    """List what the agent of another machine lets us probe there."""
    from kwire.agent.host import Host
    from kwire.cli.network import tls_options

    if patterns[0] in listtypes.KINDS or any(" " in pattern for pattern in patterns):
        raise KwireError("list", patterns[0], "types are those of this machine", "leave -H out")
    host = Host(args.host, tls_options(args), args.insecure)
    for pattern in patterns:
        names = _named_there(host, pattern)
        for name in names:
            kind, _, rest = name.partition(":")
            group, _, last = rest.rpartition(":")
            text = name
            if args.json:
                import json

                text = json.dumps({"probe": name, "kind": kind, "group": group, "name": last})
            sys.stdout.write(safe(text) + "\n")
        if len(names) >= MOST:
            sys.stdout.flush()
            say(f"note: the agent names {MOST:,} probes at most; narrow {pattern}")
    return 0


def _named_there(host: "Host", pattern: str) -> list[str]:
    """What the agent names for a pattern; without a kind, of every kind that it has."""
    if ":" in pattern and not pattern.startswith("*:"):
        return host.probes(pattern)
    name = pattern.removeprefix("*:")
    found: list[str] = []
    reason: KwireError | None = None
    for kind in LISTED:
        try:
            found += host.probes(f"{kind}:*:{name}" if kind == "tracepoint" else f"{kind}:{name}")
        except KwireError as error:
            reason = reason or error
    if not found and reason is not None:
        raise reason
    return found


class Listing:
    """One run of the verb: how it writes, and the kernel's types, opened when first needed."""

    __slots__ = ("_debug", "_json", "_kernel", "_noted", "_pids", "_read", "_scripts", "_verbose")

    def __init__(
        self,
        json: bool,
        verbose: bool,
        pids: Sequence[int] = (),
        debug: Sequence[str] = (),
        *,
        scripts: bool = False,
    ) -> None:
        """`pids`: processes that know what names of files mean; `debug`: folders in which files with
        debugging information are looked for, too; `scripts`: as bpftrace lists them: counters under
        all their names, with the colon before the number of events; what is the kernel's own, of `vmlinux`.
        """
        self._scripts = scripts
        self._pids = pids
        self._debug = debug
        self._read: dict[str, Any] = {}  # the debugging information of programs, by the file
        self._json = json
        self._verbose = verbose
        self._kernel: Kernel | None = None
        self._noted: set[str] = set()

    def write(self, pattern: str) -> None:
        """List what one pattern names, or several with commas between. Raises KwireError where one names
        nothing.
        """
        for one in pattern.split(","):
            self._write(one.strip())

    def _write(self, pattern: str) -> None:
        if pattern.partition(" ")[0] in listtypes.KINDS:
            self._types(pattern)
            return
        kind, colon, rest = pattern.partition(":")
        if colon and kind != "*" and WILDCARD.search(kind):
            self._everywhere(rest or "*", [one for one in KINDS if fnmatch.fnmatchcase(one, kind.lower())])
            return
        if (colon and kind != "*") or kind in KINDS:
            name = attach.kind_of(tree.Source("PATTERN", pattern), kind)
            self._probes(self._expand(name, rest or "*"))
            self._note(name)
            return
        self._everywhere((rest if colon else pattern) or "*", KINDS)

    # --- probes ---

    def _expand(self, kind: str, pattern: str) -> list[Target]:
        if KINDS[kind].place == "timer":  # of each unit there are any number
            units = (*NANOSECONDS, "hz")
            chosen = [one for one in units if fnmatch.fnmatchcase(one, pattern.partition(":")[0])]
            return [Target(kind, one, "") for one in sorted(chosen)] or catalog.expand(kind, pattern)
        if KINDS[kind].place == "trace":
            return [Target(kind, "", "")]
        if KINDS[kind].place == "counter":
            pattern = pattern.partition(":")[0]  # with any number of events
        if KINDS[kind].place == "user function":
            from kwire.live.program_types import at_line

            file, _, name = file_and_name(pattern)
            found = at_line(kind, file, name, self._pids, self._debug)
            if found is not None:
                return found
        if kind not in FUNCTIONS:
            return catalog.expand(kind, pattern, self._pids)
        try:
            if WILDCARD.search(pattern):
                return catalog.expand(kind, pattern)
            try:
                return catalog.expand(kind, _looked_up(pattern))
            except CatalogError:
                raise catalog.missing(kind, pattern) from None
        except KernelError as error:
            # Neither ftrace nor the symbol table can be read: BTF names nearly all functions, too.
            self._say(f"{error}; listing the functions in BTF")
            return listtypes.functions(self._types_of_kernel(), kind, pattern)

    def _everywhere(self, pattern: str, kinds: Iterable[str]) -> None:
        """Probes of all these kinds, and a type that has just this name."""
        written = 0
        refused: list[KwireError] = []
        for kind in kinds:
            place = KINDS[kind].place
            if place in ("trace", "memory") or (place == "timer" and pattern.strip("*:")):
                continue
            if kind in USER and ":" not in pattern and not self._pids:  # which file?
                continue
            answer = features.probe(KINDS[kind].feature)
            if answer.answer != "yes" and place == "objects":
                continue
            if answer.answer == "no":
                if kind not in FUNCTIONS:  # which people miss here
                    continue
                self._note(kind)
                # Everything is everything that works here; a name is to be found even if nothing does.
                if kind != "kprobe" or not pattern.strip("*"):
                    continue
            try:
                # Only a pattern with a colon says something about the category of a tracepoint.
                group = "" if kind != "tracepoint" or ":" in pattern else "*:"
                if kind in USER and ":" not in pattern:
                    group = "*:"
                targets = self._expand(kind, group + pattern)
            except CatalogError:
                continue
            except KwireError as error:
                refused.append(error)
                continue
            written += len(targets)
            self._probes(targets)
        if not WILDCARD.search(pattern) and ":" not in pattern:
            for text in listtypes.named(self._types_of_kernel(), pattern):
                self._print({"type": text}, text)
                written += 1
        if not written and refused:
            raise refused[0]
        for each in refused:
            self._say(str(each))
        if not written:
            near = [str(each) for kind in LISTED for each in self._near(kind, pattern)]
            raise CatalogError("*", pattern, "no probe and no type of that name", near[:3])

    def _near(self, kind: str, pattern: str) -> list[str]:
        if WILDCARD.search(pattern) or kind not in ("tracepoint", "kprobe"):
            return []
        return [f"{kind}:{name}" for name in catalog.suggestions(kind, pattern)]

    def _probes(self, targets: list[Target]) -> None:
        for target in targets:
            record: dict[str, object] = {
                "probe": str(target),
                "kind": target.kind,
                "group": target.group,
                "name": target.name,
            }
            if self._scripts and KINDS[target.kind].place == "counter" and not self._json:
                names = [alias for alias, name in COUNTER_ALIASES.items() if name == target.name]
                self._print(record, "\n".join(f"{target.kind}:{name}:" for name in (target.name, *names)))
                continue
            text = str(target)
            if self._scripts and target.kind in ("fentry", "fexit") and not target.group:
                text = f"{target.kind}:vmlinux:{target.name}"
            if not self._verbose:
                self._print(record, text)
                continue
            from kwire.cli.signatures import signature

            try:
                arguments, returns = signature(target, self._types_of_kernel, self._debug, self._read)
            except KwireError as error:
                self._print(
                    record | {"unknown": error.cause}, f"{text}\n    arguments not known: {error.cause}"
                )
                continue
            record["args"] = [argument._asdict() for argument in arguments]
            lines = [self._declared(target.kind, argument.text) for argument in arguments]
            if returns:
                record["returns"] = returns.type
                lines.append(self._declared(target.kind, returns.text))
            self._print(record, "\n    ".join([text, *lines]))

    def _declared(self, kind: str, text: str) -> str:
        """An argument; of a function with the star at the type where bpftrace would list it so."""
        return POINTER.sub(r"\1\2 ", text) if self._scripts and kind != "tracepoint" else text

    # --- types ---

    def _types(self, pattern: str) -> None:
        for text, record in listtypes.types(self._types_of_kernel(), pattern, self._verbose, self._json):
            module = f"{record.get('module') or 'vmlinux'}: " if self._scripts and " {" in text else ""
            self._print(record, module + text)

    def _types_of_kernel(self) -> Kernel:
        if self._kernel is None:
            self._kernel = load_kernel()
        return self._kernel

    # --- writing ---

    def _print(self, record: dict[str, object], text: str) -> None:
        if self._json:
            import json

            text = json.dumps(record)
        sys.stdout.write(text + "\n")

    def _note(self, kind: str) -> None:
        """Say once why probes of a kind cannot be attached here."""
        feature = KINDS[kind].feature
        answer = features.probe(feature)
        if answer.answer != "yes":
            verdict = "can be attached here" if answer.answer == "no" else "may be attached here"
            cure = f"; {answer.cure}" if answer.cure else ""
            self._say(f"no {feature} {verdict}: {answer.reason}{cure}")

    def _say(self, text: str) -> None:
        if text not in self._noted:
            self._noted.add(text)
            sys.stdout.flush()
            say(f"note: {text}")


def _looked_up(pattern: str) -> str:
    """A function's name as a pattern for just it: plain names the catalog leaves for the kernel to judge."""
    group, colon, name = pattern.rpartition(":")
    return f"{group}{colon}[{name[:1]}]{name[1:]}" if name else pattern
