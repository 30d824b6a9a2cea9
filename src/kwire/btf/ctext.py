"""Reads C type names, as people write them: "const struct sock *", "u32", "unsigned long", "char[16]".

Invariant: only names are read, no declarations; the result refers to types that are in the BTF.
"""

from collections import Counter

from kwire.btf.blob import Btf
from kwire.btf.errors import BtfLookupError
from kwire.btf.types import CType, Kind
from kwire.lazy import ASCII, pattern

_TOKEN = pattern(r"\s*([A-Za-z_]\w*|\*|\[\s*(?:0[xX][0-9a-fA-F]+|\d+)\s*\])", ASCII)
MOST_TOKENS = 64
_TAGGED = {"struct": Kind.STRUCT, "union": Kind.UNION, "enum": Kind.ENUM}
_IGNORED = frozenset(
    ("const", "volatile", "restrict", "__restrict", "__user", "__rcu", "__percpu", "__iomem")
)
_WORDS = frozenset(("unsigned", "signed", "char", "short", "int", "long", "float", "double", "_Bool"))

# What compilers call the combinations of these words: sorted words → names in the order they are tried.
_BASIC: dict[str, tuple[str, ...]] = {
    "char": ("char",),
    "char signed": ("signed char", "char"),
    "char unsigned": ("unsigned char",),
    "short": ("short int", "short"),
    "short unsigned": ("short unsigned int", "unsigned short"),
    "int": ("int",),
    "unsigned": ("unsigned int",),
    "long": ("long int", "long"),
    "long unsigned": ("long unsigned int", "unsigned long"),
    "long long": ("long long int", "long long"),
    "long long unsigned": ("long long unsigned int", "unsigned long long"),
    "_Bool": ("_Bool", "bool"),
    "float": ("float",),
    "double": ("double",),
    "double long": ("long double",),
}


def parse_type(btf: Btf, text: str) -> CType:
    """Read a C type name: "struct sock *", "u32", "unsigned long", "enum foo", "char[16]".

    Raises BtfLookupError for text that names no type of this BTF.
    """
    tokens = _tokens(btf, text)
    words = [token for token in tokens if token[0] not in "*[" and token not in _IGNORED]
    pointers = tokens.count("*")
    counts = tuple(_count(token[1:-1].strip()) for token in tokens if token[0] == "[")
    shape = [token[0] for token in tokens if token not in _IGNORED]
    if not words or shape != [word[0] for word in words] + ["*"] * pointers + ["["] * len(counts):
        raise _bad(btf, text)
    return CType(_base(btf, words, text), pointers, counts)


def _tokens(btf: Btf, text: str) -> list[str]:
    """The words and signs. Raises BtfLookupError."""
    tokens = text.split(" ")
    if text.isascii() and all(map(str.isidentifier, tokens)) and len(tokens) <= MOST_TOKENS:
        return tokens  # as of most fields of tracepoints
    tokens = []
    at = 0
    while text[at:].strip():
        match = _TOKEN.match(text, at)
        if match is None or len(tokens) > MOST_TOKENS:
            raise _bad(btf, text)
        tokens.append(match[1])
        at = match.end()
    return tokens


def _count(digits: str) -> int:
    return int(digits, 16 if digits[:2] in ("0x", "0X") else 10)


def _base(btf: Btf, words: list[str], text: str) -> int:
    if words == ["void"]:
        return 0
    if words[0] in _TAGGED:
        if len(words) != 2:
            raise _bad(btf, text)
        return _tagged(btf, words[0], words[1])
    if all(word in _WORDS for word in words):
        return _basic(btf, words, text)
    if len(words) != 1:
        raise _bad(btf, text)
    id = btf.find(words[0], Kind.TYPEDEF)
    if not id and words[0] == "bool":
        id = _basic(btf, ["_Bool"], text)
    if not id:
        tag = next((tag for tag in _TAGGED if _tag_id(btf, tag, words[0])), "")
        cure = f"write {tag} {words[0]}" if tag else ""
        raise BtfLookupError(btf.subject, words[0], f"there is no type {words[0]}", cure)
    return id


def _tagged(btf: Btf, tag: str, name: str) -> int:
    id = _tag_id(btf, tag, name)
    if not id:
        raise BtfLookupError(
            btf.subject, f"{tag} {name}", f"there is no {tag} {name}", lambda: _nearest(btf, tag, name)
        )
    return id


def _tag_id(btf: Btf, tag: str, name: str) -> int:
    id = btf.find(name, _TAGGED[tag])
    if not id and tag == "enum":
        return btf.find(name, Kind.ENUM64)
    if not id:
        id = btf.find(name, Kind.FWD)
    return id


def _nearest(btf: Btf, tag: str, name: str) -> str:
    from kwire.btf.errors import did_you_mean, nearest

    return did_you_mean(f"{tag} {near}" for near in nearest(name, btf.names(_TAGGED[tag])))


def _basic(btf: Btf, words: list[str], text: str) -> int:
    counted = Counter(words)
    if len(+counted) > 1 and not counted["char"]:
        counted["int"] = counted["int"] - 1 if counted["int"] else 0
    if not counted["char"]:
        counted["signed"] = counted["signed"] - 1 if counted["signed"] else 0
    key = " ".join(sorted((+counted).elements())) or "int"
    if key not in _BASIC or {"signed", "unsigned"} <= set(words):
        raise _bad(btf, text)
    for name in _BASIC[key]:
        id = btf.find(name, Kind.FLOAT if "float" in name or "double" in name else Kind.INT)
        if id:
            return id
    raise BtfLookupError(btf.subject, text, f"there is no type {' '.join(words)}")


def _bad(btf: Btf, text: str) -> BtfLookupError:
    cure = "write it as struct sock *, u32 or char[16]"
    return BtfLookupError(btf.subject, text, f"{text!r} is not a C type name", cure)
