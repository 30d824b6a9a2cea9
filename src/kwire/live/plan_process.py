"""Planning in a process of its own, while this one makes everything else ready for the plan.

    with PlanProcess(make) as planning:     # it imports the compiler
        ...                                 # the command is forked, so its process id is known
        planning.ask(scope)
        ...                                 # the rings, the modules that load, attach and write
        plan = planning.plan()

A small trace spends more time on importing and running the compiler than on all else. Invariants: the plan is
the one that `make` gives here; whatever goes wrong there (no process or memory is left, the text is wrong),
`make` is called here, so that its errors are raised here; the process ends with its answer, with us, or with
`close`, and never says anything. On a single processor there is nothing to gain, and no process is made. It
forks, so it is for processes with one thread.
"""

import _pickle  # `pickle` itself takes longer to import, and adds nothing that is used here
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from kwire.bpf.image import Image
from kwire.live.plan import Plan, Scope

CHUNK = 1 << 18
PROTOCOL = 5  # of pickle


class PlanProcess:
    """A plan in the making. `make`: gives it, told whose events are wanted."""

    __slots__ = ("_answer", "_child", "_make", "_question", "_scope")

    def __init__(self, make: Callable[[Scope], Plan]) -> None:
        self._make = make
        self._scope = Scope()
        self._question = self._answer = -1
        self._child = 0
        if len(os.sched_getaffinity(0)) > 1:
            try:
                self._fork()
            except OSError:  # no more processes or descriptors are allowed
                self.close()

    def _fork(self) -> None:
        asked, self._question = os.pipe2(os.O_CLOEXEC)
        try:
            self._answer, told = os.pipe2(os.O_CLOEXEC)
            try:
                self._child = os.fork()
                if self._child == 0:
                    _work(self._make, asked, told, (self._question, self._answer))
            finally:
                os.close(told)
        finally:
            os.close(asked)

    def ask(self, scope: Scope) -> None:
        """Say whose events are wanted."""
        self._scope = scope
        if self._child:
            with suppress(BrokenPipeError):  # it has died
                os.write(self._question, _pickle.dumps(scope, PROTOCOL))
            os.close(self._question)
            self._question = -1

    def plan(self) -> Plan:
        """The plan. Raises what `make` raises."""
        answer = _read(self._answer) if self._child else b""
        if not answer:
            return self._make(self._scope)
        plan: Plan
        try:
            plan, having = _pickle.loads(answer)
        except (EOFError, _pickle.UnpicklingError):  # it died while it wrote
            return self._make(self._scope)
        groups = tuple(
            group._replace(
                otherwise=partial(self._otherwise, at) if at in having else None,
                explain=partial(self._explanation, at),
            )
            for at, group in enumerate(plan.groups)
        )
        return plan._replace(groups=groups, again=lambda causes: self._make(self._scope).without(causes))

    # What is rarely asked of a group of programs is asked of the plan made once more here.

    def _otherwise(self, at: int) -> Image | None:
        other = self._make(self._scope).groups[at].otherwise
        return other() if other is not None else None

    def _explanation(self, at: int) -> str:
        explain = self._make(self._scope).groups[at].explain
        return explain() if explain is not None else ""

    def close(self) -> None:
        """End the process; twice is harmless."""
        for fd in (self._question, self._answer):
            if fd >= 0:
                os.close(fd)
        self._question = self._answer = -1
        child, self._child = self._child, 0
        if child:
            os.kill(child, signal.SIGKILL)  # it has answered, or nobody wants its answer
            os.waitpid(child, 0)

    def __enter__(self) -> "PlanProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _work(make: Callable[[Scope], Plan], asked: int, told: int, others: tuple[int, ...]) -> None:
    """The process's life: it answers, or ends without a word. Never returns. `others`: our parent's ends."""
    try:
        for fd in others:
            os.close(fd)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        import kwire.live.planner  # noqa: F401  # before the question has come

        question = _read(asked)
        if question:
            answer = memoryview(_pickle.dumps(_light(make(_pickle.loads(question))), PROTOCOL))
            while answer:
                answer = answer[os.write(told, answer) :]
    finally:  # whoever waits plans by himself, and says what is wrong
        os._exit(0)


def _light(plan: Plan) -> tuple[Plan, frozenset[int]]:
    """The plan without what cannot be sent: functions; and which groups had one."""
    having = frozenset(at for at, group in enumerate(plan.groups) if group.otherwise is not None)
    groups = tuple(group._replace(otherwise=None, explain=None) for group in plan.groups)
    return plan._replace(again=None, groups=groups), having


def _read(fd: int) -> bytes:
    """All that comes until the other end is closed."""
    parts = []
    while part := os.read(fd, CHUNK):
        parts.append(part)
    return b"".join(parts)
