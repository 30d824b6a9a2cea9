"""The bpftrace language: its text becomes the syntax tree that every front end makes.

`preprocessor` takes what begins with `#` out of the text; `lexer` and `parser` make the tree of `syntax`,
which says what was written; `lower` makes `lang.tree` of it. What there is by name, and what is not supported
yet, are the rows of `tables`; docs/language.md is made of them.
"""
