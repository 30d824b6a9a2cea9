"""Packets in batches: the walkers take the plain ones, the network takes the others one by one.

The laws: what the walkers know of a flow is exactly what its conversation knows, handed over before and after
each packet that is not plain; so what comes out is the same with and without this, only sooner. A table that
fills up is emptied, and fills again with the flows that are still there.
"""

from array import array
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Final

from kwire.capture.input import Bytes
from kwire.packets import walk
from kwire.packets.conversations import Conversation, Given
from kwire.packets.tables import ETHERTYPES, PROTOCOLS, Protocol, Remark
from kwire.wire.control import Role
from kwire.wire.frames import Frames

if TYPE_CHECKING:
    from kwire.packets.network import Flow, Network

LIMIT: Final = 1 << 14  # packets, and events, in a batch
SLOTS: Final = 1 << 13  # of the table of flows; half of them are used at most
NEVER: Final = 1 << 32  # no sequence number

#: Takes one packet that is not plain: (place of its bytes, how many, interface) → where to stop before it.
Single = Callable[[int, int, int], "int | None"]


class Bulk:
    """The walkers' side of a network. `passive`: they leave all frames to be seen."""

    def __init__(self, network: "Network", ports: Collection[int], any_port: bool, passive: bool) -> None:
        self._passive = passive
        self._network = network
        self._any_port = any_port
        self._ports = bytearray(8192)
        for port in ports:
            self._ports[port >> 3] |= 1 << (port & 7)
        self._rows = array("Q", bytes(8 * walk.ROW_WORDS * LIMIT))
        self._offsets = array("Q", bytes(8 * LIMIT))
        self._owners = array("Q", bytes(8 * LIMIT))
        self._tally = array("Q", bytes(8 * walk.TALLY_WORDS))
        self._table = array("Q", bytes(8 * walk.SLOT_WORDS * SLOTS))
        self._used = 0
        self._places: dict[tuple[int, int], int] = {}  # flow number and direction → its slot
        self._conversations: list[Conversation] = []  # by owner
        self._raw = 0

    def take(self, step: Any, data: Bytes, at: int, swap: bool, links: "array[int]", single: Single) -> int:
        """Take packets from `at` on, found by the walker `step`; gives where it stopped."""
        count, after = step(data, at, len(data), swap, len(links), self._rows, LIMIT)
        index = 0
        while index < count:
            done, found = walk.packet_frames(
                *(data, self._rows, index, count, swap, links, self._ports, self._any_port, self._raw),
                *(self._table, self._offsets, self._owners, self._tally),
            )
            self._network.packets += done - index
            index = done
            if found:
                self._give(data, found)
            elif index < count:
                start, size = self._rows[2 * index], self._rows[2 * index + 1]
                stop = single(start, size & 0xFFFFFFFF, size >> 32)
                if stop is not None:
                    return stop
                index += 1
        return int(after)

    def settle(self) -> None:
        """Hand the counts of frames and remarks to the network."""
        tally, network = self._tally, self._network
        network.frames += tally[walk.TALLY_FRAMES]
        for place, remark in (
            (walk.TALLY_UNSUMMED, Remark.CHECKSUM_NONE),
            (walk.TALLY_PARTIAL, Remark.CHECKSUM_OFFLOAD),
        ):
            if tally[place]:
                network.remarks[remark.name] += tally[place]
        tally[walk.TALLY_FRAMES :] = array("Q", [0, 0, 0])

    def finish(self) -> None:
        """Hand the counts of packets of no interest to the network."""
        self.settle()
        tally = self._tally
        if not tally.tobytes().strip(b"\0"):
            return  # as for a capture of ours: 5 ms saved
        data, at = tally.tobytes(), 0
        while rest := data[at:].lstrip(b"\0"):  # nearly all of it is zeros
            number = (len(data) - len(rest)) // 8
            at = 8 * (number + 1)
            protocol = number - walk.TALLY_PROTOCOL
            name = (
                ETHERTYPES.get(number, f"ethertype {number:#06x}")
                if protocol < 0
                else PROTOCOLS.get(protocol, f"IP protocol {protocol}")
            )
            self._network.others[name] += tally[number]
            tally[number] = 0

    def pull(self, flow: "Flow") -> None:
        """Tell the flow's conversation what the walkers took."""
        conversation = flow.conversation
        for direction in (0, 1):
            place = self._places.get((flow.number, direction))
            if place is not None and conversation is not None and conversation.next is not None:
                following = self._table[place + walk.SLOT_NEXT]
                if following != NEVER and self._table[place] >> 32 == walk.FLOW_DATA:
                    conversation.next = following

    def push(self, flow: "Flow") -> None:
        """Tell the walkers what they may take of this flow from now on."""
        conversation = flow.conversation
        if conversation is None or self._passive:
            return
        owner = self._owner(conversation)
        if not flow.protocol:
            self._raw = owner + 1
            return
        if flow.protocol != Protocol.UDP:
            return
        for direction in (0, 1):
            role = flow.roles[direction]
            kind = 0
            if role is Role.SINK:
                kind = walk.FLOW_ACKS
            elif role is Role.SOURCE and not conversation.waits:
                kind = walk.FLOW_DATA
            place = self._slot(flow, direction)
            if place < 0:
                continue
            following = NEVER if conversation.next is None else conversation.next
            self._table[place : place + 2] = array("Q", [owner + 1 | kind << 32, following])

    def forget(self, flow: "Flow") -> None:
        """This flow has ended, or its conversation goes on elsewhere."""
        for direction in (0, 1):
            place = self._places.pop((flow.number, direction), None)
            if place is not None:
                self._table[place] &= 0xFFFFFFFF

    def _owner(self, conversation: Conversation) -> int:
        if conversation.owner < 0:
            conversation.owner = len(self._conversations)
            self._conversations.append(conversation)
        return conversation.owner

    def _slot(self, flow: "Flow", direction: int) -> int:
        place = self._places.get((flow.number, direction))
        if place is not None:
            return place
        if self._used * 2 >= SLOTS:
            self._table = array("Q", bytes(8 * walk.SLOT_WORDS * SLOTS))
            self._places.clear()
            self._used = 0
        (source, source_port), (target, target_port) = flow.ends[direction], flow.ends[1 - direction]
        key = walk.flow_key(4 if len(source) == 4 else 6, (source_port, target_port), source, target)
        place = walk.find_flow(self._table, SLOTS, key)
        if place < 0:
            return -1
        self._used += not self._table[place]
        self._table[place + walk.SLOT_PORTS] = key[0]
        self._table[place + walk.SLOT_ADDRESSES : place + walk.SLOT_WORDS] = array("Q", key[1:])
        self._places[flow.number, direction] = place
        return place

    def _give(self, data: Bytes, found: int) -> None:
        """Give the events of a batch, those of each conversation together."""
        import numpy as np

        owners = np.frombuffer(self._owners, np.uint64, found)
        first = self._owners[0]
        if (owners == first).all():
            self._frames(data, self._offsets[:found], first)
            return
        offsets = np.frombuffer(self._offsets, np.uint64, found)
        for owner in np.unique(owners).tolist():
            self._frames(data, array("Q", offsets[owners == owner].tobytes()), owner)

    def _frames(self, data: Bytes, offsets: "array[int]", owner: int) -> None:
        conversation = self._conversations[owner]
        conversation.flush()
        conversation.give(Given(conversation.section, Frames(data, offsets)))
