import pytest

from kwire.demangle import demangled


def test_names_are_shown_as_their_language_writes_them() -> None:
    pytest.importorskip("pydemumble")
    assert demangled("_ZN4deep3BoxIiE4pokeEi") == "deep::Box<int>::poke(int)"
    assert demangled("_RNvCs1234_7mycrate3foo") == "mycrate::foo"
    assert [demangled(one) for one in ("main", "_start", "_Z", "_Znonsense")] == [
        "main",
        "_start",
        "_Z",
        "_Znonsense",
    ]
