"""The typed arguments of a probe, as C: a tracepoint's from its format, those of functions from BTF."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from kwire.btf.blob import Btf
from kwire.btf.cformat import spell
from kwire.btf.errors import BtfLookupError
from kwire.btf.store import Found, Function, Kernel
from kwire.btf.types import FuncProto, Kind, Param
from kwire.kernel import tracefs
from kwire.kernel.formats import EventField
from kwire.kernel.targets import Target
from kwire.kinds import KINDS


class Argument(NamedTuple):
    """An argument: `text` is its declaration. `offset` and `size` are bytes, of a tracepoint's field only."""

    name: str
    type: str
    text: str
    offset: int | None = None
    size: int | None = None


def signature(
    target: Target,
    kernel: Callable[[], Kernel],
    debug: Sequence[str] = (),
    kept: dict[str, Any] | None = None,
) -> tuple[list[Argument], Argument | None]:
    """(arguments, what a probe at the return sees as `retval`).

    `kernel` is called where BTF is needed; `debug`: folders with debugging information of programs; `kept`:
    what was read of it (`kwire.btf.dwarf`). Raises KwireError where nothing is known about the arguments.
    """
    if target.kind == "tracepoint":
        fields = tracefs.shared().format(target.group, target.name).fields
        return [
            Argument(field.name, _type(field), field.declaration, field.offset, field.size)
            for field in fields
        ], None
    if KINDS[target.kind].place in ("timer", "trace"):
        return [], None
    if target.kind == "rawtracepoint":
        return _raw(kernel(), target.name), None
    if KINDS[target.kind].place == "user function":
        from kwire.live.program_types import types_of

        own = types_of(target, kernel(), debug, kept)
        found = Function(target.name, "", own.proto(own.find(target.name, Kind.FUNC)), own)
    else:
        found = kernel().func(target.name, target.group or None)
    btf, proto = found.btf, found.proto
    returns = None
    if KINDS[target.kind].result:
        returns = _argument(btf, Param("retval", proto.ret))
    return [] if target.kind in ("kretprobe", "uretprobe") else _arguments(btf, proto), returns


def _type(field: EventField) -> str:
    """A field's whole type: "char[16]", "__data_loc char[]"."""
    place = "" if field.location == "inline" else f"__{field.location} "
    length = "" if field.length is None else f"[{field.length or ''}]"
    return f"{place}{field.type}{length}"


def _raw(kernel: Kernel, name: str) -> list[Argument]:
    """The arguments of `void (*btf_trace_NAME)(void *, …)`, named as in a function that has the same ones."""
    found = kernel.find(f"btf_trace_{name}", (Kind.TYPEDEF,))
    if found is None:
        raise BtfLookupError("the kernel", name, f"there is no prototype of raw tracepoint {name}")
    proto = found.btf.proto(found.id)
    return _arguments(found.btf, _named(found, name, proto._replace(params=proto.params[1:])))


def _named(found: Found, name: str, proto: FuncProto) -> FuncProto:
    for function in (f"__bpf_trace_{name}", f"__traceiter_{name}"):
        id = found.btf.find(function, Kind.FUNC)
        named = found.btf.proto(id).params[1:] if id else ()
        if len(named) == len(proto.params) and all(param.name for param in named):
            both = zip(named, proto.params, strict=True)
            return proto._replace(params=tuple(Param(own.name, param.type) for own, param in both))
    return proto


def _arguments(btf: Btf, proto: FuncProto) -> list[Argument]:
    return [
        _argument(btf, param if param.name else Param(f"arg{number}", param.type))
        for number, param in enumerate(proto.params)
    ]


def _argument(btf: Btf, param: Param) -> Argument:
    return Argument(param.name, spell(btf, param.type), spell(btf, param.type, param.name))
