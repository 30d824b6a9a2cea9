"""Tracing for others: a launcher that may load programs, and a process for each trace, which may nothing.

    server          talks to the network, without privileges (`kwire.agent.server`)
    launcher        never reads a byte of the network; forks a trace process whenever the server asks
    trace process   reads one request, compiles, loads and attaches, becomes nobody, and then moves events

Invariants: server and launcher share a socket over which only descriptors travel; server and trace process
share one that carries messages (`Message`); whoever sees the other end closed ends, so nothing outlives the
server; the policy is asked in the trace process too; a trace process never waits for the server: what finds
no room is counted LOST.
"""

import contextlib
import os
import signal
import socket
import struct
import sys
from collections import deque
from collections.abc import Mapping
from enum import IntEnum
from typing import Any, Final

from kwire.agent import confinement, requests
from kwire.agent.policy import MOST, Policy
from kwire.agent.recording import Recording
from kwire.agent.source import SourceSink
from kwire.agent.throttle import Throttle
from kwire.errors import KwireError
from kwire.live.ground import Ground
from kwire.live.recorder import Recorder
from kwire.transport.bind import remove_stale
from kwire.transport.loop import READ, WRITE, Loop
from kwire.transport.tcp import Buffer, rest
from kwire.view.text import safe
from kwire.wire import cbor

HEAD: Final = struct.Struct(">IB")  # bytes of the message after this head, its kind
MAX_MESSAGE: Final = 4 << 20
QUEUE: Final = 2 << 20
"""Bytes that wait in a trace process for the server; more wait in the server's session."""


class Message(IntEnum):
    """What travels between server and trace process."""

    REQUEST = (
        1  # to the trace process, first: a CBOR map: body; identity, address and host of the client; size
    )
    STOP = 2  # to the trace process: end the trace
    REPLY = 3  # to the server, first: the body of the REPLY
    DATA = 4  # to the server: a DATA payload
    END = 5  # to the server, last: the body of the REQUEST `ended`


class Launcher:
    """The server's side of the launcher: `start` gives the socket to a new trace process."""

    __slots__ = ("_control", "pid")

    def __init__(self, policy: Policy, path: str = "") -> None:
        """Fork the launcher, for clients that `policy` knows; call it before the network is touched.

        `path`: of the Unix socket that the server listens on, which it removes when the server has gone.
        """
        self._control, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            self._control.close()
            _launch(other, policy, path)
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

    def close(self) -> None:
        """End the launcher."""
        self._control.close()
        os.waitpid(self.pid, 0)


def _launch(control: socket.socket, policy: Policy, path: str) -> None:
    """The launcher's life. Never returns."""
    status = 1
    server = os.getppid()
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's: it closes our socket
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries the trace processes
        while True:
            data, descriptors, _, _ = socket.recv_fds(control, 1, 1)
            if not data:
                break
            for descriptor in descriptors:
                _fork(control, socket.socket(fileno=descriptor), policy, server)
        if path:
            remove_stale(path)
        status = 0
    finally:
        os._exit(status)


def _fork(control: socket.socket, channel: socket.socket, policy: Policy, server: int) -> None:
    """Have a trace process serve `channel`; where there can be no more processes, the server is told so."""
    with channel:
        try:
            if os.fork() == 0:
                control.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                work(channel, policy, server)
        except OSError as error:
            with contextlib.suppress(OSError):
                _tell(channel, Message.REPLY, requests.failed(_unstartable(error)))


def _unstartable(error: OSError) -> KwireError:
    cause = (error.strerror or "failed").lower()
    return KwireError("start", "a tracer", cause, "wait for other traces to end, or allow the agent more")


def work(channel: socket.socket, policy: Policy, server: int) -> None:
    """A trace process's life. `server`: the process that talks to the network. Never returns."""
    status = 1
    try:
        _TraceProcess(channel, server).run(policy)
        status = 0
    except (BrokenPipeError, ConnectionResetError):
        pass  # the server has gone
    except Exception as error:  # a bug: said here, because nobody else will
        sys.stderr.write(f"kwire: tracer: {safe(f'{type(error).__name__}: {error}')}\n")
        sys.stderr.flush()
    finally:
        os._exit(status)


class Pipe:
    """Messages to the other side of a channel that does not block; an outlet, which takes `QUEUE` bytes."""

    __slots__ = ("_channel", "_waiting", "size")

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._waiting: deque[Buffer] = deque()
        self.size = 0
        """Bytes that wait."""

    @property
    def room(self) -> int:
        """Bytes that it can take."""
        return max(0, QUEUE - self.size)

    def send(self, payload: bytes, now: float) -> int:
        """Take a DATA payload."""
        self.put(Message.DATA, payload)
        return 0

    def put(self, kind: Message, payload: bytes) -> None:
        """Take a message, whether there is room or not."""
        self._waiting.extend((HEAD.pack(len(payload), kind), payload))
        self.size += HEAD.size + len(payload)

    def flush(self) -> bool:
        """Send what the socket takes; whether nothing waits any more. OSError: the other side has gone."""
        while self._waiting:
            buffers = [self._waiting.popleft() for _ in range(min(len(self._waiting), 64))]
            try:
                sent = self._channel.sendmsg(buffers)
            except BlockingIOError:
                sent = 0
            self.size -= sent
            left = rest(buffers, sent)
            if left:
                self._waiting.extendleft(reversed(left))
                return False
        return True


class _TraceProcess:
    """One trace."""

    def __init__(self, channel: socket.socket, server: int) -> None:
        self.channel = channel
        self.server = server
        self.loop = Loop()
        self.pipe = Pipe(channel)
        self.recording: Recording | None = None
        self.sink: SourceSink | None = None
        self.ended = False

    def run(self, policy: Policy) -> None:
        """Do what the request asks for."""
        request = cbor.loads_map(_receive(self.channel, Message.REQUEST))
        try:
            grant = policy.grant(request["identity"], request["address"])
            if grant is None:
                raise KwireError("serve", request["address"], "the agent's policy does not know it")
            grant = grant._replace(client=request["identity"] or request["host"])
            if requests.operation_of(request["body"]) == "probes":
                _tell(self.channel, Message.REPLY, requests.names(request["body"], grant))
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
            _tell(self.channel, Message.REPLY, requests.failed(error))
        else:
            told = {"op": "ended", "why": error.cause, **requests.failed(error)}
            _tell(self.channel, Message.END, told)

    def trace(self, job: requests.Job, size: int) -> None:
        """Attach, give up privileges, move events until it is over."""
        processes = job.processes
        ground = Ground(job.buffer, follow=processes.chosen)
        with Recorder(job.plan, job.limits, ground=ground) as recorder:
            recorder.attach(processes)
            schemas = recorder.plan.schemas
            confinement.agent()
            sink = self.sink = SourceSink(schemas, size)
            _tell(self.channel, Message.REPLY, requests.begun(recorder.plan))
            for payload in sink.begin():
                _send(self.channel, Message.DATA, payload)
            self.channel.setblocking(False)
            sink.outlet = self.pipe
            sink.waits = 0.0
            self.loop.add(self.channel.fileno(), READ, self._ready)
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
            if recorder.command_status is not None:
                told["status"] = recorder.command_status
            self.pipe.put(Message.END, cbor.dumps(told))
        self._flush()

    def _flush(self) -> None:
        try:
            done = self.pipe.flush()
        except OSError:
            self.loop.stop()
            return
        self.loop.modify(self.channel.fileno(), READ if done else READ | WRITE)
        if done and self.ended:
            self.loop.stop()

    def _ready(self, mask: int) -> None:
        assert self.recording is not None
        if mask & ~WRITE:
            try:
                data = self.channel.recv(4096)
            except BlockingIOError:
                data = b"?"
            except OSError:
                data = b""
            if not data:
                self.loop.stop()  # the server has gone: the probes go with us
                return
            if data[HEAD.size - 1 : HEAD.size] == bytes([Message.STOP]):
                self.recording.end("asked to stop")
                return
        if self.recording.recorder.over:
            self._end(self.recording.recorder.why)
        else:
            self._round()


def _tell(channel: socket.socket, kind: Message, value: Mapping[str, Any]) -> None:
    _send(channel, kind, cbor.dumps(value))


def _send(channel: socket.socket, kind: Message, payload: bytes) -> None:
    """Send a message and wait until it is gone."""
    channel.setblocking(True)
    channel.sendall(HEAD.pack(len(payload), kind) + payload)


def _receive(channel: socket.socket, kind: Message) -> bytes:
    """Wait for the message that has to come now."""
    size, found = HEAD.unpack(_exactly(channel, HEAD.size))
    if found != kind or size > MAX_MESSAGE:
        raise ConnectionResetError("not what was to come")
    return _exactly(channel, size)


def _exactly(channel: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = channel.recv(size - len(data))
        if not part:
            raise ConnectionResetError("the server has gone")
        data += part
    return bytes(data)
