"""The command line as a program: `kwire`, and `python -m kwire`.

What stands between the start of Python and the first line of a command is here: nothing is imported but what
Python has loaded anyway, until it is known that there is more to do than to tell the version.
"""

import _signal  # type: ignore[import-not-found]  # `signal` makes enumerations of all its numbers
import sys


def main() -> int:
    """Run the command line of this process; Ctrl-C before it has begun ends it at once, without a word."""
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    if sys.argv[1:] in (["--version"], ["-V"]) and _tell_version():
        return 0
    from kwire.cli.main import main as command

    return command()


def _tell_version() -> bool:
    """Whether it could be told; where not, the command line says why not."""
    from kwire import __version__

    try:
        sys.stdout.write(f"kwire {__version__}\n")
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError):  # closed, or nobody reads
        return False
    return True


if __name__ == "__main__":
    raise SystemExit(main())
