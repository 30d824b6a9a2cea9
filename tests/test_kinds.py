"""The table of probe kinds is whole: what a row names exists, where it is looked for."""

import pytest

import kwire
from kwire.kernel import attach
from kwire.kernel.features import FEATURES
from kwire.kernel.sys import ATTACH_TYPES, PROG_TYPES
from kwire.kinds import FUNCTIONS, KINDS, ProbeKind
from kwire.lang.attach import PARTS


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_what_a_row_names_is_there(kind: ProbeKind) -> None:
    assert kind.program in PROG_TYPES
    assert not kind.attach_type or kind.attach_type in ATTACH_TYPES
    assert kind.mechanism in attach.MECHANISMS
    assert kind.feature in FEATURES
    assert kind.place in PARTS
    assert kind.context in ("record", "registers", "slots", "typed slots", "objects")
    assert (kind.place == "function") == (kind.name in FUNCTIONS)
    for other in (kind.instead, kind.by_address):
        assert not other or KINDS[other].result == kind.result  # an entry for an entry, a return for a return
    assert kind.name in kwire.__all__  # its decorator


def test_every_way_to_attach_is_some_kinds() -> None:
    assert {kind.mechanism for kind in KINDS.values()} == attach.MECHANISMS.keys()
