from dataclasses import replace
from datetime import timedelta

import httpx
import pytest

from services.identity.domain import ROLES
from shared import clock
from shared.auth import api_key
from shared.clock import FixedClock
from tests.services.identity.support import NOWHERE, Events, People, Person, of_type, problem, same_problem

BODY = {"name": "Import", "scopes": ["contacts:write", "contacts:read", "contacts:read"]}


async def make(owner: Person, **fields: object) -> dict[str, str]:
    answer = await owner.http.post("/v1/api-keys", json=BODY | fields)
    assert answer.status_code == 201, answer.text
    made: dict[str, str] = answer.json()
    return made


class TestCreateApiKey:
    """POST /v1/api-keys"""

    async def test_201_its_text_is_shown_once(self, owner: Person, events: Events, postgres: str) -> None:
        answer = await owner.http.post("/v1/api-keys", json=BODY)
        made = answer.json()
        assert answer.status_code == 201
        assert answer.headers["location"] == f"/v1/api-keys/{made['id']}"
        parsed = api_key.parse(made["key"])
        assert parsed is not None
        assert (parsed.public_id, parsed.mode) == (made["public_id"], "live")
        assert made["scopes"] == ["contacts:read", "contacts:write"]
        assert made["created_by"] == owner.user["id"]
        again = await owner.http.get(f"/v1/api-keys/{made['id']}")
        assert again.json() == {name: value for name, value in made.items() if name != "key"}
        published = await events(owner.organization_id)
        assert of_type(published, "api_key.created")[0]["subject"] == made["id"]
        assert made["key"][20:] not in str(published)

    async def test_201_for_tests_and_for_a_while(self, owner: Person, frozen_clock: FixedClock) -> None:
        made = await make(owner, mode="test", expires_in=60, scopes=[])
        assert made["key"].startswith("gdn_test_")
        assert made["expires_at"] == "2026-01-15T12:01:00Z"
        assert (await make(owner, expires_at="2027-01-01T00:00:00+02:00"))["expires_at"] == "2026-12-31T22:00:00Z"

    async def test_201_the_same_request_again_shows_the_same_text(self, owner: Person) -> None:
        headers = {"Idempotency-Key": "key-1"}
        first = await owner.http.post("/v1/api-keys", json=BODY, headers=headers)
        second = await owner.http.post("/v1/api-keys", json=BODY, headers=headers)
        assert second.headers["idempotency-replayed"] == "true"
        assert first.json() == second.json()
        assert len((await owner.http.get("/v1/api-keys")).json()["data"]) == 1

    async def test_201_a_key_makes_a_lesser_key_of_the_same_person(self, owner: Person) -> None:
        key = await owner.through_key("api_keys:write", "contacts:read")
        answer = await key.post("/v1/api-keys", json={"name": "n", "scopes": ["contacts:read"]})
        assert answer.json()["created_by"] == owner.user["id"]

    async def test_401_and_403(self, owner: Person, anyone: httpx.AsyncClient, join: People) -> None:
        problem(await anyone.post("/v1/api-keys", json=BODY), 401, "unauthenticated")
        problem(await (await join(owner)).http.post("/v1/api-keys", json=BODY), 403, "missing_scope")

    async def test_403_a_scope_its_creator_lacks(self, owner: Person) -> None:
        limited = await owner.limited_to("api_keys:write", "contacts:read")
        problem(await limited.post("/v1/api-keys", json=BODY), 403, "scopes_exceed_caller")

    async def test_422_a_scope_there_is_not(self, owner: Person) -> None:
        answer = await owner.http.post("/v1/api-keys", json=BODY | {"scopes": ["moon:read"]})
        problem(answer, 422, "unknown_scope", "/scopes")

    async def test_422_an_expiry_in_the_past_or_twice(self, owner: Person) -> None:
        past = (clock.now() - timedelta(seconds=1)).isoformat()
        answer = await owner.http.post("/v1/api-keys", json=BODY | {"expires_at": past})
        problem(answer, 422, "expires_in_the_past", "/expires_at")
        twice = {"expires_at": "2100-01-01T00:00:00Z", "expires_in": 5}
        problem(await owner.http.post("/v1/api-keys", json=BODY | twice), 422, "validation_failed")


class TestListApiKeys:
    """GET /v1/api-keys"""

    async def test_200_page_by_page_and_only_ones_own(self, owner: Person, stranger: Person) -> None:
        made = [await make(owner), await make(owner)]
        await make(stranger)
        first = (await owner.http.get("/v1/api-keys?limit=1")).json()
        second = (await owner.http.get(f"/v1/api-keys?cursor={first['next_cursor']}")).json()
        assert [each["id"] for each in first["data"] + second["data"]] == [each["id"] for each in made]
        assert "key" not in first["data"][0]

    async def test_401(self, anyone: httpx.AsyncClient) -> None:
        problem(await anyone.get("/v1/api-keys"), 401, "unauthenticated")


class TestGetApiKey:
    """GET /v1/api-keys/{key_id}"""

    async def test_304_unchanged(self, owner: Person) -> None:
        path = f"/v1/api-keys/{(await make(owner))['id']}"
        assert (await owner.http.get(path, headers={"If-None-Match": '"1"'})).status_code == 304

    async def test_404_of_another_organisation(self, owner: Person, stranger: Person) -> None:
        foreign = await owner.http.get(f"/v1/api-keys/{(await make(stranger))['id']}")
        problem(foreign, 404, "not_found")
        same_problem(foreign, await owner.http.get(f"/v1/api-keys/{NOWHERE}"))


class TestUpdateApiKey:
    """PATCH /v1/api-keys/{key_id}"""

    async def test_200(self, owner: Person, events: Events) -> None:
        path = f"/v1/api-keys/{(await make(owner))['id']}"
        body = {"name": "Nightly", "scopes": ["contacts:read"], "expires_at": "2100-01-01T00:00:00Z"}
        answer = await owner.http.patch(path, json=body, headers={"If-Match": '"1"'})
        assert (answer.status_code, answer.headers["etag"]) == (200, '"2"')
        assert {name: answer.json()[name] for name in body} == body
        (event,) = of_type(await events(owner.organization_id), "api_key.updated")
        assert set(event["data"]["changes"]) == set(body)

    async def test_200_nothing_new(self, owner: Person) -> None:
        path = f"/v1/api-keys/{(await make(owner))['id']}"
        answer = await owner.http.patch(path, json={"name": "Import", "scopes": BODY["scopes"]})
        assert (answer.status_code, answer.headers["etag"]) == (200, '"1"')

    async def test_403_a_scope_the_caller_lacks(self, owner: Person) -> None:
        path = f"/v1/api-keys/{(await make(owner, scopes=[]))['id']}"
        limited = await owner.limited_to("api_keys:write")
        problem(await limited.patch(path, json={"scopes": ["contacts:read"]}), 403, "scopes_exceed_caller")

    @pytest.mark.parametrize("expires_at", ["2100-01-02T00:00:00Z", None])
    async def test_403_a_longer_life_for_a_key_that_may_more(self, owner: Person, expires_at: str | None) -> None:
        path = f"/v1/api-keys/{(await make(owner, expires_at='2100-01-01T00:00:00Z'))['id']}"
        weak = await owner.through_key("api_keys:read", "api_keys:write", "contacts:read")
        answer = await weak.patch(path, json={"name": "Mine", "expires_at": expires_at})
        problem(answer, 403, "scopes_exceed_caller")
        kept = (await owner.http.get(path)).json()
        assert (kept["name"], kept["expires_at"], kept["version"]) == ("Import", "2100-01-01T00:00:00Z", 1)
        covering = await owner.through_key("api_keys:write", "contacts:read", "contacts:write")
        assert (await covering.patch(path, json={"expires_at": expires_at})).json()["expires_at"] == expires_at

    @pytest.mark.parametrize("scopes", [[], ["contacts:read"]])
    async def test_403_other_scopes_for_a_key_that_may_more(self, owner: Person, scopes: list[str]) -> None:
        path = f"/v1/api-keys/{(await make(owner))['id']}"
        weak = await owner.through_key("api_keys:read", "api_keys:write", "contacts:read")
        problem(await weak.patch(path, json={"scopes": scopes}), 403, "scopes_exceed_caller")
        assert (await owner.http.get(path)).json()["scopes"] == ["contacts:read", "contacts:write"]

    @pytest.mark.parametrize("expires_at", ["2100-01-01T00:00:00Z", None])
    async def test_200_less_power_for_a_key_that_may_more(self, owner: Person, expires_at: str | None) -> None:
        path = f"/v1/api-keys/{(await make(owner, expires_at=expires_at))['id']}"
        weak = await owner.through_key("api_keys:write")
        same = {"name": "Old", "expires_at": expires_at}
        assert (await weak.patch(path, json=same)).json()["name"] == "Old"
        sooner = {"expires_at": "2099-01-01T00:00:00Z"}
        assert (await weak.patch(path, json=sooner)).json()["expires_at"] == sooner["expires_at"]
        assert (await weak.delete(path)).status_code == 204

    async def test_404_of_another_organisation(self, owner: Person, stranger: Person) -> None:
        path = f"/v1/api-keys/{(await make(stranger))['id']}"
        foreign = await owner.http.patch(path, json={"name": "Mine"})
        problem(foreign, 404, "not_found")
        same_problem(foreign, await owner.http.patch(f"/v1/api-keys/{NOWHERE}", json={"name": "Mine"}))
        assert (await stranger.http.get(path)).json()["name"] == "Import"

    async def test_409_a_revoked_one(self, owner: Person) -> None:
        path = f"/v1/api-keys/{(await make(owner))['id']}"
        await owner.http.delete(path)
        problem(await owner.http.patch(path, json={"name": "Back"}), 409, "api_key_revoked")

    async def test_412_and_422(self, owner: Person) -> None:
        path = f"/v1/api-keys/{(await make(owner))['id']}"
        answer = await owner.http.patch(path, json={"name": "X"}, headers={"If-Match": '"3"'})
        problem(answer, 412, "precondition_failed")
        problem(await owner.http.patch(path, json={"name": ""}), 422, "validation_failed", "/name")
        past = {"expires_at": "2001-01-01T00:00:00Z"}
        problem(await owner.http.patch(path, json=past), 422, "expires_in_the_past", "/expires_at")


class TestRevokeApiKey:
    """DELETE /v1/api-keys/{key_id}"""

    async def test_204_for_good(self, owner: Person, events: Events) -> None:
        path = f"/v1/api-keys/{(await make(owner))['id']}"
        for _ in range(2):
            assert (await owner.http.delete(path)).status_code == 204
        assert (await owner.http.get(path)).json()["revoked_at"]
        (event,) = of_type(await events(owner.organization_id), "api_key.revoked")
        assert event["data"]["reason"] == "revoked"

    async def test_404_of_another_organisation(self, owner: Person, stranger: Person) -> None:
        path = f"/v1/api-keys/{(await make(stranger))['id']}"
        foreign = await owner.http.delete(path)
        problem(foreign, 404, "not_found")
        same_problem(foreign, await owner.http.delete(f"/v1/api-keys/{NOWHERE}"))
        assert (await stranger.http.get(path)).json()["revoked_at"] is None

    async def test_403_and_412(self, owner: Person) -> None:
        path = f"/v1/api-keys/{(await make(owner))['id']}"
        problem(await (await owner.limited_to("api_keys:read")).delete(path), 403, "missing_scope")
        problem(await owner.http.delete(path, headers={"If-Match": '"3"'}), 412, "precondition_failed")


class TestRerollApiKey:
    """POST /v1/api-keys/{key_id}/reroll"""

    async def test_201_both_work_for_the_overlap(self, frozen_clock: FixedClock, owner: Person, events: Events) -> None:
        old = await make(owner, expires_in=86_400)
        answer = await owner.http.post(f"/v1/api-keys/{old['id']}/reroll", json={"overlap_seconds": 3600})
        new = answer.json()
        assert answer.status_code == 201
        assert api_key.parse(new["key"]) is not None
        assert {n: new[n] for n in ("name", "scopes", "mode", "expires_at", "rotated_from")} == {
            **{n: old[n] for n in ("name", "scopes", "mode", "expires_at")}, "rotated_from": old["id"],
        }  # fmt: skip
        kept = (await owner.http.get(f"/v1/api-keys/{old['id']}")).json()
        assert (kept["replaced_by"], kept["overlap_ends_at"]) == (new["id"], "2026-01-15T13:00:00Z")
        assert kept["revoked_at"] is None
        (event,) = of_type(await events(owner.organization_id), "api_key.rotated")
        assert (event["subject"], event["data"]["replaced_by"]) == (old["id"], new["id"])

    async def test_201_without_an_overlap_the_old_one_is_revoked(self, owner: Person, events: Events) -> None:
        old = await make(owner)
        body = {"overlap_seconds": 0, "expires_at": "2100-01-01T00:00:00Z"}
        answer = await owner.http.post(f"/v1/api-keys/{old['id']}/reroll", json=body)
        assert answer.json()["expires_at"] == "2100-01-01T00:00:00Z"
        assert (await owner.http.get(f"/v1/api-keys/{old['id']}")).json()["revoked_at"]
        published = await events(owner.organization_id)
        assert [each["type"] for each in published if each["subject"] == old["id"]] == [
            "api_key.created", "api_key.rotated", "api_key.revoked",
        ]  # fmt: skip

    async def test_403_a_key_that_may_more_than_the_caller(self, owner: Person) -> None:
        old = await make(owner)
        limited = await owner.limited_to("api_keys:write")
        problem(await limited.post(f"/v1/api-keys/{old['id']}/reroll", json={}), 403, "scopes_exceed_caller")

    async def test_403_for_a_caller_nobody_answers_for(self, owner: Person) -> None:
        service = replace(owner.principal, actor_type="service", actor_id="x", scopes=ROLES["owner"])
        unowned = await owner.connect("identity", service)
        problem(await unowned.post("/v1/api-keys", json=BODY), 403, "user_required")

    async def test_404_of_another_organisation(self, owner: Person, stranger: Person) -> None:
        foreign = await owner.http.post(f"/v1/api-keys/{(await make(stranger))['id']}/reroll", json={})
        problem(foreign, 404, "not_found")
        same_problem(foreign, await owner.http.post(f"/v1/api-keys/{NOWHERE}/reroll", json={}))

    async def test_409_only_the_latest_one(self, owner: Person) -> None:
        old = await make(owner)
        await owner.http.post(f"/v1/api-keys/{old['id']}/reroll", json={})
        answer = await owner.http.post(f"/v1/api-keys/{old['id']}/reroll", json={})
        problem(answer, 409, "already_rerolled")

    async def test_409_after_the_overlap(self, frozen_clock: FixedClock, owner: Person) -> None:
        old = await make(owner)
        await owner.http.post(f"/v1/api-keys/{old['id']}/reroll", json={"overlap_seconds": 60})
        frozen_clock.advance(seconds=60)
        answer = await owner.http.patch(f"/v1/api-keys/{old['id']}", json={"name": "X"})
        problem(answer, 409, "api_key_expired")

    async def test_422_an_overlap_over_thirty_days(self, owner: Person) -> None:
        old = await make(owner)
        for seconds in (-1, 2_592_001):
            answer = await owner.http.post(f"/v1/api-keys/{old['id']}/reroll", json={"overlap_seconds": seconds})
            problem(answer, 422, "validation_failed", "/overlap_seconds")
