"""BTF is found in files, ELF files and directories, and offset tables are kept, checked and replaced."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kwire.btf import cache, source, store
from kwire.btf.blob import Btf
from kwire.btf.errors import BtfError, BtfLookupError
from kwire.btf.members import locate
from kwire.btf.types import Kind


@pytest.fixture
def kernel(new_btf: Callable[..., Any], tmp_path: Path) -> Path:
    """A directory like /sys/kernel/btf with two modules."""
    base = new_btf()
    base.integer("int", 4, True)
    base.func("tcp_connect", base.proto(1, [("sk", 1)]))
    base.func("both", base.proto(1, []))
    home = tmp_path / "btf"
    home.mkdir()
    (home / "vmlinux").write_bytes(base.blob())
    for name in ("first_mod", "second"):
        module = new_btf(base=base)
        module.func(f"{name}_init", module.proto(1, [(name, 1)]))
        module.func("both", module.proto(1, [(name, 1)]))
        (home / name).write_bytes(module.blob())
    return home


def test_functions_of_kernel_and_modules(kernel: Path) -> None:
    btf = store.load_kernel("", str(kernel))
    assert btf.modules() == ["first_mod", "second"]
    assert btf.func("tcp_connect")[:2] == ("tcp_connect", "")
    found = btf.func("second_init")
    assert (found.module, found.proto.params[0].name, found.btf) == ("second", "second", btf.module("second"))
    assert btf.func("both").proto.params == ()
    assert btf.func("both", "second").proto.params[0].name == "second"
    assert btf.func("first_mod_init", "first-mod").module == "first_mod"
    assert btf.module("vmlinux") is btf.module("") is btf.vmlinux
    assert set(btf.functions("second")) == {"second_init", "both"}
    with pytest.raises(BtfLookupError, match="there is no function tcp_connect in module second"):
        btf.func("tcp_connect", "second")
    with pytest.raises(BtfLookupError, match="no function tcp_conect; did you mean tcp_connect"):
        btf.func("tcp_conect")
    with pytest.raises(BtfLookupError, match="no module third with BTF; load it first"):
        btf.module("third")


def test_the_environment_names_a_file(kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KWIRE_BTF", str(kernel / "vmlinux"))
    btf = store.load_kernel("")
    assert btf.func("tcp_connect").module == ""
    assert btf.modules() == []
    monkeypatch.setenv("KWIRE_BTF", str(kernel / "nothing"))
    with pytest.raises(BtfError, match="nothing: No such file"):
        store.load_kernel("")


def test_without_sysfs_an_elf_file_is_looked_for(
    kernel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KWIRE_BTF", raising=False)
    monkeypatch.setattr(store, "SYSFS", str(tmp_path / "absent"))
    monkeypatch.setattr(store, "VMLINUX", (str(tmp_path / "a-{release}"), str(tmp_path / "b-{release}")))
    with pytest.raises(BtfError, match="CONFIG_DEBUG_INFO_BTF") as info:
        store.load_kernel("")
    assert f"b-{os.uname().release}" in str(info.value)
    (tmp_path / f"b-{os.uname().release}").write_bytes(elf((kernel / "vmlinux").read_bytes(), 8, "<"))
    assert store.load_kernel("").func("tcp_connect").name == "tcp_connect"


def elf(content: bytes, word: int, order: str) -> bytes:
    """An ELF file with sections "", .BTF and .shstrtab."""
    names = b"\0.BTF.ext\0.BTF\0.shstrtab\0"
    header, entry = (64, 64) if word == 8 else (52, 40)
    layout = order + ("IIQQQQIIQQ" if word == 8 else "10I")
    starts = (0, header, header, header + len(content))
    sizes = (0, 0, len(content), len(names))
    sections = b"".join(
        struct.pack(layout, name, 1, 0, 0, start, size, 0, 0, 1, 0)
        for name, start, size in zip((0, 1, 10, 15), starts, sizes, strict=True)
    )
    ident = b"\x7fELF" + bytes((word // 4, 1 if order == "<" else 2, 1)) + bytes(9)
    table = header + len(content) + len(names)
    rest = struct.pack(
        order + ("HHIQQQIHHHHHH" if word == 8 else "HHIIIIIHHHHHH"),
        *(1, 62, 1, 0, 0, table, 0, header, 0, 0, entry, 4, 3),
    )
    return ident + rest + content + names + sections


@pytest.mark.parametrize("word", [4, 8])
@pytest.mark.parametrize("order", ["<", ">"])
def test_elf_files(new_btf: Callable[..., Any], tmp_path: Path, word: int, order: str) -> None:
    b = new_btf(order)
    b.integer("int", 4)
    path = tmp_path / "vmlinux"
    whole = elf(b.blob(), word, order)
    path.write_bytes(whole)
    assert store.open_btf(str(path), cache_dir="").find("int", Kind.INT) == 1
    path.write_bytes(whole.replace(b"\0.BTF\0", b"\0.BTX\0"))
    with pytest.raises(BtfError, match=r"without a \.BTF section"):
        store.open_btf(str(path), cache_dir="")
    for cut in range(4, len(whole) - 40, 7):
        path.write_bytes(whole[:cut])
        with pytest.raises(BtfError):
            store.open_btf(str(path), cache_dir="")


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(BtfError, match="0 bytes"):
        source.read_file(str(tmp_path / "empty"), "it")
    with pytest.raises(BtfError, match="No such file"):
        source.read_file(str(tmp_path / "absent"), "it")
    with pytest.raises(BtfError):
        source.read_file(str(tmp_path), "it")


def test_a_file_that_cannot_be_mapped_is_read(kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(19, "No such device")

    class Mmap:
        mmap = staticmethod(refuse)
        MAP_PRIVATE = PROT_READ = 0

    monkeypatch.setattr(source, "mmap", Mmap)
    data = source.read_file(str(kernel / "vmlinux"), "it")
    assert data == (kernel / "vmlinux").read_bytes()


@pytest.fixture
def big(new_btf: Callable[..., Any], tmp_path: Path) -> Path:
    """A blob that is worth a cached table."""
    b = new_btf()
    b.integer("int", 4)
    for number in range(20_000):
        b.types += struct.pack("<4I", 0, 1 << 24, 4, number & 0xFF)
    b.next_id += 20_000
    b.integer("last", 4)
    path = tmp_path / "big"
    path.write_bytes(b.blob())
    return path


def tables(directory: Path) -> list[Path]:
    return sorted(directory.glob("*")) if directory.exists() else []


def test_the_table_is_kept_and_used(big: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "deep" / "cache"
    first = store.open_btf(str(big), cache_dir=str(home))
    (path,) = tables(home)
    assert path.stat().st_size == 32 - 4 + 8 * 20_002

    def unexpected(*_: object) -> None:
        raise AssertionError("walked again")

    monkeypatch.setattr("kwire.btf.blob.build_table", unexpected)
    again = store.open_btf(str(big), cache_dir=str(home))
    assert again.find("last") == first.find("last") == 20_002
    assert again.type(20_002) == first.type(20_002)
    assert list(again.table.offsets) == list(first.table.offsets)
    assert list(again.table.by_name) == list(first.table.by_name)


@pytest.mark.parametrize("at", [0, 8, 12, 16, 20, 24, 28, 5000, -1])
def test_a_damaged_table_is_replaced(big: Path, tmp_path: Path, at: int) -> None:
    home = tmp_path / "cache"
    store.open_btf(str(big), cache_dir=str(home))
    (path,) = tables(home)
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[at] ^= 0x40
    for content in (bytes(damaged), whole[:at], b"", whole + b"\0\0\0\0"):
        path.write_bytes(content)
        assert store.open_btf(str(big), cache_dir=str(home)).find("last") == 20_002
        assert path.read_bytes() == whole
    assert tables(home) == [path]


def test_another_blob_has_another_table(big: Path, tmp_path: Path) -> None:
    home = tmp_path / "cache"
    store.open_btf(str(big), cache_dir=str(home))
    data = bytearray(big.read_bytes())
    data[24:40] = struct.pack("<4I", 0, 2 << 24, 0, 0)  # a pointer takes 12 bytes, so that 4 are left over
    other = tmp_path / "other"
    other.write_bytes(data)
    with pytest.raises(BtfError):
        store.open_btf(str(other), cache_dir=str(home)).type(20_002)
    assert len(tables(home)) == 1


def test_a_directory_that_cannot_be_used_does_not_matter(big: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for home in ("", str(tmp_path / "file"), str(tmp_path / "file" / "below"), "/proc/self/nothing"):
        assert store.open_btf(str(big), cache_dir=home).find("last") == 20_002


def test_a_table_of_somebody_else_is_not_believed(
    big: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "cache"
    btf = store.open_btf(str(big), cache_dir=str(home))
    data = big.read_bytes()
    assert cache.load_table(str(home), data) is not None
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert cache.load_table(str(home), data) is None
    assert btf.find("last")


def test_few_tables_are_kept(big: Path, tmp_path: Path) -> None:
    home = tmp_path / "cache"
    home.mkdir()
    for number in range(20):
        old = home / f"btf-{number}.table"
        old.write_bytes(b"")
        os.utime(old, (number, number))
    (home / "something else").write_bytes(b"")
    store.open_btf(str(big), cache_dir=str(home))
    names = [path.name for path in tables(home)]
    assert len(names) == 9
    assert "something else" in names
    assert "btf-19.table" in names
    assert "btf-12.table" not in names


@pytest.mark.parametrize(
    ("environment", "uid", "expected"),
    [
        ({"XDG_CACHE_HOME": "/x", "HOME": "/h"}, 0, "/x/kwire"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/h"}, 5, "/h/.cache/kwire"),
        ({"HOME": "/h"}, 5, "/h/.cache/kwire"),
        ({"HOME": "/h"}, 0, "/var/cache/kwire"),
        ({}, 5, ""),
    ],
)
def test_where_tables_are_kept(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], uid: int, expected: str
) -> None:
    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert cache.cache_directory() == expected


@pytest.mark.skipif(not os.path.exists("/sys/kernel/btf/vmlinux"), reason="this kernel has no BTF")
def test_the_running_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KWIRE_BTF", raising=False)
    for _ in range(2):  # walked, then from the kept table
        btf = store.load_kernel(str(tmp_path)).vmlinux
        task = btf.find("task_struct", Kind.STRUCT)
        assert btf.sizeof(locate(btf, task, "comm").type_id) == 16
        assert locate(btf, task, "comm[3]").offset_bits == locate(btf, task, "comm").offset_bits + 24
        assert btf.func("do_exit").params[0].name == "code"
        assert isinstance(btf, Btf)
