"""Disks that are real: a small ext4 in a file, mounted through a loop device, in a namespace of our own.

It fills up, runs out of inodes, stands still, becomes read-only and fails as a kernel's file system does. A
namespace that ends takes its mounts and loop devices with it, however it ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import struct
import subprocess
import time
from pathlib import Path

CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 1 << 18
FIFREEZE, FITHAW = 0xC0045877, 0xC0045878
EXT4_SHUTDOWN, FLUSHED, UNFLUSHED = 0x8004587D, 0, 2  # _IOR('X', 125, __u32)
FS_IOC_SETFLAGS, EXTENTS, IMMUTABLE = 0x40086602, 0x80000, 0x10
FILLER = "filler"
INODES = 128


class NotHereError(Exception):
    """This machine cannot do it; why."""


def apart() -> None:
    """Mounts of this process, and of those it starts, are its own from now on. Raises NotHereError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):
        raise NotHereError(f"no mount namespace: {os.strerror(ctypes.get_errno())}")


def run(*words: str, right: tuple[int, ...] = (0,)) -> str:
    """Run a program of the system; what it printed. Raises NotHereError."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    except OSError as error:
        raise NotHereError(f"{words[0]}: {error.strerror}") from None
    if done.returncode not in right:
        raise NotHereError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


class LoopDisk:
    """A folder with a file system of its own, of `size` bytes."""

    def __init__(self, folder: Path, size: int = 8 << 20) -> None:
        self.folder, self._image = folder, folder.with_suffix(".ext4")
        folder.mkdir()
        with self._image.open("wb") as image:
            image.truncate(size)
        run("mkfs.ext4", "-q", "-F", "-m", "0", "-N", str(INODES), str(self._image))
        self._device = ""
        self.dead = False
        """It takes nothing more until it is mounted anew."""
        self._harmed = False
        self._mount()

    @property
    def failing(self) -> bool:
        """Whether it does not take what comes, now."""
        return self.dead or self._harmed

    def _mount(self) -> None:
        self._device = run("losetup", "--find", "--show", str(self._image)).strip()
        run("mount", "-t", "ext4", "-o", "errors=remount-ro", self._device, str(self.folder))
        run("losetup", "--detach", self._device)  # with its last user
        self.dead = False

    def begin(self) -> None:
        """Called in a process: nothing needs to be done."""

    # ------------------------------------------------------------------ what is over with `heal`

    def fill(self) -> None:
        """No block is left."""
        self._harmed = True
        with contextlib.suppress(OSError), (self.folder / FILLER).open("ab") as filler:
            space = os.fstatvfs(filler.fileno())
            at = os.fstat(filler.fileno()).st_size
            with contextlib.suppress(OSError):
                os.posix_fallocate(filler.fileno(), at, space.f_bavail * space.f_frsize)
            for size in (4096, 512, 1):
                with contextlib.suppress(OSError):
                    while True:
                        os.write(filler.fileno(), bytes(size))

    def exhaust(self) -> None:
        """No inode is left: what is open can be written, and nothing be created."""
        self._harmed = True
        more = self.folder / f"{FILLER}s"
        with contextlib.suppress(OSError):
            more.mkdir(exist_ok=True)
            for number in range(INODES):
                (more / str(number)).touch()

    def freeze(self, seconds: float) -> None:
        """Everything that writes waits, and cannot be killed, for so long."""
        self._control(FIFREEZE)
        time.sleep(seconds)
        self._control(FITHAW)

    def forbid(self) -> None:
        """What is there cannot be changed, by whoever has it open neither, and nothing be created (EPERM)."""
        self._harmed = True
        self._flag(EXTENTS | IMMUTABLE)

    def heal(self) -> None:
        """What can be healed while processes have files open there."""
        if self.dead:
            return
        self._flag(EXTENTS)
        with contextlib.suppress(OSError):
            (self.folder / FILLER).unlink()
        shutil.rmtree(self.folder / f"{FILLER}s", ignore_errors=True)
        self._harmed = False

    def _flag(self, flags: int) -> None:
        paths = [
            os.path.join(folder, name) for folder, _, names in os.walk(self.folder) for name in (".", *names)
        ]
        for path in paths:
            with contextlib.suppress(OSError):
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    fcntl.ioctl(descriptor, FS_IOC_SETFLAGS, struct.pack("l", flags))
                finally:
                    os.close(descriptor)

    # ------------------------------------------------------------------ what only a new mount heals

    def fail(self, number: int = errno.EROFS) -> None:
        """Find an error in it, after which ext4 is read-only; what was not synced is gone."""
        self.dead = True
        name = Path(self._device).name
        Path(f"/sys/fs/ext4/{name}/trigger_fs_error").write_text("found by a test\n")

    def unplug(self, flushed: bool) -> None:
        """Let everything fail (EIO); `flushed`: what was written is there, else what was synced."""
        self.dead = True
        with contextlib.suppress(OSError):  # it was read-only before
            self._control(EXT4_SHUTDOWN, FLUSHED if flushed else UNFLUSHED)

    def plug(self) -> None:
        """Check it and mount it anew, when nobody has files open there."""
        end = time.monotonic() + 10
        while True:
            try:
                run("umount", str(self.folder))
                break
            except NotHereError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)
        while self._device in run("losetup", "--associated", str(self._image)):
            time.sleep(0.01)
        run("e2fsck", "-p", str(self._image), right=(0, 1))
        self._mount()
        self.heal()

    def close(self) -> None:
        """Unmount it, when all processes have ended."""
        with contextlib.suppress(NotHereError):
            run("umount", str(self.folder))
            self._image.unlink()

    def read_only(self, yes: bool) -> None:
        """Remount it: refused by the kernel (False) while a file is open for writing."""
        run("mount", "-o", "remount,ro" if yes else "remount,rw", str(self.folder))
        self._harmed = yes

    def _control(self, request: int, value: int = 0) -> None:
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, request, struct.pack("I", value))
        finally:
            os.close(descriptor)
