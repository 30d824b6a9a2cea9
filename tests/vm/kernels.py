"""The kernels that guests run by default: Debian's cloud images, downloaded once into .vm/, never installed.

`python tests/vm/kernels.py [NAME...]` fetches them beforehand.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from initramfs import GuestError

STORE = Path(__file__).resolve().parents[2] / ".vm"

# The names that --kernel takes, and the packages that each may come from.
PACKAGES = {
    "6.1": r"linux-image-6\.1\.\d+-\d+-cloud-amd64",
    "6.12": r"linux-image-6\.12\.\d+\+deb\d+-cloud-amd64",
}


class Kernel(NamedTuple):
    """A bootable image and its modules (`.../lib/modules/VERSION`; None: all that matters is built in)."""

    image: Path
    modules: Path | None


def fetch(name: str) -> Kernel:
    """The named kernel, from .vm/ or else from Debian's newest package of that line."""
    if name not in PACKAGES:
        raise GuestError(f"no kernel {name!r}: choose one of {', '.join(PACKAGES)}, or give --image")
    folder = STORE / name
    if not folder.exists():
        download(name, folder)
    return Kernel(only(folder, "boot/vmlinuz-*"), only(folder, "lib/modules/*"))


def only(folder: Path, pattern: str) -> Path:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise GuestError(
            f"{folder} is not whole ({pattern} matches {len(found)} files): remove it and try again"
        )
    return found[0]


def download(name: str, folder: Path) -> None:
    """Fills `folder` from the newest package that can be had; appears whole or not at all."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise GuestError(f"kernel {name} comes from a Debian package, and this is no Debian: give --image")
    STORE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=STORE) as scratch:
        Path(scratch).chmod(0o755)
        problem = download_package(name, scratch)
        if problem:  # Debian removes what is superseded, and a fresh system has no package lists
            subprocess.run(["apt-get", "-qq", "update"], capture_output=True)
            problem = download_package(name, scratch)
        if problem:
            raise GuestError(f"kernel {name} cannot be downloaded: {problem}")
        whole = Path(scratch, "whole")
        output("dpkg-deb", "-x", str(next(Path(scratch).glob("*.deb"))), str(whole))
        index_modules(whole)
        whole.chmod(0o755)
        try:
            whole.rename(folder)
        except OSError:
            if not folder.exists():  # else another run was faster
                raise


def download_package(name: str, folder: str) -> str:
    """Brings the newest package of a kernel into `folder`; what went wrong, empty when nothing did."""
    listed = output("apt-cache", "pkgnames", "linux-image-").split()
    packages = sorted((package for package in listed if re.fullmatch(PACKAGES[name], package)), key=numbers)
    if not packages:
        return "the package sources do not name it; bookworm-security or bookworm-backports does"
    command = ["apt-get", "-qq", "download", packages[-1]]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stderr.strip()


def index_modules(root: Path) -> None:
    """Writes modules.dep, so that modprobe works in the guest; without kmod only insmod does."""
    depmod = shutil.which("depmod") or shutil.which("/sbin/depmod")
    if depmod:
        output(depmod, "-b", str(root), only(root, "lib/modules/*").name)


def output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise GuestError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def numbers(text: str) -> list[int]:
    """The numbers in a version, for sorting."""
    return [int(part) for part in re.findall(r"\d+", text)]


if __name__ == "__main__":
    try:
        for wanted in sys.argv[1:] or PACKAGES:
            print(wanted, fetch(wanted).image)
    except GuestError as error:
        sys.exit(f"kernels: {error}")
