"""Where output goes: what is no file is written to, a file is replaced when its successor is whole."""

import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kwire.capture import destination
from kwire.capture.destination import Destination, OutputError, descriptor, is_standard_output


def put(name: Path | str, text: bytes, *, publish: bool = True, clobber: bool = True) -> None:
    with Destination(str(name), clobber=clobber) as target:
        os.write(target.fd, text)
        if publish:
            target.publish()


def test_a_new_file_is_its_owners_and_whole_or_not_there(tmp_path: Path) -> None:
    file = tmp_path / "new"
    with Destination(str(file)) as target:
        os.write(target.fd, b"text")
        assert not file.exists()
        target.publish()
        target.publish()
        assert file.read_bytes() == b"text"
        os.write(target.fd, b" that grows")
    assert file.read_bytes() == b"text that grows"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["new"]


def test_what_was_there_stays_until_its_successor_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "old"
    file.write_bytes(b"old")
    put(file, b"new", publish=False)
    assert file.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["old"]
    put(file, b"new")
    assert file.read_bytes() == b"new"


def test_mode_and_owner_are_those_of_the_file_before(tmp_path: Path) -> None:
    file = tmp_path / "old"
    file.write_bytes(b"old")
    file.chmod(0o640)
    if not os.geteuid():
        os.chown(file, 65534, 65534)
    before = file.stat()
    put(file, b"new")
    after = file.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


def test_a_link_stays_and_its_target_is_written(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for name in ("old", "none"):
        link, file = tmp_path / f"to-{name}", tmp_path / "there" / name
        link.symlink_to(file)
        if name == "old":
            file.write_bytes(b"old")
        put(link, b"new")
        assert link.is_symlink()
        assert file.read_bytes() == b"new"
    assert sorted(os.listdir(tmp_path / "there")) == ["none", "old"]


def test_a_fifo_is_written_to(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    told: list[bytes] = []
    reader = threading.Thread(target=lambda: told.append(fifo.read_bytes()))
    reader.start()
    put(fifo, b"text", publish=False)
    reader.join(60)
    assert told == [b"text"]
    assert stat.S_ISFIFO(fifo.stat().st_mode)


def test_a_device_is_written_to_and_stays() -> None:
    put("/dev/null", b"text")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with Destination("/dev/full") as target, pytest.raises(OSError, match="space"):
        os.write(target.fd, b"text")
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


@pytest.mark.parametrize("name", ["/dev/fd/{}", "/proc/self/fd/{}", "/proc/{pid}/fd/{}", "link"])
def test_the_name_of_a_descriptor_is_the_descriptor(name: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    with file.open("wb", buffering=0) as out:
        out.write(b"before ")
        path = name.format(out.fileno(), pid=os.getpid())
        if name == "link":
            path = str(tmp_path / "link")
            os.symlink(f"/dev/fd/{out.fileno()}", path)
        assert descriptor(path) == out.fileno()
        put(path, b"ours ")
        out.write(b"after")
    assert file.read_bytes() == b"before ours after"


def test_standard_output_has_several_names(tmp_path: Path) -> None:
    assert [descriptor(name) for name in ("-", "/dev/stdout", "/dev/fd/1", "/dev/stderr")] == [1, 1, 1, 2]
    assert descriptor(str(tmp_path / "-")) is None
    assert descriptor("/proc/1/fd/1") is None
    assert is_standard_output("-")
    assert is_standard_output("/proc/self/fd/1")
    assert not is_standard_output(str(tmp_path / "none"))
    assert not is_standard_output("/dev/null")


def test_no_clobber_keeps_a_file_that_comes_meanwhile_too(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with Destination(str(file), clobber=False) as target:
        file.write_bytes(b"theirs")
        with pytest.raises(OutputError, match="there already"):
            target.publish()
    with pytest.raises(OutputError, match="there already"):
        Destination(str(file), clobber=False)
    assert file.read_bytes() == b"theirs"
    assert os.listdir(tmp_path) == ["file"]
    put(tmp_path / "other", b"ours", clobber=False)
    assert (tmp_path / "other").read_bytes() == b"ours"


def test_what_cannot_be_written_says_so(tmp_path: Path) -> None:
    for name, cause in (
        ("", "the name is empty"),
        (str(tmp_path), "Is a directory"),
        (str(tmp_path / "no" / "file"), "No such file"),
        ("/dev/fd/999999", "Bad file descriptor"),
    ):
        with pytest.raises(OutputError, match=cause):
            Destination(name)


def test_a_long_name_has_room_beside_it(tmp_path: Path) -> None:
    put(tmp_path / ("x" * 255), b"text")
    assert os.listdir(tmp_path) == ["x" * 255]


def killed(file: Path, *more: str) -> None:
    """A process that is killed while it writes a file."""
    program = f"""
import os, signal
from kwire.capture import destination
from kwire.capture.destination import Destination
held = [Destination(name) for name in {[str(file), *more]!r}]
os.write(held[0].fd, b"half")
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == -signal.SIGKILL


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path: Path) -> None:
    file = tmp_path / "name"
    killed(file, str(file))
    assert sorted(os.listdir(tmp_path)) == [".name.1.part", ".name.part"]
    with Destination(str(file)) as one, Destination(str(file)) as two:
        for target, text in ((one, b"one"), (two, b"two")):
            os.write(target.fd, text)
            target.publish()
    assert (file.read_bytes(), os.listdir(tmp_path)) == (b"two", ["name"])


def test_what_is_being_written_is_nobody_elses(tmp_path: Path) -> None:
    file = tmp_path / "name"
    with Destination(str(file)) as one:
        os.write(one.fd, b"one")
        put(file, b"two")
        assert sorted(os.listdir(tmp_path)) == [".name.part", "name"]
        one.publish()
    assert file.read_bytes() == b"one"


@pytest.mark.parametrize("what", ["a link", "a folder", "a FIFO"])
def test_what_else_has_the_name_is_left_alone(tmp_path: Path, what: str) -> None:
    file, part = tmp_path / "name", tmp_path / ".name.part"
    if what == "a link":
        (tmp_path / "theirs").write_bytes(b"theirs")
        part.symlink_to(tmp_path / "theirs")
    elif what == "a folder":
        part.mkdir()
    else:
        os.mkfifo(part)
    put(file, b"new")
    assert (file.read_bytes(), part.lstat().st_size >= 0) == (b"new", True)
    assert what != "a link" or (tmp_path / "theirs").read_bytes() == b"theirs"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of others")
def test_what_is_another_users_is_left_alone(tmp_path: Path) -> None:
    part = tmp_path / ".name.part"
    part.write_bytes(b"theirs")
    os.chown(part, 65534, 65534)
    put(tmp_path / "name", b"new")
    assert part.read_bytes() == b"theirs"


def test_a_file_is_put_whole_with_its_mode(tmp_path: Path) -> None:
    file = tmp_path / "name"
    destination.put(str(file), b"text", 0o640)
    assert (file.read_bytes(), stat.S_IMODE(file.stat().st_mode)) == (b"text", 0o640)
    with pytest.raises(OutputError, match="no-clobber"):
        destination.put(str(file), b"other", 0o640, clobber=False)
    assert (file.read_bytes(), os.listdir(tmp_path)) == (b"text", ["name"])
