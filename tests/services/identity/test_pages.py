import hashlib
import re
from base64 import b64encode
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from pydantic import SecretStr

from services.identity.app import create_app
from services.identity.jobs import MailJob
from shared.auth import Principal
from shared.db import Database
from shared.ids import NIL
from shared.mail import Mailbox
from shared.settings import Settings
from shared.testing.client import SignedAs
from tests.services.identity.support import (
    NOWHERE,
    PASSWORD,
    Outgoing,
    Person,
    cookie,
    link_in,
    problem,
    same_problem,
    sign_up_body,
    token_in,
)

NEW_PASSWORD = "a-brand-new-steam-whistle"


def form(answer: httpx.Response) -> dict[str, str]:
    """The hidden fields of the page's form; asserts that there is one and that it is safe to show."""
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["cache-control"] == "no-store"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "<script" not in answer.text
    (style,) = re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL)
    hashed = b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{hashed}'" in answer.headers["content-security-policy"]
    return dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', answer.text))


def dead(answer: httpx.Response) -> None:
    assert answer.status_code == 400
    assert "does not work any more" in answer.text


class TestVerifyEmail:
    async def test_the_link_changes_nothing_and_the_form_does_it(
        self, owner: Person, anyone: httpx.AsyncClient, outgoing: Outgoing
    ) -> None:
        link = link_in((await outgoing(owner.email))[0]).raw_path.decode()
        assert (await anyone.get(link)).status_code == 200  # programs that look through mails follow links too
        shown = await anyone.get(link)
        assert (await owner.http.get("/v1/me")).json()["user"]["email_verified_at"] is None
        done = await anyone.post("/verify-email", data=form(shown))
        assert (done.status_code, "is confirmed" in done.text) == (200, True)
        assert (await owner.http.get("/v1/me")).json()["user"]["email_verified_at"]
        dead(await anyone.post("/verify-email", data=form(shown)))
        dead(await anyone.get(link))

    @pytest.mark.parametrize("token", ["", "x", "x" * 43, "\u00e4" * 30])
    async def test_400_no_such_link(self, anyone: httpx.AsyncClient, token: str) -> None:
        dead(await anyone.get("/verify-email", params={"token": token}))
        dead(await anyone.post("/verify-email", data={"token": token}))

    async def test_422_far_too_long(self, anyone: httpx.AsyncClient) -> None:
        problem(await anyone.get("/verify-email", params={"token": "x" * 201}), 422, "validation_failed", "token")


class TestResetPassword:
    async def link(self, owner: Person, anyone: httpx.AsyncClient, identity: Database, settings: Settings) -> str:
        await anyone.post("/v1/password-resets", json={"email": owner.email})
        box = Mailbox(settings.home / "mail")
        await MailJob(identity, settings, box).run()
        mail = next(each for each in await box.newest() if each.to == owner.email and "password" in each.subject)
        (line,) = [line for line in mail.lines if line.startswith("http")]
        return httpx.URL(line).raw_path.decode()

    async def test_a_new_password(
        self, owner: Person, anyone: httpx.AsyncClient, identity: Database, settings: Settings
    ) -> None:
        shown = await anyone.get(await self.link(owner, anyone, identity, settings))
        again = await anyone.post("/reset-password", data=form(shown) | {"password": "short"})
        assert (again.status_code, "at least 12 characters" in again.text) == (422, True)
        again = await anyone.post("/reset-password", data=form(again) | {"password": "qwertyuiop12"})
        assert (again.status_code, "tried first" in again.text) == (422, True)
        done = await anyone.post("/reset-password", data=form(again) | {"password": NEW_PASSWORD})
        assert (done.status_code, cookie(done)) == (200, "")
        answer = await anyone.post("/v1/sessions", json={"email": owner.email, "password": NEW_PASSWORD})
        assert answer.status_code == 201

    async def test_400_no_such_link(self, anyone: httpx.AsyncClient) -> None:
        dead(await anyone.get("/reset-password?token=" + "x" * 43))
        dead(await anyone.post("/reset-password", data={"token": "x" * 43, "password": NEW_PASSWORD}))


class TestAcceptInvitation:
    async def test_somebody_new_joins_and_is_signed_in(
        self, owner: Person, anyone: httpx.AsyncClient, outgoing: Outgoing
    ) -> None:
        await owner.http.patch("/v1/organization", json={"name": "<b>Engines</b>"})
        email = sign_up_body()["email"]
        await owner.http.post("/v1/invitations", json={"email": email, "role": "viewer"})
        shown = await anyone.get(link_in((await outgoing(email))[0]).raw_path.decode())
        assert "&lt;b&gt;Engines&lt;/b&gt;" in shown.text
        again = await anyone.post("/accept-invitation", data=form(shown) | {"name": "Grace"})
        assert (again.status_code, 'value="Grace"' in again.text) == (422, True)
        done = await anyone.post("/accept-invitation", data=form(again) | {"name": "Grace", "password": PASSWORD})
        assert (done.status_code, "Welcome to" in done.text) == (200, True)
        assert len(cookie(done)) == 43
        dead(await anyone.post("/accept-invitation", data=form(shown) | {"name": "Grace", "password": PASSWORD}))

    async def test_somebody_with_an_account_just_joins(
        self, owner: Person, stranger: Person, anyone: httpx.AsyncClient, outgoing: Outgoing
    ) -> None:
        token = token_in((await outgoing(stranger.email))[0])
        await anyone.post("/v1/email-verifications/confirm", json={"token": token})
        await owner.http.post("/v1/invitations", json={"email": stranger.email})
        shown = await anyone.get(link_in((await outgoing(stranger.email))[-1]).raw_path.decode())
        assert 'type="password"' not in shown.text
        done = await anyone.post("/accept-invitation", data=form(shown))
        assert done.status_code == 200
        assert "set-cookie" not in done.headers

    async def test_400_no_such_link(self, anyone: httpx.AsyncClient) -> None:
        for token in ("", "x" * 43):
            dead(await anyone.get("/accept-invitation", params={"token": token}))
            dead(await anyone.post("/accept-invitation", data={"token": token}))


class TestMailbox:
    @pytest.fixture
    def development(self, settings: Settings, tmp_path: Path) -> Settings:
        return settings.model_copy(update={"environment": "development", "home": tmp_path})

    @pytest_asyncio.fixture
    async def here(self, development: Settings) -> AsyncIterator[httpx.AsyncClient]:
        async with _client(development, "127.0.0.1") as made:
            yield made

    async def test_the_mails_and_their_links(
        self, here: httpx.AsyncClient, owner: Person, development: Settings, identity: Database
    ) -> None:
        assert "There are no mails yet" in (await here.get("/dev/mailbox")).text
        await MailJob(identity, development, Mailbox(development.home / "mail")).run()
        listed = await here.get("/dev/mailbox")
        assert (listed.status_code, owner.email in listed.text) == (200, True)
        path = re.findall(rf'href="(/dev/mailbox/[^"]+)">Confirm[^<]*</a><br><small>to {owner.email}', listed.text)[0]
        mail = await here.get(path)
        assert re.search(rf'href="{development.base_url}/verify-email\?token=[\w-]+"', mail.text)

    @pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]", "[::1]:8000"])
    async def test_200_by_a_name_of_this_machine(self, here: httpx.AsyncClient, host: str) -> None:
        assert (await here.get("/dev/mailbox", headers={"Host": host})).status_code == 200

    @pytest.mark.parametrize("path", ["/dev/mailbox", f"/dev/mailbox/{NOWHERE}"])
    @pytest.mark.parametrize(
        "host",
        [
            "rebound.example", "rebound.example:8000", "localhost.rebound.example", "localhost:8000.rebound.example",
            "xlocalhost", "127.0.0.1.rebound.example", "127.0.0.10", "127x0.0.1", "::1", "localhost:", "localhost\n", "",
        ],
    )  # fmt: skip
    async def test_404_by_another_name(self, here: httpx.AsyncClient, path: str, host: str) -> None:
        answer = await here.get(path, headers={"Host": host})
        problem(answer, 404, "not_found")
        same_problem(answer, await here.get(f"/dev/mailbox/{NOWHERE}"))

    async def test_404_by_two_names(self, here: httpx.AsyncClient) -> None:
        answer = await here.get("/dev/mailbox", headers=[("Host", "localhost"), ("Host", "rebound.example")])
        problem(answer, 404, "not_found")

    @pytest.mark.parametrize(
        "name", ["Via", "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "CDN-Loop", "CF-Ray"]
    )
    async def test_404_through_a_proxy(self, here: httpx.AsyncClient, name: str) -> None:
        assert (await here.get("/dev/mailbox")).status_code == 200
        problem(await here.get("/dev/mailbox", headers={name: "127.0.0.1"}), 404, "not_found")

    async def test_404_no_such_mail(self, here: httpx.AsyncClient) -> None:
        problem(await here.get(f"/dev/mailbox/{NOWHERE}"), 404, "not_found")

    @pytest.mark.parametrize("address", ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1", "nonsense", None])
    async def test_404_from_another_machine(self, development: Settings, address: str | None) -> None:
        async with _client(development, address) as client:
            problem(await client.get("/dev/mailbox"), 404, "not_found")

    @pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
    async def test_200_from_this_one(self, development: Settings, address: str) -> None:
        async with _client(development, address) as client:
            assert (await client.get("/dev/mailbox")).status_code == 200

    @pytest.mark.parametrize(
        "fields",
        [{"environment": "production"}, {"environment": "test"}, {"smtp_url": SecretStr("smtp://mail.example")}],
    )
    async def test_404_where_mails_leave_the_machine(self, development: Settings, fields: dict[str, object]) -> None:
        async with _client(development.model_copy(update=fields), "127.0.0.1") as client:
            problem(await client.get("/dev/mailbox"), 404, "not_found")


def _client(settings: Settings, address: str | None) -> httpx.AsyncClient:
    principal = Principal(NIL, "anonymous", "anonymous", request_id="test-request")
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app=create_app(settings)),
        base_url="http://localhost:8000",
        auth=SignedAs(settings, "identity", replace(principal, client_address=address)),
    )
