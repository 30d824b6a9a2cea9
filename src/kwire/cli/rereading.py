"""What an agent that is nobody reads anew on SIGHUP: a process that has kept its privileges reads it for it,
and attaches the probes that are new.

Invariants: it is forked before anything is attached or connected to, has no descriptor but its end of a
socket, reads nothing but that and files, and ends with the agent; each reading is done by a child of it, so
that what the compiler takes is given back. What it reads is judged there, so that what is wrong is told as
text and nothing changes; certificates come as files in memory that the agent's user alone may read, probes as
the descriptors of a trace (`kwire.live.handing`). It believes the agent what it has and whose processes it
traces, and takes what is attached from the configuration alone. Only one question is under way.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, Protocol

from kwire.cli.lines import say
from kwire.cli.network import tls_options
from kwire.errors import KwireError
from kwire.transport.loop import READ, Loop

if TYPE_CHECKING:
    import argparse
    import ssl

    from kwire.agent.policy import Policy
    from kwire.broker.address import Login
    from kwire.cli.parts import Parts
    from kwire.live.plan import Plan, Scope

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

MOST: Final = 1 << 16
"""Bytes of an answer."""

TOGETHER: Final = 200
"""Descriptors that travel with one message: the kernel takes 253."""


class Changeable(Protocol):
    """A recording whose probes may change."""

    @property
    def question(self) -> tuple[dict[str, Any], list[int]]:
        """What there is, for `Rereader`, and the descriptors that go with it."""

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


class Rereader:
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
        if os.fork() == 0:
            self._work(theirs)
        theirs.close()

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
            socket.send_fds(self._ours, [json.dumps(question).encode()], files)
            self._asking = True

    def _take(self) -> None:
        data, files, _, _ = socket.recv_fds(self._ours, MOST, TOGETHER)
        if not data:
            ended = "the process that reads the configuration has ended"
            say(f"{ended}: restart the agent to change anything", "failure")
            if self._loop is not None:
                self._loop.remove(self._ours.fileno())
            self._ours.close()
            return
        self._asking = False
        try:
            told: dict[str, Any] = json.loads(data)
            done = self._change(told, files)
        except (KwireError, _Unchanged) as error:
            say(f"{error}; what was configured before stays in force", "configuration")
        else:
            late = ", ".join(told["late"])
            text = f"{self._args.config} is read again{done}"
            say(f"{text}; restart for the new {late}" if late else text)
        finally:
            for file in files:
                os.close(file)
        if self._again:
            self._again = False
            self._ask()

    def _change(self, told: dict[str, Any], files: list[int]) -> str:
        """Take what was read; what was done, in words."""
        if "error" in told:
            raise _Unchanged(told["error"])
        done, renewal = "", self._renewal
        changed = ""
        attached = self._attached(told["descriptors"]) if "descriptors" in told else []
        if renewal.probes is not None and "keys" in told:
            data = b""
            if attached:
                with open(attached[0], "rb", closefd=True) as file:
                    file.seek(0)
                    data = file.read()
            changed = renewal.probes.take(told, data, attached[1:])
        if renewal.policy is not None:
            from kwire.agent import policy

            with open(files.pop(), "rb") as file:
                file.seek(0)
                top, path, listed = json.loads(file.read())
            changed = renewal.policy(policy.rules(top, path, listed, places=False))
        paths = [f"/proc/self/fd/{file}" for file in files]
        if "login" in told:
            from kwire.broker.address import Login, tls_context

            login = Login(**told["login"])
            context = tls_context(*paths, *[""] * (3 - len(paths))) if paths else None
            renewal.login(login._replace(tls=context))
            done += ", secrets too"
        elif files:
            renewal.context(self._context(*paths))
            done += ", certificates too"
        return done + changed

    def _attached(self, count: int) -> list[int]:
        """The descriptors that follow an answer."""
        found: list[int] = []
        failed = ""
        for _ in range(-(-count // TOGETHER)):
            data, files, flags, _ = socket.recv_fds(self._ours, MOST, TOGETHER)
            found += files
            if flags & socket.MSG_CTRUNC:  # the others come without us, or they would be taken for answers
                failed = "too many files are open: change fewer probes at once, or allow more (ulimit -n)"
            elif not files:
                told = json.loads(data) if data else {"error": "the process that attaches probes has ended"}
                failed = failed or told["error"]
                break
        if failed:
            for file in found:
                os.close(file)
            raise _Unchanged(failed)
        return found

    def _context(self, cert: str, key: str, ca: str) -> "ssl.SSLContext":
        from kwire.transport.tls import TlsOptions, client_context, server_context

        return (server_context if self._listens else client_context)(TlsOptions(cert, key, ca))

    # ------------------------------------------------------------------ the process

    def _work(self, asked: socket.socket) -> NoReturn:
        """Answer until nobody can ask any more."""
        status = 1
        try:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            own = asked.fileno()
            os.closerange(0, own)
            os.closerange(own + 1, os.sysconf("SC_OPEN_MAX"))
            while True:
                words, files, _, _ = socket.recv_fds(asked, MOST, 1)
                if not words:
                    break
                child = os.fork()
                if child == 0:
                    self._answer(asked, json.loads(words), files)
                for file in files:
                    os.close(file)
                _, ended = os.waitpid(child, 0)
                if ended:
                    asked.send(json.dumps({"error": "the process that reads it has failed"}).encode())
            status = 0
        except BaseException:
            os._exit(status)
        os._exit(status)

    def _answer(self, asked: socket.socket, question: dict[str, Any], given: list[int]) -> NoReturn:
        """Read all anew, say what came of it, and end."""
        status = 1
        try:
            told, files, attached = self._read(question, given)
            socket.send_fds(asked, [json.dumps(told).encode()[:MOST]], files)
            for at in range(0, len(attached), TOGETHER):
                socket.send_fds(asked, [b"more"], attached[at : at + TOGETHER])
            status = 0
        finally:
            os._exit(status)

    def _read(
        self, question: dict[str, Any], given: list[int]
    ) -> tuple[dict[str, Any], list[int], list[int]]:
        """What changed, the certificates, and the descriptors of what is attached; or what is wrong."""
        files: list[int] = []
        try:
            new, changed = self._args.reread()
            user = question["user"], question["group"]
            at_once: frozenset[str] = frozenset()
            told: dict[str, Any] = {}
            if self._kind == "tls":
                from kwire.transport.tls import complete

                at_once = TLS
                options = complete(tls_options(new))
                self._context(*options)
                files = [_copy(path, *user) for path in options]
            elif self._kind == "nats":
                from kwire.cli.network import loaded_login

                at_once = BROKER
                login = loaded_login(new, self._args.to)
                told["login"] = login._replace(tls=None)._asdict()
                if login.tls is not None:
                    paths = (new.tls_ca, *filter(None, (new.tls_cert, new.tls_key)))
                    files = [_copy(path, *user) for path in paths]
            attached: list[int] = []
            if self._listens:
                from kwire.agent import policy

                at_once |= POLICY
                self._check(new)
                top = policy.read_file(new.policy) if new.policy else {}
                policy.rules(top, new.policy or "", new.probes)
                files.append(_memory(json.dumps([top, new.policy or "", new.probes]).encode(), *user))
            elif "keys" in question:
                at_once |= PROBES
                more, attached = self._attach(new, question, given)
                told |= more
            told["late"] = [key for key in changed if key not in at_once]
            return told, files, attached
        except Exception as error:
            for file in files:
                os.close(file)
            return {"error": str(error)}, [], []

    def _attach(
        self, new: "argparse.Namespace", question: dict[str, Any], given: list[int]
    ) -> tuple[dict[str, Any], list[int]]:
        """Attach what is asked for now and was not before. Raises KwireError."""
        from kwire.cli.parts import check_changeable, parts

        if not new.probes:
            raise KwireError("record", "", "no PROBE is named", "name one, or end the agent")
        found = parts(new)
        added = found.only(set(found.keys) - set(question["keys"]))
        if not added.keys and set(question["keys"]) <= set(found.keys):
            return {}, []
        check_changeable(self._args)
        told = {"keys": list(found.keys), "added": list(added.keys)}
        if not added.keys:
            return told, []
        from kwire.agent.spool import make_folder
        from kwire.cli.tracing import allow_descriptors
        from kwire.kernel.maps import Map
        from kwire.kernel.tasks import TASKS
        from kwire.live.ground import Ground
        from kwire.live.handing import check, handed
        from kwire.live.plan import Scope
        from kwire.live.recorder import complete
        from kwire.live.tracer import Tracer

        allow_descriptors()
        follow, main, without, pids = question["scope"]
        known = Map(given[0], TASKS) if given else None
        if follow is not (known is not None):
            raise KwireError("change", "probes", "the processes that are traced are not known", "restart it")
        plan = _plan(new, added, Scope(follow, main, tuple(without), tuple(pids)), question["command"])
        check(plan)
        plan = plan._replace(following=(), schemas=complete(plan.schemas))
        tracer = Tracer(plan, ground=Ground(self._args.buffer, known=known))
        tracer.attach()
        spool = self._args.spool
        folder = make_folder(spool, (question["user"], question["group"])) if spool else None
        data, descriptors = handed(tracer, folder)
        self._held = tracer, folder  # whose descriptors are sent
        memory = _memory(data, question["user"], question["group"])
        return {**told, "descriptors": 1 + len(descriptors)}, [memory, *descriptors]


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


def _copy(path: str, user: int, group: int) -> int:
    """A file in memory with what a file has, for one user alone."""
    copy = os.memfd_create("kwire", os.MFD_CLOEXEC)
    with open(path, "rb") as file, open(copy, "wb", closefd=False) as out:
        shutil.copyfileobj(file, out)
    return _given(copy, user, group)


def _memory(data: bytes, user: int, group: int) -> int:
    """A file in memory, for one user alone."""
    memory = os.memfd_create("kwire", os.MFD_CLOEXEC)
    with open(memory, "wb", closefd=False) as out:
        out.write(data)
    return _given(memory, user, group)


def _given(file: int, user: int, group: int) -> int:
    os.fchmod(file, 0o400)
    if (user, group) != (os.geteuid(), os.getegid()):
        os.fchown(file, user, group)
    return file
