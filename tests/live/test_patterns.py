"""Conditions on texts in the kernel: every pattern, on texts of user memory, kernel memory and records."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import subprocess
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

import kwire

pytestmark = [pytest.mark.live, pytest.mark.kernels("6.1")]  # the oldest verifier; the newest one judges here

LIMIT = 256  # of a text, in bytes, where nothing else is said
NAMES = ("a", "aab", "aaab", "xaabb", "liba.so", "liba.so.1", "a.conf", "ü.so", "z" * 200, "9")
CONDITIONS: dict[str, Callable[[str], bool]] = {
    '{}.startswith("/")': lambda text: text.startswith("/"),
    '{}.endswith("b")': lambda text: text.endswith("b"),
    '{}.endswith((".so", ".conf"))': lambda text: text.endswith((".so", ".conf")),
    'not {}.endswith("zzzzzzzzzzzz")': lambda text: not text.endswith("zzzzzzzzzzzz"),
    '"aab" in {}': lambda text: "aab" in text,
    '"/aab" not in {}': lambda text: "/aab" not in text,
    '{} ~ "*/lib*.so.[0-9]"': lambda text: fnmatch.fnmatchcase(text, "*/lib*.so.[0-9]"),
    '{} ~ "*[!a-z]"': lambda text: fnmatch.fnmatchcase(text, "*[!a-z]"),
    'glob({}, "/*/?aab*")': lambda text: fnmatch.fnmatchcase(text, "/*/?aab*"),
    '{} ~ "*a*b*b"': lambda text: fnmatch.fnmatchcase(text, "*a*b*b"),
    '{} ~ "*.so" and not "lib" in {}': lambda text: text.endswith(".so") and "lib" not in text,
    '{} in ("FOLDER/a", "FOLDER/9")': lambda text: text.endswith(("/a", "/9")),
    '{} == "FOLDER/aab"': lambda text: text.endswith("/aab"),
}


def chosen(spec: str, text: str, folder: Path, work: Callable[[], object]) -> dict[str, set[str]]:
    """The texts of the events of each condition, all being traced at once."""
    conditions = [condition.format(text, text).replace("FOLDER", str(folder)) for condition in CONDITIONS]
    specs = [
        f"{spec}(text={text}, number={number}){{{condition}}}" for number, condition in enumerate(conditions)
    ]
    found = told(specs, work)
    return {
        condition: {text for text in found[number] if str(folder) in text}
        for number, condition in enumerate(CONDITIONS)
    }


def told(specs: list[str], work: Callable[[], object], field: str = "text") -> dict[int, set[str]]:
    """The texts of events by their number."""
    found: dict[int, set[str]] = defaultdict(set)
    with kwire.trace(*specs, pid=os.getpid()) as events:
        work()
    for event in events:
        found[event.number].add(event[field])
    assert events.lost == 0
    return found


def expected(paths: list[Path]) -> dict[str, set[str]]:
    texts = [os.fsencode(path)[:LIMIT].decode("utf-8", "replace") for path in paths]
    return {condition: set(filter(holds, texts)) for condition, holds in CONDITIONS.items()}


def test_texts_of_user_memory(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in (*NAMES, "long/" * 60 + "aab")]

    def work() -> None:
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                os.close(os.open(path, os.O_RDONLY))

    seen = chosen("tracepoint:syscalls:sys_enter_openat", "str(filename)", tmp_path, work)
    assert seen == expected(paths)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("tracepoint:sched:sched_process_exec", "filename"),
        ("rawtracepoint:sched_process_exec", "str(bprm.filename)"),
    ],
    ids=["a record", "kernel memory"],
)
def test_texts_of_the_kernel(spec: str, text: str, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in NAMES]
    for path in paths:
        path.symlink_to("/bin/true")

    def work() -> None:
        for path in paths:
            subprocess.run([path], check=True)

    assert chosen(spec, text, tmp_path, work) == expected(paths)


def test_names_of_threads() -> None:
    """comm has at most 15 bytes, and its own way to be read."""
    conditions = {text: holds for text, holds in CONDITIONS.items() if "FOLDER" not in text}
    specs = [
        f"tracepoint:syscalls:sys_enter_getppid(number={number}){{{text.format('comm', 'comm')}}}"
        for number, text in enumerate(conditions)
    ]
    names = ["/aab", "aaab", "libx.so", "a.conf", "/x/lib.so.1", "z" * 15, "9", "a-b-b"]
    own = Path("/proc/self/comm").read_text()

    def work() -> None:
        for name in names:
            Path("/proc/self/comm").write_text(name)
            os.getppid()
        Path("/proc/self/comm").write_text(own)

    found = told(specs, work, "comm")
    assert {text: found[number] for number, text in enumerate(conditions)} == {
        text: set(filter(holds, names)) for text, holds in conditions.items()
    }
