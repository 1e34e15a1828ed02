import asyncio

import httpx

from services.identity.domain import DESCRIPTIONS, ROLES
from tests.services.identity.support import NOWHERE, Events, People, Person, of_type, problem, same_problem


async def members(viewer: Person) -> dict[str, dict[str, str]]:
    """The organisation's members by their user's id."""
    answer = await viewer.http.get("/v1/members")
    assert answer.status_code == 200, answer.text
    return {each["user_id"]: each for each in answer.json()["data"]}


async def member_id(of: Person) -> str:
    return (await members(of))[of.user["id"]]["id"]


class TestListMembers:
    """GET /v1/members"""

    async def test_200_colleagues_and_nobody_else(self, owner: Person, stranger: Person, join: People) -> None:
        viewer = await join(owner, "viewer")
        found = await members(viewer)
        assert {each["role"] for each in found.values()} == {"owner", "viewer"}
        assert found[owner.user["id"]]["email"] == owner.email
        assert stranger.user["id"] not in found

    async def test_200_page_by_page(self, owner: Person, join: People) -> None:
        await join(owner)
        first = (await owner.http.get("/v1/members?limit=1")).json()
        second = (await owner.http.get(f"/v1/members?limit=1&cursor={first['next_cursor']}")).json()
        assert [each["role"] for each in first["data"] + second["data"]] == ["owner", "member"]

    async def test_401_and_403(self, owner: Person, anyone: httpx.AsyncClient) -> None:
        problem(await anyone.get("/v1/members"), 401, "unauthenticated")
        problem(await (await owner.limited_to("contacts:read")).get("/v1/members"), 403, "missing_scope")


class TestGetMember:
    """GET /v1/members/{member_id}"""

    async def test_200_and_304(self, owner: Person) -> None:
        path = f"/v1/members/{await member_id(owner)}"
        answer = await owner.http.get(path)
        assert (answer.status_code, answer.json()["name"]) == (200, "Ada Lovelace")
        assert set(answer.json()) == {"id", "user_id", "name", "email", "role", "version", "created_at", "updated_at"}
        assert (await owner.http.get(path, headers={"If-None-Match": answer.headers["etag"]})).status_code == 304

    async def test_404_a_member_of_another_organisation(self, owner: Person, stranger: Person) -> None:
        foreign = await owner.http.get(f"/v1/members/{await member_id(stranger)}")
        problem(foreign, 404, "not_found")
        same_problem(foreign, await owner.http.get(f"/v1/members/{NOWHERE}"))


class TestUpdateMember:
    """PATCH /v1/members/{member_id}"""

    async def test_200_another_role(self, owner: Person, join: People, events: Events) -> None:
        path = f"/v1/members/{await member_id(await join(owner))}"
        answer = await owner.http.patch(path, json={"role": "admin"}, headers={"If-Match": '"1"'})
        assert (answer.status_code, answer.json()["role"], answer.headers["etag"]) == (200, "admin", '"2"')
        assert answer.json()["name"] == "Grace Hopper"
        (event,) = of_type(await events(owner.organization_id), "member.role_changed")
        assert (event["data"]["before"], event["data"]["after"]) == ("member", "admin")
        assert (event["subject"], event["sequence"]) == (answer.json()["id"], f"{2:020}")

    async def test_200_the_same_role(self, owner: Person) -> None:
        answer = await owner.http.patch(f"/v1/members/{await member_id(owner)}", json={"role": "owner"})
        assert (answer.status_code, answer.headers["etag"]) == (200, '"1"')

    async def test_200_ownership_handed_over(self, owner: Person, join: People) -> None:
        heir = await join(owner)
        answer = await owner.http.patch(f"/v1/members/{await member_id(heir)}", json={"role": "owner"})
        assert answer.json()["role"] == "owner"
        answer = await owner.http.patch(f"/v1/members/{await member_id(owner)}", json={"role": "viewer"})
        assert answer.json()["role"] == "viewer"

    async def test_403_an_admin_makes_and_unmakes_no_owner(self, owner: Person, join: People) -> None:
        admin = await join(owner, "admin")
        for target, role in ((admin, "owner"), (owner, "admin")):
            answer = await admin.http.patch(f"/v1/members/{await member_id(target)}", json={"role": role})
            problem(answer, 403, "owner_required")

    async def test_403_a_key_gives_no_ownership_and_no_more_than_it_has(self, owner: Person, join: People) -> None:
        path = f"/v1/members/{await member_id(await join(owner, 'viewer'))}"
        everything = await owner.through_key(*ROLES["owner"])
        problem(await everything.patch(path, json={"role": "owner"}), 403, "owner_required")
        little = await owner.through_key("members:write")
        problem(await little.patch(path, json={"role": "admin"}), 403, "role_exceeds_caller")

    async def test_403_a_member_changes_nobody(self, owner: Person, join: People) -> None:
        member = await join(owner)
        answer = await member.http.patch(f"/v1/members/{await member_id(member)}", json={"role": "admin"})
        problem(answer, 403, "missing_scope")

    async def test_404_a_member_of_another_organisation(self, owner: Person, stranger: Person) -> None:
        foreign = await owner.http.patch(f"/v1/members/{await member_id(stranger)}", json={"role": "viewer"})
        problem(foreign, 404, "not_found")
        same_problem(foreign, await owner.http.patch(f"/v1/members/{NOWHERE}", json={"role": "viewer"}))
        assert (await members(stranger))[stranger.user["id"]]["role"] == "owner"

    async def test_409_the_last_owner(self, owner: Person) -> None:
        answer = await owner.http.patch(f"/v1/members/{await member_id(owner)}", json={"role": "admin"})
        problem(answer, 409, "last_owner")

    async def test_409_two_owners_cannot_unmake_each_other_at_once(self, owner: Person, join: People) -> None:
        other = await join(owner)
        mine, theirs = await member_id(owner), await member_id(other)
        await owner.http.patch(f"/v1/members/{theirs}", json={"role": "owner"})
        answers = await asyncio.gather(
            owner.http.patch(f"/v1/members/{mine}", json={"role": "member"}),
            owner.http.patch(f"/v1/members/{theirs}", json={"role": "member"}),
        )
        assert sorted(answer.status_code for answer in answers) in ([200, 403], [200, 409])
        assert [each["role"] for each in (await members(owner)).values()].count("owner") == 1

    async def test_412_somebody_was_faster(self, owner: Person) -> None:
        path = f"/v1/members/{await member_id(owner)}"
        answer = await owner.http.patch(path, json={"role": "owner"}, headers={"If-Match": '"5"'})
        problem(answer, 412, "precondition_failed")

    async def test_422_an_unknown_role(self, owner: Person) -> None:
        answer = await owner.http.patch(f"/v1/members/{await member_id(owner)}", json={"role": "god"})
        problem(answer, 422, "validation_failed", "/role")


class TestRemoveMember:
    """DELETE /v1/members/{member_id}"""

    async def test_204_their_keys_are_revoked_and_their_sessions_are_nowhere(
        self, owner: Person, join: People, events: Events
    ) -> None:
        admin = await join(owner, "admin")
        key = (await admin.http.post("/v1/api-keys", json={"name": "theirs", "scopes": ["contacts:read"]})).json()
        answer = await owner.http.delete(f"/v1/members/{await member_id(admin)}")
        assert answer.status_code == 204
        assert admin.user["id"] not in await members(owner)
        assert (await owner.http.get(f"/v1/api-keys/{key['id']}")).json()["revoked_at"]
        assert (await admin.http.get("/v1/sessions/current")).json()["organization_id"] is None
        assert (await admin.http.get("/v1/me")).json()["organizations"] == []
        published = await events(owner.organization_id)
        assert of_type(published, "member.removed")[0]["data"]["left"] is False
        assert of_type(published, "api_key.revoked")[0]["data"]["reason"] == "member_removed"

    async def test_403_an_admin_removes_no_owner(self, owner: Person, join: People) -> None:
        admin = await join(owner, "admin")
        problem(await admin.http.delete(f"/v1/members/{await member_id(owner)}"), 403, "owner_required")

    async def test_404_a_member_of_another_organisation(self, owner: Person, stranger: Person) -> None:
        foreign = await owner.http.delete(f"/v1/members/{await member_id(stranger)}")
        problem(foreign, 404, "not_found")
        same_problem(foreign, await owner.http.delete(f"/v1/members/{NOWHERE}"))
        assert stranger.user["id"] in await members(stranger)

    async def test_409_the_last_owner(self, owner: Person) -> None:
        problem(await owner.http.delete(f"/v1/members/{await member_id(owner)}"), 409, "last_owner")

    async def test_412_somebody_was_faster(self, owner: Person, join: People) -> None:
        path = f"/v1/members/{await member_id(await join(owner))}"
        problem(await owner.http.delete(path, headers={"If-Match": '"5"'}), 412, "precondition_failed")


class TestLeaveOrganization:
    """DELETE /v1/me/organizations/{organization_id}"""

    async def test_204_also_without_a_right_over_members(self, owner: Person, join: People, events: Events) -> None:
        viewer = await join(owner, "viewer")
        answer = await viewer.http.delete(f"/v1/me/organizations/{owner.organization_id}")
        assert answer.status_code == 204
        assert viewer.user["id"] not in await members(owner)
        (event,) = of_type(await events(owner.organization_id), "member.removed")
        assert (event["data"]["left"], event["authid"]) == (True, viewer.user["id"])

    async def test_404_an_organisation_of_others(self, owner: Person, stranger: Person) -> None:
        foreign = await owner.http.delete(f"/v1/me/organizations/{stranger.organization_id}")
        problem(foreign, 404, "not_found")
        same_problem(foreign, await owner.http.delete(f"/v1/me/organizations/{NOWHERE}"))

    async def test_409_the_last_owner(self, owner: Person) -> None:
        problem(await owner.http.delete(f"/v1/me/organizations/{owner.organization_id}"), 409, "last_owner")

    async def test_403_for_an_api_key(self, owner: Person) -> None:
        key = await owner.through_key(*ROLES["owner"])
        problem(await key.delete(f"/v1/me/organizations/{owner.organization_id}"), 403, "user_required")


class TestListRoles:
    """GET /v1/roles"""

    async def test_200_each_with_its_scopes(self, owner: Person) -> None:
        answer = await owner.http.get("/v1/roles")
        assert answer.status_code == 200
        assert {each["name"]: frozenset(each["scopes"]) for each in answer.json()["data"]} == ROLES
        assert all(each["description"] == DESCRIPTIONS[each["name"]] for each in answer.json()["data"])

    async def test_401(self, anyone: httpx.AsyncClient) -> None:
        problem(await anyone.get("/v1/roles"), 401, "unauthenticated")
