"""`python -m kwire`: the command line."""

from kwire.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
