"""The guard counts for all processes together, in the database; here a process is a guard with limits of its own."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts

from cli.system import IDENTITY
from services.identity import passwords
from services.identity.app import create_app
from services.identity.guard import Attempt, Guard
from services.identity.mails.service import ordered_address
from services.identity.settings import IdentitySettings
from shared.auth import Principal
from shared.db import Database
from shared.errors import ReducedCapacity, TooManyRequests
from shared.ids import NIL, new_id
from shared.limits import anonymous
from shared.limits.client import Limits
from shared.settings import Settings
from shared.testing.client import ServiceFactory, SignedAs
from tests.services.identity.support import PASSWORD, Person, problem, sign_up_body

KEY = bytes(32)
NewGuard = Callable[..., Awaitable[Guard]]
Connect = Callable[[], Awaitable[httpx.AsyncClient]]


def account() -> str:
    return f"{new_id().hex}@example.com"


def address() -> str:
    """An address nobody has called from: an IPv6 network."""
    made = new_id().hex
    return f"2001:db8:{made[-8:-4]}:{made[-4:]}::1"


@pytest_asyncio.fixture
async def new_guard(identity: Database) -> AsyncIterator[NewGuard]:
    """``await new_guard(wrong_passwords_per_account=2)``: one more process; ``ahead`` by how many seconds its clock is."""
    made: list[Limits] = []

    async def make(ahead: float = 0.0, **settings: int) -> Guard:
        limits = Limits(
            identity, schema="ratelimit", default_plan="none", patience=10, clock=lambda: time.monotonic() + ahead
        )
        await limits.start(at_once=False)
        made.append(limits)
        return Guard(limits, IdentitySettings().model_copy(update=settings), KEY)

    yield make
    for each in made:
        await each.stop()


@pytest_asyncio.fixture
async def admin(postgres: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(postgres)
    yield connection
    await connection.close()


async def tries(guard: Guard, account: str, address: str | None, times: int) -> list[bool]:
    """Whether each of so many passwords could be tried."""
    return [await tried(guard, account, address) is not None for _ in range(times)]


async def tried(guard: Guard, account: str, address: str | None) -> Attempt | None:
    try:
        return await guard.password(account, address)
    except TooManyRequests:
        return None


class TestGuard:
    async def test_one_address_is_stopped_before_the_account_is(self, new_guard: NewGuard) -> None:
        guard, ada, here = await new_guard(wrong_passwords_per_account=2), account(), address()
        assert await tries(guard, ada, here, 3) == [True, True, False]
        assert await tries(guard, ada, address(), 1) == [True]
        assert await tries(guard, account(), here, 1) == [True]

    async def test_an_account_is_stopped_for_all_addresses_in_the_end(self, new_guard: NewGuard) -> None:
        guard, ada = await new_guard(wrong_passwords_per_account=2), account()
        for _ in range(20):
            await guard.password(ada, address())
        with pytest.raises(TooManyRequests) as caught:
            await guard.password(ada, address())
        assert 0 < int(caught.value.headers["Retry-After"]) <= 3600
        assert caught.value.headers["RateLimit-Policy"].startswith('"password-account";q=20;w=3600;pk=:')
        assert "password-address" not in caught.value.headers["RateLimit"]

    async def test_one_address_tries_few_accounts(self, new_guard: NewGuard) -> None:
        guard, here = await new_guard(wrong_passwords_per_address=3), address()
        assert [await tries(guard, account(), here, 1) for _ in range(4)] == [[True]] * 3 + [[False]]

    async def test_a_network_is_one_address(self, new_guard: NewGuard) -> None:
        guard, here = await new_guard(wrong_passwords_per_address=2), address().removesuffix("1")
        assert [await tries(guard, account(), f"{here}{n}", 1) for n in (1, 2, 3)] == [[True], [True], [False]]

    async def test_who_is_stopped_by_one_limit_uses_up_no_other(self, new_guard: NewGuard) -> None:
        guard, ada, here = (
            await new_guard(wrong_passwords_per_account=1, wrong_passwords_per_address=3),
            account(),
            address(),
        )
        assert await tries(guard, ada, here, 5) == [True, False, False, False, False]
        assert await tries(guard, account(), here, 1) + await tries(guard, account(), here, 1) == [True, True]
        assert await tries(guard, account(), here, 1) == [False]

    async def test_an_attempt_counts_from_its_beginning(self, new_guard: NewGuard) -> None:
        guard, ada, here = await new_guard(wrong_passwords_per_account=3), account(), address()
        found = await asyncio.gather(*(tried(guard, ada, here) for _ in range(20)))
        assert sum(each is not None for each in found) == 3
        next(each for each in found if each is not None).succeeded()
        assert await tries(guard, ada, here, 2) == [True, False]

    async def test_what_was_right_does_not_count(self, new_guard: NewGuard) -> None:
        guard, ada, here = await new_guard(wrong_passwords_per_account=1), account(), address()
        for _ in range(30):
            (await guard.password(ada, here)).succeeded()
        assert await tries(guard, ada, here, 2) == [True, False]

    async def test_processes_count_together_whatever_their_clocks_say(self, new_guard: NewGuard) -> None:
        ada, here = account(), address()
        processes = [await new_guard(ahead, wrong_passwords_per_account=4) for ahead in (0.0, 90_000.0, -90_000.0)]
        found = await asyncio.gather(*(tries(each, ada, here, 4) for each in processes))
        assert sum(map(sum, found)) == 4

    async def test_a_success_in_one_process_is_one_in_all(self, new_guard: NewGuard) -> None:
        ada, here = account(), address()
        one, other = [await new_guard(wrong_passwords_per_account=1) for _ in range(2)]
        right = await one.password(ada, here)
        assert await tries(other, ada, here, 1) == [False]
        right.succeeded()
        deadline = time.monotonic() + 5
        while not await tried(other, ada, here):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        assert await tries(one, ada, here, 1) == [False]

    async def test_a_restart_forgets_nothing(self, new_guard: NewGuard) -> None:
        before, ada, here = await new_guard(wrong_passwords_per_account=2), account(), address()
        assert await tries(before, ada, here, 1) == [True]
        await before._limits.stop()
        assert await tries(await new_guard(wrong_passwords_per_account=2), ada, here, 2) == [True, False]

    async def test_the_next_hour_begins_anew(self, new_guard: NewGuard, admin: Any) -> None:
        guard, ada = await new_guard(mails_per_account=2), account()
        assert [await guard.may_mail(ada) for _ in range(3)] == [True, True, False]
        await admin.execute(
            "UPDATE ratelimit.api_rate_limits SET window_start = window_start - interval '1 hour', "
            "window_end = window_end - interval '1 hour' WHERE subject = $1", guard._subject(ada),
        )  # fmt: skip
        later = await new_guard(mails_per_account=2)  # which does not know when the hour began
        assert [await later.may_mail(ada) for _ in range(3)] == [True, True, False]

    async def test_mails_anybody_may_ask_for_are_held_back_without_a_word(self, new_guard: NewGuard) -> None:
        guard, ada = await new_guard(mails_per_account=2), account()
        assert [await guard.may_mail(ada) for _ in range(4)] == [True, True, False, False]
        assert await guard.may_mail(account())
        with pytest.raises(TooManyRequests):
            await guard.mail(ada)

    async def test_no_account_is_named_in_the_counters(self, new_guard: NewGuard, admin: Any) -> None:
        guard, ada, here = await new_guard(), account(), address()
        await guard.password(ada, here)
        await guard.may_mail(ada)
        subjects = [row["subject"] for row in await admin.fetch("SELECT subject FROM ratelimit.api_rate_limits")]
        assert guard._subject(ada) in subjects
        assert not [each for each in subjects if ada.partition("@")[0] in each or "example.com" in each]
        assert Guard(guard._limits, IdentitySettings(), b"other" * 7)._subject(ada) not in subjects

    async def test_without_the_database_nothing_may_be_tried(self, identity: Database) -> None:
        away = Database(identity.settings, identity.service)
        away.dsn = "postgresql://nobody@127.0.0.1:1/nothing"
        limits = Limits(away, schema="ratelimit", default_plan="none", patience=2)
        guard = Guard(limits, IdentitySettings(), KEY)
        for attempt in (guard.password(account(), address()), guard.mail(account()), guard.may_mail(account())):
            with pytest.raises(ReducedCapacity) as caught:
                await attempt
            assert caught.value.headers["Retry-After"] == "1"
        await limits.stop()


class TestOverHttp:
    @pytest_asyncio.fixture
    async def guarded(
        self, settings: Settings, service_app: ServiceFactory, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[Connect]:
        """``await guarded()``: one more process with limits, called by somebody without a credential, always from the
        same address.
        """
        await service_app("identity")  # the one that all tests share is made before, without limits
        for name in ("WRONG_PASSWORDS_PER_ACCOUNT", "SIGN_UPS_PER_ADDRESS", "MAILS_PER_ACCOUNT", "PAGES_PER_ADDRESS"):
            monkeypatch.setenv(f"GUARDIAN_IDENTITY_{name}", "2")
        monkeypatch.setenv("GUARDIAN_IDENTITY_SIGN_INS_PER_ADDRESS", "6")
        here = address()
        async with AsyncExitStack() as stack:

            async def connect() -> httpx.AsyncClient:
                app = create_app(settings)
                await stack.enter_async_context(app.router.lifespan_context(app))
                return await stack.enter_async_context(_anonymous(settings, app, here))

            yield connect

    async def test_429_a_password_is_guessed(self, guarded: Connect, owner: Person) -> None:
        client, body = await guarded(), {"email": owner.email, "password": PASSWORD}
        for _ in range(3):
            assert (await client.post("/v1/sessions", json=body)).status_code == 201
        for _ in range(2):
            answer = await client.post("/v1/sessions", json=body | {"password": "wrong"})
            problem(answer, 401, "invalid_credentials")
        answer = await client.post("/v1/sessions", json=body)
        problem(answer, 429, "too_many_requests")
        assert 0 < int(answer.headers["retry-after"]) <= 3600
        assert '"password-account-address";r=0' in answer.headers["ratelimit"]

    async def test_429_in_whatever_process_it_is_guessed(self, guarded: Connect, owner: Person) -> None:
        body = {"email": owner.email, "password": "wrong"}
        statuses = [(await (await guarded()).post("/v1/sessions", json=body)).status_code for _ in range(3)]
        assert statuses == [401, 401, 429]

    async def test_429_before_anything_is_hashed(
        self, guarded: Connect, owner: Person, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client, hashed = await guarded(), []
        verify = passwords.verify_password

        async def counting(*arguments: Any) -> bool:
            hashed.append(arguments)
            return await verify(*arguments)

        monkeypatch.setattr(passwords, "verify_password", counting)
        body = {"email": owner.email, "password": "wrong"}
        found = await asyncio.gather(*(client.post("/v1/sessions", json=body) for _ in range(6)))
        assert sorted(each.status_code for each in found) == [401, 401, 429, 429, 429, 429]
        assert len(hashed) == 2

    async def test_429_the_same_for_an_address_nobody_has(self, guarded: Connect) -> None:
        client, body = await guarded(), {"email": sign_up_body()["email"], "password": "wrong"}
        statuses = [(await client.post("/v1/sessions", json=body)).status_code for _ in range(3)]
        assert statuses == [401, 401, 429]

    async def test_429_sign_ins_even_with_the_right_password(self, guarded: Connect, owner: Person) -> None:
        client, body = await guarded(), {"email": owner.email, "password": PASSWORD}
        for _ in range(6):
            assert (await client.post("/v1/sessions", json=body)).status_code == 201
        answer = await client.post("/v1/sessions", json=body)
        problem(answer, 429, "too_many_requests")
        assert 0 < int(answer.headers["retry-after"]) <= 60

    async def test_429_sign_ups(self, guarded: Connect) -> None:
        processes = [await guarded() for _ in range(3)]
        statuses = [(await each.post("/v1/sign-up", json=sign_up_body())).status_code for each in processes]
        assert statuses == [201, 201, 429]

    async def test_202_no_stranger_stops_a_recovery_but_the_mails_are_limited(
        self, guarded: Connect, identity: Database, settings: Settings
    ) -> None:
        client = await guarded()
        for email in [sign_up_body()["email"] for _ in range(2)]:
            body = {"email": email}
            answers = [await client.post("/v1/password-resets", json=body) for _ in range(4)]
            assert [answer.status_code for answer in answers] == [202] * 4
            assert {answer.content for answer in answers} == {b'{"status":"accepted"}'}
            orders: list[Any] = await identity.pool.fetch(
                "SELECT id, sealed FROM identity.mail_outbox WHERE kind = 'password_reset'"
            )
            assert [ordered_address(settings, row) for row in orders].count(email) == 2

    @pytest.mark.parametrize(
        "method, data, path",
        [("POST", {"token": "x" * 43}, "/accept-invitation"), ("GET", None, "/accept-invitation?token=x")],
    )
    async def test_429_on_a_page(self, guarded: Connect, method: str, data: dict[str, str] | None, path: str) -> None:
        client = await guarded()
        answers = [await client.request(method, path, data=data) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [400, 400, 429]
        assert answers[2].headers["content-type"].startswith("text/html")
        assert "too many attempts" in answers[2].text
        assert int(answers[2].headers["retry-after"]) > 0
        assert "ratelimit" in answers[2].headers

    async def test_503_when_it_cannot_be_told(self, settings: Settings, guarded: Connect) -> None:
        client = await guarded()
        app: FastAPI = client._transport.app  # type: ignore[attr-defined]
        counters = app.state.limits.flights.counters
        away = Database(settings, "identity")
        away.dsn = "postgresql://nobody@127.0.0.1:1/nothing"
        counters._database = away
        answer = await client.post("/v1/sessions", json={"email": account(), "password": "wrong"})
        problem(answer, 503, "limiter_unavailable")
        answer = await client.post("/v1/sign-up", json=sign_up_body())
        problem(answer, 503, "limiter_unavailable")
        assert (await client.get("/accept-invitation?token=x")).status_code == 400


def _anonymous(settings: Settings, app: FastAPI, address: str) -> httpx.AsyncClient:
    who = Principal(NIL, "anonymous", "anonymous", client_address=address, request_id="test-request")
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://identity", auth=SignedAs(settings, "identity", who)
    )


def test_slowapi_guards_every_operation_that_needs_no_principal(settings: Settings) -> None:
    guarded = set(anonymous._limiter._dynamic_route_limits)
    found = {
        (method, re.sub("{.*}", "{}", each.route.path)): f"{each.route.endpoint.__module__}.{each.route.name}"
        for each in iter_route_contexts(create_app(settings).routes)
        if isinstance(each.route, APIRoute)
        for method in each.route.methods or ()
    }
    public = {(method, re.sub("{.*}", "{}", path)) for method, path in IDENTITY.public}
    assert {each for each, name in found.items() if name in guarded} == public


class TestSettings:
    def test_limits_hold_outside_tests(self, settings: Settings) -> None:
        development = settings.model_copy(update={"environment": "development"})
        assert IdentitySettings.of(development).wrong_passwords_per_account == 10

    def test_lifetimes_are_the_same_in_tests(self, settings: Settings) -> None:
        assert IdentitySettings.of(settings).session_days == 14
