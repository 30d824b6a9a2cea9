"""Every timer and limit of a session: default, range, unit and meaning, in one table.

Invariants: `LIMITS` is the truth; `Settings` has one field for each, with its default; code, documentation
and checks are driven from it. Times are seconds.
"""

from __future__ import annotations

from typing import NamedTuple

from kwire.errors import KwireError


class Limit(NamedTuple):
    """One timer or limit: its default, the range it may be set to, its unit, what it does."""

    default: float
    low: float
    high: float
    unit: str
    meaning: str


MIB = 1 << 20

LIMITS: dict[str, Limit] = {
    "rto_first": Limit(1.0, 0.01, 60, "s", "retransmission timeout before the first round trip is measured"),
    "rto_min": Limit(0.2, 0.001, 60, "s", "shortest retransmission timeout"),
    "rto_max": Limit(60.0, 0.01, 600, "s", "longest retransmission timeout"),
    "hello_tries": Limit(5, 0, 100, "times", "how often an unanswered HELLO is sent again"),
    "keepalive": Limit(10.0, 0.01, 3600, "s", "a side that has sent nothing for so long sends KEEPALIVE"),
    "silent": Limit(3, 1, 100, "keepalives", "a peer that was silent for so many is gone"),
    "expiry": Limit(120.0, 0.01, 86400 * 30, "s", "a session suspended for so long expires"),
    "ack_delay": Limit(0.05, 0, 1, "s", "an ACK waits at most so long for more to acknowledge"),
    "ack_every": Limit(256 << 10, 1, 64 * MIB, "bytes", "an ACK is sent at once after so much DATA"),
    "window": Limit(4 * MIB, 1, 1 << 31, "bytes", "receive window: DATA received and not yet stored"),
    "reach": Limit(16384, 1, 1 << 20, "frames", "receive window: DATA frames received and not yet stored"),
    "memory": Limit(64 * MIB, 1, 1 << 40, "bytes", "DATA sent and not yet acknowledged, kept by the source"),
    "data_size": Limit(65400, 8, 65400, "bytes", "payload of a DATA frame over a byte stream"),
    "datagram_size": Limit(1400, 8, 65400, "bytes", "payload of a DATA frame over datagrams"),
    "requests": Limit(16, 1, 1024, "requests", "REQUESTs waiting for their REPLY, in each direction"),
    "request_size": Limit(MIB, 64, 16 * MIB, "bytes", "body of a REQUEST or REPLY, all its frames together"),
    "errors": Limit(10, 0, 1000, "per second", "ERROR frames sent; what goes beyond is not answered"),
}


class Settings(NamedTuple):
    """The settings of a session; `LIMITS` says what each means."""

    rto_first: float = 1.0
    rto_min: float = 0.2
    rto_max: float = 60.0
    hello_tries: int = 5
    keepalive: float = 10.0
    silent: int = 3
    expiry: float = 120.0
    ack_delay: float = 0.05
    ack_every: int = 256 << 10
    window: int = 4 * MIB
    reach: int = 16384
    memory: int = 64 * MIB
    data_size: int = 65400
    datagram_size: int = 1400
    requests: int = 16
    request_size: int = MIB
    errors: int = 10

    def check(self) -> Settings:
        """Give these settings; KwireError names the first that is out of its range."""
        for name, value in zip(self._fields, self, strict=True):
            limit = LIMITS[name]
            if not limit.low <= value <= limit.high:
                raise KwireError(
                    "set up session",
                    name,
                    f"{value} is out of range",
                    f"give {limit.low:g} to {limit.high:g} {limit.unit}",
                )
        return self


DEFAULTS = Settings()
