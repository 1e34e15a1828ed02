"""The database before a start: a PostgreSQL of our own where none is named, every schema at its newest version."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import SecretStr

from cli import home
from cli.migrate import UNREACHABLE, NewerSchema, behind, migrate
from cli.postgres import EmbeddedPostgres
from cli.progress import step
from cli.start import CannotStart
from deploy.postgres import PostgresError
from shared.settings import Settings, from_environment


def refuse_production_without_database(settings: Settings) -> None:
    """Raise ``CannotStart`` where the PostgreSQL that we bring is not good enough."""
    if settings.environment == "production" and settings.database_url is None:
        raise CannotStart("production needs DATABASE_URL: the PostgreSQL that 'make run' brings is for development.")


def with_database(settings: Settings, postgres: EmbeddedPostgres) -> Settings:
    """The settings with a secret and a database: ``postgres`` is started where ``DATABASE_URL`` names none."""
    if settings.database_url is not None:
        settings.home.mkdir(parents=True, exist_ok=True)
        return home.with_secret(settings)
    try:
        postgres.start()
    except PostgresError as error:
        raise CannotStart(str(error)) from error
    return home.changed(home.with_secret(settings), database_url=SecretStr(postgres.dsn))


async def prepare_database(settings: Settings) -> None:
    """Bring every schema to its newest version; raises ``CannotStart``."""
    with _sentences():
        if await behind(settings):
            with step("Preparing the database") as progress:
                await migrate(settings, lambda service: progress.update(note=service))


async def is_prepared(settings: Settings) -> bool:
    """Whether there is nothing to migrate; raises ``CannotStart``."""
    with _sentences():
        return not await behind(settings)


@contextmanager
def _sentences() -> Iterator[None]:
    try:
        yield
    except NewerSchema as error:
        raise CannotStart(str(error)) from error
    except UNREACHABLE as error:
        raise CannotStart(
            f"The database of DATABASE_URL cannot be used: {error}. Check its address and that its user may create "
            "roles and schemas; without DATABASE_URL the platform brings a PostgreSQL of its own."
        ) from error


if __name__ == "__main__":
    try:
        asyncio.run(prepare_database(from_environment(Settings)))
    except CannotStart as error:
        print(f"guardian cannot start: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
