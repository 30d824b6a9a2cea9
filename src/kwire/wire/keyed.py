"""Maps with keys, from others: what each key must hold stands in a table, and one function reads by it.

A table is what the documents print, too. Invariants: what is given has the type and the size that the table
says; a value is never taken for another that Python calls equal (`True` is no 1); who reads decides whether
keys that are not known are passed over or refused, and makes the error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kwire.hints import Any, Final
from kwire.lazy import NamedTuple
from kwire.wire.frame import bad_payload
from kwire.words import plural

NEEDED: Final = object()
"""As the default of a key: it must be there."""

LEFT_OUT: Final = object()
"""As the default of a key: where it is not there, it is not in what is read either."""

MISSING: Final = ": nothing"


class Kind(NamedTuple):
    """What a value must be, in words, and what tells what is wrong with one: None, or the place within it and
    what stands there, as in `[2]: an integer`.
    """

    words: str
    wrong: Callable[[Any], str | None]


class Key(NamedTuple):
    """One key of a map; the value where it is not written, NEEDED or LEFT_OUT."""

    kind: Kind
    meaning: str
    default: Any = NEEDED


class Misfit(NamedTuple):
    """What is wrong with a map: at the key `name`, of which `key` is the rule (None: there is no such key),
    stands what `found` says; MISSING where the key is not there.
    """

    name: str
    found: str
    key: Key | None


def read(
    value: Mapping[Any, Any],
    keys: Mapping[str, Key],
    wrong: Callable[[Misfit], Exception],
    *,
    strict: bool = False,
) -> dict[str, Any]:
    """The values of the keys of a table. Raises what `wrong` makes of the first that is not as it should be;
    with `strict` of a key that is not in the table, too.
    """
    if strict:
        for name in value:
            if name not in keys:
                raise wrong(Misfit(ascii(name)[:40], "", None))
    taken = {}
    for name, key in keys.items():
        if name in value:
            found = key.kind.wrong(value[name])
            if found is not None:
                raise wrong(Misfit(name, found, key))
            taken[name] = value[name]
        elif key.default is NEEDED:
            raise wrong(Misfit(name, MISSING, key))
        elif key.default is not LEFT_OUT:
            taken[name] = key.default
    return taken


def read_payload(
    value: Mapping[Any, Any], keys: Mapping[str, Key], base: int, path: str = ""
) -> dict[str, Any]:
    """The same of a map in a payload at `base`; FrameError BAD_PAYLOAD, with the key's name behind `path`."""

    def wrong(one: Misfit) -> Exception:
        assert one.key is not None  # keys that are not known are passed over
        return bad_payload(base, f"{path}{one.name}{one.found}", one.key.kind.words)

    return read(value, keys, wrong)


_NAMES: Final = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text",
    bytes: "bytes",
    list: "a list",
    dict: "a map",
    type(None): "null",
}


def named(value: object) -> str:
    """What a value is, in words."""
    return _NAMES.get(type(value), "something else")


# ---- kinds


def plain(
    words: str,
    *types: type,
    fits: Callable[[Any], bool] = lambda value: True,
    shown: Callable[[Any], str] = str,
) -> Kind:
    """A value of one of these types that `fits`; `shown`: one that does not, in words."""

    def wrong(value: Any) -> str | None:
        if type(value) not in types:
            return f": {named(value)}"
        return None if fits(value) else f": {shown(value)}"

    return Kind(words, wrong)


FLAG: Final = plain("true or false", bool)
INTEGER: Final = plain("an integer", int)
MAP: Final = plain("a map", dict)
TEXT: Final = plain("text", str)


def integer(most: int, words: str = "an integer", least: int = 0) -> Kind:
    """An integer from `least` to `most`."""
    return plain(
        words,
        int,
        fits=lambda value: least <= value <= most,
        shown=lambda value: f"{value if abs(value) < 1 << 64 else 'a large one'}, not {least} to {most}",
    )


def text(most: int, words: str = "text", least: int = 0) -> Kind:
    """A text of so many characters."""
    return plain(
        words,
        str,
        fits=lambda value: least <= len(value) <= most,
        shown=lambda value: plural(len(value), "character"),
    )


def data(most: int, words: str, least: int = 0) -> Kind:
    """So many bytes."""
    return plain(
        words,
        bytes,
        fits=lambda value: least <= len(value) <= most,
        shown=lambda value: plural(len(value), "byte"),
    )


def choice(*texts: str) -> Kind:
    """One of these texts."""
    return plain(
        " or ".join(texts), str, fits=lambda value: value in texts, shown=lambda value: ascii(value)[:40]
    )


def listing(each: Kind, words: str, most: int = 1 << 32) -> Kind:
    """A list, at most so long, all of whose items are of a kind."""

    def wrong(value: Any) -> str | None:
        if type(value) is not list:
            return f": {named(value)}"
        if len(value) > most:
            return f": {len(value)} of them"
        for number, item in enumerate(value):
            if (found := each.wrong(item)) is not None:
                return f"[{number}]{found}"
        return None

    return Kind(words, wrong)


def table(name: Kind, each: Kind, words: str, most: int = 1 << 32) -> Kind:
    """A map, of at most so many entries, from names of one kind to values of another."""

    def wrong(value: Any) -> str | None:
        if type(value) is not dict:
            return f": {named(value)}"
        if len(value) > most:
            return f": {len(value)} entries"
        for key, item in value.items():
            found = name.wrong(key)
            if found is None:
                found = each.wrong(item)
            if found is not None:
                return f".{key:.40}{found}" if isinstance(key, str) else f".{key}{found}"
        return None

    return Kind(words, wrong)
