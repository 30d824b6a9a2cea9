"""kwire: kernel events on the wire.

The public API, and nothing else. Importing it costs next to nothing: what a call needs, the call imports.
"""

from __future__ import annotations

TYPE_CHECKING = False  # for type checkers; `typing` is as long to import as all that `kwire --version` does
if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike
    from typing import Any

    from kwire.agent.host import Host, RemoteTrace
    from kwire.analyze.opened import Opened
    from kwire.bpf.vm import Memory
    from kwire.errors import KwireError
    from kwire.lang.errors import LanguageError
    from kwire.live.events import Event
    from kwire.live.lines import Line
    from kwire.live.maps import (
        Average,
        Count,
        Hash,
        Histogram,
        LinearHistogram,
        Max,
        Min,
        Stats,
        Sum,
        Variable,
    )
    from kwire.live.probes import (
        Probe,
        begin,
        end,
        fentry,
        fexit,
        hardware,
        interval,
        iter,
        kprobe,
        kretprobe,
        probe,
        profile,
        rawtracepoint,
        self,
        software,
        tracepoint,
        uprobe,
        uretprobe,
        usdt,
        watchpoint,
    )
    from kwire.live.script import Script
    from kwire.live.simulate import fake, simulate
    from kwire.live.trace import Trace

__version__ = "0.1.0"

_LATER = {
    "KwireError": "kwire.errors",
    **dict.fromkeys(
        (
            "Probe",
            "begin",
            "end",
            "fentry",
            "fexit",
            "hardware",
            "interval",
            "iter",
            "kprobe",
            "kretprobe",
            "profile",
            "rawtracepoint",
            "self",
            "software",
            "tracepoint",
            "uprobe",
            "uretprobe",
            "usdt",
            "watchpoint",
        ),
        "kwire.live.probes",
    ),
    **dict.fromkeys(
        (
            "Average",
            "Count",
            "Hash",
            "Histogram",
            "LinearHistogram",
            "Max",
            "Min",
            "Stats",
            "Sum",
            "Variable",
        ),
        "kwire.live.maps",
    ),
    "Opened": "kwire.analyze.opened",
    "Event": "kwire.live.events",
    "Host": "kwire.agent.host",
    "Memory": "kwire.bpf.vm",
    "RemoteTrace": "kwire.agent.host",
    "LanguageError": "kwire.lang.errors",
    "Line": "kwire.live.lines",
    "Script": "kwire.live.script",
    "Trace": "kwire.live.trace",
    "fake": "kwire.live.simulate",
    "simulate": "kwire.live.simulate",
}
"""Public name → the module that has it."""

_MODULES = ("probe",)
"""Public names that are modules."""

__all__ = [
    "Average",
    "Count",
    "Event",
    "Hash",
    "Histogram",
    "Host",
    "KwireError",
    "LanguageError",
    "Line",
    "LinearHistogram",
    "Max",
    "Memory",
    "Min",
    "Opened",
    "Probe",
    "RemoteTrace",
    "Script",
    "Stats",
    "Sum",
    "Trace",
    "Variable",
    "begin",
    "bt",
    "connect",
    "end",
    "fake",
    "fentry",
    "fexit",
    "hardware",
    "interval",
    "iter",
    "kprobe",
    "kretprobe",
    "open",
    "probe",
    "profile",
    "rawtracepoint",
    "self",
    "simulate",
    "software",
    "trace",
    "tracepoint",
    "uprobe",
    "uretprobe",
    "usdt",
    "watchpoint",
]


def trace(
    *probes: Probe | str,
    filter: str | None = None,
    command: str | list[str] | None = None,
    pid: int | list[int] | None = None,
    seconds: float | None = None,
    count: int | None = None,
    buffer: int | None = None,
) -> Trace:
    """Compile and load probes; they fire inside the `with` that the result is used in.

    `probes`: functions under `kwire.kprobe` and its like, and probe specs as `kwire record` takes them:
    `"tracepoint:syscalls:sys_enter_openat(filename){comm == 'cat'}"`. `filter`: an expression that must hold
    for every event of the probes that have its names. `command`, `pid`: trace only that command (started when
    the `with` begins) or those processes, and whatever they start; neither: the whole machine. `seconds`,
    `count`: end after so long or so many events. `buffer`: bytes of each CPU's ring (default: 8 MB, less with
    many CPUs). Raises KwireError with what is
    wrong and what to do.

        with kwire.trace(connect, seconds=10) as events:
            for event in events:
                print(event.comm, event.dport)
    """
    from kwire.live.trace import Trace

    limits: dict[str, Any] = {"command": command, "pid": pid, "seconds": seconds, "count": count}
    return Trace(probes, filter=filter, buffer=buffer, **limits)


def bt(
    script: str,
    *arguments: str | int,
    parameters: Mapping[str, str | int | bool] | None = None,
    command: str | list[str] | None = None,
    pid: int | list[int] | None = None,
    seconds: float | None = None,
    buffer: int | None = None,
    unsafe: bool = False,
) -> Script:
    """Compile and load a script in the bpftrace language; it runs in the `with` that the result is used in.

    `arguments`: what `$1`, `$2`, … are; `parameters`: what `getopt("name", …)` gives by name. `command`: run
    when the `with` begins (`cpid`), its end is the end of all; `pid`: only these processes; `seconds`: end
    after so long; `unsafe`: allow what can change the system. Raises `kwire.LanguageError`, which has the
    place of everything that is wrong (`places`), and other KwireErrors.

        with kwire.bt('tracepoint:syscalls:sys_enter_openat { @[comm] = count(); }', seconds=5) as script:
            for line in script:             # what it prints: line.text, line["filename"]
                print(line)
        print(script.maps["@"])
    """
    from kwire.live.script import Script

    limits: dict[str, Any] = {"command": command, "pid": pid, "seconds": seconds, "buffer": buffer}
    return Script(script, arguments, parameters, unsafe=unsafe, **limits)


def open(path: str | PathLike[str]) -> Opened[Event]:
    """Open a capture: its events, its columns as numpy arrays, Arrow tables and data frames, SQL over it.

    `path`: a file, or `-` for standard input. Nothing is read before it is asked for. Raises KwireError.

        with kwire.open("build.pcapng") as capture:
            for event in capture.events("*openat", where="pid == 42"):
                print(event.time_ns, event.filename)
    """
    from kwire.analyze.opened import Opened
    from kwire.arguments import needed
    from kwire.live.events import Event

    [name] = needed("open", path=path)
    return Opened(name, Event)


def connect(host: str, *, cert: str = "", key: str = "", ca: str = "", insecure: bool = False) -> Host:
    """Another machine that `kwire agent --listen` runs on: its `trace`, `record` and `probes`.

    `host`: a name (TLS at port 17800; TCP on loopback) or an address: `tls:HOST:PORT`, `unix:PATH`, …;
    `cert`, `key`, `ca`: PEM files (default: in $KWIRE_TLS, ~/.config/kwire or /etc/kwire); `insecure`: in the
    clear over a network. Nothing is connected before something is asked for.

        with kwire.connect("web1.example").trace(opened, seconds=10) as events:
            for event in events:
                print(event.comm, event.path)
    """
    from kwire.agent.host import Host
    from kwire.arguments import needed

    host, cert, key, ca, insecure = needed("connect", host=host, cert=cert, key=key, ca=ca, insecure=insecure)
    if not (cert or key or ca):
        return Host(host, None, insecure)
    from kwire.transport.tls import TlsOptions

    return Host(host, TlsOptions(cert, key, ca), insecure)


def __dir__() -> list[str]:
    """Everything public, imported already or not."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})


def __getattr__(name: str) -> Any:
    """Names whose modules are imported only when somebody asks for them."""
    if name in _LATER or name in _MODULES:
        import importlib

        if name in _MODULES:
            return importlib.import_module(f"kwire.{name}")
        found = globals()[name] = getattr(importlib.import_module(_LATER[name]), name)
        return found
    raise AttributeError(f"module 'kwire' has no attribute {name!r}")
