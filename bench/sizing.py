"""What a fleet needs: processors, memory, network and disks, from one machine to ten thousand.

    python bench/sizing.py                                  the defaults, for 1 to 10,000 hosts
    python bench/sizing.py --hosts 500 --rate 5000 --event 120 --keep 30 --broker 3

The figures of a machine are options too (`--help`): measure yours with
`bench/fleet.py --hops`, and give them. It needs nothing but Python.
"""

from __future__ import annotations

import argparse
import math
import sys
from typing import NamedTuple

DAY = 86400


class Figures(NamedTuple):
    """Of one machine: µs of a processor an event, bytes, sessions; of one with two cores shared with other
    work, events of 48 bytes. `bench/fleet.py --hops`, or what is named, measures them.
    """

    probe: float = 0.24
    """µs: the probe, the ring and the recording, on the host (bench/overhead.py)."""
    agent: float = 0.064
    """µs: an agent, to a collector."""
    agent_broker: float = 0.136
    """µs: an agent, to a broker."""
    collector: float = 0.115
    """µs: a collector, from agents."""
    collector_broker: float = 0.175
    """µs: a collector, from a broker."""
    broker_in: float = 0.115
    """µs: a broker, for each copy that it takes."""
    broker_out: float = 0.070
    """µs: a broker, for each group that it gives to."""
    packet: int = 32
    """Bytes of a capture around each event (an enhanced packet block)."""
    payload: int = 65_400
    """Bytes of a full DATA frame or message."""
    message: int = 200
    """Bytes of a broker around each full message: subject, headers, what its file says of it."""
    lake: float = 0.3
    """Bytes in a lake for each of an event: 0.22 for files that find opens; more with many small probes."""
    session_memory: int = 47_000
    """Bytes of a collector for each agent connected over TLS (bench/stream.py)."""
    session_memory_broker: int = 61_000
    """The same for each session at a broker (bench/fleet.py)."""
    base_memory: int = 70_000_000
    """Bytes of a collector without agents, taking events."""


class Fleet(NamedTuple):
    """What there is. `rate`: events a second of each host on average; `peak`: how many times that at times;
    `event`: bytes of a frame; `keep`: days that captures stay; `outage`: hours that hosts bridge; `broker`:
    its servers (0: none), with `age`, hours that messages stay; `groups` of collectors; `load`: the share
    of a processor that may be used.
    """

    hosts: int
    rate: float = 1000.0
    peak: float = 5.0
    event: int = 48
    keep: float = 7.0
    outage: float = 4.0
    broker: int = 0
    age: float = 24.0
    groups: int = 1
    load: float = 0.5


class Needs(NamedTuple):
    """What it takes. Cores are those at the peak, at the load that is allowed; the rest is on average but for
    `peak_network`.
    """

    events: float
    """A second, of all hosts."""
    host_cores: float
    """Of each host, for its probes and its agent, at the peak."""
    spool: float
    """Bytes on each host, for the outage, at the average rate."""
    peak_network: float
    """Bytes a second into collectors or broker, at the peak."""
    broker_cores: float
    """Of all servers of the broker."""
    broker_disk: float
    """Bytes of each server."""
    collector_cores: float
    """Of all collectors; a collector uses one."""
    collectors: int
    """Processes, each in a folder of its own."""
    collector_memory: float
    """Bytes of all collectors."""
    captures: float
    """Bytes of all captures that are kept (`--keep`), a copy for each group."""
    lake: float
    """Bytes of the same in a lake."""
    catch_up: float
    """Seconds that collectors take for what waited in an outage, beside what comes; inf: never."""


def needs(fleet: Fleet, of: Figures) -> Needs:
    """The arithmetic."""
    events = fleet.hosts * fleet.rate
    peak = events * fleet.peak
    broker = fleet.broker > 0
    copies = min(fleet.broker, 3) if broker else 0
    host = fleet.rate * fleet.peak * (of.probe + (of.agent_broker if broker else of.agent)) / 1e6
    wire = fleet.event * (1 + 8 / of.payload)
    message = fleet.event * (1 + of.message / of.payload)
    per_event = of.collector_broker if broker else of.collector
    cores = peak * per_event * fleet.groups / 1e6 / fleet.load
    collectors = fleet.groups * max(1, math.ceil(cores / fleet.groups))
    session = of.session_memory_broker if broker else of.session_memory
    held = (fleet.event + of.packet) * events * fleet.keep * DAY * fleet.groups
    spare = collectors / (per_event / 1e6) / fleet.groups - events  # events a second beyond what comes
    waited = events * fleet.outage * 3600
    return Needs(
        events,
        host / fleet.load,
        wire * fleet.rate * fleet.outage * 3600,
        (message if broker else wire) * peak,
        peak * (copies * of.broker_in + fleet.groups * of.broker_out) / 1e6 / fleet.load if broker else 0.0,
        message * events * fleet.age * 3600 * copies / fleet.broker if broker else 0.0,
        cores,
        collectors,
        collectors * of.base_memory + fleet.hosts * session * fleet.groups,
        held,
        of.lake * fleet.event * events * fleet.keep * DAY,
        waited / spare if spare > 0 else math.inf,
    )


def size(number: float) -> str:
    """Bytes for a person."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 999.5 or unit == "TB":
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.3g} {unit}"
        number /= 1000
    return ""


def rows(fleets: list[Fleet], of: Figures) -> list[list[str]]:
    """The table: a row for each need, a column for each fleet."""
    found = [needs(fleet, of) for fleet in fleets]
    broker = any(fleet.broker for fleet in fleets)
    lines: list[list[str]] = [["hosts", *(f"{fleet.hosts:,}" for fleet in fleets)]]
    lines.append(["events/s, average", *(f"{one.events:,.0f}" for one in found)])
    lines.append(["cores of each host, at the peak", *(f"{one.host_cores:.3f}" for one in found)])
    lines.append(["spool of each host", *(size(one.spool) for one in found)])
    lines.append(["network, at the peak", *(f"{size(one.peak_network)}/s" for one in found)])
    if broker:
        lines.append(["cores of the broker, at the peak", *(f"{one.broker_cores:.2f}" for one in found)])
        lines.append(["disk of each server", *(size(one.broker_disk) for one in found)])
    lines.append(["collectors (cores)", *(f"{one.collectors} ({one.collector_cores:.2f})" for one in found)])
    lines.append(["their memory", *(size(one.collector_memory) for one in found)])
    lines.append(["captures", *(size(one.captures) for one in found)])
    lines.append(["or a lake", *(size(one.lake) for one in found)])
    caught = ["never" if math.isinf(one.catch_up) else f"{one.catch_up / 60:.0f} min" for one in found]
    lines.append(["caught up after the outage in", *caught])
    return lines


def markdown(lines: list[list[str]]) -> str:
    """As a table."""
    head, *rest = lines
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rest])


def main(words: list[str]) -> int:
    """Read the options and print the table."""
    parser = argparse.ArgumentParser(description="What a fleet needs.", allow_abbrev=False)
    parser.add_argument("--hosts", type=int, nargs="+", default=[1, 10, 100, 1000, 10_000])
    for name, default in Fleet(1)._asdict().items():
        if name != "hosts":
            parser.add_argument(f"--{name}", type=type(default), default=default, help=f"default {default:g}")
    group = parser.add_argument_group("figures of a machine")
    for name, default in Figures()._asdict().items():
        option = f"--{name.replace('_', '-')}-figure"
        group.add_argument(
            option, dest=f"of_{name}", type=type(default), default=default, help=f"default {default:g}"
        )
    args = parser.parse_args(words)
    values = {name: getattr(args, name) for name in Fleet._fields if name != "hosts"}
    wrong = [name for name, value in values.items() if value <= 0 and name != "broker"]
    if wrong or min(args.hosts) < 1 or args.load > 1:
        parser.error(f"--{wrong[0] if wrong else 'hosts or --load'} makes no sense")
    of = Figures(*(getattr(args, f"of_{name}") for name in Figures._fields))
    print(markdown(rows([Fleet(hosts, **values) for hosts in args.hosts], of)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
