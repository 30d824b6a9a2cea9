"""The judgement on the whole run: no live test may have run nowhere."""

from __future__ import annotations

import json
import time

import pytest
from guest_tests import TIMEOUT
from guests import DONE, GUESTS, GuestItem
from parallel import shared
from traces import bpf_refusal


@pytest.mark.last
@pytest.mark.timeout(TIMEOUT)
def test_every_live_test_ran_somewhere(request: pytest.FixtureRequest) -> None:
    guests = request.config.stash[GUESTS]
    if not guests:
        pytest.skip("run without --guests")
    if bpf_refusal():
        pytest.skip(bpf_refusal())
    refusals = [f"guest {guest.kernel}: {guest.refusal}" for guest in guests if guest.refusal]
    if refusals:
        pytest.skip(refusals[0])
    items = request.session.items
    own = [item for item in items if isinstance(item, pytest.Function)]
    live = [item.nodeid for item in own if item.get_closest_marker("live")]
    expected = len(live) + sum(isinstance(item, GuestItem) for item in items)
    done: list[tuple[str, bool]] = []
    while len(done) < expected:  # another process may be at the last of them
        text = (shared(request.config) / DONE).read_text()
        lines = text[: text.rfind("\n") + 1].splitlines()  # the last one may be half written
        done = [json.loads(line) for line in lines]
        time.sleep(0.2)
    nowhere = set(live) - {test for test, ran in done if ran}
    assert not nowhere, f"skipped here and in every guest: {sorted(nowhere)}"
