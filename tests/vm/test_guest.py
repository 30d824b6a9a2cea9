"""The judgement on the whole run: no live test may have run nowhere."""

from __future__ import annotations

import pytest
from guests import GUESTS, RAN
from traces import bpf_refusal


@pytest.mark.last
def test_every_live_test_ran_somewhere(request: pytest.FixtureRequest) -> None:
    guests = request.config.stash[GUESTS]
    if not guests:
        pytest.skip("run without --guests")
    if bpf_refusal():
        pytest.skip(bpf_refusal())
    refusals = [f"guest {guest.kernel}: {guest.refusal}" for guest in guests if guest.refusal]
    if refusals:
        pytest.skip(refusals[0])
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    live = [item.nodeid for item in items if item.get_closest_marker("live")]
    nowhere = [test for test in live if test not in request.config.stash[RAN]]
    assert not nowhere, f"skipped here and in every guest: {nowhere}"
