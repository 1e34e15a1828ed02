"""``guardian up --split`` from outside: how soon it is ready, how large its processes are, request → effect.

The effect's time is that of a notification which a trigger of the bench sends with the audit entry's
transaction: PostgreSQL delivers it after the commit, so that nothing polls and the figure errs upwards.
Requests go through the gateway one at a time, at random moments; the time counts from before the request.
"""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import orjson
import psutil

from cli.postgres import EmbeddedPostgres
from cli.progress import step
from deploy.postgres import free_port
from tests.bench.openloop import Generator, request
from tests.bench.processes import memory_mb, platform_processes
from tests.bench.report import Report, require_durable

STARTS = 3
MEAN_PAUSE_SECONDS = 0.1
WARM = 20
LATENCY_BARS = {"postgres": 15.0, "kafka": 30.0}
P99_BAR = 80.0
_EFFECT_SECONDS = 10.0
_START_SECONDS = 120.0
_STOP_SECONDS = 40.0
_SETTLE_SECONDS = 5.0
_TRIGGER = """
CREATE OR REPLACE FUNCTION audit.bench_tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  PERFORM pg_notify('bench_effect', NEW.data #>> '{contact,email}');
  RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER bench_tell AFTER INSERT ON audit.audit_logs_enhanced FOR EACH ROW
WHEN (NEW.action = 'contact.created') EXECUTE FUNCTION audit.bench_tell();
"""


def _say(text: str) -> None:
    print(f"bench-events: {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Platform:
    """A platform that is up; ``seconds`` from the command until the gateway and every service were ready."""

    process: subprocess.Popen[bytes]
    home: Path
    port: int
    seconds: float

    @property
    def api_key(self) -> str:
        """A key of the first demo organisation."""
        demo: dict[str, Any] = json.loads((self.home / "demo.json").read_text())
        return str(demo["organizations"][0]["api_key"])


@contextmanager
def _platform(home: Path, servers: str | None) -> Iterator[Platform]:
    port = free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("GUARDIAN_", "KAFKA_", "DATABASE_URL"))}
    environment |= {"GUARDIAN_HOME": str(home), "GUARDIAN_PORT": str(port), "GUARDIAN_DEMO_HISTORY": "false"}
    if servers is not None:
        environment["KAFKA_BOOTSTRAP_SERVERS"] = servers
    (home / "demo.json").unlink(missing_ok=True)
    log = home.parent / "up.log"
    begun = time.monotonic()
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "up", "--split"], env=environment, stdin=subprocess.DEVNULL,
            stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        _until_ready(process, home, port, log, begun)
        yield Platform(process, home, port, time.monotonic() - begun)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


def _until_ready(process: subprocess.Popen[bytes], home: Path, port: int, log: Path, begun: float) -> None:
    """``demo.json`` is written when the gateway and every service answer ``/readyz``."""
    while not ((home / "demo.json").exists() and _ready(port)):
        if process.poll() is not None or time.monotonic() - begun > _START_SECONDS:
            sys.exit(f"guardian up --split did not get ready:\n{log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.02)


def _ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=2).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _sizes(platform: Platform) -> dict[str, float]:
    """PSS in MB of each process of ours, by what it runs."""
    sizes: dict[str, float] = {}
    for process in platform_processes(platform.process.pid, platform.home):
        try:
            arguments = process.cmdline()
        except psutil.NoSuchProcess:
            continue
        if "-m" in arguments:
            name = " ".join(arguments[arguments.index("-m") + 1 :][:3])
            sizes[name] = max(sizes.get(name, 0.0), memory_mb([process]))
    return sizes


class Effects:
    """When the effect of a request was committed."""

    def __init__(self) -> None:
        self._waiting: dict[str, asyncio.Future[float]] = {}

    def expect(self, email: str) -> asyncio.Future[float]:
        """The moment (of the loop's clock) of the entry for a contact with this address."""
        future = asyncio.get_running_loop().create_future()
        self._waiting[email] = future
        return future

    def heard(self, _connection: Any, _pid: int, _channel: str, payload: Any) -> None:
        """A notification arrived."""
        future = self._waiting.pop(str(payload), None)
        if future is not None:
            future.set_result(asyncio.get_running_loop().time())


async def _latencies(platform: Platform, requests: int, progress: Callable[[int], None]) -> list[float]:
    dsn = EmbeddedPostgres(platform.home).running_dsn()
    assert dsn is not None
    connection = await asyncpg.connect(dsn)
    effects, generator = Effects(), Generator(platform.port, connections=1)
    headers = [("authorization", f"Bearer {platform.api_key}")]
    try:
        await require_durable(connection)
        await connection.execute(_TRIGGER)
        await connection.add_listener("bench_effect", effects.heard)
        found = []
        for number in range(WARM + requests):
            await asyncio.sleep(random.expovariate(1 / MEAN_PAUSE_SECONDS))
            found.append(await _latency(generator, effects, headers, number))
            progress(number)
        return found[WARM:]
    finally:
        await generator.close()
        await connection.close()


async def _latency(generator: Generator, effects: Effects, headers: list[tuple[str, str]], number: int) -> float:
    email = f"bench-{number}@example.com"
    body = orjson.dumps({"first_name": "Ada", "last_name": "Lovelace", "email": email, "phone": "+44 20 7946 0000"})
    raw = request("POST", "/v1/contacts", headers, body)
    effect = effects.expect(email)
    begun = asyncio.get_running_loop().time()
    result = await generator.run(lambda _: raw, 1.0, 1)
    if result.failed:
        raise SystemExit("the platform refused a contact")
    return await asyncio.wait_for(effect, _EFFECT_SECONDS) - begun


def measure(report: Report, folder: Path, bus: str, servers: str | None, *, requests: int) -> None:
    """Start the platform a few times, then measure the last one of them."""
    home = folder / "platform"
    home.mkdir(parents=True)
    folder.chmod(0o755)
    seconds: list[float] = []
    with step("First start of guardian up --split"), _platform(home, servers) as platform:
        _say(f"first start, with a new database: {platform.seconds:.1f} s")
    for number in range(STARTS):
        with _platform(home, servers) as platform:
            seconds.append(platform.seconds)
            _say(f"later start {number + 1}: {platform.seconds:.1f} s")
            if number == STARTS - 1:
                _measure_running(report, platform, bus, requests)
    report.median(f"split_{bus}_ready_s", seconds, 20, better="lower", unit="s")


def _measure_running(report: Report, platform: Platform, bus: str, requests: int) -> None:
    time.sleep(_SETTLE_SECONDS)
    with step(f"Request to effect through {bus}, unloaded") as progress:
        found = asyncio.run(_latencies(platform, requests, lambda done: progress.update(done, requests + WARM)))
    ordered = sorted(each * 1000 for each in found)
    middle, last = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)]
    spread = (ordered[0], last)
    name = f"split_{bus}_request_to_effect"
    report.bar(
        f"{name}_p50", middle, LATENCY_BARS[bus], better="lower", unit="ms", n=len(ordered), spread=spread
    )  # fmt: skip
    if bus == "postgres":
        report.bar(f"{name}_p99", last, P99_BAR, better="lower", unit="ms", n=len(ordered), spread=spread)
    _say(f"request to effect through {bus}: p50 {middle:.1f} ms, p99 {last:.1f} ms")
    sizes = _sizes(platform)
    for process, size in sorted(sizes.items(), key=lambda each: -each[1]):
        _say(f"  {size:6.1f} MB  {process}")
    report.bar(
        f"split_{bus}_largest_process_mb", max(sizes.values()), 110, better="lower", unit="MB of PSS", n=len(sizes),
        spread=(min(sizes.values()), max(sizes.values())),
    )  # fmt: skip
