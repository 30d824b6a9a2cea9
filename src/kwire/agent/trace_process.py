"""Tracing for others: a launcher that may load programs, and a process for each trace, which may nothing.

    server          talks to the network, without privileges (`kwire.agent.server`)
    launcher        never reads a byte of the network; forks a trace process whenever the server asks
    trace process   reads one request, compiles, loads and attaches, becomes nobody, and then moves events

Invariants: server and launcher share a socket over which only descriptors travel, and that a policy which was
read anew counts from now on; the launcher is told what is in it by the process that has read it
(`kwire.cli.rereading`), never by the server; server and trace process share one that carries frames
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
from collections.abc import Mapping, Sequence
from typing import Any, Final

from kwire.agent import confinement, policy, requests
from kwire.agent.channel import Channel
from kwire.agent.policy import MOST, Policy
from kwire.agent.recording import Recording
from kwire.agent.source import SourceSink
from kwire.agent.throttle import Throttle
from kwire.errors import KwireError
from kwire.live import handing
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
        while True:
            select.select([one for one in (control, policies) if one is not None], (), ())
            while policies is not None and select.select([policies], (), (), 0)[0]:
                told = handing.receive(policies)
                if told is None:
                    policies.close()
                    policies = None
                else:
                    newest = policy.rules(*json.loads(told[0]))
            if not select.select([control], (), (), 0)[0]:
                continue
            data, descriptors, _, _ = socket.recv_fds(control, 1, 1)
            if not data:
                break
            if data == POLICY and newest is not None:
                newest.follow(rules)
                rules, newest = newest, None
            for descriptor in descriptors:
                _fork((control, policies), socket.socket(fileno=descriptor), rules, server)
        if path:
            remove_stale(path)
        status = 0
    finally:
        os._exit(status)


def _fork(own: Sequence[socket.socket | None], channel: socket.socket, rules: Policy, server: int) -> None:
    """Have a trace process, which has nothing of the launcher's `own`, serve `channel`; where there can be no
    more processes, the server is told so.
    """
    with channel:
        try:
            if os.fork() == 0:
                for one in own:
                    if one is not None:
                        one.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                work(channel, rules, server)
        except OSError as error:
            told = Channel(channel)
            told.tell(Type.REPLY, requests.failed(_unstartable(error)))
            with contextlib.suppress(OSError):
                told.flush()


def _unstartable(error: OSError) -> KwireError:
    cause = (error.strerror or "failed").lower()
    return KwireError("start", "a tracer", cause, "wait for other traces to end, or allow the agent more")


def work(channel: socket.socket, rules: Policy, server: int) -> None:
    """A trace process's life. `server`: the process that talks to the network. Never returns."""
    status = 1
    try:
        _TraceProcess(channel, server).run(rules)
        status = 0
    except (BrokenPipeError, ConnectionResetError):
        pass  # the server has gone
    except Exception as error:  # a bug: said here, because nobody else will
        sys.stderr.write(f"kwire: tracer: {safe(f'{type(error).__name__}: {error}')}\n")
        sys.stderr.flush()
    finally:
        os._exit(status)


class _TraceProcess:
    """One trace."""

    def __init__(self, channel: socket.socket, server: int) -> None:
        self.channel = Channel(channel)
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
            try:
                recording.start([Throttle(sink, job.rate, len(schemas)) if job.rate < MOST else sink])
                self.loop.run()
            finally:
                recording.close()

    def _round(self) -> None:
        assert self.sink is not None
        self.sink.flush()
        self._flush()

    def _end(self, why: str) -> None:
        """Hand over the last of it."""
        assert self.sink is not None
        assert self.recording is not None
        recorder = self.recording.recorder
        if not self.ended and self.sink.finish(recorder.produced):
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
        if came:  # all that it asks now is `stop`
            self.recording.end("asked to stop")
            return
        if self.recording.recorder.over:
            self._end(self.recording.recorder.why)
        else:
            self._round()
