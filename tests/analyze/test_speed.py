"""`kwire bench parse`: its line rates those of Ethernet, each line is there."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest

from kwire.analyze import speed
from kwire.cli.main import main
from kwire.packets import samples
from kwire.packets.open import open_capture


@pytest.mark.parametrize("made", [samples.capture, samples.network])
def test_samples_are_sound_and_go_on(made: object) -> None:
    assert callable(made)
    with open_capture(io.BytesIO(made(800) + made(400, 800))) as capture:
        events = speed.to_columns(capture)
    assert events == (1200 if made is samples.capture else 600)
    assert (capture.problem, capture.skipped, capture.network.found) == (None, 0, {})


def test_the_mix_is_what_it_says() -> None:
    """Every event that was captured is found, whatever is missing beside it."""
    mix = samples.realistic(30_000)
    with open_capture(io.BytesIO(mix.data)) as capture:
        assert speed.walked(capture) == mix.events
    assert (capture.packets, capture.problem) == (mix.packets, None)
    assert set(capture.network.found) == {"DATA_MISSING", "TCP_GAP"}
    assert capture.network.remarks["CHECKSUM_OFFLOAD"] > 1000
    assert capture.network.remarks["REORDERED"] > 50
    assert capture.network.others["TCP"] > 1000


def test_line_rates_are_those_of_ethernet() -> None:
    assert round(speed.line_rate(10, 64)) == 14_880_952
    assert round(speed.line_rate(100, 1518)) == 8_127_438
    assert speed.SIZES["IMIX"] == pytest.approx(361.83, abs=0.01)


def test_a_share_is_of_the_line_in_packets_of_that_size() -> None:
    one = speed.Speed("", "packets", speed.line_rate(10, 512) / 2, 1e9, 512.0)
    assert one.share == pytest.approx(0.5)
    assert speed.Speed("", "frames", 1e6, 1e9).share == 0


def test_every_reader_has_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "parse", "--packets", "2000", "--runs", "1"]) == 0
    text = capsys.readouterr().out
    for part in (
        "frame headers, strict",
        "checksums",
        "pcapng of ours, walk",
        "pcapng of ours to columns",
        "ideal network pcap, verify",
        "ideal network pcap, stats",
        "realistic mix, verify",
        "realistic mix, stats",
        "14.88",
        "IMIX",
    ):
        assert part in text
    # In a process of its own: the most that this one ever held is that of the tests before.
    words = ["bench", "parse", "--packets", "2000", "--runs", "1", "--json", "--long", "30M"]
    run = subprocess.run([sys.executable, "-m", "kwire", *words], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    value = json.loads(run.stdout)
    assert len(value["readers"]) == 8
    sizes = {one["name"]: one["size"] for one in value["readers"]}
    assert sizes["pcapng of ours, walk"] == 0  # these travel on no line
    assert 64 < sizes["ideal network pcap, stats"] < 90 < 500 < sizes["realistic mix, verify"] < 650
    assert value["long"]["bytes"] >= 30 << 20
    assert value["long"]["resident"] < 1 << 30
