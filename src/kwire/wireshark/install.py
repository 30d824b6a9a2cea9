"""Putting the dissector, the profile and the extcap in place, and taking exactly that away again.

Invariants: a file that is not ours is never overwritten or removed, and what we put in place and somebody
changed since counts as theirs; a list beside the configuration (`kwire.installed`) says what was installed. A
file is ours where it is as the list says, or says so itself in its first lines (`dissector.MARK`).
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

from kwire.capture.destination import put
from kwire.errors import KwireError
from kwire.wireshark import probes
from kwire.wireshark.dissector import MARK, PROBES_FILE, dissector
from kwire.wireshark.folders import Folders

PROFILE: Final = "kwire"
DISSECTOR: Final = "kwire.lua"
EXTCAP: Final = "kwire"
LIST: Final = "kwire.installed"
_MARKED_BYTES: Final = 512


class Done(NamedTuple):
    """What happened: paths written or removed, and what was left alone, with the reason."""

    changed: list[str]
    left: list[tuple[str, str]]


def probes_path(folders: Folders) -> Path:
    """The table of probes."""
    return folders.lua / PROBES_FILE


def installed(folders: Folders) -> bool:
    """Whether the dissector is in place and ours."""
    path = folders.lua / DISSECTOR
    return path.exists() and _marked(path)


def install(folders: Folders) -> Done:
    """Put everything in place, or bring it up to date.

    KwireError where a file of somebody else is in the way; then nothing has been written.
    """
    known, done = _read_list(folders), Done([], [])
    wanted: dict[Path, tuple[bytes, int]] = {
        folders.lua / DISSECTOR: (dissector().encode(), 0o644),
        probes_path(folders): (probes.HEAD.encode(), 0o644),
    }
    source = Path(__file__).parent / "profile"
    for name in ("preferences", "colorfilters"):
        path = folders.configuration / "profiles" / PROFILE / name
        wanted[path] = ((source / name).read_bytes(), 0o644)
    if folders.extcap is not None and _may_write(folders.extcap):
        wanted[folders.extcap / EXTCAP] = (extcap_script().encode(), 0o755)
    else:
        place = str(folders.extcap or "an extcap folder")
        done.left.append((place, "not writable: kwire will be no interface; install as root to make it one"))
    for path in wanted:
        if path.exists() and not _ours(path, known) and str(path) not in known["files"]:
            raise KwireError("install", str(path), "a file is there that kwire did not make", "move it away")
    for path, (content, mode) in wanted.items():
        if not path.exists():
            _write(path, content, mode, known)
        elif path == probes_path(folders) or path.read_bytes() == content:
            continue  # the table of probes is kept
        elif not _ours(path, known):
            done.left.append((str(path), "changed since it was installed: kept"))
            continue
        else:
            _write(path, content, mode, known)
        done.changed.append(str(path))
    _write_list(folders, known)
    return done


def uninstall(folders: Folders) -> Done:
    """Remove what `install` put in place and nobody changed, and folders it made that are empty now."""
    known, done = _read_list(folders), Done([], [])
    for name in list(known["files"]):
        path = Path(name)
        if not path.exists():
            del known["files"][name]
        elif _ours(path, known):
            _remove(path)
            done.changed.append(name)
            del known["files"][name]
        else:
            done.left.append((name, "changed since it was installed: kept"))
    _list_path(folders).unlink(missing_ok=True)
    for name in reversed(known["folders"]):
        try:
            os.rmdir(name)
        except FileNotFoundError:
            pass
        except OSError:
            if not any(left.startswith(name + os.sep) for left, _ in done.left):
                done.left.append((name, "not empty: kept"))
    return done


def extcap_script() -> str:
    """The program that Wireshark runs: this Python, whatever the PATH is then."""
    return f'#!/bin/sh\n# {MARK}\nexec {shlex.quote(sys.executable)} -m kwire.cli.extcap "$@"\n'


# ---- files


def _marked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return MARK.encode() in file.read(_MARKED_BYTES)
    except OSError:
        return False


def _ours(path: Path, known: dict[str, Any]) -> bool:
    if _marked(path):
        return True
    try:
        return bool(known["files"].get(str(path)) == _digest(path.read_bytes()))
    except OSError:
        return False


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _may_write(folder: Path) -> bool:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return os.access(folder, os.W_OK)


def _write(path: Path, content: bytes, mode: int, known: dict[str, Any]) -> None:
    try:
        _make_folders(path.parent, known["folders"])
    except OSError as error:
        raise KwireError("install", str(path), error.strerror or "failed") from None
    put(str(path), content, mode)
    known["files"][str(path)] = _digest(content)


def _make_folders(folder: Path, made: list[str]) -> None:
    missing: list[Path] = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for one in reversed(missing):
        one.mkdir(mode=0o700 if one.name.startswith(".") else 0o755)
        made.append(str(one))


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except OSError as error:
        raise KwireError("uninstall", str(path), error.strerror or "failed") from None


# ---- the list of what was installed


def _list_path(folders: Folders) -> Path:
    return folders.configuration / LIST


def _read_list(folders: Folders) -> dict[str, Any]:
    try:
        known = json.loads(_list_path(folders).read_text(encoding="utf-8"))
        files, made = known["files"], known["folders"]
        if all(isinstance(item, str) for item in (*files, *files.values(), *made)):
            return {"files": dict(files), "folders": list(made)}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        pass
    return {"files": {}, "folders": []}


def _write_list(folders: Folders, known: dict[str, Any]) -> None:
    path = _list_path(folders)
    try:
        _make_folders(path.parent, known["folders"])
    except OSError as error:
        raise KwireError("install", str(path), error.strerror or "failed") from None
    put(str(path), (json.dumps({**known, "about": MARK}, indent=1) + "\n").encode(), 0o644)
