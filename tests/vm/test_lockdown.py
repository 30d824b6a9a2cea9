"""Real lockdown, of a kernel booted with it: what still works, and what people are told of the rest."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from initramfs import GuestError
from kernels import PACKAGES, fetch
from run import run, tools

EVENT, RAW, READING = "tracepoint:sched:sched_process_exec", "rawtracepoint:sys_enter(pid)", "kprobe:vfs_read"

SCRIPT = """
import contextlib, io, json, os, subprocess, sys
subprocess.run(["mount", "-t", "securityfs", "none", "/sys/kernel/security"], check=True)
subprocess.run(["mount", "-t", "tracefs", "none", "/sys/kernel/tracing"], check=True)
from kwire.cli.main import main

def told(words):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        os._exit(main(words))
    os.close(writer)
    with open(reader) as file:
        text = file.read()
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text]

answers = {words: told(words.split()) for words in json.loads(sys.argv[1])}
with open(os.environ["VM_SHARE"] + "/answers", "w") as file:
    json.dump(answers, file)
"""


def answers(kernel: str, mode: str, path: Path, *commands: str) -> dict[str, Any]:
    """The exit status and the words of each command in a guest under lockdown."""
    try:
        tools()
        image = fetch(kernel)
    except GuestError as error:
        pytest.skip(str(error))
    output = io.BytesIO()
    command = [sys.executable, "-c", SCRIPT, json.dumps(commands)]
    status = run(image, command, share=path, parameters=f"lockdown={mode}", output=output, timeout=1200)
    assert status == 0, output.getvalue().decode()
    told: dict[str, Any] = json.loads((path / "answers").read_text())
    return told


def record(*words: str) -> str:
    return " ".join(("record", *words, "-w", "/tmp/x.pcapng"))


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("kernel", PACKAGES)
def test_confidentiality(kernel: str, tmp_path: Path) -> None:
    refused = [record(probe, "-c", "true") for probe in (EVENT, "rawtracepoint:sys_enter(pid)", READING)]
    works, doctor = record(RAW, "-n", "5", "-d", "60"), "doctor --json"
    told = answers(kernel, "confidentiality", tmp_path, *refused, works, doctor)
    for command in refused:
        status, text = told[command]
        assert status == 1, text
        [line] = text.splitlines()
        assert "locked down (confidentiality)" in line
        assert line.endswith("boot with lockdown=integrity or none")
    assert told[works][0] == 0, told[works][1]
    assert "5 events" in told[works][1]
    rows = {row["name"]: row for row in json.loads(told[doctor][1])["checks"]}
    for name in ("helpers_rawtracepoint", "tracefs", "tracepoint", "kprobe", "lockdown"):
        row = rows[name]
        assert row["answer"] == "no"
        assert "lockdown=integrity" in row["cure"], row
    assert rows["rawtracepoint"]["answer"] == "yes"


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("kernel", PACKAGES)
def test_integrity_takes_nothing(kernel: str, tmp_path: Path) -> None:
    commands = [record(probe, "-c", "true") for probe in (EVENT, READING)]
    told = answers(kernel, "integrity", tmp_path, *commands)
    for command in commands:
        status, text = told[command]
        assert status == 0, text
        assert "none lost" in text
