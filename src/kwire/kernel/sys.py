"""bpf(2) and perf_event_open(2): their numbers and argument structures, and what helps where they fail.

Invariant: every argument structure is laid out from one table (`ATTRS`, `INFOS`, `PERF_ATTR`: names and
widths in the order of the kernel's headers, aligned naturally).
"""

import errno as errnos
import os
import struct
from collections.abc import Sequence

from kwire.hints import TYPE_CHECKING, Any, TypeAlias
from kwire.kernel.syscall import KernelError, address_of, reason, syscall

if TYPE_CHECKING:
    import ctypes

# ---------------------------------------------------------------------- numbers

MAP_TYPES = {
    "hash": 1,
    "array": 2,
    "percpu_hash": 5,
    "percpu_array": 6,
    "stack_trace": 7,
    "lru_hash": 9,
    "lru_percpu_hash": 10,
    "array_of_maps": 12,
    "ringbuf": 27,
}
PROG_TYPES = {
    "socket_filter": 1,
    "kprobe": 2,
    "sched_cls": 3,
    "tracepoint": 5,
    "xdp": 6,
    "perf_event": 7,
    "raw_tracepoint": 17,
    "tracing": 26,
    "syscall": 31,
}
ATTACH_TYPES = {
    "raw_tp": 23,
    "fentry": 24,
    "fexit": 25,
    "iter": 28,
    "perf_event": 41,
    "kprobe_multi": 42,
    "uprobe_multi": 48,
}

BPF_F_MMAPABLE = 1 << 10
BPF_F_KPROBE_MULTI_RETURN = 1
BPF_F_UPROBE_MULTI_RETURN = 1
BPF_F_TEST_RUN_ON_CPU = 1
BPF_PSEUDO_MAP_FD = 1
BPF_PSEUDO_MAP_VALUE = 2

PERF_TYPE_SOFTWARE = 1
PERF_TYPE_TRACEPOINT = 2
PERF_TYPE_BREAKPOINT = 5
PERF_COUNT_SW_CPU_CLOCK = 0
PERF_FLAG_FD_CLOEXEC = 8
PERF_EVENT_IOC_SET_BPF = 0x40042408

# ---------------------------------------------------------------------- layouts

_MAP_ELEM = "map_fd:u32 key:ptr value:ptr flags:u64"
_GET_ID = "id:u32 next_id:u32 open_flags:u32"
_LINK = "prog_fd:u32 target_fd:u32 attach_type:u32 flags:u32 "

# command -> (number, fields of its part of `union bpf_attr`), from linux/bpf.h
ATTRS: dict[str, tuple[int, str]] = {
    "map_create": (
        0,
        "map_type:u32 key_size:u32 value_size:u32 max_entries:u32 map_flags:u32 inner_map_fd:u32 "
        "numa_node:u32 map_name:c16 map_ifindex:u32 btf_fd:u32 btf_key_type_id:u32 "
        "btf_value_type_id:u32",
    ),
    "map_lookup_elem": (1, _MAP_ELEM),
    "map_update_elem": (2, _MAP_ELEM),
    "map_delete_elem": (3, _MAP_ELEM),
    "map_get_next_key": (4, "map_fd:u32 key:ptr next_key:ptr"),
    "prog_load": (
        5,
        "prog_type:u32 insn_cnt:u32 insns:ptr license:ptr log_level:u32 log_size:u32 log_buf:ptr "
        "kern_version:u32 prog_flags:u32 prog_name:c16 prog_ifindex:u32 expected_attach_type:u32 "
        "prog_btf_fd:u32 func_info_rec_size:u32 func_info:ptr func_info_cnt:u32 line_info_rec_size:u32 "
        "line_info:ptr line_info_cnt:u32 attach_btf_id:u32 attach_btf_obj_fd:u32 core_relo_cnt:u32 "
        "fd_array:ptr core_relos:ptr core_relo_rec_size:u32 log_true_size:u32",
    ),
    "prog_test_run": (
        10,
        "prog_fd:u32 retval:u32 data_size_in:u32 data_size_out:u32 data_in:ptr data_out:ptr repeat:u32 "
        "duration:u32 ctx_size_in:u32 ctx_size_out:u32 ctx_in:ptr ctx_out:ptr flags:u32 cpu:u32 "
        "batch_size:u32",
    ),
    "prog_get_next_id": (11, _GET_ID),
    "map_get_next_id": (12, _GET_ID),
    "prog_get_fd_by_id": (13, _GET_ID),
    "map_get_fd_by_id": (14, _GET_ID),
    "obj_get_info_by_fd": (15, "bpf_fd:u32 info_len:u32 info:ptr"),
    "raw_tracepoint_open": (17, "name:ptr prog_fd:u32 cookie:u64"),
    "btf_load": (
        18,
        "btf:ptr btf_log_buf:ptr btf_size:u32 btf_log_size:u32 btf_log_level:u32 btf_log_true_size:u32",
    ),
    "btf_get_fd_by_id": (19, _GET_ID),
    "map_take_elem": (21, _MAP_ELEM),  # BPF_MAP_LOOKUP_AND_DELETE_ELEM
    "btf_get_next_id": (23, _GET_ID),
    "map_lookup_batch": (
        24,
        "in_batch:ptr out_batch:ptr keys:ptr values:ptr count:u32 map_fd:u32 elem_flags:u64 flags:u64",
    ),
    "map_update_batch": (
        26,
        "in_batch:u64 out_batch:u64 keys:ptr values:ptr count:u32 map_fd:u32 elem_flags:u64 flags:u64",
    ),
    "link_create_perf": (28, _LINK + "bpf_cookie:u64"),
    "link_create_tracing": (28, _LINK + "target_btf_id:u32 cookie:u64"),
    "link_create_multi": (28, _LINK + "multi_flags:u32 cnt:u32 syms:ptr addrs:ptr cookies:ptr"),
    "link_create_uprobes": (
        28,
        _LINK + "path:ptr offsets:ptr ref_ctr_offsets:ptr cookies:ptr cnt:u32 uprobe_flags:u32 pid:u32",
    ),
    "link_create_iter": (28, _LINK + "iter_info:ptr iter_info_len:u32"),
    "link_get_fd_by_id": (30, _GET_ID),
    "link_get_next_id": (31, _GET_ID),
    "enable_stats": (32, "type:u32"),
    "iter_create": (33, "link_fd:u32 flags:u32"),
}

# what obj_get_info_by_fd fills in, by the kind of descriptor
INFOS: dict[str, str] = {
    "prog": (
        "type:u32 id:u32 tag:c8 jited_prog_len:u32 xlated_prog_len:u32 jited_prog_insns:ptr "
        "xlated_prog_insns:ptr load_time:u64 created_by_uid:u32 nr_map_ids:u32 map_ids:ptr name:c16 "
        "ifindex:u32 gpl_compatible:u32 netns_dev:u64 netns_ino:u64 nr_jited_ksyms:u32 "
        "nr_jited_func_lens:u32 jited_ksyms:ptr jited_func_lens:ptr btf_id:u32 func_info_rec_size:u32 "
        "func_info:ptr nr_func_info:u32 nr_line_info:u32 line_info:ptr jited_line_info:ptr "
        "nr_jited_line_info:u32 line_info_rec_size:u32 jited_line_info_rec_size:u32 nr_prog_tags:u32 "
        "prog_tags:ptr run_time_ns:u64 run_cnt:u64 recursion_misses:u64 verified_insns:u32 "
        "attach_btf_obj_id:u32 attach_btf_id:u32"
    ),
    "map": (
        "type:u32 id:u32 key_size:u32 value_size:u32 max_entries:u32 map_flags:u32 name:c16 ifindex:u32 "
        "btf_vmlinux_value_type_id:u32 netns_dev:u64 netns_ino:u64"
    ),
    "btf": "btf:ptr btf_size:u32 id:u32 name:ptr name_len:u32 kernel_btf:u32",
    "link": "type:u32 id:u32 prog_id:u32",
    # the shapes of a link's own part that tell how often the kernel skipped the program
    "link_multi": "type:u32 id:u32 prog_id:u32 addrs:ptr count:u32 flags:u32 missed:u64 cookies:ptr",
    "link_perf_kprobe": (
        "type:u32 id:u32 prog_id:u32 perf_type:u32 pad:u32 func_name:ptr name_len:u32 offset:u32 "
        "addr:u64 missed:u64 cookie:u64"
    ),
}

# struct perf_event_attr of linux/perf_event.h, as far as version 5 (112 bytes, Linux 4.1)
PERF_ATTR = (
    "type:u32 size:u32 config:u64 sample_period:u64 sample_type:u64 read_format:u64 flags:u64 "
    "wakeup_events:u32 bp_type:u32 config1:u64 config2:u64 branch_sample_type:u64 sample_regs_user:u64 "
    "sample_stack_user:u32 clockid:u32 sample_regs_intr:u64 aux_watermark:u32 sample_max_stack:u16 "
    "pad:u16"
)
PERF_ATTR_DISABLED = 1
PERF_ATTR_FREQ = 1 << 10


Pointer: TypeAlias = "int | bytes | bytearray | ctypes.Array[Any] | None"
Value: TypeAlias = "Pointer | str"


class Layout:
    """Offsets of a C structure's members, from `name:type` words: u16, u32, u64, ptr, or cN for a char
    array.
    """

    __slots__ = ("fields", "size")

    def __init__(self, text: str) -> None:
        self.fields: dict[str, tuple[int, str, bool]] = {}  # name -> (offset, struct code, is a pointer)
        offset = 0
        for word in text.split():
            name, kind = word.split(":")
            if kind[0] == "c":
                code, size, align = f"{kind[1:]}s", int(kind[1:]), 1
            else:
                code, size = {"u16": ("H", 2), "u32": ("I", 4), "u64": ("Q", 8), "ptr": ("Q", 8)}[kind]
                align = size
            offset = (offset + align - 1) & -align
            self.fields[name] = (offset, "=" + code, kind == "ptr")
            offset += size
        self.size = (offset + 7) & -8


_layouts: dict[str, Layout] = {}


def layout(text: str) -> Layout:
    """The layout of a table entry, worked out once."""
    found = _layouts.get(text)
    if found is None:
        found = _layouts[text] = Layout(text)
    return found


class Struct:
    """One C structure in memory, filled and read by member name. Buffers it points to are kept alive."""

    __slots__ = ("_keep", "_layout", "buffer")

    def __init__(self, text: str, values: dict[str, Value] | None = None) -> None:
        self._layout = layout(text)
        self.buffer = bytearray(self._layout.size)
        self._keep: list[object] = []
        for name, value in (values or {}).items():
            self[name] = value

    def __setitem__(self, name: str, value: Value) -> None:
        offset, code, pointer = self._layout.fields[name]
        if value is None:
            value = 0
        elif isinstance(value, str):
            value = value.encode()
        if pointer and not isinstance(value, int):
            self._keep.append(value)
            value = address_of(value)
        elif isinstance(value, int) and value < 0:
            value &= (1 << 8 * struct.calcsize(code)) - 1
        struct.pack_into(code, self.buffer, offset, value)

    def __getitem__(self, name: str) -> int:
        offset, code, _ = self._layout.fields[name]
        value: int = struct.unpack_from(code, self.buffer, offset)[0]
        return value

    def text(self, name: str) -> str:
        """A char array member as text, up to its NUL."""
        offset, code, _ = self._layout.fields[name]
        raw: bytes = struct.unpack_from(code, self.buffer, offset)[0]
        return raw.split(b"\0", 1)[0].decode("utf-8", "replace")

    def has(self, name: str, length: int) -> bool:
        """Whether the kernel, having written `length` bytes, knows this member."""
        offset, code, _ = self._layout.fields[name]
        return offset + struct.calcsize(code) <= length


# ---------------------------------------------------------------------- errors


# What usually helps, by errno, where the caller has nothing better to say; for refusals see `cures`.
CURES = {
    errnos.ENOSYS: "this kernel or its sandbox has no such system call (`kwire doctor` says what is there)",
    errnos.EMFILE: "raise the limit of open files (`ulimit -n`)",
    errnos.ENOMEM: "ask for smaller buffers or fewer maps",
}


def failure(operation: str, subject: str, errno: int, cure: str = "", note: str = "") -> KernelError:
    """The `KernelError` for an errno; `note` explains it in this place, `cure` replaces the usual advice."""
    cause = f"{note}: {reason(errno)}" if note else reason(errno)
    return KernelError(operation, subject, cause, cure or usual_cure(errno), errno)


def usual_cure(errno: int) -> str:
    """What usually helps; of a refusal, what helps this user."""
    if errno in (errnos.EPERM, errnos.EACCES):
        from kwire.kernel.cures import refused

        return refused()
    return CURES.get(errno, "")


# ---------------------------------------------------------------------- the calls


def try_bpf(command: str, **fields: Value) -> tuple[int, int, Struct]:
    """Call bpf(2); gives (result, errno, the attribute structure as the kernel left it)."""
    number, text = ATTRS[command]
    attr = Struct(text, fields)
    result, errno = syscall("bpf", number, address_of(attr.buffer), len(attr.buffer))
    return result, errno, attr


def bpf(command: str, **fields: Value) -> int:
    """Call bpf(2) with the fields of `ATTRS[command]`; gives its result, a descriptor for most. Raises
    KernelError.
    """
    result, errno, _ = try_bpf(command, **fields)
    if errno:
        raise failure("bpf", command, errno)
    return result


def info(kind: str, fd: int, **fields: Value) -> tuple[Struct, int]:
    """What the kernel tells of a bpf descriptor, read by `INFOS[kind]`, and how many bytes of it it filled
    in.
    """
    told = Struct(INFOS[kind], fields)
    _, errno, attr = try_bpf("obj_get_info_by_fd", bpf_fd=fd, info_len=len(told.buffer), info=told.buffer)
    if errno:
        raise failure("ask about", kind, errno)
    return told, attr["info_len"]


def try_perf_event_open(pid: int, cpu: int, **fields: Value) -> tuple[int, int]:
    """Call perf_event_open(2) with the fields of `PERF_ATTR`; gives (descriptor, errno)."""
    attr = Struct(PERF_ATTR, fields)
    attr["size"] = len(attr.buffer)
    return syscall("perf_event_open", address_of(attr.buffer), pid, cpu, -1, PERF_FLAG_FD_CLOEXEC)


# ---------------------------------------------------------------------- namespaces

FIRST_PID_NAMESPACE = 0xEFFFFFFC
"""Inode number of the pid namespace that the kernel starts with (linux/proc_ns.h)."""


def in_first_namespace() -> bool | None:
    """Whether process ids here are those that the kernel's programs see; None where /proc does not tell."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino == FIRST_PID_NAMESPACE
    except OSError:
        return None


# ---------------------------------------------------------------------- processors


def possible_cpus() -> int:
    """How many CPUs the kernel has room for: per-CPU map values come in that number, whatever is online."""
    return len(_cpus("possible"))


def online_cpus() -> Sequence[int]:
    """The numbers of the CPUs that run now."""
    return _cpus("online")


def _cpus(which: str) -> list[int]:
    path = f"/sys/devices/system/cpu/{which}"
    try:
        with open(path) as file:
            return cpu_list(file.read())
    except FileNotFoundError:
        cure = "mount sysfs (`mount -t sysfs sysfs /sys`)"
        raise KernelError("read", path, "it is not there", cure, errnos.ENOENT) from None
    except OSError as error:
        raise failure("read", path, error.errno or 0) from None


def cpu_list(text: str) -> list[int]:
    """Read the kernel's list form: `0-3,8` is 0, 1, 2, 3, 8."""
    cpus: list[int] = []
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            cpus.extend(range(int(first), int(last or first) + 1))
    return cpus
