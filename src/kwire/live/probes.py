"""Probes as Python functions: what the decorators make of a function.

Invariant: the function never runs in Python. It is read (its source text), compiled to eBPF and run by the
kernel; calling it is an error that says so.
"""

from collections.abc import Callable

from kwire.arguments import needed
from kwire.errors import KwireError
from kwire.hints import Any, NoReturn, TypeAlias

Function: TypeAlias = Callable[..., Any]


class Probe:
    """A probe function and where it attaches: `kprobe:tcp_connect`, the outermost decorator first."""

    __slots__ = ("__name__", "attach", "function")

    def __init__(self, function: Function, attach: tuple[str, ...]) -> None:
        self.function = function
        self.attach = attach
        self.__name__ = getattr(function, "__name__", "probe")

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: a probe's body is compiled, never run by Python."""
        raise KwireError(
            "call probe",
            self.__name__,
            "its body is compiled for the kernel, Python does not run it",
            "pass it to kwire.trace, or to kwire.simulate in a test",
        )

    def __repr__(self) -> str:
        return f"<probe {self.__name__} on {', '.join(self.attach)}>"


Decorator: TypeAlias = Callable[["Function | Probe"], Probe]


def probe(spec: str) -> Decorator:
    """Attach a function to a whole probe spec, such as `kprobe:tcp_connect`; may be repeated."""
    [spec] = needed("make probe", spec=spec)
    return _attached(spec)


def _at(kind: str, target: str) -> Decorator:
    [target] = needed(f"make {kind}", target=target)
    return _attached(f"{kind}:{target}")


def _attached(spec: str) -> Decorator:
    def decorate(function: Function | Probe) -> Probe:
        if isinstance(function, Probe):
            return Probe(function.function, (spec, *function.attach))
        return Probe(function, (spec,))

    return decorate


def kprobe(target: str) -> Decorator:
    """Run at the entry of a kernel function: `function`, `module:function`, `function+offset`; wildcards."""
    return _at("kprobe", target)


def kretprobe(target: str) -> Decorator:
    """Run at the return of a kernel function; the built-in `retval` is what it returned."""
    return _at("kretprobe", target)


def tracepoint(target: str) -> Decorator:
    """Run at a tracepoint, `category:name`; parameters are named after its fields."""
    return _at("tracepoint", target)


def rawtracepoint(target: str) -> Decorator:
    """Run at a tracepoint with its own, unformatted arguments."""
    return _at("rawtracepoint", target)


def fentry(target: str) -> Decorator:
    """Run at the entry of a kernel function through BTF: cheaper than a kprobe, where the kernel has it."""
    return _at("fentry", target)


def interval(period: str) -> Decorator:
    """Run again and again on one CPU: `s:1`, `ms:100`, `hz:10`, whichever processes are traced."""
    return _at("interval", period)


def profile(period: str) -> Decorator:
    """Run again and again on every CPU, whatever runs there: `hz:99`."""
    return _at("profile", period)


def begin(function: "Function | Probe") -> Probe:
    """Run when the trace begins, before any other probe of it fires: `@kwire.begin`, without arguments."""
    return _attached("begin")(function)


def end(function: "Function | Probe") -> Probe:
    """Run when the trace ends, after the last of the other probes."""
    return _attached("end")(function)


def fexit(target: str) -> Decorator:
    """Run at the return of a kernel function, its arguments and `retval` at hand."""
    return _at("fexit", target)


def uprobe(target: str) -> Decorator:
    """Run at the entry of a function of a program or a library: `file:function`, `file:function+offset`,
    `file:0xADDRESS`; a library may be named as `libc`.
    """
    return _at("uprobe", target)


def uretprobe(target: str) -> Decorator:
    """Run at the return of a function of a program; the built-in `retval` is what it returned."""
    return _at("uretprobe", target)


def usdt(target: str) -> Decorator:
    """Run at a static probe that a program marks: `file:provider:name`; `arg0`, … are what it gives."""
    return _at("usdt", target)


def software(target: str) -> Decorator:
    """Run at each so many events that the kernel counts: `page-faults:100`."""
    return _at("software", target)


def hardware(target: str) -> Decorator:
    """Run at each so many events that the CPU counts: `cache-misses:1000000`."""
    return _at("hardware", target)


def watchpoint(target: str) -> Decorator:
    """Run at each access to memory: `address:length:mode`, mode r, w, rw or x."""
    return _at("watchpoint", target)


def iter(objects: str) -> Decorator:
    """Run once for each object that the kernel has when the trace begins: `task`, `task_file`, `bpf_map`, …;
    parameters are what the kernel calls it. A trace of nothing else ends by itself.
    """
    return _at("iter", objects)


def self(target: str) -> Decorator:
    """Run when a signal comes to the process that traces, `signal:SIGUSR1` or `signal:SIGUSR2`."""
    return _at("self", target)
