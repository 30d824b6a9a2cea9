"""Fuzz targets for what clients ask of agents: bodies of REQUEST and REPLY, HELLOs, and policy files."""

from __future__ import annotations

import contextlib
import tomllib

import fuzzing
import network

from kwire.agent import policy, requests
from kwire.errors import KwireError
from kwire.wire import cbor
from kwire.wire.control import hello_problem, peek_hello
from kwire.wire.frame import FrameError

FUNCTION = {
    "file": "f.py",
    "text": ["x"],
    "name": "f",
    "attach": ["kprobe:f"],
    "constants": {"A": 1},
    "values": {},
    "names": {"p": "pid"},
    "maps": {
        "m": {
            "title": "m",
            "kind": "Hash",
            "arguments": {"key": ["u32"], "value": ["u64"], "size": 7, "lru": False},
            "set": [[[3], 4]],
        }
    },
}
SEEDS = [
    cbor.dumps(
        {"op": "trace", "probes": ["kprobe:f"], "seconds": 5.0, "pids": [1, 2], "count": 7, "filter": "uid"}
    ),
    cbor.dumps({"op": "trace", "functions": {0: FUNCTION}, "buffer": 4096}),
    cbor.dumps({"op": "trace", "command": ["ls", "-l"]}),
    cbor.dumps({"op": "probes", "pattern": "kprobe:*"}),
    cbor.dumps({"op": "ended", "why": "done", "status": 3}),
    cbor.dumps({"ok": True, "probes": 1}),
    cbor.dumps(
        {"error": {"text": "x", "detail": "y", "operation": "z", "subject": "", "cause": "c", "cure": ""}}
    ),
    *network.SESSION[:2],
    b'[[allow]]\nwho = ["ops-*", "uid:1000"]\nprobes = ["kprobe:tcp_*"]\nprograms = true\nrate = 100_000\n',
    b'[[allow]]\nwho = "anyone"\nmemory = 1048576\ncommands = ["ls *"]\n[[allow]]\nwho=["x"]',
]


def one_input(data: bytes) -> None:
    """Read it as a request, as an answer, as a HELLO and as a policy. One-line errors may come of it."""
    hello = peek_hello(data)
    assert hello is None or len(hello.token) == 16
    hello_problem(data)
    with contextlib.suppress(FrameError):
        body = cbor.loads_map(data)
        for read in (requests.operation_of, requests.answered):
            with contextlib.suppress(KwireError):
                read(body)
        for operation in requests.OPERATIONS:
            try:
                read_body = requests.read(body, operation)
            except KwireError as error:
                fuzzing.one_line(error)
            else:
                assert set(read_body) <= set(requests.OPERATIONS[operation])
    try:
        top = tomllib.loads(data.decode("utf-8", "replace"))
    except (tomllib.TOMLDecodeError, RecursionError):
        return
    try:
        made = policy.rules(top, "policy.toml")
    except KwireError as error:
        fuzzing.one_line(error)
    else:
        for identity in ("", "ops-1", "uid:1000"):
            made.grant(identity, "unix:1")


if __name__ == "__main__":
    fuzzing.main(one_input, SEEDS)
