"""The runner of guests: what goes in comes out, nothing of it stays, modules are loaded in order."""

from __future__ import annotations

import io
import lzma
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from initramfs import GuestError, cpio, depends, loading_order, module_name
from kernels import Kernel, fetch
from run import FAILED, TIMED_OUT, GuestDeathError, HangError, Progress, Watch, run, tools
from traces import descendants

RUNNER = Path(__file__).with_name("run.py")


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    try:
        tools()
        return fetch("6.12")
    except GuestError as error:
        pytest.skip(str(error))


def test_output_status_and_share_come_out_and_nothing_else(kernel: Kernel, tmp_path: Path) -> None:
    output = io.BytesIO()
    mark = Path(__file__).with_name("written-by-a-guest")
    script = f'echo "$WORD"; test -t 1 && echo terminal; pwd; id -u; touch {mark} "$VM_SHARE/back"; exit 7'
    status = run(
        kernel,
        ["sh", "-c", script],
        share=tmp_path,
        environment={"WORD": "two words"},
        cwd="/usr",
        output=output,
    )
    assert (status, output.getvalue()) == (7, b"two words\n/usr\n0\n")
    assert (tmp_path / "back").exists()
    assert not mark.exists()


def test_the_clock_of_a_guest_is_the_one_that_it_is_given(kernel: Kernel) -> None:
    """Else its kernel looks for it, and finds a wrong one where the machine is busy."""
    output = io.BytesIO()
    assert run(kernel, ["dmesg"], output=output) == 0
    text = output.getvalue().decode()
    (given, *_) = re.findall(r"tsc_early_khz=(\d+)", text)
    assert re.findall(r"tsc: Detected (\d+)\.(\d+) MHz", text)[-1] == (given[:-3], given[-3:])


def test_any_image_with_its_modules_and_a_signal(kernel: Kernel) -> None:
    other = fetch("6.1")
    assert other.modules is not None
    command = [sys.executable, str(RUNNER), "--image", str(other.image), "--modules", str(other.modules)]
    script = "uname -r; modprobe dummy && ls /sys/kernel/btf/dummy; ls /sys/kernel/tracing; kill -9 $$"
    done = subprocess.run([*command, "--", "sh", "-c", script], capture_output=True, text=True)
    assert done.stdout == f"{other.modules.name}\n/sys/kernel/btf/dummy\n", done.stderr
    assert done.returncode == 128 + 9


def test_a_guest_that_takes_too_long_is_ended_with_all_its_processes(kernel: Kernel) -> None:
    before = set(descendants())
    assert run(kernel, ["sleep", "1000"], timeout=2, output=io.BytesIO()) == TIMED_OUT
    assert set(descendants()) <= before


def test_a_kernel_that_dies_is_an_error_with_its_log(kernel: Kernel, tmp_path: Path) -> None:
    with pytest.raises(GuestDeathError, match="sysrq triggered crash"):
        run(kernel, ["sh", "-c", "echo c >/proc/sysrq-trigger"], share=tmp_path, output=io.BytesIO())
    assert (tmp_path / "began").exists()


def test_a_guest_that_hangs_is_given_up_and_its_log_says_where(kernel: Kernel, tmp_path: Path) -> None:
    progress = Progress(tmp_path / "began", busy=5, idle=1000)
    with pytest.raises(GuestDeathError, match=r"no progress in [5-9] s of processor time") as caught:
        run(
            kernel,
            ["sh", "-c", "while :; do :; done"],
            share=tmp_path,
            output=io.BytesIO(),
            progress=progress,
        )
    assert "Comm: sh" in str(caught.value)  # what hung
    assert "cpu 1" in str(caught.value)  # and where the other processor was


def test_a_guest_that_does_nothing_is_given_up_too(tmp_path: Path) -> None:
    file = tmp_path / "report"
    watch = Watch(os.getpid(), Progress(file, busy=1000, idle=0))
    watch.check()
    file.write_text("a line")
    watch.check()
    with pytest.raises(HangError, match="no progress in 0 s"):
        watch.check()


def test_a_kernel_that_dies_while_it_boots_is_booted_again(
    kernel: Kernel, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("run.BOOTS", 2)
    with pytest.raises(GuestDeathError, match="Kernel panic"):
        run(kernel, ["true"], parameters="rdinit=/none", output=io.BytesIO())
    assert capfd.readouterr().err.count("booted again") == 1


def test_a_file_that_is_no_kernel_is_one_clear_error(kernel: Kernel) -> None:
    command = [sys.executable, str(RUNNER), "--image", "/bin/true", "--", "true"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == FAILED
    assert "run.py: " in done.stderr
    assert "Traceback" not in done.stderr


def module(name: str, needs: str = "") -> bytes:
    return b"\x7fELF...\0license=GPL\0depends=" + needs.encode() + b"\0name=" + name.encode() + b"\0"


def test_modules_are_loaded_after_what_they_need(tmp_path: Path) -> None:
    images = {"top.ko": module("top", "left-one,right"), "left_one.ko": module("left_one", "base")}
    images |= {
        "right.ko": module("right", "base,builtin"),
        "base.ko.xz": module("base"),
        "other.ko": module("other"),
    }
    for name, image in images.items():
        (tmp_path / name).write_bytes(lzma.compress(image) if name.endswith(".xz") else image)
    (tmp_path / "modules.builtin").write_text("kernel/fs/builtin.ko\n")
    order = loading_order(tmp_path, ("top", "builtin"))
    assert [name for name, _ in order] == ["base", "left_one", "right", "top"]
    assert order[0][1] == images["base.ko.xz"]
    with pytest.raises(GuestError, match="no module absent"):
        loading_order(tmp_path, ("absent",))


def test_module_names_and_dependencies() -> None:
    assert module_name(Path("drivers/virtio-rng.ko.xz")) == "virtio_rng"
    assert depends(module("alone")) == []
    assert depends(b"no module at all") == []


def test_the_archive_is_what_the_format_says() -> None:
    archive = b"".join(cpio([("dev", 0o040755, b""), ("init", 0o100755, b"12345")]))
    assert len(archive) % 4 == 0
    first = (
        b"070701" + b"00000001" + b"000041ed" + b"00000000" * 2 + b"00000001" + b"00000000" * 6 + b"00000004"
    )
    assert archive.startswith(first + b"00000000" + b"dev\0")
    second = archive.index(b"070701", 6)
    assert archive[second + 54 : second + 62] == b"00000005"
    assert archive[second + 110 :].startswith(b"init\0" + b"\0" + b"12345" + b"\0\0\0" + b"070701")
    assert archive.rstrip(b"\0").endswith(b"TRAILER!!!")
