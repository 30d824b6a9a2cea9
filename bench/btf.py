"""Finding one structure and one function's prototype in the kernel's BTF, each time in a new process.

Run: `.venv/bin/python bench/btf.py`. Best and median of eleven processes each, without the start of Python
and the imports: the first time on a machine (no offset table kept) and every later time.
"""

import statistics
import subprocess
import sys

from common import table, workspace

ROUNDS = 11
LOOK_UP = """
import sys, time
from kwire.btf.store import load_kernel
from kwire.btf.types import Kind
start = time.perf_counter()
kernel = load_kernel(sys.argv[1])
kernel.vmlinux.type(kernel.vmlinux.find("tcp_sock", Kind.STRUCT))
kernel.func("tcp_connect")
print((time.perf_counter() - start) * 1e3)
"""


def measure(cache: str) -> float:
    """Milliseconds in a process of its own."""
    command = [sys.executable, "-c", LOOK_UP, cache]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    with workspace() as folder:
        first = [measure(str(folder / str(number))) for number in range(ROUNDS)]
        later = [measure(str(folder / "0")) for _ in range(ROUNDS)]
    rows = [
        [name, f"{min(times):.1f}", f"{statistics.median(times):.1f}"]
        for name, times in (("first time", first), ("later", later))
    ]
    print(table(["struct tcp_sock and tcp_connect()", "best ms", "median ms"], rows))


if __name__ == "__main__":
    main()
