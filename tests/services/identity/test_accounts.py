from dataclasses import replace

import httpx
import pytest

from services.identity.cookies import session_cookie
from shared.auth import Principal
from shared.clock import FixedClock
from shared.ids import NIL
from shared.settings import Settings
from shared.testing.client import ClientFactory
from tests.services.identity.support import (
    NOWHERE,
    PASSWORD,
    Events,
    Outgoing,
    People,
    Person,
    cookie,
    of_type,
    outbox,
    person,
    problem,
    sign_up_body,
    token_in,
)

NEW_PASSWORD = "a-brand-new-steam-whistle"


class TestSignUp:
    """POST /v1/sign-up"""

    async def test_201_an_organisation_its_owner_and_a_session(self, anyone: httpx.AsyncClient) -> None:
        body = sign_up_body(email="Ada.Lovelace+new@Example.COM", name=" Ada ")
        answer = await anyone.post("/v1/sign-up", json=body)
        assert answer.status_code == 201
        made = answer.json()
        assert (made["organization"]["name"], made["organization"]["data_region"]) == ("Analytical Engines", "eu")
        assert (made["user"]["email"], made["user"]["name"]) == ("ada.lovelace+new@example.com", "Ada")
        assert made["user"]["email_verified_at"] is None
        assert made["session"]["organization_id"] == made["organization"]["id"]
        assert made["session"]["current"]
        assert "password" not in answer.text
        assert cookie(answer) not in answer.text

    async def test_the_cookie_is_for_this_host_and_not_for_scripts(self, anyone: httpx.AsyncClient) -> None:
        answer = await anyone.post("/v1/sign-up", json=sign_up_body())
        assert answer.headers["set-cookie"].split("; ")[1:] == ["Path=/", "Max-Age=1209600", "HttpOnly", "SameSite=Lax"]

    async def test_the_facts(self, owner: Person, events: Events) -> None:
        published = await events(owner.organization_id)
        assert [each["type"] for each in published] == [
            "organization.created", "member.added", "user.signed_up", "user.signed_in",
        ]  # fmt: skip
        assert {each["authid"] for each in published} == {owner.user["id"]}
        assert published[0]["dataregion"] == "eu"
        assert published[3]["data"]["method"] == "sign_up"
        assert [each["sequence"] for each in published[2:]] == [f"{1:020}", f"{2:020}"]

    async def test_a_mail_asks_for_confirmation(self, owner: Person, outgoing: Outgoing) -> None:
        (mail,) = await outgoing(owner.email)
        assert mail.subject == "Confirm your e-mail address"
        assert "/verify-email?token=" in mail.text

    async def test_the_same_key_again_is_the_same_organisation(self, anyone: httpx.AsyncClient) -> None:
        headers, body = {"Idempotency-Key": "sign-up"}, sign_up_body()
        first = await anyone.post("/v1/sign-up", json=body, headers=headers)
        second = await anyone.post("/v1/sign-up", json=body, headers=headers)
        assert second.headers["idempotency-replayed"] == "true"
        assert (second.json(), cookie(second)) == (first.json(), cookie(first))

    async def test_the_same_key_of_somebody_else_is_another_one(
        self, anyone: httpx.AsyncClient, client: ClientFactory
    ) -> None:
        elsewhere = Principal(NIL, "anonymous", "anonymous", client_address="198.51.100.9", request_id="test-request")
        for caller in (anyone, await client("identity", elsewhere)):
            answer = await caller.post("/v1/sign-up", json=sign_up_body(), headers={"Idempotency-Key": "first"})
            assert answer.status_code == 201

    async def test_409_an_address_that_has_an_account(self, owner: Person, anyone: httpx.AsyncClient) -> None:
        answer = await anyone.post("/v1/sign-up", json=sign_up_body(email=owner.email.upper()))
        problem(answer, 409, "email_taken", "/email")

    @pytest.mark.parametrize(
        "field, value",
        [
            ("email", "nobody"),
            ("email", "a,b@example.com"),
            ("email", "a b@example.com"),
            ("email", "a@b@example.com"),
            ("password", "short"),
            ("password", "x" * 201),
            ("password", "with-a-nul-\x00-inside"),
            ("data_region", "moon"),
            ("name", "  "),
            ("organization", "two\nlines"),
        ],
    )
    async def test_422_a_field_that_does_not_do(self, anyone: httpx.AsyncClient, field: str, value: str) -> None:
        answer = await anyone.post("/v1/sign-up", json=sign_up_body(**{field: value}))
        problem(answer, 422, "validation_failed", f"/{field}")

    async def test_422_an_unknown_field(self, anyone: httpx.AsyncClient) -> None:
        problem(await anyone.post("/v1/sign-up", json=sign_up_body(role="god")), 422, "validation_failed", "/role")

    async def test_422_a_password_that_is_tried_first(self, anyone: httpx.AsyncClient) -> None:
        answer = await anyone.post("/v1/sign-up", json=sign_up_body(password="P@ssw0rd2026!"))
        problem(answer, 422, "password_too_common", "/password")


class TestGetMe:
    """GET /v1/me"""

    async def test_200_who_where_and_what(self, owner: Person) -> None:
        answer = await owner.http.get("/v1/me")
        assert answer.status_code == 200
        body = answer.json()
        assert body["user"] == owner.user
        assert [each["role"] for each in body["organizations"]] == ["owner"]
        assert body["organization_id"] == str(owner.organization_id)
        assert "contacts:write" in body["scopes"]
        assert answer.headers["etag"] == '"1"'

    async def test_401_without_a_credential(self, anyone: httpx.AsyncClient) -> None:
        problem(await anyone.get("/v1/me"), 401, "unauthenticated")

    async def test_403_for_an_api_key(self, owner: Person) -> None:
        problem(await (await owner.through_key("contacts:read")).get("/v1/me"), 403, "user_required")

    async def test_401_for_an_account_that_is_no_more(self, owner: Person, client: ClientFactory) -> None:
        ghost = await client("identity", replace(owner.principal, actor_id=NOWHERE))
        problem(await ghost.get("/v1/me"), 401, "session_expired")


class TestUpdateMe:
    """PATCH /v1/me"""

    async def test_200_another_name(self, owner: Person, events: Events) -> None:
        answer = await owner.http.patch("/v1/me", json={"name": "Ada King"}, headers={"If-Match": '"1"'})
        assert answer.status_code == 200
        assert (answer.json()["name"], answer.headers["etag"]) == ("Ada King", '"2"')
        (event,) = of_type(await events(owner.organization_id), "user.updated")
        assert event["data"]["changes"] == {"name": {"before": "Ada Lovelace", "after": "Ada King"}}

    async def test_200_the_same_name_changes_nothing(self, owner: Person, events: Events) -> None:
        answer = await owner.http.patch("/v1/me", json={"name": "Ada Lovelace"})
        assert answer.headers["etag"] == '"1"'
        assert of_type(await events(owner.organization_id), "user.updated") == []

    async def test_412_somebody_was_faster(self, owner: Person) -> None:
        answer = await owner.http.patch("/v1/me", json={"name": "Ada King"}, headers={"If-Match": '"7"'})
        problem(answer, 412, "precondition_failed")

    async def test_422_the_address_cannot_be_changed_here(self, owner: Person) -> None:
        answer = await owner.http.patch("/v1/me", json={"email": "new@example.com"})
        problem(answer, 422, "validation_failed", "/email")

    async def test_401_without_a_credential(self, anyone: httpx.AsyncClient) -> None:
        problem(await anyone.patch("/v1/me", json={}), 401, "unauthenticated")


class TestChangePassword:
    """POST /v1/me/password"""

    async def test_204_the_new_one_works_and_other_sessions_end(
        self, owner: Person, anyone: httpx.AsyncClient, client: ClientFactory, events: Events, outgoing: Outgoing
    ) -> None:
        credentials = {"email": owner.email, "password": PASSWORD}
        other = await person(client, await anyone.post("/v1/sessions", json=credentials))
        body = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
        assert (await owner.http.post("/v1/me/password", json=body)).status_code == 204
        problem(await anyone.post("/v1/sessions", json=credentials), 401, "invalid_credentials")
        assert (await anyone.post("/v1/sessions", json=credentials | {"password": NEW_PASSWORD})).status_code == 201
        problem(await other.http.get("/v1/sessions/current"), 401, "session_expired")
        assert (await owner.http.get("/v1/sessions/current")).status_code == 200
        (event,) = of_type(await events(owner.organization_id), "user.password_changed")
        assert event["data"] == {"method": "change", "sessions_ended": 1}
        assert [mail.subject for mail in await outgoing(owner.email)][-1] == "Your password was changed"

    async def test_422_the_present_password_is_another_one(self, owner: Person) -> None:
        body = {"current_password": "wrong", "new_password": NEW_PASSWORD}
        answer = await owner.http.post("/v1/me/password", json=body)
        problem(answer, 422, "wrong_password", "/current_password")

    async def test_422_the_new_one_is_tried_first(self, owner: Person) -> None:
        body = {"current_password": PASSWORD, "new_password": "qwertyuiop123"}
        answer = await owner.http.post("/v1/me/password", json=body)
        problem(answer, 422, "password_too_common", "/new_password")

    async def test_403_for_an_api_key(self, owner: Person) -> None:
        body = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
        problem(await (await owner.through_key()).post("/v1/me/password", json=body), 403, "user_required")


class TestSendEmailVerification:
    """POST /v1/email-verifications"""

    async def test_202_a_new_link_that_replaces_the_first(
        self, owner: Person, anyone: httpx.AsyncClient, outgoing: Outgoing
    ) -> None:
        answer = await owner.http.post("/v1/email-verifications")
        assert (answer.status_code, answer.json()) == (202, {"status": "accepted"})
        first, second = await outgoing(owner.email)
        confirm = "/v1/email-verifications/confirm"
        problem(await anyone.post(confirm, json={"token": token_in(first)}), 400, "invalid_token", "/token")
        assert (await anyone.post(confirm, json={"token": token_in(second)})).status_code == 204

    async def test_409_confirmed_already(self, owner: Person, anyone: httpx.AsyncClient, outgoing: Outgoing) -> None:
        token = token_in((await outgoing(owner.email))[0])
        await anyone.post("/v1/email-verifications/confirm", json={"token": token})
        problem(await owner.http.post("/v1/email-verifications"), 409, "already_verified")

    async def test_401_without_a_credential(self, anyone: httpx.AsyncClient) -> None:
        problem(await anyone.post("/v1/email-verifications"), 401, "unauthenticated")


class TestConfirmEmail:
    """POST /v1/email-verifications/confirm"""

    async def test_204_once(self, owner: Person, anyone: httpx.AsyncClient, outgoing: Outgoing, events: Events) -> None:
        body = {"token": token_in((await outgoing(owner.email))[0])}
        assert (await anyone.post("/v1/email-verifications/confirm", json=body)).status_code == 204
        assert (await owner.http.get("/v1/me")).json()["user"]["email_verified_at"]
        (event,) = of_type(await events(owner.organization_id), "user.email_verified")
        assert (event["authtype"], event["authid"]) == ("app_user", owner.user["id"])
        problem(await anyone.post("/v1/email-verifications/confirm", json=body), 400, "invalid_token", "/token")

    async def test_400_expired(
        self, frozen_clock: FixedClock, sign_up: People, anyone: httpx.AsyncClient, outgoing: Outgoing
    ) -> None:
        owner = await sign_up()
        token = token_in((await outgoing(owner.email))[0])
        frozen_clock.advance(days=3)
        answer = await anyone.post("/v1/email-verifications/confirm", json={"token": token})
        problem(answer, 400, "invalid_token")

    async def test_400_a_token_for_something_else(
        self, owner: Person, anyone: httpx.AsyncClient, outgoing: Outgoing
    ) -> None:
        body = {"token": token_in((await outgoing(owner.email))[0]), "password": NEW_PASSWORD}
        problem(await anyone.post("/v1/password-resets/confirm", json=body), 400, "invalid_token")

    async def test_422_not_a_token(self, anyone: httpx.AsyncClient) -> None:
        answer = await anyone.post("/v1/email-verifications/confirm", json={"token": "x"})
        problem(answer, 422, "validation_failed", "/token")


class TestRequestPasswordReset:
    """POST /v1/password-resets"""

    async def test_202_the_same_for_everybody(self, owner: Person, anyone: httpx.AsyncClient) -> None:
        known = await anyone.post("/v1/password-resets", json={"email": owner.email})
        unknown = await anyone.post("/v1/password-resets", json={"email": sign_up_body()["email"]})
        assert known.status_code == unknown.status_code == 202
        assert known.content == unknown.content
        assert known.headers == unknown.headers

    async def test_422_not_an_address(self, anyone: httpx.AsyncClient) -> None:
        answer = await anyone.post("/v1/password-resets", json={"email": "nobody"})
        problem(answer, 422, "validation_failed", "/email")


class TestSettingsOfProduction:
    async def test_the_cookie_is_bound_to_https(self, settings: Settings) -> None:
        production = settings.model_copy(update={"environment": "production"})
        assert session_cookie(production, "t", 5) == (
            "__Host-guardian_session=t; Path=/; Max-Age=5; HttpOnly; SameSite=Lax; Secure"
        )


async def test_another_organisation_hears_nothing(owner: Person, stranger: Person, postgres: str) -> None:
    await owner.http.patch("/v1/me", json={"name": "Ada King"})
    assert "Ada King" not in str(await outbox(postgres, stranger.organization_id))
