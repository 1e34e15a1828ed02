"""A platform to break: ``guardian up --split``, second workers and witnesses beside it, its database and its broker.

Every process has a name (``crm``, ``crm.worker``, ``witness``, ``supervisor``, ``postgres``, ``kafka``) and can be
found by it whenever it has been started again. Whatever is ours and dies is started again by ``keep``.
"""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx
import psutil
from pydantic import SecretStr

from cli.home import with_secret
from cli.postgres import EmbeddedPostgres
from cli.watch import watching
from deploy.kafka import Broker
from deploy.postgres import Account, free_port, read_postmaster
from shared.settings import Settings
from tests.chaos.faultproxy import Proxy
from tests.chaos.schedule import Schedule

ROOT = Path(__file__).parents[2]
START_SECONDS = 90.0
WITNESSES = 2
_LOOK_SECONDS = 0.1


class ProxiedBroker(Broker):
    """A broker that sends its clients to a proxy in front of it."""

    def __init__(self, folder: Path, proxy: Proxy) -> None:
        super().__init__(folder)
        self.proxy = proxy

    def _configure(self) -> Path:
        path = super()._configure()
        line = f"advertised.listeners=CLIENT://127.0.0.1:{self.proxy.port}"
        lines = [each for each in path.read_text().splitlines() if not each.startswith("advertised.listeners=")]
        path.write_text("\n".join([*lines, line, ""]))
        return path


@asynccontextmanager
async def broker_in(folder: Path) -> AsyncIterator[ProxiedBroker]:
    """A running broker behind a proxy."""
    async with Proxy("kafka", ("127.0.0.1", 0)) as proxy:
        broker = ProxiedBroker(folder, proxy)
        proxy.upstream = ("127.0.0.1", broker.port)
        await asyncio.to_thread(broker.start)
        try:
            yield broker
        finally:
            await asyncio.to_thread(broker.stop)


class Platform:
    """One platform in ``folder``; use ``running``."""

    def __init__(self, folder: Path, schedule: Schedule, broker: ProxiedBroker | None) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.plan = folder / "plan.json"
        self.broker = broker
        self.port = free_port()
        self.links: dict[str, Proxy] = {"kafka": broker.proxy} if broker else {}
        self._schedule = schedule
        self._proxied = schedule.profile == "network"
        self._database = EmbeddedPostgres(folder / "database" if self._proxied else self.home)
        self._environment = {name: value for name, value in os.environ.items() if not _ours(name)}
        self._environment |= {
            "GUARDIAN_HOME": str(self.home),
            "GUARDIAN_PORT": str(self.port),
            "GUARDIAN_DEMO_HISTORY": "false",
            "GUARDIAN_BUGGIFY": str(self.plan),
        }
        if broker is not None:
            self._environment["KAFKA_BOOTSTRAP_SERVERS"] = f"127.0.0.1:{broker.proxy.port}"
            self._environment["KAFKA_PREFIX"] = f"chaos-{schedule.seed}-{os.getpid()}"
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._beside: list[tuple[str, list[str], subprocess.Popen[bytes]]] = []

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def demo(self) -> dict[str, Any]:
        """What the platform tells those who look from outside."""
        loaded: dict[str, Any] = json.loads((self.home / "demo.json").read_text())
        return loaded

    @property
    def dsn(self) -> str:
        """The administrator's DSN, past any proxy."""
        return self._database.dsn

    @property
    def settings(self) -> Settings:
        """Settings for looking at it from this process, past any proxy to the database."""
        values: dict[str, Any] = {"home": self.home, "database_url": SecretStr(self.dsn)}
        if self.broker is not None:
            values["kafka_bootstrap_servers"] = self._environment["KAFKA_BOOTSTRAP_SERVERS"]
            values["kafka_prefix"] = self._environment["KAFKA_PREFIX"]
        return with_secret(Settings(log_level="ERROR", **values))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The platform itself, from its start to its stop; second workers and witnesses come with ``accompany``."""
        async with AsyncExitStack() as stack:
            if self._proxied:
                await asyncio.to_thread(self._database.start)
                stack.callback(self._database.stop)
                await stack.enter_async_context(watching(self._database))
                parts = urlsplit(self._database.dsn)
                proxy = Proxy("postgres", ("127.0.0.1", parts.port or 0), seed=self._schedule.seed)
                self.links["postgres"] = await stack.enter_async_context(proxy)
                netloc = f"{parts.netloc.rpartition(':')[0]}:{proxy.port}"
                self._environment["DATABASE_URL"] = urlunsplit(parts._replace(netloc=netloc))
            stack.callback(self._end)
            self._start_supervisor()
            await self._until_ready()
            yield
            await asyncio.to_thread(self.stop)

    def accompany(self) -> None:
        """Start the second workers and the witnesses."""
        for service in self._schedule.workers:
            self._spawn(f"{service}.worker", ["cli.main", "run", service, "--role", "worker"])
        for _ in range(WITNESSES):
            self._spawn("witness", ["tests.chaos.witness"])

    async def accompanied(self) -> None:
        """Wait until they have begun: every process that has kill points says so in the log of its plan."""
        log = self.plan.with_name(f"{self.plan.name}.log")
        wanted = {str(process.pid) for _, _, process in self._beside}
        while not wanted <= set(re.findall(r'"started":"[^"]+","pid":(\d+)', log.read_text())):  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_SECONDS)

    async def keep(self) -> None:
        """Start again whatever of ours dies, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if self._supervisor is not None and self._supervisor.poll() is not None:
                self._start_supervisor()
            for number, (name, arguments, process) in enumerate(self._beside):
                if process.poll() is not None:
                    self._beside[number] = (name, arguments, self._run(arguments, name))

    def find(self, name: str) -> list[psutil.Process]:
        """The living processes of a name."""
        pids: list[int] = []
        if name == "postgres":
            found = read_postmaster(self._database.home / "postgres" / "data")
            pids = [found.pid] if found is not None else []
        elif name == "kafka":
            broker = self.broker.running() if self.broker else None
            pids = [broker.pid] if broker is not None else []
        elif name == "supervisor":
            pids = [self._supervisor.pid] if self._supervisor is not None and self._supervisor.poll() is None else []
        elif any(each == name for each, _, _ in self._beside):
            pids = [process.pid for each, _, process in self._beside if each == name and process.poll() is None]
        elif self._supervisor is not None:
            return _children(self._supervisor.pid, name)
        return [process for pid in pids if (process := _process(pid)) is not None]

    def stop(self) -> None:
        """Stop everything in an orderly way; raises when the platform does not end well."""
        for _, _, process in self._beside:
            process.terminate()
        for _, _, process in self._beside:
            process.wait(30)
        self._beside.clear()
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            supervisor.send_signal(signal.SIGTERM)
            if supervisor.wait(60) != 0:
                raise RuntimeError(f"the platform ended with {supervisor.returncode}; see {self.folder}/platform.log")

    def _end(self) -> None:
        for process in [process for _, _, process in self._beside] + ([self._supervisor] if self._supervisor else []):
            with suppress(ProcessLookupError):
                process.kill()
                process.wait()
        if not self._proxied and (left := read_postmaster(self.home / "postgres" / "data")) is not None:
            os.kill(left.pid, signal.SIGQUIT)

    def _start_supervisor(self) -> None:
        self._supervisor = self._run(["cli.main", "up", "--split"], "platform")

    def _spawn(self, name: str, arguments: list[str]) -> None:
        self._beside.append((name, arguments, self._run(arguments, name)))

    def _run(self, arguments: list[str], log: str) -> "subprocess.Popen[bytes]":
        environment = dict(self._environment)
        if log != "platform":
            # Second workers answer probes on a port of their own; only the platform brings its database along.
            environment |= {"GUARDIAN_PORT": str(free_port())}
            environment.setdefault("DATABASE_URL", self.dsn)
            environment["GUARDIAN_SECRET_KEY"] = self.settings.secret_key.get_secret_value()
        command = Account().command([sys.executable, "-m", *arguments], cwd=ROOT, die_with_parent=signal.SIGKILL)
        with (self.folder / f"{log}.log").open("ab") as output:
            return subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip

    async def _until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        async with httpx.AsyncClient(base_url=self.base_url, trust_env=False) as client:
            while time.monotonic() < deadline:
                if self._supervisor is None or self._supervisor.poll() is not None:
                    break
                with suppress(OSError, ValueError, httpx.TransportError):
                    if self.demo["pid"] == self._supervisor.pid and (await client.get("/readyz")).status_code == 200:
                        return
                await asyncio.sleep(0.1)
        raise RuntimeError(f"the platform did not start: {(self.folder / 'platform.log').read_text()[-3000:]}")


def _ours(name: str) -> bool:
    return name.startswith(("GUARDIAN_", "KAFKA_")) or name == "DATABASE_URL"


def _process(pid: int) -> psutil.Process | None:
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def _children(supervisor: int, service: str) -> list[psutil.Process]:
    found = []
    with suppress(psutil.Error):
        for child in psutil.Process(supervisor).children():
            with suppress(psutil.Error):
                line = child.cmdline()
                # Not the wrapper that is about to become it: a signal it gets before that kills no service.
                if "run" in line[:-1] and line[line.index("run") + 1] == service and "cli.main" in line[1:4]:
                    found.append(child)
    return found
