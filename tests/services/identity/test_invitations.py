import asyncpg
import httpx
import pytest

from services.identity.domain import ROLES
from shared.clock import FixedClock
from shared.testing.client import ClientFactory
from tests.services.identity.support import (
    NOWHERE,
    PASSWORD,
    Events,
    Outgoing,
    People,
    Person,
    of_type,
    person,
    problem,
    same_problem,
    sign_up_body,
    token_in,
)


async def invite(owner: Person, email: str | None = None, role: str = "member") -> dict[str, str]:
    body = {"email": email or sign_up_body()["email"], "role": role}
    answer = await owner.http.post("/v1/invitations", json=body)
    assert answer.status_code == 201, answer.text
    made: dict[str, str] = answer.json()
    return made


class TestCreateInvitation:
    """POST /v1/invitations"""

    async def test_201_and_a_mail(self, owner: Person, outgoing: Outgoing, events: Events) -> None:
        made = await invite(owner, "Grace.Hopper@example.com")
        assert (made["email"], made["status"], made["invited_by"]) == (
            "grace.hopper@example.com", "open", owner.user["id"],
        )  # fmt: skip
        mail = (await outgoing("grace.hopper@example.com"))[-1]
        assert mail.subject == "Ada Lovelace invites you to Analytical Engines"
        assert token_in(mail) not in str(made)
        (event,) = of_type(await events(owner.organization_id), "invitation.created")
        assert event["data"]["role"] == "member"
        assert token_in(mail) not in str(event)

    async def test_201_through_a_key_in_its_makers_name(self, owner: Person, outgoing: Outgoing) -> None:
        email = sign_up_body()["email"]
        key = await owner.through_key(*ROLES["owner"])
        answer = await key.post("/v1/invitations", json={"email": email})
        assert (answer.status_code, answer.json()["invited_by"]) == (201, owner.user["id"])
        assert (await outgoing(email))[0].subject.startswith("Ada Lovelace")

    async def test_201_again_after_it_expired(self, frozen_clock: FixedClock, sign_up: People) -> None:
        owner = await sign_up()
        made = await invite(owner)
        frozen_clock.advance(days=7)
        assert (await owner.http.get(f"/v1/invitations/{made['id']}")).json()["status"] == "expired"
        await invite(owner, made["email"])
        assert (await owner.http.get(f"/v1/invitations/{made['id']}")).json()["status"] == "revoked"

    async def test_401_and_403(self, owner: Person, anyone: httpx.AsyncClient, join: People) -> None:
        body = {"email": "x@example.com"}
        problem(await anyone.post("/v1/invitations", json=body), 401, "unauthenticated")
        problem(await (await join(owner)).http.post("/v1/invitations", json=body), 403, "missing_scope")

    async def test_403_a_role_above_ones_own(self, owner: Person, join: People) -> None:
        admin = await join(owner, "admin")
        body = {"email": "x@example.com", "role": "owner"}
        problem(await admin.http.post("/v1/invitations", json=body), 403, "owner_required")
        little = await owner.through_key("invitations:write")
        answer = await little.post("/v1/invitations", json={"email": "x@example.com", "role": "viewer"})
        problem(answer, 403, "role_exceeds_caller")

    async def test_409_a_member(self, owner: Person, join: People) -> None:
        answer = await owner.http.post("/v1/invitations", json={"email": (await join(owner)).email})
        problem(answer, 409, "already_member")

    async def test_409_an_open_invitation(self, owner: Person) -> None:
        made = await invite(owner)
        answer = await owner.http.post("/v1/invitations", json={"email": made["email"]})
        assert problem(answer, 409, "already_invited")["invitation_id"] == made["id"]

    async def test_422_not_an_address(self, owner: Person) -> None:
        answer = await owner.http.post("/v1/invitations", json={"email": "nobody"})
        problem(answer, 422, "validation_failed", "/email")


class TestListInvitations:
    """GET /v1/invitations"""

    async def test_200_page_by_page_and_only_ones_own(self, owner: Person, stranger: Person) -> None:
        made = [await invite(owner), await invite(owner)]
        await invite(stranger)
        first = (await owner.http.get("/v1/invitations?limit=1")).json()
        second = (await owner.http.get(f"/v1/invitations?cursor={first['next_cursor']}")).json()
        assert first["data"] + second["data"] == made

    async def test_401(self, anyone: httpx.AsyncClient) -> None:
        problem(await anyone.get("/v1/invitations"), 401, "unauthenticated")


class TestGetInvitation:
    """GET /v1/invitations/{invitation_id}"""

    async def test_200(self, owner: Person) -> None:
        made = await invite(owner)
        assert (await owner.http.get(f"/v1/invitations/{made['id']}")).json() == made

    async def test_404_of_another_organisation(self, owner: Person, stranger: Person) -> None:
        foreign = await owner.http.get(f"/v1/invitations/{(await invite(stranger))['id']}")
        problem(foreign, 404, "not_found")
        same_problem(foreign, await owner.http.get(f"/v1/invitations/{NOWHERE}"))


class TestRevokeInvitation:
    """DELETE /v1/invitations/{invitation_id}"""

    async def test_204_its_link_stops_working(
        self, owner: Person, anyone: httpx.AsyncClient, outgoing: Outgoing, events: Events
    ) -> None:
        made = await invite(owner)
        for _ in range(2):
            assert (await owner.http.delete(f"/v1/invitations/{made['id']}")).status_code == 204
        body = {"token": token_in((await outgoing(made["email"]))[0]), "name": "G", "password": PASSWORD}
        problem(await anyone.post("/v1/invitations/accept", json=body), 400, "invalid_token", "/token")
        assert len(of_type(await events(owner.organization_id), "invitation.revoked")) == 1

    async def test_404_of_another_organisation(self, owner: Person, stranger: Person) -> None:
        made = await invite(stranger)
        foreign = await owner.http.delete(f"/v1/invitations/{made['id']}")
        problem(foreign, 404, "not_found")
        same_problem(foreign, await owner.http.delete(f"/v1/invitations/{NOWHERE}"))
        assert (await stranger.http.get(f"/v1/invitations/{made['id']}")).json()["status"] == "open"

    async def test_409_accepted_already(self, owner: Person, join: People) -> None:
        await join(owner)
        (made,) = (await owner.http.get("/v1/invitations")).json()["data"]
        assert made["status"] == "accepted"
        problem(await owner.http.delete(f"/v1/invitations/{made['id']}"), 409, "already_accepted")


class TestAcceptInvitation:
    """POST /v1/invitations/accept"""

    async def accept(self, anyone: httpx.AsyncClient, outgoing: Outgoing, email: str, **fields: str) -> httpx.Response:
        body = {"token": token_in((await outgoing(email))[-1])} | fields
        return await anyone.post("/v1/invitations/accept", json=body)

    async def test_200_somebody_new_is_signed_in(
        self, owner: Person, anyone: httpx.AsyncClient, outgoing: Outgoing, client: ClientFactory, events: Events
    ) -> None:
        made = await invite(owner, role="viewer")
        answer = await self.accept(anyone, outgoing, made["email"], name="Grace", password=PASSWORD)
        grace = await person(client, answer, "viewer")
        assert answer.json()["organization"]["id"] == str(owner.organization_id)
        assert grace.user["email_verified_at"], "the link came by mail"
        assert (await grace.http.get("/v1/me")).json()["organizations"][0]["role"] == "viewer"
        theirs = [each for each in await events(owner.organization_id) if each["authid"] == grace.user["id"]]
        assert [each["type"] for each in theirs] == [
            "user.signed_up", "member.added", "invitation.accepted", "user.signed_in",
        ]  # fmt: skip

    async def test_200_somebody_with_an_account_needs_no_password(
        self, owner: Person, stranger: Person, anyone: httpx.AsyncClient, outgoing: Outgoing
    ) -> None:
        token = token_in((await outgoing(stranger.email))[0])
        await anyone.post("/v1/email-verifications/confirm", json={"token": token})
        await invite(owner, stranger.email)
        answer = await self.accept(anyone, outgoing, stranger.email)
        assert (answer.status_code, answer.json()["session"]) == (200, None)
        assert "set-cookie" not in answer.headers
        assert len((await stranger.http.get("/v1/me")).json()["organizations"]) == 2

    async def test_200_an_account_somebody_made_in_advance_is_taken_over(
        self, owner: Person, stranger: Person, anyone: httpx.AsyncClient, outgoing: Outgoing, client: ClientFactory
    ) -> None:
        """``stranger`` never confirmed the address: whoever reads its mail decides, and locks them out."""
        await invite(owner, stranger.email)
        problem(await self.accept(anyone, outgoing, stranger.email), 422, "account_incomplete", "/password")
        answer = await self.accept(anyone, outgoing, stranger.email, password="the-real-one-now-hello")
        assert (await person(client, answer)).user["email_verified_at"]
        problem(await stranger.http.get("/v1/sessions/current"), 401, "session_expired")
        old = {"email": stranger.email, "password": PASSWORD}
        problem(await anyone.post("/v1/sessions", json=old), 401, "invalid_credentials")

    async def test_400_only_once(
        self, owner: Person, anyone: httpx.AsyncClient, outgoing: Outgoing, join: People
    ) -> None:
        member = await join(owner)
        problem(await self.accept(anyone, outgoing, member.email), 400, "invalid_token", "/token")

    async def test_400_expired(
        self, frozen_clock: FixedClock, sign_up: People, anyone: httpx.AsyncClient, outgoing: Outgoing
    ) -> None:
        made = await invite(await sign_up())
        frozen_clock.advance(days=7)
        problem(await self.accept(anyone, outgoing, made["email"]), 400, "invalid_token")

    async def test_409_a_member_by_now(
        self, owner: Person, stranger: Person, anyone: httpx.AsyncClient, outgoing: Outgoing, postgres: str
    ) -> None:
        await invite(owner, stranger.email)
        token = token_in((await outgoing(stranger.email))[0])
        await anyone.post("/v1/email-verifications/confirm", json={"token": token})
        connection = await asyncpg.connect(postgres)
        await connection.execute(
            "INSERT INTO identity.memberships VALUES (gen_random_uuid(), $1, $2, 'viewer', 1, now(), now())",
            owner.organization_id, stranger.principal.user_id,
        )  # fmt: skip
        await connection.close()
        problem(await self.accept(anyone, outgoing, stranger.email), 409, "already_member")

    async def test_422_somebody_new_says_who_they_are(
        self, owner: Person, anyone: httpx.AsyncClient, outgoing: Outgoing
    ) -> None:
        made = await invite(owner)
        answer = await self.accept(anyone, outgoing, made["email"])
        problem(answer, 422, "account_incomplete", "/name", "/password")

    @pytest.mark.parametrize("password", ["short", "password1234"])
    async def test_422_a_weak_password(
        self, owner: Person, anyone: httpx.AsyncClient, outgoing: Outgoing, password: str
    ) -> None:
        made = await invite(owner)
        answer = await self.accept(anyone, outgoing, made["email"], name="Grace", password=password)
        assert answer.status_code == 422
        assert [each["field"] for each in answer.json()["errors"]] == ["/password"]
