"""Tracing for others: a launcher that may load programs, and a process for each trace, which may nothing.

    server          talks to the network, without privileges (`kwire.agent.server`)
    launcher        never reads a byte of the network; forks a trace process whenever the server asks
    trace process   reads one request, compiles, loads and attaches, becomes nobody, and then moves events;
                    what the agent lists later is attached for it (`kwire.agent.join`)

Invariants: server and launcher share a socket over which only descriptors travel, and that a policy which was
read anew counts from now on; the launcher is told what is in it by the process that has read it
(`kwire.cli.reload`), never by the server; server and trace process share one that carries frames
(`kwire.agent.channel`); whoever sees the other end closed ends, so nothing outlives the server; the policy is
asked in the trace process too; a trace process never waits for the server once it traces: what finds no room
is counted LOST.
"""

import contextlib
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from kwire.agent import confinement, join, policy, requests
from kwire.agent.channel import Channel
from kwire.agent.policy import MOST, Policy
from kwire.agent.recording import Recording
from kwire.agent.source import SourceSink
from kwire.agent.throttle import Throttle
from kwire.errors import KwireError
from kwire.live import handover
from kwire.live.ground import Ground
from kwire.live.recorder import Recorder
from kwire.transport.bind import remove_stale
from kwire.transport.loop import READ, WRITE, Loop
from kwire.view.text import safe
from kwire.wire.frame import Type

POLICY: Final = b"p"
"""What the launcher is told when the policy that was read last counts."""


class Launcher:
    """The server's side of the launcher: `start` gives the socket to a new trace process."""

    __slots__ = ("_control", "pid")

    def __init__(
        self,
        rules: Policy,
        path: str = "",
        policies: socket.socket | None = None,
        others: Sequence[socket.socket] = (),
    ) -> None:
        """Fork the launcher, for clients that `rules` know; call it before the network is touched.

        `path`: of the Unix socket that the server listens on, which it removes when the server has gone;
        `policies`: over which it is told what is read anew; `others`: what of ours it has nothing to do with.
        """
        self._control, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            for one in (self._control, *others):
                one.close()
            _launch(other, rules, path, policies)
        other.close()
        self._control.setblocking(False)

    @property
    def fd(self) -> int:
        """A descriptor that becomes readable when the launcher has ended."""
        return self._control.fileno()

    def start(self) -> socket.socket:
        """A trace process that waits for its request at the other end."""
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError as error:
            raise _unstartable(error) from error
        with theirs:
            try:
                socket.send_fds(self._control, [b"w"], [theirs.fileno()])
            except BlockingIOError as error:
                ours.close()
                cause = "too many traces are beginning at once"
                raise KwireError("start", "a tracer", cause, "try again later") from error
            except OSError as error:
                ours.close()
                cause = "the process that loads programs has ended"
                raise KwireError("start", "a tracer", cause, "start the agent again") from error
        ours.setblocking(False)
        return ours

    def change(self) -> None:
        """Have the policy that was read last count for what is asked from now on."""
        with contextlib.suppress(OSError):  # it has ended, which is told
            self._control.send(POLICY)

    def close(self) -> None:
        """End the launcher."""
        self._control.close()
        os.waitpid(self.pid, 0)


def _launch(control: socket.socket, rules: Policy, path: str, policies: socket.socket | None) -> None:
    """The launcher's life. Never returns."""
    status = 1
    server = os.getppid()
    try:
        # Whoever tells all of us means the server: it closes our socket when the traces have ended in order.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries the trace processes
        newest: Policy | None = None
        traces: list[_Launched] = []
        while True:
            waits = [one.waits for one in traces]
            ready = _readable([one for one in (control, policies, *waits) if one is not None])
            while policies is not None and _readable([policies], 0):
                told = handover.receive(policies)
                if told is None:
                    policies.close()
                    policies = None
                else:
                    newest = policy.rules(*json.loads(told[0]))
            if control in ready:  # of what it is told there the policy came before
                data, descriptors, _, _ = socket.recv_fds(control, 1, 1)
                if not data:
                    break
                if data == POLICY and newest is not None:
                    newest.follow(rules)
                    rules, newest = newest, None
                for descriptor in descriptors:
                    own = (control, policies, *traces)
                    more = _launch_trace(own, socket.socket(fileno=descriptor), rules, server)
                    if more is not None:
                        traces.append(_Launched(more))
            elif not _readable([control], 0):  # else a policy may count by now of which they ask
                for one in [one for one in traces if one.waits in ready]:
                    if not one.serve((control, policies, *traces), rules):
                        traces.remove(one)
                        one.close()
        if path:
            remove_stale(path)
        status = 0
    finally:
        os._exit(status)


def _readable(sockets: Sequence[socket.socket], seconds: float | None = None) -> set[socket.socket]:
    """Those of which something can be read, or nothing more comes; waits for one, `seconds` at most."""
    poll = select.poll()
    by_fd = {one.fileno(): one for one in sockets}
    for fd in by_fd:
        poll.register(fd, select.POLLIN)
    return {by_fd[fd] for fd, _ in poll.poll(None if seconds is None else seconds * 1000)}


class _Closeable(Protocol):
    def close(self) -> None: ...


class _Launched:
    """A trace process, as the launcher knows it: what it told before it gave up its privileges, unread, and
    the socket over which it may ask for more, once at a time.
    """

    __slots__ = ("_answering", "_begun", "_more", "_tasks")

    def __init__(self, more: socket.socket) -> None:
        self._more = more
        self._begun = b""
        self._tasks: list[int] = []
        self._answering: socket.socket | None = None  # over which a process says that it has answered

    @property
    def waits(self) -> socket.socket:
        """What is readable when it is to be served."""
        return self._answering or self._more

    def serve(self, own: Sequence[_Closeable | None], rules: Policy) -> bool:
        """Do what it waits for; where it asks, a process answers that has nothing of the launcher's `own`.
        Whether it may ask again: not where it has gone, or there can be no more processes, which it sees.
        """
        if self._answering is not None:
            if not self._answering.recv(1):
                self._tell_failure()
            self._answering.close()
            self._answering = None
        elif not self._begun:  # this is told by who has all privileges, in one go
            try:
                told = handover.receive(self._more)
            except (KwireError, OSError):
                told = None
            if told is None:
                return False
            self._begun, self._tasks = told
        else:
            try:
                if not self._more.recv(1, socket.MSG_PEEK):
                    return False
                self._answering, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                with other:
                    _fork(lambda: self._answer(other, own, rules))
            except OSError:
                return False
        return True

    def _answer(self, done: socket.socket, own: Sequence[_Closeable | None], rules: Policy) -> None:
        """In a process of its own: answer what it asks, and say over `done` that this is done."""
        more, tasks = self._more.dup(), list(map(os.dup, self._tasks))
        _close(own)
        join.answer(more, self._begun, tasks, rules)
        done.send(b".")

    def _tell_failure(self) -> None:
        """Answer in the place of a process that has ended before it did."""
        error = KwireError(
            "trace", "more", "the process that attaches its probes has ended", "change them again"
        )
        with contextlib.suppress(OSError):  # who asked has gone
            handover.send(self._more, join.failed(error))

    def close(self) -> None:
        """Forget it."""
        _close((self._more, self._answering))
        for file in self._tasks:
            os.close(file)
        self._tasks = []


def _close(what: Sequence[_Closeable | None]) -> None:
    for one in what:
        if one is not None:
            one.close()


def _fork(run: Callable[[], object]) -> None:
    """Have another process do something, and end. Raises OSError where there can be no more processes."""
    if os.fork():
        return
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        run()
        status = 0
    except Exception as error:  # a bug: said here, because nobody else will
        sys.stderr.write(f"kwire: tracer: {safe(f'{type(error).__name__}: {error}')}\n")
        sys.stderr.flush()
    finally:
        os._exit(status)


def _launch_trace(
    own: Sequence[_Closeable | None], channel: socket.socket, rules: Policy, server: int
) -> socket.socket | None:
    """Have a trace process, which has nothing of the launcher's `own`, serve `channel`. Gives the socket over
    which it may ask for more probes; None where there can be no more processes, which the server is told.
    """
    with channel:
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                try:
                    _fork(lambda: _trace((*own, ours), channel, theirs, rules, server))
                except OSError:
                    ours.close()
                    raise
            return ours
        except OSError as error:
            told = Channel(channel)
            told.tell(Type.REPLY, requests.failed(_unstartable(error)))
            with contextlib.suppress(OSError):
                told.flush()
    return None


def _trace(
    own: Sequence[_Closeable | None],
    channel: socket.socket,
    more: socket.socket,
    rules: Policy,
    server: int,
) -> None:
    """A trace process's life. `more`: over which it may ask the launcher for more; `server`: the process
    that talks to the network.
    """
    _close(own)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the server has gone
        _TraceProcess(channel, more, server).run(rules)


def _unstartable(error: OSError) -> KwireError:
    cause = (error.strerror or "failed").lower()
    return KwireError("start", "a tracer", cause, "wait for other traces to end, or allow the agent more")


class _Part(NamedTuple):
    """A recording of a trace: the first, or one of probes that joined it. `listed`: its specs, by number; "":
    it was taken away; `before`: how many probes are before its own.
    """

    recording: Recording
    listed: tuple[str, ...]
    before: int

    @property
    def produced(self) -> dict[int, int]:
        """Events by probe, under the numbers that its session knows."""
        each = self.recording.recorder.produced
        return {probe + self.before: count for probe, count in each.items()}

    def without(self, listed: Sequence[str]) -> set[int]:
        """The probes that none of these specs has asked for, and that are there."""
        recorder = self.recording.recorder
        numbers = {number for number, spec in enumerate(self.listed) if spec not in listed}
        return {
            probe
            for probe, asking in recorder.plan.asked_by.items()
            if probe not in recorder.removed and numbers.issuperset(asking)
        }


class _TraceProcess:
    """One trace."""

    def __init__(self, channel: socket.socket, more: socket.socket, server: int) -> None:
        self.channel = Channel(channel)
        self.more = more
        self.parts: list[_Part] = []
        self.probes = 0  # how many are described
        self.produced: dict[int, int] = {}  # of the parts that have ended: events by probe
        self.who = "", ""  # identity and address of its client
        self.stays: tuple[str, ...] = ()  # of what is listed, once what is asked for is there
        self.throttle: Throttle | None = None
        self.server = server
        self.loop = Loop()
        self.recording: Recording | None = None
        self.sink: SourceSink | None = None
        self.ended = False

    def run(self, rules: Policy) -> None:
        """Do what the request asks for."""
        request = self.channel.wait()[1]
        try:
            grant = rules.grant(request["identity"], request["address"])
            if grant is None:
                raise KwireError("serve", request["address"], "the agent's policy does not know it")
            grant = grant._replace(client=request["identity"] or request["host"])
            if requests.operation_of(request["body"]) == "probes":
                self._tell(Type.REPLY, requests.names(request["body"], grant))
                return
            without = (self.server, os.getpid())
            self.who = request["identity"], request["address"]
            processes = (job := requests.serve(request["body"], grant, without)).processes
            try:
                self.trace(job, request["size"])
            finally:
                processes.close()
                if processes.command:
                    processes.command.end()
        except KwireError as error:
            self._fail(error)
        except OSError:
            raise
        except Exception as error:  # a bug: the client is told too
            self._fail(KwireError("trace", "", f"the tracer failed: {type(error).__name__}: {error}"))
            raise

    def _fail(self, error: KwireError) -> None:
        """Say why there is no trace, or no more of it."""
        if self.recording is None:  # it has not begun: this is the answer
            self._tell(Type.REPLY, requests.failed(error))
        else:
            self._tell(Type.REQUEST, {"op": "ended", "why": error.cause, **requests.failed(error)})

    def _tell(self, type: Type, body: Mapping[str, Any]) -> None:
        self.channel.tell(type, body)
        self.channel.drain()

    def trace(self, job: requests.Job, size: int) -> None:
        """Attach, give up privileges, move events until it is over."""
        processes = job.processes
        ground = Ground(job.buffer, follow=processes.chosen)
        with Recorder(job.plan, job.limits, ground=ground) as recorder:
            recorder.attach(processes)
            schemas = recorder.schemas
            recorder.delegate()
            tasks = [recorder.tracer.maps["tasks"].fd] if processes.chosen else []
            handover.send(self.more, join.begun(*self.who, job), tasks)
            confinement.agent()
            sink = self.sink = SourceSink(schemas, size)
            self.channel.tell(Type.REPLY, requests.begun(recorder.plan, len(schemas)))
            for payload in sink.begin():
                self.channel.send(payload)
            self.channel.drain()
            sink.outlet = self.channel
            sink.waits = 0.0
            self.loop.add(self.channel.fd, READ, self._ready)
            recording = self.recording = Recording(self.loop, recorder, self._round, self._end)
            self.parts, self.probes = [_Part(recording, job.listed, 0)], len(schemas)
            if job.rate < MOST:
                self.throttle = Throttle(sink, job.rate, len(schemas))
            try:
                recording.start([self.throttle or sink])
                self.loop.run()
            finally:
                for part in self.parts:
                    if not part.recording.recorder.over:
                        part.recording.close()
                for part in self.parts[1:]:
                    part.recording.recorder.close()

    # ------------------------------------------------------------------ what is listed changes

    @property
    def listed(self) -> list[str]:
        """The specs of its probes, of those that the agent listed."""
        return [spec for part in self.parts for spec in part.listed if spec]

    def _change(self, stays: Sequence[str], more: bool) -> None:
        """Go on with these of its specs; with `more`, with what the agent lists besides."""
        self.stays = tuple(stays)
        if not more:
            self._go_by(0)
            return
        each = ((part.recording.recorder, part.without(self.stays)) for part in self.parts)
        attached = sum(recorder.attached_without(going) for recorder, going in each)
        try:
            handover.send(self.more, join.question(self.listed, attached))
        except OSError:
            self._go_by(0, "the process that loads programs could start none for it")
        else:
            self.loop.add(self.more.fileno(), READ, self._answered)

    def _answered(self, mask: int) -> None:
        """What was asked for is attached, or cannot be."""
        self.loop.remove(self.more.fileno())
        try:
            answer = handover.receive(self.more)
            if answer is None:
                cause = "the process that attaches its probes has ended"
                raise KwireError("trace", "more", cause)
            (text, _, data), descriptors = answer[0].partition(b"\0"), answer[1]
            told = json.loads(text)
            if "error" in told:
                requests.answered(told)
            new = self._join(Recorder.taken(handover.taken(data, descriptors)[0]), tuple(told["listed"]))
        except (KwireError, OSError) as error:
            self._go_by(0, str(error))
        else:
            self._go_by(new)

    def _join(self, recorder: Recorder, listed: tuple[str, ...]) -> int:
        """Record with these probes, too; how many there are."""
        assert self.sink is not None
        assert self.recording is not None
        if self.recording.recorder.over:
            recorder.close()
            raise KwireError("trace", "more", "the trace has ended")
        schemas = join.numbered(recorder.plan, self.probes)
        self.sink.grow(schemas)
        if self.throttle is not None:
            self.throttle.grow(len(schemas))
        sink = join.Renumbered(self.throttle or self.sink, self.probes, len(schemas))

        def over(why: str) -> None:  # also by itself, where all of its probes have fired
            recorder.close()
            self._round()

        recording = Recording(self.loop, recorder, self._round, over)
        self.parts.append(_Part(recording, listed, self.probes))
        self.probes += len(schemas)
        self.stays = (*self.stays, *listed)
        recording.start([sink])
        return len(schemas)

    def _go_by(self, new: int, problem: str = "") -> None:
        """Take away what is of none of the specs that stay, and tell the server: how many probes are new, and
        gone, or why none are new.
        """
        gone, parts = 0, list[_Part]()
        for at, part in enumerate(self.parts):
            recorder = part.recording.recorder
            going = part.without(self.stays)
            if going and not recorder.over:
                gone += len(going)
                recorder.take_away(going)
                if at and not recorder.attached:
                    part.recording.end("its probes were taken away")
            stays = tuple(spec if spec in self.stays else "" for spec in part.listed)
            if at and recorder.over and not any(stays):
                self.produced |= part.produced
            else:
                parts.append(part._replace(listed=stays))
        self.parts = parts
        self._round()
        told = {"op": "changed", "listed": self.listed, "new": new, "gone": gone, "problem": problem}
        self.channel.tell(Type.REQUEST, told)
        self._flush()

    def _round(self) -> None:
        assert self.sink is not None
        self.sink.flush()
        self._flush()

    def _end(self, why: str) -> None:
        """Hand over the last of it."""
        assert self.sink is not None
        assert self.recording is not None
        recorder, produced = self.recording.recorder, dict(self.produced)
        for part in self.parts:
            part.recording.end(why)
            produced |= part.produced
        if not self.ended and self.sink.finish(produced):
            self.ended = True
            told: dict[str, Any] = {"op": "ended", "why": why}
            status = recorder.command_status if recorder.status is None else recorder.status
            if status is not None:
                told["status"] = status
            self.channel.tell(Type.REQUEST, told)
        self._flush()

    def _flush(self) -> None:
        try:
            done = self.channel.flush()
        except OSError:
            self.loop.stop()
            return
        self.loop.modify(self.channel.fd, READ if done else READ | WRITE)
        if done and self.ended:
            self.loop.stop()

    def _ready(self, mask: int) -> None:
        assert self.recording is not None
        came = self.channel.receive() if mask & ~WRITE else []
        if came is None:
            self.loop.stop()  # the server has gone: the probes go with us
            return
        for _, asked in came:
            if asked["op"] == "stop":
                self.recording.end("asked to stop")
                return
            self._change(asked["listed"], asked["joins"])
        if self.recording.recorder.over:
            self._end(self.recording.recorder.why)
        else:
            self._round()
