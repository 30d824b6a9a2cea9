"""The manual pages: they say what `--help` says, and what reads such pages has nothing to complain of."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from kwire.cli.main import SCRIPT, VERBS
from kwire.cli.manual import _parser, pages

PAGES = pages()


def test_each_verb_has_a_page() -> None:
    assert set(PAGES) == {"kwire.1", *(f"kwire-{verb}.1" for verb in VERBS)}
    assert all(f"\\-{verb} (1)" in PAGES["kwire.1"] for verb in VERBS)


@pytest.mark.parametrize("verb", [*VERBS, SCRIPT])
def test_a_page_has_every_option_and_no_other(verb: str) -> None:
    page = PAGES["kwire.1" if verb == SCRIPT else f"kwire-{verb}.1"]
    told = set(re.findall(r"\\fB((?:\\-)+[^\\]*(?:\\-[^\\]+)*)\\fR", page))
    options = {
        option.replace("-", "\\-")
        for action in _parser(verb)._actions
        for option in action.option_strings
        if action.help != "==SUPPRESS=="
    }
    assert told == options


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_ascii_without_control_lines_in_its_text(name: str) -> None:
    page = PAGES[name]
    assert page.isascii()
    known = r"\.(TH|SH|SS|TP|PP|B|BR|RS|RE|nf|fi|br)( |$)"
    assert [line for line in page.splitlines() if line[:1] in (".", "'") and not re.match(known, line)] == []
    assert "%(" not in page


def test_groff_has_no_warnings(tmp_path: Path) -> None:
    groff = shutil.which("groff") or pytest.skip("groff is not installed")
    for name, page in PAGES.items():
        (tmp_path / name).write_text(page)
    files = [tmp_path / name for name in PAGES]
    found = subprocess.run([groff, "-man", "-Tutf8", "-ww", *files], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")
    assert "prove a capture complete, or name every hole" in found.stdout


def test_mandoc_has_no_warnings(tmp_path: Path) -> None:
    mandoc = shutil.which("mandoc") or pytest.skip("mandoc is not installed")
    for name, page in PAGES.items():
        (tmp_path / name).write_text(page)
    found = subprocess.run(
        [mandoc, "-Tlint", "-Wwarning", *(tmp_path / name for name in PAGES)], capture_output=True, text=True
    )
    missing = [
        line for line in found.stdout.splitlines() if "missing date" not in line
    ]  # so pages stay the same
    assert missing == []
