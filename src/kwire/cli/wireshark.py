"""`kwire wireshark`: kwire captures in Wireshark: install, uninstall, update the filter names, open."""

import argparse
import os
import shutil
import sys
from typing import TYPE_CHECKING

from kwire.cli.lines import say, tell
from kwire.cli.status import FAILED, INTERRUPTED, NOT_WHOLE, OK
from kwire.errors import KwireError
from kwire.view.text import line
from kwire.words import plural

if TYPE_CHECKING:
    from kwire.wireshark.folders import Folders
    from kwire.wireshark.install import Done

HELP = "show captures in Wireshark: install the dissector, open a capture"

EPILOG = """\
examples:
  kwire wireshark install
  kwire wireshark open demo.pcapng
  kwire wireshark update demo.pcapng && tshark -r demo.pcapng -Y 'kwire.tcp_connect.dport == 443'

install puts a dissector, a profile and a capture interface where Wireshark looks for them; uninstall takes
them away. All of it is for this user alone, but where Wireshark has no folder of a user's own for capture
interfaces (4.0): then it goes into the system's, for all users, and only root can put it there. Wireshark
fixes the names of fields when it starts: update (and open) adds those of a capture's probes to a table, in
which the names of all probes seen before stay.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.epilog = EPILOG
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("install", help="put dissector, profile and capture interface in place")
    actions.add_parser("uninstall", help="take away what install put in place")
    update = actions.add_parser("update", help="learn the filter names of captures")
    update.add_argument("files", metavar="CAPTURE", nargs="+", help="a capture")
    opens = actions.add_parser("open", help="learn a capture's filter names, then start Wireshark with it")
    opens.add_argument("file", metavar="CAPTURE", help="a capture")
    opens.add_argument(
        "arguments", metavar="ARGUMENT", nargs="*", help="for wireshark; after -- where it begins with -"
    )


def run(args: argparse.Namespace) -> int:
    """Do what was asked for."""
    from kwire.wireshark import folders, install

    where = folders.folders()
    if args.action == "install":
        _report(install.install(where), "installed", "everything is in place")
    elif args.action == "uninstall":
        _report(install.uninstall(where), "removed", "nothing was installed")
    elif args.action == "update":
        return _learn(where, args.files)
    else:
        return _open(where, args.file, args.arguments)
    return 0


def _report(done: "Done", what: str, nothing: str) -> None:
    for path in done.changed:
        sys.stdout.write(f"{what} {line(path)}\n")
    if not done.changed:
        sys.stdout.write(f"{nothing}\n")
    for path, why in done.left:
        say(f"{path}: {why}")


def _learn(where: "Folders", files: list[str]) -> int:
    """Bring dissector and table up to date; the exit status.

    The captures are read by a process without privileges, because who wrote them is not known. This one keeps
    its own, so that a Wireshark started next can capture.
    """
    from kwire.cli.reading import confine
    from kwire.wireshark import install

    if not install.installed(where):
        raise KwireError(
            "update", "Wireshark", "the dissector is not installed", "run 'kwire wireshark install'"
        )
    install.install(where)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = FAILED
    try:
        confine(argparse.Namespace(files=files))
        status = OK if _update(where, files) else NOT_WHOLE
    except (KwireError, OSError, MemoryError) as error:
        say(str(error) or "not enough memory")
    except KeyboardInterrupt:
        status = INTERRUPTED
    finally:
        sys.stderr.flush()
        os._exit(status)


def _update(where: "Folders", files: list[str]) -> bool:
    """Add the captures' probes to the table; say how many names there are. Whether all could be read."""
    from kwire.packets.open import open_capture
    from kwire.wireshark import install, probes

    path = install.probes_path(where)
    rows = old = probes.read(path)
    whole = True
    for file in files:
        with open_capture(file) as capture:
            for _ in capture:
                pass
            schemas = (one for section in capture.sections for one in section.schemas.values())
            rows = probes.merge(rows, schemas)
            if capture.problem:
                whole = False
                say(f"{capture.name}: {capture.problem}; everything before is used")
    if rows != old:
        probes.write(path, rows)
    names = len({row.filter for row in rows})
    new = names - len({row.filter for row in old})
    tell(f"{plural(names, 'filter name')}, {new:,} of them new")
    return whole


def _open(where: "Folders", file: str, arguments: list[str]) -> int:
    from kwire.wireshark.install import PROFILE

    program = shutil.which("wireshark")
    if program is None:
        raise KwireError(
            "open",
            file,
            "wireshark is not installed, or not in the PATH",
            "install it; 'kwire wireshark update' and tshark work without it",
        )
    if file == "-":
        raise KwireError("open", "standard input", "Wireshark is given a file by its name", "name a file")
    status = _learn(where, [file])
    if status in (OK, NOT_WHOLE):
        os.execv(program, [program, "-C", PROFILE, *arguments, "-r", file])
    return status
