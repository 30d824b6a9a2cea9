"""A pytest plugin: tests on several processors (`pytest -n 2`), and what the processes of one run share.

Invariants: the tests of one file run in one process, in order; so do all live tests, which compare what is in
the kernel before and after each, and all that wait for guests. Those that take minutes begin first and those
that judge the others last. Without `-n` the same holds in the one process.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

UNITS = "units.json"
FOLDER = pytest.StashKey[Path]()


def is_worker(config: pytest.Config) -> bool:
    """Whether this process only runs what another one hands out."""
    return hasattr(config, "workerinput")


def is_first(config: pytest.Config) -> bool:
    """Whether this process does what is done once for all that run tests."""
    given: dict[str, str] = getattr(config, "workerinput", {"workerid": "gw0"})
    return given["workerid"] == "gw0"


def shared(config: pytest.Config) -> Path:
    """The folder that all processes of this run see; it is removed at the end."""
    return config.stash[FOLDER]


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    given: dict[str, Any] = getattr(config, "workerinput", {})
    config.stash[FOLDER] = Path(given["folder"] if given else tempfile.mkdtemp(prefix="kwire-tests-"))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    if FOLDER in config.stash and not is_worker(config):
        shutil.rmtree(shared(config), ignore_errors=True)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["folder"] = str(shared(node.config))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Tells the process that hands out the tests which ones go together."""
    if is_worker(session.config) and is_first(session.config):
        units = {item.nodeid: unit for item in session.items if (unit := unit_of(item))}
        (shared(session.config) / UNITS).write_text(json.dumps(units))


def unit_of(item: pytest.Item) -> str:
    """What an item goes together with, when it is not the rest of its file."""
    if item.get_closest_marker("xdist_group"):
        return str(item.get_closest_marker("xdist_group").args[0])  # type: ignore[union-attr]
    return "live" if item.get_closest_marker("live") else ""


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class Units(LoadScopeScheduling):  # type: ignore[misc]  # its types are not looked for
        """Hands out live tests, tests for guests, and else file by file, in the order collected."""

        units: dict[str, str] | None = None

        def _split_scope(self, nodeid: str) -> str:
            if self.units is None:
                self.units = json.loads((shared(config) / UNITS).read_text())
            return self.units.get(nodeid) or nodeid.partition("::")[0]

    config.option.loadscopereorder = False
    return Units(config, log)
