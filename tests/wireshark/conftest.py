"""The dissector in place in a home of its own, tshark run with it, and what it says as data."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import pytest
from waiting import PATIENCE

from kwire.wire.schema import Schema
from kwire.wireshark import install, probes
from kwire.wireshark.folders import Folders

USER0, ETHERNET = 147, 1
WALL = 1_700_000_000_000_000_000
NOTICES = ("Running as user", "This could be dangerous")


class Shown(NamedTuple):
    """One field of PDML: filter name, label, value as shown and as hex, place and bytes; and its children."""

    name: str
    label: str
    show: str
    value: str
    at: int
    size: int
    inner: list[Shown]

    def all(self) -> Iterable[Shown]:
        """This field and all below."""
        yield self
        for one in self.inner:
            yield from one.all()


class Packet(NamedTuple):
    """The kwire protocol items of one packet."""

    frames: list[Shown]

    def fields(self, name: str) -> list[Shown]:
        """All fields of this filter name, in order."""
        return [one for frame in self.frames for one in frame.all() if one.name == name]

    @property
    def problems(self) -> list[tuple[str, int]]:
        """Codes of the errors with their offsets, in order."""
        found = []
        for one in self.fields("kwire.error"):
            match = re.match(r"Error: ([A-Z_]+) \(\d+\) at offset (\d+):", one.label)
            assert match, one
            found.append((match[1], int(match[2])))
        return sorted(found, key=lambda pair: (pair[1], pair[0]))


def _shown(node: ElementTree.Element) -> Shown:
    get = node.attrib.get
    label = get("showname") or get("show", "")
    return Shown(
        get("name", ""), label, get("show", ""), get("value", ""), int(get("pos", 0)), int(get("size", 0)),
        [_shown(child) for child in node],
    )  # fmt: skip


class Wireshark:
    """tshark with the dissector, in a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.folders = Folders(home / ".local/lib/wireshark/plugins", home / ".config/wireshark", None)
        self.environment = {**os.environ, "HOME": str(home), "TZ": "UTC", "LC_ALL": "C.UTF-8"}
        for name in ("XDG_CONFIG_HOME", "WIRESHARK_CONFIG_DIR", "WIRESHARK_PLUGIN_DIR"):
            self.environment.pop(name, None)
        install.install(self.folders)

    def learn(self, *schemas: Schema) -> dict[tuple[str, str], str]:
        """Add these to the table; (probe, field) → filter name."""
        path = install.probes_path(self.folders)
        rows = probes.merge(probes.read(path), schemas)
        probes.write(path, rows)
        return {(row.probe, row.field): row.filter for row in rows}

    def forget(self) -> None:
        """Begin with an empty table."""
        probes.write(install.probes_path(self.folders), [])

    def run(self, *arguments: str | Path) -> str:
        """What tshark prints; it complains of nothing, least of all of Lua."""
        command = ["tshark", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, env=self.environment, timeout=PATIENCE)
        errors = done.stderr.decode("utf-8", "replace")
        left = [line for line in errors.splitlines() if line and not any(word in line for word in NOTICES)]
        out = done.stdout.decode("utf-8", "replace")
        assert (done.returncode, left) == (0, [])
        assert "Lua Error" not in out
        assert "Dissector bug" not in out
        return out

    def fields(self, path: Path, *names: str, only: str = "", options: Sequence[str] = ()) -> list[list[str]]:
        """`-T fields`: one list of columns a packet."""
        words: list[str | Path] = ["-r", path, "-T", "fields", "-E", "separator=/t", *options]
        for name in names:
            words += ["-e", name]
        return [line.split("\t") for line in self.run(*words, *(["-Y", only] if only else [])).splitlines()]

    def packets(self, path: Path, *options: str) -> list[Packet]:
        """What every packet holds."""
        text = self.run("-r", path, "-T", "pdml", *options)
        text = re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f]", "?", text)
        root = ElementTree.fromstring(text)
        return [
            Packet([_shown(proto) for proto in packet.findall("proto") if proto.get("name") == "kwire"])
            for packet in root.iter("packet")
        ]


def block(sign: str, type: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    total = len(body) + 12
    return struct.pack(sign + "II", type, total) + body + struct.pack(sign + "I", total)


def capture(packets: Iterable[bytes], link: int = USER0, sign: str = "<", interfaces: int = 1) -> bytes:
    """A section with these packets, a microsecond apart, in turn on its interfaces."""
    parts = [block(sign, 0x0A0D0D0A, struct.pack(sign + "IHHq", 0x1A2B3C4D, 1, 0, -1))]
    resolution = struct.pack(sign + "HHB3xI", 9, 1, 9, 0)
    parts += [block(sign, 1, struct.pack(sign + "HHI", link, 0, 0) + resolution)] * interfaces
    for number, data in enumerate(packets):
        time = WALL + number * 1000
        head = struct.pack(
            sign + "5I", number % interfaces, time >> 32, time & 0xFFFFFFFF, len(data), len(data)
        )
        parts.append(block(sign, 6, head + data))
    return b"".join(parts)


@pytest.fixture(scope="session")
def wireshark(tmp_path_factory: pytest.TempPathFactory) -> Wireshark:
    if not shutil.which("tshark"):
        pytest.skip("no tshark here")
    return Wireshark(tmp_path_factory.mktemp("wireshark"))


@pytest.fixture(scope="session")
def capture_of() -> Callable[..., bytes]:
    return capture


@pytest.fixture(scope="session")
def show() -> Callable[[Path], list[dict[str, Any]]]:
    """The objects of `kwire show --json`."""
    import json
    import sys

    def lines(path: Path) -> list[dict[str, Any]]:
        command = [sys.executable, "-m", "kwire.cli.main", "show", "--json", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    return lines
