"""Every interleaving of a small world: two peers that follow `transitions.TABLE`, and a channel each way.

The peers are a model: the table decides every action and state, as in the real machine; what an action does
is said once more here, in a few lines, with plain numbers. Over datagrams the channels lose, repeat and
reorder; over streams they keep order and are emptied when the connection breaks. Peers may fall silent, crash
and come back with or without their memory, and expire. `explore` visits every state that can be reached and
checks `broken` there; `stuck` finds what cannot come to an end any more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from kwire.wire.transitions import TABLE, Action, Input, State

CAPACITY = 2  # frames in a channel; one more is lost

SOURCE, SINK = 0, 1
NAMES = ("source", "sink")
LIVE = (State.ESTABLISHED, State.DRAINING)


class Message(NamedTuple):
    """A frame, as far as the model needs it."""

    kind: str  # HELLO, WELCOME, UNKNOWN, DATA, ACK, END, LEFT, KEEPALIVE
    number: int = 0  # next, of a handshake or an ACK; sequence number
    resume: bool = False
    nonce: int = 0


NOTHING = Message("")


class Peer(NamedTuple):
    """One side; of base … closing only a source's, of stored … end only a sink's matter."""

    initiator: bool
    state: State
    known: bool = False
    over: bool = False
    final: str = ""  # what is sent again once it is over: END, LEFT, ACK
    nonce: int = 0
    base: int = 0
    cursor: int = 0
    top: int = 0
    closing: bool = False
    stored: int = 0  # all before it is stored; -1: it does not know where to begin
    held: frozenset[int] = frozenset()
    end: int = -1


class World(NamedTuple):
    """Both peers, what is under way to each, and what may still go wrong."""

    peers: tuple[Peer, Peer]
    under_way: tuple[tuple[Message, ...], tuple[Message, ...]]  # to the source, to the sink
    connected: bool  # of streams: there is a connection
    troubles: int  # silences, cuts and crashes that may still come
    connects: int  # transports that may still be tried
    delivered: tuple[int, ...]  # how often each payload was stored
    abandoned: bool  # the source has counted what was not acknowledged
    forgot: bool  # a sink came back without memory


class Explorer:
    """Explores one kind of world."""

    def __init__(
        self,
        datagrams: bool,
        source_initiates: bool,
        payloads: int = 2,
        troubles: int = 1,
        connects: int = 2,
        leaves: bool = False,
    ) -> None:
        self.datagrams = datagrams
        self.payloads = payloads  # the source has so many; BYE takes the number after
        self.leaves = leaves  # the sink may leave, the source may end without waiting
        peers = tuple(
            Peer(initiates, State.CLOSED if initiates else State.LISTENING, stored=-1)
            for initiates in (source_initiates, not source_initiates)
        )
        nothing = ((), ())
        self.first = World(
            (peers[0], peers[1]), nothing, False, troubles, connects, (0,) * payloads, False, False
        )
        self.taken: set[tuple[State, Input]] = set()

    # ---- what can happen

    def successors(self, world: World) -> Iterator[tuple[str, World]]:
        """Everything that can happen next."""
        for who in (SOURCE, SINK):
            peer = world.peers[who]
            yield from self.arrivals(world, who)
            for input in self.owner(world, who, peer):
                name = f"{NAMES[who]} {input.name}"
                if input is Input.HELLO_SPENT and not self.datagrams:
                    yield name, self.cut(world)
                else:
                    yield name, self.step(world, who, input)
            if world.troubles:
                yield from self.trouble(world._replace(troubles=world.troubles - 1), who, peer)

    def arrivals(self, world: World, who: int) -> Iterator[tuple[str, World]]:
        """A frame arrives, is lost, or arrives and stays to arrive again."""
        waiting = world.under_way[who]
        if not self.datagrams:
            if waiting:
                yield f"{waiting[0]}", self.receive(self.left(world, who, waiting[1:]), who, waiting[0])
            return
        for index, message in enumerate(waiting):
            less = self.left(world, who, waiting[:index] + waiting[index + 1 :])
            yield f"{message} is lost", less
            yield f"{message}", self.receive(less, who, message)
            yield f"{message} and stays", self.receive(world, who, message)

    def owner(self, world: World, who: int, peer: Peer) -> Iterator[Input]:
        """What the peer does by itself: calls of its owner, and timers."""
        state = peer.state
        if peer.initiator and not peer.over and state in (State.CLOSED, State.SUSPENDED) and world.connects:
            yield Input.CONNECT
        if state is State.HELLO_SENT and not world.troubles:
            yield Input.HELLO_SPENT
        if state is State.HELLO_SENT and self.datagrams:
            yield Input.HELLO_AGAIN
        if who == SOURCE and state in LIVE and peer.cursor < self.limit(peer):
            yield Input.SEND
        if who == SOURCE and state in LIVE and self.datagrams and peer.base < peer.cursor:
            yield Input.RETRANSMIT
        if who == SOURCE and not peer.closing and not peer.over and state is State.ESTABLISHED:
            yield Input.CLOSE
        if state is State.SUSPENDED and not world.troubles and not world.connects:
            yield Input.EXPIRE
        if self.leaves and not peer.over:
            yield Input.ABANDON if who == SOURCE else Input.LEAVE
        other = world.peers[1 - who]
        if state in LIVE and self.datagrams and other.over:
            yield Input.IDLE
        if self.datagrams and state in LIVE and other.state not in LIVE and not other.over:
            yield Input.SILENT  # nothing comes from the other any more

    def limit(self, peer: Peer) -> int:
        """The number after the last that the source may send."""
        return self.payloads + 1 if peer.closing else self.payloads

    def trouble(self, world: World, who: int, peer: Peer) -> Iterator[tuple[str, World]]:
        """A silence, a broken connection, a crash."""
        name = NAMES[who]
        if peer.state in LIVE:
            if self.datagrams:
                yield f"{name} SILENT", self.step(world, who, Input.SILENT)
            else:
                yield "cut", self.cut(world)
        if not peer.known or peer.over:
            return
        world = self.cut(world) if not self.datagrams else world
        peer = world.peers[who]
        if who == SOURCE:
            again = peer._replace(
                state=State.SUSPENDED, cursor=peer.base, top=self.payloads + 1, closing=True
            )
            yield "source crashes", self.put(world, who, again)
            return
        again = peer._replace(state=State.SUSPENDED, held=frozenset(), end=-1)
        yield "sink crashes", self.put(world, who, again)
        if not peer.initiator:
            fresh = Peer(False, State.LISTENING, stored=-1)
            yield "sink forgets", self.put(world, who, fresh)._replace(forgot=True)

    def cut(self, world: World) -> World:
        """The connection breaks: what is under way is gone, and both hear of it."""
        world = world._replace(under_way=((), ()), connected=False)
        for who in (SOURCE, SINK):
            world = self.step(world, who, Input.DISCONNECT)
        return world._replace(under_way=((), ()))

    # ---- a step of a peer

    def receive(self, world: World, who: int, message: Message) -> World:
        """Name the input that a frame is, as the real machine does."""
        peer = world.peers[who]
        kind, input = message.kind, Input.ERROR
        if kind == "HELLO":
            gone = peer.over and not peer.final
            input = Input.HELLO
            if peer.state is not State.EXPIRED:
                if gone or (message.resume and not peer.known):
                    input = Input.HELLO_UNKNOWN
                elif message.resume and who == SOURCE and message.number > peer.top:
                    input = Input.HELLO_AHEAD
        elif kind in ("WELCOME", "UNKNOWN"):
            lost = peer.known and not message.resume and peer.state is State.HELLO_SENT
            ahead = message.resume and who == SOURCE and message.number > peer.top
            if message.nonce != peer.nonce:
                input = Input.WELCOME_FOREIGN
            elif kind == "UNKNOWN" or lost or ahead:
                input = Input.WELCOME_UNKNOWN
            else:
                input = Input.WELCOME
        else:
            input = Input[kind]
        return self.step(world, who, input, message)

    def step(self, world: World, who: int, input: Input, message: Message = NOTHING) -> World:
        """Apply the table's rule, and those that follow."""
        peer = world.peers[who]
        rule = TABLE[peer.state][input]
        self.taken.add((peer.state, input))
        if not self.datagrams and input is not Input.DISCONNECT:
            assert rule.action not in (Action.LATE, Action.ILLEGAL), f"{input.name} in {peer.state.name}"
        world = self.act(world, who, rule.action, message)
        world = self.put(world, who, world.peers[who]._replace(state=rule.next))
        peer = world.peers[who]
        if peer.over:
            return world
        if who == SOURCE and peer.closing:
            if peer.state is State.ESTABLISHED:
                return self.step(world, who, Input.CLOSE)
            if peer.base > self.payloads if peer.state is State.DRAINING else peer.base == self.payloads:
                return self.step(world, who, Input.FINISHED)
        if who == SINK and peer.state is State.DRAINING and peer.stored == peer.end:
            return self.step(world, who, Input.FINISHED)
        return world

    def act(self, world: World, who: int, action: Action, message: Message) -> World:
        """What an action does to the model."""
        peer = world.peers[who]
        other = 1 - who
        if action in (Action.IGNORE, Action.LATE, Action.HEARD, Action.DETACH, Action.ATTACH):
            return (
                self.send(world, other, self.ack(peer)) if action is Action.HEARD and who == SINK else world
            )
        if action is Action.HELLO:
            if not self.datagrams:
                world = self.attach(world._replace(under_way=((), ()), connected=True), other)
            world = world._replace(connects=world.connects - 1)
            peer = peer._replace(nonce=world.connects + 1)
            return self.send(self.put(world, who, peer), other, self.hello(who, peer))
        if action is Action.HELLO_AGAIN:
            return self.send(world, other, self.hello(who, peer))
        if action in (Action.WELCOME, Action.ESTABLISH):
            known = peer.known
            world = self.put(world, who, self.begin(who, peer, message))
            if action is Action.ESTABLISH:
                return world
            answer = self.hello(who, world.peers[who])
            return self.send(world, other, answer._replace(kind="WELCOME", resume=known, nonce=message.nonce))
        if action is Action.WELCOME_OVER:
            answer = self.hello(who, peer)._replace(kind="WELCOME", resume=True, nonce=message.nonce)
            return self.again(self.send(world, other, answer), who)
        if action is Action.UNKNOWN:
            return self.send(world, other, Message("UNKNOWN", nonce=message.nonce))
        if action is Action.DISOWN:
            world = self.send(world, other, Message("UNKNOWN", nonce=message.nonce))
            return self.give_up(world, who)
        if action is Action.AGAIN:
            return self.again(world, who)
        if action is Action.SUSPEND:
            return world
        if action is Action.GIVE_UP:
            return self.give_up(world, who)
        if action in (
            Action.KEEP,
            Action.RESEND,
        ):  # the model's SEND: the next goes out; else the oldest again
            number = peer.cursor if action is Action.KEEP else peer.base
            if action is Action.KEEP:
                cursor = peer.cursor + 1
                peer = peer._replace(cursor=cursor, top=max(peer.top, cursor))
            kind = "END" if number == self.payloads else "DATA"
            return self.send(self.put(world, who, peer), other, Message(kind, number))
        if action is Action.REFUSE:  # SEND while draining: what was given before still goes out
            return self.act(world, who, Action.KEEP, message)
        if action is Action.DRAIN:
            return self.put(world, who, peer._replace(closing=True))
        if action is Action.SAY_BYE:
            final = "LEFT" if peer.known else ""
            return self.again(self.put(world, who, peer._replace(over=True, final=final)), who)
        if action is Action.FINISH:
            return self.finish(world, who, peer)
        if action is Action.TAKE:
            return self.take(world, peer, message.number)
        if action is Action.ACKED:
            return self.put(world, who, self.release(peer, message.number))
        if action is Action.BYE:
            peer = peer._replace(end=message.number)
            return self.send(self.put(world, who, peer), other, self.ack(peer))
        if action is Action.GONE:
            world = self.put(world, who, self.release(peer, message.number))
            return self.give_up(world, who)
        assert action is Action.BEAT, action
        return self.send(world, other, Message("KEEPALIVE"))

    def attach(self, world: World, who: int) -> World:
        """A new stream reaches the responder; if it still held the old one, that is gone."""
        if world.peers[who].state in LIVE:
            world = self.step(world, who, Input.DISCONNECT)
        return self.step(world, who, Input.ACCEPT)

    def begin(self, who: int, peer: Peer, message: Message) -> Peer:
        if who == SOURCE:
            peer = self.release(peer, message.number) if message.resume else peer
            peer = peer._replace(cursor=peer.base)
        elif not peer.known:
            peer = peer._replace(stored=message.number)
        return peer._replace(known=True)

    @staticmethod
    def release(peer: Peer, number: int) -> Peer:
        base = max(peer.base, number)
        return peer._replace(base=base, cursor=max(peer.cursor, base))

    def take(self, world: World, peer: Peer, number: int) -> World:
        """DATA at the sink: stored as soon as it is the next."""
        held, stored, delivered = set(peer.held), peer.stored, list(world.delivered)
        if number >= stored:
            held.add(number)
        while stored in held:
            held.discard(stored)
            delivered[stored] += 1
            stored += 1
        peer = peer._replace(held=frozenset(held), stored=stored)
        world = self.put(world, SINK, peer)._replace(delivered=tuple(delivered))
        return self.send(world, SOURCE, self.ack(peer))

    def finish(self, world: World, who: int, peer: Peer) -> World:
        if who == SOURCE:
            return self.put(world, who, peer._replace(over=True, final="END"))
        done = peer.end >= 0 and peer.stored == peer.end
        final = "ACK" if done else "LEFT" if peer.known else ""
        world = self.put(world, who, peer._replace(over=True, final=final))
        return self.again(world, who) if done else world

    def again(self, world: World, who: int) -> World:
        peer = world.peers[who]
        if peer.final == "END":
            return self.send(world, SINK, Message("END", self.payloads))
        if peer.final:
            return self.send(world, SOURCE, self.ack(peer)._replace(kind=peer.final))
        return world

    def give_up(self, world: World, who: int) -> World:
        world = self.put(world, who, world.peers[who]._replace(over=True))
        return world._replace(abandoned=True) if who == SOURCE else world

    @staticmethod
    def ack(peer: Peer) -> Message:
        return Message("ACK", peer.stored + (peer.end >= 0 and peer.stored == peer.end))

    def hello(self, who: int, peer: Peer) -> Message:
        next = min(peer.base, self.payloads) if who == SOURCE else self.ack(peer).number if peer.known else 0
        return Message("HELLO", next, peer.known, peer.nonce)

    def send(self, world: World, to: int, message: Message) -> World:
        """Into the channel; what does not fit is lost, over streams it waits with what is there."""
        waiting = world.under_way[to]
        if not self.datagrams:
            return self.left(world, to, (*waiting, message)) if world.connected else world
        if len(waiting) >= CAPACITY or message in waiting:
            return world  # the same twice is the same that stays
        return self.left(world, to, tuple(sorted((*waiting, message))))

    @staticmethod
    def left(world: World, to: int, waiting: tuple[Message, ...]) -> World:
        both = (waiting, world.under_way[1]) if to == SOURCE else (world.under_way[0], waiting)
        return world._replace(under_way=both)

    @staticmethod
    def put(world: World, who: int, peer: Peer) -> World:
        peers = (peer, world.peers[1]) if who == SOURCE else (world.peers[0], peer)
        return world._replace(peers=peers)

    # ---- what must hold

    def broken(self, world: World) -> str:
        """Which law a state breaks; empty where none."""
        source, sink = world.peers
        if any(times > 1 for times in world.delivered) and not world.forgot:
            return "a payload was stored twice"
        missing = sum(not times for times in world.delivered)
        if source.base > self.payloads - missing and source.base <= self.payloads and not world.forgot:
            return "the source has released what the sink has not stored"
        if source.state is State.CLOSED and source.over and missing and not world.abandoned:
            return "the source is done, and not all is stored"
        if source.state is State.EXPIRED and not world.abandoned:
            return "expired, and nothing is counted"
        if sink.state is State.CLOSED and sink.final == "ACK" and missing and not world.forgot:
            return "the sink is done, and not all is stored"
        return ""

    def ended(self, world: World) -> bool:
        """The source is done as it should be; a sink that BYE did not reach expires, and has everything."""
        source = world.peers[SOURCE]
        return source.state is State.CLOSED and source.over

    def explore(self, most: int = 2_000_000) -> tuple[int, list[str]]:
        """Visit everything. Gives the number of states, and how the first that breaks a law came about."""
        came: dict[World, tuple[World, str]] = {self.first: (self.first, "")}
        queue = deque([self.first])
        back: dict[World, list[World]] = {}
        while queue:
            world = queue.popleft()
            why = self.broken(world)
            if why:
                return len(came), [*self.story(came, world), why]
            for name, after in self.successors(world):
                back.setdefault(after, []).append(world)
                if after not in came:
                    came[after] = (world, name)
                    queue.append(after)
                    assert len(came) < most, "too many states"
        return len(came), self.stuck(came, back)

    def stuck(self, came: dict[World, tuple[World, str]], back: dict[World, list[World]]) -> list[str]:
        """How a state came about from which nothing leads to an end, though nothing was given up."""
        good = deque(world for world in came if self.ended(world))
        reached = set(good)
        while good:
            for world in back.get(good.popleft(), []):
                if world not in reached:
                    reached.add(world)
                    good.append(world)
        for world in came:
            given_up = any(peer.state is State.EXPIRED or peer.over for peer in world.peers) or world.forgot
            tries = world.connects or all(peer.state in LIVE for peer in world.peers)
            if world not in reached and not given_up and tries:
                return [*self.story(came, world), "it cannot end"]
        return []

    def story(self, came: dict[World, tuple[World, str]], world: World) -> list[str]:
        """How a state came about."""
        lines: list[str] = []
        while came[world][1]:
            before, name = came[world]
            lines.append(f"{name:60} {' '.join(peer.state.name for peer in world.peers)}")
            world = before
        return lines[::-1]
