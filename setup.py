"""Builds the optional C walkers (native/*.c) next to the Python sources, and what is made of the code for an
environment: manual pages and the scripts that complete words in shells.

The walkers are a plain shared library reached through ctypes, not an extension module, so a C compiler is
enough: no Python headers. Without a compiler the build goes on and every walker's Python twin is used.
"""

import sys
from glob import glob
from pathlib import Path

from setuptools import Extension, setup  # first: it brings distutils, which Python has no more

from distutils.command.install_data import install_data  # isort: skip


class MadeData(install_data):
    """Makes manual pages and completions of the tables of arguments, and puts them where they belong."""

    def run(self) -> None:
        """Make them below the folder of the build, and install them."""
        sys.path.insert(0, str(Path(__file__).parent / "src"))
        from kwire.cli.completion import PLACES, SCRIPTS
        from kwire.cli.manual import pages

        made = {f"share/man/man1/{name}": text for name, text in pages().items()}
        made |= {PLACES[shell]: script for shell, script in SCRIPTS.items()}
        folder = Path(self.get_finalized_command("build").build_base) / "made"
        self.data_files = []
        for place, text in made.items():
            file = folder / place
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
            self.data_files.append((str(Path(place).parent), [str(file)]))
        super().run()


setup(
    cmdclass={"install_data": MadeData},
    data_files=[("share/man/man1", [])],  # that there are some; `MadeData` says which
    ext_modules=[
        Extension(
            "kwire._walk",
            sources=sorted(glob("native/*.c")),
            depends=sorted(glob("native/*.h")),
            extra_compile_args=["-O2", "-std=c11"],
            py_limited_api=True,
            optional=True,
        )
    ],
)
