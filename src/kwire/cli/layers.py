"""Records, packets and sessions for people and as JSON lines: what `kwire show -V` and `--sessions` print.

Invariants: every byte that is shown has its offset, its value, what it means and a verdict; nothing that was
captured reaches the terminal unescaped; the lines and the objects say the same.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from kwire.cli.decode import judged, object_of, plain, text_of, verdict_of
from kwire.view.text import WallClock, safe
from kwire.words import are, plural

if TYPE_CHECKING:
    from kwire.packets.explain import ExplainedFrame, ExplainedRecord
    from kwire.packets.follow import Followed, Follower, Step
    from kwire.packets.headers import Verdict
    from kwire.packets.open import NetworkCapture


# ---- every layer


def explain(capture: NetworkCapture, teller: Any, *, json: bool, head: int | None) -> None:
    """Print every record of a capture, `head` packets at most."""
    packets = 0
    for told in teller.tell(capture):
        if json:
            _write_json(_told_object(told))
        else:
            sys.stdout.write("\n".join(_told_lines(told)) + "\n")
        packets += told.record.packet is not None
        if not capture.regular:
            sys.stdout.flush()
        if head is not None and packets >= head:
            return


def _told_lines(told: ExplainedRecord) -> Iterator[str]:
    time = ""
    if told.record.time is not None:
        time = f", {WallClock().moment(told.record.time)}"
    yield told.title + time
    if told.block:
        yield from map("  ".__add__, _rows(told.block))
    for title, rows in told.layers:
        yield f"  {title}"
        yield from map("  ".__add__, _rows(rows))
    for seen in told.frames:
        yield from _frame_lines(seen)
    for remark in told.remarks:
        yield f"  note {safe(remark)}"
    for trouble in told.troubles:
        yield f"  error {safe(trouble)}"
    yield ""


def _frame_lines(seen: ExplainedFrame) -> Iterator[str]:
    lines = [*text_of(seen.explained, f"frame of {seen.flow}", verdicts=True)]
    yield from ("  " + line for line in lines[:-1])
    if seen.note:
        yield f"    note: {seen.note}"


def _rows(rows: list[Verdict]) -> Iterator[str]:
    for row, verdict, detail in rows:
        yield from judged(row, f"{verdict}: {safe(detail)}" if detail else verdict)


def _told_object(told: ExplainedRecord) -> dict[str, Any]:
    record = told.record
    value: dict[str, Any] = {
        "offset": record.offset,
        "record": told.title.split(",", 1)[0],
        "packet": record.number or None,
        "time_ns": record.time,
        "captured": record.captured if record.packet is not None else None,
        "original": record.original if record.packet is not None else None,
        "layers": [{"name": "record", "fields": _objects(told.block)}] if told.block else [],
        "frames": [
            {
                "flow": seen.flow,
                "note": seen.note,
                **object_of(seen.explained),
                "fields": _frame_rows(seen.explained),
            }
            for seen in told.frames
        ],
        "notes": told.remarks,
        "errors": told.troubles,
    }
    value["layers"] += [{"name": title, "fields": _objects(rows)} for title, rows in told.layers]
    return value


def _objects(rows: list[Verdict]) -> list[dict[str, Any]]:
    return [
        {
            "name": row.name,
            "offset": row.offset,
            "bytes": row.data.hex(),
            "value": row.value,
            "meaning": row.meaning,
            "verdict": verdict,
        }
        for row, verdict, _ in rows
    ]


def _frame_rows(explained: Any) -> list[dict[str, Any]]:
    """A frame's rows, each with the name of the first problem inside of it as its verdict."""
    out = []
    for row in explained.rows:
        out.append(
            {
                "name": row.name,
                "offset": row.offset,
                "bytes": row.data.hex(),
                "value": row.value,
                "meaning": row.meaning,
                "verdict": verdict_of(explained, row),
            }
        )
    for inner, item in zip(explained.inner, [_frame_rows(one) for one in explained.inner], strict=True):
        out.append({"name": f"frame {inner.type_name}", "offset": inner.offset, "fields": item})
    return out


# ---- sessions


class Steps:
    """Prints the steps of sessions: those that change a state or are illegal; all of them with `every`."""

    __slots__ = ("_clock", "_every", "_json")

    def __init__(self, *, json: bool, every: bool) -> None:
        self._json = json
        self._every = every
        self._clock = WallClock()

    def __call__(self, step: Step) -> None:
        """Print one step, if it is to be shown."""
        if not (self._every or step.changed or step.illegal):
            return
        if self._json:
            _write_json(_step_object(step))
            return
        time = (
            self._clock.time(step.place.time)
            if step.place.time is not None
            else f"packet {step.place.number}"
        )
        arrow = "→" if step.source == "initiator" else "←"
        what = f"{step.type} id {step.id} length {step.length}"
        line = f"{time} session {step.session} {arrow} {what}: {step.effect}"
        other = "responder" if step.source == "initiator" else "initiator"
        for who, (before, after) in ((step.source, step.sender), (other, step.receiver)):
            if before is not after:
                line += f"; {who} {before.name} → {after.name}"
        if step.illegal:
            line += f"; {step.illegal}"
        sys.stdout.write(safe(line) + "\n")


def _step_object(step: Step) -> dict[str, Any]:
    other = "responder" if step.source == "initiator" else "initiator"
    return {
        "session": step.session,
        "time_ns": step.place.time,
        "packet": step.place.number,
        "offset": step.place.offset,
        "flow": step.flow,
        "from": step.source,
        "type": step.type,
        "id": step.id,
        "length": step.length,
        "effect": step.effect,
        step.source: [state.name for state in step.sender],
        other: [state.name for state in step.receiver],
        "illegal": step.illegal or None,
    }


def sessions(capture: NetworkCapture, follower: Follower, *, json: bool) -> None:
    """Read a capture to its end, its steps being printed on the way, then the sum of each session."""
    for frames in capture:
        capture.passed(frames)
        if not capture.regular:
            sys.stdout.flush()
    for session in follower.sessions:
        if json:
            _write_json(_session_object(session))
        else:
            sys.stdout.write(safe(_session_line(session)) + "\n")


def _session_line(session: Followed) -> str:
    ends = []
    for name, end, role, state in zip(
        ("initiator", "responder"), session.ends, session.roles, session.states, strict=True
    ):
        ends.append(f"{name} {end} ({role.value if role else 'role not known'}) {state.name}")
    token = f" token {session.token.hex()}" if session.token else ""
    joined = ", joined in the middle" if session.joined else ""
    errors = ", ".join(f"{count} {name}" for name, count in session.errors.items())
    verdict = f"{session.illegal} illegal ({errors})" if session.illegal else "all legal"
    return (
        f"session {session.number}{token}{joined}: {ends[0]}, {ends[1]}; "
        f"{plural(session.frames, 'frame')}, {session.data} DATA, {verdict}"
    )


def _session_object(session: Followed) -> dict[str, Any]:
    return {
        "session": session.number,
        "token": session.token.hex() or None,
        "joined": session.joined,
        "ends": list(session.ends),
        "roles": [role.value if role else None for role in session.roles],
        "states": [state.name for state in session.states],
        "frames": session.frames,
        "data": session.data,
        "illegal": session.illegal,
        "errors": session.errors,
    }


def _write_json(value: dict[str, Any]) -> None:
    import json

    sys.stdout.write(json.dumps(plain(value)) + "\n")


# ---- what could not be decoded


def summary(capture: NetworkCapture) -> None:
    """The last JSON line: what was counted, errors by their code with the place of the first."""
    network = capture.network
    errors: dict[str, dict[str, Any]] = {
        name: {"count": count, "first": None} for name, count in capture.errors.items()
    }
    for name, first in network.found.items():
        errors[name] = {"count": first.count, "first": first.text}
    _write_json(
        {
            "summary": {
                "packets": capture.packets,
                "frames": network.frames,
                "errors": errors,
                "tolerated": dict(network.remarks),
                "other": dict(network.others),
                "problem": capture.problem,
            }
        }
    )


def remarks(capture: NetworkCapture) -> Iterator[str]:
    """What was tolerated in packets of a network, and what other traffic there is."""
    network = capture.network
    if network.remarks:
        from kwire.packets.tables import Remark

        for name, count in sorted(network.remarks.items()):
            yield f"tolerated {plural(count, 'time')}: {Remark[name].value}"
    if network.others:
        parts = ", ".join(f"{count} {name}" for name, count in network.others.most_common(12))
        yield f"{are(sum(network.others.values()), 'packet')} other traffic: {parts}"
