"""The heads of many frames, read once: what is asked of all of them is answered from there.

Invariants: nothing is judged that has not been looked at; the arrays are nobody else's. numpy is imported
when heads are made, never before.
"""

from typing import TYPE_CHECKING, Any

from kwire.native import Survey
from kwire.wire.column_rows import event_heads
from kwire.wire.frames import Frames

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


class Heads:
    """Of each frame its type (`types`), its id, its bytes without the trailer (`ends`), and of an EVENT its
    timestamp as it stands (`times`).

    An EVENT too short for a timestamp has the type NO_EVENT. `survey`: what they tell together.
    """

    __slots__ = ("ends", "ids", "survey", "times", "types")

    def __init__(self, frames: Frames, rows: Any = b"", tails: Any = b"") -> None:
        """`rows`, `tails`: what schemas say, as `Soundness.rows` gives it; nothing: none is unsound."""
        import numpy as np

        count = len(frames)
        self.types: Array = np.empty(count, np.uint8)
        self.ids: Array = np.empty(count, np.uint32)
        self.ends: Array = np.empty(count, np.uint32)
        self.times: Array = np.empty(count, np.uint64)
        self.survey: Survey
        done, self.survey = event_heads(
            *(frames.view, frames.offsets, count, rows, tails), self.types, self.ids, self.ends, self.times
        )
        assert done == count  # whoever made the frames has seen to it


def heads_of(frames: Frames) -> Heads:
    """The heads of frames; those that were read are not read again."""
    if frames.heads is None:
        frames.heads = Heads(frames)
    return frames.heads
