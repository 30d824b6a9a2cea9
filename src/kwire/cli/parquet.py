"""A collector's lake: a process beside it makes Parquet of the captures that it has finished.

Invariants: the process is begun before the collector reads a byte of the network, and reads none itself; it
is asked for one capture at a time, and ends when the collector does and what it was asked for is done;
whatever is killed when, the captures are there, so the next collector asks for what is missing, and a lake
takes each once. Only the process imports pyarrow. The collector never waits for it, but at its end.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
from collections import deque
from collections.abc import Iterator
from typing import Any, Final

from kwire.collector.finished import Finished, FinishedCapture
from kwire.collector.storage import Storage
from kwire.errors import KwireError
from kwire.lake.directory import Lake, reason
from kwire.transport.log_events import Log
from kwire.transport.loop import READ, Loop
from kwire.transport.rate_limited_log import Recurring

LOOK: Final = 2.0
"""Seconds between two looks at the folder."""

AGAIN: Final = 60.0
"""Seconds after which what could not be added is tried again."""

ENDED: Final = "the process that makes Parquet has ended: what is finished waits for the next start"
NICE: Final = 10
IGNORED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class LakeProcess:
    """The process, as its parent has it: `socket` is where it is asked, and answers. KwireError where it
    cannot be begun, or nothing can be written to the lake.
    """

    __slots__ = ("path", "socket")

    def __init__(self, path: str, folder: str) -> None:
        """`folder`: where the captures are."""
        check_library()
        self.path = Lake(path, make=True).path
        self.socket, theirs = socket.socketpair()
        try:
            child = os.fork()
        except OSError as error:
            raise KwireError("collect", "--parquet", error.strerror or "no process can be begun") from None
        if not child:
            status = 1
            try:
                self.socket.close()
                _serve(theirs, path, folder)
                status = 0
            finally:
                os._exit(status)
        theirs.close()

    def wait(self) -> None:
        """Let it end, and wait for that: a confined collector may not ask for its status."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
            while self.socket.recv(1 << 16):
                pass
        self.socket.close()


def check_library() -> None:
    """Raise KwireError where pyarrow is missing."""
    import importlib.util

    if importlib.util.find_spec("pyarrow") is None:
        cure = "pip install 'kwire[query]'"
        raise KwireError("collect", "--parquet", "pyarrow is not installed", cure)


class Feeder:
    """Has the process add what is finished; `needs` says what it has not added yet.

    `captures`, `events`: what it has added.
    """

    def __init__(self, loop: Loop, storage: Storage, process: LakeProcess, say: Log) -> None:
        self.captures = self.events = 0
        self._loop, self._process, self._say = loop, process, say
        self._troubles = Recurring(loop.now, say)
        self._finished = Finished(storage)
        self._round: Iterator[FinishedCapture | None] | None = None
        self._added: dict[str, tuple[int, bool]] = {}  # by path: its bytes then, whether it was settled
        self._failed: dict[str, tuple[float, str]] = {}  # by path: when it is tried again, what was wrong
        self._queue: deque[FinishedCapture] = deque()
        self._asked: FinishedCapture | None = None
        self._answer = b""
        self._gone = False

    def begin(self) -> None:
        """Look at the folder, now and then."""
        self._loop.add(self._process.socket.fileno(), READ, lambda mask: self._read())
        self._turn()

    @property
    def trouble(self) -> str:
        """Why a capture is not in the lake that should be; empty where there is none."""
        return ENDED if self._gone else next((text for _, text in self._failed.values()), "")

    def needs(self, path: str) -> bool:
        """Whether a capture is not in the lake, as it is now."""
        try:
            return self._added.get(path, (-1, False))[0] != os.stat(path).st_size
        except OSError:
            return False

    def finish(self) -> None:
        """Have all that is finished by now added, and end the process: the loop is over."""
        self._round = None
        while self._asked is not None and not self._gone:
            self._read()
        self._failed.clear()  # each is tried once more
        self._queue.clear()
        with contextlib.suppress(OSError):  # the folder is gone
            self._queue.extend(one for one in self._finished.look() if one is not None and self._is_new(one))
        while self._queue and not self._gone:
            self._ask()
            while self._asked is not None and not self._gone:
                self._read()
        self._process.wait()

    def _turn(self) -> None:
        """One turn of a look."""
        seconds = 0.0
        if self._round is None:
            self._round = self._finished.look()
        try:
            found = next(self._round)
            if (
                found is not None
                and self._is_new(found)
                and all(found.path != one.path for one in self._queue)
            ):
                self._queue.append(found)
                self._ask()
        except StopIteration:
            self._round, seconds = None, LOOK
            self._forget()
        except OSError:  # the folder is gone: it is made again
            self._round, seconds = None, LOOK
        self._loop.at(self._loop.now() + seconds, self._turn)

    def _forget(self) -> None:
        """Keep nothing of captures that are not there any more."""
        for path in self._added.keys() - self._finished.there:
            del self._added[path]
        for path in self._failed.keys() - self._finished.there:
            del self._failed[path]

    def _is_new(self, one: FinishedCapture) -> bool:
        if one.path in self._failed and self._failed[one.path][0] > self._loop.now():
            return False
        return one != self._asked and self._added.get(one.path) != (one.size, one.settled)

    def _ask(self) -> None:
        """Ask for the next one, unless the last is not answered."""
        if self._asked is None and self._queue and not self._gone:
            self._asked = self._queue.popleft()
            with contextlib.suppress(OSError):  # it has ended: `_read` sees that
                asked = json.dumps([self._asked.path, self._asked.settled])
                self._process.socket.sendall(asked.encode() + b"\n")

    def _read(self) -> None:
        """Take what the process says."""
        try:
            some = self._process.socket.recv(1 << 16)
        except OSError:
            some = b""
        if not some:
            self._gone, self._asked = True, None
            self._loop.remove(self._process.socket.fileno())
            self._say(ENDED, "failure")
            return
        self._answer += some
        while b"\n" in self._answer:
            line, _, self._answer = self._answer.partition(b"\n")
            self._take(json.loads(line))
        self._ask()

    def _take(self, answer: dict[str, Any]) -> None:
        asked, self._asked = self._asked, None
        assert asked is not None  # it answers, once
        if "error" in answer:
            self._failed[asked.path] = self._loop.now() + AGAIN, answer["error"]
            self._troubles.say(answer["error"], "disk")
            return
        self._failed.pop(asked.path, None)
        self._added[asked.path] = asked.size, asked.settled
        self.captures += answer["new"]
        self.events += answer["events"] if answer["new"] else 0
        for text in answer["said"]:
            self._say(text)

    def summary(self) -> dict[str, Any]:
        """What was added by now."""
        told = {"captures": self.captures, "events": self.events, "trouble": self.trouble}
        return {"path": self._process.path, **told}


def _serve(asked: socket.socket, path: str, folder: str) -> None:
    """The process: add what is asked for, until the other end is closed."""
    from kwire.cli.reading import confine, one_thread

    for number in IGNORED:  # they are for the collector, whose end is ours
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):  # a sandbox may not let us
        os.nice(NICE)
    one_thread()
    confine(argparse.Namespace(files=[folder], output=os.path.join(path, "new")))
    with asked.makefile("rw", encoding="utf-8") as stream:
        for line in stream:
            stream.write(json.dumps(_add(path, *json.loads(line))) + "\n")
            stream.flush()


def _add(path: str, capture: str, settled: bool) -> dict[str, Any]:
    """Add a capture; what became of it."""
    from kwire.analyze.capture_summary import CaptureSummary
    from kwire.analyze.source import Source
    from kwire.lake.add import add, added_before

    try:
        lake = Lake(path, make=True)
        added = added_before(lake, capture, settled)
        if added is None:
            with Source(capture) as source:
                found = CaptureSummary(source)
                added = add(lake, source, found, settled=settled and found.ended)
        return {"events": added.events, "new": added.new, "said": list(added.said)}
    except KwireError as error:
        return {"error": str(error)}
    except Exception as error:  # one capture is not the others' end
        what = reason(error) if isinstance(error, OSError) else f"a fault of kwire itself: {error!r}"
        return {"error": f"add {capture} to {path}: {what}"}
