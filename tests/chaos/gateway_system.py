"""What a gateway run breaks: a PostgreSQL of its own, a process for each service, two gateways, proxies between them.

Sockets are held here, as ``guardian up --split`` holds them: who calls a process that is being started again waits.
"""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import psutil
from pydantic import SecretStr

from cli.demo import load as demo
from cli.home import changed, with_secret
from cli.postgres import EmbeddedPostgres
from cli.start import BACKLOG, bind
from cli.system import SERVICES
from shared.settings import Settings
from tests.bench import gateway_system as bench
from tests.bench.events_system import environment
from tests.bench.gateway_load import Caller
from tests.chaos.faultproxy import Proxy
from tests.chaos.gateway_client import Client, plain
from tests.chaos.gateway_history import Look
from tests.chaos.gateway_mutants import MUTANTS
from tests.chaos.gateway_schedule import GATEWAYS

STARTED = ("identity", "crm", "ratelimit", "health")
"""The audit service reads events and answers nobody here: its share of two cores goes to the others."""
_START_SECONDS = 60.0
_STOP_SECONDS = 20.0
_LOOK_SECONDS = 0.05
_ROWS = "SELECT last_name, count(*) FROM crm.contacts WHERE starts_with(last_name, 'chaos-') GROUP BY last_name"
_SERIES = re.compile(r"^(\w+)(?:\{([^}]*)\})? ([0-9.e+-]+)$", re.MULTILINE)
Say = Callable[[str], None]


@dataclass
class Member:
    """One process, as it runs now; ``port`` stays."""

    name: str
    service: str
    listener: socket.socket
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid


class System:
    """Use ``running``. ``signs`` must sign, ``plain`` need not; both may call as often as they like."""

    plain: Caller
    signs: Caller
    owner: demo.DemoOrganization

    def __init__(self, folder: Path, seed: int, *, mutant: str = "") -> None:
        self.folder = folder
        self.database = EmbeddedPostgres(folder / "home")
        self.proxies: list[Proxy] = []
        self.looks: list[Look] = []
        self._seed = seed
        self._mutant = mutant
        self._settings: Settings | None = None
        self._members: dict[str, Member] = {}
        self._direct = False

    def __getitem__(self, name: str) -> Member:
        return self._members[name]

    @property
    def gateways(self) -> list[Member]:
        return [self._members[f"gateway-{number}"] for number in range(GATEWAYS)]

    @property
    def ports(self) -> list[int]:
        """Where the gateways are."""
        return [each.port for each in self.gateways]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Everything there is, from its start to its end."""
        async with AsyncExitStack() as stack:
            await asyncio.to_thread(self.database.start)
            stack.callback(self.database.stop)
            home = self.folder / "home"
            settings = with_secret(Settings(home=home, log_level="ERROR", kafka_bootstrap_servers=None))
            self._settings = changed(settings, database_url=SecretStr(self.database.dsn))
            self.plain, self.signs = await bench.prepare(self._settings)
            self.owner, _ = await demo.organizations(self._settings)
            for name in (*STARTED, *(f"gateway-{number}" for number in range(GATEWAYS))):
                listener = stack.enter_context(bind("127.0.0.1", 0))
                listener.listen(BACKLOG)
                self._members[name] = Member(name, name.partition("-")[0], listener)
            for number in range(GATEWAYS):
                proxy = Proxy(f"{number}", ("127.0.0.1", self["crm"].port), seed=self._seed)
                self.proxies.append(await stack.enter_async_context(proxy))
            stack.callback(self._end)
            for member in self._members.values():
                self.start(member)
            for member in self._members.values():
                await self.until_up(member)
            yield

    async def without_proxies(self) -> None:
        """Start the gateways again, right before crm and for many clients: nothing of ours may be what is measured."""
        self._direct = True
        for member in self.gateways:
            assert member.process is not None
            member.process.terminate()
        for member in self.gateways:
            assert member.process is not None
            await asyncio.to_thread(member.process.wait, _STOP_SECONDS)
            self.start(member)
        for member in self.gateways:
            await self.until_up(member)

    def start(self, member: Member) -> None:
        """Run it (again)."""
        assert self._settings is not None
        words = ["run", member.service, "--fd", str(member.listener.fileno())]
        mutant = self._mutant and MUTANTS[self._mutant][0] == member.service
        module = ["tests.chaos.gateway_mutants", self._mutant] if mutant else ["cli.main"]
        with (self.folder / f"{member.name}.log").open("ab") as output:
            member.process = subprocess.Popen(
                [sys.executable, "-m", *module, *words], env=self._environment(member),
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                pass_fds=[member.listener.fileno()],
            )  # fmt: skip

    def _environment(self, member: Member) -> dict[str, str]:
        assert self._settings is not None
        upstreams = {name: f"http://127.0.0.1:{self[name].port}" for name in STARTED}
        if member.service == "gateway":
            # Nobody calls what is not started; the gateway only wants to know where it would be.
            upstreams |= {each.name: "http://127.0.0.1:9" for each in SERVICES if each.name not in upstreams}
            if not self._direct:
                way = self.proxies[int(member.name.partition("-")[2])]
                upstreams["crm"] = f"http://127.0.0.1:{way.port}"
        more: Mapping[str, str] = {
            "GUARDIAN_UPSTREAMS": json.dumps(upstreams), "GUARDIAN_PORT": str(member.port),
            # All clients have one address here.
            "GUARDIAN_CONNECTIONS_PER_ADDRESS": "4000",
        }  # fmt: skip
        return environment(self._settings, **more)

    async def until_up(self, member: Member) -> None:
        """Wait until it answers; raises when it ends by itself or takes too long."""
        deadline = time.monotonic() + _START_SECONDS
        client = Client(member.port)
        while True:
            if member.process is None or member.process.poll() is not None:
                raise RuntimeError(f"{member.name} ended by itself; see {self.folder}/{member.name}.log")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{member.name} takes too long to start")
            if (await client.ask(plain("GET", "/livez"))).status == 200:
                client.close()
                return
            await asyncio.sleep(_LOOK_SECONDS)

    def processes(self) -> list[psutil.Process]:
        """Every process of it that runs now."""
        found = [psutil.Process(member.pid) for member in self._members.values()]
        if self.database.pid is not None:
            server = psutil.Process(self.database.pid)
            found += [server, *server.children()]
        return found

    async def rows(self) -> dict[str, int]:
        """How often each contact of the run is in the database, past the API."""
        connection = await asyncpg.connect(self.database.dsn)
        try:
            return {each["last_name"]: each["count"] for each in await connection.fetch(_ROWS)}
        finally:
            await connection.close()

    async def look(self, number: int) -> None:
        """Note a gateway's own figures, unless it does not answer."""
        member = self.gateways[number]
        pid = member.pid
        with suppress(OSError, EOFError, TimeoutError):
            async with asyncio.timeout(1):
                reader, writer = await asyncio.open_connection("127.0.0.1", member.port)
                writer.write(b"GET /metrics HTTP/1.1\r\nhost: chaos.test\r\nconnection: close\r\n\r\n")
                text = (await reader.read(-1)).decode()
                writer.close()
            self.looks += _looks(f"{member.name} ({pid})", text)

    def _end(self) -> None:
        for member in self._members.values():
            if member.process is not None and member.process.poll() is None:
                with suppress(ProcessLookupError):
                    os.kill(member.pid, signal.SIGCONT)
                member.process.terminate()
        for member in self._members.values():
            if member.process is not None:
                try:
                    member.process.wait(_STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    member.process.kill()
                    member.process.wait()


def _looks(name: str, text: str) -> list[Look]:
    """Requests to each service, those that are still under way included, beside how many were tried again."""
    requests: dict[str, float] = {}
    retries: dict[str, float] = {}
    under_way = 0.0
    for series, labels, value in _SERIES.findall(text):
        found = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if series == "guardian_gateway_requests_total":
            requests[found["service"]] = requests.get(found["service"], 0) + float(value)
        elif series == "guardian_gateway_guard" and found["state"] == "retries":
            retries[found["service"]] = float(value)
        elif series == "guardian_gateway_in_flight":
            under_way = float(value)
    return [Look(name, service, requests.get(service, 0) + under_way, spent) for service, spent in retries.items()]
