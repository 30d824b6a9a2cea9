"""`python -m kwire.bpf.vm` as the bpf_conformance suite calls it."""

import subprocess
import sys

import pytest

from kwire.bpf import insn, text

SUM = insn.encode(text.parse("r0 = *(u8 *)(r1 +0)\nr3 = *(u8 *)(r1 +1)\nr0 += r3\nr0 += r2\nexit")).hex()


def plugin(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kwire.bpf.vm", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "stdin", "printed"),
    [
        (["01 02 03"], SUM, "6"),
        (["ffff"], SUM + "\n", "200"),
        (["0102", "--program", SUM], "", "5"),
        (["--program", SUM, "0102"], "", "5"),
        ([], "b7 00 00 00 ff ff ff ff\n95 00 00 00 00 00 00 00\n", "ffffffffffffffff"),
        (["01  02 ", " 03"], SUM, "6"),  # as the suite writes it, in one argument or split
        ([""], "b700000000000000 9500000000000000", "0"),
    ],
)
def test_prints_r0_in_hex(arguments: list[str], stdin: str, printed: str) -> None:
    done = plugin(*arguments, stdin=stdin)
    assert (done.stdout, done.stderr, done.returncode) == (printed + "\n", "", 0)


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        ([], "8501000000000000 9500000000000000", "field dst is 1, must be 0"),
        ([], "", "the program is empty"),
        (["xyz"], SUM, "give bytes in hex"),
        (["00"], SUM, "1 bytes at ctx+1 are outside of its 1 bytes"),
    ],
)
def test_says_on_stderr_what_is_wrong(arguments: list[str], stdin: str, message: str) -> None:
    done = plugin(*arguments, stdin=stdin)
    assert (done.stdout, done.returncode) == ("", 1)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
