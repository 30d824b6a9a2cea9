#!/usr/bin/env python3
"""`make demo`: kwire at work on real kernel events of a small workload of its own.

It traces an HTTP server and client on loopback and a few commands, shows the events as they come, keeps them
in demo.pcapng, proves that none is missing and reads the file back. Every step is a command anybody can type.
"""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KWIRE = ROOT / ".venv" / "bin" / "kwire"
CAPTURE = "demo.pcapng"


def run(*words: str, quiet: bool = False) -> subprocess.CompletedProcess[str]:
    """Show a command as one would type it, and run it."""
    typed = shlex.join(words).replace(sys.executable, "python3")
    if not quiet:
        print(f"\n$ kwire {typed}", flush=True)
    return subprocess.run([KWIRE, *words], cwd=ROOT, text=True, stdout=subprocess.PIPE if quiet else None)


def able() -> dict[str, bool]:
    """What `kwire doctor` found: feature → whether it is there. Ends with its report where nothing works."""
    found = run("doctor", "--json", quiet=True)
    report = json.loads(found.stdout)
    if not report["ok"]:
        print("tracing cannot work here:\n", flush=True)
        subprocess.run([KWIRE, "doctor"], cwd=ROOT)
        sys.exit(1)
    return {check["name"]: check["answer"] == "yes" for check in report["checks"]}


def main() -> None:
    """Trace, prove, read back, and say what to try next."""
    if os.geteuid() != 0:
        sys.exit("make demo: tracing the kernel needs root; try 'sudo make demo'")
    features = able()
    files = ["examples/web.py"]
    if features.get("kprobe"):
        files.append("examples/tcp.py")
    workload = f"{sys.executable} examples/workload.py"
    if run("trace", *files, "-c", workload, "-w", CAPTURE).returncode:
        sys.exit(1)
    if run("verify", CAPTURE).returncode:
        sys.exit(1)
    run("show", CAPTURE, "--where", 'comm == "ls" or comm == "cat"', "--json", "--head", "3")
    why = "" if features.get("kprobe") else " (this kernel has no kprobes: tracepoints only)"
    print(f"""
What you saw came from the kernel through programs that kwire compiled itself{why}.
Try next:
  .venv/bin/kwire list 'tracepoint:sched:*' -v
  .venv/bin/kwire list 'struct tcp_sock' | less
  .venv/bin/kwire record 'tracepoint:syscalls:sys_enter_openat(filename)' -c 'ls /' -w opens.pcapng
  .venv/bin/kwire show opens.pcapng
  tshark -r {CAPTURE} -c 5          # the same packets in Wireshark's eyes""")


if __name__ == "__main__":
    main()
