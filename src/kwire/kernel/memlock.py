"""The locked-memory limit, which kernels before 5.11 charge maps and programs to.

Invariant: it is touched only after the kernel refused something with EPERM, once, and failing to raise it is
not an error: newer kernels do not need it, and a container often may not raise it.
"""

import resource

_tried = False


def raise_limit() -> bool:
    """Try once to lift RLIMIT_MEMLOCK; true when the limit changed, so that the refused call is worth
    repeating.
    """
    global _tried
    if _tried:
        return False
    _tried = True
    before = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    for wanted in ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), (before[1], before[1])):
        if wanted == before:
            continue
        try:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, wanted)
        except (ValueError, OSError):
            continue
        return True
    return False
