import asyncio
from uuid import UUID

import httpx
import pytest

from services.identity import passwords
from shared.clock import FixedClock
from shared.testing.client import ClientFactory
from tests.services.identity.support import (
    ADDRESS,
    NOWHERE,
    PASSWORD,
    Events,
    People,
    Person,
    cookie,
    of_type,
    person,
    problem,
    same_problem,
    sign_up_body,
)


class TestSignIn:
    """POST /v1/sessions"""

    async def test_201_a_session_and_its_cookie(
        self, owner: Person, anyone: httpx.AsyncClient, client: ClientFactory, events: Events
    ) -> None:
        body = {"email": owner.email.upper(), "password": PASSWORD}
        answer = await anyone.post("/v1/sessions", json=body, headers={"User-Agent": "curl/8"})
        assert answer.status_code == 201
        assert answer.json()["user"] == owner.user
        assert cookie(answer) not in answer.text
        again = await person(client, answer)
        assert again.session["organization_id"] == str(owner.organization_id)
        assert (again.session["user_agent"], again.session["client_address"]) == ("curl/8", ADDRESS)
        event = of_type(await events(owner.organization_id), "user.signed_in")[-1]
        assert event["data"] == {
            "session_id": again.session["id"], "method": "password", "client_address": ADDRESS, "user_agent": "curl/8",
        }  # fmt: skip
        assert event["sequence"] == f"{3:020}"

    async def test_201_in_the_organisation_asked_for(self, owner: Person, anyone: httpx.AsyncClient) -> None:
        made = await owner.http.post("/v1/organizations", json={"name": "Second", "data_region": "us"})
        body = {"email": owner.email, "password": PASSWORD}
        first = await anyone.post("/v1/sessions", json=body)
        second = await anyone.post("/v1/sessions", json=body | {"organization_id": made.json()["id"]})
        assert first.json()["session"]["organization_id"] == str(owner.organization_id)
        assert second.json()["session"]["organization_id"] == made.json()["id"]

    async def test_201_the_same_character_typed_another_way(self, sign_up: People, anyone: httpx.AsyncClient) -> None:
        composed, decomposed = "caf\u00e9-au-lait-at-noon", "cafe\u0301-au-lait-at-noon"
        owner = await sign_up(password=composed)
        answer = await anyone.post("/v1/sessions", json={"email": owner.email, "password": decomposed})
        assert answer.status_code == 201

    async def test_201_many_keyed_ones_at_once(self, owner: Person, anyone: httpx.AsyncClient) -> None:
        """A keyed request holds the one connection it needs: more of them than the pool has all get through."""
        body = {"email": owner.email, "password": PASSWORD}
        answers = await asyncio.gather(
            *(anyone.post("/v1/sessions", json=body, headers={"Idempotency-Key": f"key-{n}"}) for n in range(12))
        )
        assert {answer.status_code for answer in answers} == {201}

    async def test_401_a_wrong_password_is_a_fact(
        self, owner: Person, anyone: httpx.AsyncClient, events: Events
    ) -> None:
        answer = await anyone.post("/v1/sessions", json={"email": owner.email, "password": "wrong"})
        problem(answer, 401, "invalid_credentials")
        assert "set-cookie" not in answer.headers
        (event,) = of_type(await events(owner.organization_id), "user.sign_in_failed")
        assert event["data"] == {"reason": "wrong_password", "client_address": ADDRESS}
        assert (event["subject"], event["authtype"]) == (owner.user["id"], "unauthenticated")

    async def test_401_an_unknown_address_answers_the_same(self, owner: Person, anyone: httpx.AsyncClient) -> None:
        wrong = await anyone.post("/v1/sessions", json={"email": owner.email, "password": "wrong"})
        unknown = await anyone.post("/v1/sessions", json={"email": sign_up_body()["email"], "password": "wrong"})
        problem(unknown, 401, "invalid_credentials")
        same_problem(wrong, unknown)

    async def test_401_an_unknown_address_costs_a_verification_too(
        self, owner: Person, anyone: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        verified: list[str] = []
        real = passwords._verify

        def counting(encoded: str, password: str) -> bool:
            verified.append(encoded)
            return real(encoded, password)

        monkeypatch.setattr(passwords, "_verify", counting)
        for email in (owner.email, sign_up_body()["email"]):
            await anyone.post("/v1/sessions", json={"email": email, "password": "wrong"})
        known, unknown = verified
        assert unknown == passwords._DUMMY
        assert known.split("$")[1:4] == unknown.split("$")[1:4], "the same algorithm with the same costs"

    async def test_401_even_when_the_dummys_password_is_guessed(self, anyone: httpx.AsyncClient) -> None:
        body = {"email": sign_up_body()["email"], "password": "a password that belongs to nobody"}
        problem(await anyone.post("/v1/sessions", json=body), 401, "invalid_credentials")

    async def test_404_an_organisation_of_others(
        self, owner: Person, stranger: Person, anyone: httpx.AsyncClient
    ) -> None:
        body = {"email": owner.email, "password": PASSWORD}
        foreign = await anyone.post("/v1/sessions", json=body | {"organization_id": str(stranger.organization_id)})
        nowhere = await anyone.post("/v1/sessions", json=body | {"organization_id": NOWHERE})
        problem(foreign, 404, "not_found")
        same_problem(foreign, nowhere)

    async def test_422_an_unknown_field(self, anyone: httpx.AsyncClient) -> None:
        answer = await anyone.post("/v1/sessions", json={"email": "a@example.com", "password": "x", "remember": True})
        problem(answer, 422, "validation_failed", "/remember")


class TestListSessions:
    """GET /v1/sessions"""

    async def test_200_page_by_page(self, owner: Person, stranger: Person, anyone: httpx.AsyncClient) -> None:
        await anyone.post("/v1/sessions", json={"email": owner.email, "password": PASSWORD})
        first = (await owner.http.get("/v1/sessions?limit=1")).json()
        assert first["has_more"]
        second = (await owner.http.get("/v1/sessions", params={"limit": 1, "cursor": first["next_cursor"]})).json()
        assert [each["current"] for each in first["data"] + second["data"]] == [True, False]
        assert not second["has_more"]
        assert stranger.session["id"] not in str(first) + str(second)

    async def test_400_a_cursor_of_something_else(self, owner: Person) -> None:
        problem(await owner.http.get("/v1/sessions?cursor=nonsense"), 400, "invalid_cursor", "cursor")

    async def test_401_without_a_credential(self, anyone: httpx.AsyncClient) -> None:
        problem(await anyone.get("/v1/sessions"), 401, "unauthenticated")

    async def test_403_for_an_api_key(self, owner: Person) -> None:
        problem(await (await owner.through_key()).get("/v1/sessions"), 403, "user_required")


class TestGetCurrentSession:
    """GET /v1/sessions/current"""

    async def test_200(self, owner: Person) -> None:
        answer = await owner.http.get("/v1/sessions/current")
        assert (answer.status_code, answer.json()) == (200, owner.session)

    async def test_401_after_it_has_expired(self, frozen_clock: FixedClock, sign_up: People) -> None:
        owner = await sign_up()
        frozen_clock.advance(days=14)
        problem(await owner.http.get("/v1/sessions/current"), 401, "session_expired")


class TestSignOut:
    """DELETE /v1/sessions/current"""

    async def test_204_the_session_and_the_cookie_go(self, owner: Person, events: Events) -> None:
        answer = await owner.http.delete("/v1/sessions/current")
        assert answer.status_code == 204
        assert answer.headers["set-cookie"].startswith("guardian_session=; Path=/; Max-Age=0;")
        problem(await owner.http.get("/v1/sessions/current"), 401, "session_expired")
        (event,) = of_type(await events(owner.organization_id), "user.signed_out")
        assert event["data"] == {"session_id": owner.session["id"]}

    async def test_401_without_a_credential(self, anyone: httpx.AsyncClient) -> None:
        problem(await anyone.delete("/v1/sessions/current"), 401, "unauthenticated")


class TestEndSession:
    """DELETE /v1/sessions/{session_id}"""

    async def test_204_a_session_elsewhere(
        self, owner: Person, anyone: httpx.AsyncClient, client: ClientFactory
    ) -> None:
        credentials = {"email": owner.email, "password": PASSWORD}
        other = await person(client, await anyone.post("/v1/sessions", json=credentials))
        assert (await owner.http.delete(f"/v1/sessions/{other.session['id']}")).status_code == 204
        problem(await other.http.get("/v1/sessions/current"), 401, "session_expired")

    async def test_404_a_session_of_somebody_else(self, owner: Person, stranger: Person) -> None:
        foreign = await owner.http.delete(f"/v1/sessions/{stranger.session['id']}")
        problem(foreign, 404, "not_found")
        same_problem(foreign, await owner.http.delete(f"/v1/sessions/{NOWHERE}"))
        assert (await stranger.http.get("/v1/sessions/current")).status_code == 200

    async def test_422_not_an_id(self, owner: Person) -> None:
        problem(await owner.http.delete("/v1/sessions/7"), 422, "validation_failed", "session_id")


class TestSwitchOrganization:
    """POST /v1/sessions/current/organization"""

    async def test_200_the_session_works_elsewhere(self, owner: Person, events: Events) -> None:
        made = await owner.http.post("/v1/organizations", json={"name": "Second", "data_region": "us"})
        target = made.json()["id"]
        for _ in range(2):
            answer = await owner.http.post("/v1/sessions/current/organization", json={"organization_id": target})
            assert (answer.status_code, answer.json()["organization_id"]) == (200, target)
        (event,) = of_type(await events(UUID(target)), "user.signed_in")
        assert event["data"]["method"] == "switch"

    async def test_404_an_organisation_of_others(self, owner: Person, stranger: Person) -> None:
        path = "/v1/sessions/current/organization"
        foreign = await owner.http.post(path, json={"organization_id": str(stranger.organization_id)})
        problem(foreign, 404, "not_found")
        same_problem(foreign, await owner.http.post(path, json={"organization_id": NOWHERE}))

    async def test_401_without_a_credential(self, anyone: httpx.AsyncClient) -> None:
        answer = await anyone.post("/v1/sessions/current/organization", json={"organization_id": NOWHERE})
        problem(answer, 401, "unauthenticated")
