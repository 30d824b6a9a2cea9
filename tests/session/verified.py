"""One file, held against what it says of itself."""

from __future__ import annotations

from kwire.capture.reader import Capture
from kwire.capture.verify import FileReport, verify_capture


def verify_file(path: str) -> FileReport:
    """CaptureError where it is no capture."""
    with Capture(path) as capture:
        return verify_capture(capture)
