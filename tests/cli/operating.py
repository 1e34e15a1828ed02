"""Runs the commands of whoever runs the platform against a database."""

import asyncio
from uuid import UUID

import asyncpg
from typer.testing import CliRunner

from cli.main import app
from shared.db.versions import owner_dsn
from shared.ids import new_id
from shared.settings import Settings


class Operator:
    """Whoever runs the platform, at ``guardian <command>``."""

    def __init__(self, settings: Settings, command: str) -> None:
        self.settings = settings
        self.command = command

    def run(self, *arguments: str, status: int = 0) -> str:
        """What the command prints in a terminal of 80 columns, once it ended with ``status``."""
        result = CliRunner().invoke(app, [self.command, *arguments], env={"COLUMNS": "80"})
        assert result.exit_code == status, result.output
        assert "Traceback" not in result.output
        return result.output

    def refuses(self, *arguments: str) -> str:
        """The sentence in which it says why not."""
        (line,) = self.run(*arguments, status=1).splitlines()
        assert line.startswith("guardian: ")
        return line

    def sql(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        """The rows of a statement of the schemas' owner."""

        async def work() -> list[asyncpg.Record]:
            connection = await asyncpg.connect(owner_dsn(self.settings))
            try:
                rows: list[asyncpg.Record] = await connection.fetch(statement, *arguments)
                return rows
            finally:
                await connection.close()

        return asyncio.run(work())

    def organization(self, name: str) -> UUID:
        """Make an organisation of this name."""
        identifier = new_id()
        self.sql("INSERT INTO identity.organizations VALUES ($1, $2, 'eu', 1, now(), now())", identifier, name)
        return identifier
