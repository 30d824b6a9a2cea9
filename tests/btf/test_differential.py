"""The whole BTF of the running kernel, type by type, against bpftool's reading of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from typing import Any

import pytest
from waiting import PATIENCE

from kwire.btf import types as t
from kwire.btf.blob import Btf
from kwire.btf.cformat import declare
from kwire.btf.store import SYSFS, Kernel, load_kernel

VMLINUX = f"{SYSFS}/vmlinux"

pytestmark = [
    pytest.mark.skipif(not os.path.exists(VMLINUX), reason="this kernel has no BTF"),
    pytest.mark.skipif(not shutil.which("bpftool"), reason="bpftool is not installed"),
]


@pytest.fixture(scope="module")
def btf() -> Btf:
    return load_kernel("", VMLINUX).vmlinux


def bpftool(*arguments: str) -> str:
    command = ["bpftool", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE).stdout


LINKAGE = ("static", "global", "extern")


def as_bpftool(btf: Btf, id: int) -> dict[str, object]:
    """A type in the form of `bpftool -j btf dump`."""

    def name(text: str) -> str:
        return text or "(anon)"

    found = btf.type(id)
    out: dict[str, object] = {"id": id, "kind": t.Kind(btf.kind(id)).name, "name": name(found.name)}
    match found:
        case t.Int():
            encodings = {"SIGNED": found.signed, "CHAR": found.char, "BOOL": found.boolean}
            encoding = next((text for text, there in encodings.items() if there), "(none)")
            out |= {"size": found.size, "bits_offset": found.offset_bits, "nr_bits": found.bits}
            out["encoding"] = encoding
        case t.Array():
            out |= {"type_id": found.type, "index_type_id": found.index_type, "nr_elems": found.length}
        case t.Struct():
            members = []
            for member in found.members:
                each: dict[str, object] = {"name": name(member.name), "type_id": member.type}
                each["bits_offset"] = member.offset_bits
                if member.bits:
                    each["bitfield_size"] = member.bits
                members.append(each)
            out |= {"size": found.size, "vlen": len(members), "members": members}
        case t.Enum() | t.Enum64():
            values = [{"name": text, "val": value} for text, value in found.values]
            out["encoding"] = "SIGNED" if found.signed else "UNSIGNED"
            out |= {"size": found.size, "vlen": len(values), "values": values}
        case t.Fwd():
            out["fwd_kind"] = "union" if found.union else "struct"
        case t.Func() | t.Var():
            out |= {"type_id": found.type, "linkage": LINKAGE[found.linkage]}
        case t.FuncProto():
            params = [{"name": name(param.name), "type_id": param.type} for param in found.params]
            if found.variadic:
                params.append({"name": "(anon)", "type_id": 0})
            out |= {"ret_type_id": found.ret, "vlen": len(params), "params": params}
        case t.Datasec():
            variables = [{"type_id": v.type, "offset": v.offset, "size": v.size} for v in found.variables]
            out |= {"size": found.size, "vlen": len(variables), "vars": variables}
        case t.Float():
            out["size"] = found.size
        case t.DeclTag():
            out |= {"type_id": found.type, "component_idx": found.component}
        case t.Reference():
            out["type_id"] = found.type
    return out


@pytest.mark.native
def test_every_type(btf: Btf) -> None:
    theirs = json.loads(bpftool("-j", "btf", "dump", "file", VMLINUX))["types"]
    assert len(theirs) == btf.end_id - 1
    compare(btf, theirs)


def compare(btf: Btf, theirs: list[dict[str, Any]]) -> None:
    for their in theirs:
        if (their["kind"], their.get("encoding")) == ("ENUM", "UNSIGNED"):
            for value in their["values"]:
                value["val"] &= 0xFFFFFFFF  # bpftool extends the sign of unsigned values, too
        assert as_bpftool(btf, their["id"]) == their


@pytest.mark.needs("module")
def test_the_types_of_a_module() -> None:
    kernel = Kernel(VMLINUX, SYSFS, "")
    assert kernel.modules()
    name = min(kernel.modules(), key=lambda each: os.stat(f"{SYSFS}/{each}").st_size)
    text = bpftool("-j", "-B", VMLINUX, "btf", "dump", "file", f"{SYSFS}/{name}")
    theirs = [their for their in json.loads(text)["types"] if their["id"] >= kernel.vmlinux.end_id]
    btf = kernel.module(name)
    assert len(theirs) == btf.end_id - btf.first_id > 0
    compare(btf, theirs)


def plain(text: str) -> str:
    """C without what the two write differently: comments, padding, attributes, white space, number forms."""
    text = re.sub(r"/\*.*?\*/", "", text)
    text = re.sub(r"(?m)^\s*(?:(?:unsigned|long|int|short|char) ?)+: \d+;$", "", text)
    text = text.replace("__attribute__((packed))", "").replace("[0]", "[]")
    text = re.sub(r"___\d+\b", "", text)
    text = re.sub(r"\b(\d+)U?L{0,2}\b", r"\1", text)
    text = re.sub(r"0x[0-9a-f]+", lambda match: str(int(match[0], 16)), text)
    return re.sub(r"\s+", "", text).replace(",}", "}")


@pytest.mark.native
def test_every_structure_and_enumeration_as_c(btf: Btf) -> None:
    kinds = {"struct": (t.Kind.STRUCT,), "union": (t.Kind.UNION,), "enum": (t.Kind.ENUM, t.Kind.ENUM64)}
    text = bpftool("btf", "dump", "file", VMLINUX, "format", "c")
    named: dict[tuple[int, str], list[int]] = {}
    for id in range(1, btf.end_id):
        named.setdefault((btf.kind(id), btf.type(id).name), []).append(id)
    compared = 0
    for match in re.finditer(r"(?ms)^(struct|union|enum) (\w+) (?:\{\}|\{\n.*?^\})[^\n;]*;", text):
        ids = [id for kind in kinds[match[1]] for id in named.get((kind, match[2]), [])]
        if len(ids) == 1:  # of several with one name bpftool writes one
            assert plain(declare(btf, ids[0])) == plain(match[0]), match[2]
            compared += 1
    assert compared > 1000
