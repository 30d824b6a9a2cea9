"""Writes src/kwire/probe.pyi: the names of the probe language, typed, from the tables that the compiler uses.

`python scripts/probe_types.py`; a test compares.
"""

from pathlib import Path

from kwire.lang.outside import stub

TARGET = Path(__file__).resolve().parent.parent / "src" / "kwire" / "probe.pyi"

if __name__ == "__main__":
    TARGET.write_text(stub())
