"""Files in TOML: what stands in one, or at its place, is one line and no wait, for each who reads them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kwire import toml
from kwire.agent import map_metrics, policy
from kwire.errors import KwireError
from kwire.transport import hosts, tls

READERS: dict[str, Callable[[str], Any]] = {
    "configuration": lambda path: toml.read(path, "read configuration"),
    "policy": policy.load,
    "hosts": hosts.load,
    "metrics": map_metrics.load,
}
WRONG = {
    "it is not in utf-8": b"\n\xff = 1\n",
    "it is no toml: exceeds the limit": b"a = 1" + b"0" * 5000,
    "it is no toml: maximum recursion depth exceeded": b"a = " + b"[" * 5000,
    "it is no toml: invalid value": b"a = \n",
    "it is larger than a megabyte": b"#" * (toml.MOST + 1),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("cause", WRONG)
def test_what_stands_in_it(name: str, cause: str, tmp_path: Path) -> None:
    path = tmp_path / "file.toml"
    path.write_bytes(WRONG[cause])
    with pytest.raises(KwireError) as caught:
        READERS[name](str(path))
    assert cause in str(caught.value).lower()
    assert f"{path}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", READERS)
def test_what_stands_at_its_place(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, cause in [
        (tmp_path / "fifo", "it is not a file"),
        ("/dev/zero", "it is not a file"),
        (tmp_path, "is a directory"),
        (tmp_path / "none", "no such file"),
        (f"{tmp_path}/a\0b", "embedded null byte"),
    ]:
        with pytest.raises(KwireError, match=cause):
            READERS[name](str(path))


def test_a_certificate_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    fifo = str(tmp_path / "fifo")
    with pytest.raises(KwireError, match="it is not a file"):
        tls.client_context(tls.TlsOptions(fifo, fifo, fifo))
