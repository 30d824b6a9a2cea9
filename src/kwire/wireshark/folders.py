"""Where Wireshark looks for what a user adds to it: as it says itself."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from shutil import which
from typing import Final, NamedTuple

from kwire.errors import KwireError

PROGRAMS: Final = ("tshark", "wireshark")
LUA: Final = ("Personal Lua Plugins",)
CONFIGURATION: Final = ("Personal configuration",)
EXTCAP: Final = ("Personal Extcap path", "Extcap path", "Global Extcap path")
"""Lines of `-G folders`, the best first. Wireshark 4.0 has one extcap folder, that of the system."""


class Folders(NamedTuple):
    """`lua`: plugins; `configuration`: profiles lie below; `extcap`: None where Wireshark names none."""

    lua: Path
    configuration: Path
    extcap: Path | None


def folders() -> Folders:
    """Ask tshark, or wireshark. KwireError where neither is there or its answer is not understood."""
    program = next(filter(None, map(which, PROGRAMS)), None)
    if program is None:
        raise KwireError(
            "find", "the folders of Wireshark", "neither tshark nor wireshark is installed", "install one"
        )
    done = subprocess.run([program, "-G", "folders"], capture_output=True, text=True, errors="replace")
    named = dict(re.findall(r"^([^:\n]+):[ \t]+(\S.*)$", done.stdout, re.MULTILINE))
    paths = [next((named[name] for name in names if name in named), None) for names in (LUA, CONFIGURATION)]
    if paths[0] is None or paths[1] is None:
        why = (done.stderr.strip() or "no line names them").splitlines()[-1]
        raise KwireError("find", "the folders of Wireshark", f"'{program} -G folders': {why}")
    extcap = next((named[name] for name in EXTCAP if name in named), None)
    return Folders(Path(paths[0]), Path(paths[1]), Path(extcap) if extcap else None)
