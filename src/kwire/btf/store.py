"""The running kernel's BTF: its own and that of its modules.

Invariants: the BTF of a file is opened when it is first needed and kept; `KWIRE_BTF` (a file, or a directory
with a `vmlinux` and one file a module) takes the place of /sys/kernel/btf; where there is none, the error
says where it was looked for.
"""

import os
from collections.abc import Iterable

from kwire.btf.blob import Btf
from kwire.btf.cache import WORTH, cache_directory, load_table, save_table
from kwire.btf.errors import BtfError, BtfLookupError
from kwire.btf.source import read_file
from kwire.btf.types import FuncProto, Kind
from kwire.lazy import NamedTuple

SYSFS = "/sys/kernel/btf"

VMLINUX = (
    "/boot/vmlinux-{release}",
    "/lib/modules/{release}/vmlinux-{release}",
    "/lib/modules/{release}/build/vmlinux",
    "/usr/lib/modules/{release}/kernel/vmlinux",
    "/usr/lib/debug/boot/vmlinux-{release}",
    "/usr/lib/debug/boot/vmlinux-{release}.debug",
    "/usr/lib/debug/lib/modules/{release}/vmlinux",
)
"""Where distributions put the kernel's ELF file, tried in order where sysfs has no BTF."""


class Function(NamedTuple):
    """A kernel function: `module` is empty for the kernel proper, ids in `proto` are ids of `btf`."""

    name: str
    module: str
    proto: FuncProto
    btf: Btf


class Found(NamedTuple):
    """A type: `id` in `btf`, which is that of `module` (empty: of the kernel proper)."""

    module: str
    btf: Btf
    id: int


class Kernel:
    """The BTF of one kernel; `vmlinux` is its own, `module(name)` a module's."""

    __slots__ = ("_cache_dir", "_directory", "_modules", "path", "vmlinux")

    def __init__(self, path: str, directory: str, cache_dir: str) -> None:
        self.path = path
        self._directory = directory
        self._cache_dir = cache_dir
        self._modules: dict[str, Btf] = {}
        self.vmlinux = open_btf(path, subject="the kernel", cache_dir=cache_dir)

    def modules(self) -> list[str]:
        """The names of the loaded modules that have BTF."""
        if not self._directory:
            return []
        try:
            return sorted(name for name in os.listdir(self._directory) if name != "vmlinux")
        except OSError:
            return []

    def module(self, name: str) -> Btf:
        """A module's BTF ("" or "vmlinux": the kernel's). Raises BtfLookupError for a module without."""
        name = name.replace("-", "_")
        if name in ("", "vmlinux"):
            return self.vmlinux
        btf = self._modules.get(name)
        if btf is None:
            if name not in self.modules():
                cure = "load it first" if self._directory else ""
                raise BtfLookupError("the kernel", name, f"there is no module {name} with BTF", cure)
            path = f"{self._directory}/{name}"
            btf = open_btf(path, self.vmlinux, subject=f"module {name}", cache_dir=self._cache_dir)
            self._modules[name] = btf
        return btf

    def add(self, btf: Btf) -> str:
        """Take further BTF that goes on from the kernel's, of a program; gives the name of its module."""
        name = f"program {len(self._modules) + 1}"
        self._modules[name] = btf
        return name

    def find(self, name: str, kinds: Iterable[int], module: str | None = None) -> Found | None:
        """The first type of this name and one of these kinds, or None.

        `module` as for `func`: the kernel proper comes before its modules. Raises BtfLookupError for a module
        that is not there.
        """
        for where in [module] if module is not None else ["", *self.modules()]:
            btf = self.module(where)
            for kind in kinds:
                id = btf.find(name, kind)
                if id >= btf.first_id:
                    return Found("" if btf.base is None else where.replace("-", "_"), btf, id)
        return None

    def func(self, name: str, module: str | None = None) -> Function:
        """Find a function, in one module ("" is the kernel proper) or in the kernel and then all modules.

        Raises BtfLookupError, with the nearest names.
        """
        found = self.find(name, (Kind.FUNC,), module)
        if found:
            return Function(name, found.module, found.btf.proto(found.id), found.btf)
        from kwire.btf.errors import did_you_mean, nearest

        btf = self.module(module or "")
        place = f" in module {module}" if module else ""
        copy = "." in name  # made by the compiler, as f.isra.0: no name is near, and wildcards meet many

        def near() -> str:
            return "" if copy else did_you_mean(nearest(name, btf.names(Kind.FUNC)))

        raise BtfLookupError(btf.subject, name, f"there is no function {name}{place}", near)

    def functions(self, module: str = "") -> dict[str, int]:
        """name → id of all functions of the kernel proper or of one module."""
        return self.module(module).names(Kind.FUNC)


def open_btf(path: str, base: Btf | None = None, *, subject: str = "", cache_dir: str | None = None) -> Btf:
    """Open the BTF in a file, raw or ELF; `cache_dir` keeps offset tables ("": none). Raises BtfError."""
    subject = subject or path
    data = read_file(path, subject)
    directory = cache_directory() if cache_dir is None else cache_dir
    if not directory or len(data) < WORTH:
        return Btf(data, base, subject=subject)
    table = load_table(directory, data)
    btf = Btf(data, base, subject=subject, table=table)
    if table is None:
        save_table(directory, data, btf.table)
    return btf


def load_kernel(cache_dir: str | None = None, path: str | None = None) -> Kernel:
    """The running kernel's BTF, or that of `path` or $KWIRE_BTF. Raises BtfError where there is none.

    `cache_dir`: where offset tables are kept (None: the user's cache directory, "": nowhere).
    """
    directory = cache_directory() if cache_dir is None else cache_dir
    path = path or os.environ.get("KWIRE_BTF") or ""
    if path and not os.path.isdir(path):
        return Kernel(path, "", directory)
    home = path or SYSFS
    if path or os.path.exists(f"{home}/vmlinux"):
        return Kernel(f"{home}/vmlinux", home, directory)
    release = os.uname().release
    places = [place.format(release=release) for place in VMLINUX]
    for place in places:
        if os.path.exists(place):
            return Kernel(place, home if os.path.isdir(home) else "", directory)
    cause = f"there is none in {SYSFS} and no vmlinux of {release} in {', '.join(places)}"
    cure = "use a kernel built with CONFIG_DEBUG_INFO_BTF=y, or name a file with KWIRE_BTF=FILE"
    raise BtfError("the kernel", cause, cure=cure)
