"""kwire as an interface: its answers to Wireshark, and a capture by tshark of a process of the test's own."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from waiting import PATIENCE

from kwire.cli import extcap
from kwire.wireshark import install

SENTENCE = re.compile(r"(extcap|interface|dlt|arg|value) (\{[a-z]+=[^{}]*\})+")


def answer(*words: str) -> list[str]:
    command = [sys.executable, "-m", "kwire.cli.extcap", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert all(SENTENCE.fullmatch(line) for line in lines), lines
    return lines


def test_interfaces_and_link_types() -> None:
    lines = answer("--extcap-interfaces", "--extcap-version=4.0", "--something-newer")
    assert lines[1] == "interface {value=kwire}{display=kwire: kernel events}"
    assert answer("--extcap-interface", "kwire", "--extcap-dlts") == [
        "dlt {number=147}{name=USER0}{display=kwire frames}"
    ]


def test_the_dialog_has_every_option_that_a_capture_takes() -> None:
    lines = answer("--extcap-config", "--extcap-interface", "kwire")
    calls = [match[1] for line in lines if (match := re.search(r"\{call=--(\w+)\}", line))]
    assert [name for name in calls if name != "probes"] == ["spec", "filter", "command", "pid", "buffer"]


@pytest.mark.live
def test_the_dialog_offers_the_tracepoints_of_this_kernel() -> None:
    lines = answer("--extcap-config", "--extcap-interface", "kwire")
    assert any(
        "{value=tracepoint:sched:sched_switch}{display=sched_switch}{parent=sched}" in line for line in lines
    )


@pytest.mark.parametrize(
    ("chosen", "arguments"),
    [
        ({"spec": "kprobe:f(a, b)  fexit:g"}, ["kprobe:f(a, b)", "fexit:g"]),
        ({"probes": "sched,tracepoint:sched:sched_switch"}, ["tracepoint:sched:sched_switch"]),
        (
            {"spec": "kprobe:f", "filter": "uid == 0", "command": "ls -l", "pid": "1,2", "buffer": "1M"},
            ["kprobe:f", "--filter", "uid == 0", "-c", "ls -l", "-p", "1,2", "--buffer", "1M"],
        ),
    ],
)
def test_what_was_chosen_is_a_command_line_of_record(chosen: dict[str, str], arguments: list[str]) -> None:
    empty = dict.fromkeys(("probes", "spec", "filter", "command", "pid", "buffer"), "")
    assert extcap.record_arguments(argparse.Namespace(**{**empty, **chosen})) == [*arguments, "-w", "-"]


def test_mistakes_are_said_in_a_line(tmp_path: Path) -> None:
    for words, why in (
        (["--capture"], "--fifo"),
        (["--capture", "--fifo", "x"], "choose probes"),
        (["--capture", "--fifo", str(tmp_path / "none" / "fifo"), "--spec", "kprobe:f"], "No such file"),
        ([], "run by Wireshark"),
    ):
        command = [sys.executable, "-m", "kwire.cli.extcap", *words]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode > 0
        assert why in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.live
@pytest.mark.native
def test_tshark_captures_from_the_interface(wireshark: Any, tmp_path: Path) -> None:
    from kwire.wireshark.folders import folders

    where = folders().extcap
    assert where is not None
    place = where / install.EXTCAP
    mine = not place.exists()
    if mine:
        place.write_text(install.extcap_script())
        place.chmod(0o755)
    try:
        assert re.search(r"^\d+\. kwire \(kwire: kernel events\)$", wireshark.run("-D"), re.MULTILINE)
        path = tmp_path / "live.pcapng"
        options = {
            "spec": "tracepoint:sched:sched_process_exec",
            "command": "sh -c 'for i in 1 2 3; do /bin/true; done; exec sleep 60'",
        }
        words = [word for name, value in options.items() for word in ("-o", f"extcap.kwire.{name}:{value}")]
        done = subprocess.run(
            ["tshark", "-i", "kwire", "-a", "packets:6", *words, "-w", str(path)],
            env=wireshark.environment, capture_output=True, text=True, timeout=PATIENCE,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        shown = wireshark.packets(path)
        # in order of time for each CPU only, and they may have run on several
        assert sorted(item.show for packet in shown for item in packet.fields("kwire.comm")) == [
            "sh", "sleep", "true", "true", "true",
        ]  # fmt: skip
    finally:
        if mine:
            place.unlink()


def test_the_script_that_wireshark_runs_names_this_python(tmp_path: Path) -> None:
    path = tmp_path / "kwire"
    path.write_text(install.extcap_script())
    path.chmod(0o755)
    done = subprocess.run([path, "--extcap-interfaces"], capture_output=True, text=True)
    assert "{value=kwire}" in done.stdout
