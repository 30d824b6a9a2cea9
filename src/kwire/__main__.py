"""The command line as a program: `kwire`, and `python -m kwire`."""

import signal


def main() -> int:
    """Run the command line of this process; Ctrl-C before it has begun ends it at once, without a word."""
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from kwire.cli.main import main as command

    return command()


if __name__ == "__main__":
    raise SystemExit(main())
