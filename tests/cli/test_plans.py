"""``guardian plans`` against a migrated database."""

import asyncio
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest
from typer.testing import CliRunner

from cli.main import app
from shared.db.versions import owner_dsn
from shared.ids import new_id
from shared.settings import Settings


class Operator:
    """Runs the commands as whoever runs the platform."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def run(self, *arguments: str, status: int = 0) -> str:
        """What ``guardian plans …`` prints, once it ended with ``status``."""
        result = CliRunner().invoke(app, ["plans", *arguments], env={"COLUMNS": "120"})
        assert result.exit_code == status, result.output
        assert "Traceback" not in result.output
        return result.output

    def refuses(self, *arguments: str) -> str:
        (line,) = self.run(*arguments, status=1).splitlines()
        assert line.startswith("guardian: ")
        return line

    def sql(self, statement: str, *arguments: object) -> object:
        async def work() -> object:
            connection = await asyncpg.connect(owner_dsn(self.settings))
            try:
                return await connection.fetchval(statement, *arguments)
            finally:
                await connection.close()

        return asyncio.run(work())

    def organization(self, name: str) -> UUID:
        identifier = new_id()
        self.sql("INSERT INTO identity.organizations VALUES ($1, $2, 'eu', 1, now(), now())", identifier, name)
        return identifier


@pytest.fixture
def operator(fresh_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Operator:
    monkeypatch.setenv("DATABASE_URL", fresh_database)
    monkeypatch.setenv("GUARDIAN_HOME", str(tmp_path))
    return Operator(Settings.model_validate({"home": tmp_path, "database_url": fresh_database}))


def test_they_are_listed_with_their_limits(operator: Operator) -> None:
    lines = operator.run().splitlines()
    (month,) = [line for line in lines if "100,000" in line]
    assert [cell.strip() for cell in month.strip("│").split("│")] == [
        "", "month", "100,000", "month", "organization", "exact", "share",
    ]  # fmt: skip
    assert [name for name in ("free", "pro", "enterprise (default)") if any(f" {name} " in line for line in lines)] == [
        "free", "pro", "enterprise (default)",
    ]  # fmt: skip
    assert any("concurrent" in line and "at the same time" in line for line in lines)


def test_an_organisation_is_put_on_one(operator: Operator) -> None:
    engines = operator.organization("Engines")
    said = operator.run("set", str(engines), "pro")
    assert said == "Engines is on the plan pro now (before: enterprise, the default).\n"
    assert operator.run("set", str(engines), "free") == "Engines is on the plan free now (before: pro).\n"
    plan = operator.sql("SELECT plan FROM ratelimit.organization_plans WHERE organization_id = $1", engines)
    assert plan == "free"


def test_what_does_not_exist_is_said_in_a_sentence(operator: Operator) -> None:
    engines = operator.organization("Engines")
    assert operator.refuses("set", str(engines), "gold") == (
        "guardian: there is no plan 'gold'; there is: free, pro, enterprise"
    )
    nobody = str(new_id())
    assert operator.refuses("set", nobody, "pro") == f"guardian: there is no organisation with the id {nobody}"
    assert operator.sql("SELECT count(*) FROM ratelimit.organization_plans") == 0
    assert "Invalid value" in operator.run("set", "engines", "pro", status=2)


def test_a_database_that_is_away_or_empty_is_said_in_a_sentence(
    operator: Operator, empty_database: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DATABASE_URL", empty_database)
    assert "guardian migrate" in operator.refuses()
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    assert "the database cannot be reached" in operator.refuses()
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.setenv("GUARDIAN_HOME", str(tmp_path / "nowhere"))
    assert "no platform is running" in operator.refuses()
