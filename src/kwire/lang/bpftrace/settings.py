"""The settings of a script: those of its config block, the others as they are by default."""

from kwire.lang.bpftrace import syntax as s
from kwire.lang.bpftrace import tables
from kwire.lang.errors import Diagnostic, LanguageError, did_you_mean


def settings(script: s.Script) -> dict[str, int | str | bool]:
    """The settings of the config block, with those that it does not name. Raises `LanguageError`."""
    found: dict[str, int | str | bool] = {one.name: one.default for one in tables.SETTINGS}
    faults: list[Diagnostic] = []
    for one in script.settings:
        name = tables.RENAMED.get(one.name, one.name)
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
