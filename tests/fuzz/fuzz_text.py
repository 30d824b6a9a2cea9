"""Fuzz target: what people type: probe specs, conditions, hex dumps, addresses."""

from __future__ import annotations

import contextlib

import fuzzing

from kwire.errors import KwireError
from kwire.lang.spec import parse as parse_spec
from kwire.view.where import Where
from kwire.wire.hextext import parse as parse_hex

SEEDS = [
    b"tracepoint:syscalls:sys_enter_openat(str(filename), flags=args.flags & 3)",
    b"kprobe:tcp_connect(sk.__sk_common.skc_dport, name='a b')",
    b'pid == 4242 and comm == "curl" or not (flags & 0x80 != 0) and time_ns > 10**18',
    b"probe.startswith('x') and -5 <= delta < 7 and args[3] in (1, 2)",
    b"00000000: 1100 000c 0000 0063 7465 7374            .......ctest\n",
]


def one_input(data: bytes) -> None:
    """Parse it as each of them; errors are KwireErrors whose message is one line or shows the place."""
    text = data.decode("utf-8", "surrogateescape").encode("utf-8", "replace").decode()
    for read in (parse_spec, Where, parse_hex):
        with contextlib.suppress(KwireError):
            read(text)


if __name__ == "__main__":
    fuzzing.main(one_input, SEEDS)
