"""Installing and the command line: nothing of somebody else's is touched, nothing of ours stays."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kwire.errors import KwireError
from kwire.wire.fields import Field
from kwire.wire.frame import Type, build
from kwire.wire.schema import Schema
from kwire.wireshark import install, probes
from kwire.wireshark.folders import Folders

SCHEMA = Schema(1, "kprobe:tcp_connect(sk)", "kprobe", "tcp_connect", (Field("dport", "u16", 16, 2),), 18)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path / "lib/plugins", tmp_path / "config/wireshark", tmp_path / "lib/extcap")


def tree(path: Path) -> dict[str, bytes]:
    return {str(one.relative_to(path)): one.read_bytes() if one.is_file() else b"" for one in path.rglob("*")}


def test_uninstall_takes_away_exactly_what_install_put_there(folders: Folders, tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/other").write_text("mine")
    before = tree(tmp_path)
    done = install.install(folders)
    assert install.installed(folders)
    assert len(done.changed) == 5
    assert done.left == []
    assert os.stat(folders.extcap / "kwire").st_mode & stat.S_IXUSR  # type: ignore[operator]  # it is there
    again = install.install(folders)
    assert (again.changed, again.left) == ([], [])
    probes.write(install.probes_path(folders), probes.merge([], [SCHEMA]))
    gone = install.uninstall(folders)
    assert sorted(gone.changed) == sorted(done.changed)
    assert gone.left == []
    assert tree(tmp_path) == before
    assert install.uninstall(folders).changed == []


@pytest.mark.parametrize("name", ["lib/plugins/kwire.lua", "lib/plugins/kwire.probes", "lib/extcap/kwire"])
def test_files_of_somebody_else_are_not_touched(folders: Folders, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(KwireError, match="kwire did not make"):
        install.install(folders)
    assert tree(tmp_path) == before
    assert install.uninstall(folders).changed == []
    assert tree(tmp_path) == before


def test_what_was_changed_since_is_kept(folders: Folders) -> None:
    install.install(folders)
    preferences = folders.configuration / "profiles/kwire/preferences"
    preferences.write_text("# Configuration file for Wireshark 4.0.17.\n")  # Wireshark wrote it anew
    (folders.configuration / "profiles/kwire/recent").write_text("")
    assert [path for path, _ in install.install(folders).left] == [str(preferences)]
    left = install.uninstall(folders).left
    assert [path for path, _ in left] == [str(preferences)]
    assert preferences.exists()


def test_an_older_dissector_is_replaced_and_the_table_kept(folders: Folders) -> None:
    install.install(folders)
    path = folders.lua / "kwire.lua"
    new = path.read_bytes()
    path.write_bytes(new.splitlines(keepends=True)[0] + b"-- an older one\n")
    rows = probes.merge([], [SCHEMA])
    probes.write(install.probes_path(folders), rows)
    assert install.install(folders).changed == [str(path)]
    assert path.read_bytes() == new
    assert probes.read(install.probes_path(folders)) == rows


def test_without_a_folder_for_it_there_is_no_interface_and_that_is_said(folders: Folders) -> None:
    done = install.install(folders._replace(extcap=None))
    assert len(done.changed) == 4
    assert "no interface" in done.left[0][1]


def test_the_package_holds_what_is_installed() -> None:
    text = Path(__file__).parents[2].joinpath("pyproject.toml").read_text()
    for pattern in ("wireshark/lua/*.lua", "wireshark/profile/*"):
        assert pattern in text


# ---- the command line


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment whose `tshark -G folders` names folders below `tmp_path`."""
    bin = tmp_path / "bin"
    bin.mkdir()
    script = bin / "tshark"
    script.write_text(
        "#!/bin/sh\n"
        f"printf 'Personal configuration:\\t{tmp_path}/config\\n'\n"
        f"printf 'Personal Lua Plugins:\\t{tmp_path}/plugins\\n'\n"
        f"printf 'Extcap path:         \\t{tmp_path}/extcap\\n'\n"
    )
    script.chmod(0o755)
    (tmp_path / "a.pcapng").write_bytes(b"")
    return {**os.environ, "PATH": str(bin), "HOME": str(tmp_path)}


def kwire(environment: dict[str, str], *words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kwire.cli.main", "wireshark", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert "Traceback" not in done.stderr
    return done


def test_the_verb(home: dict[str, str], tmp_path: Path, capture_of: Callable[..., bytes]) -> None:
    path = tmp_path / "a.pcapng"
    path.write_bytes(capture_of([*SCHEMA.frames(), build(Type.EVENT, 1, bytes(16))]))
    assert (
        "the dissector is not installed; run 'kwire wireshark install'" in kwire(home, "update", path).stderr
    )
    done = kwire(home, "install")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"installed {tmp_path}/plugins/kwire.lua\n" in done.stdout
    assert kwire(home, "update", path).stderr == "1 filter name, 1 of them new\n"
    assert kwire(home, "update", path).stderr == "1 filter name, 0 of them new\n"
    assert "kwire.tcp_connect.dport" in (tmp_path / "plugins/kwire.probes").read_text()
    done = kwire(home, "open", path)
    assert done.returncode == 1
    assert "wireshark is not installed, or not in the PATH" in done.stderr
    shown = tmp_path / "arguments"
    script = tmp_path / "bin/wireshark"
    script.write_text(f'#!/bin/sh\necho "$@" > {shown}\n')
    script.chmod(0o755)
    assert kwire(home, "open", path, "--", "-Y", "kwire.lost.count").returncode == 0
    assert shown.read_text() == f"-C kwire -Y kwire.lost.count -r {path}\n"
    assert kwire(home, "uninstall").stdout.count("removed ") == 5
    assert kwire(home, "uninstall").stdout == "nothing was installed\n"


def test_no_wireshark_at_all_is_said(home: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "bin/tshark").unlink()
    done = kwire(home, "install")
    assert (done.returncode, done.stdout) == (1, "")
    assert "neither tshark nor wireshark is installed" in done.stderr


@pytest.mark.parametrize("words", [(), ("sing",), ("update",), ("open",)])
def test_a_command_line_that_makes_no_sense(home: dict[str, str], words: tuple[str, ...]) -> None:
    assert kwire(home, *words).returncode == 2


def test_what_is_no_capture_is_said(home: dict[str, str], tmp_path: Path) -> None:
    kwire(home, "install")
    for content in (b"", b"hello, world, this is no capture"):
        (tmp_path / "bad").write_bytes(content)
        done = kwire(home, "update", tmp_path / "bad")
        assert done.stderr.startswith("kwire: ")


@pytest.mark.live
def test_captures_are_read_without_privileges(home: dict[str, str], tmp_path: Path) -> None:
    """The capture is a FIFO, so that there is time to look at who reads it."""
    kwire(home, "install")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    command = [sys.executable, "-m", "kwire.cli.main", "wireshark", "update", str(fifo)]
    running = subprocess.Popen(command, env=home, stderr=subprocess.PIPE, text=True)
    with fifo.open("wb") as file:
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        status = Path(f"/proc/{children[0]}/status").read_text()
        file.write((Path(__file__).parents[1] / "data/0.1-session-little.pcap").read_bytes())
    assert "CapEff:\t0000000000000000\n" in status
    assert running.communicate()[1] == "2 filter names, 2 of them new\n"


def test_captures_of_networks_have_probes_too(home: dict[str, str]) -> None:
    kwire(home, "install")
    path = Path(__file__).parents[1] / "data/0.1-session-little.pcap"
    assert kwire(home, "update", path).stderr == "2 filter names, 2 of them new\n"


@pytest.mark.native
def test_the_folders_are_those_that_tshark_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not shutil.which("tshark"):
        pytest.skip("no tshark here")
    from kwire.wireshark.folders import folders

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    found = folders()
    assert found.lua == tmp_path / ".local/lib/wireshark/plugins"
    assert found.configuration == tmp_path / ".config/wireshark"
    assert found.extcap is not None


@pytest.mark.native
def test_tables_larger_than_anybody_has_still_load(
    wireshark: Any, tmp_path: Path, capture_of: Callable[..., bytes]
) -> None:
    fields = tuple(Field(f"f{n}", "u32", 16 + 4 * n, 4) for n in range(100))
    schemas = [Schema(1, f"kprobe:many_{n}", "kprobe", f"many_{n}", fields, 416) for n in range(100)]
    wireshark.learn(*schemas)
    path = tmp_path / "many.pcapng"
    path.write_bytes(capture_of([*schemas[7].frames(), build(Type.EVENT, 1, bytes(408))]))
    assert wireshark.fields(path, "frame.number", only="kwire.many_7.f99 == 0") == [["2"]]
    wireshark.forget()
