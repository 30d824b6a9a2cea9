"""The settings of a script: those of its config block, the others as they are by default."""

from collections.abc import Mapping

from kwire.hints import Final
from kwire.lang.bpftrace import syntax as s
from kwire.lang.bpftrace import tables
from kwire.lang.errors import Diagnostic, LanguageError, did_you_mean

PREFIX: Final = "BPFTRACE_"
"""Of settings in the environment, and of their old names in scripts."""


def settings(script: s.Script, environment: Mapping[str, str] = {}) -> dict[str, int | str | bool]:
    """The settings of the config block, with those that it does not name; those of the environment go before
    (`BPFTRACE_MAX_STRLEN`). Raises `LanguageError`.
    """
    found: dict[str, int | str | bool] = {one.name: one.default for one in tables.SETTINGS}
    faults: list[Diagnostic] = []
    told = {
        name.removeprefix(PREFIX).lower(): text
        for name, text in environment.items()
        if name.startswith(PREFIX)
    }
    told = {tables.RENAMED.get(name, name): text for name, text in told.items()}
    here = [
        s.Setting(name, int(text) if text.isdecimal() else text, script.span)
        for name, text in told.items()
        if name in tables.SETTING
    ]
    for one in (*script.settings, *here):
        name = one.name.removeprefix(PREFIX).lower() if one.name.startswith(PREFIX) else one.name
        name = tables.RENAMED.get(name, name)
        known = tables.SETTING.get(name)
        if known is None:
            cure = did_you_mean(one.name, tables.SETTING)
            faults.append(Diagnostic(one.span, f"there is no setting {one.name}", cure))
        elif not known.ready and one.value != known.default:
            faults.append(Diagnostic(one.span, f"the setting {one.name} is not supported yet"))
        elif known.values == tables.SWITCH and one.value in (0, 1):  # and False, True
            found[name] = bool(one.value)
        elif known.values and not {str(one.value), str(one.value).lower()} & {*known.values}:
            cure = f"it is one of {', '.join(known.values)}"
            faults.append(Diagnostic(one.span, f"{one.name} cannot be {one.value}", cure))
        elif (
            not known.values
            and isinstance(known.default, int)
            and not isinstance(one.value, int)
            and known.default
        ):
            faults.append(Diagnostic(one.span, f"{one.name} is a number"))
        elif known.most and not 0 < int(one.value) <= known.most:
            faults.append(Diagnostic(one.span, f"{one.name} is from 1 to {known.most:,}"))
        else:
            value = one.value
            found[name] = str(value).lower() == "true" if known.values == tables.SWITCH else value
    if faults:
        raise LanguageError(script.source, faults)
    return found
