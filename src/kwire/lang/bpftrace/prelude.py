"""Functions that are written in the language itself: macros that every script has.

Invariant: a function here is used only where its module says so, as a macro of the script would be.
"""

from functools import cache

from kwire.hints import Any
from kwire.lang.bpftrace import syntax as s
from kwire.lang.bpftrace.macros import by_name
from kwire.lang.forms import Node
from kwire.lang.tree import Span

TEXT = """
macro strcontains($text, $part) {
  strstr($text, $part) >= 0
}
macro strstr($text, $part) {
  let $size = strlen($part);
  let $last = (int64)strlen($text) - (int64)$size;
  let $found = (int64)-1;
  for $at : 0..($last + 1) {
    let $same = true;
    for $i : 0..$size {
      if ($text[$at + $i] != $part[$i]) {
        $same = false;
        break;
      }
    }
    if ($same) {
      $found = $at;
      break;
    }
  }
  $found
}
macro find(key, $value) {
  let $key = key;
  let $there = has_key(@map, $key);
  if ($there) {
    $value = @map[$key];
  }
  $there
}
begin { }
"""


@cache
def macros() -> dict[str, list[s.Macro]]:
    """The macros, by name."""
    from kwire.lang.bpftrace.reader import read

    return by_name(read("library", TEXT).macros)


def macro(name: str, span: Span, given: str = "") -> s.Macro:
    """A macro for a call at `span`: what is wrong in it is wrong with the call. `given`: the map that it is
    called with, which is none of its parameters then.
    """

    def placed(value: Any) -> Any:
        if isinstance(value, Span):
            return span
        if isinstance(value, s.Map):
            return s.Map(given, placed(value.key), span)
        if isinstance(value, Node):
            return value.__class__(*map(placed, value.contents()))
        return tuple(map(placed, value)) if value.__class__ is tuple else value

    [found] = macros()[name]
    return placed(found)  # type: ignore[no-any-return]  # what it is given
