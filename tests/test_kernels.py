"""The feature probes against what is known of the kernels that the tests run on, guests included."""

from __future__ import annotations

import pytest

from kwire.kernel import features


@pytest.mark.live
def test_probes_find_what_each_kernel_has_and_lacks(kernel_lacks: set[str]) -> None:
    answers = {name: features.probe(name) for name in features.FEATURES}
    wrong = {
        name: answer for name, answer in answers.items() if (answer.answer == "yes") == (name in kernel_lacks)
    }
    assert not wrong
