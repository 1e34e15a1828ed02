from dataclasses import replace

import httpx

from shared.ids import NIL
from shared.testing.client import ClientFactory
from tests.services.identity.support import Events, People, Person, of_type, problem


class TestGetOrganization:
    """GET /v1/organization"""

    async def test_200_the_callers_own(self, owner: Person) -> None:
        answer = await owner.http.get("/v1/organization")
        assert answer.status_code == 200
        assert answer.json()["id"] == str(owner.organization_id)
        assert answer.headers["etag"] == '"1"'

    async def test_304_unchanged(self, owner: Person) -> None:
        assert (await owner.http.get("/v1/organization", headers={"If-None-Match": '"1"'})).status_code == 304

    async def test_401_and_403(self, owner: Person, anyone: httpx.AsyncClient) -> None:
        problem(await anyone.get("/v1/organization"), 401, "unauthenticated")
        problem(await (await owner.limited_to("contacts:read")).get("/v1/organization"), 403, "missing_scope")

    async def test_404_for_somebody_in_none(self, owner: Person, client: ClientFactory) -> None:
        nowhere = await client("identity", replace(owner.principal, organization_id=NIL))
        problem(await nowhere.get("/v1/organization"), 404, "not_found")


class TestUpdateOrganization:
    """PATCH /v1/organization"""

    async def test_200_another_name(self, owner: Person, stranger: Person, events: Events) -> None:
        body = {"name": "Engines Ltd", "data_region": "eu"}
        answer = await owner.http.patch("/v1/organization", json=body, headers={"If-Match": '"1"'})
        assert (answer.status_code, answer.json()["name"], answer.headers["etag"]) == (200, "Engines Ltd", '"2"')
        (event,) = of_type(await events(owner.organization_id), "organization.updated")
        assert event["data"] == {"changes": {"name": {"before": "Analytical Engines", "after": "Engines Ltd"}}}
        assert (await stranger.http.get("/v1/organization")).json()["name"] == "Difference Engines"

    async def test_200_nothing_new(self, owner: Person) -> None:
        answer = await owner.http.patch("/v1/organization", json={"name": "Analytical Engines"})
        assert answer.headers["etag"] == '"1"'

    async def test_409_its_region_stays(self, owner: Person) -> None:
        answer = await owner.http.patch("/v1/organization", json={"data_region": "us"})
        problem(answer, 409, "data_region_fixed", "/data_region")

    async def test_412_somebody_was_faster(self, owner: Person) -> None:
        answer = await owner.http.patch("/v1/organization", json={"name": "X"}, headers={"If-Match": '"9"'})
        problem(answer, 412, "precondition_failed")

    async def test_401_and_403(self, owner: Person, anyone: httpx.AsyncClient, join: People) -> None:
        problem(await anyone.patch("/v1/organization", json={}), 401, "unauthenticated")
        viewer = await join(owner, "viewer")
        problem(await viewer.http.patch("/v1/organization", json={"name": "Mine"}), 403, "missing_scope")

    async def test_422_an_unknown_field(self, owner: Person) -> None:
        answer = await owner.http.patch("/v1/organization", json={"plan": "gold"})
        problem(answer, 422, "validation_failed", "/plan")


class TestCreateOrganization:
    """POST /v1/organizations"""

    async def test_201_owned_by_who_made_it(self, owner: Person, events: Events) -> None:
        answer = await owner.http.post("/v1/organizations", json={"name": "Second", "data_region": "ap"})
        assert (answer.status_code, answer.json()["data_region"]) == (201, "ap")
        organizations = (await owner.http.get("/v1/me")).json()["organizations"]
        assert [(each["name"], each["role"]) for each in organizations] == [
            ("Analytical Engines", "owner"), ("Second", "owner"),
        ]  # fmt: skip
        assert "Second" not in str(await events(owner.organization_id))

    async def test_401_403_422(self, owner: Person, anyone: httpx.AsyncClient) -> None:
        body = {"name": "Second", "data_region": "eu"}
        problem(await anyone.post("/v1/organizations", json=body), 401, "unauthenticated")
        problem(await (await owner.through_key()).post("/v1/organizations", json=body), 403, "user_required")
        answer = await owner.http.post("/v1/organizations", json=body | {"data_region": "mars"})
        problem(answer, 422, "validation_failed", "/data_region")


class TestListOrganizations:
    """GET /v1/organizations"""

    async def test_200_page_by_page_and_only_ones_own(self, owner: Person, stranger: Person) -> None:
        await owner.http.post("/v1/organizations", json={"name": "Second", "data_region": "us"})
        first = (await owner.http.get("/v1/organizations?limit=1")).json()
        second = (await owner.http.get(f"/v1/organizations?cursor={first['next_cursor']}")).json()
        names = [each["name"] for each in first["data"] + second["data"]]
        assert names == ["Analytical Engines", "Second"]
        assert (first["has_more"], second["has_more"]) == (True, False)

    async def test_401(self, anyone: httpx.AsyncClient) -> None:
        problem(await anyone.get("/v1/organizations"), 401, "unauthenticated")
