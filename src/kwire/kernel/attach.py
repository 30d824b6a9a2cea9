"""Hanging programs on probes: `attach` gives a `Link`; closing it, or the end of the process, takes it
away.

Invariants: nothing is left in the kernel when the descriptors are gone; an error says which probe, and what
is missing and how to get it where that is known; a program that is attached many times tells its probes
apart by the cookie; taking a program away (`Link.detach`) waits for its last run only. The perf event that it
leaves is closed by whoever has time: the kernel takes some 40 ms for each, one after the other.

A tracepoint's perf event is opened disabled and stays so. The programs of a tracepoint hang on the
tracepoint, not on the event, and run whether or not the event counts (a test watches that). A disabled
event is on no CPU's list, so the kernel builds no sample and a firing costs our program and nothing else.
"""

import ctypes
import errno
import fcntl
import os
import signal
from collections.abc import Callable, Sequence

from kwire.hints import Any, TypeAlias
from kwire.kernel import tracefs
from kwire.kernel.cures import perf_refused
from kwire.kernel.prog import Prog
from kwire.kernel.sys import (
    ATTACH_TYPES,
    BPF_F_KPROBE_MULTI_RETURN,
    BPF_F_UPROBE_MULTI_RETURN,
    PERF_ATTR_DISABLED,
    PERF_ATTR_FREQ,
    PERF_COUNT_SW_CPU_CLOCK,
    PERF_EVENT_IOC_SET_BPF,
    PERF_TYPE_BREAKPOINT,
    PERF_TYPE_SOFTWARE,
    PERF_TYPE_TRACEPOINT,
    failure,
    info,
    online_cpus,
    try_bpf,
    try_perf_event_open,
)
from kwire.kernel.syscall import ENOTSUPP, Fd, KernelError
from kwire.kinds import KINDS, period
from kwire.lazy import NamedTuple, pattern
from kwire.words import plural

PMU = "/sys/bus/event_source/devices"
NO_UPROBES = "this kernel has no uprobes"
GET_UPROBES = "boot a kernel with CONFIG_UPROBES and CONFIG_UPROBE_EVENTS"
NO_KPROBES = "this kernel has no kprobes"
GET_KPROBES = "boot a kernel with CONFIG_KPROBES and CONFIG_KPROBE_EVENTS, or use tracepoints"

# Where the kernel keeps how often an attach point fired without running the program, by mechanism.
_MISSED = {"kprobe": "link_perf_kprobe", "kretprobe": "link_perf_kprobe", "kprobe.multi": "link_multi"}


class AttachError(KernelError):
    """A program could not be attached to a probe."""


class FilePlace(NamedTuple):
    """A place in a program or a library: `offset` in its file; `semaphore`: the offset of a counter that the
    kernel raises as long as there is a probe, 0 for none.
    """

    path: str
    offset: int
    semaphore: int = 0

    def __str__(self) -> str:
        return f"{self.path}:{self.offset:#x}"


AttachTarget: TypeAlias = str | FilePlace
"""What a program is attached to: a target by its name, or a place in a file."""


class Link(Fd):
    """A program on a probe. `mechanism`: how it hangs there, `kprobe.multi`, `fentry`, …; `events`: the perf
    events on which it hangs.
    """

    __slots__ = ("events", "is_link", "mechanism", "target")

    def __init__(
        self, fd: int, mechanism: str, target: str, is_link: bool = True, events: Sequence[Fd] = ()
    ) -> None:
        super().__init__(fd)
        self.events = events
        self.mechanism = mechanism
        self.target = target
        self.is_link = is_link  # false where the kernel has no links for this and `fd` is the perf event

    def detach(self) -> Sequence[Fd]:
        """Take the program away: it runs no more. Gives what is left to be closed."""
        super().close()
        events, self.events = self.events, ()
        return events

    def close(self) -> None:
        """Take the program away and free all that it hung on."""
        for event in self.detach():
            event.close()

    @property
    def missed(self) -> int:
        """How often the probe fired and the kernel could not run the program: its instance count was used
        up, or another kprobe was being handled. 0 where the kernel does not say. What was skipped
        because the program was already running on the CPU is counted by the program
        (`Prog.info().recursion_misses`).
        """
        kind = _MISSED.get(self.mechanism)
        if kind is None or not self.is_link:
            return 0
        return info(kind, self.fd)[0]["missed"]

    @property
    def only_one(self) -> bool:
        """Whether the kernel has found that the function to whose name it hangs is the only one that has it:
        kernels that tell how many firings a link to a kprobe missed (6.7) refuse other names. Since
        1870ddcd94b0 (7.0) functions of modules are not counted where the kernel proper has the name.
        """
        if _MISSED.get(self.mechanism) != "link_perf_kprobe" or not self.is_link:
            return False
        try:
            told, length = info("link_perf_kprobe", self.fd)
        except KernelError:  # before 6.5 it tells the privileged only
            return False
        return told.has("missed", length)


STEP = 64
"""Objects that an iteration goes on by: their events are to find room in a ring."""


class Iteration(Link):
    """A program that is to run for each object of a kind: `step` lets it."""

    __slots__ = ("over",)

    def __init__(self, fd: int, mechanism: str, target: str) -> None:
        super().__init__(fd, mechanism, target, is_link=False)
        self.over = False

    def step(self) -> None:
        """Go on by some objects; `over` is true behind the last. The program writes a byte for each, so a
        read of so many bytes ends behind so many objects. Raises AttachError.
        """
        try:
            self.over = not os.read(self.fd, STEP)
        except OSError as error:
            if error.errno != errno.EAGAIN:  # it looked at a million without anything for us
                self.over = True
                raise _refused(self.mechanism, self.target, error.errno or 0, "") from None


class OnSignal(Link):
    """A program that is run here when a signal comes to this process, after those that were attached to the
    signal before. To be closed in the main thread, in which handlers of signals are set.
    """

    __slots__ = ("_number", "_prog")

    def __init__(self, prog: Prog, number: int, kind: str, target: str) -> None:
        """Raises AttachError in a thread that gets no signals."""
        super().__init__(-1, kind, target, is_link=False)
        self._prog = prog
        self._number = number
        waiting = _waiting.setdefault(number, [])
        if not waiting:
            try:
                _before[number] = signal.signal(number, _came)
            except ValueError:
                cause = "only the main thread of a program gets signals"
                raise AttachError("attach to", f"{kind}:{target}", cause, "trace from there") from None
        waiting.append(self)

    def run(self) -> None:
        """Run the program."""
        self._prog.test_run()

    def close(self) -> None:
        """Let go of the signal; behind the last it means what it did before."""
        waiting = _waiting[self._number]
        if self in waiting:
            waiting.remove(self)
            if not waiting:
                signal.signal(self._number, _before.pop(self._number))
        super().close()


_waiting: dict[int, list[OnSignal]] = {}
"""Those of each signal, in their order."""

_before: dict[int, Any] = {}
"""What each signal meant before the first."""


def _came(number: int, frame: object) -> None:
    for one in _waiting[number]:
        one.run()


class SeveralLinks(Link):
    """A program that hangs on several events at once, which are taken away together."""

    __slots__ = ("all",)

    def __init__(self, first: Link, others: Sequence[Link]) -> None:
        super().__init__(-1, first.mechanism, first.target, first.is_link)
        self.all = (first, *others)

    def detach(self) -> Sequence[Fd]:
        """Take it away from all."""
        return [event for one in self.all for event in one.detach()]


def attach(prog: Prog, kind: str, target: AttachTarget, cookie: int = 0) -> Link:
    """Attach a program to one probe.

    `kind` and `target`: tracepoint `category:name`; rawtracepoint `name`; kprobe `function`,
    `module:function`, `function+offset` or an address `0x…`; kretprobe `function` or `module:function`;
    fentry and fexit: the function was given when the program was loaded, `target` only names it; uprobe,
    uretprobe and usdt: a `FilePlace`. Raises AttachError.
    """
    if kind not in KINDS:
        raise AttachError("attach to", f"{kind}:{target}", "there is no such kind of probe")
    return MECHANISMS[KINDS[kind].mechanism](prog, kind, target, cookie)


def attach_multi(prog: Prog, targets: Sequence[tuple[str | int, int]], *, on_return: bool = False) -> Link:
    """Attach a program, loaded with `multi`, to many functions at once: (name or address, cookie) of each.

    Either all names or all addresses. Functions of modules are given by address on kernels before 6.2.
    Nothing is attached when one of them cannot be. Raises AttachError.
    """
    count = len(targets)
    subject, one = plural(count, "function"), "one of them"
    if not count:
        raise AttachError("attach to", subject, "none was given")
    kind = "kprobe.multi"
    if count == 1:
        kind, subject, one = "kretprobe" if on_return else "kprobe", str(targets[0][0]), "it"
    cookies = (ctypes.c_uint64 * count)(*(cookie for _, cookie in targets))
    names = [target.encode() for target, _ in targets if isinstance(target, str)]
    addresses = [target for target, _ in targets if isinstance(target, int)]
    if names and addresses:
        raise AttachError("attach to", subject, "names and addresses cannot be mixed")
    symbols = (ctypes.c_char_p * count)(*names) if names else None
    fd, error, _ = try_bpf(
        "link_create_multi",
        prog_fd=prog.fd,
        attach_type=ATTACH_TYPES["kprobe_multi"],
        multi_flags=BPF_F_KPROBE_MULTI_RETURN if on_return else 0,
        cnt=count,
        syms=symbols,
        addrs=(ctypes.c_uint64 * count)(*addresses) if addresses else None,
        cookies=cookies if any(cookies) else None,
    )
    if error:
        note = {
            errno.ESRCH: f"{one} is not in the kernel, or not traceable (inlined or notrace)",
            errno.ENOENT: f"{one} is not traceable (inlined or notrace)",
            errno.EOPNOTSUPP: "this kernel has no kprobe.multi",
        }.get(error, "")
        raise _refused(kind, subject, error, note)
    return Link(fd, "kprobe.multi", subject)


def attach_files(prog: Prog, targets: Sequence[tuple[FilePlace, int]], *, on_return: bool = False) -> Link:
    """Attach a program, loaded with `multi`, to many places of one file at once: (place, cookie) of each.
    Nothing is attached when one of them cannot be. Raises AttachError.
    """
    count = len(targets)
    if not count:
        raise AttachError("attach to", "places", "none was given")
    path = targets[0][0].path
    subject = f"{plural(count, 'place')} of {path}"
    numbers = ctypes.c_uint64 * count
    semaphores = [place.semaphore for place, _ in targets]
    fd, error, _ = try_bpf(
        "link_create_uprobes",
        prog_fd=prog.fd,
        attach_type=ATTACH_TYPES["uprobe_multi"],
        path=os.fsencode(path) + b"\0",
        offsets=numbers(*(place.offset for place, _ in targets)),
        ref_ctr_offsets=numbers(*semaphores) if any(semaphores) else None,
        cookies=numbers(*(cookie for _, cookie in targets)),
        cnt=count,
        uprobe_flags=BPF_F_UPROBE_MULTI_RETURN if on_return else 0,
    )
    if error:
        raise _refused("uprobe.multi", subject, error, _NO_PLACE.get(error, ""))
    return Link(fd, "uprobe.multi", subject)


_NO_PLACE = {
    errno.ENOENT: "the file is not there",
    errno.EINVAL: "the kernel allows no probe there",
    ENOTSUPP: "the kernel allows no probe there",
    errno.EIO: "the file cannot be read",
}


def _run(prog: Prog, kind: str, target: str, cookie: int) -> Link:
    """Run a program of a moment of the trace, which is now. Nothing hangs anywhere."""
    prog.test_run()
    return Link(-1, kind, target, is_link=False)


def _signal(prog: Prog, kind: str, target: str, cookie: int) -> Link:
    """Run a program at each signal of a name."""
    return OnSignal(prog, signal.Signals[target.rpartition(":")[2]], kind, target)


def _clock(prog: Prog, kind: str, target: str, cookie: int) -> Link:
    """Run a program again and again on one CPU."""
    return _ticking(prog, kind, target, cookie, online_cpus()[0])


def _clocks(prog: Prog, kind: str, target: str, cookie: int) -> Link:
    """The same on every CPU."""
    return _everywhere(lambda cpu: _ticking(prog, kind, target, cookie, cpu))


def _everywhere(attached: Callable[[int], Link]) -> Link:
    """Attach on every CPU."""
    links: list[Link] = []
    try:
        for cpu in online_cpus():
            links.append(attached(cpu))
    except BaseException:
        for link in links:
            link.close()
        raise
    return SeveralLinks(links[0], links[1:])


def _ticking(prog: Prog, kind: str, target: str, cookie: int, cpu: int) -> Link:
    found = period(target)
    if found is None:
        raise AttachError("attach to", f"{kind}:{target}", "that is no period")
    number, often = found
    perf, error = try_perf_event_open(
        -1,
        cpu,
        type=PERF_TYPE_SOFTWARE,
        config=PERF_COUNT_SW_CPU_CLOCK,
        sample_period=number,
        flags=PERF_ATTR_FREQ if often else 0,
    )
    if error:
        note = "the kernel allows no such rate" if error == errno.EINVAL else ""
        cure = perf_refused() if error in (errno.EPERM, errno.EACCES) else ""
        raise _refused(kind, target, error, note, cure)
    return _on_perf_event(prog, perf, kind, target, cookie)


def _counter(prog: Prog, kind: str, target: str, cookie: int) -> Link:
    """Run a program at each so many events of a counter, on every CPU."""
    from kwire.perfevents import counter

    found = counter(kind, target)
    if found is None:
        raise AttachError("attach to", f"{kind}:{target}", "there is no such counter")

    def attached(cpu: int) -> Link:
        perf, error = try_perf_event_open(
            -1, cpu, type=found.type, config=found.config, sample_period=found.number
        )
        if error:
            note, cure = "", perf_refused() if error in (errno.EPERM, errno.EACCES) else ""
            if error in (errno.ENOENT, errno.EOPNOTSUPP, errno.ENODEV):
                note = "this machine has no counter of that"
                cure = "virtual machines often have none: use a software event or profile:hz:99"
            raise _refused(kind, target, error, note, cure)
        return _on_perf_event(prog, perf, kind, target, cookie)

    return _everywhere(attached)


def _watchpoint(prog: Prog, kind: str, target: str, cookie: int) -> Link:
    """Run a program at each access to a stretch of memory, on every CPU."""
    from kwire.perfevents import watch

    found = watch(target)
    if found is None:
        raise AttachError("attach to", f"{kind}:{target}", "that is no stretch of memory")

    def attached(cpu: int) -> Link:
        perf, error = try_perf_event_open(
            -1,
            cpu,
            type=PERF_TYPE_BREAKPOINT,
            sample_period=1,
            bp_type=found.access,
            config1=found.address,
            config2=found.length if found.access != EXECUTED else 8,  # as the kernel wants it
        )
        if error:
            note = {
                errno.EINVAL: "the CPU watches no such stretch: it is to be aligned to its length, "
                "and mode r goes with w",
                errno.ENOSPC: "the CPU watches as many places as it can",
                errno.ENOENT: "this kernel or machine watches no memory",
                errno.EOPNOTSUPP: "this machine does not watch memory so",
            }.get(error, "")
            cure = perf_refused() if error in (errno.EPERM, errno.EACCES) else ""
            raise _refused(kind, target, error, note, cure)
        return _on_perf_event(prog, perf, kind, target, cookie)

    return _everywhere(attached)


def _iterator(prog: Prog, kind: str, target: str, cookie: int) -> Link:
    """Make ready to run a program for each object."""
    link, error, _ = try_bpf("link_create_iter", prog_fd=prog.fd, attach_type=ATTACH_TYPES["iter"])
    if error:
        note = "the kernel walks these only with something that is named" if error == errno.EBADF else ""
        raise _refused(kind, target, error, note)
    with Fd(link):
        fd, error, _ = try_bpf("iter_create", link_fd=link)
    if error:
        raise _refused(kind, target, error, "")
    return Iteration(fd, kind, target)


EXECUTED = 4
"""HW_BREAKPOINT_X."""


def _tracepoint(prog: Prog, kind: str, target: str, cookie: int) -> Link:
    category, _, name = target.partition(":")
    event_id = tracefs.shared().event_id(category, name)
    perf, error = try_perf_event_open(
        -1, online_cpus()[0], type=PERF_TYPE_TRACEPOINT, config=event_id, flags=PERF_ATTR_DISABLED
    )
    if error:
        cure = perf_refused() if error in (errno.EPERM, errno.EACCES) else ""
        raise _refused(kind, target, error, "its perf event cannot be opened", cure)
    return _on_perf_event(prog, perf, kind, target, cookie)


def _rawtracepoint(prog: Prog, kind: str, target: str, cookie: int) -> Link:
    fd, error, _ = try_bpf("raw_tracepoint_open", name=target, prog_fd=prog.fd, cookie=cookie)
    if error:
        note = {
            errno.ENOENT: "this kernel has no such tracepoint",
            errno.EINVAL: "this kernel gives raw tracepoints no cookies" if cookie else "",
        }.get(error, "")
        raise _refused(kind, target, error, note)
    return Link(fd, kind, target)


_FUNCTION = pattern(r"(?:(?P<module>[\w.-]+):)?(?P<name>[\w.$]+)(?:\+(?P<offset>0[xX][0-9a-fA-F]+|\d+))?")


def _kprobe(prog: Prog, kind: str, target: str, cookie: int) -> Link:
    pmu = kprobe_pmu()
    if pmu is None:
        raise AttachError("attach to", f"{kind}:{target}", NO_KPROBES, GET_KPROBES, errno.ENODEV)
    pmu_type, return_bit = pmu
    symbol: bytes | None = None
    if target.startswith(("0x", "0X")):
        offset = int(target, 16)
    else:
        found = _FUNCTION.fullmatch(target)
        if not found:
            raise AttachError("attach to", f"{kind}:{target}", "that is no function")
        offset = int(found["offset"] or "0", 0)
        symbol = (f"{found['module']}:" if found["module"] else "").encode() + found["name"].encode()
    on_return = KINDS[kind].result
    if on_return and symbol and offset:
        raise AttachError(
            "attach to", f"{kind}:{target}", "a function returns as a whole; leave the offset out"
        )
    perf, error = try_perf_event_open(
        -1,
        online_cpus()[0],
        type=pmu_type,
        config=1 << return_bit if on_return else 0,
        config1=_pointer(symbol),
        config2=offset,
        flags=PERF_ATTR_DISABLED,
    )
    if error:
        note = {
            errno.ENOENT: "this kernel has no such function",
            errno.EADDRNOTAVAIL: "several functions have this name",
            # As in notrace functions; the copies that a compiler makes of inline ones are such.
            errno.EINVAL: "the kernel allows no probe there",
            errno.EILSEQ: "the offset is not where an instruction starts",
        }.get(error, "")
        cure = "give its address (0x…) or its module" if error == errno.EADDRNOTAVAIL else ""
        if error in (errno.EPERM, errno.EACCES):
            cure = perf_refused()
        raise _refused(kind, target, error, note, cure)
    return _on_perf_event(prog, perf, kind, target, cookie)


def _uprobe(prog: Prog, kind: str, place: AttachTarget, cookie: int) -> Link:
    if not isinstance(place, FilePlace):
        raise AttachError("attach to", f"{kind}:{place}", "that is no place in a file")
    found = pmu("uprobe")
    if found is None:
        raise AttachError("attach to", f"{kind}:{place}", NO_UPROBES, GET_UPROBES, errno.ENODEV)
    pmu_type, return_bit = found
    path = os.fsencode(place.path)
    config = 1 << return_bit if KINDS[kind].result else 0
    perf, error = try_perf_event_open(
        -1,
        online_cpus()[0],
        type=pmu_type,
        config=config | place.semaphore << SEMAPHORE_BIT,
        config1=_pointer(path),
        config2=place.offset,
        flags=PERF_ATTR_DISABLED,
    )
    if error:
        cure = perf_refused() if error in (errno.EPERM, errno.EACCES) else ""
        raise _refused(kind, str(place), error, _NO_PLACE.get(error, ""), cure)
    return _on_perf_event(prog, perf, kind, str(place), cookie)


def _pointer(text: bytes | None) -> int:
    """The address of a NUL-terminated string that lives as long as `text` does."""
    return ctypes.cast(ctypes.c_char_p(text), ctypes.c_void_p).value or 0 if text else 0


def _tracing(prog: Prog, kind: str, target: str, cookie: int) -> Link:
    if cookie:
        fd, error, _ = try_bpf(
            "link_create_tracing", prog_fd=prog.fd, attach_type=ATTACH_TYPES[kind], cookie=cookie
        )
    else:
        fd, error, _ = try_bpf("raw_tracepoint_open", prog_fd=prog.fd)
    if error:
        note = {
            ENOTSUPP: "this kernel cannot attach to the entry of functions",
            errno.EOPNOTSUPP: "this kernel cannot attach to the entry of functions",
            errno.EBUSY: "something else already hangs on this function",
        }.get(error, "")
        cure = "boot a kernel with CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS" if "cannot attach" in note else ""
        raise _refused(kind, target, error, note, cure)
    return Link(fd, kind, target)


MECHANISMS: dict[str, Callable[[Prog, str, Any, int], Link]] = {
    "perf tracepoint": _tracepoint,
    "raw tracepoint": _rawtracepoint,
    "perf kprobe": _kprobe,
    "trampoline": _tracing,
    "run": _run,
    "signal": _signal,
    "clock": _clock,
    "clocks": _clocks,
    "uprobe": _uprobe,
    "iterator": _iterator,
    "counter": _counter,
    "watchpoint": _watchpoint,
}
"""How programs are attached, as `kinds` names it. A kprobe of many functions is `attach_multi`'s."""


def _on_perf_event(prog: Prog, perf: int, kind: str, target: str, cookie: int) -> Link:
    """Put a program on a perf event, by a link where there are links."""
    event = Fd(perf)
    links = False
    try:
        fd, error, _ = try_bpf(
            "link_create_perf",
            prog_fd=prog.fd,
            target_fd=event.fd,
            attach_type=ATTACH_TYPES["perf_event"],
            bpf_cookie=cookie,
        )
        if not error:
            links = True
            return Link(fd, kind, target, events=(event,))
        if error == errno.EINVAL and not cookie:
            try:
                fcntl.ioctl(event.fd, PERF_EVENT_IOC_SET_BPF, prog.fd)
            except OSError as refused:
                error = refused.errno or error
            else:
                return Link(os.dup(event.fd), kind, target, is_link=False)
        note = {
            errno.E2BIG: "it has as many programs as the kernel allows",
            errno.EEXIST: "this program is attached there already",
            errno.EACCES: "the program reads beyond what this tracepoint gives",
            errno.EINVAL: "this kernel gives perf events no cookies" if cookie else "",
        }.get(error, "")
        raise _refused(kind, target, error, note)
    finally:
        if not links:
            event.close()


SEMAPHORE_BIT = 32
"""Where in the config of a uprobe the offset of its semaphore begins (format/ref_ctr_offset)."""


def kprobe_pmu() -> tuple[int, int] | None:
    """The same of kprobes."""
    return pmu("kprobe")


def pmu(name: str) -> tuple[int, int] | None:
    """(perf type, number of the config bit that asks for returns) of kprobes or uprobes; None where there are
    none.
    """
    try:
        with open(f"{PMU}/{name}/type") as file:
            number = int(file.read())
        with open(f"{PMU}/{name}/format/retprobe") as file:
            return number, int(file.read().strip().removeprefix("config:"))
    except (OSError, ValueError):
        return None


def _refused(kind: str, target: str, error: int, note: str, cure: str = "") -> AttachError:
    known = failure("attach to", f"{kind}:{target}", error, cure, note)
    if error == errno.EACCES and note.startswith("the program"):
        known.cure = ""
    return AttachError(known.operation, known.subject, known.cause, known.cure, error)
