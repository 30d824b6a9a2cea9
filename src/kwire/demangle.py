"""Names of functions as C++ and Rust write them, which compilers mangle in the symbols of a file.

Invariant: without the library that can tell, the extra `symbols`, each name is what it was.
"""


def can_demangle() -> bool:
    """Whether the library is installed."""
    from importlib.util import find_spec

    return find_spec("pydemumble") is not None


def demangled(name: str) -> str:
    """A name as its language writes it (C++ and Rust), where it is mangled and who can tell is installed."""
    if not name.startswith(("_Z", "_R", "___Z")):
        return name
    try:
        from pydemumble import demangle
    except ImportError:  # the extra `symbols`
        return name
    return demangle(name) or name
