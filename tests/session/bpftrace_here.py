"""Programs of others, beside which tests run kwire."""

from __future__ import annotations

_MOUNTED = 'mount -t tracefs none /sys/kernel/tracing; exec "$@"'
BPFTRACE = ("unshare", "-m", "sh", "-c", _MOUNTED, "sh", "bpftrace")
"""bpftrace wants to find tracefs, which not every machine has mounted: in a mount namespace of its own."""
