"""The versions a service's migrations have, read from their files: a process that serves does without Alembic."""

import re
from functools import cache
from importlib import import_module
from pathlib import Path

_REVISION = re.compile(r'^(down_)?revision(?:: [^=]+)? = "([^"]+)"', re.MULTILINE)


def migrations(service: str) -> Path:
    """The folder of a service's migrations."""
    return Path(import_module(f"services.{service}").__file__ or "").parent / "migrations"


@cache
def head(service: str) -> str | None:
    """The newest version of a service's schema in the code."""
    found = _revisions(service)
    followed = {version for down, version in found if down}
    return next((version for down, version in found if not down and version not in followed), None)


def knows(service: str, version: str) -> bool:
    """Whether the code has this version of a service's schema; it has none that a newer release made."""
    return any(not down and found == version for down, found in _revisions(service))


def _revisions(service: str) -> list[tuple[str, str]]:
    files = sorted((migrations(service) / "versions").glob("*.py"))
    return [found for path in files for found in _REVISION.findall(path.read_text())]
