"""`kwire decode`: explain the bytes of frames to a person, or as one JSON object a frame.

Invariants: every byte is shown with its offset and what it means; what is wrong is named with its code, its
place, what was found and what was expected; the exit status is 1 where anything is wrong.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from kwire.capture.pcap import magic_order
from kwire.errors import KwireError
from kwire.wire.explain import Explained, Explainer, Row, show
from kwire.wire.frame import ERRORS, Code, Flag
from kwire.wire.hextext import HexError, parse
from kwire.words import plural

HELP = "explain the bytes of frames, given as hex in any usual dress"

_BYTES_SHOWN = 8  # in the bytes column of one row
_PCAPNG = b"\x0a\x0d\x0d\x0a"
_VALUE_WIDTH = 24


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.description = (
        "Explain frames, one after the other: each field with its offset, bytes, value and meaning. "
        "Hex may be plain, 0x-prefixed, a C array, or what xxd, hexdump -C, tcpdump -x or -X print."
    )
    parser.add_argument(
        "input",
        nargs="*",
        metavar="HEX|FILE",
        help="hex, or a file of hex or of frames; '-' or nothing: standard input",
    )
    parser.add_argument("--hex", metavar="HEX", help="hex, never taken for a file")
    parser.add_argument("--json", action="store_true", help="one JSON object a frame")
    parser.add_argument("--lenient", action="store_true", help="read as the reference implementation does")


def run(args: argparse.Namespace) -> int:
    """Explain what `args` names on standard output; 1 where something is wrong with it."""
    if args.hex is not None and args.input:
        raise KwireError(
            "decode", " ".join(args.input), "--hex already gives the bytes", "leave one of them out"
        )
    data = parse(args.hex) if args.hex is not None else _read(args.input)
    wrong = False
    for number, one in enumerate(Explainer(args.lenient).explain(data), 1):
        wrong |= bool(one.problems)
        if args.json:
            import json

            print(json.dumps(object_of(one)))
        else:
            print("\n".join(text_of(one, f"frame {number}")))
    return 1 if wrong else 0


def _read(words: list[str]) -> bytes:
    """The bytes that the arguments, a file or standard input show."""
    if not words or words == ["-"]:
        return _bytes(sys.stdin.buffer.read(), "standard input")
    if len(words) == 1 and os.path.exists(words[0]):
        try:
            with open(words[0], "rb") as file:
                return _bytes(file.read(), words[0])
        except OSError as error:
            raise KwireError("read", words[0], os.strerror(error.errno or 0)) from None
    try:
        return parse(" ".join(words))
    except HexError as error:
        cure = error.cure or "give hex, or the name of a file that is there"
        raise KwireError(error.operation, error.subject, error.cause, cure) from None


def _bytes(content: bytes, name: str) -> bytes:
    """Hex text turned into bytes; frames themselves, which no text begins like, as they are."""
    if content.startswith(_PCAPNG) or magic_order(content):
        raise KwireError("decode", name, "this is a capture, not frames", "use: kwire show -V")
    if content[:1] and 0x10 <= content[0] <= 0x1F:
        return content
    return parse(content.decode("utf-8", "backslashreplace"))


def object_of(one: Explained) -> dict[str, Any]:
    """A frame as an object for JSON."""
    header = one.header
    value: dict[str, Any] = {
        "offset": one.offset,
        "version": header.version if header else None,
        "type": one.type_name if header else None,
        "type_number": header.type if header else None,
        "flags": header.flags if header else None,
        "length": header.length if header else None,
        "id": header.id if header else None,
        "payload": one.payload.hex(),
        "checksum": f"{one.checksum:04x}" if one.checksum is not None else None,
        "errors": [
            {
                "code": problem.code.name,
                "number": int(problem.code),
                "offset": problem.offset,
                "found": problem.found,
                "expected": problem.expected,
            }
            for problem in one.problems
        ],
    }
    if one.decoded is not None:
        value["decoded"] = plain(one.decoded)
    if one.notes:
        value["notes"] = one.notes
    if one.inner:
        value["frames"] = [object_of(item) for item in one.inner]
    return value


def plain(value: Any) -> Any:
    """A decoded value as JSON can tell it: bytes as hex, keys as text, floats that are no numbers as text."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    return value


# ---- for a person


def verdict_of(one: Explained, row: Row) -> str:
    """The name of the first thing that is wrong in a row's bytes; ok where nothing is."""
    if not one.problems:
        return "ok"
    end = row.offset + max(len(row.data), 1)
    last = end if end == one.end else end - 1  # what is cut is wrong where the bytes end
    return next((bad.code.name for bad in one.problems if row.offset <= bad.offset <= last), "ok")


def judged(row: Row, verdict: str) -> Iterator[str]:
    """A row's lines, the verdict at the end."""
    if not _dumped(row):
        yield f"{_line(row)}  [{verdict}]"
        return
    *others, last = row_of(row)
    yield from others
    yield f"{last}  [{verdict}]"


def text_of(one: Explained, title: str, *, verdicts: bool = False) -> Iterator[str]:
    """A frame as lines for a person, an empty one at the end; `verdicts`: each row says if it is right."""
    kind = one.type_name or "no frame"
    yield f"{title}: {kind}, offset {one.offset}, {plural(one.end - one.offset, 'byte')}"
    for row in one.rows:
        yield from judged(row, verdict_of(one, row)) if verdicts else row_of(row)
    if one.decoded is not None and any(row.value.startswith("CBOR") for row in one.rows):
        yield from _cbor(one.decoded, "          ")
    if one.checksum is not None:
        flags = one.header.flags if one.header else 0
        hint = " (0 where the checksum inside is right and even)" if flags & Flag.CHECKSUM else ""
        yield f"  checksum of the frame: {one.checksum:04x}{hint}"
    for number, item in enumerate(one.inner, 1):
        yield from ("  " + line for line in text_of(item, f"frame {number} inside", verdicts=verdicts))
    for note in one.notes:
        yield f"  note: {note}"
    for problem in one.problems:
        yield f"  error {problem.code.name} ({problem.code:d}) at offset {problem.offset}: " + _why(problem)
    yield ""


def _why(problem: Any) -> str:
    code: Code = problem.code
    return f"found {show(problem.found)}, expected {show(problem.expected)}; {ERRORS[code]}"


def row_of(row: Row) -> Iterator[str]:
    """Offset, bytes, name, value, meaning; a payload nobody explains is dumped with its characters."""
    if _dumped(row):
        yield f"  {row.offset:>6}  {'':<23}  {row.name:<14}  {row.value}  {row.meaning}".rstrip()
        for at in range(0, len(row.data), 16):
            piece = row.data[at : at + 16]
            letters = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in piece)
            yield f"  {row.offset + at:>6}  {piece.hex(' '):<47}  {letters}"
    else:
        yield _line(row)


def _dumped(row: Row) -> bool:
    return row.name == "payload" and not row.value.startswith("CBOR")


def _line(row: Row) -> str:
    shown = row.data[:_BYTES_SHOWN].hex(" ")
    if len(row.data) > _BYTES_SHOWN:
        shown = f"{row.data[: _BYTES_SHOWN - 4].hex(' ')} +{len(row.data) - _BYTES_SHOWN + 4} more"
    line = f"  {row.offset:>6}  {shown:<23}  {show(row.name):<14}  {show(row.value):<{_VALUE_WIDTH}}  "
    return (line + show(row.meaning)).rstrip()


def _cbor(value: dict[Any, Any], indent: str) -> Iterator[str]:
    """A map, a line a key; lists and maps in it a line an item."""
    for key, item in value.items():
        if isinstance(item, dict | list) and item:
            yield f"{indent}{show(key)}:"
            parts: Iterable[str] = (
                (f"{show(name)}: {_json(part)}" for name, part in item.items())
                if isinstance(item, dict)
                else (_json(part) for part in item)
            )
            yield from (f"{indent}  {part}" for part in parts)
        else:
            yield f"{indent}{show(key)}: {_json(item)}"


def _json(value: Any) -> str:
    import json

    return show(json.dumps(plain(value), ensure_ascii=False))
