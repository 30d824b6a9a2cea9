"""Values that are known by their class and their fields: types, nodes of trees, ways to reach a value.

    class Text(Form):
        limit: int
        space: str = "kernel"

Invariants: two forms are equal when their classes and all their fields are; every form is true; fields do not
change (a type checker sees to that), `replace` gives a changed copy. Making such a class runs no generated
code, so a room full of them is imported quickly.

A `Node` is a form that stands in a tree. `children` and `rewrite` are the one way to walk and to change
trees: whoever handles nodes by their class looks the class up and fails on one it does not know.
"""

from collections.abc import Callable, Iterator

from kwire.hints import Any, ClassVar, Self, TypeVar, dataclass_transform


class _Meta(type):
    """Makes slots of the annotated fields."""

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> "_Meta":
        if "__annotations__" in namespace:
            own = tuple(namespace["__annotations__"])
        else:
            own = _annotated(namespace)
        inherited: tuple[str, ...] = ()
        defaults: dict[str, Any] = {}
        for base in bases:
            inherited += getattr(base, "parts", ())
            defaults |= getattr(base, "_defaults", {})
        if bases:
            for field in own:
                if field in namespace:
                    defaults[field] = namespace.pop(field)
            fields = (*inherited, *own)
            namespace["__slots__"] = own
            namespace["parts"] = namespace["__match_args__"] = fields
            namespace["_defaults"] = defaults
            namespace["_tail"] = tuple([defaults[field] for field in fields if field in defaults])
            namespace["_setters"] = None  # until the first of them is made: of most kinds there is none
        return super().__new__(mcs, name, bases, namespace)

    parts: tuple[str, ...]
    _setters: tuple[Callable[[Any, Any], None], ...] | None


def _annotated(namespace: dict[str, Any]) -> tuple[str, ...]:
    """The annotated names where Python (from 3.14) keeps annotations as a function."""
    annotate = namespace.get("__annotate_func__") or namespace.get("__annotate__")
    if annotate is None:
        return ()
    from annotationlib import Format, call_annotate_function  # type: ignore[import-not-found,unused-ignore]  # of Python 3.14 and later

    return tuple(call_annotate_function(annotate, Format.FORWARDREF))


@dataclass_transform(frozen_default=True)
class Form(metaclass=_Meta):
    """A value known by its class and its fields."""

    __slots__ = ()
    parts: ClassVar[tuple[str, ...]] = ()
    """The names of the fields, in order."""
    _defaults: ClassVar[dict[str, Any]] = {}
    _tail: ClassVar[tuple[Any, ...]] = ()  # the defaults of the last fields
    _setters: ClassVar[tuple[Callable[[Any, Any], None], ...] | None] = None

    def __init__(self, *given: Any, **named: Any) -> None:
        setters = self._setters
        if setters is None:
            made = self.__class__
            setters = made._setters = tuple([getattr(made, field).__set__ for field in made.parts])
        if named or len(given) != len(setters):
            missing = len(setters) - len(given)
            if named or not 0 < missing <= len(self._tail):
                given = self._all(given, named)
            else:
                given += self._tail[-missing:]
        for put, value in zip(setters, given, strict=True):
            put(self, value)

    def _all(self, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
        rest = self.parts[len(given) :]
        values = self._defaults | named
        unknown = named.keys() - set(rest)
        missing = [field for field in rest if field not in values]
        if missing or unknown or len(given) > len(self.parts):
            wrong = sorted(unknown) or missing or given[len(self.parts) :]
            raise TypeError(f"{self.__class__.__name__} has the fields {self.parts}: {wrong}")
        return (*given, *(values[field] for field in rest))

    def contents(self) -> tuple[Any, ...]:
        """The fields' values, in order."""
        return tuple([getattr(self, field) for field in self.parts])

    def replace(self, **changes: Any) -> Self:
        """A copy with other values for these fields."""
        own = {field: getattr(self, field) for field in self.parts}
        return self.__class__(**own | changes)

    def __eq__(self, other: object) -> bool:
        return other.__class__ is self.__class__ and self.contents() == other.contents()

    def __hash__(self) -> int:
        return hash((self.__class__, self.contents()))

    def __repr__(self) -> str:
        inner = ", ".join(f"{field}={getattr(self, field)!r}" for field in self.parts)
        return f"{self.__class__.__name__}({inner})"


class Node(Form):
    """A form that stands in a tree."""


_Node = TypeVar("_Node", bound=Node)


def children(node: Node) -> Iterator[Node]:
    """The nodes directly below a node, in the order of its fields."""
    for field in node.parts:
        yield from _nodes(getattr(node, field))


def _nodes(value: Any) -> Iterator[Node]:
    if isinstance(value, Node):
        yield value
    elif value.__class__ is tuple:
        for one in value:
            yield from _nodes(one)


def walk(node: Node) -> Iterator[Node]:
    """A node and all below it, from the top."""
    yield node
    for one in children(node):
        yield from walk(one)


def rewrite(node: _Node, change: Callable[[Node], Node | None]) -> _Node:
    """The tree with every node for which `change` gives another one replaced by that, from the top; what is
    below a replaced node is not looked at.
    """
    made: _Node = _rewritten(node, change)
    return made


def _rewritten(value: Any, change: Callable[[Node], Node | None]) -> Any:
    if isinstance(value, Node):
        changed = change(value)
        if changed is not None:
            return changed
        own = value.contents()
        made = [_rewritten(one, change) for one in own]
        if all(new is old for new, old in zip(made, own, strict=True)):
            return value
        return value.__class__(*made)
    if value.__class__ is tuple:
        made = [_rewritten(one, change) for one in value]
        return value if all(new is old for new, old in zip(made, value, strict=True)) else tuple(made)
    return value
