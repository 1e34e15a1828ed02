"""Services apart: one process is killed, others join, a broker comes late; nothing is lost, nothing is doubled."""

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from deploy.kafka.broker import Broker
from deploy.kafka.protocol import choose_port
from deploy.postgres import free_port
from tests.e2e.platform import KAFKA, NO_TLS, POSTGRES, ROOT, SPLIT, RunningPlatform, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.kafka, pytest.mark.timeout(300)]
apart = pytest.mark.parametrize("platform", [pytest.param(SPLIT, id="split")], indirect=True)
WRITERS = 4


class _Callers:
    """Threads that call until told to stop, and keep what was answered."""

    def __init__(self, platform: RunningPlatform, method: str, path: str, body: dict[str, Any] | None = None) -> None:
        self.made: list[str] = []
        self.failed: list[str] = []
        self.answers = 0
        self._ask = (method, path, body)
        self._platform = platform
        self._enough = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(WRITERS)]
        for thread in self._threads:
            thread.start()

    def until_answered(self, more: int) -> None:
        wanted = self.answers + more
        wait_for(lambda: self.answers >= wanted, 60)

    def stop(self) -> None:
        self._enough.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        method, path, body = self._ask
        with self._platform.client() as client:
            client.timeout = 60
            while not self._enough.is_set():
                try:
                    answer = client.request(method, path, json=body)
                except httpx.TransportError as error:
                    self.failed.append(repr(error))
                    continue
                if answer.is_success:
                    self.answers += 1
                    self.made.append(answer.json().get("id", ""))
                else:
                    self.failed.append(f"{answer.status_code} {answer.text}")


@contextlib.contextmanager
def _calling(platform: RunningPlatform, *ask: Any) -> Iterator[_Callers]:
    callers = _Callers(platform, *ask)
    try:
        yield callers
    finally:
        callers.stop()


def _audited(platform: RunningPlatform, action: str = "contact.created") -> list[str]:
    found: list[str] = []
    cursor: dict[str, str] = {}
    with platform.client() as client:
        while True:
            page = client.get("/v1/audit/events", params={"action": action, "limit": "200", **cursor}).json()
            found += [entry["target"]["id"] for entry in page["data"]]
            if not page["has_more"]:
                return found
            cursor = {"cursor": page["next_cursor"]}


def _each_has_one_entry(platform: RunningPlatform, made: list[str]) -> None:
    assert len(made) == len(set(made))
    wait_for(lambda: set(made) <= set(_audited(platform)), 90)
    found = [each for each in _audited(platform) if each in set(made)]
    assert sorted(found) == sorted(made), "each has exactly one entry"


@apart
def test_a_killed_service_fails_only_what_it_was_answering(platform: RunningPlatform) -> None:
    kills, before = 3, platform.said
    with (
        _calling(platform, "POST", "/v1/contacts", {"first_name": "Ada"}) as writing,
        _calling(platform, "GET", "/v1/organization") as reading,
    ):
        for _ in range(kills):
            writing.until_answered(40)
            killed = platform.process_of("crm")
            killed.kill()
            reading.until_answered(40)
            wait_for(lambda killed=killed: platform.process_of("crm").pid != killed.pid, 30)
            writing.until_answered(40)
    assert reading.failed == []
    assert len(writing.failed) <= kills * WRITERS, writing.failed
    assert platform.said.count("process_died") - before.count("process_died") == kills
    wait_for(lambda: platform.said.count("process_back") - before.count("process_back") == kills)
    _each_has_one_entry(platform, writing.made)


@apart
def test_every_process_comes_back(platform: RunningPlatform) -> None:
    before = {name: platform.process_of(name) for name in ("gateway", "identity", "audit", "health")}
    for process in before.values():
        process.kill()
    for name, process in before.items():
        wait_for(lambda name=name, process=process: platform.process_of(name).pid != process.pid, 60)
    with platform.client() as client:
        client.timeout = 60
        made = [client.post("/v1/contacts", json={"first_name": "Ada"}).json()["id"]]
        wait_for(lambda: client.get("/v1/health").json()["status"] == "ok", 60)
    _each_has_one_entry(platform, made)


@contextlib.contextmanager
def _beside(platform: RunningPlatform, service: str, number: int) -> Iterator[subprocess.Popen[bytes]]:
    """One more worker of a service, started in another terminal, where only the home and the bus are known."""
    environment = {name: value for name, value in platform.environment.items() if not name.startswith("GUARDIAN_")}
    port = free_port()
    log = platform.home.with_name(f"{service}-{number}.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "cli.main", "run", service, "--role", "worker"],
        cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        env=environment | {"GUARDIAN_HOME": str(platform.home), "GUARDIAN_PORT": str(port)},
    )  # fmt: skip
    try:
        wait_for(lambda: _is_ready(port), 60)
        yield process
    finally:
        process.kill()
        process.wait()
        log.close()


def _is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", verify=NO_TLS).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("platform", [pytest.param(mode, id=mode.name) for mode in (POSTGRES, SPLIT)], indirect=True)
def test_more_workers_of_a_service_double_nothing(platform: RunningPlatform) -> None:
    with (
        _beside(platform, "crm", 1) as first,
        _beside(platform, "crm", 2),
        _beside(platform, "audit", 1) as recording,
        _calling(platform, "POST", "/v1/contacts", {"first_name": "Ada"}) as writing,
    ):
        writing.until_answered(100)
        # Whoever has the lease and the partitions now, others take over: from one that drains, from one that dies.
        first.terminate()
        assert first.wait(timeout=30) == 0
        writing.until_answered(100)
        recording.kill()
        writing.until_answered(100)
        writing.stop()
        _each_has_one_entry(platform, writing.made)
    assert writing.failed == []
    events = platform.command("events", "tail", "--no-follow", "--json", "--type", "contact.created").stdout
    subjects = [json.loads(line)["subject"] for line in events.splitlines()]
    assert sorted(each for each in subjects if each in set(writing.made)) == sorted(writing.made), "each was sent once"


def _bus(platform: RunningPlatform) -> dict[str, Any]:
    with platform.client() as client:
        found: dict[str, Any] = client.get("/v1/health").json()["details"]["bus"]
        return found


@pytest.mark.parametrize("own_platform", [pytest.param(mode, id=mode.name) for mode in (KAFKA, SPLIT)], indirect=True)
def test_a_broker_that_comes_late(own_platform: RunningPlatform) -> None:
    servers = f"127.0.0.1:{choose_port()}"
    own_platform.environment["KAFKA_BOOTSTRAP_SERVERS"] = servers
    own_platform.start()
    with own_platform.client() as client:
        made = [client.post("/v1/contacts", json={"first_name": "Ada"}).json()["id"] for _ in range(20)]
    found = wait_for(lambda: (seen := _bus(own_platform))["status"] == "down" and seen, 30)
    assert servers in found["error"]
    assert "KAFKA_BOOTSTRAP_SERVERS" in found["action"]
    processes = 3 if own_platform.mode.split else 1
    assert own_platform.said.count("bus_away") == processes, "each process says it once"
    assert "Traceback" not in own_platform.said
    broker = Broker(own_platform.home.with_name("broker"), int(servers.rpartition(":")[2]))
    try:
        broker.start()
        _each_has_one_entry(own_platform, made)
        wait_for(lambda: _bus(own_platform)["status"] == "ok", 60)
        assert own_platform.said.count("bus_back") == processes
        assert own_platform.stop() == 0
    finally:
        broker.kill()
