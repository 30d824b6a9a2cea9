"""`NamedTuple` and `pattern` made late are what `typing` and `re` make at once."""

from __future__ import annotations

import copy
import enum
import pickle
import re
import typing

import pytest

from kwire import lazy


class Own(lazy.NamedTuple):
    """A place."""

    x: int
    y: str = "north"
    z: float = 1.0

    @property
    def twice(self) -> int:
        """Two times x."""
        return 2 * self.x

    def __str__(self) -> str:
        return f"{self.x}!"


class Real(typing.NamedTuple):
    """A place."""

    x: int
    y: str = "north"
    z: float = 1.0

    @property
    def twice(self) -> int:
        """Two times x."""
        return 2 * self.x

    def __str__(self) -> str:
        return f"{self.x}!"


class Color(lazy.IntEnum):
    """A color."""

    RED = 1
    GREEN = 2
    CRIMSON = 1


class RealColor(enum.IntEnum):
    """A color."""

    RED = 1
    GREEN = 2
    CRIMSON = 1


class Heir(Own):
    """With no fields of its own."""

    __slots__ = ()


def test_the_first_and_all_others_are_made_alike() -> None:
    class Fresh(lazy.NamedTuple):
        x: int
        y: str = "north"

    assert tuple(Fresh._make([1, "2"])) == (1, "2")
    assert Fresh(1) == Fresh(x=1) == Fresh(1, "north")
    assert Fresh(2, y="south").y == "south"


@pytest.mark.parametrize(
    "call", [lambda c: c(), lambda c: c(1, 2, 3, 4), lambda c: c(1, q=2), lambda c: c(1, x=2)]
)
def test_wrong_arguments_are_refused_alike(call: typing.Callable[[typing.Any], object]) -> None:
    class Fresh(lazy.NamedTuple):
        x: int
        y: int = 1
        z: int = 2

    told = []
    for kind in (Fresh, Fresh, Real):  # before it is compiled, and after
        with pytest.raises(TypeError) as refused:
            call(kind)
        told.append(str(refused.value).partition(".")[2])
    assert told[0] == told[1] == told[2]


def test_instances_are_alike() -> None:
    own, real = Own(1, z=3.0), Real(1, z=3.0)
    assert own == tuple(real)
    assert hash(own) == hash(real)
    assert repr(own) == repr(real).replace("Real", "Own")
    assert (str(own), own.twice, own.x, own.y, own.z) == (str(real), real.twice, real.x, real.y, real.z)
    assert own._replace(y="south") == tuple(real._replace(y="south"))
    assert type(own._replace(y="south")) is Own
    assert own._asdict() == real._asdict()
    assert (Own._fields, Own._field_defaults, Own.__match_args__) == (
        Real._fields,
        Real._field_defaults,
        Real.__match_args__,
    )
    assert pickle.loads(pickle.dumps(own)) == copy.copy(own) == own
    assert not hasattr(own, "__dict__")
    match own:
        case Own(x, y):
            assert (x, y) == (1, "north")


def test_what_is_not_there_cannot_be_replaced() -> None:
    with pytest.raises(ValueError, match="unexpected field"):
        Own(1)._replace(q=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="Expected 3 arguments, got 2"):
        Own._make([1, "a"])


def test_an_heir_is_made_by_its_parent() -> None:
    assert Heir(4) == Own(4)
    assert type(Heir(4)) is type(Heir(4)._replace(x=5)) is Heir
    assert Heir(4).twice == 8


def test_the_first_tuples_are_those_of_the_compiled_call() -> None:
    class Fresh(lazy.NamedTuple):
        x: int
        y: str = "north"

    made = [each for n in range(50) for each in (Fresh(n), Fresh(y="south", x=n), Fresh(n, y="west"))]
    assert [tuple(one) for one in made] == [(n, y) for n in range(50) for y in ("north", "south", "west")]
    assert {type(one) for one in made} == {Fresh}


def test_numbers_with_names_are_alike() -> None:
    for kind in (Color, RealColor):
        red: typing.Any = kind.RED
        assert kind(1) is kind["RED"] is kind.CRIMSON is red
        assert isinstance(red, int)
        assert (red.name, red.value, type(red.value)) == ("RED", 1, int)
        assert [f"{one}" for one in kind] == ["1", "2"]
        assert list(kind.__members__) == ["RED", "GREEN", "CRIMSON"]
        assert len(kind) == 2
        assert red in kind
        assert hash(red) == hash(1)
        assert pickle.loads(pickle.dumps(red)) is copy.copy(red) is copy.deepcopy(red) is red
    assert repr(Color.RED) == repr(RealColor.RED).replace("RealColor", "Color")
    told = []
    for wrong in (Color, RealColor):
        with pytest.raises(ValueError, match="3 is not a valid") as refused:
            wrong(3)
        told.append(str(refused.value).replace("RealColor", "Color"))
    assert told[0] == told[1]


def test_a_pattern_is_compiled_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    compile = re.compile

    def noted(text: str, flags: int = 0) -> re.Pattern[str]:
        compiled.append(text)
        return compile(text, flags)

    monkeypatch.setattr(re, "compile", noted)
    word = lazy.pattern(r"(?P<first>[a-z])[a-z]*", re.IGNORECASE)
    assert compiled == []
    for _ in range(3):
        found = word.fullmatch("Word")
        assert found is not None
        assert found["first"] == "W"
    assert compiled == [r"(?P<first>[a-z])[a-z]*"]
    assert word.sub("x", "a b") == "x x"
    assert word.pattern == compiled[0]
