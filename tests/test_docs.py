"""The documents say what the code says."""

import importlib
import re
from pathlib import Path
from typing import cast

import pytest

from kwire import tools
from kwire.cli.main import SCRIPT, VERBS, Verb, parser_of
from kwire.lang import builtins
from kwire.lang.bpftrace.reader import read

ROOT = Path(__file__).resolve().parent.parent


def test_the_reference_of_built_ins_is_the_table() -> None:
    text = (ROOT / "docs" / "python.md").read_text()
    found = re.search(r"builtins\.markdown\(\) -->\n(.*?)\n<!-- end", text, re.S)
    assert found is not None
    assert found[1].strip() == builtins.markdown().strip()


def test_the_reference_of_tools_is_the_table() -> None:
    text = (ROOT / "docs/tools.md").read_text()
    found = re.search(r"tools\.markdown\(\) -->\n(.*?)\n<!-- end", text, re.S)
    assert found is not None
    assert found[1] == tools.markdown()


def test_the_architecture_names_every_room() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    rooms = [path.name for path in (ROOT / "src" / "kwire").iterdir() if (path / "__init__.py").exists()]
    assert len(rooms) > 8
    assert [room for room in rooms if f"`{room}`" not in text] == []


def test_the_readme_names_every_verb() -> None:
    text = (ROOT / "README.md").read_text()
    assert [verb for verb in VERBS if f"kwire {verb}" not in text] == []


def test_links_between_documents_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_what_a_contributor_is_told_to_touch_is_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    paths = re.findall(r"`((?:src|tests|docs)/[^`]*?)`", text)
    assert len(paths) > 30
    assert [path for path in paths if "VERB" not in path and not (ROOT / path).exists()] == []
    sources = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    names = set(re.findall(r"`(_?[A-Z]{3,})`", text))
    assert len(names) > 10
    assert [name for name in names if not re.search(rf"^{name}\b.* = ", sources, re.M)] == []


def test_the_public_names_are_documented() -> None:
    import kwire

    text = (ROOT / "docs" / "python.md").read_text()
    assert [name for name in kwire.__all__ if not re.search(rf"kwire\.{name}\b|`{name}`", text)] == []


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_options_of_scripts_are_in_the_reference_of_the_language() -> None:
    text = (ROOT / "docs" / "language.md").read_text()
    parser = parser_of(SCRIPT, cast(Verb, importlib.import_module(f"kwire.cli.{SCRIPT}")))
    of_agents = ("-h", "--tls-cert", "--tls-key", "--tls-ca", "--insecure", "--set")
    own = {one.option_strings[0] for one in parser._actions if one.option_strings}
    missing = [one for one in sorted(own.difference(of_agents)) if not re.search(rf"[` ]{one}[` ]", text)]
    assert missing == []


def programs(page: Path) -> list[str]:
    """The programs behind `kwire … -e` on a page, as a shell reads them; each stands in single quotes."""
    return re.findall(r"^(?: {4})?[#$]? ?kwire [^'\n]*-e '([^']*)'", page.read_text(), re.M)


def test_there_are_programs_on_the_pages() -> None:
    assert len(programs(ROOT / "docs/one-liners.md")) > 14
    assert len(programs(ROOT / "README.md")) > 4


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_programs_on_the_pages_are_the_language(page: Path) -> None:
    for program in programs(page):
        if "<Tab>" not in program:
            assert read("page", program).probes


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_on_the_pages_have_the_options_that_they_name(page: Path) -> None:
    for line in re.findall(r"^ {4}(?:\w*[#$] )?kwire ([a-z]+ .*)$", page.read_text(), re.M):
        plain = re.sub(r"'[^']*'|\"[^\"]*\"", "TEXT", line)
        verb, *words = re.split(r" (?:\||&&|>|#) | -- |'|\"", plain)[0].split()
        if verb in VERBS:
            told = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
            assert told - options(verb, words) == set(), line


def options(verb: str, words: list[str]) -> set[str]:
    """The options that a command has; `words`: behind the verb."""
    module = importlib.import_module(f"kwire.cli.{verb}")
    tool = module.chosen(words) if verb == "tools" else None
    return set(parser_of(verb, tool or cast(Verb, module))._option_string_actions)
