"""What an agent that is nobody reads anew on SIGHUP: a process that has kept its privileges reads it for it,
and attaches the probes that are new.

Invariants: it is forked before anything is attached or connected to, has no descriptors but its ends of
sockets to the agent's own processes, reads nothing but these and files, and ends with the agent; each reading
is done by a child of it, so that what the compiler takes is given back. What it reads is judged there, so
that what is wrong is told as text and nothing changes; certificates come as files in memory that the agent's
user alone may read, probes as the descriptors of a trace (`kwire.live.handover`). It believes the agent what
it has and whose processes it traces, and takes what is attached from the configuration alone. Only one
question is under way, and what was read is taken whole or not at all.

    question  {"user": …, "group": …, "keys": […], "scope": […], "command": …}      the map of tasks
    answer    {"late": […], "certificates": 3, "keys": […], …} NUL the trace        certificates, the trace's
"""

import contextlib
import json
import os
import shutil
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, Protocol

from kwire.cli.lines import say
from kwire.cli.network import tls_options
from kwire.errors import KwireError
from kwire.live import handover
from kwire.transport.loop import READ, Loop
from kwire.words import plural

if TYPE_CHECKING:
    import argparse
    import ssl

    from kwire.agent.agent import Agent
    from kwire.agent.policy import Policy
    from kwire.agent.source import SourceSink
    from kwire.agent.spool import SpoolFolder
    from kwire.agent.trace_process import Launcher
    from kwire.agent.uplink import Hold
    from kwire.broker.address import Login
    from kwire.cli.parts import Parts
    from kwire.live.plan import Plan, Scope
    from kwire.live.processes import Processes

TLS: Final = frozenset({"tls-cert", "tls-key", "tls-ca"})
"""Keys of the configuration file that SIGHUP changes where there is TLS; for others that are not named here
the agent is started again.
"""

BROKER: Final = TLS | {"nats-user", "nats-password", "nats-token", "nats-nkey", "nats-creds"}
"""The same of an agent of a broker."""

POLICY: Final = frozenset({"probes", "policy"})
"""The same of one that listens."""

PROBES: Final = frozenset({"probes", "filter"})
"""The same of one that records."""


class Changeable(Protocol):
    """A recording whose probes may change."""

    @property
    def question(self) -> tuple[dict[str, Any], list[int]]:
        """What there is, for `Reloader`, and the descriptors that go with it."""

    def take(self, told: dict[str, Any], data: bytes, descriptors: Sequence[int]) -> str:
        """Change; gives what was done, in words. It owns the descriptors. Raises KwireError; then nothing is
        changed.
        """


class Renewal(NamedTuple):
    """Who takes what was read anew: certificates, who we are to a broker, probes, the policy; the
    last two give what was done, in words.
    """

    context: "Callable[[ssl.SSLContext], None]" = lambda context: None
    login: "Callable[[Login], None]" = lambda login: None
    probes: Changeable | None = None
    policy: "Callable[[Policy], str] | None" = None


class Reloader:
    """The process, and the way to it. `listens`: whether certificates are for who connects to us; `kind`: of
    the address, which may be a broker's; `check`: raises KwireError where the arguments make no sense.
    """

    def __init__(
        self,
        args: "argparse.Namespace",
        *,
        listens: bool,
        kind: str,
        check: "Callable[[argparse.Namespace], object]" = lambda new: None,
    ) -> None:
        self._check = check
        self._args, self._listens, self._kind = args, listens, kind
        self._loop: Loop | None = None
        self._renewal = Renewal()
        self._asking = self._again = False
        self._held: object = None
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._policies: socket.socket | None = None
        told: socket.socket | None = None
        if listens:
            self._policies, told = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork() == 0:
            self._work(theirs, told)
        for other in (theirs, told):
            if other is not None:
                other.close()

    def launched(
        self, start: "Callable[[socket.socket | None, Sequence[socket.socket]], Launcher]"
    ) -> "Launcher":
        """What `start` gives: a launcher, whose process is told by the socket what policies are read, and
        closes the others.
        """
        policies, self._policies = self._policies, None
        try:
            return start(policies, [self._ours])
        finally:
            if policies is not None:
                policies.close()

    def serve(self, loop: Loop, renewal: Renewal) -> None:
        """Read anew on SIGHUP."""
        self._loop, self._renewal = loop, renewal
        loop.signals((signal.SIGHUP,), lambda number: self._ask())
        loop.add(self._ours.fileno(), READ, lambda mask: self._take())

    def close(self) -> None:
        """Let the process end."""
        self._ours.close()

    def _ask(self) -> None:
        if self._asking:  # what it reads now may be older than this
            self._again = True
            return
        question: dict[str, Any] = {"user": os.geteuid(), "group": os.getegid()}
        files: list[int] = []
        if self._renewal.probes is not None:
            more, files = self._renewal.probes.question
            question |= more
        with contextlib.suppress(OSError):  # it is gone, which was said
            handover.send(self._ours, json.dumps(question).encode(), files)
            self._asking = True

    def _take(self) -> None:
        failed: KwireError | None = None
        try:
            answer = handover.receive(self._ours)
        except handover.TooManyFilesError as error:
            answer, failed = (b"", []), error
        if answer is None:
            ended = "the process that reads the configuration has ended"
            say(f"{ended}: restart the agent to change anything", "failure")
            if self._loop is not None:
                self._loop.remove(self._ours.fileno())
            self._ours.close()
            return
        self._asking = False
        text, _, data = answer[0].partition(b"\0")
        files = answer[1]
        try:
            if failed is not None:
                raise failed
            told: dict[str, Any] = json.loads(text)
            done = self._change(told, data, files)
        except (KwireError, _Unchanged) as error:
            say(f"{error}; what was configured before stays in force", "configuration")
        else:
            late = ", ".join(told["late"])
            line = f"{self._args.config} is read again{done}"
            say(f"{line}; restart for the new {late}" if late else line)
        finally:
            for file in files:
                os.close(file)
        if self._again:
            self._again = False
            self._ask()

    def _change(self, told: dict[str, Any], data: bytes, files: list[int]) -> str:
        """Take what was read, `data` and descriptors of a trace among it; what was done, in words. All that
        can go wrong does before anything is changed. Takes the files that others own from now on.
        """
        if "error" in told:
            raise _Unchanged(told["error"])
        renewal = self._renewal
        certificates = files[: told.get("certificates", 0)]
        renew, done = self._renewed(told, [f"/proc/self/fd/{file}" for file in certificates])
        new = None
        if renewal.policy is not None:
            from kwire.agent import policy

            new = policy.rules(*told["policy"], places=False)
        changed = ""
        if renewal.probes is not None and "keys" in told:
            attached = files[len(certificates) :]
            del files[len(certificates) :]
            changed = renewal.probes.take(told, data, attached)
        if renewal.policy is not None and new is not None:
            changed = renewal.policy(new)
        renew()
        return done + changed

    def _renewed(self, told: dict[str, Any], paths: list[str]) -> tuple[Callable[[], None], str]:
        """What puts certificates and secrets in their places, and words for it. Raises KwireError."""
        if "login" in told:
            from kwire.broker.address import Login, tls_context

            context = tls_context(*paths, *[""] * (3 - len(paths))) if paths else None
            login = Login(**told["login"])._replace(tls=context)
            return lambda: self._renewal.login(login), ", secrets too"
        if paths:
            shown = self._context(*paths)
            return lambda: self._renewal.context(shown), ", certificates too"
        return lambda: None, ""

    def _context(self, cert: str, key: str, ca: str) -> "ssl.SSLContext":
        from kwire.transport.tls import TlsOptions, client_context, server_context

        return (server_context if self._listens else client_context)(TlsOptions(cert, key, ca))

    # ------------------------------------------------------------------ the process

    def _work(self, asked: socket.socket, policies: socket.socket | None) -> NoReturn:
        """Answer until nobody can ask any more."""
        status = 1
        try:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            low = -1
            for own in sorted(one.fileno() for one in (asked, policies) if one is not None):
                os.closerange(low + 1, own)
                low = own
            os.closerange(low + 1, os.sysconf("SC_OPEN_MAX"))
            while (question := handover.receive(asked)) is not None:
                words, files = question
                child = os.fork()
                if child == 0:
                    self._answer(asked, policies, json.loads(words), files)
                for file in files:
                    os.close(file)
                _, ended = os.waitpid(child, 0)
                if ended:
                    handover.send(
                        asked, json.dumps({"error": "the process that reads it has failed"}).encode()
                    )
            status = 0
        except BaseException:
            os._exit(status)
        os._exit(status)

    def _answer(
        self,
        asked: socket.socket,
        policies: socket.socket | None,
        question: dict[str, Any],
        given: list[int],
    ) -> NoReturn:
        """Read all anew, say what came of it, and end. Who launches traces is told of a policy first, so that
        it knows the one that the agent goes by.
        """
        status = 1
        try:
            told, data, files = self._read(question, given)
            if policies is not None and "policy" in told:
                with contextlib.suppress(OSError):  # it is gone, which is told
                    handover.send(policies, json.dumps(told["policy"]).encode())
            handover.send(asked, json.dumps(told).encode() + b"\0" + data, files)
            status = 0
        finally:
            os._exit(status)

    def _read(self, question: dict[str, Any], given: list[int]) -> tuple[dict[str, Any], bytes, list[int]]:
        """What changed; what is attached; the certificates, and what is attached, as descriptors. Or what is
        wrong.
        """
        files: list[int] = []
        try:
            new, changed = self._args.reread()
            at_once: frozenset[str] = frozenset()
            told: dict[str, Any] = {}
            if self._kind == "tls":
                from kwire.transport.tls import complete

                at_once = TLS
                options = complete(tls_options(new))
                self._context(*options)
                files = [_copy(path, question) for path in options]
            elif self._kind == "nats":
                from kwire.cli.network import loaded_login

                at_once = BROKER
                login = loaded_login(new, self._args.to)
                told["login"] = login._replace(tls=None)._asdict()
                if login.tls is not None:
                    paths = (new.tls_ca, *filter(None, (new.tls_cert, new.tls_key)))
                    files = [_copy(path, question) for path in paths]
            told["certificates"] = len(files)
            data = b""
            if self._listens:
                from kwire.agent import policy

                at_once |= POLICY
                self._check(new)
                told["policy"] = (
                    policy.read_file(new.policy) if new.policy else {},
                    new.policy or "",
                    new.probes,
                )
                policy.rules(*told["policy"])
            elif "keys" in question:
                at_once |= PROBES
                more, data, attached = self._attach(new, question, given)
                told |= more
                files = files + attached
            told["late"] = [key for key in changed if key not in at_once]
            return told, data, files
        except Exception as error:
            for file in files:
                os.close(file)
            return {"error": str(error)}, b"", []

    def _attach(
        self, new: "argparse.Namespace", question: dict[str, Any], given: list[int]
    ) -> tuple[dict[str, Any], bytes, list[int]]:
        """Attach what is asked for now and was not before. Raises KwireError."""
        from kwire.cli.parts import check_changeable, parts

        if not new.probes:
            raise KwireError("record", "", "no PROBE is named", "name one, or end the agent")
        found = parts(new)
        added = found.only(set(found.keys) - set(question["keys"]))
        if not added.keys and set(question["keys"]) <= set(found.keys):
            return {}, b"", []
        check_changeable(self._args)
        told: dict[str, Any] = {"keys": list(found.keys), "added": list(added.keys)}
        if not added.keys:
            return told, b"", []
        from kwire.agent.segment import SpoolFullError
        from kwire.agent.spool import make_folder
        from kwire.cli.tracing import allow_descriptors
        from kwire.live.plan import Scope

        allow_descriptors()
        follow, main, without, pids = question["scope"]
        if follow is not bool(given):
            raise KwireError("change", "probes", "the processes that are traced are not known", "restart it")
        plan = _plan(new, added, Scope(follow, main, tuple(without), tuple(pids)), question["command"])
        tracer = handover.attached(plan, self._args.buffer, given)
        folder, told["full"] = None, ""
        if self._args.spool:
            try:
                folder = make_folder(self._args.spool, (question["user"], question["group"]))
            except SpoolFullError as error:  # it records all the same
                told["full"] = str(error)
        self._held = tracer, folder  # whose descriptors are sent
        return told, *handover.handed(tracer, folder)


class Changes:
    """How the probes of an agent change while it records. What stays is not touched; where what came cannot
    be used, it is closed, and all stays as it was. `size`: bytes of a payload.
    """

    def __init__(self, args: "argparse.Namespace", agent: "Agent", processes: "Processes", size: int) -> None:
        self._args, self._agent, self._size = args, agent, size
        command = processes.command
        self._about = {"scope": list(processes.scope[:4]), "command": command.pid if command else 0}
        self._follows = processes.chosen

    @property
    def question(self) -> tuple[dict[str, Any], list[int]]:
        """What there is, and the map of processes that are traced; nothing where the recording has ended."""
        if self._agent.stopping:
            return {}, []
        tasks = [self._agent.recorder.tracer.maps["tasks"].fd] if self._follows else []
        return {**self._about, "keys": list(self._agent.keys)}, tasks

    def take(self, told: dict[str, Any], data: bytes, descriptors: Sequence[int]) -> str:
        """Go on with what is asked for now."""
        from kwire.agent.agent import Trace
        from kwire.agent.source import SourceSink
        from kwire.cli.tracing import say_skipped
        from kwire.live.recorder import Recorder

        agent, new, notes = self._agent, None, ""
        if data:
            tracer, folder = handover.taken(data, descriptors)
            recorder = Recorder.taken(tracer)
            try:
                if agent.stopping:  # since it was asked
                    raise KwireError("change", "probes", "the recording has ended")
                sink = SourceSink(recorder.schemas, self._size)
                new = Trace(agent.line, recorder, sink, self._hold(sink, folder), told["added"])
            except BaseException:
                recorder.close()
                raise
            say_skipped(recorder.plan)
            if told["full"]:
                self._say_full(told["full"])
            notes += f", {plural(len(recorder.plan.schemas), 'new probe')}"
        count = agent.change(new, told["keys"])
        return notes + (f", {plural(count, 'probe')} taken away" if count else "")

    def _hold(self, sink: "SourceSink", folder: "SpoolFolder | None") -> "Hold":
        """Where its payloads wait. A full disk is no error, as it is none while it records."""
        from kwire.agent import spool as spools
        from kwire.agent.segment import SpoolFullError
        from kwire.agent.uplink import MemoryHold, SpoolHold

        args, name = self._args, str(self._agent.line.about["name"])
        token, prefix = os.urandom(16), sink.begin()
        if folder is not None:
            size, memory = args.spool_size, args.memory
            try:
                return SpoolHold(spools.begin_in(folder, token, prefix, size, memory, sink.probes, name))
            except SpoolFullError as error:
                self._say_full(error)
        return MemoryHold(args.memory, prefix)

    def _say_full(self, error: object) -> None:
        self._agent.line.say(f"{error}: what the new probes see waits in memory alone", "disk")


def _plan(args: "argparse.Namespace", parts: "Parts", scope: "Scope", command: int) -> "Plan":
    """The plan of these parts. Raises KwireError."""
    if parts.probes:
        from kwire.live.planner import make_plan

        return make_plan(parts.probes, args.filter, scope=scope, origin="--filter", numbers=parts.numbers)
    from kwire.cli.script import planned_for

    name, *words = args.probes
    return planned_for(name, words, scope, command)


class _Unchanged(Exception):  # noqa: N818  # it is told, and no error of ours
    """What is wrong with what was read."""


def _copy(path: str, question: Mapping[str, Any]) -> int:
    """A file in memory with what a file has, which is for the user who asks alone."""
    copy = os.memfd_create("kwire", os.MFD_CLOEXEC)
    with open(path, "rb") as file, open(copy, "wb", closefd=False) as out:
        shutil.copyfileobj(file, out)
    os.fchmod(copy, 0o400)
    if (user := (question["user"], question["group"])) != (os.geteuid(), os.getegid()):
        os.fchown(copy, *user)
    return copy
