"""``GET /v1/health`` over real services, a real database and the real bus."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import pytest_asyncio
from pydantic import SecretStr

from services.audit import app as audit
from services.crm.events import ContactDeleted, ContactUpdated
from services.health import service
from services.health.app import create_app
from services.health.schemas import Health
from shared.auth import IdentitySigner, Principal
from shared.auth.principal import ANONYMOUS
from shared.db import Database
from shared.errors import Unauthenticated
from shared.events import Relay, Worker, publish
from shared.events.postgres import PostgresBus
from shared.http import create_service
from shared.http.client import ServiceClient, Upstream
from shared.http.hosting import Hosted
from shared.ids import new_id
from shared.settings import Settings
from shared.testing.server import TestServer
from tests.services.audit.support import until
from tests.services.health.support import broken, garbled

READER = Principal(new_id(), "user", str(new_id()), frozenset({"health:read"}), request_id="test")


class Page:
    """Health's application beside the services it looks at, asked as the gateway asks."""

    def __init__(self, settings: Settings, upstreams: Mapping[str, Upstream]) -> None:
        self.app = Hosted(create_app(settings, upstreams))
        self._signer = IdentitySigner(settings.derive_key, "gateway")

    async def get(self, principal: Principal = READER) -> tuple[int, dict[str, Any]]:
        """Status and body of a page made anew."""
        self.app.app.state.monitor._report = None
        identity = {"guardian-identity": self._signer.sign(principal, "health", time.time()).decode()}
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://health") as client:
            response = await client.get("/v1/health", headers=identity)
        assert response.headers["content-type"] == "application/json"
        Health.model_validate_json(response.content)
        return response.status_code, response.json()


class Platform:
    """CRM and audit with their workers, and health over them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.crm = Database.for_service(settings, "crm")
        bus = PostgresBus(self.crm)
        self.crm_worker = Worker(self.crm, bus=bus, relay=Relay(self.crm, bus))
        self.audit_worker = audit.worker(settings)
        self.apps = {"crm": Hosted(bare("crm", settings)), "audit": Hosted(audit.create_app(settings))}
        self.page = Page(settings, self.apps)

    async def publish(self, *payloads: ContactDeleted | ContactUpdated) -> None:
        subject = new_id()
        async with self.crm.transaction(READER.organization_id) as session:
            for number, payload in enumerate(payloads, 1):
                publish(session, payload, subject=subject, sequence=number, principal=READER)


def bare(name: str, settings: Settings) -> Any:
    """A service with nothing but what the chassis gives it."""
    return create_service(name=name, title=name, description="", settings=settings, routers=[])


def at(dsn: str, home: Path) -> Settings:
    return Settings(environment="test", home=home, database_url=SecretStr(dsn), log_level="WARNING")


@pytest_asyncio.fixture(loop_scope="session")
async def platform(fresh_database: str, tmp_path: Path) -> AsyncIterator[Platform]:
    """Without its workers."""
    made = Platform(at(fresh_database, tmp_path))
    async with AsyncExitStack() as stack:
        for app in (*made.apps.values(), made.page.app):
            await stack.enter_async_context(app.lifespan())
        yield made


@pytest_asyncio.fixture(loop_scope="session")
async def working(platform: Platform) -> AsyncIterator[Platform]:
    """With them."""
    async with AsyncExitStack() as stack:
        for worker in (platform.crm_worker, platform.audit_worker):
            await worker.start()
            stack.push_async_callback(worker.stop)
        yield platform


def part(parts: list[dict[str, Any]], **wanted: str) -> dict[str, Any]:
    (found,) = [each for each in parts if wanted.items() <= each.items()]
    return found


async def test_when_all_is_well_every_part_says_so(working: Platform) -> None:
    async def well() -> bool:
        return bool((await working.page.get())[1]["status"] == "ok")

    await until(well)
    status, body = await working.page.get()
    assert status == 200
    details = body["details"]
    assert [each["name"] for each in details["services"]] == ["crm", "audit", "health"]
    assert {each["status"] for each in details["services"]} == {"ok"}
    database = details["database"]
    assert database["latency_ms"] > 0
    assert 0 < database["connections_used"] < database["connections_max"]
    assert {each["service"] for each in database["schemas"]} == {"crm", "audit"}
    assert all(each["current"] == each["newest"] for each in database["schemas"])
    assert details["bus"]["kind"] == "postgres"
    assert [each["service"] for each in details["bus"]["outboxes"]] == ["crm"]
    consumer = part(details["consumers"], group="audit")
    assert (consumer["service"], consumer["state"], consumer["lag"]) == ("audit", "running", 0)
    for each in (body, database, details["bus"], *details["services"], *details["consumers"]):
        assert each["meaning"]
        assert each["action"] is None


@pytest.mark.parametrize("principal", [ANONYMOUS, Principal(new_id(), "user", str(new_id()), request_id="test")])
async def test_without_the_scope_only_the_whole_is_told(settings: Settings, principal: Principal) -> None:
    status, body = await Page(settings, {}).get(principal)
    assert status == 200
    assert body["details"] is None
    assert set(body) == {"status", "meaning", "action", "checked_at", "details"}


async def test_events_that_wait_are_counted(working: Platform) -> None:
    working.audit_worker.consumers[0].stop()
    await until(lambda: _is(working.audit_worker.consumers[0].state == "stopped"))
    await working.publish(*[ContactDeleted()] * 3)

    async def behind() -> bool:
        _, body = await working.page.get()
        return bool(part(body["details"]["consumers"], group="audit")["lag"] == 3)

    await until(behind)
    _, body = await working.page.get()
    consumer = part(body["details"]["consumers"], group="audit")
    assert (body["status"], consumer["status"], consumer["state"]) == ("degraded", "degraded", "stopped")
    assert consumer["action"]


async def test_events_that_do_not_reach_the_bus_are_seen(working: Platform) -> None:
    await working.crm_worker.relay.stop()  # type: ignore[union-attr]
    working.crm_worker._tasks["relay"].cancel()
    await working.publish(*[ContactDeleted()] * 2)
    await working.crm.pool.execute("UPDATE outbox SET created_at = now() - interval '20 s'")
    _, body = await working.page.get()
    bus = body["details"]["bus"]
    assert (body["status"], bus["status"]) == ("degraded", "degraded")
    assert bus["oldest_unsent_seconds"] > 15
    assert bus["outboxes"][0]["unsent"] == 2
    await working.crm.pool.execute("UPDATE outbox SET created_at = now() - interval '1 h'")
    _, body = await working.page.get()
    assert body["details"]["bus"]["status"] == "down"


async def test_a_parked_record_is_seen(working: Platform) -> None:
    # PostgreSQL keeps no NUL in jsonb, so that this event fails for good.
    poison = ContactUpdated.model_validate({"changes": {"phone": {"before": None, "after": "\x00"}}})
    await working.publish(poison, ContactDeleted())

    async def parked() -> bool:
        _, body = await working.page.get()
        consumer = part(body["details"]["consumers"], group="audit")
        return (consumer["dead_letters"], consumer["lag"]) == (2, 0)

    await until(parked)
    _, body = await working.page.get()
    consumer = part(body["details"]["consumers"], group="audit")
    assert (consumer["status"], consumer["parked_keys"], consumer["lag"]) == ("degraded", 1, 0)
    assert "1 record" in consumer["meaning"]


async def test_tables_behind_the_code_are_named(platform: Platform, fresh_database: str) -> None:
    admin = await asyncpg.connect(fresh_database)
    await admin.execute("UPDATE audit.alembic_version SET version_num = '0000'")
    await admin.execute("REVOKE SELECT ON crm.alembic_version FROM svc_crm")
    await admin.close()
    _, body = await platform.page.get()
    database = body["details"]["database"]
    assert database["status"] == "degraded"
    assert "crm, audit" in database["meaning"]
    assert part(database["schemas"], service="audit")["current"] == "0000"
    assert part(database["schemas"], service="crm")["current"] is None


async def test_services_in_trouble_are_told_apart(platform: Platform) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nowhere = f"http://127.0.0.1:{listener.getsockname()[1]}"
    page = Page(platform.settings, {**platform.apps, "flags": nowhere, "webhooks": broken, "agents": garbled})
    status, body = await page.get()
    assert (status, body["status"]) == (200, "degraded")
    states = {each["name"]: each["status"] for each in body["details"]["services"]}
    assert states == {
        "crm": "ok", "audit": "ok", "flags": "down", "webhooks": "down", "agents": "down", "health": "ok"
    }  # fmt: skip


async def test_a_platform_without_any_service_is_down(settings: Settings) -> None:
    status, body = await Page(settings, {"flags": broken}).get()
    assert (status, body["status"]) == (503, "down")


async def test_health_alone_knows_of_no_database(settings: Settings) -> None:
    status, body = await Page(settings, {}).get()
    assert (status, body["status"]) == (200, "degraded")
    assert body["details"]["database"]["status"] == "degraded"


async def test_a_database_that_goes_away_and_comes_back(
    working: Platform, postgres_server: TestServer, template: str
) -> None:
    name = working.crm.dsn.rpartition("/")[2]
    postgres_server.drop_database(name)
    async with asyncio.timeout(3):
        status, body = await working.page.get()
    assert (status, body["status"]) == (503, "down")
    assert body["details"]["database"]["status"] == "down"
    assert {each["status"] for each in body["details"]["services"] if each["name"] != "health"} == {"down"}
    status, body = await working.page.get(ANONYMOUS)
    assert (status, body["status"], body["details"]) == (503, "down", None)
    assert "a key that has the scope health:read" in body["action"]
    postgres_server.create_database(name, template=template)

    async def well() -> bool:
        return (await working.page.get())[0] == 200

    await until(well)


@pytest.mark.parametrize("silent", [False, True], ids=["closed port", "silent port"])
async def test_a_missing_database_is_answered_in_time(tmp_path: Path, silent: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        if not silent:
            listener.close()
        # Nobody accepts: the kernel takes the connection, and no byte ever comes back.
        settings = at(f"postgresql://u:p@127.0.0.1:{port}/d", tmp_path)
        app = Hosted(bare("crm", settings))
        page = Page(settings, {"crm": app})
        async with app.lifespan(), page.app.lifespan(), asyncio.timeout(3):
            status, body = await page.get()
    assert (status, body["details"]["database"]["status"]) == (503, "down")


async def test_those_who_ask_at_once_share_a_report(settings: Settings) -> None:
    monitor = Page(settings, {}).app.app.state.monitor
    first, second = await asyncio.gather(monitor.report(), monitor.report())
    assert first is second
    assert await monitor.report() is first


async def test_a_slow_service_makes_nobody_slow_who_watches(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor = Page(settings, {}).app.app.state.monitor
    first = await monitor.report()
    goes_on = asyncio.Event()

    async def observe() -> list[Any]:
        await goes_on.wait()
        return []

    monkeypatch.setattr(monitor, "_observe", observe)
    monitor._made -= service.KEPT_SECONDS + 0.1
    assert await monitor.report() is first, "the next report is being made"
    monitor._made -= service.STALE_SECONDS
    waiting = asyncio.create_task(monitor.report())
    done, _ = await asyncio.wait({waiting}, timeout=5 * service.WAIT_SECONDS)
    assert not done, "what is too old is no answer"
    goes_on.set()
    assert await waiting is not first
    assert await monitor.report() is await waiting
    await monitor.stop()


async def test_only_the_monitor_may_ask_a_service_for_its_status(platform: Platform) -> None:
    upstream = platform.apps["audit"]
    gateway = ServiceClient(platform.settings, caller="gateway", callee="audit", upstream=upstream)
    health = ServiceClient(platform.settings, caller="monitor", callee="audit", upstream=upstream)
    with pytest.raises(Unauthenticated):
        await gateway.call("GET", "/internal/status", principal=READER)
    with pytest.raises(Unauthenticated):
        await health.call("GET", "/v1/audit/events", principal=READER)
    report = (await health.call("GET", "/internal/status", principal=READER)).json()
    assert report["service"] == "audit"
    both = [health.call("GET", "/internal/status", principal=READER) for _ in range(2)]
    first, second = [(await each).json()["database"] for each in [asyncio.ensure_future(call) for call in both]]
    assert first == second  # one measurement, its latency and all
    itself = ServiceClient(platform.settings, caller="monitor", callee="health", upstream=platform.page.app)
    report = (await itself.call("GET", "/internal/status", principal=READER)).json()
    assert report == {"service": "health", "database": None, "worker": None}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(upstream), base_url="http://audit") as anybody:
        assert (await anybody.get("/internal/status")).status_code == 401


async def _is(value: bool) -> bool:
    return value
