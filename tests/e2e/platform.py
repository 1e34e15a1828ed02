"""``guardian up`` as a test sees it: a process of its own, talked to over HTTP and known by its demo.json."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from deploy.postgres import free_port

ROOT = Path(__file__).parents[2]
START_SECONDS = 60.0


class RunningPlatform:
    """One home. ``start`` and ``kill`` it as often as you like; the port and the data stay."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.home = home
        self.port = free_port()
        self.log = home.with_suffix(".log")
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("GUARDIAN_")},
            "GUARDIAN_HOME": str(home),
            "GUARDIAN_PORT": str(self.port),
            **environment,
        }
        self._environment.pop("DATABASE_URL", None)
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
                [sys.executable, "-m", "cli.main", "up"],
                cwd=ROOT, env=self._environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
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
            return self.demo["pid"] == self.process.pid and httpx.get(f"{self.base_url}/readyz").status_code == 200
        except (OSError, ValueError, httpx.TransportError):
            return False

    def kill(self) -> None:
        """``kill -9``: nothing is cleaned up, PostgreSQL goes on."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to stop and wait; the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout=40)

    def client(self, organization: int = 0) -> httpx.Client:
        """A client with the key of one of the demo organisations."""
        key = self.demo["organizations"][organization]["api_key"]
        return httpx.Client(base_url=self.base_url, headers={"Authorization": f"Bearer {key}"}, timeout=15)

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-4000:]


def wait_for(condition: Any, seconds: float = 15.0) -> Any:
    """The first true value of ``condition()``; fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError("the condition did not come true in time")
