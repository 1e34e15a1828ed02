"""Mails wait encrypted with the transaction that caused them, and are sent at least once."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import httpx
import pytest
import pytest_asyncio
from pydantic import SecretStr

from services.identity.jobs import MailJob, purge
from services.identity.mails import service as mails
from shared.clock import FixedClock
from shared.db import Database
from shared.mail import Mail, MailNotSent
from shared.settings import Settings
from tests.services.identity.support import PASSWORD, People, Person, link_in, problem, sign_up_body, token_in

NEW_PASSWORD = "a-brand-new-steam-whistle"


class Recorder:
    """A mailer that remembers, or refuses."""

    def __init__(self, *, broken: bool = False) -> None:
        self.sent: list[Mail] = []
        self.broken = broken

    async def send(self, mail: Mail) -> None:
        if self.broken:
            raise MailNotSent("the server is away")
        self.sent.append(mail)

    def to(self, email: str) -> list[Mail]:
        return [mail for mail in self.sent if mail.to == email]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def job(identity: Database, settings: Settings, recorder: Recorder) -> MailJob:
    return MailJob(identity, settings, recorder)


@pytest_asyncio.fixture
async def admin(postgres: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(postgres)
    await connection.execute("DELETE FROM identity.mail_outbox")
    yield connection
    await connection.execute("DELETE FROM identity.mail_outbox")  # one is sealed so that nobody can read it
    await connection.close()


async def waiting(admin: asyncpg.Connection[asyncpg.Record]) -> int:
    count: int = await admin.fetchval("SELECT count(*) FROM identity.mail_outbox")
    return count


async def test_each_mail_is_sent_once_and_forgotten(
    admin: asyncpg.Connection[asyncpg.Record], sign_up: People, job: MailJob, recorder: Recorder
) -> None:
    people = [await sign_up() for _ in range(3)]
    await job.run()
    await job.run()
    assert [len(recorder.to(each.email)) for each in people] == [1, 1, 1]
    assert await waiting(admin) == 0


async def test_more_than_a_batch(
    admin: asyncpg.Connection[asyncpg.Record], identity: Database, settings: Settings, job: MailJob, recorder: Recorder
) -> None:
    async with identity.transaction() as session:
        for number in range(41):
            await mails.put_mail(session, settings, "x@example.com", (str(number), ""))
    await job.run()
    assert sorted(int(mail.subject) for mail in recorder.sent) == list(range(41))


async def test_nothing_is_sent_for_what_did_not_happen(
    admin: asyncpg.Connection[asyncpg.Record], owner: Person, anyone: httpx.AsyncClient
) -> None:
    await admin.execute("DELETE FROM identity.mail_outbox")
    problem(await anyone.post("/v1/sign-up", json=sign_up_body(email=owner.email)), 409, "email_taken")
    assert await waiting(admin) == 0


async def test_no_address_and_no_token_is_readable_in_the_database(
    admin: asyncpg.Connection[asyncpg.Record], owner: Person, outgoing: object
) -> None:
    sealed = await admin.fetch("SELECT sealed, last_error FROM identity.mail_outbox")
    assert len(sealed) == 1
    assert owner.email.encode() not in sealed[0]["sealed"]
    assert b"token" not in sealed[0]["sealed"]


async def test_a_server_that_is_away_is_tried_again_later_and_later(
    admin: asyncpg.Connection[asyncpg.Record],
    frozen_clock: FixedClock,
    sign_up: People,
    job: MailJob,
    recorder: Recorder,
) -> None:
    owner = await sign_up()
    recorder.broken = True
    waits = []
    for _ in range(3):
        await job.run()
        await job.run()  # not due: changes nothing
        due = await admin.fetchval("SELECT next_attempt_at FROM identity.mail_outbox")
        assert await admin.fetchval("SELECT last_error FROM identity.mail_outbox") == "the server is away"
        waits.append((due - frozen_clock.now()).total_seconds())
        frozen_clock.moment = due
    assert waits == [15, 30, 60]
    recorder.broken = False
    await job.run()
    assert len(recorder.to(owner.email)) == 1


async def test_given_up_after_many_attempts_and_forgotten_in_the_end(
    admin: asyncpg.Connection[asyncpg.Record],
    frozen_clock: FixedClock,
    sign_up: People,
    job: MailJob,
    recorder: Recorder,
    identity: Database,
) -> None:
    await sign_up()
    recorder.broken = True
    for _ in range(mails.MAX_ATTEMPTS + 2):
        await job.run()
        frozen_clock.advance(hours=2)
    statement = "SELECT attempts FROM identity.mail_outbox WHERE failed_at IS NOT NULL"
    assert await admin.fetchval(statement) == mails.MAX_ATTEMPTS
    frozen_clock.advance(days=8)
    await purge(identity)
    assert await waiting(admin) == 0


async def test_a_sender_that_died_leaves_the_mail_to_the_next_one(
    admin: asyncpg.Connection[asyncpg.Record],
    frozen_clock: FixedClock,
    sign_up: People,
    job: MailJob,
    recorder: Recorder,
    identity: Database,
) -> None:
    owner = await sign_up()
    async with identity.transaction() as session:
        assert len(await mails.claim(session, 10)) == 1  # and then the process is gone
    await job.run()
    assert recorder.sent == []
    frozen_clock.advance(minutes=2)
    await job.run()
    assert len(recorder.to(owner.email)) == 1


async def test_a_mail_sealed_under_another_secret_is_not_sent_and_stops_nobody(
    admin: asyncpg.Connection[asyncpg.Record],
    sign_up: People,
    settings: Settings,
    identity: Database,
    job: MailJob,
    recorder: Recorder,
) -> None:
    other = settings.model_copy(update={"secret_key": SecretStr("x" * 40)})
    async with identity.transaction() as session:
        await mails.put_mail(session, other, "lost@example.com", ("Lost", ""))
    owner = await sign_up()
    await job.run()
    assert [mail.to for mail in recorder.sent] == [owner.email]
    assert await admin.fetchval("SELECT last_error FROM identity.mail_outbox") == "InvalidTag"


class TestPasswordReset:
    async def test_a_link_that_works_once_and_ends_every_session(
        self,
        admin: asyncpg.Connection[asyncpg.Record],
        owner: Person,
        anyone: httpx.AsyncClient,
        job: MailJob,
        recorder: Recorder,
    ) -> None:
        await anyone.post("/v1/password-resets", json={"email": owner.email.upper()})
        await job.run()
        mail = recorder.to(owner.email)[-1]
        assert link_in(mail).path == "/reset-password"
        body = {"token": token_in(mail), "password": NEW_PASSWORD}
        assert (await anyone.post("/v1/password-resets/confirm", json=body)).status_code == 204
        problem(await anyone.post("/v1/password-resets/confirm", json=body), 400, "invalid_token", "/token")
        problem(await owner.http.get("/v1/sessions/current"), 401, "session_expired")
        credentials = {"email": owner.email, "password": PASSWORD}
        problem(await anyone.post("/v1/sessions", json=credentials), 401, "invalid_credentials")
        answer = await anyone.post("/v1/sessions", json=credentials | {"password": NEW_PASSWORD})
        assert answer.json()["user"]["email_verified_at"], "the link came by mail"

    async def test_the_latest_link_alone_works(
        self,
        admin: asyncpg.Connection[asyncpg.Record],
        owner: Person,
        anyone: httpx.AsyncClient,
        job: MailJob,
        recorder: Recorder,
    ) -> None:
        for _ in range(2):
            await anyone.post("/v1/password-resets", json={"email": owner.email})
            await job.run()
        first, second = (token_in(mail) for mail in recorder.to(owner.email) if "reset" in mail.text)
        body = {"password": NEW_PASSWORD}
        problem(await anyone.post("/v1/password-resets/confirm", json=body | {"token": first}), 400, "invalid_token")
        assert (await anyone.post("/v1/password-resets/confirm", json=body | {"token": second})).status_code == 204

    async def test_400_after_an_hour(
        self,
        admin: asyncpg.Connection[asyncpg.Record],
        frozen_clock: FixedClock,
        sign_up: People,
        anyone: httpx.AsyncClient,
        job: MailJob,
        recorder: Recorder,
    ) -> None:
        owner = await sign_up()
        await anyone.post("/v1/password-resets", json={"email": owner.email})
        await job.run()
        frozen_clock.advance(hours=1)
        body = {"token": token_in(recorder.to(owner.email)[-1]), "password": NEW_PASSWORD}
        problem(await anyone.post("/v1/password-resets/confirm", json=body), 400, "invalid_token")

    async def test_422_a_password_that_is_tried_first(self, anyone: httpx.AsyncClient) -> None:
        body = {"token": "x" * 43, "password": "abcdefghijklmnop"}
        answer = await anyone.post("/v1/password-resets/confirm", json=body)
        problem(answer, 422, "password_too_common", "/password")

    async def test_an_address_nobody_has_gets_no_mail(
        self, admin: asyncpg.Connection[asyncpg.Record], anyone: httpx.AsyncClient, job: MailJob, recorder: Recorder
    ) -> None:
        await anyone.post("/v1/password-resets", json={"email": sign_up_body()["email"]})
        assert await waiting(admin) == 1
        await job.run()
        assert (recorder.sent, await waiting(admin)) == ([], 0)

    async def test_the_same_link_again_after_a_server_was_away(
        self,
        admin: asyncpg.Connection[asyncpg.Record],
        frozen_clock: FixedClock,
        sign_up: People,
        anyone: httpx.AsyncClient,
        job: MailJob,
        recorder: Recorder,
    ) -> None:
        owner = await sign_up()
        await job.run()
        await anyone.post("/v1/password-resets", json={"email": owner.email})
        recorder.broken = True
        await job.run()
        assert await admin.fetchval("SELECT kind FROM identity.mail_outbox") == "mail"
        recorder.broken = False
        frozen_clock.advance(minutes=1)
        await job.run()
        body = {"token": token_in(recorder.to(owner.email)[-1]), "password": NEW_PASSWORD}
        assert (await anyone.post("/v1/password-resets/confirm", json=body)).status_code == 204
