"""The helpers the interpreter carries out: one function each, in the table `SIMULATED`.

Results and error codes are the kernel's (an unmapped address gives -EFAULT and a zero-filled destination).
Each function gets the running machine and the values of r1 to r5, and returns r0 (negative for an error).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from kwire.bpf.vm_maps import EINVAL, HashMap, Map, MapArray, RingMap
from kwire.bpf.vm_memory import Violation, is_kernel, is_user

if TYPE_CHECKING:
    from kwire.bpf.vm_run import Run

EPERM, ENOENT, EFAULT, E2BIG, ERANGE, EOPNOTSUPP = 1, 2, 14, 7, 34, 95
COMM_SIZE: Final = 16
MAX_LOOPS: Final = 1 << 23
WAKEUP_FLAGS: Final = 3  # BPF_RB_NO_WAKEUP | BPF_RB_FORCE_WAKEUP
STACK_SKIP_MASK, USER_STACK, STACK_FLAGS = 0xFF, 0x100, 0xFFF
_MASK32: Final = 0xFFFFFFFF


class Fault(NamedTuple):
    """A probed address that could not be read: which helper, where, how much and why."""

    helper: str
    address: int
    size: int
    cause: str


def _map(run: "Run", address: int) -> Map:
    found = run.machine.map_at(address)
    if found is None:
        raise Violation(address, f"r1 = {address:#x} is not a map")
    return found


def _ring(run: "Run", address: int) -> RingMap:
    found = _map(run, address)
    if not isinstance(found, RingMap):
        raise Violation(address, f"{found.spec.name} is not a ring buffer")
    return found


def _fault(run: "Run", helper: str, dst: int, size: int, address: int, code: int, cause: str) -> int:
    run.write(dst, bytes(size))
    run.faults.append(Fault(helper, address, size, cause))
    return -code


def _probe(run: "Run", address: int, size: int, space: str) -> tuple[bytes | None, int, str]:
    """Bytes at an address of kernel or user space, or None, an error code and its reason."""
    if space == "kernel" and not is_kernel(address):
        return None, ERANGE, "not an address of the kernel" if address else "a null pointer"
    if space == "user" and not is_user(address):
        return None, EFAULT, "not an address of user space"
    if run.space.holds(address):
        return run.read(address, size), 0, ""
    data = run.memory.read(address, size)
    return data, EFAULT, "not mapped" if address else "a null pointer"


def _space(space: str, address: int) -> str:
    return space or ("user" if is_user(address) else "kernel")


def _read(helper: str, space: str) -> "Simulation":
    def simulate(run: "Run", dst: int, size: int, address: int, *_: int) -> int:
        size &= _MASK32
        run.space.locate(dst, size)
        data, code, cause = _probe(run, address, size, _space(space, address))
        if data is None:
            return _fault(run, helper, dst, size, address, code, cause)
        run.write(dst, data)
        return 0

    return simulate


def _read_str(helper: str, space: str) -> "Simulation":
    # The kernel may also zero bytes between the end of a user string and the next multiple of 8.
    def simulate(run: "Run", dst: int, size: int, address: int, *_: int) -> int:
        size &= _MASK32
        run.space.locate(dst, size)
        out = bytearray()
        while len(out) < size and out[-1:] != b"\0":
            byte, code, cause = _probe(run, address + len(out), 1, _space(space, address))
            if byte is None:
                return _fault(run, helper, dst, size, address + len(out), code, cause)
            out += byte
        if out:
            out[-1] = 0  # a string that was cut ends too
        run.write(dst, bytes(out))
        return len(out)

    return simulate


def _lookup(run: "Run", map_: int, key: int, *_: int) -> int:
    found = _map(run, map_)
    return found.lookup(run.read(key, found.spec.key_size), run.env.cpu)


def _lookup_percpu(run: "Run", map_: int, key: int, cpu: int, *_: int) -> int:
    found = _map(run, map_)
    return found.lookup(run.read(key, found.spec.key_size), cpu & _MASK32)


def _update(run: "Run", map_: int, key: int, value: int, flags: int, *_: int) -> int:
    found = _map(run, map_)
    if isinstance(found, MapArray):
        raise Violation(map_, f"a program cannot update {found.spec.name}, an array of maps")
    data = run.read(value, found.spec.value_size)
    return found.update(run.read(key, found.spec.key_size), data, flags, run.env.cpu)


def _delete(run: "Run", map_: int, key: int, *_: int) -> int:
    found = _map(run, map_)
    return found.delete(run.read(key, found.spec.key_size))


def _ringbuf_output(run: "Run", map_: int, data: int, size: int, flags: int, *_: int) -> int:
    ring = _ring(run, map_)
    record = run.read(data, size)
    return -EINVAL if flags & ~WAKEUP_FLAGS else ring.output(record)


def _ringbuf_reserve(run: "Run", map_: int, size: int, flags: int, *_: int) -> int:
    ring = _ring(run, map_)
    return 0 if flags else ring.reserve(size)


def _finish(commit: bool) -> "Simulation":
    def simulate(run: "Run", record: int, *_: int) -> int:
        if not any(ring.finish(record, commit) for ring in run.machine.rings()):
            raise Violation(record, f"r1 = {record:#x} is not a reserved record")
        return 0

    return simulate


def _ringbuf_query(run: "Run", map_: int, what: int, *_: int) -> int:
    ring = _ring(run, map_)
    answers = (ring.produced - ring.consumed, ring.spec.max_entries, ring.consumed, ring.produced)
    return answers[what] if what < len(answers) else 0


def _comm(run: "Run", dst: int, size: int, *_: int) -> int:
    size &= _MASK32
    if size == 0:
        raise Violation(dst, "get_current_comm with size 0")
    comm = run.env.comm.encode()[: COMM_SIZE - 1][: size - 1]
    run.write(dst, comm + b"\0")  # as Linux 6.1; newer kernels fill the rest with zeros (6.12 does)
    return 0


def _ns_pid_tgid(run: "Run", _dev: int, _inode: int, dst: int, size: int, *_: int) -> int:
    if size != 8:
        run.write(dst, bytes(size))
        return -EINVAL
    run.write(dst, run.env.pid.to_bytes(4, "little") + run.env.tid.to_bytes(4, "little"))
    return 0


def _ancestor(run: "Run", level: int, *_: int) -> int:
    path = (*run.env.cgroup_ancestors, run.env.cgroup_id)
    return path[level] if level < len(path) else 0


def _func_arg(run: "Run", _ctx: int, index: int, dst: int, *_: int) -> int:
    if index >= len(run.env.args):
        return -EINVAL
    run.write(dst, run.env.args[index].to_bytes(8, "little"))
    return 0


def _func_ret(run: "Run", _ctx: int, dst: int, *_: int) -> int:
    if run.machine.kind not in ("fexit", "fmod_ret"):
        return -EOPNOTSUPP
    run.write(dst, run.env.retval.to_bytes(8, "little"))
    return 0


def _loop(run: "Run", count: int, callback: int, context: int, flags: int, *_: int) -> int:
    count &= _MASK32
    if flags:
        return -EINVAL
    if count > MAX_LOOPS:
        return -E2BIG
    for index in range(count):
        if run.call_function(callback, index, context):
            return index + 1
    return count


def _for_each(run: "Run", map_: int, callback: int, context: int, flags: int, *_: int) -> int:
    found = _map(run, map_)
    if flags or not isinstance(found, HashMap):
        return -EINVAL
    count = 0
    for key in list(found):
        value = found.lookup(key, run.env.cpu)
        if not value:
            continue
        place = run.space.add(bytearray(key), f"key of map {found.spec.name}")
        count += 1
        stop = run.call_function(callback, map_, place.base, value, context)
        run.space.remove(place)
        if stop:
            break
    return count


def _strncmp(run: "Run", s1: int, size: int, s2: int, *_: int) -> int:
    for offset in range(size & _MASK32):
        a, b = run.read(s1 + offset, 1)[0], run.read(s2 + offset, 1)[0]
        if a != b:
            return -1 if a < b else 1
        if not a:
            break
    return 0


def _random(run: "Run", *_: int) -> int:
    # xorshift32: the same numbers in every run of a test.
    x = run.env.random or 0x9E3779B9
    x ^= x << 13 & _MASK32
    x ^= x >> 17
    x ^= x << 5 & _MASK32
    run.env.random = x
    return x


def _trace_printk(run: "Run", fmt: int, size: int, *args: int) -> int:
    text = run.read(fmt, size).split(b"\0")[0].decode(errors="replace")
    values = " ".join(f"{value:#x}" for value in args[: text.count("%") - 2 * text.count("%%")])
    run.printed.append(f"{text} [{values}]" if values else text)
    return len(text)


def _get_stack(run: "Run", _ctx: int, dst: int, size: int, flags: int, *_: int) -> int:
    if flags & ~STACK_FLAGS or size % 8:
        run.write(dst, bytes(size))
        return -EINVAL
    frames = run.env.user_stack if flags & USER_STACK else run.env.kernel_stack
    frames = frames[flags & STACK_SKIP_MASK :][: size // 8]
    data = b"".join(frame.to_bytes(8, "little") for frame in frames)
    run.write(dst, data.ljust(size, b"\0"))
    return len(data)


Simulation = Callable[..., int]

SIMULATED: Final[dict[str, Simulation]] = {
    "map_lookup_elem": _lookup,
    "map_lookup_percpu_elem": _lookup_percpu,
    "map_update_elem": _update,
    "map_delete_elem": _delete,
    "probe_read": _read("probe_read", ""),
    "probe_read_user": _read("probe_read_user", "user"),
    "probe_read_kernel": _read("probe_read_kernel", "kernel"),
    "probe_read_str": _read_str("probe_read_str", ""),
    "probe_read_user_str": _read_str("probe_read_user_str", "user"),
    "probe_read_kernel_str": _read_str("probe_read_kernel_str", "kernel"),
    "ktime_get_ns": lambda run, *_: run.env.monotonic_ns,
    "ktime_get_boot_ns": lambda run, *_: run.env.boot_ns,
    "ktime_get_tai_ns": lambda run, *_: run.env.tai_ns,
    "jiffies64": lambda run, *_: run.env.jiffies,
    "trace_printk": _trace_printk,
    "get_prandom_u32": _random,
    "get_smp_processor_id": lambda run, *_: run.env.cpu,
    "get_numa_node_id": lambda run, *_: run.env.numa_node,
    "get_current_pid_tgid": lambda run, *_: run.env.pid << 32 | run.env.tid,
    "get_ns_current_pid_tgid": _ns_pid_tgid,
    "get_current_uid_gid": lambda run, *_: run.env.gid << 32 | run.env.uid,
    "get_current_comm": _comm,
    "get_current_task": lambda run, *_: run.env.task,
    "get_current_task_btf": lambda run, *_: run.env.task,
    "get_socket_cookie": lambda run, *_: run.env.socket_cookie,
    "get_current_cgroup_id": lambda run, *_: run.env.cgroup_id,
    "get_current_ancestor_cgroup_id": _ancestor,
    "get_func_ip": lambda run, *_: run.env.func_ip,
    "get_attach_cookie": lambda run, *_: run.env.cookie,
    "get_func_arg": _func_arg,
    "get_func_ret": _func_ret,
    "get_func_arg_cnt": lambda run, *_: len(run.env.args),
    "get_stack": _get_stack,
    "ringbuf_output": _ringbuf_output,
    "ringbuf_reserve": _ringbuf_reserve,
    "ringbuf_submit": _finish(True),
    "ringbuf_discard": _finish(False),
    "ringbuf_query": _ringbuf_query,
    "send_signal": lambda run, signal, *_: run.signals.append(signal) or 0,
    "send_signal_thread": lambda run, signal, *_: run.signals.append(signal) or 0,
    "loop": _loop,
    "for_each_map_elem": _for_each,
    "strncmp": _strncmp,
}
