"""`-H HOST` of `record` and `trace`: the same on another machine, by its agent; events come here.

Invariants: what is shown and kept, the summary, limits and Ctrl-C are those of a local trace; what had come
is kept and accounted for when the agent is lost, and that is an error all the same.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

from kwire.agent.remote import Endpoint, RemoteSession
from kwire.capture.writer import Writer
from kwire.cli import tracing
from kwire.cli.lines import say
from kwire.cli.network import session_settings, tls_options, watch
from kwire.cli.process import ending_signals
from kwire.errors import KwireError
from kwire.live.recorder import Sink
from kwire.live.summary import summarize
from kwire.transport.loop import Loop
from kwire.wire.schema import Schema
from kwire.wire.settings import Settings
from kwire.words import are

SHOW = 0.25
"""Seconds between two reports of progress."""


def run(
    what: dict[str, Any],
    args: argparse.Namespace,
    write: str | None,
    sinks: Callable[[tuple[Schema, ...]], list[Sink]] = lambda schemas: [],
) -> dict[str, Any]:
    """Trace there as the arguments say, to the file `write` and to other sinks; give the summary object.

    `what`: as `probes.request` gives it. Raises KwireError, when all is kept that came.
    """
    loop = Loop()
    link = Endpoint(args.host, tls_options(args), args.insecure, watch(args))
    body = {"op": "trace", **what, **_limits(args)}
    if (args.command or args.pids) and args.everyone != ("script" in what and not args.pids):
        body["everyone"] = args.everyone
    writers: list[Writer] = []

    def start(schemas: tuple[Schema, ...]) -> list[Sink]:
        if (
            writer := tracing.open_writer(write, schemas, schemas[0].host, schemas[0].kernel, args)
        ) is not None:
            writer.publish()
            writers.append(writer)
        return [*writers, *sinks(schemas)]

    settings = session_settings(args, Settings())
    conversation = RemoteSession(link, body, start, loop=loop, settings=settings)
    loop.signals(ending_signals(), lambda number: conversation.stop())
    try:
        return _follow(conversation, writers)
    finally:
        conversation.close()
        for writer in writers:
            conversation.received.close(writer)


def _limits(args: argparse.Namespace) -> dict[str, Any]:
    """What of the arguments goes into the request."""
    given = {
        "filter": args.filter,
        "command": args.command,
        "pids": args.pids,
        "seconds": args.seconds,
        "count": args.count,
        "buffer": args.buffer,
    }
    return {name: value for name, value in given.items() if value is not None}


def _follow(conversation: RemoteSession, writers: list[Writer]) -> dict[str, Any]:
    """Let events come until the end; the summary."""
    received = conversation.received
    problem: KwireError | None = None
    progress: tracing.Progress | None = None
    start = time.monotonic()
    shown, broken = start, ""
    try:
        while not conversation.over:
            conversation.turn(SHOW)
            now = time.monotonic()
            if conversation.broken != broken and not conversation.over:
                broken = conversation.broken
                if progress:
                    progress.clear()
                say(f"{conversation.address}: {_connection(broken, conversation.patience)}")
            if progress is None and conversation.tracing:
                _say_skipped(conversation)
                progress, start = tracing.Progress(received, writers[0] if writers else None), now
            if progress and now >= shown + SHOW:
                progress()
                shown = now
    except KwireError as error:
        problem = error
    if progress:
        progress.clear()
    seconds = time.monotonic() - start
    produced = received.produced or {}
    writer = writers[0] if writers else None
    totals = received.close(writer) if writer else {}
    schemas = tuple(schema for schema in received.schemas.values() if schema.map is None)
    summary = summarize(schemas, received, writer, produced, totals, seconds, conversation.status)
    if problem is not None:
        if received.events or received.lost:
            tracing.report(summary)
        raise problem
    if received.left:
        from kwire.view.maps import described

        summary["maps"] = [described(*one) for one in received.left]
    return {**summary, "host": schemas[0].host if schemas else ""}


def _connection(broken: str, patience: float) -> str:
    """That the connection broke, or is there again."""
    return (
        f"the connection broke: {broken} (trying again for {patience:g} s)" if broken else "connected again"
    )


def _say_skipped(conversation: RemoteSession) -> None:
    answer = conversation.answer or {}
    number, skipped = answer.get("left_out"), answer.get("skipped")
    if isinstance(number, int) and number > 0 and isinstance(skipped, list) and skipped:
        first = skipped[0]
        if isinstance(first, list) and len(first) == 2:
            say(f"{are(number, 'target')} left out, the first {first[0]}: {first[1]}")
    unfiltered = answer.get("unfiltered")
    for one in unfiltered if isinstance(unfiltered, list) else []:
        if isinstance(one, list) and len(one) == 2:
            tracing.say_unfiltered(str(one[0]), str(one[1]))
