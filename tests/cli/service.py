"""``guardian run`` as a test sees it: one process of one service, talked to as the gateway and health do."""

import os
import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from deploy.postgres import free_port
from shared.auth import IdentitySigner, Principal
from shared.ids import NIL, new_id
from shared.settings import Settings

ROOT = Path(__file__).parents[2]
START_SECONDS = 45.0
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # reading the machine's certificates costs 20 ms a call


class RunningService:
    """One process. As a context manager it is killed at the end if it has not ended."""

    def __init__(self, name: str, folder: Path, *arguments: str, **environment: str) -> None:
        self.name = name
        self.port = free_port()
        self.log = folder / f"{name}-{self.port}.log"
        self._settings = Settings(environment="test")
        kept = {key: value for key, value in os.environ.items() if not key.startswith("GUARDIAN_")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cli.main", "run", name, *arguments],
                cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                env={
                    **kept, "GUARDIAN_ENVIRONMENT": "test", "GUARDIAN_HOME": str(folder / "home"),
                    "GUARDIAN_PORT": str(self.port), **environment,
                },
            )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> int:
        """The status of an answer; 0 while nobody answers."""
        try:
            return httpx.get(self.url + path, timeout=5, verify=_NO_TLS).status_code
        except httpx.TransportError:
            return 0

    def until(self, condition: Any, seconds: float = START_SECONDS) -> Any:
        """The first true value of ``condition()``."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if value := condition():
                return value
            time.sleep(0.05)
        raise AssertionError(f"it did not happen:\n{self.said}")

    def until_ready(self) -> None:
        self.until(lambda: self.get("/readyz") == 200)

    def call(
        self, method: str, path: str, principal: Principal, *, caller: str = "gateway", **body: Any
    ) -> httpx.Response:
        """One call with an identity signed by ``caller``."""
        identity = IdentitySigner(self._settings.derive_key, caller).sign(principal, self.name, time.time())
        return httpx.request(
            method,
            self.url + path,
            json=body or None,
            headers={"guardian-identity": identity.decode()},
            timeout=15,
            verify=_NO_TLS,
        )

    def status(self) -> dict[str, Any]:
        """What it tells health."""
        monitor = Principal(NIL, "service", "health", request_id=str(new_id()))
        found: dict[str, Any] = self.call("GET", "/internal/status", monitor, caller="monitor").json()
        return found

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)

    @property
    def said(self) -> str:
        """Its log."""
        return self.log.read_text(errors="replace")
