"""One trace: a request through gateway and CRM, its event through outbox, relay and bus, its effect in the audit log."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import pytest_asyncio
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import SecretStr

from cli.hosting import load_apps, load_gateway
from gateway.trace import Tracing
from services.audit.consumers import recorder
from shared import telemetry
from shared.db import Database
from shared.events import Bus, Relay
from shared.events.connect import connect_bus
from shared.events.memory import MemoryBus
from shared.ids import new_id
from shared.settings import Settings

RECORDED = "SELECT action FROM audit.audit_logs_enhanced WHERE trace_id = $1"
SERVICES = ("identity", "crm", "audit")
CLIENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"


class Platform:
    """Gateway, services and the event path of one test, in this process; ``spans`` holds what was made."""

    def __init__(self, settings: Settings, client: httpx.AsyncClient, buses: dict[str, Bus]) -> None:
        self.client = client
        self.relays = [Relay(Database.for_service(settings, name), buses[name]) for name in ("identity", "crm")]
        self.consumer = recorder(Database.for_service(settings, "audit"), buses["audit"])
        self.bus = buses["audit"]

    async def deliver(self) -> None:
        """Relay what is in the outboxes, and let the audit log have it."""
        wanted = sum([await relay.drain_once() for relay in self.relays])
        assert wanted >= 2
        subscription = await self.bus.subscribe(self.consumer.group, self.consumer.topics)
        try:
            async with asyncio.timeout(30):
                while wanted > 0:
                    batch = await subscription.fetch(100, 1.0)
                    await self.consumer.process(batch)
                    await subscription.commit(batch)
                    wanted -= len(batch)
        finally:
            await subscription.close()

    async def sign_up(self) -> None:
        body = {"organization": "Engines", "data_region": "eu", "name": "Ada", "password": "correct horse battery"}
        answer = await self.client.post("/v1/sign-up", json=body | {"email": f"{new_id().hex}@example.com"})
        assert answer.status_code == 201, answer.text

    async def make_contact(self) -> None:
        answer = await self.client.post("/v1/contacts", json={"first_name": "Ada"}, headers={"traceparent": CLIENT})
        assert answer.status_code == 201, answer.text


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Where the spans of this test go."""
    monkeypatch.setattr(telemetry, "_providers", {})
    return InMemorySpanExporter()


@pytest.fixture(params=["memory", "postgres", pytest.param("kafka", marks=pytest.mark.kafka)])
def switches(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The settings that choose the bus; empty for the one in memory."""
    if request.param == "kafka":
        names = {"kafka_bootstrap_servers": "kafka_servers", "kafka_prefix": "kafka_prefix"}
        return {setting: request.getfixturevalue(fixture) for setting, fixture in names.items()}
    return {"memory": request.param == "memory"}


@pytest_asyncio.fixture
async def platform(
    switches: dict[str, Any], fresh_database: str, tmp_path: Path, spans: InMemorySpanExporter
) -> AsyncIterator[Platform]:
    memory = MemoryBus() if switches.pop("memory", False) else None
    values = {"home": tmp_path, "database_url": SecretStr(fresh_database), "log_level": "WARNING", **switches}
    settings = Settings(environment="test", trace_sample_ratio=1.0, **values)
    gateway = load_gateway(settings, load_apps(settings))
    gateway._pipeline.tracing = Tracing(settings, SimpleSpanProcessor(spans))
    for name in SERVICES:
        telemetry.provider(name, settings).add_span_processor(SimpleSpanProcessor(spans))
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(gateway.running())
        buses: dict[str, Bus] = {}
        for name in SERVICES:
            database = Database.for_service(settings, name)
            await database.open()
            stack.push_async_callback(database.close)
            buses[name] = memory or connect_bus(settings, database)
            await buses[name].start()
            stack.push_async_callback(buses[name].stop)
        transport = httpx.ASGITransport(app=gateway, client=("127.0.0.1", 50000))
        client = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1"))
        yield Platform(settings, client, buses)


def lineage(spans: tuple[ReadableSpan, ...]) -> dict[tuple[str, str], str]:
    """Every span's (service, name) with the name of its parent, or its id where the parent is not among them."""
    names = {span.context.span_id: span.name for span in spans}
    return {
        (str(span.resource.attributes["service.name"]), span.name): names.get(
            span.parent.span_id, f"{span.parent.span_id:016x}"
        )
        if span.parent
        else ""
        for span in spans
    }


async def test_one_trace_leads_from_the_request_to_its_effect(
    platform: Platform, spans: InMemorySpanExporter, fresh_database: str
) -> None:
    await platform.sign_up()
    await platform.make_contact()
    await platform.deliver()
    found = tuple(s for s in spans.get_finished_spans() if f"{s.context.trace_id:032x}" == CLIENT[3:35])
    assert lineage(found) == {
        ("gateway", "POST crm"): CLIENT[36:52],
        ("crm", "POST /v1/contacts"): "POST crm",
        ("crm", "send guardian.crm.events"): "POST /v1/contacts",
        ("audit", "process guardian.crm.events"): "POST /v1/contacts",
    }
    request, sent, processed = (
        next(span for span in found if span.name.startswith(word)) for word in ("POST /v1", "send", "process")
    )
    assert (request.start_time or 0) < (sent.start_time or 0) < (processed.start_time or 0)
    admin = await asyncpg.connect(fresh_database)
    assert await admin.fetchval(RECORDED, CLIENT[3:35]) == "contact.created"
    await admin.close()
