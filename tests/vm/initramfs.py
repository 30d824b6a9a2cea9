"""The initial file system of a test guest: our first process and the modules that its root needs.

The archive is in cpio's "newc" format (the kernel's early-userspace/buffer-format.rst). Modules
go in decompressed and in loading order, so any kernel image boots, virtiofs built in or not.
"""

from __future__ import annotations

import lzma
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT_NEEDS = ("virtio_pci", "virtiofs", "overlay")
DECOMPRESSORS = {".zst": "zstd", ".gz": "gzip"}


class GuestError(Exception):
    """A guest cannot be started, or did not come to its end; the text says why."""


def build(modules: Path | None, scratch: Path) -> bytes:
    """The archive for a kernel whose modules lie in `modules` (`.../lib/modules/VERSION`), if it has any."""
    order = loading_order(modules, ROOT_NEEDS) if modules else []
    files = [(f"modules/{number:02}-{name}.ko", image) for number, (name, image) in enumerate(order)]
    listing = "".join(f"{Path(path).name}\n" for path, _ in files).encode()
    members = [("dev", 0o040755, b""), ("modules", 0o040755, b""), ("modules/order", 0o100644, listing)]
    members += [(path, 0o100644, image) for path, image in files]
    members.append(("init", 0o100755, compiled("init", scratch).read_bytes()))
    return b"".join(cpio(members))


def compiled(name: str, scratch: Path) -> Path:
    """A program of ours, built in `scratch`; linked statically, as where the first process runs there is no C
    library yet.
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise GuestError(f"no C compiler for {name}.c: apt-get install gcc libc6-dev")
    source, target = Path(__file__).with_name(f"{name}.c"), scratch / name
    words = [compiler, "-O2", "-Wall", "-static", "-o", str(target), str(source)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0:
        raise GuestError(f"{source.name} does not compile: {done.stderr.strip()}")
    return target


def cpio(members: list[tuple[str, int, bytes]]) -> Iterator[bytes]:
    """The members (path, mode, content) as a newc archive, its end marker included."""
    for inode, (path, mode, content) in enumerate([*members, ("TRAILER!!!", 0, b"")], 1):
        name = path.encode() + b"\0"
        # ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        numbers = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0)
        head = b"070701" + b"".join(b"%08x" % number for number in numbers) + name
        yield head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)


def loading_order(modules: Path, wanted: tuple[str, ...]) -> list[tuple[str, bytes]]:
    """Names and images of the wanted modules and of all they depend on, each after its dependencies."""
    files = {module_name(path): path for path in modules.rglob("*.ko*")}
    builtin = modules / "modules.builtin"
    built_in = (
        {module_name(Path(line)) for line in builtin.read_text().split()} if builtin.exists() else set()
    )
    order: dict[str, bytes] = {}

    def visit(name: str) -> None:
        if name in order or name in built_in:
            return
        if name not in files:
            raise GuestError(f"{modules} has no module {name}, which the guest's root needs")
        image = read_module(files[name])
        for dependency in depends(image):
            visit(dependency)
        order[name] = image

    for name in wanted:
        visit(name)
    return list(order.items())


def module_name(path: Path) -> str:
    """The kernel's name for a module file: no suffixes, and no difference between - and _."""
    return path.name.split(".ko")[0].replace("-", "_")


def read_module(path: Path) -> bytes:
    """A module file's ELF image, decompressed."""
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix in DECOMPRESSORS:
        return subprocess.run(
            [DECOMPRESSORS[path.suffix], "-dc", path], check=True, stdout=subprocess.PIPE
        ).stdout
    return path.read_bytes()


def depends(image: bytes) -> list[str]:
    """The modules that this one names in the `depends=` entry of its .modinfo section."""
    found = re.search(rb"\0depends=([^\0]*)\0", image)
    return [name.replace("-", "_") for name in found[1].decode().split(",") if name] if found else []
