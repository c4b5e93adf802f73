"""Reads docker/compose.yaml and the Dockerfiles, as Docker does for what is tested here."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
DOCKERFILES = ("Dockerfile", "Dockerfile.cuda")
_VARIABLE = re.compile(r"\$\{(\w+)(:?-)([^}]*)\}")


def services(**variables):
    """The services of compose.yaml with the variables of the environment filled in."""

    def value(match):
        name, operator, default = match.groups()
        given = variables.get(name)
        return default if given is None or (operator == ":-" and not given) else given

    text = (DOCKER / "compose.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(_VARIABLE.sub(value, text))["services"]


def instructions(name):
    """The instructions of a Dockerfile: pairs of a keyword and its arguments."""
    text = (DOCKER / name).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    words = [line.partition(" ") for line in joined.splitlines()]
    return [(keyword, arguments.strip()) for keyword, _, arguments in words]


def command(service):
    """What a service's container executes, with the programs of this environment."""
    _, entrypoint = [i for i in instructions("Dockerfile") if i[0] == "ENTRYPOINT"][-1]
    return local([*service.get("entrypoint", json.loads(entrypoint)), *service["command"]])


def health_check(service):
    """The command of a service's health check, with the programs of this environment."""
    kind, *arguments = service["healthcheck"]["test"]
    assert kind == "CMD"
    return local(arguments)


def local(arguments):
    """Returns a command with the programs of this environment; without tini if there is none."""
    if arguments[:2] == ["tini", "--"] and shutil.which("tini") is None:
        arguments = arguments[2:]
    folder = Path(sys.executable).parent
    return [str(folder / a) if os.access(folder / a, os.X_OK) else a for a in arguments]
