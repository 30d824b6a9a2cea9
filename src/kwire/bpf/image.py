"""A program ready to load: what the compiler produces, the kernel room loads and the interpreter runs.

Invariant: an `Image` names its maps and never holds a file descriptor. `uses` says which `lddw` instructions
must get the address of which map; whoever loads or runs the image fills them in. Instruction indexes are
slots (8 bytes each, an `lddw` takes two), as in the kernel's own interfaces.
"""

from kwire.lazy import NamedTuple


class MapSpec(NamedTuple):
    """A map to create. `kind`: "array", "percpu_array", "hash", "ringbuf" or "array_of_maps".

    Sizes are in bytes; a ringbuf's `max_entries` is its size in bytes. `flags` are the kernel's BPF_F_
    values. `inner` is the shape of what an array_of_maps holds.
    """

    name: str
    kind: str
    key_size: int
    value_size: int
    max_entries: int
    flags: int = 0
    inner: "MapSpec | None" = None


class MapUse(NamedTuple):
    """An `lddw` that loads a map.

    `insn`: slot index of the `lddw`; `map`: name of the map; `value_offset`: None for the map itself
    (BPF_PSEUDO_MAP_FD), a number for the address of the map's value plus that many bytes
    (BPF_PSEUDO_MAP_VALUE).
    """

    insn: int
    map: str
    value_offset: int | None = None


class Line(NamedTuple):
    """The source position of the instructions from slot `insn` on. `line` and `column` count from 1."""

    insn: int
    file: str
    line: int
    column: int
    text: str


class Image(NamedTuple):
    """One program. `kind`: "kprobe", "kretprobe", "tracepoint", "rawtracepoint", "fentry", "fexit", …

    `code`: encoded instructions; `btf`, `func_info`, `line_info`: the program's type information in the
    kernel's layout; `attach`: target function of fentry and fexit; `cookies`: the probe id is read from the
    attach cookie.
    """

    name: str
    kind: str
    code: bytes
    maps: tuple[MapSpec, ...]
    uses: tuple[MapUse, ...]
    lines: tuple[Line, ...]
    btf: bytes = b""
    func_info: bytes = b""
    line_info: bytes = b""
    attach: str = ""
    cookies: bool = False
