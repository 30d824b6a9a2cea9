"""What the verbs that run as services, agent and collect, have in common: arguments, and `--install`.

`--install` puts the systemd unit of a verb, and a configuration file to begin with, into their places.

Invariants: a configuration that is there is left alone; each file is written beside its place and takes it in
one step; the unit runs the kwire that installs it.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import Final, NamedTuple

from kwire.cli import configuration, log, metrics
from kwire.cli.network import add_broker_arguments, add_transport_arguments
from kwire.cli.status import OK
from kwire.errors import KwireError

SHIPPED: Final = Path(__file__).parents[1] / "systemd"
UNITS: Final = "etc/systemd/system"


class Service(NamedTuple):
    """What a verb installs: the verb, its unit, its configuration file."""

    verb: str
    unit: str
    configuration: str


AGENT: Final = Service("agent", "kwire-agent.service", "agent.toml")
COLLECT: Final = Service("collect", "kwire-collect.service", "collector.toml")


def add_arguments(parser: argparse.ArgumentParser, configured: str, *, probes: bool) -> None:
    """Add the arguments that both have: metrics, the log, how others are reached, the `configured` file.
    `probes`: the verb has some, whose maps may be metrics.
    """
    metrics.add_arguments(parser, maps=probes)
    log.add_arguments(parser)
    add_transport_arguments(parser)
    add_broker_arguments(parser)
    configuration.add_arguments(parser, configured)


def run_install(service: Service, root: str) -> int:
    """Install it, and say what there is to do; the exit status."""
    sys.stdout.write("\n".join(install(service, root)) + "\n")
    return OK


def install(service: Service, root: str) -> list[str]:
    """Install it below `root`; what was done, and what there is to do, in lines. KwireError: it cannot be."""
    command = own_command()
    if service is COLLECT and command.startswith(("/home/", "/root/", "/run/user/")):
        cause = "the collector's unit does not see home directories"
        raise KwireError("install", command, cause, "install kwire elsewhere, as in /opt")
    text = (SHIPPED / service.unit).read_text(encoding="utf-8")
    text = text.replace(f"ExecStart=kwire {service.verb}", f"ExecStart={in_unit(command)} {service.verb}")
    unit = os.path.join(root, UNITS, service.unit)
    configuration = os.path.join(root, "etc/kwire", service.configuration)
    _put(unit, text)
    told = [f"{unit}: runs {command} {service.verb}"]
    if os.path.lexists(configuration):
        told.append(f"{configuration}: was there, and is left as it is")
    else:
        _put(configuration, (SHIPPED / service.configuration).read_text(encoding="utf-8"))
        told.append(f"{configuration}: an example; say there what is wanted")
    name = service.unit.removesuffix(".service")
    told.append(
        f"then: kwire {service.verb} --check && systemctl daemon-reload && systemctl enable --now {name}"
    )
    return told


def own_command() -> str:
    """The command that runs this kwire, as a unit needs it: an absolute path. KwireError: there is none."""
    own = os.path.abspath(sys.argv[0])
    if os.path.basename(own) == "kwire" and os.access(own, os.X_OK):
        return own
    found = shutil.which(
        "kwire", path=os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
    )
    if found is None:
        raise KwireError("install", "the unit", "there is no command kwire", "install the package")
    return os.path.abspath(found)


def in_unit(command: str) -> str:
    """A path as a unit's ExecStart has it. KwireError where it cannot have it: systemd.service(5)."""
    if not command.isprintable() or set(command) & set("\"'\\$"):
        cause = "a unit cannot name that path"
        raise KwireError("install", ascii(command), cause, "install kwire elsewhere, as in /opt")
    escaped = command.replace("%", "%%")
    return f'"{escaped}"' if " " in escaped else escaped


def _put(path: str, text: str) -> None:
    new = f"{path}.new"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            with open(fd, "w", encoding="utf-8") as file:
                file.write(text)
            os.rename(new, path)
        except OSError:
            os.unlink(new)
            raise
    except OSError as error:
        raise KwireError(
            "install", path, (error.strerror or "failed").lower(), "be root, or name a ROOT"
        ) from None
