"""The home of a platform: the folder that holds its data, its secret and what it tells others about itself."""

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from pydantic import SecretStr

from cli.postgres import EmbeddedPostgres
from shared.settings import DEVELOPMENT_SECRET, Settings, from_environment

SECRET_FILE = "secret.key"  # noqa: S105 (a file name)
RUNNING_FILE = "running.json"
"""What other commands must know of a platform that runs here."""


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read; whoever reads it sees the old text or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    if os.geteuid() == 0:  # root in somebody's home leaves nothing there that its owner cannot read
        owner = path.parent.stat()
        os.chown(temporary, owner.st_uid, owner.st_gid)
    temporary.replace(path)


def with_secret(settings: Settings) -> Settings:
    """The settings with a root secret of this home's own, where the environment gives none."""
    if settings.secret_key.get_secret_value() != DEVELOPMENT_SECRET:
        return settings
    path = settings.home / SECRET_FILE
    if not path.exists():
        write_private(path, secrets.token_urlsafe(48))
    return changed(settings, secret_key=SecretStr(path.read_text().strip()))


def changed(settings: Settings, **values: object) -> Settings:
    """The settings with some values replaced."""
    return settings.model_copy(update=values)


@contextmanager
def running(settings: Settings) -> Iterator[None]:
    """Tell the other commands, for the length of the block, that a platform runs here and how to find its bus."""
    path = settings.home / RUNNING_FILE
    found = {
        "pid": os.getpid(),
        "kafka_bootstrap_servers": settings.kafka_bootstrap_servers,
        "kafka_prefix": settings.kafka_prefix,
    }
    write_private(path, json.dumps(found, indent=2) + "\n")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


class NoPlatform(Exception):
    """There is no database to look at, and what to do about it."""


def connected_settings(*, required: bool = True) -> Settings:
    """Settings with the database and secret of the platform of this home, where the environment names none.

    Raises ``NoPlatform`` when there is no database, unless that is not ``required``.
    """
    settings = from_environment(Settings)
    if (settings.home / SECRET_FILE).exists():
        settings = with_secret(settings)
    if settings.database_url is not None:
        return settings
    dsn = EmbeddedPostgres(settings.home).running_dsn()
    if dsn is None:
        if not required:
            return settings
        raise NoPlatform(
            f"no platform is running in {settings.home}: start it with 'make run', point GUARDIAN_HOME at its home, "
            "or set DATABASE_URL"
        )
    return changed(with_secret(settings), database_url=SecretStr(dsn))


def on_the_same_bus(settings: Settings) -> Settings:
    """The settings with the bus of the platform that runs in this home, where the environment names none.

    For looking at it. What publishes or consumes is told its bus, lest it join another one than it was meant for.
    """
    if settings.kafka_bootstrap_servers is not None:
        return settings
    with suppress(OSError, ValueError):
        found: dict[str, Any] = json.loads((settings.home / RUNNING_FILE).read_text())
        if found.get("kafka_bootstrap_servers") and _is_up(found.get("pid", 0)):
            return changed(
                settings,
                kafka_bootstrap_servers=found["kafka_bootstrap_servers"],
                kafka_prefix=found.get("kafka_prefix", settings.kafka_prefix),
            )
    return settings


def _is_up(pid: int) -> bool:
    """Whether that is a ``guardian up``: the file of one that was killed stays, and its number may be another's now."""
    try:
        words = psutil.Process(pid).cmdline()
    except psutil.Error:
        return False
    return "up" in words and any(Path(each).name == "guardian" or each == "cli.main" for each in words)
