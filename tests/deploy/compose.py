"""``docker-compose.yml`` and ``deploy/Dockerfile`` as the tests read them."""

import re
import shutil
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
_VARIABLE = re.compile(r"\$\{(\w+)(?:(:-|:\?)([^${}]*))?\}")


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions: name and arguments, continued lines joined."""
    lines = [line for line in DOCKERFILE.splitlines() if line and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines())]


def interpolated(value: str, variables: Mapping[str, str]) -> str:
    """A value of the file as compose would see it; raises ``KeyError`` with the sentence of a variable it insists on."""

    def replace(match: re.Match[str]) -> str:
        name, operator, word = match.groups()
        if variables.get(name):
            return variables[name]
        if operator == ":?":
            raise KeyError(f"{name} {word}")
        return word or ""

    while "${" in value:  # the innermost first: a default may name another variable
        value = _VARIABLE.sub(replace, value)
    return value


def environment(service: str, variables: Mapping[str, str]) -> dict[str, str]:
    """What a container of ``service`` gets; a variable without a value is passed on when it is set."""
    found = {}
    for name, value in COMPOSE["services"][service]["environment"].items():
        if value is not None:
            found[name] = interpolated(value, variables)
        elif name in variables:
            found[name] = variables[name]
    return found


def copy_application(target: Path) -> None:
    """Lay out ``/app`` of the image below ``target``, from the files the builder is sent."""
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] not in "#*!"]
    for name, rest in instructions():
        source, _, place = rest.partition(" ")
        if name != "COPY" or "--from" in rest or not place.startswith("/app/"):
            continue
        destination = target / place.removeprefix("/app/")
        if (ROOT / source).is_file():
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / source, destination)
            continue

        def left_out(folder: str, names: list[str]) -> list[str]:
            inside = Path(folder).relative_to(ROOT)
            return [n for n in names if str(inside / n) in ignored or n == "__pycache__" or fnmatch(n, "*.pyc")]

        shutil.copytree(ROOT / source, destination, ignore=left_out)
