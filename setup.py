"""Builds the optional C walkers (native/walk.c) next to the Python sources.

They are a plain shared library reached through ctypes, not an extension module, so a C compiler is enough:
no Python headers. Without a compiler the build goes on and every walker's Python twin is used.
"""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "kwire._walk",
            sources=["native/walk.c"],
            extra_compile_args=["-O2", "-std=c11"],
            py_limited_api=True,
            optional=True,
        )
    ]
)
