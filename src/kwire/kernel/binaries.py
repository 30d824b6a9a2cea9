"""Programs and libraries that probes are in: which file a name means, and which places of it a probe is at.

Invariants: a library's name means the file that the dynamic loader would take; a place is a file and an
offset in it, as the kernel wants it, so a file that is replaced is another one; a function that several
symbols name is all of their places; what is not there is an error with the nearest names.
"""

import os
import re
import struct
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache

from kwire.errors import KwireError
from kwire.hints import Final
from kwire.kernel.attach import FilePlace
from kwire.kernel.elf import Elf, ElfError, Symbol, Usdt
from kwire.kernel.instructions import check
from kwire.kernel.targets import WILDCARD, CatalogError, Target, as_regex, nearest
from kwire.kinds import KINDS, file_and_name, in_file
from kwire.lazy import NamedTuple, pattern

CACHE: Final = "/etc/ld.so.cache"
MAGIC: Final = b"glibc-ld.so.cache1.1"
FLAGS: Final = {"x86_64": 0x0303, "aarch64": 0x0A03}
"""What the loader's cache says of libraries of 64 bits."""

FOLDERS: Final = ("/lib64", "/usr/lib64", "/lib", "/usr/lib", "/usr/local/lib")
"""Where libraries are on machines without a cache."""

NARROW: Final = {"x86_64": "i386"}
"""Whose programs a machine runs, too."""

PROBED: Final = ("func", "none")
"""Kinds of symbols that code begins at."""


_ADDRESS: Final = pattern(r"0[xX][0-9a-fA-F]+|[0-9]+")

CPP: Final = "cpp:"
"""What stands before the name of a function as C++ writes it."""


class NoProgramError(ElfError):
    """A file that is not run here: an object, a core, another machine's."""


# ---- Files


def files(name: str, pids: Sequence[int] = ()) -> list[str]:
    """The files that a name stands for: a path, perhaps with wildcards; the name of a library, without its
    version if need be; that of a program; `*`: whatever the processes `pids` have mapped as code. A name
    means what it means to the first of these processes, where there is one. Raises KwireError.
    """
    if name == "*":
        found = list(dict.fromkeys(path for pid in pids for path in _mapped(pid)))
        if not found:
            cause = "which file?" if not pids else "the processes have mapped no file"
            raise KwireError("find file", name, cause, "write its path, or name a process: -p PID")
        return found
    root = _root(pids[0]) if pids else ""
    if WILDCARD.search(name):
        from glob import glob

        place = root + name if name.startswith("/") else name
        found = [one for one in sorted(glob(place)) if os.path.isfile(one) and _begins_as_elf(one)]
        if not found:
            raise KwireError("find file", name, "no program and no library matches")
        return found
    if "/" in name:
        return [root + name if name.startswith("/") else name]
    loaded = _named(name, _mapped(pids[0])) if pids else ""
    path = loaded or _library(name) or _program(name)
    if not path:
        near = nearest(name, _known_names(), 3)
        cure = f"did you mean {' or '.join(near)}?" if near else "write its path, or compare `ldconfig -p`"
        raise KwireError("find file", name, "there is no library and no program of this name", cure)
    return [path]


def _known_names() -> set[str]:
    """The names of libraries, without versions, and of programs."""
    found = {soname.partition(".so")[0] for soname, _ in _cached()}
    for folder in os.get_exec_path():
        with suppress(OSError):
            found.update(os.listdir(folder))
    return found


def _root(pid: int) -> str:
    """The path that leads to what a process sees as /; empty where that is what we see."""
    try:
        same = os.path.samestat(os.stat("/"), os.stat(f"/proc/{pid}/root"))
        ours, theirs = (os.readlink(f"/proc/{one}/ns/mnt") for one in ("self", pid))
    except OSError:
        return ""
    return "" if same and ours == theirs else f"/proc/{pid}/root"


def _mapped(pid: int) -> list[str]:
    """The files that a process has mapped as code."""
    try:
        with open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.rstrip("\n").split(None, 5) for line in file]
    except OSError as error:
        cause = (error.strerror or str(error)).lower()
        raise KwireError("read files of process", str(pid), cause) from None
    told = [words for words in lines if len(words) == 6 and "x" in words[1] and words[5][0] == "/"]
    root = _root(pid)
    if root:
        from kwire.kernel.usersyms import root_of

        paths = [root_of(pid, words[5], int(words[4])) + words[5] for words in told]
    else:
        paths = [words[5] for words in told]
    return [path for path in dict.fromkeys(paths) if _begins_as_elf(path)]


def _named(name: str, paths: Sequence[str]) -> str:
    """The first of some files that a name means."""
    wanted = _called(name)
    return next((path for path in paths if wanted.fullmatch(os.path.basename(path))), "")


def _called(name: str) -> re.Pattern[str]:
    """Names of files that `libc` or `libc.so.6` means."""
    return re.compile(re.escape(name) + r"(\.so(\.[0-9.]+)?)?")


def _begins_as_elf(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(4) == b"\x7fELF"
    except OSError:
        return False


def _program(name: str) -> str:
    for folder in os.get_exec_path():
        path = os.path.join(folder, name)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return os.path.abspath(path)
    return ""


def _library(name: str) -> str:
    """The file of a library: `libc` is the libc.so.6 that the loader takes."""
    wanted = _called(name)
    found = [path for soname, path in _cached() if wanted.fullmatch(soname)]
    if found:
        return found[0]
    for folder in FOLDERS:
        try:
            here = sorted(os.listdir(folder), reverse=True)
        except OSError:
            continue
        for soname in here:
            if wanted.fullmatch(soname) and ".so" in soname:
                return os.path.join(folder, soname)
    return ""


def _cached() -> list[tuple[str, str]]:
    """(name, path) of the libraries that the loader of this machine's programs knows, in its order."""
    try:
        with open(CACHE, "rb") as file:
            data = file.read()
    except OSError:
        return []
    start = data.find(MAGIC)
    if start < 0 or len(data) < start + 48:
        return []
    (count,) = struct.unpack_from("<I", data, start + 20)
    wanted, found = FLAGS.get(os.uname().machine), []
    for at in range(start + 48, min(start + 48 + 24 * count, len(data) - 23), 24):
        flags, name, path = struct.unpack_from("<iII", data, at)
        if flags == wanted:
            found.append((_text(data, start + name), _text(data, start + path)))
    return found


def _text(data: bytes, at: int) -> str:
    return os.fsdecode(data[at : data.find(b"\0", at)])


# ---- What is in them


class Binary(NamedTuple):
    """A file, read: the symbols that code begins at, by name; its static probes; what it can be asked."""

    file: Elf
    functions: dict[str, list[Symbol]]
    marks: tuple[Usdt, ...]

    def place(self, path: str, address: int, semaphore: int = 0) -> FilePlace:
        """The place of an address of the file. Raises KwireError."""
        offset = self.file.file_offset(address, code=True)
        if offset is None:
            cause = f"no code of it is at address {address:#x}"
            raise KwireError("probe", path, cause, "give an address as nm and objdump show it")
        return FilePlace(path, offset, self.file.file_offset(semaphore) or 0 if semaphore else 0)


def binary(path: str) -> Binary:
    """A file, read once as long as it stays as it is. Raises ElfError."""
    try:
        told = os.stat(path)
    except OSError as error:
        raise ElfError("read", path, (error.strerror or str(error)).lower()) from None
    return _binary(path, told.st_dev, told.st_ino, told.st_size, told.st_mtime_ns)


@lru_cache(maxsize=16)
def _binary(path: str, *_: int) -> Binary:
    with Elf.open(path) as file:
        if file.kind not in ("exec", "dyn"):
            raise NoProgramError("probe", path, "it is no program and no shared library")
        own = os.uname().machine
        if file.machine and file.machine not in (own, NARROW.get(own)):
            raise NoProgramError("probe", path, f"it is of {file.machine}, this machine is {own}")
        functions: dict[str, list[Symbol]] = {}
        for symbol in file.symbols():
            if symbol.kind in (*PROBED, "ifunc"):
                functions.setdefault(symbol.name, []).append(symbol)
        return Binary(file, functions, tuple(file.usdt()))


def expand(
    kind: str, pattern: str, pids: Sequence[int] = (), unread: dict[str, str] | None = None
) -> list[Target]:
    """The targets that `file:name` names, sorted; of a static probe one for each form of its arguments.
    `pids`: as in `files`; `unread`: takes those of several files that cannot be read, and why. Raises
    KwireError.
    """
    name, colon, what = file_and_name(pattern)
    if not colon:
        what = "*"
    paths = files(name, pids)
    find = _functions if KINDS[kind].place == "user function" else _marks
    found: list[Target] = []
    for path in paths:
        try:
            found += find(kind, path, binary(path), what, len(paths) > 1)
        except NoProgramError:
            if len(paths) == 1:
                raise
        except ElfError as error:
            if len(paths) == 1:
                raise
            if unread is not None:
                unread[f"{kind}:{in_file(path, what)}"] = error.cause
    if not found:
        noun = "function" if KINDS[kind].place == "user function" else "static probe"
        where = f"in {paths[0]}" if len(paths) == 1 else f"in any of {len(paths)} files"
        raise CatalogError(kind, pattern, f"no {noun} {where} matches")
    return found


def _functions(kind: str, path: str, file: Binary, name: str, several: bool) -> list[Target]:
    if name.startswith(CPP):
        return _in_cpp(kind, path, file, name.removeprefix(CPP), several)
    if WILDCARD.search(name) and name not in file.functions:
        matches = re.compile(as_regex(name) + "$").match
        names = sorted(one for one in file.functions if matches(one))
        chosen = {one: [symbol for symbol in file.functions[one] if symbol.kind == "func"] for one in names}
        return [Target(kind, path, one, len(symbols)) for one, symbols in chosen.items() if symbols]
    if _ADDRESS.fullmatch(name):
        within = _within(file, _address(name)) if KINDS[kind].result else None
        if within is not None:
            # the kernel would take what is on the stack there for the address to return to
            cause = f"a return is probed from the beginning of the function, and this is inside {within.name}"
            raise CatalogError(kind, f"{path}:{name}", cause, cure=f"write {kind}:{path}:{within.name}")
        return [Target(kind, path, name)]
    symbols = [symbol for symbol in file.functions.get(name, ()) if symbol.kind in PROBED]
    if symbols:
        return [Target(kind, path, name, len(symbols))]
    if several:
        return []
    if name in file.functions:
        cause = "the loader chooses among several functions for it when a program starts (IFUNC)"
        near = nearest(name, (one for one in file.functions if one != name and name in one), 3)
        raise CatalogError(kind, f"{path}:{name}", cause, near, "probe the one that is chosen")
    cause = "it has no such function" if file.functions else "it has no symbols"
    cure = "" if file.functions else "give an address, 0x…"
    near = [f"{CPP}{name}"] if _named_in_cpp(file, name) else nearest(name, file.functions, 3)
    raise CatalogError(kind, f"{path}:{name}", cause, near, cure)


def _in_cpp(kind: str, path: str, file: Binary, name: str, several: bool) -> list[Target]:
    """The functions that C++ calls so, whatever their parameters where none are said."""
    from kwire.demangle import can_demangle  # most names are none of C++

    if not can_demangle():
        cause, cure = "pydemumble, which knows names of C++, is missing", "pip install 'kwire[symbols]'"
        raise CatalogError(kind, f"{path}:{CPP}{name}", cause, cure=cure)
    found = _named_in_cpp(file, name)
    if found or several:
        return [Target(kind, path, one, len(symbols)) for one, symbols in sorted(found.items())]
    cause = "it has no such function of C++" if file.functions else "it has no symbols"
    cure = "`nm -C` shows names with their parameters" if file.functions else "give an address, 0x…"
    raise CatalogError(kind, f"{path}:{CPP}{name}", cause, cure=cure)


def _named_in_cpp(file: Binary, name: str) -> dict[str, list[Symbol]]:
    """The functions whose name in C++ this is, by their names in the file. Brackets are no wildcards, as
    there is `operator[]`; blanks do not count, as not all tools put them in the same places.
    """
    from kwire.demangle import demangled

    wanted = "".join({"*": ".*", "?": "."}.get(one) or re.escape(one) for one in "".join(name.split()))
    matches = re.compile(rf"{wanted}(?:\[abi:\w+\])*(?:\(.*)?$").match
    found: dict[str, list[Symbol]] = {}
    places: set[tuple[int, ...]] = set()  # constructors have several names where they are
    for mangled, symbols in sorted(file.functions.items()):
        shown, own = demangled(mangled), [one for one in symbols if one.kind == "func"]
        at = tuple(sorted(one.address for one in own))
        if own and shown != mangled and at not in places and matches("".join(shown.split())):
            found[mangled] = own
            places.add(at)
    return found


def _address(name: str) -> int:
    """The address that is written as one."""
    return int(name, 16 if name[:2] in ("0x", "0X") else 10)


def _within(file: Binary, address: int) -> Symbol | None:
    """The function that an address is inside, behind its beginning; None where none is known."""
    found = None
    for symbols in file.functions.values():
        for one in symbols:
            if one.address == address:
                return None
            if one.address < address < one.address + one.size:
                found = one
    return found


def _marks(kind: str, path: str, file: Binary, name: str, several: bool) -> list[Target]:
    found: dict[tuple[str, str], dict[str, int]] = {}
    for one in file.marks:
        forms = found.setdefault((one.provider, one.name), {})
        forms[one.arguments] = forms.get(one.arguments, 0) + 1
    provider, _, last = name.rpartition(":")
    matches = re.compile(f"{as_regex(provider or '*')}:{as_regex(last)}$").match
    chosen = [pair for pair in sorted(found) if matches(":".join(pair))]
    if not chosen and not several and not WILDCARD.search(name):
        cause = "it has no such static probe" if found else "it has no static probes"
        known = {":".join(pair): pair[1] for pair in found}
        near = nearest(name, known, 3)
        if not near and not provider:  # by its own name
            own = nearest(name, known.values(), 3)
            near = [full for full, last in known.items() if last in own][:3]
        raise CatalogError(kind, f"{path}:{name}", cause, near)
    return [
        Target(kind, path, ":".join(pair), copies, form)
        for pair in chosen
        for form, copies in sorted(found[pair].items())
    ]


def places(target: Target, offset: int = 0) -> tuple[FilePlace, ...]:
    """Where a target is. Raises KwireError."""
    file, name = binary(target.group), target.name
    if KINDS[target.kind].place == "user mark":
        provider, _, last = name.partition(":")
        return tuple(
            file.place(target.group, one.address, one.semaphore)
            for one in file.marks
            if (one.provider, one.name, one.arguments) == (provider, last, target.form)
        )
    symbols = [one for one in file.functions.get(name, ()) if one.kind in PROBED]
    if not symbols:
        address = _address(name) + offset
        within = _within(file, address)
        if within is not None:
            check(file.file, target.group, within, address)
        return (file.place(target.group, address),)
    for one in symbols:
        if offset and offset >= one.size:
            cause = f"{name} has {one.size} bytes" if one.size else f"the length of {name} is not known"
            raise KwireError("probe", f"{target.group}:{name}+{offset}", cause, "give an offset within it")
        if offset:
            check(file.file, target.group, one, one.address + offset)
    return tuple(dict.fromkeys(file.place(target.group, one.address + offset) for one in symbols))
