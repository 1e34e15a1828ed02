"""The platform's gateway as ``make bench-gateway`` runs it: a process of its own, over one upstream, with real keys."""

import asyncio
import json
import sys
from uuid import UUID

import asyncpg
import httpx

from cli.demo import load as demo
from cli.hosting import load_apps, load_gateway
from cli.migrate import migrate
from cli.system import SERVICES
from deploy.postgres import free_port
from shared.settings import Settings
from shared.signing.keys import SharedSecret
from tests.bench.events_system import environment
from tests.bench.gateway_load import Caller
from tests.bench.gateway_peers import Peer
from tests.bench.limiter_rounds import limit_organization
from tests.bench.report import require_durable

_ENOUGH = 10**12


async def prepare(settings: Settings) -> tuple[Caller, Caller]:
    """Tables, and two API keys under one limit that is never reached: one that need not sign, and one that must."""
    await migrate(settings)
    assert settings.database_url is not None
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    try:
        await require_durable(connection)
        organization, _ = await demo.organizations(settings)
        callers = await _callers(settings, organization.api_key)
        await limit_organization(connection, UUID(str(organization.id)), "minute", _ENOUGH)
    finally:
        await connection.close()
    return callers


async def _callers(settings: Settings, key: str) -> tuple[Caller, Caller]:
    gateway = load_gateway(settings, load_apps(settings))
    transport = httpx.ASGITransport(gateway)
    headers = {"authorization": f"Bearer {key}"}
    async with (
        gateway.running(),
        httpx.AsyncClient(transport=transport, base_url="http://bench", headers=headers) as ask,
    ):
        made = []
        for name in ("plain", "signs"):
            body = {"name": name, "scopes": ["contacts:read", "contacts:write"]}
            made.append((await ask.post("/v1/api-keys", json=body)).raise_for_status().json())
        path = f"/v1/api-keys/{made[1]['id']}"
        secret = (await ask.post(f"{path}/signing-keys", json={})).raise_for_status().json()
        (await ask.patch(path, json={"signature_policy": "v1"})).raise_for_status()
    return Caller(made[0]["key"]), Caller(made[1]["key"], SharedSecret(secret["id"], secret["secret"].encode()))


def gateway(settings: Settings, target: int, **more: str) -> Peer:
    """One process of the gateway; every service is at ``target``."""
    port = free_port()
    upstreams = json.dumps({service.name: f"http://127.0.0.1:{target}" for service in SERVICES})
    started = environment(settings, GUARDIAN_PORT=str(port), GUARDIAN_UPSTREAMS=upstreams, **more)
    return Peer("guardian", [sys.executable, "-m", "cli.main", "run", "gateway"], port, started).ready()


def prepared(settings: Settings) -> tuple[Caller, Caller]:
    """``prepare``, to its end."""
    return asyncio.run(prepare(settings))
