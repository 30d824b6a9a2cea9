"""Names for numbers, as a tracepoint itself prints them.

A format's `print fmt` holds C such as `__print_symbolic(REC->newstate, { 1, "TCP_ESTABLISHED" }, …)`. This
reads those tables and nothing else. The law: what is not exactly such a table of plain numbers and plain
names is left alone; a name is never guessed.
"""

import re

_TABLE = re.compile(r"__print_symbolic\(\s*REC->(\w+)\s*,((?:\s*\{[^{}]*\}\s*,?)+)\s*\)")
_ENTRY = re.compile(r'\{\s*(-?(?:0[xX][0-9a-fA-F]+|\d+))[uUlL]*\s*,\s*"([^"\\]{1,128})"\s*\}')
MAX_ENTRIES = 4096
MAX_TEXT = 1 << 20


def symbolic(print_fmt: str) -> dict[str, dict[int, str]]:
    """Field → value → name, for each field printed through a table of names."""
    tables: dict[str, dict[int, str]] = {}
    for found in _TABLE.finditer(print_fmt[:MAX_TEXT]):
        entries: dict[int, str] = {}
        for entry in _ENTRY.finditer(found[2]):
            if len(entries) < MAX_ENTRIES:
                entries.setdefault(int(entry[1], 0), entry[2])
        if entries:
            tables.setdefault(found[1], entries)
    return tables
