"""Safe retries of a POST, as every service of the chassis has them."""

import asyncio
import dataclasses
from uuid import UUID

import asyncpg
import httpx
import pytest

from shared.auth import Principal
from shared.clock import FixedClock
from shared.http import idempotency
from shared.testing.client import ClientFactory
from shared.testing.plugin import DatabaseFactory, PrincipalFactory
from tests.services.crm.support import SCOPES, Events, blocked, made, problem, until

BODY = {"first_name": "Ada", "email": "ada@example.com"}
KEY = {"idempotency-key": "key-1"}


async def count(crm: httpx.AsyncClient) -> int:
    return len((await crm.get("/v1/contacts")).json()["data"])


async def test_the_same_request_is_answered_again(crm: httpx.AsyncClient, events: Events) -> None:
    first = await crm.post("/v1/contacts", json=BODY, headers=KEY)
    assert first.status_code == 201
    assert "idempotency-replayed" not in first.headers
    again = await crm.post("/v1/contacts", json=BODY, headers=KEY)
    assert again.headers["idempotency-replayed"] == "true"
    assert (again.status_code, again.content) == (201, first.content)
    for name in ("etag", "location", "content-type"):
        assert again.headers[name] == first.headers[name]
    assert (await count(crm), len(await events())) == (1, 1)


async def test_the_structured_spelling_is_the_same_key(crm: httpx.AsyncClient) -> None:
    for key in ('"key-1"', "key-1"):
        assert (await crm.post("/v1/contacts", json=BODY, headers={"idempotency-key": key})).status_code == 201
    assert await count(crm) == 1


async def test_another_request_with_the_key_is_refused(crm: httpx.AsyncClient) -> None:
    await crm.post("/v1/contacts", json=BODY, headers=KEY)
    answer = await crm.post("/v1/contacts", json={**BODY, "phone": "1"}, headers=KEY)
    problem(answer, 422, "idempotency_key_reused")
    assert await count(crm) == 1


async def test_a_key_belongs_to_its_caller_and_operation(
    crm: httpx.AsyncClient, stranger: httpx.AsyncClient, client: ClientFactory, principal: PrincipalFactory
) -> None:
    colleague = await client("crm", principal(*SCOPES))
    ids = {
        (await each.post("/v1/contacts", json=BODY, headers=KEY)).json()["id"] for each in (crm, stranger, colleague)
    }
    ids.add((await crm.post("/v1/companies", json={"name": "Engines"}, headers=KEY)).json()["id"])
    assert len(ids) == 4


async def test_a_stored_answer_is_only_for_who_may_still_ask(
    crm: httpx.AsyncClient, client: ClientFactory, caller: Principal
) -> None:
    assert (await crm.post("/v1/contacts", json=BODY, headers=KEY)).status_code == 201
    demoted = await client("crm", dataclasses.replace(caller, scopes=frozenset({"contacts:read"})))
    problem(await demoted.post("/v1/contacts", json=BODY, headers=KEY), 403, "missing_scope")


async def test_a_refused_request_leaves_its_key_free(crm: httpx.AsyncClient) -> None:
    problem(await crm.post("/v1/contacts", json={}, headers=KEY), 422, "validation_failed")
    problem(
        await crm.post("/v1/contacts", json={"company_id": str(UUID(int=1)), **BODY}, headers=KEY),
        422,
        "unknown_reference",
    )
    assert (await crm.post("/v1/contacts", json=BODY, headers=KEY)).status_code == 201


@pytest.mark.parametrize("key", ["", " ", "two words", "x" * 256, "é", "tab\t"])
async def test_a_malformed_key_is_refused(crm: httpx.AsyncClient, key: str) -> None:
    answer = await crm.post("/v1/contacts", json=BODY, headers=[(b"idempotency-key", key.encode("latin-1"))])
    problem(answer, 400, "invalid_idempotency_key")


async def test_the_key_means_nothing_where_nothing_is_posted(crm: httpx.AsyncClient) -> None:
    contact = await made(crm, "/v1/contacts", **BODY)
    for phone in ("1", "2"):
        answer = await crm.patch(f"/v1/contacts/{contact['id']}", json={"phone": phone}, headers=KEY)
        assert answer.json()["phone"] == phone


async def test_fifty_at_once_make_one(crm: httpx.AsyncClient, events: Events) -> None:
    answers = await asyncio.gather(*(crm.post("/v1/contacts", json=BODY, headers=KEY) for _ in range(50)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.content for answer in answers if answer.status_code == 201}) == 1
    for answer in answers:
        if answer.status_code == 409:
            problem(answer, 409, "idempotency_in_progress")
    assert (await count(crm), len(await events())) == (1, 1)


async def test_while_it_runs_the_same_key_waits_its_turn(crm: httpx.AsyncClient, postgres: str) -> None:
    contact = await made(crm, "/v1/contacts", **BODY)
    path = f"/v1/contacts/{contact['id']}"
    await crm.delete(path)
    blocker = await asyncpg.connect(postgres)
    try:
        async with blocker.transaction():
            await blocker.execute("SELECT FROM crm.contacts WHERE id = $1 FOR UPDATE", UUID(contact["id"]))
            running = asyncio.create_task(crm.post(f"{path}/restore", headers=KEY))
            await until(lambda: blocked(blocker))
            answer = await crm.post(f"{path}/restore", headers=KEY)
            problem(answer, 409, "idempotency_in_progress")
            assert answer.headers["retry-after"] == "1"
        assert (await running).status_code == 200
        replayed = await crm.post(f"{path}/restore", headers=KEY)
        assert (replayed.status_code, replayed.headers["idempotency-replayed"]) == (200, "true")
    finally:
        await blocker.close()


async def test_an_answer_is_kept_for_a_day(
    crm: httpx.AsyncClient, database: DatabaseFactory, frozen_clock: FixedClock
) -> None:
    first = (await crm.post("/v1/contacts", json=BODY, headers=KEY)).json()
    frozen_clock.advance(hours=23, minutes=59)
    await idempotency.purge(await database("crm"))
    assert (await crm.post("/v1/contacts", json=BODY, headers=KEY)).json() == first
    frozen_clock.advance(minutes=1)
    assert (await crm.post("/v1/contacts", json={**BODY, "phone": "1"}, headers=KEY)).json()["id"] != first["id"]
    assert await count(crm) == 2


async def test_the_purge_removes_answers_of_every_organisation(
    crm: httpx.AsyncClient,
    stranger: httpx.AsyncClient,
    caller: Principal,
    database: DatabaseFactory,
    postgres: str,
    frozen_clock: FixedClock,
) -> None:
    for each in (crm, stranger):
        await each.post("/v1/contacts", json=BODY, headers=KEY)
    frozen_clock.advance(hours=24, seconds=1)
    await crm.post("/v1/contacts", json=BODY, headers={"idempotency-key": "key-2"})
    await idempotency.purge(await database("crm"))
    connection = await asyncpg.connect(postgres)
    try:
        old = await connection.fetchval(
            "SELECT count(*) FROM crm.idempotency_keys WHERE created_at < $1", frozen_clock.moment - idempotency.KEPT
        )
        mine = await connection.fetch(
            "SELECT created_at FROM crm.idempotency_keys WHERE organization_id = $1", caller.organization_id
        )
    finally:
        await connection.close()
    assert old == 0
    assert [row["created_at"] for row in mine] == [frozen_clock.moment]


async def test_answers_rest_encrypted(crm: httpx.AsyncClient, postgres: str, organization_id: UUID) -> None:
    contact = (await crm.post("/v1/contacts", json=BODY, headers=KEY)).json()
    connection = await asyncpg.connect(postgres)
    try:
        row = await connection.fetchrow(
            "SELECT * FROM crm.idempotency_keys WHERE organization_id = $1", organization_id
        )
    finally:
        await connection.close()
    assert row is not None
    stored = b"".join(value for value in row.values() if isinstance(value, bytes))
    assert len(row["answer"]) > 100
    for secret in (BODY["email"], contact["id"], KEY["idempotency-key"], "201"):
        assert secret.encode() not in stored
