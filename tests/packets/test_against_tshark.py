"""What kwire finds in captures of lossy networks is what tshark shows: each DATA frame that is whole."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.packets.judge import compare

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(not shutil.which("tshark"), reason="no tshark here"),
]


@pytest.mark.parametrize("seed", [1, 4, 7, 14])
def test_tshark_sees_the_same_frames(seed: int, tmp_path: Path) -> None:
    assert compare(seed, str(tmp_path)) == ""
