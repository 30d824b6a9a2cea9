"""tracefs, mounted or not: found without changing anything that others see."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from kwire.kernel import cures, privileges, tracefs
from kwire.kernel.tracefs import Tracefs, TracefsError

pytestmark = pytest.mark.live


def mounts() -> str:
    return Path("/proc/self/mountinfo").read_text()


def test_opening_changes_no_mount_namespace() -> None:
    before, namespace = mounts(), os.readlink("/proc/self/ns/mnt")
    with Tracefs.open() as files:
        assert "sched" in files.categories()
        assert mounts() == before
        assert os.readlink("/proc/self/ns/mnt") == namespace


def test_a_mount_of_our_own_serves_as_well_as_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracefs, "PLACES", ())
    with Tracefs.open() as files:
        assert files.place == ""
        assert files.format("sched", "sched_process_fork").id == files.event_id("sched", "sched_process_fork")
        assert files.events("sched") == sorted(files.events("sched"))
        assert "sched:sched_switch" in files.all_events()
    assert files.closed


def test_the_shared_one_lives_as_long_as_somebody_holds_it() -> None:
    first = tracefs.shared()
    assert tracefs.shared() is first
    number = first.fd
    del first
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(number)
    again = tracefs.shared()
    again.close()
    assert not tracefs.shared().closed


@pytest.mark.parametrize(
    ("category", "name"),
    [
        ("sched", "nothing"),
        ("nothing", "sched_switch"),
        ("..", "x"),
        ("sched", "../sched"),
        ("", ""),
        ("a/b", "c"),
    ],
)
def test_what_is_not_there_is_told(category: str, name: str) -> None:
    with Tracefs.open() as files:
        assert not files.has_event(category, name)
        with pytest.raises(TracefsError):
            files.format(category, name)
        with pytest.raises(TracefsError):
            files.event_id(category, name)
        with pytest.raises(TracefsError):
            files.events(f"{category}/nothing")


def test_only_events_are_listed() -> None:
    with Tracefs.open() as files:
        for category in ("sched", "syscalls"):
            assert all(files.has_event(category, name) for name in files.events(category)[:20])


def test_a_file_system_that_is_not_there() -> None:
    assert cures.detached("no such file system") == (-1, errno.ENODEV)


def test_an_unprivileged_user_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracefs, "PLACES", ())
    monkeypatch.setattr(tracefs, "detached", lambda kind: (-1, errno.EPERM))
    monkeypatch.setattr(privileges, "effective", frozenset)
    with pytest.raises(TracefsError, match="root") as caught:
        Tracefs.open()
    assert caught.value.errno == errno.EPERM
    monkeypatch.setattr(tracefs, "detached", lambda kind: (-1, errno.ENODEV))
    with pytest.raises(TracefsError, match="CONFIG_FTRACE"):
        Tracefs.open()
