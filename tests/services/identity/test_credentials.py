"""What the gateway sees: two questions, one note, and a word about every change."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from services.identity.domain import ROLES
from services.identity.jobs import purge
from services.identity.tokens import digest
from shared.auth import api_key
from shared.clock import FixedClock, use_clock
from shared.db import Database
from shared.settings import Settings
from shared.vault import Vault
from tests.services.identity.support import PASSWORD, PUBLIC_KEY, Person, person, problem, sign_up_body, token_in
from tests.services.identity.test_api_keys import make
from tests.services.identity.test_members import member_id

Heard = Callable[[], Awaitable[list[str]]]


@pytest_asyncio.fixture
async def heard(gateway: asyncpg.Connection[asyncpg.Record]) -> Heard:
    """``await heard()``: what was notified since the last call, everything committed by now included."""
    payloads: asyncio.Queue[str] = asyncio.Queue()

    def note(_connection: Any, _pid: int, _channel: str, payload: object) -> None:
        payloads.put_nowait(str(payload))

    await gateway.add_listener("guardian_credentials", note)

    async def since() -> list[str]:
        # Notifications arrive in the order of the commits: ours comes last.
        await gateway.execute("SELECT pg_notify('guardian_credentials', 'last')")
        found = []
        while (payload := await asyncio.wait_for(payloads.get(), 10)) != "last":
            found.append(payload)
        return found

    return since


async def resolve_key(gateway: asyncpg.Connection[asyncpg.Record], public_id: str) -> asyncpg.Record | None:
    return await gateway.fetchrow("SELECT * FROM identity.resolve_api_key($1)", public_id)


async def resolve_session(gateway: asyncpg.Connection[asyncpg.Record], token: str) -> asyncpg.Record | None:
    return await gateway.fetchrow("SELECT * FROM identity.resolve_session($1)", digest(token))


class TestResolveApiKey:
    async def test_a_key(self, gateway: asyncpg.Connection[asyncpg.Record], owner: Person) -> None:
        made = await make(owner, mode="test", expires_at="2100-01-01T00:00:00Z")
        row = await resolve_key(gateway, made["public_id"])
        assert row is not None
        assert dict(row) == {
            "public_id": made["public_id"],
            "secret_sha256": api_key.digest(made["key"].encode()),
            "organization_id": owner.organization_id,
            "actor_id": made["id"],
            "actor_type": "api_key",
            "scopes": ["contacts:read", "contacts:write"],
            "expires_at": datetime(2100, 1, 1, tzinfo=UTC),
            "disabled": False,
            "on_behalf_of": owner.principal.user_id,
            "mode": "test",
            "signature_policy": "off",
            "sign_answers": False,
            "signing_keys": [],
        }

    async def test_its_signing_keys_are_those_that_work(
        self, gateway: asyncpg.Connection[asyncpg.Record], owner: Person, settings: Settings
    ) -> None:
        made = await make(owner)
        path = f"/v1/api-keys/{made['id']}/signing-keys"
        secret = (await owner.http.post(path, json={"expires_at": "2100-01-01T00:00:00Z"})).json()
        pair = (await owner.http.post(path, json={"algorithm": "ed25519", "public_key": PUBLIC_KEY})).json()
        revoked = (await owner.http.post(path, json={})).json()
        await owner.http.delete(f"{path}/{revoked['id']}")
        with use_clock(FixedClock(datetime(2026, 1, 15, 12, tzinfo=UTC))):  # long ago for the database
            await owner.http.post(path, json={"expires_in": 60})
        await owner.http.patch(f"/v1/api-keys/{made['id']}", json={"signature_policy": "both", "sign_answers": True})
        row = await resolve_key(gateway, made["public_id"])
        assert row is not None
        found = row["signing_keys"]
        material = b64decode(found[0].pop("material"), validate=True)
        assert (row["signature_policy"], row["sign_answers"], found) == (
            "both",
            True,
            [
                {"id": secret["id"], "algorithm": "hmac-sha256", "expires_at": 4102444800},
                {"id": pair["id"], "algorithm": "ed25519", "expires_at": None, "material": PUBLIC_KEY},
            ],
        )
        vault = Vault(settings.derive_key("vault:signing-keys"))
        assert vault.open(material, f"signing-key:{owner.organization_id}:{secret['id']}") == secret["secret"].encode()

    async def test_none(self, gateway: asyncpg.Connection[asyncpg.Record]) -> None:
        assert await resolve_key(gateway, "0000000000") is None

    async def test_revoked(self, gateway: asyncpg.Connection[asyncpg.Record], owner: Person) -> None:
        made = await make(owner)
        await owner.http.delete(f"/v1/api-keys/{made['id']}")
        row = await resolve_key(gateway, made["public_id"])
        assert row is not None
        assert row["disabled"]

    async def test_replaced_ends_with_its_overlap(
        self, gateway: asyncpg.Connection[asyncpg.Record], owner: Person, frozen_clock: FixedClock
    ) -> None:
        made = await make(owner, expires_in=7200)
        await owner.http.post(f"/v1/api-keys/{made['id']}/reroll", json={"overlap_seconds": 60})
        row = await resolve_key(gateway, made["public_id"])
        assert row is not None
        assert (row["expires_at"], row["disabled"]) == (frozen_clock.now() + timedelta(seconds=60), False)

    async def test_never_more_than_its_creator_may_today(
        self, gateway: asyncpg.Connection[asyncpg.Record], owner: Person, join: Any
    ) -> None:
        admin = await join(owner, "admin")
        made = await make(admin)
        await owner.http.patch(f"/v1/members/{await member_id(admin)}", json={"role": "viewer"})
        row = await resolve_key(gateway, made["public_id"])
        assert row is not None
        assert row["scopes"] == ["contacts:read"]


class TestResolveSession:
    async def test_a_session(self, gateway: asyncpg.Connection[asyncpg.Record], owner: Person) -> None:
        row = await resolve_session(gateway, owner.token)
        assert row is not None
        assert (row["organization_id"], row["actor_id"]) == (owner.organization_id, owner.user["id"])
        assert frozenset(row["scopes"]) == ROLES["owner"]
        assert row["expires_at"] - row["authenticated_at"] == timedelta(days=14)

    async def test_none(self, gateway: asyncpg.Connection[asyncpg.Record]) -> None:
        assert await resolve_session(gateway, "nonsense") is None

    async def test_somebody_who_belongs_there_no_more(
        self, gateway: asyncpg.Connection[asyncpg.Record], owner: Person, join: Any
    ) -> None:
        member = await join(owner)
        await owner.http.delete(f"/v1/members/{await member_id(member)}")
        row = await resolve_session(gateway, member.token)
        assert row is not None
        assert (row["organization_id"], row["scopes"]) == (None, [])

    async def test_it_was_seen_but_not_for_each_look(
        self, gateway: asyncpg.Connection[asyncpg.Record], anyone: Any, client: Any, heard: Heard, postgres: str
    ) -> None:
        then = datetime(2026, 1, 15, 12, tzinfo=UTC)
        with use_clock(FixedClock(then)):
            owner = await person(client, await anyone.post("/v1/sign-up", json=sign_up_body()))
        await heard()
        connection = await asyncpg.connect(postgres)
        seen = []
        for _ in range(2):
            await resolve_session(gateway, owner.token)
            statement = "SELECT last_seen_at FROM identity.sessions WHERE user_id = $1"
            seen.append(await connection.fetchval(statement, owner.principal.user_id))
        await connection.close()
        assert seen[0] == seen[1] > then
        assert await heard() == []


class TestTouchApiKeys:
    async def test_the_latest_use_is_kept_and_nobody_is_told(
        self, gateway: asyncpg.Connection[asyncpg.Record], owner: Person, heard: Heard
    ) -> None:
        made = await make(owner)
        await heard()
        for minute in (5, 3):
            moment = datetime(2026, 1, 15, 12, minute, tzinfo=UTC)
            await gateway.execute(
                "SELECT identity.touch_api_keys($1, $2)", [made["public_id"], "0000000000"], [moment] * 2
            )
        row = (await owner.http.get(f"/v1/api-keys/{made['id']}")).json()
        assert (row["last_used_at"], row["version"]) == ("2026-01-15T12:05:00Z", 1)
        assert await heard() == []


class TestTheGatewaysRole:
    @pytest.mark.parametrize(
        "table",
        ["api_keys", "sessions", "users", "memberships", "mail_outbox", "outbox", "signing_keys", "request_nonces",
         "request_nonces_ahead", "request_nonces_spent", "nonce_memory"],
    )  # fmt: skip
    async def test_it_reads_no_table(self, gateway: asyncpg.Connection[asyncpg.Record], table: str) -> None:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await gateway.fetch(f"SELECT * FROM identity.{table}")

    async def test_it_makes_nothing(self, gateway: asyncpg.Connection[asyncpg.Record]) -> None:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await gateway.execute("CREATE TABLE identity.mine (id int)")

    @pytest.mark.parametrize(
        "call",
        [
            "identity.resolve_api_key('x')", "identity.resolve_session('x')",
            "identity.touch_api_keys(ARRAY['x'], ARRAY[now()])",
            "identity.remember_nonces(ARRAY[gen_random_uuid()], ARRAY['x'], ARRAY[1.0], ARRAY[1.0])",
            "identity.spend_nonce(gen_random_uuid(), 'x', 1.0)", "identity.is_nonce_spent(gen_random_uuid(), 'x')",
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("service", ["crm", "identity"])
    async def test_nobody_else_may_ask(self, database: Any, service: str, call: str) -> None:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await (await database(service)).pool.execute(f"SELECT {call}")


class TestNotifications:
    """Every change of what a credential means is told, made ones included."""

    async def test_keys(self, owner: Person, heard: Heard) -> None:
        await heard()
        made = await make(owner)
        key = f"key:{made['public_id']}"
        assert await heard() == [key]
        await owner.http.patch(f"/v1/api-keys/{made['id']}", json={"scopes": []})
        assert await heard() == [key]
        new = (await owner.http.post(f"/v1/api-keys/{made['id']}/reroll", json={})).json()
        assert set(await heard()) == {key, f"key:{new['public_id']}"}
        await owner.http.delete(f"/v1/api-keys/{made['id']}")
        assert await heard() == [key]

    async def test_signing_keys_and_what_is_to_be_signed(self, owner: Person, heard: Heard) -> None:
        made = await make(owner)
        path, key = f"/v1/api-keys/{made['id']}", f"key:{made['public_id']}"
        await heard()
        signing = (await owner.http.post(f"{path}/signing-keys", json={})).json()
        assert await heard() == [key]
        successor = await owner.http.post(f"{path}/signing-keys/{signing['id']}/rotate", json={})
        assert (successor.status_code, set(await heard())) == (201, {key})
        await owner.http.patch(path, json={"signature_policy": "v1"})
        assert await heard() == [key]
        await owner.http.patch(path, json={"sign_answers": True})
        assert await heard() == [key]
        await owner.http.delete(f"{path}/signing-keys/{signing['id']}")
        assert await heard() == [key]
        new = (await owner.http.post(f"{path}/reroll", json={})).json()
        assert set(await heard()) == {key, f"key:{new['public_id']}"}

    async def test_sessions(self, owner: Person, heard: Heard, anyone: Any) -> None:
        payload = f"session:{digest(owner.token).hex()}"
        made = (await owner.http.post("/v1/organizations", json={"name": "Second", "data_region": "us"})).json()
        await heard()
        body = {"organization_id": made["id"]}
        await owner.http.post("/v1/sessions/current/organization", json=body)
        assert await heard() == [payload]
        await owner.http.delete("/v1/sessions/current")
        assert await heard() == [payload]
        answer = await anyone.post("/v1/sessions", json={"email": owner.email, "password": PASSWORD})
        assert answer.status_code == 201
        (signed_in,) = await heard()
        assert signed_in.startswith("session:")

    async def test_a_wrong_password_changes_no_credential(self, owner: Person, heard: Heard, anyone: Any) -> None:
        await heard()
        answer = await anyone.post("/v1/sessions", json={"email": owner.email, "password": "wrong"})
        problem(answer, 401, "invalid_credentials")
        assert await heard() == []

    async def test_people(self, owner: Person, heard: Heard) -> None:
        await heard()
        body = {"current_password": PASSWORD, "new_password": "a-brand-new-steam-whistle"}
        await owner.http.post("/v1/me/password", json=body)
        assert f"user:{owner.user['id']}" in await heard()

    async def test_memberships(self, owner: Person, join: Any, heard: Heard) -> None:
        member = await join(owner)
        payload = f"user:{member.user['id']}"
        assert payload in await heard()
        path = f"/v1/members/{await member_id(member)}"
        await owner.http.patch(path, json={"role": "viewer"})
        assert await heard() == [payload]
        await owner.http.delete(path)
        assert payload in await heard()

    async def test_organisations(self, owner: Person, heard: Heard) -> None:
        await heard()
        await owner.http.patch("/v1/organization", json={"name": "Other"})
        assert await heard() == [f"organization:{owner.organization_id}"]

    async def test_roles(self, postgres: str, heard: Heard) -> None:
        await heard()
        connection = await asyncpg.connect(postgres)
        await connection.execute("INSERT INTO identity.roles VALUES ('guest', '{}')")
        await connection.execute("DELETE FROM identity.roles WHERE name = 'guest'")
        await connection.close()
        assert await heard() == ["*", "*"]


async def test_the_databases_roles_are_the_domains(identity: Database) -> None:
    rows = await identity.pool.fetch("SELECT name, scopes FROM identity.roles")
    assert {row["name"]: frozenset(row["scopes"]) for row in rows} == ROLES


async def test_expired_sessions_and_tokens_are_forgotten(
    frozen_clock: FixedClock, sign_up: Any, identity: Database, postgres: str
) -> None:
    owner = await sign_up()
    statement = (
        "SELECT (SELECT count(*) FROM identity.sessions WHERE user_id = $1),"
        " (SELECT count(*) FROM identity.one_time_tokens WHERE user_id = $1)"
    )
    connection = await asyncpg.connect(postgres)
    counts = []
    for days in (2, 2, 11):
        frozen_clock.advance(days=days)
        await purge(identity)
        counts.append(tuple(await connection.fetchrow(statement, owner.principal.user_id) or ()))
    await connection.close()
    assert counts == [(1, 1), (1, 0), (0, 0)]


async def test_no_secret_is_stored_in_clear(
    owner: Person, join: Any, outgoing: Any, postgres: str, identity: Database
) -> None:
    """Every table of the schema, searched for everything that was ever handed out or typed."""
    member = await join(owner)
    mails = [*await outgoing(owner.email), *await outgoing(member.email)]
    made = (
        await owner.http.post(
            "/v1/api-keys", json={"name": "secret", "scopes": []}, headers={"Idempotency-Key": "kept-answer"}
        )
    ).json()
    path = f"/v1/api-keys/{made['id']}/signing-keys"
    signing = (await owner.http.post(path, json={}, headers={"Idempotency-Key": "kept-secret"})).json()
    tokens = [token_in(mail) for mail in mails if "token=" in mail.text]
    secrets = [PASSWORD, owner.token, member.token, made["key"], signing["secret"], *tokens]
    assert len(secrets) == 7
    connection = await asyncpg.connect(postgres)
    tables = await connection.fetch("SELECT table_name FROM information_schema.tables WHERE table_schema = 'identity'")
    assert len(tables) > 12
    dump = ""
    for (table,) in tables:
        dump += "\n".join(row[0] for row in await connection.fetch(f'SELECT t::text FROM identity."{table}" t'))
    await connection.close()
    assert str(owner.organization_id) in dump
    for secret in secrets:
        assert secret not in dump
        assert secret.encode().hex() not in dump
