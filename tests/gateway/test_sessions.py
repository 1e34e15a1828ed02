"""Session cookies against a real PostgreSQL: whose they are, when they end, which pages they count from."""

import hashlib
import time
from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import pytest

from shared import clock
from shared.ids import new_id
from tests.gateway.world import World


def test_a_session_becomes_the_principal(world: World) -> None:
    organization = new_id()
    token, user = world.session(organization_id=organization)
    assert world.front.get("/v1/private", f"Cookie: a=b; guardian_session={token}; c=d").status == 200
    principal = world.principal()
    assert (principal.actor_type, principal.actor_id) == ("user", user)
    assert principal.organization_id == organization
    assert principal.auth_method == "session"
    assert principal.session_id == hashlib.sha256(token.encode()).hexdigest()
    assert 290 < time.time() - principal.auth_time < 310
    assert world.front.header("cookie") == []


def test_a_session_without_an_organisation_sees_none(world: World) -> None:
    token, _ = world.session(organization_id=None, scopes=[])
    assert world.front.get("/v1/private", f"Cookie: guardian_session={token}").status == 200
    assert world.principal().organization_id == UUID(int=0)


@pytest.mark.parametrize("token", ["", "x", "unknown" * 6, "y" * 300, "é"])
def test_unknown_sessions_are_refused(world: World, token: str) -> None:
    reply = world.front.get("/v1/private", f"Cookie: guardian_session={token}")
    assert (reply.status, reply.code) == (401, "session_expired")


def test_an_expired_session_is_refused_but_does_not_keep_anyone_from_what_is_public(world: World) -> None:
    token, _ = world.session(expires_at=clock.now() - timedelta(seconds=1))
    cookie = f"Cookie: guardian_session={token}"
    assert world.front.get("/v1/private", cookie).code == "session_expired"
    assert world.front.get("/v1/echo", cookie).status == 200
    assert world.principal().actor_type == "anonymous"
    assert world.front.get("/v1/echo", "Authorization: Bearer gdn_live_mistyped").status == 200


def test_two_different_session_cookies_are_refused(world: World) -> None:
    token, _ = world.session()
    reply = world.front.get("/v1/private", f"Cookie: guardian_session={token}; guardian_session=planted")
    assert (reply.status, reply.code) == (400, "ambiguous_session")


@pytest.mark.parametrize("payload", ["session:{session}", "user:{user}", "organization:{organization}", "*"])
def test_a_session_ends_within_a_second(world: World, eventually: Callable[..., None], payload: str) -> None:
    organization = new_id()
    token, user = world.session(organization_id=organization)
    cookie = f"Cookie: guardian_session={token}"
    assert world.front.get("/v1/private", cookie).status == 200
    digest = hashlib.sha256(token.encode())
    world.sql("DELETE FROM identity.sessions WHERE token_sha256 = $1", digest.digest())
    text = payload.format(session=digest.hexdigest(), user=user, organization=organization)
    world.sql("SELECT pg_notify('guardian_credentials', $1)", text)
    began = time.monotonic()
    eventually(lambda: world.front.get("/v1/private", cookie).status == 401)
    assert time.monotonic() - began < 1


CROSS_ORIGIN = [
    pytest.param("POST", [], 200, id="no-browser"),
    pytest.param("POST", ["Sec-Fetch-Site: same-origin"], 200, id="same-origin"),
    pytest.param("POST", ["Sec-Fetch-Site: none"], 200, id="typed"),
    pytest.param("POST", ["Sec-Fetch-Site: cross-site"], 403, id="cross-site"),
    pytest.param("POST", ["Sec-Fetch-Site: same-site"], 403, id="same-site"),
    pytest.param("POST", ["Sec-Fetch-Site: same-origin", "Origin: https://evil.example"], 200, id="site-decides"),
    pytest.param("POST", ["Origin: http://api.example"], 200, id="old-browser-same-host"),
    pytest.param("POST", ["Origin: https://evil.example"], 403, id="old-browser-other-host"),
    pytest.param("POST", ["Origin: null"], 403, id="opaque-origin"),
    pytest.param("POST", ["Origin: http://[broken"], 403, id="broken-origin"),
    pytest.param("GET", ["Sec-Fetch-Site: cross-site", "Origin: https://evil.example"], 200, id="safe-method"),
]


@pytest.mark.parametrize("method, headers, status", CROSS_ORIGIN)
def test_cookies_count_only_from_our_own_pages(world: World, method: str, headers: list[str], status: int) -> None:
    token, _ = world.session()
    reply = world.front.get("/v1/private", f"Cookie: guardian_session={token}", *headers, method=method)
    assert reply.status == status
    if status == 403:
        assert reply.code == "cross_origin_request"
    public = world.front.get("/v1/echo", *headers, method=method)
    assert public.status == status, "a sign-in must not be forged either"
