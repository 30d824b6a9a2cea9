"""Names that are one host: read strictly, and a session goes on under another of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kwire.collector.collected_session import CaptureTarget
from kwire.collector.collector import Collector
from kwire.collector.folder import Folder
from kwire.collector.store import Options
from kwire.errors import KwireError
from kwire.transport import hosts
from kwire.transport.address import Address
from kwire.transport.certs import make_certs
from kwire.transport.connect import connect
from kwire.transport.half_open import Roster
from kwire.transport.listen import listen
from kwire.transport.tls import TlsOptions
from kwire.wire.session import Role, Session

FILE = '[[host]]\nnames = ["old.example", "new.example"]\n\n[[host]]\nnames = ["other.example"]\n'


def test_names_of_one_host_are_the_same(tmp_path: Path) -> None:
    file = tmp_path / "hosts.toml"
    file.write_text(FILE)
    known = hosts.load(str(file))
    assert known.canonical("old.example") == known.canonical("new.example")
    assert len({known.canonical(name) for name in ("new.example", "other.example", "x", "")}) == 4
    assert hosts.Hosts().canonical("old.example") == "old.example"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[host]]\nnames = []\n", "host 1"),
        ("[[host]]\nnames = 'a'\n", "host 1"),
        ("[[host]]\nnames = ['a', 1]\n", "host 1"),
        ("[[host]]\nname = ['a']\n", "host 1"),
        ("[[host]]\nnames = ['a']\nuser = 'x'\n", "host 1"),
        ("[host]\nnames = ['a']\n", "something else"),
        ("[[hosts]]\nnames = ['a']\n", "something else"),
        ("[[host]]\nnames = ['a']\n[[host]]\nnames = ['b', 'a']\n", "a belongs to two"),
        ("nonsense", "no TOML"),
    ],
)
def test_a_slip_of_the_pen_is_an_error(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "hosts.toml"
    file.write_text(text)
    with pytest.raises(KwireError, match=says):
        hosts.load(str(file))
    with pytest.raises(KwireError, match="no such file"):
        hosts.load(str(tmp_path / "none"))


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize(("name", "resumed"), [("new.example", True), ("other.example", False)])
def test_a_renewed_certificate_resumes_its_session(
    tmp_path: Path, net: Any, event: Callable[..., bytes], name: str, resumed: bool, restarted: bool
) -> None:
    """Whether the collector is the same or has been started again; a third host's certificate does not."""
    pytest.importorskip("cryptography")
    make_certs(str(tmp_path), ["old.example", "new.example", "other.example"])

    def options(role: str) -> TlsOptions:
        return TlsOptions(*(str(tmp_path / role / f"{part}.pem") for part in ("cert", "key", "ca")))

    known = hosts.read({"host": [{"names": ["old.example", "new.example"]}]}, "x")

    def collect(port: int) -> tuple[Collector, Any]:
        collector = Collector(
            net.loop, CaptureTarget(Folder(str(tmp_path / "c")), "", Options()), hosts=known
        )
        listener = listen(
            net.loop,
            Address("tls", "127.0.0.1", port),
            collector.choose,
            collector.handler_for,
            tls=options("collector"),
            roster=Roster(known),
        )
        return collector, listener

    collector, listener = collect(0)
    address = listener.address
    session = Session(Role.SOURCE, initiator=True)
    notes = net.note()
    first = connect(net.loop, address, lambda: session, notes, options("old.example"))
    net.until(lambda: notes.up)
    first.peer.detach("its certificate is renewed")
    first.close()
    if restarted:
        collector.stop()
        listener.close()
        net.loop.turn(0)
        collector.place.folder.close()
        collector, listener = collect(address.port)
    again = net.note()
    troubles: list[str] = []
    second = connect(
        net.loop,
        address,
        lambda: session,
        again,
        options(name),
        troubled=lambda problem: troubles.append(str(problem)),
    )
    net.connectors += [first, second]
    net.until(lambda: again.up or troubles)
    assert bool(again.up) == resumed, troubles
    assert resumed or "another's" in troubles[0] + str(again.ends)
    collector.stop()
    listener.close()
    collector.place.folder.close()
