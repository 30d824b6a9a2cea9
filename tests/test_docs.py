"""The documents say what the code says."""

import re
from pathlib import Path

from kwire import tools
from kwire.cli.main import VERBS
from kwire.lang import builtins

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
