"""Files in TOML that people write: read whole, or refused in one line."""

from typing import Any

from kwire.errors import KwireError


def load(path: str, operation: str, error: type[KwireError] = KwireError) -> dict[str, Any]:
    """The content of a file. Raises `error`, of this operation, where it cannot be read or is no TOML."""
    import tomllib

    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as problem:
        raise error(operation, path, (problem.strerror or str(problem)).lower()) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise error(operation, path, f"it is no TOML: {problem}") from None
