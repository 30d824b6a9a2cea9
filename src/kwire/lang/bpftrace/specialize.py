"""Macros that take maps, made to macros that do not: one for each choice of maps that they are called with.

Invariant: what comes of it means the same, and has no map among the parameters of its macros; a macro with
maps that nobody calls is gone.
"""

from kwire.hints import Final
from kwire.lang.bpftrace import syntax as s
from kwire.lang.bpftrace.macros import by_name, meant
from kwire.lang.errors import Diagnostic, TextError
from kwire.lang.forms import Node, rewrite

MOST: Final = 1000
"""Macros that are made so."""


def without_map_parameters(script: s.Script, faults: list[Diagnostic]) -> s.Script:
    """The script with its macros made so. `faults` takes what is wrong with the calls."""
    macros = by_name(script.macros)
    taking = [one for one in script.macros if any(isinstance(p, s.Map) for p in one.parameters)]
    if not taking:
        return script
    made: dict[str, s.Macro] = {}
    waiting: list[s.Macro] = []

    def call(node: Node) -> Node | None:
        if not isinstance(node, s.Call):
            return None
        try:
            macro = meant(macros, node)
        except TextError as error:
            faults.append(error.diagnostic)
            return s.Int(0, node.span)
        if macro is None or macro not in taking:
            return None
        arguments = [rewrite(one, call) for one in node.arguments]
        chosen: dict[str, str] = {}
        rest: list[s.Expr] = []
        for parameter, argument in zip(macro.parameters, arguments, strict=True):
            if not isinstance(parameter, s.Map):
                rest.append(argument)
            elif isinstance(argument, s.Map) and argument.key is None:
                chosen[parameter.id] = argument.id
            else:
                message = f"{node.function} takes a map here"
                faults.append(Diagnostic(argument.span, message, f"as in @{parameter.id}"))
                return s.Int(0, node.span)
        name = f"{macro.name}({', '.join(f'@{one}' for one in chosen.values())})"
        if name not in made and len(made) < MOST:

            def renamed(inner: Node) -> Node | None:
                if not isinstance(inner, s.Map) or inner.id not in chosen:
                    return None
                return inner.replace(id=chosen[inner.id], key=inner.key and rewrite(inner.key, renamed))

            parameters = tuple(one for one in macro.parameters if not isinstance(one, s.Map))
            body = rewrite(macro.body, renamed)
            made[name] = macro.replace(name=name, parameters=parameters, body=body)
            waiting.append(made[name])
        return node.replace(function=name, arguments=tuple(rest))

    probes = tuple(rewrite(one, call) for one in script.probes)
    plain = [rewrite(one, call) for one in script.macros if one not in taking]
    done: list[s.Macro] = []
    while waiting:
        one = waiting.pop()
        done.append(one.replace(body=rewrite(one.body, call)))
    return script.replace(probes=probes, macros=(*plain, *done))
