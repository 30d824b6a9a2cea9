"""Planning in a process of its own, while this one makes everything else ready for the plan.

    begin("kwire.live.scripts")             # the first thing of all: it imports the compiler
    ...                                     # arguments are read
    with Planning("kwire.live.scripts", "plan_text", name, text) as planning:
        ...                                 # the command is forked, so its process id is known
        planning.ask(scope=scope)
        ...                                 # the rings, the modules that load, attach and write
        plan = planning.plan()

A small trace spends more time on importing and running the compiler than on all else. Invariants: the plan is
the one that the named function gives here; whatever goes wrong there (no process or memory is left, the text
is wrong), it is called here, so that its errors are raised here; the process ends with its answer, with us,
or with `close`, and never says anything. On a single processor there is nothing to gain, and no process is
made. It forks, so only a command line begins one (`kwire.__main__`), before it has a second thread; whoever
has none plans here.
"""

import _pickle  # `pickle` itself takes longer to import, and adds nothing that is used here
import os
from _signal import SIGKILL  # type: ignore[import-not-found]  # `signal` makes many enumerations
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module

from kwire.bpf.image import Image
from kwire.hints import Any, Literal
from kwire.lazy import NamedTuple
from kwire.live.plan import Plan, PlanResult

CHUNK = 1 << 18
LENGTH = 8  # bytes of the length before a question, in our byte order
ORDER: Literal["little"] = "little"
PROTOCOL = 5  # of pickle


class _Process(NamedTuple):
    """The process: its id, where it is asked, and where it answers."""

    id: int
    question: int
    answer: int

    def end(self) -> None:
        """End it: it has answered, or nobody wants its answer."""
        os.close(self.question)
        os.close(self.answer)
        os.kill(self.id, SIGKILL)
        os.waitpid(self.id, 0)


_begun: list[_Process] = []


def begin(module: str) -> None:
    """Begin a process that imports a module, and waits to be asked for what a function of it gives."""
    if len(os.sched_getaffinity(0)) > 1:
        with suppress(OSError):  # no more processes or descriptors are allowed
            _begun.append(_forked(module))


def _forked(module: str) -> _Process:
    asked, question = os.pipe2(os.O_CLOEXEC)
    try:
        answer, told = os.pipe2(os.O_CLOEXEC)
        try:
            child = os.fork()
            if child == 0:
                _work(module, asked, told, (question, answer))
            return _Process(child, question, answer)
        except OSError:
            os.close(answer)
            raise
        finally:
            os.close(told)
    except OSError:
        os.close(question)
        raise
    finally:
        os.close(asked)


class Planning:
    """A plan in the making: by the process that was begun, or here.

    `module`, `function`: of what makes it, given these arguments and those of `ask`; it gives `PlanResult`.
    """

    __slots__ = ("_given", "_job", "_process", "about")

    def __init__(self, module: str, function: str, *arguments: Any, **named: Any) -> None:
        self._job = (module, function, arguments, named)
        self._given: dict[str, Any] = {}
        self._process = _begun.pop() if _begun else None
        self.about: Any = None
        """What else is known of the plan, once it is there."""

    def ask(self, **given: Any) -> None:
        """Say what is known now, so that planning can begin."""
        self._given = given
        if self._process is None:
            return
        try:
            question = _pickle.dumps((self._job, given), PROTOCOL)
            _write(self._process.question, len(question).to_bytes(LENGTH, ORDER) + question)
        except (OSError, RecursionError, _pickle.PicklingError):  # it has died; or that cannot be sent
            self.close()

    def plan(self) -> Plan:
        """The plan. Raises what its maker raises."""
        answer = _read(self._process.answer) if self._process is not None else b""
        try:
            made, having = _pickle.loads(answer)
        except (EOFError, _pickle.UnpicklingError):  # there is none, or it died while it wrote
            made = self._here()
            self.about = made.about
            return made.plan
        self.about = made.about
        plan: Plan = made.plan
        groups = tuple(
            group._replace(
                otherwise=partial(self._otherwise, at) if at in having else None,
                explain=partial(self._explanation, at),
            )
            for at, group in enumerate(plan.groups)
        )
        return plan._replace(
            groups=groups,
            again=lambda causes: self._here().plan.without(causes),
            anew=lambda: self._here().plan.looked_up(),
        )

    def _here(self) -> PlanResult:
        """What the function gives here."""
        return _made(self._job, self._given)

    # What is rarely asked of a group of programs is asked of the plan made once more here.

    def _otherwise(self, at: int) -> Image | None:
        other = self._here().plan.groups[at].otherwise
        return other() if other is not None else None

    def _explanation(self, at: int) -> str:
        explain = self._here().plan.groups[at].explain
        return explain() if explain is not None else ""

    def close(self) -> None:
        """End the process; twice is harmless."""
        process, self._process = self._process, None
        if process is not None:
            process.end()

    def __enter__(self) -> "Planning":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _made(job: tuple[str, str, tuple[Any, ...], dict[str, Any]], given: dict[str, Any]) -> PlanResult:
    """What a function gives."""
    module, function, arguments, named = job
    make: Callable[..., PlanResult] = getattr(import_module(module), function)
    return make(*arguments, **named, **given)


def _work(module: str, asked: int, told: int, others: tuple[int, ...]) -> None:
    """The process's life: it answers, or ends without a word. Never returns. `others`: our parent's ends."""
    try:
        for fd in others:
            os.close(fd)
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for fd in (0, 1, 2):  # who reads what we say does not wait for the process
            os.dup2(nothing, fd)
        import_module(module).ready()
        question = _question(asked)
        if question:
            made = _made(*_pickle.loads(question))
            _write(told, _pickle.dumps(_light(made), PROTOCOL))
    finally:  # whoever waits plans by himself, and says what is wrong
        os._exit(0)


def _light(made: PlanResult) -> tuple[PlanResult, frozenset[int]]:
    """The same without what cannot be sent, functions; and which groups had one."""
    plan = made.plan
    having = frozenset(at for at, group in enumerate(plan.groups) if group.otherwise is not None)
    groups = tuple(group._replace(otherwise=None, explain=None) for group in plan.groups)
    return made._replace(plan=plan._replace(again=None, anew=None, groups=groups)), having


def _question(fd: int) -> bytes:
    """The question, whole; nothing where there will be none."""
    found = b""
    while len(found) < LENGTH or len(found) < LENGTH + int.from_bytes(found[:LENGTH], ORDER):
        part = os.read(fd, CHUNK)
        if not part:
            return b""
        found += part
    return found[LENGTH:]


def _read(fd: int) -> bytes:
    """All that comes until the other end is closed."""
    parts = []
    while part := os.read(fd, CHUNK):
        parts.append(part)
    return b"".join(parts)


def _write(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]
