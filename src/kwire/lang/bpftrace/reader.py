"""A script from its text: what it says, or everything that is wrong with how it is written."""

from kwire.lang.bpftrace import syntax
from kwire.lang.bpftrace.parser import parse
from kwire.lang.bpftrace.preprocessor import preprocess
from kwire.lang.errors import Diagnostic, LanguageError
from kwire.lang.tree import Source, Span


def read(name: str, text: str) -> syntax.Script:
    """The tree of a script. Raises `LanguageError` with all that is wrong with its syntax."""
    source = Source(name, text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n"))
    faults: list[Diagnostic] = []
    try:
        ready = preprocess(source, faults)
        script = parse(source, ready.text, ready.definitions, faults)
    except RecursionError:  # many small depths together
        raise LanguageError(
            source, [Diagnostic(Span(1, 0, 1, 1), "this script is nested too deeply")]
        ) from None
    if not faults and not script.probes:
        faults.append(Diagnostic(Span(1, 0, 1, 1), "there is no probe in this script", "write BEGIN { … }"))
    if faults:
        raise LanguageError(source, faults)
    return script
