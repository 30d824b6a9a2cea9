"""Who may have a session of a collector."""

import pytest

from kwire.collector import admission
from kwire.collector.admission import LONGEST_REST, Admission
from kwire.errors import KwireError
from kwire.transport.hosts import Hosts


def test_a_name_in_a_certificate_is_no_user_of_a_socket() -> None:
    about = {"identity": "uid:0", "transport": "unix"}
    assert admission.same(about, "uid:0", "unix:/run/x")
    assert not admission.same(about, "uid:0", "tls:127.0.0.1:5")
    assert not admission.same(about | {"origin": "unix:/run/x"}, "uid:0", "unix:/run/x")
    with pytest.raises(KwireError, match="the session is another's"):
        Admission(lambda: 0.0, Hosts()).prove(about, "uid:1", "unix:/run/x")


def test_a_session_that_fails_again_rests_longer() -> None:
    now = 1000.0
    admitted = Admission(lambda: now, Hosts())
    waited = []
    for _ in range(20):
        admitted.failed(b"token")
        began = now
        while admitted.rests(b"token"):
            now += 0.05
        waited.append(now - began)
    assert waited == sorted(waited)
    assert waited[0] < 0.3
    assert waited[-1] == pytest.approx(LONGEST_REST, abs=0.1)
    admitted.went_well(b"token")
    admitted.failed(b"token")
    now += 0.3
    assert not admitted.rests(b"token")


def test_what_is_remembered_of_strangers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MOST_RESTING", 3)
    admitted = Admission(lambda: 0.0, Hosts())
    tokens = [bytes([number]) for number in range(5)]
    for token in tokens:
        admitted.failed(token)
        assert admitted.outrun(token)
        assert not admitted.outrun(token)
    assert [admitted.rests(token) for token in tokens] == [False, False, True, True, True]
    assert [admitted.was_outrun(token) for token in tokens] == [False, False, True, True, True]
