"""What the attach points of a script mean, with quotes taken away and parameters replaced."""

from fnmatch import fnmatchcase

from kwire.hints import TYPE_CHECKING, Final
from kwire.kinds import TRACE
from kwire.lang import attach
from kwire.lang.bpftrace import syntax as s
from kwire.lang.bpftrace import tables
from kwire.lang.errors import LanguageError, TextError, did_you_mean
from kwire.lang.tree import AttachPoint, Source
from kwire.lazy import pattern

if TYPE_CHECKING:
    import re


def attach_point(point: s.AttachPoint, arguments: tuple[str, ...]) -> AttachPoint:
    """What an attach point means. Raises `TextError`."""
    text = _unquoted(point, arguments)
    word, _, rest = text.partition(":")
    provider = tables.PROVIDER.get(word) or tables.PROVIDER.get(word.lower())
    if provider is None:
        cure = did_you_mean(word.lower(), tables.PROVIDER) or "as in kprobe:tcp_connect { … }"
        raise TextError(point.span, f"there is no kind of probe {word!r}", cure)
    if not provider.kind:
        raise TextError(point.span, f"{provider.name} is not supported yet")
    if provider.kind in TRACE and not rest:
        return AttachPoint(provider.kind, "", "", 0, point.span)
    if not rest:
        raise TextError(point.span, f"{word!r} says no target", f"write {provider.form}")
    module, colon, name = rest.partition(":")
    if provider.kind == "rawtracepoint" and colon and fnmatchcase("vmlinux", module):
        rest = name  # the kernel's own, of which there is one of a name
    try:
        made = attach.parse(Source("", f"{provider.kind}:{rest}"), len(provider.kind) + 1 + len(rest))
    except LanguageError as error:
        raise TextError(point.span, error.cause, error.cure) from None
    return made.replace(span=point.span)


def places(script: s.Script, arguments: tuple[str, ...]) -> list[AttachPoint]:
    """The attach points of all probes of a script. Raises `LanguageError` with what is wrong in them."""
    found: list[AttachPoint] = []
    faults = []
    for point in (point for probe in script.probes for point in probe.points):
        try:
            found.append(attach_point(point, arguments))
        except TextError as error:
            faults.append(error.diagnostic)
    if faults:
        raise LanguageError(script.source, faults)
    return found


def _unquoted(point: s.AttachPoint, arguments: tuple[str, ...]) -> str:
    """The text of an attach point, its parameters replaced, without quotes but those that hold the name of a
    file together.
    """
    text = _QUOTED.sub(_plain, point.text)
    at = text.find("$")
    while at >= 0:
        end = at + 1
        while text[end : end + 1].isdecimal() and text[end : end + 1].isascii():
            end += 1
        number = int(text[at + 1 : end] or 0)
        if not 0 < number <= len(arguments):
            message = (
                f"there is no argument {text[at:end]}"
                if number
                else "$ stands before the number of an argument"
            )
            raise TextError(point.span, message, "give it behind the script")
        text = text[:at] + arguments[number - 1] + text[end:]
        at = text.find("$", at + len(arguments[number - 1]))
    return text


_QUOTED: Final = pattern(r'(:?)"((?:[^"\\]|\\.)*)"?')
_ESCAPED: Final = pattern(r"\\(.)")


def _plain(quoted: "re.Match[str]") -> str:
    """What stands in quotes; a file's name with a colon in it keeps them."""
    colon, text = quoted.groups()
    file = colon and ":" in text and ":" not in quoted.string[: quoted.start()]
    return quoted[0] if file else colon + _ESCAPED.sub(r"\1", text)
