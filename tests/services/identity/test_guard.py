from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from services.identity import guard as guard_module
from services.identity.app import create_app
from services.identity.guard import Guard, Window
from services.identity.mails.service import ordered_address
from services.identity.settings import IdentitySettings
from shared.auth import Principal
from shared.db import Database
from shared.errors import TooManyRequests
from shared.ids import NIL
from shared.settings import Settings
from shared.testing.client import ServiceFactory, SignedAs
from tests.services.identity.support import PASSWORD, Person, problem, sign_up_body


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


class TestWindow:
    def test_it_slides(self, time: Time) -> None:
        window = Window(2, 10, time)
        for moment in (0, 6):
            time.now = moment
            assert window.wait("a") == 0
            window.count("a")
        assert window.wait("a") == 4
        assert window.wait("b") == 0
        time.now = 10
        assert window.wait("a") == 0
        time.now = 16
        assert window.wait("a") == 0

    def test_what_was_right_does_not_count(self, time: Time) -> None:
        window = Window(1, 10, time)
        window.count("a")
        window.forgive("a")
        window.forgive("never")
        assert window.wait("a") == 0

    def test_it_remembers_no_more_than_fits(self, time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(guard_module, "_CAPACITY", 2)
        window = Window(1, 10, time)
        for key in "abc":
            window.count(key)
        assert [window.wait(key) for key in "abc"] == [0, 10, 10]


class TestGuard:
    def test_one_address_is_stopped_before_the_account_is(self, time: Time) -> None:
        guard = Guard(IdentitySettings(wrong_passwords_per_account=2), time)
        for _ in range(2):
            guard.password("ada", "192.0.2.1")
        with pytest.raises(TooManyRequests):
            guard.password("ada", "192.0.2.1")
        guard.password("ada", "192.0.2.2")

    def test_an_account_is_stopped_for_all_addresses_in_the_end(self, time: Time) -> None:
        guard = Guard(IdentitySettings(wrong_passwords_per_account=2), time)
        for number in range(20):
            guard.password("ada", f"192.0.2.{number}")
        with pytest.raises(TooManyRequests) as caught:
            guard.password("ada", "192.0.2.99")
        assert caught.value.headers["Retry-After"] == "900"

    def test_one_address_tries_few_accounts(self, time: Time) -> None:
        guard = Guard(IdentitySettings(wrong_passwords_per_address=3), time)
        for name in "abc":
            guard.password(name, None)
        with pytest.raises(TooManyRequests):
            guard.password("d", None)

    def test_an_attempt_counts_from_its_beginning(self, time: Time) -> None:
        guard = Guard(IdentitySettings(wrong_passwords_per_account=1), time)
        first = guard.password("ada", "192.0.2.1")
        with pytest.raises(TooManyRequests):
            guard.password("ada", "192.0.2.1")
        first.succeeded()
        guard.password("ada", "192.0.2.1")

    def test_mails_anybody_may_ask_for_are_held_back_without_a_word(self, time: Time) -> None:
        guard = Guard(IdentitySettings(mails_per_account=2), time)
        assert [guard.may_mail("ada@example.com") for _ in range(4)] == [True, True, False, False]
        assert guard.may_mail("grace@example.com")
        time.now = 3600
        assert guard.may_mail("ada@example.com")

    def test_one_address_asks_for_few_resets(self, time: Time) -> None:
        guard = Guard(IdentitySettings(resets_per_address=2), time)
        for _ in range(2):
            guard.reset("192.0.2.1")
        with pytest.raises(TooManyRequests):
            guard.reset("192.0.2.1")
        guard.reset("192.0.2.2")


class TestOverHttp:
    @pytest_asyncio.fixture
    async def guarded(
        self, settings: Settings, service_app: ServiceFactory, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[httpx.AsyncClient]:
        """An application of its own, with limits, called by somebody without a credential."""
        await service_app("identity")  # the one that all tests share is made before, without limits
        for name in ("WRONG_PASSWORDS_PER_ACCOUNT", "SIGN_UPS_PER_ADDRESS", "MAILS_PER_ACCOUNT"):
            monkeypatch.setenv(f"GUARDIAN_IDENTITY_{name}", "2")
        app = create_app(settings)
        anonymous = Principal(NIL, "anonymous", "anonymous", client_address="192.0.2.1", request_id="test-request")
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(
                transport=httpx.ASGITransport(app=app),
                base_url="http://identity",
                auth=SignedAs(settings, "identity", anonymous),
            ) as made,
        ):
            yield made

    async def test_429_a_password_is_guessed(self, guarded: httpx.AsyncClient, owner: Person) -> None:
        body = {"email": owner.email, "password": PASSWORD}
        for _ in range(3):
            assert (await guarded.post("/v1/sessions", json=body)).status_code == 201
        for _ in range(2):
            answer = await guarded.post("/v1/sessions", json=body | {"password": "wrong"})
            problem(answer, 401, "invalid_credentials")
        answer = await guarded.post("/v1/sessions", json=body)
        problem(answer, 429, "too_many_requests")
        assert 0 < int(answer.headers["retry-after"]) <= 900

    async def test_429_the_same_for_an_address_nobody_has(self, guarded: httpx.AsyncClient) -> None:
        body = {"email": sign_up_body()["email"], "password": "wrong"}
        statuses = [(await guarded.post("/v1/sessions", json=body)).status_code for _ in range(3)]
        assert statuses == [401, 401, 429]

    async def test_429_sign_ups(self, guarded: httpx.AsyncClient) -> None:
        statuses = [(await guarded.post("/v1/sign-up", json=sign_up_body())).status_code for _ in range(3)]
        assert statuses == [201, 201, 429]

    async def test_202_no_stranger_stops_a_recovery_but_the_mails_are_limited(
        self, guarded: httpx.AsyncClient, identity: Database, settings: Settings
    ) -> None:
        for email in [sign_up_body()["email"] for _ in range(2)]:
            body = {"email": email}
            answers = [await guarded.post("/v1/password-resets", json=body) for _ in range(4)]
            assert [answer.status_code for answer in answers] == [202] * 4
            assert {answer.content for answer in answers} == {b'{"status":"accepted"}'}
            orders: list[Any] = await identity.pool.fetch(
                "SELECT id, sealed FROM identity.mail_outbox WHERE kind = 'password_reset'"
            )
            assert [ordered_address(settings, row) for row in orders].count(email) == 2

    async def test_429_on_a_page(self, guarded: httpx.AsyncClient) -> None:
        answers = [await guarded.post("/accept-invitation", data={"token": "x" * 43}) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [400, 400, 429]
        assert "too many attempts" in answers[2].text
        assert int(answers[2].headers["retry-after"]) > 0


class TestSettings:
    def test_limits_hold_outside_tests(self, settings: Settings) -> None:
        development = settings.model_copy(update={"environment": "development"})
        assert IdentitySettings.of(development).wrong_passwords_per_account == 10

    def test_lifetimes_are_the_same_in_tests(self, settings: Settings) -> None:
        assert IdentitySettings.of(settings).session_days == 14
