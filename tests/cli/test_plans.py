"""``guardian plans`` against a migrated database."""

from pathlib import Path

import pytest

from shared.ids import new_id
from shared.settings import Settings
from tests.cli.operating import Operator


@pytest.fixture
def operator(operated: Settings) -> Operator:
    return Operator(operated, "plans")


def test_they_are_listed_with_their_limits(operator: Operator) -> None:
    lines = [line.split() for line in operator.run().splitlines()]
    assert ["month", "100,000", "month", "organization", "exact", "share"] in lines
    assert ["free", "burst", "20", "second", "organization", "fast", "share"] in lines
    assert ["concurrent", "10", "at", "once", "organization", "exact", "share"] in lines
    assert [name for name in ("free", "pro", "enterprise") if any(line[:1] == [name] for line in lines)] == [
        "free", "pro", "enterprise",
    ]  # fmt: skip
    assert lines[-1][-1] == "enterprise."


def test_an_organisation_is_put_on_one(operator: Operator) -> None:
    engines = operator.organization("Engines")
    said = operator.run("set", str(engines), "pro")
    assert said == "Engines is on the plan pro now (before: enterprise, the default).\n"
    assert operator.run("set", "Engines", "free") == "Engines is on the plan free now (before: pro).\n"
    plan = operator.sql("SELECT plan FROM ratelimit.organization_plans WHERE organization_id = $1", engines)
    assert [dict(row) for row in plan] == [{"plan": "free"}]


def test_what_does_not_exist_is_said_in_a_sentence(operator: Operator) -> None:
    assert operator.refuses("set", "Nobody", "pro") == "guardian: there is no organisation 'Nobody', nor any other yet"
    engines = operator.organization("Engines")
    assert operator.refuses("set", "Engines", "gold") == (
        "guardian: there is no plan 'gold'; there is: free, pro, enterprise"
    )
    nobody = str(new_id())
    assert operator.refuses("set", nobody, "pro") == (
        f"guardian: there is no organisation '{nobody}'; there is: Engines ({engines}) "
        "(GET /v1/organization tells its members its id)"
    )
    for number in range(6):
        operator.organization(f"Other {number}")
    assert "Other 3 (" in (line := operator.refuses("set", nobody, "pro"))
    assert "Other 4" not in line
    assert ") and 2 more (" in line
    other = operator.organization("Engines")
    assert operator.refuses("set", "Engines", "pro") == (
        f"guardian: several organisations have the name 'Engines', say which one: Engines ({engines}), Engines ({other})"
    )
    assert operator.sql("SELECT FROM ratelimit.organization_plans") == []


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
