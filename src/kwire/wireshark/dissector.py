"""The dissector: one Lua file, put together from the parts in `lua/` and the protocol's own tables.

Invariant: what the protocol's tables say is not written down a second time; the Lua file carries it as a
table made here from them. The same kwire always makes the same file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from kwire.wire import cbor, control, fields, messages, names, schema
from kwire.wire import frame as frames
from kwire.wire.explain import MAX_NESTING
from kwire.wire.fields import FieldType
from kwire.wire.keyed import Key
from kwire.wire.tables import KEYS

MARK: Final = "made by kwire wireshark install"
"""What says, in its first lines, that a file is ours."""

PROBES_FILE: Final = "kwire.probes"
"""Name of the table of probes, which lies beside the dissector."""

PORT: Final = 17800

PARTS: Final = ("numbers", "text", "cbor", "schema", "frame", "fields", "state", "show", "plugin")
"""The parts in the order in which they stand in the file; those before `fields` need no Wireshark."""

PURE_PARTS: Final = PARTS[: PARTS.index("fields")]

CLASSES: Final = {
    "bool": "bool",
    "text": "string",
    "str": "string",
    "raw": "bytes",
    "bytes": "bytes",
    "ipv4": "ipv4",
    "ipv6": "ipv6",
    "mac": "ether",
}
"""Kind of a field type → class of its filter name; integers are `uint`, `int` or `address`."""

CONTROL: Final = {"HELLO": control.HELLO_KEYS, "WELCOME": control.WELCOME_KEYS, "TABLE": KEYS}
"""Frame type → the keys of its map."""

ADDRESSES: Final = ("ptr", "ksym", "usym")
ENUMS: Final = ("enum", "senum")


def filter_class(type: str) -> str:
    """The class of a filter name for fields of this type: values of one class can stand under one name."""
    rule = fields.TYPES[type]
    if rule.kind != "int":
        return CLASSES[rule.kind]
    if type in ADDRESSES:
        return "address"
    return "int" if rule.signed else "uint"


def dissector() -> str:
    """The whole Lua file."""
    return _join(
        PARTS, f"-- The kwire dissector for Wireshark 4.0 and newer, {MARK}: it is replaced there.\n"
    )


def model() -> str:
    """The part of it that reads frames and knows nothing of Wireshark, for any Lua from 5.2."""
    return _join(PURE_PARTS, "")


def _join(parts: tuple[str, ...], head: str) -> str:
    folder = Path(__file__).parent / "lua"
    texts = [(folder / f"{part}.lua").read_text(encoding="utf-8") for part in parts]
    return head + f"\nlocal Tables = {lua(tables())}\n\n" + "\n".join(texts)


def tables() -> dict[str, Any]:
    """The protocol's tables, as the dissector wants them."""
    return {
        "version": frames.VERSION,
        "header_size": frames.HEADER_SIZE,
        "max_event": frames.MAX_EVENT,
        "last_type": max(int(type) for type in frames.TYPES),
        "types": {int(type): {"name": type.name, **rule._asdict()} for type, rule in frames.TYPES.items()},
        "flags": {flag.name: int(flag) for flag in frames.Flag},
        "codes": {
            code.name: {"number": int(code), "text": meaning} for code, meaning in frames.ERRORS.items()
        },
        "causes": {int(cause): {"name": cause.name, "text": text} for cause, text in messages.CAUSES.items()},
        "errors": dict(names.ERRORS),
        "signals": dict(names.SIGNALS),
        "families": dict(names.FAMILIES),
        "max_errno": names.MAX_ERRNO,
        "at_fdcwd": names.AT_FDCWD,
        "cpu_unknown": messages.CPU_UNKNOWN,
        "lost_size": messages.PAYLOAD.size,
        "field_types": {name: _field_type(name, rule) for name, rule in fields.TYPES.items()},
        "timestamp_at": fields.TIMESTAMP_AT,
        "fields_at": fields.FIELDS_AT,
        "tail_max": fields.TAIL_MAX,
        "max_fields": schema.MAX_FIELDS,
        "max_field_bytes": schema.MAX_FIELD_BYTES,
        "max_pending": schema.MAX_PENDING,
        "symbol_reach": schema.SYMBOL_REACH,
        "cbor_depth": cbor.MAX_DEPTH,
        "max_nesting": MAX_NESTING,
        "control": {name: _meanings(keys) for name, keys in CONTROL.items()},
        "probes_file": PROBES_FILE,
        "port": PORT,
    }


def _meanings(keys: Mapping[str, Key]) -> dict[str, str]:
    return {key: f"{rule.kind.words}: {rule.meaning}" for key, rule in keys.items()}


def _field_type(name: str, rule: FieldType) -> dict[str, Any]:
    return {
        "sizes": list(rule.sizes),
        "kind": rule.kind,
        "tail": rule.tail,
        "class": filter_class(name),
        "address": name in ADDRESSES,
        "enum": name in ENUMS,
        "meaning": rule.meaning,
    }


def lua(value: Any, depth: int = 0) -> str:
    """A value as a Lua expression: maps and lists as tables, one entry a line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return quoted(value)
    step = "  " * (depth + 1)
    if isinstance(value, Mapping):
        entries = [f"[{lua(key)}] = {lua(item, depth + 1)}" for key, item in value.items()]
    else:
        entries = [lua(item, depth + 1) for item in value]
    if sum(map(len, entries)) < 90 - 2 * depth and not any("\n" in entry for entry in entries):
        return "{ " + ", ".join(entries) + " }" if entries else "{}"
    return "{\n" + "".join(f"{step}{entry},\n" for entry in entries) + "  " * depth + "}"


def quoted(text: str) -> str:
    """A text as a Lua string."""
    special = {'"': '\\"', "\\": "\\\\"}
    plain = [special.get(char, char) if char.isprintable() else _escaped(char) for char in text]
    return '"' + "".join(plain) + '"'


def _escaped(char: str) -> str:
    return "".join(f"\\{byte:03d}" for byte in char.encode("utf-8", "surrogateescape"))
