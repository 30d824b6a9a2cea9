"""Sessions under a simulated network with a virtual clock: seeded scenarios, each judged to the last payload.

`python tests/wire/simulation.py --first 0 --count 1000` runs 1,000 scenarios and prints one JSON line: how
many, what happened in them, which transitions they took, and the first seeds that failed; `--trace` with one
seed shows every frame. The laws that each scenario is judged by stand in `Scenario.judge`.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

from kwire.wire.frame import Flag
from kwire.wire.lineage import Lineage
from kwire.wire.retransmit import DatagramSender
from kwire.wire.session import (
    MAX_WAITING,
    Hello,
    MemorySendQueue,
    Role,
    Session,
    Settings,
    State,
    peek_hello,
    unknown,
)
from kwire.wire.transitions import Abandoned, Action, Changed, Delivered, Input, Replied, Requested, Watched

LIMIT = 5000.0  # virtual seconds in which every scenario ends
MAX_FRAMES = 20000  # frames that no scenario needs


class Link:
    """One direction of the network: what it does to what is sent, until it heals."""

    def __init__(self, random: random.Random, rough: bool) -> None:
        self.random = random
        self.delay = random.choice([0.001, 0.01, 0.05, 0.3])
        self.jitter = self.delay * random.choice([0, 0, 0.5, 5]) if rough else 0.0
        self.loss = random.choice([0, 0, 0.05, 0.3, 0.6]) if rough else 0.0
        self.copies = random.choice([0, 0, 0.1, 0.4]) if rough else 0.0
        self.damage = random.choice([0, 0, 0.05, 0.2]) if rough else 0.0
        self.cuts: list[tuple[float, float]] = []  # from, to: nothing passes
        self.heals = 0.0

    def cut(self, now: float) -> float:
        """When the cut that `now` lies in ends; `now` where it lies in none."""
        return next((end for start, end in self.cuts if start <= now < end), now)

    def wait(self) -> float:
        return self.delay + self.random.random() * self.jitter

    def carry(self, data: bytes, now: float) -> list[tuple[float, bytes]]:
        """When a datagram arrives, and as what: not at all, damaged, twice."""
        if self.cut(now) > now:
            return []
        if now >= self.heals:
            return [(now + self.delay, data)]
        chance = self.random.random
        arrivals = []
        for _ in range(2 if self.copies and chance() < self.copies else 1):
            if self.loss and chance() < self.loss:
                continue
            arrives = data
            if self.damage and chance() < self.damage:
                arrives = self.damaged(data)
            arrivals.append((now + self.wait(), arrives))
        return arrivals

    def damaged(self, data: bytes) -> bytes:
        """A change that the checksum always finds: of one bit, or of the length."""
        if self.random.random() < 0.2:
            return data[: self.random.randrange(len(data))]
        place = self.random.randrange(8 * len(data))
        changed = bytearray(data)
        changed[place >> 3] ^= 1 << (place & 7)
        return bytes(changed)


class Pipe:
    """A stream between the two nodes: in order and whole until it breaks."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.alive = True
        self.last = [0.0, 0.0]  # when the last bytes arrive, by direction
        self.first = b""  # bytes that the responder has, until they are a HELLO
        self.greeted = False


class Stepped(Session):
    """A session that tells of every step, those of DATA too."""

    __slots__ = ("_stepped",)
    _short_way = False

    def __init__(self, stepped: Callable[[State, Input], None], *args: Any, **rest: Any) -> None:
        self._stepped = stepped
        super().__init__(*args, **rest)

    def _step(self, input: Input, value: Any = None) -> Action:
        self._stepped(self.state, input)
        return super()._step(input, value)


class Node:
    """One side: the application around its sessions, and its clock."""

    def __init__(self, world: Scenario, role: Role, initiator: bool) -> None:
        self.world = world
        self.role = role
        self.initiator = initiator
        self.side = 0 if initiator else 1
        self.skew = world.random.uniform(0, 1000)  # of the clock
        self.sessions: dict[bytes, Session] = {}
        self.lineages: dict[bytes, Lineage] = {}  # token → the HELLOs said, on disk
        self.current: Session | None = None
        self.pipe: Pipe | None = None  # of the current session
        self.due = float("inf")  # the deadline that is in the heap
        self.up = True
        self.cookie = world.random.randbytes(8)  # a responder's, made anew at each start
        self.asked: dict[tuple[bytes, int], int] = {}
        self.frames = 0

    def now(self) -> float:
        return self.world.now + self.skew

    # ---- sessions

    def make(self, token: bytes = b"", resume: bool = False, **rest: Any) -> Session:
        world = self.world
        lineage = self.lineages.get(token, Lineage())
        session = Stepped(
            world.stepped,
            self.role,
            initiator=self.initiator,
            datagrams=world.datagrams,
            settings=world.settings,
            token=token,
            resume=resume,
            random=world.random.randbytes,
            about={"host": self.role.value},
            lineage=lineage,
            **rest,
        )
        self.lineages[session.token] = lineage
        if world.trace:
            session.watcher = lambda watched: world.show(self, watched)
        self.current = session
        self.sessions[session.token] = session
        return session

    def open(self, token: bytes) -> Session:
        """A new session of this node's role."""
        raise NotImplementedError

    def wanted(self) -> bool:
        """True while an initiator has something to connect for."""
        raise NotImplementedError

    def happened(self, session: Session, session_event: Any) -> None:
        raise NotImplementedError

    def work(self) -> None:
        """Do what the state allows."""

    # ---- the world calls

    def connect(self) -> None:
        """An initiator tries to connect, if it is not connected."""
        if not self.up or not self.initiator:
            return
        session = self.current
        if session is not None and session.over:
            session = self.current = None
        if session is None:
            if not self.wanted():
                return
            session = self.open(b"")
        if session.state not in (State.CLOSED, State.SUSPENDED):
            return
        world = self.world
        if not world.datagrams:
            if not world.other(self).up or max(link.cut(world.now) for link in world.links) > world.now:
                world.at(world.now + 2, self.connect)
                return
            self.drop_pipe()
            self.pipe = world.other(self).accept()
        session.connected(self.now())
        self.poke()

    def drop_pipe(self) -> None:
        """Close our end; the other side hears of it later, or never."""
        pipe, self.pipe = self.pipe, None
        if pipe is not None and pipe.alive:
            pipe.alive = False
            other = self.world.other(self)
            self.world.at(self.world.now + self.world.random.choice([0.1, 5, 1000]), lambda: other.hear(pipe))

    def hear(self, pipe: Pipe) -> None:
        """The stream ended, as far as this side can see."""
        if self.pipe is pipe and self.up:
            pipe.alive = False
            self.pipe = None
            if self.current is not None:
                self.current.disconnected(self.now(), "the connection broke")
            self.poke()

    def accept(self) -> Pipe:
        """A responder gets a new connection; an old one is forgotten when its session is taken over."""
        self.world.pipes += 1
        return Pipe(self.world.pipes)

    def arrive(self, data: bytes, pipe: Pipe | None) -> None:
        if not self.up or (pipe is not None and not pipe.alive):
            return
        if pipe is not None and not self.initiator and not pipe.greeted:
            pipe.first += data
            hello = peek_hello(pipe.first)
            if hello is None:
                return
            data, pipe.greeted = pipe.first, True
            self.greet(hello, pipe)
        elif pipe is not None and pipe is not self.pipe:
            return  # of a connection that this side has dropped
        elif pipe is None and not self.initiator:
            hello = peek_hello(data)
            if hello is not None and (self.current is None or hello.token != self.current.token):
                if hello.cookie != self.cookie:
                    self.world.challenge(self, hello)
                    return
                self.greet(hello, None)
        if self.current is not None:
            self.current.receive(data, self.now())
            self.poke()

    def greet(self, hello: Hello, pipe: Pipe | None) -> None:
        """Choose the session that a HELLO is for, as a listener does."""
        session = self.sessions.get(hello.token)
        if session is None:
            session = self.find(hello)
        if session is None:
            if hello.resume:
                self.world.send(self, unknown(hello, Flag.CHECKSUM if pipe is None else 0), pipe)
                self.current = None
                return
            session = self.open(hello.token)
        if pipe is not None:
            if self.pipe is not None and self.pipe is not pipe:
                self.pipe.alive = False
                if self.current is not None:
                    self.current.disconnected(self.now(), "a new connection took over")
            if session is not self.current or session.state is not State.SUSPENDED:
                session.disconnected(self.now(), "a new connection took over")
            self.pipe = pipe
            session.connected(self.now())
        elif session is not self.current and self.current is not None:
            self.current.disconnected(self.now(), "another session took over")
        self.current = session

    def find(self, hello: Hello) -> Session | None:
        """A session that survived a restart."""
        return None

    def tick(self) -> None:
        self.due = float("inf")
        if self.up:
            now = self.now()
            for session in list(self.sessions.values()):
                deadline = session.deadline()
                if deadline is not None and deadline <= now:
                    session.tick(now)
            self.poke()

    def poke(self) -> None:
        """Take what happened, work, send, and wait for the next deadline."""
        self.told()
        self.work()
        while self.told():
            self.work()
        world = self.world
        for session in list(self.sessions.values()):
            world.bounded(self, session)
            if session is not self.current:
                session.transmit(1 << 16)
                continue
            for _ in range(50):
                buffers = session.transmit(world.chunk)
                if not buffers:
                    break
                world.transmitted(self, buffers)
        self.arm()

    def told(self) -> bool:
        """Take what happened; True where something did."""
        taken = False
        for session in list(self.sessions.values()):
            for session_event in session.session_events():
                taken = True
                self.world.happened[type(session_event).__name__] += 1
                if isinstance(session_event, Changed):
                    if self.world.trace:
                        print(f"{self.world.now:9.3f} {self.role.value:6} {session_event.old.name} → "
                              f"{session_event.new.name}: {session_event.why}")  # fmt: skip
                    if self.initiator and session_event.new in (State.SUSPENDED, State.EXPIRED):
                        self.drop_pipe()
                        self.world.at(self.world.now + 1, self.connect)
                elif isinstance(session_event, Requested):
                    session.reply(session_event.number, {"answer": session_event.body["ask"]}, self.now())
                elif isinstance(session_event, Replied):
                    expected = self.asked.pop((session.token, session_event.number))
                    assert session_event.body == {"answer": expected}, "a reply to another request"
                else:
                    self.happened(session, session_event)
        return taken

    def arm(self) -> None:
        deadlines = [session.deadline() for session in self.sessions.values()]
        due = min((when for when in deadlines if when is not None), default=float("inf")) - self.skew
        if due < self.due:
            self.due = max(due, self.world.now) + 1e-6  # skews round
            self.world.at(self.due, self.alarm)

    def alarm(self) -> None:
        if self.up and self.world.now >= self.due:
            self.tick()

    def jump(self, seconds: float) -> None:
        """The clock jumps."""
        self.skew += seconds
        self.due = float("inf")
        self.arm()

    def ask(self) -> None:
        session = self.current
        if self.up and session is not None and session.state is State.ESTABLISHED and len(self.asked) < 4:
            value = self.world.random.randrange(1000)
            self.asked[session.token, session.request({"ask": value}, self.now())] = value
            self.poke()

    def quit(self) -> None:
        """The owner has had enough: a sink leaves, a source ends without waiting."""
        if self.up and self.current is not None:
            if self.role is Role.SINK:
                self.world.closed = True
                self.current.close(self.now(), "enough")
            else:
                self.current.fail(self.now(), "enough")
            self.poke()

    def die(self) -> None:
        """The process is killed; what it kept stays."""
        self.up = False
        self.asked.clear()
        self.drop_pipe()
        self.due = float("inf")
        self.sessions.clear()
        self.current = None

    def live(self, remembers: bool) -> None:
        """The process starts again."""
        self.up = True
        self.cookie = self.world.random.randbytes(8)
        self.restarted(remembers)
        if self.initiator:
            self.connect()
        self.arm()

    def restarted(self, remembers: bool) -> None:
        raise NotImplementedError


class Source(Node):
    """Produces payloads; counts as lost what it could not send, or what was abandoned."""

    def __init__(self, world: Scenario, initiator: bool) -> None:
        super().__init__(world, Role.SOURCE, initiator)
        self.backlog: list[int] = []  # payloads to be sent
        self.numbers: dict[tuple[bytes, int], int] = {}  # (token, sequence) → payload
        self.spool: tuple[bytes, MemorySendQueue] | None = None
        self.produced = 0
        self.acked: set[int] = set()

    def open(self, token: bytes) -> Session:
        world = self.world
        send_queue = MemorySendQueue(world.settings.memory, world.first)
        if world.datagrams:  # DATA of an older session may still be under way: numbers never start alike
            world.first = world.random.randrange(1 << 32)
        session = self.make(token, send_queue=send_queue)
        self.spool = (session.token, send_queue)
        return session

    def wanted(self) -> bool:
        return bool(self.backlog) or self.produced < len(self.world.payloads)

    def produce(self) -> None:
        """The kernel has something: it is sent, or lost because the buffer is full."""
        world = self.world
        number, self.produced = self.produced, self.produced + 1
        if not self.up:
            world.lost.add(number)
            return
        if len(self.backlog) >= max(4, world.burst):
            world.lost.add(number)  # sender full
        else:
            self.backlog.append(number)
        self.poke()

    def work(self) -> None:
        session, world = self.current, self.world
        if session is None or session.over:
            return
        if session.state not in (State.DRAINING, State.CLOSED) and not self.closing(session):
            while self.backlog and session.room >= len(world.payloads[self.backlog[0]]):
                payload = self.backlog.pop(0)
                number = session.send(world.payloads[payload], self.now())
                self.numbers[session.token, number] = payload
            if self.produced == len(world.payloads) and not self.backlog:
                session.close(self.now(), "all is produced")

    def closing(self, session: Session) -> bool:
        return session._closing is not None

    def happened(self, session: Session, session_event: Any) -> None:
        if isinstance(session_event, Abandoned):
            payloads = [self.numbers[session.token, number] for number in session_event.sequences]
            self.world.abandoned.update(payloads)
            if self.world.resend:
                self.backlog[:0] = payloads
            else:
                self.world.lost.update(payloads)

    def die(self) -> None:
        for token, session in self.sessions.items():
            if self.spool is None or token != self.spool[0]:
                waiting = session.send_queue.first, session.send_queue.next
                self.world.died.update(self.held(token, *waiting))
        super().die()
        self.world.died.update(self.backlog)
        self.backlog.clear()

    def restarted(self, remembers: bool) -> None:
        if self.spool is None:
            return
        token, send_queue = self.spool
        if remembers:
            if send_queue.first != send_queue.next or not self.initiator:
                session = self.make(token, resume=True, send_queue=send_queue)
                self.current = session if self.initiator else None
                self.sessions[token] = session
            return
        self.world.died.update(self.held(token, send_queue.first, send_queue.next))
        self.spool = None

    def held(self, token: bytes, first: int, next: int) -> list[int]:
        """The payloads of these numbers."""
        count = (next - first) & 0xFFFFFFFF
        return [self.numbers[token, (first + step) & 0xFFFFFFFF] for step in range(count)]


class Sink(Node):
    """Stores payloads: what it has stored survives its death, what it has not is gone."""

    def __init__(self, world: Scenario, initiator: bool) -> None:
        super().__init__(world, Role.SINK, initiator)
        self.waiting: list[tuple[bytes, int, int]] = []  # delivered, not stored
        self.kept: dict[bytes, int] = {}  # token → the next to be stored, on disk
        self.taken: dict[bytes, int | None] = {}  # token → the HELLO that it was stored after, on disk
        self.files: dict[bytes, list[int]] = {}  # token → sequences, as stored
        self.storing = False

    def open(self, token: bytes) -> Session:
        return self.make(token)

    def wanted(self) -> bool:
        return not self.world.closed

    def find(self, hello: Hello) -> Session | None:
        if hello.token in self.kept and hello.resume:
            next, continued = self.kept[hello.token], self.taken.get(hello.token)
            return self.make(hello.token, resume=True, next_expected=next, continued=continued)
        return None

    def happened(self, session: Session, session_event: Any) -> None:
        if isinstance(session_event, Delivered):
            payload = int(bytes(session_event.payload[:4]).hex(), 16)
            assert bytes(session_event.payload) == self.world.payloads[payload], (
                "a payload that was never sent"
            )
            self.waiting.append((session.token, session_event.sequence, payload))

    def work(self) -> None:
        if self.waiting and not self.storing:
            if not self.world.slow:
                self.store()
            else:
                self.storing = True
                self.world.at(self.world.now + self.world.random.random() * self.world.slow, self.store_later)

    def store_later(self) -> None:
        self.storing = False
        if self.up:
            self.store()
            self.poke()

    def store(self) -> None:
        """What was delivered goes to the disk, and only then is it acknowledged."""
        for token, sequence, payload in self.waiting:
            self.files.setdefault(token, []).append(sequence)
            self.kept[token] = (sequence + 1) & 0xFFFFFFFF
            if token in self.sessions:
                self.taken[token] = self.sessions[token].continued
            self.world.delivered[payload] += 1
        for token, sequence, _ in self.waiting:
            if token in self.sessions:
                self.sessions[token].consumed(sequence, self.now())
        self.waiting.clear()

    def die(self) -> None:
        super().die()
        self.waiting.clear()

    def restarted(self, remembers: bool) -> None:
        if not remembers:
            self.kept.clear()
        elif self.initiator and self.kept:
            token, next = list(self.kept.items())[-1]
            self.make(token, resume=True, next_expected=next)


class Scenario:
    """One world, made from its seed."""

    def __init__(self, seed: int, steps: Counter[tuple[State, Input]], trace: bool = False) -> None:
        self.random = rnd = random.Random(seed)
        self.trace = trace
        self.steps = steps
        self.happened: Counter[str] = Counter()
        self.now = 0.0
        self.heap: list[tuple[float, int, Callable[[], None]]] = []
        self.count = self.pipes = self.frames = 0
        self.datagrams = rnd.random() < 0.7
        self.burst = 0
        self.slow = rnd.choice([0, 0, 0, 0.05, 3])
        self.resend = rnd.random() < 0.5
        self.chunk = rnd.choice([1, 100, 1 << 16])
        self.first = rnd.choice([0, 0, 0xFFFFFFFE, 0x7FFFFFFE, rnd.randrange(1 << 32)])
        self.settings = Settings(
            window=rnd.choice([20, 100, 1000]),
            reach=rnd.choice([2, 8, 64]),
            memory=rnd.choice([60, 300, 3000]),
            ack_every=rnd.choice([1, 50, 1000]),
            ack_delay=rnd.choice([0, 0.05, 0.3]),
            errors=1,
        )
        self.payloads = [
            number.to_bytes(4, "big") + rnd.randbytes(rnd.randrange(4, 36))
            for number in range(rnd.randrange(2, 14))
        ]
        if rnd.random() < 0.1:  # a burst: much is under way at once
            self.burst = 30
            self.settings = self.settings._replace(window=4000, reach=64, memory=5000)
            self.payloads = [number.to_bytes(4, "big") + rnd.randbytes(20) for number in range(30)]
        self.lost: set[int] = set()
        self.died: set[int] = set()
        self.abandoned: set[int] = set()
        self.delivered: Counter[int] = Counter()
        self.closed = False
        self.forgot = False  # a sink without memory came back
        rough = rnd.random() < 0.8
        self.links = [Link(rnd, rough), Link(rnd, rough)]  # from the initiator, from the responder
        initiates = rnd.random() < 0.5
        self.source = Source(self, initiates)
        self.sink = Sink(self, not initiates)
        self.nodes: list[Node] = [self.source, self.sink] if initiates else [self.sink, self.source]
        self.plan(rough)

    def plan(self, rough: bool) -> None:
        """What will happen, and when."""
        rnd, span = self.random, 0.1 if self.burst else self.random.choice([0.5, 10, 60])
        for _ in self.payloads:
            self.at(rnd.random() * span, self.source.produce)
        self.at(rnd.random(), self.nodes[0].connect)
        for _ in range(rnd.choice([0, 0, 1, 3])):
            self.at(rnd.random() * span, rnd.choice(self.nodes).ask)
        heals = span * 1.2 + 3
        if rough:
            for _ in range(rnd.choice([0, 0, 1, 2])):
                start = rnd.random() * span
                end = start + rnd.choice([0.5, 5, 25, 45, 100, 400])
                for link in rnd.choice([self.links, self.links[:1], self.links[1:]]):
                    link.cuts.append((start, end))
                heals = max(heals, end)
            for _ in range(rnd.choice([0, 0, 0, 1, 2])):
                node, remembers = rnd.choice(self.nodes), rnd.random() < 0.7
                start = rnd.random() * span
                self.restart(node, start, start + rnd.choice([0.1, 3, 40, 200]), remembers)
            for _ in range(rnd.choice([0, 0, 0, 1, 2])):
                node, by = rnd.choice(self.nodes), rnd.choice([-1000, -0.5, 0.5, 5, 35, 500])
                self.at(rnd.random() * span, partial(node.jump, by))
            if rnd.random() < 0.1:
                self.at(rnd.random() * span, rnd.choice(self.nodes).quit)
            if not self.datagrams:
                for _ in range(rnd.choice([0, 1, 2])):
                    self.at(rnd.random() * span, self.break_pipe)
        for link in self.links:
            link.heals = heals

    def restart(self, node: Node, down: float, up: float, remembers: bool) -> None:
        def die() -> None:
            if node.up:
                node.die()
                self.happened["death"] += 1
                self.at(self.now + up - down, live)

        def live() -> None:
            if node is self.sink and not remembers:
                self.forgot = True
            node.live(remembers)

        self.at(down, die)

    def break_pipe(self) -> None:
        pipe = next((node.pipe for node in self.nodes if node.pipe is not None), None)
        if pipe is not None:
            pipe.alive = False
            for node in self.nodes:
                self.at(self.now + self.random.choice([0, 1, 1000]), partial(node.hear, pipe))

    # ---- the network

    def at(self, when: float, do: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.heap, (when, self.count, do))

    def other(self, node: Node) -> Node:
        return self.nodes[1 - node.side]

    def transmitted(self, node: Node, buffers: list[Any]) -> None:
        self.frames += len(buffers)
        assert self.frames < MAX_FRAMES, "a storm of frames"
        if self.datagrams:
            for buffer in buffers:
                self.send(node, bytes(buffer), None)
        elif node.pipe is not None:
            self.send(node, b"".join(map(bytes, buffers)), node.pipe)

    def send(self, node: Node, data: bytes, pipe: Pipe | None) -> None:
        link, other = self.links[node.side], self.other(node)
        if pipe is None:
            for when, arrives in link.carry(data, self.now):
                self.at(when, partial(other.arrive, arrives, None))
            return
        at = 0
        while at < len(data):  # TCP gives the bytes in any slices, sends again what is lost, and waits
            step = self.random.choice([3, 20, 1 << 16])
            piece = data[at : at + step]
            at += step
            when = max(link.cut(self.now) + link.wait(), pipe.last[node.side])
            pipe.last[node.side] = when
            self.at(when, partial(other.arrive, piece, pipe))

    def challenge(self, node: Node, hello: Hello) -> None:
        from kwire.wire.control import Welcome

        welcome = Welcome(hello.token, hello.nonce, hello.role.other, cookie=node.cookie)
        self.send(node, welcome.frame(Flag.CHECKSUM), None)

    # ---- running and judging

    def stepped(self, state: State, input: Input) -> None:
        self.steps[state, input] += 1

    def show(self, node: Node, watched: Watched) -> None:
        header = watched.header
        change = "" if watched.before is watched.after else f" → {watched.after.name}"
        problems = "".join(f" {problem}" for problem in watched.problems)
        print(f"{self.now:9.3f} {node.role.value:6} {watched.direction:3} type {header.type} id {header.id} "
              f"{watched.before.name}{change}: {watched.effect}{problems}")  # fmt: skip

    def bounded(self, node: Node, session: Session) -> None:
        """Memory stays within what the settings allow."""
        settings = self.settings
        receiver, sender = session._receiver, session._sender
        if receiver is not None:
            assert receiver.used <= max(settings.window, 40), "the window is overrun"
            assert len(receiver._held) + len(receiver._sizes) <= settings.reach, "too many frames held"
        if sender is not None:
            assert sender.send_queue.room >= 0
        assert len(session._out) <= MAX_WAITING + 8, "too many answers wait"
        assert not session._happened, "session events are left"

    def run(self) -> None:
        while self.heap:
            self.now, _, do = heapq.heappop(self.heap)
            assert self.count < MAX_FRAMES, "a storm of timers"
            if self.now > LIMIT:
                break
            do()
            if not self.closed and self.sink.current is not None and self.sink.current.state is State.CLOSED:
                self.closed = self.sink.current.known
        self.judge()

    def judge(self) -> None:
        """Every payload was delivered exactly once and in order, or counted lost."""
        for session in self.source.sessions.values():
            if isinstance(session._sender, DatagramSender):
                self.happened["resent"] += session._sender.resent
                self.happened["fast"] += session._sender.fast
        for token, sequences in self.sink.files.items():
            steps = {(b - a) & 0xFFFFFFFF for a, b in pairwise(sequences)}
            assert steps <= {1} or self.forgot, f"session {token.hex()[:8]} is stored as {sequences}"
        for payload in range(len(self.payloads)):
            times = self.delivered[payload]
            counted = payload in self.lost or payload in self.died or payload in self.source.backlog
            assert times or counted, f"payload {payload} is missing, and nobody counted it"
            assert times <= 1 or payload in self.abandoned, f"payload {payload} was delivered {times} times"
            if times and counted:
                assert payload in self.abandoned or payload in self.died, f"payload {payload} is counted lost"
        for node in self.nodes:
            for session in node.sessions.values():
                assert session.over or session.state is State.LISTENING or session is not node.current, (
                    f"the {node.role.value} ends {session.state.name}"
                )
        assert self.closed or self.sink.current is None or not (self.source.backlog and self.source.up), (
            "payloads were not sent"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--trace", action="store_true")
    arguments = parser.parse_args()
    steps: Counter[tuple[State, Input]] = Counter()
    happened: Counter[str] = Counter()
    failed: list[tuple[int, str]] = []
    for seed in range(arguments.first, arguments.first + arguments.count):
        scenario = Scenario(seed, steps, arguments.trace)
        try:
            scenario.run()
        except Exception as error:
            if arguments.trace:
                traceback.print_exc()
            where = traceback.extract_tb(error.__traceback__)[-1]
            failed.append((seed, f"{type(error).__name__}: {error} ({where.name}:{where.lineno})"))
        happened += scenario.happened
        happened["delivered"] += sum(scenario.delivered.values())
        happened["lost"] += len(scenario.lost | scenario.died)
        happened["frames"] += scenario.frames
    print(json.dumps({
        "scenarios": arguments.count,
        "happened": happened,
        "steps": {f"{state.name} {input.name}": times for (state, input), times in steps.items()},
        "failed": len(failed),
        "first": failed[:10],
    }))  # fmt: skip
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
