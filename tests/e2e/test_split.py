"""Services apart: one process is killed, others join; nothing is lost, nothing is doubled."""

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from deploy.postgres import free_port
from tests.e2e.platform import NO_TLS, POSTGRES, ROOT, SPLIT, RunningPlatform, params, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
apart = pytest.mark.parametrize("platform", params(SPLIT), indirect=True)
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
    platform.has_one_entry_each(writing.made)


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
    platform.has_one_entry_each(made)


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


@pytest.mark.parametrize("platform", params(POSTGRES, SPLIT), indirect=True)
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
        platform.has_one_entry_each(writing.made)
    assert writing.failed == []
    events = platform.command("events", "tail", "--no-follow", "--json", "--type", "contact.created").stdout
    subjects = [json.loads(line)["subject"] for line in events.split("\n") if line]
    assert sorted(each for each in subjects if each in set(writing.made)) == sorted(writing.made), "each was sent once"
