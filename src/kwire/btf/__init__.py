"""Kernel types: reads BTF, the type information a kernel carries about itself, lazily and defensively.

`blob` is one BTF object, `store` finds the running kernel's, `ctext` reads C type names, `cformat` writes C.
"""
