"""How many random examples a test takes."""

from __future__ import annotations

import os


def fewer_in_guests(examples: int) -> int:
    """A quarter in guests: what they add to the run here, with the newest kernel and the interpreter, is what
    their verifiers refuse.
    """
    return examples // 4 if "VM_SHARE" in os.environ else examples
