"""Names and forms of numbers, as a tracepoint itself prints them.

A format's `print fmt` is the arguments of a printf in C, such as `"state=%s at=0x%lx", __print_symbolic(
REC->newstate, { 1, "TCP_ESTABLISHED" }, …), REC->address`. This reads tables of names, and which fields are
printed as hexadecimal numbers or addresses. The law: what is not exactly of these forms is left alone.
"""

import re

_TABLE = re.compile(r"__print_symbolic\(\s*REC->(\w+)\s*,((?:\s*\{[^{}]*\}\s*,?)+)\s*\)")
_ENTRY = re.compile(r'\{\s*(-?(?:0[xX][0-9a-fA-F]+|\d+))[uUlL]*\s*,\s*"([^"\\]{1,128})"\s*\}')
_FORMAT = re.compile(r'\s*"((?:[^"\\]|\\.)*)"\s*,')
_CONVERSION = re.compile(r"%[-+ #0]*\d*(?:\.\d+)?(?:hh|h|ll|l|z|t|j)?([a-zA-Z%*.])([a-zA-Z0-9]*)")
_PLAIN = re.compile(
    r"\(*\s*(?:\(\s*(?:const\s+)?[a-z_]\w*(?:\s+\w+)*(?:\s*\*)?\s*\)\s*)*\(*REC->(\w+)\)*\s*$"
)
_ADDRESSES = frozenset(("", "S", "s", "x", "K", "B"))
"""What may follow `%p` for a plain address; other letters print what it points to."""

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


def hexadecimal(print_fmt: str) -> list[str]:
    """The fields that are printed as hexadecimal numbers or as addresses."""
    text = print_fmt[:MAX_TEXT]
    format_ = _FORMAT.match(text)
    if format_ is None:
        return []
    conversions = [found for found in _CONVERSION.finditer(format_[1]) if found[1] != "%"]
    arguments = _arguments(text[format_.end() :])
    if len(conversions) != len(arguments):
        return []
    found = []
    for conversion, argument in zip(conversions, arguments, strict=True):
        field = _PLAIN.match(argument)
        plain = conversion[1] in "xX" or (conversion[1] == "p" and conversion[2] in _ADDRESSES)
        if field and plain:
            found.append(field[1])
    return found


def _arguments(text: str) -> list[str]:
    """What stands between the commas of an argument list, those inside of brackets and texts left alone."""
    parts, depth, start = [], 0, 0
    for piece in re.finditer(r'"(?:[^"\\]|\\.)*"|[()\[\]{},]', text):
        mark = piece[0]
        if mark in "([{":
            depth += 1
        elif mark in ")]}":
            depth -= 1
        elif mark == "," and not depth:
            parts.append(text[start : piece.start()].strip())
            start = piece.end()
    return [*parts, text[start:].strip()]
