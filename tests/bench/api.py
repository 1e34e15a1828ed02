"""``make bench-api``: CPU per request through the gateway beside a plain FastAPI + ORM app, and latency under load.

Three processes on one PostgreSQL with a real disk: the gateway with the services, their workers (relays
and consumers, measured apart), and the peer. Blocks of the same open-loop load alternate between ours and
the peer; CPU is the process's own user and system time divided by the requests it answered. Then the
load on ours is raised to its knee, and latency is taken at 60 % of it.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import asyncpg
import httpx
import orjson
import psutil
from pydantic import SecretStr

from cli.demo import load as demo
from cli.home import changed, with_secret
from cli.migrate import migrate
from cli.postgres import EmbeddedPostgres
from cli.progress import step
from deploy.postgres import free_port
from shared.settings import Settings
from tests.bench.openloop import Generator, Result, request
from tests.bench.report import Report

BLOCKS = 6
BLOCK_REQUESTS = 1200
RATE = 200.0
STEP_SECONDS = 4.0
ROWS = 2_000
_BODY = orjson.dumps(
    {"first_name": "Ada", "last_name": "Lovelace", "email": "ada@example.com", "phone": "+44 20 7946 0000",
     "job_title": "Countess", "tags": ["vip", "import"]}
)  # fmt: skip
Make = Callable[[int], bytes]


class Server:
    """A server process and the load that goes to it."""

    def __init__(self, role: str, environment: dict[str, str], port: int) -> None:
        self.role = role
        self.port = port
        command = [sys.executable, "-m", "tests.bench.api_server", role]
        self.process = subprocess.Popen(command, env={**environment, "GUARDIAN_PORT": str(port)})
        self.generator = Generator(port)

    def cpu_seconds(self) -> float:
        """User and system time of the process so far."""
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system

    async def ready(self, path: str) -> None:
        """Wait until it answers anything."""
        async with httpx.AsyncClient() as client:
            for _ in range(300):
                try:
                    await client.get(f"http://127.0.0.1:{self.port}{path}")
                except httpx.TransportError:
                    await asyncio.sleep(0.1)
                else:
                    return
        raise SystemExit(f"{self.role} did not start")

    def stop(self) -> None:
        """Terminate it and wait."""
        self.process.terminate()
        self.process.wait(timeout=20)


async def _block(server: Server, make: Make) -> float:
    """Microseconds of CPU per request in one block."""
    before = server.cpu_seconds()
    result = await server.generator.run(make, RATE, BLOCK_REQUESTS)
    if result.failed:
        raise SystemExit(f"{server.role}: {result.failed} of {BLOCK_REQUESTS} requests failed")
    return (server.cpu_seconds() - before) / BLOCK_REQUESTS * 1e6


async def _compare(report: Report, name: str, bar: float, ours: tuple[Server, Make], peer: tuple[Server, Make]) -> None:
    mine: list[float] = []
    theirs: list[float] = []
    await _block(*ours)
    await _block(*peer)
    for block in range(BLOCKS):
        order = [(ours, mine), (peer, theirs)]
        for (server, make), times in order if block % 2 == 0 else reversed(order):
            times.append(await _block(server, make))
    ratios = [a / b for a, b in zip(mine, theirs, strict=True)]
    report.bar(
        name, statistics.median(ratios), bar, better="lower", unit="x CPU of the peer", n=BLOCKS * BLOCK_REQUESTS,
        spread=[min(ratios), max(ratios)], peer="FastAPI + SQLAlchemy ORM, microseconds of CPU a request",
        peer_value=statistics.median(theirs),
    )  # fmt: skip


async def _knee(server: Server, make: Make) -> float:
    """The highest rate whose answers keep up (>= 97 % of it within its time, p95 <= 250 ms)."""
    rate, best = 200.0, 200.0
    with step("Looking for the knee") as progress:
        while rate < 10_000:
            result = await server.generator.run(make, rate, int(rate * STEP_SECONDS))
            progress.update(note=f"{rate:.0f}/s offered, {result.rate:.0f}/s answered")
            if result.rate < 0.97 * rate or result.quantile(0.95) > 0.25 or result.failed:
                return best
            best, rate = rate, rate * 1.2
    return best


def _mixed(read: Make, get: Make, write: Make) -> Make:
    def make(number: int) -> bytes:
        return (read, get, read, write, get, read, get, write, read, get)[number % 10](number)

    return make


async def _run(settings: Settings) -> int:
    await migrate(settings)
    connection = await asyncpg.connect(settings.database_url.get_secret_value())  # type: ignore[union-attr]
    for name in ("fsync", "full_page_writes", "synchronous_commit"):
        if await connection.fetchval(f"SHOW {name}") != "on":
            raise SystemExit(f"{name} is off; figures from such a server say nothing")
    await connection.close()
    first, _ = await demo.organizations(settings)
    servers = _start(settings, str(first.id))
    try:
        return await _measure(servers, first)
    finally:
        for server in servers.values():
            server.stop()


def _start(settings: Settings, organization_id: str) -> dict[str, Server]:
    dsn = settings.database_url.get_secret_value()  # type: ignore[union-attr]
    environment = {
        **os.environ,
        "DATABASE_URL": dsn,
        "GUARDIAN_SECRET_KEY": settings.secret_key.get_secret_value(),
        "GUARDIAN_HOME": str(settings.home),
        "GUARDIAN_LOG_LEVEL": "WARNING",
        "BENCH_DSN": dsn.replace("postgresql://", "postgresql+asyncpg://"),
        "BENCH_ORGANIZATION": organization_id,
    }
    return {role: Server(role, environment, free_port()) for role in ("ours", "workers", "peer")}


async def _measure(servers: dict[str, Server], organization: demo.DemoOrganization) -> int:
    ours, peer = servers["ours"], servers["peer"]
    await ours.ready("/livez")
    await peer.ready("/openapi.json")
    key = [("authorization", f"Bearer {organization.api_key}")]
    contact = await _seed(ours, key[0][1])

    def requests(headers: list[tuple[str, str]]) -> dict[str, Make]:
        raw = {
            "list": request("GET", "/v1/contacts?limit=50", headers),
            "get": request("GET", f"/v1/contacts/{contact}", headers),
            "write": request("POST", "/v1/contacts", headers, _BODY),
        }
        return {name: lambda _number, text=text: text for name, text in raw.items()}  # type: ignore[misc]

    mine, theirs, report = requests(key), requests([]), Report("api")
    for name, bar in (("list", 1.3), ("get", 1.3), ("write", 1.6)):
        with step(f"Comparing {name}"):
            await _compare(report, f"{name}_cpu_ratio", bar, (ours, mine[name]), (peer, theirs[name]))
    mixed = _mixed(mine["list"], mine["get"], mine["write"])
    knee = await _knee(ours, mixed)
    with step(f"Latency at 60 % of the knee ({knee:.0f}/s)"):
        result = await ours.generator.run(mixed, 0.6 * knee, int(0.6 * knee * 20))
    _report_latency(report, result, knee)
    return report.finish()


def _report_latency(report: Report, result: Result, knee: float) -> None:
    median = result.quantile(0.5) * 1000
    report.bar(
        "p95_at_60_percent_of_knee", result.quantile(0.95) * 1000, 50, better="lower", unit="ms",
        n=len(result.latencies), spread=[round(median, 2), round(result.quantile(0.99) * 1000, 2)],
        peer="the knee, requests per second", peer_value=knee,
    )  # fmt: skip


async def _seed(ours: Server, authorization: str) -> str:
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{ours.port}", headers={"authorization": authorization}, timeout=30
    ) as client:
        item = orjson.loads(_BODY)
        identifier = ""
        for _ in range(ROWS // 200):
            made = await client.post("/v1/contacts/bulk", json={"items": [item] * 200})
            made.raise_for_status()
            identifier = made.json()["data"][0]["id"]
        return identifier


def main() -> int:
    """Run the bench; 1 when a bar does not hold."""
    with tempfile.TemporaryDirectory(prefix="guardian-bench-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        with EmbeddedPostgres(Path(folder) / "home") as postgres:
            settings = with_secret(Settings(home=Path(folder) / "home"))
            return asyncio.run(_run(changed(settings, database_url=SecretStr(postgres.dsn))))


if __name__ == "__main__":
    raise SystemExit(main())
