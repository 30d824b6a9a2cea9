"""Builds the optional C walkers (native/*.c) next to the Python sources.

They are a plain shared library reached through ctypes, not an extension module, so a C compiler is enough:
no Python headers. Without a compiler the build goes on and every walker's Python twin is used.
"""

from glob import glob

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "kwire._walk",
            sources=sorted(glob("native/*.c")),
            depends=sorted(glob("native/*.h")),
            extra_compile_args=["-O2", "-std=c11"],
            py_limited_api=True,
            optional=True,
        )
    ]
)
