"""The command line: one module a verb, joined by `main`."""
