"""What a fleet needs at its broker: the stream of messages, and the bucket of sessions, with their limits.

Invariants: limits are said, never silently other than asked for; of a stream that is there only the limits
that are named change, and what they discard is counted by whoever collects (`kwire.broker.claims`). No
publication is acknowledged that a majority of the replicas has not got.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kwire.broker.address import BrokerAddress
from kwire.broker.client import BrokerError, plain, unfit
from kwire.broker.names import BUCKET, STREAM, SUBJECTS

if TYPE_CHECKING:
    from nats.js import JetStreamContext

DUPLICATES: Final = 120.0
"""Seconds in which the broker itself drops what is published again; later whoever collects does."""

DISCARD: Final = {
    "old": "what is oldest goes; what nobody had collected of it is counted LOST",
    "new": "nothing more is taken: agents keep it, in memory and spools, and count what finds no room",
}
"""What a broker may do where a limit is reached."""


class Limits(NamedTuple):
    """How much a broker keeps of messages: copies, seconds (0: however old they are), bytes (-1: as many as
    come), and what it discards then (`DISCARD`).
    """

    replicas: int = 1
    age: float = 86400.0
    size: int = 8 << 30
    discard: str = "old"


async def init(
    js: "JetStreamContext", address: BrokerAddress, wanted: Mapping[str, Any]
) -> tuple[bool, Limits]:
    """Make stream and bucket, or give those that are there other limits; whether they were there, and all
    limits. `wanted`: some of the fields of `Limits`; the others stay as they are, or as they are by default.

    BrokerError where the broker does not do that.
    """
    from nats.js.api import DiscardPolicy, KeyValueConfig, RetentionPolicy, StorageType, StreamConfig

    known = await stream(js, address)
    if known is not None:
        _changeable(known.config, address)
    limits = (Limits() if known is None else _limits(known.config))._replace(**wanted)
    config = StreamConfig(
        name=STREAM,
        description="kwire: events of agents",
        subjects=[SUBJECTS],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        discard=DiscardPolicy.OLD if limits.discard == "old" else DiscardPolicy.NEW,
        num_replicas=limits.replicas,
        max_age=limits.age,
        max_bytes=limits.size,
        duplicate_window=min(DUPLICATES, limits.age or DUPLICATES),
    )
    try:
        made = await (js.add_stream if known is None else js.update_stream)(config)
        if limits.replicas > 1 and made.cluster is None:
            cause = f"it is one server, and {limits.replicas} copies take a cluster"
            raise BrokerError("set up", str(address), cause, "leave --replicas out")
        bucket = f"KV_{BUCKET}"
        if await stream(js, address, bucket) is None:
            await js.create_key_value(
                KeyValueConfig(
                    bucket=BUCKET,
                    description="kwire: sessions, their SCHEMAs, who has collected what",
                    history=1,
                    storage=StorageType.FILE,
                    replicas=limits.replicas,
                )
            )
        else:
            there = (await js.stream_info(bucket)).config
            there.num_replicas = limits.replicas
            await js.update_stream(there)
    except BrokerError:
        raise
    except Exception as error:
        cause = plain(error)[0]
        cure = "name a smaller --size" if "storage" in cause else ""
        raise BrokerError("set up", str(address), cause, cure) from None
    return known is not None, limits


def _changeable(config: Any, address: BrokerAddress) -> None:
    """BrokerError where the stream has what cannot be changed, and messages may be gone by it."""
    stored = str(getattr(config.storage, "value", config.storage) or "file")
    if stored != "file":
        cause = f"its stream {STREAM} is kept in {stored}, which the broker cannot change"
        cure = "remove that stream, with all that is in it, and do this again"
        raise BrokerError("set up", str(address), cause, cure)
    config.no_ack = False  # that changes here
    if problem := unfit(config, address):
        raise problem


def _limits(config: Any) -> Limits:
    """The limits of a stream that is there."""
    discard = str(getattr(config.discard, "value", config.discard) or "old")
    return Limits(config.num_replicas or 1, config.max_age or 0.0, config.max_bytes or -1, discard)


async def stream(js: "JetStreamContext", address: BrokerAddress, name: str = STREAM) -> Any:
    """What the broker says of a stream; None where there is none. BrokerError where it does not say."""
    from nats.js.errors import NotFoundError

    try:
        return await js.stream_info(name)
    except NotFoundError:
        return None
    except Exception as error:
        raise BrokerError("look at", str(address), plain(error)[0]) from None
