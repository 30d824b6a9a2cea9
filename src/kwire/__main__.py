"""The command line as a program: `kwire`, and `python -m kwire`.

The module `signal` imports much itself, so it is not used before Ctrl-C is seen to.
"""

import _signal  # type: ignore[import-not-found]


def main() -> int:
    """Run the command line of this process; Ctrl-C before it has begun ends it at once, without a word."""
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    from kwire.cli.main import main as command

    return command()


if __name__ == "__main__":
    raise SystemExit(main())
