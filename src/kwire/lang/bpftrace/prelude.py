"""Functions that are written in the language itself: macros that every script has.

Invariant: a function here is used only where its module says so, as a macro of the script would be.
"""

from functools import cache

from kwire.lang.bpftrace import syntax as s
from kwire.lang.bpftrace.macros import by_name

TEXT = """
macro strcontains($text, $part) {
  let $size = strlen($part);
  let $last = (int64)strlen($text) - (int64)$size;
  let $found = false;
  for $at : 0..($last + 1) {
    let $same = true;
    for $i : 0..$size {
      if ($text[$at + $i] != $part[$i]) {
        $same = false;
        break;
      }
    }
    if ($same) {
      $found = true;
      break;
    }
  }
  $found
}
begin { }
"""


@cache
def macros() -> dict[str, list[s.Macro]]:
    """The macros, by name."""
    from kwire.lang.bpftrace.reader import read

    return by_name(read("library", TEXT).macros)
