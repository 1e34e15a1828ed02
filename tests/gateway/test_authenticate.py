"""API keys against a real PostgreSQL: cold, warm, revoked, and with the database away."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import SecretStr

from gateway import credentials as credentials_module
from gateway.authenticate import Authenticator
from gateway.credentials import Credentials
from gateway.last_used import LastUsed
from gateway.signatures import Signing
from shared import clock
from shared.auth import api_key
from shared.db import Database
from shared.db.database import service_dsn
from shared.db.hearing import Hearing
from shared.errors import BadRequest, ServiceUnavailable, Unauthenticated
from shared.ids import new_id
from shared.settings import Settings
from shared.signing.keys import Verifier
from shared.testing.server import run
from shared.vault import Vault
from tests.gateway.world import World
from tests.shared.signing.support import NOW, PUBLIC, SECRET


def test_a_key_becomes_the_principal_the_service_sees(world: World) -> None:
    organization, creator = new_id(), new_id()
    key = world.key("contacts:read", "contacts:write", organization_id=organization, on_behalf_of=creator)
    assert world.call(key.text).status == 200
    principal = world.principal()
    assert principal.organization_id == organization
    assert (principal.actor_type, principal.actor_id) == ("api_key", f"key-{key.public_id}")
    assert principal.scopes == {"contacts:read", "contacts:write"}
    assert (principal.auth_method, principal.on_behalf_of, principal.session_id) == ("api_key", str(creator), None)
    assert abs(principal.auth_time - time.time()) < 5
    assert world.front.header("authorization") == []


def test_warm_requests_ask_nothing(world: World) -> None:
    key = world.key()
    assert [world.call(key.text).status for _ in range(5)] == [200] * 5
    assert world.asked(key) == 1


def test_a_crowd_on_a_cold_key_asks_once(world: World) -> None:
    key = world.key()
    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(lambda _: world.call(key.text).status, range(32)))
    assert statuses == [200] * 32
    assert world.asked(key) == 1


def test_a_mistyped_key_is_refused_without_the_database(world: World) -> None:
    key = world.key()
    wrong = key.text[:-1] + ("a" if key.text[-1] != "a" else "b")
    swapped = key.text[:25] + ("x" if key.text[25] != "x" else "y") + key.text[26:]
    for text in (wrong, swapped, key.text[:-1], key.text + "x", "gdn_live_", "gdn_", "", "Bearer", "gdn_live_é"):
        reply = world.call(text)
        assert (reply.status, reply.code) == (401, "invalid_api_key"), text
        assert reply.headers["www-authenticate"] == "Bearer"
    assert world.asked(key) == 0


def test_another_secret_of_the_same_public_id_is_refused_cold_and_warm(world: World) -> None:
    key = world.key()
    forged = _with_public_id(key.public_id)
    cold = world.call(forged)
    assert world.call(key.text).status == 200
    warm = world.call(forged)
    assert (cold.status, cold.code) == (warm.status, warm.code) == (401, "invalid_api_key")


def _with_public_id(public_id: str) -> str:
    text = f"gdn_live_{public_id}_" + "A" * 32
    return text + api_key._checksum(text)


@pytest.mark.parametrize("scheme", ["Basic", "Token", "Digest"])
def test_other_schemes_are_refused(world: World, scheme: str) -> None:
    reply = world.front.get("/v1/private", f"Authorization: {scheme} abc")
    assert (reply.status, reply.code) == (401, "unauthenticated")


def test_the_scheme_is_not_case_sensitive(world: World) -> None:
    key = world.key()
    for header in (f"bearer {key.text}", f"BEARER   {key.text}", f"Bearer {key.text}"):
        assert world.front.get("/v1/private", f"Authorization: {header}").status == 200


def test_two_authorization_headers_are_refused(world: World) -> None:
    line = f"Authorization: Bearer {world.key().text}"
    assert world.front.get("/v1/private", line, line).status == 401


CASES: dict[str, tuple[dict[str, Any], int, str]] = {
    "valid": ({}, 200, ""),
    "expires later": ({"expires_at": timedelta(hours=1)}, 200, ""),
    "expired": ({"expires_at": timedelta(seconds=-1)}, 401, "api_key_expired"),
    "disabled": ({"disabled": True}, 401, "api_key_revoked"),
    "disabled and expired": ({"disabled": True, "expires_at": timedelta(seconds=-1)}, 401, "api_key_revoked"),
}


@pytest.mark.parametrize("case", CASES)
def test_cold_and_warm_decisions_are_the_same(world: World, case: str) -> None:
    fields, status, code = CASES[case]
    if "expires_at" in fields:
        fields = {**fields, "expires_at": clock.now() + fields["expires_at"]}
    key = world.key(**fields)
    replies = [world.call(key.text) for _ in range(3)]
    assert {reply.status for reply in replies} == {status}
    if code:
        assert {reply.code for reply in replies} == {code}
        assert all("Use its successor, or make a new key" in reply.json["detail"] for reply in replies)
    assert world.asked(key) == 1


def test_a_key_expires_while_it_is_warm(world: World, eventually: Callable[..., None]) -> None:
    key = world.key(expires_at=clock.now() + timedelta(seconds=0.7))
    assert world.call(key.text).status == 200
    eventually(lambda: world.call(key.text).status == 401)
    assert world.call(key.text).code == "api_key_expired"


def test_an_unknown_key_is_remembered_for_a_moment_and_works_once_it_is_made(
    world: World, eventually: Callable[..., None]
) -> None:
    made = api_key.generate("test")
    for _ in range(3):
        assert world.call(made.text).code == "invalid_api_key"
    assert world.asked(made) == 1
    world.sql("INSERT INTO identity.keys VALUES ($1, $2, $3, 'late', '{}')", made.public_id, made.sha256, new_id())
    world.sql("SELECT pg_notify('guardian_credentials', $1)", f"key:{made.public_id}")
    eventually(lambda: world.call(made.text).status == 200)


@pytest.mark.parametrize("payload", ["key:{key}", "organization:{organization}", "user:{creator}", "*", "nonsense"])
def test_a_revoked_key_stops_within_a_second(world: World, eventually: Callable[..., None], payload: str) -> None:
    organization, creator = new_id(), new_id()
    key = world.key(organization_id=organization, on_behalf_of=creator)
    assert world.call(key.text).status == 200
    world.sql("UPDATE identity.keys SET disabled = true WHERE public_id = $1", key.public_id)
    assert world.call(key.text).status == 200, "still warm: only the notification may end it"
    text = payload.format(key=key.public_id, organization=organization, creator=creator)
    world.sql("SELECT pg_notify('guardian_credentials', $1)", text)
    began = time.monotonic()
    eventually(lambda: world.call(key.text).status == 401)
    assert time.monotonic() - began < 1
    assert world.call(key.text).code == "api_key_revoked"


def test_without_the_listener_entries_live_less_than_a_second(world: World, eventually: Callable[..., None]) -> None:
    key = world.key()
    assert world.call(key.text).status == 200
    world.unplug()
    eventually(lambda: world.call(key.text).status == 503)
    reply = world.call(key.text)
    assert reply.code == "service_unavailable"
    assert int(reply.headers["retry-after"]) >= 1
    assert world.front.get("/v1/echo").status == 200, "what is public needs no database"
    assert not world.listening()
    world.plug()
    eventually(lambda: world.call(key.text).status == 200)
    eventually(world.listening)


def test_what_was_revoked_while_nobody_listened_is_not_believed_afterwards(
    world: World, eventually: Callable[..., None]
) -> None:
    key = world.key()
    assert world.call(key.text).status == 200
    world.unplug()
    world.sql("UPDATE identity.keys SET disabled = true WHERE public_id = $1", key.public_id)
    world.plug()
    eventually(world.listening)
    assert world.call(key.text).code == "api_key_revoked"


def test_a_lookup_overtaken_by_a_revocation_is_not_remembered() -> None:
    async def scenario() -> None:
        release = asyncio.Event()
        answers: list[Any] = ["stale", "fresh"]

        async def fetch(key: bytes) -> Any:
            answer = answers.pop(0)
            if answer == "stale":
                await release.wait()
            return credentials_module.Credential(b"", new_id(), "api_key", answer, frozenset(), 0.0, 0.0)

        cache = credentials_module.Cache(fetch, Hearing())
        first = asyncio.create_task(cache.resolve(b"k"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        cache.forget(b"k")
        later = await cache.resolve(b"k")
        release.set()
        early = await first
        assert (early and early.actor_id, later and later.actor_id) == ("stale", "fresh")
        kept = cache.peek(b"k")
        assert kept is not None
        assert kept.actor_id == "fresh"

    asyncio.run(scenario())


def test_the_cache_is_bounded_and_unknown_keys_cannot_push_known_ones_out(monkeypatch: Any) -> None:
    monkeypatch.setattr(credentials_module, "_CAPACITY", 10)

    async def scenario() -> None:
        async def fetch(key: bytes) -> Any:
            if key.startswith(b"no"):
                return None
            return credentials_module.Credential(b"", new_id(), "api_key", "x", frozenset(), 0.0, 0.0)

        cache = credentials_module.Cache(fetch, Hearing())
        await cache.resolve(b"known")
        for number in range(50):
            await cache.resolve(b"no%d" % number)
        assert cache.peek(b"known") is not None
        assert len(cache._unknown) == 10
        for number in range(50):
            await cache.resolve(b"yes%d" % number)
        assert len(cache._known) == 10

    asyncio.run(scenario())


def test_too_many_cold_lookups_at_once_are_turned_away(monkeypatch: Any) -> None:
    monkeypatch.setattr(credentials_module, "_LOOKUPS_AT_ONCE", 2)

    async def scenario() -> None:
        gate = asyncio.Event()

        async def fetch(key: bytes) -> Any:
            await gate.wait()

        cache = credentials_module.Cache(fetch, Hearing())
        waiting = [asyncio.create_task(cache.resolve(b"%d" % number)) for number in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(ServiceUnavailable):
            await cache.resolve(b"one too many")
        gate.set()
        assert await asyncio.gather(*waiting) == [None, None]

    asyncio.run(scenario())


def test_a_key_is_never_sent_by_a_browser_itself_so_its_origin_does_not_matter(world: World) -> None:
    key = world.key()
    headers = [f"Authorization: Bearer {key.text}", "Sec-Fetch-Site: cross-site", "Origin: https://app.example"]
    assert world.front.get("/v1/private", *headers, method="POST").status == 200


def test_last_use_is_written_in_batches_and_at_most_once_a_minute(world: World) -> None:
    keys = [world.key() for _ in range(3)]
    for _ in range(4):
        for key in keys:
            assert world.call(key.text).status == 200
    last_used = world.front.gateway._parts.last_used
    for _ in range(2):
        world.front.call(last_used.flush)
    for key in keys:
        count, age = world.sql(
            "SELECT (touches, extract(epoch FROM now() - last_used_at)::int) FROM identity.keys WHERE public_id = $1",
            key.public_id,
        )
        assert count == 1
        assert age < 30


def test_last_use_is_kept_while_the_database_is_away(world: World, eventually: Callable[..., None]) -> None:
    key = world.key()
    assert world.call(key.text).status == 200
    last_used = world.front.gateway._parts.last_used
    world.unplug()
    world.front.call(last_used.flush)
    world.plug()
    eventually(world.listening)
    world.front.call(last_used.flush)
    assert world.sql("SELECT touches FROM identity.keys WHERE public_id = $1", key.public_id) == 1


def test_the_gateways_role_may_do_nothing_else(world: World) -> None:
    settings = world.front.gateway._database.settings.model_copy(update={"database_url": SecretStr(world.dsn)})

    async def attempt() -> None:
        connection = await asyncpg.connect(service_dsn(settings, "gateway"))
        try:
            for table in ("keys", "sessions"):
                for statement in (f"SELECT * FROM identity.{table}", f"DELETE FROM identity.{table}"):
                    with pytest.raises(asyncpg.InsufficientPrivilegeError):
                        await connection.execute(statement)
        finally:
            await connection.close()

    run(attempt)


@given(authorization=st.one_of(st.none(), st.binary(max_size=120)), cookie=st.binary(max_size=120))
@example(authorization=b"Bearer " + b"\xff" * 58, cookie=b"")
@example(authorization=b"Bearer gdn_live_" + b"0" * 49, cookie=b"")
@example(authorization=None, cookie=b"guardian_session=\xff; guardian_session=")
def test_no_header_makes_it_fail(authorization: bytes | None, cookie: bytes) -> None:
    settings = Settings(database_url=SecretStr("postgresql://postgres:x@127.0.0.1:1/none"))
    database = Database(settings, "gateway")
    known = Credentials(database, Vault(bytes(32)))
    authenticator = Authenticator(settings, known, LastUsed(database))
    if authorization is not None:
        assert authenticator.by_warm_key(authorization) is None
    with contextlib.suppress(Unauthenticated, BadRequest, ServiceUnavailable):
        assert asyncio.run(authenticator.authenticate(authorization, cookie)) is None


KEYS: dict[str, tuple[Verifier, float]] = {
    SECRET.key_id: (SECRET, float("inf")),
    PUBLIC.key_id: (PUBLIC, NOW + 100.0),
}


@pytest.mark.parametrize(
    ("policy", "keys", "then", "lasted"),
    [
        ("v1", KEYS, NOW, True),
        ("v0", KEYS, NOW, False),
        ("v1", {**KEYS, "new": (SECRET, float("inf"))}, NOW, True),
        ("v1", {SECRET.key_id: KEYS[SECRET.key_id]}, NOW, False),
        ("v1", {**KEYS, SECRET.key_id: (SECRET, NOW + 50.0)}, NOW, False),
        ("v1", {SECRET.key_id: KEYS[SECRET.key_id]}, NOW + 100, True),
    ],
)
def test_what_was_changed_since_a_request_began(policy: Any, keys: Any, then: float, lasted: bool) -> None:
    """Judged at 60 s: of a key that had ended ``then`` nothing was lost."""
    assert Signing(policy, keys).takes_all_of(Signing("v1", KEYS), then, NOW + 60) is lasted
