"""``guardian limits`` against a migrated database: the way out for whoever has shut themselves out."""

import asyncio
import json
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from services.ratelimit.overrides import service as overrides
from services.ratelimit.overrides.schemas import LimitOverrideCreate
from services.ratelimit.policies import service as policies
from services.ratelimit.policies.domain import Editor
from services.ratelimit.policies.schemas import LimitPolicyCreate, LimitPolicyQuery
from shared.auth import Principal
from shared.db import Database
from shared.db.database import service_dsn
from shared.settings import Settings
from tests.cli.operating import Operator

HISTORY = (
    "SELECT action, policy_name, pattern, actor_type, actor_id FROM ratelimit.policy_changes"
    " WHERE organization_id = $1 AND actor_type <> 'user' ORDER BY id"
)
EVENTS = "SELECT envelope::text AS envelope FROM ratelimit.outbox WHERE organization_id = $1 ORDER BY seq DESC LIMIT 1"
KEY = "key:0198c5a0-0000-7000-8000-000000000031"


@pytest.fixture
def operator(operated: Settings) -> Operator:
    return Operator(operated, "limits")


@pytest.fixture
def engines(operator: Operator) -> UUID:
    """An organisation whose member has set limits by force."""
    organization_id = operator.organization("Engines")

    async def work() -> None:
        editor = Editor(Principal(organization_id, "user", "ada"), (), "enterprise")
        database = Database.for_service(operator.settings, "ratelimit")
        await database.open()
        async with database.transaction(organization_id) as session:
            nothing: dict[str, Any] = {"quota": 0, "force": True}
            for name, match in (("closed", {}), ("imports", {"routes": ["POST /v1/*"]})):
                body = {"name": name, "window": "hour", "per": ["key"], "match": match, **nothing}
                await policies.create(session, editor, LimitPolicyCreate.model_validate(body))
            made = await policies.page(session, editor.principal, "enterprise", LimitPolicyQuery())
            by_name = {each["name"]: each for each in made}
            for name, pattern in (("imports", KEY), ("burst", "organization")):
                override = LimitOverrideCreate.model_validate({"pattern": pattern, **nothing})
                await overrides.create(session, editor, by_name[name], override)
        await database.close()

    asyncio.run(work())
    return organization_id


def test_they_are_listed_with_their_overrides(operator: Operator, engines: UUID) -> None:
    assert operator.run("list", "Engines").splitlines() == [
        f"Engines ({engines}), on the plan enterprise:",
        "  burst: 5,000 a second per organization (plan enterprise)",
        "    override organization: 0",
        "  minute: 200,000 a minute per organization (plan enterprise)",
        "  closed: 0 an hour per key",
        "  imports: 0 an hour per key, for POST /v1/*",
        f"    override {KEY}: 0",
    ]


def test_one_is_deleted_by_name_or_id_and_the_history_says_by_whom(operator: Operator, engines: UUID) -> None:
    assert operator.run("delete", "Engines", "closed") == "The limit closed of Engines is deleted.\n"
    (row,) = operator.sql("SELECT id FROM ratelimit.policies WHERE name = 'imports'")
    operator.run("delete", str(engines), str(row["id"]))
    history = [tuple(row) for row in operator.sql(HISTORY, engines)]
    assert history == [("deleted", name, None, "system", "operator") for name in ("closed", "imports")]
    assert operator.sql("SELECT FROM ratelimit.policies") == []
    (kept,) = operator.sql("SELECT pattern FROM ratelimit.overrides")
    assert kept["pattern"] == "organization"
    (event,) = operator.sql(EVENTS, engines)
    assert json.loads(event["envelope"])["data"] == {"name": "imports"}
    listed = operator.run("list", "Engines")
    assert "burst" in listed
    assert "closed" not in listed


def test_an_override_of_a_plans_limit_is_deleted(operator: Operator, engines: UUID) -> None:
    said = operator.run("delete", "Engines", "burst", "--override", "organization")
    assert said == "The override organization of the limit burst of Engines is deleted.\n"
    assert "override organization" not in operator.run("list", "Engines")
    assert KEY in operator.run("list", "Engines")
    (change,) = operator.sql(HISTORY, engines)
    assert tuple(change) == ("override_deleted", "burst", "organization", "system", "operator")


def test_processes_that_limit_are_told(operator: Operator, engines: UUID) -> None:
    async def told() -> list[str]:
        heard: list[str] = []
        connection = await asyncpg.connect(service_dsn(operator.settings, "gateway"))
        await connection.add_listener("guardian_limits", lambda *message: heard.append(message[-1]))
        await asyncio.to_thread(operator.run, "delete", "Engines", "closed")
        async with asyncio.timeout(5):
            while not heard:  # noqa: ASYNC110 (the database tells)
                await asyncio.sleep(0.01)
        await connection.close()
        return heard

    assert f"organization:{engines}" in asyncio.run(told())


def test_what_cannot_be_deleted_is_said_in_a_sentence(operator: Operator, engines: UUID) -> None:
    assert operator.refuses("delete", "Engines", "open") == (
        "guardian: Engines has no limit 'open' in effect; there is: burst, closed, imports, minute"
    )
    assert operator.refuses("delete", "Engines", "imports", "--override", "key:x") == (
        f"guardian: the limit 'imports' has no override 'key:x'; there is: {KEY}"
    )
    assert "'guardian plans set'" in operator.refuses("delete", "Engines", "burst")
    assert operator.refuses("list", "Motors").startswith(
        "guardian: there is no organisation 'Motors'; there is: Engines"
    )
    assert operator.sql(HISTORY, engines) == []


def test_a_wrong_secret_is_said_in_a_sentence(
    operator: Operator, engines: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GUARDIAN_SECRET_KEY", "another one, which the platform does not have")
    assert "the database" in operator.refuses("delete", str(engines), "closed")
