"""``guardian up`` as a test sees it: processes of its own, talked to over HTTP and known by their demo.json."""

import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from deploy.postgres import free_port
from shared.ids import new_id

ROOT = Path(__file__).parents[2]
START_SECONDS = 60.0
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For clients of plain HTTP: reading the machine's certificates would cost each of them 20 ms."""


@dataclass(frozen=True)
class Mode:
    """A way to run the platform."""

    name: str
    kafka: bool
    split: bool


POSTGRES = Mode("postgres", kafka=False, split=False)
KAFKA = Mode("kafka", kafka=True, split=False)
SPLIT = Mode("split", kafka=True, split=True)
MODES = (POSTGRES, KAFKA, SPLIT)


def params(*modes: Mode) -> list[Any]:
    """These modes as the parameters of a fixture."""
    return [pytest.param(mode, id=mode.name, marks=[pytest.mark.kafka] if mode.kafka else []) for mode in modes]


class RunningPlatform:
    """One home. ``start`` and ``kill`` it as often as you like; the port, the data and the topics stay.

    Coverage is not measured there, so that a start takes two thirds of the time; ``tests/cli`` measures starts.
    """

    def __init__(
        self,
        home: Path,
        mode: Mode,
        kafka_servers: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.home = home
        self.mode = mode
        self.port = free_port()
        self.log = home.with_suffix(".log")
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("GUARDIAN_")},
            "GUARDIAN_HOME": str(home),
            "GUARDIAN_PORT": str(self.port),
            "GUARDIAN_DEMO_HISTORY": "false",
            **({"KAFKA_BOOTSTRAP_SERVERS": kafka_servers, "KAFKA_PREFIX": f"e2e-{new_id()}"} if mode.kafka else {}),
            **(environment or {}),
        }
        for name in ("DATABASE_URL", "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"):
            self.environment.pop(name, None)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def demo(self) -> dict[str, Any]:
        """What the platform wrote for those who look from outside."""
        loaded: dict[str, Any] = json.loads((self.home / "demo.json").read_text())
        return loaded

    def spawn(self) -> None:
        """Start the process without waiting for it."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cli.main", "up", *(["--split"] if self.mode.split else [])],
                cwd=ROOT, env=self.environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def start(self) -> None:
        """Start it and wait until it answers and has said so in demo.json."""
        self.spawn()
        assert self.process is not None
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"the platform ended with {self.process.returncode}:\n{self.tail()}")
            if self._answers():
                return
            time.sleep(0.05)
        raise AssertionError(f"the platform did not answer:\n{self.tail()}")

    def _answers(self) -> bool:
        assert self.process is not None
        try:
            return self.demo["pid"] == self.process.pid and self.get("/readyz").status_code == 200
        except (OSError, ValueError, httpx.TransportError):
            return False

    def process_of(self, service: str) -> psutil.Process:
        """The process of one service where each has its own, once it is there."""

        def found() -> psutil.Process | None:
            for each in self.processes():
                with suppress(psutil.NoSuchProcess):
                    if ["run", service] == each.cmdline()[3:5]:
                        return each
            return None

        process: psutil.Process = wait_for(found, 30)
        return process

    def processes(self) -> list[psutil.Process]:
        """Its first process and those it started."""
        assert self.process is not None
        first = psutil.Process(self.process.pid)
        return [first, *first.children(recursive=True)]

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """``guardian …`` in another terminal, which knows the home and nothing else."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GUARDIAN_")}
        return subprocess.run(
            [sys.executable, "-m", "cli.main", *arguments],
            cwd=ROOT, env=environment | {"GUARDIAN_HOME": str(self.home)}, capture_output=True, text=True, check=False,
            timeout=30,
        )  # fmt: skip

    def kill(self) -> None:
        """``kill -9`` of its first process: nothing is cleaned up, PostgreSQL goes on, the services do not."""
        assert self.process is not None
        ours = [each for each in self.processes() if "postgres" not in each.name()]
        self.process.kill()
        self.process.wait()
        wait_for(lambda: not any(is_alive(each) for each in ours))

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to stop and wait; the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout=40)

    def client(self, organization: int = 0) -> httpx.Client:
        """A client with the key of one of the demo organisations."""
        client = self.anonymous()
        client.headers["Authorization"] = f"Bearer {self.demo['organizations'][organization]['api_key']}"
        return client

    def anonymous(self) -> httpx.Client:
        """A client without a credential."""
        return httpx.Client(base_url=self.base_url, timeout=15, verify=NO_TLS, trust_env=False)

    def get(self, path: str, **options: Any) -> httpx.Response:
        """One answer to nobody in particular."""
        return httpx.get(self.base_url + path, verify=NO_TLS, trust_env=False, **options)

    def entries(self, target: str, organization: int = 0) -> list[dict[str, Any]]:
        """What the audit log has of one record, newest first."""
        with self.client(organization) as client:
            answer = client.get("/v1/audit/events", params={"target_id": target})
            answer.raise_for_status()
            found: list[dict[str, Any]] = answer.json()["data"]
            return found

    def all_of(self, path: str, **params: str) -> list[dict[str, Any]]:
        """Every row of a list, page after page."""
        rows: list[dict[str, Any]] = []
        cursor: dict[str, str] = {}
        with self.client() as client:
            while True:
                page = client.get(path, params={**params, **cursor, "limit": "200"}).json()
                rows += page["data"]
                if not page["has_more"]:
                    return rows
                cursor = {"cursor": page["next_cursor"]}

    def has_one_entry_each(self, made: Sequence[str]) -> None:
        """Waits for the audit entry of each new contact; fails when one has two."""
        wanted = set(made)
        assert len(made) == len(wanted)

        def recorded() -> list[str]:
            entries = self.all_of("/v1/audit/events", action="contact.created")
            return [target for entry in entries if (target := entry["target"]["id"]) in wanted]

        assert sorted(wait_for(lambda: len(found := recorded()) >= len(made) and found, 90)) == sorted(made)

    @property
    def said(self) -> str:
        """Its log."""
        return self.log.read_text(errors="replace")

    def tail(self) -> str:
        """The end of its log."""
        return self.said[-4000:]

    def traceback(self) -> str:
        """The first traceback of its log, and what stands before it."""
        before, found, after = self.said.partition("Traceback")
        return before[-500:] + found + after[:8000]


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs; one that nobody has reaped yet does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(condition: Any, seconds: float = 15.0) -> Any:
    """The first true value of ``condition()``; fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError("the condition did not come true in time")
