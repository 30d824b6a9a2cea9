"""Programs: loading an `Image`, asking the kernel about it, running it on given bytes.

Invariants: the verifier's log is asked for only after a load failed, so a load that succeeds costs nothing
extra; what the verifier complains of reaches the caller as one sentence and the source line it is about
(`VerifierError`); the program's type information is left out only when the kernel refuses the type
information itself.
"""

import errno
import os
import re
import struct
from collections.abc import Mapping

from kwire import kinds
from kwire.bpf.helpers import NAMES
from kwire.bpf.image import Image, Line
from kwire.kernel import cures, privileges
from kwire.kernel.cures import may_trace
from kwire.kernel.maps import Map, object_name, raise_limit
from kwire.kernel.sys import (
    ATTACH_TYPES,
    BPF_F_TEST_RUN_ON_CPU,
    BPF_PSEUDO_MAP_FD,
    BPF_PSEUDO_MAP_VALUE,
    PROG_TYPES,
    Struct,
    Value,
    failure,
    info,
    try_bpf,
)
from kwire.kernel.syscall import Fd, KernelError
from kwire.lazy import NamedTuple, pattern

# kind of image -> (program type, expected attach type)
KINDS: dict[str, tuple[str, str]] = {
    **{kind.name: (kind.program, kind.attach_type) for kind in kinds.KINDS.values()},
    "socket_filter": ("socket_filter", ""),
    "sched_cls": ("sched_cls", ""),
    "xdp": ("xdp", ""),
    "syscall": ("syscall", ""),
}
TRAMPOLINED = [kind.name for kind in kinds.KINDS.values() if kind.mechanism == "trampoline"]
FUNC_INFO_SIZE = 8  # struct bpf_func_info
LINE_INFO_SIZE = 16  # struct bpf_line_info
LOG_SIZES = (64 << 10, 1 << 20, (16 << 20) - 1)  # older kernels take no log buffer over 16 MB
BPF_F_SLEEPABLE = 1 << 4
BTF_KIND_FUNC = 12
FIND_BY_NAME_KIND = NAMES.index("btf_find_by_name_kind")  # for programs of type syscall only
READS_KERNEL = pattern(r"\bbpf_probe_read_kernel")  # helpers that lockdown takes away
LICENSE = b"GPL"  # the read helpers are for GPL programs only


class TooComplexError(KernelError):
    """The verifier gave up looking at a program."""


class VerifierError(KernelError):
    """The verifier refused a program. `reason`: its complaint as a sentence; `log`: everything it said;
    `insn`: the slot index it is about, -1 when unknown; `line`: where in the source, None when unknown."""

    def __init__(
        self, name: str, errno: int, reason: str, log: str, insn: int, line: Line | None, cure: str = ""
    ) -> None:
        where = f"{line.file}:{line.line}: `{line.text.strip()}`: " if line else ""
        super().__init__("load program", name, f"{where}{reason}", cure, errno)
        self.reason = reason
        self.log = log
        self.insn = insn
        self.line = line

    @property
    def detail(self) -> str:
        """The one line, then the verifier's log."""
        return f"{self}\n{self.log}"


MAPS_MOST, INSNS_MOST = 64, 1_000_000
"""What the kernel takes of one program."""


class ProgInfo(NamedTuple):
    """`recursion_misses`: how often the kernel skipped the program because it was already running on that
    CPU.

    `run_count` and `run_ns` count only while BPF statistics are on; `insns` is what the verifier processed,
    0 where the kernel does not say.
    """

    id: int
    tag: str
    run_count: int
    run_ns: int
    recursion_misses: int
    insns: int


class RunResult(NamedTuple):
    """What `Prog.test_run` gives: the program's return value, the data as it left it, nanoseconds a run."""

    result: int
    data: bytes
    ns: int


class Prog(Fd):
    """A loaded program by its descriptor."""

    __slots__ = ("btf", "image")

    def __init__(self, fd: int, image: Image, btf: bool) -> None:
        super().__init__(fd)
        self.image = image
        self.btf = btf  # whether the kernel took its type information

    def info(self) -> ProgInfo:
        """Ask the kernel about it; after privileges are given up, kernels before 6.5 tell only through
        /proc.
        """
        try:
            told, length = info("prog", self.fd)
        except KernelError as error:
            if error.errno != errno.EPERM:
                raise
            return self._fdinfo()

        def known(name: str) -> int:
            return told[name] if told.has(name, length) else 0

        tag = bytes(told.buffer[8:16]).hex()
        counts = (known(name) for name in ("run_cnt", "run_time_ns", "recursion_misses", "verified_insns"))
        return ProgInfo(told["id"], tag, *counts)

    def _fdinfo(self) -> ProgInfo:
        with open(f"/proc/self/fdinfo/{self.fd}") as file:
            lines = dict(line.split(":", 1) for line in file if ":" in line)
        names = ("prog_id", "run_cnt", "run_time_ns", "recursion_misses", "verified_insns")
        ident, *counts = (int(lines.get(name, "0")) for name in names)
        return ProgInfo(ident, lines.get("prog_tag", "").strip(), *counts)

    @property
    def recursion_misses(self) -> int:
        """The same number as in `info`, from /proc, which needs no privilege; 0 where it is not told."""
        try:
            with open(f"/proc/self/fdinfo/{self.fd}") as file:
                found = re.search(r"^recursion_misses:\s*(\d+)", file.read(), re.M)
        except FileNotFoundError:  # no /proc here
            return 0
        return int(found[1]) if found else 0

    def test_run(self, data: bytes = b"", context: bytes = b"", repeat: int = 1, cpu: int = -1) -> RunResult:
        """Run it once or more on `data` (packet types) or `context` (others). Raises KernelError where the
        kernel cannot run this type so.
        """
        out = bytearray(len(data) + 256) if data else None
        fields: dict[str, Value] = {"prog_fd": self.fd, "data_in": data or None, "data_size_in": len(data)}
        fields |= {"ctx_in": context or None, "ctx_size_in": len(context)}
        fields |= {"data_out": out, "data_size_out": len(out or b"")}
        if KINDS[self.image.kind][0] == "raw_tracepoint":
            fields |= {"flags": BPF_F_TEST_RUN_ON_CPU, "cpu": cpu} if cpu >= 0 else {}
        elif repeat > 1:
            fields["repeat"] = repeat
        while True:
            _, error, attr = try_bpf("prog_test_run", **fields)
            if error != errno.EINTR:
                break
        if error:
            raise failure("run program", self.image.name, error)
        return RunResult(
            attr["retval"], bytes(out[: attr["data_size_out"]]) if out else b"", attr["duration"]
        )


def load(
    image: Image,
    maps: Mapping[str, Map | int],
    *,
    multi: bool = False,
    attach_btf_id: int = 0,
    module: str = "",
    flags: int = 0,
    explain: bool = True,
) -> Prog:
    """Load a program; `maps` gives each map it names, as a `Map` or a descriptor.

    `multi`: for kprobe.multi, or for uprobe.multi where it is a program of uprobes; `attach_btf_id`: for
    fentry and fexit, the BTF id of the function, in the BTF of `module` where it is a module's. Raises
    VerifierError, or KernelError for anything else; without `explain` TooComplexError as soon as the verifier
    has given up.
    """
    prog_type, attach_type = KINDS.get(image.kind, ("", ""))
    if not prog_type:
        raise KernelError("load program", image.name, f"there is no kind of program called {image.kind!r}")
    if multi:
        attach_type = "uprobe_multi" if image.kind in kinds.USER else "kprobe_multi"
    code = link(image, maps)
    attr: dict[str, Value] = {
        "prog_type": PROG_TYPES[prog_type],
        "insn_cnt": len(code) // 8,
        "insns": code,
        "license": LICENSE,
        "prog_name": object_name(image.name),
        "prog_flags": flags,
        "expected_attach_type": ATTACH_TYPES[attach_type] if attach_type else 0,
        "attach_btf_id": attach_btf_id,
    }
    module_fd = module_btf(module) if module else -1
    btf_fd = load_btf(image.btf) if image.btf else -1
    try:
        if module_fd >= 0:
            attr["attach_btf_obj_fd"] = module_fd
        if btf_fd >= 0:
            attr |= {
                "prog_btf_fd": btf_fd,
                "func_info": image.func_info or None,
                "func_info_rec_size": FUNC_INFO_SIZE,
                "func_info_cnt": len(image.func_info) // FUNC_INFO_SIZE,
                "line_info": image.line_info or None,
                "line_info_rec_size": LINE_INFO_SIZE,
                "line_info_cnt": len(image.line_info) // LINE_INFO_SIZE,
            }
        fd, error, _ = _prog_load(attr)
        if error == errno.EPERM and raise_limit():
            fd, error, _ = _prog_load(attr)
        if error in (errno.E2BIG, errno.EFAULT) and not explain:
            raise TooComplexError("load program", image.name, "the verifier gave up", errno=error)
        if error:
            fd = _load_with_log(image, attr, error)
    finally:
        for used in (btf_fd, module_fd):
            if used >= 0:
                os.close(used)
    return Prog(fd, image, btf_fd >= 0)


def link(image: Image, maps: Mapping[str, Map | int]) -> bytes:
    """The code of an image with the descriptors of its maps filled in."""
    code = bytearray(image.code)
    for use in image.uses:
        target = maps.get(use.map)
        if target is None:
            raise KernelError("load program", image.name, f"no map called {use.map!r} was given")
        at = use.insn * 8
        pseudo = BPF_PSEUDO_MAP_FD if use.value_offset is None else BPF_PSEUDO_MAP_VALUE
        code[at + 1] = code[at + 1] & 0x0F | pseudo << 4
        struct.pack_into("=i", code, at + 4, target if isinstance(target, int) else target.fd)
        struct.pack_into("=i", code, at + 12, use.value_offset or 0)
    return bytes(code)


def load_btf(blob: bytes) -> int:
    """Give a program's type information to the kernel; its descriptor, or -1 where the kernel refuses it."""
    fd, error, _ = try_bpf("btf_load", btf=blob, btf_size=len(blob))
    return -1 if error else fd


def module_btf(module: str) -> int:
    """A descriptor of the type information of a loaded module. Raises KernelError."""
    number = 0
    while True:
        _, error, attr = try_bpf("btf_get_next_id", id=number)
        if error == errno.ENOENT:
            raise KernelError("find types of", module, "no such module, or it has none", errno=error)
        if error:
            raise failure("find types of", module, error, _for_modules(error))
        number = attr["next_id"]
        fd, error, _ = try_bpf("btf_get_fd_by_id", id=number)
        if error == errno.ENOENT:
            continue  # gone meanwhile
        if error:
            raise failure("find types of", module, error, _for_modules(error))
        with Fd(fd):
            name = bytearray(64)
            told, _ = info("btf", fd, name=name, name_len=len(name))
            if told["kernel_btf"] and name.split(b"\0")[0].decode("utf-8", "replace") == module:
                return os.dup(fd)


def _for_modules(error: int) -> str:
    """The cure where the kernel does not let us look for a module's types."""
    held = privileges.effective()
    lacks = error in (errno.EPERM, errno.EACCES) and "CAP_SYS_ADMIN" not in held
    return "run as root, or also with CAP_SYS_ADMIN" if lacks else ""


def function_btf_id(name: str) -> int:
    """The BTF id of a function of the kernel proper, which the kernel looks up itself. Raises KernelError."""
    from kwire.bpf.asm import R1, R2, R3, R4, R10, Item, alu64, call, exit_, image, lddw, mov64, stx

    text = name.encode() + b"\0"
    words = [text[at : at + 8].ljust(8, b"\0") for at in range(0, len(text), 8)]
    items: list[Item] = []
    for number, word in enumerate(words):
        items += [lddw(R1, struct.unpack("=q", word)[0]), stx("dw", R10, R1, 8 * (number - len(words)))]
    items += [mov64(R1, R10), alu64("add", R1, -8 * len(words)), mov64(R2, len(text))]
    items += [mov64(R3, BTF_KIND_FUNC), mov64(R4, 0), call(FIND_BY_NAME_KIND), exit_()]
    with load(image("kwire_find", "syscall", items), {}, flags=BPF_F_SLEEPABLE) as prog:
        found = prog.test_run().result
    if found & 1 << 31:
        raise KernelError(
            "find", name, "the kernel's type information has no such function", errno=errno.ENOENT
        )
    return found


def source_line(image: Image, insn: int) -> Line | None:
    """The source line of an instruction: the last that starts at or before it."""
    found = None
    for line in image.lines:
        if insn >= 0 and line.insn <= insn and (found is None or line.insn >= found.insn):
            found = line
    return found


def _prog_load(attr: dict[str, Value]) -> tuple[int, int, Struct]:
    for _ in range(5):  # a signal while verifying gives EAGAIN
        fd, error, left = try_bpf("prog_load", **attr)
        if error != errno.EAGAIN:
            break
    return fd, error, left


def _load_with_log(image: Image, attr: dict[str, Value], first: int) -> int:
    """Load again with the log on; the descriptor, should it succeed now, else the error explained."""
    if first in (errno.EMFILE, errno.ENFILE):  # no complaint of the verifier; and nothing can be imported
        raise failure("load program", image.name, first)
    too_large = _too_large(image)
    if too_large:
        raise failure("load program", image.name, first, "", too_large)
    size, log = LOG_SIZES[0], ""
    for larger in (*LOG_SIZES[1:], 0):
        buffer = bytearray(size)
        fd, error, left = _prog_load(attr | {"log_level": 1, "log_size": size, "log_buf": buffer})
        if not error:
            return fd
        log = buffer.split(b"\0", 1)[0].decode("utf-8", "replace")
        if error != errno.ENOSPC or not larger:
            break
        size = max(left["log_true_size"], 0) or larger
    from kwire.kernel.verifier_log import summarize  # its table of patterns is wanted only here

    complaint = summarize(log)
    if complaint is None:
        raise failure("load program", image.name, first, *_without_log(image, first))
    sentence, cure, line = complaint.sentence, "", source_line(image, complaint.insn)
    if READS_KERNEL.search(complaint.text) and cures.locked():
        sentence, cure, line = f"{cures.LOCKED}: programs cannot read its memory", cures.UNLOCK, None
    raise VerifierError(image.name, first, sentence, log, complaint.insn, line, cure)


def _too_large(image: Image) -> str:
    """What of a program is more than the kernel takes; empty where nothing is."""
    maps, insns = len({use.map for use in image.uses}), len(image.code) // 8
    if maps > MAPS_MOST:
        return f"it uses {maps} maps, a program may use {MAPS_MOST}"
    return f"it has {insns} instructions, a program may have {INSNS_MOST}" if insns > INSNS_MOST else ""


def _without_log(image: Image, error: int) -> tuple[str, str]:
    """(cure, note) for a load that failed before the verifier had anything to say."""
    if error in (errno.EPERM, errno.EACCES) and image.kind in TRAMPOLINED and may_trace():
        return "use a kprobe or a tracepoint", "this kernel lets no program at the entry of functions"
    if error == errno.EINVAL:
        return "", f"this kernel does not know programs of kind {image.kind} or something in this one"
    return "", ""
