"""The names of the language's own types, and which of them are the kernel's by another name."""

from kwire.hints import Final

INTEGERS: Final = {
    "uint8": "u8",
    "uint16": "u16",
    "uint32": "u32",
    "uint64": "u64",
    "int8": "s8",
    "int16": "s16",
    "int32": "s32",
    "int64": "s64",
    "uint8_t": "u8",
    "uint16_t": "u16",
    "uint32_t": "u32",
    "uint64_t": "u64",
    "int8_t": "s8",
    "int16_t": "s16",
    "int32_t": "s32",
    "int64_t": "s64",
    "u8": "u8",
    "u16": "u16",
    "u32": "u32",
    "u64": "u64",
    "s8": "s8",
    "s16": "s16",
    "s32": "s32",
    "s64": "s64",
    "bool": "bool",
    "size_t": "u64",
    "uintptr_t": "u64",
    "intptr_t": "s64",
}
"""Integer types by the names people write → the name that the checker knows."""

OTHERS: Final = frozenset(
    (
        *("void", "char", "short", "int", "long", "unsigned", "signed"),
        *("struct", "union", "enum", "typeof", "string", "buffer", "inet", "usym_t", "ksym_t", "kstack_t"),
    )
)
"""Other words that begin a type."""


def plain(name: str) -> str:
    """A type's name as the checker knows it: "uint8 *" is "u8 *"."""
    word, blank, rest = name.partition(" ")
    base, bracket, length = word.partition("[")
    stars = base[len(base.rstrip("*")) :]
    base = base.rstrip("*")
    return INTEGERS.get(base, base) + stars + bracket + length + blank + rest


def is_type(word: str) -> bool:
    """Whether a word begins a type whatever the kernel's types are."""
    return word in INTEGERS or word in OTHERS
